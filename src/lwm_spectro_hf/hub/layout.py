"""The layout of a published LWM checkpoint: keys, shapes, and the matching names in this package."""

import math
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration_lwm_spectro import LwmSpectroConfig
from .foreign import ConversionError, StateDict, check_tensors

# Published constants that cannot be inferred from the tensors.
PUBLISHED = {
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "norm_type": "unbiased_std",
    "use_embedding_norm": True,
    "mask_ratio": 0.6,
    "mask_strategy": "token",
    "mask_token_value": 0.1,
    "reconstruction_target": "patches",
    "temperature": 0.07,
}
CLS_TOKEN_VALUE = 0.2
PATCH_SIZE = 4
ROUTER_CHANNELS = (1, 32, 64, 96, 128)
ROUTER_KERNELS = (5, 3, 3, 3)
ROUTER_PREFIX = "lwm_spectro_moe.router."


def infer_config(
    state: StateDict, name: str, use_cls_token: bool, num_attention_heads: int, input_shape: tuple[int, int] | None
) -> LwmSpectroConfig:
    """Infer the configuration from the shapes of the tensors.

    Raises:
        ConversionError: If the shapes describe an architecture that [`LwmSpectroConfig`] cannot express.
    """
    hidden_size = _common_size(state, "norm1.alpha", name)
    attention_size = _common_size(state, "W_Q.bias", name)
    element = _common_size(state, "decoder_bias", name)
    positions = _common_size(state, "embedding.pos_embed.weight", name)
    if attention_size != hidden_size:
        raise ConversionError(
            f"The attention of {name} has width {attention_size}, its tokens {hidden_size} (LWM v1.0 has 12 heads of "
            "width 5, and tokens of width 64). LwmSpectroConfig supports only heads of width hidden_size / "
            "num_attention_heads, so this model cannot be imported."
        )
    if hidden_size % num_attention_heads:
        raise ConversionError(
            f"{num_attention_heads} heads do not divide the width {hidden_size} of {name}; give num_attention_heads."
        )
    num_channels, remainder = divmod(element, PATCH_SIZE**2)
    if remainder or num_channels not in (1, 2):
        raise ConversionError(
            f"A token of {name} has {element} values; expected 16 (a 4 x 4 patch) or 32 (real and imaginary parts of "
            "one). No other tokenization is known."
        )
    if input_shape is None:
        side = math.isqrt(positions - 1)  # one position is the CLS token's
        if side**2 != positions - 1:
            raise ConversionError(
                f"The position table of {name} has {positions} rows, 1 + {positions - 1} patches, which do not form "
                "a square grid. Give the shape of the input: input_shape=(rows, columns), --input-shape."
            )
        input_shape = (side * PATCH_SIZE, side * PATCH_SIZE)
    try:
        return LwmSpectroConfig(
            num_frames=input_shape[0],
            num_freq_bins=input_shape[1],
            num_channels=num_channels,
            patch_size=PATCH_SIZE,
            hidden_size=hidden_size,
            num_hidden_layers=1 + max(int(key.split(".")[1]) for key in state if re.match(r"layers\.\d+\.", key)),
            num_attention_heads=num_attention_heads,
            intermediate_size=_common_size(state, "fc1.bias", name),
            max_position_embeddings=positions,
            cls_token_value=CLS_TOKEN_VALUE if use_cls_token else None,
            **PUBLISHED,
        )
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"The shapes of {name} do not give a valid configuration: {error}") from error


def _common_size(state: StateDict, suffix: str, name: str) -> int:
    """The most common first dimension of the tensors with this suffix, so that a single wrong tensor is detected."""
    sizes = [value.shape[0] for key, value in state.items() if key.endswith(suffix) and value.ndim]
    if not sizes:
        raise ConversionError(f"The expert {name} has no {suffix}; expected the tensors of a published expert.")
    return max(sizes, key=sizes.count)


def _expected_shapes(config: LwmSpectroConfig) -> dict[str, tuple[int, ...]]:
    """Every key of a published expert with its shape."""
    width, wide, element = config.hidden_size, config.intermediate_size, config.patch_dim
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.alpha": (width,), f"{name}.bias": (width,)})

    linear("embedding.proj", width, element)
    shapes["embedding.pos_embed.weight"] = (config.max_position_embeddings, width)
    norm("embedding.norm")
    for layer in range(config.num_hidden_layers):
        for name in ("W_Q", "W_K", "W_V", "linear"):
            linear(f"layers.{layer}.enc_self_attn.{name}", width, width)
        linear(f"layers.{layer}.pos_ffn.fc1", wide, width)
        linear(f"layers.{layer}.pos_ffn.fc2", width, wide)
        norm(f"layers.{layer}.norm1")
        norm(f"layers.{layer}.norm2")
    linear("linear", width, width)
    norm("norm")
    shapes["decoder.weight"] = (element, width)
    shapes["decoder_bias"] = (element,)
    return shapes


# Modules of a published expert, and the equivalent modules of LwmSpectroForPreTraining.
MODULES = {
    "embedding.proj": "lwm_spectro.embeddings.projection",
    "embedding.norm": "lwm_spectro.embeddings.norm",
    "linear": "decoder.dense",
    "norm": "decoder.norm",
}
LAYER_MODULES = {
    "enc_self_attn.W_Q": "self_attn.q_proj",
    "enc_self_attn.W_K": "self_attn.k_proj",
    "enc_self_attn.W_V": "self_attn.v_proj",
    "enc_self_attn.linear": "self_attn.o_proj",
    "pos_ffn.fc1": "mlp.fc1",
    "pos_ffn.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
SINGLE_KEYS = {
    "embedding.pos_embed.weight": "lwm_spectro.embeddings.position_embeddings",
    "decoder.weight": "decoder.projection.weight",
    "decoder_bias": "decoder.projection.bias",
}


def expert_weights(state: StateDict, config: LwmSpectroConfig, name: str) -> StateDict:
    """Convert the weights of one published expert to the names of [`LwmSpectroForPreTraining`].

    Raises:
        ConversionError: If keys are missing, unexpected or of another shape; the message lists all of them.
    """
    expected = _expected_shapes(config)
    found = {key: tuple(value.shape) for key, value in state.items()}
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [f"unexpected: {key} {shape}" for key, shape in found.items() if key not in expected]
    problems += [
        f"wrong shape: {key}, expected {shape}, found {found[key]}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        raise ConversionError(
            f"The expert {name} does not have the {len(expected)} published tensors: {'; '.join(problems)}."
        )
    weights = {}
    for key, value in state.items():
        if key in ("embedding.proj.weight", "decoder.weight", "decoder_bias"):
            value = _channels_first(value, 1 if key == "embedding.proj.weight" else 0, config)
        weights[_rename(key)] = value.contiguous()
    return weights


def _rename(key: str) -> str:
    """Convert a key of a published expert to the name of that parameter in [`LwmSpectroForPreTraining`]."""
    if key in SINGLE_KEYS:
        return SINGLE_KEYS[key]
    module, _, parameter = key.rpartition(".")
    parameter = "weight" if parameter == "alpha" else parameter
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", module):
        return f"lwm_spectro.layers.{match[1]}.{LAYER_MODULES[match[2]]}.{parameter}"
    return f"{MODULES[module]}.{parameter}"


def _channels_first(value: torch.Tensor, dim: int, config: LwmSpectroConfig) -> torch.Tensor:
    """Order the values of a patch as (channel, row, column); LWM v1.1 interleaves real and imaginary parts."""
    patch = value.unflatten(dim, (config.patch_size, config.patch_size, config.num_channels))
    return patch.movedim(dim + 2, dim).flatten(dim, dim + 2)


def moe_names(weights: StateDict, index: int) -> StateDict:
    """Rename one expert's weights to their names in [`LwmSpectroMoEForPreTraining`]."""
    encoder = "lwm_spectro."
    return {
        f"lwm_spectro_moe.experts.{index}.{key.removeprefix(encoder)}"
        if key.startswith(encoder)
        else f"decoders.{index}.{key.removeprefix('decoder.')}": value
        for key, value in weights.items()
    }


def _router_layout(num_experts: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name in this package, last part of the published name, and shape of each tensor of the CNN router, in order."""
    layout: list[tuple[str, str, tuple[int, ...]]] = []
    for index, kernel in enumerate(ROUTER_KERNELS):
        inputs, outputs = ROUTER_CHANNELS[index : index + 2]
        layout += [
            (f"encoder.{3 * index}.weight", "weight", (outputs, inputs, kernel, kernel)),
            (f"encoder.{3 * index}.bias", "bias", (outputs,)),
        ]
        layout += [
            (f"encoder.{3 * index + 1}.{part}", part, () if part == "num_batches_tracked" else (outputs,))
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]
    width = ROUTER_CHANNELS[-1]
    return layout + [
        ("gate.weight", "weight", (num_experts, width)),
        ("gate.bias", "bias", (num_experts,)),
    ]


def router_weights(state: Mapping[str, Any], num_experts: int) -> StateDict:
    """Match the tensors of the published router by order, last part of the name, and shape.

    The names of its modules are not documented.

    Raises:
        ConversionError: If a tensor does not match the one expected at its position.
    """
    state = check_tensors(state, "router_state_dict")
    layout = _router_layout(num_experts)
    expected = [(part, shape) for _, part, shape in layout]
    found = [(key.rpartition(".")[2], tuple(value.shape)) for key, value in state.items()]
    if found != expected:
        problems = [
            f"expected {f'{wanted[0]} {wanted[1]}' if wanted else 'nothing more'}, found "
            f"{f'{key} {met[1]}' if met else 'nothing more'}"
            for key, met, wanted in zip_longest(state, found, expected)
            if met != wanted
        ]
        raise ConversionError(
            "The router is not the published CNN (four blocks of convolution and batch normalization, then a linear "
            f"layer to {num_experts} experts: {len(expected)} tensors in this order): {'; '.join(problems)}."
        )
    return {f"{ROUTER_PREFIX}{name}": value for (name, _, _), value in zip(layout, state.values(), strict=True)}

"""Start larger networks from trained weights, so that at first they compute what the smaller ones did."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn

from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..modeling_lwm_spectro_moe import LwmSpectroMoERouter


def _with_fields(model: LwmSpectroForPreTraining, **fields: int) -> LwmSpectroForPreTraining:
    """A new expert whose configuration differs in these fields."""
    config = deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    config.validate_architecture()
    return LwmSpectroForPreTraining(config).to(model.device)


def _grown(model: LwmSpectroForPreTraining, **fields: int) -> LwmSpectroForPreTraining:
    """An expert whose configuration differs in these fields, with the model's weights wherever it has them."""
    grown = _with_fields(model, **fields)
    grown.load_state_dict(model.state_dict(), strict=False)
    return grown


@torch.no_grad()
def deepen_encoder(model: LwmSpectroForPreTraining, num_hidden_layers: int) -> LwmSpectroForPreTraining:
    """Add transformer layers to an encoder, spread evenly among the old ones, which at first change nothing.

    The residual branches of a new layer output zeros at first. Its normalizations, which follow the sums (eq. 14), do
    not change inputs that are already normalized; the scale and shift of the layer before, which would make them
    unnormalized, therefore move to the end of the new layer.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert; it is not modified.
        num_hidden_layers (`int`): Number of layers afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If the encoder has no layers, or already has more than `num_hidden_layers`.
    """
    before = model.config.num_hidden_layers
    if not 0 < before <= num_hidden_layers:
        raise ValueError(
            f"{num_hidden_layers} layers were requested, of an encoder with {before}; expected at least as many, and "
            "an encoder that has at least one."
        )
    deeper = _grown(model, num_hidden_layers=num_hidden_layers)
    # New layers fill the places between an old layer and the next old one.
    places = [number * num_hidden_layers // before for number in range(before + 1)]
    for old, (place, end) in zip(model.base_model.layers, pairwise(places), strict=True):
        layers = deeper.base_model.layers[place:end]
        layers[0].load_state_dict(old.state_dict())
        for previous, new in pairwise(layers):
            for norm in (previous.norm2, new.norm1):
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
            for last in (new.self_attn.o_proj, new.mlp.fc2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        layers[-1].norm2.load_state_dict(old.norm2.state_dict())
    return deeper


# Layers of an expert that write to tokens, and layers that read hidden units, with zero weights for the new ones.
_WRITE_TOKENS = ("o_proj", "fc2", "out_proj", "projection", "context", "position_embeddings", "mask_token")
_READ_HIDDEN_UNITS = ("o_proj", "fc2", "dense2", "out_proj", "projection")


@torch.no_grad()
def widen_encoder(model: LwmSpectroForPreTraining, hidden_size: int) -> LwmSpectroForPreTraining:
    """Widen the tokens of an expert, and its heads and feed-forward networks in proportion; the stem stays as it is.

    New elements of a token start as the mean of the others, so that normalization subtracts the same mean as before,
    and divides by a standard deviation that is smaller by a known factor. The output is nearly the same as before: the
    shift of a normalization changes the mean that the next one sees, by some percent of a standard deviation, which a
    little training corrects. Weights that read new elements are random, so that they learn from the first step.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert; it is not modified.
        hidden_size (`int`): Width of its tokens afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If it is already as wide, or its number of heads does not divide the width.
    """
    before, heads = model.config.hidden_size, model.config.num_attention_heads
    if hidden_size <= before or hidden_size % heads:
        raise ValueError(
            f"A width of {hidden_size} was requested, of an expert with {before} and {heads} heads; expected more, "
            "and a multiple of the number of heads."
        )
    wider = _with_fields(
        model, hidden_size=hidden_size, intermediate_size=model.config.intermediate_size * hidden_size // before
    )
    states = model.state_dict()
    for name, values in wider.state_dict().items():
        *_, part, kind = ("", *name.split("."))
        part = part if kind in ("weight", "bias") else kind
        old = states[name]
        if old.shape == values.shape:
            values.copy_(old)
            continue
        if name.startswith("decoder.") and part in ("dense", "norm"):
            # The mean of units after an activation is no linear function; copies of some units have nearly that mean.
            old = old[torch.arange(hidden_size, device=old.device) % before]
        elif "norm" in part and kind == "weight":
            old = old * (before / hidden_size) ** 0.5
        elif ".self_attn." in name and part != "o_proj":
            values, old = (each.unflatten(0, (heads, -1)) for each in (values, old))
            if part == "q_proj":  # eq. 13 divides by the square root of the head width
                old = old * (hidden_size / before) ** 0.5
        elif ".self_attn." in name and kind == "weight":
            values, old = (each.unflatten(1, (heads, -1)) for each in (values, old))
        if part == "k_proj" or (part in _READ_HIDDEN_UNITS and kind == "weight"):
            nn.init.zeros_(values[: len(old)])
        values[tuple(slice(length) for length in old.shape)] = old
        written = -1 if part == kind else 0
        # The last layers write to pixels and projections, whose number does not change.
        if part in _WRITE_TOKENS and values.shape[written] > old.shape[written]:
            values = values.movedim(written, 0)
            values[before:] = values[:before].mean(0)
    return wider


@torch.no_grad()
def deepen_stem(model: LwmSpectroForPreTraining, stem_num_layers: int) -> LwmSpectroForPreTraining:
    """Add residual blocks to the stem of an encoder; at first their residual branches output zeros.

    Training continues from the same function with more capacity (Chen, Goodfellow, Shlens, "Net2Net: Accelerating
    Learning via Knowledge Transfer", ICLR 2016).

    Args:
        model ([`LwmSpectroForPreTraining`]): An encoder with a stem; it is not modified.
        stem_num_layers (`int`): Number of residual blocks of the stem afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If there is no stem, or if it already has more blocks.
    """
    config = model.config
    if config.stem_num_channels is None or config.stem_num_layers > stem_num_layers:
        found = "no stem" if config.stem_num_channels is None else f"a stem of {config.stem_num_layers} blocks"
        raise ValueError(f"The encoder has {found}; expected a stem of at most {stem_num_layers}, to deepen it.")
    deeper = _grown(model, stem_num_layers=stem_num_layers)
    for block in deeper.base_model.embeddings.projection.blocks[config.stem_num_layers :]:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    return deeper


def copying_decoder(model: LwmSpectroForPreTraining, num_heads: int) -> LwmSpectroForPreTraining:
    """Give an encoder a new, untrained decoder that copies from the visible patches.

    Args:
        model ([`LwmSpectroForPreTraining`]): Model whose encoder and projection are copied; it is not modified.
        num_heads (`int`): `decoder_num_copy_heads` of the new decoder.

    Returns:
        [`LwmSpectroForPreTraining`]
    """
    changed = _with_fields(model, decoder_num_copy_heads=num_heads)
    changed.base_model.load_state_dict(model.base_model.state_dict())
    changed.projection.load_state_dict(model.projection.state_dict())
    return changed


@torch.no_grad()
def inpainting_decoder(model: LwmSpectroForPreTraining, num_channels: int) -> LwmSpectroForPreTraining:
    """Add inpainting convolutions to a copying decoder; at first they output zeros.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert whose decoder has no such convolutions; it is not modified.
        num_channels (`int`): `decoder_num_inpainting_channels` of the new decoder.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If the decoder already has them, or is not a copying one, or `num_channels` is less than 1.
    """
    config, before = model.config, model.config.decoder_num_inpainting_channels
    if before or num_channels < 1 or not config.decoder_num_copy_heads:
        raise ValueError(
            f"{num_channels} channels were requested, of a decoder with {before} and {config.decoder_num_copy_heads} "
            "copy heads; expected at least 1, of a decoder without channels but with copy heads."
        )
    inpainting = _grown(model, decoder_num_inpainting_channels=num_channels)
    nn.init.zeros_(inpainting.decoder.inpainting.conv_out.weight)
    nn.init.zeros_(inpainting.decoder.inpainting.conv_out.bias)
    return inpainting


@torch.no_grad()
def counting_levels(model: LwmSpectroForPreTraining, num_bins: int) -> LwmSpectroForPreTraining:
    """Add a level histogram to an encoder; at first it adds nothing to the embedding.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert without one; it is not modified.
        num_bins (`int`): `level_num_bins` of the new expert.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If the expert already has a level histogram, or `num_bins` is less than 1.
    """
    before = model.config.level_num_bins
    if before or num_bins < 1:
        raise ValueError(
            f"{num_bins} bins were requested, of an encoder with {before}; expected at least 1, of one that has none."
        )
    counting = _grown(model, level_num_bins=num_bins)
    nn.init.zeros_(counting.base_model.levels.out_proj.weight)
    nn.init.zeros_(counting.base_model.levels.out_proj.bias)
    return counting


def mean_weights(*models: nn.Module) -> dict[str, torch.Tensor]:
    """Average the weights of networks of the same architecture.

    The mean is often better than any of them if all were trained from the same start (Wortsman et al., "Model soups:
    averaging weights of multiple fine-tuned models improves accuracy without increasing inference time", ICML 2022).

    Args:
        models (`nn.Module`): One or more.

    Returns:
        `dict[str, torch.Tensor]`: For `load_state_dict`.

    Raises:
        ValueError: If their weights differ in name or shape.
    """
    states = [each.state_dict() for each in models]
    shapes = [{name: values.shape for name, values in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"These {len(models)} models differ in type or size, so they have no mean.")
    return {
        # In float64, since some are integers: the batch counts of batch normalization.
        name: torch.stack([state[name].double() for state in states]).mean(0).to(values.dtype)
        for name, values in states[0].items()
    }


@torch.no_grad()
def start_router(router: LwmSpectroMoERouter, *trained: LwmSpectroMoERouter) -> None:
    """Initialize a router from a trained one of the same type, or of a type with fewer inputs.

    A `"fourier"` router has all inputs of a `"cnn"` one and more, and with `router_occupied_band` even more. Weights
    for new inputs start at zero. From several trained routers, it gets the mean of their weights ([`mean_weights`]).

    Args:
        router ([`LwmSpectroMoERouter`]): Router whose weights are replaced.
        trained ([`LwmSpectroMoERouter`]): One or more trained routers; they are not modified.

    Raises:
        ValueError: If the weights do not fit the router, or the trained routers differ from each other.
    """
    weights = mean_weights(*trained)
    if router.fourier is not None and trained[0].fourier is None:
        new_inputs = router.gate.in_features - trained[0].gate.in_features
        gate = nn.functional.pad(weights["gate.weight"], (0, new_inputs))
        weights |= {"gate.weight": gate, **router.fourier.state_dict(prefix="fourier.")}
    elif router.fourier is not None and router.fourier.occupied_band and not trained[0].fourier.occupied_band:
        name = "fourier.convolutions.0.weight"
        new_inputs = router.fourier.convolutions[0].in_channels - weights[name].shape[1]
        weights[name] = nn.functional.pad(weights[name], (0, 0, 0, 0, 0, new_inputs))
    try:
        router.load_state_dict(weights)
    except RuntimeError as error:
        looks = getattr(trained[0].fourier, "occupied_band", False)
        hint = " It also uses the occupied band (`router_occupied_band`, --occupied-band)." if looks else ""
        reason = str(error).splitlines()[1].strip()  # the first of many reasons
        raise ValueError(f"The trained router has another type or size.{hint} {reason}") from error

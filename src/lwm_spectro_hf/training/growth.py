"""Trained weights as the start of a larger network, which at first does what the smaller one did."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn

from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..modeling_lwm_spectro_moe import LwmSpectroMoERouter


def _with_fields(model: LwmSpectroForPreTraining, **fields: int) -> LwmSpectroForPreTraining:
    """A new expert, with other fields of the configuration."""
    config = deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    config.validate_architecture()
    return LwmSpectroForPreTraining(config).to(model.device)


def _grown(model: LwmSpectroForPreTraining, **fields: int) -> LwmSpectroForPreTraining:
    """An expert with other fields of the configuration, and the weights of another wherever it has them."""
    grown = _with_fields(model, **fields)
    grown.load_state_dict(model.state_dict(), strict=False)
    return grown


@torch.no_grad()
def deepen_encoder(model: LwmSpectroForPreTraining, num_hidden_layers: int) -> LwmSpectroForPreTraining:
    """Add layers to the transformer of an encoder, spread evenly among those it has, which at first change nothing.

    The branches of a new layer begin with zeros. Its normalizations, which follow the sums (eq. 14), leave alone what
    is normalized already; so scales and shifts of the layer before, which do not, become its own.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert; it is left as it is.
        num_hidden_layers (`int`): Layers of the encoder afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If it has no layers, or more of them already.
    """
    before = model.config.num_hidden_layers
    if not 0 < before <= num_hidden_layers:
        raise ValueError(
            f"{num_hidden_layers} layers were asked for, of an encoder with {before}; expected as many or more, and "
            "one at least to begin with."
        )
    deeper = _grown(model, num_hidden_layers=num_hidden_layers)
    # Each old layer is followed by new ones, up to the place of the next old one.
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


# Layers of an expert that write to tokens, and layers that read hidden units, of which new ones count for nothing.
_WRITE_TOKENS = ("o_proj", "fc2", "out_proj", "projection", "context", "position_embeddings", "mask_token")
_READ_HIDDEN_UNITS = ("o_proj", "fc2", "dense2", "out_proj", "projection")


@torch.no_grad()
def widen_encoder(model: LwmSpectroForPreTraining, hidden_size: int) -> LwmSpectroForPreTraining:
    """Make the tokens of an expert wider, and its heads and feed-forward networks in proportion; the stem stays.

    New elements of a token begin as the mean of the others: then normalization takes off the same mean as before, and
    divides by a deviation that is smaller by a known factor. What it does is nearly what it did (the shifts of a
    normalization move the mean that the next one sees, by some percent of a deviation), and a little training makes
    up for that. Whatever reads new elements has random weights, so that they learn from the first step.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert; it is left as it is.
        hidden_size (`int`): Width of its tokens afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If it is as wide already, or its heads do not divide the width.
    """
    before, heads = model.config.hidden_size, model.config.num_attention_heads
    if hidden_size <= before or hidden_size % heads:
        raise ValueError(
            f"A width of {hidden_size} was asked for, of an expert with {before} and {heads} heads; expected more, "
            "and a multiple of the heads."
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
            # Nothing linear gives the mean of units behind an activation; copies of some have nearly the same.
            old = old[torch.arange(hidden_size, device=old.device) % before]
        elif "norm" in part and kind == "weight":
            old = old * (before / hidden_size) ** 0.5
        elif ".self_attn." in name and part != "o_proj":
            values, old = (each.unflatten(0, (heads, -1)) for each in (values, old))
            if part == "q_proj":  # eq. 13 divides by the root of a head's width
                old = old * (hidden_size / before) ** 0.5
        elif ".self_attn." in name and kind == "weight":
            values, old = (each.unflatten(1, (heads, -1)) for each in (values, old))
        if part == "k_proj" or (part in _READ_HIDDEN_UNITS and kind == "weight"):
            nn.init.zeros_(values[: len(old)])
        values[tuple(slice(length) for length in old.shape)] = old
        written = -1 if part == kind else 0
        # Pixels and projections, which the last layers write to, are as many as before.
        if part in _WRITE_TOKENS and values.shape[written] > old.shape[written]:
            values = values.movedim(written, 0)
            values[before:] = values[:before].mean(0)
    return wider


@torch.no_grad()
def deepen_stem(model: LwmSpectroForPreTraining, stem_num_layers: int) -> LwmSpectroForPreTraining:
    """Add residual blocks to the stem of an encoder, which at first add nothing to what passes them.

    So training goes on from the same function, with more that can be learnt (Chen, Goodfellow, Shlens, "Net2Net:
    Accelerating Learning via Knowledge Transfer", ICLR 2016).

    Args:
        model ([`LwmSpectroForPreTraining`]): An encoder with a stem; it is left as it is.
        stem_num_layers (`int`): Residual blocks that the stem has afterwards.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If there is no stem, or if it has more blocks already.
    """
    config = model.config
    if config.stem_num_channels is None or config.stem_num_layers > stem_num_layers:
        found = "no stem" if config.stem_num_channels is None else f"a stem of {config.stem_num_layers} blocks"
        raise ValueError(f"The encoder has {found}; expected a stem of at most {stem_num_layers} to make deeper.")
    deeper = _grown(model, stem_num_layers=stem_num_layers)
    for block in deeper.base_model.embeddings.projection.blocks[config.stem_num_layers :]:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    return deeper


def copying_decoder(model: LwmSpectroForPreTraining, num_heads: int) -> LwmSpectroForPreTraining:
    """Give an encoder a new decoder, one that copies from the visible patches, to be trained.

    Args:
        model ([`LwmSpectroForPreTraining`]): Whose encoder and projection are taken over; it is left as it is.
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
    """Give a decoder that copies convolutions, too, which at first add nothing.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert whose decoder has none; it is left as it is.
        num_channels (`int`): `decoder_num_inpainting_channels` of the new decoder.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If the decoder has some already or copies nothing, or the number is no number of channels.
    """
    config, before = model.config, model.config.decoder_num_inpainting_channels
    if before or num_channels < 1 or not config.decoder_num_copy_heads:
        raise ValueError(
            f"{num_channels} channels were asked for, of a decoder with {before} and {config.decoder_num_copy_heads} "
            "heads that copy; expected at least 1, of one that has none and copies."
        )
    inpainting = _grown(model, decoder_num_inpainting_channels=num_channels)
    nn.init.zeros_(inpainting.decoder.inpainting.conv_out.weight)
    nn.init.zeros_(inpainting.decoder.inpainting.conv_out.bias)
    return inpainting


@torch.no_grad()
def counting_levels(model: LwmSpectroForPreTraining, num_bins: int) -> LwmSpectroForPreTraining:
    """Let an encoder count levels, too; what it knows of them adds nothing to embeddings at first.

    Args:
        model ([`LwmSpectroForPreTraining`]): An expert that does not; it is left as it is.
        num_bins (`int`): `level_num_bins` of the new one.

    Returns:
        [`LwmSpectroForPreTraining`]

    Raises:
        ValueError: If it counts levels already, or the number is no number of bins.
    """
    before = model.config.level_num_bins
    if before or num_bins < 1:
        raise ValueError(
            f"{num_bins} bins were asked for, of an encoder with {before}; expected at least 1, of one that has none."
        )
    counting = _grown(model, level_num_bins=num_bins)
    nn.init.zeros_(counting.base_model.levels.out_proj.weight)
    nn.init.zeros_(counting.base_model.levels.out_proj.bias)
    return counting


def mean_weights(*models: nn.Module) -> dict[str, torch.Tensor]:
    """The mean of the weights of networks that are alike.

    It is often better than any of them if all went on from the same start (Wortsman et al., "Model soups: averaging
    weights of multiple fine-tuned models improves accuracy without increasing inference time", ICML 2022).

    Args:
        models (`nn.Module`): One or more.

    Returns:
        `dict[str, torch.Tensor]`: For `load_state_dict`.

    Raises:
        ValueError: If they are not alike.
    """
    states = [each.state_dict() for each in models]
    shapes = [{name: values.shape for name, values in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"These {len(models)} are not of one type and size, and have no mean.")
    return {
        # In float64, for there are integers, too: normalization counts its batches.
        name: torch.stack([state[name].double() for state in states]).mean(0).to(values.dtype)
        for name, values in states[0].items()
    }


@torch.no_grad()
def start_router(router: LwmSpectroMoERouter, *trained: LwmSpectroMoERouter) -> None:
    """Give a router the weights of a trained one of its type, or of one that sees less.

    A `"fourier"` router sees what a `"cnn"` one does and more, and with `router_occupied_band` more again. What is new
    counts for nothing at first. Of several, it gets the mean of the weights, see [`mean_weights`].

    Args:
        router ([`LwmSpectroMoERouter`]): Whose weights are replaced.
        trained ([`LwmSpectroMoERouter`]): One or more; they are left as they are.

    Raises:
        ValueError: If the one cannot become the other, or the others are not alike.
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
        hint = " It looks at the occupied band, too (`router_occupied_band`, --occupied-band)." if looks else ""
        reason = str(error).splitlines()[1].strip()  # the first of many
        raise ValueError(f"The trained router is of another type or size.{hint} {reason}") from error

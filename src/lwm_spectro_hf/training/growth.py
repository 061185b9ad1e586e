"""Trained weights as the start of a larger network, which at first does what the smaller one did."""

from copy import deepcopy

import torch
from torch import nn

from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..modeling_lwm_spectro_moe import LwmSpectroMoERouter


def _grown(model: LwmSpectroForPreTraining, **fields: int) -> LwmSpectroForPreTraining:
    """An expert with other fields of the configuration, and the weights of another wherever it has them."""
    config = deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    grown = LwmSpectroForPreTraining(config).to(model.device)
    grown.load_state_dict(model.state_dict(), strict=False)
    return grown


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
    config = deepcopy(model.config)
    config.decoder_num_copy_heads = num_heads
    config.validate_architecture()
    changed = LwmSpectroForPreTraining(config)
    changed.base_model.load_state_dict(model.base_model.state_dict())
    changed.projection.load_state_dict(model.projection.state_dict())
    return changed.to(model.device)


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
    """Give a router the weights of a trained one of its type, or of a `"cnn"` one if it is a `"fourier"` one.

    Of several, it gets the mean of the weights, see [`mean_weights`].

    Args:
        router ([`LwmSpectroMoERouter`]): Whose weights are replaced; its convolutions over the Fourier transform keep
            theirs where the others have none, and count for nothing at first.
        trained ([`LwmSpectroMoERouter`]): One or more; they are left as they are.

    Raises:
        ValueError: If the one cannot become the other, or the others are not alike.
    """
    weights = mean_weights(*trained)
    if router.fourier is not None and trained[0].fourier is None:
        new_inputs = router.gate.in_features - trained[0].gate.in_features
        gate = nn.functional.pad(weights["gate.weight"], (0, new_inputs))
        weights |= {"gate.weight": gate, **router.fourier.state_dict(prefix="fourier.")}
    try:
        router.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The trained router is of another type or size: {error}") from error

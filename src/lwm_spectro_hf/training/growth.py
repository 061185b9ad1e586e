"""Weights of a small encoder as the start of a deeper one."""

from copy import deepcopy

import torch
from torch import nn

from ..modeling_lwm_spectro import LwmSpectroForPreTraining


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
    config = deepcopy(model.config)
    if config.stem_num_channels is None or config.stem_num_layers > stem_num_layers:
        found = "no stem" if config.stem_num_channels is None else f"a stem of {config.stem_num_layers} blocks"
        raise ValueError(f"The encoder has {found}; expected a stem of at most {stem_num_layers} to make deeper.")
    before = config.stem_num_layers
    config.stem_num_layers = stem_num_layers
    deeper = LwmSpectroForPreTraining(config)
    deeper.load_state_dict(model.state_dict(), strict=False)
    for block in deeper.base_model.embeddings.projection.blocks[before:]:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    return deeper.to(model.device)

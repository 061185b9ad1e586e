"""How much of a device's arithmetic a training step uses."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..configuration_lwm_spectro import LwmSpectroConfig
from ..modeling_lwm_spectro import LwmSpectroForPreTraining

# Dense bfloat16 matrix products, from the vendors' data sheets [floating-point operations per second].
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def training_flops(config: LwmSpectroConfig) -> int:
    """Floating-point operations of matrix products in the forward and backward passes, for one spectrogram.

    They are counted on a model on the meta device, so that the count is right for any architecture.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # fused attention hides its products from the counter
    with torch.device("meta"):
        model = LwmSpectroForPreTraining(config)
        values = torch.empty(1, config.num_channels, config.num_frames, config.num_freq_bins)
    with FlopCounterMode(display=False) as counter:
        model(values).loss.backward()
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak of a device, `None` if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for known, flops in PEAK_FLOPS.items() if known in name), None)

"""Random numbers by sample, not by process, so that masks do not depend on how a batch is split."""

import torch

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64, signed


def mask_noise(index: torch.Tensor, num_patches: int, seed: int = 0) -> torch.Tensor:
    """Uniform noise for drawing masks (eq. 15), which depends only on sample, patch and seed.

    Args:
        index (`torch.Tensor` of shape `(batch,)`): Number of each sample, int64; a different one at each visit.
        num_patches (`int`): Patches of a spectrogram.
        seed (`int`, *optional*, defaults to 0): Seed of the run.

    Returns:
        `torch.Tensor` of shape `(batch, num_patches)`, float64, from 0 to 1, on the device of `index`.
    """
    patch = torch.arange(1, num_patches + 1, device=index.device)
    rows = _mix(_mix(torch.full_like(index, seed)) + index * _GOLDEN)
    return _shifted(_mix(rows[:, None] + patch * _GOLDEN), 11).double() * 2.0**-53


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The finalizer of splitmix64; int64 products wrap around."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Logical right shift, which fills in zeros."""
    return (bits >> places) & (2 ** (64 - places) - 1)

"""Views of a spectrogram that keep its labels."""

import torch

from ..phy.listening import SHORTEST_RECORDING, repeated_frames
from ..phy.synchronization import symbol_period_s

_FEWEST_FRAMES, _FEWEST_BINS = 6, 6  # smallest visible part of a view by `narrow`


def augment(input_values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Shift spectrograms cyclically to a random start frame, and mirror half of them in frequency.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        noise (`torch.Tensor` of shape `(batch, 2)`): Random numbers to use, uniform from 0 to 1.

    Returns:
        `torch.Tensor` of the same shape.
    """
    num_frames, num_bins = input_values.shape[2:]
    frames = torch.arange(num_frames, device=input_values.device)
    frames = (frames + (noise[:, :1] * num_frames).long()) % num_frames
    # With an even number of bins, DC is just right of the middle, so the mirror image moves one bin to the right.
    bins = torch.arange(num_bins, device=input_values.device)
    bins = torch.where(noise[:, 1:] < 0.5, (2 * (num_bins // 2) - bins) % num_bins, bins)
    return _picked(input_values, frames, bins)


def narrow(input_values: torch.Tensor, noise: torch.Tensor, share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Imitate receivers of smaller bandwidth for some spectrograms, and shorter recordings for some.

    A range of adjacent bins moves to the middle, a range of adjacent frames to the start; the rest is hidden.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        noise (`torch.Tensor` of shape `(batch, 6)`): Random numbers to use, uniform from 0 to 1.
        share (`float`, *optional*, defaults to 0.5): Share that becomes narrower, and share that becomes shorter, 0
            to 1.

    Returns:
        `tuple`: The spectrograms, and a mask of shape `(batch, num_frames, num_freq_bins)`, 1 = hidden.
    """
    lengths, starts = [], []
    for size, least, chance, length, start in (
        (input_values.shape[2], _FEWEST_FRAMES, *noise[:, :3].T),
        (input_values.shape[3], _FEWEST_BINS, *noise[:, 3:].T),
    ):
        seen = torch.where(chance < share, (least * (size / least) ** length).long(), size)
        lengths.append(seen[:, None])
        starts.append(((size - seen + 1) * start).long()[:, None])
    num_frames, num_bins = input_values.shape[2:]
    frames, bins = (torch.arange(size, device=input_values.device) for size in (num_frames, num_bins))
    first = num_bins // 2 - lengths[1] // 2
    hidden_frames = frames >= lengths[0]
    hidden_bins = (bins < first) | (bins >= first + lengths[1])
    frames, bins = (frames + starts[0]) % num_frames, (bins - first + starts[1]) % num_bins
    return _picked(input_values, frames, bins), hidden_frames[:, :, None] | hidden_bins[:, None, :]


def _picked(input_values: torch.Tensor, frames: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Pick frames and bins of each spectrogram by index, `(batch, num_frames)` and `(batch, num_freq_bins)`."""
    rows = torch.arange(len(input_values), device=input_values.device)
    # Index tensors separated by a slice put their dimensions first: (batch, frames, bins, channels).
    return input_values[rows[:, None, None], :, frames[:, :, None], bins[:, None, :]].permute(0, 3, 1, 2)


def shorten(input_values: torch.Tensor, resolution: torch.Tensor, noise: torch.Tensor, share: float) -> torch.Tensor:
    """Make some spectrograms look as [`~phy.listening.listen`] shows recordings too short to fill them.

    A few of the frames are repeated and the result is normalized again. Only spectrograms with one frame per symbol of
    a standard are changed, since short recordings are shown in this way; others stay as they are.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms, each
            of zero mean and unit variance.
        resolution (`torch.Tensor` of shape `(batch, 2)`): Frame spacing [s] and bin spacing [Hz].
        noise (`torch.Tensor` of shape `(batch, 3)`): Random numbers to use, uniform from 0 to 1.
        share (`float`): Share of these spectrograms to shorten, 0 to 1.

    Returns:
        `torch.Tensor` of the same shape.
    """
    num_frames = input_values.shape[2]
    frames = torch.arange(num_frames, device=input_values.device).expand(len(input_values), -1)
    for spacing_hz, shortest in SHORTEST_RECORDING.items():
        if shortest >= num_frames:
            continue
        concerned = noise[:, 0] < share
        for column, expected in zip(resolution.unbind(1), (symbol_period_s(spacing_hz), spacing_hz), strict=True):
            concerned = concerned & ((column / expected - 1).abs() < 1e-3)
        count = (shortest * (num_frames / shortest) ** noise[:, 1]).long()
        count = repeated_frames(count, spacing_hz)[:, None]
        start = ((num_frames - count + 1) * noise[:, 2:]).long()
        repeated = start + torch.arange(num_frames, device=count.device) % count
        frames = torch.where(concerned[:, None], repeated, frames)
    rows = torch.arange(len(input_values), device=input_values.device)[:, None]
    shortened = input_values[rows, :, frames].transpose(1, 2)
    std, mean = torch.std_mean(shortened, dim=(2, 3), keepdim=True, correction=0)
    changed = (frames != torch.arange(num_frames, device=frames.device)).any(1)[:, None, None, None]
    return torch.where(changed, (shortened - mean) / std.clamp(min=1e-6), input_values)

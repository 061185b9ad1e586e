"""Views of a spectrogram that keep its labels."""

import torch


def augment(input_values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Start spectrograms at another frame, and mirror half of them in frequency.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        noise (`torch.Tensor` of shape `(batch, 2)`): What to draw by, uniform from 0 to 1.

    Returns:
        `torch.Tensor` of the same shape.
    """
    num_frames, num_bins = input_values.shape[2:]
    frames = torch.arange(num_frames, device=input_values.device)
    frames = (frames + (noise[:, :1] * num_frames).long()) % num_frames
    # DC is the bin right of the middle, so the mirror image is one bin to the right.
    bins = torch.arange(num_bins, device=input_values.device)
    bins = torch.where(noise[:, 1:] < 0.5, -bins % num_bins, bins)
    rows = torch.arange(len(input_values), device=input_values.device)
    # Indices apart from each other put their dimensions first: (batch, frames, bins, channels).
    return input_values[rows[:, None, None], :, frames[:, :, None], bins[:, None, :]].permute(0, 3, 1, 2)

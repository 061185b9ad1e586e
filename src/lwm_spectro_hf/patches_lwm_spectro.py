"""Spectrograms to patches and back."""

import torch


def patchify(input_values: torch.Tensor, patch_size: int) -> torch.Tensor:
    """
    Cut spectrograms into square patches, row by row (sec. III-A).

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        patch_size (`int`): Side of a patch, P.

    Returns:
        `torch.Tensor` of shape `(batch, num_patches, num_channels * patch_size**2)`: The patches s_i, each flattened
        as (channel, row, column).
    """
    batch, channels, frames, bins = input_values.shape
    grid = input_values.reshape(batch, channels, frames // patch_size, patch_size, bins // patch_size, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch_size**2)


def unpatchify(patches: torch.Tensor, patch_size: int, num_frames: int, num_freq_bins: int) -> torch.Tensor:
    """
    Put patches together again: the inverse of [`patchify`].

    Args:
        patches (`torch.Tensor` of shape `(batch, num_patches, num_channels * patch_size**2)`): The patches.
        patch_size (`int`): Side of a patch, P.
        num_frames (`int`): Frames of the spectrogram.
        num_freq_bins (`int`): Frequency bins of the spectrogram.

    Returns:
        `torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`: Spectrograms.
    """
    rows, columns = num_frames // patch_size, num_freq_bins // patch_size
    grid = patches.reshape(patches.shape[0], rows, columns, -1, patch_size, patch_size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(patches.shape[0], -1, num_frames, num_freq_bins)

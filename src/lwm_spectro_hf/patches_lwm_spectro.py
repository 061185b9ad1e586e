"""Spectrograms to patches and back."""

import torch
from transformers import PreTrainedConfig


def check_shape(input_values: torch.Tensor, config: PreTrainedConfig):
    """
    Args:
        input_values (`torch.Tensor`): Spectrograms.
        config (`LwmSpectroConfig` or `MaskedConvLstmConfig`): Gives the expected shape.

    Raises:
        `ValueError`: If they do not have the configured shape, or the batch is empty.
    """
    expected = (config.num_channels, config.num_frames, config.num_freq_bins)
    if tuple(input_values.shape[1:]) != expected or input_values.shape[0] == 0:
        raise ValueError(
            f"`input_values` has shape {tuple(input_values.shape)}, but (batch, num_channels, num_frames, "
            f"num_freq_bins) = (batch, {', '.join(map(str, expected))}) is expected by this configuration, with a "
            "batch of at least one."
        )


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
    rows, columns = frames // patch_size, bins // patch_size
    grid = input_values.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch_size**2)


def patches_to_values(mask: torch.Tensor, patch_size: int, num_frames: int) -> torch.Tensor:
    """
    Expand a mask of patches to a mask of values.

    Args:
        mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked; patches are row-major.
        patch_size (`int`): Side of a patch.
        num_frames (`int`): Frames of the spectrogram.

    Returns:
        `torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`.
    """
    rows = mask.unflatten(1, (num_frames // patch_size, -1))
    return rows.repeat_interleave(patch_size, dim=1).repeat_interleave(patch_size, dim=2)


def unpatchify(patches: torch.Tensor, patch_size: int, num_frames: int, num_freq_bins: int) -> torch.Tensor:
    """
    Reassemble spectrograms from patches: the inverse of [`patchify`].

    Args:
        patches (`torch.Tensor` of shape `(batch, num_patches, num_channels * patch_size**2)`): The patches.
        patch_size (`int`): Side of a patch, P.
        num_frames (`int`): Frames of the spectrogram.
        num_freq_bins (`int`): Frequency bins of the spectrogram.

    Returns:
        `torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`: Spectrograms.
    """
    rows, columns = num_frames // patch_size, num_freq_bins // patch_size
    batch, channels = patches.shape[0], patches.shape[2] // patch_size**2
    grid = patches.reshape(batch, rows, columns, channels, patch_size, patch_size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, num_frames, num_freq_bins)

"""
Parts of the decoder that use the values of visible patches. They are not part of the paper, whose decoder sees only
tokens (eq. 16); `decoder_num_copy_heads = 0` turns them off.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_lwm_spectro import LwmSpectroConfig
from .patches_lwm_spectro import patchify, unpatchify


def frame_and_bin_means(
    patches: torch.Tensor, mask: torch.Tensor, config: LwmSpectroConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Fit the additive model `level + frame + bin` to the values of the visible patches, by two rounds of alternating
    means over frequency bins and over frames.

    Args:
        patches (`torch.Tensor` of shape `(batch, num_patches, patch_dim)`): Spectrograms; masked patches are not used.
        mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked.
        config (`LwmSpectroConfig`): Gives the grid.

    Returns:
        `tuple`: The level, of shape `(batch, 1, num_channels, 1)`; the deviations of frames and of bins from it, both
        of shape `(batch, num_patches, num_channels, patch_size)`, the same in all patches of a row or of a column.
    """
    size = config.patch_size
    grid = patches.unflatten(1, (config.num_frames // size, -1)).unflatten(-1, (config.num_channels, size, size))
    visible = (~mask).to(patches).view(*grid.shape[:3], 1, 1)
    frame_means, bin_means = grid.mean(-1), grid.mean(-2)
    level = (frame_means.mean(-1, keepdim=True) * visible).sum((1, 2)) / visible.sum((1, 2)).clamp(min=1)
    level = level[:, None, None]
    # Added so that a row or column without visible patches has no deviation from the level.
    in_row, in_column = (visible.sum(dim, keepdim=True) + 0.1 for dim in (2, 1))
    frames = torch.zeros_like(frame_means[:, :, :1])
    for _ in range(2):
        bins = (bin_means - level - frames.mean(-1, keepdim=True)) * visible
        bins = bins.sum(1, keepdim=True) / in_column
        frames = (frame_means - level - bins.mean(-1, keepdim=True)) * visible
        frames = frames.sum(2, keepdim=True) / in_row
    return level[:, 0], frames.expand_as(frame_means).flatten(1, 2), bins.expand_as(bin_means).flatten(1, 2)


def sum_of_means(level: torch.Tensor, frames: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """
    Evaluate the additive model of [`frame_and_bin_means`], whose output is the input here, for every value.

    Returns:
        `torch.Tensor` of shape `(batch, num_patches, num_channels, patch_size, patch_size)`: Patches.
    """
    return level[..., None] + frames[..., :, None] + bins[..., None, :]


class LwmSpectroPatchCopying(nn.Module):
    """
    Copies from the visible patches what the width of a token cannot hold.

    Resource grids repeat: control regions and gaps fill whole frames, guard bands and fading fill whole bins, and
    pilots recur at the same positions of the next patch. So a patch starts as the sum of its frame and bin means. To
    it, attention adds copies of the deviations of visible patches from their own sums, with a gate per head and frame
    of the patch. Further gates correct the bin means in each frame and the frame means in each bin, for where they do
    not simply add, as in a control region that ends within the band.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        size = config.patch_size
        self.num_heads, self.head_dim = config.decoder_num_copy_heads, 16  # wide enough to compare two patches
        self.rows, self.columns = config.num_frames // size, config.num_freq_bins // size
        self.context = nn.Linear(config.num_channels * (2 * size + 1), config.hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim)
        self.gate = nn.Linear(config.hidden_size, (self.num_heads + 2) * config.num_channels * size)
        self.position_bias = nn.Parameter(torch.empty(self.num_heads, 2 * self.rows - 1, 2 * self.columns - 1))

    def bias(self) -> torch.Tensor:
        """Attention bias of each pair of patches by their offset, of shape `(num_heads, num_patches, num_patches)`."""
        place = torch.arange(self.rows * self.columns, device=self.position_bias.device)
        down, across = place // self.columns, place % self.columns
        down, across = down[:, None] - down + self.rows - 1, across[:, None] - across + self.columns - 1
        return self.position_bias[:, down, across]

    def context_of(self, means: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Embed the output of [`frame_and_bin_means`] for the decoder: `(batch, num_patches, hidden_size)`."""
        level, frames, bins = means
        seen = torch.cat([level.expand_as(frames[..., :1]), frames, bins], dim=-1).flatten(2)
        return self.context(seen.to(self.position_bias.dtype))

    def forward(
        self, hidden_states: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor, means: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """
        Decoder states `(batch, num_patches, hidden_size)` and the deviations of visible patches from the sum of means,
        zero where masked, to what is added to that sum; the last two are `(batch, num_patches, patch_dim)`.
        """
        _, frames, bins = means
        query, key = (
            proj(hidden_states).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj)
        )
        bias = self.bias().to(query.dtype).masked_fill(mask[:, None, None, :], torch.finfo(query.dtype).min)
        values = deviation[:, None].expand(-1, self.num_heads, -1, -1).to(query.dtype)
        copies = F.scaled_dot_product_attention(query, key, values, attn_mask=bias)
        copies = copies.transpose(1, 2).unflatten(-1, (*frames.shape[2:], bins.shape[-1]))
        gates = self.gate(hidden_states).unflatten(-1, (self.num_heads + 2, *frames.shape[2:]))
        of_bins, of_frames, of_copies = gates.tensor_split((1, 2), dim=2)
        added = of_bins[:, :, 0, ..., None] * bins[..., None, :] + of_frames[:, :, 0, ..., None, :] * frames[..., None]
        return (added + (of_copies[..., None] * copies).sum(2)).flatten(2)


class LwmSpectroInpainting(nn.Module):
    """
    Continues visible patches into the masked ones between them, by residual convolutions over a map of cells.

    The channel's gain drifts from patch to patch and scheduled blocks end anywhere, which neither means over the whole
    spectrogram nor copies of single patches can follow. A cell of 4 x 4 values (smaller if 4 does not divide the patch
    size) is represented by its frame and bin means, relative to the sum of means of [`frame_and_bin_means`], which
    averages out most of the noise of single values. The output for a cell is a sum of frame and bin terms, too.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        width, self.patch_size = config.decoder_num_inpainting_channels, config.patch_size
        self.cell_size = math.gcd(4, self.patch_size)
        self.shape = config.num_frames, config.num_freq_bins
        self.patch_grid, self.cell_grid = (
            tuple(length // size for length in self.shape) for size in (self.patch_size, self.cell_size)
        )
        means = 2 * self.cell_size * config.num_channels
        self.tokens = nn.Linear(config.hidden_size, width)
        self.conv_in = nn.Conv2d(means + 1, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=step, dilation=step) for step in (2, 4, 8))
        self.conv_out = nn.Conv2d(width, means, 3, padding=1)

    def means_of_cells(self, patches: torch.Tensor) -> torch.Tensor:
        """Frame and bin means within each cell: patches to `(batch, means, rows of cells, columns of cells)`."""
        size = self.cell_size
        cells = patchify(unpatchify(patches, self.patch_size, *self.shape), size).unflatten(2, (-1, size, size))
        means = torch.cat([cells.mean(-1), cells.mean(-2)], dim=-1)
        return means.flatten(2).mT.unflatten(2, self.cell_grid)

    def sums_in_cells(self, means: torch.Tensor) -> torch.Tensor:
        """Sum of the frame and bin terms of each cell: from the shape that [`means_of_cells`] returns to patches."""
        size = self.cell_size
        frames, bins = means.flatten(2).mT.unflatten(2, (-1, 2 * size)).split(size, dim=-1)
        cells = frames[..., None] + bins[..., None, :]
        return patchify(unpatchify(cells.flatten(2), size, *self.shape), self.patch_size)

    def forward(self, hidden_states: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As in [`LwmSpectroPatchCopying`], without the means."""
        visible = (~mask).to(deviation)[:, None].unflatten(2, self.patch_grid)
        tokens = self.tokens(hidden_states).mT.unflatten(2, self.patch_grid)
        of_cells = partial(F.interpolate, scale_factor=self.patch_size // self.cell_size)  # the nearest patch
        seen = torch.cat([self.means_of_cells(deviation), of_cells(visible)], dim=1)
        states = self.conv_in(seen.to(tokens.dtype)) + of_cells(tokens)
        for layer in self.layers:
            states = states + layer(F.gelu(states))
        return self.sums_in_cells(self.conv_out(F.gelu(states)))

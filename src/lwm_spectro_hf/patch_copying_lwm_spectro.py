"""
What the decoder of LWM-Spectro can take from the visible patches themselves. It is no part of the paper, whose decoder
sees tokens alone (eq. 16), and `decoder_num_copy_heads = 0` does without.
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
    What the visible patches show of each frame and of each frequency bin: the additive model `level + frame + bin`,
    fitted by two rounds of alternating means.

    Args:
        patches (`torch.Tensor` of shape `(batch, num_patches, patch_dim)`): Spectrograms; masked ones count nothing.
        mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked.
        config (`LwmSpectroConfig`): Gives the grid.

    Returns:
        `tuple`: The level, of shape `(batch, 1, num_channels, 1)`; the deviation from it of frames, and that of bins,
        both of shape `(batch, num_patches, num_channels, patch_size)`, alike for all patches of a row or column.
    """
    size = config.patch_size
    grid = patches.unflatten(1, (config.num_frames // size, -1)).unflatten(-1, (config.num_channels, size, size))
    visible = (~mask).to(patches).view(*grid.shape[:3], 1, 1)
    frame_means, bin_means = grid.mean(-1), grid.mean(-2)
    level = (frame_means.mean(-1, keepdim=True) * visible).sum((1, 2)) / visible.sum((1, 2)).clamp(min=1)
    level = level[:, None, None]
    # A row or column of which nothing is seen is at the level.
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
    The additive model of [`frame_and_bin_means`], whose output it takes, written out for every place.

    Returns:
        `torch.Tensor` of shape `(batch, num_patches, num_channels, patch_size, patch_size)`: Patches.
    """
    return level[..., None] + frames[..., :, None] + bins[..., None, :]


class LwmSpectroPatchCopying(nn.Module):
    """
    What the decoder takes from the visible patches themselves, which the width of a token cannot hold.

    Resource grids repeat: control regions and gaps fill frames, guard bands and fading fill bins, and pilots come back
    at the same places of the next patch. So a patch is first the sum of its frames' and bins' means; copies of what
    visible patches deviate from theirs are added, by attention whose values are the patches, each head with a gate
    for every frame of the patch; and gates for every frame and bin say where the sum is not one, as in a control
    region that ends within the band.
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
        """The bias of each pair of patches by their distance, of shape `(num_heads, num_patches, num_patches)`."""
        place = torch.arange(self.rows * self.columns, device=self.position_bias.device)
        down, across = place // self.columns, place % self.columns
        down, across = down[:, None] - down + self.rows - 1, across[:, None] - across + self.columns - 1
        return self.position_bias[:, down, across]

    def context_of(self, means: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """What [`frame_and_bin_means`] found, for the decoder's layers: `(batch, num_patches, hidden_size)`."""
        level, frames, bins = means
        seen = torch.cat([level.expand_as(frames[..., :1]), frames, bins], dim=-1).flatten(2)
        return self.context(seen.to(self.position_bias.dtype))

    def forward(
        self, hidden_states: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor, means: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """
        Decoder states `(batch, num_patches, hidden_size)`, and what visible patches deviate from the sum of means,
        with zeros where masked, to what is added to that sum, both `(batch, num_patches, patch_dim)`.
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
    What goes on from visible patches into the masked ones between them: residual convolutions over a map of cells.

    A channel's gain drifts from patch to patch and a scheduler's blocks end where they like, which neither means over
    the whole spectrogram nor copies of one patch can follow. A cell of 4 x 4 values, or of as many as divide a patch,
    is seen as the means of its frames and of its bins, over what the sum of means of [`frame_and_bin_means`] has
    there, which takes most of the noise of single values off; what is found for it is a sum of the same kind.
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
        """The means of frames and bins in cells: patches to `(batch, means, rows of cells, columns of cells)`."""
        size = self.cell_size
        cells = patchify(unpatchify(patches, self.patch_size, *self.shape), size).unflatten(2, (-1, size, size))
        means = torch.cat([cells.mean(-1), cells.mean(-2)], dim=-1)
        return means.flatten(2).mT.unflatten(2, self.cell_grid)

    def sums_in_cells(self, means: torch.Tensor) -> torch.Tensor:
        """The sum of what frames and bins have in each cell: what [`means_of_cells`] gives to patches."""
        size = self.cell_size
        frames, bins = means.flatten(2).mT.unflatten(2, (-1, 2 * size)).split(size, dim=-1)
        cells = frames[..., None] + bins[..., None, :]
        return patchify(unpatchify(cells.flatten(2), size, *self.shape), self.patch_size)

    def forward(self, hidden_states: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same as of [`LwmSpectroPatchCopying`], without the means."""
        visible = (~mask).to(deviation)[:, None].unflatten(2, self.patch_grid)
        tokens = self.tokens(hidden_states).mT.unflatten(2, self.patch_grid)
        of_cells = partial(F.interpolate, scale_factor=self.patch_size // self.cell_size)  # the nearest patch
        seen = torch.cat([self.means_of_cells(deviation), of_cells(visible)], dim=1)
        states = self.conv_in(seen.to(tokens.dtype)) + of_cells(tokens)
        for layer in self.layers:
            states = states + layer(F.gelu(states))
        return self.sums_in_cells(self.conv_out(F.gelu(states)))

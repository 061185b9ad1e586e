"""
Histograms of a spectrogram's levels, counted pixel by pixel. They are not part of the paper, whose embedding sees only
patches (eq. 11); `level_num_bins = 0` turns them off.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_lwm_spectro import LwmSpectroConfig
from .patches_lwm_spectro import patches_to_values

# In standard deviations of a spectrogram, most differences between windows are below 0.15, and some levels are two
# away from the mean around them. So the scale, an inverse hyperbolic sine, changes from linear to logarithmic at the
# first number and reaches the second at 2.25, where it ends.
_LINEAR_UP_TO = 0.05
_END = 4.5
# Frames and frequency bins over which the channel is taken as constant, both odd. Fewer average too few levels, more
# leave fading in. Of sizes from 9 x 5 to 33 x 33, this one identified the modulation of moving LTE and 5G receivers
# most often.
_NEIGHBOURHOOD = (17, 9)
# Lags, in frames, at which changes of the channel are measured. In a mean over nine bins, every fourth bin is enough.
_LAGS = (4, 8, 16, 32, 64)
_BIN_STEP = 4


def histogram_size(num_bins: int, num_channels: int) -> int:
    """Number of values that [`level_histogram`] returns for a spectrogram."""
    return num_bins ** min(num_channels, 2) + len(_LAGS) * num_bins + 3


def _bin_of(levels: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Index of the bin of each level; bins widen with the distance from zero, and the outermost are open-ended."""
    distance = levels.abs() / _LINEAR_UP_TO
    # The inverse hyperbolic sine, by functions that are vectorized on CPUs.
    scaled = levels.sign() * (distance + (distance.square() + 1).sqrt()).log()
    # Clamped as integers: NaN becomes an arbitrary integer, and an index out of range would be an error.
    return ((scaled + _END) * (num_bins / (2 * _END))).long().clamp(0, num_bins - 1)


def _sum_over_neighbours(values: torch.Tensor) -> torch.Tensor:
    """Sum over the neighborhood of each pixel of `(..., num_frames, num_freq_bins)`, truncated at the borders."""
    for dim, width in zip((-2, -1), _NEIGHBOURHOOD, strict=True):
        before = F.pad(values.movedim(dim, -1), (width // 2 + 1, width // 2)).cumsum(-1)
        values = (before[..., width:] - before[..., :-width]).movedim(-1, dim)
    return values


def _root_shares(index: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Square root of the share of the total weight in each of `size` bins, `(batch, size)`."""
    histogram = weight.new_zeros(weight.shape[0], size).scatter_add(1, index.flatten(1), weight.flatten(1))
    total = histogram.sum(1, keepdim=True)
    return torch.where(total > 0, histogram / total, 0).sqrt()


@torch.no_grad()
def level_histogram(input_values: torch.Tensor, visible: torch.Tensor, num_bins: int) -> torch.Tensor:
    """
    Histograms of the levels in the occupied part of a spectrogram: the frames and frequency bins whose mean level is
    above the middle between the quietest and the loudest.

    They show the constellation in two ways: QPSK has one power, 64-QAM nine; and a tapered window adds up neighboring
    subcarriers, so that its difference from a rectangular one depends on their relative phase, which has two values
    for BPSK and four for QPSK. Both need single pixels, each relative to the mean of its neighbors in time and
    frequency, which removes the channel, fading included. Changes of that mean over time have histograms of their own:
    they show how fast a receiver moves.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        visible (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`): Pixels to count.
        num_bins (`int`): Bins of each axis of a histogram.

    Returns:
        `torch.Tensor` of shape `(batch, 6 * num_bins + 3)`, or `(batch, num_bins**2 + 5 * num_bins + 3)` where there
        are two channels or more, float32: Square roots of the shares of pixels by the level of the first channel less
        the mean of its neighbors and, jointly, by the level of the second less the first; square roots of the shares
        of neighborhoods by the change of their mean over 4, 8, 16, 32 and 64 frames, weighted by the product of both
        numbers of pixels; then the shares of visible pixels, of frames and of bins that are counted.
    """
    values = input_values.float()
    level, visible = values[:, 0], visible.to(values)

    def mean(weight: torch.Tensor, dim: int) -> torch.Tensor:
        return (level * weight).sum(dim, keepdim=True) / weight.sum(dim, keepdim=True).clamp(min=1)

    def is_loud(means: torch.Tensor) -> torch.Tensor:
        return means > (means.amax((1, 2), keepdim=True) + means.amin((1, 2), keepdim=True)) / 2

    frames, bins = is_loud(mean(visible, 2)), is_loud(mean(visible, 1))
    counted = visible * frames * bins
    total, number = _sum_over_neighbours(torch.stack([level * counted, counted], dim=1)).unbind(1)
    channel = total / number.clamp(min=1)
    index, size = _bin_of(level - channel, num_bins), num_bins
    if values.shape[1] > 1:
        index, size = index * num_bins + _bin_of(values[:, 1] - level, num_bins), num_bins**2
    parts = [_root_shares(index, counted, size)]

    # Fewer frames than a lag are padded with empty ones: ONNX cannot make a histogram of zero frames.
    missing = max(_LAGS[-1] + 1 - channel.shape[1], 0)
    channel, number = (F.pad(part[..., ::_BIN_STEP], (0, 0, 0, missing)) for part in (channel, number))
    for lag in _LAGS:
        moved = channel[:, lag:] - channel[:, :-lag]
        parts.append(_root_shares(_bin_of(moved, num_bins), number[:, lag:] * number[:, :-lag], num_bins))

    num_pixels = visible.sum((1, 2))[:, None].clamp(min=1)
    parts += [counted.sum((1, 2))[:, None] / num_pixels, frames.float().mean(1), bins.float().mean(2)]
    return torch.cat(parts, dim=1)


class LwmSpectroLevelNorm(nn.BatchNorm1d):
    """
    Batch normalization by running statistics, in training as well, as a mixture may give an expert a single row of a
    batch. Without normalization, the small shares of rare levels would have no effect.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training and len(values):
            with torch.no_grad():
                self.num_batches_tracked += 1
                weight = (1 / self.num_batches_tracked).clamp(min=self.momentum).to(values)
                mean.lerp_(values.mean(0), weight)
                variance.lerp_((values - mean).square().mean(0), weight)
            # Another forward pass may update them before the backward pass of this one.
            mean, variance = mean.clone(), variance.clone()
        return F.batch_norm(values, mean, variance, self.weight, self.bias, eps=self.eps)


class LwmSpectroLevels(nn.Module):
    """
    The term that the histograms of levels add to the embedding: a normalization and three dense layers.

    Patches are embedded by a linear map or by convolutions over cells, after which no unit sees a single pixel, and
    the mean over patches keeps only what they have in common. Levels are therefore counted beside the transformer, and
    so are changes of the channel, for which differences must be taken before means.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        size = histogram_size(config.level_num_bins, config.num_channels)
        self.norm = LwmSpectroLevelNorm(size, momentum=0.01)
        self.dense1 = nn.Linear(size, config.hidden_size)
        self.dense2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            mask (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*): 1 = masked, not counted.

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size)`.
        """
        config = self.config
        if mask is None:
            mask = input_values.new_zeros(input_values.shape[0], config.num_patches)
        visible = ~patches_to_values(mask.bool(), config.patch_size, config.num_frames)
        histogram = level_histogram(input_values, visible, config.level_num_bins)
        # The norm's dtype: linear layers may be quantized, and the dtype of their weights is then not for computing.
        hidden_states = F.relu(self.dense1(self.norm(histogram.to(self.norm.weight.dtype))))
        return self.out_proj(F.relu(self.dense2(hidden_states)))

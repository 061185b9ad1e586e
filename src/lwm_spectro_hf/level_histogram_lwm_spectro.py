"""
Which levels a spectrogram has, counted pixel by pixel. It is no part of the paper, whose embedding sees patches alone
(eq. 11), and `level_num_bins = 0` does without.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_lwm_spectro import LwmSpectroConfig
from .patches_lwm_spectro import patches_to_values

# In standard deviations of a spectrogram, most differences between windows are below 0.15, and some levels are two
# away from the mean around them. So the scale turns from linear to logarithmic at the first number, and ends at 2.25.
_LINEAR_UP_TO = 0.05
_END = 4.5
# Frames and frequency bins over which a channel is taken for one, both odd: fewer make a mean of too few levels, more
# leave fading in. Of 9 x 5 to 33 x 33 this told most modulations of moving LTE and 5G receivers.
_NEIGHBOURHOOD = (17, 9)
# Frames after which it is asked how far a channel has moved. A mean over nine bins is as good at every fourth.
_LAGS = (4, 8, 16, 32, 64)
_BIN_STEP = 4


def histogram_size(num_bins: int, num_channels: int) -> int:
    """How many numbers [`level_histogram`] gives for a spectrogram."""
    return num_bins ** min(num_channels, 2) + len(_LAGS) * num_bins + 3


def _bin_of(levels: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Index of the bin of each level; bins grow with the distance from zero, and the outer ones have no end."""
    distance = levels.abs() / _LINEAR_UP_TO
    # The inverse hyperbolic sine, by functions that are vectorized on CPUs.
    scaled = levels.sign() * (distance + (distance.square() + 1).sqrt()).log()
    # Clamped as integers, for not-a-number becomes some integer, and a place outside would be an error.
    return ((scaled + _END) * (num_bins / (2 * _END))).long().clamp(0, num_bins - 1)


def _sum_over_neighbours(values: torch.Tensor) -> torch.Tensor:
    """For each pixel of `(..., num_frames, num_freq_bins)` the sum over its neighbourhood, as far as it is inside."""
    for dim, width in zip((-2, -1), _NEIGHBOURHOOD, strict=True):
        before = F.pad(values.movedim(dim, -1), (width // 2 + 1, width // 2)).cumsum(-1)
        values = (before[..., width:] - before[..., :-width]).movedim(-1, dim)
    return values


def _root_shares(index: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Square roots of the shares of the weight that each of `size` bins has, `(batch, size)`."""
    histogram = weight.new_zeros(weight.shape[0], size).scatter_add(1, index.flatten(1), weight.flatten(1))
    total = histogram.sum(1, keepdim=True)
    return torch.where(total > 0, histogram / total, 0).sqrt()


@torch.no_grad()
def level_histogram(input_values: torch.Tensor, visible: torch.Tensor, num_bins: int) -> torch.Tensor:
    """
    How the levels of the occupied part are spread: of the frames and frequency bins above the middle between the
    quietest and the loudest.

    A constellation shows in it: QPSK has one power, 64-QAM nine. And a tapered window adds up neighbouring
    subcarriers, so that what it sees beyond a rectangular one depends on their relative phase, for which BPSK has two
    values and QPSK four. Both take single pixels, each beside the mean of its neighbours in time and frequency, which
    takes off the channel, fading included. How that mean moves from frame to frame is counted by itself: it shows how
    fast a receiver moves.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        visible (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`): Pixels that count.
        num_bins (`int`): Of each axis.

    Returns:
        `torch.Tensor` of shape `(batch, 6 * num_bins + 3)`, or `(batch, num_bins**2 + 5 * num_bins + 3)` where there
        are two channels or more, float32: Square roots of the shares of pixels by the level of the first channel over
        the mean of its neighbours, and by what the second has more; of the shares of neighbourhoods by how far their
        mean moves in 4, 8, 16, 32 and 64 frames, weighted by the pixels that both have; then the share of pixels, of
        frames and of bins that count.
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

    # Fewer frames than a lag are followed by such as hold nothing: ONNX has no histogram of no frames.
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
    Normalization by running statistics, in training as well: a mixture may give an expert one row of a batch, and
    shares of rare levels are of no use before all are of one size.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training and len(values):
            with torch.no_grad():
                self.num_batches_tracked += 1
                weight = (1 / self.num_batches_tracked).clamp(min=self.momentum).to(values)
                mean.lerp_(values.mean(0), weight)
                variance.lerp_((values - mean).square().mean(0), weight)
            # Another pass may come before the gradient of this one.
            mean, variance = mean.clone(), variance.clone()
        return F.batch_norm(values, mean, variance, self.weight, self.bias, eps=self.eps)


class LwmSpectroLevels(nn.Module):
    """
    What the histogram of levels adds to the embedding: a normalization and three dense layers.

    Patches are embedded by linear maps or by convolutions over cells, and after them no unit sees one pixel; the mean
    over patches then keeps what all have in common. So constellations are counted beside the transformer, and so is
    how far a channel moves, for which differences have to come before means.
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
            mask (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*): 1 = masked: its pixels do not count.

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size)`.
        """
        config = self.config
        if mask is None:
            mask = input_values.new_zeros(input_values.shape[0], config.num_patches)
        visible = ~patches_to_values(mask.bool(), config.patch_size, config.num_frames)
        histogram = level_histogram(input_values, visible, config.level_num_bins)
        # The type of the norm: that of a linear layer's weights is none to compute in where they are quantized.
        hidden_states = F.relu(self.dense1(self.norm(histogram.to(self.norm.weight.dtype))))
        return self.out_proj(F.relu(self.dense2(hidden_states)))

"""
Which levels a spectrogram has, counted pixel by pixel. It is no part of the paper, whose embedding sees patches alone
(eq. 11), and `level_num_bins = 0` does without.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_lwm_spectro import LwmSpectroConfig

# In standard deviations of a spectrogram, most differences between windows are below 0.15, and some levels are two
# away from their bin's mean. So the scale turns from linear to logarithmic at the first number, and ends at 2.25.
_LINEAR_UP_TO = 0.05
_END = 4.5


def _bin_of(levels: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Index of the bin of each level; bins grow with the distance from zero, and the outer ones have no end."""
    distance = levels.abs() / _LINEAR_UP_TO
    # The inverse hyperbolic sine, by functions that are vectorized on CPUs.
    scaled = levels.sign() * (distance + (distance.square() + 1).sqrt()).log()
    # Clamped as integers, for not-a-number becomes some integer, and a place outside would be an error.
    return ((scaled + _END) * (num_bins / (2 * _END))).long().clamp(0, num_bins - 1)


@torch.no_grad()
def level_histogram(input_values: torch.Tensor, visible: torch.Tensor, num_bins: int) -> torch.Tensor:
    """
    How the levels of the occupied part are spread: of the frames and frequency bins above the middle between the
    quietest and the loudest.

    A constellation shows in it: QPSK has one power, 64-QAM nine. And a tapered window adds up neighbouring
    subcarriers, so that what it sees beyond a rectangular one depends on their relative phase, for which BPSK has two
    values and QPSK four. Both take single pixels, each beside the mean of its frequency bin, which takes off the
    channel.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        visible (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`): Pixels that count.
        num_bins (`int`): Of each axis.

    Returns:
        `torch.Tensor` of shape `(batch, num_bins + 3)`, or `(batch, num_bins**2 + 3)` where there are two channels or
        more, float32: Square roots of the shares of pixels by the level of the first channel over the mean of its
        frequency bin, and by what the second has more; then the share of pixels, of frames and of bins that count.
    """
    values = input_values.float()
    level, visible = values[:, 0], visible.to(values)

    def mean(weight: torch.Tensor, dim: int) -> torch.Tensor:
        return (level * weight).sum(dim, keepdim=True) / weight.sum(dim, keepdim=True).clamp(min=1)

    def is_loud(means: torch.Tensor) -> torch.Tensor:
        return means > (means.amax((1, 2), keepdim=True) + means.amin((1, 2), keepdim=True)) / 2

    frames, bins = is_loud(mean(visible, 2)), is_loud(mean(visible, 1))
    counted = visible * frames * bins
    index = _bin_of(level - mean(visible * frames, 1), num_bins)
    size = num_bins
    if values.shape[1] > 1:
        index, size = index * num_bins + _bin_of(values[:, 1] - level, num_bins), num_bins**2
    histogram = values.new_zeros(values.shape[0], size).scatter_add(1, index.flatten(1), counted.flatten(1))
    num_counted = histogram.sum(1, keepdim=True)
    shares = [num_counted / visible.sum((1, 2))[:, None].clamp(min=1), frames.float().mean(1), bins.float().mean(2)]
    return torch.cat([(histogram / num_counted.clamp(min=1)).sqrt(), *shares], dim=1)


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
    over patches then keeps what all have in common. So constellations are counted beside the transformer.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        size = config.level_num_bins ** min(config.num_channels, 2) + 3
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
        rows = (~mask.bool()).unflatten(1, (config.num_frames // config.patch_size, -1))
        visible = rows.repeat_interleave(config.patch_size, 1).repeat_interleave(config.patch_size, 2)
        histogram = level_histogram(input_values, visible, config.level_num_bins)
        hidden_states = F.relu(self.dense1(self.norm(histogram.to(self.dense1.weight.dtype))))
        return self.out_proj(F.relu(self.dense2(hidden_states)))

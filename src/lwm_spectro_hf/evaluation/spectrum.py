"""Forecasting and segmentation of spectra: scores, and baselines without a network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..extras import require
from ..modeling_masked_conv_lstm import standardize
from .reconstruction import RIDGES, RidgeRegression

SNR_EDGES_DB = (0, 10, 20, 30)  # edges of the ranges for which recall is given
_FITTED_VALUES = 200_000  # values of spectrograms that the trees are fitted to


def noise_error(std_db: torch.Tensor) -> float:
    """Squared error of a predictor that knows the mean of every level, but sees none of the bins beside it.

    Powers of noise, and of OFDM with data, are exponentially distributed; their levels [dB] have a variance of
    (10 / ln 10)^2 pi^2 / 6. The window correlates neighboring bins: in white noise, a bin beside a visible one can be
    predicted with 0.87 of this error.

    Args:
        std_db (`torch.Tensor` of shape `(num,)`): Deviations that the spectrograms were normalized by [dB].

    Returns:
        `float`: In units of normalized spectrograms.
    """
    variance = (10 / math.log(10)) ** 2 * math.pi**2 / 6
    return float((variance / std_db.double().square()).mean())


def standardized(values: torch.Tensor, num_known: int) -> torch.Tensor:
    """Spectrograms standardized by the mean and deviation of their known frames, as forecasts see them.

    Args:
        values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        num_known (`int`): How many of the first frames are known.
    """
    is_future = torch.arange(values.shape[2]) >= num_known
    return standardize(values, is_future[None, :, None].expand(len(values), *values.shape[2:]))[0]


class LinearForecast(RidgeRegression):
    """Ridge regression, the same for each bin, from all its known frames and the means of the five bins around it.

    Args:
        num_known (`int`): Frames to forecast from.
    """

    def __init__(self, num_known: int):
        super().__init__()
        self.num_known = num_known

    def fit(self, values: torch.Tensor) -> "LinearForecast":
        """Fit to standardized spectrograms of the training data."""
        pairs = (
            (self._features(part).flatten(0, 2), part[:, :, self.num_known :].transpose(2, 3).flatten(0, 2))
            for part in values.split(256)
        )
        return self.fit_pairs(pairs, RIDGES[0])

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return (self._features(values) @ self.weights).transpose(2, 3)

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_channels, num_freq_bins, features)`."""
        known = values[:, :, : self.num_known].transpose(2, 3)
        mean = known.mean(-1)
        around = F.pad(mean, (2, 2), mode="replicate").unfold(-1, 5, 1)
        return torch.cat([known, around, torch.ones_like(mean)[..., None]], dim=-1)


def forecast_errors(
    fitting: torch.Tensor,
    values: torch.Tensor,
    num_known: int,
    predict: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, float]:
    """Mean squared error of forecasts, in variances of the known frames.

    Args:
        fitting (`torch.Tensor` of shape `(num, num_channels, num_frames, num_freq_bins)`): Spectrograms of the
            training data, for the linear forecast. Its ridge is the one of `RIDGES` with the lowest error on the
            scored data, so that it is never worse than a tuned one.
        values (`torch.Tensor` of shape `(num, num_channels, num_frames, num_freq_bins)`): Spectrograms to score on.
        num_known (`int`): Frames to forecast from.
        predict (`Callable`, *optional*): A model, which maps known frames to the following ones.

    Returns:
        `dict`: The error of the last known frame, of the mean of the known frames, of the linear forecast, and of the
        model.
    """
    values = standardized(values, num_known)
    known, future = values[:, :, :num_known], values[:, :, num_known:]
    linear = LinearForecast(num_known).fit(standardized(fitting, num_known))

    def error(forecast: torch.Tensor) -> float:
        return float((forecast - future).square().mean())

    errors = {
        "last frame": error(known[:, :, -1:].expand_as(future)),
        "mean of the known frames": error(known.mean(2, keepdim=True).expand_as(future)),
        "linear forecast": min(error(linear.with_ridge(ridge)(values)) for ridge in RIDGES),
    }
    if predict is not None:
        errors["model"] = error(torch.cat([predict(part) for part in known.split(64)]))
    return errors


def local_statistics(values: torch.Tensor) -> torch.Tensor:
    """Statistics of each value of a spectrogram, from those around it.

    Args:
        values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames, num_freq_bins, num_statistics)`: Means and deviations over squares
        and over stretches of time and frequency, mean and deviation of the bin, and its distance from the middle.
    """
    windows = ((1, 1), (3, 3), (7, 7), (15, 15), (1, 15), (15, 1), (31, 3))
    parts = []
    for frames, bins in windows:
        padding = (bins // 2, bins // 2, frames // 2, frames // 2)
        padded = F.pad(values.float(), padding, mode="replicate")
        mean = F.avg_pool2d(padded, (frames, bins), stride=1)
        parts.append(mean)
        if frames * bins > 1:
            square = F.avg_pool2d(padded.square(), (frames, bins), stride=1)
            parts.append((square - mean.square()).clamp(min=0).sqrt())
    std, mean = torch.std_mean(values.float(), dim=2, keepdim=True)
    middle = values.shape[3] // 2
    distance = (torch.arange(values.shape[3], device=values.device) - middle).abs()
    parts += [mean.expand_as(values), std.expand_as(values), distance.expand_as(values).float()]
    return torch.cat(parts, dim=1).permute(0, 2, 3, 1)


def fit_trees(
    values: torch.Tensor, labels: torch.Tensor, seed: int = 0, frame_step: int = 1
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gradient-boosted trees on [`local_statistics`], the baseline of segmentation.

    Args:
        values (`torch.Tensor` of shape `(num, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        labels (`torch.Tensor` of shape `(num, num_frames, num_freq_bins)`): Of their values.
        seed (`int`, *optional*, defaults to 0): Of the trees, and of the random values that they are fitted to.
        frame_step (`int`, *optional*, defaults to 1): Predict one frame in this many, because trees are slow.

    Returns:
        `Callable`: Maps spectrograms to labels.
    """
    ensemble = require("sklearn.ensemble", "train")
    generator = torch.Generator().manual_seed(seed)
    per_row = max(1, min(labels[0].numel(), _FITTED_VALUES // len(values)))
    features, targets = [], []
    for part, truth in zip(values.split(64), labels.split(64), strict=True):
        places = torch.stack([torch.randperm(truth[0].numel(), generator=generator)[:per_row] for _ in part])
        statistics = local_statistics(part).flatten(1, 2)
        features.append(statistics.gather(1, places[..., None].expand(-1, -1, statistics.shape[-1])).flatten(0, 1))
        targets.append(truth.flatten(1).gather(1, places).flatten())
    trees = ensemble.HistGradientBoostingClassifier(random_state=seed)
    trees.fit(torch.cat(features).numpy(), torch.cat(targets).numpy())

    def predict(values: torch.Tensor) -> torch.Tensor:
        statistics = local_statistics(values)[:, ::frame_step]
        answers = trees.predict(statistics.flatten(0, 2).numpy())
        return torch.from_numpy(answers).view(statistics.shape[:3])

    return predict


def segmentation_scores(
    labels: torch.Tensor, predictions: torch.Tensor, names: Sequence[str], snr_db: torch.Tensor | None = None
) -> dict[str, Any]:
    """Scores of the predicted labels of values.

    Args:
        labels, predictions (`torch.Tensor` of shape `(num, num_frames, num_freq_bins)`): Indices into `names`; a
            value with a negative label does not count.
        names (`Sequence[str]`): Names of the labels; the first label means that nothing is sent.
        snr_db (`torch.Tensor` of shape `(num, num_labels - 1)`, *optional*): Of the carrier of each other label [dB].

    Returns:
        `dict`: `accuracy`, `iou` of each label (intersection over union; `None` where it neither occurs nor is
        predicted) and `mean_iou`, over the others, in %; with `snr_db`, `recall_by_snr_db`: the share of the values
        of carriers that were predicted correctly, in %.
    """
    metrics = require("sklearn.metrics", "train")
    labels = labels.long()
    known = labels >= 0
    truth, answers = labels[known].numpy(), predictions[known].numpy()
    counts = metrics.confusion_matrix(truth, answers, labels=range(len(names)))
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    iou = np.where(union > 0, counts.diagonal() / np.maximum(union, 1), np.nan)
    scores = {
        "accuracy": 100 * float((truth == answers).mean()),
        "mean_iou": 100 * float(np.nanmean(iou)),
        "iou": {name: None if np.isnan(value) else 100 * float(value) for name, value in zip(names, iou, strict=True)},
    }
    if snr_db is not None:
        # The SNR of the carrier that each value belongs to; NaN where nothing is sent.
        padded = F.pad(snr_db, (1, 0), value=torch.nan)
        own = padded.gather(1, labels.flatten(1).clamp(min=0)).flatten()
        right = (labels == predictions).flatten()
        scores["recall_by_snr_db"] = {}
        for low, high in zip(SNR_EDGES_DB[:-1], SNR_EDGES_DB[1:], strict=True):
            rows = (own >= low) & (own < high)
            if rows.any():
                scores["recall_by_snr_db"][f"{low} to {high}"] = 100 * float(right[rows].float().mean())
    return scores

"""Masked reconstruction and its baselines without a network: visible means, interpolation, a linear predictor."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ..configuration_lwm_spectro import LwmSpectroConfig
from ..markdown import markdown_table
from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..objectives_lwm_spectro import draw_mask
from ..patch_copying_lwm_spectro import frame_and_bin_means, sum_of_means
from ..patches_lwm_spectro import patches_to_values, patchify
from ..training.masks import mask_noise

Batch = tuple[torch.Tensor, torch.Tensor]  # spectrograms and masks
_COARSE = 8
RIDGES = (1e-3, 1.0)
ADDITIVE = "means of frames and bins"
Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def masked_batches(batches: Iterable[dict[str, torch.Tensor]], config: LwmSpectroConfig, seed: int) -> list[Batch]:
    """Spectrograms, and masks that depend on their `index` and the seed alone."""
    drawn = []
    for batch in batches:
        noise = mask_noise(batch["index"], config.num_patches, seed)
        drawn.append((batch["input_values"], draw_mask(config, batch["input_values"], noise=noise)))
    return drawn


def masked_error(predict: Predictor, batches: Iterable[Batch], patch_size: int) -> float:
    """Mean squared error of a value in a masked patch.

    Args:
        predict (`Callable`): Maps spectrograms and masks to patches of shape `(batch, num_patches, patch_dim)`.
        batches (`Iterable`): Spectrograms of shape `(batch, num_channels, num_frames, num_freq_bins)`, and masks of
            shape `(batch, num_patches)`, 1 = masked.
        patch_size (`int`): Side of a patch.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for values, mask in batches:
            target = patchify(values, patch_size)
            error = (predict(values, mask).float() - target).square().mean(-1)
            total += float(error[mask].double().sum())
            count += int(mask.sum())
    return total / count


def mean_of_visible(values: torch.Tensor, mask: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The mean of the visible patches, at every position."""
    patches = patchify(values, patch_size)
    seen = ~mask[..., None]
    mean = (patches * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
    return mean.expand_as(patches)


def interpolated(values: torch.Tensor, mask: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Interpolate each hidden value from the nearest visible ones to the left, to the right, above and below.

    The linear interpolations along time and along frequency are weighted by the inverse of their gaps. Beyond the last
    visible value of a line, that value is repeated; where neither line has one, [`mean_of_visible`] is taken.
    """
    hidden = patches_to_values(mask, patch_size, values.shape[-2])[:, None].expand_as(values)
    across, gap_across = _along_last(values, hidden)
    down, gap_down = (part.transpose(-1, -2) for part in _along_last(values.mT, hidden.mT))
    weights = torch.stack([1 / gap_across, 1 / gap_down])
    both = (weights * torch.stack([across, down])).sum(0) / weights.sum(0)
    patches = patchify(both, patch_size)
    nothing = patchify((weights.sum(0) == 0).float(), patch_size).bool()
    return torch.where(nothing, mean_of_visible(values, mask, patch_size), patches)


def _along_last(values: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear interpolation along the last dimension, and the gap that it bridges, infinite if nothing is visible."""
    size = values.shape[-1]
    place = torch.arange(size, device=values.device).expand_as(values)
    before = place.masked_fill(hidden, -1).cummax(-1).values
    after = place.masked_fill(hidden, size).flip(-1).cummin(-1).values.flip(-1)
    first, last = (before >= 0), (after < size)
    low = values.gather(-1, torch.where(first, before, after.clamp(max=size - 1)))
    high = values.gather(-1, torch.where(last, after, before.clamp(min=0)))
    gap = (after - before).to(values)
    weight = torch.where(first & last & (gap > 0), (place - before) / gap.clamp(min=1), 0.0)
    # Beyond the last visible value, the gap is twice the distance to it, as if it were mirrored.
    one_sided = 2 * torch.where(first, place - before, after - place).to(values)
    gap = torch.where(first & last, gap, one_sided).masked_fill(~(first | last), torch.inf)
    return low + (high - low) * weight, gap.clamp(min=1)


def additive(values: torch.Tensor, mask: torch.Tensor, config: LwmSpectroConfig) -> torch.Tensor:
    """The sum of the means of frames and of bins over visible patches, from which a copying decoder starts."""
    return sum_of_means(*frame_and_bin_means(patchify(values, config.patch_size), mask, config)).flatten(2)


class RidgeRegression:
    """Least squares with a penalty on weights; keeps its sums, so that another penalty needs no second pass."""

    def __init__(self):
        self.weights: torch.Tensor | None = None
        self._gram = self._cross = None

    def fit_pairs(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], ridge: float) -> "RidgeRegression":
        """Fit to features `(num, features)` and targets `(num, dim)`; the penalty is `ridge` x the diagonal's mean."""
        gram, cross = 0.0, 0.0
        for features, target in pairs:
            gram = gram + (features.T @ features).double()
            cross = cross + (features.T @ target).double()
        self._gram, self._cross = gram, cross
        return self.with_ridge(ridge)

    def with_ridge(self, ridge: float) -> "RidgeRegression":
        """Refit to the same data with another ridge."""
        regularized = self._gram.clone()
        regularized.diagonal().add_(ridge * self._gram.diagonal().mean())
        self.weights = torch.cholesky_solve(self._cross, torch.linalg.cholesky(regularized)).float()
        return self


class LinearPredictor(RidgeRegression):
    """Least squares from the visible ones of the patches within eight values, and from the mean of all visible ones.

    As features, patches of more than 8 x 8 values are averaged down to that many.

    Args:
        config (`LwmSpectroConfig`): Gives the grid.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        self.reach = max(1, 8 // config.patch_size)  # patches to each side

    def fit(self, batches: Iterable[Batch], ridge: float = 1e-3) -> "LinearPredictor":
        """Fit to batches of the training data, with `ridge` as in [`fit_pairs`]."""
        pairs = ((self._features(*batch)[batch[1]], self._deviation(*batch)[batch[1]]) for batch in batches)
        return self.fit_pairs(pairs, ridge)

    def __call__(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_of_visible(values, mask, self.config.patch_size) + self._features(values, mask) @ self.weights

    def _deviation(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        size = self.config.patch_size
        return patchify(values, size) - mean_of_visible(values, mask, size)

    def _coarse(self, patches: torch.Tensor) -> torch.Tensor:
        """Average large patches down to `_COARSE` values per side, so that weights do not outnumber samples."""
        size = self.config.patch_size
        if size <= _COARSE or size % _COARSE:
            return patches
        images = patches.reshape(-1, self.config.num_channels, size, size)
        return F.avg_pool2d(images, size // _COARSE).reshape(*patches.shape[:2], -1)

    def _features(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, num_patches, features)`: deviations of patches around, 0 if hidden; which are visible; mean; 1."""
        config, width = self.config, 2 * self.reach + 1
        rows, columns = config.num_frames // config.patch_size, config.num_freq_bins // config.patch_size
        seen = (~mask[..., None]).to(values)
        mean = mean_of_visible(values, mask, config.patch_size)
        known = (patchify(values, config.patch_size) - mean) * seen
        around = torch.cat([self._coarse(known), seen], dim=-1)
        around = around.transpose(1, 2).unflatten(2, (rows, columns))
        around = F.unfold(around, width, padding=self.reach).transpose(1, 2)
        return torch.cat([around, mean, torch.ones_like(seen)], dim=-1)


def baseline_errors(config: LwmSpectroConfig, fitting: Sequence[Batch], batches: Sequence[Batch]) -> dict[str, float]:
    """Masked reconstruction error without a network.

    Args:
        config (`LwmSpectroConfig`): Gives the grid.
        fitting (`Sequence`): Spectrograms and masks of the training data, for the linear predictor. Its ridge is the
            one of `RIDGES` with the lowest error on the scored data, so that it is never worse than a tuned one.
        batches (`Sequence`): Spectrograms and masks to score on.

    Returns:
        `dict`: The error of each baseline, see [`masked_error`].
    """
    size = config.patch_size
    linear = LinearPredictor(config).fit(fitting)
    return {
        ADDITIVE: masked_error(partial(additive, config=config), batches, size),
        "mean of the visible patches": masked_error(partial(mean_of_visible, patch_size=size), batches, size),
        "interpolation": masked_error(partial(interpolated, patch_size=size), batches, size),
        "linear predictor": min(masked_error(linear.with_ridge(ridge), batches, size) for ridge in RIDGES),
    }


def over_best_baseline(errors: dict[str, float]) -> float:
    """The error of "model" divided by the lowest error of the baselines, see [`baseline_errors`].

    The baseline `ADDITIVE` does not count, since it is part of models that copy.
    """
    return errors["model"] / min(error for name, error in errors.items() if name not in ("model", ADDITIVE))


def error_table(found: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row for each data set, with all errors and the ratios of the model's to the baselines'.

    Args:
        found (`dict[str, dict[str, float]]`): By the name of the row, the [`baseline_errors`] and the error of
            "model"; one row or more.

    Returns:
        `str`
    """
    names = list(next(iter(found.values())))
    rows = [["", *names, f"model / {ADDITIVE}", "model / best of the other baselines"]]
    for label, errors in found.items():
        cells = [f"{errors[name]:.3f}" for name in names]
        cells += [f"{errors['model'] / errors[ADDITIVE]:.2f}", f"{over_best_baseline(errors):.2f}"]
        rows.append([label, *cells])
    return markdown_table(rows)


def model_error(model: LwmSpectroForPreTraining, batches: Iterable[Batch]) -> float:
    """Masked reconstruction error of a model, see [`masked_error`].

    Raises:
        ValueError: If the model does not reconstruct patches.
    """
    config = model.config
    if config.reconstruction_target != "patches":
        raise ValueError(
            f"The model reconstructs {config.reconstruction_target}, which differ from model to model; errors can be "
            'compared only with `reconstruction_target="patches"`.'
        )
    training = model.training
    model.eval()

    def predict(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # `forward`, since a call of a compiled model would be compiled again for this.
        return model.forward(values, bool_masked_pos=mask).reconstruction

    error = masked_error(predict, batches, config.patch_size)
    model.train(training)
    return error

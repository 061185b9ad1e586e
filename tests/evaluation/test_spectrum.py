"""Baselines and scores of forecasting and segmentation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.evaluation.spectrum import (
    fit_trees,
    forecast_errors,
    local_statistics,
    noise_error,
    segmentation_scores,
    standardized,
)

KNOWN = 24


def noise(num=16, seed=0, num_frames=32, num_bins=40):
    return torch.randn(num, 1, num_frames, num_bins, generator=torch.Generator().manual_seed(seed))


def test_known_frames_are_standardized_whatever_follows():
    values = 7 * noise() - 60
    values[:, :, KNOWN:] += 100
    found = standardized(values, KNOWN)[:, :, :KNOWN]
    torch.testing.assert_close(found.mean(dim=(2, 3)), torch.zeros(16, 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(dim=(2, 3), correction=0), torch.ones(16, 1), rtol=1e-4, atol=0)


def test_the_error_of_noise_matches_theory():
    """A spectrogram of noise alone, normalized by its own deviation, has an error of one."""
    iq = torch.randn(4, 20_000, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    levels = SpectrogramFeatureExtractor(normalization="none").spectrogram(iq)
    assert noise_error(levels.std(dim=(1, 2, 3))) == pytest.approx(1.0, abs=0.02)


def test_forecasts_of_noise_have_the_errors_of_theory():
    """For white noise of unit variance: 2 by its last value, 1 + 1 / n by the mean of n, 1 by its true mean."""
    errors = forecast_errors(noise(64, 1), noise(64, 2), KNOWN, lambda known: torch.zeros_like(known[:, :, :8]))
    assert errors["last frame"] == pytest.approx(2.0, rel=0.02)
    assert errors["mean of the known frames"] == pytest.approx(1 + 1 / KNOWN, rel=0.02)
    assert errors["linear forecast"] == pytest.approx(1.0, rel=0.02)
    assert errors["model"] == pytest.approx(1.0, rel=0.02)


def test_the_linear_forecast_continues_periodic_signals():
    generator = torch.Generator().manual_seed(3)
    period = torch.randn(40, 1, 6, 40, generator=generator)
    values = period.repeat(1, 1, 6, 1)[:, :, :32]
    errors = forecast_errors(values[:20], values[20:], KNOWN)
    assert errors["linear forecast"] < 0.01
    assert min(errors["last frame"], errors["mean of the known frames"]) > 0.5


def test_local_means_match_scipy():
    values = noise(2, 4)
    statistics = local_statistics(values)
    assert statistics.shape[:3] == (2, 32, 40)
    torch.testing.assert_close(statistics[..., 0], values[:, 0])
    for row, found in zip(values[:, 0].numpy(), statistics[..., 1].numpy(), strict=True):
        np.testing.assert_allclose(found, uniform_filter(row, 3, mode="nearest"), atol=1e-5)
    assert statistics.isfinite().all()


def test_trees_tell_loud_from_quiet():
    values, labels = noise(8, 5), torch.zeros(8, 32, 40, dtype=torch.uint8)
    labels[:4, :, 5:20] = 1
    labels[4:, 10:20] = 2
    values = values + 8 * (labels[:, None] > 0)
    predict = fit_trees(values[::2], labels[::2])
    told = predict(values[1::2])
    assert told.shape == labels[1::2].shape
    assert (told == labels[1::2]).float().mean() > 0.97
    assert torch.equal(fit_trees(values[::2], labels[::2], frame_step=5)(values[1::2]), told[:, ::5])


def test_scores_of_a_segmentation_by_hand():
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 2, 2, 2]]], dtype=torch.uint8)
    answers = torch.tensor([[[0, 1, 1, 1]], [[0, 2, 0, 1]]])
    snr_db = torch.tensor([[5.0, torch.nan], [torch.nan, 25.0]])
    scores = segmentation_scores(labels, answers, ("nothing", "A", "B"), snr_db)
    assert scores["accuracy"] == pytest.approx(100 * 5 / 8)
    assert scores["iou"] == pytest.approx({"nothing": 50.0, "A": 50.0, "B": 100 / 3})
    assert scores["mean_iou"] == pytest.approx((50 + 50 + 100 / 3) / 3)
    assert scores["recall_by_snr_db"] == pytest.approx({"0 to 10": 100.0, "20 to 30": 100 / 3})


def test_labels_that_do_not_occur_do_not_count():
    nothing = torch.zeros(1, 4, 4, dtype=torch.uint8)
    scores = segmentation_scores(nothing, nothing.long(), ("nothing", "A"))
    assert scores["mean_iou"] == 100.0 and scores["iou"] == {"nothing": 100.0, "A": None}

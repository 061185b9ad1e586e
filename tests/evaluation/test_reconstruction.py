"""Baselines of masked reconstruction, on spectrograms that each of them can or cannot predict."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForPreTraining, patchify, unpatchify
from lwm_spectro_hf.evaluation.reconstruction import (
    RIDGES,
    LinearPredictor,
    baseline_errors,
    interpolated,
    masked_error,
    mean_of_visible,
    model_error,
    over_best_baseline,
)
from lwm_spectro_hf.objectives_lwm_spectro import draw_mask

CONFIG = LwmSpectroConfig(
    num_frames=32, num_freq_bins=24, num_channels=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
)


def batch(values, seed=0):
    noise = torch.rand(len(values), CONFIG.num_patches, generator=torch.Generator().manual_seed(seed))
    return values, draw_mask(CONFIG, values, noise=noise)


def test_the_error_counts_masked_patches_alone():
    values, mask = batch(torch.randn(3, 2, 32, 24, generator=torch.Generator().manual_seed(0)))
    patches = patchify(values, 4)
    assert masked_error(lambda values, mask: patches + mask[..., None], [(values, mask)], 4) == pytest.approx(1.0)
    assert masked_error(lambda values, mask: patches + ~mask[..., None], [(values, mask)], 4) == 0.0


def test_the_mean_is_that_of_visible_patches():
    values, mask = batch(torch.randn(2, 2, 32, 24, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack([patchify(values, 4)[row][~mask[row]].mean(0) for row in range(2)])
    torch.testing.assert_close(mean_of_visible(values, mask, 4)[:, 7], expected)


def test_interpolation_restores_a_plane_from_visible_patches():
    frame, bin_ = torch.arange(32.0)[:, None], torch.arange(24.0)
    plane = torch.stack([frame + 2 * bin_, 5 - frame * 0.5 + 0 * bin_]).expand(1, 2, 32, 24)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[1:3, 2:5], mask[5, 1] = True, True
    mask = mask.reshape(1, -1)
    torch.testing.assert_close(interpolated(plane, mask, 4), patchify(plane, 4), rtol=0, atol=1e-4)
    _, mask = batch(plane)
    hidden = torch.where(mask[..., None], torch.nan, patchify(plane, 4))
    torch.testing.assert_close(
        interpolated(unpatchify(hidden, 4, 32, 24).nan_to_num(1e6), mask, 4), interpolated(plane, mask, 4)
    )
    assert bool(interpolated(plane, mask, 4).isfinite().all())
    # A single visible patch is enough for finite values.
    mask = torch.ones(1, 48, dtype=torch.bool)
    mask[0, 10] = False
    assert bool(interpolated(plane, mask, 4).isfinite().all())


def test_the_linear_predictor_learns_from_neighbours():
    """Every patch equals the one above it, which is mostly visible, so little error is left."""
    config = LwmSpectroConfig(num_frames=32, num_freq_bins=24, num_channels=2, mask_ratio=0.1)
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(320, 2, 1, 4, 1, 24, generator=generator)
    values = column.expand(320, 2, 8, 4, 1, 24).reshape(320, 2, 32, 24)
    mask = draw_mask(config, values, noise=torch.rand(320, 48, generator=generator))
    fitting, scored = [(values[:256], mask[:256])], [(values[256:], mask[256:])]
    errors = baseline_errors(config, fitting, scored)
    linear = LinearPredictor(config).fit(fitting)
    tried = [masked_error(linear.with_ridge(ridge), scored, 4) for ridge in RIDGES]
    assert errors["linear predictor"] == pytest.approx(min(tried)) and min(tried) < max(tried)
    assert errors["linear predictor"] < 0.3 * min(errors["mean of the visible patches"], errors["interpolation"])


def test_models_are_scored_the_same_way():
    model = LwmSpectroForPreTraining(CONFIG).train()
    scored = [batch(torch.randn(2, 2, 32, 24))]
    with torch.no_grad():
        loss = model.eval()(scored[0][0], bool_masked_pos=scored[0][1]).reconstruction_loss
    assert model_error(model, scored) == pytest.approx(float(loss) / CONFIG.patch_dim, rel=1e-4)
    config = LwmSpectroConfig(**{**CONFIG.to_diff_dict(), "reconstruction_target": "embeddings"})
    with pytest.raises(ValueError, match="reconstructs embeddings"):
        model_error(LwmSpectroForPreTraining(config), scored)


def test_large_patches_predict_by_their_averages():
    """Averages are enough for a plane; all 16 x 16 values would need more weights than there are samples."""
    config = LwmSpectroConfig(num_frames=64, num_freq_bins=48, patch_size=16, mask_ratio=0.25)
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(64, 2, 1, 1, generator=generator)
    values = slopes[:, :1] * torch.linspace(-1, 1, 64)[:, None] + slopes[:, 1:] * torch.linspace(-1, 1, 48)
    mask = draw_mask(config, values, noise=torch.rand(64, 12, generator=generator))
    linear = LinearPredictor(config).fit([(values[:48], mask[:48])])
    # Nine patches of 8 x 8 averages and whether they are seen, the mean patch, and a constant.
    assert linear.weights.shape == (9 * 65 + 256 + 1, 256)
    assert masked_error(linear, [(values[48:], mask[48:])], 16) < 0.3 * float(values.var())


def test_the_benchmark_gives_errors_and_a_picture(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "benchmarks" / "reconstruction.py"
    monkeypatch.syspath_prepend(str(script.parent))  # as python does for a script
    options = ["--recipes", "paper", "--protocols", "WiFi", "--num", "32", "--num-fit", "32"]
    options += ["--out", str(tmp_path / "errors.json"), "--figure", str(tmp_path / "picture.png")]
    monkeypatch.setattr(sys, "argv", [script.name, *options])
    runpy.run_path(str(script), run_name="__main__")
    errors = json.loads((tmp_path / "errors.json").read_text())["paper, WiFi"]
    assert errors["model"] < errors["means of frames and bins"] < errors["mean of the visible patches"]
    over_means = errors["model"] / errors["means of frames and bins"]
    ratios = f"| {errors['model']:.3f} | {over_means:.2f} | {over_best_baseline(errors):.2f} |"
    assert ratios in capsys.readouterr().out
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    monkeypatch.setattr(sys, "argv", [script.name, "--num", "5"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--num is 5 and --num-fit 2048; expected at least 32" in capsys.readouterr().err

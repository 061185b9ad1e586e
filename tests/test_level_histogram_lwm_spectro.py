"""Counting levels, against NumPy's histograms, row by row."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lwm_spectro_hf import LwmSpectroModel
from lwm_spectro_hf.level_histogram_lwm_spectro import LwmSpectroLevelNorm, histogram_size, level_histogram
from tiny_models import LEVELS, build, inputs_for, main_output, tiny_config


def packet(num_channels=2):
    """Noise with three loud frames that fill eight of ten bins, each bin at its own level."""
    generator = torch.Generator().manual_seed(0)
    values = 0.3 * torch.randn(2, num_channels, 12, 10, generator=generator) - 6
    levels = torch.linspace(-0.5, 0.5, 8)
    values[:, :, 4:7, 1:9] = levels + 0.3 * torch.randn(2, num_channels, 3, 8, generator=generator)
    return values


def written_out(values, visible, num_bins):
    """The histogram of one spectrogram, written out in NumPy."""
    values, visible = values.numpy().astype(np.float64), visible.numpy()
    frames = np.array([np.mean(row[seen]) for row, seen in zip(values[0], visible, strict=True)])
    bins = np.array([np.mean(row[seen]) for row, seen in zip(values[0].T, visible.T, strict=True)])
    frames, bins = frames > (frames.max() + frames.min()) / 2, bins > (bins.max() + bins.min()) / 2
    counted = visible & frames[:, None] & bins
    channel, number = np.zeros_like(values[0]), np.zeros_like(values[0])
    for row, column in np.ndindex(counted.shape):
        near = np.s_[max(row - 8, 0) : row + 9, max(column - 4, 0) : column + 5]
        number[row, column] = counted[near].sum()
        channel[row, column] = values[0][near][counted[near]].mean() if counted[near].any() else 0
    edges = 0.05 * np.sinh(np.linspace(-4.5, 4.5, num_bins + 1))
    edges[0], edges[-1] = -np.inf, np.inf
    axes = [(values[0] - channel)[counted]] + ([(values[1] - values[0])[counted]] if len(values) > 1 else [])
    shares = [np.histogramdd(np.stack(axes, 1), [edges] * len(axes))[0].ravel() / counted.sum()]
    for lag in 4, 8, 16, 32, 64:
        pairs = [((i, j), (i + lag, j)) for i in range(len(frames) - lag) for j in range(0, len(bins), 4)]
        moved = [channel[after] - channel[before] for before, after in pairs]
        both = [number[after] * number[before] for before, after in pairs]
        shares.append(np.histogram(moved, edges, weights=both)[0] / max(np.sum(both), 1))
    return np.r_[np.sqrt(np.concatenate(shares)), counted.sum() / visible.sum(), frames.mean(), bins.mean()]


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_the_histogram_counts_the_occupied_part(num_channels):
    values, visible = packet(num_channels), torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(1)) < 0.8
    visible[:, 4] = visible[:, :, 3] = True
    found = level_histogram(values, visible, 6)
    assert found.shape == (2, 6 ** min(num_channels, 2) + 33) and found.dtype == torch.float32
    assert found.shape[1] == histogram_size(6, num_channels)
    for row in range(2):
        np.testing.assert_allclose(found[row], written_out(values[row], visible[row], 6), atol=1e-6)
    whole = level_histogram(values, torch.ones_like(visible), 6)
    torch.testing.assert_close(whole[:, -3:], torch.tensor([0.2, 0.25, 0.8]).expand(2, 3))


def test_gain_does_not_matter():
    values, visible = packet(), torch.ones(2, 12, 10, dtype=torch.bool)
    torch.testing.assert_close(level_histogram(values + 3, visible, 4), level_histogram(values, visible, 4))


def occupied(levels):
    """The levels `(128, 128)` with quiet edges, so that all the rest counts as loud."""
    return F.pad(levels.expand(1, 2, 128, 128), (1, 1, 1, 1), value=-20)[..., :128, :128]


def test_fading_shows_in_its_own_part():
    """A channel that varies by five times the distance of two levels changes hardly more than its own part."""
    levels = 0.2 * (torch.rand(128, 128, generator=torch.Generator().manual_seed(0)) < 0.5)
    fading = torch.sin(torch.linspace(0, 3, 128))[:, None] + torch.cos(torch.linspace(0, 2, 128))
    visible = torch.ones(1, 128, 128, dtype=torch.bool)
    still, moving = (level_histogram(occupied(x), visible, 20)[0, :-3].square() for x in (levels, levels + fading))
    difference = (still - moving).abs() / 2
    assert difference[:400].sum() < 0.15
    assert difference[400:].view(5, 20).sum(1).min() > 0.8


def test_frequency_selectivity_alone_is_no_movement():
    visible = torch.ones(1, 128, 128, dtype=torch.bool)
    found = level_histogram(occupied(torch.cos(torch.linspace(0, 9, 128))), visible, 20)[0, 400:-3].square()
    # Quiet edges enter no mean. Zero lies between the tenth and the eleventh bin, so rounding may put it in either.
    torch.testing.assert_close(found.view(5, 20)[:, 9:11].sum(1), torch.ones(5))


def test_masked_patches_do_not_count():
    model = build("pretraining-levels")
    inputs = inputs_for(model)
    mask = model(**inputs).mask
    hidden = mask.view(4, 2, 1, 3, 1).expand(4, 2, 8, 3, 8).reshape(4, 1, 16, 24)
    levels = model.lwm_spectro.levels
    changed = torch.where(hidden, 100.0, inputs["input_values"])
    assert torch.equal(levels(changed, mask), levels(inputs["input_values"], mask))
    assert not torch.equal(levels(changed), levels(inputs["input_values"]))


@pytest.mark.parametrize("values", [torch.zeros(2, 2, 16, 24), torch.full((2, 2, 16, 24), -3.0)])
def test_a_silent_recording_has_no_levels(values):
    visible = torch.ones(2, 16, 24, dtype=torch.bool)
    assert torch.equal(level_histogram(values, visible, 4), torch.zeros(2, 39))
    assert torch.equal(level_histogram(values, ~visible, 4), torch.zeros(2, 39))


def test_levels_are_added_to_the_embedding_and_to_nothing_else():
    model = build("pretraining-levels").lwm_spectro
    values = torch.randn(4, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    outputs = model(values)
    torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state.mean(1) + model.levels(values))
    without = LwmSpectroModel(tiny_config(**{**LEVELS, "level_num_bins": 0})).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(without(values).last_hidden_state, outputs.last_hidden_state)
    assert without.levels is None


def test_running_statistics_work_from_single_rows():
    generator = torch.Generator().manual_seed(0)
    norm = LwmSpectroLevelNorm(3, momentum=0.01)
    rows = 2 + 0.1 * torch.randn(4000, 3, generator=generator)
    for row in rows:
        assert norm(row[None]).isfinite().all()
    torch.testing.assert_close(norm.running_mean, rows.mean(0), rtol=0.02, atol=0)
    torch.testing.assert_close(norm.running_var, rows.var(0), rtol=0.3, atol=0)
    before = norm.running_mean.clone()
    (norm(rows).sum() + norm(rows).square().sum()).backward()  # two passes, and the gradient of both
    assert not torch.equal(norm.running_mean, before)
    before = norm.running_mean.clone()
    norm.eval()(rows)
    assert torch.equal(norm.running_mean, before)
    first = LwmSpectroLevelNorm(3)
    first(rows[:100])
    torch.testing.assert_close(first.running_mean, rows[:100].mean(0))


def test_quantized_layers_do_not_set_the_dtype():
    class Quantized(torch.nn.Module):  # like those of bitsandbytes: integer weights and a scale
        def __init__(self, linear):
            super().__init__()
            self.unit = linear.weight.detach().abs().amax(1, keepdim=True) / 127
            self.weight = torch.nn.Parameter((linear.weight / self.unit).round().to(torch.int8), requires_grad=False)
            self.bias = linear.bias

        def forward(self, states):
            return torch.nn.functional.linear(states, self.weight * self.unit, self.bias)

    for name in ("classification-levels", "pretraining-copying"):
        model = build(name)
        inputs = inputs_for(model)
        with torch.no_grad():
            exact = main_output(model(**inputs))
            for parent in list(model.modules()):
                for part, child in list(parent.named_children()):
                    if type(child) is torch.nn.Linear:
                        setattr(parent, part, Quantized(child))
            found = main_output(model(**inputs))
        assert (found - exact).norm() < 0.05 * exact.norm()


def test_the_benchmark_reports_what_each_part_predicts(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[1] / "benchmarks" / "levels.py"
    monkeypatch.syspath_prepend(str(script.parent))  # as python does for a script
    options = ["--recipes", "paper", "--protocols", "WiFi", "--num", "32", "--num-fit", "64"]
    monkeypatch.setattr(sys, "argv", [script.name, *options, "--out", str(tmp_path / "table.json")])
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads((tmp_path / "table.json").read_text())
    assert list(found) == ["paper, WiFi, modulation", "paper, WiFi, mobility"]
    assert found["paper, WiFi, mobility"]["both"]["all"] > 0.5
    cells = found["paper, WiFi, modulation"]
    assert cells["levels"]["clear"] > 0.7 and cells["both"]["clear"] > 0.7
    assert f"| {100 * cells['both']['all']:.1f} ({100 * cells['both']['clear']:.1f}) |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [script.name, "--num", "5"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--num is 5 and --num-fit 4096; expected at least 32" in capsys.readouterr().err

"""The scripts of the three stages of training, one after the other, and the folder that they produce."""

import argparse
import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lwm_spectro_hf import (
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    SpectrogramFeatureExtractor,
)
from lwm_spectro_hf.data.builder import Split, build_parquet
from lwm_spectro_hf.data.recipe import PROTOCOLS, preset
from lwm_spectro_hf.training.mixture import MixtureHeads
from lwm_spectro_hf.training.pretraining import PretrainingSettings
from lwm_spectro_hf.training.run import TINY, TrainingData, TrainingRun, add_options

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--batch-size", "8", "--chunk-size", "8", "--eval-samples", "16", "--device", "cpu"]
STEPS = ["--epoch-samples", "16", "--max-epochs", "1.5", "--warmup-epochs", "0.5"]


def call(monkeypatch, script, *options):
    monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    recipe = replace(preset("mixed"), channels=("none",), chunk_size=16, noise_share=0.0)
    build_parquet(folder, {"train": Split(recipe, 144), "test": Split(recipe, 48)}, 0, processes=1)
    return folder


def test_from_data_to_a_released_folder(tmp_path, data, monkeypatch, capsys):
    runs = [tmp_path / name for name in ("wifi", "lte", "nr")]
    options = ["--tiny", "--data", data, "--mix", 2, *SMALL, *STEPS]
    for protocol, run in zip(PROTOCOLS, runs, strict=True):
        call(monkeypatch, "run_pretraining.py", "--protocol", protocol, "--out", run, *options)
    results = json.loads((runs[1] / "results.json").read_text())
    assert results["samples"] == 24 and results["stopped"] == "all samples seen"
    assert results["model_over_best_baseline"] > 0

    # A finished run that is called again trains no further, and keeps its log.
    lines = len((runs[1] / "log.jsonl").read_text().splitlines())
    call(monkeypatch, "run_pretraining.py", "--protocol", "LTE", "--out", runs[1], *options)
    again = json.loads((runs[1] / "results.json").read_text())
    assert again["samples_of_this_run"] == 0 and len((runs[1] / "log.jsonl").read_text().splitlines()) == lines

    experts = ["--experts", *(run / "model" for run in runs)]
    mixed = ["--data", data, data, "--mix", 2, *SMALL, *STEPS]
    call(monkeypatch, "run_router.py", *experts, "--router-type", "cnn", "--out", tmp_path / "router", *mixed)
    router = json.loads((tmp_path / "router" / "results.json").read_text())["router_held_out"]
    short, part = "listening, short recordings", "blind, a part of the carrier"
    assert set(router) == {"as trained", "synchronous", "blind", "listening", short, "blind, saturated", part}
    assert router["blind"]["num"] == router[part]["num"] == 16
    trained = LwmSpectroMoEForPreTraining.from_pretrained(tmp_path / "router" / "model")
    expert = LwmSpectroForPreTraining.from_pretrained(runs[2] / "model")
    assert torch.equal(trained.decoders[2].mask_token, expert.decoder.mask_token)

    other = [*experts, "--router-type", "fourier", "--init", tmp_path / "router" / "model"]
    call(monkeypatch, "run_router.py", *other, "--samples", 0, "--out", tmp_path / "fourier", *mixed)
    other = [*experts, "--router-type", "fourier", "--occupied-band", "--init", tmp_path / "fourier" / "model"]
    call(monkeypatch, "run_router.py", *other, "--samples", 0, "--out", tmp_path / "band", *mixed)
    found = json.loads((tmp_path / "band" / "results.json").read_text())["router_held_out"]
    assert (
        found == router
        and json.loads((tmp_path / "band" / "model" / "config.json").read_text())["router_occupied_band"]
    )
    # The mean of a router and itself is that router, and nothing is trained.
    other = [*experts, "--router-type", "cnn", "--init", *2 * [tmp_path / "router" / "model"]]
    call(monkeypatch, "run_router.py", *other, "--samples", 0, "--out", tmp_path / "mean", *mixed)
    mean = json.loads((tmp_path / "mean" / "results.json").read_text())
    assert mean["samples"] == 0 and mean["router_held_out"] == router
    other = [*experts, "--router-type", "cnn", "--init", tmp_path / "fourier" / "model"]
    with pytest.raises(SystemExit, match="--init .*fourier.model: The trained router has another type or size"):
        call(monkeypatch, "run_router.py", *other, "--out", tmp_path / "other", *mixed)

    mixture = ["--mixture", tmp_path / "router" / "model", "--classifier", "linear"]
    call(monkeypatch, "run_heads.py", *mixture, "--out", tmp_path / "heads", *mixed)
    assert "macro-F1 %" in capsys.readouterr().out

    errors = json.loads((tmp_path / "heads" / "results.json").read_text())["masked_error_held_out"]
    # Only protocols that have rows, of these few, both to fit a baseline to and to score.
    assert errors and set(errors) <= set(PROTOCOLS) and all(row["model"] > 0 for row in errors.values())

    stages = ["--experts", *runs, "--decoders", *runs, "--router", tmp_path / "router", "--heads", tmp_path / "heads"]
    released = tmp_path / "released"
    call(monkeypatch, "release_weights.py", *stages, "--machine", "a test", "--data", data, "--out", released)
    card = (released / "README.md").read_text()
    assert (
        "| expert LTE |" in card
        and "| decoder LTE |" in card
        and all(f"| {name} | " in card for name in errors)
        and "a test" in card
        and "## Router, % right, in the held-out city" in card
    )
    assert (released / "figures" / "curves.png").stat().st_size > 1000
    model = LwmSpectroMoEForSequenceClassification.from_pretrained(released)
    assert torch.equal(model.lwm_spectro_moe.router.gate.weight, trained.lwm_spectro_moe.router.gate.weight)
    assert model.config.additional_tasks["snr_db+mobility"][0] == "-5+static"
    extractor = SpectrogramFeatureExtractor.from_pretrained(released)
    outputs = model(
        **extractor(torch.randn(40_000, dtype=torch.complex64).numpy(), sampling_rate=20e6, return_tensors="pt")
    )
    assert outputs.logits.shape == (1, 5)


def test_a_resumed_run_that_gets_worse_keeps_its_best_weights(tmp_path, data, monkeypatch):
    run = tmp_path / "wifi"
    options = ["--protocol", "WiFi", "--tiny", "--data", data, "--mix", 2, *SMALL, "--out", run]
    options += ["--epoch-samples", 16, "--warmup-epochs", 0, "--max-epochs", 8, "--learning-rate", 0.05]
    call(monkeypatch, "run_pretraining.py", *options, "--samples", 8)
    best = (run / "model" / "model.safetensors").read_bytes()
    first = json.loads((run / "results.json").read_text())
    with (run / "log.jsonl").open("a") as stream:  # as a killed call leaves it
        stream.write('{"step": 2, "lo')
    call(monkeypatch, "run_pretraining.py", *options, "--samples", 32)
    results = json.loads((run / "results.json").read_text())
    assert results["samples_of_this_run"] == 24 and results["validation_loss"] > first["validation_loss"]
    assert (run / "model" / "model.safetensors").read_bytes() == best
    assert results["masked_error_held_out"]["model"] == first["masked_error_held_out"]["model"]


def test_small_test_splits_are_reported_and_damaged_ones_refused(tmp_path, data, monkeypatch, caplog):
    options = ["--protocol", "LTE", "--tiny", "--mix", 2, "--batch-size", 8, "--chunk-size", 8, "--device", "cpu"]
    options += ["--samples", 8]
    call(monkeypatch, "run_pretraining.py", *options, "--data", data, "--eval-samples", 24, "--out", tmp_path / "few")
    assert "rows of LTE in its split 'test'" in caplog.text and "for recordings of --recipe mixed" in caplog.text
    damaged = shutil.copytree(data, tmp_path / "damaged")
    (shard,) = (damaged / "data").glob("test-*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(SystemExit, match="error: "):
        call(
            *(monkeypatch, "run_pretraining.py", *options, "--data", damaged),
            *("--eval-samples", 8, "--out", tmp_path / "damaged-run"),
        )
    assert not (tmp_path / "damaged-run" / "model").exists()


def test_a_model_is_exported_with_the_front_end_of_its_data(tmp_path, monkeypatch):
    recipe = replace(preset("mixed"), channels=("none",), chunk_size=16, noise_share=0.0, num_frames=64)
    build_parquet(tmp_path / "data", {"train": Split(recipe, 96), "test": Split(recipe, 48)}, 0, processes=1)
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "num_frames": 64}))
    options = ["--protocol", "LTE", "--data", tmp_path / "data", "--config", tmp_path / "config.json"]
    options += ["--mix", 1, "--samples", 8, "--batch-size", 8, "--chunk-size", 8, "--eval-samples", 8]
    call(monkeypatch, "run_pretraining.py", *options, "--device", "cpu", "--out", tmp_path / "run")
    extractor = SpectrogramFeatureExtractor.from_pretrained(tmp_path / "run" / "model")
    assert extractor.num_frames == 64
    model = LwmSpectroForPreTraining.from_pretrained(tmp_path / "run" / "model")
    iq = torch.randn(20_000, dtype=torch.complex64).numpy()
    assert model(extractor(iq, return_tensors="pt").input_values).loss.isfinite()


@pytest.mark.parametrize("option", ["mix", "repeat", "gradient-accumulation", "eval-samples", "chunk-size"])
def test_counts_below_one_are_named(tmp_path, monkeypatch, option):
    with pytest.raises(SystemExit, match=f"--{option} is -1; expected at least 1"):
        call(monkeypatch, "run_pretraining.py", "--protocol", "LTE", "--tiny", f"--{option}=-1", "--out", tmp_path)


def test_a_new_decoder_is_trained_for_a_trained_encoder(tmp_path, data, monkeypatch, capsys):
    before = LwmSpectroForPreTraining(LwmSpectroConfig(**TINY, num_channels=2))
    before.save_pretrained(tmp_path / "before")
    options = ["--protocol", "LTE", "--init", tmp_path / "before", "--part", "decoder", "--data", data, "--mix", 2]
    options += [*SMALL, *STEPS, "--out", tmp_path / "run"]
    call(monkeypatch, "run_pretraining.py", *options, "--copy-heads", 2, "--inpainting-channels", 4)
    after = LwmSpectroForPreTraining.from_pretrained(tmp_path / "run" / "model")
    assert after.config.decoder_num_copy_heads == 2 and after.decoder.copying.gate.weight.abs().max() > 0
    assert after.decoder.inpainting.conv_out.weight.abs().max() > 0
    for name, value in before.base_model.state_dict().items():
        assert torch.equal(after.base_model.state_dict()[name], value), name
    assert "held-out city: means of frames and bins" in capsys.readouterr().out

    with pytest.raises(SystemExit, match="--copy-heads -1: .*expected 0, or more"):
        call(monkeypatch, "run_pretraining.py", *options, "--copy-heads", -1)
    with pytest.raises(SystemExit):
        call(monkeypatch, "run_pretraining.py", *options, "--supervised", "modulation")
    assert "--part decoder: The decoder by itself learns no labels" in capsys.readouterr().err


def test_levels_are_trained_for_a_trained_expert(tmp_path, data, monkeypatch, capsys):
    before = LwmSpectroForPreTraining(LwmSpectroConfig(**{**TINY, "level_num_bins": 0}, num_channels=2))
    before.save_pretrained(tmp_path / "before")
    options = ["--protocol", "LTE", "--init", tmp_path / "before", "--part", "levels", "--data", data, "--mix", 2]
    options += [*SMALL, *STEPS, "--out", tmp_path / "run"]
    call(monkeypatch, "run_pretraining.py", *options, "--level-bins", 3, "--supervised", "modulation", "snr_db")
    after = LwmSpectroForPreTraining.from_pretrained(tmp_path / "run" / "model")
    assert after.config.level_num_bins == 3 and after.base_model.levels.out_proj.weight.abs().max() > 0
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name

    with pytest.raises(SystemExit, match="--level-bins 0: .*expected at least 1"):
        call(monkeypatch, "run_pretraining.py", *options, "--level-bins", 0, "--supervised", "modulation")
    with pytest.raises(SystemExit, match="the expert has no level histogram; expected --level-bins"):
        call(monkeypatch, "run_pretraining.py", *options, "--supervised", "modulation")
    with pytest.raises(SystemExit):
        call(monkeypatch, "run_pretraining.py", *options, "--level-bins", 3)
    assert "--part levels: Levels by themselves learn supervised labels" in capsys.readouterr().err


def test_heads_without_training_leave_experts_unchanged(tmp_path, data, monkeypatch):
    experts = [tmp_path / name for name in PROTOCOLS]
    for expert in experts:
        LwmSpectroForPreTraining(LwmSpectroConfig(**TINY, num_channels=2)).save_pretrained(expert)
    monkeypatch.setattr(MixtureHeads, "fit", lambda self, batches: fitted.extend(batches))
    fitted = []
    options = ["--experts", *experts, "--classifier", "linear", "--head-start", "probe", "--probe-rows", 20]
    options += ["--data", data, data, "--mix", 2, *SMALL, *STEPS, "--samples", 0]
    call(monkeypatch, "run_heads.py", *options, "--out", tmp_path / "heads")
    assert [len(batch["protocol"]) for batch in fitted] == [8, 8, 8]
    mixture = LwmSpectroMoEForPreTraining.from_pretrained(tmp_path / "heads" / "model")
    for name, folder in zip(PROTOCOLS, experts, strict=True):
        before = LwmSpectroForPreTraining.from_pretrained(folder).state_dict()
        after = mixture.expert(name).state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "heads" / "results.json").read_text())["samples"] == 0

    # What was not trained has neither a line in the card's table nor a curve.
    again = ["--experts", *experts, "--router-type", "cnn", "--data", data, "--mix", 2, *SMALL, *STEPS, "--samples", 0]
    call(monkeypatch, "run_router.py", *again, "--out", tmp_path / "router")
    stages = ["--router", tmp_path / "router", "--heads", tmp_path / "heads"]
    call(monkeypatch, "release_weights.py", *stages, "--out", tmp_path / "released")
    card = (tmp_path / "released" / "README.md").read_text()
    assert "| router |" not in card and "| heads |" not in card and "curves" not in card
    assert "## Router, % right" in card and not (tmp_path / "released" / "figures" / "curves.png").exists()


def test_training_continues_with_a_larger_network(tmp_path, data, monkeypatch):
    before = LwmSpectroForPreTraining(LwmSpectroConfig(**TINY, num_channels=2))
    before.save_pretrained(tmp_path / "before")
    options = ["--protocol", "LTE", "--init", tmp_path / "before", "--data", data, "--mix", 2, *SMALL, *STEPS]
    larger = ["--deepen-stem", 2, "--widen", 128, "--deepen", 5, "--max-file-mib", 0.5]
    call(monkeypatch, "run_pretraining.py", *options, *larger, "--out", tmp_path / "after")
    after = LwmSpectroForPreTraining.from_pretrained(tmp_path / "after" / "model").config
    assert (before.config.stem_num_layers, after.stem_num_layers) == (1, 2)
    assert (after.hidden_size, after.num_hidden_layers) == (128, 5)
    sizes = [path.stat().st_size for path in (tmp_path / "after").rglob("*.safetensors")]
    assert len(sizes) > 4 and max(sizes) < 0.51 * 2**20
    with pytest.raises(SystemExit, match="--deepen-stem 0: .* a stem of 1 blocks; expected .* at most 0"):
        call(monkeypatch, "run_pretraining.py", *options, "--deepen-stem", 0, "--out", tmp_path / "none")
    with pytest.raises(SystemExit, match="--widen 31: A width of 31 was requested"):
        call(monkeypatch, "run_pretraining.py", *options, "--widen", 31, "--out", tmp_path / "none")


def test_baselines_are_fitted_to_the_same_rows_on_any_number_of_processes(data):
    parser = argparse.ArgumentParser()
    add_options(parser, PretrainingSettings(), mix=2)
    options = ["--data", data, "--mix", 2, *SMALL, "--out", "x"]
    args = parser.parse_args(list(map(str, options)))
    fitted = []
    for processes in (1, 2):
        accelerator = SimpleNamespace(num_processes=processes, process_index=0, device=torch.device("cpu"))
        of_run = SimpleNamespace(args=args, data=TrainingData(args, "LTE", accelerator))
        fitted.append(TrainingRun.first_batches(of_run))
    assert len(fitted[0]) == len(fitted[1]) > 0
    for one, two in zip(*fitted, strict=True):
        assert sorted(one["index"].tolist()) == sorted(two["index"].tolist())


def test_unknown_configuration_fields_are_refused(tmp_path, data, monkeypatch):
    (tmp_path / "wrong.json").write_text('{"hiden_size": 32}')
    options = ["--protocol", "LTE", "--tiny", "--data", data, "--mix", 2, *SMALL, "--config", tmp_path / "wrong.json"]
    with pytest.raises(SystemExit, match="wrong.json has 'hiden_size', but LwmSpectroConfig does not"):
        call(monkeypatch, "run_pretraining.py", *options, "--out", tmp_path / "x")
    (tmp_path / "wrong.json").write_text('{"hidden_size": 32')
    with pytest.raises(SystemExit, match="wrong.json is damaged, or not JSON"):
        call(monkeypatch, "run_pretraining.py", *options, "--out", tmp_path / "x")
    with pytest.raises(SystemExit, match="--minutes is -1.0; expected at least 0"):
        call(monkeypatch, "run_pretraining.py", *options[:3], "--minutes", -1, "--out", tmp_path)


def test_inconsistent_options_are_named(tmp_path, monkeypatch):
    uneven = ["--batch-size", 9, "--gradient-accumulation", 2, "--device", "cpu", "--out", tmp_path / "x"]
    with pytest.raises(SystemExit, match="A batch of 9 does not divide evenly among 1 processes in 2 parts each"):
        call(monkeypatch, "run_pretraining.py", "--protocol", "LTE", "--tiny", *uneven)
    with pytest.raises(SystemExit, match="--experts has 1 checkpoints; expected WiFi, LTE, 5G, in order"):
        call(monkeypatch, "run_router.py", "--experts", tmp_path, "--out", tmp_path / "y")
    runs = ["--experts", *[tmp_path] * 3, "--router", tmp_path, "--heads", tmp_path]
    with pytest.raises(SystemExit, match="has no results.json"):
        call(monkeypatch, "release_weights.py", *runs, "--out", tmp_path / "z")

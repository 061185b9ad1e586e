"""The script of the second paper's tasks, from scenes to models that the Auto classes load."""

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForTimeSeriesPrediction,
    Trainer,
)

from lwm_spectro_hf import MaskedConvLstmConfig, MaskedConvLstmForSemanticSegmentation
from lwm_spectro_hf.data import scenes
from lwm_spectro_hf.data.scenes import SCENE_LABELS, SceneRecipe, build_scenes

SCRIPT = Path(__file__).parents[2] / "examples" / "run_spectrum.py"
RECIPE = SceneRecipe(replace(SceneRecipe().transmissions, chunk_size=4, channels=("none",)))
SMALL = {"embedding_stride": 8, "segment_frames": 16, "hidden_size": 8, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    build_scenes(folder, 8, 4, recipe=RECIPE, shard_size=4)
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


def call(monkeypatch, task, *options):
    options = ["--task", task, *map(str, options), "--batch-size", "4", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_pretrained_weights_serve_both_tasks(tmp_path, data, monkeypatch, capsys):
    new = ["--config", data / "small.json"]
    call(monkeypatch, "pretraining", "--data", data, *new, "--epochs", 2, "--out", tmp_path / "masked")
    results = json.loads((tmp_path / "masked" / "results.json").read_text())
    assert results["steps"] == 4 and results["scenes"] == {"train": 8, "test": 4}
    assert set(results["held_out"]) >= {"interpolation", "linear predictor", "model"}
    assert "model / best baseline" in capsys.readouterr().out
    pretrained = AutoModelForPreTraining.from_pretrained(tmp_path / "masked" / "model")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "masked" / "model").window_function == "hann"

    # With a learning rate of zero, the tasks keep the pretrained weights.
    init = ["--init", tmp_path / "masked" / "model", "--learning-rate", 0, "--epochs", 1, "--num-train", 4]
    for task, auto_class in (
        ("forecasting", AutoModelForTimeSeriesPrediction),
        ("segmentation", AutoModelForSemanticSegmentation),
    ):
        call(monkeypatch, task, "--data", data, *init, "--out", tmp_path / task)
        model = auto_class.from_pretrained(tmp_path / task / "model")
        for key, value in model.base_model.state_dict().items():
            torch.testing.assert_close(value, pretrained.base_model.state_dict()[key], rtol=0, atol=0)
        assert json.loads((tmp_path / task / "results.json").read_text())["scenes"]["train"] == 4
        assert (tmp_path / task / "examples.png").stat().st_size > 10_000
        card = (tmp_path / task / "model" / "README.md").read_text()
        assert auto_class.__name__ in card and "from the weights of `masked`" in card
        assert set(re.findall("^from (.*) import", card, re.MULTILINE)) == {"transformers"}  # all that its code needs
    assert list(model.config.id2label.values()) == list(SCENE_LABELS)
    assert "intersection over union" in capsys.readouterr().out


def test_the_mean_of_two_runs_is_scored_without_training(tmp_path, data, monkeypatch):
    config = MaskedConvLstmConfig(**SMALL, id2label=dict(enumerate(SCENE_LABELS)))
    runs = [MaskedConvLstmForSemanticSegmentation(config) for _ in range(2)]
    for place, run in enumerate(runs):
        run.save_pretrained(tmp_path / f"run{place}" / "model")
    both = [tmp_path / "run0" / "model", tmp_path / "run1" / "model"]
    options = ["--data", data, "--epochs", 0, "--init", *both]
    call(monkeypatch, "segmentation", *options, "--out", tmp_path / "mean")
    results = json.loads((tmp_path / "mean" / "results.json").read_text())
    assert results["steps"] == 0 and results["held_out"]["model"]["mean_iou"] >= 0
    mean = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "mean" / "model")
    for values, first, second in zip(mean.parameters(), *(run.parameters() for run in runs), strict=True):
        torch.testing.assert_close(values, (first + second) / 2)
    card = (tmp_path / "mean" / "model" / "README.md").read_text()
    assert "from the mean of the weights of `run0` and `run1`" in card
    with pytest.raises(SystemExit, match="no weights for decoder.*for another task, and these would be random"):
        call(monkeypatch, "forecasting", *options, "--out", tmp_path / "random")
    assert not (tmp_path / "random" / "model").exists()
    config.hidden_size = 4
    MaskedConvLstmForSemanticSegmentation(config).save_pretrained(both[1])
    with pytest.raises(SystemExit, match="models differ in type or size"):
        call(monkeypatch, "segmentation", *options, "--out", tmp_path / "unlike")
    with pytest.raises(SystemExit):
        call(monkeypatch, "segmentation", "--data", data, "--epochs", 0, "--out", tmp_path / "nothing")


def test_scenes_are_generated_if_no_data_is_named(tmp_path, data, monkeypatch):
    """They equal those of a data set of the same recipe and seed."""
    make = scenes.make_scenes

    def make_few(recipe, seed, extractor, first, last, device):
        return make(recipe, seed, extractor, first, min(last, 8 if recipe == RECIPE else 4), device)

    options = ["--config", data / "small.json", "--num-train", 8, "--epochs", 1]
    call(monkeypatch, "forecasting", "--data", data, *options, "--out", tmp_path / "read")
    monkeypatch.setattr(scenes, "SceneRecipe", lambda: RECIPE)
    monkeypatch.setattr(scenes, "make_scenes", make_few)
    call(monkeypatch, "forecasting", *options, "--out", tmp_path / "made")
    made, read = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("made", "read"))
    assert made["scenes"] == read["scenes"] == {"train": 8, "test": 4}
    assert made["held_out"] == pytest.approx(read["held_out"])


def test_a_run_is_resumed_but_not_overwritten(tmp_path, data, monkeypatch):
    new = ["--data", data, "--config", data / "small.json", "--out", tmp_path / "run"]
    with pytest.raises(SystemExit, match="There is no run in .* to --resume"):
        call(monkeypatch, "pretraining", *new, "--resume")
    call(monkeypatch, "pretraining", *new, "--epochs", 1)
    with pytest.raises(SystemExit, match="holds a run: --resume it"):
        call(monkeypatch, "pretraining", *new, "--epochs", 1)
    with pytest.raises(SystemExit, match="was begun with other settings: task was 'pretraining'"):
        call(monkeypatch, "forecasting", *new, "--epochs", 2, "--resume")
    (tmp_path / "run" / "checkpoints" / "checkpoint-99").mkdir()  # interrupted while it was written
    call(monkeypatch, "pretraining", *new, "--epochs", 2, "--resume")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 4


@pytest.mark.parametrize("task", ["pretraining", "segmentation"])
def test_a_resumed_run_equals_an_uninterrupted_one(task, tmp_path, data, monkeypatch):
    options = ["--data", data, "--config", data / "small.json", "--epochs", 4]
    call(monkeypatch, task, *options, "--out", tmp_path / "whole")
    training_step = Trainer.training_step

    def killed(trainer, *args, **kwargs):
        if trainer.state.global_step == 5:
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            call(patched, task, *options, "--out", tmp_path / "killed")
    call(monkeypatch, task, *options, "--resume", "--out", tmp_path / "killed")
    whole, killed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(values, killed[name]) for name, values in whole.items())


def test_mistakes_give_one_line(tmp_path, data, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="has no split 'train'"):
        call(monkeypatch, "pretraining", "--data", tmp_path, "--tiny", "--out", tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, "pretraining", "--data", data, "--tiny", "--init", "x", "--out", tmp_path / "run")
    assert "--init brings its own configuration" in capsys.readouterr().err
    for option, value in (("num-train", 0), ("num-train", -5), ("passes", 0)):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, "pretraining", "--data", data, "--tiny", "--out", tmp_path, f"--{option}", value)
        assert f"--{option} is {value}; expected at least 1" in capsys.readouterr().err
    diverging = ["--data", data, "--config", data / "small.json", "--learning-rate", 1e30, "--epochs", 8]
    with pytest.raises(SystemExit, match="The loss became .* at step .*Lower the learning rate"):
        call(monkeypatch, "segmentation", *diverging, "--out", tmp_path / "run")

"""What a run was begun with, and where it goes on from."""

import json
from pathlib import Path

import pytest

from lwm_spectro_hf.training.checkpoints import check_settings, last_checkpoint, training_figures, write_settings


def test_a_run_goes_on_with_what_it_was_begun_with(tmp_path):
    settings = {"rate": 0.1, "data": Path("data")}
    check_settings(tmp_path, settings, resume=False)
    with pytest.raises(ValueError, match="There is no run in .* to --resume"):
        check_settings(tmp_path, settings, resume=True)
    write_settings(tmp_path, settings)
    check_settings(tmp_path, settings, resume=True)
    with pytest.raises(ValueError, match="holds a run: --resume it, or name another"):
        check_settings(tmp_path, settings, resume=False)
    with pytest.raises(ValueError, match="was begun otherwise: rate was 0.1. Give the same again"):
        check_settings(tmp_path, {**settings, "rate": 0.2}, resume=True)


def test_the_newest_checkpoint_that_is_whole(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for number in (9, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_figures_are_of_all_calls(tmp_path):
    history = [{"loss": 2.0}, {"loss": 1.0}, {"train_loss": 0.1}]
    assert training_figures(tmp_path, history, 5.0) == {"train_loss": 1.0, "train_seconds": 5.0}
    (tmp_path / "results.json").write_text(json.dumps({"train_seconds": 7.0}))
    assert training_figures(tmp_path, [], 5.0) == {"train_loss": None, "train_seconds": 12.0}

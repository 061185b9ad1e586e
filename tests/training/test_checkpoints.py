"""Settings of a run, and checkpoints to resume or start from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm_spectro_hf import LwmSpectroForPreTraining, LwmSpectroMoEForPreTraining, LwmSpectroMoEModel
from lwm_spectro_hf.training.checkpoints import (
    check_settings,
    last_checkpoint,
    load_trained,
    training_figures,
    write_settings,
)
from tiny_models import build


def test_loaded_checkpoints_are_whole_and_of_the_right_type(tmp_path):
    for name, model in (("expert", build("pretraining")), ("mixture", build("moe-pretraining"))):
        model.save_pretrained(tmp_path / name)
    assert load_trained(LwmSpectroForPreTraining, tmp_path / "expert").config.model_type == "lwm_spectro"
    assert load_trained(LwmSpectroMoEModel, tmp_path / "mixture", "router.").router
    with pytest.raises(
        ValueError, match=r"is a 'lwm_spectro_moe' model; expected 'lwm_spectro'. Extract an expert from it"
    ):
        load_trained(LwmSpectroForPreTraining, tmp_path / "mixture")
    with pytest.raises(ValueError, match="is a 'lwm_spectro' model; expected 'lwm_spectro_moe'\\.$"):
        load_trained(LwmSpectroMoEForPreTraining, tmp_path / "expert")
    with pytest.raises(ValueError, match="nowhere is not a checkpoint: there is no such folder"):
        load_trained(LwmSpectroForPreTraining, tmp_path / "nowhere")
    path = tmp_path / "expert" / "model.safetensors"
    weights = {name: values for name, values in load_file(path).items() if not name.startswith("decoder.")}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks .* weights, the first being decoder"):
        load_trained(LwmSpectroForPreTraining, tmp_path / "expert")
    assert load_trained(LwmSpectroForPreTraining, tmp_path / "expert", "lwm_spectro.")


def test_a_run_resumes_with_its_own_settings(tmp_path):
    settings = {"rate": 0.1, "data": Path("data")}
    check_settings(tmp_path, settings, resume=False)
    with pytest.raises(ValueError, match="There is no run in .* to --resume"):
        check_settings(tmp_path, settings, resume=True)
    write_settings(tmp_path, settings)
    check_settings(tmp_path, settings, resume=True)
    with pytest.raises(ValueError, match="holds a run: --resume it, or name another"):
        check_settings(tmp_path, settings, resume=False)
    with pytest.raises(ValueError, match="was begun with other settings: rate was 0.1. Use the same"):
        check_settings(tmp_path, {**settings, "rate": 0.2}, resume=True)


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for number in (9, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    newest = tmp_path / "checkpoint-10"
    torch.save({"step": 1}, newest / "optimizer.pt")
    save_file({"weight": torch.ones(100)}, newest / "model.safetensors")
    assert last_checkpoint(tmp_path) == str(newest)
    for name in ("optimizer.pt", "model.safetensors"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[: len(whole) // 2])
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
        (newest / name).write_bytes(whole)


def test_figures_add_up_over_calls(tmp_path):
    history = [{"loss": 2.0}, {"loss": 1.0}, {"train_loss": 0.1}]
    assert training_figures(tmp_path, history, 5.0) == {"train_loss": 1.0, "train_seconds": 5.0}
    (tmp_path / "results.json").write_text(json.dumps({"train_seconds": 7.0}))
    assert training_figures(tmp_path, [], 5.0) == {"train_loss": None, "train_seconds": 12.0}
    (tmp_path / "results.json").write_text('{"train_seconds": 7')  # cut off; it is replaced
    assert training_figures(tmp_path, [], 5.0) == {"train_loss": None, "train_seconds": 5.0}
    write_settings(tmp_path, {"rate": 0.1})
    (tmp_path / "settings.json").write_text('{"rate"')
    with pytest.raises(ValueError, match="settings.json is damaged, or not JSON"):
        check_settings(tmp_path, {"rate": 0.1}, resume=True)

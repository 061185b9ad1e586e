"""How scripts report mistakes of their users, and which devices they accept."""

import pytest
import torch

from lwm_spectro_hf import LwmSpectroMoEConfig
from lwm_spectro_hf.scripting import computes_on_gpu, one_line_errors, usable_device
from lwm_spectro_hf.training.loop import DivergedError


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, ImportError, DivergedError])
def test_user_errors_become_one_line(kind):
    with pytest.raises(SystemExit, match="^error: nothing there$"), one_line_errors():
        raise kind("nothing there")


def test_configuration_errors_become_one_line():
    with pytest.raises(SystemExit, match="^error: `router_occupied_band` needs a router of type"), one_line_errors():
        LwmSpectroMoEConfig(router_type="cnn", router_occupied_band=True)


def test_bugs_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("nothing there")


def test_a_gpu_is_used_if_present(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [computes_on_gpu(name) for name in (None, "cuda", "cpu")] == [True, True, False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [computes_on_gpu(name) for name in (None, "cpu")] == [False, False]
    with pytest.raises(ValueError, match="PyTorch finds no GPU; use --device cpu"):
        computes_on_gpu("cuda")


def test_unusable_devices_are_refused():
    assert usable_device(None) is None and usable_device("cpu") == torch.device("cpu")
    for name in ("meta", "no-such-device"):
        with pytest.raises(ValueError, match=f"--device {name} cannot be used here: give cpu"):
            usable_device(name)

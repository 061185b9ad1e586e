"""The generator stays on the device that it is given, checked on a CPU that simulates a machine with a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lwm_spectro_hf.data.recipe import PROTOCOLS, Recipe, preset
from lwm_spectro_hf.data.scenes import SceneRecipe, draw_scenes
from lwm_spectro_hf.data.synthesis import draw_recordings
from two_devices import DEVICE, DeviceGenerator, TwoDevices

host_generator = torch.Generator


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(
        torch, "Generator", lambda device="cpu": DeviceGenerator() if device == DEVICE else host_generator()
    )
    return DEVICE


@pytest.mark.parametrize("receiver", ["synchronous", "blind", "listening"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_host_and_device_tensors_are_not_mixed(protocol, receiver, device):
    recipe = Recipe(
        protocols=(protocol,),
        receivers={receiver: 1.0},
        channels=("exponential", "TDL-D", "munich"),
        resource_blocks={"LTE": (6,), "5G": ((30, 11),)},
        contiguous_view=1.0,
        chunk_size=6,
    )
    with TwoDevices() as watched:
        draw_recordings(recipe, 0, device=device)
    assert watched.mixes == []


def test_scenes_are_made_on_the_device(device):
    sent = replace(SceneRecipe().transmissions, channels=("munich",), chunk_size=2)
    with TwoDevices() as watched:
        scenes = draw_scenes(SceneRecipe(sent), 0, device=device)
        assert scenes.labels.device == scenes.iq.device == device
    assert watched.mixes == []


@pytest.mark.parametrize("protocol, most, growth", [("WiFi", 4_000, 1.3), ("LTE", 6_000, 1.3), ("5G", 14_000, 2.2)])
def test_larger_chunks_take_hardly_more_operations(protocol, most, growth, monkeypatch):
    """The operations of a GPU must not grow with the rows; only 5G has more kinds of code blocks in more rows."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from operations import operations

    recipe = replace(preset("paper"), protocols=(protocol,), resource_blocks={"LTE": (6,), "5G": ((15, 25),)})
    few, many = (operations(replace(recipe, chunk_size=size)) for size in (16, 64))
    assert few <= many < min(growth * few, most)


def test_mixes_are_detected():
    with TwoDevices() as watched:
        there, here = torch.ones(3, device=DEVICE), torch.ones(3)
        there[torch.arange(2)] + 1.0
        assert watched.mixes == []
        there + here
        here[torch.arange(2, device=DEVICE)]
    assert len(watched.mixes) == 2 and watched.syncs == 0

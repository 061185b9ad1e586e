"""Training stays on the device that it is given, checked on a CPU that simulates a machine with a GPU."""

import pytest
from accelerate import Accelerator
from test_mixture import Stripes

from lwm_spectro_hf import LwmSpectroForPreTraining, LwmSpectroMoEForPreTraining
from lwm_spectro_hf.training.batches import Batches
from lwm_spectro_hf.training.mixture import (
    VIEWS,
    HeadSettings,
    HeadTraining,
    MixtureHeads,
    MixtureSettings,
    RouterTraining,
    score_router,
)
from lwm_spectro_hf.training.pretraining import PARTS, Pretraining, PretrainingSettings
from tiny_models import COPYING, INPAINTING, LEVELS, STEM, tiny_config, tiny_moe_config
from two_devices import DEVICE, TwoDevices

SCHEDULE = {"batch_size": 16, "epoch_samples": 32, "warmup_epochs": 0.5, "max_epochs": 2, "augment": True}
LABELS = ("modulation", "snr_db")


class StripesThere(Stripes):
    """Made on the device."""

    def batch(self, number):
        return {name: column.to(DEVICE) for name, column in super().batch(number).items()}


@pytest.fixture
def accelerator(monkeypatch):
    made = Accelerator(cpu=True)
    monkeypatch.setattr(made.state, "device", DEVICE)
    return made


def train(kind, model, settings, accelerator, folder):
    """A run, and another one that resumes from its state."""
    for samples in (32, 64):
        held_out = [StripesThere().batch(9)]
        run = kind(model, Batches(StripesThere(), 16), settings, accelerator, folder, {}, validation=held_out)
        run.run(max_samples=samples)
    assert run.progress.samples == 64


@pytest.mark.parametrize(
    "part, config",
    [("all", {}), ("all", STEM), ("all", COPYING), ("decoder", INPAINTING), ("levels", LEVELS)],
    ids=["plain", "stem", "copying", "decoder", "levels"],
)
def test_experts_are_trained_on_the_device(part, config, tmp_path, accelerator):
    assert part in PARTS
    model = LwmSpectroForPreTraining(tiny_config(**{**config, "num_channels": 1}))
    contrastive = LABELS if part == "all" else ()
    supervised = () if part == "decoder" else LABELS
    settings = PretrainingSettings(**SCHEDULE, part=part, supervised=supervised, contrastive=contrastive)
    with TwoDevices() as watched:
        train(Pretraining, model, settings, accelerator, tmp_path)
    assert watched.mixes == [] and watched.syncs > 0


@pytest.mark.parametrize("router_type", ["transformer", "cnn", "fourier"])
def test_routers_are_trained_on_the_device(router_type, tmp_path, accelerator):
    config = tiny_moe_config(
        {"num_channels": 1}, router_type=router_type, router_occupied_band=router_type == "fourier"
    )
    mixture = LwmSpectroMoEForPreTraining(config).lwm_spectro_moe
    with TwoDevices() as watched:
        train(RouterTraining, mixture, MixtureSettings(**SCHEDULE), accelerator, tmp_path)
        score_router(mixture.router, [StripesThere().batch(9)])
    assert watched.mixes == [] and watched.syncs > 0


@pytest.mark.parametrize("view", VIEWS)
def test_heads_are_trained_on_the_device(view, tmp_path, accelerator):
    mixture = LwmSpectroMoEForPreTraining(tiny_moe_config({**LEVELS, "num_channels": 1, "classifier_type": "linear"}))
    with TwoDevices() as watched:
        heads = MixtureHeads(mixture).to(DEVICE)
        train(HeadTraining, heads, HeadSettings(**SCHEDULE, view=view), accelerator, tmp_path)
    assert watched.mixes == [] and watched.syncs > 0


def test_host_tensors_in_a_step_are_detected(tmp_path, accelerator):
    class StripesHere(StripesThere):
        def batch(self, number):
            block = super().batch(number)
            return {**block, "protocol": block["protocol"].cpu()}

    mixture = LwmSpectroMoEForPreTraining(tiny_moe_config({"num_channels": 1})).lwm_spectro_moe
    with TwoDevices() as watched:
        run = RouterTraining(
            mixture, Batches(StripesHere(), 16), MixtureSettings(**SCHEDULE), accelerator, tmp_path, {}
        )
        run.run(max_samples=16)
    assert any(mix.startswith("training/mixture.py") for mix in watched.mixes)


@pytest.mark.parametrize("router_type", ["cnn", "fourier"])
def test_loaded_moments_have_the_strides_of_their_parameters(router_type, tmp_path):
    """Fused kernels of a GPU refuse other strides."""
    for samples in (32, 48):
        # A new model each time, so that only the saved state can give the strides.
        mixture = LwmSpectroMoEForPreTraining(tiny_moe_config({"num_channels": 2}, router_type=router_type))
        run = RouterTraining(
            mixture.lwm_spectro_moe,
            Batches(TwoChannels(), 16),
            MixtureSettings(**SCHEDULE),
            Accelerator(cpu=True),
            tmp_path,
            {},
        )
        moments = [
            (parameter.stride(), run.optimizer.state[parameter][name].stride())
            for parameter in run.optimizer.state
            for name in ("exp_avg", "exp_avg_sq")
        ]
        assert bool(moments) == (samples > 32) and all(of_parameter == own for of_parameter, own in moments)
        run.run(max_samples=samples)
    assert any(not parameter.is_contiguous() for parameter in run.optimizer.state)


class TwoChannels(Stripes):
    def batch(self, number):
        block = super().batch(number)
        return {**block, "input_values": block["input_values"].repeat(1, 2, 1, 1)}

"""Stages 2 and 3: the router and the heads learn what they are for, and nothing else moves."""

from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator

from lwm_spectro_hf import (
    LwmSpectroForPreTraining,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoERouter,
)
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, SNRS_DB
from lwm_spectro_hf.evaluation.probe import LogisticProbe
from lwm_spectro_hf.training.batches import Batches
from lwm_spectro_hf.training.mixture import (
    JOINT_TASK,
    VIEWS,
    HeadSettings,
    HeadTraining,
    MixtureHeads,
    MixtureSettings,
    RouterTraining,
    head_labels,
    score_router,
)
from lwm_spectro_hf.training.state import StateError, load_state
from tiny_models import tiny_config

SETTINGS = MixtureSettings(batch_size=16, epoch_samples=160, warmup_epochs=0.5, max_epochs=20, learning_rate=3e-3)


class Stripes:
    """A protocol is which third of the bins is loud; the modulation is how loud. Every eighth row is noise."""

    chunks_per_batch = 2

    def batch(self, number):
        generator = torch.Generator().manual_seed(number)
        rows = 32
        protocol = torch.randint(3, (rows,), generator=generator)
        modulation = torch.randint(2, (rows,), generator=generator)
        values = torch.randn(rows, 1, 16, 24, generator=generator) / 2
        # Symmetric about DC, so that the mirror image is of the same protocol.
        distance = (torch.arange(24) - 12).abs() // 4
        values += ((distance == protocol[:, None]) * (1 + modulation[:, None]))[:, None, None]
        noise = torch.arange(rows) % 8 == 7
        values[noise] = torch.randn(int(noise.sum()), 1, 16, 24, generator=generator)
        return {
            "input_values": values,
            "resolution": torch.tensor([[1e-3, 15e3]]).repeat(rows, 1),
            "protocol": torch.where(noise, -1, protocol),
            "modulation": torch.where(noise, -1, modulation),
            "snr_db": torch.full((rows,), 10.0),
            "mobility": torch.where(noise, -1, modulation),
            "index": torch.arange(rows) + rows * number,
        }


def mixture(**config):
    torch.manual_seed(0)
    experts = [LwmSpectroForPreTraining(tiny_config(mask_strategy="drop", **config)) for _ in PROTOCOLS]
    kwargs = {"router_hidden_size": 32, "router_num_attention_heads": 2, "router_intermediate_size": 32}
    return LwmSpectroMoEForPreTraining.from_experts(experts, expert_names=list(PROTOCOLS), **kwargs)


def training(kind, model, folder, **kwargs):
    settings = kwargs.pop("settings", SETTINGS)
    return kind(model, Batches(Stripes(), 16), settings, Accelerator(cpu=True), folder, {"stripes": 3}, **kwargs)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_router_learns_the_protocol_and_leaves_the_experts_alone(tmp_path):
    model = mixture()
    moe, held_out = model.lwm_spectro_moe, [Stripes().batch(1000)]
    before, score = snapshot(moe.experts), score_router(moe.router, held_out)
    run = training(RouterTraining, moe, tmp_path)
    run.run()
    after = score_router(moe.router, held_out)
    assert after["accuracy"] > 95 > score["accuracy"] and after["num"] == 28
    assert after["noise_score"] < 0.6  # noise, trained to be of no protocol, is not taken for one
    assert set(after["by_protocol"]) == {"0", "1", "2"} and set(after["by_snr_db"]) == {"10"}
    assert all(torch.equal(value, before[name]) for name, value in moe.experts.state_dict().items())

    # The experts behind a trained router may be replaced, and its training resumes.
    other = mixture(hidden_size=16).lwm_spectro_moe
    resumed = training(RouterTraining, other, tmp_path)
    assert resumed.progress == run.progress
    assert torch.equal(other.router.gate.weight, moe.router.gate.weight)
    with pytest.raises(StateError, match="num_channels is 1 there, 2 here"):
        training(RouterTraining, mixture(num_channels=2).lwm_spectro_moe, tmp_path)


def test_routers_in_training_get_a_rough_resolution_or_none(tmp_path):
    moe = mixture().lwm_spectro_moe
    run, rows = training(RouterTraining, moe, tmp_path), 4000
    batch = {"input_values": torch.zeros(rows, 1, 16, 24), "protocol": torch.zeros(rows, dtype=torch.int64)}
    batch |= {"index": torch.arange(rows), "resolution": torch.tensor([[1e-3, 15e3]]).repeat(rows, 1)}
    told = []

    def network(values, resolution):
        told.append(resolution)
        return torch.zeros(len(values), 3)

    def told_of(batch):
        run.losses(network, batch)
        return told.pop().double()

    moe.router.train()
    resolution = told_of(batch)
    unknown = resolution.isnan().all(1)
    assert torch.equal(unknown, resolution.isnan().any(1)) and 0.27 < unknown.double().mean() < 0.33
    error = resolution[~unknown] / batch["resolution"][~unknown] - 1
    assert 0.075 < error.abs().max() < 0.0801 and error.mean().abs() < 0.005
    assert abs(torch.corrcoef(error.T)[0, 1]) < 0.1
    # It depends on the number of the sample, not on its batch.
    part = told_of({name: column[100:200] for name, column in batch.items()})
    torch.testing.assert_close(part, resolution[100:200], equal_nan=True)
    moe.router.eval()
    assert torch.equal(told_of(batch), batch["resolution"].double())


def test_heads_can_start_from_probes():
    number = torch.arange(210)
    batch = Stripes().batch(0) | {
        "input_values": torch.randn(210, 1, 16, 24, generator=torch.Generator().manual_seed(0)),
        "protocol": torch.where(number < 200, number % 3, -1),
        "modulation": number % len(MODULATIONS),
        "snr_db": torch.tensor(SNRS_DB)[number % len(SNRS_DB)].float(),
        "mobility": number % len(MOBILITIES),
    }
    heads = MixtureHeads(mixture(classifier_type="linear"))
    experts = snapshot(heads.pretraining)
    noise = {**batch, "protocol": torch.full((210,), -1)}
    heads.fit([noise, batch])
    assert all(torch.equal(value, experts[name]) for name, value in heads.pretraining.state_dict().items())
    known = {name: column[:200] for name, column in batch.items()}
    with torch.no_grad():
        embedding = heads.classifier.lwm_spectro_moe(
            known["input_values"], expert_index=known["protocol"], return_dict=True
        ).pooler_output
        logits = {
            "modulation": heads.classifier.classifier(embedding),
            JOINT_TASK: heads.classifier.additional_classifiers[JOINT_TASK](embedding),
        }
    for name, labels in head_labels(known).items():
        probe = LogisticProbe(seed=0)
        probe.fit(embedding[labels >= 0], labels[labels >= 0])
        torch.testing.assert_close(logits[name].log_softmax(-1), probe.predict(embedding), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="no row of class"):
        heads.fit([Stripes().batch(0)])


@pytest.mark.parametrize("view", VIEWS)
def test_heads_and_experts_learn_and_the_router_stays(tmp_path, view):
    model = mixture(classifier_type="linear", reconstruction_loss_weight=1 / 16)
    router = snapshot(model.lwm_spectro_moe.router)
    experts = snapshot(model.lwm_spectro_moe.experts)
    heads = MixtureHeads(model)
    entries = []
    settings = HeadSettings(**{**asdict(SETTINGS), "view": view})
    run = training(HeadTraining, heads, tmp_path, settings=settings, log=entries.append, log_every=1)
    noise = {**Stripes().batch(0), "protocol": torch.full((32,), -1)}
    loss, figures = run.losses(heads.forward, noise)
    loss.backward()  # nothing but noise: nothing to learn
    assert loss.item() == 0 and all(part.grad is None or not part.grad.any() for part in heads.parameters())
    heads.zero_grad(set_to_none=True)
    run.run()
    saved = load_state(tmp_path)[0]
    weights = [name for name in saved if name.startswith("weights.")]
    assert len(weights) == len({part.data_ptr() for part in heads.state_dict().values()})  # shared parts, once
    again = MixtureHeads(mixture(classifier_type="linear", reconstruction_loss_weight=1 / 16))
    resumed = training(HeadTraining, again, tmp_path, settings=settings)
    assert all(torch.equal(part, heads.state_dict()[name]) for name, part in resumed.model.state_dict().items())
    assert entries[0].keys() > figures.keys()
    assert entries[-1]["modulation_loss"] < 0.5 * entries[0]["modulation_loss"]
    assert entries[-1]["joint_loss"] < 0.5 * entries[0]["joint_loss"]
    assert entries[-1]["masked_loss"] < entries[0]["masked_loss"]
    assert all(torch.equal(value, router[name]) for name, value in model.lwm_spectro_moe.router.state_dict().items())
    changed = model.lwm_spectro_moe.experts.state_dict()
    assert any(not torch.equal(value, experts[name]) for name, value in changed.items())

    # One file serves every Auto class.
    heads.classifier.save_pretrained(tmp_path / "model", state_dict=heads.state_of_checkpoint())
    batch = Stripes().batch(1000)
    classifier = LwmSpectroMoEForSequenceClassification.from_pretrained(tmp_path / "model")
    pretraining = LwmSpectroMoEForPreTraining.from_pretrained(tmp_path / "model")
    known = batch["protocol"] >= 0
    outputs = classifier.lwm_spectro_moe(batch["input_values"][known], expert_index=batch["protocol"][known])
    logits = classifier.classifier(outputs.pooler_output)
    assert (logits.argmax(-1) == batch["modulation"][known]).float().mean() > 0.9
    assert torch.equal(pretraining.decoders[2].projection.weight, model.decoders[2].projection.weight)


def test_rows_without_labels_give_heads_no_loss(tmp_path):
    model = mixture()
    heads = MixtureHeads(model)
    run = training(HeadTraining, heads, tmp_path, settings=HeadSettings(**asdict(SETTINGS)))
    batch = {name: value[:2] for name, value in Stripes().batch(0).items()}
    batch["modulation"] = torch.full((2,), -1)
    batch["mobility"] = torch.full((2,), -1)
    loss, values = run.losses(heads, batch)
    assert loss.isfinite() and float(values["modulation_loss"]) == float(values["joint_loss"]) == 0


def test_labels_off_the_grid_are_unknown():
    labels = head_labels(
        {
            "protocol": torch.tensor([0, 1, 2, -1]),
            "modulation": torch.tensor([1, -1, 4, 0]),
            "snr_db": torch.tensor([-5.0, 25.0, 7.0, 10.0]),
            "mobility": torch.tensor([0, 2, 1, 1]),
        }
    )
    assert labels["modulation"].tolist() == [1, -100, 4, -100]
    assert labels[JOINT_TASK].tolist() == [0, 20, -100, -100]


def test_a_cnn_router_keeps_its_running_statistics(tmp_path):
    model = mixture()
    model.lwm_spectro_moe.config.router_type = "cnn"
    torch.manual_seed(0)
    model.lwm_spectro_moe.router = LwmSpectroMoERouter(model.config)
    run = training(RouterTraining, model.lwm_spectro_moe, tmp_path)
    run.run(max_samples=64)
    torch.manual_seed(1)
    fresh = mixture()
    fresh.lwm_spectro_moe.config.router_type = "cnn"
    fresh.lwm_spectro_moe.router = LwmSpectroMoERouter(fresh.config)
    training(RouterTraining, fresh.lwm_spectro_moe, tmp_path)
    found, expected = (snapshot(part.lwm_spectro_moe.router) for part in (fresh, model))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any("running_mean" in name for name in expected)

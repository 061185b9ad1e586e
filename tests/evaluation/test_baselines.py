"""The benchmark's models: each learns, is reproducible, and trains what it should."""

import json
import shutil

import pytest
import torch
from benchmark_data import pool_labels, pool_spectrograms
from transformers import ResNetConfig, ResNetForImageClassification

from lwm_spectro_hf.evaluation import features
from lwm_spectro_hf.evaluation.baselines import MODELS, Setting, models_for
from lwm_spectro_hf.evaluation.features import SPECTROGRAM, STATISTICS, TOP1, Checkpoint, FeatureStore, statistics
from lwm_spectro_hf.evaluation.networks import Budget, TrainedNetwork, imagenet
from lwm_spectro_hf.evaluation.tasks import TASKS
from tiny_models import build

LABELS = pool_labels(80)
SPECTROGRAMS = pool_spectrograms(LABELS)
BUDGET = Budget(steps=2, batch_size=8)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return Checkpoint(tiny_checkpoint)


@pytest.fixture
def store(checkpoint, tmp_path):
    return FeatureStore(SPECTROGRAMS, checkpoint, tmp_path)


def fit_and_predict(name, checkpoint, store, budget=BUDGET, imagenet=None):
    entries, _ = models_for([name], TASKS["joint-lte"], checkpoint)
    (entry,) = entries.values()
    model = entry.make(Setting(4, 0, budget, checkpoint, imagenet))
    labels = torch.arange(24) % 4
    model.fit(store.rows(entry.representation, torch.arange(24)), labels)
    return model, model.predict(store.rows(entry.representation, torch.arange(24, 34)))


# EfficientNet's padding is made for squares whose side is a multiple of 32.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "efficientnet-b0"])
def test_every_model_fits_predicts_and_is_reproducible(name, checkpoint, store):
    torch.manual_seed(1)
    model, logits = fit_and_predict(name, checkpoint, store)
    assert logits.shape == (10, 4) and bool(logits.isfinite().all())
    assert model.num_parameters > 0
    torch.manual_seed(2)  # a global seed changes nothing
    _, again = fit_and_predict(name, checkpoint, store)
    assert torch.equal(logits, again)


@pytest.mark.parametrize("name", ["lwm-probe", "lwm-knn", "statistics", "raw-knn"])
def test_classical_models_learn_separable_classes(name, checkpoint):
    labels = torch.arange(40) % 2
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 4 * labels[:, None]
    model = MODELS[name].make(Setting(2, 0, BUDGET, checkpoint))
    model.fit(inputs[:20], labels[:20])
    logits = model.predict(inputs[20:])
    # For two classes, scikit-learn also gives two columns of probabilities.
    assert (logits.argmax(1) == labels[20:]).float().mean() > 0.9


def test_one_shot_of_each_class_fits_a_probe(checkpoint):
    model = MODELS["lwm-probe"].make(Setting(3, 0, BUDGET, checkpoint))
    model.fit(torch.eye(3), torch.arange(3))
    assert model.predict(torch.eye(3)).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["cnn-kojima", "cnn-wu", "lwm-scratch"])
def test_networks_learn(name, checkpoint):
    labels = torch.arange(16) % 2
    values = torch.randn(16, 1, 16, 24, generator=torch.Generator().manual_seed(0)) + 3.0 * labels[:, None, None, None]
    model = MODELS[name].make(Setting(2, 0, Budget(steps=60, batch_size=8, learning_rates=(3e-3,)), checkpoint))
    model.fit(values.half(), labels)
    assert (model.predict(values.half()).argmax(1) == labels).float().mean() > 0.9


def test_stored_features_equal_the_models_embeddings(checkpoint, store):
    """Stored features run all experts and mix after pooling; the model mixes before pooling."""
    rows = torch.arange(7)
    assert checkpoint.representations == ("top-1", "mixture", "expert WiFi", "expert LTE", "expert 5G")
    for representation in checkpoint.representations:
        direct = checkpoint.embed(SPECTROGRAMS[rows], representation)
        torch.testing.assert_close(store.rows(representation, rows), direct, rtol=1e-4, atol=1e-5)
    assert checkpoint.model.config.num_experts_per_sample == 1, "restored"


def test_features_are_computed_once(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_ROWS_PER_FILE", 32)
    first = FeatureStore(SPECTROGRAMS, checkpoint, tmp_path).rows(TOP1, torch.arange(80))
    paths = sorted(tmp_path.glob("embedding-*"))
    assert len(paths) == 3
    paths[1].unlink()  # as if the run had been stopped there
    calls = []
    parts = checkpoint.parts
    monkeypatch.setattr(checkpoint, "parts", lambda values: calls.append(len(values)) or parts(values))
    again = FeatureStore(SPECTROGRAMS, checkpoint, tmp_path)
    assert torch.equal(again.rows(TOP1, torch.arange(80)), first) and sum(calls) == 32
    again.rows(TOP1, torch.arange(3))
    assert sum(calls) == 32
    assert again.milliseconds(SPECTROGRAM) == 0 < again.milliseconds(TOP1)


def test_other_weights_are_another_checkpoint(checkpoint, tiny_checkpoint, tmp_path):
    assert Checkpoint(tiny_checkpoint).digest == checkpoint.digest
    folder = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, folder)
    model = build("moe-classification")
    with torch.no_grad():
        next(model.base_model.experts[0].parameters()).add_(1)
    model.save_pretrained(folder)
    assert Checkpoint(folder).digest != checkpoint.digest
    config = json.loads((folder / "config.json").read_text())
    config["expert_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks .* weights, the first being experts"):
        Checkpoint(folder)


def test_other_settings_are_another_checkpoint(checkpoint, tiny_checkpoint, tmp_path):
    def digest(change):
        folder = tmp_path / "other"
        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return Checkpoint(folder).digest

    assert digest(lambda config: config["expert_config"].update(layer_norm_eps=1.0)) != checkpoint.digest
    assert digest(lambda config: config.update(transformers_version="9", task_name="other")) == checkpoint.digest


def test_statistics_measure_level_spread_and_correlation():
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(5, 2, 16, 24, generator=generator)
    still = white[:, :, :1].expand(-1, -1, 16, -1) + 0.1 * white
    # Four lags are shorter than 16 frames.
    found = statistics(white).unflatten(1, (2, 8, 8))
    torch.testing.assert_close(statistics(white + 3).unflatten(1, (2, 8, 8))[..., 0], found[..., 0] + 3)
    torch.testing.assert_close(statistics(3 * white).unflatten(1, (2, 8, 8))[..., 2:], found[..., 2:])
    drift = white.cumsum(2)
    correlation = statistics(drift).unflatten(1, (2, 8, 8))[..., 4].mean()
    assert correlation > 0.5 > abs(found[..., 4].mean()) and bool(statistics(still).isfinite().all())
    assert bool(statistics(torch.zeros(1, 1, 16, 30)).isfinite().all()), "bands need not divide the bins"


def test_fine_tuning_starts_from_the_checkpoint_and_leaves_the_router(checkpoint, store):
    model, _ = fit_and_predict("lwm-finetuned", checkpoint, store)
    found, before = model.network.base_model.state_dict(), checkpoint.model.state_dict()
    moved = {name for name in before if not torch.equal(found[name], before[name])}
    assert moved and not any(name.startswith("router.") for name in moved)
    slight = Budget(steps=2, batch_size=8, pretrained_share=0.0)
    frozen, _ = fit_and_predict("lwm-finetuned", checkpoint, store, slight)
    found = frozen.network.base_model.state_dict()
    assert all(torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "still", (Budget(steps=1, batch_size=8, learning_rates=(0.0,)), Budget(steps=2, fitted_steps=0, batch_size=8))
)
def test_fine_tuning_starts_from_the_probe_of_its_expert(checkpoint, store, still):
    train, test = torch.arange(24), torch.arange(24, 34)
    for expert, kind in (("LTE", "expert LTE"), (None, TOP1)):
        probe = MODELS["lwm-probe"].make(Setting(4, 0, still, checkpoint))
        probe.fit(store.rows(kind, train), train % 4)
        expected = probe.predict(store.rows(kind, test))
        for name in ("lwm-finetuned", "lwm-lora"):
            model = MODELS[name].make(Setting(4, 0, still, checkpoint, expert=expert))
            model.fit(store.rows(SPECTROGRAM, train), train % 4)
            found = model.predict(store.rows(SPECTROGRAM, test)).log_softmax(-1)
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_lora_trains_adapters_and_head_alone(checkpoint, store):
    model, _ = fit_and_predict("lwm-lora", checkpoint, store)
    trained = [name for name, value in model.network.named_parameters() if value.requires_grad]
    assert trained and all("lora" in name or "classifier" in name for name in trained)
    assert not any("router" in name for name in trained)


def test_learning_rates_are_chosen_on_held_out_shots():
    values, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    values += 2 * labels[:, None]
    budget = Budget(steps=20, batch_size=8, learning_rates=(1e-9, 1e-1))
    model = TrainedNetwork(lambda: torch.nn.Linear(4, 2), budget, 0, is_spectrogram=False)
    model.fit(values, labels)
    assert model.learning_rate == 1e-1
    with pytest.raises(ValueError, match="One row per class"):
        model.fit(values[:2], labels[:2])


def test_imagenet_weights_come_from_a_folder(checkpoint, store, tmp_path):
    with pytest.raises(FileNotFoundError, match="resnet-18 holds no weights; expected config.json"):
        fit_and_predict("resnet-18", checkpoint, store, imagenet=tmp_path)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 1000}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet-18")
    model, logits = fit_and_predict("resnet-18", checkpoint, store, imagenet=tmp_path)
    assert logits.shape == (10, 4) and model.num_parameters < 20_000


def test_efficientnet_takes_a_square_spectrogram():
    network = imagenet("efficientnet-b0", 2, 64, 4, None).eval()
    assert network(torch.randn(1, 2, 64, 64)).logits.shape == (1, 4)
    assert {module.momentum for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}


def test_models_depend_on_task_and_checkpoint(checkpoint, tmp_path, tiny_extractor):
    mixed, _ = models_for(["lwm-expert-probe", "raw-knn"], TASKS["joint-mixed"], checkpoint)
    assert list(mixed) == ["lwm-expert-probe-wifi", "lwm-expert-probe-lte", "lwm-expert-probe-5g", "raw-knn"]
    single, _ = models_for(["lwm-expert-probe"], TASKS["joint-lte"], checkpoint)
    assert list(single) == ["lwm-expert-probe-lte"]
    with pytest.raises(ValueError, match="no model 'oracle'; expected some of lwm-probe"):
        models_for(["oracle"], TASKS["joint-lte"], checkpoint)
    build("classification").save_pretrained(tmp_path)
    tiny_extractor.save_pretrained(tmp_path)
    encoder = Checkpoint(tmp_path)
    chosen, left_out = models_for(list(MODELS), TASKS["joint-lte"], encoder)
    assert "lwm-probe" in chosen and not any("expert" in name or "mixture" in name for name in chosen)
    assert left_out == [f"lwm-{kind}-probe: the checkpoint is a single encoder" for kind in ("mixture", "expert")]
    store = FeatureStore(SPECTROGRAMS, encoder, tmp_path / "features")
    rows = torch.arange(3)
    torch.testing.assert_close(store.rows(TOP1, rows), encoder.embed(SPECTROGRAMS[rows], TOP1), rtol=1e-4, atol=1e-5)
    for name in ("lwm-finetuned", "lwm-lora"):
        fit_and_predict(name, encoder, store)


def test_a_checkpoint_of_something_else_is_refused(tmp_path, tiny_extractor):
    ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ).save_pretrained(tmp_path)
    tiny_extractor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a ResNetModel; expected an encoder or mixture"):
        Checkpoint(tmp_path)


def test_statistics_are_stored_too(store):
    found = store.rows(STATISTICS, torch.arange(5))
    assert found.shape == (5, 8 * 8)
    torch.testing.assert_close(found, statistics(SPECTROGRAMS[:5].float()), rtol=1e-3, atol=1e-3)

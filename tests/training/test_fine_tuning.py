"""Fine-tuning: each method trains only its part, its result can be loaded, and the script covers all steps."""

import copy
import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Array3D, ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, EvalPrediction, TrainingArguments, pipeline

from lwm_spectro_hf import LwmSpectroForPreTraining, LwmSpectroForSequenceClassification, LwmSpectroMoEForPreTraining
from lwm_spectro_hf.data.labelled import LabelledSpectrograms, TaskError, as_is
from lwm_spectro_hf.evaluation.probe import LogisticProbe, fit_head
from lwm_spectro_hf.training.checkpoints import last_checkpoint
from lwm_spectro_hf.training.fine_tuning import (
    EmbeddingClassifier,
    Embeddings,
    FineTuner,
    JointClassifier,
    TimeLimit,
    add_lora,
    build_classifier,
    check_fit,
    load_pretrained,
    renew,
    use_one_device,
)
from lwm_spectro_hf.training.loop import DivergedError
from tiny_models import build, tiny_config, tiny_moe_config

SCRIPT = Path(__file__).parents[2] / "examples" / "run_classification.py"
LABELS = ["low", "middle", "high"]


def table(num=48, protocol=0):
    """Spectrograms (16 x 24) with a bright third of the band, which is their class."""
    generator = np.random.default_rng(0)
    kind = np.arange(num) % 3
    values = generator.standard_normal((num, 1, 16, 24)).astype(np.float32)
    for row, third in enumerate(kind):
        values[row, :, :, 8 * third : 8 * third + 8] += 2
    columns = {"input_values": Array3D((1, 16, 24), "float16"), "kind": ClassLabel(names=LABELS)}
    columns |= {"user": Value("int32"), "protocol": ClassLabel(names=["WiFi", "LTE", "5G"])}
    return Dataset.from_dict(
        {"input_values": values, "kind": kind, "user": np.arange(num) // 3, "protocol": [protocol] * num},
        features=Features(columns),
    )


@pytest.fixture
def rows():
    return LabelledSpectrograms(table(), np.arange(48), np.arange(48) % 3)


def pretrained(mixture=False, **config):
    torch.manual_seed(0)
    if mixture:
        return LwmSpectroMoEForPreTraining(tiny_moe_config(router_type="cnn", **config)).eval()
    return LwmSpectroForPreTraining(tiny_config(**config)).eval()


def tuner(
    model,
    rows,
    folder,
    steps=4,
    callbacks=(),
    encoder_learning_rate=1e-3,
    augmented=False,
    pretrained=False,
    **settings,
):
    settings = {"learning_rate": 1e-2, "weight_decay": 0.05, **settings}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=24,
        per_device_eval_batch_size=24,
        label_names=["labels"],
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **settings,
    )
    return FineTuner(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=as_is,
        callbacks=list(callbacks),
        encoder_learning_rate=encoder_learning_rate,
        augmented=augmented,
        pretrained=pretrained,
    )


def changed(model, before):
    """Names of the weights that are not as they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def logits_of(model, rows):
    model.eval()
    with torch.no_grad():
        return model(rows.__getitems__(list(range(len(rows))))["input_values"]).logits


@pytest.mark.parametrize("mixture", [False, True])
def test_heads_of_frozen_encoders_are_trained_on_embeddings(mixture, rows, tmp_path):
    start = pretrained(mixture)
    model = build_classifier(start, "kind", LABELS)
    before = copy.deepcopy(model.state_dict())
    embeddings = Embeddings(model, rows, 32, "training")
    trainer = tuner(EmbeddingClassifier(model), embeddings, tmp_path)
    trainer.train()
    moved = changed(model, before)
    assert moved and all(name.startswith("classifier.") for name in moved)
    assert "eval_loss" in trainer.evaluate()
    answers = trainer.predict(embeddings).predictions
    torch.testing.assert_close(torch.from_numpy(answers), logits_of(model, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixture", [False, True])
def test_everything_but_the_router_is_trained_and_loads_again(mixture, rows, tmp_path):
    model = build_classifier(pretrained(mixture), "kind", LABELS, head="linear")
    before = copy.deepcopy(model.state_dict())
    trainer = tuner(model, rows, tmp_path / "run", augmented=True)
    trainer.train()
    moved = changed(model, before)
    assert any("q_proj" in name for name in moved) and "classifier.out_proj.weight" in moved
    assert not any("router" in name for name in moved)  # nor the statistics of its normalizations
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert again.config.id2label == dict(enumerate(LABELS)) and again.config.task_name == "kind"
    assert torch.equal(logits_of(again, rows), logits_of(model, rows))
    answers = trainer.predict(rows).predictions
    torch.testing.assert_close(torch.from_numpy(answers), logits_of(model, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixture", [False, True])
def test_adapters_are_merged_into_the_attention(mixture, rows, tmp_path):
    model = build_classifier(pretrained(mixture), "kind", LABELS)
    before = copy.deepcopy(model.state_dict())
    adapted = add_lora(model, rank=2)
    tuner(adapted, rows, tmp_path / "run", encoder_learning_rate=1e-2).train()
    expected = logits_of(adapted, rows)
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "model")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits_of(again, rows), expected, rtol=1e-4, atol=1e-5)
    encoder = {name for name in changed(again, before) if not name.startswith("classifier.")}
    assert encoder and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in encoder)
    assert not any("router" in name for name in encoder)


@pytest.mark.parametrize("mixture", [False, True])
def test_fine_tuning_starts_from_a_probe(mixture, rows):
    model = build_classifier(pretrained(mixture), "kind", LABELS, head="linear")
    embedded = Embeddings(model, rows, 32, "the head")
    encoder = copy.deepcopy(model.base_model.state_dict())
    fit_head(model.classifier, embedded.embeddings, embedded.labels)
    probe = LogisticProbe(seed=0)
    probe.fit(embedded.embeddings, embedded.labels)
    expected = probe.predict(embedded.embeddings)
    torch.testing.assert_close(logits_of(model, rows).log_softmax(-1), expected, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, encoder[name]) for name, value in model.base_model.state_dict().items())
    with pytest.raises(ValueError, match="no row of class 2"):
        fit_head(model.classifier, embedded.embeddings[:4], torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("counts", [[143] * 14, [2999, 1], [1999, 2]])
def test_probes_of_many_rows_hold_out_some_of_each_class(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    embeddings = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0)) + 4 * labels[:, None]
    probe = LogisticProbe(seed=0)
    probe.fit(embeddings, labels)
    assert (probe.predict(embeddings).argmax(1) == labels).float().mean() > 0.9


def test_a_probe_of_two_classes_gives_a_layer():
    labels = torch.arange(20) % 2
    embeddings = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    probe = LogisticProbe(seed=0)
    probe.fit(embeddings, labels)
    weight, bias = probe.layer()
    assert weight.shape == (2, 4)
    logits = (embeddings @ weight.T + bias).log_softmax(-1)
    torch.testing.assert_close(logits, probe.predict(embeddings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_pretrained", [False, True])
def test_running_statistics_are_kept_after_pretraining(is_pretrained, rows, tmp_path):
    model = build_classifier(pretrained(stem_num_channels=4), "kind", LABELS)
    before = copy.deepcopy(model.state_dict())
    tuner(model, rows, tmp_path, pretrained=is_pretrained).train()
    moved = changed(model, before)
    assert any(".stem." in name and name.endswith("weight") for name in moved)
    assert any("running_mean" in name for name in moved) is not is_pretrained


def test_fresh_weights_keep_the_architecture_and_the_router():
    start = pretrained(mixture=True)
    fresh = renew(start)
    before, after = start.state_dict(), fresh.state_dict()
    assert before.keys() == after.keys() and fresh.config.expert_names == start.config.expert_names
    for name in before:
        if ".router." in name:
            assert torch.equal(after[name], before[name])
        elif "q_proj.weight" in name or "embeddings.projection.weight" in name:
            assert not torch.equal(after[name], before[name])


def test_the_joint_objective_is_the_sum_of_its_parts(rows, tmp_path):
    start = pretrained()
    model = build_classifier(start, "kind", LABELS)
    joint = JointClassifier(model, start, reconstruction_weight=0.5, contrastive_weight=0.25)
    batch = rows.__getitems__(list(range(24)))
    torch.manual_seed(7)
    masked = start(batch["input_values"], contrastive_labels=batch["labels"])
    entropy = F.cross_entropy(model(batch["input_values"]).logits, batch["labels"])
    torch.manual_seed(7)
    loss = joint.train()(**batch).loss
    expected = entropy + 0.5 * masked.reconstruction_loss + 0.25 * masked.contrastive_loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(joint.eval()(**batch).loss, entropy)  # so that validation compares with other methods
    before = copy.deepcopy(start.state_dict())
    tuner(joint, rows, tmp_path).train()
    assert {name.split(".")[0] for name in changed(start, before)} == {"lwm_spectro", "decoder", "projection"}
    assert torch.equal(model.lwm_spectro.embeddings.projection.weight, start.lwm_spectro.embeddings.projection.weight)


def test_the_joint_objective_routes_as_inference_does(rows, tmp_path):
    start = LwmSpectroMoEForPreTraining(tiny_moe_config(router_type="fourier", router_dropout_prob=0.9))
    joint = JointClassifier(build_classifier(start, "kind", LABELS), start, 0.5, 0.25)
    trainer = tuner(joint, rows, tmp_path, steps=1)
    modes = []
    start.base_model.router.register_forward_hook(lambda router, *_: modes.append(router.dropout.training))
    trainer.train()
    assert modes and not any(modes)


def test_joint_masks_differ_between_processes_and_are_reproducible(rows, tmp_path, monkeypatch):
    start = pretrained()
    joint, asked = JointClassifier(build_classifier(start, "kind", LABELS), start, 0.5, 0.25), []
    seen = joint.forward
    joint.forward = lambda **inputs: asked.append(inputs.get("noise")) or seen(**inputs)
    batch = rows.__getitems__(list(range(24)))
    for process in (0, 1, 0):
        trainer = tuner(joint, rows, tmp_path, augmented=True)
        with monkeypatch.context() as patched:
            patched.setattr(trainer.args.distributed_state, "process_index", process)
            trainer.compute_loss(joint.train(), batch)
    assert asked[0].shape == (24, start.config.num_patches)
    assert torch.equal(asked[0], asked[2]) and not torch.equal(asked[0], asked[1])
    trainer.compute_loss(joint.eval(), batch)
    assert asked[3] is None  # nothing is masked


def test_one_process_uses_one_gpu(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=64, use_cpu=True)
    arguments._n_gpu = 8  # as on a machine with eight GPUs
    assert arguments.train_batch_size == 512
    use_one_device(arguments)
    assert arguments.train_batch_size == 64 and arguments.n_gpu == 1


def test_adapters_and_the_joint_objective_go_together(rows, tmp_path):
    start = pretrained(mixture=True)
    model = build_classifier(start, "kind", LABELS)
    adapted = add_lora(model, rank=2)
    trainer = tuner(JointClassifier(model, start, 0.5, 0.3), rows, tmp_path)
    trainer.train()
    expected = torch.from_numpy(trainer.predict(rows).predictions)
    merged = adapted.merge_and_unload()
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits_of(merged, rows), expected, rtol=1e-4, atol=1e-5)


def test_the_head_has_a_rate_of_its_own_and_vectors_do_not_decay(rows, tmp_path):
    model = build_classifier(pretrained(), "kind", LABELS)
    trainer = tuner(model, rows, tmp_path, encoder_learning_rate=1e-5, weight_decay=0.2)
    groups = trainer.create_optimizer().param_groups
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        rate = 1e-2 if name.startswith("classifier.") else 1e-5
        assert found[id(parameter)] == (rate, 0.2 if parameter.ndim >= 2 else 0.0)


def test_an_expert_is_loaded_out_of_a_mixture(tmp_path):
    mixture = build("moe-pretraining")
    mixture.save_pretrained(tmp_path)
    expert, has_decoder = load_pretrained(str(tmp_path), "LTE")
    assert type(expert) is LwmSpectroForPreTraining and has_decoder
    values = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        expected = mixture.lwm_spectro_moe.experts[1](values).pooler_output
        torch.testing.assert_close(expert.eval().lwm_spectro(values).pooler_output, expected)
    assert torch.equal(expert.decoder.dense.weight, mixture.decoders[1].dense.weight)
    assert isinstance(build_classifier(expert, "kind", LABELS), LwmSpectroForSequenceClassification)
    with pytest.raises(TaskError, match="no expert 'GSM' in .* WiFi, LTE, 5G"):
        load_pretrained(str(tmp_path), "GSM")


def test_checkpoints_that_do_not_fit_say_why(tiny_checkpoint, tmp_path, rows):
    assert not load_pretrained(str(tiny_checkpoint))[1]  # a classifier has no decoder
    with pytest.raises(TaskError, match="cannot be read as a checkpoint"):
        load_pretrained(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TaskError, match="is a 'bert' model; expected one of lwm_spectro, lwm_spectro_moe"):
        load_pretrained(str(tmp_path))
    model = build("model")
    weights = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(TaskError, match="lacks 16 encoder weights"):
        load_pretrained(str(tmp_path / "half"))
    check_fit(pretrained(), rows, "it")
    with pytest.raises(TaskError, match=r"= \(1, 16, 24\), but it expects \(2, 16, 24\)"):
        check_fit(pretrained(num_channels=2), rows, "it")


def test_a_loss_that_is_not_finite_stops_and_says_where(rows, tmp_path):
    model = build_classifier(pretrained(), "kind", LABELS)
    trainer = tuner(model, rows, tmp_path, steps=10)
    compute, calls = model.forward, []

    def forward(**inputs):
        outputs = compute(**inputs)
        calls.append(1)
        outputs.loss = outputs.loss * (float("nan") if len(calls) == 4 else 1)
        return outputs

    model.forward = forward
    with pytest.raises(DivergedError, match=r"became nan at step 3 of 10 \(epoch 1.50, learning rate .*finite"):
        trainer.train()


def test_the_time_limit_ends_training_after_an_evaluation(rows, tmp_path):
    model = build_classifier(pretrained(), "kind", LABELS)
    settings = {"eval_strategy": "steps", "eval_steps": 1000}
    trainer = tuner(model, rows, tmp_path, steps=2000, callbacks=[TimeLimit(0)], **settings)
    assert trainer.train().global_step == 1
    assert "eval_loss" in trainer.state.log_history[-2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(out, *options)`: the script in this process, on a folder of 48 spectrograms; returns its results."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table().to_parquet(tmp_path / "data" / "data" / "train-00000-of-00001.parquet")

    def call(out, *options, label="kind"):
        arguments = ["--data", tmp_path / "data", "--label", label, "--out", out, "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return json.loads((out / "results.json").read_text())

    return call


def test_the_script_from_data_to_scores(run, tiny_checkpoint, tmp_path, capsys):
    out, options = tmp_path / "out", ["--model", tiny_checkpoint, "--expert", "LTE", "--method", "full"]
    options += ["--head", "linear", "--learning-rate", 5e-3, "--encoder-learning-rate", 5e-3]
    results = run(out, *options, "--epochs", 12, "--batch-size", 16)
    assert results["task"] == "kind" and results["rows"] == {"train": 30, "validation": 6, "test": 12}
    assert results["test"]["accuracy"] > 60 and sum(map(sum, results["test"]["confusion"])) == 12
    assert results["test_by_protocol"]["WiFi"]["num"] == 12 and results["best_validation"] > 60
    printed = capsys.readouterr().out
    assert "12 rows of split 'train' are set aside for test: channels" in printed and "macro-F1" in printed
    assert (out / "confusion.png").stat().st_size > 1000
    assert "| kind | " in (out / "model" / "README.md").read_text()
    with pytest.raises(SystemExit, match="holds a run"):
        run(out, *options)


def test_ties_are_decided_by_the_certainty_of_answers():
    metrics = runpy.run_path(str(SCRIPT))["metrics_of"](["a", "b"])
    truth = np.array([0, 1, 1])
    found = [
        metrics(EvalPrediction(np.array(logits, np.float32), truth))
        for logits in ([[0.1, 0], [0, 0.1], [0.1, 0]], [[3, 0], [0, 3], [0.1, 0]], [[0.01, 0], [0, 0.01], [0, 0.01]])
    ]
    unsure, sure, right = found
    assert unsure["macro_f1"] == sure["macro_f1"] < right["macro_f1"]
    assert unsure["macro_f1_decided"] < sure["macro_f1_decided"] < right["macro_f1_decided"]


def test_a_head_on_a_frozen_mixture_answers_in_the_pipeline(run, tiny_checkpoint, tmp_path, noise):
    run(tmp_path / "out", "--model", tiny_checkpoint, "--epochs", 2, "--validation-share", 0)
    classify = pipeline("iq-classification", model=str(tmp_path / "out" / "model"))
    answer = classify(noise(4000), sampling_rate=1e6)
    assert answer["kind"] in LABELS and answer["protocol"] in ("WiFi", "LTE", "5G")
    assert set(answer) == {
        "protocol",
        "protocol_score",
        "protocol_scores",
        "kind",
        "kind_score",
        "symbols_found",
        "also_found",
    }


def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    pretrained().save_pretrained(tmp_path / "encoder")
    options = ["--model", tmp_path / "encoder", "--method", "full", "--augment", "--joint", "--epochs", 4]
    options += ["--batch-size", 12, "--samples-per-class", 8]
    options += ["--validation-share", 0.2, "--patience", 5]
    whole = run(tmp_path / "whole", *options)
    run(tmp_path / "stopped", *options, "--minutes", 1e-9)
    resumed = run(tmp_path / "stopped", *options, "--resume")
    assert resumed["steps"] == whole["steps"] > 4 and resumed["test"] == whole["test"]
    weights = [
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "stopped")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    # A run resumes from its last weights, whichever were best.
    kept = last_checkpoint(tmp_path / "whole" / "checkpoints")
    assert kept.endswith(f"checkpoint-{whole['steps']}")
    with pytest.raises(SystemExit, match="error: The run in .* was begun with other settings: seed was 0"):
        run(tmp_path / "stopped", *options, "--resume", "--seed", 1)


def test_mistakes_give_one_line(run, tiny_checkpoint, tmp_path, capsys):
    with pytest.raises(
        SystemExit, match="error: There is no column 'snr_db'.* has input_values, kind, user, protocol"
    ):
        run(tmp_path / "out", "--model", tiny_checkpoint, label="snr_db")
    with pytest.raises(SystemExit, match="There is no run in .*out to --resume"):
        run(tmp_path / "out", "--model", tiny_checkpoint, "--resume")
    with pytest.raises(SystemExit):
        run(tmp_path / "out", "--joint")
    assert "--method frozen embeds every row once" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--report-to nobody: this tracker is not installed"):
        run(tmp_path / "out", "--report-to", "nobody")
    for option, value, message in (("--batch-size", 0, "expected at least 1"), ("--warmup", 5, "expected a share")):
        with pytest.raises(SystemExit):
            run(tmp_path / "out", option, value)
        assert message in capsys.readouterr().err

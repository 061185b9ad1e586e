"""What every model class must do, whatever it computes."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from lwm_spectro_hf import (
    LwmSpectroForPreTraining,
    LwmSpectroForSequenceClassification,
    LwmSpectroModel,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
)
from tiny_models import MODELS, build, inputs_for, main_output, tiny_config, tiny_moe_config

every_model = pytest.mark.parametrize("name", list(MODELS))
HEADS = [name for name in MODELS if not name.startswith(("model", "moe-model", "conv-lstm-model"))]


def reloaded(model, folder, model_class=None):
    model.save_pretrained(folder)
    loaded, info = (model_class or type(model)).from_pretrained(folder, output_loading_info=True)
    return loaded, {kind: sorted(keys) for kind, keys in info.items() if keys}


@every_model
def test_save_and_load_round_trip(name, tmp_path):
    model = build(name)
    loaded, problems = reloaded(model, tmp_path)
    assert problems == {}
    again = type(model.config).from_pretrained(tmp_path).to_dict()
    for field, value in model.config.to_dict().items():
        if field not in ("_name_or_path", "expert_config"):
            assert again[field] == value, field
    with torch.no_grad():
        expected, found = model(**inputs_for(model)), loaded(**inputs_for(model))
    torch.testing.assert_close(main_output(found), main_output(expected), rtol=0, atol=0)


@every_model
def test_missing_weights_are_initialized(name, tmp_path):
    """Models are built on the meta device, where a parameter that nobody initializes would hold arbitrary memory."""
    model = build(name)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    save_file({first: weights[first]}, file, metadata={"format": "pt"})
    loaded = type(model).from_pretrained(tmp_path)
    fresh = dict(model.state_dict())
    for key, value in loaded.state_dict().items():
        assert torch.isfinite(value.float()).all(), key
        if value.numel() > 1 and fresh[key].float().std() > 0:
            ratio = value.float().std() / fresh[key].float().std()
            assert 0.4 < ratio < 2.5, f"{key}: {value.float().std()} instead of {fresh[key].float().std()}"
        else:
            torch.testing.assert_close(value, fresh[key], msg=key)


@every_model
def test_tuple_outputs_equal_the_dict_values(name):
    model = build(name)
    with torch.no_grad():
        as_dict, as_tuple = model(**inputs_for(model)), model(**inputs_for(model), return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple, as_dict.to_tuple(), rtol=0, atol=0)
    model.config.return_dict = False
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs_for(model)), as_tuple, rtol=0, atol=0)


@every_model
def test_rows_of_a_batch_do_not_interact(name):
    model = build(name)
    inputs = inputs_for(model)
    with torch.no_grad():
        together = main_output(model(**inputs))
        alone = [main_output(model(**{k: v[i : i + 1] for k, v in inputs.items()})) for i in range(len(together))]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("conv-lstm")])
def test_attention_implementations_agree(name, implementation):
    model = build(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = main_output(model(**inputs_for(model)))
    model.set_attn_implementation(implementation)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            assert module.config._attn_implementation == implementation
    # Uncompiled flex attention gives the same result slowly, and needs no compiler where the tests run.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found = main_output(model(**inputs_for(model)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_gradient_checkpointing_gives_the_same_gradients(name):
    model = build(name).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    assert checkpointed.is_gradient_checkpointing
    for each in (model, checkpointed):
        main_output(each(**inputs_for(each))).square().mean().backward()
    found = dict(checkpointed.named_parameters())
    assert any(parameter.grad is not None for parameter in found.values())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key].grad, parameter.grad, msg=key)


@pytest.mark.parametrize("name", HEADS)
def test_base_loads_into_head_and_back(name, tmp_path):
    head = build(name)
    base_class = type(head.base_model)
    base, problems = reloaded(head, tmp_path / "head", base_class)
    assert problems == {}, "the weights of a head need no report when only the encoder is wanted"
    for key, value in head.base_model.state_dict().items():
        torch.testing.assert_close(base.state_dict()[key], value, rtol=0, atol=0)
    again, problems = reloaded(base, tmp_path / "base", type(head))
    prefix = f"{head.base_model_prefix}."
    assert problems == {"missing_keys": sorted(key for key in head.state_dict() if not key.startswith(prefix))}
    for key, value in base.state_dict().items():
        torch.testing.assert_close(again.base_model.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["single", "mixture"])
def test_one_file_serves_every_auto_class(kind, tmp_path):
    if kind == "single":
        config, classes = tiny_config(), (LwmSpectroForPreTraining, LwmSpectroForSequenceClassification)
    else:
        config, classes = tiny_moe_config(), (LwmSpectroMoEForPreTraining, LwmSpectroMoEForSequenceClassification)
    weights = {}
    for model_class in classes:
        model = model_class(config)
        weights |= model.state_dict()
    model.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for auto_class in (AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), f"{auto_class.__name__}: {info}"
        prefix = "" if auto_class is AutoModel else f"{loaded.base_model_prefix}."
        for key, value in loaded.state_dict().items():
            stored = (
                key if key.startswith(prefix) and prefix or key in weights else f"{loaded.base_model_prefix}.{key}"
            )
            torch.testing.assert_close(value, weights[stored], rtol=0, atol=0)


@every_model
def test_bfloat16_stays_near_float32(name):
    model = build(name)
    if "moe" in name:
        # A row near the router's boundary may go to another expert, so all experts are mixed.
        model.config.num_experts_per_sample = model.config.num_experts
    with torch.no_grad():
        expected = main_output(model(**inputs_for(model)))
        found = main_output(model.to(torch.bfloat16)(**inputs_for(model)))
    assert found.dtype == torch.bfloat16
    if name != "moe-pretraining":
        assert (found.float() - expected).norm() < 0.05 * expected.norm()


def test_encoder_compiles_as_one_graph():
    model = build("model-published")
    inputs = inputs_for(model)
    with torch.no_grad():
        expected = model(**inputs).pooler_output
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pretraining-drop", "pretraining-inpainting"])
def test_pretraining_compiles_as_one_graph(name):
    """Dropping patches must not make a shape depend on the data."""
    model = build(name)
    inputs = inputs_for(model)
    expected = model(**inputs).loss
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["model", "pretraining-drop", "classification"])
def test_hidden_states_and_attentions_are_returned_on_request(name):
    model = build(name)
    model.set_attn_implementation("eager")
    config = model.config.encoder_config
    with torch.no_grad():
        outputs = model(**inputs_for(model), output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == config.num_hidden_layers + 1
    assert len(outputs.attentions) == config.num_hidden_layers
    sums = outputs.attentions[0].sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


class Spectrograms(torch.utils.data.Dataset):
    """Six labelled rows of noise."""

    def __init__(self, model, **labels):
        self.rows = inputs_for(model, batch=6)["input_values"]
        self.labels = labels

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_values": self.rows[index], **{name: index % count for name, count in self.labels.items()}}


@pytest.mark.parametrize(
    "name, labels",
    [
        ("pretraining", {}),
        ("pretraining-drop", {"contrastive_labels": 2}),
        ("classification", {"labels": 3}),
        ("moe-pretraining", {"protocol_labels": 3}),
        ("moe-classification", {"labels": 3, "protocol_labels": 3}),
        ("conv-lstm-pretraining", {}),
        ("conv-lstm-forecasting", {}),
    ],
)
def test_trainer_takes_two_steps_and_evaluates(name, labels, tmp_path):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=6,
        per_device_eval_batch_size=6,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        # Masked modeling is its own label; otherwise Trainer waits for every label that a forward could take.
        label_names=list(labels) if "classification" in name else ["input_values"],
    )
    data = Spectrograms(model, **labels)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    assert not trainer.model_accepts_loss_kwargs
    assert trainer.train().global_step == 2
    assert trainer.evaluate()["eval_loss"] > 0
    assert any((value != before[key]).any() for key, value in model.state_dict().items())
    if "classification" in name:
        predictions = trainer.predict(data).predictions
        logits = predictions[0] if isinstance(predictions, tuple) else predictions
        assert logits.shape == (6, 3)


@pytest.mark.parametrize("name", ["classification", "moe-classification"])
def test_lora_adapts_the_attention_and_trains_the_classifier(name, tmp_path):
    peft = pytest.importorskip("peft")
    model = build(name)
    inputs = inputs_for(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], r=2)
    adapted = peft.get_peft_model(copy.deepcopy(model), lora)
    with torch.no_grad():
        torch.testing.assert_close(adapted(**inputs).logits, expected)
    trainable = {key for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("q_proj.lora_A" in key for key in trainable)
    assert any("classifier.modules_to_save" in key for key in trainable)
    assert not any("mlp" in key or "gate" in key for key in trainable)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted.eval()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    with torch.no_grad():
        changed = adapted(**inputs).logits
        assert (changed - expected).abs().max() > 1e-4
        torch.testing.assert_close(again(**inputs).logits, changed)


@pytest.mark.parametrize("kind", ["classification-levels", "moe-classification-levels", "moe-classification-fourier"])
def test_frozen_modules_keep_their_running_statistics(kind, tmp_path):
    peft = pytest.importorskip("peft")
    model = build(kind)
    before = copy.deepcopy(model.state_dict())
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], r=2)
    adapted = peft.get_peft_model(copy.deepcopy(model), lora)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    inputs = inputs_for(model)
    for _ in range(3):
        adapted.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
    after = adapted.base_model.model.state_dict()
    changed = {key for key, value in before.items() if key in after and (value != after[key]).any()}
    assert not changed, "buffers of frozen modules"
    # So an adapter, which stores no buffers, restores exactly what was trained.
    adapted.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, adapted(**inputs).logits)


@pytest.mark.parametrize("name", ["moe-classification-cnn", "moe-classification-fourier"])
def test_without_protocol_labels_the_router_is_unchanged(name):
    model = build(name)
    before = copy.deepcopy(model.lwm_spectro_moe.router.state_dict())
    inputs, labels = inputs_for(model), torch.tensor([0, 1, 2, 0])
    model.train()(**inputs, labels=labels).loss.backward()
    assert all(torch.equal(value, before[key]) for key, value in model.lwm_spectro_moe.router.state_dict().items())
    model.train()(**inputs, labels=labels, protocol_labels=labels).loss.backward()
    after = model.lwm_spectro_moe.router.state_dict()
    assert any("running_mean" in key and (value != before[key]).any() for key, value in after.items())


@pytest.mark.parametrize("num_experts_per_sample", [1, 2])
def test_task_labels_alone_give_the_router_no_gradient(num_experts_per_sample):
    model = build("moe-classification")
    model.config.num_experts_per_sample = num_experts_per_sample
    model.train()(**inputs_for(model), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(parameter.grad is None for parameter in model.lwm_spectro_moe.router.parameters())
    assert model.classifier.out_proj.weight.grad.abs().max() > 0


def test_a_resolution_that_overflows_half_precision_is_an_error():
    model = build("moe-classification-fourier")
    inputs, resolution = inputs_for(model), torch.tensor([[6.4e-6, 156_250.0]] * 4)
    told = model(**inputs, resolution=resolution).router_logits
    assert not torch.equal(told, model(**inputs).router_logits)
    with pytest.raises(ValueError, match="`resolution` has infinite values: half precision"):
        model(**inputs, resolution=resolution.half())


@pytest.mark.parametrize("unknown", [-1, -100])
def test_rows_with_unknown_labels_are_left_out_of_the_loss(unknown):
    model = build("moe-classification")
    inputs, known, none = inputs_for(model), torch.tensor([0, 1, unknown, unknown]), torch.full((4,), unknown)
    two = {key: value[:2] for key, value in inputs.items()}
    task = next(iter(model.config.additional_tasks))
    outputs = model(**inputs, labels=known, protocol_labels=known, additional_labels={task: known})
    expected = model(**two, labels=known[:2], protocol_labels=known[:2], additional_labels={task: known[:2]})
    torch.testing.assert_close(outputs.loss, expected.loss)
    # A task without any label does not change the loss of the others.
    outputs = model(**inputs, labels=known, protocol_labels=none, additional_labels={task: none})
    torch.testing.assert_close(outputs.loss, model(**two, labels=known[:2]).loss)
    assert model(**inputs, labels=none).loss.item() == 0
    torch.testing.assert_close(model(**inputs, labels=known[:, None]).loss, model(**inputs, labels=known).loss)

    pretraining = build("moe-pretraining")
    chosen = pretraining.lwm_spectro_moe(**inputs).expert_index
    outputs = pretraining(**inputs, protocol_labels=known)
    assert outputs.expert_index.tolist() == [0, 1, *chosen[2:].tolist()] and outputs.loss.isfinite()
    forced = pretraining.lwm_spectro_moe(**inputs, expert_index=known)
    assert forced.expert_index.tolist() == outputs.expert_index.tolist()


@pytest.mark.parametrize("name", ["classification", "moe-classification", "moe-classification-fourier"])
def test_trainer_finds_the_labels_for_metrics_by_itself(name, tmp_path):
    model = build(name)
    values = inputs_for(model)["input_values"]
    data = [{"input_values": row, "labels": index % 3} for index, row in enumerate(values)]
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.argmax(-1).shape)
        return {"right": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    arguments = TrainingArguments(tmp_path, use_cpu=True, report_to="none", per_device_eval_batch_size=2)
    scores = Trainer(model, arguments, eval_dataset=data, compute_metrics=metrics).evaluate()
    assert scores["eval_loss"] > 0 and 0 <= scores["eval_right"] <= 1 and seen == [(4,)]


def test_wrong_shapes_are_named_before_the_router():
    model = build("moe-classification-fourier")
    for shape in ((2, 16, 24), (2, 3, 16, 24), (2, 1, 16, 23), (0, 1, 16, 24)):
        with pytest.raises(ValueError, match="`input_values` has shape .* is expected by this configuration"):
            model(torch.zeros(shape))


@pytest.mark.parametrize("name", ["moe-model", "moe-pretraining", "moe-classification"])
@pytest.mark.parametrize("option", ["output_hidden_states", "output_attentions"])
def test_mixtures_refuse_hidden_states_and_attentions(name, option):
    model = build(name)
    with pytest.raises(ValueError, match=rf"`{option}=True` works with a single encoder.*expert\(name\)"):
        model(**inputs_for(model), **{option: True})
    assert model(**inputs_for(model), **{option: False}) is not None


@pytest.mark.parametrize("name", ["model", "pretraining-levels"])
def test_onnx_export_computes_the_same(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build(name).base_model

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_values):
            return self.model(input_values).pooler_output

    file = tmp_path / "model.onnx"
    rows = inputs_for(model)["input_values"]
    torch.onnx.export(
        Embedding().eval(),
        (rows[:2],),
        str(file),
        input_names=["input_values"],
        output_names=["embedding"],
        dynamic_shapes={"input_values": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["embedding"], {"input_values": rows.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(rows).pooler_output, rtol=1e-4, atol=1e-5)


def test_random_weights_differ_from_row_to_row():
    """The positions and the mask token must not start equal, or patches could not be told apart."""
    model = LwmSpectroForPreTraining(tiny_config())
    assert model.decoder.mask_token.std() > 0
    positions = LwmSpectroModel(tiny_config()).embeddings.position_embeddings
    assert (positions[0] - positions[1]).abs().max() > 0

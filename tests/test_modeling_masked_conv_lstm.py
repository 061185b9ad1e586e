"""The masked ConvLSTM: its recurrence, what it may see, and its three tasks."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForTimeSeriesPrediction,
    Trainer,
    TrainingArguments,
)

from lwm_spectro_hf import (
    MaskedConvLstmConfig,
    MaskedConvLstmForForecasting,
    MaskedConvLstmForPreTraining,
    MaskedConvLstmForSemanticSegmentation,
    MaskedConvLstmModel,
    unpatchify,
)
from lwm_spectro_hf.modeling_masked_conv_lstm import (
    MaskedConvLstmEmbeddings,
    MaskedConvLstmHead,
    MaskedConvLstmLayer,
    standardize,
)
from lwm_spectro_hf.patches_lwm_spectro import patches_to_values
from tiny_models import build, inputs_for, tiny_conv_lstm_config


def test_defaults_match_the_paper():
    config = MaskedConvLstmConfig()
    assert (config.num_hidden_layers, config.hidden_size, config.kernel_size, config.mask_ratio) == (5, 64, 3, 0.2)
    model = MaskedConvLstmForPreTraining(config)
    assert isinstance(model.decoder.out_proj, nn.Conv3d) and model.decoder.out_proj.kernel_size == (3, 3, 3)
    assert [layer.state_conv.kernel_size for layer in model.base_model.layers] == [(3, 3)] * 5


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"segment_frames": 5}, "`segment_frames` = 5 does not divide `num_frames` = 16"),
        ({"segment_frames": 8, "forecast_frames": 4}, "does not divide `forecast_frames` = 4"),
        ({"embedding_stride": 3}, "`embedding_stride` = 3 does not divide `segment_frames`"),
        ({"patch_size": 5}, "`patch_size` = 5 does not divide"),
        ({"forecast_frames": 16}, "something must be left to forecast from"),
        ({"forecast_frames": 0}, "`forecast_frames` is 0"),
        ({"kernel_size": 2}, "must be odd"),
        ({"mask_ratio": 1.0}, "less than 1"),
        ({"hidden_size": 0}, "must be at least 1"),
        ({"num_passes": 0}, "must be at least 1"),
    ],
)
def test_wrong_configurations_say_what_is_wrong(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_conv_lstm_config(**wrong)


def test_on_a_single_cell_the_layer_is_an_lstm():
    """With kernels of one value there is nothing of a convolution left, so PyTorch's LSTM must give the same."""
    config = tiny_conv_lstm_config(kernel_size=1)
    layer, lstm = MaskedConvLstmLayer(config, input_size=5), nn.LSTM(5, config.hidden_size, batch_first=True)
    same = (
        (layer.input_conv.weight, lstm.weight_ih_l0),
        (layer.state_conv.weight, lstm.weight_hh_l0),
        (layer.input_conv.bias, lstm.bias_ih_l0),
    )
    with torch.no_grad():
        for ours, theirs in same:
            admit, keep, emit, candidate = ours.normal_().view(theirs.shape).chunk(4)
            theirs.copy_(torch.cat([admit, keep, candidate, emit]))  # the order of PyTorch
        lstm.bias_hh_l0.zero_()
        values = torch.randn(3, 6, 5)
        expected, _ = lstm(values)
        found = layer(values[..., None, None])
    torch.testing.assert_close(found[..., 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_patch_masks_expand_to_the_values_they_cover():
    config = tiny_conv_lstm_config()
    mask = torch.rand(3, config.num_patches) < 0.4
    patches = mask[..., None].expand(-1, -1, config.patch_size**2).float()
    expected = unpatchify(patches, config.patch_size, config.num_frames, config.num_freq_bins)[:, 0].bool()
    assert torch.equal(patches_to_values(mask, config.patch_size, config.num_frames), expected)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_outputs_are_aligned_with_inputs(stride):
    """With kernels of one cell, an output value depends only on the square of inputs that it lies in."""
    config = tiny_conv_lstm_config(embedding_stride=stride, kernel_size=1)
    embeddings, head = MaskedConvLstmEmbeddings(config), MaskedConvLstmHead(config, 2)
    layer = MaskedConvLstmLayer(config, embeddings.num_outputs)
    values = torch.randn(1, 2, config.num_frames, config.num_freq_bins, requires_grad=True)
    outputs = head(layer(embeddings(values)))
    assert outputs.shape == (1, 2, config.num_frames, config.num_freq_bins)
    # In the first segment, before anything is remembered.
    frame, bin_ = 3, 17
    outputs[0, :, frame, bin_].sum().backward()
    touched = values.grad[0].abs().sum(0).nonzero()
    low = torch.tensor([frame // stride * stride, bin_ // stride * stride])
    assert ((touched >= low) & (touched < low + stride)).all()
    assert [frame, bin_] in touched.tolist()


@pytest.mark.parametrize("name", ["conv-lstm-pretraining", "conv-lstm-pretraining-stride"])
def test_masked_values_do_not_reach_the_output(name):
    model = build(name)
    inputs = inputs_for(model)
    with torch.no_grad():
        outputs = model(**inputs)
        other = torch.where(outputs.mask[:, None], 99.0, inputs["input_values"])
        again = model(other, noise=inputs["noise"])
    assert outputs.mask.float().mean() == pytest.approx(model.config.mask_ratio, abs=0.02)
    torch.testing.assert_close(again.reconstruction, outputs.reconstruction, rtol=0, atol=0)


def test_the_loss_is_the_mean_square_of_masked_values():
    model = build("conv-lstm-pretraining")
    inputs = inputs_for(model)
    outputs = model(**inputs)
    error = (outputs.reconstruction - inputs["input_values"]).square()
    expected = error[outputs.mask[:, None].expand_as(error)].mean()
    torch.testing.assert_close(outputs.loss, expected)
    nothing = torch.zeros(len(error), model.config.num_patches, dtype=torch.bool)
    assert model(inputs["input_values"], bool_masked_pos=nothing).loss == 0


def test_forecasts_see_the_past_but_not_the_future():
    model = build("conv-lstm-forecasting")
    values = inputs_for(model)["input_values"]
    known = model.config.num_frames - model.config.forecast_frames
    other = values.clone()
    other[:, :, known:] = 7.0
    unknown = values.clone()
    unknown[:, :, known:] = torch.nan
    with torch.no_grad():
        expected, found = model(values), model(other)
        assert torch.equal(model(unknown).reconstruction, expected.reconstruction)
        forecast = model.forecast(values[:, :, :known])
        past = values.clone()
        past[:, :, 0] += 1.0
        changed = model.forecast(past[:, :, :known])
    torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=0, atol=0)
    torch.testing.assert_close(forecast, expected.reconstruction[:, :, known:], rtol=0, atol=0)
    assert found.loss != expected.loss
    assert (changed - forecast).abs().max() > 0
    assert expected.mask.sum() == len(values) * model.config.forecast_frames * model.config.num_freq_bins


def test_forecasts_follow_level_and_scale_of_the_input():
    model = build("conv-lstm-forecasting")
    known = inputs_for(model)["input_values"][:, :, : model.config.num_frames - model.config.forecast_frames]
    with torch.no_grad():
        expected = 10 * model.forecast(known) - 80
        found = model.forecast(10 * known - 80)
        silence = model.forecast(torch.full_like(known, -100.0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(silence, torch.full_like(silence, -100.0), rtol=1e-4, atol=1e-3)


def test_wrong_shapes_say_what_is_expected():
    model = build("conv-lstm-forecasting")
    with pytest.raises(ValueError, match=r"\(1, 2, 16, 25\).*\(batch, 2, 16, 24\) is expected"):
        model(torch.zeros(1, 2, 16, 25))
    with pytest.raises(ValueError, match=r"\(batch, num_channels, 8, num_freq_bins\) is expected"):
        model.forecast(torch.zeros(1, 2, 16, 24))
    for name in ("conv-lstm-model", "conv-lstm-segmentation"):
        model = build(name)
        for shape in ((2, 1, 16, 24), (1, 16, 24), (16, 24)):
            with pytest.raises(ValueError, match=r"`mask` has shape .* = \(2, 16, 24\) is expected"):
                model(torch.zeros(2, 2, 16, 24), mask=torch.zeros(shape))


def test_segmentation_ignores_unknown_labels():
    model = build("conv-lstm-segmentation")
    values = inputs_for(model)["input_values"]
    labels = torch.randint(3, (len(values), *values.shape[2:]))
    labels[:, :5] = -100
    outputs = model(values, labels=labels)
    assert outputs.logits.shape == (len(values), 3, *values.shape[2:])
    log_probability = outputs.logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    torch.testing.assert_close(outputs.loss, -log_probability[labels >= 0].mean())
    assert model(values, labels=torch.full_like(labels, -100)).loss == 0


def test_values_outside_the_received_band_are_ignored():
    model = build("conv-lstm-segmentation")
    values = inputs_for(model)["input_values"]
    mask = torch.zeros(len(values), 16, 24, dtype=torch.bool)
    mask[:, 9:] = mask[:, :, :7] = mask[:, :, 19:] = True
    other = torch.where(mask[:, None], -50.0, values)
    unknown = torch.where(mask[:, None], torch.nan, values)
    with torch.no_grad():
        expected = model(values, mask=mask).logits
        torch.testing.assert_close(model(unknown, mask=mask).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(model(other, mask=mask).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(model(other, mask=mask.long()).logits, expected, rtol=0, atol=0)
        # Level and scale of the visible values do not matter either.
        torch.testing.assert_close(model(5 * other - 70, mask=mask).logits, expected, rtol=1e-3, atol=1e-4)
        assert (model(values).logits - expected).abs().max() > 0


def test_values_are_standardized_by_the_visible_ones():
    values = 3 * torch.randn(2, 2, 16, 24, generator=torch.Generator().manual_seed(0)) - 40
    mask = torch.rand(2, 16, 24, generator=torch.Generator().manual_seed(1)) < 0.4
    found, mean, std = standardize(values, mask)
    for row, hidden, shown in zip(found, mask, values, strict=True):
        for channel, original in zip(row, shown, strict=True):
            seen = original[~hidden]
            expected = (original - seen.mean()) / seen.std(correction=0)
            torch.testing.assert_close(channel, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found * std + mean, values, rtol=1e-4, atol=1e-3)


def test_a_pretrained_network_serves_every_task(tmp_path):
    model = MaskedConvLstmForPreTraining(tiny_conv_lstm_config())
    segmentation = MaskedConvLstmForSemanticSegmentation(model.config)
    model.save_pretrained(tmp_path)
    weights = {**segmentation.state_dict(), **model.state_dict()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for auto_class in (
        AutoModel,
        AutoModelForPreTraining,
        AutoModelForSemanticSegmentation,
        AutoModelForTimeSeriesPrediction,
    ):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), f"{auto_class.__name__}: {info}"
    assert isinstance(loaded, MaskedConvLstmForForecasting)
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)


def test_trainer_learns_to_segment(tmp_path):
    """Loud and quiet values are two classes, which a few steps separate almost completely."""
    model = build("conv-lstm-segmentation")
    values = torch.randn(16, 2, 16, 24, generator=torch.Generator().manual_seed(3))
    rows = [{"input_values": row, "labels": (row.sum(0) > 0).long()} for row in values]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=60,
        per_device_train_batch_size=16,
        learning_rate=2e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    predictions = trainer.predict(rows)
    logits = predictions.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    assert (logits.argmax(1) == predictions.label_ids).mean() > 0.9


def test_it_compiles_as_one_graph():
    model = build("conv-lstm-pretraining")
    inputs = inputs_for(model)
    expected = model(**inputs).loss
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_second_pass_lets_the_first_segment_see_the_last(passes):
    model = MaskedConvLstmModel(tiny_conv_lstm_config(num_passes=passes)).eval()
    values = inputs_for(model)["input_values"].requires_grad_()
    outputs = model(values).last_hidden_state
    assert outputs.shape[1] == 4
    outputs[:, 0].square().sum().backward()
    assert (values.grad[:, :, -4:].abs().max() > 0) == (passes == 2)
    # Two passes equal one pass over the segments repeated twice.
    again = MaskedConvLstmModel(tiny_conv_lstm_config(num_frames=16 * passes)).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = again(values.repeat(1, 1, passes, 1)).last_hidden_state[:, -4:]
    torch.testing.assert_close(outputs, expected)


def test_early_segments_are_remembered():
    """Forget gates start open, so the first segment still reaches the last."""
    model = build("conv-lstm-model")
    values = inputs_for(model)["input_values"].requires_grad_()
    model(values).last_hidden_state[:, -1].square().sum().backward()
    first, last = values.grad[:, :, :4].norm(), values.grad[:, :, -4:].norm()
    assert first > 0.01 * last


def test_data_parallel_copies_compute(monkeypatch):
    """Copies made by `DataParallel` have no parameters, and hence no `dtype`."""
    model = build("conv-lstm-segmentation")
    expected = model(**inputs_for(model)).logits
    monkeypatch.setattr(type(model.base_model), "dtype", property(lambda self: next(iter([]))))
    assert torch.equal(model(**inputs_for(model)).logits, expected)

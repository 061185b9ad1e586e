"""What the models compute, against the paper's equations written out, and against torch's own modules."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lwm_spectro_hf import (
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroForSequenceClassification,
    LwmSpectroModel,
    LwmSpectroMoEConfig,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoEModel,
    LwmSpectroMoERouter,
    patchify,
    supervised_contrastive_loss,
    unpatchify,
)
from lwm_spectro_hf.modeling_lwm_spectro import LwmSpectroPatchStem
from lwm_spectro_hf.objectives_lwm_spectro import draw_mask
from lwm_spectro_hf.patch_copying_lwm_spectro import frame_and_bin_means, sum_of_means
from tiny_models import COPYING, INPAINTING, PUBLISHED, build, inputs_for, tiny_config, tiny_moe_config


def test_default_encoder_has_the_papers_size():
    model = LwmSpectroModel(LwmSpectroConfig())
    # 12 layers of 198,272, the patch projection 2,176, the positions 131,072.
    assert model.num_parameters() == 12 * 198_272 + 2_176 + 131_072
    assert 2.4e6 < model.num_parameters() < 2.6e6


def test_published_expert_has_as_many_parameters_as_the_published_file():
    fields = {**PUBLISHED, "max_position_embeddings": 1025}
    model = LwmSpectroForPreTraining(LwmSpectroConfig(**fields))
    # The file has no contrastive projection.
    assert model.num_parameters() - model.projection.weight.numel() - model.projection.bias.numel() == 2_531_728


def test_published_router_has_as_many_parameters_as_the_published_file():
    router = LwmSpectroMoERouter(LwmSpectroMoEConfig(router_type="cnn"))
    assert sum(parameter.numel() for parameter in router.parameters()) == 186_467


# Patches


def test_patches_are_row_major_and_flattened_by_channel_row_column():
    values = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    patches = patchify(values, 2)
    assert patches.shape == (1, 6, 8)
    # The second patch of the second row of patches: rows 2 and 3, columns 2 and 3.
    assert patches[0, 4].tolist() == values[0, :, 2:4, 2:4].flatten().tolist()
    torch.testing.assert_close(unpatchify(patches, 2, 4, 6), values)


def test_patch_projection_is_a_strided_convolution():
    config = tiny_config(num_channels=2)
    embeddings = LwmSpectroModel(config).embeddings
    values = torch.randn(3, 2, 16, 24)
    convolution = F.conv2d(
        values, embeddings.projection.weight.view(-1, 2, 4, 4), embeddings.projection.bias, stride=4
    )
    expected = convolution.flatten(2).transpose(1, 2) + embeddings.position_embeddings
    torch.testing.assert_close(embeddings(values), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 16, 24), (2, 1, 24, 16), (2, 2, 16, 24), (1, 16, 24, 1)])
def test_wrong_shapes_name_found_and_expected(shape):
    with pytest.raises(ValueError) as error:
        build("model")(torch.zeros(shape))
    assert str(shape) in str(error.value)
    assert "(batch, 1, 16, 24)" in str(error.value)


# Encoder


def test_encoder_is_torchs_post_norm_transformer():
    """The same weights give the same output in `nn.TransformerEncoderLayer(norm_first=False)`."""
    model = build("model")
    values = inputs_for(model)["input_values"]
    hidden_states = model.embeddings(values)
    for layer in model.layers:
        reference = nn.TransformerEncoderLayer(32, 2, 64, 0.0, "gelu", 1e-6, batch_first=True)
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        with torch.no_grad():
            reference.self_attn.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
            reference.self_attn.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
        for mine, theirs in (
            (attention.o_proj, reference.self_attn.out_proj),
            (mlp.fc1, reference.linear1),
            (mlp.fc2, reference.linear2),
            (layer.norm1, reference.norm1),
            (layer.norm2, reference.norm2),
        ):
            theirs.load_state_dict(mine.state_dict())
        hidden_states = reference(hidden_states)
    outputs = model(values)
    torch.testing.assert_close(outputs.last_hidden_state, hidden_states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.pooler_output, hidden_states.mean(dim=1), rtol=1e-4, atol=1e-5)


def test_published_normalization_uses_the_unbiased_deviation():
    model = build("model-published")
    norm = model.layers[0].norm1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 32)
    expected = norm.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + norm.bias
    torch.testing.assert_close(norm(x), expected)
    assert (norm(x) - F.layer_norm(x, (32,), norm.weight, norm.bias, 1e-6)).abs().max() > 1e-3


def test_published_input_is_a_constant_cls_patch_before_the_spectrogram():
    model = build("model-published")
    embeddings = model.embeddings
    values = inputs_for(model)["input_values"]
    patches = patchify(values, 4)
    sequence = torch.cat([torch.full((4, 1, 16), 0.2), patches], dim=1)
    # 26 positions for the 25 tokens: the table may be longer than the sequence.
    tokens = embeddings.projection(sequence) + embeddings.position_embeddings[:25]
    torch.testing.assert_close(embeddings(values), embeddings.norm(tokens))
    outputs = model(values)
    assert outputs.last_hidden_state.shape == (4, 25, 32)
    torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state.mean(dim=1))


# Masked modeling


def test_patches_of_lowest_noise_are_masked():
    config = tiny_config(mask_ratio=0.25)
    noise = torch.rand(3, 24)
    mask = draw_mask(config, torch.zeros(3, 1, 16, 24), noise=noise)
    assert mask.sum(dim=1).tolist() == [6, 6, 6]
    for row, row_noise in zip(mask, noise, strict=True):
        assert row_noise[row].max() < row_noise[~row].min()


def test_masks_of_the_wrong_shape_are_named():
    model = build("pretraining")
    inputs = inputs_for(model)
    with pytest.raises(ValueError, match=r"`noise` has shape \(4, 23\), but \(batch, num_patches\) = \(4, 24\)"):
        model(inputs["input_values"], noise=torch.rand(4, 23))
    with pytest.raises(ValueError, match="`bool_masked_pos` has shape"):
        model(inputs["input_values"], bool_masked_pos=torch.ones(4, 25))


def test_dropping_needs_rows_that_mask_equally_many():
    model = build("pretraining-drop")
    mask = torch.zeros(4, 24, dtype=torch.bool)
    mask[:, :17] = True
    mask[2, 20] = True
    with pytest.raises(ValueError, match=r"= 17 masked patches in each row; found \[17, 17, 18, 17\]"):
        model(inputs_for(model)["input_values"], bool_masked_pos=mask)


def test_an_encoder_alone_needs_a_mask_token():
    model = LwmSpectroForPreTraining(tiny_config()).lwm_spectro
    values, mask = torch.randn(2, 1, 16, 24), torch.arange(24).expand(2, -1) < 8
    with pytest.raises(ValueError, match="`bool_masked_pos` needs the `mask_token`"):
        model(values, bool_masked_pos=mask)
    token = torch.randn(model.config.hidden_size)
    masked = model(values, bool_masked_pos=mask, mask_token=token)[0]
    assert torch.equal(model(values, bool_masked_pos=mask.int(), mask_token=token)[0], masked)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_labels_may_be_integers_of_any_width(dtype):
    model, values, labels = build("classification").eval(), torch.randn(3, 1, 16, 24), torch.tensor([0, 1, -1])
    assert model(values, labels=labels.to(dtype)).loss == model(values, labels=labels).loss


def test_learnable_mask_token_replaces_the_projected_patch():
    model = build("pretraining")
    embeddings, token = model.lwm_spectro.embeddings, model.decoder.mask_token
    values = inputs_for(model)["input_values"]
    mask = torch.zeros(4, 24, dtype=torch.bool)
    mask[0, 3] = mask[2, 7] = True
    clean, masked = embeddings(values), embeddings(values, mask, token)
    torch.testing.assert_close(masked[~mask], clean[~mask])
    torch.testing.assert_close(masked[0, 3], token + embeddings.position_embeddings[3])


def test_published_mask_is_a_constant_in_input_space():
    model = build("pretraining-published")
    assert model.decoder.mask_token is None
    values = inputs_for(model)["input_values"]
    mask = torch.zeros(4, 24, dtype=torch.bool)
    mask[0, 3] = True
    changed = values.clone()
    changed[0, :, 0:4, 12:16] = 0.1
    embeddings = model.lwm_spectro.embeddings
    torch.testing.assert_close(embeddings(values, mask), embeddings(changed))


@pytest.mark.parametrize(
    "name", [f"pretraining{kind}" for kind in ("", "-drop", "-published", "-copying", "-inpainting")]
)
def test_masked_values_do_not_reach_the_output(name):
    """Only the loss depends on masked values, neither the embedding nor the reconstruction."""
    model = build(name)
    inputs = inputs_for(model)
    outputs = model(**inputs)
    pixels = unpatchify(outputs.mask[..., None].expand(-1, -1, 16).float(), 4, 16, 24).bool()
    inputs["input_values"] = inputs["input_values"].masked_fill(pixels, 7.0)
    changed = model(**inputs)
    torch.testing.assert_close(changed.mask, outputs.mask)
    torch.testing.assert_close(changed.embedding, outputs.embedding)
    torch.testing.assert_close(changed.reconstruction, outputs.reconstruction)
    assert changed.loss > outputs.loss


@pytest.mark.parametrize("name", ["pretraining", "pretraining-drop", "pretraining-published"])
def test_reconstruction_loss_is_equation_17(name):
    model = build(name)
    inputs = inputs_for(model)
    outputs = model(**inputs)
    patches = patchify(inputs["input_values"], 4)
    distances = [
        ((outputs.reconstruction[row, i] - patches[row, i]) ** 2).sum() for row, i in outputs.mask.nonzero().tolist()
    ]
    torch.testing.assert_close(outputs.reconstruction_loss, torch.stack(distances).mean())
    torch.testing.assert_close(outputs.loss, outputs.reconstruction_loss)


def test_embedding_target_has_no_gradient():
    model = LwmSpectroForPreTraining(tiny_config(reconstruction_target="embeddings"))
    inputs = inputs_for(model)
    outputs = model(**inputs)
    assert outputs.reconstruction.shape == (4, 24, 32)
    target = model.lwm_spectro.embeddings.projection(patchify(inputs["input_values"], 4))
    distance = (outputs.reconstruction - target).square().sum(-1)[outputs.mask].mean()
    torch.testing.assert_close(outputs.loss, distance)
    everything_masked = torch.ones(4, 24, dtype=torch.bool)
    model(inputs["input_values"], bool_masked_pos=everything_masked).loss.backward()
    # All that the encoder saw was the mask token, so the projection could only be moved through the target.
    assert model.lwm_spectro.embeddings.projection.weight.grad.abs().max() == 0


def test_dropping_encodes_the_visible_tokens_only():
    model = build("pretraining-drop")
    seen = []
    model.lwm_spectro.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    outputs = model(**inputs_for(model))
    # 24 patches less 17 masked, and the CLS token.
    assert seen == [(4, 8, 32)]
    assert outputs.reconstruction.shape == (4, 24, 16)


def test_a_stem_keeps_patches_apart():
    """No convolution crosses the border of a patch, or masked patches would leak into their neighbours."""
    model = build("pretraining-stem")
    values = inputs_for(model)["input_values"]
    embed = model.lwm_spectro.embeddings.projection
    patches = model.lwm_spectro.embeddings.patches(values)
    before = embed(patches)
    assert before.shape == (4, 6, 32)
    patches[:, 2] = 9.0
    changed = (embed(patches) != before).any(-1)
    assert changed[:, 2].all() and changed.sum() == 4


def test_cells_of_a_stem_are_squares_of_the_patch():
    """With all later layers made the identity, the stem sums over squares of neighbouring frames and bins."""
    config = tiny_config(num_channels=1, patch_size=8, stem_num_channels=1, stem_num_layers=0, hidden_size=4)
    stem = LwmSpectroPatchStem(config).eval()
    stem.out_proj = nn.Identity()
    nn.init.ones_(stem.dense.weight)
    nn.init.zeros_(stem.dense.bias)
    values = torch.rand(2, 1, 16, 24)
    expected = patchify(F.avg_pool2d(values, 4) * 16, 2)
    torch.testing.assert_close(stem(patchify(values, 8)), expected / math.sqrt(1 + stem.norm.eps))


def test_masking_a_stem_encodes_visible_patches_only():
    model = build("pretraining-stem")
    inputs = inputs_for(model)
    seen = []
    model.lwm_spectro.embeddings.projection.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    outputs = model(**inputs)
    patches = patchify(inputs["input_values"], 8)
    assert torch.equal(seen[0], patches[~outputs.mask].view(4, 3, -1))


def test_dropped_tokens_return_to_their_places():
    """With the layers of the decoder made the identity, each visible place must hold its own encoder output."""
    config = tiny_config(mask_strategy="drop", cls_token_value=0.2, reconstruction_target="embeddings")
    model = LwmSpectroForPreTraining(config).eval()
    inputs = inputs_for(model)
    decoder = model.decoder
    nn.init.zeros_(decoder.position_embeddings)
    decoder.layers = nn.ModuleList()
    decoder.dense = decoder.norm = decoder.projection = decoder.activation = nn.Identity()
    outputs = model(**inputs)
    mask = outputs.mask
    encoded = model.lwm_spectro(inputs["input_values"], bool_masked_pos=mask).last_hidden_state[:, 1:]
    for row in range(4):
        torch.testing.assert_close(outputs.reconstruction[row, ~mask[row]], encoded[row])
        torch.testing.assert_close(
            outputs.reconstruction[row, mask[row]], decoder.mask_token.expand(int(mask[row].sum()), -1)
        )


def test_means_of_frames_and_bins_are_the_additive_model():
    """Against least squares on the visible pixels, with a coefficient for each frame and each bin."""
    config = tiny_config(num_channels=1)
    generator = torch.Generator().manual_seed(0)
    frame, bin_ = torch.randn(16, 1, generator=generator), torch.randn(24, generator=generator)
    values = (1 + frame + bin_ + 0.1 * torch.randn(16, 24, generator=generator))[None, None]
    mask = draw_mask(tiny_config(mask_ratio=0.25), values, noise=torch.rand(1, 24, generator=generator))
    patches = sum_of_means(*frame_and_bin_means(patchify(values, 4), mask, config)).flatten(2)
    found = unpatchify(patches, 4, 16, 24)[0, 0]
    visible = ~unpatchify(mask[..., None].expand(-1, -1, 16).float(), 4, 16, 24)[0, 0].bool()
    rows, columns = visible.nonzero().T
    design = torch.cat([F.one_hot(rows, 16), F.one_hot(columns, 24)], dim=1).numpy()
    solution = np.linalg.lstsq(design, values[0, 0][visible].numpy(), rcond=None)[0]
    expected = torch.tensor(solution[:16, None] + solution[16:])
    hidden = ~visible
    assert (found - expected)[hidden].square().mean() < 0.02 * expected[hidden].var()


def test_means_are_zero_if_everything_is_masked():
    config = tiny_config(num_channels=1)
    mask = torch.ones(1, 24, dtype=torch.bool)
    for part in frame_and_bin_means(torch.full((1, 24, 16), 3.0), mask, config):
        assert torch.equal(part, torch.zeros_like(part))


def test_a_copying_decoder_can_repeat_pilots():
    """Pilots of alternating sign vanish in means of frames and bins, but can be copied from the next patch."""
    config = tiny_config(**{**COPYING, "num_channels": 1})
    model = LwmSpectroForPreTraining(config).eval()
    frame, bin_ = torch.arange(16)[:, None], torch.arange(24)
    pilots = torch.where(frame % 4 == 2, 1.0 - 2.0 * (bin_ % 2), 0.0)
    values = pilots.expand(1, 1, 16, 24)
    mask = (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0
    copying = model.decoder.copying
    with torch.no_grad():
        model.decoder.projection.weight.zero_()
        before = model(values, bool_masked_pos=mask.reshape(1, 24)).reconstruction_loss
        copying.gate.bias.view(4, 4)[2:] = 1 / 2  # both heads, in every frame of a patch
        copying.position_bias[:, 3] = 100.0  # nowhere but in the same row
        after = model(values, bool_masked_pos=mask.reshape(1, 24)).reconstruction_loss
    assert after < 0.02 * before


def test_an_inpainting_decoder_restores_additive_cells():
    """Sums of frame and bin terms that have zero mean in each cell pass unchanged."""
    inpainting = LwmSpectroForPreTraining(tiny_config(**INPAINTING, patch_size=8)).decoder.inpainting
    frames, bins = torch.randn(2, 2, 4, 4, 6, 1, 1), torch.randn(2, 2, 4, 1, 6, 4, 1)
    frames, bins = frames - frames.mean(3, keepdim=True), bins - bins.mean(5, keepdim=True)
    image = (frames[..., 0] + bins[..., 0]).flatten(4).flatten(2, 3)
    patches = patchify(image, 8)
    cells = inpainting.means_of_cells(patches)
    assert cells.shape == (2, 16, 4, 6)
    torch.testing.assert_close(inpainting.sums_in_cells(cells), patches)


def test_an_inpainting_decoder_learns_smooth_variation():
    """Products of waves along both axes: every frame and bin has zero mean, and no two patches are alike."""
    config = tiny_config(**{**INPAINTING, "num_channels": 1, "num_frames": 32, "num_freq_bins": 32})
    model = LwmSpectroForPreTraining(config)
    for parameter in model.decoder.inpainting.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    place = torch.arange(32) / 32
    phases = 2 * math.pi * torch.rand(16, 2, 1, 1)
    values = torch.cos(2 * math.pi * place[:, None] + phases[:, :1]) * torch.cos(2 * math.pi * place + phases[:, 1:])
    noise = torch.rand(16, config.num_patches)
    before = model.eval()(values, noise=noise).reconstruction_loss
    optimizer = torch.optim.Adam(model.decoder.inpainting.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model(values, noise=torch.rand(16, config.num_patches)).loss.backward()
        optimizer.step()
    assert model(values, noise=noise).reconstruction_loss < 0.5 * before


def test_mask_ratio_zero_gives_no_reconstruction_loss():
    model = LwmSpectroForPreTraining(tiny_config(mask_ratio=0.0))
    assert model(inputs_for(model)["input_values"]).loss == 0


# Contrastive learning


def test_contrastive_loss_is_equation_19_written_out():
    z = F.normalize(torch.randn(6, 5), dim=-1)
    labels, tau = [0, 1, 0, 2, 1, 0], 0.2
    total, anchors = 0.0, 0
    for i in range(6):
        others = [a for a in range(6) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        denominator = sum(math.exp(float(z[i] @ z[a]) / tau) for a in others)
        for p in positives:
            total -= math.log(math.exp(float(z[i] @ z[p]) / tau) / denominator) / len(positives)
        anchors += bool(positives)
    loss = supervised_contrastive_loss(z, torch.tensor(labels), tau, reduction="sum")
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert anchors == 5
    assert supervised_contrastive_loss(z, torch.tensor(labels), tau).item() == pytest.approx(total / 5, rel=1e-5)


def test_contrastive_loss_without_positives_is_zero_and_has_gradients():
    for rows in (1, 3):
        z = F.normalize(torch.randn(rows, 5), dim=-1).requires_grad_()
        loss = supervised_contrastive_loss(z, torch.arange(rows))
        loss.backward()
        assert loss == 0 and torch.isfinite(z.grad).all()


def test_unknown_labels_are_negatives_only():
    z = F.normalize(torch.randn(4, 5), dim=-1)
    unknown = supervised_contrastive_loss(z, torch.tensor([0, 0, -100, -100]))
    distinct = supervised_contrastive_loss(z, torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(unknown, distinct)


def test_joint_objective_is_equation_22():
    model = LwmSpectroForPreTraining(tiny_config(reconstruction_loss_weight=0.5, contrastive_loss_weight=2.0))
    outputs = model(**inputs_for(model), contrastive_labels=torch.tensor([0, 0, 1, 1]))
    expected = supervised_contrastive_loss(outputs.projection, torch.tensor([0, 0, 1, 1]), 0.2)
    torch.testing.assert_close(outputs.contrastive_loss, expected)
    torch.testing.assert_close(outputs.loss, 0.5 * outputs.reconstruction_loss + 2.0 * expected)
    torch.testing.assert_close(outputs.projection.norm(dim=-1), torch.ones(4))


# Classification


def test_residual_head_is_equation_20_written_out():
    model = build("classification")
    values = inputs_for(model)["input_values"]
    head = model.classifier
    x = head.norm(model.lwm_spectro(values).pooler_output)[:, None, :]
    conv = lambda layer, x: F.conv1d(x, layer.weight, layer.bias, padding=2)  # noqa: E731
    x = conv(head.stem, x).relu()
    for block in head.blocks:
        x = (x + conv(block.conv2, conv(block.conv1, x).relu())).relu()
    logits = x.mean(dim=-1) @ head.out_proj.weight.T + head.out_proj.bias
    outputs = model(values, labels=torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])))


def test_linear_head_has_a_weight_for_each_dimension_and_label():
    model = LwmSpectroForSequenceClassification(tiny_config(classifier_type="linear"))
    assert {key: tuple(value.shape) for key, value in model.classifier.state_dict().items()} == {
        "out_proj.weight": (3, 32),
        "out_proj.bias": (3,),
    }


# Mixture of experts


def runs_of(model: LwmSpectroMoEModel) -> list[list[int]]:
    """For each expert, the batch size of each of its runs from now on."""
    runs = [[] for _ in model.experts]
    for index, expert in enumerate(model.experts):
        expert.register_forward_hook(lambda module, args, output, index=index: runs[index].append(len(args[0])))
    return runs


class FixedRouter(nn.Module):
    """Gives the logits it was made with."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, input_values, resolution=None):
        return self.logits[: len(input_values)]


TO_2_0_2_2 = [[0.0, 1.0, 5.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1.0], [1.0, 2.0, 3.0]]


def test_top_1_runs_each_expert_on_its_rows_only():
    model = LwmSpectroMoEModel(tiny_moe_config()).eval()
    model.router = FixedRouter(TO_2_0_2_2)
    runs = runs_of(model)
    values = inputs_for(model)["input_values"]
    outputs = model(values)
    assert outputs.expert_index.tolist() == [2, 0, 2, 2]
    assert runs == [[1], [], [3]], "an expert that no row chose must not be computed"
    for row, expert in enumerate([2, 0, 2, 2]):
        expected = model.experts[expert](values[row : row + 1])
        torch.testing.assert_close(outputs.last_hidden_state[row], expected.last_hidden_state[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.pooler_output[row], expected.pooler_output[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_mixture_weighs_the_chosen_experts(k):
    model = LwmSpectroMoEModel(tiny_moe_config(num_experts_per_sample=k)).eval()
    model.router = FixedRouter(TO_2_0_2_2)
    values = inputs_for(model)["input_values"]
    outputs = model(values)
    for row, logits in enumerate(TO_2_0_2_2):
        weights = torch.tensor(logits).softmax(-1)
        chosen = weights.argsort(descending=True)[:k].tolist()
        total = sum(weights[expert] for expert in chosen)
        expected = sum(weights[e] / total * model.experts[e](values[row : row + 1]).pooler_output[0] for e in chosen)
        torch.testing.assert_close(outputs.pooler_output[row], expected, rtol=1e-4, atol=1e-5)


def test_expert_index_overrides_the_router():
    model = build("moe-model")
    runs = runs_of(model)
    outputs = model(inputs_for(model)["input_values"], expert_index=torch.tensor([1, 1, 0, 1]))
    assert runs == [[1], [3], []]
    assert outputs.expert_index.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("num_experts", [1, 5])
def test_any_number_of_experts(num_experts):
    names = [f"protocol {index}" for index in range(num_experts)]
    model = LwmSpectroMoEForSequenceClassification(tiny_moe_config(expert_names=names)).eval()
    outputs = model(**inputs_for(model))
    assert outputs.router_logits.shape == (4, num_experts)
    assert outputs.logits.shape == (4, 3)


def test_published_router_halves_the_grid_four_times():
    config = tiny_moe_config(expert={"num_frames": 32, "num_freq_bins": 48, "num_channels": 2}, router_type="cnn")
    router = LwmSpectroMoERouter(config).eval()
    values = torch.randn(2, 2, 32, 48)
    assert router.encoder(values).shape == (2, 128, 2, 3)
    assert router(values).shape == (2, 3)
    assert [type(layer).__name__ for layer in router.encoder] == ["Conv2d", "BatchNorm2d", "SiLU"] * 4


def test_fourier_router_gathers_a_lattice_in_one_point():
    config = tiny_moe_config(expert={"num_frames": 32, "num_freq_bins": 48}, router_type="fourier")
    router = LwmSpectroMoERouter(config).eval()
    seen = []
    router.fourier.convolutions.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frames, bins = torch.arange(32)[:, None], torch.arange(48)
    lattice = torch.cos(2 * torch.pi * (frames / 4 + bins / 6))
    noise = torch.randn(32, 48)
    logits = router((3.0 + 0.5 * torch.stack([lattice, lattice.roll(3, 0)]) + noise)[:, None])
    assert logits.shape == (2, 3)
    assert seen[0].shape == (2, 2 + 12, 32, 25)
    # The 8th of 32 frequencies in time, the 8th of 48 over bins, wherever the lattice begins; levels and powers.
    assert [int(channel.argmax()) for row in seen[0] for channel in row[:2]] == [8 * 25 + 8] * 4


def fourier_coordinates(resolution, num_frames=32, num_bins=48):
    config = tiny_moe_config(expert={"num_frames": num_frames, "num_freq_bins": num_bins}, router_type="fourier")
    router, seen = LwmSpectroMoERouter(config).eval(), []
    router.fourier.convolutions.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 2:]))
    rows = 1 if resolution is None else len(resolution)
    router(torch.randn(rows, 1, num_frames, num_bins), resolution)
    return seen[0]


def test_fourier_coordinates_do_not_depend_on_the_resolution():
    """What repeats every 8 frames of 1 ms is at the same coordinates as what repeats every 4 frames of 2 ms."""
    fine, coarse = fourier_coordinates(torch.tensor([[1e-3, 60e3], [2e-3, 15e3]]))
    torch.testing.assert_close(fine[:6, 4], coarse[:6, 8])  # 125 Hz
    torch.testing.assert_close(fine[:6, 28], fine[:6, 4])  # and -125 Hz
    torch.testing.assert_close(fine[6:, :, 20], coarse[6:, :, 5])  # 48 bins of 60 kHz: 6.9 us
    assert (fine[:6, 4] - coarse[:6, 4]).abs().max() > 0.1 and (fine[6:, :, 5] - coarse[6:, :, 5]).abs().max() > 0.1
    torch.testing.assert_close(fine.square().sum(0), torch.full((32, 25), 6.0))


def test_fourier_routers_do_without_a_resolution():
    unknown = torch.tensor([[torch.nan, 15e3], [1e-3, torch.nan], [torch.inf, 15e3], [0.0, 15e3], [1e-3, -1.0]])
    assert not fourier_coordinates(unknown).any()
    assert not fourier_coordinates(None).any()
    known_and_not = fourier_coordinates(torch.cat([torch.tensor([[1e-3, 15e3]]), unknown[:1]]))
    assert known_and_not[0].any() and not known_and_not[1].any()


@pytest.mark.parametrize(
    "head", [LwmSpectroMoEModel, LwmSpectroMoEForPreTraining, LwmSpectroMoEForSequenceClassification]
)
def test_mixtures_pass_the_resolution_to_their_router(head):
    model = head(tiny_moe_config(router_type="fourier")).eval()
    values, resolution = torch.randn(2, 1, 16, 24), torch.tensor([[1e-3, 15e3], [4e-6, 312.5e3]])
    router = model.base_model.router
    found = model(values, resolution=resolution).router_logits
    torch.testing.assert_close(found, router(values, resolution))
    assert not torch.equal(found, model(values).router_logits)


@pytest.mark.parametrize("head", [LwmSpectroModel, LwmSpectroForPreTraining, LwmSpectroForSequenceClassification])
def test_a_single_encoder_accepts_and_ignores_the_resolution(head):
    model, values = head(tiny_config()).eval(), torch.randn(1, 1, 16, 24)
    noise = {"noise": torch.rand(1, model.config.num_patches)} if head is LwmSpectroForPreTraining else {}
    first = model(values, **noise)[0]
    assert torch.equal(model(input_values=values, resolution=torch.tensor([[1e-3, 15e3]]), **noise)[0], first)


def test_powers_show_fourier_routers_a_lattice_that_levels_hide():
    """For noise that is 15 % stronger on a lattice, the line is clearer in powers than in levels."""
    config = tiny_moe_config(expert={"num_frames": 64, "num_freq_bins": 64}, router_type="fourier")
    router = LwmSpectroMoERouter(config).eval()
    seen = []
    router.fourier.convolutions.register_forward_pre_hook(lambda _, args: seen.append(args[0].exp()))
    generator = torch.Generator().manual_seed(0)
    noise = -torch.rand(200, 1, 64, 64, generator=generator).log()
    frames, bins = torch.arange(64)[:, None], torch.arange(64)
    levels = (noise * (1 + 0.15 * torch.cos(2 * torch.pi * (frames / 4 + bins / 8)))).log()
    router((levels - levels.mean((2, 3), keepdim=True)) / levels.std((2, 3), keepdim=True))
    line, rest = seen[0][:, :, 16, 8], seen[0][:, :, 5:12, 5:7].flatten(2)
    signal = line.square().mean(0) / rest.square().mean((0, 2)) - 1
    assert 1.3 < signal[1] / signal[0] < 2


def test_a_narrow_lattice_stands_out_in_the_occupied_band():
    """For a carrier in a fifth of the band, 5 dB above the noise, the line is clearer in the occupied band alone."""
    config = tiny_moe_config(
        expert={"num_frames": 64, "num_freq_bins": 80}, router_type="fourier", router_occupied_band=True
    )
    router = LwmSpectroMoERouter(config).eval()
    seen = []
    router.fourier.convolutions.register_forward_pre_hook(lambda _, args: seen.append(args[0].exp()))
    noise = -torch.rand(200, 1, 64, 80, generator=torch.Generator().manual_seed(0)).log()
    frames, bins = torch.arange(64)[:, None], torch.arange(80)
    carrier = ((bins >= 20) & (bins < 36)) * 10**0.5
    levels = (noise * (1 + carrier * (1 + 0.3 * torch.cos(2 * torch.pi * (frames / 4 + bins / 8))))).log()
    router((levels - levels.mean((2, 3), keepdim=True)) / levels.std((2, 3), keepdim=True))
    line, rest = seen[0][:, :, 16, 10], seen[0][:, :, 24:30].flatten(2)
    signal = line.square().mean(0) / rest.square().mean((0, 2)) - 1
    assert seen[0].shape[1] == 2 + 12 + 2
    assert 3 < signal[14] / signal[0] < 5 and signal[15] > signal[1] > 0  # all noise has equal spread in levels


def test_dropout_hides_spectrograms_but_not_their_transforms():
    router = LwmSpectroMoERouter(tiny_moe_config(router_type="fourier", router_dropout_prob=1.0))
    router.train()(torch.randn(4, 1, 16, 24)).square().sum().backward()
    assert router.encoder[0].weight.grad.abs().max() == 0
    assert router.fourier.convolutions[0].weight.grad.abs().max() > 0
    router.zero_grad()
    router.eval()(torch.randn(4, 1, 16, 24)).square().sum().backward()
    assert router.encoder[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("occupied_band", [False, True])
def test_fourier_router_of_a_constant_spectrogram_is_finite(occupied_band):
    config = tiny_moe_config(router_type="fourier", router_occupied_band=occupied_band)
    router = LwmSpectroMoERouter(config).eval()
    assert router(torch.zeros(1, 1, 16, 16)).isfinite().all()


def test_mixture_from_trained_experts():
    experts = [LwmSpectroForPreTraining(tiny_config()).eval() for _ in range(3)]
    router = LwmSpectroMoERouter(tiny_moe_config())
    options = {"router_hidden_size": 32, "router_num_attention_heads": 2, "router_intermediate_size": 32}
    model = LwmSpectroMoEForPreTraining.from_experts(experts, router, **options).eval()
    inputs = inputs_for(model)
    for index, expert in enumerate(experts):
        outputs = model(**inputs, protocol_labels=torch.full((4,), index))
        expected = expert(**inputs)
        torch.testing.assert_close(outputs.reconstruction, expected.reconstruction)
        torch.testing.assert_close(outputs.projection, expected.projection)
        torch.testing.assert_close(outputs.router_logits, router(inputs["input_values"]))
    experts[0].config.name_or_path = "/home/somebody/lte"
    assert "somebody" not in LwmSpectroMoEModel.from_experts(experts).config.to_json_string()
    bare = LwmSpectroMoEModel.from_experts([expert.lwm_spectro for expert in experts])
    torch.testing.assert_close(bare.experts[1].state_dict(), experts[1].lwm_spectro.state_dict())
    assert bare.experts[1].embeddings.projection.weight is not experts[1].lwm_spectro.embeddings.projection.weight


def test_an_expert_is_extracted_from_a_mixture():
    mixture = build("moe-pretraining")
    inputs = inputs_for(mixture)
    expert = mixture.expert("LTE").eval()
    expected = mixture(**inputs, protocol_labels=torch.ones(4, dtype=torch.long))
    found = expert(**inputs)
    for name in ("reconstruction", "embedding", "projection"):
        torch.testing.assert_close(found[name], expected[name])
    assert expert.decoder is mixture.decoders[1], "shared"
    with pytest.raises(ValueError, match="no expert 'LoRa'; expected one of WiFi, LTE, 5G"):
        mixture.expert("LoRa")


def test_experts_that_do_not_fit_together_are_named():
    config = tiny_config()
    with pytest.raises(ValueError, match="2 experts were given for the 3 names"):
        LwmSpectroMoEModel.from_experts([LwmSpectroModel(config), LwmSpectroModel(config)])
    other = tiny_config(num_hidden_layers=1)
    with pytest.raises(ValueError, match="`num_hidden_layers` is 1 for b and 2 for a"):
        LwmSpectroMoEModel.from_experts([LwmSpectroModel(config), LwmSpectroModel(other)], expert_names=["a", "b"])
    with pytest.raises(ValueError, match="Expert 0 is a LwmSpectroModel without a decoder"):
        LwmSpectroMoEForPreTraining.from_experts([LwmSpectroModel(config)], expert_names=["a"])


def test_mixture_pretraining_joins_the_losses_of_its_experts():
    model = build("moe-pretraining")
    inputs = inputs_for(model)
    labels, protocols = torch.tensor([0, 0, 1, 0]), torch.tensor([2, 0, 2, 2])
    outputs = model(**inputs, contrastive_labels=labels, protocol_labels=protocols)
    assert outputs.expert_index.tolist() == protocols.tolist()
    patches = patchify(inputs["input_values"], 4)
    distance = (outputs.reconstruction - patches).square().sum(-1)[outputs.mask].mean()
    torch.testing.assert_close(outputs.reconstruction_loss, distance)
    # Rows are contrasted within their expert: those of expert 2 with each other, the single row of expert 0 with none.
    rows = [0, 2, 3]
    contrastive = supervised_contrastive_loss(outputs.projection[rows], labels[rows], 0.2) * 3 / 4
    torch.testing.assert_close(outputs.contrastive_loss, contrastive)
    router = F.cross_entropy(outputs.router_logits, protocols)
    torch.testing.assert_close(outputs.loss, distance + 0.3 * contrastive + router)


def test_one_forward_gives_protocol_and_every_task():
    model = build("moe-classification")
    inputs = inputs_for(model)
    labels, protocols, joint = (torch.tensor(each) for each in ([0, 1, 2, 0], [2, 0, 1, 1], [1, 0, 1, 1]))
    outputs = model(**inputs, labels=labels, protocol_labels=protocols, additional_labels={"snr_db+mobility": joint})
    assert outputs.logits.shape == (4, 3) and outputs.router_logits.shape == (4, 3)
    assert outputs.additional_logits["snr_db+mobility"].shape == (4, 2)
    expected = F.cross_entropy(outputs.logits, labels) + F.cross_entropy(outputs.router_logits, protocols)
    expected = expected + F.cross_entropy(outputs.additional_logits["snr_db+mobility"], joint)
    torch.testing.assert_close(outputs.loss, expected)
    without = model(**inputs)
    assert without.loss is None
    torch.testing.assert_close(without.logits, outputs.logits)


def test_labels_of_an_unknown_task_are_named():
    model = build("moe-classification")
    with pytest.raises(ValueError, match=r"the task 'snr', but this model has \['snr_db\+mobility'\]"):
        model(**inputs_for(model), additional_labels={"snr": torch.zeros(4, dtype=torch.long)})


def test_router_loss_moves_the_router_only():
    model = build("moe-classification")
    model(**inputs_for(model), protocol_labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    moved = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved and all(".router." in key for key in moved)


@pytest.mark.parametrize("name", ["moe-pretraining", "moe-classification"])
def test_router_statistics_are_kept_only_in_calls_without_labels(name):
    model = build(name).train()
    model.base_model.router = LwmSpectroMoERouter(tiny_moe_config(router_type="cnn")).train()
    inputs, statistics = inputs_for(model), model.base_model.router.encoder[1]
    model(**inputs)
    assert int(statistics.num_batches_tracked) == 0 and statistics.training
    model(**inputs, protocol_labels=torch.tensor([0, 1, 2, 0]))
    assert int(statistics.num_batches_tracked) == 1
    statistics.eval()  # as when the statistics of pretraining are kept
    model(**inputs)
    assert not statistics.training


def test_a_frozen_router_stays_in_evaluation_mode():
    model = build("moe-classification")
    model.base_model.router.requires_grad_(False)
    model.train()
    assert model.classifier.training and not any(part.training for part in model.base_model.router.modules())


def test_an_extracted_expert_shares_the_training_mode():
    model = build("moe-pretraining")
    for mode in (False, True):
        expert = model.train(mode).expert("LTE")
        assert all(part.training == mode for part in expert.modules())
        expert.train(mode)
        assert model.lwm_spectro_moe.experts[1].training == mode


@pytest.mark.parametrize("name", ["moe-model", "moe-pretraining"])
def test_mixtures_refuse_invalid_inputs(name):
    model = build(name)
    inputs = inputs_for(model)
    chosen = "expert_index" if name == "moe-model" else "protocol_labels"
    with pytest.raises(ValueError, match=r"expert 7, but there are 3 experts \(WiFi, LTE, 5G\)"):
        model(**inputs, **{chosen: torch.tensor([0, 1, 2, 7])})
    with pytest.raises(ValueError, match="`resolution` has infinite values"):
        model(**inputs, resolution=torch.tensor([[1e-6, torch.inf]] * 4))
    for shape in ((0, 1, 16, 24), (4, 1, 64, 64)):
        with pytest.raises(ValueError, match="`input_values` has shape"):
            model(**{**inputs, "input_values": torch.zeros(shape)})
    model.config.output_hidden_states = True
    with pytest.raises(ValueError, match="`output_hidden_states=True` works with a single encoder"):
        model(**inputs)


def test_experts_of_a_copy_are_independent():
    model = build("moe-model")
    twin = copy.deepcopy(model)
    nn.init.zeros_(twin.experts[0].embeddings.projection.weight)
    assert model.experts[0].embeddings.projection.weight.abs().max() > 0

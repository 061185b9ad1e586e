"""Growing networks: larger ones begin with the function of the trained ones they come from, and learn."""

import pytest
import torch

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForPreTraining, LwmSpectroMoEConfig
from lwm_spectro_hf.modeling_lwm_spectro_moe import LwmSpectroMoERouter
from lwm_spectro_hf.training.growth import (
    copying_decoder,
    counting_levels,
    deepen_encoder,
    deepen_stem,
    inpainting_decoder,
    start_router,
    widen_encoder,
)

SMALL = {"num_frames": 16, "num_freq_bins": 16, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2}
SMALL |= {"num_hidden_layers": 1, "intermediate_size": 32, "stem_num_channels": 4, "stem_num_layers": 1}


def expert(**fields):
    torch.manual_seed(0)
    return LwmSpectroForPreTraining(LwmSpectroConfig(**{**SMALL, **fields}))


def outputs(model, values):
    noise = torch.linspace(0, 1, model.config.num_patches).expand(len(values), -1)
    with torch.no_grad():
        return model.eval()(values, noise=noise)


def assert_one_function(before, after, values):
    old, new = outputs(before, values), outputs(after, values)
    assert torch.equal(old.embedding, new.embedding) and torch.equal(old.reconstruction, new.reconstruction)


def take_two_steps(model, values, **labels):
    """The first step moves a new last layer off zero, the second the layers before it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(values, **labels).loss.backward()
        optimizer.step()


def test_a_deeper_stem_begins_with_the_same_function():
    before, values = expert(), torch.randn(2, 1, 16, 16)
    after = deepen_stem(before, 3)
    assert before.config.stem_num_layers == 1 and after.config.stem_num_layers == 3
    assert_one_function(before, after, values)


def test_new_blocks_learn():
    model = deepen_stem(expert(), 2)
    take_two_steps(model, torch.randn(4, 1, 16, 16))
    new = model.lwm_spectro.embeddings.projection.blocks[1]
    assert all(layer.weight.grad.abs().max() > 0 for layer in new if hasattr(layer, "weight"))


def test_stems_that_cannot_be_deepened_are_errors():
    with pytest.raises(ValueError, match="has no stem; expected a stem of at most 2"):
        deepen_stem(expert(stem_num_channels=None), 2)
    with pytest.raises(ValueError, match="has a stem of 3 blocks; expected a stem of at most 2"):
        deepen_stem(expert(stem_num_layers=3), 2)


def with_scales(model):
    """An expert whose normalizations scale and shift, as those of a trained one do."""
    generator = torch.Generator().manual_seed(1)
    for name, values in model.state_dict().items():
        if ".norm" in name and name.endswith(("weight", "bias")):
            values += 0.3 * torch.randn(values.shape, generator=generator)
    return model


@pytest.mark.parametrize("norm_type", ["layer_norm", "unbiased_std"])
def test_a_deeper_encoder_begins_with_the_same_function_and_learns(norm_type):
    before, values = with_scales(expert(num_hidden_layers=2, norm_type=norm_type)), torch.randn(4, 1, 16, 16)
    after = deepen_encoder(before, 7)
    assert (before.config.num_hidden_layers, after.config.num_hidden_layers) == (2, 7)
    old, new = outputs(before, values), outputs(after, values)
    torch.testing.assert_close(old.embedding, new.embedding, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(old.reconstruction, new.reconstruction, rtol=1e-4, atol=1e-4)
    # The old layers are the first and the fourth of seven.
    ours, theirs = after.base_model.layers, before.base_model.layers
    assert torch.equal(ours[3].mlp.fc1.weight, theirs[1].mlp.fc1.weight)
    take_two_steps(after, values)
    assert all(parameter.grad.abs().max() > 0 for layer in ours for parameter in layer.mlp.parameters())


def test_equal_depth_changes_nothing_and_less_is_an_error():
    model, values = with_scales(expert(num_hidden_layers=2)), torch.randn(2, 1, 16, 16)
    assert_one_function(model, deepen_encoder(model, 2), values)
    with pytest.raises(ValueError, match="1 layers were requested, of an encoder with 2; expected at least as many"):
        deepen_encoder(model, 1)
    with pytest.raises(ValueError, match="3 layers were requested, of an encoder with 0; .* has at least one"):
        deepen_encoder(expert(num_hidden_layers=0), 3)


@pytest.mark.parametrize("stem_num_channels", [4, None])
def test_a_wider_expert_begins_with_the_same_embeddings(stem_num_channels):
    before = expert(stem_num_channels=stem_num_channels, num_hidden_layers=2, level_num_bins=4)
    values = torch.randn(4, 1, 16, 16)
    after = widen_encoder(before, 24)
    assert (before.config.hidden_size, after.config.hidden_size, after.config.intermediate_size) == (16, 24, 48)
    old, new = outputs(before, values).embedding, outputs(after, values).embedding[:, :16]
    assert 0 < (new - old).norm() < 0.01 * old.norm()
    old, new = (outputs(model, values).embedding[:, :16] for model in (with_scales(before), widen_encoder(before, 24)))
    assert (new - old).norm() < 0.2 * old.norm()


def test_a_wider_decoder_of_every_kind_begins_with_nearly_the_same_reconstruction():
    fields = {"mask_strategy": "drop", "decoder_num_copy_heads": 2, "decoder_num_inpainting_channels": 4}
    before, values = expert(hidden_size=48, num_hidden_layers=2, **fields), torch.randn(4, 1, 16, 16)
    old, new = outputs(before, values), outputs(widen_encoder(before, 64), values)
    assert (new.reconstruction - old.reconstruction).norm() < 0.2 * old.reconstruction.norm()


def test_outputs_wider_than_tokens_hardly_change():
    before, values = expert(num_hidden_layers=2, patch_size=8, projection_size=80), torch.randn(4, 1, 16, 16)
    assert before.config.patch_dim == 64 and before.config.hidden_size == 16
    old, new = outputs(before, values), outputs(widen_encoder(before, 24), values)
    assert (new.reconstruction - old.reconstruction).norm() < 0.2 * old.reconstruction.norm()
    assert (new.projection - old.projection).norm() < 0.1 * old.projection.norm()


def test_every_new_weight_of_a_wider_expert_learns():
    before = expert(mask_strategy="drop", level_num_bins=4)
    model, shapes = widen_encoder(before, 24), {name: each.shape for name, each in before.named_parameters()}
    take_two_steps(model, torch.randn(4, 1, 16, 16), contrastive_labels=torch.tensor([0, 0, 1, 1]))
    for name, parameter in model.named_parameters():
        new = torch.ones_like(parameter)
        if parameter.shape != shapes[name]:
            new[tuple(slice(length) for length in shapes[name])] = 0
        # Attention does not change when all keys are shifted.
        assert name.endswith("k_proj.bias") or (parameter.grad * new).abs().max() > 0, name


def test_impossible_widths_are_errors():
    for width in (16, 8, 25):
        with pytest.raises(ValueError, match=f"A width of {width} was requested, of an expert with 16 and 2 heads"):
            widen_encoder(expert(), width)


def test_a_new_decoder_leaves_embeddings_unchanged():
    before, values = expert(mask_strategy="drop"), torch.randn(2, 1, 16, 16)
    after = copying_decoder(before, 2)
    assert (before.config.decoder_num_copy_heads, after.config.decoder_num_copy_heads) == (0, 2)
    old, new = outputs(before, values), outputs(after, values)
    assert torch.equal(old.embedding, new.embedding) and torch.equal(old.projection, new.projection)
    assert not torch.equal(old.reconstruction, new.reconstruction)
    with pytest.raises(ValueError, match="`decoder_num_copy_heads` is -1"):
        copying_decoder(before, -1)


def test_a_decoder_that_inpaints_begins_with_the_same_function_and_learns():
    before, values = expert(mask_strategy="drop", decoder_num_copy_heads=2), torch.randn(4, 1, 16, 16)
    after = inpainting_decoder(before, 6)
    assert (before.config.decoder_num_inpainting_channels, after.config.decoder_num_inpainting_channels) == (0, 6)
    assert_one_function(before, after, values)
    take_two_steps(after, values)
    assert all(parameter.grad.abs().max() > 0 for parameter in after.decoder.inpainting.parameters())
    with pytest.raises(ValueError, match="6 channels were requested, of a decoder with 6 and 2 copy heads"):
        inpainting_decoder(after, 6)
    with pytest.raises(ValueError, match="0 channels were requested, of a decoder with 0 and 2 copy heads"):
        inpainting_decoder(before, 0)
    with pytest.raises(ValueError, match="6 channels were requested, of a decoder with 0 and 0 copy heads"):
        inpainting_decoder(expert(), 6)


def test_new_levels_begin_with_the_same_function_and_learn():
    before, values = expert(), torch.randn(4, 1, 16, 16)
    after = counting_levels(before, 5)
    assert (before.config.level_num_bins, after.config.level_num_bins) == (0, 5)
    assert_one_function(before, after, values)
    take_two_steps(after, values, contrastive_labels=torch.tensor([0, 0, 1, 1]))
    assert all(parameter.grad.abs().max() > 0 for parameter in after.lwm_spectro.levels.parameters())
    with pytest.raises(ValueError, match="5 bins were requested, of an encoder with 5; expected"):
        counting_levels(after, 5)
    with pytest.raises(ValueError, match="0 bins were requested, of an encoder with 0; expected at least 1"):
        counting_levels(before, 0)


def router(router_type, num_frames=32, **fields):
    grid = {"num_frames": num_frames, "num_freq_bins": 32, "patch_size": 8}
    return LwmSpectroMoERouter(LwmSpectroMoEConfig(expert_config=grid, router_type=router_type, **fields)).eval()


def test_a_fourier_router_begins_as_the_convolutional_one_it_comes_from():
    before, after, values = router("cnn"), router("fourier"), torch.randn(2, 1, 32, 32)
    start_router(after, before)
    assert torch.equal(after(values), before(values))
    again = router("fourier")
    torch.nn.init.ones_(after.gate.weight)
    start_router(again, after)
    assert torch.equal(again(values), after(values))


def test_an_occupied_band_router_begins_as_one_without():
    before, after, values = router("fourier"), router("fourier", router_occupied_band=True), torch.randn(2, 1, 32, 32)
    start_router(after, before)
    torch.testing.assert_close(after(values), before(values))
    assert after.train()(values).std() > 0 and after.fourier.convolutions[0].in_channels == 2 + 12 + 2
    with pytest.raises(ValueError, match="has another type or size. It also uses the occupied band"):
        start_router(before, after)


def test_a_router_can_begin_with_the_mean_of_several():
    first, second, mean = (router("fourier") for _ in range(3))
    first.train()(torch.randn(4, 1, 32, 32))  # statistics of a batch, and how many there were
    start_router(mean, first, second)
    states = [network.state_dict() for network in (first, second, mean)]
    for name, found in states[2].items():
        if found.is_floating_point():
            torch.testing.assert_close(found, (states[0][name] + states[1][name]) / 2)
        else:
            assert found == 0  # the mean of one batch and none, rounded down
    start_router(mean, first, first, first)
    assert torch.equal(mean(torch.ones(1, 1, 32, 32)), first.eval()(torch.ones(1, 1, 32, 32)))


def test_incompatible_routers_are_errors():
    with pytest.raises(ValueError, match="models differ in type or size"):
        start_router(router("fourier"), router("fourier"), router("cnn"))
    with pytest.raises(ValueError, match="has another type or size"):
        start_router(router("cnn"), router("fourier"))
    with pytest.raises(ValueError, match="has another type or size"):
        start_router(router("fourier"), router("fourier", num_frames=64))

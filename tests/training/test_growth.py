import pytest
import torch

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForPreTraining, LwmSpectroMoEConfig
from lwm_spectro_hf.modeling_lwm_spectro_moe import LwmSpectroMoERouter
from lwm_spectro_hf.training.growth import (
    copying_decoder,
    counting_levels,
    deepen_stem,
    inpainting_decoder,
    start_router,
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
    """The first moves a new last layer off zero, the second what is before it."""
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


def test_what_cannot_be_made_deeper_is_an_error():
    with pytest.raises(ValueError, match="has no stem; expected a stem of at most 2"):
        deepen_stem(expert(stem_num_channels=None), 2)
    with pytest.raises(ValueError, match="has a stem of 3 blocks; expected a stem of at most 2"):
        deepen_stem(expert(stem_num_layers=3), 2)


def test_a_new_decoder_leaves_embeddings_as_they_are():
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
    with pytest.raises(ValueError, match="6 channels were asked for, of a decoder with 6 and 2 heads that copy"):
        inpainting_decoder(after, 6)
    with pytest.raises(ValueError, match="0 channels were asked for, of a decoder with 0 and 2 heads that copy"):
        inpainting_decoder(before, 0)
    with pytest.raises(ValueError, match="6 channels were asked for, of a decoder with 0 and 0 heads that copy"):
        inpainting_decoder(expert(), 6)


def test_new_levels_begin_with_the_same_function_and_learn():
    before, values = expert(), torch.randn(4, 1, 16, 16)
    after = counting_levels(before, 5)
    assert (before.config.level_num_bins, after.config.level_num_bins) == (0, 5)
    assert_one_function(before, after, values)
    take_two_steps(after, values, contrastive_labels=torch.tensor([0, 0, 1, 1]))
    assert all(parameter.grad.abs().max() > 0 for parameter in after.lwm_spectro.levels.parameters())
    with pytest.raises(ValueError, match="5 bins were asked for, of an encoder with 5; expected"):
        counting_levels(after, 5)
    with pytest.raises(ValueError, match="0 bins were asked for, of an encoder with 0; expected at least 1"):
        counting_levels(before, 0)


def router(router_type, num_frames=32):
    fields = {"num_frames": num_frames, "num_freq_bins": 32, "patch_size": 8}
    return LwmSpectroMoERouter(LwmSpectroMoEConfig(expert_config=fields, router_type=router_type)).eval()


def test_a_fourier_router_begins_as_the_convolutional_one_it_comes_from():
    before, after, values = router("cnn"), router("fourier"), torch.randn(2, 1, 32, 32)
    start_router(after, before)
    assert torch.equal(after(values), before(values))
    again = router("fourier")
    torch.nn.init.ones_(after.gate.weight)
    start_router(again, after)
    assert torch.equal(again(values), after(values))


def test_of_several_routers_the_mean_of_their_weights_is_what_a_router_begins_with():
    first, second, mean = (router("fourier") for _ in range(3))
    first.train()(torch.randn(4, 1, 32, 32))  # statistics of a batch, and how many there were
    start_router(mean, first, second)
    states = [network.state_dict() for network in (first, second, mean)]
    for name, found in states[2].items():
        if found.is_floating_point():
            torch.testing.assert_close(found, (states[0][name] + states[1][name]) / 2)
        else:
            assert found == 0  # of one batch and none
    start_router(mean, first, first, first)
    assert torch.equal(mean(torch.ones(1, 1, 32, 32)), first.eval()(torch.ones(1, 1, 32, 32)))


def test_routers_that_cannot_become_each_other_are_an_error():
    with pytest.raises(ValueError, match="not of one type and size"):
        start_router(router("fourier"), router("fourier"), router("cnn"))
    with pytest.raises(ValueError, match="of another type or size"):
        start_router(router("cnn"), router("fourier"))
    with pytest.raises(ValueError, match="of another type or size"):
        start_router(router("fourier"), router("fourier", num_frames=64))

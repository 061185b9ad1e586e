"""The importer of the published checkpoints, against the formulas evaluated independently in float64."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from published_reference import Reference, patches, random_bundle, random_expert, random_router
from transformers import AutoFeatureExtractor

from lwm_spectro_hf import (
    LwmSpectroForPreTraining,
    LwmSpectroForSequenceClassification,
    LwmSpectroModel,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEModel,
)
from lwm_spectro_hf.hub import published
from lwm_spectro_hf.hub.demo import compare_with_demo
from lwm_spectro_hf.hub.published import ConversionError, convert
from tiny_models import tiny_config

TOLERANCE = 1e-5


@pytest.fixture
def spectrogram():
    return np.random.default_rng(5).standard_normal((3, 16, 16)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """`save(content, name)`: saves it by `torch.save` in the source folder, and returns the path."""

    def save(content, name="LTE_expert.pth", **kwargs):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path, **kwargs)
        return path

    return save


@pytest.fixture
def target(tmp_path):
    return tmp_path / "converted"


def assert_close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=TOLERANCE, rtol=0)


def assert_nothing_left(target):
    assert not target.exists()
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


# One expert ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_cls_token", [True, False])
def test_embedding_matches_the_published_model(save, target, spectrogram, use_cls_token):
    state = random_expert()
    convert(save(state), target, use_cls_token=use_cls_token)
    model = LwmSpectroModel.from_pretrained(target)
    expected = Reference(state).embedding(patches(spectrogram), use_cls_token)
    assert_close(model(torch.from_numpy(spectrogram)[:, None]).pooler_output, expected)


@pytest.mark.parametrize("use_cls_token", [True, False])
def test_masked_reconstruction_matches_the_published_model(save, target, spectrogram, use_cls_token):
    state = random_expert(seed=1)
    convert(save(state), target, use_cls_token=use_cls_token)
    model = LwmSpectroForPreTraining.from_pretrained(target)
    mask = np.random.default_rng(6).random((3, 16)) < 0.6
    output = model(torch.from_numpy(spectrogram)[:, None], bool_masked_pos=torch.from_numpy(mask))
    expected = Reference(state).reconstruction(patches(spectrogram), mask, use_cls_token)
    assert_close(output.reconstruction[torch.from_numpy(mask)], expected)


def test_full_size_checkpoint(save, target):
    state = random_expert(layers=12, width=128, positions=1025, ffn=512)
    assert len(state) == 203
    assert sum(value.numel() for value in state.values()) == 2_531_728
    report = convert(save(state, "WiFi_expert.pth"), target)
    assert (report.num_tensors, report.num_parameters) == (203, 2_531_728)
    assert report.left_out == {}
    assert report.initialized == ["projection.weight", "projection.bias"]

    model = LwmSpectroForPreTraining.from_pretrained(target)
    assert model.config.mask_ratio == 0.6
    spectrogram = np.random.default_rng(2).standard_normal((1, 128, 128)).astype(np.float32)
    mask = np.random.default_rng(3).random((1, 1024)) < 0.6
    reference = Reference(state)
    inputs = torch.from_numpy(spectrogram)[:, None]
    assert_close(model.lwm_spectro(inputs).pooler_output, reference.embedding(patches(spectrogram)))
    output = model(inputs, bool_masked_pos=torch.from_numpy(mask))
    assert_close(output.reconstruction[torch.from_numpy(mask)], reference.reconstruction(patches(spectrogram), mask))


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes(save, target, wrapper, prefix):
    state = random_expert()
    content = {prefix + key: value for key, value in state.items()}
    if wrapper:
        content = {"epoch": 3, wrapper: content}
    report = convert(save(content), target)
    assert list(report.left_out) == (["LTE_expert.pth['epoch']"] if wrapper else [])
    loaded = LwmSpectroModel.from_pretrained(target)
    assert torch.equal(loaded.embeddings.projection.weight, state["embedding.proj.weight"])


def test_the_number_of_heads_can_be_chosen(save, target, spectrogram):
    state = random_expert()
    convert(save(state), target, num_attention_heads=4)
    expected = Reference(state, heads=4).embedding(patches(spectrogram))
    assert_close(
        LwmSpectroModel.from_pretrained(target)(torch.from_numpy(spectrogram)[:, None]).pooler_output, expected
    )


def test_opens_as_a_classifier(save, target):
    convert(save(random_expert()), target)
    _, info = LwmSpectroForSequenceClassification.from_pretrained(target, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert info["missing_keys"] and all(key.startswith("classifier.") for key in info["missing_keys"])


def test_channel_model_interleaves_real_and_imaginary_parts(save, target):
    # LWM v1.1: 4 x 4 patches of a complex matrix, flattened as (row, column, real or imaginary part).
    state = random_expert(element=32, positions=33)
    report = convert(save(state, "lwm_v1.1.pth"), target, input_shape=(16, 32))
    channel = np.random.default_rng(7).standard_normal((2, 16, 32, 2)).astype(np.float32)
    interleaved = channel.reshape(2, 16, 64)
    tokens = np.stack(
        [interleaved[:, r : r + 4, c : c + 8].reshape(2, 32) for r in range(0, 16, 4) for c in range(0, 64, 8)], axis=1
    )
    model = LwmSpectroForPreTraining.from_pretrained(target)
    inputs = torch.from_numpy(channel).permute(0, 3, 1, 2)
    assert_close(model.lwm_spectro(inputs).pooler_output, Reference(state).embedding(tokens))
    mask = np.random.default_rng(8).random((2, 32)) < 0.4
    found = model(inputs, bool_masked_pos=torch.from_numpy(mask)).reconstruction[torch.from_numpy(mask)]
    expected = Reference(state).reconstruction(tokens, mask)
    assert_close(found, expected.reshape(-1, 16, 2).transpose(0, 2, 1).reshape(-1, 32))
    assert "channel model" in str(report)
    assert not (target / "preprocessor_config.json").exists()


def test_grids_that_are_not_square_need_input_shape(save, target):
    path = save(random_expert(element=32, positions=33))
    with pytest.raises(ConversionError, match="33 rows.*input_shape"):
        convert(path, target)
    with pytest.raises(ConversionError, match="max_position_embeddings"):
        convert(path, target, input_shape=(32, 32))
    assert_nothing_left(target)


def test_lwm_v1_0_cannot_be_expressed(save, target):
    path = save(random_expert(width=64, attention_width=60, positions=129))
    with pytest.raises(ConversionError, match="width 60, its tokens 64.*cannot be imported"):
        convert(path, target)
    assert_nothing_left(target)


# What is wrong is named ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "embedding.proj.bias",
        "embedding.pos_embed.weight",
        "layers.1.norm2.alpha",
        "layers.0.enc_self_attn.W_Q.weight",
        "decoder_bias",
    ],
)
def test_missing_key(save, target, key):
    state = random_expert()
    del state[key]
    with pytest.raises(ConversionError, match=key):
        convert(save(state), target)
    assert_nothing_left(target)


@pytest.mark.parametrize("key", ["layers.0.norm3.alpha", "head.weight"])
def test_unexpected_key(save, target, key):
    with pytest.raises(ConversionError, match=f"unexpected: {key}"):
        convert(save({**random_expert(), key: torch.ones(3)}), target)
    assert_nothing_left(target)


@pytest.mark.parametrize("key", ["embedding.proj.weight", "layers.1.pos_ffn.fc1.weight", "norm.alpha"])
def test_wrong_shape(save, target, key):
    state = random_expert()
    state[key] = torch.zeros(7, *state[key].shape)
    shape = tuple(random_expert()[key].shape)
    with pytest.raises(ConversionError) as error:
        convert(save(state), target)
    assert f"wrong shape: {key}, expected {shape}, found {(7, *shape)}" in str(error.value)
    assert_nothing_left(target)


def test_all_problems_are_named_at_once(save, target):
    state = random_expert()
    del state["linear.bias"]
    state["extra"] = torch.ones(1)
    with pytest.raises(ConversionError, match=r"missing: linear\.bias \(32,\); unexpected: extra \(1,\)"):
        convert(save(state), target)


def test_values_that_are_not_finite(save, target):
    state = random_expert()
    state["norm.bias"][0] = float("nan")
    with pytest.raises(ConversionError, match=r"NaN or infinite values in norm\.bias"):
        convert(save(state), target)


def test_values_that_are_not_floating_point(save, target):
    state = random_expert()
    state["norm.bias"] = state["norm.bias"].long()
    state["name"] = "LTE"
    with pytest.raises(ConversionError, match=r"norm\.bias \(torch\.int64\), name \(str\)"):
        convert(save(state), target)


# Files that are not safe, or not whole ------------------------------------------------------------------------------


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_in_a_file_is_not_run(tmp_path, save, target, form):
    trap = tmp_path / "executed"
    content = {**random_expert(), "extra": Exploit(trap)}
    path = save(content, _use_new_zipfile_serialization=form == "zip")
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ConversionError, match="is refused") as error:
        convert(path, target)
    assert "weights_only" not in str(error.value)
    assert not trap.exists()
    assert_nothing_left(target)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(save, target, legacy, part):
    path = save(random_expert(), _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ConversionError, match="damaged|refused"):
        convert(path, target)
    assert_nothing_left(target)


def test_lfs_pointer(save, target):
    path = save({})
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n")
    with pytest.raises(ConversionError, match="Git LFS pointer"):
        convert(path, target)


def test_nothing_to_read(tmp_path, target):
    with pytest.raises(FileNotFoundError, match="neither a file"):
        convert(tmp_path / "absent.pth", target)
    with pytest.raises(FileNotFoundError, match="not found"):
        convert([tmp_path / "absent.pth"], target)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No \.pth file"):
        convert(tmp_path / "empty", target)
    assert_nothing_left(target)


# The mixture --------------------------------------------------------------------------------------------------------

EXPERTS = {"LTE": random_expert(seed=10), "WiFi": random_expert(seed=11), "5G": random_expert(seed=12)}
ORDER = {"5G": 0, "LTE": 1, "WiFi": 2}


@pytest.fixture
def published_folder(save):
    for name, state in EXPERTS.items():
        save(state, f"experts/{name}_expert.pth")
    return save(random_bundle(random_router(), ORDER), "checkpoints/checkpoint.pth").parents[1]


def test_mixture_from_a_folder(published_folder, target, spectrogram):
    report = convert(published_folder, target)
    model = LwmSpectroMoEModel.from_pretrained(target)
    assert model.config.expert_names == ["5G", "LTE", "WiFi"]
    assert model.config.router_type == "cnn"
    inputs = torch.from_numpy(spectrogram)[:, None]
    output = model(inputs)
    assert_close(output.router_logits, random_router().double()(inputs.double()).detach().numpy())
    for row, expert in enumerate(output.expert_index.tolist()):
        reference = Reference(EXPERTS[model.config.expert_names[expert]])
        assert_close(output.pooler_output[row], reference.embedding(patches(spectrogram))[row])
    # 2 x 16 tensors of layers and 11 around them for each expert; 4 x 7 + 2 of the router.
    assert report.num_tensors == 3 * 43 + 30
    assert report.num_parameters == 186_467 + sum(
        value.numel() for state in EXPERTS.values() for value in state.values()
    )


@pytest.mark.parametrize("name", EXPERTS)
def test_each_expert_of_the_mixture_keeps_its_decoder(published_folder, target, spectrogram, name):
    convert(published_folder, target)
    model = LwmSpectroMoEForPreTraining.from_pretrained(target)
    mask = np.random.default_rng(9).random((3, 16)) < 0.6
    output = model(
        torch.from_numpy(spectrogram)[:, None],
        bool_masked_pos=torch.from_numpy(mask),
        protocol_labels=torch.full((3,), ORDER[name]),
    )
    expected = Reference(EXPERTS[name]).reconstruction(patches(spectrogram), mask)
    assert_close(output.reconstruction[torch.from_numpy(mask)], expected)


def test_the_task_is_taken_from_the_bundle(published_folder, target, caplog):
    report = convert(published_folder, target)
    config = LwmSpectroMoEModel.from_pretrained(target).config
    assert config.task_name == "snr_db+mobility"
    assert config.id2label[0] == "-5+pedestrian"
    assert config.id2label[13] == "25+vehicular"
    assert set(report.left_out) == {
        "model_type",
        "task",
        "dropout",
        "classifier_state_dict.norm.weight",
        "classifier_state_dict.blocks.0.conv.weight",
    }
    assert all(key in str(report) and key in caplog.text for key in report.left_out)


@pytest.mark.parametrize(
    "mapping", [None, {0: "static"}, {index: (0, "static") for index in range(14)}, {0: (-5, "static")}]
)
def test_mapping_that_makes_no_sense_is_left_out(published_folder, target, mapping):
    path = published_folder / "checkpoints" / "checkpoint.pth"
    torch.save({**random_bundle(random_router(), ORDER), "mapping": mapping}, path)
    assert "mapping" in convert(published_folder, target).left_out
    assert LwmSpectroMoEModel.from_pretrained(target).config.task_name == "modulation"


def test_bundle_with_its_own_experts(save, target, published_folder, spectrogram):
    own = {name.lower(): random_expert(seed=20 + index) for name, index in ORDER.items()}
    own["lte"] = {"state_dict": {f"module.{key}": value for key, value in own["lte"].items()}}
    path = save(random_bundle(random_router(), ORDER, own), "checkpoints/checkpoint.pth")
    alone = convert(path, target)
    model = LwmSpectroMoEModel.from_pretrained(target)
    chosen = torch.full((3,), ORDER["LTE"])
    expected = Reference(random_expert(seed=20 + ORDER["LTE"])).embedding(patches(spectrogram))
    assert_close(model(torch.from_numpy(spectrogram)[:, None], expert_index=chosen).pooler_output, expected)
    beside = convert(published_folder, target, overwrite=True)
    assert set(beside.left_out) - set(alone.left_out) == {f"file of the expert {name}" for name in EXPERTS}


def test_bundle_without_its_experts(save, target):
    path = save(random_bundle(random_router(), ORDER), "checkpoint.pth")
    with pytest.raises(ConversionError, match="weights of 5G, LTE, WiFi are missing"):
        convert(path, target)
    with pytest.raises(ConversionError, match="weights of 5G, WiFi are missing"):
        convert([path, save(EXPERTS["LTE"])], target)
    assert_nothing_left(target)


def test_experts_without_a_bundle(save, target):
    paths = [save(state, f"{name}_expert.pth") for name, state in EXPERTS.items()]
    with pytest.raises(ConversionError, match="nothing routes between them"):
        convert(paths, target)
    report = convert(paths, target, untrained_router=True)
    assert LwmSpectroMoEModel.from_pretrained(target).config.expert_names == ["LTE", "WiFi", "5G"]
    assert "lwm_spectro_moe.router.gate.weight" in report.initialized


def test_experts_that_differ(save, target):
    paths = [save(EXPERTS["LTE"]), save(random_expert(layers=1), "WiFi_expert.pth")]
    with pytest.raises(ConversionError, match="WiFi differ in architecture from LTE"):
        convert(paths, target, untrained_router=True)


def test_one_of_several_bundles_is_chosen(published_folder, save, target):
    save(random_bundle(random_router(seed=1), ORDER), "checkpoints/moe_checkpoint.pth")
    report = convert(published_folder, target)
    assert "checkpoints/checkpoint.pth was used" in report.left_out["checkpoints/moe_checkpoint.pth"]
    report = convert(published_folder, target, bundle="checkpoints/moe_checkpoint.pth", overwrite=True)
    assert "checkpoints/checkpoint.pth" in report.left_out
    bias = LwmSpectroMoEModel.from_pretrained(target).router.gate.bias
    assert torch.equal(bias, list(random_router(seed=1).parameters())[-1])


def test_several_bundles_of_other_names_need_a_choice(published_folder, save, target):
    (published_folder / "checkpoints/checkpoint.pth").rename(published_folder / "checkpoints/first.pth")
    save(random_bundle(random_router(seed=1), ORDER), "checkpoints/second.pth")
    with pytest.raises(ConversionError, match="Found 2 task bundles"):
        convert(published_folder, target)


def test_foreign_file_in_a_folder_is_reported(published_folder, save, target):
    save({"resnet.weight": torch.ones(1)}, "baseline.pth")
    assert "neither an expert" in convert(published_folder, target).left_out["baseline.pth"]


@pytest.mark.parametrize("use_cls_token", [True, False])
def test_demo_data_shows_which_cls_option_is_right(published_folder, save, target, spectrogram, use_cls_token):
    decibels = torch.from_numpy(spectrogram)[:, None] * 12 - 70
    scaled = (spectrogram - spectrogram.mean((1, 2), keepdims=True)) / spectrogram.std((1, 2), keepdims=True)
    chosen = random_router()(torch.from_numpy(scaled)[:, None]).argmax(dim=1).tolist()
    names = sorted(ORDER, key=ORDER.get)
    samples = [
        {
            "tech": names[expert],
            "data": decibels[row],
            "moe_embedding": torch.from_numpy(
                Reference(EXPERTS[names[expert]]).embedding(patches(scaled), use_cls_token)[row]
            ),
        }
        for row, expert in enumerate(chosen)
    ]
    save(samples, "demo_data.pt")
    (note,) = [note for note in convert(published_folder, target).notes if "demo_data.pt" in note]
    errors = [float(word) for word in note.split() if word[0].isdigit()][1:]
    right, wrong = errors if use_cls_token else errors[::-1]
    assert right < TOLERANCE < 1e-3 < wrong


def test_useless_demo_data_is_reported(published_folder, save, target, tmp_path):
    save([{"data": torch.zeros(1, 4, 4)}], "demo_data.pt")
    assert any("nothing was compared" in note for note in convert(published_folder, target).notes)
    save([Exploit(tmp_path / "executed")], "demo_data.pt")
    assert "is refused" in convert(published_folder, target, overwrite=True).left_out["demo_data.pt"]
    assert not (tmp_path / "executed").exists()


def test_demo_data_is_compared_without_cls_if_positions_are_too_few():
    experts = [LwmSpectroForPreTraining(tiny_config(max_position_embeddings=24)) for _ in range(3)]
    model = LwmSpectroMoEForPreTraining.from_experts(experts, router_type="cnn").eval()
    samples = [{"data": torch.randn(1, 16, 24), "moe_embedding": torch.randn(32)}]
    note = compare_with_demo(model, samples)
    assert note.endswith("without the CLS token") and " and " not in note


def break_order(state):
    keys = list(state)
    keys[0], keys[1] = keys[1], keys[0]
    return {key: state[key] for key in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_order, r"expected weight \(32, 1, 5, 5\), found 0\.bias \(32,\)"),
        (lambda state: dict(list(state.items())[:-1]), r"expected bias \(3,\), found nothing more"),
        (lambda state: {**state, "more.weight": torch.ones(1)}, r"expected nothing more, found more\.weight \(1,\)"),
        (lambda state: random_router(experts=4).state_dict(), r"expected weight \(3, 128\), found .*\(4, 128\)"),
    ],
)
def test_router_of_another_structure(published_folder, target, change, message):
    path = published_folder / "checkpoints" / "checkpoint.pth"
    bundle = random_bundle(random_router(), ORDER)
    bundle["router_state_dict"] = change(dict(bundle["router_state_dict"]))
    torch.save(bundle, path)
    with pytest.raises(ConversionError, match=message):
        convert(published_folder, target)
    assert_nothing_left(target)


@pytest.mark.parametrize(("key", "message"), [("router_state_dict", "no task bundle"), ("comm_to_idx", "comm_to_idx")])
def test_bundle_that_lacks_a_part(published_folder, target, key, message):
    bundle = random_bundle(random_router(), ORDER)
    del bundle[key]
    torch.save(bundle, published_folder / "checkpoints" / "checkpoint.pth")
    with pytest.raises(ConversionError, match=message):
        convert(published_folder, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comm_to_idx": {"WiFi": 0, "LTE": [1], "5G": 2}}, "comm_to_idx should number"),
        ({"comm_to_idx": {"WiFi": 0, "LTE": 1, "5G": 3}}, "comm_to_idx should number"),
        ({"expert_state_dicts": [1]}, "expert_state_dicts should hold weights by expert; found list"),
    ],
)
def test_bundle_of_another_form(published_folder, target, change, message):
    bundle = {**random_bundle(random_router(), ORDER), **change}
    torch.save(bundle, published_folder / "checkpoints" / "checkpoint.pth")
    with pytest.raises(ConversionError, match=message):
        convert(published_folder, target)


# Sources and targets ------------------------------------------------------------------------------------------------


def test_hub_name(published_folder, target, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, **kwargs):
        asked.update(kwargs, repo_id=repo_id)
        return str(published_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    convert("wi-lab/lwm-spectro", target, revision="v1")
    assert asked == {
        "repo_id": "wi-lab/lwm-spectro",
        "revision": "v1",
        "allow_patterns": ["*.pth", "*dataset_stats.json", "*demo_data.pt"],
    }
    assert LwmSpectroMoEModel.from_pretrained(target).config.num_experts == 3


def test_preprocessor_config(published_folder, target):
    convert(published_folder, target)
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.normalization, extractor.num_frames, extractor.num_freq_bins) == ("per_sample", 16, 16)

    stats = {"normalization": "dataset", "mean": -71.5, "std": 9.25}
    (published_folder / "dataset_stats.json").write_text(json.dumps(stats))
    report = convert(published_folder, target, overwrite=True)
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.normalization, extractor.mean, extractor.std) == ("dataset", -71.5, 9.25)
    assert "mean power" in str(report)


@pytest.mark.parametrize("stats", ["{", '{"mean": 1}', '{"mean": 0, "std": 0}', "[]"])
def test_statistics_that_are_wrong(published_folder, target, stats):
    (published_folder / "dataset_stats.json").write_text(stats)
    with pytest.raises(ConversionError, match="dataset_stats.json"):
        convert(published_folder, target)
    assert_nothing_left(target)


def test_existing_folder_is_kept(save, target):
    path = save(random_expert())
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(path, target)
    assert (target / "mine.txt").read_text() == "mine"
    convert(path, target, overwrite=True)
    assert sorted(file.name for file in target.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_source_is_not_replaced(published_folder):
    for source in (published_folder, sorted(published_folder.rglob("*.pth"))):
        with pytest.raises(ValueError, match="its own source"):
            convert(source, published_folder, overwrite=True)
    assert len(list(published_folder.rglob("*.pth"))) == 4


@pytest.mark.parametrize("step", ["_build", "_save_preprocessor", "_check"])
def test_interruption_leaves_nothing(save, target, monkeypatch, step):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(published, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(save(random_expert()), target)
    assert_nothing_left(target)


def test_same_source_same_bytes(save, target, tmp_path):
    path = save(random_expert())
    torch.manual_seed(1)
    convert(path, target)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    convert(path, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (target / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()

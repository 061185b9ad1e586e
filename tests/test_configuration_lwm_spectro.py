"""The configurations: Table I by default, and one clear error for each contradiction."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroMoEConfig, MaskedConvLstmConfig, auto_map_for


def test_defaults_are_table_1():
    config = LwmSpectroConfig()
    assert (config.patch_size, config.num_patches, config.sequence_length) == (4, 1024, 1024)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 128, 8)
    assert (config.mask_ratio, config.temperature) == (0.7, 0.2)
    assert (config.reconstruction_loss_weight, config.contrastive_loss_weight) == (1.0, 0.3)
    assert config.num_masked_patches == 717


def test_properties_follow_a_rectangular_grid_with_channels():
    config = LwmSpectroConfig(num_frames=24, num_freq_bins=40, num_channels=2, patch_size=8, cls_token_value=0.2)
    assert config.num_patches == 3 * 5
    assert config.patch_dim == 2 * 8 * 8
    assert config.sequence_length == 16


@pytest.mark.parametrize("strategy, layers", [("token", 0), ("drop", 1)])
def test_decoder_depth_follows_the_mask_strategy(strategy, layers):
    assert LwmSpectroConfig(mask_strategy=strategy).decoder_num_hidden_layers == layers


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_frames": 130}, "130 frames x 128 frequency bins is not divisible by `patch_size` = 4"),
        ({"num_freq_bins": 0}, "`num_freq_bins` is 0"),
        ({"num_attention_heads": 7}, "`hidden_size` = 128 is not divisible by `num_attention_heads` = 7"),
        ({"max_position_embeddings": 1024, "cls_token_value": 0.2}, "less than the 1025 tokens"),
        ({"mask_ratio": 1.0}, "`mask_ratio` is 1.0"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` is -1, but must be at least 0"),
        ({"projection_size": 0}, "`projection_size` is 0, but must be at least 1"),
        ({"intermediate_size": 0}, "`intermediate_size` is 0"),
        ({"classifier_kernel_size": -3}, "`classifier_kernel_size` is -3"),
        ({"temperature": float("nan")}, "`temperature` is nan"),
        ({"mask_strategy": "drop", "decoder_num_hidden_layers": 0}, "`decoder_num_hidden_layers` of at least 1"),
        ({"level_num_bins": -1}, "`level_num_bins` is -1"),
        ({"decoder_num_copy_heads": -1}, "`decoder_num_copy_heads` is -1"),
        (
            {"decoder_num_copy_heads": 2, "reconstruction_target": "embeddings"},
            '`decoder_num_copy_heads` is 2 with `reconstruction_target` = "embeddings"; expected 0',
        ),
        (
            {"decoder_num_inpainting_channels": 8},
            "`decoder_num_inpainting_channels` is 8 with `decoder_num_copy_heads` = 0; expected 0, or more together",
        ),
        (
            {"decoder_num_copy_heads": 2, "decoder_num_inpainting_channels": -1},
            "`decoder_num_inpainting_channels` is -1",
        ),
        ({"temperature": 0.0}, "`temperature` is 0.0"),
        ({"classifier_kernel_size": 4}, "must be odd"),
        ({"norm_type": "batch"}, "unbiased_std"),
        ({"hidden_size": "128"}, "hidden_size"),
        ({"hidden_dropout_prob": 1.5}, "`hidden_dropout_prob` is 1.5, but must be from 0 to 1"),
        ({"classifier_dropout_prob": -1}, "`classifier_dropout_prob` is -1"),
        ({"initializer_range": -1}, "`initializer_range` is -1, but must be at least 0"),
        ({"hidden_act": "gleu"}, "`hidden_act` is 'gleu', but must be one of .*gelu, "),
        ({"stem_num_channels": 0}, "`stem_num_channels` = 0"),
        ({"stem_num_channels": 8, "stem_num_layers": -1}, "`stem_num_layers` = -1"),
        ({"stem_num_channels": 8, "stem_cell_size": 3}, "`stem_cell_size` = 3 .* divide `patch_size` = 4"),
    ],
)
def test_contradictions_are_named(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        LwmSpectroConfig(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"expert_names": []}, "at least one name"),
        ({"expert_names": ["LTE", "LTE"]}, "none twice"),
        ({"num_experts_per_sample": 4}, "from 1 to the number of experts, 3 \\(WiFi, LTE, 5G\\)"),
        ({"additional_tasks": {"modulation": ["BPSK"]}}, "different from `task_name`"),
        ({"additional_tasks": {"snr.db": ["-5"]}}, "without a dot"),
        (
            {"task_name": "snr_db", "additional_tasks": {"snr_db+mobility": ["-5+static"]}},
            "'snr_db' is predicted by two heads.*for your own head, set `additional_tasks={}`",
        ),
        ({"additional_tasks": {"snr_db": []}}, "at least one label"),
        ({"additional_tasks": {"type": ["a"]}}, "attributes of modules"),
        (
            {"router_patch_size": 3},
            "The `router_...` fields, for the router's transformer: .* not divisible by `patch_size` = 3",
        ),
        ({"router_num_attention_heads": 5}, "`hidden_size` = 64"),
        ({"router_dropout_prob": 2.0}, "`router_dropout_prob` is 2.0"),
        ({"router_hidden_size": 0, "router_type": "fourier"}, "`router_hidden_size` is 0, but must be at least 1"),
        ({"router_occupied_band": True, "router_type": "cnn"}, "of type \"fourier\", but `router_type` is 'cnn'"),
        ({"expert_config": {"num_frames": 130}}, "130 frames"),
    ],
)
def test_contradictions_of_the_mixture_are_named(fields, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        LwmSpectroMoEConfig(**fields)


def test_a_mixture_copies_the_experts_configuration():
    config = LwmSpectroConfig(name_or_path="somewhere")
    mixture = LwmSpectroMoEConfig(expert_config=config)
    mixture.expert_config.classifier_type = "linear"
    assert config.classifier_type == "residual_cnn"
    assert (config.name_or_path, mixture.expert_config.name_or_path) == ("somewhere", "")


def test_at_least_one_patch_stays_visible():
    config = LwmSpectroConfig(num_frames=8, num_freq_bins=8, mask_ratio=0.99, mask_strategy="drop")
    assert config.num_patches == 4 and config.num_masked_patches == 3
    config = MaskedConvLstmConfig(num_frames=16, num_freq_bins=8, segment_frames=4, forecast_frames=8, mask_ratio=0.99)
    assert config.num_patches == 8 and config.num_masked_patches == 7


def test_heads_list_their_labels_in_order():
    config = LwmSpectroConfig(task_name="device", id2label={0: "a", 1: "b"})
    assert config.heads == {"device": ["a", "b"]} and config.encoder_config is config
    config = LwmSpectroMoEConfig(id2label={0: "QPSK", 1: "16QAM"}, additional_tasks={"snr_db": ["0", "5", "10"]})
    assert list(config.heads.items()) == [
        ("protocol", ["WiFi", "LTE", "5G"]),
        ("modulation", ["QPSK", "16QAM"]),
        ("snr_db", ["0", "5", "10"]),
    ]
    assert config.encoder_config is config.expert_config
    own = LwmSpectroMoEConfig(task_name="protocol", id2label={0: "5G", 1: "LTE"})
    assert own.heads == {"protocol": ["5G", "LTE"]}  # a head trained for the protocol comes before the router


@pytest.mark.parametrize("name", ["hidden_size", "patch_size", "num_hidden_layers"])
def test_expert_fields_are_refused_at_the_top_level(name):
    with pytest.raises(ValueError, match=f"`{name}` is a field of the experts, .* set it in `expert_config`"):
        LwmSpectroMoEConfig(**{name: 8})


def test_the_router_has_the_initializer_range_of_the_mixture():
    assert LwmSpectroMoEConfig(initializer_range=0.5).router_config.initializer_range == 0.5


@pytest.mark.parametrize(
    "config",
    [
        LwmSpectroConfig(num_channels=2, cls_token_value=0.2, id2label={0: "a", 1: "b", 2: "c"}),
        LwmSpectroMoEConfig(
            expert_config={"num_frames": 64, "norm_type": "unbiased_std"},
            expert_names=["one", "two"],
            additional_tasks={"snr_db+mobility": ["-5+static", "0+static"]},
        ),
    ],
)
def test_json_round_trip_through_auto_config(config, tmp_path):
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is type(config)
    assert again.to_json_string() == config.to_json_string()


def test_expert_fields_survive_a_round_trip():
    config = LwmSpectroMoEConfig(expert_config=LwmSpectroConfig(num_hidden_layers=3))
    assert config.expert_config.num_hidden_layers == 3
    assert LwmSpectroMoEConfig.from_dict(config.to_dict()).expert_config.num_hidden_layers == 3


def test_the_router_has_the_grid_of_the_experts():
    expert = LwmSpectroConfig(num_frames=32, num_freq_bins=64, num_channels=2)
    router = LwmSpectroMoEConfig(expert_config=expert, router_patch_size=8).router_config
    assert (router.num_patches, router.patch_dim) == (4 * 8, 2 * 8 * 8)
    assert (router.hidden_size, router.num_hidden_layers) == (64, 2)


@pytest.mark.parametrize("config", [LwmSpectroConfig(), LwmSpectroMoEConfig()])
def test_auto_map_names_classes_that_exist(config):
    import importlib

    auto_map = auto_map_for(config)
    assert set(auto_map) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoFeatureExtractor",
    }
    for target in auto_map.values():
        module, name = target.split(".")
        assert hasattr(importlib.import_module(f"lwm_spectro_hf.{module}"), name)


def test_auto_map_of_a_foreign_configuration_is_an_error():
    with pytest.raises(ValueError, match="LwmSpectroConfig, LwmSpectroMoEConfig"):
        auto_map_for(PreTrainedConfig())

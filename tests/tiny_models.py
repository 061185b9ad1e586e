"""Models small enough for tests, one entry for each class and each behaviour that changes its parameters."""

import torch

from lwm_spectro_hf import (
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroForSequenceClassification,
    LwmSpectroModel,
    LwmSpectroMoEConfig,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoEModel,
    MaskedConvLstmConfig,
    MaskedConvLstmForForecasting,
    MaskedConvLstmForPreTraining,
    MaskedConvLstmForSemanticSegmentation,
    MaskedConvLstmModel,
)

LABELS = {0: "BPSK", 1: "QPSK", 2: "16QAM"}
PUBLISHED = {
    "norm_type": "unbiased_std",
    "hidden_act": "relu",
    "use_embedding_norm": True,
    "cls_token_value": 0.2,
    "max_position_embeddings": 26,
    "mask_token_value": 0.1,
    "mask_ratio": 0.6,
}
STEM = {"patch_size": 8, "stem_num_channels": 6, "num_channels": 2, "mask_strategy": "drop", "mask_ratio": 0.5}
LEVELS = {**STEM, "level_num_bins": 4}
COPYING = {"num_channels": 2, "mask_strategy": "drop", "mask_ratio": 0.5, "decoder_num_copy_heads": 2}
INPAINTING = {**COPYING, "decoder_num_inpainting_channels": 6}


def tiny_config(**kwargs) -> LwmSpectroConfig:
    """16 frames x 24 bins, so 4 x 6 = 24 patches: not square, so that swapped axes make tests fail."""
    small = {"num_frames": 16, "num_freq_bins": 24, "hidden_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "intermediate_size": 64, "projection_size": 16, "classifier_hidden_size": 8}
    return LwmSpectroConfig(**{**small, "id2label": LABELS, **kwargs})


def tiny_moe_config(expert: dict | None = None, **kwargs) -> LwmSpectroMoEConfig:
    """Three tiny experts, a router as small, and two heads."""
    small = {"router_hidden_size": 32, "router_num_attention_heads": 2, "router_intermediate_size": 32}
    tasks = {"snr_db+mobility": ["-5+static", "-5+vehicular"]}
    return LwmSpectroMoEConfig(
        expert_config=tiny_config(**(expert or {})),
        **{**small, "id2label": LABELS, "additional_tasks": tasks, **kwargs},
    )


def tiny_conv_lstm_config(**kwargs) -> MaskedConvLstmConfig:
    """16 frames in 4 segments x 24 bins, two layers of eight kernels, two channels."""
    small = {"num_frames": 16, "num_freq_bins": 24, "num_channels": 2, "segment_frames": 4, "forecast_frames": 8}
    small |= {"hidden_size": 8, "num_hidden_layers": 2, "id2label": LABELS}
    return MaskedConvLstmConfig(**{**small, **kwargs})


MODELS = {
    "model": lambda: LwmSpectroModel(tiny_config()),
    "model-published": lambda: LwmSpectroModel(tiny_config(**PUBLISHED)),
    "pretraining": lambda: LwmSpectroForPreTraining(tiny_config()),
    "pretraining-drop": lambda: LwmSpectroForPreTraining(tiny_config(mask_strategy="drop", cls_token_value=0.2)),
    "pretraining-published": lambda: LwmSpectroForPreTraining(tiny_config(**PUBLISHED)),
    "pretraining-stem": lambda: LwmSpectroForPreTraining(tiny_config(**STEM)),
    "pretraining-levels": lambda: LwmSpectroForPreTraining(tiny_config(**LEVELS)),
    "pretraining-copying": lambda: LwmSpectroForPreTraining(tiny_config(**COPYING)),
    "pretraining-inpainting": lambda: LwmSpectroForPreTraining(tiny_config(**INPAINTING)),
    "classification": lambda: LwmSpectroForSequenceClassification(tiny_config()),
    "classification-levels": lambda: LwmSpectroForSequenceClassification(tiny_config(**LEVELS)),
    "classification-linear": lambda: LwmSpectroForSequenceClassification(tiny_config(classifier_type="linear")),
    "moe-model": lambda: LwmSpectroMoEModel(tiny_moe_config(num_experts_per_sample=3)),
    "moe-pretraining": lambda: LwmSpectroMoEForPreTraining(tiny_moe_config()),
    "moe-classification": lambda: LwmSpectroMoEForSequenceClassification(tiny_moe_config()),
    "moe-classification-levels": lambda: LwmSpectroMoEForSequenceClassification(tiny_moe_config(LEVELS)),
    "moe-classification-cnn": lambda: LwmSpectroMoEForSequenceClassification(tiny_moe_config(router_type="cnn")),
    "moe-classification-fourier": lambda: LwmSpectroMoEForSequenceClassification(
        tiny_moe_config(router_type="fourier", router_dropout_prob=0.0, router_occupied_band=True)
    ),
    "conv-lstm-model": lambda: MaskedConvLstmModel(tiny_conv_lstm_config()),
    "conv-lstm-pretraining": lambda: MaskedConvLstmForPreTraining(tiny_conv_lstm_config()),
    "conv-lstm-pretraining-stride": lambda: MaskedConvLstmForPreTraining(tiny_conv_lstm_config(embedding_stride=2)),
    "conv-lstm-pretraining-passes": lambda: MaskedConvLstmForPreTraining(tiny_conv_lstm_config(num_passes=2)),
    "conv-lstm-forecasting": lambda: MaskedConvLstmForForecasting(tiny_conv_lstm_config()),
    "conv-lstm-segmentation-one": lambda: MaskedConvLstmForSemanticSegmentation(
        tiny_conv_lstm_config(num_channels=1, id2label={0: "nothing", 1: "LTE", 2: "5G"})
    ),
    "conv-lstm-segmentation": lambda: MaskedConvLstmForSemanticSegmentation(tiny_conv_lstm_config()),
}


def build(name: str) -> torch.nn.Module:
    """The model of that name, with the same weights at each call, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().eval()


def inputs_for(model: torch.nn.Module, batch: int = 4) -> dict[str, torch.Tensor]:
    """Spectrograms, and for masked modeling the noise that fixes the mask."""
    config = getattr(model.config, "encoder_config", model.config)
    generator = torch.Generator().manual_seed(1)
    shape = (batch, config.num_channels, config.num_frames, config.num_freq_bins)
    inputs = {"input_values": torch.randn(shape, generator=generator)}
    if "PreTraining" in type(model).__name__:
        inputs["noise"] = torch.rand(batch, config.num_patches, generator=generator)
    return inputs


def main_output(outputs) -> torch.Tensor:
    """The model's main output: logits, a reconstruction, or tokens."""
    for name in ("logits", "reconstruction", "last_hidden_state"):
        if outputs.get(name) is not None:
            return outputs[name]
    raise AssertionError(f"none of the expected outputs in {list(outputs)}")

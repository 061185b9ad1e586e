"""LWM-Spectro for Transformers: importing this registers its models with the Auto classes and with `pipeline`."""

from .auto import auto_map_for, register
from .configuration_lwm_spectro import LwmSpectroConfig, LwmSpectroMoEConfig
from .configuration_masked_conv_lstm import MaskedConvLstmConfig
from .feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from .modeling_lwm_spectro import (
    LwmSpectroForPreTraining,
    LwmSpectroForSequenceClassification,
    LwmSpectroModel,
)
from .modeling_lwm_spectro_moe import (
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoEModel,
    LwmSpectroMoERouter,
)
from .modeling_masked_conv_lstm import (
    MaskedConvLstmForForecasting,
    MaskedConvLstmForPreTraining,
    MaskedConvLstmForSemanticSegmentation,
    MaskedConvLstmModel,
)
from .objectives_lwm_spectro import supervised_contrastive_loss
from .patches_lwm_spectro import patchify, unpatchify
from .pipeline_lwm_spectro import IQClassificationPipeline
from .pipeline_lwm_spectro import register as _register_classification
from .pipeline_masked_conv_lstm import IQSegmentationPipeline
from .pipeline_masked_conv_lstm import register as _register_segmentation
from .resources import default_checkpoint, default_segmenter

__version__ = "0.1.0"

register()
_register_classification()
_register_segmentation()

__all__ = [
    "IQClassificationPipeline",
    "IQSegmentationPipeline",
    "LwmSpectroConfig",
    "LwmSpectroForPreTraining",
    "LwmSpectroForSequenceClassification",
    "LwmSpectroModel",
    "LwmSpectroMoEConfig",
    "LwmSpectroMoEForPreTraining",
    "LwmSpectroMoEForSequenceClassification",
    "LwmSpectroMoEModel",
    "LwmSpectroMoERouter",
    "MaskedConvLstmConfig",
    "MaskedConvLstmForForecasting",
    "MaskedConvLstmForPreTraining",
    "MaskedConvLstmForSemanticSegmentation",
    "MaskedConvLstmModel",
    "SpectrogramFeatureExtractor",
    "auto_map_for",
    "default_checkpoint",
    "default_segmenter",
    "patchify",
    "supervised_contrastive_loss",
    "unpatchify",
]

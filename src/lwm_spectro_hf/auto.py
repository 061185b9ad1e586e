"""Registration with the Auto classes of Transformers, and the `auto_map` of a published repository."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
    PreTrainedConfig,
)

from .configuration_lwm_spectro import LwmSpectroConfig, LwmSpectroMoEConfig
from .configuration_masked_conv_lstm import MaskedConvLstmConfig
from .feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from .modeling_lwm_spectro import LwmSpectroForPreTraining, LwmSpectroForSequenceClassification, LwmSpectroModel
from .modeling_lwm_spectro_moe import (
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoEModel,
)
from .modeling_masked_conv_lstm import (
    MaskedConvLstmForForecasting,
    MaskedConvLstmForPreTraining,
    MaskedConvLstmForSemanticSegmentation,
    MaskedConvLstmModel,
)

# For each configuration, the class that each Auto class loads.
AUTO_CLASSES: dict[type[PreTrainedConfig], dict[type, type]] = {
    LwmSpectroConfig: {
        AutoConfig: LwmSpectroConfig,
        AutoModel: LwmSpectroModel,
        AutoModelForPreTraining: LwmSpectroForPreTraining,
        AutoModelForSequenceClassification: LwmSpectroForSequenceClassification,
        AutoFeatureExtractor: SpectrogramFeatureExtractor,
    },
    LwmSpectroMoEConfig: {
        AutoConfig: LwmSpectroMoEConfig,
        AutoModel: LwmSpectroMoEModel,
        AutoModelForPreTraining: LwmSpectroMoEForPreTraining,
        AutoModelForSequenceClassification: LwmSpectroMoEForSequenceClassification,
        AutoFeatureExtractor: SpectrogramFeatureExtractor,
    },
    MaskedConvLstmConfig: {
        AutoConfig: MaskedConvLstmConfig,
        AutoModel: MaskedConvLstmModel,
        AutoModelForPreTraining: MaskedConvLstmForPreTraining,
        AutoModelForTimeSeriesPrediction: MaskedConvLstmForForecasting,
        AutoModelForSemanticSegmentation: MaskedConvLstmForSemanticSegmentation,
        AutoFeatureExtractor: SpectrogramFeatureExtractor,
    },
}


def register() -> None:
    """Register the models of this package with the Auto classes. Calling it again changes nothing."""
    for config_class, classes in AUTO_CLASSES.items():
        for auto_class, target in classes.items():
            key = config_class.model_type if auto_class is AutoConfig else config_class
            auto_class.register(key, target, exist_ok=True)


def auto_map_for(config: PreTrainedConfig) -> dict[str, str]:
    """
    The `auto_map` that lets a repository of this configuration load with `trust_remote_code=True`.

    Args:
        config (`PreTrainedConfig`): A configuration of this package.

    Returns:
        `dict[str, str]`: The name of each Auto class, and `"module.Class"` of what it loads.

    Raises:
        `ValueError`: If the configuration is not one of this package.
    """
    classes = AUTO_CLASSES.get(type(config))
    if classes is None:
        known = ", ".join(config_class.__name__ for config_class in AUTO_CLASSES)
        raise ValueError(f"No auto_map is known for a {type(config).__name__}; expected one of {known}.")
    return {
        auto_class.__name__: f"{target.__module__.rsplit('.', 1)[-1]}.{target.__name__}"
        for auto_class, target in classes.items()
    }

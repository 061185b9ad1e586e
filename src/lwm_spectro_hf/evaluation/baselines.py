"""The models of the benchmark behind one small interface, by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from . import networks
from .features import EXPERT, MIXTURE, SPECTROGRAM, STATISTICS, TOP1, Checkpoint
from .networks import Budget, TrainedNetwork
from .probe import LogisticProbe
from .tasks import BenchmarkTask


class Baseline(Protocol):
    """A classifier that is fitted to a few labeled rows and then predicts the classes of others.

    Attributes:
        num_parameters (`int`): Number of weights that a prediction uses, known after `fit`; without those of the
            encoder where the inputs are embeddings.
    """

    num_parameters: int

    def fit(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Train.

        Args:
            inputs (`torch.Tensor`): Spectrograms of shape `(num, num_channels, num_frames, num_freq_bins)`, or
                features of shape `(num, num_features)`, depending on the model's representation.
            labels (`torch.Tensor` of shape `(num,)`): Classes from 0 on, all of them present.
        """

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(num, num_classes)`, up to a constant per row."""


@dataclass(frozen=True)
class Setting:
    """What a model is made from.

    Attributes:
        num_classes (`int`): Of the task.
        seed (`int`): Of the run.
        budget ([`Budget`]): Of training.
        checkpoint ([`Checkpoint`]): LWM-Spectro.
        imagenet (`Path` or `None`): Folder of ImageNet weights.
        expert (`str` or `None`): Expert of a mixture to fine-tune, if the task has one protocol; `None` for all.
    """

    num_classes: int
    seed: int
    budget: Budget
    checkpoint: Checkpoint
    imagenet: Path | None = None
    expert: str | None = None


class NearestNeighbours:
    """The five nearest training rows, fewer if some class has fewer, vote with the inverse of their distances."""

    def __init__(self):
        self.num_parameters = 0

    def fit(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        num = min(5, int(labels.bincount().min()))
        self.model = KNeighborsClassifier(num, weights="distance", algorithm="brute")
        rows = inputs.flatten(1).float().numpy()
        self.model.fit(rows, labels.numpy())
        self.num_parameters = rows.size  # all training rows are kept

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        parts = [self.model.predict_proba(part.flatten(1).float().numpy()) for part in inputs.split(512)]
        return torch.from_numpy(np.concatenate(parts)).float().clamp(min=1e-6).log()


@dataclass(frozen=True)
class Model:
    """One entry of the benchmark.

    Attributes:
        title (`str`): Name in tables.
        representation (`str`): Its input, see [`~evaluation.features.FeatureStore`].
        make (`Callable`): Makes a [`Baseline`] from a [`Setting`].
        is_trained (`bool`): Whether it is trained by steps of an optimizer, which takes long.
    """

    title: str
    representation: str
    make: Callable[[Setting], Baseline]
    is_trained: bool = False

    @property
    def is_lwm(self) -> bool:
        """Whether its scores depend on the weights of the checkpoint."""
        return self.representation not in (SPECTROGRAM, STATISTICS) or self.make in (_finetuned, _lora)


def _probe(setting: Setting) -> Baseline:
    return LogisticProbe(setting.seed)


def _neighbours(setting: Setting) -> Baseline:
    return NearestNeighbours()


def _network(build: Callable[[Setting], torch.nn.Module], setting: Setting, **options) -> TrainedNetwork:
    options = {"is_spectrogram": True, **options}
    return TrainedNetwork(
        partial(build, setting), setting.budget, setting.seed, device=setting.checkpoint.device, **options
    )


def _of_checkpoint(build: Callable, setting: Setting) -> torch.nn.Module:
    return build(setting.checkpoint, setting.num_classes)


def _head(setting: Setting) -> Baseline:
    return _network(partial(_of_checkpoint, networks.head), setting, is_spectrogram=False)


def _pretrained(setting: Setting) -> torch.nn.Module:
    return networks.finetuned(setting.checkpoint, setting.num_classes, setting.expert)


def _finetuned(setting: Setting) -> Baseline:
    # All parameters are slow: at the rate of random weights, a head that is already fitted would only get worse.
    return _network(_pretrained, setting, slow="", start=networks.probed)


def _lora(setting: Setting) -> Baseline:
    return _network(_pretrained, setting, start=networks.with_lora)


def _scratch(setting: Setting) -> Baseline:
    return _network(partial(_of_checkpoint, networks.from_scratch), setting)


def _plain(kind: type, setting: Setting) -> Baseline:
    return _network(lambda s: kind(s.checkpoint.encoder_config.num_channels, s.num_classes), setting)


def _imagenet(name: str, setting: Setting) -> Baseline:
    def build(setting: Setting) -> torch.nn.Module:
        config = setting.checkpoint.encoder_config
        return networks.imagenet(
            name, config.num_channels, config.num_freq_bins, setting.num_classes, setting.imagenet
        )

    prefix = networks.IMAGENET[name].base_model_prefix
    return _network(build, setting, slow=f"network.{prefix}." if setting.imagenet else None)


MODELS: dict[str, Model] = {
    "lwm-probe": Model("LWM frozen, logistic regression", TOP1, _probe),
    "lwm-head": Model("LWM frozen, residual CNN (eq. 20)", TOP1, _head, is_trained=True),
    "lwm-knn": Model("LWM frozen, nearest neighbours", TOP1, _neighbours),
    "lwm-mixture-probe": Model("LWM frozen, all experts mixed, logistic regression", MIXTURE, _probe),
    "lwm-expert-probe": Model("LWM frozen, one expert, logistic regression", EXPERT, _probe),
    "lwm-finetuned": Model("LWM fine-tuned", SPECTROGRAM, _finetuned, is_trained=True),
    "lwm-lora": Model("LWM fine-tuned, LoRA", SPECTROGRAM, _lora, is_trained=True),
    "lwm-scratch": Model("LWM architecture from scratch", SPECTROGRAM, _scratch, is_trained=True),
    "cnn-kojima": Model("Deep CNN (after ref. 6)", SPECTROGRAM, partial(_plain, networks.KojimaCNN), is_trained=True),
    "cnn-wu": Model("CNN (after ref. 7)", SPECTROGRAM, partial(_plain, networks.WuCNN), is_trained=True),
    **{
        name: Model(title, SPECTROGRAM, partial(_imagenet, name), is_trained=True)
        for name, title in zip(networks.IMAGENET, ("ResNet-18", "EfficientNet-B0", "MobileNet-V2"), strict=True)
    },
    "raw-knn": Model("Spectrogram, nearest neighbours", SPECTROGRAM, _neighbours),
    "statistics": Model("Moments and correlations, logistic regression", STATISTICS, _probe),
}


def is_trained(name: str) -> bool:
    """Whether a model is trained by steps of an optimizer; probes of one expert, not named in `MODELS`, are not."""
    return name in MODELS and MODELS[name].is_trained


def models_for(names: list[str], task: BenchmarkTask, checkpoint: Checkpoint) -> tuple[dict[str, Model], list[str]]:
    """The entries of a task, by name: "lwm-expert-probe" becomes one for each expert that the task may need.

    Args:
        names (`list[str]`): Some of `MODELS`.
        task ([`BenchmarkTask`]): With a single protocol, only its expert is used; with several, each expert is tried.
        checkpoint ([`Checkpoint`]): A single encoder has neither experts nor a mixture.

    Returns:
        `tuple`: the entries, and what was left out and why.

    Raises:
        ValueError: For an unknown name.
    """
    wrong = [name for name in names if name not in MODELS]
    if wrong:
        raise ValueError(f"There is no model {wrong[0]!r}; expected some of {', '.join(MODELS)}.")
    chosen, left_out = {}, []
    for name in names:
        model = MODELS[name]
        if model.representation in (EXPERT, MIXTURE) and not checkpoint.is_mixture:
            left_out.append(f"{name}: the checkpoint is a single encoder")
        elif model.representation == EXPERT:
            for expert in checkpoint.experts:
                if len(task.protocols) > 1 or expert in task.protocols:
                    title = model.title.replace("one expert", f"the {expert} expert")
                    chosen[f"{name}-{expert.lower()}"] = replace(model, title=title, representation=EXPERT + expert)
        else:
            chosen[name] = model
    return chosen, left_out

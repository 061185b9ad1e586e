"""Stages 2 and 3: train the router over frozen experts (sec. IV-C), then the heads of the mixture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from ..data.recipe import MOBILITIES, MODULATIONS, SNRS_DB
from ..evaluation.probe import fit_head
from ..modeling_lwm_spectro_moe import (
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoEModel,
)
from ..objectives_lwm_spectro import draw_mask, label_loss
from .augmentation import shorten
from .batches import Batches, class_labels
from .loop import TrainingLoop, TrainingSettings
from .masks import mask_noise

VIEWS = ("whole", "visible")
# In training, the largest relative error of the resolution given to the router, and the share of rows without any.
_RESOLUTION_ERROR, _UNKNOWN_RESOLUTION = 0.08, 0.3
_SHORT = 0.4  # share of spectrograms with a frame per symbol that training shortens, see `shorten`
JOINT_TASK = "snr_db+mobility"
JOINT_LABELS = [f"{snr_db}+{mobility}" for snr_db in SNRS_DB for mobility in MOBILITIES]
DEFAULT_HEADS = {
    "task_name": "modulation",
    "id2label": dict(enumerate(MODULATIONS)),
    "label2id": {name: index for index, name in enumerate(MODULATIONS)},
    "additional_tasks": {JOINT_TASK: JOINT_LABELS},
}


@dataclass(frozen=True)
class MixtureSettings(TrainingSettings):
    """The settings of [`TrainingSettings`], with augmentation by default."""

    augment: bool = True


@dataclass(frozen=True)
class HeadSettings(MixtureSettings):
    """The settings of [`MixtureSettings`], and:

    Attributes:
        view: What the heads learn from: the "whole" spectrogram, or only the patches that the mask of eq. 22 leaves
            "visible", which takes one pass instead of two and shows a different part each time.
    """

    view: str = "whole"

    def __post_init__(self):
        super().__post_init__()
        if self.view not in VIEWS:
            raise ValueError(f"view is {self.view!r}; expected one of {', '.join(VIEWS)}.")


def shortened(batch: dict[str, torch.Tensor], seed: int, share: float = _SHORT) -> dict[str, torch.Tensor]:
    """Make some spectrograms of a batch look like those of short recordings, see [`shorten`]."""
    noise = mask_noise(batch["index"], 3, seed)
    return {**batch, "input_values": shorten(batch["input_values"], batch["resolution"], noise, share)}


class _MixtureTraining(TrainingLoop):
    """Shared part of stages 2 and 3: augmentation also shortens recordings."""

    def _values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.settings.augment and self.model.training:
            batch = shortened(batch, self.settings.seed + 3)
        return super()._values(batch)


class RouterTraining(_MixtureTraining):
    """Trains the router alone.

    The target of recordings of noise, whose protocol is -1, is the uniform distribution.

    Args:
        mixture ([`LwmSpectroMoEModel`]): Mixture whose router is trained; its experts are not used.
        batches ([`Batches`]): Batches with all protocols in equal shares.
        settings ([`MixtureSettings`]): Settings that the loss curve depends on.
        accelerator, state_folder, data, **kwargs: As in [`TrainingLoop`].
    """

    stage = "stage 2, router"

    def __init__(
        self,
        mixture: LwmSpectroMoEModel,
        batches: Batches,
        settings: MixtureSettings,
        accelerator: Accelerator,
        state_folder: str,
        data: dict[str, Any],
        **kwargs: Any,
    ):
        # The router's inputs have channels last in memory; weights of the same layout are a third faster on one core.
        mixture.router.to(memory_format=torch.channels_last)
        super().__init__(mixture.router, mixture.config, batches, settings, accelerator, state_folder, data, **kwargs)
        count = mixture.config.num_experts
        # The last row is the uniform target: noise, whose protocol is -1, selects it.
        self._targets = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)]).to(accelerator.device)

    def _config(self) -> dict[str, Any]:
        """Only the fields that the router depends on: its state stays valid if the experts are replaced."""
        names = ("num_channels", "num_frames", "num_freq_bins")
        grid = {name: getattr(self.config.expert_config, name) for name in names}
        config = super()._config()
        return grid | {name: config[name] for name in config if name.startswith("router_") or name == "expert_names"}

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy, and the accuracy over the rows that are not noise."""
        logits, protocol = network(self._values(batch), self._resolution(batch)).float(), batch["protocol"]
        loss = F.cross_entropy(logits, self._targets[protocol])
        known = protocol >= 0
        right = ((logits.argmax(-1) == protocol) & known).sum() / known.sum().clamp(min=1)
        return loss, {"loss": loss.detach(), "accuracy": right.detach()}

    def _resolution(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Resolution given to the router; in augmented training with a random error, and NaN in some rows.

        An exact resolution would reveal the standard wherever a receiver samples at exactly its rate.
        """
        resolution = batch["resolution"]
        if not (self.settings.augment and self.model.training):
            return resolution
        noise = mask_noise(batch["index"], 3, self.settings.seed + 2)
        resolution = resolution * (1 + _RESOLUTION_ERROR * (2 * noise[:, :2] - 1))
        return torch.where(noise[:, 2:] < _UNKNOWN_RESOLUTION, torch.nan, resolution)


class MixtureHeads(nn.Module):
    """The classifier and the pretraining model of a mixture, which share its experts.

    Heads and experts are trained on the labels and on eq. 22 together, so that the decoders keep fitting the experts.
    Each row goes to the expert of its true protocol, so the stage does not depend on the router, which is frozen.

    Args:
        pretraining ([`LwmSpectroMoEForPreTraining`]): Trained experts, decoders and router.
    """

    def __init__(self, pretraining: LwmSpectroMoEForPreTraining):
        super().__init__()
        config = type(pretraining.config).from_dict({**pretraining.config.to_dict(), **DEFAULT_HEADS})
        self.classifier = LwmSpectroMoEForSequenceClassification(config)
        self.classifier.lwm_spectro_moe = pretraining.lwm_spectro_moe
        self.pretraining = pretraining
        pretraining.lwm_spectro_moe.router.requires_grad_(False)

    def fit(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """Initialize the linear heads by a probe on the embeddings of the experts, see [`fit_head`].

        Args:
            batches (`Iterable`): Batches that cover all protocols and classes.

        Raises:
            ValueError: If a class has no row in them.
        """
        mixture = self.classifier.lwm_spectro_moe.eval()
        device, embeddings, labels = next(mixture.parameters()).device, [], []
        with torch.no_grad():
            for batch in batches:
                rows = batch["protocol"] >= 0
                if not rows.any():  # only noise
                    continue
                values, protocol = (batch[name][rows].to(device) for name in ("input_values", "protocol"))
                embeddings.append(mixture(values, expert_index=protocol, return_dict=True).pooler_output.float().cpu())
                labels.append({name: column[rows].cpu() for name, column in head_labels(batch).items()})
        embeddings = torch.cat(embeddings)
        for name, head in ("modulation", self.classifier.classifier), *self.classifier.additional_classifiers.items():
            column = torch.cat([part[name] for part in labels])
            fit_head(head, embeddings[column >= 0], column[column >= 0])

    def forward(
        self, values: torch.Tensor, protocol: torch.Tensor, noise: torch.Tensor, joint: torch.Tensor, view: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits of modulation, logits of SNR x mobility, and the loss of eq. 22 with the labels `joint`.

        The heads see the `view` of [`HeadSettings`].
        """
        classifier = self.classifier
        mask = draw_mask(classifier.config.expert_config, values, noise=noise)
        masked = self.pretraining.masked_modeling(values, mask, protocol, joint)
        if view == "visible":
            embedding = masked.embedding
        else:
            embedding = classifier.lwm_spectro_moe(values, expert_index=protocol, return_dict=True).pooler_output
        other = classifier.additional_classifiers[JOINT_TASK](embedding)
        return classifier.classifier(embedding), other, masked.loss

    def state_of_checkpoint(self) -> dict[str, torch.Tensor]:
        """Tensors of a checkpoint for every Auto class: encoders, router, heads, decoders and projections."""
        return {**self.pretraining.state_dict(), **self.classifier.state_dict()}


class HeadTraining(_MixtureTraining):
    """Trains the heads for modulation and SNR x mobility, and the experts with them.

    Args:
        heads ([`MixtureHeads`]): Heads and experts to train, on any device.
        batches ([`Batches`]): Batches with all protocols in equal shares; noise is left out.
        settings ([`HeadSettings`]): Settings that the loss curve depends on.
        accelerator, state_folder, data, **kwargs: As in [`TrainingLoop`].

    Raises:
        ValueError: If there are several processes: some of them might not see all protocols in a step.
    """

    stage = "stage 3, heads"

    def __init__(
        self,
        heads: MixtureHeads,
        batches: Batches,
        settings: HeadSettings,
        accelerator: Accelerator,
        state_folder: str,
        data: dict[str, Any],
        **kwargs: Any,
    ):
        if accelerator.num_processes > 1:
            raise ValueError(
                f"The heads of a mixture are trained by a single process; found {accelerator.num_processes}: start "
                "the script with python, not with accelerate launch."
            )
        config = heads.classifier.config
        super().__init__(heads, config, batches, settings, accelerator, state_folder, data, **kwargs)

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropies of both heads, and eq. 22."""
        values, config = self._values(batch), self.config.expert_config
        noise = mask_noise(batch["index"], config.num_patches, self.settings.seed)
        labels, protocol = head_labels(batch), batch["protocol"]
        (rows,) = (protocol >= 0).nonzero(as_tuple=True)  # indices instead of a mask: waits for the device once
        if len(rows) == 0:  # only noise
            nothing = sum(part.sum() for part in self._parameters.values()) * 0.0
            names = ("loss", "modulation_loss", "joint_loss", "masked_loss")
            return nothing, dict.fromkeys(names, nothing.detach())
        modulation, joint, masked = network(
            values[rows], protocol[rows], noise[rows], labels[JOINT_TASK][rows], self.settings.view
        )
        losses = {
            "modulation_loss": label_loss(modulation, labels["modulation"][rows]),
            "joint_loss": label_loss(joint, labels[JOINT_TASK][rows]),
            "masked_loss": masked,
        }
        loss = sum(losses.values())
        return loss, {name: value.detach() for name, value in {"loss": loss, **losses}.items()}


def head_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Classes of the two heads, -100 where the label is unknown.

    Args:
        batch (`dict[str, torch.Tensor]`): Labels of shape `(batch,)`: `protocol`, `modulation`, `snr_db`, `mobility`.

    Returns:
        `dict`: `modulation` and `snr_db+mobility`, int64 of shape `(batch,)`.
    """
    snr, mobility = class_labels(batch, "snr_db"), class_labels(batch, "mobility")
    joint = torch.where((snr >= 0) & (mobility >= 0), snr * len(MOBILITIES) + mobility, -100)
    return {"modulation": class_labels(batch, "modulation"), JOINT_TASK: joint}


@torch.inference_mode()
def score_router(router: nn.Module, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Accuracy of the router, overall, by SNR and by protocol, and its confidence on noise.

    Returns:
        `dict`: `accuracy`, `by_snr_db` and `by_protocol` in %, `num` (spectrograms with a signal), and `noise_score`,
        the mean of the highest probability where there is no signal.
    """
    router.eval()
    # `forward` itself: calling a compiled router here would compile it again.
    answers = [router.forward(batch["input_values"], batch["resolution"]).float().softmax(-1) for batch in batches]
    answers = torch.cat(answers).cpu()
    protocol = torch.cat([batch["protocol"] for batch in batches]).cpu()
    snr_db = torch.cat([batch["snr_db"] for batch in batches]).cpu()
    known, right = protocol >= 0, answers.argmax(-1) == protocol

    def share(rows: torch.Tensor) -> float | None:
        return 100 * float(right[rows].float().mean()) if rows.any() else None

    snrs = sorted(set(snr_db[known].tolist()))
    return {
        "accuracy": share(known),
        "by_snr_db": {f"{value:g}": share(known & (snr_db == value)) for value in snrs},
        "by_protocol": {str(value): share(protocol == value) for value in sorted(set(protocol[known].tolist()))},
        "num": int(known.sum()),
        "noise_score": float(answers[~known].max(-1).values.mean()) if (~known).any() else None,
    }

"""Stages 2 and 3: the router over frozen experts (sec. IV-C), and the heads of the mixture."""

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
# Shares of the resolution that a router is told wrong at most while it is trained, and of the rows told none.
_RESOLUTION_ERROR, _UNKNOWN_RESOLUTION = 0.08, 0.3
_SHORT = 0.4  # share of spectrograms of symbols that training sees as of recordings too short to fill them
JOINT_TASK = "snr_db+mobility"
JOINT_LABELS = [f"{snr_db}+{mobility}" for snr_db in SNRS_DB for mobility in MOBILITIES]
HEADS = {
    "task_name": "modulation",
    "id2label": dict(enumerate(MODULATIONS)),
    "label2id": {name: index for index, name in enumerate(MODULATIONS)},
    "additional_tasks": {JOINT_TASK: JOINT_LABELS},
}


@dataclass(frozen=True)
class MixtureSettings(TrainingSettings):
    """Those of [`TrainingSettings`]; augmented by default."""

    augment: bool = True


@dataclass(frozen=True)
class HeadSettings(MixtureSettings):
    """Those of [`MixtureSettings`], and:

    Attributes:
        view: What heads learn from: the "whole" spectrogram, or what the mask of eq. 22 leaves "visible", which
            costs one pass instead of two and shows another part each time.
    """

    view: str = "whole"

    def __post_init__(self):
        super().__post_init__()
        if self.view not in VIEWS:
            raise ValueError(f"view is {self.view!r}; expected one of {', '.join(VIEWS)}.")


def shortened(batch: dict[str, torch.Tensor], seed: int, share: float = _SHORT) -> dict[str, torch.Tensor]:
    """A batch of which some spectrograms are those of short recordings, see [`shorten`]."""
    noise = mask_noise(batch["index"], 3, seed)
    return {**batch, "input_values": shorten(batch["input_values"], batch["resolution"], noise, share)}


class _MixtureTraining(TrainingLoop):
    """What the stages after the first share: recordings may be short."""

    def _values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.settings.augment and self.model.training:
            batch = shortened(batch, self.settings.seed + 3)
        return super()._values(batch)


class RouterTraining(_MixtureTraining):
    """Trains the router alone.

    Recordings of noise, whose protocol is -1, should leave it undecided: their target is uniform.

    Args:
        mixture ([`LwmSpectroMoEModel`]): Whose router is trained; the experts are not looked at.
        batches ([`Batches`]): Of all protocols alike.
        settings ([`MixtureSettings`]): What the curve depends on.
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
        # Weights as their inputs lie in memory: on one core a third faster.
        mixture.router.to(memory_format=torch.channels_last)
        super().__init__(mixture.router, mixture.config, batches, settings, accelerator, state_folder, data, **kwargs)
        count = mixture.config.num_experts
        # Row -1 of the targets, which noise is given, is the uniform one.
        self._targets = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)]).to(accelerator.device)

    def _config(self) -> dict[str, Any]:
        """What the router is made from: experts may be exchanged behind it."""
        names = ("num_channels", "num_frames", "num_freq_bins")
        grid = {name: getattr(self.config.expert_config, name) for name in names}
        config = super()._config()
        return grid | {name: config[name] for name in config if name.startswith("router_") or name == "expert_names"}

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy, and the share of signals that are told right."""
        logits, protocol = network(self._values(batch), self._resolution(batch)).float(), batch["protocol"]
        loss = F.cross_entropy(logits, self._targets[protocol])
        known = protocol >= 0
        right = ((logits.argmax(-1) == protocol) & known).sum() / known.sum().clamp(min=1)
        return loss, {"loss": loss.detach(), "accuracy": right.detach()}

    def _resolution(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the router is told of the resolution of a batch; while training, of some rows nothing.

        Nor is it exact: a receiver that samples at just the rate of a standard would give that away.
        """
        resolution = batch["resolution"]
        if not (self.settings.augment and self.model.training):
            return resolution
        noise = mask_noise(batch["index"], 3, self.settings.seed + 2)
        resolution = resolution * (1 + _RESOLUTION_ERROR * (2 * noise[:, :2] - 1))
        return torch.where(noise[:, 2:] < _UNKNOWN_RESOLUTION, torch.nan, resolution)


class MixtureHeads(nn.Module):
    """The classifier of a mixture and its pretraining model over one and the same experts.

    Heads and experts are trained on their labels and on eq. 22 together, so that the decoders go on fitting the
    experts. Rows go to the expert of their true protocol: the stage does not depend on the router, which stays as it
    is.

    Args:
        pretraining ([`LwmSpectroMoEForPreTraining`]): Trained experts, decoders and router.
    """

    def __init__(self, pretraining: LwmSpectroMoEForPreTraining):
        super().__init__()
        config = type(pretraining.config).from_dict({**pretraining.config.to_dict(), **HEADS})
        self.classifier = LwmSpectroMoEForSequenceClassification(config)
        self.classifier.lwm_spectro_moe = pretraining.lwm_spectro_moe
        self.pretraining = pretraining
        pretraining.lwm_spectro_moe.router.requires_grad_(False)

    def fit(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """Begin with the linear heads that are best for the experts as they are, see [`fit_head`].

        Args:
            batches (`Iterable`): Of all protocols and classes.

        Raises:
            ValueError: If some class has no row in them.
        """
        mixture = self.classifier.lwm_spectro_moe.eval()
        device, embeddings, labels = next(mixture.parameters()).device, [], []
        with torch.no_grad():
            for batch in batches:
                rows = batch["protocol"] >= 0
                if not rows.any():  # nothing but noise
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
        """Logits of modulation, logits of SNR x mobility, and the loss of eq. 22 with the labels `joint`.

        What heads look at, the `view`, is as in [`HeadSettings`].
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
        """Tensors of one file for every Auto class: encoders, router, heads, decoders and projections."""
        return {**self.pretraining.state_dict(), **self.classifier.state_dict()}


class HeadTraining(_MixtureTraining):
    """Trains the heads of modulation and SNR x mobility, and the experts with them.

    Args:
        heads ([`MixtureHeads`]): On its device already or not.
        batches ([`Batches`]): Of all protocols alike; noise is left out.
        settings ([`HeadSettings`]): What the curve depends on.
        accelerator, state_folder, data, **kwargs: As in [`TrainingLoop`].

    Raises:
        ValueError: If there are several processes, of which some might not see all protocols in a step.
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
                f"Heads of a mixture are trained by one process, found {accelerator.num_processes}: start the script "
                "with python, without accelerate launch."
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
        (rows,) = (protocol >= 0).nonzero(as_tuple=True)  # by numbers: a device is waited for once
        if len(rows) == 0:  # nothing but noise
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
    """Classes of the two heads, -100 where there is nothing to be told.

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
    """Share of spectrograms whose protocol the router tells, in all, by SNR and by protocol, and what noise gets.

    Returns:
        `dict`: `accuracy`, `by_snr_db` and `by_protocol` in %, `num`, and `noise_score`, the mean of the winner's
        probability where there is no signal.
    """
    router.eval()
    # `forward`, since a router whose calls are compiled would be compiled again for this.
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

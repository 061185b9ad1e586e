"""Stage 1: pretrain an expert by masked spectrogram modeling (eq. 21), or with supervised contrast, too (eq. 22)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from ..modeling_lwm_spectro import LwmSpectroForPreTraining, LwmSpectroForPreTrainingOutput
from ..objectives_lwm_spectro import joint_loss, supervised_contrastive_loss
from .batches import NUM_CLASSES, Batches, class_labels, contrastive_labels
from .loop import TrainingLoop, TrainingSettings
from .masks import mask_noise
from .throughput import training_flops

PARTS = ("all", "decoder", "levels")


@dataclass(frozen=True)
class PretrainingSettings(TrainingSettings):
    """The settings of [`TrainingSettings`], and:

    Attributes:
        contrastive: Labels whose combinations are the classes of eq. 19; none for eq. 21.
        supervised: Labels that linear layers, one each, learn to predict from the embedding of the visible patches.
            Unlike the contrast of eq. 19, this does not need batches in which every class occurs often.
        part: What is trained: "all"; the "decoder" alone, which leaves embeddings unchanged; or the "levels" alone
            (`config.level_num_bins`), which learn the supervised labels from whole spectrograms, in addition to the
            frozen transformer.

    Raises:
        ValueError: If the part cannot be trained on these labels.
    """

    contrastive: tuple[str, ...] = ()
    supervised: tuple[str, ...] = ()
    part: str = "all"

    def __post_init__(self):
        super().__post_init__()
        if self.part not in PARTS:
            raise ValueError(f"part is {self.part!r}; expected one of {', '.join(PARTS)}.")
        if self.part == "decoder" and (self.contrastive or self.supervised):
            raise ValueError("The decoder by itself learns no labels; expected none, contrastive or supervised.")
        if self.part == "levels" and (self.contrastive or not self.supervised):
            raise ValueError("Levels by themselves learn supervised labels; expected some, and no contrastive ones.")


class LabelledExpert(nn.Module):
    """An expert with a linear layer for each supervised label, which is used in training only.

    Args:
        expert ([`LwmSpectroForPreTraining`]): The expert to train.
        labels (`Sequence[str]`): Some of `NUM_CLASSES`.
        part (`str`, *optional*, defaults to `"all"`): One of `PARTS`. Weights and running statistics of the other
            parts stay as they are.

    Raises:
        ValueError: If the part is "levels", and the expert has no histogram of levels.
    """

    def __init__(self, expert: LwmSpectroForPreTraining, labels: Sequence[str], part: str = "all"):
        super().__init__()
        self.expert, self.part = expert, part
        if part == "levels" and expert.base_model.levels is None:
            raise ValueError("The levels cannot be trained, since `level_num_bins` is 0; expected at least 1.")
        if part != "all":
            expert.requires_grad_(False)
            self._trained().requires_grad_(True)
        self.heads = nn.ModuleDict({name: nn.Linear(expert.config.hidden_size, NUM_CLASSES[name]) for name in labels})

    def _trained(self) -> nn.Module:
        expert = self.expert
        return {"all": expert, "decoder": expert.decoder, "levels": expert.base_model.levels}[self.part]

    def train(self, mode: bool = True) -> "LabelledExpert":
        super().train(mode)
        self.expert.eval()
        self._trained().train(mode)
        return self

    def forward(
        self, input_values: torch.Tensor, noise: torch.Tensor
    ) -> tuple[LwmSpectroForPreTrainingOutput | None, dict[str, torch.Tensor]]:
        """Return the expert's outputs (`None` where levels are trained alone) and the logits of each label."""
        if self.part == "levels":
            outputs, embedding = None, self.expert.base_model(input_values, return_dict=True).pooler_output
        else:
            outputs = self.expert(input_values, noise=noise)
            embedding = outputs.embedding
        return outputs, {name: head(embedding) for name, head in self.heads.items()}


class Pretraining(TrainingLoop):
    """Trains an expert.

    Args:
        model ([`LwmSpectroForPreTraining`]): The expert with its decoder and projection.
        batches ([`Batches`]): Batches of its protocol.
        settings ([`PretrainingSettings`]): Settings that the loss curve depends on.
        accelerator, state_folder, data, **kwargs: As in [`TrainingLoop`].
    """

    stage = "stage 1, expert"

    def __init__(
        self,
        model: LwmSpectroForPreTraining,
        batches: Batches,
        settings: PretrainingSettings,
        accelerator: Accelerator,
        state_folder: str,
        data: dict[str, Any],
        **kwargs: Any,
    ):
        flops = training_flops(model.config) if settings.part == "all" else None  # training a part takes fewer
        labelled = LabelledExpert(model, settings.supervised, settings.part).to(accelerator.device)
        # Several processes would wait for a parameter that gets no gradient: the projection is used by the contrast
        # only, and the levels add to the embedding, which the decoder does not read.
        model.projection.requires_grad_(bool(settings.contrastive))
        if model.base_model.levels is not None and not (settings.contrastive or settings.supervised):
            model.base_model.levels.requires_grad_(False)
        super().__init__(
            labelled, model.config, batches, settings, accelerator, state_folder, data, flops=flops, **kwargs
        )

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 21, or eq. 22 with contrastive labels, plus the cross-entropies of the supervised labels."""
        config = self.config
        noise = mask_noise(batch["index"], config.num_patches, self.settings.seed)
        outputs, logits = network(self._values(batch), noise)
        loss, figures = 0.0, {"loss": 0.0}
        if outputs is not None:
            reconstruction = outputs.reconstruction_loss
            loss = joint_loss(config, reconstruction)
            figures = {"loss": loss, "reconstruction_loss": reconstruction}
        if self.settings.contrastive:
            labels = contrastive_labels(batch, self.settings.contrastive)
            contrastive, scale = self._contrastive_loss(outputs.projection, labels, alone)
            loss = joint_loss(config, reconstruction, scale * contrastive)
            figures["loss"] = joint_loss(config, reconstruction, contrastive)
            figures["contrastive_loss"] = contrastive
        for name, prediction in logits.items():
            # Divided by all rows, labeled or not, so that the mean over parts is that of the whole batch.
            supervised = F.cross_entropy(prediction.float(), class_labels(batch, name), reduction="sum") / len(noise)
            loss, figures["loss"] = loss + supervised, figures["loss"] + supervised
            figures[f"{name}_loss"] = supervised
        return loss, {name: value.detach() for name, value in figures.items()}

    def _contrastive_loss(
        self, projection: torch.Tensor, labels: torch.Tensor, alone: bool
    ) -> tuple[torch.Tensor, int]:
        """Eq. 19 over the rows of all processes, and the factor that makes up for averaging gradients.

        Each process differentiates the loss of all rows with respect to its own rows only. The gradient is the sum of
        these parts, but processes average them, which is too small by a factor of the number of processes.
        """
        temperature, processes = self.config.temperature, self.accelerator.num_processes
        if alone or processes == 1:
            return supervised_contrastive_loss(projection, labels, temperature), 1
        rows = len(labels) * self.accelerator.process_index
        others = self.accelerator.gather(projection.detach().contiguous())
        gathered = torch.cat([others[:rows], projection, others[rows + len(labels) :]])
        return supervised_contrastive_loss(gathered, self.accelerator.gather(labels), temperature), processes

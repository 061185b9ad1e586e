"""Stage 1: an expert on masked spectrogram modeling (eq. 21), or on that and supervised contrast together (eq. 22)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from ..modeling_lwm_spectro import (
    LwmSpectroForPreTraining,
    LwmSpectroForPreTrainingOutput,
    supervised_contrastive_loss,
)
from .batches import Batches, contrastive_labels
from .loop import TrainingLoop, TrainingSettings
from .masks import mask_noise
from .throughput import training_flops


@dataclass(frozen=True)
class PretrainingSettings(TrainingSettings):
    """Those of [`TrainingSettings`], and:

    Attributes:
        contrastive: Labels whose combinations are the classes of eq. 19; none for eq. 21.
    """

    contrastive: tuple[str, ...] = ()


class Pretraining(TrainingLoop):
    """Trains an expert.

    Args:
        model ([`LwmSpectroForPreTraining`]): The expert, its decoder and projection.
        batches ([`Batches`]): Of its protocol.
        settings ([`PretrainingSettings`]): What the curve depends on.
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
        # A parameter without a gradient would keep the processes waiting for it.
        model.projection.requires_grad_(bool(settings.contrastive))
        flops = training_flops(model.config)
        super().__init__(
            model, model.config, batches, settings, accelerator, state_folder, data, flops=flops, **kwargs
        )

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 21, or eq. 22 with contrastive labels."""
        config = self.config
        noise = mask_noise(batch["index"], config.num_patches, self.settings.seed)
        outputs: LwmSpectroForPreTrainingOutput = network(batch["input_values"], noise=noise)
        reconstruction = outputs.reconstruction_loss
        loss = joint = config.reconstruction_loss_weight * reconstruction
        values = {"loss": joint, "reconstruction_loss": reconstruction}
        if self.settings.contrastive:
            labels = contrastive_labels(batch, self.settings.contrastive)
            contrastive, scale = self._contrastive_loss(outputs.projection, labels, alone)
            loss = loss + config.contrastive_loss_weight * scale * contrastive
            values["loss"] = joint + config.contrastive_loss_weight * contrastive
            values["contrastive_loss"] = contrastive
        return loss, {name: value.detach() for name, value in values.items()}

    def _contrastive_loss(
        self, projection: torch.Tensor, labels: torch.Tensor, alone: bool
    ) -> tuple[torch.Tensor, int]:
        """Eq. 19 over the rows of all processes, and what to multiply it by where gradients are averaged.

        Each process differentiates the loss of all rows with respect to its own. The gradient is the sum of these
        parts, of which the average over processes is taken too little by their number.
        """
        temperature, processes = self.config.temperature, self.accelerator.num_processes
        if alone or processes == 1:
            return supervised_contrastive_loss(projection, labels, temperature), 1
        rows = len(labels) * self.accelerator.process_index
        others = self.accelerator.gather(projection.detach().contiguous())
        gathered = torch.cat([others[:rows], projection, others[rows + len(labels) :]])
        return supervised_contrastive_loss(gathered, self.accelerator.gather(labels), temperature), processes

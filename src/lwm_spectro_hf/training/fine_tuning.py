"""Fine-tuning (sec. III-F): train a classifier on a pretrained encoder with `Trainer`.

There are four methods: train the head on a frozen encoder, all weights, low-rank adapters of the attention, or the
same architecture from fresh weights. The last three can be combined with the joint objective of eq. 22.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ..auto import AUTO_CLASSES
from ..configuration_lwm_spectro import LwmSpectroMoEConfig
from ..data.labelled import LabelledSpectrograms, TaskError, as_is
from ..data.recipe import stable_seed
from ..extras import require
from ..modeling_lwm_spectro import LwmSpectroPreTrainedModel
from ..scripting import first_line
from .augmentation import augment
from .checkpoints import absent_weights, check_places, check_weights
from .loop import Deadline, DivergedError

METHODS = ("frozen", "full", "lora", "scratch")
HEAD_TYPES = ("residual_cnn", "linear")


def load_pretrained(checkpoint: str, expert: str | None = None) -> tuple[LwmSpectroPreTrainedModel, bool]:
    """Load an encoder or a mixture with the parts that pretraining adds.

    Args:
        checkpoint (`str`): A folder or a name on the Hub, of one encoder or a mixture.
        expert (`str`, *optional*): Take this expert out of a mixture.

    Returns:
        `tuple`: The model for pretraining, and whether the checkpoint has all of its weights; otherwise the missing
        ones, e.g. those of the decoder, are new.

    Raises:
        TaskError: If the checkpoint cannot be read, is of another architecture, lacks weights of the encoder, or has
            no such expert.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise TaskError(f"{checkpoint} cannot be read as a checkpoint: {first_line(error)}") from error
    if AutoModelForSequenceClassification not in AUTO_CLASSES.get(type(config), {}):
        known = ", ".join(
            config_class.model_type
            for config_class, auto_classes in AUTO_CLASSES.items()
            if AutoModelForSequenceClassification in auto_classes
        )
        raise TaskError(f"{checkpoint} is a {config.model_type!r} model; expected one of {known}.")
    model, info = AutoModelForPreTraining.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    try:
        check_weights(info, checkpoint, model.base_model_prefix + ".", "encoder weights")
        check_places(info, checkpoint, model.base_model_prefix + ".")
    except ValueError as error:
        raise TaskError(str(error)) from None
    if expert is not None:
        names = getattr(config, "expert_names", [])
        if expert not in names:
            raise TaskError(f"There is no expert {expert!r} in {checkpoint}; it has {', '.join(names) or 'none'}.")
        model = model.expert(expert)
    return model, not absent_weights(info)


def check_fit(model: LwmSpectroPreTrainedModel, rows: LabelledSpectrograms, checkpoint: str) -> None:
    """Make sure that the spectrograms of a data set have the shape that a model expects.

    Raises:
        TaskError: If they do not, or cannot be made from the I/Q samples.
    """
    config = model.config.encoder_config
    expected = (config.num_channels, config.num_frames, config.num_freq_bins)
    try:
        found = tuple(rows.__getitems__([0])["input_values"].shape[1:])
    except TaskError:
        raise
    except ValueError as error:
        raise TaskError(f"The extractor of {checkpoint} cannot make spectrograms of this data: {error}") from error
    if found != expected:
        raise TaskError(
            f"The spectrograms of the data have (channels, frames, bins) = {found}, but {checkpoint} expects "
            f"{expected}: build the data with the front-end of that checkpoint, or use another checkpoint."
        )


def renew(model: LwmSpectroPreTrainedModel) -> LwmSpectroPreTrainedModel:
    """The same architecture with fresh weights, drawn from PyTorch's global generator.

    A mixture keeps its router, which classifies the protocol and would get no gradient from the loss of a task.
    """
    fresh = type(model)(copy.deepcopy(model.config))
    if isinstance(model.config, LwmSpectroMoEConfig):
        fresh.base_model.router.load_state_dict(model.base_model.router.state_dict())
    return fresh


def build_classifier(
    pretrained: LwmSpectroPreTrainedModel, task: str, labels: Sequence[str], head: str | None = None
) -> LwmSpectroPreTrainedModel:
    """Build a classifier with a new head that shares the encoder of a model for pretraining.

    Args:
        pretrained ([`LwmSpectroForPreTraining`] or [`LwmSpectroMoEForPreTraining`]): Its encoder is used, not copied.
        task (`str`): Name of what is predicted, `config.task_name`.
        labels (`Sequence[str]`): Names of the classes, `config.id2label`.
        head (`str`, *optional*): `"residual_cnn"` (eq. 20) or `"linear"`; as in the checkpoint by default.

    Returns:
        [`LwmSpectroForSequenceClassification`] or [`LwmSpectroMoEForSequenceClassification`], with this head alone.
    """
    config = copy.deepcopy(pretrained.config)
    if isinstance(config, LwmSpectroMoEConfig):
        config.additional_tasks, config.blind_tasks = {}, None
    if head is not None:
        config.encoder_config.classifier_type = head
    config.task_name = task
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    model = AUTO_CLASSES[type(config)][AutoModelForSequenceClassification](config)
    setattr(model, model.base_model_prefix, pretrained.base_model)
    return model


def add_lora(model: LwmSpectroPreTrainedModel, rank: int = 8) -> nn.Module:
    """Add low-rank adapters to the query and value projections of the encoder; only they and the head are trained.

    Args:
        model ([`LwmSpectroPreTrainedModel`]): A classifier; it is changed in place.
        rank (`int`, *optional*, defaults to 8): Rank of the adapters.

    Returns:
        `peft.PeftModel`, whose `merge_and_unload` returns the classifier with merged adapters.
    """
    peft = require("peft", "train")
    targets = r"(?!.*\.router\.).*\.(q_proj|v_proj)"
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=["classifier"])
    return peft.get_peft_model(model, lora)


def batch_normalizations(network: nn.Module) -> list[nn.Module]:
    """Batch normalizations, whose pretrained statistics should be kept: a few shots cannot estimate better ones."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


class EmbeddingClassifier(nn.Module):
    """The head of a classifier, applied to precomputed embeddings.

    Args:
        model ([`LwmSpectroPreTrainedModel`]): A classifier; its head is used, not copied.
    """

    def __init__(self, model: LwmSpectroPreTrainedModel):
        super().__init__()
        self.classifier = model.classifier

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> SequenceClassifierOutput:
        logits = self.classifier(embeddings)
        return SequenceClassifierOutput(loss=F.cross_entropy(logits.float(), labels), logits=logits)


class JointClassifier(nn.Module):
    """Eq. 22 with a head: cross-entropy, masked reconstruction (eq. 17) and contrast of the same labels (eq. 19).

    The cross-entropy is computed on whole spectrograms; the other two, on masked ones, are added in training only.

    Args:
        model ([`LwmSpectroPreTrainedModel`]): A classifier from [`build_classifier`].
        pretrained ([`LwmSpectroPreTrainedModel`]): The model for pretraining that it shares its encoder with.
        reconstruction_weight (`float`): Weight of eq. 17.
        contrastive_weight (`float`): Weight of eq. 19.
    """

    def __init__(
        self,
        model: LwmSpectroPreTrainedModel,
        pretrained: LwmSpectroPreTrainedModel,
        reconstruction_weight: float,
        contrastive_weight: float,
    ):
        super().__init__()
        self.pretrained, self.classifier = pretrained, model.classifier
        self.reconstruction_weight, self.contrastive_weight = reconstruction_weight, contrastive_weight

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor,
        resolution: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        outputs = self.pretrained.base_model(input_values, resolution=resolution, return_dict=True)
        logits = self.classifier(outputs.pooler_output)
        loss = F.cross_entropy(logits.float(), labels)
        if self.training:
            masked = self.pretrained(input_values, contrastive_labels=labels, resolution=resolution, noise=noise)
            loss = loss + self.reconstruction_weight * masked.reconstruction_loss
            loss = loss + self.contrastive_weight * masked.contrastive_loss
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @property
    def num_patches(self) -> int:
        """`int`: Patches of a spectrogram."""
        return self.pretrained.config.encoder_config.num_patches


class Embeddings(Dataset):
    """Embeddings of all rows by a frozen encoder, computed once, in evaluation mode.

    Args:
        model ([`LwmSpectroPreTrainedModel`]): A classifier, on its device.
        rows ([`~lwm_spectro_hf.data.labelled.LabelledSpectrograms`]): Rows to embed.
        batch_size (`int`): Rows that go through the encoder together.
        name (`str`): Name of the rows, for the progress bar.
    """

    def __init__(self, model: LwmSpectroPreTrainedModel, rows: LabelledSpectrograms, batch_size: int, name: str):
        loader = DataLoader(rows, batch_size=batch_size, collate_fn=as_is)
        model.eval()
        with torch.no_grad():
            parts = []
            for batch in tqdm(loader, desc=f"embeddings for {name}", leave=False):
                inputs = {key: values.to(model.device) for key, values in batch.items() if key != "labels"}
                parts.append(model.base_model(**inputs, return_dict=True).pooler_output.cpu())
        self.embeddings, self.labels = torch.cat(parts), rows.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        return {"embeddings": self.embeddings[places], "labels": self.labels[places]}


class TimeLimit(TrainerCallback):
    """Ends training when its time is over, after a last evaluation on the validation rows.

    Args:
        minutes (`float`): Time for training [min].
    """

    def __init__(self, minutes: float):
        self.minutes = minutes

    def on_train_begin(self, args, state, control, **kwargs):
        self.deadline = Deadline(self.minutes)

    def on_step_end(self, args, state, control, **kwargs):
        # The first process reads the clock for all.
        if float(broadcast(torch.tensor(self.deadline.left_s(), device=args.device, dtype=torch.float32))) < 0:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"


def use_one_device(arguments: TrainingArguments) -> None:
    """Keep `Trainer` from using all GPUs that a process sees, each with a batch of the full size.

    To use several GPUs, start the script with `accelerate launch`, which runs one process per GPU.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)


class CheckedTrainer(Trainer):
    """`Trainer` that stops with an error as soon as the training loss is not finite.

    Raises:
        DivergedError: If the loss of a training step is not finite.
    """

    _drawn = (-1, 0)  # the last step, and part of it, that `part_generator` was called for

    def part_generator(self) -> torch.Generator:
        """Random generator of this process, on the CPU, for the next part of the step (gradient accumulation).

        It is seeded by the numbers of step and part, so that a resumed run draws the same.
        """
        step, part = self._drawn
        self._drawn = (self.state.global_step, part + 1 if step == self.state.global_step else 0)
        seed = stable_seed("views", self.args.seed, *self._drawn, self.args.process_index)
        return torch.Generator().manual_seed(seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        outputs = model(**inputs)
        if model.training and not outputs.loss.isfinite().all():
            raise DivergedError(
                f"The loss became {float(outputs.loss.detach().mean())} at step {self.state.global_step} of "
                f"{self.state.max_steps} (epoch {self.state.epoch:.2f}, learning rate "
                f"{self._get_learning_rate():.2e}), on spectrograms that are finite. Lower the learning rate; what "
                f"was last saved is in {self.args.output_dir}."
            )
        return (outputs.loss, {"loss": outputs.loss, "logits": outputs.logits}) if return_outputs else outputs.loss


class FineTuner(CheckedTrainer):
    """`Trainer` with AdamW as in table I, and separate learning rates for the head and for everything else.

    Args:
        encoder_learning_rate (`float`): For all but the head; `args.learning_rate` is the head's.
        augmented (`bool`, *optional*, defaults to `False`): Train on views by [`augment`].
        pretrained (`bool`, *optional*, defaults to `False`): Keep the statistics of batch normalizations.
    """

    def __init__(
        self,
        *args: Any,
        encoder_learning_rate: float,
        augmented: bool = False,
        pretrained: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.encoder_learning_rate, self.augmented = encoder_learning_rate, augmented
        # No loss reaches the router, and several processes would wait for its gradients.
        for name, part in self.model.named_modules():
            if name.endswith("lwm_spectro_moe.router"):
                part.requires_grad_(False)
        self._held = batch_normalizations(self.model) if pretrained else []

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(("classifier" in name.split("."), parameter.ndim >= 2), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate if in_head else self.encoder_learning_rate,
                        "weight_decay": self.args.weight_decay if is_matrix else 0.0,
                    }
                    for (in_head, is_matrix), parameters in groups.items()
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
            )
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for module in self._held:
            module.eval()
        joint = isinstance(self.model, JointClassifier)
        if model.training and (self.augmented or joint):
            values, generator, drawn = inputs["input_values"], self.part_generator(), {}
            if self.augmented:
                noise = torch.rand(len(values), 2, generator=generator)
                drawn["input_values"] = augment(values, noise.to(values.device))
            if joint:  # by process: the model itself would draw the same masks in all of them
                noise = torch.rand(len(values), self.model.num_patches, generator=generator)
                drawn["noise"] = noise.to(values.device)
            inputs = {**inputs, **drawn}
        return super().compute_loss(model, inputs, return_outputs, **kwargs)

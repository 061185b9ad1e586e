"""Networks that the benchmark trains on one budget: LWM-Spectro in three ways, plain CNNs, ImageNet architectures."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    get_cosine_schedule_with_warmup,
)

from ..configuration_lwm_spectro import LwmSpectroConfig
from ..data.recipe import stable_seed
from ..modeling_lwm_spectro import LwmSpectroForSequenceClassification
from ..modeling_lwm_spectro_moe import LwmSpectroMoEForSequenceClassification
from ..training.augmentation import augment
from ..training.fine_tuning import add_lora, batch_normalizations
from .embeddings import embed
from .features import Checkpoint
from .probe import fit_head

IMAGENET = {
    "resnet-18": ResNetForImageClassification,
    "efficientnet-b0": EfficientNetForImageClassification,
    "mobilenet-v2": MobileNetV2ForImageClassification,
}
_PREDICT_BATCH = 64


@dataclass(frozen=True)
class Budget:
    """The training budget of every model; AdamW's weight decay is the paper's.

    Attributes:
        steps (`int`): Of the optimizer; warm-up over the first tenth, then a cosine to zero.
        fitted_steps (`int`, *optional*): Steps of models that start with a fitted head; `steps` by default.
        batch_size (`int`): Rows per step.
        learning_rates (`tuple[float, ...]`): One, or several to choose from: by validation on a fifth of the training
            shots, at least one of each class; the chosen rate is then used to train on all of them.
        pretrained_share (`float`): Factor on the rate, for parameters that are pretrained or fitted.
        weight_decay (`float`): Of AdamW.
        mixed_precision (`str`): "no", or "bf16" with `torch.autocast`.
    """

    steps: int
    fitted_steps: int | None = None
    batch_size: int = 32
    learning_rates: tuple[float, ...] = (1e-3,)
    pretrained_share: float = 0.1
    weight_decay: float = 5e-4
    mixed_precision: str = "no"


class TrainedNetwork:
    """A network as a baseline of the benchmark, see [`~evaluation.baselines.Baseline`].

    Args:
        make (`Callable`): Makes a new network; its random weights come from torch's global seed, which is set before.
        budget ([`Budget`]): Of training.
        seed (`int`): Of weights and batches.
        is_spectrogram (`bool`): Whether inputs are spectrograms, which training augments; else they are embeddings.
        slow (`str`, *optional*): Prefix of the names of parameters that train at `pretrained_share` of the rate.
        start (`Callable`, *optional*): Makes the network to train from the new network, inputs and labels.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where it is trained.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        budget: Budget,
        seed: int,
        is_spectrogram: bool,
        slow: str | None = None,
        start: Callable[[nn.Module, torch.Tensor, torch.Tensor], nn.Module] | None = None,
        device: str | torch.device = "cpu",
    ):
        self.make, self.budget, self.seed = make, budget, seed
        self.is_spectrogram, self.slow, self.start, self.device = is_spectrogram, slow, start, torch.device(device)
        self.network: nn.Module | None = None
        self.learning_rate = budget.learning_rates[0]

    @property
    def num_parameters(self) -> int:
        """Weights of the network, frozen ones included."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def fit(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Train a new network; if the budget has several learning rates, they are tried first."""
        if len(self.budget.learning_rates) > 1:
            kept = _held_out(labels)
            losses = {}
            for rate in self.budget.learning_rates:
                self._train(inputs[~kept], labels[~kept], rate)
                losses[rate] = float(F.cross_entropy(self.predict(inputs[kept]), labels[kept]))
            self.learning_rate = min(losses, key=losses.__getitem__)
        self._train(inputs, labels, self.learning_rate)

    @torch.inference_mode()
    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(num, num_classes)`, on the CPU."""
        self.network.eval()
        parts = inputs.split(_PREDICT_BATCH)
        values = (part.to(self.device, torch.float32, memory_format=_layout(part)) for part in parts)
        return torch.cat([_logits(self.network(part)).float().cpu() for part in values])

    def _train(self, inputs: torch.Tensor, labels: torch.Tensor, learning_rate: float) -> None:
        budget = self.budget
        steps = budget.fitted_steps if self.start and budget.fitted_steps is not None else budget.steps
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(stable_seed("weights", self.seed) % 2**31)
            # Channels last makes convolutions on a CPU up to twice as fast.
            self.network = self.make().to(self.device, memory_format=torch.channels_last)
            if self.start:
                self.network = self.start(self.network, inputs, labels)
            self.network.train()
            for module in batch_normalizations(self.network) if self.slow is not None or self.start else ():
                module.eval()
            optimizer = torch.optim.AdamW(
                list(self._groups(learning_rate)), learning_rate, weight_decay=budget.weight_decay
            )
            schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
            generator = torch.Generator().manual_seed(stable_seed("batches", self.seed) % 2**31)
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for rows in _shuffled(len(labels), steps, budget.batch_size, generator):
                values = inputs[rows].to(self.device).float()
                if self.is_spectrogram:
                    values = augment(values, torch.rand(len(rows), 2, generator=generator).to(self.device))
                with torch.autocast(self.device.type, torch.bfloat16, enabled=budget.mixed_precision == "bf16"):
                    logits = _logits(self.network(values.contiguous(memory_format=_layout(values))))
                loss = F.cross_entropy(logits.float(), labels[rows].to(self.device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()

    def _groups(self, learning_rate: float) -> Iterator[dict]:
        named = [(name, value) for name, value in self.network.named_parameters() if value.requires_grad]
        for is_slow, share in ((False, 1.0), (True, self.budget.pretrained_share)):
            chosen = [
                value for name, value in named if (self.slow is not None and name.startswith(self.slow)) == is_slow
            ]
            if chosen:
                yield {"params": chosen, "lr": learning_rate * share}


def _layout(values: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if values.ndim == 4 else torch.contiguous_format


def _logits(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits


def _shuffled(num: int, steps: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Full batches of row numbers, epoch after epoch."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(num, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]


def _held_out(labels: torch.Tensor) -> torch.Tensor:
    """Mask of the rows held out to choose the learning rate: a fifth of each class, one at least.

    Raises:
        ValueError: If a class has only one row, so that none is left to train on.
    """
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < 2:
            raise ValueError("One row per class is too few to choose a learning rate; give one rate, or more rows.")
        kept[rows[: max(1, len(rows) // 5)]] = True
    return kept


def finetuned(checkpoint: Checkpoint, num_classes: int, expert: str | None = None) -> PreTrainedModel:
    """The checkpoint, or one of its experts, with a new linear head; a mixture routes top-1 with a frozen router."""
    pretrained = checkpoint.expert(expert) if expert else checkpoint.model
    config = copy.deepcopy(pretrained.config)
    config.num_labels = num_classes
    if isinstance(config, LwmSpectroConfig):
        config.classifier_type = "linear"
        model = LwmSpectroForSequenceClassification(config)
    else:
        config.additional_tasks, config.num_experts_per_sample = {}, 1
        config.expert_config.classifier_type = "linear"
        model = LwmSpectroMoEForSequenceClassification(config)
        model.base_model.router.requires_grad_(False)
    model.base_model.load_state_dict(pretrained.state_dict())
    return model


def probed(model: PreTrainedModel, input_values: torch.Tensor, labels: torch.Tensor) -> PreTrainedModel:
    """The same model with a head from a logistic regression on its embeddings of the shots."""
    fit_head(model.classifier, torch.from_numpy(embed(model.base_model, input_values)), labels)
    return model


def with_lora(model: PreTrainedModel, input_values: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """As [`probed`], with adapters of rank eight on queries and values; all else but the head is frozen."""
    return add_lora(probed(model, input_values, labels))


def from_scratch(checkpoint: Checkpoint, num_classes: int) -> PreTrainedModel:
    """One encoder of the checkpoint's architecture and a head, with random weights: shows the gain by pretraining."""
    config = copy.deepcopy(checkpoint.encoder_config)
    config.num_labels = num_classes
    return LwmSpectroForSequenceClassification(config)


def head(checkpoint: Checkpoint, num_classes: int) -> nn.Module:
    """The residual CNN of eq. 20 over an embedding; its weights are initialized as in a whole model."""
    config = copy.deepcopy(checkpoint.encoder_config)
    config.num_labels, config.classifier_type = num_classes, "residual_cnn"
    return LwmSpectroForSequenceClassification(config).classifier


class KojimaCNN(nn.Sequential):
    """In the spirit of the paper's reference 6, "CNN-Based Joint SNR and Doppler Shift Classification Using
    Spectrogram Images" (Kojima et al., 2021): convolutions with pooling, and dense layers.

    The texts of both papers, as available here, give no layer sizes. These are four stages of 3 x 3 convolutions with
    batch normalization, and two dense layers with dropout.
    """

    def __init__(self, num_channels: int, num_classes: int):
        widths = (num_channels, 16, 32, 64, 128)
        stages = [
            layer
            for before, after in zip(widths, widths[1:], strict=False)
            for layer in (
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
        ]
        dense = [
            nn.Flatten(),
            nn.Linear(16 * widths[-1], 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, num_classes),
        ]
        super().__init__(*stages, nn.AdaptiveAvgPool2d(4), *dense)


class WuCNN(nn.Sequential):
    """In the spirit of the paper's reference 7, "Radio Modulation Classification Using STFT Spectrogram and CNN" (Wu
    et al., 2021): few, wide convolutions.

    Its layer sizes are not known. These are three convolutions of size 7, 5 and 3 with stride and pooling, and one
    dense layer.
    """

    def __init__(self, num_channels: int, num_classes: int):
        super().__init__(
            nn.Conv2d(num_channels, 32, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(16 * 128, num_classes),
        )


class ThreeChannels(nn.Module):
    """Feeds spectrograms of one or two channels to a network that takes three, the colors of ImageNet."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        channels = input_values[:, torch.arange(3) % input_values.shape[1]]
        return self.network(channels).logits


def imagenet(name: str, num_channels: int, num_freq_bins: int, num_classes: int, folder: Path | None) -> nn.Module:
    """ResNet-18, EfficientNet-B0 or MobileNet-V2 (Transformers has no V3), with a new head.

    Args:
        name (`str`): One of `IMAGENET`.
        num_channels (`int`): Of the spectrograms.
        num_freq_bins (`int`): Of the spectrograms.
        num_classes (`int`): Of the task.
        folder (`Path` or `None`): Holds a folder of that name with weights as `from_pretrained` reads them; `None`
            for random weights.

    Raises:
        FileNotFoundError: If the folder has no such weights.
    """
    if folder is None:
        model = IMAGENET[name](
            _imagenet_config(name, num_freq_bins, num_channels=num_channels, num_labels=num_classes)
        )
    elif (folder / name / "config.json").is_file():
        model = IMAGENET[name].from_pretrained(
            folder / name, num_labels=num_classes, ignore_mismatched_sizes=True, local_files_only=True
        )
    else:
        raise FileNotFoundError(
            f"{folder / name} holds no weights; expected config.json and model.safetensors there, as "
            "`save_pretrained` writes them. To do without ImageNet weights, leave out the option."
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Two of the three have 0.99, which is TensorFlow's 0.01; in PyTorch, only the last batch would count.
            module.momentum = 0.1
    return ThreeChannels(model) if folder else model


def _imagenet_config(name: str, num_freq_bins: int, **fields) -> PreTrainedConfig:
    if name == "resnet-18":
        sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        return ResNetConfig(layer_type="basic", **sizes, **fields)
    if name == "efficientnet-b0":
        scale = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "dropout_rate": 0.2}
        return EfficientNetConfig(image_size=num_freq_bins, **scale, **fields)
    return MobileNetV2Config(image_size=num_freq_bins, **fields)

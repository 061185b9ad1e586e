"""The training loop of every stage: it can be stopped and resumed at any time, on any number of processes.

Progress is counted in samples, so that an endless stream has epochs, too. A step depends only on its number, the
weights and the moments of the optimizer: a resumed run continues as if it had never been stopped.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..data.recipe import stable_seed
from .augmentation import augment
from .batches import Batches
from .masks import mask_noise
from .state import StateError, check_same, load_state, save_state
from .throughput import peak_flops

_MOMENTS = ("exp_avg", "exp_avg_sq")
_WARM_UP_STEPS = 3  # not timed: they compile and fill caches
_LOOK_S = 5.0  # longest time between reads of loss and clock, unless a single step takes longer [s]


class DivergedError(ArithmeticError):
    """A loss or gradient is not finite, so that training cannot continue from these weights."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything the loss curve depends on besides model and data. Defaults follow table I where it gives values.

    Attributes:
        seed: Seed of masks, augmentation and dropout.
        batch_size: Samples per optimizer step, over all processes.
        gradient_accumulation: Parts that each step is split into; a loss that compares rows sees one part at a time.
        learning_rate: Peak learning rate.
        final_learning_rate: Learning rate at the end of the cosine.
        weight_decay: Not applied to vectors (biases, norms, tokens).
        betas: Betas of AdamW.
        warmup_epochs: Epochs of linear warm-up.
        max_epochs: Epochs until the cosine ends, warm-up included.
        epoch_samples: Samples per epoch.
        patience: Epochs without a better validation loss before training stops early; for the schedule "samples".
        max_grad_norm: Gradients are clipped to this norm; 0 for no clipping.
        schedule: "samples" as in the paper, or "minutes", which spreads warm-up and cosine over the minutes of a run;
            a resumed run then starts a new warm-up and cosine.
        augment: Start spectrograms at a random frame, and mirror half of them in frequency.
    """

    seed: int = 0
    batch_size: int = 256
    gradient_accumulation: int = 1
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-8
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_epochs: float = 5
    max_epochs: float = 100
    epoch_samples: int = 30_000
    patience: int = 10
    max_grad_norm: float = 1.0
    schedule: str = "samples"
    augment: bool = False

    def __post_init__(self):
        for name in (
            "batch_size",
            "gradient_accumulation",
            "learning_rate",
            "max_epochs",
            "epoch_samples",
            "patience",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0.")
        if not self.max_grad_norm >= 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; expected more than 0, or 0 for no limit.")
        if not 0 <= self.warmup_epochs < self.max_epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; expected at least 0 and less than max_epochs, which is "
                f"{self.max_epochs}."
            )
        if self.schedule not in ("samples", "minutes"):
            raise ValueError(f"schedule is {self.schedule!r}; expected 'samples' or 'minutes'.")

    @property
    def max_samples(self) -> int:
        """`int`: Samples in the whole schedule."""
        return round(self.max_epochs * self.epoch_samples)

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate at `progress`, from 0 to 1, of the schedule: linear warm-up, then a cosine."""
        warmup = self.warmup_epochs / self.max_epochs
        if progress < warmup:
            return self.learning_rate * progress / warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


class Deadline:
    """Time limit of a run.

    Args:
        minutes (`float`, *optional*): Length of the run; unlimited by default [min].
        start (`float`, *optional*): When the run began, as `time.monotonic` counts; now by default [s].
    """

    def __init__(self, minutes: float | None = None, start: float | None = None):
        self.start = time.monotonic() if start is None else start
        self.length_s = math.inf if minutes is None else 60 * minutes
        self.reserve_s = 0.0  # kept free for what follows training

    def left_s(self) -> float:
        return self.start + self.length_s - self.reserve_s - time.monotonic()


class _Clock:
    """What a run decides by time. Only the main process's readings count.

    Args:
        deadline ([`Deadline`]): Time limit of the run.
        save_minutes (`float`): Time between two saves [min].
    """

    def __init__(self, deadline: Deadline, save_minutes: float):
        self.deadline, self.save_s = deadline, 60 * save_minutes
        self.last_save = time.monotonic()
        self.slowest = 0.0  # longest time from one look at the loss to the next [s]
        self.start()

    def start(self) -> None:
        """Begin to count the minutes of the schedule."""
        self.begin, self.available = time.monotonic(), max(self.deadline.left_s(), 1e-3)

    def reading(self, expected_s: float) -> list[float]:
        """Whether the next steps, which take this long or as the slowest, might not finish in time; whether to save;
        and the share of the minutes that is over."""
        now = time.monotonic()
        out_of_time = self.deadline.left_s() < max(self.slowest, expected_s)
        share = min(1.0, (now - self.begin) / self.available)
        return [float(out_of_time), float(now - self.last_save > self.save_s), share]


@dataclass
class Progress:
    """Progress of a run, saved with its state.

    Attributes:
        step: Optimizer steps taken.
        samples: Spectrograms seen, over all processes.
        best: Lowest validation loss, including those measured in the middle of an epoch.
        best_epoch: Lowest validation loss at the end of an epoch. Early stopping uses this one, so that it does not
            depend on where earlier runs ended.
        stale_epochs: Epochs since `best_epoch` improved.
    """

    step: int = 0
    samples: int = 0
    best: float | None = None
    best_epoch: float | None = None
    stale_epochs: int = 0


@dataclass
class Speed:
    """Sums over the steps of this run, except the first few, which compile and fill caches."""

    samples: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0


def synchronize_normalizations(module: nn.Module) -> None:
    """Make batch normalizations use the statistics of all processes.

    Subclasses, such as the normalization of level histograms, are left as they are.

    Args:
        module (`nn.Module`): Module whose batch normalizations are replaced in place.
    """
    for name, part in module.named_children():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
        else:
            synchronize_normalizations(part)


class TrainingLoop:
    """Trains a module in place, on all processes that `accelerate launch` started.

    Each training stage is a subclass whose `losses` defines what a step minimizes.

    Args:
        model (`nn.Module`): Module to train, on any device; its frozen parameters are not trained.
        config (`PreTrainedConfig`): Configuration of the model; a saved state with another one is refused.
        batches ([`Batches`]): Batches of this process, `batch_size / (processes * gradient_accumulation)` rows each.
        settings ([`TrainingSettings`]): Settings that the loss curve depends on.
        accelerator (`Accelerator`): Accelerator of this process.
        state_folder (`str` or `os.PathLike`): Folder of the saved state; training resumes from it if there is one.
        data (`dict`): Description of the data; a saved state with another one is refused.
        validation (`Sequence[dict[str, torch.Tensor]]`, *optional*): Batches that training does not see.
        flops (`int`, *optional*): Floating-point operations of a training step per sample, to compare with the peak.
        compile (`bool`, *optional*, defaults to `False`): Compile the model with `torch.compile`.
        max_file_mib (`float`, *optional*, defaults to 15.0): Maximum size of a file of the state [MiB].
        log (`Callable`, *optional*): Called with a dictionary of numbers whenever the loss is read.
        improved (`Callable`, *optional*): Called on the main process whenever the validation loss is a new minimum.
        log_every (`int`, *optional*, defaults to 10): Maximum number of steps between two reads of the loss, each of
            which waits for the device. The loss is read more often if steps are slow, and at the end of each epoch.

    Raises:
        StateError: If the state in the folder is damaged, or is of another model, data or settings.
    """

    stage = "training"

    def __init__(
        self,
        model: nn.Module,
        config: PreTrainedConfig,
        batches: Batches,
        settings: TrainingSettings,
        accelerator: Accelerator,
        state_folder: str | os.PathLike,
        data: dict[str, Any],
        validation: Sequence[dict[str, torch.Tensor]] = (),
        flops: int | None = None,
        compile: bool = False,
        max_file_mib: float = 15.0,
        log: Callable[[dict[str, float]], None] | None = None,
        improved: Callable[[], None] | None = None,
        log_every: int = 10,
    ):
        supported = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
        if accelerator.distributed_type not in supported or accelerator.mixed_precision not in ("no", "bf16"):
            raise ValueError(
                f"Accelerate is configured for {accelerator.distributed_type} and mixed precision "
                f"{accelerator.mixed_precision!r}; expected one or more processes that each hold the whole model, and "
                "'no' or 'bf16'."
            )
        self.model, self.config = model, config
        self.batches, self.settings, self.accelerator = batches, settings, accelerator
        self.state_folder, self.data, self.validation = state_folder, data, validation
        self.max_file_mib, self.log, self.improved, self.log_every = max_file_mib, log, improved, log_every
        self.stop_requested = False
        self.progress, self.speed = Progress(), Speed()
        self._parameters = {name: part for name, part in model.named_parameters() if part.requires_grad}
        self._has_dropout = any(
            getattr(part, "attention_dropout", 0.0) > 0 or (isinstance(part, nn.Dropout) and part.p > 0)
            for part in model.modules()
        )
        state = load_state(state_folder)
        if state is not None:
            self._check(state[1])
            self._load_weights(state[0])
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            # Batch normalization sees the rows of all processes, as in a single one; PyTorch has this on GPUs only.
            synchronize_normalizations(model)
        if compile:
            model.compile()
        self.network = accelerator.prepare_model(model)
        groups = [
            {"params": [p for p in self._parameters.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in self._parameters.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        on_gpu = accelerator.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=on_gpu)
        if state is not None:
            self._load_moments(*state)
        steps = accelerator.gather(torch.tensor([self.progress.step], device=accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise StateError(
                f"The processes resume from different steps, {min(steps)} to {max(steps)}: {state_folder} must be the "
                "same folder for all of them."
            )
        peak = peak_flops(accelerator.device)
        self._peak_samples_per_s = peak * accelerator.num_processes / flops if peak and flops else None

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss that a step minimizes.

        Args:
            network (`Callable`): The model, possibly wrapped for several processes or compiled.
            batch (`dict[str, torch.Tensor]`): Rows of this process.
            alone (`bool`, *optional*, defaults to `False`): Use the rows of this process only, without gathering
                anything from the others.

        Returns:
            `tuple`: The loss to differentiate, and detached scalars for the log, the first of which is "loss".
        """
        raise NotImplementedError

    def run(self, max_samples: int | None = None, deadline: Deadline | None = None, save_minutes: float = 2.0) -> str:
        """Train until the schedule ends, validation stops improving, or one of the limits is reached; then save.

        Args:
            max_samples (`int`, *optional*): Samples to train on in total, earlier runs included.
            deadline ([`Deadline`], *optional*): Time limit of this run.
            save_minutes (`float`, *optional*, defaults to 2.0): Time between two saves [min].

        Returns:
            `str`: Why training stopped.

        Raises:
            DivergedError: If a loss or gradient is not finite; the last saved state is kept.
            ValueError: If the schedule is "minutes" and there is no time limit.
        """
        settings, progress = self.settings, self.progress
        deadline = deadline or Deadline()
        if settings.schedule == "minutes" and not math.isfinite(deadline.length_s):
            raise ValueError("The schedule 'minutes' needs a number of minutes: give one, or schedule 'samples'.")
        limit = settings.max_samples if settings.schedule == "samples" else math.inf
        limit = limit if max_samples is None else min(limit, max_samples)
        clock, first_step, done = _Clock(deadline, save_minutes), progress.step, 0.0
        mark, data_mark = time.monotonic(), self.batches.seconds
        pending: list[torch.Tensor] = []
        until_look = 1
        bar = tqdm(
            total=limit if math.isfinite(limit) else None,
            initial=progress.samples,
            desc=self.stage,
            unit="spec",
            disable=not self.accelerator.is_main_process,
        )
        self.network.train()
        while (reason := self._why_over(limit)) is None:
            share = (progress.samples + settings.batch_size) / settings.max_samples
            rate = settings.learning_rate_at(done if settings.schedule == "minutes" else share)
            pending.append(self._step(rate))
            epoch = progress.samples // settings.epoch_samples
            progress.step += 1
            progress.samples += settings.batch_size
            bar.update(settings.batch_size)
            epoch_ends = progress.samples // settings.epoch_samples > epoch
            last = progress.samples >= limit
            if len(pending) < until_look and not epoch_ends and not last:
                continue

            means = self._check_finite(pending, rate)
            window, window_data = time.monotonic() - mark, self.batches.seconds - data_mark
            samples = settings.batch_size * len(pending)
            if progress.step - first_step > _WARM_UP_STEPS:
                self.speed.samples += samples
                self.speed.seconds += window
                self.speed.data_seconds += window_data
                clock.slowest = max(clock.slowest, window)
            steps = min(self.log_every, max(1, int(_LOOK_S * len(pending) / window)))
            entry = {"step": progress.step, "samples": progress.samples, **means, "learning_rate": rate}
            entry |= {"epoch": progress.samples / settings.epoch_samples, **self.figures(samples, window, window_data)}
            pending = []
            if epoch_ends or last:
                entry |= self._validate(epoch_ends)
            bar.set_postfix(loss=f"{entry['loss']:.3f}", refresh=False)
            if self.log is not None:
                self.log(entry)
            is_first = progress.step - first_step == 1
            if is_first:  # the first step compiles and fills caches: the schedule over minutes starts after it
                clock.start()
            # How long steps take is known from the second one on.
            decision = [float(steps), float(self.stop_requested), *clock.reading(0.0 if is_first else window)]
            until_look, stop, out_of_time, save, done = self._agreed(decision)
            if out_of_time or stop:
                reason = "minutes over" if out_of_time else "asked to stop"
                break
            if save:
                self.save()
                clock.last_save = time.monotonic()
            mark, data_mark = time.monotonic(), self.batches.seconds
        bar.close()
        self.network.eval()
        self.save()
        return reason

    def _why_over(self, limit: float) -> str | None:
        """Why training ends before the next step, apart from the clock; `None` if it goes on."""
        if self.progress.samples >= limit:
            return "all samples seen"
        if self.settings.schedule == "samples" and self.progress.stale_epochs >= self.settings.patience:
            return f"no better validation loss in {self.settings.patience} epochs"
        return None

    def figures(self, samples: int, seconds: float, data_seconds: float) -> dict[str, float]:
        """Speed figures for the log: samples per second, share of time spent on data, share of the peak FLOPS."""
        if seconds <= 0:
            return {}
        figures = {"samples_per_s": samples / seconds, "data_share": data_seconds / seconds}
        if self._peak_samples_per_s:
            figures["peak_share"] = samples / seconds / self._peak_samples_per_s
        return figures

    def _weights(self) -> dict[str, torch.Tensor]:
        """The model's tensors by name, each once: a mixture's classifier and pretraining model share its experts."""
        state = self.model.state_dict()
        names = {part.data_ptr() if part.numel() else name: name for name, part in state.items()}
        return {name: state[name] for name in names.values()}

    def save(self) -> None:
        """Save the state; only the main process does."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"weights.{name}": part for name, part in self._weights().items()}
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                if parameter in self.optimizer.state:
                    tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        record = {"progress": asdict(self.progress), "settings": asdict(self.settings), "data": self.data}
        record["config"] = self._config()
        save_state(self.state_folder, tensors, record, self.max_file_mib)

    def evaluate(self, batches: Sequence[dict[str, torch.Tensor]]) -> float:
        """Mean loss of batches, without training."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            # `forward` itself: calling a compiled model here would compile it again.
            losses = [self.losses(self.model.forward, batch, alone=True)[1]["loss"] for batch in batches]
        self.model.train(training)
        return float(torch.stack(losses).mean())

    def _values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Spectrograms of a batch, augmented in training, in the same way on any number of processes."""
        values = batch["input_values"]
        if not (self.settings.augment and self.model.training):
            return values
        return augment(values, mask_noise(batch["index"], 2, self.settings.seed + 1))

    def _step(self, rate: float) -> torch.Tensor:
        """Take one optimizer step; return its losses and gradient norm, still on the device."""
        parts = self.settings.gradient_accumulation
        if self._has_dropout:
            torch.manual_seed(
                stable_seed("dropout", self.settings.seed, self.progress.step, self.accelerator.process_index)
            )
        totals = []
        for part in range(parts):
            batch = self.batches.at(self.progress.step * parts + part)
            if part < parts - 1:
                with self.accelerator.no_sync(self.network):
                    loss, values = self.losses(self.network, batch)
                    (loss / parts).backward()
            else:
                loss, values = self.losses(self.network, batch)
                (loss / parts).backward()
            totals.append(torch.stack([value.float() for value in values.values()]))
            self._names = [*values, "grad_norm"]
        limit = self.settings.max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(list(self._parameters.values()), limit)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat([torch.stack(totals).mean(0), norm.detach().float()[None]])

    def _check_finite(self, pending: list[torch.Tensor], rate: float) -> dict[str, float]:
        """Average the losses and gradient norms of the latest steps over all processes.

        Raises:
            DivergedError: If one of them is not finite.
        """
        values = self.accelerator.reduce(torch.stack(pending), reduction="mean").cpu()
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            step = self.progress.step - len(pending) + row
            raise DivergedError(
                f"{self._names[column]} became {float(values[row, column])} at step {step}, after "
                f"{step * self.settings.batch_size} samples, at a learning rate of {rate:.2e}. Lower the learning "
                f"rate or lengthen the warm-up; the last good state, if one was saved, is in {self.state_folder}."
            )
        return dict(zip(self._names, values.mean(0).tolist(), strict=True))

    def _validate(self, epoch_ends: bool) -> dict[str, float]:
        if not self.validation:
            return {}
        loss = self._agreed([self.evaluate(self.validation)])[0]
        progress = self.progress
        if not math.isfinite(loss):
            raise DivergedError(
                f"The validation loss became {loss} at step {progress.step}, while the training loss was finite. "
                f"Lower the learning rate; the last good state, if one was saved, is in {self.state_folder}."
            )
        if progress.best is None or loss < progress.best:
            progress.best = loss
            if self.improved is not None and self.accelerator.is_main_process:
                self.improved()
        if epoch_ends:
            better = progress.best_epoch is None or loss < progress.best_epoch
            progress.best_epoch = loss if better else progress.best_epoch
            progress.stale_epochs = 0 if better else progress.stale_epochs + 1
        return {"validation_loss": loss}

    def _agreed(self, values: list[float]) -> list[float]:
        """The values of the main process, on every process."""
        if self.accelerator.num_processes == 1:
            return values
        return broadcast(torch.tensor(values, device=self.accelerator.device, dtype=torch.float32)).tolist()

    def _config(self) -> dict[str, Any]:
        skipped = ("transformers_version", "dtype", "architectures")
        return {name: value for name, value in self.config.to_dict().items() if name not in skipped}

    def _check(self, record: dict[str, Any]) -> None:
        try:
            config, settings, data = record["config"], record["settings"], record["data"]
            self.progress = Progress(**record["progress"])
            if min(self.progress.step, self.progress.samples) < 0:
                raise ValueError("steps and samples cannot be negative")
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"The record in {self.state_folder} is damaged ({error!r}): copy the folder again, or start over in "
                "another one."
            ) from None
        check_same(config, self._config(), "model configuration", self.state_folder)
        check_same(settings, asdict(self.settings), "training setting", self.state_folder)
        check_same(data, self.data, "data", self.state_folder)

    def _load_weights(self, tensors: dict[str, torch.Tensor]) -> None:
        weights = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
        expected = {name: tuple(part.shape) for name, part in self._weights().items()}
        found = {name: tuple(part.shape) for name, part in weights.items()}
        if found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise StateError(
                f"The weights in {self.state_folder} do not fit this model: {differing[0]} has shape "
                f"{found.get(differing[0])} there, {expected.get(differing[0])} here ({len(differing)} differ in "
                "all). They were saved by another version; give another folder to start over."
            )
        self.model.load_state_dict(weights, strict=False)  # shared tensors are saved under one of their names

    def _load_moments(self, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        for name, parameter in self._parameters.items():
            moments = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS if f"{moment}.{name}" in tensors}
            if moments:
                step = torch.tensor(float(record["progress"]["step"]))
                # Fused kernels require moments in the parameter's memory layout.
                moments = {key: torch.empty_like(parameter).copy_(value) for key, value in moments.items()}
                fused = parameter.is_cuda  # the fused optimizer keeps its step count on the device
                self.optimizer.state[parameter] = {"step": step.to(parameter.device) if fused else step, **moments}

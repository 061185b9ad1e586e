"""The loop that every stage of training runs in: counted in samples, stopped and resumed at will, on any processes.

Steps are counted in samples, so that an endless stream has epochs. What a step does depends on its number, on the
weights and on the moments of the optimizer alone: a run that was stopped goes on as if it had not been.
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
_WARM_UP_STEPS = 3  # which compile, and fill caches
_LOOK_S = 5.0  # longest time between looks at loss and clock [s]


class DivergedError(ArithmeticError):
    """The loss is not finite: training cannot go on from these weights."""


@dataclass(frozen=True)
class TrainingSettings:
    """What the loss curve depends on, beside model and data. The defaults are those of table I, where it has any.

    Attributes:
        seed: Of masks, augmentation and dropout.
        batch_size: Samples a step, of all processes.
        gradient_accumulation: Parts that each step is done in; whatever compares rows compares those of a part.
        learning_rate: At its highest.
        final_learning_rate: Where the cosine ends.
        weight_decay: Not applied to vectors (biases, norms, tokens).
        betas: Of AdamW.
        warmup_epochs: Of linear warm-up.
        max_epochs: Where the cosine ends.
        epoch_samples: Samples of an epoch.
        patience: Epochs without a better validation loss before training stops early, by the schedule "samples".
        max_grad_norm: Longer gradients are cut to this norm.
        schedule: "samples" as in the paper, or "minutes": warm-up and cosine are spread over the minutes of a run,
            and a run that goes on has another cosine.
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
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; expected more than 0, or 0 for any gradient.")
        if not 0 <= self.warmup_epochs < self.max_epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; expected at least 0 and less than max_epochs, which is "
                f"{self.max_epochs}."
            )
        if self.schedule not in ("samples", "minutes"):
            raise ValueError(f"schedule is {self.schedule!r}; expected 'samples' or 'minutes'.")

    @property
    def max_samples(self) -> int:
        """`int`: Samples of the whole schedule."""
        return round(self.max_epochs * self.epoch_samples)

    def learning_rate_at(self, progress: float) -> float:
        """The rate when a share `progress`, from 0 to 1, of the schedule is over: linear warm-up, then a cosine."""
        warmup = self.warmup_epochs / self.max_epochs
        if progress < warmup:
            return self.learning_rate * progress / warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


class Deadline:
    """Minutes that are left of a run.

    Args:
        minutes (`float`, *optional*): Length of the run; without end by default [min].
        start (`float`, *optional*): When it began, of `time.monotonic`; now by default [s].
    """

    def __init__(self, minutes: float | None = None, start: float | None = None):
        self.start = time.monotonic() if start is None else start
        self.length_s = math.inf if minutes is None else 60 * minutes
        self.reserve_s = 0.0  # kept for what comes after training

    def left_s(self) -> float:
        return self.start + self.length_s - self.reserve_s - time.monotonic()


@dataclass
class Progress:
    """How far a run has come; saved with its state.

    Attributes:
        step: Steps of the optimizer.
        samples: Spectrograms seen, of all processes.
        best: Lowest validation loss, wherever in an epoch.
        best_epoch: Lowest one at the end of an epoch: where calls end must not decide when training stops early.
        stale_epochs: Epochs since.
    """

    step: int = 0
    samples: int = 0
    best: float | None = None
    best_epoch: float | None = None
    stale_epochs: int = 0


@dataclass
class Speed:
    """Sums over the steps of this run, without the first few, which compile and fill caches."""

    samples: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0


def synchronize_normalizations(module: nn.Module) -> None:
    """Let batch normalizations take the statistics of all processes; kinds of our own, as of levels, do as before.

    Args:
        module (`nn.Module`): Whose parts are exchanged in place.
    """
    for name, part in module.named_children():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
        else:
            synchronize_normalizations(part)


class TrainingLoop:
    """Trains a module in place, on as many processes as `accelerate launch` started.

    A stage of training says in `losses` what a step minimizes.

    Args:
        model (`nn.Module`): What is trained, on its device already or not; what it holds frozen stays as it is.
        config (`PreTrainedConfig`): Of the model; a state of another configuration is refused.
        batches ([`Batches`]): Of this process, `batch_size / (processes * gradient_accumulation)` rows each.
        settings ([`TrainingSettings`]): What the curve depends on.
        accelerator (`Accelerator`): Of this process.
        state_folder (`str` or `os.PathLike`): Where the state is kept; if it is there, training goes on from it.
        data (`dict`): Names the data; a state of other data is refused.
        validation (`Sequence[dict[str, torch.Tensor]]`, *optional*): Batches that training does not see.
        flops (`int`, *optional*): Floating-point operations of a step for one sample, to compare with the peak.
        compile (`bool`, *optional*, defaults to `False`): With `torch.compile`.
        max_file_mib (`float`, *optional*, defaults to 15.0): Of the state [MiB].
        log (`Callable`, *optional*): Takes a dictionary of numbers every `log_every` steps and every epoch.
        improved (`Callable`, *optional*): Called when the validation loss is lower than ever, on the main process.
        log_every (`int`, *optional*, defaults to 10): Most steps between looks at the loss, each of which waits for
            the device. Where steps are slow there are fewer between two.

    Raises:
        StateError: If the state in the folder is damaged, or of another model, data or settings.
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
                f"Accelerate was told {accelerator.distributed_type} and mixed precision "
                f"{accelerator.mixed_precision!r}; expected one or several processes that each hold the model, and "
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
            # Batch normalization sees the rows of all processes, as one process would; on CPUs PyTorch has no such.
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
                f"Processes go on from different steps, {min(steps)} to {max(steps)}: {state_folder} must be one "
                "folder that all of them read."
            )
        peak = peak_flops(accelerator.device)
        self._peak_samples_per_s = peak * accelerator.num_processes / flops if peak and flops else None

    def losses(
        self, network: Callable, batch: dict[str, torch.Tensor], alone: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What a step minimizes.

        Args:
            network (`Callable`): The model, as several processes or the compiler have wrapped it.
            batch (`dict[str, torch.Tensor]`): Rows of this process.
            alone (`bool`, *optional*, defaults to `False`): No other process does the same now.

        Returns:
            `tuple`: The loss to differentiate, and scalars to look at, detached, of which the first is "loss".
        """
        raise NotImplementedError

    def run(self, max_samples: int | None = None, deadline: Deadline | None = None, save_minutes: float = 2.0) -> str:
        """Train until the schedule ends, validation stops improving, or one of the limits is reached; then save.

        Args:
            max_samples (`int`, *optional*): Samples in all, those of earlier runs included.
            deadline ([`Deadline`], *optional*): Of this run.
            save_minutes (`float`, *optional*, defaults to 2.0): Between two saves [min].

        Returns:
            `str`: Why it stopped.

        Raises:
            DivergedError: If a loss or gradient is not finite; the last saved state is left as it was.
        """
        settings, progress = self.settings, self.progress
        deadline = deadline or Deadline()
        if settings.schedule == "minutes" and not math.isfinite(deadline.length_s):
            raise ValueError("The schedule over minutes needs to know how many; give minutes, or schedule 'samples'.")
        limit = settings.max_samples if settings.schedule == "samples" else math.inf
        limit = limit if max_samples is None else min(limit, max_samples)
        begin, available = time.monotonic(), deadline.left_s()
        done, first_step = 0.0, progress.step  # share of the minutes, the same on all processes
        last_save, mark, data_mark = begin, begin, self.batches.seconds
        pending: list[torch.Tensor] = []
        reason, until_look, slowest = None, 1, 0.0
        bar = tqdm(
            total=limit if math.isfinite(limit) else None,
            initial=progress.samples,
            desc=self.stage,
            unit="spec",
            disable=not self.accelerator.is_main_process,
        )
        self.network.train()
        while reason is None:
            if progress.samples >= limit:
                reason = "all samples seen"
            elif settings.schedule == "samples" and progress.stale_epochs >= settings.patience:
                reason = f"no better validation loss in {settings.patience} epochs"
            if reason is not None:
                break
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
            now = time.monotonic()
            window, window_data = now - mark, self.batches.seconds - data_mark
            samples = settings.batch_size * len(pending)
            if progress.step - first_step > _WARM_UP_STEPS:
                self.speed.samples += samples
                self.speed.seconds += window
                self.speed.data_seconds += window_data
                slowest = max(slowest, window)
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
            if is_first:  # it compiles, and fills caches: the schedule begins with the next
                begin, available = time.monotonic(), max(deadline.left_s(), 1e-3)
            # One process looks at the clock for all; more steps must not pass the end. How long one takes is known
            # from the second on.
            expected = 0.0 if is_first else max(slowest, window)
            decision = [
                float(steps),
                float(deadline.left_s() < expected),
                float(time.monotonic() - last_save > 60 * save_minutes),
                float(self.stop_requested),
                min(1.0, (time.monotonic() - begin) / available),
            ]
            until_look, out_of_time, save, stop, done = self._agreed(decision)
            if out_of_time:
                reason = "minutes over"
            elif stop:
                reason = "asked to stop"
            elif save:
                self.save()
                last_save = time.monotonic()
            mark, data_mark = time.monotonic(), self.batches.seconds
        bar.close()
        self.network.eval()
        self.save()
        return reason

    def figures(self, samples: int, seconds: float, data_seconds: float) -> dict[str, float]:
        """Speed as the log has it: samples a second, share of the time for data, share of the arithmetic peak."""
        if seconds <= 0:
            return {}
        figures = {"samples_per_s": samples / seconds, "data_share": data_seconds / seconds}
        if self._peak_samples_per_s:
            figures["peak_share"] = samples / seconds / self._peak_samples_per_s
        return figures

    def _weights(self) -> dict[str, torch.Tensor]:
        """The model's tensors by name, each once: heads and pretraining of a mixture share its experts."""
        state = self.model.state_dict()
        names = {part.data_ptr() if part.numel() else name: name for name, part in state.items()}
        return {name: state[name] for name in names.values()}

    def save(self) -> None:
        """Save the state, on the main process."""
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
            # `forward`, since a compiled call would be compiled again for this.
            losses = [self.losses(self.model.forward, batch, alone=True)[1]["loss"] for batch in batches]
        self.model.train(training)
        return float(torch.stack(losses).mean())

    def _values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Spectrograms of a batch, augmented while training; a sample looks the same on any number of processes."""
        values = batch["input_values"]
        if not (self.settings.augment and self.model.training):
            return values
        return augment(values, mask_noise(batch["index"], 2, self.settings.seed + 1))

    def _step(self, rate: float) -> torch.Tensor:
        """One step of the optimizer; returns its losses and the norm of its gradient, on the device."""
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
        """Means of the losses of some steps over all processes.

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
                f"The validation loss became {loss} at step {progress.step}, where that of training was finite. Lower "
                f"the learning rate; the last good state, if one was saved, is in {self.state_folder}."
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
        """What the main process has."""
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
                raise ValueError("a run begins at step 0")
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"The record in {self.state_folder} is damaged ({error!r}): copy the folder again, or start anew in "
                "another."
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
                f"{found.get(differing[0])} there, {expected.get(differing[0])} here, as {len(differing)} in all. It "
                "was saved by another version; give another folder to start anew."
            )
        self.model.load_state_dict(weights, strict=False)  # parts that have two names are there by one

    def _load_moments(self, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        for name, parameter in self._parameters.items():
            moments = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS if f"{moment}.{name}" in tensors}
            if moments:
                step = torch.tensor(float(record["progress"]["step"]))
                # As they lie in memory, too: fused kernels take moments that lie as the parameter does.
                moments = {key: torch.empty_like(parameter).copy_(value) for key, value in moments.items()}
                fused = parameter.is_cuda  # whose count of steps is on the device
                self.optimizer.state[parameter] = {"step": step.to(parameter.device) if fused else step, **moments}

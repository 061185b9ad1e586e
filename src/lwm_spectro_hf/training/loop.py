"""A training loop that ends after given minutes and goes on where it was stopped."""

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm


class DivergedError(RuntimeError):
    """The loss is not finite: training cannot go on from these weights."""


def balanced_batches(rows_by_group: list[torch.Tensor], batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches of row numbers with as many rows of each group, in an order that the seed fixes.

    Args:
        rows_by_group (`list[torch.Tensor]`): Row numbers of each group; a group that runs out is shuffled anew.
        batch_size (`int`): Rows a batch; rounded up to a multiple of the number of groups.
        seed (`int`): Of the shuffling.

    Yields:
        `torch.Tensor` of shape `(batch_size,)`, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    share = -(-batch_size // len(rows_by_group))

    def endless(rows: torch.Tensor) -> Iterator[torch.Tensor]:
        while True:
            order = rows[torch.randperm(len(rows), generator=generator)]
            # A group smaller than its share repeats itself within the batch.
            yield from order.split(share)

    streams = [endless(rows) for rows in rows_by_group]
    while True:
        yield torch.cat([next(stream) for stream in streams])


def train_for(
    minutes: float,
    module: nn.Module,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterator[torch.Tensor],
    state_path: str | os.PathLike,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.05,
    warmup_share: float = 0.05,
    description: str = "training",
    save_every_s: float = 120.0,
) -> dict[str, float]:
    """Minimize a loss with AdamW for a given time: linear warm-up, then a cosine to zero over the time that is left.

    Args:
        minutes (`float`): Training time in all, that of earlier, interrupted calls included [min].
        module (`nn.Module`): Its parameters that require gradients are trained, in place.
        loss_of (`Callable`): Rows of a batch to a scalar loss.
        batches (`Iterator`): Row numbers, endless.
        state_path (`str` or `os.PathLike`): Where the state is kept; if it is there, training goes on from it.
        learning_rate (`float`, *optional*, defaults to 5e-4): At its highest.
        weight_decay (`float`, *optional*, defaults to 0.05): Not applied to vectors (biases, norms, tokens).
        warmup_share (`float`, *optional*, defaults to 0.05): Share of the time that the rate rises.
        description (`str`, *optional*): Of the progress bar.
        save_every_s (`float`, *optional*, defaults to 120): Between two saves [s].

    Returns:
        `dict` with `steps`, `samples`, `loss` (a running mean) and `seconds`.

    Raises:
        DivergedError: If the loss is not finite; the last saved state is left as it was.
    """
    state_path = Path(state_path)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999))
    budget_s = 60 * minutes
    progress = {"seconds": 0.0, "steps": 0, "samples": 0, "loss": math.nan}
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        progress = state["progress"]
        for _ in range(progress["steps"]):  # the batches that were used up already
            next(batches)

    def save() -> None:
        state_path.parent.mkdir(parents=True, exist_ok=True)
        aside = state_path.with_suffix(".part")
        torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}, aside)
        os.replace(aside, state_path)

    module.train()
    last_save = time.monotonic()
    with tqdm(total=round(budget_s), initial=round(progress["seconds"]), desc=description, unit="s") as bar:
        while progress["seconds"] < budget_s:
            begin = time.monotonic()
            done = progress["seconds"] / budget_s
            factor = min(1.0, (done + 1e-3) / warmup_share) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            rows = next(batches)
            loss = loss_of(rows)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(
                    f"The loss became {value} at step {progress['steps']} of {description!r} (learning rate "
                    f"{learning_rate * factor:.2e}). Lower the learning rate; the last good state is in {state_path}."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress["steps"] += 1
            progress["samples"] += len(rows)
            before = progress["loss"]
            progress["loss"] = value if math.isnan(before) else 0.98 * before + 0.02 * value
            progress["seconds"] += time.monotonic() - begin
            bar.set_postfix(loss=f"{progress['loss']:.3f}", samples=progress["samples"], refresh=False)
            bar.update(round(progress["seconds"]) - bar.n)
            if time.monotonic() - last_save > save_every_s:
                save()
                last_save = time.monotonic()
    save()
    module.eval()
    return progress

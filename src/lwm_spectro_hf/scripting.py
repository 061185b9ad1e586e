"""What the command and the scripts of `examples/` have in common: how they tell users of their mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a script with one line where a user can mend what is wrong: a file that is missing, a value out of range.

    Raises:
        SystemExit: In place of `OSError`, `ValueError`, `ImportError`, `ArithmeticError`, and what configurations
            and safetensors raise, the latter also on a full disk.
    """
    try:
        yield
    except (StrictDataclassError, SafetensorError, OSError, ValueError, ImportError, ArithmeticError) as error:
        raise SystemExit(f"error: {without_wrapping(error)}") from None


def without_wrapping(error: Exception) -> Exception:
    """What a configuration has raised, where `huggingface_hub` has put an error of its own around it."""
    return error.__cause__ or error if isinstance(error, StrictDataclassError) else error


def first_line(error: BaseException) -> str:
    """Of what an error says, which may be nothing."""
    return next(iter(str(error).splitlines()), "")


def computes_on_gpu(name: str | None) -> bool:
    """Whether a script whose option `--device` is `name` computes on a GPU: where there is one, unless it says "cpu".

    Raises:
        ValueError: If it says "cuda" and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but PyTorch finds no GPU here; use --device cpu.")
    return name != "cpu" and torch.cuda.is_available()


def usable_device(name: str | None) -> torch.device | None:
    """The device that an option `--device` names, if it can compute; nothing for `None`.

    Raises:
        ValueError: If there is no such device here.
    """
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # what only exists on paper, as `meta` does, computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"--device {name} cannot compute here; expected cpu, or leave it out to take an accelerator if there is "
            f"one. PyTorch says: {error}"
        ) from error
    return device

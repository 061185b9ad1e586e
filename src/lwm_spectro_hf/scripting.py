"""Shared parts of the command and the scripts in `examples/`: error messages for users, and the option `--device`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a script with a one-line message for errors that a user can fix, e.g. a missing file or an invalid value.

    Raises:
        SystemExit: In place of `OSError`, `ValueError`, `ImportError`, `ArithmeticError`, and the errors of
            configurations and of safetensors, which also raises its own on a full disk.
    """
    try:
        yield
    except (StrictDataclassError, SafetensorError, OSError, ValueError, ImportError, ArithmeticError) as error:
        raise SystemExit(f"error: {without_wrapping(error)}") from None


def without_wrapping(error: Exception) -> Exception:
    """Return the error of a configuration that `huggingface_hub` wrapped in its own; other errors as they are."""
    return error.__cause__ or error if isinstance(error, StrictDataclassError) else error


def first_line(error: BaseException) -> str:
    """First line of an error's message, which may be empty."""
    return next(iter(str(error).splitlines()), "")


def computes_on_gpu(name: str | None) -> bool:
    """Whether a script computes on a GPU: if there is one, unless its option `--device`, `name`, is "cpu".

    Raises:
        ValueError: If the option is "cuda" and there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was given, but PyTorch finds no GPU; use --device cpu.")
    return name != "cpu" and torch.cuda.is_available()


def usable_device(name: str | None) -> torch.device | None:
    """The device that an option `--device` names, after checking that it can compute; `None` for `None`.

    Raises:
        ValueError: If there is no such device here.
    """
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on devices that compute nothing, such as `meta`
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"--device {name} cannot be used here: give cpu, or leave it out to use an accelerator if there is one. "
            f"PyTorch says: {error}"
        ) from error
    return device

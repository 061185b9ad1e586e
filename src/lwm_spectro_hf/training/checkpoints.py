"""Folders of runs by Trainer: what a run was begun with, and where it goes on from."""

import json
from pathlib import Path
from typing import Any

from ..files import whole_file

_SETTINGS = "settings.json"


def check_settings(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """A run goes on with what it was begun with; a new one does not write over another.

    Args:
        out (`Path`): Folder of the run.
        settings (`dict`): What the result depends on; what is no JSON counts as its text.
        resume (`bool`): Whether there should be a run.

    Raises:
        ValueError: If there is a run and should be none, the other way round, or it was begun with other settings.
    """
    path = out / _SETTINGS
    if resume != path.exists():
        there = "There is no run in {} to --resume." if resume else "{} holds a run: --resume it, or name another."
        raise ValueError(there.format(out))
    if resume:
        settings, found = json.loads(_text(settings)), json.loads(path.read_text())
        different = [f"{name} was {found.get(name)!r}" for name in settings if found.get(name) != settings[name]]
        if different:
            raise ValueError(f"The run in {out} was begun otherwise: {', '.join(different)}. Give the same again.")


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Begins a run; see [`check_settings`]."""
    with whole_file(out / _SETTINGS) as stream:
        stream.write(_text(settings).encode())


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of Trainer that is whole; one that was cut off while it was written does not count."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]  # which is written last
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def training_figures(out: Path, log_history: list[dict[str, Any]], seconds: float) -> dict[str, float | None]:
    """What a table says of training, calls before this one included.

    Args:
        out (`Path`): Folder of the run, with `results.json` of the call before if that one came to its end.
        log_history (`list[dict]`): That of the state of Trainer, which a checkpoint keeps.
        seconds (`float`): Of this call [s].

    Returns:
        `dict`: `train_loss`, the last that was logged (`None` if none was), and `train_seconds` [s].
    """
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    path = out / "results.json"
    before = json.loads(path.read_text()).get("train_seconds", 0.0) if path.exists() else 0.0
    return {"train_loss": losses[-1] if losses else None, "train_seconds": before + seconds}


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, default=str) + "\n"

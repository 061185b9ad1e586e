"""What a run starts or resumes from: trained weights, and the folders of earlier `Trainer` runs."""

import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel
from transformers.integrations import get_available_reporting_integrations

from ..files import read_json, whole_file
from ..scripting import first_line

_SETTINGS = "settings.json"


def check_kind(path: Path, kind: type[PreTrainedModel]) -> None:
    """Make sure that there is a checkpoint of the given model class.

    Raises:
        ValueError: If there is none, or one of another class.
    """
    try:
        found = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = first_line(error) if path.exists() else "there is no such folder, and no such model on the Hub"
        raise ValueError(f"{path} is not a checkpoint: {reason}.") from error
    if not isinstance(found, kind.config_class):
        hint = ""
        if hasattr(found, "expert_names"):
            hint = (
                f" Extract an expert from it: `LwmSpectroMoEForPreTraining.from_pretrained({str(path)!r})"
                f'.expert("{found.expert_names[0]}").save_pretrained(...)`.'
            )
        raise ValueError(f"{path} is a {found.model_type!r} model; expected {kind.config_class.model_type!r}.{hint}")


def absent_weights(info: dict[str, Any], part: str = "") -> list[str]:
    """Names of weights, starting with `part`, that a checkpoint lacks or has in other shapes.

    `info` is what `from_pretrained` returns with `output_loading_info=True`.
    """
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    return sorted(name for name in absent if name.startswith(part))


def check_weights(info: dict[str, Any], name: str | Path, part: str = "", what: str = "weights") -> None:
    """Refuse a checkpoint without all of its weights, which would be random.

    Args:
        info (`dict`): What `from_pretrained` returns with `output_loading_info=True`.
        name (`str` or `Path`): Of the checkpoint, for the message.
        part (`str`, *optional*, defaults to `""`): Prefix of the names of weights that it must have; all by default.
        what (`str`, *optional*, defaults to `"weights"`): What these are, for the message.

    Raises:
        ValueError: If it lacks some.
    """
    if absent := absent_weights(info, part):
        raise ValueError(
            f"{name} lacks {len(absent)} {what}, the first being {absent[0]}: it is damaged, or its config.json "
            "belongs to another model."
        )


def check_places(info: dict[str, Any], name: str | Path, part: str) -> None:
    """Refuse a checkpoint with weights that a model has no place for, and that it would be used without.

    Args:
        info (`dict`): What `from_pretrained` returns with `output_loading_info=True`.
        name (`str` or `Path`): Of the checkpoint, for the message.
        part (`str`): Prefix of the names of the encoder's weights; those of other heads may be left out.

    Raises:
        ValueError: If there are some.
    """
    if spare := sorted(key for key in info["unexpected_keys"] if key.startswith(part)):
        raise ValueError(
            f"{name} holds {len(spare)} encoder weights that its model has no place for, the first being "
            f"{spare[0]}: it is damaged, or its config.json belongs to another model."
        )


def folder_name(path: str | Path | None) -> str | None:
    """One name for a folder, in whichever of its ways it was given; other names, as those on the Hub, stay."""
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


def load_trained(kind: type[PreTrainedModel], path: Path, part: str = "") -> Any:
    """Load a checkpoint, refusing one with missing weights, which would be random.

    Args:
        kind (`type[PreTrainedModel]`): Expected model class.
        path (`Path`): Folder, or name on the Hub.
        part (`str`, *optional*, defaults to `""`): Prefix of the names of weights that it must have; all by default.

    Returns:
        `PreTrainedModel`: A model of that class.

    Raises:
        ValueError: If there is no checkpoint, or it is of another class, or it lacks weights.
    """
    check_kind(path, kind)
    model, info = kind.from_pretrained(path, output_loading_info=True)
    check_weights(info, path, part)
    return model


def check_tracker(name: str) -> None:
    """Make sure, before anything is loaded, that `--report-to` names an installed tracker.

    Raises:
        ValueError: If the tracker is not installed.
    """
    installed = get_available_reporting_integrations()
    if name not in ("none", "all", *installed):
        known = f"only {', '.join(installed)}" if installed else "nor is any other"
        raise ValueError(f"--report-to {name}: this tracker is not installed, {known}. Install it, or leave it out.")


def check_settings(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Make sure that a run is resumed with its own settings, and that a new one does not overwrite another.

    Args:
        out (`Path`): Folder of the run.
        settings (`dict`): Everything the result depends on; values that are not JSON are compared as text.
        resume (`bool`): Whether a run in the folder is to be resumed.

    Raises:
        ValueError: If there is no run to resume, if a new run finds another one there, or if the settings differ.
    """
    path = out / _SETTINGS
    if resume != path.exists():
        there = "There is no run in {} to --resume." if resume else "{} holds a run: --resume it, or name another."
        raise ValueError(there.format(out))
    if resume:
        settings, found = json.loads(_text(settings)), read_json(path)
        different = [f"{name} was {found.get(name)!r}" for name in settings if found.get(name) != settings[name]]
        if different:
            raise ValueError(f"The run in {out} was begun with other settings: {', '.join(different)}. Use the same.")


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run, for [`check_settings`]."""
    with whole_file(out / _SETTINGS) as stream:
        stream.write(_text(settings).encode())


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint of `Trainer` was written to its end, and nothing of it cut off since."""
    if not (checkpoint / "trainer_state.json").exists():  # which is written last
        return False
    try:
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, "pt"):
                pass
    except SafetensorError:
        return False
    # The table of contents of a zip file, which PyTorch's are, is at its end.
    return all(zipfile.is_zipfile(path) for path in checkpoint.glob("*.pt"))


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint of `Trainer`; one whose writing was interrupted does not count."""
    whole = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def training_figures(out: Path, log_history: list[dict[str, Any]], seconds: float) -> dict[str, float | None]:
    """Training figures for the result table, earlier calls of the same run included.

    Args:
        out (`Path`): Folder of the run, with the `results.json` of the previous call if that one finished.
        log_history (`list[dict]`): Log history from the state of `Trainer`, which checkpoints keep.
        seconds (`float`): Duration of this call [s].

    Returns:
        `dict`: `train_loss`, the last one logged (`None` if there is none), and `train_seconds` [s].
    """
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    return {
        "train_loss": losses[-1] if losses else None,
        "train_seconds": earlier_results(out).get("train_seconds", 0.0) + seconds,
    }


def earlier_results(out: Path) -> dict[str, Any]:
    """`results.json` of the previous call; empty if there is none or it is damaged, since it is written again."""
    try:
        return read_json(out / "results.json")
    except (OSError, ValueError):
        return {}


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, default=str) + "\n"

"""What runs go on from: trained weights, and folders of runs by Trainer."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel
from transformers.integrations import get_available_reporting_integrations

from ..files import read_json, whole_file
from ..scripting import first_line

_SETTINGS = "settings.json"


def check_kind(path: Path, kind: type[PreTrainedModel]) -> None:
    """Make sure that there is a checkpoint of a kind of model.

    Raises:
        ValueError: If there is none, or one of another kind.
    """
    try:
        found = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = first_line(error) if path.exists() else "there is no such folder, and none on the Hub"
        raise ValueError(f"{path} is no checkpoint: {reason}.") from error
    if not isinstance(found, kind.config_class):
        hint = ""
        if hasattr(found, "expert_names"):
            hint = (
                f" Take an expert out of it: `LwmSpectroMoEForPreTraining.from_pretrained({str(path)!r})"
                f'.expert("{found.expert_names[0]}").save_pretrained(...)`.'
            )
        raise ValueError(f"{path} is a {found.model_type!r}; expected a {kind.config_class.model_type!r}.{hint}")


def absent_weights(info: dict[str, Any], part: str = "") -> list[str]:
    """Names of weights, which begin so, that a checkpoint lacks or has in other shapes; of `output_loading_info`."""
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    return sorted(name for name in absent if name.startswith(part))


def load_trained(kind: type[PreTrainedModel], path: Path, part: str = "") -> Any:
    """A checkpoint to go on from, none of whose weights would be random.

    Args:
        kind (`type[PreTrainedModel]`): What it should be.
        path (`Path`): Folder, or name on the Hub.
        part (`str`, *optional*, defaults to `""`): How the names of weights begin that it must have; all by default.

    Returns:
        `PreTrainedModel`: Of that kind.

    Raises:
        ValueError: If there is none, or one of another kind, or it lacks weights.
    """
    check_kind(path, kind)
    model, info = kind.from_pretrained(path, output_loading_info=True)
    missing = absent_weights(info, part)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} weights, the first of which is {missing[0]}; expected all.")
    return model


def check_tracker(name: str) -> None:
    """Make sure that `--report-to` names a tracker that is installed, before anything is loaded.

    Raises:
        ValueError: If it does not.
    """
    installed = get_available_reporting_integrations()
    if name not in ("none", "all", *installed):
        known = f"installed are {', '.join(installed)}" if installed else "none is installed"
        raise ValueError(f"--report-to {name}: there is no such tracker here, {known}. Install it, or leave it out.")


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
        settings, found = json.loads(_text(settings)), read_json(path)
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
    return {
        "train_loss": losses[-1] if losses else None,
        "train_seconds": earlier_results(out).get("train_seconds", 0.0) + seconds,
    }


def earlier_results(out: Path) -> dict[str, Any]:
    """`results.json` of the call before; nothing if there is none, or it is damaged: it is written anew at the end."""
    try:
        return read_json(out / "results.json")
    except (OSError, ValueError):
        return {}


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, default=str) + "\n"

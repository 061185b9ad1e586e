"""Read `.pth` files from untrusted sources without running any code in them."""

import json
import logging
import math
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

WRAPPERS = ("model_state_dict", "state_dict")
COUNTER = "num_batches_tracked"
EXPERT_MARK = "embedding.proj.weight"
BUNDLE_MARK = "router_state_dict"
NOT_A_WEIGHT = "stored in the file beside the weights, but not a weight itself"
STATS_FILE = "dataset_stats.json"
DEMO_FILE = "demo_data.pt"
HUB_PATTERNS = ("*.pth", f"*{STATS_FILE}", f"*{DEMO_FILE}")
PROTOCOLS = ("WiFi", "LTE", "5G")

StateDict = dict[str, torch.Tensor]


class ConversionError(ValueError):
    """A published checkpoint is not as expected; the message says what was found, what was expected, what to do."""


@dataclass
class Foreign:
    """Content of a set of published files.

    Attributes:
        experts (`dict[str, StateDict]`): Weights of each expert file by the expert's name.
        bundles (`dict[str, dict]`): Task bundles by file name.
        stats (`dict`, *optional*): Content of `dataset_stats.json`.
        demo (`list[dict]`, *optional*): Content of `demo_data.pt`, if the folder has one.
        unknown (`dict[str, str]`): Unusable files of a folder, and unusable entries beside an expert's weights, each
            with the reason.
        files (`list[str]`): Every file that was read.
    """

    experts: dict[str, StateDict] = field(default_factory=dict)
    bundles: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: dict[str, Any] | None = None
    demo: Any = None
    unknown: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def load_pth(path: Path) -> Any:
    """Open one `.pth` file with `torch.load(weights_only=True)`.

    Raises:
        ConversionError: If the file would run code, is truncated, or is not a PyTorch file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols; the error below says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text recommends weights_only=False, so it is not passed on.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"it asks for {wanted[1]}" if wanted else "it was not written by torch.save, or runs code"
        raise ConversionError(
            f"{path} is refused: {found}. Expected plain tensors, numbers, strings, lists and dictionaries, which can "
            "be read without running code chosen by the author of the file. If the file is yours, save "
            "model.state_dict() again; if it was downloaded, check that it is not a Git LFS pointer."
        ) from None
    except (OSError, RuntimeError, EOFError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).partition(". ")[0] or "no more data"
        raise ConversionError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read to its end: {reason}. "
            "Expected a complete file of torch.save; it may be truncated or damaged. Download or copy it again."
        ) from error


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """Remove a `model_state_dict` / `state_dict` wrapper and the `module.` prefix that DataParallel adds.

    Returns:
        `tuple[Any, list[str]]`: The state dict, and the other keys of the wrapper (epoch, optimizer...).
    """
    beside: list[str] = []
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            beside = [str(key) for key in content if key != name]
            content = content[name]
            break
    if isinstance(content, Mapping) and content and all(str(key).startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content, beside


def check_tensors(state: Mapping[str, Any], where: str) -> StateDict:
    """Return weights as float32 (counters as they are); raise for anything that is not a tensor, or not finite."""
    if not isinstance(state, Mapping):
        raise ConversionError(f"{where} should be a dictionary of tensors; found {type(state).__name__}.")
    wrong = [
        f"{key} ({value.dtype if isinstance(value, torch.Tensor) else type(value).__name__})"
        for key, value in state.items()
        if not (isinstance(value, torch.Tensor) and (value.is_floating_point() or key.endswith(COUNTER)))
    ]
    if wrong:
        raise ConversionError(f"{where} should hold floating-point tensors only; found {', '.join(wrong)}.")
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ConversionError(f"{where} has NaN or infinite values in {', '.join(broken)}; expected finite weights.")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def expert_name(path: Path) -> str:
    """`LTE_expert.pth` → `LTE`, in the paper's spelling if it is one of its protocols."""
    name = re.sub(r"[_-]?expert$", "", path.stem, flags=re.IGNORECASE) or path.stem
    return canonical_name(name)


def canonical_name(name: str) -> str:
    return next((known for known in PROTOCOLS if known.casefold() == name.casefold()), name)


def resolve_source(source: str | Path | Sequence[str | Path], **hub_kwargs) -> tuple[list[Path], Path | None]:
    """Find the files of a source.

    Args:
        source (`str`, `Path` or a list of them): One `.pth` file, several, a folder, or a Hub repository's name.
        **hub_kwargs: Passed to `huggingface_hub.snapshot_download` (`revision`, `token`, `cache_dir`...).

    Returns:
        `tuple[list[Path], Path | None]`: The `.pth` files, and the folder that was searched; `None` for single files.

    Raises:
        FileNotFoundError: If there is nothing of that name, or no `.pth` file in the folder.
    """
    if not isinstance(source, str | Path):
        paths = [Path(item).expanduser() for item in source]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing or not paths:
            raise FileNotFoundError(f"Expected a list of .pth files; not found: {missing or 'the list is empty'}.")
        return paths, None
    path = Path(source).expanduser()
    if path.is_file():
        return [path], None
    if path.is_dir():
        folder = path
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).endswith((".pth", ".pt")):
        from huggingface_hub import snapshot_download

        logger.info("Downloading the checkpoints of %s", source)
        folder = Path(snapshot_download(str(source), allow_patterns=list(HUB_PATTERNS), **hub_kwargs))
    else:
        raise FileNotFoundError(
            f"{source} is neither a file, nor a folder, nor the name of a Hub repository (owner/name). "
            "Give one or more .pth files, a folder with .pth files, or a name such as wi-lab/lwm-spectro."
        )
    files = sorted(folder.rglob("*.pth"))
    if not files:
        raise FileNotFoundError(f"No .pth file in {source}; expected experts (LTE_expert.pth...) or a task bundle.")
    return files, folder


def read_sources(source: str | Path | Sequence[str | Path], **hub_kwargs) -> Foreign:
    """Open every file of a source, and distinguish experts from task bundles by their content.

    Raises:
        ConversionError: If a file cannot be read safely, a file given by name is neither an expert nor a task bundle,
            or two files hold the same expert or are bundles of the same name.
    """
    paths, folder = resolve_source(source, **hub_kwargs)
    foreign = Foreign()
    for path in paths:
        label = path.relative_to(folder).as_posix() if folder else path.name
        foreign.files.append(label)
        content = load_pth(path)
        state, beside = unwrap(content)
        if isinstance(content, Mapping) and BUNDLE_MARK in content:
            if label in foreign.bundles:
                raise ConversionError(f"Two task bundles are called {label}; give only one of them.")
            foreign.bundles[label] = dict(content)
        elif isinstance(state, Mapping) and EXPERT_MARK in state:
            name = expert_name(path)
            if name in foreign.experts:
                raise ConversionError(f"Two files hold the expert {name!r}, one is {path}; give one file per expert.")
            foreign.experts[name] = check_tensors(state, str(path))
            foreign.unknown.update({f"{label}[{key!r}]": NOT_A_WEIGHT for key in beside})
        else:
            found = list(state)[:8] if isinstance(state, Mapping) else type(content).__name__
            reason = f"neither an expert (no {EXPERT_MARK}) nor a task bundle (no {BUNDLE_MARK}); found {found}"
            if folder is None:
                raise ConversionError(f"{path} is {reason}. Give an expert's file or a task bundle.")
            foreign.unknown[label] = reason
    foreign.stats = read_stats(folder or paths[0].parent, below=folder is not None)
    demo = next(iter(sorted(folder.rglob(DEMO_FILE))), None) if folder else None
    if demo is not None:
        try:
            foreign.demo = load_pth(demo)
        except ConversionError as error:  # the weights do not depend on it
            foreign.unknown[demo.relative_to(folder).as_posix()] = str(error)
    return foreign


def read_stats(folder: Path, *, below: bool) -> dict[str, Any] | None:
    """Read `dataset_stats.json` (`normalization`, `mean`, `std`) from a folder, or from its subfolders, too (`below`).

    Returns:
        `dict`, *optional*: `normalization` (`"dataset"` or `"per_sample"`), `mean` and `std` [dB]; None without one.

    Raises:
        ConversionError: If there are several, or if it is not JSON with a finite `mean` and a positive `std`.
    """
    found = sorted(folder.rglob(STATS_FILE) if below else folder.glob(STATS_FILE))
    if not found:
        return None
    if len(found) > 1:
        raise ConversionError(
            f"Found {len(found)} files {STATS_FILE} in {folder}; expected one. Move the others away."
        )
    try:
        stats = json.loads(found[0].read_text(encoding="utf-8"))
        if "sample" in str(stats.get("normalization", "")):
            return {"normalization": "per_sample", "mean": None, "std": None}
        mean, std = float(stats["mean"]), float(stats["std"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{found[0]}: expected JSON with the numbers `mean` and `std`; {error!r}.") from error
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ConversionError(f"{found[0]}: expected a finite mean and a positive std; found {mean} and {std}.")
    return {"normalization": "dataset", "mean": mean, "std": std}

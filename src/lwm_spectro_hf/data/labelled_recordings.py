"""A folder of SigMF recordings as a test set: each with its true protocol and modulation."""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import MODULATIONS, PROTOCOLS
from .recordings import Recording, open_recording

QUANTITIES = {"protocol": PROTOCOLS, "modulation": MODULATIONS}
UNKNOWN = ("", "none", "unknown")  # label values that mean there is no right answer


@dataclass(frozen=True, eq=False)
class LabelledFile:
    """A recording and its labels.

    Args:
        recording ([`Recording`]): Opened; its samples stay on disk.
        protocol (`str`, *optional*): "WiFi", "LTE" or "5G"; `None` if it holds noise or anything else.
        modulation (`str`, *optional*): Of its data, such as "16QAM"; `None` if it is unknown or there are several.
    """

    recording: Recording
    protocol: str | None
    modulation: str | None


def open_labelled_recordings(folder: str | os.PathLike, labels: str | os.PathLike | None = None) -> list[LabelledFile]:
    """Opens all SigMF recordings of a folder with their labels.

    Labels are the fields `lwm:protocol` and `lwm:modulation` of the annotations or of the global object, as
    `lwm-spectro generate --format sigmf` writes them. Other recordings get theirs from a file beside them:
    `labels.csv` with the columns `file`, `protocol` and, if known, `modulation`; or `labels.json`, an object of
    `{"file": {"protocol": ..., "modulation": ...}}`. That file takes precedence over the metadata. The protocol "none"
    stands for noise, or anything else that has no right answer.

    Args:
        folder (`str` or `os.PathLike`): Searched including its subfolders.
        labels (`str` or `os.PathLike`, *optional*): The label file; by default `labels.csv` or `labels.json` in the
            folder, if there is one. It names files relative to the folder, with or without a suffix.

    Returns:
        `list[LabelledFile]`: In the order of their names.

    Raises:
        FileNotFoundError: If the folder, the label file or a recording that it names is missing.
        ValueError: If there are no recordings, one has no label or an unknown one, or a file is not readable.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Expected one with SigMF recordings.")
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix in (".sigmf-meta", ".sigmf") and path.name[0] != "."
    )
    if not paths:
        raise ValueError(f"{folder} has no recordings. Expected SigMF: files ending in .sigmf-meta or .sigmf.")
    given = _read_labels(folder, labels)
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(str(path.relative_to(folder).with_suffix("")), path)
        if other != path:
            raise ValueError(
                f"{folder} has both {other.name} and {path.name}. Expected one of them: remove the other."
            )
    strangers = [name for name in given if name not in by_name]
    if strangers:
        raise FileNotFoundError(
            f"{folder} has no recording {strangers[0]!r} ({len(strangers)} of {len(given)} labels are for missing "
            "files). Copy it there, or correct the labels."
        )
    found, unlabelled = [], []
    for name, path in by_name.items():
        recording = open_recording(path)
        truth = {**_metadata_labels(recording), **given.get(name, {})}
        if "protocol" in truth:
            found.append(LabelledFile(recording, truth["protocol"], truth.get("modulation")))
        else:
            unlabelled.append(name)
    if unlabelled:
        raise ValueError(
            f"{folder}: {len(unlabelled)} of {len(paths)} recordings have no protocol: {', '.join(unlabelled[:5])}"
            f"{' ...' if len(unlabelled) > 5 else ''}. Add `lwm:protocol` to their annotations, or a `labels.csv` "
            "with the columns file, protocol, modulation."
        )
    return found


def _metadata_labels(recording: Recording) -> dict[str, str | None]:
    """Labels of the annotations, else of the global object; `None` where annotations differ."""
    labels = {}
    for name in QUANTITIES:
        values = [mark[f"lwm:{name}"] for mark in recording.annotations if f"lwm:{name}" in mark]
        if not values and f"lwm:{name}" in recording.metadata["global"]:
            values = [recording.metadata["global"][f"lwm:{name}"]]
        if values:
            checked = {_checked(name, value, recording.path) for value in values}
            labels[name] = checked.pop() if len(checked) == 1 else None
    return labels


def _read_labels(folder: Path, labels: str | os.PathLike | None) -> dict[str, dict[str, str | None]]:
    """Labels in a label file, by the name of the recording without a suffix."""
    if labels is None:
        beside = [path for path in (folder / "labels.csv", folder / "labels.json") if path.is_file()]
        if not beside:
            return {}
        labels = beside[0]
    labels = Path(labels).expanduser()
    if not labels.is_file():
        raise FileNotFoundError(f"There is no file {labels}. Expected labels: CSV or JSON.")
    try:
        text = labels.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if labels.suffix.lower() == ".json" else _csv_rows(text)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{labels}: the labels cannot be read ({error}). Expected CSV or JSON in UTF-8.") from error
    is_table = isinstance(rows, dict) and rows and all(isinstance(row, Mapping) for row in rows.values())
    if not is_table or not all("protocol" in row for row in rows.values()):
        raise ValueError(
            f"{labels}: no labels, or some without a protocol. Expected CSV with the columns file, protocol and, if "
            'known, modulation, or JSON such as {"cell": {"protocol": "LTE", "modulation": "QPSK"}}.'
        )
    named = {}
    for file, row in rows.items():
        path = Path(file)
        name = str(path.with_suffix("") if path.suffix.startswith(".sigmf") else path)
        if name in named:
            raise ValueError(f"{labels}: {name!r} is labelled twice. Expected each recording once.")
        named[name] = {key: _checked(key, row[key], labels) for key in QUANTITIES if key in row}
    return named


def _csv_rows(text: str) -> dict[str, dict]:
    table = csv.DictReader(text.splitlines(), strict=True)
    rows: dict[str, dict] = {}
    for row in table:
        file = row.pop("file", None)
        if not file or file in rows:
            raise ValueError(f"line {table.line_num} {'repeats ' + repr(file) if file else 'has no file'}")
        rows[file] = row
    return rows


def _checked(name: str, value: Any, where: Path) -> str | None:
    """A label of any case in this package's spelling; `None` if it means that there is no right answer."""
    known = {option.lower(): option for option in QUANTITIES[name]}
    text = "" if value is None else str(value).strip().lower()
    if text in UNKNOWN:
        return None
    if text not in known:
        raise ValueError(f"{where}: the {name} {value!r} is unknown. Expected {', '.join(known.values())} or none.")
    return known[text]


__all__ = ["LabelledFile", "open_labelled_recordings"]

"""Spectrograms with the classes of one task, from whatever `datasets.load_dataset` reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset

from ..extras import require
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..scripting import first_line
from .recipe import RECEIVERS, RECORD, SYMBOL_RECEIVERS

_MOST_NUMBERS = 20  # of a column most of whose values differ, so that they measure something
MAX_CLASSES = 1000  # a column with more distinct values is a quantity, not a label


class TaskError(ValueError):
    """Data, label and checkpoint do not make a task; the message says why."""


def _is_blind(table: Dataset, rows: np.ndarray) -> bool:
    if "receiver" not in table.column_names:
        return True
    names = getattr(table.features["receiver"], "names", RECEIVERS)
    found = {value if isinstance(value, str) else names[value] for value in set(table.select(rows)["receiver"])}
    return not found & set(SYMBOL_RECEIVERS)


class LabelledSpectrograms(torch.utils.data.Dataset):
    """Rows of a table as batches of `input_values` and `labels`; pass [`as_is`] to `DataLoader` as `collate_fn`.

    Args:
        table (`datasets.Dataset`): With a column `input_values`, or `iq` (and `sampling_rate`, if the extractor needs
            it).
        rows (`np.ndarray` of shape `(num,)`): Which rows of the table.
        labels (`np.ndarray` of shape `(num,)`): Their classes.
        extractor ([`SpectrogramFeatureExtractor`], *optional*): The checkpoint's; required for `iq`.

    Attributes:
        is_blind (`bool`): Whether frames are not OFDM symbols, as from a receiver that does not look for symbols: true
            unless the column `receiver` has "synchronous" or "listening" in any of the rows.

    Raises:
        TaskError: If the table has neither column, or has `iq` but there is no extractor.
    """

    def __init__(
        self,
        table: Dataset,
        rows: np.ndarray,
        labels: np.ndarray,
        extractor: SpectrogramFeatureExtractor | None = None,
    ):
        if "input_values" not in table.column_names and "iq" not in table.column_names:
            raise TaskError(
                f"The data has the columns {', '.join(table.column_names)}; expected `input_values` (spectrograms) or "
                "`iq` (samples as I, Q)."
            )
        if "input_values" not in table.column_names and extractor is None:
            raise TaskError(
                "The data has I/Q samples, but the checkpoint has no preprocessor_config.json that says how to make "
                "spectrograms from them: save its SpectrogramFeatureExtractor beside it."
            )
        wanted = ("input_values", "resolution") if "input_values" in table.column_names else ("iq", "sampling_rate")
        wanted = [name for name in wanted if name in table.column_names]
        self.is_blind = _is_blind(table, rows)
        self._table, self._extractor = table.select_columns(wanted).with_format("numpy"), extractor
        self.rows, self.labels = rows, torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        batch = self._table[self.rows[places].tolist()]
        inputs = self._inputs(batch, self.rows[places])
        values = inputs["input_values"]
        finite = values.flatten(1).isfinite().all(1)
        if not finite.all():
            row = self.rows[places][int((~finite).nonzero()[0, 0])]
            raise TaskError(f"The spectrogram of row {row} holds values that are NaN or infinite: build it again.")
        return {**inputs, "labels": self.labels[places]}

    def _inputs(self, batch: dict[str, np.ndarray], numbers: np.ndarray) -> dict[str, torch.Tensor]:
        """Inputs of a model: spectrograms, float32, and their resolution if it is known."""
        if "input_values" in batch:
            return {
                name: torch.from_numpy(np.stack([np.asarray(row, np.float32) for row in column]))
                for name, column in batch.items()
            }
        samples, places_at = [], {}  # places of the rows that were recorded at each rate
        for place, iq in enumerate(batch["iq"]):
            iq = np.asarray([] if iq is None else iq, np.float32)
            if iq.ndim != 2 or iq.shape[1] != 2:
                raise TaskError(
                    f"`iq` of row {numbers[place]} has shape {iq.shape}; expected (num_samples, 2), for I and Q."
                )
            samples.append(np.ascontiguousarray(iq).view(np.complex64)[:, 0])
            rate = batch["sampling_rate"][place] if "sampling_rate" in batch else None
            rate = None if rate is None or not rate > 0 else float(rate)  # NaN is no rate, either
            places_at.setdefault(rate, []).append(place)
        inputs: dict[str, torch.Tensor] = {}
        for rate, places in places_at.items():
            for name, values in self._extracted(samples, places, rate, numbers).items():
                inputs.setdefault(name, values.new_empty(len(samples), *values.shape[1:]))[places] = values
        return inputs

    def _extracted(
        self, samples: list[np.ndarray], places: list[int], rate: float | None, numbers: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Spectrograms of the rows at one sampling rate; an error names the number of the invalid row."""
        try:
            rows = [samples[place] for place in places]
            return self._extractor(rows, sampling_rate=rate, return_tensors="pt")
        except ValueError as error:
            if len(places) == 1:
                reason = str(error).replace("Recording 0 has", "it has")
                raise TaskError(f"Row {numbers[places[0]]} gives no spectrogram: {reason}") from None
            for place in places:
                self._extracted(samples, [place], rate, numbers)
            raise


def as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate function for a data set whose `__getitems__` returns whole batches."""
    return batch


@dataclass
class Task:
    """A label to predict, and the rows for training, validation and test.

    Attributes:
        name: The column, or several joined by "+".
        labels: Names of the classes, in order; those of joined columns are joined likewise ("-5+static").
        train: Rows to train on.
        validation: Rows to select the best weights on, or `None`.
        test: Rows to score.
        test_protocols: The protocol of each test row, if the data has it.
        notes: What was left out and how splits were made, in sentences.
    """

    name: str
    labels: list[str]
    train: LabelledSpectrograms
    validation: LabelledSpectrograms | None
    test: LabelledSpectrograms
    test_protocols: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def open_data(data: str) -> DatasetDict:
    """All splits of a folder or of a data set on the Hub.

    Raises:
        TaskError: If it cannot be read.
    """
    try:
        folder = Path(data).expanduser()
        shards = sorted((folder / "data").glob("*-*.parquet")) if (folder / RECORD).is_file() else []
        if shards:
            # Our own data sets by their files: these tell one from another of the same name that is in the cache.
            files: dict[str, list[str]] = {}
            for path in shards:
                files.setdefault(path.name.split("-")[0], []).append(str(path))
            found = load_dataset("parquet", data_files=files)
        else:
            found = load_dataset(str(folder) if folder.exists() else data)
    except Exception as error:  # noqa: BLE001 - readers of broken files may raise anything
        reason = error.__cause__ or error
        raise TaskError(
            f"{data} cannot be read as a data set ({type(reason).__name__}: {first_line(reason)}). Expected a folder "
            "that `lwm-spectro generate` wrote, another folder that `datasets.load_dataset` reads, or the name of a "
            "data set on the Hub. If a file in it is damaged, delete that file and build again."
        ) from error
    return found if isinstance(found, DatasetDict) else DatasetDict({"train": found})


def load_task(
    data: str,
    label: str,
    protocol: str | None = None,
    train_split: str = "train",
    validation_split: str = "validation",
    test_split: str = "test",
    validation_share: float = 0.1,
    test_share: float = 0.2,
    samples_per_class: int | None = None,
    extractor: SpectrogramFeatureExtractor | None = None,
    seed: int = 0,
) -> Task:
    """Read a data set, turn a label into classes, and split the rows.

    A missing validation or test split is taken out of the training split. Where the data names them, whole recordings
    (all rows with one `recording`) or channels (one `user` of one `scenario`) move together, unless they are part of
    the label; otherwise the split is stratified by class.

    Args:
        data (`str`): A folder, or a name on the Hub.
        label (`str`): A column of classes, strings or numbers, or several joined by "+".
        protocol (`str`, *optional*): Use only rows of this protocol.
        train_split (`str`, *optional*, defaults to `"train"`): Rows to train on.
        validation_split (`str`, *optional*, defaults to `"validation"`): Rows to select weights on.
        test_split (`str`, *optional*, defaults to `"test"`): Rows to score.
        validation_share (`float`, *optional*, defaults to 0.1): Share of the training rows, if there is no such split;
            0 for no validation.
        test_share (`float`, *optional*, defaults to 0.2): Share of the training rows, if there is no such split.
        samples_per_class (`int`, *optional*): Few-shot: number of training rows of each class.
        extractor ([`SpectrogramFeatureExtractor`], *optional*): Makes spectrograms of I/Q.
        seed (`int`, *optional*, defaults to 0): Of the splits and the few-shot selection.

    Returns:
        [`Task`].

    Raises:
        TaskError: If data and label do not make a task.
    """
    tables = open_data(data)
    if train_split not in tables:
        raise TaskError(f"{data} has no split {train_split!r}; it has {', '.join(tables)}.")
    notes: list[str] = []
    table = tables[train_split]
    codes, names = label_codes(table, label)
    rows = _usable(table, codes, protocol, f"split {train_split!r}", label, notes)
    group, groups = _groups(table, label.split("+"))

    held = {}  # name of the part: table, rows, their classes by name
    for part, split, share in (("test", test_split, test_share), ("validation", validation_split, validation_share)):
        if split in tables and split != train_split:
            part_codes, part_names = label_codes(tables[split], label)
            part_rows = _usable(tables[split], part_codes, protocol, f"split {split!r}", label, notes)
            held[part] = tables[split], part_rows, np.array(part_names, object)[part_codes[part_rows]]
        elif share:
            rows, part_rows = _split_off(rows, codes, groups, share, seed, part)
            held[part] = table, part_rows, np.array(names, object)[codes[part_rows]]
            how = f"{group} that are not in training"
            if groups is None:
                how = "the same share of each class"
                if "iq" in table.column_names:
                    how += "; if some share a recording, name it in a column `recording`, or scores will be too good"
            notes.append(f"{len(part_rows):,} rows of split {train_split!r} are set aside for {part}: {how}.")
            missing = sorted({names[code] for code in np.setdiff1d(codes[rows], codes[part_rows])})
            if groups is not None and missing:
                notes.append(f"{', '.join(missing)} occurs in only one of the {group}, so {part} has none of it.")
    if "test" not in held:
        raise TaskError(f"{data} has no split {test_split!r} to score on, and the share to take for it is 0.")
    if samples_per_class:
        rows = _few_shot(rows, codes, names, samples_per_class, seed)

    labels = [names[code] for code in np.unique(codes[rows])]
    if len(labels) < 2:
        raise TaskError(f"`{label}` has one class, {labels}, in {len(rows)} training rows; expected at least two.")
    classes = {name: index for index, name in enumerate(labels)}
    parts = {"validation": None}
    for part, (part_table, part_rows, part_labels) in held.items():
        known = np.array([name in classes for name in part_labels], bool)
        if not known.all():
            notes.append(f"{(~known).sum():,} rows for {part} are left out: their class is not in training.")
        if not known.any():
            raise TaskError(f"None of the rows for {part} has a class of the training rows ({', '.join(labels)}).")
        part_classes = np.array([classes[name] for name in part_labels[known]], np.int64)
        parts[part] = LabelledSpectrograms(part_table, part_rows[known], part_classes, extractor)
    train_classes = np.array([classes[names[code]] for code in codes[rows]], np.int64)
    test_table = held["test"][0]
    protocols = None
    if "protocol" in test_table.column_names:
        protocol_codes, protocol_names = label_codes(test_table, "protocol")
        protocols = np.array([*protocol_names, "none"], object)[protocol_codes[parts["test"].rows]]
    train = LabelledSpectrograms(table, rows, train_classes, extractor)
    return Task(label, labels, train, parts["validation"], parts["test"], protocols, notes)


def label_codes(table: Dataset, label: str) -> tuple[np.ndarray, list[str]]:
    """The class of each row, -1 where it is unknown, and the names of all classes in order.

    These values count as unknown: null, an empty string, a negative class, a number that is not finite, and -1 in a
    column of otherwise non-negative integers. Numbers and strings are sorted; classes of joined columns are sorted by
    the first column first.

    Raises:
        TaskError: If there is no such column, or its values cannot be classes.
    """
    columns = [label] if label in table.column_names else label.split("+")
    codes, names = np.zeros(len(table), np.int64), [()]
    for column in columns:
        if column not in table.column_names:
            raise TaskError(
                f"There is no column {column!r} to take labels from; the data has {', '.join(table.column_names)}. "
                'Give one of these, or several joined by "+".'
            )
        part, part_names = _codes(table, column)
        if len(columns) > 1 and any("+" in name for name in part_names):
            raise TaskError(f'Classes of {column!r} contain a "+", so they cannot be joined with others by "+".')
        codes = np.where((codes >= 0) & (part >= 0), codes * len(part_names) + part, -1)
        names = [(*first, name) for first in names for name in part_names]
    return codes, ["+".join(parts) for parts in names]


def _codes(table: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    feature = table.features[column]
    values = table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    if isinstance(feature, ClassLabel):
        return np.array([-1 if value is None else max(value, -1) for value in values], np.int64), feature.names
    kind = feature.dtype if isinstance(feature, Value) else str(feature)
    if kind in ("string", "large_string"):
        names = sorted({value for value in values if value})
    elif kind == "bool":
        values = [None if value is None else str(value) for value in values]
        names = ["False", "True"]
    elif kind.startswith(("int", "uint")):
        if min((value for value in set(values) if value not in (None, -1)), default=0) >= 0:
            values = [None if value == -1 else value for value in values]
        names = [str(value) for value in sorted({value for value in values if value is not None})]
        values = [str(value) for value in values]
    elif kind.startswith("float"):
        number = np.dtype(kind).type
        values = [_text(number(value)) if value is not None and math.isfinite(value) else None for value in values]
        names = sorted({value for value in values if value is not None}, key=float)
        if len(names) > _MOST_NUMBERS and 2 * len(names) > len(values):
            raise TaskError(
                f"The column {column!r} holds {len(names):,} different numbers in {len(values):,} rows: a quantity "
                "rather than classes. Add a column of ranges."
            )
    else:
        raise TaskError(
            f"The column {column!r} holds {kind}; expected classes, strings or numbers to take labels from."
        )
    if len(names) > MAX_CLASSES:
        raise TaskError(
            f"The column {column!r} has {len(names):,} different values, which are too many for classes (at most "
            f"{MAX_CLASSES:,}). Add a column of coarser values."
        )
    code = {name: index for index, name in enumerate(names)}
    return np.array([code.get(value, -1) for value in values], np.int64), names


def _text(number: np.floating) -> str:
    """The short form of a number if it has the same value, else the full one; 0 for -0."""
    short = f"{number + 0:g}"
    return short if type(number)(short) == number else str(number)


def _usable(
    table: Dataset, codes: np.ndarray, protocol: str | None, where: str, label: str, notes: list[str]
) -> np.ndarray:
    """Row numbers of the rows of the protocol that have a label."""
    wanted = np.ones(len(table), bool)
    if protocol is not None:
        protocol_codes, names = label_codes(table, "protocol")
        if protocol not in names:
            raise TaskError(f"There is no protocol {protocol!r} in the data; it has {', '.join(names)}.")
        wanted = protocol_codes == names.index(protocol)
    rows = np.flatnonzero(wanted & (codes >= 0))
    dropped = int(wanted.sum()) - len(rows)
    if dropped:
        notes.append(f"{dropped:,} of {wanted.sum():,} rows of {where} are left out: their `{label}` is unknown.")
    if not len(rows):
        raise TaskError(f"No row of {where} has a `{label}`" + (f" and the protocol {protocol}." if protocol else "."))
    return rows


def _groups(table: Dataset, told: Sequence[str]) -> tuple[str, np.ndarray | None]:
    """What rows are grouped by, and the group number of each row; `None` if no column groups them or it is the label.

    A row without a recording, or a user, is a group of its own.
    """
    if "recording" in table.column_names and "recording" not in told:
        found = table.select_columns(["recording"]).with_format("arrow")[:].column(0).to_pylist()
        keys = [f"row {row}" if value in (None, "") else f"recording {value}" for row, value in enumerate(found)]
        return "recordings", np.unique(keys, return_inverse=True)[1]
    if "user" not in table.column_names or "user" in told:
        return "", None
    columns = [name for name in ("scenario", "user") if name in table.column_names]
    values = table.select_columns(columns).with_format("arrow")[:].to_pydict()
    scenarios = values.get("scenario", [""] * len(table))
    keys = [
        f"row {row}" if user in (None, -1) else f"{scenario}/{user}"
        for row, (scenario, user) in enumerate(zip(scenarios, values["user"], strict=True))
    ]
    return "channels (scenario, user)", np.unique(keys, return_inverse=True)[1]


def _split_off(
    rows: np.ndarray, codes: np.ndarray, groups: np.ndarray | None, share: float, seed: int, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` into those that stay and a share of them, or of their groups, for another part."""
    selection = require("sklearn.model_selection", "train")
    if groups is not None:
        members, of_row = np.unique(groups[rows], return_inverse=True)
        if len(members) < 2:
            raise TaskError(
                f"All {len(rows)} rows are of one recording or channel: none is left for {part}. Give a split for it."
            )
        pairs = np.unique(np.stack([of_row, codes[rows]]), axis=1)
        if len(pairs[0]) == len(members) and len(np.unique(pairs[1])) > 1:  # each group has a single class
            chosen = _some_of_each_class(pairs[1], share, np.random.default_rng([seed, len(rows)]))
            if not chosen:
                raise TaskError(
                    f"Each class has only one recording or channel: none is left for {part}. Give a split for it."
                )
            gone = np.isin(of_row, chosen)
            return rows[~gone], rows[gone]
        splitter = selection.GroupShuffleSplit(1, test_size=share, random_state=seed)
        stay, go = next(splitter.split(rows, groups=groups[rows]))
        return rows[stay], rows[go]
    # A class with a single row cannot be in both parts.
    stratify = codes[rows] if np.unique(codes[rows], return_counts=True)[1].min() > 1 else None
    try:
        stay, go = selection.train_test_split(rows, test_size=share, random_state=seed, stratify=stratify)
    except ValueError as error:
        raise TaskError(f"{len(rows)} rows cannot be split so that some are for {part}: {error}") from error
    return np.sort(stay), np.sort(go)


def _some_of_each_class(codes: np.ndarray, share: float, generator: np.random.Generator) -> list[int]:
    """A share of the members of each class, at least one, but leaving at least one."""
    chosen, order = [], generator.permutation(len(codes))
    for code in np.unique(codes):
        these = order[codes[order] == code]
        chosen += these[: min(max(1, round(share * len(these))), len(these) - 1)].tolist()
    return chosen


def _few_shot(rows: np.ndarray, codes: np.ndarray, names: list[str], num: int, seed: int) -> np.ndarray:
    generator, chosen = np.random.default_rng(seed), []
    for code in np.unique(codes[rows]):
        members = rows[codes[rows] == code]
        if len(members) < num:
            raise TaskError(
                f"Class {names[code]!r} has {len(members)} training rows; {num} of each class were requested. Request "
                "fewer, or generate more."
            )
        chosen.append(generator.choice(members, num, replace=False))
    return np.sort(np.concatenate(chosen))

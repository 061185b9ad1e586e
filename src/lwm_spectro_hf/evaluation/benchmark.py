"""Runs the benchmark: a line of JSON for each task, model, N and seed; existing results are not repeated."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, f1_score
from tqdm.auto import tqdm

from ..data.recipe import SNRS_DB
from ..files import read_json_lines, whole_file
from .baselines import MODELS, Model, Setting, is_trained, models_for
from .features import Checkpoint, FeatureStore
from .modulation_bound import ModulationBound
from .networks import IMAGENET
from .presets import Preset
from .tasks import (
    BenchmarkTask,
    Labels,
    Pool,
    available_shots,
    fingerprint,
    rows_for_testing,
    rows_for_training,
    split_record,
)

SCORE, BOUND, RUN = "score", "bound", "run"  # kinds of lines
_IDENTITY = (
    "preset",
    "budget",
    "pool",
    "labels",
    "task",
    "model",
    "shots",
    "seed",
    "checkpoint",
    "architecture",
    "imagenet",
)
_DOPPLERS_HZ = (0, 10, 20, 50, 100, 1000)  # edges of ranges; pedestrians reach up to 35, vehicles start at 19
# Hashes by preset and pool: of all labels, of those of the first 96 rows, and of the split of each task.
PUBLISHED_SPLITS = Path(__file__).with_name("splits.json")
_PACKAGES = ("lwm-spectro-hf", "torch", "transformers", "scikit-learn")


@dataclass(frozen=True)
class Cell:
    """One run: a task, a model, a number of shots and a seed."""

    task: BenchmarkTask
    name: str
    model: Model
    shots: int
    seed: int


class ResultsFile:
    """An append-only file of JSON lines.

    Args:
        path (`str` or `os.PathLike`): The file; continued if it exists.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.lines = read_json_lines(self.path)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            # Rewritten without the incomplete last line, to which the next line would be appended.
            with whole_file(self.path) as stream:
                stream.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.lines.append(line)

    def has(self, line: dict[str, Any], names: Iterable[str]) -> bool:
        """Whether there is a line of the same kind with the same values for these names."""
        names = ("kind", *names)
        return any(all(found.get(name) == line.get(name) for name in names) for found in self.lines)


class Benchmark:
    """All cells of a preset on one pool.

    Args:
        preset ([`Preset`]): Size of the benchmark.
        tasks (`Sequence[BenchmarkTask]`): Tasks to run.
        models (`Sequence[str]`): Names of `MODELS`.
        pool ([`Pool`]): Source of the rows.
        labels (`dict`): Labels of the rows of the pool.
        store ([`FeatureStore`]): The rows of the pool in every representation.
        out (`str` or `os.PathLike`): Folder of `results.jsonl` and `splits.json`.
        shots (`Sequence[int]`, *optional*): N for every task and model, in place of the preset's.
        imagenet (`Path`, *optional*): Folder of ImageNet weights.

    Raises:
        ValueError: For an unknown model, or if a task has too few rows for an N that was asked for by `shots`.
    """

    def __init__(
        self,
        preset: Preset,
        tasks: Sequence[BenchmarkTask],
        models: Sequence[str],
        pool: Pool,
        labels: Labels,
        store: FeatureStore,
        out: str | os.PathLike,
        shots: Sequence[int] | None = None,
        imagenet: Path | None = None,
    ):
        self.preset, self.tasks, self.labels, self.store = preset, tasks, labels, store
        self.checkpoint: Checkpoint = store.checkpoint
        self.pool, self.imagenet, self.out = pool, imagenet, Path(out)
        self.left_out: list[str] = []
        self._classes = {task.name: torch.from_numpy(task.labels(labels)) for task in tasks}
        self._test = {task.name: rows_for_testing(task, labels, preset.test_rows) for task in tasks}
        self.cells = [cell for task in tasks for cell in self._cells(task, list(models), shots)]
        self.common = {
            "preset": preset.name,
            "budget": json.loads(json.dumps(dataclasses.asdict(preset.budget))),
            "pool": pool.folder_name(self.checkpoint.extractor),
            "labels": fingerprint(labels),
        }
        # The bound holds for frames of whole symbols.
        self._bounded = [task for task in tasks if task.target == "modulation" and pool.receiver == "synchronous"]
        self.results = ResultsFile(self.out / "results.jsonl")

    def _cells(self, task: BenchmarkTask, names: list[str], shots: Sequence[int] | None) -> list[Cell]:
        available = available_shots(task, self.labels)
        chosen, reasons = models_for(names, task, self.checkpoint)
        wanted = self.preset.shots[task.name] if shots is None else tuple(sorted(set(shots)))
        few = [num for num in wanted if num > available]
        if few and shots is not None:
            rows_for_training(task, self.labels, few[0], 0)  # raises the error that explains it
        if few:
            reasons.append(f"N = {', '.join(map(str, few))}: the pool has {available} training rows a class")
        kept = [num for num in wanted if num <= available]
        taken = {name: kept if shots is not None else self._shots_of(name, task, kept) for name in chosen}
        skipped: dict[tuple[int, ...], list[str]] = {}
        for name, mine in taken.items():
            skipped.setdefault(tuple(num for num in kept if num not in mine), []).append(name)
        for nums, others in skipped.items():
            if nums:
                at = ", ".join(map(str, nums))
                reasons.append(f"{', '.join(others)} at N = {at}: not part of the preset {self.preset.name!r}")
        self.left_out += [f"{task.name}: {reason}" for reason in reasons]
        return [
            Cell(task, name, model, num, seed)
            for num in kept
            for seed in range(self.preset.seeds)
            for name, model in chosen.items()
            if num in taken[name]
        ]

    def _shots_of(self, name: str, task: BenchmarkTask, kept: list[int]) -> list[int]:
        """The N of a task at which the preset runs a model."""
        if not is_trained(name):
            return kept
        if MODELS[name].is_lwm:
            chosen = self.preset.finetuned_shots
        else:
            chosen = self.preset.imagenet_shots if name in IMAGENET else self.preset.trained_shots
        return [num for num in kept if num in chosen.get(task.name, ())]

    def run(self) -> list[dict[str, Any]]:
        """Run all cells that have no result yet.

        Returns:
            `list[dict]`: All lines of `results.jsonl`.
        """
        self._describe()
        missing = [cell for cell in self.cells if not self.results.has(self._identity(cell), _IDENTITY)]
        done = len(self.cells) - len(missing)
        with tqdm(missing, initial=done, total=len(self.cells), desc="benchmark", unit="run") as progress:
            for cell in progress:
                progress.set_postfix_str(f"{cell.task.name} {cell.name} N={cell.shots}")
                self.results.add(self._identity(cell) | self.score(cell))
        return self.results.lines

    def score(self, cell: Cell) -> dict[str, Any]:
        """Train and test one model; returns the columns of its result."""
        classes, rows = self._classes[cell.task.name], self._test[cell.task.name]
        train = torch.from_numpy(rows_for_training(cell.task, self.labels, cell.shots, cell.seed))
        test = torch.from_numpy(rows)
        kind = cell.model.representation
        num_classes = len(cell.task.classes)
        inputs, test_inputs = self.store.rows(kind, train), self.store.rows(kind, test)
        extraction_ms = self.store.milliseconds(kind)
        start = time.perf_counter()
        expert = cell.task.protocols[0] if len(cell.task.protocols) == 1 else None
        model = cell.model.make(
            Setting(
                num_classes,
                cell.seed,
                self.preset.budget,
                self.checkpoint,
                imagenet=self.imagenet,
                expert=expert if expert in self.checkpoint.experts else None,
            )
        )
        model.fit(inputs, classes[train])
        fitted = time.perf_counter()
        answer = model.predict(test_inputs).argmax(-1).numpy()
        end = time.perf_counter()
        truth, snr_db = classes[test].numpy(), self.labels["snr_db"][rows]
        parameters = model.num_parameters
        if kind in self.checkpoint.representations:
            parameters += self.checkpoint.num_parameters(kind)
        hits = answer == truth
        return {
            "accuracy": float(hits.mean()),
            "macro_f1": float(f1_score(truth, answer, labels=range(num_classes), average="macro")),
            "per_snr": {f"{value:g}": float(hits[snr_db == value].mean()) for value in SNRS_DB if value in snr_db},
            "mobility_per_doppler": self._mobility_per_doppler(cell.task, rows, truth, answer),
            "confusion": confusion_matrix(truth, answer, labels=range(num_classes)).tolist(),
            "classes": list(cell.task.classes),
            "test_rows": len(rows),
            "title": cell.model.title,
            "fit_seconds": round(fitted - start, 3),
            "milliseconds": round(extraction_ms + 1e3 * (end - fitted) / len(rows), 4),
            "parameters": int(parameters),
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        }

    def _mobility_per_doppler(
        self, task: BenchmarkTask, rows: np.ndarray, truth: np.ndarray, answer: np.ndarray
    ) -> dict[str, float]:
        """Accuracy for mobility by the largest Doppler shift of a row; empty for tasks without mobility."""
        if "mobility" not in task.target:
            return {}
        mobility = np.array([name.split("+")[1] for name in task.classes])
        told, doppler = mobility[answer] == mobility[truth], self.labels["doppler_hz"][rows]
        ranges = {f"{low} to {high} Hz": (low <= doppler) & (doppler < high) for low, high in pairwise(_DOPPLERS_HZ)}
        return {name: float(told[inside].mean()) for name, inside in ranges.items() if inside.any()}

    def _identity(self, cell: Cell) -> dict[str, Any]:
        return (
            {"kind": SCORE}
            | self.common
            | {
                "task": cell.task.name,
                "model": cell.name,
                "shots": cell.shots,
                "seed": cell.seed,
                "checkpoint": f"{self.checkpoint.folder.name} {self.checkpoint.digest}" if cell.model.is_lwm else None,
                "architecture": self.checkpoint.architecture if cell.name == "lwm-scratch" else None,
                "imagenet": bool(self.imagenet) and cell.name in IMAGENET,  # the other models do not use them
            }
        )

    def _describe(self) -> None:
        """Write the lines that do not depend on models, and the rows of the splits."""
        extractor = self.checkpoint.extractor
        bound = ModulationBound(extractor.num_frames, extractor.num_freq_bins, self.preset.bound_trials)
        for task in tqdm(self._bounded, desc="bound", leave=False):
            line = {"kind": BOUND} | self.common | {"task": task.name, "trials": self.preset.bound_trials}
            if not self.results.has(line, ("pool", "labels", "preset", "task", "trials")):
                self.results.add(line | bound.record(task, self.labels, self._test[task.name]))
        line = {"kind": RUN} | self.common | {"left_out": self.left_out}
        if not self.results.has(line, line):
            self.results.add(line)
        self._write_splits()

    def _write_splits(self) -> None:
        """Write the training and test rows of this call and of earlier calls on the same pool."""
        path = self.out / "splits.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        same = all(known.get(name) == self.splits[name] for name in ("pool", "labels"))
        tasks = dict(known["tasks"]) if same else {}
        for task in self.tasks:
            most = max((cell.shots for cell in self.cells if cell.task is task), default=0)
            records = [tasks.get(task.name), self.splits["tasks"][task.name]]
            if most * len(task.classes) > len(records[1]["shots"]["0"]):
                records.append(split_record(task, self.labels, self.preset.test_rows, most, self.preset.seeds))
            tasks[task.name] = max(filter(None, records), key=lambda record: len(record["shots"]["0"]))
        with whole_file(path) as stream:
            stream.write(json.dumps(self.splits | {"tasks": tasks}).encode() + b"\n")

    @cached_property
    def splits(self) -> dict[str, Any]:
        """Training and test rows, for all N of the preset that the pool has enough rows for."""
        tasks = {}
        for task in self.tasks:
            available = available_shots(task, self.labels)
            most = max((num for num in self.preset.shots[task.name] if num <= available), default=available)
            tasks[task.name] = split_record(task, self.labels, self.preset.test_rows, most, self.preset.seeds)
        return {"pool": self.common["pool"], "labels": self.common["labels"], "tasks": tasks}

    def differences(self) -> list[str]:
        """Differences from the splits published with the package; empty if none are published for this pool."""
        published = json.loads(PUBLISHED_SPLITS.read_text(encoding="utf-8")).get(
            f"{self.preset.name} {self.pool.name}"
        )
        if published is None:
            return []
        names = [] if published["labels"] == self.common["labels"] else ["the labels of the pool"]
        digests = {name: record["digest"] for name, record in self.splits["tasks"].items()}
        return names + [f"the split of {name}" for name in digests if digests[name] != published["tasks"].get(name)]

"""Few-shot tasks in a city that pretraining has not seen: their classes, and their training and test rows.

Recordings come from a pool, which is fixed by a recipe and a seed; a split depends only on the labels of the pool. A
channel, that is a user of a city, is on the same side of every split: a third of all users is for testing.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..channel.scenarios import HELD_OUT_SCENARIOS, list_scenarios
from ..data.builder import Split, build_parquet
from ..data.recipe import MOBILITIES, MODES, MODULATIONS, PROTOCOLS, SNRS_DB, Recipe, preset, stable_seed
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor

PRESETS_OF_RECEIVERS = {"synchronous": "paper", "blind": "blind"}  # presets of recipes
MOVING = ("pedestrian", "vehicular")
TEST_USERS = 3  # one user in this many is for testing
_IDENTITY = ("protocol", "modulation", "snr_db", "mobility", "user", "scenario", "index")

Labels = dict[str, np.ndarray]


@dataclass(frozen=True)
class BenchmarkTask:
    """One classification task.

    Attributes:
        name (`str`): Name on the command line.
        title (`str`): Name in tables.
        target (`str`): "snr_db+mobility" or "modulation".
        protocols (`tuple[str, ...]`): Protocols of its recordings.
        shots (`tuple[int, ...]`): Training spectrograms per class, as in the paper.
    """

    name: str
    title: str
    target: str
    protocols: tuple[str, ...]
    shots: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        if self.target == "modulation":
            sent = {name for protocol in self.protocols for name, _ in MODES[protocol]}
            return tuple(name for name in MODULATIONS if name in sent)
        return tuple(f"{snr_db}+{mobility}" for snr_db in SNRS_DB for mobility in MOVING)

    def labels(self, labels: Labels) -> np.ndarray:
        """The class of every row, shape `(num,)`, int64; -1 for rows that do not belong to the task."""
        ours = np.isin(labels["protocol"], [PROTOCOLS.index(name) for name in self.protocols])
        if self.target == "modulation":
            number = {MODULATIONS.index(name): place for place, name in enumerate(self.classes)}
            found = [number.get(value, -1) for value in labels["modulation"].tolist()]
        else:
            number = {
                (float(snr_db), MOBILITIES.index(mobility)): row * len(MOVING) + column
                for row, snr_db in enumerate(SNRS_DB)
                for column, mobility in enumerate(MOVING)
            }
            pairs = zip(labels["snr_db"].tolist(), labels["mobility"].tolist(), strict=True)
            found = [number.get(pair, -1) for pair in pairs]
        return np.where(ours, found, -1)


_MODULATION_SHOTS = (2, 4, 8, 16, 32, 64, 128, 256)
TASKS = {
    task.name: task
    for task in (
        BenchmarkTask(
            "joint-lte",
            "SNR and mobility, LTE (Table II)",
            "snr_db+mobility",
            ("LTE",),
            (5, 10, 20, 50, 100, 200, 400),
        ),
        BenchmarkTask(
            "joint-mixed",
            "SNR and mobility, WiFi, LTE and 5G (Table III)",
            "snr_db+mobility",
            PROTOCOLS,
            (100, 200, 400, 800, 1600, 3200),
        ),
        BenchmarkTask(
            "modulation", "Modulation, WiFi, LTE and 5G (Fig. 5)", "modulation", PROTOCOLS, _MODULATION_SHOTS
        ),
        *(
            BenchmarkTask(
                f"modulation-{name.lower()}", f"Modulation, {name}", "modulation", (name,), _MODULATION_SHOTS
            )
            for name in PROTOCOLS
        ),
    )
}


@dataclass(frozen=True)
class Pool:
    """The recordings of one city that all tasks draw from.

    All terminals move, since the joint tasks are about pedestrians and vehicles; every recording has a signal. For a
    leave-one-city-out study, give a city and a checkpoint that was trained without it.

    Attributes:
        num (`int`): Recordings.
        receiver (`str`): "synchronous" (the recipe "paper") or "blind" (the recipe "blind").
        city (`str`): A scenario by name or folder.
        seed (`int`): Of the recordings.
    """

    num: int
    receiver: str = "synchronous"
    city: str = HELD_OUT_SCENARIOS[0]
    seed: int = 0

    def __post_init__(self):
        if self.receiver not in PRESETS_OF_RECEIVERS:
            raise ValueError(
                f"There is no receiver {self.receiver!r}; expected one of {', '.join(PRESETS_OF_RECEIVERS)}."
            )
        if self.city not in list_scenarios() and not Path(self.city).is_dir():
            raise ValueError(
                f"There is no city {self.city!r}; expected one of {', '.join(list_scenarios())}, or a folder."
            )

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.receiver}-{Path(self.city).name}-{self.num}-seed{self.seed}"

    def folder_name(self, extractor: SpectrogramFeatureExtractor) -> str:
        """The name of its folder: the spectrograms depend on the front-end, too."""
        return f"{self.name}-{hashlib.sha256(extractor.to_json_string().encode()).hexdigest()[:8]}"

    def recipe(self, extractor: SpectrogramFeatureExtractor) -> Recipe:
        """The recipe of its recordings, for the frames of a front-end."""
        return preset(PRESETS_OF_RECEIVERS[self.receiver]).narrowed(
            channels=(self.city,),
            mobilities=MOVING,
            noise_share=0.0,
            num_frames=extractor.num_frames,
            fft_size=extractor.fft_size,
        )

    def build(self, cache: str | os.PathLike, extractor: SpectrogramFeatureExtractor, processes: int = 1) -> Path:
        """Generate the recordings, or those that are missing; resumes a build that was stopped.

        Args:
            cache (`str` or `os.PathLike`): Folder of all pools.
            extractor ([`SpectrogramFeatureExtractor`]): The front-end of the checkpoint.
            processes (`int`, *optional*, defaults to 1): Workers.

        Returns:
            `Path`: The folder of this pool, with one split, "test".
        """
        folder = Path(cache) / self.folder_name(extractor)
        build_parquet(
            folder, {"test": Split(self.recipe(extractor), self.num)}, self.seed, extractor, processes=processes
        )
        return folder


def is_test_user(labels: Labels) -> np.ndarray:
    """Whether the channel of each row is for testing, shape `(num,)`.

    Raises:
        ValueError: If a row has no user, so that it is unknown which rows share a channel.
    """
    if (labels["user"] < 0).any():
        raise ValueError(
            f"{int((labels['user'] < 0).sum())} rows have no user, so it is unknown which of them share a channel; "
            "expected recordings of a city."
        )
    channels = list(zip(labels["scenario"].tolist(), labels["user"].tolist(), strict=True))
    for_test = {channel: stable_seed("test user", *channel) % TEST_USERS == 0 for channel in set(channels)}
    return np.array([for_test[channel] for channel in channels], dtype=bool)


def available_shots(task: BenchmarkTask, labels: Labels) -> int:
    """Number of training rows of the smallest class."""
    return min(len(rows) for rows in _rows_by_class(task, labels, False, "shots"))


def rows_for_training(task: BenchmarkTask, labels: Labels, shots: int, seed: int) -> np.ndarray:
    """Rows to train on: `shots` of each class; with the same seed, more shots include all of fewer shots.

    Args:
        task ([`BenchmarkTask`]): The task.
        labels (`dict`): Of the pool, see [`~data.parquet.load_labels`].
        shots (`int`): Rows of each class.
        seed (`int`): Decides which ones.

    Returns:
        `np.ndarray` of shape `(shots * num_classes,)`: The first of every class, then the second, and so on.

    Raises:
        ValueError: If a class has fewer rows.
    """
    by_class = _rows_by_class(task, labels, False, "shots", seed)
    fewest = min(map(len, by_class))
    if not 1 <= shots <= fewest:
        raise ValueError(
            f"{task.name} has {fewest} training rows in its smallest class, but {shots} per class were requested: "
            "choose from 1 to that many, or a larger pool."
        )
    return np.stack([rows[:shots] for rows in by_class], 1).ravel()


def rows_for_testing(task: BenchmarkTask, labels: Labels, max_rows: int) -> np.ndarray:
    """Rows to test on, equally many of each class, `max_rows` at most. They are the same for every seed and N.

    Raises:
        ValueError: If a class has no row, or there are more classes than rows allowed.
    """
    by_class = _rows_by_class(task, labels, True, "test")
    count = min(max_rows // len(by_class), *map(len, by_class))
    if count < 1:
        raise ValueError(
            f"{task.name} has {min(map(len, by_class))} test rows in its smallest class, and {max_rows} rows are "
            f"allowed for {len(by_class)} classes; expected at least one row per class. Use a larger pool."
        )
    return np.stack([rows[:count] for rows in by_class], 1).ravel()


def _rows_by_class(task: BenchmarkTask, labels: Labels, for_test: bool, *key: Any) -> list[np.ndarray]:
    """Rows of each class on one side of the split, in a random order given by the key."""
    classes = np.where(is_test_user(labels) == for_test, task.labels(labels), -1)
    index = labels["index"].tolist()
    return [
        np.array(
            sorted(np.flatnonzero(classes == number).tolist(), key=lambda row: stable_seed(*key, index[row])),
            dtype=np.int64,
        )
        for number in range(len(task.classes))
    ]


def fingerprint(labels: Labels) -> str:
    """Sixteen hexadecimal digits that identify a pool: a hash of the labels of all rows, in order."""
    digest = hashlib.sha256()
    for name in _IDENTITY:
        values = labels[name].tolist()
        digest.update(json.dumps([name, values]).encode())
    return digest.hexdigest()[:16]


def split_record(task: BenchmarkTask, labels: Labels, max_test_rows: int, shots: int, seeds: int) -> dict[str, Any]:
    """Training and test rows, so that others can use the same.

    Returns:
        `dict`: `classes`, their names; `test`, row numbers; `shots`, row numbers by seed: N shots per class are the
        first N x `num_classes` of them; `digest`, a hash of all three.
    """
    record = {
        "classes": list(task.classes),
        "test": rows_for_testing(task, labels, max_test_rows).tolist(),
        "shots": {str(seed): rows_for_training(task, labels, shots, seed).tolist() for seed in range(seeds)},
    }
    return record | {"digest": hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]}

"""From a recipe to files: Parquet (built in parallel), SigMF or NumPy archives. Reproducible; the first two resume."""

import json
import math
import multiprocessing
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features, List, Value
from tqdm.auto import tqdm

from ..channel.scenarios import HELD_OUT_SCENARIOS, is_held_out
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..files import read_json, whole_file
from .front_end import default_extractor
from .recipe import MOBILITIES, MODULATIONS, PROTOCOLS, RECEIVERS, RECORD, Recipe, stable_seed
from .recordings import write_sigmf
from .synthesis import LabelledRecordings, check_channels, draw_recordings, recording_length

CONTENTS = ("spectrogram", "iq")
_CHUNKS_MEASURED = 64


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        recipe ([`Recipe`]): What to generate.
        num (`int`): Number of recordings.
    """

    recipe: Recipe
    num: int


def splits_by_city(recipe: Recipe, num: int, num_test: int | None = None, add_test: bool = False) -> dict[str, Split]:
    """Split a recipe by city: a train split, and a test split of held-out cities that training never sees.

    Args:
        recipe ([`Recipe`]): What to generate; a held-out city among its channels moves to the split "test".
        num (`int`): Recordings of the train split, or of the test split if that is the only one.
        num_test (`int`, *optional*): Recordings of the test split; a tenth of `num` by default.
        add_test (`bool`, *optional*, defaults to `False`): Add the held-out city if the recipe does not have it.
    """
    held_out = tuple(name for name in recipe.channels if is_held_out(name))
    seen = tuple(name for name in recipe.channels if name not in held_out)
    if add_test and not held_out:
        held_out = HELD_OUT_SCENARIOS
    splits = {}
    if seen:
        splits["train"] = Split(replace(recipe, channels=seen), num)
    if held_out:
        num_test = (max(num // 10, 1) if num_test is None else num_test) if seen else num
        splits["test"] = Split(replace(recipe, channels=held_out), num_test)
    return {name: split for name, split in splits.items() if split.num}


@dataclass(frozen=True)
class Shard:
    """One file of a data set.

    Attributes:
        path (`Path`): Where to write it.
        first, last (`int`): Its range of rows, `last` exclusive.
        make (`Callable[[int, int], Iterable[dict]]`): Yields the rows of a range as columns, some at a time; must be
            picklable for several processes.
        schema (`datasets.Features`): Of the columns.
        row_bytes (`float`): Approximate size of a row.
    """

    path: Path
    first: int
    last: int
    make: Callable[[int, int], Iterable[dict[str, Any]]]
    schema: Features
    row_bytes: float

    @property
    def num(self) -> int:
        """`int`: Number of rows."""
        return self.last - self.first


def shards_of(folder: Path, split: str, num: int, shard_size: int, **fields: Any) -> list[Shard]:
    """The files of a split of `num` rows; `fields` are the remaining ones of [`Shard`]."""
    count = -(-num // shard_size)
    return [
        Shard(
            path=folder / "data" / f"{split}-{shard:05d}-of-{count:05d}.parquet",
            first=shard * shard_size,
            last=min((shard + 1) * shard_size, num),
            **fields,
        )
        for shard in range(count)
    ]


def split_seed(seed: int, split: str) -> int:
    """The seed of a split, so that splits of a data set share no random draws."""
    return stable_seed("split", seed, split) % 2**31


def make_rows(
    recipe: Recipe,
    first: int,
    last: int,
    seed: int = 0,
    extractor: SpectrogramFeatureExtractor | None = None,
    contents: tuple[str, ...] = ("spectrogram",),
) -> Iterator[tuple[LabelledRecordings, dict[str, Any]]]:
    """Make recordings `first` to `last` (exclusive) of a recipe, chunk by chunk.

    The result depends on the arguments alone: chunks are generated whole, on one thread, and then cut.

    Yields:
        `tuple`: the whole chunk, and its wanted rows as columns of a table.
    """
    with _one_thread():
        for chunk in range(first // recipe.chunk_size, -(-last // recipe.chunk_size)):
            batch = draw_recordings(recipe, chunk, seed)
            start = chunk * recipe.chunk_size
            keep = slice(max(first - start, 0), last - start)
            columns: dict[str, Any] = {}
            if "spectrogram" in contents:
                columns["input_values"] = extractor.spectrogram(batch.iq[keep]).half().numpy()
                resolution = extractor.resolution(batch.iq.shape[1], batch.sampling_rate, batch.frame_step_s).numpy()
                columns["resolution"] = np.tile(resolution, (len(columns["input_values"]), 1))
            if "iq" in contents:
                columns["iq"] = torch.view_as_real(batch.iq[keep]).numpy()
            columns |= labels(batch, recipe, seed, keep)
            yield batch, columns


def labels(batch: LabelledRecordings, recipe: Recipe, seed: int, keep: slice = slice(None)) -> dict[str, Any]:
    """The labels of a chunk as columns: NumPy arrays and lists of equal length."""
    columns = {
        name: getattr(batch, name)[keep].cpu().numpy()
        for name in ("protocol", "modulation", "code_rate", "snr_db", "mobility", "speed_mps", "doppler_hz", "user")
    }
    count = len(columns["protocol"])
    columns["scenario"] = [
        Path(recipe.channels[channel]).name if channel >= 0 else "none" for channel in batch.channel[keep].tolist()
    ]
    columns["receiver"] = [RECEIVERS.index(batch.receiver)] * count
    for name in ("sampling_rate", "bandwidth_hz", "carrier_hz"):
        columns[name] = [float(getattr(batch, name))] * count
    columns["seed"] = [seed] * count
    columns["index"] = batch.index[keep].cpu().numpy()
    return columns


def features(extractor: SpectrogramFeatureExtractor | None, contents: tuple[str, ...]) -> Features:
    """The schema of the Parquet files. A class label of -1 means that there is none."""
    columns: dict[str, Any] = {}
    if "spectrogram" in contents:
        shape = (extractor.feature_size, extractor.num_frames, extractor.num_freq_bins)
        columns["input_values"] = Array3D(shape, "float16")
        columns["resolution"] = List(Value("float32"), length=2)
    if "iq" in contents:
        columns["iq"] = Array2D((None, 2), "float32")
    for name, names in (("protocol", PROTOCOLS), ("modulation", MODULATIONS)):
        columns[name] = ClassLabel(names=list(names))
    columns |= {name: Value("float32") for name in ("code_rate", "snr_db")}
    columns["mobility"] = ClassLabel(names=list(MOBILITIES))
    columns |= {name: Value("float32") for name in ("speed_mps", "doppler_hz")}
    columns |= {"user": Value("int32"), "scenario": Value("string"), "receiver": ClassLabel(names=list(RECEIVERS))}
    columns |= {name: Value("float64") for name in ("sampling_rate", "bandwidth_hz", "carrier_hz")}
    return Features(columns | {"seed": Value("int64"), "index": Value("int64")})


def build_parquet(
    folder: str | os.PathLike,
    splits: dict[str, Split],
    seed: int = 0,
    extractor: SpectrogramFeatureExtractor | None = None,
    contents: tuple[str, ...] = ("spectrogram",),
    shard_size: int | None = None,
    processes: int = 1,
) -> list[Path]:
    """Write a data set that `datasets.load_dataset(folder)` reads, also with `streaming=True`.

    Shards are written atomically. A stopped build resumes: existing shards are kept. The bytes do not depend on the
    number of processes.

    Args:
        folder (`str` or `os.PathLike`): Output folder; created if missing.
        splits (`dict[str, Split]`): Splits by name ("train", "test").
        seed (`int`, *optional*, defaults to 0): Of the data set.
        extractor ([`SpectrogramFeatureExtractor`], *optional*): The front-end; with two windows by default.
        contents (`tuple[str, ...]`, *optional*): What a row holds beside its labels: "spectrogram", "iq" or both.
        shard_size (`int`, *optional*): Rows per file; by default 512, rounded up to whole chunks.
        processes (`int`, *optional*, defaults to 1): Workers; each uses one thread.

    Returns:
        `list[Path]`: All shards, in order.

    Raises:
        ValueError: If the folder holds a data set of another recipe, or an argument is invalid.
        OSError: If the disk has too little space.
    """
    folder = Path(folder).expanduser()
    if shard_size is None:
        chunk_size = math.lcm(*(split.recipe.chunk_size for split in splits.values()))
        shard_size = -(-512 // chunk_size) * chunk_size
    _check(splits, contents, shard_size, processes)
    if extractor is None:
        sizes = {(split.recipe.num_frames, split.recipe.fft_size) for split in splits.values()}
        if len(sizes) > 1:
            raise ValueError(f"Splits have spectrograms of {len(sizes)} sizes, {sorted(sizes)}; expected one.")
        extractor = default_extractor(*sizes.pop())
    shards = []
    for name, split in splits.items():
        own_seed = split_seed(seed, name)
        shards += shards_of(
            folder,
            name,
            split.num,
            shard_size,
            make=partial(_columns, split.recipe, own_seed, extractor, contents),
            schema=features(extractor, contents),
            row_bytes=_row_bytes(split.recipe, own_seed, extractor, contents),
        )
    record = {
        "seed": seed,
        "shard_size": shard_size,
        "contents": list(contents),
        "front_end": extractor.to_dict(),
        "splits": {
            name: {"num": split.num, "recipe": json.loads(split.recipe.to_json())} for name, split in splits.items()
        },
    }
    return write_shards(folder, shards, record, processes)


def _columns(recipe: Recipe, seed: int, extractor: SpectrogramFeatureExtractor, contents: tuple[str, ...], *rows: int):
    for _, columns in make_rows(recipe, *rows, seed, extractor, contents):
        yield columns


def write_shards(folder: Path, shards: list[Shard], record: dict[str, Any], processes: int = 1) -> list[Path]:
    """Write the missing files of a data set, each whole or not at all, and a record of what it was built from.

    Args:
        folder (`Path`): Output folder; created if missing.
        shards (`list[Shard]`): All files of the data set.
        record (`dict`): What the data set depends on; a folder begun with another record is refused.
        processes (`int`, *optional*, defaults to 1): Workers; each uses one thread.

    Returns:
        `list[Path]`: All files, in order.

    Raises:
        ValueError: If the folder holds another data set, or files of something else.
        OSError: If the disk has too little space, or the folder is a file.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    _begin(folder, record, sum(shard.num * shard.row_bytes for shard in missing))
    total = sum(shard.num for shard in shards)
    done = total - sum(shard.num for shard in missing)
    with tqdm(total=total, initial=done, desc=f"{folder.name}", unit="rec", smoothing=0) as progress:
        for written in _run(missing, processes):
            progress.update(written)
    return [shard.path for shard in shards]


def _run(shards: list[Shard], processes: int) -> Iterator[int]:
    if processes == 1 or len(shards) < 2:
        yield from map(_write_shard, shards)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(shards)), context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_write_shard, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this worker end when the process that started it is killed; otherwise it would wait for work forever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard(shard: Shard) -> int:
    columns: dict[str, list] = {name: [] for name in shard.schema}
    with _one_thread():
        for rows in shard.make(shard.first, shard.last):
            for name, values in rows.items():
                columns[name].extend(values)
    table = Dataset.from_dict(columns, features=shard.schema).with_format("arrow")[:]
    table = table.replace_schema_metadata(shard.schema.arrow_schema.metadata)
    with whole_file(shard.path) as stream:
        # Spectrograms hardly compress. Small row groups allow reading scattered rows.
        pq.write_table(table, stream, compression="zstd", row_group_size=128)
    return shard.num


def write_recordings(folder: str | os.PathLike, recipe: Recipe, num: int, seed: int = 0) -> list[Path]:
    """Write recordings as SigMF, one per file, with the parameters that a third-party receiver needs.

    Existing files are kept; a folder is tied to one recipe and seed. The annotation of each file holds, under `lwm:`,
    the labels and the parameters of the sender (`cell_id`, `rnti`, `mcs`, `rate_mbps` and so on; see
    docs/generator.md).

    Args:
        folder (`str` or `os.PathLike`): Output folder; created if missing.
        recipe ([`Recipe`]): What to generate.
        num (`int`): Number of recordings.
        seed (`int`, *optional*, defaults to 0): Of the recordings.

    Returns:
        `list[Path]`: The `.sigmf-meta` files.

    Raises:
        ValueError: If the folder holds recordings of another recipe or seed, or files of something else.
        OSError: If the disk has too little space, or the folder is a file.
    """
    folder = Path(folder).expanduser()
    check_channels(recipe)
    paths = {  # by the number of the recording
        int(number[1]): path
        for path in folder.glob("*.sigmf-meta")
        if (number := re.fullmatch(r"[a-z0-9]+-(\d{6,})", path.stem))
    }
    missing = [number for number in range(num) if number not in paths]
    row_bytes = _row_bytes(recipe, seed, None, ("iq",))
    _begin(folder, {"seed": seed, "recipe": json.loads(recipe.to_json())}, len(missing) * row_bytes)
    with tqdm(total=num, initial=num - len(missing), desc=folder.name, unit="rec", smoothing=0) as progress:
        for chunk in dict.fromkeys(number // recipe.chunk_size for number in missing):
            first = chunk * recipe.chunk_size
            ((batch, columns),) = make_rows(recipe, first, min(first + recipe.chunk_size, num), seed, contents=("iq",))
            for row, number in enumerate(columns["index"].tolist()):
                if number in paths:
                    continue
                mark = _annotation(batch, columns, row)
                paths[number] = write_sigmf(
                    folder / f"{str(mark['lwm:protocol']).lower()}-{number:06d}",
                    batch.iq[row].numpy(),
                    batch.sampling_rate,
                    [mark],
                    description=f"generated {mark['lwm:protocol']} downlink, see its annotation",
                    # The other receivers have the carrier somewhere in their band.
                    center_frequency_hz=batch.carrier_hz if batch.receiver == "native" else None,
                    global_info={"core:author": "lwm-spectro-hf"},
                )
                progress.update()
    return [paths[number] for number in range(num)]


def _annotation(batch: LabelledRecordings, columns: dict[str, Any], row: int) -> dict[str, Any]:
    names = {"protocol": PROTOCOLS, "modulation": MODULATIONS, "mobility": MOBILITIES, "receiver": RECEIVERS}
    mark: dict[str, Any] = {}
    for name, values in columns.items():
        if name == "iq":
            continue
        value = values[row]
        value = value.item() if isinstance(value, np.generic) else value
        if name in names:
            value = names[name][value] if value >= 0 else "none"
        elif isinstance(value, float):
            # JSON has no infinity, and strict readers reject the bare word that Python would write for it.
            value = round(value, 9) if np.isfinite(value) else str(value)
        mark[f"lwm:{name}"] = value
    for name, values in batch.parameters.items():
        value = values[row].item()
        mark[f"lwm:{name}"] = round(value, 6) if isinstance(value, float) else int(value)
    return {"core:label": str(mark["lwm:protocol"])} | mark


def write_arrays(
    path: str | os.PathLike,
    recipe: Recipe,
    num: int,
    seed: int = 0,
    extractor: SpectrogramFeatureExtractor | None = None,
    contents: tuple[str, ...] = ("spectrogram",),
) -> Path:
    """Write one NumPy archive for `np.load`, with an array per column. I/Q requires recordings of one length.

    Raises:
        ValueError: If the contents are unknown, or I/Q recordings differ in length.
        OSError: If the path is a folder, or the disk has too little space.
    """
    _check_contents(contents)
    path, extractor = Path(path).expanduser(), extractor or default_extractor(recipe.num_frames, recipe.fft_size)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file to write, such as {path / 'a.npz'}.")
    check_channels(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_space(path.parent, num * _row_bytes(recipe, seed, extractor, contents))
    parts: dict[str, list] = {}
    with tqdm(total=num, desc=path.name, unit="rec") as progress:
        for _, columns in make_rows(recipe, 0, num, seed, extractor, contents):
            for name, values in columns.items():
                parts.setdefault(name, []).append(np.asarray(values))
            lengths = {part.shape[1] for part in parts.get("iq", [])}
            if len(lengths) > 1:
                raise ValueError(
                    f"Recordings of {min(lengths)} and {max(lengths)} samples do not fit into one array of I/Q: write "
                    "Parquet or SigMF, or fix protocol, bandwidth and receiver."
                )
            progress.update(len(columns["index"]))
    with whole_file(path) as stream:
        np.savez(stream, **{name: np.concatenate(values) for name, values in parts.items()})
    return path


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: the number of threads decides how sums are split, and so changes their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_contents(contents: tuple[str, ...]) -> None:
    if not contents or any(name not in CONTENTS for name in contents):
        raise ValueError(f"contents is {contents}; expected some of {', '.join(CONTENTS)}.")


def _check(splits: dict[str, Split], contents: tuple[str, ...], shard_size: int, processes: int) -> None:
    _check_contents(contents)
    if not splits:
        raise ValueError("No split was given; expected at least one, such as {'train': Split(recipe, 1000)}.")
    for name, split in splits.items():
        if split.num < 1:
            raise ValueError(f"Split {name!r} has {split.num} recordings; expected at least 1.")
        if shard_size % split.recipe.chunk_size:
            raise ValueError(
                f"shard_size is {shard_size}; expected a multiple of the recipe's chunk_size, "
                f"{split.recipe.chunk_size}."
            )
        check_channels(split.recipe)
    if processes < 1:
        raise ValueError(f"processes is {processes}; expected at least 1.")


def _begin(folder: Path, record: dict[str, Any], needed: float) -> None:
    """Make the folder of a data set that needs `needed` bytes more, or check that it is that of this data set."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected the name of a folder to write.")
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, needed)
    _check_record(folder, record)


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a new data set, or check that the folder's data set was begun with the same one."""
    record = json.loads(json.dumps(record))
    path = folder / RECORD
    # A record without other files is left by a build that failed before its first file.
    if path.exists() and any(file.is_file() and file.name[0] != "." and file != path for file in folder.rglob("*")):
        found = read_json(path)
        different = [name for name in record if found.get(name) != record[name]]
        if different:
            raise ValueError(
                f"{folder} holds a data set that was begun with different settings ({', '.join(different)}: see "
                f"{RECORD} there). Use the same settings, or write to another folder."
            )
        return
    # Files that the data set would replace, or be taken for a part of it.
    for pattern in ("README.md", "data/*.parquet", "*.sigmf-meta"):
        for file in folder.glob(pattern):
            raise ValueError(
                f"{folder} holds {file.relative_to(folder)} but no {RECORD}, so it is not a data set that can be "
                "continued: write to another folder."
            )
    with whole_file(path) as stream:
        stream.write(json.dumps(record, indent=2).encode() + b"\n")


def _row_bytes(
    recipe: Recipe, seed: int, extractor: SpectrogramFeatureExtractor | None, contents: tuple[str, ...]
) -> float:
    """Approximate size of a recording in bytes, averaged over the first chunks."""
    row = 200.0
    if "spectrogram" in contents:
        row += 2 * extractor.feature_size * extractor.num_frames * extractor.num_freq_bins
    if "iq" in contents:
        row += 8 * sum(recording_length(recipe, chunk, seed) for chunk in range(_CHUNKS_MEASURED)) / _CHUNKS_MEASURED
    return row


def _check_space(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        unit, name = (1e9, "GB") if needed >= 1e9 else (1e6, "MB")
        raise OSError(
            f"The data set needs about {needed / unit:.1f} {name} more, but {folder} has only {free / unit:.1f} "
            f"{name} free: make fewer recordings, or write elsewhere."
        )

"""Spectrograms from Parquet shards: a whole split at once, or shuffled blocks with only one in memory at a time."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .recipe import PROTOCOLS, stable_seed

_LABELS = ("protocol", "modulation", "snr_db", "mobility")


def load_spectrograms(folder: str | os.PathLike, split: str, num: int | None = None) -> dict[str, torch.Tensor]:
    """Read a split into memory, one tensor per column, without a detour through Python objects.

    Args:
        folder (`str` or `os.PathLike`): Written by [`~data.builder.build_parquet`].
        split (`str`): Name of the split.
        num (`int`, *optional*): Read at most this many rows, the first ones; all by default.

    Returns:
        `dict`: `input_values` of shape `(num, num_channels, num_frames, num_freq_bins)`, float16, and numeric labels
        of shape `(num,)`.

    Raises:
        FileNotFoundError: If the folder does not have the split, or not all files of it.
        ValueError: If a file is damaged, or holds something else.
    """
    paths = _with_spectrograms(folder, split)
    names = [name for name in _names(paths) if name not in ("iq", "scenario")]
    total = sum(_num_rows(path) for path in paths)
    total = total if num is None else min(num, total)
    found: dict[str, torch.Tensor] = {}
    row = 0
    for path in paths:
        if row == total:
            break
        table = _table(path, names)[: total - row]
        for name in names:
            part = _tensor(table.column(name))
            if name == "input_values":
                _check_finite(part, path, np.arange(len(part)))
            if name not in found:
                found[name] = part.new_empty(total, *part.shape[1:])
            found[name][row : row + len(part)] = part
        row += len(table)
    return found


def load_labels(folder: str | os.PathLike, split: str) -> dict[str, np.ndarray]:
    """Read all labels of a split, including the name of the scenario, but not the spectrograms.

    Args:
        folder (`str` or `os.PathLike`): Written by [`~data.builder.build_parquet`].
        split (`str`): Name of the split.

    Returns:
        `dict`: Arrays of shape `(num,)`; `scenario` holds text.

    Raises:
        FileNotFoundError: If the folder does not have the split, or not all files of it.
        ValueError: If a file is damaged, or holds something else.
    """
    paths = _shards(folder, split)
    names = [name for name in _names(paths) if name not in ("iq", "input_values")]
    if "scenario" not in names:
        raise ValueError(f"{folder} has the columns {', '.join(names)}; expected labelled spectrograms.")
    table = pa.concat_tables(_table(path, names) for path in paths)
    columns = {name: table.column(name).to_numpy() for name in names}
    return columns | {"scenario": columns["scenario"].astype(str)}


def _shards(folder: str | os.PathLike, split: str) -> list[Path]:
    paths = sorted((Path(folder).expanduser() / "data").glob(f"{split}-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no split {split!r}; build it first with `lwm-spectro generate`.")
    wanted = {int(found[1]) for path in paths if (found := re.search(r"-of-(\d+)$", path.stem))}
    if wanted and wanted != {len(paths)}:
        raise FileNotFoundError(
            f"{folder} has {len(paths)} of the {max(wanted)} files of its split {split!r}, so it is incomplete. Run "
            "the command that builds it again; it continues from there."
        )
    return paths


def _with_spectrograms(folder: str | os.PathLike, split: str) -> list[Path]:
    paths = _shards(folder, split)
    names = _names(paths)
    if "input_values" not in names:
        raise ValueError(
            f"{folder} has the columns {', '.join(names)}; expected spectrograms, `input_values`. Build it with "
            "`lwm-spectro generate --content spectrogram`, or with both contents."
        )
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete the file, and build it again.") from None


def _names(paths: list[Path]) -> list[str]:
    with _opened(paths[0]) as file:
        return file.schema_arrow.names


def _num_rows(path: Path) -> int:
    with _opened(path) as file:
        return file.metadata.num_rows


def _table(path: Path, columns: list[str]) -> pa.Table:
    with _opened(path) as file:
        return file.read(columns)


def _tensor(column: pa.ChunkedArray) -> torch.Tensor:
    """A column of numbers, or of nested lists of equal lengths, as one tensor."""
    values, shape = column.combine_chunks(), [len(column)]
    values = getattr(values, "storage", values)  # unwraps the extension type that `datasets` registers
    while isinstance(values.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        values = values.flatten()
        shape.append(len(values) // int(np.prod(shape)))
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).reshape(shape).copy())


def _check_finite(input_values: torch.Tensor, path: Path, rows: np.ndarray) -> None:
    """Raise `ValueError` if a spectrogram has NaN or infinite values; `rows` are their row numbers in the file."""
    wrong = (~input_values.flatten(1).isfinite().all(1)).nonzero()
    if len(wrong):
        raise ValueError(
            f"Row {rows[int(wrong[0, 0])]} of {path} holds a spectrogram with values that are NaN or infinite: delete "
            "the file, and build it again."
        )


def _shares(sizes: dict[str | os.PathLike, int], total: int) -> dict[str | os.PathLike, int]:
    """Divide `total` evenly over the sizes, at most half of each; larger ones make up for those that are too small."""
    shares = {}
    for number, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        shares[name] = min(size // 2, -(-total // (len(sizes) - number)))
        total -= shares[name]
    return shares


class TooFewRowsError(ValueError):
    """A split has too few rows for a single block."""


class ParquetSpectrograms:
    """Blocks of a split that `build_parquet` wrote, sharded over processes.

    Rows of the chosen protocol are grouped into chunks of neighboring rows, which are read together. Every epoch
    shuffles the chunks, and the rows of each chunk. Rows left over after the last full chunk are not used.

    Args:
        folders (`str`, `os.PathLike` or a list of them): Of the data set, or of several that are read as one.
        split (`str`, *optional*, defaults to `"train"`): Name of the split.
        protocol (`str`, *optional*): Read only rows of this protocol; all by default.
        chunk_size (`int`, *optional*, defaults to 128): Rows per chunk.
        chunks_per_batch (`int`, *optional*, defaults to 4): Chunks per block of this process.
        seed (`int`, *optional*, defaults to 0): Of the order.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where blocks go.
        rank (`int`, *optional*, defaults to 0): Of this process.
        num_replicas (`int`, *optional*, defaults to 1): Processes that share the data.
        kept_back (`int`, *optional*, defaults to 0): Number of held-out rows: the last ones of each data set, equally
            many of each as far as possible, at most half of each. Naming a data set repeatedly changes nothing.
        only_kept_back (`bool`, *optional*, defaults to `False`): Use only the held-out rows, once.
        in_memory (`bool`, *optional*, defaults to `False`): Keep used rows in memory once read, 64 KiB each with two
            windows. Otherwise, reading rows of one protocol decodes those of all protocols each time.

    Raises:
        FileNotFoundError: If a folder does not have the split, or not all files of it.
        ValueError: If a file is damaged, or holds no spectrograms.
        TooFewRowsError: If there are too few rows of the protocol for one block.
    """

    def __init__(
        self,
        folders: str | os.PathLike | Sequence[str | os.PathLike],
        split: str = "train",
        protocol: str | None = None,
        chunk_size: int = 128,
        chunks_per_batch: int = 4,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        num_replicas: int = 1,
        kept_back: int = 0,
        only_kept_back: bool = False,
        in_memory: bool = False,
    ):
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        if only_kept_back:
            folders = list(dict.fromkeys(folders))
        self.chunk_size, self.chunks_per_batch, self.seed, self.device = chunk_size, chunks_per_batch, seed, device
        self.rank, self.num_replicas = rank, num_replicas
        self._in_memory, self._kept = in_memory, {}
        self.paths: list[Path] = []
        found = [self._rows_in(_with_spectrograms(folder, split), protocol) for folder in folders]
        shares = _shares(dict(zip(folders, map(len, found), strict=True)), kept_back)
        parts = []
        for folder, rows in zip(folders, found, strict=True):
            end = len(rows) - shares[folder]
            parts.append(rows[end:] if only_kept_back else rows[:end])
        self._shard, self._row = np.concatenate(parts).T
        self._chunks = range(len(self._row) // chunk_size)
        if len(self._chunks) < chunks_per_batch * num_replicas:
            names = ", ".join(map(str, folders))
            raise TooFewRowsError(
                f"{names} has {len(self._row)} rows of {protocol or 'all protocols'} in its split {split!r} for this "
                f"use, {len(self._chunks)} chunks of {chunk_size}; expected at least "
                f"{chunks_per_batch * num_replicas}, one block. Build more, or use smaller or fewer chunks."
            )

    def _rows_in(self, paths: list[Path], protocol: str | None) -> np.ndarray:
        """The wanted rows of a data set, each as its index into `self.paths` and its row in that shard, `(num, 2)`."""
        parts = []
        for path in paths:
            protocols = _table(path, ["protocol"]).column("protocol").to_numpy()
            wanted = np.flatnonzero(protocols == PROTOCOLS.index(protocol)) if protocol else np.arange(len(protocols))
            parts.append(np.stack([np.full(len(wanted), len(self.paths)), wanted], 1))
            self.paths.append(path)
        return np.concatenate(parts)

    def rows(self) -> dict[str, torch.Tensor]:
        """All used rows in their original order, with the columns of [`batch`]."""
        parts = [self._read(self.paths[shard], self._row[self._shard == shard]) for shard in np.unique(self._shard)]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        columns["input_values"] = columns["input_values"].float()
        columns["index"] = torch.arange(len(self._row))
        return {name: column.to(self.device) for name, column in columns.items()}

    def __len__(self) -> int:
        """Number of rows in an epoch, over all processes."""
        return len(self._chunks) * self.chunk_size

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Block `number`, whatever was read before: `input_values` (float32), `resolution`, labels and `index`."""
        parts = [
            self._chunk((number * self.chunks_per_batch + place) * self.num_replicas + self.rank)
            for place in range(self.chunks_per_batch)
        ]
        return {name: torch.cat([part[name] for part in parts]).to(self.device) for name in parts[0]}

    def _chunk(self, position: int) -> dict[str, torch.Tensor]:
        """The chunk at a position of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self._chunks))
        generator = torch.Generator().manual_seed(stable_seed("chunks", self.seed, epoch))
        chunk = self._chunks[int(torch.randperm(len(self._chunks), generator=generator)[place])]
        generator = torch.Generator().manual_seed(stable_seed("rows", self.seed, epoch, chunk))
        order = torch.randperm(self.chunk_size, generator=generator)
        first = chunk * self.chunk_size
        shard, row = (part[first : first + self.chunk_size] for part in (self._shard, self._row))
        parts = [self._rows_of(number, row[shard == number]) for number in np.unique(shard)]
        columns = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        columns["input_values"] = columns["input_values"].float()
        columns["index"] = epoch * len(self._row) + first + order
        return columns

    def _rows_of(self, shard: int, rows: np.ndarray) -> dict[str, torch.Tensor]:
        if not self._in_memory:
            return self._read(self.paths[shard], rows)
        wanted = self._row[self._shard == shard]
        path = self.paths[shard]  # shared by several shards if a data set is named twice to give it more weight
        if path not in self._kept:
            self._kept[path] = self._read(path, wanted)
        places = torch.from_numpy(np.searchsorted(wanted, rows))
        return {name: column[places] for name, column in self._kept[path].items()}

    @staticmethod
    def _read(path: Path, rows: np.ndarray) -> dict[str, torch.Tensor]:
        with _opened(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.unique(np.searchsorted(starts, rows, side="right") - 1)
            names = ["input_values", *_LABELS]
            names += ["resolution"] if "resolution" in file.schema_arrow.names else []
            table = file.read_row_groups(groups.tolist(), columns=names)
        # Row numbers in the file of the rows in the groups that were read.
        numbers = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in groups])
        table = table.take(pa.array(np.searchsorted(numbers, rows)))
        unknown = {"resolution": torch.full((len(table), 2), torch.nan)}  # for data sets without this column
        columns = unknown | {name: _tensor(table.column(name)) for name in table.column_names}
        _check_finite(columns["input_values"], path, rows)
        return columns

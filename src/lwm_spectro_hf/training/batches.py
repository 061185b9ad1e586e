"""Batches that depend only on their number: a run resumes with the next one, on any number of processes."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import torch

from ..data.recipe import MOBILITIES, MODULATIONS, SNRS_DB
from ..phy.bits import table_on

NUM_CLASSES = {
    "modulation": len(MODULATIONS),
    "snr_db": len(SNRS_DB),
    "mobility": len(MOBILITIES),
}  # number of classes


class BlockSource(Protocol):
    """Source of blocks of labeled spectrograms, by number.

    A block is the concatenation of `chunks_per_batch` chunks of `chunk_size` rows. Each of `num_replicas` processes
    gets its share of the chunks; together they get the same chunks as a single process would.
    [`~lwm_spectro_hf.data.streaming.GeneratedSpectrograms`] is an example.
    """

    chunks_per_batch: int

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Block `number`: `input_values`, labels, and `index`, which is unique to each row and each visit of it."""


class Interleaved:
    """Blocks that each combine a part of `depth` consecutive blocks of another source; every row is used once.

    All rows of a chunk have one of many settings, such as the carrier bandwidth. If consecutive batches come from the
    same few chunks, weights and running statistics swing between settings, and what one block teaches is lost in the
    next. Here only one `depth`-th of the chunks changes from block to block. Some parts of the first `depth - 1`
    blocks of the source are not used.

    Args:
        source ([`BlockSource`]): Blocks of this process.
        depth (`int`): Number of source blocks that each block combines; all are held in memory.
    """

    def __init__(self, source: BlockSource, depth: int):
        self.source, self.depth = source, depth
        self.chunks_per_batch = source.chunks_per_batch * depth
        self._blocks: dict[int, dict[str, torch.Tensor]] = {}

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Block `number`, independent of earlier calls.

        Raises:
            ValueError: If chunks cannot be cut into `depth` equal parts.
        """
        numbers = range(number, number + self.depth)
        self._blocks = {place: block for place, block in self._blocks.items() if place in numbers}
        for place in numbers:
            if place not in self._blocks:
                self._blocks[place] = self.source.batch(place)
        parts = [self._part(self._blocks[place], number + self.depth - 1 - place) for place in numbers]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _part(self, block: dict[str, torch.Tensor], which: int) -> dict[str, torch.Tensor]:
        """One of `depth` parts of each chunk."""
        size = len(block["index"]) // self.source.chunks_per_batch
        if size % self.depth:
            raise ValueError(
                f"Chunks of {size} spectrograms cannot be cut into {self.depth} equal parts to interleave: change the "
                "chunk size, or the number of interleaved blocks."
            )
        rows = slice(which * size // self.depth, (which + 1) * size // self.depth)
        return {
            name: column.unflatten(0, (self.source.chunks_per_batch, size))[:, rows].flatten(0, 1)
            for name, column in block.items()
        }


class Batches:
    """Cuts blocks into batches, each with a few rows of every chunk of the block.

    A generated chunk has a single carrier bandwidth and kind of receiver, so a batch should mix several chunks; large
    chunks are generated faster per row.

    Args:
        source ([`BlockSource`]): Blocks of this process.
        batch_size (`int`): Rows per batch on this process.
        repeat (`int`, *optional*, defaults to 1): Batches that each row is used in, with a different mask each time.
        prefetch (`bool`, *optional*, defaults to `False`): Fetch the next block in a background thread, which helps if
            blocks are read from files.
    """

    def __init__(self, source: BlockSource, batch_size: int, repeat: int = 1, prefetch: bool = False):
        if batch_size % source.chunks_per_batch:
            raise ValueError(
                f"A batch of {batch_size} rows cannot be made of {source.chunks_per_batch} equal parts, one from each "
                "chunk: change the batch size, or the number of chunks per batch."
            )
        self.source, self.repeat = source, repeat
        self.rows_per_chunk = batch_size // source.chunks_per_batch
        self.seconds = 0.0  # time spent on making blocks or waiting for them
        self._number, self._block = -1, {}
        self._pool = ThreadPoolExecutor(1) if prefetch else None
        self._next: tuple[int, Future] | None = None

    def at(self, number: int) -> dict[str, torch.Tensor]:
        """Batch `number`.

        Returns:
            `dict`: The columns of the source; `index` becomes `index * repeat` plus the number of the visit.
        """
        if self._number < 0:
            self._load(0)
        block, place = divmod(number, self._batches_per_block * self.repeat)
        if block != self._number:
            self._load(block)
        visit, part = divmod(place, self._batches_per_block)
        rows = slice(part * self.rows_per_chunk, (part + 1) * self.rows_per_chunk)
        batch = {
            name: column.unflatten(0, (self.source.chunks_per_batch, -1))[:, rows].flatten(0, 1)
            for name, column in self._block.items()
        }
        batch["index"] = batch["index"] * self.repeat + visit
        return batch

    @property
    def _batches_per_block(self) -> int:
        return len(self._block["index"]) // (self.source.chunks_per_batch * self.rows_per_chunk)

    def _load(self, number: int) -> None:
        begin = _now(self._block)
        self._block = {}  # the device may not have memory for two blocks
        if self._next is not None and self._next[0] == number:
            self._block = self._next[1].result()
        else:
            if self._next is not None:
                wait([self._next[1]])  # only one thread at a time may read a source
            self._block = self.source.batch(number)
        size = len(self._block["index"]) // self.source.chunks_per_batch
        if size % self.rows_per_chunk:
            raise ValueError(
                f"Chunks of {size} spectrograms cannot be cut into equal parts of the {self.rows_per_chunk} that a "
                "batch takes: change the chunk size, the batch size, or the number of chunks per batch."
            )
        self._number = number
        if self._pool is not None:
            self._next = (number + 1, self._pool.submit(self.source.batch, number + 1))
        self.seconds += _now(self._block) - begin


def _now(block: dict[str, torch.Tensor]) -> float:
    """Time after waiting for the device to finish its work."""
    if torch.cuda.is_available() and any(column.is_cuda for column in block.values()):
        torch.cuda.synchronize()
    return time.monotonic()


def class_labels(batch: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Classes of one label: indices into its list in `data.recipe`; -100 where the label is unknown.

    Args:
        batch (`dict[str, torch.Tensor]`): Labels of shape `(batch,)`.
        name (`str`): One of `NUM_CLASSES`; an SNR is assigned to the class of the grid within half a dB.

    Returns:
        `torch.Tensor` of shape `(batch,)`, int64, as [`torch.nn.functional.cross_entropy`] takes it.
    """
    known, label = batch["protocol"] >= 0, batch[name]  # noise has no labels
    if name == "snr_db":
        distance, label = (label[:, None] - table_on(label.device, _snr_table)).abs().min(1)
        known = known & (distance < 0.5)
    return torch.where(known & (label >= 0), label, -100)


def _snr_table() -> torch.Tensor:
    return torch.tensor(SNRS_DB, dtype=torch.float32)


def contrastive_labels(batch: dict[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    """One class for each combination of labels; -1 where one of them is unknown.

    Args:
        batch (`dict[str, torch.Tensor]`): Labels of shape `(batch,)`; SNRs are rounded to whole dB.
        names (`Sequence[str]`): Some of `NUM_CLASSES`.

    Returns:
        `torch.Tensor` of shape `(batch,)`, int64.

    Raises:
        ValueError: If there is no name, or one that is not in `NUM_CLASSES`.
    """
    wrong = [name for name in names if name not in NUM_CLASSES]
    if wrong or not names:
        raise ValueError(f"Contrastive labels are {list(names)}; expected some of {', '.join(NUM_CLASSES)}.")
    combined = torch.zeros_like(batch["protocol"])
    known = batch["protocol"] >= 0  # noise has no labels
    for name in names:
        label = batch[name]
        if name == "snr_db":
            label = label.clamp(-400, 400).round().long() + 400
        known = known & (label >= 0)
        combined = combined * 1000 + label
    return torch.where(known, combined, -1)

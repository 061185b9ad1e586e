"""The shared channel of 5G NR: one user's coded data with its reference signals (3GPP TS 38.211, 38.212).

Clauses are of 3GPP TS 38.211 unless another one is named.
"""

from dataclasses import dataclass

import torch

from .bits import from_bits, slices, table_on
from .nr_cells import SYMBOLS_PER_SLOT, TRACKING_SYMBOLS, Cells, mcs_entry
from .nr_coding import SharedChannelCode
from .sequences import constellation, gold_bits, gold_qpsk

MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
_POINTS = 256  # room for each constellation in the common table
_SILENT = len(MODULATIONS) * _POINTS  # label of an element without data


@dataclass
class TransportBlocks:
    """The user's data of a batch of cells.

    Attributes:
        row, slot (`torch.Tensor` of shape `(num_grants,)`): Cell and slot of each grant.
        block (`torch.Tensor` of shape `(num_grants,)`): Its transport block, which several rows may share.
        size (`torch.Tensor` of shape `(num_blocks,)`): Size of each [bits].
        bits_per_symbol (`torch.Tensor` of shape `(num_blocks,)`): Modulation order.
        payloads (`list[tuple[torch.Tensor, torch.Tensor]]`): The bits, by code: indices of the blocks, `(n,)`, and the
            bits of each followed by zeros, `(n, largest)`, uint8.
    """

    row: torch.Tensor
    slot: torch.Tensor
    block: torch.Tensor
    size: torch.Tensor
    bits_per_symbol: torch.Tensor
    payloads: list[tuple[torch.Tensor, torch.Tensor]]

    def bits(self, grant: int) -> torch.Tensor:
        """The bits sent with a grant, shape `(size,)`, uint8."""
        block = self.block[grant]
        return next(bits[blocks == block][0, : self.size[block]] for blocks, bits in self.payloads if block in blocks)


def shared_channel(cells: Cells, generator: torch.Generator) -> tuple[torch.Tensor, TransportBlocks]:
    """Grids with the PDSCH, its DMRS and the tracking signals, and the data in them.

    Args:
        cells ([`Cells`]): What the cells send.
        generator (`torch.Generator`): Source of the payloads.

    Returns:
        `tuple`: the grid, `(batch, num_slots, 14, 12 * num_rb)`, and [`TransportBlocks`].

    Raises:
        ValueError: If a transport block would have a code rate above 0.95.
    """
    labels, blocks = _coded_labels(cells, generator)
    points = table_on(labels.device, _label_points)
    grid = points.index_select(0, _place(cells, labels).flatten()).view(*cells.data_blocks.shape[:3], -1)
    grid *= cells.data_gain[:, None, None, None]
    _add_dmrs(grid, cells)
    if bool(cells.tracking.any()):
        _add_tracking(grid, cells)
    return grid, blocks


def _label_points() -> torch.Tensor:
    """All constellations, each in its part of the table, and zero for elements without data."""
    points = torch.zeros(_SILENT + 1, dtype=torch.complex64)
    for index, name in enumerate(MODULATIONS):
        table = constellation(name)
        points[index * _POINTS : index * _POINTS + len(table)] = table
    return points


def _place(cells: Cells, labels: torch.Tensor) -> torch.Tensor:
    """Label of every resource element: subcarriers first, then symbols (clause 7.3.1.5).

    Args:
        cells ([`Cells`]): The cells.
        labels (`torch.Tensor` of shape `(batch * num_slots, n)`, int32): Labels of each slot, in order.

    Returns:
        `torch.Tensor` of shape `(batch, num_slots, 14, num_rb, 12)`, int32.
    """
    count = cells.data_blocks.flatten(0, 1).flatten(1)
    first = count.cumsum(1, dtype=torch.int64) - count
    # Whole resource blocks are copied at once; the few that also hold other elements are spread out below.
    placed = slices(labels, first, 12)
    placed = placed.masked_fill_((count == 0)[..., None], _SILENT).view(*cells.data_blocks.shape, 12)

    combs = cells.dmrs_symbols & (cells.cdm_groups == 1)[:, None, None]
    row, slot, symbol = combs.nonzero(as_tuple=True)
    half = torch.full((len(row), cells.num_rb, 12), _SILENT, dtype=labels.dtype, device=labels.device)
    half[..., 1::2] = placed[row, slot, symbol, :, :6]
    placed[row, slot, symbol] = half
    row, slot = cells.tracking.nonzero(as_tuple=True)
    if len(row) > 0:
        subcarrier = torch.arange(12, device=labels.device)
        offset = cells.tracking_offset[row, None]
        before = (subcarrier - offset + 3) // 4  # reserved subcarriers below each
        for symbol in TRACKING_SYMBOLS:
            source = placed[row, slot, symbol].gather(2, (subcarrier - before)[:, None].expand(-1, cells.num_rb, -1))
            placed[row, slot, symbol] = source.masked_fill((subcarrier % 4 == offset)[:, None], _SILENT)
    return placed


def _add_dmrs(grid: torch.Tensor, cells: Cells) -> None:
    """Add DMRS of the PDSCH, configuration type 1 (clause 7.4.1.1), in place."""
    row, slot, symbol = (cells.dmrs_symbols & cells.allocated.any(-1)[..., None]).nonzero(as_tuple=True)
    number = SYMBOLS_PER_SLOT * cells.slot_in_frame[row, slot] + symbol + 1
    cell_id, port = cells.cell_id[row], cells.dmrs_port[row]
    c_init = (2**17 * number * (2 * cell_id + 1) + 2 * cell_id) % 2**31
    pilots = gold_qpsk(c_init, 6 * cells.num_rb)
    pilots[:, 1::2] *= (1 - 2 * (port % 2))[:, None]  # cover code, table 7.4.1.1.2-1
    amplitude = cells.data_gain[row] * torch.where(cells.cdm_groups[row] == 2, 2**0.5, 1.0)
    combs = grid.unflatten(-1, (-1, 2))
    comb = port // 2
    sent = cells.allocated[row, slot].repeat_interleave(6, 1)
    combs[row, slot, symbol, :, comb] = torch.where(
        sent, pilots * amplitude[:, None], combs[row, slot, symbol, :, comb]
    )


def _add_tracking(grid: torch.Tensor, cells: Cells) -> None:
    """Add CSI-RS for tracking: one port, density 3 (clause 7.4.1.5, table 7.4.1.5.3-1, row 1), in place."""
    row, slot = cells.tracking.nonzero(as_tuple=True)
    for symbol in TRACKING_SYMBOLS:
        number = SYMBOLS_PER_SLOT * cells.slot_in_frame[row, slot] + symbol + 1
        cell_id = cells.cell_id[row]
        c_init = (2**10 * number * (2 * cell_id + 1) + cell_id) % 2**31
        place = cells.tracking_elements[row, slot, symbol]
        # The sequence starts at common resource block 0, whichever part of it is sent.
        sequence = gold_qpsk(c_init, 3 * cells.num_rb).repeat_interleave(4, 1)
        grid[row, slot, symbol] = torch.where(place, sequence, grid[row, slot, symbol])


def _coded_labels(cells: Cells, generator: torch.Generator) -> tuple[torch.Tensor, TransportBlocks]:
    """Scrambled bits of each slot as constellation labels, shape `(batch * num_slots, n)`, int32, and their blocks.

    Labels beyond the elements of a slot are undefined.
    """
    device = cells.cell_id.device
    num_elements = cells.num_elements
    # Leave room for copies of whole resource blocks that start at the last elements.
    longest = int(num_elements.max()) + 12
    labels = torch.zeros(num_elements.numel(), longest, dtype=torch.int32, device=device)
    row, slot = (num_elements > 0).nonzero(as_tuple=True)
    elements = num_elements[row, slot]
    size = cells.block_sizes()[row, slot]
    order, rate = mcs_entry(cells.mcs_table[row], cells.mcs[row, slot])
    if bool((size > 0.95 * elements * order).any()):
        worst = (size / (elements * order)).max()
        raise ValueError(f"A transport block would have a code rate of {worst:.2f}, above 0.95: use a lower mcs.")
    # Rows share the payload of equal grants in the same slot: scrambling makes each row's symbols its own.
    keys = torch.stack([size, elements, order, (2048 * rate).long(), slot], 1)
    keys, block = keys.unique(dim=0, return_inverse=True)
    size, count, bits_per_symbol, double_rate, _ = keys.unbind(1)
    coded = torch.zeros(len(keys), longest, dtype=torch.uint8, device=device)
    payloads = []
    for chosen, code in SharedChannelCode.classes(size, count, bits_per_symbol, double_rate / 2048):
        bits = code.draw(size[chosen], generator)
        coded[chosen, : code.longest] = code.encode(bits, size[chosen], count[chosen], bits_per_symbol[chosen])
        payloads.append((chosen, bits))

    # One scrambling sequence serves all slots of a cell (clause 7.3.1.1).
    seeds = cells.rnti * 2**15 + cells.cell_id
    for index in range(len(MODULATIONS)):
        (mine,) = (order == 2 * index + 2).nonzero(as_tuple=True)
        if len(mine) == 0:
            continue
        users, which = row[mine].unique(return_inverse=True)
        sequence = from_bits(gold_bits(seeds[users], longest * (2 * index + 2)), 2 * index + 2)
        scrambled = (sequence.int() + _POINTS * index).index_select(0, which)
        scrambled ^= coded.index_select(0, block[mine])
        labels.index_copy_(0, row[mine] * cells.num_slots + slot[mine], scrambled)
    return labels, TransportBlocks(row, slot, block, size, bits_per_symbol, payloads)

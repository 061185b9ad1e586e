"""The control channel of 5G NR: a CORESET with coded downlink control information (3GPP TS 38.211 to 38.214)."""

from dataclasses import dataclass

import torch

from .bits import message_bits, table_on
from .nr_cells import SSB_FIRST_SYMBOLS, SYMBOLS_PER_SLOT, Cells
from .nr_coding import encode_control
from .sequences import gold_bits, gold_qpsk
from .traffic import resource_indication, search_space_powers

MOST_ELEMENTS = 16  # control channel elements of a message
HARQ_PROCESSES = 16


@dataclass
class ControlMessages:
    """Control messages of one length at one aggregation level.

    Attributes:
        row, slot, first_element (`torch.Tensor` of shape `(num_messages,)`): Cell, slot, first CCE of each.
        rnti (`torch.Tensor` of shape `(num_messages,)`): Identity of each recipient.
        payload (`torch.Tensor` of shape `(num_messages, num_bits)`, uint8): Bits of each message.
        aggregation (`int`): Control channel elements of each message.
    """

    row: torch.Tensor
    slot: torch.Tensor
    first_element: torch.Tensor
    rnti: torch.Tensor
    payload: torch.Tensor
    aggregation: int


def _field_widths(cells: Cells) -> torch.Tensor:
    """Bits of the frequency-domain assignment in formats 1_1 and 1_0 (TS 38.212, 7.3.1.2), shape `(batch, 2)`."""
    values = cells.bwp_size * (cells.bwp_size + 1) // 2 - 1
    value_bits = (values[:, None] >> torch.arange(20, device=values.device) > 0).sum(1)
    num_groups = cells.rb_groups.max(1).values + 1
    return torch.stack([torch.maximum(num_groups, value_bits), value_bits], 1)


def grant(
    cells: Cells, row: torch.Tensor, slot: torch.Tensor, block: torch.Tensor, fallback: bool, width: int
) -> torch.Tensor:
    """The message that schedules the PDSCH: format 1_0, or 1_1 with dynamic allocation type (TS 38.212, 7.3.1.2).

    Args:
        cells ([`Cells`]): The cells.
        row, slot (`torch.Tensor` of shape `(num_messages,)`): Cell and slot of each transmission.
        block (`torch.Tensor` of shape `(num_messages,)`): Number of the transport block: the sixteen HARQ processes
            take turns, and each toggles its new data indicator (TS 38.321, clause 5.3.2.2).
        fallback (`bool`): Format 1_0 instead of 1_1.
        width (`int`): Bits of the frequency-domain assignment.

    Returns:
        `torch.Tensor` of shape `(num_messages, num_bits)`, uint8.
    """
    allocated = cells.allocated[row, slot]
    first, count = allocated.long().argmax(1), allocated.sum(1)
    blocks = resource_indication(first - cells.bwp_start[row], count, cells.bwp_size[row])
    zero = torch.zeros_like(row)
    # The time-domain list has an entry for each length of downlink that occurs, the whole slot first.
    time = (cells.downlink_symbols[row, slot] < SYMBOLS_PER_SLOT).long()
    mcs = cells.mcs[row, slot]
    # MCS, new data, redundancy version, HARQ process; assignment index, power control, PUCCH resource, timing.
    data = ((mcs, 5), (block // HARQ_PROCESSES % 2, 1), (zero, 2), (block % HARQ_PROCESSES, 4))
    common = (*data, (zero, 2), (zero + 1, 2), (zero, 3), (zero + 3, 3))
    if fallback:
        # Downlink identifier; blocks; time; VRB-to-PRB mapping without interleaving.
        fields = ((zero + 1, 1), (blocks, width), (time, 4), (zero, 1), *common)
    else:
        group = cells.rb_groups[row]
        last = group.max(1, keepdim=True).values
        # Groups are allocated whole, so the lowest block of each represents it.
        leads = torch.nn.functional.pad(group[:, 1:] != group[:, :-1], (1, 0), value=True)
        bitmap = ((allocated & leads & (group >= 0)).long() << (last - group).clamp(0, 62)).sum(1)
        contiguous = count == allocated.shape[1] - allocated.flip(1).long().argmax(1) - first
        # Antenna ports (table 7.3.1.2.2-1): entries 0 and 1 with one CDM group without data, from 3 on with two.
        ports = cells.dmrs_port[row] + torch.where(cells.cdm_groups[row] == 2, 3, 0)
        # No bit for the VRB-to-PRB mapping, which is not configured; SRS request and DMRS initialization at the end.
        head = ((zero + 1, 1), (contiguous.long(), 1), (torch.where(contiguous, blocks, bitmap), width), (time, 1))
        fields = (*head, *common, (ports, 4), (zero, 2), (zero, 1))
    # The two formats always differ in length by 4 bits or more, as clause 7.3.1.0 requires.
    return message_bits(fields)


def _element_groups(cells: Cells, row: torch.Tensor, first: torch.Tensor, aggregation: int) -> torch.Tensor:
    """Resource element groups of some messages in mapping order, as `symbol * num_rb + block`.

    Bundles and interleaver of clause 7.3.2.2; numbered in time first.

    Returns:
        `torch.Tensor` of shape `(num_messages, 6 * aggregation)`, int64.
    """
    duration = cells.control_symbols[row, None]
    rows = cells.interleaver_rows[row, None]
    total = 6 * cells.coreset_groups[row, None] * duration
    bundle = torch.where(rows > 0, cells.bundle_size[row, None], 6)
    place = 6 * first[:, None] + torch.arange(6 * aggregation, device=row.device)
    number = place // bundle
    columns = total // (bundle * rows.clamp(min=1))
    mixed = (number % rows.clamp(min=1)) * columns + number // rows.clamp(min=1) + cells.cell_id[row, None]
    number = torch.where(rows > 0, mixed % (total // bundle), number)
    group = number * bundle + place % bundle
    block = cells.coreset_first_rb[row, None] + group // duration
    return (group % duration * cells.num_rb + block).sort(1).values


def _user_candidate(cells: Cells, row: torch.Tensor, slot: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """First candidate of the user's search space, counted in messages, CORESET 0 mod 3 (TS 38.213, clause 10.1)."""
    powers = table_on(row.device, search_space_powers, cells.slots_per_frame)
    return cells.rnti[row] * powers[cells.slot_in_frame[row, slot]] % 65537 % places


def add_control(grid: torch.Tensor, cells: Cells, generator: torch.Generator) -> list[ControlMessages]:
    """Add the control channel with its DMRS (clauses 7.3.2 and 7.4.1.3), in place.

    Each scheduled slot has a grant; messages of random content for other users are added according to `control_load`.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_slots, 14, 12 * num_rb)`): Where to add it.
        cells ([`Cells`]): What the cells send.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `list[ControlMessages]`.
    """
    device = cells.cell_id.device
    places = cells.control_elements // cells.aggregation
    most = int(places.max())
    # A CORESET of three symbols stays silent where it would collide with an SS/PBCH block.
    free = (cells.control_symbols[:, None] <= SSB_FIRST_SYMBOLS[0]) | (cells.ssb_index[..., 0] < 0)
    free &= cells.downlink_symbols >= cells.control_symbols[:, None]
    draws = torch.rand(*free.shape, most, generator=generator, device=device)
    used = (draws < cells.control_load[..., None]) & (torch.arange(most, device=device) < places[:, None, None])
    used &= free[..., None]
    scheduled = cells.allocated.any(-1) & (places > 0)[:, None]
    row, slot = scheduled.nonzero(as_tuple=True)
    own = torch.zeros_like(used)
    own[row, slot, _user_candidate(cells, row, slot, places[row])] = True
    row, slot, place = (used | own).nonzero(as_tuple=True)
    own = own[row, slot, place]
    allocated = torch.nn.functional.pad(cells.allocated, (1, 0))
    scattered = (allocated[..., 1:] & ~allocated[..., :-1]).sum(-1) > 1
    # What format 1_0 does not signal is fixed: two additional DMRS, if there is room (TS 38.214, clause 5.1.6.2).
    simple = (cells.mcs_table == 1) & (cells.dmrs_port == 0) & (cells.cdm_groups == 2) & (cells.dmrs_additional == 2)
    fallback = simple[row] & ~scattered[row, slot]
    rnti = torch.where(own, cells.rnti[row], torch.randint(1, 65520, row.shape, generator=generator, device=device))

    width = _field_widths(cells)[row, fallback.long()]
    # No scrambling identity is configured, so it is the cell's, without RNTI (TS 38.211, clauses 7.3.2.3 and 7.4.1.3).
    scrambling = gold_bits(cells.cell_id, 108 * MOST_ELEMENTS)
    symbol = torch.arange(1, 4, device=device)
    number = SYMBOLS_PER_SLOT * cells.slot_in_frame[..., None] + symbol
    cell_id = cells.cell_id[:, None, None]
    pilots = gold_qpsk((2**17 * number * (2 * cell_id + 1) + 2 * cell_id) % 2**31, 3 * cells.num_rb).unflatten(
        -1, (-1, 3)
    )
    block = scheduled.cumsum(1) - 1
    keys, of_class = torch.stack([width, cells.aggregation[row], fallback.long()], 1).unique(
        dim=0, return_inverse=True
    )
    messages = []
    for number, (bits, aggregation, simple_format) in enumerate(keys.tolist()):
        (chosen,) = (of_class == number).nonzero(as_tuple=True)
        payload = grant(cells, row[chosen], slot[chosen], block[row[chosen], slot[chosen]], bool(simple_format), bits)
        noise = torch.randint(2, payload.shape, dtype=torch.uint8, generator=generator, device=device)
        payload = torch.where(own[chosen, None], payload, noise)
        found = ControlMessages(
            row[chosen], slot[chosen], aggregation * place[chosen], rnti[chosen], payload, aggregation
        )
        _map(grid, cells, found, scrambling, pilots)
        messages.append(found)
    return messages


def _map(
    grid: torch.Tensor, cells: Cells, messages: ControlMessages, scrambling: torch.Tensor, pilots: torch.Tensor
) -> None:
    """Add scrambled QPSK symbols and DMRS of some messages, in place."""
    row, slot = messages.row[:, None], messages.slot[:, None]
    groups = _element_groups(cells, messages.row, messages.first_element, messages.aggregation)
    symbol, block = groups // cells.num_rb, groups % cells.num_rb
    bits = encode_control(messages.payload, messages.rnti, 108 * messages.aggregation)
    signs = 1.0 - 2.0 * (bits ^ scrambling[messages.row, : bits.shape[1]])
    symbols = torch.view_as_complex(signs.view(len(signs), -1, 3, 3, 2) / 2**0.5)
    # Each third of a block's nine symbols surrounds a pilot, the second of four elements.
    found = torch.empty(*groups.shape, 3, 4, dtype=torch.complex64, device=grid.device)
    found[..., [0, 2, 3]] = symbols
    found[..., 1] = pilots[row, slot, symbol, block]
    found *= cells.control_gain[messages.row, None, None, None]
    grid.unflatten(-1, (-1, 12))[row, slot, symbol, block] = found.flatten(-2)

"""5G NR downlink resource grids, 15 and 30 kHz (3GPP TS 38.211 to 38.214).

SS/PBCH blocks with a real broadcast channel, a CORESET with coded messages, and one user's coded data with its DMRS,
over full, partial, scattered and empty allocations, FDD and TDD. A lean carrier: anything not scheduled is silent.
"""

from dataclasses import dataclass, replace

import torch

from .bits import from_bits, message_bits, slices, table_on
from .nr_cells import (
    NO_SIB1,
    SSB_BLOCKS,
    SSB_FIRST_SYMBOLS,
    SSB_RB,
    Cells,
    mcs_entry,
)
from .nr_coding import BROADCAST_BITS, MCS_TABLES, encode_broadcast
from .nr_control import ControlMessages, add_control
from .nr_data import MODULATIONS, TransportBlocks, shared_channel
from .ofdm import Numerology, cyclic_prefix_3gpp, fft_sizes, modulate
from .sequences import CONSTELLATION_ORDERS, constellation, gold_bits, gold_qpsk, m_sequence
from .traffic import decibels, draw_allocation
from .waveform import Waveform

_SSB_SUBCARRIERS = 12 * SSB_RB
_TRACKING_PERIOD = 40  # slots
_PARAMETERS = (
    *("cell_id", "rnti", "mcs_table", "bwp_start", "bwp_size", "dmrs_position", "dmrs_additional", "dmrs_port"),
    *("cdm_groups", "control_symbols", "coreset_first_rb", "coreset_groups", "bundle_size", "interleaver_rows"),
    *("aggregation", "ssb_first_rb", "ssb_half_frames", "ssb_second_half", "ssb_maximum", "tracking_offset"),
)


def numerology(num_rb: int, subcarrier_spacing_hz: float) -> Numerology:
    """Numerology of a carrier, with the smallest usual DFT that holds it and leaves room at the band edges.

    Args:
        num_rb (`int`): Resource blocks.
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
    """
    fft_size = fft_sizes(12 * num_rb)[0]
    return Numerology(fft_size * subcarrier_spacing_hz, subcarrier_spacing_hz, fft_size, dc_used=True)


def primary_synchronization(sector_id: torch.Tensor) -> torch.Tensor:
    """PSS (TS 38.211, clause 7.4.2.2), shape `(batch, 127)`, complex64."""
    x = table_on(sector_id.device, m_sequence, (0, 4), (0, 1, 1, 0, 1, 1, 1))
    n = torch.arange(127, device=sector_id.device)
    return (1.0 - 2.0 * x[(n + 43 * sector_id[:, None]) % 127]).to(torch.complex64)


def secondary_synchronization(group_id: torch.Tensor, sector_id: torch.Tensor) -> torch.Tensor:
    """SSS (TS 38.211, clause 7.4.2.3), shape `(batch, 127)`, complex64."""
    x0, x1 = (table_on(sector_id.device, m_sequence, taps, (1, 0, 0, 0, 0, 0, 0)) for taps in ((0, 4), (0, 1)))
    n = torch.arange(127, device=sector_id.device)
    m0 = 15 * (group_id // 112) + 5 * sector_id
    m1 = group_id % 112
    signs = (1.0 - 2.0 * x0[(n + m0[:, None]) % 127]) * (1.0 - 2.0 * x1[(n + m1[:, None]) % 127])
    return signs.to(torch.complex64)


def ss_pbch_block(cell_id: torch.Tensor, block_index: torch.Tensor | int, content: torch.Tensor) -> torch.Tensor:
    """SS/PBCH blocks (TS 38.211, table 7.4.3.1-1) with their DMRS (clause 7.4.1.4).

    Args:
        cell_id (`torch.Tensor` of shape `(batch,)`): 0 to 1007.
        block_index (`torch.Tensor` of shape `(batch,)`, or `int`): Index of the block within the half frame; on
            carriers with at most four blocks, plus 4 in the second half of a frame.
        content (`torch.Tensor` of shape `(batch, 4, 240)`): The broadcast channel on its resource elements.

    Returns:
        `torch.Tensor` of shape `(batch, 4, 240)`, complex64.
    """
    block = content.clone()
    block[:, 0] = 0
    block[:, 2, 48:192] = 0
    group_id, sector_id = cell_id // 3, cell_id % 3
    block[:, 0, 56:183] = primary_synchronization(sector_id)
    block[:, 2, 56:183] = secondary_synchronization(group_id, sector_id)
    c_init = 2**11 * (block_index + 1) * (cell_id // 4 + 1) + 2**6 * (block_index + 1) + cell_id % 4
    return block.masked_scatter_(_broadcast_places(cell_id)[1], gold_qpsk(c_init, 144))


def _broadcast_places(cell_id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Resource elements of the PBCH and of its DMRS in a block, each of shape `(batch, 4, 240)`, bool."""
    subcarrier = torch.arange(_SSB_SUBCARRIERS, device=cell_id.device)
    used = torch.zeros(4, _SSB_SUBCARRIERS, dtype=torch.bool, device=cell_id.device)
    used[[1, 3]] = True
    used[2] = (subcarrier < 48) | (subcarrier >= 192)
    comb = (subcarrier % 4 == (cell_id % 4)[:, None])[:, None]
    return used & ~comb, used & comb


def broadcast_symbols(cells: Cells, row: torch.Tensor, slot_number: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """PBCH of some blocks: MIB (TS 38.331), coding (TS 38.212), scrambling and QPSK (TS 38.211, clause 7.3.3).

    Args:
        cells ([`Cells`]): The cells.
        row (`torch.Tensor` of shape `(num_blocks,)`): Cell that sends the block.
        slot_number (`torch.Tensor` of shape `(num_blocks,)`): Slot in which it is sent.
        index (`torch.Tensor` of shape `(num_blocks,)`): Block index.

    Returns:
        `torch.Tensor` of shape `(num_blocks, 432)`, complex64.
    """
    frame, slot = slot_number // cells.slots_per_frame, slot_number % cells.slots_per_frame
    half_frame = (slot >= cells.slots_per_frame // 2).long()
    k_ssb = cells.k_ssb[row]
    zero = torch.zeros_like(row)
    fields = (
        (zero, 1),  # this is a MIB
        (frame >> 4, 6),  # systemFrameNumber
        (zero + (cells.subcarrier_spacing_hz == 30e3), 1),  # subCarrierSpacingCommon
        (k_ssb & 15, 4),  # ssb-SubcarrierOffset
        (cells.dmrs_position[row] - 2, 1),  # dmrs-TypeA-Position
        (cells.pdcch_config_sib1[row], 8),
        (zero + 1, 1),  # cellBarred: notBarred
        (zero, 1),  # intraFreqReselection: allowed
        (zero, 1),  # spare
    )
    mib = message_bits(fields)
    coded = encode_broadcast(mib, frame, half_frame, k_ssb, cells.cell_id[row])
    phase = torch.where(cells.ssb_maximum[row] == 4, index % 4, index)
    sequence = gold_bits(cells.cell_id, SSB_BLOCKS * BROADCAST_BITS).unflatten(1, (SSB_BLOCKS, -1))
    return modulate_bits(coded ^ sequence[row, phase], "QPSK")


def modulate_bits(bits: torch.Tensor, modulation: str) -> torch.Tensor:
    """Bits to symbols (TS 38.211, clause 5.1): `(batch, num_bits)` to `(batch, num_symbols)`, complex64."""
    labels = from_bits(bits, CONSTELLATION_ORDERS[modulation])
    return table_on(bits.device, constellation, modulation)[labels.int()]


@dataclass
class Transmission:
    """Resource grids, and the messages in them.

    Attributes:
        grid (`torch.Tensor` of shape `(batch, 14 * num_slots, 12 * num_rb)`): Lowest frequency first.
        blocks ([`TransportBlocks`]): The user's data.
        control (`list[ControlMessages]`): Control information, the user's and others'.
    """

    grid: torch.Tensor
    blocks: TransportBlocks
    control: list[ControlMessages]


def transmit(cells: Cells, generator: torch.Generator) -> Transmission:
    """Resource grids of a batch of cells.

    Args:
        cells ([`Cells`]): What they send.
        generator (`torch.Generator`): Source of the payloads, on the device of the cells.

    Returns:
        [`Transmission`].

    Raises:
        ValueError: If the MCS of a slot leaves a code rate above 0.95, which no receiver has to decode (TS 38.214,
            clause 5.1.3); reserved elements can raise the highest ones this far.
    """
    grid, blocks = shared_channel(cells, generator)
    control = add_control(grid, cells, generator)
    _add_ss_pbch_blocks(grid, cells)
    return Transmission(grid.flatten(1, 2), blocks, control)


def _add_ss_pbch_blocks(grid: torch.Tensor, cells: Cells) -> None:
    """Add SS/PBCH blocks (TS 38.213, clause 4.1, cases A and C), in place."""
    row, slot, place = (cells.ssb_index >= 0).nonzero(as_tuple=True)
    if len(row) == 0:
        return
    index, slot_number = cells.ssb_index[row, slot, place], cells.slot_number[row, slot]
    second_half = slot_number % cells.slots_per_frame >= cells.slots_per_frame // 2
    content = torch.zeros(len(row), 4, _SSB_SUBCARRIERS, dtype=torch.complex64, device=grid.device)
    content.masked_scatter_(
        _broadcast_places(cells.cell_id[row])[0], broadcast_symbols(cells, row, slot_number, index)
    )
    dmrs_index = torch.where((cells.ssb_maximum[row] == 4) & second_half, index + 4, index)
    block = ss_pbch_block(cells.cell_id[row], dmrs_index, content) * cells.ssb_gain[row][:, None, None]
    first_symbol = torch.tensor(SSB_FIRST_SYMBOLS, device=grid.device)[place]
    first_subcarrier = (12 * cells.ssb_first_rb + cells.ssb_shift)[row]
    time = first_symbol[:, None, None] + torch.arange(4, device=grid.device)[:, None]
    frequency = first_subcarrier[:, None, None] + torch.arange(_SSB_SUBCARRIERS, device=grid.device)
    grid[row[:, None, None], slot[:, None, None], time, frequency] = block


def draw(
    num_rb: int,
    subcarrier_spacing_hz: float,
    batch_size: int,
    num_samples: int,
    generator: torch.Generator,
    *,
    modulation: torch.Tensor | None = None,
    code_rate: torch.Tensor | None = None,
    full: torch.Tensor | None = None,
    aligned: bool = False,
    carrier_hz: float = 2.1e9,
) -> Waveform:
    """Draw downlink transmissions of cells, starting anywhere in the synchronization period and the TDD pattern.

    Args:
        num_rb (`int`): Resource blocks of the carrier.
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
        batch_size (`int`): Rows; each is a cell of its own.
        num_samples (`int`): Length, at `numerology(num_rb, subcarrier_spacing_hz).sampling_rate`.
        generator (`torch.Generator`): Source of randomness.
        modulation (`torch.Tensor` of shape `(batch,)`, *optional*): Index into `MODULATIONS`.
        code_rate (`torch.Tensor` of shape `(batch,)`, *optional*): Target; the nearest MCS of either table is used.
        full (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows that are FDD carriers with every slot
            scheduled completely.
        aligned (`bool`, *optional*, defaults to `False`): Whether the first sample starts a frame; otherwise it is any
            sample of a millisecond.
        carrier_hz (`float`, *optional*, defaults to 2.1e9): Carrier frequency, for [`most_ssb_blocks`] [Hz].

    Returns:
        [`Waveform`]. Its parameters, besides the fields of [`Cells`] of the same name: `subcarrier_spacing_khz`;
        `frame_number` and `slot` of the first slot, which may be partial; `mcs`, the highest (slots with reserved
        elements may need a lower one); `ssb_bitmap`, ssb-PositionsInBurst with block 0 in its highest of 8 bits;
        `ssb_shift`, subcarriers above the lowest one of `ssb_first_rb`; `tdd_pattern`, 0 for FDD, else one that
        repeats every five slots (1: DDDSU) or every ten slots (2: DDDDDDDSUU, 3: DDDDSUUUUU), where S has ten, six and
        ten downlink symbols; `tracking_slot`, the first of the two slots of 40 that have tracking signals, or -1.

    Raises:
        ValueError: If a modulation is not one of the four.
    """
    carrier = numerology(num_rb, subcarrier_spacing_hz)
    samples_per_ms = round(carrier.sampling_rate * 1e-3)
    num_ms = -(-num_samples // samples_per_ms) + (not aligned)
    num_slots = num_ms * round(subcarrier_spacing_hz / 15e3)
    cells, modulation, extra = draw_cells(
        num_rb,
        subcarrier_spacing_hz,
        batch_size,
        num_slots,
        generator,
        modulation=modulation,
        code_rate=code_rate,
        full=full,
        aligned=aligned,
        carrier_hz=carrier_hz,
    )
    grid = transmit(cells, generator).grid
    device = grid.device
    samples, starts = modulate(grid, carrier, cyclic_prefix_3gpp(carrier, grid.shape[1]))
    if aligned:
        first = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
    else:
        first = torch.randint(samples_per_ms, (batch_size, 1), generator=generator, device=device)
    symbol_start = starts.to(device) - first
    within = (symbol_start >= 0) & (symbol_start < num_samples)  # what lies within the timeline
    heard = within.sum(1).clamp(min=1) * grid.shape[2]
    power = torch.view_as_real(grid).square().sum(-1)
    used = ((power > 0).sum(2) * within).sum(1)
    energy = (power.sum(2) * within).sum(1)
    element_power = torch.where(used > 0, energy / used.clamp(min=1), 1.0)
    scheduled = cells.num_elements > 0
    rates = mcs_entry(cells.mcs_table[:, None], cells.mcs)[1] * scheduled
    nominal = mcs_entry(cells.mcs_table, extra["mcs"])[1]
    code_rate = torch.where(scheduled.any(1), rates.sum(1) / scheduled.sum(1).clamp(min=1), nominal)
    first_slot = cells.slot_number[:, 0]
    weights = 1 << torch.arange(SSB_BLOCKS - 1, -1, -1, device=device)
    parameters = {name: getattr(cells, name) for name in _PARAMETERS}
    parameters |= {
        "frame_number": first_slot // cells.slots_per_frame,
        "slot": first_slot % cells.slots_per_frame,
        "ssb_bitmap": (cells.ssb_blocks * weights).sum(1),
        "ssb_shift": cells.ssb_shift,
        "num_rb": torch.full_like(first_slot, num_rb),
        "subcarrier_spacing_khz": torch.full_like(first_slot, round(subcarrier_spacing_hz / 1e3)),
        **extra,
        "mcs": torch.where(scheduled.any(1), (cells.mcs * scheduled).amax(1), extra["mcs"]),
    }
    return Waveform(
        samples=slices(samples, first[:, 0], num_samples),
        numerology=carrier,
        element_power=element_power,
        symbol_start=symbol_start,
        occupancy=energy / (heard * element_power),
        data_share=(cells.data_counts.flatten(1) * within).sum(1) / heard,
        modulation=modulation,
        code_rate=code_rate.float(),
        parameters=parameters,
    )


def draw_cells(
    num_rb: int,
    subcarrier_spacing_hz: float,
    batch_size: int,
    num_slots: int,
    generator: torch.Generator,
    *,
    modulation: torch.Tensor | None = None,
    code_rate: torch.Tensor | None = None,
    full: torch.Tensor | None = None,
    aligned: bool = False,
    carrier_hz: float = 2.1e9,
) -> tuple[Cells, torch.Tensor, dict[str, torch.Tensor]]:
    """Draw what [`draw`] transmits: the cells, the index of each cell's modulation, and the other parameters drawn."""
    device = generator.device

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape or (batch_size,), generator=generator, device=device)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*(shape or (batch_size,)), generator=generator, device=device)

    def gain(low: float, high: float) -> torch.Tensor:
        return decibels(batch_size, low, high, generator)[:, 0, 0]

    if full is None:
        full = torch.zeros(batch_size, dtype=torch.bool, device=device)
    slots_per_frame = round(10 * subcarrier_spacing_hz / 15e3)
    patterns, pattern = _duplex_pattern(batch_size, generator)
    pattern = torch.where(full, 0, pattern)
    paired = pattern == 0
    ssb_half_frames = torch.where(paired, 1 << integers(3), 2 << integers(2))
    first_slot = integers(1024 * slots_per_frame)
    if aligned:  # to a frame with SS/PBCH blocks, which is where a receiver starts
        first_slot -= first_slot % (slots_per_frame * (ssb_half_frames // 2).clamp(min=1))
    slot_number = first_slot[:, None] + torch.arange(num_slots, device=device)
    downlink_symbols = patterns[pattern].gather(1, slot_number % 10)

    drawn = integers(len(MODULATIONS))
    modulation = drawn if modulation is None else modulation.to(device)
    mcs_table, mcs = _draw_mcs(modulation, code_rate, generator)

    partial = (uniform() < 0.3) & ~full  # a bandwidth part of at least half the carrier
    bwp_size = torch.where(partial, ((0.5 + 0.5 * uniform()) * num_rb).long().clamp(min=min(num_rb, 11)), num_rb)
    bwp_start = (uniform() * (num_rb - bwp_size + 1)).long()

    # A CORESET of one to three symbols; scheduled slots carry a few other messages, idle ones seldom any. Three
    # symbols would keep data out of whole slots of full rows, since SS/PBCH blocks start in the third symbol.
    control_symbols = torch.where(full, 1 + integers(2), 1 + integers(3))
    dmrs_position = torch.where((control_symbols == 3) | (uniform() < 0.3), 3, 2)
    allocated = draw_allocation(batch_size, num_slots, num_rb, generator) | full[:, None, None]
    load = uniform(batch_size, num_slots) ** 2 * (allocated.any(-1) | (uniform(batch_size, 1) < 0.3))

    # Blocks that do not fit the TDD pattern are never sent; with TDD, blocks stay in the first half of a frame.
    places = torch.tensor(SSB_FIRST_SYMBOLS, device=device) + 4
    fits = (patterns[pattern, : SSB_BLOCKS // 2, None] >= places).flatten(1)
    ssb_blocks = (uniform(batch_size, SSB_BLOCKS) < uniform(batch_size, 1)) & fits
    # Most full carriers send one block, the least that a receiver needs; the first four fit all patterns.
    one = torch.arange(SSB_BLOCKS, device=device) == integers(4, batch_size, 1)
    ssb_blocks = torch.where(full[:, None], one, ssb_blocks | one if aligned else ssb_blocks)
    of_paired, of_unpaired = (most_ssb_blocks(subcarrier_spacing_hz, carrier_hz, kind) for kind in (True, False))
    tracking_slot = torch.where(uniform() < 0.5, integers(_TRACKING_PERIOD), -1)
    cells = Cells(
        num_rb,
        subcarrier_spacing_hz,
        num_slots,
        cell_id=integers(1008),
        first_slot=first_slot,
        downlink_symbols=downlink_symbols,
        allocated=allocated,
        rnti=1 + integers(65519),
        mcs_table=mcs_table,
        mcs=mcs[:, None],
        bwp_start=bwp_start,
        bwp_size=bwp_size,
        dmrs_position=dmrs_position,
        dmrs_additional=integers(3),
        dmrs_port=(port := torch.where(uniform() < 0.4, integers(4), 0)),
        cdm_groups=torch.where((port > 1) | (uniform() < 0.6), 2, 1),
        control_symbols=control_symbols,
        coreset_groups=torch.where(uniform() < 0.5, 0, 1 + integers(max(1, num_rb // 6))),
        bundle_size=torch.where(uniform() < 0.5, 6, torch.where(control_symbols == 3, 3, 2)),
        interleaver_rows=torch.tensor([0, 2, 3, 6], device=device)[integers(4)],
        aggregation=1 << integers(4),
        control_load=load,
        ssb_blocks=ssb_blocks,
        ssb_first_rb=(uniform() * (num_rb - SSB_RB + 1)).long().clamp(min=0),
        ssb_half_frames=ssb_half_frames,
        ssb_second_half=torch.where(paired, integers(2), 0),
        ssb_maximum=torch.where(paired, of_paired, of_unpaired),
        k_ssb=NO_SIB1,
        tracking_offset=integers(4),
        data_gain=gain(-6.0, 3.0),
        control_gain=gain(-3.0, 3.0),
        ssb_gain=gain(-3.0, 6.0),
    )
    tracking_slot = _tracking_slot(cells, patterns[pattern], tracking_slot)
    since = (slot_number - tracking_slot[:, None]) % _TRACKING_PERIOD
    cells = replace(cells, tracking=(since < 2) & (tracking_slot >= 0)[:, None])
    return _keep_decodable(cells), modulation, {"mcs": mcs, "tdd_pattern": pattern, "tracking_slot": tracking_slot}


def _tracking_slot(cells: Cells, pattern: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """First slot of the tracking signals in their period: the one wanted, or the next that has room; -1 for none.

    They take two slots with two symbols each (TS 38.214, clause 5.1.6.1.1). There must be room in every period, since
    nothing may be configured over SS/PBCH blocks, whose period divides that of the tracking signals.

    Args:
        cells ([`Cells`]): Without tracking signals.
        pattern (`torch.Tensor` of shape `(batch, 10)`): Downlink symbols of each slot of a duplex pattern.
        wanted (`torch.Tensor` of shape `(batch,)`): -1 for none.
    """
    period = replace(
        cells,
        num_slots=_TRACKING_PERIOD,
        first_slot=0,
        downlink_symbols=pattern.repeat(1, _TRACKING_PERIOD // pattern.shape[1]),
        allocated=True,
        mcs=0,
        control_load=0.0,
        tracking=True,
    )
    fits = period.tracking & period.tracking.roll(-1, 1)
    later = (torch.arange(_TRACKING_PERIOD, device=wanted.device) - wanted[:, None]) % _TRACKING_PERIOD
    nearest = later.masked_fill(~fits, _TRACKING_PERIOD).argmin(1)
    return torch.where((wanted >= 0) & fits.any(1), nearest, -1)


def most_ssb_blocks(subcarrier_spacing_hz: float, carrier_hz: float, paired: bool) -> int:
    """L_max, the number of positions for SS/PBCH blocks in a half frame (TS 38.213, clause 4.1, cases A and C).

    Args:
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
        carrier_hz (`float`): Carrier frequency [Hz].
        paired (`bool`): Whether downlink and uplink have separate spectra (FDD), or share one (TDD).
    """
    few = carrier_hz <= 3e9 if paired or subcarrier_spacing_hz == 15e3 else carrier_hz < 1.88e9
    return 4 if few else 8


def _draw_mcs(
    modulation: torch.Tensor, code_rate: torch.Tensor | None, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Table and MCS of each row: the nearest to its code rate, or a random one of its modulation."""
    device = modulation.device
    if bool(((modulation < 0) | (modulation >= len(MODULATIONS))).any()):
        raise ValueError(
            f"modulation must be 0 to {len(MODULATIONS) - 1}, an index into {MODULATIONS}, not {modulation.tolist()}."
        )
    entries = [(number, mcs, *entry) for number, table in MCS_TABLES.items() for mcs, entry in enumerate(table)]
    table, mcs, order, rate = torch.tensor(entries, device=device).T
    if code_rate is None:
        distance = torch.rand(len(modulation), len(entries), generator=generator, device=device)
    else:
        distance = (rate / 1024 - code_rate.to(device)[:, None]).abs()
    chosen = torch.where(order == 2 * modulation[:, None] + 2, distance, torch.inf).argmin(1)
    return table.long()[chosen], mcs.long()[chosen]


def _keep_decodable(cells: Cells) -> Cells:
    """Lower code rates until every transport block fits the unreserved elements, or else leave the slot empty."""
    for _ in range(len(MCS_TABLES[1])):
        order, _ = mcs_entry(cells.mcs_table[:, None], cells.mcs)
        tight = cells.block_sizes() + 24 > 0.94 * cells.num_elements * order
        tight &= cells.num_elements > 0
        lower = (cells.mcs - tight.long()).clamp(min=0)
        lower = torch.where(mcs_entry(cells.mcs_table[:, None], lower)[0] == order, lower, cells.mcs)
        if torch.equal(lower, cells.mcs):
            break
        cells.mcs = lower
    if bool(tight.any()):
        return replace(cells, allocated=cells.allocated & ~tight[..., None])
    return cells


def _duplex_pattern(batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Downlink symbols of ten slots, for FDD and then for three TDD patterns; and the pattern chosen for each row."""
    device = generator.device
    patterns = torch.tensor(
        [[14] * 10, [14, 14, 14, 10, 0] * 2, [14] * 7 + [6, 0, 0], [14, 14, 14, 14, 10, 0, 0, 0, 0, 0]], device=device
    )
    choice = torch.randint(len(patterns), (batch_size,), generator=generator, device=device)
    keep = torch.rand(batch_size, generator=generator, device=device) >= 0.4
    return patterns, choice * keep

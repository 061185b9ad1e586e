"""5G NR downlink resource grids, 15 and 30 kHz (3GPP TS 38.211).

SS/PBCH blocks, DMRS and CORESET structure follow the standard; channels carry uncoded random symbols, over full,
partial, scattered and empty allocations, FDD and TDD. A lean carrier: what is not scheduled is silent.
"""

import torch

from .ofdm import GridBatch, Numerology
from .sequences import constellation, gold_qpsk, m_sequence, random_symbols
from .traffic import decibels, draw_allocation

SYMBOLS_PER_SLOT = 14
MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
# Carrier widths in resource blocks (TS 38.101-1, table 5.3.2-1), by subcarrier spacing [kHz], to 40 MHz.
CARRIERS_RB = {15: (25, 52, 79, 106, 160, 216), 30: (11, 24, 38, 51, 65, 78, 106)}
_SSB_SUBCARRIERS = 240
_FFT_SIZES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


def numerology(num_rb: int, subcarrier_spacing_hz: float) -> Numerology:
    """Numerology of a carrier, with the smallest usual DFT that holds it.

    Args:
        num_rb (`int`): Resource blocks.
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
    """
    fft_size = next(size for size in _FFT_SIZES if size >= 12 * num_rb * 1.04)
    return Numerology(fft_size * subcarrier_spacing_hz, subcarrier_spacing_hz, fft_size, dc_used=True)


def primary_synchronization(sector_id: torch.Tensor) -> torch.Tensor:
    """PSS (TS 38.211, clause 7.4.2.2), shape `(batch, 127)`, complex64."""
    x = m_sequence((0, 4), (0, 1, 1, 0, 1, 1, 1))
    n = torch.arange(127)
    return (1.0 - 2.0 * x[(n + 43 * sector_id[:, None]) % 127]).to(torch.complex64)


def secondary_synchronization(group_id: torch.Tensor, sector_id: torch.Tensor) -> torch.Tensor:
    """SSS (TS 38.211, clause 7.4.2.3), shape `(batch, 127)`, complex64."""
    x0, x1 = m_sequence((0, 4), (1, 0, 0, 0, 0, 0, 0)), m_sequence((0, 1), (1, 0, 0, 0, 0, 0, 0))
    n = torch.arange(127)
    m0 = 15 * (group_id // 112) + 5 * sector_id
    m1 = group_id % 112
    signs = (1.0 - 2.0 * x0[(n + m0[:, None]) % 127]) * (1.0 - 2.0 * x1[(n + m1[:, None]) % 127])
    return signs.to(torch.complex64)


def ss_pbch_block(cell_id: torch.Tensor, block_index: int, qpsk: torch.Tensor) -> torch.Tensor:
    """One SS/PBCH block (TS 38.211, table 7.4.3.1-1) with its DMRS (clause 7.4.1.4).

    Args:
        cell_id (`torch.Tensor` of shape `(batch,)`): 0 to 1007.
        block_index (`int`): Index of the block within the half frame, modulo 8.
        qpsk (`torch.Tensor` of shape `(batch, 4, 240)`): What the broadcast channel carries.

    Returns:
        `torch.Tensor` of shape `(batch, 4, 240)`, complex64.
    """
    block = qpsk.clone()
    block[:, 0] = 0
    block[:, 2, 48:192] = 0
    group_id, sector_id = cell_id // 3, cell_id % 3
    block[:, 0, 56:183] = primary_synchronization(sector_id)
    block[:, 2, 56:183] = secondary_synchronization(group_id, sector_id)
    c_init = 2**11 * (block_index + 1) * (cell_id // 4 + 1) + 2**6 * (block_index + 1) + cell_id % 4
    pilots = gold_qpsk(c_init, 144)
    rows = torch.arange(len(cell_id))[:, None]
    comb = (4 * torch.arange(60))[None] + (cell_id % 4)[:, None]
    block[rows, 1, comb] = pilots[:, :60]
    block[rows, 3, comb] = pilots[:, 84:]
    block[rows, 2, comb[:, :12]] = pilots[:, 60:72]
    block[rows, 2, comb[:, 48:]] = pilots[:, 72:84]
    return block


def draw(
    num_rb: int, subcarrier_spacing_hz: float, batch_size: int, num_slots: int, generator: torch.Generator
) -> GridBatch:
    """Draw downlink grids that start anywhere in the synchronisation period and the TDD pattern.

    Args:
        num_rb (`int`): Resource blocks of the carrier.
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
        batch_size (`int`): Rows; each is a cell of its own.
        num_slots (`int`): Length in slots.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        [`GridBatch`] with `14 * num_slots` symbols and `12 * num_rb` subcarriers.
    """
    num_subcarriers, num_symbols = 12 * num_rb, SYMBOLS_PER_SLOT * num_slots

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    cell_id = integers(1008, batch_size)
    modulation = integers(len(MODULATIONS), batch_size)
    slots_per_frame = round(10 * subcarrier_spacing_hz / 15e3)
    first_slot = integers(2 * slots_per_frame, batch_size)
    slot_number = first_slot[:, None] + torch.arange(num_slots)

    shape = (num_symbols, num_subcarriers)
    symbols = random_symbols([constellation(name) for name in MODULATIONS], modulation, shape, generator)
    qpsk = random_symbols([constellation("QPSK")], torch.zeros(batch_size).long(), shape, generator)
    symbol_in_slot = torch.arange(num_symbols) % SYMBOLS_PER_SLOT

    allocated = draw_allocation(batch_size, num_slots, num_rb, generator)
    downlink, last_symbol = _duplex_pattern(slot_number, generator)
    allocated &= downlink[..., None]
    last_symbol = last_symbol.repeat_interleave(SYMBOLS_PER_SLOT, 1)[..., None]
    in_downlink = symbol_in_slot[:, None] < last_symbol

    # A CORESET of one to three symbols over part of the carrier; scheduled slots carry a few control elements.
    control_symbols = 1 + integers(3, batch_size, 1)
    in_control = (symbol_in_slot < control_symbols)[..., None]
    control_load = uniform(batch_size, num_slots, 1) ** 2 * (
        allocated.any(-1, keepdim=True) | (uniform(batch_size, 1, 1) < 0.3)
    )
    bundles = uniform(batch_size, num_slots, num_rb // 6 + 1) < control_load
    control_mask = bundles.repeat_interleave(6, -1)[..., :num_rb] & downlink[..., None]
    control_mask = control_mask.repeat_interleave(12, -1).repeat_interleave(SYMBOLS_PER_SLOT, 1)

    data_mask = allocated.repeat_interleave(12, -1).repeat_interleave(SYMBOLS_PER_SLOT, 1) & ~in_control & in_downlink
    gain = decibels(batch_size, -6.0, 3.0, generator)
    grid = symbols * data_mask * gain
    data_share = data_mask.float().mean(-1)

    # PDSCH DMRS: mapping type A from symbol 2 or 3, up to two additional positions (38.211, table 7.4.1.1.2-3),
    # configuration type 1; the other comb carries data or nothing, with the pilots then 3 dB up.
    first_dmrs = torch.maximum(torch.full((batch_size, 1), 2), control_symbols.clamp(max=3))
    additional = integers(3, batch_size, 1)
    is_dmrs = symbol_in_slot == first_dmrs
    is_dmrs |= (symbol_in_slot == 11) & (additional > 0) | (symbol_in_slot == 7) & (additional > 1)
    comb_offset = integers(2, batch_size, 1, 1)
    on_comb = torch.arange(num_subcarriers) % 2 == comb_offset
    silent_comb = (uniform(batch_size, 1, 1) < 0.6).expand_as(gain)
    pilot_gain = torch.where(silent_comb, 2**0.5, 1.0) * gain
    pilots = torch.where(on_comb, qpsk * pilot_gain, grid * ~silent_comb)
    grid = torch.where(is_dmrs[..., None] & data_mask, pilots, grid)
    grid = torch.where(in_control, qpsk * control_mask * decibels(batch_size, -3.0, 3.0, generator), grid)

    # Tracking reference signal (clause 7.4.1.5): every fourth subcarrier, two symbols a slot, in some cells and slots.
    tracking = (slot_number % 40 == integers(40, batch_size, 1)) & (uniform(batch_size, 1) < 0.5) & downlink
    tracking = tracking.repeat_interleave(SYMBOLS_PER_SLOT, 1) & ((symbol_in_slot == 4) | (symbol_in_slot == 8))
    every_fourth = torch.arange(num_subcarriers) % 4 == integers(4, batch_size, 1, 1)
    grid = torch.where(tracking[..., None] & every_fourth, qpsk, grid)

    if num_subcarriers >= _SSB_SUBCARRIERS:
        _add_ss_pbch_blocks(grid, qpsk, cell_id, slot_number, slots_per_frame, generator)
    return GridBatch(grid, data_share, modulation)


def _duplex_pattern(slot_number: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slots are downlink, and how many of their symbols: FDD, or TDD with DDDSU-like patterns.

    Args:
        slot_number (`torch.Tensor` of shape `(batch, num_slots)`): Number of each slot.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `tuple` of two tensors of shape `(batch, num_slots)`: downlink slot (bool), downlink symbols (int64).
    """
    batch_size = len(slot_number)
    patterns = torch.tensor(
        [[14] * 10, [14, 14, 14, 10, 0] * 2, [14] * 7 + [6, 0, 0], [14, 14, 14, 14, 10, 0, 0, 0, 0, 0]]
    )
    choice = torch.randint(len(patterns), (batch_size,), generator=generator)
    choice = torch.where(torch.rand(batch_size, generator=generator) < 0.4, 0, choice)
    symbols = patterns[choice].gather(1, slot_number % 10)
    return symbols > 0, symbols


def _add_ss_pbch_blocks(
    grid: torch.Tensor,
    qpsk: torch.Tensor,
    cell_id: torch.Tensor,
    slot_number: torch.Tensor,
    slots_per_frame: int,
    generator: torch.Generator,
) -> None:
    """SS/PBCH blocks in the first half frame of every period (TS 38.213, clause 4.1, cases A and C), in place."""
    batch_size, num_slots = slot_number.shape
    period_slots = (
        slots_per_frame * torch.tensor([0.5, 1.0, 2.0])[torch.randint(3, (batch_size,), generator=generator)]
    )
    num_blocks = 1 + torch.randint(8, (batch_size,), generator=generator)
    place = torch.rand(batch_size, generator=generator) * (grid.shape[-1] - _SSB_SUBCARRIERS)
    first_subcarrier = (place / 12).floor().long() * 12
    gain = decibels(batch_size, -3.0, 6.0, generator)[..., 0, 0]
    slot_in_period = slot_number % period_slots.long()[:, None]
    for block_index in range(int(num_blocks.max())):
        at = (slot_in_period == block_index // 2) & (block_index < num_blocks)[:, None]
        row, slot = at.nonzero(as_tuple=True)
        if len(row) == 0:
            continue
        first = SYMBOLS_PER_SLOT * slot + (2, 8)[block_index % 2]
        block = ss_pbch_block(cell_id[row], block_index, qpsk[row, :4, :_SSB_SUBCARRIERS])
        time = first[:, None, None] + torch.arange(4)[:, None]
        frequency = first_subcarrier[row][:, None, None] + torch.arange(_SSB_SUBCARRIERS)
        grid[row[:, None, None], time, frequency] = block * gain[row][:, None, None]

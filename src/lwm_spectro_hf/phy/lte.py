"""LTE downlink resource grids: frame structure type 1 (FDD), normal cyclic prefix (3GPP TS 36.211).

Synchronisation, cell-specific reference and control-region structure follow the standard; channels carry uncoded
random symbols, over full, partial, scattered and empty allocations.
"""

import torch

from .ofdm import GridBatch, Numerology
from .sequences import constellation, gold_qpsk, random_symbols
from .traffic import decibels, draw_allocation

SYMBOLS_PER_SUBFRAME = 14
MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
# Resource blocks of a carrier and the usual DFT size (TS 36.101, table 5.6-1; TS 36.104).
FFT_SIZES = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}
_MAX_RB = 110


def numerology(num_rb: int) -> Numerology:
    """Numerology of a carrier of `num_rb` resource blocks (6, 15, 25, 50, 75 or 100)."""
    if num_rb not in FFT_SIZES:
        raise ValueError(f"LTE has no carrier of {num_rb} resource blocks; expected one of {sorted(FFT_SIZES)}.")
    fft_size = FFT_SIZES[num_rb]
    return Numerology(fft_size * 15e3, 15e3, fft_size, dc_used=False)


def primary_synchronization(sector_id: torch.Tensor) -> torch.Tensor:
    """PSS: a Zadoff-Chu sequence of length 63 without its middle (TS 36.211, clause 6.11.1), shape `(batch, 62)`."""
    root = torch.tensor([25, 29, 34])[sector_id][:, None]
    n = torch.arange(62)
    # Reduced in integers: the phase itself runs to thousands of radians, where float32 has lost the fourth digit.
    phase = root * torch.where(n < 31, n * (n + 1), (n + 1) * (n + 2)) % 126
    return torch.polar(torch.ones(len(root), 62), -torch.pi / 63 * phase)


def secondary_synchronization(group_id: torch.Tensor, sector_id: torch.Tensor, subframe: int) -> torch.Tensor:
    """SSS of subframe 0 or 5 (TS 36.211, clause 6.11.2).

    Args:
        group_id (`torch.Tensor` of shape `(batch,)`): N_ID(1), 0 to 167.
        sector_id (`torch.Tensor` of shape `(batch,)`): N_ID(2), 0 to 2.
        subframe (`int`): 0 or 5.

    Returns:
        `torch.Tensor` of shape `(batch, 62)`, complex64.
    """

    def signs(taps: tuple[int, ...]) -> torch.Tensor:
        state = [0, 0, 0, 0, 1]
        while len(state) < 31:
            state.append(sum(state[len(state) - 5 + tap] for tap in taps) % 2)
        return 1.0 - 2.0 * torch.tensor(state)

    s, c, z = signs((0, 2)), signs((0, 3)), signs((0, 1, 2, 4))
    q_prime = group_id // 30
    q = (group_id + q_prime * (q_prime + 1) // 2) // 30
    m_prime = group_id + q * (q + 1) // 2
    m0 = m_prime % 31
    m1 = (m0 + m_prime // 31 + 1) % 31
    n = torch.arange(31)

    def shifted(sequence: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return sequence[(n + shift[:, None]) % 31]

    first, second = (m0, m1) if subframe == 0 else (m1, m0)
    even = shifted(s, first) * shifted(c, sector_id)
    odd = shifted(s, second) * shifted(c, sector_id + 3) * shifted(z, first % 8)
    return torch.stack([even, odd], -1).flatten(1).to(torch.complex64)


def draw(num_rb: int, batch_size: int, num_subframes: int, generator: torch.Generator) -> GridBatch:
    """Draw downlink grids that start at a random subframe of the radio frame.

    Args:
        num_rb (`int`): Resource blocks of the carrier.
        batch_size (`int`): Rows; each is a cell of its own.
        num_subframes (`int`): Length [ms].
        generator (`torch.Generator`): Source of randomness.

    Returns:
        [`GridBatch`] with `14 * num_subframes` symbols and `12 * num_rb` subcarriers.
    """
    num_subcarriers, num_symbols = 12 * num_rb, SYMBOLS_PER_SUBFRAME * num_subframes

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    cell_id = integers(504, batch_size)
    modulation = integers(len(MODULATIONS), batch_size)
    first_subframe = int(integers(10, 1))
    subframes = (first_subframe + torch.arange(num_subframes)) % 10

    symbols = random_symbols(
        [constellation(name) for name in MODULATIONS], modulation, (num_symbols, num_subcarriers), generator
    )
    allocated = draw_allocation(batch_size, num_subframes, num_rb, generator)
    data_mask = allocated.repeat_interleave(12, -1).repeat_interleave(SYMBOLS_PER_SUBFRAME, 1)
    symbol_in_subframe = torch.arange(num_symbols) % SYMBOLS_PER_SUBFRAME
    # Control region: up to three symbols, four for the narrowest carrier (36.211, table 6.7-1).
    control_symbols = 1 + integers(3, batch_size, 1) + (num_rb <= 10)
    in_control = (symbol_in_subframe < control_symbols)[..., None]
    quads = torch.rand(batch_size, num_symbols, num_subcarriers // 4, generator=generator)
    occupancy = torch.rand(batch_size, 1, 1, generator=generator) ** 1.5
    control_mask = (quads < occupancy).repeat_interleave(4, -1)
    qpsk = random_symbols(
        [constellation("QPSK")], torch.zeros(batch_size).long(), (num_symbols, num_subcarriers), generator
    )
    grid = symbols * data_mask * decibels(batch_size, -6.0, 3.0, generator)
    grid = torch.where(in_control, qpsk * control_mask, grid)
    data_share = (data_mask & ~in_control).float().mean(-1)

    _add_reference_signals(grid, cell_id, subframes, num_rb, generator)
    _add_synchronization(grid, qpsk, cell_id, subframes, generator)
    return GridBatch(grid, data_share, modulation)


def _add_reference_signals(
    grid: torch.Tensor, cell_id: torch.Tensor, subframes: torch.Tensor, num_rb: int, generator: torch.Generator
) -> None:
    """Cell-specific reference signals of one, two or four antenna ports (TS 36.211, clause 6.10.1), in place.

    All ports reach the one receive antenna; they stand on resource elements of their own.
    """
    batch_size = len(grid)
    num_ports = torch.tensor([1, 2, 4])[torch.randint(3, (batch_size,), generator=generator)]
    boost = torch.tensor([1.0, 2**0.5, 2.0])[torch.randint(3, (batch_size,), generator=generator)]
    rows = torch.arange(batch_size)[:, None]
    m = torch.arange(2 * num_rb)
    for position, subframe in enumerate(subframes.tolist()):
        for slot in (2 * subframe, 2 * subframe + 1):
            # (symbol, port, offset v) of clause 6.10.1.2
            odd = 3 * (slot % 2)
            for symbol, port, v in ((0, 0, 0), (0, 1, 3), (4, 0, 3), (4, 1, 0), (1, 2, odd), (1, 3, 3 + odd)):
                active = num_ports > port
                if not bool(active.any()):
                    continue
                c_init = 2**10 * (7 * (slot + 1) + symbol + 1) * (2 * cell_id + 1) + 2 * cell_id + 1
                pilots = gold_qpsk(c_init, 2 * _MAX_RB)[:, _MAX_RB - num_rb : _MAX_RB + num_rb]
                subcarrier = 6 * m + ((v + cell_id % 6) % 6)[:, None]
                time = SYMBOLS_PER_SUBFRAME * position + 7 * (slot % 2) + symbol
                current = grid[rows, time, subcarrier]
                grid[rows, time, subcarrier] = torch.where(active[:, None], pilots * boost[:, None], current)


def _add_synchronization(
    grid: torch.Tensor, qpsk: torch.Tensor, cell_id: torch.Tensor, subframes: torch.Tensor, generator: torch.Generator
) -> None:
    """PSS and SSS of subframes 0 and 5, and the PBCH region of subframe 0 (clauses 6.6, 6.11), in place."""
    centre = grid.shape[-1] // 2
    group_id, sector_id = cell_id // 3, cell_id % 3
    gain = decibels(len(grid), -3.0, 3.0, generator)[..., 0]
    for position, subframe in enumerate(subframes.tolist()):
        if subframe not in (0, 5):
            continue
        first = SYMBOLS_PER_SUBFRAME * position
        for symbol, sequence in (
            (5, secondary_synchronization(group_id, sector_id, subframe)),
            (6, primary_synchronization(sector_id)),
        ):
            grid[:, first + symbol, centre - 36 : centre + 36] = 0
            grid[:, first + symbol, centre - 31 : centre + 31] = sequence * gain
        if subframe == 0:
            block = grid[:, first + 7 : first + 11, centre - 36 : centre + 36]
            broadcast = qpsk[:, first + 7 : first + 11, centre - 36 : centre + 36]
            # The two first symbols carry reference signals; there the broadcast channel fills what they leave.
            reference = torch.zeros_like(block, dtype=torch.bool)
            offset = torch.arange(72)[None] - (cell_id % 3)[:, None]
            reference[:, :2] = ((offset % 3) == 0)[:, None]
            grid[:, first + 7 : first + 11, centre - 36 : centre + 36] = torch.where(reference, block, broadcast)

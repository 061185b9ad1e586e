"""LTE downlink resource grids: frame structure type 1 (FDD), normal cyclic prefix (3GPP TS 36.211, 36.212, 36.213).

Everything a terminal needs is there and decodes: synchronization and reference signals, MIB, control format, control
messages, and coded transport blocks, from one antenna port or with transmit diversity from two or four.
"""

from dataclasses import dataclass, replace

import torch

from . import lte_coding, lte_control
from .bits import from_bits, slices, table_on
from .ofdm import Numerology, cyclic_prefix_3gpp, modulate
from .sequences import gold_qpsk, gold_words, m_sequence
from .traffic import decibels, draw_allocation
from .waveform import Waveform

SYMBOLS_PER_SUBFRAME = 14
MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
# Resource blocks of a carrier and the usual DFT size (TS 36.101, table 5.6-1; TS 36.104).
FFT_SIZES = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}
_MAX_RB = 110
_MAX_CODE_RATE = 0.93  # a terminal may skip decoding at higher rates (TS 36.213, clause 7.1.7)
# What file readers such as `pdsch_ue` of srsRAN assume: N_g = 1, whatever the MIB says later, and frame numbers that
# do not wrap within a second.
_PHICH_RESOURCE_ONE, _EARLY_FRAMES = 2, 896
# P_A, the power of data over that of reference signals (TS 36.331, PDSCH-ConfigDedicated) [dB].
_DATA_POWERS_DB = (-6.0, -4.77, -3.0, -1.77, 0.0, 1.0, 2.0, 3.0)


@dataclass
class Downlink:
    """What the cells of a batch transmit: one grant per subframe, to one terminal.

    A value that is the same for all rows may be given as a number. Tensors have shape `(batch,)`; those marked with a
    star have shape `(batch, num_subframes)`.

    Attributes:
        num_rb (`int`): Resource blocks of the carrier: 6, 15, 25, 50, 75 or 100.
        num_subframes (`int`): Length [ms].
        cell_id (`torch.Tensor` or `int`): Physical cell identity, 0 to 503.
        num_ports (`torch.Tensor` or `int`): Antenna ports: 1, or 2 or 4 with transmit diversity.
        frame_number (`torch.Tensor` or `int`): System frame number of the first subframe, 0 to 1023.
        first_subframe (`int`): Number of the first subframe within its frame, 0 to 9.
        phich_resource (`torch.Tensor` or `int`): N_g as an index of 1/6, 1/2, 1, 2. Its elements stay empty.
        cfi (`torch.Tensor` or `int`): Control format indicator, 1 to 3: the control symbols, less one for 6 blocks.
        rnti* (`torch.Tensor` or `int`): The terminal's RNTI; 0xFFFF: system information in the common search space.
        allocation* (`torch.Tensor` of shape `(batch, num_subframes, num_rb)`, bool, *optional*): Scheduled resource
            blocks; by default all of them.
        type_0 (`torch.Tensor` or `bool`): Resource allocation type 0 by DCI format 1, in groups of resource blocks,
            instead of one run of them by format 1A.
        mcs* (`torch.Tensor` or `int`): Highest I_MCS. If it does not fit the subframe within code rate 0.93, the next
            lower one of the same modulation that fits is used; if none does, nothing is scheduled.
        code_rate (`torch.Tensor`, *optional*): Overrides `mcs`, which then only gives the modulation: uses the I_MCS
            whose code rate is nearest to this in the typical (median) subframe.
        qam_256 (`torch.Tensor` or `bool`): Read `mcs` in table 7.1.7.1-1A; needs `type_0`.
        aggregation_level* (`torch.Tensor` or `int`): Control channel elements of the grant: 1, 2, 4 or 8, lowered to
            what the control region holds, and raised to at least 4 for system information.
        other_messages* (`torch.Tensor` or `int`): Largest number of uplink grants to other terminals.
        data_gain (`torch.Tensor` or `float`): Amplitude of the PDSCH relative to reference signals.
        synchronization_gain (`torch.Tensor` or `float`): Amplitude of PSS and SSS.
    """

    num_rb: int
    num_subframes: int
    cell_id: torch.Tensor | int
    num_ports: torch.Tensor | int = 1
    frame_number: torch.Tensor | int = 0
    first_subframe: int = 0
    phich_resource: torch.Tensor | int = 2
    cfi: torch.Tensor | int = 2
    rnti: torch.Tensor | int = 0x1234
    allocation: torch.Tensor | None = None
    type_0: torch.Tensor | bool = True
    mcs: torch.Tensor | int = 9
    code_rate: torch.Tensor | None = None
    qam_256: torch.Tensor | bool = False
    aggregation_level: torch.Tensor | int = 2
    other_messages: torch.Tensor | int = 0
    data_gain: torch.Tensor | float = 1.0
    synchronization_gain: torch.Tensor | float = 1.0

    def expanded(self, device: torch.device) -> "Downlink":
        """Return a copy with every value as a tensor of its full shape.

        Raises:
            ValueError: For values outside their range.
        """
        numerology(self.num_rb)
        cell_id = torch.as_tensor(self.cell_id, device=device).view(-1)
        batch_size, num_subframes = len(cell_id), self.num_subframes

        def rows(name: str) -> torch.Tensor:
            return torch.as_tensor(getattr(self, name), device=device).expand(batch_size)

        def subframes(name: str) -> torch.Tensor:
            value = torch.as_tensor(getattr(self, name), device=device)
            return (value[:, None] if value.ndim == 1 else value).expand(batch_size, num_subframes)

        if self.allocation is None:
            allocation = torch.ones(1, 1, self.num_rb, dtype=torch.bool, device=device)
        else:
            allocation = self.allocation.to(device)
        per_row = ("num_ports", "frame_number", "phich_resource", "cfi", "type_0", "qam_256")
        per_subframe = ("rnti", "mcs", "aggregation_level", "other_messages")
        full = Downlink(
            self.num_rb,
            num_subframes,
            cell_id,
            first_subframe=self.first_subframe,
            allocation=allocation.expand(batch_size, num_subframes, self.num_rb),
            code_rate=None if self.code_rate is None else rows("code_rate"),
            data_gain=rows("data_gain"),
            synchronization_gain=rows("synchronization_gain"),
            **{name: rows(name) for name in per_row},
            **{name: subframes(name) for name in per_subframe},
        )
        for name, allowed in (
            ("cell_id", range(504)),
            ("num_ports", (1, 2, 4)),
            ("phich_resource", range(4)),
            ("cfi", (1, 2, 3)),
            ("mcs", range(29)),
            ("aggregation_level", (1, 2, 4, 8)),
        ):
            found = getattr(full, name).unique().tolist()
            wrong = [value for value in found if value not in allowed]
            if wrong:
                raise ValueError(f"{name} is {wrong[0]} in some row; expected one of {list(allowed)}.")
        if bool((full.qam_256[:, None] & (full.mcs > 27)).any()):
            raise ValueError("mcs is 28 in a row with qam_256; expected at most 27 (TS 36.213, table 7.1.7.1-1A).")
        system = full.rnti == lte_control.SYSTEM_INFORMATION_RNTI
        if bool((full.qam_256 & ~full.type_0).any()):
            raise ValueError("256-QAM is scheduled only by DCI format 1: set type_0 in the rows of qam_256.")
        if bool((system & full.type_0[:, None]).any()):
            raise ValueError("System information is scheduled only by DCI format 1A: clear type_0 in its rows.")
        return full


@dataclass
class Transmission:
    """What the cells of a batch send, summed over all antenna ports.

    Attributes:
        grid (`torch.Tensor` of shape `(batch, num_symbols, num_subcarriers)`): Lowest frequency first.
        sent_elements (`torch.Tensor` of shape `(batch, num_symbols)`): How many elements are in use, including those
            where symbols of two ports cancel.
        data_elements (`torch.Tensor` of shape `(batch, num_symbols)`): How many elements carry user data.
        mcs (`torch.Tensor` of shape `(batch, num_subframes)`): I_MCS of each grant.
        code_rate (`torch.Tensor` of shape `(batch, num_subframes)`): Transport block with parity over coded bits, 0
            where nothing is scheduled.
    """

    grid: torch.Tensor
    sent_elements: torch.Tensor
    data_elements: torch.Tensor
    mcs: torch.Tensor
    code_rate: torch.Tensor


def numerology(num_rb: int) -> Numerology:
    """Numerology of a carrier of `num_rb` resource blocks (6, 15, 25, 50, 75 or 100)."""
    if num_rb not in FFT_SIZES:
        raise ValueError(f"LTE has no carrier of {num_rb} resource blocks; expected one of {sorted(FFT_SIZES)}.")
    fft_size = FFT_SIZES[num_rb]
    return Numerology(fft_size * 15e3, 15e3, fft_size, dc_used=False)


def primary_synchronization(sector_id: torch.Tensor) -> torch.Tensor:
    """PSS: a Zadoff-Chu sequence of length 63 without its middle (TS 36.211, clause 6.11.1), shape `(batch, 62)`."""
    root = torch.tensor([25, 29, 34], device=sector_id.device)[sector_id][:, None]
    n = torch.arange(62, device=sector_id.device)
    # Reduced in integers: the phase itself runs to thousands of radians, where float32 has lost the fourth digit.
    phase = root * torch.where(n < 31, n * (n + 1), (n + 1) * (n + 2)) % 126
    angle = -torch.pi / 63 * phase
    return torch.polar(torch.ones_like(angle), angle)


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
        return 1.0 - 2.0 * table_on(group_id.device, m_sequence, taps, (0, 0, 0, 0, 1))

    s, c, z = signs((0, 2)), signs((0, 3)), signs((0, 1, 2, 4))
    q_prime = group_id // 30
    q = (group_id + q_prime * (q_prime + 1) // 2) // 30
    m_prime = group_id + q * (q + 1) // 2
    m0 = m_prime % 31
    m1 = (m0 + m_prime // 31 + 1) % 31
    n = torch.arange(31, device=group_id.device)

    def shifted(sequence: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return sequence[(n + shift[:, None]) % 31]

    first, second = (m0, m1) if subframe == 0 else (m1, m0)
    even = shifted(s, first) * shifted(c, sector_id)
    odd = shifted(s, second) * shifted(c, sector_id + 3) * shifted(z, first % 8)
    return torch.stack([even, odd], -1).flatten(1).to(torch.complex64)


def transmit(downlink: Downlink, generator: torch.Generator) -> Transmission:
    """Fill the grids of a batch of cells.

    Transport blocks carry random bits. Grants of one size share a block, which is scrambled for each terminal, cell
    and subframe.

    Args:
        downlink ([`Downlink`]): What is transmitted.
        generator (`torch.Generator`): Source of the payload; its device is used.

    Returns:
        [`Transmission`] of `14 * num_subframes` symbols and `12 * num_rb` subcarriers.
    """
    device = generator.device
    downlink = downlink.expanded(device)
    subframe = (downlink.first_subframe + torch.arange(downlink.num_subframes, device=device)) % 10
    batch_size, width = len(downlink.cell_id), 12 * downlink.num_rb
    shape = (batch_size, downlink.num_subframes, SYMBOLS_PER_SUBFRAME, width)
    grid = torch.zeros(shape, dtype=torch.complex64, device=device)
    reserved, sent = torch.zeros(2, *shape, dtype=torch.bool, device=device)

    _add_reference_signals(grid, reserved, downlink, subframe)
    _add_synchronization(grid, reserved, sent, downlink, subframe)
    control_symbols = downlink.cfi + (downlink.num_rb <= 10)
    symbol = torch.arange(SYMBOLS_PER_SUBFRAME, device=device)
    reserved |= (symbol < control_symbols[:, None])[:, None, :, None]

    data = ~reserved
    data &= downlink.allocation.repeat_interleave(12, -1)[:, :, None]
    num_elements = data.sum((2, 3))
    if downlink.code_rate is not None:
        downlink = replace(downlink, mcs=_nearest_mcs(downlink, num_elements))
    mcs, order, size = _schedule(downlink, num_elements)
    data &= (size > 0)[..., None, None]
    _add_control(grid, sent, downlink, subframe, mcs, size > 0, generator)
    length = num_elements * order
    row, slot = (size > 0).nonzero(as_tuple=True)  # in the order in which a mask reads the grid
    if len(row):
        c_init = downlink.rnti * 2**14 + subframe * 2**9 + downlink.cell_id[:, None]
        symbols = _shared_channel(
            size[row, slot],
            length[row, slot],
            order[row, slot],
            c_init[row, slot],
            downlink.num_ports[row],
            downlink.data_gain[row],
            generator,
        )
        grid.masked_scatter_(data, symbols)
    code_rate = torch.where(size > 0, (size + 24) / length.clamp(min=1), 0.0)
    sent |= data
    sent |= grid != 0
    return Transmission(grid.flatten(1, 2), sent.sum(-1).flatten(1), data.sum(-1).flatten(1), mcs, code_rate)


def draw(
    num_rb: int,
    batch_size: int,
    num_samples: int,
    generator: torch.Generator,
    *,
    modulation: torch.Tensor | None = None,
    code_rate: torch.Tensor | None = None,
    full: torch.Tensor | None = None,
    aligned: bool = False,
    num_ports: tuple[int, ...] = (1, 2, 4),
) -> Waveform:
    """Draw downlink transmissions, each row with its own cell, terminal and traffic.

    Args:
        num_rb (`int`): Resource blocks of the carrier.
        batch_size (`int`): Rows.
        num_samples (`int`): Length at the native rate.
        generator (`torch.Generator`): Source of randomness.
        modulation (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Index into `MODULATIONS`.
        code_rate (`torch.Tensor` of shape `(batch,)`, *optional*): Target; the nearest modulation and coding scheme is
            used, within what a terminal decodes.
        full (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows where every resource block of every subframe
            is scheduled. An exception is the first subframe of a frame at 1.4 MHz: what the broadcast channel leaves
            may be too small for a transport block of 64-QAM, and is too small for one of 256-QAM.
        aligned (`bool`, *optional*, defaults to `False`): Start with a radio frame instead of anywhere, and keep to
            what file readers expect: data as strong as reference signals, N_g = 1, no messages to other terminals,
            grants of one or two control elements, and frame numbers that do not wrap within a second.
        num_ports (`tuple[int, ...]`, *optional*, defaults to `(1, 2, 4)`): Antenna ports that a cell may have. All
            reach the receiver through one channel; with more than one, the symbols of two elements add up.

    Returns:
        [`Waveform`].
    """
    device = generator.device
    carrier = numerology(num_rb)
    samples_per_ms = round(carrier.sampling_rate * 1e-3)
    num_subframes = -(-num_samples // samples_per_ms) + (not aligned)
    downlink, modulation = _draw_downlink(
        num_rb, batch_size, num_subframes, generator, modulation, code_rate, full, aligned, num_ports
    )
    sent = transmit(downlink, generator)
    samples, symbol_start = modulate(sent.grid, carrier, cyclic_prefix_3gpp(carrier, sent.grid.shape[1]))
    symbol_start = symbol_start.to(device).expand(batch_size, -1)
    if not aligned:
        skipped = torch.randint(samples_per_ms, (batch_size,), generator=generator, device=device)
        samples = slices(samples, skipped, num_samples)
        symbol_start = symbol_start - skipped[:, None]
    heard = (symbol_start >= 0) & (symbol_start < num_samples)
    power = torch.linalg.vector_norm(torch.view_as_real(sent.grid), dim=(2, 3)).square()
    used = (sent.sent_elements * heard).sum(1)
    num_elements = (heard.sum(1) * sent.grid.shape[2]).clamp(min=1)
    scheduled = (sent.code_rate > 0).sum(1)
    parameters = {
        "frame_number": downlink.frame_number,
        "first_subframe": torch.full_like(modulation, downlink.first_subframe),
        "num_rb": torch.full_like(modulation, num_rb),
        "phich_resource": torch.full_like(modulation, downlink.phich_resource),
        "mcs_table": 1 + (modulation == 3).long(),
        "mcs": sent.mcs.amax(1),
        **{name: getattr(downlink, name) for name in ("cell_id", "num_ports", "cfi", "rnti")},
    }
    return Waveform(
        samples=samples[:, :num_samples],
        numerology=carrier,
        element_power=torch.where(used > 0, (power * heard).sum(1) / used.clamp(min=1), 1.0),
        symbol_start=symbol_start,
        occupancy=used / num_elements,
        data_share=(sent.data_elements * heard).sum(1) / num_elements,
        modulation=modulation,
        code_rate=sent.code_rate.sum(1) / scheduled.clamp(min=1),
        parameters=parameters,
    )


def _draw_downlink(
    num_rb: int,
    batch_size: int,
    num_subframes: int,
    generator: torch.Generator,
    modulation: torch.Tensor | None,
    code_rate: torch.Tensor | None,
    full: torch.Tensor | None,
    aligned: bool,
    num_ports: tuple[int, ...],
) -> tuple[Downlink, torch.Tensor]:
    """Draw what [`draw`] transmits, from its arguments: the downlinks, and the index of each row's modulation."""
    device = generator.device

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator, device=device)

    def pick(values: tuple) -> torch.Tensor:
        return torch.tensor(values, device=device)[integers(len(values), batch_size)]

    modulation = integers(len(MODULATIONS), batch_size) if modulation is None else modulation.to(device)
    # First I_MCS of each modulation and how many it has: 256-QAM by table 7.1.7.1-1A, the others by 7.1.7.1-1.
    first, count = torch.tensor([(0, 10), (10, 7), (17, 12), (20, 8)], device=device)[modulation].T
    mcs = first + integers(2520, batch_size) % count

    allocation = draw_allocation(batch_size, num_subframes, num_rb, generator)
    if full is not None:
        allocation |= full.to(device)[:, None, None]
    edges = (allocation[..., 1:] & ~allocation[..., :-1]).sum(-1) + allocation[..., 0]
    one_run = (edges <= 1).all(1)
    type_0 = (modulation == 3) | ~one_run | (integers(2, batch_size) == 0)
    group = lte_control.group_size(num_rb)
    grouped = allocation[..., ::group].repeat_interleave(group, -1)[..., :num_rb]
    allocation = torch.where(type_0[:, None, None], grouped, allocation)

    # Half of the cells send data as strong as their reference signals.
    power_db = torch.where((integers(2, batch_size) == 0) & (not aligned), pick(_DATA_POWERS_DB), 0.0)
    busy = integers(5, batch_size, 1)
    downlink = Downlink(
        num_rb,
        num_subframes,
        integers(504, batch_size),
        num_ports=pick(num_ports),
        frame_number=integers(_EARLY_FRAMES if aligned else 1024, batch_size),
        first_subframe=0 if aligned else int(integers(10, 1)),
        phich_resource=_PHICH_RESOURCE_ONE if aligned else int(integers(4, 1)),
        cfi=1 + integers(3, batch_size),
        rnti=0x3D + integers(0xFFF4 - 0x3D, batch_size),  # the range for terminals (TS 36.321, table 7.1-1)
        allocation=allocation,
        type_0=type_0,
        mcs=mcs,
        code_rate=code_rate,
        qam_256=modulation == 3,
        aggregation_level=2 ** integers(2 if aligned else 4, batch_size),
        other_messages=integers(5, batch_size, num_subframes) * busy // 4 * (not aligned),
        data_gain=10 ** (power_db / 20),
        synchronization_gain=decibels(batch_size, -3.0, 3.0, generator)[:, 0, 0],
    )
    return downlink, modulation


def _options(downlink: Downlink, num_elements: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Modulation and transport block size of each I_MCS in each subframe (TS 36.213, clause 7.1.7).

    Args:
        downlink ([`Downlink`]): Expanded.
        num_elements (`torch.Tensor` of shape `(batch, num_subframes)`): Resource elements of the allocation.

    Returns:
        `tuple` of three tensors of shape `(batch, num_subframes, 29)`: modulation order, transport block size, and
        whether the modulation is that of `downlink.mcs`.
    """
    device = num_elements.device
    sizes = table_on(device, lte_coding.transport_block_sizes)
    table = table_on(device, lte_coding.mcs_table)[downlink.qam_256.long()][:, None]
    system = (downlink.rnti == lte_control.SYSTEM_INFORMATION_RNTI)[..., None]
    # System information uses QPSK, its I_MCS is I_TBS, and its sizes are in the column of three resource blocks.
    order = torch.where(system, 2, table[..., 0])
    column = torch.where(system, 3, downlink.allocation.sum(-1, keepdim=True)) - 1
    i_tbs = torch.where(system, torch.arange(table.shape[2], device=device), table[..., 1])
    return order, sizes[i_tbs, column], order == order.gather(2, downlink.mcs[..., None])


def _nearest_mcs(downlink: Downlink, num_elements: torch.Tensor) -> torch.Tensor:
    """I_MCS of the modulation of `downlink.mcs` whose code rate is nearest to the target, `(batch, num_subframes)`."""
    order, size, same = _options(downlink, num_elements)
    scheduled = num_elements[..., None] > 0
    rate = torch.where(scheduled, (size + 24) / (order * num_elements[..., None]), torch.nan)
    rate = rate.nanmedian(1).values.nan_to_num(nan=0.0, posinf=9.0)
    distance = (rate - downlink.code_rate[:, None]).abs() + 10 * (rate > _MAX_CODE_RATE)
    mcs = torch.where(same[:, 0], distance, torch.inf).argmin(1)
    return mcs[:, None].expand_as(num_elements)


def _schedule(downlink: Downlink, num_elements: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose modulation and coding that fit each subframe (TS 36.213, clause 7.1.7).

    Args:
        downlink ([`Downlink`]): Expanded.
        num_elements (`torch.Tensor` of shape `(batch, num_subframes)`): Resource elements of the allocation.

    Returns:
        `tuple` of three tensors of shape `(batch, num_subframes)`: I_MCS, modulation order, and transport block size,
        0 where nothing is scheduled.
    """
    order, size, fits = _options(downlink, num_elements)
    index = torch.arange(order.shape[2], device=order.device)
    fits = fits & (index <= downlink.mcs[..., None]) & (num_elements[..., None] > 0)
    fits &= size + 24 <= _MAX_CODE_RATE * order * num_elements[..., None]
    mcs = torch.where(fits, index, -1).amax(-1, keepdim=True)
    chosen = mcs.clamp(min=0)
    size = torch.where(mcs >= 0, size.gather(2, chosen), 0)
    return chosen[..., 0], order.gather(2, chosen)[..., 0], size[..., 0]


def _shared_channel(
    size: torch.Tensor,
    length: torch.Tensor,
    order: torch.Tensor,
    c_init: torch.Tensor,
    num_ports: torch.Tensor,
    gain: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """PDSCH symbols of many grants, one after the other (TS 36.211, clause 6.3; TS 36.212, clause 5.3.2).

    Args:
        size (`torch.Tensor` of shape `(grants,)`): Transport block sizes [bit].
        length (`torch.Tensor` of shape `(grants,)`): Coded bits.
        order (`torch.Tensor` of shape `(grants,)`): Bits per symbol.
        c_init (`torch.Tensor` of shape `(grants,)`): Seeds of the scrambling sequences.
        num_ports (`torch.Tensor` of shape `(grants,)`): Antenna ports.
        gain (`torch.Tensor` of shape `(grants,)`): Amplitudes.
        generator (`torch.Generator`): Source of the transport blocks.

    Returns:
        `torch.Tensor` of shape `(sum of length / order,)`, complex64.
    """
    device = generator.device
    diversity = num_ports > 1
    # Grants of one size send the same block, those also of one length the same codeword, each scrambled on its own.
    alike = torch.stack([size, length, order, torch.where(diversity, 2, 1)], 1)
    kinds, kind = alike.unique(dim=0, return_inverse=True)
    num_symbols = length // order
    widest = int(num_symbols.max())
    bits = torch.zeros(len(kinds), widest * int(order.max()), dtype=torch.uint8, device=device)
    by_size: dict[int, list[tuple[int, int, int]]] = {}
    for number, (block_size, coded, of_symbol, layers) in enumerate(kinds.tolist()):
        by_size.setdefault(block_size, []).append((number, coded, of_symbol * layers))
    for block_size, group in by_size.items():
        codewords = lte_coding.encode_transport_block(block_size, [shape[1:] for shape in group], generator)
        for (number, coded, _), codeword in zip(group, codewords, strict=True):
            bits[number, :coded] = codeword
    labels = torch.empty(len(size), widest, dtype=torch.uint8, device=device)
    for value in order.unique().tolist():
        chosen = (order == value).nonzero()[:, 0]
        codewords = from_bits(bits[:, : widest * value], value)
        labels[chosen] = codewords.index_select(0, kind[chosen]) ^ gold_words(c_init[chosen], widest, value)
    symbols = lte_control.points(labels, order[:, None])
    chosen = diversity.nonzero()[:, 0]
    if widest % 2:  # `combine_ports` takes pairs; the added symbol is never sent
        symbols = torch.nn.functional.pad(symbols, (0, 1))
    symbols[chosen] = lte_control.combine_ports(symbols[chosen], num_ports[chosen])
    symbols *= gain[:, None]
    sent = torch.arange(symbols.shape[1], device=device) < num_symbols[:, None]
    return symbols.masked_select(sent)


def _add_control(
    grid: torch.Tensor,
    sent: torch.Tensor,
    downlink: Downlink,
    subframe: torch.Tensor,
    mcs: torch.Tensor,
    scheduled: torch.Tensor,
    generator: torch.Generator,
) -> None:
    """Add PCFICH and PDCCH in place: the assignment of each scheduled subframe, and uplink grants to others."""
    device = grid.device
    batch_size, num_subframes = scheduled.shape
    row, slot = scheduled.nonzero(as_tuple=True)
    own = torch.zeros(batch_size, num_subframes, 576, dtype=torch.uint8, device=device)
    # Each grant is for the next block, except for system information, which has no HARQ process.
    block = (scheduled.cumsum(1) - 1) * (downlink.rnti != lte_control.SYSTEM_INFORMATION_RNTI)
    for type_0 in (False, True):
        of_type = downlink.type_0[row] == type_0
        at = (row[of_type], slot[of_type])
        payload = lte_control.downlink_assignment(downlink.allocation[at], mcs[at], block[at], type_0)
        own[at] = lte_control.encode_control_information(payload, downlink.rnti[at])

    def others() -> lte_control.ControlMessage:
        size = lte_control.assignment_sizes(downlink.num_rb)[0]
        bits = torch.randint(2, (*scheduled.shape, size), generator=generator, device=device, dtype=torch.uint8)
        bits[..., 0] = 0  # format 0, which has the size of format 1A
        rnti = torch.randint(0x3D, 0xFFF4, scheduled.shape, generator=generator, device=device)
        level = 2 ** torch.randint(4, scheduled.shape, generator=generator, device=device)
        return lte_control.ControlMessage(lte_control.encode_control_information(bits, rnti), rnti, level)

    crowd = [others() for _ in range(int(downlink.other_messages.max()))]
    flat, flat_sent = grid.flatten(2), sent.flatten(2)
    four_ports = (downlink.num_ports == 4).long()
    kinds = torch.stack([downlink.cfi, four_ports, downlink.phich_resource], 1)
    for kind in kinds.unique(dim=0):
        rows = (kinds == kind).all(1).nonzero()[:, 0]
        cfi, has_four, resource = kind.tolist()
        cell_id, num_ports = downlink.cell_id[rows], downlink.num_ports[rows]
        num_symbols = cfi + (downlink.num_rb <= 10)
        region = lte_control.control_region(downlink.num_rb, cell_id, num_symbols, bool(has_four), resource)
        most = 2 ** (region.num_cce.bit_length() - 1)
        system = (downlink.rnti[rows] == lte_control.SYSTEM_INFORMATION_RNTI) & scheduled[rows]
        if most < 4 and bool(system.any()):
            raise ValueError(
                f"The common search space needs at least 4 control channel elements, but there are {region.num_cce} "
                f"with cfi={cfi} on {downlink.num_rb} resource blocks; raise cfi to schedule system information."
            )
        level = torch.where(system, downlink.aggregation_level[rows].clamp(min=4), downlink.aggregation_level[rows])
        level = level.clamp(max=most) * scheduled[rows]
        messages = [lte_control.ControlMessage(own[rows], downlink.rnti[rows], level)]
        for number, other in enumerate(crowd):
            level = other.level[rows].clamp(max=most) * (number < downlink.other_messages[rows])
            messages.append(lte_control.ControlMessage(other.coded[rows], other.rnti[rows], level))
        symbols = torch.cat(
            [
                lte_control.indicator_symbols(cell_id, cfi, subframe),
                lte_control.control_symbols(region, cell_id, subframe, messages),
            ],
            -1,
        )
        elements = torch.cat([region.indicator, region.quadruplets.flatten(1)], 1)
        place = (rows[:, None, None], torch.arange(num_subframes, device=device)[:, None], elements[:, None])
        flat[place] = lte_control.combine_ports(symbols, num_ports)
        flat_sent[place] = symbols != 0


def _add_reference_signals(
    grid: torch.Tensor, reserved: torch.Tensor, downlink: Downlink, subframe: torch.Tensor
) -> None:
    """Add cell-specific reference signals of one, two or four antenna ports (TS 36.211, clause 6.10.1), in place.

    All ports reach the one receive antenna, each on its own resource elements.
    """
    device = grid.device
    num_rb, cell_id = downlink.num_rb, downlink.cell_id[:, None]
    time = torch.arange(len(subframe), device=device)[:, None]
    m = torch.arange(2 * num_rb, device=device)
    rows_of = [(downlink.num_ports > port).nonzero()[:, 0] for port in range(4)]
    for half in (0, 1):
        # Symbols with the (port, offset v) of clause 6.10.1.2.
        for symbol, ports in ((0, ((0, 0), (1, 3))), (4, ((0, 3), (1, 0))), (1, ((2, 3 * half), (3, 3 + 3 * half)))):
            if len(rows_of[ports[0][0]]) == 0:
                continue
            slot = 2 * subframe + half
            c_init = 2**10 * (7 * (slot + 1) + symbol + 1) * (2 * cell_id + 1) + 2 * cell_id + 1
            pilots = gold_qpsk(c_init, 2 * _MAX_RB)[..., _MAX_RB - num_rb : _MAX_RB + num_rb]
            for port, v in ports:
                rows = rows_of[port]
                subcarrier = 6 * m + (v + cell_id[rows]) % 6
                place = (rows[:, None, None], time, 7 * half + symbol, subcarrier[:, None])
                grid[place] = pilots[rows]
                reserved[place] = True


def _add_synchronization(
    grid: torch.Tensor, reserved: torch.Tensor, sent: torch.Tensor, downlink: Downlink, subframe: torch.Tensor
) -> None:
    """Add PSS and SSS in subframes 0 and 5, and the PBCH in subframe 0 (clauses 6.6, 6.11), in place."""
    centre = grid.shape[-1] // 2
    cell_id, num_ports = downlink.cell_id, downlink.num_ports
    gain = downlink.synchronization_gain[:, None]
    # The broadcast channel avoids the reference signals of four ports, however many there are (clause 6.6.4).
    clear = torch.ones(len(cell_id), 4, 72, dtype=torch.bool, device=grid.device)
    clear[:, :2] = ((torch.arange(72, device=grid.device) - cell_id[:, None]) % 3 != 0)[:, None]
    for position, number in enumerate(subframe.tolist()):
        if number not in (0, 5):
            continue
        block = grid[:, position, :, centre - 36 : centre + 36]
        block[:, 5, 5:67] = secondary_synchronization(cell_id // 3, cell_id % 3, number) * gain
        block[:, 6, 5:67] = primary_synchronization(cell_id % 3) * gain
        reserved[:, position, 5:7, centre - 36 : centre + 36] = True
        if number == 0:
            frame = (downlink.frame_number + (downlink.first_subframe + position) // 10) % 1024
            symbols = lte_control.broadcast_symbols(
                downlink.num_rb, cell_id, num_ports, downlink.phich_resource, frame
            )
            block[:, 7:11][clear] = symbols.flatten()
            sent[:, position, 7:11, centre - 36 : centre + 36] = clear
            reserved[:, position, 7:11, centre - 36 : centre + 36] = True

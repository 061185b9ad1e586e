"""Broadcast and control channels of the LTE downlink: PBCH, PCFICH, PDCCH (3GPP TS 36.211, 36.212, 36.213).

Normal cyclic prefix, FDD. The PHICH's resource elements are reserved and stay empty.
"""

from dataclasses import dataclass

import torch

from .bits import from_bits, message_bits, table_on, to_bits
from .lte_coding import append_crc, circular_buffer, convolutional_rate_match
from .sequences import constellation, gold_bits
from .traffic import resource_indication, search_space_powers

BANDWIDTHS_RB = (6, 15, 25, 50, 75, 100)
# N_g of the PHICH (TS 36.331, PHICH-Config), in sixths to stay exact.
PHICH_RESOURCES_SIXTHS = (1, 3, 6, 12)
SYSTEM_INFORMATION_RNTI = 0xFFFF
_ELEMENTS_PER_CCE = 36  # nine groups of four
_MAX_LEVEL = 8
# Payload sizes for which the aggregation level would be ambiguous (TS 36.212, table 5.3.3.1.2-1).
_AMBIGUOUS_SIZES = frozenset((12, 14, 16, 20, 24, 26, 32, 40, 44, 56))


def modulate(bits: torch.Tensor, order: int = 2) -> torch.Tensor:
    """Bits to constellation points (TS 36.211, clause 7.1).

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): Their number is a multiple of `order`.
        order (`int`, *optional*, defaults to 2): Bits per symbol.

    Returns:
        `torch.Tensor` of shape `(..., num_bits // order)`, complex64.
    """
    return points(from_bits(bits, order), torch.tensor(order, device=bits.device))


def _all_points() -> torch.Tensor:
    return torch.cat([constellation(name) for name in ("QPSK", "16QAM", "64QAM", "256QAM")])


def points(label: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Constellation points (TS 36.211, clause 7.1).

    Args:
        label (`torch.Tensor`, uint8): Bits of each symbol as from [`~phy.bits.from_bits`].
        order (`torch.Tensor` broadcastable to it): Bits per symbol: 2, 4, 6 or 8.

    Returns:
        `torch.Tensor` of the shape of `label`, complex64.
    """
    # The constellations are concatenated; those before the one of 4^k points have (4^k - 4) / 3 points.
    index = label.int() + ((2**order - 4) // 3).int()
    return table_on(label.device, _all_points).index_select(0, index.flatten()).view(label.shape)


def combine_ports(symbols: torch.Tensor, num_ports: torch.Tensor) -> torch.Tensor:
    """What one receive antenna gets of a channel sent from one, two or four antenna ports (TS 36.211, clause 6.3.4).

    Two ports send pairs of symbols as a space-frequency block code; of four ports, two at a time do so in turn. All
    ports have the same channel to the receiver, so that their sum is the same for two and four.

    Args:
        symbols (`torch.Tensor` of shape `(batch, ..., num_symbols)`): An even number of modulation symbols.
        num_ports (`torch.Tensor` of shape `(batch,)`): 1, 2 or 4.

    Returns:
        `torch.Tensor` of the shape of `symbols`.
    """
    first, second = symbols[..., 0::2], symbols[..., 1::2]
    coded = torch.stack([first - second.conj(), second + first.conj()], -1).flatten(-2) / 2**0.5
    return torch.where((num_ports > 1).view(-1, *[1] * (symbols.ndim - 1)), coded, symbols)


def broadcast_symbols(
    num_rb: int, cell_id: torch.Tensor, num_ports: torch.Tensor, phich_resource: torch.Tensor, frame: torch.Tensor
) -> torch.Tensor:
    """The 240 symbols of the physical broadcast channel in one radio frame.

    Args:
        num_rb (`int`): Resource blocks of the carrier.
        cell_id (`torch.Tensor` of shape `(batch,)`): Physical cell identities.
        num_ports (`torch.Tensor` of shape `(batch,)`): Antenna ports, 1, 2 or 4.
        phich_resource (`torch.Tensor` of shape `(batch,)`): Index into `PHICH_RESOURCES_SIXTHS`.
        frame (`torch.Tensor` of shape `(batch,)`): System frame number.

    Returns:
        `torch.Tensor` of shape `(batch, 240)`, complex64.
    """
    bandwidth = torch.full_like(cell_id, BANDWIDTHS_RB.index(num_rb))
    # MasterInformationBlock (TS 36.331): bandwidth, PHICH duration (normal) and resource, frame number, spare bits.
    fields = ((bandwidth, 3), (torch.zeros_like(cell_id), 1), (phich_resource, 2), (frame // 4 % 256, 8))
    information = message_bits(fields)
    information = torch.nn.functional.pad(information, (0, 10))
    # The parity mask signals the number of ports (TS 36.212, table 5.3.1.1-1): all zeros, all ones, or alternating.
    mask = to_bits(torch.tensor([0, 0, 0xFFFF, 0, 0x5555], device=cell_id.device)[num_ports], 16)
    coded = convolutional_rate_match(append_crc(information, "16", mask), 1920) ^ gold_bits(cell_id, 1920)
    quarter = (480 * (frame % 4))[:, None] + torch.arange(480, device=cell_id.device)
    return combine_ports(modulate(coded.gather(1, quarter)), num_ports)


def assignment_sizes(num_rb: int) -> tuple[int, int]:
    """Payload of DCI formats 1A and 1, FDD, without carrier indicator (TS 36.212, clause 5.3.3.1) [bit]."""
    compact = 15 + (num_rb * (num_rb + 1) // 2 - 1).bit_length()
    compact += compact in _AMBIGUOUS_SIZES
    full = 13 + -(-num_rb // group_size(num_rb)) + (num_rb > 10)
    while full == compact or full in _AMBIGUOUS_SIZES:
        full += 1
    return compact, full


def group_size(num_rb: int) -> int:
    """Resource blocks of a resource block group, P (TS 36.213, table 7.1.6.1-1)."""
    return 1 + sum(num_rb > limit for limit in (10, 26, 63))


def downlink_assignment(
    allocation: torch.Tensor, mcs: torch.Tensor, block: torch.Tensor, type_0: bool
) -> torch.Tensor:
    """Payload of DCI format 1 (resource allocation type 0) or 1A (type 2, localized): new data, version 0.

    TS 36.212, clauses 5.3.3.1.2 and 5.3.3.1.3; TS 36.213, clauses 7.1.6.1 and 7.1.6.3.

    Args:
        allocation (`torch.Tensor` of shape `(batch, num_rb)`, bool): The resource blocks.
        mcs (`torch.Tensor` of shape `(batch,)`): I_MCS, or I_TBS of system information.
        block (`torch.Tensor` of shape `(batch,)`): Number of the transport block: the eight HARQ processes take turns,
            and each toggles its new data indicator (TS 36.321, clause 5.3.2).
        type_0 (`bool`): Format 1 instead of 1A.

    Returns:
        `torch.Tensor` of shape `(batch, size)`, uint8.

    Raises:
        ValueError: Where the resource allocation type cannot express the allocation.
    """
    num_rb = allocation.shape[-1]
    zero = torch.zeros_like(mcs)
    # MCS, HARQ process, new data indicator, redundancy version, power control. For system information, the last bit
    # says that the transport block size is in the column of three resource blocks.
    common = ((mcs, 5), (block % 8, 3), (block // 8 % 2, 1), (zero, 2), (zero + 1, 2))
    if type_0:
        group = group_size(num_rb)
        bitmap = allocation[:, ::group]
        if not torch.equal(bitmap.repeat_interleave(group, 1)[:, :num_rb], allocation):
            raise ValueError(
                f"Resource allocation type 0 schedules whole groups of {group} of the {num_rb} resource blocks; "
                "align the allocation to them or use type 2 (DCI format 1A)."
            )
        header = to_bits(zero, int(num_rb > 10))
        payload = torch.cat([header, bitmap.to(torch.uint8), message_bits(common)], -1)
    else:
        length = allocation.sum(1)
        start = allocation.int().argmax(1)
        block = torch.arange(num_rb, device=allocation.device)
        run = (block >= start[:, None]) & (block < (start + length)[:, None])
        if not torch.equal(run, allocation):
            raise ValueError(
                "Resource allocation type 2 (DCI format 1A) schedules one run of resource blocks, but the allocation "
                "has gaps; use type 0 (DCI format 1)."
            )
        riv = resource_indication(start, length, num_rb)
        width = (num_rb * (num_rb + 1) // 2 - 1).bit_length()
        payload = message_bits(((zero + 1, 1), (zero, 1), (riv, width), *common))
    return torch.nn.functional.pad(payload, (0, assignment_sizes(num_rb)[type_0] - payload.shape[-1]))


def encode_control_information(payload: torch.Tensor, rnti: torch.Tensor) -> torch.Tensor:
    """DCI with its parity masked by the RNTI, coded for the highest aggregation level (TS 36.212, clause 5.3.3).

    Lower levels send the beginning of it.

    Args:
        payload (`torch.Tensor` of shape `(..., size)`, uint8): Information bits.
        rnti (`torch.Tensor` of shape `(...)`): Identity of the recipient.

    Returns:
        `torch.Tensor` of shape `(..., 576)`, uint8.
    """
    coded = append_crc(payload, "16", to_bits(rnti, 16))
    return convolutional_rate_match(coded, 2 * _ELEMENTS_PER_CCE * _MAX_LEVEL)


@dataclass
class ControlRegion:
    """Resource elements of the control channels of cells whose control regions have the same size.

    Elements are numbered along the subcarriers, symbol after symbol.

    Attributes:
        indicator (`torch.Tensor` of shape `(batch, 16)`): Elements of the PCFICH.
        quadruplets (`torch.Tensor` of shape `(batch, num_quadruplets, 4)`): Elements of each group of four PDCCH
            symbols.
    """

    indicator: torch.Tensor
    quadruplets: torch.Tensor

    @property
    def num_cce(self) -> int:
        """Control channel elements, N_CCE (TS 36.211, clause 6.8.1)."""
        return self.quadruplets.shape[1] // 9


def control_region(
    num_rb: int, cell_id: torch.Tensor, num_symbols: int, four_ports: bool, phich_resource: int
) -> ControlRegion:
    """Assign resource element groups to the channels (TS 36.211, clauses 6.2.4, 6.7.4, 6.8.5 and 6.9.3).

    Args:
        num_rb (`int`): Resource blocks.
        cell_id (`torch.Tensor` of shape `(batch,)`): Physical cell identities.
        num_symbols (`int`): OFDM symbols of the control region.
        four_ports (`bool`): Whether the second symbol also carries reference signals.
        phich_resource (`int`): Index into `PHICH_RESOURCES_SIXTHS`.

    Returns:
        [`ControlRegion`].
    """
    device = cell_id.device
    cell = cell_id[:, None]
    width = 12 * num_rb
    num_first = 2 * num_rb  # groups of the first symbol
    # Every group of the region as (lowest subcarrier, symbol), in the order of clause 6.8.5: across the symbols first.
    with_pilots = {0, 1} if four_ports else {0}
    groups = sorted((k, s) for s in range(num_symbols) for k in range(0, width, 6 if s in with_pilots else 4))
    lowest, symbol = torch.tensor(groups, device=device).T
    first_symbol = (symbol == 0).nonzero()[:, 0]

    # PCFICH (clause 6.7.4): four groups of the first symbol, spread over the carrier.
    quarter = torch.arange(4, device=device) * num_rb // 2
    indicator = (cell + quarter) % num_first
    taken = torch.zeros(len(cell_id), num_first, dtype=torch.int8, device=device).scatter_(1, indicator, 1)
    # PHICH of normal duration (clause 6.9.3): three of the remaining groups of the first symbol for each PHICH group.
    free = taken.argsort(dim=1, stable=True)[:, : num_first - 4]
    num_free = num_first - 4
    num_groups = -(-PHICH_RESOURCES_SIXTHS[phich_resource] * num_rb // 48)
    third = torch.arange(3, device=device) * num_free // 3
    spread = (torch.arange(num_groups, device=device)[:, None] + third).flatten()
    taken.scatter_(1, free.gather(1, (cell + spread) % num_free), 1)

    # PDCCH (clause 6.8.5): interleave the quadruplets, shift them by the cell's identity, fill the remaining groups.
    all_taken = torch.zeros(len(cell_id), len(groups), dtype=torch.int8, device=device)
    all_taken[:, first_symbol] = taken
    num_quadruplets = len(groups) - 4 - 3 * num_groups
    left = all_taken.argsort(dim=1, stable=True)[:, :num_quadruplets]
    order = table_on(device, circular_buffer, num_quadruplets, False)[:num_quadruplets]
    place = torch.empty_like(order)
    place[order] = torch.arange(num_quadruplets, device=device)
    group = left.gather(1, (place - cell) % num_quadruplets)

    # A group with reference signals leaves two of its six elements to them, whatever the number of ports.
    offsets = torch.arange(6, device=device).expand(len(cell_id), 6)
    around = offsets[(offsets - cell) % 3 != 0].view(-1, 1, 4)
    contiguous = torch.arange(4, device=device).expand(len(cell_id), 1, 4)

    def elements(index: torch.Tensor) -> torch.Tensor:
        pilots = (symbol[index] == 0) | (four_ports & (symbol[index] == 1))
        offset = torch.where(pilots[..., None], around, contiguous)
        return (width * symbol[index] + lowest[index])[..., None] + offset

    return ControlRegion(elements(first_symbol[indicator]).flatten(1), elements(group))


def indicator_symbols(cell_id: torch.Tensor, cfi: int, subframe: torch.Tensor) -> torch.Tensor:
    """The PCFICH (TS 36.211, clause 6.7; TS 36.212, table 5.3.4-1), before precoding, `(batch, num_subframes, 16)`."""
    codeword = torch.tensor([(0, 1, 1), (1, 0, 1), (1, 1, 0)][cfi - 1], dtype=torch.uint8, device=cell_id.device)
    cell = cell_id[:, None]
    c_init = (subframe + 1) * (2 * cell + 1) * 2**9 + cell
    return modulate(gold_bits(c_init, 32) ^ codeword.repeat(11)[:32])


def search_space(rnti: torch.Tensor, subframe: torch.Tensor, level: torch.Tensor, num_cce: int) -> torch.Tensor:
    """First CCE of the first candidate of a terminal's search space, or of the common one (TS 36.213, clause 9.1.1).

    Args:
        rnti (`torch.Tensor` of shape `(...)`): The terminal's, or `SYSTEM_INFORMATION_RNTI` for the common space.
        subframe (`torch.Tensor` broadcastable to it): Number within the radio frame.
        level (`torch.Tensor` broadcastable to it): Aggregation level, at most `num_cce`.
        num_cce (`int`): Elements of the control region.

    Returns:
        `torch.Tensor` of shape `(...)`; further candidates follow at multiples of the level, modulo
        `num_cce // level * level`.
    """
    rnti, subframe = torch.broadcast_tensors(rnti.long(), subframe)
    start = table_on(rnti.device, search_space_powers, 10)[subframe] * rnti % 65537
    start = torch.where(rnti == SYSTEM_INFORMATION_RNTI, 0, start)
    return level * (start % (num_cce // level))


@dataclass
class ControlMessage:
    """At most one message in each subframe of each cell.

    Attributes:
        coded (`torch.Tensor` of shape `(batch, num_subframes, 576)`): From [`encode_control_information`].
        rnti (`torch.Tensor` of shape `(batch, num_subframes)`): Identity of the recipient.
        level (`torch.Tensor` of shape `(batch, num_subframes)`): Aggregation level; 0 where there is no message.
    """

    coded: torch.Tensor
    rnti: torch.Tensor
    level: torch.Tensor


def control_symbols(
    region: ControlRegion, cell_id: torch.Tensor, subframe: torch.Tensor, messages: list[ControlMessage]
) -> torch.Tensor:
    """The PDCCHs of a control region (TS 36.211, clause 6.8), before precoding.

    Each message takes the first candidate of its search space, or is dropped if an earlier message is in its way.

    Args:
        region ([`ControlRegion`]): Control region of the cells.
        cell_id (`torch.Tensor` of shape `(batch,)`): Physical cell identities.
        subframe (`torch.Tensor` of shape `(num_subframes,)`): Number within the radio frame.
        messages (`list[ControlMessage]`): The most important first.

    Returns:
        `torch.Tensor` of shape `(batch, num_subframes, 4 * num_quadruplets)`, zero where nothing is sent.
    """
    shape = (len(cell_id), len(subframe))
    num_bits = 8 * region.quadruplets.shape[1]
    cce = torch.arange(region.num_cce, device=cell_id.device)
    position = torch.arange(num_bits, device=cell_id.device)
    bits = torch.zeros(*shape, num_bits, dtype=torch.uint8, device=cell_id.device)
    used = torch.zeros(*shape, region.num_cce, dtype=torch.bool, device=cell_id.device)
    for message in messages:
        level = message.level.clamp(min=1)
        start = search_space(message.rnti, subframe, level, region.num_cce)[..., None]
        wanted = (cce >= start) & (cce < start + message.level[..., None])
        wanted &= ~(wanted & used).any(-1, keepdim=True)
        used |= wanted
        offset = (position - 2 * _ELEMENTS_PER_CCE * start).clamp(0, message.coded.shape[-1] - 1)
        here = _per_element(wanted, 2 * _ELEMENTS_PER_CCE, num_bits)
        bits = torch.where(here, message.coded.gather(-1, offset), bits)
    c_init = subframe * 2**9 + cell_id[:, None]
    return modulate(bits ^ gold_bits(c_init, num_bits)) * _per_element(used, _ELEMENTS_PER_CCE, num_bits // 2)


def _per_element(per_cce: torch.Tensor, repeats: int, length: int) -> torch.Tensor:
    """Repeat a mask of control channel elements, and pad it with zeros to `length`."""
    repeated = per_cce.repeat_interleave(repeats, -1)
    return torch.nn.functional.pad(repeated, (0, length - repeated.shape[-1]))

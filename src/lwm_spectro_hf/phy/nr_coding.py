"""Bits of the 5G NR downlink: CRC, polar and LDPC codes with rate matching, payloads, block sizes (3GPP TS 38.212).

The base graphs, polar reliabilities and interleavers are Sionna's. Its complete encoders are not suitable: the polar
one stops at 576 coded bits (the broadcast channel has 864) and adds a CRC without mask; the LDPC one is rebuilt,
slowly, for every length, and rejects the repetition that low code rates need.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from types import ModuleType

import numpy as np
import torch

from ..extras import require
from .bits import crc, random_bits, slices, to_bits
from .sequences import gold_bits

# Modulation order and 1024 times the code rate of each MCS (TS 38.214, tables 5.1.3.1-1 to 64QAM, -2 to 256QAM).
MCS_TABLES = {
    1: tuple((2, rate) for rate in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679))
    + tuple((4, rate) for rate in (340, 378, 434, 490, 553, 616, 658))
    + tuple((6, rate) for rate in (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    2: tuple((2, rate) for rate in (120, 193, 308, 449, 602))
    + tuple((4, rate) for rate in (378, 434, 490, 553, 616, 658))
    + tuple((6, rate) for rate in (466, 517, 567, 616, 666, 719, 772, 822, 873))
    + tuple((8, rate) for rate in (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
}
BROADCAST_BITS = 864
# TS 38.212, table 7.1.1-1: positions of the bits of the broadcast payload.
_BROADCAST_INTERLEAVER = (
    *(16, 23, 18, 17, 8, 30, 10, 6, 24, 7, 0, 5, 3, 2, 1, 4),
    *(9, 11, 12, 13, 14, 15, 19, 20, 21, 22, 25, 26, 27, 28, 29, 31),
)
# TS 38.214, table 5.1.3.2-1: transport block sizes up to 3824 bits.
_SMALL_BLOCK_SIZES = (
    *range(24, 193, 8),
    *range(208, 385, 16),
    *range(408, 577, 24),
    *range(608, 769, 32),
    *(808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416, 1480, 1544, 1608),
    *(1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472, 2536, 2600, 2664, 2728, 2792, 2856),
    *(2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824),
)
_PARITY_ROWS = {1: 46, 2: 42}  # of each base graph (TS 38.212, clause 5.3.2)
# TS 38.212, table 5.3.2-1: lifting sizes, one row per index i_LS.
_LIFTING_SIZES = tuple(
    tuple(base << power for power in range(8) if base << power <= 384) for base in (2, 3, 5, 7, 9, 11, 13, 15)
)


def _sionna(module: str) -> ModuleType:
    """Import a part of Sionna without letting it seed PyTorch's default generators anew."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        return require(module, extra="data")


@dataclass(frozen=True)
class PolarCode:
    """Polar code of the downlink with its rate matching (TS 38.212, clauses 5.3.1 and 5.4.1).

    Attributes:
        length (`int`): Length N of the transform.
        information (`torch.Tensor` of shape `(num_bits,)`): Inputs of the transform that are not frozen.
        interleaver (`torch.Tensor` of shape `(num_bits,)`): Order in which the message bits are used.
        selection (`torch.Tensor` of shape `(num_coded,)`): Order in which the outputs of the transform are sent.
    """

    length: int
    information: torch.Tensor
    interleaver: torch.Tensor
    selection: torch.Tensor

    @staticmethod
    @cache
    def of(num_bits: int, num_coded: int, device: str = "cpu") -> "PolarCode":
        """The code from `num_bits` bits, CRC included, to `num_coded` bits, on a device."""
        polar = _sionna("sionna.phy.fec.polar")
        ranking = _sionna("sionna.phy.fec.polar.utils").generate_5g_ranking
        tables = polar.Polar5GEncoder(32, 108, "downlink", device="cpu")  # only for its interleavers
        # Mother code length, clause 5.3.1, with n_max = 9.
        log_coded = math.ceil(math.log2(num_coded))
        if num_coded <= 9 / 8 * 2 ** (log_coded - 1) and num_bits / num_coded < 9 / 16:
            log_coded -= 1
        length = 1 << max(min(log_coded, math.ceil(math.log2(8 * num_bits)), 9), 5)
        order = tables.subblock_interleaving(np.arange(length))
        sent = np.arange(num_coded) % length
        never = np.zeros(0, dtype=int)
        if num_coded < length and num_bits / num_coded <= 7 / 16:  # punctured at the start
            sent = np.arange(length - num_coded, length)
            if num_coded >= 3 * length / 4:
                extra = math.ceil(3 * length / 4 - num_coded / 2)
            else:
                extra = math.ceil(9 * length / 16 - num_coded / 4)
            never = np.union1d(order[: length - num_coded], np.arange(extra))
        elif num_coded < length:  # shortened at the end
            never = order[num_coded:]
        reliability = ranking(0, length, sort=False)[0]
        usable = reliability[~np.isin(reliability, never)]
        return PolarCode(
            length,
            torch.from_numpy(np.sort(usable[-num_bits:])).to(device),
            torch.from_numpy(tables.input_interleaver(np.arange(num_bits))).to(device),
            torch.from_numpy(order[sent]).to(device),
        )

    def encode(self, bits: torch.Tensor) -> torch.Tensor:
        """Code words: `(batch, num_bits)` to `(batch, num_coded)`, uint8."""
        word = torch.zeros(len(bits), self.length, dtype=torch.uint8, device=bits.device)
        word[:, self.information] = bits[:, self.interleaver]
        half = 1
        while half < self.length:  # clause 5.3.1.2: the Kronecker power of ((1, 0), (1, 1))
            upper, lower = word.view(len(bits), -1, 2, half).unbind(2)
            upper ^= lower
            half *= 2
        return word[:, self.selection]


def encode_broadcast(
    mib: torch.Tensor, frame: torch.Tensor, half_frame: torch.Tensor, k_ssb: torch.Tensor, cell_id: torch.Tensor
) -> torch.Tensor:
    """Broadcast channel: payload, interleaving, scrambling, CRC, polar code (TS 38.212, clause 7.1).

    Args:
        mib (`torch.Tensor` of shape `(batch, 24)`, uint8): Higher-layer message, including the six high bits of the
            frame number.
        frame (`torch.Tensor` of shape `(batch,)`): System frame number, 0 to 1023.
        half_frame (`torch.Tensor` of shape `(batch,)`): 0 or 1.
        k_ssb (`torch.Tensor` of shape `(batch,)`): Subcarrier offset, 0 to 31; its high bit is sent here.
        cell_id (`torch.Tensor` of shape `(batch,)`): 0 to 1007.

    Returns:
        `torch.Tensor` of shape `(batch, 864)`, uint8.
    """
    device, place = mib.device, torch.tensor(_BROADCAST_INTERLEAVER, device=mib.device)
    payload = torch.zeros(len(mib), 32, dtype=torch.uint8, device=device)
    payload[:, place[:6]] = mib[:, 1:7]
    payload[:, place[6:10]] = to_bits(frame, 4)
    payload[:, place[10]] = half_frame.to(torch.uint8)
    payload[:, place[11]] = (k_ssb >> 4).to(torch.uint8)
    payload[:, place[14:31]] = mib[:, [0, *range(7, 23)]]
    payload[:, place[31]] = mib[:, 23]

    # First scrambling, clause 7.1.2: 29 bits of the cell's sequence, selected by bits 2 and 1 of the frame number.
    # These and the half-frame bit are not scrambled.
    clear = torch.zeros(32, dtype=torch.bool, device=device)
    clear[place[[7, 8, 10]]] = True
    sequence = gold_bits(cell_id, 4 * 29)
    phase = (frame >> 1) & 3
    payload[:, ~clear] ^= sequence.gather(1, 29 * phase[:, None] + torch.arange(29, device=device))
    return PolarCode.of(56, BROADCAST_BITS, str(device)).encode(torch.cat([payload, crc(payload, "24C")], 1))


def encode_control(payload: torch.Tensor, rnti: torch.Tensor, num_coded: int) -> torch.Tensor:
    """Downlink control information: CRC masked with the RNTI, polar code (TS 38.212, clauses 7.3.2 to 7.3.4).

    Args:
        payload (`torch.Tensor` of shape `(batch, num_bits)`, uint8): At least 12 bits.
        rnti (`torch.Tensor` of shape `(batch,)`): Identity of the recipient.
        num_coded (`int`): 108 bits per control channel element.

    Returns:
        `torch.Tensor` of shape `(batch, num_coded)`, uint8.
    """
    parity = crc(torch.nn.functional.pad(payload, (24, 0), value=1), "24C")
    parity[:, 8:] ^= to_bits(rnti, 16)
    code = PolarCode.of(payload.shape[1] + 24, num_coded, str(payload.device))
    return code.encode(torch.cat([payload, parity], 1))


def transport_block_size(
    elements_per_rb: torch.Tensor, num_rb: torch.Tensor, code_rate: torch.Tensor, bits_per_symbol: torch.Tensor
) -> torch.Tensor:
    """Transport block size of one layer (TS 38.214, clause 5.1.3.2).

    Args:
        elements_per_rb (`torch.Tensor` of shape `(batch,)`): N'_RE, resource elements of a block less DMRS overhead.
        num_rb (`torch.Tensor` of shape `(batch,)`): Resource blocks, at least one.
        code_rate (`torch.Tensor` of shape `(batch,)`, float64): Target code rate.
        bits_per_symbol (`torch.Tensor` of shape `(batch,)`): Modulation order.

    Returns:
        `torch.Tensor` of shape `(batch,)`, int64 [bits].
    """
    info = elements_per_rb.clamp(max=156) * num_rb * code_rate.double() * bits_per_symbol
    step = 2 ** (info.log2().floor() - 6).clamp(min=3)
    quantised = (step * (info / step).floor()).clamp(min=24)
    sizes = torch.tensor(_SMALL_BLOCK_SIZES, dtype=torch.float64, device=info.device)
    small = sizes[torch.searchsorted(sizes, quantised.clamp(max=3824))]

    step = 2 ** ((info - 24).clamp(min=1).log2().floor() - 5)
    quantised = (step * ((info - 24) / step + 0.5).floor()).clamp(min=3840)  # ties go up
    limit = torch.where(code_rate <= 0.25, 3816, 8424)
    blocks = torch.where((code_rate <= 0.25) | (quantised > 8424), ((quantised + 24) / limit).ceil(), 1)
    large = 8 * blocks * ((quantised + 24) / (8 * blocks)).ceil() - 24
    return torch.where(info <= 3824, small, large).long()


@cache
def _base_graph(number: int, set_index: int) -> tuple[tuple[int, int, int], ...]:
    """Row, column and shift of each edge (TS 38.212, tables 5.3.2-2 and 5.3.2-3)."""
    folder = files(_sionna("sionna.phy.fec.ldpc.codes"))
    edges, row = [], 0
    for line in (folder / f"5G_bg{number}.csv").read_text(encoding="utf-8").splitlines()[2:]:
        first, column, *shifts = line.split(";")
        row = int(first or row)
        edges.append((row, int(column), int(shifts[set_index])))
    return tuple(edges)


def _set_index(lifting: int) -> int:
    return next(index for index, sizes in enumerate(_LIFTING_SIZES) if lifting in sizes)


@cache
def _parity_checks(
    base_graph: int, lifting: int, rows: range, columns: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns to add up for each row of the graph, and their shifts, each of shape `(most, len(rows))`.

    Rows with fewer columns are padded with column `columns`.
    """
    terms = {row: [] for row in rows}
    for row, column, shift in _base_graph(base_graph, _set_index(lifting)):
        if row in terms and column < columns:
            terms[row].append((column, shift % lifting))
    most = max(map(len, terms.values()))
    filled = [terms[row] + [(columns, 0)] * (most - len(terms[row])) for row in rows]
    column, shift = torch.tensor(filled, device=device).permute(2, 1, 0)
    return column.contiguous(), shift.contiguous()


def _add_up(word: torch.Tensor, base_graph: int, rows: range) -> torch.Tensor:
    """Sums of the shifted columns of each row of the graph, `(len(rows), batch, lifting)`, uint8.

    Args:
        word (`torch.Tensor` of shape `(num_columns, batch, 2 * lifting)`, uint8): Each column twice in a row, so that
            a cyclic shift is a slice. The last one is zero.
        base_graph (`int`): 1 or 2.
        rows (`range`): Rows of the graph.
    """
    columns, batch_size, lifting = len(word) - 1, word.shape[1], word.shape[2] // 2
    column, shift = _parity_checks(base_graph, lifting, rows, columns, word.device)
    first = (column * (2 * lifting * batch_size) + shift)[..., None]
    first = first + torch.arange(0, 2 * lifting * batch_size, 2 * lifting, device=word.device)
    terms = slices(word.view(1, -1), first[None], lifting)[0]
    while len(terms) > 1:
        half = len(terms) // 2
        terms[:half].bitwise_xor_(terms[-half:])
        terms = terms[:-half]
    return terms[0]


def ldpc_encode(bits: torch.Tensor, base_graph: int, lifting: int, rows: int) -> torch.Tensor:
    """LDPC code words (TS 38.212, clause 5.3.2).

    Args:
        bits (`torch.Tensor` of shape `(batch, columns * lifting)`, uint8): Code blocks with their CRC, zero in place
            of filler bits.
        base_graph (`int`): 1, with 22 columns, or 2, with 10.
        lifting (`int`): Lifting size Z_c.
        rows (`int`): Rows of the graph to compute, at least 4.

    Returns:
        `torch.Tensor` of shape `(batch, (columns + rows) * lifting)`, uint8: the message and its parity bits.
    """
    batch_size, columns = len(bits), bits.shape[1] // lifting
    # Eight blocks share a byte: adding all of them modulo two costs as much as adding one.
    octets = torch.nn.functional.pad(bits, (0, 0, 0, -batch_size % 8)).view(-1, 8, columns, lifting)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    packed = (octets << shifts[:, None, None]).sum(1, dtype=torch.uint8)
    word = torch.zeros(columns + 5, len(packed), 2, lifting, dtype=torch.uint8, device=bits.device)
    word[:columns] = packed.transpose(0, 1)[:, :, None]
    twice = word.flatten(2)
    check = _add_up(twice[: columns + 1], base_graph, range(4))
    # The four core rows end in a column with shifts (a, b, a) and a double diagonal: their sum has only shift b.
    first, middle = columns, 1 if base_graph == 1 else 2
    core = {
        row: shift % lifting
        for row, column, shift in _base_graph(base_graph, _set_index(lifting))
        if column == first and row < 4
    }
    word[first] = (check[0] ^ check[1] ^ check[2] ^ check[3]).roll(core[middle], -1)[:, None]
    for row, shift in core.items():
        check[row].bitwise_xor_(twice[first, :, shift : shift + lifting])
    word[first + 1] = check[0][:, None]
    word[first + 2] = (check[0] ^ check[1])[:, None]
    word[first + 3] = check[3][:, None]
    parity = word[first:-1, :, 0]
    if rows > 4:
        parity = torch.cat([parity, _add_up(twice, base_graph, range(4, rows))])
    parity = parity.transpose(0, 1).flatten(1)
    unpacked = (parity[:, None] >> shifts[:, None]).bitwise_and_(1).flatten(0, 1)[:batch_size]
    return torch.cat([bits, unpacked], 1)


def segment(size: torch.Tensor, code_rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base graph, number of code blocks, and lifting size of transport blocks (TS 38.212, clauses 7.2.2 and 5.2.2).

    Args:
        size (`torch.Tensor` of shape `(batch,)`, int64): Transport block sizes [bits].
        code_rate (`torch.Tensor` of shape `(batch,)`): Target code rates.
    """
    small = (size <= 292) | ((size <= 3824) & (code_rate <= 0.67)) | (code_rate <= 0.25)
    total = size + _checksum_bits(size)
    largest = torch.where(small, 3840, 8448)
    blocks = torch.where(total <= largest, 1, -(-total // (largest - 24)))
    block_bits = total // blocks + 24 * (blocks > 1)
    limits = torch.tensor([193, 561, 641], device=size.device)
    few = torch.tensor([6, 8, 9, 10], device=size.device)[torch.searchsorted(limits, total, right=True)]
    columns = torch.where(small, few, 22)
    lengths = torch.tensor(sorted(size for sizes in _LIFTING_SIZES for size in sizes), device=size.device)
    lifting = lengths[torch.searchsorted(lengths, -(-block_bits // columns))]
    return torch.where(small, 2, 1), blocks, lifting


def _checksum_bits(size: torch.Tensor) -> torch.Tensor:
    """Length of the transport block's CRC."""
    return torch.where(size > 3824, 24, 16)


@dataclass(frozen=True)
class SharedChannelCode:
    """Coding of similar transport blocks of the downlink shared channel, redundancy version 0 (TS 38.212, clause 7.2).

    Attributes:
        base_graph (`int`): 1 or 2.
        num_blocks (`int`): Code blocks of each transport block.
        lifting (`int`): Lifting size.
        checksum_bits (`int`): Length of the transport block's CRC, 24 or 16.
        bits_per_symbol (`int`): Highest modulation order.
        rows (`int`): Rows of the base graph whose parity bits are sent.
        largest (`int`): Largest transport block [bits].
        longest (`int`): Largest number of symbols.
        parts (`tuple[tuple[int, int], ...]`): For each modulation order, the number of transport blocks, which are
            consecutive, and the size of the largest.
    """

    base_graph: int
    num_blocks: int
    lifting: int
    checksum_bits: int
    bits_per_symbol: int
    rows: int
    largest: int
    longest: int
    parts: tuple[tuple[int, int], ...]

    @staticmethod
    def classes(
        size: torch.Tensor, num_symbols: torch.Tensor, bits_per_symbol: torch.Tensor, code_rate: torch.Tensor
    ) -> list[tuple[torch.Tensor, "SharedChannelCode"]]:
        """Group transport blocks that can be coded together.

        Args:
            size (`torch.Tensor` of shape `(batch,)`, int64): Transport block sizes [bits].
            num_symbols (`torch.Tensor` of shape `(batch,)`, int64): Resource elements of each.
            bits_per_symbol (`torch.Tensor` of shape `(batch,)`, int64): Modulation orders.
            code_rate (`torch.Tensor` of shape `(batch,)`): Target code rates; they choose the base graphs.

        Returns:
            `list` of the indices of the blocks in each class and the class's code.
        """
        base_graph, blocks, lifting = segment(size, code_rate)
        columns = torch.where(base_graph == 1, 22, 10)
        most = torch.where(base_graph == 1, _PARITY_ROWS[1], _PARITY_ROWS[2])
        checksum = _checksum_bits(size)
        block_bits = (size + checksum) // blocks + 24 * (blocks > 1)
        coded = -(-num_symbols // blocks) * bits_per_symbol
        rows = -(-(coded + columns * lifting - block_bits) // lifting) - (columns - 2)
        rows = rows.clamp(min=4).minimum(most)
        if len(size) == 0:
            return []
        keys, of_class, counts = torch.stack([base_graph, blocks, lifting, checksum, bits_per_symbol], 1).unique(
            dim=0, return_inverse=True, return_counts=True
        )
        values = torch.stack([rows, size, num_symbols], 1)
        index = of_class[:, None].expand_as(values)
        largest = torch.zeros(len(keys), 3, dtype=torch.int64, device=size.device)
        largest.scatter_reduce_(0, index, values, "amax")
        kinds = torch.cat([keys, largest, counts[:, None]], 1).tolist()
        # Modulation orders, the last part of the keys, only change how bits are distributed over symbols.
        codes = []
        for key, group in groupby(kinds, key=lambda entry: tuple(entry[:4])):
            of_orders, rows, sizes, symbols, numbers = zip(*(entry[4:] for entry in group), strict=True)
            parts = tuple(zip(numbers, sizes, strict=True))
            codes.append(SharedChannelCode(*key, max(of_orders), max(rows), max(sizes), max(symbols), parts))
        *sorted_out, _ = of_class.argsort(stable=True).split([*(code.num_transport_blocks for code in codes), 0])
        return list(zip(sorted_out, codes, strict=True))

    @property
    def num_transport_blocks(self) -> int:
        """`int`: Number of transport blocks that are coded together."""
        return sum(count for count, _ in self.parts)

    def draw(self, size: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw random transport blocks of these sizes, followed by zeros: `(batch, largest)`, uint8."""
        parts = (
            torch.nn.functional.pad(random_bits(count, largest, generator), (0, self.largest - largest))
            for count, largest in self.parts
        )
        bits = torch.cat(list(parts))
        return bits.mul_(torch.arange(self.largest, device=bits.device) < size[:, None])

    def encode(
        self, bits: torch.Tensor, size: torch.Tensor, num_symbols: torch.Tensor, bits_per_symbol: torch.Tensor
    ) -> torch.Tensor:
        """Coded bits of each symbol as one number, most significant first, ready to be scrambled.

        Args:
            bits (`torch.Tensor` of shape `(batch, largest)`, uint8): Transport blocks, followed by zeros.
            size (`torch.Tensor` of shape `(batch,)`, int64): Their sizes.
            num_symbols (`torch.Tensor` of shape `(batch,)`, int64): Symbols that each fills.
            bits_per_symbol (`torch.Tensor` of shape `(batch,)`, int64): Modulation order of each.

        Returns:
            `torch.Tensor` of shape `(batch, longest)`, uint8; undefined beyond `num_symbols`.
        """
        device, blocks = bits.device, self.num_blocks
        buffer, length = self._circular_buffer(bits, size)
        # Blocks share the symbols; the last ones get one more. Bits are interleaved by rows (clause 5.4.2).
        symbols, longer = num_symbols // blocks, num_symbols % blocks
        symbols = symbols[:, None] + (torch.arange(blocks, device=device) >= blocks - longer[:, None])
        most = -(-self.longest // blocks)
        number = torch.arange(self.bits_per_symbol, device=device)
        first = symbols.flatten()[:, None] * number
        if mixed := len(self.parts) > 1:  # mixed modulation orders: the lower ones have fewer bits per symbol
            has = number < bits_per_symbol.repeat_interleave(blocks)[:, None]
            first = first.masked_fill_(~has, 0)
        # Limited-buffer rate matching never cuts the circular buffer: with one layer and version 0, its limit is above
        # all that the resource elements of a slot hold.
        if self.rows == _PARITY_ROWS[self.base_graph]:  # otherwise the rows suffice for the longest block of the class
            place = torch.arange(most * self.bits_per_symbol, device=device) % length[:, None]
            buffer = buffer.gather(1, place)
        planes = slices(torch.nn.functional.pad(buffer, (0, most)), first, most)
        labels = planes[:, 0]
        if mixed:
            planes.mul_(has[..., None])
            for plane, factor in zip(planes.unbind(1)[1:], (1 + has.to(torch.uint8)).unbind(1)[1:], strict=True):
                labels = labels.mul_(factor[:, None]).add_(plane)
        else:
            for plane in planes.unbind(1)[1:]:
                labels = labels.mul_(2).add_(plane)
        if blocks == 1:
            return labels
        # Close the gaps between blocks: the labels of each block are in the first of its planes.
        apart = self.bits_per_symbol * most
        end = symbols.cumsum(1)
        place = torch.arange(self.longest, device=device).repeat(len(bits), 1)
        block = torch.searchsorted(end, place, right=True).clamp_(max=blocks - 1)
        gaps = torch.nn.functional.pad(torch.arange(1, blocks + 1, device=device) * apart - end, (1, -1))
        place.add_(gaps.gather(1, block)).clamp_(max=blocks * apart - 1)
        return planes.view(len(bits), -1).gather(1, place)

    def _circular_buffer(self, bits: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Code blocks as rows, without filler bits, and the number of bits of each (clause 5.4.2.1)."""
        device, blocks = bits.device, self.num_blocks
        columns = 22 if self.base_graph == 1 else 10
        whole = columns * self.lifting

        def append(message: torch.Tensor, kind: str, length: torch.Tensor, width: int) -> torch.Tensor:
            parity = crc(message, kind, length)
            place = length[:, None] + torch.arange(parity.shape[1], device=device)
            return torch.nn.functional.pad(message, (0, width - message.shape[1])).scatter_(1, place, parity)

        kind = "24A" if self.checksum_bits == 24 else "16"
        if blocks == 1:
            message = append(bits, kind, size, whole)
            block_bits = size + self.checksum_bits
        else:
            share = (size + self.checksum_bits) // blocks
            room = whole - 24
            message = append(bits, kind, size, self.largest + self.checksum_bits + room)
            message = slices(message, share[:, None] * torch.arange(blocks, device=device), room).flatten(0, 1)
            share = share.repeat_interleave(blocks)
            message *= torch.arange(room, device=device) < share[:, None]
            message = append(message, "24B", share, whole)
            block_bits = share + 24
        word = ldpc_encode(message, self.base_graph, self.lifting, self.rows)
        # The first two columns are never sent. Filler bits are dropped: parity bits move up to close the gap.
        systematic = block_bits - 2 * self.lifting
        length = systematic + self.rows * self.lifting
        longest = word.shape[1] - 2 * self.lifting
        shift = 2 * self.lifting + (whole - block_bits)
        moved = slices(torch.nn.functional.pad(word, (0, whole)), shift, longest)
        sent = torch.arange(longest, device=device) < systematic[:, None]
        return torch.where(sent, word[:, 2 * self.lifting :], moved), length

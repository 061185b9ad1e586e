"""Bits of the 5G NR downlink: CRC, polar and LDPC codes with rate matching, payloads, block sizes (3GPP TS 38.212).

The base graphs, the polar reliabilities and interleavers and the polar transform are Sionna's. Its complete encoders
do not serve: the polar one stops at 576 coded bits (the broadcast channel has 864) and adds a CRC without mask; the
LDPC one is built anew, slowly, for every length, and refuses the repetition of low code rates.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np
import torch

from ..extras import require
from .bits import crc, to_bits
from .sequences import gold_sequence

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
# TS 38.212, table 7.1.1-1: where the bits of the broadcast payload go.
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
# TS 38.212, table 5.3.2-1: lifting sizes, one row an index i_LS.
_LIFTING_SIZES = tuple(
    tuple(base << power for power in range(8) if base << power <= 384) for base in (2, 3, 5, 7, 9, 11, 13, 15)
)


@dataclass(frozen=True)
class PolarCode:
    """Polar code of the downlink with its rate matching (TS 38.212, clauses 5.3.1 and 5.4.1).

    Attributes:
        encoder (`sionna.phy.fec.polar.PolarEncoder`): Transform of length N; knows its frozen positions.
        interleaver (`torch.Tensor` of shape `(num_bits,)`): Which message bit comes first, second, ...
        selection (`torch.Tensor` of shape `(num_coded,)`): Which output of the transform is sent when.
    """

    encoder: torch.nn.Module
    interleaver: torch.Tensor
    selection: torch.Tensor

    @staticmethod
    @cache
    def of(num_bits: int, num_coded: int, device: str = "cpu") -> "PolarCode":
        """The code of `num_bits` bits, CRC included, in `num_coded`, on a device."""
        polar = require("sionna.phy.fec.polar", extra="data")
        ranking = require("sionna.phy.fec.polar.utils", extra="data").generate_5g_ranking
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
        frozen = np.setdiff1d(np.arange(length), usable[-num_bits:])
        return PolarCode(
            polar.PolarEncoder(frozen, length, device=device, check_input=False),
            torch.from_numpy(tables.input_interleaver(np.arange(num_bits))).to(device),
            torch.from_numpy(order[sent]).to(device),
        )

    def encode(self, bits: torch.Tensor) -> torch.Tensor:
        """Code words: `(batch, num_bits)` to `(batch, num_coded)`, uint8."""
        return self.encoder(bits[:, self.interleaver].float())[:, self.selection].to(torch.uint8)


def encode_broadcast(
    mib: torch.Tensor, frame: torch.Tensor, half_frame: torch.Tensor, k_ssb: torch.Tensor, cell_id: torch.Tensor
) -> torch.Tensor:
    """Broadcast channel: payload, interleaving, scrambling, CRC, polar code (TS 38.212, clause 7.1), up to 3 GHz or 6.

    Args:
        mib (`torch.Tensor` of shape `(batch, 24)`, uint8): The message of the higher layer, frame number's six high
            bits included.
        frame (`torch.Tensor` of shape `(batch,)`): System frame number, 0 to 1023.
        half_frame (`torch.Tensor` of shape `(batch,)`): 0 or 1.
        k_ssb (`torch.Tensor` of shape `(batch,)`): Subcarrier offset, 0 to 31; its high bit travels here.
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

    # First scrambling, clause 7.1.2: 29 bits of the cell's sequence, chosen by the frame number's bits 2 and 1, which
    # stay clear with the half-frame bit.
    clear = torch.zeros(32, dtype=torch.bool, device=device)
    clear[place[[7, 8, 10]]] = True
    sequence = gold_sequence(cell_id, 4 * 29).to(torch.uint8)
    phase = (frame >> 1) & 3
    payload[:, ~clear] ^= sequence.gather(1, 29 * phase[:, None] + torch.arange(29, device=device))
    return PolarCode.of(56, BROADCAST_BITS, str(device)).encode(torch.cat([payload, crc(payload, "24C")], 1))


def encode_control(payload: torch.Tensor, rnti: torch.Tensor, num_coded: int) -> torch.Tensor:
    """Downlink control information: CRC masked with the RNTI, polar code (TS 38.212, clauses 7.3.2 to 7.3.4).

    Args:
        payload (`torch.Tensor` of shape `(batch, num_bits)`, uint8): At least 12 bits.
        rnti (`torch.Tensor` of shape `(batch,)`): Whom it is for.
        num_coded (`int`): 108 bits a control channel element.

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
    folder = files(require("sionna.phy.fec.ldpc.codes", extra="data"))
    edges, row = [], 0
    for line in (folder / f"5G_bg{number}.csv").read_text().splitlines()[2:]:
        first, column, *shifts = line.split(";")
        row = int(first or row)
        edges.append((row, int(column), int(shifts[set_index])))
    return tuple(edges)


def ldpc_encode(bits: torch.Tensor, base_graph: int, lifting: int, num_coded: int) -> torch.Tensor:
    """LDPC code words in the order of the circular buffer, filler bits left out (TS 38.212, clause 5.3.2).

    Args:
        bits (`torch.Tensor` of shape `(batch, num_bits)`, uint8): Code blocks with their CRC, without filler bits.
        base_graph (`int`): 1 or 2.
        lifting (`int`): Lifting size Z_c.
        num_coded (`int`): How many coded bits are wanted; the rows of the graph beyond them are not computed.

    Returns:
        `torch.Tensor` of shape `(batch, n)`, uint8, with `n` at least `num_coded`, or the whole buffer.
    """
    batch_size, num_bits = bits.shape
    columns, all_rows = (22, 46) if base_graph == 1 else (10, 42)
    filler = columns * lifting - num_bits
    rows = min(all_rows, max(4, -(-(num_coded + filler) // lifting) - (columns - 2)))
    set_index = next(index for index, sizes in enumerate(_LIFTING_SIZES) if lifting in sizes)
    # Each column twice in a row, so that a cyclic shift is a slice.
    message = torch.nn.functional.pad(bits, (0, filler)).view(batch_size, columns, lifting).transpose(0, 1)
    word = torch.empty(columns + 4, batch_size, 2 * lifting, dtype=torch.uint8, device=bits.device)
    word[:columns] = message.repeat(1, 1, 2)
    check = torch.zeros(rows, batch_size, lifting, dtype=torch.uint8, device=bits.device)
    edges = [(row, column, shift % lifting) for row, column, shift in _base_graph(base_graph, set_index) if row < rows]

    def accumulate(columns: range, rows: range) -> None:
        for row, column, shift in edges:
            if column in columns and row in rows:
                check[row] ^= word[column, :, shift : shift + lifting]

    accumulate(range(columns), range(rows))
    # The four core rows end in a column with shifts (a, b, a) and a double diagonal: their sum leaves shift b alone.
    middle = 1 if base_graph == 1 else 2
    shift = next(shift for row, column, shift in edges if (row, column) == (middle, columns))
    core = check[0] ^ check[1] ^ check[2] ^ check[3]
    word[columns] = core.roll(shift, -1).repeat(1, 2)
    accumulate(range(columns, columns + 1), range(rows))
    word[columns + 1] = check[0].repeat(1, 2)
    word[columns + 2] = (check[1] ^ check[0]).repeat(1, 2)
    word[columns + 3] = check[3].repeat(1, 2)
    accumulate(range(columns + 1, columns + 4), range(4, rows))
    core = word[columns:, :, :lifting].transpose(0, 1).flatten(1)
    return torch.cat([bits[:, 2 * lifting :], core, check[4:].transpose(0, 1).flatten(1)], 1)


@dataclass(frozen=True)
class SharedChannelCode:
    """Coding of one transport block of the downlink shared channel, redundancy version 0 (TS 38.212, clause 7.2).

    Attributes:
        size (`int`): Transport block size [bits].
        num_coded (`int`): Bits that the resource elements hold.
        bits_per_symbol (`int`): Modulation order.
        code_rate (`float`): Target code rate; chooses the base graph.
    """

    size: int
    num_coded: int
    bits_per_symbol: int
    code_rate: float

    @property
    def checksum(self) -> str:
        """Name of the transport block's CRC."""
        return "24A" if self.size > 3824 else "16"

    @property
    def base_graph(self) -> int:
        """Clause 7.2.2."""
        small = self.size <= 292 or (self.size <= 3824 and self.code_rate <= 0.67) or self.code_rate <= 0.25
        return 2 if small else 1

    @cached_property
    def segmentation(self) -> tuple[int, int, int]:
        """Number of code blocks, bits of each with its CRC, and lifting size (clause 5.2.2)."""
        total = self.size + (24 if self.checksum == "24A" else 16)
        largest = 8448 if self.base_graph == 1 else 3840
        blocks = 1 if total <= largest else -(-total // (largest - 24))
        block_bits = total // blocks + 24 * (blocks > 1)
        columns = 22
        if self.base_graph == 2:
            columns = 10 if total > 640 else 9 if total > 560 else 8 if total > 192 else 6
        lifting = min(size for sizes in _LIFTING_SIZES for size in sizes if columns * size >= block_bits)
        return blocks, block_bits, lifting

    def encode(self, bits: torch.Tensor) -> torch.Tensor:
        """Code words: `(batch, size)` to `(batch, num_coded)`, uint8, ready to be scrambled."""
        blocks, block_bits, lifting = self.segmentation
        message = torch.cat([bits, crc(bits, self.checksum)], 1).view(len(bits) * blocks, -1)
        if blocks > 1:
            message = torch.cat([message, crc(message, "24B")], 1)
        symbols, longer = divmod(self.num_coded // self.bits_per_symbol, blocks)
        longest = (symbols + (longer > 0)) * self.bits_per_symbol
        buffer = ldpc_encode(message, self.base_graph, lifting, longest)
        # The circular buffer is never cut (limited-buffer rate matching): with one layer and version 0, its limit is
        # above all that the resource elements of a slot hold.
        if buffer.shape[1] < longest:
            buffer = buffer.repeat(1, -(-longest // buffer.shape[1]))
        buffer = buffer.view(len(bits), blocks, -1)
        parts = []
        # Blocks share the symbols; the last ones get one more. Bits are interleaved by rows (clause 5.4.2).
        for first, last, count in ((0, blocks - longer, symbols), (blocks - longer, blocks, symbols + 1)):
            part = buffer[:, first:last, : count * self.bits_per_symbol]
            part = part.reshape(len(bits), last - first, self.bits_per_symbol, part.shape[2] // self.bits_per_symbol)
            parts.append(part.transpose(-1, -2).flatten(1))
        return torch.cat(parts, 1)

"""WiFi from bits to constellation points: scrambler, convolutional code, puncturing, interleaver, mapping, CRC.

Clause 17.3.5 of IEEE 802.11-2020 (OFDM PHY, 802.11a/g) and 19.3.11 (HT PHY, 802.11n, one spatial stream of 20 MHz with
binary convolutional coding). Bits are uint8 tensors whose last dimension is time; everything before it is batch.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property

import torch

from .bits import remainder, table_on
from .sequences import CONSTELLATION_ORDERS, m_sequence

SERVICE_BITS, TAIL_BITS = 16, 6  # 17.3.5.2 and 17.3.5.3
_MEMORY = 6  # of the convolutional encoder [bits]
# Which bits of the two encoder outputs are sent, A then B, over one period (17.3.5.6; 5/6: 19.3.11.6).
_PUNCTURING = {
    Fraction(1, 2): ("1", "1"),
    Fraction(2, 3): ("11", "10"),
    Fraction(3, 4): ("110", "101"),
    Fraction(5, 6): ("11010", "10101"),
}


@dataclass(frozen=True)
class Mode:
    """How the data of a packet is modulated and coded (tables 17-4 and 19-27).

    Attributes:
        modulation (`str`): "BPSK", "QPSK", "16QAM" or "64QAM".
        code_rate (`Fraction`): 1/2, 2/3, 3/4 or 5/6.
        num_carriers (`int`): Data subcarriers: 48 in 802.11a/g, 52 in 802.11n.
    """

    modulation: str
    code_rate: Fraction
    num_carriers: int

    @cached_property
    def coded_bits(self) -> int:
        """Coded bits of an OFDM symbol, N_CBPS."""
        return self.num_carriers * CONSTELLATION_ORDERS[self.modulation]

    @cached_property
    def data_bits(self) -> int:
        """Data bits of an OFDM symbol, N_DBPS."""
        return int(self.coded_bits * self.code_rate)

    @property
    def rate_mbps(self) -> float:
        """Data bits over the 4 µs of a symbol [Mbit/s]."""
        return self.data_bits / 4

    def num_symbols(self, num_bytes: int | torch.Tensor) -> int | torch.Tensor:
        """OFDM symbols of a PSDU of that many bytes (eq. 17-11 and 19-32)."""
        return -(-(SERVICE_BITS + 8 * num_bytes + TAIL_BITS) // self.data_bits)

    def pad_bits(self, num_bytes: int) -> int:
        """Pad bits of the last of these symbols (eq. 17-13)."""
        return self.num_symbols(num_bytes) * self.data_bits - SERVICE_BITS - 8 * num_bytes - TAIL_BITS

    def num_bytes(self, num_symbols: int) -> int:
        """Bytes of the longest PSDU that fits into this many OFDM symbols."""
        return max(0, (num_symbols * self.data_bits - SERVICE_BITS - TAIL_BITS) // 8)


# 802.11a/g by rate [Mbit/s] (table 17-4), 802.11n by index of the modulation and coding scheme (table 19-27).
LEGACY_MODES = {
    6: Mode("BPSK", Fraction(1, 2), 48),
    9: Mode("BPSK", Fraction(3, 4), 48),
    12: Mode("QPSK", Fraction(1, 2), 48),
    18: Mode("QPSK", Fraction(3, 4), 48),
    24: Mode("16QAM", Fraction(1, 2), 48),
    36: Mode("16QAM", Fraction(3, 4), 48),
    48: Mode("64QAM", Fraction(2, 3), 48),
    54: Mode("64QAM", Fraction(3, 4), 48),
}
HT_MODES = (
    Mode("BPSK", Fraction(1, 2), 52),
    Mode("QPSK", Fraction(1, 2), 52),
    Mode("QPSK", Fraction(3, 4), 52),
    Mode("16QAM", Fraction(1, 2), 52),
    Mode("16QAM", Fraction(3, 4), 52),
    Mode("64QAM", Fraction(2, 3), 52),
    Mode("64QAM", Fraction(3, 4), 52),
    Mode("64QAM", Fraction(5, 6), 52),
)


def bytes_to_bits(octets: torch.Tensor) -> torch.Tensor:
    """Bits in the order of transmission, least significant bit of each octet first (9.2.2).

    Args:
        octets (`torch.Tensor` of shape `(..., num_bytes)`, uint8): Octets.

    Returns:
        `torch.Tensor` of shape `(..., 8 * num_bytes)`, uint8.
    """
    # Each octet looks up one word of eight bytes.
    words = table_on(octets.device, _octet_bits).view(torch.int64)[:, 0].index_select(0, octets.flatten().int())
    return words.view(torch.uint8).view(*octets.shape[:-1], 8 * octets.shape[-1])


@cache
def _octet_bits() -> torch.Tensor:
    return integer_bits(torch.arange(256), 8)


def integer_bits(values: torch.Tensor, width: int) -> torch.Tensor:
    """Bits of integers, least significant first, shape `(*values.shape, width)`, uint8."""
    places = torch.arange(width, dtype=values.dtype, device=values.device)
    return ((values[..., None] >> places) & 1).to(torch.uint8)


def crc(bits: torch.Tensor, polynomial: int, width: int, length: torch.Tensor | None = None) -> torch.Tensor:
    """Cyclic redundancy check, register initialized with ones, parity complemented, highest power first.

    With 0x04C11DB7 and 32 bits it is the FCS of a MAC frame (9.2.4.8), with 0x07 and 8 bits the check of HT-SIG
    (19.3.9.4.4). Sionna has neither polynomial.

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): Protected bits, at least `width` of them.
        polynomial (`int`): Generator without its highest power.
        width (`int`): Degree of the generator.
        length (`torch.Tensor` of shape `(...,)`, int64, *optional*): As in [`~phy.bits.remainder`].

    Returns:
        `torch.Tensor` of shape `(..., width)`, uint8.
    """
    return 1 - remainder(bits, polynomial, width, length, ones=True)


@cache
def _scrambler_periods() -> torch.Tensor:
    """The 127 bits that the scrambler x^7 + x^4 + 1 sends from each of its states, `(128, 127)`; row 0 is unused."""
    period = m_sequence((0, 3), (1,) * 7)
    position = torch.arange(127)
    window = period[(position[:, None] + torch.arange(7)) % 127]
    states = (window << torch.arange(6, -1, -1)).sum(1)
    table = torch.zeros(128, 127, dtype=torch.uint8)
    table[states] = period[(position[:, None] + 7 + position) % 127].to(torch.uint8)
    return table


def scrambling_sequence(state: torch.Tensor, length: int) -> torch.Tensor:
    """Output of the data scrambler x^7 + x^4 + 1 (17.3.5.5).

    Args:
        state (`torch.Tensor` of shape `(batch,)`, int64): Initial states, 1 to 127: X7, the oldest bit, is the most
            significant one.
        length (`int`): How many bits.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, uint8.

    Raises:
        ValueError: For a state out of range, on a CPU.
    """
    # Only on a CPU: on other devices the check would have to wait for the result.
    if state.device.type == "cpu" and bool(((state < 1) | (state > 127)).any()):
        raise ValueError(f"Scrambler states go from 1 to 127, found {state.tolist()}; zero would scramble nothing.")
    return table_on(state.device, _scrambler_periods)[state].repeat(1, -(-length // 127))[:, :length]


def convolutional_code(bits: torch.Tensor) -> torch.Tensor:
    """Rate-1/2 code of constraint length 7, generators 133 and 171 octal, from the zero state (17.3.5.6).

    Sionna's encoder steps through the bits one by one; shifted slices do all at once.

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): Data with its tail.

    Returns:
        `torch.Tensor` of shape `(..., 2 * num_bits)`, uint8: A and B in turn.
    """
    return _convolved(torch.nn.functional.pad(bits, (_MEMORY, 0)))


def _convolved(bits: torch.Tensor) -> torch.Tensor:
    """The same, for bits preceded by the six before them, `(..., 6 + num_bits)`."""
    num_bits = bits.shape[-1] - _MEMORY

    def delayed(delay: int) -> torch.Tensor:
        return bits[..., _MEMORY - delay : _MEMORY - delay + num_bits]

    common = delayed(0) ^ delayed(2) ^ delayed(3) ^ delayed(6)
    return torch.stack([common ^ delayed(5), common ^ delayed(1)], -1).flatten(-2)


@cache
def punctured_positions(code_rate: Fraction, num_bits: int) -> torch.Tensor:
    """Positions of the bits of [`convolutional_code`] that are sent, in order (17.3.5.6, 19.3.11.6).

    Args:
        code_rate (`Fraction`): 1/2, 2/3, 3/4 or 5/6.
        num_bits (`int`): Data bits.

    Returns:
        `torch.Tensor` of shape `(num_bits / code_rate,)`, int64.
    """
    first, second = _PUNCTURING[code_rate]
    kept = torch.tensor([bit == "1" for pair in zip(first, second, strict=True) for bit in pair])
    return kept.repeat(num_bits // len(first)).nonzero()[:, 0]


@cache
def interleaver(num_carriers: int, bits_per_carrier: int) -> torch.Tensor:
    """Coded bit of an OFDM symbol that goes to each place: 17.3.5.7 for 48 subcarriers, 19.3.11.8 for 52.

    Args:
        num_carriers (`int`): Data subcarriers, 48 or 52.
        bits_per_carrier (`int`): Coded bits on each, N_BPSC.

    Returns:
        `torch.Tensor` of shape `(num_carriers * bits_per_carrier,)`, int64.
    """
    size = num_carriers * bits_per_carrier
    columns = 16 if num_carriers == 48 else 13
    k = torch.arange(size)
    # Adjacent bits go to subcarriers far apart, and in turn to more and less significant bits of the constellation.
    i = size // columns * (k % columns) + k // columns
    s = max(1, bits_per_carrier // 2)
    j = s * (i // s) + (i + size - columns * i // size) % s
    return j.argsort()


@cache
def constellation(name: str) -> torch.Tensor:
    """Gray-labeled constellation of unit mean power (17.3.5.8).

    The first half of the bits selects the in-phase level. 3GPP labels the same points differently, see
    [`~phy.sequences.constellation`].

    Args:
        name (`str`): "BPSK", "QPSK", "16QAM" or "64QAM".

    Returns:
        `torch.Tensor` of shape `(2**bits_per_symbol,)`, complex64: point `i` carries the bits of `i`, first bit sent
        as the least significant.
    """
    order = CONSTELLATION_ORDERS[name]
    bits = integer_bits(torch.arange(2**order), order).long()

    def level(gray: torch.Tensor) -> torch.Tensor:
        binary = gray.cumsum(1) % 2
        width = gray.shape[1]
        return (2 * (binary << torch.arange(width - 1, -1, -1)).sum(1) - (2**width - 1)).float()

    if order == 1:
        return level(bits).to(torch.complex64)
    points = torch.complex(level(bits[:, : order // 2]), level(bits[:, order // 2 :]))
    return points / points.abs().square().mean().sqrt()


@cache
def _symbol_bits(mode: Mode) -> torch.Tensor:
    """Combined puncturing and interleaving: encoder bit for bit `b` of subcarrier `c`, `(bits_per_carrier, c)`."""
    order = CONSTELLATION_ORDERS[mode.modulation]
    positions = punctured_positions(mode.code_rate, mode.data_bits)[interleaver(mode.num_carriers, order)]
    return positions.view(mode.num_carriers, order).T.contiguous()


def encode(bits: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Map data bits to the points of the data subcarriers: code, puncturing, interleaving, mapping.

    Args:
        bits (`torch.Tensor` of shape `(batch, num_symbols * mode.data_bits)`, uint8): Scrambled data with its tail.
        mode ([`Mode`]): Modulation and coding.

    Returns:
        `torch.Tensor` of shape `(batch, num_symbols, mode.num_carriers)`, complex64.
    """
    coded = convolutional_code(bits).view(-1, 2 * mode.data_bits)
    return _mapped(coded, mode).view(len(bits), bits.shape[1] // mode.data_bits, mode.num_carriers)


def _mapped(coded: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Map encoder bits of each OFDM symbol, `(num_symbols, 2 * mode.data_bits)`, to its points."""
    # With one symbol per column, puncturing and interleaving move whole rows.
    coded = coded.T.contiguous()
    index = torch.zeros((), dtype=torch.uint8, device=coded.device)
    for place, positions in enumerate(table_on(coded.device, _symbol_bits, mode)):
        index = index | coded.index_select(0, positions) << place
    points = table_on(coded.device, constellation, mode.modulation).index_select(0, index.T.flatten().int())
    return points.view(-1, mode.num_carriers)


def data_field(psdu: torch.Tensor, mode: Mode, scrambler_state: torch.Tensor) -> torch.Tensor:
    """Map a PSDU to the points of the data subcarriers (17.3.5): SERVICE, tail, pad bits, scrambler, and [`encode`].

    Args:
        psdu (`torch.Tensor` of shape `(batch, num_bytes)`, uint8): MAC frames.
        mode ([`Mode`]): Modulation and coding.
        scrambler_state (`torch.Tensor` of shape `(batch,)`, int64): 1 to 127.

    Returns:
        `torch.Tensor` of shape `(batch, num_symbols, mode.num_carriers)`, complex64.
    """
    num_bytes = torch.full_like(scrambler_state, psdu.shape[1])
    return data_symbols(psdu, num_bytes, mode, scrambler_state)[0].view(len(psdu), -1, mode.num_carriers)


def data_symbols(
    psdu: torch.Tensor, num_bytes: torch.Tensor, mode: Mode, scrambler_state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[`data_field`] for packets of different lengths, with all their OFDM symbols one after the other.

    Args:
        psdu (`torch.Tensor` of shape `(batch, width)`, uint8): MAC frames, zero after the end of each.
        num_bytes (`torch.Tensor` of shape `(batch,)`, int64): Their lengths.
        mode ([`Mode`]): Modulation and coding.
        scrambler_state (`torch.Tensor` of shape `(batch,)`, int64): 1 to 127.

    Returns:
        `tuple`: points `(num_symbols, mode.num_carriers)`, complex64; the packet of each symbol and its number within
        that packet, both `(num_symbols,)`.
    """
    device, size = psdu.device, mode.data_bits
    most = mode.num_symbols(psdu.shape[1])
    # SERVICE bits are zeros: the receiver reads the state of the scrambler from the first seven.
    bits = torch.nn.functional.pad(bytes_to_bits(psdu), (SERVICE_BITS, most * size - SERVICE_BITS - 8 * psdu.shape[1]))
    bits ^= scrambling_sequence(scrambler_state, most * size)
    # Six unscrambled zeros return the encoder to its zero state (17.3.5.3).
    tail = SERVICE_BITS + 8 * num_bytes[:, None] + torch.arange(TAIL_BITS, device=device)
    bits.scatter_(1, tail, 0)
    count = mode.num_symbols(num_bytes)[:, None]
    packet, number = (torch.arange(most, device=device) < count).nonzero(as_tuple=True)
    windows = torch.nn.functional.pad(bits, (_MEMORY, 0)).unfold(1, _MEMORY + size, size)
    return _mapped(_convolved(windows[packet, number]), mode), packet, number

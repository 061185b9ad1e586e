"""A WiFi receiver in NumPy that shares nothing with the generator: SIGNAL, HT-SIG, Viterbi, descrambler, check sums.

Timing is known, the channel is estimated on the long training field. Written from the receiving side of IEEE
802.11-2020: deinterleaver equations, levels of the constellations as the tables list them, states of the code.
"""

import zlib
from dataclasses import dataclass

import numpy as np

# p_n, eq. 17-25.
POLARITY = (
    "++++---+----++-+--++-++-++++++-+++-++--+++-+---+-+--+--+++++--++--+-+-++---++----+--+-++++-+-+-+----"
    "-+-++-+-+++--+---+++-------"
)
LONG_TRAINING = "++--++-+-++++++--++-+-+++++--++-+-+-----++--+-+-++++"  # subcarriers -26..26 without 0, eq. 17-8
LEVELS = {  # tables 17-14 to 17-17: level of each pattern of bits on an axis
    1: {"0": -1, "1": 1},
    2: {"00": -3, "01": -1, "11": 1, "10": 3},
    3: {"000": -7, "001": -5, "011": -3, "010": -1, "110": 1, "111": 3, "101": 5, "100": 7},
}
RATES = {  # RATE bits: Mbit/s, coded bits a subcarrier, code rate
    "1101": (6, 1, "1/2"), "1111": (9, 1, "3/4"), "0101": (12, 2, "1/2"), "0111": (18, 2, "3/4"),
    "1001": (24, 4, "1/2"), "1011": (36, 4, "3/4"), "0001": (48, 6, "2/3"), "0011": (54, 6, "3/4"),
}  # fmt: skip
SCHEMES = [(1, "1/2"), (2, "1/2"), (2, "3/4"), (4, "1/2"), (4, "3/4"), (6, "2/3"), (6, "3/4"), (6, "5/6")]
SENT = {"1/2": "11", "2/3": "1110", "3/4": "111001", "5/6": "1110011001"}  # A1 B1 A2 B2 ...


@dataclass
class Packet:
    """What was received: `mcs` is `None` in 802.11a/g, where `rate_mbps` is that of SIGNAL."""

    psdu: bytes
    rate_mbps: int
    mcs: int | None
    bits_per_carrier: int
    code_rate: str
    scrambler_bits: list[int]
    num_samples: int
    legacy_num_samples: int

    @property
    def fcs_is_right(self) -> bool:
        return zlib.crc32(self.psdu[:-4]) == int.from_bytes(self.psdu[-4:], "little")


def viterbi(soft: np.ndarray) -> np.ndarray:
    """Data bits from pairs `(num_bits, 2)` of soft values, positive for one, from the zero state to any."""
    states = np.arange(64)  # the six last bits, newest most significant
    metric = np.full(64, -1e18)
    metric[0] = 0.0
    # State s is reached with its top bit as input, from the two states that end in its other five.
    previous = (states & 31)[:, None] * 2 + np.arange(2)
    register = (states[:, None] >> 5) * 64 + previous  # newest bit first, seven of them
    signs = np.stack([_parity(register & 0o133), _parity(register & 0o171)], -1) * 2.0 - 1
    choices = np.empty((len(soft), 64), dtype=np.int64)
    for step, pair in enumerate(soft):
        candidates = metric[previous] + signs @ pair
        choices[step] = candidates.argmax(1)
        metric = candidates.max(1)
    state = int(metric.argmax())
    bits = np.empty(len(soft), dtype=np.int64)
    for step in range(len(soft) - 1, -1, -1):
        bits[step] = state >> 5
        state = int(previous[state, choices[step, state]])
    return bits


def _parity(values: np.ndarray) -> np.ndarray:
    return np.array([bin(value).count("1") % 2 for value in values.ravel()]).reshape(values.shape)


def soft_bits(points: np.ndarray, weights: np.ndarray, bits_per_carrier: int) -> np.ndarray:
    """Log-likelihood ratios `(num_symbols, num_carriers * bits_per_carrier)`, positive for one."""
    axis_bits = max(1, bits_per_carrier // 2)
    table = LEVELS[axis_bits]
    levels = np.array(list(table.values())) * {1: 1, 2: 2**-0.5, 4: 10**-0.5, 6: 42**-0.5}[bits_per_carrier]
    axes = [points.real] if bits_per_carrier == 1 else [points.real, points.imag]
    columns = []
    for axis in axes:
        distance = (axis[..., None] - levels) ** 2
        for place in range(axis_bits):
            one = np.array([pattern[place] == "1" for pattern in table])
            columns.append((distance[..., ~one].min(-1) - distance[..., one].min(-1)) * weights)
    return np.stack(columns, -1).reshape(len(points), -1)


def decode(points: np.ndarray, weights: np.ndarray, bits_per_carrier: int, code_rate: str) -> np.ndarray:
    """Equalized points `(num_symbols, num_carriers)` to decoded bits."""
    soft = soft_bits(points, weights, bits_per_carrier)
    size, columns = soft.shape[1], 16 if points.shape[1] == 48 else 13
    s = max(1, bits_per_carrier // 2)
    j = np.arange(size)
    i = s * (j // s) + (j + columns * j // size) % s  # eq. 17-20, 19-51
    k = columns * i - (size - 1) * (columns * i // size)  # eq. 17-21, 19-52
    coded = np.empty_like(soft)
    coded[:, k] = soft
    sent = np.array([bit == "1" for bit in SENT[code_rate]])
    num_pairs = coded.size * len(sent) // (2 * sent.sum())
    full = np.zeros(2 * num_pairs)
    full[np.resize(sent, 2 * num_pairs)] = coded.ravel()
    return viterbi(full.reshape(-1, 2))


def integer(bits: np.ndarray) -> int:
    return int("".join(map(str, bits[::-1])), 2)


def crc8_is_right(bits: np.ndarray) -> bool:
    """HT-SIG: shift register of figure 19-8 over 34 bits, against the eight that follow."""
    register = [1] * 8  # c7 first
    for bit in bits[:34]:
        feedback = register[0] ^ int(bit)
        register = [*register[1:], 0]
        for power in (0, 1, 2):
            register[7 - power] ^= feedback
    return [1 - bit for bit in register] == bits[34:42].tolist()


def receive(samples: np.ndarray) -> Packet:
    """Receive the packet whose first sample is the first one given.

    Raises:
        ValueError: Where a field contradicts itself.
        EOFError: Where the samples end before the packet does.
    """

    def spectrum(start: int) -> np.ndarray:
        if start + 64 > len(samples):
            raise EOFError("The recording ends within the packet.")
        return np.fft.fft(samples[start : start + 64]) / 8

    legacy = np.array([n for n in range(-26, 27) if n])
    training = np.array([1 if sign == "+" else -1 for sign in LONG_TRAINING])
    channel = (spectrum(192) + spectrum(256))[legacy] / 2 * training
    pilots = np.array([-21, -7, 7, 21])

    def symbols(start: int, count: int, occupied, channel, first: int, turning: bool = False, gain: float = 1.0):
        is_data = ~np.isin(occupied, pilots)
        points, last = [], 1.0
        for number in range(count):
            received = spectrum(start + 80 * number + 16)[occupied] / (channel * gain)
            signs = np.array([1, 1, 1, -1])
            if turning:
                signs = np.roll(signs, -number)
            expected = signs * (1 if POLARITY[(first + number) % 127] == "+" else -1)
            weight = np.abs(channel[~is_data]) ** 2
            common = (received[~is_data] * expected * weight).sum() / weight.sum()
            if abs(common / last - 1) > 0.5:  # what is left of the carrier offset turns it only slowly
                raise ValueError(f"From symbol {number - 1} to {number} the pilots jump by {common / last:.2f}.")
            last = common
            points.append(received[is_data] / common)
        return np.array(points), np.abs(channel[is_data]) ** 2

    signal = decode(*symbols(320, 1, legacy, channel, 0), 1, "1/2")
    key = "".join(map(str, signal[:4]))
    if signal[:18].sum() % 2 or signal[4] or signal[18:].any() or key not in RATES:
        raise ValueError(f"SIGNAL is broken: {signal}.")
    rate_mbps, bits_per_carrier, code_rate = RATES[key]
    length, mcs, start = integer(signal[5:17]), None, 400
    num_data = 48 * bits_per_carrier * int(code_rate[0]) // int(code_rate[2])
    num_symbols = -(-(22 + 8 * length) // num_data)
    legacy_num_samples = start + 80 * num_symbols
    if rate_mbps == 6:
        points, weights = symbols(400, 2, legacy, channel, 1)
        turned = (points.imag**2 * weights).sum() > (points.real**2 * weights).sum()
        if turned:
            fields = decode(-1j * points, weights, 1, "1/2")
            if not crc8_is_right(fields) or fields[42:].any():
                raise ValueError(f"HT-SIG is broken: {fields}.")
            mcs, length = integer(fields[:7]), integer(fields[8:24])
            if fields[7] or fields[24:34].tolist() != [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]:
                raise ValueError(f"Not a plain 20 MHz HT packet: {fields}.")
            occupied = np.array([n for n in range(-28, 29) if n])
            # Scaled like the data, so that the channel holds the share of power of each subcarrier.
            channel = spectrum(656)[occupied] * np.array([1, 1, *training, -1, -1])
            bits_per_carrier, code_rate = SCHEMES[mcs]
            num_data = 52 * bits_per_carrier * int(code_rate[0]) // int(code_rate[2])
            num_symbols, start = -(-(22 + 8 * length) // num_data), 720
    if mcs is None:
        points, weights = symbols(start, num_symbols, legacy, channel, 1)
    else:
        points, weights = symbols(start, num_symbols, occupied, channel, 3, turning=True)
    bits = decode(points, weights, bits_per_carrier, code_rate)
    sequence = bits[:7].tolist()  # SERVICE is zero: these are the scrambler's own bits
    while len(sequence) < len(bits):
        sequence.append(sequence[-7] ^ sequence[-4])
    data = (bits ^ np.array(sequence))[16 : 16 + 8 * length]
    return Packet(
        psdu=np.packbits(data.astype(np.uint8), bitorder="little").tobytes(),
        rate_mbps=rate_mbps,
        mcs=mcs,
        bits_per_carrier=bits_per_carrier,
        code_rate=code_rate,
        scrambler_bits=sequence[:7],
        num_samples=start + 80 * num_symbols,
        legacy_num_samples=legacy_num_samples,
    )

"""WiFi waveforms over 20 MHz: packets of IEEE 802.11a/g (clause 17) and 802.11n (clause 19), and exchanges of them.

Packets are true PPDUs, from preamble and SIGNAL to coded MAC frames with their check sequence. Of 802.11n: the
HT-mixed format, one spatial stream, long guard interval, binary convolutional coding, one frame a packet.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from . import wifi_frames
from .ofdm import Numerology, symbols_to_samples
from .wifi_coding import HT_MODES, LEGACY_MODES, Mode, crc, data_field, encode, scrambling_sequence

NUMEROLOGY = Numerology(sampling_rate=20e6, subcarrier_spacing_hz=312_500.0, fft_size=64, dc_used=False)
SYMBOL_SAMPLES = 80  # 64 and a prefix of 16
# Table 17-21. In the 2.4 GHz band the shorter SIFS and the signal extension add up to the same (clause 18).
SIFS_S, SLOT_S = 16e-6, 9e-6
CONTENTION_WINDOW = 15  # of a first attempt, aCWmin [slots]
MODULATIONS = ("BPSK", "QPSK", "16QAM", "64QAM")
BASIC_RATES = (6, 12, 24)  # the mandatory ones, with which control frames are sent [Mbit/s]
_LEGACY, _HT = 52, 56  # occupied subcarriers of 802.11a/g and 802.11n
_WIDTH = _HT
_HT_SCALE = (_LEGACY / _HT) ** 0.5  # the same transmit power over more subcarriers
_MAX_SYMBOLS = 4095 // 3 + 1  # after L-SIG, as many as its LENGTH can announce
_SIGNAL_MODE = LEGACY_MODES[6]

# Where in the useful 64 samples a block of 80 starts to read. The two useful symbols of the L-LTF share one prefix of
# 32, so its first block has all of that and half of a symbol; every other block has 16 of its own.
_PREFIX_OFFSET, _LTF_OFFSET = 48, 32
_LTF_BLOCK = 2

# L-STF (eq. 17-6): one subcarrier in four of -24..24; L-LTF (eq. 17-8): all 52 of -26..26, without DC.
_STF_SIGNS = "+-+--+--++++"
_LTF_SIGNS = "++--++-+-++++++--++-+-+++++--++-+-+-----++--+-+-++++"
_PILOTS = (-21, -7, 7, 21)
_PILOT_SIGNS = (1.0, 1.0, 1.0, -1.0)
# RATE bits R1 to R4 (table 17-6).
_RATE_BITS = {6: "1101", 9: "1111", 12: "0101", 18: "0111", 24: "1001", 36: "1011", 48: "0001", 54: "0011"}


def _signs(text: str) -> torch.Tensor:
    return torch.tensor([1.0 if sign == "+" else -1.0 for sign in text])


@cache
def short_training_field() -> torch.Tensor:
    """Frequency-domain L-STF on the 56 subcarriers -28..28 without DC, shape `(56,)` (IEEE 802.11-2020, eq. 17-6)."""
    bins = NUMEROLOGY.bins(_WIDTH)
    field = torch.zeros(_WIDTH, dtype=torch.complex64)
    occupied = (bins % 4 == 0) & (bins.abs() <= 24)
    field[occupied] = (13 / 6) ** 0.5 * (1 + 1j) * _signs(_STF_SIGNS).to(torch.complex64)
    return field


@cache
def long_training_field() -> torch.Tensor:
    """Frequency-domain L-LTF on the 56 subcarriers -28..28 without DC, shape `(56,)` (IEEE 802.11-2020, eq. 17-8)."""
    field = torch.zeros(_WIDTH, dtype=torch.complex64)
    field[2:-2] = _signs(_LTF_SIGNS).to(torch.complex64)
    return field


@cache
def ht_long_training_field() -> torch.Tensor:
    """Frequency-domain HT-LTF, the L-LTF with two subcarriers more at both ends, shape `(56,)` (eq. 19-23)."""
    field = long_training_field().clone()
    field[:2], field[-2:] = 1, -1
    return field


@cache
def pilot_polarity() -> torch.Tensor:
    """The 127 pilot polarities p_n (17.3.5.10): the scrambler started with ones, as signs."""
    return 1.0 - 2.0 * scrambling_sequence(torch.tensor([127]), 127)[0]


def signal_field(rate_mbps: int, length: int) -> torch.Tensor:
    """The bits of SIGNAL: RATE, a reserved zero, LENGTH, even parity and tail (17.3.4).

    Args:
        rate_mbps (`int`): One of the eight rates [Mbit/s].
        length (`int`): 1 to 4095 bytes.

    Returns:
        `torch.Tensor` of shape `(24,)`, uint8.

    Raises:
        ValueError: For a length that 12 bits do not hold.
    """
    if not 1 <= length < 1 << 12:
        raise ValueError(f"A packet has 1 to 4095 bytes, found {length}; split it.")
    bits = [int(bit) for bit in _RATE_BITS[rate_mbps]] + [0] + [length >> place & 1 for place in range(12)]
    return torch.tensor([*bits, sum(bits) % 2, *[0] * 6], dtype=torch.uint8)


def ht_signal_field(mcs: int, length: int) -> torch.Tensor:
    """The bits of HT-SIG for 20 MHz, one stream, long guard interval and convolutional coding (19.3.9.4.3).

    Args:
        mcs (`int`): 0 to 7.
        length (`int`): Bytes of the PSDU.

    Returns:
        `torch.Tensor` of shape `(48,)`, uint8.
    """
    # MCS and a zero for 20 MHz; length; smoothing recommended, not sounding, a reserved one; then zeros for no
    # aggregation, STBC, LDPC, short guard interval and extension streams.
    bits = [mcs >> place & 1 for place in range(8)] + [length >> place & 1 for place in range(16)] + [1] * 3 + [0] * 7
    field = torch.tensor(bits, dtype=torch.uint8)
    return torch.cat([field, crc(field, 0x07, 8), field.new_zeros(6)])


@cache
def _pilots(num_carriers: int, first_polarity: int) -> torch.Tensor:
    """Pilots of successive OFDM symbols, over one period of them, shape `(508, 4)` (17.3.5.10, 19.3.11.10)."""
    number = torch.arange(4 * 127)
    signs = torch.tensor(_PILOT_SIGNS)
    # In 802.11n the signs move on by one pilot each symbol.
    moved = number[:, None] * (num_carriers + len(_PILOTS) == _HT) + torch.arange(4)
    return signs[moved % 4] * pilot_polarity()[(first_polarity + number) % 127, None]


@cache
def _carriers(num_carriers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the data subcarriers and of the pilots among the 56."""
    bins = NUMEROLOGY.bins(_WIDTH)
    pilot = torch.isin(bins, torch.tensor(_PILOTS))
    occupied = bins.abs() <= (num_carriers + len(_PILOTS)) // 2
    return (occupied & ~pilot).nonzero()[:, 0], pilot.nonzero()[:, 0]


def _symbols(points: torch.Tensor, first_polarity: int) -> torch.Tensor:
    """Points of the data subcarriers to OFDM symbols with pilots, `(batch, num_symbols, 56)` (17.3.5.9)."""
    num_symbols, num_carriers = points.shape[1:]
    data, pilots = (places.to(points.device) for places in _carriers(num_carriers))
    values = _pilots(num_carriers, first_polarity)
    grid = points.new_zeros(len(points), num_symbols, _WIDTH)
    grid[..., data] = points
    grid[..., pilots] = values[torch.arange(num_symbols) % len(values)].to(grid)
    return grid


@lru_cache(maxsize=4096)  # the packets of all draws share some thousand lengths
def _legacy_preamble(rate_mbps: int, length: int) -> torch.Tensor:
    """L-STF, L-LTF and SIGNAL, shape `(5, 56)`; the same blocks begin both kinds of packets."""
    training = [short_training_field()] * 2 + [long_training_field()] * 2
    signal = encode(signal_field(rate_mbps, length)[None], _SIGNAL_MODE)
    return torch.cat([torch.stack(training), _symbols(signal, 0)[0]])


@lru_cache(maxsize=4096)
def _ht_preamble(mcs: int, psdu_length: int) -> torch.Tensor:
    """The legacy preamble, HT-SIG, HT-STF and HT-LTF, shape `(9, 56)` (19.3.9)."""
    num_symbols = 4 + HT_MODES[mcs].num_symbols(psdu_length)
    if num_symbols > _MAX_SYMBOLS:
        longest = HT_MODES[mcs].num_bytes(_MAX_SYMBOLS - 4)
        raise ValueError(f"At MCS {mcs} a packet has at most {longest} bytes, found {psdu_length}; split it.")
    # To stations of 802.11a/g the rest of the packet lasts as long as this many bytes at 6 Mbit/s (10.27.4): three for
    # each OFDM symbol after L-SIG, less the three of SERVICE and tail.
    legacy = _legacy_preamble(6, 3 * num_symbols - 3)
    # BPSK on the imaginary axis tells an HT packet; the pilots stay as they are (19.3.9.4.3).
    signal = _symbols(1j * encode(ht_signal_field(mcs, psdu_length)[None], _SIGNAL_MODE), 1)[0]
    training = torch.stack([short_training_field(), _HT_SCALE * ht_long_training_field()])
    return torch.cat([legacy, signal, training])


def ppdu(psdu: torch.Tensor, rate_mbps: int, scrambler_state: torch.Tensor) -> torch.Tensor:
    """802.11a/g packets of one rate and length (17.3.2): preamble, SIGNAL, data.

    Args:
        psdu (`torch.Tensor` of shape `(batch, num_bytes)`, uint8): MAC frames.
        rate_mbps (`int`): 6, 9, 12, 18, 24, 36, 48 or 54 [Mbit/s].
        scrambler_state (`torch.Tensor` of shape `(batch,)`, int64): 1 to 127.

    Returns:
        `torch.Tensor` of shape `(batch, num_blocks, 56)`, complex64: symbols on subcarriers -28..28 without DC, of
        blocks of 80 samples: two of L-STF, two of L-LTF, SIGNAL, data. [`packet_samples`] makes samples of them.

    Raises:
        ValueError: For another rate, a length that SIGNAL does not hold or a scrambler state out of range.
    """
    if rate_mbps not in LEGACY_MODES:
        known = ", ".join(map(str, LEGACY_MODES))
        raise ValueError(f"802.11a/g has no rate of {rate_mbps} Mbit/s; expected one of {known}.")
    preamble = _legacy_preamble(rate_mbps, psdu.shape[1]).to(psdu.device)
    data = _symbols(data_field(psdu, LEGACY_MODES[rate_mbps], scrambler_state), 1)
    return torch.cat([preamble.expand(len(psdu), -1, -1), data], 1)


def ht_ppdu(psdu: torch.Tensor, mcs: int, scrambler_state: torch.Tensor) -> torch.Tensor:
    """802.11n packets in HT-mixed format of one modulation and coding scheme and length (19.3.2).

    Args:
        psdu (`torch.Tensor` of shape `(batch, num_bytes)`, uint8): MAC frames.
        mcs (`int`): 0 to 7.
        scrambler_state (`torch.Tensor` of shape `(batch,)`, int64): 1 to 127.

    Returns:
        `torch.Tensor` of shape `(batch, num_blocks, 56)`, complex64: as from [`ppdu`], with two blocks of HT-SIG, one
        of HT-STF and one of HT-LTF between SIGNAL and data.

    Raises:
        ValueError: For another scheme, a packet that lasts longer than SIGNAL can announce, or a scrambler state out
            of range.
    """
    if not 0 <= mcs < len(HT_MODES):
        raise ValueError(f"A single stream of 802.11n has MCS 0 to {len(HT_MODES) - 1}, found {mcs}.")
    preamble = _ht_preamble(mcs, psdu.shape[1]).to(psdu.device)
    data = _HT_SCALE * _symbols(data_field(psdu, HT_MODES[mcs], scrambler_state), 3)
    return torch.cat([preamble.expand(len(psdu), -1, -1), data], 1)


def _blocks_to_samples(grid: torch.Tensor, read_offset: torch.Tensor) -> torch.Tensor:
    """Inverse DFT and prefix of each block, shape `(batch, num_blocks, 80)`."""
    within = torch.arange(SYMBOL_SAMPLES, device=grid.device)
    index = (read_offset[..., None] + within) % NUMEROLOGY.fft_size
    return symbols_to_samples(grid, NUMEROLOGY).gather(-1, index.expand(*grid.shape[:-1], -1))


def packet_samples(grid: torch.Tensor) -> torch.Tensor:
    """Samples of packets from [`ppdu`] or [`ht_ppdu`] at 20 Msps, unit power on each subcarrier of 802.11a/g.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): Packets.

    Returns:
        `torch.Tensor` of shape `(batch, 80 * num_blocks)`, complex64.
    """
    return _blocks_to_samples(grid, _read_offset(torch.arange(grid.shape[1], device=grid.device))).flatten(1)


def _read_offset(block: torch.Tensor) -> torch.Tensor:
    return torch.where(block == _LTF_BLOCK, _LTF_OFFSET, _PREFIX_OFFSET)


@dataclass
class WifiBatch:
    """A batch of WiFi timelines as blocks of 80 samples, before the channel.

    Attributes:
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): Symbols on subcarriers -28..28 without DC.
        read_offset (`torch.Tensor` of shape `(batch, num_blocks)`): First useful sample that a block of 80 reads.
        start (`torch.Tensor` of shape `(batch, num_blocks)`): First sample of the block in the row's timeline; a block
            that lies beyond the timeline is never heard.
        modulation (`torch.Tensor` of shape `(batch,)`): Index into `MODULATIONS` of the data packets.
        code_rate (`torch.Tensor` of shape `(batch,)`): Of the data packets.
    """

    grid: torch.Tensor
    read_offset: torch.Tensor
    start: torch.Tensor
    modulation: torch.Tensor
    code_rate: torch.Tensor


@dataclass(frozen=True)
class _Link:
    """What stays the same along a row: an access point that sends to one station, or to all.

    Attributes:
        high_throughput: 802.11n instead of 802.11a/g.
        rate: Key into the modes of that.
        num_payload: The two lengths of its frame bodies [bytes].
        ack_rate: At which the station answers [Mbit/s]; zero for frames to all, which nobody does.
        opportunity: The access point holds a transmission opportunity (10.23): only a SIFS between exchanges.
        idle_s: Mean time without a frame to send, beyond the back-off [s].
        skipped: How much of the first packet is over when the recording starts.
    """

    high_throughput: bool
    rate: int
    num_payload: tuple[int, int]
    ack_rate: int
    opportunity: bool
    idle_s: float
    skipped: float

    @property
    def mode(self) -> Mode:
        return HT_MODES[self.rate] if self.high_throughput else LEGACY_MODES[self.rate]

    def num_blocks(self, num_payload: int) -> int:
        """Blocks of a data packet."""
        preamble = 9 if self.high_throughput else 5
        return preamble + self.mode.num_symbols(num_payload + wifi_frames.overhead_bytes(self.high_throughput))

    @property
    def ack_blocks(self) -> int:
        """Blocks of an acknowledgement; none where nobody answers."""
        return 5 + LEGACY_MODES[self.ack_rate].num_symbols(wifi_frames.ACK_BYTES) if self.ack_rate else 0

    @property
    def reserved_us(self) -> int:
        """Time after the data packet until the exchange is over (9.2.5.2) [µs]."""
        return (
            round(1e6 * (SIFS_S + self.ack_blocks * SYMBOL_SAMPLES / NUMEROLOGY.sampling_rate)) if self.ack_rate else 0
        )


def _draw_link(uniform: list[float]) -> _Link:
    high_throughput = uniform[0] < 0.4
    modes = dict(enumerate(HT_MODES)) if high_throughput else LEGACY_MODES
    modulation = MODULATIONS[int(uniform[1] * len(MODULATIONS))]
    rates = [rate for rate, mode in modes.items() if mode.modulation == modulation]
    rate = rates[int(uniform[2] * len(rates))]
    # From next to nothing to the largest frame: short and full ones are the common ones; a row has two lengths.
    typical_bytes = 30 * 76 ** min(1.0, 1.3 * uniform[3])
    overhead = wifi_frames.overhead_bytes(high_throughput)
    lengths = [
        min(max(round(total) - overhead, 8), wifi_frames.MAX_PAYLOAD_BYTES)
        for total in (typical_bytes, typical_bytes * uniform[4])
    ]
    # The answer comes at the highest basic rate of the cell that is not above that of the frame (10.6.6.5.2).
    basic = BASIC_RATES[: 1 + int(uniform[6] * len(BASIC_RATES))]
    answer = max(basic_rate for basic_rate in basic if basic_rate <= modes[rate].data_bits / 4)
    return _Link(
        high_throughput=high_throughput,
        rate=rate,
        num_payload=(lengths[0], lengths[1]),
        ack_rate=answer if uniform[7] < 0.8 else 0,
        opportunity=uniform[5] < 0.3,
        # From saturated, packets a back-off apart, to mostly idle.
        idle_s=20e-6 * (150 ** (2 * uniform[8] - 1) if uniform[8] > 0.5 else 1.0),
        skipped=uniform[9],
    )


def _draw_exchanges(
    links: list[_Link], num_samples: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which of the two lengths each exchange of each row has, `(batch, num_exchanges)`; and of its data packet and
    acknowledgement the first sample and the blocks, `(batch, num_exchanges, 2)`."""
    device, rate = generator.device, NUMEROLOGY.sampling_rate
    data_blocks = torch.tensor([[link.num_blocks(length) for length in link.num_payload] for link in links]).to(device)
    ack_blocks = torch.tensor([link.ack_blocks for link in links]).to(device)
    skipped, idle_s = torch.tensor([(link.skipped, link.idle_s) for link in links]).to(device).T
    sifs, slot = round(SIFS_S * rate), round(SLOT_S * rate)
    shortest = SYMBOL_SAMPLES * int(data_blocks.min()) + sifs
    num_exchanges = (num_samples + SYMBOL_SAMPLES * int(data_blocks.max())) // shortest + 1

    uniform = torch.rand(4, len(links), num_exchanges, generator=generator, device=device)
    choice = (uniform[0] < 0.5).long()
    # A twentieth of the packets gets lost.
    answered = (uniform[1] < 0.95) & (ack_blocks > 0)[:, None]
    blocks = torch.stack([data_blocks.gather(1, choice), answered * ack_blocks[:, None]], -1)
    data_samples, ack_samples = (SYMBOL_SAMPLES * blocks).unbind(-1)
    # DIFS is a SIFS and two slots (10.3.7); then the back-off counts down.
    backoff = sifs + slot * (2 + (uniform[2] * (CONTENTION_WINDOW + 1)).long())
    idle = (-idle_s[:, None] * (1 - uniform[3]).log() * rate).round().long()
    opportunity = torch.tensor([link.opportunity for link in links], device=device)[:, None]
    pause = torch.where(opportunity, sifs, backoff + idle)
    answer = data_samples + sifs
    lasting = torch.where(answered, answer + ack_samples, data_samples) + pause
    start = lasting.cumsum(1) - lasting - (skipped * data_samples[:, 0]).long()[:, None]
    return choice, torch.stack([start, start + answer], -1), blocks


def draw(batch_size: int, num_samples: int, generator: torch.Generator) -> WifiBatch:
    """Draw exchanges: data packets, SIFS, acknowledgements, back-off and idle time, each row with its own traffic.

    Every packet is whole, with random payload and scrambler state, and sequence numbers that count up; blocks that
    the timeline does not hear are left out.

    Args:
        batch_size (`int`): Rows.
        num_samples (`int`): Length of the timeline at 20 Msps.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        [`WifiBatch`].
    """
    device = generator.device
    links = [_draw_link(row) for row in torch.rand(batch_size, 10, generator=generator, device=device).tolist()]
    choice, first_sample, num_blocks = _draw_exchanges(links, num_samples, generator)
    # Blocks `first` to `last` of a packet overlap the timeline; in the row they follow those of earlier packets.
    first = (-first_sample // SYMBOL_SAMPLES).clamp(min=0)
    last = torch.minimum(num_blocks, -((first_sample - num_samples) // SYMBOL_SAMPLES))
    heard = (last - first).clamp(min=0)
    column = (heard.flatten(1).cumsum(1) - heard.flatten(1)).view_as(heard)
    width = int(heard.sum((1, 2)).max())

    # One block more takes what is not heard.
    grid = torch.zeros(batch_size * width + 1, _WIDTH, dtype=torch.complex64, device=device)
    start = torch.full((len(grid),), num_samples, device=device)
    read_offset = torch.full_like(start, _PREFIX_OFFSET)

    def place(packets: torch.Tensor, row: torch.Tensor, exchange: torch.Tensor, which: int) -> None:
        at = (row, exchange, which)
        number = torch.arange(packets.shape[1], device=device)
        position = number - first[at][:, None]
        inside = (position >= 0) & (position < heard[at][:, None])
        index = torch.where(inside, row[:, None] * width + column[at][:, None] + position, len(grid) - 1)
        grid[index] = packets
        start[index] = first_sample[at][:, None] + SYMBOL_SAMPLES * number
        read_offset[index] = _read_offset(number).expand_as(index)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device, dtype=dtype)

    addresses = integers(0, 256, batch_size, 2, 6, dtype=torch.uint8)
    addresses[..., 0] = addresses[..., 0] & 0xFC | 0x02  # of one station, and locally administered (IEEE 802, 8.2)
    sequence = integers(0, 4096, batch_size)
    for number, link in enumerate(links):
        receiver, transmitter = addresses[number]
        if not link.ack_rate:
            receiver = torch.full_like(receiver, 0xFF)
        for which, length in enumerate(link.num_payload):
            exchange = ((heard[number, :, 0] > 0) & (choice[number] == which)).nonzero()[:, 0]
            if len(exchange) == 0:
                continue
            frames = wifi_frames.data_frame(
                receiver=receiver.expand(len(exchange), -1),
                transmitter=transmitter.expand(len(exchange), -1),
                sequence=sequence[number] + exchange,
                duration_us=torch.full_like(exchange, link.reserved_us),
                payload=integers(0, 256, len(exchange), length, dtype=torch.uint8),
                qos=link.high_throughput,
            )
            modulate = ht_ppdu if link.high_throughput else ppdu
            packets = modulate(frames, link.rate, integers(1, 128, len(exchange)))
            place(packets, torch.full_like(exchange, number), exchange, 0)
    ack_rate = torch.tensor([link.ack_rate for link in links], device=device)
    for rate in BASIC_RATES:
        row, exchange = ((heard[..., 1] > 0) & (ack_rate == rate)[:, None]).nonzero(as_tuple=True)
        place(ppdu(wifi_frames.ack_frame(addresses[row, 1]), rate, integers(1, 128, len(row))), row, exchange, 1)

    modes = [link.mode for link in links]
    return WifiBatch(
        grid=grid[:-1].unflatten(0, (batch_size, width)),
        read_offset=read_offset[:-1].view(batch_size, width),
        start=start[:-1].view(batch_size, width),
        modulation=torch.tensor([MODULATIONS.index(mode.modulation) for mode in modes]),
        code_rate=torch.tensor([float(mode.code_rate) for mode in modes]),
    )


def assemble(batch: WifiBatch, grid: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Blocks to samples: inverse DFT, prefix, and each block at its place in the row's timeline.

    Args:
        batch ([`WifiBatch`]): The timelines.
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): The symbols, after the channel.
        num_samples (`int`): Length of the result at 20 Msps.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    blocks = _blocks_to_samples(grid, batch.read_offset)
    place = (batch.start[..., None] + torch.arange(SYMBOL_SAMPLES, device=grid.device)).flatten(1)
    samples = grid.new_zeros(len(grid), num_samples + 2 * SYMBOL_SAMPLES)
    samples.scatter_(1, (place + SYMBOL_SAMPLES).clamp(0, samples.shape[1] - 1), blocks.flatten(1))
    return samples[:, SYMBOL_SAMPLES : SYMBOL_SAMPLES + num_samples]

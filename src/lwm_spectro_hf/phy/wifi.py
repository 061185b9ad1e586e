"""WiFi waveforms over 20 MHz: packets of IEEE 802.11a/g (clause 17) and 802.11n (clause 19), and exchanges of them.

Packets are complete PPDUs, from preamble and SIGNAL to coded MAC frames with their check sequence. 802.11n is limited
to the HT-mixed format, one spatial stream, long guard interval, binary convolutional coding, and one frame per packet.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import torch

from . import wifi_frames, wifi_traffic
from .bits import slices, table_on
from .ofdm import Numerology, symbols_to_samples
from .waveform import Waveform
from .wifi_coding import (
    HT_MODES,
    LEGACY_MODES,
    crc,
    data_field,
    data_symbols,
    encode,
    integer_bits,
    scrambling_sequence,
)
from .wifi_traffic import BASIC_RATES, MODES, MODULATIONS, SYMBOL_US, preamble_blocks

__all__ = ["MODULATIONS", "NUMEROLOGY", "OCCUPIED_HZ", "draw", "ht_ppdu", "packet_samples", "ppdu"]

NUMEROLOGY = Numerology(sampling_rate=20e6, subcarrier_spacing_hz=312_500.0, fft_size=64, dc_used=False)
OCCUPIED_HZ = 57 * NUMEROLOGY.subcarrier_spacing_hz
SYMBOL_SAMPLES = 80  # 64 and a prefix of 16
_SAMPLES_PER_US = 20
_PREFIX = 16
_LEGACY, _HT = 52, 56  # occupied subcarriers of 802.11a/g and 802.11n
_WIDTH = _HT
_HT_SCALE = (_LEGACY / _HT) ** 0.5  # the same transmit power over more subcarriers
_MAX_LENGTH = 4095  # the most that SIGNAL can announce [bytes]
_SIGNAL_MODE = LEGACY_MODES[6]
# Kinds of packets: data by mode, acknowledgments by rate.
_KINDS = (*MODES, *((False, LEGACY_MODES[rate_mbps]) for rate_mbps in BASIC_RATES))
_LTF_BLOCK = 2  # first L-LTF block of a packet

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
    """Frequency-domain HT-LTF, the L-LTF with two more subcarriers at each end, shape `(56,)` (eq. 19-23)."""
    field = long_training_field().clone()
    field[:2], field[-2:] = 1, -1
    return field


@cache
def pilot_polarity() -> torch.Tensor:
    """The 127 pilot polarities p_n (17.3.5.10): output of the scrambler, started with ones, as signs."""
    return 1.0 - 2.0 * scrambling_sequence(torch.tensor([127]), 127)[0]


def signal_field(rate: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The bits of SIGNAL: RATE, a reserved zero, LENGTH, even parity and tail (17.3.4).

    Args:
        rate (`torch.Tensor` of shape `(batch,)`, int64): Index into `LEGACY_MODES`.
        length (`torch.Tensor` of shape `(batch,)`, int64): 1 to 4095 bytes.

    Returns:
        `torch.Tensor` of shape `(batch, 24)`, uint8.
    """
    bits = torch.cat([table_on(rate.device, _rate_bits)[rate], integer_bits(length, 12)], 1)
    return torch.nn.functional.pad(torch.cat([bits, bits.sum(1, keepdim=True, dtype=torch.uint8) % 2], 1), (0, 6))


@cache
def _rate_bits() -> torch.Tensor:
    """R1 to R4 of each rate and the zero after them."""
    return torch.tensor([[*map(int, _RATE_BITS[rate_mbps]), 0] for rate_mbps in LEGACY_MODES], dtype=torch.uint8)


def ht_signal_field(mcs: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The bits of HT-SIG for 20 MHz, one stream, long guard interval and convolutional coding (19.3.9.4.3).

    Args:
        mcs (`torch.Tensor` of shape `(batch,)`, int64): 0 to 7.
        length (`torch.Tensor` of shape `(batch,)`, int64): Bytes of the PSDU.

    Returns:
        `torch.Tensor` of shape `(batch, 48)`, uint8.
    """
    # MCS and a zero for 20 MHz; length; smoothing recommended, not sounding, a reserved one; then zeros for no
    # aggregation, STBC, LDPC, short guard interval and extension streams.
    bits = torch.cat([integer_bits(mcs, 8), integer_bits(length, 16), mcs.new_ones(len(mcs), 3, dtype=torch.uint8)], 1)
    bits = torch.nn.functional.pad(bits, (0, 7))
    return torch.nn.functional.pad(torch.cat([bits, crc(bits, 0x07, 8)], 1), (0, 6))


@cache
def _pilots(num_carriers: int) -> torch.Tensor:
    """Pilots of one period of OFDM symbols, by symbol number, shape `(508, 4)` (17.3.5.10, 19.3.11.10)."""
    number = torch.arange(4 * 127)
    signs = torch.tensor(_PILOT_SIGNS)
    # In 802.11n the signs move on by one pilot per symbol, starting from the first data symbol, which has number 3.
    moved = (number[:, None] - 3) * (num_carriers + len(_PILOTS) == _HT) + torch.arange(4)
    return signs[moved % 4] * pilot_polarity()[number % 127, None]


@cache
def _carriers(num_carriers: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Start and end (exclusive) of each run of data subcarriers among the 56, and the places of the pilots."""
    places = {value: place for place, value in enumerate(NUMEROLOGY.bins(_WIDTH).tolist())}
    edge = (_WIDTH - num_carriers - len(_PILOTS)) // 2
    pilots = [places[pilot] for pilot in _PILOTS]
    return list(zip([edge, *(place + 1 for place in pilots)], [*pilots, _WIDTH - edge], strict=True)), pilots


def _symbols(points: torch.Tensor, polarity: int | torch.Tensor) -> torch.Tensor:
    """Map points of the data subcarriers to OFDM symbols with pilots (17.3.5.9).

    Args:
        points (`torch.Tensor` of shape `(..., num_symbols, num_carriers)`): In 48 or 52 data subcarriers.
        polarity (`int` or `torch.Tensor` of shape `(num_symbols,)`): Pilot number of the first symbol, from which the
            others count up, or of each symbol.

    Returns:
        `torch.Tensor` of shape `(..., num_symbols, 56)`.
    """
    num_symbols, num_carriers = points.shape[-2:]
    if isinstance(polarity, int):
        polarity = polarity + torch.arange(num_symbols, device=points.device)
    period = table_on(points.device, _pilots, num_carriers)
    grid = points.new_zeros(*points.shape[:-1], _WIDTH)
    runs, places = _carriers(num_carriers)
    at = 0
    for first, last in runs:
        grid[..., first:last] = points[..., at : at + last - first]
        at += last - first
    for place, value in zip(places, period[polarity % len(period)].to(points.dtype).mT, strict=True):
        grid[..., place] = value
    return grid * _HT_SCALE if num_carriers + len(_PILOTS) == _HT else grid


@cache
def _training() -> torch.Tensor:
    """L-STF and L-LTF, `(4, 56)`."""
    # The two useful symbols of the L-LTF share one prefix of 32. Split into blocks of 80 with a prefix of 16, the
    # first block has the symbol delayed by a quarter: a phase on each subcarrier.
    late = long_training_field() * (-1j) ** (NUMEROLOGY.bins(_WIDTH) % 4)
    return torch.stack([short_training_field(), short_training_field(), late, long_training_field()])


@cache
def _ht_training() -> torch.Tensor:
    """HT-STF and HT-LTF, `(2, 56)`."""
    return torch.stack([short_training_field(), _HT_SCALE * ht_long_training_field()])


def _legacy_preamble(rate: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """L-STF, L-LTF and SIGNAL, which start packets of both kinds; see [`signal_field`]. `(batch, 5, 56)`."""
    signal = _symbols(encode(signal_field(rate, length), _SIGNAL_MODE), 0)
    return torch.cat([table_on(rate.device, _training).expand(len(rate), -1, -1), signal], 1)


def _ht_preamble(mcs: torch.Tensor, num_bytes: torch.Tensor) -> torch.Tensor:
    """The rest of the preamble of 802.11n packets: HT-SIG, HT-STF and HT-LTF (19.3.9). `(batch, 4, 56)`."""
    # BPSK on the imaginary axis marks an HT packet; the pilots are not rotated (19.3.9.4.3).
    signal = _symbols(1j * encode(ht_signal_field(mcs, num_bytes), _SIGNAL_MODE), 1)
    return torch.cat([signal, table_on(mcs.device, _ht_training).expand(len(mcs), -1, -1)], 1)


def _announced_bytes(num_symbols: int | torch.Tensor) -> int | torch.Tensor:
    """LENGTH of SIGNAL in an 802.11n packet with this many data symbols (10.27.4).

    Stations of 802.11a/g take the rest of the packet for this many bytes at 6 Mbit/s: three per OFDM symbol after
    L-SIG, less the three of SERVICE and tail.
    """
    return 3 * (4 + num_symbols) - 3


def ppdu(psdu: torch.Tensor, rate_mbps: int, scrambler_state: torch.Tensor) -> torch.Tensor:
    """802.11a/g packets of one rate and length (17.3.2): preamble, SIGNAL, data.

    Args:
        psdu (`torch.Tensor` of shape `(batch, num_bytes)`, uint8): MAC frames.
        rate_mbps (`int`): 6, 9, 12, 18, 24, 36, 48 or 54 [Mbit/s].
        scrambler_state (`torch.Tensor` of shape `(batch,)`, int64): 1 to 127.

    Returns:
        `torch.Tensor` of shape `(batch, num_blocks, 56)`, complex64: symbols on subcarriers -28..28 without DC, one
        per block of 80 samples: two of L-STF, two of L-LTF, SIGNAL, data. [`packet_samples`] converts them to samples.

    Raises:
        ValueError: For another rate, a length that SIGNAL cannot hold, or a scrambler state out of range.
    """
    if rate_mbps not in LEGACY_MODES:
        known = ", ".join(map(str, LEGACY_MODES))
        raise ValueError(f"802.11a/g has no rate of {rate_mbps} Mbit/s; expected one of {known}.")
    length = psdu.shape[1]
    if not 1 <= length <= _MAX_LENGTH:
        raise ValueError(f"A packet has 1 to {_MAX_LENGTH} bytes, found {length}; split it.")
    rate = torch.full_like(scrambler_state, list(LEGACY_MODES).index(rate_mbps))
    data = _symbols(data_field(psdu, LEGACY_MODES[rate_mbps], scrambler_state), 1)
    return torch.cat([_legacy_preamble(rate, torch.full_like(rate, length)), data], 1)


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
    mode, length = HT_MODES[mcs], psdu.shape[1]
    announced = _announced_bytes(mode.num_symbols(length))
    if announced > _MAX_LENGTH:
        longest = mode.num_bytes((_MAX_LENGTH + 3) // 3 - 4)
        raise ValueError(f"At MCS {mcs} a packet has at most {longest} bytes, found {length}; split it.")
    rate, scheme, num_bytes = (torch.full_like(scrambler_state, value) for value in (0, mcs, length))
    preamble = [_legacy_preamble(rate, torch.full_like(rate, announced)), _ht_preamble(scheme, num_bytes)]
    return torch.cat([*preamble, _symbols(data_field(psdu, mode, scrambler_state), 3)], 1)


def packet_samples(grid: torch.Tensor) -> torch.Tensor:
    """Samples of packets from [`ppdu`] or [`ht_ppdu`] at 20 Msps, unit power on each subcarrier of 802.11a/g.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): Packets.

    Returns:
        `torch.Tensor` of shape `(batch, 80 * num_blocks)`, complex64.
    """
    return _block_samples(grid).flatten(1)


def _block_samples(grid: torch.Tensor) -> torch.Tensor:
    """[`packet_samples`] of single blocks, `(..., 56)` to `(..., 80)`."""
    useful = symbols_to_samples(grid, NUMEROLOGY)
    return torch.cat([useful[..., -_PREFIX:], useful], -1)


def draw(
    batch_size: int,
    num_samples: int,
    generator: torch.Generator,
    *,
    modulation: torch.Tensor | None = None,
    code_rate: torch.Tensor | None = None,
    full: torch.Tensor | None = None,
    high_throughput: float = 0.4,
    aligned: bool = False,
    apart: torch.Tensor | None = None,
    two_way: torch.Tensor | None = None,
) -> Waveform:
    """Draw exchanges: data packets, SIFS, acknowledgments, back-off and idle time, each row with its own traffic.

    Every packet is complete, with random payload and scrambler state, and sequence numbers that count up.

    Args:
        batch_size (`int`): Rows.
        num_samples (`int`): Length of the timeline at 20 Msps.
        generator (`torch.Generator`): Source of randomness.
        modulation (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Index into `MODULATIONS`.
        code_rate (`torch.Tensor` of shape `(batch,)`, *optional*): Target; the nearest of the modulation is used.
        full (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows where packets follow each other as closely as
            possible; their lengths vary, with long ones more often.
        high_throughput (`float`, *optional*, defaults to 0.4): Share of 802.11n links, if 802.11n has the mode.
        aligned (`bool`, *optional*, defaults to `False`): Start and end between packets instead of anywhere, provided
            that one fits. Frame bodies have at most 1,500 bytes, which file readers take for the largest, and at least
            about 1,000 where `full`; 16 pad bits or more end each packet.
        apart (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows in which what the station sends, such as
            acknowledgments, is in `answers` instead of `samples`.
        two_way (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows whose station also sends data, for less
            time than the access point.

    Returns:
        [`Waveform`].
    """
    device = generator.device
    # The receiver's samples start anywhere within a microsecond of the sender. In files the offset is not zero:
    # OpenOFDM's decode.py drops packets whose first sample is a multiple of 80.
    skipped = int(torch.randint(int(aligned), _SAMPLES_PER_US, (1,), generator=generator, device=device))
    num_us = -(-(num_samples + skipped) // _SAMPLES_PER_US)
    links = wifi_traffic.draw_links(
        batch_size, generator, modulation, code_rate, full, high_throughput, aligned, two_way
    )
    exchanges = wifi_traffic.draw_exchanges(links, num_us, generator)
    heard = (exchanges.blocks > 0) & (exchanges.start_us < num_us)
    heard &= exchanges.start_us + SYMBOL_US * exchanges.blocks > 0

    packets = _draw_packets(links, exchanges, heard, generator)
    # In rows that are apart, the station gets its own row after all others.
    num_rows = batch_size * (1 if apart is None else 2)
    line = packets.row if apart is None else packets.row + batch_size * (apart[packets.row] & packets.from_station)
    timeline = torch.zeros(num_rows * num_us + 1, _SAMPLES_PER_US, dtype=torch.complex64, device=device)
    energy, used, data = torch.zeros(3, batch_size, device=device)  # resource elements in use, and their power
    # One call encodes all packets of a mode; one or two encode all preambles.
    for blocks, packet, number, num_carriers in _blocks(packets):
        # Microseconds outside the timeline go to one place after its end.
        place = (packets.start_us[packet] + SYMBOL_US * number)[:, None] + torch.arange(SYMBOL_US, device=device)
        inside = (place >= 0) & (place < num_us)
        place = torch.where(inside, line[packet, None] * num_us + place, len(timeline) - 1)
        timeline.index_copy_(0, place.flatten(), _block_samples(blocks).view(-1, _SAMPLES_PER_US))
        share, row = inside.float().mean(1), packets.row[packet]
        power = torch.linalg.vector_norm(torch.view_as_real(blocks), dim=(1, 2)).square()
        energy.index_add_(0, row, share * power)
        used.index_add_(0, row, share * (blocks != 0).sum(1))
        data.index_add_(0, row, share * (packets.is_data & ~packets.from_station)[packet] * num_carriers)

    all_elements = num_us / SYMBOL_US * _WIDTH
    samples = timeline[:-1].view(num_rows, -1)[:, skipped : skipped + num_samples]
    of_mode = torch.tensor(
        [(float(mode.code_rate), mode.rate_mbps, newer, MODULATIONS.index(mode.modulation)) for newer, mode in MODES],
        device=device,
    )[links.mode].T
    high_throughput = of_mode[2] > 0
    first = _SAMPLES_PER_US * exchanges.start_us - skipped
    after = first + _SAMPLES_PER_US * SYMBOL_US * exchanges.blocks
    num_whole = (heard & (first >= 0) & (after <= num_samples)).sum(1)
    return Waveform(
        samples=samples[:batch_size],
        numerology=NUMEROLOGY,
        element_power=torch.where(used > 0, energy / used.clamp(min=1e-9), 1.0),
        symbol_start=_symbol_starts(exchanges, heard, num_us) - skipped,
        occupancy=used / all_elements,
        data_share=data / all_elements,
        modulation=of_mode[3].long(),
        code_rate=of_mode[0],
        parameters={
            "rate_mbps": of_mode[1],
            "high_throughput": high_throughput.long(),
            # For 802.11a/g, the index of the rate among its eight.
            "mcs": torch.where(high_throughput, links.mode - len(LEGACY_MODES), links.mode),
            # Complete packets, which a receiver can find.
            "num_data_packets": num_whole[:, 0],
            "num_acks": num_whole[:, 1],
        },
        answers=None if apart is None else samples[batch_size:],
    )


@dataclass
class _Packets:
    """Packets within the timeline, in the order of `_KINDS`: data by mode, then acknowledgments by rate.

    Attributes:
        counts (`list[int]`): Number of packets of each of `_KINDS`.
        kind (`torch.Tensor` of shape `(num_packets,)`): Index into `_KINDS`.
        row (`torch.Tensor` of shape `(num_packets,)`): Row of the batch.
        start_us (`torch.Tensor` of shape `(num_packets,)`): Start [µs].
        num_symbols (`torch.Tensor` of shape `(num_packets,)`): OFDM symbols of data.
        psdu (`torch.Tensor` of shape `(num_packets, width)`, uint8): MAC frames, zero after the end of each.
        num_bytes (`torch.Tensor` of shape `(num_packets,)`): Their lengths.
        scrambler_state (`torch.Tensor` of shape `(num_packets,)`): 1 to 127.
        from_station (`torch.Tensor` of shape `(num_packets,)`, bool): Whether the station sends it, not the access
            point.
    """

    counts: list[int]
    kind: torch.Tensor
    row: torch.Tensor
    start_us: torch.Tensor
    num_symbols: torch.Tensor
    psdu: torch.Tensor
    num_bytes: torch.Tensor
    scrambler_state: torch.Tensor
    from_station: torch.Tensor

    @cached_property
    def is_data(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(num_packets,)`, bool: Whether it is not an acknowledgment."""
        return self.kind < len(MODES)


def _draw_packets(
    links: wifi_traffic.Links, exchanges: wifi_traffic.Exchanges, heard: torch.Tensor, generator: torch.Generator
) -> _Packets:
    """Draw sender, receiver and content of the packets `(batch, num_exchanges, 2)` that are `heard`."""
    device, batch_size = heard.device, len(heard)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device, dtype=dtype)

    # Within a kind, sort by length, too.
    num_lengths = len(links.lengths)
    data_order = links.mode[:, None] * num_lengths + exchanges.length
    ack_order = ((len(MODES) + links.ack) * num_lengths)[:, None].expand_as(data_order)
    packets = heard.flatten().nonzero()[:, 0]
    order, places = torch.stack([data_order, ack_order], -1).flatten()[packets].sort(stable=True)
    packets = packets[places]
    kind = order // num_lengths
    counts = torch.bincount(kind, minlength=len(_KINDS)).tolist()
    num_legacy, num_data = sum(counts[: len(LEGACY_MODES)]), sum(counts[: len(MODES)])
    row, exchange = packets // heard[0].numel(), packets % heard[0].numel() // 2

    addresses = integers(0, 256, batch_size, 2, 6, dtype=torch.uint8)
    addresses[..., 0] = addresses[..., 0] & 0xFC | 0x02  # individual and locally administered (IEEE 802, 8.2)
    upward = exchanges.upward[row, exchange]
    downlink = torch.where((links.ack >= 0)[:, None], addresses[:, 0], 0xFF)[row]
    transmitter = torch.where(upward[:, None], addresses[row, 0], addresses[row, 1])
    receiver = torch.where(upward[:, None], addresses[row, 1], downlink)
    # Each end counts its own frames; the station's numbers start half the range away.
    number = torch.where(exchanges.upward, exchanges.upward.cumsum(1) + 2047, (~exchanges.upward).cumsum(1) - 1)
    sequence = integers(0, 4096, batch_size)[row] + number[row, exchange]
    reserved_us = exchanges.reserved_us[row, exchange]
    state = integers(1, 128, len(packets))

    body_bytes = torch.tensor(links.lengths, device=device)[order[:num_data] % num_lengths]
    # Draw eight octets at a time, since the number of draws determines the time.
    words, longest = (body_bytes + 7) // 8, max(links.lengths)
    octets = integers(-(2**63), 2**63 - 1, int(words.sum()))
    octets = torch.nn.functional.pad(octets, (0, -(-longest // 8))).view(torch.uint8)
    body = slices(octets[None], 8 * (words.cumsum(0) - words)[None], longest)[0]
    body *= torch.arange(longest, device=device) < body_bytes[:, None]
    fields, width = (
        (receiver, transmitter, sequence, reserved_us, body, upward),
        longest + wifi_frames.overhead_bytes(True),
    )
    frames, num_bytes = [], []
    for part, newer in ((slice(num_legacy), False), (slice(num_legacy, num_data), True)):
        *frame, towards = (field[:num_data][part] for field in fields)
        frames.append(wifi_frames.data_frame(*frame, newer, body_bytes[part], towards))
        num_bytes.append(body_bytes[part] + wifi_frames.overhead_bytes(newer))
    frames.append(wifi_frames.ack_frame(transmitter[num_data:]))
    num_bytes.append(torch.full_like(row[num_data:], wifi_frames.ACK_BYTES))
    preamble = torch.full_like(row, preamble_blocks(False))
    preamble[num_legacy:num_data] = preamble_blocks(True)
    return _Packets(
        counts=counts,
        kind=kind,
        row=row,
        start_us=exchanges.start_us.flatten()[packets],
        num_symbols=exchanges.blocks.flatten()[packets] - preamble,
        psdu=torch.cat([torch.nn.functional.pad(frame, (0, width - frame.shape[1])) for frame in frames]),
        num_bytes=torch.cat(num_bytes),
        scrambler_state=state,
        from_station=exchanges.from_station.flatten()[packets],
    )


def _blocks(packets: _Packets) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
    """Yield parts of packets as blocks of 80 samples.

    Yields:
        `tuple`: The blocks, `(num_blocks, 56)`; the packet of each and its number within that packet, both
        `(num_blocks,)`; and the number of subcarriers that carry data.
    """
    counts, kind = packets.counts, packets.kind
    everyone = torch.arange(len(kind), device=kind.device)
    newer = everyone[sum(counts[: len(LEGACY_MODES)]) : sum(counts[: len(MODES)])]

    def preambles(blocks: torch.Tensor, packet: torch.Tensor, first: int) -> tuple:
        each = blocks.shape[1]
        number = first + torch.arange(each, device=packet.device).repeat(len(packet))
        return blocks.flatten(0, 1), packet.repeat_interleave(each), number, 0

    # The legacy preamble of 802.11n packets announces 6 Mbit/s.
    rate = table_on(everyone.device, _legacy_rates)[kind]
    length = packets.num_bytes.index_copy(0, newer, _announced_bytes(packets.num_symbols[newer]))
    if len(everyone):
        yield preambles(_legacy_preamble(rate, length), everyone, 0)
    if len(newer):
        mcs = kind[newer] - len(LEGACY_MODES)
        yield preambles(_ht_preamble(mcs, packets.num_bytes[newer]), newer, preamble_blocks(False))
    end = 0
    for (high_throughput, mode), count in zip(_KINDS, counts, strict=True):
        here, end = slice(end, end + count), end + count
        if count:
            points, packet, number = data_symbols(
                packets.psdu[here], packets.num_bytes[here], mode, packets.scrambler_state[here]
            )
            blocks = _symbols(points, number + (3 if high_throughput else 1))
            yield blocks, packet + here.start, number + preamble_blocks(high_throughput), mode.num_carriers


@cache
def _legacy_rates() -> torch.Tensor:
    """For each of `_KINDS`, the index into `LEGACY_MODES` of the rate that its first preamble announces."""
    basic = [list(LEGACY_MODES).index(rate_mbps) for rate_mbps in BASIC_RATES]
    return torch.tensor([*range(len(LEGACY_MODES)), *[0] * len(HT_MODES), *basic])


def _symbol_starts(exchanges: wifi_traffic.Exchanges, heard: torch.Tensor, num_us: int) -> torch.Tensor:
    """First useful sample of each OFDM symbol within the timeline, in order of time, `(batch, num_symbols)`."""
    device = heard.device
    # Blocks `first` to `last` of a packet overlap the timeline; in the row they follow those of earlier packets.
    start, blocks = (value.flatten(1) for value in (exchanges.start_us, exchanges.blocks))
    first = (-start // SYMBOL_US).clamp(min=0)
    last = torch.minimum(blocks, -((start - num_us) // SYMBOL_US))
    count = torch.where(heard.flatten(1), last - first, 0)
    column = count.cumsum(1) - count
    width = int(count.sum(1).max())
    packet = torch.repeat_interleave(count.flatten())
    within = torch.arange(len(packet), device=device) - (count.flatten().cumsum(0) - count.flatten())[packet]
    number = within + first.flatten()[packet]
    prefix = torch.where(number == _LTF_BLOCK, 2 * _PREFIX, _PREFIX)
    starts = torch.full((len(heard), width), _SAMPLES_PER_US * (num_us + 1), device=device)
    place = (packet // start.shape[1], column.flatten()[packet] + within)
    starts[place] = _SAMPLES_PER_US * start.flatten()[packet] + SYMBOL_SAMPLES * number + prefix
    return starts

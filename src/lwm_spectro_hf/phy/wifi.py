"""WiFi waveforms over 20 MHz: packets of IEEE 802.11a/g (clause 17) and 802.11n (clause 19), and exchanges of them.

Packets are true PPDUs, from preamble and SIGNAL to coded MAC frames with their check sequence. Of 802.11n: the
HT-mixed format, one spatial stream, long guard interval, binary convolutional coding, one frame a packet.
"""

from functools import cache, lru_cache

import torch

from . import wifi_frames, wifi_traffic
from .ofdm import Numerology, symbols_to_samples
from .waveform import Waveform
from .wifi_coding import HT_MODES, LEGACY_MODES, crc, data_field, encode, scrambling_sequence
from .wifi_traffic import BASIC_RATES, MODES, MODULATIONS, SYMBOL_US

__all__ = ["MODULATIONS", "NUMEROLOGY", "OCCUPIED_HZ", "draw", "ht_ppdu", "packet_samples", "ppdu"]

NUMEROLOGY = Numerology(sampling_rate=20e6, subcarrier_spacing_hz=312_500.0, fft_size=64, dc_used=False)
OCCUPIED_HZ = 57 * NUMEROLOGY.subcarrier_spacing_hz
SYMBOL_SAMPLES = 80  # 64 and a prefix of 16
_SAMPLES_PER_US = 20
_PREFIX = 16
_LEGACY, _HT = 52, 56  # occupied subcarriers of 802.11a/g and 802.11n
_WIDTH = _HT
_HT_SCALE = (_LEGACY / _HT) ** 0.5  # the same transmit power over more subcarriers
_MAX_SYMBOLS = 4095 // 3 + 1  # after L-SIG, as many as its LENGTH can announce
_SIGNAL_MODE = LEGACY_MODES[6]
_LTF_BLOCK = 2  # the first of the two, in the blocks of a packet

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
def _carriers(num_carriers: int) -> tuple[list[tuple[int, int]], list[int]]:
    """First and last place (exclusive) of each run of data subcarriers among the 56, and the places of the pilots."""
    places = {value: place for place, value in enumerate(NUMEROLOGY.bins(_WIDTH).tolist())}
    edge = (_WIDTH - num_carriers - len(_PILOTS)) // 2
    pilots = [places[pilot] for pilot in _PILOTS]
    return list(zip([edge, *(place + 1 for place in pilots)], [*pilots, _WIDTH - edge], strict=True)), pilots


def _symbols(points: torch.Tensor, first_polarity: int, preamble: torch.Tensor | None = None) -> torch.Tensor:
    """Points of the data subcarriers to OFDM symbols with pilots (17.3.5.9), behind a preamble where there is one.

    Args:
        points (`torch.Tensor` of shape `(batch, num_symbols, num_carriers)`): In 48 or 52 data subcarriers.
        first_polarity (`int`): Pilot polarity of the first symbol.
        preamble (`torch.Tensor` of shape `(num_blocks, 56)`, *optional*): The same for all.

    Returns:
        `torch.Tensor` of shape `(batch, num_blocks + num_symbols, 56)`.
    """
    num_symbols, num_carriers = points.shape[1:]
    start = 0 if preamble is None else len(preamble)
    packets = points.new_zeros(len(points), start + num_symbols, _WIDTH)
    if preamble is not None:
        packets[:, :start] = preamble.to(points.device)
    grid = packets[:, start:]
    runs, places = _carriers(num_carriers)
    at = 0
    for first, last in runs:
        grid[..., first:last] = points[..., at : at + last - first]
        at += last - first
    values = _pilots(num_carriers, first_polarity).to(points)
    values = values.repeat(-(-num_symbols // len(values)), 1)[:num_symbols]
    for place, value in zip(places, values.T, strict=True):
        grid[..., place] = value
    if num_carriers + len(_PILOTS) == _HT:
        grid *= _HT_SCALE
    return packets


@lru_cache(maxsize=4096)  # the packets of all draws share some thousand lengths
def _legacy_preamble(rate_mbps: int, length: int) -> torch.Tensor:
    """L-STF, L-LTF and SIGNAL, shape `(5, 56)`; the same blocks begin both kinds of packets."""
    # The two useful symbols of the L-LTF share one prefix of 32. As blocks of 80 with a prefix of 16, the first one is
    # the symbol a quarter later: a phase on each subcarrier.
    late = long_training_field() * (-1j) ** (NUMEROLOGY.bins(_WIDTH) % 4)
    training = [short_training_field()] * 2 + [late, long_training_field()]
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
    preamble = _legacy_preamble(rate_mbps, psdu.shape[1])
    return _symbols(data_field(psdu, LEGACY_MODES[rate_mbps], scrambler_state), 1, preamble)


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
    return _symbols(data_field(psdu, HT_MODES[mcs], scrambler_state), 3, _ht_preamble(mcs, psdu.shape[1]))


def packet_samples(grid: torch.Tensor) -> torch.Tensor:
    """Samples of packets from [`ppdu`] or [`ht_ppdu`] at 20 Msps, unit power on each subcarrier of 802.11a/g.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): Packets.

    Returns:
        `torch.Tensor` of shape `(batch, 80 * num_blocks)`, complex64.
    """
    useful = symbols_to_samples(grid, NUMEROLOGY)
    return torch.cat([useful[..., -_PREFIX:], useful], -1).flatten(1)


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
) -> Waveform:
    """Draw exchanges: data packets, SIFS, acknowledgements, back-off and idle time, each row with its own traffic.

    Every packet is whole, with random payload and scrambler state, and sequence numbers that count up.

    Args:
        batch_size (`int`): Rows.
        num_samples (`int`): Length of the timeline at 20 Msps.
        generator (`torch.Generator`): Source of randomness.
        modulation (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Index into `MODULATIONS`.
        code_rate (`torch.Tensor` of shape `(batch,)`, *optional*): Target; the nearest of the modulation is taken.
        full (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows where packets follow each other as closely
            as may be, of any length, long ones more often.
        high_throughput (`float`, *optional*, defaults to 0.4): Share of links of 802.11n, where that has the mode.
        aligned (`bool`, *optional*, defaults to `False`): Start and end between packets instead of anywhere, as long
            as one fits, with frame bodies of at most 1,500 bytes, which readers of files take for the largest, and of
            about 1,000 at least where `full`; 16 pad bits and more end each packet.
        apart (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Rows whose acknowledgements are not in `samples`
            but in `answers`.

    Returns:
        [`Waveform`].
    """
    device = generator.device

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device, dtype=dtype)

    # The receiver's samples fall anywhere between the microseconds of the sender. In files they do not fall together:
    # OpenOFDM's decode.py drops packets whose first sample is a multiple of 80.
    skipped = int(integers(int(aligned), _SAMPLES_PER_US, 1))
    num_us = -(-(num_samples + skipped) // _SAMPLES_PER_US)
    links = wifi_traffic.draw_links(batch_size, generator, modulation, code_rate, full, high_throughput, aligned)
    exchanges = wifi_traffic.draw_exchanges(links, num_us, generator)
    heard = (exchanges.blocks > 0) & (exchanges.start_us < num_us)
    heard &= exchanges.start_us + SYMBOL_US * exchanges.blocks > 0

    # One call codes all packets of one mode and length, and one all acknowledgements of a rate.
    num_lengths = len(links.lengths)
    data_kind = links.mode[:, None] * num_lengths + exchanges.length
    ack_kind = (len(MODES) * num_lengths + links.ack)[:, None].expand_as(data_kind)
    packets = heard.flatten().nonzero()[:, 0]
    kind, order = torch.stack([data_kind, ack_kind], -1).flatten()[packets].sort(stable=True)
    packets = packets[order]
    row, exchange = packets // heard[0].numel(), packets % heard[0].numel() // 2
    start_us = exchanges.start_us.flatten()[packets]

    addresses = integers(0, 256, batch_size, 2, 6, dtype=torch.uint8)
    addresses[..., 0] = addresses[..., 0] & 0xFC | 0x02  # of one station, and locally administered (IEEE 802, 8.2)
    transmitter = addresses[row, 1]
    receiver = torch.where((links.ack >= 0)[:, None], addresses[:, 0], 0xFF)[row]
    sequence = integers(0, 4096, batch_size)[row] + exchange
    reserved_us = exchanges.reserved_us[row, exchange]
    state = integers(1, 128, len(packets))

    # Of those rows that are apart, answers have rows of their own behind all others.
    num_rows = batch_size * (1 if apart is None else 2)
    timeline = torch.zeros(num_rows * num_us + 1, _SAMPLES_PER_US, dtype=torch.complex64, device=device)
    energy, used, data = torch.zeros(3, batch_size, device=device)  # resource elements in use, and their power
    end = 0
    for number, count in enumerate(torch.bincount(kind, minlength=len(MODES) * num_lengths + 3).tolist()):
        if not count:
            continue
        here = slice(end, end + count)
        end += count
        which, length = divmod(number, num_lengths)
        if which < len(MODES):
            high_throughput, mode = MODES[which]
            # Drawn eight octets at a time: it is the number of draws that takes the time.
            words = integers(-(2**63), 2**63 - 1, count, -(-links.lengths[length] // 8))
            payload = words.view(torch.uint8)[:, : links.lengths[length]]
            frames = wifi_frames.data_frame(
                receiver[here], transmitter[here], sequence[here], reserved_us[here], payload, high_throughput
            )
        else:
            high_throughput, mode = False, LEGACY_MODES[BASIC_RATES[length]]
            frames = wifi_frames.ack_frame(transmitter[here])
        modulate, name = (ht_ppdu, HT_MODES.index(mode)) if high_throughput else (ppdu, round(mode.rate_mbps))
        grid = modulate(frames, name, state[here])

        # Microseconds that the timeline does not hold go to one place behind it.
        place = start_us[here, None] + torch.arange(SYMBOL_US * grid.shape[1], device=device)
        inside = (place >= 0) & (place < num_us)
        line = row[here]
        if apart is not None and which >= len(MODES):
            line = line + batch_size * apart[line]
        place = torch.where(inside, line[:, None] * num_us + place, len(timeline) - 1)
        timeline.index_copy_(0, place.flatten(), packet_samples(grid).view(-1, _SAMPLES_PER_US))
        share = inside.view(count, -1, SYMBOL_US).float().mean(-1)
        power = torch.linalg.vector_norm(torch.view_as_real(grid), dim=(2, 3)).square()
        energy.index_add_(0, row[here], (share * power).sum(1))
        used.index_add_(0, row[here], share @ (grid[0] != 0).float().sum(1))
        if which < len(MODES):
            symbols = share[:, wifi_traffic.preamble_blocks(high_throughput) :].sum(1)
            data.index_add_(0, row[here], symbols * mode.num_carriers)

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
            # Of 802.11n; the eight rates of 802.11a/g in their order.
            "mcs": torch.where(high_throughput, links.mode - len(LEGACY_MODES), links.mode),
            # That a receiver can find.
            "num_data_packets": num_whole[:, 0],
            "num_acks": num_whole[:, 1],
        },
        answers=None if apart is None else samples[batch_size:],
    )


def _symbol_starts(exchanges: wifi_traffic.Exchanges, heard: torch.Tensor, num_us: int) -> torch.Tensor:
    """First useful sample of each OFDM symbol that can be heard, in the order of time, `(batch, num_symbols)`."""
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

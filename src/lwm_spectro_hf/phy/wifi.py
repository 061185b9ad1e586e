"""WiFi waveforms: IEEE 802.11a/g (clause 17) and 802.11n mixed-format (clause 19) exchanges over 20 MHz.

Preambles, pilots and symbol structure follow the standard; the payload is uncoded random symbols.
"""

import math
from dataclasses import dataclass

import torch

from .ofdm import Numerology, symbols_to_samples
from .sequences import constellation, random_symbols

NUMEROLOGY = Numerology(sampling_rate=20e6, subcarrier_spacing_hz=312_500.0, fft_size=64, dc_used=False)
SYMBOL_SAMPLES = 80  # 64 and a prefix of 16
SIFS_S, SLOT_S = 16e-6, 9e-6
MODULATIONS = ("BPSK", "QPSK", "16QAM", "64QAM")
DATA_BITS_PER_SYMBOL = ((24, 36), (48, 72), (96, 144), (192, 216))  # of each modulation's two rates, table 17-4
_LEGACY, _HT = 52, 56  # occupied subcarriers of 802.11a/g and 802.11n
_WIDTH = _HT
_PREFIX_OFFSET, _LTF_OFFSET = 48, 32  # where in the useful 64 samples an 80-sample block starts to read

# L-STF (eq. 17-6): one subcarrier in four of -24..24; L-LTF (eq. 17-8): all 52 of -26..26, without DC.
_STF_SIGNS = "+-+--+--++++"
_LTF_SIGNS = "++--++-+-++++++--++-+-+++++--++-+-+-----++--+-+-++++"
_PILOTS = (-21, -7, 7, 21)
_PILOT_SIGNS = (1.0, 1.0, 1.0, -1.0)


def _signs(text: str) -> torch.Tensor:
    return torch.tensor([1.0 if sign == "+" else -1.0 for sign in text])


def short_training_field() -> torch.Tensor:
    """Frequency-domain L-STF on the 56 subcarriers -28..28 without DC, shape `(56,)` (IEEE 802.11-2020, eq. 17-6)."""
    bins = NUMEROLOGY.bins(_WIDTH)
    field = torch.zeros(_WIDTH, dtype=torch.complex64)
    occupied = (bins % 4 == 0) & (bins.abs() <= 24)
    field[occupied] = (13 / 6) ** 0.5 * (1 + 1j) * _signs(_STF_SIGNS).to(torch.complex64)
    return field


def long_training_field() -> torch.Tensor:
    """Frequency-domain L-LTF on the 56 subcarriers -28..28 without DC, shape `(56,)` (IEEE 802.11-2020, eq. 17-8)."""
    field = torch.zeros(_WIDTH, dtype=torch.complex64)
    field[2:-2] = _signs(_LTF_SIGNS).to(torch.complex64)
    return field


def pilot_polarity() -> torch.Tensor:
    """The 127 pilot polarities p_n (clause 17.3.5.10): the scrambler x^7 + x^4 + 1 started with ones, as signs."""
    register, signs = [1] * 7, []
    for _ in range(127):
        bit = register[6] ^ register[3]
        register = [bit, *register[:6]]
        signs.append(1.0 - 2.0 * bit)
    return torch.tensor(signs)


@dataclass
class WifiBatch:
    """A batch of WiFi timelines as blocks of 80 samples, before the channel.

    Attributes:
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): Symbols on subcarriers -28..28 without DC.
        read_offset (`torch.Tensor` of shape `(batch, num_blocks)`): First useful sample that a block of 80 reads.
        start (`torch.Tensor` of shape `(batch, num_blocks)`): First sample of the block in the row's timeline; a block
            that lies beyond the timeline is never heard.
        modulation (`torch.Tensor` of shape `(batch,)`): Index into `MODULATIONS` of the data packets.
    """

    grid: torch.Tensor
    read_offset: torch.Tensor
    start: torch.Tensor
    modulation: torch.Tensor


def draw(batch_size: int, num_samples: int, generator: torch.Generator) -> WifiBatch:
    """Draw exchanges: data packets, SIFS, acknowledgements, back-off and idle time, each row with its own traffic.

    Args:
        batch_size (`int`): Rows.
        num_samples (`int`): Length of the timeline at 20 Msps.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        [`WifiBatch`].
    """
    uniform = torch.rand(batch_size, 6, generator=generator).tolist()
    modulation = torch.randint(len(MODULATIONS), (batch_size,), generator=generator)
    max_blocks = num_samples // SYMBOL_SAMPLES + 2
    kinds, starts = [], []
    for row in range(batch_size):
        kind, start = _timeline(num_samples, max_blocks, int(modulation[row]), uniform[row], generator)
        kinds.append(kind)
        starts.append(start)
    kind = torch.nn.utils.rnn.pad_sequence(kinds, batch_first=True, padding_value=_SILENCE)
    start = torch.nn.utils.rnn.pad_sequence(starts, batch_first=True, padding_value=num_samples)
    return WifiBatch(_fill(kind, modulation, generator), _read_offset(kind), start, modulation)


# What a block of 80 samples holds.
_SILENCE, _STF, _LTF1, _LTF2, _SIGNAL, _HT_SIGNAL, _HT_STF, _HT_LTF, _DATA, _HT_DATA, _ACK = range(11)


def _timeline(
    num_samples: int, max_blocks: int, modulation: int, uniform: list[float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kinds and starts of the blocks of one row; it starts anywhere in the row's traffic."""
    # Stations that hold a transmission opportunity (clause 10.23) leave no more than a SIFS between exchanges.
    opportunity = uniform[3] < 0.3
    high_throughput = uniform[0] < 0.4
    acknowledged = uniform[1] < 0.8
    # From a bare header to the largest frame: short and full packets are the common ones.
    typical_bytes = 30 * 76 ** min(1.0, 1.3 * uniform[2])
    bits_per_symbol = DATA_BITS_PER_SYMBOL[modulation][int(2 * uniform[5])]
    typical_symbols = 1 + int(8 * typical_bytes / bits_per_symbol)
    # From saturated, packets a back-off apart, to mostly idle.
    idle_s = 20e-6 * (150 ** (2 * uniform[3] - 1) if uniform[3] > 0.5 else 1.0)
    preamble = [_STF, _STF, _LTF1, _LTF2, _SIGNAL]
    ht_preamble = [*preamble, _HT_SIGNAL, _HT_SIGNAL, _HT_STF, _HT_LTF]
    kinds: list[int] = []
    starts: list[int] = []
    # Begin before the recording, so that it may start in the middle of a packet.
    now = -int(uniform[4] * 80 * (typical_symbols + 5))
    rate = NUMEROLOGY.sampling_rate
    while now < num_samples and len(kinds) < 4 * max_blocks:
        draws = torch.rand(4, generator=generator).tolist()
        num_data = max(1, int(typical_symbols * (1.0 if draws[0] < 0.5 else 2 * draws[0] - 1)))
        head, body = (ht_preamble, _HT_DATA) if high_throughput else (preamble, _DATA)
        packet = head + [body] * num_data
        kinds += packet
        starts += range(now, now + SYMBOL_SAMPLES * len(packet), SYMBOL_SAMPLES)
        now += SYMBOL_SAMPLES * len(packet)
        if acknowledged and draws[1] < 0.95:
            now += round(SIFS_S * rate)
            packet = preamble + [_ACK] * (1 + int(uniform[5] * 6))
            kinds += packet
            starts += range(now, now + SYMBOL_SAMPLES * len(packet), SYMBOL_SAMPLES)
            now += SYMBOL_SAMPLES * len(packet)
        pause_s = SIFS_S
        if not opportunity:
            pause_s += (2 + int(15 * draws[2])) * SLOT_S - idle_s * math.log(1 - draws[3])
        now += round(pause_s * rate)
    kind, start = torch.tensor(kinds), torch.tensor(starts)
    heard = (start > -SYMBOL_SAMPLES) & (start < num_samples)
    return kind[heard], start[heard]


def _read_offset(kind: torch.Tensor) -> torch.Tensor:
    # The L-LTF has one prefix of 32 before its two useful symbols; every other block has 16 of its own.
    return torch.where(kind == _LTF1, _LTF_OFFSET, _PREFIX_OFFSET)


def _fill(kind: torch.Tensor, modulation: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Frequency-domain symbols of every block."""
    batch_size, num_blocks = kind.shape
    shape = (num_blocks, _WIDTH)
    points = [constellation(name) for name in MODULATIONS]
    data = random_symbols(points, modulation, shape, generator)
    # BPSK in WiFi is on the real axis (17.3.5.8), not the diagonal of 3GPP.
    bpsk = random_symbols(
        [torch.tensor([1.0, -1.0], dtype=torch.complex64)], torch.zeros(batch_size).long(), shape, generator
    )
    data = torch.where((modulation == 0)[:, None, None], bpsk, data)
    bins = NUMEROLOGY.bins(_WIDTH)
    legacy = (bins.abs() <= _LEGACY // 2).to(torch.complex64)
    polarity = pilot_polarity()[torch.arange(num_blocks) % 127]
    pilots = torch.tensor([bins.tolist().index(pilot) for pilot in _PILOTS])
    pilot_values = polarity[:, None] * torch.tensor(_PILOT_SIGNS)

    def with_pilots(symbols: torch.Tensor) -> torch.Tensor:
        symbols = symbols.clone()
        symbols[..., pilots] = pilot_values.to(symbols.dtype)
        return symbols

    ht_scale = (_LEGACY / _HT) ** 0.5  # the same transmit power over more subcarriers
    fields = {
        _STF: short_training_field(),
        _LTF1: long_training_field(),
        _LTF2: long_training_field(),
        _SIGNAL: with_pilots(bpsk) * legacy,
        _HT_SIGNAL: with_pilots(1j * bpsk) * legacy,
        _HT_STF: short_training_field(),
        _HT_LTF: ht_scale * torch.where(legacy.real > 0, long_training_field(), torch.ones(())),
        _DATA: with_pilots(data) * legacy,
        _HT_DATA: ht_scale * with_pilots(data),
        _ACK: with_pilots(bpsk) * legacy,
    }
    grid = torch.zeros(batch_size, *shape, dtype=torch.complex64)
    for code, values in fields.items():
        grid = torch.where((kind == code)[..., None], values, grid)
    return grid


def assemble(batch: WifiBatch, grid: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Blocks to samples: inverse DFT, prefix, and each block at its place in the row's timeline.

    Args:
        batch ([`WifiBatch`]): The timelines.
        grid (`torch.Tensor` of shape `(batch, num_blocks, 56)`): The symbols, after the channel.
        num_samples (`int`): Length of the result at 20 Msps.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    useful = symbols_to_samples(grid, NUMEROLOGY)
    within = torch.arange(SYMBOL_SAMPLES)
    blocks = useful.gather(-1, (batch.read_offset[..., None] + within) % NUMEROLOGY.fft_size)
    place = (batch.start[..., None] + within).flatten(1)
    samples = torch.zeros(len(grid), num_samples + 2 * SYMBOL_SAMPLES, dtype=torch.complex64)
    samples.scatter_(1, (place + SYMBOL_SAMPLES).clamp(0, samples.shape[1] - 1), blocks.flatten(1))
    return samples[:, SYMBOL_SAMPLES : SYMBOL_SAMPLES + num_samples]

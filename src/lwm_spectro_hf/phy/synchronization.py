"""The compensated receiver of the paper's Fig. 1: frames are OFDM symbols, corrected for timing and carrier offset.

Only the standard of the transmitter is known. The receiver uses the cyclic prefix, which is repeated one useful symbol
later (van de Beek, Sandell, Börjesson, "ML Estimation of Time and Frequency Offset in OFDM Systems", 1997).

A frame of the result is one useful symbol, so the front-end computes one DFT of each:

```python
>>> recording = open_recording("cell.sigmf-meta")  # LTE at 1.92 Msps: 128 samples a symbol
>>> iq = torch.from_numpy(recording.read())[None]
>>> synchronized = synchronize(iq, recording.sampling_rate, 15e3)
>>> extractor = SpectrogramFeatureExtractor(fft_size=128, hop_length=128)
>>> inputs = extractor(synchronized.iq, return_tensors="pt")  # (1, channels, 128 frames, 128 bins)
```
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .ofdm import Numerology, cyclic_prefix_3gpp, squared_modulus

SPACINGS_3GPP_HZ = (15e3, 30e3, 60e3, 120e3)
SPACING_WIFI_HZ = 312_500.0
MAX_CLOCK_ERROR = 40e-6  # largest clock error of a cheap receiver

# WiFi bursts, on a raster of symbols [symbols of 4 us]. The shortest packet, an acknowledgment, lasts 28 us; the
# shortest gap is SIFS, 16 us, which contains at least three whole symbols of the raster.
_SHORTEST_BURST = 5
# A burst exceeds the quietest 2 % of the raster by this factor in power. In noise alone these are 15 % below the mean.
_BURST_POWER = 1.5
# It also exceeds this fraction of the loudest symbol of the recording, for recordings without noise.
_FAINTEST_BURST = 1e-4
_FIELD_PERIOD_S = 0.8e-6  # of the short training field, which has ten
_TRAINING_COHERENCE = 0.6  # least coherence of two periods of the short training field: it is S / (S + N)
# Answers: the longest, a block acknowledgment at 6 Mbit/s, fills 17 symbols and part of another. SIFS leaves at least
# three free, and DIFS, after which any station may send, seven. The edge of a faint burst may be off by one symbol.
_LONGEST_ANSWER = 18
_SIFS_SYMBOLS = (2, 5)
# Stations: how many are distinguished. Their carriers turn in each symbol by angles that differ by more than so many
# standard errors and the drift of one carrier, half a kilohertz [rad]. The clearest of a station must have at most the
# last of these standard errors [rad]; that of noise is 0.3.
_MOST_STATIONS = 4
_CARRIER_ERRORS, _CARRIER_DRIFT, _CLEAR_CARRIER = 3.0, 0.01, 0.2

# Evidence of symbols. From prefixes: the correlation peak at which the evidence is zero, and the slope [nats]. Of 583
# generated recordings of 1, 3 or 20 ms without WiFi's prefixes, 1 % have a peak above 2.5, and 4 % of as many without
# noise; of 254 with them, from 0 dB SNR on, all have. Of 440 of 5 or 20 ms, 98 % of those without a cell's prefixes
# are below 4.5; of those with them, from 0 dB on, all but one are above 5.0.
_WIFI_BLOCK = 25  # symbols that are summed coherently: packets come and go, each with a timing of its own
_WIFI_PEAK, _WIFI_SLOPE = 2.5, 4.0  # relative to the root mean square of noise, averaged over all blocks
_WIFI_POWER = 4  # exponent of that average: a packet counts even if little else is sent
# Width of the bands that are made equally loud, under a tenth of the narrowest search band, and duration of a level.
_LEVEL_HZ, _LEVEL_S = 300e3, 0.2e-3
_FAINTEST_LEVEL = 1e-4  # relative to the loudest: bands below, such as leakage of a loud carrier, stay fainter
_CELL_PEAK, _CELL_SLOPE = 5.0, 2.0  # relative to the median over all timings
# A burst little longer than a symbol leaves most timings empty, so that any peak stands out from their median. Cells
# also have several prefixes in the peak (required from this many periods on), and one above the products' deviation.
# Far above it no peak is a chance result, even of a single prefix: of 108 bursts without prefixes none is there.
_CELL_PREFIXES, _CELL_PREFIXES_SLOPE, _CELL_PERIODS = 3.0, 2.0, 3
_CELL_DEVIATIONS, _CELL_SURE_DEVIATIONS, _CELL_DEVIATIONS_SLOPE = 5.0, 10.0, 4.0
# Extended prefixes are a quarter of a symbol, so that half of all timings overlap with some: relative to noise
# instead. LTE's are above 15, those of idle cells above 8; signals with neither these nor shorter prefixes are all
# below 4.
_EXTENDED_PEAK, _EXTENDED_SLOPE = 8.0, 0.5
# Training fields: the peak of their coherence, relative to its mean in noise. Of 380 generated recordings of 1, 3 or
# 20 ms without packets, all are below 6.7, and 7 % of as many without noise above 7.2; of those with packets, from 5
# dB SNR on, 68, 81 and 90 % are above.
_FIELD_PEAK, _FIELD_SLOPE = 7.2, 3.0
EVIDENCE = (-2.0, 6.0)  # least: there may be symbols that are too weak; most: they may belong to another system


@dataclass
class Synchronized:
    """Frames of a batch of recordings, one useful OFDM symbol each.

    Attributes:
        iq (`torch.Tensor` of shape `(batch, num_frames * fft_size)`): The frames one after the other, complex64.
        fft_size (`int`): Samples of a frame.
        cfo_hz (`torch.Tensor` of shape `(batch, num_frames)`): Carrier offset that was removed from each frame [Hz],
            known up to whole subcarriers: within half a spacing.
        start (`torch.Tensor` of shape `(batch, num_frames)`, int64): First sample of each frame in the recording. It
            lies a third of a cyclic prefix before the useful part.
    """

    iq: torch.Tensor
    fft_size: int
    cfo_hz: torch.Tensor
    start: torch.Tensor


class Station(NamedTuple):
    """The WiFi station that was kept of a recording, or of each in a batch.

    Attributes:
        carrier_hz (`torch.Tensor` of shape `(batch,)`, or `float`): Carrier offset, known up to whole subcarriers; NaN
            if there is no station [Hz].
        airtime_s (`torch.Tensor` of shape `(batch,)`, or `float`): How long it sends [s].
    """

    carrier_hz: torch.Tensor | float
    airtime_s: torch.Tensor | float


@dataclass(frozen=True)
class _Raster:
    """Positions of the symbols of a standard, which repeat with a period.

    Attributes:
        period: [samples].
        is_prefix: `(period,)`: one within a cyclic prefix, zero elsewhere.
        first: `(symbols_per_period,)`: First sample of each symbol's frame.
        prefix: The shortest cyclic prefix [samples].
        fft_size: [samples].
    """

    period: int
    is_prefix: torch.Tensor
    first: torch.Tensor
    prefix: int
    fft_size: int

    def position(self, number: torch.Tensor) -> torch.Tensor:
        """First sample of a frame by its number, which may be negative; frame zero is the first of a period."""
        return number // len(self.first) * self.period + self.first[number % len(self.first)]

    def number_before(self, sample: torch.Tensor) -> torch.Tensor:
        """Number of the first frame that does not start before a sample."""
        earlier = (self.first < (sample % self.period)[..., None]).sum(-1)
        return sample // self.period * len(self.first) + earlier


def symbol_period_s(subcarrier_spacing_hz: float) -> float:
    """Time from one OFDM symbol to the next, averaged over cyclic prefixes of different lengths [s]."""
    if subcarrier_spacing_hz == SPACING_WIFI_HZ:
        return 4e-6  # IEEE 802.11-2020, table 17-5
    return 0.5e-3 / (7 * subcarrier_spacing_hz / 15e3)


def _raster(sampling_rate: float, subcarrier_spacing_hz: float, device: torch.device | None = None) -> _Raster:
    if subcarrier_spacing_hz not in (*SPACINGS_3GPP_HZ, SPACING_WIFI_HZ):
        known = ", ".join(f"{spacing:,.0f}" for spacing in (*SPACINGS_3GPP_HZ, SPACING_WIFI_HZ))
        raise ValueError(
            f"`subcarrier_spacing_hz={subcarrier_spacing_hz!r}` is of no known standard. Expected one of {known}: LTE "
            "has the first, 5G any but the last, 802.11a/g/n the last."
        )
    is_wifi = subcarrier_spacing_hz == SPACING_WIFI_HZ
    # Cyclic prefixes must be whole samples: 144/2048 of a 3GPP symbol, a quarter of a WiFi symbol.
    unit = 4 if is_wifi else 128
    fft_size = round(sampling_rate / subcarrier_spacing_hz)
    if fft_size < unit or fft_size % unit or abs(fft_size * subcarrier_spacing_hz / sampling_rate - 1) > 1e-6:
        raise ValueError(
            f"A sampling rate of {sampling_rate:,.0f} Hz is {sampling_rate / subcarrier_spacing_hz:g} subcarrier "
            f"spacings of {subcarrier_spacing_hz:,.0f} Hz. Expected a multiple of {unit}: resample the recording to a "
            f"multiple of {unit * subcarrier_spacing_hz:,.0f} Hz."
        )
    if is_wifi:  # IEEE 802.11-2020, table 17-5
        prefixes = torch.tensor([fft_size // 4])
    else:  # over half a millisecond, after which the prefixes repeat
        numerology = Numerology(fft_size * subcarrier_spacing_hz, subcarrier_spacing_hz, fft_size, dc_used=True)
        prefixes = cyclic_prefix_3gpp(numerology, 7 * round(subcarrier_spacing_hz / 15e3))
    ends = torch.cumsum(prefixes + fft_size, 0)
    period, prefix = int(ends[-1]), int(prefixes.min())
    useful = ends - fft_size
    number = torch.searchsorted(ends, torch.arange(period), right=True)
    is_prefix = torch.arange(period) < useful[number]
    # The timing estimate is late by the median of the power-delay profile. Frames start earlier, so that the next
    # symbol does not reach into them: a quarter of a prefix minimizes interference in exponential channels, a half
    # with two equal paths. This adds a phase that is linear in frequency, which a power spectrogram does not show.
    first = useful - prefix // 3
    return _Raster(period, is_prefix.float().to(device), first.to(device), prefix, fft_size)


def _num_segments(raster: _Raster, num_samples: int) -> int:
    """Number of parts of a recording within each of which clocks drift by less than an eighth of a prefix."""
    return 1 + int(8 * MAX_CLOCK_ERROR * num_samples / raster.prefix)


def required_samples(
    sampling_rate: float, subcarrier_spacing_hz: float, num_frames: int = 128, symbol_step: int = 1
) -> int:
    """Length of a recording from which [`synchronize`] can take its frames, wherever the first symbol starts.

    Args:
        sampling_rate (`float`): [Hz].
        subcarrier_spacing_hz (`float`): 15e3, 30e3, 60e3 or 120e3 for LTE and 5G, 312.5e3 for WiFi [Hz].
        num_frames (`int`, *optional*, defaults to 128): Frames.
        symbol_step (`int`, *optional*, defaults to 1): Symbols from one frame to the next.

    Returns:
        `int`: [samples].

    Raises:
        ValueError: For another spacing, or a sampling rate that does not fit it.
    """
    return _required(_raster(sampling_rate, subcarrier_spacing_hz), num_frames, symbol_step)


def _required(raster: _Raster, num_frames: int, symbol_step: int) -> int:
    for name, value in (("num_frames", num_frames), ("symbol_step", symbol_step)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}={value!r}` is out of range. Expected an integer of at least 1.")
    # In the worst case, the recording starts just after the first sample of a symbol.
    before = torch.arange(len(raster.first), device=raster.first.device)
    last = before + 1 + (num_frames - 1) * symbol_step
    longest = int((raster.position(last) - raster.position(before)).max()) - 1 + raster.fft_size
    drifts = _num_segments(raster, longest) > 1
    return longest + drifts * (2 + int(2 * MAX_CLOCK_ERROR * longest))


def synchronize(
    iq: torch.Tensor,
    sampling_rate: float,
    subcarrier_spacing_hz: float,
    *,
    num_frames: int = 128,
    symbol_step: int = 1,
) -> Synchronized:
    """Find symbol timing and carrier offset from the cyclic prefixes, and cut one frame out of each symbol.

    LTE and 5G: one timing and offset per recording; drift of the sample clock is followed where it matters.
    WiFi: both anew for each burst, since packets start anywhere and come from different stations. Bursts are found by
    their power and by the short training field. Between them the raster of 4 us continues. If none stands out of the
    noise, the whole recording is treated as one burst.

    Timing and offset are estimated from the first [`required_samples`] of a recording; the rest is ignored.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings, complex.
        sampling_rate (`float`): A whole multiple of the spacing; their ratio is the size of a frame [Hz].
        subcarrier_spacing_hz (`float`): 15e3, 30e3, 60e3 or 120e3 for LTE and 5G with normal cyclic prefix, 312.5e3
            for WiFi (802.11a/g/n with long guard interval) [Hz].
        num_frames (`int`, *optional*, defaults to 128): Frames of the result.
        symbol_step (`int`, *optional*, defaults to 1): Symbols from one frame to the next.

    Returns:
        [`Synchronized`]

    Raises:
        ValueError: If samples are not finite, not complex, too few, or their rate does not fit the spacing.
    """
    if iq.ndim != 2 or not iq.is_complex():
        raise ValueError(
            f"The recordings have shape {tuple(iq.shape)} and type {iq.dtype}. Expected complex samples of shape "
            "(batch, num_samples)."
        )
    raster = _raster(sampling_rate, subcarrier_spacing_hz, iq.device)
    needed = _required(raster, num_frames, symbol_step)
    if iq.shape[1] < needed:
        raise ValueError(
            f"The recordings have {iq.shape[1]} samples. Expected at least {needed} for {num_frames} frames, one "
            f"every {symbol_step} symbol(s): record longer, or ask for fewer frames."
        )
    iq = iq[:, :needed].to(torch.complex64)
    # One bad sample spoils the sum, which is far cheaper than checking each. The sum may also overflow by itself.
    if not torch.isfinite(iq.sum()) and not torch.isfinite(torch.view_as_real(iq)).all():
        raise ValueError("The recordings have samples that are NaN or infinite. Cut them out, or replace them by 0.")

    fft_size = raster.fft_size
    repeats = iq[:, :-fft_size].conj() * iq[:, fft_size:]
    if subcarrier_spacing_hz == SPACING_WIFI_HZ:
        begin, end = _bursts(iq, raster)
        region, phasor, origin = _burst_timing(repeats, begin, end, raster)
        drift = torch.zeros_like(phasor[:, 0].real)
    else:
        phasor, origin, drift = _cell_timing(repeats, raster)
        region = torch.zeros_like(origin)
    which, start = _frame_starts(region, origin, raster, num_frames, symbol_step)
    start += (drift[:, None] * start).round().long()

    cycles = phasor.angle() / (2 * torch.pi)  # turns of the carrier per symbol
    row = torch.arange(len(iq), device=iq.device)[:, None]
    frames = iq.unfold(1, fft_size, 1)[row, start]
    frames *= _turn(-cycles[..., None] * torch.arange(fft_size, device=iq.device) / fft_size)[row, which]
    cycles = cycles.gather(1, which)
    frames *= _turn(-cycles * start / fft_size)[..., None]
    return Synchronized(frames.flatten(1), fft_size, cycles * subcarrier_spacing_hz, start)


def symbol_evidence(iq: torch.Tensor, sampling_rate: float, subcarrier_spacing_hz: float) -> torch.Tensor:
    """Evidence of symbols of a standard, from their cyclic prefixes or, for WiFi, also from how packets begin.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings, complex, without a constant offset; for WiFi
            from [`equally_loud`]: a packet fills its channel, while a narrower carrier repeats itself more than noise
            does.
        sampling_rate (`float`): As in [`synchronize`] [Hz].
        subcarrier_spacing_hz (`float`): As in [`synchronize`] [Hz].

    Returns:
        `torch.Tensor` of shape `(batch,)`: Log-likelihood ratio of the recording with such symbols to the one without,
        between -2 and 6; 0 if it is too short to tell.

    Raises:
        ValueError: If the rate does not fit the spacing.
    """
    raster = _raster(sampling_rate, subcarrier_spacing_hz, iq.device)
    is_wifi = subcarrier_spacing_hz == SPACING_WIFI_HZ
    repeats = iq[:, : -raster.fft_size].conj() * iq[:, raster.fft_size :]
    periods = _WIFI_BLOCK if is_wifi else repeats.shape[1] // raster.period
    length = periods * raster.period
    if not length or iq.shape[1] < raster.fft_size + length:
        return torch.zeros(len(iq), device=iq.device)
    blocks = repeats[:, : repeats.shape[1] // length * length].unflatten(1, (-1, periods, raster.period))
    turning = _prefix_correlation(blocks.sum(2), raster)
    correlation = turning.abs()
    if is_wifi:
        variance = _variance(squared_modulus(blocks).sum((2, 3)), raster)
        color = _coloration(iq, length)
        noise = (variance * color[:, : blocks.shape[1]]).sqrt()
        peaks = correlation.amax(2) / noise.clamp(min=1e-30)
        peak, slope = peaks.pow(_WIFI_POWER).mean(1).pow(1 / _WIFI_POWER) - _WIFI_PEAK, _WIFI_SLOPE
    else:
        floor = correlation.median(2).values.clamp(min=1e-30)
        peak, slope = (correlation.amax(2) / floor)[:, 0] - _CELL_PEAK, _CELL_SLOPE
    evidence = (slope * peak).clamp(*EVIDENCE)
    if is_wifi:
        return evidence.maximum(_training_field_evidence(iq, sampling_rate, color, length))
    found = evidence > 0
    if found.any():
        evidence[found] = evidence[found].minimum(_steadiness(iq[found], blocks[found, 0], turning[found, 0], raster))
    return evidence


def _steadiness(iq: torch.Tensor, products: torch.Tensor, correlation: torch.Tensor, raster: _Raster) -> torch.Tensor:
    """Evidence that a peak of the prefix correlation is made by a signal that goes on, and not by a burst.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings.
        products (`torch.Tensor` of shape `(batch, num_periods, period)`): Of each sample with the one a symbol later.
        correlation (`torch.Tensor` of shape `(batch, period)`): From [`_prefix_correlation`], of their sum.
        raster (`_Raster`): The standard.

    Returns:
        `torch.Tensor` of shape `(batch,)`: As of [`symbol_evidence`].
    """
    num_periods, length = products.shape[1], products.shape[1] * raster.period
    peak, timing = correlation.abs().max(1)
    # The color of each period counts as much as its products: that of all of a recording would hide that of a burst.
    color = _coloration(iq, raster.period)[:, :num_periods]
    noise = (_variance(squared_modulus(products).sum(2), raster) * color).sum(1)
    deviations = peak / noise.clamp(min=1e-30).sqrt()
    evidence = _CELL_DEVIATIONS_SLOPE * (deviations - _CELL_DEVIATIONS)
    if num_periods >= _CELL_PERIODS:
        # What each prefix adds to the peak. Of equal shares the squared sum over the sum of squares is their number.
        place = (timing[:, None] + torch.arange(length, device=iq.device)) % length
        phase = correlation.gather(1, timing[:, None]).sgn().conj()
        adds = (products.flatten(1).gather(1, place) * phase).real.unflatten(1, (num_periods, raster.period))
        sums = torch.nn.functional.pad(adds.cumsum(2, dtype=torch.float64), (1, 0))
        edges = torch.nn.functional.pad(raster.is_prefix, (1, 1)).diff()
        shares = (sums[..., edges < 0] - sums[..., edges > 0]).clamp(min=0).flatten(1)
        number = shares.sum(1).square() / shares.square().sum(1).clamp(min=1e-30)
        evidence = evidence.minimum(_CELL_PREFIXES_SLOPE * (number.float() - _CELL_PREFIXES))
    sure = _CELL_DEVIATIONS_SLOPE * (deviations - _CELL_SURE_DEVIATIONS)
    return evidence.maximum(sure).clamp(*EVIDENCE)


def extended_prefix_evidence(iq: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """As [`symbol_evidence`], for LTE symbols with extended cyclic prefix (TS 36.211, table 6.12-1).

    Only meaningful if there are no symbols with normal prefix, which look like extended ones, too.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings, complex, without a constant offset.
        sampling_rate (`float`): A multiple of 128 x 15 kHz [Hz].

    Returns:
        `torch.Tensor` of shape `(batch,)`: Log-likelihood ratio, between -2 and 6; 0 if they are too short to tell.
    """
    fft_size = _raster(sampling_rate, 15e3, iq.device).fft_size
    prefix = fft_size // 4
    is_prefix = (torch.arange(prefix + fft_size, device=iq.device) < prefix).float()
    raster = _Raster(len(is_prefix), is_prefix, torch.tensor([0], device=iq.device), prefix, fft_size)
    repeats = iq[:, :-fft_size].conj() * iq[:, fft_size:]
    length = repeats.shape[1] // raster.period * raster.period
    if not length:
        return torch.zeros(len(iq), device=iq.device)
    correlation = _prefix_correlation(repeats[:, :length].unflatten(1, (-1, raster.period)).sum(1), raster).abs()
    noise = _variance(squared_modulus(repeats[:, :length]).sum(1), raster) * _coloration(iq, length)[:, 0]
    peak = correlation.amax(1) / noise.clamp(min=1e-30).sqrt()
    return (_EXTENDED_SLOPE * (peak - _EXTENDED_PEAK)).clamp(*EVIDENCE)


def _coloration(iq: torch.Tensor, length: int) -> torch.Tensor:
    """Factor by which color raises the mean square correlation of noise: `(batch, num_blocks)`, in blocks of `length`.

    Products of samples a fixed time apart have the squared autocorrelation of the samples as theirs. Its sum is the
    mean square of the spectrum over its squared mean. The spectrum of one block fluctuates, which doubles this ratio.
    """
    blocks = iq[:, : iq.shape[1] // length * length].unflatten(1, (-1, length))
    spectrum = squared_modulus(torch.fft.fft(blocks))
    return (spectrum.square().mean(-1) / spectrum.mean(-1).square().clamp(min=1e-30) / 2).clamp(min=1)


def _training_field_evidence(iq: torch.Tensor, sampling_rate: float, color: torch.Tensor, block: int) -> torch.Tensor:
    """As [`symbol_evidence`], from the short training fields at the start of packets (IEEE 802.11-2020, 17.3.3).

    These are the same in all OFDM packets, from 802.11a to 802.11ax, and in each 20 MHz of a wider channel, whose
    symbols and prefixes are of many kinds.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings from [`equally_loud`], of 30 us or more.
        sampling_rate (`float`): A multiple of 1.25 MHz; below 10 MHz no field is long enough to be sure [Hz].
        color (`torch.Tensor` of shape `(batch, num_blocks)`): From [`_coloration`].
        block (`int`): Samples of each of its blocks, many times a field.
    """
    period = round(_FIELD_PERIOD_S * sampling_rate)
    num_periods, repeated = iq.shape[1] // period, 9  # the last of the ten has no successor
    apart = repeated + 3
    periods = iq[:, : num_periods * period].unflatten(1, (num_periods, period))
    products = (periods[:, :-1].conj() * periods[:, 1:]).sum(2)
    power = squared_modulus(periods).sum(2)
    of_periods = torch.stack([products.real, products.imag, (power[:, :-1] + power[:, 1:]) / 2], dim=1)
    real, imaginary, power = torch.nn.functional.avg_pool1d(of_periods, repeated, stride=1).unbind(1)
    coherence = torch.hypot(real, imaginary) / power.clamp(min=1e-30)
    # Narrowband signals and tones are coherent, too, but for longer than a field.
    around = torch.maximum(coherence[:, : -2 * apart], coherence[:, 2 * apart :])
    # Signals with few subcarriers at a time have fewer independent samples, too.
    places = torch.arange(apart, apart + around.shape[1], device=iq.device)
    which = (places * period // block).clamp(max=color.shape[1] - 1)
    rise = (coherence[:, apart:-apart] - around) / color[:, which].sqrt()
    peak = rise.amax(1) * (repeated * period) ** 0.5
    return (_FIELD_SLOPE * (peak - _FIELD_PEAK)).clamp(*EVIDENCE)


def equally_loud(iq: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """Recordings `(batch, num_samples)` in which all bands of 300 kHz have the same power in each 0.2 ms.

    Flattening the spectrum of a whole recording would leave what stands out only briefly, a burst in a narrow band.
    Bands more than 40 dB below the loudest stay fainter than the others. A few last samples, fewer than there are
    pieces, are dropped.
    """
    if not iq.shape[1]:
        return iq
    pieces = max(1, int(iq.shape[1] / (_LEVEL_S * sampling_rate)))
    length = iq.shape[1] // pieces
    iq = iq[:, : pieces * length].unflatten(1, (pieces, length))
    width = max(round(_LEVEL_HZ / sampling_rate * length), 1)
    spectrum = torch.fft.fft(iq)
    power = squared_modulus(spectrum)
    level = torch.nn.functional.avg_pool1d(power, width, ceil_mode=True)
    level = level.maximum(_FAINTEST_LEVEL * level.amax((1, 2), keepdim=True)).clamp(min=1e-30)
    return torch.fft.ifft(spectrum * level.rsqrt().repeat_interleave(width, 2)[..., :length]).flatten(1)


def _turn(cycles: torch.Tensor) -> torch.Tensor:
    return torch.polar(torch.ones_like(cycles), 2 * torch.pi * cycles)


def _prefix_correlation(folded: torch.Tensor, raster: _Raster) -> torch.Tensor:
    """Sum over all prefixes of a period, for each sample at which the period may start, `(..., period)`.

    Subtracting the mean of the pattern removes what repeats at any time: a DC offset, a spur, WiFi's training fields.
    """
    pattern = torch.fft.fft(raster.is_prefix - raster.is_prefix.mean())
    return torch.fft.ifft(torch.fft.fft(folded) * pattern.conj())


def _variance(power: torch.Tensor, raster: _Raster) -> torch.Tensor:
    """Mean square of [`_prefix_correlation`] where nothing repeats, from the summed powers of the products."""
    share = raster.is_prefix.mean()
    return share * (1 - share) * power


def _cell_timing(repeats: torch.Tensor, raster: _Raster) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Timing of a continuous signal, with the drift of its clock.

    Args:
        repeats (`torch.Tensor` of shape `(batch, num_samples)`): Product of each sample with the one a symbol later.
        raster (`_Raster`): The standard.

    Returns:
        `tuple`: correlation `(batch, 1)`, whose angle is the carrier's phase advance over a symbol; first sample of a
        period, `(batch, 1)`; and samples that the clock gains per sample, `(batch,)`.
    """
    num_segments = _num_segments(raster, repeats.shape[1])
    length = num_segments * raster.period
    padded = torch.nn.functional.pad(repeats, (0, -repeats.shape[1] % length))
    folded = padded.unflatten(1, (num_segments, -1, raster.period)).sum(2)
    correlation = _prefix_correlation(folded, raster)
    # All segments share one clock: drifts are tried in steps of an eighth of a prefix over the recording.
    drifts = torch.arange(1 - num_segments, num_segments, device=repeats.device) * (raster.prefix / 8)
    middle = (torch.arange(num_segments, device=repeats.device) + 0.5) / num_segments
    shift = (drifts[:, None] * middle).round().long()
    late = (torch.arange(raster.period, device=repeats.device) + shift[..., None]) % raster.period
    segment = torch.arange(num_segments, device=repeats.device)[:, None]
    joint = correlation[:, segment, late].sum(2).flatten(1)
    best = joint.abs().argmax(1, keepdim=True)
    drift = drifts[best[:, 0] // raster.period] / padded.shape[1]
    return joint.gather(1, best), best % raster.period, drift


def _bursts(iq: torch.Tensor, raster: _Raster) -> tuple[torch.Tensor, torch.Tensor]:
    """Find packets by power and by the short training field.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings.
        raster (`_Raster`): The standard.

    Returns:
        `tuple`: first raster symbol, counted from sample zero, that a burst fills, and the one after its last, both
        `(batch, num_bursts)`; rows with fewer bursts have both at the end.
    """
    num_symbols = (iq.shape[1] - raster.fft_size) // raster.period
    symbols = iq[:, : num_symbols * raster.period].unflatten(1, (num_symbols, -1))
    raw = power = squared_modulus(symbols).mean(2)
    # The median of three smooths the level and preserves edges.
    padded = torch.nn.functional.pad(power[:, None], (1, 1), mode="replicate")[:, 0]
    before, after = padded[:, :-2], padded[:, 2:]
    power = torch.maximum(torch.minimum(before, power), torch.minimum(torch.maximum(before, power), after))
    quiet = power.kthvalue(1 + num_symbols // 50, dim=1, keepdim=True).values
    busy = power > torch.maximum(_BURST_POWER * quiet, _FAINTEST_BURST * power.amax(1, keepdim=True))
    # A single quiet symbol does not end a burst, and anything shorter than a packet is not a burst.
    busy = _dilate(~_dilate(~_dilate(busy, 0, 1), _SHORTEST_BURST, 0), 0, _SHORTEST_BURST - 1)

    # The short training field, 8 us of ten periods (17.3.3), separates packets that follow one another without a gap.
    quarter = raster.fft_size // 4
    end = num_symbols * raster.period
    periods = (iq[:, :end].conj() * iq[:, quarter : quarter + end]).unflatten(1, (num_symbols, -1)).mean(2)
    training = busy & (periods.abs() > _TRAINING_COHERENCE * raw)
    outside = busy.new_zeros(len(busy), 1)
    louder = busy & ~torch.cat([outside, busy[:, :-1]], 1)
    starts = training & ~torch.cat([outside, training[:, :-1]], 1)
    # Skip the field that comes with a rise of power, and the one 28 us later in an 802.11n packet (19.3.9.4.5).
    soon = _dilate(louder | starts, 0, 8)
    rises = louder | (starts & ~torch.cat([outside, soon[:, :-1]], 1))
    falls = busy & ~torch.cat([busy[:, 1:] & ~rises[:, 1:], outside], 1)
    number = rises.cumsum(1) - 1
    num_bursts = max(1, int(number[:, -1].max()) + 1)
    symbol = torch.arange(num_symbols, device=iq.device).expand_as(number)
    edges = torch.full((2, len(busy), num_bursts + 1), num_symbols, device=iq.device)
    edges[0].scatter_(1, torch.where(rises, number, num_bursts), symbol)
    edges[1].scatter_(1, torch.where(falls, number, num_bursts), symbol + 1)
    begin, end = edges[..., :num_bursts]
    begin[:, 0] = torch.where(number[:, -1] < 0, 0, begin[:, 0])
    return begin, end


def of_one_station(
    iq: torch.Tensor, sampling_rate: float, before: Station | None = None
) -> tuple[torch.Tensor, Station]:
    """Keep one of several stations that take turns in WiFi recordings: the one with the most airtime.

    Each station has its own channel, power and oscillator. Stations whose carrier offset differs from that of the kept
    station are identified by it. And what follows a packet after a SIFS comes from another station: every second
    packet of an exchange (IEEE 802.11-2020, 10.3.2.3), if it is short, as acknowledgments are. Samples received
    between packets replace all of these. Nothing changes if no packet stands out of the noise.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings, complex64.
        sampling_rate (`float`): As in [`synchronize`] [Hz].
        before ([`Station`], *optional*): Station kept of the recordings that these continue; its airtime counts, too.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64, and the [`Station`] that was kept.

    Raises:
        ValueError: If the rate does not fit WiFi's spacing.
    """
    raster = _raster(sampling_rate, SPACING_WIFI_HZ, iq.device)
    num_symbols = (iq.shape[1] - raster.fft_size) // raster.period
    if before is None:
        before = Station(iq.real.new_full((len(iq),), torch.nan), iq.real.new_zeros(len(iq)))
    if num_symbols < 1:
        return iq, before
    begin, end = _bursts(iq, raster)
    of_other_carriers, station = _of_other_carriers(iq, begin, end, raster, before)
    others = _answers(begin, end) | of_other_carriers

    def covered(which: torch.Tensor) -> torch.Tensor:
        """Mark the symbols that bursts reach into."""
        edges = iq.new_zeros(len(iq), num_symbols + 1, dtype=torch.int32)
        count = which.to(edges.dtype)
        edges.scatter_add_(1, (begin - 1).clamp(0, num_symbols), count)
        edges.scatter_add_(1, (end + 1).clamp(0, num_symbols), -count)
        return edges.cumsum(1)[:, :-1] > 0

    busy = covered(begin < end)
    num_quiet = (~busy).sum(1, keepdim=True)
    quiet = busy.to(torch.uint8).sort(dim=1, stable=True).indices  # these come first
    symbol = torch.arange(num_symbols, device=iq.device)
    source = torch.where(covered(others) & (num_quiet > 0), quiet.gather(1, symbol % num_quiet.clamp(min=1)), symbol)
    symbols, rest = iq.tensor_split([num_symbols * raster.period], dim=1)
    symbols = symbols.unflatten(1, (num_symbols, raster.period))
    symbols = symbols.gather(1, source[..., None].expand_as(symbols))
    return torch.cat([symbols.flatten(1), rest], 1), station


def _answers(begin: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Mark bursts from [`_bursts`] that are short answers after a SIFS, `(batch, num_bursts)`."""
    gap = torch.nn.functional.pad(begin[:, 1:] - end[:, :-1], (1, 0))
    follows = (begin < end) & (gap >= _SIFS_SYMBOLS[0]) & (gap <= _SIFS_SYMBOLS[1])
    number = torch.arange(begin.shape[1], device=begin.device).expand_as(begin)
    opening = torch.where(follows, 0, number).cummax(1).values  # of the exchange
    return ((number - opening) % 2 == 1) & (end - begin <= _LONGEST_ANSWER)


def _of_other_carriers(
    iq: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, raster: _Raster, before: Station
) -> tuple[torch.Tensor, Station]:
    """Mark bursts whose carrier offset is not that of the station with the most airtime, `(batch, num_bursts)`."""
    repeats = iq[:, : -raster.fft_size].conj() * iq[:, raster.fft_size :]
    _, phasor, _ = _burst_timing(repeats, begin, end, raster)
    # Standard error of the phase [rad]: what does not repeat adds up at random, noise as well as signal.
    power = torch.nn.functional.pad(squared_modulus(repeats).cumsum(1, dtype=torch.float64), (1, 0))
    power = power.gather(1, raster.period * end) - power.gather(1, raster.period * begin)
    error = (_variance(power.clamp(min=0), raster) / 2).sqrt().to(phasor.real.dtype)
    error = (error / phasor.abs()).nan_to_num(torch.inf)
    angle, is_burst = phasor.angle(), begin < end
    free, others = is_burst, torch.zeros_like(is_burst)
    carrier_hz, longest_s = torch.full_like(before.carrier_hz, torch.nan), torch.zeros_like(before.airtime_s)
    for _ in range(_MOST_STATIONS):
        least, clearest = torch.where(free, error, torch.inf).min(1, keepdim=True)
        middle = angle.gather(1, clearest)
        own = _turned(angle - middle) <= _CARRIER_ERRORS * torch.hypot(error, least) + _CARRIER_DRIFT
        own &= least <= _CLEAR_CARRIER
        airtime_s = ((end - begin) * (free & own)).sum(1) * (raster.period / raster.fft_size / SPACING_WIFI_HZ)
        known = 2 * torch.pi * before.carrier_hz[:, None] / SPACING_WIFI_HZ
        is_known = (_turned(known - middle) <= _CARRIER_ERRORS * least + _CARRIER_DRIFT)[:, 0]  # false for NaN
        airtime_s = airtime_s + before.airtime_s * (is_known & (airtime_s > 0))
        longer = airtime_s > longest_s
        carrier_hz = torch.where(longer, middle[:, 0] / (2 * torch.pi) * SPACING_WIFI_HZ, carrier_hz)
        longest_s = torch.maximum(airtime_s, longest_s)
        others = torch.where(longer[:, None], is_burst & ~own, others)
        free = free & ~own
    return others, Station(carrier_hz, longest_s)


def _turned(angle: torch.Tensor) -> torch.Tensor:
    """Distance of an angle from the nearest whole turn [rad]."""
    return (angle - 2 * torch.pi * (angle / (2 * torch.pi)).round()).abs()


def _dilate(mask: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Spread each true element to the `left` ones before and the `right` ones after it."""
    padded = torch.nn.functional.pad(mask.float(), (right, left))
    return torch.nn.functional.max_pool1d(padded[:, None], left + right + 1, stride=1)[:, 0] > 0


def _burst_timing(
    repeats: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, raster: _Raster
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Timing of each burst on its own.

    Args:
        repeats (`torch.Tensor` of shape `(batch, num_samples)`): Product of each sample with the one a symbol later.
        begin (`torch.Tensor` of shape `(batch, num_bursts)`): From [`_bursts`].
        end (`torch.Tensor` of shape `(batch, num_bursts)`): The same.
        raster (`_Raster`): The standard.

    Returns:
        `tuple`, all `(batch, num_bursts)`: sample from which a burst's timing applies; correlation, whose angle is the
        carrier's phase advance over a symbol; first sample of a period.
    """
    period = raster.period
    num_symbols = repeats.shape[1] // period
    folded = torch.view_as_real(repeats[:, : num_symbols * period].unflatten(1, (num_symbols, period)))
    symbol = torch.arange(num_symbols, device=repeats.device)
    within = (symbol >= begin[..., None]) & (symbol < end[..., None])
    summed = within.to(folded.dtype) @ folded.flatten(2)
    correlation = _prefix_correlation(torch.view_as_complex(summed.unflatten(2, (period, 2))), raster)
    origin = correlation.abs().argmax(2)
    phasor = correlation.gather(2, origin[..., None])[..., 0]
    # Half a symbol early, since the first symbol that a burst fills may have started before that. The first burst also
    # sets the timing of everything before it, and bursts that a row lacks start after its last frame.
    since = torch.where(begin < end, begin * period - period // 2, 2 * repeats.shape[1])
    since[:, 0] = 0
    return since, phasor, origin


def _frame_starts(
    region: torch.Tensor, origin: torch.Tensor, raster: _Raster, num_frames: int, symbol_step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place a frame every `symbol_step` symbols, along successive rasters.

    Args:
        region (`torch.Tensor` of shape `(batch, num_regions)`): Sample from which each raster applies.
        origin (`torch.Tensor` of shape `(batch, num_regions)`): First sample of a period of it.
        raster (`_Raster`): The standard.
        num_frames (`int`): Frames.
        symbol_step (`int`): Symbols from one to the next.

    Returns:
        `tuple`: region and first sample of each frame, both `(batch, num_frames)`.
    """
    first = raster.number_before(region - origin)
    opening = origin + raster.position(first)  # where the first frame of each region starts
    count = raster.number_before(opening[:, 1:] - origin[:, :-1]) - first[:, :-1]
    total = count.cumsum(1)
    number = (torch.arange(num_frames, device=region.device) * symbol_step).expand(len(region), -1).contiguous()
    which = torch.searchsorted(total, number, right=True)
    earlier = torch.nn.functional.pad(total, (1, 0)).gather(1, which)
    start = origin.gather(1, which) + raster.position(first.gather(1, which) + number - earlier)
    # Move the last frame before a burst ahead if it would overlap, as far as the recording allows.
    following = torch.nn.functional.pad(opening[:, 1:], (0, 1), value=torch.iinfo(torch.int64).max).gather(1, which)
    return which, torch.minimum(start, following - raster.fft_size).clamp(min=0)

"""Use the sampling rate of a recording to find which standard's symbols it contains, and where.

Cyclic prefixes reveal the symbols, preambles the packets of WiFi (802.11b included), and synchronization signals
distinguish LTE from 5G.

A spectrogram alone does not say how many hertz a bin is wide. A receiver knows, and can try the symbol lengths of all
standards. One that fits is detected far below the noise, and the views that follow can be synchronous, not blind.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from .cell_search import SPACING_LTE_HZ, lte_evidence
from .ofdm import band_edge, fast_length, squared_modulus
from .spread_spectrum import spreading_evidence
from .synchronization import (
    SPACING_WIFI_HZ,
    Station,
    equally_loud,
    extended_prefix_evidence,
    of_one_station,
    required_samples,
    symbol_evidence,
    symbol_period_s,
    synchronize,
)

# Subcarrier spacings of WiFi, and those of 3GPP that the generator draws; LTE and 5G can have the same.
PROTOCOL_SPACINGS_HZ = {"WiFi": (SPACING_WIFI_HZ,), "LTE": (SPACING_LTE_HZ,), "5G": (15e3, 30e3)}
# Symbols from one frame to the next, the longest step first. As for the training spectrograms, the longest that the
# recording has room for is used: a view spans up to nine milliseconds of a cell, four of packets.
SYMBOL_STEPS = {SPACING_WIFI_HZ: (8, 4, 2, 1), 15e3: (1,), 30e3: (2, 1)}
# Symbols in the shortest recording whose symbols are used. A recording too short for all frames of a view is repeated,
# for cells in whole slots, so that what recurs in each slot keeps its period.
SHORTEST_RECORDING = {SPACING_WIFI_HZ: 32, 15e3: 10, 30e3: 10}
_RESOURCE_BLOCK = 12  # subcarriers
_SLOT = 7  # symbols of an LTE slot, half of a 5G slot
# Rates at which prefixes are searched for: wide enough for much of the band, with whole samples in each prefix.
_SEARCH_RATES_HZ = {
    SPACING_WIFI_HZ: (5e6, 10e6, 20e6),
    15e3: (1.92e6, 3.84e6, 7.68e6, 15.36e6),
    30e3: (3.84e6, 7.68e6, 15.36e6),
    60e3: (7.68e6, 15.36e6, 30.72e6),
    120e3: (15.36e6, 30.72e6),
}
# Length of the pieces that are searched separately, and the penalty for choosing the best of them [nats].
_PIECE_S, _PIECE_PEAK = 2.5e-3, 1.0
_RARE_SPACINGS_HZ = (60e3, 120e3)  # of 5G; models were not trained on these, so they get no views
_SURE = 2.0  # evidence from which symbols of another protocol are reported beside those of the likeliest [nats]
_RARE_PEAK = 1.5  # penalty for searching for many kinds of rare signals [nats]
_MAX_INTERPOLATION = 2.1  # beyond this, most of the band is empty
_MAX_FACTOR = 4000  # largest denominator of a resampling ratio, which is then exact to a tenth of a ppm
# What repeats after any delay hides the prefixes: receivers leak around DC, one of them up to 90 dB above the noise,
# with drift. A carrier can spare these subcarriers.
_LEAKAGE_HZ = 20e3
# Spectral lines: how far they exceed their surroundings, how wide these are, and the least bins on each side of one.
_LINE_DB, _LINE_HZ, _LINE_BINS = 25.0, 15e3, 8
# Beginnings and ends that are this much louder than all of the rest, and how much of a recording they may last.
_UNSETTLED_DB, _UNSETTLED_SHARE = 15.0, 0.1
_SETTLING_S = 1 / 14e3  # over which levels are compared: a symbol of LTE
PIECES = 4  # of a view that is spread over a recording
_PIECED_BANDS = 4  # largest number of bands that have such views
_HIGHEST_SNR_DB = 28.0  # models are trained at up to 25 dB
_FLOOR_DB = 40.0  # below the carrier: the noise of eight-bit converters, the coarsest that models are trained on
_OCCUPIED_QUANTILE = 0.8  # of the subcarriers of a view: a WiFi channel occupies two fifths of them
_FAINTEST_VIEW = 0.5  # of the power of the loudest one: what is half as loud has as much noise as signal
# Bins of the mean spectrum, bins of its moving average, and where the band edges are examined, inside the roll-off of
# receiver filters. Of generated 10 ms recordings that hold a whole carrier, 27 % look as if it went on beyond, most of
# them at 0 dB or less; of those that hold a part of one, 97 % do.
_SPECTRUM_BINS, _AVERAGED_BINS, _EDGE = 128, 7, 0.43
_FLAT_DB = 4.0  # from the quietest to the loudest bin: if less, the spectrum shows nothing beside a carrier


@dataclass(frozen=True)
class Heard:
    """What [`listen`] found in a recording.

    Attributes:
        evidence (`np.ndarray` of shape `(num_protocols,)`): For each protocol, the log-likelihood ratio of the
            recording with such symbols to the recording without; for LTE plus that of LTE's own signals; for WiFi, of
            such symbols or packets of 802.11b, which have no views.
        frames (`np.ndarray` of shape `(num_views, num_frames * fft_size)`): One useful symbol after the other,
            complex64; no views if no symbols were found, or if the recording is not long enough.
        frame_step_s (`float`): Time from one of these frames to the next in the recording [s]; NaN without views.
        spacing_hz (`float`): Subcarrier spacing, which is the width of the bins of the frames [Hz]; likewise.
        distinct (`float`): Share of the frames of a view that do not repeat others, below 1 for short recordings only.
        pieces (`dict[float, np.ndarray]`): Frames of each band by its center [Hz], `(PIECES, num_frames /
            PIECES * fft_size)`, with the frame step of the longest recordings: one piece from each quarter of the
            recording, where the signal is loudest. Joined, they are a view that spans more time than frames in a row.
        piece_step_s (`float`): Time from one of these frames to the next within a piece [s].
        stations (`dict[float, Station]`): For WiFi, the station that the frames are from, by band center [Hz].
        beside (`dict[str, tuple[str, ...]]`): For each protocol, the others whose symbols were found in addition to
            those that it can have sent itself; protocols without any are left out.
    """

    evidence: np.ndarray
    frames: np.ndarray
    frame_step_s: float = np.nan
    spacing_hz: float = np.nan
    distinct: float = 1.0
    pieces: dict[float, np.ndarray] = field(default_factory=dict)
    piece_step_s: float = np.nan
    stations: dict[float, Station] = field(default_factory=dict)
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)


def listen(
    iq: np.ndarray,
    sampling_rate: float,
    protocols: Sequence[str],
    num_frames: int = 128,
    fft_size: int = 128,
    max_views: int = 8,
    before: Mapping[float, Station] | None = None,
) -> Heard:
    """Search for the symbols of WiFi, LTE and 5G, and cut out frames of the most likely ones.

    A view has `num_frames` frames of `fft_size` subcarriers. A longer recording or a wider carrier has several; the
    view of a recording that is too short repeats its symbols.

    Args:
        iq (`np.ndarray` of shape `(num_samples,)`): Complex samples, finite, of any scale.
        sampling_rate (`float`): [Hz].
        protocols (`Sequence[str]`): Which to search for; those not in `PROTOCOL_SPACINGS_HZ` get an evidence of 0.
        num_frames (`int`, *optional*, defaults to 128): Frames of a view.
        fft_size (`int`, *optional*, defaults to 128): Samples of a frame, and so its subcarriers.
        max_views (`int`, *optional*, defaults to 8): Largest number of views.
        before (`Mapping[float, Station]`, *optional*): [`Heard`]`.stations` of the samples that these continue. Of
            several stations, the one with the longest total airtime is kept.

    Returns:
        [`Heard`]
    """
    wanted = {spacing for name in protocols for spacing in PROTOCOL_SPACINGS_HZ.get(name, ())}
    # Sums and products of samples must not exceed the range of float32. Scaling by a power of two rounds nothing. The
    # mean goes first: a converter's offset may be louder than the signal, and leaks out of DC in frames of symbols.
    scale = 1.0
    for _ in range(2):
        loudest = 2.0 ** np.frexp(np.float64(max(np.abs(iq.real).max(), np.abs(iq.imag).max())))[1]
        iq, scale = (iq / loudest).astype(np.complex64), scale * loudest
        iq = iq - iq.mean()
    recording = _Recording(torch.from_numpy(iq), sampling_rate)
    of_packets = {spacing: _evidence(recording, spacing) for spacing in wanted & {SPACING_WIFI_HZ}}
    spreading = _spreading_evidence(recording, of_packets.get(SPACING_WIFI_HZ, {}))
    settled, of_cells = _cells(recording, wanted - {SPACING_WIFI_HZ})
    bands = of_cells | of_packets
    evidence = _told(settled, bands, spreading, protocols)
    # Rare cases are searched for only if nothing else is found: recordings with gaps, unusual signals.
    if evidence.max(initial=0.0) <= 0:
        in_pieces = bands | {spacing: _evidence_in_pieces(settled, spacing) for spacing in wanted - {SPACING_WIFI_HZ}}
        told = _told(settled, in_pieces, spreading, protocols)
        bands, evidence = (in_pieces, told) if told.max(initial=0.0) > 0 else (bands, evidence)
    if evidence.max(initial=0.0) <= 0:
        rare = _rare_evidence(recording)
        found = [rare.get(name, 0.0) for name in protocols]
        evidence = np.where(np.array(found) > 0, found, evidence)
    found = _surest(bands)
    beside = _beside(found, dict(zip(protocols, evidence.tolist(), strict=True)), spreading)
    likeliest = max(found, key=found.__getitem__, default=None)
    cut, pieces, stations = None, {}, dict(before or {})
    if likeliest is not None and found[likeliest] > 0 and _Bands.hold(recording, likeliest, fft_size):
        sent_in = recording if likeliest == SPACING_WIFI_HZ else settled
        bands_of_views = _Bands(sent_in, likeliest, fft_size, stations)
        cut = _frames(bands_of_views, num_frames, max_views)
        pieces = _pieces(bands_of_views, num_frames)
    if cut is None:
        none = np.zeros((0, num_frames * fft_size), np.complex64)
        return Heard(evidence, none, stations=stations, beside=beside)
    frames, symbol_step, distinct = cut
    scale = np.float32(scale)
    return Heard(
        evidence,
        frames * scale,
        symbol_step * symbol_period_s(likeliest),
        likeliest,
        distinct,
        {centre: piece * scale for centre, piece in pieces.items()},
        SYMBOL_STEPS[likeliest][0] * symbol_period_s(likeliest),
        stations,
        beside,
    )


@dataclass(frozen=True)
class _Recording:
    """A recording `(num_samples,)`, resampled to any rate; each result is computed once."""

    iq: torch.Tensor
    sampling_rate: float
    _resampled: dict[tuple[float, float, float, bool], torch.Tensor] = field(default_factory=dict)
    _spectra: dict[tuple[int, float], torch.Tensor] = field(default_factory=dict)
    _flat: dict[tuple[float, tuple[float, ...]], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def num_loud_edges(self) -> int:
        return _num_loud_edges(self.iq)

    def at(self, rate: float, above_hz: float = 0.0, around_hz: float = 0.0, filtered: bool = False) -> torch.Tensor:
        """The recording at another rate, without a few samples at its end.

        A single transform of the whole recording: time-domain filters would need thousands of taps for such ratios,
        and take five times as long.

        Args:
            rate (`float`): [Hz].
            above_hz (`float`, *optional*, defaults to 0): Remove frequencies up to this far from DC [Hz].
            around_hz (`float`, *optional*, defaults to 0): Frequency that becomes DC [Hz].
            filtered (`bool`, *optional*, defaults to `False`): Whether to roll off at the edges, see [`band_edge`].
        """
        key = (rate, above_hz, around_hz, filtered)
        if key not in self._resampled:
            ratio = Fraction(rate / self.sampling_rate).limit_denominator(_MAX_FACTOR)
            units = len(self.iq) // ratio.denominator
            units = fast_length(units, step=-1) if units else 0
            before, after = units * ratio.denominator, units * ratio.numerator
            half = min(before, after) // 2
            first = (round(around_hz / self.sampling_rate * before) - half) % max(before, 1)
            spectrum = self._spectrum(before, above_hz)
            band = torch.cat([spectrum[first : first + 2 * half], spectrum[: max(0, first + 2 * half - before)]])
            kept = torch.zeros(after, dtype=self.iq.dtype)
            kept[:half], kept[after - half :] = band[half:], band[:half]
            if filtered:
                kept *= band_edge(torch.fft.fftfreq(after))
            self._resampled[key] = torch.fft.ifft(kept, norm="forward") / max(before, 1) if after else kept
        return self._resampled[key]

    def bands(self, rate: float, centres: Sequence[float]) -> torch.Tensor:
        """Bands without the receiver's leakage around DC, `(num_bands, num_samples)`."""
        return torch.stack([self.at(rate, _LEAKAGE_HZ, centre) for centre in centres])

    def flat_bands(self, rate: float, centres: Sequence[float]) -> torch.Tensor:
        """The same bands after [`equally_loud`]."""
        key = (rate, tuple(centres))
        if key not in self._flat:
            self._flat[key] = equally_loud(self.bands(rate, centres), rate)
        return self._flat[key]

    def _spectrum(self, num_samples: int, above_hz: float) -> torch.Tensor:
        key = (num_samples, above_hz)
        if key not in self._spectra:
            iq = self.iq[:num_samples]
            if above_hz and num_samples:
                # A drifting offset does not end where it began. The transform sees a step, at all frequencies.
                ends = max(1, min(num_samples, round(self.sampling_rate / above_hz)))
                begin, end = iq[:ends].mean(), iq[-ends:].mean()
                iq = iq - torch.lerp(begin, end, torch.linspace(0, 1, num_samples, dtype=iq.dtype))
            spectrum = torch.fft.fft(iq) if num_samples else iq
            if above_hz and num_samples:
                leaking = int(above_hz / self.sampling_rate * num_samples)
                spectrum[: leaking + 1] = 0
                spectrum[num_samples - leaking :] = 0
            self._spectra[key] = _without_tones(spectrum, self.sampling_rate)
        return self._spectra[key]


def _cells(recording: _Recording, spacings: Iterable[float]) -> tuple[_Recording, dict[float, dict[float, float]]]:
    """The part of a recording to search for cells, and [`_evidence`] of each spacing in it: the part without loud
    ends if it surely holds symbols of a cell, or more likely than all of the recording."""
    settled = _settled(recording)
    found = {spacing: _evidence(settled, spacing) for spacing in sorted(spacings)}
    surest = max(_surest(found).values(), default=0.0)
    if settled is recording or surest > _SURE:
        return settled, found
    whole = {spacing: _evidence(recording, spacing) for spacing in found}
    return (settled, found) if surest > max(_surest(whole).values(), default=0.0) else (recording, whole)


def _settled(recording: _Recording) -> _Recording:
    """A recording without what receivers add when they start or stop: a beginning or an end that is far louder than
    all of the rest. It would hide the symbols of a cell, and views of it would show the rest too weak. It may also be
    a packet of WiFi: those that are much louder than others are ordinary, and told apart otherwise.
    """
    block = max(1, round(recording.sampling_rate * _SETTLING_S))
    count = len(recording.iq) // block
    margin = int(_UNSETTLED_SHARE * count)
    if not margin:
        return recording
    power = squared_modulus(recording.iq[: count * block].unflatten(0, (-1, block))).mean(1)
    head, rest, tail = power.split([margin, count - 2 * margin, margin])
    loudest = rest.max()

    def unsettled(edge: torch.Tensor) -> int:
        """How many blocks to leave out, of those at an edge in the order from the outside in."""
        far_louder = (edge > 10 ** (_UNSETTLED_DB / 10) * loudest).any()
        return int((edge > loudest).nonzero()[-1, 0]) + 1 if far_louder else 0

    first, last = unsettled(head), unsettled(tail.flip(0))
    if not first and not last:
        return recording
    return _Recording(recording.iq[first * block : len(recording.iq) - last * block], recording.sampling_rate)


def _without_tones(spectrum: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """Remove lines far narrower than a subcarrier from the spectrum `(num_samples,)` of a recording.

    Spurs of receivers are such lines, and may hold as much power as the signal. Leakage at DC stays: models are
    trained with it.
    """
    num_samples = len(spectrum)
    reach = int(_LINE_HZ / sampling_rate * num_samples)
    if reach < 4 * _LINE_BINS or num_samples < 4 * reach:  # too short to tell lines from subcarriers
        return spectrum
    power = squared_modulus(spectrum).double()
    around = torch.cat([power[-reach:], power, power[:reach]]).cumsum(0)
    around = F.pad(around, (1, 0))

    def within(bins: int) -> torch.Tensor:
        """Summed power of each bin and of `bins` bins on either side."""
        first = reach - bins
        return around[first + 2 * bins + 1 : first + 2 * bins + 1 + num_samples] - around[first : first + num_samples]

    beside = (within(reach - 1) - within(_LINE_BINS)) / (2 * (reach - 1 - _LINE_BINS))
    excess = power / beside.clamp(min=1e-30 * float(power.max()) + 1e-300)
    leaking = int(_LEAKAGE_HZ / sampling_rate * num_samples) + _LINE_BINS
    excess[: leaking + 1] = 0
    excess[num_samples - leaking :] = 0
    lines = (excess > 10 ** (_LINE_DB / 10)).nonzero()[:, 0]
    if not len(lines):
        return spectrum
    # A line as long as the recording leaks 1 / (pi * bins) of its amplitude: cover the bins in which this is visible.
    width = (excess[lines].sqrt() / torch.pi).clamp(_LINE_BINS, reach).long()
    away = torch.arange(-reach, reach + 1)
    covered = (lines[:, None] + away)[away.abs() <= width[:, None]] % num_samples
    return spectrum.index_fill(0, covered, 0)


def _surest(bands: dict[float, dict[float, float]]) -> dict[float, float]:
    """The highest [`_evidence`] of each spacing over all bands."""
    return {spacing: max(evidence.values(), default=0.0) for spacing, evidence in bands.items()}


def _told(
    recording: _Recording, bands: dict[float, dict[float, float]], spreading: float, protocols: Sequence[str]
) -> np.ndarray:
    """[`Heard`]`.evidence`, from [`_evidence`] of each spacing and the evidence of WiFi packets without OFDM."""
    found = _surest(bands)
    evidence = {
        name: max((found[spacing] for spacing in PROTOCOL_SPACINGS_HZ.get(name, ())), default=0.0)
        for name in protocols
    }
    if "WiFi" in evidence:
        evidence["WiFi"] = max(evidence["WiFi"], spreading)
    if "LTE" in evidence:
        evidence["LTE"] += _lte_evidence(recording, bands[SPACING_LTE_HZ])
    return np.array([evidence[name] for name in protocols])


def _beside(found: dict[float, float], evidence: Mapping[str, float], spreading: float) -> dict[str, tuple[str, ...]]:
    """[`Heard`]`.beside`, from the highest evidence of each spacing, that of each protocol, and that of 802.11b."""
    sent = {}
    for spacing, highest in found.items():
        names = [name for name in evidence if spacing in PROTOCOL_SPACINGS_HZ.get(name, ())]
        if highest > _SURE and names:
            # The evidence of LTE is higher than that of its symbols if its own signals were found, and lower if not.
            others = [name for name in names if name != "LTE"]
            sent[spacing] = others[0] if others and evidence.get("LTE", 0.0) < highest else names[0]
    if spreading > _SURE and "WiFi" in evidence:
        sent[SPACING_WIFI_HZ] = "WiFi"
    beside = {}
    for protocol in evidence:
        its = {spacing for spacing, name in sent.items() if name == protocol} or PROTOCOL_SPACINGS_HZ.get(protocol, ())
        beside[protocol] = tuple(dict.fromkeys(name for spacing, name in sent.items() if spacing not in its))
    return {protocol: others for protocol, others in beside.items() if others}


def _searched(recording: _Recording, spacing_hz: float) -> tuple[float, list[float]]:
    """Rate and centers of the bands to search for symbols [Hz]; no bands if the recording is too short or too slow."""
    rate = _search_rate(recording, spacing_hz)
    # A recording shorter than a symbol shows no prefix, however many bands it covers.
    if rate is None or len(recording.iq) < recording.sampling_rate * symbol_period_s(spacing_hz):
        return math.nan, []
    # In a wide recording, the carrier may be anywhere.
    return rate, _band_centres(recording.sampling_rate, rate)


def _evidence(recording: _Recording, spacing_hz: float) -> dict[float, float]:
    """Evidence of symbols in each band, by its center [Hz]; empty if the recording is too short or too slow."""
    rate, centres = _searched(recording, spacing_hz)
    if not centres:
        return {}
    bands = (recording.flat_bands if spacing_hz == SPACING_WIFI_HZ else recording.bands)(rate, centres)
    return dict(zip(centres, symbol_evidence(bands, rate, spacing_hz).tolist(), strict=True))


def _evidence_in_pieces(recording: _Recording, spacing_hz: float) -> dict[float, float]:
    """As [`_evidence`], from the best piece of each band: dropped samples change the symbol timing."""
    count = int(len(recording.iq) / recording.sampling_rate / _PIECE_S)
    rate, centres = _searched(recording, spacing_hz)
    if not centres or count < 2:
        return {}
    bands = recording.bands(rate, centres)
    length = bands.shape[1] // count
    pieces = symbol_evidence(bands[:, : count * length].reshape(-1, length), rate, spacing_hz).view(-1, count)
    return dict(zip(centres, (pieces.amax(1) - _PIECE_PEAK).tolist(), strict=True))


def _spreading_evidence(recording: _Recording, bands: dict[float, float]) -> float:
    """Evidence of WiFi packets without OFDM, in the bands that were searched for OFDM."""
    if not bands:
        return 0.0
    rate = _search_rate(recording, SPACING_WIFI_HZ)
    return float(spreading_evidence(recording.flat_bands(rate, list(bands)), rate).max())


def _rare_evidence(recording: _Recording) -> dict[str, float]:
    """Evidence of rare kinds of signals, by protocol."""
    iq, rate = recording.iq, recording.sampling_rate
    # WiFi between vehicles runs at half the clock, otherwise unchanged (IEEE 802.11-2020, clause 17.1).
    doubled = _evidence(_Recording(iq, 2 * rate), SPACING_WIFI_HZ)
    found = {"WiFi": max(doubled.values(), default=-math.inf)}
    others = [value for spacing in _RARE_SPACINGS_HZ for value in _evidence(recording, spacing).values()]
    found["5G"] = max(others, default=-math.inf)
    band_rate, centres = _searched(recording, SPACING_LTE_HZ)
    if centres:
        found["LTE"] = float(extended_prefix_evidence(recording.bands(band_rate, centres), band_rate).max())
    return {name: value - _RARE_PEAK for name, value in found.items()}


def _lte_evidence(recording: _Recording, bands: dict[float, float]) -> float:
    """Evidence of LTE in the bands that have symbols of 15 kHz."""
    heard = [centre for centre, evidence in bands.items() if evidence > 0]
    if not heard:
        return 0.0
    rate = _search_rate(recording, SPACING_LTE_HZ)
    evidence = float(lte_evidence(recording.bands(rate, heard), rate).max())
    if evidence < 0 and recording.num_loud_edges:
        # The synchronization signal is in the middle of the carrier, which may as well lie outside the recording.
        evidence = math.log((1 + math.exp(evidence)) / 2)
    return evidence


def _num_loud_edges(iq: torch.Tensor) -> int:
    """Count the edges of the band at which a recording `(num_samples,)` is loud: a carrier may go on there."""
    frames = iq[: len(iq) // _SPECTRUM_BINS * _SPECTRUM_BINS].unflatten(0, (-1, _SPECTRUM_BINS))
    window = torch.hann_window(_SPECTRUM_BINS)
    power = squared_modulus(torch.fft.fft(frames * window)).mean(0)
    power[[-2, -1, 0, 1, 2]] = (power[-3] + power[3]) / 2  # the receiver's leakage
    averaged = F.avg_pool1d(torch.fft.fftshift(power)[None], _AVERAGED_BINS, stride=1)[0]
    level = 10 * averaged.clamp(min=1e-30).log10()
    edge = round((0.5 - _EDGE) * _SPECTRUM_BINS) - _AVERAGED_BINS // 2
    level = level[edge : len(level) - edge]
    quietest, loudest = level.min(), level.max()
    return 2 if loudest - quietest < _FLAT_DB else int((level[[0, -1]] > (quietest + loudest) / 2).sum())


def _search_rate(recording: _Recording, spacing_hz: float) -> float | None:
    lowest, *others = _SEARCH_RATES_HZ[spacing_hz]
    if lowest > _MAX_INTERPOLATION * recording.sampling_rate:  # prefixes also show in a part of the band
        return None
    return max([lowest, *(rate for rate in others if rate <= 1.1 * recording.sampling_rate)])


def _band_centres(sampling_rate: float, rate: float) -> list[float]:
    """Centers of bands of width `rate` in a recording [Hz], each overlapping the next by half.

    One of them contains all of a narrower carrier, wherever it is, or is filled by a wider one. The receiver's leakage
    is in the middle or at the edge of a band.
    """
    spare = max(0.0, sampling_rate - rate)
    aside = int(spare / rate)
    return sorted({-spare / 2, *(rate / 2 * band for band in range(-aside, aside + 1)), spare / 2})


def repeated_frames(count: int | torch.Tensor, spacing_hz: float) -> int | torch.Tensor:
    """How many of `count` frames, one per symbol, are repeated to fill a view."""
    if spacing_hz == SPACING_WIFI_HZ:
        return count
    return count - count % _SLOT * (count >= 2 * _SLOT)


def _lengths(spacing_hz: float, num_frames: int) -> Iterator[tuple[int, int]]:
    """Numbers of distinct frames, with the symbols from one to the next, for the longest recording first."""
    yield from ((num_frames, step) for step in SYMBOL_STEPS[spacing_hz])
    counts = range(num_frames - 1, SHORTEST_RECORDING[spacing_hz] - 1, -1)
    yield from ((count, 1) for count in counts if repeated_frames(count, spacing_hz) == count)


@dataclass(frozen=True)
class _Bands:
    """Bands of a recording, each as wide as a view of `fft_size` subcarriers, which overlap by half.

    Args:
        stations: As in [`Heard`]: those of the samples before, replaced by the stations that are kept here.
    """

    recording: _Recording
    spacing_hz: float
    fft_size: int
    stations: dict[float, Station]
    _samples: dict[int, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def hold(recording: _Recording, spacing_hz: float, fft_size: int) -> bool:
        """Whether a recording covers enough of such a band."""
        return not fft_size % 128 and fft_size * spacing_hz <= _MAX_INTERPOLATION * recording.sampling_rate

    @property
    def rate(self) -> float:
        return self.fft_size * self.spacing_hz

    @cached_property
    def centres(self) -> list[float]:
        return _band_centres(self.recording.sampling_rate, self.rate)

    @cached_property
    def power(self) -> torch.Tensor:
        """Power of all samples, `(num_bands, num_samples)`, without leakage, so that this makes no band loud."""
        iq = self.recording.bands(self.rate, self.centres)
        if self.spacing_hz == SPACING_WIFI_HZ:  # stations take turns
            iq, found = of_one_station(iq, self.rate, self._known(self.centres))
            found = map(Station, *torch.stack(found).tolist())
            self.stations.update(
                {centre: one for centre, one in zip(self.centres, found, strict=True) if one.airtime_s > 0}
            )
        return squared_modulus(iq)

    @property
    def num_samples(self) -> int:
        return self.power.shape[1]

    def samples(self, band: int) -> torch.Tensor:
        """A band in the form that models expect, `(num_samples,)`.

        They were trained on cells through receivers as wide as a view, whose filters roll off at its edges. Without
        such filters they overestimate the SNR by two to four dB.
        """
        if band not in self._samples:
            centre = self.centres[band]
            samples = self.recording.at(self.rate, 0.0, centre, self.spacing_hz != SPACING_WIFI_HZ)
            if self.spacing_hz == SPACING_WIFI_HZ:
                samples = of_one_station(samples[None], self.rate, self._known([centre]))[0][0]
            self._samples[band] = samples
        return self._samples[band]

    def _known(self, centres: Sequence[float]) -> Station:
        return Station(*torch.tensor([self.stations.get(centre, Station(torch.nan, 0.0)) for centre in centres]).T)

    def loud(self, power: torch.Tensor, at_most: int) -> list[tuple[int, int]]:
        """Select bands and stretches of time that the signal fills by their power `(num_bands, num_stretches)`.

        They are spread over the carrier: the loudest alone would be those that fading favors, with too high an SNR.
        """
        centres = torch.tensor(self.centres)
        loud = _loud(power, (centres - centres[:, None]).abs() < 0.9 * self.rate)
        places = np.linspace(0, len(loud), min(at_most, len(loud)), endpoint=False).astype(int)
        return [loud[place] for place in places]

    def frames(self, iq: torch.Tensor, count: int, step: int) -> torch.Tensor:
        """`count` symbols, every `step`-th, of each row of samples, `(batch, count * fft_size)`.

        If a cell goes on beyond both edges of a recording that is narrower than a view, its visible subcarriers are
        repeated, in whole resource blocks: models are not trained on views of a cell that are empty at the sides.
        """
        frames = synchronize(iq, self.rate, self.spacing_hz, num_frames=count, symbol_step=step).iq
        recording = self.recording
        num_seen = int(2 * _EDGE * recording.sampling_rate / self.spacing_hz) // _RESOURCE_BLOCK * _RESOURCE_BLOCK
        whole = recording.sampling_rate >= self.rate or not num_seen or self.spacing_hz == SPACING_WIFI_HZ
        if whole or recording.num_loud_edges < 2:
            return frames
        bins = torch.fft.fftfreq(self.fft_size, 1 / self.fft_size).long()
        seen = (bins + num_seen // 2) % num_seen - num_seen // 2
        spectrum = torch.fft.fft(frames.unflatten(1, (count, self.fft_size)))
        return torch.fft.ifft(spectrum[..., seen % self.fft_size]).flatten(1)


def _frames(bands: _Bands, num_frames: int, max_views: int) -> tuple[np.ndarray, int, float] | None:
    """Frames of the times and bands that the signal fills, symbols from one to the next, and the share of frames that
    do not repeat others; `None` if the recording is too short for any."""
    for count, step in _lengths(bands.spacing_hz, num_frames):
        needed = required_samples(bands.rate, bands.spacing_hz, count, step)
        if needed <= bands.num_samples:
            break
    else:
        return None
    stretches = bands.num_samples // needed

    def cut(samples: torch.Tensor) -> torch.Tensor:
        return samples[..., : stretches * needed].unflatten(-1, (stretches, needed))

    loud = bands.loud(cut(bands.power).mean(-1), max_views)
    if not loud:
        return None
    chosen = torch.stack([cut(bands.samples(band))[stretch] for band, stretch in loud])
    frames = _with_floor(bands.frames(chosen, count, step), bands.fft_size).unflatten(1, (count, bands.fft_size))
    return frames[:, torch.arange(num_frames) % count].flatten(1).numpy(), step, count / num_frames


def _pieces(bands: _Bands, num_frames: int) -> dict[float, np.ndarray]:
    """[`Heard`]`.pieces`; empty if the recording is too short for them."""
    count, step = num_frames // PIECES, SYMBOL_STEPS[bands.spacing_hz][0]
    quarter = bands.num_samples // PIECES
    needed = required_samples(bands.rate, bands.spacing_hz, count, step)
    stretches = quarter // needed
    if num_frames % PIECES or not stretches:
        return {}

    def cut(samples: torch.Tensor) -> torch.Tensor:
        quarters = samples[..., : PIECES * quarter].unflatten(-1, (PIECES, quarter))
        return quarters[..., : stretches * needed].unflatten(-1, (stretches, needed))

    power = cut(bands.power).mean(-1)
    loud = [band for band, _ in bands.loud(power.mean((1, 2))[:, None], _PIECED_BANDS)]
    if not loud:
        return {}
    chosen = torch.stack([cut(bands.samples(band))[torch.arange(PIECES), power[band].argmax(1)] for band in loud])
    frames = bands.frames(chosen.flatten(0, 1), count, step).unflatten(0, (-1, PIECES)).flatten(1)
    frames = _with_floor(frames, bands.fft_size).unflatten(1, (PIECES, -1)).numpy()
    return dict(zip([bands.centres[band] for band in loud], frames, strict=True))


def _with_floor(frames: torch.Tensor, fft_size: int) -> torch.Tensor:
    """Add noise, as much as there was at least in all training data of the models.

    A signal without any noise is nothing that they were trained on. And where nothing was received, such as beyond the
    band of the recording, only rounding errors remain. In dB these are so low that, once normalized, they flatten the
    rest of the spectrogram. More noise than this would look like the receiver's there, and suggest a wrong SNR.

    Args:
        frames (`torch.Tensor` of shape `(num_views, num_frames * fft_size)`): Samples of the frames.
        fft_size (`int`): Samples of a frame.
    """
    spectrum = torch.fft.fft(frames.unflatten(1, (-1, fft_size)), norm="ortho")
    power = squared_modulus(spectrum).mean(1, keepdim=True)
    carrier = power.quantile(_OCCUPIED_QUANTILE, dim=2, keepdim=True)
    added = 10 ** (-_HIGHEST_SNR_DB / 10) * power + 10 ** (-_FLOOR_DB / 10) * carrier
    noise = torch.randn(spectrum.shape, generator=torch.Generator().manual_seed(0), dtype=spectrum.dtype)
    return torch.fft.ifft(spectrum + added.sqrt() * noise, norm="ortho").flatten(1)


def _loud(power: torch.Tensor, overlaps: torch.Tensor) -> list[tuple[int, int]]:
    """Bands and stretches of time that the signal fills, sorted, no two of which overlap.

    Args:
        power (`torch.Tensor` of shape `(num_bands, num_stretches)`): Power of each.
        overlaps (`torch.Tensor` of shape `(num_bands, num_bands)`): Which bands share frequencies.
    """
    power = power.clone()
    faintest = _FAINTEST_VIEW * power.max()
    loud: list[tuple[int, int]] = []
    while power.max() > faintest:
        band, stretch = divmod(int(power.argmax()), power.shape[1])
        loud.append((band, stretch))
        power[overlaps[band], stretch] = 0
    return sorted(loud)

"""What the sampling rate of a recording gives away: whose symbols are in it, by their cyclic prefixes, and where.

A spectrogram alone does not say how many hertz a bin is wide. A receiver knows, and can try the symbol lengths of all
standards; one that fits is found far below the noise, and what follows need not listen blindly any longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch

from .ofdm import fast_length
from .synchronization import SPACING_WIFI_HZ, prefix_evidence, required_samples, synchronize

# WiFi's, and of 3GPP's those that the generator draws; LTE and 5G may have the same.
PROTOCOL_SPACINGS_HZ = {"WiFi": (SPACING_WIFI_HZ,), "LTE": (15e3,), "5G": (15e3, 30e3)}
# From frame to frame, as in the spectrograms that models are trained on: nine milliseconds of a cell, four of packets.
SYMBOL_STEPS = {SPACING_WIFI_HZ: 8, 15e3: 1, 30e3: 2}
# Rates at which prefixes are looked for: enough of the band, and a whole number of samples in each.
_SEARCH_RATES_HZ = {
    SPACING_WIFI_HZ: (5e6, 10e6, 20e6),
    15e3: (1.92e6, 3.84e6, 7.68e6, 15.36e6),
    30e3: (3.84e6, 7.68e6, 15.36e6),
}
_MAX_INTERPOLATION = 2.1  # above it most of the band is empty
_MAX_FACTOR = 4000  # of a resampling ratio, which is then exact to a tenth of a ppm
# What repeats after any time hides the prefixes: receivers leak around DC, one was seen to do so by 90 dB above the
# noise, drifting. A carrier can spare these subcarriers.
_LEAKAGE_HZ = 20e3


@dataclass(frozen=True)
class Heard:
    """What was found out about a recording.

    Attributes:
        evidence (`np.ndarray` of shape `(num_protocols,)`): For each protocol, the logarithm of how much likelier the
            recording is if symbols of that length are in it than if they are not.
        frames (`np.ndarray` of shape `(num_frames * fft_size,)` or `None`): One useful symbol after the other,
            complex64, if symbols were found and the recording is long enough.
    """

    evidence: np.ndarray
    frames: np.ndarray | None


def listen(
    iq: np.ndarray, sampling_rate: float, protocols: Sequence[str], num_frames: int = 128, fft_size: int = 128
) -> Heard:
    """Look for the symbols of WiFi, LTE and 5G, and cut out the frames of the likeliest.

    Args:
        iq (`np.ndarray` of shape `(num_samples,)`): Complex samples, finite.
        sampling_rate (`float`): [Hz].
        protocols (`Sequence[str]`): Which to look for; others than those of `PROTOCOL_SPACINGS_HZ` get no evidence.
        num_frames (`int`, *optional*, defaults to 128): Frames.
        fft_size (`int`, *optional*, defaults to 128): Samples of a frame: as many subcarriers around the middle of the
            recording are kept.

    Returns:
        [`Heard`]
    """
    wanted = {spacing for name in protocols for spacing in PROTOCOL_SPACINGS_HZ.get(name, ())}
    recording = _Recording(torch.from_numpy(iq.astype(np.complex64)), sampling_rate)
    found = {spacing: _evidence(recording, spacing) for spacing in sorted(wanted)}
    evidence = np.array(
        [max((found[spacing] for spacing in PROTOCOL_SPACINGS_HZ.get(name, ())), default=0.0) for name in protocols]
    )
    likeliest = max(found, key=found.__getitem__, default=None)
    if likeliest is None or found[likeliest] <= 0:
        return Heard(evidence, None)
    return Heard(evidence, _frames(recording, likeliest, num_frames, fft_size))


@dataclass(frozen=True)
class _Recording:
    """A recording `(num_samples,)` at any rate, each computed once."""

    iq: torch.Tensor
    sampling_rate: float
    _resampled: dict[tuple[float, float], torch.Tensor] = field(default_factory=dict)

    def at(self, rate: float, above_hz: float = 0.0) -> torch.Tensor:
        """The recording at another rate, but for a few samples at its end, and freed of frequencies around DC.

        One transform of all of it: filters in time, of thousands of taps for such ratios, take five times as long.
        """
        if (rate, above_hz) not in self._resampled:
            ratio = Fraction(rate / self.sampling_rate).limit_denominator(_MAX_FACTOR)
            units = len(self.iq) // ratio.denominator
            units = fast_length(units, step=-1) if units else 0
            before, after = units * ratio.denominator, units * ratio.numerator
            spectrum = torch.fft.fft(self.iq[:before]) if before else self.iq[:0]
            half = min(before, after) // 2
            kept = torch.zeros(after, dtype=self.iq.dtype)
            kept[:half], kept[after - half :] = spectrum[:half], spectrum[before - half :]
            leakage = 1 + int(above_hz / self.sampling_rate * before)
            kept[:leakage] = kept[after - leakage + 1 :] = 0
            self._resampled[rate, above_hz] = torch.fft.ifft(kept, norm="forward") / max(before, 1) if after else kept
        return self._resampled[rate, above_hz]


def _evidence(recording: _Recording, spacing_hz: float) -> float:
    rates = [rate for rate in _SEARCH_RATES_HZ[spacing_hz] if rate <= 1.1 * recording.sampling_rate]
    if not rates:
        return 0.0
    return float(prefix_evidence(recording.at(rates[-1], _LEAKAGE_HZ)[None], rates[-1], spacing_hz)[0])


def _frames(recording: _Recording, spacing_hz: float, num_frames: int, fft_size: int) -> np.ndarray | None:
    """The frames of the loudest stretch that is long enough for them; `None` if the whole recording is not."""
    rate, step = fft_size * spacing_hz, SYMBOL_STEPS[spacing_hz]
    if fft_size % 128 or rate > _MAX_INTERPOLATION * recording.sampling_rate:
        return None
    needed = required_samples(rate, spacing_hz, num_frames, step)
    count = len(recording.at(rate)) // needed
    if not count:
        return None
    stretches = recording.at(rate)[: count * needed].unflatten(0, (count, needed))
    loudest = stretches.abs().square().sum(1).argmax()
    found = synchronize(stretches[loudest, None], rate, spacing_hz, num_frames=num_frames, symbol_step=step)
    return found.iq[0].numpy()

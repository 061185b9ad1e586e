"""A part of a recording's band, shifted to zero frequency and filtered: one of several carriers, as a recording."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import firwin, kaiserord, oaconvolve, resample_poly

from .recordings import Recording, part_of

# Transition width of the filter on each side: a share of the bandwidth, up to a limit. At the edges of the recording,
# beyond which its opposite edge would alias in, at most a share of its rate.
_FALL, _LONGEST_FALL_HZ, _FALL_AT_EDGE = 1 / 8, 0.3e6, 1 / 64
# Receivers record channels with the guard bands at their edges, which views of symbols cover, too: 20 MHz for WiFi,
# whose subcarriers occupy 16.6 MHz. At a lower rate only a part of the carrier would be analyzed.
_ROOM = 1.15
_STOPBAND_DB = 70.0  # attenuation of a carrier beside the band
_NARROWEST = 1 / 4096  # of the rate of the recording: filters of narrower bands would be longer than most recordings
# The new rate is the recording's over an integer, or a multiple of this part of it: then the filter has few phases.
_PARTS = 32
_MOST_AT_ONCE = 2**22  # samples of the recording that are filtered together
# A carrier that shares more than this much of its width with a larger one is a part of that one.
_SAME = 0.5


@dataclass(frozen=True, eq=False)
class Band:
    """A part of a recording's band, used like a recording: it is read piece by piece and has a rate of its own.

    Pieces join without a seam, because each is filtered together with the samples around it. Within the band, levels
    match those of the recording to a tenth of a decibel; an eighth of the bandwidth beyond its edges, or 0.3 MHz if
    that is less, they are 70 dB lower.

    Args:
        recording ([`Recording`]): Of the whole band.
        center_hz (`float`): Center of the part, relative to that of the recording's band [Hz].
        bandwidth_hz (`float`): Its width [Hz]. A part that reaches beyond the recorded band is cut up to a 64th of the
            recording's rate before the edge; both attributes then describe what is left.

    Raises:
        ValueError: If the part is too narrow, its center is outside the recorded band, or the recording is too short.
    """

    recording: Recording
    center_hz: float
    bandwidth_hz: float

    def __post_init__(self):
        rate = self.recording.sampling_rate
        if not 0 < self.bandwidth_hz < math.inf:
            raise ValueError(
                f"{self.path}: the width of the band is {self.bandwidth_hz:g} Hz; expected a finite number above 0."
            )
        if self.bandwidth_hz < _NARROWEST * rate:
            raise ValueError(
                f"{self.path}: the width of the band is {self.bandwidth_hz:,.15g} Hz, out of {rate:,.15g} Hz that "
                f"were recorded; expected at least {_NARROWEST * rate:,.6g} Hz. Is it in Hz?"
            )
        if not abs(self.center_hz) <= rate / 2:
            around_hz = self.recording.center_frequency_hz or 0.0
            raise ValueError(
                f"{self.path}: a band around {around_hz + self.center_hz:,.15g} Hz was requested, but the recording "
                f"covers {around_hz - rate / 2:,.15g} to {around_hz + rate / 2:,.15g} Hz. Expected a center in this "
                "range; is it in Hz?"
            )
        if self._is_all:
            object.__setattr__(self, "bandwidth_hz", rate)
        else:
            fall_hz = self._fall_hz
            low, high = (self.center_hz + side * self.bandwidth_hz / 2 for side in (-1, 1))
            low, high = max(low, fall_hz - rate / 2), min(high, rate / 2 - fall_hz)
            object.__setattr__(self, "center_hz", (low + high) / 2)
            object.__setattr__(self, "bandwidth_hz", high - low)
        if self.num_samples < 1:
            raise ValueError(
                f"{self.path}: the recording has {self.recording.num_samples} samples at {rate:,.15g} Hz, too few for "
                f"one sample of a band of {self.bandwidth_hz:,.15g} Hz. Expected a longer recording, or a wider band."
            )

    @property
    def path(self) -> Path:
        """`Path`: Of the file."""
        return self.recording.path

    @property
    def _is_all(self) -> bool:
        return self.center_hz == 0 and self.bandwidth_hz >= self.recording.sampling_rate

    @cached_property
    def _fall_hz(self) -> float:
        """Transition width of the filter on each side [Hz]."""
        rate = self.recording.sampling_rate
        fall_hz = min(_FALL * self.bandwidth_hz, _LONGEST_FALL_HZ)
        reaches_edge = abs(self.center_hz) + self.bandwidth_hz / 2 + fall_hz > rate / 2
        return min(fall_hz, _FALL_AT_EDGE * rate) if reaches_edge else fall_hz

    @cached_property
    def _ratio(self) -> Fraction:
        """New sampling rate over the old one: at least what the band and the filter's transitions need."""
        wanted = _ROOM * (self.bandwidth_hz + 2 * self._fall_hz) / self.recording.sampling_rate
        if self._is_all or wanted >= 1:
            return Fraction(1)
        if wanted < 1 / 4:
            return Fraction(1, math.floor(1 / wanted))
        return Fraction(math.ceil(wanted * _PARTS), _PARTS)

    @property
    def sampling_rate(self) -> float:
        """`float`: Of the part [Hz]."""
        return self.recording.sampling_rate * float(self._ratio)

    @property
    def num_samples(self) -> int:
        """`int`: Number of samples, at the rate of the part."""
        return self.recording.num_samples * self._ratio.numerator // self._ratio.denominator

    @property
    def duration_s(self) -> float:
        """`float`: Length [s]."""
        return self.recording.duration_s

    @property
    def center_frequency_hz(self) -> float:
        """`float`: Center frequency of the part; relative to the recording's if that is unknown [Hz]."""
        return (self.recording.center_frequency_hz or 0.0) + self.center_hz

    @property
    def place(self) -> dict[str, float]:
        """`dict`: Where the part lies, as in the results for carriers: `center_hz` (absolute) and `bandwidth_hz`."""
        return {"center_hz": self.center_frequency_hz, "bandwidth_hz": self.bandwidth_hz}

    @cached_property
    def _filter(self) -> np.ndarray:
        """Band-pass filter at the common multiple of the rates of the recording and of the part."""
        inner_hz = self.recording.sampling_rate * self._ratio.numerator
        length, beta = kaiserord(_STOPBAND_DB, self._fall_hz / (inner_hz / 2))
        cutoff_hz = (self.bandwidth_hz + self._fall_hz) / 2
        taps = firwin(length | 1, cutoff_hz, window=("kaiser", beta), fs=inner_hz)
        turns = self.center_hz / inner_hz * (np.arange(len(taps)) - len(taps) // 2)
        return (taps * np.exp(2j * np.pi * turns)).astype(np.complex64)

    def __len__(self) -> int:
        return self.num_samples

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Reads some samples of the band, see [`Recording.read`].

        Returns:
            `np.ndarray` of shape `(count,)`, complex64.

        Raises:
            ValueError: If the samples do not lie within it, or those of the recording are NaN or infinite.
        """
        start, count = part_of(self, start, count, "this band of the recording")
        if self._is_all:
            return self.recording.read(start, count)
        step = max(1, int(_MOST_AT_ONCE * self._ratio))
        pieces = [
            self._filtered(first, min(step, start + count - first)) for first in range(start, start + count, step)
        ]
        return np.concatenate([np.empty(0, np.complex64), *pieces])

    def _filtered(self, start: int, count: int) -> np.ndarray:
        up, down = self._ratio.numerator, self._ratio.denominator
        reach = len(self._filter) // (2 * up) + 1
        # Start where a sample at the new rate coincides with one at the old rate.
        first = (start * down // up - reach) // down * down
        end = (start + count) * down // up + reach + 1
        low, high = max(0, first), min(self.recording.num_samples, end)
        iq = self.recording.read(low, high - low)
        wrong = ~np.isfinite(iq)
        if wrong.any():
            raise ValueError(
                f"{self.path}: the recording has samples that are NaN or infinite, the first at sample "
                f"{low + wrong.argmax()}. Cut them out, or replace them by 0."
            )
        iq = np.pad(iq, (low - first, end - high))
        # `resample_poly` does not filter if the rate stays the same.
        same = self._ratio == 1
        iq = oaconvolve(iq, self._filter, "same") if same else resample_poly(iq, up, down, window=self._filter)
        skipped = start - first * up // down
        # Shift to zero frequency at the new rate, which has fewer samples.
        turns = (start + np.arange(count)) * (self.center_hz / self.sampling_rate) % 1.0
        return iq[skipped : skipped + count] * np.exp(-2j * np.pi * turns).astype(np.complex64)


def carriers_of(recording: Recording, segments: Mapping[str, Any]) -> list[Band]:
    """The carriers of a recording, each as a band that can be classified by itself.

    ```python
    >>> for band in carriers_of(recording, segment(recording)):
    ...     print(band.center_hz, band.bandwidth_hz, classify(band)["protocol"])
    ```

    Args:
        recording ([`Recording`]): Of a band in which several may send beside each other.
        segments (`Mapping`): The result of the pipeline `"iq-segmentation"`. Where parts of one carrier were taken for
            two standards, the larger part is kept.

    Returns:
        `list[Band]`: The largest first; empty if no carrier was found.
    """
    kept: list[Band] = []
    for carrier in segments["carriers"]:
        band = Band(recording, carrier["center_hz"], carrier["bandwidth_hz"])
        if not any(shared_hz(band, other) > _SAME * band.bandwidth_hz for other in kept):
            kept.append(band)
    return kept


def shared_hz(one: Band, other: Band) -> float:
    """Width of the overlap of two bands; negative if they are apart [Hz]."""
    reach = (one.bandwidth_hz + other.bandwidth_hz) / 2
    return min(reach - abs(one.center_hz - other.center_hz), one.bandwidth_hz, other.bandwidth_hz)

"""A part of a recording's band, tuned to and filtered: one carrier of several, as a recording of its own."""

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

# Over how much the filter falls to each side: a share of the width, and no more than so much; beside the edges of the
# recording, beyond which nothing was recorded and the other edge would come in, at most a share of its rate.
_FALL, _LONGEST_FALL_HZ, _FALL_AT_EDGE = 1 / 8, 0.3e6, 1 / 64
_STOPBAND_DB = 70.0  # how far a carrier beside the band is put down
_NARROWEST = 1 / 4096  # of the rate of the recording: filters of narrower bands would be longer than most recordings
# Rates are those of the recording over an integer, or so many parts of it: a filter of few phases makes them.
_PARTS = 32
_MOST_AT_ONCE = 2**22  # samples of the recording that are filtered together
# What shares so much of its width with a larger carrier is a part of that.
_SAME = 0.5


@dataclass(frozen=True, eq=False)
class Band:
    """A part of the band of a recording, as a recording: it is read piece by piece, and has a rate of its own.

    Pieces join without a seam: each is filtered together with what surrounds it. Within the band levels are those of
    the recording to a tenth of a decibel; an eighth of its width beyond its edges, or 0.3 MHz, they are 70 dB lower.

    Args:
        recording ([`Recording`]): Of the whole band.
        center_hz (`float`): Middle of the part, from that of the recording's band [Hz].
        bandwidth_hz (`float`): Its width [Hz]. Of a band that reaches beyond what was recorded only the rest is kept:
            both are then those of the rest, up to a 64th of the recording's rate from its edge.

    Raises:
        ValueError: If the part is too narrow, or its middle was not recorded, or the recording is too short for it.
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
                f"{self.path}: the width of the band is {self.bandwidth_hz:,.15g} Hz, of {rate:,.15g} Hz that were "
                f"recorded; expected {_NARROWEST * rate:,.6g} Hz at least. Is it in Hz?"
            )
        if not abs(self.center_hz) <= rate / 2:
            around_hz = self.recording.center_frequency_hz or 0.0
            raise ValueError(
                f"{self.path}: a band around {around_hz + self.center_hz:,.15g} Hz was asked for, and the recording "
                f"has {around_hz - rate / 2:,.15g} to {around_hz + rate / 2:,.15g} Hz. Expected a middle within; is "
                "it in Hz?"
            )
        if not self._is_all:
            fall_hz = self._fall_hz
            low, high = (self.center_hz + side * self.bandwidth_hz / 2 for side in (-1, 1))
            low, high = max(low, fall_hz - rate / 2), min(high, rate / 2 - fall_hz)
            object.__setattr__(self, "center_hz", (low + high) / 2)
            object.__setattr__(self, "bandwidth_hz", high - low)
        if self.num_samples < 1:
            raise ValueError(
                f"{self.path}: the recording has {self.recording.num_samples} samples of {rate:,.15g} Hz, which are "
                f"none of a band of {self.bandwidth_hz:,.15g} Hz. Expected a longer recording, or a wider band."
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
        """Over how much the filter falls to each side [Hz]."""
        rate = self.recording.sampling_rate
        fall_hz = min(_FALL * self.bandwidth_hz, _LONGEST_FALL_HZ)
        reaches_edge = abs(self.center_hz) + self.bandwidth_hz / 2 + fall_hz > rate / 2
        return min(fall_hz, _FALL_AT_EDGE * rate) if reaches_edge else fall_hz

    @cached_property
    def _ratio(self) -> Fraction:
        """New rate over old one: no less than band and filter need."""
        wanted = (self.bandwidth_hz + 2 * self._fall_hz) / self.recording.sampling_rate
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
        """`int`: At the rate of the part."""
        return self.recording.num_samples * self._ratio.numerator // self._ratio.denominator

    @property
    def duration_s(self) -> float:
        """`float`: Length [s]."""
        return self.recording.duration_s

    @property
    def center_frequency_hz(self) -> float:
        """`float`: Of the middle of the part; from that of the recording, where nothing says its frequency [Hz]."""
        return (self.recording.center_frequency_hz or 0.0) + self.center_hz

    @property
    def place(self) -> dict[str, float]:
        """`dict`: Where it is, as answers about carriers say it: `center_hz`, its frequency, and `bandwidth_hz`."""
        return {"center_hz": self.center_frequency_hz, "bandwidth_hz": self.bandwidth_hz}

    @cached_property
    def _filter(self) -> np.ndarray:
        """Band-pass filter at the rate of which those of the recording and of the part are fractions."""
        inner_hz = self.recording.sampling_rate * self._ratio.numerator
        length, beta = kaiserord(_STOPBAND_DB, self._fall_hz / (inner_hz / 2))
        cutoff_hz = (self.bandwidth_hz + self._fall_hz) / 2
        taps = firwin(length | 1, cutoff_hz, window=("kaiser", beta), fs=inner_hz)
        turns = self.center_hz / inner_hz * (np.arange(len(taps)) - len(taps) // 2)
        return (taps * np.exp(2j * np.pi * turns)).astype(np.complex64)

    def __len__(self) -> int:
        return self.num_samples

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Reads a part of it, see [`Recording.read`].

        Returns:
            `np.ndarray` of shape `(count,)`, complex64.

        Raises:
            ValueError: If the part does not lie within it, or what it is made from has samples that are no numbers.
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
        # From where a sample of the new rate coincides with one of the old.
        first = (start * down // up - reach) // down * down
        end = (start + count) * down // up + reach + 1
        low, high = max(0, first), min(self.recording.num_samples, end)
        iq = self.recording.read(low, high - low)
        wrong = ~np.isfinite(iq)
        if wrong.any():
            raise ValueError(
                f"{self.path}: the recording has samples that are NaN or infinite, the first at sample "
                f"{low + wrong.argmax()}. Expected finite samples: cut them out, or replace them by 0."
            )
        iq = np.pad(iq, (low - first, end - high))
        # `resample_poly` does nothing where the rate stays.
        same = self._ratio == 1
        iq = oaconvolve(iq, self._filter, "same") if same else resample_poly(iq, up, down, window=self._filter)
        skipped = start - first * up // down
        # Tuned to at the new rate: its samples are fewer.
        turns = (start + np.arange(count)) * (self.center_hz / self.sampling_rate) % 1.0
        return iq[skipped : skipped + count] * np.exp(-2j * np.pi * turns).astype(np.complex64)


def carriers_of(recording: Recording, segments: Mapping[str, Any]) -> list[Band]:
    """The carriers of a recording, each to be listened to by itself.

    ```python
    >>> for band in carriers_of(recording, segment(recording)):
    ...     print(band.center_hz, band.bandwidth_hz, classify(band)["protocol"])
    ```

    Args:
        recording ([`Recording`]): Of a band in which several may send beside each other.
        segments (`Mapping`): The answer of the pipeline `"iq-segmentation"`. Where parts of one carrier were taken for
            two standards, the larger part counts.

    Returns:
        `list[Band]`: The largest first; none if none was found.
    """
    kept: list[Band] = []
    for carrier in segments["carriers"]:
        band = Band(recording, carrier["center_hz"], carrier["bandwidth_hz"])
        if not any(shared_hz(band, other) > _SAME * band.bandwidth_hz for other in kept):
            kept.append(band)
    return kept


def shared_hz(one: Band, other: Band) -> float:
    """Width of the band that two have in common; less than nothing if they are apart [Hz]."""
    reach = (one.bandwidth_hz + other.bandwidth_hz) / 2
    return min(reach - abs(one.center_hz - other.center_hz), one.bandwidth_hz, other.bandwidth_hz)

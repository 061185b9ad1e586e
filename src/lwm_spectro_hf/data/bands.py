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

from .recordings import Recording

# Width of what is kept over that of the band, the rest of which the filter needs to fall [1].
_ROOM = 1.25
# How far a carrier beside the band is put down [dB].
_STOPBAND_DB = 70.0
# Carriers that share so much of the narrower one are one and the same.
_SAME = 0.5
# Rates are those of the recording over an integer, or of these parts of it: a filter of few phases makes them.
_PARTS = 32


@dataclass(frozen=True, eq=False)
class Band:
    """A part of the band of a recording, as a recording: it is read piece by piece, and has a rate of its own.

    Pieces join without a seam: each is filtered together with what surrounds it.

    Args:
        recording ([`Recording`]): Of the whole band.
        center_hz (`float`): Middle of the part, from that of the recording's band [Hz].
        bandwidth_hz (`float`): What is kept, flat to a tenth of a decibel; what is more than a quarter further out is
            70 dB lower [Hz].

    Raises:
        ValueError: If the part has no width, or its middle is not within the band.
    """

    recording: Recording
    center_hz: float
    bandwidth_hz: float

    def __post_init__(self):
        rate = self.recording.sampling_rate
        if not 0 < self.bandwidth_hz < math.inf:
            raise ValueError(f"{self.path}: the width of the band is {self.bandwidth_hz:g} Hz; expected more than 0.")
        if not abs(self.center_hz) <= rate / 2:
            around_hz = self.recording.center_frequency_hz
            raise ValueError(
                f"{self.path}: the middle of the band is {self.center_hz:,.15g} Hz from that of the recording"
                f"{f', {around_hz:,.15g} Hz' if around_hz else ''}, which reaches {rate / 2:,.15g} Hz to both sides. "
                "Expected a frequency within it."
            )
        if self.num_samples < 1:
            raise ValueError(
                f"{self.path}: {self.recording.num_samples} samples of {rate:g} Hz are none of a band of "
                f"{self.bandwidth_hz:g} Hz. Take a wider band or a longer recording."
            )

    @property
    def path(self) -> Path:
        """`Path`: Of the file."""
        return self.recording.path

    @cached_property
    def _ratio(self) -> Fraction:
        """New rate over old one: no less than the band needs."""
        wanted = _ROOM * self.bandwidth_hz / self.recording.sampling_rate
        if wanted >= 1:
            return Fraction(1)
        if wanted * _PARTS < _PARTS // 4:
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
        return self.num_samples / self.sampling_rate

    @property
    def center_frequency_hz(self) -> float:
        """`float`: Of the middle of the part; from that of the recording, where nothing says its frequency [Hz]."""
        return (self.recording.center_frequency_hz or 0.0) + self.center_hz

    @cached_property
    def _filter(self) -> np.ndarray:
        """Low-pass filter at the rate where the recording's is a multiple of the new one."""
        new_rate = self.sampling_rate
        inner_hz = self.recording.sampling_rate * self._ratio.numerator
        falls_hz = max((new_rate - self.bandwidth_hz) / 2, new_rate / 64)
        length, beta = kaiserord(_STOPBAND_DB, falls_hz / (inner_hz / 2))
        taps = firwin(length | 1, (new_rate - falls_hz) / 2, window=("kaiser", beta), fs=inner_hz)
        return taps.astype(np.float32)

    def __len__(self) -> int:
        return self.num_samples

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Reads a part of it, see [`Recording.read`].

        Returns:
            `np.ndarray` of shape `(count,)`, complex64.
        """
        start = int(start)
        count = self.num_samples - start if count is None else int(count)
        if start < 0 or count < 0 or start + count > self.num_samples:
            raise ValueError(
                f"{self.path}: {count} samples from sample {start} were asked for, but this band of the recording has "
                f"{self.num_samples}. Ask for a part within it."
            )
        if not count:
            return np.empty(0, np.complex64)
        if self.center_hz == 0 and self.bandwidth_hz >= self.recording.sampling_rate:  # all of it, as it is
            return self.recording.read(start, count)
        up, down = self._ratio.numerator, self._ratio.denominator
        reach = len(self._filter) // (2 * up) + 1
        # From where a sample of the new rate coincides with one of the old.
        first = (start * down // up - reach) // down * down
        end = (start + count) * down // up + reach + 1
        low, high = max(0, first), min(self.recording.num_samples, end)
        iq = np.pad(self.recording.read(low, high - low), (low - first, end - high))
        turns = np.arange(first, end) * (self.center_hz / self.recording.sampling_rate) % 1.0
        iq = iq * np.exp(-2j * np.pi * turns).astype(np.complex64)
        # `resample_poly` does nothing where the rate stays.
        same = self._ratio == 1
        iq = oaconvolve(iq, self._filter, "same") if same else resample_poly(iq, up, down, window=self._filter)
        skipped = start - first * up // down
        return iq[skipped : skipped + count].astype(np.complex64, copy=False)


def carriers_of(recording: Recording, segments: Mapping[str, Any]) -> list[Band]:
    """The carriers of a recording, each to be listened to by itself.

    ```python
    >>> for band in carriers_of(recording, segment(recording)):
    ...     print(band.center_hz, band.bandwidth_hz, classify(band)["protocol"])
    ```

    Args:
        recording ([`Recording`]): Of a band in which several may send beside each other.
        segments (`Mapping`): The answer of the pipeline `"iq-segmentation"`, with `carriers` and `bin_hz`. Where parts
            of one carrier were taken for two standards, the larger part counts.

    Returns:
        `list[Band]`: The largest first, a bin wider to each side than it was found; the whole band if none was.
    """
    kept: list[Band] = []
    for carrier in segments["carriers"]:
        # Edges are known to a bin, and what lies beyond one would be filtered.
        band = Band(recording, carrier["center_hz"], carrier["bandwidth_hz"] + 2 * segments["bin_hz"])
        if not any(shared_hz(band, other) > _SAME * min(band.bandwidth_hz, other.bandwidth_hz) for other in kept):
            kept.append(band)
    return kept or [Band(recording, 0.0, recording.sampling_rate)]


def shared_hz(one: Band, other: Band) -> float:
    """Width of the band that two have in common; less than nothing if they are apart [Hz]."""
    reach = (one.bandwidth_hz + other.bandwidth_hz) / 2
    return min(reach - abs(one.center_hz - other.center_hz), one.bandwidth_hz, other.bandwidth_hz)

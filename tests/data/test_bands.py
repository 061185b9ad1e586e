"""Parts of a band: what lies within them stays, what lies beside them is gone, and pieces join without a seam."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.signal import firwin, lfilter

from lwm_spectro_hf.data.bands import Band, carriers_of, shared_hz
from lwm_spectro_hf.data.recordings import open_recording, write_sigmf

RATE = 20e6
# From the middle, width: rates of an eighth, of parts of 32, and the same one.
BANDS = [(2e6, 1.9e6), (-8e6, 1.4e6), (3e6, 9e6), (-1e6, 13e6), (0.0, 17e6)]


@pytest.fixture
def recording_of(tmp_path):
    def write(iq, **options):
        return open_recording(write_sigmf(tmp_path / "wide", np.asarray(iq, np.complex64), RATE, **options))

    return write


def tone(frequency_hz, num_samples, rate=RATE):
    return np.exp(2j * np.pi * frequency_hz / rate * np.arange(num_samples))


def level_db(iq):
    return 10 * np.log10(np.mean(np.abs(iq) ** 2) + 1e-30)


@pytest.mark.parametrize("center_hz, bandwidth_hz", BANDS)
def test_tones_within_stay_as_they_are(center_hz, bandwidth_hz, recording_of):
    for place in (-0.49, 0.1, 0.49):
        band = Band(recording_of(tone(center_hz + place * bandwidth_hz, 40_000)), center_hz, bandwidth_hz)
        assert min(1.25 * bandwidth_hz, RATE) <= band.sampling_rate + 1 <= RATE + 1
        expected = tone(place * bandwidth_hz, band.num_samples, band.sampling_rate)
        middle = slice(band.num_samples // 4, 3 * band.num_samples // 4)
        assert np.abs(band.read() - expected)[middle].max() < 0.01  # a tenth of a decibel


@pytest.mark.parametrize("center_hz, bandwidth_hz", [band for band in BANDS if band[1] < 15e6])
def test_tones_beside_are_gone(center_hz, bandwidth_hz, recording_of):
    for side in (-1, 1):
        band = Band(recording_of(tone(center_hz + side * 0.7 * bandwidth_hz, 40_000)), center_hz, bandwidth_hz)
        middle = slice(band.num_samples // 4, 3 * band.num_samples // 4)
        assert level_db(band.read()[middle]) < -65


def test_it_is_what_filtering_and_decimating_gives(recording_of, noise):
    iq = noise(30_000)
    band = Band(recording_of(iq), 2e6, 1.9e6)
    assert band.sampling_rate == RATE / 8 and band.num_samples == 3750
    taps = firwin(801, 1.1e6, fs=RATE)
    reference = lfilter(taps, 1, np.pad(iq * tone(-2e6, len(iq)), (0, 400)))[400::8]
    # Two filters for one band: what they pass differs at its edges alone.
    error = level_db((band.read() - reference)[100:-100]) - level_db(reference)
    assert error < -10
    spectra = [np.fft.fft(part[100:-100]) for part in (band.read(), reference)]
    frequency = np.abs(np.fft.fftfreq(len(spectra[0]), 1 / band.sampling_rate))
    assert np.abs(spectra[0] - spectra[1])[frequency < 0.8e6].max() < 0.1 * np.abs(spectra[1]).mean()


@pytest.mark.parametrize("center_hz, bandwidth_hz", BANDS)
def test_pieces_join_without_a_seam(center_hz, bandwidth_hz, recording_of, noise):
    recording = recording_of(noise(9001))
    band = Band(recording, center_hz, bandwidth_hz)
    whole, step = band.read(), 137
    pieces = [band.read(start, min(step, len(band) - start)) for start in range(0, len(band), step)]
    assert len(whole) == band.num_samples and band.duration_s == pytest.approx(recording.duration_s, rel=0.01)
    assert np.concatenate(pieces) == pytest.approx(whole, abs=1e-5)
    assert whole.dtype == np.complex64 and len(band.read(5, 0)) == 0


def test_all_of_the_band_is_the_recording(recording_of, noise):
    recording = recording_of(noise(1000))
    assert np.array_equal(Band(recording, 0.0, RATE).read(3, 500), recording.read(3, 500))


def test_where_its_middle_is(recording_of, noise):
    assert Band(recording_of(noise(1000)), 2e6, 1e6).center_frequency_hz == 2e6
    assert Band(recording_of(noise(1000), center_frequency_hz=2.4e9), 2e6, 1e6).center_frequency_hz == 2.402e9


def test_what_cannot_be(recording_of, noise):
    recording = recording_of(noise(1000), center_frequency_hz=2.4e9)
    with pytest.raises(ValueError, match="wide.*width of the band is 0 Hz; expected more than 0"):
        Band(recording, 0.0, 0.0)
    with pytest.raises(
        ValueError, match=r"11,000,000 Hz from that of the recording, 2,400,000,000 Hz, which reaches 1"
    ):
        Band(recording, 11e6, 1e6)
    with pytest.raises(ValueError, match="is nan Hz from that"):
        Band(recording, float("nan"), 1e6)
    with pytest.raises(ValueError, match="1000 samples of 2e\\+07 Hz are none of a band of 1000 Hz"):
        Band(recording, 0.0, 1e3)
    band = Band(recording, 0.0, 1e6)
    with pytest.raises(ValueError, match=r"60 samples from sample 10 were asked for, but .* has 62"):
        band.read(10, 60)


def test_carriers_are_told_apart(recording_of, noise):
    recording = recording_of(noise(1000))
    found = [(0.0, 8e6), (2e6, 5e6), (-6e6, 3e6), (-7e6, 2e6), (8e6, 1e6)]  # the second and fourth are parts of others
    found = [{"center_hz": center, "bandwidth_hz": width, "label": "LTE"} for center, width in found]
    bands = carriers_of(recording, {"carriers": found, "bin_hz": 1e5})
    assert [(band.center_hz, band.bandwidth_hz) for band in bands] == [(0.0, 8.2e6), (-6e6, 3.2e6), (8e6, 1.2e6)]
    (whole,) = carriers_of(recording, {"carriers": [], "bin_hz": 1e5})
    assert (whole.center_hz, whole.bandwidth_hz) == (0.0, RATE)


@pytest.mark.parametrize("center_hz, shared", [(0.0, 2e6), (2e6, 2e6), (4e6, 1e6), (5e6, 0.0), (6e6, -1e6)])
def test_what_two_share(center_hz, shared, recording_of, noise):
    recording = recording_of(noise(1000))
    assert shared_hz(Band(recording, 0.0, 8e6), Band(recording, center_hz, 2e6)) == shared


def test_rates_have_small_ratios(recording_of, noise):
    recording = recording_of(noise(1000))
    for bandwidth_hz in np.linspace(1e5, 19e6, 57):
        ratio = Fraction(Band(recording, 0.0, bandwidth_hz).sampling_rate / RATE).limit_denominator(1000)
        assert ratio.numerator == 1 or ratio.denominator <= 32

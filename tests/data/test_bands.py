"""Parts of a band: signals inside are kept, signals outside are removed, and pieces join without a seam."""

import runpy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import firwin, lfilter
from transformers import pipeline

from lwm_spectro_hf.data.bands import Band, carriers_of, shared_hz
from lwm_spectro_hf.data.recordings import open_recording, write_sigmf
from lwm_spectro_hf.data.scenes import SceneRecipe, draw_scenes
from lwm_spectro_hf.resources import default_checkpoint, default_segmenter, demo_recordings

RATE = 20e6
# Center and width: their rates are an eighth, some 32nds, and all of that of the recording.
BANDS = [(2e6, 1.7e6), (-8e6, 1.4e6), (3e6, 9e6), (-1e6, 13e6), (0.0, 17e6)]


@pytest.fixture
def recording_of(tmp_path):
    def write(iq, **options):
        return open_recording(write_sigmf(tmp_path / "wide", np.asarray(iq, np.complex64), RATE, **options))

    return write


def tone(frequency_hz, num_samples, rate=RATE):
    return np.exp(2j * np.pi * frequency_hz / rate * np.arange(num_samples))


def level_db(iq):
    return 10 * np.log10(np.mean(np.abs(iq) ** 2) + 1e-30)


def widest_fall(bandwidth_hz):
    return min(bandwidth_hz / 8, 0.3e6)


@pytest.mark.parametrize("center_hz, bandwidth_hz", BANDS)
def test_tones_inside_are_unchanged(center_hz, bandwidth_hz, recording_of):
    for place in (-0.49, 0.1, 0.49):
        band = Band(recording_of(tone(center_hz + place * bandwidth_hz, 40_000)), center_hz, bandwidth_hz)
        assert (band.center_hz, band.bandwidth_hz) == (center_hz, bandwidth_hz)
        assert min(bandwidth_hz + 2 * widest_fall(bandwidth_hz), RATE) <= band.sampling_rate + 1 <= RATE + 1
        expected = tone(place * bandwidth_hz, band.num_samples, band.sampling_rate)
        middle = slice(band.num_samples // 4, 3 * band.num_samples // 4)
        assert np.abs(band.read() - expected)[middle].max() < 0.01  # a tenth of a decibel


@pytest.mark.parametrize("bandwidth_hz", np.linspace(0.3e6, 15e6, 25))  # for any ratio of rates
def test_tones_outside_are_removed(bandwidth_hz, recording_of):
    center_hz = 0.4e6
    for side in (-1, 1):
        beside_hz = bandwidth_hz / 2 + 1.02 * widest_fall(bandwidth_hz)
        band = Band(recording_of(tone(center_hz + side * beside_hz, 60_000)), center_hz, bandwidth_hz)
        middle = slice(band.num_samples // 4, 3 * band.num_samples // 4)
        assert level_db(band.read()[middle]) < -65


@pytest.mark.parametrize("center_hz, bandwidth_hz", [(9e6, 4e6), (5e6, 17e6), (10e6, 20e6), (-9.9e6, 2e6)])
def test_bands_are_clipped_to_the_recording(center_hz, bandwidth_hz, recording_of):
    """A band beyond an edge of the recording ends there, and the other edge does not alias into it."""
    side = np.sign(center_hz)
    low, high = sorted((center_hz - side * bandwidth_hz / 2, side * RATE / 2))
    other = recording_of(tone(-side * 9.6e6, 40_000) + 0.01 * tone(side * 9.2e6, 40_000))
    band = Band(other, center_hz, bandwidth_hz)
    assert band.center_hz == pytest.approx((low + high) / 2, abs=RATE / 64)
    assert band.bandwidth_hz == pytest.approx(high - low, abs=RATE / 64)
    middle = slice(band.num_samples // 4, 3 * band.num_samples // 4)
    expected = 0.01 * tone(side * 9.2e6 - band.center_hz, band.num_samples, band.sampling_rate)
    assert np.abs(band.read() - expected)[middle].max() < 0.001


def test_a_band_equals_filtering_and_decimating(recording_of, noise):
    iq = noise(30_000)
    band = Band(recording_of(iq), 2e6, 1.7e6)
    assert band.sampling_rate == RATE / 8 and band.num_samples == 3750
    taps = firwin(801, 1.0e6, fs=RATE)
    reference = lfilter(taps, 1, np.pad(iq * tone(-2e6, len(iq)), (0, 400)))[400::8]
    # The two filters differ only at the edges of the band.
    error = level_db((band.read() - reference)[100:-100]) - level_db(reference)
    assert error < -10
    spectra = [np.fft.fft(part[100:-100]) for part in (band.read(), reference)]
    frequency = np.abs(np.fft.fftfreq(len(spectra[0]), 1 / band.sampling_rate))
    assert np.abs(spectra[0] - spectra[1])[frequency < 0.75e6].max() < 0.1 * np.abs(spectra[1]).mean()


@pytest.mark.parametrize("center_hz, bandwidth_hz", BANDS)
def test_pieces_join_without_a_seam(center_hz, bandwidth_hz, recording_of, noise):
    recording = recording_of(noise(9001))
    band = Band(recording, center_hz, bandwidth_hz)
    whole, step = band.read(), 137
    pieces = [band.read(start, min(step, len(band) - start)) for start in range(0, len(band), step)]
    assert len(whole) == band.num_samples and band.duration_s == pytest.approx(recording.duration_s, rel=0.01)
    assert np.concatenate(pieces) == pytest.approx(whole, abs=1e-5)
    assert whole.dtype == np.complex64 and len(band.read(5, 0)) == 0


def test_the_full_band_equals_the_recording(recording_of, noise):
    recording = recording_of(noise(1000))
    assert np.array_equal(Band(recording, 0.0, RATE).read(3, 500), recording.read(3, 500))


def test_a_band_is_no_wider_than_the_recording(recording_of, noise):
    recording = recording_of(noise(2000))
    assert Band(recording, 0.0, 3 * recording.sampling_rate).bandwidth_hz == recording.sampling_rate


def test_a_band_has_the_absolute_center_frequency(recording_of, noise):
    assert Band(recording_of(noise(1000)), 2e6, 1e6).center_frequency_hz == 2e6
    assert Band(recording_of(noise(1000), center_frequency_hz=2.4e9), 2e6, 1e6).center_frequency_hz == 2.402e9


def test_impossible_bands_are_errors(recording_of, noise):
    recording = recording_of(noise(1000), center_frequency_hz=2.4e9)
    for width in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"wide.*width of the band is {width:g} Hz; expected a finite number"):
            Band(recording, 0.0, width)
    with pytest.raises(
        ValueError, match="width of the band is 20 Hz, out of 20,000,000 Hz .* at least 4,882.81 Hz. Is it"
    ):
        Band(recording, 0.0, 20)
    with pytest.raises(
        ValueError, match="around 2,411,000,000 Hz was requested, but .* covers 2,390,000,000 to 2,410,000,"
    ):
        Band(recording, 11e6, 1e6)
    with pytest.raises(ValueError, match="around nan Hz was requested"):
        Band(recording, float("nan"), 1e6)
    with pytest.raises(
        ValueError, match="1000 samples at 20,000,000 Hz, too few for one sample of a band of 10,000 Hz"
    ):
        Band(recording, 0.0, 1e4)
    band = Band(recording, 0.0, 1e6)
    with pytest.raises(ValueError, match=r"70 samples from sample 10 on were requested, but .* has 76"):
        band.read(10, 70)


def test_nan_is_named_by_its_place_in_the_recording(recording_of, noise):
    iq = noise(9000)
    iq[4321] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite, the first at sample 4321"):
        Band(recording_of(iq), 2e6, 1.9e6).read()


def test_long_reads_are_filtered_in_parts(recording_of, noise, monkeypatch):
    recording = recording_of(noise(9000))
    whole = Band(recording, 3e6, 9e6).read()
    monkeypatch.setattr("lwm_spectro_hf.data.bands._MOST_AT_ONCE", 1000)
    assert Band(recording, 3e6, 9e6).read() == pytest.approx(whole, abs=1e-5)


def test_carriers_within_others_are_dropped(recording_of, noise):
    recording = recording_of(noise(1000))
    # The second and the fourth are parts of others; the last contains a narrower one.
    found = [(0.0, 8e6), (2e6, 5e6), (-6e6, 3e6), (-7e6, 2e6), (8e6, 1e6), (7e6, 4e6)]
    found = [{"center_hz": center, "bandwidth_hz": width, "label": "LTE"} for center, width in found]
    bands = carriers_of(recording, {"carriers": found})
    assert [(band.center_hz, band.bandwidth_hz) for band in bands] == [(0.0, 8e6), (-6e6, 3e6), (8e6, 1e6), (7e6, 4e6)]
    assert carriers_of(recording, {"carriers": []}) == []


@pytest.mark.parametrize("center_hz, shared", [(0.0, 2e6), (2e6, 2e6), (4e6, 1e6), (5e6, 0.0), (6e6, -1e6)])
def test_shared_bandwidth_of_two_bands(center_hz, shared, recording_of, noise):
    recording = recording_of(noise(1000))
    assert shared_hz(Band(recording, 0.0, 8e6), Band(recording, center_hz, 2e6)) == shared


def test_rates_have_small_ratios(recording_of, noise):
    recording = recording_of(noise(1000))
    for bandwidth_hz in np.linspace(1e5, 19e6, 57):
        ratio = Fraction(Band(recording, 0.0, bandwidth_hz).sampling_rate / RATE).limit_denominator(1000)
        assert ratio.numerator == 1 or ratio.denominator <= 32


def test_a_carrier_is_classified_like_its_whole_channel():
    """Its band has the rate of the whole channel; at a lower one, WiFi would look like a part of a channel."""
    (path,) = (path for path in demo_recordings().glob("wifi*.sigmf-meta"))
    recording = open_recording(path)
    classify = pipeline("iq-classification", model=str(default_checkpoint()))
    whole, tuned = (classify(part) for part in (recording, Band(recording, -0.1e6, 17.6e6)))
    assert whole["modulation"] == tuned["modulation"] and whole["snr_db"] == tuned["snr_db"]
    assert tuned["modulation_score"] > 0.9


def test_adjacent_carriers_are_classified_one_by_one():
    """Classifying the whole band would find at most one of them."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "carriers.py"))
    recipe = SceneRecipe(replace(SceneRecipe().transmissions, chunk_size=2), presence=1.0, snrs_db=(20.0, 25.0))
    scenes = draw_scenes(recipe, 3, seed=1)
    segment = pipeline("iq-segmentation", model=str(default_segmenter()))
    classify = pipeline("iq-classification", model=str(default_checkpoint()))
    for iq, labels, snr_db in zip(scenes.iq, scenes.labels, scenes.snr_db, strict=True):
        recording = benchmark["Scene"](iq.numpy(), scenes.sampling_rate)
        truth = benchmark["carriers_in"](recording, labels, snr_db)
        assert len(truth) >= 2
        bands = carriers_of(recording, segment(recording))
        for true, name, _ in truth:
            (band,) = (band for band in bands if benchmark["covers"](band, true))
            assert classify(band)["protocol"] == name

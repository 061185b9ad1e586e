"""The spectrogram front-end, against scipy, closed forms, and itself in other batches."""

import json

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT, get_window

from lwm_spectro_hf.feature_extraction_lwm_spectro import (
    CPU_CHUNK_CELLS,
    SpectrogramFeatureExtractor,
    analysis_window,
)

TWO_WINDOWS = ["boxcar", "general_hamming:0.72"]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(np.complex64)


def small(**settings) -> SpectrogramFeatureExtractor:
    return SpectrogramFeatureExtractor(**{"num_frames": 12, "num_freq_bins": 16, "fft_size": 16} | settings)


def relative_db(power: np.ndarray, floor_db: float = -100.0) -> np.ndarray:
    return np.maximum(10 * np.log10(power / power.mean((-2, -1), keepdims=True)), floor_db)


class TestAnalysisWindow:
    @pytest.mark.parametrize("length", [16, 33, 128])
    @pytest.mark.parametrize(
        ("name", "scipy_name"),
        [(name, name) for name in ("boxcar", "hann", "hamming", "blackman", "nuttall", "blackmanharris", "flattop")]
        + [
            ("general_hamming:0.72", ("general_hamming", 0.72)),
            ("kaiser:8.6", ("kaiser", 8.6)),
            ("gaussian:9", ("gaussian", 9)),
        ],
    )
    def test_equals_scipys_periodic_window(self, name, scipy_name, length):
        np.testing.assert_allclose(
            analysis_window(name, length), get_window(scipy_name, length, fftbins=True), atol=1e-12
        )


class TestSpectrogram:
    @pytest.mark.parametrize(
        ("fft_size", "num_freq_bins", "hop_length", "window"),
        [(128, 128, 128, "boxcar"), (64, 50, 17, "hann"), (65, 33, 200, "blackman"), (64, 1, 5, "hamming")],
    )
    def test_equals_scipys_short_time_fft(self, fft_size, num_freq_bins, hop_length, window):
        num_frames = 20
        iq = noise(3, (num_frames - 1) * hop_length + fft_size)
        extractor = SpectrogramFeatureExtractor(
            num_frames=num_frames,
            num_freq_bins=num_freq_bins,
            fft_size=fft_size,
            hop_length=hop_length,
            window_function=window,
            normalization="none",
        )
        ours = extractor(iq, return_tensors="np")["input_values"]

        # Shifted by half a window, scipy's slice p starts at sample p * hop_length, as in equation 7.
        transform = ShortTimeFFT(get_window(window, fft_size), hop_length, 1.0, fft_mode="centered")
        padded = np.pad(iq.astype(np.complex128), ((0, 0), (fft_size, fft_size)))
        power = transform.spectrogram(padded, p0=0, p1=num_frames, k_offset=fft_size + transform.m_num_mid)
        power = power.transpose(0, 2, 1)
        left = fft_size // 2 - num_freq_bins // 2
        expected = relative_db(power[..., left : left + num_freq_bins])

        assert ours.shape == (3, 1, num_frames, num_freq_bins)
        np.testing.assert_allclose(ours[:, 0], expected, atol=2e-3)

    @pytest.mark.parametrize(("fft_size", "num_freq_bins"), [(16, 16), (32, 16), (17, 17), (33, 16)])
    @pytest.mark.parametrize("bin_offset", [-7, -1, 0, 1, 7])
    def test_a_tone_lands_in_its_bin_and_positive_frequencies_are_right(self, fft_size, num_freq_bins, bin_offset):
        tone = np.exp(2j * np.pi * bin_offset / fft_size * np.arange(40 * fft_size))
        image = small(fft_size=fft_size, num_freq_bins=num_freq_bins, normalization="none")(tone, return_tensors="np")
        image = image["input_values"][0, 0]
        assert (image.argmax(axis=1) == num_freq_bins // 2 + bin_offset).all()
        # All power in one of the bins: that bin is num_freq_bins above the mean, the others are rounding noise.
        np.testing.assert_allclose(image.max(axis=1), 10 * np.log10(num_freq_bins), atol=1e-3)
        assert np.sort(image, axis=1)[:, -2].max() < -60

    def test_time_runs_down(self):
        iq = np.zeros(12 * 16, dtype=np.complex64)
        iq[3 * 16 : 4 * 16] = noise(16)
        image = small(hop_length=16, normalization="none")(iq, return_tensors="np")["input_values"][0, 0]
        assert np.flatnonzero((image > -50).all(axis=1)).tolist() == [3]

    def test_parseval_gives_the_power_of_each_frame(self):
        iq = noise(12 * 16) * np.repeat(np.geomspace(0.1, 10, 12), 16)
        image = small(hop_length=16, normalization="none")(iq, return_tensors="np")["input_values"][0, 0]
        in_frames = (np.abs(iq.reshape(12, 16)) ** 2).mean(axis=1)
        np.testing.assert_allclose((10 ** (image / 10)).mean(axis=1), in_frames / in_frames.mean(), rtol=1e-5)

    @pytest.mark.parametrize(("num_samples", "hop"), [(27, 1), (38, 2), (12 * 16, 16), (1000, 89)])
    def test_auto_hop_spreads_the_frames_over_the_recording(self, num_samples, hop):
        iq = noise(num_samples)
        automatic = small()(iq, return_tensors="pt").input_values
        assert torch.equal(automatic, small(hop_length=hop)(iq, return_tensors="pt").input_values)

    @pytest.mark.parametrize("hop_length", ["auto", 20])
    def test_the_resolution_matches_the_place_of_tones_and_bursts(self, hop_length):
        """A burst three steps later, with a tone three steps higher, is three frames and three bins further."""
        extractor, rate = small(hop_length=hop_length, fft_size=16), 2e6
        step_s, step_hz = extractor.resolution(1000, rate).tolist()
        iq = np.zeros((2, 1000), complex)
        for row, frame in enumerate((2, 5)):
            time = np.arange(16) + round(frame * step_s * rate)
            iq[row, time] = np.exp(2j * np.pi * (row * 3 * step_hz) * time / rate)
        peaks = [np.unravel_index(row[0].argmax(), row[0].shape) for row in extractor(iq)["input_values"]]
        assert np.subtract(peaks[1], peaks[0]).tolist() == [3, 3]

    def test_the_resolution_is_returned_if_the_rate_is_known(self):
        extractor = small()
        outputs = extractor([noise(200), noise(400), noise(200)], sampling_rate=1e6, return_tensors="pt")
        assert outputs.keys() == set(extractor.model_input_names)
        for row, num_samples in zip(outputs["resolution"], (200, 400, 200), strict=True):
            assert torch.equal(row, extractor.resolution(num_samples, 1e6))
        assert "resolution" not in extractor(noise(200))
        # Frames that were cut out of a recording are further apart than they are long.
        cut = extractor.resolution(extractor.num_frames * extractor.fft_size, 1e6, frame_step_s=71e-6)
        assert cut.tolist() == pytest.approx([71e-6, 1e6 / extractor.fft_size])

    def test_centered_takes_the_middle(self):
        iq = noise(12 * 16 + 11)
        middle = small(hop_length=16)(iq[5 : 5 + 12 * 16], return_tensors="pt").input_values
        assert torch.equal(small(hop_length=16, centered=True)(iq, return_tensors="pt").input_values, middle)
        start = small(hop_length=16)(iq[: 12 * 16], return_tensors="pt").input_values
        assert torch.equal(small(hop_length=16)(iq, return_tensors="pt").input_values, start)

    def test_each_window_is_a_channel(self):
        iq = noise(2, 500)
        coefficients = get_window("hann", 16).tolist()
        both = small(window_function=["boxcar", coefficients])
        assert both.feature_size == 2
        values = both(iq, return_tensors="pt").input_values
        assert torch.equal(values[:, :1], small()(iq, return_tensors="pt").input_values)
        assert torch.equal(values[:, 1:], small(window_function="hann")(iq, return_tensors="pt").input_values)
        assert torch.equal(values[:, 1:], small(window_function=coefficients)(iq, return_tensors="pt").input_values)


class TestNormalization:
    def test_per_sample_gives_each_channel_zero_mean_and_unit_variance(self):
        values = small(window_function=TWO_WINDOWS)(noise(3, 700), return_tensors="pt").input_values.double()
        torch.testing.assert_close(values.mean((2, 3)), torch.zeros(3, 2).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std((2, 3), correction=0), torch.ones(3, 2).double(), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("mean", "std"), [(-2.5, 5.5), ([-2.5, 1.0], [5.5, 4.0])])
    def test_dataset_applies_the_given_statistics(self, mean, std):
        iq = noise(3, 700)
        plain = small(window_function=TWO_WINDOWS, normalization="none")(iq, return_tensors="np")["input_values"]
        values = small(window_function=TWO_WINDOWS, normalization="dataset", mean=mean, std=std)(iq)["input_values"]
        means, stds = (np.broadcast_to(value, 2).reshape(1, 2, 1, 1) for value in (mean, std))
        np.testing.assert_allclose(np.stack(values), (plain - means) / stds, atol=1e-5)

    @pytest.mark.parametrize("normalization", ["per_sample", "none"])
    def test_scale_does_not_matter(self, normalization):
        extractor = small(normalization=normalization, log_floor_db=-30.0)
        iq = noise(2, 600)
        expected = extractor(iq, return_tensors="pt").input_values
        for exponent in (-100, -20, 15, 100):  # powers of two: not a bit changes
            scaled = iq * np.float32(2.0**exponent)
            assert torch.equal(extractor(scaled, return_tensors="pt").input_values, expected)
        for scale in (1e-30, 32767.0, 1e30, 0.3 - 0.1j):
            actual = extractor(iq * np.complex64(scale), return_tensors="pt").input_values
            torch.testing.assert_close(actual, expected, atol=2e-3, rtol=0)

    def test_log_floor_is_relative_to_the_mean_power(self):
        iq = np.zeros(12 * 16, dtype=np.complex64)
        iq[:16] = 1e6
        image = small(normalization="none", log_floor_db=-40.0)(iq, return_tensors="np")["input_values"]
        assert image.min() == pytest.approx(-40.0, abs=1e-4)
        assert image.max() == pytest.approx(10 * np.log10(12 * 16), abs=1e-3)

    @pytest.mark.parametrize(
        "settings", [{}, {"normalization": "none"}, {"normalization": "dataset", "mean": -3.0, "std": 2.0}]
    )
    def test_no_power_gives_zeros_and_leaves_the_neighbors_alone(self, settings):
        extractor = small(window_function=TWO_WINDOWS, **settings)
        iq = noise(3, 400)
        iq[1] = 0
        values = extractor(iq, return_tensors="pt").input_values
        assert not values[1].any()
        for row in (0, 2):
            assert torch.equal(values[row : row + 1], extractor(iq[row], return_tensors="pt").input_values)

    def test_a_flat_spectrogram_stays_flat(self):
        impulses = np.zeros(12 * 16, dtype=np.complex64)
        impulses[5::16] = 0.3
        assert np.abs(small(hop_length=16)(impulses)["input_values"][0]).max() < 0.01


class TestBatching:
    @pytest.mark.parametrize("num_threads", [1, 2])
    @pytest.mark.parametrize(
        "settings",
        [
            {"num_frames": 128, "num_freq_bins": 128, "fft_size": 128, "window_function": TWO_WINDOWS},
            {"num_frames": 30, "num_freq_bins": 33, "fft_size": 65, "hop_length": 7, "window_function": "hann"},
            {"num_frames": 1, "num_freq_bins": 13, "fft_size": 16},
            {"num_frames": 200, "num_freq_bins": 192, "fft_size": 256},
        ],
    )
    def test_one_recording_alone_equals_its_row_in_any_batch(self, settings, num_threads):
        extractor = SpectrogramFeatureExtractor(**settings)
        cells = settings["num_frames"] * settings["fft_size"]
        batch_sizes = (2, 3, 7, 16, min(CPU_CHUNK_CELLS // cells + 5, 40))
        iq = noise(max(batch_sizes), extractor.num_samples_needed() + 12_000)
        threads = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            alone = torch.cat([extractor(row, return_tensors="pt").input_values for row in iq])
            for size in batch_sizes:
                assert torch.equal(extractor(iq[:size], return_tensors="pt").input_values, alone[:size])
            assert torch.equal(extractor(iq[1:], return_tensors="pt").input_values, alone[1:])
        finally:
            torch.set_num_threads(threads)

    @pytest.mark.parametrize("hop_length", ["auto", 9])
    def test_a_list_of_mixed_lengths_keeps_order_and_bits(self, hop_length):
        extractor = small(hop_length=hop_length, window_function=TWO_WINDOWS)
        lengths = [300, 150, 300, 1001, 150, 299]
        recordings = [noise(length, seed=seed) for seed, length in enumerate(lengths)]
        values = extractor(recordings, return_tensors="pt").input_values
        assert values.shape == (6, 2, 12, 16)
        for recording, value in zip(recordings, values, strict=True):
            assert torch.equal(extractor(recording, return_tensors="pt").input_values[0], value)

    def test_input_kinds_agree(self):
        extractor, iq = small(), noise(2, 300)
        expected = extractor(torch.from_numpy(iq), return_tensors="pt").input_values
        read_only = iq.copy()
        read_only.setflags(write=False)
        reversed_twice = torch.from_numpy(iq.conj()).conj()
        for same in (iq, iq.astype(np.complex128), iq.astype(">c8"), list(iq), read_only, reversed_twice):
            assert torch.equal(extractor(same, return_tensors="pt").input_values, expected)
        every_second = np.repeat(iq, 2, axis=1)[:, ::2]
        assert torch.equal(extractor(every_second, return_tensors="pt").input_values, expected)
        assert torch.equal(extractor(iq, return_tensors="pt", device="cpu").input_values, expected)

    def test_output_kinds(self):
        extractor, iq = small(), noise(2, 300)
        as_list, as_array = extractor(iq)["input_values"], extractor(iq, return_tensors="np")["input_values"]
        assert isinstance(as_list, list) and as_list[0].shape == (1, 12, 16)
        assert isinstance(as_array, np.ndarray) and as_array.dtype == np.float32
        np.testing.assert_array_equal(np.stack(as_list), as_array)

    def test_spectrogram_is_the_call_without_checks(self):
        extractor, iq = small(hop_length=20), torch.from_numpy(noise(5, 600))
        values = extractor.spectrogram(iq, hop_length=16)
        assert torch.equal(values, small(hop_length=16)(iq, return_tensors="pt").input_values)
        with torch.inference_mode():
            assert torch.equal(extractor.spectrogram(iq.clone(), hop_length=16), values)
        assert not extractor.spectrogram(iq.clone().requires_grad_()).requires_grad
        assert extractor.spectrogram(iq[:0]).shape == (0, 1, 12, 16)
        iq[2, 5] = torch.nan
        assert torch.equal(extractor.spectrogram(iq, hop_length=16)[3:], values[3:])


def test_the_rate_may_be_any_type_of_number():
    extractor, iq = SpectrogramFeatureExtractor(sampling_rate=1e6), noise(20_000)
    for rate in (1e6, np.float32(1e6), np.array(1e6), torch.tensor(1e6)):
        assert extractor(iq, sampling_rate=rate, return_tensors="pt").resolution.shape == (1, 2)
    with pytest.raises(ValueError, match="if rates differ, make one call per rate"):
        extractor([iq, iq], sampling_rate=[1e6, 1e6])


class TestSerialization:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"sampling_rate": 20e6, "hop_length": 64, "centered": True, "window_function": TWO_WINDOWS},
            {"window_function": get_window("hann", 128), "normalization": "dataset", "mean": -3.5, "std": 7.25},
            {"sampling_rate": np.float32(20e6), "num_frames": np.int64(64), "log_floor_db": np.float32(-90)},
            {"window_function": ("hann", np.ones(128)), "normalization": "dataset", "mean": (1.0, 2.0), "std": 3.0},
        ],
    )
    def test_round_trip_is_exact(self, settings, tmp_path):
        extractor = SpectrogramFeatureExtractor(**settings)
        iq = noise(2, 20_000)
        values = extractor(iq, sampling_rate=settings.get("sampling_rate"), return_tensors="pt").input_values
        extractor.save_pretrained(tmp_path)
        again = SpectrogramFeatureExtractor.from_pretrained(tmp_path)
        assert again.to_dict() == extractor.to_dict()
        assert again.to_json_string() == extractor.to_json_string()
        again_values = again(iq, sampling_rate=settings.get("sampling_rate"), return_tensors="pt").input_values
        assert torch.equal(again_values, values)

    def test_json_holds_every_setting_and_nothing_cached(self):
        extractor = SpectrogramFeatureExtractor(window_function=TWO_WINDOWS)
        before = json.loads(extractor.to_json_string())
        extractor(noise(20_000))
        assert json.loads(extractor.to_json_string()) == before
        assert before == {
            "feature_extractor_type": "SpectrogramFeatureExtractor",
            "feature_size": 2,
            "sampling_rate": None,
            "padding_value": 0.0,
            "padding_side": "right",
            "return_attention_mask": False,
            "num_frames": 128,
            "num_freq_bins": 128,
            "fft_size": 128,
            "hop_length": "auto",
            "window_function": ["boxcar", "general_hamming:0.72"],
            "centered": False,
            "log_floor_db": -100.0,
            "normalization": "per_sample",
            "mean": None,
            "std": None,
        }


class TestRecordingErrors:
    """Each says what was found, what was expected and what to do."""

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf * 1j])
    def test_not_finite(self, wrong):
        iq = noise(3, 400)
        iq[1, [7, 20]] = wrong
        with pytest.raises(ValueError, match=r"Recording 1 has 2 sample\(s\) .* first at sample 7\. Cut them out"):
            small()(iq)
        with pytest.raises(ValueError, match="Recording 2 has 2 sample"):
            small()([noise(300), noise(400), iq[1]])

    def test_finite_samples_whose_sum_overflows_are_accepted(self):
        iq = np.full(400, 3e38 + 3e38j, dtype=np.complex64)
        assert torch.isfinite(small()(iq, return_tensors="pt").input_values).all()

    @pytest.mark.parametrize("nothing", [np.zeros(0, np.complex64), np.zeros((2, 0), np.complex64)])
    def test_empty_recording(self, nothing):
        with pytest.raises(ValueError, match="Recording 0 is empty. Expected at least 27 complex samples"):
            small()(nothing)

    @pytest.mark.parametrize("nothing", [[], np.zeros((0, 300), np.complex64)])
    def test_no_recording(self, nothing):
        with pytest.raises(ValueError, match="holds no recording"):
            small()(nothing)

    def test_too_short(self):
        with pytest.raises(ValueError, match=r"has 26 samples.* at least 27, .*fft_size=16.*Pass a longer"):
            small()(noise(26))
        with pytest.raises(ValueError, match=r"has 100 samples.* at least 192, .*num_frames=12.*hop_length=16"):
            small(hop_length=16)([noise(192), noise(100)])
        assert small().num_samples_needed() == 27
        assert small(hop_length=16).num_samples_needed() == 192
        assert small().num_samples_needed(hop_length=16) == 192

    @pytest.mark.parametrize("as_input", [np.asarray, torch.from_numpy, lambda array: [array]])
    def test_real_valued(self, as_input):
        with pytest.raises(ValueError, match=r"type float32\. Expected complex samples\. Pass `I \+ 1j \* Q`"):
            small()(as_input(noise(400).real))

    def test_real_pairs(self):
        pairs = np.stack([noise(400).real, noise(400).imag], axis=-1)
        with pytest.raises(ValueError, match=r"shape \(400, 2\) has type float32.*view_as_complex"):
            small()(pairs)

    @pytest.mark.parametrize("dtype", [np.int16, np.int8, np.uint8])
    def test_integers(self, dtype):
        with pytest.raises(ValueError, match=rf"type {np.dtype(dtype)}\. .*iq\[0::2\] \+ 1j \* iq\[1::2\]"):
            small()(np.zeros(800, dtype=dtype))

    @pytest.mark.parametrize("shape", [(1, 2, 300), ()])
    def test_wrong_number_of_dimensions(self, shape):
        with pytest.raises(ValueError, match=r"dimensions. Expected \(num_samples,\) or \(batch, num_samples\)"):
            small()(np.zeros(shape, np.complex64))

    def test_wrong_number_of_dimensions_in_a_list(self):
        with pytest.raises(
            ValueError, match=r"Recording 1 has shape \(1, 300\), 2 dimensions. Expected \(num_samples,"
        ):
            small()([noise(300), noise(1, 300)])

    def test_not_an_array(self):
        with pytest.raises(ValueError, match="`raw_iq` is of type str. Expected a complex array"):
            small()("recording.sigmf-data")

    def test_spectrogram_checks_the_shape(self):
        with pytest.raises(
            ValueError, match=r"shape \(400,\).*Expected complex samples of shape \(batch, num_samples\)"
        ):
            small().spectrogram(torch.from_numpy(noise(400)))
        with pytest.raises(ValueError, match="type torch.float32"):
            small().spectrogram(torch.zeros(2, 400))
        with pytest.raises(ValueError, match="too short"):
            small().spectrogram(torch.from_numpy(noise(2, 20)))
        with pytest.raises(ValueError, match="`hop_length=0` is out of range"):
            small().spectrogram(torch.from_numpy(noise(2, 200)), hop_length=0)

    def test_sampling_rate(self):
        extractor = small(sampling_rate=20e6)
        iq = noise(300)
        assert extractor(iq, sampling_rate=20_000_000, return_tensors="pt").input_values.shape == (1, 1, 12, 16)
        with pytest.raises(ValueError, match=r"1,920,000 Hz, .* expects 20,000,000 Hz. Resample"):
            extractor(iq, sampling_rate=1.92e6)
        with pytest.raises(ValueError, match=r"rate is missing.*20,000,000 Hz: pass"):
            extractor(iq)
        with pytest.raises(ValueError, match=r"sampling_rate=-1.* Expected a positive number"):
            small()(iq, sampling_rate=-1)
        small()(iq, sampling_rate=1.0)
        small()(iq)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fft_size": 8}, "`fft_size=8` gives fewer bins than `num_freq_bins=16`.*raise `fft_size`"),
        ({"num_frames": 0}, "`num_frames=0` is out of range. Expected an integer of at least 1"),
        ({"num_freq_bins": 4.0}, "`num_freq_bins=4.0` is out of range"),
        ({"fft_size": 1, "num_freq_bins": 1}, "`fft_size=1` is out of range. Expected an integer of at least 2"),
        ({"hop_length": 0}, "`hop_length=0` is out of range.*or 'auto'"),
        ({"hop_length": "half"}, "`hop_length='half'` is out of range.*or 'auto'"),
        (
            {"window_function": "han"},
            "Unknown window 'han'. Known windows: boxcar, hann, .*general_hamming:<parameter>",
        ),
        ({"window_function": "hann:3"}, "Unknown window 'hann:3'"),
        ({"window_function": "general_hamming"}, "needs a number after the colon, as in 'general_hamming:0.72'"),
        ({"window_function": "kaiser:wide"}, "needs a number after the colon"),
        ({"window_function": "gaussian:0"}, "not finite"),
        ({"window_function": [1.0] * 15}, "15 coefficients does not fit `fft_size=16`. Expected 16"),
        ({"window_function": ["hann", [1.0] * 17]}, "17 coefficients does not fit `fft_size=16`"),
        ({"window_function": [0.0] * 16}, "all zero"),
        ({"window_function": []}, "is not a window. Expected a name"),
        ({"window_function": None}, "is not a window. Expected a name"),
        ({"feature_size": 2}, "`feature_size=2` contradicts `window_function`, which gives 1 channel.*Leave"),
        ({"sampling_rate": 0}, "`sampling_rate=0` is not a rate"),
        ({"log_floor_db": 10.0}, "`log_floor_db=10.0` is out of range. Expected a number of dB from -300 to below 0"),
        ({"normalization": "zscore"}, "Unknown `normalization='zscore'`. Expected 'per_sample', 'dataset' or 'none'"),
        ({"normalization": "dataset"}, "`mean=None`. Expected one finite number"),
        ({"normalization": "dataset", "mean": 0.0, "std": 0.0}, "`std=0.0`. Expected one positive number"),
        ({"normalization": "dataset", "mean": [0.0, 1.0], "std": 1.0}, r"`mean=\[0.0, 1.0\]`.*or 1, one for each"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)

"""Pipeline `"iq-segmentation"`: carriers are found where they are, at any rate and length of a recording."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.signal import resample
from transformers import pipeline
from transformers.modeling_outputs import SemanticSegmenterOutput

from lwm_spectro_hf import MaskedConvLstmConfig, MaskedConvLstmForSemanticSegmentation, SpectrogramFeatureExtractor
from lwm_spectro_hf.pipeline_masked_conv_lstm import _centers, _resampled, find_carriers

RATE, HOP = 1.024e6, 64  # bins of 8 kHz
LABELS = {0: "nothing", 1: "LTE", 2: "5G"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    config = MaskedConvLstmConfig(hidden_size=4, num_hidden_layers=1, embedding_stride=8, id2label=LABELS)
    torch.manual_seed(0)
    MaskedConvLstmForSemanticSegmentation(config).save_pretrained(folder)
    front_end = {"hop_length": HOP, "window_function": "hann", "normalization": "none"}
    SpectrogramFeatureExtractor(sampling_rate=RATE, **front_end).save_pretrained(folder)
    return folder


class Loud(torch.nn.Module):
    """Replaces the network: visible values 20 dB above the noise are LTE."""

    def __init__(self, model):
        super().__init__()
        self.config, self.dtype, self.device = model.config, torch.float32, torch.device("cpu")
        self.hidden = []

    def forward(self, input_values, mask):
        values = input_values
        self.hidden.append(mask)
        shown = torch.where(mask, torch.nan, values[:, 0])
        low = shown.flatten(1).nanquantile(0.3, dim=1)[:, None, None]
        loud = (values[:, 0] > low + 20.0).float()
        return SemanticSegmenterOutput(logits=torch.stack([1 - loud, loud, 0 * loud], dim=1))


@pytest.fixture
def segment(folder):
    pipe = pipeline("iq-segmentation", model=str(folder))
    pipe.model = Loud(pipe.model)
    return pipe


def band(num_samples, rate, low_hz, high_hz, level, seed=0):
    """Noise of a band, over white noise that is `level` dB weaker in each bin."""
    generator = np.random.default_rng(seed)
    spectrum = generator.standard_normal(num_samples) + 1j * generator.standard_normal(num_samples)
    frequency = np.fft.fftfreq(num_samples, 1 / rate)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    return np.fft.ifft(spectrum * np.where(inside, 10 ** (level / 20), 1.0)).astype(np.complex64)


@pytest.mark.parametrize("rate, width", [(RATE, 129), (0.5e6, 63), (2.5e6, 313), (4e6, 501)])
def test_a_carrier_is_found_where_it_is(segment, rate, width):
    span_s = (128 + 40) * HOP / RATE  # more than one stretch
    low_hz, high_hz = 0.1 * rate, 0.1 * rate + 120e3
    iq = band(round(span_s * rate), rate, low_hz, high_hz, 40)
    answer = segment(iq, sampling_rate=rate)
    assert answer["bin_hz"] == 8e3 and answer["frame_step_s"] == pytest.approx(HOP / RATE)
    assert answer["labels"].shape[1] == width
    # The frames that fit whole.
    assert answer["labels"].shape[0] == pytest.approx(168, abs=3)
    (carrier, *others) = answer["carriers"]
    assert not others
    assert carrier["label"] == "LTE" and carrier["share_of_time"] == 1.0
    assert carrier["center_hz"] == pytest.approx((low_hz + high_hz) / 2, abs=8e3)
    assert carrier["bandwidth_hz"] == pytest.approx(120e3, abs=24e3)


def test_a_burst_is_found_when_it_is(segment):
    span = 300 * HOP
    iq = band(span, RATE, -200e3, -100e3, 0)
    start, stop = 140 * HOP, 200 * HOP
    iq[start:stop] += band(stop - start, RATE, -200e3, -100e3, 50)
    answer = segment(iq, sampling_rate=RATE)
    columns = slice(64 - 22, 64 - 16)
    rows = np.flatnonzero(answer["labels"][:, columns].mean(1) > 0.5)
    assert rows[0] == pytest.approx(140, abs=2) and rows[-1] == pytest.approx(199, abs=2)
    assert answer["carriers"][0]["share_of_time"] == pytest.approx(60 / 298, abs=0.02)


def test_values_outside_the_recording_are_hidden(segment):
    iq = band(60 * HOP + 64, 0.5 * RATE, -50e3, 50e3, 40)
    segment(iq, sampling_rate=0.5 * RATE)
    (hidden,) = segment.model.hidden
    # Half the band, and 2 x 60 frames at twice the rate, of which the last reaches half a frame further.
    assert (~hidden[0]).any(0).sum() == 65 and (~hidden[0]).any(0)[32:97].all()
    assert (~hidden[0]).any(1).sum() == pytest.approx(120, abs=2)


@pytest.mark.parametrize("rate", [RATE, 0.5e6, 2.5e6])
@pytest.mark.parametrize("rest", [1, 5, 90, 110])
def test_a_short_rest_is_shown_together_with_what_is_before_it(segment, rate, rest):
    num_samples = [round(((frames - 1) * HOP + 128) / RATE * rate) for frames in (128 + rest, 300)]
    iq = band(num_samples[1], rate, -50e3, 50e3, 40)
    whole = segment(iq, sampling_rate=rate)["labels"]
    segment.model.hidden.clear()
    answer = segment(iq[: num_samples[0]], sampling_rate=rate)["labels"]
    assert len(answer) == pytest.approx(128 + rest, abs=1)  # at other rates, the last frame may lack a sample
    assert (answer == whole[: len(answer)]).mean() > 0.99
    shown = (~segment.model.hidden[-1][-1]).any(1).sum()  # frames of the last stretch
    assert shown == pytest.approx(128 if rest < 96 else rest, abs=1)


def test_silence_is_nothing(segment):
    answer = segment(np.zeros(5000, np.complex64), sampling_rate=RATE)
    assert answer["labels"].max() == 0 and answer["carriers"] == []
    assert segment.model.hidden[0].all()


@pytest.mark.parametrize("rate", [RATE, 0.3e6, 2.5e6])
@pytest.mark.parametrize("fill", [0.0, 0.02 - 0.01j])
def test_lost_samples_are_hidden(segment, rate, fill):
    """Otherwise they would be the quietest of all, and noise beside them a carrier as wide as the band."""
    num_samples = round((128 * HOP) * rate / RATE)
    iq = band(num_samples, rate, 0.1 * rate, 0.1 * rate + 80e3, 40)
    whole = segment(iq, sampling_rate=rate)
    first, last = num_samples // 4, 3 * num_samples // 4
    iq[first:last] = fill * np.abs(iq).mean()
    answer = segment(iq, sampling_rate=rate)
    lost = np.arange(len(answer["labels"])) * num_samples / 128
    lost = (lost > first) & (lost + 64 * rate / RATE * 2 < last)
    assert not answer["labels"][lost].any()
    seen = np.roll(lost, 2) | lost | np.roll(lost, -2)  # but for those with the edges
    assert (answer["labels"] == whole["labels"])[~seen].mean() > 0.99
    (carrier,) = answer["carriers"]
    assert carrier["center_hz"] == pytest.approx(whole["carriers"][0]["center_hz"], abs=8e3)
    assert carrier["share_of_time"] == pytest.approx(0.5, abs=0.05)


def test_files_and_lists_give_one_answer_each(folder, write_sigmf, tmp_path):
    pipe = pipeline("iq-segmentation", model=str(folder), batch_size=2)
    iq = [band(length, RATE, 0, 1e5, 20, seed=length) for length in (2000, 9000, 30_000)]
    files = [write_sigmf(tmp_path / f"{len(part)}", part, RATE) for part in iq]
    expected = [pipe(part, sampling_rate=RATE) for part in iq]
    for found in (pipe([str(file) for file in files]), pipe(iq, sampling_rate=RATE)):
        assert [answer["labels"].shape for answer in found] == [answer["labels"].shape for answer in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one["labels"], other["labels"])
            assert one["carriers"] == other["carriers"]


def test_wrong_inputs_are_named(folder):
    pipe = pipeline("iq-segmentation", model=str(folder))
    with pytest.raises(ValueError, match="needs the sampling rate"):
        pipe(np.ones(5000, np.complex64))
    with pytest.raises(ValueError, match="too short. Expected at least 250"):
        pipe(np.ones(200, np.complex64), sampling_rate=2e6)
    with pytest.raises(TypeError, match="unknown argument 'top_k'"):
        pipe(np.ones(5000, np.complex64), top_k=3)
    with pytest.raises(ValueError, match="`sampling_rate=-1`"):
        pipe(np.ones(5000, np.complex64), sampling_rate=-1)
    with pytest.raises(ValueError, match="`sampling_rate=0`"):
        pipe({"iq": np.ones(5000, np.complex64), "sampling_rate": 0})
    with pytest.raises(ValueError, match="type float32. Expected complex samples"):
        pipe(np.ones(5000, np.float32), sampling_rate=1e6)
    broken = np.ones(5000, np.complex64)
    broken[7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite, the first at sample 7"):
        pipe(broken, sampling_rate=1e6)
    model = MaskedConvLstmForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ValueError, match="needs an extractor with the `sampling_rate` and `hop_length`"):
        pipeline("iq-segmentation", model=model, feature_extractor=SpectrogramFeatureExtractor())


@pytest.mark.parametrize("length, new_rate", [(1000, 2.0), (999, 0.5), (1001, 1.0), (1000, 0.731)])
def test_resampling_matches_scipy(length, new_rate):
    iq = torch.randn(length, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    # scipy splits the bin at half the rate between both sides, so that bin must be empty.
    spectrum = torch.fft.fft(iq)
    spectrum[torch.fft.fftfreq(length).abs() > 0.45 * min(1.0, new_rate)] = 0
    iq = torch.fft.ifft(spectrum)
    found = _resampled(torch.fft.fftshift(spectrum), 1.0, 0.0, new_rate)
    np.testing.assert_allclose(found.numpy(), resample(iq.numpy(), round(length * new_rate)), atol=1e-5)


def test_pieces_cover_the_band_and_overlap():
    for rate in (1.03e6, 1.5e6, 2.5e6, 10e6):
        centers = np.array(_centers(rate, RATE, 8e3))
        assert centers[0] <= -(rate - RATE) / 2 + 4e3 and centers[-1] >= (rate - RATE) / 2 - 4e3
        assert (np.diff(centers) <= 0.76 * RATE).all()
        assert (centers % 8e3 == 0).all()
    assert _centers(RATE, RATE, 8e3) == _centers(1e5, RATE, 8e3) == _centers(1.001 * RATE, RATE, 8e3) == [0.0]


def test_each_recording_has_one_answer_at_any_rate(segment):
    iq = [band(200 * HOP, RATE, 0, 100e3, 40, seed) for seed in range(3)]
    for rate in (1.0005 * RATE, 1.005 * RATE, 1.02 * RATE):
        assert len(segment(iq, sampling_rate=rate)) == 3


def test_carriers_are_runs_of_bins():
    labels = np.zeros((100, 41), np.uint8)
    labels[:, 5:15] = 1
    labels[:3, 15] = 1  # briefly wider
    labels[50:, 25:35] = 2
    labels[0, 38] = 1  # a single value is ignored
    labels[:2, 18:24] = 1  # and so are two frames
    labels[10:15, 6:10] = 2  # and a brief confusion within a larger carrier
    first, second = find_carriers(labels, LABELS, 10.0)
    assert first == {"label": "LTE", "center_hz": -105.0, "bandwidth_hz": 100.0, "share_of_time": 1.0}
    assert second == {"label": "5G", "center_hz": 95.0, "bandwidth_hz": 100.0, "share_of_time": 0.5}


def test_short_transmissions_in_long_recordings_are_found():
    labels = np.zeros((100_050, 41), np.uint8)
    labels[60_000:60_100, 5:15] = 1
    labels[-2:, 20:30] = 2  # two frames of an incomplete stretch are ignored
    assert not find_carriers(labels, LABELS, 10.0)
    (found,) = find_carriers(labels, LABELS, 10.0, stretch=128)
    assert found["label"] == "LTE" and found["bandwidth_hz"] == 100.0
    assert found["share_of_time"] == pytest.approx(100 / 100_050)


def test_carriers_of_a_long_recording_take_little_memory():
    labels = np.zeros((128 * 1000, 41), np.uint8)
    labels[:, 5:15] = 1
    tracemalloc.start()
    (found,) = find_carriers(labels, LABELS, 10.0, stretch=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["bandwidth_hz"] == 100.0
    assert peak < labels.nbytes


def test_max_stretches_limits_what_is_read(segment):
    stretch = 128 * HOP
    iq = band(10 * stretch, RATE, 0.1 * RATE, 0.1 * RATE + 120e3, 40)
    iq[: 7 * stretch] = band(7 * stretch, RATE, -0.3 * RATE, -0.3 * RATE + 120e3, 40)
    done = []
    answer = segment(iq, sampling_rate=RATE, max_stretches=2, on_progress=done.append)
    assert answer["labels"].shape[0] == pytest.approx(2 * 128, abs=1)  # the third and the eighth of ten
    assert sorted(carrier["center_hz"] > 0 for carrier in answer["carriers"]) == [False, True]
    assert done == [5 * stretch, 5 * stretch]
    whole = segment(iq, sampling_rate=RATE)["labels"]
    assert np.array_equal(segment(iq, sampling_rate=RATE, max_stretches=99)["labels"], whole)
    assert np.array_equal(answer["labels"][:128], whole[2 * 128 : 3 * 128])
    with pytest.raises(ValueError, match="max_stretches=1.5.*whole number"):
        segment(iq, sampling_rate=RATE, max_stretches=1.5)

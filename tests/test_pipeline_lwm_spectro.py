"""The pipeline against the model and the feature extractor used by hand."""

import importlib
import math
import types
from types import MappingProxyType

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from lwm_spectro_hf import (
    IQClassificationPipeline,
    LwmSpectroForSequenceClassification,
    LwmSpectroMoEForSequenceClassification,
    pipeline_lwm_spectro,
)
from lwm_spectro_hf.evidence_lwm_spectro import view_weights
from lwm_spectro_hf.phy import listening
from lwm_spectro_hf.pipeline_lwm_spectro import register, segment_bounds, window_bounds, without_gaps
from tiny_models import build, tiny_config, tiny_moe_config

RATE = 1e6
DENSE = 16 * 24  # samples of a dense view of the tiny extractor


@pytest.fixture(scope="module")
def classify(tiny_checkpoint):
    return pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")


@pytest.fixture
def listened(classify, monkeypatch):
    """The samples of every view that reaches the feature extractor."""
    pieces = []
    original = type(classify.feature_extractor).__call__

    def spy(self, raw_iq, *args, **kwargs):
        pieces.append(np.array(raw_iq))
        return original(self, raw_iq, *args, **kwargs)

    monkeypatch.setattr(type(classify.feature_extractor), "__call__", spy)
    return pieces


def model_outputs(classify, *pieces):
    """The model's outputs for views, computed without the pipeline."""
    values = torch.cat([classify.feature_extractor(piece, return_tensors="pt").input_values for piece in pieces])
    with torch.no_grad():
        return classify.model(values)


def assert_same(one, other):
    """Two answers are equal but for rounding."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert value == pytest.approx(other[name], abs=1e-5)
        elif isinstance(value, float):
            assert value == pytest.approx(other[name], abs=1e-5)
        else:
            assert value == other[name]


class TestBounds:
    @pytest.mark.parametrize("num_samples", [1, 99, 149, 151, 1000, 1049, 12345])
    def test_segments_cover_the_recording_in_equal_lengths(self, num_samples):
        bounds = [segment[:2] for segment in segment_bounds(0, num_samples, 100)]
        assert bounds == [segment[2:] for segment in segment_bounds(0, num_samples, 100, max_segments=10**6)]
        assert bounds[0][0] == 0 and bounds[-1][1] == num_samples
        assert all(one[1] == other[0] for one, other in zip(bounds, bounds[1:], strict=False))
        lengths = {stop - start for start, stop in bounds}
        assert max(lengths) - min(lengths) <= 1
        assert len(bounds) == 1 or min(lengths) >= 66
        # A segment is not cut again.
        assert all(len(list(segment_bounds(start, stop, 100))) == 1 for start, stop in bounds)

    def test_a_few_segments_are_spread_over_a_range(self):
        assert list(segment_bounds(0, 1000, 100, max_segments=3)) == [
            (100, 200, 0, 333),
            (500, 600, 333, 666),
            (800, 900, 666, 1000),
        ]
        assert list(segment_bounds(200, 1200, 100, max_segments=1)) == [(700, 800, 200, 1200)]

    def test_windows_keep_a_long_remainder_and_leave_out_a_short_one(self):
        assert list(window_bounds(250, 100)) == [(0, 100), (100, 200), (200, 250)]
        assert list(window_bounds(249, 100)) == [(0, 100), (100, 200)]
        assert list(window_bounds(30, 100)) == [(0, 30)]

    def test_windows_leave_out_a_last_one_below_the_needed_length(self):
        assert list(window_bounds(1700, 300))[-2:] == [(1200, 1500), (1500, 1700)]
        assert list(window_bounds(1700, 300, needed=255))[-1] == (1200, 1500)
        assert list(window_bounds(200, 300, needed=255)) == [(0, 200)]

    def test_windows_of_a_fractional_number_of_samples_do_not_drift(self):
        bounds = list(window_bounds(100_000, 33.3))
        assert bounds[-1][0] == pytest.approx(33.3 * (len(bounds) - 1), abs=1)


class TestViews:
    def test_a_short_recording_is_seen_once(self, classify, listened, noise):
        iq = noise(DENSE * 3 // 2)
        classify(iq)
        assert [len(piece) for piece in listened] == [len(iq)]

    def test_a_long_recording_is_seen_whole_and_in_dense_views(self, classify, listened, noise):
        iq = noise(5 * DENSE + 7)
        classify(iq)
        whole, *dense = listened
        np.testing.assert_array_equal(whole, iq)
        starts = [0, 385, 771, 1157, 1543]  # evenly spaced, the last one ends with the recording
        assert len(dense) == len(starts)
        for piece, start in zip(dense, starts, strict=True):
            np.testing.assert_array_equal(piece, iq[start : start + DENSE])

    def test_max_views_limits_the_views(self, classify, listened, noise):
        iq = noise(50 * DENSE)
        classify(iq, max_views=4)
        assert [len(piece) for piece in listened] == [len(iq), DENSE, DENSE, DENSE]
        np.testing.assert_array_equal(listened[-1], iq[-DENSE:])

    def test_a_fixed_hop_has_no_view_of_the_whole(self, classify, listened, noise, monkeypatch):
        monkeypatch.setattr(classify.feature_extractor, "hop_length", 48)
        needed = 15 * 48 + 24
        classify(noise(3 * needed))
        assert [len(piece) for piece in listened] == [needed] * 3

    def test_views_without_power_are_left_out(self, classify, listened, noise):
        iq = np.concatenate([np.zeros(4 * DENSE, np.complex64), noise(4 * DENSE)])
        classify(iq)
        assert len(listened) == 1 + 4
        assert all(np.any(piece) for piece in listened)


class TestSymbols:
    @pytest.fixture
    def heard(self, monkeypatch):
        """Records the calls of `listen`, and gives an answer that a test may change."""
        heard = types.SimpleNamespace(calls=[], evidence=np.array([-2.0, 6.0, 1.0]), frames=[])
        heard.frame_step_s = heard.spacing_hz = np.nan

        def listen(iq, sampling_rate, *args, before=None):
            heard.calls.append((len(iq), sampling_rate, *args))
            return listening.Heard(heard.evidence, heard.frames, heard.frame_step_s, heard.spacing_hz)

        monkeypatch.setattr(listening, "listen", listen)
        return heard

    def test_symbol_evidence_multiplies_the_routers_probabilities(self, classify, heard, noise):
        iq = noise(DENSE)
        answer = classify(iq, sampling_rate=RATE)
        router = (model_outputs(classify, iq).router_logits[0] + torch.from_numpy(heard.evidence)).softmax(-1)
        names = list(classify.model.config.expert_names)
        assert list(answer["protocol_scores"].values()) == pytest.approx(sorted(router.tolist(), reverse=True))
        assert answer["protocol"] == names[router.argmax()]
        assert heard.calls == [(DENSE, RATE, names, 16, 24)]

    def test_symbols_found_refers_to_the_predicted_protocol(self, classify, heard, noise):
        iq = noise(DENSE)
        told = classify(iq)["protocol"]
        place = list(classify.model.config.expert_names).index(told)
        for value, found in ((6.0, True), (-0.1, False), (0.0, None)):
            # The router decides the protocol here, so evidence of other protocols does not count.
            heard.evidence = np.where(np.arange(3) == place, value, -2.0 if value else 1e-9)
            answer = classify(iq, sampling_rate=RATE)
            assert (answer["protocol"], answer["symbols_found"]) == (told, found)
        assert classify(iq)["symbols_found"] is None
        assert classify(np.zeros(DENSE, np.complex64), sampling_rate=RATE)["symbols_found"] is None

    def test_stations_are_passed_on_to_the_next_segment(self, classify, noise, monkeypatch):
        known = []

        def listen(*args, before=None):
            known.append(before)
            return listening.Heard(np.zeros(3), [], stations={0.0: len(known)})

        monkeypatch.setattr(listening, "listen", listen)
        lengths = {"segment_ms": 1e3 * DENSE / RATE, "window_ms": 2e3 * DENSE / RATE}
        classify([noise(4 * DENSE), noise(DENSE)], sampling_rate=RATE, **lengths)
        assert known == [None, {0.0: 1}, None, {0.0: 3}, None], "each window starts anew"

    def test_symbols_in_one_segment_count_for_the_window(self, classify, noise, monkeypatch):
        evidence = iter([-2.0, 6.0, -2.0, -2.0])  # the same for all protocols
        monkeypatch.setattr(
            listening, "listen", lambda *args, before=None: listening.Heard(np.full(3, next(evidence)), [])
        )
        lengths = {"segment_ms": 1e3 * DENSE / RATE, "window_ms": 2e3 * DENSE / RATE}
        windows = classify(noise(4 * DENSE), sampling_rate=RATE, **lengths)
        assert [window["symbols_found"] for window in windows] == [True, False]

    def test_other_senders_are_named(self, classify, noise, monkeypatch):
        names = list(classify.model.config.expert_names)
        others = {name: tuple(other for other in names if other != name) for name in names}
        for evidence, beside, found in ((1.0, {}, {}), (1.0, others, {1.0}), (0.0, others, None)):
            heard = listening.Heard(np.full(3, evidence), [], beside=beside)
            monkeypatch.setattr(listening, "listen", lambda *args, before=None, heard=heard: heard)
            answer = classify(noise(DENSE), sampling_rate=RATE)
            assert answer["also_found"] == (found and dict.fromkeys(others[answer["protocol"]], *found))
        assert classify(noise(DENSE))["also_found"] is None

    @pytest.mark.parametrize("labels", [["5G", "LTE", "WiFi"], ["LTE", "WiFi"]])
    def test_symbol_evidence_is_matched_to_classes_by_name(self, tiny_extractor, heard, noise, labels):
        config = tiny_moe_config(task_name="protocol", id2label=dict(enumerate(labels)), additional_tasks={})
        model = LwmSpectroMoEForSequenceClassification(config).eval()
        own = IQClassificationPipeline(model, feature_extractor=tiny_extractor, device="cpu")
        iq = noise(DENSE)
        blind, told = (own(iq, sampling_rate=RATE, synchronize=on)["protocol_scores"] for on in (False, True))
        known = dict(zip(("WiFi", "LTE", "5G"), heard.evidence, strict=True)) if len(labels) == 3 else {}
        expected = {name: score * math.exp(known.get(name, 0)) for name, score in blind.items()}
        assert told == pytest.approx({name: value / sum(expected.values()) for name, value in expected.items()})

    def test_symbol_views_count_as_much_as_all_blind_views(self, classify, heard, listened, noise):
        iq, heard.frames = noise(2 * DENSE), [noise(DENSE, 1), noise(DENSE, 2)]
        answer = classify(iq, sampling_rate=RATE)
        views = [iq, iq[:DENSE], iq[DENSE:], *heard.frames]
        for piece, view in zip(listened, views, strict=True):
            np.testing.assert_array_equal(piece, view)
        outputs = [model_outputs(classify, view) for view in views]
        routed = torch.cat([output.router_logits for output in outputs]).log_softmax(-1)
        router = (routed + torch.from_numpy(heard.evidence).float()).log_softmax(-1)
        stands_for = torch.tensor([1, 1, 1, 1.5, 1.5])
        # For other heads, a view counts by the router's certainty without the evidence.
        weights, sure = view_weights(router) * stands_for, view_weights(routed) * stands_for
        # Evidence overrules the router here, so the answers of the expert it chose are down-weighted.
        trust = (router - routed)[torch.arange(len(views)), routed.argmax(-1)].exp().clamp(max=1)
        assert trust.min() < 0.5
        modulation = torch.cat([output.logits for output in outputs]).log_softmax(-1)
        for values, score, counted in (
            (router, "protocol_score", weights),
            # Only symbol views count for modulation.
            (modulation, "modulation_score", (sure * trust * view_weights(modulation)) * torch.arange(5).ge(3)),
        ):
            mean = (counted @ values / counted.sum()).softmax(-1)
            assert answer[score] == pytest.approx(mean.max().item(), abs=1e-5)

    def test_mobility_uses_symbols_from_adjoining_segments(self, classify, listened, noise, monkeypatch):
        segment_ms = 1e3 * DENSE / RATE
        monkeypatch.setattr(pipeline_lwm_spectro, "SPREAD_MS", 2 * segment_ms)
        pieces = [noise(DENSE, seed).reshape(4, -1) for seed in range(1, 8)]
        # The second band is heard in one segment only; the fourth segment has other symbols than the third.
        bands = [{0.0: pieces[0], 1e3: pieces[1]}, {0.0: pieces[2]}, {0.0: pieces[3]}, {0.0: pieces[4]}]
        spacings_hz = [15e3, 15e3, 15e3, 30e3]
        segments = [
            listening.Heard(np.zeros(3), [], 71e-6, spacing_hz, pieces=band)
            for band, spacing_hz in zip(bands, spacings_hz, strict=True)
        ]
        upcoming = iter(segments)
        monkeypatch.setattr(listening, "listen", lambda *args, before=None: next(upcoming))
        answer = classify(noise(4 * DENSE), sampling_rate=RATE, segment_ms=segment_ms, top_k=2)

        joined = np.concatenate([pieces[0], pieces[2]])
        expected = [joined[::2], joined[1::2], pieces[1], pieces[3], pieces[4]]
        expected = [view.ravel() for view in expected]
        spread = [listened[place] for place in (2, 3, 4, 7, 8)]  # after the views of the segments themselves
        for piece, view in zip(spread, expected, strict=True):
            np.testing.assert_array_equal(piece, view)
        outputs = [model_outputs(classify, view) for view in expected]
        joint = torch.cat([output.additional_logits["snr_db+mobility"] for output in outputs]).log_softmax(-1)
        weights = view_weights(torch.cat([output.router_logits for output in outputs]).log_softmax(-1))
        counted = weights * view_weights(joint)
        still = (counted @ joint / counted.sum()).softmax(-1)[0].item()  # one SNR: static, vehicular
        assert answer["mobility_scores"]["static"] == pytest.approx(still, abs=1e-5)

    def test_segments_that_do_not_adjoin_are_not_joined(self, classify, listened, noise, monkeypatch):
        segment_ms = 1e3 * DENSE / RATE
        pieces = noise(DENSE, 1).reshape(4, -1)
        monkeypatch.setattr(
            listening,
            "listen",
            lambda *args, before=None: listening.Heard(np.zeros(3), [], 1.0, 1.0, pieces={0.0: pieces}),
        )
        iq = noise(6 * DENSE)
        for options, times in (({"max_segments": 2}, 2), ({"window_ms": 3 * segment_ms}, 6), ({}, 6)):
            listened.clear()
            classify(iq, sampling_rate=RATE, segment_ms=segment_ms, **options)
            views = [view for view in listened if not np.isin(view, iq).any()]
            assert len(views) == times
            whole = [np.array_equal(view, pieces.ravel()) for view in views]
            assert all(whole) == ("max_segments" in options)

    def test_the_model_gets_the_resolution_of_every_view(self, classify, heard, noise):
        told = []
        hook = lambda module, args, kwargs: told.append(kwargs.get("resolution"))  # noqa: E731
        handle = classify.model.register_forward_pre_hook(hook, with_kwargs=True)
        heard.frames, heard.frame_step_s, heard.spacing_hz = noise(DENSE)[None], 71e-6, 15e3
        classify(noise(2 * DENSE), sampling_rate=RATE)
        classify(noise(2 * DENSE))
        handle.remove()
        extractor = classify.feature_extractor
        views = [extractor.resolution(num_samples, RATE) for num_samples in (2 * DENSE, DENSE, DENSE)]
        torch.testing.assert_close(told[0], torch.stack([*views, torch.tensor([71e-6, 15e3])]))
        assert told[1] is None

    def test_symbols_are_not_searched_without_a_rate_or_if_disabled(self, classify, heard, noise, monkeypatch):
        iq = noise(DENSE)
        blind = classify(iq)
        assert_same(blind, classify(iq, sampling_rate=RATE, synchronize=False))
        classify(np.zeros(DENSE, np.complex64), sampling_rate=RATE)
        monkeypatch.setattr(classify.feature_extractor, "hop_length", 24)
        classify(iq, sampling_rate=RATE)
        assert not heard.calls
        with pytest.raises(ValueError, match="This one has 24 and None"):
            classify(iq, sampling_rate=RATE, synchronize=True)
        monkeypatch.setattr(classify.feature_extractor, "hop_length", "auto")
        with pytest.raises(ValueError, match="needs the sampling rate"):
            classify(iq, synchronize=True)

    def test_without_the_package_views_are_blind(self, classify, heard, noise, monkeypatch):
        def missing(name):
            raise ModuleNotFoundError(name)

        blind = classify(noise(DENSE))
        monkeypatch.setattr(importlib, "import_module", missing)
        assert_same(blind, classify(noise(DENSE), sampling_rate=RATE))
        with pytest.raises(ModuleNotFoundError, match="listening"):
            classify(noise(DENSE), sampling_rate=RATE, synchronize=True)
        assert not heard.calls


class TestAnswer:
    def test_one_view_gives_the_models_answer(self, classify, noise):
        iq = noise(DENSE)
        answer = classify(iq)
        outputs = model_outputs(classify, iq)
        router = outputs.router_logits[0].softmax(-1)
        names = classify.model.config.expert_names
        assert answer["protocol"] == names[router.argmax()]
        assert answer["protocol_score"] == pytest.approx(router.max().item(), abs=1e-5)
        assert answer["protocol_scores"] == pytest.approx(dict(zip(names, router.tolist(), strict=True)), abs=1e-5)
        modulation = outputs.logits[0].softmax(-1)
        assert answer["modulation"] == ["BPSK", "QPSK", "16QAM"][modulation.argmax()]
        assert answer["modulation_score"] == pytest.approx(modulation.max().item(), abs=1e-5)
        joint = outputs.additional_logits["snr_db+mobility"][0].softmax(-1)
        assert answer["snr_db"] == -5.0 and isinstance(answer["snr_db"], float)
        assert answer["snr_db_score"] == pytest.approx(1, abs=1e-5)
        assert answer["mobility"] == ["static", "vehicular"][joint.argmax()]
        assert answer["mobility_score"] == pytest.approx(joint.max().item(), abs=1e-5)

    def test_several_views_and_segments_are_combined(self, classify, noise):
        iq = noise(6 * DENSE)
        segment_ms = 2 * DENSE / RATE * 1e3
        answer = classify(iq, sampling_rate=RATE, synchronize=False, segment_ms=segment_ms, return_embedding=True)
        views = []
        for start in range(0, len(iq), 2 * DENSE):
            segment = iq[start : start + 2 * DENSE]
            views += [segment, segment[:DENSE], segment[DENSE:]]
        outputs = [model_outputs(classify, view) for view in views]
        router = torch.cat([output.router_logits for output in outputs]).log_softmax(-1)
        weights = view_weights(router)
        mean = (weights @ router / weights.sum()).softmax(-1)
        assert answer["protocol_score"] == pytest.approx(mean.max().item(), abs=1e-5)
        modulation = torch.cat([output.logits for output in outputs]).log_softmax(-1)
        counted = weights * view_weights(modulation)
        mean = (counted @ modulation / counted.sum()).softmax(-1)
        assert answer["modulation_score"] == pytest.approx(mean.max().item(), abs=1e-5)
        embeddings = torch.cat([output.pooler_output for output in outputs])
        np.testing.assert_allclose(answer["embedding"], weights @ embeddings / weights.sum(), atol=1e-5)

    def test_the_batch_size_does_not_matter(self, classify, noise):
        recordings = [noise(7 * DENSE, 1), noise(DENSE, 2), np.zeros(DENSE, np.complex64), noise(3 * DENSE, 3)]
        alone = [classify(iq, batch_size=1) for iq in recordings]
        for batch_size in (2, 5, 64):
            for one, other in zip(alone, classify(recordings, batch_size=batch_size), strict=True):
                assert_same(one, other)

    def test_silence_has_no_protocol(self, classify):
        answer = classify(np.zeros(5 * DENSE, np.complex64), return_embedding=True)
        assert answer["verdict"] == "no signal"
        assert answer["protocol"] is None and answer["protocol_score"] == 0
        assert answer["modulation"] is None and answer["snr_db"] is None and answer["embedding"] is None
        assert set(answer["protocol_scores"].values()) == {0.0}

    def test_top_k(self, classify, noise):
        answer = classify(noise(DENSE), top_k=2)
        assert len(answer["protocol_scores"]) == 2
        assert list(answer["modulation_scores"])[0] == answer["modulation"]
        assert list(answer["snr_db_scores"]) == [-5.0]

    def test_windows_are_answered_one_by_one(self, classify, noise):
        iq = noise(2500)
        answers = classify(iq, sampling_rate=RATE, window_ms=1)
        assert [(answer.pop("start_s"), answer.pop("duration_s")) for answer in answers] == [
            (0, 1e-3),
            (1e-3, 1e-3),
            (2e-3, 0.5e-3),
        ]
        for index, answer in enumerate(answers):
            assert_same(answer, classify(iq[1000 * index : 1000 * (index + 1)], sampling_rate=RATE))

    def test_progress_adds_up(self, classify, noise):
        done = []
        classify(noise(5000), sampling_rate=RATE, segment_ms=1, on_progress=done.append)
        assert done == [1000] * 5
        done.clear()
        classify(noise(5000), sampling_rate=RATE, segment_ms=1, max_segments=2, on_progress=done.append)
        assert done == [2500] * 2

    def test_max_segments_reads_only_those_segments(self, classify, noise):
        iq = noise(9000)
        few = classify(iq, sampling_rate=RATE, segment_ms=1, max_segments=2, window_ms=4.5)
        assert [answer["start_s"] for answer in few] == [0, 4.5e-3]
        # Windows of four segments each, of which the second and the last are read; the rest may hold anything.
        heard = np.full_like(iq, 1e3)
        for start in (1125, 3375, 4500 + 1125, 4500 + 3375):
            heard[start : start + 1125] = iq[start : start + 1125]
        again = classify(heard, sampling_rate=RATE, segment_ms=1, max_segments=2, window_ms=4.5)
        for one, other in zip(few, again, strict=True):
            assert_same(one, other)
        with pytest.raises(ValueError, match="max_segments"):
            classify(iq, sampling_rate=RATE, max_segments=0)

    def test_a_stream_reads_no_further_than_it_must(self, classify, noise):
        class Endless:
            num_samples, sampling_rate, furthest = 10**12, RATE, 0

            def read(self, start, count):
                self.furthest = max(self.furthest, start + count)
                return noise(count, seed=start % 1000)

        recording = Endless()
        first = next(classify.stream(recording, window_ms=1, batch_size=2))
        assert first["start_s"] == 0 and first["protocol"] is not None
        assert recording.furthest <= 2000


class TestInputs:
    def test_every_form_of_input_gives_the_same_answer(self, classify, noise, tmp_path, write_sigmf):
        iq = noise(3 * DENSE)
        expected = classify(iq)
        np.save(tmp_path / "recording.npy", iq)
        sigmf = write_sigmf(tmp_path / "recording", iq)
        pairs = iq.view(np.float32).reshape(-1, 2)
        for form in (
            torch.from_numpy(iq),
            torch.from_numpy(iq).conj().resolve_conj().conj(),  # a lazily conjugated tensor
            iq.tolist(),
            pairs,
            {"iq": iq, "sampling_rate": RATE},
            {"iq": pairs.tolist(), "sampling_rate": RATE},
            sigmf,
            str(sigmf),
        ):
            assert_same(classify(form, synchronize=False), expected)  # no search, since only some forms have a rate
        assert_same(classify(tmp_path / "recording.npy", sampling_rate=RATE, synchronize=False), expected)

    def test_integer_columns_are_samples(self, classify, noise):
        pairs = np.round(1000 * noise(DENSE).view(np.float32).reshape(-1, 2)).astype(np.int16)
        assert_same(classify(pairs), classify(pairs.astype(np.float32)))

    def test_rates_and_mappings_may_be_of_any_type(self, classify, noise):
        iq = noise(DENSE)
        expected = classify(iq, sampling_rate=RATE)
        for rate in (np.float32(RATE), np.int64(RATE), torch.tensor(RATE), int(RATE)):
            assert_same(classify(iq, sampling_rate=rate), expected)
            assert_same(classify(MappingProxyType({"iq": iq, "sampling_rate": rate})), expected)

    def test_inputs_of_one_call_may_have_a_rate_or_none(self, classify, noise):
        inputs = [{"iq": noise(DENSE), "sampling_rate": RATE}, noise(DENSE, 1)]
        for answer, item in zip(classify(inputs), inputs, strict=True):
            assert_same(answer, classify(item))

    def test_nan_is_found_in_any_segment(self, classify, noise):
        iq = noise(30 * DENSE)
        iq[20 * DENSE + 7] = np.nan
        with pytest.raises(ValueError, match=f"NaN or infinite, the first at sample {20 * DENSE + 7}"):
            classify(iq, sampling_rate=RATE, segment_ms=2)

    def test_batches_of_every_form_give_one_answer_each(self, classify, noise):
        batch = np.stack([noise(DENSE, seed) for seed in range(3)])
        expected = [classify(iq) for iq in batch]
        lists = [batch, torch.from_numpy(batch), list(batch), {"iq": batch, "sampling_rate": RATE}]
        for answers in (*map(classify, lists), list(classify(iq for iq in batch))):
            assert len(answers) == 3
            for answer, wanted in zip(answers, expected, strict=True):
                assert_same(answer, wanted)
        assert classify([]) == []

    def test_generators_are_read_lazily(self, classify, noise):
        drawn = []

        def recordings():
            for seed in range(100):
                drawn.append(seed)
                yield noise(DENSE, seed)

        answers = classify(recordings(), batch_size=2)
        next(answers)
        assert len(drawn) <= 3

    def test_options_can_be_given_to_the_constructor(self, tiny_checkpoint, noise):
        windowed = pipeline(
            "iq-classification", model=str(tiny_checkpoint), device="cpu", window_ms=1, sampling_rate=RATE
        )
        assert len(windowed(noise(3000))) == 3
        assert len(windowed(noise(3000), window_ms=1.5)) == 2

    @pytest.mark.parametrize(
        ("inputs", "options", "message"),
        [
            (np.ones(500), {}, "complex"),
            (np.ones(20, np.complex64), {}, "too short"),
            (np.full(500, np.nan, np.complex64), {}, "(?i)nan|finite"),
            ([np.ones((2, 500), np.complex64)], {}, r"\(2, 500\)"),
            (np.ones(500, np.complex64), {"window_ms": 1}, "sampling_rate"),
            (np.ones(500, np.complex64), {"window_ms": -1}, "window_ms"),
            ([{"samples": np.ones(500, np.complex64)}], {}, "samples.*'iq'"),
            (np.ones(500, np.complex64), {"sampling_rate": "20e6"}, "`sampling_rate='20e6'`.*positive number"),
            ({"iq": np.ones(500, np.complex64), "sampling_rate": 0}, {}, "`sampling_rate=0`.*positive number"),
            ([{"iq": np.ones(500, np.complex64), "sampling_rate": "1"}], {}, "`sampling_rate='1'`"),
            (np.ones(5000, np.complex64), {"window_ms": 0.02, "sampling_rate": 1e6}, "`window_ms=0.02` is 20 samples"),
        ],
    )
    def test_wrong_values_are_named(self, classify, inputs, options, message):
        with pytest.raises(ValueError, match=message):
            classify(inputs, **options)

    def test_wrong_types_are_named(self, classify):
        with pytest.raises(TypeError, match="unknown argument 'windows_ms'"):
            classify(np.ones(500, np.complex64), windows_ms=1)
        with pytest.raises(TypeError, match="type int"):
            classify(7)

    def test_paths_need_the_package(self, classify, monkeypatch):
        def fail(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(importlib, "import_module", fail)
        with pytest.raises(ImportError, match="pip install lwm-spectro-hf"):
            classify("recording.sigmf-meta")


def test_data_sets_give_one_answer_for_each_item(classify, noise):
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, place):
            return {"iq": noise(DENSE, place), "sampling_rate": RATE}

    answers = classify(Items())
    assert not isinstance(answers, list | dict)
    expected = [classify(noise(DENSE, place), sampling_rate=RATE) for place in range(3)]
    keyed = KeyDataset([{"samples": noise(DENSE, place)} for place in range(3)], "samples")
    for found in (answers, classify(keyed, sampling_rate=RATE)):
        for answer, wanted in zip(found, expected, strict=True):
            assert_same(answer, wanted)
    assert_same(classify(list(noise(DENSE)), sampling_rate=RATE), expected[0])


def test_peft_models_work_in_the_pipeline(tiny_extractor, noise):
    peft = pytest.importorskip("peft")
    model = build("moe-classification")
    expected = IQClassificationPipeline(model, feature_extractor=tiny_extractor, device="cpu")(noise(DENSE))
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], r=2)
    adapted = peft.get_peft_model(model, lora)
    answer = IQClassificationPipeline(adapted, feature_extractor=tiny_extractor, device="cpu")(noise(DENSE))
    assert answer["protocol_scores"] == pytest.approx(expected["protocol_scores"])


@pytest.mark.parametrize(("option", "value"), [("top_k", 1.5), ("max_views", 2.5), ("sampling_rate", [1e6, 1e6])])
def test_options_of_wrong_types_are_named(classify, noise, option, value):
    with pytest.raises(ValueError, match=f"`{option}=.*is not usable. Expected a"):
        classify(noise(DENSE), **{option: value})


def test_options_may_be_numbers_of_any_type(classify, noise):
    iq = noise(50 * DENSE)
    options = {"max_views": 3, "top_k": 1, "window_ms": 1.0, "segment_ms": 1.0, "sampling_rate": RATE}
    expected = classify(iq, **options)
    for kind in (np.float64, np.float32, torch.tensor):
        assert classify(iq, **{name: kind(value) for name, value in options.items()}) == expected


class TestHeads:
    @pytest.mark.parametrize("kind", ["classification", "classification-levels"])
    def test_a_single_encoder_answers_its_own_task_only(self, tiny_extractor, noise, kind):
        model = build(kind)
        windows = ["boxcar", "hamming"][: model.config.num_channels]
        settings = {**tiny_extractor.to_dict(), "window_function": windows, "feature_size": None}
        tiny_extractor = type(tiny_extractor)(**settings)
        classify = IQClassificationPipeline(model, feature_extractor=tiny_extractor, device="cpu")
        iq = noise(DENSE)
        answer = classify(iq, return_embedding=True)
        assert "protocol" not in answer and answer["modulation"] in ("BPSK", "QPSK", "16QAM")
        values = tiny_extractor(iq, return_tensors="pt").input_values
        with torch.no_grad():
            embedding = classify.model.base_model(values).pooler_output[0]
        np.testing.assert_allclose(answer["embedding"], embedding, atol=1e-5)

    @pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
    def test_heads_without_classes_are_refused(self, tiny_extractor, kind):
        model = LwmSpectroForSequenceClassification(tiny_config(problem_type=kind))
        with pytest.raises(ValueError, match=f"one class per head.*{kind}.*logits"):
            IQClassificationPipeline(model, feature_extractor=tiny_extractor, device="cpu")

    def test_a_single_encoder_may_predict_the_protocol(self, tiny_extractor, noise):
        config = tiny_config(task_name="protocol", id2label={0: "WiFi", 1: "LTE", 2: "5G"})
        model = LwmSpectroForSequenceClassification(config).eval()
        classify = IQClassificationPipeline(model, feature_extractor=tiny_extractor, device="cpu")
        answer = classify(noise(4 * DENSE))
        assert answer["protocol"] in ("WiFi", "LTE", "5G")
        assert sum(answer["protocol_scores"].values()) == pytest.approx(1)
        assert classify(np.zeros(DENSE, np.complex64))["verdict"] == "no signal"


def test_registering_again_changes_nothing():
    before = PIPELINE_REGISTRY.supported_tasks["iq-classification"]
    register()
    assert PIPELINE_REGISTRY.supported_tasks["iq-classification"] is before
    assert before["pt"] == (AutoModelForSequenceClassification,)


class TestGaps:
    """Lost samples, and the zeros written for them."""

    def periodic(self, noise, num_periods=40):
        """The same 500 samples repeated, since gaps are filled from half a millisecond away."""
        return np.tile(noise(500), num_periods)

    def test_recordings_without_gaps_are_unchanged(self, noise):
        iq = noise(20_000)
        iq[700:740] = 0  # not yet a gap, which has at least 128 samples
        assert without_gaps(iq, RATE) is iq
        for short in (iq[:0], iq[:1], np.zeros(100, np.complex64)):
            assert without_gaps(short, RATE) is short

    @pytest.mark.parametrize("value", [0, -0.5 - 0.5j])
    def test_gaps_are_filled_from_half_a_millisecond_away(self, noise, value):
        expected = self.periodic(noise)
        iq = expected.copy()
        for start, stop in ((900, 1700), (5000, 5200), (19_000, 19_200)):
            iq[start:stop] = value
        before = iq.copy()
        np.testing.assert_array_equal(without_gaps(iq, RATE), expected)
        np.testing.assert_array_equal(iq, before)  # the caller's array is not changed

    def test_gaps_at_the_ends_are_cut_off(self, noise):
        iq = noise(20_000)
        iq[:6000] = iq[18_000:] = 0
        for rate in (RATE, None):
            np.testing.assert_array_equal(without_gaps(iq, rate), iq[6000:18_000])
        assert without_gaps(iq, RATE, shortest=12_001) is iq

    def test_gaps_that_cannot_be_filled_stay(self, noise):
        iq = noise(20_000)
        iq[100:9000] = iq[9100:19_000] = 0  # more than half
        np.testing.assert_array_equal(without_gaps(iq, RATE), iq)
        iq = noise(2000)
        iq[600:1500] = 0  # no stretch as long half a millisecond away
        np.testing.assert_array_equal(without_gaps(iq, RATE), iq)

    def test_a_constant_is_silence(self, classify):
        assert classify(np.full(5000, 0.3 - 0.1j, np.complex64), sampling_rate=RATE)["verdict"] == "no signal"

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("scale", [1e-18, 1e20, 3e37])
    def test_gaps_are_found_at_any_scale(self, scale, noise):
        iq = noise(20_000) * np.float32(scale)
        assert without_gaps(iq, RATE) is iq
        iq[5000:6000] = iq[18_000:] = 0
        assert len(without_gaps(iq, RATE)) == 18_000 and without_gaps(iq, RATE).all()

    def test_zeros_around_a_recording_change_nothing(self, classify, noise):
        iq, zeros = noise(8000), np.zeros(4000, np.complex64)
        expected = classify(iq, sampling_rate=RATE)
        assert classify(np.concatenate([zeros, iq, zeros]), sampling_rate=RATE) == expected

"""Pipeline `"iq-classification"`: I/Q samples or recordings in, protocol, modulation, SNR and mobility out."""

import importlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

from .evidence_lwm_spectro import MIN_VIEW_WEIGHT, STILL_LABELS, Evidence, marginal, quantities, view_weights

# A recording is processed in segments of this length [ms]: long enough to hold several packets or a radio frame, short
# enough that a recording of any length is read in constant memory.
SEGMENT_MS = 20.0
MAX_VIEWS = 16
# Time of adjoining segments that are combined to detect motion [ms]: long enough for someone walking to move by a good
# part of a wavelength.
SPREAD_MS = 100.0
# What counts as a gap in a recording is a run of one value of at least this many samples, an eighth of these where the
# rate is known, and this long [s].
_SHORTEST_GAP, _SHORTEST_GAP_S = 1024, 20e-6
# Arguments of `Evidence.add` for each view; these are for a blind view, a piece of the recording as it was captured.
_AS_IT_CAME = MappingProxyType({"stands_for": 1.0, "of_symbols": False, "spread": False, "distinct": 1.0})


class IQPipeline(ChunkPipeline):
    """Base of the pipelines over I/Q samples: the inputs that they accept, and the form of their answers."""

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def __call__(self, inputs: Any, **kwargs) -> dict | list | Iterator:
        items, many = as_inputs(inputs)
        answers = self._answers(items, **kwargs)
        if not many:
            return next(answers)
        return list(answers) if isinstance(inputs, list | tuple | np.ndarray | torch.Tensor | Mapping) else answers

    def _answers(self, items: Iterable, **kwargs) -> Iterator:
        """The output of `postprocess` for each input, in order."""
        # The base class runs preprocess, forward and postprocess over a generator lazily, batched across inputs.
        return iter(super().__call__((item for item in items), **kwargs))


class IQClassificationPipeline(IQPipeline):
    """Classifies the signal in a recording: its protocol, and whatever else the model has heads for.

    ```python
    >>> from transformers import pipeline
    >>> import lwm_spectro_hf

    >>> classify = pipeline("iq-classification", model=str(lwm_spectro_hf.default_checkpoint()))
    >>> classify("recording.sigmf-meta")
    >>> classify(iq, sampling_rate=20e6)
    ```

    A recording is read in segments of about `segment_ms`. Each segment is classified in several views: one of the
    whole segment, with frames spread over it, and, if it is longer than one and a half dense views, up to
    `max_views - 1` evenly spaced dense views of adjoining frames. Where the sampling rate is known, the segment is
    also searched for the cyclic prefixes of WiFi, LTE and 5G, for WiFi's preambles and for LTE's synchronization
    signals ([`~phy.listening.listen`]). The model's probabilities of the protocols are multiplied by the likelihood
    ratios from this search. Where symbols are found, up to eight more views have one symbol per frame, repeated if
    there are too few; together they count as much as all the others. Motion is then predicted from views of four
    pieces of symbols each, spread over up to 100 ms of adjoining segments. [`Evidence`] combines the predictions.
    Views without any power are left out.

    An input is a complex array or tensor `(num_samples,)`; a batch of them `(batch, num_samples)`; real I and Q
    columns `(num_samples, 2)`; a dictionary `{"iq": ..., "sampling_rate": ...}`; the path of a SigMF, WAV, `.npy`,
    `.mat` or raw recording, or an open one. A list gives a list of answers, a generator or dataset gives a generator.

    Args of a call (all but `dtype` also when the pipeline is made):
        sampling_rate (`float`, *optional*): Sampling rate of inputs that do not come with one [Hz].
        dtype (`str`, *optional*): Sample type of raw files, e.g. `"ci16"`.
        channel (`int`, *optional*): Channel to read from SigMF or MATLAB recordings with several.
        window_ms (`float`, *optional*): Return a list of answers, one per window of this length [ms], each with
            `start_s` and `duration_s`. A last window of less than half the length, or too short for a view, is left
            out.
        segment_ms (`float`, *optional*, defaults to 20): Length of a segment [ms].
        max_segments (`int`, *optional*): Process at most this many segments of a recording or window, evenly spread
            over it, instead of all; the samples in between are ignored.
        max_views (`int`, *optional*, defaults to 16): Maximum number of blind views of one segment.
        synchronize (`bool`, *optional*): Search for prefixes, preambles and synchronization signals. By default, this
            is done if the sampling rate is known, the extractor's frames can be symbols (`hop_length="auto"` and any
            sampling rate), the model has a router and the whole package is installed.
        top_k (`int`, *optional*): Return this many labels in `protocol_scores`, and the same for every other head.
        return_embedding (`bool`, *optional*, defaults to `False`): Add `embedding`, `np.ndarray` `(hidden_size,)`.
        on_progress (`Callable[[int], None]`, *optional*): Called after each segment, with the number of samples
            completed since the last call, including those that `max_segments` skips.
        batch_size (`int`, *optional*, defaults to 16): Views that go through the model together.

    Returns:
        `dict`: `protocol`, `protocol_score` and `protocol_scores`; for each head its name, e.g. `modulation`, and
        `modulation_score`. A head over two quantities, "snr_db+mobility", is marginalized into both. Labels that are
        numbers are returned as numbers. `symbols_found` is whether symbols of that protocol were detected; if not, the
        signal may be something else or too faint. `also_found` gives other protocols whose symbols were found besides,
        each with the share of segments: several senders are in the recording, and the rest of the answer is about one
        of them. Both are `None` if symbols were not searched for. Without any power, labels are `None`, scores are 0,
        and `verdict` is "no signal".
    """

    def __init__(self, *args, batch_size: int | None = 16, leave_out: Iterable[str] = (), **kwargs):
        self._left_out = frozenset(leave_out)  # heads, by the names of their tasks
        super().__init__(*args, batch_size=batch_size, **kwargs)
        kind = self.model.config.problem_type
        if kind not in (None, "single_label_classification"):
            raise ValueError(
                f"`iq-classification` predicts one class per head, but this model is for {kind!r} "
                "(`config.problem_type`). Call the model itself and use its `logits`."
            )

    def _sanitize_parameters(self, **kwargs):
        reading = (
            "sampling_rate",
            "dtype",
            "channel",
            "window_ms",
            "segment_ms",
            "max_segments",
            "max_views",
            "synchronize",
        )
        answering = ("top_k", "return_embedding", "on_progress")
        for name in kwargs:
            if name not in reading + answering:
                raise TypeError(
                    f"`iq-classification` got an unknown argument {name!r}. Expected: "
                    f"{', '.join(reading + answering)}, batch_size or num_workers."
                )
        counts = ("max_segments", "max_views", "top_k")
        for name in ("sampling_rate", "window_ms", "segment_ms", *counts):
            if kwargs.get(name) is not None:
                kwargs[name] = (positive_count if name in counts else positive)(name, kwargs[name])
        return (
            {name: kwargs[name] for name in reading if name in kwargs},
            {name: kwargs[name] for name in ("return_embedding",) if name in kwargs},
            {name: kwargs[name] for name in answering if name in kwargs},
        )

    def stream(self, recording: Any, **kwargs) -> Iterator[dict]:
        """Yields the answers for one recording window by window, each as soon as its window has been processed.

        Takes one input and the arguments of a call. Nothing is kept, so a recording may be of any length. Without
        `window_ms` there is one window: the whole recording.
        """
        return (verdict for verdict, _ in self._verdicts([recording], **kwargs))

    def _answers(self, items: Iterable, **kwargs) -> Iterator[dict | list[dict]]:
        """One answer for each input: its verdict or, with `window_ms`, the list of the verdicts on its windows."""
        windowed = {**self._preprocess_params, **kwargs}.get("window_ms") is not None
        verdicts = []
        for verdict, ends_recording in self._verdicts(items, **kwargs):
            verdicts.append(verdict)
            if ends_recording:
                yield verdicts if windowed else verdicts[0]
                verdicts = []

    def _verdicts(self, items: Iterable, **kwargs) -> Iterator[tuple[dict, bool]]:
        """Combines segments into windows; yields the verdict on each, and whether it is its recording's last."""
        answering = {**self._postprocess_params, **self._sanitize_parameters(**_without_batching(kwargs))[2]}
        on_progress = answering.get("on_progress")
        blind, still = self._blind(), self._still()
        evidence = Evidence(blind, still)
        for segment in super()._answers(items, **kwargs):
            if segment["log_probs"]:
                evidence.add(
                    segment["log_probs"],
                    segment["embedding"],
                    trust=segment["trust"],
                    sure=segment["sure"],
                    heard=segment["prefixes"],
                    beside=segment["beside"],
                    **segment["kinds"],
                )
            if on_progress is not None:
                on_progress(segment["num_samples"])
            if segment["window"] is not None:
                verdict = self.verdict(evidence, answering.get("top_k"), answering.get("return_embedding", False))
                yield {**verdict, **segment["window"]}, segment["ends_recording"]
                evidence = Evidence(blind, still)

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: float | None = None,
        dtype: str | None = None,
        channel: int | None = None,
        window_ms: float | None = None,
        segment_ms: float = SEGMENT_MS,
        max_segments: int | None = None,
        max_views: int = MAX_VIEWS,
        synchronize: bool | None = None,
    ) -> Iterator[dict]:
        """Yields the views of one input; those of one segment end with `is_last`."""
        read, num_samples, sampling_rate = open_input(inputs, sampling_rate, dtype, channel)
        shortest = self._dense_view_samples()
        segment_samples = max(shortest, num_samples if sampling_rate is None else segment_ms * 1e-3 * sampling_rate)
        listen = self._listen(sampling_rate, synchronize)
        num_adjoining = max(1, round(SPREAD_MS / segment_ms))

        def gapless(start: int, count: int) -> np.ndarray:
            return without_gaps(read(start, count), sampling_rate, shortest)

        windows = self._windows(num_samples, sampling_rate, window_ms)
        upcoming = next(windows)
        while upcoming is not None:
            (first, end), upcoming = upcoming, next(windows, None)
            span = {}
            if window_ms is not None:
                span = {"start_s": first / sampling_rate, "duration_s": (end - first) / sampling_rate}
            segments = list(segment_bounds(first, end, segment_samples, max_segments))
            looks = self._looks(gapless, segments, sampling_rate, listen, max_views, num_adjoining)
            for (*_, done_from, done_to), (views, prefixes, beside) in zip(segments, looks, strict=True):
                tags = {
                    "num_samples": done_to - done_from,
                    "prefixes": prefixes,
                    "beside": beside,
                    "window": span if done_to == end else None,
                    "ends_recording": upcoming is None,
                }
                *views, last = views
                for view in views:
                    yield {**view, "tags": tags, "is_last": False}
                yield {**last, "tags": tags, "is_last": True}

    def _windows(
        self, num_samples: int, sampling_rate: float | None, window_ms: float | None
    ) -> Iterator[tuple[int, int]]:
        """First sample and end of each window; without `window_ms` the whole recording is one."""
        if window_ms is None:
            return iter([(0, num_samples)])
        if sampling_rate is None:
            raise ValueError(
                "`window_ms` needs the sampling rate, but neither the input nor the call gives it. Pass "
                "`sampling_rate` in Hz."
            )
        window_samples = window_ms * 1e-3 * sampling_rate
        needed = self.feature_extractor.num_samples_needed()
        if round(window_samples) < needed <= num_samples:
            raise ValueError(
                f"`window_ms={window_ms:g}` is {window_samples:.0f} samples at {sampling_rate:g} Hz: too short. "
                f"Expected at least {needed} samples, {1e3 * needed / sampling_rate:.3g} ms."
            )
        return window_bounds(num_samples, window_samples, needed)

    def _looks(
        self,
        read: Callable[[int, int], np.ndarray],
        segments: Sequence[tuple[int, int, int, int]],
        sampling_rate: float | None,
        listen: Callable | None,
        max_views: int,
        num_adjoining: int,
    ) -> Iterator[tuple[list[dict], torch.Tensor | None, dict[str, tuple[str, ...]] | None]]:
        """Yields the views of each segment of a window, what its symbols say of the protocol, and whose others were
        found beside each ([`~phy.listening.Heard`]); the last two are `None` if it was not searched."""
        adjoining: list[Any] = []  # results of `listen` for consecutive segments
        stations = None  # the WiFi stations followed so far, where several take turns
        heard_until = segments[0][0]
        for number, (start, stop, *_) in enumerate(segments, 1):
            segment = read(start, stop - start)
            views = self._views(segment, sampling_rate, max_views)
            silent, prefixes, beside, spread = views[0]["silent"], None, None, []
            if listen is not None and not silent:
                heard, symbols = self._heard(listen, segment, sampling_rate, stations)
                stations = heard.stations
                prefixes = torch.from_numpy(heard.evidence).float()
                beside = heard.beside if prefixes.any() else None
                stands_for = len(views) / max(len(symbols), 1)
                views += [{**view, "stands_for": stands_for} for view in symbols]
                if start != heard_until or (adjoining and heard.spacing_hz != adjoining[-1].spacing_hz):
                    spread, adjoining = self._spread_views(adjoining), []
                adjoining, heard_until = [*adjoining, heard], stop
            if len(adjoining) >= num_adjoining or number == len(segments):
                spread, adjoining = spread + self._spread_views(adjoining), []
            yield (spread or views) if silent else views + spread, prefixes, beside

    def _dense_view_samples(self) -> int:
        """Length of a view whose frames adjoin, or are as far apart as the extractor's fixed hop [samples]."""
        extractor = self.feature_extractor
        hop = extractor.fft_size if extractor.hop_length == "auto" else extractor.hop_length
        return extractor.num_samples_needed(hop)

    def _views(self, iq: np.ndarray, sampling_rate: float | None, max_views: int) -> list[dict]:
        """The blind views of one segment `(num_samples,)` that have power; if none has, one that is marked silent."""
        extractor = self.feature_extractor
        length = self._dense_view_samples()
        pieces = [iq]
        if len(iq) > 1.5 * length:
            # With a fixed hop, a view covers only a part of the segment: there is no view of the whole.
            whole = [iq] if extractor.hop_length == "auto" else []
            count = min(max(max_views - len(whole), 0 if whole else 1), len(iq) // length)
            starts = np.linspace(0, len(iq) - length, count).astype(int)
            pieces = whole + [iq[start : start + length] for start in starts]
        sounding = [piece for piece in pieces if np.any(piece)]
        silent = not sounding
        views = []
        for piece in sounding or pieces[:1]:
            inputs = extractor(piece, sampling_rate=sampling_rate, return_tensors="pt")
            inputs.setdefault("resolution", torch.full((1, 2), torch.nan))  # others of this call may have one
            views.append({**inputs, **_AS_IT_CAME, "silent": silent})
        return views

    def _heard(self, listen: Callable, iq: np.ndarray, sampling_rate: float, before: Any) -> tuple[Any, list[dict]]:
        """Search a segment for symbols: returns what was found ([`~phy.listening.Heard`]) and views of the symbols."""
        extractor = self.feature_extractor
        names = self.model.config.expert_names
        heard = listen(iq, sampling_rate, names, extractor.num_frames, extractor.fft_size, before=before)
        steps = (heard.frame_step_s, heard.spacing_hz)
        return heard, [{**self._view_of_symbols(view, steps), "distinct": heard.distinct} for view in heard.frames]

    def _spread_views(self, adjoining: list[Any]) -> list[dict]:
        """Views of symbols spread over adjoining segments, for each band in which any of them has pieces."""
        if not self._still():
            return []
        views = []
        for centre in sorted(set().union(*(heard.pieces for heard in adjoining))):
            pieces = [heard.pieces[centre] for heard in adjoining if centre in heard.pieces]
            # Each view has as many pieces as a segment, evenly spaced and in order of time.
            frames = [np.concatenate(pieces)[first :: len(pieces)].ravel() for first in range(len(pieces))]
            steps = (adjoining[0].piece_step_s, adjoining[0].spacing_hz)
            views += [{**self._view_of_symbols(view, steps), "spread": True} for view in frames]
        return views

    def _view_of_symbols(self, frames: np.ndarray, steps: tuple[float, float]) -> dict:
        """One view from frames `(num_samples,)`, and `steps`, the time between frames [s] and spacing of bins [Hz]."""
        values = self.feature_extractor(frames, return_tensors="pt").input_values
        resolution = torch.tensor([steps])
        return {"input_values": values, "resolution": resolution, **_AS_IT_CAME, "silent": False, "of_symbols": True}

    def _listen(self, sampling_rate: float | None, synchronize: bool | None) -> Callable | None:
        """The function that searches for prefixes and preambles; `None` if there is to be no search."""
        extractor = self.feature_extractor
        fits = extractor.hop_length == "auto" and extractor.sampling_rate is None
        fits = fits and self._names_of_experts
        if not fits and synchronize:
            raise ValueError(
                "`synchronize=True` needs a model with a router, and an extractor whose frames can be symbols: one "
                f"with `hop_length='auto'` and `sampling_rate=None`. This one has {extractor.hop_length!r} and "
                f"{extractor.sampling_rate!r}."
            )
        if sampling_rate is None and synchronize:
            raise ValueError("`synchronize=True` needs the sampling rate: pass `sampling_rate` in Hz.")
        if sampling_rate is None or synchronize is False or not fits:
            return None
        try:
            # By name, as this file also works alone, see `open_input`; without the package all views are blind.
            return importlib.import_module("lwm_spectro_hf.phy.listening").listen
        except ModuleNotFoundError:
            if synchronize:
                raise
            return None

    def _forward(self, model_inputs: dict, return_embedding: bool = False) -> dict:
        values = model_inputs.pop("input_values").to(self.model.dtype)
        resolution = model_inputs.pop("resolution")
        resolution = None if resolution.isnan().all() else resolution
        config = self.model.config
        outputs = self.model(input_values=values, resolution=resolution, return_dict=True)
        logits = {}
        if self._names_of_experts:
            logits["protocol"] = outputs.router_logits
        # A head that was trained to classify the protocol replaces the router's prediction.
        logits[config.task_name] = outputs.logits
        logits.update(getattr(outputs, "additional_logits", None) or {})
        log_probs = {name: torch.log_softmax(value.float(), dim=-1) for name, value in logits.items()}
        return {**log_probs, "embedding": outputs.pooler_output.float() if return_embedding else None, **model_inputs}

    def postprocess(self, model_outputs: list[dict], **kwargs) -> dict:
        """Stacks the model's predictions for the views of one segment; [`Evidence`] combines segments."""
        tags, silent = model_outputs[0]["tags"], model_outputs[0]["silent"]
        stacked = {}
        for name, value in model_outputs[0].items():
            if isinstance(value, torch.Tensor):
                stacked[name] = torch.cat([view[name] for view in model_outputs])
        trust, sure = torch.ones(len(model_outputs)), None
        if tags["prefixes"] is not None and "protocol" in self._heads():
            # A separate head for the protocol may have other classes than the router, or another order.
            names, heard = self._heads()["protocol"], self._names_of_experts
            if set(names) == set(heard):
                prefixes = tags["prefixes"][[heard.index(name) for name in names]]
                routed = stacked["protocol"]
                stacked["protocol"] = torch.log_softmax(routed + prefixes, dim=-1)
                sure = view_weights(routed)
                if self.model.config.task_name != "protocol":  # the prediction is the router's
                    # Where prefixes overrule the router, the expert that answered is another protocol's.
                    answered = routed.argmax(dim=-1, keepdim=True)
                    trust = (stacked["protocol"] - routed).gather(-1, answered)[:, 0].exp().clamp(MIN_VIEW_WEIGHT, 1)
        log_probs = {}
        for name, labels in self._heads().items():
            for quantity, places in quantities(name, labels).items():
                log_probs[quantity] = marginal(stacked[name], places)
        return {
            **tags,
            "log_probs": {} if silent else log_probs,
            "embedding": stacked.get("embedding"),
            "trust": trust,
            "sure": sure,
            "kinds": {name: torch.tensor([view[name] for view in model_outputs]) for name in _AS_IT_CAME},
        }

    def verdict(self, evidence: Evidence, top_k: int | None = None, return_embedding: bool = False) -> dict:
        """Turns combined evidence into an answer.

        Args:
            evidence (`Evidence`): The combined predictions of the views.
            top_k (`int`, *optional*): As in a call.
            return_embedding (`bool`, *optional*, defaults to `False`): As in a call.

        Returns:
            `dict`: As from a call.
        """
        probabilities = evidence.probabilities()
        answer: dict[str, Any] = {}
        for name, labels in self._heads().items():
            for quantity, places in quantities(name, labels).items():
                scores = probabilities[quantity].tolist() if probabilities else [0.0] * len(places)
                ranked = sorted(zip(places, scores, strict=True), key=lambda item: -item[1])
                best, score = ranked[0]
                answer[quantity] = best if probabilities else None
                answer[f"{quantity}_score"] = score
                if quantity == "protocol" or top_k is not None:
                    answer[f"{quantity}_scores"] = dict(ranked[:top_k])
        if not probabilities:
            answer["verdict"] = "no signal"
        if "protocol" in answer:
            answer["symbols_found"] = self._symbols_found(answer["protocol"], evidence.heard)
            answer["also_found"] = evidence.also_found(answer["protocol"])
        if return_embedding:
            embedding = evidence.embedding()
            answer["embedding"] = None if embedding is None else embedding.numpy()
        return answer

    def _symbols_found(self, protocol: str | None, heard: torch.Tensor | None) -> bool | None:
        """Whether symbols of this protocol were detected; `None` if they were not searched for."""
        if heard is None or protocol not in self._names_of_experts:
            return None
        evidence = heard[self._names_of_experts.index(protocol)]
        return None if evidence.isinf() else bool(evidence > 0)

    @property
    def tasks(self) -> list[str]:
        """The names of the heads whose predictions are in an answer."""
        return list(self._heads())

    @property
    def _names_of_experts(self) -> list[str]:
        """The protocols that the router chooses from; empty for a model without one."""
        return getattr(self.model.config, "expert_names", [])

    def _blind(self) -> list[str]:
        """Quantities of heads that were never trained on views of symbols."""
        names = getattr(self.model.config, "blind_tasks", None) or ()
        return [part for name, labels in self._heads().items() if name in names for part in quantities(name, labels)]

    def _still(self) -> dict[str, int]:
        """Quantities with a label for "no change", and the index of that label; without those of `_blind`."""
        told = {name: list(part) for head in self._heads().items() for name, part in quantities(*head).items()}
        return {
            name: told[name].index(label)
            for name, label in STILL_LABELS.items()
            if label in told.get(name, ()) and name not in self._blind()
        }

    def _heads(self) -> dict[str, list[str]]:
        """The labels of each head, in the order of its logits."""
        return {name: labels for name, labels in self.model.config.heads.items() if name not in self._left_out}


def register_task(task: str, pipeline_class: type[IQPipeline], auto_class: type):
    """Registers a task with `transformers.pipeline`; a second call changes nothing."""
    if task not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=auto_class)


def register():
    """Registers the pipeline as `"iq-classification"`."""
    register_task("iq-classification", IQClassificationPipeline, AutoModelForSequenceClassification)


def segment_bounds(
    start: int, stop: int, segment_samples: float, max_segments: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Cuts a range of samples into equal segments of about `segment_samples`, without remainder; at least one.

    Yields:
        The bounds of a segment, and those of the part of the range that it stands for: the segment itself or, if there
        are more than `max_segments`, one of `max_segments` equal parts, with the segment in its middle.
    """
    count = max(1, round((stop - start) / segment_samples))
    heard = count if max_segments is None else min(count, max_segments)

    def part(index: int, of: int) -> tuple[int, int]:
        return start + (stop - start) * index // of, start + (stop - start) * (index + 1) // of

    for index in range(heard):
        yield *part((2 * index + 1) * count // (2 * heard), count), *part(index, heard)


def window_bounds(num_samples: int, window_samples: float, needed: int = 1) -> Iterator[tuple[int, int]]:
    """Cuts a recording into windows; a last one shorter than half `window_samples`, or than `needed`, is left out."""
    count = max(1, int(num_samples / window_samples + 0.5))
    if count > 1 and num_samples - round((count - 1) * window_samples) < needed:
        count -= 1
    return pairwise(min(round(index * window_samples), num_samples) for index in range(count + 1))


def without_gaps(iq: np.ndarray, sampling_rate: float | None, shortest: int = 1) -> np.ndarray:
    """
    A segment without the samples that were never received: runs of a single value, such as the zeros that receivers
    write for samples that they lost. Next to a signal they look like a noise floor far below that of the receiver.

    Gaps at the ends are cut off. Others are filled with samples from a multiple of half a millisecond away, the period
    of the cyclic prefixes of LTE and 5G.

    Args:
        iq (`np.ndarray` of shape `(num_samples,)`): Complex samples.
        sampling_rate (`float`, *optional*): Without it gaps are cut off only [Hz].
        shortest (`int`, *optional*, defaults to 1): Nothing is cut off where fewer samples would be left.

    Returns:
        `np.ndarray`: The segment, as it is if it has no gaps; zeros if it has a single value.
    """
    least = _SHORTEST_GAP if sampling_rate is None else max(_SHORTEST_GAP // 8, round(_SHORTEST_GAP_S * sampling_rate))
    if len(iq) < least:
        return iq
    power = sum(np.square(part, dtype=np.float64).mean() for part in (iq.real, iq.imag))  # float32 might overflow
    same = 1e-5 * math.sqrt(power)  # filters leave something of zeros, too
    with np.errstate(over="ignore"):
        changes = np.flatnonzero(np.abs(np.diff(iq)) > same) + 1
    edges = np.concatenate([[0], changes, [len(iq)]])
    gaps = np.stack([edges[:-1], edges[1:]], axis=1)[np.diff(edges) >= least]
    if not len(gaps):
        return iq
    if gaps[0, 1] - gaps[0, 0] == len(iq):
        return np.zeros_like(iq)
    first = gaps[0, 1] if gaps[0, 0] == 0 else 0
    last = gaps[-1, 0] if gaps[-1, 1] == len(iq) else len(iq)
    if last - first < max(shortest, 4 * least):
        return iq
    gaps, iq = gaps[(gaps[:, 0] >= first) & (gaps[:, 1] <= last)] - first, iq[first:last].copy()
    is_gap = np.zeros(len(iq), bool)
    for start, stop in gaps:
        is_gap[start:stop] = True
    if sampling_rate is None or is_gap.mean() > 0.5:
        return iq
    gaps_before = np.concatenate([[0], np.cumsum(is_gap)])
    steps = np.arange(1, int(2 * len(iq) / sampling_rate * 1e3) + 1)
    shifts = np.round(np.stack([steps, -steps], axis=1).ravel() * 0.5e-3 * sampling_rate).astype(int)
    for start, stop in gaps:
        places = start + shifts
        places = places[(places >= 0) & (places + stop - start <= len(iq))]
        places = places[gaps_before[places + stop - start] == gaps_before[places]]
        if len(places):
            iq[start:stop] = iq[places[0] : places[0] + stop - start]
    return iq


def _without_batching(kwargs: dict) -> dict:
    return {name: value for name, value in kwargs.items() if name not in ("batch_size", "num_workers")}


def _is_path(inputs: Any) -> bool:
    return isinstance(inputs, str | os.PathLike)


def _is_recording(inputs: Any) -> bool:
    return hasattr(inputs, "read") and hasattr(inputs, "num_samples")


def as_inputs(inputs: Any) -> tuple[Iterable, bool]:
    """The inputs of a call one by one, and whether there are many (a list, a batch) or a single one."""
    if _is_path(inputs) or _is_recording(inputs):
        return [inputs], False
    if isinstance(inputs, Mapping) and "iq" in inputs:
        iq = _as_complex(inputs["iq"])
        return ([{**inputs, "iq": row} for row in iq], True) if iq.ndim == 2 else ([inputs], False)
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], complex | np.complexfloating):
        inputs = np.asarray(inputs)
    if isinstance(inputs, np.ndarray | torch.Tensor):
        iq = _as_complex(inputs)
        return (list(iq), True) if iq.ndim == 2 else ([iq], False)
    if isinstance(inputs, Iterable) and not isinstance(inputs, Mapping):
        return inputs, True
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__") and not isinstance(inputs, Mapping):
        return (inputs[place] for place in range(len(inputs))), True  # a dataset such as `KeyDataset`
    raise TypeError(
        f"Got an input of type {type(inputs).__name__}. Expected complex samples, a dictionary with 'iq' and "
        "'sampling_rate', the path of a recording, or a list of these."
    )


def _as_complex(iq: Any) -> np.ndarray:
    """Samples as a NumPy array; real columns I and Q `(num_samples, 2)`, the form on disk, become complex."""
    if isinstance(iq, torch.Tensor):
        iq = iq.detach().resolve_conj().cpu().numpy()
    iq = np.asarray(iq)
    if iq.dtype.kind in "fi" and iq.ndim == 2 and iq.shape[1] == 2:
        iq = iq[:, 0] + 1j * iq[:, 1]
    return iq


def positive(name: str, value: Any) -> float:
    """Check that an option is a positive number, of Python, NumPy or PyTorch, and return it as a float."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"`{name}={value!r}` is not usable. Expected a positive number.")
    return number


def positive_count(name: str, value: Any) -> int:
    """As [`positive`], for whole numbers."""
    number = positive(name, value)
    if number != int(number):
        raise ValueError(f"`{name}={value!r}` is not usable. Expected a whole number.")
    return int(number)


def _finite(read: Callable[[int, int], np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """`read`, with an error for samples that are NaN or infinite, which gives the position of the first."""

    def read_finite(start: int, count: int) -> np.ndarray:
        iq = read(start, count)
        with np.errstate(over="ignore", invalid="ignore"):
            # A bad sample makes the sum non-finite, which is cheaper to check than each; it may also just overflow.
            suspect = iq.dtype.kind in "fc" and not np.isfinite(iq.sum())
        if suspect and (wrong := ~np.isfinite(iq)).any():
            raise ValueError(
                f"The recording has samples that are NaN or infinite, the first at sample {start + wrong.argmax()}. "
                "Cut them out, or replace them by 0."
            )
        return iq

    return read_finite


def open_input(
    inputs: Any, sampling_rate: float | None, dtype: str | None, channel: int | None = None
) -> tuple[Callable[[int, int], np.ndarray], int, float | None]:
    """A function to read one input, `read(start, count)`, its number of samples and its sampling rate [Hz]."""
    if sampling_rate is not None:
        sampling_rate = positive("sampling_rate", sampling_rate)
    if _is_path(inputs):
        try:
            # By name, not by a relative import: this file also works alone, in the folder of a published checkpoint.
            recordings = importlib.import_module("lwm_spectro_hf.data.recordings")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"Reading {os.fspath(inputs)} needs the package lwm-spectro-hf, which is missing or incomplete here "
                f"({error}). Install it with `pip install lwm-spectro-hf`, or pass the samples as an array."
            ) from error
        inputs = recordings.open_recording(inputs, dtype=dtype, sampling_rate=sampling_rate, channel=channel)
    if _is_recording(inputs):
        return _finite(inputs.read), inputs.num_samples, inputs.sampling_rate
    if isinstance(inputs, Mapping):
        if "iq" not in inputs:
            raise ValueError(f"The dictionary has the keys {list(inputs)}. Expected 'iq', and 'sampling_rate' in Hz.")
        if inputs.get("sampling_rate") is not None:
            sampling_rate = positive("sampling_rate", inputs["sampling_rate"])
        inputs = inputs["iq"]
    iq = _as_complex(inputs)
    if iq.ndim != 1:
        raise ValueError(
            f"A recording has the shape {iq.shape}. Expected (num_samples,): pass a batch by itself, not in a list."
        )
    return _finite(lambda start, count: iq[start : start + count]), len(iq), sampling_rate

"""Pipeline `"iq-segmentation"`: I/Q samples or recordings in, who transmits where and when out."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSemanticSegmentation

from .feature_extraction_lwm_spectro import as_samples
from .pipeline_lwm_spectro import IQPipeline, open_input, positive, positive_count, register_task

# Bands wider than the network's are processed in pieces, which overlap by this share: a carrier at the edge of one
# lies further inside the next.
OVERLAP = 0.25
# A carrier is reported if at least LEAST_BINS neighboring bins hold its label in at least LEAST_SHARE of the frames of
# one stretch, and it transmits in at least LEAST_FRAMES frames. If at least half of its band lies in that of a larger
# carrier, it must also have at least LEAST_BESIDE times as many labeled values as that one.
LEAST_BINS, LEAST_SHARE, LEAST_FRAMES, LEAST_BESIDE = 2, 0.02, 3, 0.1
# A frame is masked if its samples, or this many if it is made of fewer, are all equal: they were lost.
LEAST_EQUAL = 16
# A rest of a recording that fills less than this share of a stretch is shown together with what is before it.
LEAST_LEFT = 0.75


class IQSegmentationPipeline(IQPipeline):
    """Classifies who transmits in each frame and frequency bin of a recording.

    ```python
    >>> from transformers import pipeline
    >>> import lwm_spectro_hf

    >>> segment = pipeline("iq-segmentation", model=str(lwm_spectro_hf.default_segmenter()))
    >>> segment("recording.sigmf-meta")["carriers"]
    >>> segment(iq, sampling_rate=20e6)["labels"]
    ```

    The network has one sampling rate, that of its extractor, and one length. Recordings are resampled to that rate:
    wider ones in several pieces of the band, longer ones in one stretch of time after the other; a short rest at the
    end is shown together with what is before it. What a narrower or shorter recording leaves empty is masked, and so
    are frames whose samples are all equal, such as the zeros that receivers write for lost samples: nothing is sent
    there.

    An input is as for `"iq-classification"`; a list gives a list of answers, a generator a generator.

    Args of a call (all but `dtype` also when the pipeline is made):
        sampling_rate (`float`, *optional*): Sampling rate of inputs that do not come with one [Hz].
        dtype (`str`, *optional*): Sample type of raw files, e.g. `"ci16"`.
        channel (`int`, *optional*): Channel to read from SigMF or MATLAB recordings with several.
        max_stretches (`int`, *optional*): Process at most this many stretches of time, each as long as the network's
            input and evenly spread over the recording, instead of all; `labels` covers only these.
        on_progress (`Callable[[int], None]`, *optional*): Called after each stretch, with the number of samples
            completed since the last call, including those that `max_stretches` skips.
        batch_size (`int`, *optional*, defaults to 8): Pieces that go through the model together.

    Returns:
        `dict`: `labels`, `np.ndarray` of shape `(frames, bins)` of the whole recording, uint8, indices into the
        model's `id2label`, DC in the middle column; `frame_step_s` and `bin_hz`, the steps from row to row and from
        column to column; and `carriers`, a list of dictionaries, the largest first: `label`, `center_hz` from the
        middle of the band, `bandwidth_hz`, and the `share_of_time` in which it transmits.
    """

    def __init__(self, *args, batch_size: int | None = 8, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        if self.feature_extractor.sampling_rate is None or self.feature_extractor.hop_length == "auto":
            raise ValueError(
                "`iq-segmentation` needs an extractor with the `sampling_rate` and `hop_length` of the model's "
                f"training; found {self.feature_extractor.sampling_rate!r} and {self.feature_extractor.hop_length!r}."
            )

    def _sanitize_parameters(self, **kwargs):
        known = ("sampling_rate", "dtype", "channel", "max_stretches", "on_progress")
        unknown = set(kwargs) - set(known)
        if unknown:
            raise TypeError(
                f"`iq-segmentation` got an unknown argument {min(unknown)!r}. Expected: {', '.join(known)}, "
                "batch_size or num_workers."
            )
        if kwargs.get("max_stretches") is not None:
            kwargs["max_stretches"] = positive_count("max_stretches", kwargs["max_stretches"])
        if kwargs.get("sampling_rate") is not None:
            positive("sampling_rate", kwargs["sampling_rate"])
        return kwargs, {}, {}

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: float | None = None,
        dtype: str | None = None,
        channel: int | None = None,
        max_stretches: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields the pieces of one input, stretch by stretch; those of a stretch end with `is_last`."""
        extractor = self.feature_extractor
        read, num_samples, rate = open_input(inputs, sampling_rate, dtype, channel)
        if rate is None:
            raise ValueError(
                "`iq-segmentation` needs the sampling rate, but neither the input nor the call gives it. Pass "
                "`sampling_rate` in Hz."
            )
        step_s, bin_hz = self._resolution()
        if rate < 2 * bin_hz:
            raise ValueError(
                f"The sampling rate is {rate:g} Hz, but the model's frequency bins are {bin_hz:g} Hz wide. Expected "
                "at least two bins; is the rate in Hz?"
            )
        shortest = math.ceil(extractor.fft_size / extractor.sampling_rate * rate)
        if num_samples < shortest:
            raise ValueError(
                f"The recording has {num_samples} samples: too short. Expected at least {shortest}, the length of one "
                f"frame at {rate:g} Hz."
            )
        stretch_s = extractor.num_frames * step_s
        count = max(1, math.ceil((num_samples - shortest + 1) / (stretch_s * rate)))
        centers_hz = _centers(rate, extractor.sampling_rate, bin_hz)
        bins_hz = bin_hz * (torch.arange(extractor.num_freq_bins) - extractor.num_freq_bins // 2)
        seen = count if max_stretches is None else min(count, max_stretches)
        done = 0
        for turn in range(seen):
            number = (2 * turn + 1) * count // (2 * seen)
            # A rest of a few frames would show too little: it is shown after frames of the stretch before.
            left = self._num_frames(num_samples, rate) - number * extractor.num_frames
            known = extractor.num_frames - left if number and left < LEAST_LEFT * extractor.num_frames else 0
            start = round((number * stretch_s - known * step_s) * rate)
            # The last frame of a stretch reaches into the next.
            stop = min(num_samples, round(start + stretch_s * rate) + shortest)
            iq = as_samples(read(start, stop - start))
            spectrum = torch.fft.fftshift(torch.fft.fft(iq))
            starts = torch.arange(extractor.num_frames) * (step_s * rate)
            lost = _constant(iq, starts.round().long(), max(shortest, LEAST_EQUAL))
            for piece, center_hz in enumerate(centers_hz):
                moved = _resampled(spectrum, rate, center_hz, extractor.sampling_rate)
                frames = min(extractor.num_frames, self._num_frames(len(moved), extractor.sampling_rate))
                missing = max(0, extractor.num_samples_needed() - len(moved))
                values = extractor.spectrogram(torch.nn.functional.pad(moved, (0, missing))[None])
                hidden = torch.ones(values.shape[2:], dtype=torch.bool)
                hidden[:frames] = (center_hz + bins_hz).abs() > rate / 2
                hidden[lost] = True
                yield {
                    "input_values": torch.cat([values, hidden[None, None].to(values.dtype)], dim=1),
                    "center_hz": center_hz,
                    "frames": (known, frames),
                    "sampling_rate": rate,
                    "ends_recording": turn == seen - 1,
                    "is_last": piece == len(centers_hz) - 1,
                }
            if on_progress is not None:
                before, done = done, num_samples * (turn + 1) // seen
                on_progress(done - before)

    def _num_frames(self, num_samples: int, rate: float) -> int:
        """Whole frames in this many samples."""
        extractor = self.feature_extractor
        resampled = round(num_samples * extractor.sampling_rate / rate)
        return (resampled - extractor.fft_size) // extractor.hop_length + 1

    def _resolution(self) -> tuple[float, float]:
        """Time between frames [s], and spacing of bins [Hz]."""
        extractor = self.feature_extractor
        return tuple(extractor.resolution(0, extractor.sampling_rate).tolist())

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        values = model_inputs.pop("input_values")
        hidden = values[:, -1] > 0.5
        logits = self.model(input_values=values[:, :-1].to(self.model.dtype), mask=hidden).logits
        return {"labels": logits.argmax(1).masked_fill(hidden, 0).to(torch.uint8), **model_inputs}

    def postprocess(self, model_outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Joins the pieces of one stretch: each bin has its labels from the piece whose center is nearest."""
        _, bin_hz = self._resolution()
        num_bins = self.feature_extractor.num_freq_bins
        reach = int(model_outputs[0]["sampling_rate"] / 2 / bin_hz)
        places = np.arange(-reach, reach + 1)
        middles = np.array([round(piece["center_hz"] / bin_hz) for piece in model_outputs])
        nearest = np.abs(places[:, None] - middles).argmin(1)
        labels = np.stack([piece["labels"][0].cpu().numpy() for piece in model_outputs])
        columns = np.clip(places - middles[nearest] + num_bins // 2, 0, num_bins - 1)
        frames = slice(*model_outputs[0]["frames"])
        return {
            "labels": labels[nearest, frames, columns].T.copy(),
            "ends_recording": model_outputs[0]["ends_recording"],
        }

    def _answers(self, items: Iterable, **kwargs) -> Iterator[dict[str, Any]]:
        """One answer for each input, from its stretches, of which only the labels of its own band are kept."""
        step_s, bin_hz = self._resolution()
        rows = []
        for stretch in super()._answers(items, **kwargs):
            rows.append(stretch["labels"])
            if stretch["ends_recording"]:
                labels, rows = np.concatenate(rows), []
                names, num_frames = self.model.config.id2label, self.feature_extractor.num_frames
                yield {
                    "labels": labels,
                    "frame_step_s": step_s,
                    "bin_hz": bin_hz,
                    "carriers": find_carriers(labels, names, bin_hz, num_frames),
                }


def find_carriers(
    labels: np.ndarray, id2label: dict[int, str], bin_hz: float, stretch: int | None = None
) -> list[dict[str, Any]]:
    """Find carriers: groups of neighboring bins with the same label.

    Args:
        labels (`np.ndarray` of shape `(frames, bins)`): Indices into `id2label`, of which 0 means no signal.
        id2label (`dict[int, str]`): Names of the labels.
        bin_hz (`float`): Spacing of bins [Hz].
        stretch (`int`, *optional*): Frames to search at a time, so that a carrier that transmits in only one of many
            stretches is found, too; all by default.

    Returns:
        `list[dict]`: As in the answer of [`IQSegmentationPipeline`].
    """
    middle, stretch = labels.shape[1] // 2, min(stretch or len(labels), len(labels))
    found = []  # number of values with the label, first bin, the bin after the last, carrier
    starts = range(0, len(labels), stretch)
    for number, name in sorted(id2label.items())[1:]:
        share = np.max([(labels[start : start + stretch] == number).sum(0) for start in starts], axis=0) / stretch
        edges = np.flatnonzero(np.diff(np.pad(share >= LEAST_SHARE, 1)))
        for first, end in edges.reshape(-1, 2):
            # Bins at the edge that have the label only now and then do not widen the carrier.
            core = np.flatnonzero(share[first:end] >= share[first:end].max() / 3) + first
            first, end = core[0], core[-1] + 1
            held = labels[:, first:end] == number
            sends = held.mean(1) > 0.5
            carrier = {
                "label": name,
                "center_hz": float(((first + end - 1) / 2 - middle) * bin_hz),
                "bandwidth_hz": float((end - first) * bin_hz),
                "share_of_time": float(sends.mean()),
            }
            if end - first >= LEAST_BINS and sends.sum() >= min(LEAST_FRAMES, len(labels)):
                found.append((int(held.sum()), first, end, carrier))
    kept: list[tuple[int, int, int, dict[str, Any]]] = []
    for size, first, end, carrier in sorted(found, key=lambda entry: -entry[0]):
        beside = any(
            min(end, other_end) - max(first, other_first) >= (end - first) / 2 and size < LEAST_BESIDE * other_size
            for other_size, other_first, other_end, _ in kept
        )
        if not beside:
            kept.append((size, first, end, carrier))
    return [carrier for *_, carrier in kept]


def _constant(iq: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """Whether the samples from each start on are all equal. Next to a signal, they would look like a noise floor far
    below that of the receiver.

    Args:
        iq (`torch.Tensor` of shape `(num_samples,)`): Complex samples.
        starts (`torch.Tensor` of shape `(num,)`): First sample of each piece.
        length (`int`): Number of samples of a piece; fewer at the end.

    Returns:
        `torch.BoolTensor` of shape `(num,)`.
    """
    places = (starts[:, None] + torch.arange(length)).clamp(max=len(iq) - 1)
    pieces = torch.view_as_real(iq)[places].double()
    spread = (pieces.amax(1) - pieces.amin(1)).amax(1)
    # Filters leave something of zeros, too.
    return spread <= 1e-5 * torch.view_as_real(iq).double().square().sum(1).mean().sqrt()


def _centers(rate: float, seen_hz: float, bin_hz: float) -> list[float]:
    """Centers of pieces of width `seen_hz` that cover a band of width `rate`: whole bins from its middle [Hz]."""
    if rate <= seen_hz:
        return [0.0]
    count = math.ceil((rate - seen_hz) / (seen_hz * (1 - OVERLAP))) + 1
    outermost_hz = (rate - seen_hz) / 2
    # In a band hardly wider than a piece, two centers may fall on the same bin.
    bins = {round(center / bin_hz) for center in np.linspace(-outermost_hz, outermost_hz, count)}
    return [place * bin_hz for place in sorted(bins)]


def _resampled(spectrum: torch.Tensor, rate: float, center_hz: float, new_rate: float) -> torch.Tensor:
    """Samples at `new_rate` of the band around `center_hz`; frequencies that were not recorded are zero.

    Args:
        spectrum (`torch.Tensor` of shape `(num_samples,)`): Spectrum of the recording, DC in the middle.
        rate (`float`): Sampling rate of the recording [Hz].
        center_hz (`float`): Middle of the band [Hz].
        new_rate (`float`): Sampling rate of the result, and width of the band [Hz].
    """
    num_in = len(spectrum)
    num_out = round(num_in * new_rate / rate)
    first = num_in // 2 + round(center_hz * num_in / rate) - num_out // 2
    before, after = max(0, -first), max(0, first + num_out - num_in)
    spectrum = torch.nn.functional.pad(spectrum[max(0, first) : first + num_out], (before, after))
    return torch.fft.ifft(torch.fft.ifftshift(spectrum)) * (num_out / num_in)


def register():
    """Registers the pipeline as `"iq-segmentation"`."""
    register_task("iq-segmentation", IQSegmentationPipeline, AutoModelForSemanticSegmentation)


def _saved_beside():
    # Never called, see `modeling_lwm_spectro.py`.
    from .evidence_lwm_spectro import Evidence  # noqa: F401

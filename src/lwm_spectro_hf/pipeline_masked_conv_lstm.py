"""Pipeline `"iq-segmentation"`: I/Q samples or recordings in, who sends where and when out."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSemanticSegmentation

from .feature_extraction_lwm_spectro import as_samples
from .pipeline_lwm_spectro import IQPipeline, open_input, positive, positive_count, register_task

# Bands that are wider than a network sees are looked at in pieces, which overlap by this share: carriers at the edge
# of one lie further inside the next.
OVERLAP = 0.25
# A carrier is reported where neighbouring bins, so many at least, hold its label in this share of the frames that a
# network looks at together at least, and in so many frames; in the band of a larger one also only if it is not less
# than this share of that.
LEAST_BINS, LEAST_SHARE, LEAST_FRAMES, LEAST_BESIDE = 2, 0.02, 3, 0.1


class IQSegmentationPipeline(IQPipeline):
    """Tells of each frame and bin of a recording who sends there.

    ```python
    >>> from transformers import pipeline
    >>> import lwm_spectro_hf

    >>> segment = pipeline("iq-segmentation", model=str(lwm_spectro_hf.default_segmenter()))
    >>> segment("recording.sigmf-meta")["carriers"]
    >>> segment(iq, sampling_rate=20e6)["labels"]
    ```

    The network knows one sampling rate, that of its extractor, and one length. Recordings are brought to that rate; of
    wider ones several pieces of the band are looked at, of longer ones one stretch after the other. What a recording
    is too narrow or too short for is hidden from the network.

    An input is as for `"iq-classification"`; a list gives a list of answers, a generator a generator.

    Args of a call (all but `dtype` also when the pipeline is made):
        sampling_rate (`float`, *optional*): Rate of samples that do not say it themselves [Hz].
        dtype (`str`, *optional*): Sample type of raw files, e.g. `"ci16"`.
        channel (`int`, *optional*): Which one of SigMF recordings with several.
        max_stretches (`int`, *optional*): Look at no more than this many stretches of time, as long as the network
            sees at once and evenly spread over the recording, instead of at all; `labels` are of these alone.
        on_progress (`Callable[[int], None]`, *optional*): Called after each stretch, with the number of samples that
            are done with, those that `max_stretches` leaves out included.
        batch_size (`int`, *optional*, defaults to 8): Pieces that go through the model together.

    Returns:
        `dict`: `labels`, `np.ndarray` of shape `(frames, bins)` of the whole recording, uint8, indices into the
        model's `id2label`, DC in the middle column; `frame_step_s` and `bin_hz`, what a row and a column mean; and
        `carriers`, a list of dictionaries, the largest first: `label`, `center_hz` from the middle of the band,
        `bandwidth_hz`, and `share_of_time` in which it sends.
    """

    def __init__(self, *args, batch_size: int | None = 8, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        if self.feature_extractor.sampling_rate is None or self.feature_extractor.hop_length == "auto":
            raise ValueError(
                "`iq-segmentation` needs an extractor with a sampling rate and a hop, which the model was trained at; "
                f"found {self.feature_extractor.sampling_rate!r} and {self.feature_extractor.hop_length!r}."
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
        """Yields the pieces of one input, one stretch of time after the other."""
        extractor = self.feature_extractor
        read, num_samples, rate = open_input(inputs, sampling_rate, dtype, channel)
        if rate is None:
            raise ValueError(
                "`iq-segmentation` needs the sampling rate, and neither the input nor the call says it. Pass "
                "`sampling_rate` in Hz."
            )
        step_s, bin_hz = self._resolution()
        if rate < 2 * bin_hz:
            raise ValueError(
                f"The sampling rate is {rate:g} Hz, and what is told apart is {bin_hz:g} Hz wide. Expected two such "
                "bins at least; is the rate in Hz?"
            )
        shortest = math.ceil(extractor.fft_size / extractor.sampling_rate * rate)
        if num_samples < shortest:
            raise ValueError(
                f"The recording has {num_samples} samples: too short. Expected at least {shortest}, of which one "
                f"frame is made at {rate:g} Hz."
            )
        stretch_s = extractor.num_frames * step_s
        count = max(1, math.ceil((num_samples - shortest + 1) / (stretch_s * rate)))
        centers_hz = _centers(rate, extractor.sampling_rate, bin_hz)
        bins_hz = bin_hz * (torch.arange(extractor.num_freq_bins) - extractor.num_freq_bins // 2)
        seen = count if max_stretches is None else min(count, max_stretches)
        done = 0
        for turn in range(seen):
            number = (2 * turn + 1) * count // (2 * seen)
            start = round(number * stretch_s * rate)
            # The last frame of a stretch reaches into the next.
            stop = min(num_samples, round((number + 1) * stretch_s * rate) + shortest)
            iq = as_samples(read(start, stop - start))
            spectrum = torch.fft.fftshift(torch.fft.fft(iq))
            for piece, center_hz in enumerate(centers_hz):
                moved = _resampled(spectrum, rate, center_hz, extractor.sampling_rate)
                frames = min(extractor.num_frames, (len(moved) - extractor.fft_size) // extractor.hop_length + 1)
                missing = max(0, extractor.num_samples_needed() - len(moved))
                values = extractor.spectrogram(torch.nn.functional.pad(moved, (0, missing))[None])
                hidden = torch.ones(values.shape[2:], dtype=torch.bool)
                hidden[:frames] = (center_hz + bins_hz).abs() > rate / 2
                if not iq.any():  # silence has nothing to show
                    hidden[:] = True
                yield {
                    "input_values": torch.cat([values, hidden[None, None].to(values.dtype)], dim=1),
                    "stretch": number,
                    "center_hz": center_hz,
                    "num_frames": frames,
                    "sampling_rate": rate,
                    "is_last": turn == seen - 1 and piece == len(centers_hz) - 1,
                }
            if on_progress is not None:
                before, done = done, num_samples * (turn + 1) // seen
                on_progress(done - before)

    def _resolution(self) -> tuple[float, float]:
        """From frame to frame [s], and from bin to bin [Hz]."""
        extractor = self.feature_extractor
        return tuple(extractor.resolution(0, extractor.sampling_rate).tolist())

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        values = model_inputs.pop("input_values")
        hidden = values[:, -1] > 0.5
        logits = self.model(input_values=values[:, :-1].to(self.model.dtype), mask=hidden).logits
        return {"labels": logits.argmax(1).masked_fill(hidden, 0).to(torch.uint8), **model_inputs}

    def postprocess(self, model_outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Puts the pieces together: of each bin what the piece says in whose middle it lies."""
        extractor = self.feature_extractor
        step_s, bin_hz = self._resolution()
        reach = int(model_outputs[0]["sampling_rate"] / 2 / bin_hz)
        places = np.arange(-reach, reach + 1)
        stretches: dict[int, list[dict[str, Any]]] = {}
        for output in model_outputs:
            stretches.setdefault(output["stretch"], []).append(output)
        rows = []
        for pieces in stretches.values():
            middles = np.array([round(piece["center_hz"] / bin_hz) for piece in pieces])
            nearest = np.abs(places[:, None] - middles).argmin(1)
            labels = np.stack([piece["labels"][0].cpu().numpy() for piece in pieces])
            columns = np.clip(places - middles[nearest] + extractor.num_freq_bins // 2, 0, extractor.num_freq_bins - 1)
            rows.append(labels[nearest, : pieces[0]["num_frames"], columns].T)
        labels = np.concatenate(rows)
        return {
            "labels": labels,
            "frame_step_s": step_s,
            "bin_hz": bin_hz,
            "carriers": find_carriers(labels, self.model.config.id2label, bin_hz, extractor.num_frames),
        }


def find_carriers(
    labels: np.ndarray, id2label: dict[int, str], bin_hz: float, stretch: int | None = None
) -> list[dict[str, Any]]:
    """Neighbouring bins of one label.

    Args:
        labels (`np.ndarray` of shape `(frames, bins)`): Indices into `id2label`, of which 0 is nothing.
        id2label (`dict[int, str]`): Names.
        bin_hz (`float`): From bin to bin [Hz].
        stretch (`int`, *optional*): So many frames at a time, all by default: what sends in one of many is found, too.

    Returns:
        `list[dict]`: As in the answer of [`IQSegmentationPipeline`].
    """
    middle, stretch = labels.shape[1] // 2, min(stretch or len(labels), len(labels))
    found = []  # values that hold the label, first bin and the one after the last, carrier
    for number, name in sorted(id2label.items())[1:]:
        held = labels == number
        share = np.add.reduceat(held, range(0, len(held), stretch), dtype=int).max(0) / stretch
        edges = np.flatnonzero(np.diff(np.pad(share >= LEAST_SHARE, 1)))
        for first, end in edges.reshape(-1, 2):
            # Bins at the edge that were taken for it now and then do not make it wider.
            core = np.flatnonzero(share[first:end] >= share[first:end].max() / 3) + first
            first, end = core[0], core[-1] + 1
            sends = held[:, first:end].mean(1) > 0.5
            carrier = {
                "label": name,
                "center_hz": float(((first + end - 1) / 2 - middle) * bin_hz),
                "bandwidth_hz": float((end - first) * bin_hz),
                "share_of_time": float(sends.mean()),
            }
            if end - first >= LEAST_BINS and sends.sum() >= min(LEAST_FRAMES, len(labels)):
                found.append((int(held[:, first:end].sum()), first, end, carrier))
    kept: list[tuple[int, int, int, dict[str, Any]]] = []
    for size, first, end, carrier in sorted(found, key=lambda entry: -entry[0]):
        beside = any(
            min(end, other_end) - max(first, other_first) >= (end - first) / 2 and size < LEAST_BESIDE * other_size
            for other_size, other_first, other_end, _ in kept
        )
        if not beside:
            kept.append((size, first, end, carrier))
    return [carrier for *_, carrier in kept]


def _centers(rate: float, seen_hz: float, bin_hz: float) -> list[float]:
    """Where to look at a band of `rate` in pieces of `seen_hz`: whole bins from its middle [Hz]."""
    if rate <= seen_hz:
        return [0.0]
    count = math.ceil((rate - seen_hz) / (seen_hz * (1 - OVERLAP))) + 1
    outermost_hz = (rate - seen_hz) / 2
    # Of a band that is hardly wider than a piece, two may be one and the same.
    bins = {round(center / bin_hz) for center in np.linspace(-outermost_hz, outermost_hz, count)}
    return [place * bin_hz for place in sorted(bins)]


def _resampled(spectrum: torch.Tensor, rate: float, center_hz: float, new_rate: float) -> torch.Tensor:
    """Samples at `new_rate` of the band around `center_hz`; what was not recorded is silent.

    Args:
        spectrum (`torch.Tensor` of shape `(num_samples,)`): Of the recording, zero in the middle.
        rate (`float`): Of the recording [Hz].
        center_hz (`float`): Middle of the band [Hz].
        new_rate (`float`): Of the result, and width of the band [Hz].
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

"""Feature extractor of LWM-Spectro: complex I/Q samples to spectrograms (paper, section II-B, equations 7 to 10)."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import TensorType

# A window is a name, "name:parameter", or its coefficients.
WindowLike = str | Sequence[float]

# Time-frequency cells processed at once. This bounds memory whatever the batch, and on a CPU keeps intermediate
# results (8 MB of complex64) in the cache; with much smaller chunks, threads would wait for each other too often.
CPU_CHUNK_CELLS = 2**20
ACCELERATOR_CHUNK_CELLS = 2**26

# A spectrogram whose standard deviation is below this [dB] is flat except for rounding errors. Dividing by less would
# amplify these to unit variance; noise alone has 5.6 dB.
MIN_STD_DB = 1e-2


def _cosine_sum(*coefficients: float) -> Callable[[int], np.ndarray]:
    """Returns the periodic window `sum_i (-1)^i a_i cos(2 pi i n / N)` as a function of its length `N`."""

    def window(length: int) -> np.ndarray:
        phase = 2 * np.pi * np.arange(length) / length
        return sum((-1) ** order * a * np.cos(order * phase) for order, a in enumerate(coefficients))

    return window


def _kaiser(length: int, beta: float) -> np.ndarray:
    position = 2 * np.arange(length) / length - 1
    return np.i0(beta * np.sqrt(1 - position**2)) / np.i0(beta)


def _gaussian(length: int, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((np.arange(length) - length / 2) / std) ** 2)


# All windows are periodic (`sym=False`), with the names and values of `scipy.signal.get_window`.
WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "boxcar": _cosine_sum(1.0),
    "hann": _cosine_sum(0.5, 0.5),
    "hamming": _cosine_sum(0.54, 0.46),
    "blackman": _cosine_sum(0.42, 0.5, 0.08),
    "nuttall": _cosine_sum(0.3635819, 0.4891775, 0.1365995, 0.0106411),
    "blackmanharris": _cosine_sum(0.35875, 0.48829, 0.14128, 0.01168),
    "flattop": _cosine_sum(0.21557895, 0.41663158, 0.277263158, 0.083578947, 0.006947368),
}
# Windows with a parameter, written "name:parameter", for example "general_hamming:0.72".
PARAMETRIC_WINDOWS: dict[str, Callable[[int, float], np.ndarray]] = {
    "general_hamming": lambda length, alpha: _cosine_sum(alpha, 1 - alpha)(length),
    "kaiser": _kaiser,
    "gaussian": _gaussian,
}


def analysis_window(window: WindowLike, fft_size: int) -> np.ndarray:
    """Returns the coefficients `w[m]` of an analysis window (equation 7).

    Args:
        window (`str` or sequence of `float`):
            Name of a window ("hann"), name and parameter ("general_hamming:0.72", "kaiser:8.6", "gaussian:20"), or
            the `fft_size` coefficients themselves.
        fft_size (`int`): Length `N_w` of the window [samples].

    Returns:
        `np.ndarray` of shape `(fft_size,)`, float64.

    Raises:
        ValueError: If the name is unknown, its parameter missing or wrong, or the coefficients unusable.
    """
    if isinstance(window, str):
        coefficients = _named_window(window, fft_size)
    else:
        coefficients = np.asarray(window, dtype=np.float64)
        if coefficients.shape != (fft_size,):
            raise ValueError(
                f"A window of {coefficients.size} coefficients does not fit `fft_size={fft_size}`. Expected "
                f"{fft_size} coefficients, one for each sample of a frame."
            )
    if not np.isfinite(coefficients).all() or not coefficients.any():
        raise ValueError(
            f"The window {window!r} has coefficients that are not finite, or all zero. Expected finite numbers, "
            "not all zero: change its coefficients or its parameter."
        )
    return coefficients


def _named_window(window: str, fft_size: int) -> np.ndarray:
    name, _, parameter = window.partition(":")
    known = ", ".join([*WINDOWS, *(f"{parametric}:<parameter>" for parametric in PARAMETRIC_WINDOWS)])
    if name in WINDOWS and not parameter:
        return WINDOWS[name](fft_size)
    if name in PARAMETRIC_WINDOWS:
        try:
            with np.errstate(all="ignore"):
                return PARAMETRIC_WINDOWS[name](fft_size, float(parameter))
        except ValueError:
            raise ValueError(
                f"The window {window!r} needs a number after the colon, as in 'general_hamming:0.72'."
            ) from None
    raise ValueError(f"Unknown window {window!r}. Known windows: {known}; or pass the {fft_size} coefficients.")


@lru_cache(maxsize=32)
def _window_bank(windows: tuple[WindowLike, ...], fft_size: int, device: torch.device) -> torch.Tensor:
    # Cached outside the extractor, whose attributes all go into its JSON.
    with torch.inference_mode(False):
        bank = np.stack([analysis_window(window, fft_size) for window in windows])
        return torch.tensor(bank, dtype=torch.float32, device=device)


def _repeatable_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over the last two dimensions of `(rows, num_frames, num_freq_bins)`, bit-identical for any number of rows.

    A sum over both dimensions at once is split over threads by the shape of the whole tensor, so the same recording
    alone and in a batch could differ in the last bit. A sum over one short dimension is not split, and adding halves
    is elementwise.
    """
    sums = values.sum(-1)
    while (size := sums.shape[-1]) > 1:
        half = size // 2
        folded = sums[:, :half] + sums[:, half : 2 * half]
        if size % 2:
            folded[:, :1] += sums[:, -1:]
        sums = folded
    return (sums / (values.shape[-2] * values.shape[-1])).unsqueeze(-1)


class SpectrogramFeatureExtractor(SequenceFeatureExtractor):
    r"""Turns complex baseband recordings into log-power spectrograms, `input_values` of LWM-Spectro.

    Each recording becomes `num_frames` frames of `fft_size` samples, `hop_length` apart. For every window, a frame is
    weighted and Fourier transformed (equation 7), squared (equation 9), cropped to `num_freq_bins` bins around DC,
    divided by the mean power of the recording's retained cells, clipped from below, converted to dB and normalized
    (equation 10). Time runs down, frequency across; DC is column `num_freq_bins // 2`, with positive frequencies to
    its right. The result does not depend on the scale of the input. A recording without any power gives zeros.

    Everything is batched `torch`, on the device of the input. A recording's result is bit for bit the same alone and
    in any batch.

    Args:
        feature_size (`int`, *optional*):
            Number of channels. It follows from `window_function`; if given, it must agree.
        sampling_rate (`float`, *optional*):
            The only sampling rate that is accepted [Hz]. `None` accepts any rate.
        padding_value (`float`, *optional*, defaults to 0.0):
            Required by the base class. Nothing is padded: all spectrograms have one shape.
        num_frames (`int`, *optional*, defaults to 128): Number of frames `T`, equation 8.
        num_freq_bins (`int`, *optional*, defaults to 128): Number of retained frequency bins `K`.
        fft_size (`int`, *optional*, defaults to 128): Samples in a frame, `N_w`.
        hop_length (`int` or `"auto"`, *optional*, defaults to `"auto"`):
            Samples from one frame to the next, `R`. `"auto"` spreads the frames over the whole recording:
            `max(1, (num_samples - fft_size) // (num_frames - 1))`.
        window_function (`str`, list of `float`, or list of these, *optional*, defaults to `"boxcar"`):
            Analysis window `w[m]`, see [`analysis_window`]. Several windows give several channels.
        centered (`bool`, *optional*, defaults to `False`):
            If a recording is longer than the frames need, take its center instead of its start.
        log_floor_db (`float`, *optional*, defaults to -100.0):
            Lowest power, relative to the mean power of the same channel of the same recording [dB].
        normalization (`str`, *optional*, defaults to `"per_sample"`):
            `"per_sample"`: zero mean and unit standard deviation for each channel of each recording. `"dataset"`:
            subtract `mean`, divide by `std`. `"none"`: dB relative to the channel's mean power.
        mean (`float` or list of `float`, *optional*): Mean of the dataset, one value or one per channel [dB].
        std (`float` or list of `float`, *optional*): Standard deviation of the dataset, likewise [dB].

    Raises:
        ValueError: If a setting is wrong, or two settings contradict each other.

    Example:
        ```python
        >>> extractor = SpectrogramFeatureExtractor(window_function=["boxcar", "general_hamming:0.72"])
        >>> iq = np.exp(2j * np.pi * 0.25 * np.arange(128 * 128))
        >>> extractor(iq, return_tensors="pt").input_values.shape
        torch.Size([1, 2, 128, 128])
        ```
    """

    model_input_names = ["input_values", "resolution"]

    def __init__(
        self,
        feature_size: int | None = None,
        sampling_rate: float | None = None,
        padding_value: float = 0.0,
        num_frames: int = 128,
        num_freq_bins: int = 128,
        fft_size: int = 128,
        hop_length: int | str = "auto",
        window_function: WindowLike | Sequence[WindowLike] = "boxcar",
        centered: bool = False,
        log_floor_db: float = -100.0,
        normalization: str = "per_sample",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        **kwargs,
    ):
        kwargs.setdefault("return_attention_mask", False)
        super().__init__(
            feature_size=feature_size, sampling_rate=_as_plain(sampling_rate), padding_value=padding_value, **kwargs
        )
        self.num_frames = _as_plain(num_frames)
        self.num_freq_bins = _as_plain(num_freq_bins)
        self.fft_size = _as_plain(fft_size)
        self.hop_length = _as_plain(hop_length)
        self.window_function = _as_plain(window_function)
        self.centered = _as_plain(centered)
        self.log_floor_db = _as_plain(log_floor_db)
        self.normalization = normalization
        self.mean = _as_plain(mean)
        self.std = _as_plain(std)
        self._validate_settings()
        self.feature_size = len(self._windows)

    @property
    def _windows(self) -> tuple[WindowLike, ...]:
        """One hashable entry for each channel."""
        windows = self.window_function
        if isinstance(windows, str) or all(isinstance(value, Real) for value in windows):
            windows = [windows]
        return tuple(window if isinstance(window, str) else tuple(window) for window in windows)

    def _validate_settings(self):
        for name, minimum in (("num_frames", 1), ("num_freq_bins", 1), ("fft_size", 2)):
            _check_integer(name, getattr(self, name), minimum)
        _check_hop_length(self.hop_length)
        if self.fft_size < self.num_freq_bins:
            raise ValueError(
                f"`fft_size={self.fft_size}` gives fewer bins than `num_freq_bins={self.num_freq_bins}`. Expected "
                "`fft_size >= num_freq_bins`: raise `fft_size` or lower `num_freq_bins`."
            )
        if not self.window_function or not all(isinstance(value, str | list | Real) for value in self.window_function):
            raise ValueError(
                f"`window_function={self.window_function!r}` is not a window. Expected a name, a list of "
                "coefficients, or a list of such windows, one for each channel."
            )
        for window in self._windows:
            analysis_window(window, self.fft_size)
        channels = len(self._windows)
        if self.feature_size not in (None, channels):
            raise ValueError(
                f"`feature_size={self.feature_size}` contradicts `window_function`, which gives {channels} "
                f"channel(s). Leave `feature_size` out, or pass `feature_size={channels}`."
            )
        if self.sampling_rate is not None and not _is_positive(self.sampling_rate):
            raise ValueError(
                f"`sampling_rate={self.sampling_rate!r}` is not a rate. Expected a positive number [Hz], or None to "
                "accept recordings of any rate."
            )
        if not isinstance(self.log_floor_db, Real) or not -300 <= self.log_floor_db < 0:
            raise ValueError(
                f"`log_floor_db={self.log_floor_db!r}` is out of range. Expected a number of dB from -300 to below 0, "
                "relative to the mean power."
            )
        if self.normalization not in ("per_sample", "dataset", "none"):
            raise ValueError(
                f"Unknown `normalization={self.normalization!r}`. Expected 'per_sample', 'dataset' or 'none'."
            )
        if self.normalization == "dataset":
            for name, is_valid, expected in (("mean", _is_finite, "finite"), ("std", _is_positive, "positive")):
                value = getattr(self, name)
                values = value if isinstance(value, list) else [value] * channels
                if len(values) != channels or not all(is_valid(item) for item in values):
                    raise ValueError(
                        f"`normalization='dataset'` got `{name}={value!r}`. Expected one {expected} number [dB], or "
                        f"{channels}, one for each channel."
                    )

    def num_samples_needed(self, hop_length: int | None = None) -> int:
        """Number of samples that the frames cover: the shortest recording that is accepted (from equation 8).

        Args:
            hop_length (`int`, *optional*): Instead of the extractor's own [samples]; `"auto"` counts as 1.

        Returns:
            `int`: `(num_frames - 1) * hop_length + fft_size`.
        """
        hop_length = self.hop_length if hop_length is None else hop_length
        return (self.num_frames - 1) * (1 if hop_length == "auto" else hop_length) + self.fft_size

    def framed(self, iq: torch.Tensor, hop_length: int | None = None) -> tuple[torch.Tensor, int]:
        """Returns the part of `(..., num_samples)` that the frames cover, a view, and the hop [samples]."""
        num_samples = iq.shape[-1]
        hop = self.hop_length if hop_length is None else _as_plain(hop_length)
        _check_hop_length(hop)
        needed = self.num_samples_needed(hop)
        if num_samples < needed:
            raise ValueError(
                f"The recording has {num_samples} samples: too short. Expected at least {needed}, for "
                f"`num_frames={self.num_frames}` frames of `fft_size={self.fft_size}` samples with "
                f"`hop_length={hop!r}`. Pass a longer recording, or an extractor with fewer frames, a smaller FFT or "
                "a smaller hop."
            )
        hop = self._hop(num_samples, hop)
        covered = self.num_samples_needed(hop)
        start = (num_samples - covered) // 2 if self.centered else 0
        return iq[..., start : start + covered], hop

    def _hop(self, num_samples: int, hop_length: int | str) -> int:
        """Samples from one frame to the next, for a recording that is long enough."""
        if hop_length == "auto":
            return max(1, (num_samples - self.fft_size) // max(1, self.num_frames - 1))
        return hop_length

    def resolution(self, num_samples: int, sampling_rate: float, frame_step_s: float | None = None) -> torch.Tensor:
        """Resolution of a spectrogram's axes in seconds and hertz, which cannot be read from the spectrogram itself.

        Args:
            num_samples (`int`): Length of the recording.
            sampling_rate (`float`): [Hz].
            frame_step_s (`float`, *optional*): If the recording is a concatenation of frames of `fft_size` samples
                that were cut out of another: the time from one to the next in that one [s].

        Returns:
            `torch.Tensor` of shape `(2,)`, float32: time between frames [s], and spacing of frequency bins [Hz].
        """
        hop = self._hop(num_samples, self.hop_length)
        sample_step_s = 1 / sampling_rate if frame_step_s is None else frame_step_s / self.fft_size
        return torch.tensor([hop * sample_step_s, sampling_rate / self.fft_size])

    @torch.no_grad()
    def spectrogram(self, iq: torch.Tensor, hop_length: int | None = None) -> torch.Tensor:
        """Computes the spectrograms of a batch, for use inside a training loop.

        Only the shape and type are checked, not the values; nothing is copied to the host, and no gradient flows.

        Args:
            iq (`torch.Tensor` of shape `(batch, num_samples)`): Complex baseband samples, on any device.
            hop_length (`int`, *optional*): Instead of the extractor's own [samples].

        Returns:
            `torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`, float32, on the same device:
            the normalized spectrograms; zeros for a recording that has no power.

        Raises:
            ValueError: If `iq` is not complex, not two-dimensional or too short.
        """
        if not iq.is_complex() or iq.ndim != 2:
            raise ValueError(
                f"`spectrogram` got a tensor of shape {tuple(iq.shape)} and type {iq.dtype}. Expected complex samples "
                "of shape (batch, num_samples)."
            )
        iq, hop = self.framed(iq.to(torch.complex64).resolve_conj(), hop_length)
        windows = _window_bank(self._windows, self.fft_size, iq.device)
        shape = (iq.shape[0], len(windows), self.num_frames, self.num_freq_bins)
        output = torch.empty(shape, dtype=torch.float32, device=iq.device)
        cells = CPU_CHUNK_CELLS if iq.device.type == "cpu" else ACCELERATOR_CHUNK_CELLS
        rows = max(1, cells // (self.num_frames * self.fft_size))
        for start in range(0, iq.shape[0], rows):
            chunk = output[start : start + rows]
            self._power(iq[start : start + rows], hop, windows, chunk)
            self._log_normalize(chunk)
        return output

    def _power(self, iq: torch.Tensor, hop: int, windows: torch.Tensor, power: torch.Tensor):
        """Writes `P[t, k]` of equation 9 into `power`, in an arbitrary unit, DC in the center."""
        # A power of two scales exactly: the result is unchanged, but no square leaves the range of float32.
        samples = torch.view_as_real(iq).flatten(1)  # I, Q, I, Q, ...
        _, exponent = torch.frexp(samples.abs().amax(1))
        scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), -exponent.clamp(-126, 126))
        frames = samples.unfold(1, 2 * self.fft_size, 2 * hop)

        below = self.num_freq_bins // 2  # bins below DC
        above = self.num_freq_bins - below
        for channel, window in enumerate(windows):
            weighted = frames * (window.repeat_interleave(2) * scale[:, None, None])
            weighted = torch.view_as_complex(weighted.unflatten(-1, (self.fft_size, 2)))
            squares = torch.view_as_real(torch.fft.fft(weighted)).square_()
            target = power[:, channel]
            # fftshift and crop in one step, without a copy
            torch.add(squares[..., :above, 0], squares[..., :above, 1], out=target[..., below:])
            if below:
                torch.add(squares[..., -below:, 0], squares[..., -below:, 1], out=target[..., :below])

    def _log_normalize(self, power: torch.Tensor):
        """Converts powers to normalized dB in place: the pipeline G of equation 10."""
        cells = power.flatten(0, 1)
        mean_power = _repeatable_mean(cells)
        has_power = mean_power > 0
        cells.div_(torch.where(has_power, mean_power, 1.0)).clamp_(min=10 ** (self.log_floor_db / 10))
        cells.log10_().mul_(10)
        if self.normalization == "per_sample":
            cells.sub_(_repeatable_mean(cells))
            std = _repeatable_mean(cells.square()).sqrt_().clamp_(min=MIN_STD_DB)
        elif self.normalization == "dataset":
            mean, std = (self._per_channel(value, len(power), power.device) for value in (self.mean, self.std))
            cells.sub_(mean)
        else:
            std = 1.0
        cells.mul_(has_power / std)

    def _per_channel(self, value: float | list[float], batch: int, device: torch.device) -> torch.Tensor:
        """Returns one value, or one per channel, as `(batch * num_channels, 1, 1)`."""
        values = torch.tensor(value, dtype=torch.float32, device=device).expand(batch, len(self._windows))
        return values.reshape(-1, 1, 1)

    def __call__(
        self,
        raw_iq: np.ndarray | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor],
        sampling_rate: float | None = None,
        return_tensors: str | TensorType | None = None,
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """Computes the model's input from one recording or several.

        Args:
            raw_iq (`np.ndarray`, `torch.Tensor`, or a list of these):
                Complex baseband samples: one recording `(num_samples,)`, a batch `(batch, num_samples)`, or a list of
                recordings of any lengths.
            sampling_rate (`float`, *optional*):
                Sampling rate of the recordings [Hz]. Required if the extractor has one. A model with a "fourier"
                router identifies protocols better with it.
            return_tensors (`str`, *optional*):
                `"pt"` for a tensor on the device of the computation, `"np"` for an array; `None` for a list of arrays.
            device (`str` or `torch.device`, *optional*): Where to compute; where the samples are if not given.

        Returns:
            [`BatchFeature`] with `input_values` of shape `(batch, num_channels, num_frames, num_freq_bins)`, float32;
            and, if the rate is known, `resolution` of shape `(batch, 2)`, float32, see [`resolution`].

        Raises:
            ValueError: If the sampling rate is missing or wrong, or a recording is empty, too short, not complex, not
                finite or of a wrong shape.
        """
        sampling_rate = _as_plain(sampling_rate)
        self._check_sampling_rate(sampling_rate)
        return_tensors = None if return_tensors is None else TensorType(return_tensors)

        groups = list(_grouped_by_length(raw_iq, device))
        count = sum(len(indices) for indices, _ in groups)
        if not count:
            raise ValueError("`raw_iq` holds no recording. Expected at least one: pass complex samples.")
        shape = (count, len(self._windows), self.num_frames, self.num_freq_bins)
        input_values = torch.empty(shape, dtype=torch.float32, device=groups[0][1].device)
        resolution = input_values.new_empty(count, 2)
        for indices, batch in groups:
            if not batch.shape[-1]:
                needed = self.num_samples_needed()
                raise ValueError(f"Recording {indices[0]} is empty. Expected at least {needed} complex samples.")
            _check_finite(batch, indices)
            values = self.spectrogram(batch)
            if len(groups) == 1:
                input_values = values
            else:
                input_values[indices] = values
            if sampling_rate is not None:
                resolution[indices] = self.resolution(batch.shape[-1], sampling_rate).to(resolution)

        outputs = {"input_values": input_values}
        if sampling_rate is not None:
            outputs["resolution"] = resolution
        if return_tensors != TensorType.PYTORCH:
            outputs = {name: values.cpu().numpy() for name, values in outputs.items()}
        if return_tensors is None:
            outputs = {name: list(values) for name, values in outputs.items()}
        return BatchFeature(outputs)

    def _check_sampling_rate(self, sampling_rate: float | None):
        if sampling_rate is not None and not _is_positive(sampling_rate):
            raise ValueError(
                f"`sampling_rate={sampling_rate!r}` is not a rate. Expected a positive number [Hz] for all "
                "recordings of a call: if rates differ, make one call per rate."
            )
        if self.sampling_rate is None:
            return
        if sampling_rate is None:
            raise ValueError(
                f"The sampling rate is missing. This extractor expects recordings at {self.sampling_rate:,.0f} Hz: "
                "pass the rate of yours as `sampling_rate`."
            )
        # Good oscillators are off by up to one part in a million.
        if not math.isclose(sampling_rate, self.sampling_rate, rel_tol=1e-6):
            raise ValueError(
                f"The recording is sampled at {sampling_rate:,.0f} Hz, but this extractor expects "
                f"{self.sampling_rate:,.0f} Hz. Resample the recording, or use an extractor of that rate."
            )


def as_samples(iq: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Samples of one recording in the form that the extractor takes.

    Args:
        iq (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`): Complex.

    Returns:
        `torch.Tensor` of shape `(num_samples,)`, complex64.

    Raises:
        ValueError: If they are not complex, not finite or of a wrong shape.
    """
    samples = _as_complex_tensor(iq, "The recording", max_ndim=1)
    _check_finite(samples[None], [0])
    return samples


def _as_plain(value):
    """Turns arrays, tensors and tuples into lists, so that a setting survives JSON unchanged."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    return [_as_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_finite(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value) -> bool:
    return _is_finite(value) and value > 0


def _check_integer(name: str, value, minimum: int, or_else: str = ""):
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"`{name}={value!r}` is out of range. Expected an integer of at least {minimum}{or_else}.")


def _check_hop_length(value):
    if value != "auto":
        _check_integer("hop_length", value, 1, or_else=" or 'auto'")


def _grouped_by_length(raw_iq, device) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yields recordings of equal length together, as indices and a batch, as the hop may depend on the length."""
    if isinstance(raw_iq, np.ndarray | torch.Tensor):
        batch = _as_complex_tensor(raw_iq, "The input", max_ndim=2).to(device)
        batch = batch[None] if batch.ndim == 1 else batch
        yield list(range(len(batch))), batch
    elif isinstance(raw_iq, list | tuple):
        recordings = [_as_complex_tensor(iq, f"Recording {index}", max_ndim=1) for index, iq in enumerate(raw_iq)]
        by_length: dict[int, list[int]] = {}
        for index, iq in enumerate(recordings):
            by_length.setdefault(len(iq), []).append(index)
        for indices in by_length.values():
            yield indices, torch.stack([recordings[index] for index in indices]).to(device)
    else:
        raise ValueError(
            f"`raw_iq` is of type {type(raw_iq).__name__}. Expected a complex array or tensor of shape (num_samples,) "
            "or (batch, num_samples), or a list of arrays or tensors of shape (num_samples,)."
        )


def _as_complex_tensor(iq, what: str, max_ndim: int) -> torch.Tensor:
    """Checks shape and type of samples that a user passed, and returns them as complex64."""
    iq = iq if isinstance(iq, torch.Tensor) else np.asarray(iq)
    shape, kind = tuple(iq.shape), getattr(iq.dtype, "name", str(iq.dtype).removeprefix("torch."))
    if "complex" not in kind:
        if "float" in kind and iq.ndim > 1 and shape[-1] == 2:
            advice = "If the last dimension is (I, Q): `torch.view_as_complex(iq)` or `iq[..., 0] + 1j * iq[..., 1]`."
        elif "float" in kind:
            advice = "Pass `I + 1j * Q`: a real signal has no sign of frequency."
        else:
            advice = "Pass `I + 1j * Q`; where integers I and Q are interleaved, `iq[0::2] + 1j * iq[1::2]`."
        raise ValueError(f"{what} of shape {shape} has type {kind}. Expected complex samples. {advice}")
    if not 1 <= iq.ndim <= max_ndim:
        expected = "(num_samples,)" + (" or (batch, num_samples)" if max_ndim == 2 else "")
        raise ValueError(
            f"{what} has shape {shape}, {iq.ndim} dimensions. Expected {expected}: remove the extra dimensions, or "
            "pass a list of recordings."
        )
    if isinstance(iq, np.ndarray):  # torch takes neither read-only nor big-endian arrays
        iq = torch.from_numpy(np.require(iq, np.complex64, ["C", "W"]))
    return iq.to(torch.complex64).resolve_conj()


def _check_finite(batch: torch.Tensor, indices: list[int]):
    samples = torch.view_as_real(batch)
    # A bad value makes the sum non-finite, which is far cheaper to check than each; it may also just overflow.
    if torch.isfinite(samples.sum()):
        return
    wrong = (~torch.isfinite(samples).all(-1)).nonzero()
    if len(wrong):
        row, first = wrong[0].tolist()
        count = int((wrong[:, 0] == row).sum())
        raise ValueError(
            f"Recording {indices[row]} has {count} sample(s) that are NaN or infinite, the first at sample {first}. "
            "Cut them out, or replace them by 0."
        )


__all__ = ["SpectrogramFeatureExtractor", "analysis_window", "as_samples"]

"""Pictures of recordings: spectrograms with physical axes, and the model's answers.

Each picture is a new figure with the Agg canvas, so that no display is needed and the state of pyplot is not touched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

# One color for each protocol, the same in every picture (Okabe and Ito: distinguishable with any color vision).
PROTOCOL_COLORS = {"WiFi": "#E69F00", "LTE": "#0072B2", "5G": "#009E73"}
OTHER_COLORS = ("#CC79A7", "#D55E00", "#56B4E9", "#999999")
COLORMAP = "magma"
# In every recording, the color scale goes from the noise to the strongest cells, except for a few outliers.
COLOR_PERCENTILES = (2.0, 99.8)
MIN_COLOR_RANGE_DB, MAX_COLOR_RANGE_DB = 10.0, 70.0
# Heights of the labels of adjacent carriers, as shares of the axes: at the same height they would overlap.
TEXT_LEVELS = (0.98, 0.78, 0.58)


@dataclass
class Picture:
    """Everything that is drawn of one recording.

    Attributes:
        power_db (`np.ndarray` of shape `(num_rows, num_freq_bins)`): Power of the spectrogram, with time running down
            and DC in the center [dB].
        duration_s (`float`): Time that the rows cover [s].
        sampling_rate (`float`): Width of the band that the columns cover [Hz].
        center_frequency_hz (`float`, *optional*): Frequency in the middle of the band [Hz].
        title (`str`): Name of the recording.
        verdict (`Mapping`): An answer of the pipeline `"iq-classification"`; empty for none.
        segments (`np.ndarray` of shape `(num_frames, num_freq_bins)`, *optional*): Labels by the pipeline
            `"iq-segmentation"`, over the same time and band, as indices into `segment_names`.
        segment_names (sequence of `str`): Names of the labels; the first one means that nothing is sent.
        carriers (sequence of `Mapping`): An answer of the pipeline `"iq-classification"` for each carrier in the band,
            with `bandwidth_hz` and `center_hz`, which has the same origin as `center_frequency_hz`.
    """

    power_db: np.ndarray
    duration_s: float
    sampling_rate: float
    center_frequency_hz: float | None = None
    title: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    segments: np.ndarray | None = None
    segment_names: Sequence[str] = ()
    carriers: Sequence[Mapping[str, Any]] = ()


def display_spectrogram(recording: Any, num_rows: int = 384, fft_size: int = 256, max_looks: int = 8) -> np.ndarray:
    """Compute a spectrogram for display, from a recording of any length, in constant memory.

    Each row is the mean power of up to `max_looks` frames with a Hann window, evenly spaced over the row's time.

    Args:
        recording (`Recording`): An open recording, see [`open_recording`].
        num_rows (`int`, *optional*, defaults to 384): Rows; fewer if the recording is too short.
        fft_size (`int`, *optional*, defaults to 256): Samples in a frame, and columns; at most half the recording.
        max_looks (`int`, *optional*, defaults to 8): Maximum number of frames to average in a row.

    Returns:
        `np.ndarray` of shape `(num_rows, fft_size)`: Power, DC in the center, clipped at 120 dB below the peak [dB].

    Raises:
        ValueError: If the recording has fewer than two samples, or samples that are NaN or infinite.
    """
    num_samples = recording.num_samples
    if num_samples < 2:
        raise ValueError(f"The recording has {num_samples} sample(s): nothing to draw. Expected at least 2.")
    fft_size = min(fft_size, num_samples // 2)
    window = np.hanning(fft_size + 2)[1:-1]
    num_rows = min(num_rows, num_samples - fft_size + 1)
    edges = np.linspace(0, num_samples - fft_size, num_rows + 1)
    power = np.empty((num_rows, fft_size))
    for row, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        looks = min(max_looks, max(1, math.ceil(2 * (stop - start) / fft_size)))
        starts = (start + (np.arange(looks) + 0.5) * (stop - start) / looks).astype(int)
        frames = np.stack([recording.read(int(first), fft_size) for first in starts])
        if not np.isfinite(frames).all():
            look, sample = np.argwhere(~np.isfinite(frames))[0]
            raise ValueError(
                "The recording has samples that are NaN or infinite, the first found at sample "
                f"{starts[look] + sample}. Cut them out, or replace them by 0."
            )
        power[row] = np.mean(np.abs(np.fft.fft(frames * window)) ** 2, axis=0)
    peak = power.max()
    floor = peak * 1e-12 if peak > 0 else 1.0
    return 10 * np.log10(np.fft.fftshift(np.maximum(power, floor), axes=1))


def picture_of(
    recording: Any,
    verdict: Mapping[str, Any] | None = None,
    title: str | None = None,
    carriers: Sequence[Mapping[str, Any]] = (),
) -> Picture:
    """Prepare one recording for [`draw`].

    Args:
        recording (`Recording`): An open recording.
        verdict (`Mapping`, *optional*): The pipeline's answer for it.
        title (`str`, *optional*): Defaults to the name of the file, without its suffix.
        carriers (sequence of `Mapping`, *optional*): Answers for the carriers in its band, see [`Picture`].

    Returns:
        [`Picture`].
    """
    return Picture(
        power_db=display_spectrogram(recording),
        duration_s=recording.num_samples / recording.sampling_rate,
        sampling_rate=recording.sampling_rate,
        center_frequency_hz=recording.center_frequency_hz,
        title=Path(recording.path).stem if title is None else title,
        verdict=verdict or {},
        carriers=carriers,
    )


def describe(verdict: Mapping[str, Any]) -> str:
    """Format an answer of the pipeline as one line, e.g. `"LTE 98 %, QPSK 71 %, SNR 15 dB 60 %"`."""
    if verdict.get("verdict") == "no signal":
        return "no signal"
    return ", ".join(_said(verdict))


def _said(verdict: Mapping[str, Any]) -> list[str]:
    """Format each quantity of an answer with its score."""
    parts = []
    for name, value in verdict.items():
        if f"{name}_score" not in verdict or value is None:
            continue
        if isinstance(value, float):
            unit = " dB" if name.endswith("_db") else ""
            value = f"{name.removesuffix('_db').upper()} {value:g}{unit}"
        parts.append(f"{value} {verdict[f'{name}_score']:.0%}".replace("%", " %"))
    if verdict.get("symbols_found") is False:
        parts.append("no symbols found")
    if verdict.get("also_found"):
        parts.append(also_found(verdict["also_found"]))
    return parts


def also_found(others: Mapping[str, float]) -> str:
    """Format the other protocols that were found, with their shares if not of everything: `"also LTE, 5G 40 %"`."""
    return "also " + ", ".join(name if share == 1 else f"{name} {100 * share:.2g} %" for name, share in others.items())


def draw(pictures: Sequence[Picture], max_columns: int = 3) -> Figure:
    """Draw recordings side by side: spectrogram, verdict, and a bar for each protocol's score.

    Args:
        pictures (sequence of [`Picture`]): At least one.
        max_columns (`int`, *optional*, defaults to 3): Maximum number of recordings side by side.

    Returns:
        `matplotlib.figure.Figure`, to be saved with `savefig`.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not pictures:
        raise ValueError("There is nothing to draw. Expected at least one recording.")
    columns = min(max_columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 4.6 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(rows, columns, squeeze=False, wspace=0.04, hspace=0.04).flat
    for panel, picture in zip(panels, pictures, strict=False):
        _draw_one(panel, picture)
    return figure


def _draw_one(panel: Any, picture: Picture):
    scores = picture.verdict.get("protocol_scores", {})
    heights = [1.0]
    heights += [0.09 * len(scores)] if scores else []
    heights += [1.0] if picture.segments is not None else []
    axes = list(panel.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    _draw_spectrogram(panel, axes.pop(0), picture)
    if scores:
        _draw_scores(axes.pop(0), scores)
    if picture.segments is not None:
        _draw_labels(axes[0], picture.segments, picture.segment_names, _extent(picture))
        axes[0].set_xlabel(_frequency_label(picture), fontsize=8)
        axes[0].set_ylabel("time [ms]", fontsize=8)
        panel.legend(
            handles=_label_marks(picture.segment_names),
            loc="outside lower center",
            ncols=len(picture.segment_names),
            fontsize=8,
            frameon=False,
        )


def _extent(picture: Picture) -> tuple[float, float, float, float]:
    half_band = picture.sampling_rate / 2e6
    return (-half_band, half_band, picture.duration_s * 1e3, 0)


def _frequency_label(picture: Picture) -> str:
    center = picture.center_frequency_hz
    return f"frequency{f' around {center / 1e6:,.7g} MHz' if center else ''} [MHz]"


def _label_colors(names: Sequence[str]) -> list[str]:
    """Colors of labels: each protocol has its own, and the first label, for nothing, is white."""
    others = iter(OTHER_COLORS * len(names))
    return ["white", *(PROTOCOL_COLORS.get(name) or next(others) for name in names[1:])]


def _label_marks(names: Sequence[str]) -> list[Patch]:
    marks = zip(_label_colors(names), names, strict=True)
    return [Patch(facecolor=color, edgecolor="0.6", label=name) for color, name in marks]


def _draw_labels(axis: Any, labels: np.ndarray, names: Sequence[str], extent: tuple[float, float, float, float]):
    axis.imshow(
        labels,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(_label_colors(names)),
        vmin=-0.5,
        vmax=len(names) - 0.5,
        extent=extent,
    )
    axis.tick_params(labelsize=8)


def _draw_spectrogram(panel: Any, axis: Any, picture: Picture):
    low, high = np.percentile(picture.power_db, COLOR_PERCENTILES)
    image = axis.imshow(
        picture.power_db,
        aspect="auto",
        interpolation="nearest",
        cmap=COLORMAP,
        vmin=np.clip(low, high - MAX_COLOR_RANGE_DB, high - MIN_COLOR_RANGE_DB),
        vmax=high,
        extent=_extent(picture),
    )
    axis.set_xlabel(_frequency_label(picture), fontsize=8)
    axis.set_ylabel("time [ms]", fontsize=8)
    axis.tick_params(labelsize=8)
    # A dollar sign in a file's name or a label is no formula.
    style = {"fontsize": 9, "parse_math": False}
    axis.set_title(picture.title, **style, loc="left", color="0.3", pad=18 if picture.verdict else 6)
    if picture.verdict:
        text = axis.text(0, 1.015, describe(picture.verdict), **style, transform=axis.transAxes, fontweight="bold")
        text.set_in_layout(False)  # it may be wider than the axes, which must not shrink for it
    for place, carrier in enumerate(sorted(picture.carriers, key=lambda carrier: carrier["center_hz"])):
        _draw_carrier(axis, carrier, picture.center_frequency_hz or 0.0, TEXT_LEVELS[place % len(TEXT_LEVELS)])
    colorbar = panel.colorbar(image, ax=axis, pad=0.02, aspect=30)
    colorbar.set_label("power [dB]", fontsize=8)
    colorbar.ax.tick_params(labelsize=7)
    colorbar.outline.set_visible(False)


def _draw_carrier(axis: Axes, carrier: Mapping[str, Any], around_hz: float, level: float):
    """Draw the edges of a carrier, and its label at height `level`."""
    middle, reach = (carrier["center_hz"] - around_hz) / 1e6, carrier["bandwidth_hz"] / 2e6
    color = PROTOCOL_COLORS.get(carrier.get("protocol"), OTHER_COLORS[0])
    for edge in (middle - reach, middle + reach):
        axis.axvline(edge, color=color, linewidth=1.2)
    axis.text(
        middle,
        level,
        "\n".join(_said(carrier) or [describe(carrier)]),
        transform=axis.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=6,
        parse_math=False,
        color="white",
        bbox={"facecolor": color, "edgecolor": "none", "alpha": 0.8, "boxstyle": "round,pad=0.25"},
    )


def _draw_scores(axis: Any, scores: Mapping[str, float]):
    # Ordered by name, not by score, so that a protocol has the same place in every panel.
    names = [name for name in PROTOCOL_COLORS if name in scores] + sorted(scores.keys() - PROTOCOL_COLORS.keys())
    others = iter(OTHER_COLORS * len(names))
    colors = [PROTOCOL_COLORS.get(name) or next(others) for name in names]
    bars = axis.barh(names, [scores[name] for name in names], color=colors, height=0.7)
    axis.bar_label(bars, [f"{scores[name]:.2f}" for name in names], padding=3, fontsize=8)
    axis.set_xlim(0, 1.12)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.tick_params(left=False, labelsize=8)
    axis.spines[:].set_visible(False)
    axis.axvline(0, color="0.6", linewidth=0.8)


def draw_confusion(counts: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix, with each row normalized: true classes are rows, predicted classes are columns.

    Args:
        counts (`np.ndarray` of shape `(num_labels, num_labels)`): Counts of true class (row) by predicted class.
        labels (sequence of `str`): Names of the classes.
        title (`str`, *optional*): Title above the picture.

    Returns:
        `matplotlib.figure.Figure`, to be saved with `savefig`.
    """
    side = min(12.0, 2.2 + 0.45 * len(labels))
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = show_confusion(axis, counts, labels, most_numbers=12)
    axis.tick_params(labelsize=8 if len(labels) <= 12 else 6)
    axis.set_xlabel("answer", fontsize=8)
    axis.set_ylabel("truth", fontsize=8)
    axis.set_title(title, fontsize=9, loc="left", color="0.3")
    colorbar = figure.colorbar(image, ax=axis, pad=0.02, aspect=30)
    colorbar.set_label("share of the class", fontsize=8)
    colorbar.ax.tick_params(labelsize=7)
    colorbar.outline.set_visible(False)
    return figure


def show_confusion(axis: Axes, counts: np.ndarray, labels: Sequence[str], most_numbers: int) -> AxesImage:
    """Show a confusion matrix, see [`draw_confusion`], with shares in % if it has at most `most_numbers` classes."""
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share, cmap=COLORMAP, vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_yticks(range(len(labels)), labels)
    if len(labels) <= most_numbers:
        for row, column in np.ndindex(share.shape):
            color, text = "black" if share[row, column] > 0.6 else "white", f"{100 * share[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return image


def draw_segments(
    columns: Mapping[str, np.ndarray], labels: Sequence[str], duration_s: float, bandwidth_hz: float
) -> Figure:
    """Draw spectrograms and the labels of their values, one row per spectrogram.

    Args:
        columns (`Mapping[str, np.ndarray]`): By title, arrays of shape `(num, num_frames, num_freq_bins)`: either
            floating-point values, which share a color scale in each row, with NaN in gray, or integers, which are
            indices into `labels`.
        labels (sequence of `str`): Names of the labels; protocols have fixed colors, and the first label is nothing.
        duration_s (`float`): Time that the frames cover [s].
        bandwidth_hz (`float`): Bandwidth that the bins cover [Hz].

    Returns:
        `matplotlib.figure.Figure`, to be saved with `savefig`.
    """
    num = len(next(iter(columns.values())))
    figure = Figure(figsize=(3.1 * len(columns), 2.7 * num + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num, len(columns), squeeze=False, sharex=True, sharey=True)
    extent = (-bandwidth_hz / 2e6, bandwidth_hz / 2e6, duration_s * 1e3, 0)
    numbers = [part for part in columns.values() if not np.issubdtype(part.dtype, np.integer)]
    colormap = colormaps[COLORMAP].with_extremes(bad="0.6")
    for row, line in enumerate(axes):
        limits = np.nanpercentile(np.concatenate([part[row] for part in numbers]), COLOR_PERCENTILES)
        for axis, (title, values) in zip(line, columns.items(), strict=True):
            if np.issubdtype(values.dtype, np.integer):
                _draw_labels(axis, values[row], labels, extent)
            else:
                scale = {"cmap": colormap, "vmin": limits[0], "vmax": limits[1]}
                axis.imshow(values[row], aspect="auto", interpolation="nearest", extent=extent, **scale)
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(title, fontsize=9, loc="left", color="0.3")
            if row == num - 1:
                axis.set_xlabel("frequency [MHz]", fontsize=8)
        line[0].set_ylabel("time [ms]", fontsize=8)
    if len(numbers) < len(columns):
        marks = _label_marks(labels)
        figure.legend(handles=marks, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure

"""Figures of the benchmark: scores over N, accuracy over SNR beside the bound, confusion matrices, and costs."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..plotting import show_confusion
from .report import BenchmarkRun, is_pretrained, spread
from .tasks import TASKS

_COLORS = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00", "#cc79a7", "#f0e442", "#000000")
_MARKERS = "osD^vPX*"


def draw_benchmark(folder: str | os.PathLike, run: BenchmarkRun, prefix: str) -> list[Path]:
    """Draw one run.

    Args:
        folder (`str` or `os.PathLike`): Where to; made if missing.
        run ([`BenchmarkRun`]): Its results.
        prefix (`str`): Start of the file names.

    Returns:
        `list[Path]`: PNG files: `shots`, `snr` (where there is a bound), `confusion` (where there is a model that
        starts from the checkpoint), `cost`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, tuple[list[str], Callable[[Axes, BenchmarkRun, str], None]]] = {
        "shots": (run.tasks, _draw_shots),
        "snr": ([task for task in run.tasks if task in run.bounds], _draw_snr),
        "confusion": ([task for task in run.tasks if run.best(task, run.widest(task))], _draw_confusion),
        "cost": (run.tasks, _draw_cost),
    }
    paths = []
    for name, (tasks, draw) in drawings.items():
        if tasks:
            paths.append(folder / f"{prefix}-{name}.png")
            _panels(run, tasks, draw).savefig(paths[-1])
    return paths


def _panels(run: BenchmarkRun, tasks: list[str], draw: Callable[[Axes, BenchmarkRun, str], None]) -> Figure:
    """One panel per task, three in a row, with one shared legend."""
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    handles = {}
    for axis, task in zip(axes, tasks, strict=False):
        draw(axis, run, task)
        axis.set_title(TASKS[task].title, fontsize=9)
        axis.tick_params(labelsize=7)
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    for axis in axes[len(tasks) :]:
        axis.remove()
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _style(run: BenchmarkRun, name: str) -> dict:
    """Color, marker and line of a model, the same in all panels; dashed without pretraining."""
    place = list(run.titles).index(name)
    return {
        "color": _COLORS[place % len(_COLORS)],
        "marker": _MARKERS[place // len(_COLORS) % len(_MARKERS)],
        "linestyle": "-" if is_pretrained(name) else "--",
        "label": run.titles[name],
    }


def _draw_shots(axis: Axes, run: BenchmarkRun, task: str) -> None:
    for name in run.models(task):
        shots = [num for num in run.shots(task) if run.values(task, name, num, "macro_f1")]
        scores = [spread(run.values(task, name, num, "macro_f1")) for num in shots]
        means, deviations = [100 * mean for mean, _ in scores], [100 * (deviation or 0) for _, deviation in scores]
        axis.errorbar(shots, means, deviations, capsize=2, linewidth=1, markersize=4, **_style(run, name))
    axis.set_xscale("log", base=2)
    axis.set_xticks(run.shots(task), map(str, run.shots(task)))
    axis.set_xlabel("spectrograms a class", fontsize=8)
    axis.set_ylabel("macro-F1 [%]", fontsize=8)
    axis.set_ylim(0, 100)


def _draw_snr(axis: Axes, run: BenchmarkRun, task: str) -> None:
    shots, bound = run.widest(task), run.bounds[task]["per_snr"]
    snrs_db = list(map(float, bound))
    for name in run.models(task):
        lines = run.cells.get((task, name, shots), [])
        if lines:
            means = [100 * np.nanmean([line["per_snr"].get(snr_db, np.nan) for line in lines]) for snr_db in bound]
            axis.plot(snrs_db, means, linewidth=1, markersize=4, **_style(run, name))
    axis.plot(snrs_db, [100 * value for value in bound.values()], color="0.2", linewidth=2, label="likelihood bound")
    axis.set_xlabel(f"SNR [dB], {shots} a class", fontsize=8)
    axis.set_ylabel("accuracy [%]", fontsize=8)
    axis.set_ylim(0, 102)


def _draw_confusion(axis: Axes, run: BenchmarkRun, task: str) -> None:
    shots = run.widest(task)
    name = run.best(task, shots)
    lines = run.cells[task, name, shots]
    counts = np.sum([line["confusion"] for line in lines], axis=0, dtype=float)
    show_confusion(axis, counts, lines[0]["classes"], most_numbers=7)
    axis.set_xlabel(f"{run.titles[name]}, {shots} a class", fontsize=7)
    axis.set_ylabel("sent", fontsize=8)


def _draw_cost(axis: Axes, run: BenchmarkRun, task: str) -> None:
    """Accuracy over milliseconds; the area of a marker grows with the logarithm of the number of parameters."""
    shots = run.widest(task)
    for name in run.models(task):
        lines = run.cells.get((task, name, shots), [])
        if lines:
            style = _style(run, name)
            size = 12 * max(1.0, np.log10(np.median([line["parameters"] for line in lines])) - 1)
            axis.scatter(
                np.median([line["milliseconds"] for line in lines]),
                100 * np.mean([line["accuracy"] for line in lines]),
                size,
                **{key: style[key] for key in ("color", "marker", "label")},
            )
    axis.set_xscale("log")
    axis.set_xlabel(f"ms a spectrogram, {shots} a class; area: log of parameters", fontsize=7)
    axis.set_ylabel("accuracy [%]", fontsize=8)

"""The benchmark's tables in Markdown, from its lines of JSON alone."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..markdown import markdown_table
from .baselines import MODELS, is_trained
from .benchmark import BOUND, RUN, SCORE
from .paper import PAPER
from .tasks import TASKS

Line = dict[str, Any]
HEAD = """# Results

Rendered by `python examples/run_benchmark.py --out docs --report` from the lines of `results.jsonl`; nothing here is
typed by hand. All models get the same rows, drawn in the city that is part of the pool's name. No channel (user) is
on both sides of a split, and a run of your own reports whether it has the same rows. Trained networks, including the
head of eq. 20 on frozen embeddings, have one budget: AdamW for the number of steps below at a rate of {rates}, and
{share:g} of that rate for weights that are pretrained or fitted before; spectrograms, but not embeddings, are shifted
in time and mirrored in training. Fine-tuning starts with the head of a logistic regression on the embeddings; for a
task of one protocol, the expert of that protocol is fine-tuned. For a fair comparison the mixture's router is not
given the resolution. Networks with random weights need thousands of steps, and might improve with more than these.
Scores are macro-F1 in %, mean and standard deviation over seeds. A seed draws other shots and other random weights;
the test rows stay the same. In brackets: the paper's results, on its own data{mobilenet}; equation and reference
numbers are also the paper's ([arXiv:2601.08780](https://arxiv.org/abs/2601.08780)). Terminals move in all recordings.
In the mixed modulation task only WiFi has BPSK, and only LTE and 5G have 256-QAM, so a model that knows the protocol
can rule one class out.
"""


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation if there are several."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


class BenchmarkRun:
    """The lines of one preset on one pool.

    Attributes:
        lines (`list[dict]`): Scores.
        bounds (`dict[str, dict]`): Likelihood bound by task.
        left_out (`list[str]`): What the latest run left out, and why.
    """

    def __init__(self, lines: Sequence[Line]):
        self.lines = [line for line in lines if line["kind"] == SCORE]
        self.bounds = {line["task"]: line for line in lines if line["kind"] == BOUND}
        self.left_out = next((line["left_out"] for line in reversed(lines) if line["kind"] == RUN), [])
        checkpoints = list(dict.fromkeys(line["checkpoint"] for line in self.lines if line["checkpoint"]))
        architectures = {line["architecture"] for line in self.lines if line.get("architecture")}
        self.cells: dict[tuple, list[Line]] = defaultdict(list)  # by task, model and N
        self.titles: dict[str, str] = {}
        for line in self.lines:
            # Several checkpoints or architectures get separate rows.
            name, title = line["model"], line["title"]
            if line["checkpoint"] and len(checkpoints) > 1:
                name, title = f"{name} {line['checkpoint']}", f"{title} ({line['checkpoint']})"
            if line.get("architecture") and len(architectures) > 1:
                name, title = f"{name} {line['architecture']}", f"{title} ({line['architecture']})"
            if line["model"] in ("resnet-18", "efficientnet-b0", "mobilenet-v2"):
                weights = "ImageNet weights" if line["imagenet"] else "random weights"
                name, title = f"{name} {weights}", f"{title}, {weights}"
            self.titles[name] = title
            self.cells[line["task"], name, line["shots"]].append(line)
        self.checkpoints = checkpoints

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have scores, in the order of `TASKS`."""
        return [name for name in TASKS if any(line["task"] == name for line in self.lines)]

    def shots(self, task: str) -> list[int]:
        """N of a task, ascending."""
        return sorted({num for name, _, num in self.cells if name == task})

    def models(self, task: str) -> list[str]:
        """Rows of the table of a task, in the order of `MODELS`."""
        order = list(MODELS)
        names = dict.fromkeys(name for other, name, _ in self.cells if other == task)

        def place(name: str) -> int:
            base = name.split()[0]
            return next(number for number, known in enumerate(order) if base.startswith(known))

        return sorted(names, key=place)

    def values(self, task: str, name: str, shots: int, column: str) -> list[float]:
        """One column of a cell, for all seeds."""
        return [line[column] for line in self.cells.get((task, name, shots), [])]

    def best(self, task: str, shots: int, is_lwm: bool = True) -> str | None:
        """The model with the highest mean macro-F1, of those that start from the checkpoint or of the others."""
        scores = {
            name: spread(values)[0]
            for name in self.models(task)
            if (values := self.values(task, name, shots, "macro_f1")) and is_pretrained(name) == is_lwm
        }
        return max(scores, key=scores.__getitem__) if scores else None

    def rivals(self, task: str) -> list[str]:
        """At the N of [`widest`]: the best model that starts from the checkpoint, and the best of the others."""
        names = [self.best(task, self.widest(task), is_lwm) for is_lwm in (True, False)]
        return [name for name in names if name]

    def widest(self, task: str) -> int:
        """The N at which most models have a score; of several, the largest."""
        return max(
            self.shots(task), key=lambda num: (sum((task, n, num) in self.cells for n in self.models(task)), num)
        )


def is_pretrained(name: str) -> bool:
    """Whether a model starts from the weights of the checkpoint."""
    return name.startswith("lwm-") and not name.startswith("lwm-scratch")


def runs_of(lines: Sequence[Line]) -> dict[tuple[str, str], BenchmarkRun]:
    """Results by preset and pool; those of another budget or other labels than the latest ones are left out."""
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line["preset"], line["pool"]].append(line)
    found = {}
    for key, group in groups.items():
        latest = group[-1]
        same = [line for line in group if all(line[name] == latest[name] for name in ("budget", "labels"))]
        if any(line["kind"] == SCORE for line in same):
            found[key] = BenchmarkRun(same)
    return found


def render(lines: Sequence[Line], figures: dict[tuple[str, str], Sequence[Path]] | None = None) -> str:
    """All results as one page.

    Args:
        lines (`Sequence[dict]`): See [`~files.read_json_lines`].
        figures (`dict`, *optional*): Paths of the figures of each run, relative to the page.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: If there are no scores.
    """
    runs = runs_of(lines)
    if not runs:
        raise ValueError("There are no scores to report; run the benchmark first.")
    budgets = [run.lines[0]["budget"] for run in runs.values()]
    rates = ", ".join(dict.fromkeys(" or ".join(f"{r:g}" for r in budget["learning_rates"]) for budget in budgets))
    mobilenet = " (its MobileNet is V3)" if any(line.get("model") == "mobilenet-v2" for line in lines) else ""
    parts = [HEAD.format(rates=rates, share=budgets[0]["pretrained_share"], mobilenet=mobilenet)]
    for key, run in runs.items():
        parts += _section(key, run, (figures or {}).get(key, ()))
    return "\n".join(parts)


def card_section(lines: Sequence[Line], checkpoint: str) -> str:
    """The tables of a checkpoint for its card, from the run with most of its scores; without other checkpoints.

    Args:
        lines (`Sequence[dict]`): See [`~files.read_json_lines`].
        checkpoint (`str`): Name and digest, as in the results.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: If there are no scores of this checkpoint.
    """
    ours = [line for line in lines if line.get("checkpoint") in (checkpoint, None)]
    counts = Counter((line["preset"], line["pool"]) for line in ours if line.get("checkpoint"))
    if not counts:
        found = ", ".join(sorted({line["checkpoint"] for line in lines if line.get("checkpoint")})) or "none"
        raise ValueError(
            f"There are no scores of {checkpoint!r}, only of: {found}. Run the benchmark with its weights."
        )
    (preset, pool), _ = counts.most_common(1)[0]
    run = runs_of(ours)[preset, pool]
    parts = [
        f"Macro-F1 in %, mean and standard deviation over seeds; preset `{preset}` of `examples/run_benchmark.py`, "
        f"pool `{pool}`.\n{_steps(run)}. In brackets: what the paper has, on data of its own.\n"
    ]
    for task in run.tasks:
        parts.append(f"{TASKS[task].title}:\n\n{table(run, task)}")
    return "\n".join(parts)


def _section(key: tuple[str, str], run: BenchmarkRun, figures: Sequence[Path]) -> Iterator[str]:
    preset, pool = key
    first = run.lines[0]
    yield f"## {preset}: {pool}\n"
    checkpoints = ", ".join(f"`{name}`" for name in run.checkpoints) or "none"
    steps = f"{_steps(run)}; " if any(is_trained(line["model"]) for line in run.lines) else ""
    yield f"Labels `{first['labels']}`; checkpoint {checkpoints}; {steps}{_versions(run)}.\n"
    for task in run.tasks:
        yield f"### {TASKS[task].title}\n"
        yield table(run, task)
        if "mobility" in TASKS[task].target:
            yield parts_table(run, task)
        if task in run.bounds:
            yield snr_table(run, task)
    yield "### What a prediction costs\n"
    yield cost_table(run)
    yield from (f"![{path.stem}]({path.as_posix()})\n" for path in figures)
    if run.left_out:
        yield "Left out:\n"
        yield "".join(f"- {reason}\n" for reason in run.left_out)


def _steps(run: BenchmarkRun) -> str:
    budget = run.lines[0]["budget"]
    text = f"{budget['steps']:,} steps of {budget['batch_size']} rows"
    fitted = budget.get("fitted_steps")
    return text if fitted is None else f"{text}, {fitted:,} for what begins with a fitted head"


def _versions(run: BenchmarkRun) -> str:
    return ", ".join(f"{name} {value}" for name, value in run.lines[-1]["versions"].items())


def table(run: BenchmarkRun, task: str) -> str:
    """Macro-F1 [%] by model and N, beside the paper's."""
    shots = run.shots(task)
    lines = [line for line in run.lines if line["task"] == task]
    seeds = len({line["seed"] for line in lines})
    rows = [["spectrograms a class", *map(str, shots)]]
    for name in run.models(task):
        paper = PAPER.get(task, {}).get(name.split()[0], {})
        cells = [_score(run.values(task, name, num, "macro_f1"), paper.get(num), seeds) for num in shots]
        rows.append([run.titles[name], *cells])
    classes = len(lines[0]["classes"])
    return markdown_table(rows) + (
        f"\n\n{classes} classes, chance {100 / classes:.1f} % of decisions right; {lines[0]['test_rows']} test rows, "
        f"{seeds} seeds.\n"
    )


def snr_table(run: BenchmarkRun, task: str) -> str:
    """Accuracy [%] by SNR at the N that most models have: the best LWM, the best of the others, and the bound."""
    shots, bound = run.widest(task), run.bounds[task]
    snrs_db = list(bound["per_snr"])
    rows = [["SNR [dB]", *snrs_db, "all"]]
    for name in run.rivals(task):
        cells = run.cells[task, name, shots]
        by_snr = [[line["per_snr"].get(snr_db, np.nan) for line in cells] for snr_db in snrs_db]
        accuracy = [line["accuracy"] for line in cells]
        rows.append([run.titles[name], *(_score(values) for values in (*by_snr, accuracy))])
    values = [*bound["per_snr"].values(), bound["accuracy"]]
    rows.append(["likelihood bound", *(f"{100 * value:.1f}" for value in values)])
    elements = ", ".join(f"{name} {num}" for name, num in bound["num_elements"].items())
    return (
        f"Accuracy by SNR with {shots} a class, the best of LWM and the best of the others:\n\n"
        + markdown_table(rows)
        + f"\n\nThe bound is that of powers in an aligned rectangular window ({elements} resource elements, "
        f"{bound['trials']} trials), of an observer that knows protocol, channel, SNR and how often each modulation "
        "is sent. It cannot tell BPSK from QPSK; a second, tapered window can.\n"
    )


def parts_table(run: BenchmarkRun, task: str) -> str:
    """SNR and mobility by themselves [%]: the best LWM and the best of the others, at the N that most models have."""
    shots, names = run.widest(task), run.rivals(task)
    lines = [line for name in names for line in run.cells[task, name, shots]]
    dopplers = dict.fromkeys(key for line in lines for key in line.get("mobility_per_doppler", ()))
    rows = [["told right", "SNR", "mobility", *(f"at {doppler}" for doppler in dopplers)]]
    for name in names:
        lines = run.cells[task, name, shots]
        classes = [label.split("+") for label in lines[0]["classes"]]
        cells = []
        for part in range(2):
            same = np.array([[one[part] == other[part] for other in classes] for one in classes])
            cells.append([np.sum(line["confusion"] * same) / np.sum(line["confusion"]) for line in lines])
        by_doppler = [line.get("mobility_per_doppler", {}) for line in lines]
        cells += [[shares[doppler] for shares in by_doppler if doppler in shares] for doppler in dopplers]
        rows.append([run.titles[name], *map(_score, cells)])
    return (
        f"SNR and mobility by themselves with {shots} a class, and mobility by the largest Doppler shift. Pedestrians "
        "and vehicles meet between 20 and 50 Hz, where less than half a cycle fits into a spectrogram:\n\n"
        + markdown_table(rows)
        + "\n"
    )


def cost_table(run: BenchmarkRun) -> str:
    """Weights, milliseconds and training time, over all that was run."""
    rows = [["", "parameters [thousands]", "ms a spectrogram, batches of 64", "training [s]"]]
    names = dict.fromkeys(name for task in run.tasks for name in run.models(task))
    for name in names:
        lines = [line for (_, other, _), cell in run.cells.items() if other == name for line in cell]
        parameters = [line["parameters"] / 1e3 for line in lines]
        low, high = min(parameters), max(parameters)
        rows.append(
            [
                run.titles[name],
                f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}",
                f"{np.median([line['milliseconds'] for line in lines]):.2f}",
                f"{np.median([line['fit_seconds'] for line in lines]):.1f}",
            ]
        )
    return markdown_table(rows) + (
        "\n\nEach row was timed when it was run, some beside other work: rows of different calls compare within a "
        "factor of two or three.\n"
    )


def _score(values: Sequence[float], paper: float | None = None, seeds: int = 0) -> str:
    if not values:
        return "" if paper is None else f"({paper:.1f})"
    mean, deviation = spread(values)
    text = f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")
    if len(values) < seeds:
        text += f" [{len(values)} of {seeds} seeds]"
    return text if paper is None else f"{text} ({paper:.1f})"

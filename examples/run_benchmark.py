#!/usr/bin/env python
r"""Few-shot benchmark: the paper's Tables II and III and Fig. 5 on generated recordings of a city never trained on.

A quarter of an hour on two cores, from scratch; the same command again resumes a run that was stopped:

    python examples/run_benchmark.py --preset quick

One task, two models, another checkpoint:

    python examples/run_benchmark.py --preset quick --tasks joint-lte --models lwm-probe cnn-kojima \
        --checkpoint runs/my-checkpoint

More seeds, values of N and networks (about seven hours on two cores); then all of the paper's values of N, with a
choice of learning rates and the ImageNet networks, for a GPU:

    python examples/run_benchmark.py --preset standard
    python examples/run_benchmark.py --preset full --device cuda --imagenet weights

The same tasks with a blind (monitoring) receiver; then another city, for a checkpoint trained without that city:

    python examples/run_benchmark.py --preset quick --receiver blind
    python examples/run_benchmark.py --preset quick --city munich --checkpoint runs/without-munich

Write the page of results from the runs so far; then also put the tables into the card of the weights they belong to:

    python examples/run_benchmark.py --report
    python examples/run_benchmark.py --out docs --report --card model_cards/lwm-spectro-tiny

Writes to --out: `cache/` (recordings and embeddings), `results.jsonl` (a line for each task, model, N and seed),
`splits.json` (training and test rows) and `figures/`. Recordings and splits depend only on the preset, the receiver,
the city and the front-end of the checkpoint. Generating them needs the extra `data`, the models need `train`.
"""

import argparse
from pathlib import Path

from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.parquet import load_labels, load_spectrograms
from lwm_spectro_hf.evaluation.baselines import MODELS
from lwm_spectro_hf.evaluation.benchmark import Benchmark
from lwm_spectro_hf.evaluation.benchmark_figures import draw_benchmark
from lwm_spectro_hf.evaluation.features import Checkpoint, FeatureStore
from lwm_spectro_hf.evaluation.presets import PRESETS
from lwm_spectro_hf.evaluation.report import card_section, render, runs_of, table
from lwm_spectro_hf.evaluation.tasks import PRESETS_OF_RECEIVERS, TASKS, Pool
from lwm_spectro_hf.files import read_json_lines, whole_file
from lwm_spectro_hf.hub.model_card import with_section
from lwm_spectro_hf.resources import default_checkpoint
from lwm_spectro_hf.scripting import one_line_errors, usable_device


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", choices=PRESETS, default="quick", help="size of the benchmark (default: %(default)s)"
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="any of: " + ", ".join(TASKS)
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help="any of: " + ", ".join(MODELS))
    parser.add_argument(
        "--shots",
        nargs="+",
        type=int,
        metavar="N",
        help="values of N, the number of spectrograms per class, for all tasks",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder (default: the one included in this package)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmark"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--receiver",
        choices=PRESETS_OF_RECEIVERS,
        default="synchronous",
        help="receiver that makes the recordings (default: %(default)s)",
    )
    parser.add_argument("--city", default=HELD_OUT_SCENARIOS[0], help="city of the recordings (default: %(default)s)")
    parser.add_argument(
        "--imagenet",
        type=Path,
        help="folder with ImageNet weights: resnet-18/, efficientnet-b0/, mobilenet-v2/ (default: random weights)",
    )
    parser.add_argument("--device", default="cpu", help="device that runs the networks (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that generate recordings (default: %(default)s)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        nargs="?",
        const=Path("docs/results.md"),
        metavar="FILE",
        help="run nothing; only write the page of results (default: %(const)s)",
    )
    parser.add_argument(
        "--card", type=Path, help="with --report: also put the tables into the model card of this checkpoint"
    )
    args = parser.parse_args()
    if args.card and not args.report:
        parser.error("--card needs --report")
    return args


def write_report(args: argparse.Namespace) -> None:
    """Write the page of results with its figures, and the tables of a card if one is given."""
    lines = read_json_lines(args.out / "results.jsonl")
    folder = args.report.parent
    figures = {
        key: [
            path.relative_to(folder) for path in draw_benchmark(folder / "figures", run, "-".join(("benchmark", *key)))
        ]
        for key, run in runs_of(lines).items()
    }
    page = render(lines, figures)
    with whole_file(args.report) as stream:
        stream.write(page.encode())
    print(args.report)
    if args.card:
        checkpoint = Checkpoint(args.card, args.device)
        section = card_section(lines, f"{args.card.name} {checkpoint.digest}")
        path = args.card / "README.md"
        card = with_section(path.read_text(encoding="utf-8"), "Few-shot benchmark", section)
        with whole_file(path) as stream:
            stream.write(card.encode())
        print(path)


def run_benchmark(args: argparse.Namespace) -> None:
    preset = PRESETS[args.preset]
    pool = Pool(preset.num_rows, args.receiver, args.city)
    if args.city not in HELD_OUT_SCENARIOS:
        print(f"{args.city} is not a held-out city: scores count only for checkpoints that were trained without it.")
    checkpoint = Checkpoint(args.checkpoint or default_checkpoint(), args.device)
    folder = pool.build(args.out / "cache", checkpoint.extractor, args.processes)
    store = FeatureStore(load_spectrograms(folder, "test")["input_values"], checkpoint, folder / "features")
    benchmark = Benchmark(
        preset,
        [TASKS[name] for name in args.tasks],
        args.models or preset.models,
        pool,
        load_labels(folder, "test"),
        store,
        args.out,
        args.shots,
        args.imagenet,
    )
    for difference in benchmark.differences():
        print(f"Not as published, so scores cannot be compared: {difference}.")
    for reason in benchmark.left_out:
        print(f"Left out: {reason}.")
    lines = benchmark.run()
    key = preset.name, pool.folder_name(checkpoint.extractor)
    run = runs_of(lines).get(key)
    if run is None:
        raise SystemExit("Nothing was run: everything requested was left out, for the reasons above.")
    for task in run.tasks:
        print(f"\n### {TASKS[task].title}\n\n{table(run, task)}")
    for path in draw_benchmark(args.out / "figures", run, "-".join(key)):
        print(path)
    others = [name for name in MODELS if name not in (args.models or preset.models)]
    if others:
        print(f"Not part of this run: {', '.join(others)}.")


def main() -> None:
    args = parse_args()
    args.device = usable_device(args.device)
    write_report(args) if args.report else run_benchmark(args)


if __name__ == "__main__":
    with one_line_errors():
        main()

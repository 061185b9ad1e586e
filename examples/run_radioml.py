#!/usr/bin/env python
r"""Test on RadioML: do frozen embeddings separate the modulations of another simulator, which training never saw?

A few examples of each modulation and SNR, a minute or two on a laptop:

    python examples/run_radioml.py --file RML2016.10a_dict.pkl --per-cell 20 --shots 5 20 --out runs/radioml-2016

RadioML 2016.10A as papers use it, half of it for training and half for testing; then 2018.01A on a GPU:

    python examples/run_radioml.py --file RML2016.10a_dict.pkl --per-cell 1000 --out runs/radioml-2016
    python examples/run_radioml.py --file GOLD_XYZ_OSC.0001_1024.hdf5 --per-cell 400 --device cuda \
        --out runs/radioml-2018

The files are DeepSig's, under a license that forbids commercial use; this script does not download them. The pickle
(also inside its .tar.bz2) is read without executing any code; HDF5 needs h5py. Needs the extra `train`.

The same classifier, logistic regression on standardized features, is fitted to three kinds of features: the embedding
of the frozen checkpoint; the embedding of the same architecture with random weights; and the spectrogram itself,
averaged over the encoder's patches. The gain from pretraining is the lead of the first over the other two. The split
is stratified by modulation and SNR. "Linear probe" learns from all training examples, "few-shot" from N examples of
each modulation at any SNR, in several draws.

Writes to --out: `results.json`, `results.md` (a table) and `accuracy.png` (accuracy by SNR, and by shots).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import AutoModel

from lwm_spectro_hf import SpectrogramFeatureExtractor, default_checkpoint
from lwm_spectro_hf.data.radioml import WINDOW_SAMPLES, LabelledExamples, load_radioml, radioml_spectrograms
from lwm_spectro_hf.evaluation.probe import LogisticProbe
from lwm_spectro_hf.files import whole_file
from lwm_spectro_hf.markdown import markdown_table
from lwm_spectro_hf.scripting import one_line_errors, usable_device

PRETRAINED, RANDOM, SPECTROGRAM = "pretrained", "random weights", "spectrogram"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="RML2016.10a_dict.pkl or GOLD_XYZ_OSC.0001_1024.hdf5")
    parser.add_argument(
        "--model", default=default_checkpoint(), help="checkpoint (default: the one included in this package)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/radioml"), help="output folder (default: %(default)s)")
    parser.add_argument(
        "--per-cell", type=int, default=100, help="examples per modulation and SNR (default: %(default)s)"
    )
    parser.add_argument(
        "--min-snr-db", type=float, default=-np.inf, help="leave out examples below this SNR [dB] (default: none)"
    )
    parser.add_argument(
        "--test-share", type=float, default=0.5, help="share of the examples used for testing (default: %(default)s)"
    )
    parser.add_argument(
        "--shots",
        type=int,
        nargs="*",
        default=[1, 2, 5, 10, 20, 50, 100],
        help="numbers of examples per class in the few-shot tests (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of few-shot draws (default: %(default)s)")
    parser.add_argument(
        "--window-samples",
        type=int,
        default=WINDOW_SAMPLES,
        help="length of the analysis windows, zero-padded for the FFT (default: %(default)s, one symbol)",
    )
    parser.add_argument("--batch-size", type=int, default=128, help="batch size (default: %(default)s)")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device to compute on (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of selection, split and random weights (default: 0)")
    args = parser.parse_args()
    if args.per_cell < 2 or not 0 < args.test_share < 1 or args.repeats < 1 or any(n < 1 for n in args.shots):
        parser.error(
            "expected --per-cell of at least 2, --test-share between 0 and 1, --repeats and --shots of at least 1"
        )
    return args


@torch.inference_mode()
def features_of(examples: LabelledExamples, rows: np.ndarray, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Every representation of these examples, `(num, num_features)`, float32."""
    extractor = SpectrogramFeatureExtractor.from_pretrained(args.model)
    pretrained = AutoModel.from_pretrained(args.model)
    torch.manual_seed(args.seed)
    random = AutoModel.from_config(pretrained.config)
    models = {PRETRAINED: pretrained.to(args.device).eval(), RANDOM: random.to(args.device).eval()}
    patch_size = pretrained.config.encoder_config.patch_size

    parts: dict[str, list] = {PRETRAINED: [], RANDOM: [], SPECTROGRAM: []}
    batches = np.split(rows, range(args.batch_size, len(rows), args.batch_size))
    for batch in tqdm(batches, desc="embedding", unit="batch"):
        values = radioml_spectrograms(examples.read(batch), extractor, args.window_samples, args.device)
        for name, model in models.items():
            parts[name].append(model(values).pooler_output.float().cpu())
        parts[SPECTROGRAM].append(torch.nn.functional.avg_pool2d(values, patch_size).flatten(1).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def correct(features: torch.Tensor, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which rows of `test` a probe classifies correctly that was fitted to the rows `train`, with all classes."""
    probe = LogisticProbe(seed=0)
    probe.fit(features[train], torch.from_numpy(labels[train]))
    return np.unique(labels)[probe.predict(features[test]).argmax(-1)] == labels[test]


def few_shots(labels: np.ndarray, train: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draw `shots` rows of each class from `train`."""
    order = np.random.default_rng([seed, shots]).permutation(train)
    return np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)])


def split_cells(cells: np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and test rows; every cell has at least one of each."""
    order = np.random.default_rng(seed).permutation(len(cells))
    train, test = [], []
    for cell in np.unique(cells):
        rows = order[cells[order] == cell]
        num_test = min(max(1, round(test_share * len(rows))), len(rows) - 1)
        test.append(rows[:num_test])
        train.append(rows[num_test:])
    return np.concatenate(train), np.concatenate(test)


def percent(values: np.ndarray) -> float:
    return round(100 * float(np.mean(values)), 2)


def evaluate(features: dict, labels: np.ndarray, snr_db: np.ndarray, args: argparse.Namespace) -> dict:
    """Accuracies [%] of every representation: linear probe, by SNR, and few-shot."""
    cells = np.unique(np.stack([labels, snr_db]), axis=1, return_inverse=True)[1].ravel()
    train, test = split_cells(cells, args.test_share, args.seed)
    smallest = int(np.bincount(labels[train]).min())
    for count in [count for count in args.shots if count > smallest]:
        print(f"left out: {count} of each modulation, since there are {smallest} to train on (see --per-cell)")
    results = {}
    for name, columns in features.items():
        print(f"probing {name}, {columns.shape[1]} features", flush=True)
        hits = correct(columns, labels, train, test)
        by_snr = {f"{snr:g}": percent(hits[snr_db[test] == snr]) for snr in np.unique(snr_db)}
        shots = {}
        for count in [count for count in args.shots if count <= smallest]:
            draws = [few_shots(labels, train, count, args.seed + repeat) for repeat in range(args.repeats)]
            scores = [percent(correct(columns, labels, draw, test)) for draw in draws]
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
            shots[str(count)] = {"mean": round(float(np.mean(scores)), 2), "std": round(spread, 2)}
        results[name] = {"linear_probe": percent(hits), "by_snr": by_snr, "few_shot": shots}
    return {"num_train": len(train), "num_test": len(test), "accuracy": results}


def as_markdown(run: dict) -> str:
    """The results as Markdown."""
    accuracy = run["accuracy"]
    shots = list(accuracy[PRETRAINED]["few_shot"])
    lines = [
        f"{run['file']}: {run['num_classes']} modulations, chance {run['chance']:.1f} %. Accuracy on "
        f"{run['num_test']:,} examples, by a linear probe on {run['num_train']:,} and on N of each modulation (mean "
        f"+- standard deviation of {run['repeats']} draws), %:",
        "",
    ]
    rows = [["features", "linear probe", *(f"N = {count}" for count in shots)]]
    for name, scores in accuracy.items():
        cells = [
            f"{scores['few_shot'][count]['mean']:.1f} +- {scores['few_shot'][count]['std']:.1f}" for count in shots
        ]
        rows.append([name, f"{scores['linear_probe']:.1f}", *cells])
    snrs = list(accuracy[PRETRAINED]["by_snr"])
    by_snr = [["features", *snrs]]
    by_snr += [[name, *(f"{scores['by_snr'][snr]:.1f}" for snr in snrs)] for name, scores in accuracy.items()]
    lines += [markdown_table(rows), "", "Linear probe by SNR [dB], %:", "", markdown_table(by_snr), ""]
    return "\n".join(lines)


def draw(run: dict) -> Figure:
    """Accuracy by SNR, and by the number of shots."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, scores in run["accuracy"].items():
        left.plot([float(snr) for snr in scores["by_snr"]], list(scores["by_snr"].values()), marker=".", label=name)
        shots = scores["few_shot"]
        means, deviations = ([shot[key] for shot in shots.values()] for key in ("mean", "std"))
        right.errorbar([int(count) for count in shots], means, deviations, marker=".", capsize=2)
    for axis, label, title in ((left, "SNR [dB]", "linear probe"), (right, "examples of each modulation", "few-shot")):
        axis.axhline(run["chance"], color="0.6", linestyle="--", linewidth=1)
        axis.set(xlabel=label, title=title)
        axis.grid(color="0.9")
    counts = [int(count) for count in run["accuracy"][PRETRAINED]["few_shot"]]
    right.set_xscale("log")
    right.set_xticks(counts, counts)
    right.set_xticks([], minor=True)
    left.set_ylabel("accuracy [%]")
    left.legend(title=None, frameon=False)
    figure.suptitle(f"{run['file']}, dashed: chance", fontsize=10)
    return figure


def main():
    args = parse_args()
    args.device = usable_device(args.device)
    examples = load_radioml(args.file)
    rows = examples.balanced_rows(args.per_cell, args.seed)
    rows = rows[examples.snr_db[rows] >= args.min_snr_db]
    if not len(rows):
        raise SystemExit(f"{args.file}: no examples at {args.min_snr_db:g} dB or above; lower --min-snr-db.")
    features = features_of(examples, rows, args)
    labels = examples.labels[rows]
    settings = ("per_cell", "test_share", "repeats", "window_samples", "seed")
    run = {
        "file": args.file.name,
        "model": Path(args.model).name,
        "num_samples": examples.num_samples,
        "num_classes": len(np.unique(labels)),
        "classes": list(examples.class_names),
        "chance": 100 / len(np.unique(labels)),
        **{name: getattr(args, name) for name in settings},
        **evaluate(features, labels, examples.snr_db[rows], args),
    }
    text = as_markdown(run)
    with whole_file(args.out / "results.json") as stream:
        stream.write(json.dumps(run, indent=2).encode() + b"\n")
    with whole_file(args.out / "results.md") as stream:
        stream.write(text.encode())
    with whole_file(args.out / "accuracy.png") as stream:
        draw(run).savefig(stream, format="png")
    print(text + f"\nWrote {args.out}")


if __name__ == "__main__":
    with one_line_errors():
        main()

#!/usr/bin/env python
"""Compare embeddings with raw spectrograms: nearest neighbors, silhouettes and the pictures of fig. 3 and 4.

    python examples/compare_embeddings.py --num 600 --rows 600 --draws 2 --out runs/embeddings     # two minutes
    python examples/compare_embeddings.py --out runs/embeddings

Nothing is trained. Spectrograms of the held-out city are compared in three forms, one protocol at a time: raw,
embedded by the same architecture with random weights, and embedded by the checkpoint. Neighbors come from other
channels only. Writes a table (accuracy of ten nearest neighbors in %, mean and standard deviation over the draws, and
the silhouette in brackets) and one picture per protocol.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from lwm_spectro_hf import LwmSpectroMoEModel
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.builder import Split, build_parquet
from lwm_spectro_hf.data.parquet import load_spectrograms
from lwm_spectro_hf.data.recipe import MODULATIONS, PRESETS, PROTOCOLS, preset
from lwm_spectro_hf.evaluation.embeddings import draw_tsne, embed, neighbour_scores, neighbour_table
from lwm_spectro_hf.files import whole_file
from lwm_spectro_hf.resources import default_checkpoint
from lwm_spectro_hf.scripting import one_line_errors
from lwm_spectro_hf.training.checkpoints import check_kind

LABELS = ("modulation", "snr_db", "mobility")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=None, help="mixture of experts (default: the checkpoint included in this package)"
    )
    parser.add_argument(
        "--recipe", choices=list(PRESETS), default="paper", help="recipe of the spectrograms (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, help="Parquet data set whose test split is used instead of generating spectrograms"
    )
    parser.add_argument("--num", type=int, default=9000, help="spectrograms to generate (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2000, help="spectrograms per random draw (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="number of random draws (default: %(default)s)")
    parser.add_argument("--points", type=int, default=1000, help="points in each picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that generate spectrograms (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the table, figures and data")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    name = args.model or default_checkpoint()
    check_kind(Path(name), LwmSpectroMoEModel)
    model = LwmSpectroMoEModel.from_pretrained(name)
    folder = args.data
    if folder is None:
        folder = args.out / "data"
        recipe = replace(preset(args.recipe), channels=HELD_OUT_SCENARIOS, noise_share=0.0)
        build_parquet(folder, {"test": Split(recipe, args.num)}, args.seed, processes=args.processes)
    columns = load_spectrograms(folder, "test")
    torch.manual_seed(args.seed)
    untrained = LwmSpectroMoEModel(AutoConfig.from_pretrained(name))
    results, text = {}, []
    for index, protocol in enumerate(PROTOCOLS):
        rows = (columns["protocol"] == index).nonzero()[:, 0]
        if not len(rows):
            continue
        values = columns["input_values"][rows]
        features = {
            "raw": values.flatten(1).float().numpy(),
            "random encoder": embed(untrained, values),
            "checkpoint": embed(model, values),
        }
        labels = {label: columns[label][rows].numpy() for label in LABELS}
        scores = neighbour_scores(features, labels, columns["user"][rows].numpy(), args.rows, args.draws, args.seed)
        results[protocol] = scores
        text.append(f"{protocol}\n\n{neighbour_table(scores)}\n")
        print(f"\n{text[-1]}", flush=True)
        figure = picture(features, labels, scores, args)
        with whole_file(args.out / f"tsne-{protocol.lower()}.png") as stream:
            figure.savefig(stream, dpi=110, format="png")
    with whole_file(args.out / "neighbours.json") as stream:
        stream.write((json.dumps(results, indent=1) + "\n").encode())
    with whole_file(args.out / "neighbours.md") as stream:
        stream.write("\n".join(text).encode())
    print(f"{args.out}: neighbours.md, neighbours.json and one picture per protocol")


def picture(features: dict, labels: dict, scores: dict, args: argparse.Namespace):
    """Raw spectrograms beside embeddings, colored by SNR and by modulation, with their scores as captions."""
    rows = np.random.default_rng(args.seed).permutation(len(features["raw"]))[: args.points]
    shown = {name: features[name][rows] for name in ("raw", "checkpoint")}
    captions = {}
    for label in ("snr_db", "modulation"):
        for name in shown:
            accuracy, silhouette = np.mean(scores[label][name]), scores[label]["silhouette"].get(name, float("nan"))
            captions[label, name] = f"neighbours {accuracy:.0f} %, silhouette {silhouette:+.2f}"
    # Recordings without user data have no modulation: the picture shows them as "none", the scores leave them out.
    modulations = [MODULATIONS[value] if value >= 0 else "none" for value in labels["modulation"][rows]]
    return draw_tsne(shown, {"snr_db": labels["snr_db"][rows], "modulation": modulations}, captions, args.seed)


if __name__ == "__main__":
    with one_line_errors():
        main()

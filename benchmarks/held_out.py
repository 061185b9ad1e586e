"""Shared code of the benchmarks that fit something to the training cities and score it in the held-out city."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from lwm_spectro_hf.data.recipe import PRESETS, PROTOCOLS, Recipe
from lwm_spectro_hf.data.streaming import GeneratedSpectrograms

CHUNK = 32


def parse_args(parser: argparse.ArgumentParser, num: int, num_fit: int) -> argparse.Namespace:
    """Add the common options to a parser, with `num` and `num_fit` as defaults, and parse the arguments."""
    parser.add_argument(
        "--checkpoint", type=Path, help="mixture to measure (default: the one included in this package)"
    )
    parser.add_argument("--recipes", nargs="+", choices=PRESETS, default=["paper", "mixed"])
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--num", type=int, default=num, help="spectrograms to score on (default: %(default)s)")
    parser.add_argument("--num-fit", type=int, default=num_fit, help="spectrograms to fit to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table to this JSON file")
    args = parser.parse_args()
    if min(args.num, args.num_fit) < CHUNK:
        parser.error(f"--num is {args.num} and --num-fit {args.num_fit}; expected at least {CHUNK} each, one chunk")
    return args


def drawn(recipe: Recipe, num: int, seed: int, label: str) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of `num` spectrograms in all, rounded down to whole chunks."""
    stream = GeneratedSpectrograms(replace(recipe, chunk_size=CHUNK), seed, chunks_per_batch=1)
    for number in tqdm(range(num // CHUNK), desc=label, leave=False):
        yield stream.batch(number)

"""Masked patches of a held-out city, reconstructed by the released experts and by what needs no network.

    python benchmarks/reconstruction.py --num 128 --num-fit 256            # two minutes, to see that it runs
    python benchmarks/reconstruction.py                                     # the table of TRAINING.md
    python benchmarks/reconstruction.py --recipes paper --figure reconstruction.png
    python benchmarks/reconstruction.py --checkpoint runs/lwm-spectro-tiny --recipes paper --protocols LTE

Mean squared error of a value in a masked patch, where spectrograms have unit variance. The linear predictor is fitted
to the cities of training. "means of frames and bins" is what a decoder with `decoder_num_copy_heads` starts from; the
last column divides by the best of the other three.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from lwm_spectro_hf import (
    LwmSpectroForPreTraining,
    LwmSpectroMoEForPreTraining,
    default_checkpoint,
    patchify,
    unpatchify,
)
from lwm_spectro_hf.data.builder import splits_by_city
from lwm_spectro_hf.data.recipe import PRESETS, PROTOCOLS, Recipe, preset
from lwm_spectro_hf.data.streaming import GeneratedSpectrograms
from lwm_spectro_hf.evaluation.reconstruction import (
    baseline_errors,
    masked_batches,
    model_error,
    over_best_baseline,
)

CHUNK = 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a mixture with decoders (default: the one that ships)")
    parser.add_argument("--recipes", nargs="+", choices=PRESETS, default=["paper", "mixed"])
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--num", type=int, default=1024, help="spectrograms to score on (default: %(default)s)")
    parser.add_argument("--num-fit", type=int, default=2048, help="to fit the predictor to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the errors")
    parser.add_argument("--figure", type=Path, help="picture of one spectrogram of each, masked and reconstructed")
    args = parser.parse_args()
    if min(args.num, args.num_fit) < CHUNK:
        parser.error(f"--num is {args.num} and --num-fit {args.num_fit}; expected at least {CHUNK}, a chunk, of each")
    return args


def drawn(recipe: Recipe, num: int, seed: int, label: str) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of so many spectrograms, in whole chunks."""
    stream = GeneratedSpectrograms(replace(recipe, chunk_size=CHUNK), seed, chunks_per_batch=1)
    for number in tqdm(range(num // CHUNK), desc=label, leave=False):
        yield stream.batch(number)


def panels(expert: LwmSpectroForPreTraining, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A spectrogram, what is visible of it, and that with masked patches reconstructed; its first channel."""
    size, shape = expert.config.patch_size, values.shape[-2:]
    hidden = mask[:1, :, None]
    patches = patchify(values[:1], size)
    with torch.no_grad():
        guess = expert.eval()(values[:1], bool_masked_pos=mask[:1]).reconstruction
    shown = (patches, patches.masked_fill(hidden, torch.nan), torch.where(hidden, guess, patches))
    return tuple(unpatchify(part, size, *shape)[0, 0] for part in shown)


def draw(rows: dict[str, tuple[torch.Tensor, ...]]) -> Figure:
    """A row for each recording: whole, masked, reconstructed."""
    figure = Figure(figsize=(9, 3 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for line, (label, images) in zip(grid, rows.items(), strict=True):
        for panel, image, title in zip(line, images, ("spectrogram", "visible", "reconstructed"), strict=True):
            panel.imshow(image, aspect="auto", vmin=-3, vmax=3, interpolation="nearest")
            panel.set(title=f"{label}, {title}", xlabel="frequency bin", ylabel="frame")
    return figure


def main() -> None:
    args = parse_args()
    mixture = LwmSpectroMoEForPreTraining.from_pretrained(args.checkpoint or default_checkpoint())
    found, pictures = {}, {}
    for recipe_name in args.recipes:
        for protocol in args.protocols:
            recipe = preset(recipe_name).narrowed(protocols=(protocol,), noise_share=0.0)
            splits = splits_by_city(recipe, args.num_fit, args.num, add_test=True)
            expert, label = mixture.expert(protocol), f"{recipe_name}, {protocol}"
            fitting, scored = (
                masked_batches(
                    drawn(splits[name].recipe, splits[name].num, seed, f"{label}, {name}"), expert.config, seed
                )
                for name, seed in (("train", args.seed + 1), ("test", args.seed))
            )
            errors = baseline_errors(expert.config, fitting, scored) | {"model": model_error(expert, scored)}
            if not found:
                print(f"| recordings | {' | '.join(errors)} | model / best baseline |")
                print("| --- " * (len(errors) + 2) + "|")
            found[label] = errors
            if args.figure:
                clear = replace(splits["test"].recipe, snrs_db=recipe.snrs_db[-1:])
                pictures[label] = panels(expert, *masked_batches(drawn(clear, CHUNK, 2, label), expert.config, 2)[0])
            cells = " | ".join(f"{error:.3f}" for error in errors.values())
            print(f"| {label} | {cells} | {over_best_baseline(errors):.2f} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    if args.figure:
        draw(pictures).savefig(args.figure, dpi=80)


if __name__ == "__main__":
    main()

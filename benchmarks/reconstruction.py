"""Masked patches in the held-out city, reconstructed by the released experts and by baselines without a network.

    python benchmarks/reconstruction.py --num 128 --num-fit 256            # two minutes, to see that it runs
    python benchmarks/reconstruction.py                                     # the table of the model card
    python benchmarks/reconstruction.py --recipes paper --figure reconstruction.png
    python benchmarks/reconstruction.py --checkpoint runs/lwm-spectro-tiny --recipes paper --protocols LTE

The table has the mean squared error of a value in a masked patch; spectrograms have unit variance. The linear
predictor is fitted to the training cities. "means of frames and bins" is what a decoder with `decoder_num_copy_heads`
starts from. The last two columns are ratios of the model's error: to this one, and to the best of the other three.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from held_out import CHUNK, drawn, parse_args
from matplotlib.figure import Figure

from lwm_spectro_hf import (
    LwmSpectroForPreTraining,
    LwmSpectroMoEForPreTraining,
    default_checkpoint,
    patchify,
    unpatchify,
)
from lwm_spectro_hf.data.builder import splits_by_city
from lwm_spectro_hf.data.recipe import preset
from lwm_spectro_hf.evaluation.reconstruction import (
    baseline_errors,
    error_table,
    masked_batches,
    model_error,
)


def panels(expert: LwmSpectroForPreTraining, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """First channel of a spectrogram, of its visible patches, and of these with the masked ones reconstructed."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--figure",
        type=Path,
        help="draw one spectrogram per recipe and protocol, masked and reconstructed, to this file",
    )
    args = parse_args(parser, num=1024, num_fit=2048)
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
            found[label] = errors
            if args.figure:
                clear = replace(splits["test"].recipe, snrs_db=recipe.snrs_db[-1:])
                pictures[label] = panels(expert, *masked_batches(drawn(clear, CHUNK, 2, label), expert.config, 2)[0])
    print(error_table(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.figure:
        draw(pictures).savefig(args.figure, dpi=80)


if __name__ == "__main__":
    main()

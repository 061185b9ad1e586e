#!/usr/bin/env python
r"""Stage 1: pretrain the expert of one protocol on spectrograms that are generated on the way, or read from Parquet.

A minute on a laptop, a small model:

    python examples/run_pretraining.py --protocol LTE --tiny --minutes 1 --schedule minutes --batch-size 32 \
        --chunk-size 16 --mix 4 --repeat 16 --eval-samples 64 --out runs/lte-tiny

The paper's size on a GPU, nine minutes; the same command again goes on where it stopped, along table I's schedule:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --device cuda --out runs/lte

The same with a learning rate that rises and falls within the minutes, whatever the speed of the machine:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --schedule minutes --device cuda --out runs/lte

Several processes, and nodes with the options of `accelerate launch`; the batch size is that of all together. (On CPUs
`accelerate launch` starts one process: `torchrun --nproc_per_node 2` starts more.)

    accelerate launch --num_processes 8 examples/run_pretraining.py --protocol LTE --batch-size 2048 --out runs/lte

From a data set that `lwm-spectro generate` built, and then the joint objective (eq. 22) from those weights:

    python examples/run_pretraining.py --protocol LTE --data runs/dataset --epoch-samples 0 --out runs/lte
    python examples/run_pretraining.py --protocol LTE --init runs/lte/model --contrastive snr_db mobility \
        --out runs/lte-joint

Labels of the pretraining cities beside masked modeling: a small model learns SNR, mobility and modulation by them in
a quarter of an hour of one core, which contrast alone does not in hours. First on saturated cells, then on all:

    python examples/run_pretraining.py --protocol LTE --tiny --supervised modulation snr_db mobility --augment \
        --data runs/paper --in-memory --chunk-size 128 --mix 16 --batch-size 32 --minutes 8 --schedule minutes \
        --learning-rate 2e-3 --out runs/lte-first
    python examples/run_pretraining.py --protocol LTE --tiny --supervised modulation snr_db mobility --augment \
        --init runs/lte-first/model --data runs/mixed runs/paper --in-memory --chunk-size 128 --mix 32 \
        --batch-size 32 --minutes 9 --schedule minutes --learning-rate 1.5e-3 --out runs/lte

A stem of three residual blocks where the first run had one, from the same weights: `--init runs/lte/model
--deepen-stem 3`. It learns more from each spectrogram, and takes longer over it.

The paper's width and depth, from the weights of a small expert: `--init runs/lte/model --widen 128 --deepen 12`. A
network that begins with what a smaller one knows is trained in a fraction of the time.

A decoder that copies what repeats in resource grids, for an encoder that stays as it is, so that nothing that was
fitted to its embeddings has to be fitted again:

    python examples/run_pretraining.py --protocol LTE --init runs/lte/model --copy-heads 4 --part decoder \
        --data runs/mixed runs/paper --in-memory --chunk-size 128 --mix 32 --batch-size 32 --minutes 12 \
        --schedule minutes --learning-rate 2e-3 --out runs/lte-decoder

With `--inpainting-channels 32` beside it, or given to the decoder that this one has become, convolutions carry on what
visible patches show into the masked ones between them.

Levels of single pixels, which show constellations, beside a transformer that stays as it is; a few minutes are enough:

    python examples/run_pretraining.py --protocol LTE --init runs/lte-decoder/model --level-bins 20 --part levels \
        --supervised modulation snr_db mobility --augment --data runs/mixed runs/paper --in-memory --chunk-size 128 \
        --mix 32 --batch-size 64 --minutes 12 --schedule minutes --learning-rate 2e-3 --out runs/lte-levels

Batches should hold many settings: a chunk has one carrier and one kind of receiver. Read from a data set, take a large
--mix; where data are generated, --interleave 8.

Generation needs deepmimo, and for 5G sionna-no-rt. Where neither can be installed, their unpacked wheels on PYTHONPATH
do: `pip download --no-deps deepmimo sionna-no-rt importlib-resources`, and `python -m zipfile -e` for each.

Writes to --out: `state/` (to go on from), `model/` (the weights of the best validation loss, for `from_pretrained`),
`log.jsonl` and `results.json`; files of at most --max-file-mib.
"""

import argparse
from pathlib import Path

import torch

from lwm_spectro_hf import LwmSpectroForPreTraining
from lwm_spectro_hf.data.recipe import PROTOCOLS, stable_seed
from lwm_spectro_hf.evaluation.reconstruction import (
    ADDITIVE,
    baseline_errors,
    masked_batches,
    model_error,
    over_best_baseline,
)
from lwm_spectro_hf.scripting import one_line_errors
from lwm_spectro_hf.training.batches import LABELS
from lwm_spectro_hf.training.checkpoints import load_trained
from lwm_spectro_hf.training.growth import (
    copying_decoder,
    counting_levels,
    deepen_encoder,
    deepen_stem,
    inpainting_decoder,
    widen_encoder,
)
from lwm_spectro_hf.training.pretraining import PARTS, Pretraining, PretrainingSettings
from lwm_spectro_hf.training.run import Run, add_model_options, add_options, new_config

# What --init can be changed by: the option, how, and of which part it gives another.
CHANGES = (
    ("deepen_stem", deepen_stem, "stem"),
    ("widen", widen_encoder, "width"),
    ("deepen", deepen_encoder, "layers"),
    ("copy_heads", copying_decoder, "decoder"),
    ("inpainting_channels", inpainting_decoder, "decoder"),
    ("level_bins", counting_levels, "levels"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True, help="whose expert it is")
    train = add_options(parser, PretrainingSettings(), mix=8)
    train.add_argument(
        "--contrastive", nargs="+", choices=LABELS, default=[], help="joint objective over these labels"
    )
    train.add_argument(
        "--supervised",
        nargs="+",
        choices=LABELS,
        default=[],
        help="labels that the embedding learns to tell beside its objective, sooner than by contrast",
    )
    train.add_argument("--augment", action="store_true", help="shift spectrograms in time, and mirror half of them")
    train.add_argument(
        "--part",
        choices=PARTS,
        default=PretrainingSettings.part,
        help="what is trained: all; the decoder alone, so that embeddings stay what they are; or the levels alone, on "
        "the labels of --supervised (default: %(default)s)",
    )
    model = add_model_options(parser)
    model.add_argument("--init", type=Path, help="checkpoint to start from")
    model.add_argument(
        "--deepen-stem", type=int, help="residual blocks for the stem of --init; new ones add nothing at first"
    )
    model.add_argument(
        "--widen", type=int, help="width for the tokens of --init, which does nearly the same with it at first"
    )
    model.add_argument("--deepen", type=int, help="layers for --init, of which new ones change nothing at first")
    model.add_argument(
        "--copy-heads", type=int, help="a new decoder for --init, with so many heads that copy visible patches"
    )
    model.add_argument(
        "--inpainting-channels",
        type=int,
        help="convolutions for the decoder of --init that copies, which add nothing at first; 32 is a good number",
    )
    model.add_argument(
        "--level-bins",
        type=int,
        help="a histogram of levels for --init, which adds nothing at first; 20 is a good size",
    )
    args = parser.parse_args()
    for option, _, part in CHANGES:
        if getattr(args, option) is not None and not args.init:
            named = option.replace("_", "-")
            parser.error(f"--{named} is for the weights of --init; new ones get their {part} by --config")
    try:  # before anything is loaded
        PretrainingSettings(part=args.part, contrastive=tuple(args.contrastive), supervised=tuple(args.supervised))
    except ValueError as error:
        parser.error(f"--part {args.part}: {error}")
    return args


def model_of(args: argparse.Namespace) -> LwmSpectroForPreTraining:
    torch.manual_seed(stable_seed("weights", args.seed) % 2**31)
    if args.init:
        model = load_trained(LwmSpectroForPreTraining, args.init, part="lwm_spectro.")
    else:
        model = LwmSpectroForPreTraining(new_config(args))
    for option, change, _ in CHANGES:
        if (number := getattr(args, option)) is not None:
            try:
                model = change(model, number)
            except ValueError as error:
                raise SystemExit(f"--{option.replace('_', '-')} {number}: {error}") from None
    if args.part == "levels" and not model.config.level_num_bins:
        raise SystemExit(
            "--part levels: The expert counts no levels; expected --level-bins with --init, or a --config with "
            "level_num_bins above 0."
        )
    return model


def main() -> None:
    args = parse_args()
    run = Run(args, args.protocol)
    model = model_of(args).to(run.accelerator.device)
    run.write_model = model.save_pretrained
    settings = run.settings(PretrainingSettings)
    folder, data = args.out / "state", run.data
    loop = Pretraining(model, data.batches, settings, run.accelerator, folder, data.description, **run.loop_options())
    # What can be known of the end is done at the start, so that training can use all the minutes that are left.
    errors, held_out = {}, []
    if run.accelerator.is_main_process:
        held_out = masked_batches(data.held_out, model.config, args.seed)
        errors = baseline_errors(model.config, masked_batches(run.first_batches(), model.config, args.seed), held_out)
    results = run.train(loop, lambda: model_error(model, held_out))
    scores = []
    if results:
        best = LwmSpectroForPreTraining.from_pretrained(args.out / "model").to(run.accelerator.device)
        errors["model"] = model_error(best, held_out)
        ratio = over_best_baseline(errors)
        results |= {"protocol": args.protocol, "masked_error_held_out": errors, "model_over_best_baseline": ratio}
        scores = [(f"held-out city: {name}", f"{value:.4f}") for name, value in errors.items()]
        scores.append((f"model / {ADDITIVE}", f"{errors['model'] / errors[ADDITIVE]:.3f}"))
        scores.append(("model / best of the other baselines", f"{ratio:.3f}"))
    run.finish(f"{args.protocol}; masked errors are mean squares of a value, lower is better", results, scores)


if __name__ == "__main__":
    with one_line_errors():
        main()

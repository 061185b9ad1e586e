#!/usr/bin/env python
r"""Stage 1: pretrain the expert of one protocol on spectrograms that are generated on the fly, or read from Parquet.

A minute on a laptop, a small model:

    python examples/run_pretraining.py --protocol LTE --tiny --minutes 1 --schedule minutes --batch-size 32 \
        --chunk-size 16 --mix 4 --repeat 16 --eval-samples 64 --out runs/lte-tiny

The paper's size on a GPU, nine minutes; the same command again resumes where it stopped, on the schedule of table I:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --device cuda --out runs/lte

The same with a learning rate that rises and falls within the given minutes, whatever the speed of the machine:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --schedule minutes --device cuda --out runs/lte

Several processes, on several nodes with the options of `accelerate launch`; --batch-size is the total over all
processes. (On CPUs `accelerate launch` starts one process: `torchrun --nproc_per_node 2` starts more.)

    accelerate launch --num_processes 8 examples/run_pretraining.py --protocol LTE --batch-size 2048 --out runs/lte

From a data set built by `lwm-spectro generate`; then the joint objective (eq. 22) from the resulting weights:

    python examples/run_pretraining.py --protocol LTE --data runs/dataset --epoch-samples 0 --out runs/lte
    python examples/run_pretraining.py --protocol LTE --init runs/lte/model --contrastive snr_db mobility \
        --out runs/lte-joint

Masked modeling together with the labels of the pretraining cities: a small model learns SNR, mobility and modulation
in a quarter of an hour on one core, which contrast alone does not achieve in hours. First on saturated cells, then on
all kinds:

    python examples/run_pretraining.py --protocol LTE --tiny --supervised modulation snr_db mobility --augment \
        --data runs/paper --in-memory --chunk-size 128 --mix 16 --batch-size 32 --minutes 8 --schedule minutes \
        --learning-rate 2e-3 --out runs/lte-first
    python examples/run_pretraining.py --protocol LTE --tiny --supervised modulation snr_db mobility --augment \
        --init runs/lte-first/model --data runs/mixed runs/paper --in-memory --chunk-size 128 --mix 32 \
        --batch-size 32 --minutes 9 --schedule minutes --learning-rate 1.5e-3 --out runs/lte

A stem of three residual blocks instead of the first run's one, starting from its weights: `--init runs/lte/model
--deepen-stem 3`. It learns more from each spectrogram, but takes longer for each.

The paper's width and depth, from the weights of a small expert: `--init runs/lte/model --widen 128 --deepen 12`. A
network that starts from the weights of a smaller one trains in a fraction of the time.

A new decoder that copies what repeats in resource grids, for a frozen encoder, so that nothing that was fitted to its
embeddings has to be fitted again:

    python examples/run_pretraining.py --protocol LTE --init runs/lte/model --copy-heads 4 --part decoder \
        --data runs/mixed runs/paper --in-memory --chunk-size 128 --mix 32 --batch-size 32 --minutes 12 \
        --schedule minutes --learning-rate 2e-3 --out runs/lte-decoder

With `--inpainting-channels 32` as well, or in a later run that starts from this decoder, convolutions continue what
visible patches show into the masked patches between them.

A histogram of the levels of single pixels, which shows constellations, beside a frozen transformer; a few minutes are
enough:

    python examples/run_pretraining.py --protocol LTE --init runs/lte-decoder/model --level-bins 20 --part levels \
        --supervised modulation snr_db mobility --augment --data runs/mixed runs/paper --in-memory --chunk-size 128 \
        --mix 32 --batch-size 64 --minutes 12 --schedule minutes --learning-rate 2e-3 --out runs/lte-levels

Batches should mix many settings, but a chunk has one carrier and one kind of receiver: use a large --mix when reading
a data set, and --interleave 8 when generating.

Generation needs deepmimo, and for 5G sionna-no-rt. If they cannot be installed, put their unpacked wheels on
PYTHONPATH: `pip download --no-deps deepmimo sionna-no-rt importlib-resources`, and `python -m zipfile -e` for each.

Writes to --out: `state/` (to resume from), `model/` (the weights with the best validation loss, for
`from_pretrained`), `log.jsonl` and `results.json`; no file is larger than --max-file-mib.
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
from lwm_spectro_hf.training.batches import NUM_CLASSES
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
from lwm_spectro_hf.training.run import TrainingRun, add_model_options, add_options, new_config

# Changes to the model of --init: the option, the function that applies it, and the part that it changes.
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
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True, help="protocol of the expert")
    train = add_options(parser, PretrainingSettings(), mix=8)
    train.add_argument(
        "--contrastive",
        nargs="+",
        choices=NUM_CLASSES,
        default=[],
        help="train the joint objective (eq. 22) with contrast over these labels",
    )
    train.add_argument(
        "--supervised",
        nargs="+",
        choices=NUM_CLASSES,
        default=[],
        help="labels that the embedding also learns to predict; faster than contrastive learning",
    )
    train.add_argument(
        "--augment",
        action="store_true",
        help="randomly shift spectrograms in time and mirror half of them in frequency",
    )
    train.add_argument(
        "--part",
        choices=PARTS,
        default=PretrainingSettings.part,
        help="what to train: all; only the decoder, which leaves the embeddings unchanged; or only the levels, on the "
        "labels of --supervised (default: %(default)s)",
    )
    model = add_model_options(parser)
    model.add_argument("--init", type=Path, help="checkpoint to start from")
    model.add_argument(
        "--deepen-stem",
        type=int,
        help="number of residual blocks in the stem of --init; new blocks have no effect at first",
    )
    model.add_argument("--widen", type=int, help="token width to widen --init to; at first, its output hardly changes")
    model.add_argument(
        "--deepen", type=int, help="number of layers to deepen --init to; new layers have no effect at first"
    )
    model.add_argument(
        "--copy-heads", type=int, help="give --init a new decoder, with this many heads that copy visible patches"
    )
    model.add_argument(
        "--inpainting-channels",
        type=int,
        help="width of convolutions to add to the copying decoder of --init; no effect at first; 32 works well",
    )
    model.add_argument(
        "--level-bins",
        type=int,
        help="bins of a level histogram to add to --init; no effect at first; 20 works well",
    )
    args = parser.parse_args()
    for option, _, part in CHANGES:
        if getattr(args, option) is not None and not args.init:
            named = option.replace("_", "-")
            parser.error(f"--{named} changes the weights of --init; for new weights, set the {part} with --config")
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
            "--part levels: the expert has no level histogram; expected --level-bins with --init, or a --config with "
            "level_num_bins above 0."
        )
    return model


def main() -> None:
    args = parse_args()
    model = model_of(args)
    run = TrainingRun(args, args.protocol)  # last, since it begins with generating data: mistakes show at once
    model.to(run.accelerator.device)
    run.write_model = model.save_pretrained
    settings = run.settings(PretrainingSettings)
    folder, data = args.out / "state", run.data
    loop = Pretraining(model, data.batches, settings, run.accelerator, folder, data.description, **run.loop_options())
    # The baselines of the final table are computed at the start, so that training can use all remaining minutes.
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
    run.finish(f"{args.protocol}; masked errors are mean squared errors per value, lower is better", results, scores)


if __name__ == "__main__":
    with one_line_errors():
        main()

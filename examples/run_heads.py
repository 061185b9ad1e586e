#!/usr/bin/env python
r"""Stage 3: train heads for modulation and SNR x mobility on a routed mixture, together with its experts.

A minute on a laptop, from the output of `examples/run_router.py`:

    python examples/run_heads.py --mixture runs/router/model --minutes 1 --schedule minutes --batch-size 24 \
        --chunk-size 16 --mix 3 --repeat 16 --eval-samples 96 --out runs/heads

From experts without a trained router; the router can be trained at the same time, and is added on release:

    python examples/run_heads.py --experts runs/wifi/model runs/lte/model runs/nr/model --view visible --minutes 9 \
        --schedule minutes --classifier linear --head-start probe --out runs/heads

Heads alone, with the experts unchanged: the same with `--samples 0`, which stops after the regressions.

On a GPU, nine minutes; the same command again resumes where it stopped, on the schedule of table I:

    python examples/run_heads.py --mixture runs/router/model --minutes 9 --device cuda --out runs/heads

Heads and experts are trained on the labels and on eq. 22 together, so that the decoders still fit the experts; the
router is frozen. `--data` reads Parquet data sets instead of generating. For one downstream task, or a labeled data
set of your own, use `examples/run_classification.py`.

Writes to --out: `state/` (to resume from), `model/` (for every Auto class: encoders, decoders, router and heads with
the best validation loss), `log.jsonl` and `results.json`; no file is larger than --max-file-mib.
"""

import argparse
import math
from pathlib import Path

import torch

from lwm_spectro_hf import (
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
)
from lwm_spectro_hf.data.recipe import PROTOCOLS, stable_seed
from lwm_spectro_hf.evaluation.reconstruction import baseline_errors, masked_batches, model_error
from lwm_spectro_hf.evaluation.scores import score_mixture, table_of
from lwm_spectro_hf.scripting import one_line_errors
from lwm_spectro_hf.training.checkpoints import load_trained
from lwm_spectro_hf.training.mixture import VIEWS, HeadSettings, HeadTraining, MixtureHeads, shortened
from lwm_spectro_hf.training.run import TrainingRun, add_model_options, add_options, experts_of

DEFAULTS = HeadSettings(batch_size=96)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--mixture", type=Path, help="checkpoint of examples/run_router.py (default: new weights)")
    start.add_argument(
        "--experts",
        type=Path,
        nargs=len(PROTOCOLS),
        help=f"instead of --mixture: checkpoints of {', '.join(PROTOCOLS)}, in this order",
    )
    train = add_options(parser, DEFAULTS, mix=12)
    add_model_options(parser)
    train.add_argument(
        "--classifier",
        choices=["residual_cnn", "linear"],
        help="residual_cnn: classifier of eq. 20; linear: learns in fewer steps",
    )
    train.add_argument(
        "--head-start",
        choices=["probe", "random"],
        default="random",
        help="initial weights of linear heads: probe, a logistic regression on embeddings (for trained experts), or "
        "random (default: %(default)s)",
    )
    train.add_argument(
        "--probe-rows",
        type=int,
        default=6000,
        help="spectrograms used to fit this logistic regression (default: %(default)s)",
    )
    train.add_argument(
        "--view",
        choices=VIEWS,
        default=DEFAULTS.view,
        help="what the heads learn from: the whole spectrogram, or only its visible (unmasked) patches, which takes "
        "half the time and suits --mask-strategy drop (default: %(default)s)",
    )
    train.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        help="turn off augmentation: time shifts, mirroring and short recordings",
    )
    return parser.parse_args()


def mixture_of(args: argparse.Namespace) -> LwmSpectroMoEForPreTraining:
    if args.mixture:
        return load_trained(LwmSpectroMoEForPreTraining, args.mixture)
    return LwmSpectroMoEForPreTraining.from_experts(experts_of(args), expert_names=list(PROTOCOLS), router_type="cnn")


def rows_of(protocol: int, batches: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    kept = ((batch, batch["protocol"] == protocol) for batch in batches)
    return [{name: column[rows] for name, column in batch.items()} for batch, rows in kept if rows.any()]


def masked_errors(mixture: LwmSpectroMoEForPreTraining, held_out: dict[str, list]) -> dict[str, float]:
    """Masked reconstruction error of each expert on spectrograms of its protocol."""
    return {protocol: model_error(mixture.expert(protocol), batches) for protocol, batches in held_out.items()}


def main() -> None:
    args = parse_args()
    torch.manual_seed(stable_seed("heads", args.seed) % 2**31)
    mixture = mixture_of(args)
    if args.classifier:
        mixture.config.expert_config.classifier_type = args.classifier
    if args.head_start == "probe" and mixture.config.expert_config.classifier_type != "linear":
        raise SystemExit("--head-start probe fits linear heads: add --classifier linear.")
    heads = MixtureHeads(mixture)
    run = TrainingRun(args)  # last, since it begins with generating data: mistakes show at once
    heads.to(run.accelerator.device)
    run.write_model = lambda folder, **options: heads.classifier.save_pretrained(
        folder, state_dict=heads.state_of_checkpoint(), **options
    )
    data = run.data
    loop = HeadTraining(
        heads,
        data.batches,
        run.settings(HeadSettings),
        run.accelerator,
        args.out / "state",
        data.description,
        **run.loop_options(),
    )
    if args.head_start == "probe" and not loop.progress.step:
        count = math.ceil(args.probe_rows / args.batch_size)
        rows = (data.batches.at(number) for number in range(count))
        heads.fit((shortened(batch, args.seed) for batch in rows) if args.augment else rows)
    # The baselines of the final table are computed at the start, so that training can use all remaining minutes.
    config, first = mixture.config.expert_config, run.first_batches()
    errors, held_out = {}, {}
    for number, protocol in enumerate(PROTOCOLS):
        fitting, scored = (
            masked_batches(rows_of(number, batches), config, args.seed) for batches in (first, data.held_out)
        )
        if fitting and scored:
            errors[protocol], held_out[protocol] = baseline_errors(config, fitting, scored), scored

    def score() -> list:
        return [score_mixture(heads.classifier, data.held_out), masked_errors(mixture, held_out)]

    results = run.train(loop, score)
    best = LwmSpectroMoEForSequenceClassification.from_pretrained(args.out / "model").to(run.accelerator.device)
    results["scores_held_out"] = score_mixture(best, data.held_out)
    decoders = LwmSpectroMoEForPreTraining.from_pretrained(args.out / "model").to(run.accelerator.device)
    for protocol, error in masked_errors(decoders, held_out).items():
        errors[protocol]["model"] = error
    results["masked_error_held_out"] = errors
    run.finish("mixture with heads; scores in the held-out city", results, [])
    print(table_of(results["scores_held_out"]))


if __name__ == "__main__":
    with one_line_errors():
        main()

#!/usr/bin/env python
r"""Stage 3: heads for modulation and SNR x mobility on a routed mixture, its experts with them at a lower rate.

A minute on a laptop, from the output of `examples/run_router.py`:

    python examples/run_heads.py --mixture runs/router/model --minutes 1 --schedule minutes --batch-size 24 \
        --chunk-size 16 --mix 3 --repeat 16 --eval-samples 96 --out runs/heads

On a GPU, nine minutes; the same command again goes on where it stopped, along table I's schedule:

    python examples/run_heads.py --mixture runs/router/model --minutes 9 --device cuda --out runs/heads

Heads and experts learn their labels and eq. 22 together, so the decoders go on fitting the experts; the router stays
as it is. `--data` reads Parquet data sets instead of generating. For one downstream task, or another data set of
labels, there is `examples/run_classification.py`.

Writes to --out: `state/` (to go on from; files of at most --max-file-mib), `model/` (one file for every Auto class:
encoders, decoders, router and heads of the best validation loss), `log.jsonl` and `results.json`.
"""

import argparse
from pathlib import Path

import torch

from lwm_spectro_hf import LwmSpectroMoEForPreTraining, LwmSpectroMoEForSequenceClassification
from lwm_spectro_hf.data.recipe import stable_seed
from lwm_spectro_hf.evaluation.scores import score_mixture, table_of
from lwm_spectro_hf.training.mixture import VIEWS, HeadSettings, HeadTraining, MixtureHeads
from lwm_spectro_hf.training.run import Run, add_options

DEFAULTS = HeadSettings(batch_size=96)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixture", type=Path, required=True, help="checkpoint of examples/run_router.py")
    train = add_options(parser, DEFAULTS, mix=12)
    train.add_argument(
        "--classifier", choices=["residual_cnn", "linear"], help="eq. 20's, or one that learns in fewer steps"
    )
    train.add_argument(
        "--view",
        choices=VIEWS,
        default=DEFAULTS.view,
        help="heads learn from the whole spectrogram, or from what is visible beside the mask, which takes half the "
        "time and suits --mask-strategy drop (default: %(default)s)",
    )
    train.add_argument("--no-augment", dest="augment", action="store_false", help="no shifts in time, no mirroring")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    run = Run(args)
    torch.manual_seed(stable_seed("heads", args.seed) % 2**31)
    mixture = LwmSpectroMoEForPreTraining.from_pretrained(args.mixture)
    if args.classifier:
        mixture.config.expert_config.classifier_type = args.classifier
    heads = MixtureHeads(mixture, args.view).to(run.accelerator.device)
    run.write_model = lambda folder: heads.classifier.save_pretrained(folder, state_dict=heads.state_of_checkpoint())
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
    results = run.train(loop, lambda: score_mixture(heads.classifier, data.held_out))
    best = LwmSpectroMoEForSequenceClassification.from_pretrained(args.out / "model").to(run.accelerator.device)
    results["scores_held_out"] = score_mixture(best, data.held_out)
    run.finish("mixture with heads; scores in the held-out city", results, [])
    print(table_of(results["scores_held_out"]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python
r"""Stage 2: combine pretrained experts into a mixture, and train the router that selects among them (sec. IV-C).

A minute on a laptop, from the small experts of `examples/run_pretraining.py --tiny`:

    python examples/run_router.py --experts runs/wifi/model runs/lte/model runs/nr/model --minutes 1 \
        --schedule minutes --batch-size 24 --chunk-size 16 --mix 3 --repeat 16 --eval-samples 96 --out runs/router

On a GPU, nine minutes; the same command again resumes where it stopped, on the schedule of table I:

    python examples/run_router.py --experts runs/wifi/model runs/lte/model runs/nr/model --minutes 9 --device cuda \
        --out runs/router

The mean of the weights of two runs with the same start, which is often better than either; scored without training:

    python examples/run_router.py --experts runs/wifi/model runs/lte/model runs/nr/model --samples 0 \
        --init runs/router/model runs/router-again/model --out runs/router-mean

The experts are given in the order WiFi, LTE, 5G and are frozen; without any, the router is trained beside random ones.
The training data hold signals of all three protocols in equal shares, from receivers that know, find or do not find
the symbols, and a little noise alone, on which the router should be undecided. `--data` reads Parquet data sets
instead of generating. `accelerate launch` starts several processes, as for the experts; they share --batch-size and
the chunks of --mix. On eight GPUs:

    accelerate launch --num_processes 8 examples/run_router.py --experts runs/wifi/model runs/lte/model runs/nr/model \
        --mix 24 --batch-size 768 --interleave 8 --out runs/router

Writes to --out: `state/` (to resume from), `model/` (experts, decoders and router with the best validation loss, for
`from_pretrained`), `log.jsonl` and `results.json`; no file is larger than --max-file-mib.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from lwm_spectro_hf import LwmSpectroMoEConfig, LwmSpectroMoEForPreTraining, LwmSpectroMoEModel
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.recipe import PROTOCOLS, preset, stable_seed
from lwm_spectro_hf.data.streaming import GeneratedSpectrograms
from lwm_spectro_hf.scripting import one_line_errors
from lwm_spectro_hf.training.checkpoints import load_trained
from lwm_spectro_hf.training.growth import start_router
from lwm_spectro_hf.training.mixture import MixtureSettings, RouterTraining, score_router, shortened
from lwm_spectro_hf.training.run import TrainingRun, add_model_options, add_options, experts_of

DEFAULTS = MixtureSettings(batch_size=96, learning_rate=1e-3)
SCORED = {  # in the held-out city: preset, receiver, share of blind recordings that cover only part of a carrier
    "synchronous": ("mixed", "synchronous", 0.0),
    "blind": ("mixed", "blind", 0.0),
    "listening": ("mixed", "listening", 0.0),
    "blind, saturated": ("paper", "blind", 0.0),
    "blind, a part of the carrier": ("mixed", "blind", 1.0),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experts", type=Path, nargs="+", help=f"checkpoints of {', '.join(PROTOCOLS)}, in this order (default: new)"
    )
    train = add_options(parser, DEFAULTS, mix=12)
    add_model_options(parser)
    types = get_args(LwmSpectroMoEConfig.__annotations__["router_type"])
    train.add_argument("--router-type", choices=types, default="transformer", help="architecture of the router")
    train.add_argument(
        "--occupied-band", action="store_true", help="let a fourier router also look at the occupied band alone"
    )
    train.add_argument(
        "--init",
        type=Path,
        nargs="+",
        help="checkpoint whose router to start from: the same type, or one that sees less (cnn for fourier, fourier "
        "for --occupied-band); given several, start from the mean of their weights",
    )
    train.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        help="turn off augmentation: time shifts, mirroring and short recordings",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.experts and len(args.experts) != len(PROTOCOLS):
        raise SystemExit(f"--experts has {len(args.experts)} checkpoints; expected {', '.join(PROTOCOLS)}, in order.")
    torch.manual_seed(stable_seed("router", args.seed) % 2**31)
    mixture = LwmSpectroMoEForPreTraining.from_experts(
        experts_of(args),
        expert_names=list(PROTOCOLS),
        router_type=args.router_type,
        router_occupied_band=args.occupied_band,
    )
    router = mixture.lwm_spectro_moe.router
    if args.init:
        try:
            start_router(router, *(load_trained(LwmSpectroMoEModel, path, "router.").router for path in args.init))
        except ValueError as error:
            raise SystemExit(f"--init {' '.join(map(str, args.init))}: {error}") from None
    run = TrainingRun(args)  # last, since it begins with generating data: mistakes show at once
    mixture.to(run.accelerator.device)
    run.write_model = mixture.save_pretrained
    data = run.data
    loop = RouterTraining(
        mixture.lwm_spectro_moe,
        data.batches,
        run.settings(MixtureSettings),
        run.accelerator,
        args.out / "state",
        data.description,
        **run.loop_options(),
    )
    held_out = {"as trained": data.held_out}
    if run.accelerator.is_main_process:
        held_out |= {name: held_out_of(*of, args, run) for name, of in SCORED.items()}
        short = [shortened(batch, args.seed, share=1.0) for batch in held_out["listening"]]
        held_out["listening, short recordings"] = short
    results = run.train(loop, lambda: [score_router(router, batches) for batches in held_out.values()])
    scores = []
    if results:
        best = LwmSpectroMoEForPreTraining.from_pretrained(args.out / "model").to(run.accelerator.device)
        best_router = best.lwm_spectro_moe.router
        results["router_held_out"] = {name: score_router(best_router, batches) for name, batches in held_out.items()}
        for name, score in results["router_held_out"].items():
            by_snr = ", ".join(f"{snr_db} dB {value:.0f}" for snr_db, value in score["by_snr_db"].items())
            scores.append((f"held-out city, {name}, %", f"{score['accuracy']:.1f} ({by_snr})"))
        noise = results["router_held_out"]["as trained"]["noise_score"]
        scores.append(("winner's score on noise (fair: 0.33)", "n/a" if noise is None else f"{noise:.2f}"))
    run.finish("router; shares of spectrograms whose protocol is right", results, scores)


def held_out_of(name: str, receiver: str, partial: float, args: argparse.Namespace, run: TrainingRun) -> list[dict]:
    """Spectrograms of the preset `name` in the held-out city, by one kind of receiver."""
    recipe = replace(
        preset(name),
        channels=HELD_OUT_SCENARIOS,
        receivers={receiver: 1.0},
        partial_band=partial,
        noise_share=0.0,
        chunk_size=8,  # a chunk has one protocol, carrier width and sampling rate; small chunks give more variety
    )
    chunks = -(-args.eval_samples // recipe.chunk_size)
    seed = stable_seed("router", name, receiver, args.seed) % 2**31
    source = GeneratedSpectrograms(recipe, seed, device=run.accelerator.device, chunks_per_batch=1)
    return [source.batch(number) for number in range(chunks)]


if __name__ == "__main__":
    with one_line_errors():
        main()

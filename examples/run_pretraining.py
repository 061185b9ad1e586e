#!/usr/bin/env python
r"""Stage 1: pretrain the expert of one protocol on spectrograms that are generated on the way, or read from Parquet.

A minute on a laptop, a small model:

    python examples/run_pretraining.py --protocol LTE --tiny --minutes 1 --schedule minutes --batch-size 32 \
        --chunk-size 16 --mix 4 --repeat 16 --eval-samples 64 --out runs/lte-tiny

The paper's size on a GPU, nine minutes; the same command again goes on where it stopped, along table I's schedule:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --device cuda --out runs/lte

The same with a learning rate that rises and falls within the minutes, whatever the speed of the machine:

    python examples/run_pretraining.py --protocol LTE --minutes 9 --schedule minutes --device cuda --out runs/lte

Several processes, and nodes with the options of `accelerate launch`; the batch size is that of all together:

    accelerate launch --num_processes 8 examples/run_pretraining.py --protocol LTE --batch-size 2048 --out runs/lte

From a data set that `lwm-spectro generate` built, and then the joint objective (eq. 22) from those weights:

    python examples/run_pretraining.py --protocol LTE --data runs/dataset --epoch-samples 0 --out runs/lte
    python examples/run_pretraining.py --protocol LTE --init runs/lte/model --contrastive snr_db mobility \
        --out runs/lte-joint

Generation needs deepmimo, and for 5G sionna-no-rt. Where neither can be installed, their unpacked wheels on PYTHONPATH
do: `pip download --no-deps deepmimo sionna-no-rt importlib-resources`, and `python -m zipfile -e` for each.

Writes to --out: `state/` (to go on from; files of at most --max-file-mib), `model/` (the weights of the best
validation loss, for `from_pretrained`), `log.jsonl` and `results.json`.
"""

import argparse
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForPreTraining
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.recipe import PRESETS, PROTOCOLS, Recipe, preset, stable_seed
from lwm_spectro_hf.data.streaming import GeneratedSpectrograms
from lwm_spectro_hf.evaluation.reconstruction import baseline_errors, model_error
from lwm_spectro_hf.files import whole_file, whole_folder
from lwm_spectro_hf.modeling_lwm_spectro import draw_mask
from lwm_spectro_hf.training.batches import CONTRASTIVE_LABELS, Batches
from lwm_spectro_hf.training.masks import mask_noise
from lwm_spectro_hf.training.pretraining import Deadline, Pretraining, PretrainingSettings

TABLE_1 = PretrainingSettings()
TINY = {
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "mask_strategy": "drop",
    "reconstruction_loss_weight": 1 / 128,  # eq. 17 sums over a patch, here of 2 x 8 x 8 values
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True, help="whose expert it is")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; if it has a state, go on from it")
    parser.add_argument("--minutes", type=float, help="wall clock of this run, start and end included")
    parser.add_argument("--samples", type=int, help="stop after so many, earlier runs included")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of data, masks and weights (default: %(default)s)")

    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="Parquet data set; generated on the device by default")
    data.add_argument("--recipe", default="mixed", help=f"{', '.join(PRESETS)} or a file (default: %(default)s)")
    data.add_argument("--chunk-size", type=int, help="recordings made at once (default: 256 on a GPU, else 32)")
    data.add_argument("--mix", type=int, default=8, help="chunks that each batch takes rows of (default: %(default)s)")
    data.add_argument(
        "--repeat", type=int, default=1, help="batches that a generated row is used in (default: %(default)s)"
    )
    data.add_argument(
        "--eval-samples", type=int, default=512, help="for validation and for the held-out city (default: %(default)s)"
    )

    model = parser.add_argument_group("model")
    model.add_argument("--tiny", action="store_true", help="four layers of width 64 instead of the paper's twelve")
    model.add_argument("--config", type=Path, help="JSON file with fields of LwmSpectroConfig")
    model.add_argument(
        "--mask-strategy", choices=["token", "drop"], help="drop: the encoder sees visible patches only"
    )
    model.add_argument("--init", type=Path, help="checkpoint to start from")

    train = parser.add_argument_group("training; defaults are those of table I where it has any")
    for name, kind in (
        ("batch-size", int),
        ("gradient-accumulation", int),
        ("learning-rate", float),
        ("final-learning-rate", float),
        ("weight-decay", float),
        ("warmup-epochs", float),
        ("max-epochs", float),
        ("epoch-samples", int),
        ("patience", int),
        ("max-grad-norm", float),
    ):
        text = "samples of an epoch, 0: all rows of --data " if name == "epoch-samples" else ""
        default = getattr(TABLE_1, name.replace("-", "_"))
        train.add_argument(f"--{name}", type=kind, default=default, help=f"{text}(default: %(default)s)")
    train.add_argument(
        "--schedule", choices=["samples", "minutes"], default="samples", help="what warm-up and cosine go by"
    )
    train.add_argument(
        "--contrastive", nargs="+", choices=CONTRASTIVE_LABELS, default=[], help="joint objective over these labels"
    )
    train.add_argument("--mixed-precision", choices=["no", "bf16"], help="default: bf16 on a GPU")
    train.add_argument("--compile", action="store_true", help="torch.compile the model")
    train.add_argument("--save-minutes", type=float, default=2.0, help="between saves (default: %(default)s)")
    train.add_argument("--max-file-mib", type=float, default=15.0, help="of the state (default: %(default)s)")
    train.add_argument("--report-to", choices=["tensorboard", "trackio"], help="where to log besides log.jsonl")
    return parser.parse_args()


def model_of(args: argparse.Namespace) -> LwmSpectroForPreTraining:
    if args.init:
        return LwmSpectroForPreTraining.from_pretrained(args.init)
    fields = {"num_channels": default_extractor().feature_size, **(TINY if args.tiny else {})}
    if args.config:
        fields |= json.loads(args.config.read_text())
    if args.mask_strategy:
        fields["mask_strategy"] = args.mask_strategy
    torch.manual_seed(stable_seed("weights", args.seed) % 2**31)
    return LwmSpectroForPreTraining(LwmSpectroConfig(**fields))


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the expert is trained on: its protocol alone, and nothing of the held-out city."""
    recipe = preset(args.recipe) if args.recipe in PRESETS else Recipe.load(args.recipe)
    channels = tuple(name for name in recipe.channels if name not in HELD_OUT_SCENARIOS)
    recipe = recipe.narrowed(protocols=(args.protocol,), channels=channels, noise_share=0.0)
    return replace(recipe, chunk_size=args.chunk_size)


class Data:
    """Training batches of this process, and what is kept from training.

    Attributes:
        batches: For training.
        validation: Batches of training's own cities.
        held_out: Batches of a city that training never sees.
        description: What the state of a run remembers.
        epoch_samples: Rows of a Parquet data set; 0 for an endless stream.
    """

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator):
        processes = accelerator.num_processes
        parts = processes * args.gradient_accumulation
        if args.batch_size % parts or args.mix % processes:
            raise SystemExit(
                f"A batch of {args.batch_size} cannot be shared by {processes} processes in "
                f"{args.gradient_accumulation} parts each, or a mix of {args.mix} chunks by {processes} "
                "processes: choose multiples."
            )
        self.device, self.rows = accelerator.device, args.batch_size // parts
        share = {
            "chunks_per_batch": args.mix // processes,
            "rank": accelerator.process_index,
            "num_replicas": processes,
            "device": self.device,
        }
        recipe = recipe_of(args)
        self.description = {"protocol": args.protocol, "seed": args.seed, "mix": args.mix, "repeat": args.repeat}
        self.description["chunk_size"] = args.chunk_size
        if args.data:
            from lwm_spectro_hf.data.parquet import ParquetSpectrograms  # pyarrow is needed for this alone

            share |= {"protocol": args.protocol, "chunk_size": args.chunk_size, "seed": args.seed}
            kept = -(-args.eval_samples // args.chunk_size)
            source = ParquetSpectrograms(args.data, "train", chunks=(0, -kept), **share)
            share |= {"chunks_per_batch": kept, "rank": 0, "num_replicas": 1}
            self.validation = self._batches(ParquetSpectrograms(args.data, "train", chunks=(-kept, None), **share))
            try:
                self.held_out = self._batches(ParquetSpectrograms(args.data, "test", **share))
            except (FileNotFoundError, ValueError):
                self.held_out = self._generated(recipe, HELD_OUT_SCENARIOS, args)
            self.epoch_samples = len(source)
            self.description |= {"folder": args.data.name, "rows": len(source)}
        else:
            source = GeneratedSpectrograms(recipe, args.seed, **share)
            self.validation = self._generated(recipe, recipe.channels, args)
            self.held_out = self._generated(recipe, HELD_OUT_SCENARIOS, args)
            self.epoch_samples = 0
            self.description["recipe"] = json.loads(recipe.to_json())
        self.batches = Batches(source, self.rows, args.repeat, prefetch=bool(args.data))

    def _generated(self, recipe: Recipe, channels: tuple[str, ...], args: argparse.Namespace) -> list[dict]:
        recipe = replace(recipe, channels=channels, chunk_size=min(32, args.eval_samples))
        seed = stable_seed("evaluation", args.seed, channels) % 2**31
        return self._batches(
            GeneratedSpectrograms(
                recipe, seed, device=self.device, chunks_per_batch=max(1, args.eval_samples // recipe.chunk_size)
            )
        )

    def _batches(self, source) -> list[dict]:
        block = source.batch(0)
        splits = {name: column.split(min(self.rows, 64)) for name, column in block.items()}
        return [dict(zip(splits, parts, strict=True)) for parts in zip(*splits.values(), strict=True)]


def masked(batches: list[dict], config: LwmSpectroConfig, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Spectrograms and their masks."""
    for batch in batches:
        noise = mask_noise(batch["index"], config.num_patches, seed)
        yield batch["input_values"], draw_mask(config, batch["input_values"], noise=noise)


class Log:
    """One line a look at the loss, also for the trackers; lines that a stopped run had gone past are dropped."""

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator = path, accelerator

    def forget_after(self, step: int) -> None:
        if self.accelerator.is_main_process and self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            with whole_file(self.path) as stream:
                stream.write("".join(f"{line}\n" for line in lines).encode())

    def __call__(self, entry: dict[str, float]) -> None:
        self.accelerator.log(entry, step=entry["step"])
        if self.accelerator.is_main_process:
            with self.path.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")


def main() -> None:
    args = parse_args()
    disable_progress_bar()  # of saving and loading checkpoints
    # Minutes count from the start of the process: importing takes some of them.
    start = time.monotonic() - (time.time() - psutil.Process().create_time())
    deadline = Deadline(args.minutes, start)
    on_gpu = args.device == "cuda" or (args.device is None and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("--device is cuda, but PyTorch finds no GPU here; use --device cpu.")
    args.chunk_size = args.chunk_size or (256 if on_gpu else 32)
    args.out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision or ("bf16" if on_gpu else "no"),
        cpu=not on_gpu,
        log_with=args.report_to,
        project_dir=args.out,
    )
    if args.report_to:
        if not accelerator.log_with:
            raise SystemExit(f"{args.report_to} is not installed: pip install {args.report_to}, or drop --report-to.")
        accelerator.init_trackers(f"lwm-spectro-{args.protocol}")
    data = Data(args, accelerator)
    fields = {name: value for name, value in vars(args).items() if name in PretrainingSettings.__dataclass_fields__}
    fields |= {"contrastive": tuple(args.contrastive), "epoch_samples": args.epoch_samples or data.epoch_samples}
    settings = PretrainingSettings(**fields)
    model = model_of(args).to(accelerator.device)
    log = Log(args.out / "log.jsonl", accelerator)

    def export() -> None:
        with whole_folder(args.out / "model", overwrite=True) as folder:
            model.save_pretrained(folder)
            default_extractor().save_pretrained(folder)

    runner = Pretraining(
        model,
        data.batches,
        settings,
        accelerator,
        args.out / "state",
        data.description,
        data.validation,
        compile=args.compile,
        max_file_mib=args.max_file_mib,
        log=log,
        improved=export,
    )
    log.forget_after(runner.progress.step)
    signal.signal(signal.SIGTERM, lambda *_: setattr(runner, "stop_requested", True))

    # What can be known of the end is done at the start, so that training can use all the minutes that are left.
    results, held_out = {}, []
    if accelerator.is_main_process:
        held_out = list(masked(data.held_out, model.config, args.seed))
        count = max(1, min(2 * args.eval_samples, args.chunk_size * args.mix) // args.batch_size)
        fitting = masked([data.batches.at(number) for number in range(count)], model.config, args.seed)
        results = baseline_errors(model.config, fitting, held_out)
        begin = time.monotonic()
        model_error(model, held_out)
        runner.evaluate(data.validation)
        runner.save()
        export()
        deadline.reserve_s = 3 + 2 * (time.monotonic() - begin)

    before = runner.progress.samples
    begin = time.monotonic()
    reason = runner.run(args.samples, deadline, args.save_minutes)
    if accelerator.is_main_process:
        best = runner.progress.best
        if best is None or runner.evaluate(data.validation) < best:
            export()
        chosen = LwmSpectroForPreTraining.from_pretrained(args.out / "model").to(accelerator.device)
        report(args, runner, reason, before, begin, results, model_error(chosen, held_out))
        print(f"{(time.monotonic() - start) / 60:.2f} minutes from start to end")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def report(
    args: argparse.Namespace,
    runner: Pretraining,
    reason: str,
    before: int,
    begin: float,
    baselines: dict[str, float],
    error: float,
) -> None:
    """Print the table at the end, and keep its figures."""
    speed = runner.figures(runner.speed.samples, runner.speed.seconds, runner.speed.data_seconds)
    lines = (args.out / "log.jsonl").read_text().splitlines() if (args.out / "log.jsonl").exists() else []
    loss = json.loads(lines[-1])["loss"] if lines else None
    validation = [json.loads(line)["validation_loss"] for line in lines if "validation_loss" in line]
    results = {
        "protocol": args.protocol,
        "stopped": reason,
        "samples": runner.progress.samples,
        "samples_of_this_run": runner.progress.samples - before,
        "training_seconds_of_this_run": round(time.monotonic() - begin, 1),
        "loss": loss,
        "validation_loss": validation[-1] if validation else None,
        **{name: speed.get(name) for name in ("samples_per_s", "data_share", "peak_share")},
        "masked_error_held_out": {**baselines, "model": error},
        "model_over_best_baseline": error / min(baselines.values()),
    }
    with whole_file(args.out / "results.json") as stream:
        stream.write((json.dumps(results, indent=2) + "\n").encode())

    def share(name: str) -> str:
        return "n/a" if results[name] is None else f"{100 * results[name]:.1f} %"

    rows = [
        ("stopped", reason),
        ("samples", f"{results['samples']:,} ({results['samples_of_this_run']:,} of them now)"),
        ("loss", "n/a" if loss is None else f"{loss:.4f}"),
        ("samples a second", "n/a" if not speed else f"{results['samples_per_s']:.0f}"),
        ("share of a step that is data", share("data_share")),
        ("share of the bfloat16 peak", share("peak_share")),
        *((f"held-out city: {name}", f"{value:.4f}") for name, value in results["masked_error_held_out"].items()),
        ("model / best baseline", f"{results['model_over_best_baseline']:.3f}"),
    ]
    print(f"\n{args.protocol}; masked errors are mean squares of a value, lower is better")
    for name, value in rows:
        print(f"  {name:45}{value}")


if __name__ == "__main__":
    main()

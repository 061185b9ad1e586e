"""Shared parts of the training scripts: options, data, the log and the table printed at the end."""

import argparse
import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from ..channel.scenarios import HELD_OUT_SCENARIOS, is_held_out
from ..configuration_lwm_spectro import LwmSpectroConfig
from ..data.front_end import default_extractor
from ..data.recipe import PRESETS, PROTOCOLS, RECORD, Recipe, preset, stable_seed
from ..data.streaming import GeneratedSpectrograms
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..files import read_json, read_json_lines, whole_file, whole_folder
from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..scripting import computes_on_gpu
from .batches import Batches, BlockSource, Interleaved
from .checkpoints import earlier_results, load_trained
from .loop import Deadline, TrainingLoop, TrainingSettings

logger = logging.getLogger(__name__)

_RATES = {
    "batch_size": int,
    "gradient_accumulation": int,
    "learning_rate": float,
    "final_learning_rate": float,
    "weight_decay": float,
    "warmup_epochs": float,
    "max_epochs": float,
    "epoch_samples": int,
    "patience": int,
    "max_grad_norm": float,
}
TINY = {
    "patch_size": 16,
    "stem_num_channels": 32,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "level_num_bins": 20,
    "classifier_type": "linear",  # learns in fewer steps than the classifier of eq. 20
    "mask_strategy": "drop",
    "mask_ratio": 0.5,
    "reconstruction_loss_weight": 1 / 512,  # eq. 17 sums over a patch, here of 2 x 16 x 16 values
}


def add_options(parser: argparse.ArgumentParser, defaults: TrainingSettings, mix: int) -> argparse._ArgumentGroup:
    """Add the options of a training script; return the group for the training options of the stage itself.

    Args:
        parser (`argparse.ArgumentParser`): Parser of the script.
        defaults ([`TrainingSettings`]): Default settings of the stage.
        mix (`int`): Default number of chunks that a batch takes rows from.
    """
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the run; if it contains a saved state, training resumes from it",
    )
    parser.add_argument(
        "--minutes", type=float, help="wall-clock limit of this run [min], startup and shutdown included"
    )
    parser.add_argument(
        "--samples", type=int, help="stop after this many samples, earlier runs included; 0: stop at once"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if available")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, masks and weights (default: %(default)s)")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, nargs="+", help="Parquet data sets, read as one (default: generate data on the device)"
    )
    data.add_argument("--in-memory", action="store_true", help="read --data once and keep it in memory")
    data.add_argument(
        "--recipe", default="mixed", help=f"{', '.join(PRESETS)} or a recipe file (default: %(default)s)"
    )
    data.add_argument(
        "--chunk-size", type=int, help="recordings generated or read at a time (default: 256 on a GPU, otherwise 32)"
    )
    data.add_argument(
        "--mix", type=int, default=mix, help="number of chunks that each batch draws rows from (default: %(default)s)"
    )
    data.add_argument(
        "--interleave",
        type=int,
        default=1,
        help="number of blocks of --mix chunks that each batch draws rows from, all held in memory; try 4 or 8 if "
        "batches contain too few different settings (default: %(default)s)",
    )
    data.add_argument(
        "--repeat", type=int, default=1, help="number of batches that use each generated row (default: %(default)s)"
    )
    data.add_argument(
        "--eval-samples",
        type=int,
        default=512,
        help="samples for validation, and as many for the held-out city (default: %(default)s)",
    )

    train = parser.add_argument_group("training; defaults are those of table I where it has any")
    for name, kind in _RATES.items():
        text = "samples per epoch; 0: all rows of --data " if name == "epoch_samples" else ""
        option = f"--{name.replace('_', '-')}"
        train.add_argument(option, type=kind, default=getattr(defaults, name), help=f"{text}(default: %(default)s)")
    train.add_argument(
        "--schedule",
        choices=["samples", "minutes"],
        default="samples",
        help="what the learning-rate schedule (warm-up, cosine) counts",
    )
    train.add_argument("--mixed-precision", choices=["no", "bf16"], help="default: bf16 on a GPU")
    train.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    train.add_argument("--save-minutes", type=float, default=2.0, help="minutes between saves (default: %(default)s)")
    train.add_argument(
        "--max-file-mib",
        type=float,
        default=15.0,
        help="maximum size of each file of the state and the model [MiB] (default: %(default)s)",
    )
    train.add_argument(
        "--report-to", choices=["tensorboard", "trackio"], help="tracker to log to, in addition to log.jsonl"
    )
    return train


def add_model_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that [`new_config`] reads; return their group."""
    model = parser.add_argument_group("new weights")
    model.add_argument(
        "--tiny",
        action="store_true",
        help="small model: three layers of width 96, 16 x 16 patches, stem, levels (default: the paper's)",
    )
    model.add_argument("--config", type=Path, help="JSON file with fields of LwmSpectroConfig")
    model.add_argument(
        "--mask-strategy", choices=["token", "drop"], help="drop: the encoder sees only the visible patches"
    )
    return model


def new_config(args: argparse.Namespace) -> LwmSpectroConfig:
    """Encoder configuration that the options ask for, for spectrograms of the default front-end."""
    fields = {"num_channels": default_extractor().feature_size, **(TINY if args.tiny else {})}
    if args.config:
        fields |= read_config(args.config, LwmSpectroConfig)
    if args.mask_strategy:
        fields["mask_strategy"] = args.mask_strategy
    return LwmSpectroConfig(**fields)


def read_config(path: Path, kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """Read fields of a configuration from a JSON file.

    Raises:
        ValueError: If the file is not a JSON object, or has fields that the configuration does not have.
    """
    fields, known = read_json(path), kind().to_dict()
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"{path} has {unknown[0]!r}, but {kind.__name__} does not; expected {', '.join(known)}.")
    return fields


def experts_of(args: argparse.Namespace) -> list[LwmSpectroForPreTraining]:
    """The checkpoints that `--experts` names, in the order of `PROTOCOLS`; new experts if it names none."""
    if args.experts:
        return [load_trained(LwmSpectroForPreTraining, path) for path in args.experts]
    return [LwmSpectroForPreTraining(new_config(args)) for _ in PROTOCOLS]


class TrainingData:
    """Training batches of this process, and the data held out from training.

    Attributes:
        batches: Training batches of this process.
        whole: Function that returns the training batches of all processes together.
        validation: Batches of the same cities as the training data.
        held_out: Batches of a city that training never sees.
        extractor: Front-end that made the spectrograms.
        description: Description of the data, saved with the state of the run.
        epoch_samples: Rows of the Parquet data sets; 0 for an endless stream.
    """

    def __init__(self, args: argparse.Namespace, protocol: str | None, accelerator: Accelerator):
        _check_amounts(args)
        processes = accelerator.num_processes
        parts = processes * args.gradient_accumulation
        if args.batch_size % parts or args.mix % processes:
            raise SystemExit(
                f"A batch of {args.batch_size} does not divide evenly among {processes} processes in "
                f"{args.gradient_accumulation} parts each, or a mix of {args.mix} chunks among {processes} "
                "processes: give multiples."
            )
        self.device, self.rows = accelerator.device, args.batch_size // parts
        share = {
            "chunks_per_batch": args.mix // processes,
            "rank": accelerator.process_index,
            "num_replicas": processes,
            "device": self.device,
        }
        self.description = {"protocol": protocol, "seed": args.seed, "mix": args.mix, "repeat": args.repeat}
        self.description |= {"chunk_size": args.chunk_size, "interleave": args.interleave}
        open_source = self._folders if args.data else self._stream
        source, source_of = open_source(args, protocol, _recipe(args, protocol), share)

        def batches_of(source: BlockSource, rows: int, prefetch: bool = False) -> Batches:
            source = Interleaved(source, args.interleave) if args.interleave > 1 else source
            return Batches(source, rows, args.repeat, prefetch)

        self.batches = batches_of(source, self.rows, prefetch=bool(args.data))

        def whole() -> Batches:
            if processes == 1:
                return self.batches
            return batches_of(source_of(chunks_per_batch=args.mix, rank=0, num_replicas=1), self.rows * processes)

        self.whole = whole  # a function, since only the main process asks for these batches

    def _folders(
        self, args: argparse.Namespace, protocol: str | None, recipe: Recipe, share: dict
    ) -> tuple[BlockSource, Callable[..., BlockSource]]:
        """Use Parquet data sets. Returns the share of their training rows, and a function for any other share."""
        from ..data.parquet import ParquetSpectrograms, TooFewRowsError  # nothing else here needs pyarrow

        share = share | {"protocol": protocol, "chunk_size": args.chunk_size, "seed": args.seed}
        kept = {"kept_back": args.eval_samples}
        alone = share | {"rank": 0, "num_replicas": 1}

        def source_of(**of: int) -> ParquetSpectrograms:
            return ParquetSpectrograms(args.data, "train", in_memory=args.in_memory, **kept, **(share | of))

        source = source_of()
        one_by_one = alone | {"chunk_size": 1, "chunks_per_batch": 1}
        validation = ParquetSpectrograms(args.data, "train", only_kept_back=True, **kept, **one_by_one)
        self.validation = self._kept(validation.rows())
        all_at_once = alone | {"chunks_per_batch": -(-args.eval_samples // args.chunk_size)}
        try:
            self.held_out = self._kept(ParquetSpectrograms(args.data, "test", **all_at_once).batch(0))
        except (FileNotFoundError, TooFewRowsError) as error:
            logger.warning(
                "%s Scores of the held-out city are for recordings of --recipe %s instead.", error, args.recipe
            )
            self.held_out = self._generated(recipe, HELD_OUT_SCENARIOS, args)
        self.extractor = _front_end_of(args.data)
        self.epoch_samples = len(source)
        folders = ", ".join(path.name for path in args.data)
        self.description |= {**kept, "folder": folders, "rows": len(source)}
        return source, source_of

    def _stream(
        self, args: argparse.Namespace, protocol: str | None, recipe: Recipe, share: dict
    ) -> tuple[BlockSource, Callable[..., BlockSource]]:
        """Generate endless data. Returns the share of the training rows, and a function for any other share."""

        def source_of(**of: int) -> GeneratedSpectrograms:
            return GeneratedSpectrograms(recipe, args.seed, **(share | of))

        source = source_of()
        self.validation = self._generated(recipe, recipe.channels, args)
        self.held_out = self._generated(recipe, HELD_OUT_SCENARIOS, args)
        self.epoch_samples, self.extractor = 0, source.extractor
        self.description["recipe"] = json.loads(recipe.to_json())
        return source, source_of

    def _generated(self, recipe: Recipe, channels: tuple[str, ...], args: argparse.Namespace) -> list[dict]:
        recipe = replace(recipe, channels=channels, chunk_size=min(32, args.eval_samples))
        seed = stable_seed("evaluation", args.seed, channels) % 2**31
        chunks = -(-args.eval_samples // recipe.chunk_size)
        source = GeneratedSpectrograms(recipe, seed, device=self.device, chunks_per_batch=chunks)
        return self._kept(source.batch(0))

    def _kept(self, block: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        splits = {name: column.split(min(self.rows, 64)) for name, column in block.items()}
        return [dict(zip(splits, parts, strict=True)) for parts in zip(*splits.values(), strict=True)]


def _check_amounts(args: argparse.Namespace):
    """Raise a `ValueError` for options that are too small."""
    counts = ("batch_size", "gradient_accumulation", "mix", "interleave", "repeat", "chunk_size", "eval_samples")
    amounts = ("minutes", "samples", "weight_decay", "final_learning_rate")
    for least, names in ((1, counts), (0, amounts)):
        for name in names:
            found = getattr(args, name)
            if found is not None and not found >= least:
                raise ValueError(f"--{name.replace('_', '-')} is {found}; expected at least {least}.")


def _front_end_of(folders: list[Path]) -> SpectrogramFeatureExtractor:
    """Front-end that made the spectrograms of the data sets; the default one if none of them records it.

    Raises:
        ValueError: If they were made by different front-ends.
    """
    found = {}
    for folder in folders:
        path = folder / RECORD
        record = read_json(path) if path.exists() else {}
        if "front_end" in record:
            found[folder] = record["front_end"]
    if not found:
        return default_extractor()
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ValueError(f"{first} and {other} were made by different front-ends: compare their {RECORD}.")
    return SpectrogramFeatureExtractor.from_dict(found[first])


def _recipe(args: argparse.Namespace, protocol: str | None) -> Recipe:
    """Recipe of the training data, without the held-out city; with a protocol, without other ones and noise, too."""
    recipe = preset(args.recipe) if args.recipe in PRESETS else Recipe.load(args.recipe)
    channels = tuple(name for name in recipe.channels if not is_held_out(name))
    if protocol:
        recipe = recipe.narrowed(protocols=(protocol,), noise_share=0.0)
    return replace(recipe, channels=channels, chunk_size=args.chunk_size)


class Log:
    """Log with one line per read of the loss, passed to the trackers, too.

    A resumed run drops the lines that were written after the state it resumes from.
    """

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator = path, accelerator

    def lines(self) -> list[dict[str, float]]:
        return read_json_lines(self.path)

    def forget_after(self, step: int) -> None:
        if self.accelerator.is_main_process and self.path.exists():
            lines = [entry for entry in self.lines() if entry["step"] <= step]
            with whole_file(self.path) as stream:
                stream.write("".join(f"{json.dumps(entry)}\n" for entry in lines).encode())

    def __call__(self, entry: dict[str, float]) -> None:
        self.accelerator.log(entry, step=entry["step"])
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")


class TrainingRun:
    """One call of a training script.

    Args:
        args (`argparse.Namespace`): Options of [`add_options`]. The default chunk size is filled in.
        protocol (`str`, *optional*): Protocol to train on; all by default.

    Attributes:
        accelerator (`Accelerator`): Accelerator of this process.
        data ([`TrainingData`]): Data of this process.
        log ([`Log`]): `log.jsonl`, and the trackers.
        deadline ([`Deadline`]): When to end.
    """

    def __init__(self, args: argparse.Namespace, protocol: str | None = None):
        disable_progress_bar()  # for saving and loading checkpoints
        # Minutes count from the start of the process, so that imports are included.
        self.start = time.monotonic() - (time.time() - psutil.Process().create_time())
        self.args, self.deadline = args, Deadline(args.minutes, self.start)
        if protocol is not None and protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
        on_gpu = computes_on_gpu(args.device)
        args.chunk_size = args.chunk_size or (256 if on_gpu else 32)
        args.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            mixed_precision=args.mixed_precision or ("bf16" if on_gpu else "no"),
            cpu=not on_gpu,
            log_with=args.report_to,
            project_dir=args.out,
        )
        if args.report_to:
            if not self.accelerator.log_with:
                raise SystemExit(
                    f"{args.report_to} is not installed: pip install {args.report_to}, or leave out --report-to."
                )
            self.accelerator.init_trackers(f"lwm-spectro-{protocol or 'mixture'}")
        self.data = TrainingData(args, protocol, self.accelerator)
        self.log = Log(args.out / "log.jsonl", self.accelerator)
        self.loop: TrainingLoop | None = None

    def settings(self, kind: type[TrainingSettings]) -> TrainingSettings:
        """Build the settings of a stage from the options of the same names."""
        given = vars(self.args)
        values = {entry.name: given[entry.name] for entry in fields(kind) if entry.name in given}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        values["epoch_samples"] = self.args.epoch_samples or self.data.epoch_samples
        return kind(**values)

    def loop_options(self) -> dict[str, Any]:
        """Arguments of [`TrainingLoop`] that are the same in every script."""
        return {
            "validation": self.data.validation,
            "compile": self.args.compile,
            "max_file_mib": self.args.max_file_mib,
            "log": self.log,
            "improved": self.export,
        }

    def first_batches(self) -> list[dict[str, torch.Tensor]]:
        """The first training batches, to fit a baseline to: at most one block, and at most `2 * eval_samples` rows."""
        args = self.args
        count = max(1, min(2 * args.eval_samples, args.chunk_size * args.mix) // args.batch_size)
        batches = self.data.whole()
        return [batches.at(number) for number in range(count)]

    def export(self) -> None:
        """Write the current model and its front-end to the folder `model`."""
        with whole_folder(self.args.out / "model", overwrite=True) as folder:
            self.write_model(folder, max_shard_size=int(self.args.max_file_mib * 2**20))
            self.data.extractor.save_pretrained(folder)

    def write_model(self, folder: Path, max_shard_size: int) -> None:
        """Write what a stage exports, in files of at most `max_shard_size` bytes.

        Scripts set this attribute, usually to a `save_pretrained`.
        """
        raise NotImplementedError

    def train(self, loop: TrainingLoop, score: Callable[[], Any]) -> dict[str, Any]:
        """Train, export the best weights, and return the figures of the run.

        Args:
            loop ([`TrainingLoop`]): Training loop of the stage.
            score (`Callable`): Evaluation that the script runs after training. It is called once before training, to
                find out how much time to reserve for it.

        Returns:
            `dict`: Figures; empty on all but the main process.
        """
        args, self.loop = self.args, loop
        self.log.forget_after(loop.progress.step)
        signal.signal(signal.SIGTERM, lambda *_: setattr(loop, "stop_requested", True))
        main = self.accelerator.is_main_process
        if main:
            begin = time.monotonic()
            score()
            loop.evaluate(self.data.validation)
            loop.save()
            if loop.progress.best is None or not (args.out / "model").exists():
                self.export()  # a resumed run usually has its best model there already
            self.deadline.reserve_s = 3 + 2 * (time.monotonic() - begin)
        before, begin = loop.progress.samples, time.monotonic()
        reason = loop.run(args.samples, self.deadline, args.save_minutes)
        if not main:
            return {}
        best, loss = loop.progress.best, loop.evaluate(self.data.validation)
        if best is None or loss < best:
            loop.progress.best = loss
            loop.save()
            self.export()
        lines = self.log.lines()
        validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
        speed = loop.figures(loop.speed.samples, loop.speed.seconds, loop.speed.data_seconds)
        earlier = earlier_results(args.out).get("training_seconds", 0.0) if before else 0.0
        seconds = time.monotonic() - begin
        return {
            "stopped": reason,
            "device": str(self.accelerator.device),
            "samples": loop.progress.samples,
            "samples_of_this_run": loop.progress.samples - before,
            "training_seconds": round(earlier + seconds, 1),
            "loss": lines[-1]["loss"] if lines else None,
            "validation_loss": validation[-1] if validation else None,
            **{name: speed.get(name) for name in ("samples_per_s", "data_share", "peak_share")},
        }

    def finish(self, title: str, results: dict[str, Any], scores: list[tuple[str, str]]) -> None:
        """Write the figures to `results.json`, and print them with the scores of the stage."""
        if self.accelerator.is_main_process:
            with whole_file(self.args.out / "results.json") as stream:
                stream.write((json.dumps(results, indent=2) + "\n").encode())
            rows = [
                ("stopped", results["stopped"]),
                ("samples", f"{results['samples']:,} ({results['samples_of_this_run']:,} of them in this run)"),
                ("processes", str(self.accelerator.num_processes)),
                ("loss", _number(results["loss"], "{:.4f}")),
                ("samples per second", _number(results["samples_per_s"], "{:.0f}")),
                ("share of time spent on data", _number(results["data_share"], "{:.1%}")),
                ("share of the bfloat16 peak", _number(results["peak_share"], "{:.1%}")),
                *scores,
            ]
            print(f"\n{title}")
            for name, value in rows:
                print(f"  {name:44} {value}")
            print(f"{(time.monotonic() - self.start) / 60:.2f} minutes from start to end")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)

#!/usr/bin/env python
r"""The second paper's tasks: masked modeling of wide bands, spectrum forecasting, segmentation (arXiv 2411.09849).

Minutes on a laptop: generate scenes, pretrain a small network on them, and train both tasks from its weights:

    python dataset_scripts/build_scenes.py --num 512 --num-test 128 --out runs/scenes
    python examples/run_spectrum.py --task pretraining --data runs/scenes --tiny --epochs 4 --out runs/masked
    python examples/run_spectrum.py --task forecasting --data runs/scenes --init runs/masked/model --out runs/forecast
    python examples/run_spectrum.py --task segmentation --data runs/scenes --init runs/masked/model --out runs/segment

With few labels, where pretraining should help; then the same from random weights:

    python examples/run_spectrum.py --task segmentation --data runs/scenes --num-train 64 --init runs/masked/model \
        --epochs 40 --out runs/segment-64
    python examples/run_spectrum.py --task segmentation --data runs/scenes --num-train 64 --tiny --epochs 40 \
        --out runs/segment-64-scratch

Without --data, scenes are first generated on the training device and kept in memory; ten minutes on a GPU:

    python examples/run_spectrum.py --task pretraining --num-train 8192 --tiny --minutes 7 --mixed-precision bf16 \
        --device cuda --out runs/masked

The mean of the weights of two runs, one started from the other or both from the same, is often better than either:

    python examples/run_spectrum.py --task segmentation --data runs/scenes --init runs/first/model runs/second/model \
        --epochs 0 --out runs/mean

The paper's network, five layers of 64 kernels at full resolution, on GPUs:

    accelerate launch --num_processes 8 examples/run_spectrum.py --task pretraining --data runs/scenes \
        --mixed-precision bf16 --epochs 50 --out runs/masked

Writes to --out: `model/` (for `AutoModelForPreTraining`, `AutoModelForTimeSeriesPrediction` or
`AutoModelForSemanticSegmentation`, with a card), `results.json` with scores in the held-out city beside those of
baselines, `examples.png`, and `checkpoints/`, from which --resume continues.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from lwm_spectro_hf import (
    MaskedConvLstmConfig,
    MaskedConvLstmForForecasting,
    MaskedConvLstmForPreTraining,
    MaskedConvLstmForSemanticSegmentation,
    patchify,
)
from lwm_spectro_hf.data.builder import split_seed
from lwm_spectro_hf.data.labelled import as_is
from lwm_spectro_hf.data.parquet import load_spectrograms
from lwm_spectro_hf.data.recipe import stable_seed
from lwm_spectro_hf.data.scenes import SCENE_LABELS, SceneRecipe, held_out_scenes, make_scenes, scene_extractor
from lwm_spectro_hf.evaluation.reconstruction import baseline_errors, masked_batches, masked_error, over_best_baseline
from lwm_spectro_hf.evaluation.spectrum import fit_trees, forecast_errors, noise_error, segmentation_scores
from lwm_spectro_hf.files import whole_file, whole_folder
from lwm_spectro_hf.hub.model_card import render
from lwm_spectro_hf.markdown import markdown_table
from lwm_spectro_hf.plotting import draw_segments
from lwm_spectro_hf.scripting import computes_on_gpu, one_line_errors
from lwm_spectro_hf.training.augmentation import augment, narrow
from lwm_spectro_hf.training.checkpoints import (
    check_kind,
    check_settings,
    check_tracker,
    folder_name,
    last_checkpoint,
    training_figures,
    write_settings,
)
from lwm_spectro_hf.training.fine_tuning import CheckedTrainer, TimeLimit, use_one_device
from lwm_spectro_hf.training.growth import mean_weights
from lwm_spectro_hf.training.run import read_config

TASKS = {
    "pretraining": MaskedConvLstmForPreTraining,
    "forecasting": MaskedConvLstmForForecasting,
    "segmentation": MaskedConvLstmForSemanticSegmentation,
}
# For the card: the Hub's name of the task, the Auto class, and the last line of the code example.
SHOWN_AS = {
    "pretraining": ("feature-extraction", "AutoModel", "model(**inputs).pooler_output  # (1, {hidden_size})"),
    "forecasting": (
        "time-series-forecasting",
        "AutoModelForTimeSeriesPrediction",
        "known = inputs.input_values[:, :, :{known}]\nmodel.forecast(known)  # (1, {num_channels}, {forecast_frames}, "
        "{num_freq_bins}): the frames that follow",
    ),
    "segmentation": (
        "image-segmentation",
        "AutoModelForSemanticSegmentation",
        "model(**inputs).logits.argmax(1)  # (1, {num_frames}, {num_freq_bins}): {labels}",
    ),
}
USE = """```python
from transformers import AutoFeatureExtractor, {auto_class}
import lwm_spectro_hf

extractor = AutoFeatureExtractor.from_pretrained("{name}")  # a folder, or its name on the Hub
model = {auto_class}.from_pretrained("{name}")
inputs = extractor(iq, sampling_rate=30.72e6, return_tensors="pt")  # 10 ms of complex samples
{last}
```"""
PIPELINE_USE = """```python
from transformers import pipeline
import lwm_spectro_hf

# A folder, or its name on the Hub, whose code is that of the package.
segment = pipeline("iq-segmentation", model="{name}", trust_remote_code=True)
segment("band.sigmf-meta")["carriers"]  # of any rate and length
```

"""
LIMITS = """
- The extractor refuses other rates than 30.72 Msps, and longer recordings are cut. The pipeline `"iq-segmentation"`
  takes any, and masks frames and bins that the recording does not cover.
- Scenes have one carrier of each protocol at most, none over another, and downlinks alone of LTE and 5G.
- No real recording was used, in training or for these scores.
"""
# Trains in an hour on two cores: a cell covers 4 x 4 values, and a time step two rows of cells.
TINY = {"embedding_stride": 4, "segment_frames": 8, "hidden_size": 48, "num_hidden_layers": 3}
SAVES = 10  # per run
FITTED = 1024  # scenes that baselines are fitted to, at most
TREE_STEP = 4  # trees are scored on one frame in this many
GENERATED, HELD_OUT = 4096, 512  # scenes to train on and to score, without --data
SHOWN = 4


class Rows(Dataset):
    """Scenes in memory.

    Args:
        columns (`dict`): As [`load_spectrograms`] reads them.
        labelled (`bool`): Whether to return the labels of the values, too.
    """

    def __init__(self, columns: dict[str, torch.Tensor], labelled: bool):
        self.columns, self.labelled = columns, labelled

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitems__(self, places: list[int]) -> dict[str, torch.Tensor]:
        inputs = {"input_values": self.columns["input_values"][places].float()}
        return inputs | ({"labels": self.columns["labels"][places].float()} if self.labelled else {})


class SceneTrainer(CheckedTrainer):
    """Trains on scenes, half of them mirrored in frequency; for segmentation also on narrower and shorter views."""

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values, generator = inputs["input_values"], self.part_generator()

        def uniform(width: int) -> torch.Tensor:
            return torch.rand(len(values), width, generator=generator).to(values.device)

        mirrored = uniform(2)
        mirrored[:, 0] = 0.0  # no shift in time: frames stay in order
        if "labels" in inputs:
            both = augment(torch.cat([values, inputs["labels"][:, None]], dim=1), mirrored)
            inputs = narrow_views(both, uniform(6))
        else:
            inputs = {"input_values": augment(values, mirrored)}
            if isinstance(self.model, MaskedConvLstmForPreTraining):
                inputs["noise"] = uniform(self.model.config.num_patches)
        return super().compute_loss(model, inputs, *args, **kwargs)


def narrow_views(values_and_labels: torch.Tensor, noise: torch.Tensor, share: float = 0.5) -> dict[str, torch.Tensor]:
    """Inputs for segmentation, see [`narrow`]; hidden values have the label -100, which is ignored."""
    moved, mask = narrow(values_and_labels, noise, share)
    return {"input_values": moved[:, :-1], "mask": mask, "labels": moved[:, -1].long().masked_fill(mask, -100)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, help="folder written by build_scenes.py (default: generate scenes)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in --out")
    parser.add_argument(
        "--init",
        type=Path,
        nargs="+",
        help="checkpoint to start from, of any task; given several of this task, start from the mean of their weights",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="new weights of a small network (default: of the paper's network)"
    )
    parser.add_argument(
        "--passes", type=int, help="how often the network sees the segments (default: that of --init, or 1)"
    )
    parser.add_argument("--config", type=Path, help="JSON file with fields of MaskedConvLstmConfig, for new weights")
    parser.add_argument(
        "--num-train", type=int, help=f"train on only the first N scenes (default: all; {GENERATED} without --data)"
    )
    parser.add_argument("--epochs", type=float, default=10, help="0: only score --init (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="maximum training time [min]")
    parser.add_argument("--batch-size", type=int, default=32, help="total over all processes (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no", help="(default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, row order and masks (default: %(default)s)"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if available")
    parser.add_argument(
        "--report-to", default="none", help="tracker: tensorboard, trackio, wandb... (default: %(default)s)"
    )
    args = parser.parse_args()
    for name in ("num_train", "passes", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 1")
    if args.epochs < 0:
        parser.error(f"--epochs is {args.epochs:g}; expected at least 0")
    if args.init and (args.tiny or args.config):
        parser.error("--tiny and --config are for new weights; --init brings its own configuration")
    if args.epochs == 0 and not args.init:
        parser.error("--epochs 0 only scores the checkpoint of --init, but --init is missing")
    return args


def scenes_of(args: argparse.Namespace, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Scenes to train on, and scenes of the held-out city."""
    if args.data:
        train, test = (load_spectrograms(args.data, split) for split in ("train", "test"))
        if "labels" not in train:
            raise ValueError(f"{args.data} holds recordings of one sender each; expected scenes of build_scenes.py.")
        return [{name: column[: args.num_train] for name, column in train.items()}, test]
    recipe = SceneRecipe()
    if device.type == "cuda":  # which takes no longer for many scenes at once than for a few
        recipe = replace(recipe, transmissions=replace(recipe.transmissions, chunk_size=64))
    splits = []
    for split, num, drawn in (
        ("train", args.num_train or GENERATED, recipe),
        ("test", HELD_OUT, held_out_scenes(recipe)),
    ):
        parts = []
        with tqdm(total=num, desc=f"scenes, {split}", unit="scene") as progress:
            for part in make_scenes(drawn, split_seed(args.seed, split), scene_extractor(), 0, num, device):
                parts.append(part)
                progress.update(len(part["index"]))
        splits.append({name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]})
    return splits


def model_of(args: argparse.Namespace, columns: dict[str, torch.Tensor]) -> PreTrainedModel:
    torch.manual_seed(stable_seed("weights", args.seed) % 2**31)
    names = dict(enumerate(SCENE_LABELS)) if args.task == "segmentation" else {}
    extra = {"id2label": names, "label2id": {name: number for number, name in names.items()}} if names else {}
    extra |= {"num_passes": args.passes} if args.passes else {}
    if args.init:
        models = []
        for path in args.init:
            check_kind(path, TASKS[args.task])
            model, info = TASKS[args.task].from_pretrained(path, output_loading_info=True, **extra)
            if info["missing_keys"] and (args.epochs == 0 or len(args.init) > 1):
                raise ValueError(
                    f"--init {path} has no weights for {', '.join(sorted(info['missing_keys']))}: it is for another "
                    "task, and these would be random. To score or average checkpoints, give only those of this task."
                )
            models.append(model)
        models[0].load_state_dict(mean_weights(*models))
        return models[0]
    shape = dict(zip(("num_channels", "num_frames", "num_freq_bins"), columns["input_values"].shape[1:], strict=True))
    fields = shape | (TINY if args.tiny else {})
    fields |= read_config(args.config, MaskedConvLstmConfig) if args.config else {}
    return TASKS[args.task](MaskedConvLstmConfig(**(fields | extra)))


def score(
    args: argparse.Namespace, model: PreTrainedModel, train: dict[str, torch.Tensor], test: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Scores in the held-out city, of the model (on its device) and of baselines without a network."""
    config = model.config

    def segments(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = mask if mask is None else mask.to(model.device)
        return model(values.to(model.device), mask=mask).logits.argmax(1).cpu()

    fitting, values = train["input_values"][:FITTED].float(), test["input_values"].float()
    if args.task == "forecasting":
        known = config.num_frames - config.forecast_frames
        return forecast_errors(fitting, values, known, lambda part: model.forecast(part.to(model.device)).cpu())
    if args.task == "pretraining":
        size = config.patch_size

        def batches(columns: dict[str, torch.Tensor], num: int) -> list:
            parts = zip(columns["input_values"][:num].split(64), columns["index"][:num].split(64), strict=True)
            rows = ({"input_values": part.float(), "index": index} for part, index in parts)
            return masked_batches(rows, config, args.seed)

        def predict(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            outputs = model(values.to(model.device), bool_masked_pos=mask.to(model.device))
            return patchify(outputs.reconstruction, size).cpu()

        scored = batches(test, len(values))
        errors = baseline_errors(config, batches(train, FITTED), scored)
        return errors | {"model": masked_error(predict, scored, size)}
    trees = fit_trees(fitting, train["labels"][:FITTED], args.seed, TREE_STEP)
    scores = {}
    for name, predict, step in (("trees on local statistics", trees, TREE_STEP), ("model", segments, 1)):
        answers = torch.cat([predict(part) for part in values.split(32)])
        scores[name] = segmentation_scores(test["labels"][:, ::step], answers, SCENE_LABELS, test["snr_db"])
    noise = torch.rand(len(values), 6, generator=torch.Generator().manual_seed(args.seed))
    views = narrow_views(torch.cat([values, test["labels"][:, None]], dim=1), noise, share=1.0)
    parts = zip(views["input_values"].split(32), views["mask"].split(32), strict=True)
    answers = torch.cat([segments(part, mask) for part, mask in parts])
    name = "model, narrower and shorter views"
    scores[name] = segmentation_scores(views["labels"], answers, SCENE_LABELS, test["snr_db"])
    return scores


def rows_of_table(results: dict[str, Any]) -> list[tuple[str, str]]:
    scores = results["held_out"]
    if results["task"] == "segmentation":
        rows = []
        for name, found in scores.items():
            by_label = ", ".join(f"{label} {value:.1f}" for label, value in found["iou"].items() if value is not None)
            by_snr = ", ".join(f"{snr} dB {value:.1f}" for snr, value in found["recall_by_snr_db"].items())
            rows += [
                (f"{name}: values right, %", f"{found['accuracy']:.1f}"),
                (f"{name}: mean intersection over union, %", f"{found['mean_iou']:.1f} ({by_label})"),
                (f"{name}: recall, %", by_snr),
            ]
        return rows
    rows = [(name, f"{value:.4f}") for name, value in scores.items()]
    rows.append(("model / best baseline", f"{over_best_baseline(scores):.3f}"))
    if results["noise_alone"] is not None:
        rows.append(("noise alone, without the bins beside it", f"{results['noise_alone']:.4f}"))
    return rows


def card(args: argparse.Namespace, model: PreTrainedModel, results: dict[str, Any], name: str) -> str:
    """The README.md of the weights."""
    config = model.config
    tag, auto_class, last = SHOWN_AS[args.task]
    known, labels = config.num_frames - config.forecast_frames, ", ".join(SCENE_LABELS)
    last = last.format(known=known, labels=labels, **config.to_dict())
    scores = [f"Of {results['scenes']['test']:,} scenes of a city that training never saw.\n"]
    scores.append(markdown_table([("", ""), *rows_of_table(results)]))
    if args.task != "segmentation":
        unit = "variances of the known frames" if args.task == "forecasting" else "of a masked value"
        scores.append(f"\nMean squared errors, {unit}; lower is better.")
    before = " and ".join(f"`{path.parent.name}`" for path in args.init or ())
    begin = f"from {'the mean of ' * (len(args.init) > 1)}the weights of {before}" if before else "from random weights"
    size = sum(parameter.numel() for parameter in model.parameters())
    run = {
        "pipeline_tag": tag,
        "summary": f"A masked ConvLSTM after arXiv 2411.09849 for {args.task} of spectrograms 30.72 MHz wide: "
        f"{config.num_hidden_layers} layers of {config.hidden_size} kernels, a cell for each "
        f"{config.embedding_stride} x {config.embedding_stride} values, {size / 1e6:.2f} million parameters.",
        "use": (PIPELINE_USE.format(name=name) if args.task == "segmentation" else "")
        + USE.format(name=name, auto_class=auto_class, last=last),
        "data": f"{results['scenes']['train']:,} generated scenes of 10 ms: WiFi, LTE and 5G beside each other at "
        "random places, 0 to 30 dB of SNR, through the ray-traced channels of nineteen cities "
        "(`lwm_spectro_hf.data.scenes`).",
        "machine": f"{results['machine']}, {begin}",
        "log": {
            (args.task if results["steps"] else "none, scored as it was"): {
                "seconds": results["train_seconds"],
                "samples": results["steps"] * args.batch_size,
                "loss": results["train_loss"],
            }
        },
        "evaluation": "\n".join(scores),
        "limits": LIMITS,
    }
    return render(name, run)


@torch.no_grad()
def draw(args: argparse.Namespace, model: PreTrainedModel, test: dict[str, torch.Tensor]) -> Any:
    """Draw a few scenes of the held-out city: the input, the truth, and the output of the model."""
    values, config = test["input_values"][:SHOWN].float(), model.config
    columns: dict[str, Any] = {"spectrogram": values[:, 0]}
    if args.task == "segmentation":
        columns |= {"what is sent": test["labels"][:SHOWN], "model": model(values).logits.argmax(1)}
    else:
        outputs = model(values)
        columns["spectrogram, what is shown"] = values[:, 0].masked_fill(outputs.mask, torch.nan)
        columns["model"] = torch.where(outputs.mask, outputs.reconstruction[:, 0], values[:, 0])
    step_s, step_hz = test["resolution"][0].tolist()
    return draw_segments(
        {name: part.numpy() for name, part in columns.items()},
        SCENE_LABELS,
        duration_s=config.num_frames * step_s,
        bandwidth_hz=config.num_freq_bins * step_hz,
    )


def main() -> None:
    args = parse_args()
    on_gpu = computes_on_gpu(args.device)
    state, checkpoints = PartialState(cpu=not on_gpu), args.out / "checkpoints"
    free = ("out", "resume", "epochs", "minutes", "device", "report_to")
    settings = {name: value for name, value in vars(args).items() if name not in free}
    settings["data"] = folder_name(args.data)
    check_tracker(args.report_to)
    check_settings(args.out, settings, args.resume)
    if args.batch_size % state.num_processes:
        raise SystemExit(
            f"A batch of {args.batch_size} is not a multiple of the {state.num_processes} processes: choose one."
        )
    disable_progress_bar()  # of saving and loading checkpoints
    train, test = scenes_of(args, state.device)
    model = model_of(args, train)
    rows = Rows(train, labelled=args.task == "segmentation")
    steps = -(-len(rows) // args.batch_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size // state.num_processes,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.01,
        save_strategy="steps",
        save_steps=max(1, int(steps * args.epochs) // SAVES),
        save_total_limit=1,
        logging_steps=max(1, int(steps * args.epochs) // (5 * SAVES)),
        label_names=["labels"] if args.task == "segmentation" else ["input_values"],
        remove_unused_columns=False,
        bf16=args.mixed_precision == "bf16",
        use_cpu=not on_gpu,
        report_to=args.report_to,
        seed=args.seed,
    )
    use_one_device(arguments)
    trainer = SceneTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=as_is,
        callbacks=[TimeLimit(args.minutes)] if args.minutes is not None else [],
    )
    if state.is_main_process:
        write_settings(args.out, settings)
    seconds = 0.0
    if args.epochs:
        outcome = trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
        seconds = outcome.metrics["train_runtime"]
    if not trainer.is_world_process_zero():
        return
    model.eval()
    with torch.no_grad():
        scores = score(args, model, train, test)
    model.cpu()
    noise = noise_error(test["std_db"]) if "std_db" in test and args.task != "segmentation" else None
    results = {
        "task": args.task,
        "scenes": {"train": len(rows), "test": len(test["index"])},
        "steps": trainer.state.global_step,
        **training_figures(args.out, trainer.state.log_history, seconds),
        "held_out": scores,
        "noise_alone": noise,
        "machine": torch.cuda.get_device_name() if on_gpu else "a CPU",
    }
    with whole_folder(args.out / "model", overwrite=True) as folder:
        model.save_pretrained(folder)
        scene_extractor().save_pretrained(folder)
        (folder / "README.md").write_text(card(args, model, results, args.out.name), encoding="utf-8")
    with whole_file(args.out / "results.json") as stream:
        stream.write((json.dumps(results, indent=2) + "\n").encode())
    draw(args, model, test).savefig(args.out / "examples.png")
    print(f"\n{args.task}; {len(rows):,} scenes, {trainer.state.global_step:,} steps; scores are of the held-out city")
    for name, value in rows_of_table(results):
        print(f"  {name:58}{value}")


if __name__ == "__main__":
    with one_line_errors():
        main()

#!/usr/bin/env python
r"""Fine-tune a checkpoint on a label of any data set (sec. III-F): head only, all weights, LoRA, or from scratch.

Minutes on a laptop: generate spectrograms, then train a head on the frozen experts of the shipped checkpoint:

    lwm-spectro generate --num 1500 --processes 2 --out runs/dataset
    python examples/run_classification.py --data runs/dataset --label snr_db --out runs/snr

Fine-tune all weights of one expert of a mixture on 20 rows of each class (table II); then the same with the joint
objective of eq. 22, which continues the training on masked patches:

    python examples/run_classification.py --data runs/dataset --label snr_db+mobility --protocol LTE --expert LTE \
        --method full --samples-per-class 20 --out runs/lte-20
    python examples/run_classification.py --data runs/dataset --label snr_db+mobility --protocol LTE --expert LTE \
        --method full --samples-per-class 20 --joint --augment --out runs/lte-20-joint

LoRA adapters in the attention of an encoder from `run_pretraining.py`, nine minutes on a GPU:

    python examples/run_classification.py --data runs/dataset --label modulation --model runs/lte/model \
        --method lora --minutes 9 --mixed-precision bf16 --device cuda --out runs/modulation

Several processes; --batch-size is the total over all of them:

    accelerate launch --num_processes 8 examples/run_classification.py --data NAME_ON_THE_HUB --label modulation \
        --method full --batch-size 512 --out runs/modulation

--data is a folder written by `lwm-spectro generate`, or anything else that `datasets.load_dataset` reads, with
`input_values` (spectrograms) or `iq` (num_samples x 2, with `sampling_rate`), and labels: classes, strings or numbers.
Two further columns are used if present. `receiver` is "synchronous" or "listening" where each frame is an OFDM symbol;
the pipeline applies a head to the symbols that it finds only if the head was trained on such frames. `user` (of a
`scenario`): when validation and test rows are split off the training rows, all rows of a user stay on one side, unless
`user` is the label.

Writes to --out: `model/` (for `AutoModelForSequenceClassification` and `pipeline("iq-classification")`, with a card),
`results.json`, `confusion.png`, and `settings.json` and `checkpoints/`, from which --resume continues.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, EvalPrediction, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from lwm_spectro_hf import SpectrogramFeatureExtractor, default_checkpoint
from lwm_spectro_hf.data.labelled import Task, TaskError, as_is, load_task
from lwm_spectro_hf.data.recipe import stable_seed
from lwm_spectro_hf.evaluation.classification import classification_scores, scores_table
from lwm_spectro_hf.evaluation.probe import fit_head
from lwm_spectro_hf.files import whole_file, whole_folder
from lwm_spectro_hf.hub.model_card import render
from lwm_spectro_hf.plotting import draw_confusion
from lwm_spectro_hf.scripting import computes_on_gpu, one_line_errors
from lwm_spectro_hf.training.checkpoints import (
    check_settings,
    check_tracker,
    folder_name,
    last_checkpoint,
    training_figures,
    write_settings,
)
from lwm_spectro_hf.training.fine_tuning import (
    HEAD_TYPES,
    METHODS,
    EmbeddingClassifier,
    Embeddings,
    FineTuner,
    JointClassifier,
    TimeLimit,
    add_lora,
    build_classifier,
    check_fit,
    load_pretrained,
    renew,
    use_one_device,
)

LOOKS = 20  # evaluations on the validation rows, and saves, per run
MIN_STEPS = 300  # by default, however few rows there are
MIN_EPOCHS = 20
DECIDED = "_decided"  # suffix of a score whose ties are broken by the loss
PROBE_ROWS = 20_000  # with more rows, the head learns soon enough without the regression, which would take minutes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set: folder, or name on the Hub")
    parser.add_argument(
        "--label", required=True, help='column to predict, or several joined by "+", e.g. snr_db+mobility'
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in --out")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of splits, weights and row order (default: %(default)s)"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if available")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", help="checkpoint: folder, or name on the Hub (default: the one included in this package)"
    )
    model.add_argument("--expert", help="use only this expert of a mixture (default: the whole mixture)")
    model.add_argument("--method", choices=METHODS, default="frozen", help="how to train (default: %(default)s)")
    model.add_argument(
        "--head", choices=HEAD_TYPES, help="type of classification head (default: that of the checkpoint)"
    )
    model.add_argument(
        "--head-start",
        choices=["probe", "random"],
        default="probe",
        help="initial weights of a linear head with --method full or lora: probe, a logistic regression on the "
        f"embeddings of up to {PROBE_ROWS:,} training rows, or random (default: %(default)s)",
    )
    model.add_argument("--lora-rank", type=int, default=8, help="rank for --method lora (default: %(default)s)")

    data = parser.add_argument_group("data")
    data.add_argument("--protocol", help="use only rows of this protocol")
    data.add_argument("--samples-per-class", type=int, help="few-shot: number of training rows per class")
    for split in ("train", "validation", "test"):
        data.add_argument(
            f"--{split}-split", default=split, help=f"name of the split used for {split} (default: %(default)s)"
        )
    data.add_argument(
        "--validation-share",
        type=float,
        help="share of the training rows to validate on, if there is no split for it; 0: train to the end (default: "
        "0.1; few-shot: 0)",
    )
    data.add_argument(
        "--test-share",
        type=float,
        default=0.2,
        help="share of the training rows to test on, if there is no split for it (default: 0.2)",
    )
    data.add_argument("--workers", type=int, default=0, help="processes that load data (default: %(default)s)")

    train = parser.add_argument_group("training; AdamW, weight decay and rate as in table I")
    train.add_argument("--batch-size", type=int, default=64, help="total over all processes (default: %(default)s)")
    train.add_argument(
        "--epochs", type=float, help=f"default: {MIN_EPOCHS}, or with few rows, enough for {MIN_STEPS} steps"
    )
    train.add_argument("--minutes", type=float, help="maximum training time [min]")
    train.add_argument(
        "--learning-rate", type=float, help="peak learning rate (default: 5e-4; with a frozen encoder: 2e-3)"
    )
    train.add_argument(
        "--encoder-learning-rate",
        type=float,
        help="learning rate of everything but the head (default: a fifth with --method full, otherwise the same)",
    )
    train.add_argument(
        "--weight-decay", type=float, default=0.05, help="not applied to vectors (default: %(default)s)"
    )
    train.add_argument(
        "--warmup", type=float, default=0.05, help="share of the steps used for warm-up (default: %(default)s)"
    )
    train.add_argument(
        "--patience",
        type=int,
        default=10,
        help=f"stop after this many of the {LOOKS} validations without a better --best-by (default: %(default)s)",
    )
    train.add_argument("--best-by", choices=["macro_f1", "accuracy", "loss"], default="macro_f1")
    train.add_argument("--augment", action="store_true", help="randomly shift in time and mirror in frequency")
    train.add_argument(
        "--joint", action="store_true", help="eq. 22: also train with masked reconstruction and contrastive loss"
    )
    train.add_argument(
        "--reconstruction-weight", type=float, help="weight of eq. 17 (default: that of the checkpoint)"
    )
    train.add_argument("--contrastive-weight", type=float, help="weight of eq. 19 (default: that of the checkpoint)")
    train.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    train.add_argument(
        "--report-to", default="none", help="tracker: tensorboard, trackio, wandb... (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    args.model = args.model or str(default_checkpoint())
    if args.epochs is not None and args.epochs <= 0:
        parser.error(f"--epochs is {args.epochs:g}; expected more than 0.")
    for name in ("batch_size", "samples_per_class", "lora_rank", "patience"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 1.")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup is {args.warmup:g}; expected a share of the steps, from 0 to 1.")
    if args.method == "frozen" and (args.joint or args.augment):
        parser.error("--method frozen embeds every row once, so it cannot be combined with --joint or --augment.")
    if args.validation_share is None:
        args.validation_share = 0.0 if args.samples_per_class else 0.1
    if args.learning_rate is None:
        args.learning_rate = 2e-3 if args.method == "frozen" else 5e-4
    if args.encoder_learning_rate is None:
        args.encoder_learning_rate = args.learning_rate / (5 if args.method == "full" else 1)
    return args


def extractor_of(checkpoint: str) -> SpectrogramFeatureExtractor | None:
    try:
        return SpectrogramFeatureExtractor.from_pretrained(checkpoint)
    except OSError:  # not needed for data that are spectrograms already
        return None


def training_arguments(args: argparse.Namespace, num_rows: int, on_gpu: bool, validated: bool) -> TrainingArguments:
    processes = PartialState(cpu=not on_gpu).num_processes
    if args.batch_size % processes:
        raise TaskError(f"A batch of {args.batch_size} is not a multiple of the {processes} processes: choose one.")
    steps = math.ceil(num_rows / args.batch_size)
    epochs = args.epochs if args.epochs is not None else max(MIN_EPOCHS, math.ceil(MIN_STEPS / steps))
    every = math.ceil(steps * epochs / LOOKS)
    arguments = TrainingArguments(
        output_dir=str(args.out / "checkpoints"),
        num_train_epochs=epochs,
        per_device_train_batch_size=args.batch_size // processes,
        per_device_eval_batch_size=max(64, args.batch_size // processes),
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.warmup,
        weight_decay=args.weight_decay,
        eval_strategy="steps" if validated else "no",
        eval_steps=every if validated else None,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the best, and the last, to resume from
        logging_steps=every,
        load_best_model_at_end=validated,
        metric_for_best_model=f"{args.best_by}{DECIDED * (args.best_by != 'loss')}" if validated else None,
        greater_is_better=args.best_by != "loss" if validated else None,
        restore_callback_states_from_checkpoint=args.resume,  # otherwise patience would start over
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_num_workers=args.workers,
        bf16=args.mixed_precision == "bf16",
        fp16=args.mixed_precision == "fp16",
        use_cpu=not on_gpu,
        report_to=args.report_to,
        seed=args.seed,
    )
    use_one_device(arguments)
    return arguments


def metrics_of(labels: list[str]):
    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores = classification_scores(prediction.label_ids, prediction.predictions.argmax(-1), labels)
        found = {name: scores[name] for name in ("accuracy", "macro_f1")}
        logits, truth = (torch.from_numpy(part) for part in (prediction.predictions, prediction.label_ids))
        # On few rows scores often tie, and the earliest checkpoint would be kept: the lower loss breaks the tie, by
        # less than the last digit of a score.
        decided = 1e-3 * min(float(torch.nn.functional.cross_entropy(logits.float(), truth)), 9.0)
        return found | {f"{name}{DECIDED}": score - decided for name, score in found.items()}

    return metrics


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the result depends on."""
    free = ("out", "resume", "minutes", "device", "workers", "report_to")
    settings = {name: value for name, value in vars(args).items() if name not in free}
    return settings | {"data": folder_name(args.data)}


def run(args: argparse.Namespace) -> None:
    on_gpu = computes_on_gpu(args.device)
    disable_progress_bar()  # of saving and loading checkpoints
    check_tracker(args.report_to)
    try:
        check_settings(args.out, settings_of(args), args.resume)
    except ValueError as error:
        raise TaskError(str(error)) from None
    state = PartialState(cpu=not on_gpu)
    pretrained, has_decoder = load_pretrained(args.model, args.expert)
    extractor = extractor_of(args.model)
    task = load_task(
        args.data,
        args.label,
        protocol=args.protocol,
        train_split=args.train_split,
        validation_split=args.validation_split,
        test_split=args.test_split,
        validation_share=args.validation_share,
        test_share=args.test_share,
        samples_per_class=args.samples_per_class,
        extractor=extractor,
        seed=args.seed,
    )
    for part in (task.train, task.test):
        check_fit(pretrained, part, args.model)
    torch.manual_seed(stable_seed("weights", args.seed) % 2**31)
    if args.method == "scratch":
        pretrained = renew(pretrained)
    model = build_classifier(pretrained, args.label, task.labels, args.head)
    if task.train.is_blind and hasattr(model.config, "blind_tasks"):
        model.config.blind_tasks = [model.config.task_name]
    if args.joint and not has_decoder:
        task.notes.append(f"{args.model} has no decoder, so a new one is used.")
    say = state.print
    say(f"{args.label}: {len(task.labels)} classes, {', '.join(task.labels)}")
    say(f"{len(task.train):,} rows to train on, {len(task.test):,} to score.")
    for note in task.notes:
        say(note)

    validated = task.validation is not None
    arguments = training_arguments(args, len(task.train), on_gpu, validated)
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    last = last_checkpoint(Path(arguments.output_dir))
    if last is None and starts_from_probe(args, model, task):
        rows = Embeddings(model.to(arguments.device), task.train, arguments.per_device_eval_batch_size, "the head")
        fit_head(model.classifier, rows.embeddings, rows.labels)
    network: torch.nn.Module = add_lora(model, args.lora_rank) if args.method == "lora" else model
    adapted = network
    if args.method == "frozen":
        model.to(arguments.device)
        batch_size = arguments.per_device_eval_batch_size
        parts = {name: rows and Embeddings(model, rows, batch_size, name) for name, rows in parts.items()}
        network = EmbeddingClassifier(model)
    elif args.joint:
        config = model.config.encoder_config
        weights = (
            config.reconstruction_loss_weight if args.reconstruction_weight is None else args.reconstruction_weight,
            config.contrastive_loss_weight if args.contrastive_weight is None else args.contrastive_weight,
        )
        network = JointClassifier(model, pretrained, *weights)
    callbacks = [EarlyStoppingCallback(args.patience)] if validated else []
    callbacks += [TimeLimit(args.minutes)] if args.minutes is not None else []
    trainer = FineTuner(
        model=network,
        args=arguments,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        data_collator=as_is,
        compute_metrics=metrics_of(task.labels),
        callbacks=callbacks,
        encoder_learning_rate=args.encoder_learning_rate,
        augmented=args.augment,
        pretrained=args.method != "scratch",
    )
    if state.is_main_process:
        write_settings(args.out, settings_of(args))
    outcome = trainer.train(resume_from_checkpoint=last)
    answers = trainer.predict(parts["test"])
    if args.method == "lora":
        model = adapted.merge_and_unload()
    if trainer.is_world_process_zero():
        figures = training_figures(args.out, trainer.state.log_history, outcome.metrics["train_runtime"])
        report(args, task, model.cpu(), extractor, trainer, figures, answers.predictions.argmax(-1))
    state.wait_for_everyone()


def starts_from_probe(args: argparse.Namespace, model: torch.nn.Module, task: Task) -> bool:
    """Whether the head starts from a logistic regression on the embeddings, as by default for few rows."""
    is_linear = model.config.encoder_config.classifier_type == "linear"
    wanted = args.head_start == "probe" and args.method in ("full", "lora") and is_linear
    # Validation may have taken all rows of a rare class.
    complete = len(task.train.labels.unique()) == len(task.labels)
    return wanted and complete and len(task.train) <= PROBE_ROWS


def report(
    args: argparse.Namespace,
    task: Task,
    model: torch.nn.Module,
    extractor: SpectrogramFeatureExtractor | None,
    trainer: FineTuner,
    figures: dict[str, float | None],
    answers: np.ndarray,
) -> None:
    """Write the model with its card, the scores and the confusion matrix, and print the scores."""
    truth = task.test.labels.numpy()
    scores = classification_scores(truth, answers, task.labels)
    by_protocol = {"all": scores}
    if task.test_protocols is not None:
        for name in sorted(set(task.test_protocols)):
            rows = task.test_protocols == name
            by_protocol[name] = classification_scores(truth[rows], answers[rows], task.labels)
    groups = {
        name: {key: entry[key] for key in ("accuracy", "macro_f1", "num")} for name, entry in by_protocol.items()
    }
    results: dict[str, Any] = {
        "task": task.name,
        "method": args.method,
        "rows": {"train": len(task.train), "validation": len(task.validation or ()), "test": len(task.test)},
        "steps": trainer.state.global_step,
        **figures,
        "best_validation": None if trainer.state.best_metric is None else round(trainer.state.best_metric, 2),
        "test": scores,
        "test_by_protocol": groups,
        "notes": task.notes,
    }
    samples = trainer.state.global_step * args.batch_size
    card = {
        "summary": f"{Path(args.model).name} fine-tuned ({args.method}) to predict `{task.name}`: "
        f"{', '.join(task.labels)}.",
        "data": f"{len(task.train):,} spectrograms of `{Path(args.data).name}`, split `{args.train_split}`. "
        + " ".join(task.notes),
        "machine": torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else "a CPU",
        "log": {
            args.method: {
                "seconds": figures["train_seconds"],
                "samples": samples,
                "loss": figures["train_loss"],
            }
        },
        "scores": {task.name: groups},
        "scored": f"{len(task.test):,} single spectrograms of that data that training never saw",
    }
    with whole_folder(args.out / "model", overwrite=True) as folder:
        model.save_pretrained(folder)
        if extractor is not None:
            extractor.save_pretrained(folder)
        (folder / "README.md").write_text(render(args.out.name, card), encoding="utf-8")
    with whole_file(args.out / "results.json") as stream:
        stream.write((json.dumps(results, indent=2) + "\n").encode())
    title = f"{task.name}, {args.method}: macro-F1 {scores['macro_f1']:.1f} %"
    draw_confusion(scores["confusion"], task.labels, title).savefig(args.out / "confusion.png")
    print(f"\n{title}; of {len(task.test):,} test rows, in %")
    print(scores_table(scores, task.name))


def main() -> None:
    with one_line_errors():
        run(parse_args())


if __name__ == "__main__":
    main()

"""Train the small mixture of experts that ships with the package, from nothing, on a CPU.

    # a trial of every stage, two minutes; then the shipped weights, an hour and a half on two cores
    python examples/train_tiny.py --num 3000 --expert-minutes 0.2 --router-minutes 0.5 --head-minutes 0.5
    python examples/train_tiny.py

Needs the extras `data` and `train`. Four stages, each resumable: spectrograms are generated; every expert learns
masked spectrogram modeling with the supervised contrastive objective (eq. 22) on its protocol; the router learns the
protocol with frozen experts (sec. IV-C); heads for modulation and SNR x mobility are trained with the experts at a
lower rate. The result is scored on recordings made from other seeds and written, with the scores, as a folder shaped
like a Hub repository.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from lwm_spectro_hf import (
    LwmSpectroConfig,
    LwmSpectroForPreTraining,
    LwmSpectroMoEConfig,
    LwmSpectroMoEForPreTraining,
    LwmSpectroMoEForSequenceClassification,
    LwmSpectroMoERouter,
)
from lwm_spectro_hf.data.builder import build_parquet, splits_by_city
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.parquet import load_spectrograms
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, SNRS_DB, preset
from lwm_spectro_hf.hub.model_card import render
from lwm_spectro_hf.training.loop import balanced_batches, train_for

# In so few steps convolutions learn faster than the transformer of the paper: after four minutes on one core they told
# 69 % of the test recordings apart, the transformer 58 %.
ROUTER = {"router_type": "cnn"}
JOINT_TASK = "snr_db+mobility"
JOINT_LABELS = [f"{snr_db}+{mobility}" for snr_db in SNRS_DB for mobility in MOBILITIES]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=30_000, help="spectrograms to train on (default: %(default)s)")
    parser.add_argument("--num-test", type=int, default=6_000, help="spectrograms to score on (default: %(default)s)")
    parser.add_argument("--expert-minutes", type=float, default=5.6, help="for each expert (default: %(default)s)")
    parser.add_argument("--router-minutes", type=float, default=60, help="for the router (default: %(default)s)")
    parser.add_argument("--head-minutes", type=float, default=14.4, help="for the heads (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that generate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of data and weights (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/tiny-work"), help="shards and states (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/tiny"), help="the finished checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        choices=["data", "router", "heads", *(f"expert-{index}" for index in range(len(PROTOCOLS)))],
        help="do this part alone and stop (the heads need the experts): parts keep their state in --work, so several "
        "may run side by side, one thread each (OMP_NUM_THREADS=1): faster than one part on two threads",
    )
    return parser.parse_args()


def expert_config() -> LwmSpectroConfig:
    return LwmSpectroConfig(
        num_channels=2,
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        mask_strategy="drop",
        reconstruction_loss_weight=1 / 128,  # eq. 17 sums over a patch, here of 2 x 8 x 8 values
        classifier_type="residual_cnn",
        classifier_num_layers=1,
        classifier_hidden_size=32,
    )


SUMMARY = """
The first, small weights of LWM-Spectro for Transformers: a mixture of three experts (WiFi, LTE, 5G) of
{millions:.1f} million parameters in all, made to be honest and quick on a laptop rather than strong: four layers of
width 64 over 8 x 8 patches, where the paper's encoder has twelve of width 128 over 4 x 4. It tells the protocol of a
recording, and has heads for modulation and for SNR x mobility. The architecture is that of arXiv 2601.08780, the
weights are not.
"""
DATA = """
{num} spectrograms of generated recordings (seed {seed}), as a blind receiver hears them: random start, carrier off
centre, sampling rates from 1.92 to 61.44 Msps, spans from 0.3 to 12 ms) and, for half of them, as one that has found
carrier and symbol timing: full, partial and empty cells, ray-traced channels of nineteen cities moving at up to 35
m/s, SNR from -5 to 25 dB. The waveforms are coded and framed as the standards say. The scores are of a city that
training never saw. No real recording was used. The command: `python examples/train_tiny.py --num {num} --seed {seed}`,
with the minutes below.
"""
LIMITS = """
- Modulation can hardly be read from a blind power spectrogram, whose frames straddle symbols: take that head as a
  demonstration of the interface, not as a measurement.
- Mobility shows only where a recording lasts a good part of the channel's coherence time, several
  milliseconds: compare its score with a third, which is chance.
- LTE uplink, 5G uplink, WiFi 6 and 40 MHz channels, and every protocol other than the three were never seen; the
  verdict on such a signal is one of the three all the same.
- There is no class for noise: on recordings that hold nothing else the mean score of the winning protocol is
  {noise_score:.2f}, where 0.33 would be a fair answer.
- SNR is that of the occupied band, averaged over the elements in use; it is read best where guard band is visible.
"""


class Columns:
    """Spectrograms and labels in memory. Batches for training are turned round in time and mirrored in frequency."""

    def __init__(self, columns: dict[str, torch.Tensor], seed: int = 0):
        self.input_values = columns["input_values"]
        self.protocol, self.modulation = columns["protocol"], columns["modulation"]
        snr = torch.bucketize(columns["snr_db"], torch.tensor(SNRS_DB))
        self.joint = torch.where(self.protocol >= 0, snr * len(MOBILITIES) + columns["mobility"], -100)
        # What is not to be told is -1 in data sets, and -100 to PyTorch's losses.
        self.protocol, self.modulation = (
            torch.where(part >= 0, part, -100) for part in (self.protocol, self.modulation)
        )
        self.generator = torch.Generator().manual_seed(seed)

    def rows_of(self, protocol: int) -> torch.Tensor:
        return (self.protocol == protocol).nonzero()[:, 0]

    def batch(self, rows: torch.Tensor, augment: bool = True) -> torch.Tensor:
        """Spectrograms of these rows, float32. Augmented, each starts at another frame and half the batches mirror."""
        values = self.input_values[rows].float()
        if not augment:
            return values
        if bool(torch.rand(1, generator=self.generator) < 0.5):
            # DC is the bin right of the middle, so the mirror image is one bin to the right.
            values = values.flip(-1).roll(1, -1)
        num_frames = values.shape[2]
        shift = torch.randint(num_frames, (len(rows), 1), generator=self.generator)
        frames = (torch.arange(num_frames) + shift) % num_frames
        return values.gather(2, frames[:, None, :, None].expand_as(values))


def train_expert(index: int, data: Columns, args: argparse.Namespace) -> tuple[LwmSpectroForPreTraining, dict]:
    """Stage 1: one expert on eq. 22; the contrastive labels are SNR x mobility."""
    torch.manual_seed(args.seed + index)
    expert = LwmSpectroForPreTraining(expert_config())

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        return expert(data.batch(rows), contrastive_labels=data.joint[rows]).loss

    log = train_for(
        args.expert_minutes,
        expert,
        loss_of,
        balanced_batches([data.rows_of(index)], 64, args.seed),
        args.work / f"expert-{index}.pt",
        learning_rate=1e-3,
        description=f"stage 1, {PROTOCOLS[index]}",
    )
    return expert, log


def train_router(router: nn.Module, data: Columns, args: argparse.Namespace) -> dict:
    """Stage 2: the router alone. Recordings of noise should leave it undecided: their target is uniform."""
    # Row -1 of the targets, which the label -100 is taken to, is the uniform one.
    targets = torch.cat([torch.eye(len(PROTOCOLS)), torch.full((1, len(PROTOCOLS)), 1 / len(PROTOCOLS))])

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(router(data.batch(rows)), targets[data.protocol[rows].clamp(min=-1)])

    # Small batches, since steps are what is scarce; a tenth of each is noise.
    groups = [data.rows_of(index) for index in range(len(PROTOCOLS))] * 3 + [data.rows_of(-100)]
    return train_for(
        args.router_minutes,
        router,
        loss_of,
        balanced_batches(groups, 40, args.seed),
        args.work / "router.pt",
        learning_rate=1e-3,
        description="stage 2, router",
    )


def train_heads(experts: list[LwmSpectroForPreTraining], data: Columns, args: argparse.Namespace) -> tuple:
    """Stage 3: heads and experts on their labels and eq. 22 together, so that the decoders go on fitting the experts.

    Rows go to the expert of their true protocol, so this stage does not depend on the router.

    Returns:
        `tuple`: the classifier, the pretraining model that shares its experts, and the log of the loop.
    """
    torch.manual_seed(args.seed)
    config = {
        "expert_names": list(PROTOCOLS),
        "additional_tasks": {JOINT_TASK: JOINT_LABELS},
        "id2label": dict(enumerate(MODULATIONS)),
        "label2id": {name: index for index, name in enumerate(MODULATIONS)},
        **ROUTER,
    }
    model = LwmSpectroMoEForSequenceClassification.from_experts(experts, **config)
    pretraining = LwmSpectroMoEForPreTraining.from_experts(experts, **config)
    pretraining.lwm_spectro_moe = model.lwm_spectro_moe
    model.lwm_spectro_moe.router.requires_grad_(False)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        values, labels, protocol = data.batch(rows), data.modulation[rows], data.protocol[rows]
        # Without a single labelled row the mean over labelled rows would be 0 / 0.
        labels = labels if bool((labels >= 0).any()) else None
        joint = {JOINT_TASK: data.joint[rows]}
        supervised = model(values, labels=labels, additional_labels=joint, expert_index=protocol)
        masked = pretraining(values, contrastive_labels=data.joint[rows], protocol_labels=protocol)
        return supervised.loss + masked.loss - masked.router_loss

    log = train_for(
        args.head_minutes,
        nn.ModuleDict({"model": model, "pretraining": pretraining}),
        loss_of,
        balanced_batches([data.rows_of(index) for index in range(len(PROTOCOLS))], 48, args.seed),
        args.work / "heads.pt",
        learning_rate=5e-4,
        description="stage 3, heads",
    )
    return model, pretraining, log


@torch.inference_mode()
def evaluate(model: LwmSpectroMoEForSequenceClassification, data: Columns) -> tuple[dict, float]:
    """Accuracy and macro-F1 of single spectrograms, over all and by protocol; and the router's mean score on noise."""
    outputs = [model(data.batch(rows, augment=False)) for rows in torch.arange(len(data.protocol)).split(64)]
    router = torch.cat([output.router_logits for output in outputs]).softmax(-1)
    joint = torch.cat([output.additional_logits[JOINT_TASK] for output in outputs]).argmax(-1)
    known = data.joint >= 0
    answers = {
        "protocol": (data.protocol, router.argmax(-1)),
        "modulation": (data.modulation, torch.cat([output.logits for output in outputs]).argmax(-1)),
        JOINT_TASK: (data.joint, joint),
        "snr_db": (torch.where(known, data.joint // len(MOBILITIES), -100), joint // len(MOBILITIES)),
        "mobility": (torch.where(known, data.joint % len(MOBILITIES), -100), joint % len(MOBILITIES)),
    }
    table: dict[str, dict] = {}
    for name, (truth, answer) in answers.items():
        for group in ("all", *PROTOCOLS):
            keep = truth >= 0
            if group != "all":
                keep &= data.protocol == PROTOCOLS.index(group)
            scores = truth[keep].numpy(), answer[keep].numpy()
            # Over the classes that there are: within one protocol the protocol is one class, and 5G has no BPSK.
            present = sorted(set(scores[0].tolist()))
            f1 = f1_score(*scores, labels=present, average="macro", zero_division=0.0)
            table.setdefault(name, {})[group] = {
                "accuracy": round(100 * accuracy_score(*scores), 2),
                "macro_f1": round(100 * f1, 2),
                "num": int(keep.sum()),
            }
    return table, float(router[data.protocol < 0].max(-1).values.mean())


def main() -> None:
    args = parse_args()
    recipe = preset("mixed")
    splits = splits_by_city(recipe, args.num, args.num_test, add_test=True)
    build_parquet(args.work / "data", splits, args.seed, processes=args.processes)
    train = Columns(load_spectrograms(args.work / "data", "train"))
    if args.only == "data":
        return
    torch.manual_seed(args.seed)
    router = LwmSpectroMoERouter(LwmSpectroMoEConfig(expert_config=expert_config(), **ROUTER))
    if args.only == "router":
        train_router(router, train, args)
        return
    if args.only in [f"expert-{index}" for index in range(len(PROTOCOLS))]:
        train_expert(int(args.only.rpartition("-")[2]), train, args)
        return

    experts, log = [], {}
    for index, protocol in enumerate(PROTOCOLS):
        expert, log[f"expert {protocol}"] = train_expert(index, train, args)
        experts.append(expert)
    model, pretraining, log["heads"] = train_heads(experts, train, args)
    if args.only == "heads":
        return
    log["router"] = train_router(router, train, args)
    model.lwm_spectro_moe.router.load_state_dict(router.state_dict())
    test = Columns(load_spectrograms(args.work / "data", "test"))
    scores, noise_score = evaluate(model, test)

    # One file for every Auto class: encoders, router and heads of the classifier, decoders of the pretraining model.
    model.save_pretrained(args.out, state_dict={**pretraining.state_dict(), **model.state_dict()})
    default_extractor().save_pretrained(args.out)
    run = {
        "summary": SUMMARY.format(millions=model.num_parameters() / 1e6),
        "data": DATA.format(num=len(train.protocol), seed=args.seed),
        "machine": f"{torch.get_num_threads()} threads of a CPU, float32",
        "log": log,
        "scores": scores,
        "limits": LIMITS.format(noise_score=noise_score),
    }
    (args.out / "training.json").write_text(json.dumps(run, indent=2) + "\n")
    (args.out / "README.md").write_text(render(args.out.name, run))
    print_table(log, scores)


def print_table(log: dict, scores: dict) -> None:
    for name, entry in log.items():
        print(f"{name:14} {entry['seconds'] / 60:6.1f} min {entry['samples']:8d} samples  loss {entry['loss']:.3f}")
    print(f"\n{'macro-F1 %':16}" + "".join(f"{group:>8}" for group in ("all", *PROTOCOLS)))
    for name, groups in scores.items():
        print(f"{name:16}" + "".join(f"{groups[group]['macro_f1']:8.1f}" for group in groups))


if __name__ == "__main__":
    main()

"""How much of the modulation a spectrogram's window and framing preserve, by a small CNN on generated spectrograms.

    python benchmarks/framing.py --num 2000 --epochs 2 --windows boxcar           # a minute, to see that it runs
    python benchmarks/framing.py --protocol LTE --epochs 6                         # the table for LTE
    python benchmarks/framing.py --protocol WiFi --windows boxcar+general_hamming:0.72
    python benchmarks/framing.py --protocol 5G --blocks 3 --augment --epochs 16 --windows boxcar+general_hamming:0.72
    python benchmarks/framing.py --framing blind                                   # frames that straddle symbols
    python benchmarks/framing.py --network stem --epochs 1 --batch-size 32 --learning-rate 2e-3 --float32
    python benchmarks/framing.py --network stem --config examples/configs/deep-stem.json --epochs 1 --float32

One data set per protocol: full load, ray-traced cities, 10 to 25 dB; the held-out city is for testing. Every set of
windows gets the same recordings, the same network (4 x 4 patch stem, residual blocks) and the same budget. Prints the
accuracy in % by modulation and by SNR, and the mean over modulations. For the best that power alone allows, see
examples/likelihood_bound.py. Networks "stem" and "linear" are the small encoder of the training scripts, with its
convolutional stem and with linear patches.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from lwm_spectro_hf import LwmSpectroConfig, LwmSpectroForSequenceClassification, SpectrogramFeatureExtractor
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.recipe import MODULATIONS, PROTOCOLS, Recipe, preset
from lwm_spectro_hf.data.synthesis import draw_recordings
from lwm_spectro_hf.files import whole_file
from lwm_spectro_hf.modeling_lwm_spectro import LwmSpectroStemBlock
from lwm_spectro_hf.training.augmentation import augment
from lwm_spectro_hf.training.run import TINY

WINDOWS = ("boxcar", "general_hamming:0.72", "general_hamming:0.85", "boxcar+general_hamming:0.72", "hann")


class SmallCNN(nn.Module):
    """4 x 4 patches, residual blocks, global average pooling."""

    def __init__(self, num_channels: int, num_classes: int, num_blocks: int, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(num_channels, width, 4, stride=4)
        self.blocks = nn.ModuleList(LwmSpectroStemBlock(width) for _ in range(num_blocks))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.stem(values))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.classifier(hidden.relu().mean((2, 3)))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="LTE", help="(default: %(default)s)")
    parser.add_argument("--num", type=int, default=30_000, help="spectrograms to train on (default: %(default)s)")
    parser.add_argument("--num-test", type=int, default=3_000, help="spectrograms to score on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="training epochs (default: %(default)s)")
    parser.add_argument(
        "--windows",
        nargs="+",
        default=list(WINDOWS),
        help="windows to compare; join several by + to use them together",
    )
    parser.add_argument("--framing", choices=["synchronous", "blind"], default="synchronous")
    parser.add_argument(
        "--num-rb", type=int, default=6, help="bandwidth of LTE [resource blocks] (default: %(default)s)"
    )
    parser.add_argument("--network", choices=["cnn", "stem", "linear"], default="cnn", help="(default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks of the CNN (default: %(default)s)")
    parser.add_argument(
        "--augment", action="store_true", help="randomly shift in time and mirror, differently in each epoch"
    )
    parser.add_argument("--config", type=Path, help="JSON file with fields of LwmSpectroConfig, for --network stem")
    parser.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="(default: %(default)s)")
    parser.add_argument(
        "--symbol-step", type=int, help="OFDM symbols from one frame to the next (default: the recipe's)"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that generate recordings (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="file to save the recordings to, or to load them from if it exists")
    parser.add_argument("--json", type=Path, help="append the rows to this file, one per line")
    parser.add_argument("--float32", action="store_true", help="train in float32, not bfloat16")
    return parser.parse_args()


def recipe_for(args: argparse.Namespace, held_out: bool) -> Recipe:
    recipe = preset("paper").narrowed((args.protocol,), snrs_db=(10, 15, 20, 25), receivers={args.framing: 1.0})
    widths = {**recipe.resource_blocks, "LTE": (args.num_rb,)}
    options: dict = {"channels": HELD_OUT_SCENARIOS} if held_out else {}
    if args.framing == "blind":  # same rate and length as the synchronous ones, so that only the framing differs
        options |= {"native_rate": 1.0, "contiguous_view": 1.0}
    if args.symbol_step:
        options["symbol_steps"] = {name: (args.symbol_step,) for name in recipe.symbol_steps}
    return recipe.narrowed(full_load=1.0, resource_blocks=widths, **options)


def draw(job: tuple[Recipe, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Recordings of one chunk as float16 pairs (I, Q), with their modulation and SNR."""
    recipe, chunk, seed = job
    torch.set_num_threads(1)
    batch = draw_recordings(recipe, chunk, seed)
    iq = batch.iq / batch.iq.abs().square().mean(1, keepdim=True).sqrt()
    return torch.view_as_real(iq).half(), batch.modulation, batch.snr_db


def make(recipe: Recipe, num: int, seed: int, processes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    jobs = [(recipe, chunk, seed) for chunk in range(-(-num // recipe.chunk_size))]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = list(tqdm(pool.map(draw, jobs, chunksize=4), total=len(jobs), desc="chunks"))
    iq, modulation, snr_db = (torch.cat(column)[:num] for column in zip(*parts, strict=True))
    return iq, modulation, snr_db


def spectrograms(iq: torch.Tensor, windows: str) -> torch.Tensor:
    extractor = SpectrogramFeatureExtractor(window_function=windows.split("+"))
    parts = [extractor.spectrogram(torch.view_as_complex(part.float())).half() for part in iq.split(256)]
    return torch.cat(parts)


def network(args: argparse.Namespace, num_channels: int, num_classes: int) -> nn.Module:
    """Build the network, which maps spectrograms to logits."""
    if args.network == "cnn":
        return SmallCNN(num_channels, num_classes, args.blocks)
    fields = TINY if args.network == "stem" else {**TINY, "stem_num_channels": None}
    if args.config:
        fields = fields | json.loads(args.config.read_text(encoding="utf-8"))
    config = LwmSpectroConfig(num_channels=num_channels, num_labels=num_classes, **fields)
    return Logits(LwmSpectroForSequenceClassification(config))


class Logits(nn.Module):
    """Wraps a classifier of Transformers so that it returns its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.model(values).logits


def measure(windows: str, train: tuple, test: tuple, args: argparse.Namespace) -> dict:
    classes = sorted(set(train[1].tolist()))
    classes = [label for label in classes if label >= 0]
    labels, test_labels = (torch.searchsorted(torch.tensor(classes), part[1].clamp(min=0)) for part in (train, test))
    rows = (train[1] >= 0).nonzero()[:, 0]
    values, test_values = spectrograms(train[0], windows), spectrograms(test[0], windows)
    torch.manual_seed(args.seed)
    model = network(args, values.shape[1], len(classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=0.01)
    steps = args.epochs * (len(rows) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, max(steps, 2))
    generator = torch.Generator().manual_seed(args.seed)
    start = time.monotonic()
    reduced = torch.autocast("cpu", torch.bfloat16, enabled=not args.float32)
    with tqdm(total=steps, desc=windows) as progress:
        for _ in range(args.epochs):
            order = rows[torch.randperm(len(rows), generator=generator)]
            for batch in order[: len(order) // args.batch_size * args.batch_size].split(args.batch_size):
                seen = values[batch].float()
                if args.augment:
                    seen = augment(seen, torch.rand(len(seen), 2, generator=generator))
                with reduced:
                    logits = model(seen.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    model.eval()
    with torch.inference_mode(), reduced:
        answers = torch.cat([model(part.float()).argmax(1) for part in test_values.split(256)])
    known = test[1] >= 0
    right = (answers == test_labels) & known
    by_class = {MODULATIONS[label]: 100 * float(right[test[1] == label].float().mean()) for label in classes}
    by_snr = {
        f"{snr_db:g}": 100 * float(right[known & (test[2] == snr_db)].float().mean())
        for snr_db in sorted(set(test[2].tolist()))
    }
    return {
        "protocol": args.protocol,
        "framing": args.framing,
        "windows": windows,
        "network": args.network,
        "blocks": args.blocks,
        "augmented": args.augment,
        "num": len(rows),
        "epochs": args.epochs,
        "by_modulation": by_class,
        "by_snr_db": by_snr,
        "mean": sum(by_class.values()) / len(by_class),
        "minutes": (time.monotonic() - start) / 60,
    }


def main() -> None:
    args = parse_args()
    recipes = recipe_for(args, held_out=False), recipe_for(args, held_out=True)
    made = json.dumps([[recipe.to_json() for recipe in recipes], args.num, args.num_test, args.seed])
    if args.cache and args.cache.exists():
        known = torch.load(args.cache, weights_only=True)
        if len(known) != 3 or known[0] != made:
            raise SystemExit(f"{args.cache} was made with other options: give another file, or remove it.")
        _, train, test = known
    else:
        train = make(recipes[0], args.num, args.seed, args.processes)
        test = make(recipes[1], args.num_test, args.seed + 1, args.processes)
        if args.cache:
            with whole_file(args.cache) as stream:
                torch.save((made, train, test), stream)
    header = None
    for windows in args.windows:
        row = measure(windows, train, test, args)
        if header is None:
            header = [*row["by_modulation"], *(f"{snr} dB" for snr in row["by_snr_db"])]
            print(
                f"\n{args.protocol}, {args.framing}, {args.network}, {row['num']:,} spectrograms, {args.epochs} epochs"
            )
            print("| windows | " + " | ".join(header) + " | mean |\n" + "| --- " * (len(header) + 2) + "|")
        cells = [*row["by_modulation"].values(), *row["by_snr_db"].values(), row["mean"]]
        print(f"| {windows} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)
        if args.json:
            with args.json.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

"""When can a verdict on one blind spectrogram be trusted? The router in the held-out city, by duration and SNR.

    python benchmarks/routing.py --num 512                     # a minute
    python benchmarks/routing.py --recipe paper --num 3072     # saturated cells alone

Recordings are those of the preset by blind (monitoring) receivers: a random start, at the carrier's own sampling rate
and center or at others. The router gets the resolution of each spectrogram. A cell has the accuracy in %, and in
brackets the number of recordings.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModel

from lwm_spectro_hf import default_checkpoint
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.recipe import PRESETS, SNRS_DB, preset
from lwm_spectro_hf.data.streaming import GeneratedSpectrograms

DURATIONS_MS = (0.0, 0.3, 1.0, 3.0, torch.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=default_checkpoint(),
        help="checkpoint (default: the one included in this package)",
    )
    parser.add_argument(
        "--recipe", choices=PRESETS, default="mixed", help="recipe of the recordings (default: %(default)s)"
    )
    parser.add_argument("--num", type=int, default=3072, help="number of recordings (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()

    router = AutoModel.from_pretrained(args.checkpoint).router.eval()
    # Small chunks give more variety: the recordings of a chunk share the carrier and the receiver.
    recipe = replace(
        preset(args.recipe), channels=HELD_OUT_SCENARIOS, receivers={"blind": 1.0}, noise_share=0.0, chunk_size=4
    )
    stream = GeneratedSpectrograms(recipe, args.seed, chunks_per_batch=8)
    parts: dict[str, list[torch.Tensor]] = {"right": [], "snr_db": [], "duration_ms": []}
    rows = recipe.chunk_size * stream.chunks_per_batch
    with torch.inference_mode(), tqdm(total=args.num, unit="rec") as progress:
        for number in range(-(-args.num // rows)):
            batch = stream.batch(number)
            heard = batch["protocol"] >= 0
            told = router(batch["input_values"], batch["resolution"]).argmax(-1)
            parts["right"].append((told == batch["protocol"])[heard])
            parts["snr_db"].append(batch["snr_db"][heard])
            parts["duration_ms"].append(1e3 * recipe.num_frames * batch["resolution"][heard, 0])
            progress.update(rows)
    right, snr_db, duration_ms = (torch.cat(part) for part in parts.values())

    def cell(chosen: torch.Tensor) -> str:
        return f"{100 * right[chosen].float().mean():.1f} ({int(chosen.sum())})" if chosen.any() else ""

    every = torch.ones_like(right)
    columns = {"all": every, **{f"{value:g} dB": snr_db == value for value in SNRS_DB}}
    lines = {"all": every}
    for low, high in zip(DURATIONS_MS[:-1], DURATIONS_MS[1:], strict=True):
        title = f"{low:g} ms and more" if high == torch.inf else f"{low:g} to {high:g} ms"
        lines[title] = (duration_ms >= low) & (duration_ms < high)
    print(f"Protocol, % right, of {len(right):,} blind recordings of the preset {args.recipe}")
    print("| duration | " + " | ".join(columns) + " |")
    print("| --- " * (1 + len(columns)) + "|")
    for title, rows_of_line in lines.items():
        cells = [cell(rows_of_line & rows_of_column) for rows_of_column in columns.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

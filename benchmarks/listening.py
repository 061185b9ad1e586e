"""What a known sampling rate is worth: recordings of the held-out city, classified blindly and by their symbols.

    python benchmarks/listening.py --num 60                              # minutes
    python benchmarks/listening.py --num 240 --duration-ms 5

Recordings are those of the preset `blind`: half at the carrier's own rate and centre, half at rates that radios offer
with the carrier near the middle or anywhere, a random start and all impairments, through channels of Florence, sparse
and full cells. Each goes through the pipeline twice, with `synchronize=False` and as by default. The table has the
share of right answers in %; a recording in which no user's data are heard has no modulation.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import pipeline

from lwm_spectro_hf import default_checkpoint
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, SNRS_DB, Recipe, preset
from lwm_spectro_hf.data.synthesis import draw_recordings

LABELS = ("protocol", "modulation", "snr_db", "mobility")
LISTENERS = {"blindly": False, "by its symbols": None}


def blind_recordings(duration_ms: float) -> Recipe:
    """Recordings of that length in the held-out city, none of them of noise alone."""
    span = duration_ms * 1e-3
    # Few of a kind: recordings of a chunk share the carrier and the receiver.
    return replace(
        preset("blind"),
        channels=HELD_OUT_SCENARIOS,
        noise_share=0.0,
        contiguous_view=0.0,
        spans_s=(span, span),
        max_samples=round(span * 62e6),
        chunk_size=2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=240, help="recordings (default: %(default)s)")
    parser.add_argument("--duration-ms", type=float, default=20.0, help="of each (default: %(default)s)")
    parser.add_argument("--model", default=str(default_checkpoint()), help="(default: the shipped weights)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()

    classify = pipeline("iq-classification", model=args.model)
    recipe = blind_recordings(args.duration_ms)
    right: dict[str, list[dict[str, bool]]] = {listener: [] for listener in LISTENERS}
    snrs_db = []
    with tqdm(total=args.num, unit="rec") as progress:
        for chunk in range(-(-args.num // recipe.chunk_size)):
            batch = draw_recordings(recipe, chunk, args.seed)
            for row in torch.nonzero(batch.protocol >= 0)[:, 0].tolist():
                truth = {
                    "protocol": PROTOCOLS[batch.protocol[row]],
                    "snr_db": float(batch.snr_db[row]),
                    "mobility": MOBILITIES[batch.mobility[row]],
                }
                if batch.modulation[row] >= 0:
                    truth["modulation"] = MODULATIONS[batch.modulation[row]]
                snrs_db.append(truth["snr_db"])
                for listener, synchronize in LISTENERS.items():
                    answer = classify(
                        batch.iq[row].numpy(), sampling_rate=batch.sampling_rate, synchronize=synchronize
                    )
                    right[listener].append({name: answer[name] == value for name, value in truth.items()})
            progress.update(recipe.chunk_size)

    snrs_db = np.array(snrs_db)
    print(f"{len(snrs_db)} recordings of {args.duration_ms:g} ms, % right")
    print(
        "| listened to | " + " | ".join(LABELS) + " | protocol at " + " | ".join(f"{v:g} dB" for v in SNRS_DB) + " |"
    )
    print("| --- " * (1 + len(LABELS) + len(SNRS_DB)) + "|")
    for listener, hits in right.items():
        cells = [[hit[name] for hit in hits if name in hit] for name in LABELS]
        protocol = np.array(cells[0])
        cells += [protocol[snrs_db == value] for value in SNRS_DB]
        print(
            f"| {listener} | " + " | ".join(f"{100 * np.mean(cell):.1f}" if len(cell) else "" for cell in cells) + " |"
        )


if __name__ == "__main__":
    main()

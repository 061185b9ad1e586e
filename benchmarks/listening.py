"""How much a known sampling rate helps: recordings of the held-out city, classified blindly and by their symbols.

    python benchmarks/listening.py --num 60                              # minutes
    python benchmarks/listening.py --num 240 --duration-ms 5
    python benchmarks/listening.py --num 240 --band-mhz 2.4             # parts of wide carriers, as in cheap receivers
    python benchmarks/listening.py --num 240 --tone-db 0                # with a spur as strong as the signal

Recordings are those of the preset `blind`: half at the carrier's own sampling rate and center, half at common rates of
radios with the carrier near the middle or anywhere, a random start and all impairments, through channels of Florence,
sparse and full cells. With `--band-mhz`, carriers are at least twice as wide as the recorded band, which lies anywhere
within them. Each recording goes through the pipeline twice, with `synchronize=False` and with the default. The first
table has the accuracy in %, and in the last column the share of recordings in which symbols of the predicted protocol
were found; a recording without user data has no modulation. The second table has the accuracy of answers whose score
is in a given range: for well-calibrated scores, it lies in that range.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from scipy.signal import resample_poly
from tqdm.auto import tqdm
from transformers import pipeline

from lwm_spectro_hf import default_checkpoint
from lwm_spectro_hf.channel.scenarios import HELD_OUT_SCENARIOS
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, SNRS_DB, Recipe, preset
from lwm_spectro_hf.data.synthesis import draw_recordings
from lwm_spectro_hf.phy import wifi

LABELS = ("protocol", "modulation", "snr_db", "mobility")
SCORES = (0.0, 0.4, 0.6, 0.8, 0.95, 1.0)  # edges of ranges
LISTENERS = {"blindly": False, "by its symbols": None}


def blind_recordings(duration_ms: float) -> Recipe:
    """Recipe for recordings of that duration in the held-out city, none of them noise alone."""
    span = duration_ms * 1e-3
    # Small chunks give more variety: the recordings of a chunk share the carrier and the receiver.
    return replace(
        preset("blind"),
        channels=HELD_OUT_SCENARIOS,
        noise_share=0.0,
        contiguous_view=0.0,
        spans_s=(span, span),
        max_samples=round(span * 62e6),
        chunk_size=2,
    )


def wide_carriers(duration_ms: float, band_hz: float) -> Recipe:
    """Recipe for whole carriers at least twice as wide as a band, of the protocols that have such carriers."""
    recipe = blind_recordings(duration_ms)
    least_khz = 2e-3 * band_hz
    widths = {
        "LTE": tuple(num_rb for num_rb in recipe.resource_blocks["LTE"] if 12 * 15 * num_rb >= least_khz),
        "5G": tuple(width for width in recipe.resource_blocks["5G"] if 12 * width[0] * width[1] >= least_khz),
    }
    is_wide = {"WiFi": wifi.OCCUPIED_HZ >= 2 * band_hz, **widths}
    protocols = tuple(name for name in PROTOCOLS if is_wide[name])
    if not protocols:
        raise SystemExit(f"No carrier is twice as wide as {band_hz * 1e-6:g} MHz; expected a narrower --band-mhz.")
    return replace(
        recipe,
        protocols=protocols,
        resource_blocks=widths,
        receivers={"native": 1.0},
        duration_s=duration_ms * 1e-3,
    )


def part_of(iq: np.ndarray, sampling_rate: float, band_hz: float, offset_hz: float) -> np.ndarray:
    """Cut a band out of a recording: filter it and resample it to the width of the band, as a receiver does."""
    ratio = Fraction(band_hz / sampling_rate).limit_denominator(1000)
    shifted = iq * np.exp(-2j * np.pi * offset_hz / sampling_rate * np.arange(len(iq)))
    return resample_poly(shifted, ratio.numerator, ratio.denominator).astype(np.complex64)


def with_tone(iq: np.ndarray, level_db: float, generator: np.random.Generator) -> np.ndarray:
    """Add a tone anywhere in the band, at a level relative to the power of the whole recording."""
    amplitude = 10 ** (level_db / 20) * np.sqrt(np.mean(np.abs(iq) ** 2))
    tone = np.exp(2j * np.pi * generator.uniform(-0.45, 0.45) * np.arange(len(iq)))
    return (iq + amplitude * tone).astype(np.complex64)


def recordings(args: argparse.Namespace) -> Iterator[tuple[np.ndarray, float, dict]]:
    """Samples of each recording, their sampling rate and the true labels."""
    band_hz = args.band_mhz and args.band_mhz * 1e6
    recipe = wide_carriers(args.duration_ms, band_hz) if band_hz else blind_recordings(args.duration_ms)
    generator = np.random.default_rng(args.seed)
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
                iq, rate = batch.iq[row].numpy(), batch.sampling_rate
                if band_hz:
                    spare = (batch.bandwidth_hz - band_hz) / 2
                    iq, rate = part_of(iq, rate, band_hz, generator.uniform(-spare, spare)), band_hz
                if args.tone_db is not None:
                    iq = with_tone(iq, args.tone_db, generator)
                yield iq, rate, truth
            progress.update(recipe.chunk_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=240, help="number of recordings (default: %(default)s)")
    parser.add_argument(
        "--duration-ms", type=float, default=20.0, help="duration of each recording [ms] (default: %(default)s)"
    )
    parser.add_argument("--band-mhz", type=float, help="record only this much of wider carriers [MHz]")
    parser.add_argument(
        "--tone-db", type=float, help="add a tone, like a receiver spur, at this level relative to the recording [dB]"
    )
    parser.add_argument(
        "--model", default=str(default_checkpoint()), help="checkpoint (default: the one included in this package)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()

    classify = pipeline("iq-classification", model=args.model)
    right: dict[str, list[dict[str, bool]]] = {listener: [] for listener in LISTENERS}
    scores: dict[str, list[dict[str, float]]] = {listener: [] for listener in LISTENERS}
    snrs_db, protocols = [], []
    for iq, rate, truth in recordings(args):
        snrs_db.append(truth["snr_db"])
        protocols.append(truth["protocol"])
        for listener, synchronize in LISTENERS.items():
            answer = classify(iq, sampling_rate=rate, synchronize=synchronize)
            hits = {name: answer[name] == value for name, value in truth.items()}
            scores[listener].append({name: answer[f"{name}_score"] for name in truth})
            found = {"symbols_found": bool(answer["symbols_found"]), "also_found": bool(answer["also_found"])}
            right[listener].append({**hits, **found})

    snrs_db, protocols = np.array(snrs_db), np.array(protocols)
    print(f"{len(snrs_db)} recordings of {args.duration_ms:g} ms, % right")
    groups = {name: protocols == name for name in PROTOCOLS} | {f"{v:g} dB": snrs_db == v for v in SNRS_DB}
    print(
        "| listened to | "
        + " | ".join(LABELS)
        + " | protocol of "
        + " | ".join(groups)
        + " | symbols found | others found |"
    )
    print("| --- " * (3 + len(LABELS) + len(groups)) + "|")
    for listener, hits in right.items():
        cells = [[hit[name] for hit in hits if name in hit] for name in LABELS]
        protocol = np.array(cells[0])
        cells += [protocol[group] for group in groups.values()] + [
            [hit[name] for hit in hits] for name in ("symbols_found", "also_found")
        ]
        print(
            f"| {listener} | " + " | ".join(f"{100 * np.mean(cell):.1f}" if len(cell) else "" for cell in cells) + " |"
        )
    print("\n| listened to | told | " + " | ".join(f"{a:g} to {b:g}" for a, b in pairwise(SCORES)) + " |")
    print("| --- " * (1 + len(SCORES)) + "|")
    for listener, hits in right.items():
        for name in LABELS:
            hit = np.array([row[name] for row in hits if name in row])
            score = np.array([row[name] for row in scores[listener] if name in row])
            group = np.clip(np.digitize(score, SCORES) - 1, 0, len(SCORES) - 2)
            cells = [hit[group == index] for index in range(len(SCORES) - 1)]
            told = [f"{100 * cell.mean():.0f} ({len(cell)})" if len(cell) else "" for cell in cells]
            print(f"| {listener} | {name} | " + " | ".join(told) + " |")


if __name__ == "__main__":
    main()

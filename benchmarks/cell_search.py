"""LTE or 5G, decided without a model from cyclic prefixes and LTE's synchronization signal, by duration and SNR.

    python benchmarks/cell_search.py --num 100                             # minutes
    python benchmarks/cell_search.py --num 400 --duration-ms 2 5 20

Recordings are those of the preset `blind`, through channels of Florence: sparse and full cells of all widths, at any
rate, the carrier anywhere. For each standard, the table has the share of its recordings in % in which `listen` finds
it more likely than the other, and in brackets the share in which the other is more likely; in the rest, no symbols
are found.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from listening import blind_recordings
from tqdm.auto import tqdm

from lwm_spectro_hf.data.recipe import PROTOCOLS, SNRS_DB
from lwm_spectro_hf.data.synthesis import draw_recordings
from lwm_spectro_hf.phy.listening import listen

CELLS = ("LTE", "5G")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100, help="recordings per duration (default: %(default)s)")
    parser.add_argument(
        "--duration-ms",
        type=float,
        nargs="+",
        default=[5.0, 20.0],
        help="durations of the recordings [ms] (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()

    print("| ms | standard | all | " + " | ".join(f"{snr_db:g} dB" for snr_db in SNRS_DB) + " |")
    print("| --- " * (3 + len(SNRS_DB)) + "|")
    for duration_ms in args.duration_ms:
        heard = hear(duration_ms, args.num, args.seed)
        for protocol in CELLS:
            more, snrs_db = np.array([row[1:] for row in heard if row[0] == protocol]).reshape(-1, 2).T
            groups = [more, *(more[snrs_db == snr_db] for snr_db in SNRS_DB)]
            print(f"| {duration_ms:g} | {protocol} | " + " | ".join(map(cell, groups)) + " |", flush=True)


def hear(duration_ms: float, num: int, seed: int) -> list[tuple[str, float, float]]:
    """For each recording its standard, the log-likelihood ratio in favor of it, and the SNR [dB]."""
    recipe = replace(blind_recordings(duration_ms), protocols=CELLS)
    heard = []
    for chunk in tqdm(range(-(-num // recipe.chunk_size)), desc=f"{duration_ms:g} ms", leave=False):
        batch = draw_recordings(recipe, chunk, seed)
        for row in torch.nonzero(batch.protocol >= 0)[:, 0].tolist():
            lte, nr = listen(batch.iq[row].numpy(), batch.sampling_rate, CELLS).evidence
            protocol = PROTOCOLS[batch.protocol[row]]
            heard.append((protocol, lte - nr if protocol == "LTE" else nr - lte, float(batch.snr_db[row])))
    return heard


def cell(more: np.ndarray) -> str:
    """Shares [%] of recordings whose standard is found more likely and (in brackets) less likely than the other."""
    return f"{100 * np.mean(more > 0):.0f} ({100 * np.mean(more < 0):.0f})" if len(more) else ""


if __name__ == "__main__":
    main()

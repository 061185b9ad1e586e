"""Make the generated recordings that ship in examples/recordings/.

    python examples/make_demo_recordings.py --out examples/recordings

One LTE and one 5G recording, each the first draw from the seed that fits the stated carrier and carries user data.
Nothing here looks at what a model says about them. The WiFi recording beside them is a real one.
"""

import argparse
from pathlib import Path

import torch

from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, Recipe
from lwm_spectro_hf.data.recordings import write_sigmf
from lwm_spectro_hf.data.synthesis import LabelledRecordings, draw_recordings

# name: protocol, sampling rate [Hz], duration [s]
RECORDINGS = {"lte_1.4mhz_10ms": ("LTE", 1.92e6, 10e-3), "nr_10mhz_1ms": ("5G", 15.36e6, 1e-3)}


def first_draw(protocol: str, sampling_rate: float, duration_s: float, seed: int) -> tuple[LabelledRecordings, int]:
    """The first recording of that rate, at 15 dB of SNR or more, that carries user data; and its row."""
    generator = torch.Generator().manual_seed(seed)
    recipe = Recipe(snrs_db=(15, 20, 25), native_rate=1.0, contiguous_view=0.0, spans_s=(duration_s, duration_s))
    while True:
        batch = draw_recordings(protocol, 4, generator, recipe)
        rows = (batch.modulation >= 0).nonzero()[:, 0].tolist()
        if batch.sampling_rate == sampling_rate and rows:
            return batch, rows[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples/recordings"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2026, help="of the generator (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, (protocol, sampling_rate, duration_s) in RECORDINGS.items():
        batch, row = first_draw(protocol, sampling_rate, duration_s, args.seed)
        label = {
            "core:label": protocol,
            "lwm:protocol": protocol,
            "lwm:modulation": MODULATIONS[batch.modulation[row]],
            "lwm:snr_db": int(batch.snr_db[row]),
            "lwm:mobility": MOBILITIES[batch.mobility[row]],
        }
        path = write_sigmf(
            args.out / name,
            batch.iq[row].numpy(),
            sampling_rate,
            [label],
            description=f"generated {protocol} downlink, seed {args.seed}",
            global_info={
                "core:author": "lwm-spectro-hf",
                "core:license": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        )
        print(path, label)


if __name__ == "__main__":
    main()

"""Make the generated recordings that ship in examples/recordings/.

    python examples/make_demo_recordings.py --out examples/recordings

Makes one LTE and one 5G recording: for each, the first one drawn from the seed that has the stated carrier and user
data. They are not selected by what a model predicts for them. The WiFi recording in the same folder is a real one.
"""

import argparse
from itertools import count
from pathlib import Path

from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, preset
from lwm_spectro_hf.data.recordings import write_sigmf
from lwm_spectro_hf.data.synthesis import LabelledRecordings, draw_recordings

# name: protocol, width of the carrier, duration [s]
RECORDINGS = {"lte_1.4mhz_10ms": ("LTE", 6, 10e-3), "nr_10mhz_10ms": ("5G", (15, 52), 10e-3)}


def draw(protocol: str, num_rb: int | tuple[int, int], duration_s: float, seed: int) -> LabelledRecordings:
    """The first recording of that carrier with user data, made by a receiver that is tuned to the carrier."""
    recipe = preset("blind").narrowed(
        (protocol,),
        snrs_db=(15.0, 20.0, 25.0),
        noise_share=0.0,
        native_rate=1.0,
        contiguous_view=0.0,
        spans_s=(duration_s, duration_s),
        resource_blocks={protocol: (num_rb,)},
        chunk_size=1,
    )
    return next(
        batch for batch in (draw_recordings(recipe, chunk, seed) for chunk in count()) if batch.modulation >= 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("examples/recordings"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2026, help="seed of the generator (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, (protocol, num_rb, duration_s) in RECORDINGS.items():
        batch = draw(protocol, num_rb, duration_s, args.seed)
        label = {
            "core:label": protocol,
            "lwm:protocol": protocol,
            "lwm:modulation": MODULATIONS[batch.modulation[0]],
            "lwm:snr_db": int(batch.snr_db[0]),
            "lwm:mobility": MOBILITIES[batch.mobility[0]],
        }
        path = write_sigmf(
            args.out / name,
            batch.iq[0].numpy(),
            batch.sampling_rate,
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

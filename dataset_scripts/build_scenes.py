#!/usr/bin/env python
r"""Build a data set of scenes: WiFi, LTE and 5G side by side in 30.72 MHz, with a label for every value.

    python dataset_scripts/build_scenes.py --num 256 --num-test 64 --out runs/scenes-small     # a minute
    python dataset_scripts/build_scenes.py --num 8192 --num-test 1024 --processes 2 --out runs/scenes

Needs the extra `data`. `examples/run_spectrum.py` trains on it: masked modeling, forecasting, segmentation. Florence
is held out as the split "test". The same command resumes a build that was stopped.
"""

import argparse
import os
from pathlib import Path

from lwm_spectro_cli import count
from lwm_spectro_hf.data.scenes import build_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--num", type=count, required=True, help="number of scenes from the training cities")
    parser.add_argument(
        "--num-test", type=int, default=256, help="number of scenes from the held-out city (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--shard-size", type=count, default=256, help="rows per file (default: %(default)s)")
    parser.add_argument(
        "--processes", type=count, default=os.cpu_count(), help="worker processes (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        build_scenes(
            args.out, args.num, args.num_test, args.seed, shard_size=args.shard_size, processes=args.processes
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"{args.out}: {error}") from None


if __name__ == "__main__":
    main()

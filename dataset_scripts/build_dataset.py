r"""Build a data set of spectrograms from a recipe, and optionally push it to the Hub.

    python dataset_scripts/build_dataset.py --num 2000 --users 100 --out runs/small     # minutes, to try it
    python dataset_scripts/build_dataset.py --recipe examples/configs/paper.yaml --num 8740000 --num-test 460000 \
        --processes 64 --out big
    python dataset_scripts/build_dataset.py --num 2000 --users 100 --out runs/small --push my-name/my-spectrograms

Needs the extra `data`. The paper's grid is the default: WiFi, LTE and 5G x eight pairs of modulation and code rate x
seven SNRs x three mobilities x cities x 1,000 users per city, ordered so that any first part of it is balanced.
Florence is held out as the split "test". The same command resumes a build that was stopped. `--plan` only prints the
time and disk space that the build needs.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from lwm_spectro_cli import count
from lwm_spectro_hf.data.builder import build_parquet, make_rows, splits_by_city
from lwm_spectro_hf.data.card import write_card
from lwm_spectro_hf.data.figures import draw_figures
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.recipe import STATISTICAL_CHANNELS, Recipe, preset
from lwm_spectro_hf.scripting import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--num", type=count, required=True, help="number of spectrograms from the training cities")
    parser.add_argument(
        "--num-test", type=int, help="number of spectrograms from the held-out city (default: a tenth of --num)"
    )
    parser.add_argument("--recipe", type=Path, help="recipe file, YAML or JSON (default: the preset 'paper')")
    parser.add_argument("--users", type=count, help="number of users per city (default: the recipe's, 1000)")
    parser.add_argument("--iq", action="store_true", help="also store the I/Q samples")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--shard-size", type=count, default=2048, help="rows per file (default: %(default)s)")
    parser.add_argument("--processes", type=count, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--plan", action="store_true", help="only estimate how long it takes and how large the data set will be"
    )
    parser.add_argument(
        "--push", metavar="REPO", help="upload the finished folder to this data set repository on the Hub"
    )
    return parser.parse_args()


def plan(recipe: Recipe, num: int, processes: int, contents: tuple[str, ...]) -> str:
    """Estimate hours and bytes from one chunk of every protocol, generated on this machine."""
    extractor, turns = default_extractor(recipe.num_frames, recipe.fft_size), len(recipe.protocols)
    list(make_rows(recipe, 0, turns * recipe.chunk_size, extractor=extractor, contents=contents))  # fills caches
    start, size, rows = time.process_time(), 0, turns * recipe.chunk_size
    for _, columns in make_rows(recipe, rows, 2 * rows, extractor=extractor, contents=contents):
        size += sum(columns[name].nbytes for name in ("input_values", "iq") if name in columns)
    seconds = (time.process_time() - start) / rows
    return (
        f"{num:,} recordings, {recipe.spectrograms_per_channel} in the grid of one user: about "
        f"{num * size / rows / 1e9:,.1f} GB and {num * seconds / 3600:,.1f} core hours, {1 / seconds:.0f} per "
        f"second and core: {num * seconds / 3600 / processes:,.1f} h on {processes} cores like this one"
    )


def main() -> None:
    args = parse_args()
    recipe = Recipe.load(args.recipe) if args.recipe else preset("paper")
    if args.users:
        recipe = dataclasses.replace(recipe, users=args.users)
    contents = ("spectrogram", "iq") if args.iq else ("spectrogram",)
    cities = any(name not in STATISTICAL_CHANNELS for name in recipe.channels)
    splits = splits_by_city(recipe, args.num, args.num_test, add_test=cities)
    print(plan(recipe, sum(split.num for split in splits.values()), args.processes, contents))
    if args.plan:
        return
    build_parquet(args.out, splits, args.seed, contents=contents, shard_size=args.shard_size, processes=args.processes)
    draw_figures(args.out / "figures", recipe, args.seed)
    print(write_card(args.out))
    if args.push:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(args.push, repo_type="dataset", exist_ok=True)
        # The names of half-written files of a killed build begin with a dot.
        hidden = [".*", "*/.*"]
        api.upload_folder(repo_id=args.push, repo_type="dataset", folder_path=args.out, ignore_patterns=hidden)


if __name__ == "__main__":
    with one_line_errors():
        main()

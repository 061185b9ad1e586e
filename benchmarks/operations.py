"""Count the PyTorch operations that generate a chunk of labeled spectrograms, which a GPU gets one after the other.

    python benchmarks/operations.py                       # a minute, on a CPU
    python benchmarks/operations.py --chunk-size 256

A host launches some hundred thousand operations per second, whatever their size. This limits the spectrograms per
second that a GPU can make; arithmetic and memory access add to the time. Views cost nothing and do not count. Chunks
are made in one piece, as on a GPU; on a CPU they are otherwise split to fit its cache.
"""

import argparse
from dataclasses import replace
from typing import Any
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode

from lwm_spectro_hf.channel import filtering
from lwm_spectro_hf.data import synthesis
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.recipe import PROTOCOLS, Recipe, preset

STARTED_PER_S = 150_000
_UNCUT = 2**40
_VIEWS = set(
    """
    _conj _reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_strided expand lift_fresh new_empty
    permute reshape resolve_conj select slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze view
    view_as_complex view_as_real
    """.split()
)


class Operations(TorchDispatchMode):
    """Counts the operations that the device has to do.

    Attributes:
        count (`int`): Operations, without views.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        self.count += function.overloadpacket.__name__ not in _VIEWS
        return function(*args, **(kwargs or {}))


def operations(recipe: Recipe, chunk: int = 2) -> int:
    """Number of operations that make the spectrograms of one chunk, once all tables are cached.

    Args:
        recipe (`Recipe`): What is drawn.
        chunk (`int`, *optional*, defaults to 2): Number of the chunk.
    """
    extractor = default_extractor(recipe.num_frames, recipe.fft_size)
    with (
        mock.patch.object(synthesis, "_CPU_SAMPLES", _UNCUT),
        mock.patch.object(filtering, "_CPU_SAMPLES", _UNCUT),
    ):
        for _ in range(2):
            with Operations() as found:
                extractor.spectrogram(synthesis.draw_recordings(recipe, chunk).iq)
    return found.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", help="recipe (default: %(default)s)")
    parser.add_argument(
        "--chunk-size", type=int, default=64, help="recordings generated at a time (default: %(default)s)"
    )
    args = parser.parse_args()
    recipe = replace(preset(args.preset), chunk_size=args.chunk_size, noise_share=0.0)
    print(
        f"| protocol | operations per chunk of {args.chunk_size} | spectrograms per s, at most |\n| --- | --- | --- |"
    )
    total = 0
    for protocol in PROTOCOLS:
        found = operations(replace(recipe, protocols=(protocol,)))
        total += found
        print(f"| {protocol} | {found:,} | {STARTED_PER_S / found * args.chunk_size:,.0f} |", flush=True)
    print(f"| all three | {total:,} | {STARTED_PER_S / total * args.chunk_size * len(PROTOCOLS):,.0f} |")


if __name__ == "__main__":
    main()

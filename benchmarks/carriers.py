"""Are adjacent carriers classified better one by one than as one wide band?

Wide bands of the held-out city hold at most one carrier each of WiFi, LTE and 5G, side by side at random places.
`lwm-spectro classify --carriers` finds them with the segmentation network, tunes to each and classifies it by itself.
One verdict on the whole band is about one of them (column "whole band"); its `also_found` names others ("also found").

    python benchmarks/carriers.py --num 80
"""

import argparse
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm
from transformers import pipeline

from lwm_spectro_hf import default_checkpoint, default_segmenter
from lwm_spectro_hf.data.bands import Band, carriers_of, shared_hz
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.data.scenes import SceneRecipe, draw_scenes, held_out_scenes
from lwm_spectro_hf.scripting import one_line_errors

SAME = 0.5  # a found and a true carrier match if they overlap in more than this share of the wider one
COLUMNS = ("found", "segmented", "by itself", "SNR", "whole band", "also found")


@dataclass
class Scene:
    """Samples in memory, as a recording."""

    iq: np.ndarray
    sampling_rate: float
    path: str = "scene"
    center_frequency_hz: float | None = None

    @property
    def num_samples(self) -> int:
        return len(self.iq)

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        return self.iq[start:][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=80, help="number of scenes (default: %(default)s)")
    parser.add_argument(
        "--duration-ms", type=float, default=20.0, help="duration of each scene [ms] (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=77, help="(default: %(default)s)")
    args = parser.parse_args()
    recipe = replace(held_out_scenes(SceneRecipe()), span_s=args.duration_ms * 1e-3)
    classify = pipeline("iq-classification", model=str(default_checkpoint()))
    segment = pipeline("iq-segmentation", model=str(default_segmenter()))
    counts = {name: Counter() for name in PROTOCOLS}
    bands, empty, absent = 0, 0, 0
    with tqdm(total=args.num, unit="scene") as bar:
        for chunk in range(-(-args.num // recipe.chunk_size)):
            scenes = draw_scenes(recipe, chunk, args.seed)
            for number in range(min(len(scenes.iq), args.num - chunk * recipe.chunk_size)):
                recording = Scene(scenes.iq[number].numpy(), scenes.sampling_rate)
                segments = segment(recording)
                found = carriers_of(recording, segments) if segments["carriers"] else []
                labels = [name_of(band, segments["carriers"]) for band in found]
                verdicts = [classify(band) for band in found]
                whole = classify(recording)
                truth = carriers_in(recording, scenes.labels[number], scenes.snr_db[number])
                names = {name for _, name, _ in truth}
                absent += bool(names) and not names.issuperset(whole["also_found"] or ())
                bands += len(found)
                empty += sum(not any(covers(band, true) for true, *_ in truth) for band in found)
                for true, name, snr_db in truth:
                    count = counts[name]
                    count["carriers"] += 1
                    count["whole"] += whole["protocol"] == name
                    count["named"] += name == whole["protocol"] or name in (whole["also_found"] or ())
                    place = next((place for place, band in enumerate(found) if covers(band, true)), None)
                    if place is not None:
                        count["found"] += 1
                        count["segmented"] += labels[place] == name
                        count["itself"] += verdicts[place]["protocol"] == name
                        count["snr"] += abs((verdicts[place]["snr_db"] or 0.0) - min(snr_db, 25.0)) <= 5
                bar.update()
    print(f"{args.num} scenes of {args.duration_ms:g} ms, % of the carriers; SNR within a step of 5 dB")
    print(f"{'':8} {'carriers':>9} " + " ".join(f"{name:>10}" for name in COLUMNS))
    for name, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        shares = [
            100 * count[key] / max(1, count["carriers"])
            for key in ("found", "segmented", "itself", "snr", "whole", "named")
        ]
        print(f"{name:8} {count['carriers']:9} " + " ".join(f"{share:10.1f}" for share in shares))
    print(f"{bands} bands were found; {empty} of them hold no carrier, or only part of one")
    print(f"in {absent} scenes, a protocol that is absent was also found")


def carriers_in(recording: Scene, labels: torch.Tensor, snr_db: torch.Tensor) -> list[tuple[Band, str, float]]:
    """The active carriers of a scene, from the labels of its spectrogram."""
    bin_hz = recording.sampling_rate / labels.shape[1]
    found = []
    for number, name in enumerate(PROTOCOLS):
        bins = (labels == number + 1).any(0).nonzero()[:, 0]
        if len(bins):
            first, last = int(bins[0]), int(bins[-1])
            center_hz = ((first + last) / 2 - labels.shape[1] // 2) * bin_hz
            found.append((Band(recording, center_hz, (last - first + 1) * bin_hz), name, float(snr_db[number])))
    return found


def covers(band: Band, true: Band) -> bool:
    """Whether two bands overlap enough to count as the same carrier."""
    return shared_hz(band, true) > SAME * max(band.bandwidth_hz, true.bandwidth_hz)


def name_of(band: Band, carriers: list[dict]) -> str:
    """The label that the segmentation network gives to a carrier."""
    return min(carriers, key=lambda found: abs(found["center_hz"] - band.center_hz))["label"]


if __name__ == "__main__":
    with one_line_errors():
        main()

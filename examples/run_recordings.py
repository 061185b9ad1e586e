#!/usr/bin/env python
r"""A folder of SigMF recordings as a test set: what the model says of each, and how often it is right.

Recordings that this package generates; then real ones of your own, and another checkpoint:

    lwm-spectro generate --num 30 --format sigmf --out runs/recordings
    python examples/run_recordings.py --folder runs/recordings
    python examples/run_recordings.py --folder captures --labels labels.csv --model runs/tiny --out runs/captures.json

A recording's truth is in its annotations (`lwm:protocol`, `lwm:modulation`) or in a file, by default `labels.csv` in
the folder:

    file,protocol,modulation
    wifi_11a_16qam_36mbps,WiFi,16QAM
    nr_n78_air,5G,
    empty_channel,none,

The modulation is scored where the truth has one and the model a head for it. Recordings of protocol "none" are listed,
not scored. A recording counts once, however long it is; the model never saw any of them in training, if they are not
of the generator.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from lwm_spectro_hf import IQClassificationPipeline, default_checkpoint
from lwm_spectro_hf.data.labelled_recordings import QUANTITIES, LabelledRecording, open_labelled_recordings
from lwm_spectro_hf.files import whole_file
from lwm_spectro_hf.scripting import one_line_errors, usable_device


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="with SigMF recordings, searched with subfolders")
    parser.add_argument("--labels", type=Path, help="CSV or JSON (default: labels.csv or labels.json in the folder)")
    parser.add_argument("--model", default=default_checkpoint(), help="checkpoint (default: the one of this package)")
    parser.add_argument("--device", help="where to compute, such as cuda (default: the CPU)")
    parser.add_argument("--out", type=Path, help="also write verdicts and accuracies to this JSON file")
    return parser.parse_args()


def verdicts(pipe: IQClassificationPipeline, recordings: Iterable[LabelledRecording]) -> Iterator[dict]:
    """What is true and what the model says of each recording, as rows of a table."""
    for labelled in recordings:
        answer = pipe(labelled.recording)
        row = {"file": Path(labelled.recording.path).name, "duration_ms": 1e3 * labelled.recording.duration_s}
        for name in QUANTITIES:
            if name in answer:
                row[f"true_{name}"] = getattr(labelled, name)
                row[name], row[f"{name}_score"] = answer[name], round(answer[f"{name}_score"], 4)
        yield row


def accuracies(rows: list[dict]) -> dict[str, dict]:
    """How many verdicts are right, over all and by what is true; rows without a truth do not count."""
    scores: dict[str, dict] = {}
    for name in QUANTITIES:
        known = [row for row in rows if row.get(f"true_{name}") is not None]
        present = [label for label in QUANTITIES[name] if any(row[f"true_{name}"] == label for row in known)]
        for group in ["all", *present] if known else []:
            of_group = [row for row in known if group in ("all", row[f"true_{name}"])]
            right = sum(row[name] == row[f"true_{name}"] for row in of_group)
            accuracy = round(100 * right / len(of_group), 1)
            scores.setdefault(name, {})[group] = {"num": len(of_group), "accuracy": accuracy}
    return scores


def print_table(rows: list[dict], scores: dict[str, dict]) -> None:
    width = max([len("file"), *(len(row["file"]) for row in rows)])
    names = [name for name in QUANTITIES if any(name in row for row in rows)]
    heads = [f"{name:<12}{'truth':<10}{'score':<8}" for name in names]
    print(f"{'file':<{width}}  " + "".join(heads).rstrip())
    for row in rows:
        cells = []
        for name in names:
            truth, said = row.get(f"true_{name}") or "-", row.get(name) or "no signal"
            mark = "" if truth in ("-", said) else " *"
            score = f"{row.get(f'{name}_score', 0.0):.0%}"
            cells.append(f"{said + mark:<12}{truth:<10}{score:<8}")
        print(f"{row['file']:<{width}}  " + "".join(cells).rstrip())
    print("(*: not what it is)\n")
    for name, groups in scores.items():
        text = ", ".join(f"{group} {score['accuracy']:g} % of {score['num']}" for group, score in groups.items())
        print(f"{name}: {text}")


def main() -> None:
    args = parse_args()
    args.device = usable_device(args.device)
    recordings = open_labelled_recordings(args.folder, args.labels)
    disable_progress_bar()
    pipe = pipeline(
        "iq-classification", model=str(args.model), device=args.device, pipeline_class=IQClassificationPipeline
    )
    rows = list(verdicts(pipe, tqdm(recordings, desc=args.folder.name, unit="rec", leave=False)))
    scores = accuracies(rows)
    print_table(rows, scores)
    if args.out:
        with whole_file(args.out) as stream:
            stream.write(json.dumps({"accuracy": scores, "recordings": rows}, indent=2).encode() + b"\n")


if __name__ == "__main__":
    with one_line_errors():
        main()

#!/usr/bin/env python
"""Assemble the runs of the three stages into a folder laid out like a Hub repository, with a model card.

    python examples/release_weights.py --experts runs/wifi runs/lte runs/nr --router runs/router --heads runs/heads \
        --machine "one H100, bfloat16" --out model_cards/lwm-spectro

Nothing is trained. The folder gets one safetensors file from which every Auto class loads its part (encoders and
decoders of --heads, router of --router), the front-end, and a card rendered from what the runs recorded: data,
compute, curves, scores, limits. --neighbours adds the output of `examples/compare_embeddings.py` on these weights to
the card; that script needs the weights, so release first without the option, then again with it. --note is a text
file with whatever else readers of the card should know about the training data.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import AutoFeatureExtractor

from lwm_spectro_hf import LwmSpectroMoEForPreTraining, LwmSpectroMoEForSequenceClassification
from lwm_spectro_hf.data.parquet import load_spectrograms
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.evaluation.reconstruction import error_table
from lwm_spectro_hf.evaluation.scores import score_mixture
from lwm_spectro_hf.files import read_json, read_json_lines, whole_folder
from lwm_spectro_hf.hub.model_card import departures, render
from lwm_spectro_hf.markdown import markdown_table
from lwm_spectro_hf.scripting import one_line_errors
from lwm_spectro_hf.training.checkpoints import load_trained

SCORED_ROWS = 2048

SUMMARY = """
Weights of LWM-Spectro for Transformers: a mixture of three experts (WiFi, LTE, 5G) with {millions:.1f} million
parameters in total, not counting the decoders and projections for pretraining. Each expert has {layers} layers of
width {width} over patches of {patch} x {patch} values{added}; the paper's has twelve of width 128 over 4 x 4. The
model predicts the protocol of a recording, and has heads for modulation and for SNR x mobility. The architecture
is that of arXiv 2601.08780 except for the fields under "Where it departs from the paper"; the weights are our own.
"""
DATA = """
Generated recordings, from the presets {recipes} of `lwm_spectro_hf.data.recipe`: waveforms that are coded and
framed as in the standards, from saturated and sparse cells, through ray-traced channels of nineteen cities, at
speeds of up to 35 m/s and SNRs from -5 to 25 dB. Receivers know carrier and symbol timing (synchronous), find the
symbols only (listening), or know neither (blind); their sampling rates are 1.92 to 61.44 Msps. The scores are for
Florence, a city that training never saw. No real recordings were used.
"""
LIMITS = """
- Modulation can hardly be read from blind power spectrograms, whose frames straddle symbols: compare its score
  with chance, 20 to 25 %.
- Mobility is visible only in recordings that last a good part of the channel's coherence time, several
  milliseconds: compare its score with chance, 33 %.
- The model never saw LTE or 5G uplinks, 802.11b, 802.11ax, WiFi channels of 40 MHz and more, or any other
  protocol; it still answers with one of the three. If the sampling rate is known, WiFi of any kind is recognized
  by the preambles of its packets, but its modulation is not; and `symbols_found` is false for signals that are
  none of the three.
- Where frames straddle symbols, LTE and 5G with subcarriers of 15 kHz and carriers of similar width look alike:
  most errors on blind spectrograms confuse these two. In recordings of 5 ms and more with known sampling rate,
  LTE's synchronization signal tells them apart.
- SNR is that of the occupied band, averaged over the elements in use. It is predicted best where guard band is
  visible.
"""
NOISE = """
- There is no class for noise: on recordings of noise alone, the mean score of the predicted protocol is
  {score:.2f}, where 0.33 would be fair.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=Path, nargs=3, help=f"pretraining runs of {', '.join(PROTOCOLS)}, if any")
    parser.add_argument(
        "--decoders", type=Path, nargs=3, help="runs that trained new decoders for them with --part decoder, if any"
    )
    parser.add_argument(
        "--levels", type=Path, nargs=3, help="runs that trained their levels with --part levels, if any"
    )
    parser.add_argument("--router", type=Path, required=True, help="run of examples/run_router.py")
    parser.add_argument("--heads", type=Path, required=True, help="run of examples/run_heads.py")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="data sets of dataset_scripts/build_dataset.py; the release is scored on the test split of each, on at "
        f"most {SCORED_ROWS:,} rows (default: use the scores of --heads, measured with the router of that run)",
    )
    parser.add_argument("--neighbours", type=Path, help="output of examples/compare_embeddings.py on these weights")
    parser.add_argument(
        "--recipes", nargs="+", default=["mixed"], help="presets used for training (default: %(default)s)"
    )
    parser.add_argument("--machine", default="an unrecorded machine", help="training hardware, in words")
    parser.add_argument("--note", type=Path, help="Markdown file to add to the paragraph on training data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced if it exists")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs = {
        f"{part} {name}": path
        for part, paths in (("expert", args.experts), ("decoder", args.decoders), ("levels", args.levels))
        for name, path in zip(PROTOCOLS, paths or [], strict=bool(paths))
    }
    runs |= {"router": args.router, "heads": args.heads}
    results = {name: read_results(path) for name, path in runs.items()}
    logs = {name: lines for name, path in runs.items() if (lines := read_json_lines(path / "log.jsonl"))}
    model = load_trained(LwmSpectroMoEForSequenceClassification, args.heads / "model")
    decoders = load_trained(LwmSpectroMoEForPreTraining, args.heads / "model")
    routed = load_trained(LwmSpectroMoEForPreTraining, args.router / "model", part="lwm_spectro_moe.router.")
    model.lwm_spectro_moe.router = routed.lwm_spectro_moe.router
    for name in vars(routed.config):
        if name.startswith("router_"):
            setattr(model.config, name, getattr(routed.config, name))
    # With another router, the heads may get the embedding of another expert, so the scores of --heads do not hold.
    scores = score_mixture(model, rows_of(args.data)) if args.data else results["heads"]["scores_held_out"]
    expert = model.config.expert_config
    beside = ["convolutions inside each patch"] * bool(expert.stem_num_channels)
    beside += ["a histogram of the levels of single pixels"] * bool(expert.level_num_bins)
    added = ", with " + " and ".join(beside) if beside else ""
    noise = results["router"]["router_held_out"]["as trained"]["noise_score"]
    record = {
        "summary": SUMMARY.format(
            millions=model.num_parameters() / 1e6,
            layers=expert.num_hidden_layers,
            width=expert.hidden_size,
            patch=expert.patch_size,
            added=added,
        ),
        "data": DATA.format(recipes=", ".join(f"`{name}`" for name in args.recipes))
        + ("\n" + args.note.read_text(encoding="utf-8") if args.note else ""),
        "machine": args.machine,
        "log": {
            name: {"seconds": result["training_seconds"], "samples": result["samples"], "loss": result["loss"]}
            for name, result in results.items()
            if result["samples"]
        },
        "scores": {name: row for name, row in scores.items() if name != "protocol"},
        "scored": "single spectrograms of a city that training never saw",
        "sections": sections(results, args)
        | {"Where it departs from the paper": departures(model.config)}
        | ({"Curves": "![losses](figures/curves.png)"} if logs else {}),
        "limits": LIMITS + (NOISE.strip("\n").format(score=noise) if noise is not None else ""),
        "runs": results,
    }
    with whole_folder(args.out, overwrite=True) as folder:
        model.save_pretrained(folder, state_dict={**decoders.state_dict(), **model.state_dict()})
        AutoFeatureExtractor.from_pretrained(args.heads / "model").save_pretrained(folder)
        (folder / "figures").mkdir()
        if logs:
            draw_curves(logs).savefig(folder / "figures" / "curves.png", dpi=100)
        for picture in sorted(args.neighbours.glob("tsne-*.png")) if args.neighbours else []:
            shutil.copy(picture, folder / "figures" / picture.name)
        (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(render(args.out.name, record), encoding="utf-8")
    print(f"{args.out}: {model.num_parameters():,} parameters")


def rows_of(folders: list[Path]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the test spectrograms that the released weights are scored on."""
    for folder in folders:
        columns = load_spectrograms(folder, "test", SCORED_ROWS)
        for first in range(0, len(columns["protocol"]), 64):
            batch = {name: column[first : first + 64] for name, column in columns.items()}
            yield batch | {"input_values": batch["input_values"].float()}


def read_results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    if not path.exists():
        raise SystemExit(f"{run} has no results.json: name the --out folder of a finished training script.")
    return read_json(path)


def sections(results: dict[str, Any], args: argparse.Namespace) -> dict[str, str]:
    """Sections of the card as Markdown, by title: router, reconstruction, embeddings."""
    router = results["router"]["router_held_out"]
    snrs = list(router["as trained"]["by_snr_db"])
    rows = [["receiver", "all", *(f"{snr} dB" for snr in snrs)]]
    for name, score in router.items():
        by_snr = score["by_snr_db"]
        cells = [f"{by_snr[snr]:.0f}" if snr in by_snr else "" for snr in snrs]
        receiver = "those of its run" if name == "as trained" else name
        rows.append([receiver, f"{score['accuracy']:.1f}", *cells])
    found = {"Router, % right, in the held-out city, told the resolution": markdown_table(rows)}

    errors = results["heads"]["masked_error_held_out"]
    if errors:
        found["Masked reconstruction, mean squared error in the held-out city"] = error_table(errors)

    if args.neighbours:
        table = (args.neighbours / "neighbours.md").read_text(encoding="utf-8").strip()
        pictures = [f"![t-SNE](figures/{path.name})" for path in sorted(args.neighbours.glob("tsne-*.png"))]
        found["Embeddings: ten nearest neighbours, % right, mean ± deviation over draws (silhouette)"] = "\n\n".join(
            [table, *pictures]
        )
    return found


def draw_curves(logs: dict[str, list[dict[str, float]]]) -> Figure:
    """Training and validation loss over samples, one panel per run."""
    columns = min(4, len(logs))
    rows = -(-len(logs) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    for place, (name, lines) in enumerate(logs.items(), start=1):
        panel = figure.add_subplot(rows, columns, place)
        panel.plot([line["samples"] for line in lines], [line["loss"] for line in lines], lw=0.8, label="training")
        kept = [line for line in lines if "validation_loss" in line]
        samples, losses = ([line[key] for line in kept] for key in ("samples", "validation_loss"))
        panel.plot(samples, losses, "o-", ms=3, label="validation")
        panel.set(title=name, xlabel="spectrograms", ylabel="loss")
        panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    with one_line_errors():
        main()

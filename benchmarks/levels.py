"""How well modulation and mobility show in the experts' patches, in the levels of single pixels, and in both.

    python benchmarks/levels.py --num 256 --num-fit 512         # two minutes, to see that it runs
    python benchmarks/levels.py                                 # the table of docs/training_log.md
    python benchmarks/levels.py --checkpoint runs/lwm-spectro-tiny --recipes mixed --protocols WiFi

Logistic regression on frozen embeddings, fitted in the training cities and scored in the held-out city. "patches" is
the mean of the transformer's tokens, the whole embedding in the paper; "levels" is what the dense layers on the
histogram add; "both" is the embedding, their sum.
"""

import argparse
import json
from collections.abc import Iterator

import torch
from held_out import drawn, parse_args

from lwm_spectro_hf import LwmSpectroModel, LwmSpectroMoEForPreTraining, default_checkpoint
from lwm_spectro_hf.data.builder import splits_by_city
from lwm_spectro_hf.data.recipe import preset
from lwm_spectro_hf.evaluation.probe import LogisticProbe

CLEAR_DB = 15
LABELS = ("modulation", "mobility")


@torch.no_grad()
def known(expert: LwmSpectroModel, batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Each part of the embeddings of all labeled spectrograms, and the labels."""
    rows = []
    for drawn_batch in batches:
        labelled = drawn_batch["modulation"] >= 0
        batch = {name: column[labelled] for name, column in drawn_batch.items()}
        outputs = expert(batch["input_values"])
        patches, both = outputs.last_hidden_state.mean(1), outputs.pooler_output
        parts = {"patches": patches, "levels": both - patches, "both": both}
        rows.append(parts | {name: batch[name] for name in (*LABELS, "snr_db")})
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def shares_right(
    train: dict[str, torch.Tensor], test: dict[str, torch.Tensor], label: str, seed: int
) -> dict[str, dict[str, float]]:
    """Accuracy by part of the embedding, over all rows and over clear ones, of at least `CLEAR_DB`."""
    found, clear = {}, test["snr_db"] >= CLEAR_DB
    for part in ("patches", "levels", "both"):
        probe = LogisticProbe(seed)
        probe.fit(train[part], train[label])
        classes = torch.from_numpy(probe.model.classes_)
        right = (classes[probe.predict(test[part]).argmax(1)] == test[label]).float()
        found[part] = {"all": float(right.mean()), "clear": float(right[clear].mean())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = parse_args(parser, num=2048, num_fit=4096)
    mixture = LwmSpectroMoEForPreTraining.from_pretrained(args.checkpoint or default_checkpoint()).eval()
    if not mixture.config.expert_config.level_num_bins:
        raise SystemExit("`level_num_bins` of this checkpoint is 0: its experts have no level histograms to compare.")
    found = {}
    print(f"| % right, {CLEAR_DB} dB and more in brackets | patches | levels | both |\n| --- | --- | --- | --- |")
    for recipe_name in args.recipes:
        for protocol in args.protocols:
            title = f"{recipe_name}, {protocol}"
            recipe = preset(recipe_name).narrowed(protocols=(protocol,), noise_share=0.0)
            splits = splits_by_city(recipe, args.num_fit, args.num, add_test=True)
            expert = mixture.expert(protocol).base_model
            train, test = (
                known(expert, drawn(splits[name].recipe, splits[name].num, seed, f"{title}, {name}"))
                for name, seed in (("train", args.seed + 1), ("test", args.seed))
            )
            for label in LABELS:
                cells = shares_right(train, test, label, args.seed)
                found[f"{title}, {label}"] = cells
                shown = (f"{100 * cell['all']:.1f} ({100 * cell['clear']:.1f})" for cell in cells.values())
                print(f"| {title}, {label} | {' | '.join(shown)} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

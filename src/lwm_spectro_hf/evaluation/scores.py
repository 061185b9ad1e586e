"""Accuracy and macro-F1 of all outputs of a mixture, overall and by protocol."""

from collections.abc import Iterable

import torch
from sklearn.metrics import accuracy_score, f1_score

from ..data.recipe import MOBILITIES, PROTOCOLS
from ..modeling_lwm_spectro_moe import LwmSpectroMoEForSequenceClassification
from ..training.mixture import JOINT_TASK, head_labels

Scores = dict[str, dict[str, dict[str, float]]]


@torch.inference_mode()
def score_mixture(model: LwmSpectroMoEForSequenceClassification, batches: Iterable[dict[str, torch.Tensor]]) -> Scores:
    """Scores of single spectrograms.

    Args:
        model ([`LwmSpectroMoEForSequenceClassification`]): With heads for modulation and SNR x mobility.
        batches (`Iterable[dict[str, torch.Tensor]]`): `input_values`, `protocol`, `modulation`, `snr_db`, `mobility`,
            and `resolution` where it is known.

    Returns:
        `dict`: By task (protocol, modulation, SNR x mobility and its two parts) and group (all, and each protocol)
        the `accuracy` and `macro_f1` [%], and `num`, the spectrograms that have a label.
    """
    model.eval()
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        outputs = model(batch["input_values"], resolution=batch.get("resolution"))
        labels = head_labels(batch)
        found = {
            "protocol": (batch["protocol"], outputs.router_logits),
            "modulation": (labels["modulation"], outputs.logits),
            JOINT_TASK: (labels[JOINT_TASK], outputs.additional_logits[JOINT_TASK]),
        }
        for name, (truth, logits) in found.items():
            parts.setdefault(name, []).append(torch.stack([truth, logits.argmax(-1)]).cpu())
    answers = {name: torch.cat(columns, 1) for name, columns in parts.items()}
    truth, answer = answers[JOINT_TASK]
    known, count = truth >= 0, len(MOBILITIES)
    answers["snr_db"] = torch.stack([torch.where(known, truth // count, -100), answer // count])
    answers["mobility"] = torch.stack([torch.where(known, truth % count, -100), answer % count])
    protocol = answers["protocol"][0]
    table: Scores = {}
    for name, (truth, answer) in answers.items():
        for group in ("all", *PROTOCOLS):
            rows = truth >= 0
            if group != "all":
                rows &= protocol == PROTOCOLS.index(group)
            if rows.any():
                table.setdefault(name, {})[group] = _score(truth[rows].numpy(), answer[rows].numpy())
    return table


def _score(truth, answer) -> dict[str, float]:
    # Over the classes that occur: within one protocol the protocol is one class, and 5G has no BPSK.
    present = sorted(set(truth.tolist()))
    f1 = f1_score(truth, answer, labels=present, average="macro", zero_division=0.0)
    accuracy = accuracy_score(truth, answer)
    return {"accuracy": round(100 * accuracy, 2), "macro_f1": round(100 * f1, 2), "num": len(truth)}


def table_of(scores: Scores) -> str:
    """The macro-F1 as aligned text."""
    groups = list(next(iter(scores.values())))
    lines = [f"{'macro-F1 %':16}" + "".join(f"{group:>8}" for group in groups)]
    for name, row in scores.items():
        lines.append(f"{name:16}" + "".join(f"{row[group]['macro_f1']:8.1f}" for group in groups))
    return "\n".join(lines)

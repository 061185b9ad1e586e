"""Model cards, rendered from the record of the training run."""

import re
from typing import Any

from ..configuration_lwm_spectro import LwmSpectroMoEConfig
from ..markdown import markdown_table

_FRONT_MATTER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {pipeline_tag}
tags:
- wireless
- spectrogram
- iq
- lte
- 5g-nr
- wifi
- lwm-spectro
---
"""
_USE = """```python
from transformers import pipeline
import lwm_spectro_hf

# A folder, or its name on the Hub, whose code is that of the package.
classify = pipeline("iq-classification", model="{name}", trust_remote_code=True)
classify("recording.sigmf-meta")  # or complex samples, with sampling_rate=...
```"""
# Fields that say what is learned, not how: no departures from the paper.
_NO_DEPARTURES = ("expert_config", "expert_names", "task_name", "additional_tasks")
_SCORED = "single spectrograms generated from seeds that training never saw"
_NOT_EVALUATED = "No evaluation results were recorded for these weights."


def render(name: str, run: dict[str, Any]) -> str:
    """Render the README.md of a checkpoint.

    Args:
        name (`str`): Name of the checkpoint.
        run (`dict`): As `examples/release_weights.py` writes it to training.json: `summary` (what the model is),
            `data`, `machine`, `log` (stage to `seconds`, `samples`, `loss`), `scores` (task to group to `accuracy`,
            `macro_f1`, `num`), `scored` (which rows were scored), `sections` (title to Markdown), `limits`. The card
            says which of the data, training log and scores are missing. Models of other tasks give a `pipeline_tag`,
            and their own Markdown for `use` and `evaluation`.

    Returns:
        `str`: Markdown with the Hub's front matter.
    """
    front_matter = _FRONT_MATTER.format(pipeline_tag=run.get("pipeline_tag", "feature-extraction"))
    parts = [front_matter, f"# {name}\n", run.get("summary", "").strip() + "\n"]
    parts.append(f"## Use\n\n{run.get('use') or _USE.format(name=name)}\n")
    parts.append("## Training data\n\n" + run.get("data", "Not recorded.").strip() + "\n")
    parts.append("## Training\n\n" + _training_table(run.get("log", {}), run.get("machine", "an unrecorded machine")))
    scores = run.get("evaluation") or _scores_table(run.get("scores", {}), run.get("scored", _SCORED))
    parts.append(f"## Evaluation\n\n{scores.strip()}\n")
    parts += [f"## {title}\n\n{text.strip()}\n" for title, text in run.get("sections", {}).items()]
    if run.get("limits"):
        parts.append("## Limits\n\n" + run["limits"].strip() + "\n")
    return "\n".join(parts)


def departures(config: LwmSpectroMoEConfig) -> str:
    """Table of the fields in which a mixture's architecture and objective depart from the paper (the defaults).

    Args:
        config ([`LwmSpectroMoEConfig`]): Configuration of the mixture.

    Returns:
        `str`: A Markdown table.
    """
    rows = [["field", "here", "paper"]]
    paper = LwmSpectroMoEConfig()
    for mine, other in ((config.expert_config, paper.expert_config), (config, paper)):
        for name in type(mine).__annotations__:
            found, expected = getattr(mine, name), getattr(other, name)
            if name not in _NO_DEPARTURES and found != expected:
                rows.append([f"`{name}`", _plain(found), _plain(expected)])
    return markdown_table(rows)


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def with_section(card: str, title: str, text: str) -> str:
    """Replace the section of a card with this title; if it has none, add one before its limits, or at its end.

    Args:
        card (`str`): Markdown, as [`render`] returns it.
        title (`str`): Title of the section.
        text (`str`): Markdown without second-level headings.

    Returns:
        `str`
    """
    section = f"## {title}\n\n{text.strip()}\n"
    parts = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    titles = [part.split("\n", 1)[0].removeprefix("## ") for part in parts]
    if title in titles:
        place = titles.index(title)
        parts[place] = section + ("\n" if place < len(parts) - 1 else "")
    elif "Limits" in titles:
        parts.insert(titles.index("Limits"), section + "\n")
    else:
        parts.append("\n" + section)
    return "".join(parts)


def _training_table(log: dict[str, dict[str, float]], machine: str) -> str:
    if not log:
        return "Not recorded.\n"
    rows = [["stage", "minutes", "samples", "loss at the end"]]
    for stage, entry in log.items():
        loss = "" if entry["loss"] is None else f"{entry['loss']:.3f}"
        rows.append([stage, f"{entry['seconds'] / 60:.1f}", f"{entry['samples']:,}", loss])
    return f"On {machine}.\n\n{markdown_table(rows)}\n"


def _scores_table(scores: dict[str, dict[str, dict[str, float]]], scored: str) -> str:
    if not scores:
        return _NOT_EVALUATED + "\n"
    groups = list(next(iter(scores.values())))
    rows = [["task", *groups]]
    for task, by_group in scores.items():
        cells = [f"{by_group[group]['macro_f1']:.1f} / {by_group[group]['accuracy']:.1f}" for group in groups]
        rows.append([task, *cells])
    return f"Macro-F1 / accuracy in %, of {scored}.\n\n{markdown_table(rows)}\n"

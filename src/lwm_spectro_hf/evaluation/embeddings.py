"""How well embeddings separate labels without training: neighbors, silhouettes, t-SNE pictures (fig. 3 and 4)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from tqdm.auto import tqdm

from ..markdown import markdown_table

NUM_NEIGHBOURS = 10


@torch.inference_mode()
def embed(model: nn.Module, input_values: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Embeddings of spectrograms.

    Args:
        model (`nn.Module`): An encoder or a mixture, whose output has `pooler_output`.
        input_values (`torch.Tensor` of shape `(num, num_channels, num_frames, num_freq_bins)`): Of any float type.
        batch_size (`int`, *optional*, defaults to 64): Spectrograms at a time.

    Returns:
        `np.ndarray` of shape `(num, hidden_size)`, float32.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = tqdm(input_values.split(batch_size), desc="embedding", leave=False)
    return np.concatenate([model(part.float().to(device)).pooler_output.float().cpu().numpy() for part in parts])


def neighbour_scores(
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    channels: np.ndarray,
    num: int = 2000,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """How often the nearest neighbors of a spectrogram, taken from other channels, predict its label.

    Every draw takes other rows and splits their channels: rows of a quarter of them are classified by their neighbors
    among the rows of the others.

    Args:
        features (`Mapping[str, np.ndarray]`): By name, of shape `(rows, width)`, all of the same rows.
        labels (`Mapping[str, np.ndarray]`): By name, of shape `(rows,)`; rows with a negative integer are left out.
        channels (`np.ndarray` of shape `(rows,)`): Number of each row's channel.
        num (`int`, *optional*, defaults to 2000): Rows per draw.
        draws (`int`, *optional*, defaults to 5): Number of draws.
        seed (`int`, *optional*, defaults to 0): Of the draws.

    Returns:
        `dict`: For each label the accuracies [%] of each feature in the order of the draws, `chance` (the share of
        the most frequent class, in the order of the draws), and in `silhouette` the silhouette of each feature in the
        first draw.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, label in labels.items():
        usable = np.flatnonzero(label >= 0) if np.issubdtype(label.dtype, np.integer) else np.arange(len(label))
        _, classes = np.unique(label, return_inverse=True)
        entry = found[name] = {**{key: [] for key in features}, "chance": [], "silhouette": {}}
        for draw in tqdm(range(draws), desc=f"neighbours, {name}", leave=False):
            generator = np.random.default_rng((seed, draw))
            rows = generator.permutation(usable)[:num]
            users = generator.permutation(np.unique(channels[rows]))
            asks = np.isin(channels[rows], users[: max(1, len(users) // 4)])
            ask, answer = rows[asks], rows[~asks]
            if not len(ask) or len(answer) < NUM_NEIGHBOURS:
                raise ValueError(
                    f"{len(rows)} labelled rows of {len(users)} channels are too few for {NUM_NEIGHBOURS} neighbours "
                    f"in other channels; expected at least {2 * NUM_NEIGHBOURS} rows of two or more channels."
                )
            entry["chance"].append(100 * float(np.bincount(classes[ask]).max()) / len(ask))
            for key, values in features.items():
                model = KNeighborsClassifier(NUM_NEIGHBOURS).fit(values[answer], classes[answer])
                entry[key].append(100 * float(model.score(values[ask], classes[ask])))
                if draw == 0 and len(np.unique(classes[rows])) > 1:
                    entry["silhouette"][key] = float(silhouette_score(values[rows], classes[rows]))
    return found


def neighbour_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores as a Markdown table: mean +- standard deviation over the draws, and the silhouette."""
    features = [name for name in next(iter(scores.values())) if name not in ("chance", "silhouette")]
    rows = [["", *features, "chance"]]
    for name, entry in scores.items():
        cells = []
        for key in features:
            mean, spread = np.mean(entry[key]), np.std(entry[key], ddof=1) if len(entry[key]) > 1 else 0.0
            silhouette = entry["silhouette"].get(key)
            cells.append(f"{mean:.1f} ± {spread:.1f}" + ("" if silhouette is None else f" ({silhouette:+.2f})"))
        rows.append([name, *cells, f"{np.mean(entry['chance']):.1f}"])
    return markdown_table(rows)


def draw_tsne(
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, Iterable[Any]],
    captions: Mapping[tuple[str, str], str] | None = None,
    seed: int = 0,
) -> Figure:
    """The pictures of fig. 3 and 4: a row for each label, a column for each feature, a point for each spectrogram.

    Args:
        features (`Mapping[str, np.ndarray]`): By name, of shape `(rows, width)`; a few thousand rows at most.
        labels (`Mapping[str, Iterable]`): By name, of the same rows; the legend shows their values.
        captions (`Mapping[tuple[str, str], str]`, *optional*): Text below a picture, by label and feature.
        seed (`int`, *optional*, defaults to 0): Of t-SNE.
    """
    maps = {}
    for name, values in features.items():
        # Keep the leading principal components, as is usual before t-SNE: most of a raw spectrogram is noise.
        count = min(50, *values.shape)
        reduced = PCA(count, random_state=seed).fit_transform(values)
        perplexity = min(30, (len(values) - 1) / 3)
        maps[name] = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(reduced)
    figure = Figure(figsize=(4.2 * len(features), 3.9 * len(labels)), layout="constrained")
    panels = figure.subplots(len(labels), len(features), squeeze=False)
    for row, (label, values) in zip(panels, labels.items(), strict=True):
        values = np.asarray(list(values))
        classes = sorted(set(values.tolist()))
        numbers = values.dtype.kind not in "US"  # ordered values get ordered colors
        for panel, (name, points) in zip(row, maps.items(), strict=True):
            for number, value in enumerate(classes):
                colour = colormaps["viridis"](number / max(1, len(classes) - 1)) if numbers else f"C{number}"
                mine = points[values == value]
                panel.scatter(*mine.T, s=5, color=colour, label=f"{value:g}" if numbers else value)
            panel.set(xticks=[], yticks=[], title=f"{name}, by {label}")
            panel.set_xlabel((captions or {}).get((label, name), ""))
        row[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2, frameon=False)
    return figure

"""Generated spectrograms on disk: shards that a killed run goes on from, read back as one array a field."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from .recipe import PROTOCOLS, Recipe
from .synthesis import draw_recordings

_FIELDS = ("protocol", "modulation", "snr_db", "mobility")


def draw_spectrograms(
    protocol: str | None, num: int, seed: int, extractor: SpectrogramFeatureExtractor, recipe: Recipe | None = None
) -> dict[str, torch.Tensor]:
    """Draw labelled spectrograms of one protocol, or of noise.

    Args:
        protocol (`str` or `None`): "WiFi", "LTE", "5G", or `None` for noise.
        num (`int`): How many.
        seed (`int`): The same seed gives the same spectrograms.
        extractor ([`SpectrogramFeatureExtractor`]): The front-end.
        recipe ([`Recipe`], *optional*): What is drawn.

    Returns:
        `dict`: `input_values` of shape `(num, num_channels, num_frames, num_freq_bins)`, float16, and the labels of
        [`~data.synthesis.LabelledRecordings`], each of shape `(num,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[torch.Tensor]] = {"input_values": [], **{name: [] for name in _FIELDS}}
    made = 0
    while made < num:
        batch = draw_recordings(protocol, min(16, num - made), generator, recipe, extractor.fft_size)
        columns["input_values"].append(extractor.spectrogram(batch.iq).half())
        for name in _FIELDS:
            columns[name].append(getattr(batch, name))
        made += len(batch.iq)
    return {name: torch.cat(parts)[:num] for name, parts in columns.items()}


def build_shards(
    folder: str | os.PathLike,
    num: int,
    seed: int,
    extractor: SpectrogramFeatureExtractor,
    noise_share: float = 0.05,
    shard_size: int = 1024,
    recipe: Recipe | None = None,
) -> list[Path]:
    """Write `num` spectrograms, balanced over the protocols; shards that are there already are kept.

    Args:
        folder (`str` or `os.PathLike`): Where to; made if missing.
        num (`int`): How many in all; rounded up to whole shards of every protocol.
        seed (`int`): First seed; every shard has its own.
        extractor ([`SpectrogramFeatureExtractor`]): The front-end.
        noise_share (`float`, *optional*, defaults to 0.05): Share that holds nothing but noise.
        shard_size (`int`, *optional*, defaults to 1024): Spectrograms a file.
        recipe ([`Recipe`], *optional*): What is drawn.

    Returns:
        `list[Path]`: The shards.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {protocol: -(-round(num * (1 - noise_share) / len(PROTOCOLS)) // shard_size) for protocol in PROTOCOLS}
    plan[None] = -(-round(num * noise_share) // shard_size)
    # Interleaved, so that a build that is cut short is balanced too.
    jobs = [(index / count, index, protocol) for protocol, count in plan.items() for index in range(count)]
    jobs.sort(key=lambda job: job[:2])
    paths = []
    for _, index, protocol in tqdm(jobs, desc=f"spectrograms to {folder.name}", unit="shard"):
        path = folder / f"{protocol or 'noise'}-{index:05d}.safetensors"
        paths.append(path)
        if path.exists():
            continue
        kind = len(PROTOCOLS) if protocol is None else PROTOCOLS.index(protocol)
        columns = draw_spectrograms(protocol, shard_size, seed + 1000 * index + kind, extractor, recipe)
        aside = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in columns.items()}, aside)
        os.replace(aside, path)
    return paths


def load_shards(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Read shards into memory, one tensor a field, in one allocation.

    Raises:
        FileNotFoundError: If there is no shard to read.
    """
    if not paths:
        raise FileNotFoundError("No shards of spectrograms to read; build some first with build_shards().")
    sizes = []
    for path in paths:
        with safe_open(path, "pt") as file:
            sizes.append(file.get_slice("protocol").get_shape()[0])
    columns: dict[str, torch.Tensor] = {}
    row = 0
    for path, size in zip(paths, sizes, strict=True):
        for name, tensor in load_file(path).items():
            if name not in columns:
                columns[name] = tensor.new_empty(sum(sizes), *tensor.shape[1:])
            columns[name][row : row + size] = tensor
        row += size
    return columns

"""Scenes: bands shared by carriers of several standards, with a label for each value of their spectrograms."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Array2D, Array3D, Features, List, Value

from ..channel import impairments
from ..channel.scenarios import HELD_OUT_SCENARIOS
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..phy.bits import slices
from ..phy.ofdm import squared_modulus
from .builder import Shard, shards_of, split_seed, write_shards
from .recipe import PROTOCOLS, Recipe, preset, stable_seed
from .synthesis import LabelledRecordings, check_channels, draw_recordings

SCENE_LABELS = ("nothing", *PROTOCOLS)  # class names of spectrogram values, in the order of their indices
_LEAD_S = 5e-3  # scenes start anywhere in half a radio frame of LTE and 5G, the period of synchronization signals
_USED_BAND = 0.96  # of the sampling rate; real receivers filter out the rest
_GUARD_HZ = 0.5e6  # minimum gap between two carriers
_NEAR_HZ = 2e6  # distance from the oscillator within which spurs are most frequent
_SPURS_DB = (-25.0, 35.0)  # over the noise of the whole band: up to 59 dB over that of a bin
_ON_POWER = 1e-3  # of the most powerful frame; a frame with less counts as silent
_PAUSES_S = {"WiFi": 0.0, "LTE": 2e-3, "5G": 1e-3}  # longest pauses that still count as part of a cell's signal


def _transmissions() -> Recipe:
    # Up to the 20 MHz of WiFi, so that a carrier's width does not tell its standard.
    nr_widths = ((15, 25), (15, 52), (15, 79), (15, 106), (30, 11), (30, 24), (30, 51), (30, 65))
    widths = {"LTE": (6, 15, 25, 50, 75, 100), "5G": nr_widths}
    clean = {"receivers": {"native": 1.0}, "snrs_db": (torch.inf,), "noise_share": 0.0}
    # All scenes of a chunk share their carrier widths, so chunks are small.
    return replace(preset("mixed"), resource_blocks=widths, chunk_size=8, **clean)


@dataclass(frozen=True)
class SceneRecipe:
    """A recipe of scenes: at most one carrier of each protocol, at random places in the band without overlap.

    Attributes:
        transmissions ([`Recipe`]): What is sent, and through which channels, as "native" receivers record it without
            noise.
        sampling_rate: Width of the band [Hz].
        span_s: Duration [s].
        presence: Probability that a carrier is present in a scene.
        snrs_db: Range of the SNR of each carrier, in its own band, over the frames in which it sends [dB].
        pieces: Share of scenes that are pieces of wider recordings, with the receiver's oscillator anywhere in them.
        max_spurs: Maximum number of spurs: continuous tones of the receiver that nobody sends.

    Raises:
        ValueError: If a field is out of its range.
    """

    transmissions: Recipe = field(default_factory=_transmissions)
    sampling_rate: float = 30.72e6
    span_s: float = 10e-3
    presence: float = 0.75
    snrs_db: tuple[float, float] = (0.0, 30.0)
    pieces: float = 0.5
    max_spurs: int = 4

    def __post_init__(self):
        sent = self.transmissions
        if set(sent.receivers) != {"native"} or set(sent.snrs_db) != {torch.inf} or sent.noise_share:
            raise ValueError(
                "transmissions must have the receiver 'native', infinite SNR and no share of noise, since a scene has "
                f"its own noise and receiver. Found {sent.receivers}, {sent.snrs_db} and {sent.noise_share}."
            )
        for name in ("presence", "pieces"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1.")
        if self.max_spurs < 0:
            raise ValueError(f"max_spurs is {self.max_spurs}; expected a number of tones, or 0 for none.")
        if not self.snrs_db[0] <= self.snrs_db[1] < torch.inf:
            raise ValueError(f"snrs_db is {self.snrs_db}; expected a range, lowest and highest.")
        for name in ("sampling_rate", "span_s"):
            if not 0 < getattr(self, name) < torch.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0.")

    @property
    def num_samples(self) -> int:
        """`int`: Samples of a scene."""
        return round(self.span_s * self.sampling_rate)

    @property
    def chunk_size(self) -> int:
        """`int`: Scenes generated at a time."""
        return self.transmissions.chunk_size


@dataclass
class Scenes:
    """A chunk of scenes.

    Attributes:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Complex baseband, complex64.
        sampling_rate (`float`): [Hz].
        labels (`torch.Tensor` of shape `(batch, num_frames, num_freq_bins)`): Index into `SCENE_LABELS` for each value
            of the front-end's spectrogram.
        snr_db (`torch.Tensor` of shape `(batch, num_protocols)`): Of the carrier of each of `PROTOCOLS`; NaN where
            there is none [dB].
        index (`torch.Tensor` of shape `(batch,)`): Number of the scene.
    """

    iq: torch.Tensor
    sampling_rate: float
    labels: torch.Tensor
    snr_db: torch.Tensor
    index: torch.Tensor


def scene_extractor(recipe: SceneRecipe | None = None) -> SpectrogramFeatureExtractor:
    """The front-end of scenes: a window whose sidelobes stay clear of the next carrier, frames over the whole scene.

    It accepts recordings at the sampling rate of the scenes only, and uses no more than the duration of a scene:
    networks trained on scenes know no other resolution.

    Args:
        recipe ([`SceneRecipe`], *optional*): Recipe of the scenes.
    """
    recipe = recipe or SceneRecipe()
    sent = recipe.transmissions
    return SpectrogramFeatureExtractor(
        sampling_rate=recipe.sampling_rate,
        num_frames=sent.num_frames,
        num_freq_bins=sent.fft_size,
        fft_size=sent.fft_size,
        hop_length=(recipe.num_samples - sent.fft_size) // (sent.num_frames - 1),
        window_function="hann",
    )


def draw_scenes(
    recipe: SceneRecipe,
    chunk: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    extractor: SpectrogramFeatureExtractor | None = None,
) -> Scenes:
    """Make one chunk of scenes.

    Args:
        recipe ([`SceneRecipe`]): What to generate.
        chunk (`int`): Number of the chunk, without upper limit.
        seed (`int`, *optional*, defaults to 0): The same seed and chunk give the same scenes on the same kind of
            device.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where to make them.
        extractor ([`SpectrogramFeatureExtractor`], *optional*): The front-end whose spectrograms are labeled.

    Returns:
        [`Scenes`], `recipe.chunk_size` of them.
    """
    extractor = extractor or scene_extractor(recipe)
    sent = recipe.transmissions
    sent = replace(sent, duration_s=recipe.span_s + _LEAD_S)
    generator = torch.Generator(device).manual_seed(stable_seed("scenes", seed, chunk))
    device, count = generator.device, recipe.chunk_size

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    # Chunks of a recipe take its protocols in turn. Row labels cannot be used: they are -1 for undetectable signals.
    carriers = [
        (PROTOCOLS.index(name), draw_recordings(sent, chunk * len(sent.protocols) + turn, seed, device))
        for turn, name in enumerate(sent.protocols)
    ]
    order = torch.randperm(len(carriers), generator=torch.Generator().manual_seed(stable_seed("order", seed, chunk)))
    carriers = _that_fit([carriers[place] for place in order.tolist()], recipe)
    widths = [carrier.bandwidth_hz + _GUARD_HZ for _, carrier in carriers]
    spare = _USED_BAND * recipe.sampling_rate - sum(widths)
    places = spare * uniform(0, 1, len(carriers)).sort(dim=1).values - _USED_BAND * recipe.sampling_rate / 2

    iq = torch.zeros(count, recipe.num_samples, dtype=torch.complex64, device=device)
    labels = torch.zeros(count, extractor.num_frames, extractor.num_freq_bins, dtype=torch.int64, device=device)
    snr_db = torch.full((count, len(PROTOCOLS)), torch.nan, device=device)
    for number, ((protocol, carrier), width) in enumerate(zip(carriers, widths, strict=True)):
        centre_hz = places[:, number] + sum(widths[:number]) + width / 2
        num_in = round(recipe.span_s * carrier.sampling_rate)
        start = (uniform(0, 1) * (carrier.iq.shape[1] - num_in)).long()
        received = impairments.receive(
            slices(carrier.iq, start, num_in),
            carrier.sampling_rate,
            recipe.num_samples,
            occupied_hz=carrier.bandwidth_hz,
            offset_hz=centre_hz,
            noise_power=torch.zeros(count, device=device),
            generator=generator,
            filter_probability=1.0,
        )
        power = _frame_power(received, extractor)
        sends = power > _ON_POWER * power.amax(1, keepdim=True)
        level = (power * sends).sum(1) / sends.sum(1).clamp(min=1)
        is_there = (uniform(0, 1) < recipe.presence) & (level > 0)
        snr = uniform(*recipe.snrs_db)
        # Noise has unit power over the whole band.
        wanted = 10 ** (snr / 10) * carrier.bandwidth_hz / recipe.sampling_rate
        gain = torch.where(is_there, (wanted / level.clamp(min=1e-20)).sqrt(), 0.0)
        iq += gain[:, None] * received
        snr_db[:, protocol] = torch.where(is_there, snr, torch.nan)
        pause = _PAUSES_S[PROTOCOLS[protocol]] / recipe.span_s * extractor.num_frames
        on = _without_pauses(sends, round(pause)) & is_there[:, None]
        inside = _bins_inside(centre_hz, carrier.bandwidth_hz, recipe.sampling_rate, extractor)
        labels = torch.where(on[:, :, None] & inside[:, None], protocol + 1, labels)
    iq = impairments.add_noise(iq, torch.ones(count, device=device), generator)
    iq = _with_oscillator_and_spurs(iq, recipe, uniform, generator)
    return Scenes(
        iq=impairments.quantize(iq, uniform(*sent.adc_bits)),
        sampling_rate=recipe.sampling_rate,
        labels=labels,
        snr_db=snr_db,
        index=torch.arange(chunk * count, (chunk + 1) * count, device=device),
    )


def _with_oscillator_and_spurs(
    iq: torch.Tensor, recipe: SceneRecipe, uniform: Callable[[float, float], torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """What a receiver adds to a band `(batch, num_samples)`: leakage of its oscillator, images, and spurs."""
    # Frequency of the oscillator in cycles per sample; not centered in a piece of a wider recording.
    place = torch.where(uniform(0, 1) < recipe.pieces, uniform(-0.5, 0.5), 0.0)
    oscillator = _tones(place, recipe.num_samples)
    leakage_db = torch.where(uniform(0, 1) < 0.5, uniform(-40, 25), -100.0)
    iq = impairments.imperfect_mixer(iq * oscillator.conj(), leakage_db, uniform(-60, -25), generator) * oscillator
    num_spurs = (uniform(0, 1) * (recipe.max_spurs + 1)).long()
    for number in range(recipe.max_spurs):
        # Every other spur is near the oscillator, where two of them can be as far apart as the edges of a narrow cell.
        offset = uniform(-1, 1) * _NEAR_HZ / recipe.sampling_rate if number % 2 == 0 else uniform(-0.5, 0.5)
        level = torch.where(number < num_spurs, 10 ** (uniform(*_SPURS_DB) / 20), 0.0)
        iq += level[:, None] * _tones(place + offset, recipe.num_samples)
    return iq


def _tones(frequency: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Complex tones of unit power.

    Args:
        frequency (`torch.Tensor` of shape `(batch,)`): In cycles per sample.
        num_samples (`int`): Length of each tone.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`: Complex64.
    """
    sample = torch.arange(num_samples, dtype=torch.float64, device=frequency.device)
    turns = torch.outer(frequency.double(), sample).remainder(1).float()
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)


def build_scenes(
    folder: str | os.PathLike,
    num: int,
    num_test: int,
    seed: int = 0,
    recipe: SceneRecipe | None = None,
    shard_size: int = 256,
    processes: int = 1,
) -> list[Path]:
    """Write scenes as Parquet: a split "train", and "test" of the held-out city. A stopped build resumes.

    Args:
        folder (`str` or `os.PathLike`): Output folder; created if missing.
        num, num_test (`int`): Scenes of each split; 0 for none.
        seed (`int`, *optional*, defaults to 0): Of the data set.
        recipe ([`SceneRecipe`], *optional*): What to generate.
        shard_size (`int`, *optional*, defaults to 256): Rows per file, a multiple of the recipe's chunk size.
        processes (`int`, *optional*, defaults to 1): Workers; each uses one thread.

    Returns:
        `list[Path]`: All files.

    Raises:
        ValueError: If both splits are empty, `shard_size` does not fit, or the folder holds another data set.
        OSError: If the disk has too little space.
    """
    recipe, folder = recipe or SceneRecipe(), Path(folder).expanduser()
    extractor = scene_extractor(recipe)
    if min(num, num_test) < 0 or num + num_test == 0 or shard_size % recipe.chunk_size:
        raise ValueError(
            f"{num} and {num_test} scenes were requested, {shard_size} per file; expected at least 1, and per file a "
            f"multiple of the recipe's chunk_size, {recipe.chunk_size}."
        )
    check_channels(recipe.transmissions)
    shards: list[Shard] = []
    for split, count, drawn in (("train", num, recipe), ("test", num_test, held_out_scenes(recipe))):
        shards += shards_of(
            folder,
            split,
            count,
            shard_size,
            make=partial(make_scenes, drawn, split_seed(seed, split), extractor),
            schema=scene_features(extractor),
            row_bytes=(2 * extractor.feature_size + 1) * extractor.num_frames * extractor.num_freq_bins,
        )
    plain = {name: value for name, value in vars(recipe).items() if name != "transmissions"}
    record = {"seed": seed, "shard_size": shard_size, "num": num, "num_test": num_test, "scenes": plain}
    record |= {"front_end": extractor.to_dict(), "transmissions": json.loads(recipe.transmissions.to_json())}
    return write_shards(folder, shards, record, processes)


def held_out_scenes(recipe: SceneRecipe) -> SceneRecipe:
    """The same recipe in the held-out city, which training never sees."""
    return replace(recipe, transmissions=replace(recipe.transmissions, channels=HELD_OUT_SCENARIOS))


def make_scenes(
    recipe: SceneRecipe,
    seed: int,
    extractor: SpectrogramFeatureExtractor,
    first: int,
    last: int,
    device: str | torch.device = "cpu",
) -> Iterator[dict[str, Any]]:
    """Scenes `first` to `last` (exclusive) as columns of a table, chunk by chunk; they depend on the arguments alone.

    Yields:
        `dict`: Of NumPy arrays: `input_values`, float16; `labels`, uint8; `snr_db`; `std_db`, the standard deviation
        of the levels before normalization; `resolution`, `seed` and `index`.
    """
    size = recipe.chunk_size
    levels = copy.copy(extractor)
    levels.normalization = "none"
    for chunk in range(first // size, -(-last // size)):
        scenes = draw_scenes(recipe, chunk, seed, device, extractor)
        keep = slice(max(first - chunk * size, 0), last - chunk * size)
        index = scenes.index[keep].cpu().numpy()
        resolution = extractor.resolution(scenes.iq.shape[1], scenes.sampling_rate).numpy()
        yield {
            "input_values": extractor.spectrogram(scenes.iq[keep]).half().cpu().numpy(),
            "labels": scenes.labels[keep].to(torch.uint8).cpu().numpy(),
            "snr_db": scenes.snr_db[keep].cpu().numpy(),
            "std_db": levels.spectrogram(scenes.iq[keep]).std(dim=(2, 3)).mean(1).cpu().numpy(),
            "resolution": np.tile(resolution, (len(index), 1)),
            "seed": np.full_like(index, seed),
            "index": index,
        }


def scene_features(extractor: SpectrogramFeatureExtractor) -> Features:
    """The schema of the Parquet files of scenes."""
    grid = (extractor.num_frames, extractor.num_freq_bins)
    return Features(
        {
            "input_values": Array3D((extractor.feature_size, *grid), "float16"),
            "labels": Array2D(grid, "uint8"),
            "snr_db": List(Value("float32"), length=len(PROTOCOLS)),
            "std_db": Value("float32"),
            "resolution": List(Value("float32"), length=2),
            "seed": Value("int64"),
            "index": Value("int64"),
        }
    )


def _that_fit(
    carriers: list[tuple[int, LabelledRecordings]], recipe: SceneRecipe
) -> list[tuple[int, LabelledRecordings]]:
    """Those carriers, taken in order, that fit side by side into the band, with their protocols."""
    kept, left = [], _USED_BAND * recipe.sampling_rate
    for protocol, carrier in carriers:
        if carrier.bandwidth_hz + _GUARD_HZ <= left:
            kept.append((protocol, carrier))
            left -= carrier.bandwidth_hz + _GUARD_HZ
    if not kept:
        raise ValueError(
            f"No carrier of the recipe fits into a band of {recipe.sampling_rate / 1e6:g} MHz: raise sampling_rate, "
            "or add narrower carriers to resource_blocks."
        )
    return kept


def _frame_power(samples: torch.Tensor, extractor: SpectrogramFeatureExtractor) -> torch.Tensor:
    """Mean power of the samples of each frame, shape `(batch, num_frames)`."""
    framed, hop = extractor.framed(samples)
    return squared_modulus(framed).unfold(1, extractor.fft_size, hop).mean(-1)


def _without_pauses(on: torch.Tensor, longest: int) -> torch.Tensor:
    """Fill pauses of up to `longest` frames: a morphological closing along time."""
    reach = longest // 2
    width = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    grown = F.max_pool1d(on.float(), **width)
    return F.max_pool1d(1 - grown, **width) < 0.5


def _bins_inside(
    centre_hz: torch.Tensor, bandwidth_hz: float, sampling_rate: float, extractor: SpectrogramFeatureExtractor
) -> torch.Tensor:
    """Whether the center of each bin lies within a carrier, shape `(batch, num_freq_bins)`."""
    bins = torch.arange(extractor.num_freq_bins, device=centre_hz.device) - extractor.num_freq_bins // 2
    distance = bins * sampling_rate / extractor.fft_size - centre_hz[:, None]
    return distance.abs() <= bandwidth_hz / 2

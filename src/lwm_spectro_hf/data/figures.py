"""Pictures of what a recipe generates: spectrograms, power-delay profiles, Doppler spectra, class balance."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..channel.profiles import PowerDelayProfile
from ..channel.scenarios import load_scenario
from ..channel.tdl import TappedDelayLine
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..plotting import COLORMAP, PROTOCOL_COLORS
from .recipe import MODULATIONS, STATISTICAL_CHANNELS, Recipe
from .synthesis import draw_recordings

_BALANCE_CHUNKS = 300


def draw_figures(folder: str | os.PathLike, recipe: Recipe, seed: int = 0) -> list[Path]:
    """Plot what a recipe generates.

    Args:
        folder (`str` or `os.PathLike`): Output folder; created if missing.
        recipe ([`Recipe`]): What to plot.
        seed (`int`, *optional*, defaults to 0): Of the data set.

    Returns:
        `list[Path]`: PNG files: `protocols`, `mobility` (Fig. 2 of the paper; only with WiFi and channels that may
        move), `delay_profiles` (only with cities), `doppler` and `balance`.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    cities = [name for name in recipe.channels if name not in STATISTICAL_CHANNELS]
    drawings: dict[str, Callable[[], Figure]] = {"protocols": lambda: draw_protocols(recipe, seed)}
    if "WiFi" in recipe.protocols and set(recipe.channels) != {"none"}:
        drawings["mobility"] = lambda: draw_mobility(recipe, seed)
    if cities:
        drawings["delay_profiles"] = lambda: draw_delay_profiles(cities, seed)
    drawings |= {"doppler": lambda: draw_doppler(seed), "balance": lambda: draw_balance(recipe, seed)}
    paths = []
    for name, drawing in drawings.items():
        paths.append(folder / f"{name}.png")
        drawing().savefig(paths[-1])
    return paths


def draw_protocols(recipe: Recipe, seed: int = 0) -> Figure:
    """One spectrogram of each protocol, at the highest SNR of the recipe."""
    figure, axes = _figure(len(recipe.protocols))
    for axis, protocol in zip(axes, recipe.protocols, strict=True):
        one = recipe.narrowed((protocol,), snrs_db=(max(recipe.snrs_db),), noise_share=0.0, full_load=1.0)
        _show_spectrogram(axis, one, seed, f"{protocol}, {max(recipe.snrs_db):g} dB")
    return figure


def draw_mobility(recipe: Recipe, seed: int = 0) -> Figure:
    """Fig. 2 of the paper: WiFi with BPSK of rate 1/2 at 20 dB through one channel, at rest and moving."""
    figure, axes = _figure(2)
    for axis, mobility in zip(axes, ("static", "vehicular"), strict=True):
        one = recipe.narrowed(
            ("WiFi",),
            ("BPSK",),
            (0.5,),
            snrs_db=(20.0,),
            mobilities=(mobility,),
            channels=tuple(name for name in recipe.channels if name != "none"),
            speeds_mps={**Recipe().speeds_mps, **recipe.speeds_mps},
            fft_size=-(-recipe.fft_size // 4) * 4,  # the symbols of WiFi need whole samples
            noise_share=0.0,
            full_load=1.0,
            receivers={"synchronous": 1.0},
        )
        _show_spectrogram(axis, one, seed, f"WiFi, BPSK 1/2, 20 dB, {mobility}")
    return figure


def draw_delay_profiles(scenarios: list[str], seed: int = 0, num_users: int = 300) -> Figure:
    """Power over delay of single users and on average, for up to six cities."""
    scenarios = scenarios[:6]
    generator = torch.Generator().manual_seed(seed)
    figure, axes = _figure(len(scenarios), height=3.4)
    for axis, name in zip(axes, scenarios, strict=True):
        scenario = load_scenario(name)
        user = torch.randperm(len(scenario.line_of_sight), generator=generator)[:num_users]
        profile = scenario.profiles(user, generator)
        delays, powers = profile.delays_s.flatten() * 1e6, profile.powers.flatten()
        power_db = 10 * powers.clamp(min=1e-6).log10()
        sent = powers > 0
        axis.scatter(delays[sent], power_db[sent], s=3, alpha=0.3, color=PROTOCOL_COLORS["LTE"], linewidths=0)
        edges = np.linspace(0, float(delays[sent].quantile(0.999)), 30)
        mean, _ = np.histogram(delays.numpy(), edges, weights=powers.numpy())
        axis.step(edges[:-1], 10 * np.log10(np.maximum(mean / len(user), 1e-6)), where="post", color="0.2")
        axis.set(title=Path(name).name, xlabel="delay [µs]", ylabel="power [dB]", ylim=(-60, 3))
    return figure


def draw_doppler(seed: int = 0, doppler_hz: float = 200.0, num_taps: int = 400) -> Figure:
    """Doppler spectrum of generated Rayleigh taps, with the 3GPP (Jakes) spectrum that they should have."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(num_taps, 1)
    channel = TappedDelayLine.draw(
        PowerDelayProfile(0 * ones, ones, torch.zeros(num_taps)), doppler_hz * ones[:, 0], generator
    )
    num_times, step_s = 4096, 1 / (8 * doppler_hz)
    gains = channel.tap_gains(torch.arange(num_times)[None] * step_s)[:, 0]
    spectrum = torch.fft.fftshift(torch.fft.fft(gains * torch.hann_window(num_times))).abs().square().mean(0)
    frequency = torch.fft.fftshift(torch.fft.fftfreq(num_times, step_s))
    density = spectrum / (spectrum.sum() * (frequency[1] - frequency[0]))
    figure, (axis,) = _figure(1, width=6.0, height=3.6)
    axis.plot(frequency, density, color=PROTOCOL_COLORS["LTE"], linewidth=0.8, label=f"{num_taps} generated taps")
    inside = np.linspace(-0.999, 0.999, 999)
    axis.plot(
        inside * doppler_hz, 1 / (np.pi * doppler_hz * np.sqrt(1 - inside**2)), color="0.2", label="3GPP (Jakes)"
    )
    axis.set(xlabel="Doppler shift [Hz]", ylabel="density [1/Hz]", xlim=(-1.3 * doppler_hz, 1.3 * doppler_hz))
    axis.set_ylim(0, 6 / (np.pi * doppler_hz))
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_balance(recipe: Recipe, seed: int = 0) -> Figure:
    """How often each label value is drawn in the first chunks of the recipe."""
    sent = {name for protocol in recipe.protocols for name, _ in recipe.modes[protocol]}
    names = {  # in the order of the recipe, including values that are never drawn
        "protocol": recipe.protocols,
        "modulation": [name for name in MODULATIONS if name in sent],
        "SNR [dB]": [f"{snr_db:g}" for snr_db in recipe.snrs_db],
        "mobility": recipe.mobilities,
        "city": [Path(channel).name for channel in recipe.channels],
    }
    counts = {title: Counter(dict.fromkeys(values, 0)) for title, values in names.items()}
    for chunk in range(_BALANCE_CHUNKS):
        rows = recipe.rows(chunk, seed)
        counts["protocol"][rows.protocol or "noise"] += len(rows.index)
        if rows.protocol:
            counts["modulation"].update(recipe.modes[rows.protocol][mode][0] for mode in rows.mode)
            counts["SNR [dB]"].update(f"{recipe.snrs_db[snr]:g}" for snr in rows.snr)
            cities = [Path(recipe.channels[channel]).name for channel in rows.channel]
            asked = [recipe.mobilities[mobility] for mobility in rows.mobility]
            # A single path is that of a terminal at rest.
            moving = ["static" if city == "none" else name for city, name in zip(cities, asked, strict=True)]
            counts["mobility"].update(moving)
            counts["city"].update(cities)
    figure, axes = _figure(len(counts), width=2.9, height=3.2)
    figure.suptitle(f"The first {_BALANCE_CHUNKS * recipe.chunk_size:,} recordings of the recipe", fontsize=9)
    for axis, (title, counter) in zip(axes, counts.items(), strict=True):
        axis.barh(list(counter), list(counter.values()), color=PROTOCOL_COLORS["LTE"])
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=6 if len(counter) > 8 else 8)
    return figure


def _figure(columns: int, width: float = 3.6, height: float = 3.8) -> tuple[Figure, list]:
    rows = -(-columns // 5)
    per_row = -(-columns // rows)
    figure = Figure(figsize=(width * per_row, height * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, per_row, squeeze=False).flat)
    for spare in axes[columns:]:
        spare.remove()
    return figure, axes[:columns]


def _show_spectrogram(axis, recipe: Recipe, seed: int, title: str) -> None:
    batch = draw_recordings(recipe, 0, seed)
    extractor = SpectrogramFeatureExtractor(
        num_frames=recipe.num_frames, num_freq_bins=recipe.fft_size, fft_size=recipe.fft_size, normalization="none"
    )
    power_db = extractor.spectrogram(batch.iq[:1])[0, 0].numpy()
    low, high = np.percentile(power_db, (2, 99.8))
    axis.imshow(power_db, aspect="auto", interpolation="nearest", cmap=COLORMAP, vmin=max(low, high - 50), vmax=high)
    axis.set_title(title, fontsize=9)
    axis.set(xlabel=f"bin of {batch.sampling_rate / recipe.fft_size / 1e3:.4g} kHz", ylabel="frame")

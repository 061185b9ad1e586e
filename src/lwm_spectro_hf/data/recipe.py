"""Recipes of generated data sets: the grid of labels, and the ranges of everything else that varies."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..channel.scenarios import HELD_OUT_SCENARIOS, list_scenarios
from ..phy import lte

# The file beside the shards that records what a data set was built from; a build resumes only with the same settings.
RECORD = "dataset.json"
PROTOCOLS = ("WiFi", "LTE", "5G")
MODULATIONS = ("BPSK", "QPSK", "16QAM", "64QAM", "256QAM")
SNRS_DB = (-5, 0, 5, 10, 15, 20, 25)
MOBILITIES = ("static", "pedestrian", "vehicular")
RECEIVERS = ("synchronous", "blind", "native", "listening")
SYMBOL_RECEIVERS = ("synchronous", "listening")  # those whose frames are OFDM symbols
TDL_PROFILES = ("TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E")
# Channels without a city: statistical profiles, an exponential one, and a single path without fading.
STATISTICAL_CHANNELS = (*TDL_PROFILES, "exponential", "none")

_CELLULAR_MODES = (
    ("QPSK", 1 / 3),
    ("QPSK", 1 / 2),
    ("16QAM", 2 / 5),
    ("16QAM", 3 / 5),
    ("64QAM", 2 / 3),
    ("64QAM", 5 / 6),
    ("256QAM", 3 / 4),
    ("256QAM", 5 / 6),
)
# Modulation and code rate. With the seven SNRs and three mobilities this makes 504 spectrograms per channel; the
# paper's data set has 460 of them.
MODES = {
    "WiFi": (  # 802.11a/g, table 17-4
        ("BPSK", 1 / 2),
        ("BPSK", 3 / 4),
        ("QPSK", 1 / 2),
        ("QPSK", 3 / 4),
        ("16QAM", 1 / 2),
        ("16QAM", 3 / 4),
        ("64QAM", 2 / 3),
        ("64QAM", 3 / 4),
    ),
    "LTE": _CELLULAR_MODES,
    "5G": _CELLULAR_MODES,
}
_RATE_TOLERANCE = 0.05
_SHORTEST_S = 1e-5
_SHARES = (
    *("full_load", "noise_share", "high_throughput", "line_of_sight", "receive_filter", "native_rate"),
    *("partial_band", "contiguous_view", "answers_apart", "two_way"),
)


@dataclass(frozen=True)
class Rows:
    """Labels of the recordings of one chunk, all of one protocol.

    Attributes:
        protocol (`str` or `None`): `None` for a chunk of noise and receiver artifacts alone.
        index (`list[int]`): Number of each recording in the data set.
        mode (`list[int]`): Index into the recipe's `modes` for the protocol.
        snr, mobility, channel (`list[int]`): Indices into the recipe's lists.
        user (`list[int]`): Number of the user in its scenario; 0 for channels without a city.
    """

    protocol: str | None
    index: list[int]
    mode: list[int]
    snr: list[int]
    mobility: list[int]
    channel: list[int]
    user: list[int]


@dataclass(frozen=True)
class Recipe:
    """A generated data set: the grid of its labels, and the ranges of everything else.

    The grid is protocol x (modulation, code rate) x SNR x mobility x channel x user. It is walked in a shuffled but
    even order: every prefix is balanced, to within chunks of `chunk_size` rows, each of one protocol. After the whole
    grid the walk starts over with new draws.

    Attributes:
        protocols: A subset of `PROTOCOLS`.
        modes: For each protocol, its pairs of modulation and code rate.
        snrs_db: SNR in the occupied band; infinity for no noise [dB].
        mobilities: A subset of `MOBILITIES`.
        channels: City scenarios by name or folder, "TDL-A" to "TDL-E" (TR 38.901), "exponential", or "none".
        users: Number of users of each city, spread evenly over all that it has.
        receivers: Share of each receiver. "synchronous" estimates carrier offset and symbol timing and returns whole
            OFDM symbols without prefix. "blind" records at any rate, anywhere near the carrier. "listening" finds the
            symbols but not the carrier: it returns whole symbols of some band of a blind recording, as
            [`~lwm_spectro_hf.phy.listening.listen`] does. "native" records whole frames at the carrier's own rate,
            with no impairments but the channel and noise.
        full_load: Share of recordings with a saturated sender; for the others the load is drawn.
        noise_share: Share of recordings without any signal.
        resource_blocks: Carrier widths: resource blocks for LTE, subcarrier spacing [kHz] and resource blocks for 5G.
        high_throughput: Share of WiFi links of 802.11n; the others are of 802.11a/g.
        answers_apart: Share of WiFi recordings in which the acknowledging station has a channel, a power and a carrier
            offset of its own; in the others it shares those of the data sender. The SNR is that of the data.
        two_way: Share of those recordings in which the other station sends data, too, for less time than the first.
            Synchronous receivers get none of them.
        antenna_ports: Of LTE cells; with more than one, transmit diversity superimposes symbols.
        speeds_mps: Range of speeds of each mobility class [m/s].
        carriers_hz: Carrier frequencies of each protocol; with the speed they give the Doppler shift [Hz].
        delay_spreads_s: Range of RMS delay spreads of each protocol for channels without a city, log-uniform [s].
        line_of_sight: Share of "exponential" channels whose first tap is Rician.
        rician_k_db: Range of its K factor [dB].
        receive_filter: Share of recordings whose receiver removes everything outside the carrier; the others show the
            noise floor of the whole band.
        max_clock_ppm: Largest error of the sampling clock, of either sign. Where a receiver's rate is not the
            carrier's, up to half a sample over the recording is added [ppm].
        max_phase_noise_deg: Largest phase noise of the oscillators, root mean square [deg].
        adc_bits: Range of the converter's effective number of bits.
        symbol_steps: OFDM symbols from one frame to the next, by protocol, for receivers whose frames are symbols.
        native_rate: Share of blind recordings made at one of the carrier's own sampling rates and centered on it; the
            others use a common radio rate and have the carrier anywhere in the band.
        radio_rates_hz: Those common rates [Hz].
        partial_band: Share of blind recordings that hold only part of a carrier, at a radio rate below its width.
            Carriers narrower than all radio rates have none.
        contiguous_view: Share of blind recordings as long as `num_frames` frames without gaps; the others last a
            duration drawn log-uniformly from `spans_s`.
        spans_s: Range of durations [s].
        max_samples: Upper limit on blind recordings with a duration from `spans_s` [samples].
        duration_s: Length of a native recording [s].
        num_frames, fft_size: Of the spectrogram that recordings are made for.
        chunk_size: Recordings generated at a time. Part of the recipe, because the random draws depend on it.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    modes: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=lambda: dict(MODES))
    snrs_db: tuple[float, ...] = SNRS_DB
    mobilities: tuple[str, ...] = MOBILITIES
    channels: tuple[str, ...] = ("exponential",)
    users: int = 1000
    receivers: dict[str, float] = field(default_factory=lambda: {"synchronous": 1.0})
    full_load: float = 0.5
    noise_share: float = 0.0
    resource_blocks: dict[str, tuple] = field(
        default_factory=lambda: {
            "LTE": (6, 15, 25, 50, 75, 100),
            "5G": (
                *((15, num_rb) for num_rb in (25, 52, 79, 106, 160, 216)),
                *((30, num_rb) for num_rb in (11, 24, 38, 51, 65, 78, 106)),
            ),
        }
    )
    high_throughput: float = 0.4
    answers_apart: float = 0.0
    two_way: float = 0.0
    antenna_ports: tuple[int, ...] = (1, 2, 4)
    speeds_mps: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"static": (0.0, 0.0), "pedestrian": (0.5, 2.0), "vehicular": (8.0, 35.0)}
    )
    carriers_hz: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "WiFi": (2.437e9, 5.24e9),
            "LTE": (0.8e9, 1.8e9, 2.1e9, 2.6e9),
            "5G": (0.7e9, 2.1e9, 3.5e9),
        }
    )
    delay_spreads_s: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"WiFi": (10e-9, 150e-9), "LTE": (30e-9, 1e-6), "5G": (30e-9, 1e-6)}
    )
    line_of_sight: float = 0.4
    rician_k_db: tuple[float, float] = (0.0, 15.0)
    receive_filter: float = 1.0
    max_clock_ppm: float = 10.0
    max_phase_noise_deg: float = 1.5
    adc_bits: tuple[float, float] = (8.0, 12.0)
    symbol_steps: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {"WiFi": (8,), "LTE": (1,), "5G 15 kHz": (1,), "5G 30 kHz": (2,)}
    )
    native_rate: float = 0.5
    radio_rates_hz: tuple[float, ...] = (
        2e6, 2.4e6, 2.5e6, 4e6, 5e6, 5.76e6, 8e6, 10e6, 11.52e6, 12.5e6, 15.36e6, 16e6, 20e6, 23.04e6, 25e6, 30.72e6,
        40e6, 46.08e6, 50e6, 56e6, 61.44e6,
    )  # fmt: skip
    partial_band: float = 0.0
    contiguous_view: float = 0.5
    spans_s: tuple[float, float] = (0.5e-3, 12e-3)
    max_samples: int = 400_000
    duration_s: float = 20e-3
    num_frames: int = 128
    fft_size: int = 128
    chunk_size: int = 32

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, _tuples(getattr(self, entry.name)))
        _check_names("protocols", self.protocols, PROTOCOLS)
        _check_names("mobilities", self.mobilities, MOBILITIES)
        _check_names("receivers", tuple(self.receivers), RECEIVERS)
        known = (*list_scenarios(), *STATISTICAL_CHANNELS)
        if not _all_of(self.channels, lambda name: isinstance(name, str)):
            raise ValueError(f"channels is {self.channels!r}; expected a list of {', '.join(known)}, or folders.")
        names = [Path(name).name for name in self.channels]
        if len(set(names)) < len(names):
            raise ValueError(
                f"channels is {self.channels!r}; expected folders of different names: rename one of them."
            )
        if not _all_of(self.snrs_db, lambda snr_db: _is_number(snr_db) and snr_db > -math.inf):
            raise ValueError(f"snrs_db is {self.snrs_db!r}; expected a list of numbers [dB], for instance -5, 0, 25.")
        for name in _SHARES:
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1.")
        for name, least in (("users", 1), ("max_samples", 1), ("num_frames", 2), ("fft_size", 2), ("chunk_size", 1)):
            value = getattr(self, name)
            if not _is_whole(value, least):
                raise ValueError(f"{name} is {value!r}; expected a whole number, at least {least}.")
        if not (_is_number(self.duration_s) and _SHORTEST_S <= self.duration_s < math.inf):
            raise ValueError(f"duration_s is {self.duration_s!r}; expected a number, at least {_SHORTEST_S:g}.")
        for name in ("max_clock_ppm", "max_phase_noise_deg"):
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) < math.inf):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a number, at least 0.")
        shares = tuple(self.receivers.values())
        if not _all_of(shares, lambda share: _is_number(share) and 0 <= share < math.inf) or not sum(shares) > 0:
            raise ValueError(f"receivers is {self.receivers}; expected shares, at least one of them above 0.")
        unit = 4 if set(self.protocols) == {"WiFi"} else 128
        if any(map(self.receivers.get, SYMBOL_RECEIVERS)) and self.fft_size % unit:
            raise ValueError(
                f"fft_size is {self.fft_size}; expected a multiple of {unit} if frames are symbols, so that cyclic "
                "prefixes are whole numbers of samples."
            )
        if not _all_of(self.antenna_ports, lambda ports: _is_whole(ports) and ports in (1, 2, 4)):
            raise ValueError(f"antenna_ports is {self.antenna_ports!r}; expected a list of 1, 2 or 4.")
        if not _all_of(self.radio_rates_hz, _is_positive):
            raise ValueError(f"radio_rates_hz is {self.radio_rates_hz!r}; expected a list of numbers above 0.")
        # Beyond these, samples would be NaN or infinite.
        for name, lowest, highest in (("rician_k_db", -100, 100), ("adc_bits", 2, 32), ("spans_s", 1e-6, math.inf)):
            _check_range(name, getattr(self, name), lowest, highest)
        for name in self.mobilities:
            _check_range(f"speeds_mps of {name}", self.speeds_mps.get(name), 0)
        for protocol in self.protocols:
            _check_modes(protocol, self.modes.get(protocol, ()))
            _check_range(f"delay_spreads_s of {protocol}", self.delay_spreads_s.get(protocol), 1e-12)
            if not _all_of(self.carriers_hz.get(protocol), _is_positive):
                found = self.carriers_hz.get(protocol)
                raise ValueError(f"carriers_hz of {protocol} is {found!r}; expected a list of numbers above 0.")
            self._check_widths(protocol)

    def _check_widths(self, protocol: str) -> None:
        """Check the carrier widths of a protocol, and the step between frames for each subcarrier spacing."""
        widths, keys = self.resource_blocks.get(protocol), [protocol]
        if protocol == "LTE" and not _all_of(widths, lambda width: _is_whole(width) and width in lte.FFT_SIZES):
            listed = ", ".join(map(str, lte.FFT_SIZES))
            raise ValueError(f"resource_blocks of LTE is {widths!r}; expected a list of {listed}.")
        if protocol == "5G":
            if not _all_of(widths, _is_nr_width):
                raise ValueError(
                    f"resource_blocks of 5G is {widths!r}; expected a list of pairs, 15 or 30 kHz and 11 to 273 "
                    "resource blocks, for instance [30, 51]."
                )
            keys = [f"5G {spacing_khz} kHz" for spacing_khz in dict.fromkeys(width[0] for width in widths)]
        for key in keys:
            steps = self.symbol_steps.get(key)
            if not _all_of(steps, _is_whole):
                raise ValueError(f"symbol_steps of {key} is {steps!r}; expected a list of whole numbers above 0.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Make a recipe from plain values, as in JSON and YAML; `preset` names the recipe to start from.

        Raises:
            ValueError: For an unknown field, or a value that does not fit it.
        """
        values = dict(values)
        known = {entry.name for entry in dataclasses.fields(cls)}
        start = preset(str(values.pop("preset"))) if "preset" in values else cls()
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"A recipe has no {unknown[0]!r}; expected preset or one of {', '.join(sorted(known))}.")
        values = {name: _plain(value, name == "channels") for name, value in values.items()}
        for name, value in values.items():
            default = getattr(start, name)
            if isinstance(default, dict) and not isinstance(value, dict):
                raise ValueError(f"{name} is {value!r}; expected values by name, such as {default}.")
        return dataclasses.replace(start, **values)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Recipe":
        """Read a recipe from a YAML or JSON file with some or all fields.

        Raises:
            ValueError: If the file holds no valid recipe.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is neither YAML nor JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no recipe; expected fields and values, for instance `protocols: [LTE]`.")
        return cls.from_dict(values)

    def to_json(self) -> str:
        """All fields as JSON that [`Recipe.load`] reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def narrowed(
        self,
        protocols: tuple[str, ...] | None = None,
        modulations: tuple[str, ...] | None = None,
        code_rates: tuple[float, ...] | None = None,
        **fields: Any,
    ) -> "Recipe":
        """This recipe with fewer protocols, modulations or code rates, and other fields replaced.

        Without `protocols`, those that have none of the modulations and rates are dropped.

        Raises:
            ValueError: If nothing is left, or a protocol named in `protocols` has no such modulation or rate.
        """
        _check_names("protocols", self.protocols if protocols is None else protocols, PROTOCOLS)
        if modulations is not None:
            _check_names("modulations", modulations, MODULATIONS)
        modes = {}
        for protocol in protocols or self.protocols:
            offered = offered_modes(protocol) if code_rates else self.modes.get(protocol, MODES[protocol])
            kept = tuple(mode for mode in offered if modulations is None or mode[0] in modulations)
            if code_rates:
                near = {}
                for name in dict.fromkeys(name for name, _ in kept):
                    for rate in code_rates:
                        if any(abs(rate - value) <= _RATE_TOLERANCE for other, value in kept if other == name):
                            near[name, rate] = None
                kept = tuple(near)
            modes[protocol] = kept
            if protocols and not kept:
                for modulation in modulations or [MODES[protocol][0][0]]:
                    _check_modes(protocol, tuple((modulation, rate) for rate in code_rates or (0.5,)))
        left = {mode for kept in modes.values() for mode in kept}
        missing = [name for name in modulations or () if all(name != mode[0] for mode in left)]
        missing += [f"code rate {rate}" for rate in code_rates or () if all(rate != mode[1] for mode in left)]
        if missing:
            with_what = f" with modulations {', '.join(modulations)}" if modulations and code_rates else ""
            raise ValueError(
                f"{' and '.join(modes)} in this recipe: there is no {missing[0]}{with_what}; expected modulations "
                f"from {', '.join(MODULATIONS)}, and code rates used with them, such as 0.33, 0.5, 0.67, 0.75, 0.83."
            )
        wanted = {name: value for name, value in fields.items() if value is not None}
        kept_protocols = tuple(protocol for protocol, kept in modes.items() if kept)
        return dataclasses.replace(self, protocols=kept_protocols, modes={**self.modes, **modes}, **wanted)

    @property
    def spectrograms_per_channel(self) -> int:
        """Recordings in the grid for one user, all protocols together."""
        modes = sum(len(self.modes[protocol]) for protocol in self.protocols)
        return modes * len(self.snrs_db) * len(self.mobilities)

    def rows(self, chunk: int, seed: int = 0) -> Rows:
        """Labels of the recordings of a chunk.

        Args:
            chunk (`int`): Number of the chunk, from 0 on without end.
            seed (`int`, *optional*, defaults to 0): Shuffles the grid.
        """
        index = [chunk * self.chunk_size + row for row in range(self.chunk_size)]
        noise_before = math.floor(chunk * self.noise_share)
        if math.floor((chunk + 1) * self.noise_share) > noise_before:
            zeros = [0] * self.chunk_size
            return Rows(None, index, zeros, zeros, zeros, zeros, zeros)
        turn, which = divmod(chunk - noise_before, len(self.protocols))
        protocol = self.protocols[which]
        sizes = (len(self.modes[protocol]), len(self.snrs_db), len(self.mobilities), len(self.channels), self.users)
        number = np.arange(turn * self.chunk_size, (turn + 1) * self.chunk_size)
        cycle, place = np.divmod(number, math.prod(sizes))
        # A chunk rarely spans more than one cycle.
        parts = [
            _coordinates(place[cycle == value], sizes, (seed, protocol, value)) for value in np.unique(cycle).tolist()
        ]
        columns = np.concatenate(parts, 1).tolist()
        return Rows(protocol, index, *columns)


def _coordinates(place: np.ndarray, sizes: tuple[int, ...], seed: tuple) -> np.ndarray:
    """Coordinates in the grid of places on the walk. Every step changes all of them, and each takes all its values.

    A coordinate with `n` values counts modulo `n`, while the other coordinates, `m` places together, count modulo `m`.
    Each time both are back at the start, after lcm(n, m) steps, it skips one value, so that every pair occurs once.
    """
    columns = []
    for column in reversed(range(len(sizes))):
        size, others = sizes[column], math.prod(sizes[:column])
        count = place + place // math.lcm(size, others)
        # Values do not come in order, but in steps of about 0.618 of their number (golden section), from a random one.
        step = next(step for step in range(round(0.618 * size) or 1, 2 * size + 1) if math.gcd(step, size) == 1)
        columns.append((step * (count % size) + stable_seed("order", column, *seed) % size) % size)
        place = place % others
    return np.stack(columns[::-1])


def preset(name: str) -> Recipe:
    """Return a recipe by name.

    - "paper": the paper's grid over all shipped cities but the held-out one, synchronous receiver;
    - "mixed": synchronous, blind and listening receivers and all kinds of cells, on which released weights are
      trained;
    - "blind": monitoring receivers alone;
    - "native": whole noisy frames at the carrier's own rate, for third-party receivers.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no recipe {name!r}; expected one of {', '.join(PRESETS)}, or a file.")
    cities = tuple(city for city in list_scenarios() if city not in HELD_OUT_SCENARIOS)
    return Recipe(channels=cities, **PRESETS[name])


_BLIND = {"full_load": 0.3, "receive_filter": 0.6, "noise_share": 0.05, "answers_apart": 0.7, "two_way": 0.5}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "full_load": 1.0,
        "antenna_ports": (1,),
        "resource_blocks": {"LTE": (6, 15, 25), "5G": ((15, 25), (30, 11), (30, 24))},
    },
    "mixed": {
        "receivers": {"synchronous": 0.4, "blind": 0.4, "listening": 0.2},
        # Recordings too short for the paper's steps are analyzed with shorter ones.
        "symbol_steps": {"WiFi": (1, 2, 4, 8), "LTE": (1,), "5G 15 kHz": (1,), "5G 30 kHz": (1, 2)},
        **_BLIND,
    },
    "blind": {"receivers": {"blind": 1.0}, **_BLIND},
    "native": {"receivers": {"native": 1.0}, "full_load": 1.0, "high_throughput": 0.0, "chunk_size": 1},
}


def stable_seed(*parts: object) -> int:
    """A seed below 2**63 that depends on the parts alone, not on the process or the Python version."""
    parts = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _tuples(value: Any) -> Any:
    """Convert lists to tuples, and paths to strings."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _plain(value: Any, names: bool = False) -> Any:
    """Convert lists to tuples, and strings to numbers if possible: YAML reads 2e9 as text; JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(entry, names) for entry in value)
    if isinstance(value, str) and not names:
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number  # 1e3 users are 1000
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_nr_width(width: Any) -> bool:
    return (
        isinstance(width, tuple)
        and len(width) == 2
        and width[0] in (15, 30)
        and all(map(_is_whole, width))
        and 11 <= width[1] <= 273
    )


def _all_of(values: Any, is_right: Callable[[Any], bool]) -> bool:
    """Whether `values` is a non-empty tuple whose entries all satisfy `is_right`."""
    return isinstance(values, tuple) and len(values) > 0 and all(map(is_right, values))


def _check_range(name: str, found: Any, lowest: float, highest: float = math.inf) -> None:
    is_range = _all_of(found, _is_number) and len(found) == 2 and lowest <= found[0] <= found[1] <= highest
    if not is_range or found[1] == math.inf:
        limits = f"from {lowest:g} on" if highest == math.inf else f"within {lowest:g} to {highest:g}"
        raise ValueError(f"{name} is {found!r}; expected a range, lowest and highest, {limits}.")


def _check_names(field_name: str, found: Any, known: tuple[str, ...]) -> None:
    if not _all_of(found, lambda name: name in known):
        raise ValueError(f"{field_name} is {found!r}; expected a list of some of {', '.join(known)}.")


def _check_modes(protocol: str, modes: Any) -> None:
    offered = offered_modes(protocol)
    if not _all_of(modes, lambda mode: isinstance(mode, tuple) and len(mode) == 2 and _is_number(mode[1])):
        raise ValueError(f"modes of {protocol} is {modes!r}; expected a list of pairs such as {offered[0]}.")
    for modulation, rate in modes:
        rates = [value for name, value in offered if name == modulation]
        if not rates:
            names = ", ".join(dict.fromkeys(name for name, _ in offered))
            raise ValueError(f"{protocol} has no modulation {modulation!r}; expected one of {names}.")
        if not min(abs(rate - value) for value in rates) <= _RATE_TOLERANCE:
            listed = ", ".join(f"{value:.2f}" for value in rates)
            raise ValueError(f"{protocol} has no code rate {rate} with {modulation}; expected one near {listed}.")


def offered_modes(protocol: str) -> tuple[tuple[str, float], ...]:
    """Pairs of modulation and code rate that a protocol offers, ascending.

    For LTE and 5G these are the lowest and highest rate of each modulation and some between; schedulers can reach all
    rates in steps of about a twentieth.
    """
    return _OFFERED[protocol]


def _steps(modulation: str, low: float, high: float) -> tuple[tuple[str, float], ...]:
    count = math.ceil((high - low) / _RATE_TOLERANCE)
    return tuple((modulation, round(low + (high - low) * step / count, 3)) for step in range(count + 1))


_CELLULAR = (
    *_steps("QPSK", 0.12, 0.66),
    *_steps("16QAM", 0.33, 0.66),
    *_steps("64QAM", 0.43, 0.93),
    *_steps("256QAM", 0.67, 0.93),
)
_OFFERED = {
    "WiFi": (*MODES["WiFi"], ("64QAM", 5 / 6)),  # the last of 802.11n
    "LTE": _CELLULAR,
    "5G": _CELLULAR,
}

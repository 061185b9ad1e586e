"""Ray-traced cities: DeepMIMO scenarios as delays and powers of each user's paths (paper, sec. II-A and eq. 5)."""

import contextlib
import functools
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extras import require
from .profiles import PowerDelayProfile

# Never used in pretraining: the city for benchmarks.
HELD_OUT_SCENARIOS = ("florence",)
SHIPPED_FOLDER = Path(__file__).parent / "scenarios_data"

RICIAN_K_MEAN_DB, RICIAN_K_STD_DB = 9.0, 5.0  # TR 38.901, table 7.5-6, UMi street canyon with line of sight
_MATRICES = ("power", "delay", "inter", "rx_pos", "tx_pos")
_LINE_OF_SIGHT = 0  # DeepMIMO's code for a path without interactions


@dataclass(frozen=True, eq=False)
class Scenario:
    """The paths of all users of a city that have any. Loaded once and shared: do not write to its tensors.

    Attributes:
        name (`str`): Name of the city.
        carrier_hz (`float`): Carrier frequency of the tracing [Hz].
        delays_s (`torch.Tensor` of shape `(users, paths)`): Delays relative to the user's first path, ascending; 0
            where there is no path [s].
        powers (`torch.Tensor` of shape `(users, paths)`): Path gains, linear; 0 where there is no path.
        line_of_sight (`torch.Tensor` of shape `(users,)`): Whether the user has a direct path.
        positions (`torch.Tensor` of shape `(users, 3)`): Positions of the users [m].
        base_station (`torch.Tensor` of shape `(users,)`): Index of the serving base station, the one received with
            most power.
        stations (`torch.Tensor` of shape `(base_stations, 3)`): Positions of the base stations [m].
    """

    name: str
    carrier_hz: float
    delays_s: torch.Tensor
    powers: torch.Tensor
    line_of_sight: torch.Tensor
    positions: torch.Tensor
    base_station: torch.Tensor
    stations: torch.Tensor

    def __len__(self) -> int:
        return len(self.powers)

    @property
    def num_paths(self) -> torch.Tensor:
        """Number of paths of each user, `(users,)`."""
        return (self.powers > 0).sum(1)

    @property
    def delay_spread_s(self) -> torch.Tensor:
        """RMS delay spread of each user over all paths, `(users,)` (TR 38.901, clause 7.7.3) [s]."""
        weights = self.powers / self.powers.sum(1, keepdim=True)
        mean = (weights * self.delays_s).sum(1, keepdim=True)
        return (weights * (self.delays_s - mean).square()).sum(1).sqrt()

    def profiles(self, user: torch.Tensor, generator: torch.Generator, max_taps: int = 20) -> PowerDelayProfile:
        """Power-delay profiles of users, one tap per path.

        Args:
            user (`torch.Tensor` of shape `(batch,)`): Indices of users, int64.
            generator (`torch.Generator`): Draws the Rician K factors of users in line of sight, normal in dB.
            max_taps (`int`, *optional*, defaults to 20): Number of strongest paths to keep.

        Returns:
            [`PowerDelayProfile`] on the generator's device. Powers sum to one; the first tap arrives at zero.
        """
        device = generator.device
        user = user.to(device)
        powers, strongest = self.powers.to(device)[user].topk(min(max_taps, self.powers.shape[1]), dim=1)
        delays = self.delays_s.to(device)[user].gather(1, strongest)
        # Users with fewer paths get their empty taps last, with a delay of zero.
        delays, order = delays.masked_fill(powers == 0, torch.inf).sort(dim=1)
        powers = powers.gather(1, order)
        delays = (delays - delays[:, :1]).masked_fill(powers == 0, 0.0)
        k_db = RICIAN_K_MEAN_DB + RICIAN_K_STD_DB * torch.randn(len(user), generator=generator, device=device)
        k = torch.where(self.line_of_sight.to(device)[user], 10 ** (k_db / 10), 0.0)
        return PowerDelayProfile(delays, powers / powers.sum(1, keepdim=True), k)


def delay_spread_statistics(environment: str, line_of_sight: bool, carrier_hz: float) -> tuple[float, float]:
    """Delay spreads of the 3GPP model, to compare ray-traced ones with (TR 38.901, table 7.5-6, DS).

    Args:
        environment (`str`): `"UMi"` (street canyon) or `"UMa"`.
        line_of_sight (`bool`): Whether there is line of sight.
        carrier_hz (`float`): Carrier [Hz].

    Returns:
        Mean and standard deviation of the logarithm to base 10 of the delay spread in seconds.
    """
    if environment == "UMi":
        shift = np.log10(1 + max(carrier_hz / 1e9, 2.0))  # note 7: below 2 GHz, use 2 GHz
        return (-0.24 * shift - 7.14, 0.38) if line_of_sight else (-0.24 * shift - 6.83, 0.16 * shift + 0.28)
    if environment == "UMa":
        shift = np.log10(max(carrier_hz / 1e9, 6.0))  # note 6: below 6 GHz, use 6 GHz
        return (-6.955 - 0.0963 * shift, 0.66) if line_of_sight else (-6.28 - 0.204 * shift, 0.39)
    raise ValueError(f"environment is {environment!r}; expected 'UMi' or 'UMa'.")


def list_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that the package ships, sorted."""
    return tuple(sorted(file.parent.name for file in SHIPPED_FOLDER.glob("*/params.json")))


def is_held_out(name_or_folder: str | os.PathLike) -> bool:
    """Whether a scenario is held out from training, by its name or the name of its folder."""
    return Path(name_or_folder).name in HELD_OUT_SCENARIOS


def load_scenario(name_or_folder: str | os.PathLike, *, download: bool = False) -> Scenario:
    """Loads a ray-traced city.

    Args:
        name_or_folder (`str` or `os.PathLike`): A name from [`list_scenarios`], the folder of a DeepMIMO v4 scenario,
            or the name of one in DeepMIMO's own folder, `deepmimo_scenarios` in the working directory.
        download (`bool`, *optional*, defaults to `False`): Whether DeepMIMO may download a name that is not found.

    Returns:
        [`Scenario`] of the users that have paths.

    Raises:
        ValueError: If there is no such scenario, it cannot be read, or none of its users has paths.
    """
    folder = _find(name_or_folder, download)
    return _load(folder, (folder / "params.json").stat().st_mtime_ns)


def _find(name_or_folder: str | os.PathLike, download: bool) -> Path:
    name = os.fspath(name_or_folder)
    if name in list_scenarios():
        return SHIPPED_FOLDER / name
    if Path(name).is_dir():
        folder = Path(name).resolve()
    else:
        folder = None
        if Path(name).name == name:  # DeepMIMO would refuse a path with an error of its own
            deepmimo = require("deepmimo", extra="data")
            folder = Path(deepmimo.utils.get_scenario_folder(name))
            if download and not folder.is_dir():
                deepmimo.download(name)
        if folder is None or not folder.is_dir():
            raise ValueError(
                f"No scenario {name!r} was found: it is neither shipped, nor a folder, nor in DeepMIMO's folder "
                f"`deepmimo_scenarios`. Shipped scenarios: {', '.join(list_scenarios())}. `load_scenario(name, "
                "download=True)` fetches others over the network; https://deepmimo.net lists them."
            )
    if not (folder / "params.json").is_file():
        raise ValueError(
            f"{folder} is not a DeepMIMO v4 scenario: it has no params.json. Give the folder that holds that file, or "
            "convert older and other formats with `deepmimo.convert`."
        )
    if folder.name != folder.name.lower():
        raise ValueError(f"DeepMIMO reads only lower-case folder names: rename {folder} to {folder.name.lower()!r}.")
    return folder


@functools.lru_cache(maxsize=64)
def _load(folder: Path, modified_ns: int) -> Scenario:
    """Reads a scenario; `modified_ns` is part of the cache key, so that a rewritten scenario is read again."""
    deepmimo = require("deepmimo", extra="data")
    try:
        params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        carrier_hz, num_scenes = float(params["rt_params"]["frequency"]), int(params["scene"]["num_scenes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'params.json'} does not describe a DeepMIMO v4 scenario ({error!r}): make the folder again "
            "with `deepmimo.convert`."
        ) from error
    if num_scenes != 1:
        raise ValueError(f"{folder} has {num_scenes} snapshots in time; expected one: give a folder with one.")

    # DeepMIMO looks for scenarios in one configured folder, and prints its progress to standard output.
    before = deepmimo.config.get("scenarios_folder")
    deepmimo.config.set("scenarios_folder", str(folder.parent))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = deepmimo.load(folder.name, matrices=list(_MATRICES))
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read ({error}): copy or convert the scenario again.") from error
    finally:
        deepmimo.config.set("scenarios_folder", before)
    return _scenario(folder, carrier_hz, getattr(loaded, "datasets", [loaded]))


def _scenario(folder: Path, carrier_hz: float, links: list[Any]) -> Scenario:
    """Merges DeepMIMO's data sets, one for each base station and set of users."""
    stations, serving = np.unique([np.ravel(link["tx_pos"]) for link in links], axis=0, return_inverse=True)
    gains, delays, direct, positions, station = [], [], [], [], []
    for users in dict.fromkeys(link["txrx"]["rx_set_id"] for link in links):
        members = [index for index, link in enumerate(links) if link["txrx"]["rx_set_id"] == users]
        missing = [key for index in members for key in _MATRICES if links[index][key] is None]
        if missing:
            raise ValueError(f"{folder} lacks its {missing[0]!r} arrays: copy or convert the scenario again.")
        num_paths = max(links[index]["power"].shape[1] for index in members)

        def stack(key: str, members: list[int] = members, num_paths: int = num_paths) -> np.ndarray:
            """`(base stations, users, paths)`, NaN where there is no path."""
            arrays = [np.asarray(links[index][key], np.float64) for index in members]
            return np.stack([np.pad(x, ((0, 0), (0, num_paths - x.shape[1])), constant_values=np.nan) for x in arrays])

        gain = np.nan_to_num(10 ** (stack("power") / 10), posinf=0.0)
        gain[~np.isfinite(stack("delay"))] = 0.0  # a path without a delay does not count
        strongest = gain.sum(2).argmax(0)
        each = np.arange(gain.shape[1])
        gains.append(gain[strongest, each])
        delays.append(stack("delay")[strongest, each])
        direct.append((stack("inter")[strongest, each] == _LINE_OF_SIGHT) & (gains[-1] > 0))
        positions.append(links[members[0]]["rx_pos"])
        station.append(serving[members][strongest])

    width = max(gain.shape[1] for gain in gains)
    gain, delay, direct = (
        np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in arrays])
        for arrays in (gains, delays, direct)
    )
    has_paths = gain.any(1)
    if not has_paths.any():
        raise ValueError(
            f"None of the {len(gain)} users of {folder} has a path: trace it again with users nearer to base stations."
        )
    delay = np.where(gain > 0, delay, np.inf)[has_paths]
    order = delay.argsort(1, kind="stable")
    gain, delay = (np.take_along_axis(x, order, 1) for x in (gain[has_paths], delay))
    delay = np.where(gain > 0, delay - delay[:, :1], 0.0)
    return Scenario(
        name=folder.name,
        carrier_hz=carrier_hz,
        delays_s=torch.from_numpy(delay).float(),
        powers=torch.from_numpy(gain).float(),
        line_of_sight=torch.from_numpy(direct.any(1)[has_paths]),
        positions=torch.from_numpy(np.concatenate(positions)[has_paths]).float(),
        base_station=torch.from_numpy(np.concatenate(station)[has_paths]).long(),
        stations=torch.from_numpy(stations).float(),
    )

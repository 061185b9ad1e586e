"""The likelihood bound of the modulation tasks: what an ideal observer of each protocol would score on their rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.recipe import MODES, MODULATIONS, PROTOCOLS, SNRS_DB, stable_seed
from .bound import likelihood_bound
from .tasks import Labels, Task

# Subcarriers with data of a WiFi symbol, at most (802.11n); carriers of LTE and 5G fill all bins of a spectrogram, or
# less, and less of them is known to nobody.
_WIFI_SUBCARRIERS = 52


def num_elements(protocol: str, num_frames: int, num_freq_bins: int) -> int:
    """Resource elements that a spectrogram of a protocol shows at most: one a frame and a subcarrier."""
    return num_frames * (min(_WIFI_SUBCARRIERS, num_freq_bins) if protocol == "WiFi" else num_freq_bins)


def recalls(protocol: str, num: int, trials: int, snr_db: float) -> dict[str, float]:
    """How often each modulation of a protocol is recognised at an SNR by the observer of [`likelihood_bound`].

    Args:
        protocol (`str`): One of `PROTOCOLS`.
        num (`int`): Resource elements.
        trials (`int`): Of each modulation.
        snr_db (`float`): [dB].
    """
    modulations = tuple(dict.fromkeys(name for name, _ in MODES[protocol]))
    generator = torch.Generator().manual_seed(stable_seed("bound", modulations, num, snr_db) % 2**31)
    bound = likelihood_bound(modulations, (snr_db,), num, generator, num_trials=trials)
    return dict(zip(modulations, bound.confusion.diagonal().tolist(), strict=True))


class ModulationBound:
    """The bound for tasks, each protocol and SNR computed once; LTE and 5G send the same modulations.

    Args:
        num_frames, num_freq_bins (`int`): Of spectrograms.
        trials (`int`): Monte Carlo trials of each modulation and SNR.
    """

    def __init__(self, num_frames: int, num_freq_bins: int, trials: int):
        self.shape, self.trials = (num_frames, num_freq_bins), trials
        self._found: dict[tuple, dict[str, float]] = {}

    def record(self, task: Task, labels: Labels, rows: Sequence[int]) -> dict[str, Any]:
        """What the observer scores on the rows that a task is tested on, had it been told their protocol.

        Returns:
            `dict`: `accuracy`; `per_snr`, the accuracy by SNR; `trials`, `num_elements` by protocol.
        """
        hits = np.array(
            [
                self._recall(PROTOCOLS[labels["protocol"][row]], float(labels["snr_db"][row]))[
                    MODULATIONS[labels["modulation"][row]]
                ]
                for row in rows
            ]
        )
        snr_db = labels["snr_db"][rows]
        return {
            "accuracy": float(hits.mean()),
            "per_snr": {f"{value:g}": float(hits[snr_db == value].mean()) for value in SNRS_DB if value in snr_db},
            "trials": self.trials,
            "num_elements": {name: num_elements(name, *self.shape) for name in task.protocols},
        }

    def _recall(self, protocol: str, snr_db: float) -> dict[str, float]:
        key = (MODES[protocol], num_elements(protocol, *self.shape), snr_db)
        if key not in self._found:
            self._found[key] = recalls(protocol, key[1], self.trials, snr_db)
        return self._found[key]

"""The likelihood bound of the modulation tasks: what an ideal observer of each protocol would score on their rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.recipe import MODES, MODULATIONS, PROTOCOLS, SNRS_DB, stable_seed
from .bound import likelihood_bound
from .tasks import BenchmarkTask, Labels

# Subcarriers with data of a WiFi symbol, at most (802.11n). LTE and 5G count as filling all bins of a spectrogram:
# for carriers that fill fewer, the bound is only looser.
_WIFI_SUBCARRIERS = 52


def num_elements(protocol: str, num_frames: int, num_freq_bins: int) -> int:
    """Most resource elements that a spectrogram of a protocol can show: one per frame and subcarrier."""
    return num_frames * (min(_WIFI_SUBCARRIERS, num_freq_bins) if protocol == "WiFi" else num_freq_bins)


def modulations_of(protocol: str) -> tuple[str, ...]:
    """The modulations that a protocol uses."""
    return tuple(dict.fromkeys(name for name, _ in MODES[protocol]))


def recalls(
    modulations: tuple[str, ...], num: int, trials: int, snr_db: float, prior: tuple[float, ...] | None = None
) -> dict[str, float]:
    """How often the observer of [`likelihood_bound`] recognizes each modulation at an SNR.

    Args:
        modulations (`tuple[str, ...]`): Those of a protocol.
        num (`int`): Resource elements.
        trials (`int`): Of each modulation.
        snr_db (`float`): [dB].
        prior (`tuple[float, ...]`, *optional*): How likely each is.
    """
    generator = torch.Generator().manual_seed(stable_seed("bound", modulations, num, snr_db) % 2**31)
    bound = likelihood_bound(modulations, (snr_db,), num, generator, prior=prior, num_trials=trials)
    return dict(zip(modulations, bound.confusion.diagonal().tolist(), strict=True))


class ModulationBound:
    """The bound for tasks; each protocol and SNR is computed once. LTE and 5G use the same modulations.

    The observer also knows how often each modulation occurs in the rows of a protocol. If classes are balanced over
    several protocols, BPSK, which only WiFi has, is more likely in its rows than QPSK, with which it ties.

    Args:
        num_frames, num_freq_bins (`int`): Of spectrograms.
        trials (`int`): Monte Carlo trials of each modulation and SNR.
    """

    def __init__(self, num_frames: int, num_freq_bins: int, trials: int):
        self.shape, self.trials = (num_frames, num_freq_bins), trials
        self._found: dict[tuple, dict[str, float]] = {}

    def record(self, task: BenchmarkTask, labels: Labels, rows: Sequence[int]) -> dict[str, Any]:
        """Score of the observer on the test rows of a task, given their protocol.

        Returns:
            `dict`: `accuracy`; `per_snr`, the accuracy by SNR; `trials`, `num_elements` by protocol.
        """
        protocol, modulation, snr_db = (labels[name][rows] for name in ("protocol", "modulation", "snr_db"))
        names = {index: modulations_of(PROTOCOLS[index]) for index in np.unique(protocol).tolist()}
        priors = {
            index: tuple(int((modulation[protocol == index] == MODULATIONS.index(name)).sum()) for name in sent)
            for index, sent in names.items()
        }
        hits = np.array(
            [
                self._recall(PROTOCOLS[sender], float(snr), priors[sender])[MODULATIONS[sent]]
                for sender, sent, snr in zip(protocol.tolist(), modulation.tolist(), snr_db.tolist(), strict=True)
            ]
        )
        return {
            "accuracy": float(hits.mean()),
            "per_snr": {f"{value:g}": float(hits[snr_db == value].mean()) for value in SNRS_DB if value in snr_db},
            "trials": self.trials,
            "num_elements": {name: num_elements(name, *self.shape) for name in task.protocols},
        }

    def _recall(self, protocol: str, snr_db: float, prior: tuple[int, ...]) -> dict[str, float]:
        most = max(prior)
        key = (modulations_of(protocol), num_elements(protocol, *self.shape), snr_db)
        key += (tuple(count / most for count in prior),)
        if key not in self._found:
            names, num, _, shares = key
            self._found[key] = recalls(names, num, self.trials, snr_db, shares)
        return self._found[key]

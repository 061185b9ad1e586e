"""A made-up pool: labels as the generator draws them, spectrograms of noise."""

import numpy as np
import torch

from lwm_spectro_hf.data.recipe import MODES, MODULATIONS, PROTOCOLS, SNRS_DB
from lwm_spectro_hf.evaluation.networks import Budget
from lwm_spectro_hf.evaluation.presets import Preset
from lwm_spectro_hf.evaluation.tasks import TASKS

TINY = Preset(
    name="tiny",
    num_rows=1800,
    test_rows=56,
    seeds=2,
    shots={"joint-lte": (2, 3, 1000), **{name: (2,) for name in TASKS if name != "joint-lte"}},
    finetuned_shots={"joint-lte": (2, 3)},
    trained_shots={"joint-lte": (2,)},
    imagenet_shots={},
    models=("lwm-knn", "raw-knn", "cnn-wu"),
    budget=Budget(steps=2, batch_size=8),
    bound_trials=1,
)


def pool_labels(num: int = TINY.num_rows, seed: int = 0) -> dict[str, np.ndarray]:
    """`num` rows of 90 users in one city."""
    generator = np.random.default_rng(seed)
    protocol = np.arange(num) % len(PROTOCOLS)
    sent = [[MODULATIONS.index(name) for name, _ in MODES[protocol]] for protocol in PROTOCOLS]
    mobility = generator.integers(1, 3, num)
    return {
        "protocol": protocol,
        "modulation": np.array([generator.choice(sent[number]) for number in protocol]),
        "snr_db": generator.choice(SNRS_DB, num).astype(np.float32),
        "mobility": mobility,
        "doppler_hz": np.where(mobility == 1, 15.0, 60.0),
        "user": generator.integers(0, 90, num),
        "scenario": np.full(num, "florence"),
        "index": np.arange(num),
    }


def pool_spectrograms(labels: dict[str, np.ndarray], num_channels: int = 1) -> torch.Tensor:
    """16 frames x 24 bins of noise, whose level depends on SNR and modulation."""
    num = len(labels["index"])
    noise = torch.randn(num, num_channels, 16, 24, generator=torch.Generator().manual_seed(0))
    level = torch.from_numpy(labels["snr_db"] / 10 + labels["modulation"])
    return (noise + level[:, None, None, None]).half()

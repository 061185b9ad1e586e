"""A checkpoint and recordings small enough for every test."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from tiny_models import build

SAMPLING_RATE = 1e6


@pytest.fixture(autouse=True)
def fixed_seed():
    """Weights and values that a test draws without a generator are the same whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_extractor() -> SpectrogramFeatureExtractor:
    """For the grid of `tiny_models`: 16 frames x 24 bins; a dense view has 16 * 24 = 384 samples."""
    return SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=24, fft_size=24)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_extractor) -> Path:
    """A folder with an untrained mixture: router, modulation, and the joint head "snr_db+mobility"."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build("moe-classification").save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory) -> Path:
    """A folder with an untrained segmenter for recordings of 1 Msps."""
    folder = tmp_path_factory.mktemp("segmenter")
    build("conv-lstm-segmentation-one").save_pretrained(folder)
    grid = {"num_frames": 16, "num_freq_bins": 24, "fft_size": 24}
    SpectrogramFeatureExtractor(**grid, sampling_rate=SAMPLING_RATE, hop_length=40).save_pretrained(folder)
    return folder


@pytest.fixture
def noise():
    """`noise(n, seed=0)`: complex white Gaussian samples `(n,)`."""

    def draw(num_samples: int, seed: int = 0) -> np.ndarray:
        parts = np.random.default_rng(seed).standard_normal((num_samples, 2)).astype(np.float32)
        return parts.view(np.complex64)[:, 0]

    return draw


@pytest.fixture
def write_sigmf():
    """`write_sigmf(path, iq)`: writes `path.sigmf-meta` and `path.sigmf-data`, and returns the former."""

    def write(path: Path, iq: np.ndarray, sampling_rate: float = SAMPLING_RATE) -> Path:
        path.with_suffix(".sigmf-data").write_bytes(iq.astype("<c8").tobytes())
        meta = {
            "global": {"core:datatype": "cf32_le", "core:sample_rate": sampling_rate, "core:version": "1.0.0"},
            "captures": [{"core:sample_start": 0, "core:frequency": 2.412e9}],
            "annotations": [],
        }
        path = path.with_suffix(".sigmf-meta")
        path.write_text(json.dumps(meta))
        return path

    return write

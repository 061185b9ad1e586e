"""Random numbers for tests."""

import numpy as np
import torch


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own, so that nothing depends on the tests that ran before."""
    return torch.Generator().manual_seed(seed)


def bounded_noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex64 samples with both parts from -1 to 1, as converters of any width can store them."""
    generator = np.random.default_rng(seed)
    return (generator.uniform(-1, 1, shape) + 1j * generator.uniform(-1, 1, shape)).astype(np.complex64)

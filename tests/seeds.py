"""Random numbers for tests."""

import torch


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own, so that nothing depends on the tests that ran before."""
    return torch.Generator().manual_seed(seed)

"""Views of a spectrogram: what is shifted and mirrored stays the same signal."""

import numpy as np
import torch

from lwm_spectro_hf.training.augmentation import augment


def test_rows_start_later_and_mirror_about_dc():
    values = torch.randn(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([[0.0, 0.9], [0.25, 0.9], [0.5, 0.1]])
    views = augment(values, noise)
    assert torch.equal(views[0], values[0])
    assert torch.equal(views[1], values[1].roll(-4, 1))
    mirrored = values[2].roll(-8, 1)
    # DC, the bin right of the middle, stays; k bins above it is where k below was.
    assert torch.equal(views[2][..., 12], mirrored[..., 12])
    assert torch.equal(views[2][..., 13:], mirrored[..., 1:12].flip(-1))


def test_the_mirror_is_that_of_the_conjugate_signal(tiny_extractor):
    generator = np.random.default_rng(0)
    iq = (generator.standard_normal(384) + 1j * generator.standard_normal(384)).astype(np.complex64)
    iq = torch.from_numpy(iq * np.exp(2j * np.pi * 0.2 * np.arange(384)).astype(np.complex64))[None]
    mirror = augment(tiny_extractor.spectrogram(iq), torch.tensor([[0.0, 0.1]]))
    torch.testing.assert_close(mirror, tiny_extractor.spectrogram(iq.conj().resolve_conj()), rtol=0, atol=1e-3)

"""Views of a spectrogram: what is shifted and mirrored stays the same signal."""

import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
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


@pytest.mark.parametrize("num_bins", [24, 23])
def test_the_mirror_is_that_of_the_conjugate_signal(noise, num_bins):
    extractor = SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=num_bins, fft_size=num_bins)
    iq = torch.from_numpy(noise(16 * num_bins))[None]
    mirror = augment(extractor.spectrogram(iq), torch.tensor([[0.0, 0.1]]))
    torch.testing.assert_close(mirror, extractor.spectrogram(iq.conj()), rtol=0, atol=1e-3)

"""Augmented spectrograms are those of the same signal, heard from another moment or with I and Q exchanged."""

import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.training.augmentation import augment


@pytest.mark.parametrize("num_bins", [24, 23])
def test_views_are_circular_shifts_and_mirror_images_by_conjugation(noise, num_bins):
    extractor = SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=num_bins, fft_size=num_bins)
    iq = torch.from_numpy(noise(16 * num_bins))[None]
    plain, mirrored = (extractor.spectrogram(samples)[0] for samples in (iq, iq.conj()))
    possible = [view.roll(-shift, 1) for view in (plain, mirrored) for shift in range(16)]
    batch = plain.expand(64, -1, -1, -1)
    views = augment(batch, torch.Generator().manual_seed(0))
    found = [[bool(torch.allclose(view, other, atol=1e-4)) for other in possible].index(True) for view in views]
    assert 20 <= sum(index >= 16 for index in found) <= 44 and len({index % 16 for index in found}) > 10
    assert torch.equal(views, augment(batch, torch.Generator().manual_seed(0)))
    assert torch.equal(batch[0], plain)

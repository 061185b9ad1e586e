"""OFDM modulation against a demodulator written out in NumPy, and the standards' sample counts."""

import numpy as np
import pytest
import torch

from lwm_spectro_hf.phy import lte, nr
from lwm_spectro_hf.phy.ofdm import Numerology, cyclic_prefix_3gpp, modulate


@pytest.mark.parametrize("dc_used", [True, False])
def test_numpy_demodulator_recovers_the_grid(dc_used):
    numerology = Numerology(64 * 15e3, 15e3, 64, dc_used)
    grid = torch.randn(2, 14, 36, dtype=torch.complex64)
    prefix = torch.tensor([10] + [9] * 6).repeat(2)
    samples, starts = modulate(grid, numerology, prefix)
    assert samples.shape == (2, int(prefix.sum()) + 14 * 64)
    for symbol, start in enumerate(starts.tolist()):
        useful = samples[:, start : start + 64].numpy()
        spectrum = np.fft.fftshift(np.fft.fft(useful, axis=-1), axes=-1) / 8
        negative, positive = spectrum[:, 32 - 18 : 32], spectrum[:, 32 + (not dc_used) : 32 + 18 + (not dc_used)]
        np.testing.assert_allclose(np.hstack([negative, positive]), grid[:, symbol].numpy(), atol=1e-5)
        length = int(prefix[symbol])
        torch.testing.assert_close(samples[:, start - length : start], samples[:, start + 64 - length : start + 64])


def test_too_many_subcarriers_are_an_error():
    numerology = Numerology(64 * 15e3, 15e3, 64, dc_used=False)
    with pytest.raises(ValueError, match="64 subcarriers do not fit into a DFT of 64"):
        modulate(torch.zeros(1, 1, 64, dtype=torch.complex64), numerology, torch.tensor([4]))


@pytest.mark.parametrize(
    "numerology", [lte.numerology(100), lte.numerology(6), lte.numerology(75), nr.numerology(52, 15e3)]
)
def test_a_subframe_of_15_khz_lasts_a_millisecond(numerology):
    prefix = cyclic_prefix_3gpp(numerology, 14)
    assert int(prefix.sum()) + 14 * numerology.fft_size == round(numerology.sampling_rate * 1e-3)
    if numerology.fft_size == 2048:
        assert prefix.tolist() == [160] + [144] * 6 + [160] + [144] * 6


def test_30_khz_has_one_long_prefix_every_half_millisecond():
    numerology = nr.numerology(106, 30e3)
    prefix = cyclic_prefix_3gpp(numerology, 28)
    assert int(prefix.sum()) + 28 * numerology.fft_size == round(numerology.sampling_rate * 1e-3)
    assert (prefix > prefix.min()).nonzero().flatten().tolist() == [0, 14]

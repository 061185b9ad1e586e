"""LTE's primary synchronization signal as evidence, anywhere in a recording of 15 kHz symbols."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma

from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.phy import lte, nr
from lwm_spectro_hf.phy.cell_search import _rareness_of_sums, _surprise, lte_evidence
from lwm_spectro_hf.phy.listening import listen


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64)


def downlink(module, num_ms, snr_db, full=1.0, seed=3):
    """A cell of 25 resource blocks at 7.68 Msps: `lte` or `nr` with 15 kHz."""
    generator = torch.Generator().manual_seed(seed)
    options = {"modulation": torch.tensor([0]), "code_rate": torch.tensor([0.5]), "full": torch.tensor([full > 0.5])}
    if module is lte:
        waveform = lte.draw(25, 1, round(num_ms * 7680), generator, **options)
        samples = waveform.samples
    else:  # 5.76 Msps
        waveform = nr.draw(25, 15e3, 1, round(num_ms * 5760), generator, carrier_hz=2e9, **options)
        spectrum = torch.fft.fftshift(torch.fft.fft(waveform.samples), dim=1)
        beside = round(num_ms * 960)
        samples = torch.fft.ifft(torch.fft.ifftshift(torch.nn.functional.pad(spectrum, (beside, beside)), dim=1))
    samples = samples / samples.abs().square().mean().sqrt()
    # The SNR is that in the carrier, and noise fills the whole band.
    return samples + 10 ** (-snr_db / 20) * math.sqrt(7.68 / 4.5) * noise(*samples.shape)


@pytest.mark.parametrize("snr_db", [0, 30])
@pytest.mark.parametrize("full", [0.0, 1.0])
def test_lte_is_told_from_5g_with_the_same_symbols(snr_db, full):
    assert lte_evidence(downlink(lte, 20, snr_db, full), 7.68e6).item() > 4
    assert lte_evidence(downlink(nr, 20, snr_db, full), 7.68e6).item() < 0


@pytest.mark.parametrize("offset_hz", [-2.3e6, 137e3, 3.3e6])
def test_the_carrier_may_be_anywhere(offset_hz):
    iq = downlink(lte, 12, 10)
    time = torch.arange(iq.shape[1]) / 7.68e6
    turned = iq * torch.polar(torch.ones_like(time), (2 * math.pi * offset_hz * time) % (2 * math.pi))
    assert lte_evidence(turned, 7.68e6).item() > 4


def test_one_signal_is_enough_and_short_recordings_say_little():
    iq = downlink(lte, 20, 20)
    assert lte_evidence(iq[:, : 6 * 7680], 7.68e6).item() > 4
    least = {num_ms: lte_evidence(noise(1, num_ms * 7680), 7.68e6).item() for num_ms in (1, 2, 10)}
    assert 0 > least[1] > -0.3 and -0.3 > least[2] > -0.6 and least[10] == pytest.approx(-2)
    assert lte_evidence(noise(2, 600), 7.68e6).tolist() == [0, 0]
    assert torch.isfinite(lte_evidence(torch.zeros(1, 80_000, dtype=torch.complex64), 7.68e6)).all()


def test_recordings_of_a_batch_do_not_mix():
    batch = torch.cat([downlink(lte, 10, 10), downlink(nr, 10, 10), noise(1, 76_800)])
    together = lte_evidence(batch, 7.68e6)
    assert together.tolist() == pytest.approx([lte_evidence(row[None], 7.68e6).item() for row in batch], abs=1e-3)


def test_repetition_alone_is_no_evidence():
    """Reference signals repeat in every half frame, and so does their correlation with any waveform."""
    again = noise(70, 512, seed=5).repeat(4, 1)
    assert _surprise(again) < 5
    assert _surprise(noise(280, 512, seed=5)) < 5


def test_surprise_is_calibrated_on_noise():
    """The best of all places is as rare as the best of as many draws from gamma distributions."""
    found = [float(_surprise(noise(140, 128, seed=seed))) for seed in range(20)]
    # Places overlap, so fewer are independent than are counted: the mean is somewhat below zero.
    assert -4 < np.mean(found) < 1 and max(found) < 5
    sums, together = torch.tensor([0.0, 0.3, 10.0, 25.0, 60.0]), torch.tensor([1, 2, 8])[:, None]
    expected = -gamma.logsf(sums.numpy(), together.numpy())
    rareness = _rareness_of_sums(sums.expand(3, 5), together)
    np.testing.assert_allclose(rareness, expected, rtol=1e-5, atol=1e-5)


def test_demo_recordings_are_told_apart(request):
    recordings = request.config.rootpath / "examples/recordings"
    recording = open_recording(recordings / "lte_1.4mhz_10ms.sigmf-meta")
    lte_, nr_ = listen(recording.read(), recording.sampling_rate, ("LTE", "5G")).evidence
    assert lte_ > nr_ + 4
    recording = open_recording(recordings / "nr_10mhz_10ms.sigmf-meta")
    lte_, nr_ = listen(recording.read(), recording.sampling_rate, ("LTE", "5G")).evidence
    assert nr_ > lte_

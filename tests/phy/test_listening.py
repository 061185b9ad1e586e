"""Cyclic prefixes as evidence of a standard, and the symbols that a recording is then heard by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.phy.listening import listen
from lwm_spectro_hf.phy.ofdm import Numerology, cyclic_prefix_3gpp, modulate
from lwm_spectro_hf.phy.synchronization import SPACING_WIFI_HZ, prefix_evidence

RECORDINGS = Path(__file__).parents[2] / "examples/recordings"
PROTOCOLS = ("WiFi", "LTE", "5G")


def noise(num_samples, seed=0):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64).numpy()


def cell(spacing_hz, num_symbols, snr_db=0.0):
    """A downlink of random QPSK on 72 of 128 subcarriers, and noise."""
    numerology = Numerology(128 * spacing_hz, spacing_hz, 128, dc_used=False)
    bits = torch.randint(0, 2, (1, num_symbols, 72, 2), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    grid = torch.view_as_complex(bits) / 2**0.5
    samples = modulate(grid, numerology, cyclic_prefix_3gpp(numerology, num_symbols))[0][0].numpy()
    return samples + noise(len(samples)) * 10 ** (-snr_db / 20)


@pytest.mark.parametrize(
    "name, sampling_rate, likeliest",
    [("wifi_11a_16qam_36mbps", 20e6, {"WiFi"}), ("lte_1.4mhz_10ms", 1.92e6, {"LTE", "5G"})],
)
def test_recordings_are_told_by_their_symbols(name, sampling_rate, likeliest):
    iq = open_recording(RECORDINGS / f"{name}.sigmf-meta").read()
    evidence = dict(zip(PROTOCOLS, listen(iq, sampling_rate, PROTOCOLS).evidence, strict=True))
    assert {protocol for protocol, value in evidence.items() if value > 2} == likeliest


@pytest.mark.parametrize("spacing_hz, likeliest", [(15e3, {"LTE", "5G"}), (30e3, {"5G"})])
def test_cells_are_told_at_any_rate_and_heard_by_their_symbols(spacing_hz, likeliest):
    native_hz = 128 * spacing_hz
    iq = cell(spacing_hz, 300)
    for up, down in ((1, 1), (125, 48)):  # the second is 2.6 times the rate: 5 or 10 Msps
        heard = listen(1e-3 * resample_poly(iq, up, down) + 0.1, native_hz * up / down, PROTOCOLS)
        evidence = dict(zip(PROTOCOLS, heard.evidence, strict=True))
        assert {protocol for protocol, value in evidence.items() if value > 2} == likeliest
        # Of a symbol that is cut out as it was sent nothing is left outside of its 72 subcarriers but noise.
        power = np.abs(np.fft.fft(heard.frames.reshape(128, 128))) ** 2
        inside = np.r_[1:37, 92:128]
        assert heard.frames.dtype == np.complex64
        assert power[:, inside].mean() > 1.6 * np.delete(power, inside, axis=1)[:, 1:].mean()


def test_leakage_at_dc_that_drifts_hides_no_prefixes():
    iq = cell(30e3, 300)
    time = np.arange(len(iq)) / 3.84e6
    leakage = 1e3 * np.exp(2j * np.pi * 400 * time - 200 * time)
    assert listen(iq + leakage, 3.84e6, PROTOCOLS).evidence[2] > 2


def test_noise_silence_and_short_recordings_are_evidence_of_nothing():
    assert (listen(noise(400_000), 20e6, PROTOCOLS).evidence < 0).all()
    assert listen(noise(400_000), 20e6, PROTOCOLS).frames is None
    for short in (noise(20), noise(300)):
        heard = listen(short, 20e6, PROTOCOLS)
        assert heard.frames is None and (heard.evidence == 0).all()
    # Too slow for any of them, and protocols that have no such symbols.
    assert (listen(noise(40_000), 1e6, PROTOCOLS).evidence == 0).all()
    assert (listen(noise(40_000), 20e6, ("LoRa", "DECT")).evidence == 0).all()
    silence = torch.zeros(2, 40_000, dtype=torch.complex64)
    for spacing_hz, rate in ((SPACING_WIFI_HZ, 20e6), (15e3, 1.92e6)):
        assert bool(torch.isfinite(prefix_evidence(silence, rate, spacing_hz)).all())


def test_symbols_that_do_not_fill_a_spectrogram_are_evidence_all_the_same():
    heard = listen(cell(15e3, 100, snr_db=10), 1.92e6, PROTOCOLS)
    assert heard.frames is None and heard.evidence[1] > 2 > heard.evidence[0]


def test_the_loudest_stretch_is_heard():
    iq = cell(15e3, 420, snr_db=20)  # 30 ms
    iq[: len(iq) // 2] *= 0.1
    heard = listen(iq, 1.92e6, ("LTE",))
    assert np.mean(np.abs(heard.frames) ** 2) > 0.5 * np.mean(np.abs(iq[len(iq) // 2 :]) ** 2)

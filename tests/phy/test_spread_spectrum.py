"""Packets of 802.11b (direct-sequence spread spectrum), and signals that must not be taken for them."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from lwm_spectro_hf.phy.listening import listen
from lwm_spectro_hf.phy.spread_spectrum import BARKER, spreading_evidence
from lwm_spectro_hf.phy.synchronization import EVIDENCE, equally_loud

PROTOCOLS = ("WiFi", "LTE", "5G")
LEAST, MOST = EVIDENCE


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).normal(size=(num_samples, 2)) @ (1, 1j) / 2**0.5


def packets(num_samples, rate_mhz, snr_db, offset_hz=0.0):
    """Noise at `rate_mhz`, with a packet of 200 us in every 500."""
    bits = np.random.default_rng(1).choice([-1, 1], size=num_samples // rate_mhz + 2)
    chips = np.outer(bits.cumprod(), BARKER).ravel()
    # Through a filter that lets through half of the main lobe at 10 Msps, and all of it at 44.
    sent = resample_poly(np.repeat(chips, 4), rate_mhz, 44)[:num_samples]
    sent = sent * (np.arange(num_samples) // (100 * rate_mhz) % 5 < 2)
    sent = sent * np.exp(2e-6j * np.pi * offset_hz / rate_mhz * np.arange(num_samples))
    return sent + 10 ** (-snr_db / 20) * noise(num_samples)


def evidence(iq, rate_mhz):
    flat = equally_loud(torch.from_numpy(np.complex64(iq))[None], rate_mhz * 1e6)
    return float(spreading_evidence(flat, rate_mhz * 1e6))


@pytest.mark.parametrize("rate_mhz", [5, 10, 20, 44])
def test_packets_are_found_at_any_rate_and_carrier_offset(rate_mhz):
    for offset_hz in (0.0, 90e3):
        assert evidence(packets(5000 * rate_mhz, rate_mhz, 5.0, offset_hz), rate_mhz) > 2


def test_packets_are_found_below_the_noise():
    assert evidence(packets(100_000, 20, -5.0), 20) == MOST


@pytest.mark.parametrize(
    "other",
    [
        noise(100_000),
        np.exp(0.7j * np.arange(100_000)) + 0.1 * noise(100_000),  # a tone
        resample_poly(noise(10_000), 10, 1) + 0.1 * noise(100_000),  # a tenth of the band
        np.tile(noise(16), 6250) + 0.1 * noise(100_000),  # repeats every 0.8 us, as WiFi's training fields do
        noise(100_000) * (np.arange(100_000) % 2000 < 60) + 0.1 * noise(100_000, 1),  # short bursts
        np.zeros(100_000),
    ],
)
def test_other_signals_are_not_taken_for_packets(other):
    assert LEAST <= evidence(other, 20) < -1


def test_short_recordings_give_no_evidence():
    assert evidence(packets(1900, 20, 20.0), 20) == 0


@pytest.mark.parametrize("sampling_rate", [1.92e6, 4e6, 5.5e6])
def test_rates_that_do_not_fit_are_named(sampling_rate):
    with pytest.raises(ValueError, match="whole number of MHz"):
        spreading_evidence(torch.zeros(1, 1000, dtype=torch.complex64), sampling_rate)


@pytest.mark.parametrize("rate_mhz", [5, 25, 61])
def test_recordings_with_such_packets_are_wifi_and_have_no_views(rate_mhz):
    heard = listen(packets(4000 * rate_mhz, rate_mhz, 5.0), rate_mhz * 1e6, PROTOCOLS)
    assert heard.evidence[0] > 2 and max(heard.evidence[1:]) < 0
    assert not len(heard.frames)

"""Oscillators, clocks, noise, filters and rates against closed forms: power and frequency bookkeeping."""

import numpy as np
import pytest
import torch

from lwm_spectro_hf.channel.impairments import (
    add_noise,
    band_edges,
    clock_offset,
    imperfect_mixer,
    lowpass,
    phase_noise,
    quantize,
    receive,
)
from seeds import seeded


def tone(cycles_per_sample, num_samples):
    phase = 2 * np.pi * np.outer(np.atleast_1d(cycles_per_sample), np.arange(num_samples))
    return torch.from_numpy(np.exp(1j * phase)).to(torch.complex64)


def error_db(result, expected):
    return 10 * float(((result - expected).abs().square().mean() / expected.abs().square().mean()).log10())


@pytest.mark.parametrize("num_samples", [500, 40_000])
def test_clock_offset_is_a_longer_sampling_interval(num_samples):
    ppm = torch.tensor([40.0, -25.0, 0.0])
    frequency = np.random.default_rng(0).uniform(-0.46, 0.46, 25)
    samples = tone(frequency, num_samples).sum(0).expand(3, -1)
    expected = torch.stack([tone(frequency * (1 + 1e-6 * float(value)), num_samples).sum(0) for value in ppm])
    inside = slice(50, -50)
    assert error_db(clock_offset(samples, ppm)[:, inside], expected[:, inside]) < -45


def test_zero_clock_offset_changes_nothing():
    samples = tone([0.2, -0.1], 3000)
    assert error_db(clock_offset(samples, torch.zeros(2))[:, 50:-50], samples[:, 50:-50]) < -60


def test_phase_noise_has_its_power_and_memory():
    num, rate, corner = 20_000, 1e6, 5e3
    out = phase_noise(torch.ones(100, num, dtype=torch.complex64), rate, torch.full((100,), 2.0), corner, seeded())
    torch.testing.assert_close(out.abs(), torch.ones(100, num), atol=1e-5, rtol=0)
    phase = torch.rad2deg(out.angle())
    assert abs(float(phase.square().mean().sqrt()) - 2) < 0.03
    for lag in (10, 32, 100):
        covariance = float((phase[:, lag:] * phase[:, :-lag]).mean())
        assert abs(covariance / 4 - np.exp(-2 * np.pi * corner * lag / rate)) < 0.03


def test_noise_has_the_requested_power():
    snr_db = torch.linspace(-5, 25, 10_000)
    samples = tone(np.full(10_000, 0.1), 64)
    noise = add_noise(samples, 10 ** (-snr_db / 10), seeded()) - samples
    measured = -10 * (noise.abs().square().mean(1) * 10 ** (snr_db / 10)).mean().log10()
    assert abs(float(measured)) < 0.02
    assert abs(float((noise.real * noise.imag).mean())) < 1e-2 * float(noise.abs().square().mean())


def receive_tone(offset_hz, num_samples, noise=0.0, tone_hz=1e6, filter_probability=0.0, batch_size=1):
    rate, num_in = 10e6, 4000
    return receive(
        tone(np.full(batch_size, tone_hz / rate), num_in),
        rate,
        num_samples,
        occupied_hz=6e6,
        offset_hz=torch.full((batch_size,), offset_hz),
        noise_power=torch.full((batch_size,), noise),
        generator=seeded(),
        filter_probability=filter_probability,
    )


@pytest.mark.parametrize("filter_probability", [0.0, 1.0])
@pytest.mark.parametrize("num_samples", [4000, 8000, 5000, 3500])
def test_receiver_puts_a_tone_where_it_belongs(num_samples, filter_probability):
    out = receive_tone(0.5e6, num_samples, filter_probability=filter_probability)
    rate_out = 10e6 * num_samples / 4000
    torch.testing.assert_close(out, tone(1.5e6 / rate_out, num_samples), atol=1e-3, rtol=0)


def test_noise_keeps_its_density_when_the_rate_changes():
    for num_samples in (4000, 8000):
        noise = receive_tone(0.0, num_samples, noise=1.0) - receive_tone(0.0, num_samples, noise=0.0)
        inside = torch.fft.fft(noise)[0, np.r_[1:1100, -1100:0]].abs().square().mean() / num_samples
        # At twice the rate the same density is twice the power.
        assert abs(float(inside) * 4000 / num_samples - 1) < 0.1


def test_filter_of_the_carrier_leaves_no_noise_beside_it():
    noise = receive_tone(2e6, 10_000, noise=1.0, filter_probability=1.0, batch_size=20)  # 25 MHz around the carrier
    density = torch.fft.fft(noise - receive_tone(2e6, 10_000, 0.0, 1e6, 1.0, 20)).abs().square()
    frequency = torch.fft.fftfreq(10_000, 1 / 25e6)
    beside = (frequency - 2e6).abs() > 1.26 * 3.03e6
    inside = (frequency - 2e6).abs() < 3e6
    suppression = density[:, beside].mean(1) / density[:, inside].mean(1)
    assert suppression.max() < 10**-9.5


def test_mixer_adds_the_requested_leakage_and_image():
    out = imperfect_mixer(tone(0.1, 20_000), torch.tensor([-10.0]), torch.tensor([-20.0]), seeded())
    spectrum = 20 * np.log10(np.abs(np.fft.fft(out[0].numpy()) / 20_000) + 1e-9)
    assert abs(spectrum[2000]) < 0.1 and abs(spectrum[0] + 10) < 0.1 and abs(spectrum[-2000] + 20) < 0.1


def test_converter_has_its_levels_and_noise():
    samples = torch.randn(2, 50_000, dtype=torch.complex64, generator=seeded())
    out = quantize(samples, torch.tensor([3, 8]))
    largest = torch.view_as_real(samples).abs().amax((1, 2))
    assert len(out[0].real.unique()) <= 7
    step = float(largest[1]) / 127
    assert abs(float((out[1] - samples[1]).abs().square().mean()) / (step**2 / 6) - 1) < 0.02
    assert (quantize(torch.zeros(1, 10, dtype=torch.complex64), torch.tensor([8])) == 0).all()


def test_edges_of_the_band_fall_off_and_its_middle_stays():
    samples = tone([0.02, -0.38, 0.47, -0.5], 1000)
    kept = band_edges(samples, 1e6, torch.full((4,), 0.4e6), torch.full((4,), 0.1))
    torch.testing.assert_close(kept[:2], samples[:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept[2:].abs().mean(1), torch.full((2,), 1e-3), atol=1e-5, rtol=0)


def test_lowpass_passes_and_stops():
    gain = lowpass(torch.tensor([0.0, 0.9e6, 1.1e6, 5e6]), *(torch.tensor([v]) for v in (1e6, 0.2, -40.0)))
    torch.testing.assert_close(gain[0, [0, 1, 3]], torch.tensor([1.0, 1.0, 0.01]))
    assert 0.01 < float(gain[0, 2]) < 1

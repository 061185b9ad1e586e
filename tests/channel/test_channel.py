"""Fading statistics against their closed forms, and the receiver's power and frequency bookkeeping."""

import numpy as np
import scipy.special
import torch

from lwm_spectro_hf.channel.impairments import imperfect_mixer, lowpass, receive
from lwm_spectro_hf.channel.tdl import TappedDelayLine


def draw(num, doppler_hz=100.0, rician_k=0.0, delay_spread_s=200e-9, seed=0):
    return TappedDelayLine.draw(
        torch.full((num,), delay_spread_s),
        torch.full((num,), doppler_hz),
        torch.full((num,), rician_k),
        torch.Generator().manual_seed(seed),
    )


def test_rayleigh_taps_decorrelate_as_bessel_j0():
    lag_s = torch.linspace(0, 5.52 / (2 * np.pi * 100), 23)  # out to the second zero of J0
    channel = draw(3000)
    gains = channel.tap_gains(lag_s.expand(3000, -1)) / channel.powers.sqrt()[..., None]
    correlation = (gains[..., :1].conj() * gains).mean((0, 1))
    expected = scipy.special.j0(2 * np.pi * 100 * lag_s.numpy())
    np.testing.assert_allclose(correlation.real.numpy(), expected, atol=0.03)


def test_mean_power_is_one_and_fading_is_deep():
    channel = draw(4000)
    response = channel.frequency_response(torch.zeros(4000, 1), torch.tensor([0.0]))[:, 0, 0].abs().square()
    assert abs(float(response.mean()) - 1) < 0.05
    # An exponential distribution, as Rayleigh fading has it: 1 - exp(-0.1) of it lies below a tenth.
    assert abs(float((response < 0.1).float().mean()) - (1 - np.exp(-0.1))) < 0.02


def test_rician_first_tap_has_the_k_factor():
    channel = draw(6000, rician_k=4.0)
    first = channel.tap_gains(torch.zeros(6000, 1))[:, 0, 0] / channel.powers[:, 0].sqrt()
    power = first.abs().square()
    # For Rician fading E|h|^4 / E^2|h|^2 = 1 + (2K + 1) / (K + 1)^2.
    ratio = float(power.square().mean() / power.mean().square())
    assert abs(ratio - (1 + 9 / 25)) < 0.04


def test_frequency_response_is_the_transform_of_the_taps():
    channel = draw(3)
    times, frequencies = torch.rand(3, 5) * 1e-2, torch.linspace(-5e6, 5e6, 7)
    gains = channel.tap_gains(times).numpy()
    delays = channel.delays_s.numpy()
    phase = np.exp(-2j * np.pi * delays[:, :, None] * frequencies.numpy())
    expected = np.einsum("blt,blf->btf", gains, phase)
    np.testing.assert_allclose(channel.frequency_response(times, frequencies).numpy(), expected, atol=1e-5)


def test_static_channel_does_not_move():
    gains = draw(10, doppler_hz=0.0).tap_gains(torch.linspace(0, 1, 9).expand(10, -1))
    torch.testing.assert_close(gains, gains[..., :1].expand_as(gains))


def receive_tone(offset_hz, num_samples, noise=0.0, tone_hz=1e6):
    rate, num_in = 10e6, 4000
    tone = torch.exp(2j * torch.pi * tone_hz / rate * torch.arange(num_in)[None].double()).to(torch.complex64)
    return receive(
        tone,
        rate,
        num_samples,
        occupied_hz=6e6,
        offset_hz=torch.tensor([offset_hz]),
        noise_power=torch.tensor([noise]),
        generator=torch.Generator().manual_seed(0),
        filter_probability=0.0,
    )


def test_resampling_and_offset_put_a_tone_where_it_belongs():
    for num_samples in (4000, 8000, 5000, 3500):
        out = receive_tone(0.5e6, num_samples)
        rate_out = 10e6 * num_samples / 4000
        spectrum = np.abs(np.fft.fft(out[0].numpy()))
        frequency = np.fft.fftfreq(num_samples, 1 / rate_out)[spectrum.argmax()]
        assert abs(frequency - 1.5e6) < rate_out / num_samples
        torch.testing.assert_close(out.abs(), torch.ones_like(out.abs()), atol=1e-3, rtol=0)


def test_noise_keeps_its_density_when_the_rate_changes():
    for num_samples in (4000, 8000):
        noise = receive_tone(0.0, num_samples, noise=1.0) - receive_tone(0.0, num_samples, noise=0.0)
        # At twice the rate the same density has twice the power.
        assert abs(float(noise.abs().square().mean()) * 4000 / num_samples - 1) < 0.05


def test_mixer_adds_the_leakage_and_image_that_were_asked():
    num = 20_000
    tone = torch.polar(torch.ones(1, num), 2 * torch.pi * 0.1 * torch.arange(num)[None].float())
    out = imperfect_mixer(tone, torch.tensor([-10.0]), torch.tensor([-20.0]), torch.Generator().manual_seed(0))
    spectrum = 20 * np.log10(np.abs(np.fft.fft(out[0].numpy()) / num) + 1e-9)
    assert abs(spectrum[2000]) < 0.1 and abs(spectrum[0] + 10) < 0.1 and abs(spectrum[-2000] + 20) < 0.1


def test_lowpass_passes_and_stops():
    gain = lowpass(torch.tensor([0.0, 0.9e6, 1.1e6, 5e6]), *(torch.tensor([v]) for v in (1e6, 0.2, -40.0)))
    torch.testing.assert_close(gain[0, [0, 1, 3]], torch.tensor([1.0, 1.0, 0.01]))
    assert 0.01 < float(gain[0, 2]) < 1

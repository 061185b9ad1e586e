"""Fading statistics against their closed forms, and samples against direct sums without filters."""

import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
import torch

from lwm_spectro_hf.channel.profiles import PowerDelayProfile, exponential_profile, tdl_profile
from lwm_spectro_hf.channel.tdl import TappedDelayLine

DOPPLER_HZ = 100.0
SECOND_ZERO_S = 5.5201 / (2 * np.pi * DOPPLER_HZ)


def draw(num, doppler_hz=DOPPLER_HZ, rician_k=0.0, delay_spread_s=200e-9, seed=0, num_taps=12):
    generator = torch.Generator().manual_seed(seed)
    k = torch.full((num,), rician_k)
    profile = exponential_profile(torch.full((num,), delay_spread_s), k, generator, num_taps)
    return TappedDelayLine.draw(profile, torch.full((num,), doppler_hz), generator)


def direct_wave(delay_s, doppler_hz=0.0):
    """A channel of one wave from ahead."""
    profile = PowerDelayProfile(torch.tensor([[delay_s]]), torch.ones(1, 1), torch.tensor([1e9]))
    channel = TappedDelayLine.draw(profile, torch.tensor([doppler_hz]), torch.Generator().manual_seed(0))
    channel.line_of_sight[:, 0] = 0
    return channel


def tones(batch_size, num_tones, num_samples):
    """Frequencies over 0.94 of the band [cycles a sample], complex amplitudes, and their sum."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(-0.47, 0.47, (batch_size, num_tones))
    amplitude = np.exp(2j * np.pi * rng.random((batch_size, num_tones)))
    return frequency, amplitude, tone_sum(frequency, amplitude, num_samples)


def tone_sum(frequency, amplitude, num_samples):
    waves = np.exp(2j * np.pi * frequency[..., None] * np.arange(num_samples))
    return (amplitude[:, None] @ waves)[:, 0]


def as_samples(array):
    return torch.from_numpy(array).to(torch.complex64)


def error_db(result, expected):
    return 10 * np.log10((np.abs(result - expected) ** 2).mean() / (np.abs(expected) ** 2).mean())


def test_rayleigh_taps_decorrelate_as_bessel_j0():
    lag_s = torch.linspace(0, SECOND_ZERO_S, 23)
    channel = draw(2000)
    gains = channel.tap_gains(lag_s.expand(2000, -1)) / channel.profile.powers.sqrt()[..., None]
    correlation = (gains[..., :1].conj() * gains).mean((0, 1))
    expected = scipy.special.j0(2 * np.pi * DOPPLER_HZ * lag_s.numpy())
    np.testing.assert_allclose(correlation.numpy(), expected, atol=0.02)


def test_one_tap_alone_decorrelates_as_bessel_j0():
    lags = np.arange(12)
    gains = draw(1, num_taps=3).tap_gains(SECOND_ZERO_S / 11 * torch.arange(20_000)[None])[0].numpy()
    expected = scipy.special.j0(2 * np.pi * DOPPLER_HZ * SECOND_ZERO_S / 11 * lags)
    for tap in gains:  # long enough that the cross terms of the waves average out
        correlation = [np.mean(tap[:-12].conj() * tap[lag : len(tap) - 12 + lag]) for lag in lags]
        np.testing.assert_allclose(correlation / correlation[0], expected, atol=0.01)


def test_moved_tap_has_the_jakes_spectrum():
    """With all directions equally likely, shifts follow an arcsine law (Clarke's model)."""
    channel = draw(50, num_taps=4)
    shifts = channel.angles.cos().flatten().numpy()
    assert scipy.stats.kstest(shifts, scipy.stats.arcsine(-1, 2).cdf).pvalue > 0.05
    rate, num = 1600.0, 4096
    gains = channel.tap_gains((torch.arange(num) / rate).expand(50, -1))
    spectrum = torch.fft.fft(gains * torch.hann_window(num)).abs().square().mean((0, 1)).numpy()
    shift = np.fft.fftfreq(num, 1 / rate) / DOPPLER_HZ
    assert spectrum[np.abs(shift) > 1.05].sum() < 1e-4 * spectrum.sum()
    for order, moment in ((1, 0.0), (2, 1 / 2), (4, 3 / 8)):
        assert abs((spectrum * shift**order).sum() / spectrum.sum() - moment) < 0.02


def test_tap_powers_match_the_profile():
    num = 10_000
    profile = tdl_profile("A", torch.full((num,), 100e-9))
    channel = TappedDelayLine.draw(profile, torch.full((num,), 400.0), torch.Generator().manual_seed(0))
    gains = channel.tap_gains(0.02 * torch.arange(4).expand(num, -1))  # far enough apart to be independent
    error_db = 10 * (gains.abs().square().mean((0, 2)) / profile.powers[0]).log10()
    assert error_db.abs().max() < 0.1
    # Power under Rayleigh fading is exponentially distributed: 1 - exp(-0.1) of it lies below a tenth.
    power = gains[:, 1].abs().square() / profile.powers[:, 1, None]
    assert abs(float((power < 0.1).float().mean()) - (1 - np.exp(-0.1))) < 0.005


@pytest.mark.parametrize("k_db", [3.0, 9.0])
def test_rician_first_tap_has_the_k_factor(k_db):
    channel = draw(10_000, rician_k=10 ** (k_db / 10), doppler_hz=400.0, num_taps=2)
    gains = channel.tap_gains(0.02 * torch.arange(16).expand(10_000, -1))[:, 0]
    power = (gains.abs().square() / channel.profile.powers[:, :1]).numpy()
    # The squared power of the direct path is 2 E^2|h|^2 - E|h|^4 (moment estimator of Rician fading).
    direct = np.sqrt(2 * power.mean() ** 2 - (power**2).mean())
    assert abs(10 * np.log10(direct / (power.mean() - direct)) - k_db) < 0.1


@pytest.mark.parametrize("rate, doppler_hz, rician_k", [(7.68e6, 400.0, 0.0), (1.92e6, 500.0, 1e9), (20e6, 5.0, 1.0)])
def test_apply_is_the_sum_of_delayed_and_fading_waves(rate, doppler_hz, rician_k):
    num, start_s = 6000, 0.25
    channel = draw(3, doppler_hz=doppler_hz, rician_k=rician_k, delay_spread_s=500e-9)
    channel.line_of_sight[:, 0] = 0  # from ahead: the hardest to interpolate
    frequency, amplitude, samples = tones(3, 30, num)
    times = start_s + torch.arange(num, dtype=torch.float64) / rate
    gains = channel.tap_gains(times.expand(3, -1)).numpy()
    delays = channel.profile.delays_s.double().numpy() * rate
    expected = sum(
        gains[:, tap] * tone_sum(frequency, amplitude * np.exp(-2j * np.pi * frequency * delays[:, tap, None]), num)
        for tap in range(delays.shape[1])
    )
    inside = slice(150, -100)  # away from the ends, beyond which only the waves go on
    result = channel.apply(as_samples(samples), rate, start_s).numpy()
    assert error_db(result[:, inside], expected[:, inside]) < -45


def test_static_apply_is_a_convolution():
    delays = np.array([[0, 3, 11, 40], [0, 1, 2, 300]])
    profile = PowerDelayProfile(torch.from_numpy(delays / 1e6).float(), torch.full((2, 4), 0.25), torch.zeros(2))
    channel = TappedDelayLine.draw(profile, torch.zeros(2), torch.Generator().manual_seed(0))
    samples = tones(2, 200, 30_000)[2] * scipy.signal.windows.tukey(30_000, 0.1)
    result = channel.apply(as_samples(samples), 1e6, start_s=0.3).numpy()
    taps = np.zeros((2, 301), complex)
    np.put_along_axis(taps, delays, channel.tap_gains(torch.zeros(2, 1))[..., 0].numpy(), 1)
    assert error_db(result, scipy.signal.fftconvolve(samples, taps, axes=1)[:, :30_000]) < -60


def test_a_row_may_stand_still_among_moving_ones():
    channel, alone = draw(3), draw(3)
    channel.doppler_hz, alone.doppler_hz = torch.tensor([300.0, 0.0, 30.0]), torch.zeros(3)
    samples = as_samples(tones(3, 50, 20_000)[2])
    result, expected = channel.apply(samples, 2e6)[1, 100:-100], alone.apply(samples, 2e6)[1, 100:-100]
    assert error_db(result.numpy(), expected.numpy()) < -55


@pytest.mark.parametrize("delay", [0.0, 0.25, 7.37, 33.5])
def test_delay_is_right_to_a_hundredth_of_a_sample(delay):
    num, rate = 4096, 1e6
    bins = np.arange(-1800, 1801)
    spectrum = np.zeros(num, complex)
    spectrum[bins] = np.exp(2j * np.pi * np.random.default_rng(1).random(len(bins)))
    period = np.fft.ifft(spectrum)
    out = direct_wave(delay / rate).apply(as_samples(np.tile(period, 3))[None], rate)[0, num : 2 * num]
    transfer = np.fft.fft(out.numpy())[bins] / spectrum[bins]
    np.testing.assert_allclose(np.abs(transfer), 1, atol=5e-3)
    slope = np.polyfit(2 * np.pi * bins / num, np.unwrap(np.angle(transfer)), 1)[0]
    assert abs(-slope - delay) < 0.01
    lags = round(delay) + np.arange(-300, 301) / 100
    correlation = np.exp(2j * np.pi * np.outer(lags, bins) / num) @ transfer
    assert abs(lags[np.abs(correlation).argmax()] - delay) < 0.01


def test_doppler_of_a_direct_wave_moves_a_tone():
    rate = 1e6
    out = direct_wave(0.0, doppler_hz=800.0).apply(torch.ones(1, 50_000, dtype=torch.complex64), rate)[0, 100:-100]
    turn = (out[500:] * out[:-500].conj()).mean().angle() / (2 * torch.pi * 500) * rate
    assert abs(float(turn) - 800) < 0.01


@pytest.mark.parametrize("name", ["D", "E"])
def test_the_direct_wave_of_a_3gpp_profile_has_its_doppler_shift(name):
    profile = tdl_profile(name, torch.full((3,), 100e-9))
    channel = TappedDelayLine.draw(profile, torch.full((3,), DOPPLER_HZ), torch.Generator().manual_seed(0))
    # TR 38.901, clause 7.7.2: the peak in the Doppler spectrum of the first tap is at 0.7 f_D.
    np.testing.assert_allclose(channel.line_of_sight[:, 0].cos(), 0.7, atol=1e-6)
    assert len(channel.line_of_sight[:, 1].unique()) == 3


def test_same_seed_same_samples_and_another_start_another_fading():
    samples = as_samples(tones(2, 20, 4000)[2])
    first, again, later = (draw(2).apply(samples, 1e6, start_s) for start_s in (0.0, 0.0, 1.0))
    assert torch.equal(first, again) and not torch.allclose(first, later)


def test_wrong_number_of_rows_is_named():
    with pytest.raises(ValueError, match=r"\(1, 100\).*3 channels; expected \(3, num_samples\)"):
        draw(3).apply(torch.zeros(1, 100, dtype=torch.complex64), 1e6)

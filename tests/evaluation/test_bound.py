"""The likelihood bound against scipy's densities and figures that were measured before this code existed."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from lwm_spectro_hf.evaluation.bound import (
    likelihood_bound,
    log_likelihood,
    power_levels,
    scale_free_log_likelihood,
)
from seeds import seeded

FOUR = ("QPSK", "16QAM", "64QAM", "256QAM")


def draw_powers(modulation, snr_db, shape, generator):
    levels, weights = power_levels(modulation)
    gains = -torch.rand(shape, generator=generator).log()
    power = levels[torch.multinomial(weights, math.prod(shape), replacement=True, generator=generator)].view(shape)
    noise = torch.randn(shape, dtype=torch.complex64, generator=generator)
    return ((gains * power).sqrt() + 10 ** (-snr_db / 20) * noise).abs().square(), gains


@pytest.mark.parametrize("noise_power", [3.0, 1e-3])
def test_log_likelihood_matches_a_noncentral_chi_square(noise_power):
    power, gains = draw_powers("16QAM", -10 * math.log10(noise_power), (3, 50), seeded())
    levels, weights = power_levels("16QAM")
    found = log_likelihood(power, gains, noise_power, levels, weights)
    density = 0.0
    for level, weight in zip(levels.tolist(), weights.tolist(), strict=True):
        scale = noise_power / 2
        density += weight * stats.ncx2.pdf(power.double() / scale, 2, gains.double() * level / scale) / scale
    torch.testing.assert_close(found, torch.log(torch.as_tensor(density)).sum(1), rtol=1e-4, atol=1e-2)


def test_priors_decide_ties():
    equal = likelihood_bound(("BPSK", "QPSK"), (5,), 20, seeded(), num_trials=8)
    told = likelihood_bound(("BPSK", "QPSK"), (5,), 20, seeded(), prior=(2, 1), num_trials=8)
    assert equal.accuracy == pytest.approx(0.5) and told.accuracy == pytest.approx(2 / 3)
    assert equal.confusion.tolist() == [[0.5, 0.5]] * 2 and told.confusion.tolist() == [[1, 0]] * 2
    # For one element and unequal classes: the integral of the larger product of prior and density.
    noise_power, prior = 10**-1.5, (0.8, 0.2)
    levels = [tuple(part.double().numpy() for part in power_levels(name)) for name in ("QPSK", "256QAM")]

    def joint(p, share, level, weight):
        return share * weight @ stats.ncx2.pdf(2 * p / noise_power, 2, 2 * level / noise_power) * 2 / noise_power

    expected, _ = integrate.quad(
        lambda p: max(joint(p, share, *part) for share, part in zip(prior, levels, strict=True)), 0, 4, limit=200
    )
    options = {"power_gains": torch.ones(1, 1), "num_trials": 4000, "batch_size": 4000}
    bound = likelihood_bound(("QPSK", "256QAM"), (15,), 1, seeded(), prior=prior, **options)
    assert abs(bound.accuracy - expected) < 4 * bound.standard_error
    with pytest.raises(ValueError, match="a share, at least 0, for each of"):
        likelihood_bound(("BPSK", "QPSK"), (5,), 20, seeded(), prior=(1,), num_trials=8)


def test_one_element_gives_the_overlap_of_the_densities():
    noise_power = 10**-1.5
    densities = []
    for name in ("QPSK", "256QAM"):
        levels, weights = (part.double().numpy() for part in power_levels(name))
        densities.append(
            lambda p, levels=levels, weights=weights: (
                weights @ stats.ncx2.pdf(2 * p / noise_power, 2, 2 * levels / noise_power) * 2 / noise_power
            )
        )
    expected, _ = integrate.quad(lambda p: max(density(p) for density in densities) / 2, 0, 4, limit=200)
    bound = likelihood_bound(
        ("QPSK", "256QAM"), (15,), 1, seeded(), power_gains=torch.ones(1, 1), num_trials=4000, batch_size=4000
    )
    assert 0.002 < bound.standard_error < 0.01
    assert abs(bound.accuracy - expected) < 4 * bound.standard_error


@pytest.mark.parametrize(("snr_db", "expected"), [(-5, 0.39), (0, 0.55), (5, 0.68), (10, 0.78), (15, 0.99)])
def test_figures_for_2304_elements(snr_db, expected):
    bound = likelihood_bound(FOUR, (snr_db,), 2304, seeded(), num_trials=24)
    assert bound.accuracy == pytest.approx(expected, abs=0.02 + 3 * bound.standard_error)
    torch.testing.assert_close(bound.confusion.sum(1), torch.ones(4, dtype=torch.float64))


def test_equal_moduli_tie():
    bound = likelihood_bound(("BPSK", "QPSK", "16QAM"), (20,), 256, seeded(), num_trials=8)
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(bound.confusion, expected)
    assert bound.accuracy == pytest.approx(2 / 3)


def test_unknown_scale_is_integrated_out():
    power, gains = draw_powers("QPSK", 10, (2, 200), seeded())
    levels, weights = power_levels("16QAM")
    logarithms = torch.linspace(-0.6, 0.6, 1201, dtype=torch.float64)
    terms = [log_likelihood(power * math.exp(x), gains, 0.1, levels, weights) + 200 * x for x in logarithms.tolist()]
    expected = torch.stack(terms).logsumexp(0) + math.log(1.2 / 1200)
    found = scale_free_log_likelihood(power * 7.0, gains, 0.1, levels, weights) + 200 * math.log(7.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_joint_targets():
    modulations, snrs_db = ("QPSK", "64QAM"), (-5, 0, 25)
    run = {
        (target, known): likelihood_bound(
            modulations, snrs_db, 200, seeded(), target=target, known_power=known, num_trials=24
        )
        for target in ("modulation", "snr_db", "joint")
        for known in (True, False)
    }
    for known in (True, False):
        joint = run["joint", known]
        assert joint.classes == tuple((name, snr_db) for name in modulations for snr_db in snrs_db)
        # The pair is hardest; at 25 dB both parts are certain.
        assert joint.accuracy <= min(run["snr_db", known].accuracy, run["modulation", known].accuracy) + 1e-9
        assert joint.confusion[2, 2] == joint.confusion[5, 5] == 1
    # With the signal's power known, the mean power reveals the noise; up to a factor, only the shape is left.
    assert run["snr_db", True].accuracy > 0.97
    assert 0.6 < run["snr_db", False].accuracy < run["snr_db", True].accuracy


def test_same_seed_gives_the_same_bound():
    first, second = (likelihood_bound(FOUR, (5,), 100, seeded(3), num_trials=8) for _ in range(2))
    torch.testing.assert_close(first.confusion, second.confusion, rtol=0, atol=0)
    third = likelihood_bound(FOUR, np.arange(5, 6), 100, seeded(3), num_trials=8)
    assert torch.equal(third.confusion, first.confusion)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(modulations=("QPSK", "8PSK")), "8PSK"),
        (dict(modulations="QPSK"), "sequence"),
        (dict(modulations=("QPSK", "QPSK")), "different"),
        (dict(snrs_db=()), "at least one"),
        (dict(snrs_db=(float("nan"),)), "finite"),
        (dict(target="snr"), "modulation, snr_db, joint"),
        (dict(num_elements=0), "at least 1"),
        (dict(num_elements=50, known_power=False), "at least 100 with unknown power"),
        (dict(num_trials=0), "num_trials"),
        (dict(power_gains=torch.ones(3, 99)), r"\(num_channels, 100\)"),
        (dict(power_gains=-torch.ones(3, 100)), "not negative"),
    ],
)
def test_bad_input_is_refused(changes, message):
    arguments = dict(modulations=FOUR, snrs_db=(0,), num_elements=100, generator=seeded()) | changes
    with pytest.raises(ValueError, match=message):
        likelihood_bound(**arguments)

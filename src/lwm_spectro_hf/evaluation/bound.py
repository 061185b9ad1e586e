"""The likelihood bound: the best accuracy for modulation and SNR that the powers of resource elements allow.

The observer is given what no model has: the gain |H_k|^2 of every resource element, and every class's distribution.
It sees |Y_k|^2, Y_k = H_k X_k + N_k, with equiprobable symbols and white noise, which is what a spectrogram with one
aligned rectangular window shows (paper, eq. 9): one DFT per OFDM symbol, subcarriers separated. It chooses the class
of largest likelihood, so that no classifier of such spectrograms is better. BPSK and QPSK have the same single modulus
and tie. A taper mixes neighboring elements, so that powers depend on their relative phase: a spectrogram with a
second, tapered window may exceed the bound there, at the price of blurred levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch

from ..phy.sequences import constellation

TARGETS = ("modulation", "snr_db", "joint")


@dataclass
class LikelihoodBound:
    """Result of a Monte Carlo run of the ideal observer.

    Attributes:
        classes (`tuple`): The modulations, the SNRs [dB], or all pairs of them.
        accuracy (`float`): Share of correct decisions.
        standard_error (`float`): Standard deviation of that share over repeated runs; zero where no trial went wrong.
        confusion (`torch.Tensor` of shape `(num_classes, num_classes)`): Share of the decisions, by true class (rows).
            A tie counts in equal parts for the classes in it.
    """

    classes: tuple
    accuracy: float
    standard_error: float
    confusion: torch.Tensor


def power_levels(modulation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers |x|^2 of a constellation and their probabilities, each of shape `(num_levels,)`, float32."""
    power = constellation(modulation).abs().square().double()
    levels, counts = power.round(decimals=5).unique(return_counts=True)
    return levels.float(), counts.float() / counts.sum()


def log_likelihood(
    power: torch.Tensor, power_gains: torch.Tensor, noise_power: float, levels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Log-likelihood of received powers under one constellation and noise power.

    Given its amplitude, |Y|^2 is noncentral chi-square with two degrees of freedom:
    p(|Y|^2) = 1/N0 exp(-(|Y|^2 + A) / N0) I_0(2 |Y| sqrt(A) / N0), with A = |H|^2 |x|^2.

    Args:
        power (`torch.Tensor` of shape `(batch, num_elements)`): |Y_k|^2.
        power_gains (`torch.Tensor` of shape `(batch, num_elements)`): |H_k|^2.
        noise_power (`float`): N0.
        levels (`torch.Tensor` of shape `(num_levels,)`): |x|^2.
        weights (`torch.Tensor` of shape `(num_levels,)`): Their probabilities.

    Returns:
        `torch.Tensor` of shape `(batch,)`, float64.
    """
    received = (power / noise_power).sqrt()[:, None]
    sent = (power_gains[:, None] * levels[:, None] / noise_power).sqrt()
    # exp(-(a^2 + b^2)) I_0(2ab) = exp(-(a - b)^2) i0e(2ab): neither factor overflows.
    log_density = torch.special.i0e(2 * received * sent).log() - (received - sent).square()
    per_element = (log_density + weights.log()[:, None]).logsumexp(1)
    return per_element.sum(-1, dtype=torch.float64) - power.shape[-1] * math.log(noise_power)


def likelihood_bound(
    modulations: Sequence[str],
    snrs_db: Sequence[float],
    num_elements: int,
    generator: torch.Generator,
    *,
    target: str = "modulation",
    prior: Sequence[float] | None = None,
    power_gains: torch.Tensor | None = None,
    known_power: bool = True,
    num_trials: int = 100,
    batch_size: int = 8,
) -> LikelihoodBound:
    """Best accuracy that the powers of resource elements allow if the channel is known.

    All pairs of a modulation and an SNR are equally likely, unless `prior` says otherwise. What is not the target is
    unknown and averaged out: with one SNR and `target="modulation"` the observer knows the SNR; with one modulation
    and `target="snr_db"` it knows the modulation; with several of both, either target is decided without knowing the
    other.

    Args:
        modulations (`Sequence[str]`): Names of constellations, for instance "QPSK" and "16QAM".
        snrs_db (`Sequence[float]`): Mean signal power over noise power in a resource element [dB].
        num_elements (`int`): Resource elements of a spectrogram.
        generator (`torch.Generator`): Source of randomness; all is computed on its device.
        target (`str`, *optional*, defaults to `"modulation"`): What is decided: "modulation", "snr_db" or "joint".
        prior (`Sequence[float]`, *optional*): How likely each modulation is, up to a common factor; known to the
            observer.
        power_gains (`torch.Tensor` of shape `(num_channels, num_elements)`, *optional*): |H_k|^2; trials take the
            channels in turn, scaled to a mean of one. By default every element has independent Rayleigh fading.
        known_power (`bool`, *optional*, defaults to `True`): Whether the observer knows the received signal power. If
            not, as in a normalized spectrogram, it sees |Y_k|^2 only up to a common factor; at least 100 elements.
        num_trials (`int`, *optional*, defaults to 100): Trials of each pair of modulation and SNR.
        batch_size (`int`, *optional*, defaults to 8): Trials at once; bounds the memory.

    Returns:
        [`LikelihoodBound`].

    Raises:
        ValueError: For an unknown modulation or target, an SNR that is not a finite number, a duplicate or missing
            value, gains of another shape or without power, or a count below one (100 elements if power is unknown).
    """
    _check(modulations, snrs_db, num_elements, target, prior, power_gains, known_power, num_trials, batch_size)
    device = generator.device
    prior = torch.ones(len(modulations)) if prior is None else torch.as_tensor(prior)
    prior = (prior.double() / prior.sum()).to(device)
    # Constellations of equal moduli share one likelihood, so that they tie exactly.
    profiles = [tuple(tuple(part.tolist()) for part in power_levels(name)) for name in modulations]
    distinct = list(dict.fromkeys(profiles))
    of_profile = torch.tensor([distinct.index(profile) for profile in profiles], device=device)
    tables = [torch.tensor(profile, device=device) for profile in distinct]
    noise_powers = [10 ** (-snr_db / 10) for snr_db in snrs_db]
    if power_gains is not None:
        power_gains = power_gains.to(device, torch.float32)
        power_gains = power_gains / power_gains.mean(1, keepdim=True)

    def scores(power: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        """Log-likelihoods, shape `(batch, num_modulations, num_snrs)`."""
        compute = log_likelihood if known_power else scale_free_log_likelihood
        rows = [[compute(power, gains, noise, *table) for noise in noise_powers] for table in tables]
        return torch.stack([torch.stack(row, 1) for row in rows], 1)[:, of_profile]

    def decide(log_likelihoods: torch.Tensor) -> torch.Tensor:
        """One-hot decisions; a tie is shared. Shape `(batch, num_classes)`."""
        dimension = {"modulation": 2, "snr_db": 1}.get(target)
        log_likelihoods = log_likelihoods + prior.log()[:, None]
        evidence = log_likelihoods.flatten(1) if dimension is None else log_likelihoods.logsumexp(dimension)
        best = (evidence == evidence.max(1, keepdim=True).values).double()
        return best / best.sum(1, keepdim=True)

    pairs = [(name, snr_db) for name in modulations for snr_db in snrs_db]
    classes = {"modulation": tuple(modulations), "snr_db": tuple(snrs_db), "joint": tuple(pairs)}[target]
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.float64, device=device)
    accuracy, variance = torch.zeros(2, dtype=torch.float64, device=device)
    weights = prior.repeat_interleave(len(snrs_db)) / len(snrs_db)
    for (name, snr_db), weight in zip(pairs, weights, strict=True):
        true = classes.index({"modulation": name, "snr_db": snr_db, "joint": (name, snr_db)}[target])
        points = constellation(name).to(device)
        decisions = []
        for first in range(0, num_trials, batch_size):
            shape = (min(batch_size, num_trials - first), num_elements)
            symbols = points[torch.randint(len(points), shape, generator=generator, device=device)]
            if power_gains is None:
                gains = -torch.rand(shape, generator=generator, device=device).clamp(min=1e-30).log()
            else:
                gains = power_gains[torch.arange(first, first + shape[0], device=device) % len(power_gains)]
            noise = torch.randn(shape, dtype=torch.complex64, generator=generator, device=device)
            # The channel needs no phase: with circular noise it does not change the distribution of the power.
            power = (gains.sqrt() * symbols + 10 ** (-snr_db / 20) * noise).abs().square()
            decisions.append(decide(scores(power, gains)))
        decisions = torch.cat(decisions)
        # Weight of this pair within its true class: the probability of what is not the target.
        share = {"modulation": 1 / len(snrs_db), "snr_db": weight * len(snrs_db), "joint": 1.0}[target]
        confusion[true] += decisions.mean(0) * share
        accuracy += weight * decisions[:, true].mean()
        variance += weight**2 * decisions[:, true].var(correction=0) / num_trials
    return LikelihoodBound(classes, float(accuracy), float(variance.sqrt()), confusion.cpu())


def scale_free_log_likelihood(
    power: torch.Tensor, power_gains: torch.Tensor, noise_power: float, levels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Log-likelihood of received powers that are known up to a common factor; arguments as in [`log_likelihood`].

    The density of the ratios of n powers is, up to a constant, the integral of p(c |Y|^2) c^n over log c: the
    likelihood of everything that does not change with the scale. The integrand has a sharp peak, so that a parabola
    through three points of its logarithm gives the integral (Laplace's method).

    Returns:
        `torch.Tensor` of shape `(batch,)`, float64.
    """
    num_elements = power.shape[-1]
    # Start at the factor that gives the powers their expected mean; the peak is about 1 / sqrt(n) wide.
    expected = power_gains.mean(1) * (levels * weights).sum() + noise_power
    center = (expected / power.mean(1)).log().double()
    step = 1 / math.sqrt(num_elements)

    def at(log_scale: torch.Tensor) -> torch.Tensor:
        scaled = power * log_scale.exp().float()[:, None]
        return log_likelihood(scaled, power_gains, noise_power, levels, weights) + num_elements * log_scale

    for _ in range(2):  # the second parabola is centered on the top of the first
        low, middle, high = at(center - step), at(center), at(center + step)
        slope = (high - low) / (2 * step)
        # For classes far from the truth the logarithm may not be concave: they lose anyway if their top stays near.
        curvature = ((2 * middle - low - high) / step**2).clamp(min=1e-3 * num_elements)
        shift = (slope / curvature).clamp(-4 * step, 4 * step)
        center = center + shift
    top = middle + slope * shift - curvature * shift.square() / 2
    return top + 0.5 * torch.log(2 * math.pi / curvature)


def _check(
    modulations, snrs_db, num_elements, target, prior, power_gains, known_power, num_trials, batch_size
) -> None:
    if target not in TARGETS:
        raise ValueError(f"Unknown target {target!r}; expected one of {', '.join(TARGETS)}.")
    for name, values in (("modulations", modulations), ("snrs_db", snrs_db)):
        if isinstance(values, str) or not len(values) or len(set(values)) < len(values):
            raise ValueError(f"{name} must be a sequence of different values, at least one, not {values!r}.")
    for name in modulations:
        constellation(name)
    if prior is not None:
        shares = torch.as_tensor(prior, dtype=torch.float64)
        if shares.shape != (len(modulations),) or not bool((shares >= 0).all() and 0 < shares.sum() < math.inf):
            raise ValueError(f"prior must have a share, at least 0, for each of {modulations}, not {prior!r}.")
    for snr_db in snrs_db:
        if not isinstance(snr_db, Real) or not math.isfinite(snr_db):
            raise ValueError(f"An SNR must be a finite number of decibels, not {snr_db!r}.")
    fewest = 1 if known_power else 100
    for name, value, least in (
        ("num_elements", num_elements, fewest),
        ("num_trials", num_trials, 1),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(value, int) or value < least:
            unknown = "" if least == 1 else " with unknown power"
            raise ValueError(f"{name} must be a whole number, at least {least}{unknown}, not {value!r}.")
    if power_gains is not None:
        found = tuple(power_gains.shape)
        if len(found) != 2 or found[0] < 1 or found[1] != num_elements or power_gains.is_complex():
            raise ValueError(
                f"power_gains must be real, of shape (num_channels, {num_elements}), not {power_gains.dtype} {found}."
            )
        if not bool(((power_gains >= 0) & power_gains.isfinite()).all() & (power_gains.sum(1) > 0).all()):
            raise ValueError("power_gains must be finite and not negative, and no channel may be zero throughout.")

"""Distinguish LTE from 5G: they can have the same symbols, but not the same synchronization and reference signals.

An LTE base station sends its primary synchronization signal every five milliseconds, one of the Internet of Things a
signal of its own every ten, and an LTE terminal a reference symbol in each slot that has the same level on all its
subcarriers. A phone that searches for cells knows the carrier frequency and looks for the timing. Here it is the other
way round: symbols are found by their cyclic prefixes, and the carrier may be anywhere in the recording.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from .lte import primary_synchronization
from .ofdm import Numerology, squared_modulus, symbols_to_samples
from .synchronization import EVIDENCE, required_samples, symbol_period_s, synchronize

SPACING_LTE_HZ = 15e3
_SUBCARRIERS = 62
_SYMBOLS = 70  # from one primary synchronization signal to the next, half a frame
_MOST_SIGNALS = 8  # a longer recording is cut to this many half frames
_DELAYS = (2 / 128, 4.5 / 128)  # of a symbol: how early frames of `synchronize` start for early and for late echoes
_FLOOR = 1e-4  # of the mean power: anything below is rounding error, not noise
# Surprise [nats] at which the evidence is zero, and its slope. Of generated recordings of 20 ms with such symbols,
# 95 % of LTE's are above 19, those of 5G below 10. Of those of 5 ms, which may have only one signal, 86 % of LTE's are
# above 6 (all but a few from 0 dB SNR on), and 98 % of 5G's below 5.
_SURPRISE, _SLOPE = 10.0, 0.5
# Terminals: symbols of a slot; subcarriers over which levels are compared; how much flatter one symbol must be than
# all others for an evidence of zero, the slope, and the standard errors that are subtracted first. For LTE it is 0.5
# to 1.0 from 10 dB SNR on, and 0.2 to 0.4 at 3 dB. For all of 640 recordings of base stations of both, 3 to 20 ms, it
# is below 0.24.
_SLOT, _RESOURCE_BLOCK = 7, 12
_FLATNESS, _FLATNESS_SLOPE, _ERRORS = 0.25, 60.0, 2.0
_LOUD_BLOCK, _FAINT_BLOCK = 0.25, 0.05  # of the loudest block: the least to be compared, and what never is
_LEAST_BLOCKS, _LEAST_SHARE = 10, 0.3  # blocks that each symbol needs, also as a share of the fullest symbol
# Internet of Things: the cover code of its synchronization signal (TS 36.211, table 10.2.7.1.1-1), which has 11
# subcarriers, and the coherence at which the evidence is zero, with the slope. Coherence is 0.87 to 0.97 from 10 dB
# SNR on, and below 0.65 for other signals.
_COVER_CODE = (1, 1, 1, 1, -1, -1, 1, 1, 1, -1, 1)
_NARROWBAND_SUBCARRIERS = 11
_COHERENCE, _COHERENCE_SLOPE = 0.72, 20.0
_MOST_OF_UNKNOWN = 12.0  # for both: models were not trained on them, so their predictions should count for little


def lte_evidence(iq: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """Evidence that symbols of 15 kHz are LTE's.

    From primary synchronization signals (TS 36.211, clause 6.11.1): a symbol times the conjugate of the signal's
    waveform is a tone at the carrier frequency if the symbol is that signal. In noise and in data, the tone's share of
    the power of 62 subcarriers has a beta distribution with a mean of 1 / 62. Shares half a frame apart are combined,
    and the least probable combination over all timings and frequencies is compared with what chance gives among so
    many. Or from signals of terminals (clause 5.5.2.1) or of base stations of the Internet of Things (10.2.7.1).

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings that have such symbols, complex.
        sampling_rate (`float`): A multiple of 128 x 15 kHz [Hz].

    Returns:
        `torch.Tensor` of shape `(batch,)`: Log-likelihood ratio of symbols of LTE to those of another standard,
        between -2 and 12; 0 if the recording is too short to tell.

    Raises:
        ValueError: If the rate is no such multiple.
    """
    count = min(_MOST_SIGNALS * _SYMBOLS, int(iq.shape[1] / sampling_rate / symbol_period_s(SPACING_LTE_HZ)))
    while count and required_samples(sampling_rate, SPACING_LTE_HZ, count) > iq.shape[1]:
        count -= 1
    if not count:
        return torch.zeros(len(iq), device=iq.device)
    frames = synchronize(iq, sampling_rate, SPACING_LTE_HZ, num_frames=count).iq.unflatten(1, (count, -1))
    surprise = torch.stack([_surprise(symbols) for symbols in frames])
    least, most = EVIDENCE
    # Half a frame contains one signal, though it may be missed; a shorter recording may contain none.
    least = math.log1p(math.expm1(least) * min(1.0, count / _SYMBOLS))
    evidence = (_SLOPE * (surprise - _SURPRISE)).clamp(least, most)
    for row in (evidence <= 0).nonzero()[:, 0]:
        spectra = torch.fft.fftshift(torch.fft.fft(frames[row]), dim=1)
        flatness, coherence = _flatness(squared_modulus(spectra)), _narrowband_coherence(spectra)
        found = torch.maximum(_FLATNESS_SLOPE * (flatness - _FLATNESS), _COHERENCE_SLOPE * (coherence - _COHERENCE))
        evidence[row] = found.clamp(max=_MOST_OF_UNKNOWN) if found > 0 else evidence[row]
    return evidence


def _flatness(power: torch.Tensor) -> torch.Tensor:
    """How much less the levels of one symbol in seven vary across subcarriers than those of any other.

    A terminal spreads its data by a Fourier transform, so that their levels vary as those of noise do. The reference
    symbol between them has one level.

    Args:
        power (`torch.Tensor` of shape `(num_symbols, fft_size)`): Power of the subcarriers, in order of frequency.

    Returns:
        `torch.Tensor` of shape `()`: Difference of mean square levels, over their squared means, less its error; 0
        where too little is sent to tell.
    """
    blocks = power[:, : power.shape[1] // _RESOURCE_BLOCK * _RESOURCE_BLOCK].unflatten(1, (-1, _RESOURCE_BLOCK))
    mean = blocks.mean(2)
    loudest, noise = mean.max(), mean.quantile(0.1)
    counted = (mean > _LOUD_BLOCK * loudest) | (mean > 3 * noise)
    counted &= mean > _FAINT_BLOCK * mean.flatten().kthvalue(max(1, round(0.99 * mean.numel()))).values
    slots = (0, 0, 0, -len(mean) % _SLOT)

    def of_symbols(values: torch.Tensor) -> torch.Tensor:
        """Sums over the counted blocks, for each symbol of a slot."""
        return F.pad(values * counted, slots).unflatten(0, (-1, _SLOT)).sum((0, 2))

    spread = blocks.square().mean(2) / mean.square().clamp(min=1e-30)
    num = of_symbols(torch.ones_like(spread))
    if num.min() < max(_LEAST_BLOCKS, _LEAST_SHARE * num.max()):
        return power.new_zeros(())
    average = of_symbols(spread) / num
    error = ((of_symbols(spread.square()) / num - average.square()).clamp(min=0) / num).sqrt()
    flattest, second = average.argsort()[:2]
    return average[second] - average[flattest] - _ERRORS * torch.hypot(error[flattest], error[second])


def _narrowband_coherence(spectra: torch.Tensor) -> torch.Tensor:
    """Highest coherence of adjoining symbols under the cover code of the narrowband synchronization signal.

    Args:
        spectra (`torch.Tensor` of shape `(num_symbols, fft_size)`): In order of frequency.

    Returns:
        `torch.Tensor` of shape `()`: Between 0 and 1.
    """
    signs = [float(one * other) for one, other in pairwise(_COVER_CODE)]
    count = len(spectra) - len(signs)
    if count < 1:
        return spectra.real.new_zeros(())
    power = squared_modulus(spectra)
    products, powers = spectra[:-1].conj() * spectra[1:], (power[:-1] + power[1:]) / 2
    pairs, power = torch.zeros_like(products[:count]), torch.zeros_like(powers[:count])
    for place, sign in enumerate(signs):
        pairs.add_(products[place : place + count], alpha=sign)
        power += powers[place : place + count]
    # Sums over adjoining subcarriers.
    pairs, power = (F.pad(part.cumsum(1), (1, 0)) for part in (pairs, power))
    pairs, power = (part[:, _NARROWBAND_SUBCARRIERS:] - part[:, :-_NARROWBAND_SUBCARRIERS] for part in (pairs, power))
    # A floor, since where there is next to no power, chance looks coherent.
    return (pairs.abs() / (power + 0.02 * power.max()).clamp(min=1e-30)).max()


def _surprise(symbols: torch.Tensor) -> torch.Tensor:
    """How much less probable the best match of a primary synchronization signal is than chance explains [nats].

    Args:
        symbols (`torch.Tensor` of shape `(num_symbols, fft_size)`): Useful symbols of a recording.

    Returns:
        `torch.Tensor` of shape `()`: Below zero in noise and data.
    """
    num_symbols, fft_size = symbols.shape
    spectra = torch.fft.fft(symbols, norm="ortho")
    shares = _shares(symbols, squared_modulus(spectra))
    rareness = F.pad(_rareness(shares), (0, 0, 0, 0, 0, -num_symbols % _SYMBOLS)).unflatten(0, (-1, _SYMBOLS)).sum(0)
    first = torch.arange(min(num_symbols, _SYMBOLS), device=symbols.device)
    together = (num_symbols - 1 - first) // _SYMBOLS + 1
    by_chance = _rareness_of_sums(rareness[: len(first)], together[:, None, None])
    best = int(by_chance.argmax())
    symbol, (waveform, frequency) = best // by_chance[0].numel(), divmod(best % by_chance[0].numel(), fft_size)
    surprise = by_chance.flatten()[best]
    if together[symbol] > 1:
        # Other signals recur, too, each time with the same share. It is a share of what recurs, not of noise: judge it
        # once, by itself.
        places = (frequency + _bins(symbols.device)) % fft_size
        within = F.normalize(spectra[symbol::_SYMBOLS, places], dim=1)
        again = (within[1:].conj() * within[:-1]).sum(1).abs().mean()
        share = shares[symbol::_SYMBOLS, waveform, frequency].mean() / again.clamp(min=1e-6)
        surprise = surprise.minimum(_rareness(share))
    return surprise - math.log(by_chance.numel())


def _rareness(shares: torch.Tensor) -> torch.Tensor:
    """Minus the logarithm of how often noise has a larger share: exponentially distributed, with a mean of one."""
    return -(_SUBCARRIERS - 1) * torch.log1p(-shares.clamp(max=1 - 1e-6))


def _rareness_of_sums(sums: torch.Tensor, together: torch.Tensor) -> torch.Tensor:
    """Minus the logarithm of how often `together` exponentially distributed numbers of mean one add up to more.

    The sum has a gamma distribution, whose tail has a closed form for whole numbers.
    """
    order = torch.arange(int(together.max()), device=sums.device).reshape(-1, *[1] * sums.ndim)
    terms = order * sums.clamp(min=1e-6).log() - torch.lgamma(order + 1.0)
    return sums - terms.masked_fill(order >= together, -torch.inf).logsumexp(0)


def _bins(device: torch.device) -> torch.Tensor:
    """Bins of the signal's subcarriers relative to the carrier frequency, `(num_subcarriers,)`."""
    index = torch.arange(_SUBCARRIERS, device=device) - _SUBCARRIERS // 2
    return index + (index >= 0)


def _shares(symbols: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Share of the power of 62 subcarriers that matches each primary synchronization signal.

    Args:
        symbols (`torch.Tensor` of shape `(num_symbols, fft_size)`): In the time domain.
        power (`torch.Tensor` of shape `(num_symbols, fft_size)`): Power of their subcarriers.

    Returns:
        `torch.Tensor` of shape `(num_symbols, num_waveforms, fft_size)`: For each carrier frequency.
    """
    fft_size = symbols.shape[1]
    turns = -torch.tensor(_DELAYS, device=symbols.device)[:, None] * _bins(symbols.device)
    signals = primary_synchronization(torch.arange(3, device=symbols.device))
    delayed = (signals[:, None] * torch.polar(torch.ones_like(turns), 2 * math.pi * turns)).flatten(0, 1)
    numerology = Numerology(fft_size * SPACING_LTE_HZ, SPACING_LTE_HZ, fft_size, dc_used=False)
    waveforms = symbols_to_samples(delayed[None], numerology)[0]
    tones = squared_modulus(torch.fft.fft(symbols[:, None] * waveforms.conj()))
    beside = _SUBCARRIERS // 2
    around = F.pad(power[:, None], (beside, beside), mode="circular")
    within = F.avg_pool1d(around, _SUBCARRIERS + 1, stride=1) * (_SUBCARRIERS + 1) - power[:, None]
    return tones / (_SUBCARRIERS * (within + _FLOOR * _SUBCARRIERS * power.mean()).clamp(min=1e-30))

"""The radio between antenna and samples: oscillators, clocks, noise, filters, sampling rate, mixer and converter.

`receive` turns the signal at the antenna into samples at the receiver's rate; the other impairments are applied before
or after it.
"""

import math

import torch

from ..phy.bits import slices
from ..phy.ofdm import band_edge
from .filtering import Blocks, filter_blocks


def mean_power(samples: torch.Tensor) -> torch.Tensor:
    """Mean squared modulus of recordings of shape `(batch, num_samples)`, complex64; result of shape `(batch,)`."""
    # The complex modulus is slow; the norm over real parts takes a single pass.
    return torch.linalg.vector_norm(torch.view_as_real(samples), dim=(1, 2)).square() / samples.shape[1]


def lowpass(
    frequencies_hz: torch.Tensor, edge_hz: torch.Tensor, rolloff: torch.Tensor, stop_db: torch.Tensor
) -> torch.Tensor:
    """Amplitude response: one up to the edge, a raised cosine in dB down to the stop band.

    Args:
        frequencies_hz (`torch.Tensor` of shape `(num_bins,)` or `(batch, num_bins)`): Where to evaluate [Hz].
        edge_hz (`torch.Tensor` of shape `(batch,)`): End of the pass band [Hz].
        rolloff (`torch.Tensor` of shape `(batch,)`): Width of the transition over the edge.
        stop_db (`torch.Tensor` of shape `(batch,)`): Gain of the stop band, negative [dB].

    Returns:
        `torch.Tensor` of shape `(batch, num_bins)`.
    """
    # From zero at the edge to pi at the end of the transition.
    angle = frequencies_hz.abs() * (torch.pi / (rolloff * edge_hz))[:, None]
    angle.sub_((torch.pi / rolloff)[:, None]).clamp_(0, torch.pi)
    half_stop = (math.log(10) / 40 * stop_db)[:, None]
    return angle.cos_().mul_(-half_stop).add_(half_stop).exp_()


def clock_offset(samples: torch.Tensor, offset_ppm: torch.Tensor) -> torch.Tensor:
    """Sampling frequency offset (SFO): sample n becomes the signal's value at n (1 + ppm / 10^6), band-limited.

    The first sample stays in place. Exact within 0.94 of the band, like fading taps.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64; taken as zero outside.
        offset_ppm (`torch.Tensor` of shape `(batch,)`): How much longer the receiver's sampling interval is [ppm].
    """
    drift = 1e-6 * offset_ppm.double()
    slowest, fastest = torch.stack([drift.min(), drift.max()]).tolist()
    num_samples = samples.shape[1]
    turn = math.pi * max(-slowest, fastest, 0.0)  # at the highest frequency
    blocks = Blocks.plan(num_samples, max(0.0, -slowest) * num_samples, max(0.0, fastest) * num_samples, turn)
    bins = blocks.bins(samples.device)
    edge = band_edge(bins)  # a fractional delay is undefined at half the sampling rate

    def response(rows: slice) -> torch.Tensor:
        advance = (drift[rows, None] * blocks.nodes(samples.device)).float()
        rotation = 2 * torch.pi * advance[..., None] * bins
        return torch.complex(rotation.cos() * edge, rotation.sin() * edge)

    return filter_blocks(samples, blocks, response)


def phase_noise(
    samples: torch.Tensor,
    sampling_rate: float,
    rms_deg: torch.Tensor,
    corner_hz: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Phase noise of an oscillator in a phase-locked loop: a Gaussian phase with a Lorentzian spectrum.

    Within the loop's bandwidth the spectrum is flat; beyond, it falls with the square of the frequency, like that of a
    free-running oscillator (a Wiener process). The autocovariance is `rms^2 exp(-2 pi corner |t|)`.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        sampling_rate (`float`): [Hz].
        rms_deg (`torch.Tensor` of shape `(batch,)`): Root mean square of the phase; about 1 in a cellular radio [deg].
        corner_hz (`float`): Frequency at which its spectrum is 3 dB down; tens of kHz in a cellular radio [Hz].
        generator (`torch.Generator`): Source of randomness.
    """
    num_samples = samples.shape[1]
    turns = torch.fft.fftfreq(num_samples, 1 / sampling_rate, device=samples.device) / corner_hz
    density = 1 / (1 + turns.square())
    shape = (density / density.mean()).sqrt()[: num_samples // 2 + 1]
    white = _white_spectrum(len(shape), torch.deg2rad(rms_deg), generator)
    phase = torch.fft.irfft(white.mul_(shape), num_samples, norm="ortho")
    return samples * torch.complex(phase.cos(), phase.sin())


def _white_spectrum(num_bins: int, amplitude: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The spectrum (unitary Fourier transform) of white noise, itself white, with an rms amplitude for each row.

    Values have 256 levels and are drawn eight at a time, several times faster than normal ones. In time, each sample
    is a sum over all bins, which is normal whatever their distribution.
    """
    shape = (len(amplitude), -(-num_bins // 4))
    words = torch.empty(shape, dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)
    levels = words.view(torch.int8)[:, : 2 * num_bins]
    variance = (256**2 - 1) / 12  # of the levels, from -127.5 to 127.5
    parts = (levels + 0.5).mul_((amplitude / (2 * variance) ** 0.5)[:, None])
    return torch.view_as_complex(parts.unflatten(1, (-1, 2)))


def add_noise(samples: torch.Tensor, noise_power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add white Gaussian noise.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        noise_power (`torch.Tensor` of shape `(batch,)`): Variance of a noise sample.
        generator (`torch.Generator`): Source of randomness.
    """
    noise = torch.randn(*samples.shape, 2, generator=generator, device=generator.device)
    return samples + torch.view_as_complex(noise) * (noise_power / 2).sqrt()[:, None]


def _moved(spectrum: torch.Tensor, num_samples: int, shift: torch.Tensor) -> torch.Tensor:
    """Shift a spectrum up by `shift` bins, and cut or zero-pad it to `num_samples` bins."""
    # In order of frequency and zero-padded, the wanted bins of a row are contiguous.
    num_in = spectrum.shape[1]
    padded = torch.nn.functional.pad(torch.fft.fftshift(spectrum, 1), (num_samples, num_samples))
    first = (num_samples + num_in // 2 - num_samples // 2 - shift).clamp(0, num_in + num_samples)
    return torch.fft.ifftshift(slices(padded, first, num_samples), 1)


def receive(
    samples: torch.Tensor,
    rate_in_hz: float,
    num_samples: int,
    *,
    occupied_hz: float,
    offset_hz: torch.Tensor,
    noise_power: torch.Tensor,
    generator: torch.Generator,
    filter_probability: float = 0.6,
) -> torch.Tensor:
    """The receiver up to its mixer: a new sampling rate, an off-center carrier, white noise and a channel filter.

    The rate becomes `rate_in_hz * num_samples / samples.shape[1]`. The transmitter's mask, the noise and the filter
    are all applied to one spectrum, cut or padded to the new rate.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_in)`): Signal at the transmitter's native rate, complex64.
        rate_in_hz (`float`): That rate [Hz].
        num_samples (`int`): Samples of the result, over the same duration.
        occupied_hz (`float`): Occupied bandwidth of the signal [Hz].
        offset_hz (`torch.Tensor` of shape `(batch,)`): Frequency at which its center is received [Hz].
        noise_power (`torch.Tensor` of shape `(batch,)`): Noise variance per sample at the native rate: a density.
        generator (`torch.Generator`): Source of randomness.
        filter_probability (`float`, *optional*, defaults to 0.6): Probability of a filter that is matched to the
            carrier and removes all signal and noise beside it. Otherwise the filter is centered on zero, reaches at
            least to the carrier's far edge and is at most four times as wide as the received band: mostly open.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    batch_size, num_in = samples.shape
    rate_out_hz = rate_in_hz * num_samples / num_in
    bin_hz = rate_in_hz / num_in

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch_size, generator=generator, device=generator.device)

    shift = (offset_hz / bin_hz).round().long()
    spectrum = _moved(torch.fft.fft(samples, norm="forward"), num_samples, shift)
    frequency = torch.fft.fftfreq(num_samples, 1 / rate_out_hz, device=samples.device)
    half = torch.full_like(offset_hz, 0.505 * occupied_hz)
    spectrum.mul_(lowpass(frequency - bin_hz * shift[:, None], half, uniform(0.05, 0.4), uniform(-60, -35)))
    spectrum += _white_spectrum(num_samples, (noise_power / num_in).sqrt(), generator)

    selective = uniform(0, 1) < filter_probability
    far_edge = offset_hz.abs() + half
    edge = torch.where(selective, half, far_edge + (2 * rate_out_hz - far_edge).clamp(min=0) * uniform(0, 1))
    centre = torch.where(selective, shift, 0)[:, None]
    stop_db = torch.where(selective, -100.0, uniform(-60, -15))
    spectrum.mul_(lowpass(frequency - bin_hz * centre, edge, uniform(0.03, 0.25), stop_db))
    return torch.fft.ifft(spectrum, norm="forward")


def band_edges(
    samples: torch.Tensor, sampling_rate: float, edge_hz: torch.Tensor, rolloff: torch.Tensor
) -> torch.Tensor:
    """Apply the anti-aliasing filter of the received band.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        sampling_rate (`float`): [Hz].
        edge_hz (`torch.Tensor` of shape `(batch,)`): Where the response begins to fall; may exceed half the rate [Hz].
        rolloff (`torch.Tensor` of shape `(batch,)`): Width of the transition over the edge; it ends at -60 dB.
    """
    frequency = torch.fft.fftfreq(samples.shape[1], 1 / sampling_rate, device=samples.device)
    response = lowpass(frequency.expand(len(samples), -1), edge_hz, rolloff, torch.full_like(edge_hz, -60.0))
    return torch.fft.ifft(torch.fft.fft(samples) * response)


def imperfect_mixer(
    samples: torch.Tensor, dc_db: torch.Tensor, image_db: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Local-oscillator leakage and I/Q imbalance of a direct-conversion receiver.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        dc_db (`torch.Tensor` of shape `(batch,)`): Power of the leakage over the mean power [dB].
        image_db (`torch.Tensor` of shape `(batch,)`): Power of the mirror image over the signal's [dB].
        generator (`torch.Generator`): Source of randomness.
    """
    phase = 2 * torch.pi * torch.rand(2, len(samples), 1, generator=generator, device=generator.device)
    rms = mean_power(samples)[:, None].sqrt()
    dc = torch.polar(rms * 10 ** (dc_db[:, None] / 20), phase[0])
    image = torch.polar(10 ** (image_db[:, None] / 20), phase[1])
    return torch.conj_physical(samples).mul_(image).add_(samples).add_(dc)


def quantize(samples: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Analog-to-digital conversion, with the gain at which the largest value of a recording just fits.

    Its noise is white and scales with the received power. It fills guard bands behind a channel filter; without it, a
    logarithmic scale would still show the filtered noise there.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        bits (`torch.Tensor` of shape `(batch,)`): Effective number of bits, two at least.
    """
    parts = torch.view_as_real(samples)
    largest = parts.abs().amax((1, 2), keepdim=True)
    step = torch.where(largest > 0, largest / (2 ** (bits[:, None, None] - 1) - 1), 1)
    return torch.view_as_complex((parts / step).round() * step)

"""The radio between antenna and samples: oscillators, clocks, noise, filters, sampling rate, mixer and converter.

Every piece stands alone, so that a synchronous receiver is composed of them; `receive` is the blind one.
"""

import math

import torch

from .filtering import Blocks, filter_blocks


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
    beyond = ((frequencies_hz.abs() / edge_hz[:, None] - 1) / rolloff[:, None]).clamp(0, 1)
    return torch.exp(math.log(10) / 20 * stop_db[:, None] * (1 - torch.cos(torch.pi * beyond)) / 2)


def frequency_offset(samples: torch.Tensor, sampling_rate: float, offset_hz: torch.Tensor) -> torch.Tensor:
    """Oscillators that differ (CFO): the spectrum moves up by the offset.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        sampling_rate (`float`): [Hz].
        offset_hz (`torch.Tensor` of shape `(batch,)`): [Hz].
    """
    time = torch.arange(samples.shape[1], device=samples.device, dtype=torch.float64)
    turns = (offset_hz.double() / sampling_rate)[:, None] * time  # thousands: single precision would be noise
    phase = 2 * torch.pi * (turns - turns.round()).float()
    return samples * torch.complex(phase.cos(), phase.sin())


def clock_offset(samples: torch.Tensor, offset_ppm: torch.Tensor) -> torch.Tensor:
    """Clocks that differ (SFO): sample n becomes the signal's value at n (1 + ppm / 10^6), band-limited.

    The first sample stays where it is. Exact within 0.94 of the band, as fading taps are.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64; silent outside.
        offset_ppm (`torch.Tensor` of shape `(batch,)`): How much longer the receiver's sampling interval is [ppm].
    """
    drift = 1e-6 * offset_ppm.double()
    slowest, fastest = torch.stack([drift.min(), drift.max()]).tolist()
    num_samples = samples.shape[1]
    turn = math.pi * max(-slowest, fastest, 0.0)  # of the highest frequency
    blocks = Blocks.plan(num_samples, max(0.0, -slowest) * num_samples, max(0.0, fastest) * num_samples, turn)
    bins, edge = blocks.bins(samples.device), blocks.band_edge(samples.device)

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

    Within the loop's bandwidth the spectrum is flat; beyond, it falls with the square of the frequency, as that of the
    free oscillator (a Wiener process) does. The autocovariance is `rms^2 exp(-2 pi corner |t|)`.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        sampling_rate (`float`): [Hz].
        rms_deg (`torch.Tensor` of shape `(batch,)`): Root mean square of the phase; about 1 in a cellular radio [deg].
        corner_hz (`float`): Where its spectrum is 3 dB down; tens of kHz in a cellular radio [Hz].
        generator (`torch.Generator`): Source of randomness.
    """
    num_samples = samples.shape[1]
    white = torch.randn(samples.shape, generator=generator, device=generator.device)
    turns = torch.fft.fftfreq(num_samples, 1 / sampling_rate, device=samples.device) / corner_hz
    density = 1 / (1 + turns.square())
    shape = (density / density.mean()).sqrt()[: num_samples // 2 + 1]
    phase = torch.fft.irfft(torch.fft.rfft(white) * shape, num_samples) * torch.deg2rad(rms_deg)[:, None]
    return samples * torch.complex(phase.cos(), phase.sin())


def add_noise(samples: torch.Tensor, noise_power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White Gaussian noise.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        noise_power (`torch.Tensor` of shape `(batch,)`): Variance of a sample of the noise.
        generator (`torch.Generator`): Source of randomness.
    """
    noise = torch.randn(*samples.shape, 2, generator=generator, device=generator.device)
    return samples + torch.view_as_complex(noise) * (noise_power / 2).sqrt()[:, None]


def channel_filter(
    samples: torch.Tensor,
    sampling_rate: float,
    passband_hz: float,
    rolloff: float = 0.1,
    stop_db: float = -100.0,
) -> torch.Tensor:
    """The receiver's channel filter: flat over the carrier, the same suppression of signal and noise beyond.

    The recording is taken as periodic, which only its ends can tell.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        sampling_rate (`float`): [Hz].
        passband_hz (`float`): Width of what passes, both sides of zero together: the occupied bandwidth [Hz].
        rolloff (`float`, *optional*, defaults to 0.1): Width of each transition over half the pass band.
        stop_db (`float`, *optional*, defaults to -100): Gain beyond the transition [dB].
    """
    bins = torch.fft.fftfreq(samples.shape[1], 1 / sampling_rate, device=samples.device)
    design = (bins.new_tensor([value]) for value in (passband_hz / 2, rolloff, stop_db))
    return torch.fft.ifft(torch.fft.fft(samples) * lowpass(bins, *design))


def _moved(spectrum: torch.Tensor, num_samples: int, shift: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The spectrum around another centre and of another width, and the bin of the old one behind each of its bins."""
    num_in = spectrum.shape[1]
    source = torch.fft.fftfreq(num_samples, 1 / num_samples, device=spectrum.device).round().long()
    source = source.expand(len(spectrum), -1) if shift is None else source - shift[:, None]
    inside = (source >= -(num_in // 2)) & (source < (num_in + 1) // 2)
    return spectrum.gather(1, source % num_in) * inside, source


def resample(samples: torch.Tensor, num_samples: int, shift: torch.Tensor | None = None) -> torch.Tensor:
    """Another number of samples over the same duration, by exact band-limited interpolation or decimation.

    What does not fit into the new band is cut off; the recording is taken as periodic, which only its ends can tell.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_in)`): Complex64.
        num_samples (`int`): Samples of the result.
        shift (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Moves the spectrum up first, by so many times
            the inverse of the duration.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    spectrum, _ = _moved(torch.fft.fft(samples), num_samples, shift)
    return torch.fft.ifft(spectrum) * (num_samples / samples.shape[1])


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
    """A blind receiver: another sampling rate, an off-centre carrier, white noise, its own channel filter.

    The rate becomes `rate_in_hz * num_samples / samples.shape[1]`. The transmitter's mask, the noise and the filter
    act on the same spectrum as [`resample`].

    Args:
        samples (`torch.Tensor` of shape `(batch, num_in)`): Signal at the transmitter's native rate, complex64.
        rate_in_hz (`float`): That rate [Hz].
        num_samples (`int`): Samples of the result, over the same duration.
        occupied_hz (`float`): Occupied bandwidth of the signal [Hz].
        offset_hz (`torch.Tensor` of shape `(batch,)`): Where its centre is received [Hz].
        noise_power (`torch.Tensor` of shape `(batch,)`): Noise variance per sample at the native rate: a density.
        generator (`torch.Generator`): Source of randomness.
        filter_probability (`float`, *optional*, defaults to 0.6): How often the filter is that of the carrier, which
            leaves nothing of signal and noise beside it; else it is centred on zero and as wide as the carrier's far
            edge at least and four times the received band at most: mostly open.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    batch_size, num_in = samples.shape
    rate_out_hz = rate_in_hz * num_samples / num_in
    bin_hz = rate_in_hz / num_in

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch_size, generator=generator, device=generator.device)

    shift = (offset_hz / bin_hz).round().long()
    spectrum, source = _moved(torch.fft.fft(samples), num_samples, shift)
    half = torch.full_like(offset_hz, 0.505 * occupied_hz)
    spectrum = spectrum * lowpass(source * bin_hz, half, uniform(0.05, 0.4), uniform(-60, -35))
    # The transform of white noise is white.
    spectrum = add_noise(spectrum, noise_power * num_in, generator)

    selective = uniform(0, 1) < filter_probability
    far_edge = offset_hz.abs() + half
    edge = torch.where(selective, half, far_edge + (2 * rate_out_hz - far_edge).clamp(min=0) * uniform(0, 1))
    centre = torch.where(selective, shift, 0)[:, None]
    stop_db = torch.where(selective, -100.0, uniform(-60, -15))
    spectrum = spectrum * lowpass((source + shift[:, None] - centre) * bin_hz, edge, uniform(0.03, 0.25), stop_db)
    return torch.fft.ifft(spectrum) * (num_samples / num_in)


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
    power = samples.abs().square().mean(1, keepdim=True)
    dc = torch.polar((power * 10 ** (dc_db[:, None] / 10)).sqrt(), phase[0])
    image = torch.polar(10 ** (image_db[:, None] / 20), phase[1])
    return samples + image * samples.conj() + dc


def quantize(samples: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Analog-to-digital conversion, its gain such that the largest value of a recording just fits.

    Its noise is white and bound to the power that is received: it is what guard bands show behind a channel filter,
    where else the filtered noise would still be read off a logarithmic scale.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64.
        bits (`torch.Tensor` of shape `(batch,)`): Effective number of bits, two at least.
    """
    parts = torch.view_as_real(samples)
    largest = parts.abs().amax((1, 2), keepdim=True)
    step = torch.where(largest > 0, largest / (2 ** (bits[:, None, None] - 1) - 1), 1)
    return torch.view_as_complex((parts / step).round() * step)

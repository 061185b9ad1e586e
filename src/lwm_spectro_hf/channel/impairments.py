"""The radio between antenna and samples: masks, carrier offset, sampling rate, noise, DC and I/Q imbalance."""

import torch


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
    return 10 ** (stop_db[:, None] / 20 * (1 - torch.cos(torch.pi * beyond)) / 2)


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

    The rate becomes `rate_in_hz * num_samples / samples.shape[1]`, by exact band-limited interpolation (the
    recording is taken as periodic, which only its ends can tell).

    Args:
        samples (`torch.Tensor` of shape `(batch, num_in)`): Signal at the transmitter's native rate, complex64.
        rate_in_hz (`float`): That rate [Hz].
        num_samples (`int`): Samples of the result, over the same duration.
        occupied_hz (`float`): Occupied bandwidth of the signal [Hz].
        offset_hz (`torch.Tensor` of shape `(batch,)`): Where its centre is received [Hz].
        noise_power (`torch.Tensor` of shape `(batch,)`): Noise variance per sample at the native rate: a density.
        generator (`torch.Generator`): Source of randomness.
        filter_probability (`float`, *optional*, defaults to 0.6): How often the filter cuts inside the received band.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    batch_size, num_in = samples.shape
    rate_out_hz = rate_in_hz * num_samples / num_in
    bin_hz = rate_in_hz / num_in

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch_size, generator=generator)

    bins = torch.fft.fftfreq(num_samples, 1 / num_samples)
    source = bins - (offset_hz / bin_hz).round()[:, None]
    mask = lowpass(
        source * bin_hz, torch.full((batch_size,), 0.505 * occupied_hz), uniform(0.05, 0.4), uniform(-60, -35)
    )
    inside = (source >= -(num_in // 2)) & (source < (num_in + 1) // 2)
    spectrum = torch.fft.fft(samples).gather(1, source.long() % num_in) * (mask * inside)

    noise = torch.randn(batch_size, num_samples, 2, generator=generator)
    spectrum += torch.view_as_complex(noise) * (noise_power * num_in / 2).sqrt()[:, None]
    needed = (offset_hz.abs() + 0.5 * occupied_hz).clamp(max=0.49 * rate_out_hz)
    edge = needed + (0.5 * rate_out_hz - needed) * uniform(0.1, 1.0)
    edge = torch.where(uniform(0, 1) < filter_probability, edge, torch.full_like(edge, rate_out_hz))
    spectrum *= lowpass(bins * bin_hz, edge, uniform(0.03, 0.25), uniform(-60, -15))
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
    phase = 2 * torch.pi * torch.rand(2, len(samples), 1, generator=generator)
    power = samples.abs().square().mean(1, keepdim=True)
    dc = torch.polar((power * 10 ** (dc_db[:, None] / 10)).sqrt(), phase[0])
    image = torch.polar(10 ** (image_db[:, None] / 20), phase[1])
    return samples + image * samples.conj() + dc

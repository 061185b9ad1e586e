"""Recipe to labelled I/Q: draws a carrier, its traffic, channel and receiver, and makes the recordings in a batch."""

import math
from dataclasses import dataclass

import torch

from ..channel.impairments import imperfect_mixer, receive
from ..channel.tdl import SPEED_OF_LIGHT_MPS, TappedDelayLine
from ..phy import lte, nr, ofdm, wifi
from .recipe import MOBILITIES, MODULATIONS, PROTOCOLS, Recipe

NO_LABEL = -100  # what torch's cross entropy ignores
_MIN_DATA_SHARE = 0.05
_MIN_SNR = 10**-1.5  # over the whole view and occupied band; below, nobody could tell that something is there


@dataclass
class LabelledRecordings:
    """A batch of recordings of one protocol, with one sampling rate and length.

    Attributes:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Complex baseband, complex64.
        sampling_rate (`float`): [Hz].
        protocol (`torch.Tensor` of shape `(batch,)`): Index into `PROTOCOLS`; -100 where nothing can be heard.
        modulation (`torch.Tensor` of shape `(batch,)`): Index into `MODULATIONS`; -100 where no user data is heard.
        snr_db (`torch.Tensor` of shape `(batch,)`): In the occupied band [dB].
        mobility (`torch.Tensor` of shape `(batch,)`): Index into `MOBILITIES`.
        speed_mps (`torch.Tensor` of shape `(batch,)`): [m/s].
    """

    iq: torch.Tensor
    sampling_rate: float
    protocol: torch.Tensor
    modulation: torch.Tensor
    snr_db: torch.Tensor
    mobility: torch.Tensor
    speed_mps: torch.Tensor


@dataclass
class _Clean:
    """Noise-free received samples at the native rate, and what they carry.

    `occupancy` is the mean power over all resource elements of the view, over that of the elements in use.
    """

    samples: torch.Tensor
    element_power: torch.Tensor
    data_share: torch.Tensor
    modulation: torch.Tensor
    occupancy: torch.Tensor


def draw_recordings(
    protocol: str | None,
    batch_size: int,
    generator: torch.Generator,
    recipe: Recipe | None = None,
    fft_size: int = 128,
) -> LabelledRecordings:
    """Draw labelled recordings of one protocol as a blind receiver would make them.

    Args:
        protocol (`str` or `None`): "WiFi", "LTE" or "5G"; `None` gives noise and receiver artefacts alone.
        batch_size (`int`): How many; fewer come back where they are long.
        generator (`torch.Generator`): Source of randomness; the same state gives the same recordings.
        recipe ([`Recipe`], *optional*): What is drawn.
        fft_size (`int`, *optional*, defaults to 128): Frame length of the front-end; contiguous views have its square.

    Returns:
        [`LabelledRecordings`].

    Raises:
        ValueError: For a protocol that is not one of the three.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}, or None for noise.")
    recipe = recipe or Recipe()

    def pick(values) -> float:
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    carrier = _draw_carrier(protocol, pick)
    native = protocol is not None and bool(uniform(0, 1, 1) < recipe.native_rate)
    rates = [rate for rate in recipe.radio_rates_hz if carrier.occupied_hz * 1.02 <= rate <= 8 * carrier.occupied_hz]
    rate = carrier.numerology.sampling_rate if native or not rates else pick(rates)
    num_samples = _draw_length(rate, recipe, fft_size, uniform)
    batch_size = max(4, min(batch_size, 3_000_000 // num_samples))
    num_in = round(num_samples * carrier.numerology.sampling_rate / rate)

    mobility = torch.randint(len(MOBILITIES), (batch_size,), generator=generator)
    ranges = torch.tensor([recipe.speeds_mps[name] for name in MOBILITIES])[mobility]
    speed = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * uniform(0, 1, batch_size)
    snr_db = torch.tensor(recipe.snrs_db)[torch.randint(len(recipe.snrs_db), (batch_size,), generator=generator)]

    if protocol is None:
        silence = torch.zeros(batch_size, num_in, dtype=torch.complex64)
        nothing = torch.full((batch_size,), NO_LABEL)
        zeros = torch.zeros(batch_size)
        clean = _Clean(silence, torch.ones(batch_size), zeros, nothing, zeros)
    else:
        low, high = (math.log(value) for value in recipe.delay_spreads_s[protocol])
        k_db = uniform(*recipe.rician_k_db, batch_size)
        line_of_sight = uniform(0, 1, batch_size) < recipe.line_of_sight
        channel = TappedDelayLine.draw(
            delay_spread_s=uniform(low, high, batch_size).exp(),
            doppler_hz=speed * pick(recipe.carriers_hz[protocol]) / SPEED_OF_LIGHT_MPS,
            rician_k=10 ** (k_db / 10) * line_of_sight,
            generator=generator,
        )
        make = _make_wifi if protocol == "WiFi" else _make_cellular
        clean = make(carrier, batch_size, num_in, channel, generator)

    spare = max(0.0, 0.49 * rate - 0.5 * carrier.occupied_hz)
    if native:  # a receiver tuned to the channel: only the oscillators differ, by up to 20 ppm
        offset = (carrier.numerology.subcarrier_spacing_hz * uniform(-0.5, 0.5, batch_size)).clamp(-spare, spare)
    else:
        centred = uniform(0, 1, batch_size) < 0.4
        offset = torch.where(centred, uniform(-20e3, 20e3, batch_size), spare * uniform(-1, 1, batch_size))
    iq = receive(
        clean.samples,
        carrier.numerology.sampling_rate,
        num_samples,
        occupied_hz=carrier.occupied_hz,
        offset_hz=offset,
        noise_power=clean.element_power / 10 ** (snr_db / 10),
        generator=generator,
    )
    leaky = uniform(0, 1, batch_size) < 0.5
    dc_db = torch.where(leaky, uniform(-40, 5, batch_size), -100.0)
    iq = imperfect_mixer(iq, dc_db, uniform(-60, -25, batch_size), generator)
    index = PROTOCOLS.index(protocol) if protocol else NO_LABEL
    heard = clean.occupancy * 10 ** (snr_db / 10) > _MIN_SNR
    return LabelledRecordings(
        iq=iq,
        sampling_rate=rate,
        protocol=torch.where(heard, index, NO_LABEL),
        modulation=torch.where(heard & (clean.data_share > _MIN_DATA_SHARE), clean.modulation, NO_LABEL),
        snr_db=snr_db,
        mobility=mobility,
        speed_mps=speed,
    )


@dataclass(frozen=True)
class _Carrier:
    numerology: ofdm.Numerology
    num_rb: int
    occupied_hz: float


def _draw_carrier(protocol: str | None, pick) -> _Carrier:
    if protocol is None:
        protocol = pick(PROTOCOLS)
    if protocol == "WiFi":
        return _Carrier(wifi.NUMEROLOGY, 0, 57 * wifi.NUMEROLOGY.subcarrier_spacing_hz)
    if protocol == "LTE":
        num_rb = pick(tuple(lte.FFT_SIZES))
        return _Carrier(lte.numerology(num_rb), num_rb, 12 * num_rb * 15e3)
    spacing_khz = pick(tuple(nr.CARRIERS_RB))
    num_rb = pick(nr.CARRIERS_RB[spacing_khz])
    return _Carrier(nr.numerology(num_rb, spacing_khz * 1e3), num_rb, 12 * num_rb * spacing_khz * 1e3)


def _draw_length(rate: float, recipe: Recipe, fft_size: int, uniform) -> int:
    if bool(uniform(0, 1, 1) < recipe.contiguous_view):
        return fft_size * fft_size
    low, high = (math.log(value) for value in recipe.spans_s)
    return max(fft_size * fft_size // 4, min(round(math.exp(uniform(low, high, 1)) * rate), recipe.max_samples))


def _element_power(grid: torch.Tensor) -> torch.Tensor:
    """Mean power of the resource elements in use: the reference of the SNR in the occupied band, shape `(batch,)`."""
    power = grid.abs().square()
    used = (power > 0).sum((1, 2))
    return torch.where(used > 0, power.sum((1, 2)) / used.clamp(min=1), torch.ones(()))


def _make_cellular(
    carrier: _Carrier, batch_size: int, num_in: int, channel: TappedDelayLine, generator: torch.Generator
) -> _Clean:
    numerology = carrier.numerology
    samples_per_ms = round(numerology.sampling_rate * 1e-3)
    num_ms = -(-num_in // samples_per_ms) + 1
    if not numerology.dc_used:
        batch = lte.draw(carrier.num_rb, batch_size, num_ms, generator)
        names = lte.MODULATIONS
    else:
        num_slots = num_ms * round(numerology.subcarrier_spacing_hz / 15e3)
        batch = nr.draw(carrier.num_rb, numerology.subcarrier_spacing_hz, batch_size, num_slots, generator)
        names = nr.MODULATIONS
    prefix = ofdm.cyclic_prefix_3gpp(numerology, batch.grid.shape[1])
    starts = torch.cumsum(prefix + numerology.fft_size, 0) - numerology.fft_size
    times = (starts / numerology.sampling_rate).expand(batch_size, -1)
    response = channel.frequency_response(times, numerology.frequencies_hz(batch.grid.shape[2]))
    samples, _ = ofdm.modulate(batch.grid * response, numerology, prefix)

    first = torch.randint(samples_per_ms, (batch_size, 1), generator=generator)
    samples = samples.gather(1, first + torch.arange(num_in))
    within = (starts >= first) & (starts < first + num_in)  # what the recording hears
    energy = batch.grid.abs().square().sum(2)
    return _Clean(
        samples=samples,
        element_power=_element_power(batch.grid * response),
        data_share=(batch.data_share * within).sum(1) / within.sum(1).clamp(min=1),
        modulation=torch.tensor([MODULATIONS.index(name) for name in names])[batch.modulation],
        occupancy=(energy * within).sum(1) / (within.sum(1) * batch.grid.shape[2] * _element_power(batch.grid)),
    )


def _make_wifi(
    carrier: _Carrier, batch_size: int, num_in: int, channel: TappedDelayLine, generator: torch.Generator
) -> _Clean:
    batch = wifi.draw(batch_size, num_in, generator)
    numerology = carrier.numerology
    frequencies = numerology.frequencies_hz(batch.grid.shape[2])
    response = channel.frequency_response(batch.start / numerology.sampling_rate, frequencies)
    grid = batch.grid * response
    is_data = batch.grid.abs().square().sum(2) > 0
    share = is_data.float().sum(1) * wifi.SYMBOL_SAMPLES / num_in
    return _Clean(
        samples=wifi.assemble(batch, grid, num_in),
        element_power=_element_power(grid),
        data_share=share,
        modulation=torch.tensor([MODULATIONS.index(name) for name in wifi.MODULATIONS])[batch.modulation],
        occupancy=share,
    )

"""From a recipe to labeled I/Q: bits, waveform, channel and receiver, one chunk of recordings at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from ..channel import impairments
from ..channel.profiles import PowerDelayProfile, exponential_profile, tdl_profile
from ..channel.scenarios import Scenario, load_scenario
from ..channel.tdl import SPEED_OF_LIGHT_MPS, TappedDelayLine
from ..phy import lte, nr, wifi
from ..phy.ofdm import Numerology, fast_length, fft_sizes
from ..phy.synchronization import Synchronized, of_one_station, required_samples, symbol_period_s, synchronize
from ..phy.waveform import Waveform
from .recipe import (
    MOBILITIES,
    MODULATIONS,
    PROTOCOLS,
    STATISTICAL_CHANNELS,
    SYMBOL_RECEIVERS,
    Recipe,
    Rows,
    stable_seed,
)

NO_LABEL = -1
_MIN_DATA_SHARE = 0.05
_MIN_SNR = 10**-1.5  # mean over the whole recording and occupied band; a weaker signal counts as undetectable
# A lead-in that is generated and cut off: longer than the longest echo, so that a recording starts mid-signal. It is
# given in seconds for cities, and in delay spreads for other channels (TDL-E of TR 38.901 is the longest).
_LEAD_S, _LEAD_SPREADS = 10e-6, 20.7
_MAX_CFO = 0.45  # of a subcarrier: carrier offset that a coarse search leaves to a synchronous receiver
_CPU_SAMPLES, _GPU_SAMPLES = 2**19, 2**27
_ANSWER_DB = 6.0  # standard deviation of another station's level, for its other distance and walls
_ANSWER_CFO = 0.1  # of a subcarrier, standard deviation between two stations' oscillators: six ppm
_PHASE_NOISE_HZ = 20e3  # bandwidth of the oscillator's phase-locked loop
_MODULES = {"WiFi": wifi, "LTE": lte, "5G": nr}


@dataclass
class LabelledRecordings:
    """A chunk of recordings of one protocol, with one sampling rate and one length.

    Attributes:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Complex baseband, complex64.
        sampling_rate (`float`): [Hz].
        protocol (`torch.Tensor` of shape `(batch,)`): Index into `PROTOCOLS`; -1 where no signal is detectable.
        modulation (`torch.Tensor` of shape `(batch,)`): Index into `MODULATIONS`; -1 where no user data is detectable.
        code_rate (`torch.Tensor` of shape `(batch,)`): Of the user's data.
        snr_db (`torch.Tensor` of shape `(batch,)`): In the occupied band; minus infinity for noise alone [dB].
        mobility (`torch.Tensor` of shape `(batch,)`): Index into `MOBILITIES`; -1 for noise alone.
        speed_mps (`torch.Tensor` of shape `(batch,)`): [m/s].
        doppler_hz (`torch.Tensor` of shape `(batch,)`): Largest Doppler shift [Hz].
        channel (`torch.Tensor` of shape `(batch,)`): Index into the recipe's `channels`; -1 for noise alone.
        user (`torch.Tensor` of shape `(batch,)`): Row of the scenario's users; -1 for channels without a city.
        index (`torch.Tensor` of shape `(batch,)`): Number of the recording; reproduces it, together with the seed and
            the recipe.
        receiver (`str`): One of `RECEIVERS`.
        frame_step_s (`float`, *optional*): Time from one frame to the next, where `iq` is the concatenated frames of a
            receiver that finds the symbols [s].
        bandwidth_hz (`float`): Width that the carrier's subcarriers occupy [Hz].
        carrier_hz (`float`): Carrier frequency [Hz].
        parameters (`dict[str, torch.Tensor]`): Parameters of the sender for receivers of that standard, each of shape
            `(batch,)`.
    """

    iq: torch.Tensor
    sampling_rate: float
    protocol: torch.Tensor
    modulation: torch.Tensor
    code_rate: torch.Tensor
    snr_db: torch.Tensor
    mobility: torch.Tensor
    speed_mps: torch.Tensor
    doppler_hz: torch.Tensor
    channel: torch.Tensor
    user: torch.Tensor
    index: torch.Tensor
    receiver: str
    frame_step_s: float | None
    bandwidth_hz: float
    carrier_hz: float
    parameters: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Setting:
    """What all recordings of a chunk share.

    Attributes:
        protocol (`str`): Protocol of the carrier, whether it is sent or not.
        num_rb (`int`): Resource blocks of the carrier; 0 for WiFi.
        numerology ([`Numerology`]): Rate and subcarriers of the carrier.
        occupied_hz (`float`): Width of the carrier [Hz].
        carrier_hz (`float`): Carrier frequency [Hz].
        receiver (`str`): One of `RECEIVERS`.
        sampling_rate (`float`): Of the receiver [Hz].
        num_samples (`int`): Received samples, at that rate.
        symbol_step (`int`): OFDM symbols from one frame to the next, for receivers that find the symbols.
        tuned (`bool`): Whether a blind receiver that receives the whole carrier is tuned to it.
    """

    protocol: str
    num_rb: int
    numerology: Numerology
    occupied_hz: float
    carrier_hz: float
    receiver: str
    sampling_rate: float
    num_samples: int
    symbol_step: int
    tuned: bool

    @property
    def partial(self) -> bool:
        """Whether this is a blind receiver of a part of the carrier."""
        return self.receiver == "blind" and self.sampling_rate < self.occupied_hz


def check_channels(recipe: Recipe) -> None:
    """Check that a recipe's channels exist, by loading their cities.

    Raises:
        ValueError: If a scenario does not exist or has fewer users than the recipe asks for.
    """
    _cities(_city_names(recipe), recipe.users, "cpu")


def draw_recordings(
    recipe: Recipe, chunk: int, seed: int = 0, device: str | torch.device = "cpu"
) -> LabelledRecordings:
    """Make one chunk of a recipe's recordings.

    Args:
        recipe ([`Recipe`]): What to generate.
        chunk (`int`): Number of the chunk, without upper limit.
        seed (`int`, *optional*, defaults to 0): Of the data set. The same seed and chunk give the same recordings on
            the same kind of device.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where to make them.

    Returns:
        [`LabelledRecordings`], `recipe.chunk_size` of them.

    Raises:
        ValueError: If a scenario does not exist or has fewer users than the recipe asks for.
    """
    # Two generators: what all rows share is drawn on the host, which avoids waiting for the device.
    rows, setting = _rows_and_setting(recipe, chunk, seed)
    generator = torch.Generator(device).manual_seed(stable_seed("rows", seed, chunk))
    device = generator.device

    def of_rows(values: list) -> torch.Tensor:
        return torch.tensor(values, device=device)

    snr_db = of_rows([float(recipe.snrs_db[snr]) for snr in rows.snr])
    mobilities, speed = _draw_speeds(rows, recipe, generator)
    doppler = speed * setting.carrier_hz / SPEED_OF_LIGHT_MPS

    lead = 0 if setting.receiver == "native" else round(_lead_s(recipe, setting) * setting.numerology.sampling_rate)
    num_in = round(setting.num_samples * setting.numerology.sampling_rate / setting.sampling_rate)
    waveform = _transmit(rows, recipe, setting, num_in + lead, generator)
    profile, user = _draw_profile(rows, recipe, setting, generator)
    samples = waveform.samples
    if profile is not None:
        channel = TappedDelayLine.draw(profile, doppler, generator)
        samples = channel.apply(samples, setting.numerology.sampling_rate)
    # The SNR is that of the recording after fading: the noise is scaled by the channel's gain in this recording.
    sent, heard = (impairments.mean_power(part[:, lead:]) for part in (waveform.samples, samples))
    gain = torch.where(sent > 0, heard / sent.clamp(min=1e-20), 1.0)
    waveform = replace(waveform, samples=samples.new_empty(0))  # its memory is needed
    noise_power = waveform.element_power * gain * (10 ** (-snr_db / 10) if rows.protocol else 1)
    if waveform.answers is not None:
        samples = samples + _answered(waveform.answers, gain, doppler, rows, recipe, setting, generator)
    # On a CPU, new memory costs more than the arithmetic on it, so groups of rows are small and reuse a little of it,
    # but not smaller than that, as each call plans its FFT anew. On a GPU they are large enough to keep it busy.
    rows_at_once = max(1, (_CPU_SAMPLES if device.type == "cpu" else _GPU_SAMPLES) // num_in)
    parts = zip(samples[:, lead:].split(rows_at_once), noise_power.split(rows_at_once), strict=True)
    iq = torch.cat([_receive(part, power, setting, recipe, generator) for part, power in parts])

    audible = waveform.occupancy * 10 ** (snr_db / 10) > _MIN_SNR
    protocol = PROTOCOLS.index(rows.protocol) if rows.protocol else NO_LABEL
    modulation = of_rows([MODULATIONS.index(name) for name in _MODULES[setting.protocol].MODULATIONS])
    mobility, channel = of_rows([MOBILITIES.index(name) for name in mobilities]), of_rows(rows.channel)
    if rows.protocol is None:  # nothing was sent, nothing moved
        snr_db = torch.full_like(snr_db, -torch.inf)
        mobility = channel = torch.full_like(mobility, NO_LABEL)
        speed = doppler = torch.zeros_like(speed)
    frame_step_s = None
    if setting.receiver in SYMBOL_RECEIVERS:
        frame_step_s = setting.symbol_step * symbol_period_s(setting.numerology.subcarrier_spacing_hz)
    return LabelledRecordings(
        iq=iq,
        sampling_rate=setting.sampling_rate,
        protocol=torch.where(audible, protocol, NO_LABEL),
        modulation=torch.where(
            audible & (waveform.data_share > _MIN_DATA_SHARE), modulation[waveform.modulation], NO_LABEL
        ),
        code_rate=waveform.code_rate.float(),
        snr_db=snr_db,
        mobility=mobility,
        speed_mps=speed,
        doppler_hz=doppler,
        channel=channel,
        user=user,
        index=of_rows(rows.index),
        receiver=setting.receiver,
        frame_step_s=frame_step_s,
        bandwidth_hz=setting.occupied_hz,
        carrier_hz=setting.carrier_hz,
        parameters=waveform.parameters,
    )


def _draw_speeds(rows: Rows, recipe: Recipe, generator: torch.Generator) -> tuple[list[str], torch.Tensor]:
    """Mobility and speed [m/s] of each row."""
    # A single path without fading implies a terminal at rest.
    still = [recipe.channels[channel] == "none" for channel in rows.channel]
    mobilities = [recipe.mobilities[mobility] for mobility in rows.mobility]
    mobilities = ["static" if rests else name for rests, name in zip(still, mobilities, strict=True)]
    speeds = [(0.0, 0.0) if rests else recipe.speeds_mps[name] for rests, name in zip(still, mobilities, strict=True)]
    slowest, fastest = torch.tensor(speeds, device=generator.device).T
    share = torch.rand(len(speeds), generator=generator, device=generator.device)
    return mobilities, slowest + (fastest - slowest) * share


def _lead_s(recipe: Recipe, setting: _Setting) -> float:
    spreads = set(recipe.channels) & set(STATISTICAL_CHANNELS) - {"none"}
    return max(_LEAD_S, _LEAD_SPREADS * recipe.delay_spreads_s[setting.protocol][1] if spreads else 0.0)


def recording_length(recipe: Recipe, chunk: int, seed: int = 0) -> int:
    """Number of samples of each recording of a chunk, without generating any."""
    _, setting = _rows_and_setting(recipe, chunk, seed)
    return recipe.num_frames * recipe.fft_size if setting.receiver in SYMBOL_RECEIVERS else setting.num_samples


def _rows_and_setting(recipe: Recipe, chunk: int, seed: int) -> tuple[Rows, _Setting]:
    rows = recipe.rows(chunk, seed)
    return rows, _draw_setting(rows, recipe, torch.Generator().manual_seed(stable_seed("setting", seed, chunk)))


def _draw_setting(rows: Rows, recipe: Recipe, generator: torch.Generator) -> _Setting:
    def uniform() -> float:
        return float(torch.rand(1, generator=generator))

    def pick(values):
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    protocol = rows.protocol or pick(recipe.protocols)
    names, weights = list(recipe.receivers), torch.tensor(list(recipe.receivers.values()), dtype=torch.float32)
    receiver = names[int(torch.multinomial(weights, 1, generator=generator))]
    num_rb, step_key = 0, protocol
    if protocol == "WiFi":
        numerology = wifi.NUMEROLOGY
        occupied_hz = wifi.OCCUPIED_HZ
    elif protocol == "LTE":
        num_rb = pick(recipe.resource_blocks["LTE"])
        numerology = lte.numerology(num_rb)
        occupied_hz = (12 * num_rb + 1) * numerology.subcarrier_spacing_hz
    else:
        spacing_khz, num_rb = pick(recipe.resource_blocks["5G"])
        numerology = nr.numerology(num_rb, spacing_khz * 1e3)
        occupied_hz = 12 * num_rb * numerology.subcarrier_spacing_hz
        step_key = f"5G {spacing_khz} kHz"
    setting = _Setting(
        protocol=protocol,
        num_rb=num_rb,
        numerology=numerology,
        occupied_hz=occupied_hz,
        carrier_hz=pick(recipe.carriers_hz[protocol]),
        receiver=receiver,
        sampling_rate=numerology.sampling_rate,
        num_samples=round(recipe.duration_s * numerology.sampling_rate),
        symbol_step=pick(recipe.symbol_steps[step_key]),
        tuned=True,
    )
    if receiver in SYMBOL_RECEIVERS:
        # One bin for each subcarrier, and as many as the spectrogram has, whatever the width of the carrier.
        rate = recipe.fft_size * numerology.subcarrier_spacing_hz
        num_samples = required_samples(rate, numerology.subcarrier_spacing_hz, recipe.num_frames, setting.symbol_step)
        # Even, so that WiFi has a whole number of samples at half this rate.
        return replace(setting, sampling_rate=rate, num_samples=2 * fast_length(-(-num_samples // 2)))
    if receiver == "blind":
        native = rows.protocol is not None and uniform() < recipe.native_rate
        rates = [rate for rate in recipe.radio_rates_hz if occupied_hz * 1.02 <= rate <= 8 * occupied_hz]
        if native or not rates:
            rates = own_rates(protocol, numerology, occupied_hz)
        # No draw for recipes without such recordings: their random sequence is the one from before this option.
        narrower = [rate for rate in recipe.radio_rates_hz if rate < occupied_hz] if recipe.partial_band else []
        rate = pick(narrower if narrower and uniform() < recipe.partial_band else rates)
        low, high = (math.log(value) for value in recipe.spans_s)
        span = round(math.exp(low + (high - low) * uniform()) * rate)
        contiguous = recipe.num_frames * recipe.fft_size
        num_samples = max(contiguous // 4, min(span, recipe.max_samples))
        if uniform() < recipe.contiguous_view:
            num_samples = contiguous
        return replace(setting, sampling_rate=rate, num_samples=fast_length(num_samples), tuned=native)
    return setting


def own_rates(protocol: str, numerology: Numerology, occupied_hz: float) -> tuple[float, ...]:
    """Sampling rates at which receivers of a standard record a carrier, the highest first [Hz].

    For LTE and 5G these belong to the smallest usual FFT size that holds the carrier, and to the next one. With one
    rate for each standard, models would learn to tell standards by it, and fail on recordings of other receivers.

    Args:
        protocol (`str`): One of `PROTOCOLS`.
        numerology ([`Numerology`]): Of its waveform.
        occupied_hz (`float`): Width of the carrier [Hz].
    """
    if protocol == "WiFi":
        return (numerology.sampling_rate,)
    spacing_hz = numerology.subcarrier_spacing_hz
    return tuple(size * spacing_hz for size in reversed(fft_sizes(occupied_hz / spacing_hz)[:2]))


def _transmit(rows: Rows, recipe: Recipe, setting: _Setting, num_samples: int, generator: torch.Generator) -> Waveform:
    device, batch_size = generator.device, len(rows.index)
    modes = recipe.modes[setting.protocol]
    names = _MODULES[setting.protocol].MODULATIONS
    options = {
        "modulation": torch.tensor([names.index(modes[mode][0]) for mode in rows.mode], device=device),
        "code_rate": torch.tensor([modes[mode][1] for mode in rows.mode], device=device),
        "full": torch.rand(batch_size, generator=generator, device=device) < recipe.full_load,
    }
    if rows.protocol is None:
        return _silence(setting, batch_size, num_samples, device)
    options["aligned"] = setting.receiver == "native"
    if setting.protocol == "WiFi":
        if recipe.answers_apart:  # else no draw: the random sequence is the one from before this option
            options["apart"] = torch.rand(batch_size, generator=generator, device=device) < recipe.answers_apart
            # A receiver that knows the symbols knows which frame they belong to, and who sent it.
            if recipe.two_way and setting.receiver != "synchronous":
                two_way = torch.rand(batch_size, generator=generator, device=device) < recipe.two_way
                options["two_way"] = two_way & options["apart"]
        return wifi.draw(batch_size, num_samples, generator, high_throughput=recipe.high_throughput, **options)
    if setting.protocol == "LTE":
        ports = recipe.antenna_ports
        return lte.draw(setting.num_rb, batch_size, num_samples, generator, num_ports=ports, **options)
    spacing_hz = setting.numerology.subcarrier_spacing_hz
    options["carrier_hz"] = setting.carrier_hz
    return nr.draw(setting.num_rb, spacing_hz, batch_size, num_samples, generator, **options)


def _answered(
    answers: torch.Tensor,
    gain: torch.Tensor,
    doppler: torch.Tensor,
    rows: Rows,
    recipe: Recipe,
    setting: _Setting,
    generator: torch.Generator,
) -> torch.Tensor:
    """What another station sends, as received: from elsewhere in the city, with the same largest Doppler shift."""
    device, rate = generator.device, setting.numerology.sampling_rate
    apart = int(torch.randint(recipe.users, (1,), generator=generator, device=device))
    others = replace(rows, user=[(user + apart) % recipe.users for user in rows.user])
    profile, _ = _draw_profile(others, recipe, setting, generator)
    level_db, cfo = torch.randn(2, len(answers), generator=generator, device=device)
    if profile is not None:
        answers = TappedDelayLine.draw(profile, doppler, generator).apply(answers, rate)
    cycles = _ANSWER_CFO * cfo * setting.numerology.subcarrier_spacing_hz / rate
    phase = 2 * torch.pi * cycles[:, None] * torch.arange(answers.shape[1], device=device)
    amplitude = 10 ** (_ANSWER_DB * level_db / 20) * gain.sqrt()
    return answers * torch.polar(amplitude[:, None].expand_as(phase), phase)


def _silence(setting: _Setting, batch_size: int, num_samples: int, device: torch.device) -> Waveform:
    zeros, none = torch.zeros(batch_size, device=device), torch.zeros(batch_size, dtype=torch.int64, device=device)
    return Waveform(
        samples=torch.zeros(batch_size, num_samples, dtype=torch.complex64, device=device),
        numerology=setting.numerology,
        element_power=torch.ones(batch_size, device=device),
        symbol_start=none[:, None][:, :0],
        occupancy=zeros,
        data_share=zeros,
        modulation=none,
        code_rate=zeros,
    )


def _draw_profile(
    rows: Rows, recipe: Recipe, setting: _Setting, generator: torch.Generator
) -> tuple[PowerDelayProfile | None, torch.Tensor]:
    """Power-delay profiles of all rows, of any kinds of channels (`None` if none of them fades), and their users."""
    device, batch_size = generator.device, len(rows.index)
    low, high = (math.log(value) for value in recipe.delay_spreads_s[setting.protocol])
    spread = (low + (high - low) * torch.rand(batch_size, generator=generator, device=device)).exp()
    user = torch.full((batch_size,), NO_LABEL, device=device)
    names = [recipe.channels[channel] for channel in rows.channel]
    cities = _city_names(recipe)
    kinds = ["city" if name in cities else name for name in names]
    profiles = []
    for kind in dict.fromkeys(kinds if rows.protocol else []):
        chosen = torch.tensor([row for row, other in enumerate(kinds) if other == kind], device=device)
        if kind == "none":
            zeros = torch.zeros(len(chosen), 1, device=device)
            profile = PowerDelayProfile(zeros, zeros + 1, torch.full((len(chosen),), 1e9, device=device))
        elif kind == "exponential":
            k_db = torch.empty(len(chosen), device=device).uniform_(*recipe.rician_k_db, generator=generator)
            seen = torch.rand(len(chosen), generator=generator, device=device) < recipe.line_of_sight
            profile = exponential_profile(spread[chosen], 10 ** (k_db / 10) * seen, generator)
        elif kind in STATISTICAL_CHANNELS:
            profile = tdl_profile(kind.removeprefix("TDL-"), spread[chosen])
        else:
            users, number = _cities(cities, recipe.users, str(device))
            place = [
                cities.index(name) * recipe.users + row
                for name, row, other in zip(names, rows.user, kinds, strict=True)
                if other == kind
            ]
            place = torch.tensor(place, device=device)
            user[chosen] = number[place]
            profile = users.profiles(place, generator)
        profiles.append((chosen, profile))
    if not profiles or set(names) == {"none"}:
        return None, user
    width = max(profile.delays_s.shape[1] for _, profile in profiles)
    joined = PowerDelayProfile(
        *torch.zeros(2, batch_size, width, device=device),
        torch.zeros(batch_size, device=device),
        torch.full((batch_size,), torch.nan, device=device),
    )
    for chosen, profile in profiles:
        joined.delays_s[chosen, : profile.delays_s.shape[1]] = profile.delays_s
        joined.powers[chosen, : profile.powers.shape[1]] = profile.powers
        joined.rician_k[chosen] = profile.rician_k
        if profile.direct_shift is not None:
            joined.direct_shift[chosen] = profile.direct_shift
    return joined, user


def _city_names(recipe: Recipe) -> tuple[str, ...]:
    return tuple(name for name in recipe.channels if name not in STATISTICAL_CHANNELS)


@lru_cache(maxsize=8)
def _cities(names: tuple[str, ...], num_users: int, device: str) -> tuple[Scenario | None, torch.Tensor]:
    """`num_users` of every city, spread evenly over all it has, as one scenario; and their numbers in their cities."""
    scenarios = [load_scenario(name) for name in names]
    numbers = []
    for scenario in scenarios:
        if num_users > len(scenario):
            raise ValueError(
                f"The recipe needs {num_users} users per city, but scenario {scenario.name!r} has {len(scenario)} "
                f"with paths: set users to at most {len(scenario)}."
            )
        numbers.append(torch.arange(num_users) * len(scenario) // num_users)
    if not scenarios:
        return None, torch.empty(0, dtype=torch.int64, device=device)
    paths = max(scenario.powers.shape[1] for scenario in scenarios)

    def joined(name: str) -> torch.Tensor:
        parts = [getattr(scenario, name)[number] for scenario, number in zip(scenarios, numbers, strict=True)]
        if name in ("delays_s", "powers"):
            parts = [torch.nn.functional.pad(part, (0, paths - part.shape[1])) for part in parts]
        return torch.cat(parts).to(device)

    fields = ("delays_s", "powers", "line_of_sight", "positions", "base_station")
    users = replace(scenarios[0], name="+".join(names), **{name: joined(name) for name in fields})
    return users, torch.cat(numbers).to(device)


def _receive(
    samples: torch.Tensor, noise_power: torch.Tensor, setting: _Setting, recipe: Recipe, generator: torch.Generator
) -> torch.Tensor:
    """Turn the signal at the antenna into the samples of the chunk's receiver."""
    native_hz = setting.numerology.sampling_rate
    if setting.receiver == "native":
        return impairments.add_noise(samples, noise_power, generator)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(samples), generator=generator, device=generator.device)

    def drift(samples: torch.Tensor, rate: float) -> torch.Tensor:
        samples = impairments.clock_offset(samples, uniform(-recipe.max_clock_ppm, recipe.max_clock_ppm))
        return impairments.phase_noise(
            samples, rate, uniform(0, recipe.max_phase_noise_deg), _PHASE_NOISE_HZ, generator
        )

    informed = setting.receiver == "synchronous"
    drift_first = native_hz < setting.sampling_rate  # apply oscillator and clock at the lower of the two rates
    samples = drift(samples, native_hz) if drift_first else samples
    samples = impairments.receive(
        samples,
        native_hz,
        setting.num_samples,
        occupied_hz=setting.occupied_hz,
        offset_hz=_OFFSETS[setting.receiver](setting, recipe, uniform),
        noise_power=noise_power,
        generator=generator,
        filter_probability=recipe.receive_filter,
    )
    if setting.partial:
        # The carrier fills the band, so the filter against what lies beside the band shows in the carrier itself.
        edge_hz = setting.sampling_rate * uniform(0.4, 0.6)
        samples = impairments.band_edges(samples, setting.sampling_rate, edge_hz, uniform(0.05, 0.25))
    samples = samples if drift_first else drift(samples, setting.sampling_rate)
    leakage_db = torch.where(uniform(0, 1) < 0.5, uniform(-50, -15) if informed else uniform(-40, 5), -100.0)
    samples = impairments.imperfect_mixer(samples, leakage_db, uniform(-60, -25), generator)
    if setting.receiver in SYMBOL_RECEIVERS:
        if setting.protocol == "WiFi" and not informed:
            samples, _ = of_one_station(samples, setting.sampling_rate)
        frames = synchronize(
            samples,
            setting.sampling_rate,
            setting.numerology.subcarrier_spacing_hz,
            num_frames=recipe.num_frames,
            symbol_step=setting.symbol_step,
        )
        samples = frames.iq
        if informed:
            samples = _select_subcarriers(frames, setting, uniform(0, 1) < recipe.receive_filter)
    return impairments.quantize(samples, uniform(*recipe.adc_bits))


def _select_subcarriers(frames: Synchronized, setting: _Setting, selective: torch.Tensor) -> torch.Tensor:
    """Keep only the carrier's subcarriers of each frame, as an OFDM receiver does, in rows that are `selective`.

    A time-domain filter would not do: the noise that it passes leaks through the sidelobes of the frame's window into
    the guard band. The signal, being orthogonal, does not, so the guard band would give away the SNR.
    """
    spectrum = torch.fft.fft(frames.iq.unflatten(1, (-1, frames.fft_size)))
    bins = torch.fft.fftfreq(frames.fft_size, 1 / frames.fft_size, device=spectrum.device)
    inside = bins.abs() <= setting.occupied_hz / setting.numerology.subcarrier_spacing_hz / 2
    spectrum = spectrum * (inside | ~selective[:, None, None])
    return torch.fft.ifft(spectrum).flatten(1)


def _tuned_offset(setting: _Setting, recipe: Recipe, uniform: Callable[[float, float], torch.Tensor]) -> torch.Tensor:
    """Offset of the carrier's center from the center of a synchronous receiver's band [Hz].

    Of a carrier wider than the band, the receiver takes the middle or a part a whole number of resource blocks away.
    """
    spacing_hz = setting.numerology.subcarrier_spacing_hz
    places = max(0, int((setting.occupied_hz / spacing_hz - recipe.fft_size) / 24))
    moved = uniform(-places - 0.5, places + 0.5).round() * 12 * (uniform(0, 1) < 0.5)
    return spacing_hz * (moved + uniform(-_MAX_CFO, _MAX_CFO))


def _blind_offset(setting: _Setting, recipe: Recipe, uniform: Callable[[float, float], torch.Tensor]) -> torch.Tensor:
    """Offset of the carrier's center from the center of a monitoring receiver's band [Hz]."""
    if setting.partial:  # at least three quarters of the band are within the carrier
        return (0.5 * setting.occupied_hz - 0.25 * setting.sampling_rate) * uniform(-1, 1)
    spare = max(0.0, 0.49 * setting.sampling_rate - 0.5 * setting.occupied_hz)
    if setting.tuned:  # only the oscillators differ, by some ten ppm
        return (setting.numerology.subcarrier_spacing_hz * uniform(-0.5, 0.5)).clamp(-spare, spare)
    return torch.where(uniform(0, 1) < 0.4, uniform(-20e3, 20e3), spare * uniform(-1, 1))


def _listening_offset(
    setting: _Setting, recipe: Recipe, uniform: Callable[[float, float], torch.Tensor]
) -> torch.Tensor:
    """Offset of the carrier's center from the center of one of a listening receiver's bands [Hz].

    Mostly the carrier fills the band or lies within it; some bands at the edges are partly empty.
    """
    band_hz = recipe.fft_size * setting.numerology.subcarrier_spacing_hz
    whole = abs(setting.occupied_hz - band_hz) / 2
    return (whole + torch.where(uniform(0, 1) < 0.2, band_hz / 4, 0)) * uniform(-1, 1)


_OFFSETS = {"synchronous": _tuned_offset, "blind": _blind_offset, "listening": _listening_offset}

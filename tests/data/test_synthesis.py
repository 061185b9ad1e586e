"""Generated recordings: reproducible, with the requested labels and SNR, in the shape of their receiver."""

import dataclasses
import math

import pytest
import torch

from lwm_spectro_hf.channel.scenarios import load_scenario
from lwm_spectro_hf.channel.tdl import SPEED_OF_LIGHT_MPS
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, RECEIVERS, SYMBOL_RECEIVERS, Recipe
from lwm_spectro_hf.data.synthesis import NO_LABEL, check_channels, draw_recordings, own_rates, recording_length
from lwm_spectro_hf.phy import nr
from lwm_spectro_hf.phy.synchronization import of_one_station

WIDTHS = {"LTE": (6,), "5G": ((15, 25),)}
SMALL = Recipe(chunk_size=4, resource_blocks=WIDTHS, duration_s=3e-3, spans_s=(0.5e-3, 2e-3), num_frames=32)


def recipe_of(protocol=None, receiver="native", **fields):
    protocols = (protocol,) if protocol else PROTOCOLS
    return dataclasses.replace(SMALL, protocols=protocols, receivers={receiver: 1.0}, **fields)


def test_other_stations_have_a_level_of_their_own():
    """Without fading, answers are as loud as the data unless they come from another station."""
    spread_db = []
    for share in (0.0, 1.0):
        recipe = recipe_of("WiFi", channels=("none",), snrs_db=(math.inf,), full_load=1.0, answers_apart=share)
        levels_db = []
        for chunk in range(8):
            iq = draw_recordings(recipe, chunk).iq
            answers = of_one_station(iq, 20e6)[0] != iq
            heard = iq.abs() > 0
            for row in torch.nonzero(answers.any(1))[:, 0].tolist():
                power = iq[row].abs().square()
                answer, data = (power[part & heard[row]].mean() for part in (answers[row], ~answers[row]))
                levels_db.append(float(10 * torch.log10(answer / data)))
        assert len(levels_db) > 10
        spread_db.append(torch.tensor(levels_db).std().item())
    assert spread_db[0] < 0.5 and 3 < spread_db[1] < 9


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_seed_and_chunk_determine_the_bytes(receiver):
    for chunk, protocol in enumerate(PROTOCOLS):
        recipe = recipe_of(receiver=receiver)
        state = torch.get_rng_state()
        first, again = (draw_recordings(recipe, chunk, 5) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
        assert set(first.protocol.tolist()) <= {PROTOCOLS.index(protocol), NO_LABEL}
        assert first.iq.dtype == torch.complex64 and bool(torch.isfinite(torch.view_as_real(first.iq)).all())
        for field in dataclasses.fields(first):
            value, other = getattr(first, field.name), getattr(again, field.name)
            if field.name == "parameters":
                assert value.keys() == other.keys() and all(torch.equal(value[name], other[name]) for name in value)
            else:
                assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, field.name
        for other in (draw_recordings(recipe, chunk, 6), draw_recordings(recipe, chunk + 3, 5)):
            assert other.iq.shape != first.iq.shape or not torch.equal(other.iq, first.iq)


# Rates at which receivers of each standard record 20 MHz of WiFi, 6 resource blocks of LTE and 25 of 5G.
BLIND_RATES_HZ = {"WiFi": {20e6}, "LTE": {1.92e6, 3.84e6}, "5G": {5.76e6, 7.68e6}}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_receivers_have_their_rates_and_lengths(protocol, receiver):
    recipe = recipe_of(protocol, receiver, native_rate=0.5, contiguous_view=0.5)
    spacing = 312.5e3 if protocol == "WiFi" else 15e3
    native = {"WiFi": 20e6, "LTE": 1.92e6, "5G": 5.76e6}[protocol]
    rates, lengths = set(), set()
    for chunk in range(3 if receiver == "blind" else 1):
        batch = draw_recordings(recipe, chunk)
        assert batch.receiver == receiver and batch.iq.shape == (4, recording_length(recipe, chunk))
        assert batch.index.tolist() == list(range(4 * chunk, 4 * chunk + 4))
        assert batch.carrier_hz in recipe.carriers_hz[protocol]
        assert batch.bandwidth_hz == pytest.approx({"WiFi": 57 * spacing, "LTE": 1.08e6, "5G": 4.5e6}[protocol], 0.02)
        rates.add(batch.sampling_rate)
        lengths.add(batch.iq.shape[1])
        if receiver == "blind":
            assert batch.sampling_rate in (*BLIND_RATES_HZ[protocol], *recipe.radio_rates_hz)
            assert batch.sampling_rate >= batch.bandwidth_hz
    if receiver in SYMBOL_RECEIVERS:
        assert rates == {recipe.fft_size * spacing} and lengths == {recipe.num_frames * recipe.fft_size}
    elif receiver == "native":
        assert rates == {native} and lengths == {round(3e-3 * native)}
    else:
        assert len(rates) > 1 and len(lengths) > 1
        assert recording_length(dataclasses.replace(recipe, contiguous_view=1.0), 0) == 32 * 128


def test_receivers_of_lte_and_5g_have_the_same_rates():
    """Otherwise the rate would reveal the protocol, which it does not in real recordings."""

    def rates(protocol, num_rb):
        recipe = recipe_of(protocol, "blind", native_rate=1.0, resource_blocks={protocol: (num_rb,)}, chunk_size=1)
        return {draw_recordings(recipe, chunk).sampling_rate for chunk in range(12)}

    assert rates("LTE", 25) == rates("5G", (15, 25)) == BLIND_RATES_HZ["5G"]
    assert rates("LTE", 6) == BLIND_RATES_HZ["LTE"] and rates("5G", (30, 24)) == {11.52e6, 15.36e6}
    assert own_rates("5G", nr.numerology(273, 30e3), 273 * 12 * 30e3) == (122.88e6,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partial_bands_are_mostly_filled_by_the_carrier(protocol):
    clear = {"snrs_db": (math.inf,), "channels": ("none",), "full_load": 1.0, "native_rate": 0.5}
    recipe = recipe_of(protocol, "blind", partial_band=1.0, contiguous_view=1.0, chunk_size=8, **clear)
    recipe = dataclasses.replace(recipe, resource_blocks={"LTE": (50,), "5G": ((15, 52),)})
    places = []
    for chunk in range(4):
        batch = draw_recordings(recipe, chunk)
        assert batch.sampling_rate in recipe.radio_rates_hz and batch.sampling_rate < batch.bandwidth_hz
        power = torch.fft.fft(batch.iq.unflatten(1, (-1, 32))).abs().square().mean(1)
        power[:, [-1, 0, 1]] = power.median(dim=1, keepdim=True).values  # the receiver's leakage
        loud = power > 0.03 * power.quantile(0.8, dim=1, keepdim=True)
        assert bool((loud.float().mean(1) >= 0.6).all())  # three quarters less the edges of its filter
        places += (torch.fft.fftshift(loud, 1).float() @ torch.linspace(-1, 1, 32)).tolist()
    assert min(places) < -1 and max(places) > 1  # either side of the carrier is reached


def test_carriers_narrower_than_any_rate_are_recorded_whole():
    batch = draw_recordings(recipe_of("LTE", "blind", partial_band=1.0), 0)
    assert batch.sampling_rate > batch.bandwidth_hz


@pytest.mark.parametrize("receiver, least, most", [("synchronous", 0, 1), ("listening", 8, 64)])
def test_listening_receivers_find_symbols_but_not_the_carrier(receiver, least, most):
    recipe = recipe_of("LTE", receiver, snrs_db=(40,), full_load=1.0, channels=("none",), chunk_size=16)
    frames = draw_recordings(recipe, 0).iq.unflatten(1, (-1, recipe.fft_size))
    power = torch.fft.fft(frames).abs().square().mean(1)
    # Whole symbols have no power beside the carrier's 72 subcarriers, wherever these are.
    loud = power > 0.1 * power.quantile(0.9, dim=1, keepdim=True)
    bins = torch.fft.fftfreq(recipe.fft_size, 1 / recipe.fft_size)
    middle = (loud * bins).sum(1) / loud.sum(1)
    assert least <= float(middle.abs().max()) <= most
    assert 50 <= int(loud.sum(1).min()) and int(loud.sum(1).max()) <= 76


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_match_the_grid(protocol):
    fields = {"full_load": 1.0, "snrs_db": (10, 20), "channels": ("exponential", "TDL-C"), "chunk_size": 16}
    recipe = recipe_of(protocol, duration_s=10e-3, **fields)
    rows, batch = recipe.rows(0, 3), draw_recordings(recipe, 0, 3)
    modes = [recipe.modes[protocol][mode] for mode in rows.mode]
    assert batch.protocol.tolist() == [PROTOCOLS.index(protocol)] * 16
    assert batch.modulation.tolist() == [MODULATIONS.index(name) for name, _ in modes]
    # Subframes with broadcast channels and synchronisation signals need other rates.
    torch.testing.assert_close(batch.code_rate, torch.tensor([rate for _, rate in modes]), atol=0.12, rtol=0)
    assert batch.snr_db.tolist() == [recipe.snrs_db[snr] for snr in rows.snr]
    names = [recipe.mobilities[mobility] for mobility in rows.mobility]
    assert batch.mobility.tolist() == [MOBILITIES.index(name) for name in names]
    for name, speed in zip(names, batch.speed_mps.tolist(), strict=True):
        slowest, fastest = recipe.speeds_mps[name]
        assert slowest <= speed <= fastest
    torch.testing.assert_close(batch.doppler_hz, batch.speed_mps * batch.carrier_hz / SPEED_OF_LIGHT_MPS)
    assert batch.channel.tolist() == rows.channel and set(batch.user.tolist()) == {NO_LABEL}


def test_users_are_spread_over_the_whole_city():
    recipe = recipe_of("LTE", channels=("munich", "TDL-A"), users=10, duration_s=1e-3, chunk_size=64)
    rows, batch = recipe.rows(0), draw_recordings(recipe, 0)
    every = len(load_scenario("munich")) // 10
    for channel, user, found in zip(rows.channel, rows.user, batch.user.tolist(), strict=True):
        assert found == NO_LABEL if channel == 1 else abs(found - user * every) < 10
    assert int(batch.user.max()) > 7.5 * every


def test_unknown_channels_are_errors_before_the_work():
    with pytest.raises(ValueError, match="No scenario 'atlantis'.*munich"):
        check_channels(recipe_of("LTE", channels=("munich", "atlantis")))
    with pytest.raises(ValueError, match="needs 1000000 users per city, but scenario 'munich' has .* set users to"):
        check_channels(recipe_of("LTE", channels=("munich",), users=1_000_000))


def parts(protocol, snr_db, seed, **fields):
    """One chunk, and its noise: the difference to the same chunk without any."""
    noisy, clean = (
        draw_recordings(recipe_of(protocol, snrs_db=(value,), **fields), 0, seed) for value in (snr_db, math.inf)
    )
    return noisy, clean, noisy.iq - clean.iq


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("snr_db", [-5, 20])
def test_snr_in_the_occupied_band_is_the_label(protocol, snr_db):
    noisy, clean, noise = parts(protocol, snr_db, 1, full_load=1.0, chunk_size=8, mobilities=("static",))
    assert noisy.snr_db.tolist() == [snr_db] * 8 and clean.snr_db.tolist() == [math.inf] * 8
    # Noise density times the width of a subcarrier, against the mean power of the subcarriers in use, gaps left out.
    size = round(clean.sampling_rate / (312.5e3 if protocol == "WiFi" else 15e3))
    density = noise.abs().square().mean(1)
    num_used = {"WiFi": 54, "LTE": 72, "5G": 300}[protocol]
    mean = clean.iq.unfold(1, size, size).abs().square().mean(2)
    busy = mean > 0.3 * mean.quantile(0.9, 1, keepdim=True)
    element = (mean * busy).sum(1) / busy.sum(1) * size / num_used
    measured = 10 * (element / density).log10()
    # Not every element of a cell is in use, and SS/PBCH and reference signals may be stronger.
    torch.testing.assert_close(measured, torch.full((8,), float(snr_db)), atol=1.6, rtol=0)
    assert float(measured.mean()) == pytest.approx(snr_db, abs=0.8)


def test_snr_of_elements_in_use_is_exact():
    noisy, clean, noise = parts("LTE", 10, 2, channels=("none",), full_load=0.0, chunk_size=12, antenna_ports=(1,))
    ends = torch.tensor([137 + (number % 7 == 0) for number in range(42)]).cumsum(0)
    bins = torch.fft.fft(clean.iq.unfold(1, 128, 1)[:, ends - 128], norm="ortho").abs().square()
    assert float(bins[..., 37:92].max()) < 1e-6 < float(bins[..., 1:37].max()), "starts with a frame"
    used = bins > 1e-6
    element = (bins * used).sum((1, 2)) / used.sum((1, 2))
    measured = 10 * (element / noise.abs().square().mean(1)).log10()
    torch.testing.assert_close(measured, torch.full((12,), 10.0), atol=0.25, rtol=0)


@pytest.mark.parametrize("channels", [("none",), ("none", "TDL-D")])
def test_channels_without_fading_count_as_static(channels):
    recipe = recipe_of("LTE", channels=channels, mobilities=("vehicular",), snrs_db=(math.inf,), antenna_ports=(1,))
    batch = draw_recordings(dataclasses.replace(recipe, chunk_size=8), 0, 3)
    still = batch.channel == channels.index("none")
    assert bool(still.any()) and (len(channels) == 1 or bool((~still).any()))
    assert bool((batch.speed_mps[still] == 0).all() and (batch.doppler_hz[still] == 0).all())
    assert {MOBILITIES[index] for index in batch.mobility[still].tolist()} == {"static"}
    assert {MOBILITIES[index] for index in batch.mobility[~still].tolist()} <= {"vehicular"}
    # The cyclic prefix repeats with the same phase, which a shift of 24 Hz would turn by 0.01.
    size = round(batch.sampling_rate / 15e3)
    prefix = batch.iq[:, : size // 16].conj() * batch.iq[:, size : size + size // 16]
    assert float(prefix[still].sum(1).angle().abs().max()) < 0.01


def test_signals_far_below_the_noise_have_no_label():
    batch = draw_recordings(recipe_of("WiFi", snrs_db=(-30,), full_load=1.0), 0)
    assert set(batch.protocol.tolist()) == set(batch.modulation.tolist()) == {NO_LABEL}
    assert batch.snr_db.tolist() == [-30] * 4


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("snrs_db", [(0, 20), (math.inf,)])
def test_noise_has_power_but_no_label(receiver, snrs_db):
    recipe = recipe_of(receiver=receiver, noise_share=1.0, snrs_db=snrs_db, mobilities=("vehicular",))
    batch = draw_recordings(recipe, 0)
    for name in ("protocol", "modulation", "mobility", "channel", "user"):
        assert batch.__dict__[name].tolist() == [NO_LABEL] * 4, name
    assert batch.snr_db.tolist() == [-math.inf] * 4
    assert not batch.speed_mps.any() and not batch.doppler_hz.any() and not batch.code_rate.any()
    assert not batch.parameters
    assert bool((batch.iq.abs().square().mean(1) > 0).all())


@pytest.mark.parametrize(("protocol", "half"), [("LTE", 36), ("WiFi", 28), ("5G", 64)])
def test_frames_of_a_still_channel_show_the_subcarriers(protocol, half):
    recipe = recipe_of(
        protocol,
        "synchronous",
        channels=("none",),
        mobilities=("static",),
        snrs_db=(60,),
        full_load=1.0,
        max_clock_ppm=0.0,
        max_phase_noise_deg=0.0,
        adc_bits=(16, 16),
    )
    batch = draw_recordings(recipe, 0)
    power = torch.fft.fft(batch.iq.view(4, 32, 128)).abs().square()
    level = power.mean((1, 2))
    number = torch.fft.fftfreq(128, 1 / 128).abs()
    inside = power[..., (number > 0) & (number <= half)]
    assert bool((inside.mean((1, 2)) > 0.9 * level).all())
    assert bool(((inside > 0.1 * level[:, None, None]).float().mean((1, 2)) > 0.5).all())
    outside = power[..., number > half + 1]
    if outside.numel():
        assert bool((outside.mean((1, 2)) < 1e-4 * level).all())

"""Cyclic prefixes and preambles as evidence of a standard, and the views of symbols cut out of a recording."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.phy.listening import _beside, _loud, _without_tones, listen
from lwm_spectro_hf.phy.ofdm import Numerology, cyclic_prefix_3gpp, modulate
from lwm_spectro_hf.phy.synchronization import SPACING_WIFI_HZ, equally_loud, required_samples, symbol_evidence
from lwm_spectro_hf.phy.wifi import packet_samples, ppdu

RECORDINGS = Path(__file__).parents[2] / "examples/recordings"
PROTOCOLS = ("WiFi", "LTE", "5G")


def noise(num_samples, seed=0):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64).numpy()


def cell(spacing_hz, num_symbols, snr_db=0.0):
    """A downlink of random QPSK on 72 of 128 subcarriers, and noise."""
    numerology = Numerology(128 * spacing_hz, spacing_hz, 128, dc_used=False)
    bits = torch.randint(0, 2, (1, num_symbols, 72, 2), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    grid = torch.view_as_complex(bits) / 2**0.5
    samples = modulate(grid, numerology, cyclic_prefix_3gpp(numerology, num_symbols))[0][0].numpy()
    return samples + noise(len(samples)) * 10 ** (-snr_db / 20)


def wide_cell():
    """Ten milliseconds of a downlink of random QPSK, 9 MHz wide at 15.36 Msps, without noise."""
    numerology = Numerology(15.36e6, 15e3, 1024, dc_used=False)
    bits = torch.randint(0, 2, (1, 140, 600, 2), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    grid = torch.view_as_complex(bits) / 2**0.5
    return modulate(grid, numerology, cyclic_prefix_3gpp(numerology, 140))[0][0].numpy()


@pytest.mark.parametrize(
    "name, sampling_rate, likeliest",
    [("wifi_11a_16qam_36mbps", 20e6, {"WiFi"}), ("lte_1.4mhz_10ms", 1.92e6, {"LTE", "5G"})],
)
def test_demo_recordings_are_recognized_by_their_symbols(name, sampling_rate, likeliest):
    iq = open_recording(RECORDINGS / f"{name}.sigmf-meta").read()
    evidence = dict(zip(PROTOCOLS, listen(iq, sampling_rate, PROTOCOLS).evidence, strict=True))
    assert {protocol for protocol, value in evidence.items() if value > 2} == likeliest


@pytest.mark.parametrize("spacing_hz, likeliest", [(15e3, {"LTE", "5G"}), (30e3, {"5G"})])
def test_cells_are_found_and_cut_into_symbols_at_any_rate(spacing_hz, likeliest):
    native_hz = 128 * spacing_hz
    iq = cell(spacing_hz, 300)
    for up, down in ((1, 1), (125, 48)):  # the second is 2.6 times the rate: 5 or 10 Msps
        heard = listen(1e-3 * resample_poly(iq, up, down) + 0.1, native_hz * up / down, PROTOCOLS)
        evidence = dict(zip(PROTOCOLS, heard.evidence, strict=True))
        assert {protocol for protocol, value in evidence.items() if value > 2} == likeliest
        # A symbol that is cut out exactly has only noise outside of its 72 subcarriers.
        power = np.abs(np.fft.fft(heard.frames[0].reshape(128, 128))) ** 2
        inside = np.r_[1:37, 92:128]
        assert heard.frames.dtype == np.complex64
        assert power[:, inside].mean() > 1.6 * np.delete(power, inside, axis=1)[:, 1:].mean()


def test_packets_are_found_in_a_part_of_the_channel():
    iq = open_recording(RECORDINGS / "wifi_11a_16qam_36mbps.sigmf-meta").read()
    part = resample_poly(iq * np.exp(0.4j * np.arange(len(iq))), 1, 5)  # 4 MHz of 20, off center
    evidence = listen(np.tile(part, 8), 4e6, PROTOCOLS).evidence
    assert evidence.argmax() == 0 and evidence[0] > 1


@pytest.mark.parametrize("spacing_hz, likeliest", [(15e3, {"LTE", "5G"}), (30e3, {"5G"})])
def test_cells_are_found_in_a_part_of_the_carrier(spacing_hz, likeliest):
    rate = 64 * spacing_hz  # 1.08 or 2.16 MHz are occupied: 12 % of it are lost
    iq = resample_poly(cell(spacing_hz, 300, snr_db=10), 1, 2)
    evidence = dict(zip(PROTOCOLS, listen(iq, rate, PROTOCOLS).evidence, strict=True))
    assert {protocol for protocol, value in evidence.items() if value > 2} == likeliest


def test_a_missing_pss_counts_less_in_a_part_of_the_carrier():
    iq = cell(15e3, 300, snr_db=20)  # without any
    for part, least, most in ((iq, -2.1, -1.5), (resample_poly(iq, 1, 2), -0.6, -0.4)):
        evidence = listen(part, 1.92e6 * len(part) / len(iq), PROTOCOLS).evidence
        assert least < evidence[1] - evidence[2] < most


def test_a_loud_dc_offset_changes_nothing():
    iq = cell(15e3, 300, snr_db=20).astype(np.complex128)
    clean, offset = listen(iq, 1.92e6, PROTOCOLS), listen(iq + 30 - 20j, 1.92e6, PROTOCOLS)
    np.testing.assert_allclose(offset.evidence, clean.evidence, atol=1e-3)
    np.testing.assert_allclose(offset.frames, clean.frames, atol=1e-3)
    # An offset repeats after any lag, as prefixes do after one.
    assert (listen(np.full(100_000, 0.3 + 0.2j), 20e6, PROTOCOLS).evidence < 0).all()


def test_drifting_dc_leakage_hides_no_prefixes():
    iq = cell(30e3, 300)
    time = np.arange(len(iq)) / 3.84e6
    leakage = 1e3 * np.exp(2j * np.pi * 400 * time - 200 * time)
    assert listen(iq + leakage, 3.84e6, PROTOCOLS).evidence[2] > 2


def test_decaying_dc_leakage_is_no_cell():
    iq = noise(200_000)
    iq += 300 * np.exp(-np.linspace(0, 2, len(iq)))
    assert (listen(iq, 46.08e6, PROTOCOLS).evidence < 0).all()


@pytest.mark.parametrize("level_db", [-10, 10])
def test_only_spurs_are_removed(level_db):
    iq = cell(15e3, 280, snr_db=20)
    amplitude = 10 ** (level_db / 20) * np.sqrt(np.mean(np.abs(iq) ** 2))
    spurs = sum(np.exp(2j * np.pi * hertz / 1.92e6 * np.arange(len(iq)) + 1j) for hertz in (211_300.0, -530_020.0))
    before, after = (listen(signal, 1.92e6, PROTOCOLS) for signal in (iq, iq + amplitude * spurs))
    np.testing.assert_allclose(after.evidence, before.evidence, atol=1.0)
    spectra = (np.abs(np.fft.fft(heard.frames.reshape(2, 128, 128))) ** 2 for heard in (before, after))
    error_db = np.abs(10 * np.log10(np.divide(*spectra))).mean((0, 1))
    assert np.median(error_db) < 1.0 and (error_db > 3.0).sum() <= 12, "two of 128 subcarriers and their neighbours"
    # A signal without lines is unchanged, even if it repeats.
    still = torch.from_numpy(np.tile(cell(15e3, 70, snr_db=100), 8)).to(torch.complex64)
    for samples in (still, still[:4000], torch.zeros(8000, dtype=torch.complex64), still[:1]):
        spectrum = torch.fft.fft(samples)
        assert torch.equal(_without_tones(spectrum, 1.92e6), spectrum)


@pytest.mark.parametrize("offset_hz", [-19e6, -12e6, 5e6, 18e6])
def test_a_narrow_carrier_is_found_anywhere_in_a_wide_recording(offset_hz):
    iq = resample_poly(cell(15e3, 280, snr_db=5), 24, 1)
    iq = iq * np.exp(2j * np.pi * offset_hz / 46.08e6 * np.arange(len(iq))) + 0.3 * noise(len(iq))
    heard = listen(iq, 46.08e6, PROTOCOLS)
    assert (heard.evidence[1:] > 2).all() and len(heard.frames) > 0
    # It is too narrow for a channel of WiFi.
    assert heard.evidence[0] < 0


@pytest.mark.parametrize("offset_hz", [0.0, 9.5e6, -20e6])
def test_a_few_packets_in_a_long_pause_are_found_in_a_wide_recording(offset_hz):
    packets = resample_poly(wifi_packets(2), 5, 2)
    iq = 0.3 * noise(1_000_000)
    iq[300_000 : 300_000 + len(packets)] += packets
    iq = iq * np.exp(2j * np.pi * offset_hz / 50e6 * np.arange(len(iq)))
    evidence = listen(iq, 50e6, PROTOCOLS).evidence
    assert evidence[0] > 2 > evidence[1:].max()


@pytest.mark.parametrize("prefix", [16, 32, 64])
def test_packets_of_other_symbols_are_found_by_their_preamble(prefix):
    """As in 802.11ax: after the common preamble come symbols of 12.8 us with prefixes of 0.8 to 3.2 us."""
    psdu = torch.zeros(1, 80, dtype=torch.uint8)
    preamble = packet_samples(ppdu(psdu, 6, torch.tensor([93])))[0, :400].numpy()
    numerology = Numerology(20e6, SPACING_WIFI_HZ / 4, 256, dc_used=False)
    bits = torch.randint(0, 2, (4, 40, 242, 2), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    packets = modulate(torch.view_as_complex(bits) / 2**0.5, numerology, torch.full((40,), prefix))[0].numpy()
    packets /= packets.std()
    with_preamble = np.concatenate([np.r_[np.zeros(300), preamble / preamble.std(), packet] for packet in packets])
    evidence = listen(with_preamble + 0.3 * noise(len(with_preamble)), 20e6, PROTOCOLS).evidence
    assert evidence[0] > 2 > evidence[1:].max()
    alone = np.concatenate([np.r_[np.zeros(300), packet] for packet in packets])
    assert listen(alone + 0.3 * noise(len(alone)), 20e6, PROTOCOLS).evidence[0] < 0


def test_noise_silence_and_short_recordings_give_no_evidence():
    heard = listen(noise(400_000), 20e6, PROTOCOLS)
    assert (heard.evidence < 0).all() and len(heard.frames) == 0
    assert np.isnan(heard.frame_step_s) and np.isnan(heard.spacing_hz)
    for short in (noise(20), noise(300)):
        heard = listen(short, 20e6, PROTOCOLS)
        assert len(heard.frames) == 0 and (heard.evidence == 0).all()
    # A rate too low for any protocol, and protocols without such symbols.
    assert (listen(noise(40_000), 0.8e6, PROTOCOLS).evidence == 0).all()
    assert (listen(noise(40_000), 20e6, ("LoRa", "DECT")).evidence == 0).all()
    silence = torch.zeros(2, 40_000, dtype=torch.complex64)
    for spacing_hz, rate in ((SPACING_WIFI_HZ, 20e6), (15e3, 1.92e6)):
        assert bool(torch.isfinite(symbol_evidence(silence, rate, spacing_hz)).all())


@pytest.mark.parametrize(
    "spacing_hz, num_symbols, count", [(15e3, 100, 91), (15e3, 30, 28), (30e3, 20, 14), (15e3, 14, 13), (15e3, 10, 0)]
)
def test_short_cells_are_repeated_in_whole_slots(spacing_hz, num_symbols, count):
    heard = listen(cell(spacing_hz, num_symbols, snr_db=10), 128 * spacing_hz, PROTOCOLS)
    assert heard.evidence[2] > 2 > heard.evidence[0]
    assert len(heard.frames) == (count > 0)
    for frames in heard.frames.reshape(-1, 128, 128):
        np.testing.assert_array_equal(frames, frames[np.arange(128) % count])
        assert len(np.unique(frames, axis=0)) == count and heard.distinct == count / 128
        assert heard.frame_step_s == pytest.approx(0.5e-3 / 7 * 15e3 / spacing_hz)


def test_the_loudest_stretch_is_used():
    iq = cell(15e3, 420, snr_db=20)  # 30 ms
    iq[: len(iq) // 2] *= 0.1
    heard = listen(iq, 1.92e6, ("LTE",))
    assert np.mean(np.abs(heard.frames) ** 2) > 0.5 * np.mean(np.abs(iq[len(iq) // 2 :]) ** 2)


def wifi_packets(num_packets, num_symbols=30, gap=400):
    """Packets of random QPSK on 52 of 64 subcarriers at 20 Msps, each after a pause, with a little noise."""
    numerology = Numerology(20e6, SPACING_WIFI_HZ, 64, dc_used=False)
    bits = torch.randint(0, 2, (num_packets, num_symbols, 52, 2), generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    prefixes = torch.full((num_symbols,), 16)
    packets = modulate(torch.view_as_complex(bits) / 2**0.5, numerology, prefixes)[0]
    samples = torch.nn.functional.pad(packets, (gap, 0)).flatten().numpy()
    return samples + 0.01 * noise(len(samples))


@pytest.mark.parametrize(
    "milliseconds, step", [(0.12, None), (0.2, 1), (0.4, 1), (0.7, 1), (1.4, 2), (2.5, 4), (5.0, 8)]
)
def test_frames_are_as_many_symbols_apart_as_the_recording_allows(milliseconds, step):
    iq = wifi_packets(40)[: int(milliseconds * 20e3)]
    heard = listen(iq, 20e6, PROTOCOLS)
    assert len(heard.frames) == (step is not None)
    if step:
        assert (heard.frame_step_s, heard.spacing_hz) == (pytest.approx(4e-6 * step), 312_500)
        needed = required_samples(40e6, SPACING_WIFI_HZ, 128, step)
        assert step == 1 or needed <= 2 * len(iq) < 2 * needed + needed * (step == 8)
        # All available symbols are used.
        num_symbols = len(np.unique(heard.frames.reshape(128, 128), axis=0))
        assert num_symbols == pytest.approx(min(128, milliseconds * 250 / step), abs=2)


@pytest.mark.parametrize("offset_hz", [0.0, 2.2e6, -3.5e6])
def test_bands_are_where_the_carrier_is(offset_hz):
    # 19 ms are two stretches of time, and no other band is half as loud.
    narrow = cell(15e3, 280, snr_db=20)
    iq = resample_poly(narrow, 25, 6)
    iq = iq * np.exp(2j * np.pi * offset_hz / 8e6 * np.arange(len(iq))) + 0.001 * noise(len(iq))
    heard = listen(iq, 8e6, PROTOCOLS)
    assert len(heard.frames) == 2
    whole = np.mean(np.abs(iq) ** 2)
    for frames in heard.frames:  # all of its power except that of the prefixes and the edges of the band
        assert np.mean(np.abs(frames) ** 2) > 0.9 * whole


def test_a_wide_carrier_is_seen_in_several_bands():
    iq = wide_cell()
    for max_views in (1, 3, 8):
        frames = listen(iq, 15.36e6, PROTOCOLS, max_views=max_views).frames
        assert len(frames) == min(max_views, 4)  # of 9 MHz, bands of 1.92 MHz that do not overlap
        # Different subcarriers, of the same carrier.
        correlation = np.abs(frames.conj() @ frames.T)
        assert (np.triu(correlation, 1) < 0.1 * np.diag(correlation).min()).all()


@pytest.mark.parametrize("spacing_hz, other", [(15e3, "LTE"), (30e3, "5G")])
def test_other_standards_in_the_band_are_named(spacing_hz, other):
    cells = resample_poly(cell(spacing_hz, 300), *((125, 6) if spacing_hz == 15e3 else (125, 12)))  # 40 Msps
    cells *= np.exp(2j * np.pi * -0.3 * np.arange(len(cells)))
    packets = resample_poly(np.resize(wifi_packets(40), len(cells) // 2), 2, 1)
    assert other not in listen(cells, 40e6, PROTOCOLS).beside and "WiFi" not in listen(packets, 40e6, PROTOCOLS).beside
    both = listen(cells[: len(packets)] + packets, 40e6, PROTOCOLS).beside
    assert len(both["WiFi"]) == 1 and both["WiFi"][0] in (other, "5G")
    assert both[other] == ("WiFi",)


def test_one_kind_of_symbols_is_one_standard_whichever_is_predicted():
    found = {SPACING_WIFI_HZ: -2.0, 15e3: 4.0, 30e3: -2.0}
    for own in (-2.0, 0.0, 2.0):  # evidence of LTE's own signals
        beside = _beside(found, {"WiFi": -2.0, "LTE": 4.0 + own, "5G": 4.0}, spreading=0.0)
        assert beside == {"WiFi": ("5G" if own < 0 else "LTE",)}
    both = _beside({**found, 30e3: 5.0}, {"WiFi": -2.0, "LTE": 6.0, "5G": 5.0}, spreading=0.0)
    assert both == {"WiFi": ("LTE", "5G"), "LTE": ("5G",), "5G": ("LTE",)}
    assert _beside(found, {"LTE": 6.0}, spreading=3.0) == {}, "only protocols that were asked for"
    assert _beside(found, {"WiFi": 3.0, "LTE": 6.0}, spreading=3.0) == {"WiFi": ("LTE",), "LTE": ("WiFi",)}


@pytest.mark.parametrize("place", [slice(0, 400), slice(-400, None)])
def test_a_receiver_that_starts_or_stops_with_a_bang_does_not_change_the_views(place):
    iq = cell(15e3, 300, snr_db=20.0)
    before = listen(iq, 1.92e6, PROTOCOLS)
    iq[place] += 30 * noise(400)
    after = listen(iq, 1.92e6, PROTOCOLS)
    assert len(after.frames) == len(before.frames)
    for views in (after.frames, *after.pieces.values()):
        assert np.abs(views).max() < 1.5 * np.abs(before.frames).max()


@pytest.mark.parametrize("spacing_hz", [15e3, 30e3])
@pytest.mark.parametrize("seconds", [2e-3, 10e-3])
def test_such_a_bang_does_not_hide_a_cell(spacing_hz, seconds):
    rate = 128 * spacing_hz
    iq = cell(spacing_hz, round(0.93 * seconds * spacing_hz), snr_db=5.0)
    before = listen(iq, rate, PROTOCOLS)
    loud = round(0.02 * len(iq))
    iq[:loud] += 100 * noise(loud) * np.linspace(1, 0, loud)
    after = listen(iq, rate, PROTOCOLS)
    assert before.evidence.argmax() == after.evidence.argmax() and before.evidence.max() > 3
    np.testing.assert_allclose(after.evidence, before.evidence, atol=1.0)
    assert after.beside == before.beside


def test_a_lone_burst_at_the_start_is_not_left_out():
    burst = cell(15e3, 20, snr_db=30.0)
    iq = np.concatenate([burst, 0.03 * noise(12 * len(burst))])
    heard = listen(iq, 1.92e6, PROTOCOLS)
    assert heard.evidence[1:].max() > 0
    assert max(np.abs(view).max() for view in heard.frames) > 0.5 * np.abs(burst).max()


def test_silence_has_no_views():
    assert _loud(torch.zeros(3, 2), torch.eye(3).bool()) == []


def test_views_of_cells_fall_off_at_their_edges():
    """Receivers of that width have such edges, and so have the training data."""
    frames = listen(wide_cell(), 15.36e6, PROTOCOLS).frames
    power = (np.abs(np.fft.fft(frames.reshape(-1, 128))) ** 2).mean(0)
    profile = 10 * np.log10(power / power[2:50].mean())
    assert profile[64] < -15 and profile[[63, 65]].max() < -10
    assert np.abs(profile[4:58]).max() < 1


def test_a_clean_signal_gets_noise_28_db_below_it():
    """QPSK has constant power, which varies only by twice its product with the noise."""
    frames = listen(cell(15e3, 280, snr_db=np.inf), 128 * 15e3, PROTOCOLS).frames
    power = np.abs(np.fft.fft(frames.reshape(-1, 128))) ** 2
    inside = power[:, 4:30]
    spread = inside.std(0) / inside.mean(0)
    np.testing.assert_allclose(spread, (2 * 10**-2.8) ** 0.5, rtol=0.25)


def test_views_are_no_cleaner_than_training_data():
    """Above the rate of a recording, and beside a carrier without noise, there is a floor 40 dB below the carrier."""
    packets = wifi_packets(40)
    noisy = packets + 0.3 * noise(len(packets), 5)
    for iq, beside_db, above_db in ((packets, -31, -40), (noisy, -11, -34)):  # ends of packets leak, and noise
        power = np.abs(np.fft.fft(listen(iq, 20e6, PROTOCOLS).frames[0].reshape(128, 128))) ** 2
        profile = 10 * np.log10(power.mean(0))
        inside, above = np.r_[2:26, 103:127], np.r_[40:88]
        # The quietest frames show the floor.
        quiet = 10 * np.log10(np.quantile(power[:, above], 0.25) / 0.288)  # of exponentially distributed powers
        assert quiet - profile[inside].mean() == pytest.approx(above_db, abs=2)
        beside = 10 * np.log10(np.quantile(power[:, 30:33], 0.25) / 0.288)
        assert beside - profile[inside].mean() == pytest.approx(beside_db, abs=2.5)
    again = listen(packets, 20e6, PROTOCOLS).frames
    np.testing.assert_array_equal(again, listen(packets, 20e6, PROTOCOLS).frames)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_scale_does_not_matter(scale):
    iq = resample_poly(cell(15e3, 280, snr_db=20), 2, 1).astype(np.complex64)
    rate = 2 * 128 * 15e3
    as_it_is, scaled = (listen(part, rate, PROTOCOLS) for part in (iq, iq * np.float32(scale)))
    assert as_it_is.evidence.max() > 1 and len(as_it_is.frames)
    np.testing.assert_allclose(scaled.evidence, as_it_is.evidence, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scaled.frames / np.float32(scale), as_it_is.frames, rtol=1e-3, atol=1e-4)


def test_samples_near_overflow_give_the_same_evidence():
    iq = resample_poly(cell(15e3, 280, snr_db=20), 2, 1)
    iq = (iq / np.abs(iq).max()).astype(np.complex64)
    as_it_is, loud = (listen(part, 2 * 128 * 15e3, PROTOCOLS) for part in (iq, iq * np.float32(2.0**126)))
    np.testing.assert_allclose(loud.evidence, as_it_is.evidence, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("num_samples", "rate"), [(300, 61.44e6), (640, 122.88e6), (1000, 16.384e6), (1000, 20.01e6), (3000, 1e300)]
)
def test_a_recording_too_short_at_its_rate_gives_no_evidence(num_samples, rate):
    heard = listen(noise(num_samples), rate, PROTOCOLS)
    assert not heard.evidence.any() and not len(heard.frames)


def test_sparse_cells_without_noise_are_not_taken_for_packets():
    """Narrow signals that come and go resemble themselves more than noise does."""
    numerology = Numerology(7.68e6, 15e3, 512, dc_used=False)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (4, 140, 300, 2), generator=generator) * 2.0 - 1
    active = torch.randint(0, 8, (4, 140, 25), generator=generator).repeat_interleave(12, 2) == 0
    cells = modulate(torch.view_as_complex(bits) * active, numerology, cyclic_prefix_3gpp(numerology, 140))[0]
    iq = torch.from_numpy(resample_poly(cells.numpy(), 125, 48, axis=1)).to(torch.complex64)
    assert (symbol_evidence(equally_loud(iq, 20e6), 20e6, SPACING_WIFI_HZ) < 1).all()


def test_pieces_are_where_each_quarter_of_a_recording_is_loudest():
    iq = cell(15e3, 600, snr_db=20)
    quarter = len(iq) // 4
    level = np.arange(len(iq)) // quarter % 4 + 1.0
    level[np.arange(len(iq)) % quarter < quarter // 2] = 0.1  # each is loud in its second half
    heard = listen(iq * level, 1.92e6, PROTOCOLS)
    (pieces,) = heard.pieces.values()
    assert list(heard.pieces) == [0] and pieces.shape == (4, 32 * 128) and pieces.dtype == np.complex64
    power = np.mean(np.abs(pieces) ** 2, axis=1)
    np.testing.assert_allclose(power / power[0], [1, 4, 9, 16], rtol=0.1)
    # Symbols that are cut out exactly have only noise outside of their subcarriers.
    spectrum = np.mean(np.abs(np.fft.fft(pieces.reshape(-1, 128))) ** 2, axis=0)
    inside = np.r_[1:37, 92:128]
    assert spectrum[inside].mean() > 30 * np.delete(spectrum, inside)[1:].mean()


def test_views_and_pieces_have_steps_of_their_own():
    # Four milliseconds of packets are enough for pieces with frames 32 us apart, but not for such views.
    bits = torch.randint(0, 256, (1, 1500), generator=torch.Generator().manual_seed(2)).byte()
    packet = packet_samples(ppdu(bits, 24, torch.tensor([77])))[0].numpy()
    iq = np.resize(np.concatenate([packet, np.zeros(680)]), int(4.03e-3 * 20e6)) + 0.01 * noise(int(4.03e-3 * 20e6))
    heard = listen(iq, 20e6, PROTOCOLS)
    assert heard.frame_step_s == pytest.approx(16e-6) and heard.piece_step_s == pytest.approx(32e-6)
    assert len(heard.frames) and heard.pieces


def test_acknowledgements_are_left_out():
    data = packet_samples(ppdu(torch.zeros(1, 1500, dtype=torch.uint8), 24, torch.tensor([77])))[0].numpy()
    answer = packet_samples(ppdu(torch.zeros(1, 14, dtype=torch.uint8), 24, torch.tensor([77])))[0].numpy()
    views = []
    for level in (1.0, 30.0):
        exchange = np.concatenate([data, np.zeros(320), level * answer, np.zeros(1000)])
        heard = listen(np.resize(exchange, 400_000) + 0.01 * noise(400_000), 20e6, PROTOCOLS)
        views.append(np.concatenate([heard.frames, *(piece.reshape(1, -1) for piece in heard.pieces.values())]))
    powers = [np.abs(view).max() for view in views]
    assert powers[1] < 1.1 * powers[0]


def test_a_wide_carrier_has_pieces_of_several_bands_and_a_short_recording_none():
    wide = wide_cell()
    assert not listen(wide[: len(wide) // 2], 15.36e6, PROTOCOLS).pieces
    heard = listen(wide, 15.36e6, PROTOCOLS)
    centres = np.array(list(heard.pieces))
    assert 2 <= len(centres) <= 4 and np.abs(centres).max() < 4.5e6 and np.diff(centres).min() >= 0.9 * 1.92e6


def test_narrow_parts_of_a_cell_repeat_their_resource_blocks():
    numerology = Numerology(7.68e6, 30e3, 256, dc_used=True)
    bits = torch.randint(0, 2, (1, 300, 240, 2), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    grid = torch.view_as_complex(bits) / 2**0.5
    wide = modulate(grid, numerology, cyclic_prefix_3gpp(numerology, 300))[0][0].numpy()
    bins = np.fft.fftfreq(128, 1 / 128).astype(int)

    def spectrum(iq, rate):
        frames = listen(iq + 0.01 * noise(len(iq)), rate, ("5G",)).frames
        return np.fft.fft(frames[0].reshape(128, 128)), np.mean(np.abs(np.fft.fft(frames.reshape(-1, 128))) ** 2, 0)

    part, power = spectrum(resample_poly(wide, 5, 16), 2.4e6)  # 80 bins, of which 60 are five resource blocks
    assert power.min() > 0.5 * power.max()
    for number in (-60, -40, 3):
        one, other = (part[:, bins == place][:, 0] for place in (number, number + 60))
        assert np.abs(np.vdot(one, other)) > 0.9 * np.linalg.norm(one) * np.linalg.norm(other)
    # A carrier that ends within the band is not repeated.
    _, power = spectrum(resample_poly(cell(30e3, 300, snr_db=40), 25, 32), 3e6)
    assert power[np.abs(bins) > 40].max() < 0.05 * power[np.abs(bins) < 30].mean()

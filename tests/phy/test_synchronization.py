"""The synchronized receiver against the resource elements, symbol starts and carrier offsets that were sent."""

from pathlib import Path

import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.phy import wifi, wifi_frames
from lwm_spectro_hf.phy.ofdm import Numerology, cyclic_prefix_3gpp, modulate
from lwm_spectro_hf.phy.synchronization import (
    SPACING_WIFI_HZ,
    Station,
    of_one_station,
    required_samples,
    symbol_period_s,
    synchronize,
)
from seeds import seeded

RECORDING = Path(__file__).parents[2] / "examples/recordings/wifi_11a_16qam_36mbps.sigmf-meta"


def turned(samples, cycles_per_sample):
    time = torch.arange(samples.shape[-1], dtype=torch.float64)
    return (samples * torch.exp(2j * torch.pi * cycles_per_sample * time)).to(torch.complex64)


def noisy(samples, snr_db, seed):
    """Adds noise for the given SNR of resource elements of power one (unitary DFT)."""
    noise = torch.randn(samples.shape, generator=seeded(seed), dtype=torch.complex64)
    return samples + noise * 10 ** (-snr_db / 20)


class Cell:
    """Rows of a downlink of random QPSK, each starting at another sample, with another carrier offset."""

    def __init__(self, sampling_rate, spacing_hz, num_samples, taps, snr_db, load=1.0, batch=24):
        draw = seeded(int(10 * snr_db) + 1000)
        fft_size = round(sampling_rate / spacing_hz)
        self.fft_size, self.spacing_hz, self.taps = fft_size, spacing_hz, taps
        self.numerology = Numerology(sampling_rate, spacing_hz, fft_size, dc_used=False)
        num_symbols = (num_samples + int(2e-3 * sampling_rate)) // fft_size
        bits = torch.randint(0, 2, (batch, num_symbols, 72, 2), generator=draw) * 2.0 - 1
        self.grid = torch.view_as_complex(bits) / 2**0.5
        self.grid *= torch.rand(batch, num_symbols, 1, generator=draw) < load
        samples, useful = modulate(self.grid, self.numerology, cyclic_prefix_3gpp(self.numerology, num_symbols))
        heard = torch.zeros_like(samples)
        for delay, gain in taps:
            heard[:, delay:] += gain * samples[:, : samples.shape[1] - delay]
        since = torch.randint(0, int(1e-3 * sampling_rate), (batch,), generator=draw)
        heard = torch.stack(
            [row[first : first + num_samples] for row, first in zip(heard, since.tolist(), strict=True)]
        )
        self.cfo_hz = (torch.rand(batch, generator=draw) - 0.5) * 0.8 * spacing_hz
        self.iq = noisy(turned(heard, self.cfo_hz[:, None].double() / sampling_rate), snr_db, 1)
        self.useful = useful - since[:, None]

    def symbol_and_error(self, start):
        """The symbol of each frame, and by how many samples the frame starts after its useful part."""
        error = start[..., None] - self.useful[:, None]
        symbol = error.abs().argmin(2)
        return symbol, error.gather(2, symbol[..., None])[..., 0]

    def hears_one_symbol(self, start):
        """Whether each frame is free of all paths of the symbol before, and of the symbol after."""
        error = self.symbol_and_error(start)[1]
        prefix = self.fft_size * 144 // 2048
        return (error <= 0) & (error >= max(delay for delay, _ in self.taps) - prefix)


RATES = [(1.92e6, 15e3), (3.84e6, 30e3), (3.84e6, 15e3)]


@pytest.mark.parametrize("sampling_rate, spacing_hz", RATES)
def test_frames_are_the_transmitted_elements(sampling_rate, spacing_hz):
    taps = ((0, 0.8), (2, 0.6j))
    cell = Cell(sampling_rate, spacing_hz, required_samples(sampling_rate, spacing_hz), taps, 25)
    found = synchronize(cell.iq, sampling_rate, spacing_hz)
    assert found.fft_size == cell.fft_size and found.iq.shape == (24, 128 * cell.fft_size)
    assert bool(cell.hears_one_symbol(found.start).all())
    symbol, error = cell.symbol_and_error(found.start)
    bins = cell.numerology.bins(72)
    received = torch.fft.fft(found.iq.unflatten(1, (128, -1)), norm="ortho")[..., bins % cell.fft_size]
    channel = sum(gain * torch.exp(-2j * torch.pi * delay * bins / cell.fft_size) for delay, gain in taps)
    ramp = torch.exp(2j * torch.pi * error[..., None] * bins / cell.fft_size)
    sent = cell.grid.gather(1, symbol[..., None].expand(-1, -1, 72)) * channel * ramp
    # One unknown phase per frame is left, since the offset is known only to about a thousandth of a spacing.
    phase = (received * sent.conj()).sum(2, keepdim=True)
    wrong = received - sent * phase / phase.abs()
    assert 10 * torch.log10(wrong.abs().square().mean()) < -23.5
    # The bins of the guard band hold only noise.
    guard = torch.fft.fft(found.iq.unflatten(1, (128, -1)), norm="ortho")[..., 40 : cell.fft_size - 40]
    assert 10 * torch.log10(guard.abs().square().mean()) < -24


@pytest.mark.parametrize("sampling_rate, spacing_hz", RATES)
def test_timing_and_offset_are_accurate_at_5_db(sampling_rate, spacing_hz):
    cell = Cell(sampling_rate, spacing_hz, required_samples(sampling_rate, spacing_hz), ((0, 1.0),), 5, batch=64)
    found = synchronize(cell.iq, sampling_rate, spacing_hz)
    assert cell.hears_one_symbol(found.start).float().mean() > 0.99
    error = (found.cfo_hz - cell.cfo_hz[:, None]) / spacing_hz
    assert error.square().mean() < 0.01**2 and error.abs().max() < 0.03


def test_mostly_idle_cells_with_a_strong_spur_are_synchronized():
    cell = Cell(1.92e6, 15e3, required_samples(1.92e6, 15e3), ((0, 1.0),), 20, load=0.1)
    found = synchronize(cell.iq + 0.5, 1.92e6, 15e3)
    assert cell.hears_one_symbol(found.start).float().mean() > 0.99
    assert ((found.cfo_hz - cell.cfo_hz[:, None]) / 15e3).square().mean() < 0.02**2


def test_every_few_symbols_are_found_with_a_drifting_clock():
    step = 20
    needed = required_samples(1.92e6, 15e3, 128, step)
    cell = Cell(1.92e6, 15e3, needed + 10, ((0, 1.0),), 15, batch=4)
    # A clock 20 ppm slow leaves a sample out of 50,000: seven by the end, of a prefix of nine.
    left_out = torch.arange(50_000, needed, 50_000)
    kept = torch.ones(needed + 10, dtype=torch.bool)
    kept[left_out] = False
    found = synchronize(cell.iq[:, kept], 1.92e6, 15e3, symbol_step=step)
    start = found.start + torch.searchsorted(left_out - torch.arange(len(left_out)), found.start, right=True)
    symbol, _ = cell.symbol_and_error(start)
    assert bool((symbol.diff() == step).all())
    passed_s = (start[:, -1] - start[:, 0]) / 1.92e6
    torch.testing.assert_close(passed_s / (127 * step), torch.full((4,), symbol_period_s(15e3)), rtol=1e-3, atol=0)
    assert cell.hears_one_symbol(start).float().mean() > 0.97


def test_required_samples_are_enough_wherever_a_recording_starts():
    for step in (1, 3):
        needed = required_samples(1.92e6, 15e3, 20, step)
        cell = Cell(1.92e6, 15e3, needed, ((0, 1.0),), 30, batch=200)
        found = synchronize(cell.iq, 1.92e6, 15e3, num_frames=20, symbol_step=step)
        assert int(found.start.min()) >= 0 and needed - 6 <= int(found.start.max()) + 128 <= needed
        with pytest.raises(ValueError, match=f"have {needed - 1} samples. Expected at least {needed} for 20 frames"):
            synchronize(cell.iq[:, :-1], 1.92e6, 15e3, num_frames=20, symbol_step=step)


def exchanges(num_samples, upsampling, seed):
    """Data and acknowledgements from two stations with offsets of their own, at 20 Msps times `upsampling`.

    Returns the samples, and of each packet its first sample, elements `(num_blocks, 56)` and carrier offset [Hz].
    """
    draw = seeded(seed)
    length = num_samples // upsampling + 1
    offset = (torch.rand(2, generator=draw) - 0.5) * 0.8 * SPACING_WIFI_HZ
    samples, packets = torch.zeros(length, dtype=torch.complex64), []
    start = int(torch.randint(0, 2000, (), generator=draw))
    while True:
        for station, (num_bytes, rate) in enumerate(((600, 24), (14, 12))):
            psdu = wifi_frames.mpdu(torch.randint(0, 256, (1, num_bytes - 4), generator=draw).byte())
            grid = wifi.ppdu(psdu, rate, torch.tensor([77]))
            packet = turned(wifi.packet_samples(grid)[0], offset[station] / 20e6)
            if start + len(packet) > length:
                spectrum = torch.fft.fft(samples).roll(length // 2)
                spectrum = torch.nn.functional.pad(spectrum, (0, length * (upsampling - 1))).roll(-(length // 2))
                return torch.fft.ifft(spectrum)[:num_samples] * upsampling, packets
            samples[start : start + len(packet)] = packet
            packets.append((start * upsampling, grid[0], float(offset[station])))
            start += len(packet) + 320  # SIFS
        start += int(torch.randint(400, 4000, (), generator=draw))


@pytest.mark.parametrize("upsampling, snr_db", [(1, 25), (2, 25), (2, 5)])
def test_each_wifi_packet_has_its_own_timing_and_offset(upsampling, snr_db):
    rate, block = 20e6 * upsampling, 80 * upsampling
    needed = required_samples(rate, SPACING_WIFI_HZ, 128, 2)
    rows = [exchanges(needed, upsampling, seed) for seed in range(8)]
    iq = noisy(torch.stack([samples for samples, _ in rows]) / upsampling**0.5, snr_db, 2)
    found = synchronize(iq, rate, SPACING_WIFI_HZ, symbol_step=2)
    assert found.fft_size == 64 * upsampling
    bins = wifi.NUMEROLOGY.bins(56)
    spectrum = torch.fft.fft(found.iq.unflatten(1, (128, -1)), norm="ortho")[..., bins % found.fft_size]
    num_frames, num_whole, error_power, powers = 0, 0, [], []
    for row, (_, packets) in enumerate(rows):
        for first, grid, cfo_hz in packets:
            place = found.start[row] - first
            number = place // block
            inside = (number >= 4) & (place + found.fft_size <= block * len(grid))  # from SIGNAL on
            late = place[inside] % block - block // 5
            num_frames += int(inside.sum())
            num_whole += int(((late <= 0) & (late >= -(block // 5))).sum())
            if not inside.any():
                continue
            assert (found.cfo_hz[row, inside] / SPACING_WIFI_HZ - cfo_hz / SPACING_WIFI_HZ).abs().max() < 0.06
            sent = grid[number[inside]] * torch.exp(2j * torch.pi * late[:, None] * bins / found.fft_size)
            received = spectrum[row, inside]
            phase = (received * sent.conj()).sum(1, keepdim=True)
            error_power.append((received - sent * phase / phase.abs()).abs().square().flatten())
            powers.append(sent.abs().square().flatten())
    assert num_frames > 300 and num_whole > 0.99 * num_frames
    assert 10 * torch.log10(torch.cat(error_power).mean() / torch.cat(powers).mean()) < -snr_db + 2


@pytest.mark.parametrize("upsampling, answer_db", [(1, 0), (2, 15), (2, -10)])
def test_answers_are_removed_from_an_exchange(upsampling, answer_db):
    rows = [exchanges(20_000 * upsampling, upsampling, seed) for seed in range(6)]
    is_answer, is_data = torch.zeros(2, len(rows), 20_000 * upsampling, dtype=torch.bool)
    for row, (samples, packets) in enumerate(rows):
        for number, (first, grid, _) in enumerate(packets):
            place = slice(first, first + 80 * upsampling * len(grid))
            (is_answer if number % 2 else is_data)[row, place] = True
            samples[place] *= 10 ** (answer_db / 20) if number % 2 else 1.0
    iq = noisy(torch.stack([samples for samples, _ in rows]) / upsampling**0.5, 20, 2)
    alone, _ = of_one_station(iq, 20e6 * upsampling)
    noise = 10**-2.0
    assert alone[is_answer].abs().square().mean() == pytest.approx(noise, rel=0.1)
    assert torch.equal(alone[is_data], iq[is_data]) and alone.shape == iq.shape
    assert not torch.equal(alone[is_answer][:80], alone[is_answer][80:160]), "not a repeated symbol"


def test_long_or_unsolicited_packets_are_no_answers():
    data = wifi.packet_samples(wifi.ppdu(torch.zeros(1, 600, dtype=torch.uint8), 24, torch.tensor([77])))[0]
    short = wifi.packet_samples(wifi.ppdu(torch.zeros(1, 14, dtype=torch.uint8), 12, torch.tensor([77])))[0]
    sifs, difs = torch.zeros(320, dtype=torch.complex64), torch.zeros(1000, dtype=torch.complex64)
    # Two data packets a SIFS apart, as from one station, and short ones on their own.
    iq = noisy(torch.cat([difs, data, sifs, data, difs, short, difs, short, difs])[None], 20, 1)
    assert torch.equal(of_one_station(iq, 20e6)[0], iq)
    # A request to send, and the clear to send of another station.
    iq = noisy(torch.cat([difs, short, sifs, short, sifs, data, sifs, short, difs])[None], 20, 1)
    changed = of_one_station(iq, 20e6)[0] != iq
    first = len(difs) + len(short) + len(sifs)
    assert changed[0, first : first + len(short)].all() and not changed[0, len(difs) : len(difs) + len(short)].any()
    noise = noisy(torch.zeros(2, 9000, dtype=torch.complex64), 0, 3)
    for iq in (noise, torch.zeros_like(noise), noise[:, :70], noise[:, :0]):
        assert torch.equal(of_one_station(iq, 20e6)[0], iq)


def test_the_raster_continues_in_silence_and_without_bursts():
    samples, packets = exchanges(required_samples(20e6, SPACING_WIFI_HZ), 1, 3)
    found = synchronize(samples[None], 20e6, SPACING_WIFI_HZ)
    assert int(found.start.diff().min()) > 0 and int(found.start.diff().max()) <= 80
    # No frame holds both silence before a packet and the packet.
    for first, _, _ in packets:
        straddles = (found.start < first) & (found.start + 64 > first + 16)
        assert not straddles.any()
    noise = noisy(torch.zeros(3, samples.shape[0], dtype=torch.complex64), 0, 4)
    for iq in (noise, torch.zeros_like(noise)):
        alone = synchronize(iq, 20e6, SPACING_WIFI_HZ)
        assert bool((alone.start.diff() == 80).all())


def test_symbols_of_real_wifi_packets_begin_with_their_end():
    recording = open_recording(RECORDING)
    iq = torch.from_numpy(recording.read())[None]
    found = synchronize(iq, recording.sampling_rate, SPACING_WIFI_HZ)
    assert bool(((found.cfo_hz > -41e3) & (found.cfo_hz < -32e3)).all()), "through a cable, -36 kHz"
    # The frames that lie in the data of a packet, which start at 56 and 1988 (by the long training field).
    for first in (56, 1988):
        inside = (found.start[0] > first + 320) & (found.start[0] < first + 1000)
        start = found.start[0, inside][:, None]
        prefix, tail = iq[0, start + torch.arange(-8, 3)], iq[0, start + torch.arange(56, 67)]
        turn = torch.exp(-2j * torch.pi * found.cfo_hz[0, inside] / SPACING_WIFI_HZ)[:, None]
        assert len(start) > 7
        assert (prefix - tail * turn).abs().square().mean() < 0.01 * prefix.abs().square().mean()
    # It would be -24 dB if frames straddled two symbols, or two packets.
    spectrum = torch.fft.fft(found.iq.unflatten(1, (128, -1))).abs().square()
    assert 10 * torch.log10(spectrum[..., 29:36].mean() / spectrum.mean()) < -30
    extractor = SpectrogramFeatureExtractor(num_freq_bins=64, fft_size=64, hop_length=64)
    assert extractor(found.iq, return_tensors="pt").input_values.shape[2:] == (128, 64)


def test_wrong_input_is_refused():
    iq = torch.zeros(2, 20_000, dtype=torch.complex64)
    with pytest.raises(ValueError, match="2,000,000 Hz is 133.333 subcarrier.*multiple of 1,920,000 Hz"):
        synchronize(iq, 2e6, 15e3)
    with pytest.raises(ValueError, match="no known standard.*312,500"):
        synchronize(iq, 2e6, 20e3)
    with pytest.raises(ValueError, match="have 0 samples"):
        synchronize(iq[:, :0], 1.92e6, 15e3)
    with pytest.raises(ValueError, match=r"shape \(20000,\)"):
        synchronize(iq[0], 1.92e6, 15e3)
    with pytest.raises(ValueError, match="type torch.float32"):
        synchronize(iq.real, 1.92e6, 15e3)
    with pytest.raises(ValueError, match="`num_frames=0` is out of range"):
        synchronize(iq, 1.92e6, 15e3, num_frames=0)
    iq[1, 5] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        synchronize(iq, 1.92e6, 15e3)


def taking_turns(seed, upward, cfo_hz, num_samples=200_000):
    """An exchange of data in both directions at 10 dB, with carriers `cfo_hz` apart, and where each of both sends."""
    share = torch.full((4,), bool(upward))
    options = {"full": torch.ones(4, dtype=torch.bool), "apart": torch.ones(4, dtype=torch.bool), "two_way": share}
    sent = wifi.draw(4, num_samples, seeded(seed), high_throughput=0.0, **options)
    ours = turned(sent.samples, 40e3 / 20e6)
    iq = noisy(ours + 2 * turned(sent.answers, (40e3 + cfo_hz) / 20e6), 10, seed)
    return iq, sent.samples.abs() > 0, sent.answers.abs() > 0


@pytest.mark.parametrize("upward", [False, True])
def test_the_station_that_sends_for_longest_is_kept(upward):
    found = torch.zeros(2)
    for seed in range(4):
        iq, own, others = taking_turns(seed, upward, 60e3)
        alone, station = of_one_station(iq, 20e6)
        assert (station.carrier_hz - 40e3).abs().max() < 2e3
        assert (station.airtime_s - own.sum(1) / 20e6).abs().max() < 0.1 * iq.shape[1] / 20e6
        changed = alone != iq
        found += torch.stack([changed[others].float().mean(), changed[own].float().mean()]) / 4
    assert found[0] > 0.9 and found[1] < 0.05


def test_carriers_that_agree_are_one_station():
    iq, own, others = taking_turns(1, True, 0.0)
    changed = of_one_station(iq, 20e6)[0] != iq
    assert changed[own].float().mean() < 0.05 and changed[others].float().mean() < 0.6, "only answers are removed"


def test_the_station_that_sent_for_longer_before_is_kept():
    iq, own, others = taking_turns(2, True, 60e3)
    usual = of_one_station(iq, 20e6)[1]
    before = Station(usual.carrier_hz + 60e3, torch.full((4,), 0.1))
    alone, station = of_one_station(iq, 20e6, before)
    heard = others.any(1)
    assert heard.any() and ((station.carrier_hz - 100e3).abs() < 2e3)[heard].all()
    assert (station.airtime_s > 0.1)[heard].all()
    changed = (alone != iq)[heard]
    assert changed[own[heard]].float().mean() > 0.9 > 0.2 > changed[others[heard]].float().mean()
    # A station that no longer sends is given up; if nobody sends, the station known before is remembered.
    gone = of_one_station(iq, 20e6, Station(usual.carrier_hz - 100e3, before.airtime_s))[1]
    torch.testing.assert_close(gone.carrier_hz, usual.carrier_hz)
    silence = torch.zeros_like(iq)
    assert of_one_station(silence[:, :70], 20e6, before)[1] is before
    assert of_one_station(silence, 20e6, before)[1].airtime_s.eq(0).all()

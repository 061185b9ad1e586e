"""WiFi packets and exchanges, decoded by a receiver that itself decodes a real recording."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import wifi_receiver

from lwm_spectro_hf.phy import wifi, wifi_frames, wifi_traffic
from lwm_spectro_hf.phy.ofdm import symbols_to_samples
from lwm_spectro_hf.phy.wifi_coding import HT_MODES, LEGACY_MODES
from seeds import seeded

RECORDING = Path(__file__).parents[2] / "examples/recordings/wifi_11a_16qam_36mbps"
BITS = {"BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6}


def frames(num, num_bytes, seed=0):
    return wifi_frames.mpdu(torch.randint(0, 256, (num, num_bytes - 4), generator=seeded(seed)).byte())


def through_multipath(samples, seed):
    """Seven Rayleigh taps, decaying by 3 dB each, within the prefix; noise 35 dB below."""
    draw = np.random.default_rng(seed)
    taps = (draw.standard_normal(7) + 1j * draw.standard_normal(7)) * 10 ** (-0.15 * np.arange(7))
    received = np.convolve(samples, taps)[: len(samples)]
    noise = draw.standard_normal((2, len(received))).T @ [1, 1j] / 2**0.5
    return received + noise * 10 ** (-35 / 20) * np.abs(received).std()


def test_the_receiver_decodes_a_real_recording():
    # Otherwise it would prove nothing about generated packets. The starts of the packets were found by correlation.
    iq = np.fromfile(RECORDING.with_suffix(".sigmf-data"), "<c8").astype(complex)
    assert json.loads(RECORDING.with_suffix(".sigmf-meta").read_text())["global"]["core:sample_rate"] == 20e6
    found = []
    for start in (54, 1160):
        samples = iq[start : start + 2000]
        # Carrier offset, from the repetition within the short and then the long training field.
        for first, last, lag in ((16, 144, 16), (192, 256, 64)):
            turn = np.angle(np.vdot(samples[first:last], samples[first + lag : last + lag])) / lag
            samples = samples * np.exp(-1j * turn * np.arange(len(samples)))
        found.append(wifi_receiver.receive(samples))
    data, acknowledgement = found
    assert data.fcs_is_right and data.rate_mbps == 36 and data.psdu[0] == 0x88
    assert acknowledgement.fcs_is_right and acknowledgement.psdu[0] == 0xD4 and len(acknowledgement.psdu) == 14


@pytest.mark.parametrize("rate_mbps", LEGACY_MODES)
def test_legacy_packets_are_received_at_every_rate(rate_mbps):
    psdu, states = frames(2, 57 + rate_mbps, rate_mbps), torch.tensor([1, 93])
    packets = wifi.packet_samples(wifi.ppdu(psdu, rate_mbps, states)).numpy()
    for row, samples in enumerate(packets):
        for received in (samples, through_multipath(samples, rate_mbps + row)):
            found = wifi_receiver.receive(received)
            assert found.psdu == psdu[row].numpy().tobytes() and found.fcs_is_right
            assert (found.rate_mbps, found.mcs, found.num_samples) == (rate_mbps, None, len(samples))
            assert Fraction(found.code_rate) == LEGACY_MODES[rate_mbps].code_rate


@pytest.mark.parametrize("mcs", range(8))
def test_ht_packets_are_received_at_every_scheme(mcs):
    psdu, states = frames(2, 60 + 31 * mcs, mcs), torch.tensor([127, 64])
    packets = wifi.packet_samples(wifi.ht_ppdu(psdu, mcs, states)).numpy()
    for row, samples in enumerate(packets):
        for received in (samples, through_multipath(samples, mcs + row)):
            found = wifi_receiver.receive(received)
            assert found.psdu == psdu[row].numpy().tobytes() and found.fcs_is_right
            assert (found.rate_mbps, found.mcs, found.num_samples) == (6, mcs, len(samples))
            # SIGNAL gives the true end of the packet to stations that know nothing else.
            assert found.legacy_num_samples == found.num_samples
            assert Fraction(found.code_rate) == HT_MODES[mcs].code_rate


def test_both_kinds_of_packets_have_the_same_power():
    legacy = wifi.ppdu(frames(1, 800), 54, torch.tensor([5]))[0]
    ht = wifi.ht_ppdu(frames(1, 800), 7, torch.tensor([5]))[0]
    for grid in (legacy, ht):
        power = grid.abs().square().sum(1)
        torch.testing.assert_close(power[:4], torch.full((4,), 52.0))
        assert abs(float(power[9:].mean()) / 52 - 1) < 0.1


def test_wrong_packets_are_refused():
    with pytest.raises(ValueError, match="no rate of 11 Mbit/s.*6, 9, 12"):
        wifi.ppdu(frames(1, 50), 11, torch.tensor([1]))
    with pytest.raises(ValueError, match="MCS 0 to 7, found 8"):
        wifi.ht_ppdu(frames(1, 50), 8, torch.tensor([1]))
    with pytest.raises(ValueError, match="1 to 4095 bytes, found 5000"):
        wifi.ppdu(frames(1, 5000), 6, torch.tensor([1]))
    with pytest.raises(ValueError, match="At MCS 0 .* found 5000"):
        wifi.ht_ppdu(frames(1, 5000), 0, torch.tensor([1]))


def packet_starts(symbol_start, num_samples):
    """First samples of the packets: only the two symbols of the L-LTF follow each other without a prefix."""
    first = symbol_start[:-1][symbol_start.diff() == 64] - 192
    return [start for start in first.tolist() if 0 <= start < num_samples]


def test_timeline_holds_exchanges_that_a_receiver_follows():
    num_samples = 30_000
    batch = wifi.draw(10, num_samples, seeded(0))
    iq = batch.samples.numpy()
    assert iq.shape == (10, num_samples)
    num_received, num_answers, kinds = 0, 0, set()
    for row in range(10):
        starts = batch.symbol_start[row]
        packets = packet_starts(starts[starts < num_samples], num_samples)
        last, end, sequence = None, 0, None
        for start in packets[:8]:
            try:
                found = wifi_receiver.receive(iq[row, start:])
            except EOFError:
                break
            assert found.fcs_is_right
            num_received += 1
            if found.psdu[0] == 0xD4:
                if last is not None:
                    num_answers += 1
                    assert start - end == 16 * 20, "an acknowledgement comes after exactly SIFS"
                    assert found.psdu[4:10] == last.psdu[10:16]
                    reserved_us, answer_us = int.from_bytes(last.psdu[2:4], "little"), 16 + found.num_samples // 20
                    # In a transmission opportunity of 802.11n, also for a SIFS and the next exchange.
                    assert reserved_us == answer_us or last.mcs is not None and reserved_us > 2 * answer_us + 16
                    assert found.rate_mbps in (6, 12, 24)
            else:
                assert found.bits_per_carrier == BITS[wifi.MODULATIONS[int(batch.modulation[row])]]
                assert float(Fraction(found.code_rate)) == pytest.approx(float(batch.code_rate[row]))
                header = 24 + 2 * (found.mcs is not None)
                assert found.psdu[0] == (0x08 if found.mcs is None else 0x88) and len(found.psdu) > header + 4
                number = int.from_bytes(found.psdu[22:24], "little") >> 4
                assert sequence is None or (number - sequence) % 4096 == 1
                sequence = number
                kinds.add(found.mcs is None)
            last, end = found, start + found.num_samples
    assert num_received > 20 and num_answers > 5 and kinds == {True, False}


def test_a_sender_waits_for_the_answer():
    generator = seeded(4)
    options = {"modulation": None, "code_rate": None, "full": torch.ones(64, dtype=torch.bool)}
    links = wifi_traffic.draw_links(64, generator, **options, high_throughput=0.4, aligned=False)
    exchanges = wifi_traffic.draw_exchanges(links, 20_000, generator)
    data, answer = exchanges.blocks.unbind(-1)
    gap = exchanges.start_us[:, 1:, 0] - (exchanges.start_us[..., 0] + 4 * data)[:, :-1]
    contending, to_one = ~links.opportunity[:, None], (links.ack >= 0)[:, None]
    lost = contending & to_one & (answer[:, :-1] == 0)
    assert lost.any() and gap[lost].min() == 16 + 9 + 20 + 34  # 10.3.2.11, and DIFS
    assert gap[(contending & ~to_one).expand_as(gap)].min() == 34  # no answer is expected


@pytest.mark.parametrize("modes", [LEGACY_MODES.values(), HT_MODES])
def test_requested_modes_are_sent(modes):
    modes = list(modes)
    modulation = torch.tensor([wifi.MODULATIONS.index(mode.modulation) for mode in modes])
    code_rate = torch.tensor([float(mode.code_rate) for mode in modes])
    num_samples, num_received = 30_000, 0
    # A target between two rates goes to the nearest one.
    batch = wifi.draw(8, num_samples, seeded(9), modulation=modulation, code_rate=code_rate + 0.02)
    assert torch.equal(batch.modulation, modulation)
    torch.testing.assert_close(batch.code_rate, code_rate)
    for row in range(8):
        for start in packet_starts(batch.symbol_start[row], num_samples):
            try:
                found = wifi_receiver.receive(batch.samples[row, start:].numpy())
            except EOFError:
                break
            assert found.fcs_is_right
            if found.psdu[0] != 0xD4:
                told = {name: values[row] for name, values in batch.parameters.items()}
                assert found.bits_per_carrier == BITS[modes[row].modulation]
                assert Fraction(found.code_rate) == modes[row].code_rate
                assert (found.mcs is not None) == bool(told["high_throughput"])
                if found.mcs is not None:
                    assert found.mcs == told["mcs"]
                else:
                    assert found.rate_mbps == told["rate_mbps"]
                num_received += 1
                break
    assert num_received == 8


def test_full_rows_are_packets_one_after_another():
    full = torch.arange(12) % 2 == 0
    batch = wifi.draw(12, 100_000, seeded(1), full=full)
    assert batch.data_share[full].mean() > batch.data_share[~full].mean()
    for row in full.nonzero()[:, 0].tolist():
        silent = np.convolve((batch.samples[row].abs() > 0).numpy(), np.ones(64), "same") < 1
        edges = np.flatnonzero(np.diff(np.r_[0, silent, 0]))
        # At most DIFS and the longest back-off of a first attempt, after a missing answer.
        assert np.diff(edges)[::2].max() <= (45 + 34 + 15 * 9) * 20
        assert len(packet_starts(batch.symbol_start[row], 100_000)) > 1


def test_packet_lengths_of_saturated_senders_do_not_reveal_the_rate():
    modulation = torch.arange(400) % 4
    lasting = []
    for seed in range(4):
        links = wifi_traffic.draw_links(400, seeded(seed), modulation, None, modulation >= 0, 0.0, False)
        lasting.append(links.data_blocks())
    lasting = torch.cat(lasting)
    # If all bodies had at least 1,500 bytes, only packets of 64-QAM would be as short.
    shortest = wifi_traffic.preamble_blocks(False) + LEGACY_MODES[36].num_symbols(1500)
    short = (lasting < shortest).float().mean(1)
    assert all(short[modulation.repeat(4) == one].mean() > 0.2 for one in range(4))


def test_answers_are_separate_on_request():
    options = {"batch_size": 8, "num_samples": 40_000, "full": torch.ones(8, dtype=torch.bool)}
    together = wifi.draw(generator=seeded(5), **options)
    apart = torch.arange(8) % 2 == 0
    parted = wifi.draw(generator=seeded(5), apart=apart, **options)
    assert together.answers is None and torch.equal(parted.samples + parted.answers, together.samples)
    assert parted.answers[apart].any(1).sum() >= 2 and not parted.answers[~apart].any()
    assert not (parted.answers.abs() * parted.samples.abs()).any(), "nobody interrupts"
    assert torch.equal(parted.element_power, together.element_power)


def test_stations_send_for_less_time_than_their_access_point():
    options = {"batch_size": 8, "num_samples": 200_000, "full": torch.arange(8) < 4, "apart": torch.ones(8) > 0}
    two_way = torch.arange(8) % 2 == 0
    batch = wifi.draw(generator=seeded(5), two_way=two_way, **options)
    airtime = torch.stack([part.abs().gt(0).float().mean(1) for part in (batch.samples, batch.answers)])
    assert (airtime[0] > airtime[1]).all()
    assert not (batch.answers.abs() * batch.samples.abs()).any(), "nobody interrupts"
    alone = wifi.draw(generator=seeded(5), two_way=two_way & False, **options)
    assert torch.equal(alone.code_rate, batch.code_rate) and torch.equal(alone.modulation, batch.modulation)

    num_upward, num_downward = 0, 0
    addresses, numbers = {}, {}  # by row: addresses of access point and station, and the last sequence number of each
    for row in torch.nonzero(two_way)[:, 0].tolist():
        starts = packet_starts(batch.symbol_start[row], 200_000)
        for start in starts:
            sender = (
                "answers" if batch.answers[row, start].abs() + batch.answers[row, start + 5].abs() > 0 else "samples"
            )
            try:
                found = wifi_receiver.receive(getattr(batch, sender)[row, start:].numpy())
            except EOFError:
                break
            assert found.fcs_is_right
            if found.psdu[0] == 0xD4:
                continue
            upward = sender == "answers"
            num_upward, num_downward = num_upward + upward, num_downward + (not upward)
            assert found.psdu[1] == (1 if upward else 2), "To DS, or From DS"
            to, sent_by, third = (bytes(found.psdu[4 + 6 * place : 10 + 6 * place]) for place in range(3))
            if to != b"\xff" * 6:
                access_point, station = (to, sent_by) if upward else (sent_by, to)
                assert third == access_point
                assert addresses.setdefault(row, (access_point, station)) == (access_point, station)
            number = int.from_bytes(found.psdu[22:24], "little") >> 4
            assert (number - numbers.get((row, sender), number - 1)) % 4096 == 1
            numbers[row, sender] = number
    assert num_upward > 5 and num_downward > num_upward


def test_only_links_with_quality_of_service_hold_the_medium():
    full = torch.ones(2000, dtype=torch.bool)
    links = wifi_traffic.draw_links(2000, seeded(4), None, None, full, 0.5, False)
    newer = torch.tensor([newer for newer, _ in wifi_traffic.MODES])[links.mode]
    assert not bool(links.opportunity[~newer].any())
    assert 0.4 < float(links.opportunity[newer].float().mean()) < 0.6


def test_opportunities_end_in_time_and_reserve_the_next_exchange():
    generator = seeded(6)
    full = torch.ones(400, dtype=torch.bool)
    links = wifi_traffic.draw_links(400, generator, None, None, full, 1.0, False)
    exchanges = wifi_traffic.draw_exchanges(links, 20_000, generator)
    answer = links.ack_blocks()
    checked = 0
    for row in (links.opportunity & (links.ack >= 0)).nonzero()[:, 0].tolist():
        start, blocks = exchanges.start_us[row].tolist(), exchanges.blocks[row].tolist()
        begun = start[0][0]
        for number, (this, following) in enumerate(zip(start, start[1:], strict=False)):
            answered = blocks[number][1] > 0
            end = this[1] + 4 * blocks[number][1] if answered else this[0] + 4 * blocks[number][0]
            until = this[0] + 4 * blocks[number][0] + int(exchanges.reserved_us[row, number])
            if answered and following[0] - end == 16:
                assert until == following[1] + 4 * int(answer[row])
                assert until - begun <= 2528 or begun < 0
                checked += 1
            elif answered:
                assert until == end and following[0] - end >= 34
                begun = following[0]
            else:
                begun = following[0]  # given up
    assert checked > 500


def test_frames_to_a_group_request_no_acknowledgement():
    receiver = torch.tensor([[0xFF] * 6, [0x02] + [0x11] * 5]).byte()
    sender, numbers = torch.full((2, 6), 0x06).byte(), torch.zeros(2, dtype=torch.int64)
    sent = wifi_frames.data_frame(receiver, sender, numbers, numbers, torch.zeros(2, 8).byte(), qos=True)
    # QoS Control, after 24 octets of header: bits 5 and 6 are 1 and 0 for No Ack (9.2.4.5.4).
    assert sent[:, 24:26].tolist() == [[0x20, 0], [0, 0]]
    plain = wifi_frames.data_frame(receiver, sender, numbers, numbers, torch.zeros(2, 8).byte())
    assert plain.shape[1] == sent.shape[1] - 2 and not bool(plain[:, 24:32].any())


def test_recordings_too_short_for_a_packet_hold_its_beginning():
    one = torch.zeros(3, dtype=torch.int64)
    options = dict(modulation=one, code_rate=one + 0.5, full=one == 0, high_throughput=0.0, aligned=True)
    batch = wifi.draw(3, 10_000, seeded(2), **options)
    assert (batch.samples[:, :600] == 0).all() and (batch.samples[:, -2000:].abs().square().mean(1) > 0.5).all()


def test_a_waveform_matches_its_description():
    num_samples = 20_000
    batch, again = (wifi.draw(6, num_samples, seeded(3)) for _ in range(2))
    assert torch.equal(batch.samples, again.samples) and torch.equal(batch.symbol_start, again.symbol_start)
    power = batch.samples.abs().square().mean(1)
    torch.testing.assert_close(batch.occupancy * batch.element_power * 56 / 64, power, rtol=0.03, atol=1e-4)
    for row in range(6):
        starts = batch.symbol_start[row]
        assert bool((starts.diff()[starts[1:] < num_samples] >= 64).all()), "symbols never overlap"
        inside = starts[(starts >= 0) & (starts + 64 <= num_samples)]
        bins = torch.fft.fft(batch.samples[row].unfold(0, 64, 1)[inside], norm="ortho")
        assert float(bins[:, 0].abs().max()) < 1e-4 and float(bins[:, 29:36].abs().max()) < 1e-4
        elements = bins.abs().square()
        used = elements > 1e-6
        assert float(elements[used].mean()) == pytest.approx(float(batch.element_power[row]), rel=0.02)
        assert used.sum() / (num_samples / 80 * 56) == pytest.approx(float(batch.occupancy[row]), rel=0.05)


def test_preamble_repeats_as_the_standard_says():
    short = symbols_to_samples(wifi.short_training_field()[None, None], wifi.NUMEROLOGY)[0, 0]
    torch.testing.assert_close(short, short.roll(16), atol=1e-6, rtol=0)
    samples = wifi.packet_samples(wifi.ppdu(frames(1, 40), 6, torch.tensor([1])))[0] / 8
    # Table G.24 of 802.11a-1999, in 64-point inverse-DFT units without the unitary factor 8: the period of the short
    # training field, prefix and start of the long one.
    period = [0.046 + 0.046j, -0.132 + 0.002j, -0.013 - 0.079j, 0.143 - 0.013j, 0.092, 0.143 - 0.013j]
    torch.testing.assert_close(samples[16:22], torch.tensor(period), atol=1e-3, rtol=0)
    torch.testing.assert_close(samples[:144], samples[16:160])
    long = [-0.005 - 0.12j, 0.04 - 0.111j, 0.097 + 0.083j, 0.021 + 0.028j]
    torch.testing.assert_close(samples[193:197], torch.tensor(long), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        samples[161:164], torch.tensor([0.012 - 0.098j, 0.092 - 0.106j, -0.092 - 0.115j]), atol=1e-3, rtol=0
    )


def test_annex_i_signal_symbol_in_time():
    samples = wifi.packet_samples(wifi.ppdu(frames(1, 100), 36, torch.tensor([93])))[0, 320:400] / 8
    # Table G.24, from the second sample: the first one is halved there by a window.
    expected = [0.033 - 0.044j, -0.002 - 0.038j, -0.081 + 0.084j, 0.007 - 0.1j, -0.001 - 0.113j, -0.021 - 0.005j]
    torch.testing.assert_close(samples[1:7], torch.tensor(expected), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        samples[32:35], torch.tensor([0.062, 0.057 + 0.052j, 0.016 + 0.174j]), atol=1e-3, rtol=0
    )


def test_pilot_polarity_matches_the_standard():
    expected = [1.0 if sign == "+" else -1.0 for sign in wifi_receiver.POLARITY]
    assert wifi.pilot_polarity().tolist() == expected

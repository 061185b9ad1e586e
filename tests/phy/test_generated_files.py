"""Files of `lwm-spectro generate --format sigmf`, decoded with only the parameters in their annotations."""

from fractions import Fraction

import lte_receiver
import numpy as np
import pytest
import sigmf
import wifi_receiver
from test_lte import SIZES, decode
from test_nr import data_slot, find_cell, receive_transport_block

from lwm_spectro_cli import main
from lwm_spectro_hf.phy import nr
from lwm_spectro_hf.phy.wifi_coding import HT_MODES, LEGACY_MODES

BITS = {"BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8}


def generate(folder, *options):
    """Samples and labels of the files that a command writes."""
    options = ["--format", "sigmf", "--scenario", "none", "--snr-db", "40", *map(str, options), "--out", str(folder)]
    assert main(["generate", *options]) == 0
    files = []
    for path in sorted(folder.glob("*.sigmf-meta")):
        signal = sigmf.fromfile(path)
        (mark,) = signal.get_annotations()
        label = {name.removeprefix("lwm:"): value for name, value in mark.items()}
        assert label["snr_db"] == 40 and label["receiver"] == "native" and label["scenario"] == "none"
        assert signal.sample_rate == label["sampling_rate"]
        files.append((signal.read_samples().astype(complex), label))
    return files


def packets_of(samples):
    """Whole packets, found by the long training field, which alone repeats after 64 samples for 160."""
    repeats = samples[:-64].conj() * samples[64:]
    window = np.ones(96)
    metric = np.abs(np.convolve(repeats, window, "valid"))
    power = np.convolve(np.abs(samples[64:]) ** 2, window, "valid")
    numbers = np.array([n for n in range(-26, 27) if n])
    spectrum = np.zeros(64, complex)
    spectrum[numbers] = [1 if sign == "+" else -1 for sign in wifi_receiver.LONG_TRAINING]
    training = np.tile(np.fft.ifft(spectrum), 2)
    match = np.abs(np.correlate(samples, training, "valid"))
    at = 0
    while at + 128 < len(metric):
        if metric[at] > 0.8 * power[at] and power[at] > 0.1 * power.mean():
            start = at + int(match[at : at + 320].argmax()) - 192
            try:
                packet = wifi_receiver.receive(samples[max(start, 0) :])
            except (ValueError, EOFError):
                at += 320
                continue
            yield packet
            at = start + packet.num_samples
        else:
            at += 16


@pytest.mark.parametrize("rate_mbps", LEGACY_MODES)
def test_wifi_files_are_decoded_at_every_rate(tmp_path, rate_mbps):
    mode = LEGACY_MODES[rate_mbps]
    options = ("--modulation", mode.modulation, "--code-rate", float(mode.code_rate), "--duration-ms", 8)
    found = 0
    for samples, label in generate(tmp_path, "--protocol", "WiFi", *options, "--num", 2, "--seed", rate_mbps):
        assert label["modulation"] == mode.modulation
        assert label["code_rate"] == pytest.approx(float(mode.code_rate), abs=1e-6)
        # Decoders that work in blocks need idle time before the first packet and after the last one.
        quiet = np.abs(samples) < 0.1
        assert quiet[:400].all() and quiet[-400:].all()
        packets = list(packets_of(samples))
        is_ack = [packet.psdu[0] == 0xD4 for packet in packets]
        assert (is_ack.count(False), is_ack.count(True)) == (label["num_data_packets"], label["num_acks"])
        assert all(packet.fcs_is_right for packet in packets)
        for packet in (one for one, ack in zip(packets, is_ack, strict=True) if not ack):
            assert packet.bits_per_carrier == BITS[mode.modulation] and Fraction(packet.code_rate) == mode.code_rate
            assert (packet.mcs is not None) == bool(label["high_throughput"])
            assert label["mcs" if packet.mcs is not None else "rate_mbps"] == (
                packet.rate_mbps if packet.mcs is None else packet.mcs
            )
            # The most that gr-ieee802-11 and FutureSDR take.
            assert len(packet.psdu) <= 1528 and packet.num_samples <= 540 * 80
            # With fewer bits of padding, their decoders get the end of some frames wrong.
            sent = mode if packet.mcs is None else HT_MODES[packet.mcs]
            assert sent.pad_bits(len(packet.psdu)) >= 16
            found += 1
    assert found > 2


@pytest.mark.parametrize(
    ("modulation", "code_rate", "num_rb"),
    [("QPSK", 0.33, 6), ("64QAM", 0.83, 6), ("256QAM", 0.7, 6), ("16QAM", 0.5, 15)],
)
def test_lte_files_are_decoded(tmp_path, modulation, code_rate, num_rb):
    options = ("--modulation", modulation, "--code-rate", code_rate, "--num-rb", num_rb, "--duration-ms", 10)
    for samples, label in generate(tmp_path, "--protocol", "LTE", *options, "--num", 2):
        cell_id, start = lte_receiver.find_cell(samples, num_rb)
        assert (cell_id, start) == (label["cell_id"], 0), "the file starts with a radio frame"
        first = lte_receiver.demodulate(samples, 0, num_rb)
        # What pdsch_ue takes for granted: N_g = 1, and that frame numbers do not wrap.
        information = (num_rb, 1, label["frame_number"], label["num_ports"])
        assert lte_receiver.broadcast_channel(first, cell_id) == information and label["phich_resource"] == 2
        assert label["frame_number"] < 900
        qam_256 = label["mcs_table"] == 2
        assert qam_256 == (modulation == "256QAM")
        for subframe in (0, 1, 3, 5):
            grid = lte_receiver.demodulate(samples, subframe * len(samples) // 10, num_rb)
            cfi, grant, block_is_right = decode(
                grid, cell_id, num_rb, label["num_ports"], 1, subframe, label["rnti"], qam_256
            )
            assert cfi == label["cfi"]
            if subframe == 0 and num_rb == 6 and modulation in ("64QAM", "256QAM") and grant is None:
                continue  # beside the broadcast channel there is no room for a transport block
            assert block_is_right
            assert grant[1] == list(range(num_rb))
            # Subframe 3 holds only data and control; others may take a lower scheme for lack of room.
            assert grant[2] == label["mcs"] if subframe == 3 else grant[2] <= label["mcs"]
            order, _ = lte_receiver.modulation_and_size(grant[2], num_rb, qam_256, False, SIZES)
            assert order == BITS[modulation]


def test_nr_files_are_decoded(tmp_path):
    options = ("--modulation", "64QAM", "--code-rate", 0.65, "--num-rb", 25, "--spacing-khz", 15)
    ((samples, told),) = generate(tmp_path, "--protocol", "5G", *options, "--duration-ms", 10, "--num", 1)
    assert told["sampling_rate"] == 5.76e6 and len(samples) == 57_600
    numerology = nr.numerology(25, 15e3)
    first = 12 * told["ssb_first_rb"] + told["ssb_shift"]
    _, cell_id, _ = find_cell(samples, numerology, 300, first)
    assert cell_id == told["cell_id"]
    blocks = {i // 2 for i in range(8) if told["ssb_bitmap"] >> (7 - i) & 1}
    slot, grid = data_slot(samples, numerology, told, blocks)
    assert told["modulation"] == "64QAM"
    assert abs(receive_transport_block(grid, told, told["slot"] + slot, "64QAM") - 0.65) < 0.06

"""LTE downlink: an independent receiver finds the cell and decodes every channel; codes against Sionna and tables."""

import json
from importlib import resources

import lte_receiver as receiver
import numpy as np
import pytest
import torch

from lwm_spectro_hf.phy import lte, lte_coding, lte_control, ofdm
from seeds import seeded

TABLES = json.loads(resources.files("lwm_spectro_hf.phy").joinpath("tables", "lte.json").read_text())
INTERLEAVERS = {size: parameters for size, *parameters in TABLES["turbo_interleaver"]}
SIZES = TABLES["transport_block_sizes"]


def samples_of(grid, num_rb, first_subframe=0):
    numerology = lte.numerology(num_rb)
    prefix = ofdm.cyclic_prefix_3gpp(numerology, grid.shape[1], 14 * first_subframe)
    return ofdm.modulate(grid, numerology, prefix)[0].numpy() * (0.7 * np.exp(1j))


def listen(samples, num_rb):
    """Cell search, channel estimate, MIB, and a function that gives equalized subframes."""
    cell_id, start = receiver.find_cell(samples, num_rb)
    length = 15 * lte.FFT_SIZES[num_rb]
    first = receiver.demodulate(samples, start, num_rb)
    pilots = receiver.reference_signal(cell_id, num_rb, 0, 0)
    channel = np.mean([first[place] / value for place, value in pilots.items()])
    information = receiver.broadcast_channel(first / channel, cell_id)

    def subframe(number):
        at = start + number * length
        return receiver.demodulate(samples, at, num_rb) / channel

    return cell_id, start // length, information, subframe


def decode(grid, cell_id, num_rb, num_ports, resource, subframe, rnti, qam_256):
    """Control format, grant (None if there is none), and whether the parity of the transport block holds."""
    cfi, errors = receiver.format_indicator(grid, cell_id, num_rb, num_ports, subframe)
    assert errors == 0
    elements, active = receiver.control_channel(grid, cell_id, num_rb, num_ports, resource, cfi, subframe)
    found = receiver.find_assignment(elements, active, rnti, subframe, num_rb)
    if found is None:
        return cfi, None, False
    blocks, mcs = receiver.parse_assignment(*found, num_rb)
    order, size = receiver.modulation_and_size(mcs, len(blocks), qam_256, rnti == 0xFFFF, SIZES)
    soft = receiver.shared_channel(grid, cell_id, num_rb, num_ports, cfi, subframe, blocks, order, size, rnti)
    decoded = receiver.turbo_decode(soft, INTERLEAVERS[soft.shape[2] - 4])
    return cfi, (found[0], blocks, mcs), receiver.transport_block(decoded)


def run_of(num_rb, start, length):
    allocation = torch.zeros(1, 1, num_rb, dtype=torch.bool)
    allocation[..., start : start + length] = True
    return allocation


CASES = {
    "1.4 MHz, QPSK": dict(num_rb=6, cfi=1, mcs=4, frame_number=1021, aggregation_level=1),
    "3 MHz, two ports, format 1A, 16-QAM": dict(
        num_rb=15, num_ports=2, mcs=12, type_0=False, allocation=run_of(15, 4, 5), phich_resource=0, other_messages=2
    ),
    "5 MHz, four ports, 64-QAM, two code blocks": dict(
        num_rb=25, num_ports=4, cfi=3, mcs=22, allocation=run_of(25, 8, 17), phich_resource=3, aggregation_level=4
    ),
    "10 MHz, 256-QAM": dict(num_rb=50, mcs=24, qam_256=True, allocation=run_of(50, 48, 2), aggregation_level=8),
    "15 MHz, system information": dict(num_rb=75, mcs=6, rnti=0xFFFF, type_0=False, allocation=run_of(75, 36, 4)),
    "20 MHz, format 1A, long run": dict(num_rb=100, cfi=1, mcs=0, type_0=False, allocation=run_of(100, 30, 60)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_receiver_decodes_every_channel(name):
    case = CASES[name]
    num_rb, cell_id = case["num_rb"], 3 * len(name) + 301
    batch = lte.transmit(lte.Downlink(num_subframes=6, cell_id=cell_id, first_subframe=0, **case), seeded(1))
    found, start, information, subframe = listen(samples_of(batch.grid, num_rb)[0], num_rb)
    assert (found, start) == (cell_id, 0)
    resource = (1 / 6, 1 / 2, 1, 2)[case.get("phich_resource", 2)]
    assert information == (num_rb, resource, case.get("frame_number", 0), case.get("num_ports", 1))
    wanted = case.get("allocation", torch.ones(1, 1, num_rb))[0, 0].nonzero()[:, 0].tolist()
    # Subframes 0 and 5 also hold the broadcast channel or synchronization signals, unlike 3.
    for number in (0, 3, 5) if num_rb < 25 else (5,):
        cfi, grant, good = decode(
            subframe(number),
            cell_id,
            num_rb,
            information[3],
            resource,
            number,
            case.get("rnti", 0x1234),
            case.get("qam_256", False),
        )
        assert cfi == case.get("cfi", 2)
        assert grant is not None and grant[0] == ("1" if case.get("type_0", True) else "1A")
        assert grant[1] == wanted and grant[2] <= case["mcs"]
        assert good, f"transport block of subframe {number}"


def test_drawn_cells_match_their_parameters():
    length = 15 * lte.FFT_SIZES[6]
    batch = lte.draw(6, 24, 13 * length, seeded(5))  # from subframe 3 on
    assert batch.samples.shape == (24, 13 * length) and bool(batch.samples.isfinite().all())
    assert set(batch.modulation.tolist()) == {0, 1, 2, 3}
    told = {name: values.tolist() for name, values in batch.parameters.items()}
    decoded, ports = 0, set()
    for row in range(5):
        cell_id, start, information, subframe = listen(batch.samples[row].numpy(), 6)
        if start + 2 * length > 13 * length:
            continue
        frame = (told["frame_number"][row] + 1) % 1024  # the first frame begins before the first sample
        resource = (1 / 6, 1 / 2, 1, 2)[told["phich_resource"][row]]
        assert cell_id == told["cell_id"][row]
        assert information == (6, resource, frame, told["num_ports"][row])
        ports.add(information[3])
        for number in range(2):
            found = receiver.format_indicator(subframe(number), cell_id, 6, information[3], number)
            assert found == (told["cfi"][row], 0)
        decoded += 1
    assert decoded >= 3 and len(ports) > 1


def test_grants_hold_the_requested_modulation_and_code_rate():
    """Aligned waveforms are decoded from their first sample on."""
    asked = [(0, 1 / 3), (1, 1 / 2), (2, 5 / 6), (3, 3 / 4)]
    length = 15 * lte.FFT_SIZES[6]
    modulation, rate = torch.tensor([kind for kind, _ in asked]), torch.tensor([value for _, value in asked])
    full = torch.ones(4, dtype=torch.bool)
    batch = lte.draw(6, 4, 5 * length, seeded(2), modulation=modulation, code_rate=rate, full=full, aligned=True)
    assert torch.equal(batch.modulation, modulation)
    torch.testing.assert_close(batch.code_rate, rate, atol=0.1, rtol=0)
    told = {name: values.tolist() for name, values in batch.parameters.items()}
    for row in range(4):
        samples = batch.samples[row].numpy()
        cell_id, num_ports, rnti = (told[name][row] for name in ("cell_id", "num_ports", "rnti"))
        resource = (1 / 6, 1 / 2, 1, 2)[told["phich_resource"][row]]
        first = receiver.demodulate(samples, 0, 6)
        assert receiver.broadcast_channel(first, cell_id) == (6, resource, told["frame_number"][row], num_ports)
        grid = receiver.demodulate(samples, 3 * length, 6)
        cfi, grant, good = decode(grid, cell_id, 6, num_ports, resource, 3, rnti, row == 3)
        assert cfi == told["cfi"][row] and good
        assert grant[1:] == (list(range(6)), told["mcs"][row])
        order, size = receiver.modulation_and_size(grant[2], 6, row == 3, False, SIZES)
        assert order == 2 * asked[row][0] + 2
        pilots = {place for port in range(num_ports) for place in receiver.reference_signal(cell_id, 6, 3, port)}
        elements = sum((symbol, k) not in pilots for symbol in range(cfi + 1, 14) for k in range(72))
        assert (size + 24) / (order * elements) == pytest.approx(asked[row][1], abs=0.06)


def test_the_new_data_indicator_toggles_when_a_process_is_reused():
    everything, mcs, blocks = torch.ones(9, 25, dtype=torch.bool), torch.zeros(9).long(), torch.arange(9)
    sent = lte_control.downlink_assignment(everything, mcs, blocks, type_0=True)
    bits = sent[:, 1 + 13 + 5 :]  # TS 36.212, clause 5.3.3.1.2: after type, groups and I_MCS
    assert (bits[:, :3] @ torch.tensor([4, 2, 1]).byte()).tolist() == [*range(8), 0]
    assert bits[:, 3].tolist() == [0] * 8 + [1]


def test_full_rows_are_full():
    full = torch.tensor([True, False] * 8)
    length = 15 * lte.FFT_SIZES[25]
    batch = lte.draw(25, 16, 10 * length, seeded(5), full=full, code_rate=torch.full((16,), 0.8))
    # The rest are control symbols, reference and synchronization signals, and the broadcast channel.
    assert float(batch.data_share[full].min()) > 0.65
    assert float(batch.data_share[~full].min()) < 0.5
    assert bool((batch.code_rate <= 0.93).all())


def test_a_waveform_matches_its_description():
    length = 15 * lte.FFT_SIZES[6]
    batch = lte.draw(6, 8, 10 * length, seeded(6), num_ports=(1,))
    again = lte.draw(6, 8, 10 * length, seeded(6), num_ports=(1,))
    assert torch.equal(batch.samples, again.samples)
    power = batch.samples.abs().square().mean(1)
    torch.testing.assert_close(batch.occupancy * batch.element_power * 72 / 128, power, rtol=0.03, atol=0)
    for row in range(8):
        starts = batch.symbol_start[row]
        inside = starts[(starts >= 0) & (starts + 128 <= 10 * length)]
        bins = torch.fft.fft(batch.samples[row].unfold(0, 128, 1)[inside], norm="ortho")
        assert float(bins[:, 0].abs().max()) < 1e-4 and float(bins[:, 37:92].abs().max()) < 1e-4
        elements = bins.abs().square()
        used = elements > 1e-6
        assert float(elements[used].mean()) == pytest.approx(float(batch.element_power[row]), rel=0.01)
        assert float(used.float().mean() * 128 / 72) == pytest.approx(float(batch.occupancy[row]), rel=0.02)


@pytest.mark.parametrize("num_ports", [1, 2, 4])
def test_elements_count_as_used_if_symbols_of_two_ports_cancel(num_ports):
    downlink = lte.Downlink(6, 10, torch.tensor([7]), num_ports=num_ports, cfi=3, other_messages=9)
    sent = lte.transmit(downlink, seeded(0))
    used, heard = sent.sent_elements[0], (sent.grid[0] != 0).sum(1)
    # After the four control symbols, every element holds QPSK or the reference signal of some port.
    behind = torch.arange(140) % 14 >= 4
    nearby = torch.arange(140) // 14 % 5 > 0  # beside synchronization signals elements stay free
    assert used[behind & nearby].tolist() == [72] * int((behind & nearby).sum())
    assert (heard[behind & nearby].sum() < 0.9 * used[behind & nearby].sum()) == (num_ports > 1)
    # So the mean power of an element, to which the noise is scaled, is one for any number of ports.
    power = sent.grid[0].abs().square().sum(1)
    assert float((power[behind & nearby] / 72).mean()) == pytest.approx(1.0, abs=0.03)
    assert used[9:11].tolist() == [72, 72]  # the broadcast channel
    assert (heard[9:11].sum() < 144) == (num_ports > 1)
    control = torch.arange(140) % 14 < 4
    assert (heard[control].sum() < used[control].sum()) == (num_ports > 1)


def test_nothing_is_sent_where_nothing_is_scheduled():
    nothing = torch.zeros(1, 1, 6, dtype=torch.bool)
    batch = lte.transmit(lte.Downlink(6, 2, 7, first_subframe=1, allocation=nothing), seeded(0))
    assert int(batch.data_elements.sum()) == 0 and float(batch.code_rate.sum()) == 0
    used = batch.grid.abs()[0] > 0
    # After the control region, only reference signals of one port: two of seven symbols, every sixth subcarrier.
    assert used[2:14].sum(1).tolist() == [0, 0, 12, 0, 0, 12, 0, 0, 0, 12, 0, 0]


@pytest.mark.parametrize("num_rb,counts", [(6, (2, 4, 6)), (25, (3, 12, 20)), (50, (8, 25, 41)), (100, (17, 50, 84))])
def test_number_of_control_channel_elements(num_rb, counts):
    cells = torch.tensor([0, 77, 503])
    for cfi, count in enumerate(counts, 1):
        region = lte_control.control_region(num_rb, cells, cfi + (num_rb <= 10), False, phich_resource=2)
        assert region.num_cce == count
        elements = torch.cat([region.indicator, region.quadruplets.flatten(1)], 1)
        assert all(len(row.unique()) == elements.shape[1] for row in elements)


def test_payload_sizes_are_the_published_ones():
    for num_rb in lte.FFT_SIZES:
        assert lte_control.assignment_sizes(num_rb) == receiver.payload_sizes(num_rb)


def test_transport_block_sizes():
    sizes = torch.tensor(SIZES)
    assert sizes.shape == (34, 110)
    known = {
        (0, 1): 16,
        (6, 1): 328,
        (9, 25): 4008,
        (26, 6): 4392,
        (26, 50): 36696,
        (26, 100): 75376,
        (33, 100): 97896,
    }
    assert {key: int(sizes[key[0], key[1] - 1]) for key in known} == known
    assert bool((sizes[1:27] >= sizes[:26])[:, 1:].all()) and bool((sizes.diff(dim=1)[:, 1:] >= 0).all())
    # The table was made so that every size splits into equal code blocks without filler bits.
    for size in sizes.unique().tolist():
        count = 1 if size + 24 <= 6144 else -(-(size + 24) // 6120)
        total = size + 24 + 24 * count * (count > 1)
        assert total % count == 0 and total // count in INTERLEAVERS


def test_turbo_interleavers_are_permutations():
    assert len(INTERLEAVERS) == 188 and INTERLEAVERS[40] == [3, 10] and INTERLEAVERS[6144] == [263, 480]
    for size in INTERLEAVERS:
        assert torch.equal(lte_coding.turbo_interleaver(size).sort().values, torch.arange(size))
    with pytest.raises(ValueError, match="41 bits"):
        lte_coding.turbo_interleaver(41)


def test_codes_agree_with_sionna():
    from sionna.phy.fec.crc import CRCEncoder
    from sionna.phy.fec.turbo import TurboEncoder

    bits = torch.randint(2, (3, 104), generator=seeded(0), dtype=torch.uint8)
    for kind, name in (("24A", "CRC24A"), ("24B", "CRC24B"), ("16", "CRC16")):
        assert torch.equal(lte_coding.append_crc(bits, kind), CRCEncoder(name)(bits.float()).to(torch.uint8))
    reference = TurboEncoder(constraint_length=4, rate=1 / 3, terminate=True)(bits.float())
    assert torch.equal(lte_coding.turbo_encode(bits).mT.flatten(1), reference.to(torch.uint8))


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(cell_id=504), "cell_id is 504"),
        (dict(num_ports=3), "num_ports is 3"),
        (dict(num_rb=7), "no carrier of 7"),
        (dict(qam_256=True, type_0=False), "256-QAM"),
        (dict(rnti=0xFFFF), "System information"),
        (dict(rnti=0xFFFF, type_0=False, cfi=1), "common search space"),
        (dict(allocation=run_of(25, 1, 3)), "groups of 2"),
        (dict(allocation=run_of(25, 1, 3) | run_of(25, 6, 1), type_0=False), "gaps"),
    ],
)
def test_settings_outside_the_standard_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        lte.transmit(lte.Downlink(**{"num_rb": 25, "num_subframes": 1, "cell_id": 1, **change}), seeded(0))


def test_search_spaces_do_not_depend_on_the_width_of_integers():
    rnti, subframe, level = torch.tensor([61, 5000, 65000]), torch.tensor([3, 7, 9]), torch.tensor([1, 2, 4])
    expected = lte_control.search_space(rnti, subframe, level, 20)
    assert torch.equal(lte_control.search_space(rnti.int(), subframe, level, 20), expected)

"""5G NR grids received by py3gpp and by receivers written here in NumPy from the standard."""

import numpy as np
import py3gpp
import pytest
import torch

from lwm_spectro_hf.phy import nr
from lwm_spectro_hf.phy.nr_cells import Cells
from lwm_spectro_hf.phy.nr_coding import PolarCode
from lwm_spectro_hf.phy.ofdm import cyclic_prefix_3gpp, modulate
from seeds import seeded


def find_cell(samples, numerology, num_subcarriers, first_subcarrier):
    """Cell search at a known raster position: timing of the PSS symbol and the cell identity."""
    fft_size = numerology.fft_size
    bins = numerology.bins(num_subcarriers).numpy()[first_subcarrier : first_subcarrier + 240] % fft_size
    peaks = []
    for sector in range(3):
        spectrum = np.zeros(fft_size, complex)
        spectrum[bins[56:183]] = np.asarray(py3gpp.nrPSS(sector)).reshape(-1)
        replica = np.fft.fft(np.fft.ifft(spectrum), len(samples))
        correlation = np.abs(np.fft.ifft(np.fft.fft(samples) * replica.conj()))
        peaks.append((correlation.max(), int(correlation.argmax()), sector))
    _, start, sector = max(peaks)
    step = fft_size + fft_size * 144 // 2048
    block = np.stack(
        [np.fft.fft(samples[start + i * step : start + i * step + fft_size])[bins] for i in range(4)]
    ) / np.sqrt(fft_size)
    scores = [abs(np.vdot(np.asarray(py3gpp.nrSSS(3 * g + sector)).reshape(-1), block[2, 56:183])) for g in range(336)]
    return start, 3 * int(np.argmax(scores)) + sector, block


def broadcast_elements(block, cell_id):
    """DMRS and PBCH elements of an SS/PBCH block `(4, 240)`."""
    comb = np.arange(240) % 4 == cell_id % 4
    used = np.zeros((4, 240), bool)
    used[[1, 3]] = True
    used[2, :48] = used[2, 192:] = True
    return block[used & comb], block[used & ~comb]


def read_broadcast_channel(block, cell_id, index):
    """MIB, frame number and half frame of an SS/PBCH block, by py3gpp; checks the CRC."""
    softbits = py3gpp.nrSymbolDemodulate(broadcast_elements(block, cell_id)[1], "QPSK", 0.1)
    signs = 1 - 2 * np.asarray(py3gpp.nrPBCHPRBS(cell_id, index, 864))
    _, checksum, mib, low_bits, half_frame, _ = py3gpp.nrBCHDecode(softbits * signs, 8, 8, cell_id)
    assert checksum == 0
    return mib, int("".join(map(str, [*mib[1:7], *low_bits])), 2), half_frame


@pytest.mark.parametrize(
    ("spacing", "num_rb", "maximum", "first_slot"), [(15e3, 25, 8, 10 * 333), (30e3, 24, 4, 20 * 1021 + 10)]
)
def test_py3gpp_finds_the_cell_and_reads_its_broadcast_channel_in_noise(spacing, num_rb, maximum, first_slot):
    index = 2
    cells = Cells(
        num_rb,
        spacing,
        6,
        cell_id=torch.tensor([321, 1007]),
        first_slot=first_slot,
        ssb_blocks=torch.arange(8) == index,
        ssb_half_frames=1,
        ssb_maximum=maximum,
        ssb_first_rb=3,
        k_ssb=16,
        pdcch_config_sib1=0b10100110,
        dmrs_position=3,
    )
    numerology = nr.numerology(num_rb, spacing)
    grid = nr.transmit(cells, seeded(0)).grid
    samples, starts = modulate(grid, numerology, cyclic_prefix_3gpp(numerology, grid.shape[1]))
    samples = samples + 0.3 * torch.randn(samples.shape, dtype=torch.complex64, generator=seeded(1))
    shift = 16 // round(spacing / 15e3)
    for row, cell_id in enumerate(cells.cell_id.tolist()):
        start, found, block = find_cell(samples[row].numpy(), numerology, 12 * num_rb, 36 + shift)
        assert (start, found) == (int(starts[14 + 2]), cell_id)
        # The DMRS sequence, one of eight, gives the block and, with an L_max of 4, the half frame.
        pilots, _ = broadcast_elements(block, cell_id)
        channels = [np.vdot(np.asarray(py3gpp.nrPBCHDMRS(cell_id, i)).reshape(-1), pilots) for i in range(8)]
        second_half = spacing == 30e3  # slot 10 of 20
        assert int(np.argmax(np.abs(channels))) == index + 4 * second_half
        mib, frame, half_frame = read_broadcast_channel(block, cell_id, index)
        assert frame == first_slot // cells.slots_per_frame
        assert half_frame == second_half
        assert mib[7] == (spacing == 30e3)
        assert mib[8:12].tolist() == [0, 0, 0, 0] and mib[12] == 1, "k_SSB without its high bit; DMRS position 3"
        assert mib[13:21].tolist() == [1, 0, 1, 0, 0, 1, 1, 0]


def demap(symbols, order, noise=0.01):
    """Max-log likelihood ratios, positive for 0."""
    points = nr.constellation(nr.MODULATIONS[order // 2 - 1]).numpy()
    distance = np.abs(symbols[:, None] - points) ** 2 / noise
    bits = (np.arange(len(points))[:, None] >> np.arange(order - 1, -1, -1)) & 1
    ratios = [distance[:, bits[:, i] == 1].min(1) - distance[:, bits[:, i] == 0].min(1) for i in range(order)]
    return np.stack(ratios, 1).reshape(-1)


def decode_transport_block(ratios, size, rate, modulation):
    """Bits of a transport block from its descrambled likelihood ratios, by py3gpp; checks all CRCs."""
    info = py3gpp.nrDLSCHInfo(size, rate)
    recovered = np.clip(py3gpp.nrRateRecoverLDPC(ratios, size, rate, 0, modulation, 1), -1e3, 1e3)
    decoded, _ = py3gpp.nrLDPCDecode(recovered, info["BGN"], 8)
    transport, failed = py3gpp.nrCodeBlockDesegmentLDPC(decoded, info["BGN"], size + info["L"])
    assert not np.any(failed)
    found, checksum = py3gpp.nrCRCDecode(transport.astype(int), info["CRC"])
    assert checksum == 0
    return found[:, 0]


def symbol_lengths(fft_size):
    """Samples of the 140 symbols of a frame with 15 kHz, prefixes included."""
    return [(144 + 16 * (i % 7 == 0)) * fft_size // 2048 + fft_size for i in range(140)]


def data_slot(samples, numerology, told, blocks):
    """A slot of an aligned frame of 25 blocks with data alone: its number and grid `(14, 300)`.

    `blocks` are the slots of SS/PBCH blocks in the first half frame.
    """
    fft_size, bins = numerology.fft_size, numerology.bins(300).numpy() % numerology.fft_size
    tracking = (told["tracking_slot"] - 10 * told["frame_number"]) % 40
    taken = blocks | {5 + block for block in blocks} | {tracking, (tracking + 1) % 40}
    slot = min(set(range(10)) - taken)
    starts = np.cumsum(symbol_lengths(fft_size))[14 * slot : 14 * slot + 14] - fft_size
    return slot, np.stack([np.fft.fft(samples[s : s + fft_size], norm="ortho")[bins] for s in starts])


@pytest.mark.parametrize(
    ("table", "mcs", "groups", "additional"), [(1, 2, 2, 1), (1, 12, 1, 2), (1, 20, 2, 0), (2, 25, 2, 1)]
)
def test_py3gpp_decodes_the_transport_blocks(table, mcs, groups, additional):
    first_rb, num_rb = 5, 9
    allocated = torch.zeros(25, dtype=torch.bool)
    allocated[first_rb : first_rb + num_rb] = True
    cells = Cells(
        25,
        15e3,
        1,
        cell_id=torch.tensor([71, 680]),
        first_slot=14,
        allocated=allocated,
        rnti=torch.tensor([4711, 65000]),
        mcs_table=table,
        mcs=mcs,
        cdm_groups=groups,
        dmrs_additional=additional,
    )
    sent = nr.transmit(cells, seeded(0))
    order, rate = nr.MCS_TABLES[table][mcs][0], nr.MCS_TABLES[table][mcs][1] / 1024
    dmrs = {0: [2], 1: [2, 11], 2: [2, 7, 11]}[additional]
    blocks = sent.blocks
    for grant, (row, slot) in enumerate(zip(blocks.row.tolist(), blocks.slot.tolist(), strict=True)):
        symbols = sent.grid[row, 14 * slot : 14 * slot + 14, 12 * first_rb : 12 * (first_rb + num_rb)].numpy()
        pdsch, carrier = py3gpp.nrPDSCHConfig(), py3gpp.nrCarrierConfig()
        carrier.NSlot = (14 + slot) % 10
        pdsch.NSizeBWP, pdsch.PRBSet = 25, list(range(first_rb, first_rb + num_rb))
        pdsch.DMRS.DMRSAdditionalPosition, pdsch.DMRS.NIDNSCID = additional, int(cells.cell_id[row])
        expected = np.asarray(py3gpp.nrPDSCHDMRS(pdsch, carrier)).reshape(len(dmrs), -1)
        boost = 2**0.5 if groups == 2 else 1
        np.testing.assert_allclose(symbols[dmrs, 0::2], boost * expected, atol=1e-5)
        received = []
        for symbol in range(2, 14):
            if symbol not in dmrs:
                received.append(symbols[symbol])
            elif groups == 1:
                received.append(symbols[symbol, 1::2])
            else:
                assert not symbols[symbol, 1::2].any()
        received = np.concatenate(received)
        name = ("QPSK", "16QAM", "64QAM", "256QAM")[order // 2 - 1]
        size = py3gpp.nrTBS(name, 1, num_rb, 12 * 12 - 6 * groups * len(dmrs), rate)
        assert size == blocks.size[blocks.block[grant]]
        noise = np.random.default_rng(0).standard_normal((len(received), 2)) @ [0.02, 0.02j]
        ratios = demap(received + noise, order)
        seed = int(cells.rnti[row]) * 2**15 + int(cells.cell_id[row])
        ratios = ratios * (1 - 2 * np.asarray(py3gpp.nrPRBS(seed, len(ratios))))
        np.testing.assert_array_equal(decode_transport_block(ratios, size, rate, name), blocks.bits(grant).numpy())


def receive_transport_block(grid, told, slot_number, modulation):
    """py3gpp's receiver of one slot of a fully scheduled carrier of 25 blocks; checks the CRC, returns the code rate.

    `grid` has shape `(14, 300)`, `told` holds the parameters of a waveform.
    """
    cell_id = told["cell_id"]
    dmrs = [told["dmrs_position"], *{0: [], 1: [11], 2: [7, 11]}[told["dmrs_additional"]]]
    pdsch, carrier = py3gpp.nrPDSCHConfig(), py3gpp.nrCarrierConfig()
    carrier.NSlot = slot_number
    pdsch.NSizeBWP, pdsch.PRBSet = 25, list(range(25))
    pdsch.DMRS.DMRSTypeAPosition = told["dmrs_position"]
    pdsch.DMRS.DMRSAdditionalPosition, pdsch.DMRS.NIDNSCID = told["dmrs_additional"], cell_id
    pilots = np.asarray(py3gpp.nrPDSCHDMRS(pdsch, carrier)).reshape(len(dmrs), -1)
    pilots[:, 1::2] *= (-1) ** (told["dmrs_port"] % 2)
    received = grid[dmrs, told["dmrs_port"] // 2 :: 2]
    gain = np.vdot(pilots, received) / np.vdot(pilots, pilots) / (2**0.5 if told["cdm_groups"] == 2 else 1)
    data = [
        grid[s] if s not in dmrs else grid[s, 1::2] if told["cdm_groups"] == 1 else grid[s, :0]
        for s in range(told["control_symbols"], 14)
    ]
    data = np.concatenate(data) / gain
    order, rate = nr.MCS_TABLES[told["mcs_table"]][told["mcs"]]
    rate /= 1024
    elements = 12 * (14 - told["control_symbols"]) - 6 * told["cdm_groups"] * len(dmrs)
    size = py3gpp.nrTBS(modulation, 1, 25, elements, rate)
    signs = 1 - 2 * np.asarray(py3gpp.nrPRBS(told["rnti"] * 2**15 + cell_id, len(data) * order))
    decode_transport_block(demap(data, order) * signs, size, rate, modulation)
    return rate


def test_py3gpp_decodes_an_aligned_waveform_from_its_parameters():
    full, code_rate = torch.ones(2, dtype=torch.bool), torch.full((2,), 0.5)
    wave = nr.draw(
        25, 15e3, 2, 57_600, seeded(11), modulation=torch.tensor([1, 2]), code_rate=code_rate, full=full, aligned=True
    )
    fft_size = wave.numerology.fft_size
    for row in range(2):
        told = {name: int(value[row]) for name, value in wave.parameters.items()}
        samples = wave.samples[row].numpy()
        start, cell_id, block = find_cell(samples, wave.numerology, 300, 12 * told["ssb_first_rb"] + told["ssb_shift"])
        assert cell_id == told["cell_id"]
        index = [told["ssb_bitmap"] >> (7 - i) & 1 for i in range(8)].index(1)
        second_half = told["ssb_second_half"] if told["ssb_half_frames"] > 1 else start > 28_800
        symbol = 70 * second_half + 14 * (index // 2) + (2, 8)[index % 2]
        assert start == sum(symbol_lengths(fft_size)[: symbol + 1]) - fft_size, "the timeline starts with a frame"
        _, frame, half_frame = read_broadcast_channel(block, cell_id, index)
        assert (frame, half_frame) == (told["frame_number"], second_half)

        slot, grid = data_slot(samples, wave.numerology, told, {index // 2})
        name = nr.MODULATIONS[int(wave.modulation[row])]
        assert abs(receive_transport_block(grid, told, told["slot"] + slot, name) - 0.5) < 0.06


def remainder_24c(bits):
    register = 0
    for bit in bits:
        register = (register << 1) | int(bit)
        if register >> 24:
            register ^= 0x1B2B117
    return register


def element_groups(first, level, total, duration, bundle, rows, shift):
    """Clause 7.3.2.2 of TS 38.211, as written: numbers of the resource element groups of a candidate."""
    groups = []
    for element in range(first, first + level):
        for number in range(6 * element // bundle, 6 * element // bundle + 6 // bundle):
            if rows:
                columns = total // (bundle * rows)
                c, r = divmod(number, rows)
                number = (r * columns + c + shift) % (total // bundle)
            groups += range(number * bundle, (number + 1) * bundle)
    return [(group % duration, group // duration) for group in groups]


@pytest.mark.parametrize(
    ("level", "duration", "bundle", "rows", "port"),
    [(1, 2, 6, 0, 0), (2, 1, 2, 2, 0), (4, 3, 3, 2, 2), (8, 2, 6, 2, 0), (8, 3, 6, 3, 0), (16, 3, 6, 0, 0)],
)
def test_control_messages_are_found_and_decoded(level, duration, bundle, rows, port):
    from sionna.phy.fec.polar import PolarSCLDecoder

    width = 6
    cells = Cells(
        52,
        15e3,
        1,
        cell_id=torch.tensor([500]),
        first_slot=7,
        rnti=40123,
        control_symbols=duration,
        dmrs_position=3 if duration == 3 else 2,
        bwp_start=3,
        bwp_size=49,
        coreset_groups=width,
        bundle_size=bundle,
        interleaver_rows=rows,
        aggregation=level,
        dmrs_port=port,
        dmrs_additional=2,
        control_load=0.7,
    )
    sent = nr.transmit(cells, seeded(3))
    total = 6 * width * duration
    # TS 38.213, clause 10.1: the user's first candidate, in slot 7.
    candidate = 40123
    for _ in range(8):
        candidate = candidate * 39827 % 65537
    first = level * (candidate % (total // 6 // level))
    grid = sent.grid[0].numpy()
    places = element_groups(first, level, total, duration, bundle, rows, 500)
    received, sequences = [], {}
    for symbol in range(duration):
        seed = (2**17 * (14 * 7 + symbol + 1) * (2 * 500 + 1) + 2 * 500) % 2**31
        bits = 1 - 2 * np.asarray(py3gpp.nrPRBS(seed, 2 * 3 * 52)).astype(float)
        sequences[symbol] = (bits[0::2] + 1j * bits[1::2]) / 2**0.5
    for symbol, block in sorted(places):
        block += 6  # the first whole group of six blocks from 3 on
        pilots = grid[symbol, 12 * block + 1 : 12 * block + 12 : 4]
        np.testing.assert_allclose(pilots, sequences[symbol][3 * block : 3 * block + 3], atol=1e-5)
        received.append(np.delete(grid[symbol, 12 * block : 12 * block + 12], [1, 5, 9]))
    received = np.concatenate(received)
    ratios = np.stack([received.real, received.imag], 1).reshape(-1)
    ratios = 4 * ratios * (1 - 2 * np.asarray(py3gpp.nrPRBS(500, len(ratios))).astype(float))
    # RIV of 49 blocks: 11 bits; 28 more in format 1_0. Format 1_1: 13 groups, of 4 blocks but the first, and 32 more.
    num_bits = 39 if port == 0 else 45
    message = next(m for m in sent.control if m.payload.shape[1] == num_bits)
    code = PolarCode.of(num_bits + 24, len(ratios))
    mother = np.zeros(code.length)
    np.add.at(mother, code.selection.numpy(), ratios)
    if len(ratios) < code.length and (num_bits + 24) / len(ratios) > 7 / 16:
        mother[np.setdiff1d(np.arange(code.length), code.selection.numpy())] = 100  # shortened: known zeros
    frozen = np.setdiff1d(np.arange(code.length), code.information.numpy())
    decoder = PolarSCLDecoder(frozen, code.length, list_size=4)
    decoded = decoder(-torch.tensor(mother, dtype=torch.float32)[None])[0].numpy().astype(int)
    bits = np.empty_like(decoded)
    bits[code.interleaver.numpy()] = decoded
    assert remainder_24c([*[1] * 24, *bits]) == 40123, "what the mask of the CRC leaves is the RNTI"
    at = (message.first_element == first).nonzero()[0, 0]
    np.testing.assert_array_equal(bits[:num_bits], message.payload[at].numpy())
    if port == 0:  # format 1_0: all 49 blocks from 0 on
        assert bits[0] == 1 and int("".join(map(str, bits[1:12])), 2) == 49 * (49 - 49 + 1) + 49 - 1
        assert int("".join(map(str, bits[17:22])), 2) == 10, "the MCS"


def test_format_1_0_schedules_only_what_it_implies():
    # TS 38.214, clause 5.1.6.2: with format 1_0, a terminal assumes a dmrs-AdditionalPosition of 2 for the PDSCH.
    cells = Cells(
        52, 15e3, 1, cell_id=torch.arange(4), first_slot=7, dmrs_additional=torch.arange(4), ssb_blocks=False
    )
    length = {int(row): m.payload.shape[1] for m in nr.transmit(cells, seeded(0)).control for row in m.row}
    assert length[2] == 39 and all(length[row] > 39 for row in (0, 1, 3))


def test_the_new_data_indicator_toggles_when_a_process_is_reused():
    cells = Cells(25, 30e3, 20, cell_id=torch.tensor([3]), dmrs_additional=2, ssb_blocks=False)
    cells.allocated[0, 5] = False
    (messages,) = nr.transmit(cells, seeded(0)).control
    assert messages.slot.tolist() == [*range(5), *range(6, 20)]
    # TS 38.212, clause 7.3.1.2.1: after identifier, 9 bits of blocks, time and mapping come MCS, NDI, RV, process.
    fields = messages.payload[:, 1 + 9 + 4 + 1 + 5 :]
    assert fields[:, 0].tolist() == [0] * 16 + [1] * 3
    assert int(fields[:, 1:3].sum()) == 0, "each is sent for the first time"
    assert (fields[:, 3:7] @ torch.tensor([8, 4, 2, 1]).byte()).tolist() == [*range(16), 0, 1, 2]


@pytest.mark.parametrize(("num_rb", "spacing"), [(162, 30e3), (245, 30e3), (41, 15e3), (25, 15e3)])
def test_carriers_leave_the_edge_of_the_band_free(num_rb, spacing):
    assert 12 * num_rb <= 0.94 * nr.numerology(num_rb, spacing).fft_size


@pytest.mark.parametrize(("carrier_hz", "maximum"), [(2.1e9, 4), (3.5e9, 8)])
def test_the_number_of_ssb_positions_follows_from_the_carrier(carrier_hz, maximum):
    wave = nr.draw(25, 15e3, 16, 2 * 7680, seeded(1), carrier_hz=carrier_hz)
    assert wave.parameters["ssb_maximum"].unique().tolist() == [maximum]
    sent = wave.parameters["ssb_bitmap"] & (255 >> maximum)
    assert bool((sent == 0).all()), "none beyond the last place"


@pytest.mark.parametrize(("num_rb", "spacing_hz"), [(52, 15e3), (24, 30e3), (11, 30e3)])
def test_tracking_signals_take_two_slots_with_room(num_rb, spacing_hz):
    cells, _, told = nr.draw_cells(num_rb, spacing_hz, 128, 80, seeded(2), full=torch.arange(128) % 2 == 0)
    with_signals = 0
    for sent, number, first in zip(cells.tracking, cells.slot_number, told["tracking_slot"].tolist(), strict=True):
        expected = set() if first < 0 else {first, (first + 1) % 40}
        assert set((number[sent] % 40).tolist()) == expected and int(sent.sum()) == 2 * len(expected)
        with_signals += first >= 0
    assert 30 < with_signals < 80
    assert not bool((cells.tracking[..., None] & (cells.ssb_index >= 0)).any())
    assert not bool((cells.tracking & (cells.downlink_symbols <= 8)).any())


def test_time_division_has_more_ssb_positions():
    wave = nr.draw(51, 30e3, 64, 30_720, seeded(1), carrier_hz=2.1e9)
    paired = wave.parameters["tdd_pattern"] == 0
    # TS 38.213, clause 4.1, case C: in unpaired spectrum there are eight from 1.88 GHz on.
    assert wave.parameters["ssb_maximum"][paired].unique().tolist() == [4]
    assert wave.parameters["ssb_maximum"][~paired].unique().tolist() == [8]
    assert nr.most_ssb_blocks(30e3, 0.7e9, paired=False) == 4


def test_messages_are_no_larger_than_the_coreset():
    options = {"cell_id": torch.tensor([1, 2]), "aggregation": torch.tensor([16, 1]), "control_symbols": 2}
    assert Cells(52, 15e3, 1, **options, coreset_groups=3).aggregation.tolist() == [4, 1]
    assert {
        m.aggregation for m in nr.transmit(Cells(52, 15e3, 1, **options, coreset_groups=3), seeded(0)).control
    } == {
        1,
        4,
    }


def test_data_leave_room_for_blocks_and_tracking_signals():
    cells = Cells(
        52,
        15e3,
        4,
        cell_id=torch.tensor([10]),
        ssb_blocks=torch.tensor([0, 1, 0, 0, 0, 0, 0, 0]).bool(),
        ssb_first_rb=16,
        dmrs_additional=0,
        tracking=torch.tensor([[True, False, True, False]]),
        tracking_offset=1,
        mcs=3,
    )
    assert cells.tracking.tolist() == [[False, False, True, False]], "none in the slot of the SS/PBCH block"
    assert bool(cells.allocated.all()), "DMRS in symbol 2 do not meet a block in symbols 8 to 11"
    blocks = cells.data_blocks[0, 0, 8:12]
    assert not bool(blocks[:, 16:36].any()) and bool((blocks[:, :16] == 12).all() and (blocks[:, 36:] == 12).all())
    per_slot = 11 * 52 * 12
    assert cells.num_elements.tolist() == [[per_slot - 4 * 240, per_slot, per_slot - 2 * 52 * 3, per_slot]]
    seed = (2**10 * (14 * 2 + 8 + 1) * (2 * 10 + 1) + 10) % 2**31
    bits = 1 - 2 * np.asarray(py3gpp.nrPRBS(seed, 2 * 3 * 52)).astype(float)
    found = nr.transmit(cells, seeded(0)).grid[0, 2 * 14 + 8, 1::4]
    np.testing.assert_allclose(found.numpy(), (bits[0::2] + 1j * bits[1::2]) / 2**0.5, atol=1e-5)


def test_blocks_that_would_cover_dmrs_are_left_out_in_whole_groups():
    cells = Cells(52, 15e3, 1, cell_id=torch.tensor([1]), ssb_blocks=torch.arange(8) == 0, ssb_first_rb=10)
    # Blocks 10 to 29 are taken; groups of 4 leave 0 to 7 and 32 to 51.
    assert cells.allocated[0, 0].nonzero()[:, 0].tolist() == [*range(8), *range(32, 52)]


def test_impossible_cells_are_errors():
    cell_id = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="bandwidth part must lie within 25.*row 1"):
        Cells(25, 15e3, 1, cell_id, bwp_start=torch.tensor([0, 20]), bwp_size=10)
    with pytest.raises(ValueError, match="mcs is not in its table; row 0"):
        Cells(25, 15e3, 1, cell_id, mcs=29)
    with pytest.raises(ValueError, match="control_symbols must be 1 to dmrs_position"):
        Cells(25, 15e3, 1, cell_id, control_symbols=3)
    with pytest.raises(ValueError, match="code rate of .* use a lower mcs"):
        cells = Cells(25, 15e3, 1, cell_id, ssb_blocks=torch.arange(8) == 1, dmrs_additional=0, mcs=28)
        nr.transmit(cells, seeded(0))


@pytest.mark.parametrize(("num_rb", "spacing"), [(11, 30e3), (25, 15e3), (106, 30e3)])
def test_drawn_cells_match_their_description(num_rb, spacing):
    cells, modulation, _ = nr.draw_cells(num_rb, spacing, 24, 6, seeded(num_rb))
    sent = nr.transmit(cells, seeded(0))
    assert bool(sent.grid.isfinite().all())
    assert torch.equal(2 * modulation[sent.blocks.row] + 2, sent.blocks.bits_per_symbol[sent.blocks.block])
    silent = sent.grid.view(24, 6, 14, -1)[cells.downlink_symbols == 0]
    assert not bool(silent.any())
    loaded = cells.data_counts.flatten(1) > 0
    assert bool((sent.grid.abs().square().sum(-1) > 0)[loaded].all())


@pytest.mark.parametrize("aligned", [False, True])
def test_a_waveform_matches_its_description(aligned):
    num_rb, spacing, num_samples = 24, 30e3, 30_000
    wave = nr.draw(num_rb, spacing, 12, num_samples, seeded(5), aligned=aligned)
    assert wave.samples.shape == (12, num_samples) and wave.samples.dtype == torch.complex64
    again = nr.draw(num_rb, spacing, 12, num_samples, seeded(5), aligned=aligned)
    assert torch.equal(wave.samples, again.samples)
    fft_size = wave.numerology.fft_size
    if aligned:
        assert set(wave.symbol_start[:, 0].tolist()) == {fft_size * 144 // 2048 + fft_size * 16 // 1024}
        assert not bool(wave.parameters["slot"].any())
    bins = wave.numerology.bins(12 * num_rb).numpy() % fft_size
    for row in range(12):
        starts = [s for s in wave.symbol_start[row].tolist() if 0 <= s <= num_samples - fft_size]
        useful = np.stack([wave.samples[row, s : s + fft_size].numpy() for s in starts])
        spectrum = np.fft.fft(useful, norm="ortho")
        grid = spectrum[:, bins]
        assert np.abs(np.delete(spectrum, bins, 1)).max(initial=0) < 1e-4
        power = np.abs(grid) ** 2
        busy = power > 1e-6
        # The symbols at the ends are cut off, so that the timeline holds a little more or less power than the others.
        assert power.sum() / busy.sum() == pytest.approx(float(wave.element_power[row]), rel=0.15)
        assert power.mean() == pytest.approx(float(wave.occupancy[row] * wave.element_power[row]), rel=0.1, abs=0.01)
        assert float(wave.data_share[row]) <= busy.mean() + 0.05


def test_full_rows_are_full():
    full = torch.arange(8) < 4
    cells, _, extra = nr.draw_cells(25, 15e3, 8, 20, seeded(2), full=full)
    assert bool(cells.allocated[:4].any(-1).all()), "every slot has data"
    free = (cells.ssb_index[:4] < 0).all(-1)
    assert bool(cells.allocated[:4][free].all()), "and every block of those without SS/PBCH blocks"
    assert not bool(extra["tdd_pattern"][:4].any())
    wave = nr.draw(25, 15e3, 8, 38_400, seeded(2), full=full)
    assert float(wave.data_share[:4].min()) > 0.55, "beside control, DMRS and SS/PBCH blocks"
    assert float(wave.data_share[4:].min()) < 0.5


@pytest.mark.parametrize(
    ("modulation", "asked", "entries"),
    [(0, 1 / 3, {308}), (1, 1 / 2, {490}), (2, 2 / 3, {666}), (2, 5 / 6, {873}), (3, 3 / 4, {754}), (3, 5 / 6, {841})],
)
def test_the_nearest_code_rate_is_sent(modulation, asked, entries):
    ones = torch.ones(16)
    arguments = {"modulation": modulation * ones.long(), "code_rate": asked * ones, "full": ones.bool()}
    cells, found, extra = nr.draw_cells(25, 15e3, 16, 10, seeded(9), **arguments)
    assert set(found.tolist()) == {modulation}
    sent_as = zip(cells.mcs_table.tolist(), extra["mcs"].tolist(), strict=True)
    rates = [nr.MCS_TABLES[table][mcs] for table, mcs in sent_as]
    assert set(rates) == {(2 * modulation + 2, rate) for rate in entries}
    sent = nr.transmit(cells, seeded(0))
    free = (cells.ssb_index < 0).all(-1) & ~cells.tracking  # elsewhere a lower one may be needed
    blocks = sent.blocks
    assert set(blocks.bits_per_symbol.tolist()) == {2 * modulation + 2}
    coded = (2 * modulation + 2) * cells.num_elements[blocks.row, blocks.slot]
    actual = blocks.size[blocks.block] / coded
    assert bool((actual < 0.95).all())
    assert bool(((actual - asked).abs() < 0.06)[free[blocks.row, blocks.slot]].all())
    wave = nr.draw(25, 15e3, 16, 76_800, seeded(9), **arguments)
    assert float((wave.code_rate - asked).abs().max()) < 0.06
    assert set(wave.modulation.tolist()) == {modulation}


def test_a_modulation_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="modulation must be 0 to 3"):
        nr.draw(25, 15e3, 2, 1000, seeded(0), modulation=torch.tensor([0, 4]))

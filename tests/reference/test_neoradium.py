"""Grids, waveforms and delay profiles against NeoRadium, the paper's tool, where both define them.

NeoRadium's licence allows fundamental research only: it is the extra `reference`, and these tests skip without it.
"""

import math

import numpy as np
import pytest
import torch

from lwm_spectro_hf.channel.profiles import tdl_profile
from lwm_spectro_hf.phy import nr
from lwm_spectro_hf.phy.nr_cells import Cells, mcs_entry
from lwm_spectro_hf.phy.ofdm import Numerology, cyclic_prefix_3gpp, modulate

neoradium = pytest.importorskip("neoradium")
# Its 32-bit product wraps around, which does not change the sequence's seed modulo 2^31.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


def reference_carrier(num_rb, spacing_hz, cell_id, slot_number):
    carrier = neoradium.Carrier(numRbs=num_rb, spacing=round(spacing_hz / 1e3), cellId=cell_id)
    carrier.slotNo = slot_number
    return carrier.curBwp


def reference_pdsch(bwp, cells, blocks, **symbols):
    """A PDSCH as row 0 of `cells` configures it, in the resource blocks `blocks`."""
    order = int(mcs_entry(cells.mcs_table[0], cells.mcs[0, 0])[0])
    pdsch = neoradium.PDSCH(
        bwp,
        modulation=nr.MODULATIONS[order // 2 - 1],
        rnti=int(cells.rnti[0]),
        portSet=[int(cells.dmrs_port[0])],
        prbSet=blocks,
        **symbols,
    )
    pdsch.setDMRS(
        typeA1stPos=int(cells.dmrs_position[0]),
        additionalPos=int(cells.dmrs_additional[0]),
        numCdmGroupsWithoutData=int(cells.cdm_groups[0]),
    )
    return pdsch


def reference_bits(bits, modulation, rate, num_coded):
    """Coded and rate-matched bits of a transport block."""
    bits = bits.astype(np.int8)
    if len(bits) > 3824:
        return neoradium.LdpcCodec(modulation, rate, len(bits)).encode(bits, num_coded)
    # NeoRadium puts 24 parity bits behind small blocks too, the standard 16 (TS 38.212, clause 7.2.1): its encoder is
    # handed a message of that length with the right ones.
    codec = neoradium.LdpcCodec(modulation, rate, len(bits) - 8).cwCodecs[0]
    blocks = codec.doSegmentation(codec.appendCrc(bits, "16"))
    return codec.rateMatch(codec.encodeCodeBlocks(blocks), num_coded)


# QPSK to 256QAM, low and high rates, both base graphs, one and several code blocks. None takes base graph 1 with a
# lifting size of 7 * 2^j or 9 * 2^j, where NeoRadium 0.5.3 has shifts of 15 and 880 in row 6, column 0, and TS 38.212,
# table 5.3.2-2, has 158 and 80.
@pytest.mark.parametrize(
    ("spacing", "num_rb", "options"),
    [
        (15e3, 25, dict(mcs_table=1, mcs=0, dmrs_additional=0)),
        (15e3, 25, dict(mcs_table=1, mcs=9, dmrs_additional=1, dmrs_port=1, control_symbols=1)),
        (15e3, 25, dict(mcs_table=1, mcs=14, dmrs_additional=2, dmrs_position=3, control_symbols=3)),
        (15e3, 52, dict(mcs_table=1, mcs=26, dmrs_additional=1, dmrs_port=3)),
        (15e3, 25, dict(mcs_table=2, mcs=25, dmrs_additional=3, cdm_groups=1)),
        (30e3, 24, dict(mcs_table=2, mcs=3, dmrs_additional=0, dmrs_port=2)),
        (30e3, 24, dict(mcs_table=2, mcs=8, dmrs_additional=1, cdm_groups=1, dmrs_port=1)),
        (30e3, 51, dict(mcs_table=2, mcs=20, dmrs_additional=2)),
    ],
)
def test_data_and_reference_signals_agree(spacing, num_rb, options):
    generator = torch.Generator().manual_seed(num_rb)
    cell_id, rnti, first_slot = 457, 40961, 7
    allocated = torch.zeros(2, num_rb, dtype=torch.bool)
    allocated[0] = True
    allocated[1, 5:12] = True
    cells = Cells(
        num_rb,
        spacing,
        2,
        cell_id=torch.tensor([cell_id]),
        rnti=rnti,
        first_slot=first_slot,
        allocated=allocated,
        ssb_blocks=False,
        **options,
    )
    sent = nr.transmit(cells, generator)
    grid = sent.grid.unflatten(1, (2, 14))[0].numpy()
    control = int(cells.control_symbols[0])
    rate = float(mcs_entry(cells.mcs_table[0], cells.mcs[0, 0])[1])
    for slot in range(2):
        bits = sent.blocks.bits(sent.blocks.slot.tolist().index(slot)).numpy()
        blocks = allocated[slot].nonzero()[:, 0].tolist()
        bwp = reference_carrier(num_rb, spacing, cell_id, first_slot + slot)

        # NeoRadium counts the DMRS table's length from the first symbol of the PDSCH, the standard (TS 38.211, clause
        # 7.4.1.1.2) from that of the slot: its PDSCH gets the whole slot here, with the CORESET reserved.
        coreset = neoradium.carrier.ReservedPrbSet(bwp, list(range(num_rb)), list(range(control)))
        pdsch = reference_pdsch(bwp, cells, blocks, reservedPrbSets=[coreset])
        pdsch.initGrid()
        pdsch.setPdschData(reference_bits(bits, pdsch.modems[0].modulation, rate, pdsch.getBitCapacity()[0]))
        expected = bwp.createGrid(1)
        pdsch.precodeTo(expected, np.ones((1, 1)))
        subcarriers = np.repeat(allocated[slot].numpy(), 12)
        # 2e-3: DMRS are 3 dB up there, a factor of sqrt(2) here.
        np.testing.assert_allclose(grid[slot, control:], expected.grid[0, control:] * subcarriers, atol=2e-3)
        data = expected.getReIndexes("PDSCH")
        np.testing.assert_allclose(grid[slot][data[1:]], expected.grid[data], atol=1e-6)

        # There, the size of the transport block follows from the symbols without the CORESET.
        shortened = reference_pdsch(bwp, cells, blocks, symStart=control, symLen=14 - control)
        assert shortened.getTxBlockSize(rate, xOverhead=0) == [len(bits)]


@pytest.mark.parametrize(("spacing", "num_rb", "slot"), [(15e3, 25, 3), (30e3, 24, 0), (30e3, 24, 1)])
def test_samples_agree(spacing, num_rb, slot):
    bwp = reference_carrier(num_rb, spacing, 1, slot)
    grid = torch.randn(1, 14, 12 * num_rb, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    reference = bwp.createGrid(1)
    reference.grid[0] = grid[0].numpy()
    expected = reference.ofdmModulate(windowing="NONE").waveform[0]

    numerology = Numerology(30.72e6, spacing, bwp.nFFT, dc_used=True)
    prefix = cyclic_prefix_3gpp(numerology, 14, first_symbol=14 * (slot % round(spacing / 15e3)))
    samples, _ = modulate(grid, numerology, prefix)
    np.testing.assert_allclose(samples[0].numpy(), expected * math.sqrt(bwp.nFFT), atol=1e-5)


@pytest.mark.parametrize("name", "ABCDE")
def test_tapped_delay_line_profiles_agree(name):
    profile = tdl_profile(name, torch.tensor([100e-9]))
    channel = neoradium.TdlChannel(reference_carrier(25, 15e3, 1, 0), name, delaySpread=100)
    powers = 10 ** (np.asarray(channel.pathPowers) / 10)
    # Its D and E hold the direct and the scattered part of the first tap as one, as ours do; other orders may differ.
    expected = sorted(zip(channel.pathDelays * 1e-9, powers / powers.sum(), strict=True))
    found = sorted(zip(profile.delays_s[0].tolist(), profile.powers[0].tolist(), strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)
    factor = 10 ** (channel.kFactorLos / 10) if channel.hasLos else 0.0
    assert float(profile.rician_k[0]) == pytest.approx(factor, rel=1e-4)

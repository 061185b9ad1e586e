"""Bits of TS 38.212 and block sizes of TS 38.214 against py3gpp and Sionna."""

import numpy as np
import py3gpp
import pytest
import torch

from lwm_spectro_hf.phy import nr_coding
from lwm_spectro_hf.phy.bits import to_bits

MODULATIONS = {2: "QPSK", 4: "16QAM", 6: "64QAM", 8: "256QAM"}


def random_bits(*shape):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def encode(bits, num_coded, order, rate):
    """Coded bits of transport blocks of one size."""
    ones = torch.ones(len(bits), dtype=torch.int64)
    size, num_symbols = bits.shape[1] * ones, num_coded // order * ones
    ((chosen, code),) = nr_coding.SharedChannelCode.classes(size, num_symbols, order * ones, rate * ones)
    assert chosen.tolist() == list(range(len(bits)))
    return to_bits(code.encode(bits, size, num_symbols, order * ones), order).flatten(1)


def test_mcs_tables_match_sionna():
    from sionna.phy.nr.utils import decode_mcs_index

    for number, table in nr_coding.MCS_TABLES.items():
        order, rate = decode_mcs_index(torch.arange(len(table)), table_index=number, is_pusch=False)
        assert order.tolist() == [entry[0] for entry in table]
        np.testing.assert_allclose(rate.numpy() * 1024, [entry[1] for entry in table], rtol=1e-5)


def test_block_sizes_match_py3gpp():
    num_rb = torch.arange(1, 217, 5)
    for order, rate in sorted(set(nr_coding.MCS_TABLES[1] + nr_coding.MCS_TABLES[2])):
        for elements in (36, 96, 132, 156):
            ones = torch.ones(len(num_rb), dtype=torch.int64)
            sizes = nr_coding.transport_block_size(elements * ones, num_rb, rate / 1024 * ones, order * ones)
            expected = [py3gpp.nrTBS(MODULATIONS[order], 1, n, elements, rate / 1024) for n in num_rb.tolist()]
            assert sizes.tolist() == expected


@pytest.mark.parametrize(
    ("size", "rate", "order", "num_coded"),
    [(504, 0.5, 4, 1000), (3824, 0.66, 6, 6000), (3040, 0.8, 6, 3900), (3848, 0.2, 2, 20002), (12552, 0.7, 8, 18008)],
)
def test_shared_channel_matches_py3gpp(size, rate, order, num_coded):
    bits = random_bits(2, size)
    info = py3gpp.nrDLSCHInfo(size, rate)
    block = py3gpp.nrCRCEncode(bits[1].numpy().astype(int), info["CRC"])[:, 0]
    words = py3gpp.nrLDPCEncode(py3gpp.nrCodeBlockSegmentLDPC(block, info["BGN"]), info["BGN"], "thangaraj")
    expected = py3gpp.nrRateMatchLDPC(words, num_coded, 0, MODULATIONS[order], 1)
    np.testing.assert_array_equal(encode(bits, num_coded, order, rate)[1].numpy(), expected)


def test_blocks_of_many_sizes_are_coded_together():
    # The same code word comes out alone and beside longer, shorter and differently matched blocks.
    size = torch.tensor([8456, 8712, 8456, 12040])
    num_symbols = torch.tensor([3000, 2800, 5003, 2500])
    order, rate = torch.tensor([6, 6, 6, 6]), torch.tensor([0.5, 0.55, 0.3, 0.8])
    sorted_out = nr_coding.SharedChannelCode.classes(size, num_symbols, order, rate)
    assert len(sorted_out) == 2
    for chosen, code in sorted_out:
        bits = random_bits(len(chosen), code.largest) * (torch.arange(code.largest) < size[chosen, None])
        together = code.encode(bits, size[chosen], num_symbols[chosen], order[chosen])
        for row, block in enumerate(chosen.tolist()):
            count = int(num_symbols[block])
            alone = encode(bits[row : row + 1, : size[block]], 6 * count, 6, float(rate[block]))
            torch.testing.assert_close(to_bits(together[row, :count], 6).flatten(), alone[0])


@pytest.mark.parametrize(("size", "num_coded"), [(24, 120), (200, 700), (808, 2400)])
def test_short_blocks_match_sionna(size, num_coded):
    # py3gpp takes a wrong lifting set where fewer than ten columns carry information.
    from sionna.phy.fec.ldpc import LDPC5GEncoder

    bits = random_bits(3, size)
    found = encode(bits, num_coded, 2, 0.3)
    message = torch.cat([bits, nr_coding.crc(bits, "16")], 1).float()
    expected = LDPC5GEncoder(size + 16, num_coded, 2, bg="bg2")(message)
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.parametrize("frame", [0, 10, 1023])
def test_broadcast_channel_matches_py3gpp(frame):
    cell_id, mib = torch.tensor([321, 0]), random_bits(2, 24)
    ones = torch.ones(2, dtype=torch.int64)
    found = nr_coding.encode_broadcast(mib, frame * ones, torch.tensor([0, 1]), 0 * ones, cell_id)
    for row in range(2):
        expected = py3gpp.nrBCH(mib[row].numpy().astype(int), frame, row, 8, 0, int(cell_id[row]))
        np.testing.assert_array_equal(found[row].numpy(), expected)


@pytest.mark.parametrize(("num_bits", "num_coded"), [(41, 108), (41, 216), (70, 432), (100, 216)])
def test_polar_code_matches_sionna(num_bits, num_coded):
    from sionna.phy.fec.polar import Polar5GEncoder

    bits = random_bits(3, num_bits)
    found = nr_coding.PolarCode.of(num_bits + 24, num_coded).encode(torch.cat([bits, nr_coding.crc(bits, "24C")], 1))
    torch.testing.assert_close(found.float(), Polar5GEncoder(num_bits, num_coded, "downlink")(bits.float()))

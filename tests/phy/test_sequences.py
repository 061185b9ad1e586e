"""Constellations and sequences against the standards' own forms and py3gpp."""

import numpy as np
import py3gpp
import pytest
import torch

from lwm_spectro_hf.phy.sequences import CONSTELLATION_ORDERS, constellation, gold_bits, gold_qpsk


@pytest.mark.parametrize("name", CONSTELLATION_ORDERS)
def test_constellation_agrees_with_py3gpp(name):
    order = CONSTELLATION_ORDERS[name]
    bits = (np.arange(2**order)[:, None] >> np.arange(order - 1, -1, -1)) & 1
    expected = np.asarray(py3gpp.nrSymbolModulate(bits.reshape(-1), name)).reshape(-1)
    np.testing.assert_allclose(constellation(name).numpy(), expected, atol=1e-6)


def test_unknown_modulation_names_the_known_ones():
    with pytest.raises(ValueError, match="'8PSK'.*256QAM"):
        constellation("8PSK")


def test_gold_bits_agrees_with_py3gpp_for_many_seeds():
    seeds = torch.tensor([[0, 1, 12345], [2**30 + 7, 2**31 - 1, 99]])
    found = gold_bits(seeds, 300)
    assert found.shape == (2, 3, 300)
    for seed, row in zip(seeds.flatten().tolist(), found.flatten(0, 1), strict=True):
        expected = np.asarray(py3gpp.nrPRBS(seed, 300)).reshape(-1)
        np.testing.assert_array_equal(row.numpy(), expected)


def test_no_seeds_give_no_bits():
    # If no cell has data, there are no pilots either.
    assert gold_bits(torch.zeros(0, dtype=torch.int64), 300).shape == (0, 300)


def test_gold_qpsk_takes_two_bits_a_symbol():
    seed = torch.tensor([4711])
    bits = gold_bits(seed, 20)[0].float()
    expected = ((1 - 2 * bits[0::2]) + 1j * (1 - 2 * bits[1::2])) / 2**0.5
    torch.testing.assert_close(gold_qpsk(seed, 10)[0], expected.to(torch.complex64))

"""Bits of WiFi packets against the worked example of the standard (IEEE 802.11-2020, annex I.1) and zlib."""

import zlib

import numpy as np
import pytest
import torch

from lwm_spectro_hf.phy import wifi, wifi_coding, wifi_frames
from lwm_spectro_hf.phy.wifi_coding import HT_MODES, LEGACY_MODES

# Table I-1: 100 bytes sent at 36 Mbit/s; the scrambler starts from 1011101. Tables G show the same example in
# 802.11a-1999, with other last bytes.
HEADER = bytes.fromhex("0402002E006008CD37A60020D6013CF1006008AD3BAF0000")
MESSAGE = HEADER + b"Joy, bright spark of divinity,\nDaughter of Elysium,\nFire-insired we trea"
FCS, FCS_1999 = bytes.fromhex("673321B6"), bytes.fromhex("DA5799ED")
MODE, STATE = LEGACY_MODES[36], torch.tensor([0b1011101])
# Table I-14, the scrambling sequence.
SEQUENCE = (
    "011011000001100110101001110011110110100001010101111101001010001101110001111111000011101111001011001001000000"
    "1000100110001011101"
)
# The first data symbol in the frequency domain (table G.22), subcarriers -26 to 26, times sqrt(10).
FIRST_SYMBOL = """
    -1+1j -1+1j 1+1j -3-3j 1+3j pilot 1+1j 1-3j -1-3j -1+1j -3+1j -3-3j -3-3j 3+1j 1+1j -3-1j -3-1j -3-1j -3-3j pilot
    3-1j 3+3j -3-1j 1-1j -3-1j -3+3j -1+3j 1+3j -3+1j 3-3j 1+1j -1-1j pilot -1+3j 3-1j -3-1j 3+1j -1+3j 3+1j 3-1j 3-3j
    -1-3j -3+1j -3-3j -3-3j -3-3j pilot 1-1j 3+1j -3+1j -1+3j 1-1j
""".split()


def octets(data: bytes) -> torch.Tensor:
    return torch.tensor([list(data)], dtype=torch.uint8)


def packed(bits: torch.Tensor) -> str:
    return np.packbits(bits.numpy()).tobytes().hex()


def scrambled_example(fcs: bytes) -> torch.Tensor:
    bits = torch.zeros(1, 864, dtype=torch.uint8)
    bits[:, 16:816] = wifi_coding.bytes_to_bits(octets(MESSAGE + fcs))
    bits ^= wifi_coding.scrambling_sequence(STATE, 864)
    bits[:, 816:822] = 0
    return bits


def test_annex_i_check_sequence():
    assert bytes(wifi_frames.mpdu(octets(MESSAGE))[0].tolist()) == MESSAGE + FCS


def test_annex_i_signal():
    field = wifi.signal_field(torch.tensor([5]), torch.tensor([100]))[0]  # 36 Mbit/s is the sixth rate
    coded = wifi_coding.convolutional_code(field)
    assert packed(field) == "b13000"  # table I-7
    assert packed(coded) == "d1a1023e7000"  # table I-8
    assert packed(coded[wifi_coding.interleaver(48, 1)]) == "94d014832494"  # table I-9


def test_annex_i_scrambling_sequence_repeats_after_127_bits():
    found = wifi_coding.scrambling_sequence(STATE, 200)[0]
    assert "".join(map(str, found.tolist())) == (SEQUENCE * 2)[:200]


def test_annex_i_data_bits():
    scrambled = scrambled_example(FCS_1999)[0]
    assert packed(scrambled[:144]) == "6c19898f6821f4a5614fd7ae240cf33ae4bc"  # table G.16
    assert packed(scrambled[-144:]) == "7d8a27173915a0ec28308cca00dc7f0ef2c9"  # table G.17
    sent = wifi_coding.punctured_positions(MODE.code_rate, 144)
    coded = wifi_coding.convolutional_code(scrambled)[:288][sent]
    assert packed(coded) == "2b08a1f09db59a1d4afbe8c28fc0c873c043e019e0d3ebb2"  # table G.18
    interleaved = coded[wifi_coding.interleaver(48, 4)]
    assert packed(interleaved) == "77f0efc47300bf11109a1d126e38f5691b6b9843000db36d"  # table G.21


def test_annex_i_data_symbols():
    points = wifi_coding.data_field(octets(MESSAGE + FCS), MODE, STATE)
    assert points.shape == (1, 6, 48)
    expected = torch.tensor([complex(point) for point in FIRST_SYMBOL if point != "pilot"])
    torch.testing.assert_close(points[0, 0] * 10**0.5, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(points, wifi_coding.encode(scrambled_example(FCS), MODE))


@pytest.mark.parametrize("num_bytes", [4, 10, 64, 1500])
def test_check_sequence_matches_zlib(num_bytes):
    frames = torch.randint(0, 256, (5, num_bytes), generator=torch.Generator().manual_seed(num_bytes)).byte()
    for frame in wifi_frames.mpdu(frames).numpy():
        assert zlib.crc32(frame[:-4].tobytes()) == int.from_bytes(frame[-4:].tobytes(), "little")


def test_check_of_ht_sig_agrees_with_the_example_of_the_standard():
    bits = torch.tensor([int(bit) for bit in "1111000100100110000000001110000000"], dtype=torch.uint8)
    assert wifi_coding.crc(bits, 0x07, 8).tolist() == [1, 0, 1, 0, 1, 0, 0, 0]  # 19.3.9.4.4, c7 to c0


def test_rates_of_the_modes():
    # Mbit/s with symbols of 4 us: tables 17-4 and 19-27.
    assert [mode.data_bits / 4 for mode in LEGACY_MODES.values()] == list(LEGACY_MODES)
    assert [mode.data_bits / 4 for mode in HT_MODES] == [6.5, 13, 19.5, 26, 39, 52, 58.5, 65]


def test_constellations_have_unit_power_and_gray_neighbours():
    for name, bits in (("QPSK", 2), ("16QAM", 4), ("64QAM", 6)):
        points = wifi_coding.constellation(name)
        torch.testing.assert_close(points.abs().square().mean(), torch.tensor(1.0))
        distance = (points[:, None] - points).abs()
        near = (distance < 1.01 * distance[distance > 1e-3].min()) & (distance > 1e-3)
        first, second = near.nonzero().T
        assert {bin(a ^ b).count("1") for a, b in zip(first.tolist(), second.tolist(), strict=True)} == {1}
        assert len(points) == 2**bits


def test_scrambler_refuses_the_state_that_scrambles_nothing():
    with pytest.raises(ValueError, match="from 1 to 127.*0"):
        wifi_coding.scrambling_sequence(torch.tensor([5, 0]), 10)

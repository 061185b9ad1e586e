"""Integers as bits, and the cyclic redundancy checks that the three standards put behind them."""

from functools import cache

import torch

# TS 36.212, clause 5.1.1; TS 38.212, clause 5.1: generator without its highest power, and its degree.
CRC_3GPP = {"24A": (0x864CFB, 24), "24B": (0x800063, 24), "24C": (0xB2B117, 24), "16": (0x1021, 16)}


def to_bits(value: torch.Tensor, width: int) -> torch.Tensor:
    """Binary digits of integers, most significant first, shape `(*value.shape, width)`, uint8."""
    shifts = torch.arange(width - 1, -1, -1, device=value.device)
    return ((value[..., None] >> shifts) & 1).to(torch.uint8)


@cache
def _remainder_table(polynomial: int, width: int, length: int) -> torch.Tensor:
    remainder, remainders = polynomial, []
    for _ in range(length):
        remainders.append(remainder)
        remainder = (remainder << 1) ^ (remainder >> (width - 1)) * (1 << width | polynomial)
    return to_bits(torch.tensor(remainders[::-1]), width).float()


def crc_remainders(polynomial: int, width: int, length: int) -> torch.Tensor:
    """Remainders of x^(length - 1 + width), ..., x^width modulo a generator: what each message bit adds to the parity.

    Args:
        polynomial (`int`): Generator without its highest power.
        width (`int`): Its degree.
        length (`int`): Message bits.

    Returns:
        `torch.Tensor` of shape `(length, width)`, float32, highest power first in both dimensions.
    """
    # The rows of a longer message end in those of a shorter one: one cached table for each power of two.
    return _remainder_table(polynomial, width, 1 << (length - 1).bit_length())[-length:]


def crc(bits: torch.Tensor, kind: str) -> torch.Tensor:
    """Parity bits of LTE and 5G (TS 36.212, clause 5.1.1; TS 38.212, clause 5.1).

    Sionna's encoder is built for one length in as many Python steps; here one matrix of remainders serves all lengths.

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): The message.
        kind (`str`): "24A" (transport blocks), "24B" (code blocks), "24C" (5G broadcast and control) or "16".

    Returns:
        `torch.Tensor` of shape `(..., 24)`, or 16 for "16", uint8.
    """
    remainders = crc_remainders(*CRC_3GPP[kind], bits.shape[-1]).to(bits.device)
    # The sums stay far below 2^24: exact in float32.
    return (bits.float() @ remainders).remainder(2).to(torch.uint8)

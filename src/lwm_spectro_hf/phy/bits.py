"""Integers as bits, and the cyclic redundancy checks that the three standards append to them."""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import torch

# TS 36.212, clause 5.1.1; TS 38.212, clause 5.1: generator without its highest power, and its degree.
CRC_3GPP = {"24A": (0x864CFB, 24), "24B": (0x800063, 24), "24C": (0xB2B117, 24), "16": (0x1021, 16)}


@cache
def table_on(device: torch.device, table: Callable[..., Any], *arguments: Hashable) -> Any:
    """The result of `table(*arguments)`, cached on the device: sending it there each time would stall.

    Args:
        device (`torch.device`): Where it is needed.
        table (`Callable`): Makes a tensor, or a tuple of tensors, from its arguments alone.
        *arguments (`Hashable`): Arguments of `table`.
    """
    found = table(*arguments)
    return tuple(part.to(device) for part in found) if isinstance(found, tuple) else found.to(device)


def to_bits(value: torch.Tensor, width: int) -> torch.Tensor:
    """Binary digits of integers, most significant first, shape `(*value.shape, width)`, uint8."""
    shifts = torch.arange(width - 1, -1, -1, device=value.device)
    return ((value[..., None] >> shifts) & 1).to(torch.uint8)


def message_bits(fields: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """The bits of messages, field after field, each most significant first.

    Args:
        fields (`Sequence[tuple[torch.Tensor, int]]`): Integers of one shape, `(...)`, and the number of bits of each.

    Returns:
        `torch.Tensor` of shape `(..., num_bits)`, uint8.
    """
    values = torch.stack([value for value, _ in fields], -1)
    field, shift = table_on(values.device, _message_layout, tuple(width for _, width in fields))
    return ((values[..., field] >> shift) & 1).to(torch.uint8)


def _message_layout(widths: tuple[int, ...]) -> torch.Tensor:
    """Field of each bit and its shift within the field, `(2, num_bits)`."""
    return torch.tensor([(field, place) for field, width in enumerate(widths) for place in reversed(range(width))]).T


def from_bits(bits: torch.Tensor, width: int) -> torch.Tensor:
    """Integers of `width` bits each, at most 8, most significant first: `(..., n)` to `(..., n // width)`, uint8."""
    bits = bits[..., : bits.shape[-1] // width * width].unflatten(-1, (-1, width))
    value = bits[..., 0].clone()
    for position in range(1, width):
        value.mul_(2).add_(bits[..., position])
    return value


def random_bits(batch_size: int, num_bits: int, generator: torch.Generator) -> torch.Tensor:
    """Independent bits, shape `(batch_size, num_bits)`, uint8, on the generator's device."""
    # One draw for 32 bits: the generator takes most of the time.
    words = torch.randint(2**32, (batch_size, -(-num_bits // 32)), generator=generator, device=generator.device)
    octets = words.to(torch.uint32).view(torch.uint8)
    return byte_bits(octets)[:, :num_bits]


@cache
def _byte_table(device: torch.device) -> torch.Tensor:
    return to_bits(torch.arange(256, device=device), 8)


def byte_bits(octets: torch.Tensor) -> torch.Tensor:
    """The bits of bytes, highest first: `(..., n)` to `(..., 8 * n)`, uint8."""
    table = _byte_table(octets.device)
    return table.index_select(0, octets.flatten().int()).view(*octets.shape[:-1], 8 * octets.shape[-1])


def slices(values: torch.Tensor, first: torch.Tensor, length: int) -> torch.Tensor:
    """Runs of neighboring elements, each copied as a whole: far faster than element by element.

    Args:
        values (`torch.Tensor` of shape `(batch, n)`): Contiguous.
        first (`torch.Tensor` of shape `(batch, ...)`, int64): Where in its row each run starts. It may continue into
            the next rows, but must end within the last.
        length (`int`): Length of every run.

    Returns:
        `torch.Tensor` of shape `(batch, ..., length)`.
    """
    batch_size, width = values.shape
    row = torch.arange(batch_size, device=values.device).view(-1, *[1] * (first.ndim - 1))
    windows = values.flatten().unfold(0, length, 1)
    return windows.index_select(0, (row * width + first).flatten()).view(*first.shape, length)


@cache
def _remainder_table(polynomial: int, width: int, length: int) -> torch.Tensor:
    remainder, remainders = polynomial, []
    for _ in range(length):
        remainders.append(remainder)
        remainder = (remainder << 1) ^ (remainder >> (width - 1)) * (1 << width | polynomial)
    return to_bits(torch.tensor(remainders[::-1]), width).float()


def crc_remainders(polynomial: int, width: int, length: int, device: torch.device) -> torch.Tensor:
    """Remainders of x^(length - 1 + width), ..., x^width modulo a generator: what each message bit adds to the parity.

    Args:
        polynomial (`int`): Generator without its highest power.
        width (`int`): Its degree.
        length (`int`): Message bits.
        device (`torch.device`): Device of the result.

    Returns:
        `torch.Tensor` of shape `(length, width)`, float32, highest power first in both dimensions.
    """
    # The table of a longer message ends with that of a shorter one: cache one table for each power of two.
    return table_on(device, _remainder_table, polynomial, width, 1 << (length - 1).bit_length())[-length:]


@cache
def _shifted_down(polynomial: int, width: int, count: int) -> torch.Tensor:
    """Remainders of x^(width - 1), x^(width - 2), ..., also of negative powers, shape `(width + count, width)`."""
    remainder, remainders = 1 << (width - 1), []
    for _ in range(width + count):
        remainders.append(remainder)
        remainder = (remainder ^ (remainder & 1) * (1 << width | polynomial)) >> 1
    return to_bits(torch.tensor(remainders), width).float()


def crc(bits: torch.Tensor, kind: str, length: torch.Tensor | None = None) -> torch.Tensor:
    """Parity bits of LTE and 5G (TS 36.212, clause 5.1.1; TS 38.212, clause 5.1).

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): The message.
        kind (`str`): "24A" (transport blocks), "24B" (code blocks), "24C" (5G broadcast and control) or "16".
        length (`torch.Tensor` of shape `(...,)`, int64, *optional*): As in [`remainder`].

    Returns:
        `torch.Tensor` of shape `(..., 24)`, or 16 for "16", uint8.
    """
    return remainder(bits, *CRC_3GPP[kind], length)


def remainder(
    bits: torch.Tensor, polynomial: int, width: int, length: torch.Tensor | None = None, ones: bool = False
) -> torch.Tensor:
    """Remainders of messages times x^width.

    Sionna's encoder is built for a single length, in as many Python steps; here one matrix of remainders serves all
    lengths.

    Args:
        bits (`torch.Tensor` of shape `(..., num_bits)`, uint8): The message, highest power first.
        polynomial (`int`): Generator without its highest power.
        width (`int`): Its degree.
        length (`torch.Tensor` of shape `(...,)`, int64, *optional*): Number of message bits in each row; the others,
            at the end, must be zero.
        ones (`bool`, *optional*, defaults to `False`): Initialize the register with ones; messages then need at least
            `width` bits.

    Returns:
        `torch.Tensor` of shape `(..., width)`, uint8, highest power first.
    """
    remainders = crc_remainders(polynomial, width, bits.shape[-1], bits.device)
    # The sums stay far below 2^24: exact in float32.
    parity = bits.float() @ remainders
    if ones:  # the same as complementing the first bits: adds their remainders
        parity = parity + remainders[:width].sum(0)
    parity = parity.remainder(2)
    if length is not None:
        # Zeros at the end have multiplied the message by a power of x: divide by it.
        down = table_on(bits.device, _shifted_down, polynomial, width, 1 << bits.shape[-1].bit_length())
        steps = (bits.shape[-1] - length)[..., None] + torch.arange(width, device=bits.device)
        matrix = down.index_select(0, steps.flatten()).view(*steps.shape, width)
        parity = (parity[..., None, :] @ matrix)[..., 0, :].remainder(2)
    return parity.to(torch.uint8)

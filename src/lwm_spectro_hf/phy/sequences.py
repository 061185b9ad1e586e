"""The deterministic sequences and constellations that the three standards share."""

from functools import cache

import torch

from .bits import byte_bits, table_on

CONSTELLATION_ORDERS = {"BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8}


def constellation(name: str) -> torch.Tensor:
    """Gray-labeled constellation of unit mean power (3GPP TS 38.211, clause 5.1; 36.211, clause 7.1).

    Point `i` carries the bits of `i`, most significant first; even bits select the in-phase, odd
    bits the quadrature level.

    Args:
        name (`str`): One of "BPSK", "QPSK", "16QAM", "64QAM", "256QAM".

    Returns:
        `torch.Tensor` of shape `(2**bits_per_symbol,)`, complex64.

    Raises:
        ValueError: For a name that no standard here defines.
    """
    if name not in CONSTELLATION_ORDERS:
        raise ValueError(f"Unknown modulation {name!r}; expected one of {', '.join(CONSTELLATION_ORDERS)}.")
    order = CONSTELLATION_ORDERS[name]
    index = torch.arange(2**order)
    bits = [(index >> (order - 1 - position)) & 1 for position in range(order)]
    if order == 1:  # both axes carry the one bit: (1 - 2b)(1 + j) / sqrt(2)
        level = (1 - 2 * bits[0]).float()
        return torch.complex(level, level) / 2**0.5

    def amplitude(axis_bits: list[torch.Tensor]) -> torch.Tensor:
        # The standard's nested form, innermost first: (1 - 2b0) (4 - (1 - 2b2) (2 - (1 - 2b4))) and so on.
        level = torch.ones_like(index)
        for depth, bit in enumerate(reversed(axis_bits[1:])):
            level = 2 ** (depth + 1) - (1 - 2 * bit) * level
        return (1 - 2 * axis_bits[0]) * level

    points = torch.complex(amplitude(bits[0::2]).float(), amplitude(bits[1::2]).float())
    return points / points.abs().square().mean().sqrt()


def _gold_tables(num_words: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first m-sequence as words, and what each four bits of `c_init` add to the second, `(8, 16, num_words)`."""
    advance, order, length = 1600, 31, num_words * width
    first = [1] + [0] * (order - 1)
    # Every bit of the second sequence is a sum of initial bits: record which ones, as a 31-bit integer per position.
    second = [1 << position for position in range(order)]
    for n in range(length + advance - order):
        first.append(first[n + 3] ^ first[n])
        second.append(second[n + 3] ^ second[n + 2] ^ second[n + 1] ^ second[n])
    masks = torch.tensor(second[advance : advance + length])
    added = [(masks >> k) & 1 for k in range(order + 1)]
    bits = torch.stack([torch.tensor(first[advance : advance + length]), *added])
    words = (bits.view(order + 2, num_words, width) << torch.arange(width - 1, -1, -1)).sum(-1).to(torch.uint8)
    four = words[1:].view(8, 4, 1, num_words)
    sums = torch.zeros(8, 16, num_words, dtype=torch.uint8)
    for place in range(4):
        sums ^= four[:, place] * ((torch.arange(16) >> place) & 1).to(torch.uint8)[:, None]
    return words[0], sums


def gold_words(c_init: torch.Tensor, num_words: int, width: int) -> torch.Tensor:
    """The sequence of [`gold_bits`] in words of `width` bits, at most 8, with the first bit highest.

    Args:
        c_init (`torch.Tensor` of any shape, int64): Initial state of the second m-sequence.
        num_words (`int`): Number of words.
        width (`int`): Bits in each: those of a modulation symbol, for instance.

    Returns:
        `torch.Tensor` of shape `(*c_init.shape, num_words)`, uint8.
    """
    # One table serves every length up to the next power of two.
    tables = table_on(c_init.device, _gold_tables, 1 << (num_words - 1).bit_length(), width)
    first, sums = (table[..., :num_words] for table in tables)
    seeds = c_init.flatten()
    words = first.expand(len(seeds), num_words).clone()
    for place, table in enumerate(sums):
        words ^= table.index_select(0, (seeds >> 4 * place) & 15)
    return words.view(*c_init.shape, num_words)


def gold_bits(c_init: torch.Tensor, length: int) -> torch.Tensor:
    """Length-31 Gold sequence c(n) (TS 36.211, clause 7.2; TS 38.211, clause 5.2.1), for many seeds at once.

    Args:
        c_init (`torch.Tensor` of any shape, int64): Initial state of the second m-sequence.
        length (`int`): Number of bits.

    Returns:
        `torch.Tensor` of shape `(*c_init.shape, length)`, uint8.
    """
    return byte_bits(gold_words(c_init, -(-length // 8), 8))[..., :length]


def gold_qpsk(c_init: torch.Tensor, length: int) -> torch.Tensor:
    """Pseudo-random QPSK reference signal r(m) (TS 36.211, clause 6.10.1.1; TS 38.211, clause 7.4.1.1.1).

    Args:
        c_init (`torch.Tensor` of any shape, int64): Seeds.
        length (`int`): Number of symbols.

    Returns:
        `torch.Tensor` of shape `(*c_init.shape, length)`, complex64 of unit power.
    """
    signs = (1 - 2 * gold_bits(c_init, 2 * length).float()) / 2**0.5
    return torch.complex(signs[..., 0::2].contiguous(), signs[..., 1::2].contiguous())


@cache
def m_sequence(taps: tuple[int, ...], initial: tuple[int, ...]) -> torch.Tensor:
    """Binary sequence x(n + order) = sum of x(n + tap) mod 2, over one period.

    Args:
        taps (`tuple[int, ...]`): Feedback positions.
        initial (`tuple[int, ...]`): x(0), x(1), ...

    Returns:
        `torch.Tensor` of shape `(2**order - 1,)`, int64.
    """
    order = len(initial)
    state = list(initial)
    while len(state) < 2**order - 1:
        state.append(sum(state[len(state) - order + tap] for tap in taps) % 2)
    return torch.tensor(state)

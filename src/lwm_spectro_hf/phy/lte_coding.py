"""Channel coding of the LTE downlink (3GPP TS 36.212) and its transport block sizes (TS 36.213), batched over rows.

Implemented here rather than taken from Sionna: its encoders build one dense matrix or trellis object for each length
and support neither the 3GPP tail-biting code nor LTE's rate matching, and a batch here holds dozens of lengths.
"""

import json
from functools import cache
from importlib import resources

import torch

from .bits import crc, table_on

# Octal 133, 171, 165 (clause 5.1.3.1), the current bit first.
_CONVOLUTIONAL_TAPS = ((1, 0, 1, 1, 0, 1, 1), (1, 1, 1, 1, 0, 0, 1), (1, 1, 1, 0, 1, 0, 1))
_MAX_CODE_BLOCK = 6144
# Columns of the sub-block interleaver (clause 5.1.4): bit-reversed numbers; odd ones first for the tail-biting code.
_COLUMNS = [int(f"{column:05b}"[::-1], 2) for column in range(32)]
# (Q_m, I_TBS) of each I_MCS (TS 36.213, tables 7.1.7.1-1 and, with 256-QAM, 7.1.7.1-1A).
_MCS_TABLES = (
    [(2, i) for i in range(10)] + [(4, i) for i in range(9, 16)] + [(6, i) for i in range(15, 27)],
    [(2, i) for i in range(0, 10, 2)]
    + [(4, i) for i in range(10, 16)]
    + [(6, i) for i in range(16, 25)]
    + [(8, i) for i in (25, 27, 28, 29, 30, 31, 32, 33)]
    + [(0, 0)],
)


@cache
def _tables() -> dict[str, torch.Tensor]:
    text = resources.files(__package__).joinpath("tables", "lte.json").read_text(encoding="utf-8")
    return {name: torch.tensor(rows) for name, rows in json.loads(text).items()}


def transport_block_sizes() -> torch.Tensor:
    """Transport block sizes by I_TBS and N_PRB - 1 (TS 36.213, table 7.1.7.2.1-1), shape `(34, 110)` [bit]."""
    return _tables()["transport_block_sizes"]


@cache
def mcs_table() -> torch.Tensor:
    """Modulation order and I_TBS by table (without and with 256-QAM) and I_MCS, shape `(2, 29, 2)`.

    TS 36.213, tables 7.1.7.1-1 and 7.1.7.1-1A; the second table ends at 27 and is padded with an order of 0.
    """
    return torch.tensor(_MCS_TABLES)


def append_crc(bits: torch.Tensor, kind: str, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Attach cyclic redundancy bits (TS 36.212, clause 5.1.1).

    Args:
        bits (`torch.Tensor` of shape `(..., length)`, uint8): Information bits.
        kind (`str`): "24A" (transport blocks), "24B" (code blocks) or "16" (control and broadcast information).
        mask (`torch.Tensor` of shape `(..., order)`, uint8, *optional*): Added to the parity: an RNTI, for instance.

    Returns:
        `torch.Tensor` of shape `(..., length + order)`, uint8.
    """
    parity = crc(bits, kind)
    return torch.cat([bits, parity if mask is None else parity ^ mask], -1)


def convolutional_encode(bits: torch.Tensor) -> torch.Tensor:
    """Tail-biting convolutional code of rate 1/3 and constraint length 7 (TS 36.212, clause 5.1.3.1).

    Args:
        bits (`torch.Tensor` of shape `(..., length)`, uint8): At least seven bits.

    Returns:
        `torch.Tensor` of shape `(..., 3, length)`, uint8.
    """
    # The register starts with the last six bits, which makes the code a circular convolution.
    delayed = [bits.roll(delay, -1) for delay in range(7)]
    return torch.stack(
        [sum(d for d, tap in zip(delayed, taps, strict=True) if tap) & 1 for taps in _CONVOLUTIONAL_TAPS], -2
    )


def _recursive_encode(bits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One eight-state constituent encoder with its termination (TS 36.212, clauses 5.1.3.2.1 and 5.1.3.2.2).

    Args:
        bits (`torch.Tensor` of shape `(batch, length)`, uint8): Input.

    Returns:
        `tuple`: parity `(batch, length)` and the tail, systematic and parity bits in turn, `(batch, 6)`.
    """
    batch_size, length = bits.shape
    # 1 / (1 + D^2 + D^3) = (1 + D^2 + D^3 + D^4) / (1 + D^7): a short filter and a sum over every seventh bit, instead
    # of a recursion bit by bit. Sums of eight-bit integers wrap, which preserves their parity.
    padded = torch.nn.functional.pad(bits, (4, -length % 7))
    size = padded.shape[1] - 4
    filtered = padded[:, 4:] + padded[:, 2 : 2 + size] + padded[:, 1 : 1 + size] + padded[:, :size]
    register = filtered.view(batch_size, -1, 7).cumsum(1, dtype=torch.uint8).view(batch_size, size)[:, :length] & 1
    register = torch.nn.functional.pad(register, (3, 3))  # starts empty, and the tail drives it empty
    parity = (register[:, 3:] + register[:, 2:-1] + register[:, :-3]) & 1
    tail = (register[:, 1:-2] + register[:, :-3])[:, length:] & 1
    return parity[:, :length], torch.stack([tail, parity[:, length:]], -1).flatten(1)


@cache
def turbo_interleaver(length: int) -> torch.Tensor:
    """Quadratic permutation polynomial of a code block (TS 36.212, clause 5.1.3.2.3), shape `(length,)`.

    Raises:
        ValueError: For a length outside table 5.1.3-3.
    """
    table = _tables()["turbo_interleaver"]
    row = (table[:, 0] == length).nonzero()
    if len(row) == 0:
        raise ValueError(
            f"There is no turbo interleaver of {length} bits; expected a size of TS 36.212, table 5.1.3-3."
        )
    _, f1, f2 = table[row[0, 0]].tolist()
    i = torch.arange(length)
    return (f1 + f2 * i) * i % length


def turbo_encode(bits: torch.Tensor) -> torch.Tensor:
    """Turbo code of rate 1/3 with its twelve tail bits (TS 36.212, clause 5.1.3.2).

    Args:
        bits (`torch.Tensor` of shape `(batch, length)`, uint8): Code blocks without filler bits.

    Returns:
        `torch.Tensor` of shape `(batch, 3, length + 4)`, uint8.
    """
    first, first_tail = _recursive_encode(bits)
    second, second_tail = _recursive_encode(bits[:, table_on(bits.device, turbo_interleaver, bits.shape[1])])
    # x, z, x, z, x, z of either encoder, dealt to the three streams in turn (clause 5.1.3.2.2).
    tail = torch.cat([first_tail, second_tail], 1).view(-1, 4, 3).mT
    return torch.cat([torch.stack([bits, first, second], 1), tail], 2)


@cache
def circular_buffer(length: int, turbo: bool) -> torch.Tensor:
    """Order in which rate matching reads three coded streams, without dummy bits (TS 36.212, clause 5.1.4).

    Args:
        length (`int`): Bits of each stream.
        turbo (`bool`): Turbo code, read from redundancy version 0, or convolutional code.

    Returns:
        `torch.Tensor` of shape `(3 * length,)`, int64: positions in the streams, one stream after the other.
    """
    rows = -(-length // 32)
    size, dummies = 32 * rows, 32 * rows - length
    columns = torch.tensor(_COLUMNS if turbo else _COLUMNS[16:] + _COLUMNS[:16])
    read = torch.arange(size).view(rows, 32)[:, columns].T.flatten()
    streams = torch.stack([read, read, (read + 1) % size if turbo else read])
    position = streams - dummies + length * torch.arange(3)[:, None]
    if (
        turbo
    ):  # the two parity streams alternate, and reading starts two columns in (k_0, with all of K_w in the buffer)
        order = torch.cat([position[0], position[1:].T.flatten()]).roll(-2 * rows)
        real = torch.cat([streams[0], streams[1:].T.flatten()]).roll(-2 * rows) >= dummies
    else:
        order, real = position.flatten(), streams.flatten() >= dummies
    return order[real]


def convolutional_rate_match(bits: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Tail-biting code and its rate matching (TS 36.212, clauses 5.1.3.1 and 5.1.4.2).

    Args:
        bits (`torch.Tensor` of shape `(..., length)`, uint8): Information with parity.
        num_bits (`int`): Coded bits to send.

    Returns:
        `torch.Tensor` of shape `(..., num_bits)`, uint8.
    """
    order = table_on(bits.device, circular_buffer, bits.shape[-1], False)
    order = order[torch.arange(num_bits, device=bits.device) % len(order)]
    return convolutional_encode(bits).flatten(-2)[..., order]


def encode_transport_block(
    size: int, lengths: list[tuple[int, int]], generator: torch.Generator
) -> list[torch.Tensor]:
    """A random transport block, coded for the DL-SCH (TS 36.212, clause 5.3.2), redundancy version 0.

    Every size of TS 36.213, table 7.1.7.2.1-1 divides into equal code blocks without filler bits. The soft buffer is
    that of a terminal category that holds a whole block (N_cb = K_w).

    Args:
        size (`int`): Transport block size [bit].
        lengths (`list[tuple[int, int]]`): For each codeword made of it, the number of coded bits G, and N_L * Q_m, of
            which each code block sends a multiple.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `list` of `torch.Tensor` of shape `(G,)`, uint8.
    """
    device = generator.device
    blocks = append_crc(torch.randint(2, (1, size), generator=generator, device=device, dtype=torch.uint8), "24A")
    num_blocks = 1
    if size + 24 > _MAX_CODE_BLOCK:  # clause 5.1.2
        num_blocks = -(-(size + 24) // (_MAX_CODE_BLOCK - 24))
        blocks = append_crc(blocks.view(num_blocks, -1), "24B")
    order = table_on(device, circular_buffer, blocks.shape[1] + 4, True)
    coded = turbo_encode(blocks).flatten(1).index_select(1, order)
    codewords = []
    for length, granularity in lengths:
        # Clause 5.1.4.1.2: if granules do not divide evenly, the last blocks send one more.
        granules, longer = divmod(length // granularity, num_blocks)
        short = granules * granularity
        repeats = -(-(short + granularity) // coded.shape[1])
        codeword = coded.repeat(1, repeats)
        cut = num_blocks - longer
        codewords.append(
            torch.cat([codeword[:cut, :short].flatten(), codeword[cut:, : short + granularity].flatten()])
        )
    return codewords

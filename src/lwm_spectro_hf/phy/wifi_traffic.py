"""Traffic between an access point and stations: modes, frame lengths and timing of exchanges (802.11-2020, 10.3).

Times are whole microseconds, as are all intervals of the standard.
"""

from dataclasses import dataclass

import torch

from . import wifi_frames
from .wifi_coding import HT_MODES, LEGACY_MODES, Mode

SYMBOL_US = 4
# Table 17-21. In the 2.4 GHz band the shorter SIFS and the signal extension add up to the same (clause 18).
SIFS_US, SLOT_US = 16, 9
_DIFS_US = SIFS_US + 2 * SLOT_US  # 10.3.7
_ACK_TIMEOUT_US = SIFS_US + SLOT_US + 20  # 10.3.2.11, with the delay until a preamble of clause 17 is indicated
_TXOP_US = 2528  # limit of a transmission opportunity for best effort (table 9-155)
CONTENTION_WINDOW = 15  # of a first attempt, aCWmin [slots]
MODULATIONS = ("BPSK", "QPSK", "16QAM", "64QAM")
BASIC_RATES = (6, 12, 24)  # the mandatory ones, used for control frames [Mbit/s]
# Every mode, and whether it belongs to 802.11n: first those of 802.11a/g, then those of 802.11n.
MODES = (*((False, mode) for mode in LEGACY_MODES.values()), *((True, mode) for mode in HT_MODES))
_LEGACY_PREAMBLE, _HT_PREAMBLE = 5, 9  # blocks of 4 us
_NUM_LENGTHS, _NUM_LONG = 6, 2
_MOST_UPWARD = 0.5
_LONG_BYTES = 1500
# File readers accept no longer bodies: gr-ieee802-11 drops what does not fit an Ethernet frame.
_FILE_BYTES = (1000, 1500)
# The decoders of gr-ieee802-11 and FutureSDR continue into remains of the previous packet instead of ending at the
# zero tail bits. With ten pad bits or fewer, one packet in thirty at code rate 3/4 fails its check.
_FILE_PAD_BITS = 16


def preamble_blocks(high_throughput: bool) -> int:
    """Blocks of 4 microseconds before the data of a packet."""
    return _HT_PREAMBLE if high_throughput else _LEGACY_PREAMBLE


def ack_blocks(rate_mbps: int) -> int:
    """Blocks of an acknowledgment."""
    return _LEGACY_PREAMBLE + LEGACY_MODES[rate_mbps].num_symbols(wifi_frames.ACK_BYTES)


@dataclass
class Links:
    """What is constant along each row: an access point that sends to one station, which may also send, or to all.

    Attributes:
        lengths (`list[int]`): Lengths of frame bodies in the whole batch [bytes].
        mode (`torch.Tensor` of shape `(batch,)`): Index into `MODES`.
        length (`torch.Tensor` of shape `(batch, 2)`): The two indices into `lengths` that the row uses.
        ack (`torch.Tensor` of shape `(batch,)`): Index into `BASIC_RATES` of the answers; -1 for broadcast frames,
            which nobody answers.
        opportunity (`torch.Tensor` of shape `(batch,)`, bool): The access point holds transmission opportunities
            (10.23), as QoS stations do: the exchanges of each are only a SIFS apart.
        upward (`torch.Tensor` of shape `(batch,)`, *optional*): Share of the exchanges that the station begins.
        idle_us (`torch.Tensor` of shape `(batch,)`): Mean time without a frame to send, beyond the back-off [µs].
        skipped (`torch.Tensor` of shape `(batch,)`): Share of the first packet that is over when the recording starts.
        aligned (`bool`): The recording starts and ends a DIFS or more away from packets, and `skipped` is 0.
    """

    lengths: list[int]
    mode: torch.Tensor
    length: torch.Tensor
    ack: torch.Tensor
    opportunity: torch.Tensor
    upward: torch.Tensor | None
    idle_us: torch.Tensor
    skipped: torch.Tensor
    aligned: bool

    def data_blocks(self) -> torch.Tensor:
        """Blocks of the two lengths of data packets of each row, `(batch, 2)`."""
        blocks = [
            [
                preamble_blocks(qos) + mode.num_symbols(length + wifi_frames.overhead_bytes(qos))
                for length in self.lengths
            ]
            for qos, mode in MODES
        ]
        return torch.tensor(blocks, device=self.mode.device)[self.mode[:, None], self.length]

    def ack_blocks(self) -> torch.Tensor:
        """Blocks of the acknowledgments of each row, 0 where there are none, `(batch,)`."""
        blocks = torch.tensor([*(ack_blocks(rate) for rate in BASIC_RATES), 0], device=self.ack.device)
        return blocks[self.ack]


@dataclass
class Exchanges:
    """Data packets and their acknowledgments, in order of time.

    Attributes:
        length (`torch.Tensor` of shape `(batch, num_exchanges)`): Index into [`Links`]`.lengths`.
        start_us (`torch.Tensor` of shape `(batch, num_exchanges, 2)`): Start of data and acknowledgment [µs].
        blocks (`torch.Tensor` of shape `(batch, num_exchanges, 2)`): Their blocks of 4 µs, 0 for a missing answer.
        reserved_us (`torch.Tensor` of shape `(batch, num_exchanges)`): How long data packets reserve the medium after
            them (9.2.5.2): for the answer, and in an opportunity also for the next exchange [µs].
        upward (`torch.Tensor` of shape `(batch, num_exchanges)`, bool): The station sends the data, and the access
            point the answer.
    """

    length: torch.Tensor
    start_us: torch.Tensor
    blocks: torch.Tensor
    reserved_us: torch.Tensor
    upward: torch.Tensor

    @property
    def from_station(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(batch, num_exchanges, 2)`, bool: Whether the station is the sender."""
        return torch.stack([self.upward, ~self.upward], -1)

    def airtime_us(self, num_us: int) -> torch.Tensor:
        """How long each end of a link sends within `num_us`, the access point first, `(batch, 2)` [µs]."""
        end_us = self.start_us + SYMBOL_US * self.blocks
        lasting = (end_us.clamp(0, num_us) - self.start_us.clamp(0, num_us)) * (self.blocks > 0)
        of_station = (lasting * self.from_station).sum((1, 2))
        return torch.stack([lasting.sum((1, 2)) - of_station, of_station], 1)


def draw_links(
    batch_size: int,
    generator: torch.Generator,
    modulation: torch.Tensor | None,
    code_rate: torch.Tensor | None,
    full: torch.Tensor | None,
    high_throughput: float,
    aligned: bool,
    two_way: torch.Tensor | None = None,
) -> Links:
    """Draw what is constant along each row; the arguments are those of [`~phy.wifi.draw`]."""
    device = generator.device
    u = torch.rand(8, batch_size, generator=generator, device=device)
    modulation = (u[0] * len(MODULATIONS)).long() if modulation is None else modulation.to(device)
    full = torch.zeros(batch_size, dtype=torch.bool, device=device) if full is None else full.to(device)

    of_mode = torch.tensor(
        [(MODULATIONS.index(mode.modulation), float(mode.code_rate), qos, mode.rate_mbps) for qos, mode in MODES],
        device=device,
    )
    fits = of_mode[:, 0] == modulation[:, None]
    if code_rate is not None:
        distance = (of_mode[:, 1] - code_rate.to(device)[:, None]).abs().masked_fill(~fits, torch.inf)
        fits = distance <= distance.amin(1, keepdim=True) + 1e-6
    newer = of_mode[:, 2] > 0
    weight = fits * torch.where(
        newer,
        high_throughput / (fits & newer).sum(1, keepdim=True).clamp(min=1),
        (1 - high_throughput) / (fits & ~newer).sum(1, keepdim=True).clamp(min=1),
    )
    weight += 1e-9 * fits  # modes that only one of the two standards has are sent even if its share is zero
    mode = torch.multinomial(weight, 1, generator=generator)[:, 0]

    # From next to nothing to the largest frame; short and full ones are the most common. The rows of a batch share a
    # few lengths, so that their packets are coded together. Saturated senders have long ones more often, but not
    # always: otherwise the duration of a packet would reveal its rate, and with it the modulation.
    draws = torch.rand(_NUM_LENGTHS + _NUM_LONG, generator=generator, device=device).tolist()
    shortest, longest = _FILE_BYTES if aligned else (_LONG_BYTES, wifi_frames.MAX_PAYLOAD_BYTES)
    lengths = [min(longest, max(8, round(30 * 76 ** min(1.0, 1.3 * draw)) - 30)) for draw in draws[:_NUM_LENGTHS]]
    lengths += [shortest + round((longest - shortest) * draw) for draw in draws[_NUM_LENGTHS:]]
    if aligned:
        modes = set(mode.tolist())
        lengths = [_well_padded(length, [MODES[index] for index in modes]) for length in lengths]
    chosen = torch.rand(batch_size, 2, generator=generator, device=device)
    first = _NUM_LENGTHS * (full & aligned)  # in files, receivers should get much data
    length = (first[:, None] + chosen * (torch.where(full, len(lengths), _NUM_LENGTHS) - first)[:, None]).long()

    # The answer uses the highest basic rate of the cell that is not above the rate of the frame (10.6.6.5.2).
    basic = torch.tensor(BASIC_RATES, device=device)
    possible = (basic <= of_mode[mode, 3][:, None]).sum(1)
    answer = torch.minimum((u[1] * len(BASIC_RATES)).long() + 1, possible) - 1
    # From saturated (packets a back-off apart) to mostly idle.
    idle_us = 20.0 * torch.where(u[4] > 0.5, 150 ** (2 * u[4] - 1), 1.0)
    ack = torch.where(u[2] < 0.8, answer, -1)
    upward = None
    if two_way is not None:
        share = _MOST_UPWARD * torch.rand(batch_size, generator=generator, device=device)
        upward = share * (two_way.to(device) & (ack >= 0))
    return Links(
        lengths=lengths,
        mode=mode,
        length=length,
        ack=ack,
        opportunity=(of_mode[mode, 2] > 0) & (u[3] < torch.where(full, 0.5, 0.3)),
        upward=upward,
        idle_us=torch.where(full, 0.0, idle_us),
        skipped=u[5] * (not aligned),
        aligned=aligned,
    )


def _well_padded(longest: int, modes: list[tuple[bool, Mode]]) -> int:
    """The longest frame body of at most `longest` bytes whose packets have enough pad bits, or else `longest`."""
    for length in range(longest, 7, -1):
        if all(mode.pad_bits(length + wifi_frames.overhead_bytes(qos)) >= _FILE_PAD_BITS for qos, mode in modes):
            return length
    return longest


def draw_exchanges(links: Links, num_us: int, generator: torch.Generator) -> Exchanges:
    """Fill `num_us` microseconds of each row with exchanges.

    Args:
        links ([`Links`]): The rows.
        num_us (`int`): Length of the timeline [µs].
        generator (`torch.Generator`): Source of randomness.

    Returns:
        [`Exchanges`].
    """
    device = generator.device
    data_blocks, ack = links.data_blocks(), links.ack_blocks()[:, None]
    shortest, longest = torch.stack(data_blocks.aminmax()).tolist()
    num_exchanges = (num_us + SYMBOL_US * longest) // (SYMBOL_US * shortest + SIFS_US) + 1

    uniform = torch.rand(4, len(ack), num_exchanges, generator=generator, device=device)
    choice = (uniform[0] < 0.5).long()
    blocks = data_blocks.gather(1, choice)
    # A twentieth of the packets are lost.
    answered = (uniform[1] < 0.95) & (ack > 0)
    backoff = _DIFS_US + SLOT_US * (uniform[2] * (CONTENTION_WINDOW + 1)).long()
    idle = (-links.idle_us[:, None] * (1 - uniform[3]).log()).round().long()
    # An opportunity has as many exchanges as its limit has room for, if all were the longer ones of the row.
    answer_us = (SIFS_US + SYMBOL_US * ack) * (ack > 0)
    exchange_us = SYMBOL_US * data_blocks.amax(1, keepdim=True) + answer_us + SIFS_US
    number = torch.arange(num_exchanges, device=device) + 1
    of_opportunity = (_TXOP_US // exchange_us).clamp(min=1)
    goes_on = links.opportunity[:, None] & (number % of_opportunity > 0)
    pause = torch.where(goes_on, SIFS_US, backoff + idle)
    # The sender waits for the answer before it gives up on the frame.
    pause = torch.where(answered | (ack == 0), pause, _ACK_TIMEOUT_US + pause)
    answer = SYMBOL_US * blocks + SIFS_US
    reserved_us = answer_us + (SIFS_US + SYMBOL_US * blocks.roll(-1, 1) + answer_us) * goes_on
    lasting = torch.where(answered, answer + SYMBOL_US * ack, SYMBOL_US * blocks) + pause
    start = lasting.cumsum(1) - lasting - (links.skipped * SYMBOL_US * blocks[:, 0]).long()[:, None]
    start_us, blocks = torch.stack([start, start + answer], -1), torch.stack([blocks, answered * ack], -1)
    if links.aligned:
        start_us += _DIFS_US
        whole = start_us + SYMBOL_US * blocks + _DIFS_US <= num_us
        # If a recording is too short for one whole packet, keep a part of it rather than nothing.
        blocks = blocks * (whole | ~whole[:, :1, :1])
    exchanges = Exchanges(links.length.gather(1, choice), start_us, blocks, reserved_us, torch.zeros_like(answered))
    if links.upward is not None and links.upward.any():  # whoever holds an opportunity begins all its exchanges
        turn = torch.where(links.opportunity[:, None], (number - 1) // of_opportunity, number - 1)
        chance = torch.rand(len(ack), num_exchanges, generator=generator, device=device).gather(1, turn)
        exchanges.upward = chance < links.upward[:, None]
        # With few packets, the station may send more by chance: the access point is whoever sends for longer.
        airtime = exchanges.airtime_us(num_us)
        exchanges.upward ^= (airtime[:, 1] > airtime[:, 0])[:, None]
    return exchanges

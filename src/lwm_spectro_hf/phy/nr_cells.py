"""What 5G NR cells transmit in downlink: the parameters of a batch of cells, and the resources that follow from them.

Clauses are of 3GPP TS 38.211 unless another one is named.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from .bits import table_on
from .nr_coding import MCS_TABLES, transport_block_size

SYMBOLS_PER_SLOT = 14
SSB_RB, SSB_BLOCKS, SSB_FIRST_SYMBOLS = 20, 8, (2, 8)  # cases A and C: two blocks per slot (TS 38.213, clause 4.1)
NO_SIB1 = 31  # k_SSB of a block without SIB1 (TS 38.213, clause 13)
TRACKING_SYMBOLS = (4, 8)
# Additional DMRS positions by last symbol + 1, mapping type A, single-symbol (table 7.4.1.1.2-3, with l_1 = 11).
_ADDITIONAL_DMRS = {
    1: {(8, 9): (7,), (10, 11, 12): (9,), (13, 14): (11,)},
    2: {(8, 9): (7,), (10, 11, 12): (6, 9), (13, 14): (7, 11)},
    3: {(8, 9): (7,), (10, 11): (6, 9), (12, 13, 14): (5, 8, 11)},
}


def _additional_dmrs_table() -> torch.Tensor:
    table = torch.zeros(4, SYMBOLS_PER_SLOT + 1, SYMBOLS_PER_SLOT, dtype=torch.bool)
    for count, positions in _ADDITIONAL_DMRS.items():
        for lengths, symbols in positions.items():
            for length in lengths:
                table[count, length, list(symbols)] = True
    return table


def mcs_entry(table: torch.Tensor, mcs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Modulation order (int64) and code rate (float64) of an MCS (TS 38.214, tables 5.1.3.1-1 and -2)."""
    order, rate = table_on(mcs.device, _mcs_entries)[table, mcs].unbind(-1)
    return order.long(), rate / 1024


def _mcs_entries() -> torch.Tensor:
    entries = torch.zeros(3, 32, 2, dtype=torch.float64)
    for number, rows in MCS_TABLES.items():
        entries[number, : len(rows)] = torch.tensor(rows, dtype=torch.float64)
    return entries


@dataclass(eq=False)
class Cells:
    """Downlink of a batch of cells on carriers of the same width.

    A field of shape `(batch,)` or `(batch, num_slots)` may be given as one number for all. `allocated` holds the
    resource blocks of one user's data. After construction it is reduced to what a scheduler can grant: no blocks
    outside the bandwidth part, in slots with too short a downlink, or where DMRS would collide with an SS/PBCH block;
    the rest is contiguous (allocation type 1) or cut to whole resource block groups (type 0).

    Attributes:
        num_rb (`int`): Resource blocks of the carrier.
        subcarrier_spacing_hz (`float`): 15e3 or 30e3 [Hz].
        num_slots (`int`): Length.
        cell_id (`torch.Tensor` of shape `(batch,)`): 0 to 1007. All tensors are on its device.
        first_slot (`torch.Tensor` of shape `(batch,)`): Number of the first slot, counted from system frame 0.
        downlink_symbols (`torch.Tensor` of shape `(batch, num_slots)`): Downlink symbols at the start of each slot.
        allocated (`torch.Tensor` of shape `(batch, num_slots, num_rb)`): Resource blocks of the PDSCH.
        rnti (`torch.Tensor` of shape `(batch,)`): The user's identity.
        mcs_table (`torch.Tensor` of shape `(batch,)`): 1 (to 64QAM) or 2 (to 256QAM).
        mcs (`torch.Tensor` of shape `(batch, num_slots)`): Modulation and coding scheme.
        bwp_start, bwp_size (`torch.Tensor` of shape `(batch,)`): Bandwidth part [resource blocks]; size 0 reaches to
            the end of the carrier.
        dmrs_position (`torch.Tensor` of shape `(batch,)`): dmrs-TypeA-Position, 2 or 3.
        dmrs_additional (`torch.Tensor` of shape `(batch,)`): dmrs-AdditionalPosition, 0 to 3.
        dmrs_port (`torch.Tensor` of shape `(batch,)`): Antenna port less 1000, 0 to 3; configuration type 1.
        cdm_groups (`torch.Tensor` of shape `(batch,)`): CDM groups without data, 1 or 2 (2 raises DMRS by 3 dB).
        control_symbols (`torch.Tensor` of shape `(batch,)`): Length of the CORESET, 1 to 3; the PDSCH follows it.
        coreset_groups (`torch.Tensor` of shape `(batch,)`): Its width in groups of 6 blocks, from the first whole
            group of the bandwidth part; 0 is the largest width.
        bundle_size (`torch.Tensor` of shape `(batch,)`): Resource element groups per bundle; used with interleaving.
        interleaver_rows (`torch.Tensor` of shape `(batch,)`): 2, 3 or 6; 0 is without interleaving, which is also used
            where bundles do not fill the interleaver.
        aggregation (`torch.Tensor` of shape `(batch,)`): Control channel elements of a message: 1, 2, 4, 8 or 16,
            lowered to what the CORESET holds.
        control_load (`torch.Tensor` of shape `(batch, num_slots)`): Share of the other places in the CORESET that
            carry messages for other users.
        ssb_blocks (`torch.Tensor` of shape `(batch, 8)`): ssb-PositionsInBurst.
        ssb_first_rb (`torch.Tensor` of shape `(batch,)`): Lowest resource block of the SS/PBCH blocks.
        ssb_half_frames (`torch.Tensor` of shape `(batch,)`): Their period: 1, 2, 4, ... [half frames of 5 ms].
        ssb_second_half (`torch.Tensor` of shape `(batch,)`): 1 puts them in the second half of a frame.
        ssb_maximum (`torch.Tensor` of shape `(batch,)`): L_max, 4 or 8, see [`most_ssb_blocks`].
        k_ssb (`torch.Tensor` of shape `(batch,)`): Subcarrier offset to the blocks, 0 to 23 [15 kHz], or 31: no SIB1.
        pdcch_config_sib1 (`torch.Tensor` of shape `(batch,)`): As in the MIB, 0 to 255.
        tracking (`torch.Tensor` of shape `(batch, num_slots)`): Slots with CSI-RS for tracking.
        tracking_offset (`torch.Tensor` of shape `(batch,)`): First subcarrier of their comb, 0 to 3.
        data_gain, control_gain, ssb_gain (`torch.Tensor` of shape `(batch,)`): Amplitude factors.
    """

    num_rb: int
    subcarrier_spacing_hz: float
    num_slots: int
    cell_id: torch.Tensor
    first_slot: torch.Tensor | int = 0
    downlink_symbols: torch.Tensor | int = SYMBOLS_PER_SLOT
    allocated: torch.Tensor | bool = True
    rnti: torch.Tensor | int = 1
    mcs_table: torch.Tensor | int = 1
    mcs: torch.Tensor | int = 10
    bwp_start: torch.Tensor | int = 0
    bwp_size: torch.Tensor | int = 0
    dmrs_position: torch.Tensor | int = 2
    dmrs_additional: torch.Tensor | int = 1
    dmrs_port: torch.Tensor | int = 0
    cdm_groups: torch.Tensor | int = 2
    control_symbols: torch.Tensor | int = 2
    coreset_groups: torch.Tensor | int = 0
    bundle_size: torch.Tensor | int = 6
    interleaver_rows: torch.Tensor | int = 0
    aggregation: torch.Tensor | int = 4
    control_load: torch.Tensor | float = 0.0
    ssb_blocks: torch.Tensor | bool = True
    ssb_first_rb: torch.Tensor | int = 0
    ssb_half_frames: torch.Tensor | int = 4
    ssb_second_half: torch.Tensor | int = 0
    ssb_maximum: torch.Tensor | int = 8
    k_ssb: torch.Tensor | int = NO_SIB1
    pdcch_config_sib1: torch.Tensor | int = 0
    tracking: torch.Tensor | bool = False
    tracking_offset: torch.Tensor | int = 0
    data_gain: torch.Tensor | float = 1.0
    control_gain: torch.Tensor | float = 1.0
    ssb_gain: torch.Tensor | float = 1.0

    def __post_init__(self):
        by_slot = {"downlink_symbols", "mcs", "control_load", "tracking"}
        shapes = {name: (self.batch_size, self.num_slots) for name in by_slot}
        shapes["allocated"] = (self.batch_size, self.num_slots, self.num_rb)
        shapes["ssb_blocks"] = (self.batch_size, SSB_BLOCKS)
        for name in list(self.__dataclass_fields__)[4:]:
            value = torch.as_tensor(getattr(self, name), device=self.cell_id.device)
            setattr(self, name, value.expand(shapes.get(name, (self.batch_size,))))
        self.bwp_size = torch.where(self.bwp_size == 0, self.num_rb - self.bwp_start, self.bwp_size)
        self._check()
        if self.num_rb < SSB_RB:
            self.ssb_blocks = torch.zeros_like(self.ssb_blocks)
        self.ssb_blocks = self.ssb_blocks & (
            torch.arange(SSB_BLOCKS, device=self.cell_id.device) < self.ssb_maximum[:, None]
        )
        fits = -(-self.bwp_start // 6) * 6  # the CORESET is made of whole groups of six common resource blocks
        whole_groups = (self.bwp_start + self.bwp_size - fits) // 6
        self.coreset_groups = torch.where(self.coreset_groups == 0, whole_groups, self.coreset_groups)
        self.coreset_groups = torch.minimum(self.coreset_groups, whole_groups)
        groups = 6 * self.coreset_groups * self.control_symbols
        full = groups % (self.bundle_size * self.interleaver_rows.clamp(min=1)) == 0
        self.interleaver_rows = torch.where(full, self.interleaver_rows, 0)
        most = 1 << self.control_elements.clamp(min=1).double().log2().long()
        self.aggregation = torch.minimum(self.aggregation, most)
        self.tracking = self.tracking & self._tracking_fits()
        self.allocated = self._grantable()

    def _check(self) -> None:
        def require(good: torch.Tensor, found: str) -> None:
            if not bool(good.all()):
                raise ValueError(f"{found}; row {int((~good).reshape(self.batch_size, -1).any(1).nonzero()[0])}.")

        if self.subcarrier_spacing_hz not in (15e3, 30e3):
            raise ValueError(f"subcarrier_spacing_hz must be 15e3 or 30e3, not {self.subcarrier_spacing_hz}.")
        require((self.cell_id >= 0) & (self.cell_id < 1008), "cell_id must be 0 to 1007")
        inside = (self.bwp_start >= 0) & (self.bwp_start + self.bwp_size <= self.num_rb) & (self.bwp_size > 0)
        require(inside, f"The bandwidth part must lie within {self.num_rb} resource blocks")
        lengths = torch.tensor([0] + [len(MCS_TABLES[number]) for number in (1, 2)], device=self.mcs.device)
        require((self.mcs >= 0) & (self.mcs < lengths[self.mcs_table][:, None]), "mcs is not in its table")
        require(
            (self.control_symbols >= 1) & (self.control_symbols <= self.dmrs_position),
            "control_symbols must be 1 to dmrs_position, so that DMRS come after the CORESET",
        )
        require((self.dmrs_port < 2) | (self.cdm_groups == 2), "dmrs_port 2 and 3 need two cdm_groups")
        bundles = (self.bundle_size == 6) | (self.bundle_size == torch.where(self.control_symbols == 3, 3, 2))
        require(bundles, "bundle_size must be 6, or 2 in a CORESET of one or two symbols, 3 of three")
        width = SSB_RB + (self.ssb_shift > 0)
        within = (self.ssb_first_rb >= 0) & (self.ssb_first_rb + width <= self.num_rb)
        require(within | (self.num_rb < SSB_RB), f"SS/PBCH blocks must lie within {self.num_rb} resource blocks")

    @property
    def batch_size(self) -> int:
        """Number of cells."""
        return len(self.cell_id)

    @property
    def slots_per_frame(self) -> int:
        """10 or 20."""
        return round(10 * self.subcarrier_spacing_hz / 15e3)

    @cached_property
    def slot_number(self) -> torch.Tensor:
        """Number of each slot within the 1024 frames, shape `(batch, num_slots)`."""
        slot = self.first_slot[:, None] + torch.arange(self.num_slots, device=self.cell_id.device)
        return slot % (1024 * self.slots_per_frame)

    @property
    def slot_in_frame(self) -> torch.Tensor:
        """Number of each slot within its frame, shape `(batch, num_slots)`."""
        return self.slot_number % self.slots_per_frame

    @property
    def coreset_first_rb(self) -> torch.Tensor:
        """Lowest resource block of the CORESET, shape `(batch,)`."""
        return -(-self.bwp_start // 6) * 6

    @property
    def control_elements(self) -> torch.Tensor:
        """Control channel elements of the CORESET, each of six groups of resource elements, shape `(batch,)`."""
        return self.coreset_groups * self.control_symbols

    @property
    def ssb_shift(self) -> torch.Tensor:
        """Subcarriers between the grid of resource blocks and the SS/PBCH blocks, shape `(batch,)`."""
        per_subcarrier = round(self.subcarrier_spacing_hz / 15e3)
        return torch.where(self.k_ssb < 24, self.k_ssb // per_subcarrier, 0)

    @cached_property
    def ssb_index(self) -> torch.Tensor:
        """Block index at both positions of each slot, -1 if none is sent, shape `(batch, num_slots, 2)`."""
        half = self.slots_per_frame // 2
        slot = (self.slot_number - half * self.ssb_second_half[:, None]) % (half * self.ssb_half_frames[:, None])
        index = 2 * slot[..., None] + torch.arange(2, device=slot.device)
        last = torch.tensor(SSB_FIRST_SYMBOLS, device=slot.device) + 4
        sent = (index < SSB_BLOCKS) & (self.downlink_symbols[..., None] >= last)
        sent &= self.ssb_blocks.gather(1, index.clamp(max=SSB_BLOCKS - 1).flatten(1)).view_as(sent)
        return torch.where(sent, index, -1)

    @cached_property
    def ssb_occupied(self) -> torch.Tensor:
        """Mask of symbols and resource blocks of SS/PBCH blocks, shape `(batch, num_slots, 14, num_rb)`, bool."""
        symbol = torch.arange(SYMBOLS_PER_SLOT, device=self.cell_id.device)
        rb = torch.arange(self.num_rb, device=self.cell_id.device)
        busy = torch.zeros(self.batch_size, self.num_slots, SYMBOLS_PER_SLOT, dtype=torch.bool, device=rb.device)
        for place, first in enumerate(SSB_FIRST_SYMBOLS):
            busy |= (self.ssb_index[..., place, None] >= 0) & (symbol >= first) & (symbol < first + 4)
        first_rb = self.ssb_first_rb[:, None]
        wide = (rb >= first_rb) & (rb < first_rb + SSB_RB + (self.ssb_shift > 0)[:, None])
        return busy[..., None] & wide[:, None, None]

    @cached_property
    def data_symbols(self) -> torch.Tensor:
        """Mask of symbols from the CORESET to the end of the downlink, shape `(batch, num_slots, 14)`, bool."""
        symbol = torch.arange(SYMBOLS_PER_SLOT, device=self.cell_id.device)
        return (symbol >= self.control_symbols[:, None, None]) & (symbol < self.downlink_symbols[..., None])

    @cached_property
    def dmrs_symbols(self) -> torch.Tensor:
        """Mask of symbols with DMRS of the PDSCH, if it is sent (clause 7.4.1.1.2), `(batch, num_slots, 14)`, bool."""
        table = table_on(self.cell_id.device, _additional_dmrs_table)
        additional = table[self.dmrs_additional[:, None], self.downlink_symbols]
        symbol = torch.arange(SYMBOLS_PER_SLOT, device=self.cell_id.device)
        return (additional | (symbol == self.dmrs_position[:, None, None])) & self.data_symbols

    def _tracking_fits(self) -> torch.Tensor:
        symbols = list(TRACKING_SYMBOLS)
        free = (self.downlink_symbols > symbols[-1]) & ~self.ssb_occupied.flatten(2).any(-1)
        return free & ~self.dmrs_symbols[..., symbols].any(-1)

    @cached_property
    def rb_groups(self) -> torch.Tensor:
        """Resource block group of each resource block within the bandwidth part, from 0; -1 outside.

        Size by configuration 1 (TS 38.214, clause 5.1.2.2.1); shape `(batch, num_rb)`.
        """
        limits = torch.tensor([36, 72, 144], device=self.cell_id.device)
        size = 2 << torch.searchsorted(limits, self.bwp_size)
        rb = torch.arange(self.num_rb, device=self.cell_id.device)
        group = rb // size[:, None] - (self.bwp_start // size)[:, None]
        start = self.bwp_start[:, None]
        return torch.where((rb >= start) & (rb < start + self.bwp_size[:, None]), group, -1)

    def _grantable(self) -> torch.Tensor:
        long_enough = self.data_symbols.sum(-1) >= 3
        long_enough &= self.downlink_symbols > self.dmrs_position[:, None]
        # A CORESET of three symbols would collide with the first SS/PBCH block of its slot: such slots have no data.
        first_symbol_free = self.ssb_index[..., 0] < 0
        long_enough &= first_symbol_free | (self.control_symbols[:, None] <= SSB_FIRST_SYMBOLS[0])
        inside = self.rb_groups >= 0
        blocked = (self.ssb_occupied & self.dmrs_symbols[..., None]).any(2)
        granted = self.allocated & long_enough[..., None] & inside[:, None] & ~blocked

        starts = torch.nn.functional.pad(granted, (1, 0))
        scattered = (starts[..., 1:] & ~starts[..., :-1]).sum(-1) > 1
        group = self.rb_groups.clamp(min=0)[:, None].expand_as(granted)
        missing = torch.zeros(granted.shape, dtype=torch.int64, device=granted.device)
        missing.scatter_add_(2, group, (inside[:, None] & ~granted).long())
        return granted & (~scattered[..., None] | (missing.gather(2, group) == 0))

    @property
    def tracking_elements(self) -> torch.Tensor:
        """Mask of the tracking reference signal's elements, shape `(batch, num_slots, 14, 12 * num_rb)`, bool."""
        subcarrier = torch.arange(12 * self.num_rb, device=self.cell_id.device)
        comb = (self.rb_groups >= 0).repeat_interleave(12, 1) & (subcarrier % 4 == self.tracking_offset[:, None])
        symbol = torch.zeros(SYMBOLS_PER_SLOT, dtype=torch.bool, device=subcarrier.device)
        symbol[list(TRACKING_SYMBOLS)] = True
        return self.tracking[..., None, None] & symbol[:, None] & comb[:, None, None]

    @cached_property
    def data_blocks(self) -> torch.Tensor:
        """How many elements of each block carry the PDSCH (clause 7.3.1.5), `(batch, num_slots, 14, num_rb)`, uint8.

        All 12; 6 where DMRS take every other one; 9 next to tracking signals; or none.
        """
        dmrs = self.dmrs_symbols
        per_symbol = torch.where(dmrs, torch.where(self.cdm_groups == 2, 0, 6)[:, None, None], 12)
        per_symbol = torch.where(self.data_symbols, per_symbol, 0).to(torch.uint8)
        symbols = list(TRACKING_SYMBOLS)
        per_symbol[..., symbols] -= 3 * (self.tracking[..., None] & self.data_symbols[..., symbols])
        return per_symbol[..., None] * (self.allocated[:, :, None] & ~self.ssb_occupied)

    @cached_property
    def data_counts(self) -> torch.Tensor:
        """How many elements of each symbol carry the PDSCH, shape `(batch, num_slots, 14)`."""
        return self.data_blocks.sum(-1)

    @property
    def num_elements(self) -> torch.Tensor:
        """How many resource elements the PDSCH has, shape `(batch, num_slots)`."""
        return self.data_counts.sum(-1)

    def block_sizes(self) -> torch.Tensor:
        """Transport block size of each slot, 0 without PDSCH (TS 38.214, clause 5.1.3.2), `(batch, num_slots)`."""
        order, rate = mcs_entry(self.mcs_table[:, None], self.mcs)
        overhead = 6 * self.cdm_groups[:, None] * self.dmrs_symbols.sum(-1)
        num_rb = self.allocated.sum(-1)
        size = transport_block_size(12 * self.data_symbols.sum(-1) - overhead, num_rb.clamp(min=1), rate, order)
        return torch.where(num_rb > 0, size, 0)

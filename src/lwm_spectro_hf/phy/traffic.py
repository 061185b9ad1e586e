"""How loaded a cell is: which resource blocks are scheduled when, and how grants encode them."""

import torch


def draw_allocation(batch_size: int, num_slots: int, num_rb: int, generator: torch.Generator) -> torch.Tensor:
    """Which resource blocks carry data in which scheduling interval: full, contiguous, scattered or idle cells.

    Args:
        batch_size (`int`): Rows; each draws how loaded it is.
        num_slots (`int`): Scheduling intervals (subframes of LTE, slots of NR).
        num_rb (`int`): Resource blocks.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `torch.Tensor` of shape `(batch, num_slots, num_rb)`, bool.
    """

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device)

    traffic = uniform(batch_size, 1, 1)
    activity = uniform(batch_size, 1, 1)  # share of the intervals that are used at all
    used = uniform(batch_size, num_slots, 1) < activity
    width = (uniform(batch_size, 1, 1) * (0.5 + 0.5 * uniform(batch_size, num_slots, 1)) * num_rb).ceil()
    # Half of the partly loaded cells keep their block in place, the others move it every interval.
    place = torch.where(uniform(batch_size, 1, 1) < 0.5, uniform(batch_size, 1, 1), uniform(batch_size, num_slots, 1))
    first = (place * (num_rb - width + 1)).floor()
    rb = torch.arange(num_rb, device=generator.device)
    contiguous = (rb >= first) & (rb < first + width) & used
    group = max(1, num_rb // 12)
    scattered_groups = uniform(batch_size, num_slots, num_rb // group + 1) < activity
    scattered = scattered_groups.repeat_interleave(group, -1)[..., :num_rb] & used
    full = torch.ones_like(contiguous)
    idle = torch.zeros_like(contiguous)
    return torch.where(
        traffic < 0.3, full, torch.where(traffic < 0.7, contiguous, torch.where(traffic < 0.85, scattered, idle))
    )


def resource_indication(start: torch.Tensor, length: torch.Tensor, size: torch.Tensor | int) -> torch.Tensor:
    """Indication value by which grants encode a run of resource blocks (TS 36.213, 7.1.6.3; TS 38.214, 5.1.2.2.2).

    Args:
        start, length (`torch.Tensor` of shape `(batch,)`): First block and number of blocks.
        size (`torch.Tensor` of shape `(batch,)` or `int`): Blocks of the carrier or bandwidth part.

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    short = length - 1 <= size // 2
    return torch.where(short, size * (length - 1) + start, size * (size - length + 1) + size - 1 - start)


def search_space_powers(count: int) -> torch.Tensor:
    """Factors, modulo 65,537, of an RNTI in each of `count` subframes or slots, which place its messages.

    TS 36.213, clause 9.1.1; TS 38.213, clause 10.1, for CORESETs whose number is 0 modulo 3.
    """
    return torch.tensor([pow(39827, number + 1, 65537) for number in range(count)])


def decibels(batch_size: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Random amplitude factors, uniform in dB between `low` and `high`, shape `(batch, 1, 1)`."""
    draws = torch.rand(batch_size, 1, 1, generator=generator, device=generator.device)
    return 10 ** ((low + (high - low) * draws) / 20)

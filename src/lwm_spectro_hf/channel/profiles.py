"""Power-delay profiles: delays and powers of the taps of a channel (paper, eq. 5)."""

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch

_TDL_DIRECT_SHIFT = 0.7  # TR 38.901, clause 7.7.2


@dataclass
class PowerDelayProfile:
    """Delays and mean powers of the taps of a batch of channels.

    Attributes:
        delays_s (`torch.Tensor` of shape `(batch, num_taps)`): Delays, not rounded to samples [s].
        powers (`torch.Tensor` of shape `(batch, num_taps)`): Mean tap powers, summing to one; zero for taps that a
            channel does not have.
        rician_k (`torch.Tensor` of shape `(batch,)`): K factor of the first tap, linear; zero is Rayleigh.
        direct_shift (`torch.Tensor` of shape `(batch,)`, *optional*): Doppler shift of the direct wave of that tap,
            relative to the largest one. If it is NaN or not given, the wave comes from a random direction.
    """

    delays_s: torch.Tensor
    powers: torch.Tensor
    rician_k: torch.Tensor
    direct_shift: torch.Tensor | None = None


def exponential_profile(
    delay_spread_s: torch.Tensor, rician_k: torch.Tensor, generator: torch.Generator, num_taps: int = 12
) -> PowerDelayProfile:
    """Taps at random delays whose mean profile decays exponentially, each with 3 dB of shadowing.

    Args:
        delay_spread_s (`torch.Tensor` of shape `(batch,)`): RMS delay spread of the profile averaged over many
            channels, without aligning their first taps; that of a single channel, with few taps, is lower on average
            [s].
        rician_k (`torch.Tensor` of shape `(batch,)`): K factor of the first tap, linear.
        generator (`torch.Generator`): Source of randomness, on the device of the tensors.
        num_taps (`int`, *optional*, defaults to 12): Taps.

    Returns:
        [`PowerDelayProfile`], sorted by delay; the first tap arrives at zero.
    """
    shape = (len(delay_spread_s), num_taps)
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    # Equal-power taps at exponentially distributed delays have an exponential profile on average. The longest fiftieth
    # of the delays is cut off, and the rest scaled to have the requested standard deviation.
    kept = 0.98
    deviation = math.sqrt(1 - (1 - kept) * (math.log1p(-kept) / kept) ** 2)
    delays = -torch.log1p(-kept * uniform) * (delay_spread_s / deviation)[:, None]
    delays = (delays - delays.min(1, keepdim=True).values).sort(1).values
    powers = 10 ** (0.3 * torch.randn(shape, generator=generator, device=generator.device))
    return PowerDelayProfile(delays, powers / powers.sum(1, keepdim=True), rician_k)


@cache
def _tables() -> dict[str, dict[str, list[float]]]:
    return json.loads(resources.files(__package__).joinpath("tables", "tdl.json").read_text(encoding="utf-8"))


def tdl_profile(name: str, delay_spread_s: torch.Tensor) -> PowerDelayProfile:
    """The 3GPP tapped-delay-line profiles (TR 38.901, tables 7.7.2-1 to 7.7.2-5), delays scaled as in clause 7.7.3.

    Args:
        name (`str`): "A", "B", "C" (no line of sight), "D" or "E" (line of sight, K of 13.3 and 22 dB).
        delay_spread_s (`torch.Tensor` of shape `(batch,)`): RMS delay spread [s].

    Returns:
        [`PowerDelayProfile`] on the device of the delay spreads.

    Raises:
        ValueError: For a profile that the report does not have.
    """
    if name not in _tables():
        raise ValueError(f"Unknown TDL profile {name!r}; expected one of {', '.join(_tables())}.")
    delays, powers_db = (delay_spread_s.new_tensor(_tables()[name][row]) for row in ("delays", "powers_db"))
    powers = 10 ** (powers_db / 10)
    rician_k, direct_shift = torch.zeros_like(delay_spread_s), None
    if delays[1] == delays[0]:  # D and E list the direct path and the scattered part of their first tap as two rows
        rician_k = rician_k + powers[0] / powers[1]
        powers = torch.cat([powers[:2].sum(0, keepdim=True), powers[2:]])
        delays = delays[1:]
        direct_shift = torch.full_like(delay_spread_s, _TDL_DIRECT_SHIFT)
    powers = (powers / powers.sum()).expand(len(delay_spread_s), -1)
    return PowerDelayProfile(delays * delay_spread_s[:, None], powers, rician_k, direct_shift)

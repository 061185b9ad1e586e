"""Power-delay profiles: how late and how strong the taps of a channel arrive (paper, eq. 5)."""

from dataclasses import dataclass

import torch


@dataclass
class PowerDelayProfile:
    """Delays and mean powers of the taps of a batch of channels.

    Attributes:
        delays_s (`torch.Tensor` of shape `(batch, num_taps)`): Delays, continuous: nothing is rounded to samples [s].
        powers (`torch.Tensor` of shape `(batch, num_taps)`): Mean tap powers, summing to one; a tap that a channel
            does not have is zero.
        rician_k (`torch.Tensor` of shape `(batch,)`): K factor of the first tap, linear; zero is Rayleigh.
    """

    delays_s: torch.Tensor
    powers: torch.Tensor
    rician_k: torch.Tensor

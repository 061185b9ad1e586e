"""What leaves a transmitter: samples at the native rate of a carrier, and what is known about them."""

from dataclasses import dataclass, field

import torch

from .ofdm import Numerology


@dataclass
class Waveform:
    """Transmissions of a batch of senders with one carrier configuration, before the channel.

    Attributes:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex baseband at `numerology.sampling_rate`,
            complex64. The DFT is unitary: a resource element of power one adds `1 / fft_size` to the mean power.
        numerology ([`Numerology`]): Rate and subcarriers.
        element_power (`torch.Tensor` of shape `(batch,)`): Mean power of the resource elements in use. Divided by the
            SNR in the occupied band, it is the noise variance of a sample. One where nothing is sent.
        symbol_start (`torch.Tensor` of shape `(batch, num_symbols)`, int64): First useful sample, after the cyclic
            prefix, of each OFDM symbol; outside of the timeline for symbols that it does not hold.
        occupancy (`torch.Tensor` of shape `(batch,)`): Mean power over all resource elements of the timeline, gaps
            included, over `element_power`.
        data_share (`torch.Tensor` of shape `(batch,)`): Share of all those resource elements that carry user data.
        modulation (`torch.Tensor` of shape `(batch,)`, int64): Index into the protocol's `MODULATIONS`.
        code_rate (`torch.Tensor` of shape `(batch,)`): Information bits over coded bits of the user's data.
        parameters (`dict[str, torch.Tensor]`): By name, one number per row: what a receiver of that standard is told
            or finds, for instance `cell_id` and `rnti`.
        answers (`torch.Tensor` of shape `(batch, num_samples)`, *optional*): What other stations send in between, with
            the same power; they have channels of their own.
    """

    samples: torch.Tensor
    numerology: Numerology
    element_power: torch.Tensor
    symbol_start: torch.Tensor
    occupancy: torch.Tensor
    data_share: torch.Tensor
    modulation: torch.Tensor
    code_rate: torch.Tensor
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    answers: torch.Tensor | None = None

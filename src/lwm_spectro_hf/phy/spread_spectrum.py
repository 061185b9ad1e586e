"""WiFi before OFDM: 802.11b, whose packets, including most beacons at 2.4 GHz, begin with Barker's sequence."""

from functools import cache

import torch

from .ofdm import squared_modulus
from .synchronization import EVIDENCE

BARKER = (1, -1, 1, 1, -1, 1, 1, 1, -1, -1, -1)  # IEEE 802.11-2020, 15.4.4.4
SYMBOL_S = 1e-6  # of eleven chips
_BLOCK = 96  # symbols that are combined: the shorter of the two preambles, with its header
_CHIP_SAMPLES = 40  # per chip, before the band is limited to that of a recording
# Peak of the folded power over its mean at which the evidence is zero, and its slope [nats]. Of 20 ms of noise and
# other signals of `benchmarks/other_signals.py`, and of 80 generated recordings of WiFi, LTE and 5G, none is above
# 1.6; of 802.11b at -5 dB SNR in the whole band, none is below 2.7.
_PEAK, _SLOPE = 2.0, 6.0


def spreading_evidence(iq: torch.Tensor, sampling_rate: float) -> torch.Tensor:
    """Evidence of packets of direct-sequence spread spectrum (IEEE 802.11-2020, clauses 15 and 16).

    Preamble and header have Barker's sequence in each symbol of a microsecond, whatever the rate of what follows. The
    output of the matched filter peaks at one position within the symbol, the same from symbol to symbol.

    Args:
        iq (`torch.Tensor` of shape `(batch, num_samples)`): Recordings from [`~phy.synchronization.equally_loud`].
        sampling_rate (`float`): A whole number of megahertz, five or more [Hz].

    Returns:
        `torch.Tensor` of shape `(batch,)`: Log-likelihood ratio of the recording with such packets to the one without,
        between -2 and 6; 0 if it is too short to tell.

    Raises:
        ValueError: If the rate is not such a number.
    """
    period = round(SYMBOL_S * sampling_rate)
    if period < 5 or period != SYMBOL_S * sampling_rate:
        raise ValueError(
            f"`sampling_rate={sampling_rate:g}` is not usable. Expected a whole number of MHz, at least 5."
        )
    length = _BLOCK // 2 * period
    if iq.shape[1] < 2 * length:
        return torch.zeros(len(iq), device=iq.device)
    pieces = iq[:, : iq.shape[1] // length * length].unflatten(1, (-1, length))
    matched = torch.fft.fft(_barker(period).to(iq.device), n=length).conj()
    power = squared_modulus(torch.fft.ifft(torch.fft.fft(pieces) * matched))
    symbols = power.unflatten(2, (-1, period))
    # Normalize each symbol: in a short burst of something else, a few loud ones would dominate the mean.
    folded = (symbols / symbols.mean(3, keepdim=True).clamp(min=1e-30)).mean(2)
    peak = (folded[:, :-1] + folded[:, 1:]).amax((1, 2)) / 2
    return (_SLOPE * (peak - _PEAK)).clamp(*EVIDENCE)


@cache
def _barker(period: int) -> torch.Tensor:
    """A symbol of rectangular chips, limited to the band of the recording, `(period,)`."""
    chips = torch.tensor(BARKER, dtype=torch.float32).repeat_interleave(_CHIP_SAMPLES)
    around = torch.arange(period) - period // 2
    band = torch.fft.fftshift(torch.fft.fft(chips))[len(chips) // 2 + around]
    return torch.fft.ifft(torch.fft.ifftshift(band))

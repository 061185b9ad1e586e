"""Tapped-delay-line fading (paper, eq. 5 and 6): closed-form frequency response of moving, multipath channels."""

from dataclasses import dataclass

import torch

SPEED_OF_LIGHT_MPS = 299_792_458.0
NUM_SINUSOIDS = 16  # fewer than a dozen, and a tap's modulus no longer fades


@dataclass
class TappedDelayLine:
    """A batch of fading channels, each a sum of taps with a Jakes Doppler spectrum (TR 38.901, clause 7.7.3).

    Attributes:
        delays_s (`torch.Tensor` of shape `(batch, num_taps)`): Delays, continuous: nothing is rounded to samples [s].
        powers (`torch.Tensor` of shape `(batch, num_taps)`): Mean tap powers, summing to one.
        doppler_hz (`torch.Tensor` of shape `(batch,)`): Largest Doppler shift, speed over wavelength [Hz].
        rician_k (`torch.Tensor` of shape `(batch,)`): Linear K factor of the first tap; zero is Rayleigh.
        angles (`torch.Tensor` of shape `(batch, num_taps, num_sinusoids)`): Angles of the scattered waves [rad].
        phases (`torch.Tensor` of the same shape): Their phases [rad].
        line_of_sight (`torch.Tensor` of shape `(batch, 2)`): Angle and phase of the direct wave [rad].
    """

    delays_s: torch.Tensor
    powers: torch.Tensor
    doppler_hz: torch.Tensor
    rician_k: torch.Tensor
    angles: torch.Tensor
    phases: torch.Tensor
    line_of_sight: torch.Tensor

    @classmethod
    def draw(
        cls,
        delay_spread_s: torch.Tensor,
        doppler_hz: torch.Tensor,
        rician_k: torch.Tensor,
        generator: torch.Generator,
        num_taps: int = 12,
    ) -> "TappedDelayLine":
        """Channels with an exponential power-delay profile of the given root-mean-square delay spread.

        Args:
            delay_spread_s (`torch.Tensor` of shape `(batch,)`): RMS delay spread [s].
            doppler_hz (`torch.Tensor` of shape `(batch,)`): Largest Doppler shift [Hz].
            rician_k (`torch.Tensor` of shape `(batch,)`): K factor of the first tap, linear.
            generator (`torch.Generator`): Source of randomness.
            num_taps (`int`, *optional*, defaults to 12): Taps.
        """
        batch_size = len(delay_spread_s)

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=generator)

        # Equal-power taps at exponentially distributed delays have that profile in the mean.
        delays = -torch.log1p(-0.98 * uniform(batch_size, num_taps)) * delay_spread_s[:, None]
        delays = (delays - delays.min(1, keepdim=True).values).sort(1).values
        powers = 10 ** (0.3 * torch.randn(batch_size, num_taps, generator=generator))
        powers = powers / powers.sum(1, keepdim=True)
        angle = 2 * torch.pi * uniform(batch_size, num_taps, NUM_SINUSOIDS)
        phase = 2 * torch.pi * uniform(batch_size, num_taps, NUM_SINUSOIDS)
        return cls(delays, powers, doppler_hz, rician_k, angle, phase, 2 * torch.pi * uniform(batch_size, 2))

    def tap_gains(self, times_s: torch.Tensor) -> torch.Tensor:
        """h_l(t) = sqrt(p_l) alpha_l(t) (eq. 6).

        Args:
            times_s (`torch.Tensor` of shape `(batch, num_times)`): Instants [s].

        Returns:
            `torch.Tensor` of shape `(batch, num_taps, num_times)`, complex64.
        """
        turn = 2 * torch.pi * self.doppler_hz[:, None, None] * times_s[:, None, :]
        gains = torch.zeros(*self.powers.shape, times_s.shape[1], dtype=torch.complex64)
        for sinusoid in range(self.angles.shape[-1]):
            phase = turn * self.angles[..., sinusoid, None].cos() + self.phases[..., sinusoid, None]
            gains += torch.polar(torch.ones_like(phase), phase)
        gains *= (self.powers / self.angles.shape[-1]).sqrt()[..., None]
        direct_phase = turn[:, 0] * self.line_of_sight[:, :1].cos() + self.line_of_sight[:, 1:]
        k = self.rician_k[:, None]
        direct = torch.polar((self.powers[:, :1] * k / (k + 1)).sqrt().expand_as(direct_phase), direct_phase)
        gains[:, 0] = gains[:, 0] / (k + 1).sqrt() + direct
        return gains

    def frequency_response(self, times_s: torch.Tensor, frequencies_hz: torch.Tensor) -> torch.Tensor:
        """H(t, f), the sum over taps of h_l(t) exp(-j 2 pi f tau_l).

        Multiplying a resource grid by it is exact as long as delays stay within the cyclic prefix and the channel is
        constant over a symbol; at 500 Hz of Doppler and 15 kHz spacing the interference left out is 34 dB down.

        Args:
            times_s (`torch.Tensor` of shape `(batch, num_times)`): Instants [s].
            frequencies_hz (`torch.Tensor` of shape `(num_frequencies,)`): Baseband frequencies [Hz].

        Returns:
            `torch.Tensor` of shape `(batch, num_times, num_frequencies)`, complex64.
        """
        rotation = -2 * torch.pi * self.delays_s[..., None] * frequencies_hz
        return self.tap_gains(times_s).mT @ torch.polar(torch.ones_like(rotation), rotation)

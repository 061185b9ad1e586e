"""Tapped-delay-line fading (paper, eq. 5 and 6): moving multipath channels, applied to samples."""

import math
from dataclasses import dataclass

import torch

from ..phy.ofdm import band_edge
from .filtering import Blocks, filter_blocks
from .profiles import PowerDelayProfile

SPEED_OF_LIGHT_MPS = 299_792_458.0
NUM_SINUSOIDS = 33  # with 12 or fewer, a tap's modulus hardly fades; odd, or waves come in pairs of opposite shifts


@dataclass
class TappedDelayLine:
    """A batch of fading channels, each a sum of taps with a Jakes Doppler spectrum (TR 38.901, clause 7.7.2).

    Attributes:
        profile ([`PowerDelayProfile`]): Delays, mean powers and K factor.
        doppler_hz (`torch.Tensor` of shape `(batch,)`): Largest Doppler shift, speed over wavelength [Hz].
        angles (`torch.Tensor` of shape `(batch, num_taps, num_sinusoids)`): Angles of the scattered waves [rad].
        phases (`torch.Tensor` of the same shape): Their phases [rad].
        line_of_sight (`torch.Tensor` of shape `(batch, 2)`): Angle and phase of the direct wave [rad].
    """

    profile: PowerDelayProfile
    doppler_hz: torch.Tensor
    angles: torch.Tensor
    phases: torch.Tensor
    line_of_sight: torch.Tensor

    @classmethod
    def draw(
        cls, profile: PowerDelayProfile, doppler_hz: torch.Tensor, generator: torch.Generator
    ) -> "TappedDelayLine":
        """Draw the waves behind each tap.

        Args:
            profile ([`PowerDelayProfile`]): Delays, mean powers and K factor.
            doppler_hz (`torch.Tensor` of shape `(batch,)`): Largest Doppler shift [Hz].
            generator (`torch.Generator`): Source of randomness, on the device of the tensors.
        """
        batch_size, num_taps = profile.powers.shape

        def turns(*shape: int) -> torch.Tensor:
            return torch.rand(batch_size, *shape, generator=generator, device=generator.device)

        # Evenly spaced directions, rotated at random: the autocorrelation of each single tap is J0 except for terms
        # from J_33 on, which are negligible within its first few zeros.
        angles = torch.arange(NUM_SINUSOIDS, device=generator.device) / NUM_SINUSOIDS + turns(num_taps, 1)
        phases = turns(num_taps, NUM_SINUSOIDS)
        line_of_sight = 2 * torch.pi * turns(2)
        if profile.direct_shift is not None:
            given = profile.direct_shift.acos()
            line_of_sight[:, 0] = torch.where(given.isnan(), line_of_sight[:, 0], given)
        return cls(profile, doppler_hz, 2 * torch.pi * angles, 2 * torch.pi * phases, line_of_sight)

    def tap_gains(self, times_s: torch.Tensor) -> torch.Tensor:
        """h_l(t) = sqrt(p_l) alpha_l(t) (eq. 6).

        Args:
            times_s (`torch.Tensor` of shape `(batch, num_times)`): Instants [s].

        Returns:
            `torch.Tensor` of shape `(batch, num_taps, num_times)`, complex64.
        """
        return self._tap_gains(times_s, slice(None))

    def _tap_gains(self, times_s: torch.Tensor, rows: slice) -> torch.Tensor:
        turn = (2 * torch.pi * self.doppler_hz[rows, None] * times_s).to(self.doppler_hz.dtype)
        phase = self.angles[rows].cos()[..., None] * turn[:, None, None] + self.phases[rows, ..., None]
        gains = torch.complex(phase.cos().sum(2), phase.sin().sum(2))
        powers, k = self.profile.powers[rows], self.profile.rician_k[rows, None]
        gains *= (powers / NUM_SINUSOIDS).sqrt()[..., None]
        direct_phase = self.line_of_sight[rows, :1].cos() * turn + self.line_of_sight[rows, 1:]
        direct = torch.polar((powers[:, :1] * k / (k + 1)).sqrt().expand_as(direct_phase), direct_phase)
        gains[:, 0] = gains[:, 0] / (k + 1).sqrt() + direct
        return gains

    def apply(self, samples: torch.Tensor, sampling_rate: float, start_s: float = 0.0) -> torch.Tensor:
        """y(t), the sum over taps of h_l(t) x(t - tau_l).

        Fractional delays are exact within 0.94 of the band; toward its edge, where no carrier has subcarriers, the
        response falls to zero. Gains are interpolated between nodes close enough for an error 45 dB below the signal.

        Args:
            samples (`torch.Tensor` of shape `(batch, num_samples)`): Transmitted signal, complex64; zero outside.
            sampling_rate (`float`): [Hz].
            start_s (`float`, *optional*, defaults to 0): Time of the first sample [s].

        Returns:
            `torch.Tensor` of shape `(batch, num_samples)`, complex64: the received signal over the same time.

        Raises:
            ValueError: If the number of recordings is not the number of channels.
        """
        if samples.ndim != 2 or len(samples) != len(self.doppler_hz):
            raise ValueError(
                f"Samples of shape {tuple(samples.shape)} cannot go through {len(self.doppler_hz)} channels; expected "
                f"({len(self.doppler_hz)}, num_samples), one row per channel."
            )
        delays = self.profile.delays_s * sampling_rate
        # The two numbers that shapes depend on, in one transfer from the device.
        longest, doppler = torch.stack([delays.max(), self.doppler_hz.max().to(delays.dtype)]).tolist()
        blocks = Blocks.plan(samples.shape[1], longest, 0, 2 * math.pi * doppler / sampling_rate)
        times = start_s + blocks.nodes(samples.device)[None].double() / sampling_rate
        bins = blocks.bins(samples.device)
        edge = band_edge(bins)  # a fractional delay is undefined at half the sampling rate

        def response(rows: slice) -> torch.Tensor:
            rotation = 2 * torch.pi * delays[rows, :, None] * bins
            real, imaginary = rotation.cos() * edge, rotation.sin() * -edge
            # Complex products as real ones, [re, im] @ [[re, im], [-im, re]]: several times faster on a CPU.
            ramps = (
                torch.stack([real, imaginary, -imaginary, real], 2).unflatten(2, (2, 2)).mT.flatten(3).flatten(1, 2)
            )
            gains = torch.view_as_real(self._tap_gains(times, rows).mT).flatten(2)
            return torch.view_as_complex((gains @ ramps).unflatten(2, (-1, 2)))

        return filter_blocks(samples, blocks, response)

"""Views of a spectrogram that leave its labels as they are."""

import torch


def augment(input_values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn each spectrogram round in time by a random number of frames, and mirror half of them in frequency.

    Recordings begin anywhere, and a mirrored one is that of the complex conjugate samples.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms, on any
            device.
        generator (`torch.Generator`): What is drawn comes from it.

    Returns:
        `torch.Tensor` of the same shape, a copy.
    """
    batch, _, num_frames, num_bins = input_values.shape
    device = input_values.device
    mirrored = (torch.rand(batch, generator=generator, device=generator.device) < 0.5).to(device)
    shift = torch.randint(num_frames, (batch, 1), generator=generator, device=generator.device).to(device)
    # DC is the bin right of the middle of an even number, so the mirror image is one bin to the right.
    mirror = input_values.flip(-1).roll(1 - num_bins % 2, -1)
    values = torch.where(mirrored[:, None, None, None], mirror, input_values)
    frames = (torch.arange(num_frames, device=device) + shift) % num_frames
    return values.gather(2, frames[:, None, :, None].expand_as(values))

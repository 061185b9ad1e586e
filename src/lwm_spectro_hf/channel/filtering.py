"""Time-varying linear filters by block FFTs, for fading taps and drifting clocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

TAIL = 32  # samples after which a fractional delay has decayed to 65 dB below a signal that fills the band

# A wave that turns by this angle [rad] between two nodes is interpolated linearly with a relative error power of
# angle^4 / 120: 45.7 dB below the wave. Waves that turn less, as scattered ones do, have smaller errors.
_NODE_ANGLE = 0.24
_SIZES = sorted(size * 3**i for size in (2**k for k in range(6, 20)) for i in (0, 1))
_CPU_SAMPLES = 2**17  # of a chunk, so that the working set stays in the cache
_DEVICE_SAMPLES = 2**26


@dataclass(frozen=True)
class Blocks:
    """How a recording is cut into blocks for overlap-save filtering.

    Attributes:
        fft_size (`int`): Input samples of a block.
        hop (`int`): Output samples of a block.
        before (`int`): Input samples of a block before its first output sample.
        num_blocks (`int`): Blocks that cover the recording.
        changes (`bool`): Whether the filter varies with time.
    """

    fft_size: int
    hop: int
    before: int
    num_blocks: int
    changes: bool

    @classmethod
    def plan(cls, num_samples: int, past: float, future: float, turn: float) -> "Blocks":
        """Choose the blocks that cost least.

        Args:
            num_samples (`int`): Length of the recording.
            past (`float`): Longest delay [samples].
            future (`float`): Longest advance [samples].
            turn (`float`): Fastest rotation of the response; zero if it is constant [rad per sample].
        """
        overlap = math.ceil(past) + math.ceil(future) + 2 * TAIL
        longest_hop = max(1, int(min(num_samples, _NODE_ANGLE / turn if turn else math.inf)))

        def hop(size: int) -> int:
            return min(size - overlap, longest_hop)

        def cost(size: int) -> float:  # of the FFTs, of the work per bin and block, and of the work per bin
            return -(-num_samples // hop(size)) * size * (3 * math.log2(size) + 30) + 200 * size

        size = min((size for size in _SIZES if size > overlap), key=cost)
        return cls(size, hop(size), math.ceil(past) + TAIL, -(-num_samples // hop(size)), turn > 0)

    def nodes(self, device: torch.device) -> torch.Tensor:
        """Samples at which responses are needed: the first of each block and one past the last; one if constant."""
        return self.hop * torch.arange(self.num_blocks + 1 if self.changes else 1, device=device)

    def bins(self, device: torch.device) -> torch.Tensor:
        """Frequencies of the bins in cycles per sample, shape `(fft_size,)`."""
        return torch.fft.fftfreq(self.fft_size, device=device)


def filter_blocks(samples: torch.Tensor, blocks: Blocks, response: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """Filter recordings with a frequency response that is interpolated linearly in time between nodes.

    Each block is filtered with the responses at its own first sample and at that of the next block, and the output
    cross-fades from one to the other.

    Args:
        samples (`torch.Tensor` of shape `(batch, num_samples)`): Complex64; taken as zero outside.
        blocks ([`Blocks`]): How to cut the recordings.
        response (`Callable`): For a slice of rows, the responses at the nodes, complex64 of shape
            `(rows, num_nodes, fft_size)`.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`, complex64.
    """
    batch_size, num_samples = samples.shape
    size, hop, before = blocks.fft_size, blocks.hop, blocks.before
    padding = (before, blocks.num_blocks * hop - num_samples + size - hop - before)
    fade = (torch.arange(hop, device=samples.device) / hop).repeat_interleave(2)
    budget = _CPU_SAMPLES if samples.device.type == "cpu" else _DEVICE_SAMPLES
    rows = max(1, budget // (blocks.num_blocks * size))

    def filtered(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.fft.ifft(spectrum)[..., before : before + hop]).flatten(-2)

    output = samples.new_empty(batch_size, blocks.num_blocks, 2 * hop, dtype=torch.float32)
    for first in range(0, batch_size, rows):
        chunk = slice(first, first + rows)
        spectrum = torch.fft.fft(torch.nn.functional.pad(samples[chunk], padding).unfold(1, size, hop))
        responses = response(chunk)
        if blocks.changes:
            start = filtered(spectrum * responses[:, :-1])
            torch.lerp(start, filtered(spectrum.mul_(responses[:, 1:])), fade, out=output[chunk])
        else:
            output[chunk] = filtered(spectrum.mul_(responses))
    return torch.view_as_complex(output.unflatten(-1, (hop, 2))).flatten(1)[:, :num_samples]

"""OFDM modulation of resource grids, batched (paper, eq. 4 with the inverse DFT as the pulse-shaping bank)."""

from dataclasses import dataclass

import torch

# Usual DFT sizes of cells: powers of two, and three quarters of them.
_FFT_SIZES = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
FULL_BAND = 0.94  # largest share of the band that a carrier occupies; channels are exact up to here


def band_edge(frequencies: torch.Tensor) -> torch.Tensor:
    """Filter that removes the band edges: one within `FULL_BAND`, falling smoothly to zero at half the sampling rate.

    Args:
        frequencies (`torch.Tensor` of any shape): In cycles per sample.

    Returns:
        `torch.Tensor` of that shape: the amplitude response.
    """
    beyond = ((2 * frequencies.abs() - FULL_BAND) / (1 - FULL_BAND)).clamp(0, 1)
    return torch.cos(torch.pi / 2 * beyond).square()


def squared_modulus(values: torch.Tensor) -> torch.Tensor:
    """|z|² of complex values of any shape. `abs`, or a sum over pairs, would take four times as long."""
    return (values * values.conj()).real


def fft_sizes(num_subcarriers: float) -> list[int]:
    """Usual DFT sizes that hold this many subcarriers and leave room at the band edges, the smallest first."""
    return [size for size in _FFT_SIZES if FULL_BAND * size >= num_subcarriers]


@dataclass(frozen=True)
class Numerology:
    """How a resource grid becomes samples.

    Attributes:
        sampling_rate (`float`): Native rate, `fft_size * subcarrier_spacing_hz` [Hz].
        subcarrier_spacing_hz (`float`): Distance of neighboring subcarriers [Hz].
        fft_size (`int`): Samples of the useful symbol.
        dc_used (`bool`): Whether the subcarrier at zero frequency carries a symbol (5G) or stays empty (LTE, WiFi).
    """

    sampling_rate: float
    subcarrier_spacing_hz: float
    fft_size: int
    dc_used: bool

    def bins(self, num_subcarriers: int) -> torch.Tensor:
        """FFT bin, negative below DC, of each subcarrier from the lowest frequency up, shape `(num_subcarriers,)`."""
        index = torch.arange(num_subcarriers) - num_subcarriers // 2
        return index if self.dc_used else index + (index >= 0)


def symbols_to_samples(grid: torch.Tensor, numerology: Numerology) -> torch.Tensor:
    """Inverse DFT of every OFDM symbol, without cyclic prefix. Unitary: bins and samples have the same total power.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_symbols, num_subcarriers)`): Lowest frequency first.
        numerology (`Numerology`): The mapping of subcarriers to bins.

    Returns:
        `torch.Tensor` of shape `(batch, num_symbols, fft_size)`, complex64.
    """
    num_subcarriers = grid.shape[-1]
    if num_subcarriers >= numerology.fft_size + numerology.dc_used:
        raise ValueError(f"{num_subcarriers} subcarriers do not fit into a DFT of {numerology.fft_size} points.")
    half = num_subcarriers // 2  # below the carrier frequency
    first = 0 if numerology.dc_used else 1
    spectrum = grid.new_zeros(*grid.shape[:-1], numerology.fft_size)
    spectrum[..., first : first + num_subcarriers - half] = grid[..., half:]
    spectrum[..., numerology.fft_size - half :] = grid[..., :half]
    return torch.fft.ifft(spectrum, norm="ortho")


def modulate(
    grid: torch.Tensor, numerology: Numerology, cyclic_prefix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Modulate a resource grid to baseband samples with cyclic prefixes.

    Args:
        grid (`torch.Tensor` of shape `(batch, num_symbols, num_subcarriers)`): Lowest frequency first.
        numerology (`Numerology`): Mapping and rate.
        cyclic_prefix (`torch.Tensor` of shape `(num_symbols,)`, int64): Prefix of each symbol [samples].

    Returns:
        `tuple`: samples `(batch, num_samples)` and the first useful sample of each symbol, `(num_symbols,)`.
    """
    useful, size = symbols_to_samples(grid, numerology), numerology.fft_size
    ends = torch.cumsum(cyclic_prefix + size, 0)
    samples = useful.new_empty(len(grid), int(ends[-1]))
    # Copy runs of symbols up to the next with a longer prefix: many times faster than one by one.
    prefixes = cyclic_prefix.tolist()
    short = min(prefixes)
    firsts = [symbol for symbol, prefix in enumerate(prefixes) if prefix > short or symbol == 0]
    for first, behind in zip(firsts, [*firsts[1:], len(prefixes)], strict=True):
        longer, run = prefixes[first] - short, useful[:, first:behind]
        start = int(ends[first]) - size - short
        samples[:, start - longer : start] = run[:, 0, size - short - longer : size - short]
        symbols = samples[:, start : int(ends[behind - 1])].unflatten(1, (behind - first, short + size))
        symbols[..., :short], symbols[..., short:] = run[..., size - short :], run
    return samples, ends - size


def cyclic_prefix_3gpp(numerology: Numerology, num_symbols: int, first_symbol: int = 0) -> torch.Tensor:
    """Normal cyclic prefixes of LTE and NR: 144/2048 of a symbol, 16/2048 of 15 kHz more every half millisecond.

    TS 36.211, table 6.12-1; TS 38.211, clause 5.3.1.

    Args:
        numerology (`Numerology`): Its FFT size times the prefix must be whole samples.
        num_symbols (`int`): How many.
        first_symbol (`int`, *optional*, defaults to 0): Number of the first one, counted from the start of a subframe.

    Returns:
        `torch.Tensor` of shape `(num_symbols,)`, int64 [samples].
    """
    symbols_per_half_ms = 7 * round(numerology.subcarrier_spacing_hz / 15_000)
    short = numerology.fft_size * 144 // 2048
    extra = round(numerology.sampling_rate * 16 / 30_720_000)
    number = torch.arange(first_symbol, first_symbol + num_symbols)
    return short + extra * (number % symbols_per_half_ms == 0).long()


def fast_length(length: int, step: int = 1) -> int:
    """The next length, from this one on, for which Fourier transforms are fast: without prime factors above five.

    Args:
        length (`int`): At least 1.
        step (`int`, *optional*, defaults to 1): -1 for the next one downwards.

    Returns:
        `int`: The length.
    """
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += step

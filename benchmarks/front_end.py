"""Speed of the spectrogram front-end, and its ratio to `scipy.signal.ShortTimeFFT` on the same samples.

    python benchmarks/front_end.py                          # a few seconds, two threads
    python benchmarks/front_end.py --threads 8 --batch-size 256
    python benchmarks/front_end.py --device cuda --batch-size 1024

Both compute the same frames with the same windows. scipy stops at the power (equation 9) and runs on the CPU; the
extractor goes on to the normalized logarithm that the model takes (equation 10), and "with checks" also looks for NaN.
They take turns, and each figure is a median, so that other load on the machine affects all of them alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.fft
import torch
from scipy.signal import ShortTimeFFT

from lwm_spectro_hf.feature_extraction_lwm_spectro import SpectrogramFeatureExtractor, analysis_window

WINDOWS = {"one window": ["boxcar"], "two windows": ["boxcar", "general_hamming:0.72"]}


def with_scipy(extractor: SpectrogramFeatureExtractor, iq: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Returns a function that computes the power of the extractor's frames, one array for each window."""
    size, hop = extractor.fft_size, extractor.hop_length
    transforms = [
        ShortTimeFFT(analysis_window(window, size), hop, 1.0, fft_mode="centered")
        for window in extractor.window_function
    ]
    # scipy centers its slice p on sample p * hop; this offset makes it start there.
    offset = transforms[0].m_num_mid
    return lambda: [
        transform.spectrogram(iq, p0=0, p1=extractor.num_frames, k_offset=offset) for transform in transforms
    ]


def medians_s(functions: list[Callable[[], object]], repetitions: int, synchronize: Callable[[], None]) -> list[float]:
    """Median duration of each function, called in turn [s]."""
    durations = [[] for _ in functions]
    for repetition in range(repetitions + 1):
        for function, spent in zip(functions, durations, strict=True):
            start = time.perf_counter()
            function()
            synchronize()
            if repetition:  # the first round warms up
                spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in durations]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batch-size", type=int, default=64, help="recordings processed at once (default: %(default)s)"
    )
    parser.add_argument("--fft-size", type=int, default=128, help="samples per frame (default: %(default)s)")
    parser.add_argument("--num-frames", type=int, default=128, help="frames per recording (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, for both (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="device of the extractor (default: %(default)s)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    size = arguments.fft_size
    print(f"{arguments.batch_size} recordings of {arguments.num_frames} frames of {size} samples, on {device}")
    print(f"{'windows':<12} {'hop':>5} {'extractor':>13} {'with checks':>13} {'ShortTimeFFT':>13} {'ratio':>7}")
    for name, windows in WINDOWS.items():
        for hop in (size, size // 4):
            extractor = SpectrogramFeatureExtractor(
                num_frames=arguments.num_frames,
                num_freq_bins=size,
                fft_size=size,
                hop_length=hop,
                window_function=windows,
            )
            num_samples = extractor.num_samples_needed()
            iq = torch.randn(
                arguments.batch_size, num_samples, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
            )
            on_device = iq.to(device)
            functions = [
                lambda extractor=extractor, iq=on_device: extractor.spectrogram(iq),
                lambda extractor=extractor, iq=on_device: extractor(iq, return_tensors="pt"),
                with_scipy(extractor, iq.numpy()),
            ]
            with scipy.fft.set_workers(arguments.threads):
                durations = medians_s(functions, arguments.repetitions, synchronize)
            rates = [arguments.batch_size * num_samples / 1e6 / duration for duration in durations]
            print(
                f"{name:<12} {hop:>5} {rates[0]:>8.1f} MS/s {rates[1]:>8.1f} MS/s {rates[2]:>8.1f} MS/s "
                f"{rates[0] / rates[2]:>6.1f}x"
            )


if __name__ == "__main__":
    main()

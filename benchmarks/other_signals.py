"""How a model classifies signals that it was not trained on, and whether anything warns of it.

    python benchmarks/other_signals.py --num 8                           # minutes
    python benchmarks/other_signals.py --num 24 --duration-ms 5 --snr-db 3
    python benchmarks/other_signals.py --signals "LTE, uplink" "5G, 60 kHz"

A model knows WiFi, LTE and 5G, and always predicts one of them; `symbols_found` in the answer says whether symbols of
that standard were found. Signals of none of the three: noise, a tone, narrowband FM, Gaussian frequency-shift keying
at 1 Mbit/s, the same hopping in packets of 366 us like Bluetooth, single-carrier 16-QAM, and a single burst of that,
about as long as a symbol of LTE or 5G.

Others belong to these standards, but not to the training data: `802.11b`, packets of direct-sequence spread spectrum
at 1 Mbit/s; `802.11p`, WiFi at half the clock rate; LTE uplink, single-carrier FDMA of 5 to 50 resource blocks; LTE
with extended cyclic prefix; narrowband LTE for the Internet of Things (NB-IoT); 5G with subcarrier spacings of 60 and
120 kHz; and LTE from a receiver that drops some thousand samples every few milliseconds.

The table has the share of recordings in % in which symbols were found, how often each protocol is predicted, and the
mean score of the predictions. `benchmarks/listening.py` has the first of these for WiFi, LTE and 5G.
"""

import argparse
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from scipy.signal import oaconvolve, resample_poly
from tqdm.auto import tqdm
from transformers import pipeline

from lwm_spectro_hf import default_checkpoint
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.phy import lte, wifi
from lwm_spectro_hf.phy.spread_spectrum import BARKER, SYMBOL_S

Signal = Callable[[np.random.Generator, float, int], np.ndarray]  # takes sampling rate [Hz] and length [samples]
RATES_HZ = (10e6, 20e6, 25e6, 30.72e6, 61.44e6)
HOP_SPAN_HZ, SLOT_S, PACKET_S = 79e6, 625e-6, 366e-6  # of Bluetooth
RATE_3GPP_HZ = 30.72e6  # of a 20 MHz LTE carrier, whose symbols have 2048 samples
NORMAL_PREFIXES = (160, *[144] * 6)
CHIP_RATE_HZ = len(BARKER) / SYMBOL_S


def white(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """Complex noise of power 1."""
    return generator.normal(size=(num_samples, 2)) @ (1, 1j) / 2**0.5


def shaped(symbols: np.ndarray, samples_a_symbol: float, num_samples: int) -> np.ndarray:
    """Symbols at any rate, held and smoothed by a Hann window of one symbol."""
    held = symbols[(np.arange(num_samples) / samples_a_symbol).astype(int)]
    window = np.hanning(round(samples_a_symbol) + 2)
    return np.convolve(held, window / window.sum(), "same")


def tone(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    return np.exp(2j * np.pi * generator.uniform(-0.4, 0.4) * np.arange(num_samples))


def voice(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Frequency modulation by noise of about 3 kHz, with a deviation of 5 kHz."""
    samples = round(rate / 3e3)
    message = oaconvolve(generator.normal(size=num_samples + samples - 1), np.hanning(samples), "valid")
    return np.exp(2j * np.pi * 5e3 / rate * np.cumsum(message / message.std()))


def frequency_shift_keying(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """GFSK at 1 Mbit/s, modulation index 0.32."""
    bits = generator.choice([-1.0, 1.0], size=int(num_samples / rate * 1e6) + 2)
    return np.exp(1j * np.pi * 0.32e6 / rate * np.cumsum(shaped(bits, rate / 1e6, num_samples)))


def hopping(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """The hops that fall into the band; at least one."""
    iq = np.zeros(num_samples, complex)
    length = min(num_samples, round(PACKET_S * rate))
    channels = np.arange(-(HOP_SPAN_HZ // 2), HOP_SPAN_HZ // 2 + 1, 1e6)
    channels = channels[np.abs(channels) < rate / 2 - 1e6]
    for start in range(0, num_samples - length + 1, round(SLOT_S * rate)):
        if generator.random() < len(channels) * 1e6 / HOP_SPAN_HZ or not iq.any():
            turn = np.exp(2j * np.pi * generator.choice(channels) / rate * np.arange(length))
            iq[start : start + length] = turn * frequency_shift_keying(generator, rate, length)
    return iq


def single_carrier(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """16-QAM at 0.5 to 5 Mbaud."""
    baud = generator.uniform(0.5e6, 5e6)
    symbols = generator.choice([-3, -1, 1, 3], size=(int(num_samples / rate * baud) + 2, 2)) @ (1, 1j)
    return shaped(symbols, rate / baud, num_samples)


def one_burst(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """16-QAM of one carrier for 40 to 80 us, about as long as a symbol of a cell, and nothing else."""
    iq = np.zeros(num_samples, complex)
    length = min(num_samples, round(generator.uniform(40e-6, 80e-6) * rate))
    start = generator.integers(num_samples - length + 1)
    iq[start : start + length] = single_carrier(generator, rate, length)
    return iq


def spread_spectrum(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Packets of 0.6 to 3 ms of differential BPSK spread by the Barker sequence, and gaps of 0.2 to 2 ms."""
    iq = np.zeros(num_samples, complex)
    start = 0
    while start < num_samples:
        length = min(num_samples - start, round(generator.uniform(0.6e-3, 3e-3) * rate))
        bits = np.cumprod(generator.choice([-1, 1], size=int(length / rate * 1e6) + 2))
        iq[start : start + length] = shaped(np.outer(bits, BARKER).ravel(), rate / CHIP_RATE_HZ, length)
        start += length + round(generator.uniform(0.2e-3, 2e-3) * rate)
    return iq


def resampled(draw: Callable[[np.random.Generator, int], np.ndarray], native_hz: float) -> Signal:
    """A signal generated at one rate, resampled to that of the receiver and placed near the middle of its band."""

    def signal(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
        ratio = Fraction(rate / native_hz).limit_denominator(1000)
        iq = draw(generator, int(num_samples / ratio) + 100)
        iq = resample_poly(iq, ratio.numerator, ratio.denominator)[:num_samples]
        offset_hz = generator.uniform(-0.1, 0.1) * max(rate - native_hz, 0.1 * rate)
        return iq * np.exp(2j * np.pi * offset_hz / rate * np.arange(num_samples))

    return signal


def modulated(bins: np.ndarray, prefixes: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """OFDM symbols, each with its cyclic prefix.

    Args:
        bins (`np.ndarray` of shape `(num_symbols, fft_size)`): Subcarriers, from DC up.
        prefixes (`np.ndarray`): Lengths of the cyclic prefixes, repeated in turn [samples].
        turn (`float`, *optional*, defaults to 0): Shift of each symbol up in frequency [subcarriers].
    """
    size = bins.shape[1]
    symbols = np.fft.ifft(bins, norm="ortho")
    places = [np.arange(-prefix, size) for prefix in prefixes]
    waves = [np.exp(2j * np.pi * turn * place / size) for place in places]
    return np.concatenate(
        [
            symbol[places[number % len(prefixes)]] * waves[number % len(prefixes)]
            for number, symbol in enumerate(symbols)
        ]
    )


def points(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Random 16-QAM points of mean power 1."""
    return generator.choice([-3, -1, 1, 3], size=(*shape, 2)) @ (1, 1j) / 10**0.5


def downlink(spacing_hz: float, prefixes: Sequence[int], width: int, generator: np.random.Generator, num_samples: int):
    """A saturated cell without synchronization signals, at 30.72 Msps; `prefixes` as in [`modulated`]."""
    size = round(RATE_3GPP_HZ / spacing_hz)
    num_symbols = num_samples // size + 1
    bins = np.zeros((num_symbols, size), complex)
    bins[:, np.arange(-width // 2, width // 2) % size] = points(generator, num_symbols, width)
    return modulated(bins, np.array(prefixes))[:num_samples]


def zadoff_chu(root: int, length: int) -> np.ndarray:
    number = np.arange(length)
    return np.exp(-1j * np.pi * root * number * (number + 1) / length)


def reference_symbol(group: int, width: int) -> np.ndarray:
    """Reference symbol of the LTE uplink on `width` subcarriers, 36 at least (TS 36.211, 5.5.1.1)."""
    length = max(value for value in range(2, width) if all(value % other for other in range(2, int(value**0.5) + 1)))
    return zadoff_chu(int(length * (group + 1) / 31 + 0.5), length)[np.arange(width) % length]


def uplink(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """DFT-spread QPSK on 5 to 50 resource blocks, with a reference symbol per slot (TS 36.211, 5.5, 5.6)."""
    size, num_subframes, group = 2048, int(num_samples / 30720) + 1, int(generator.integers(30))
    bins = np.zeros((num_subframes, 14, size), complex)
    for subframe in bins:
        width = 12 * int(generator.integers(5, 51))
        first = int(generator.integers(-300, 300 - width + 1))
        data = np.fft.fft(generator.choice([-1, 1], size=(14, width, 2)) @ (1, 1j), norm="ortho") / 2**0.5
        data[[3, 10]] = reference_symbol(group, width)
        subframe[:, np.arange(first, first + width) % size] = data
    return modulated(bins.reshape(-1, size), np.array(NORMAL_PREFIXES), 0.5)[:num_samples]


def internet_of_things(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """One resource block, with the narrowband primary synchronization signal in each frame (TS 36.211, 10.2)."""
    size, num_frames = 2048, int(num_samples / 307200) + 1
    first = int(generator.integers(-40, 40))
    bins = np.zeros((num_frames, 10, 14, size), complex)
    bins[..., np.arange(first, first + 12) % size] = points(generator, num_frames, 10, 14, 12)
    bins[:, 5] = 0
    sequence = np.outer([1, 1, 1, 1, -1, -1, 1, 1, 1, -1, 1], zadoff_chu(5, 11))
    bins[:, 5, 3:, np.arange(first, first + 11) % size] = sequence.T[:, None]
    iq = modulated(bins.reshape(-1, size), np.array(NORMAL_PREFIXES))
    return iq[int(generator.integers(307200)) :][:num_samples]


def between_vehicles(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """802.11a packets, to be played at half their rate as 802.11p."""
    seed = torch.Generator().manual_seed(int(generator.integers(2**31)))
    return (
        wifi.draw(1, num_samples, seed, full=torch.ones(1, dtype=torch.bool), high_throughput=0.0).samples[0].numpy()
    )


def dropping(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """LTE of 50 resource blocks from a receiver at 15.36 Msps that drops samples every 3 to 6 ms."""
    seed = torch.Generator().manual_seed(int(generator.integers(2**31)))
    iq = lte.draw(50, 1, 2 * num_samples, seed, full=torch.ones(1, dtype=torch.bool)).samples[0].numpy()
    kept, start = [], 0
    while sum(map(len, kept)) < num_samples:
        length = int(generator.uniform(3e-3, 6e-3) * 15.36e6)
        kept.append(iq[start : start + length])
        start += length + int(generator.integers(1000, 8000))
    return np.concatenate(kept)[:num_samples]


def received(
    signal: Signal, generator: np.random.Generator, rate: float, duration_s: float, snr_db: float
) -> np.ndarray:
    """Add noise over the whole band, `snr_db` below the signal while it is on; without a signal, below power 1."""
    iq = signal(generator, rate, round(duration_s * rate))
    power = np.square(np.abs(iq[iq != 0])).mean() if iq.any() else 1.0
    iq = iq + (power * 10 ** (-snr_db / 10)) ** 0.5 * white(generator, len(iq))
    return iq.astype(np.complex64)


NONE_OF_THEM: dict[str, Signal] = {
    "noise": lambda generator, rate, num_samples: np.zeros(num_samples),
    "tone": tone,
    "FM": voice,
    "GFSK": frequency_shift_keying,
    "GFSK, hopping": hopping,
    "16-QAM, one carrier": single_carrier,
    "16-QAM, one burst": one_burst,
}
UNUSUAL: dict[str, Signal] = {
    "802.11b": spread_spectrum,
    "802.11p": resampled(between_vehicles, 10e6),
    "LTE, uplink": resampled(uplink, RATE_3GPP_HZ),
    "LTE, extended prefix": resampled(partial(downlink, 15e3, [512], 600), RATE_3GPP_HZ),
    "LTE, Internet of Things": resampled(internet_of_things, RATE_3GPP_HZ),
    "LTE, samples dropped": resampled(dropping, 15.36e6),
    "5G, 60 kHz": resampled(partial(downlink, 60e3, [52, *[36] * 27], 288), RATE_3GPP_HZ),
    "5G, 120 kHz": resampled(partial(downlink, 120e3, [34, *[18] * 55], 144), RATE_3GPP_HZ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=20, help="recordings of each signal (default: %(default)s)")
    parser.add_argument(
        "--duration-ms", type=float, default=20.0, help="duration of each recording [ms] (default: %(default)s)"
    )
    parser.add_argument(
        "--snr-db", type=float, default=15.0, help="SNR over the whole band [dB] (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default=str(default_checkpoint()), help="checkpoint (default: the one included in this package)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    signals = NONE_OF_THEM | UNUSUAL
    parser.add_argument(
        "--signals",
        nargs="+",
        choices=signals,
        default=list(signals),
        metavar="SIGNAL",
        help="any of: " + "; ".join(signals),
    )
    args = parser.parse_args()

    classify = pipeline("iq-classification", model=args.model)
    generator = np.random.default_rng(args.seed)
    print(f"{args.num} recordings of {args.duration_ms:g} ms each")
    print("| signal | symbols found, % | " + " | ".join(f"{name}, %" for name in PROTOCOLS) + " | score, % |")
    print("| --- " * (3 + len(PROTOCOLS)) + "|")
    for name in args.signals:
        answers = []
        for index in tqdm(range(args.num), desc=name, unit="rec", leave=False):
            rate = RATES_HZ[index % len(RATES_HZ)]
            iq = received(signals[name], generator, rate, args.duration_ms * 1e-3, args.snr_db)
            answers.append(classify(iq, sampling_rate=rate))
        found = np.mean([bool(answer["symbols_found"]) for answer in answers])
        named = [np.mean([answer["protocol"] == protocol for answer in answers]) for protocol in PROTOCOLS]
        score = np.mean([answer["protocol_score"] for answer in answers])
        print(f"| {name} | " + " | ".join(f"{100 * share:.0f}" for share in (found, *named, score)) + " |", flush=True)


if __name__ == "__main__":
    main()

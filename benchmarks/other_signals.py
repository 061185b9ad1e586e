"""What recordings of nothing that a model knows are told to be, and whether anything warns of it.

    python benchmarks/other_signals.py --num 8                           # minutes
    python benchmarks/other_signals.py --num 24 --duration-ms 5 --snr-db 0

A model knows WiFi, LTE and 5G, and names one of them whatever it hears; the answer's `symbols_found` tells whether
symbols of that standard are there. Signals: noise, a tone, narrowband FM, Gaussian frequency-shift keying at 1 Mbit/s,
the same hopping in packets of 366 us as Bluetooth does, and 16-QAM of one carrier. `802.11b` is WiFi before OFDM:
packets of direct-sequence spread spectrum at 1 Mbit/s. `LTE, uplink` is a terminal, single-carrier FDMA of 5 to 50
resource blocks; models have learned from base stations alone. The table has the share of recordings in % in which
symbols were found, how often each protocol is named, and the mean of its score. `benchmarks/listening.py` has the same
share for WiFi, LTE and 5G.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.signal import oaconvolve
from tqdm.auto import tqdm
from transformers import pipeline

from lwm_spectro_hf import default_checkpoint
from lwm_spectro_hf.data.recipe import PROTOCOLS
from lwm_spectro_hf.phy.spread_spectrum import BARKER, SYMBOL_S

RATES_HZ = (10e6, 20e6, 25e6, 30.72e6, 61.44e6)
HOP_SPAN_HZ, SLOT_S, PACKET_S = 79e6, 625e-6, 366e-6  # of Bluetooth
SPACING_HZ, SLOT_OF_LTE_S = 15e3, 0.5e-3
CHIP_RATE_HZ = len(BARKER) / SYMBOL_S


def white(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """Complex noise of power 1."""
    return generator.normal(size=(num_samples, 2)) @ (1, 1j) / 2**0.5


def shaped(symbols: np.ndarray, samples_a_symbol: float, num_samples: int) -> np.ndarray:
    """Symbols at any rate, each one's corners rounded over its length."""
    held = symbols[(np.arange(num_samples) / samples_a_symbol).astype(int)]
    window = np.hanning(round(samples_a_symbol) + 2)
    return np.convolve(held, window / window.sum(), "same")


def tone(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    return np.exp(2j * np.pi * generator.uniform(-0.4, 0.4) * np.arange(num_samples))


def voice(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Frequency modulation with 5 kHz of deviation, by noise of some 3 kHz."""
    samples = round(rate / 3e3)
    message = oaconvolve(generator.normal(size=num_samples + samples - 1), np.hanning(samples), "valid")
    return np.exp(2j * np.pi * 5e3 / rate * np.cumsum(message / message.std()))


def frequency_shift_keying(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """1 Mbit/s, modulation index 0.32."""
    bits = generator.choice([-1.0, 1.0], size=int(num_samples / rate * 1e6) + 2)
    return np.exp(1j * np.pi * 0.32e6 / rate * np.cumsum(shaped(bits, rate / 1e6, num_samples)))


def hopping(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Those hops that fall into the band."""
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


def spread_spectrum(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Packets of 0.6 to 3 ms that begin with the long preamble, and gaps of 0.2 to 2 ms."""
    iq = np.zeros(num_samples, complex)
    start = 0
    while start < num_samples:
        length = min(num_samples - start, round(generator.uniform(0.6e-3, 3e-3) * rate))
        bits = np.cumprod(generator.choice([-1, 1], size=int(length / rate * 1e6) + 2))
        iq[start : start + length] = shaped(np.outer(bits, BARKER).ravel(), rate / CHIP_RATE_HZ, length)
        start += length + round(generator.uniform(0.2e-3, 2e-3) * rate)
    return iq


def uplink(generator: np.random.Generator, rate: float, num_samples: int) -> np.ndarray:
    """Slots of seven symbols of 15 kHz (TS 36.211, 5.6), QPSK that is spread over the blocks of a slot."""
    size = round(rate / SPACING_HZ)
    prefixes = np.round(np.array([160, *[144] * 6]) * rate / 30.72e6).astype(int)
    slots = []
    for _ in range(int(num_samples / rate / SLOT_OF_LTE_S) + 1):
        width = 12 * int(generator.integers(5, 51))
        first = int(generator.integers(-300, 300 - width + 1))
        data = generator.choice([-1, 1], size=(7, width, 2)) @ (1, 1j)
        bins = np.zeros((7, size), complex)
        bins[:, np.arange(first, first + width) % size] = np.fft.fft(data, norm="ortho")
        for prefix, symbol in zip(prefixes, np.fft.ifft(bins, norm="forward"), strict=True):
            # Half a subcarrier up, from the beginning of the symbol on.
            turn = np.exp(1j * np.pi * np.arange(-prefix, size) / size)
            slots.append(np.concatenate([symbol[size - prefix :], symbol]) * turn)
    return np.concatenate(slots)[:num_samples]


SIGNALS: dict[str, Callable[[np.random.Generator, float, int], np.ndarray]] = {
    "noise": lambda generator, rate, num_samples: np.zeros(num_samples),
    "tone": tone,
    "FM": voice,
    "GFSK": frequency_shift_keying,
    "GFSK, hopping": hopping,
    "16-QAM, one carrier": single_carrier,
    "802.11b": spread_spectrum,
    "LTE, uplink": uplink,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=20, help="recordings of each signal (default: %(default)s)")
    parser.add_argument("--duration-ms", type=float, default=20.0, help="of each (default: %(default)s)")
    parser.add_argument("--snr-db", type=float, default=15.0, help="in all of the band (default: %(default)s)")
    parser.add_argument("--model", default=str(default_checkpoint()), help="(default: the shipped weights)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()

    classify = pipeline("iq-classification", model=args.model)
    generator = np.random.default_rng(args.seed)
    print(f"{args.num} recordings of {args.duration_ms:g} ms each")
    print("| signal | symbols found, % | " + " | ".join(f"{name}, %" for name in PROTOCOLS) + " | score, % |")
    print("| --- " * (3 + len(PROTOCOLS)) + "|")
    for name, draw in SIGNALS.items():
        answers = []
        for index in tqdm(range(args.num), desc=name, unit="rec", leave=False):
            rate = RATES_HZ[index % len(RATES_HZ)]
            iq = draw(generator, rate, round(args.duration_ms * 1e-3 * rate))
            power = np.square(np.abs(iq[iq != 0])).mean() if iq.any() else 1.0
            iq = iq + (power * 10 ** (-args.snr_db / 10)) ** 0.5 * white(generator, len(iq))
            answers.append(classify(iq.astype(np.complex64), sampling_rate=rate))
        found = np.mean([bool(answer["symbols_found"]) for answer in answers])
        named = [np.mean([answer["protocol"] == protocol for answer in answers]) for protocol in PROTOCOLS]
        score = np.mean([answer["protocol_score"] for answer in answers])
        print(f"| {name} | " + " | ".join(f"{100 * share:.0f}" for share in (found, *named, score)) + " |", flush=True)


if __name__ == "__main__":
    main()

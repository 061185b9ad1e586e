"""Labeled spectrograms per second, and their ratio to NeoRadium's coded PDSCH through a custom tapped delay line.

    python benchmarks/generation.py                          # about two minutes, one process per core
    python benchmarks/generation.py --processes 2 --seconds 5
    python benchmarks/generation.py --device cuda --chunk-size 2048

Both generate 10 ms of a carrier of 25 resource blocks at 15 kHz (WiFi: 20 MHz) with a coded payload, apply a fading
channel of many taps, add noise and compute the same spectrogram: the rows "native". The rows "synchronous" are the
default of data sets: 128 symbols (9 ms; WiFi 4 ms) from a synchronized receiver with imperfections. NeoRadium works at
30.72 MHz, one frame and one slot at a time. Every process has one thread; on a GPU this package uses one process. Each
figure is the median over rounds in which all take turns, so that other load on the machine affects all of them alike.

NeoRadium is the paper's tool. Its license allows fundamental research only: `pip install '.[reference]'`.
"""

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

from lwm_spectro_hf.channel.scenarios import list_scenarios
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.recipe import PROTOCOLS, Recipe
from lwm_spectro_hf.data.synthesis import draw_recordings

REFERENCE = "NeoRadium"
RECEIVERS = ("native", "synchronous")
DURATION_S, NUM_RB, NUM_TAPS = 10e-3, 25, 12
CODE_RATES = {"QPSK": 0.44, "16QAM": 0.48, "64QAM": 0.65, "256QAM": 0.78}


def generate(protocol: str, receiver: str, seed: int, device: str, chunk_size: int) -> Iterator[int]:
    """Generate labeled spectrograms of a protocol endlessly; yields the number made in each step."""
    extractor = default_extractor()
    recipe = Recipe(
        protocols=(protocol,),
        channels=tuple(list_scenarios()),
        receivers={receiver: 1.0},
        full_load=1.0,
        resource_blocks={"LTE": (NUM_RB,), "5G": ((15, NUM_RB),)},
        duration_s=DURATION_S,
        chunk_size=chunk_size,
    )
    for chunk in itertools.count():
        recordings = draw_recordings(recipe, chunk, seed, device)
        yield len(extractor.spectrogram(recordings.iq))


def generate_reference(number: int) -> Iterator[int]:
    """Generate spectrograms with NeoRadium endlessly, one at a time; yields their number, 1."""
    import neoradium

    # A 32-bit product in NeoRadium overflows, which is harmless.
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    extractor = default_extractor()
    random = np.random.default_rng(number)
    modulations = list(CODE_RATES)
    while True:
        modulation = modulations[random.integers(len(modulations))]
        bwp = neoradium.Carrier(numRbs=NUM_RB, spacing=15, cellId=int(random.integers(1008))).curBwp
        pdsch = neoradium.PDSCH(bwp, modulation=modulation, rnti=1 + int(random.integers(65519)))
        pdsch.setDMRS(additionalPos=1, numCdmGroupsWithoutData=2)
        codec = pdsch.getLdpcCodec(CODE_RATES[modulation])
        delays_ns = np.sort(random.exponential(300.0, NUM_TAPS))
        channel = neoradium.TdlChannel(
            bwp,
            "A",  # replaced by the delays [ns, for a spread of 1] and powers [dB] that follow
            delaySpread=1,
            pathDelays=delays_ns - delays_ns[0],
            pathPowers=random.normal(-10.0, 3.0, NUM_TAPS),
            dopplerShift=float(random.uniform(0.0, 400.0)),
            seed=int(random.integers(2**31)),
        )
        snr_db = int(random.choice(np.arange(-5, 26, 5)))
        slots, tail = [], np.zeros(0)
        for _ in range(round(DURATION_S / 1e-3)):
            pdsch.initGrid()
            payload = random.integers(2, size=codec.txBlockSizes[0], dtype=np.int8)
            pdsch.setPdschData(codec.encode(payload, pdsch.getBitCapacity()[0]))
            grid = bwp.createGrid(1)
            pdsch.precodeTo(grid, np.ones((1, 1)))
            sent = grid.ofdmModulate()
            received = channel.applyToSignal(sent.pad(channel.getMaxDelay()))
            samples = received.addNoise(snrDb=snr_db, bwp=bwp).waveform[0]
            samples[: len(tail)] += tail
            slots.append(samples[: sent.length])
            tail = samples[sent.length :]
            channel.goNext()
        iq = torch.from_numpy(np.concatenate(slots).astype(np.complex64))
        yield len(extractor.spectrogram(iq[None]))


def run(
    name: str, receiver: str, chunk_size: int, number: int, device: str, seconds: float, start: Callable[[], object]
) -> float:
    """Spectrograms per second of one process, over at least `seconds` after a warm-up step."""
    torch.set_num_threads(1)
    source = generate(name, receiver, number, device, chunk_size) if name in PROTOCOLS else generate_reference(number)
    next(source)
    start()
    begin, made = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        made += next(source)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return made / (time.perf_counter() - begin)


def _serve(pipe, barrier, *work) -> None:
    pipe.send(run(*work, barrier.wait))


def rate(name: str, receiver: str, processes: int, device: str, chunk_size: int, seconds: float) -> float:
    """Spectrograms per second of several processes together that run at once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pipes, workers = [], []
    for number in range(processes):
        end, sender = context.Pipe(duplex=False)
        workers.append(
            context.Process(target=_serve, args=(sender, barrier, name, receiver, chunk_size, number, device, seconds))
        )
        workers[-1].start()
        sender.close()  # otherwise `recv` would wait forever for a process that has died
        pipes.append(end)
    try:
        return sum(pipe.recv() for pipe in pipes)
    except EOFError:
        raise SystemExit(f"A process of {name} ended early; its error is above.") from None
    finally:
        for worker in workers:
            worker.join(timeout=0.1)
            worker.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--processes", type=int, default=cores, help="CPU processes (default: all cores, %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of each measurement [s] (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each measurement (default: %(default)s)")
    parser.add_argument(
        "--chunk-size",
        type=int,
        default=32,
        help="recordings generated at a time; use thousands on a GPU (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="device of this package (default: %(default)s)")
    arguments = parser.parse_args()

    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"  # read when a worker imports its libraries
    ours = arguments.processes if arguments.device == "cpu" else 1
    cases = [(protocol, receiver, ours) for receiver in RECEIVERS for protocol in PROTOCOLS]
    has_reference = importlib.util.find_spec("neoradium") is not None
    if has_reference:
        cases += [(REFERENCE, "", count) for count in dict.fromkeys((1, arguments.processes))]
    measured: dict[tuple, list[float]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for name, receiver, count in cases:
            device = "cpu" if name == REFERENCE else arguments.device
            value = rate(name, receiver, count, device, arguments.chunk_size, arguments.seconds)
            measured[name, receiver, count].append(value)
    rates = {case: statistics.median(values) for case, values in measured.items()}
    for receiver in RECEIVERS:  # with equal numbers of each protocol, their times average, not their rates
        values = [rates[protocol, receiver, ours] for protocol in PROTOCOLS]
        rates["all three", receiver, ours] = len(values) / sum(1 / value for value in values)

    one, several = (rates.get((REFERENCE, "", count)) for count in (1, arguments.processes))
    over = [f"over {REFERENCE}, 1 process", f"{arguments.processes} processes"] if has_reference else []
    print(f"{'':<10} {'receiver':<12} {'processes':>9} {'per s':>9}  " + "  ".join(over))
    for (name, receiver, count), value in sorted(rates.items(), key=lambda item: item[0][1]):
        ratios = [f"{value / base:>{len(title) - 1}.1f}x" for title, base in zip(over, (one, several), strict=False)]
        print(f"{name:<10} {receiver:<12} {count:>9} {value:>9.2f}  " + "  ".join(ratios))
    if not has_reference:
        print(f"{REFERENCE} is not installed, so there is no ratio. Its licence allows fundamental research:")
        print("pip install 'lwm-spectro-hf[reference]'")


if __name__ == "__main__":
    main()

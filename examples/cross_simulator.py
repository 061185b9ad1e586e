#!/usr/bin/env python
r"""Test a model trained on this generator with signals of two other simulators: 5G by py3gpp, WiFi by TorchSig.

    pip install py3gpp                                   # 5G only; WiFi needs TorchSig, which has many dependencies
    python examples/cross_simulator.py --num 4 --snr-db 20
    pip install torchsig
    python examples/cross_simulator.py --model runs/tiny --out runs/cross.json

The transmitted signals use no code of this package: sequences, modulation, resource grids and OFDM come from the other
simulators, with random bits. 5G is 10 ms of a cell of 52 resource blocks at 15 kHz, with a synchronization block and a
PDSCH of one modulation in a random part of the band; WiFi is 5 ms of 802.11a packets and gaps. Neither simulator has
LTE. The channel is flat: a random start, phase and carrier offset, and white noise; the SNR is that of the occupied
band during transmissions. Prints what the pipeline predicts, by SNR. A good score here is necessary for a good score
over the air, but not sufficient.
"""

import argparse
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from lwm_spectro_hf import IQClassificationPipeline, default_checkpoint
from lwm_spectro_hf.files import whole_file
from lwm_spectro_hf.scripting import one_line_errors, usable_device

NUM_RB, SPACING_KHZ = 52, 15
MAX_OFFSET_HZ = 2e3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=default_checkpoint(), help="checkpoint (default: the one included in this package)"
    )
    parser.add_argument("--num", type=int, default=20, help="recordings per protocol and SNR (default: %(default)s)")
    parser.add_argument(
        "--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10, 15, 20, 25], help="SNRs to test [dB]"
    )
    parser.add_argument("--device", help="device to compute on, e.g. cuda (default: the CPU)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the recordings (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the accuracies to this JSON file")
    return parser.parse_args()


def nr_recording(generator: np.random.Generator, num_slots: int = 10) -> tuple[np.ndarray, float, float]:
    """Slots of a 5G cell made by py3gpp: samples, sampling rate [Hz], occupied share of the sampled band."""
    import py3gpp
    from py3gpp.configs.nrCarrierConfig import nrCarrierConfig
    from py3gpp.configs.nrPDSCHConfig import nrPDSCHConfig

    cell_id, rnti = int(generator.integers(1008)), int(generator.integers(1, 65520))
    modulation = str(generator.choice(["QPSK", "16QAM", "64QAM", "256QAM"]))
    bits_per_symbol = {"QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8}[modulation]
    width = int(generator.integers(NUM_RB // 4, NUM_RB + 1))
    first = int(generator.integers(NUM_RB - width + 1))
    carrier = nrCarrierConfig(NCellID=cell_id, NSizeGrid=NUM_RB, SubcarrierSpacing=SPACING_KHZ)
    pdsch = nrPDSCHConfig()
    pdsch.PRBSet, pdsch.NSizeBWP, pdsch.NStartBWP = np.arange(first, first + width), NUM_RB, 0
    pdsch.DMRS.DMRSAdditionalPosition, pdsch.DMRS.NIDNSCID = int(generator.integers(4)), cell_id

    slots = []
    for slot in range(num_slots):
        carrier.NSlot = slot
        grid = py3gpp.nrResourceGrid(carrier)
        data = py3gpp.nrPDSCHIndices(carrier, pdsch)
        bits = generator.integers(0, 2, bits_per_symbol * len(data))
        symbols = py3gpp.nrPDSCH([bits], [modulation], 1, cell_id, rnti)[0]
        py3gpp.nrSetResources(data, grid, symbols)
        py3gpp.nrSetResources(py3gpp.nrPDSCHDMRSIndices(carrier, pdsch), grid, py3gpp.nrPDSCHDMRS(pdsch, carrier))
        if slot == 0:
            grid[6 * NUM_RB - 120 : 6 * NUM_RB + 120, 2:6] = synchronization_block(cell_id, generator)
        slots.append(grid)
    samples, info = py3gpp.nrOFDMModulate(carrier, np.concatenate(slots, axis=1), initialNSlot=0)
    return samples, float(info["SampleRate"]), 12e3 * width * SPACING_KHZ / info["SampleRate"]


def synchronization_block(cell_id: int, generator: np.random.Generator) -> np.ndarray:
    """PSS, SSS and PBCH made by py3gpp, on 240 subcarriers and 4 symbols."""
    import py3gpp

    block = np.zeros((240, 4), complex)
    flat = block.reshape(-1, order="F")  # py3gpp counts along subcarriers first
    flat[py3gpp.nrPSSIndices()] = np.ravel(py3gpp.nrPSS(cell_id))
    flat[py3gpp.nrSSSIndices()] = np.ravel(py3gpp.nrSSS(cell_id))
    flat[py3gpp.nrPBCHIndices(cell_id)] = py3gpp.nrPBCH(cell_id, 0, generator.integers(0, 2, 864))
    flat[py3gpp.nrPBCHDMRSIndices(cell_id)] = np.ravel(py3gpp.nrPBCHDMRS(cell_id, 0))
    return flat.reshape(240, 4, order="F")


def wifi_recording(generator: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """802.11a packets and gaps made by TorchSig, 5 ms at 20 Msps; returns the same as [`nr_recording`]."""
    from torchsig.signals.builders.wifi import wifi_80211a_modulator_baseband

    modulation, rate = str(generator.choice(["bpsk", "qpsk", "16qam", "64qam"])), 20e6
    parts = []
    while sum(map(len, parts)) < 5e-3 * rate:
        length = int(generator.integers(2_000, 12_000))
        parts += [wifi_80211a_modulator_baseband("data", modulation, length, 1, generator)]
        parts += [np.zeros(int(16e-6 * rate)), wifi_80211a_modulator_baseband("ack", "bpsk", 1, 1, generator)]
        parts += [np.zeros(int(generator.integers(500, 6_000)))]
    return np.concatenate(parts), rate, 52 / 64


def received(samples: np.ndarray, rate: float, occupied: float, snr_db: float, generator) -> np.ndarray:
    """Apply a random start, phase and carrier offset, and add noise of this SNR in the occupied band."""
    samples = np.roll(samples, generator.integers(len(samples)))
    sent = np.abs(samples) ** 2
    power = sent[sent > 1e-3 * sent.mean()].mean()  # while something is sent
    noise_power = power / occupied / 10 ** (snr_db / 10)
    offset_hz, phase = generator.uniform(-MAX_OFFSET_HZ, MAX_OFFSET_HZ), generator.uniform(0, 2 * np.pi)
    turned = samples * np.exp(1j * (2 * np.pi * offset_hz / rate * np.arange(len(samples)) + phase))
    noise = generator.standard_normal((2, len(samples))) * np.sqrt(noise_power / 2)
    return (turned + noise[0] + 1j * noise[1]).astype(np.complex64)


SIMULATORS = {"5G": ("py3gpp", nr_recording), "WiFi": ("torchsig", wifi_recording)}


def main() -> None:
    args = parse_args()
    installed = {name: made for name, made in SIMULATORS.items() if importlib.util.find_spec(made[0])}
    if not installed:
        raise SystemExit("Neither simulator is installed: pip install py3gpp for 5G, torchsig for WiFi.")
    disable_progress_bar()
    args.device = usable_device(args.device)
    pipe = pipeline(
        "iq-classification", model=str(args.model), device=args.device, pipeline_class=IQClassificationPipeline
    )
    results = {}
    with tqdm(total=len(installed) * args.num * len(args.snr_db), unit="rec", leave=False) as progress:
        for protocol, (_, make) in installed.items():
            generator = np.random.default_rng(args.seed)
            told = {f"{snr_db:g}": Counter() for snr_db in args.snr_db}
            for _ in range(args.num):
                samples, rate, occupied = make(generator)
                for snr_db in args.snr_db:
                    answer = pipe(received(samples, rate, occupied, snr_db, generator), sampling_rate=rate)
                    told[f"{snr_db:g}"][answer["protocol"]] += 1
                    progress.update()
            results[protocol] = told
    print(f"Answers of the pipeline for {args.num} recordings each [%]")
    print(f"{'sent, with':<16}{'answer':<8}" + "".join(f"{f'{snr_db:g} dB':>8}" for snr_db in args.snr_db))
    for protocol, told in results.items():
        for name in sorted(set().union(*told.values()), key=lambda name: (name != protocol, name)):
            shares = [f"{100 * counts[name] / args.num:>8.0f}" for counts in told.values()]
            print(f"{f'{protocol}, {installed[protocol][0]}':<16}{name:<8}" + "".join(shares))
    if args.out:
        with whole_file(args.out) as stream:
            stream.write(json.dumps({"num": args.num, "told": results}, indent=2).encode() + b"\n")


if __name__ == "__main__":
    with one_line_errors():
        main()

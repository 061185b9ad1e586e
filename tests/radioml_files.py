"""Small files of exactly the formats of RadioML 2016.10A and 2018.01A."""

import struct
from pathlib import Path

import numpy as np

Cells = dict[tuple[str, int], np.ndarray]


def modulated(classes: tuple[str, ...], snrs_db: tuple[int, ...], per_cell: int, num_samples: int, seed=0) -> Cells:
    """Float32 `(per_cell, 2, num_samples)` for each class and SNR: a tone of the class's frequency, in noise."""
    generator = np.random.default_rng(seed)
    cells = {}
    for number, name in enumerate(classes):
        for snr_db in snrs_db:
            start = generator.uniform(0, 2 * np.pi, (per_cell, 1))
            frequency = (number + 0.5) / len(classes) - 0.5
            phase = 2 * np.pi * frequency * np.arange(num_samples) + start
            noise = generator.standard_normal((2, per_cell, num_samples)) * 10 ** (-snr_db / 20) / np.sqrt(2)
            iq = np.exp(1j * phase) + noise[0] + 1j * noise[1]
            cells[name, snr_db] = np.stack([iq.real, iq.imag], axis=1).astype(np.float32)
    return cells


def python2_pickle(cells: Cells, protocol: int = 2) -> bytes:
    """What Python 2's cPickle writes: byte strings for text and samples, NumPy's old module path, a memo."""
    memo = iter(range(1, 10**6))

    def text(value: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(value).removeprefix("b").encode("ascii") + b"\n"
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"I%d\n" % value if protocol == 0 else b"J" + struct.pack("<i", value)

    def put() -> bytes:
        return b"p%d\n" % next(memo) if protocol == 0 else b"r" + struct.pack("<I", next(memo))

    def false() -> bytes:
        return b"I00\n" if protocol == 0 else b"\x89"

    out = [b"(d" if protocol == 0 else b"\x80\x02}", put()]
    for (name, snr_db), array in cells.items():
        out += [b"(", text(name.encode()), put(), number(snr_db), b"t", put()]
        out += [b"cnumpy.core.multiarray\n_reconstruct\n", put(), b"(cnumpy\nndarray\n", put()]
        out += [b"(", number(0), b"t", text(b"b"), b"tR", put()]
        out += [b"(", number(1), b"(", *map(number, array.shape), b"t"]
        out += [
            b"cnumpy\ndtype\n",
            put(),
            b"(",
            text(array.dtype.str[1:].encode()),
            number(0),
            number(1),
            b"tR",
            put(),
        ]
        out += [b"(", number(3), text(array.dtype.str[:1].encode()), b"NNN", number(-1), number(-1), number(0), b"tb"]
        out += [false(), text(array.astype("<f4").tobytes()), b"tbs"]
    return b"".join([*out, b"."])


def write_2018(path: Path, cells: Cells, num_classes: int = 24) -> Path:
    """X `(num, samples, 2)`, Y one-hot and Z, class after class and SNR after SNR, as published."""
    import h5py

    names = list(dict.fromkeys(name for name, _ in cells))
    counts = [len(part) for part in cells.values()]
    labels = np.repeat([names.index(name) for name, _ in cells], counts)
    with h5py.File(path, "w") as file:
        file["X"] = np.concatenate([part.transpose(0, 2, 1) for part in cells.values()])
        file["Y"] = np.eye(num_classes, dtype=np.int64)[labels]
        file["Z"] = np.repeat([snr_db for _, snr_db in cells], counts)[:, None].astype(np.int64)
    return path

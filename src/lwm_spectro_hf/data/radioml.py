"""RadioML 2016.10A and 2018.01A: modulations that another simulator made, from the files that a user has.

Neither file names a sampling rate, and nothing here depends on one: frames are counted in samples. 1 Msps is what is
usually quoted; the published generator of 2016.10A runs its channel model at 200 ksps. "SNR" is the generators'
parameter, from which the samples' own may be tens of dB away, and the AM-SSB of 2016.10A is noise alone
(cyclostationary.blog, "All BPSK Signals" and "More on DeepSig's RML Data Sets").

The pickle is read without executing anything: nothing that a file names is imported, called or built.
"""

import lzma
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extras import require
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor, analysis_window
from .array_pickle import read_array_pickle
from .hdf5 import stored_within

SAMPLING_RATE = 1e6  # nominal, see above [Hz]
WINDOW_SAMPLES = 8  # of a symbol, in both files

# The order of the columns of `Y`. It is that of the paper (O'Shea, Roy, Clancy 2018, "Over-the-Air Deep Learning Based
# Radio Signal Classification") and of the corrected list that circulates as `classes-fixed.txt`. The `classes.txt`
# that came with the file is in another, wrong order (github.com/radioML/dataset, issue 25).
CLASSES_2018 = (
    *("OOK", "4ASK", "8ASK", "BPSK", "QPSK", "8PSK", "16PSK", "32PSK", "16APSK", "32APSK", "64APSK", "128APSK"),
    *("16QAM", "32QAM", "64QAM", "128QAM", "256QAM", "AM-SSB-WC", "AM-SSB-SC", "AM-DSB-WC", "AM-DSB-SC"),
    *("FM", "GMSK", "OQPSK"),
)

# The larger of the published pickles, 2016.10B, has some 3.5 GB: what claims to unpack to far more is something else.
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_SHAPE = (10_000_000, 65_536)  # of examples of 2018.01A, which has 2,555,904 of 1,024 samples
MAX_CLASSES = 1_000
LABEL_ROWS = 65_536  # rows of one-hot labels read at once


@dataclass(frozen=True, eq=False)
class LabelledExamples:
    """Short examples of one length with their modulation and SNR; the samples may still be on disk.

    Args:
        labels (`np.ndarray` of shape `(num,)`, int64): Indices into `class_names`.
        snr_db (`np.ndarray` of shape `(num,)`, float32): As the file says [dB].
        class_names (`tuple[str, ...]`): Modulations.
        num_samples (`int`): Samples of each example.
        sampling_rate (`float`, *optional*, defaults to 1e6): Nominal [Hz].
    """

    labels: np.ndarray
    snr_db: np.ndarray
    class_names: tuple[str, ...]
    num_samples: int
    sampling_rate: float = SAMPLING_RATE
    _read: Callable[[np.ndarray], np.ndarray] = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Reads samples.

        Args:
            rows (sequence of `int`, *optional*): Which examples, in any order; all if not given.

        Returns:
            `np.ndarray` of shape `(len(rows), num_samples)`, complex64.

        Raises:
            ValueError: If a sample is NaN or infinite.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        iq = self._read(rows)
        finite = np.isfinite(iq).all(axis=1)
        if not finite.all():
            row = int(rows[np.flatnonzero(~finite)[0]])
            raise ValueError(
                f"{int((~finite).sum())} example(s) have samples that are NaN or infinite, the first is row {row} "
                f"({self.class_names[self.labels[row]]} at {self.snr_db[row]:g} dB). Expected finite samples: the "
                "file is damaged; copy it again."
            )
        return iq

    def balanced_rows(self, per_cell: int, seed: int = 0) -> np.ndarray:
        """Draws as many examples of every modulation at every SNR.

        Args:
            per_cell (`int`): Examples of each pair; all of them where there are fewer.
            seed (`int`, *optional*, defaults to 0): Of the draw.

        Returns:
            `np.ndarray` of shape `(num_rows,)`, int64, ascending.
        """
        generator = np.random.default_rng(seed)
        _, cell = np.unique(np.stack([self.labels, self.snr_db]), axis=1, return_inverse=True)
        order = generator.permutation(len(self))
        order = order[np.argsort(cell.ravel()[order], kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(cell.ravel()))])
        parts = [order[start : min(start + per_cell, stop)] for start, stop in zip(starts, starts[1:], strict=False)]
        return np.sort(np.concatenate(parts))


def load_radioml(path: str | os.PathLike, class_names: Sequence[str] | None = None) -> LabelledExamples:
    """Opens either file, by its suffix: [`load_radioml_2018`] for `.hdf5` and `.h5`, else [`load_radioml_2016`]."""
    if Path(path).suffix.lower() in (".hdf5", ".h5"):
        return load_radioml_2018(path, class_names)
    if class_names is not None:
        raise ValueError(f"{path}: only HDF5 files leave their classes unnamed. Leave out `class_names`.")
    return load_radioml_2016(path)


def load_radioml_2016(path: str | os.PathLike) -> LabelledExamples:
    """Reads RadioML 2016.10A (or 10B), `RML2016.10a_dict.pkl` or the `.tar.bz2` that it comes in, into memory.

    The file is a pickle of Python 2: a dictionary from `(modulation, snr_db)` to float32 arrays `(num, 2, samples)`.
    It is read by [`~data.array_pickle.read_array_pickle`], which calls nothing that the file names: a file that asks
    for anything but arrays is refused.

    Args:
        path (`str` or `os.PathLike`): The pickle, of any protocol to 4, or a tar archive with one.

    Returns:
        [`LabelledExamples`]: All examples in memory, by modulation and then SNR; class names in alphabetical order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, asks for something else than arrays to be built, or holds anything but
            such a dictionary of finite examples of one length.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Expected RadioML 2016.10A, `RML2016.10a_dict.pkl`.")
    try:
        with _pickle_stream(path) as stream:
            content = read_array_pickle(stream)
    except (pickle.UnpicklingError, tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"{path}: not a pickle of labelled arrays that can be read: {error}. Expected RadioML 2016.10A, "
            "`RML2016.10a_dict.pkl`, whole and unchanged: copy it again."
        ) from error
    cells: dict[tuple[str, int], np.ndarray] = {}
    for key, stored in content:
        name, snr_db = _cell_of(key, path)
        if (name, snr_db) in cells:
            raise ValueError(f"{path}: {name} at {snr_db} dB is there twice. Expected each once: copy the file again.")
        cells[name, snr_db] = _examples_of(stored, f"{path}: {name} at {snr_db} dB")
    lengths = {part.shape[1] for part in cells.values()}
    if len(lengths) > 1:
        raise ValueError(
            f"{path}: examples have {min(lengths)} and {max(lengths)} samples. Expected one length: the file is not "
            "RadioML 2016.10A, or was changed."
        )
    class_names = tuple(sorted({name for name, _ in cells}))
    order = sorted(cells)
    counts = [len(cells[key]) for key in order]
    iq = np.concatenate([cells.pop(key) for key in order])
    examples = LabelledExamples(
        labels=np.repeat([class_names.index(name) for name, _ in order], counts),
        snr_db=np.repeat(np.float32([snr_db for _, snr_db in order]), counts),
        class_names=class_names,
        num_samples=lengths.pop(),
        _read=iq.__getitem__,
    )
    examples.read()  # finds samples that are not finite now, when it is plain which file they came from
    return examples


def load_radioml_2018(path: str | os.PathLike, class_names: Sequence[str] | None = None) -> LabelledExamples:
    """Opens RadioML 2018.01A, `GOLD_XYZ_OSC.0001_1024.hdf5`. Labels are read now, samples when they are asked for.

    The file has the datasets `X` `(num, 1024, 2)`, float32; `Y` `(num, 24)`, one-hot; and `Z` `(num, 1)`, SNR [dB].

    Args:
        path (`str` or `os.PathLike`): The HDF5 file. Needs `h5py`, which the extra `train` brings.
        class_names (sequence of `str`, *optional*): One for each column of `Y`; those of the paper, in its order, for
            the published 24 columns. The `classes.txt` beside the file has them in a wrong order.

    Returns:
        [`LabelledExamples`].

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If `h5py` is not installed.
        ValueError: If the file is truncated or has other datasets, labels that are not one-hot, or an SNR that is not
            finite.
    """
    path = Path(path).expanduser()
    with _hdf5_datasets(path) as (samples, one_hot, snr):
        num, num_samples, num_classes = *samples.shape[:2], one_hot.shape[1]
        if class_names is None and num_classes != len(CLASSES_2018):
            raise ValueError(
                f"{path}: `Y` has {num_classes} classes, and RadioML 2018.01A has {len(CLASSES_2018)}. Pass their "
                "names as `class_names`, in the order of the columns."
            )
        class_names = tuple(CLASSES_2018 if class_names is None else class_names)
        if len(class_names) != num_classes:
            raise ValueError(
                f"{path}: {len(class_names)} class names for {num_classes} columns of `Y`: pass one each."
            )
        labels, snr_db = np.empty(num, np.int64), np.empty(num, np.float32)
        for start in range(0, num, LABEL_ROWS):
            part = slice(start, start + LABEL_ROWS)
            columns = one_hot[part]
            wrong = np.flatnonzero(((columns != 0) & (columns != 1)).any(axis=1) | (columns.sum(axis=1) != 1))
            if len(wrong):
                raise ValueError(
                    f"{path}: row {start + wrong[0]} of `Y` is {columns[wrong[0]].tolist()}. Expected one 1, else 0."
                )
            labels[part] = columns.argmax(axis=1)
            snr_db[part] = snr[part].reshape(-1)
    if not np.isfinite(snr_db).all():
        row = int(np.flatnonzero(~np.isfinite(snr_db))[0])
        raise ValueError(f"{path}: row {row} of `Z` is {snr_db[row]}. Expected the SNR, a finite number [dB].")

    def read(rows: np.ndarray) -> np.ndarray:
        iq = np.empty((len(rows), num_samples), np.complex64)
        order = np.argsort(rows, kind="stable")
        # One request for each run of neighbours: far quicker than h5py's list of points.
        runs = np.split(order, np.flatnonzero(np.diff(rows[order]) != 1) + 1) if len(rows) else []
        with _hdf5_datasets(path) as (samples, _, _):
            for run in runs:
                first = int(rows[run[0]])
                part = samples[first : first + len(run)].astype(np.float32)
                iq[run] = part.view(np.complex64)[..., 0]
        return iq

    return LabelledExamples(labels, snr_db, class_names, num_samples, _read=read)


def radioml_spectrograms(
    iq: np.ndarray | torch.Tensor,
    extractor: SpectrogramFeatureExtractor,
    window_samples: int = WINDOW_SAMPLES,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Spectrograms of examples that are shorter than a checkpoint's frames need, by a rule that invents no signal.

    128 frames of 128 samples need 255 samples even one sample apart; RadioML 2016.10A has 128. So an example is set
    between zeros, as many before as behind, until it is as long as the frames need (1,024 samples are long enough as
    they are); frames are then spread evenly over it, one (2016.10A) or seven (2018.01A) samples apart. Examples are
    never put end to end, and neither resampled, which would leave most bins empty. Frames overlap, so rows are far
    more alike than those of the recordings that checkpoints are trained on: that is a property of such short
    examples, and part of what the benchmark asks.

    A window as long as the FFT averages most of a short example, many symbols, in every frame. So the windows keep
    their shape but are one symbol long, with zeros around them in the FFT: rows differ more, bins less. On examples
    that TorchSig made in this format, a linear probe of embeddings told twice as many modulations apart with 8 samples
    as with 128; RadioML itself had no say in the choice.

    Args:
        iq (`np.ndarray` or `torch.Tensor` of shape `(batch, num_samples)`): Complex examples.
        extractor ([`SpectrogramFeatureExtractor`]):
            A checkpoint's. All its settings hold but for the hop, which is always `"auto"`, and the sampling rate,
            which is not asked for.
        window_samples (`int`, *optional*, defaults to 8):
            Length of the analysis windows; the extractor's own with its `fft_size` [samples].
        device (`str` or `torch.device`, *optional*): Where to compute; where the samples are if not given.

    Returns:
        `torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`, float32, on that device.

    Raises:
        ValueError: If the samples are not complex `(batch, num_samples)`, or the window does not fit the FFT.
    """
    settings = {**extractor.to_dict(), "hop_length": "auto", "sampling_rate": None}
    if window_samples != extractor.fft_size:
        settings["window_function"] = _shortened(extractor, window_samples)
    extractor = SpectrogramFeatureExtractor(**settings)
    iq = torch.as_tensor(iq, device=device)
    missing = max(0, extractor.num_samples_needed() - iq.shape[-1])
    return extractor.spectrogram(torch.nn.functional.pad(iq, (missing // 2, missing - missing // 2)))


def _shortened(extractor: SpectrogramFeatureExtractor, window_samples: int) -> list[list[float]]:
    """The extractor's windows, shorter and in the middle of zeros."""
    fft_size = extractor.fft_size
    windows = extractor.window_function
    windows = [windows] if isinstance(windows, str) else windows
    if not 2 <= window_samples <= fft_size or not all(isinstance(window, str) for window in windows):
        raise ValueError(
            f"`window_samples={window_samples}` does not fit this extractor. Expected 2 to {fft_size} samples, its "
            f"`fft_size`, and windows that have names: this one has {extractor.window_function!r}."
        )
    before = (fft_size - window_samples) // 2
    after = fft_size - window_samples - before
    return [np.pad(analysis_window(window, window_samples), (before, after)).tolist() for window in windows]


@contextmanager
def _pickle_stream(path: Path):
    """The pickle's bytes, out of its archive if it is in one."""
    if ".tar" not in path.suffixes:
        with open(path, "rb") as stream:
            yield stream
        return
    with tarfile.open(path, "r:*") as archive:
        # One by one: a list of all would unpack the whole archive first.
        for member in archive:
            if not member.isfile() or Path(member.name).suffix not in (".pkl", ".dat"):
                continue
            if member.size > MAX_UNPACKED_BYTES:
                raise pickle.UnpicklingError(
                    f"{member.name} would unpack to {member.size:,} bytes, more than {MAX_UNPACKED_BYTES:,}"
                )
            yield archive.extractfile(member)
            return
    raise pickle.UnpicklingError("there is no .pkl in this archive")


def _cell_of(key: Any, path: Path) -> tuple[str, int]:
    match key:
        case (str() | bytes() as name, int(snr_db)) if -1000 < snr_db < 1000:
            return (name if isinstance(name, str) else name.decode("latin1")), snr_db
    raise ValueError(f"{path}: a key of the pickle is not (modulation, SNR in dB). Expected such as ('QPSK', 10).")


def _examples_of(stored: np.ndarray, where: str) -> np.ndarray:
    """Complex examples `(num, samples)` of a stored array."""
    if stored.ndim != 3 or stored.shape[1] != 2 or not stored.size or stored.dtype.kind != "f":
        raise ValueError(
            f"{where}: the array has shape {stored.shape} and type {stored.dtype}. Expected float32 of shape "
            "(num, 2, 128), I and Q in the middle."
        )
    iq = np.empty((stored.shape[0], stored.shape[2]), np.complex64)
    iq.real, iq.imag = stored[:, 0], stored[:, 1]
    return iq


@contextmanager
def _hdf5_datasets(path: Path):
    """The datasets X, Y and Z, in this file and of the right shapes."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Expected RadioML 2018.01A, `GOLD_XYZ_OSC.0001_1024.hdf5`.")
    h5py = require("h5py", "train")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path}: {path.stat().st_size:,} bytes that are not a whole HDF5 file ({error}). Expected RadioML "
            "2018.01A: it may be truncated; copy it again."
        ) from error
    with file:
        datasets = []
        for name, ndim in (("X", 3), ("Y", 2), ("Z", 2)):
            found = stored_within(file, name)
            is_plain = isinstance(found, h5py.Dataset)
            if not is_plain or found.ndim != ndim or found.dtype.kind not in "fiu":
                about = f"{found.shape}, {found.dtype}" if is_plain else "missing, or not stored in the file"
                raise ValueError(
                    f"{path}: the dataset {name!r} is {about}. Expected numbers: X (num, 1024, 2), Y (num, 24) and "
                    "Z (num, 1)."
                )
            datasets.append(found)
        shapes = [dataset.shape for dataset in datasets]
        num = shapes[0][0]
        if {shape[0] for shape in shapes} != {num} or shapes[0][2] != 2 or shapes[2][1] != 1 or num == 0:
            raise ValueError(
                f"{path}: X, Y and Z have the shapes {shapes}. Expected (num, 1024, 2), (num, 24) and (num, 1)."
            )
        if num > MAX_SHAPE[0] or shapes[0][1] > MAX_SHAPE[1] or shapes[1][1] > MAX_CLASSES:
            raise ValueError(
                f"{path}: X and Y have the shapes {shapes[0]} and {shapes[1]}, larger than any RadioML. Expected "
                "(2555904, 1024, 2) and (2555904, 24)."
            )
        yield datasets


__all__ = [
    "CLASSES_2018",
    "LabelledExamples",
    "load_radioml",
    "load_radioml_2016",
    "load_radioml_2018",
    "radioml_spectrograms",
]

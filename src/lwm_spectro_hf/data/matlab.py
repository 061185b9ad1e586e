"""Recordings in MATLAB files, as `save` writes them, including HDF5."""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy.io import loadmat

from ..extras import require
from .hdf5 import stored_within

# Names in MATLAB's toolboxes and other programs that write such files, in lower case without underscores.
_RATE_NAMES = frozenset(
    {"fs", "sr", "samprate", "samplerate", "samplingrate", "sampfreq", "samplefrequency", "samplingfrequency"}
)
_FREQUENCY_NAMES = frozenset({"fc", "centerfreq", "centerfrequency", "carrierfreq", "carrierfrequency", "inputcenter"})
_INTERVAL_NAMES = frozenset({"xdelta"})  # from vector signal analyzers, together with `InputCenter`
# Types of data elements in versions 5 to 7.
_MATRIX, _COMPRESSED = 14, 15
_ELEMENTS = frozenset((*range(1, 8), 9, *range(12, 19)))
_HOW_TO_SAVE = "in MATLAB: save('recording.mat', 'iq', 'fs')"


@dataclass(frozen=True, eq=False)
class MatlabRecording:
    """The recording in a file.

    Attributes:
        iq (`np.ndarray` of shape `(num_samples, num_channels)`): complex64, in the file's own units.
        sampling_rate (`float`, *optional*): From a variable such as `fs`, or one over `XDelta` [Hz].
        center_frequency_hz (`float`, *optional*): From a variable such as `fc`.
    """

    iq: np.ndarray
    sampling_rate: float | None
    center_frequency_hz: float | None


def read_matlab(path: Path) -> MatlabRecording:
    """Reads the one recording in a `.mat` file, whole, as samples may be compressed, or I and Q stored separately.

    The samples are the only complex variable or field of a structure with one or two dimensions and more than one
    element, as MATLAB's Wireless Waveform Generator writes them (`waveform`, `Fs`). In a matrix the longer dimension
    is time, the other one channels. If nothing is complex, they are the only real matrix with two columns, I and Q.

    Args:
        path (`Path`): A file of version 4 to 7, or of 7.3, which is HDF5 and needs `h5py` (extra `train`).

    Raises:
        ImportError: If the file is HDF5 and `h5py` is not installed.
        ValueError: If it is not a whole MATLAB file, or holds no recording, or several.
    """
    with path.open("rb") as stream:
        is_hdf5 = stream.read(520)[512:] == b"\x89HDF\r\n\x1a\n"  # after MATLAB's own header
    h5py = require("h5py", "train") if is_hdf5 else None
    try:
        if h5py is None:
            whole = path.read_bytes()
            _check_elements(whole)
            variables = dict(_arrays(loadmat(io.BytesIO(whole), simplify_cells=True)))
        else:
            with h5py.File(path, "r") as file:
                variables = dict(_hdf5_arrays(h5py, file))
    except Exception as error:  # SciPy's reader may raise anything on a broken file
        raise ValueError(
            f"{path}: its {path.stat().st_size:,} bytes are not a complete .mat file ({error}). It may be truncated: "
            "copy it again."
        ) from error
    signals = {
        name: array
        for name, array in variables.items()
        if array.dtype.kind == "c" and array.ndim in (1, 2) and array.size > 1
    }
    if not signals:
        signals = {
            name: array[:, 0] + np.complex64(1j) * array[:, 1]
            for name, array in variables.items()
            if array.dtype.kind in "fi" and array.ndim == 2 and array.shape[1] == 2
        }
    if len(signals) != 1:
        held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in (signals or variables).items())
        raise ValueError(
            f"{path}: the file holds {held or 'no numbers'}. Expected one variable of complex samples, and their "
            f"rate: {_HOW_TO_SAVE}."
        )
    (iq,) = signals.values()
    if iq.ndim == 1:
        iq = iq[:, None]
    elif iq.shape[0] < iq.shape[1]:
        iq = iq.T
    rate, interval = _number(variables, _RATE_NAMES, path), _number(variables, _INTERVAL_NAMES, path)
    return MatlabRecording(
        iq=np.ascontiguousarray(iq, np.complex64),
        sampling_rate=1 / interval if rate is None and interval else rate,
        center_frequency_hz=_number(variables, _FREQUENCY_NAMES, path),
    )


def _check_elements(whole: bytes):
    """Checks the types of all data elements, since SciPy's reader for versions 5 to 7 crashes on unknown ones."""
    order = {b"IM": "<", b"MI": ">"}.get(whole[126:128])
    if order is None:  # version 4, which has no such types
        return
    parts = [memoryview(whole)[128:]]
    while parts:
        part = parts.pop()
        while part:
            kind, size = struct.unpack_from(f"{order}2I", part)
            begin = 8
            if kind >> 16:  # a small element: its size and up to four bytes of data share eight bytes with the type
                kind, size, begin = kind & 0xFFFF, kind >> 16, 4
            content = part[begin : begin + size]
            if kind not in _ELEMENTS or len(content) < size:
                raise ValueError(f"an element of type {kind} should have {size} bytes, but has {len(content)}")
            if kind == _MATRIX:
                parts.append(content)
            elif kind == _COMPRESSED:
                parts.append(memoryview(zlib.decompress(content)))
            # All but compressed elements are padded to multiples of eight bytes.
            part = part[begin + size if kind == _COMPRESSED else -(-(begin + size) // 8) * 8 :]


def _arrays(variables: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """All numeric arrays that SciPy has read; fields of structures are named `structure.field`."""
    for name, value in variables.items():
        if isinstance(value, Mapping):
            yield from _arrays(value, f"{within}{name}.")
        elif isinstance(value, np.ndarray | np.generic | int | float | complex):
            array = np.asarray(value)
            if array.dtype.kind in "cfiu":
                yield within + name, array


def _hdf5_arrays(h5py: ModuleType, group: Any, within: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The same for version 7.3, where dimensions are reversed and complex numbers are pairs."""
    for name in group:
        found = None if name.startswith("#") else stored_within(group, name)
        if isinstance(found, h5py.Group):
            yield from _hdf5_arrays(h5py, found, f"{within}{name}.")
            continue
        if not isinstance(found, h5py.Dataset):
            continue
        if found.attrs.get("MATLAB_class") == b"char" or "MATLAB_empty" in found.attrs:
            continue
        if found.dtype.names == ("real", "imag"):
            pairs = found[()]
            yield within + name, (pairs["real"] + np.complex64(1j) * pairs["imag"]).T.squeeze()
        elif found.dtype.kind in "fiu":
            yield within + name, found[()].T.squeeze()


def _number(variables: Mapping[str, np.ndarray], names: frozenset[str], path: Path) -> float | None:
    """The one number that the file has under any of some names, at any depth; `None` if there is none."""
    told = {
        float(value)
        for name, value in variables.items()
        if name.rpartition(".")[2].lower().replace("_", "") in names
        and value.size == 1
        and value.dtype.kind in "fiu"
        and np.isfinite(value)
    }
    if len(told) > 1:
        raise ValueError(
            f"{path}: {' and '.join(f'{value:g}' for value in sorted(told))} are given for the same quantity. "
            f"Expected one: {_HOW_TO_SAVE}."
        )
    return told.pop() if told else None

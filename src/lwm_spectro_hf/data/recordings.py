"""Recordings of complex baseband samples on disk: SigMF, WAV, NumPy, MATLAB and raw files.

All but MATLAB files are read in constant memory.
"""

import json
import math
import os
import re
import struct
import tarfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import sigmf
from sigmf.error import SigMFError
from sigmf.hashing import calculate_sha512
from sigmf.sigmffile import get_dataset_filename_from_metadata, get_sigmf_filenames

from .matlab import read_matlab

# Other programs' names for SigMF datatypes, accepted for raw files.
DATATYPE_ALIASES = {
    "complex64": "cf32",
    "complex128": "cf64",
    "cfile": "cf32",  # GNU Radio
    "fc32": "cf32",  # UHD
    "fc64": "cf64",
    "sc8": "ci8",
    "sc16": "ci16",
    "cs8": "ci8",  # HackRF, inspectrum
    "cs16": "ci16",
    "cs32": "ci32",
    "complex": "cf32",  # Universal Radio Hacker
    "complex16s": "ci8",
    "complex16u": "cu8",
}
DATATYPES = ("cf32", "cf64", "ci8", "ci16", "ci32", "cu8", "cu16", "cu32")
RAW_SUFFIXES = frozenset(f".{name}" for name in (*DATATYPES, *DATATYPE_ALIASES))
SIGMF_SUFFIXES = (".sigmf-meta", ".sigmf-data", ".sigmf")
# Suffixes of files that declare how their samples are stored, and of files that a search for recordings considers.
SELF_DESCRIBING = (*SIGMF_SUFFIXES, ".wav", ".npy", ".mat")
SEARCHED = frozenset({".sigmf-meta", ".sigmf", ".wav", ".npy", ".mat"}) | RAW_SUFFIXES
# Suffixes of files that may have several channels.
WITH_CHANNELS = (*SIGMF_SUFFIXES, ".mat")

# What can be read, for error messages.
_READABLE = (
    "SigMF (.sigmf-meta beside .sigmf-data, or an uncompressed .sigmf archive), .wav (I and Q as two channels), .npy "
    "(complex, or (num_samples, 2)), .mat (one variable of complex samples), or a raw file with `dtype` and "
    "`sampling_rate`"
)


# Names of the fields of `.npy` files whose samples are pairs of integers, as UHD and others hold them.
_PAIR_NAMES = (("re", "im"), ("real", "imag"), ("i", "q"), ("I", "Q"))
# First bytes of files that hold more than raw samples.
_CONTAINERS = {
    b"RIFF": "a WAV file: give it the suffix .wav",
    b"RF64": "a WAV file: give it the suffix .wav",
    b"BW64": "a WAV file: give it the suffix .wav",
    b"PK\x03\x04": "a ZIP archive, as .npz files are",
    b"\x1f\x8b\x08": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a Zstandard file",
    b"MATLAB ": "a MATLAB file: give it the suffix .mat",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array: give it the suffix .npy",
}


# Types of WAV files by the code of their format, integers or floats, and the bytes of a value.
_WAV_TYPES = {(1, 1): "u1", (1, 2): "i2", (1, 4): "i4", (1, 8): "i8", (3, 4): "f4", (3, 8): "f8"}
_WAV_EXTENSIBLE = 0xFFFE  # the code is in an extension
# The carrier frequency as SDR#, SDR++, HDSDR and others put it into file names.
_NAMED_FREQUENCY = re.compile(r"_(\d+)(k?)Hz(?=[_.])")
# Names of raw files of Gqrx end with the carrier frequency, the rate and the type, complex floats.
_NAMED_BY_GQRX = re.compile(r"gqrx_.*_(\d+)_(\d+)_fc\.raw")


@dataclass(frozen=True)
class SampleFormat:
    """How one complex sample is stored.

    Args:
        component (`np.dtype`): Type of I and of Q, which alternate.
        midpoint (`float`): The stored value that means zero: the middle of the range for unsigned types.
        scale (`float`): Factor for each component; scales integers to -1 ... 1.
    """

    component: np.dtype
    midpoint: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, component: np.dtype) -> "SampleFormat":
        component = np.dtype(component)
        if component.kind not in "iu":
            return cls(component)
        full_scale = 2.0 ** (8 * component.itemsize - 1)
        return cls(component, midpoint=full_scale - 0.5 if component.kind == "u" else 0.0, scale=1 / full_scale)

    @classmethod
    def from_datatype(cls, datatype: str, where: str) -> "SampleFormat":
        """Parses a SigMF datatype such as `"ci16_le"`, or an alias. Little-endian unless specified.

        Raises:
            ValueError: If the datatype is real-valued or unknown.
        """
        name, _, order = str(datatype).lower().partition("_")
        name = DATATYPE_ALIASES.get(name, name)
        if order in ("", "le", "be"):
            if name in DATATYPES:
                kind, bits = name[1], int(name[2:])
                return cls.of(np.dtype(f"{'>' if order == 'be' else '<'}{kind}{bits // 8}"))
            if re.fullmatch(r"r[fiu](8|16|32|64)", name):
                raise ValueError(
                    f"{where}: the datatype {datatype!r} is real-valued. Expected complex baseband samples, one of "
                    f"{', '.join(DATATYPES)}. Make it complex first, for example with `scipy.signal.hilbert`."
                )
        raise ValueError(
            f"{where}: unknown datatype {datatype!r}. Expected one of {', '.join(DATATYPES)} (with '_le' or '_be' at "
            f"the end), or an alias: {', '.join(DATATYPE_ALIASES)}."
        )


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording that stays on disk until its samples are read. Created by [`open_recording`].

    The file is not kept open, so a recording can be pickled and passed to other processes.

    Args:
        path (`Path`): The file that was opened.
        sampling_rate (`float`): [Hz].
        num_samples (`int`): Complex samples of the chosen channel.
        center_frequency_hz (`float`, *optional*): Carrier frequency; `None` if it is unknown, or captures differ.
        annotations (`list` of `dict`): As in the SigMF metadata, with keys such as `core:label`.
        metadata (`dict`): The whole SigMF metadata; empty for other files.
    """

    path: Path
    sampling_rate: float
    num_samples: int
    center_frequency_hz: float | None = None
    annotations: list[dict] = field(default_factory=list, repr=False)
    metadata: dict = field(default_factory=dict, repr=False)
    _data_path: Path = field(default=None, repr=False)
    _offset: int = field(default=0, repr=False)  # of the first sample [bytes]
    _format: SampleFormat = field(default=None, repr=False)
    _num_channels: int = field(default=1, repr=False)
    _channel: int = field(default=0, repr=False)
    _samples: np.ndarray | None = field(default=None, repr=False)  # for files that cannot be read in parts

    @property
    def duration_s(self) -> float:
        """Length of the recording [s]."""
        return self.num_samples / self.sampling_rate

    def __len__(self) -> int:
        return self.num_samples

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Reads a part of the recording.

        Args:
            start (`int`, *optional*, defaults to 0): First sample.
            count (`int`, *optional*): Number of samples; to the end if not given.

        Returns:
            `np.ndarray` of shape `(count,)`, complex64. Integers are scaled to -1 ... 1.

        Raises:
            ValueError: If the part does not lie within the recording, or the file has become shorter.
        """
        start, count = part_of(self, start, count, "the recording")
        if self._samples is not None:
            return self._samples[start : start + count].copy()
        iq = np.empty((count, 2), dtype=np.float32)
        if count:
            # Mapped anew each time: the pages of one long-lived map would accumulate in memory.
            try:
                stored = np.memmap(
                    self._data_path,
                    dtype=self._format.component,
                    mode="r",
                    offset=self._offset + start * self._num_channels * 2 * self._format.component.itemsize,
                    shape=(count, self._num_channels, 2),
                )[:, self._channel]
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: {self._data_path} is shorter than when it was opened. Open it again once no other "
                    "program writes to it."
                ) from error
            np.subtract(stored, self._format.midpoint, out=iq, casting="same_kind")
            iq *= np.float32(self._format.scale)
        return iq.view(np.complex64)[:, 0]

    def windows(self, window_samples: int, hop_samples: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Iterates over windows of the recording, one in memory at a time. A shorter remainder at the end is skipped.

        Args:
            window_samples (`int`): Length of each window [samples].
            hop_samples (`int`, *optional*, defaults to `window_samples`): From the start of one window to the next
                [samples].

        Returns:
            Iterator over `(start, iq)`: the first sample of the window, and `np.ndarray` of shape `(window_samples,)`,
            complex64.

        Raises:
            ValueError: If the recording is shorter than one window, or the arguments are not positive.
        """
        hop_samples = window_samples if hop_samples is None else hop_samples
        if window_samples < 1 or hop_samples < 1:
            raise ValueError(
                f"Expected positive `window_samples` and `hop_samples`, got {window_samples}, {hop_samples}."
            )
        if window_samples > self.num_samples:
            raise ValueError(
                f"{self.path}: the recording has {self.num_samples} samples, fewer than one window of "
                f"{window_samples}. Take a shorter window or a longer recording."
            )
        starts = range(0, self.num_samples - window_samples + 1, hop_samples)
        return ((start, self.read(start, window_samples)) for start in starts)


def part_of(recording: Any, start: int, count: int | None, name: str) -> tuple[int, int]:
    """First sample and number of samples of a part of a recording, checked.

    Args:
        recording (`Recording` or `Band`): What is read.
        start (`int`): First sample.
        count (`int`, *optional*): Number of samples; to the end if not given.
        name (`str`): Name of the recording in error messages.

    Raises:
        ValueError: If the part does not lie within the recording.
    """
    start = int(start)  # narrow NumPy types would overflow in byte offsets
    count = recording.num_samples - start if count is None else int(count)
    if start < 0 or count < 0 or start + count > recording.num_samples:
        raise ValueError(
            f"{recording.path}: {count} samples from sample {start} on were requested, but {name} has "
            f"{recording.num_samples}. Request a part within it."
        )
    return start, count


def open_recording(
    path: str | os.PathLike,
    dtype: str | None = None,
    sampling_rate: float | None = None,
    channel: int | None = None,
    check_hash: bool = True,
) -> Recording:
    """Opens a recording of complex baseband samples; they are read later, where the format allows.

    Args:
        path (`str` or `os.PathLike`):
            A SigMF recording (its `.sigmf-meta`, its `.sigmf-data`, their common name, or an uncompressed `.sigmf`
            archive), a `.wav` file of two channels, I and Q, as SDR programs write them, a `.npy` file (complex
            `(num_samples,)`, or I and Q as `(num_samples, 2)`), a `.mat` file ([`read_matlab`]; only these are read
            at once and kept in memory), or a raw file of alternating I and Q.
        dtype (`str`, *optional*):
            Sample type of a raw file, such as `"cf32"`, `"ci16"`, `"cu8"` or `"ci16_be"`. Not needed where the suffix
            is such a name.
        sampling_rate (`float`, *optional*):
            [Hz]. Required for `.npy` and raw files (but those that Gqrx has named), and where SigMF metadata or a
            `.mat` file does not give it. Other files declare it.
        channel (`int`, *optional*): Which channel of a SigMF or MATLAB recording that has several.
        check_hash (`bool`, *optional*, defaults to `True`):
            Compare the data with the hash in SigMF metadata, if there is one. This reads all data once.

    Returns:
        [`Recording`].

    Raises:
        FileNotFoundError: If the file, or the data or metadata of a SigMF recording, is missing.
        ValueError: If the file is truncated, empty, not complex, of an unknown kind, or lacks a sample type or rate.
    """
    path = Path(path).expanduser()
    if sampling_rate is not None:
        _check_rate(sampling_rate, "`sampling_rate`")
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Expected one recording: pass one of the files in it.")
    names = get_sigmf_filenames(path)
    is_base_name = not path.exists() and (names["meta_fn"].exists() or names["data_fn"].exists())
    suffix = path.suffix.lower()
    if suffix in SIGMF_SUFFIXES or is_base_name:
        if dtype is not None:
            raise ValueError(f"{path}: the SigMF metadata already gives the sample type. Leave out `dtype={dtype!r}`.")
        open_sigmf = _open_sigmf_archive if suffix == ".sigmf" else _open_sigmf_pair
        return open_sigmf(path, sampling_rate, channel, check_hash)
    if not path.exists():
        raise FileNotFoundError(f"There is no recording {path}. Expected {_READABLE}.")
    if suffix in SELF_DESCRIBING and dtype is not None:
        raise ValueError(f"{path}: a {suffix} file already gives its sample type. Leave out `dtype={dtype!r}`.")
    if suffix == ".mat":
        return _open_matlab(path, sampling_rate, channel)
    if channel is not None:
        raise ValueError(f"{path}: only SigMF and .mat files have channels. Leave out `channel={channel}`.")
    if suffix in SELF_DESCRIBING:
        return (_open_wav if suffix == ".wav" else _open_npy)(path, sampling_rate)
    return _open_raw(path, dtype, sampling_rate)


def write_sigmf(
    path: str | os.PathLike,
    iq: np.ndarray,
    sampling_rate: float,
    annotations: Sequence[Mapping[str, Any]] | None = None,
    description: str | None = None,
    center_frequency_hz: float | None = None,
    global_info: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a SigMF recording as `cf32_le`. Both files appear whole: they are written under other names and renamed.

    Args:
        path (`str` or `os.PathLike`): Name of the recording, with or without a SigMF suffix.
        iq (`np.ndarray` of shape `(num_samples,)`): Complex samples.
        sampling_rate (`float`): [Hz].
        annotations (list of `dict`, *optional*):
            With keys as in SigMF (`core:label`, or those of an extension, such as `lwm:protocol`).
            `core:sample_start` defaults to 0 and `core:sample_count` to the rest of the recording.
        description (`str`, *optional*): Description of the recording.
        center_frequency_hz (`float`, *optional*): Carrier frequency.
        global_info (`dict`, *optional*): Further global fields, such as `core:author` or `core:license`.

    Returns:
        `Path` of the `.sigmf-meta` file.

    Raises:
        ValueError: If the samples are not complex, not one-dimensional or empty, or the metadata is not valid SigMF.
    """
    iq = np.asarray(iq)
    if iq.dtype.kind != "c" or iq.ndim != 1 or not iq.size:
        raise ValueError(
            f"Got samples of shape {iq.shape} and type {iq.dtype}. Expected complex samples of shape (num_samples,), "
            "with at least one sample."
        )
    info = {"core:datatype": "cf32_le", "core:sample_rate": _check_rate(sampling_rate, "`sampling_rate`")}
    if description is not None:
        info["core:description"] = description
    capture = {} if center_frequency_hz is None else {"core:frequency": float(center_frequency_hz)}
    info |= _plain_values(global_info or {})
    marks = [{"core:sample_start": 0} | _plain_values(annotation) for annotation in annotations or []]
    for mark in marks:
        start = mark["core:sample_start"]
        count = mark.setdefault("core:sample_count", iq.size - start)
        if not (0 <= start and 0 <= count and start + count <= iq.size):
            raise ValueError(
                f"{path}: an annotation covers {count} samples from sample {start} on. Expected samples among the "
                f"{iq.size} of the recording."
            )
    unnamed = [key for section in (info, *marks) for key in section if ":" not in key]
    if unnamed:
        raise ValueError(f"{path}: the key {unnamed[0]!r} has no namespace. Expected one, as in 'core:label'.")
    namespaces = {key.split(":")[0] for section in (info, *marks) for key in section} - {"core"}
    if namespaces:
        extensions = [{"name": name, "version": "1.0.0", "optional": True} for name in sorted(namespaces)]
        info.setdefault("core:extensions", extensions)

    final = get_sigmf_filenames(Path(path).expanduser())
    final["base_fn"].parent.mkdir(parents=True, exist_ok=True)
    aside = get_sigmf_filenames(final["base_fn"].with_name(f".{final['base_fn'].name}.{uuid.uuid4().hex}"))
    try:
        # Not by `tofile`, which calls a full disk "768000 requested and 129536 written".
        aside["data_fn"].write_bytes(np.ascontiguousarray(iq, "<c8").view(np.uint8).data)
        metadata = sigmf.SigMFFile(global_info=info)
        metadata.add_capture(0, capture)
        for mark in marks:
            metadata.add_annotation(mark.pop("core:sample_start"), mark.pop("core:sample_count"), mark)
        metadata.set_data_file(aside["data_fn"])  # also computes the hash
        try:
            metadata.tofile(aside["base_fn"])
        except Exception as error:  # from jsonschema, which sigmf does not wrap
            raise ValueError(f"{path}: this is not valid SigMF metadata: {error}") from error
        os.replace(aside["data_fn"], final["data_fn"])
        os.replace(aside["meta_fn"], final["meta_fn"])
    finally:
        for name in ("data_fn", "meta_fn"):
            aside[name].unlink(missing_ok=True)
    return final["meta_fn"]


def _plain_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert NumPy's numbers to Python's, which JSON can hold."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in fields.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _check_rate(value: Any, where: str) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{where} is {value!r}. Expected the sampling rate, a positive number [Hz].")
    return float(value)


def _open_raw(path: Path, dtype: str | None, sampling_rate: float | None) -> Recording:
    frequency_hz = None
    if named := _NAMED_BY_GQRX.fullmatch(path.name):
        frequency_hz, rate = float(named[1]), _check_rate(float(named[2]), f"{path}: the rate in its name")
        sampling_rate, dtype = _same_rate(sampling_rate, rate, f"{path}: its name"), dtype or "cf32"
    if dtype is None and path.suffix.lower() not in RAW_SUFFIXES:
        raise ValueError(
            f"{path}: the suffix {path.suffix!r} does not say what the file contains. Expected {_READABLE}: for raw "
            "samples, pass for example `dtype='ci16', sampling_rate=20e6` (on the command line: --dtype ci16 "
            "--sampling-rate 20e6)."
        )
    if path.suffix.lower() not in RAW_SUFFIXES:
        with path.open("rb") as stream:
            begin = stream.read(max(map(len, _CONTAINERS)))
        kind = next((name for magic, name in _CONTAINERS.items() if begin.startswith(magic)), None)
        if kind is not None:
            raise ValueError(
                f"{path}: this is {kind}, whose header and packed data would be read as samples. Expected "
                f"{_READABLE}: save the samples in one of these formats, for example with `numpy.save`."
            )
    sample_format = SampleFormat.from_datatype(dtype or path.suffix[1:], str(path))
    size = path.stat().st_size
    return _recording(path, path, sampling_rate, sample_format, 0, size, center_frequency_hz=frequency_hz)


@dataclass(frozen=True)
class _WavHeader:
    """What the chunks of a WAV file say before the samples begin.

    Args:
        rate (`int`): [Hz].
        num_channels (`int`): Two are I and Q.
        component (`np.dtype`): Type of each value.
        offset (`int`): Of the samples [bytes].
        size (`int`): Of the samples, as it was written down [bytes].
        center_frequency_hz (`float`, *optional*): Which SDR#, HDSDR and SDRuno write.
    """

    rate: int
    num_channels: int
    component: np.dtype
    offset: int
    size: int
    center_frequency_hz: float | None

    @classmethod
    def read(cls, stream: BinaryIO) -> "_WavHeader":
        """Reads the chunks of a RIFF file, or of RF64 or BW64, whose sizes have 64 bits.

        Raises:
            ValueError or struct.error: If they are not those of a WAV file of a known type.
        """
        magic, form = struct.unpack("4s4x4s", stream.read(12))
        if magic not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or form != b"WAVE":
            raise ValueError(f"it begins with {magic!r}")
        order = ">" if magic == b"RIFX" else "<"
        chunks: dict[bytes, bytes] = {}
        while True:
            name, size = struct.unpack(f"{order}4sI", stream.read(8))
            if name == b"data":
                break
            following = stream.tell() + size + size % 2
            if name in (b"fmt ", b"ds64", b"auxi"):
                chunks[name] = stream.read(size)
            stream.seek(following)
        if b"fmt " not in chunks:
            raise ValueError("its samples begin before their format")
        code, num_channels, rate, block = struct.unpack_from(f"{order}HHI4xH", chunks[b"fmt "])
        if code == _WAV_EXTENSIBLE:
            (code,) = struct.unpack_from(f"{order}H", chunks[b"fmt "], 24)
        width = block // max(num_channels, 1)
        if (code, width) not in _WAV_TYPES:
            raise ValueError(f"its format has the code {code} and {width} bytes a value")
        if size == 0xFFFFFFFF and b"ds64" in chunks:
            (size,) = struct.unpack_from("<8xQ", chunks[b"ds64"])
        center_hz = None
        if len(chunks.get(b"auxi", b"")) >= 36:
            # Two times of the clock, each beginning with the year, then the frequency. Others write text here.
            year, center_hz = struct.unpack_from("<H30xI", chunks[b"auxi"])
            center_hz = float(center_hz) if 1980 <= year <= 2200 and center_hz else None
        component = np.dtype(order + _WAV_TYPES[code, width])
        return cls(rate, num_channels, component, stream.tell(), size, center_hz)


def _open_wav(path: Path, sampling_rate: float | None) -> Recording:
    file_size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            header = _WavHeader.read(stream)
        size, held = header.size, file_size - header.offset
        # Recorders that cannot go back, or were killed, leave a size of 0, or of almost 31, 32 or more bits.
        if (not size or size > held) and -size % 2**31 < 4096:
            size = held - held % max(1, header.num_channels * header.component.itemsize)
            if size > 0:
                warnings.warn(
                    f"{path}: the header does not say how many samples there are, as if the recorder had been stopped "
                    "before it wrote that down. All up to the end of the file are read.",
                    stacklevel=3,
                )
        if size > held:
            raise ValueError(f"{size} bytes of samples, of which {held} are there")
    except (ValueError, struct.error) as error:
        raise ValueError(
            f"{path}: its {file_size} bytes are not a complete .wav file of 8, 16, 32 or 64 bits ({error}). "
            "It may be truncated or packed: save it again, for example with 16 bits."
        ) from error
    if header.num_channels != 2:
        raise ValueError(
            f"{path}: the file has {header.num_channels} channel(s). Expected two, I and Q: the "
            "audio that a receiver has demodulated is not baseband."
        )
    rate = _same_rate(sampling_rate, _check_rate(header.rate, f"{path}: the rate in the file"), f"{path}: the file")
    format = SampleFormat.of(header.component)
    if header.component.kind == "u":  # WAV defines zero as 128, not as the middle of the range
        format = replace(format, midpoint=128.0)
    named = _NAMED_FREQUENCY.search(path.name)  # first, as those in headers have only 32 bits
    frequency_hz = float(named[1]) * (1e3 if named[2] else 1) if named else header.center_frequency_hz
    return _recording(path, path, rate, format, header.offset, size, center_frequency_hz=frequency_hz)


def _same_rate(given: float | None, declared: float, where: str) -> float:
    if given is not None and not math.isclose(given, declared, rel_tol=1e-6):
        raise ValueError(
            f"{where} says {declared:,.0f} Hz, but `sampling_rate={given:,.0f}` was given. Leave it out, or correct "
            "whichever is wrong."
        )
    return declared


def _chosen(channel: int | None, num_channels: int, path: Path) -> int:
    if channel is None and num_channels == 1:
        return 0
    if channel is None or not 0 <= channel < num_channels:
        asked = "none was chosen" if channel is None else f"`channel={channel}` was requested"
        raise ValueError(
            f"{path}: the recording has {num_channels} channel(s), and {asked}. Expected one of them: pass "
            f"`channel=0` to `channel={num_channels - 1}` (--channel on the command line)."
        )
    return channel


def _open_matlab(path: Path, sampling_rate: float | None, channel: int | None) -> Recording:
    held = read_matlab(path)
    if held.sampling_rate is not None:
        declared = _check_rate(held.sampling_rate, f"{path}: the rate in the file")
        sampling_rate = _same_rate(sampling_rate, declared, f"{path}: the file")
    samples = np.ascontiguousarray(held.iq[:, _chosen(channel, held.iq.shape[1], path)])
    return _recording(
        path,
        path,
        sampling_rate,
        SampleFormat.of(np.dtype(np.float32)),
        0,
        samples.nbytes,
        center_frequency_hz=held.center_frequency_hz,
        _samples=samples,
    )


def _open_npy(path: Path, sampling_rate: float | None) -> Recording:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's reader, too, parses a broken header as Python code
        size = path.stat().st_size
        raise ValueError(
            f"{path}: its {size} bytes are not a complete .npy file ({error}). Expected an array of complex samples, "
            "written with `numpy.save`. The file may be truncated or hold Python objects: save it again."
        ) from error
    if (
        array.dtype.names in _PAIR_NAMES
        and array.ndim == 1
        and array.dtype == np.dtype([(name, array.dtype[0]) for name in array.dtype.names])
    ):
        array = array.view(array.dtype[0]).reshape(-1, 2)
    kind, shape = array.dtype.kind, array.shape
    is_one_channel = len(shape) == 1 or (len(shape) == 2 and 1 in shape)  # UHD writes (1, num_samples)
    # Unsigned types have zero in the middle of their range, which nobody uses 64 bits for.
    widest = 4 if kind == "u" else 8
    is_pairs = kind in "fiu" and array.ndim == 2 and shape[1] == 2 and array.dtype.itemsize <= widest
    if not (kind == "c" and is_one_channel and array.dtype.itemsize <= 16) and not is_pairs:
        raise ValueError(
            f"{path}: the array has shape {shape} and type {array.dtype}. Expected complex samples of shape "
            "(num_samples,), or I and Q of shape (num_samples, 2)."
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{path}: the array is in Fortran order. Expected C order: save `numpy.ascontiguousarray(iq)`."
        )
    component = array.dtype if is_pairs else np.dtype(f"{array.dtype.byteorder}f{array.dtype.itemsize // 2}")
    return _recording(path, path, sampling_rate, SampleFormat.of(component), array.offset, array.nbytes)


def _open_sigmf_pair(path: Path, sampling_rate: float | None, channel: int | None, check_hash: bool) -> Recording:
    names = get_sigmf_filenames(path)
    meta_path, data_path = names["meta_fn"], names["data_fn"]
    if not meta_path.exists() and not data_path.exists():
        raise FileNotFoundError(f"There is no recording {path}. Expected {_READABLE}.")
    if not meta_path.exists():
        raise FileNotFoundError(
            f"{path}: its metadata file {meta_path} is missing. Expected it beside the data. To open the data without "
            "it, as raw samples, rename the data file and pass `dtype` and `sampling_rate`."
        )
    try:
        metadata = json.loads(meta_path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{meta_path}: not valid JSON ({error}). Expected SigMF metadata: correct it or write it again."
        ) from error
    _check_metadata(metadata, meta_path)
    dataset = metadata["global"].get("core:dataset")
    if dataset is not None and (Path(str(dataset)).name != dataset or dataset == ".."):
        raise ValueError(f"{meta_path}: 'core:dataset' is {dataset!r}. Expected the name of a file beside it.")
    try:
        data_path = get_dataset_filename_from_metadata(meta_path, metadata)
    except SigMFError as error:
        raise FileNotFoundError(f"{meta_path}: {error} Put that file beside the metadata.") from error
    if data_path is None:
        raise FileNotFoundError(
            f"{meta_path}: its data {names['data_fn']} is missing. Expected it beside the metadata: copy it there."
        )
    return _open_sigmf(path, metadata, data_path, 0, data_path.stat().st_size, sampling_rate, channel, check_hash)


def _open_sigmf_archive(path: Path, sampling_rate: float | None, channel: int | None, check_hash: bool) -> Recording:
    if not path.exists():
        raise FileNotFoundError(f"There is no recording {path}. Expected {_READABLE}.")
    try:
        with tarfile.open(path, "r:") as archive:
            # macOS packs a `._x.sigmf-meta` beside `x.sigmf-meta`.
            members = [member for member in archive.getmembers() if member.isfile() and "/._" not in f"/{member.name}"]
            (meta,) = (member for member in members if member.name.endswith(".sigmf-meta"))
            (data,) = (member for member in members if member.name.endswith(".sigmf-data"))
            metadata = json.loads(archive.extractfile(meta).read())
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(
            f"{path}: this cannot be read as a SigMF archive ({error!r}). Expected an uncompressed tar file with one "
            ".sigmf-meta and one .sigmf-data. It may be truncated: copy it again."
        ) from error
    _check_metadata(metadata, path)
    size = min(data.size, path.stat().st_size - data.offset_data)
    return _open_sigmf(path, metadata, path, data.offset_data, size, sampling_rate, channel, check_hash)


def _check_metadata(metadata: Any, where: Path):
    """Checks the structure of SigMF metadata, and the types of the fields that are read from it."""
    is_valid = isinstance(metadata, dict) and isinstance(metadata.get("global"), dict)
    for section in ("captures", "annotations"):
        entries = metadata.get(section, []) if is_valid else None
        is_valid = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not is_valid:
        raise ValueError(
            f"{where}: not SigMF metadata. Expected an object with 'global' (an object), 'captures' and 'annotations' "
            "(lists of objects): write it again with the `sigmf` package."
        )
    counts = ("core:num_channels", "core:offset", "core:trailing_bytes", "core:header_bytes")
    sections = [metadata["global"], *metadata.get("captures", []), *metadata.get("annotations", [])]
    for section in sections:
        for key in (*counts, "core:sample_start", "core:sample_count"):
            value = section.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{where}: {key!r} is {value!r}. Expected a whole number, at least 0: correct it.")
        frequency = section.get("core:frequency")
        if frequency is not None and not (_is_number(frequency) and math.isfinite(frequency)):
            raise ValueError(f"{where}: 'core:frequency' is {frequency!r}. Expected a finite number [Hz] or null.")


def _open_sigmf(
    path: Path,
    metadata: dict,
    data_path: Path,
    offset: int,
    size: int,
    sampling_rate: float | None,
    channel: int | None,
    check_hash: bool,
) -> Recording:
    """Opens SigMF data that lie in `size` bytes of `data_path` from `offset`."""
    info, captures = metadata["global"], metadata.get("captures", [])
    annotations = metadata.get("annotations", [])
    if "core:datatype" not in info:
        raise ValueError(f"{path}: the metadata has no 'core:datatype'. Expected one, such as 'cf32_le': add it.")
    sample_format = SampleFormat.from_datatype(info["core:datatype"], str(path))

    if "core:sample_rate" in info:
        declared_rate = _check_rate(info["core:sample_rate"], f"{path}: 'core:sample_rate'")
        sampling_rate = _same_rate(sampling_rate, declared_rate, f"{path}: the metadata")

    num_channels = info.get("core:num_channels", 1)
    channel = _chosen(channel, num_channels, path)

    if any(capture.get("core:header_bytes") for capture in captures[1:]):
        raise ValueError(
            f"{path}: several captures have 'core:header_bytes' between their samples, which is not supported. "
            "Expected contiguous samples: convert the recording with the `sigmf` package."
        )
    header = captures[0].get("core:header_bytes", 0) if captures else 0
    frequencies = {capture.get("core:frequency") for capture in captures}
    recording = _recording(
        path,
        data_path,
        sampling_rate,
        sample_format,
        offset + header,
        size - header - info.get("core:trailing_bytes", 0),
        num_channels=num_channels,
        channel=channel,
        center_frequency_hz=frequencies.pop() if len(frequencies) == 1 else None,
        annotations=annotations,
        metadata=metadata,
    )

    ends = [mark.get("core:sample_start", 0) + mark.get("core:sample_count", 0) for mark in (*captures, *annotations)]
    declared = max(ends, default=0) - info.get("core:offset", 0)
    if declared > recording.num_samples:
        raise ValueError(
            f"{path}: {data_path} is truncated: it holds {recording.num_samples} samples, but the captures and "
            f"annotations reach to sample {declared}. Copy the data again."
        )
    declared_hash = str(info.get("core:sha512") or "").lower()
    if check_hash and declared_hash and calculate_sha512(data_path, offset=offset, size=size) != declared_hash:
        raise ValueError(
            f"{path}: the {size} bytes of {data_path} do not match 'core:sha512' in the metadata: they were truncated "
            "or changed. Copy the data again; to read them as they are, remove `core:sha512` from the metadata, or "
            "call `open_recording(..., check_hash=False)`."
        )
    return recording


def _recording(
    path: Path,
    data_path: Path,
    sampling_rate: float | None,
    sample_format: SampleFormat,
    offset: int,
    size: int,
    num_channels: int = 1,
    channel: int = 0,
    **attributes,
) -> Recording:
    """Creates a recording after the checks common to all files: a known rate, and a whole number of samples."""
    if sampling_rate is None:
        raise ValueError(f"{path}: the sampling rate is not known. Pass `sampling_rate` [Hz] (--sampling-rate).")
    sample_bytes = 2 * sample_format.component.itemsize * num_channels
    num_samples, remainder = divmod(size, sample_bytes)
    if size > 0 and remainder:
        raise ValueError(
            f"{path}: the {size} bytes of samples in {data_path} are not a multiple of the {sample_bytes} bytes of a "
            f"sample: the file is truncated, or I and Q are not of type {sample_format.component}. Copy the data "
            "again, or correct the type."
        )
    if size <= 0:
        raise ValueError(f"{path}: {data_path} holds no samples. Expected at least one: record or copy it again.")
    return Recording(
        path=path,
        sampling_rate=float(sampling_rate),
        num_samples=num_samples,
        _data_path=data_path,
        _offset=offset,
        _format=sample_format,
        _num_channels=num_channels,
        _channel=channel,
        **attributes,
    )


__all__ = ["DATATYPES", "DATATYPE_ALIASES", "Recording", "open_recording", "write_sigmf"]

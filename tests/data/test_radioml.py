"""RadioML files: they are read exactly, nothing in a pickle is executed, and damage is named."""

import codecs
import io
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.radioml import (
    CLASSES_2018,
    load_radioml,
    load_radioml_2016,
    load_radioml_2018,
    radioml_spectrograms,
)
from radioml_files import modulated, python2_pickle, write_2018

CELLS = modulated(("QPSK", "8PSK", "AM-DSB"), (-20, 0, 18), per_cell=4, num_samples=128)
EXTRACTOR = SpectrogramFeatureExtractor(window_function=["boxcar", "general_hamming:0.72"], hop_length=64)


def assert_holds(examples, cells):
    assert len(examples) == sum(map(len, cells.values()))
    assert examples.sampling_rate == 1e6
    for (name, snr_db), expected in cells.items():
        rows = np.flatnonzero((examples.labels == examples.class_names.index(name)) & (examples.snr_db == snr_db))
        iq = examples.read(rows)
        assert iq.dtype == np.complex64 and iq.shape == (len(expected), examples.num_samples)
        np.testing.assert_array_equal(np.stack([iq.real, iq.imag], 1), expected)


class Test2016:
    @pytest.mark.parametrize("protocol", [0, 2])
    def test_reads_what_python_2_wrote(self, tmp_path, protocol):
        path = tmp_path / "RML2016.10a_dict.pkl"
        path.write_bytes(python2_pickle(CELLS, protocol))
        # The file is what it claims to be: Python's own reader agrees.
        theirs = pickle.loads(path.read_bytes(), encoding="latin1")
        np.testing.assert_array_equal(theirs["8PSK", -20], CELLS["8PSK", -20])

        examples = load_radioml(path)
        assert examples.class_names == ("8PSK", "AM-DSB", "QPSK")
        assert_holds(examples, CELLS)

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    @pytest.mark.parametrize("as_bytes", [False, True])
    def test_reads_what_python_3_saved_again(self, tmp_path, protocol, as_bytes):
        cells = {(name.encode() if as_bytes else name, snr): part for (name, snr), part in CELLS.items()}
        path = tmp_path / "saved.pkl"
        path.write_bytes(pickle.dumps(cells, protocol))
        assert_holds(load_radioml_2016(path), CELLS)

    @pytest.mark.parametrize("compression", ["bz2", "gz", ""])
    def test_reads_the_archive(self, tmp_path, compression):
        path = tmp_path / f"RML2016.10a.tar.{compression}".rstrip(".")
        content = python2_pickle(CELLS)
        with tarfile.open(path, f"w:{compression}") as archive:
            for name, data in (("LICENSE.TXT", b"free"), ("RML2016.10a_dict.pkl", content)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        assert_holds(load_radioml_2016(path), CELLS)

        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="cannot be read as a pickle of labelled arrays"):
            load_radioml_2016(path)

    def test_archive_without_a_pickle(self, tmp_path):
        path = tmp_path / "other.tar"
        with tarfile.open(path, "w") as archive:
            link = tarfile.TarInfo("RML2016.10a_dict.pkl")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        with pytest.raises(ValueError, match="no .pkl in this archive"):
            load_radioml_2016(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="RML2016.10a_dict.pkl"):
            load_radioml_2016(tmp_path / "nothing.pkl")

    def test_class_names_of_the_file_cannot_be_replaced(self, tmp_path):
        with pytest.raises(ValueError, match="class_names"):
            load_radioml(tmp_path / "a.pkl", ["QPSK"])

    @pytest.mark.parametrize("kept", [0, 1, 22, 50, 2000, -1])  # 22 ends within a number
    @pytest.mark.parametrize("protocol", [0, 2])
    def test_truncated(self, tmp_path, protocol, kept):
        path = tmp_path / "short.pkl"
        path.write_bytes(python2_pickle(CELLS, protocol)[:kept])
        with pytest.raises(ValueError, match="cannot be read as a pickle of labelled arrays.*copy it again"):
            load_radioml_2016(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({("BPSK", 0): np.zeros((4, 128), np.float32)}, r"BPSK at 0 dB.*\(4, 128\).*\(num, 2, 128\)"),
            ({("BPSK", 0): np.zeros((4, 128, 2), np.float32)}, r"\(4, 128, 2\)"),
            ({("BPSK", 0): np.zeros((4, 2, 128), np.int16)}, "int16"),
            ({("BPSK", 0): np.zeros((4, 2, 64), np.float32)}, "64 and 128 samples"),
            ({("BPSK", 0): np.zeros((0, 2, 128), np.float32)}, r"\(0, 2, 128\)"),
            ({("BPSK", 0): np.full((1, 2, 128), np.nan, np.float32)}, "1 example.*NaN.*BPSK at 0 dB"),
            ({("BPSK", 0): np.zeros((1, 2, 128), complex)}, "<c16"),
            ({("BPSK", 0): np.array([None])}, "opcode ']'"),
            ({("BPSK", 0): [1.0]}, "opcode ']'"),
            ({("BPSK", 0): 1}, "not an array"),
            ({"BPSK": CELLS["QPSK", 0]}, r"not \(modulation, SNR in dB\)"),
            ({("BPSK", "0"): CELLS["QPSK", 0]}, r"not \(modulation, SNR in dB\)"),
            ({("BPSK", 10**9): CELLS["QPSK", 0]}, r"not \(modulation, SNR in dB\)"),
            ({(b"QPSK", 0): CELLS["QPSK", 0]}, "QPSK at 0 dB occurs twice"),
        ],
    )
    def test_wrong_content(self, tmp_path, change, message):
        path = tmp_path / "wrong.pkl"
        path.write_bytes(pickle.dumps(CELLS | change, 4))
        with pytest.raises(ValueError, match=message):
            load_radioml_2016(path)

    @pytest.mark.parametrize("content", [{}, ("QPSK", 1), None])
    def test_no_dictionary(self, tmp_path, content):
        path = tmp_path / "wrong.pkl"
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match="no dictionary, or an empty one"):
            load_radioml_2016(path)


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(folder: Path) -> dict[str, bytes]:
    """Malicious pickles, by what they attempt."""
    mark = str(folder / "executed")
    command = f"touch {mark}"
    array = CELLS["QPSK", 0]
    shaped = b"\x80\x02}(U\x04QPSKJ\x00\x00\x00\x00\x86cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    shaped += b"K\x00\x85U\x01b\x87R(K\x01%scnumpy\ndtype\nU\x02%sK\x00K\x01\x87R\x89U\x04abcdtbu."
    return {
        "os.system": pickle.dumps({("QPSK", 0): Payload(os.system, command)}, 2),
        "os.system, text": pickle.dumps({("QPSK", 0): Payload(os.system, command)}, 0),
        "os.system, protocol 4": pickle.dumps({("QPSK", 0): Payload(os.system, command)}, 4),
        "eval": pickle.dumps({("QPSK", 0): Payload(eval, f"open({mark!r}, 'w')")}, 2),
        "exec as a key": pickle.dumps({Payload(exec, f"open({mark!r}, 'w')"): array}, 2),
        "numpy.load": pickle.dumps({("QPSK", 0): Payload(np.load, mark)}, 2),
        "getattr chain": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x06system\x86R.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
        "instance": b"(S'touch " + mark.encode() + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nS'touch " + mark.encode() + b"'\no.",
        "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "known name, called": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
        "known name, given a state": b"\x80\x02cnumpy\nndarray\n}U\x07__doc__U\x01xsb.",
        "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00punyc\x86R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent object": b"\x80\x02U\x01aQ.",
        "large memo": b"\x80\x02}r\xff\xff\xff\xff.",
        "missing memo": b"\x80\x02h\x07.",
        "large string": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "large byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
        "deep key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x00s.",
        "large shape": shaped % (b"J\xff\xff\xff\x7f" * 3 + b"\x87", b"f4"),
        "negative shape": shaped % (b"J\xff\xff\xff\xffJ\x02\x00\x00\x00J\xff\xff\xff\xff\x87", b"f4"),
        "shape of words": shaped % (b"U\x01aU\x01bU\x01c\x87", b"f4"),
        "objects": shaped % (b"K\x01K\x01K\x01\x87", b"O8"),
        "fields": shaped % (b"K\x01K\x01K\x01\x87", b"V4"),
        "items of a number": b"\x80\x02K\x01(K\x01K\x02u.",
        "odd items": b"\x80\x02}(K\x01u.",
    }


@pytest.mark.parametrize("name", hostile(Path()))
def test_hostile_pickles_are_refused_and_execute_nothing(tmp_path, name):
    path = tmp_path / "RML2016.10a_dict.pkl"
    path.write_bytes(hostile(tmp_path)[name])
    codecs.lookup("raw_unicode_escape")  # used for text in protocol 0; its first use imports it, which is harmless
    events = []
    watched = ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class")

    def watch(event, arguments):
        if events is not None and event in watched:
            events.append((event, arguments))

    sys.addaudithook(watch)  # hooks cannot be removed, so this one is silenced below
    try:
        with pytest.raises(ValueError, match="cannot be read as a pickle of labelled arrays") as caught:
            load_radioml_2016(path)
    finally:
        seen, events = events, None
    assert seen == []
    assert not (tmp_path / "executed").exists()
    assert len(str(caught.value)) < 1000
    if name.startswith("os.system"):
        assert f"{os.system.__module__}.system" in str(caught.value)
    if name == "eval":
        pickle.loads(path.read_bytes())["QPSK", 0].close()
        assert (tmp_path / "executed").exists()  # proves that the payload works


class Test2018:
    CELLS = modulated(CLASSES_2018[:3], (-20, 30), per_cell=5, num_samples=1024)

    @pytest.fixture
    def path(self, tmp_path):
        pytest.importorskip("h5py")
        return write_2018(tmp_path / "GOLD_XYZ_OSC.0001_1024.hdf5", self.CELLS)

    def test_round_trip(self, path):
        examples = load_radioml(path)
        assert examples.class_names == CLASSES_2018 and len(set(CLASSES_2018)) == 24
        assert_holds(examples, self.CELLS)

    def test_reads_any_rows_in_any_order(self, path):
        examples = load_radioml_2018(path)
        rows = [7, 3, 29, 3, 4, 5]
        np.testing.assert_array_equal(examples.read(rows), examples.read()[rows])
        assert examples.read([]).shape == (0, 1024)

    def test_other_classes_need_names(self, tmp_path):
        pytest.importorskip("h5py")
        path = write_2018(tmp_path / "a.h5", self.CELLS, num_classes=3)
        with pytest.raises(ValueError, match="3 classes.*class_names"):
            load_radioml_2018(path)
        with pytest.raises(ValueError, match="2 class names for 3 columns"):
            load_radioml_2018(path, ["a", "b"])
        assert load_radioml(path, ["a", "b", "c"]).class_names == ("a", "b", "c")

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="GOLD_XYZ"):
            load_radioml(tmp_path / "nothing.hdf5")

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ValueError, match="5,000 bytes are not a complete HDF5 file"):
            load_radioml_2018(path)

    def test_damaged(self, path):
        whole = path.read_bytes()
        damaged = [whole.replace(signature, b"gone") for signature in (b"TREE", b"HEAP", b"SNOD")]
        assert whole not in damaged
        for content in damaged:
            path.write_bytes(content)
            with pytest.raises(ValueError, match="not a complete HDF5 file.*copy it again"):
                load_radioml_2018(path)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("X", np.zeros((30, 1024), np.float32), r"'X' is \(30, 1024\)"),
            ("X", np.zeros((30, 1024, 3), np.float32), "X, Y and Z have the shapes"),
            ("X", np.zeros((29, 1024, 2), np.float32), "X, Y and Z have the shapes"),
            ("X", np.full((30, 1, 2), b"a"), "'X' is .*S1"),
            ("Y", np.zeros((30, 24), np.int64), "row 0 of `Y`.*one 1 and 0s"),
            ("Y", np.full((30, 24), np.nan), "row 0 of `Y`"),
            ("Z", np.full((30, 1), np.nan), "row 0 of `Z` is nan"),
            ("Z", None, "'Z' is missing"),
        ],
    )
    def test_wrong_content(self, path, name, value, message):
        import h5py

        with h5py.File(path, "a") as file:
            del file[name]
            if value is not None:
                file[name] = value
        with pytest.raises(ValueError, match=message):
            load_radioml_2018(path)

    def test_external_links_are_not_followed(self, path, tmp_path):
        import h5py

        other = path.rename(tmp_path / "private.hdf5")
        with h5py.File(path, "w") as file, h5py.File(other) as source:
            file["Y"], file["Z"] = source["Y"][:], source["Z"][:]
            file["X"] = h5py.ExternalLink("private.hdf5", "/X")
        with pytest.raises(ValueError, match="'X' is missing, or not stored in the file"):
            load_radioml_2018(path)

    def test_a_huge_shape_is_refused(self, path):
        import h5py

        with h5py.File(path, "w") as file:
            for name, shape in (("X", (2**40, 1024, 2)), ("Y", (2**40, 24)), ("Z", (2**40, 1))):
                file.create_dataset(name, shape, np.float32, chunks=(1, *shape[1:]))
        with pytest.raises(ValueError, match="larger than any RadioML"):
            load_radioml_2018(path)

    def test_samples_that_are_not_finite(self, path):
        import h5py

        with h5py.File(path, "a") as file:
            file["X"][12, 100, 1] = np.inf
        examples = load_radioml_2018(path)
        assert examples.read([11, 13]).shape == (2, 1024)
        with pytest.raises(ValueError, match="row 12 .*4ASK at -20 dB"):
            examples.read()


def test_balanced_rows_have_equal_numbers_of_each_modulation_and_snr(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CELLS | {("QPSK", 40): CELLS["QPSK", 0][:1]}, 2))
    examples = load_radioml_2016(path)
    rows = examples.balanced_rows(2, seed=1)
    assert len(rows) == len(set(rows)) == 9 * 2 + 1 and (np.diff(rows) > 0).all()
    cells, counts = np.unique(np.stack([examples.labels, examples.snr_db])[:, rows], axis=1, return_counts=True)
    assert cells.shape[1] == 10 and sorted(counts) == [1] + 9 * [2]
    np.testing.assert_array_equal(rows, examples.balanced_rows(2, seed=1))
    assert not np.array_equal(rows, examples.balanced_rows(2, seed=2))
    assert len(examples.balanced_rows(100)) == len(examples)


class TestFraming:
    def test_short_examples_are_padded_with_zeros(self):
        iq = torch.from_numpy(CELLS["QPSK", 18].astype(np.float32))
        iq = torch.complex(iq[:, 0], iq[:, 1])
        values = radioml_spectrograms(iq, EXTRACTOR, window_samples=128)
        assert values.shape == (4, 2, 128, 128) and values.dtype == torch.float32
        # The frame in the middle is the whole example: its spectrum, and DC in the middle.
        power = torch.fft.fftshift(torch.fft.fft(iq).abs() ** 2, dim=1)
        assert torch.equal(values[:, 0, 63].argmax(1), power.argmax(1))
        # A longer example is not padded: every frame is full.
        long = torch.cat([iq] * 8, dim=1)
        expected = SpectrogramFeatureExtractor(window_function=EXTRACTOR.window_function)(long, return_tensors="pt")
        assert torch.equal(radioml_spectrograms(long.numpy(), EXTRACTOR, 128), expected.input_values)

    def test_short_windows_resolve_time(self):
        # A tone that jumps half way through: a short window sees one, then the other.
        samples = torch.arange(128)
        iq = torch.exp(2j * torch.pi * torch.where(samples < 64, -0.25, 0.25) * samples)[None]
        rows = radioml_spectrograms(iq, EXTRACTOR, window_samples=32)[0, 0]
        assert rows[40].argmax() == 32 and rows[88].argmax() == 96
        spread = [radioml_spectrograms(iq, EXTRACTOR, length)[0, 0, 40] for length in (32, 128)]
        assert spread[0][96] - spread[0][32] < spread[1][96] - spread[1][32] < 0

    @pytest.mark.parametrize("length", [1, 129])
    def test_window_that_does_not_fit(self, length):
        with pytest.raises(ValueError, match=f"window_samples={length}.*2 to 128"):
            radioml_spectrograms(torch.ones(1, 128, dtype=torch.complex64), EXTRACTOR, length)

    def test_window_of_coefficients_has_no_other_length(self):
        extractor = SpectrogramFeatureExtractor(window_function=[1.0] * 128)
        with pytest.raises(ValueError, match="windows given by name"):
            radioml_spectrograms(torch.ones(1, 128, dtype=torch.complex64), extractor, 32)

    def test_real_samples(self):
        with pytest.raises(ValueError, match="complex"):
            radioml_spectrograms(torch.ones(1, 128), EXTRACTOR)

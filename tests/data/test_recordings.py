"""Recordings on disk: they are read exactly and in constant memory, and errors name the cause."""

import errno
import json
import pickle
import resource
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import sigmf
from scipy.io import wavfile

from lwm_spectro_hf.data.recordings import open_recording, write_sigmf
from seeds import bounded_noise

RATE = 20e6


def write_pair(folder, data: bytes, name="recording", captures=None, annotations=None, **info):
    """A SigMF pair of any content. Fields of `info` that are None are left out."""
    fields = {"core:datatype": "cf32_le", "core:sample_rate": RATE, "core:version": "1.2.0"}
    fields |= {f"core:{key}": value for key, value in info.items()}
    metadata = {
        "global": {key: value for key, value in fields.items() if value is not None},
        "captures": [{"core:sample_start": 0}] if captures is None else captures,
        "annotations": annotations or [],
    }
    (folder / f"{name}.sigmf-data").write_bytes(data)
    path = folder / f"{name}.sigmf-meta"
    path.write_text(json.dumps(metadata))
    return path


def test_a_full_disk_is_called_so(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_sigmf(tmp_path / "large", bounded_noise(10_000), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and not list(tmp_path.iterdir())


def test_a_tilde_means_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    iq = bounded_noise(300)
    assert write_sigmf("~/own", iq, RATE) == tmp_path / "own.sigmf-meta"
    recording = open_recording("~/own.sigmf-meta")
    np.testing.assert_array_equal(recording.read(np.int16(200), np.int8(100)), iq[200:])


class TestSigMF:
    def test_round_trip(self, tmp_path):
        iq = bounded_noise(500)
        part = {"core:sample_start": 100, "core:sample_count": 9}
        annotations = [{"core:label": "LTE", "lwm:protocol": "LTE"}, part]
        path = write_sigmf(
            tmp_path / "new" / "cell.1",
            iq,
            1.92e6,
            annotations,
            description="one cell",
            center_frequency_hz=2.6e9,
            global_info={"core:author": "nobody"},
        )
        assert path == tmp_path / "new" / "cell.1.sigmf-meta"
        assert sorted(file.name for file in path.parent.iterdir()) == ["cell.1.sigmf-data", "cell.1.sigmf-meta"]

        recording = open_recording(path)
        np.testing.assert_array_equal(recording.read(), iq)
        assert (recording.sampling_rate, recording.num_samples, len(recording)) == (1.92e6, 500, 500)
        assert recording.duration_s == pytest.approx(500 / 1.92e6)
        assert recording.center_frequency_hz == 2.6e9
        assert recording.metadata["global"]["core:description"] == "one cell"
        assert recording.metadata["global"]["core:author"] == "nobody"
        assert recording.annotations[1] == part
        assert recording.annotations[0] == {
            "core:sample_start": 0,
            "core:sample_count": 500,
            "core:label": "LTE",
            "lwm:protocol": "LTE",
        }

        # Another reader agrees, and finds the files valid.
        theirs = sigmf.fromfile(path)
        theirs.validate()
        np.testing.assert_array_equal(theirs.read_samples(), iq)

    def test_any_of_its_names_opens_it(self, tmp_path):
        write_sigmf(tmp_path / "cell", bounded_noise(50), RATE)
        for name in ("cell", "cell.sigmf-meta", "cell.sigmf-data"):
            np.testing.assert_array_equal(open_recording(str(tmp_path / name)).read(), bounded_noise(50))

    def test_writing_again_replaces_and_failing_leaves_nothing(self, tmp_path):
        write_sigmf(tmp_path / "cell", bounded_noise(50), RATE)
        write_sigmf(tmp_path / "cell", bounded_noise(80, seed=1), RATE)
        with pytest.raises(ValueError, match="not valid SigMF metadata"):
            write_sigmf(tmp_path / "cell", bounded_noise(20), RATE, description=7)
        np.testing.assert_array_equal(open_recording(tmp_path / "cell").read(), bounded_noise(80, seed=1))
        assert len(list(tmp_path.iterdir())) == 2

    def test_annotations_are_checked(self, tmp_path):
        marks = [{"core:sample_start": np.int64(5), "core:sample_count": np.int32(10), "lwm:snr_db": np.float32(2.5)}]
        recording = open_recording(write_sigmf(tmp_path / "cell", bounded_noise(50), RATE, marks))
        expected = {"core:sample_start": 5, "core:sample_count": 10, "lwm:snr_db": 2.5}
        assert recording.annotations == [expected]
        for mark, message in (
            ({"label": "x"}, "'label' has no namespace"),
            ({"core:sample_start": 55}, "-5 samples from sample 55"),
            (
                {"core:sample_start": 40, "core:sample_count": 11},
                "11 samples from sample 40 on. Expected samples among the 50",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                write_sigmf(tmp_path / "other", bounded_noise(50), RATE, [mark])

    @pytest.mark.parametrize("wrong", [np.ones(5), np.ones((2, 5), np.complex64), np.ones(0, np.complex64)])
    def test_only_complex_samples_are_written(self, wrong, tmp_path):
        with pytest.raises(ValueError, match=r"Expected complex samples of shape \(num_samples,\)"):
            write_sigmf(tmp_path / "cell", wrong, RATE)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("order", ["le", "be"])
    @pytest.mark.parametrize("datatype", ["cf32", "cf64", "ci8", "ci16", "ci32"])
    def test_datatypes_agree_with_the_sigmf_package(self, datatype, order, tmp_path):
        kind = np.dtype(f"{'<' if order == 'le' else '>'}{datatype[1]}{int(datatype[2:]) // 8}")
        values = np.random.default_rng(0).uniform(-1, 1, (100, 2))
        if kind.kind == "i":
            values = values * np.iinfo(kind).max
        path = write_pair(tmp_path, values.astype(kind).tobytes(), datatype=f"{datatype}_{order}")
        ours = open_recording(path).read(3, 90)
        theirs = sigmf.fromfile(path).read_samples(3, 90)
        assert ours.dtype == np.complex64 and np.abs(ours).max() <= 2**0.5
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)

    @pytest.mark.parametrize("datatype", ["cu8", "cu16_be", "cu32_le"])
    def test_unsigned_integers_are_symmetric_about_the_middle_of_their_range(self, datatype, tmp_path):
        kind = np.dtype({"cu8": "u1", "cu16_be": ">u2", "cu32_le": "<u4"}[datatype])
        top = np.iinfo(kind).max
        path = write_pair(tmp_path, np.array([0, top, top, 0], kind).tobytes(), datatype=datatype)
        almost_one = 1 - 2.0 ** -(8 * kind.itemsize)
        np.testing.assert_allclose(open_recording(path).read(), np.array([-1 + 1j, 1 - 1j]) * almost_one, rtol=1e-6)

    def test_channels(self, tmp_path):
        two = np.stack([bounded_noise(40), bounded_noise(40, seed=1)], axis=1)
        path = write_pair(tmp_path, two.tobytes(), num_channels=2)
        np.testing.assert_array_equal(open_recording(path, channel=1).read(5, 30), two[5:35, 1])
        for channel, found in ((None, "none was chosen"), (2, "`channel=2` was requested")):
            with pytest.raises(ValueError, match=rf"2 channel.*{found}.*pass `channel=0` to `channel=1`"):
                open_recording(path, channel=channel)

    def test_header_and_trailing_bytes_are_skipped(self, tmp_path):
        iq = bounded_noise(40)
        captures = [{"core:sample_start": 0, "core:header_bytes": 12, "core:frequency": 1e9}]
        path = write_pair(tmp_path, b"h" * 12 + iq.tobytes() + b"t" * 3, captures=captures, trailing_bytes=3)
        recording = open_recording(path)
        np.testing.assert_array_equal(recording.read(), iq)
        assert recording.center_frequency_hz == 1e9

    def test_archive_is_read_in_place(self, tmp_path):
        iq = bounded_noise(300)
        pair = write_sigmf(tmp_path / "cell", iq, RATE, [{"core:label": "LTE"}])
        sigmf.fromfile(pair).archive(tmp_path / "packed.sigmf")
        recording = open_recording(tmp_path / "packed.sigmf")
        np.testing.assert_array_equal(recording.read(7, 200), iq[7:207])
        assert recording.annotations[0]["core:label"] == "LTE"

    def test_files_that_macos_adds_to_archives_are_ignored(self, tmp_path):
        iq = bounded_noise(300)
        pair = write_sigmf(tmp_path / "cell", iq, RATE)
        with tarfile.open(tmp_path / "cell.sigmf", "w") as archive:
            for path in (pair, pair.with_suffix(".sigmf-data")):
                archive.add(pair, f"cell/._{path.name}")
                archive.add(path, f"cell/{path.name}")
        np.testing.assert_array_equal(open_recording(tmp_path / "cell.sigmf").read(), iq)

    def test_the_rate_may_be_given_if_the_metadata_lacks_it(self, tmp_path):
        path = write_pair(tmp_path, bounded_noise(9).tobytes(), sample_rate=None)
        assert open_recording(path, sampling_rate=5e6).sampling_rate == 5e6


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("name", "kind", "offset", "scale"),
        [
            ("cf32", "<f4", 0, 1),
            ("complex128", "<f8", 0, 1),
            ("ci16", "<i2", 0, 2**15),
            ("cs16", "<i2", 0, 2**15),
            ("ci16_be", ">i2", 0, 2**15),
            ("ci8", "i1", 0, 2**7),
            ("cu8", "u1", 127.5, 2**7),
        ],
    )
    def test_raw(self, name, kind, offset, scale, tmp_path):
        stored = (np.random.default_rng(0).uniform(-0.9, 0.9, (60, 2)) * scale + offset).astype(kind)
        path = tmp_path / "recording.bin"
        path.write_bytes(stored.tobytes())
        recording = open_recording(path, dtype=name, sampling_rate=RATE)
        values = (stored.astype(np.float64) - offset) / scale
        np.testing.assert_allclose(recording.read(), values[:, 0] + 1j * values[:, 1], rtol=1e-6)
        assert (recording.sampling_rate, recording.num_samples) == (RATE, 60)
        assert recording.annotations == [] and recording.center_frequency_hz is None

    @pytest.mark.parametrize("suffix", [".cf32", ".cfile", ".fc32", ".complex"])
    def test_a_suffix_may_name_the_type(self, suffix, tmp_path):
        path = tmp_path / f"recording{suffix}"
        path.write_bytes(bounded_noise(20).tobytes())
        np.testing.assert_array_equal(open_recording(path, sampling_rate=RATE).read(), bounded_noise(20))

    def test_the_name_of_a_raw_file_of_gqrx_says_all(self, tmp_path):
        path = tmp_path / "gqrx_20260101_100000_2437000000_20000000_fc.raw"
        path.write_bytes(bounded_noise(20).tobytes())
        recording = open_recording(path)
        np.testing.assert_array_equal(recording.read(), bounded_noise(20))
        assert (recording.sampling_rate, recording.center_frequency_hz) == (20e6, 2.437e9)
        with pytest.raises(ValueError, match="its name says 20,000,000 Hz, but `sampling_rate=2,000,000` was given"):
            open_recording(path, sampling_rate=2e6)

    @pytest.mark.parametrize("kind", ["<c8", ">c8", "<c16", "pairs", "int16 pairs", "fields", "row", "column"])
    def test_npy(self, kind, tmp_path):
        iq = bounded_noise(50)
        pairs = iq.view(np.float32).reshape(-1, 2)
        stored = {"pairs": pairs, "int16 pairs": np.round(pairs * 32768 * 0.99).astype(np.int16)}
        stored["fields"] = stored["int16 pairs"].view([("re", "<i2"), ("im", "<i2")])[:, 0]
        stored |= {"row": iq[None], "column": iq[:, None]}
        array = stored[kind] if kind in stored else iq.astype(kind)
        np.save(tmp_path / "recording.npy", array)
        recording = open_recording(tmp_path / "recording.npy", sampling_rate=RATE)
        scale, tolerance = (0.99, 2**-15) if kind in ("int16 pairs", "fields") else (1, 0)
        np.testing.assert_allclose(recording.read(), iq * scale, atol=tolerance)
        assert recording.read(10, 5).shape == (5,)

    @pytest.mark.parametrize(
        "kind, offset, scale", [("u1", 128, 2**7), ("i2", 0, 2**15), ("i4", 0, 2**31), ("f4", 0, 1), ("f8", 0, 1)]
    )
    def test_wav(self, kind, offset, scale, tmp_path):
        iq = bounded_noise(60)
        iq = iq / np.abs(iq.view(np.float32)).max()
        stored = (iq.view(np.float32).reshape(-1, 2).astype(float) * 0.9 * scale + offset).astype(kind)
        wavfile.write(tmp_path / "recording.wav", 2_400_000, stored)
        recording = open_recording(tmp_path / "recording.wav")
        np.testing.assert_allclose(recording.read(), 0.9 * iq, atol=1 / 64 if kind == "u1" else 1e-4)
        np.testing.assert_array_equal(recording.read(50, 5), recording.read()[50:55])
        assert (recording.sampling_rate, recording.num_samples) == (2.4e6, 60)
        wavfile.write(tmp_path / "silence.wav", 2_400_000, np.full((60, 2), offset, kind))
        assert not open_recording(tmp_path / "silence.wav").read().any()

    @pytest.mark.parametrize(
        "content, frequency_hz",
        [
            (struct.pack("<16H5I", 2026, *[0] * 7, 2026, *[0] * 7, 2_437_000_000, 0, 0, 0, 0), 2.437e9),
            (struct.pack("<16H5I", 2026, *[0] * 7, 2026, *[0] * 7, 0, 0, 0, 0, 0), None),
            ("<?xml version='1.0'?><SDR-XML-Root />".encode("utf-16-le"), None),
            (bytes(7), None),
        ],
    )
    def test_a_chunk_of_receivers_may_give_the_frequency(self, content, frequency_hz, tmp_path):
        wavfile.write(tmp_path / "plain.wav", 2_000_000, np.arange(20, dtype=np.int16).reshape(10, 2))
        whole = (tmp_path / "plain.wav").read_bytes()
        path = tmp_path / "baseband.wav"
        padding = bytes(len(content) % 2)
        path.write_bytes(whole[:36] + b"auxi" + struct.pack("<I", len(content)) + content + padding + whole[36:])
        recording = open_recording(path)
        np.testing.assert_array_equal(recording.read() * 2**15, np.arange(0, 20, 2) + 1j * np.arange(1, 20, 2))
        assert recording.center_frequency_hz == frequency_hz

    @pytest.mark.parametrize("size", [0, 2**31 - 37, 2**32 - 37, 2**32 - 1])
    @pytest.mark.parametrize("cut", [0, 3])
    def test_a_wav_whose_recorder_was_stopped_is_read_to_its_end(self, size, cut, tmp_path):
        stored = np.arange(20, dtype=np.int16).reshape(10, 2)
        path = tmp_path / "stopped.wav"
        wavfile.write(path, 2_000_000, stored)
        whole = path.read_bytes()
        whole = whole[:4] + struct.pack("<I", size) + whole[8:40] + struct.pack("<I", size) + whole[44:]
        path.write_bytes(whole[: len(whole) - cut])
        with pytest.warns(UserWarning, match="does not say how many samples"):
            recording = open_recording(path)
        read = np.round(recording.read().view(np.float32) * 2**15).reshape(-1, 2)
        np.testing.assert_array_equal(read, stored[: 9 if cut else 10])
        path.write_bytes(whole[:44])
        with pytest.raises(ValueError, match="holds no samples"):
            open_recording(path)

    @pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
    def test_wav_with_sizes_of_64_bits(self, magic, tmp_path):
        stored = np.arange(20, dtype=np.int16).reshape(10, 2)
        path = tmp_path / "long.wav"
        wavfile.write(path, 2_000_000, stored)
        whole = path.read_bytes()
        sizes = b"ds64" + struct.pack("<I3QI", 28, 100, 40, 10, 0)
        extended = struct.pack("<I2HIIHHHHIH14x", 40, 0xFFFE, 2, 2_000_000, 8_000_000, 4, 16, 22, 16, 3, 1)
        begin = magic + bytes(4 * [255]) + b"WAVE" + sizes + b"fmt " + extended
        path.write_bytes(begin + b"data" + bytes(4 * [255]) + whole[44:] + b"LIST" + struct.pack("<I", 4) + bytes(4))
        recording = open_recording(path)
        np.testing.assert_array_equal(recording.read() * 2**15, stored[:, 0] + 1j * stored[:, 1])
        assert recording.sampling_rate == 2e6

    @pytest.mark.parametrize(
        "name, frequency_hz",
        [
            ("baseband_2437000000Hz_10-00-00_01-01-2026", 2.437e9),
            ("HDSDR_20260101_100000Z_7045kHz_RF", 7.045e6),
            ("SDRSharp_20260101_100000Z_94000000Hz_IQ", 94e6),
            ("capture_at_5_Hz", None),
        ],
    )
    def test_the_name_of_a_wav_may_give_the_frequency(self, name, frequency_hz, tmp_path):
        wavfile.write(tmp_path / f"{name}.wav", 2_000_000, np.zeros((10, 2), np.int16))
        assert open_recording(tmp_path / f"{name}.wav").center_frequency_hz == frequency_hz


class TestReading:
    def test_parts_are_read(self, tmp_path):
        iq = bounded_noise(100)
        recording = open_recording(write_sigmf(tmp_path / "cell", iq, RATE))
        np.testing.assert_array_equal(recording.read(90), iq[90:])
        np.testing.assert_array_equal(recording.read(count=7), iq[:7])
        assert recording.read(100).shape == (0,)
        for start, count in ((-1, 5), (0, 101), (96, 5), (5, -1), (101, None)):
            with pytest.raises(ValueError, match="the recording has 100. Request a part within it"):
                recording.read(start, count)

    @pytest.mark.parametrize(("hop", "starts"), [(None, [0, 30, 60]), (10, [0, 10, 20, 30, 40, 50, 60, 70])])
    def test_windows_cover_the_recording(self, hop, starts, tmp_path):
        iq = bounded_noise(100)
        recording = open_recording(write_sigmf(tmp_path / "cell", iq, RATE))
        windows = list(recording.windows(30, hop))
        assert [start for start, _ in windows] == starts
        for start, window in windows:
            np.testing.assert_array_equal(window, iq[start : start + 30])

    def test_wrong_windows_are_errors(self, tmp_path):
        recording = open_recording(write_sigmf(tmp_path / "cell", bounded_noise(100), RATE))
        with pytest.raises(ValueError, match="100 samples, fewer than one window of 101. Take a shorter"):
            recording.windows(101)
        with pytest.raises(ValueError, match="Expected positive"):
            recording.windows(10, 0)

    def test_a_recording_can_be_pickled(self, tmp_path):
        recording = open_recording(write_sigmf(tmp_path / "cell", bounded_noise(100), RATE))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(recording)).read(), bounded_noise(100))

    @pytest.mark.parametrize("suffix", [".sigmf-meta", ".npy", ".ci16"])
    def test_two_gigabytes_are_read_in_constant_memory(self, suffix, tmp_path):
        size, window = 2**31, 2**14
        path = tmp_path / f"large{suffix}"
        data = path
        if suffix == ".sigmf-meta":
            data = write_pair(tmp_path, b"", name="large").with_suffix(".sigmf-data")
        elif suffix == ".npy":
            with open(path, "wb") as file:
                header = {"descr": "<c8", "fortran_order": False, "shape": (size // 8,)}
                np.lib.format.write_array_header_1_0(file, header)
                size += file.tell()
        with open(data, "r+b" if data.exists() else "wb") as file:
            file.truncate(size)  # sparse: no blocks on disk
        tracemalloc.start()
        try:
            recording = open_recording(path, sampling_rate=RATE)
            count = sum(1 for _ in recording.windows(window, 2**23))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert recording.num_samples == 2**31 // (4 if suffix == ".ci16" else 8)
        assert count == recording.num_samples // 2**23
        assert peak < 2_000_000


class TestErrors:
    """Each says what was found, what was expected and what to do."""

    @pytest.mark.parametrize("begin", [b"RIFF", b"PK\x03\x04", b"\x1f\x8b\x08", b"MATLAB 5.0", b"\x93NUMPY"])
    def test_containers_are_not_taken_for_samples(self, begin, tmp_path):
        path = tmp_path / "recording.dat"
        path.write_bytes(begin + bytes(64 - len(begin)))
        with pytest.raises(ValueError, match="would be read as samples"):
            open_recording(path, dtype="ci8", sampling_rate=1e6)
        path.rename(path.with_suffix(".cs8"))  # a suffix that promises raw samples
        assert len(open_recording(path.with_suffix(".cs8"), sampling_rate=1e6)) == 32

    @pytest.mark.parametrize("name", ["../cell.bin", "/etc/passwd", "folder/cell.bin", ".."])
    def test_data_must_be_beside_their_metadata(self, name, tmp_path):
        path = write_sigmf(tmp_path / "cell", bounded_noise(50), RATE)
        metadata = json.loads(path.read_text())
        metadata["global"]["core:dataset"] = name
        path.write_text(json.dumps(metadata))
        with pytest.raises(ValueError, match="'core:dataset' is .*name of a file beside it"):
            open_recording(path)

    def test_captures_of_several_frequencies_have_no_common_one(self, tmp_path):
        path = write_sigmf(tmp_path / "cell", bounded_noise(50), RATE, center_frequency_hz=2.4e9)
        metadata = json.loads(path.read_text())
        for frequency, expected in ((2.4e9, 2.4e9), (5.2e9, None)):
            second = {"core:sample_start": 25, "core:frequency": frequency}
            path.write_text(json.dumps({**metadata, "captures": [*metadata["captures"], second]}))
            assert open_recording(path).center_frequency_hz == expected

    def test_a_file_that_becomes_shorter_is_named(self, tmp_path):
        path = tmp_path / "cell.cf32"
        path.write_bytes(bounded_noise(500).tobytes())
        recording = open_recording(path, sampling_rate=RATE)
        path.write_bytes(bounded_noise(100).tobytes())
        with pytest.raises(ValueError, match="cell.cf32 is shorter than when it was opened"):
            recording.read(300, 100)

    @pytest.mark.parametrize("suffix", ["", ".npy", ".bin", ".sigmf", ".sigmf-meta", ".sigmf-data"])
    def test_missing(self, suffix, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no recording .*none{suffix}. Expected SigMF"):
            open_recording(tmp_path / f"none{suffix}")

    def test_folder(self, tmp_path):
        with pytest.raises(ValueError, match="is a folder. Expected one recording"):
            open_recording(tmp_path)

    def test_sigmf_half_missing(self, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes())
        data = path.with_suffix(".sigmf-data")
        kept = data.read_bytes()
        data.unlink()
        with pytest.raises(FileNotFoundError, match=r"its data .*recording.sigmf-data is missing.*copy it there"):
            open_recording(path)
        data.write_bytes(kept)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"its metadata .*recording.sigmf-meta is missing"):
            open_recording(data)

    def test_named_dataset_missing(self, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes(), dataset="other.bin")
        path.with_suffix(".sigmf-data").unlink()
        with pytest.raises(FileNotFoundError, match="other.bin.* Put that file beside"):
            open_recording(path)
        (tmp_path / "other.bin").write_bytes(bounded_noise(10).tobytes())
        np.testing.assert_array_equal(open_recording(path).read(), bounded_noise(10))

    def test_truncated_within_a_sample(self, tmp_path):
        with pytest.raises(
            ValueError, match="77 bytes .*not a multiple of the 8 bytes of a sample: .*truncated.*again"
        ):
            open_recording(write_pair(tmp_path, bounded_noise(10).tobytes()[:-3]))
        raw = tmp_path / "recording.ci16"
        raw.write_bytes(bytes(41))
        with pytest.raises(ValueError, match="41 bytes .*not a multiple of the 4 bytes"):
            open_recording(raw, sampling_rate=RATE)

    @pytest.mark.parametrize(
        "marks",
        [
            {"annotations": [{"core:sample_start": 5, "core:sample_count": 6}]},
            {"captures": [{"core:sample_start": 0}, {"core:sample_start": 11}]},
        ],
    )
    def test_truncated_before_the_last_mark(self, marks, tmp_path):
        with pytest.raises(ValueError, match="is truncated: it holds 10 samples, but .* reach to sample 11. Copy"):
            open_recording(write_pair(tmp_path, bounded_noise(10).tobytes(), **marks))

    def test_a_wrong_hash_is_an_error(self, tmp_path):
        path = write_sigmf(tmp_path / "cell", bounded_noise(10), RATE)
        path.with_suffix(".sigmf-data").write_bytes(bounded_noise(9).tobytes())
        with pytest.raises(ValueError, match="72 bytes .* do not match 'core:sha512'.*truncated.*check_hash=False"):
            open_recording(path)
        assert open_recording(path, check_hash=False).num_samples == 9

    def test_empty(self, tmp_path):
        raw = tmp_path / "recording.cf32"
        raw.write_bytes(b"")
        np.save(tmp_path / "recording.npy", bounded_noise(0))
        for path in (raw, tmp_path / "recording.npy", write_pair(tmp_path, b"")):
            with pytest.raises(ValueError, match="holds no samples. Expected at least one"):
                open_recording(path, sampling_rate=RATE)

    @pytest.mark.parametrize("text", ["{", "", "\xff\xfe"])
    def test_invalid_json(self, text, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes())
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="not valid JSON .*Expected SigMF metadata: correct it"):
            open_recording(path)

    @pytest.mark.parametrize(
        "metadata",
        [[], {"captures": []}, {"global": []}, {"global": {}, "captures": {}}, {"global": {}, "annotations": [1]}],
    )
    def test_not_sigmf(self, metadata, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes())
        path.write_text(json.dumps(metadata))
        with pytest.raises(ValueError, match="not SigMF metadata. Expected an object with 'global'"):
            open_recording(path)

    @pytest.mark.parametrize(
        ("info", "message"),
        [
            ({"sample_rate": None}, r"the sampling rate is not known. Pass `sampling_rate` \[Hz\]"),
            ({"sample_rate": 0}, "'core:sample_rate' is 0. Expected .* a positive number"),
            ({"sample_rate": "20 MHz"}, "'core:sample_rate' is '20 MHz'. Expected .* a positive number"),
            ({"datatype": None}, "no 'core:datatype'. Expected one, such as 'cf32_le': add it"),
            ({"datatype": "cf16_le"}, "unknown datatype 'cf16_le'. Expected one of cf32, cf64"),
            ({"datatype": "cf32_middle"}, "unknown datatype 'cf32_middle'"),
            ({"datatype": "rf32_le"}, "the datatype 'rf32_le' is real-valued. Expected complex.*Make it complex"),
            ({"datatype": "ri16_le"}, "real-valued"),
            (
                {"captures": [{"core:frequency": "2.4e9"}]},
                r"'core:frequency' is '2.4e9'. Expected a finite number \[Hz\] or null",
            ),
            ({"captures": [{"core:frequency": float("nan")}]}, "'core:frequency' is nan. Expected a finite number"),
            ({"num_channels": "two"}, "'core:num_channels' is 'two'. Expected a whole number"),
            ({"annotations": [{"core:sample_start": -4}]}, "'core:sample_start' is -4. Expected a whole number"),
            (
                {"captures": [{"core:sample_start": 0}, {"core:sample_start": 5, "core:header_bytes": 8}]},
                "several captures have 'core:header_bytes'",
            ),
        ],
    )
    def test_wrong_metadata(self, info, message, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes(), **info)
        with pytest.raises(ValueError, match=message):
            open_recording(path)

    def test_arguments_that_contradict_the_file(self, tmp_path):
        path = write_pair(tmp_path, bounded_noise(10).tobytes())
        with pytest.raises(ValueError, match="metadata says 20,000,000 Hz, but `sampling_rate=1,000` was given"):
            open_recording(path, sampling_rate=1e3)
        with pytest.raises(ValueError, match="already gives the sample type. Leave out `dtype='cf32'`"):
            open_recording(path, dtype="cf32")
        np.save(tmp_path / "recording.npy", bounded_noise(10))
        with pytest.raises(ValueError, match="already gives its sample type. Leave out `dtype='cf32'`"):
            open_recording(tmp_path / "recording.npy", dtype="cf32", sampling_rate=RATE)
        with pytest.raises(ValueError, match="only SigMF and .mat files have channels"):
            open_recording(tmp_path / "recording.npy", sampling_rate=RATE, channel=0)

    def test_raw_without_type_or_rate(self, tmp_path):
        path = tmp_path / "recording.bin"
        path.write_bytes(bounded_noise(10).tobytes())
        with pytest.raises(ValueError, match="suffix '.bin' does not say what the file contains.*`dtype='ci16'"):
            open_recording(path, sampling_rate=RATE)
        with pytest.raises(ValueError, match="sampling rate is not known"):
            open_recording(path, dtype="cf32")
        with pytest.raises(ValueError, match="unknown datatype 'float'"):
            open_recording(path, dtype="float", sampling_rate=RATE)
        with pytest.raises(ValueError, match=r"`sampling_rate` is -1. Expected .*positive"):
            open_recording(path, dtype="cf32", sampling_rate=-1)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(5),
            np.zeros((3, 5), np.complex64),
            np.zeros((5, 3), np.float32),
            np.zeros(5, np.int16),
            np.zeros((5, 2), np.uint64),
            np.zeros(5, [("re", "<i2"), ("im", "<i4")]),
            np.zeros(5, [("i", "<i2"), ("time", "<i2")]),
        ],
    )
    def test_npy_of_a_wrong_shape_or_type(self, array, tmp_path):
        np.save(tmp_path / "recording.npy", array)
        with pytest.raises(ValueError, match=r"has shape .* Expected complex samples of shape \(num_samples,\), or"):
            open_recording(tmp_path / "recording.npy", sampling_rate=RATE)

    def test_npy_in_fortran_order(self, tmp_path):
        np.save(tmp_path / "recording.npy", np.asfortranarray(np.zeros((5, 2))))
        with pytest.raises(ValueError, match="Fortran order. Expected C order"):
            open_recording(tmp_path / "recording.npy", sampling_rate=RATE)

    def test_broken_npy_files_and_objects_are_errors(self, tmp_path):
        path = tmp_path / "recording.npy"
        np.save(path, bounded_noise(1000))
        path.write_bytes(path.read_bytes()[:-80])
        with pytest.raises(ValueError, match="not a complete .npy file .*save it again"):
            open_recording(path, sampling_rate=RATE)
        for broken in (b"", path.read_bytes().replace(b"}", b" ", 1)):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match="not a complete .npy file"):
                open_recording(path, sampling_rate=RATE)
        np.save(path, np.array([{}, 1], dtype=object))
        with pytest.raises(ValueError, match="not a complete .npy file"):
            open_recording(path, sampling_rate=RATE)

    def test_broken_archive(self, tmp_path):
        pair = write_sigmf(tmp_path / "cell", bounded_noise(3000), RATE)
        path = tmp_path / "packed.sigmf"
        with tarfile.open(path, "w") as archive:
            archive.add(pair, "packed.sigmf-meta")
        with pytest.raises(ValueError, match="Expected an uncompressed tar file with one .sigmf-meta and one"):
            open_recording(path)
        sigmf.fromfile(pair).archive(path, overwrite=True)
        path.write_bytes(path.read_bytes()[:12_000])
        with pytest.raises(ValueError, match="truncated"):
            open_recording(path)
        path.write_bytes(b"not a tar file")
        with pytest.raises(ValueError, match="cannot be read as a SigMF archive"):
            open_recording(path)

    def test_wrong_or_broken_wav_files_are_errors(self, tmp_path):
        path = tmp_path / "recording.wav"
        for array, message in ((np.zeros(10, np.int16), "1 channel"), (np.zeros((10, 4), np.int16), "4 channel")):
            wavfile.write(path, 48_000, array)
            with pytest.raises(ValueError, match=f"{message}.*Expected two, I and Q"):
                open_recording(path)
        wavfile.write(path, 2_400_000, np.zeros((100, 2), np.int16))
        with pytest.raises(ValueError, match="the file says 2,400,000 Hz, but `sampling_rate=2,000,000`"):
            open_recording(path, sampling_rate=2e6)
        with pytest.raises(ValueError, match="a .wav file already gives its sample type"):
            open_recording(path, dtype="ci16")
        assert open_recording(path, sampling_rate=2.4e6).num_samples == 100
        whole = path.read_bytes()
        packed = bytearray(whole)
        packed[32:36] = struct.pack("<HH", 6, 24)  # three bytes a value
        headless = whole[:12] + whole[36:]
        for broken in (whole[:-100], whole[:30], whole[:3], b"", b"RIFF" + bytes(60), bytes(packed), headless):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match="not a complete .wav file|holds no samples"):
                open_recording(path)

"""MATLAB files: their one recording is found, however it was saved."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lwm_spectro_hf.data.recordings import open_recording
from seeds import bounded_noise

RATE = 20e6


def write_hdf5(group: h5py.Group, variables: dict):
    """Like MATLAB: dimensions reversed, complex numbers as pairs, structures as groups."""
    for name, value in variables.items():
        if isinstance(value, dict):
            write_hdf5(group.create_group(name), value)
            continue
        stored = np.atleast_2d(value).T
        if stored.dtype.kind == "c":
            pairs = np.empty(stored.shape, [("real", stored.real.dtype), ("imag", stored.real.dtype)])
            pairs["real"], pairs["imag"] = stored.real, stored.imag
            stored = pairs
        group.create_dataset(name, data=stored)


def save(path: Path, variables: dict, version: str = "7") -> Path:
    """The variables in a file of one of MATLAB's versions."""
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            write_hdf5(file, variables)
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    else:
        savemat(path, variables, format="4" if version == "4" else "5", do_compression=version == "7")
    return path


@pytest.mark.parametrize("version", ["4", "6", "7", "7.3"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_samples_rate_and_frequency(tmp_path, version, dtype):
    iq = bounded_noise(500)
    held = {"rx": iq[:, None].astype(dtype), "Fs": RATE, "fc": 2.4e9, "gains": np.arange(3.0), "taps": np.eye(3)}
    recording = open_recording(save(tmp_path / "capture.mat", held, version))
    assert (recording.sampling_rate, recording.num_samples) == (RATE, 500)
    assert recording.center_frequency_hz == 2.4e9
    assert recording.read().dtype == np.complex64
    np.testing.assert_array_equal(recording.read(), iq)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(recording)).read(20, 30), iq[20:50])
    assert [start for start, _ in recording.windows(200)] == [0, 200]
    recording.read()[:] = 0
    np.testing.assert_array_equal(recording.read(), iq)


@pytest.mark.parametrize("version", ["7", "7.3"])
def test_fields_of_a_structure(tmp_path, version):
    """The Wireless Waveform Generator exports such structures."""
    iq = bounded_noise(300)
    held = {"waveStruct": {"waveform": iq[:, None], "Fs": 15.36e6, "config": {"NDLRB": 50.0}}}
    recording = open_recording(save(tmp_path / "wave.mat", held, version))
    assert recording.sampling_rate == 15.36e6
    np.testing.assert_array_equal(recording.read(), iq)


def test_files_of_vector_signal_analysers(tmp_path):
    held = {"Y": bounded_noise(300), "XDelta": 1 / RATE, "InputCenter": 2.4e9, "XStart": 0.0, "XUnit": "Sec"}
    recording = open_recording(save(tmp_path / "analyser.mat", held))
    assert recording.sampling_rate == pytest.approx(RATE)
    assert recording.center_frequency_hz == 2.4e9


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize("transposed", [False, True])
def test_channels_are_the_shorter_dimension(tmp_path, version, transposed):
    iq = bounded_noise(300, 2)
    path = save(tmp_path / "two.mat", {"rx": iq.T if transposed else iq, "sample_rate": RATE}, version)
    np.testing.assert_array_equal(open_recording(path, channel=1).read(), iq[:, 1])
    for channel in (None, 2, -1):
        with pytest.raises(ValueError, match=r"2 channel\(s\).*pass `channel=0` to `channel=1`"):
            open_recording(path, channel=channel)


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_real_columns_are_in_phase_and_quadrature(tmp_path, version, dtype):
    stored = (1000 * bounded_noise(300).view(np.float32).reshape(300, 2)).astype(dtype)
    recording = open_recording(save(tmp_path / "pairs.mat", {"iq": stored}, version), sampling_rate=RATE)
    np.testing.assert_array_equal(recording.read().view(np.float32).reshape(300, 2), stored)


def test_missing_or_contradictory_variables_are_named(tmp_path):
    path = tmp_path / "capture.mat"
    save(path, {"rx": bounded_noise(300)})
    with pytest.raises(ValueError, match=r"sampling rate is not known. Pass `sampling_rate`"):
        open_recording(path)
    assert open_recording(path, sampling_rate=RATE).sampling_rate == RATE
    with pytest.raises(ValueError, match="a .mat file already gives its sample type"):
        open_recording(path, dtype="ci16")
    save(path, {"rx": bounded_noise(300), "fs": RATE})
    with pytest.raises(ValueError, match="the file says 20,000,000 Hz, but `sampling_rate=10,000,000`"):
        open_recording(path, sampling_rate=10e6)
    save(path, {"rx": bounded_noise(300), "fs": RATE, "sampleRate": 10e6})
    with pytest.raises(ValueError, match=r"1e\+07 and 2e\+07 are given for the same quantity"):
        open_recording(path)
    save(path, {"rx": bounded_noise(300), "fs": -1.0})
    with pytest.raises(
        ValueError, match="the rate in the file is -1.0. Expected the sampling rate, a positive number"
    ):
        open_recording(path)
    save(path, {"rx": bounded_noise(300), "tx": bounded_noise(200), "fs": RATE})
    with pytest.raises(ValueError, match=r"holds rx complex64 \(300,\), tx complex64 \(200,\). Expected one variable"):
        open_recording(path)
    save(path, {"gains": np.arange(5.0), "name": "no recording"})
    with pytest.raises(
        ValueError, match=r"holds gains float64 \(5,\). Expected one variable of complex samples.*save"
    ):
        open_recording(path)
    save(path, {"name": "no recording"})
    with pytest.raises(ValueError, match="holds no numbers"):
        open_recording(path)


@pytest.mark.parametrize("version", ["4", "6", "7", "7.3"])
def test_a_broken_file_is_named(tmp_path, version):
    whole = save(tmp_path / "whole.mat", {"rx": bounded_noise(3000)[:, None], "fs": RATE}, version).read_bytes()
    path = tmp_path / "broken.mat"
    for end in (0, 3, 200, 600, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"broken.mat: .*(not a complete \.mat file|holds no numbers)"):
            open_recording(path, sampling_rate=RATE)


def test_external_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        write_hdf5(file, {"rx": bounded_noise(300)})
    path = save(tmp_path / "capture.mat", {"fs": RATE}, "7.3")
    with h5py.File(path, "r+") as file:
        file["rx"] = h5py.ExternalLink(str(secret), "rx")
    with pytest.raises(ValueError, match=r"holds fs float64 \(\). Expected one variable"):
        open_recording(path)

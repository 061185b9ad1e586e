"""The scripts that evaluate a checkpoint on other people's data, run as a user would on files of the same format."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lwm_spectro_hf.data.recordings import open_recording, write_sigmf
from radioml_files import modulated, python2_pickle

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture
def run(monkeypatch, tiny_checkpoint):
    """`run(script, *arguments)` with the tiny checkpoint."""

    def call(script, *arguments):
        command = [script, "--model", str(tiny_checkpoint), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        __import__(script).main()

    return call


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("radioml") / "RML2016.10a_dict.pkl"
    path.write_bytes(python2_pickle(modulated(("BPSK", "QPSK", "WBFM"), (-20, 18), 12, 128)))
    return path


class TestRadioML:
    def test_probes(self, run, path, tmp_path, capsys):
        pytest.importorskip("sklearn")
        out = tmp_path / "out"
        options = ("--file", path, "--per-cell", 10, "--shots", 1, 4, 1000, "--repeats", 2, "--device", "cpu")
        run("run_radioml", *options, "--out", out)
        assert sorted(file.name for file in out.iterdir()) == ["accuracy.png", "results.json", "results.md"]
        results = json.loads((out / "results.json").read_text())
        assert (results["num_train"], results["num_test"]) == (30, 30)
        assert results["chance"] == pytest.approx(100 / 3)
        assert list(results["accuracy"]) == ["pretrained", "random weights", "spectrogram"]
        for scores in results["accuracy"].values():
            assert list(scores["by_snr"]) == ["-20", "18"] and list(scores["few_shot"]) == ["1", "4"]
            # Each SNR has the same number of examples, so the overall accuracy is the mean.
            assert scores["linear_probe"] == pytest.approx(np.mean(list(scores["by_snr"].values())), abs=0.01)
        # Tones of three frequencies: the spectrogram tells them apart unless noise drowns them.
        assert results["accuracy"]["spectrogram"]["by_snr"]["18"] == 100
        text = (out / "results.md").read_text()
        assert text in capsys.readouterr().out
        assert text.count("| spectrogram |") == 2

        run("run_radioml", *options, "--out", out)
        assert json.loads((out / "results.json").read_text()) == results

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
    def test_every_cell_is_trained_and_tested_on(self, share):
        from run_radioml import split_cells

        cells = np.repeat(np.arange(50), 4)
        train, test = split_cells(cells, share, seed=0)
        assert sorted([*train, *test]) == list(range(200))
        assert set(cells[train]) == set(cells[test]) == set(range(50))
        assert len(test) == 50 * min(max(1, round(4 * share)), 3)

    def test_an_snr_without_examples_is_an_error(self, run, path, tmp_path):
        pytest.importorskip("sklearn")
        with pytest.raises(SystemExit, match="no examples at 30 dB or above"):
            run("run_radioml", "--file", path, "--min-snr-db", 30, "--out", tmp_path)


class TestRecordings:
    def test_verdicts_are_listed_beside_the_truth(self, run, noise, tmp_path, capsys):
        for name, protocol in (("a", "LTE"), ("b", "none"), ("c", "WiFi")):
            write_sigmf(tmp_path / name, noise(2000), 1e6, [{"lwm:protocol": protocol}])
        write_sigmf(tmp_path / "silent", 0 * noise(500), 1e6, [{"lwm:protocol": "5G", "lwm:modulation": "QPSK"}])
        run("run_recordings", "--folder", tmp_path, "--out", tmp_path / "out.json")
        results = json.loads((tmp_path / "out.json").read_text())
        rows = {row["file"].split(".")[0]: row for row in results["recordings"]}
        assert [row["true_protocol"] for row in rows.values()] == ["LTE", None, "WiFi", "5G"]
        # All three hold the same samples and get the same verdict, right for at most one; silence gets none.
        assert rows["a"]["protocol"] == rows["b"]["protocol"] == rows["c"]["protocol"]
        assert rows["silent"]["protocol"] is None
        scores = results["accuracy"]
        right = rows["a"]["protocol"] in ("LTE", "WiFi")
        assert scores["protocol"]["all"] == {"num": 3, "accuracy": round(100 * right / 3, 1)}
        assert scores["modulation"] == {group: {"num": 1, "accuracy": 0.0} for group in ("all", "QPSK")}
        assert "no signal" in capsys.readouterr().out


def test_cross_simulator(run, monkeypatch, tmp_path, capsys):
    pytest.importorskip("py3gpp")
    import cross_simulator

    # TorchSig is not a test dependency, and py3gpp is slow.
    simulators = {"5G": ("py3gpp", partial(cross_simulator.nr_recording, num_slots=1))}
    monkeypatch.setattr(cross_simulator, "SIMULATORS", simulators)
    run("cross_simulator", "--num", 1, "--snr-db", 20, "--out", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text())
    (told,) = results["told"]["5G"]["20"]
    assert results["told"]["5G"]["20"][told] == 1
    assert f"5G, py3gpp      {told:<8}     100" in capsys.readouterr().out


def test_cross_simulator_needs_a_simulator(run, monkeypatch):
    import cross_simulator

    monkeypatch.setattr(cross_simulator, "SIMULATORS", {"5G": ("no_such_simulator", None)})
    with pytest.raises(SystemExit, match="pip install py3gpp"):
        run("cross_simulator")


def test_received_has_the_snr_in_the_occupied_band():
    import cross_simulator

    generator = np.random.default_rng(0)
    samples = np.exp(2j * np.pi * 0.1 * np.arange(200_000))
    samples[100_000:] = 0  # a gap does not count
    noisy = cross_simulator.received(samples, 1e6, 0.25, 10.0, generator)
    assert noisy.dtype == np.complex64
    silent = np.sort(np.abs(noisy) ** 2)
    total = np.mean(silent)
    noise_power = total - 0.5
    assert 10 * np.log10(1 / (noise_power * 0.25)) == pytest.approx(10, abs=0.1)


def test_demo_recordings_can_be_generated_again(monkeypatch, tmp_path):
    """Running the script again gives the shipped recordings, so that their labels and README stay true."""
    monkeypatch.setattr(sys, "argv", ["make_demo_recordings", "--out", str(tmp_path)])
    __import__("make_demo_recordings").main()
    made = sorted(tmp_path.glob("*.sigmf-meta"))
    assert {path.name.split("_")[0] for path in made} == {"lte", "nr"}
    for path in made:
        recording, shipped = open_recording(path), open_recording(EXAMPLES / "recordings" / path.name)
        assert shipped.sampling_rate == recording.sampling_rate
        expected = shipped.read()
        apart = np.abs(recording.read() - expected) / np.abs(expected).max()
        # With another number of threads sums differ in their last bits, so the converter may round differently.
        assert np.mean(apart > 1e-3) < 1e-3 and apart.max() < 2 / 2**7
        assert shipped.annotations == recording.annotations

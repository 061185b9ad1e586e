"""The command `lwm-spectro`, run in this process; its output is compared with the pipeline's."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from scipy.io import savemat
from transformers import pipeline

from lwm_spectro_cli import build_parser, main
from lwm_spectro_hf import cli
from lwm_spectro_hf.data.bands import Band
from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.phy.listening import Heard
from lwm_spectro_hf.plotting import draw
from tiny_models import LABELS, build

RATE = 1e6


@pytest.fixture
def captures(tmp_path, noise, write_sigmf):
    """A folder with two SigMF recordings, one of them silent and in a subfolder, and a file that is no recording."""
    folder = tmp_path / "captures"
    (folder / "more").mkdir(parents=True)
    write_sigmf(folder / "a", noise(5000))
    write_sigmf(folder / "more" / "silent", np.zeros(3000, np.complex64))
    (folder / "notes.txt").write_text("not a recording")
    (folder / "._a.sigmf-meta").write_bytes(b"not one, either: what macOS writes beside files on other disks")
    return folder


@pytest.fixture
def spectro(tiny_checkpoint, capsys):
    """Runs the command with the tiny checkpoint; gives the exit code and both outputs."""

    def run(command, *arguments):
        model = [] if command in ("convert", "export", "publish") else ["--model", str(tiny_checkpoint)]
        code = main([command, *map(str, arguments), *model])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def assert_is_verdict(record, verdict):
    for name in ("protocol", "modulation", "snr_db", "mobility"):
        assert record[name] == verdict[name]
        assert record[f"{name}_score"] == pytest.approx(verdict[f"{name}_score"], abs=1e-5)


class TestClassify:
    def test_json_equals_the_pipelines_answer(self, spectro, captures, tiny_checkpoint):
        result = spectro("classify", captures, "--json")
        assert result.code == 0
        heard, silent = map(json.loads, result.out.splitlines())
        assert heard["file"] == str(captures / "a.sigmf-meta")
        assert heard["start_s"] == 0 and heard["duration_s"] == 5e-3
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        assert_is_verdict(heard, classify(captures / "a.sigmf-meta"))
        assert silent["file"] == str(captures / "more" / "silent.sigmf-meta")
        assert silent["protocol"] is None and silent["protocol_score"] == 0
        assert silent["verdict"] == "no signal" and "verdict" not in heard

    def test_symbols_are_searched_unless_blind(self, spectro, captures, monkeypatch):
        rates = []
        monkeypatch.setattr(
            "lwm_spectro_hf.phy.listening.listen",
            lambda iq, sampling_rate, protocols, *sizes, before: rates.append(sampling_rate) or Heard(np.zeros(3), []),
        )
        blind = spectro("classify", captures, "--json", "--blind")
        assert not rates
        assert spectro("classify", captures, "--json").out == blind.out and set(rates) == {1e6}

    def test_a_rate_applies_to_files_of_a_folder_without_one(self, spectro, captures, noise):
        np.save(captures / "b.npy", noise(5000))
        assert spectro("classify", captures, "--json").code == 2
        result = spectro("classify", captures, "--json", "--sampling-rate", "2e6")
        records = map(json.loads, result.out.splitlines())
        durations = {Path(record["file"]).name: record["duration_s"] for record in records}
        assert result.code == 0 and durations["a.sigmf-meta"] == 5e-3 and durations["b.npy"] == 2.5e-3
        # For a file that is named directly, a contradiction is an error.
        named = spectro("classify", captures / "a.sigmf-meta", "--sampling-rate", "2e6")
        assert named.code == 2 and "says 1,000,000 Hz" in named.err

    def test_each_window_has_a_record(self, spectro, captures, tiny_checkpoint):
        result = spectro("classify", captures / "a.sigmf-meta", "--json", "--window-ms", "2")
        records = [json.loads(line) for line in result.out.splitlines()]
        assert [(record["start_s"], record["duration_s"]) for record in records] == [
            (0.0, 0.002),
            (0.002, 0.002),
            (0.004, 0.001),
        ]
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        for record, verdict in zip(records, classify(captures / "a.sigmf-meta", window_ms=2), strict=True):
            assert_is_verdict(record, verdict)

    def test_max_segments_reaches_the_pipeline(self, spectro, write_sigmf, noise, tiny_checkpoint, tmp_path):
        meta = write_sigmf(tmp_path / "long", noise(90_000))
        record = json.loads(spectro("classify", meta, "--json", "--max-segments", "2").out)
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        verdict = classify(meta, max_segments=2)
        assert_is_verdict(record, verdict)
        assert verdict["protocol_score"] != classify(meta)["protocol_score"]
        assert record["duration_s"] == 0.09

    def test_csv_equals_json(self, spectro, captures):
        records = [json.loads(line) for line in spectro("classify", captures, "--json").out.splitlines()]
        rows = list(csv.DictReader(io.StringIO(spectro("classify", captures, "--csv").out)))
        for record in records:
            record.pop("verdict", None)  # a table has the same columns in every row
            record["also_found"] = " ".join(record["also_found"] or ())  # the names alone
        as_text = [{name: "" if value is None else str(value) for name, value in record.items()} for record in records]
        assert rows == as_text

    @pytest.mark.parametrize("form", ["--csv", "--json"])
    def test_silent_files_have_all_columns_without_a_router(self, form, tmp_path, noise, tiny_extractor, capsys):
        build("classification").save_pretrained(tmp_path / "model")
        tiny_extractor.save_pretrained(tmp_path / "model")
        np.save(tmp_path / "a.npy", np.zeros(3000, np.complex64))
        np.save(tmp_path / "b.npy", noise(3000))
        options = ["--model", str(tmp_path / "model"), "--sampling-rate", "1e6"]
        assert main(["classify", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), *options, form]) == 0
        lines = capsys.readouterr().out.splitlines()
        silent, heard = map(json.loads, lines) if form == "--json" else csv.DictReader(lines)
        assert silent.keys() - {"verdict"} == heard.keys() and "protocol" not in heard
        assert not silent["modulation"] and heard["modulation"] in LABELS.values()
        assert main(["classify", str(tmp_path / "a.npy"), *options]) == 0
        assert "no signal" in capsys.readouterr().out.splitlines()[1]

    def test_the_table_has_a_row_for_each_file(self, spectro, captures):
        header, heard, silent = spectro("classify", captures).out.splitlines()
        assert header.split() == ["file", "duration", "protocol", "modulation", "snr", "mobility"]
        assert heard.startswith("a.sigmf-meta") and "5 ms" in heard and "-5 dB 100 %" in heard
        assert silent.startswith("silent.sigmf-meta") and "no signal" in silent
        assert heard.index("5 ms") == header.index("duration")

    def test_the_table_marks_answers_without_symbols(self, spectro, captures, monkeypatch):
        found = [np.full(3, 2.0), np.full(3, -2.0)]
        monkeypatch.setattr("lwm_spectro_hf.phy.listening.listen", lambda *args, before=None: Heard(found[0], []))
        assert "*" not in spectro("classify", captures).out
        found.reverse()
        _, heard, silent, note = spectro("classify", captures).out.splitlines()
        assert " % * " in heard and "*" not in silent
        assert note == cli.NO_SYMBOLS
        heard, silent = map(json.loads, spectro("classify", captures, "--json").out.splitlines())
        assert heard["symbols_found"] is False and silent["symbols_found"] is None

    def test_other_senders_are_named(self, spectro, captures, monkeypatch):
        beside = {name: tuple({"WiFi", "LTE", "5G"} - {name}) for name in ("WiFi", "LTE", "5G")}
        heard = Heard(np.full(3, 2.0), [], beside=beside)
        monkeypatch.setattr("lwm_spectro_hf.phy.listening.listen", lambda *args, before=None: heard)
        _, row, silent, note = spectro("classify", captures).out.splitlines()
        assert " also " in row and "also" not in silent and note == cli.ALSO_FOUND
        record, nothing = map(json.loads, spectro("classify", captures, "--json").out.splitlines())
        assert record["also_found"] == dict.fromkeys(beside[record["protocol"]], 1.0)
        assert nothing["also_found"] is None
        cells = [
            line["also_found"] for line in csv.DictReader(spectro("classify", captures, "--csv").out.splitlines())
        ]
        assert cells == [" ".join(record["also_found"]), ""]

    def test_equal_names_are_shown_with_their_folders(self, spectro, captures, noise, write_sigmf):
        write_sigmf(captures / "more" / "a", noise(3000))
        rows = spectro("classify", captures).out.splitlines()
        assert rows[1].startswith(str(captures / "a.sigmf-meta"))

    def test_raw_and_npy_files_need_type_and_rate(self, spectro, captures, noise, tmp_path):
        expected = json.loads(spectro("classify", captures / "a.sigmf-meta", "--json").out)
        (tmp_path / "dump.bin").write_bytes(noise(5000).tobytes())
        np.save(tmp_path / "dump.npy", noise(5000))
        files = [tmp_path / "dump.bin", tmp_path / "dump.npy", captures / "a.sigmf-meta"]
        result = spectro("classify", *files, "--dtype", "cf32", "--sampling-rate", "1e6", "--json")
        assert result.code == 0
        for line in result.out.splitlines():
            assert {**json.loads(line), "file": expected["file"]} == expected
        assert spectro("classify", tmp_path / "dump.bin").code == 2

    def test_a_bad_file_does_not_stop_the_others(self, spectro, captures, tmp_path):
        bad = captures / "bad.sigmf-meta"
        bad.write_text("{")
        missing = tmp_path / "missing.npy"
        empty = tmp_path / "empty"
        empty.mkdir()
        result = spectro("classify", missing, captures, empty, "--json")
        assert result.code == 2
        assert [json.loads(line)["file"] for line in result.out.splitlines()] == [
            str(captures / "a.sigmf-meta"),
            str(captures / "more" / "silent.sigmf-meta"),
        ]
        complaints = result.err.splitlines()
        assert len(complaints) == 3
        for path in (missing, bad, empty):
            assert sum(line.startswith("lwm-spectro: error: ") and str(path) in line for line in complaints) == 1

    def test_debug_raises_the_original_error(self, spectro, tmp_path):
        with pytest.raises(FileNotFoundError):
            spectro("classify", tmp_path / "missing.npy", "--debug")

    def test_a_missing_model_gives_one_line(self, captures, capsys, tmp_path):
        assert main(["classify", str(captures), "--model", str(tmp_path / "nowhere")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "nowhere: there is no such folder" in line

    def test_output_appears_whole_or_not_at_all(self, spectro, captures, tmp_path, monkeypatch):
        output = tmp_path / "new" / "verdicts.jsonl"
        result = spectro("classify", captures, "--json", "--output", output)
        assert result.code == 0 and result.out == "" and "verdicts.jsonl" in result.err
        assert len(output.read_text().splitlines()) == 2

        before = output.read_text()

        def fail(records):
            yield "half"
            raise RuntimeError("the disk is full")

        monkeypatch.setattr(cli, "_json_lines", fail)
        result = spectro("classify", captures, "--json", "--output", output)
        assert result.code == 1 and "the disk is full" in result.err
        assert output.read_text() == before
        assert os.listdir(output.parent) == [output.name]

    def test_a_picture_is_written_beside_the_output(self, spectro, captures, tmp_path):
        result = spectro("classify", captures, "--json", "--plot", tmp_path / "captures.png")
        assert result.code == 0 and len(result.out.splitlines()) == 2
        assert (tmp_path / "captures.png").read_bytes().startswith(b"\x89PNG")
        assert spectro("classify", captures, "--plot", "x.png", "--window-ms", "1").code == 2

    @pytest.mark.parametrize("device", ["no-such-device", "meta"])
    def test_unusable_devices_are_refused(self, spectro, captures, device):
        result = spectro("classify", captures, "--device", device)
        assert result.code == 2 and f"--device {device} cannot be used here" in result.err

    def test_an_invalid_config_is_named(self, captures, tiny_checkpoint, tmp_path, capsys):
        shutil.copytree(tiny_checkpoint, tmp_path / "model")
        path = tmp_path / "model" / "config.json"
        config = json.loads(path.read_text())
        config["expert_config"]["num_attention_heads"] = 7
        path.write_text(json.dumps(config))
        assert main(["classify", "--model", str(tmp_path / "model"), str(captures)]) == 2
        assert "model: its config.json is invalid: `hidden_size` = " in capsys.readouterr().err
        assert main(["export", str(tmp_path / "model"), "--output", str(tmp_path / "hub")]) == 2
        assert "error: `hidden_size` = " in capsys.readouterr().err and not (tmp_path / "hub").exists()

    def test_all_names_of_one_recording_count_once(self, spectro, captures):
        names = [captures / f"a{suffix}" for suffix in ("", ".sigmf-data", ".sigmf-meta")]
        assert len(spectro("classify", *names, "--json").out.splitlines()) == 1

    def test_unknown_picture_formats_are_refused_first(self, spectro, captures):
        result = spectro("classify", captures, "--plot", "picture.xyz")
        assert result.code == 2 and not result.out and "--plot picture.xyz: expected a name that ends in" in result.err
        result = spectro("plot", captures, "--no-verdict", "--output", "picture.xyz")
        assert result.code == 2 and not result.out and "--output picture.xyz: expected a name that ends" in result.err

    def test_a_closed_standard_output_is_no_error(self, captures, tiny_checkpoint, tmp_path, monkeypatch):
        command = ["classify", "--model", str(tiny_checkpoint), str(captures / "a.sigmf-meta")]
        monkeypatch.setattr(sys, "stdout", None)
        assert main([*command, "--csv", "--output", str(tmp_path / "out.csv")]) == 0
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 2
        monkeypatch.setattr(sys, "stdout", None)
        assert main([*command, "--window-ms", "1"]) == 0

    def test_a_model_for_another_command_is_named(self, captures, tiny_segmenter, tiny_checkpoint, capsys):
        assert main(["classify", "--model", str(tiny_segmenter), str(captures)]) == 2
        error = capsys.readouterr().err
        assert "'masked_conv_lstm'" in error and "`lwm-spectro segment`" in error
        assert main(["segment", "--model", str(tiny_checkpoint), str(captures)]) == 2
        error = capsys.readouterr().err
        assert "'lwm_spectro_moe'" in error and "`lwm-spectro classify`" in error and "Traceback" not in error

    @pytest.mark.parametrize("kept", [0, 4000])
    def test_damaged_weights_are_named(self, kept, captures, tiny_checkpoint, tmp_path, capsys):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:kept])
        assert main(["classify", "--model", str(folder), str(captures)]) == 2
        error = capsys.readouterr().err
        assert f"--model {folder}: its weights are damaged" in error and len(error.splitlines()) == 1
        assert main(["export", str(folder), "--output", str(tmp_path / "hub")]) == 2
        assert f"The weights in {folder} are damaged" in capsys.readouterr().err and not (tmp_path / "hub").exists()

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"num_hidden_layers": 3}, "lacks 48 encoder weights"),
            ({"num_hidden_layers": 1}, "holds 48 encoder weights"),
            ({"intermediate_size": 32}, "lacks 18 encoder weights"),
        ],
    )
    def test_weights_of_another_configuration_are_refused(
        self, change, message, captures, tiny_checkpoint, tmp_path, capsys
    ):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        config["expert_config"] |= change
        (folder / "config.json").write_text(json.dumps(config))
        for command in ("classify", "embed"):
            assert main([command, "--model", str(folder), str(captures), "--json"]) == 2
            assert f"--model {folder} {message}" in capsys.readouterr().err
        assert main(["export", str(folder), "--output", str(tmp_path / "hub")]) == 2
        assert f"{folder} {message}" in capsys.readouterr().err and not (tmp_path / "hub").exists()

    def test_models_of_another_library_are_refused(self, captures, tiny_checkpoint, tmp_path, capsys):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        for command in ("classify", "segment"):
            assert main([command, "--model", str(folder), str(captures)]) == 2
            error = capsys.readouterr().err
            assert "has the type 'bert'. Expected '" in error and len(error.splitlines()) == 1

    def test_a_channel_needs_a_file_with_channels(self, spectro, captures):
        np.save(captures / "b.npy", np.ones(3000, np.complex64))
        result = spectro("classify", captures / "b.npy", "--channel", 1)
        assert result.code == 2 and "channel" in result.err
        # For a folder, it applies only to files that have channels.
        assert spectro("classify", captures, "--channel", 0, "--sampling-rate", 1e6).code == 0

    def test_a_closed_pipe_is_no_error(self, captures, tiny_checkpoint, monkeypatch):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as closed:
            monkeypatch.setattr(sys, "stdout", closed)
            assert main(["classify", str(captures), "--json", "--model", str(tiny_checkpoint)]) == 0

    def test_heads_without_weights_are_left_out(self, tiny_checkpoint, captures, tmp_path, capsys):
        folder = tmp_path / "part"
        shutil.copytree(tiny_checkpoint, folder)
        weights = load_file(folder / "model.safetensors")
        some = {name: values for name, values in weights.items() if not name.startswith("additional_classifiers.")}
        save_file(some, folder / "model.safetensors", {"format": "pt"})
        assert main(["classify", str(captures), "--json", "--model", str(folder)]) == 0
        result = capsys.readouterr()
        heard = json.loads(result.out.splitlines()[0])
        assert "modulation" in heard and "protocol" in heard and "snr_db" not in heard
        assert "has no weights for snr_db+mobility: left out" in result.err

    def test_no_verdict_without_any_trained_head(self, tiny_extractor, captures, tmp_path, capsys):
        build("pretraining").save_pretrained(tmp_path / "expert")
        tiny_extractor.save_pretrained(tmp_path / "expert")
        assert main(["classify", str(captures), "--model", str(tmp_path / "expert")]) == 2
        assert "has no trained weights for its heads (modulation)" in capsys.readouterr().err
        assert main(["embed", str(captures), "--json", "--model", str(tmp_path / "expert")]) == 0

    def test_a_channel_is_chosen(self, spectro, noise, write_sigmf, tmp_path):
        meta = write_sigmf(tmp_path / "two", np.stack([noise(3000), noise(3000, 1)], 1).flatten())
        content = json.loads(meta.read_text())
        content["global"]["core:num_channels"] = 2
        meta.write_text(json.dumps(content))
        write_sigmf(tmp_path / "one", noise(3000, 1))
        refused = spectro("classify", meta)
        assert refused.code == 2 and "--channel" in refused.err
        rate = content["global"]["core:sample_rate"]
        savemat(tmp_path / "two.mat", {"iq": np.stack([noise(3000), noise(3000, 1)], 1), "fs": rate})
        alone, *second = (
            json.loads(spectro("classify", tmp_path / name, "--json", *rest).out)["protocol_score"]
            for name, *rest in (
                ("one.sigmf-meta",),
                ("two.sigmf-meta", "--channel", 1),
                ("two.mat", "--channel", 1),
            )
        )
        assert second == [alone, alone]

    def test_output_to_a_folder_is_refused_first(self, spectro, captures, tmp_path, monkeypatch):
        monkeypatch.setattr(cli, "_load_pipeline", None)  # fails before a model is loaded
        for option in ("--output", "--plot"):
            result = spectro("classify", captures, "--json", option, tmp_path)
            assert result.code == 2 and f"{option} {tmp_path} is a folder" in result.err

    def test_a_bug_on_one_recording_spares_the_others(self, spectro, captures, monkeypatch):
        found = cli._Files.open

        def broken(files, path):
            if path.name.startswith("a."):
                raise RuntimeError("a bug")
            return found(files, path)

        monkeypatch.setattr(cli._Files, "open", broken)
        result = spectro("classify", captures, "--json")
        assert result.code == 1 and "a bug" in result.err and "silent" in json.loads(result.out)["file"]

    def test_suffixes_may_be_uppercase(self, spectro, noise, tmp_path):
        np.save(tmp_path / "a.npy", noise(5000))
        (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
        result = spectro("classify", tmp_path, "--json", "--sampling-rate", 1e6, "--dtype", "ci16")
        assert result.code == 0 and json.loads(result.out)["duration_s"] == 5e-3


class TestParts:
    """Parts of a band: one given by `--band`, and the carriers found in it."""

    @pytest.fixture
    def wide(self, tmp_path, noise, write_sigmf, monkeypatch):
        """A recording at 2.412 GHz with carriers at ±250 kHz, the upper twice as loud; the segmenter finds both."""
        time = np.arange(8000) / RATE
        parts = [np.convolve(noise(8000, seed), np.ones(8) / 8, "same") for seed in (0, 1)]
        moved = [part * np.exp(2j * np.pi * hz * time) for part, hz in zip(parts, (-250e3, 250e3), strict=True)]
        found = [{"center_hz": hz, "bandwidth_hz": 100e3, "label": "LTE"} for hz in (250e3, -250e3)]
        segment = SimpleNamespace(found=found)
        monkeypatch.setattr(cli, "_load_segmenter", lambda *_: lambda _, **options: {"carriers": segment.found})
        segment.path = write_sigmf(tmp_path / "wide", (moved[0] + 2 * moved[1]).astype(np.complex64))
        return segment

    def test_a_band_is_classified_like_a_recording_of_its_own(self, spectro, wide, tiny_checkpoint):
        record = json.loads(spectro("classify", wide.path, "--json", "--band", 2.41225e9, 100e3).out)
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        band = Band(open_recording(wide.path), 250e3, 100e3)
        assert band.sampling_rate == pytest.approx(1e6 / 6) and record["duration_s"] == 8e-3
        assert record["center_hz"] == 2.41225e9 and record["bandwidth_hz"] == 100e3
        assert_is_verdict(record, classify(band))
        result = spectro("classify", wide.path, "--band", 250e3, 100e3)
        assert result.code == 2 and "a band around 250,000 Hz was requested" in result.err
        assert spectro("embed", wide.path, "--json", "--band", 2.41225e9, 100e3).code == 0

    def test_the_center_of_a_band_may_be_negative(self, spectro, noise, tmp_path):
        np.save(tmp_path / "wide.npy", noise(8000))
        for number in ("-2.5e5", "-250000", "-.25e6"):
            result = spectro(
                "classify", tmp_path / "wide.npy", "--sampling-rate", 1e6, "--json", "--band", number, 100e3
            )
            assert result.code == 0 and json.loads(result.out)["center_hz"] == -250e3

    def test_max_segments_limits_the_segmenter_too(self, spectro, captures, monkeypatch):
        asked = []
        monkeypatch.setattr(
            cli, "_load_segmenter", lambda *_: lambda _, **options: asked.append(options) or {"carriers": []}
        )
        spectro("classify", captures / "a.sigmf-meta", "--carriers", "--max-segments", 5)
        spectro("classify", captures / "a.sigmf-meta", "--carriers")
        assert [options["max_stretches"] for options in asked] == [10, None]

    def test_carriers_have_a_row_each(self, spectro, wide, tiny_checkpoint):
        result = spectro("classify", wide.path, "--json", "--carriers")
        records = [json.loads(line) for line in result.out.splitlines()]
        assert result.code == 0
        assert [record["center_hz"] for record in records] == [2.41225e9, 2.41175e9]
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        for record, offset in zip(records, (250e3, -250e3), strict=True):
            assert_is_verdict(record, classify(Band(open_recording(wide.path), offset, 100e3)))
        header, first, second = spectro("classify", wide.path, "--carriers").out.splitlines()
        assert header.split()[:4] == ["file", "center", "width", "duration"]
        assert first.split()[1:5] == ["2412.25", "MHz", "0.10", "MHz"] and "2411.75 MHz" in second
        rows = list(csv.DictReader(io.StringIO(spectro("classify", wide.path, "--carriers", "--csv").out)))
        assert [float(row["center_hz"]) for row in rows] == [2.41225e9, 2.41175e9]
        windows = spectro("classify", wide.path, "--carriers", "--json", "--window-ms", 4).out.splitlines()
        assert [json.loads(line)["start_s"] for line in windows] == pytest.approx([0.0, 0.004, 0.0, 0.004], abs=1e-5)

    def test_without_carriers_the_whole_band_is_classified(self, spectro, wide):
        whole = json.loads(spectro("classify", wide.path, "--json").out)
        wide.found = []
        record = json.loads(spectro("classify", wide.path, "--json", "--carriers").out)
        assert record == {**whole, "center_hz": None, "bandwidth_hz": None}
        assert spectro("classify", wide.path, "--carriers").out.splitlines()[1].split()[1:3] == ["-", "-"]

    def test_carriers_are_searched_within_a_band(self, spectro, wide):
        wide.found = [{"center_hz": 0.0, "bandwidth_hz": 100e3, "label": "LTE"}]
        record = json.loads(spectro("classify", wide.path, "--json", "--carriers", "--band", 2.41225e9, 400e3).out)
        assert record["center_hz"] == 2.41225e9 and record["bandwidth_hz"] == 100e3

    def test_carriers_are_drawn_where_they_are(self, spectro, wide, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("lwm_spectro_hf.plotting.draw", lambda pictures: drawn.extend(pictures) or draw(pictures))
        assert spectro("classify", wide.path, "--carriers", "--plot", tmp_path / "carriers.png").code == 0
        (picture,) = drawn
        assert [carrier["center_hz"] for carrier in picture.carriers] == [2.41225e9, 2.41175e9]
        assert picture.carriers[0]["protocol_score"] > 0 and not picture.verdict
        assert (tmp_path / "carriers.png").read_bytes().startswith(b"\x89PNG")


class TestSegment:
    @pytest.fixture
    def carriers(self, tiny_segmenter, captures):
        answer = pipeline("iq-segmentation", model=str(tiny_segmenter))(str(captures / "a.sigmf-meta"))
        assert answer["carriers"], "untrained weights find something"
        return [{**found, "center_hz": found["center_hz"] + 2.412e9} for found in answer["carriers"]]

    @pytest.fixture
    def segment(self, tiny_segmenter, capsys):
        def run(*arguments):
            code = main(["segment", "--model", str(tiny_segmenter), *map(str, arguments)])
            captured = capsys.readouterr()
            return SimpleNamespace(code=code, out=captured.out, err=captured.err)

        return run

    def test_every_format_equals_the_pipelines_answer(self, segment, captures, carriers):
        result = segment(captures, "--json")
        assert result.code == 0
        heard, silent = map(json.loads, result.out.splitlines())
        assert heard == {"file": str(captures / "a.sigmf-meta"), "carriers": carriers}
        assert silent["carriers"] == []
        rows = list(csv.DictReader(io.StringIO(segment(captures, "--csv").out)))
        assert [float(row["center_hz"]) for row in rows] == [carrier["center_hz"] for carrier in carriers]
        silent = segment(captures / "more" / "silent.sigmf-meta", "--csv")
        assert silent.out.splitlines() == ["file,label,center_hz,bandwidth_hz,share_of_time"]
        head, *lines, nothing = segment(captures).out.splitlines()
        assert head.split() == ["file", "protocol", "center", "width", "active"]
        assert nothing.split() == ["silent.sigmf-meta", "nothing"]
        assert lines[0].split()[:3] == ["a.sigmf-meta", carriers[0]["label"], f"{carriers[0]['center_hz'] / 1e6:.2f}"]
        assert len(lines) == len(carriers)

    def test_a_head_without_weights_is_refused(self, captures, tmp_path, capsys):
        build("conv-lstm-pretraining").save_pretrained(tmp_path)
        assert main(["segment", "--model", str(tmp_path), str(captures)]) == 2
        assert "has no trained weights for its head" in capsys.readouterr().err

    def test_a_rate_in_megahertz_is_refused(self, segment, noise, tmp_path):
        np.save(tmp_path / "a.npy", noise(20_000))
        result = segment(tmp_path / "a.npy", "--sampling-rate", "30.72")
        assert result.code == 2 and "is the rate in Hz?" in result.err

    def test_a_picture_is_written(self, segment, captures, tmp_path):
        result = segment(captures, "--plot", tmp_path / "bands.png")
        assert result.code == 0 and (tmp_path / "bands.png").read_bytes().startswith(b"\x89PNG")

    def test_a_bad_file_does_not_stop_the_others(self, segment, captures):
        (captures / "a.sigmf-data").write_bytes(b"1234")
        result = segment(captures, "--json")
        assert result.code == 2 and len(result.out.splitlines()) == 1
        assert str(captures / "a.sigmf-meta") in result.err


class TestEmbed:
    def test_arrays_equal_the_pipelines_embeddings(self, spectro, captures, tiny_checkpoint, tmp_path):
        result = spectro("embed", captures, "--npz", tmp_path / "embeddings.npz")
        assert result.code == 0
        arrays = np.load(tmp_path / "embeddings.npz", allow_pickle=False)
        assert arrays["file"].tolist() == [
            str(captures / "a.sigmf-meta"),
            str(captures / "more" / "silent.sigmf-meta"),
        ]
        assert arrays["duration_s"].tolist() == [5e-3, 3e-3] and arrays["start_s"].tolist() == [0, 0]
        classify = pipeline("iq-classification", model=str(tiny_checkpoint), device="cpu")
        expected = classify(captures / "a.sigmf-meta", return_embedding=True)["embedding"]
        np.testing.assert_allclose(arrays["embeddings"][0], expected, atol=1e-5)
        assert np.isnan(arrays["embeddings"][1]).all()

    def test_json_and_csv_equal_the_arrays(self, spectro, captures, tmp_path):
        command = ["embed", captures, "--window-ms", "1"]
        spectro(*command, "--npz", tmp_path / "embeddings.npz")
        arrays = np.load(tmp_path / "embeddings.npz")
        records = [json.loads(line) for line in spectro(*command, "--json").out.splitlines()]
        rows = list(csv.DictReader(io.StringIO(spectro(*command, "--csv").out)))
        assert len(records) == len(rows) == len(arrays["embeddings"]) == 8
        assert records[-1]["embedding"] is None
        assert records[3]["start_s"] == float(rows[3]["start_s"]) == arrays["start_s"][3] == 3e-3
        expected = arrays["embeddings"][3]
        np.testing.assert_allclose(records[3]["embedding"], expected, rtol=1e-6)
        columns = [float(rows[3][f"embedding_{index}"]) for index in range(len(expected))]
        np.testing.assert_allclose(columns, expected, rtol=1e-6)

    def test_an_output_format_is_required(self, spectro, captures):
        result = spectro("embed", captures)
        assert result.code == 2 and "--npz" in result.err


class TestPlot:
    def test_with_and_without_verdict(self, spectro, captures, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("lwm_spectro_hf.plotting.draw", lambda pictures: drawn.append(pictures) or draw(pictures))
        assert spectro("plot", captures, "--output", tmp_path / "one.png").code == 0
        monkeypatch.setattr(cli, "_load_pipeline", None)  # not called
        assert spectro("plot", captures, "--no-verdict", "--output", tmp_path / "other.png").code == 0
        heard, unheard = drawn
        assert [picture.title for picture in heard] == [picture.title for picture in unheard] == ["a", "silent"]
        assert [picture.verdict.get("verdict") for picture in heard] == [None, "no signal"]
        assert "protocol" in heard[0].verdict and not unheard[0].verdict
        for name in ("one.png", "other.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


class TestHub:
    def test_export_writes_a_folder_that_names_its_code(self, spectro, tiny_checkpoint, tmp_path):
        result = spectro("export", tiny_checkpoint, "--output", tmp_path / "hub")
        assert result.code == 0 and result.out.strip() == str(tmp_path / "hub")
        assert "auto_map" in json.loads((tmp_path / "hub" / "config.json").read_text())
        again = spectro("export", tiny_checkpoint, "--output", tmp_path / "hub")
        assert again.code == 2 and "--overwrite" in again.err

    def test_options_reach_the_importer(self, spectro, monkeypatch):
        calls = []

        def convert(*arguments, **options):
            calls.append((arguments, options))

        monkeypatch.setattr("lwm_spectro_hf.hub.published.convert", convert)
        options = ["--no-cls-token", "--input-shape", "64", "128", "--revision", "v1", "--overwrite"]
        assert spectro("convert", "wi-lab/lwm-spectro", "--output", "here", *options).code == 0
        ((source, output), found) = calls[0]
        assert (source, output) == ("wi-lab/lwm-spectro", "here")
        assert found["use_cls_token"] is False and found["input_shape"] == (64, 128) and found["overwrite"] is True
        assert found["revision"] == "v1"

    def test_a_file_that_is_not_a_checkpoint_gives_one_line(self, spectro, tmp_path):
        (tmp_path / "expert.pth").write_bytes(b"nothing")
        result = spectro("convert", tmp_path / "expert.pth", "--output", tmp_path / "out")
        assert result.code == 2 and len(result.err.splitlines()) == 1 and "expert.pth" in result.err
        assert not (tmp_path / "out").exists()

    def test_publish_prints_the_address(self, spectro, monkeypatch):
        def publish(folder, repo_id, **options):
            assert options == {"private": True, "revision": None, "commit_message": "Upload the model"}
            return f"address of {repo_id} from {folder}"

        monkeypatch.setattr("lwm_spectro_hf.hub.publishing.publish", publish)
        result = spectro("publish", "folder", "owner/name", "--private")
        assert result.out.strip() == "address of owner/name from folder"


class TestGrammar:
    def test_help_needs_no_pytorch(self):
        program = (
            "import sys, lwm_spectro_cli\n"
            "try: lwm_spectro_cli.main(['classify', '--help'])\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "examples:" in result.stdout

    def test_examples_in_every_help_parse(self):
        parser = build_parser()
        commands = parser._subparsers._group_actions[0].choices
        assert set(commands) == set(cli.COMMANDS)
        for name, command in commands.items():
            lines = [line.strip() for line in re.sub(r"\\\n\s*", "", command.format_help()).splitlines()]
            examples = [line for line in lines if line.startswith("lwm-spectro")]
            assert examples, name
            for example in examples:
                words = example.split("   ")[0].split(" > ")[0].split()[1:]
                assert parser.parse_args(words).command == name

    def test_the_commands_of_the_readme_parse(self):
        readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
        commands = [line.split(" #")[0].split()[1:] for line in readme.splitlines() if line.startswith("lwm-spectro ")]
        assert {command[0] for command in commands} == set(cli.COMMANDS)
        for command in commands:
            build_parser().parse_args(command)

    @pytest.mark.parametrize("option", [["--window-ms", "0"], ["--sampling-rate", "fast"], ["--batch-size", "-1"]])
    def test_wrong_numbers_are_refused(self, option, capsys):
        with pytest.raises(SystemExit) as end:
            main(["classify", "x.npy", *option])
        assert end.value.code == 2 and option[0] in capsys.readouterr().err

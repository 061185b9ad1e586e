"""Data sets on disk: whole shards, reproducible to the byte, readable by `datasets`; SigMF and NumPy files."""

import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import sigmf
import torch
from datasets import load_dataset

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data import builder
from lwm_spectro_hf.data.builder import Split, build_parquet, split_seed, splits_by_city
from lwm_spectro_hf.data.card import write_card
from lwm_spectro_hf.data.labelled import open_data
from lwm_spectro_hf.data.parquet import ParquetSpectrograms, load_labels, load_spectrograms
from lwm_spectro_hf.data.recipe import MOBILITIES, MODULATIONS, PROTOCOLS, RECEIVERS, Recipe
from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.data.synthesis import draw_recordings

RECIPE = Recipe(
    protocols=("WiFi", "LTE"),
    channels=("munich", "exponential"),
    users=20,
    snrs_db=(0, 20),
    resource_blocks={"LTE": (6,)},
    noise_share=0.2,
    num_frames=16,
    chunk_size=2,
)
BOTH = ("spectrogram", "iq")


@pytest.fixture(scope="module")
def front_end():
    return SpectrogramFeatureExtractor(
        num_frames=16, num_freq_bins=128, fft_size=128, window_function=["boxcar", "general_hamming:0.72"]
    )


@pytest.fixture(scope="module")
def build(front_end):
    """`build(folder, **changes)`: 14 recordings to train on, 6 of the held-out city, in shards of 4."""

    def build(folder, recipe=RECIPE, num=14, **options):
        splits = splits_by_city(recipe, num, 6, add_test=True)
        return build_parquet(folder, splits, **{"seed": 7, "contents": BOTH, "shard_size": 4, **options}, **FRONT)

    FRONT = {"extractor": front_end}
    return build


@pytest.fixture(scope="module")
def built(tmp_path_factory, build):
    folder = tmp_path_factory.mktemp("built")
    return SimpleNamespace(folder=folder, paths=build(folder))


def bytes_of(paths):
    return [Path(path).read_bytes() for path in paths]


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_shards_hold_all_recordings_once(built):
    assert [path.name for path in built.paths] == [
        *(f"train-{shard:05d}-of-00004.parquet" for shard in range(4)),
        *(f"test-{shard:05d}-of-00002.parquet" for shard in range(2)),
    ]
    index = [pq.read_table(path, columns=["index"]).column("index").to_pylist() for path in built.paths]
    assert sum(index[:4], []) == list(range(14)) and sum(index[4:], []) == list(range(6))


@pytest.mark.parametrize("with_card", [False, True])
def test_datasets_reads_what_was_written(built, tmp_path, with_card):
    folder = tmp_path / "copy"
    shutil.copytree(built.folder, folder)
    if with_card:
        write_card(folder)
    cache = str(tmp_path / "cache")
    rows = load_dataset(str(folder), cache_dir=cache)
    assert {name: len(split) for name, split in rows.items()} == {"train": 14, "test": 6}
    features = rows["train"].features
    assert features["input_values"].shape == (2, 16, 128) and features["input_values"].dtype == "float16"
    for name, names in (
        ("protocol", PROTOCOLS),
        ("modulation", MODULATIONS),
        ("mobility", MOBILITIES),
        ("receiver", RECEIVERS),
    ):
        assert features[name].names == list(names)
    assert features["index"].dtype == "int64" and features["sampling_rate"].dtype == "float64"
    streamed = list(load_dataset(str(folder), split="train", streaming=True, cache_dir=cache))
    plain = load_spectrograms(folder, "train")
    assert features["resolution"].length == 2 and plain["resolution"].shape == (14, 2)
    assert plain["input_values"].shape == (14, 2, 16, 128) and plain["input_values"].dtype == torch.float16
    train = rows["train"].with_format("numpy")
    np.testing.assert_array_equal(train["input_values"], plain["input_values"].numpy())
    for name in set(plain) - {"input_values"}:
        np.testing.assert_array_equal(train[name], plain[name].numpy(), name)
        assert [row[name] for row in streamed] == rows["train"][name][:]
    assert {row["scenario"] for row in streamed} == {"munich", "exponential", "none"}
    assert set(rows["test"]["scenario"]) <= {"florence", "none"}, "testing is in this city alone, training never"
    for row in streamed:
        assert np.asarray(row["iq"]).shape == (16 * 128, 2)
        assert (row["scenario"] == "none") == (row["snr_db"] == -math.inf) == (row["mobility"] == -1)


def test_a_row_is_reproducible_from_recipe_seed_and_index(built, front_end, tmp_path):
    record = json.loads((built.folder / builder.RECORD).read_text())
    recipe = Recipe.from_dict(record["splits"]["train"]["recipe"])
    files = {"data_files": str(built.paths[2]), "cache_dir": str(tmp_path)}
    row = list(load_dataset("parquet", **files, split="train", streaming=True))[1]
    assert row["index"] == 9 and row["seed"] == split_seed(7, "train")
    chunk, number = divmod(row["index"], recipe.chunk_size)
    batch = draw_recordings(recipe, chunk, row["seed"])
    np.testing.assert_array_equal(torch.view_as_real(batch.iq[number]).numpy(), np.array(row["iq"], np.float32))
    spectrogram = front_end.spectrogram(batch.iq[number : number + 1]).half()[0]
    np.testing.assert_array_equal(spectrogram.numpy(), np.array(row["input_values"], np.float16))
    assert row["snr_db"] == batch.snr_db[number] and row["modulation"] == batch.modulation[number]
    assert split_seed(7, "train") != split_seed(7, "test")


def test_bytes_do_not_depend_on_the_number_of_processes(built, build, tmp_path):
    paths = build(tmp_path / "two", processes=2)
    assert [path.name for path in paths] == [path.name for path in built.paths]
    assert bytes_of(paths) == bytes_of(built.paths)
    assert names_in(tmp_path / "two") == names_in(built.folder)


def test_a_killed_build_resumes(built, build, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(built.folder, folder)
    paths = [folder / "data" / path.name for path in built.paths]
    kept = paths[0].stat().st_mtime_ns
    half = paths[1].read_bytes()[:1000]
    for path in (paths[1], paths[5]):
        path.unlink()
    (paths[1].parent / f".{paths[1].name}.abc123").write_bytes(half)  # what `kill -9` leaves
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # bytes do not depend on the number of threads
    try:
        assert build(folder) == paths and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert bytes_of(paths) == bytes_of(built.paths)
    assert paths[0].stat().st_mtime_ns == kept
    assert load_spectrograms(folder, "train")["index"].tolist() == list(range(14))


def test_incomplete_or_damaged_shards_are_refused(built, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(built.folder, folder)
    path = folder / "data" / built.paths[1].name
    path.unlink()
    for read in (load_spectrograms, load_labels, lambda *args: ParquetSpectrograms(*args, chunk_size=1)):
        with pytest.raises(FileNotFoundError, match="3 of the 4 files of its split 'train', so it is incomplete"):
            read(folder, "train")
    assert len(load_spectrograms(folder, "test")["index"]) == 6
    path.write_bytes(built.paths[1].read_bytes()[:-1000])
    for read in (load_spectrograms, load_labels, lambda *args: ParquetSpectrograms(*args, chunk_size=1)):
        with pytest.raises(ValueError, match=f"{path.name} is damaged .*: delete the file, and build it again"):
            read(folder, "train")


def test_samples_alone_are_no_spectrograms(build, tmp_path):
    build(tmp_path, contents=("iq",))
    for read in (load_spectrograms, lambda *args: ParquetSpectrograms(*args, chunk_size=1)):
        with pytest.raises(ValueError, match="columns iq, .*expected spectrograms.*--content spectrogram"):
            read(tmp_path, "train")
    assert len(load_labels(tmp_path, "train")["scenario"]) == 14


def test_a_tilde_means_the_home_directory(built, monkeypatch):
    monkeypatch.setenv("HOME", str(built.folder.parent))
    assert len(load_labels(f"~/{built.folder.name}", "test")["scenario"]) == 6


def test_an_error_in_the_middle_leaves_whole_shards_only(built, build, tmp_path, monkeypatch):
    folder, calls = tmp_path / "full", []

    def fails(table, stream, **options):
        calls.append(1)
        if len(calls) == 3:
            stream.write(b"PAR1 and then the disk is full")
            raise OSError(28, "No space left on device")
        return write_table(table, stream, **options)

    write_table = pq.write_table
    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(OSError, match="No space left"):
        build(folder)
    whole = [path.name for path in built.paths[:2]]
    assert sorted(os.listdir(folder / "data")) == whole
    assert bytes_of(folder / "data" / name for name in whole) == bytes_of(built.paths[:2])
    monkeypatch.undo()
    assert bytes_of(build(folder)) == bytes_of(built.paths)


def test_lack_of_space_is_reported_first(build, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    monkeypatch.setattr(builder, "_write_shard", None)
    for write in (
        lambda: build(tmp_path / "a"),
        lambda: builder.write_recordings(tmp_path / "b", RECIPE, 4),
        lambda: builder.write_arrays(tmp_path / "c" / "d.npz", RECIPE, 100),
    ):
        with pytest.raises(OSError, match=r"needs about .* MB more, but .* 0.0 MB free: make fewer"):
            write()
    assert names_in(tmp_path) == [], "so that a smaller one may take its place"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 8}, "seed"),
        ({"num": 12}, "splits"),
        ({"recipe": RECIPE.narrowed(snrs_db=(0,))}, "splits"),
        ({"contents": ("iq",)}, "contents"),
        ({"shard_size": 2}, "shard_size"),
    ],
)
def test_another_data_set_in_the_folder_is_refused(built, build, change, what):
    before = names_in(built.folder)
    with pytest.raises(ValueError, match=rf"begun with different settings \({what}: .*another folder"):
        build(built.folder, **change)
    assert names_in(built.folder) == before


def test_wrong_requests_are_errors(build, tmp_path):
    with pytest.raises(ValueError, match="contents is .*'audio'.*spectrogram, iq"):
        build(tmp_path, contents=("audio",))
    with pytest.raises(ValueError, match="shard_size is 3; expected a multiple of .* 2"):
        build(tmp_path, shard_size=3)
    with pytest.raises(ValueError, match="processes is 0"):
        build(tmp_path, processes=0)
    with pytest.raises(ValueError, match="Split 'train' has 0"):
        build_parquet(tmp_path, {"train": Split(RECIPE, 0)})
    with pytest.raises(ValueError, match="No scenario 'atlantis'"):
        build(tmp_path, recipe=RECIPE.narrowed(channels=("atlantis",)))
    assert names_in(tmp_path) == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="holds data/mine.parquet but no dataset.json"):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match="no split 'validation'; build it first"):
        load_spectrograms(tmp_path, "validation")


@pytest.mark.parametrize("name", ["README.md", "lte-000000.sigmf-meta"])
def test_the_files_of_others_are_left_alone(build, tmp_path, name):
    (tmp_path / name).write_text("mine")
    for write in (build, lambda folder: builder.write_recordings(folder, RECIPE, 4)):
        with pytest.raises(ValueError, match=f"holds {name} but no dataset.json.* write to another folder"):
            write(tmp_path)
        with pytest.raises(NotADirectoryError, match="is a file; expected the name of a folder"):
            write(tmp_path / name)
    assert names_in(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("option", ["--num", "--users", "--shard-size", "--processes"])
def test_the_script_refuses_numbers_that_cannot_be(tmp_path, monkeypatch, capsys, option):
    script = Path(__file__).parents[2] / "dataset_scripts" / "build_dataset.py"
    arguments = [script, "--num", 4, "--plan", "--out", tmp_path / "set", option, 0]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(script), run_name="__main__")
    assert f"argument {option}: '0' is not a whole number above 0" in capsys.readouterr().err


def test_workers_end_when_the_build_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import multiprocessing, os, signal, time\n"
        "from pathlib import Path\n"
        "from lwm_spectro_hf.data import builder\n"
        "def make(first, last):\n"
        "    os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    shards = builder.shards_of(Path('.'), 'train', 2, 1, make=make, schema={}, row_bytes=0)\n"
        "    list(builder._run(shards, 2))\n"
    )
    # The pipe of its output is open, and this waits, as long as there is a worker.
    killed = subprocess.run([sys.executable, script], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_data_sets_of_one_name_are_not_mixed_up(tmp_path, monkeypatch):
    """`datasets` caches by the name of a folder and its card."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for parent, snr_db in (("a", 5.0), ("b", 15.0)):
        folder = tmp_path / parent / "same"
        build_parquet(folder, {"train": Split(RECIPE.narrowed(snrs_db=(snr_db,)), 6)}, 0)
        for read in (open_data, lambda path: (write_card(path), load_dataset(path))[1]):
            assert set(read(str(folder))["train"]["snr_db"]) == {snr_db}


def test_a_held_out_city_given_as_a_folder_is_not_trained_on(tmp_path):
    folder = tmp_path / "florence"
    splits = splits_by_city(RECIPE.narrowed(channels=("munich", str(folder))), 100)
    assert splits["train"].recipe.channels == ("munich",) and splits["test"].recipe.channels == (str(folder),)
    assert splits_by_city(RECIPE.narrowed(channels=("munich", str(folder))), 100, add_test=True) == splits


def test_splits_by_city():
    cities = RECIPE.narrowed(channels=("munich", "florence", "paris"))
    splits = splits_by_city(cities, 100)
    assert splits["train"].recipe.channels == ("munich", "paris") and splits["train"].num == 100
    assert splits["test"].recipe.channels == ("florence",) and splits["test"].num == 10
    assert splits_by_city(RECIPE, 100).keys() == {"train"}
    assert splits_by_city(RECIPE, 100, add_test=True)["test"].recipe.channels == ("florence",)
    assert splits_by_city(RECIPE, 100, 0, add_test=True).keys() == {"train"}
    assert splits_by_city(RECIPE.narrowed(channels=("florence",)), 100)["test"].num == 100


def test_the_card_describes_the_data(built, tmp_path):
    folder = tmp_path / "my-set"
    shutil.copytree(built.folder, folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "delay_profiles.png").write_bytes(b"")
    text = write_card(folder).read_text()
    front = text.split("---")[1]
    assert "split: train\n    path: data/train-*.parquet" in front and "split: test" in front
    assert "# my-set" in text and 'load_dataset("my-set", split="train", streaming=True)' in text
    assert "## Split train: 14 recordings, 4 files" in text and "## Split test: 6 recordings, 2 files" in text
    plain = load_spectrograms(folder, "train")
    noise = int((plain["mobility"] < 0).sum())
    train = text.split("## Split train")[1].split("## Split test")[0]
    for label, count in (
        ("protocol LTE", int((plain["protocol"] == 1).sum())),
        ("snr_db 20", int((plain["snr_db"] == 20).sum())),
        ("snr_db -inf", noise),
        ("mobility none", noise),
        ("scenario none", noise),
        ("receiver synchronous", 14),
    ):
        assert f"| {label} | {count} |" in train, label
    assert "| `input_values` | float16 (2, 16, 128) | " in text and "| `iq` | float32 (None, 2) | " in text
    assert "![delay profiles](figures/delay_profiles.png)" in text and "OpenStreetMap" in text


def test_spectrograms_have_the_sizes_of_the_recipe(tmp_path):
    build_parquet(tmp_path, {"train": Split(replace(RECIPE, receivers={"synchronous": 1}), 4)}, shard_size=4)
    columns = load_spectrograms(tmp_path, "train")
    assert columns["input_values"].shape == (4, 2, 16, 128)
    other = Split(replace(RECIPE, num_frames=32), 4)
    with pytest.raises(ValueError, match=r"spectrograms of 2 sizes, \[\(16, 128\), \(32, 128\)\]; expected one"):
        build_parquet(tmp_path / "two", {"train": Split(RECIPE, 4), "test": other}, shard_size=4)


def test_a_build_that_failed_before_its_first_file_blocks_nothing(tmp_path, build, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(builder, "draw_recordings", None)
        with pytest.raises(TypeError):
            build(tmp_path)
    assert names_in(tmp_path) == ["dataset.json"]
    assert build(tmp_path, seed=8)
    with pytest.raises(ValueError, match="different settings .*seed"):
        build(tmp_path, seed=9)


class TestSigMF:
    NATIVE = Recipe(
        channels=("exponential",),
        snrs_db=(10, math.inf),
        receivers={"native": 1.0},
        resource_blocks={"LTE": (6,), "5G": ((15, 25),)},
        noise_share=0.25,
        duration_s=1e-3,
        chunk_size=1,
    )
    PARAMETERS = {
        "wifi": {"rate_mbps", "high_throughput", "mcs"},
        "lte": {"cell_id", "num_rb", "num_ports", "rnti", "cfi", "mcs", "mcs_table", "frame_number", "phich_resource"},
        "5g": {"cell_id", "rnti", "mcs", "mcs_table", "frame_number", "slot", "ssb_bitmap", "dmrs_position"},
        "none": set(),
    }

    def test_files_are_valid_and_fully_labelled(self, tmp_path):
        paths = builder.write_recordings(tmp_path, self.NATIVE, 8, 3)
        assert len(set(paths)) == 8 and {path.name.split("-")[0] for path in paths} == set(self.PARAMETERS)
        for index, path in enumerate(paths):
            signal = sigmf.fromfile(path)
            signal.validate()
            (mark,) = signal.get_annotations()
            batch = draw_recordings(self.NATIVE, index, 3)
            np.testing.assert_array_equal(signal.read_samples(), batch.iq[0].numpy())
            label = {name.removeprefix("lwm:"): value for name, value in mark.items() if name.startswith("lwm:")}
            assert label["index"] == index and label["seed"] == 3 and mark["core:label"] == label["protocol"]
            assert mark["core:sample_start"] == 0 and mark["core:sample_count"] == batch.iq.shape[1]
            assert str(label["protocol"]).lower() == path.name.split("-")[0]
            assert self.PARAMETERS[path.name.split("-")[0]] <= set(label)
            for name, values in batch.parameters.items():
                assert label[name] == pytest.approx(values[0].item())
            assert float(label["snr_db"]) == batch.snr_db[0]
            assert label["scenario"] == ("none" if label["protocol"] == "none" else "exponential")
            recording = open_recording(path)
            assert recording.sampling_rate == batch.sampling_rate == label["sampling_rate"]
            assert recording.center_frequency_hz == batch.carrier_hz == label["carrier_hz"]
            json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @pytest.mark.parametrize("receiver", RECEIVERS)
    def test_the_center_frequency_is_said_where_it_is_known(self, tmp_path, receiver):
        recipe = replace(self.NATIVE, protocols=("LTE",), noise_share=0.0, receivers={receiver: 1.0})
        (path,) = builder.write_recordings(tmp_path, recipe, 1)
        recording = open_recording(path)
        carrier_hz = recording.annotations[0]["lwm:carrier_hz"]
        assert carrier_hz > 0
        assert recording.center_frequency_hz == (carrier_hz if receiver == "native" else None)

    def test_existing_files_are_kept_and_other_settings_refused(self, tmp_path, monkeypatch):
        first = builder.write_recordings(tmp_path, self.NATIVE, 3)
        kept = first[0].stat().st_mtime_ns
        first[1].unlink()
        drawn = []
        monkeypatch.setattr(
            builder, "draw_recordings", lambda *args: (drawn.append(args[1]), draw_recordings(*args))[1]
        )
        again = builder.write_recordings(tmp_path, self.NATIVE, 4)
        assert drawn == [1, 3], "those that are there are not made again"
        assert again[:3] == first and len(again) == 4 and all(path.exists() for path in again)
        assert again[0].stat().st_mtime_ns == kept
        with pytest.raises(ValueError, match=r"begun with different settings \(seed: "):
            builder.write_recordings(tmp_path, self.NATIVE, 4, seed=1)
        with pytest.raises(ValueError, match="different settings .*recipe"):
            builder.write_recordings(tmp_path, self.NATIVE.narrowed(snrs_db=(0,)), 4)


class TestArrays:
    def test_columns_match_those_of_parquet(self, built, front_end, tmp_path):
        path = tmp_path / "new" / "set.npz"
        assert builder.write_arrays(path, RECIPE, 5, split_seed(7, "train"), front_end, BOTH) == path
        plain = load_spectrograms(built.folder, "train")
        with np.load(path) as arrays:
            assert arrays["iq"].shape == (5, 16 * 128, 2)
            for name, values in plain.items():
                if name != "input_values":
                    np.testing.assert_array_equal(arrays[name], values[:5].numpy(), name)
            assert arrays["input_values"].shape == (5, 2, 16, 128)
            assert arrays["scenario"].dtype.kind == "U"

    def test_iq_of_several_lengths_does_not_fit(self, tmp_path):
        with pytest.raises(ValueError, match="20000 samples do not fit into one array of I/Q: write Parquet or SigMF"):
            builder.write_arrays(tmp_path / "a.npz", TestSigMF.NATIVE, 4, contents=("iq",))
        with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
            builder.write_arrays(tmp_path, TestSigMF.NATIVE, 4)
        assert names_in(tmp_path) == []

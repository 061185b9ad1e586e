"""Any data set becomes a task: labels of every kind, splits that share no channel, and errors that name the cause."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.labelled import LabelledSpectrograms, TaskError, label_codes, load_task
from lwm_spectro_hf.data.recipe import RECEIVERS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(num=40, **columns):
    """Spectrograms that hold their own number; classes 0, 1, 0, 1..., a channel every four rows."""
    values = np.arange(num, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 3), np.float32)
    columns = {"input_values": values.tolist(), "kind": ["a", "b"] * (num // 2), **columns}
    return Dataset.from_dict(columns)


def channels(num=40):
    return {"user": [row // 8 for row in range(num)], "scenario": ["rome", "oslo"] * (num // 2)}


def write(folder, **splits):
    for name, split in splits.items():
        split.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("values", "feature", "codes", "names"),
    [
        ([1, -1, 0, None], ClassLabel(names=["x", "y"]), [1, -1, 0, -1], ["x", "y"]),
        (["b", "", None, "a"], Value("string"), [1, -1, -1, 0], ["a", "b"]),
        ([10, -1, 2, None], Value("int32"), [1, -1, 0, -1], ["2", "10"]),
        ([10, -1, -20, 0], Value("int32"), [3, 1, 0, 2], ["-20", "-1", "0", "10"]),
        ([10.0, float("-inf"), -5.0, float("nan")], Value("float32"), [1, -1, 0, -1], ["-5", "10"]),
        ([0.1, 1234567.0, 1234568.0], Value("float32"), [0, 1, 2], ["0.1", "1234567.0", "1234568.0"]),
        ([0.1, 1234567.0, 1234568.0], Value("float64"), [0, 1, 2], ["0.1", "1234567.0", "1234568.0"]),
        ([True, False, None, True], Value("bool"), [1, 0, -1, 1], ["False", "True"]),
    ],
)
def test_labels_of_every_kind(values, feature, codes, names):
    table = Dataset.from_dict({"label": values}, features=datasets.Features({"label": feature}))
    found, found_names = label_codes(table, "label")
    assert found.tolist() == codes and found_names == names


def test_joined_labels_are_unknown_if_one_part_is():
    table = Dataset.from_dict({"snr_db": [0.0, -5.0, 0.0, None], "mobility": ["slow", "fast", "", "fast"]})
    codes, names = label_codes(table, "snr_db+mobility")
    assert [names[code] if code >= 0 else None for code in codes] == ["0+slow", "-5+fast", None, None]


def test_splits_are_made_by_channel_and_hold_every_row_once(tmp_path):
    data = write(tmp_path / "data", train=rows(**channels()))
    task = load_task(data, "kind", seed=3, validation_share=0.2)
    parts = [part.rows for part in (task.train, task.validation, task.test)]
    assert sorted(np.concatenate(parts)) == list(range(40)) and all(len(part) for part in parts)
    of_row = [set(zip(part // 8, part % 2, strict=True)) for part in parts]
    assert not of_row[0] & of_row[1] and not of_row[0] & of_row[2] and not of_row[1] & of_row[2]
    assert "channels (scenario, user)" in task.notes[0]
    again = load_task(data, "kind", seed=3, validation_share=0.2)
    assert np.array_equal(again.train.rows, task.train.rows)
    batch = task.test.__getitems__([2, 0])
    assert batch["input_values"][:, 0, 0, 0].tolist() == [task.test.rows[2], task.test.rows[0]]
    assert batch["labels"].tolist() == [task.test.rows[2] % 2, task.test.rows[0] % 2]


def test_rows_come_with_their_resolution(tmp_path):
    resolution = [[1e-6 * row, 1e3] for row in range(40)]
    task = load_task(write(tmp_path / "data", train=rows(**channels(), resolution=resolution)), "kind")
    batch = task.train.__getitems__([1, 0])
    found = batch["resolution"]
    assert found.dtype == torch.float32 and found[:, 0].tolist() == pytest.approx(1e-6 * task.train.rows[[1, 0]])


def test_rows_without_a_channel_are_split_one_by_one(tmp_path):
    data = write(tmp_path / "data", train=rows(user=[-1] * 40, scenario=["none"] * 40))
    assert len(load_task(data, "kind", validation_share=0).test) == 8
    data = write(tmp_path / "one", train=rows(user=[7] * 40))
    with pytest.raises(TaskError, match="All 40 rows are of one recording or channel: none is left for test"):
        load_task(data, "kind")


def test_pieces_of_a_recording_stay_together(tmp_path):
    """Recordings, each of one class, are divided among the splits class by class, and never cut."""
    recording = [f"{row % 2}-{row // 8}" for row in range(40)]  # five of each class
    task = load_task(write(tmp_path / "data", train=rows(recording=recording)), "kind", validation_share=0.3)
    parts = [{recording[row] for row in part.rows} for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [6, 2, 2] and len(set.union(*parts)) == 10
    assert all({name[0] for name in part} == {"0", "1"} for part in parts)
    assert "recordings that are not in training" in task.notes[0]

    one = load_task(
        write(tmp_path / "one", train=rows(recording=["a" if row % 2 else f"b{row // 8}" for row in range(40)])),
        "kind",
    )
    assert set(one.test.labels.tolist()) == {0} and "so test has none of it" in one.notes[1]
    with pytest.raises(TaskError, match="Each class has only one recording or channel: none is left for test"):
        load_task(write(tmp_path / "two", train=rows(recording=["a", "b"] * 20)), "kind")
    # Rows are split one by one if their recording is unknown, or if it is the label.
    assert len(load_task(write(tmp_path / "none", train=rows(recording=[""] * 40)), "kind").test) == 8
    assert len(load_task(write(tmp_path / "told", train=rows(recording=["a", "b"] * 20)), "recording").test) == 8


def test_given_splits_are_kept_and_unlabelled_rows_left_out(tmp_path):
    test = rows(6).remove_columns("kind").add_column("kind", ["b", "c", "a", "", "b", "c"])
    train = rows(protocol=["LTE", "LTE", "5G", "5G"] * 10)
    data = write(tmp_path / "data", train=train, test=test)
    task = load_task(data, "kind", samples_per_class=4, validation_share=0, seed=1)
    assert task.labels == ["a", "b"] and task.validation is None and set(task.test_protocols) == {"none"}
    assert task.test.rows.tolist() == [0, 2, 4] and task.test.labels.tolist() == [1, 0, 1]
    assert task.train.labels.bincount().tolist() == [4, 4]
    assert "1 of 6 rows of split 'test' are left out" in task.notes[0]
    assert "2 rows for test are left out: their class is not in training" in task.notes[1]
    one = load_task(data, "kind", train_split="train", test_split="none", protocol="LTE", validation_share=0)
    assert set(one.train.rows % 4) == {0, 1} and set(one.test_protocols) == {"LTE"}


def test_iq_becomes_the_spectrograms_of_the_extractor(tmp_path, noise):
    extractor = SpectrogramFeatureExtractor(num_frames=4, num_freq_bins=8, fft_size=8, sampling_rate=1e6)
    samples = [noise(64 + 8 * row, row) for row in range(10)]
    table = Dataset.from_dict(
        {
            "iq": [np.stack([iq.real, iq.imag], 1).tolist() for iq in samples],
            "sampling_rate": [1e6] * 9 + [2e6],
            "kind": ["a", "b"] * 5,
        }
    )
    data = write(tmp_path / "data", train=table.select(range(8)), test=table.select(range(8, 10)))
    task = load_task(data, "kind", validation_share=0, extractor=extractor)
    batch = task.train.__getitems__([3, 1])
    for values, row in zip(batch["input_values"], (3, 1), strict=True):
        assert np.array_equal(values, extractor(samples[row], 1e6, return_tensors="pt").input_values[0])
    assert torch.equal(batch["resolution"], torch.stack([extractor.resolution(64 + 8 * row, 1e6) for row in (3, 1)]))
    with pytest.raises(ValueError, match="sampled at 2,000,000 Hz"):
        task.test.__getitems__([1])
    with pytest.raises(TaskError, match="no preprocessor_config.json"):
        load_task(data, "kind", validation_share=0)


@pytest.mark.parametrize(
    ("columns", "receivers", "blind"),
    [
        (("iq",), None, True),
        (("input_values",), None, True),
        (("iq",), ["synchronous"] * 4, False),
        (("input_values",), ["blind"] * 4, True),
        (("input_values", "iq"), ["blind", "listening"] * 2, False),
        (("input_values",), ["blind", "native"] * 2, True),
    ],
)
def test_blind_data_are_recognized(columns, receivers, blind):
    shown = {"iq": [[[0.0, 1.0]] * 8] * 4, "input_values": [[[[0.0, 1.0]]]] * 4}
    table = Dataset.from_dict({name: shown[name] for name in columns})
    extractor = SpectrogramFeatureExtractor(num_frames=4, num_freq_bins=8, fft_size=8)
    tables = [table]
    if receivers is not None:
        tables = [table.add_column("receiver", receivers)]
        tables.append(tables[0].cast_column("receiver", datasets.ClassLabel(names=list(RECEIVERS))))
    for kind in tables:
        assert LabelledSpectrograms(kind, np.arange(4), np.zeros(4, int), extractor).is_blind == blind


def test_a_row_that_makes_no_spectrogram_is_named():
    iq = [np.ones((64, 2), np.float32).tolist() for _ in range(6)]
    iq[2][5] = [float("nan"), 0.0]
    iq[4] = iq[4][:10]
    table = Dataset.from_dict({"iq": iq, "sampling_rate": [1e6] * 6})
    extractor = SpectrogramFeatureExtractor(num_frames=4, num_freq_bins=8, fft_size=8)
    rows = LabelledSpectrograms(table, np.array([5, 2, 4, 0]), np.zeros(4, int), extractor)
    with pytest.raises(TaskError, match="Row 2 gives no spectrogram: it has 1 sample"):
        rows.__getitems__([0, 1, 3])
    with pytest.raises(TaskError, match="Row 4 gives no spectrogram: .*too short"):
        rows.__getitems__([2, 3])
    assert rows.__getitems__([0, 3])["input_values"].shape == (2, 1, 4, 8)


def test_the_user_may_be_the_label(tmp_path):
    data = write(tmp_path, train=rows(user=[f"radio {row % 2}" for row in range(40)]))
    task = load_task(data, "user")
    assert task.labels == ["radio 0", "radio 1"]
    assert set(task.train.labels.tolist()) == set(task.test.labels.tolist()) == {0, 1}


def test_unusable_labels_and_splits_are_named(tmp_path):
    values = [[0.0, row] for row in range(40)]
    data = write(tmp_path / "data", train=rows(pair=values, same=["x"] * 40, few=["a"] * 37 + ["b"] * 3))
    for label, message in (
        ("modulation", "no column 'modulation' .* has input_values, kind, pair, same, few"),
        ("kind+mobility", "no column 'mobility'"),
        ("pair", "'pair' holds List"),
        ("same", r"one class, \['x'\]"),
    ):
        with pytest.raises(TaskError, match=message):
            load_task(data, label)
    with pytest.raises(TaskError, match="Class 'b' has 3 training rows; 4 of each class were requested"):
        load_task(data, "few", test_share=0.05, validation_share=0, samples_per_class=4, seed=1)
    with pytest.raises(TaskError, match="no split 'tests'; it has train"):
        load_task(data, "kind", train_split="tests")
    with pytest.raises(TaskError, match="no column 'protocol'"):
        load_task(data, "kind", protocol="LTE")
    speeds = np.linspace(0, 30, 40)
    many = Dataset.from_dict({"speed_mps": speeds.tolist() * 50, "name": [str(row) for row in range(2000)]})
    with pytest.raises(TaskError, match="2,000 different values, which are too many for classes"):
        label_codes(many, "name")
    assert len(label_codes(many, "speed_mps")[1]) == 40
    with pytest.raises(TaskError, match="'speed_mps' holds 40 different numbers in 40 rows: a quantity rather than"):
        label_codes(many.select(range(40)), "speed_mps")
    bare = write(tmp_path / "bare", train=rows().remove_columns("input_values"))
    with pytest.raises(TaskError, match="expected `input_values`"):
        load_task(bare, "kind")


def test_damaged_files_and_values_are_found(tmp_path):
    data = write(tmp_path / "data", train=rows())
    path = tmp_path / "data" / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TaskError, match=r"cannot be read as a data set \(Arrow.*build again"):
        load_task(data, "kind")
    with pytest.raises(TaskError, match="cannot be read as a data set"):
        load_task(str(tmp_path / "nothing"), "kind")
    broken = rows()
    values = np.array(broken["input_values"][:], np.float32)
    values[5, 0, 1, 1] = np.nan
    broken = broken.remove_columns("input_values").add_column("input_values", values.tolist())
    task = load_task(write(tmp_path / "nan", train=broken), "kind", test_share=0.1, validation_share=0)
    place = task.train.rows.tolist().index(5)
    with pytest.raises(TaskError, match="spectrogram of row 5 holds values that are NaN"):
        task.train.__getitems__([0, place])

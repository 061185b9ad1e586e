"""Few-shot tasks: what is in a class, and that training and testing share no channel."""

import json

import numpy as np
import pytest
from benchmark_data import pool_labels

from lwm_spectro_hf import SpectrogramFeatureExtractor
from lwm_spectro_hf.data.front_end import default_extractor
from lwm_spectro_hf.data.parquet import load_labels, load_spectrograms
from lwm_spectro_hf.evaluation.benchmark import PUBLISHED_SPLITS
from lwm_spectro_hf.evaluation.tasks import (
    TASKS,
    Pool,
    available_shots,
    fingerprint,
    is_test_user,
    rows_for_testing,
    rows_for_training,
    split_record,
)

LABELS = pool_labels()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_no_channel_is_on_both_sides(task):
    test = rows_for_testing(task, LABELS, 200)
    most = available_shots(task, LABELS)
    users = {row: LABELS["user"][row] for row in range(len(LABELS["user"]))}
    for seed in range(3):
        train = rows_for_training(task, LABELS, most, seed)
        assert not {users[row] for row in train} & {users[row] for row in test}
        assert len(set(train.tolist())) == len(train)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_classes_are_balanced_and_match_their_names(task):
    classes = task.labels(LABELS)
    for rows in (rows_for_training(task, LABELS, 4, 0), rows_for_testing(task, LABELS, 100)):
        counts = np.bincount(classes[rows], minlength=len(task.classes))
        assert len(set(counts.tolist())) == 1 and counts[0] >= 1
        for row in rows:
            name = task.classes[classes[row]]
            assert ("WiFi", "LTE", "5G")[LABELS["protocol"][row]] in task.protocols
            if task.target == "modulation":
                assert name == ("BPSK", "QPSK", "16QAM", "64QAM", "256QAM")[LABELS["modulation"][row]]
            else:
                mobility = ("static", "pedestrian", "vehicular")[LABELS["mobility"][row]]
                assert name == f"{LABELS['snr_db'][row]:g}+{mobility}"


def test_tasks_match_the_paper():
    assert len(TASKS["joint-lte"].classes) == len(TASKS["joint-mixed"].classes) == 14
    assert TASKS["joint-lte"].shots == (5, 10, 20, 50, 100, 200, 400)
    assert TASKS["joint-mixed"].shots == (100, 200, 400, 800, 1600, 3200)
    assert TASKS["modulation"].shots == (2, 4, 8, 16, 32, 64, 128, 256)
    assert TASKS["modulation"].classes == ("BPSK", "QPSK", "16QAM", "64QAM", "256QAM")
    assert TASKS["modulation-5g"].classes == ("QPSK", "16QAM", "64QAM", "256QAM")


def test_rows_without_a_label_are_in_no_class():
    labels = {name: values.copy() for name, values in LABELS.items()}
    labels["protocol"][:3], labels["modulation"][3:6], labels["mobility"][6:9] = -1, -1, 0
    for name in ("joint-mixed", "modulation"):
        assert (TASKS[name].labels(labels)[:3] == -1).all()
    assert (TASKS["modulation"].labels(labels)[3:6] == -1).all()
    assert (TASKS["joint-mixed"].labels(labels)[6:9] == -1).all()


def test_splits_are_reproducible_and_nested():
    task = TASKS["joint-mixed"]
    few, many = rows_for_training(task, LABELS, 3, 7), rows_for_training(task, LABELS, 9, 7)
    assert few.tolist() == rows_for_training(task, LABELS, 3, 7).tolist() == many[: len(few)].tolist()
    assert few.tolist() != rows_for_training(task, LABELS, 3, 8).tolist()
    assert split_record(task, LABELS, 100, 3, 2) == split_record(task, LABELS, 100, 3, 2)
    json.dumps(split_record(task, LABELS, 100, 3, 2))


def test_a_larger_pool_moves_no_user_to_the_other_side():
    small, large = pool_labels(300), pool_labels(900)
    side = dict(zip(large["user"].tolist(), is_test_user(large).tolist(), strict=True))
    common = [row for row, user in enumerate(small["user"].tolist()) if user in side]
    assert [bool(is_test_user(small)[row]) for row in common] == [side[small["user"][row]] for row in common]


def test_the_fingerprint_depends_on_the_labels():
    assert fingerprint(LABELS) == fingerprint(pool_labels())
    changed = {name: values.copy() for name, values in LABELS.items()}
    changed["user"][5] += 1
    assert fingerprint(changed) != fingerprint(LABELS)


def test_impossible_splits_are_errors():
    task = TASKS["joint-lte"]
    with pytest.raises(ValueError, match=r"joint-lte has \d+ training rows .* but 1000 per class were requested"):
        rows_for_training(task, LABELS, 1000, 0)
    with pytest.raises(ValueError, match="13 rows are allowed for 14 classes"):
        rows_for_testing(task, LABELS, 13)
    with pytest.raises(ValueError, match="1 rows have no user"):
        is_test_user({**LABELS, "user": np.r_[-1, LABELS["user"][1:]]})
    with pytest.raises(ValueError, match="no receiver 'deaf'; expected one of synchronous, blind"):
        Pool(10, receiver="deaf")
    with pytest.raises(ValueError, match="no city 'atlantis'; expected one of"):
        Pool(10, city="atlantis")


@pytest.mark.parametrize("receiver", ["synchronous", "blind"])
def test_a_pool_holds_moving_users_of_its_city_and_is_built_once(tmp_path, receiver):
    extractor = SpectrogramFeatureExtractor(num_frames=16, num_freq_bins=128, fft_size=128)
    pool = Pool(32, receiver, "munich", seed=3)
    folder = pool.build(tmp_path, extractor)
    labels = load_labels(folder, "test")
    assert set(labels["scenario"]) == {"munich"} and set(labels["mobility"]) <= {1, 2}
    assert set(labels["protocol"]) <= {-1, 0, 1, 2} and np.isfinite(labels["snr_db"]).all()
    assert load_spectrograms(folder, "test")["input_values"].shape == (32, 1, 16, 128)
    before = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.parquet"))]
    assert pool.build(tmp_path, extractor) == folder
    assert [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.parquet"))] == before
    assert pool.build(tmp_path, extractor.__class__(num_frames=16, fft_size=128, log_floor_db=-90.0)) != folder


@pytest.mark.parametrize("receiver", ["synchronous", "blind"])
def test_published_splits_match_the_generator(receiver, tmp_path):
    """If this fails, published results cannot be repeated: run the benchmark again, and publish its splits."""
    folder = Pool(96, receiver).build(tmp_path, default_extractor(), 1)
    published = json.loads(PUBLISHED_SPLITS.read_text())
    found = {key: splits["labels_of_96"] for key, splits in published.items() if f" {receiver}-" in key}
    assert found and set(found.values()) == {fingerprint(load_labels(folder, "test"))}

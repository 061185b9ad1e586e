"""The benchmark: finished cells are not run again, the same seeds give the same table, and the report shows it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_data import TINY, pool_labels, pool_spectrograms

from lwm_spectro_hf.data.recipe import MODULATIONS, PROTOCOLS
from lwm_spectro_hf.evaluation import benchmark as module
from lwm_spectro_hf.evaluation.benchmark import Benchmark
from lwm_spectro_hf.evaluation.features import Checkpoint, FeatureStore
from lwm_spectro_hf.evaluation.modulation_bound import ModulationBound, num_elements
from lwm_spectro_hf.evaluation.presets import PRESETS
from lwm_spectro_hf.evaluation.report import card_section, render, runs_of, table
from lwm_spectro_hf.evaluation.tasks import TASKS, Pool, rows_for_testing
from lwm_spectro_hf.files import read_json_lines

LABELS = pool_labels()
SPECTROGRAMS = pool_spectrograms(LABELS)
SCRIPT = Path(__file__).parents[2] / "examples" / "run_benchmark.py"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return Checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def prepare(checkpoint, features, tmp_path):
    """`prepare(...)`: a benchmark of the tiny preset, which writes to `tmp_path / out`."""

    def prepare(tasks=("joint-lte",), models=TINY.models, receiver="synchronous", out="out", **options):
        pool, tasks = Pool(TINY.num_rows, receiver), [TASKS[name] for name in tasks]
        store = FeatureStore(SPECTROGRAMS, checkpoint, features)
        return Benchmark(TINY, tasks, models, pool, LABELS, store, tmp_path / out, **options)

    return prepare


def table_of(lines):
    ((_, run),) = runs_of(lines).items()
    return table(run, "joint-lte")


def test_every_cell_has_a_result_and_the_same_seeds_give_the_same_table(prepare):
    lines = prepare().run()
    scores = [line for line in lines if line["kind"] == "score"]
    cells = {(line["model"], line["shots"], line["seed"]) for line in scores}
    neighbours = {(f"{kind}-knn", num, seed) for kind in ("lwm", "raw") for num in (2, 3) for seed in (0, 1)}
    assert cells == neighbours | {("cnn-wu", 2, 0), ("cnn-wu", 2, 1)} and len(scores) == len(cells)
    for line in scores:
        assert 0 <= line["accuracy"] <= 1 and 0 <= line["macro_f1"] <= 1 and line["parameters"] > 0
        assert sum(map(sum, line["confusion"])) == line["test_rows"] == 56
        assert set(line["per_snr"]) == {"-5", "0", "5", "10", "15", "20", "25"}
        assert set(line["mobility_per_doppler"]) == {"10 to 20 Hz", "50 to 100 Hz"}
        assert (line["checkpoint"] is None) == (line["model"] != "lwm-knn")
        assert line["versions"]["torch"] and line["milliseconds"] > 0
    assert table_of(prepare(out="again").run()) == table_of(lines)


def test_a_stopped_run_resumes(prepare, monkeypatch, tmp_path):
    started = prepare()
    real, calls = started.score, []

    def stops(cell):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(cell)
        return real(cell)

    monkeypatch.setattr(started, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        started.run()
    path = tmp_path / "out" / "results.jsonl"
    with path.open("a") as stream:
        stream.write('{"kind": "score", "task')  # cut off in mid-line
    again = prepare()
    monkeypatch.setattr(again, "score", lambda cell: calls.append(cell) or real(cell))
    lines = again.run()
    assert len(calls) == len(again.cells) == len({(c.name, c.shots, c.seed) for c in calls})
    assert read_json_lines(path) == lines and table_of(lines) == table_of(prepare(out="other").run())
    last = prepare()
    monkeypatch.setattr(last, "score", None)
    assert last.run() == lines


def test_new_weights_rerun_what_starts_from_them(prepare, checkpoint, monkeypatch):
    ran = []
    for digest in ("first", "second"):
        monkeypatch.setattr(checkpoint, "digest", digest)
        benchmark = prepare(models=("lwm-finetuned", "lwm-scratch", "cnn-wu"))
        monkeypatch.setattr(benchmark, "score", lambda cell: ran.append(cell.name) or {})
        benchmark.run()
    # Two seeds at N = 2 and at N = 3, where the preset only fine-tunes.
    assert ran == ["lwm-finetuned", "lwm-scratch", "cnn-wu"] * 2 + ["lwm-finetuned"] * 2 + ["lwm-finetuned"] * 4


def test_too_few_rows_are_reported_or_refused(prepare):
    reasons = prepare().left_out
    assert any(reason.startswith("joint-lte: N = 1000: the pool has") for reason in reasons)
    assert any("cnn-wu at N = 3: not part of the preset 'tiny'" in reason for reason in reasons)
    with pytest.raises(ValueError, match="joint-lte has .* but 1000 per class were requested"):
        prepare(shots=[1000])
    asked = prepare(shots=[3])
    assert {cell.shots for cell in asked.cells} == {3} and {cell.name for cell in asked.cells} >= {"cnn-wu"}


def test_splits_are_written_and_compared_with_published_ones(prepare, monkeypatch, tmp_path):
    benchmark = prepare()
    benchmark.run()
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert splits == benchmark.splits
    assert splits["tasks"]["joint-lte"]["test"] == rows_for_testing(TASKS["joint-lte"], LABELS, 56).tolist()
    published = {"labels": splits["labels"], "tasks": {"joint-lte": splits["tasks"]["joint-lte"]["digest"]}}
    path = tmp_path / "published.json"
    monkeypatch.setattr(module, "PUBLISHED_SPLITS", path)
    for changes, expected in (
        ({}, []),
        ({"labels": "0"}, ["the labels of the pool"]),
        ({"tasks": {"joint-lte": "0"}}, ["the split of joint-lte"]),
    ):
        path.write_text(json.dumps({f"tiny {benchmark.pool.name}": published | changes}))
        assert benchmark.differences() == expected
    path.write_text("{}")
    assert benchmark.differences() == []


def test_splits_accumulate_over_calls(prepare, tmp_path):
    path = tmp_path / "out" / "splits.json"
    prepare(("joint-lte", "modulation-wifi")).run()
    both = json.loads(path.read_text())
    asked = prepare(("joint-lte",), shots=[4, 4])
    assert [cell.shots for cell in asked.cells] == [4] * len(asked.cells), "each N once"
    asked.run()
    again = json.loads(path.read_text())
    assert again["tasks"]["modulation-wifi"] == both["tasks"]["modulation-wifi"]
    more, few = (splits["tasks"]["joint-lte"]["shots"]["1"] for splits in (again, both))
    assert len(more) == 4 * 14 and more[: len(few)] == few
    prepare(("joint-lte",)).run()
    assert json.loads(path.read_text()) == again


def test_imagenet_weights_change_only_the_networks_that_have_them(prepare, monkeypatch, tmp_path):
    ran = []
    for imagenet in (None, tmp_path):
        benchmark = prepare(models=("raw-knn", "cnn-wu"), shots=[2], imagenet=imagenet)
        monkeypatch.setattr(benchmark, "score", lambda cell: ran.append(cell.name) or {})
        benchmark.run()
    assert ran == ["raw-knn", "cnn-wu"] * 2, "two seeds, once"


def test_published_splits_belong_to_presets():
    published = json.loads(module.PUBLISHED_SPLITS.read_text())
    receivers = ("synchronous", "blind")
    pools = {f"{name} {Pool(preset.num_rows, by).name}" for name, preset in PRESETS.items() for by in receivers}
    assert published and set(published) <= pools
    for splits in published.values():
        assert set(splits["tasks"]) == set(TASKS)
        assert all(len(digest) == 16 for digest in (splits["labels"], *splits["tasks"].values()))


def test_presets_have_their_documented_sizes():
    assert PRESETS["quick"].num_rows <= 6000 and PRESETS["standard"].num_rows <= 30_000
    assert [PRESETS[name].seeds for name in ("quick", "standard", "full")] == [3, 5, 5]
    for preset in PRESETS.values():
        assert set(preset.shots) == set(TASKS)
        for trained in (preset.finetuned_shots, preset.trained_shots, preset.imagenet_shots):
            assert all(set(nums) <= set(preset.shots[name]) for name, nums in trained.items())
    assert all(PRESETS["full"].shots[name] == task.shots for name, task in TASKS.items())


def test_the_bound_is_computed_for_the_tested_rows():
    assert num_elements("WiFi", 128, 128) == 128 * 52 and num_elements("LTE", 128, 128) == 128 * 128
    bound = ModulationBound(16, 24, trials=4)
    rows = rows_for_testing(TASKS["modulation-wifi"], LABELS, 80)
    found = bound.record(TASKS["modulation-wifi"], LABELS, rows)
    assert found["num_elements"] == {"WiFi": 384} and found["trials"] == 4
    # BPSK and QPSK tie, so that at most three of four can be right.
    assert 0.25 <= found["accuracy"] <= 0.75 and found["per_snr"]["25"] > found["per_snr"]["-5"]
    assert bound.record(TASKS["modulation-wifi"], LABELS, rows) == found


def test_the_bound_uses_how_often_each_protocol_sends_each_class():
    # With classes balanced over all protocols, WiFi sends BPSK, which only it has, three times as often as QPSK.
    names = ["BPSK"] * 6 + ["QPSK"] * 2 + ["QPSK"] * 4 + ["16QAM"] * 6
    senders = ["WiFi"] * 8 + ["LTE"] * 10
    labels = {
        "protocol": np.array([PROTOCOLS.index(name) for name in senders]),
        "modulation": np.array([MODULATIONS.index(name) for name in names]),
        "snr_db": np.full(18, 25.0),
    }
    found = ModulationBound(16, 24, trials=4).record(TASKS["modulation"], labels, np.arange(18))
    assert found["accuracy"] == pytest.approx(16 / 18), "all but the two that tie with a likelier one"


def test_only_whole_symbols_have_a_bound(prepare):
    for receiver, expected in (("synchronous", {"modulation-wifi"}), ("blind", set())):
        lines = prepare(("modulation-wifi",), ("lwm-knn",), receiver, out=receiver).run()
        assert {line["task"] for line in lines if line["kind"] == "bound"} == expected


def score(model, shots, seed, macro_f1, checkpoint="tiny 0", **fields):
    common = {"kind": "score", "preset": "quick", "budget": {"steps": 5, "batch_size": 8, "pretrained_share": 0.1}}
    common["budget"]["learning_rates"] = [1e-3]
    measured = {"accuracy": macro_f1, "macro_f1": macro_f1, "per_snr": {"0": 0.25, "5": 0.75}, "test_rows": 2}
    measured |= {"confusion": [[1, 0], [0, 1]], "classes": ["-5+pedestrian", "-5+vehicular"], "fit_seconds": 2.0}
    measured |= {"milliseconds": 1.5, "parameters": 12345, "versions": {"torch": "2"}, "imagenet": False}
    where = {"pool": "synchronous-florence-10-seed0-ab", "labels": "ff", "task": "joint-lte", "title": model.upper()}
    row = {"model": model, "shots": shots, "seed": seed, "checkpoint": checkpoint}
    return common | where | row | measured | fields


LINES = [
    score("cnn-kojima", 5, 0, 0.5, checkpoint=None),
    score("lwm-finetuned", 5, 0, 0.6),
    score("lwm-finetuned", 5, 1, 0.8),
    score("lwm-finetuned", 10, 0, 0.9),
    score("resnet-18", 5, 0, 0.3, checkpoint=None),
]


def test_tables_are_rendered_beside_the_paper():
    page = render([*LINES, {**LINES[0], "kind": "run", "left_out": ["joint-lte: N = 400: too few"]}])
    assert "## quick: synchronous-florence-10-seed0-ab" in page and "checkpoint `tiny 0`; 5 steps of 8 rows" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[0] == "| spectrograms a class | 5 | 10 |"
    assert rows[2] == "| LWM-FINETUNED | 70.0 ± 14.1 (76.5) | 90.0 [1 of 2 seeds] (91.2) |"
    assert rows[3] == "| CNN-KOJIMA | 50.0 [1 of 2 seeds] (44.6) | (46.3) |"
    assert rows[4] == "| RESNET-18, random weights | 30.0 [1 of 2 seeds] (28.3) | (30.4) |"
    assert "| LWM-FINETUNED | 12 | 1.50 | 2.0 |" in page
    assert "2 classes, chance 50.0 % of decisions right; 2 test rows, 2 seeds." in page
    assert "- joint-lte: N = 400: too few\n" in page


def test_snr_and_mobility_are_scored_separately():
    confusion = [[3, 1, 0, 0], [0, 4, 0, 0], [2, 0, 2, 0], [0, 0, 1, 3]]
    classes = ["-5+pedestrian", "-5+vehicular", "0+pedestrian", "0+vehicular"]
    measured = {"confusion": confusion, "classes": classes, "mobility_per_doppler": {"0 to 10 Hz": 0.75}}
    page = render([score("lwm-probe", 5, 0, 0.7, **measured), score("cnn-wu", 5, 0, 0.6, checkpoint=None)])
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    start = rows.index("| told right | SNR | mobility | at 0 to 10 Hz |")
    assert rows[start + 2 : start + 4] == ["| LWM-PROBE | 87.5 | 87.5 | 75.0 |", "| CNN-WU | 100.0 | 100.0 |  |"]


def test_bounds_are_beside_the_best_of_each_kind():
    lines = [line | {"task": "modulation"} for line in LINES]
    bound = {"kind": "bound", "task": "modulation", "accuracy": 0.875, "per_snr": {"0": 0.75, "5": 1.0}, "trials": 9}
    page = render([*lines, LINES[0] | bound | {"num_elements": {"LTE": 384}}])
    assert "| SNR [dB] | 0 | 5 | all |" in page and "| likelihood bound | 75.0 | 100.0 | 87.5 |" in page
    assert "| LWM-FINETUNED | 25.0 ± 0.0 | 75.0 ± 0.0 | 70.0 ± 14.1 |" in page and "LTE 384 resource elements" in page


def test_checkpoints_and_architectures_have_their_own_rows():
    scratch = [
        score("lwm-scratch", 5, 0, macro_f1, None, architecture=name) for macro_f1, name in ((0.1, "a"), (0.2, "b"))
    ]
    page = render([*LINES, *scratch])
    assert "| LWM-SCRATCH (a) | 10.0 [1" in page and "| LWM-SCRATCH (b) | 20.0 [1" in page
    assert "| LWM-SCRATCH | 10.0 [1" in render([*LINES, scratch[0]])
    page = render([*LINES, score("lwm-finetuned", 5, 0, 0.2, checkpoint="new 1")])
    assert "| LWM-FINETUNED (tiny 0) | 70.0 ± 14.1 (76.5) |" in page
    assert "| LWM-FINETUNED (new 1) | 20.0 [1 of 2 seeds] (76.5) |" in page
    other = {**LINES[0]["budget"], "steps": 6}
    page = render([*LINES, score("cnn-kojima", 5, 0, 0.1, checkpoint=None, budget=other)])
    assert "6 steps of 8 rows" in page and "LWM-FINETUNED" not in page


def test_steps_are_reported_only_for_trained_models():
    probes = [score(name, 5, 0, 0.5) for name in ("lwm-probe", "lwm-expert-probe-lte")]
    assert "steps of" not in render(probes)
    assert "; 5 steps of 8 rows; " in render([*probes, LINES[0]])


def test_a_card_gets_the_tables_of_its_own_weights():
    text = card_section([*LINES, score("lwm-finetuned", 5, 0, 0.2, checkpoint="new 1")], "tiny 0")
    assert "| LWM-FINETUNED | 70.0 ± 14.1 (76.5) |" in text and "| CNN-KOJIMA |" in text and "20.0" not in text
    assert "preset `quick`" in text and "5 steps of 8 rows" in text
    fitted = [{**line, "budget": {**line["budget"], "fitted_steps": 3}} for line in LINES]
    assert "5 steps of 8 rows, 3 for what begins with a fitted head." in card_section(fitted, "tiny 0")
    with pytest.raises(ValueError, match="no scores of 'old 2', only of: tiny 0"):
        card_section(LINES, "old 2")


def test_bad_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match="There are no scores to report; run the benchmark first"):
        render([])
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": \n{"kind": "score"}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .* is not JSON .* Remove the line"):
        read_json_lines(path)
    assert read_json_lines(tmp_path / "none.jsonl") == []
    path.write_text('{"kind": "score"}\n{"kind": "sc')
    assert read_json_lines(path) == [{"kind": "score"}], "a line cut off by a killed run is left out"


def test_the_script_writes_page_and_pictures(tmp_path, monkeypatch):
    bound = {"kind": "bound", "task": "joint-lte", "accuracy": 0.8, "per_snr": {"0": 0.7, "5": 1.0}, "trials": 9}
    lines = [*LINES, LINES[0] | bound | {"num_elements": {"LTE": 384}}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = tmp_path / "docs" / "results.md"
    monkeypatch.setattr(sys, "argv", ["run_benchmark.py", "--out", str(tmp_path), "--report", str(page)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    names = {path.name for path in (tmp_path / "docs" / "figures").iterdir()}
    prefix = "benchmark-quick-synchronous-florence-10-seed0-ab"
    assert names == {f"{prefix}-{kind}.png" for kind in ("shots", "snr", "confusion", "cost")}
    assert all(f"(figures/{name})" in page.read_text() for name in names)
    monkeypatch.setattr(sys, "argv", ["run_benchmark.py", "--out", str(tmp_path / "empty"), "--report", str(page)])
    with pytest.raises(SystemExit, match="error: There are no scores to report"):
        runpy.run_path(str(SCRIPT), run_name="__main__")

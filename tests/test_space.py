"""The Gradio Space without a browser: what its buttons do, and that the page builds."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lwm_spectro_hf.resources import demo_recordings

gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def app():
    path = Path(__file__).parents[1] / "examples" / "space" / "app.py"
    spec = importlib.util.spec_from_file_location("space_app", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lte(tmp_path):
    """Both files of a recording, each in a folder of its own, as Gradio keeps uploads."""
    meta = next(demo_recordings().glob("lte*.sigmf-meta"))
    files = []
    for number, file in enumerate((meta, meta.with_suffix(".sigmf-data"))):
        (tmp_path / str(number)).mkdir()
        files.append(shutil.copy(file, tmp_path / str(number)))
    return files


def test_a_pair_of_files_is_classified(app, lte):
    scores, figure, verdict = app.classify(lte, "", None)
    assert max(scores, key=scores.get) == verdict["protocol"] == "LTE"
    assert len(figure.subfigs) == 1


def test_a_band_is_segmented(app, lte):
    rows, figure = app.segment(lte, "", None)
    assert [row[2] for row in rows] == ["LTE"] and abs(rows[0][0]) < 0.3 and 0.9 < rows[0][1] < 1.5
    assert len(figure.subfigs[0].get_axes()) >= 2


def test_long_recordings_are_drawn_only_as_far_as_analysed(app, tmp_path, monkeypatch):
    rate, seen = 1.92e6, []
    samples = np.random.default_rng(0).standard_normal((round(0.3 * rate), 2)).astype(np.float32)
    samples.tofile(tmp_path / "long.cf32")
    monkeypatch.setattr(app, "picture_of", lambda recording, *verdict: seen.append(recording) or SimpleNamespace())
    monkeypatch.setattr(app, "draw", lambda pictures: None)
    app.classify([str(tmp_path / "long.cf32")], "", rate / 1e6)
    assert seen[0].duration_s == app.LONGEST_S


@pytest.mark.parametrize("name", ["RECORDING.CF32", "recording.cf32"])
def test_suffixes_may_be_uppercase(app, tmp_path, name):
    np.random.default_rng(0).standard_normal((5000, 2)).astype(np.float32).tofile(tmp_path / name)
    scores, _, _ = app.classify([str(tmp_path / name)], "", 1.92)
    assert len(scores) == 3


def test_samples_that_are_not_finite_are_an_error(app, tmp_path):
    np.full(8000, np.nan, np.float32).tofile(tmp_path / "broken.cf32")
    for button in (app.classify, app.segment):
        with pytest.raises(gradio.Error, match="NaN or infinite, the first at sample 0"):
            button([str(tmp_path / "broken.cf32")], "", 1.92)


def test_files_of_the_same_name_are_refused(app, tmp_path):
    paths = [tmp_path / folder / "a.cf32" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"")
    with pytest.raises(gradio.Error, match="2 recordings"):
        app.classify([str(path) for path in paths], "cf32", 1.0)
    pair = [str(path.with_name("b.sigmf-data")) for path in paths] + [str(paths[0])]
    with pytest.raises(gradio.Error, match="Two of the uploaded files have the same name"):
        app.classify(pair, "cf32", 1.0)


def test_an_incomplete_sigmf_pair_is_refused(app, lte):
    with pytest.raises(gradio.Error, match="lte.*sigmf-data is missing"):
        app.classify(lte[:1], "", None)
    with pytest.raises(gradio.Error, match="were uploaded. Upload its .sigmf-meta"):
        app.classify(lte[1:], "", None)


def test_raw_samples_need_a_type_and_a_rate(app, tmp_path):
    samples = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    (tmp_path / "dump.bin").write_bytes(samples.tobytes())
    file = [str(tmp_path / "dump.bin")]
    assert app.classify(file, "cf32", 20.0)[2]["protocol"] in ("WiFi", "LTE", "5G")
    with pytest.raises(gradio.Error, match="0 recordings were uploaded"):
        app.classify(file, "", 20.0)
    with pytest.raises(gradio.Error, match="rate"):
        app.classify(file, "cf32", None)
    with pytest.raises(gradio.Error, match="0 recordings were uploaded"):
        app.classify(None, "", None)


def test_the_page_has_both_buttons_and_the_shipped_recordings(app, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = app.build()
    texts = [block.value for block in page.blocks.values() if isinstance(block, gradio.Button)]
    assert "What is it?" in texts and "Who sends where?" in texts
    (examples,) = (block for block in page.blocks.values() if isinstance(block, gradio.Dataset))
    assert len(examples.samples) == len(list(demo_recordings().glob("*.sigmf-meta")))

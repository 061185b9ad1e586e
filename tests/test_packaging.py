"""What is installed: packages, extras, shipped files."""

import configparser
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools import find_packages
from transformers import pipeline

from lwm_spectro_hf import resources
from lwm_spectro_hf.data.recipe import preset
from lwm_spectro_hf.data.recordings import open_recording
from lwm_spectro_hf.data.synthesis import draw_recordings
from lwm_spectro_hf.extras import require

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "lwm_spectro_hf"


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in SOURCES.rglob("*.py")}
    expected = {".".join(folder.relative_to(ROOT / "src").parts) for folder in folders}
    assert set(find_packages(ROOT / "src")) == expected


def test_every_extra_that_an_error_names_exists(setup_cfg):
    named = set()
    for file in SOURCES.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        named |= set(re.findall(r"""require\([^)]*extra=["'](\w+)["']""", text))
        named |= set(re.findall(r"lwm-spectro-hf\[(\w+)\]", text))
    assert named and named <= set(setup_cfg["options.extras_require"]), named


def test_pinned_versions_satisfy_setup_cfg(setup_cfg):
    """Every package of setup.cfg that `make test` installs is pinned, to a version within its range."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    wanted = setup_cfg["options"]["install_requires"] + setup_cfg["options.extras_require"]["dev"]
    for line in wanted.split():
        requirement = Requirement(line)
        name = requirement.name.replace("_", "-")
        assert requirement.specifier.contains(versions[name]), (line, versions[name])


def test_an_extra_that_is_missing_is_named():
    with pytest.raises(ImportError, match=r"`no_such_module.part`.*lwm-spectro-hf\[data\]"):
        require("no_such_module.part", extra="data")
    assert require("json", extra="data").loads("1") == 1


def test_a_broken_extra_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as error:
        require("broken_extra", extra="data")
    assert "extra" not in str(error.value)


SHIPPED = {
    "default_checkpoint": "model_cards/lwm-spectro-tiny",
    "default_segmenter": "model_cards/spectrum-segmentation-tiny",
    "demo_recordings": "examples/recordings",
}


@pytest.mark.parametrize("find", [getattr(resources, name) for name in SHIPPED])
def test_shipped_files_are_found_installed_or_in_a_checkout(find, tmp_path, monkeypatch):
    package = tmp_path / "src" / "lwm_spectro_hf"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    monkeypatch.setattr(resources, "_CHECKOUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        find()
    folder = tmp_path / SHIPPED[find.__name__]
    folder.mkdir(parents=True)
    assert find() == folder
    (package / find.__name__).mkdir(parents=True)
    assert find() == package / find.__name__


def test_setup_installs_what_resources_looks_for():
    """setup.py puts the folders into the package under the names by which `resources` looks for them."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    mapped = dict(re.findall(r'"lwm_spectro_hf\.(\w+)": "([\w/-]+)"', text))
    assert mapped == SHIPPED


def test_demo_recordings_are_small_and_open():
    folder = resources.demo_recordings()
    recordings = [open_recording(path) for path in sorted(folder.glob("*.sigmf-meta"))]
    assert len(recordings) >= 3
    assert all(recording.num_samples > 1000 for recording in recordings)
    assert all(path.stat().st_size <= 1_000_000 for path in folder.iterdir())


def test_default_checkpoint_classifies_the_demo_recordings():
    classify = pipeline("iq-classification", model=str(resources.default_checkpoint()), device="cpu")
    told = {path.name.split("_")[0]: classify(str(path)) for path in resources.demo_recordings().glob("*.sigmf-meta")}
    assert {name: (verdict["protocol"], verdict["modulation"]) for name, verdict in told.items()} == {
        "lte": ("LTE", "16QAM"),
        "nr": ("5G", "64QAM"),
        "wifi": ("WiFi", "16QAM"),
    }


@pytest.mark.parametrize("snr_db", [15.0, 20.0])
def test_default_checkpoint_predicts_the_snr_of_a_wide_cell(snr_db):
    """The symbols that the pipeline cuts out of a carrier must look like those of the training data."""
    recipe = replace(
        preset("native"),
        protocols=("LTE",),
        resource_blocks={"LTE": (50,)},
        snrs_db=(snr_db,),
        channels=("none",),
        full_load=1.0,
        duration_s=20e-3,
        chunk_size=2,
    )
    cells = draw_recordings(recipe, 0)
    classify = pipeline("iq-classification", model=str(resources.default_checkpoint()), device="cpu")
    told = classify(list(cells.iq.numpy()), sampling_rate=cells.sampling_rate)
    assert [verdict["protocol"] for verdict in told] == ["LTE"] * 2
    assert [verdict["snr_db"] for verdict in told] == [snr_db] * 2


def test_released_checkpoints_are_whole_and_need_no_trust():
    """They load without `trust_remote_code`; `lwm-spectro export` adds what a Hub repository needs."""
    folders = list((ROOT / "model_cards").glob("*/"))
    assert len(folders) >= 3
    for folder in folders:
        assert {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"} <= set(os.listdir(folder))
        assert not {"auto_map", "custom_pipelines"} & json.loads((folder / "config.json").read_text()).keys()

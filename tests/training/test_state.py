"""State files: they load exactly or not at all, are of bounded size, and survive an interrupted save."""

import json
import os
from functools import partial

import pytest
import torch

from lwm_spectro_hf.training import state
from lwm_spectro_hf.training.state import MANIFEST, StateError, check_same, load_state, save_state


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weights.a": torch.randn(300, 700, generator=generator),
        "weights.scalar": torch.randn((), generator=generator),
        "moments.half": torch.randn(1000, generator=generator).bfloat16(),
        "weights.none": torch.zeros(0, 3),
        "weights.b": torch.randn(50_000, generator=generator),
    }


def assert_is(folder, seed):
    found, record = load_state(folder)
    assert record == {"seed": seed}
    expected = tensors(seed)
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in found
    )


def test_large_tensors_are_split_over_files_of_bounded_size(tmp_path):
    save_state(tmp_path, tensors(0), {"seed": 0}, max_file_mib=0.25)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) > 5 and max(sizes) <= 0.25 * 2**20
    assert_is(tmp_path, 0)
    save_state(tmp_path, tensors(1), {"seed": 1})
    assert len(list(tmp_path.iterdir())) == 2  # the previous files are gone
    assert_is(tmp_path, 1)
    with pytest.raises(ValueError, match="expected at least 0.1 MiB"):
        save_state(tmp_path, tensors(2), {"seed": 2}, max_file_mib=0.01)
    with pytest.raises(ValueError, match="expected at least 0.1 MiB"):
        save_state(tmp_path, tensors(2), {"seed": 2}, max_file_mib=(2**16 + 50) / 2**20)  # less than a tensor's name
    assert_is(tmp_path, 1)


def test_an_interrupted_save_leaves_the_previous_state_or_the_new_one(tmp_path, monkeypatch):
    """Killed at every rename and at every removal in turn, without the chance to clean up."""
    replace, unlink = os.replace, os.unlink

    class Killed(BaseException):
        pass

    class Disk:
        def __init__(self, calls_until_killed):
            self.left = calls_until_killed

        def call(self, function, *args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise Killed
            if self.left > 0:  # otherwise the process is dead, and cleans nothing up
                function(*args, **kwargs)

    save_state(tmp_path, tensors(0), {"seed": 0}, max_file_mib=0.4)
    outcomes = []
    while "whole" not in outcomes:
        seed = len(outcomes) + 1
        disk = Disk(seed)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", partial(disk.call, replace))
            patch.setattr(os, "unlink", partial(disk.call, unlink))
            try:
                save_state(tmp_path, tensors(seed), {"seed": seed}, max_file_mib=0.4)
                outcomes.append("whole")
            except Killed:
                outcomes.append("after" if load_state(tmp_path)[1]["seed"] == seed else "before")
        assert_is(tmp_path, load_state(tmp_path)[1]["seed"])
        assert len(outcomes) < 50
    assert {"before", "after"} <= set(outcomes)
    files = json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, *files}


def test_damage_is_found(tmp_path):
    assert load_state(tmp_path) is None
    save_state(tmp_path, tensors(0), {"seed": 0})
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StateError, match="are not the .* that were saved: copy the folder again"):
        load_state(tmp_path)
    file.unlink()
    with pytest.raises(StateError, match="lacks tensors-"):
        load_state(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 9}')
    with pytest.raises(StateError, match="format 9; this version reads format 1"):
        load_state(tmp_path)
    for text in ('{"form', "[]", '{"format": 1}', '{"format": 1, "files": null, "shapes": {}, "record": {}}'):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(StateError, match="is damaged"):
            load_state(tmp_path)
    assert not hasattr(state, "pickle")


def test_every_difference_is_named():
    check_same({"a": [1], "b": 2}, {"a": (1,), "b": 2}, "setting", "folder")
    with pytest.raises(StateError, match="another setting: a is 1 there, 3 here; b is 2 there, None here"):
        check_same({"a": 1, "b": 2}, {"a": 3}, "setting", "folder")

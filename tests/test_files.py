"""Files and folders are written whole or not at all, whatever is in their place."""

import json
import os
import threading
from pathlib import Path

import pytest

from lwm_spectro_hf.files import read_json_lines, whole_file, whole_folder


def write(path, data=b"new"):
    with whole_file(path) as stream:
        stream.write(data)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "more" / "file"
    write(path, b"old")

    def fail():
        with whole_file(path) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]
    write(path)
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


def test_the_original_error_survives_a_missing_temporary_file(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file"):
        for path in tmp_path.iterdir():
            path.unlink()  # as a cleanup job would
        raise ZeroDivisionError


def test_writing_to_a_symlink_keeps_the_link(tmp_path):
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    write(target, b"old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_a_folder_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
        write(tmp_path)
    assert not os.listdir(tmp_path)


def test_a_pipe_is_written_to(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=10)
    assert read == [b"new"] and pipe.is_fifo()


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interruption_between_two_renames_loses_nothing(interrupted, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename, renamed = Path.rename, []

    def stopped(path, target):
        renamed.append(path)
        if len(renamed) == interrupted and interrupted == 2:
            raise KeyboardInterrupt
        rename(path, target)
        if len(renamed) == interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt), whole_folder(folder, overwrite=True) as new:
            (new / "new").write_text("new")
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(folder) == ["old"]


def test_files_in_a_new_folder_have_default_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "weights").write_bytes(b"")
        (folder / "weights").chmod(0o600)  # as safetensors does
    assert (tmp_path / "folder" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_permissions_and_folder_links_are_kept(tmp_path):
    path, target, link = tmp_path / "private", tmp_path / "target", tmp_path / "link"
    write(path, b"old")
    path.chmod(0o600)
    write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    target.mkdir()
    (target / "old").write_bytes(b"")
    link.symlink_to(target)
    with whole_folder(link, overwrite=True) as folder:
        (folder / "run.sh").write_bytes(b"")
        (folder / "run.sh").chmod(0o700)
    assert link.is_symlink() and os.listdir(target) == ["run.sh"]
    assert (target / "run.sh").stat().st_mode & 0o100
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "later")
    with whole_folder(dangling) as folder:
        (folder / "new").write_bytes(b"")
    assert os.listdir(tmp_path / "later") == ["new"]


def test_json_lines_ignore_a_truncated_last_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    whole = [{"name": "caf\u00e9 \u2028"}, {"n": 2}]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in whole).encode() + b"\n"
    path.write_bytes(text)
    assert read_json_lines(path) == whole
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        assert read_json_lines(path) in (whole, whole[:1], [])
    path.write_bytes(b'{"a": "\xc3"}\n' + text)
    with pytest.raises(ValueError, match="Line 1 of .* is not JSON"):
        read_json_lines(path)

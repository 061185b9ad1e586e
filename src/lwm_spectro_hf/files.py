"""Files and folders that appear whole: written aside, then renamed."""

import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The permissions of new files. They can only be asked for by setting others, which files of other threads would have:
# once, and early.
_umask = os.umask(0o077)
os.umask(_umask)
_NEW_FILE_MODE = 0o666 & ~_umask


@contextmanager
def whole_file(path: str | Path) -> Iterator[io.BufferedIOBase]:
    """Open a file that takes its name only if the block ends without an error; else nothing is left behind.

    Args:
        path (`str` or `Path`): Where the finished file goes; replaced if there. Missing parents are made. A link keeps
            pointing where it does, and devices and pipes are written to as they are.

    Yields:
        A binary stream.

    Raises:
        IsADirectoryError: `path` is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file to write.")
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    if path.is_symlink():
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        # mkstemp's own file is for its owner alone.
        os.chmod(aside, stat.S_IMODE(path.stat().st_mode) if path.exists() else _NEW_FILE_MODE)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> dict[str, Any]:
    """An object out of a file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds no JSON object.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}; expected a JSON object, {{...}}.")
    return found


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON; none if there is no file. A last line that a stopped run left half is dropped.

    Raises:
        ValueError: If another line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    results = []
    for number, line in enumerate(lines, 1):
        try:
            results.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if number < len(lines):
                raise ValueError(
                    f"Line {number} of {path} is not JSON ({error}); expected one object a line. Remove the line."
                ) from None
    return results


@contextmanager
def whole_folder(output_dir: str | Path, *sources: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the name `output_dir` only if the block ends without an error.

    The folder is filled beside its final place, on the same file system, so that the last step is a rename. Whatever
    goes wrong, an interruption included, leaves nothing behind and an earlier `output_dir` untouched.

    Args:
        output_dir (`str` or `Path`): Where the finished folder goes. Missing parents are made. A link keeps pointing
            where it does.
        *sources (`str` or `Path`): What the folder is made from; none may lie in `output_dir`, which is replaced.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a folder that has files in it.

    Yields:
        `Path`: The folder to write into.

    Raises:
        ValueError: A source lies in `output_dir`.
        FileExistsError: `output_dir` is a file, or a folder with something in it and `overwrite` is false.
    """
    output_dir = Path(output_dir).expanduser().absolute()
    if output_dir.is_symlink():
        output_dir = output_dir.resolve()
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"{output_dir} is a file; expected the name of a folder to write. Give another name.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{output_dir} already has files in it; expected a new or empty folder. "
            "Give another name, or overwrite=True (--overwrite) to replace it."
        )
    for source in sources:
        path = Path(source).expanduser().resolve()
        if path.exists() and output_dir.resolve() in (path, *path.parents):
            raise ValueError(f"{output_dir} would replace its own source {path}; write to another folder.")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    replaced = aside / "replaced"
    try:
        staged = aside / output_dir.name
        staged.mkdir()  # mkdtemp's own folder is readable by its owner alone; this one follows the umask
        yield staged
        mode = _NEW_FILE_MODE
        for path in staged.rglob("*"):
            if path.is_file():  # those of safetensors are for their owner alone
                path.chmod(mode | path.stat().st_mode & 0o111)
        if output_dir.exists():
            output_dir.rename(replaced)
        staged.rename(output_dir)
    finally:
        if replaced.exists() and not output_dir.exists():  # interrupted between these two
            replaced.rename(output_dir)
        shutil.rmtree(aside, ignore_errors=True)

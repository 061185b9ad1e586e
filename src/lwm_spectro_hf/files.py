"""Write files and folders atomically: under a temporary name first, then renamed."""

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

# The permissions of new files. The umask can only be read by setting another one, which would affect files that other
# threads create: so it is read once, on import.
_umask = os.umask(0o077)
os.umask(_umask)
_NEW_FILE_MODE = 0o666 & ~_umask


@contextmanager
def whole_file(path: str | Path) -> Iterator[io.BufferedIOBase]:
    """Open a file that gets its name only if the block ends without an error; otherwise nothing is left behind.

    Args:
        path (`str` or `Path`): Name of the finished file; an existing file is replaced. Missing parents are created. A
            link is kept and its target replaced; devices and pipes are written to directly.

    Yields:
        A binary stream.

    Raises:
        IsADirectoryError: If `path` is a folder.
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
        # mkstemp makes files that only their owner can read.
        os.chmod(aside, stat.S_IMODE(path.stat().st_mode) if path.exists() else _NEW_FILE_MODE)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold a JSON object.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, or not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}; expected a JSON object, {{...}}.")
    return found


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; empty if there is no file. An incomplete last line, of a stopped run, is dropped.

    Raises:
        ValueError: If any other line is not JSON.
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
                    f"Line {number} of {path} is not JSON ({error}); expected one object per line. Remove the line."
                ) from None
    return results


@contextmanager
def whole_folder(output_dir: str | Path, *sources: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Provide an empty folder to fill; it gets the name `output_dir` only if the block ends without an error.

    The folder is filled next to its final place, on the same file system, so that the last step is a rename. An error
    or interruption leaves nothing behind, and an earlier `output_dir` untouched.

    Args:
        output_dir (`str` or `Path`): Name of the finished folder. Missing parents are created. A link is kept and its
            target replaced.
        *sources (`str` or `Path`): What the folder is made from; none may lie in `output_dir`, which is replaced.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a folder that has files in it.

    Yields:
        `Path`: The folder to write into.

    Raises:
        ValueError: If a source lies in `output_dir`.
        FileExistsError: If `output_dir` is a file, or is a folder that is not empty and `overwrite` is false.
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
        staged.mkdir()  # with permissions by the umask; only its owner can read the folder of mkdtemp
        yield staged
        mode = _NEW_FILE_MODE
        for path in staged.rglob("*"):
            if path.is_file():  # safetensors makes files that only their owner can read
                path.chmod(mode | path.stat().st_mode & 0o111)
        if output_dir.exists():
            output_dir.rename(replaced)
        staged.rename(output_dir)
    finally:
        if replaced.exists() and not output_dir.exists():  # interrupted between the two renames
            replaced.rename(output_dir)
        shutil.rmtree(aside, ignore_errors=True)

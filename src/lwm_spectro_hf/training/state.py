"""The saved state of a run: tensors in safetensors files of bounded size, everything else in one JSON file.

The JSON file lists the files that belong to it, with their hashes, and is written last: an interrupted save leaves the
previous state intact. Nothing is pickled.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

from ..files import whole_file

MANIFEST = "state.json"
_FORMAT = 1


class StateError(ValueError):
    """A saved state is damaged, or belongs to another run."""


def save_state(
    folder: str | os.PathLike, tensors: dict[str, torch.Tensor], record: dict[str, Any], max_file_mib: float = 15.0
) -> None:
    """Save a state, replacing the one in the folder.

    Args:
        folder (`str` or `os.PathLike`): Folder of the state; created if missing.
        tensors (`dict[str, torch.Tensor]`): Tensors by name.
        record (`dict[str, Any]`): Everything else, as JSON-compatible values.
        max_file_mib (`float`, *optional*, defaults to 15.0): Maximum size of a tensor file [MiB].
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    generation = manifest["generation"] + 1 if manifest else 1
    files = {}
    for number, part in enumerate(_split(tensors, int(max_file_mib * 2**20)), 1):
        # A new name each time: the files of the previous state are kept until this one is complete.
        name = f"tensors-{generation:06d}-{number:05d}.safetensors"
        content = save_bytes(part)
        with whole_file(folder / name) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"format": _FORMAT, "generation": generation, "files": files, "record": record}
    manifest["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    with whole_file(folder / MANIFEST) as stream:
        stream.write((json.dumps(manifest, indent=1) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())
    for path in [*folder.glob("*tensors-*.safetensors*"), *folder.glob(f".{MANIFEST}.*")]:
        if path.name not in files:
            path.unlink()


def load_state(folder: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Read what [`save_state`] wrote.

    Returns:
        `tuple`: the tensors, on the CPU, and the record; `None` if the folder has no state.

    Raises:
        StateError: If a file is missing or is not the one that was written.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest is None:
        return None
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise StateError(
                f"{folder} lacks {name}, which its {MANIFEST} lists: copy the folder again, with all its files, or "
                "start over in another one."
            )
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise StateError(
                f"{path} has {len(content)} bytes, which are not the {expected['bytes']} that were saved: copy the "
                "folder again, or start over in another one."
            )
        for key, piece in load_bytes(content).items():
            tensor, _, offset = key.rpartition("@")
            pieces.setdefault(tensor, []).append((int(offset), piece))
    tensors = {}
    for name, shape in manifest["shapes"].items():
        parts = [piece for _, piece in sorted(pieces.get(name, []), key=lambda item: item[0])]
        if not parts or sum(len(part) for part in parts) != math.prod(shape):
            raise StateError(f"{folder / MANIFEST} lists the tensor {name!r}, but the files do not hold all of it.")
        tensors[name] = torch.cat(parts).reshape(shape)
    return tensors, manifest["record"]


def check_same(found: dict[str, Any], expected: dict[str, Any], what: str, folder: str | os.PathLike) -> None:
    """Compare the settings that a state was saved with to those of this run.

    Raises:
        StateError: If anything differs; the message names every difference.
    """
    expected = json.loads(json.dumps(expected))  # tuples become lists, as they did in the file
    differing = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if differing:
        listed = "; ".join(f"{name} is {found.get(name)!r} there, {expected.get(name)!r} here" for name in differing)
        raise StateError(
            f"The state in {folder} is from a run with another {what}: {listed}. Use the same, or give another "
            "folder to start over."
        )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
        parts = [manifest[name] for name in ("files", "shapes", "record")] if found == _FORMAT else []
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("files, shapes and record must be objects")
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise StateError(f"{path} is damaged ({error!r}): copy the folder again, or start over in another.") from None
    if found != _FORMAT:
        raise StateError(f"{path} has format {found}; this version reads format {_FORMAT}. Start over in another.")
    return manifest


def _split(tensors: dict[str, torch.Tensor], max_bytes: int) -> list[dict[str, torch.Tensor]]:
    """Cut tensors into flat pieces named `name@offset`, in order, for files below the limit, headers included."""
    budget = max_bytes - 2**16  # reserved for the header, without its entries
    if max_bytes < 0.1 * 2**20:
        raise ValueError(f"max_file_mib allows {max_bytes} bytes per file; expected at least 0.1 MiB.")
    parts: list[dict[str, torch.Tensor]] = [{}]
    free = budget
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1).cpu()
        entry = len(name) + 100  # upper bound of its entry in the header [bytes]
        offset = 0
        while True:
            room = (free - entry) // flat.element_size()
            if room <= 0:
                parts.append({})
                free = budget
                continue
            piece = flat[offset : offset + room].clone()
            parts[-1][f"{name}@{offset}"] = piece
            free -= entry + piece.numel() * flat.element_size()
            offset += len(piece)
            if offset >= len(flat):
                break
    return parts

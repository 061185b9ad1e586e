"""Untrusted HDF5 files: read what is stored in them, and nothing that they point to."""

from typing import Any

from ..extras import require


def stored_within(group: Any, name: str) -> Any:
    """Return the member of an HDF5 group by name, if it is stored in the same file.

    Links, external storage and virtual storage may point to other files on the reader's machine.

    Args:
        group (`h5py.Group`): A group, or the file itself.
        name (`str`): Name of the member, which need not exist.

    Returns:
        `h5py.Group`, `h5py.Dataset` or `h5py.Datatype`; `None` if it does not exist or is stored elsewhere.
    """
    h5py = require("h5py", "train")
    if name not in group or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found = group[name]
    is_elsewhere = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    return None if is_elsewhere else found

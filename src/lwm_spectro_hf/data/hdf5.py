"""HDF5 files of strangers: what is in them, and nothing that they point to."""

from typing import Any

from ..extras import require


def stored_within(group: Any, name: str) -> Any:
    """What a group of an HDF5 file has under a name, if it is stored in that file.

    A link may point to another file of the reader's, and so may external or virtual storage.

    Args:
        group (`h5py.Group`): Also the file itself.
        name (`str`): Of one of its members, or none.

    Returns:
        `h5py.Group`, `h5py.Dataset` or `h5py.Datatype`; `None` if there is nothing, or it is elsewhere.
    """
    h5py = require("h5py", "train")
    if name not in group or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found = group[name]
    is_elsewhere = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    return None if is_elsewhere else found

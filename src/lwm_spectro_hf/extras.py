"""Import optional dependencies, with an error that says what to install."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import a module that is installed only with an extra of this package.

    Args:
        module (`str`): Name to import, e.g. `"deepmimo"` or `"sionna.phy"`.
        extra (`str`): The extra in `setup.cfg` that contains it, e.g. `"data"`.

    Returns:
        The imported module.

    Raises:
        ImportError: If the module is not installed; the message names the extra and the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If the module is installed but lacks a dependency of its own, that error must stay visible.
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(
            f"`{module}` is not installed. It comes with the `{extra}` extra: pip install 'lwm-spectro-hf[{extra}]'"
        ) from error

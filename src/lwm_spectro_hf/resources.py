"""Where the files are that ship with the package: the default checkpoint and the demo recordings.

In a checkout they live in `model_cards/` and `examples/`; a built distribution carries them inside the package (see
`setup.py`). Either way nothing is downloaded.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]


def _find(installed: str, in_checkout: str) -> Path:
    candidates = (_PACKAGE / installed, _CHECKOUT / in_checkout)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"This installation of lwm-spectro-hf carries no {installed.replace('_', ' ')}: neither {candidates[0]} nor "
        f"{candidates[1]} exists. Reinstall the package, or name a folder of your own."
    )


def default_checkpoint() -> Path:
    """The folder of the checkpoint that is used when none is named.

    Returns:
        `Path`: A folder that `from_pretrained` reads (`config.json`, `preprocessor_config.json`, `model.safetensors`).

    Raises:
        FileNotFoundError: If the installation carries none.
    """
    return _find("default_checkpoint", "model_cards/lwm-spectro-tiny")


def default_segmenter() -> Path:
    """The folder of the weights that segment spectra when none are named.

    Returns:
        `Path`: A folder that `from_pretrained` reads, as that of [`default_checkpoint`].

    Raises:
        FileNotFoundError: If the installation carries none.
    """
    return _find("default_segmenter", "model_cards/spectrum-segmentation-tiny")


def demo_recordings() -> Path:
    """The folder of the SigMF recordings that ship with the package.

    Raises:
        FileNotFoundError: If the installation carries none.
    """
    return _find("demo_recordings", "examples/recordings")

"""Paths of the files that ship with the package: the default checkpoints and the demo recordings.

In a checkout they are in `model_cards/` and `examples/`; a built distribution has them inside the package (see
`setup.py`). Nothing is downloaded in either case.
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
        f"This installation of lwm-spectro-hf has no {installed.replace('_', ' ')}: neither {candidates[0]} nor "
        f"{candidates[1]} exists. Reinstall the package, or give a folder of your own."
    )


def default_checkpoint() -> Path:
    """The folder of the default checkpoint for classification.

    Returns:
        `Path`: A folder that `from_pretrained` reads (`config.json`, `preprocessor_config.json`, `model.safetensors`).

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    return _find("default_checkpoint", "model_cards/lwm-spectro-tiny")


def default_segmenter() -> Path:
    """The folder of the default checkpoint for segmentation.

    Returns:
        `Path`: A folder that `from_pretrained` reads, with the same files as in [`default_checkpoint`].

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    return _find("default_segmenter", "model_cards/spectrum-segmentation-tiny")


def demo_recordings() -> Path:
    """The folder of the SigMF recordings that ship with the package.

    Raises:
        FileNotFoundError: If the installation lacks them.
    """
    return _find("demo_recordings", "examples/recordings")

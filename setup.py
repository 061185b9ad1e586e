"""Lists the packages; everything else is in setup.cfg.

The default checkpoints and the demo recordings have one home in the repository, `model_cards/` and `examples/`. Built
distributions carry them inside the package, so that an installed `lwm-spectro` works with no checkout and no network.
"""

from pathlib import Path

from setuptools import find_packages, setup

DATA_FOLDERS = {
    "lwm_spectro_hf.default_checkpoint": "model_cards/lwm-spectro-tiny",
    "lwm_spectro_hf.default_segmenter": "model_cards/spectrum-segmentation-tiny",
    "lwm_spectro_hf.demo_recordings": "examples/recordings",
}

here = Path(__file__).parent
data_packages = {package: folder for package, folder in DATA_FOLDERS.items() if (here / folder).is_dir()}

setup(packages=[*find_packages("src"), *data_packages], package_dir={"": "src", **data_packages})

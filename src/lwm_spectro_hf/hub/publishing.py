"""Write a folder that works on the Hub without this package, since it includes the code, and upload it."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, FeatureExtractionMixin, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from ..auto import auto_map_for
from ..files import read_json, whole_folder
from ..pipeline_lwm_spectro import IQClassificationPipeline
from ..pipeline_masked_conv_lstm import IQSegmentationPipeline
from ..training.checkpoints import check_places, check_weights

logger = logging.getLogger(__name__)

# For each Auto class that has a pipeline, the task and the class of the pipeline.
PIPELINES = {
    "AutoModelForSequenceClassification": (
        "iq-classification",
        f"pipeline_lwm_spectro.{IQClassificationPipeline.__name__}",
    ),
    "AutoModelForSemanticSegmentation": (
        "iq-segmentation",
        f"pipeline_masked_conv_lstm.{IQSegmentationPipeline.__name__}",
    ),
}
CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
REQUIREMENTS = "transformers>=5.4,<6\n"
# Files that `Trainer.save_model` writes beside the weights: pickled, and useless to others.
TRAINER_FILES = ("training_args.bin",)
# Files that may run code when they are opened.
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt")


def export(
    model_or_folder: PreTrainedModel | str | Path,
    output_dir: str | Path,
    *,
    feature_extractor: FeatureExtractionMixin | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a self-contained folder for the Hub: weights, configurations, and the code that reads them.

    Where this package is not installed, the folder loads with `trust_remote_code=True`: AutoConfig, AutoModel,
    AutoModelForPreTraining and the Auto classes of its tasks, AutoFeatureExtractor and, if the weights include the
    head, `pipeline("iq-classification")` or `pipeline("iq-segmentation")`, along with `handler.py` and
    `requirements.txt` for a dedicated Inference Endpoint. Where it is installed, the installed classes are used and no
    trust is needed, except for `pipeline`: Transformers requires trust, or `pipeline_class=`, for any config with
    `custom_pipelines`. A model that is loaded from the folder with `trust_remote_code=True` and saved again, as after
    fine-tuning, keeps all of this except `handler.py`.

    Args:
        model_or_folder (`PreTrainedModel`, `str` or `Path`): A model, or a folder that `save_pretrained` or `convert`
            wrote. Everything else in the folder (model card, evaluation results) is copied as it is, except for the
            arguments that `Trainer` keeps there and files that the export writes itself.
        output_dir (`str` or `Path`): The folder to write; it appears completely or not at all.
        feature_extractor (`FeatureExtractionMixin`, *optional*): Front-end to save beside the model; not needed for a
            folder that has a `preprocessor_config.json`.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a folder that has files in it.

    Returns:
        `Path`: `output_dir`.

    Raises:
        FileNotFoundError: If the folder has no `config.json` or no weights in safetensors.
        FileExistsError: If `output_dir` has files in it and `overwrite` is false.
        ValueError: If the folder holds pickled files or damaged weights, no front-end is known, the front-end does not
            fit the model, or `output_dir` is the folder itself.
    """
    sources = [] if isinstance(model_or_folder, PreTrainedModel) else [model_or_folder]
    with whole_folder(output_dir, *sources, overwrite=overwrite) as staged:
        if isinstance(model_or_folder, PreTrainedModel):
            model_or_folder.save_pretrained(staged)
        else:
            source = check_folder(Path(model_or_folder), leaving_out=TRAINER_FILES)
            _check_weights(source)
            left_out = shutil.ignore_patterns(".*", "__pycache__", *TRAINER_FILES)
            shutil.copytree(source, staged, dirs_exist_ok=True, ignore=left_out)
        if feature_extractor is not None:
            feature_extractor.save_pretrained(staged)
        if not (staged / PREPROCESSOR_FILE).is_file():
            raise ValueError(
                f"No {PREPROCESSOR_FILE} beside the weights; expected the front-end that makes the model's input. "
                "Pass feature_extractor=SpectrogramFeatureExtractor(...)."
            )
        add_code(staged)
        _check_front_end(staged)
    return Path(output_dir)


def _check_weights(folder: Path) -> None:
    """Make sure that the weights in a folder can be read, and that the encoder lacks none and leaves none out."""
    try:
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise ValueError(f"The weights in {folder} are damaged or incompletely copied: {error}") from error
    check_weights(info, folder, what="encoder weights")
    check_places(info, folder, model.base_model_prefix + ".")


def _check_front_end(folder: Path) -> None:
    """Make sure that the front-end in a folder makes spectrograms of the shape that the model there takes."""
    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "encoder_config", config)
    front_end = AutoFeatureExtractor.from_pretrained(folder)
    found = (front_end.feature_size, front_end.num_frames, front_end.num_freq_bins)
    expected = (config.num_channels, config.num_frames, config.num_freq_bins)
    if found != expected:
        raise ValueError(
            f"The front-end makes spectrograms of shape {found} (channels, frames, bins), but the model takes "
            f"{expected}. Pass the one that the model was trained with: feature_extractor=..."
        )


def add_code(folder: Path) -> None:
    """Copy the model code into a folder and refer to it in the folder's configurations."""
    # Read through AutoConfig, so that an unknown model_type fails here, not when a user loads it.
    auto_map = auto_map_for(AutoConfig.from_pretrained(folder))
    config = read_json(folder / CONFIG_FILE)
    classes = list(auto_map.values())
    config["auto_map"] = auto_map
    for auto_class, (task, pipeline_class) in PIPELINES.items():
        # Without weights for its head, a pipeline would return random answers.
        if auto_class in auto_map and auto_map[auto_class].split(".")[-1] in (config.get("architectures") or []):
            config["custom_pipelines"] = {task: {"impl": pipeline_class, "pt": [auto_class]}}
            classes.append(pipeline_class)
    _write_json(folder / CONFIG_FILE, config)
    if "AutoFeatureExtractor" in auto_map:
        preprocessor = read_json(folder / PREPROCESSOR_FILE)
        preprocessor["auto_map"] = {"AutoFeatureExtractor": auto_map["AutoFeatureExtractor"]}
        _write_json(folder / PREPROCESSOR_FILE, preprocessor)

    package = Path(__file__).resolve().parents[1]
    files = {package / f"{name.split('.')[0]}.py" for name in classes}
    for file in list(files):
        files |= {Path(needed) for needed in get_relative_import_files(file)}
    if "custom_pipelines" in config:  # files that a dedicated endpoint looks for
        files.add(package / "hub" / "handler.py")
        (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    for file in sorted(files):
        shutil.copyfile(file, folder / file.name)


def _missing_code(folder: Path, classes: Sequence[str]) -> list[str]:
    """Names of files that define these classes ("module.Class"), or are imported by such files, and are not there."""
    found, needed = set(), {f"{name.split('.')[0]}.py" for name in classes}
    while new := {name for name in needed - found if (folder / name).is_file()}:
        found |= new
        needed |= {f"{module}.py" for name in new for module in get_relative_imports(folder / name)}
    return sorted(needed - found)


def check_folder(folder: Path, leaving_out: Sequence[str] = ()) -> Path:
    """Make sure that a folder holds a saved model and, except for the files left out, nothing pickled."""
    folder = folder.expanduser()
    for wanted in (CONFIG_FILE, "*.safetensors"):
        if not any(folder.glob(wanted)):
            hint = ""
            if (folder / "adapter_config.json").is_file():
                hint = " It holds adapters: merge them first, `model.merge_and_unload().save_pretrained(...)`."
            elif (folder / "model" / CONFIG_FILE).is_file():  # the folder of a training run
                hint = f" Did you mean {folder / 'model'}?"
            raise FileNotFoundError(
                f"No {wanted} in {folder}; expected a folder written by save_pretrained or `lwm-spectro convert`."
                + hint
            )
    pickled = [path for path in folder.rglob("*") if path.suffix in PICKLE_SUFFIXES and path.name not in leaving_out]
    if pickled:
        found = ", ".join(str(path.relative_to(folder)) for path in pickled)
        raise ValueError(
            f"{folder} holds {found}; weights are published as safetensors only. Save the model elsewhere with "
            "save_pretrained, or remove these files if no run resumes from them."
        )
    return folder


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload the model",
    token: str | None = None,
) -> str:
    """Upload an exported folder to the Hub, creating the repository if it does not exist.

    Args:
        folder (`str` or `Path`): A folder that [`export`] wrote, usually with a model card (`README.md`).
        repo_id (`str`): The repository, `owner/name`.
        private (`bool`, *optional*, defaults to `False`): Make a new repository private.
        revision (`str`, *optional*): Branch to upload to, created if it does not exist.
        commit_message (`str`, *optional*): Message of the commit.
        token (`str`, *optional*): Access token; by default the one of `hf auth login`.

    Returns:
        `str`: URL of the commit.

    Raises:
        FileNotFoundError: If the folder has no `config.json` or no weights in safetensors.
        ValueError: If the folder was not exported, so that it could not be loaded from the Hub without this package,
            or if it holds pickled files or damaged weights.
    """
    from huggingface_hub import HfApi

    folder = check_folder(Path(folder))
    config = read_json(folder / CONFIG_FILE)
    auto_map, pipelines = config.get("auto_map") or {}, config.get("custom_pipelines") or {}
    missing = _missing_code(folder, [*auto_map.values(), *(entry["impl"] for entry in pipelines.values())])
    if not auto_map or missing:
        raise ValueError(
            f"{folder} cannot be loaded from the Hub: its config.json "
            f"{f'needs {missing}, which are missing' if auto_map else 'has no auto_map'}. "
            "Expected a folder written by `export`."
        )
    _check_weights(folder)
    if not (folder / "README.md").is_file():
        logger.warning("%s has no README.md; the model will be published without a card.", folder)
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id=repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        revision=revision,
        commit_message=commit_message,
        ignore_patterns=["__pycache__/*", "*/__pycache__/*", ".*", "*/.*"],
    )
    return str(getattr(commit, "commit_url", commit))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

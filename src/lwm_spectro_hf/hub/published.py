"""Import the published LWM-Spectro checkpoints (and the LWM channel models that share their layout).

The published repository holds pickled `.pth` files: one encoder for each protocol, and a task bundle with the router.
[`convert`] turns them into one folder that `AutoModel.from_pretrained` opens and that computes the same numbers. Every
key of the files is used or reported, and every parameter of the model is set or reported; anything else is an error.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..configuration_lwm_spectro import LwmSpectroConfig, LwmSpectroMoEConfig
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..files import whole_folder
from ..modeling_lwm_spectro import LwmSpectroForPreTraining
from ..modeling_lwm_spectro_moe import LwmSpectroMoEForPreTraining
from .demo import compare_with_demo
from .foreign import (
    NOT_A_WEIGHT,
    ConversionError,
    Foreign,
    StateDict,
    canonical_name,
    check_tensors,
    read_sources,
    unwrap,
)
from .layout import ROUTER_PREFIX, expert_weights, infer_config, moe_names, router_weights

logger = logging.getLogger(__name__)

__all__ = ["ConversionError", "ConversionReport", "convert"]

BUNDLE_REQUIRED = ("comm_to_idx", "router_state_dict")
BUNDLE_USED = (
    *BUNDLE_REQUIRED,
    "classifier_state_dict",
    "expert_state_dicts",
    "experts",
    "mapping",
    "num_classes",
    "topk",
)
# Metadata of a bundle that does not affect what an imported model computes.
BUNDLE_METADATA = {
    "model_type": "names a class of the published code",
    "task": "described by the labels in `mapping`",
    "dropout": "used only in training, by the classifier, which is left out",
}
CLASSIFIER_REASON = (
    "the layout of the published classifier (LayerNorm(128) and a residual 1-D CNN) is not documented, so its weights "
    "have no known place; train a new head on the embeddings"
)


@dataclass
class ConversionReport:
    """What a conversion read, wrote, and could not use. `str(report)` is the text the command line prints.

    Attributes:
        output_dir (`Path`): The folder that was written.
        architecture (`str`): Class of the model in it.
        files (`list[str]`): Files that were read.
        num_tensors (`int`): Published tensors in the model.
        num_parameters (`int`): Number of their values, without counters and running statistics.
        left_out (`dict[str, str]`): Published keys that are not in the model, each with the reason.
        initialized (`list[str]`): Parameters of the model that the published files do not have.
        notes (`list[str]`): Assumptions made, and metadata used.
    """

    output_dir: Path
    architecture: str = ""
    files: list[str] = field(default_factory=list)
    num_tensors: int = 0
    num_parameters: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    initialized: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"Converted {', '.join(self.files)}",
            f"to {self.output_dir} ({self.architecture}): {self.num_tensors} tensors, "
            f"{self.num_parameters:,} parameters; loaded back and found equal.",
        ]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(key)
        for reason, keys in reasons.items():
            lines.append(f"Left out ({reason}): {', '.join(keys)}")
        if self.initialized:
            lines.append(f"Not in the published files, set to initial values: {', '.join(self.initialized)}")
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])


def convert(
    source: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    use_cls_token: bool = True,
    num_attention_heads: int = 8,
    input_shape: tuple[int, int] | None = None,
    bundle: str | None = None,
    untrained_router: bool = False,
    overwrite: bool = False,
    **hub_kwargs,
) -> ConversionReport:
    """Import published weights into one folder: config, safetensors, preprocessor config.

    One expert becomes [`LwmSpectroForPreTraining`]; a task bundle with its experts becomes
    [`LwmSpectroMoEForPreTraining`]. Both also load as `AutoModel` and `AutoModelForSequenceClassification`.

    Args:
        source (`str`, `Path` or a list of them): One `.pth` file, several, a folder with them, or the name of a Hub
            repository (`"wi-lab/lwm-spectro"`).
        output_dir (`str` or `Path`): The folder to write; it appears completely or not at all.
        use_cls_token (`bool`, *optional*, defaults to `True`): Prepend the constant CLS token. The sources disagree
            whether it is used at inference; the report says how well each variant agrees with `demo_data.pt`, if that
            file is there. The config can be changed later (`cls_token_value`).
        num_attention_heads (`int`, *optional*, defaults to 8): Heads; they cannot be inferred from the weights.
        input_shape (`tuple[int, int]`, *optional*): Rows and columns of the input. By default, the square grid that
            fills the position table.
        bundle (`str`, *optional*): File name of the task bundle to use if a folder has several; by default the one
            named `checkpoint.pth`.
        untrained_router (`bool`, *optional*, defaults to `False`): Combine several experts without a bundle, with an
            untrained router.
        overwrite (`bool`, *optional*, defaults to `False`): Replace a folder that has files in it.
        **hub_kwargs: Passed to `huggingface_hub.snapshot_download` (`revision`, `token`, `cache_dir`...).

    Returns:
        [`ConversionReport`]: What was read, written and left out.

    Raises:
        ValueError: If a source lies in `output_dir`.
        ConversionError: If a file is not safe to read, or not as expected; if keys are missing, unexpected or of the
            wrong shape; or if the configuration cannot express the architecture.
        FileNotFoundError: If there is nothing to read.
        FileExistsError: If `output_dir` has files in it and `overwrite` is false.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    with whole_folder(output_dir, *sources, overwrite=overwrite) as staged:
        foreign = read_sources(source, **hub_kwargs)
        report = ConversionReport(Path(output_dir), files=foreign.files, left_out=dict(foreign.unknown))
        task_bundle = _choose_bundle(foreign, bundle, report)
        experts = _choose_experts(foreign, task_bundle, report)
        if task_bundle is None and len(experts) > 1 and not untrained_router:
            raise ConversionError(
                f"Found the experts {', '.join(experts)} but no task bundle, so nothing routes between them. Add the "
                "bundle (checkpoint.pth), convert one expert at a time, or ask for an untrained router "
                "(untrained_router=True, --untrained-router)."
            )
        expert_config, states = _convert_experts(experts, use_cls_token, num_attention_heads, input_shape)
        if task_bundle is None and len(experts) == 1:
            model_class, config = LwmSpectroForPreTraining, expert_config
            weights = states[0]
        else:
            model_class, config = LwmSpectroMoEForPreTraining, _moe_config(expert_config, experts, task_bundle, report)
            weights = {}
            for index, state in enumerate(states):
                weights.update(moe_names(state, index))
            if task_bundle is not None:
                weights.update(router_weights(task_bundle["router_state_dict"], len(experts)))
                report.notes.append(
                    "the router's convolutions are padded by half their kernel; a checkpoint does not record this"
                )
        model = _build(model_class, config, weights, report, untrained_router=task_bundle is None)
        if foreign.demo is not None and task_bundle is not None:
            report.notes.append(compare_with_demo(model, foreign.demo))
        model.save_pretrained(staged)
        _save_preprocessor(staged, expert_config, foreign.stats, report)
        _check(staged, model)
    if report.left_out:
        logger.warning("Left out, for the reasons in the report: %s", ", ".join(report.left_out))
    return report


# What a checkpoint holds -------------------------------------------------------------------------------------------


def _choose_bundle(foreign: Foreign, wanted: str | None, report: ConversionReport) -> dict[str, Any] | None:
    """The task bundle to use: the one asked for, else the only one, else `checkpoint.pth`."""
    if wanted is not None and wanted not in foreign.bundles:
        raise ConversionError(f"No task bundle {wanted!r}; found {', '.join(foreign.bundles) or 'none'}.")
    if not foreign.bundles:
        return None
    candidates = [wanted] if wanted is not None else list(foreign.bundles)
    if len(candidates) > 1:
        candidates = [name for name in candidates if Path(name).name == "checkpoint.pth"]
    if len(candidates) != 1:
        raise ConversionError(
            f"Found {len(foreign.bundles)} task bundles: {', '.join(foreign.bundles)}. Choose one (bundle=, --bundle)."
        )
    (name,) = candidates
    for other in foreign.bundles:
        if other != name:
            report.left_out[other] = f"the bundle {name} was used; choose another with bundle= or --bundle"
    bundle = dict(foreign.bundles[name])
    missing = [key for key in BUNDLE_REQUIRED if key not in bundle]
    if missing:
        raise ConversionError(
            f"The task bundle {name} lacks {', '.join(missing)}; found {', '.join(map(str, bundle))}."
        )
    return bundle


def _choose_experts(foreign: Foreign, bundle: dict[str, Any] | None, report: ConversionReport) -> dict[str, StateDict]:
    """The experts' weights by name, in the router's order."""
    if bundle is None:
        if not foreign.experts:
            raise ConversionError(f"No expert among the files; found {foreign.unknown or 'none'}.")
        return foreign.experts
    index = bundle["comm_to_idx"]
    if not isinstance(index, Mapping) or sorted(value for value in index.values() if isinstance(value, int)) != list(
        range(len(index))
    ):
        raise ConversionError(f"comm_to_idx should number the experts from 0; found {index!r}.")
    order = [canonical_name(str(name)) for name in sorted(index, key=index.__getitem__)]
    own: dict[str, StateDict] = {}
    brought = bundle.get("expert_state_dicts") or {}
    if not isinstance(brought, Mapping):
        raise ConversionError(f"expert_state_dicts should hold weights by expert; found {type(brought).__name__}.")
    for name, content in brought.items():
        where = f"expert_state_dicts[{name!r}]"
        state, beside = unwrap(content)
        own[canonical_name(str(name))] = check_tensors(state, where)
        report.left_out.update({f"{where}[{key!r}]": NOT_A_WEIGHT for key in beside})
    unknown = sorted((set(own) | set(foreign.experts)) - set(order))
    missing = [name for name in order if name not in own and name not in foreign.experts]
    if unknown or missing:
        raise ConversionError(
            f"The task bundle routes between {', '.join(order)}; the weights of {', '.join(missing) or 'none'} are "
            f"missing and {', '.join(unknown) or 'none'} are unexpected. Give the experts' files beside the bundle."
        )
    for name in set(own) & set(foreign.experts):
        report.left_out[f"file of the expert {name}"] = "the task bundle brings its own weights of this expert"
    return {name: own.get(name, foreign.experts.get(name)) for name in order}


def _convert_experts(
    experts: dict[str, StateDict], use_cls_token: bool, num_attention_heads: int, input_shape: tuple[int, int] | None
) -> tuple[LwmSpectroConfig, list[StateDict]]:
    """The common configuration of the experts, and their weights under the names of [`LwmSpectroForPreTraining`]."""
    configs, states = {}, []
    for name, state in experts.items():
        configs[name] = infer_config(state, name, use_cls_token, num_attention_heads, input_shape)
        states.append(expert_weights(state, configs[name], name))
    first, config = next(iter(configs.items()))
    differing = [name for name in configs if configs[name].to_dict() != config.to_dict()]
    if differing:
        raise ConversionError(
            f"The experts {', '.join(differing)} differ in architecture from {first}; all experts of a mixture must "
            "have the same. Convert them one at a time."
        )
    return config, states


def _moe_config(
    expert_config: LwmSpectroConfig, experts: Iterable[str], bundle: dict[str, Any] | None, report: ConversionReport
) -> LwmSpectroMoEConfig:
    """The mixture's configuration, with the labels of the bundle's task if they are valid."""
    names, bundle = list(experts), bundle or {}
    options: dict[str, Any] = {}
    top = bundle.get("topk", 1)
    if not isinstance(top, int) or not 1 <= top <= len(names):
        raise ConversionError(f"topk should be from 1 to {len(names)}, the number of experts; found {top!r}.")
    if "experts" in bundle and not _is_list_of(bundle["experts"], names):
        report.left_out["experts"] = "differs from the names in `comm_to_idx`"
    labels = _joint_labels(bundle.get("mapping"), bundle.get("num_classes"))
    if labels:
        options.update(
            task_name="snr_db+mobility",
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
        report.notes.append(f"`mapping` gives the {len(labels)} labels of a future head: {labels[0]} ... {labels[-1]}")
    elif "mapping" in bundle:
        report.left_out["mapping"] = "not a complete table from index to (SNR, mobility)"
    for key in bundle:
        if key not in BUNDLE_USED:
            report.left_out[str(key)] = BUNDLE_METADATA.get(key, "not a documented key of a task bundle")
    for key in bundle.get("classifier_state_dict") or ():
        report.left_out[f"classifier_state_dict.{key}"] = CLASSIFIER_REASON
    return LwmSpectroMoEConfig(
        expert_config=expert_config, expert_names=names, num_experts_per_sample=top, router_type="cnn", **options
    )


def _is_list_of(value: Any, names: list[str]) -> bool:
    return isinstance(value, list | tuple) and sorted(canonical_name(str(name)) for name in value) == sorted(names)


def _joint_labels(mapping: Any, num_classes: Any) -> list[str] | None:
    """`{0: (-5, "pedestrian"), ...}` → `["-5+pedestrian", ...]`, or None for any other content."""
    try:
        table = {int(index): tuple(value) for index, value in dict(mapping).items()}
        if sorted(table) != list(range(len(table))) or num_classes not in (None, len(table)) or not table:
            return None
        labels = []
        for index in range(len(table)):
            snr, mobility = table[index]
            snr_db = float(re.fullmatch(r"(?:SNR)?\s*(-?\d+(?:\.\d+)?)\s*(?:dB)?", str(snr), re.IGNORECASE)[1])
            if not isinstance(mobility, str) or "+" in mobility:
                return None
            labels.append(f"{snr_db:g}+{mobility.casefold()}")
    except (TypeError, ValueError):
        return None
    return labels if len(set(labels)) == len(labels) else None


# Writing -----------------------------------------------------------------------------------------------------------


def _build(
    model_class: type[PreTrainedModel],
    config: LwmSpectroConfig | LwmSpectroMoEConfig,
    weights: StateDict,
    report: ConversionReport,
    untrained_router: bool,
) -> PreTrainedModel:
    """Build the model and load the weights into it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for the parameters that the published files do not have
        model = model_class(config).eval()
    state = model.state_dict()
    allowed = ("projection.", "projections.", *((ROUTER_PREFIX,) if untrained_router else ()))
    report.initialized = [key for key in state if key not in weights and key.startswith(allowed)]
    unset = [key for key in state if key not in weights and key not in report.initialized]
    no_place = [key for key in weights if key not in state or weights[key].shape != state[key].shape]
    if unset or no_place:
        raise ConversionError(
            f"The weights do not fit {model_class.__name__}. Not set: {', '.join(unset) or 'none'}; no place for: "
            f"{', '.join(no_place) or 'none'}. This is a fault of the importer, not of the files; please report it."
        )
    model.load_state_dict({**state, **weights})
    report.architecture = model_class.__name__
    report.num_tensors = len(weights)
    report.num_parameters = sum(weights[key].numel() for key, _ in model.named_parameters() if key in weights)
    return model


def _save_preprocessor(
    folder: Path, config: LwmSpectroConfig, stats: dict[str, Any] | None, report: ConversionReport
) -> None:
    """Write the configuration of the front-end that makes the model's input."""
    if config.num_channels > 1:
        report.notes.append(
            "this is a channel model: its input is (real, imaginary) parts of a channel matrix, not a spectrogram, so "
            "no preprocessor_config.json is written"
        )
        return
    stats = stats or {"normalization": "per_sample", "mean": None, "std": None}
    if stats["normalization"] == "dataset":
        report.notes.append(
            f"dataset_stats.json gives the normalization (x - {stats['mean']:g}) / {stats['std']:g}; its dB are "
            "on the scale of the published recordings, the front-end's are relative to each recording's mean power"
        )
    SpectrogramFeatureExtractor(
        num_frames=config.num_frames, num_freq_bins=config.num_freq_bins, fft_size=config.num_freq_bins, **stats
    ).save_pretrained(folder)


def _check(folder: Path, model: PreTrainedModel) -> None:
    """Load the folder as a user would, and compare every tensor.

    Raises:
        ConversionError: If a tensor differs from what was written.
    """
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    problems = [f"{kind}: {sorted(map(str, keys))}" for kind, keys in info.items() if keys]
    written, read = model.state_dict(), loaded.state_dict()
    problems += [f"differs: {key}" for key in written if key not in read or not torch.equal(written[key], read[key])]
    if problems:
        raise ConversionError(f"The converted folder does not load back as it was written: {'; '.join(problems)}.")

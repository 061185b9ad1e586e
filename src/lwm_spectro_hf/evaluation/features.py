"""Inputs of classifiers in place of spectrograms: embeddings of a frozen checkpoint, classical statistics."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm
from transformers import AutoModel, PretrainedConfig

from ..configuration_lwm_spectro import LwmSpectroConfig
from ..feature_extraction_lwm_spectro import SpectrogramFeatureExtractor
from ..files import whole_file
from ..modeling_lwm_spectro import LwmSpectroModel
from ..modeling_lwm_spectro_moe import LwmSpectroMoEModel
from ..training.checkpoints import check_weights

SPECTROGRAM, STATISTICS, TOP1, MIXTURE, EXPERT = "spectrogram", "statistics", "top-1", "mixture", "expert "
NUM_BANDS = 8
TIME_LAGS = (1, 2, 4, 8, 16, 32, 64)
_ROWS_PER_FILE, _BATCH = 2048, 64
_OF_HEADS = ("task_name", "additional_tasks", "blind_tasks")


def _settings(config: PretrainedConfig) -> dict[str, Any]:
    """Fields that differ from their defaults, so that new fields do not change the digest; without those of heads."""
    defaults, found = type(config)(), {}
    for name in type(config).__annotations__:
        value = getattr(config, name)
        if isinstance(value, PretrainedConfig):
            found[name] = _settings(value)
        elif name not in _OF_HEADS and value != getattr(defaults, name):
            found[name] = value
    return found


class Checkpoint:
    """A frozen encoder or mixture, with its front-end.

    Args:
        folder (`str` or `os.PathLike`): As `from_pretrained` reads it: encoder, mixture, or a model with heads.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where it computes.

    Attributes:
        model ([`LwmSpectroModel`] or [`LwmSpectroMoEModel`]): In evaluation mode.
        extractor ([`SpectrogramFeatureExtractor`]): Its front-end.
        experts (`tuple[str, ...]`): Names of the experts; empty for a single encoder.
        digest (`str`): A hash of its weights, and of its configuration without heads.
        architecture (`str`): A hash of the names and shapes of an encoder's weights.

    Raises:
        ValueError: If the folder holds another kind of model, or lacks weights.
    """

    def __init__(self, folder: str | os.PathLike, device: str | torch.device = "cpu"):
        self.folder, self.device = Path(folder), torch.device(device)
        model, info = AutoModel.from_pretrained(self.folder, output_loading_info=True)
        if not isinstance(model, LwmSpectroModel | LwmSpectroMoEModel):
            raise ValueError(
                f"{folder} holds a {type(model).__name__}; expected an encoder or mixture of LWM-Spectro."
            )
        check_weights(info, folder)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.extractor = SpectrogramFeatureExtractor.from_pretrained(self.folder)
        self.is_mixture = isinstance(self.model, LwmSpectroMoEModel)
        self.experts = tuple(self.model.config.expert_names) if self.is_mixture else ()
        weights = {name: values.cpu().contiguous() for name, values in self.model.state_dict().items()}
        settings = json.dumps(_settings(self.model.config), sort_keys=True).encode()
        self.digest = hashlib.sha256(save(weights) + settings).hexdigest()[:12]
        encoder = self.model.experts[0] if self.is_mixture else self.model
        shapes = [(name, *values.shape) for name, values in encoder.state_dict().items()]
        self.architecture = hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]

    @property
    def encoder_config(self) -> LwmSpectroConfig:
        """The architecture of one encoder."""
        return self.model.config.encoder_config

    @property
    def representations(self) -> tuple[str, ...]:
        """Names of the embeddings that it gives; a single encoder has only "top-1"."""
        return (TOP1, MIXTURE, *(EXPERT + name for name in self.experts)) if self.is_mixture else (TOP1,)

    def expert(self, name: str) -> LwmSpectroModel:
        """One encoder of a mixture."""
        return self.model.experts[self.experts.index(name)]

    def num_parameters(self, representation: str) -> int:
        """Number of weights that an embedding uses."""
        part = self.model.experts[0] if representation.startswith(EXPERT) else self.model
        return sum(parameter.numel() for parameter in part.parameters())

    @torch.inference_mode()
    def embed(self, input_values: torch.Tensor, representation: str) -> torch.Tensor:
        """The embedding of spectrograms, computed as at inference: experts that are not needed do not run.

        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            representation (`str`): One of `representations`.

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size)`, on the CPU.
        """
        input_values = input_values.to(self.device, torch.float32)
        if representation.startswith(EXPERT):
            return self.expert(representation.removeprefix(EXPERT))(input_values).pooler_output.cpu()
        if not self.is_mixture:
            return self.model(input_values).pooler_output.cpu()
        configured = self.model.config.num_experts_per_sample
        self.model.config.num_experts_per_sample = 1 if representation == TOP1 else len(self.experts)
        try:
            return self.model(input_values).pooler_output.cpu()
        finally:
            self.model.config.num_experts_per_sample = configured

    @torch.inference_mode()
    def parts(self, input_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """What [`combine`] makes the embeddings of a batch from: those of every expert, and the router's logits."""
        input_values = input_values.to(self.device, torch.float32)
        if not self.is_mixture:
            return {"encoders": self.model(input_values).pooler_output.cpu()[:, None]}
        encoders = [expert(input_values).pooler_output.cpu() for expert in self.model.experts]
        return {"encoders": torch.stack(encoders, 1), "router": self.model.router(input_values).cpu()}

    def combine(self, parts: dict[str, torch.Tensor], representation: str) -> torch.Tensor:
        """An embedding from its `parts`: pooling is linear, so it can precede the mixing of experts.

        Returns:
            `torch.Tensor` of shape `(num, hidden_size)`.
        """
        encoders = parts["encoders"]
        if representation.startswith(EXPERT):
            return encoders[:, self.experts.index(representation.removeprefix(EXPERT))]
        if not self.is_mixture:
            return encoders[:, 0]
        if representation == TOP1:
            return encoders[torch.arange(len(encoders)), parts["router"].argmax(-1)]
        return (parts["router"].softmax(-1)[..., None] * encoders).sum(1)


def statistics(input_values: torch.Tensor) -> torch.Tensor:
    """Statistics that a receiver could compute without any learning.

    For each window and each of eight frequency bands: mean, standard deviation, skewness and excess kurtosis of the
    values (normalized cumulants), and their autocorrelation over several lags in time, which depends on mobility.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.

    Returns:
        `torch.Tensor` of shape `(batch, num_channels * 8 * (4 + num_lags))`, float32; lags are below `num_frames`.
    """
    num_frames, num_bins = input_values.shape[-2:]
    width = -(-num_bins // NUM_BANDS)
    bands = torch.nn.functional.pad(input_values.float(), (0, NUM_BANDS * width - num_bins, 0, 0), mode="replicate")
    bands = bands.unflatten(-1, (NUM_BANDS, width)).permute(0, 1, 3, 2, 4)  # batch, window, band, frame, bin
    mean = bands.mean((-2, -1), keepdim=True)
    deviation = bands - mean
    std = deviation.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-6)
    skewness, kurtosis = (((deviation / std) ** power).mean((-2, -1)) for power in (3, 4))
    # Deviations from the mean of each bin, so that the shape of the spectrum does not count.
    deviation = bands - bands.mean(-2, keepdim=True)
    power = deviation.square().mean((-2, -1)).clamp(min=1e-12)
    lags = [lag for lag in TIME_LAGS if lag < num_frames]
    correlations = [(deviation[..., lag:, :] * deviation[..., :-lag, :]).mean((-2, -1)) / power for lag in lags]
    return torch.stack([mean[..., 0, 0], std[..., 0, 0], skewness, kurtosis - 3, *correlations], -1).flatten(1)


class FeatureStore:
    """The rows of a pool in every representation, computed once and kept in files.

    Args:
        input_values (`torch.Tensor` of shape `(num, num_channels, num_frames, num_freq_bins)`): Of the pool, float16.
        checkpoint ([`Checkpoint`]): Computes the embeddings.
        folder (`str` or `os.PathLike`): For the files of this pool alone.
    """

    def __init__(self, input_values: torch.Tensor, checkpoint: Checkpoint, folder: str | os.PathLike):
        self.input_values, self.checkpoint, self.folder = input_values, checkpoint, Path(folder)
        self._loaded: dict[str, dict[str, torch.Tensor]] = {}
        self._milliseconds: dict[str, float] = {}

    def rows(self, representation: str, rows: torch.Tensor) -> torch.Tensor:
        """Some rows: float16 spectrograms, or float32 features of shape `(num, num_features)`."""
        if representation == SPECTROGRAM:
            return self.input_values[rows]
        if representation == STATISTICS:
            return self._all("statistics", lambda values: {"values": statistics(values)})["values"][rows]
        parts = self._all(f"embedding-{self.checkpoint.digest}", self.checkpoint.parts)
        return self.checkpoint.combine({name: part[rows] for name, part in parts.items()}, representation)

    def milliseconds(self, representation: str) -> float:
        """Time per spectrogram to compute this representation from float32 in memory, in a batch of 64 [ms]."""
        if representation == SPECTROGRAM:
            return 0.0
        if representation not in self._milliseconds:
            values = self.input_values[:_BATCH].float()
            compute = statistics if representation == STATISTICS else self._embed(representation)
            compute(values)  # the first call plans and allocates
            start = time.perf_counter()
            compute(values)
            self._milliseconds[representation] = 1e3 * (time.perf_counter() - start) / len(values)
        return self._milliseconds[representation]

    def _embed(self, representation: str):
        return lambda values: self.checkpoint.embed(values, representation)

    def _all(self, name: str, compute) -> dict[str, torch.Tensor]:
        """All rows, a file for every 2,048; existing files are read, missing ones are computed."""
        if name not in self._loaded:
            parts = []
            files = range(0, len(self.input_values), _ROWS_PER_FILE)
            for first in tqdm(files, desc=name, unit_scale=_ROWS_PER_FILE, unit="row", disable=self._complete(name)):
                path = self._path(name, first)
                if not path.exists():
                    values = self.input_values[first : first + _ROWS_PER_FILE]
                    batches = [compute(batch.float()) for batch in values.split(_BATCH)]
                    columns = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
                    _write(path, columns)
                parts.append(load_file(path))
            self._loaded[name] = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return self._loaded[name]

    def _path(self, name: str, first: int) -> Path:
        return self.folder / f"{name}-{first:07d}.safetensors"

    def _complete(self, name: str) -> bool:
        return all(self._path(name, first).exists() for first in range(0, len(self.input_values), _ROWS_PER_FILE))


def _write(path: Path, columns: dict[str, torch.Tensor]) -> None:
    with whole_file(path) as stream:
        stream.write(save({name: column.contiguous() for name, column in columns.items()}))

"""The mixture of protocol experts and its router, arXiv 2601.08780, section IV."""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_lwm_spectro import LwmSpectroConfig, LwmSpectroMoEConfig
from .modeling_lwm_spectro import (
    LwmSpectroClassifier,
    LwmSpectroDecoder,
    LwmSpectroForPreTraining,
    LwmSpectroForPreTrainingOutput,
    LwmSpectroModel,
    LwmSpectroPreTrainedModel,
)
from .objectives_lwm_spectro import (
    draw_mask,
    joint_loss,
    label_loss,
    reconstruction_loss,
    supervised_contrastive_loss,
)
from .patches_lwm_spectro import check_shape


@dataclass
class LwmSpectroMoEModelOutput(ModelOutput):
    """
    Output of the mixture of experts.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, sequence_length, hidden_size)`): The experts' output,
            weighted by the router.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): The embeddings, weighted likewise: h_MoE.
        router_logits (`torch.FloatTensor` of shape `(batch, num_experts)`): Before the softmax.
        expert_index (`torch.LongTensor` of shape `(batch,)`): The expert with the largest weight.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    router_logits: torch.FloatTensor | None = None
    expert_index: torch.LongTensor | None = None


@dataclass
class LwmSpectroMoEClassifierOutput(ModelOutput):
    """
    Output of the classifiers over the mixture of experts.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Sum of the losses whose labels were given.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Logits of `config.task_name`.
        additional_logits (`dict[str, torch.FloatTensor]`, each of shape `(batch, num_labels)`): Logits of each of
            `config.additional_tasks`.
        router_logits (`torch.FloatTensor` of shape `(batch, num_experts)`): Logits of the protocol.
        router_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Cross-entropy of the router.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): The embedding.
        expert_index (`torch.LongTensor` of shape `(batch,)`): The expert with the largest weight.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    additional_logits: dict[str, torch.FloatTensor] | None = None
    router_logits: torch.FloatTensor | None = None
    router_loss: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    expert_index: torch.LongTensor | None = None


class LwmSpectroMoEConvolutions(nn.Sequential):
    """The published checkpoint's router up to its pooling: four convolutions of stride 2."""

    _WIDTHS_AND_KERNELS = ((32, 5), (64, 3), (96, 3), (128, 3))

    def __init__(self, num_channels: int):
        layers = []
        for width, kernel in self._WIDTHS_AND_KERNELS:
            layers += [
                nn.Conv2d(num_channels, width, kernel, stride=2, padding=kernel // 2),
                nn.BatchNorm2d(width),
                nn.SiLU(),
            ]
            num_channels = width
        super().__init__(*layers)
        self.num_channels = num_channels

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        # Convolutions are faster with channels last in memory.
        return super().forward(values.to(self[0].weight.dtype, memory_format=torch.channels_last))

    def grid(self, *shape: int) -> tuple[int, ...]:
        """Shape of the output for a grid of this shape."""
        return tuple(-(-size // 2 ** len(self._WIDTHS_AND_KERNELS)) for size in shape)


class LwmSpectroMoEFourierEncoder(nn.Module):
    """
    Convolutions over the two-dimensional Fourier transform of a spectrogram.

    Reference signals, control regions and slots repeat in time and frequency, in a lattice of its own for each
    standard. The transform concentrates a lattice in a few points, which stand out from noise even if no cell of the
    spectrogram does. Their magnitudes do not depend on where in the lattice a recording begins.

    Both the levels (logarithms) and the powers are transformed. In noise, a mean of powers is as accurate as a mean of
    levels over 1.6 times as many pixels (pi**2 / 6 is the variance of the logarithm of noise power, 1 that of noise
    power over its mean), and bursts in a quiet recording stand out.

    Noise beside a narrow carrier adds to every point of the transform. With `router_occupied_band`, a second transform
    therefore covers the occupied bins alone: a carrier in a fifth of the band stands out by 7 dB more.

    Where the resolution of a spectrogram is known, the convolutions also get the modulation frequency [Hz] and the
    delay [s] of each point of the transform: a standard repeats at the same rates in every receiver.
    """

    # In natural logarithms of power: standard deviation of noise, to scale standardized levels back, and upper limit.
    _NOISE_STD, _MAX = math.pi / math.sqrt(6), 4.0
    # Width of the moving average over bins, and the quantiles of its powers that stand for empty and for full bins.
    _SMOOTHED_BINS, _EMPTY, _FULL = 5, 0.1, 0.9
    # Periods of the sines and cosines per decade, and the frequency and delay where their phase is zero. The values
    # that must be distinguished lie within a few decades of these.
    _TURNS, _MIDDLE_HZ, _MIDDLE_S = (0.25, 0.75, 2.0), 1e3, 10**-5.5

    def __init__(self, config: LwmSpectroMoEConfig):
        super().__init__()
        expert = config.expert_config
        self.occupied_band = config.router_occupied_band
        transforms = 2 if self.occupied_band else 1
        self.convolutions = LwmSpectroMoEConvolutions(2 * expert.num_channels * transforms + 4 * len(self._TURNS))
        rows, columns = self.convolutions.grid(expert.num_frames, expert.num_freq_bins // 2 + 1)
        # Unlike in the spectrogram, positions have a meaning here: no pooling.
        self.dense = nn.Linear(self.convolutions.num_channels * rows * columns, config.router_hidden_size)
        self.layer_norm = nn.LayerNorm(config.router_hidden_size)

    def forward(self, input_values: torch.Tensor, resolution: torch.Tensor | None = None) -> torch.Tensor:
        levels = self._standardized(input_values.float())
        powers = (self._NOISE_STD * levels).clamp(max=self._MAX).exp()
        if resolution is None:
            resolution = levels.new_full((len(levels), 2), torch.nan)
        seen = [
            self._transformed(levels, self._standardized(powers)),
            self._coordinates(resolution.to(levels), *input_values.shape[2:]),
        ]
        if self.occupied_band:
            occupied = self._occupied(powers)
            seen.append(self._transformed(*(self._within(occupied, part) for part in (levels, powers))))
        places = self.convolutions(torch.cat(seen, dim=1)).flatten(1)
        return F.silu(self.layer_norm(self.dense(places)))

    @staticmethod
    def _transformed(*parts: torch.Tensor) -> torch.Tensor:
        """Logarithms of the magnitudes of the parts' Fourier transforms, as channels."""
        return torch.fft.rfft2(torch.cat(parts, dim=1), norm="ortho").abs().clamp(min=1e-3).log()

    def _occupied(self, powers: torch.Tensor) -> torch.Tensor:
        """Occupancy of each bin, from 0 (empty) to 1 (full): `torch.Tensor` of shape `(batch, 1, 1, num_bins)`."""
        beside = self._SMOOTHED_BINS // 2
        mean = F.pad(powers.mean(dim=(1, 2))[:, None], (beside, beside), mode="replicate")
        mean = F.avg_pool1d(mean, self._SMOOTHED_BINS, stride=1)
        ordered = mean.sort(dim=-1).values
        empty, full = (ordered[..., round(place * (mean.shape[-1] - 1)), None] for place in (self._EMPTY, self._FULL))
        return ((mean - empty) / (full - empty + 1e-6)).clamp(0, 1)[:, :, None]

    @staticmethod
    def _within(occupied: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Deviation from the mean of the occupied bins, weighted by occupancy and scaled to a mean square of one."""
        share = occupied.mean(dim=-1, keepdim=True).clamp(min=1e-6)
        mean = (occupied * values).mean(dim=(2, 3), keepdim=True) / share
        deviation = occupied * (values - mean)
        return deviation / (deviation.square().mean(dim=(2, 3), keepdim=True).sqrt() + 1e-3)

    def _coordinates(self, resolution: torch.Tensor, num_frames: int, num_bins: int) -> torch.Tensor:
        """Sines and cosines of the logarithms of frequency and delay; zeros where the resolution is unknown.

        Returns:
            `torch.Tensor` of shape `(batch, 4 * num_turns, num_frames, num_bins // 2 + 1)`.
        """
        known = resolution.isfinite().all(dim=1) & (resolution > 0).all(dim=1)
        steps = torch.where(known[:, None], resolution, 1.0)
        turns = [2 * math.pi * turn for turn in self._TURNS]  # floats: a tensor would be copied to the device
        # Zero has no logarithm; a quarter of the lowest frequency replaces it.
        cycles = torch.fft.fftfreq(num_frames, device=steps.device).abs().clamp(min=0.25 / num_frames)
        frequency = (cycles / steps[:, :1] / self._MIDDLE_HZ).log10()
        cycles = torch.fft.rfftfreq(num_bins, device=steps.device).clamp(min=0.25 / num_bins)
        delay = (cycles / steps[:, 1:] / self._MIDDLE_S).log10()
        frequency, delay = (torch.stack([part * turn for turn in turns], dim=1) for part in (frequency, delay))
        size = (-1, -1, num_frames, num_bins // 2 + 1)
        parts = [part[..., None].expand(size) for part in (frequency.sin(), frequency.cos())]
        parts += [part[:, :, None].expand(size) for part in (delay.sin(), delay.cos())]
        return torch.cat(parts, dim=1) * known[:, None, None, None]

    @staticmethod
    def _standardized(values: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(values, dim=(2, 3), keepdim=True)
        return (values - mean) / (std + 1e-3)


class LwmSpectroMoERouter(nn.Module):
    """
    The gating network R of sec. IV-B: a small transformer over its own patches, global average pooling and a linear
    layer with one logit per expert. `router_type="cnn"` is the published checkpoint's, with convolutions in place of
    the transformer; `"fourier"` adds convolutions over the spectrogram's Fourier transform, and is the only type that
    uses the resolution.
    """

    def __init__(self, config: LwmSpectroMoEConfig):
        super().__init__()
        if config.router_type == "transformer":
            self.encoder = LwmSpectroModel(config.router_config)
            width = config.router_hidden_size
        else:
            self.encoder = LwmSpectroMoEConvolutions(config.expert_config.num_channels)
            width = self.encoder.num_channels
        self.fourier = None
        if config.router_type == "fourier":
            self.fourier = LwmSpectroMoEFourierEncoder(config)
            self.dropout = nn.Dropout(config.router_dropout_prob)
            width += config.router_hidden_size
        self.gate = nn.Linear(width, config.num_experts)

    def train(self, mode: bool = True) -> "LwmSpectroMoERouter":
        """Keep a frozen router in evaluation mode: no dropout, and the batch statistics from its training."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the router in evaluation mode within a `with` block, and restore the modes of its modules after it."""
        in_training = [module for module in self.modules() if module.training]
        for module in in_training:
            module.training = False
        try:
            yield
        finally:
            for module in in_training:
                module.training = True

    def forward(self, input_values: torch.Tensor, resolution: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): Seconds between frames, hertz between bins.

        Returns:
            `torch.Tensor` of shape `(batch, num_experts)`: One logit per expert.
        """
        if isinstance(self.encoder, LwmSpectroModel):
            pooled = self.encoder(input_values, return_dict=True).pooler_output
        else:
            pooled = self.encoder(input_values).mean(dim=(2, 3))
        if self.fourier is not None:
            # Hide the spectrogram branch in some rows: it learns first, and would keep the other one from learning.
            is_shown = self.dropout(pooled.new_ones(len(pooled), 1)) > 0
            pooled = torch.cat([pooled * is_shown, self.fourier(input_values, resolution)], dim=-1)
        return self.gate(pooled)


class LwmSpectroMoEPreTrainedModel(LwmSpectroPreTrainedModel):
    """Base of the mixtures: their configuration, and how they are built from trained experts."""

    config: LwmSpectroMoEConfig
    config_class = LwmSpectroMoEConfig
    base_model_prefix = "lwm_spectro_moe"
    # Which experts run, and on which rows, depends on the data.
    _can_compile_fullgraph = False
    _can_record_outputs = {}
    _keys_to_ignore_on_load_unexpected = [
        r"^decoders\.",
        r"^projections\.",
        r"^classifier\.",
        r"^additional_classifiers\.",
    ]

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As in Transformers, also of the router, and more than once."""
        super().set_attn_implementation(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, LwmSpectroPreTrainedModel):
                # A mark that Transformers up to 5.17 leaves on configurations that are not in `sub_configs`, such as
                # that of a router, which is why it would not change them again.
                vars(module.config).pop("_attn_was_changed", None)

    @classmethod
    def from_experts(
        cls, experts: list[LwmSpectroPreTrainedModel], router: LwmSpectroMoERouter | None = None, **kwargs
    ) -> "LwmSpectroMoEPreTrainedModel":
        r"""
        Build a mixture from trained experts (stage 1 of sec. IV-C), with copies of their weights.

        Args:
            experts (`list[LwmSpectroModel | LwmSpectroForPreTraining]`): One per expert name, all of one architecture.
                For [`LwmSpectroMoEForPreTraining`], they must have decoders and projections, which are copied too.
            router (`LwmSpectroMoERouter`, *optional*): A trained router; a new one by default.
            kwargs: Fields of [`LwmSpectroMoEConfig`], such as `expert_names`.

        Raises:
            `ValueError`: If the numbers of experts and names differ, or the experts differ in architecture.
        """
        config = LwmSpectroMoEConfig(expert_config=copy.deepcopy(experts[0].config), **kwargs)
        if len(experts) != config.num_experts:
            raise ValueError(
                f"{len(experts)} experts were given for the {config.num_experts} names {config.expert_names}; pass "
                "`expert_names` with one name for each expert."
            )
        for name, expert in zip(config.expert_names, experts, strict=True):
            for field in LwmSpectroConfig.__annotations__:
                found, expected = getattr(expert.config, field), getattr(config.expert_config, field)
                if field != "task_name" and found != expected:
                    raise ValueError(
                        f"The experts must have the same architecture, but `{field}` is {found!r} for {name} and "
                        f"{expected!r} for {config.expert_names[0]}."
                    )
        model = cls(config)
        for index, expert in enumerate(experts):
            model._load_expert(index, expert)
        if router is not None:
            model.base_model.router.load_state_dict(router.state_dict())
        return model

    def _load_expert(self, index: int, expert: LwmSpectroPreTrainedModel):
        self.base_model.experts[index].load_state_dict(expert.base_model.state_dict())

    def _router_learning(self, protocol_labels: torch.Tensor | None) -> AbstractContextManager:
        """Context to run the router in: evaluation mode without protocol labels, because then no loss reaches it."""
        return self.base_model.router.held() if protocol_labels is None else nullcontext()


class LwmSpectroMoEModel(LwmSpectroMoEPreTrainedModel):
    """Protocol experts E_k and the router R that weights them (sec. IV)."""

    def __init__(self, config: LwmSpectroMoEConfig):
        super().__init__(config)
        self.router = LwmSpectroMoERouter(config)
        self.experts = nn.ModuleList(LwmSpectroModel(config.expert_config) for _ in range(config.num_experts))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.experts[0].get_input_embeddings()

    @staticmethod
    def dispatch(chosen: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """
        Group rows by their expert, so that each expert runs once, on its own rows, or not at all.

        Args:
            chosen (`torch.LongTensor` of shape `(batch, num_experts_per_sample)`): Indices of experts.

        Yields:
            `tuple[int, torch.Tensor, torch.Tensor]`: An expert, its rows, and the column of `chosen` that has it.
        """
        # Sorted by expert, with one device synchronization for all of them.
        chosen_in_order, order = chosen.flatten().sort(stable=True)
        experts, counts = chosen_in_order.unique_consecutive(return_counts=True)
        found = torch.stack([experts, counts]).tolist()
        for expert, places in zip(found[0], order.split(found[1]), strict=True):
            yield expert, places // chosen.shape[1], places % chosen.shape[1]

    def check_inputs(
        self, input_values: torch.Tensor, chosen: torch.Tensor | None, resolution: torch.Tensor | None, options: dict
    ) -> None:
        """
        Args:
            input_values (`torch.Tensor`): Spectrograms.
            chosen (`torch.LongTensor` of shape `(batch,)`, *optional*): The expert of each row.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): Of the spectrograms.
            options (`dict`): Further arguments.

        Raises:
            `ValueError`: If the spectrograms have the wrong shape, an expert does not exist, a resolution is infinite,
                or hidden states or attentions are requested, which cannot be collected over several experts.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if options.get(name) or (options.get(name) is None and getattr(self.config, name, None)):
                raise ValueError(
                    f"`{name}=True` works with a single encoder, but here each row has its own. Use it with one "
                    "expert: `LwmSpectroMoEForPreTraining.expert(name)`."
                )
        check_shape(input_values, self.config.expert_config)
        if chosen is not None and (chosen >= self.config.num_experts).any():
            raise ValueError(
                f"A row is assigned to expert {int(chosen.max())}, but there are {self.config.num_experts} experts "
                f"({', '.join(self.config.expert_names)}), counted from 0."
            )
        if resolution is not None and resolution.isinf().any():
            raise ValueError(
                "`resolution` has infinite values: half precision cannot represent numbers above 65,504 [Hz]. Cast "
                "only `input_values`, and leave `resolution` in float32."
            )

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        expert_index: torch.Tensor | None = None,
        resolution: torch.Tensor | None = None,
        **kwargs,
    ) -> LwmSpectroMoEModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            expert_index (`torch.LongTensor` of shape `(batch,)`, *optional*): The expert to use for each row, in
                place of the router's choice; negative = the router's choice.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): Time between frames [s] and spacing of
                frequency bins [Hz], as from [`SpectrogramFeatureExtractor.resolution`]; NaN where unknown.

        Returns:
            [`LwmSpectroMoEModelOutput`]

        Raises:
            `ValueError`: As from [`~LwmSpectroMoEModel.check_inputs`].
        """
        self.check_inputs(input_values, expert_index, resolution, kwargs)
        router_logits = self.router(input_values, resolution)
        if expert_index is None:
            # The router learns from protocol labels only; no gradient of the experts' losses reaches it.
            probabilities = router_logits.detach().float().softmax(dim=-1)
            weights, chosen = probabilities.topk(self.config.num_experts_per_sample)
            weights = weights / weights.sum(dim=-1, keepdim=True)
        else:
            chosen = torch.where(expert_index < 0, router_logits.argmax(dim=-1), expert_index)[:, None]
            weights = torch.ones_like(chosen, dtype=torch.float32)
        all_rows, all_states, all_embeddings = [], [], []
        for expert, rows, slots in self.dispatch(chosen):
            outputs = self.experts[expert](input_values[rows], return_dict=True, **kwargs)
            states, weight = outputs.last_hidden_state, weights[rows, slots].to(outputs.last_hidden_state.dtype)
            all_rows.append(rows)
            all_states.append(states * weight[:, None, None])
            all_embeddings.append(outputs.pooler_output * weight[:, None])
        all_rows = torch.cat(all_rows)

        def mixed(parts: list[torch.Tensor]) -> torch.Tensor:
            parts = torch.cat(parts)
            return parts.new_zeros(len(input_values), *parts.shape[1:]).index_add(0, all_rows, parts)

        return LwmSpectroMoEModelOutput(
            last_hidden_state=mixed(all_states),
            pooler_output=mixed(all_embeddings),
            router_logits=router_logits,
            expert_index=chosen[:, 0],
        )


class LwmSpectroMoEForPreTraining(LwmSpectroMoEPreTrainedModel):
    """Masked modeling of each spectrogram by its expert, with a decoder and a projection for each expert."""

    def __init__(self, config: LwmSpectroMoEConfig):
        super().__init__(config)
        expert = config.expert_config
        self.lwm_spectro_moe = LwmSpectroMoEModel(config)
        self.decoders = nn.ModuleList(LwmSpectroDecoder(expert) for _ in range(config.num_experts))
        self.projections = nn.ModuleList(
            nn.Linear(expert.hidden_size, expert.projection_size) for _ in range(config.num_experts)
        )
        self.post_init()

    def _load_expert(self, index: int, expert: LwmSpectroPreTrainedModel):
        if not isinstance(expert, LwmSpectroForPreTraining):
            raise ValueError(
                f"Expert {index} is a {type(expert).__name__} without a decoder; LwmSpectroMoEForPreTraining is built "
                "from LwmSpectroForPreTraining models."
            )
        super()._load_expert(index, expert)
        self.decoders[index].load_state_dict(expert.decoder.state_dict())
        self.projections[index].load_state_dict(expert.projection.state_dict())

    def expert(self, name: str) -> LwmSpectroForPreTraining:
        """
        One expert with its decoder and projection, as a model of its own; its weights are shared with the mixture.

        Raises:
            `ValueError`: If there is no such expert.
        """
        if name not in self.config.expert_names:
            raise ValueError(f"There is no expert {name!r}; expected one of {', '.join(self.config.expert_names)}.")
        index = self.config.expert_names.index(name)
        with torch.device("meta"):  # no need to initialize weights that are then replaced
            model = LwmSpectroForPreTraining(copy.deepcopy(self.config.expert_config))
        model.lwm_spectro, model.decoder = self.lwm_spectro_moe.experts[index], self.decoders[index]
        model.projection = self.projections[index]
        # A new model is in training mode, whatever the mode of the parts that it shares.
        return model.train(model.lwm_spectro.training)

    def masked_modeling(
        self,
        input_values: torch.Tensor,
        mask: torch.Tensor,
        chosen: torch.Tensor,
        contrastive_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> LwmSpectroForPreTrainingOutput:
        """
        Masked modeling by the given experts, without running the router.

        Args:
            input_values, contrastive_labels: As in [`LwmSpectroForPreTraining`].
            mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked.
            chosen (`torch.LongTensor` of shape `(batch,)`): The expert of each row.

        Returns:
            [`LwmSpectroForPreTrainingOutput`], without the router's outputs.
        """
        config, moe = self.config.expert_config, self.lwm_spectro_moe
        parts, order, contrastive_losses = [], [], []
        for expert, rows, _ in moe.dispatch(chosen[:, None]):
            reconstruction, target, outputs = moe.experts[expert].masked_reconstruction(
                self.decoders[expert], input_values[rows], mask[rows], **kwargs
            )
            projection = F.normalize(self.projections[expert](outputs.pooler_output), dim=-1)
            parts.append((reconstruction, target, outputs.pooler_output, projection))
            order.append(rows)
            if contrastive_labels is not None:
                expert_loss = supervised_contrastive_loss(projection, contrastive_labels[rows], config.temperature)
                contrastive_losses.append(expert_loss * len(rows) / len(mask))
        order = torch.cat(order).argsort()
        reconstruction, target, embedding, projection = (torch.cat(part)[order] for part in zip(*parts, strict=True))

        recon_loss = reconstruction_loss(reconstruction, target, mask)
        contrastive_loss = sum(contrastive_losses) if contrastive_losses else None
        return LwmSpectroForPreTrainingOutput(
            loss=joint_loss(config, recon_loss, contrastive_loss),
            reconstruction_loss=recon_loss,
            contrastive_loss=contrastive_loss,
            reconstruction=reconstruction,
            mask=mask,
            embedding=embedding,
            projection=projection,
            expert_index=chosen,
        )

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        contrastive_labels: torch.Tensor | None = None,
        protocol_labels: torch.Tensor | None = None,
        resolution: torch.Tensor | None = None,
        **kwargs,
    ) -> LwmSpectroForPreTrainingOutput:
        r"""
        The router sees the spectrogram unmasked; masked modeling is always top-1.

        Args:
            input_values, bool_masked_pos, noise, contrastive_labels:
                As in [`LwmSpectroForPreTraining`]; the contrastive loss compares only rows of the same expert, which
                share its projection.
            protocol_labels (`torch.LongTensor` of shape `(batch,)`, *optional*): The true expert of each row;
                negative = unknown. They route the rows, and add the router's cross-entropy to the loss.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): As in [`LwmSpectroMoEModel`].

        Returns:
            [`LwmSpectroForPreTrainingOutput`]

        Raises:
            `ValueError`: As from [`~LwmSpectroMoEModel.check_inputs`].
        """
        self.lwm_spectro_moe.check_inputs(input_values, protocol_labels, resolution, kwargs)
        mask = draw_mask(self.config.expert_config, input_values, bool_masked_pos, noise)
        with self._router_learning(protocol_labels):
            router_logits = self.lwm_spectro_moe.router(input_values, resolution)
        chosen = router_logits.argmax(dim=-1)
        if protocol_labels is not None:
            chosen = torch.where(protocol_labels < 0, chosen, protocol_labels)
        outputs = self.masked_modeling(input_values, mask, chosen, contrastive_labels, **kwargs)
        outputs["router_logits"] = router_logits
        if protocol_labels is not None:
            outputs["router_loss"] = label_loss(router_logits, protocol_labels)
            outputs["loss"] = outputs.loss + self.config.router_loss_weight * outputs.router_loss
        return outputs


class LwmSpectroMoEForSequenceClassification(LwmSpectroMoEPreTrainedModel):
    """
    Predicts the protocol, the class of `config.task_name` and those of `config.additional_tasks` in one forward pass.
    To train on labels of the protocol or of further tasks as well, list their arguments after "labels" in
    `label_names` of `TrainingArguments`.
    """

    def __init__(self, config: LwmSpectroMoEConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        expert = config.expert_config
        self.lwm_spectro_moe = LwmSpectroMoEModel(config)
        self.classifier = LwmSpectroClassifier(expert, config.num_labels)
        self.additional_classifiers = nn.ModuleDict(
            {name: LwmSpectroClassifier(expert, len(labels)) for name, labels in config.additional_tasks.items()}
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        resolution: torch.Tensor | None = None,
        **kwargs,
    ) -> LwmSpectroMoEClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Indices into `config.id2label`; negative =
                unknown, here and below.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): As in [`LwmSpectroMoEModel`].
            protocol_labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Indices into `config.expert_names`,
                for the router's loss. They do not route rows: the logits never depend on labels. Without them the
                router is not trained, and runs in evaluation mode.
            additional_labels (`dict[str, torch.LongTensor]`, each of shape `(batch,)`, *optional*): Labels of
                `config.additional_tasks`.

        Returns:
            [`LwmSpectroMoEClassifierOutput`]: `loss` is the sum of the losses whose labels are given.
        """
        # Not named in the signature, or Trainer would look for them in every dataset.
        protocol_labels, additional_labels = (
            kwargs.pop(f"{kind}_labels", None) for kind in ("protocol", "additional")
        )
        with self._router_learning(protocol_labels):
            outputs = self.lwm_spectro_moe(input_values, resolution=resolution, return_dict=True, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        additional_logits = {name: head(outputs.pooler_output) for name, head in self.additional_classifiers.items()}
        losses, router_loss = [], None
        if labels is not None:
            losses.append(self._task_loss(logits, labels))
        if protocol_labels is not None:
            router_loss = label_loss(outputs.router_logits, protocol_labels)
            losses.append(self.config.router_loss_weight * router_loss)
        for name, task_labels in (additional_labels or {}).items():
            if name not in additional_logits:
                raise ValueError(
                    f"`additional_labels` has the task {name!r}, but this model has {list(additional_logits)}; "
                    "list it in `config.additional_tasks`."
                )
            losses.append(label_loss(additional_logits[name], task_labels))
        return LwmSpectroMoEClassifierOutput(
            loss=sum(losses) if losses else None,
            logits=logits,
            additional_logits=additional_logits,
            router_logits=outputs.router_logits,
            router_loss=router_loss,
            pooler_output=outputs.pooler_output,
            expert_index=outputs.expert_index,
        )


def _saved_beside():
    # Never called, see `modeling_lwm_spectro.py`.
    from .evidence_lwm_spectro import Evidence  # noqa: F401
    from .level_histogram_lwm_spectro import LwmSpectroLevels  # noqa: F401
    from .patch_copying_lwm_spectro import LwmSpectroPatchCopying  # noqa: F401
    from .pipeline_lwm_spectro import IQClassificationPipeline  # noqa: F401


__all__ = [
    "LwmSpectroMoEClassifierOutput",
    "LwmSpectroMoEForPreTraining",
    "LwmSpectroMoEForSequenceClassification",
    "LwmSpectroMoEModel",
    "LwmSpectroMoEModelOutput",
    "LwmSpectroMoEPreTrainedModel",
    "LwmSpectroMoERouter",
]

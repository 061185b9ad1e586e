"""
LWM-Spectro: a transformer encoder over spectrogram patches, its pretraining model and its classifier. Equation numbers
are those of arXiv 2601.08780, section III; masks and losses are in `objectives_lwm_spectro.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_lwm_spectro import LwmSpectroConfig
from .level_histogram_lwm_spectro import LwmSpectroLevels
from .objectives_lwm_spectro import (
    draw_mask,
    joint_loss,
    label_loss,
    reconstruction_loss,
    supervised_contrastive_loss,
)
from .patch_copying_lwm_spectro import (
    LwmSpectroInpainting,
    LwmSpectroPatchCopying,
    frame_and_bin_means,
    sum_of_means,
)
from .patches_lwm_spectro import check_shape, patchify


@dataclass
class LwmSpectroForPreTrainingOutput(ModelOutput):
    """
    Output of masked modeling.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): The joint objective, eq. 22 (eq. 21 without contrastive labels).
        reconstruction_loss (`torch.FloatTensor` of shape `(1,)`): Eq. 17.
        contrastive_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Eq. 19, averaged over its anchors.
        router_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Cross-entropy of the router (mixture only).
        reconstruction (`torch.FloatTensor` of shape `(batch, num_patches, patch_dim or hidden_size)`): Eq. 16, for
            every patch.
        mask (`torch.BoolTensor` of shape `(batch, num_patches)`): Which patches were masked.
        embedding (`torch.FloatTensor` of shape `(batch, hidden_size)`): The embedding of the masked input.
        projection (`torch.FloatTensor` of shape `(batch, projection_size)`): Eq. 18.
        router_logits (`torch.FloatTensor` of shape `(batch, num_experts)`, *optional*): Mixture only.
        expert_index (`torch.LongTensor` of shape `(batch,)`, *optional*): The expert of each row, mixture only.
        hidden_states (`tuple` of `num_hidden_layers + 1` `torch.FloatTensor`, *optional*): On request, the input of
            the first layer and the output of each, `(batch, num_tokens, hidden_size)`; never from a mixture.
        attentions (`tuple` of `num_hidden_layers` `torch.FloatTensor`, *optional*): On request, the weights of eq. 13,
            `(batch, num_attention_heads, num_tokens, num_tokens)`; only with eager attention, never from a mixture.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    router_loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    mask: torch.BoolTensor | None = None
    embedding: torch.FloatTensor | None = None
    projection: torch.FloatTensor | None = None
    router_logits: torch.FloatTensor | None = None
    expert_index: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class LwmSpectroClassifierOutput(SequenceClassifierOutput):
    """
    Output of the classifier over one encoder: the fields of `SequenceClassifierOutput`, and the embedding.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Mean over the rows whose labels are known.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Eq. 20, before the softmax.
        hidden_states, attentions (`tuple`, *optional*): As in [`LwmSpectroForPreTrainingOutput`].
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): The embedding that is classified.
    """

    pooler_output: torch.FloatTensor | None = None


class LwmSpectroUnbiasedStdNorm(nn.Module):
    """The published checkpoint's normalization: `weight * (x - mean) / (unbiased std + eps) + bias`."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.eps = config.layer_norm_eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(hidden_states, dim=-1, keepdim=True)
        return self.weight * ((hidden_states - mean) / (std + self.eps)) + self.bias


def build_norm(config: LwmSpectroConfig) -> nn.Module:
    """The normalization that `config.norm_type` names."""
    if config.norm_type == "unbiased_std":
        return LwmSpectroUnbiasedStdNorm(config)
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class LwmSpectroStemBlock(nn.Sequential):
    """The residual branch of a stem: batch normalization, activation and convolution, twice."""

    def __init__(self, width: int):
        layers = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        super().__init__(*layers)


class LwmSpectroPatchStem(nn.Module):
    """
    A nonlinear patch embedding, in place of eq. 11. Each patch is cut into square cells of side `stem_cell_size`,
    which are embedded and mixed by residual convolutions. These end at the border of the patch, so that nothing of a
    masked patch leaks into its neighbors. Modulation shows in the spread of the values within a patch, of which a
    linear map keeps only sums; batch normalization removes the level that all cells share.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        width = config.stem_num_channels
        self.cells_per_side = config.patch_size // config.stem_cell_size
        self.dense = nn.Linear(config.num_channels * config.stem_cell_size**2, width)
        self.blocks = nn.ModuleList(LwmSpectroStemBlock(width) for _ in range(config.stem_num_layers))
        self.norm = nn.BatchNorm2d(width)
        self.out_proj = nn.Linear(width * self.cells_per_side**2, config.hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(batch, num_patches, patch_dim)` to `(batch, num_patches, hidden_size)`."""
        config, side = self.config, self.cells_per_side
        images = patches.reshape(-1, config.num_channels, config.patch_size, config.patch_size)
        cells = patchify(images, config.stem_cell_size).unflatten(1, (side, side))
        hidden_states = F.relu(self.dense(cells)).permute(0, 3, 1, 2)  # channels stay last in memory
        for block in self.blocks:
            hidden_states = hidden_states + block(hidden_states)
        hidden_states = F.relu(self.norm(hidden_states)).permute(0, 2, 3, 1).flatten(1)
        return self.out_proj(hidden_states).unflatten(0, patches.shape[:2])


class LwmSpectroEmbeddings(nn.Module):
    """Patch embedding (eq. 11), learnable positions (eq. 12) and masking of the encoder's input (eq. 15)."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        if config.stem_num_channels is None:
            self.projection = nn.Linear(config.patch_dim, config.hidden_size)
        else:
            self.projection = LwmSpectroPatchStem(config)
        num_positions = config.max_position_embeddings or config.sequence_length
        self.position_embeddings = nn.Parameter(torch.zeros(num_positions, config.hidden_size))
        self.norm = build_norm(config) if config.use_embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def patches(self, input_values: torch.Tensor) -> torch.Tensor:
        """Check the spectrograms and cut them into the patches s_i, of shape `(batch, num_patches, patch_dim)`."""
        check_shape(input_values, self.config)
        return patchify(input_values, self.config.patch_size).to(self.position_embeddings.dtype)

    def forward(
        self,
        input_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        mask_token: torch.Tensor | None = None,
    ) -> torch.Tensor:
        config = self.config
        patches = self.patches(input_values)
        mask = bool_masked_pos.bool() if bool_masked_pos is not None else None
        if config.cls_token_value is not None:
            patches = F.pad(patches, (0, 0, 1, 0), value=config.cls_token_value)
            mask = F.pad(mask, (1, 0), value=False) if mask is not None else None
        replace = mask is not None and config.mask_strategy == "token"
        if replace and config.mask_token_value is not None:
            patches = patches.masked_fill(mask[..., None], config.mask_token_value)
        positions = self.position_embeddings[: patches.shape[1]]
        if mask is not None and config.mask_strategy == "drop":
            num_visible = config.sequence_length - config.num_masked_patches
            visible = mask.int().argsort(dim=1, stable=True)[:, :num_visible]
            patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))
            positions = positions[visible]
        tokens = self.projection(patches)
        if replace and config.mask_token_value is None:
            if mask_token is None:
                raise ValueError(
                    "`bool_masked_pos` needs the `mask_token` that replaces masked patches, of shape "
                    f"({config.hidden_size},). Models for pretraining have one: `model.decoder.mask_token`."
                )
            tokens = torch.where(mask[..., None], mask_token, tokens)
        return self.dropout(self.norm(tokens + positions))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 13 as written, with the full matrix of attention weights, `(batch, heads, sequence, sequence)`."""
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = F.dropout(attn_weights, p=dropout, training=module.training)
    return torch.matmul(attn_weights, value).transpose(1, 2).contiguous(), attn_weights


class LwmSpectroAttention(nn.Module):
    """Multi-head self-attention, eq. 13."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, num_tokens, hidden_size)` to the same shape, and the weights if attention is eager."""
        input_shape = hidden_states.shape[:-1]
        heads = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn_output.reshape(*input_shape, -1)), attn_weights


class LwmSpectroMLP(nn.Module):
    """Feed-forward network of eq. 14."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class LwmSpectroLayer(GradientCheckpointingLayer):
    """A post-norm transformer block, eq. 14: each normalization follows its residual sum."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.self_attn = LwmSpectroAttention(config)
        self.norm1 = build_norm(config)
        self.mlp = LwmSpectroMLP(config)
        self.norm2 = build_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """`(batch, num_tokens, hidden_size)` to the same shape."""
        attention, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = self.norm1(hidden_states + self.dropout(attention))
        return self.norm2(hidden_states + self.dropout(self.mlp(hidden_states)))


class LwmSpectroDecoder(nn.Module):
    """
    The lightweight decoder g of eq. 16: `decoder_num_hidden_layers` transformer layers, then dense, activation, norm
    and linear on every patch. With `decoder_num_copy_heads`, copies of visible patches are added to the result, with
    `decoder_num_inpainting_channels` also what convolutions continue from them into masked ones. The decoder owns the
    mask token, so that an encoder alone has no unused parameter.
    """

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        self.config = config
        learnable = config.mask_token_value is None or config.mask_strategy == "drop"
        self.mask_token = nn.Parameter(torch.zeros(config.hidden_size)) if learnable else None
        deep = config.decoder_num_hidden_layers > 0
        self.position_embeddings = (
            nn.Parameter(torch.zeros(config.sequence_length, config.hidden_size)) if deep else None
        )
        self.layers = nn.ModuleList(LwmSpectroLayer(config) for _ in range(config.decoder_num_hidden_layers))
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = build_norm(config)
        target_size = config.patch_dim if config.reconstruction_target == "patches" else config.hidden_size
        self.projection = nn.Linear(config.hidden_size, target_size)
        self.copying = LwmSpectroPatchCopying(config) if config.decoder_num_copy_heads else None
        self.inpainting = LwmSpectroInpainting(config) if config.decoder_num_inpainting_channels else None

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, num_tokens, hidden_size)`): The encoder's output.
            mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked.
            patches (`torch.Tensor` of shape `(batch, num_patches, patch_dim)`): The spectrogram; masked patches are
                not used.
        """
        config = self.config
        if config.mask_strategy == "drop":
            # Put the encoder's tokens, which are in order, back at the visible positions. They are gathered by running
            # number: indexing by the mask would wait until the device has counted them.
            visible = F.pad(~mask, (config.sequence_length - config.num_patches, 0), value=True)
            number = (visible.cumsum(1) - 1).clamp(min=0)[..., None].expand(-1, -1, hidden_states.shape[-1])
            token = self.mask_token.to(hidden_states.dtype)
            hidden_states = torch.where(visible[..., None], hidden_states.gather(1, number), token)
        if self.position_embeddings is not None:
            hidden_states = hidden_states + self.position_embeddings
        if self.copying is not None:
            means = frame_and_bin_means(patches, mask, config)
            context = self.copying.context_of(means)
            hidden_states = hidden_states + F.pad(context, (0, 0, config.sequence_length - config.num_patches, 0))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = hidden_states[:, -config.num_patches :]
        reconstruction = self.projection(self.norm(self.activation(self.dense(hidden_states))))
        if self.copying is not None:
            additive = sum_of_means(*means).flatten(2)
            deviation = (patches - additive).masked_fill(mask[..., None], 0)
            reconstruction = reconstruction + additive + self.copying(hidden_states, deviation, mask, means)
            if self.inpainting is not None:
                reconstruction = reconstruction + self.inpainting(hidden_states, deviation, mask)
        return reconstruction


class LwmSpectroResidualBlock(nn.Module):
    """Two 1-D convolutions and a shortcut."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__()
        width, kernel = config.classifier_hidden_size, config.classifier_kernel_size
        self.conv1 = nn.Conv1d(width, width, kernel, padding="same")
        self.conv2 = nn.Conv1d(width, width, kernel, padding="same")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.relu(hidden_states + self.conv2(F.relu(self.conv1(hidden_states))))


class LwmSpectroClassifier(nn.Module):
    """
    The head of eq. 20: the pooled vector read as a sequence of `hidden_size` scalars, residual 1-D convolutions,
    global average pooling and a linear layer; or, with `classifier_type="linear"`, the linear layer alone.
    """

    def __init__(self, config: LwmSpectroConfig, num_labels: int):
        super().__init__()
        self.residual = config.classifier_type == "residual_cnn"
        if self.residual:
            width = config.classifier_hidden_size
            # Scales and shifts each dimension by itself: convolutions alone could not tell the dimensions apart.
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.stem = nn.Conv1d(1, width, config.classifier_kernel_size, padding="same")
            self.blocks = nn.ModuleList(LwmSpectroResidualBlock(config) for _ in range(config.classifier_num_layers))
        else:
            width = config.hidden_size
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.out_proj = nn.Linear(width, num_labels)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """`(batch, hidden_size)` to logits, `(batch, num_labels)`."""
        if self.residual:
            hidden_states = F.relu(self.stem(self.norm(embedding)[:, None, :]))
            for block in self.blocks:
                hidden_states = block(hidden_states)
            embedding = hidden_states.mean(dim=-1)
        return self.out_proj(self.dropout(embedding))


class LwmSpectroPreTrainedModel(PreTrainedModel):
    """Weight initialization and the capabilities that all the classes share."""

    config: LwmSpectroConfig
    config_class = LwmSpectroConfig
    base_model_prefix = "lwm_spectro"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    # The losses are means over a batch; this tells Trainer so.
    accepts_loss_kwargs = False
    _no_split_modules = ["LwmSpectroEmbeddings", "LwmSpectroLayer", "LwmSpectroDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": LwmSpectroLayer, "attentions": LwmSpectroAttention}
    # One checkpoint may hold the encoder and every head; each class loads its part.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^projection\.", r"^classifier\."]

    def _task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of `config.problem_type`; by default the cross-entropy of one class per row."""
        is_class = self.config.problem_type in (None, "single_label_classification") and self.config.num_labels > 1
        if is_class and not labels.is_floating_point():
            return label_loss(logits, labels.flatten())
        return self.loss_function(labels, logits, self.config)

    def train(self, mode: bool = True) -> "LwmSpectroPreTrainedModel":
        """
        Set training or evaluation mode as PyTorch does, but keep batch normalizations with frozen parameters in
        evaluation mode. Otherwise, with LoRA or a head on a frozen encoder, their statistics would change although
        nothing else in them does, and an adapter, which is saved without them, would not restore the trained model.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and not any(part.requires_grad for part in module.parameters()):
                module.eval()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, LwmSpectroUnbiasedStdNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LwmSpectroEmbeddings):
            init.normal_(module.position_embeddings, std=std)
        elif isinstance(module, LwmSpectroPatchCopying):
            init.zeros_(module.gate.weight)
            init.zeros_(module.gate.bias)
            # Most repetition is between patches of the same frames: heads attend there first, each a bit differently.
            bias = 0.1 * torch.randn_like(module.position_bias) - 4.0
            bias[:, module.rows - 1] += 4.0
            init.copy_(module.position_bias, bias)
        elif isinstance(module, LwmSpectroDecoder):
            for parameter in (module.mask_token, module.position_embeddings):
                if parameter is not None:
                    init.normal_(parameter, std=std)


class LwmSpectroModel(LwmSpectroPreTrainedModel):
    """The encoder f: spectrograms to tokens and an embedding, their mean, plus levels with `level_num_bins`."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__(config)
        self.embeddings = LwmSpectroEmbeddings(config)
        self.layers = nn.ModuleList(LwmSpectroLayer(config) for _ in range(config.num_hidden_layers))
        self.levels = LwmSpectroLevels(config) if config.level_num_bins else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        mask_token: torch.Tensor | None = None,
        resolution: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*): 1 = masked. With
                `mask_strategy="drop"` each row must mask `config.num_masked_patches`.
            mask_token (`torch.Tensor` of shape `(hidden_size,)`, *optional*): The decoder's embedding that replaces
                masked patches; not needed with `mask_token_value` or `mask_strategy="drop"`.
            resolution (`torch.Tensor` of shape `(batch, 2)`, *optional*): Ignored; only a mixture's router uses it.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` of shape `(batch, sequence_length, hidden_size)`, without
            masked tokens if `mask_strategy="drop"`, and `pooler_output` of shape `(batch, hidden_size)`, its mean over
            the sequence, plus the levels of visible patches with `config.level_num_bins`.

        Raises:
            `ValueError`: If `input_values` does not have the configured shape.
        """
        hidden_states = self.embeddings(input_values, bool_masked_pos, mask_token)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        embedding = hidden_states.mean(dim=1)
        if self.levels is not None:
            embedding = embedding + self.levels(input_values, bool_masked_pos)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=embedding)

    def masked_reconstruction(
        self, decoder: LwmSpectroDecoder, input_values: torch.Tensor, mask: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor, BaseModelOutputWithPooling]:
        """
        Encode masked spectrograms and decode them again (eq. 15, 16).

        Returns:
            `tuple`: The reconstruction and its target, both `(batch, num_patches, dim)`, and the encoder's output.
        """
        token = decoder.mask_token if self.config.mask_strategy == "token" else None
        outputs = self(input_values, bool_masked_pos=mask, mask_token=token, return_dict=True, **kwargs)
        patches = target = self.embeddings.patches(input_values)
        if self.config.reconstruction_target == "embeddings":
            target = self.embeddings.projection(patches).detach()
        return decoder(outputs.last_hidden_state, mask, patches), target, outputs


class LwmSpectroForPreTraining(LwmSpectroPreTrainedModel):
    """Masked spectrogram modeling (sec. III-D) and supervised contrastive learning (sec. III-E)."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__(config)
        self.lwm_spectro = LwmSpectroModel(config)
        self.decoder = LwmSpectroDecoder(config)
        self.projection = nn.Linear(config.hidden_size, config.projection_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        contrastive_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> LwmSpectroForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*): The mask, 1 = masked.
            noise (`torch.Tensor` of shape `(batch, num_patches)`, *optional*): Used to draw the mask otherwise.
            contrastive_labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Adds eq. 19; negative = unknown.

        Returns:
            [`LwmSpectroForPreTrainingOutput`]
        """
        config = self.config
        mask = draw_mask(config, input_values, bool_masked_pos, noise)
        reconstruction, target, outputs = self.lwm_spectro.masked_reconstruction(
            self.decoder, input_values, mask, **kwargs
        )
        projection = F.normalize(self.projection(outputs.pooler_output), dim=-1)
        recon_loss = reconstruction_loss(reconstruction, target, mask)
        contrastive_loss = None
        if contrastive_labels is not None:
            contrastive_loss = supervised_contrastive_loss(projection, contrastive_labels, config.temperature)
        return LwmSpectroForPreTrainingOutput(
            loss=joint_loss(config, recon_loss, contrastive_loss),
            reconstruction_loss=recon_loss,
            contrastive_loss=contrastive_loss,
            reconstruction=reconstruction,
            mask=mask,
            embedding=outputs.pooler_output,
            projection=projection,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class LwmSpectroForSequenceClassification(LwmSpectroPreTrainedModel):
    """Classification of spectrograms by `config.task_name` (sec. III-F)."""

    def __init__(self, config: LwmSpectroConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.lwm_spectro = LwmSpectroModel(config)
        self.classifier = LwmSpectroClassifier(config, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> LwmSpectroClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Indices into `config.id2label`; negative =
                unknown. Floats for `config.problem_type="regression"` or `"multi_label_classification"`.

        Returns:
            [`LwmSpectroClassifierOutput`]: `logits` of shape `(batch, num_labels)`, eq. 20.
        """
        outputs = self.lwm_spectro(input_values, return_dict=True, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        return LwmSpectroClassifierOutput(
            loss=None if labels is None else self._task_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            pooler_output=outputs.pooler_output,
        )


def _saved_beside():
    # Never called. For a checkpoint with its own code, Transformers saves the files that this one imports beside the
    # model. The pipeline, which the configuration names, must be among them, and also what these files import in turn:
    # before version 5.12, nothing else of a local folder could be found.
    from .evidence_lwm_spectro import Evidence  # noqa: F401
    from .pipeline_lwm_spectro import IQClassificationPipeline  # noqa: F401


__all__ = [
    "LwmSpectroClassifierOutput",
    "LwmSpectroForPreTraining",
    "LwmSpectroForPreTrainingOutput",
    "LwmSpectroForSequenceClassification",
    "LwmSpectroModel",
    "LwmSpectroPreTrainedModel",
    "supervised_contrastive_loss",
]

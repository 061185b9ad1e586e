"""
A masked ConvLSTM over spectrograms: masked pretraining, forecasting and segmentation (arXiv 2411.09849).

A spectrogram is treated as a film whose pictures are segments of frames. Convolutional LSTM layers (Shi et al., arXiv
1506.04214, here without peepholes) see them one after the other, and a three-dimensional convolution turns their
hidden states into values of every frame and bin.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_masked_conv_lstm import MaskedConvLstmConfig
from .objectives_lwm_spectro import draw_mask, label_loss
from .patches_lwm_spectro import check_shape, patches_to_values


@dataclass
class MaskedConvLstmReconstructionOutput(ModelOutput):
    """
    Output of masked modeling, and of forecasting, where the future is masked.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): Mean squared error over masked values; 0 if nothing is masked.
        reconstruction (`torch.FloatTensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Estimate of
            every value, masked or not.
        mask (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`): 1 = masked.
        embedding (`torch.FloatTensor` of shape `(batch, hidden_size)`): As from [`MaskedConvLstmModel`].
        hidden_states (`tuple` of `num_hidden_layers + 1` `torch.FloatTensor`, *optional*): On request, the input of
            the first layer and the output of each, `(batch, num_passes * num_segments, hidden_size, rows, columns)`.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    mask: torch.BoolTensor | None = None
    embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


def standardize(input_values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Standardize spectrograms by the mean and standard deviation of their visible values, so that neither units nor an
    earlier normalization leak masked values.

    Args:
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
        mask (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`): 1 = masked.

    Returns:
        `tuple`: The spectrograms, and mean and standard deviation of shape `(batch, num_channels, 1, 1)`, float32.
    """
    # Filled, not multiplied by zero: what is masked may be NaN, or infinite.
    values, hidden = input_values.float(), mask[:, None]
    count = (~hidden).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = values.masked_fill(hidden, 0.0).sum(dim=(2, 3), keepdim=True) / count
    square = (values - mean).square().masked_fill(hidden, 0.0)
    std = square.sum(dim=(2, 3), keepdim=True).div(count).sqrt().clamp(min=1e-6)
    return ((values - mean) / std).to(input_values.dtype), mean, std


def check_mask(mask: torch.Tensor, input_values: torch.Tensor) -> torch.Tensor:
    """
    Args:
        mask (`torch.Tensor` of shape `(batch, num_frames, num_freq_bins)`): 1 = masked.
        input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.

    Returns:
        `torch.BoolTensor`: The mask.

    Raises:
        `ValueError`: If it does not have that shape.
    """
    expected = (input_values.shape[0], *input_values.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)}, but (batch, num_frames, num_freq_bins) = {expected} is expected, "
            "as for `input_values` without channels."
        )
    return mask.bool()


class MaskedConvLstmEmbeddings(nn.Module):
    """
    Segments of a spectrogram as pictures: masked values become 0, the mean of a normalized spectrogram, and one more
    channel is the mask. With `embedding_stride` above 1, a convolution turns each square of that side into a cell.
    """

    def __init__(self, config: MaskedConvLstmConfig):
        super().__init__()
        self.config = config
        stride = config.embedding_stride
        self.projection = (
            nn.Conv2d(config.num_channels + 1, config.hidden_size, stride, stride=stride) if stride > 1 else None
        )

    @property
    def num_outputs(self) -> int:
        """`int`: Channels of a cell."""
        return self.config.hidden_size if self.projection is not None else self.config.num_channels + 1

    def forward(self, input_values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            mask (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`, *optional*): 1 = masked.

        Returns:
            `torch.Tensor` of shape `(batch, num_segments, num_outputs, rows, columns)`.
        """
        hidden = torch.zeros_like(input_values[:, 0], dtype=torch.bool) if mask is None else mask
        shown = input_values.masked_fill(hidden[:, None], 0.0)
        pictures = torch.cat([shown, hidden[:, None].to(shown.dtype)], dim=1)
        pictures = pictures.unflatten(2, (-1, self.config.segment_frames)).transpose(1, 2)
        if self.projection is None:
            return pictures
        return self.projection(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])


class MaskedConvLstmLayer(GradientCheckpointingLayer):
    """
    A ConvLSTM layer. With * for convolution and . for the elementwise product, a step is::

        i, f, o = sigmoid(W_x * x_t + W_h * h_{t-1} + b)        input, forget and output gates
        c_t     = f . c_{t-1} + i . tanh(W_xc * x_t + W_hc * h_{t-1} + b_c)
        h_t     = o . tanh(c_t)
    """

    def __init__(self, config: MaskedConvLstmConfig, input_size: int):
        super().__init__()
        self.hidden_size = config.hidden_size
        convolution = {"kernel_size": config.kernel_size, "padding": config.kernel_size // 2}
        self.input_conv = nn.Conv2d(input_size, 4 * config.hidden_size, **convolution)
        self.state_conv = nn.Conv2d(config.hidden_size, 4 * config.hidden_size, bias=False, **convolution)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, num_segments, input_size, rows, columns)`): Input.

        Returns:
            `torch.Tensor` of shape `(batch, num_segments, hidden_size, rows, columns)`: h of every step.
        """
        # The input's part of the gates does not depend on the state: computed for all steps at once.
        from_input = self.input_conv(hidden_states.flatten(0, 1)).unflatten(0, hidden_states.shape[:2])
        outputs, cell = [], None
        for gates in from_input.unbind(1):
            if outputs:
                gates = gates + self.state_conv(outputs[-1])
            admit, keep, emit, candidate = gates.chunk(4, dim=1)
            new = admit.sigmoid() * candidate.tanh()
            cell = new if cell is None else keep.sigmoid() * cell + new
            outputs.append(emit.sigmoid() * cell.tanh())
        return torch.stack(outputs, dim=1)


class MaskedConvLstmHead(nn.Module):
    """Three-dimensional convolution over segments, rows and columns, to `num_outputs` values per frame and bin."""

    def __init__(self, config: MaskedConvLstmConfig, num_outputs: int):
        super().__init__()
        self.stride = config.embedding_stride
        self.out_proj = nn.Conv3d(
            config.hidden_size, num_outputs * self.stride**2, config.kernel_size, padding=config.kernel_size // 2
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, num_segments, hidden_size, rows, columns)`): Of the layers.

        Returns:
            `torch.Tensor` of shape `(batch, num_outputs, num_frames, num_freq_bins)`.
        """
        pictures = self.out_proj(hidden_states.transpose(1, 2)).transpose(1, 2)
        return F.pixel_shuffle(pictures, self.stride).transpose(1, 2).flatten(2, 3)


class MaskedConvLstmPreTrainedModel(PreTrainedModel):
    """Weight initialization and the capabilities that all the classes share."""

    config: MaskedConvLstmConfig
    config_class = MaskedConvLstmConfig
    base_model_prefix = "masked_conv_lstm"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    # The losses are means over a batch; this tells Trainer so.
    accepts_loss_kwargs = False
    _no_split_modules = ["MaskedConvLstmEmbeddings", "MaskedConvLstmLayer"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MaskedConvLstmLayer}
    # One checkpoint may hold the network and every head; each class loads its part.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, MaskedConvLstmEmbeddings) and module.projection is not None:
            init.xavier_uniform_(module.projection.weight)
        elif isinstance(module, MaskedConvLstmLayer):
            init.xavier_uniform_(module.input_conv.weight)
            init.xavier_uniform_(module.state_conv.weight)
            # The forget gates start open; otherwise gradients would not reach the first segments.
            gates = torch.zeros_like(module.input_conv.bias)
            gates[module.hidden_size : 2 * module.hidden_size] = 1.0
            init.copy_(module.input_conv.bias, gates)
        elif isinstance(module, MaskedConvLstmHead):
            init.normal_(module.out_proj.weight, std=self.config.initializer_range)
            init.zeros_(module.out_proj.bias)


class MaskedConvLstmModel(MaskedConvLstmPreTrainedModel):
    """The ConvLSTM layers: spectrograms to hidden states after each segment, and an embedding, their mean."""

    def __init__(self, config: MaskedConvLstmConfig):
        super().__init__(config)
        self.embeddings = MaskedConvLstmEmbeddings(config)
        sizes = [self.embeddings.num_outputs] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(MaskedConvLstmLayer(config, size) for size in sizes)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_values: torch.Tensor, mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            mask (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`, *optional*): 1 = masked.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` of shape `(batch, num_segments, hidden_size, rows,
            columns)`, and `pooler_output` of shape `(batch, hidden_size)`, its mean.

        Raises:
            `ValueError`: If `input_values` does not have the configured shape, or `mask` that of `input_values`.
        """
        check_shape(input_values, self.config)
        mask = None if mask is None else check_mask(mask, input_values)
        # Not `self.dtype`, which looks for parameters: a copy on another GPU, as `DataParallel` makes, has none.
        hidden_states = self.embeddings(input_values.to(self.layers[0].input_conv.weight.dtype), mask)
        num_segments = hidden_states.shape[1]
        hidden_states = hidden_states.repeat(1, self.config.num_passes, 1, 1, 1)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = hidden_states[:, -num_segments:]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean(dim=(1, 3, 4))
        )


class _Reconstruction(MaskedConvLstmPreTrainedModel):
    """Base of masked modeling and forecasting: the network and a decoder that reconstructs masked values."""

    def __init__(self, config: MaskedConvLstmConfig):
        super().__init__(config)
        self.masked_conv_lstm = MaskedConvLstmModel(config)
        self.decoder = MaskedConvLstmHead(config, config.num_channels)
        self.post_init()

    def _reconstruct(
        self, input_values: torch.Tensor, mask: torch.Tensor, **kwargs
    ) -> MaskedConvLstmReconstructionOutput:
        outputs = self.masked_conv_lstm(input_values, mask, return_dict=True, **kwargs)
        reconstruction = self.decoder(outputs.last_hidden_state)
        error = (reconstruction.float() - input_values.float()).square() * mask[:, None]
        return MaskedConvLstmReconstructionOutput(
            loss=error.sum() / (mask.sum() * self.config.num_channels).clamp(min=1),
            reconstruction=reconstruction,
            mask=mask,
            embedding=outputs.pooler_output,
            hidden_states=outputs.hidden_states,
        )


class MaskedConvLstmForPreTraining(_Reconstruction):
    """Masked spectrogram modeling: estimates masked patches from the values around them in time and frequency."""

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        **kwargs,
    ) -> MaskedConvLstmReconstructionOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*): The mask, 1 = masked.
            noise (`torch.Tensor` of shape `(batch, num_patches)`, *optional*): Used to draw the mask otherwise.

        Returns:
            [`MaskedConvLstmReconstructionOutput`]
        """
        mask = draw_mask(self.config, input_values, bool_masked_pos, noise)
        hidden = patches_to_values(mask, self.config.patch_size, self.config.num_frames)
        return self._reconstruct(input_values, hidden, **kwargs)


class MaskedConvLstmForForecasting(_Reconstruction):
    """
    Spectrum forecasting: predicts the last `forecast_frames` frames from those before, all at once. The network's
    input is standardized by the mean and standard deviation of the known frames.
    """

    @can_return_tuple
    def forward(self, input_values: torch.Tensor, **kwargs) -> MaskedConvLstmReconstructionOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
                The last `config.forecast_frames` frames are masked; only the loss uses them.

        Returns:
            [`MaskedConvLstmReconstructionOutput`], with the reconstruction in the units of `input_values`, and the
            loss in units of the variance of the known frames.
        """
        check_shape(input_values, self.config)
        mask = self._future(input_values)
        values, mean, std = standardize(input_values, mask)
        outputs = self._reconstruct(values, mask, **kwargs)
        outputs.reconstruction = (outputs.reconstruction * std + mean).to(outputs.reconstruction.dtype)
        return outputs

    @torch.no_grad()
    def forecast(self, input_values: torch.Tensor) -> torch.Tensor:
        r"""
        Forecast the frames that follow.

        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames - forecast_frames,
                num_freq_bins)`): The known frames.

        Returns:
            `torch.Tensor` of shape `(batch, num_channels, forecast_frames, num_freq_bins)`.

        Raises:
            `ValueError`: If `input_values` does not have that many frames.
        """
        config = self.config
        known = config.num_frames - config.forecast_frames
        if input_values.ndim != 4 or input_values.shape[2] != known:
            raise ValueError(
                f"`input_values` has shape {tuple(input_values.shape)}, but (batch, num_channels, {known}, "
                f"num_freq_bins) is expected: `num_frames` less `forecast_frames`."
            )
        values = F.pad(input_values, (0, 0, 0, config.forecast_frames))
        return self(values, return_dict=True).reconstruction[:, :, known:]

    def _future(self, input_values: torch.Tensor) -> torch.Tensor:
        frames = torch.arange(self.config.num_frames, device=input_values.device)
        future = frames >= self.config.num_frames - self.config.forecast_frames
        return future[None, :, None].expand(len(input_values), -1, self.config.num_freq_bins)


class MaskedConvLstmForSemanticSegmentation(MaskedConvLstmPreTrainedModel):
    """Classification of each value of a spectrogram, such as by protocol, or as nothing."""

    def __init__(self, config: MaskedConvLstmConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.masked_conv_lstm = MaskedConvLstmModel(config)
        self.classifier = MaskedConvLstmHead(config, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SemanticSegmenterOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, num_channels, num_frames, num_freq_bins)`): Spectrograms.
            mask (`torch.BoolTensor` of shape `(batch, num_frames, num_freq_bins)`, *optional*): 1 = masked: outside
                the band of a narrower receiver, or after the end of a shorter recording.
            labels (`torch.LongTensor` of shape `(batch, num_frames, num_freq_bins)`, *optional*): Indices into
                `config.id2label`; negative = unknown.

        Returns:
            `SemanticSegmenterOutput`: `logits` of shape `(batch, num_labels, num_frames, num_freq_bins)`.
        """
        if mask is not None:
            check_shape(input_values, self.config)
            mask = check_mask(mask, input_values)
            input_values, _, _ = standardize(input_values, mask)
        outputs = self.masked_conv_lstm(input_values, mask, return_dict=True, **kwargs)
        logits = self.classifier(outputs.last_hidden_state)
        loss = label_loss(logits, labels) if labels is not None else None
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def _saved_beside():
    # Never called, see `modeling_lwm_spectro.py`.
    from .configuration_lwm_spectro import LwmSpectroConfig  # noqa: F401
    from .evidence_lwm_spectro import Evidence  # noqa: F401
    from .feature_extraction_lwm_spectro import SpectrogramFeatureExtractor  # noqa: F401
    from .pipeline_lwm_spectro import IQClassificationPipeline  # noqa: F401
    from .pipeline_masked_conv_lstm import IQSegmentationPipeline  # noqa: F401


__all__ = [
    "MaskedConvLstmForForecasting",
    "MaskedConvLstmForPreTraining",
    "MaskedConvLstmForSemanticSegmentation",
    "MaskedConvLstmModel",
    "MaskedConvLstmPreTrainedModel",
    "MaskedConvLstmReconstructionOutput",
]

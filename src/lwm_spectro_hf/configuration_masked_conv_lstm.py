"""Configuration of the masked ConvLSTM of arXiv 2411.09849."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class MaskedConvLstmConfig(PreTrainedConfig):
    r"""
    Configuration of a masked ConvLSTM ("Self-Supervised Radio Pre-training", arXiv 2411.09849). The defaults are the
    paper's: five ConvLSTM layers of 64 kernels of 3 x 3, a three-dimensional convolution, a fifth of each spectrogram
    masked. The segment length and the patch size are our choice.

    Args:
        num_frames (`int`, *optional*, defaults to 128): STFT frames of a spectrogram (the rows).
        num_freq_bins (`int`, *optional*, defaults to 128): Frequency bins of a spectrogram (the columns).
        num_channels (`int`, *optional*, defaults to 1): Channels of a spectrogram.
        segment_frames (`int`, *optional*, defaults to 16): Frames that the network takes in one time step; divides
            `num_frames`.
        embedding_stride (`int`, *optional*, defaults to 1): Frames and bins per cell of the recurrent grid; divides
            `segment_frames` and `num_freq_bins`. 1 is the paper's; with 4 a step costs a sixteenth.
        hidden_size (`int`, *optional*, defaults to 64): Kernels of each layer, and width of the embedding.
        num_hidden_layers (`int`, *optional*, defaults to 5): ConvLSTM layers.
        kernel_size (`int`, *optional*, defaults to 3): Side of the kernels; odd.
        num_passes (`int`, *optional*, defaults to 1): Passes of the layers over the segments, with the state kept from
            pass to pass. 1 is the paper's; with 2 the outputs for the first segments depend on later ones, too.
        patch_size (`int`, *optional*, defaults to 4): Side of the squares that are masked; divides `num_frames` and
            `num_freq_bins`.
        mask_ratio (`float`, *optional*, defaults to 0.2): Share of patches masked in pretraining, in [0, 1).
        forecast_frames (`int`, *optional*, defaults to 32): Frames at the end of a spectrogram that forecasting
            predicts from those before; whole segments, and fewer than all.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the last layer's weights.
        task_name (`str`, *optional*, defaults to `"protocol"`): What segmentation predicts for each value; its labels
            are `id2label`.

    Raises:
        `ValueError`: If segments, cells or patches do not tile the grid, or a value is out of its range.
    """

    model_type = "masked_conv_lstm"
    keys_to_ignore_at_inference = ["mask", "hidden_states"]

    num_frames: int = 128
    num_freq_bins: int = 128
    num_channels: int = 1
    segment_frames: int = 16
    embedding_stride: int = 1
    hidden_size: int = 64
    num_hidden_layers: int = 5
    kernel_size: int = 3
    num_passes: int = 1
    patch_size: int = 4
    mask_ratio: float | int = 0.2
    forecast_frames: int = 32
    initializer_range: float | int = 0.02
    task_name: str = "protocol"

    def validate_architecture(self):
        """Part of the `@strict` validation: ranges of single fields, and checks across fields."""
        sizes = ("num_frames", "num_freq_bins", "num_channels", "segment_frames", "embedding_stride", "hidden_size")
        for name in (*sizes, "num_hidden_layers", "num_passes", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, but must be at least 1.")
        for part, whole in (
            ("segment_frames", "num_frames"),
            ("embedding_stride", "segment_frames"),
            ("embedding_stride", "num_freq_bins"),
            ("patch_size", "num_frames"),
            ("patch_size", "num_freq_bins"),
            ("segment_frames", "forecast_frames"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"`{part}` = {getattr(self, part)} does not divide `{whole}` = {getattr(self, whole)}. Choose one "
                    "that does."
                )
        if not 0 < self.forecast_frames < self.num_frames:
            raise ValueError(
                f"`forecast_frames` is {self.forecast_frames}, but must be at least 1 and less than `num_frames` = "
                f"{self.num_frames}: something must be left to forecast from."
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` is {self.kernel_size}, but must be odd.")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` is {self.mask_ratio}, but must be at least 0 and less than 1.")

    @property
    def num_patches(self) -> int:
        """`int`: Patches of a spectrogram that can be masked."""
        return (self.num_frames // self.patch_size) * (self.num_freq_bins // self.patch_size)

    @property
    def num_masked_patches(self) -> int:
        """`int`: Patches masked in one spectrogram; at least one stays visible."""
        return min(round(self.mask_ratio * self.num_patches), self.num_patches - 1)

    @property
    def mask_strategy(self) -> str:
        """`str`: Always `"token"`: masked patches keep their place, because a grid has no holes."""
        return "token"


__all__ = ["MaskedConvLstmConfig"]

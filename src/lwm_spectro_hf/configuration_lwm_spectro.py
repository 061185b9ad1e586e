"""Configurations of LWM-Spectro: one encoder, and the mixture of protocol experts (arXiv 2601.08780, Table I)."""

import copy
from typing import Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig


def _check_probability(name: str, found: float):
    if not 0 <= found <= 1:
        raise ValueError(f"`{name}` is {found}, but must be from 0 to 1.")


def _check_at_least(config: PreTrainedConfig, least: int, *names: str):
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"`{name}` is {getattr(config, name)}, but must be at least {least}.")


@strict
class LwmSpectroConfig(PreTrainedConfig):
    r"""
    Configuration of one LWM-Spectro encoder. The defaults are Table I of the paper (sec. III); the published
    checkpoint needs `norm_type="unbiased_std"`, `hidden_act="relu"`, `use_embedding_norm=True`,
    `cls_token_value=0.2`, `max_position_embeddings=1025`, `mask_token_value=0.1` and `mask_ratio=0.6`.

    Args:
        num_frames (`int`, *optional*, defaults to 128): STFT frames of a spectrogram, T of eq. 8 (the rows).
        num_freq_bins (`int`, *optional*, defaults to 128): Frequency bins of a spectrogram, K (the columns).
        num_channels (`int`, *optional*, defaults to 1): Channels of a spectrogram, C of eq. 10.
        patch_size (`int`, *optional*, defaults to 4): Side of a square patch, P; divides both sides of the grid.
        hidden_size (`int`, *optional*, defaults to 128): Width d of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12): Transformer layers L.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads H; divides `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 512): Width of the feed-forward network.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of the feed-forward network and the decoder.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout before each residual sum.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the initial weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): Epsilon of the normalizations.
        stem_num_channels (`int`, *optional*): Width of a convolutional stem within each patch; `None` means the linear
            map of eq. 11 instead. With a stem, small models learn modulation.
        stem_num_layers (`int`, *optional*, defaults to 1): Residual blocks of the stem.
        stem_cell_size (`int`, *optional*, defaults to 4): Side of the squares that the stem cuts a patch into; divides
            `patch_size`.
        level_num_bins (`int`, *optional*, defaults to 0): Bins per axis of histograms of levels, which dense layers
            map to a term of the embedding; they show constellations, and how fast channels change. 0 is the paper's
            encoder, which has none.
        norm_type (`str`, *optional*, defaults to `"layer_norm"`): `"layer_norm"`, or `"unbiased_std"`, which divides
            by the unbiased standard deviation plus epsilon as the published checkpoint does.
        use_embedding_norm (`bool`, *optional*, defaults to `False`): Normalize after projection plus position.
        cls_token_value (`float`, *optional*): Prepend a constant vector of this value, in input space, as token 0.
        max_position_embeddings (`int`, *optional*): Rows of the position table; `None` means one for each token.
        mask_ratio (`float`, *optional*, defaults to 0.7): Share of patches masked in pretraining, in [0, 1).
        mask_strategy (`str`, *optional*, defaults to `"token"`): `"token"` keeps masked positions in the encoder
            (eq. 15); `"drop"` removes them, so that only the decoder sees them.
        mask_token_value (`float`, *optional*): Constant that replaces masked patches in input space; `None` means the
            learnable embedding of eq. 15, after the projection.
        reconstruction_target (`str`, *optional*, defaults to `"patches"`): What the decoder regresses: the patch's
            pixels, or its embedding (eq. 17 to the letter, with the gradient of the target stopped).
        decoder_num_hidden_layers (`int`, *optional*): Transformer layers of the decoder. `None` means 0 with
            `"token"` (dense, activation, norm, linear only) and 1 with `"drop"`, which needs at least one.
        decoder_num_copy_heads (`int`, *optional*, defaults to 0): Attention heads with which the decoder copies
            visible patches, on top of their frame and bin means; 0 is the paper's decoder, which has neither.
        decoder_num_inpainting_channels (`int`, *optional*, defaults to 0): Channels of convolutions over cells of
            4 x 4 values, which continue the deviations of visible patches from those means into masked patches; 0 for
            none.
        projection_size (`int`, *optional*, defaults to 128): Width d_p of the contrastive projection (eq. 18).
        temperature (`float`, *optional*, defaults to 0.2): Contrastive temperature (eq. 19).
        reconstruction_loss_weight (`float`, *optional*, defaults to 1.0): Weight of eq. 17 in eq. 22.
        contrastive_loss_weight (`float`, *optional*, defaults to 0.3): Weight of eq. 19 in eq. 22.
        classifier_type (`str`, *optional*, defaults to `"residual_cnn"`): Head of eq. 20, or `"linear"`.
        classifier_num_layers (`int`, *optional*, defaults to 2): Residual blocks of the head.
        classifier_hidden_size (`int`, *optional*, defaults to 64): Channels of the head's convolutions.
        classifier_kernel_size (`int`, *optional*, defaults to 5): Kernel of the head's convolutions; odd.
        classifier_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout before the head's last layer.
        task_name (`str`, *optional*, defaults to `"modulation"`): What `classifier` predicts; its labels are
            `id2label`. Two quantities joined by "+" ("snr_db+mobility") have labels joined likewise ("-5+static").

    Raises:
        `ValueError`: If the patches do not tile the grid, the heads do not divide the width, or a value is out of
            its range.
    """

    model_type = "lwm_spectro"
    keys_to_ignore_at_inference = [
        "reconstruction_loss",
        "contrastive_loss",
        "mask",
        "projection",
        "hidden_states",
        "attentions",
        "pooler_output",
    ]

    num_frames: int = 128
    num_freq_bins: int = 128
    num_channels: int = 1
    patch_size: int = 4
    hidden_size: int = 128
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    stem_num_channels: int | None = None
    stem_num_layers: int = 1
    stem_cell_size: int = 4
    level_num_bins: int = 0
    norm_type: Literal["layer_norm", "unbiased_std"] = "layer_norm"
    use_embedding_norm: bool = False
    cls_token_value: float | int | None = None
    max_position_embeddings: int | None = None
    mask_ratio: float | int = 0.7
    mask_strategy: Literal["token", "drop"] = "token"
    mask_token_value: float | int | None = None
    reconstruction_target: Literal["patches", "embeddings"] = "patches"
    decoder_num_hidden_layers: int | None = None
    decoder_num_copy_heads: int = 0
    decoder_num_inpainting_channels: int = 0
    projection_size: int = 128
    temperature: float | int = 0.2
    reconstruction_loss_weight: float | int = 1.0
    contrastive_loss_weight: float | int = 0.3
    classifier_type: Literal["residual_cnn", "linear"] = "residual_cnn"
    classifier_num_layers: int = 2
    classifier_hidden_size: int = 64
    classifier_kernel_size: int = 5
    classifier_dropout_prob: float | int = 0.0
    task_name: str = "modulation"

    def __post_init__(self, **kwargs):
        if self.decoder_num_hidden_layers is None:
            self.decoder_num_hidden_layers = 1 if self.mask_strategy == "drop" else 0
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: ranges of single fields, and checks across fields."""
        sizes = ("num_frames", "num_freq_bins", "num_channels", "patch_size", "hidden_size", "num_attention_heads")
        sizes += ("intermediate_size", "projection_size", "classifier_hidden_size", "classifier_kernel_size")
        layers = ("num_hidden_layers", "decoder_num_hidden_layers", "classifier_num_layers", "level_num_bins")
        _check_at_least(self, 1, *sizes)
        _check_at_least(self, 0, *layers, "initializer_range")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"):
            _check_probability(name, getattr(self, name))
        from transformers.activations import ACT2FN  # imports PyTorch

        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is {self.hidden_act!r}, but must be one of {', '.join(sorted(ACT2FN))}.")
        if self.num_frames % self.patch_size or self.num_freq_bins % self.patch_size:
            raise ValueError(
                f"The grid of {self.num_frames} frames x {self.num_freq_bins} frequency bins is not divisible by "
                f"`patch_size` = {self.patch_size}. Change `num_frames` and `num_freq_bins` to multiples of it, or "
                "choose a `patch_size` that divides both."
            )
        if self.stem_num_channels is not None and (
            min(self.stem_num_channels, self.stem_cell_size, self.stem_num_layers + 1) < 1
            or self.patch_size % self.stem_cell_size
        ):
            raise ValueError(
                f"`stem_num_channels` = {self.stem_num_channels} and `stem_cell_size` = {self.stem_cell_size} must be "
                f"at least 1, `stem_num_layers` = {self.stem_num_layers} at least 0, and the cell size must divide "
                f"`patch_size` = {self.patch_size}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` = {self.hidden_size} is not divisible by `num_attention_heads` = "
                f"{self.num_attention_heads}."
            )
        if self.max_position_embeddings is not None and self.max_position_embeddings < self.sequence_length:
            raise ValueError(
                f"`max_position_embeddings` = {self.max_position_embeddings} is less than the {self.sequence_length} "
                "tokens of a spectrogram; leave it `None` to have one position for each token."
            )
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` is {self.mask_ratio}, but must be at least 0 and less than 1.")
        if self.mask_strategy == "drop" and self.decoder_num_hidden_layers < 1:
            raise ValueError(
                '`mask_strategy="drop"` hides the masked positions from the encoder, so the decoder needs '
                f"`decoder_num_hidden_layers` of at least 1 to see their surroundings; found "
                f"{self.decoder_num_hidden_layers}."
            )
        copies = self.decoder_num_copy_heads
        if copies < 0 or (copies and self.reconstruction_target != "patches"):
            raise ValueError(
                f"`decoder_num_copy_heads` is {copies} with `reconstruction_target` = "
                f'"{self.reconstruction_target}"; expected 0, or more with "patches", since patches are copied.'
            )
        channels = self.decoder_num_inpainting_channels
        if channels < 0 or (channels and not copies):
            raise ValueError(
                f"`decoder_num_inpainting_channels` is {channels} with `decoder_num_copy_heads` = {copies}; expected "
                "0, or more together with copy heads, to whose output inpainting adds."
            )
        if not self.temperature > 0:
            raise ValueError(f"`temperature` is {self.temperature}, but must be greater than 0.")
        if self.classifier_kernel_size % 2 == 0:
            raise ValueError(f"`classifier_kernel_size` is {self.classifier_kernel_size}, but must be odd.")

    @property
    def encoder_config(self) -> "LwmSpectroConfig":
        """`LwmSpectroConfig`: This configuration itself; for a mixture, that of its experts."""
        return self

    @property
    def heads(self) -> dict[str, list[str]]:
        """`dict[str, list[str]]`: What a classifier predicts, and its labels in the order of its logits."""
        return {self.task_name: [self.id2label[index] for index in range(self.num_labels)]}

    @property
    def num_patches(self) -> int:
        """`int`: Patches of a spectrogram, N = (T / P) (K / P)."""
        return (self.num_frames // self.patch_size) * (self.num_freq_bins // self.patch_size)

    @property
    def patch_dim(self) -> int:
        """`int`: Values of one patch, C P^2."""
        return self.num_channels * self.patch_size**2

    @property
    def sequence_length(self) -> int:
        """`int`: Tokens the encoder sees when nothing is masked: the patches, and the CLS token if there is one."""
        return self.num_patches + (self.cls_token_value is not None)

    @property
    def num_masked_patches(self) -> int:
        """`int`: Patches masked in one spectrogram, |M| of eq. 17; at least one stays visible."""
        return min(round(self.mask_ratio * self.num_patches), self.num_patches - 1)


@strict
class LwmSpectroMoEConfig(PreTrainedConfig):
    r"""
    Configuration of the mixture of protocol experts (sec. IV of the paper).

    Args:
        expert_config (`LwmSpectroConfig` or `dict`, *optional*): Configuration of each expert's encoder.
        expert_names (`list[str]`, *optional*, defaults to `["WiFi", "LTE", "5G"]`): The protocol of each expert; the
            number of names is the number of experts.
        num_experts_per_sample (`int`, *optional*, defaults to 1): Experts mixed for one spectrogram: 1 is the top-1
            approximation, the number of experts is the general weighted form; in between, the weights are
            renormalized over the chosen ones.
        router_type (`str`, *optional*, defaults to `"transformer"`): `"transformer"` as in the paper, `"cnn"` as in
            the published checkpoint, or `"fourier"`: the same, plus convolutions over the two-dimensional Fourier
            transforms of the spectrogram and of its powers, which distinguishes standards with the fewest samples and
            at the lowest SNR.
        router_hidden_size (`int`, *optional*, defaults to 64): Width of the router's transformer, or of the features
            from the Fourier transforms.
        router_num_hidden_layers (`int`, *optional*, defaults to 2): Layers of the router's transformer.
        router_num_attention_heads (`int`, *optional*, defaults to 4): Heads of the router's transformer.
        router_intermediate_size (`int`, *optional*, defaults to 256): Feed-forward width of the router's transformer.
        router_patch_size (`int`, *optional*): Patch side of the router; `None` means that of the experts.
        router_dropout_prob (`float`, *optional*, defaults to 0.5): Share of training rows of which a "fourier" router
            sees only the Fourier transforms.
        router_occupied_band (`bool`, *optional*, defaults to `False`): Whether a "fourier" router also sees the
            transforms of the occupied band alone.
        router_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the router's cross-entropy, which is
            added to a loss when protocol labels are given. Its gradient reaches only the router's parameters.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the initial weights.
        task_name (`str`, *optional*, defaults to `"modulation"`): What `classifier` predicts; its labels are
            `id2label`.
        additional_tasks (`dict[str, list[str]]`, *optional*): Further heads over the same embedding: the name of
            each and its labels.
        blind_tasks (`list[str]`, *optional*): Heads that were trained only on recordings as captured, never on frames
            that are symbols. The pipeline makes such frames where it finds symbols, and ignores what these heads
            predict for them.

    Raises:
        `ValueError`: If there is no expert, names repeat, or `num_experts_per_sample` exceeds the number of experts.
    """

    model_type = "lwm_spectro_moe"
    sub_configs = {"expert_config": LwmSpectroConfig}
    keys_to_ignore_at_inference = [
        "reconstruction_loss",
        "contrastive_loss",
        "router_loss",
        "router_logits",
        "additional_logits",
        "mask",
        "projection",
        "pooler_output",
        "expert_index",
    ]

    expert_config: LwmSpectroConfig | dict | None = None
    expert_names: list[str] | None = None
    num_experts_per_sample: int = 1
    router_type: Literal["transformer", "cnn", "fourier"] = "transformer"
    router_hidden_size: int = 64
    router_num_hidden_layers: int = 2
    router_num_attention_heads: int = 4
    router_intermediate_size: int = 256
    router_patch_size: int | None = None
    router_dropout_prob: float | int = 0.5
    router_occupied_band: bool = False
    router_loss_weight: float | int = 1.0
    initializer_range: float | int = 0.02
    task_name: str = "modulation"
    additional_tasks: dict[str, list[str]] | None = None
    blind_tasks: list[str] | None = None

    def __post_init__(self, **kwargs):
        misplaced = sorted(LwmSpectroConfig.__annotations__.keys() - type(self).__annotations__.keys() & kwargs.keys())
        if misplaced:
            raise ValueError(
                f"`{misplaced[0]}` is a field of the experts, not of the mixture: set it in `expert_config`."
            )
        if self.expert_config is None:
            self.expert_config = LwmSpectroConfig()
        elif isinstance(self.expert_config, dict):
            self.expert_config = LwmSpectroConfig(**self.expert_config)
        else:
            self.expert_config = copy.deepcopy(self.expert_config)  # it belongs to the caller, and heads write into it
        self.expert_config.name_or_path = ""  # else the local folder that one expert was loaded from
        if self.expert_names is None:
            self.expert_names = ["WiFi", "LTE", "5G"]
        if self.additional_tasks is None:
            self.additional_tasks = {}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: ranges of single fields, and checks across fields."""
        if not self.expert_names or len(set(self.expert_names)) != self.num_experts:
            raise ValueError(f"`expert_names` must have at least one name, and none twice; found {self.expert_names}.")
        if not 1 <= self.num_experts_per_sample <= self.num_experts:
            raise ValueError(
                f"`num_experts_per_sample` is {self.num_experts_per_sample}, but must be from 1 to the number of "
                f"experts, {self.num_experts} ({', '.join(self.expert_names)})."
            )
        parts = [part for name in (self.task_name, *self.additional_tasks) for part in name.split("+")]
        twice = sorted({part for part in parts if parts.count(part) > 1})
        if twice and self.task_name not in self.additional_tasks:
            raise ValueError(
                f"{twice[0]!r} is predicted by two heads: `task_name` is {self.task_name!r}, and `additional_tasks` "
                f"has {list(self.additional_tasks)}. Leave one out; for your own head, set `additional_tasks={{}}`."
            )
        from torch import nn

        for name, labels in self.additional_tasks.items():
            # A head's name becomes a module's name, which must not have a dot or be an attribute of modules already.
            taken = name == self.task_name or hasattr(nn.ModuleDict(), name)
            if not name or "." in name or taken or not labels:
                raise ValueError(
                    "Each of `additional_tasks` needs a name without a dot, different from `task_name` = "
                    f"{self.task_name!r} and from attributes of modules ('type', 'values' ...), and at least one "
                    f"label; found {name!r}: {labels!r}."
                )
        _check_probability("router_dropout_prob", self.router_dropout_prob)
        _check_at_least(self, 0, "initializer_range")
        _check_at_least(self, 1, "router_hidden_size")
        if self.router_type == "transformer":
            try:
                self.router_config  # noqa: B018 (making it checks it)
            except StrictDataclassError as error:
                found = error.__cause__
                raise ValueError(f"The `router_...` fields, for the router's transformer: {found}") from error
        if self.router_occupied_band and self.router_type != "fourier":
            raise ValueError(
                f'`router_occupied_band` needs a router of type "fourier", but `router_type` is {self.router_type!r}.'
            )

    @property
    def encoder_config(self) -> LwmSpectroConfig:
        """`LwmSpectroConfig`: `expert_config`, under a name that configurations of single encoders have, too."""
        return self.expert_config

    @property
    def heads(self) -> dict[str, list[str]]:
        """`dict[str, list[str]]`: The router's protocols, then what the classifiers predict, each with its labels in
        the order of its logits. A classifier that was trained on the protocol takes the router's place."""
        own = {self.task_name: [self.id2label[index] for index in range(self.num_labels)]}
        return {"protocol": list(self.expert_names), **own, **self.additional_tasks}

    @property
    def num_experts(self) -> int:
        """`int`: Number of experts."""
        return len(self.expert_names)

    @property
    def router_config(self) -> LwmSpectroConfig:
        """`LwmSpectroConfig`: The router's transformer, over the same grid as the experts."""
        expert = self.expert_config
        return LwmSpectroConfig(
            num_frames=expert.num_frames,
            num_freq_bins=expert.num_freq_bins,
            num_channels=expert.num_channels,
            patch_size=expert.patch_size if self.router_patch_size is None else self.router_patch_size,
            hidden_size=self.router_hidden_size,
            num_hidden_layers=self.router_num_hidden_layers,
            num_attention_heads=self.router_num_attention_heads,
            intermediate_size=self.router_intermediate_size,
            hidden_act=expert.hidden_act,
            hidden_dropout_prob=expert.hidden_dropout_prob,
            attention_probs_dropout_prob=expert.attention_probs_dropout_prob,
            initializer_range=self.initializer_range,
            layer_norm_eps=expert.layer_norm_eps,
            attn_implementation=self._attn_implementation,
        )


__all__ = ["LwmSpectroConfig", "LwmSpectroMoEConfig"]

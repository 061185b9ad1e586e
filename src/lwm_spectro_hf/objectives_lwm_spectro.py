"""Training objectives: masks and losses of arXiv 2601.08780, sections III-D to III-G."""

import torch
import torch.nn.functional as F

from .configuration_lwm_spectro import LwmSpectroConfig


def draw_mask(
    config: LwmSpectroConfig,
    input_values: torch.Tensor,
    bool_masked_pos: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Draw the mask set M of eq. 15: the `config.num_masked_patches` patches with the least noise.

    Args:
        config (`LwmSpectroConfig` or `MaskedConvLstmConfig`): Gives the number of patches and of masked ones.
        input_values (`torch.Tensor` of shape `(batch, ...)`): Spectrograms; gives the batch and the device.
        bool_masked_pos (`torch.Tensor` of shape `(batch, num_patches)`, *optional*): The mask itself, 1 = masked.
        noise (`torch.Tensor` of shape `(batch, num_patches)`, *optional*): Noise to draw with, so that a caller can
            fix the mask; uniform by default.

    Returns:
        `torch.BoolTensor` of shape `(batch, num_patches)`: 1 = masked.

    Raises:
        `ValueError`: If a shape is wrong or, with `mask_strategy="drop"`, a row masks another number of patches.
    """
    expected = (input_values.shape[0], config.num_patches)
    for name, given in (("bool_masked_pos", bool_masked_pos), ("noise", noise)):
        if given is not None and tuple(given.shape) != expected:
            raise ValueError(
                f"`{name}` has shape {tuple(given.shape)}, but (batch, num_patches) = {expected} is expected."
            )
    if bool_masked_pos is not None:
        mask = bool_masked_pos.bool()
        if config.mask_strategy == "drop" and (mask.sum(dim=1) != config.num_masked_patches).any():
            raise ValueError(
                '`mask_strategy="drop"` needs `bool_masked_pos` with `config.num_masked_patches` = '
                f"{config.num_masked_patches} masked patches in each row; found {mask.sum(dim=1).tolist()}."
            )
        return mask
    if noise is None:
        noise = torch.rand(expected, device=input_values.device)
    return noise.argsort(dim=1).argsort(dim=1) < config.num_masked_patches


def reconstruction_loss(reconstruction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Mean over the masked patches of the squared Euclidean distance to the target, eq. 17, in float32.

    Args:
        reconstruction (`torch.Tensor` of shape `(batch, num_patches, dim)`): The decoder's output, eq. 16.
        target (`torch.Tensor` of shape `(batch, num_patches, dim)`): Patches, or their embeddings.
        mask (`torch.BoolTensor` of shape `(batch, num_patches)`): 1 = masked.

    Returns:
        `torch.Tensor` of shape `()`: The loss; 0 if nothing is masked.
    """
    distance = (reconstruction.float() - target.float()).square().sum(dim=-1)
    return (distance * mask).sum() / mask.sum().clamp(min=1)


def supervised_contrastive_loss(
    projections: torch.Tensor, labels: torch.Tensor, temperature: float = 0.2, reduction: str = "mean"
) -> torch.Tensor:
    """
    Supervised contrastive loss, eq. 19, in float32.

    For an anchor i, A(i) is every other row of the batch, and P(i) the rows of A(i) with the same label. An anchor
    without a positive, or with a negative label, which means unknown, contributes no term.

    Args:
        projections (`torch.Tensor` of shape `(batch, projection_size)`): Unit vectors z_i, eq. 18.
        labels (`torch.LongTensor` of shape `(batch,)`): Class of each row; negative = unknown.
        temperature (`float`, *optional*, defaults to 0.2): The temperature tau.
        reduction (`str`, *optional*, defaults to `"mean"`): `"sum"` over the anchors as eq. 19 has it, or `"mean"`,
            which keeps the weight of eq. 22 independent of the batch size.

    Returns:
        `torch.Tensor` of shape `()`: The loss; 0 if no anchor has a positive.
    """
    similarity = projections.float() @ projections.float().T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = (labels[:, None] == labels[None, :]) & (labels[:, None] >= 0) & ~itself
    log_probability = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    num_positives = positives.sum(dim=1)
    # `where`, not a product: a batch of one has no A(i), and 0 times its infinity would be NaN.
    terms = -torch.where(positives, log_probability, 0.0).sum(dim=1) / num_positives.clamp(min=1)
    if reduction == "sum":
        return terms.sum()
    return terms.sum() / (num_positives > 0).sum().clamp(min=1)


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy in float32, averaged over the rows whose class is known.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels, ...)`): Before the softmax.
        labels (`torch.Tensor` of shape `(batch, ...)`, of integers): Class of each row; negative = unknown.

    Returns:
        `torch.Tensor` of shape `()`: The loss; 0 if no class is known.
    """
    known = labels >= 0
    labels = labels.long().masked_fill(~known, -100)
    return F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum") / known.sum().clamp(min=1)


def joint_loss(
    config: LwmSpectroConfig, reconstruction: torch.Tensor, contrastive: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The joint objective of masked modeling and contrastive learning, eq. 22.

    Args:
        config (`LwmSpectroConfig`): Gives both weights.
        reconstruction (`torch.Tensor` of shape `()`): Eq. 17.
        contrastive (`torch.Tensor` of shape `()`, *optional*): Eq. 19; without it this is eq. 21.

    Returns:
        `torch.Tensor` of shape `()`: The loss.
    """
    loss = config.reconstruction_loss_weight * reconstruction
    return loss if contrastive is None else loss + config.contrastive_loss_weight * contrastive

"""The losses of finetuning: against the text, and against the model that it was."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

CHUNK_POSITIONS = 4_096
"""Positions, about, whose distributions are in float32 at once; the backward pass computes them again."""


def divergence(
    student: Float[Tensor, "batch pos d_vocab"],
    teacher: Float[Tensor, "batch pos d_vocab"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T² · mean over positions of KL(softmax(teacher / T) ‖ softmax(student / T)), in nats.

    The factor T² keeps its gradient's size over temperatures (Hinton et al., arXiv 1503.02531, section 2).
    """
    rows = max(1, CHUNK_POSITIONS // student.shape[1])
    pairs = zip(student.split(rows), teacher.split(rows), strict=True)
    sums = [
        checkpoint(_divergences, *pair, temperature, use_reentrant=False, preserve_rng_state=False)
        for pair in pairs
    ]
    return temperature**2 * torch.stack(sums).sum() / student[..., 0].numel()


def _divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The sum over positions of KL(softmax(teacher / T) ‖ softmax(student / T))."""
    log_q, log_p = (log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return kl_div(log_q, log_p, reduction="sum", log_target=True)


def stream_error(
    student: tuple[Float[Tensor, "batch pos d_model"], ...],
    teacher: tuple[Float[Tensor, "batch pos d_model"], ...],
) -> Float[Tensor, ""]:
    """Mean over layers of Σ‖h - h'‖² / Σ‖h'‖², the sums over the positions of the batch."""
    errors = [
        (own.float() - other.float()).square().sum() / other.float().square().sum()
        for own, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(errors).mean()

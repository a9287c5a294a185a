"""A model with one MLP replaced by another map, and the cost in loss on a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.spectra.hosvd import truncate_eigenvectors
from analysis.text.windows import Windows, mean_loss, require_windows
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.families import mlp_norm, plain
from bilinear_lm.mlps import mlp_module
from bilinear_lm.norms import normalised
from bilinear_lm.polynomials.polynomial import Polynomial
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor, mlp_weights


@checked
@contextmanager
def replaced_mlp(
    model_or_bridge: nn.Module,
    layer: int,
    replacement: BilinearTensor | Polynomial | Callable[[Tensor], Tensor],
    fold_norm: bool = True,
) -> Iterator[None]:
    """Within the block, MLP `layer` gives `replacement(x)` [..., d_model] instead of its own output.

    x is what the tensor of `mlp_tensor(model_or_bridge, layer, fold_norm)` reads: x / rms(x) of the residual
    stream (x itself where norms are the identity), or the output of the norm with fold_norm=False. So that
    tensor as the replacement leaves the logits unchanged to rounding. Any map of [..., d_model] will do,
    and the MLP that is replaced may have any activation, or with fold_norm=False no gate; no weight is
    changed. A tensor or a polynomial computes on its own device and in its own precision.

    >>> with replaced_mlp(model, 3, truncate(tensor, hosvd(tensor), 8)):  # doctest: +SKIP
    ...     logits = model(input_ids=ids).logits
    """
    mlp = mlp_module(model_or_bridge, layer)
    norm = mlp_norm(model_or_bridge, layer) if fold_norm else None
    if isinstance(replacement, BilinearTensor | Polynomial):
        _require_fit(replacement, mlp_weights(model_or_bridge, layer, fold_norm=False)[0].d_out)
    points: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Any, ...]) -> None:
        points[:] = [normalised(plain(norm), args[0])]

    def swap(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x = args[0] if norm is None else points.pop()
        if isinstance(replacement, BilinearTensor | Polynomial):
            x = x.to(replacement.device, replacement.dtype)
        return replacement(x).to(output)

    # A bridge computes the norm itself but calls the MLP's own module, between its hooks.
    handles = [mlp.register_forward_hook(swap)]
    if norm is not None:
        handles.append(norm.register_forward_pre_hook(remember))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_fit(replacement: BilinearTensor | Polynomial, d_model: int) -> None:
    if isinstance(replacement, Polynomial):
        if replacement.linear.shape != (d_model, d_model):
            raise InputError(
                f"a polynomial {list(replacement.linear.shape)} cannot replace an MLP; expected one from "
                f"width {d_model} to {d_model}"
            )
        return
    tensor, widths = replacement, (replacement.d_in - replacement.constant, replacement.d_out)
    if tensor.batch_shape or widths != (d_model, d_model):
        raise InputError(
            f"a tensor of batch {list(tensor.batch_shape)} from width {widths[0]} to {widths[1]} cannot "
            f"replace an MLP; expected one layer of width {d_model}"
        )


@shown
@dataclass(frozen=True)
class TruncationCosts:
    """The loss of a text with one MLP truncated, in nats per token."""

    ranks: tuple[int, ...]
    losses: Float[Tensor, " n_ranks"]
    """With the layer truncated to each rank."""
    whole: float
    """With the model as it is."""
    without: float
    """With the layer's output put to zero."""


@checked
def truncation_costs(
    model: nn.Module,
    layer: int,
    ranks: Sequence[int],
    windows: Windows,
    truncate: Callable[[BilinearTensor, int], BilinearTensor] = truncate_eigenvectors,
) -> TruncationCosts:
    """The mean loss over windows of a text with an MLP truncated to each of `ranks`.

    `truncate(tensor, rank)` says how; by default to the top eigenvectors of each output singular direction.
    """
    if not ranks:
        raise InputError("no ranks to truncate to; expected one or more")
    require_windows(model, windows, least=2)
    tensor = mlp_tensor(model, layer)
    most = tensor.d_in if truncate is truncate_eigenvectors else None
    expected = "0 or more" if most is None else f"1 to d_in={most}"
    for rank in ranks:
        require_count(rank, f"truncation to rank {rank}", expected, least=0 if most is None else 1, most=most)
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def loss(replacement: BilinearTensor | Callable[[Tensor], Tensor]) -> float:
        with replaced_mlp(model, layer, replacement):
            return mean_loss(model, windows)

    return TruncationCosts(
        ranks=tuple(ranks),
        losses=torch.tensor([loss(truncate(tensor, rank)) for rank in ranks]),
        whole=mean_loss(model, windows),
        without=loss(torch.zeros_like),
    )

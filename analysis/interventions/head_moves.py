"""Moves of attention heads to one position of a prompt, taken away in the model one by one.

A move is what one head takes from one position to another: its attention there times the value. It is taken
away from the input of the attention's output projection, with the head's pattern as it was; everything behind
it responds. First-order effects of all moves, from one backward pass, say which are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.paths.measured import Measured, measure
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_index, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.families import decoder_block, plain
from bilinear_lm.shown import shown

AT_ONCE = 32
"""Runs of the model in one batch."""

Read = Callable[[Float[Tensor, "*axes d_vocab"]], Float[Tensor, "*axes"]]
"""A number that is read from logits."""


@shown
@dataclass(frozen=True)
class HeadMoves:
    """Moves of heads to one position, as columns; the largest measured effect first."""

    position: int
    """The position that all of them write at."""
    value: float
    """The number that was read, with nothing taken away."""
    layers: Int[Tensor, " n"]
    heads: Int[Tensor, " n"]
    keys: Int[Tensor, " n"]
    """The positions that they read."""
    attention: Float[Tensor, " n"]
    """How much of its attention the head gives to the position that it reads."""
    effects: Float[Tensor, " n"]
    """How much the number falls when the move is taken away, measured in the model."""
    first_order: Float[Tensor, " n"]
    """The same by the derivative."""
    random: Float[Tensor, " m"]
    """`effects` of other moves to the same position, drawn at random."""

    def __len__(self) -> int:
        return len(self.layers)


@checked
def head_moves(
    model: nn.Module,
    ids: Int[Tensor, " pos"],
    read: Read,
    position: int = -1,
    *,
    n: int = 8,
    n_random: int = 64,
    first: int = 0,
    seed: int = 0,
) -> HeadMoves:
    """The moves to a position that a number read from its logits hangs on most.

    Of all heads of all layers and the positions from `first` to the one before, the `n` of the largest
    first-order effect and `n_random` others are taken away one at a time. `read` takes logits [..., d_vocab].

    >>> moves = head_moves(model, ids, lambda logits: logits[..., 7])  # doctest: +SKIP
    >>> moves.layers[0], moves.heads[0], moves.keys[0], moves.effects[0]  # doctest: +SKIP

    Raises InputError where no position to read lies between `first` and `position`.
    """
    require_count(n, f"n={n} moves")
    require_count(n_random, f"n_random={n_random} moves", "0 or more", least=0)
    require_count(first, f"first={first}", "0 or more", least=0)
    require_seed(seed)
    query = position + len(ids) if position < 0 else position
    require_index(query, len(ids), "position")
    if query <= first:
        raise InputError(
            f"moves to position {query} from position {first} on; expected a position between the two"
        )
    measured = measure(model, ids)
    attention = _attention(measured, query, first)
    moved = _moved(measured, attention, first)
    with torch.enable_grad():
        zeros = torch.zeros_like(moved[:, :, 0]).requires_grad_()
        with _added(model, query, zeros.unsqueeze(0)):
            value = read(model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0, query].to(moved))
        (gradient,) = torch.autograd.grad(value, zeros)
    slopes = torch.einsum("lhd,lhkd->lhk", gradient, moved)
    order = slopes.abs().flatten().argsort(descending=True)
    strongest, others = order[:n], order[n:]
    draw = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:n_random]
    places = torch.cat([strongest, others[draw.to(others.device)]])
    whole = float(value.detach())
    effects = whole - _without(model, ids, read, query, moved, places)
    tried, random = effects[: len(strongest)], effects[len(strongest) :]
    best = tried.abs().argsort(descending=True)
    layers, heads, keys = (part.cpu() for part in torch.unravel_index(strongest[best], slopes.shape))
    return HeadMoves(
        position=query,
        value=whole,
        layers=layers,
        heads=heads,
        keys=keys + first,
        attention=attention.flatten()[strongest[best]].cpu(),
        effects=tried[best].cpu(),
        first_order=slopes.flatten()[strongest[best]].detach().cpu(),
        random=random.cpu(),
    )


def _attention(measured: Measured, query: int, first: int) -> Float[Tensor, "layer n_heads n_keys"]:
    """The attention at one position to those from `first` to the one before."""
    at = torch.tensor([query], device=measured.ids.device)
    return torch.stack([layer.attention.pattern_rows(at)[:, 0, first:query] for layer in measured.layers])


def _moved(
    measured: Measured, attention: Float[Tensor, "layer n_heads n_keys"], first: int
) -> Float[Tensor, "layer n_heads n_keys d_head"]:
    """Attention times value of each head and position that is read, before the output projection."""
    end = first + attention.shape[-1]
    values = torch.stack([layer.attention.values[:, first:end] for layer in measured.layers])
    return attention.unsqueeze(-1) * values


@torch.no_grad()
def _without(
    model: nn.Module,
    ids: Int[Tensor, " pos"],
    read: Read,
    query: int,
    moved: Float[Tensor, "layer n_heads n_keys d_head"],
    places: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The number that is read without each of the moves, given by their places in `moved`."""
    values = []
    for some in places.split(AT_ONCE):
        layers, heads, keys = torch.unravel_index(some, moved.shape[:3])
        delta = moved.new_zeros(len(some), *moved.shape[:2], moved.shape[3])
        delta[torch.arange(len(some), device=some.device), layers, heads] = -moved[layers, heads, keys]
        with _added(model, query, delta):
            logits = model(input_ids=ids.expand(len(some), -1), use_cache=False).logits[:, query]
        values.append(read(logits.to(moved)))
    return torch.cat(values) if values else moved.new_zeros(0)


@contextmanager
def _added(
    model: nn.Module, query: int, delta: Float[Tensor, "batch layer n_heads d_head"]
) -> Iterator[None]:
    """While open, `delta` is added to what the heads of each layer have mixed at one position."""
    handles = []
    try:
        for number in range(delta.shape[1]):
            module = plain(decoder_block(model, number).self_attn)
            hook = _adding(query, delta[:, number].flatten(1))
            handles.append(plain(module.o_proj).register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(query: int, delta: Float[Tensor, "batch width"]) -> Callable[..., Sequence[Tensor]]:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0].clone()
        mixed[:, query] += delta.to(mixed)
        return (mixed, *args[1:])

    return hook

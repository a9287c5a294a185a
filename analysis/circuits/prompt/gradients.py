"""The derivative of a target by the activations of sites: one backward pass of the model itself.

A node's **slope** is this derivative at the site that it writes to, times what it writes: by how much the
target changes at first order, through everything that the model computes. No dictionary lies between, so that
nothing of it is lost in their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from analysis.circuits.prompt.attention import score_slopes
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.readers import ListedScores, Write
from analysis.circuits.target_value import read_measured
from analysis.circuits.targets import Target
from analysis.graphs.elements import Node
from analysis.interventions.frozen import exact_in_float64, frozen
from bilinear_lm.families import decoder, plain
from bilinear_lm.numerics.shared_keys import keys_of_each_head
from bilinear_lm.sites import Point, Site, replaced

WRITTEN_TO: tuple[Point, ...] = ("attn-out", "mlp-in", "mlp-out")
"""The points of a block that nodes write to, besides the embeddings."""


def target_gradients(
    prompt: Prompt, target: Target, attention_held: bool = False
) -> dict[Site, Float[Tensor, "pos d_model"]]:
    """∂ target / ∂ activations of the sites that nodes write to, at all positions of the prompt.

    Attention patterns are held or free, and scales of norms as `prompt` says. mlp-in is what the MLP reads
    alone: the residual stream beside it stays as it is.
    """
    sites = [Site(0, "resid-pre")]
    for layer in range(prompt.n_layers):
        sites += [Site(layer, point) for point in WRITTEN_TO]
    model, ids = prompt.module, prompt.measured.ids.unsqueeze(0)
    zero = prompt.like.new_zeros(())  # one number at all places
    added = {site: zero.expand_as(prompt.like).requires_grad_() for site in sites}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if prompt.like.dtype == torch.float64:
            stack.enter_context(exact_in_float64(model))
        stack.enter_context(frozen(model, prompt.measured, norms=prompt.norms_held, attention=attention_held))
        stack.enter_context(_recomputed(model))
        for site, zeros in added.items():
            stack.enter_context(replaced(model, site, _plus(zeros)))
        value = read_measured(model, prompt, target, ids, prompt.norms_held)
        gradients = torch.autograd.grad(value.sum(), list(added.values()), allow_unused=True)
    return {
        site: torch.zeros_like(zeros) if gradient is None else gradient
        for (site, zeros), gradient in zip(added.items(), gradients, strict=True)
    }


def slopes(
    prompt: Prompt,
    gradients: Mapping[Site, Float[Tensor, "pos d_model"]],
    writes: Mapping[str, Write],
    scores: Sequence[Node],
) -> dict[str, float]:
    """The slope of each node that writes, gradient · what it writes, and of attention scores."""
    result: dict[str, float] = {}
    for site, gradient in gradients.items():
        if own := {name: write for name, write in writes.items() if write.site == site}:
            rows = torch.stack([write.slope for write in own.values()])
            positions = torch.tensor([write.position for write in own.values()], device=gradient.device)
            values = (gradient[positions].double() * rows.double()).sum(dim=-1)
            result |= dict(zip(own, values.tolist(), strict=True))
        here = [node for node in scores if _attention_out(node) == site]
        for head in sorted({node.index or 0 for node in here}):
            of_scores, _ = score_slopes(prompt.layers[site.layer], _of_output(prompt, site, gradient), head)
            result |= {
                node.id: float(of_scores[0, node.position, node.key]) for node in here if node.index == head
            }
    return result


def strongest_scores(
    prompt: Prompt, gradients: Mapping[Site, Float[Tensor, "pos d_model"]], n: int
) -> dict[int, ListedScores]:
    """The n attention scores of the largest |slope|, by layer."""
    n_pos, listed, values, sizes = prompt.n_pos, [], [], []
    for layer in prompt.layers:
        site = Site(layer.number, "attn-out")
        gradient = _of_output(prompt, site, gradients[site])
        for head in range(len(layer.measured.attention.W_O)):
            (of_scores,), scores = score_slopes(layer, gradient, head)
            sizes_of_head, places = of_scores.abs().flatten().topk(min(n, n_pos**2))
            where = [torch.full_like(places, number) for number in (layer.number, head)]
            listed.append(torch.stack([*where, places // n_pos, places % n_pos]))
            values.append(scores.flatten()[places])
            sizes.append(sizes_of_head)
    everywhere = torch.cat(listed, dim=1)  # [4, candidates]: layer, head, query, key
    kept = torch.cat(sizes).topk(min(n, everywhere.shape[1])).indices
    result = {}
    for layer in prompt.layers:
        own = kept[everywhere[0, kept] == layer.number]
        heads, queries, keys = everywhere[1:, own]
        result[layer.number] = ListedScores(heads, queries, keys, torch.cat(values)[own])
    return result


@contextmanager
def _recomputed(model: nn.Module) -> Iterator[None]:
    """While open, blocks keep only their inputs for a backward pass, which computes the inside of each anew.

    The inside of all blocks together would be the most of what a long prompt needs.
    """
    blocks = [plain(block) for block in decoder(model).layers]
    before = [vars(block).get("forward") for block in blocks]
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for block in blocks:
        vars(block)["forward"] = partial(again, _on_copy(block.forward))
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def _on_copy(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a block on a copy of its input, which hooks overwrite (`bilinear_lm.sites`).

    A GPU's backward pass computes it anew in a thread of its own.
    """

    def on_copy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with keys_of_each_head(x.device):
            return forward(x.clone(), *args, **kwargs)

    return on_copy


def _of_output(prompt: Prompt, site: Site, gradient: Tensor) -> Float[Tensor, "1 pos d_model"]:
    """The derivative by what an attention adds to the stream as that by its output, as one reading."""
    return prompt.layers[site.layer].behind_attention(gradient, slice(None), derivative=True).unsqueeze(0)


def _attention_out(score: Node) -> Site:
    """Where what a score moves is written."""
    return Site(score.layer or 0, "attn-out")


def _plus(zeros: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x + zeros.to(x.dtype)

"""The model restricted to a graph: what is not in the graph stays at what it is on the prompt.

An MLP with a dictionary changes its output only by the graph's features: by their codes, as linear maps of
the output (the active set is kept), times their decoder rows. Errors and other features stay. Norms,
attention, and MLPs without a dictionary, which graphs follow along all directions, are the model's own. In it
a change that is not small, such as a token taken away, has its effect by way of the graph, with the norms'
closed form f′ = w · x′ / √(‖x′‖²/d + ε).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.attribution import Attribution
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.readers import Write
from bilinear_lm.sites import Site, replaced

LARGE = 2.0
"""The factor by which a change that is not small makes the residual stream longer or shorter."""


@contextmanager
def restricted(attribution: Attribution) -> Iterator[None]:
    """While open, the model of an attribution is restricted to its graph, on prompts of the same tokens."""
    indices: dict[tuple[str, int], list[int]] = defaultdict(list)
    for node in attribution.graph.of_kind("feature"):
        if node.site is not None and node.position is not None and node.index is not None:
            indices[node.site, node.position].append(node.index)
    with ExitStack() as stack:
        for layer in attribution.prompt.layers:
            features = layer.outputs
            if features is None:
                continue
            passed = layer.measured.mlp_out.new_zeros(*layer.measured.mlp_out.shape, features.error.shape[-1])
            for position in range(len(passed)):
                if own := indices[str(features.site), position]:
                    read = torch.stack([features.reading(index)[0] for index in own])
                    passed[position] = read.T @ features.dictionary.decoder[own]
            limited = _limited(layer.measured.mlp_out, passed)
            stack.enter_context(replaced(attribution.prompt.module, features.site, limited))
        yield


def is_large(prompt: Prompt, writes: Sequence[Write]) -> bool:
    """Whether any of the changes makes the residual stream that it is added to much longer or shorter."""
    for write in writes:
        if write.site.point == "mlp-in":  # read by the MLP alone, without a norm between
            continue
        stream = _after(prompt, write.site)[write.position]
        before, after = float(stream.norm()), float((stream + write.vector).norm())
        if not before / LARGE <= after <= before * LARGE:
            return True
    return False


def _after(prompt: Prompt, site: Site) -> Float[Tensor, "pos d_model"]:
    """The residual stream to which what is written at a site has been added."""
    layer = prompt.layers[site.layer].measured
    if site.point in ("resid-pre", "attn-out"):
        return layer.resid_pre if site.point == "resid-pre" else layer.resid_mid
    return prompt.resid_post(site.layer)


def _limited(measured: Tensor, passed: Tensor) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        change = torch.einsum("bpd,pde->bpe", x.to(measured.dtype) - measured, passed)
        return (measured + change).to(x.dtype)

    return function

"""What a model computes at its sites on a prompt: reading activations, and putting others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from bilinear_lm.dictionary import Dictionary, Site
from bilinear_lm.errors import InputError
from bilinear_lm.weights import IDENTITY_EPS, decoder_block, plain


def mlp_inputs(
    model: nn.Module, ids: Int[Tensor, "batch pos"], layers: list[int]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The inputs of the MLPs of `layers`: x / rms(x) of the residual stream, x where norms are the identity.

    They are the points of `mlp_tensor(model, layer)`: the tensor of a bilinear layer at them is its output.
    At the site mlp-in (`site_activations`) they are multiplied by the weight of the norm, as the MLP reads
    them.
    """
    norms = [plain(decoder_block(model, layer).post_attention_layernorm) for layer in layers]
    seen: dict[int, Tensor] = {}
    handles = [
        norm.register_forward_pre_hook(
            lambda norm, args, at=at: seen.__setitem__(at, normalised(norm, args[0]))
        )
        for at, norm in enumerate(norms)
    ]
    try:
        with torch.inference_mode():
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([seen[at] for at in range(len(layers))])


def normalised(norm: Any, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """x / rms(x), or x where the RMSNorm is the identity: what its weight is multiplied with."""
    epsilon = norm.variance_epsilon
    return x if epsilon >= IDENTITY_EPS else rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(x)


def site_activations(
    model: nn.Module, batches: Iterable[Int[Tensor, "_batch pos"]], sites: Sequence[Site]
) -> Iterator[dict[Site, Float[Tensor, "_batch pos d_model"]]]:
    """The activations at each of `sites`, one batch of token ids after the other.

    >>> for seen in site_activations(model, ids.split(16), [Site(0, "mlp-in"), Site(0, "mlp-out")]):
    ...     seen[Site(0, "mlp-in")].shape  # [16, pos, d_model]
    """
    with ExitStack() as stack:
        seen: dict[Site, Tensor] = {}
        for site in sites:
            stack.enter_context(_observed(model, site, seen))
        for ids in batches:
            with torch.inference_mode():
                model(input_ids=ids)
            yield dict(seen)


@contextmanager
def replaced(model: nn.Module, site: Site, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the model goes on with function(x) in place of the activations x at a site.

    x is [batch, pos, d_model]. At the residual points the stream itself is replaced: in the block's own sum
    as well as in what the next norm reads. To be used without gradients.
    """
    with _hooked(model, site, function):
        yield


@contextmanager
def spliced(model: nn.Module, dictionary: Dictionary) -> Iterator[None]:
    """While open, the model goes on with a dictionary's reconstruction at its site.

    A transcoder reads its site and replaces its target. To be used without gradients.
    """
    site = dictionary.site
    if site is None:
        raise InputError("a dictionary without a site; load it with site=Site(layer, point) to splice it in")
    if dictionary.target in (None, site):
        with replaced(model, site, dictionary):
            yield
    else:
        seen: dict[Site, Tensor] = {}
        with (
            _observed(model, site, seen),
            replaced(model, dictionary.target, lambda _: dictionary(seen[site])),
        ):
            yield


@contextmanager
def _observed(model: nn.Module, site: Site, seen: dict[Site, Tensor]) -> Iterator[None]:
    with _hooked(model, site, lambda x: seen.__setitem__(site, x)):
        yield


@contextmanager
def _hooked(model: nn.Module, site: Site, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """While open, `function` gets the activations at a site; what it returns, if anything, replaces them."""
    module, reads_input = _module(model, site)

    def of_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if (new := function(args[0])) is not None:
            # The norm and the sum around it read this same tensor, so it is overwritten where it lies.
            args[0].copy_(new)

    def of_output(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return function(output)

    hook = (
        module.register_forward_pre_hook(of_input) if reads_input else module.register_forward_hook(of_output)
    )
    try:
        yield
    finally:
        hook.remove()


def _module(model: nn.Module, site: Site) -> tuple[nn.Module, bool]:
    """The module at a site, and whether the site is its input; else it is its output."""
    block = decoder_block(model, site.layer)
    where: dict[str, tuple[Any, bool]] = {
        "resid-pre": (block.input_layernorm, True),
        "attn-out": (block.self_attn.o_proj, False),
        "resid-mid": (block.post_attention_layernorm, True),
        "mlp-in": (block.post_attention_layernorm, False),
        "mlp-out": (block.mlp, False),
        "resid-post": (block, False),
    }
    module, reads_input = where[site.point]
    return plain(module), reads_input

"""Sites, the places in a model that have activations: reading and replacing these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilinear_lm.families import decoder_block, family_of, mlp_norm, plain, residual_factor
from bilinear_lm.norms import normalised
from bilinear_lm.site_names import POINTS as POINTS
from bilinear_lm.site_names import Point as Point
from bilinear_lm.site_names import Site as Site


def mlp_inputs(
    model: nn.Module, ids: Int[Tensor, "batch pos"], layers: list[int]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The inputs of the MLPs of `layers`: x / rms(x) of the residual stream, x where norms are the identity.

    They are the points of `mlp_tensor(model, layer)`: the tensor of a bilinear layer at them is the output of
    its MLP. At the site mlp-in (`site_activations`) they are multiplied by the factor of the norm, as the MLP
    reads them. In OLMo 2, which has no norm in front of its MLPs, both are x.
    """
    seen: dict[int, Tensor] = {}
    handles = []
    for at, layer in enumerate(layers):
        norm = mlp_norm(model, layer)
        module = plain(decoder_block(model, layer).mlp if norm is None else norm)

        def note(_: nn.Module, args: tuple[Tensor, ...], at: int = at, norm: Any = norm) -> None:
            seen[at] = args[0] if norm is None else normalised(plain(norm), args[0])

        handles.append(module.register_forward_pre_hook(note))
    try:
        with torch.inference_mode():
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([seen[at] for at in range(len(layers))])


def site_activations(
    model: nn.Module, batches: Iterable[Int[Tensor, "_batch pos"]], sites: Sequence[Site]
) -> Iterator[dict[Site, Float[Tensor, "_batch pos d_model"]]]:
    """The activations at each of `sites`, one batch of token ids after the other.

    attn-out and mlp-out are what is added to the residual stream: in Gemma 2 and OLMo 2 the output of the
    norm behind attention or MLP, in Granite the module's output times `residual_multiplier`.

    >>> for seen in site_activations(model, ids.split(16), [Site(0, "mlp-in"), Site(0, "mlp-out")]):
    ...     seen[Site(0, "mlp-in")].shape  # [16, pos, d_model]
    """
    with ExitStack() as stack:
        seen: dict[Site, Tensor] = {}
        for site in sites:
            stack.enter_context(observed(model, site, seen))
        for ids in batches:
            with torch.inference_mode():
                model(input_ids=ids)
            yield dict(seen)


@contextmanager
def replaced(model: nn.Module, site: Site, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Lets the model go on with function(x) in place of the activations x at a site, while open.

    x is [batch, pos, d_model]. At the residual points the stream itself is replaced: in the block's own sum
    as well as in what the next norm reads. To be used without gradients.
    """
    with _hooked(model, site, function):
        yield


@contextmanager
def observed(model: nn.Module, site: Site, seen: dict[Site, Tensor]) -> Iterator[None]:
    """Keeps the activations at a site, as the model last computed them, in `seen`, while open."""
    with watched(model, site, lambda x: seen.__setitem__(site, x)):
        yield


@contextmanager
def watched(model: nn.Module, site: Site, function: Callable[[Tensor], object]) -> Iterator[None]:
    """Calls a function with the activations at a site whenever the model computes them, while open."""

    def called(x: Tensor) -> None:
        function(x)

    with _hooked(model, site, called):
        yield


@contextmanager
def _hooked(model: nn.Module, site: Site, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Gives the activations at a site to `function` while open; its result, if any, replaces them."""
    place = _place(model, site)

    def of_stream(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if (new := function(args[0])) is not None:
            # The norm and the sum around it read this same tensor, so it is overwritten where it lies.
            args[0].copy_(new)

    def of_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        new = function(args[0])
        return None if new is None else (new, *args[1:])

    def of_output(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if place.factor == 1:
            return function(output)
        new = function(output * place.factor)
        return None if new is None else new / place.factor

    if place.what == "output":
        hook = place.module.register_forward_hook(of_output)
    else:
        hook = place.module.register_forward_pre_hook(of_stream if place.what == "stream" else of_input)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class _Place:
    """The place of a site's activations: a module's output times a factor, its input, or the residual
    stream, which is the module's input and goes on past it."""

    module: nn.Module
    what: Literal["output", "input", "stream"]
    factor: float = 1.0


def _place(model: nn.Module, site: Site) -> _Place:
    block, family = decoder_block(model, site.layer), family_of(model)

    def part(name: str) -> nn.Module:
        return plain(getattr(block, name))

    # Without a norm in front, the block and the MLP read the residual stream themselves.
    attention_reader = part(family.attention_norm) if family.attention_norm else block
    mlp_reader = part(family.mlp_norm or "mlp")
    attention_out = part(family.attention_norm_after) if family.attention_norm_after else None
    mlp_out = part(family.mlp_norm_after or "mlp")
    factor = residual_factor(model, site.layer)
    places: dict[Point, _Place] = {
        "resid-pre": _Place(attention_reader, "stream"),
        # The attention module itself puts out a tuple.
        "attn-out": _Place(attention_out or plain(part("self_attn").o_proj), "output", factor),
        "resid-mid": _Place(mlp_reader, "stream"),
        "mlp-in": _Place(mlp_reader, "output" if family.mlp_norm else "input"),
        "mlp-out": _Place(mlp_out, "output", factor),
        "resid-post": _Place(block, "output"),
    }
    return places[site.point]

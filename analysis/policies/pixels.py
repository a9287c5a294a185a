"""Eigenfilters of the first block in pixels: the first entry is linear, so they are filters of the image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.convolutions.terms import Terms
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolutional import EntryLayer
from bilinear_lm.networks.policy import PolicyNetwork


@checked
def pixel_filters(network: PolicyNetwork, terms: Terms) -> Float[Tensor, "terms c kh kw"]:
    """The filters of terms of block0 as filters of the image, exactly: f ∗ entry(x) = pixel filter ∗ x.

    `c` are the image's channels; sides are as many pixels as the filter covers. At the image's edge the block
    reads zeros outside, as do these. InputError for an entry that pools or has biases, and for terms of a
    later block.

    >>> network = PolicyNetwork()
    >>> terms = decompose_terms(network.trunk.layers["block0"], torch.randn(8, 8, 8))
    >>> pixel_filters(network, terms).shape
    torch.Size([128, 3, 3, 3])
    """
    settings = network.settings
    if settings.entry != "patches" or settings.bias:
        raise InputError(
            f"a policy whose entry is {settings.entry!r}{' with biases' if settings.bias else ''}; expected "
            "patches without biases, which are linear"
        )
    entry, first = network.trunk.layers["entry0"], network.trunk.layer_names[1]
    assert isinstance(entry, EntryLayer)
    W = entry.W.detach()
    height, width = (size // settings.patch for size in settings.image_shape[1:])
    if terms.filters.shape[1] != len(W) or tuple(terms.parts.spatial.shape[1:]) != (height, width):
        raise InputError(
            f"terms of filters {list(terms.filters.shape[1:])} at {list(terms.parts.spatial.shape[1:])} "
            f"places; expected those of {first}, behind the first entry"
        )
    return F.conv_transpose2d(terms.filters, W, stride=settings.patch)

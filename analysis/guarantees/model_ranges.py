"""Ranges of a model's MLPs: of the features that read an MLP's output, and of what it adds to logits.

Dictionaries at mlp-out read u · B(z, z) plus a constant, so that the range of a pre-activation follows from
the weights: a feature whose largest pre-activation is not above its threshold is dead, whatever the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from analysis.features.layer import WRITTEN, as_list, require_site
from analysis.guarantees.ranges import Over, Range, certify
from analysis.text.tokens import token_direction
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import divided
from bilinear_lm.errors import InputError
from bilinear_lm.families import family_of, mlp_norm, plain, require_plain_blocks
from bilinear_lm.norms import IDENTITY_EPS, norm_epsilon
from bilinear_lm.shown import Words, shown
from bilinear_lm.sites import Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor, unembedding

AT_ONCE = 128
"""Features whose ranges are found at once."""


@shown
@dataclass(frozen=True)
class FeatureRanges:
    """The ranges of the pre-activations of features of a dictionary, over all inputs of an MLP."""

    site: Site
    features: Int[Tensor, " n"]
    """The features, by number; the fields below follow this order."""
    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    threshold: Float[Tensor, " n"]
    """The pre-activation above which a feature can be active: 0, or its jumprelu threshold; −∞ in a `signed`
    top-k dictionary, where any may be active."""
    layer: Range
    """The ranges of the MLP's output along the encoder, without the constants of the dictionary."""

    def _first(self) -> dict[str, Any]:
        return {"site": Words(str(self.site)), "n": len(self.high), "n_dead": int(self.dead.sum())}

    @property
    def dead(self) -> Bool[Tensor, " n"]:
        """Whether no input of the MLP can make a feature active, rounding of the model aside."""
        return self.high <= self.threshold

    def reached(self, largest: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The share of what is possible that a text reaches: its largest pre-activations over `high`.

        NaN where nothing above 0 is possible.
        """
        return torch.where(self.high > 0, largest.to(self.high) / self.high, torch.nan)


@checked
def certify_features(
    model: nn.Module,
    dictionary: Dictionary,
    features: int | Sequence[int] | None = None,
    *,
    layer: int | None = None,
    over: Over = "ball",
) -> FeatureRanges:
    """The range of features' pre-activations at mlp-out, over all that the MLP's norm lets through.

    None: of all features. The layer is that of the dictionary's site; give `layer` where the dictionary does
    not tell. The ball is everything that an RMSNorm can put out; the sphere leaves out inputs so small that
    its ε counts. The processes of a torch.distributed group share the features.

    >>> model = bl.load_pretrained("stories")
    >>> ranges = certify_features(model, bl.load_dictionary("stories-scope/1-mlp-out"))
    >>> ranges.high.shape, int(ranges.dead.sum())
    (torch.Size([768]), 0)

    Raises InputError where the MLP's input is not normalised (OLMo 2, models without norms), where its output
    is normalised or scaled before mlp-out, and for a dictionary that is not linear in what it reads.
    """
    site = dictionary.site if layer is None else Site(layer, WRITTEN)
    number = layer if layer is not None else (site.layer if site else 0)
    require_site(site, number, (WRITTEN,), "output")
    if dictionary.nonlinear is not None:
        raise InputError(
            f"the dictionary {dictionary.nonlinear}, so that a feature reads no single direction; expected "
            "one with a linear encoder"
        )
    tensor = normalised_mlp_tensor(model, number)
    require_plain_blocks(model, "ranges of features")
    weights = dictionary.to(tensor.device, tensor.dtype)
    chosen = range(weights.n_feat) if features is None else as_list(features)
    for feature in chosen:
        require_index(feature, weights.n_feat, "output feature")

    def ranges(some: Sequence[int]) -> FeatureRanges:
        numbers = torch.tensor(list(some), dtype=torch.long, device=tensor.device)
        u = weights.encoder.T[numbers]
        reach = certify(tensor, u, over=over)
        offset = torch.zeros_like(reach.high) if weights.b_enc is None else weights.b_enc[numbers]
        if weights.b_dec_to_input and weights.b_dec is not None:
            offset = offset - u @ weights.b_dec
        return FeatureRanges(
            site=Site(number, WRITTEN),
            features=numbers,
            low=reach.low + offset,
            high=reach.high + offset,
            threshold=_thresholds(weights, numbers),
            layer=reach,
        )

    return divided(chosen, ranges, AT_ONCE)


@checked
def certify_logits(
    model: nn.Module,
    layer: int,
    tokens: int | Sequence[int],
    against: Sequence[int] | None = None,
    *,
    over: Over = "ball",
) -> Range:
    """The range of what the MLP of a layer adds to tokens' logits directly, [n_tokens].

    Logits are u · x / rms(x) at the end of the residual stream x; the range is that of u · (what the MLP adds
    to x), so it holds up to the final norm's 1 / rms, one positive number a position. u is the token's
    direction less the mean of the tokens `against`, by default of all (`token_direction`).
    """
    tensor = normalised_mlp_tensor(model, layer)
    require_plain_blocks(model, "ranges of logits")
    W_U = unembedding(model).to(tensor.device, tensor.dtype)
    several = [tokens] if isinstance(tokens, int) else list(tokens)
    others = None if against is None else list(against)
    return certify(tensor, torch.stack([token_direction(W_U, token, others) for token in several]), over=over)


def has_range(model: nn.Module, layer: int) -> bool:
    """Whether the weights bound what features at mlp-out can be: the MLP reads a norm, and adds as it is."""
    return _unbounded(model, layer) is None and family_of(model).adds_plainly


def _unbounded(model: nn.Module, layer: int) -> str | None:
    """The reason why nothing bounds the input of an MLP, as a predicate; None where a norm does."""
    norm = mlp_norm(model, layer)
    if norm is None:
        return "has no norm in front"
    epsilon = norm_epsilon(plain(norm))
    return f"has a norm that is the identity (ε = {epsilon:g})" if epsilon >= IDENTITY_EPS else None


def normalised_mlp_tensor(model: nn.Module, layer: int) -> BilinearTensor:
    """The MLP as a function of x / rms(x), in float32 at least; InputError where nothing bounds its input."""
    reason = _unbounded(model, layer)
    if reason is not None:
        raise InputError(
            f"the MLP of layer {layer} {reason}: it reads inputs of any length, and its output has no bound; "
            "expected a model whose MLPs read the output of an RMSNorm, or give certify(tensor, u, radius=…) "
            "the largest norm of their inputs"
        )
    tensor = mlp_tensor(model, layer)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _thresholds(dictionary: Dictionary, features: Tensor) -> Tensor:
    zeros = dictionary.encoder.new_zeros(len(features))
    if dictionary.signed and dictionary.k is not None:
        return zeros - torch.inf
    threshold = zeros if dictionary.threshold is None else dictionary.threshold[features]
    return threshold if dictionary.signed else threshold.clamp(min=0)

"""Targets: the values that are followed, on a prompt or by weights, and how commands spell them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site


def parse_feature(text: str) -> tuple[Site, int]:
    """Site and number of a feature that is written LAYER-POINT-NUMBER, such as 2-mlp-out-17."""
    site, _, number = text.rpartition("-")
    if not number.isdecimal() or len(number) > 9:
        raise InputError(f"feature {text!r}; expected LAYER-POINT-NUMBER, such as 2-mlp-out-17")
    return Site.parse(site), int(number)


def parse_head(text: str) -> tuple[int, int]:
    """Layer and number of a head that is written LAYER.HEAD, such as 2.3."""
    layer, _, number = text.partition(".")
    if not (layer.isdecimal() and number.isdecimal() and len(text) < 20):
        raise InputError(f"head {text!r}; expected LAYER.HEAD, such as 2.3")
    return int(layer), int(number)


@dataclass(frozen=True)
class LogitTarget:
    """The logit of a token, less the mean of those of the tokens `against`."""

    token: int
    against: tuple[int, ...] = ()
    position: int = -1
    """Where the next token is predicted."""

    def of(self, columns: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes"]:
        """Of columns by token, as logits or W_U have them, the token's less the mean of those of `against`.

        InputError where a token does not exist.
        """
        for token in (self.token, *self.against):
            require_index(token, columns.shape[-1], "token")
        own = columns[..., self.token]
        return own - columns[..., list(self.against)].mean(dim=-1) if self.against else own


@dataclass(frozen=True)
class FeatureTarget:
    """The code of a feature that is active at a position, at mlp-in, resid-mid or mlp-out."""

    site: Site
    feature: int
    position: int = -1


@dataclass(frozen=True)
class DirectionTarget:
    """vector · activations of a site at a position.

    At mlp-out this is an output direction of an MLP; at resid-pre, resid-mid, mlp-in and resid-post it is
    linear in the residual stream.
    """

    site: Site
    vector: Float[Tensor, " d_model"]
    position: int = -1


@dataclass(frozen=True)
class EigenvectorTarget:
    """λ (v · x)², what one eigenvector adds to direction · MLP(x), at x = resid-mid / rms(resid-mid).

    v is that of `eigendecompose(mlp_tensor(model, layer), direction)` with number `rank`.
    """

    layer: int
    direction: Float[Tensor, " d_model"]
    rank: int = 0
    position: int = -1


@dataclass(frozen=True)
class ScoreTarget:
    """The score by which a head attends from a query's position to a key's, before the softmax.

    With `against`, how much larger it is than that of another key: softmax depends on such differences alone.
    """

    layer: int
    head: int
    query: int
    key: int | None = None
    """None: where the head attends to most."""
    against: int | None = None


Target = LogitTarget | FeatureTarget | DirectionTarget | EigenvectorTarget | ScoreTarget

StaticTarget = LogitTarget | FeatureTarget | DirectionTarget

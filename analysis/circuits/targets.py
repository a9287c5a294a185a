"""Targets: the values that are followed, on a prompt or by weights, and how commands spell them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.text.tokens import parse_direction
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.checks import require_count, require_floating, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Point, Site


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


_PASSED: dict[Point, int] = {"resid-pre": 0, "resid-mid": 1, "mlp-in": 1, "resid-post": 2}


@dataclass(frozen=True)
class LogitTarget:
    """The logit of a token, less the mean of those of the tokens `against`."""

    token: int
    against: tuple[int, ...] = ()
    position: int = -1
    """Where the next token is predicted."""

    def __post_init__(self):
        for token in (self.token, *_tuple(self.against, "against", "tokens")):
            if isinstance(token, str):
                raise InputError(
                    f"token {token!r} of a target; expected its number (a text can be given to `attribute` "
                    "itself, for a prompt that was opened with a tokenizer)"
                )
            require_count(token, f"token {token} of a target", "0 or more", least=0)
        _require_position(self.position)

    def of(self, columns: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes"]:
        """The token's column less the mean of those of `against`; columns are by token, as in logits or W_U.

        Raises InputError where a token does not exist.
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

    def __post_init__(self):
        _require_site(self.site)
        require_count(self.feature, f"feature {self.feature!r} of a target", "0 or more", least=0)
        _require_position(self.position)


@shown
@dataclass(frozen=True)
class DirectionTarget:
    """vector · activations of a site at a position.

    At mlp-out this is an output direction of an MLP; at resid-pre, resid-mid, mlp-in and resid-post it is
    linear in the residual stream.
    """

    site: Site
    vector: Float[Tensor, " d_model"]
    position: int = -1

    def __post_init__(self):
        _require_site(self.site)
        require_floating(self.vector, "the vector of a target")
        _require_position(self.position)


@shown
@dataclass(frozen=True)
class EigenvectorTarget:
    """λ (v · x)², one eigenvector's part of direction · MLP(x), at x = resid-mid / rms(resid-mid).

    v is that of `eigendecompose(mlp_tensor(model, layer), direction)` with number `rank`.
    """

    layer: int
    direction: Float[Tensor, " d_model"]
    rank: int = 0
    position: int = -1

    def __post_init__(self):
        require_floating(self.direction, "the direction of a target")
        for name in ("layer", "rank"):
            require_count(
                getattr(self, name), f"{name} {getattr(self, name)!r} of a target", "0 or more", least=0
            )
        _require_position(self.position)


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

    def __post_init__(self):
        for name in ("layer", "head"):
            number = getattr(self, name)
            require_count(number, f"{name} {number!r} of a target", "0 or more", least=0)
        for place in (self.query, self.key, self.against):
            if place is not None:
                _require_position(place)


Target = LogitTarget | FeatureTarget | DirectionTarget | EigenvectorTarget | ScoreTarget

StaticTarget = LogitTarget | FeatureTarget | DirectionTarget


def as_target(target: Target | str, vocabulary: Vocabulary | None, how: str) -> Target:
    """A target; a text is the logit of the token with that text. `how` says where a tokenizer is given.

    Raises InputError for a text without a vocabulary, or that is not one token, and for anything else.
    """
    if isinstance(target, str):
        if vocabulary is None:
            raise InputError(
                f"target {target!r} is a text, and there is no tokenizer; {how}, or give LogitTarget"
            )
        direction = parse_direction(target, vocabulary)
        return LogitTarget(direction.token, direction.against)
    if not isinstance(target, get_args(Target)):
        names = ", ".join(kind.__name__ for kind in get_args(Target))
        raise InputError(f"target: got a {type(target).__name__}; expected a token's text, or one of {names}")
    return target


def checked_direction(
    vector: Float[Tensor, "*axes"], like: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, " d_model"]:
    """A direction in the precision of a model; InputError unless it is one of its residual stream."""
    width = like.shape[-1]
    if vector.shape != (width,) or not bool(torch.isfinite(vector).all()):
        raise InputError(
            f"a direction of shape {list(vector.shape)}; expected [{width}], the width of the model, and "
            "finite numbers"
        )
    return vector.to(like)


def passed_before(site: Site) -> int:
    """How many parts of its layer wrote to the residual stream before a site; InputError at mlp-out."""
    if site.point not in _PASSED:
        raise InputError(f"a direction at {site}; expected one at mlp-out or at {', '.join(_PASSED)}")
    return _PASSED[site.point]


def _tuple(value: Any, name: str, what: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise InputError(f"{name}={value!r} of a target; expected a tuple of {what}")
    return tuple(value)


def _require_site(site: Any) -> None:
    if not isinstance(site, Site):
        raise InputError(f"site {site!r} of a target; expected a Site, such as Site.parse('2-mlp-out')")


def _require_position(position: Any) -> None:
    if not isinstance(position, Integral) or isinstance(position, bool):
        raise InputError(f"position {position!r} of a target; expected a whole number, negative from the end")

"""Taking interactions out of a model on a text, the strongest beside random ones.

At every token the product of two input features' codes adds value · c_i · c_j to the pre-activation of an
output feature. Ablating a set S of interactions (a, i, j) subtracts it again, along the output dictionary's
decoder:

    y → y − Σ_{(a, i, j) ∈ S} value_aij · c_i · c_j · s² · d_a,

with y the activations at the output dictionary's site, d_a the row of its decoder, c the input
dictionary's code at the same token, and s = 1 at mlp-in, the scale 1/rms of the norm at resid-mid. Only the
part along the feature's own direction is taken out, at active and inactive tokens alike. Random pairs are
the control.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.features.interactions import Interactions
from analysis.features.layer import FeatureLayer, feature_layer
from analysis.text.windows import Windows, activations_on_windows, window_losses
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_index, require_seed
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import divided
from bilinear_lm.errors import InputError
from bilinear_lm.families import mlp_norm, plain
from bilinear_lm.norms import IDENTITY_EPS, norm_epsilon
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site, replaced

Size = Literal["number", "total"]

Among = Literal["features", "tokens"]

DRAWS = 10_000
"""Draws of random pairs before it is concluded that there are no more."""


@shown
@dataclass(frozen=True)
class AblationEffect:
    """The effect on a text's windows of taking some interactions out."""

    loss_change: Float[Tensor, " n_windows"]
    """Nats per token more than without ablation."""
    activation_change: Float[Tensor, " n_windows"]
    """Σ |code after − code before| / Σ |code before| of the output features concerned; 0 if never active."""


@shown
@dataclass(frozen=True)
class AblationControl:
    """The strongest interactions taken out, beside as many random ones, each set in a row of its own."""

    interactions: Interactions
    strongest: AblationEffect
    random: tuple[AblationEffect, ...]
    """One a seed."""


@checked
def ablation_control(
    model: nn.Module,
    layer: int,
    inputs: Dictionary,
    outputs: Dictionary,
    interactions: Interactions,
    windows: Windows,
    seeds: Iterable[int] = range(5),
    equal: Size = "number",
    among: Among = "tokens",
) -> AblationControl:
    """The effect of taking `interactions` out of an MLP, and that of as many random ones for each seed.

    Random pairs go into the same output features (see `random_interactions` for `equal`). among="tokens"
    draws the two features that are active together at a random token of the text, among="features" any two
    that are active somewhere: most such pairs never meet, and taking them out does nothing at all. The
    processes of a torch.distributed group share the sets that are taken out.
    """
    require_choice(equal, get_args(Size), "equal")
    require_choice(among, get_args(Among), "among")
    seeds = list(seeds)
    for seed in seeds:
        require_seed(seed)
    features = feature_layer(model, layer, inputs, outputs)
    _require_there(interactions, features.n_in, features.n_out)
    pools = _active_together(model, inputs, windows)
    if among == "features":
        pools = [sorted(set().union(*pools))]
    draws = [random_interactions(features, interactions, pools, seed, equal) for seed in seeds]
    concerned = interactions.outputs.unique()
    before = _Run.of(model, outputs, concerned, windows)

    def effect(some: Sequence[Interactions]) -> tuple[Tensor, Tensor]:
        with ablated(model, inputs, outputs, *some):
            found = _Run.of(model, outputs, concerned, windows).against(before)
        return found.loss_change.unsqueeze(0), found.activation_change.unsqueeze(0)

    columns = divided([interactions, *draws], effect)
    strongest, *others = (AblationEffect(*row) for row in zip(*columns, strict=True))
    return AblationControl(interactions, strongest, tuple(others))


@checked
def random_interactions(
    features: FeatureLayer,
    like: Interactions,
    pools: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    equal: Size = "number",
) -> Interactions:
    """Random interactions into the same output features as `like`, as many into each, none of `like` itself.

    Both features of a pair are drawn from one of `pools`, drawn itself; None: from all input features. They
    have their own values, or with equal="total" those times one factor that makes Σ |value| the same as in
    `like`.
    """
    require_choice(equal, get_args(Size), "equal")
    require_seed(seed)
    _require_there(like, features.n_in, features.n_out)
    if pools is None:
        pools = [range(features.n_in)]
    for feature in set().union(*pools):
        require_index(feature, features.n_in, "input feature of a pool")
    pools = [pool for pool in pools if len(pool)]
    generator = random.Random(seed)
    taken = {(item.output, item.left, item.right) for item in like}
    drawn = [_draw(generator, output, pools, taken) for output in like.outputs.tolist()]
    columns = torch.tensor(drawn, dtype=torch.long, device=like.outputs.device).reshape(-1, 3)
    outputs, left, right = columns.unbind(1)
    values = features.coefficients(outputs, left, right)
    return Interactions(outputs, left, right, _scaled(values, like.values) if equal == "total" else values)


@checked
@contextmanager
def ablated(
    model: nn.Module, inputs: Dictionary, outputs: Dictionary, interactions: Interactions
) -> Iterator[None]:
    """Within the block, the model runs with the interactions taken out at every token, as stated above."""
    _require_there(interactions, inputs.n_feat, outputs.n_feat)
    code = torch.empty(0)

    def remember(x: Tensor) -> Tensor:
        nonlocal code
        code = inputs.encode(x.to(inputs.device, inputs.dtype)) * _norm_scale(model, _site(inputs), x)
        return x

    directions, index = interactions.outputs.unique(return_inverse=True)

    def subtract(y: Tensor) -> Tensor:
        contributions = interactions.contributions(code)
        totals = contributions.new_zeros(*contributions.shape[:-1], len(directions))
        totals.index_add_(-1, index, contributions)
        return y - (totals @ outputs.decoder[directions].to(totals)).to(y)

    with replaced(model, _site(inputs), remember), replaced(model, _site(outputs), subtract):
        yield


@dataclass(frozen=True)
class _Run:
    """The loss of each window, and the codes of the output features concerned at each of its tokens."""

    losses: Tensor
    codes: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module, outputs: Dictionary, concerned: Tensor, windows: Windows) -> _Run:
        codes: list[Tensor] = []

        def remember(y: Tensor) -> Tensor:
            codes.extend(outputs.encode(y.to(outputs.device, outputs.dtype))[..., concerned])
            return y

        with replaced(model, _site(outputs), remember):
            losses = window_losses(model, windows)
        return cls(losses, codes)

    def against(self, before: _Run) -> AblationEffect:
        pairs = zip(self.codes, before.codes, strict=True)
        changes = [((ours - theirs).abs().sum(), theirs.abs().sum()) for ours, theirs in pairs]
        shares = [float(change / size) if size else 0.0 for change, size in changes]
        return AblationEffect(self.losses - before.losses, torch.tensor(shares, dtype=torch.float64))


def _active_together(model: nn.Module, dictionary: Dictionary, windows: Windows) -> list[list[int]]:
    """The features that are active at each token of the windows."""
    site, active = _site(dictionary), []
    for _, seen in activations_on_windows(model, windows, [site]):
        code = dictionary.encode(seen[site].to(dictionary.device, dictionary.dtype))
        active += [row.nonzero().flatten().tolist() for row in code.flatten(0, -2)]
    return active


def _draw(
    generator: random.Random,
    output: int,
    pools: Sequence[Sequence[int]],
    taken: set[tuple[int, int, int]],
) -> tuple[int, int, int]:
    """A pair of one pool that is not taken yet; from now on it is."""
    for _ in range(DRAWS if pools else 0):
        pool = generator.choice(pools)
        left, right = sorted((generator.choice(pool), generator.choice(pool)))
        if (output, left, right) not in taken:
            taken.add((output, left, right))
            return output, left, right
    raise InputError(
        f"no more random pairs to draw into output feature {output}: too few input features are active; "
        "ablate fewer interactions, or use a longer text"
    )


def _require_there(interactions: Interactions, n_in: int, n_out: int) -> None:
    """Raises InputError for interactions of features that the dictionaries do not have."""
    columns = (
        (interactions.outputs, n_out, "output feature"),
        (interactions.left, n_in, "input feature"),
        (interactions.right, n_in, "input feature"),
    )
    for column, n, what in columns:
        for index in column.unique().tolist():
            require_index(index, n, what)


def _scaled(values: Tensor, like: Tensor) -> Tensor:
    """Values times the factor that makes Σ |value| that of `like`."""
    total = values.abs().sum()
    if not total:
        raise InputError(
            'the random interactions are all 0 and cannot be made as large as others; take equal="number"'
        )
    return values * (like.abs().sum() / total)


def _site(dictionary: Dictionary) -> Site:
    if dictionary.site is None or dictionary.target not in (None, dictionary.site):
        raise InputError(
            f"ablation with a dictionary that reads {dictionary.site} and writes {dictionary.target}; "
            "expected one that reads and writes the same, named site"
        )
    if dictionary.normalization != "none":
        raise InputError(
            f"ablation with a dictionary of {dictionary.site} that {dictionary.nonlinear}; expected one "
            "without normalisation"
        )
    return dictionary.site


def _norm_scale(model: nn.Module, site: Site, x: Tensor) -> Tensor:
    """s = 1/rms(x) [batch, pos, 1] in front of the norm; 1 behind it, and where it is the identity."""
    norm = mlp_norm(model, site.layer)
    if norm is None or site.point == "mlp-in" or norm_epsilon(plain(norm)) >= IDENTITY_EPS:
        return x.new_ones(())
    return torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm_epsilon(plain(norm)))

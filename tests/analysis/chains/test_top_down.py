"""Trees of eigenvectors against explicit sums over them, dense trees, and the chain itself."""

import pytest
import torch

from analysis.chains.chain import chain_error
from analysis.chains.diagonal import orthogonalise
from analysis.chains.top_down import unfold
from bilinear_lm.errors import InputError

from .test_chain import random_chain, some_moment, tree


@pytest.mark.parametrize("n_layers", [2, 3])
def test_an_unpruned_tree_is_the_chain(n_layers):
    chain = random_chain(n_layers)
    x = torch.randn(5, chain.embedding.shape[0], dtype=torch.float64)
    whole = unfold(chain, share=1.0)
    torch.testing.assert_close(whole.chain(x), chain(x))
    assert whole.remainder < 1e-13
    assert all(level.held == pytest.approx(1) for level in whole.levels)


def test_two_layers_are_nested_sums_of_squares():
    chain = random_chain(2)
    pruned, x = unfold(chain, share=0.8), torch.randn(5, 4, dtype=torch.float64)
    upper, lower = pruned.levels
    squares = (x @ pruned.inputs.T).square()
    logits = torch.zeros(5, 3, dtype=torch.float64)
    for i, (parent, value) in enumerate(zip(upper.parents, upper.values, strict=True)):
        below = pruned.children(1, i)
        logits[:, parent] += value * (squares[:, below] @ lower.values[below]).square()
    torch.testing.assert_close(pruned.chain(x), logits)


@pytest.mark.parametrize("weighted", [False, True])
def test_eigenvectors_are_those_of_the_orthogonal_layers(weighted):
    chain = random_chain(2)
    moment = some_moment(4) if weighted else None
    pruned, orthogonal = unfold(chain, share=0.7, moment=moment), orthogonalise(chain, moment)
    upper, lower = pruned.levels
    for output, value, vector in zip(upper.parents, upper.values, upper.vectors, strict=True):
        Q = orthogonal.layers[1].interaction_matrix(orthogonal.head[:, output])
        torch.testing.assert_close(Q @ vector, value * vector)
    for parent, value, vector in zip(lower.parents, lower.values, lower.vectors, strict=True):
        Q = orthogonal.layers[0].interaction_matrix(upper.vectors[parent])
        assert float(Q.norm()) == pytest.approx(1)  # a unit direction of an orthonormal leg
        torch.testing.assert_close(Q @ vector, value * vector)
    T = tree(chain, moment)
    shares = T.square().sum(1) / T.square().sum()
    expected = (upper.values.square() / orthogonal.head.square().sum()).tolist()
    assert upper.weights.tolist() == pytest.approx(expected)
    assert unfold(chain, 1.0, moment=moment).levels[0].weights.sum() == pytest.approx(float(shares.sum()))
    assert lower.weights.tolist() == pytest.approx(
        (upper.weights[lower.parents] * lower.values.square()).tolist()
    )


@pytest.mark.parametrize(("n_layers", "weighted"), [(2, False), (2, True), (3, False)])
def test_the_remainder_is_that_of_dense_trees(n_layers, weighted):
    chain = random_chain(n_layers)
    moment = some_moment(chain.embedding.shape[0]) if weighted else None
    T, last = tree(chain, moment), 2.0
    for share in (0.5, 0.8, 0.95):
        pruned = unfold(chain, share, moment=moment)
        expected = float((T - tree(pruned.chain, moment)).square().sum() / T.square().sum())
        assert pruned.remainder == pytest.approx(expected, abs=1e-12)
        assert pruned.remainder <= last
        last = pruned.remainder


def test_the_fewest_eigenvectors_that_hold_the_share_are_kept():
    chain = random_chain(2)
    whole, pruned = unfold(chain, 1.0).levels[0], unfold(chain, 0.8).levels[0]
    n = len(pruned.values)
    torch.testing.assert_close(pruned.weights, whole.weights[:n])
    assert pruned.held >= 0.8 > pruned.held - float(pruned.weights[-1])
    assert pruned.candidates == 3 * chain.widths[1]
    assert [len(level.values) for level in unfold(chain, 1.0, most=4).levels] == [4, 4]


def test_hidden_units_and_outputs_in_another_order_change_nothing():
    chain = random_chain(2)
    order = torch.tensor([2, 0, 1])
    other = chain.through(
        [torch.eye(width).double() * 3 for width in chain.widths],
        [torch.eye(width).double() / 3 for width in chain.widths],
    )
    other = type(chain)(other.embedding, other.layers, other.head[:, order])
    first, second = unfold(chain, 0.7), unfold(other, 0.7)
    assert first.remainder == pytest.approx(second.remainder)
    assert order[second.levels[0].parents].tolist() == first.levels[0].parents.tolist()
    for ours, theirs in zip(first.levels, second.levels, strict=True):
        torch.testing.assert_close(ours.values.abs(), theirs.values.abs())


def test_precision_follows_the_chain_and_shares_are_checked():
    chain = random_chain(2)
    pruned = unfold(chain.to(torch.float32), 0.9)
    assert pruned.chain.dtype == pruned.inputs.dtype == torch.float32
    assert chain_error(chain, pruned.chain) == pytest.approx(pruned.remainder, rel=1e-4)
    for share in (0.0, 1.2):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            unfold(chain, share)
    with pytest.raises(InputError, match="at most 0 eigenvectors"):
        unfold(chain, most=0)
    with pytest.raises(InputError, match="level 2 of a tree; expected 0 to 1"):
        pruned.children(2, 0)
    with pytest.raises(InputError, match="tensor is 0"):
        unfold(type(chain)(chain.embedding, chain.layers, 0 * chain.head))

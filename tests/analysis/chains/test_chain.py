"""Chains against their dense trees in float64: values, norms, isometries, densities, errors of cuts."""

from itertools import islice, pairwise, product

import pytest
import torch

from analysis.chains.chain import Chain, as_chain, chain_error, chain_inner, second_moment
from analysis.chains.diagonal import diagonalise, orthogonalise
from bilinear_lm.errors import InputError
from bilinear_lm.networks.image import ImageClassifier, ImageSettings
from bilinear_lm.tensor import BilinearTensor

SHAPES = {2: (4, (4, 5, 3), 3), 3: (3, (3, 4, 4, 3), 2)}
"""Inputs, widths of legs, outputs, by the number of layers."""


def random_chain(n_layers: int, seed: int = 0, constant: bool = False, d_mlp: int = 9) -> Chain:
    draws = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    d_x, widths, d_out = SHAPES[n_layers]
    layers = tuple(
        BilinearTensor(matrix(below, d_mlp), matrix(below, d_mlp), matrix(d_mlp, above) / 4)
        for below, above in pairwise(widths)
    )
    return Chain(matrix(d_x, widths[0]), layers, matrix(widths[-1], d_out), constant)


def tree(chain: Chain, moment: torch.Tensor | None = None) -> torch.Tensor:
    """T [d_out, d_x^(2^L)], input legs multiplied by a root of the moment: the definition, densely."""
    leg = chain.embedding.T  # [d_0, d_x]
    if moment is not None:
        leg = leg @ torch.linalg.cholesky(moment)
    for layer in chain.layers:
        leg = torch.einsum("aij,ix,jy->axy", layer.dense(), leg, leg).flatten(1)
    return chain.head.T @ leg


def some_moment(d_x: int) -> torch.Tensor:
    x = torch.randn(20, d_x, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return x.T @ x / 20


@pytest.mark.parametrize("n_layers", SHAPES)
def test_the_tree_is_the_polynomial(n_layers):
    chain = random_chain(n_layers)
    x = torch.randn(5, SHAPES[n_layers][0], dtype=torch.float64)
    powers = x
    for _ in range(n_layers):
        powers = torch.einsum("nx,ny->nxy", powers, powers).flatten(1)
    torch.testing.assert_close(chain(x), powers @ tree(chain).T)


@pytest.mark.parametrize(("bias", "residual", "n_layers"), product((False, True), (False, True), (1, 3)))
def test_the_chain_is_the_classifier(bias, residual, n_layers):
    torch.manual_seed(0)
    settings = ImageSettings((2, 3), 5, d_model=7, d_mlp=6, n_layers=n_layers, bias=bias, residual=residual)
    classifier = ImageClassifier(settings).double()
    for name, parameter in classifier.named_parameters():
        if ".b_" in name or name == "b_head":
            torch.nn.init.normal_(parameter)
    chain, x = as_chain(classifier), torch.randn(4, 6, dtype=torch.float64)
    assert chain.constant == (bias or residual)
    assert chain.widths == (7 + chain.constant,) * (n_layers + 1)
    torch.testing.assert_close(chain(x), classifier(x).detach())
    torch.testing.assert_close(diagonalise(chain).chain(x), classifier(x).detach())


@pytest.mark.parametrize(("n_layers", "weighted"), product(SHAPES, (False, True)))
def test_inner_products_and_errors_are_those_of_dense_trees(n_layers, weighted):
    chain, other = random_chain(n_layers), random_chain(n_layers, seed=1, d_mlp=7)
    moment = some_moment(SHAPES[n_layers][0]) if weighted else None
    T, other_T = tree(chain, moment), tree(other, moment)
    assert chain_inner(chain, other, moment) == pytest.approx(float((T * other_T).sum()), rel=1e-10)
    expected = float((T - other_T).square().sum() / T.square().sum())
    assert chain_error(chain, other, moment) == pytest.approx(expected, rel=1e-10)


def test_a_moment_makes_the_mean_square_at_inputs_drawn_one_by_one():
    chain, draws = random_chain(2), torch.Generator().manual_seed(2)
    x = torch.randn(6, 4, generator=draws, dtype=torch.float64)
    h = x @ chain.embedding
    h = chain.layers[0](h[:, None], h[None]).flatten(0, 1)  # every pair of points
    squares = (chain.layers[1](h[:, None], h[None]) @ chain.head).square().sum(-1).mean()
    assert chain_inner(chain, chain, second_moment(x)) == pytest.approx(float(squares))


@pytest.mark.parametrize(("n_layers", "weighted"), product(SHAPES, (False, True)))
def test_orthogonalised_legs_are_isometries_and_the_head_has_the_norm(n_layers, weighted):
    chain = random_chain(n_layers)
    moment = some_moment(SHAPES[n_layers][0]) if weighted else None
    orthogonal = orthogonalise(chain, moment)
    leg = orthogonal.embedding.T if moment is None else orthogonal.embedding.T @ torch.linalg.cholesky(moment)
    for layer, width in zip((None, *orthogonal.layers), orthogonal.widths, strict=True):
        if layer is not None:
            leg = torch.einsum("aij,ix,jy->axy", layer.dense(), leg, leg).flatten(1)
        torch.testing.assert_close(leg @ leg.T, torch.eye(width, dtype=torch.float64), atol=1e-12, rtol=0)
    T = tree(chain, moment)
    torch.testing.assert_close(tree(orthogonal, moment), T)
    assert float(orthogonal.head.norm()) == pytest.approx(float(T.norm()))


def along(T: torch.Tensor, chain: Chain, leg: int, basis: torch.Tensor) -> torch.Tensor:
    """T with its first copy of a leg projected onto the coordinates `basis` of the diagonal chain."""
    below = chain.embedding.T
    for layer in chain.layers[:leg]:
        below = torch.einsum("aij,ix,jy->axy", layer.dense(), below, below).flatten(1)
    projector = (basis @ below).T @ (basis @ below)  # the coordinates are orthonormal
    size = below.shape[1]
    return torch.einsum("axr,xy->ayr", T.reshape(len(T), size, -1), projector).reshape(T.shape)


@pytest.mark.parametrize("n_layers", SHAPES)
def test_one_copy_cut_costs_the_discarded_weight(n_layers):
    chain = random_chain(n_layers)
    diagonal, T = diagonalise(chain), tree(chain)
    for leg, width in enumerate(diagonal.chain.widths):
        for rank in range(1, width + 1):
            cut = along(T, diagonal.chain, leg, torch.eye(width, dtype=torch.float64)[:rank])
            ranks = [*diagonal.chain.widths]
            ranks[leg] = rank
            expected = float((T - cut).square().sum() / T.square().sum())
            assert diagonal.discarded(ranks)[leg] == pytest.approx(expected, abs=1e-12)
    # The same weights by the singular values of the dense unfolding.
    size = SHAPES[n_layers][0]
    unfolded = torch.linalg.svdvals(T.reshape(len(T), size, -1).transpose(0, 1).flatten(1)).square()
    weights = diagonal.weights[0]
    torch.testing.assert_close(weights, (unfolded / unfolded.sum())[: len(weights)], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("n_layers", "weighted"), product(SHAPES, (False, True)))
def test_errors_of_cuts_are_those_of_dense_trees_and_within_the_prediction(n_layers, weighted):
    chain = random_chain(n_layers)
    moment = some_moment(SHAPES[n_layers][0]) if weighted else None
    diagonal, T = diagonalise(chain, moment), tree(chain, moment)
    choices = product(*((1, width - 1, width) for width in diagonal.chain.widths))
    for ranks in islice(choices, 0, None, 4):
        cut = diagonal.truncate(ranks)
        assert cut.widths == ranks
        expected = float((T - tree(cut, moment)).square().sum() / T.square().sum())
        assert diagonal.measured(ranks) == pytest.approx(expected, abs=1e-12)
        low, high = diagonal.predicted(ranks)
        assert low - 1e-12 <= expected <= high + 1e-12


def test_no_directions_cost_less_than_the_first_of_one_leg():
    chain = random_chain(2)
    diagonal, T = diagonalise(chain), tree(chain)
    width = diagonal.chain.widths[1]
    for seed in range(5):
        draws = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(width, 2, generator=draws, dtype=torch.float64)).Q.T
        lost = (T - along(T, diagonal.chain, 1, basis)).square().sum() / T.square().sum()
        assert lost >= diagonal.discarded((*diagonal.chain.widths[:1], 2, *diagonal.chain.widths[2:]))[1]


@pytest.mark.parametrize("n_layers", SHAPES)
def test_coordinates_and_hidden_units_of_the_network_do_not_matter(n_layers):
    chain, draws = random_chain(n_layers), torch.Generator().manual_seed(3)

    def invertible(width: int) -> torch.Tensor:
        return torch.eye(width).double() + torch.randn(width, width, generator=draws).double() / 4

    matrices = [invertible(width) for width in chain.widths]
    same = chain.through(matrices, [torch.linalg.inv(each) for each in matrices])
    order, c = torch.randperm(9, generator=draws), torch.rand(9, generator=draws).double() + 0.5
    layers = [
        BilinearTensor((layer.W_in / c)[:, order], (layer.W_gate * c)[:, order], layer.W_out[order])
        for layer in same.layers
    ]
    same = Chain(same.embedding * 1e3, (layers[0], *layers[1:]), same.head * 1e-3**2**n_layers)
    assert chain_error(chain, same) < 1e-13
    for ours, theirs in zip(diagonalise(chain).weights, diagonalise(same).weights, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_directions_that_carry_nothing_are_left_out():
    chain = random_chain(2)
    write, read = [torch.eye(width).double() for width in chain.widths], []
    write[1] = write[1][:, :2]
    read = [each.T for each in write]
    narrow = chain.through(write, read)
    wide = narrow.through(read, write)  # the same map with coordinates that are always 0
    assert wide.widths == chain.widths
    diagonal = diagonalise(wide)
    assert diagonal.chain.widths[1] == 2
    assert chain_error(narrow, diagonal.chain) < 1e-13


def test_ranks_without_a_share_have_the_least_prediction():
    diagonal = diagonalise(random_chain(2))
    widths = diagonal.chain.widths
    total = sum(diagonal.original_widths)
    for share in (0.0, 0.3, 0.5, 0.7):
        ranks = diagonal.ranks_without(share)
        kept = round((1 - share) * total)
        assert sum(ranks) == min(kept, sum(widths))
        others = [each for each in product(*(range(1, w + 1) for w in widths)) if sum(each) == sum(ranks)]
        assert diagonal.predicted(ranks)[1] == pytest.approx(min(diagonal.predicted(o)[1] for o in others))
    assert diagonal.ranks_without(1.0) == (1, 1, 1)


def test_single_precision_comes_back_in_single_precision():
    chain = random_chain(3)
    single = diagonalise(chain.to(torch.float32))
    assert single.chain.dtype == single.weights[0].dtype == torch.float32
    assert chain_error(chain, single.chain) < 1e-10


def test_what_is_no_chain_is_refused():
    chain = random_chain(2)
    with pytest.raises(InputError, match=r"write widths \[4, 5, 3\] and read widths \[4, 5, 4\]"):
        Chain(chain.embedding, chain.layers, torch.randn(4, 3).double())
    with pytest.raises(InputError, match="expected one precision"):
        Chain(chain.embedding.float(), chain.layers, chain.head)
    with pytest.raises(InputError, match=r"points of shape \[2, 3\]; expected a last axis of 4"):
        chain(torch.randn(2, 3).double())
    with pytest.raises(InputError, match="expected the same"):
        chain_inner(chain, random_chain(3))
    with pytest.raises(InputError, match=r"second moment \[3, 3\] of the inputs; expected \[4, 4\]"):
        chain_inner(chain, chain, torch.eye(3).double())
    with pytest.raises(InputError, match=r"for legs of widths \[4, 5, 3\]"):
        chain.through([torch.eye(4).double()] * 3, [torch.eye(4).double()] * 3)
    with pytest.raises(InputError, match="kind 'relu' has no tensor"):
        as_chain(ImageClassifier(ImageSettings((2, 2), kind="relu")))
    zero = Chain(chain.embedding, chain.layers, 0 * chain.head)
    with pytest.raises(InputError, match="tensor is 0"):
        diagonalise(zero)
    with pytest.raises(InputError, match="tensor is 0"):
        chain_error(zero, chain)
    with pytest.raises(InputError, match="leg 0 of a chain is 0"):
        orthogonalise(Chain(0 * chain.embedding, chain.layers, chain.head))
    with pytest.raises(InputError, match="no points"):
        second_moment(torch.empty(0, 3))


def test_ranks_that_are_not_there_are_refused():
    diagonal = diagonalise(random_chain(2))
    with pytest.raises(InputError, match="2 ranks; expected 3"):
        diagonal.truncate((1, 1))
    with pytest.raises(InputError, match="rank 9 of leg 1; expected 1 to 5"):
        diagonal.predicted((1, 9, 1))
    with pytest.raises(InputError, match=r"share 1\.5 of dimensions; expected 0 to 1"):
        diagonal.ranks_without(1.5)

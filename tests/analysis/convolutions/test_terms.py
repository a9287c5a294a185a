"""Vectors of interest as sums of terms: exact splits and sums, controls, refusals."""

from itertools import product

import jaxtyping
import pytest
import torch

from analysis.convolutions.interest import interest_vectors, split_direction
from analysis.convolutions.terms import decompose_terms, random_terms
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d
from bilinear_lm.networks.convolutional import ConvolutionalNetwork, ConvolutionalSettings
from bilinear_lm.numerics import memory

DOUBLE = torch.float64


def with_biases(module):
    for name, parameter in module.named_parameters():
        if "b_" in name:
            torch.nn.init.normal_(parameter)
    return module.double()


@pytest.fixture
def block():
    torch.manual_seed(0)
    return with_biases(BilinearBlock(4, bias=True))


@pytest.fixture
def terms(block):
    return decompose_terms(block, torch.randn(4, 5, 6, dtype=DOUBLE))


@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 2, 2), (1, 3, 3)])
def test_a_split_is_the_vector(shape):
    torch.manual_seed(0)
    vector = torch.randn(shape, dtype=DOUBLE)
    parts = split_direction(vector)
    torch.testing.assert_close(
        torch.einsum("j,jc,jhw->chw", parts.sizes, parts.channels, parts.spatial), vector
    )
    one = torch.eye(len(parts.sizes), dtype=DOUBLE)
    torch.testing.assert_close(parts.channels @ parts.channels.T, one)
    torch.testing.assert_close(parts.spatial.flatten(1) @ parts.spatial.flatten(1).T, one)
    assert (parts.channels.gather(1, parts.channels.abs().argmax(1, keepdim=True)) > 0).all()
    assert float(parts.shares[-1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "bias", "hidden"),
    product((1, 2), (0, 1), (1, 2), (False, True), (None, 3)),
)
def test_the_sum_of_all_terms_is_the_value(stride, padding, dilation, bias, hidden):
    torch.manual_seed(0)
    placing = {"stride": stride, "padding": padding, "dilation": dilation}
    conv = with_biases(BilinearConv2d(3, 4, 3, **placing, bias=bias, hidden=hidden))
    x = torch.randn(6, 3, 8, 7, dtype=DOUBLE)
    y = conv(x).detach()
    vector = torch.randn(y.shape[1:], dtype=DOUBLE)
    expected = (y * vector).sum((1, 2, 3))
    on = decompose_terms(conv, vector).on(x)
    assert float((on.total - expected).abs().max()) <= 1e-12 * float(expected.std())
    assert bool(on.direct.any()) == bias


def test_of_a_block_the_residual_path_is_direct():
    torch.manual_seed(0)
    plain = BilinearBlock(4).double()
    vector, x = torch.randn(4, 5, 6, dtype=DOUBLE), torch.randn(6, 4, 5, 6, dtype=DOUBLE)
    on = decompose_terms(plain, vector).on(x)
    torch.testing.assert_close(on.direct, (x * vector).sum((1, 2, 3)))
    torch.testing.assert_close(on.total, (plain(x).detach() * vector).sum((1, 2, 3)))


def test_a_term_is_spatial_part_times_squares(block, terms):
    x, index = torch.randn(6, 4, 5, 6, dtype=DOUBLE), 11
    part = int(terms.part[index])
    along = block.conv.patches(x) @ terms.filters[index].flatten()
    value = (along.square() * terms.parts.spatial[part]).sum((1, 2))
    value = value * terms.parts.sizes[part] * terms.eigenvalues[index]
    torch.testing.assert_close(terms.values(x)[:, index], value)
    torch.testing.assert_close(terms.maps(x).sum((2, 3)), terms.values(x))
    torch.testing.assert_close(terms.weights[index], terms.parts.sizes[part] * terms.eigenvalues[index].abs())


def test_some_terms_have_an_exact_rest(block, terms):
    x = torch.randn(6, 4, 5, 6, dtype=DOUBLE)
    order = terms.by_weight
    assert (terms.weights[order].diff() <= 0).all()
    some, others = terms[order[:5]], terms[order[5:]]
    assert (len(some), len(others)) == (5, len(terms) - 5)
    whole = some.values(x).sum(1) + others.values(x).sum(1) + terms.direct(x)
    torch.testing.assert_close(whole, terms.on(x).total)


def test_dropped_terms_are_replaced_by_their_means(terms):
    x = torch.randn(20, 4, 5, 6, dtype=DOUBLE)
    on, chosen = terms.on(x), [3, 0, 7]
    rest = [index for index in range(len(terms)) if index not in chosen]
    expected = on.direct + on.values[:, rest].sum(1) + on.values[:, chosen].mean(0).sum()
    torch.testing.assert_close(on.drop(chosen), expected)
    torch.testing.assert_close(on.keep(rest), expected)
    torch.testing.assert_close(on.drop([]), on.total)
    torch.testing.assert_close(on.keep(range(len(terms))), on.total)
    means = torch.zeros(len(terms), dtype=DOUBLE)
    torch.testing.assert_close(on.drop(chosen, means), on.direct + on.values[:, rest].sum(1))
    other = random_terms(terms).on(x)
    taken = other.values[:, chosen] - other.values[:, chosen].mean(0)
    torch.testing.assert_close(on.drop(chosen, control=other), on.total - taken.sum(1))


def test_moments_over_batches(terms):
    x = torch.randn(20, 4, 5, 6, dtype=DOUBLE)
    on, moments = terms.on(x), terms.moments(x.split(7))
    torch.testing.assert_close(moments.mean, on.values.mean(0))
    torch.testing.assert_close(moments.variance, on.values.var(0, correction=0))
    centred, whole = on.direct - on.direct.mean(), on.total - on.total.mean()
    direct = (centred * whole).mean() / whole.square().mean()
    assert float(moments.share.sum() + direct) == pytest.approx(1)
    assert (moments.variance[moments.by_variance].diff() <= 0).all()


def test_images_go_through_in_pieces(terms, monkeypatch):
    x = torch.randn(20, 4, 5, 6, dtype=DOUBLE)
    whole = terms.on(x)
    monkeypatch.setattr(memory, "CHUNK_BYTES", 1)
    torch.testing.assert_close(terms.on(x).total, whole.total)


def test_random_terms_stay_in_the_range_and_keep_the_spectrum(terms):
    x = torch.randn(30, 4, 5, 6, dtype=DOUBLE)
    control = random_terms(terms, 1)
    torch.testing.assert_close(control.eigenvalues, terms.eigenvalues)
    assert not torch.allclose(control.filters, terms.filters)
    for part in range(len(terms.parts.sizes)):
        rows, random = (each.filters[terms.part == part].flatten(1) for each in (terms, control))
        torch.testing.assert_close(random.T @ random, rows.T @ rows)  # one projector
    alike = random_terms(terms, 1, energy="variance", x=x)
    torch.testing.assert_close(alike.values(x).var(0), terms.values(x).var(0))
    torch.testing.assert_close(alike.eigenvalues.sign(), terms.eigenvalues.sign())
    torch.testing.assert_close(random_terms(terms, 1).filters, control.filters)
    assert not torch.allclose(random_terms(terms, 2).filters, control.filters)


@pytest.mark.parametrize("bias", [False, True])
def test_vectors_of_interest_of_a_hidden_layer(bias):
    torch.manual_seed(0)
    shape = {"image_shape": (2, 4, 4), "channels": (3,), "n_blocks": 1, "n_outputs": 5, "d_hidden": 6}
    network = with_biases(ConvolutionalNetwork(ConvolutionalSettings(**shape, bias=bias)))
    tensor, features = network.tensor(1), torch.randn(7, 3, 4, 4, dtype=DOUBLE)
    u = torch.randn(5, dtype=DOUBLE)
    found = interest_vectors(tensor, u, (3, 4, 4))
    along = torch.einsum("kchw,nchw->nk", found.vectors, features)
    quadratic = (along.square() * found.values).sum(1)
    even = (tensor(features.flatten(1)) + tensor(-features.flatten(1))) / 2 - tensor(torch.zeros(48).double())
    torch.testing.assert_close(quadratic, even @ u)
    assert interest_vectors(tensor, u, (3, 4, 4), k=2).vectors.shape == (2, 3, 4, 4)


def test_what_does_not_fit_is_refused(block, terms, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    x = torch.randn(6, 4, 5, 6, dtype=DOUBLE)
    with pytest.raises(InputError, match=r"a vector of interest \[4, 30\]; expected \[c, h, w\]"):
        decompose_terms(block, torch.randn(4, 30).double())
    with pytest.raises(InputError, match=r"a direction of channels \[3, 3\]; expected \[..., 4\]"):
        decompose_terms(block, torch.randn(3, 5, 6).double())
    with pytest.raises(InputError, match=r"places; expected the \[5, 6\] of the vector of interest"):
        terms.values(x[..., :5])
    with pytest.raises(InputError, match=r"images \[4, 5, 6\]; expected \[n, 4, h, w\]"):
        terms.on(x[0])
    with pytest.raises(InputError, match=r"images \[6, 3, 5, 6\]; expected"):
        terms.on(x[:, :3])
    with pytest.raises(InputError, match="term 99 does not exist"):
        terms.on(x).drop([99])
    with pytest.raises(InputError, match="expected each once"):
        terms.on(x).keep([1, 1])
    with pytest.raises(InputError, match=r"means \[3\] for 32 terms"):
        terms.on(x).drop([1], torch.zeros(3))
    with pytest.raises(InputError, match="no batches of images"):
        terms.moments([])
    with pytest.raises(InputError, match="energy 'variance' without images"):
        random_terms(terms, energy="variance")
    with pytest.raises(InputError, match="energy 'spectrum' with images"):
        random_terms(terms, x=x)
    with pytest.raises(InputError, match=r"features \(3, 4\) for a tensor of 36 inputs"):
        interest_vectors(block.tensor(), torch.ones(4).double(), (3, 4))

"""The path expansion of an MLP against the module's own forward, and its terms against autograd."""

import pytest
import torch

import bilinear_lm.numerics.memory
from analysis.paths.measured import measure
from analysis.paths.mlp import PathExpansion, expand_mlp
from bilinear_lm import BilinearTensor, InputError, mlp_tensor

IDS = [3, 1, 4, 1, 5, 9, 2]
OPTIONS = {
    "norms": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "Qwen2": {"family": "Qwen2"},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(family_model, request):
    return family_model(**request.param).double()


def random_parts(biases=True, n=4, n_pos=3, d=5, h=7):
    factors = [draw(d, h), draw(d, h, seed=1), draw(h, 6, seed=2)]
    if biases:
        factors += [draw(h, seed=3), draw(h, seed=4), draw(6, seed=5)]
    tensor = BilinearTensor.from_layer(*factors)
    return tensor, draw(n, n_pos, d, seed=6), draw(n_pos, seed=7).abs() + 0.5, draw(2, 6, seed=8)


def same(a, b, atol=1e-12):
    return all(
        torch.allclose(getattr(a, name), getattr(b, name), atol=atol)
        for name in ("quadratic", "linear", "constant")
    )


@pytest.mark.parametrize("layer", [0, 1])
def test_all_terms_are_the_mlp(model, layer):
    measured, u = measure(model, IDS), draw(2, 3, 16)
    part = measured.layers[layer]
    expansion = expand_mlp(mlp_tensor(model, layer), measured.before_mlp(layer).values, part.ln2_scale, u)
    theirs = torch.einsum("pd,abd->abp", part.mlp_out, u)
    assert expansion.total.shape == (2, 3, 7)
    assert torch.allclose(expansion.total, theirs, atol=1e-11)
    assert torch.equal(expansion.quadratic, expansion.quadratic.mT)
    pairs = expansion.pairs
    assert torch.equal(pairs, pairs.triu())
    assert torch.allclose(pairs.sum((-1, -2)), expansion.quadratic.sum((-1, -2)))


def test_terms_are_derivatives_of_the_module(model):
    """With a factor on each component: constant, gradient and half the second derivatives at zero."""
    measured, u, at = measure(model, IDS), draw(16), 4
    block, part, components = model.model.layers[1], measured.layers[1], measured.before_mlp(1).values
    gamma = block.post_attention_layernorm.weight

    def along_u(factors):
        return block.mlp((factors @ components[:, at]) / part.ln2_scale[at] * gamma) @ u

    zero = torch.zeros(len(components), dtype=torch.float64)
    expansion = expand_mlp(mlp_tensor(model, 1), components, part.ln2_scale, u)
    hessian = torch.autograd.functional.hessian(along_u, zero)
    assert torch.allclose(expansion.quadratic[at], hessian / 2, atol=1e-12)
    gradient = torch.autograd.functional.jacobian(along_u, zero)
    assert torch.allclose(expansion.linear[at], gradient, atol=1e-12)
    assert torch.allclose(expansion.constant[at], along_u(zero), atol=1e-12)


def test_by_hand():
    """x0 · x1 with components (1, 2) and (3, 5), divided by 2: diagonal 2/4 and 15/4, cross (5 + 6)/2/4."""
    one = torch.ones(1, 1)
    tensor = BilinearTensor(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]), one)
    components = torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]])
    expansion = expand_mlp(tensor, components, torch.tensor([2.0]), one[0])
    assert expansion.quadratic.tolist() == [[[0.5, 1.375], [1.375, 3.75]]]
    assert expansion.pairs.tolist() == [[[0.5, 2.75], [0.0, 3.75]]]
    assert expansion.total.tolist() == [7.0]
    assert expansion.linear.tolist() == [[0.0, 0.0]]
    assert expansion.constant.tolist() == [0.0]


@pytest.mark.parametrize("biases", [True, False])
def test_the_factors_of_the_tensor_do_not_matter(biases):
    tensor, *rest = random_parts(biases)
    expansion = expand_mlp(tensor, *rest)
    order = torch.randperm(tensor.d_mlp, generator=torch.Generator().manual_seed(0))
    gate, into, out = tensor.W_gate, tensor.W_in, tensor.W_out
    for factors in (
        (gate[:, order], into[:, order], out[order]),
        (into, gate, out),
        (gate * -3, into / -3, out),
    ):
        assert same(expand_mlp(BilinearTensor(*factors, tensor.constant), *rest), expansion)


def test_pieces_are_the_whole(monkeypatch):
    parts = random_parts()
    whole = expand_mlp(*parts)
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 1)
    assert same(expand_mlp(*parts), whole, atol=1e-14)


def test_groups_and_division():
    tensor, components, scale, u = random_parts()
    expansion = expand_mlp(tensor, components, scale, u)
    together = torch.stack([components[0] + components[2], components[1], components[3]])
    grouped = expansion.grouped(torch.tensor([0, 1, 0, 2]))
    assert same(grouped, expand_mlp(tensor, together, scale, u))
    divided = expansion.divided(scale)
    assert isinstance(divided, PathExpansion)
    assert torch.allclose(divided.total, expansion.total / scale)


def test_input_that_cannot_be_used(family_model):
    tensor, components, scale, u = random_parts()
    with pytest.raises(InputError, match=r"components of a path expansion: got \[4, 3, 4\]; .* of width 5"):
        expand_mlp(tensor, components[..., :4], scale, u)
    with pytest.raises(InputError, match=r"output directions of a path expansion: got \[2, 5\]; .*of 6"):
        expand_mlp(tensor, components, scale, u[:, :5])
    with pytest.raises(InputError, match=r"scale of a path expansion: got \[2\]; .* the 3 positions"):
        expand_mlp(tensor, components, scale[:2], u)
    batch = BilinearTensor(
        *(factor.expand(2, -1, -1) for factor in (tensor.W_gate, tensor.W_in, tensor.W_out))
    )
    with pytest.raises(InputError, match="takes one tensor"):
        expand_mlp(batch, components, scale, u)
    expansion = expand_mlp(tensor, components, scale, u)
    for groups in ([0, 1], [0, 1, -1, 0]):
        with pytest.raises(InputError, match="groups of components"):
            expansion.grouped(torch.tensor(groups))
    with pytest.raises(InputError, match="bilinear-lm convert"):
        mlp_tensor(family_model(hidden_act="silu"), 0)

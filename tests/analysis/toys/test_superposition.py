"""Features in superposition: known frames and their shapes, gauges, closed forms by quadrature, refusals."""

import math

import pytest
import torch

from analysis.toys.superposition import canonical_encoder, dimensionality, geometry, solo_reconstruction
from bilinear_lm.errors import InputError
from bilinear_lm.networks.toy import ToyModel, ToySettings
from bilinear_lm.tensor import BilinearTensor


def polygon(n: int) -> torch.Tensor:
    angles = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    return torch.stack([angles.cos(), angles.sin()], -1)


TETRAHEDRON = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
FRAMES = {
    "digon": torch.tensor([[1.0], [-1.0]], dtype=torch.float64),
    "triangle": polygon(3),
    "tetrahedron": TETRAHEDRON,
    "pentagon": polygon(5)[[2, 0, 4, 1, 3]],
}


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(d)).double()).Q


@pytest.mark.parametrize("name", FRAMES)
def test_shapes_are_recognised_in_any_rotation_and_with_noise(name):
    frame = FRAMES[name] @ rotation(FRAMES[name].shape[1])
    noisy = frame + 0.02 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0)).double()
    (shape,) = geometry(noisy).shapes
    assert (shape.name, shape.rank) == (name, frame.shape[1])
    assert shape.error < 0.1
    torch.testing.assert_close(
        dimensionality(frame), torch.full((len(frame),), frame.shape[1] / len(frame)).double()
    )


def test_shapes_in_orthogonal_spaces_are_told_apart():
    frame = torch.block_diag(polygon(5), FRAMES["digon"], torch.eye(1).double(), TETRAHEDRON)
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(0))
    with_absent = torch.cat(
        [(frame @ rotation(frame.shape[1]))[order], torch.zeros(2, frame.shape[1]).double()]
    )
    found = geometry(with_absent)
    assert sorted(shape.name for shape in found.shapes) == ["alone", "digon", "pentagon", "tetrahedron"]
    assert found.absent == (12, 13)
    assert found.count("pentagon") == 1
    pentagon = next(shape for shape in found.shapes if shape.name == "pentagon")
    assert sorted(order[list(pentagon.features)].tolist()) == [0, 1, 2, 3, 4]


def test_random_directions_have_no_shape():
    draws = torch.Generator().manual_seed(0)
    names = [
        shape.name
        for _ in range(100)
        for shape in geometry(torch.randn(5, 2, generator=draws, dtype=torch.float64)).shapes
    ]
    assert sum(name == "pentagon" for name in names) == 0
    assert sum(name == "other" for name in names) > 75
    square = torch.cat([polygon(4), polygon(4) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()])
    assert [shape.name for shape in geometry(square).shapes] == ["other"]


@pytest.mark.parametrize("name", FRAMES)
def test_the_canonical_encoder_is_free_of_the_basis(name):
    frame = FRAMES[name]
    d = frame.shape[1]
    basis = torch.randn(3, d, d, generator=torch.Generator().manual_seed(1)).double()
    canonical = canonical_encoder(frame @ basis)
    gram = canonical @ canonical.mT
    torch.testing.assert_close(
        gram, canonical_encoder(frame).matmul(canonical_encoder(frame).T).expand_as(gram)
    )
    torch.testing.assert_close(gram.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((3,), float(d)).double())
    assert [shape.name for shape in geometry(canonical[0]).shapes] == [name]


def test_dimensionality_is_the_formula():
    E = torch.randn(2, 6, 3, dtype=torch.float64)
    for k in range(2):
        for i in range(6):
            unit = E[k, i] / E[k, i].norm()
            expected = E[k, i].norm() ** 2 / sum((unit @ E[k, j]) ** 2 for j in range(6))
            torch.testing.assert_close(dimensionality(E)[k, i], expected)
    assert dimensionality(torch.zeros(2, 3)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bias", [False, True])
def test_solo_reconstruction_is_the_integral(bias):
    draws = torch.Generator().manual_seed(0)
    model = ToyModel(ToySettings(4, 2, 4, None, bias=bias), (3,), draws).double().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "b_" in name:
            parameter.data.normal_(generator=draws)
    steps = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    for i in range(4):
        y = model(steps[:, None] * torch.eye(4).double()[i])[..., i]
        expected = 1 - (y - steps).square().mean(-1) / steps.var(correction=0)
        torch.testing.assert_close(
            solo_reconstruction(model.folded()[0])[:, i], expected, rtol=1e-6, atol=1e-6
        )


def test_a_layer_that_returns_its_inputs_represents_them():
    eye, one = torch.eye(3).double(), torch.zeros(1, 3).double()
    identity = BilinearTensor(torch.cat([eye, one]), torch.cat([0 * eye, one + 1]), eye, constant=True)
    torch.testing.assert_close(solo_reconstruction(identity), torch.ones(3).double())


def test_refusals():
    with pytest.raises(InputError, match="columns depend on each other"):
        canonical_encoder(torch.ones(3, 2))
    with pytest.raises(InputError, match="columns depend on each other"):
        canonical_encoder(torch.randn(2, 3))
    with pytest.raises(InputError, match="the encoder holds NaN"):
        dimensionality(torch.full((3, 2), math.nan))
    with pytest.raises(InputError, match=r"tolerance 0\.5; expected above 0, 0\.3 at most"):
        geometry(torch.ones(3, 2), tolerance=0.5)
    with pytest.raises(InputError, match=r"threshold 2\.0; expected 0 to 1"):
        geometry(torch.ones(3, 2), threshold=2.0)
    with pytest.raises(InputError, match="3 inputs and 1 outputs; expected each input to come back"):
        solo_reconstruction(ToyModel(ToySettings(3)).folded()[0])

"""Figures of classifiers: each is written, shows what it is given, and refuses what is no image."""

import pytest
import torch

import analysis
from analysis import save_figure
from bilinear_lm import InputError

from .small import CLASSES, KINDS, SHAPE, classifier, images

LABELS = torch.arange(20) % CLASSES


@pytest.fixture(scope="module")
def model():
    return classifier(**KINDS["with biases"])


@pytest.fixture(scope="module")
def masks(model):
    return analysis.adversarial_masks(model, 2, labels=[1, 3])


@pytest.fixture(scope="module")
def study(model, masks):
    return analysis.mask_study(model, images(20), LABELS, masks, [0.0, 1.0])


@pytest.fixture(scope="module")
def ranks(model):
    return analysis.accuracy_by_rank(model, images(20), LABELS, (1, 2), n_random=2)


@pytest.fixture(scope="module")
def radii(model):
    return analysis.compare_radii(model, images(20), LABELS, steps=5)


def test_all_figures_are_written(tmp_path, model, masks, study, ranks, radii):
    x = images(20)
    eigen = analysis.class_eigenvectors(model, classes=[0, 3])
    figures = {
        "grid": analysis.eigenvector_grid(eigen, 1, names=["a", "b", "c", "$d"]),
        "directions": analysis.directions_grid(analysis.image_directions(model, 1, 1)),
        "spectra": analysis.class_spectra_plot(eigen, analysis.class_eigenvectors(classifier(1))),
        "ranks": analysis.rank_plot(ranks),
        "masks": analysis.masks_plot(masks, {"one": study, "two": study}),
        "effects": analysis.mask_effects_plot(study, "masks of $two"),
        "explained": analysis.explanation_plot(analysis.explain_prediction(model, x[0], 3), x[0]),
        "radii": analysis.radii_plot(radii),
    }
    for name, figure in figures.items():
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 2000
    grid = [axes for axes in figures["grid"].axes if axes.images]
    assert len(grid) == 2 * 2
    for axes in grid:
        (low, high) = axes.images[0].get_clim()
        assert low == -high  # white is 0
    bars = figures["explained"].axes[-1].patches
    assert len(bars) == 3 + 3


def curve(line):
    return torch.tensor(line.get_xdata()), torch.tensor(line.get_ydata(), dtype=torch.float64)


def test_curves_are_the_numbers_of_the_results(model, study, ranks, radii):
    """Of ranks, masks and distances; those of distances at images that are kept up to there, counted."""
    whole, kept, random = analysis.rank_plot(ranks).axes[0].lines
    assert whole.get_ydata()[0] == ranks.whole
    assert kept.get_ydata() == pytest.approx(ranks.accuracy.tolist())
    assert random.get_ydata() == pytest.approx(ranks.random.mean(0).tolist())
    accuracy, turned = analysis.mask_effects_plot(study).axes
    for axes, measure in ((accuracy, "accuracy"), (turned, "turned")):
        for line, effect in zip(axes.lines, (study.masks, study.eigenvectors, study.permuted), strict=False):
            assert line.get_ydata() == pytest.approx(getattr(effect, measure).mean(0).tolist())
    assert accuracy.lines[3].get_xydata().tolist() == [[0, pytest.approx(study.accuracy)]]
    for line, distances in zip(
        analysis.radii_plot(radii).axes[0].lines, (radii.certified, radii.attacked, radii.random), strict=True
    ):
        lengths, shares = curve(line)
        assert lengths.tolist() == [0.0, *distances.sort().values.tolist()]
        for length, share in zip(lengths, shares, strict=True):
            if length > 0:
                assert share == pytest.approx(float((distances >= length).double().mean()))


def test_eigenvectors_of_a_class_with_one_sign_leave_places_empty():
    """A class whose logit is a sum of squares has no negative eigenvalue."""
    square = classifier(kind="square")
    square.layers[0].W_out.data = torch.eye(15, 12, dtype=torch.float64)
    square.W_head.data[:] = 1.0
    square.W_head.data[:, 1] = torch.linspace(-1, 1, 12)
    eigen = analysis.class_eigenvectors(square, classes=[0, 1])
    tiles = analysis.eigenvector_grid(eigen, 2).axes
    drawn = [bool(axes.images) for axes in tiles]
    assert drawn == [True, True, False, False, False, *[True, True, False, True, True]]  # a gap in the middle


def test_more_eigenvectors_than_there_are_leave_no_more_places():
    eigen = analysis.class_eigenvectors(classifier(), k=3)
    assert len(analysis.eigenvector_grid(eigen, 9).axes) == CLASSES * (2 * 3 + 1)


def test_vectors_of_a_tensor_of_pixels_need_a_shape():
    eigen = analysis.class_eigenvectors(classifier().pixel_tensor())
    with pytest.raises(InputError, match=r"images of \[20\] for 20 pixels; expected height and width"):
        analysis.eigenvector_grid(eigen, 1)
    assert analysis.eigenvector_grid(eigen, 1, image_shape=SHAPE)


def test_an_image_of_other_pixels_is_not_the_one_explained():
    explanation = analysis.explain_prediction(classifier(), images(1)[0], 2)
    with pytest.raises(InputError, match=r"an image \[4, 4\]; expected height and width, 20 pixels"):
        analysis.explanation_plot(explanation, torch.ones(4, 4))

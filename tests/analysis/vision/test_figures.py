"""Figures of classifiers: each is written, shows what it is given, and refuses what is no image."""

import pytest
import torch

import analysis
from analysis import save_figure
from bilinear_lm import InputError

from .small import CLASSES, KINDS, SHAPE, classifier, images


def made():
    model, x = classifier(**KINDS["with biases"]), images(20)
    labels = torch.arange(20) % CLASSES
    masks = analysis.adversarial_masks(model, 2, labels=[1, 3])
    eigen = analysis.class_eigenvectors(model, classes=[0, 3])
    study = analysis.mask_study(model, x, labels, masks, [0.0, 1.0])
    return {
        "grid": analysis.eigenvector_grid(eigen, 1, names=["a", "b", "c", "$d"]),
        "directions": analysis.directions_grid(analysis.image_directions(model, 1, 1)),
        "spectra": analysis.class_spectra_plot(eigen, analysis.class_eigenvectors(classifier(1))),
        "ranks": analysis.rank_plot(analysis.accuracy_by_rank(model, x, labels, (1, 2), n_random=2)),
        "masks": analysis.masks_plot(masks, {"one": study, "two": study}),
        "explained": analysis.explanation_plot(analysis.explain_prediction(model, x[0], 3), x[0]),
        "radii": analysis.radii_plot(analysis.compare_radii(model, x, labels, steps=5)),
    }


def test_all_figures_are_written(tmp_path):
    figures = made()
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


def test_vectors_of_a_tensor_of_pixels_need_a_shape():
    eigen = analysis.class_eigenvectors(classifier().pixel_tensor())
    with pytest.raises(InputError, match=r"images of \[20\] for 20 pixels; expected height and width"):
        analysis.eigenvector_grid(eigen, 1)
    assert analysis.eigenvector_grid(eigen, 1, image_shape=SHAPE)


def test_an_image_of_other_pixels_is_not_the_one_explained():
    explanation = analysis.explain_prediction(classifier(), images(1)[0], 2)
    with pytest.raises(InputError, match=r"an image \[4, 4\]; expected height and width, 20 pixels"):
        analysis.explanation_plot(explanation, torch.ones(4, 4))

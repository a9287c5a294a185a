"""Figures of image classifiers show the numbers that they are given."""

import pytest
import torch

from analysis.plots import save_figure
from analysis.vision import (
    accuracy_by_rank,
    adversarial_masks,
    class_eigenvectors,
    compare_radii,
    mask_study,
)
from analysis.vision_plots import (
    class_spectra_plot,
    eigenvector_plot,
    mask_plot,
    radii_plot,
    rank_plot,
    strongest_of_both,
)
from bilinear_lm.networks import ImageClassifier, ImageSettings


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return ImageClassifier(ImageSettings((4, 4), n_classes=3, d_model=8, d_mlp=8))


@pytest.fixture(scope="module")
def images():
    return torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def test_eigenvectors_of_both_signs_in_order(classifier):
    eigen = class_eigenvectors(classifier)
    values, images = strongest_of_both(eigen, 3)
    dense = classifier.pixel_tensor().dense()  # [16, 16, 3] in one order or another
    forms = dense if dense.shape[0] == 3 else dense.movedim(-1, 0)
    spectra = torch.linalg.eigvalsh(forms.double())
    torch.testing.assert_close(values[:, :3].double(), spectra.flip(1)[:, :3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values[:, 3:].double(), spectra[:, :3], atol=1e-5, rtol=1e-4)
    along = torch.einsum("cip,cpq,ciq->ci", images.flatten(2), forms, images.flatten(2))
    torch.testing.assert_close(along, values, atol=1e-5, rtol=1e-4)


def test_signs_that_a_class_lacks_are_zeros():
    square = ImageClassifier(ImageSettings((4, 4), n_classes=2, d_model=4, d_mlp=4, kind="square"))
    square.W_head.data = square.W_head.data * 0
    square.layers[0].W_out.data = torch.eye(6, 4)
    square.W_head.data[:, :] = 1.0  # positive forms alone
    values, _ = strongest_of_both(class_eigenvectors(square), 2)
    assert (values[:, :2] > 0).all()
    assert (values[:, 2:] > -1e-5).all()


def test_all_figures_are_drawn(tmp_path, classifier, images):
    x, labels = images
    eigen, masks = class_eigenvectors(classifier), adversarial_masks(classifier, k=1)
    ranks = accuracy_by_rank(classifier, x, labels, (1, 2, 5))
    study = mask_study(classifier, x, labels, masks, (1.0, 2.0))
    radii = compare_radii(classifier, x, labels, steps=10)
    figures = {
        "eigenvectors": eigenvector_plot(eigen, 2, ["a", "$b", "<c>"]),
        "spectra": class_spectra_plot(eigen.values, eigen.values * 0),
        "ranks": rank_plot(ranks),
        "masks": mask_plot(study),
        "radii": radii_plot(radii),
    }
    for name, figure in figures.items():
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    whole, kept, _ = figures["ranks"].axes[0].lines
    assert whole.get_ydata()[0] == ranks.whole
    assert kept.get_ydata() == pytest.approx(ranks.accuracy.tolist())
    turned = figures["masks"].axes[0].lines[0].get_ydata()
    assert turned == pytest.approx(study.masks.turned.mean(0).tolist())
    certified, attacked, _ = (line.get_ydata() for line in figures["radii"].axes[0].lines)
    assert certified[0] == pytest.approx(float((radii.certified > 0).double().mean()))
    assert all(high >= low - 1e-9 for low, high in zip(certified, attacked, strict=True))
    assert len(figures["eigenvectors"].axes) == 3 * 4

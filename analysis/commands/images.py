"""The page, figures and numbers that `bilinear-lm images` writes about a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilinear_lm.images.data import ImageData
    from bilinear_lm.networks.image import ImageClassifier

PAGE = "images.html"


def write_classifier_reading(
    classifier: ImageClassifier,
    data: ImageData,
    folder: Path,
    *,
    n_eigenvectors: int = 4,
    certified: int = 100,
    seed: int = 0,
    training: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes images.html, eigenvectors.png, spectra.png, ranks.png, masks.png and radii.png into a folder.

    Returns the numbers on the page. `training` is told on the page by name and value.
    """
    from analysis.plots import save_figure
    from analysis.report.classifiers.collect import collect_classifier
    from analysis.report.classifiers.page import classifier_page
    from analysis.vision.figures import class_spectra_plot, eigenvector_grid, radii_plot, rank_plot
    from analysis.vision.mask_figures import masks_plot
    from bilinear_lm.files import write_text

    reading = collect_classifier(classifier, data, certified=certified, seed=seed)
    figures = {
        "eigenvectors": eigenvector_grid(reading.eigen, n_eigenvectors, names=data.class_names),
        "spectra": class_spectra_plot(reading.eigen, reading.untrained),
        "ranks": rank_plot(reading.ranks),
        "radii": radii_plot(reading.radii),
    }
    if reading.masks is not None and reading.masked is not None:
        figures["masks"] = masks_plot(reading.masks, reading.masked, names=data.class_names)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    page = classifier_page(reading, n_eigenvectors=n_eigenvectors, training=training)
    write_text(folder / PAGE, page)
    return reading.record()

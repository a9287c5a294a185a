"""The page of an image classifier of one bilinear layer.

Whatever comes from data or their names is escaped where it enters the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

import torch

from analysis.report.classifiers.collect import ClassifierReading, Explained
from analysis.report.classifiers.pictures import drawing, grey_image, signed_image
from analysis.report.document import document
from analysis.report.html import numbers, signed
from analysis.spectra.eigen import effective_rank
from analysis.vision.figures import class_spectra_plot, radii_plot, rank_plot
from analysis.vision.mask_figures import mask_effects_plot

_SECTIONS = {
    "classifier": "The classifier",
    "classes": "What each class looks for",
    "spectra": "How many eigenvectors it takes",
    "predictions": "Predictions explained",
    "masks": "Masks",
    "robustness": "What no change can do",
}


def classifier_page(
    reading: ClassifierReading, *, n_eigenvectors: int = 4, training: Mapping[str, str] | None = None
) -> str:
    """A self-contained page about a classifier, with `training` told by name and value."""
    items = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _SECTIONS.items())
    main = "\n".join(
        [
            _header(reading, training or {}),
            _classes(reading, n_eigenvectors),
            _spectra(reading),
            _predictions(reading),
            _masks(reading),
            _robustness(reading),
        ]
    )
    title = f"What a classifier of {reading.data.name} computes"
    return document(title, f"<ul>{items}</ul>", main, ["page.css", "classifiers.css"], [], plotly=False)


def _header(reading: ClassifierReading, training: Mapping[str, str]) -> str:
    settings = reading.classifier.settings
    layer = "(h W_gate ∘ h W_in) W_out" if settings.kind == "bilinear" else "(h W_gate)² W_out"
    more = " + h" if settings.residual else ""
    exact = "Σᵢ\u00a0λᵢ\u00a0(vᵢ\u00a0·\u00a0x)²"
    if settings.residual or settings.bias:
        exact += " and a linear part"
    height, width = reading.data.image_shape
    facts = numbers(
        [
            ("of the test images are right", f"{reading.accuracy:.2%}"),
            ("by always saying the commonest class", f"{reading.chance:.2%}"),
            ("test images", f"{len(reading.data.test_labels):,}"),
            ("pixels", f"{height} × {width}"),
            ("classes", f"{reading.data.n_classes}"),
            ("weights", f"{sum(each.numel() for each in reading.classifier.parameters()):,}"),
        ]
    )
    told = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in training.items())
    trained = f'<details><summary>How it was trained</summary><ul class="note">{told}</ul></details>'
    return (
        '<header id="classifier"><p class="kicker">An image classifier of one bilinear layer, read from its '
        f"weights</p><h1>What a classifier of {escape(reading.data.name)} computes</h1>"
        f'<p class="lead">Pixels x are embedded, h = x W_embed; one layer {layer}{more} and a head give the '
        f"logits. So each class’s logit is a quadratic form of the pixels, {exact}, and the eigenvectors vᵢ "
        f"are images.</p>{facts}{trained if training else ''}</header>"
    )


def _section(name: str, *parts: str) -> str:
    return f'<section id="{name}"><h2>{_SECTIONS[name]}</h2>{"".join(parts)}</section>'


def _classes(reading: ClassifierReading, n: int) -> str:
    about = (
        "<p>Above, the eigenvectors with the largest positive eigenvalues: an image that looks like one, or "
        "like its negative, raises the logit by λ (v · x)². Below, those that lower it. "
        '<span class="key p">Blue</span> pixels and <span class="key n">orange</span> pixels have opposite '
        "signs; which is which means nothing. The effective rank (‖λ‖₁ / ‖λ‖₂)² says how many eigenvectors "
        "count; in brackets that of a classifier of the same shape before training.</p>"
    )
    n = min(n, reading.eigen.values.shape[1])
    values, vectors = reading.eigen.both_signs(n)
    images = vectors.unflatten(-1, reading.data.image_shape)
    ranks, untrained = (effective_rank(each.values) for each in (reading.eigen, reading.untrained))
    cards = []
    for number, name in enumerate(reading.data.class_names):
        rows = "".join(
            _tiles(
                [
                    (
                        signed_image(images[number, i], f"eigenvector of {name}"),
                        signed(value),
                    )
                    for i, value in enumerate(values[number].tolist())
                    if i in part and value
                ]
            )
            for part in (range(n), range(n, 2 * n))
        )
        cards.append(
            f'<div class="card class"><h4>{escape(name)}<span class="note">effective rank '
            f"{float(ranks[number]):.1f} ({float(untrained[number]):.0f})</span></h4>{rows}</div>"
        )
    return _section("classes", about, f'<div class="cards">{"".join(cards)}</div>')


def _tiles(tiles: Iterable[tuple[str, str]]) -> str:
    """Images in a row, each over a few words that are HTML already."""
    cells = "".join(f"<figure>{image}<figcaption>{words}</figcaption></figure>" for image, words in tiles)
    return f'<div class="tiles">{cells}</div>'


def _spectra(reading: ClassifierReading) -> str:
    found = reading.ranks
    needed = found.needed(0.001)
    said = "" if needed is None else f" With {needed} of them at most 0.1% of the images are lost."
    spectra = drawing(
        class_spectra_plot(reading.eigen, reading.untrained),
        "Eigenvalues by their rank among those of their sign: a thin line a class, and their mean. Dashed: a "
        "classifier of the same shape before training, scaled to the same norm.",
    )
    ranks = drawing(
        rank_plot(found),
        f"Test images that are right when each class keeps its k eigenvectors of largest |λ|.{said} Control: "
        f"k random directions of what the classifier reads, {len(found.random)} draws, their range shaded.",
    )
    return _section("spectra", f'<div class="pair">{spectra}{ranks}</div>')


def _predictions(reading: ClassifierReading) -> str:
    about = (
        "<p>The margin of the given class over the runner-up is a sum over the eigenvectors of the "
        "difference of their two forms. The strongest terms of one image, and the sum of all others, add up "
        "to it exactly. The control is what as many random directions of what the classifier reads hold "
        "of it.</p>"
    )
    return _section("predictions", about, *(_prediction(reading, each) for each in reading.explained))


def _prediction(reading: ClassifierReading, explained: Explained) -> str:
    told, names = explained.explanation, reading.data.class_names
    versus = names[told.versus] if isinstance(told.versus, int) else str(told.versus)
    right = told.label == explained.label
    title = (
        f"A {escape(names[explained.label])} that is put into its class"
        if right
        else f"A {escape(names[explained.label])} that is taken for {escape(names[told.label])}"
    )
    shape = reading.data.image_shape
    image = grey_image(explained.image, f"test image {explained.index}")
    terms = _tiles(
        [
            (signed_image(vector.reshape(shape), f"eigenvector with λ {value:.2g}"), f"<b>{signed(term)}</b>")
            for term, value, vector in zip(
                told.terms.tolist(), told.values.tolist(), told.vectors, strict=True
            )
        ]
    )
    held = float(told.terms.sum())
    facts = [
        (f"margin over {versus}", signed(told.total)),
        (f"the {len(told.terms)} terms shown", signed(held)),
        ("all other terms", signed(told.rest)),
    ]
    if told.linear or told.constant:
        facts.append(("linear and constant part", signed(told.linear + told.constant)))
    facts.append((f"control: {len(told.terms)} random directions", signed(explained.random)))
    return (
        f'<article><h3>{title}</h3><div class="explained"><figure class="seen">{image}<figcaption>Test image '
        f"{explained.index}</figcaption></figure><div>{terms}{numbers(facts)}</div></div></article>"
    )


def _masks(reading: ClassifierReading) -> str:
    if reading.masks is None or reading.masked is None:
        return _section("masks", "<p>The classes have too few positive eigenvalues for masks.</p>")
    k = reading.k_masks
    about = (
        "<p>A mask is what to add to any image so that the strongest positive eigenvector of a class answers "
        f"and none of the other top {k} of any class does: a row of a pseudo-inverse, made from the weights "
        "without a gradient. It is the selective push, not the strongest: the plain eigenvector of the same "
        "length moves whatever overlaps with it, too. Masks that turn few images are a sign of a classifier "
        "that was regularised.</p>"
    )
    images = reading.masks.images.reshape(-1, *reading.data.image_shape)
    turned = reading.masked.masks.turned[:, -1].tolist()
    tiles = _tiles(
        [
            (signed_image(image, f"mask of {name}"), f"{escape(name)}: {share:.1%}")
            for name, image, share in zip(reading.data.class_names, images, turned, strict=True)
        ]
    )
    length = reading.masked.strengths[-1]
    caption = (
        "Mean of the masks of all classes, by their length, the range over classes shaded; of both signs the "
        "one that turns more. Controls: the mask’s own values at permuted pixels, and the plain eigenvector. "
        "The point at length 0 is the accuracy without a mask."
    )
    said = (
        f'<p class="note">Beneath each mask the share of images of other classes that it turns into its own '
        f"at length {length:g}. An image is {_length(reading):.1f} long in the mean.</p>"
    )
    return _section("masks", about, tiles, said, drawing(mask_effects_plot(reading.masked), caption))


def _length(reading: ClassifierReading) -> float:
    """The mean length of a test image, as a vector of pixels."""
    return float(reading.data.test()[0].flatten(1).norm(dim=1).mean())


def _robustness(reading: ClassifierReading) -> str:
    radii = reading.radii
    right = radii.certified > 0
    facts = [("test images", f"{len(right)}"), ("right without a change", f"{int(right.sum())}")]
    for name, words in (
        ("certified", "certified radius, median"),
        ("attacked", "nearest change that an attack finds, median"),
        ("random", "nearest along ten random directions, median"),
    ):
        values = getattr(radii, name)[right]
        median = float(values.median()) if len(values) else 0.0
        facts.append((words, f"{median:.3g}" if median < torch.inf else "none"))
    about = (
        "<p>For one bilinear layer the nearest image with another class is known exactly, so that a radius "
        "is certified: no change of the pixels that is shorter alters the class. An attack by gradients "
        "cannot find a nearer one, and shows how close one comes by trying; random directions show how far "
        "one has to go without knowing the classifier.</p>"
    )
    caption = (
        "The share of test images that keep their class under every change of a length; at the left edge "
        "those that are right without one."
    )
    return _section("robustness", about, numbers(facts), drawing(radii_plot(radii), caption))

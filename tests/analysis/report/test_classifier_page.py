"""The page of an image classifier: its numbers, hostile names, and what a browser makes of it."""

import re

import pytest
import torch

from analysis.report.classifiers.collect import collect_classifier
from analysis.report.classifiers.page import classifier_page
from bilinear_lm.errors import InputError
from bilinear_lm.images.data import ImageData
from bilinear_lm.networks import ImageClassifier, ImageSettings

HOSTILE = "<script>alert(1)</script>"


def made(**settings):
    torch.manual_seed(0)
    images, labels = torch.rand(40, 5, 5), torch.arange(40) % 3
    names = (HOSTILE, 'b" onload="alert(1)', "c & d")
    data = ImageData(images, labels, images[:20], labels[:20], names, name=f"{HOSTILE} images")
    shape = {"image_shape": (5, 5), "n_classes": 3, "d_model": 12, "d_mlp": 12}
    return ImageClassifier(ImageSettings(**(shape | settings))), data


@pytest.fixture(scope="module")
def reading():
    return collect_classifier(*made(bias=True, residual=True), certified=6, progress=False)


@pytest.fixture(scope="module")
def page(reading):
    return classifier_page(reading, n_eigenvectors=2, training={"note": HOSTILE})


def test_numbers_are_those_of_the_classifier(reading):
    classifier, data = made(bias=True, residual=True)
    images, labels = data.test()
    logits = classifier(images)
    record = reading.record()
    assert record["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert record["chance"] == pytest.approx(7 / 20)
    for each in record["predictions"]:
        at = logits[each["test_image"]].double()
        margin = float(at[each["predicted"]] - at[each["versus"]])
        parts = sum(each["terms"]) + each["rest"] + each["linear"] + each["constant"]
        assert each["margin"] == pytest.approx(margin, abs=1e-4)
        assert parts == pytest.approx(margin, abs=1e-3)
    assert record["radii"]["n_images"] == 6
    assert len(record["eigenvalues"]) == 3


def test_the_same_classifier_gives_the_same_page(page):
    again = collect_classifier(*made(bias=True, residual=True), certified=6, progress=False)
    assert classifier_page(again, n_eigenvectors=2, training={"note": HOSTILE}) == page


def test_hostile_names_are_escaped(page):
    assert HOSTILE not in page
    assert 'onload="alert' not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (400, "dark")])
def test_a_browser_shows_it(tmp_path, page, open_page, width, scheme):
    (tmp_path / "page.html").write_text(page)
    tab = open_page(tmp_path / "page.html", width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator(".card.class").count() == 3
    loaded = tab.locator("img").evaluate_all("all => all.map((image) => image.naturalWidth)")
    assert loaded
    assert set(loaded) == {5}
    assert tab.locator("svg").count() == 4


def test_classifiers_that_cannot_be_read_are_refused():
    with pytest.raises(InputError, match="kind 'relu' has no tensor"):
        collect_classifier(*made(kind="relu"), progress=False)
    with pytest.raises(InputError, match="2 layers is no quadratic form"):
        collect_classifier(*made(n_layers=2), progress=False)

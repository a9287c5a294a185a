"""Training of image classifiers: one step against torch's own, noise, seeds, and refusals."""

import math

import pytest
import torch
from torch.nn import functional as F

from bilinear_lm.errors import InputError
from bilinear_lm.images.data import ImageData
from bilinear_lm.networks import ImageClassifier, ImageSettings
from finetune.networks.images import accuracy, train_classifier
from finetune.networks.images_config import ImagesConfig, ImageTraining

SETTINGS = ImageSettings(image_shape=(4, 4), n_classes=3, d_model=12, d_mlp=12)


def data(n=90, dtype=torch.float32, seed=0):
    """Three patterns, brighter or darker, with a little noise."""
    draws = torch.Generator().manual_seed(seed)
    patterns, labels = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(9)), torch.arange(n) % 3
    scale = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=draws)
    images = (patterns[labels] * scale + 0.05 * torch.rand(n, 4, 4, generator=draws)).clamp(0, 1)
    images = (images * 255).to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
    return ImageData(images[30:], labels[30:], images[:30], labels[:30], ("a", "b", "c"))


def quiet(**settings):
    return ImageTraining(
        **({"epochs": 30, "batch_size": 20, "noise": 0.05, "learning_rate": 0.01} | settings)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_a_classifier_is_trained(dtype):
    made = train_classifier(data(dtype=dtype), SETTINGS, quiet(), progress=False)
    assert len(made.losses) == len(made.accuracies) == 30
    assert made.losses[-1] < 0.3 < made.losses[0]
    assert made.accuracy > 0.9
    test = data(dtype=dtype).test()
    given = made.classifier(test[0].float()).argmax(1)
    assert made.accuracy == pytest.approx(float((given == test[1]).double().mean()))


def test_one_step_is_that_of_adamw():
    """Without noise and in one batch the order of the images is of no matter."""
    images = data()
    training = quiet(epochs=1, batch_size=1000, noise=0.0, weight_decay=0.5, learning_rate=0.01)
    made = train_classifier(images, SETTINGS, training, progress=False).classifier
    torch.manual_seed(0)
    by_hand = ImageClassifier(SETTINGS)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0.5)
    F.cross_entropy(by_hand(images.train_images), images.train_labels).backward()
    optimizer.step()
    for ours, theirs in zip(made.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_equal_seeds_give_equal_classifiers_and_leave_the_generator_alone():
    torch.manual_seed(7)
    first, again, other = (
        train_classifier(data(), SETTINGS, quiet(epochs=2, seed=seed), progress=False).classifier
        for seed in (1, 1, 2)
    )
    after = torch.rand(2)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), after)
    assert torch.equal(first.W_head, again.W_head)
    assert not torch.allclose(first.W_head, other.W_head)


def test_noise_by_its_length():
    assert ImageTraining(noise_norm=0.5).deviation(784) == pytest.approx(0.5 / 28)
    by_norm, by_pixel = (
        train_classifier(data(), SETTINGS, quiet(epochs=2, **noise), progress=False).classifier
        for noise in ({"noise_norm": 1.0}, {"noise": 0.25})
    )
    assert torch.equal(by_norm.W_head, by_pixel.W_head)


def test_epochs_that_are_not_chosen():
    assert ImageTraining().n_epochs(60_000) == 20
    assert ImageTraining().n_epochs(1_437) == math.ceil(1_000 / 6)
    assert ImageTraining(epochs=3).n_epochs(10) == 3


def test_settings_for_other_images_are_refused():
    with pytest.raises(InputError, match=r"images \[28, 28\] in 10 classes for images, images \[4, 4\] in 3"):
        train_classifier(data(), ImageSettings(), progress=False)


def test_a_training_that_diverges_is_refused():
    with pytest.raises(InputError, match="diverged in epoch"):
        train_classifier(data(), SETTINGS, quiet(learning_rate=1e12, weight_decay=0.0), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate 0.0; expected at least"),
        ({"noise": -0.1}, "noise -0.1; expected at least 0"),
        ({"weight_decay": math.nan}, "weight_decay nan"),
        ({"learning_rate": 0.5, "weight_decay": 2.0}, "takes all weights"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_of_no_training_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ImageTraining(**settings)


def test_options_of_training_beside_a_saved_classifier_are_refused(tmp_path):
    config = ImagesConfig(data="digits", output=tmp_path, classifier=tmp_path, noise=0.1, d_mlp=3, seed=4)
    with pytest.raises(InputError, match="is trained already; leave --noise, --d-mlp out"):
        config.check()


def test_accuracy_in_pieces():
    classifier, images = ImageClassifier(SETTINGS), torch.rand(9000, 4, 4)
    labels = torch.randint(3, (9000,))
    whole = (classifier(images).argmax(1) == labels).double().mean()
    assert accuracy(classifier, images, labels) == pytest.approx(float(whole))

"""Eigenvectors of an image classifier: what each class looks for, read from the weights.

    python examples/image_eigenvectors.py [DATA] [FIGURE]

Trains a classifier of one bilinear layer on scikit-learn's digits, or on a folder of idx files as MNIST's,
prints how many eigenvectors its classes have and need, and draws the strongest of each sign.
"""

import sys

import bilinear_lm as bl
from analysis import (
    accuracy_by_rank,
    class_eigenvectors,
    effective_rank,
    eigenvector_grid,
    save_figure,
)
from finetune import ImageTraining, train_classifier

EPOCHS, WIDTH, KS = 20, 64, (1, 2, 4, 8, 16)


def main(source: str = "digits", figure: str | None = None) -> None:
    """Trains, prints and draws."""
    data = bl.images.read_digits() if source == "digits" else bl.images.read_idx_folder(source)
    settings = bl.networks.ImageSettings(data.image_shape, data.n_classes, d_model=WIDTH, d_mlp=WIDTH)
    training = ImageTraining(epochs=EPOCHS, batch_size=32, learning_rate=3e-3)
    trained = train_classifier(data, settings, training)
    eigen = class_eigenvectors(trained.classifier)
    print(f"{data.name}: {trained.accuracy:.1%} of {len(data.test_labels)} test images are right")

    print("class  eigenvalues                   effective rank")
    for name, values, rank in zip(data.class_names, eigen.values, effective_rank(eigen.values), strict=True):
        print(
            f"{name:>5}  {'  '.join(f'{value:+.2f}' for value in values[:4].tolist())}  {float(rank):10.1f}"
        )
    kept = accuracy_by_rank(trained.classifier, *data.test(), ks=KS)
    print("accuracy with k eigenvectors a class, and with k random directions")
    for k, value, random in zip(kept.ks, kept.accuracy.tolist(), kept.random.mean(0).tolist(), strict=True):
        print(f"k = {k:<3}  {value:.3f}  {random:.3f}")
    if figure is not None:
        save_figure(eigenvector_grid(eigen, 3, names=data.class_names), figure)
        print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])

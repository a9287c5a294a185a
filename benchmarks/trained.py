"""A trained bilinear layer to measure on: random matrices have no spectral gap, trained ones do."""

from __future__ import annotations

from pathlib import Path

from mnist import MNIST
from torch import Tensor

from bilinear_lm import BilinearTensor
from bilinear_lm.images import read_idx_folder
from bilinear_lm.networks import ImageSettings
from finetune.networks.images import ImageTraining, train_classifier

SHAPE = ImageSettings(d_model=512, d_mlp=2048)


def trained_layer(folder: Path = MNIST) -> tuple[BilinearTensor, Tensor]:
    """The bilinear layer of an MNIST classifier, and the output directions [10, d_model] of the digits.

    Embedding 784 → 512, one bilinear layer of 2048 hidden units, head; AdamW with the weight decay that
    makes such layers low-rank (arXiv 2410.08417, section 4). Half a minute on two cores.
    """
    training = ImageTraining(epochs=1, learning_rate=3e-3, noise_norm=0.5)
    classifier = train_classifier(read_idx_folder(folder), SHAPE, training, progress=False).classifier
    return classifier.tensor(), classifier.W_head.detach().T.contiguous()

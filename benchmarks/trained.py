"""A trained bilinear layer to measure on: random matrices have no spectral gap, trained ones do."""

from __future__ import annotations

import torch
from mnist import read_mnist
from torch import Tensor
from torch.nn.functional import cross_entropy

from bilinear_lm import BilinearTensor

D_MODEL, D_MLP, BATCH, STEPS = 512, 2048, 256, 300


def trained_layer() -> tuple[BilinearTensor, Tensor]:
    """The bilinear layer of an MNIST classifier, and the output directions [10, d_model] of the digits.

    Embedding 784 → 512, one bilinear layer of 2048 hidden units, head; AdamW with the weight decay that
    makes such layers low-rank (arXiv 2410.08417, section 4). Half a minute on two cores.
    """
    images, _ = read_mnist()
    pixels, digits = images.x, images.labels
    torch.manual_seed(0)
    shapes = [(784, D_MODEL), (D_MODEL, D_MLP), (D_MODEL, D_MLP), (D_MLP, D_MODEL), (D_MODEL, 10)]
    weights = [torch.nn.Parameter(torch.randn(shape) / shape[0] ** 0.5) for shape in shapes]
    embed, gate, into, out, head = weights
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(pixels), (BATCH,))
        noisy = pixels[rows] + torch.randn(BATCH, 784) * 0.5 / 784**0.5
        x = noisy @ embed
        loss = cross_entropy(((x @ gate) * (x @ into)) @ out @ head, digits[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    factors = (weight.detach() for weight in (gate, into, out))
    return BilinearTensor(*factors), head.detach().T.contiguous()

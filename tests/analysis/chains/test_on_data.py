"""Agreement of chains on points, against numpy."""

import numpy as np
import pytest
import torch

from analysis.chains.diagonal import diagonalise
from analysis.chains.on_data import agreement
from bilinear_lm.errors import InputError

from .test_chain import random_chain


def test_agreement_is_that_of_the_logits(monkeypatch):
    monkeypatch.setattr("analysis.chains.on_data.PIECE", 7)
    chain = random_chain(2, constant=True)
    cut = diagonalise(chain).truncate((3, 3, 2))
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(3, (30,), generator=torch.Generator().manual_seed(1))
    f, g = chain(x).numpy(), cut(x).numpy()
    found = agreement(chain, cut, x, labels)
    expected = 1 - ((f - g) ** 2).sum() / ((f - f.mean(0)) ** 2).sum()
    assert found.r_squared == pytest.approx(expected)
    assert found.same == np.mean(f.argmax(1) == g.argmax(1))
    assert found.accuracies == tuple(np.mean(each.argmax(1) == labels.numpy()) for each in (f, g))
    assert agreement(chain, chain, x).r_squared == 1
    assert agreement(chain, chain, x).accuracies is None


@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_agree_is_refused():
    chain = random_chain(2)
    with pytest.raises(InputError, match="no points"):
        agreement(chain, chain, torch.empty(0, 4).double())
    with pytest.raises(InputError, match=r"labels \[2\] for 3 points"):
        agreement(chain, chain, torch.zeros(3, 4).double(), torch.zeros(2, dtype=torch.long))
    other = type(chain)(chain.embedding, chain.layers, chain.head[:, :2])
    with pytest.raises(InputError, match="3 and 2 outputs"):
        agreement(chain, other, torch.zeros(3, 4).double())

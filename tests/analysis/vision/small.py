"""Small image classifiers, some with biases and a residual connection, and images for them."""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch

from bilinear_lm import InputError
from bilinear_lm.networks import ImageClassifier, ImageSettings

SHAPE, CLASSES = (5, 4), 4
KINDS = {
    "plain": {},
    "with biases": {"bias": True, "residual": True},
    "square": {"kind": "square", "bias": True},
}


def classifier(seed=0, d_model=12, **settings) -> ImageClassifier:
    torch.manual_seed(seed)
    sizes = {"image_shape": SHAPE, "n_classes": CLASSES, "d_model": d_model, "d_mlp": 10}
    made = ImageClassifier(ImageSettings(**sizes | settings))
    for name, parameter in made.named_parameters():
        if ".b_" in name or name == "b_head":
            torch.nn.init.normal_(parameter)
    return made.double()


def images(n=30, seed=1):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(model, x):
    with torch.no_grad():
        return model(x)


def hessian(model, u):
    """Half the second derivatives of u · logits by the pixels, by autograd."""
    zero = torch.zeros(SHAPE[0] * SHAPE[1], dtype=torch.float64)
    return torch.autograd.functional.hessian(lambda x: model(x) @ u, zero) / 2


def refusal(call: Callable[..., Any]) -> str:
    """What a call with a small classifier is refused with, without the checks of shapes that tests add."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(InputError) as refused:
            call(classifier())
    assert "\n" not in str(refused.value)
    return str(refused.value)

"""Tiny models of all that attribution has to be right about."""

import pytest

from .random_dictionaries import MODELS, SMALL


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(family_model, request):
    made = family_model(**SMALL | request.param)
    if request.param.get("rms_norm_eps") == 1e12:
        for norm in [module for name, module in made.named_modules() if name.endswith("norm")]:
            norm.weight.data *= 1e6
    return made

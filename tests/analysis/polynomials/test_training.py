"""R² over training against that of each model alone, and where it is known."""

import pytest
import torch

from analysis import approximate_layers, approximate_training
from analysis.text.windows import mean_loss
from bilinear_lm import InputError

TEXT = torch.randint(0, 300, (16, 30), generator=torch.Generator().manual_seed(0))
WINDOWS, HELD_OUT = TEXT[:12].tolist(), TEXT[12:].tolist()


def test_each_step_is_that_of_its_model(make_model):
    models = {step: make_model(gate="silu", seed=step) for step in (0, 8)}
    found = approximate_training(models.__getitem__, [0, 8], WINDOWS, HELD_OUT, degrees=(1, 3))
    assert (found.steps, found.layers, found.degrees) == ((0, 8), (0, 1), (1, 3))
    for row, model in enumerate(models.values()):
        alone = approximate_layers(model, WINDOWS, HELD_OUT, degrees=(1, 3))
        assert torch.equal(found.on_text[row], alone.on_text)
        assert torch.equal(found.gaussian[row], alone.gaussian)
        assert float(found.losses[row]) == mean_loss(model, HELD_OUT)


def test_a_gate_that_opens_is_less_and_less_a_line(make_model):
    """An MLP of products is a line plus a part of degree 2 that grows with the gate's weights."""

    def model_at(step):
        model = make_model(mlp_bias=True)
        with torch.no_grad():
            for block in model.model.layers:
                block.mlp.gate_proj.weight *= step / 10
        return model

    found = approximate_training(model_at, [0, 3, 10], WINDOWS, HELD_OUT)
    for values in (found.gaussian, found.on_text):
        assert torch.allclose(values[0], torch.ones(2, 2, dtype=values.dtype), atol=1e-6)
        assert (values[:, :, 0].diff(dim=0) < 0).all()
        assert torch.allclose(values[:, :, 1], torch.ones(3, 2, dtype=values.dtype), atol=1e-6)


def test_errors_say_what_was_wrong(make_model):
    models = [make_model(), make_model(n_layers=1)]
    with pytest.raises(InputError, match="no steps; expected one or more"):
        approximate_training(models.__getitem__, [], WINDOWS, HELD_OUT)
    with pytest.raises(InputError, match="step 1 has 1 layers, step 0 2; expected checkpoints of one model"):
        approximate_training(models.__getitem__, [0, 1], WINDOWS, HELD_OUT)

"""Training of toy models: against torch's Adam on single models, what is learnt, refusals."""

import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.networks.toy import ToyModel
from finetune.networks.tasks import Gates, Superposition
from finetune.networks.toy import ToyTraining, new_models, train_toy


def test_a_batch_trains_as_its_models_would_alone():
    task, training = Gates.of(["XOR", "NOR"]), ToyTraining(steps=30, lr=0.03, weight_decay=0.1)
    both = new_models(task.settings(), (2, 2), dtype=torch.float64)
    alone = ToyModel(both.settings).double()
    for parameter, of_all in zip(alone.parameters(), both.parameters(), strict=True):
        parameter.data = of_all[1, 1].detach().clone()
    optimizer = torch.optim.AdamW(alone.parameters(), lr=0.03, weight_decay=0.1)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = (
            0.03 * (1 + torch.cos(torch.tensor(torch.pi * step / 30)).item()) / 2
        )
        optimizer.zero_grad()
        (alone(task.inputs)[:, 0] - task.tables[1]).square().mean().backward()
        optimizer.step()
    train_toy(both, task, training)
    for parameter, of_all in zip(alone.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(of_all[1, 1], parameter, rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_the_same_models():
    task = Superposition(4, (0.3, 0.8), batch_size=16)

    def trained(seed: int) -> ToyModel:
        return train_toy(
            new_models(task.settings(2), (2, 2), seed), task, ToyTraining(steps=5, seed=seed)
        ).model

    first, again, other = trained(1), trained(1), trained(2)
    assert torch.equal(first.W_encoder, again.W_encoder)
    assert not torch.equal(first.W_encoder, other.W_encoder)


@pytest.mark.usefixtures("without_shape_checks")
def test_gates_are_learnt():
    task = Gates.of(["NAND", "AND", "XNOR"])
    models = new_models(task.settings(8), (2, 3), dtype=torch.float64)
    run = train_toy(models, task, ToyTraining(steps=500, lr=5e-2, records=7))
    assert run.last.max() < 1e-6
    assert len(run.steps) <= 7
    assert run.steps[-1] == 500
    assert run.losses.shape == (len(run.steps), 2, 3)
    assert "last=" in repr(run)


@pytest.mark.usefixtures("without_shape_checks")
def test_relu_models_keep_antipodal_features_apart():
    """Two features in one dimension: Elhage et al. 2022, ReLU(WᵀWx + b) with opposite weights."""
    task = Superposition(2, (0.95,), batch_size=128)
    models = new_models(task.settings(1, "relu", tied=True), (4, 1))
    train_toy(models, task, ToyTraining(steps=300, lr=5e-2))
    products = models.W_encoder.detach().prod(dim=-2).flatten()
    assert (products < -0.5).any()


@pytest.mark.parametrize(
    ("schedule", "shares"), [("cosine", (1, 0.5)), ("linear", (1, 0.5)), ("constant", (1, 1))]
)
def test_schedules(schedule, shares):
    training = ToyTraining(steps=10, schedule=schedule)
    assert (training.share(0), pytest.approx(training.share(5))) == shares


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps 0; expected at least 1"),
        ({"lr": 0.0}, "lr 0.0; expected above 0"),
        ({"lr": float("nan")}, "lr nan; expected above 0"),
        ({"weight_decay": -1}, "weight_decay -1; expected 0 or more"),
        ({"schedule": "step"}, "schedule 'step'; expected one of cosine, linear, constant"),
        ({"seed": -1}, "seed -1; expected"),
        ({"records": 0}, "records 0; expected at least 1"),
    ],
)
def test_training_that_means_nothing_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ToyTraining(**settings)


def test_models_that_diverge_are_said_to():
    task = Gates.of(["XOR"])
    models = new_models(task.settings(), (2, 1))
    models.W_encoder.data[0] = 1e30
    with pytest.raises(InputError, match="step 1: the loss of 1 of 2 toy models is not finite; train with"):
        train_toy(models, task, ToyTraining(steps=1))

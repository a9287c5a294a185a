"""Tasks of toy models: samples by their moments, losses against loops, splits, refusals."""

import itertools

import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import truth_table
from bilinear_lm.networks.toy import ToyModel, ToySettings
from finetune.networks.tasks import Gates, ModularAddition, Superposition, composed_table
from finetune.networks.toy import new_models


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_samples_have_the_sparsity_and_the_correlation(correlation):
    task = Superposition(5, (0.0, 0.4, 0.9), correlation=correlation)
    x = task.sample((3,), 20000, draws())
    here = (x > 0).double()
    assert here[0].min() == 1
    torch.testing.assert_close(
        here.mean((1, 2)), torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64), atol=0.01, rtol=0
    )
    values = x[x > 0]
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.var() - 1 / 12) < 0.005
    for k in (1, 2):
        measured = torch.corrcoef(here[k].mT)
        expected = torch.eye(5, dtype=torch.float64)
        for i, j in ((0, 1), (2, 3)):  # neighbours in groups of two; the fifth is alone
            expected[i, j] = expected[j, i] = correlation
        torch.testing.assert_close(measured, expected, atol=0.04, rtol=0)


def test_the_loss_of_superposition_weighs_features_by_importance():
    task = Superposition(3, (0.2, 0.7), decay=0.5, batch_size=11)
    model = new_models(task.settings(2), (4, 2), dtype=torch.float64)
    x = task.sample((4, 2), 11, draws()).double()
    error = (model(x) - x).detach().square()
    expected = (error[..., 0] + 0.5 * error[..., 1] + 0.25 * error[..., 2]).mean(-1)
    torch.testing.assert_close(task.losses(model, draws()).detach(), expected)


@pytest.mark.parametrize("d_model", [3, 4])
def test_an_encoder_that_is_not_narrower_leaves_nothing_to_superpose(d_model):
    task = Superposition(3, (0.5,))
    with pytest.raises(InputError, match=f"an encoder of width {d_model} for 3 features .* 1 to 2"):
        task.settings(d_model)
    with pytest.raises(InputError, match="leaves nothing to superpose"):
        task.require_fit(ToyModel(ToySettings(3, d_model, 3, None), (1,)))


def test_losses_of_gates_are_over_all_inputs():
    task = Gates.of(["XOR", "NOR", 7])
    model = new_models(task.settings(), (2, 3), dtype=torch.float64)
    losses = task.losses(model, draws()).detach()
    model.requires_grad_(False)
    for seed, (k, gate) in itertools.product(range(2), enumerate(["XOR", "NOR", "OR"])):
        total = 0.0
        for row, (a, b) in enumerate(itertools.product((0.0, 1.0), repeat=2)):
            y = model(torch.tensor([[a, b]], dtype=torch.float64))[seed, k, 0, 0]
            total += float((y - truth_table(gate)[row]) ** 2) / 4
        assert abs(float(losses[seed, k]) - total) < 1e-12


def test_composed_tables_are_gates_of_gates():
    table = composed_table(5, ((3, 1), (0, 4)), ("A AND NOT B", "OR"), "XOR")
    for row, bits in enumerate(itertools.product((False, True), repeat=5)):
        assert table[row] == float((bits[3] and not bits[1]) != (bits[0] or bits[4]))


def test_modular_addition_holds_pairs_out():
    task = ModularAddition(7, 0.6, seed=3)
    assert int(task.trained_on.sum()) == round(0.6 * 49)
    assert torch.equal(task.trained_on, ModularAddition(7, 0.6, seed=3).trained_on)
    assert not torch.equal(task.trained_on, ModularAddition(7, 0.6, seed=4).trained_on)
    for row, (a, b) in enumerate(itertools.product(range(7), repeat=2)):
        assert task.inputs[row].nonzero()[:, 0].tolist() == [a, 7 + b]
        assert task.targets[row] == (a + b) % 7


def test_losses_and_accuracies_of_modular_addition():
    task = ModularAddition(5, 0.5)
    model = new_models(task.settings(6, 8), (3,), dtype=torch.float64)
    logits, rows = model(task.inputs), task.trained_on
    losses = task.losses(model, draws())
    trained, held_out = task.accuracies(model)
    for k in range(3):
        expected = torch.nn.functional.cross_entropy(logits[k, rows], task.targets[rows])
        torch.testing.assert_close(losses[k], expected)
        right = logits[k].argmax(-1) == task.targets
        assert (float(trained[k]), float(held_out[k])) == (
            float(right[rows].double().mean()),
            float(right[~rows].double().mean()),
        )


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Superposition(1), "n_features 1; expected at least 2"),
        (lambda: Superposition(4, ()), r"sparsity \(\); expected one or more"),
        (lambda: Superposition(4, (1.0,)), "sparsity 1.0; expected from 0 to below 1"),
        (lambda: Superposition(4, (-0.1,)), "sparsity -0.1; expected"),
        (lambda: Superposition(4, decay=0), "decay 0; expected above 0"),
        (lambda: Superposition(4, correlation=1.5), "correlation 1.5; expected 0 to 1"),
        (lambda: Superposition(4, group=5), "groups of 5 features; expected 1 to n_features=4"),
        (lambda: Gates.of("XOR"), "gates 'XOR'; expected a list"),
        (lambda: Gates.of([]), r"gates \[\]; expected a list"),
        (lambda: Gates.of(["XOR", "NOPE"]), "gate of 2 inputs 'NOPE'"),
        (lambda: Gates(torch.zeros(2, 6)), r"truth tables \[2, 6\]; expected \[gates, 2ⁿ\]"),
        (lambda: composed_table(4, ((0, 1), (1, 2)), ("AND", "OR"), "OR"), "expected two pairs of four diff"),
        (lambda: ModularAddition(2), "p 2; expected 3 to 199"),
        (lambda: ModularAddition(5, 1.0), "train_share 1.0; expected above 0, below 1"),
        (lambda: ModularAddition(5, 0.01), "train_share 0.01 of 25 pairs; expected pairs on either side"),
    ],
)
def test_tasks_that_mean_nothing_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (Gates.of(["OR", "AND"]), ToyModel(ToySettings(3), (2,)), "gates of 2 inputs in a model of 3 inputs"),
        (Gates.of(["OR", "AND"]), ToyModel(ToySettings(2), (3,)), r"2 gates for models of batch \[3\]"),
        (Gates.of(["OR", "AND"]), ToyModel(ToySettings(2)), r"2 gates for models of batch \[\]"),
        (Superposition(3), ToyModel(ToySettings(3, 2, 3, 3), (2,)), "hidden units and n_outputs=3; expected"),
        (Superposition(3), ToyModel(ToySettings(3, 2, 3, None), (5,)), "2 sparsities for models of batch"),
        (
            ModularAddition(5),
            ToyModel(ToySettings(10, n_outputs=4)),
            "10 inputs and 4 outputs; expected 10 and 5",
        ),
    ],
)
def test_models_that_cannot_do_the_task_are_refused(task, model, message):
    with pytest.raises(InputError, match=message):
        task.require_fit(model)

"""Distillation against torch's own divergence, and the error of residual streams by hand."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

import finetune.finetuning.losses
from finetune.finetuning.losses import divergence, stream_error


def draw(*shape, seed=0, dtype=torch.float64):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_divergence_and_gradient_are_torchs(temperature):
    student, teacher = draw(2, 5, 17).requires_grad_(), draw(2, 5, 17, seed=1)
    found = divergence(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(found, student)
    logs = [log_softmax(logits / temperature, dim=-1).flatten(0, 1) for logits in (student, teacher)]
    expected = temperature**2 * kl_div(*logs, reduction="batchmean", log_target=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0], rtol=1e-4, atol=1e-6)


def test_divergence_by_hand():
    """Student ½, ½; teacher ¼, ¾."""
    student, teacher = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]]).log()
    expected = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    torch.testing.assert_close(divergence(student, teacher), expected)
    assert divergence(teacher, teacher).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("positions", [1, 6, 10, 24])
def test_chunks_change_nothing(monkeypatch, positions):
    student, teacher = draw(7, 6, 11, dtype=torch.float32), draw(7, 6, 11, seed=1, dtype=torch.float32)
    own = [student.clone().requires_grad_() for _ in range(2)]
    divergence(own[0][:, :-1], teacher[:, :-1]).backward()
    monkeypatch.setattr(finetune.finetuning.losses, "CHUNK_POSITIONS", positions)
    divergence(own[1][:, :-1], teacher[:, :-1]).backward()
    torch.testing.assert_close(own[1].grad, own[0].grad)


def test_little_is_kept_for_the_backward_pass():
    student, teacher = draw(8, 64, 100, dtype=torch.float32).requires_grad_(), draw(8, 64, 100, seed=1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss = divergence(student, teacher.float())
    assert sum(size for size in kept if size > 1) <= 2 * student.numel()
    loss.backward()


def test_half_precision_is_computed_in_float32():
    student, teacher = draw(2, 3, 50).bfloat16(), draw(2, 3, 50, seed=1).bfloat16()
    found = divergence(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, divergence(student.float(), teacher.float()))


def test_stream_error_by_hand():
    """Layers of relative errors 1 / 25 and 4 / 4."""
    taught = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]]])
    own = torch.tensor([[[3.0, 3.0]]]), torch.tensor([[[2.0, 2.0]]])
    torch.testing.assert_close(stream_error(own, taught), torch.tensor((1 / 25 + 4 / 4) / 2))
    assert stream_error(taught, taught) == 0


def test_stream_error_sums_over_positions_before_it_divides():
    taught = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    own = draw(2, 3, 4, seed=2), draw(2, 3, 4, seed=3)
    expected = [
        sum(((x[row] - y[row]) ** 2).sum() for row in range(2)) / y.square().sum()
        for x, y in zip(own, taught, strict=True)
    ]
    torch.testing.assert_close(stream_error(own, taught).double(), sum(expected) / 2, rtol=1e-5, atol=1e-6)

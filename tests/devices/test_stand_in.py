"""The stand-in for a GPU does what one would, where it matters here."""

import pytest
import torch

from .stand_in import other_device


@pytest.fixture
def device():
    with other_device() as device:
        yield device


def test_results_are_the_same(device):
    torch.manual_seed(0)
    A, v = torch.randn(4, 4), torch.randn(4)
    moved, w = A.to(device), v.to(device)
    assert moved.device.type == w.device.type != "cpu"
    assert torch.allclose((w @ moved @ w).cpu(), v @ A @ v)
    assert torch.allclose(torch.linalg.eigvalsh(moved + moved.mT).cpu(), torch.linalg.eigvalsh(A + A.mT))
    moved[[0, 2]] = 1.0
    assert moved.sum(1)[2].item() == 4.0
    assert torch.tensor([1, 2], device=device).device == moved.device


def test_devices_do_not_mix(device):
    here, there = torch.randn(4), torch.randn(4, device=device)
    for mixing in (
        lambda: here + there,
        lambda: there @ here,
        lambda: torch.cat([here, there]),
        lambda: here[torch.tensor([0, 1], device=device)],
        lambda: torch.randn(4, device=device, generator=torch.Generator()),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            mixing()
    with pytest.raises(TypeError):
        there.numpy()
    assert (there * torch.tensor(2.0)).device == there.device

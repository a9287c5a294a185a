import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """No test reaches the hub, whatever the machine's network is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

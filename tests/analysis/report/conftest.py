"""The fixtures that all tests of reports share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On matrices this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

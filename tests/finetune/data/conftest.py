"""Files to read texts from."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Writes a file below the test's folder and gives its path."""

    def at(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    return at

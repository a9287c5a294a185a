"""The real data beside the repository, and how tests skip without it."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[4] / "shared" / "data"
STORIES = DATA / "stories260K"
LLAMA2C = DATA / "stories260K-llama2c"
FORMATS = DATA / "formats"
TEXT = DATA / "text"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data in {DATA.parent.name}/{DATA.name} beside the repository"
)

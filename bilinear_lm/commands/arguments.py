"""Types of the arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

Checkpoint = Annotated[str, tyro.conf.Positional]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]

DEFAULT_MODEL = "stories"
"""The shipped model that commands read where none is named."""

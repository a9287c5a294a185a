"""Names of environments, for settings that are read before anything heavy is loaded."""

from __future__ import annotations

from typing import Literal

EnvironmentName = Literal["maze", "procgen-maze"]

"""Names of a package that load their modules on first use, from any thread.

transformers puts another module in its own place while it is imported. A thread that runs `from transformers
import …` in that moment waits and then reads the module that was replaced, which is empty; one that runs
`import transformers` waits and is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def names_on_first_use(
    package: str, modules: Mapping[str, str], *, light: Collection[str] = ()
) -> Callable[[str], Any]:
    """A `__getattr__` for a package: `modules` says which module each of its names is in.

    The modules in `light` do without transformers, which takes seconds to load.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        if module not in light:
            import_module("transformers")
        return getattr(import_module(module), name)

    return __getattr__

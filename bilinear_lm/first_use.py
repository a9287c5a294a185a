"""Names of a package that load their modules on first use, from any thread.

A package's source imports its names under `if TYPE_CHECKING:`, which says where they are, here as to type
checkers.

Libraries whose modules import each other cannot be imported by two threads at once: each waits for a module
that the other is importing, and Python ends the wait by handing out an unfinished module. Here one thread
imports at a time. So a module of ours must not use such a name while it is imported: it imports the module
that has the name.

A thread may import transformers by itself meanwhile. transformers puts another module in its own place while
it is imported: a thread that runs `from transformers import …` in that moment waits and then reads the module
that was replaced, which is empty; one that runs `import transformers` waits and is done.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any, Literal

_ONE_AT_A_TIME = RLock()


@cache
def modules_of(package: str) -> dict[str, str]:
    """The module that each name of a package is in, or is; the source is read at the first call.

    >>> import bilinear_lm
    >>> modules_of("bilinear_lm")["load_pretrained"], modules_of("bilinear_lm")["networks"]
    ('bilinear_lm.checkpoints.load', 'bilinear_lm.networks')
    """
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package)  # type: ignore[union-attr]
    return {
        alias.name: f"{package}.{alias.name}" if node.module == package else str(node.module)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def names_on_first_use(package: str, *, light: Collection[str] | Literal["all"] = ()) -> Callable[[str], Any]:
    """A `__getattr__` for a package that loads the modules of its names (`modules_of`).

    The modules in `light` do without transformers, which takes seconds to load.
    """

    loaded = set()

    def __getattr__(name: str) -> Any:
        # Python asks for names such as __path__ and __wrapped__ too.
        module = None if name.startswith("__") else modules_of(package).get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if module not in loaded:
            with _ONE_AT_A_TIME:
                if light != "all" and module not in light:
                    import_module("transformers")
                import_module(module)
            loaded.add(module)
        found = import_module(module)
        return found if module == f"{package}.{name}" else getattr(found, name)

    return __getattr__

"""Names of a package that load their modules on first use, from any thread.

Libraries whose modules import each other cannot be imported by two threads at once: each waits for a module
that the other is importing, and Python ends the wait by handing out an unfinished module. Here one thread
imports at a time. So a module of ours must not use such a name while it is imported: it imports the module
that has the name.

A thread may import transformers by itself meanwhile. transformers puts another module in its own place while
it is imported: a thread that runs `from transformers import …` in that moment waits and then reads the module
that was replaced, which is empty; one that runs `import transformers` waits and is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from threading import RLock
from typing import Any

_ONE_AT_A_TIME = RLock()


def names_on_first_use(
    package: str, modules: Mapping[str, str], *, light: Collection[str] = ()
) -> Callable[[str], Any]:
    """A `__getattr__` for a package: `modules` says which module each of its names is in, or is.

    The modules in `light` do without transformers, which takes seconds to load.
    """

    loaded = set()

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        if module not in loaded:
            with _ONE_AT_A_TIME:
                if module not in light:
                    import_module("transformers")
                import_module(module)
            loaded.add(module)
        found = import_module(module)
        return found if module == f"{package}.{name}" else getattr(found, name)

    return __getattr__

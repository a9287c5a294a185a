"""The packages beside this one, `analysis` and `finetune`, and what hides them.

Both names are short, so a user's own analysis.py, or a folder of that name, may answer to an import of ours.
Nothing is imported to find out.
"""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from bilinear_lm.errors import InputError, on_one_line

OTHERS = ("analysis", "finetune")
"""The packages of the distribution beside `bilinear_lm`."""

_BESIDE = Path(__file__).absolute().parents[1]


def require_own_packages() -> None:
    """Raises InputError where an import of `analysis` or `finetune` gets something else than our package."""
    for name in OTHERS:
        if (hider := what_hides(name)) is not None:
            raise InputError(f"{_hidden(name, hider)}; rename it or run elsewhere")


def warn_of_hidden_packages() -> None:
    """Warns where one of the packages is hidden, in the name of the code that imports `bilinear_lm`.

    Whoever only loads models does without them. The command line has an error of its own.
    """
    if _is_command():
        return
    hidden = [_hidden(name, hider) for name in OTHERS if (hider := what_hides(name)) is not None]
    if hidden:
        message = f"{'; '.join(hidden)}; rename it or run elsewhere to import from the package"
        warnings.warn(on_one_line(message), stacklevel=3)


def what_hides(name: str) -> str | None:
    """The file or folder that an import of one of our packages gets in its place; None where it gets ours."""
    module = sys.modules.get(name)
    if module is not None:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", ())
    elif (spec := find_spec(name)) is not None:
        file, folders = spec.origin, spec.submodule_search_locations or ()
    else:
        return None
    ours = (_BESIDE / name).resolve()
    # A folder without __init__.py has no file, and as many places as there are folders of its name.
    places = [Path(file).parent] if file else [Path(folder) for folder in folders]
    if any(place.resolve() == ours for place in places):
        return None
    return file or next(map(str, places), "a module without a file")


def _hidden(name: str, hider: str) -> str:
    return f"{name} is {hider}, which hides the package of bilinear-lm"


def _is_command() -> bool:
    """Whether Python was started as `bilinear-lm` or `python -m bilinear_lm`."""
    script = Path(sys.argv[0]).stem if sys.argv else ""
    return script == "bilinear-lm" or ("-m", "bilinear_lm") in pairwise(sys.orig_argv)

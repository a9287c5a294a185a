"""Imported before any module of ours, in each process that runs tests.

In a module that jaxtyping's import hook looks after, Python passes by the compiled files of whatever is first
imported there, and compiles hundreds of modules of other libraries from their text. So these come first.
"""

import beartype.vale  # noqa: F401
import datasets  # noqa: F401
import einops  # noqa: F401
import matplotlib.figure  # noqa: F401
import mpl_toolkits.mplot3d  # noqa: F401
import peft  # noqa: F401
import plotly.subplots  # noqa: F401
import torch
import transformer_lens.factories.architecture_adapter_factory  # noqa: F401
import transformers.models.llama.modeling_llama
import transformers.trainer  # noqa: F401
import tyro  # noqa: F401

from .shape_checks import check_once

check_once()
torch.set_num_threads(1)  # tiny models; the tests run side by side instead

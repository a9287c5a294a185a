"""What ships beside a model: dictionaries of it, and a text that it wrote."""

from __future__ import annotations

from pathlib import Path


def shipped_scope(checkpoint: str) -> tuple[Path | None, Path | None]:
    """The dictionaries of a shipped model, and the text that their features are named by, if it has them."""
    from bilinear_lm.checkpoints.locate import SHIPPED, local_path

    ours = SHIPPED / checkpoint
    if local_path(checkpoint) != ours:
        return None, None
    folder, text = ours.with_name(f"{ours.name}-scope"), ours.with_name(f"{ours.name}.txt")
    return folder if folder.is_dir() else None, text if text.is_file() else None

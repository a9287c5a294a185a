"""`bilinear-lm report`."""

from __future__ import annotations

from pathlib import Path

from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.files import read_text, require_writable, write_text


def report(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    output: Output = Path("report.html"),
    tokens: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    directions: int = 3,
    eigenvectors: int = 2,
    text: str | None = None,
    validation: Path | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Write one self-contained page about what the MLPs of a bilinear language model compute.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        output: The page to write.
        tokens: Output directions to show beside the strongest ones: "swim" (a token against the mean of
            all), or "swim - run, climb" (against the mean of others).
        layers: Layers to show; all of them by default.
        directions: How many of the strongest output directions to show for each layer.
        eigenvectors: How many eigenvectors to show for each direction.
        text: Short text to show where eigenvectors fire; a small story by default.
        validation: Text file to measure the loss on; the text above by default.
        device: Where to compute.
        seed: Seeds the sampled text.
    """
    from analysis.report import ReportOptions
    from analysis.report import report as render
    from analysis.report_options import STORY
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    require_writable(output)
    options = ReportOptions(
        tokens=tokens,
        layers=layers,
        n_directions=directions,
        n_eigenvectors=eigenvectors,
        evaluation_text=None if validation is None else read_text(validation),
        seed=seed,
        text=STORY if text is None else text,
    )
    model = load_pretrained(checkpoint, device=find_device(device))
    write_text(output, render(model, load_tokenizer(checkpoint), Path(checkpoint).name, options))
    print(output)

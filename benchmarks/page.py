"""How large a report may be: time, memory and size of its data, and how long a browser takes over it.

Results of the right shapes, random, stand in for those of a model, which take hours at these sizes. Each
layer is made, written and dropped, as `report` does it. The browser opens the page from the disk, with
nothing of it read before.

    python benchmarks/page.py                                   # 16 layers of 2 x 8192 features
    python benchmarks/page.py --layers 2 --features 2048        # a smaller one
    python benchmarks/page.py --page report/index.html          # the browser's part, on a page that is there
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import most_resident
from playwright.sync_api import Page, sync_playwright
from torch import Tensor

from analysis.features.explained import Explained
from analysis.features.index import InteractionIndex
from analysis.features.patterns import OpposingFeatures
from analysis.features.peaks import Contexts
from analysis.features.submatrix import Submatrix
from analysis.report.features import FeatureData, FeatureReading, Side, Spectra
from analysis.report.nulls import N_OPPOSING, N_RANDOM, Opposition, RandomFeatures
from analysis.report.options import FeatureSource, ReportOptions
from analysis.report.page import render
from analysis.report.shards.folder import PAGE, ReportFolder
from analysis.text.tokens import TokenReading
from bilinear_lm import load_pretrained, load_tokenizer
from bilinear_lm.shipped import shipped_scope
from bilinear_lm.sites import Site

N_TOKENS, N_WINDOWS, LENGTH = 50_000, 200, 256
HEAP = "performance.memory.usedJSHeapSize"

N_INTO = 67
"""Interactions of an output feature that `collect_features` keeps for a corner of 12 features."""


def main() -> None:
    """Writes a report of random results, opens it, and prints what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--features", type=int, default=8192, help="of each side of a layer")
    parser.add_argument("--width", type=int, default=1024, help="of eigenvectors")
    parser.add_argument("--page", type=Path, help="a page that is there already")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| What | Value |\n| --- | ---: |")
    if options.page is not None:
        browse(options.page)
        return
    with tempfile.TemporaryDirectory() as folder:
        browse(write(Path(folder) / "report", options.layers, options.features, options.width))


def write(path: Path, n_layers: int, n_feat: int, width: int) -> Path:
    """Writes a folder of random results about the model that ships, and prints time, memory and size."""
    data, source = _about()
    generator = torch.Generator().manual_seed(0)
    windows = [
        torch.randint(len(data.vocabulary.texts), (LENGTH,), generator=generator).tolist()
        for _ in range(N_WINDOWS)
    ]
    reading = random_reading(0, n_feat, width, windows, source, generator)
    held = reading_bytes(reading)
    # The inputs: program, model, text, and one reading, as it comes out of the computation.
    before = _resident()
    folder, kept, seconds = ReportFolder.open(path, {"benchmark": [n_layers, n_feat, width]}), [], 0.0
    for layer in range(n_layers):
        if layer:
            reading = random_reading(layer, n_feat, width, windows, source, generator)
        start = time.perf_counter()
        kept.append(folder.keep(reading, windows, source.n_interactions))
        seconds += time.perf_counter() - start
        del reading
        gc.collect()
    start = time.perf_counter()
    features = FeatureData(source, windows, has_first=True, layers=tuple(kept))
    folder.finish(render(replace(data, features=features), files_beside=True))
    of_page, peak = time.perf_counter() - start, most_resident()
    rows = {
        "layers x sides x features": f"{n_layers} x 2 x {n_feat:,}",
        "results of one layer in memory": f"{held / 2**20:,.0f} MiB",
        "shards of a layer": f"{seconds / n_layers:.1f} s",
        "the page, with findings and histograms": f"{of_page:.1f} s",
        "all of it written": f"{seconds + of_page:.0f} s",
        "peak memory above program, model and one layer's results": f"{(peak - before) / 2**20:,.0f} MiB",
        "size on disk": f"{_size(path) / 2**20:,.0f} MiB in {len(list((path / 'data').iterdir())):,} files",
        "of it index.html": f"{(path / PAGE).stat().st_size / 2**20:.1f} MiB",
    }
    _print(rows)
    return path / PAGE


def _about() -> tuple[Any, FeatureSource]:
    """Everything on the page but features, of the model that ships, and how much of features is shown."""
    from analysis.features.dictionaries import read_dictionaries
    from analysis.report.collect import collect

    model, tokenizer = load_pretrained("stories"), load_tokenizer("stories")
    scope, text = shipped_scope("stories")
    assert scope is not None
    assert text is not None
    source = FeatureSource(read_dictionaries(scope, model), text.read_text(encoding="utf-8"))
    data = collect(model, tokenizer, "random results", ReportOptions(sample_tokens=0), progress=False)
    return data, source


def random_reading(
    layer: int,
    n: int,
    width: int,
    windows: list[list[int]],
    source: FeatureSource,
    generator: torch.Generator,
) -> FeatureReading:
    """A layer of random numbers in the shapes of `collect_features`."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def some(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    values = normal(n, source.n_values).abs().sort(dim=1, descending=True).values * normal(n, 1).sign()
    explained = Explained(
        torch.arange(n),
        normal(n, source.n_eigenvectors).tanh(),
        normal(n, source.n_eigenvectors).tanh(),
        N_TOKENS,
        some(500, n),
    )
    lines = torch.rand(n, source.n_values, generator=generator).cumsum(1)
    corners = tuple(
        Submatrix(output, some(n, source.n_corner), normal(source.n_corner, source.n_corner))
        for output in range(n)
    )
    opposition = OpposingFeatures(
        *(some(n, N_OPPOSING) for _ in range(2)),
        *(normal(N_OPPOSING).tanh() for _ in range(2)),
        normal(N_OPPOSING, 2, 2),
        normal(N_OPPOSING, 2),
    )
    k = source.n_eigenvectors
    return FeatureReading(
        layer=layer,
        inputs=_random_side(Site(layer, "mlp-in"), n, windows, source, generator),
        outputs=_random_side(Site(layer, "mlp-out"), n, windows, source, generator),
        spectra=Spectra(
            values, normal(n, k, width), values.norm(dim=1), 200 * torch.rand(n), lines / lines[:, -1:]
        ),
        index=InteractionIndex(
            some(n, n, N_INTO),
            some(n, n, N_INTO),
            normal(n, N_INTO).sort(dim=1, descending=True).values,
            some(n, n, source.n_interactions),
            some(n, n, source.n_interactions),
            normal(n, source.n_interactions),
        ),
        corners=corners,
        explained=explained,
        most=normal(n).abs() * 40,
        random=RandomFeatures(
            200 * torch.rand(N_RANDOM),
            values[:N_RANDOM],
            Explained(
                *(column[:N_RANDOM] for column in (explained.features, *_both(explained))),
                N_TOKENS,
                explained.n_active[:N_RANDOM],
            ),
        ),
        opposition=Opposition(opposition, -0.2, 0.1),
    )


def _both(explained: Explained) -> tuple[Tensor, Tensor]:
    return explained.all_tokens, explained.active_tokens


def _random_side(
    site: Site, n: int, windows: list[list[int]], source: FeatureSource, generator: torch.Generator
) -> Side:
    span, k = 2 * source.width + 1, source.n_contexts

    def scores() -> Tensor:
        return torch.randn(n, source.n_tokens, generator=generator).sort(dim=1, descending=True).values

    def tokens() -> Tensor:
        every = torch.tensor(sorted({token for window in windows for token in window}))
        return every[torch.randint(len(every), (n, source.n_tokens), generator=generator)]

    around = torch.rand(n, k, span, generator=generator) * 20
    around *= torch.rand(around.shape, generator=generator) < 0.2  # few tokens of a passage have a code
    peaks = 20 + torch.rand(n, k, generator=generator).sort(dim=1, descending=True).values
    around[..., source.width] = peaks
    text = tuple(map(tuple, windows))
    contexts = Contexts(
        peaks,
        torch.randint(len(windows), (n, k), generator=generator),
        torch.randint(source.width, LENGTH - source.width, (n, k), generator=generator),
        around,
        text,
    )
    return Side(
        site,
        n,
        torch.arange(n),
        contexts,
        torch.randint(1, 500, (n,), generator=generator),
        TokenReading(tokens(), scores(), tokens(), -scores()),
        tuple(f"␣word{number * 7919 % n}, ␣another" for number in range(n)),
        {},
        f"{site}",
    )


def browse(page: Path) -> None:
    """Opens the page in a headless browser; prints how long what a reader does takes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.set_default_timeout(600_000)
        said: list[str] = []
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto("about:blank")
        start = time.perf_counter()
        tab.goto(page.resolve().as_uri(), wait_until="commit")
        tab.locator("h1").wait_for()
        heading = time.perf_counter() - start
        tab.locator("#feature:not([aria-busy]) .contexts li").first.wait_for(state="attached")
        rows = {
            "browser: heading seen": _took(heading),
            "browser: first feature shown": _took(time.perf_counter() - start),
            "browser: a feature of another layer": _took(_other_layer(tab)),
            "browser: the list to its end": _took(_end(tab)),
            "browser: search, letter by letter": _took(_search(tab)),
            "browser: rows of the list in the document": f"{tab.locator('#pick-list li').count()}",
            "browser: memory of scripts": f"{tab.evaluate(HEAP) / 2**20:.0f} MiB",
        }
        browser.close()
    if said:
        raise RuntimeError(f"the page says {said}")
    _print(rows)


def _other_layer(tab: Page) -> float:
    layers = tab.locator("#pick-layer option").all_inner_texts()
    chosen = tab.locator("#pick-layer").input_value()
    other = next(name for name in reversed(layers) if name != f"Layer {chosen}")
    start = time.perf_counter()
    tab.locator("#pick-layer").select_option(label=other)
    tab.locator(f"#feature:not([aria-busy]) .kicker:has-text('{other.lower()}')").wait_for()
    return time.perf_counter() - start


def _end(tab: Page) -> float:
    tab.locator("#pick-list").focus()
    start = time.perf_counter()
    tab.keyboard.press("End")
    size = tab.locator("#pick-list li").first.get_attribute("aria-setsize")
    tab.locator(f"#pick-list [aria-posinset='{size}'][aria-selected=true]").wait_for()
    tab.locator("#feature:not([aria-busy]) .contexts li").first.wait_for(state="attached")
    return time.perf_counter() - start


def _search(tab: Page) -> float:
    """The longest that one of the letters takes until the list is made and drawn."""
    tab.locator("#pick-search").focus()
    longest = 0.0
    for letter in "word12":
        start = time.perf_counter()
        tab.keyboard.press(letter)
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        longest = max(longest, time.perf_counter() - start)
    return longest


def reading_bytes(value: Any) -> int:
    """Bytes of the tensors in a reading."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, tuple):
        return sum(map(reading_bytes, value)) if value and not isinstance(value[0], str) else 0
    return sum(map(reading_bytes, vars(value).values())) if hasattr(value, "__dataclass_fields__") else 0


def _took(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _print(rows: dict[str, str]) -> None:
    for name, value in rows.items():
        print(f"| {name} | {value} |", flush=True)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _resident() -> int:
    """The memory that this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()

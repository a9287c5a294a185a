"""The pictures of the pages: the report of the model that ships, and an ablation in the explorer.

    python docs/screenshots.py [--report report.html]

Needs Chromium (as `chromium` on the path, or Playwright's own) and the extra `explore`. The report is made
unless one is given, which takes a minute or two.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
_COMMAND = [sys.executable, "-m", "bilinear_lm"]


def shot(page: Page, name: str) -> None:
    """Writes what is in view, as a picture of few colours, which is small."""
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(128)
    picture.save(IMAGES / f"{name}.png", optimize=True)


def of_report(page: Page, report: Path) -> None:
    """The first screen, and a graph with the details of its strongest feature."""
    page.goto(report.resolve().as_uri())
    page.wait_for_timeout(1500)
    shot(page, "first-screen")
    page.evaluate("document.querySelector('.graph-frame, #graph-canvas').scrollIntoView()")
    page.locator("#graph-node .node-link").nth(2).click()
    page.wait_for_timeout(500)
    shot(page, "graph")


def of_explorer(page: Page, address: str) -> None:
    """An ablation of the node that most of the likeliest token's graph hangs on."""
    page.goto(address)
    page.locator("#graph-node .node-link").nth(2).click(timeout=120_000)
    page.get_by_role("button", name="Ablate").click()
    result = page.get_by_text(re.compile(r"^Result \d+$")).first
    result.wait_for(timeout=120_000)
    page.get_by_text("Text after").first.wait_for(timeout=120_000)
    result.evaluate("element => window.scrollBy(0, element.getBoundingClientRect().top - 40)")
    page.wait_for_timeout(500)
    shot(page, "ablation")


def main() -> None:
    """Makes the pages and writes their pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="a report that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = options.report
        if report is None:
            report = Path(folder) / "report.html"
            subprocess.run([*_COMMAND, "report", "-o", report], check=True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        of_report(page, report)
        command = [*_COMMAND, "explore", "--no-browser"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                raise SystemExit("the explorer printed no address")
            of_explorer(page, found[0])
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()

"""Make the pictures of the pages and of the terminal again: ``python docs/images/make.py``.

The photos are scikit-image's, damaged by recipes. Needs the extra ``dev`` (playwright) and Chromium.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text
from skimage import data

from conservator.degradations import degrade, parse_recipe
from conservator.image import to_array, to_image

HERE = Path(__file__).resolve().parent
COMMAND = "conservator restore scans --output restored --report"
SEED = 5
PHOTOS = {
    "coffee.png": (data.coffee, "rain,noise,jpeg:low"),
    "astronaut.jpg": (data.astronaut, "noise:high"),
    "cat in haze.png": (data.chelsea, "haze:high"),
    "cat.png": (data.chelsea, ""),
    "rocket.png": (data.rocket, ""),
    "1968/camera.png": (lambda: np.repeat(data.camera()[..., None], 3, 2), "jpeg:very_high"),
    "1968/retina.png": (lambda: data.retina()[300:1100, 200:1200], "low_light,noise"),
}


def make_photos(folder: Path) -> None:
    """Write the damaged photos, and one that is cut off."""
    for name, (photo, recipe) in PHOTOS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = degrade(to_image(photo()), parse_recipe(recipe, SEED)) if recipe else to_image(photo())
        PillowImage.fromarray(to_array(image, np.uint8)).save(path, quality=95)
    (folder / "torn.jpg").write_bytes((folder / "astronaut.jpg").read_bytes()[:9000])


def show_terminal(place: Path, columns: int) -> None:
    """Run the command as on a terminal of so many columns, and draw what it prints."""
    shutil.rmtree(place / "restored", ignore_errors=True)
    terminal = {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "TERM": "xterm-256color", "COLUMNS": str(columns)}
    run = [str(Path(sys.executable).with_name("conservator")), *COMMAND.split()[1:]]
    done = subprocess.run(run, cwd=place, env=os.environ | terminal, stdout=subprocess.PIPE, text=True, check=False)
    console = Console(record=True, width=columns, file=io.StringIO(), highlight=False)
    for line in [Text(f"$ {COMMAND}", "bold"), *map(Text.from_ansi, done.stdout.splitlines())]:
        for part in line.divide(range(columns, len(line), columns)):  # a terminal breaks lines anywhere
            console.print(part, no_wrap=True)
    drawn = console.export_svg(title=f"{columns} columns")
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (HERE / f"terminal_{columns}.svg").write_text(drawn, "utf-8")


def show_pages(results: Path) -> None:
    """Take pictures of a photo's page and of the folder's."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=["--disable-gpu"])
        for name, page, height in (("report", "coffee.conservator.html", 1330), ("folder", "index.html", 1240)):
            window = browser.new_page(viewport={"width": 1200, "height": height})
            window.goto((results / page).as_uri())
            window.wait_for_load_state("networkidle")
            save_picture(window, name)
        browser.close()


def find_chromium() -> str | None:
    """The browser of this machine; None for the one that Playwright brings along."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def save_picture(window: Page, name: str) -> None:
    """Write what a window shows."""
    with PillowImage.open(io.BytesIO(window.screenshot())) as taken:
        taken.convert("RGB").save(HERE / f"{name}.webp", quality=80, method=6)


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of the page, as long as the context lasts."""
    words = ["web", str(root), "--port", "0", "--no-browser"]
    command = [str(Path(sys.executable).with_name("conservator")), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "the page is at " in line)
        try:
            yield said.split()[4].rstrip(";")
        finally:
            process.terminate()


def show_web(scans: Path) -> None:
    """Take pictures of the page: a photo in a wide window, and dark on a phone; a folder."""
    with served(scans.parent) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=["--disable-gpu", "--no-sandbox"])
        for name, width, height, scheme in (("web_photo", 1280, 1120, "light"), ("web_phone", 390, 1400, "dark")):
            window = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
            window.set_default_timeout(180_000)
            window.goto(address)
            window.set_input_files("#work input[type=file]", scans / "coffee.png")
            window.wait_for_selector("#plan li")
            window.click("#restore")
            window.wait_for_selector("#get-photo:enabled")
            window.wait_for_selector("#restore:enabled")
            window.wait_for_timeout(1000)
            save_picture(window, name)
        window = browser.new_page(viewport={"width": 1280, "height": 1000})
        window.goto(address)
        window.get_by_role("tab", name="A folder").click()
        window.locator("#folder input").fill(str(scans))
        window.locator("#folder input").press("Enter")
        window.click("#start")
        window.locator("#progress h2:has-text('Done')").wait_for(timeout=600_000)
        window.wait_for_timeout(2000)
        save_picture(window, "web_folder")
        browser.close()


def main() -> None:
    """Make all pictures anew, or those that are named: terminal, pages, web."""
    wanted = sys.argv[1:] or ["terminal", "pages", "web"]
    place = Path(tempfile.gettempdir(), "archive")  # the pictures show its path
    place.mkdir()
    try:
        make_photos(place / "scans")
        if {"terminal", "pages"} & {*wanted}:  # the pages show what the commands wrote
            for columns in (120, 80):
                show_terminal(place, columns)
            show_pages(place / "restored")
        if "web" in wanted:
            show_web(place / "scans")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()

"""The pages in a browser: by mouse, touch and keys, in light and dark, wide and narrow, and as axe finds them.

axe-core (Deque) checks what a machine can of the WCAG: names, labels, contrast, landmarks, order.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from doubting import doubting
from page_album import NAMES, NESTED, make_album, restore_album
from PIL import Image as PillowImage
from planner_lessons import write_data
from skimage import data

from conservator.apps.bench_report import save_bench_report
from conservator.apps.cli.data import show_lessons
from conservator.batch import JOURNAL, FileRestorer, Journal, Summary, find_tasks, run_batch, save_index
from conservator.degradations import degrade, parse_recipe
from conservator.evaluation.cases import make_cases
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.rows import BenchmarkSettings
from conservator.image import to_array, to_image
from conservator.kinds import Kind
from conservator.perception import StatisticalPerception
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import make_toolbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_album(tmp_path_factory.mktemp("album"))


@pytest.fixture(scope="module")
def results(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results") / "out"
    restore_album(album, output)
    return output


@pytest.fixture(scope="module")
def pages(album: Path, results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of each sort."""
    bench, lessons = tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("lessons")
    (bench / "photos").mkdir()
    PillowImage.fromarray(data.coffee()[100:196, 200:328]).save(bench / "photos" / "cup.png")
    toolbox = make_toolbox("classical").only("wavelet_denoise", "deblock")
    settings = BenchmarkSettings("restoreagent", "photos", "classical", "statistics", 0, risk=1.0)
    cases = make_cases("restoreagent", bench / "photos", 0)
    evaluate(cases, ["none", "predefined"], toolbox, StatisticalPerception.load(), settings, bench)
    suggested = tmp_path_factory.mktemp("suggested")
    restore_album(album, suggested, admission=doubting(0.41, Kind.NOISE))
    return {
        "suggestion": suggest(suggested / "one"),
        "suggestions": suggested / "index.html",
        "report": (results / NESTED).with_suffix(".conservator.html"),
        "untouched": results / f"{Path(NAMES[1]).stem}.conservator.html",
        "folder": results / "index.html",
        "bench": save_bench_report(bench, bench / "photos"),
        "lessons": show_lessons(write_data(lessons), 4),
    }


SORTS = ("report", "suggestion", "untouched", "folder", "suggestions", "bench", "lessons")


def suggest(folder: Path) -> Path:
    """The page of a photo with two suggestions, which name their commands."""
    folder.mkdir()
    photo = degrade(to_image(data.coffee()[:160, :200]), parse_recipe("rain:high,noise:high", 3))
    PillowImage.fromarray(to_array(photo, np.uint8)).save(folder / "it's a long-named photo of a cup.png")
    request, perception = Request("rules", "classical", "statistics", risk=1), StatisticalPerception.load()
    (task,) = find_tasks([folder], folder / "out").tasks
    with Restorer(request, perception=perception, admission=doubting(0.41)) as restorer:
        run_batch([task], FileRestorer(restorer, report=True), Journal(folder / "out" / JOURNAL))
    return task.report


def opened(browser: Browser, path: Path, width: int = 1280, scheme: str = "light", touch: bool = False) -> Page:
    """The page in a window of its own; its ``complaints`` are errors, and whatever it asks of the network."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=touch)
    page, complaints = context.new_page(), []
    page.complaints = complaints
    page.set_default_timeout(120_000)  # milliseconds, on a machine that is busy with other things
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sort", SORTS)
def test_axe_finds_no_barrier(browser: Browser, pages: dict[str, Path], sort: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(browser, pages[sort], 390 if scheme == "dark" else 1280, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    if sort in ("folder", "suggestions"):
        page.locator("button.reject").first.click()
        page.locator("button.keep").nth(1).click()
    found = Axe().run(page).response["violations"]
    assert not found, "\n".join(f"{v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes']]}" for v in found)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(27, 26, 24)" if scheme == "dark" else "rgb(250, 248, 244)"
    )
    assert page.complaints == []


def at(page: Page) -> float:
    """Where the edge between before and after stands in the first slider, in percent."""
    return float(page.evaluate("document.querySelector('.compare').style.getPropertyValue('--at')").rstrip("%"))


def test_the_slider_goes_by_mouse_touch_and_keys(browser: Browser, pages: dict[str, Path]) -> None:
    for touch in (False, True):
        page = opened(browser, pages["report"], touch=touch)
        box = page.locator(".compare").first.bounding_box()
        assert box is not None
        middle, quarter = box["y"] + box["height"] / 2, box["x"] + box["width"] / 4
        assert at(page) == 50
        if touch:
            page.touchscreen.tap(quarter, middle)
            assert at(page) == pytest.approx(25, abs=1)
        else:
            page.mouse.move(box["x"] + box["width"] / 2, middle)
            page.mouse.down()
            page.mouse.move(quarter, middle, steps=4)
            assert at(page) == pytest.approx(25, abs=1)
            page.mouse.up()
            page.mouse.move(box["x"] + 5, middle)
            assert at(page) == pytest.approx(25, abs=1)  # only while the button is held
            page.keyboard.press("Home")
            assert at(page) == 0
            page.keyboard.press("End")
            assert at(page) == 100
        handle = page.locator(".compare .edge i").first.bounding_box()
        assert handle is not None
        assert min(handle["width"], handle["height"]) >= 24
        page.context.close()


def test_captions_cover_no_picture(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"])
    for figure in page.locator("figure.pair").all():
        caption, picture = figure.locator("figcaption").bounding_box(), figure.locator(".compare").bounding_box()
        assert caption is not None
        assert picture is not None
        assert caption["y"] + caption["height"] <= picture["y"] + 0.5


def test_on_paper_before_and_after_stand_side_by_side(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"], scheme="dark")
    page.emulate_media(media="print")
    pairs = page.locator(".compare").all()
    assert len(pairs) > 1
    for pair in pairs:
        before, after = (pair.locator(f"img[alt^='{name}: ']").bounding_box() for name in ("Before", "After"))
        assert before is not None
        assert after is not None
        assert before["x"] + before["width"] < after["x"]
        assert before["y"] == pytest.approx(after["y"], abs=1)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_pixel_of_a_detail_is_a_pixel_of_the_screen(
    browser: Browser, pages: dict[str, Path], scale: int, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, device_scale_factor=scale)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    for picture in page.locator(".detail img").all():
        shown, natural = picture.evaluate("image => [image.getBoundingClientRect().width, image.naturalWidth]")
        assert shown * scale == pytest.approx(natural, abs=0.6)
    context.close()


def test_the_command_of_a_suggestion_is_selected_by_a_click_and_copied_whole(
    browser: Browser, pages: dict[str, Path]
) -> None:
    for width in (1280, 390):
        page = opened(browser, pages["suggestion"], width)
        commands = page.locator(".copied")
        assert commands.count() == page.locator(".suggestion").count() == 2
        for command in commands.all():
            command.click()
            chosen = page.evaluate("getSelection().toString()")
            assert chosen.strip() == command.text_content()
            assert chosen.startswith("conservator apply ")
            for option in command.locator(".whole").all():
                box = option.bounding_box()
                assert box is not None
                assert box["height"] < 24, "an option is broken into two lines"
        for picture in page.locator(".suggestion img").all():
            box = picture.bounding_box()
            assert box is not None
            assert box["width"] > 120
            assert box["width"] / box["height"] == pytest.approx(200 / 160, abs=0.02)
        page.context.close()


def test_photos_with_suggestions_are_found_on_the_contact_sheet(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["suggestions"])
    assert len(names(page)) == 5
    for choice in ("something", "noise"):
        page.select_option("select[name=suggested]", choice)
        assert NAMES[0] in names(page)
        assert not {"broken.jpg", NAMES[1]} & set(names(page))
    assert "Suggested: wavelet_denoise (harm 41 %)" in (page.locator(".card").first.text_content() or "")
    page.select_option("select[name=suggested]", "")
    page.fill("input[type=search]", "wavelet_denoise")
    assert NAMES[0] in names(page)
    assert "broken.jpg" not in names(page)
    nothing = opened(browser, pages["folder"]).locator("select[name=suggested] option")
    assert nothing.all_text_contents() == ["any"]


def names(page: Page) -> list[str]:
    return [text or "" for text in page.locator(".card h2").all_text_contents()]


def test_the_contact_sheet_filters_searches_and_orders(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["folder"])
    assert names(page)[0] == "broken.jpg"
    assert len(names(page)) == 5
    page.select_option("select[name=status]", "untouched")
    assert names(page) == [NAMES[1]]
    page.select_option("select[name=status]", "")
    page.fill("input[type=search]", "SUB a#b")
    assert names(page) == ["sub/a#b?c%20.png"]
    assert page.text_content("#shown") == "1 of 5 photos"
    page.fill("input[type=search]", "")
    page.select_option("select[name=seen]", "noise")
    assert NAMES[0] in names(page)
    assert "broken.jpg" not in names(page)
    page.select_option("select[name=seen]", "")
    page.select_option("select[name=order]", "name")
    assert names(page) == sorted(names(page), key=str.lower) or names(page)[-1].startswith("sub")
    assert page.locator(".card").nth(0).locator("script, b").count() == 0
    assert page.complaints == []
    images = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    assert images, "the thumbnails are shown"


def test_cards_are_marked_by_keys_alone(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["folder"])
    first = page.locator(".card a.frame").first
    first.focus()
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    page.keyboard.press("r")  # taken back
    marked = page.locator(".card:has(a.frame)").evaluate_all("cards => cards.map(card => card.className)")
    assert marked == ["card kept", "card rejected", "card", "card"]
    assert page.text_content("#count") == "1"
    assert page.complaints == []


@pytest.mark.parametrize("fate", ["remove", "back"])
def test_the_command_does_what_it_says_and_nothing_else(
    browser: Browser,
    results: Path,
    album: Path,
    tmp_path: Path,
    fate: str,
) -> None:
    originals = shutil.copytree(album, tmp_path / "album")
    output = shutil.copytree(results, tmp_path / "out")
    lines = (output / JOURNAL).read_text().replace(str(album), str(originals)).replace(str(results), str(output))
    (output / JOURNAL).write_text(lines)
    save_index(output, Journal(output / JOURNAL), Summary())
    (originals / NAMES[2]).unlink()  # its result is all that is left of it
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    page = opened(browser, output / "index.html")
    for name in (NAMES[0], NAMES[1], NAMES[2]):
        page.locator(".card", has=page.get_by_role("heading", name=name, exact=True)).locator("button.reject").click()
    page.reload()  # marks outlive the window
    page.click("#rejected summary")
    page.select_option("#fate", fate)
    command = page.text_content("#command")
    assert command is not None
    subprocess.run(["bash", "-c", command], cwd=output, check=False, capture_output=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not set(after) - set(before)
    assert {path: raw for path, raw in after.items() if path.is_relative_to(originals)} == {
        path: raw for path, raw in before.items() if path.is_relative_to(originals)
    }
    gone = {path.relative_to(output).as_posix() for path in set(before) - set(after)}
    stems = [Path(name).stem for name in NAMES[:2]]
    papers = {f"{stem}.conservator.{suffix}" for stem in stems for suffix in ("json", "html")}
    assert gone == papers | (set(NAMES[:2]) if fate == "remove" else set())
    if fate == "back":
        for name in NAMES[:2]:
            assert (output / name).read_bytes() == (originals / name).read_bytes()
            assert np.asarray(PillowImage.open(output / name)).shape == (160, 200, 3)

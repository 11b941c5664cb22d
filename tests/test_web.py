"""The page in a real browser: what a visitor does there, and that the bytes are those of the command line."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from typer.testing import CliRunner

from conservator.apps.web.following import AbandonedError, Following, Steps
from conservator.apps.web.settings import WebOptions, find_password
from conservator.batch import JOURNAL
from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.files import locked
from conservator.image import to_array, to_image
from conservator.record import Record, load_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytest.importorskip("gradio")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
ARGUMENTS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
ARGUMENTS += ["disable-component-update", "disable-sync"]
PROGRAM = [sys.executable, "-c", "from conservator.apps.cli import main; main()"]
PATIENCE = 120_000  # milliseconds, on a machine that is busy with other things
NOISY = "noisy (ü) & 1.png"
PASSWORD = "a password of no consequence"
FADES = (
    "document.getAnimations().filter(one => one.playState === 'running'"
    " && one.effect.getComputedTiming().endTime < Infinity).length"
)
"""Counts what changes its colours, which axe would measure half-way."""


class ServedPage:
    """The page, as long as the context lasts."""

    def __init__(self, root: Path, temporary: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "CONSERVATOR_PASSWORD"}
        command = [*PROGRAM, "web", str(root), "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment | {"TMPDIR": str(temporary)}
        )
        assert self.process.stderr is not None
        said = ""
        while "the page is at " not in said:
            said = self.process.stderr.readline()
            assert said, "it ended"
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.address = said.split()[4].rstrip(";")
        self.root, self.temporary = root, temporary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Ask it to end; then nothing of its visitors is left."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        assert not list(self.temporary.iterdir())

    def files(self) -> list[Path]:
        """What lies in its own folder; it may delete folders meanwhile, which ``rglob`` would raise for."""
        return [Path(folder, name) for folder, _, names in os.walk(self.temporary) for name in names]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos: noise, haze, nothing wrong; the one that is torn is added by its test."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "scans").mkdir()
    cup = to_image(data.coffee()[100:260, 200:400])
    for name, recipe in ((NOISY, "noise:high"), ("hazy.jpg", "haze:high"), ("cat.png", "")):
        image = degrade(cup, parse_recipe(recipe, 5)) if recipe else to_image(data.chelsea()[:160, :200])
        PillowImage.fromarray(to_array(image, np.uint8)).save(folder / "scans" / name, quality=95)
    torn = (folder / "scans" / "hazy.jpg").read_bytes()[:2500]
    (folder / "scans" / "torn.jpg").write_bytes(torn)
    return folder


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    with ServedPage(root, tmp_path_factory.mktemp("temporary")) as page:
        yield page
        page.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = [f"--{name}" for name in ARGUMENTS]
        running = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


def opened(browser: Browser, served: ServedPage, width: int = 1280, scheme: str = "light") -> Page:
    """The page in a window of its own; its ``complaints`` are errors, and whatever it asks of the network elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, complaints = context.new_page(), []
    page.complaints = complaints
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    inside = (served.address, "data:", "blob:")
    page.on("request", lambda asked: asked.url.startswith(inside) or complaints.append(asked.url))
    page.goto(served.address)
    page.wait_for_selector("#about p")
    return page


def drop(page: Page, photo: Path) -> None:
    """Give the page a photo, and wait until it was examined, or could not be."""
    page.set_input_files("#work input[type=file]", photo)
    page.locator(f"#about h2:text-is('{photo.name}'), #problem [role=alert]").first.wait_for()
    page.locator("#restore:enabled, #problem [role=alert]").first.wait_for()


def restore(page: Page) -> None:
    page.click("#restore")
    page.wait_for_selector("#get-photo:enabled")
    page.wait_for_selector("#restore:enabled")


def downloaded(page: Page, button: str, to: Path) -> Path:
    """The file that a button gives."""
    with page.expect_download() as waiting:
        page.click(button)
    got: Download = waiting.value
    path = to / got.suggested_filename
    got.save_as(path)
    return path


def by_command(*words: str, output: Path) -> bytes:
    """The bytes that the command line writes."""
    from conservator.apps.cli import app

    done = CliRunner().invoke(app, [*words, "-o", str(output)])
    assert done.exit_code == 0, done.output
    return output.read_bytes()


def replayed(record: Path, photo: Path) -> bool:
    """Whether the command line makes the same result of a record again."""
    from conservator.apps.cli import app

    return CliRunner().invoke(app, ["replay", str(record), "--photo", str(photo)]).exit_code == 0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def pixels(page: Page, picture: Locator) -> np.ndarray:
    """The pixels of a picture as the browser gets it."""
    answer = page.request.get(str(picture.get_attribute("src")), timeout=PATIENCE)
    return np.asarray(PillowImage.open(io.BytesIO(answer.body())).convert("RGB"))


@in_a_browser
def test_a_photo_comes_back_as_the_command_line_restores_it(
    browser: Browser, served: ServedPage, tmp_path: Path
) -> None:
    page, photo = opened(browser, served), served.root / "scans" / NOISY
    # whether it can be stopped while it is examined, which a busy machine may look at too late
    page.evaluate(
        "new MutationObserver(() => { window.sawStop ||= !!document.querySelector('#stop'); })"
        ".observe(document.body, {subtree: true, childList: true, attributes: true})"
    )
    page.set_input_files("#work input[type=file]", photo)
    page.wait_for_selector("#plan li")
    assert page.evaluate("window.sawStop")
    assert page.text_content("#about h2") == photo.name  # it is text, and no HTML
    row = page.locator("#seen tr", has_text="noise")
    assert row.locator("td").first.inner_text().strip() in ("medium", "high", "very high")
    assert "% sure" in row.inner_text()
    assert row.locator(".bar i").first.evaluate("bar => bar.getBoundingClientRect().width") > 5
    assert "Licence: Apache-2.0" in page.inner_text("#plan li")
    assert page.locator("#downloads").count() == page.locator("#pair").count() == 0
    until(lambda: page.locator("#about img").evaluate("image => image.complete && image.naturalWidth") == 200)
    restore(page)
    steps = page.inner_text("#steps")
    assert "Decide on treatments denoise" in steps
    assert "Kept, estimated gain" in steps
    result = downloaded(page, "#get-photo", tmp_path)
    assert result.name == "noisy (ü) & 1_restored.png"
    assert result.read_bytes() == by_command("restore", str(photo), output=tmp_path / "command.png")
    record, theirs = (
        load_record(downloaded(page, "#get-record", tmp_path)),
        load_record(tmp_path / "command.conservator.json"),
    )
    assert told(record) == told(theirs)
    assert str(served.temporary) not in record.model_dump_json()
    assert record.input.path == photo.name
    report = downloaded(page, "#get-report", tmp_path).read_text("utf-8")
    assert "conservator" in report
    assert str(served.temporary) not in report
    check_for_barriers(page)
    page.context.close()
    until(lambda: not [path for path in served.files() if path.name.startswith("view")])  # what was open is deleted
    assert page.complaints == []


def told(record: Record) -> object:
    """What two records of one restoration have in common."""
    return record.model_dump(exclude={"made", "seconds", "steps", "treatments", "input", "output"})


@in_a_browser
def test_a_plan_is_changed_by_keys_and_blended(browser: Browser, served: ServedPage, tmp_path: Path) -> None:
    page, photo = opened(browser, served), served.root / "scans" / "cat.png"
    drop(page, photo)
    assert page.locator("#plan li").count() == 0
    names = ["gamma_brighten", "denoise_light", "stretch_brighten"]
    for tool in names:
        choose(page, tool)
    rows = page.locator("#plan li b")
    expect_texts(rows, names)
    page.locator("#plan li").nth(2).get_by_role("button", name="Move up").focus()
    page.keyboard.press("Enter")
    expect_texts(rows, [names[0], names[2], names[1]])
    until(lambda: page.evaluate("document.activeElement.dataset.place") == "1")  # the focus goes along
    page.keyboard.press("Enter")
    expect_texts(rows, [names[2], names[0], names[1]])
    page.locator("#plan li").first.get_by_role("button", name="Take out").press("Enter")
    expect_texts(rows, names[:2])
    choose(page, "dehaze")
    page.locator("#plan input").last.press("Space")
    until(lambda: page.locator("#plan li.off").count() == 1)
    assert "not checked for harm" in page.inner_text("#planned")
    restore(page)
    page.locator("#strength input[type=number]").fill("0.5")
    page.locator("#strength input[type=number]").press("Enter")
    page.wait_for_selector("#get-photo:enabled:has-text('strength 0.5')")
    result = downloaded(page, "#get-photo", tmp_path)
    same = by_command(
        "apply", str(photo), "--tools", ",".join(names[:2]), "--strength", "0.5", output=tmp_path / "c.png"
    )
    assert result.read_bytes() == same
    assert load_record(downloaded(page, "#get-record", tmp_path)).request.strength == 0.5
    assert page.complaints == []
    page.context.close()


def choose(page: Page, tool: str) -> None:
    """Add a tool from the toolbox."""
    before = page.locator("#plan li").count()
    field = page.locator("#adding input")
    field.press_sequentially(f"{tool}:")
    page.get_by_role("option", name=tool).wait_for()
    field.press("Enter")
    page.get_by_role("button", name="Add", exact=True).click()
    until(lambda: page.locator("#plan li").count() == before + 1)


def expect_texts(found: Locator, texts: list[str]) -> None:
    until(lambda: found.all_inner_texts() == texts)


@in_a_browser
def test_a_suggestion_is_done_and_looked_at_pixel_by_pixel(
    browser: Browser, served: ServedPage, tmp_path: Path
) -> None:
    page, photo = opened(browser, served, width=390, scheme="dark"), served.root / "scans" / "hazy.jpg"
    drop(page, photo)
    assert "Nothing is to be done unasked" in page.inner_text("#planned")
    button = page.get_by_role("button", name="Do it")
    assert "chance of harm" in page.inner_text("#suggestions")
    tool = button.inner_text().split(": ")[1]
    button.press("Enter")
    page.wait_for_selector("#get-photo:enabled")
    result = downloaded(page, "#get-photo", tmp_path)
    assert result.read_bytes() == by_command("apply", str(photo), "--tools", tool, output=tmp_path / "command.jpg")
    page.get_by_label("100 %").check()
    page.wait_for_selector("#map i")
    pictures = page.locator("#pair img")
    until(lambda: pictures.first.evaluate("image => image.complete && image.naturalWidth") > 0)
    until(lambda: pictures.first.evaluate("image => image.getBoundingClientRect().width - image.naturalWidth") == 0)
    before, after = (np.asarray(PillowImage.open(path).convert("RGB")) for path in (photo, result))
    left, right = (pixels(page, pictures.nth(number)) for number in (0, 1))
    assert left.shape == right.shape
    assert part_of(before, left) is not None
    assert np.abs(after[part_of(before, left)].astype(int) - right.astype(int)).mean() < 2  # the result is a JPEG
    page.locator("#edge input[type=range]").press("Home")
    until(lambda: "0%" in (pictures.nth(1).get_attribute("style") or ""))
    check_for_barriers(page)
    assert page.complaints == []
    page.context.close()


def part_of(photo: np.ndarray, part: np.ndarray) -> tuple[slice, slice] | None:
    """Where a part lies in a photo, exactly."""
    height, width = part.shape[:2]
    for top in range(photo.shape[0] - height + 1):
        for start in range(photo.shape[1] - width + 1):
            place = slice(top, top + height), slice(start, start + width)
            if (photo[place] == part).all():
                return place
    return None


@in_a_browser
def test_a_broken_photo_is_told_of_and_nothing_is_lost(browser: Browser, served: ServedPage) -> None:
    page = opened(browser, served)
    drop(page, served.root / "scans" / "cat.png")
    drop(page, served.root / "scans" / "torn.jpg")
    page.wait_for_selector("#problem [role=alert]")
    told = page.inner_text("#problem")
    assert "cannot read torn.jpg: it is damaged or cut off" in told.replace("Cannot", "cannot")
    assert str(served.temporary) not in told
    assert page.text_content("#about h2") == "cat.png"
    assert page.is_enabled("#restore")
    page.get_by_role("button", name="Add", exact=True).click()
    until(lambda: "no tool is chosen" in page.inner_text("#problem").lower())
    assert page.complaints == []
    page.context.close()


@in_a_browser
def test_a_folder_is_stopped_and_resumed_and_a_result_rejected(
    browser: Browser, served: ServedPage, tmp_path: Path
) -> None:
    folder, name = served.root / "album", "noisy <b>&.png"
    shutil.copytree(served.root / "scans", folder)
    (folder / NOISY).rename(folder / name)
    page = opened(browser, served)
    page.get_by_role("tab", name="A folder").click()
    page.locator("#folder input").fill("/etc")
    page.locator("#folder input").press("Enter")
    page.click("#start")
    until(lambda: "leads out of the folders that are open here" in page.inner_text("body"))
    page.locator("#folder input").fill(str(folder))
    page.locator("#folder input").press("Enter")
    (folder / "restored").mkdir()
    with locked(folder / "restored" / JOURNAL):  # it comes no further than to say what it begins with
        page.click("#start")
        page.click("#halt")
        until(lambda: "Stopping" in page.inner_text("#progress"))
    page.locator("#progress h2:has-text('Stopped')").wait_for()
    made = {path: path.stat().st_mtime_ns for path in (folder / "restored").glob("*.png")}
    assert len(made) < 3, "it was not stopped"
    page.reload()  # what was in work is there again
    page.get_by_role("tab", name="A folder").click()
    until(lambda: page.inner_text("#start") == "Go on")
    page.locator("#folder input").fill(str(folder))
    page.locator("#folder input").press("Enter")
    page.click("#start")
    page.locator("#progress h2:has-text('Done')").wait_for()
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was done was done again"
    cards = page.locator("#sheet .card")
    until(lambda: cards.count() == 4)
    assert "torn.jpg" in cards.first.inner_text()
    assert "failed" in cards.first.inner_text()
    assert (folder / "restored" / "index.html").is_file()
    noisy = page.locator(".card", has_text=name)
    until(lambda: noisy.locator("img").evaluate("image => image.complete && image.naturalWidth") > 0)
    noisy.get_by_role("button", name="Keep").press("r")
    until(lambda: noisy.get_by_role("button", name="Reject").get_attribute("aria-pressed") == "true")
    page.click("#back")
    until(lambda: (folder / "restored" / "rejected" / name).is_file())
    until(lambda: (folder / "restored" / name).read_bytes() == (folder / name).read_bytes())
    page.locator(".card", has_text="hazy.jpg").get_by_role("button", name="Compare").click()
    page.wait_for_selector("#folder-pair img")
    assert page.complaints == []
    page.context.close()


def check_for_barriers(page: Page) -> None:
    """Neither axe nor a narrow window finds anything, in both tabs and in the settings."""
    from axe_playwright_python.sync_playwright import Axe

    page.get_by_role("button", name="Settings").click()
    page.get_by_label("a pleasing look").wait_for()
    for tab in ("A folder", "One photo"):
        page.get_by_role("tab", name=tab).click()
        until(lambda: page.evaluate(FADES) == 0)
        found = Axe().run(page).response["violations"]
        assert not found, "\n".join(f"{v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes']]}" for v in found)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"


def test_work_is_abandoned_when_its_next_stage_begins() -> None:
    abandoned, begun, go_on = threading.Event(), threading.Event(), threading.Event()
    reached: list[str] = []

    def work(steps: Steps) -> None:
        steps("denoise_light")
        steps("denoise_light, 3 of 40")
        begun.set()
        go_on.wait()
        steps("derain")
        reached.append("derain")

    following = Following(work, abandoned)
    begun.wait()
    abandoned.set()
    go_on.set()
    last = list(following)
    with pytest.raises(AbandonedError):
        following.result()
    assert following.told() == [("denoise_light", "3 of 40")]
    assert not last or last[-1] == following.told()
    assert not reached


def test_strangers_and_other_files_are_kept_out(served: ServedPage) -> None:
    secret = served.root / "scans" / "cat.png"
    with httpx.Client(base_url=served.address, timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
        assert client.post("/gradio_api/queue/join", headers={"Origin": "http://attacker.example"}).status_code == 403
        for path in (secret, Path("/etc/passwd"), Path(__file__)):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
        for path in (
            "/gradio_api/file=http://127.0.0.1/",
            "/gradio_api/file/http://127.0.0.1/",
            "/file=http://a.example/",
        ):
            assert client.get(path).status_code == 404
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert client.get("/gradio_api/info").status_code in (200, 403, 404)


def test_the_page_asks_other_machines_for_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    from conservator.apps.web.gate import Gate
    from conservator.apps.web.mounting import mount
    from conservator.request import Request

    for name in ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    options = WebOptions((tmp_path,), "0.0.0.0")
    app, leave = mount(options, Request("none"), tmp_path / "files", PASSWORD)
    with TestClient(Gate(app, password=True), "http://192.0.2.7") as client:
        assert client.get("/config").status_code == 401
        assert client.get("/gradio_api/file=/etc/passwd").status_code == 401
        assert client.post("/login", data={"username": "x", "password": "wrong"}).status_code == 400
        stranger = {"Origin": "http://attacker.example"}
        assert client.post("/login", data={"username": "x", "password": PASSWORD}, headers=stranger).status_code == 403
        assert client.post("/login", data={"username": "x", "password": PASSWORD}).status_code == 200
        assert client.get("/config").status_code == 200
        assert client.get("/gradio_api/file=/etc/passwd").status_code == 403
    leave()


def test_a_password_is_wanted_beyond_this_machine(tmp_path: Path) -> None:
    assert find_password(WebOptions(), {}) is None
    with pytest.raises(ConservatorError, match="lets other machines in; give --password-file"):
        find_password(WebOptions(host="0.0.0.0"), {})
    (tmp_path / "short").write_text("too short\n")
    with pytest.raises(ConservatorError, match="has 9 characters; give 12 or more"):
        find_password(WebOptions(password_file=tmp_path / "short"), {})
    (tmp_path / "long").write_text(f"{PASSWORD}\nand more\n")
    options = WebOptions(host="0.0.0.0", password_file=tmp_path / "long")
    assert find_password(options, {"CONSERVATOR_PASSWORD": "another one of these"}) == PASSWORD
    with pytest.raises(ConservatorError, match="cannot be read"):
        find_password(WebOptions(password_file=tmp_path / "absent"), {})

"""The tab of one photo: drop it, look at the plan, change it, restore, compare, download."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from conservator.apps.web import showing
from conservator.apps.web.drawer import Drawer
from conservator.apps.web.following import AbandonedError, Following, Steps, failure_in_words
from conservator.apps.web.planning import added, edited, plan_in_html, reasons, rows_of, tool_in_words
from conservator.apps.web.script import script
from conservator.apps.web.views import show_part, show_whole
from conservator.apps.web.visit import Opened, Visit, Visits
from conservator.errors import ConservatorError
from conservator.photo import PHOTO_SUFFIXES
from conservator.photo.optional import EXTRA_OF
from conservator.request import Request
from conservator.tools.catalog import make_toolbox

_Update = dict[Any, Any]
FIT, NATIVE = "The whole photo", "100 %"
_SETTLED = 0.4
"""Seconds for which a strength must stay before files are written: nobody waits for those of the way there."""


class PhotoTab:
    """Its parts and what they do. Each event finds its visit by the name that Gradio gives the page."""

    def __init__(self, visits: Visits, drawer: Drawer, request: Request) -> None:
        self._visits, self._drawer = visits, drawer
        self._toolbox = make_toolbox(request.toolbox)
        self._lay_out()
        self._wire()

    def _lay_out(self) -> None:
        self.problem = gr.HTML(visible=False, elem_id="problem")
        with gr.Row(elem_id="work"):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_pictures()
            with gr.Column(scale=2, min_width=320):
                self._lay_out_words()

    def _lay_out_pictures(self) -> None:
        suffixes = sorted(PHOTO_SUFFIXES | set(EXTRA_OF))
        self.file = gr.File(
            label="Drop a photo here, or press to choose one", file_types=suffixes, height=110, elem_id="drop"
        )
        self.about = gr.HTML(_WELCOME, elem_id="about")
        self.slider = gr.ImageSlider(
            label="Before and after", visible=False, elem_id="pair", buttons=["fullscreen"], max_height=2000,
            show_label=False, interactive=False,
        )  # fmt: skip
        with gr.Row(visible=False, elem_id="viewing") as self.viewing:
            self.view = gr.Radio([FIT, NATIVE], value=FIT, label="Shown", elem_id="view")
            self.edge = gr.Slider(0, 100, 50, step=1, label="Before, %", elem_id="edge", interactive=True)
            self.strength = gr.Slider(
                0, 1, 1, step=0.05, label="Strength", interactive=True, elem_id="strength",
                info="0: as it came; 1: all that was done.",
            )  # fmt: skip
        self.map = gr.HTML(visible=False, elem_id="map", js_on_load=script("map"))
        self.room = gr.Textbox(visible="hidden", elem_id="room")

    def _lay_out_words(self) -> None:
        self.steps = gr.HTML(elem_id="steps")
        self.stop = gr.Button("Stop", visible=False, variant="stop", elem_id="stop")
        self.result = gr.HTML(elem_id="result")
        with gr.Row(visible=False, elem_id="downloads") as self.downloads:
            self.photo = gr.DownloadButton("Download the photo", variant="primary", elem_id="get-photo", scale=3)
            self.record = gr.DownloadButton("Record", elem_id="get-record", min_width=90)
            self.report = gr.DownloadButton("Report", elem_id="get-report", min_width=90)
        self.seen = gr.HTML(elem_id="seen")
        with gr.Column(visible=False, elem_id="planned") as self.planned:
            self.intention = gr.HTML()
            self.plan = gr.HTML(elem_id="plan", js_on_load=script("plan"))
            self.changed = gr.HTML(visible=False)
            with gr.Row(elem_id="adding"):
                tools = [(tool_in_words(spec), spec.name) for spec in self._toolbox.specs]
                self.tool = gr.Dropdown(tools, label="From the toolbox", value=None, scale=3)
                self.add = gr.Button("Add", scale=0, min_width=90)
            self.restore = gr.Button("Restore", variant="primary", elem_id="restore")
        self.suggestions = gr.HTML(elem_id="suggestions", js_on_load=script("suggestions"))

    def _wire(self) -> None:
        settings = self._drawer.components
        work: _Update = {"concurrency_id": "work", "concurrency_limit": 1}
        follow: _Update = {"show_progress": "minimal", "show_progress_on": self.steps, "api_visibility": "private"}
        quick: _Update = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        live: _Update = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        everything = [
            *(self.file, self.problem, self.about, self.slider, self.viewing, self.view, self.strength, self.map),
            *(self.steps, self.result, self.downloads, self.photo, self.record, self.report, self.seen, self.planned),
            *(self.intention, self.plan, self.changed, self.tool, self.restore, self.stop, self.suggestions),
        ]
        self.file.upload(self._open, [self.file, *settings], everything, **work, **follow)
        gr.on(
            [part.change for part in settings], self._plan_again, settings, everything, **work, **follow,
            trigger_mode="always_last",
        )  # fmt: skip
        self.restore.click(self._restore, None, everything, **work, **follow)
        self.suggestions.input(self._do_suggested, None, everything, **work, **follow)
        self.stop.click(self._stop, None, [self.stop], **quick)
        edit = [self.problem, self.plan, self.changed, self.tool]
        self.plan.input(self._edit, None, edit, **quick)
        self.add.click(self._add, [self.tool], edit, **quick)
        shown = [self.slider, self.map]
        gr.on([self.view.input], self._look, [self.view, self.room], shown, js=script("room"), **live)
        self.map.input(self._move, [self.room], shown, **live)
        self.strength.input(self._blend, [self.strength, self.view, self.room], shown, **live)
        self.edge.input(lambda edge: gr.update(slider_position=edge), [self.edge], [self.slider], **quick)
        files = [self.problem, self.result, self.photo, self.record, self.report]
        self.strength.input(self._write, [self.strength], files, **live)

    # What the events do

    def _open(self, page: gr.Request, file: str, *values: Any) -> Iterator[_Update]:
        visit = self._visits.of(page.session_hash)
        yield from self._examined(visit, lambda steps: visit.open(Path(file), self._drawer.request(values), steps))

    def _plan_again(self, page: gr.Request, *values: Any) -> Iterator[_Update]:
        visit = self._visits.of(page.session_hash)
        if visit.opened is not None:
            yield from self._examined(visit, lambda steps: visit.plan_again(self._drawer.request(values), steps))

    def _examined(self, visit: Visit, work: Callable[[Steps], Opened]) -> Iterator[_Update]:
        """Follow an examination, and show what it found."""
        following = Following(work, _again(visit))
        yield self._at_work("Reading and examining the photo.") | {self.file: None}
        for told in following:
            yield {self.steps: showing.steps_in_html(told, True)}
        try:
            opened = following.result()
        except AbandonedError:
            yield self._rest(visit) | {self.steps: ""}
            return
        except Exception as error:
            yield self._rest(visit) | self._failed(error) | {self.steps: ""}
            return
        gain = opened.plan.gain.cautious(opened.request.objective) if opened.plan.toolchain else 0.0
        yield (
            self._rest(visit)
            | {
                self.about: showing.photo_in_words(opened.file.name, opened.photo, show_whole(visit, 1.0)[0]),
                self.slider: gr.update(visible=False),
                self.viewing: gr.update(visible=False),
                self.view: FIT,
                self.strength: 1.0,
                self.map: gr.update(visible=False),
                self.steps: "",
                self.result: "",
                self.downloads: gr.update(visible=False),
                self.seen: showing.seen_in_html(opened.plan.before),
                self.planned: gr.update(visible=True),
                self.intention: f"<h2>What would be done</h2><p>{showing.intention(opened.plan, gain)}</p>",
                self.suggestions: showing.suggestions_in_html(opened.plan.suggestions, opened.photo),
            }
            | self._shown_plan(visit)
        )

    def _restore(self, page: gr.Request) -> Iterator[_Update]:
        yield from self._restored(self._visits.of(page.session_hash))

    def _do_suggested(self, event: gr.EventData, page: gr.Request) -> Iterator[_Update]:
        """Make a suggestion the plan, and carry it out."""
        visit = self._visits.of(page.session_hash)
        place = _number(event, "place")
        if 0 <= place < len(visit.suggestions):
            visit.rows = rows_of(visit.suggestions[place].toolchain)
            yield self._shown_plan(visit)
            yield from self._restored(visit)

    def _restored(self, visit: Visit) -> Iterator[_Update]:
        """Follow a restoration, and show the result."""
        following = Following(visit.restore, _again(visit))
        yield self._at_work("Beginning.") | {self.result: "", self.downloads: gr.update(visible=False)}
        for told in following:
            yield {self.steps: showing.steps_in_html(told, True)}
        told = following.told()
        try:
            following.result()
            visit.strength, opened = 1.0, visit.checked()
            yield {
                self.about: showing.photo_in_words(opened.file.name, opened.photo),
                self.slider: gr.update(value=show_whole(visit, 1.0), visible=True, elem_classes=[]),
                self.viewing: gr.update(visible=True),
                self.view: FIT,
                self.strength: 1.0,
                self.map: gr.update(visible=False),
                self.steps: showing.steps_in_html([*told, ("Write the result", "")], True),
            }
            files = self._files(visit, 1.0)
        except AbandonedError:
            stopped = showing.steps_in_html([*told, ("Stopped", "Nothing was changed.")], False)
            yield self._rest(visit) | {self.steps: stopped}
        except Exception as error:
            yield self._rest(visit) | self._failed(error) | {self.steps: showing.steps_in_html(told, False)}
        else:
            done = {self.downloads: gr.update(visible=True), self.steps: showing.steps_in_html(told, False)}
            offered = showing.suggestions_in_html(visit.suggestions, opened.photo)
            yield self._rest(visit) | files | done | {self.suggestions: offered}

    def _stop(self, page: gr.Request) -> _Update:
        self._visits.of(page.session_hash).abandoned.set()
        return {self.stop: gr.update(value="Stopping …", interactive=False)}

    def _edit(self, event: gr.EventData, page: gr.Request) -> _Update:
        visit = self._visits.of(page.session_hash)
        visit.rows = edited(visit.rows, str(getattr(event, "action", "")), _number(event, "place"))
        return self._shown_plan(visit)

    def _add(self, tool: str | None, page: gr.Request) -> _Update:
        visit = self._visits.of(page.session_hash)
        try:
            if tool is None:
                raise ConservatorError("no tool is chosen; choose one from the toolbox, then press Add")
            visit.rows = added(visit.rows, tool, self._toolbox)
        except ConservatorError as error:
            return self._failed(error)
        return self._shown_plan(visit) | {self.tool: None, self.problem: gr.update(visible=False)}

    def _look(self, view: str, room: str, page: gr.Request) -> _Update:
        return self._pictures(self._visits.of(page.session_hash), view, room)

    def _move(self, room: str, event: gr.EventData, page: gr.Request) -> _Update:
        visit = self._visits.of(page.session_hash)
        down, across = (_number(event, name, visit.place[place]) for place, name in enumerate(("down", "across")))
        visit.place = min(1.0, max(0.0, down)), min(1.0, max(0.0, across))
        return self._pictures(visit, NATIVE, room)

    def _blend(self, strength: float, view: str, room: str, page: gr.Request) -> _Update:
        visit = self._visits.of(page.session_hash)
        visit.strength = min(1.0, max(0.0, float(strength)))
        return self._pictures(visit, view, room)

    def _write(self, strength: float, page: gr.Request) -> Iterator[_Update]:
        """Write the files of a strength, once it stays."""
        visit = self._visits.of(page.session_hash)
        buttons = (self.photo, self.record, self.report)
        yield {button: gr.update(interactive=False) for button in buttons}
        time.sleep(_SETTLED)
        if visit.treated is not None and visit.strength == strength:
            try:
                yield self._files(visit, strength)
            except Exception as error:
                yield self._failed(error)

    # What they show

    def _pictures(self, visit: Visit, view: str, room: str) -> _Update:
        if visit.opened is None:
            return {self.slider: gr.skip(), self.map: gr.skip()}
        if view == FIT:
            shown = show_whole(visit, visit.strength)
            return {self.slider: gr.update(value=shown, elem_classes=[]), self.map: gr.update(visible=False)}
        pair, part = show_part(visit, visit.strength, _room(room))
        size = visit.pair(visit.strength)[1].shape[-2:]
        chart = showing.map_in_html(show_whole(visit, visit.strength)[1], part, (size[0], size[1]))
        return {
            self.slider: gr.update(value=pair, elem_classes=["native"]),
            self.map: gr.update(value=chart, visible=True),
        }

    def _files(self, visit: Visit, strength: float) -> _Update:
        """Write result, record and page, and offer them."""
        done = visit.write(strength)
        how = "" if strength == 1 else f" (strength {strength:g})"
        return {
            self.result: showing.result_in_html(done),
            self.photo: gr.update(value=str(done.task.target), label=f"Download the photo{how}", interactive=True),
            self.record: gr.update(value=str(done.task.record), interactive=True),
            self.report: gr.update(value=str(done.task.report), interactive=True),
        }

    def _shown_plan(self, visit: Visit) -> _Update:
        why = {} if visit.opened is None else reasons(visit.opened.plan)
        return {
            self.plan: plan_in_html(visit.rows, why, self._toolbox),
            self.changed: gr.update(value=showing.changed_in_words(visit.chosen), visible=visit.chosen is not None),
        }

    def _at_work(self, told: str) -> _Update:
        return {
            self.problem: gr.update(visible=False),
            self.steps: showing.steps_in_html([(told, "")], True),
            self.restore: gr.update(interactive=False),
            self.stop: gr.update(value="Stop", visible=True, interactive=True),
        }

    def _rest(self, visit: Visit) -> _Update:
        ready = gr.update(interactive=visit.opened is not None)
        return {self.restore: ready, self.stop: gr.update(visible=False)}

    def _failed(self, error: Exception) -> _Update:
        return {self.problem: gr.update(value=showing.problem_in_html(failure_in_words(error)), visible=True)}


_WELCOME = (
    "<p>Drop a scan or a photo above. You will see what is wrong with it and what would be done, and nothing is done "
    "before you press Restore. The photo stays on this machine.</p>"
)


def _again(visit: Visit) -> threading.Event:
    """The sign by which what begins now can be abandoned."""
    visit.abandoned.clear()
    return visit.abandoned


def _number(event: gr.EventData, name: str, otherwise: float = -1) -> Any:
    """A number that a script of the page sent."""
    value = getattr(event, name, otherwise)
    return value if isinstance(value, int | float) else otherwise


def _room(told: str) -> tuple[float, float]:
    """Height and width of the place for pictures, in pixels of the screen, as the browser says: "WIDTHxHEIGHT"."""
    try:
        width, height = map(float, told.split("x"))
    except ValueError:
        return 600.0, 800.0
    return height, width

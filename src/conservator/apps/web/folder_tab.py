"""The tab of a folder: choose it, start, stop, go on; look at results, worst first, and keep or reject them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from conservator.apps.web import showing
from conservator.apps.web.drawer import Drawer
from conservator.apps.web.folder_work import FolderWork, progress_in_html
from conservator.apps.web.following import failure_in_words
from conservator.apps.web.script import script
from conservator.apps.web.sheet import AT_ONCE, REJECTED, sheet_in_html
from conservator.apps.web.views import show_files
from conservator.apps.web.visit import Visits

_OFTEN = 1.5
"""Seconds between two looks at a batch."""
_Update = dict[Any, Any]


class FolderTab:
    """Its parts and what they do."""

    def __init__(self, visits: Visits, work: FolderWork, drawer: Drawer) -> None:
        self._visits, self._work, self._drawer = visits, work, drawer
        self._lay_out()

    def _lay_out(self) -> None:
        first = str(self._work.roots.folders[0])
        with gr.Row():
            self.folder = gr.Dropdown(
                self._work.folders(first),
                value=first,
                allow_custom_value=True,
                label="Folder of photos",
                info="With all folders in it. Choose one to step into it, or type its path.",
                elem_id="folder",
                scale=3,
                min_width=300,
            )
            self.output = gr.Textbox(
                label="Results go to",
                placeholder="restored",
                info="A folder in that folder.",
                elem_id="output",
                scale=2,
            )
        gr.HTML("<p>Your photos stay as they are. What was restored by an earlier run is not done again.</p>")
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", elem_id="start")
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="halt")
        self.problem = gr.HTML(visible=False)
        self.progress = gr.HTML(elem_id="progress")
        self.named = gr.HTML(elem_id="compared")
        self.pair = gr.ImageSlider(
            label="Before and after", visible=False, elem_id="folder-pair", buttons=["fullscreen"], max_height=2000,
            show_label=False, interactive=False,
        )  # fmt: skip
        with gr.Row(visible=False) as self.fate:
            self.count = gr.HTML()
            self.back = gr.Button("Put the originals in their place", elem_id="back")
        self.sheet = gr.HTML(elem_id="sheet", js_on_load=script("sheet"))
        self.more = gr.Button("Show more", visible=False)
        self.shown = gr.State(AT_ONCE)
        self.clock = gr.Timer(_OFTEN, active=False)

    def wire(self, page: gr.Blocks) -> None:
        """Tie the events; a page that is opened shows what is in work."""
        quick: _Update = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        shown = [
            *(self.problem, self.progress, self.sheet, self.more, self.shown, self.fate, self.count),
            *(self.start, self.stop, self.clock, self.named, self.pair),
        ]
        self.folder.input(self._step, [self.folder], [self.folder], **quick)
        self.start.click(
            self._start, [self.folder, self.output, *self._drawer.components], shown,
            show_progress="minimal", show_progress_on=self.progress, api_visibility="private",
        )  # fmt: skip
        self.stop.click(self._stop, [self.shown], shown, **quick)
        self.clock.tick(self._state, [self.shown], shown, **quick)
        page.load(self._state, [self.shown], shown, **quick)
        self.more.click(lambda count: self._state(count + AT_ONCE), [self.shown], shown, **quick)
        self.sheet.input(self._marked, [self.shown], shown, **quick)
        self.named.change(None, None, None, js=script("compared"), api_visibility="private")
        self.back.click(self._put_back, [self.shown], shown, **quick)

    def _step(self, folder: str) -> Any:
        return gr.update(choices=self._work.folders(folder or ""))

    def _start(self, folder: str, output: str, *values: Any) -> _Update:
        try:
            self._work.start(folder or "", (output or "").strip(), self._drawer.request(values))
        except Exception as error:
            return self._failed(error)
        return self._state(AT_ONCE) | {self.problem: gr.update(visible=False), self.pair: gr.update(visible=False)}

    def _stop(self, count: int) -> _Update:
        self._work.stop()
        return self._state(count)

    def _state(self, count: int) -> _Update:
        """How far the batch is, and its cards."""
        job, sheet, running = self._work.job, self._work.sheet, self._work.running
        if job is None or sheet is None:
            return {self.clock: gr.Timer(active=False)}
        rejected = len(sheet.rejected)
        told = (
            f"<p>{rejected} rejected. Their results go to the folder “{REJECTED}” beside the others; nothing is "
            "deleted.</p>"
        )
        return {
            self.progress: progress_in_html(job),
            self.sheet: sheet_in_html(sheet.worst(count), len(sheet)),
            self.more: gr.update(visible=len(sheet) > count),
            self.shown: count,
            self.fate: gr.update(visible=rejected > 0 and not running),
            self.count: told,
            self.start: gr.update(interactive=not running, value="Go on" if job.state == "cancelled" else "Start"),
            self.stop: gr.update(visible=job.state == "running"),
            self.clock: gr.Timer(active=running),
        }

    def _marked(self, page: gr.Request, event: gr.EventData, count: int) -> _Update:
        """Keep, reject or compare a photo of the sheet."""
        sheet, place, action = self._work.sheet, getattr(event, "place", -1), getattr(event, "action", "")
        if sheet is None or not isinstance(place, int) or not 0 <= place < len(sheet):
            return {}
        if action != "look":
            sheet.mark(place, str(action))
            return self._state(count)
        card = sheet[place]
        try:
            pair = show_files(self._visits.of(page.session_hash), card.task.source, card.task.target)
        except Exception as error:
            return self._failed(error)
        return {
            self.named: showing.compared_in_html(card.told["name"]),
            self.pair: gr.update(value=pair, visible=True),
        }

    def _put_back(self, count: int) -> _Update:
        try:
            if self._work.sheet is not None and not self._work.running:
                self._work.sheet.put_back()
        except OSError as error:
            return self._state(count) | self._failed(error)
        return self._state(count)

    def _failed(self, error: Exception) -> _Update:
        return {self.problem: gr.update(value=showing.problem_in_html(failure_in_words(error)), visible=True)}

"""The page as a whole: its tabs and its settings."""

from __future__ import annotations

import gradio as gr

from conservator.apps.restorers import Restorers
from conservator.apps.web.drawer import Drawer
from conservator.apps.web.photo_tab import PhotoTab
from conservator.apps.web.visit import Visits
from conservator.request import Request

SANS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's plain theme in the fonts of the system: nothing is fetched."""
    return gr.themes.Default(
        font=[gr.themes.Font(name) for name in SANS], font_mono=[gr.themes.Font(name) for name in MONO]
    )


def build_page(visits: Visits, restorers: Restorers, request: Request) -> gr.Blocks:
    """Lay out the page and tie its events to the program."""
    with gr.Blocks(title="Conservator", analytics_enabled=False, fill_width=True) as page:
        gr.HTML("<h1>Conservator</h1>", elem_id="title")
        with gr.Tabs(), gr.Tab("One photo"):
            drawer_place = gr.Column()
            with drawer_place:
                drawer = Drawer(request)
            PhotoTab(visits, restorers, request, drawer)
        page.unload(_closed(visits))
    return page


def _closed(visits: Visits) -> object:
    def closed(page: gr.Request) -> None:
        visits.end(page.session_hash)

    return closed

"""The page as a whole: its tabs and its settings."""

from __future__ import annotations

import gradio as gr

from conservator.apps.web.drawer import Drawer
from conservator.apps.web.folder_tab import FolderTab
from conservator.apps.web.folder_work import FolderWork
from conservator.apps.web.photo_tab import PhotoTab
from conservator.apps.web.visit import Visits
from conservator.request import Request

SANS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]


_BRICK = gr.themes.Color(
    *("#fbf3f0", "#f6e3dc", "#edc9bd", "#e0a692", "#c3664b", "#9c3d25", "#8a3520", "#722b1a", "#5b2315", "#461b11"),
    "#2f120b",
    name="brick",
)
"""The accent of all pages (``pages/style.css``), from light to dark; white text on its middle has a contrast of 6.9."""


def theme() -> gr.themes.Base:
    """Gradio's plain theme in the fonts of the system, so that nothing is fetched, and in the colours of our pages."""
    return gr.themes.Default(
        primary_hue=_BRICK,
        neutral_hue=gr.themes.colors.stone,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    ).set(
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color_dark="*neutral_200",
    )


def build_page(visits: Visits, work: FolderWork, request: Request) -> gr.Blocks:
    """Lay out the page and tie its events to the program."""
    with gr.Blocks(title="Conservator", analytics_enabled=False, fill_width=True) as page:
        gr.HTML("<h1>Conservator</h1>", elem_id="title")
        drawer = Drawer(request)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("One photo"):
                PhotoTab(visits, drawer, request)
            with gr.Tab("A folder"):
                FolderTab(visits, work, drawer).wire(page)

        def closed(visitor: gr.Request) -> None:
            visits.end(visitor.session_hash)

        page.unload(closed)
    return page

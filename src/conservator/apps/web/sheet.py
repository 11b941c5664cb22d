"""The contact sheet of a folder, which fills while its photos are restored; who looks keeps or rejects results."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from conservator.apps.web.showing import served
from conservator.batch import Outcome, Task
from conservator.batch.index import card_of
from conservator.batch.results import documented
from conservator.batch.standing import OR_ELSE
from conservator.report import thumbnail_of

AT_ONCE = 48
"""Cards that are shown before somebody asks for more: a browser stays quick."""
REJECTED = "rejected"
"""The folder, beside the results, where rejected ones go: nothing is deleted."""


@dataclass
class Card:
    """One photo of the sheet."""

    number: int
    task: Task
    order: tuple[float, ...]
    """Worst first."""
    told: dict[str, Any]
    """As the page of a folder has it."""
    mark: str = ""
    """keep, reject, or "" for none."""
    picture: str = ""
    """Where its thumbnail is served from."""

    @property
    def there(self) -> bool:
        """Whether it has a result that can be kept or rejected."""
        return "shell" in self.told


class Sheet:
    """All cards so far; safe to fill in one thread and to look at in others."""

    def __init__(self, folder: Path, place: Path) -> None:
        """Results lie in ``folder``; copies of thumbnails, which the page shows, go below ``place``."""
        self.folder, self._place = folder, place / secrets.token_urlsafe(12)
        self._cards: list[Card] = []
        self._lock = threading.Lock()

    def add(self, task: Task, outcome: Outcome) -> None:
        """Add what became of a photo."""
        message = outcome.message.replace(OR_ELSE, "choose another folder for the results")  # here are no options
        order, told = card_of(self.folder, replace(outcome, message=message))
        task = documented(task)
        with self._lock:
            self._cards.append(Card(len(self._cards), task, order, told))

    def __len__(self) -> int:
        return len(self._cards)

    def __getitem__(self, number: int) -> Card:
        return self._cards[number]

    def worst(self, count: int) -> list[Card]:
        """The first cards, worst first, each with its picture where it has one."""
        with self._lock:
            cards = sorted(self._cards, key=lambda card: (card.order, card.told["name"]))[:count]
        for card in cards:
            if not card.picture and card.told["thumbnail"]:
                card.picture = self._copied(card)
        return cards

    def _copied(self, card: Card) -> str:
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = self._place / f"{card.number}.jpg"
        shutil.copyfile(thumbnail_of(card.task.report), copy)
        return str(copy)

    def mark(self, number: int, mark: str) -> None:
        """Keep or reject a result; the same mark again takes it away."""
        if mark in ("keep", "reject") and 0 <= number < len(self._cards) and self._cards[number].there:
            card = self._cards[number]
            card.mark = "" if card.mark == mark else mark

    @property
    def rejected(self) -> list[Card]:
        """The cards that are rejected, and not put away yet."""
        return [card for card in list(self._cards) if card.mark == "reject" and card.there]

    def put_back(self) -> int:
        """Put the originals in the place of rejected results, which go to a folder of their own; how many.

        Raises OSError where a file cannot be moved.
        """
        rejected = self.rejected
        for card in rejected:
            task = card.task
            away = self.folder / REJECTED / task.target.relative_to(self.folder).parent
            away.mkdir(parents=True, exist_ok=True)
            for path in (task.record, task.report, task.target):
                if path.is_file():
                    path.replace(_free(away / path.name))
            original = task.target.with_suffix(task.source.suffix)
            if not os.path.lexists(original):
                shutil.copy2(task.source, original)
            card.mark, card.picture = "", ""
            card.told = {**card.told, "status": "rejected", "told": "The original lies in its place.", "thumbnail": ""}
            del card.told["shell"]
        return len(rejected)


def _free(path: Path) -> Path:
    """The path, or one with a number where there is a file already."""
    found, number = path, 2
    while os.path.lexists(found):
        found, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return found


def sheet_in_html(cards: Sequence[Card], count: int) -> str:
    """Cards as HTML; ``count`` is how many there are in all."""
    if not cards:
        return ""
    items = "".join(map(_card, cards))
    more = f" of {count:,}" if count > len(cards) else ""
    return (
        f'<h2>Results, worst first</h2><p class="soft">{len(cards):,}{more} photos. Point at a picture to see it as it '
        f'was before.</p><ul class="cards">{items}</ul>'
    )


def _card(card: Card) -> str:
    told, name = card.told, escape(card.told["name"])
    picture = '<span class="none">no picture</span>'
    if card.picture:
        picture = (
            f'<span class="half" style="--ratio: {told["ratio"]}"><img src="{served(card.picture)}" alt=""></span>'
        )
    gain = f", estimated gain {told['gain']:+.1f} dB" if told["gain"] is not None else ""
    lines = f"<p>{escape(told['told'])}</p>" if told["told"] else ""
    if told["left"]:
        lines += f'<p class="bad">Still seen: {escape(", ".join(told["left"]))}</p>'
    if told["offers"]:
        lines += f"<p>Suggested: {escape(told['offers'])}</p>"
    buttons = "".join(
        f'<button type="button" class="{action}" data-action="{action}" data-place="{card.number}" '
        f'aria-label="{words.capitalize()} {name}"{_pressed(card, action)}>{words}</button>'
        for action, words in (("look", "compare"), ("keep", "keep"), ("reject", "reject"))
    )
    return (
        f'<li class="card {card.mark}"><div class="frame">{picture}</div><div class="told"><h3 dir="auto">{name}</h3>'
        f"<p><b>{escape(told['status'])}</b>{gain}</p>{lines}</div>"
        f"{f'<div class=marks>{buttons}</div>' if card.there else ''}</li>"
    )


def _pressed(card: Card, action: str) -> str:
    return "" if action == "look" else f' aria-pressed="{str(card.mark == action).lower()}"'

"""Restorers by what is asked of them: each loads its models once, and a few are kept."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from conservator.request import Request
from conservator.restorer import Restorer

MOST_IDLE = 3
"""Restorers that are kept for requests that nobody works on now; each holds its models, about 0.2 GB."""

KEPT_BYTES = 2**30
"""Of whole photos as tools made them step by step, so that a look at a step, a step back and saving compute nothing
again: seven results of 12 megapixels. What does not fit is made again."""


class Restorers:
    """Lends a restorer for each request; the least recently used ones are closed."""

    def __init__(self) -> None:
        self._made: OrderedDict[Request, Restorer] = OrderedDict()
        self._lent = Counter[Request]()
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, request: Request) -> Iterator[Restorer]:
        """A restorer that stays open meanwhile. Raises ConservatorError for a policy or a toolbox that there is not."""
        with self._lock:
            if request not in self._made:
                self._made[request] = Restorer(request)
            self._made.move_to_end(request)
            self._lent[request] += 1
            restorer = self._made[request]
        try:
            yield restorer
        finally:
            with self._lock:
                self._lent[request] -= 1
                idle = [known for known in self._made if not self._lent[known]]
                closed = [self._made.pop(known) for known in idle[: max(0, len(idle) - MOST_IDLE)]]
            for old in closed:
                old.close()

    def close(self) -> None:
        """Close all, once their work is done."""
        with self._lock:
            made = list(self._made.values())
            self._made.clear()
        for restorer in made:
            restorer.close()

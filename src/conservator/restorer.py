"""The one owner: a restorer keeps toolbox, perception, pool and policy for as long as the process lives.

Every face of the program (command line, batch, benchmarks, planner data) is a thin caller of it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from conservator.admitting import HeldTo
from conservator.errors import ConservatorError
from conservator.forking import computes_here, renew_in_children
from conservator.image import Image
from conservator.networks.store import NetworkStore
from conservator.perception import load_perception, study
from conservator.perception.perception import Percept, Perception
from conservator.perception.risk import Admission
from conservator.photo import Photo, load_photo
from conservator.policies.catalog import PolicyContext, check_policy_name, make_policy
from conservator.policies.fixed import FixedOrder
from conservator.pool import LocalPool, MemoPool, Pool, RenamedPool, check_device, host
from conservator.request import Request, as_given
from conservator.restoration import Deciding, Follower, Plan, Restored, Treatment, blend, suggestions
from conservator.session.scope import ANYTHING, Scope
from conservator.session.session import Policy, Session
from conservator.strength import Treated
from conservator.tools.catalog import make_toolbox
from conservator.tools.experts import sharing
from conservator.tools.lway import adapting, bounded
from conservator.tools.tool import Toolbox
from conservator.treating import Treater

_MOST_WORKERS = 8
"""Threads that run tools, each of which computes on several cores itself."""

_REMEMBERED = 256 * 2**20
"""Bytes of results on studies that are kept: about sixty, which is more than a search over one photo makes."""

Progress = Callable[[str], None]
"""Is told the stage that begins: "examining", "deciding", a tool's name. A ``Follower`` is told more."""


def _silent(stage: str) -> None:
    pass


class Restorer:
    """Examines, plans and restores photos as a request says. Safe to call from many threads; close it after use.

    Each model is loaded once, when it is first needed, and kept. What is not given is made from the request's names:
    own objects take their place, and a ``pool`` that is given is not closed.

    >>> with Restorer(Request(objective="fidelity")) as restorer:     # doctest: +SKIP
    ...     restored = restorer.restore(load_photo("old.jpg"))
    ...     restored.save("new.png")
    """

    def __init__(
        self,
        request: Request = Request(),  # noqa: B008 - frozen
        *,
        toolbox: Toolbox | None = None,
        perception: Perception | None = None,
        policy: Policy | None = None,
        pool: Pool | None = None,
        scope: Scope | None = None,
        max_batch: int = 1,
        admission: Admission | None = None,
        keep_bytes: int = 0,
        workers: int | None = None,
        here: bool = True,
    ) -> None:
        """Raises ConservatorError for a policy, a toolbox or a device that there is not.

        ``admission`` is what decisions are held to, in place of the request's risk and thresholds. ``scope`` replaces
        what the request allows: for toolchains that were fixed elsewhere. ``max_batch`` above 1 lets waiting calls of a
        tool run as one batch: for training and studies, since results then depend in the last bits on what else is
        running. ``keep_bytes`` of results on whole photos are remembered at most, for one who treats a photo step by
        step: the same steps again cost nothing as long as they are. ``workers`` threads run tools (default: as many as
        the machine has cores, eight at most, and one on an accelerator). With ``here=False`` it stands for restorers
        that are to be made of it on other machines: the device, which this one may lack, is not tried.
        """
        given = {"toolbox": toolbox, "perception": perception, "policy": policy, "admission": admission}
        others = {"request": request, "pool": pool, "scope": scope, "max_batch": max_batch}
        self._arguments: dict[str, Any] = given | others | {"keep_bytes": keep_bytes, "workers": workers}
        self.request = as_given(request, **given)
        """What is wanted; what was given as an object is told by its name."""
        self._networks = NetworkStore()  # the experts that are tools and those that perception asks are the same
        tools = make_toolbox(request.toolbox) if toolbox is None else toolbox
        self.toolbox = sharing(bounded(tools, request.adapt_steps), self._networks)
        self.scope = Scope.of(request) if scope is None else scope
        self._given_pool, self._held_to = pool, HeldTo(self.request, self.toolbox, admission)
        self._max_batch, self._keep_bytes, self._threads = max_batch, keep_bytes, workers
        self._made: dict[str, Any] = {"perception": perception, "policy": policy}
        self._loaded: set[str] = set()
        self._closed = False
        self._workers = Counter[int]()
        self.renew()
        renew_in_children(self)
        computes_here()
        if policy is None:
            check_policy_name(request.policy, reference=False, chat=request.chat, wish=request.wish)
        if pool is None and here:
            check_device(request.device)

    def renew(self) -> None:
        """Go on in a forked child with what was loaded, without the work of the parent's other threads."""
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        own = threading.get_ident()
        self._at_work = self._workers[own]
        self._workers = +Counter({own: self._at_work})

    @property
    def perception(self) -> Perception:
        """What looks at photos."""
        return cast("Perception", self._once("perception", self._make_perception))

    @property
    def policy(self) -> Policy:
        """Who decides."""
        return cast("Policy", self._once("policy", self._make_policy))

    @property
    def admission(self) -> Admission | None:
        """What its decisions are held to, on the study and on the whole photo; None where nothing is.

        That is at risk 1, and for the policy none, which does nothing. Raises ConservatorError where the thresholds are
        not of this perception, or cannot certify the risk.
        """
        if not self._held_to.controlled:
            return self._held_to.given
        return cast("Admission", self._once("admission", lambda: self._held_to.admission(self.perception)))

    @property
    def pool(self) -> Pool:
        """Where tools run on studies: no tool adapts itself to one, since what it makes of it is only looked at."""
        return self._given_pool or cast("Pool", self._once("studies", self._make_studies))

    @property
    def _memo(self) -> Pool:
        """Where tools run on photos that are their own study: it remembers what they made there."""
        return self._given_pool or cast("Pool", self._once("memo", lambda: MemoPool(self.models, _REMEMBERED)))

    @property
    def models(self) -> Pool:
        """Where tools run on whole photos: their results are too large to remember, unless ``keep_bytes`` says so."""
        return self._given_pool or cast("Pool", self._once("models", self._make_models))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """A part of the restorer, made when it is first asked for, by one thread."""
        with self._lock:
            if self._closed and not self._at_work:
                raise ConservatorError("the restorer is closed; make a new one")
            if self._made.get(name) is None:
                self._made[name] = make()
            return self._made[name]

    def _make_perception(self) -> Perception:
        return load_perception(self.request.perception, self.request.device, self._networks)

    def _make_policy(self) -> Policy:
        request = self.request
        context = PolicyContext(
            self.pool,
            self.perception,
            request.objective,
            request.seed,
            device=request.device,
            chat=request.chat,
            toolbox=self.toolbox,
            wish=request.wish,
        )
        return make_policy(request.policy, context)

    def _make_studies(self) -> RenamedPool:
        return RenamedPool(self._memo, {name: f"study:{name}" for name in adapting(self.toolbox)})

    def _make_models(self) -> Pool:
        device = self.request.device
        # an accelerator's memory is for one call at a time
        workers = self._threads or (min(_MOST_WORKERS, max(2, os.cpu_count() or 1)) if device == "cpu" else 1)
        models = host(self.toolbox, study=adapting(bounded(self.toolbox, 0)))
        pool = LocalPool(models, device, workers, self._max_batch, at_once=workers)
        return MemoPool(pool, self._keep_bytes) if self._keep_bytes else pool

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Something that closing waits for."""
        with self._lock:
            if self._closed:
                raise ConservatorError("the restorer is closed; make a new one")
            self._at_work += 1
            self._workers[threading.get_ident()] += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                self._workers -= Counter([threading.get_ident()])
                self._idle.notify_all()

    def load(self, path: str | Path) -> Photo:
        """Read a photo within the request's limits; raises PhotoError where the file is none."""
        return load_photo(path, max_pixels=self.request.max_pixels, allow_truncated=self.request.allow_truncated)

    def examine(self, photo: Photo) -> Percept:
        """Say what is wrong with a photo."""
        with self._working():
            return self.perception.grade(study(photo.working_image()))

    def plan(self, photo: Photo, progress: Progress = _silent) -> Plan:
        """Decide on a toolchain, on a study of the photo; nothing is treated."""
        with self._working():
            return self._planned(self._decide(photo.working_image(), progress))

    def restore(self, photo: Photo, progress: Progress = _silent) -> Restored:
        """Plan, treat the whole photo once, look again, and take back what risk control does not admit there.

        A tool that fails on the whole photo, changes nothing there or is taken back is left out, and what is still to
        do is planned again. With risk 1 a tool is taken back where the whole clearly looks worse than before.
        ``progress`` is told the stage that begins. What a tool cannot do stands in ``Restored.failed``, what was not
        admitted in ``Restored.suggestions``.
        """
        with self._working():
            image, strength = photo.working_image(), self.request.strength
            return self._treat(photo, image, self._decide(image, progress), progress, strength=strength).at(strength)

    def apply(self, photo: Photo, toolchain: Sequence[str], progress: Progress = _silent) -> Restored:
        """Treat a photo with these tools in this order, whatever is seen in it: asked for by name, it is done.

        Nothing is taken back; what a tool cannot do stands in ``Restored.failed``. Raises NameNotFoundError for a tool
        that is not in the toolbox, ConservatorError where the result would have more pixels than the request allows.
        """
        self.check_size(photo, toolchain)
        with self._working():
            strength = self.request.strength
            return self._treat_with(photo, toolchain, progress, strength).at(strength)

    def treat(self, photo: Photo, toolchain: Sequence[str] | None = None, progress: Progress = _silent) -> Treated:
        """``restore`` a photo, or ``apply`` a toolchain to it, and leave the strength open, whatever the request says.

        ``Treated.at`` then gives the restoration at any strength, and treats nothing again.
        """
        if toolchain is not None:
            self.check_size(photo, toolchain)
        with self._working():
            image = photo.working_image()
            if toolchain is None:
                return self._treat(photo, image, self._decide(image, progress), progress)
            return self._treat_with(photo, toolchain, progress)

    def _treat_with(self, photo: Photo, toolchain: Sequence[str], progress: Progress, strength: float = 1.0) -> Treated:
        image, listed = photo.working_image(), tuple(toolchain)
        deciding = self._decide(image, progress, FixedOrder(*listed), ANYTHING, len(listed) + 1)
        return self._treat(photo, image, deciding, progress, listed, strength)

    def size_after(self, photo: Photo, toolchain: Sequence[str]) -> tuple[int, int]:
        """Height and width in pixels that a photo has after these tools."""
        scale = math.prod(self.toolbox[tool].spec.scale for tool in toolchain)
        height, width = photo.image.shape[-2:]
        return scale * height, scale * width

    def check_size(self, photo: Photo, toolchain: Sequence[str]) -> None:
        """Raise ConservatorError where these tools would make more pixels of the photo than the request allows."""
        height, width = self.size_after(photo, toolchain)
        if (height, width) != photo.image.shape[-2:] and height * width > self.request.max_pixels:
            raise ConservatorError(
                f"{', then '.join(toolchain)} would make {width} x {height} pixels of the photo, more than the limit "
                f"of {self.request.max_pixels}; raise max_pixels, or enlarge less"
            )

    def replay(self, photo: Photo, toolchain: Sequence[str]) -> Photo:
        """Apply a toolchain without looking: how a record is made again. Raises what a tool raises."""
        if not toolchain:
            return photo
        with self._working():
            image = result = photo.working_image()
            for tool in toolchain:
                result = self.models.submit(tool, result).result()
            return photo.with_working_image(blend(image, result, self.request.strength))

    def _decide(
        self,
        image: Image,
        progress: Progress,
        policy: Policy | None = None,
        scope: Scope | None = None,
        max_steps: int | None = None,
    ) -> Deciding:
        """Decide on a study of the photo; policy, scope and steps are the restorer's own unless others are given."""
        seconds = self._ready(progress, policy is None)
        start = time.perf_counter()
        progress("examining")
        steps = self.request.max_steps if max_steps is None else max_steps
        held_to = self.admission if policy is None else None
        session = Session(study(image), self.toolbox, self.pool, self.perception, steps, scope or self.scope, held_to)
        seconds["examining"] = time.perf_counter() - start
        progress("deciding")
        return Deciding(policy or self.policy, session, seconds)

    def _ready(self, progress: Progress, policy: bool) -> dict[str, float]:
        """Load perception, and the ``policy`` and its risk control if needed, at the first photo; the seconds taken."""
        with self._lock:
            wanted = {"perception", "policy"} if policy else {"perception"}
            if wanted <= self._loaded:
                return {}
            start = time.perf_counter()
            progress("loading")
            self.perception.setup()
            if policy:
                _ = self.policy, self.admission
            self._loaded |= wanted
            return {"loading": time.perf_counter() - start}

    def _planned(self, deciding: Deciding) -> Plan:
        trajectory = deciding.trajectory
        treated = self.toolbox.removed_by(trajectory.toolchain())
        gain = self.perception.weigh(trajectory.steps[0].look, trajectory.last.look, treated)
        suggested = suggestions(trajectory.refusals, trajectory.toolchain(), self.toolbox)
        return Plan(trajectory, gain, dict(deciding.seconds), suggested)

    def _treat(
        self,
        photo: Photo,
        image: Image,
        deciding: Deciding,
        progress: Progress,
        listed: tuple[str, ...] | None = None,
        strength: float = 1.0,
    ) -> Treated:
        """Treat the whole photo, unless at no ``strength``; with ``listed`` tools nothing is decided again."""
        if isinstance(progress, Follower):
            progress.planned(self._planned(deciding))
        decided, start = deciding.seconds["deciding"], time.perf_counter()
        its_own_study = deciding.trajectory.steps[0].image is image  # then its treatments are known
        pool = self._memo if its_own_study else self.models
        held_to = self.admission if listed is None else None
        treater = Treater(self.toolbox, pool, self.perception, self.request.objective, held_to)
        result, treatments = image, tuple[Treatment, ...]()
        if strength > 0:
            result, treatments = treater.treat(image, deciding, progress, listed)
        seconds = time.perf_counter() - start - (deciding.seconds["deciding"] - decided)
        return Treated(
            photo,
            image,
            result,
            self._planned(deciding),
            treatments,
            listed is not None,
            seconds,
            self.perception,
            self.toolbox,
            self.request.objective,
            calibrated=None if self._held_to.notes else held_to,
            notes=self._held_to.notes_on(deciding.trajectory.steps[0].percept) if listed is None else (),
        )

    def close(self) -> None:
        """End the pool that it made; calling it twice is fine. What is being restored meanwhile is finished first."""
        with self._lock:
            if threading.get_ident() in self._workers:
                raise ConservatorError("a restorer cannot be closed from within its own work; close it afterwards")
            self._closed = True
            self._idle.wait_for(lambda: not self._at_work)
            pools = [self._made.pop(name, None) for name in ("memo", "models")]
        for pool in pools:
            if pool is not None:
                pool.close()

    def with_workers(self, workers: int) -> Restorer:
        """One like it, with nothing loaded, whose tools run on so many threads; its device is not tried here.

        For a process that is to take no more than its share of a machine.
        """
        return Restorer(**self._arguments | {"workers": workers, "here": False})

    def __reduce__(self) -> tuple[Any, ...]:
        """As it was asked for, with nothing loaded: a worker in another process loads its own."""
        if self._given_pool is not None:
            raise ConservatorError("a restorer with a pool of your own stays in its process; make one there")
        return partial(Restorer, **self._arguments), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

"""One restorer for many photos and threads: models loaded once, the same bytes, own objects in every place."""

from __future__ import annotations

import gc
import pickle
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from listening import reading
from PIL import Image as PillowImage
from skimage import data

import conservator
from conservator import Apply, Decision, Kind, Photo, Request, Restorer, Stop, Tool, Toolbox, ToolSpec
from conservator.apps.replay import replay_record
from conservator.batch import JOURNAL, FileRestorer, Job, Journal, Task, Threads, run_batch
from conservator.errors import ConservatorError, NameNotFoundError, PoolError, ToolFailedError
from conservator.files import sha256
from conservator.image import Image, to_image
from conservator.perception import Look, StatisticalPerception, study
from conservator.perception.perception import Gain
from conservator.pool import MemoPool
from conservator.record import load_record
from conservator.session import Observation
from conservator.tools import make_toolbox

EYE = StatisticalPerception.load()
UNCHECKED = Request(risk=1)
"""Risk control knows no perception but its own."""


class Smooth(Tool):
    """A mean of 3x3 neighbours that counts how often it was loaded."""

    spec = ToolSpec("smooth", frozenset({Kind.NOISE}), "Smooths.", "none", "Apache-2.0")

    def __init__(self) -> None:
        self.loads = Counter[str]()

    def setup(self, device: str) -> None:
        self.loads[device] += 1

    def restore(self, image: Image) -> Image:
        return torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)


class Once:
    """A policy of one's own: one tool, then stop."""

    name = "once"

    def __init__(self, tool: str) -> None:
        self._tool = tool

    def act(self, observation: Observation) -> Decision:
        done = observation.trajectory.toolchain()
        return Decision(Stop() if done else Apply(self._tool), thought="as asked")


def crops(count: int, *sigmas: float) -> list[Photo]:
    """Noisy parts of real photos, 96 pixels a side, all different; ``sigmas`` of 255 take turns."""
    rng = np.random.default_rng(0)
    photos = []
    for i in range(count):
        source = (data.astronaut(), data.coffee(), data.chelsea())[i % 3]
        top, left = (int(rng.integers(0, side - 96)) for side in source.shape[:2])
        part = source[top : top + 96, left : left + 96] + rng.normal(
            0, (sigmas or (25.0,))[i % len(sigmas or (1,))], (96, 96, 3)
        )
        photos.append(Photo(to_image(part.clip(0, 255).astype(np.uint8))))
    return photos


def test_80_restorations_from_8_threads_give_the_same_bytes_as_one_by_one() -> None:
    photos, request = crops(20, 0, 12, 25, 45), Request("rules", "classical", risk=1)
    with Restorer(request, perception=EYE) as restorer:
        alone = [restorer.restore(photo) for photo in photos]
    assert {bool(restored.toolchain) for restored in alone} == {True, False}
    with Restorer(request, perception=EYE) as restorer, ThreadPoolExecutor(8) as threads:
        together = list(threads.map(restorer.restore, photos * 4))
    for i, restored in enumerate(together):
        assert restored.toolchain == alone[i % 20].toolchain
        assert torch.equal(restored.photo.image, alone[i % 20].photo.image)


def test_a_restorer_keeps_no_picture_of_what_it_is_done_with() -> None:
    """Results of whole photos are too large to remember: memory must not grow with the number of photos."""
    large = Photo(torch.rand(1, 3, 600, 700, generator=torch.Generator().manual_seed(0)))
    with Restorer(UNCHECKED, toolbox=Toolbox(Smooth()), perception=EYE, policy=Once("smooth")) as restorer:
        restored = restorer.restore(large)
        shape = restored.photo.image.shape
        assert restored.toolchain == ("smooth",)
        del restored, large
        gc.collect()
        kept = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape == shape]
    assert not kept


def test_what_is_remembered_of_many_photos_is_bounded() -> None:
    one = crops(1)[0].image
    limit = 5 * one.numel() * one.element_size()
    with Restorer(UNCHECKED, toolbox=Toolbox(Smooth()), perception=EYE, policy=Once("smooth")) as owner:
        memo = MemoPool(owner.models, max_bytes=limit)
        with Restorer(UNCHECKED, toolbox=owner.toolbox, perception=EYE, policy=Once("smooth"), pool=memo) as restorer:
            for photo in crops(20):
                restorer.restore(photo)
            gc.collect()
            alive = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape == one.shape]
    assert len(alive) <= 5 + 2  # what is remembered, and the last photo


def test_every_model_is_loaded_once_whatever_the_number_of_photos_and_threads(tmp_path: Path) -> None:
    smooth, tasks = Smooth(), []
    for i, photo in enumerate(crops(12)):
        conservator.save_photo(photo, tmp_path / f"{i}.png")
        tasks.append(Task(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png"))
    with Restorer(UNCHECKED, toolbox=Toolbox(smooth), perception=EYE, policy=Once("smooth")) as restorer:
        summary = run_batch(tasks, FileRestorer(restorer), Journal(tmp_path / JOURNAL), executor=Threads(4))
    assert summary.count("restored") == 12
    assert smooth.loads == {"cpu": 1}


def test_own_objects_take_every_place(tmp_path: Path) -> None:
    path = tmp_path / "noisy.png"
    conservator.save_photo(crops(1)[0], path)
    restored = conservator.restore_file(path, policy=Once("smooth"), toolbox=Toolbox(Smooth()), perception=EYE, risk=1)
    assert restored.toolchain == ("smooth",)
    assert "smooth" in repr(restored)
    assert "96x96" in repr(restored)
    restored.save(tmp_path / "new.png")
    assert PillowImage.open(tmp_path / "new.png").size == (96, 96)
    with pytest.raises(ConservatorError, match="exists already"):
        restored.save(tmp_path / "new.png")
    untouched = conservator.restore_file(path, policy="none")
    untouched.save(tmp_path / "same.png")
    assert sha256(tmp_path / "same.png") == sha256(path)
    seen = conservator.examine_file(path, perception=EYE)
    assert seen.severities == EYE.grade(study(conservator.load_photo(path).working_image())).severities


def test_a_plan_treats_nothing_and_is_what_restore_carries_out() -> None:
    photo = crops(1)[0]
    before = photo.image.clone()
    with Restorer(Request("greedy", "classical", risk=1), perception=EYE) as restorer:
        plan = restorer.plan(photo)
        assert plan.toolchain
        assert plan.gain.cautious("balanced") > 0
        assert torch.equal(photo.image, before)
        assert restorer.restore(photo).trajectory.toolchain() == plan.toolchain


def test_what_is_asked_for_by_name_is_done() -> None:
    """Whatever is seen, and whatever comes of it: also where a policy would have taken it back."""
    clean = Photo(to_image(data.coffee()[:200, :200]))

    class Severe(StatisticalPerception):
        def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
            return Gain.sure(-5.0)

    tools = Toolbox(Smooth(), *make_toolbox("classical").only("tv_denoise", "lanczos_x2").values())
    with Restorer(UNCHECKED, toolbox=tools, perception=Severe.load(), policy=Once("smooth")) as restorer:
        assert restorer.restore(clean).untouched
        treated = restorer.apply(clean, ("smooth", "smooth", "lanczos_x2"))
        assert treated.toolchain == ("smooth", "smooth", "lanczos_x2")
        assert treated.treatments[0].gain == -5.0
        assert treated.photo.image.shape == (1, 3, 400, 400)
        with pytest.raises(NameNotFoundError, match="tv_denoise"):
            restorer.apply(clean, ("tv_denoize",))
        again = restorer.replay(clean, treated.toolchain)
        assert torch.equal(again.image, treated.photo.image)


def test_an_enlargement_is_not_judged_by_other_places() -> None:
    """Studies of a photo before and after show different places where both have five pictures: nothing to compare."""
    image = to_image(data.astronaut()[:420, :500])
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    grain[..., :250] = 0  # one half is noisy, so a study of other places looks much better or much worse
    photo = Photo((image + grain).clamp(0, 1))
    assert study(photo.image).shape == study(torch.nn.functional.interpolate(photo.image, scale_factor=2.0)).shape
    request = Request(toolbox="classical", upscale=True, risk=1)
    with Restorer(request, perception=EYE, policy=Once("lanczos_x2")) as restorer:
        restored = restorer.restore(photo)
    assert restored.toolchain == ("lanczos_x2",)
    assert restored.treatments[0].gain == pytest.approx(0.5)


def test_treatments_after_an_enlargement_are_judged_at_the_places_of_the_enlarged() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (420, 500, 3))
    photo = Photo(to_image((data.astronaut()[:420, :500] + noise).clip(0, 255).astype(np.uint8)))
    asked: list[tuple[int, ...]] = []

    class Watching(StatisticalPerception):
        def weigh(self, before, after, treated):  # type: ignore[no-untyped-def]
            if before.image.shape == after.image.shape:
                asked.append(tuple((before.image - after.image).abs().mean((1, 2, 3)).gt(0.2).tolist()))
            return super().weigh(before, after, treated)

    with Restorer(Request(toolbox="classical", risk=1), perception=Watching.load()) as restorer:
        restorer.apply(photo, ("lanczos_x2", "tv_denoise"))
    assert asked
    assert not any(map(any, asked))  # two studies of other places would differ by far more


def test_what_counts_is_what_the_user_asked_for() -> None:
    """A treatment that is harm for fidelity and a gain for the look is kept only where looks count."""

    class Torn(StatisticalPerception):
        def weigh(self, before, after, treated):  # type: ignore[no-untyped-def]
            gain = super().weigh(before, after, treated)
            return replace(gain, mean={"fidelity": -3.0, "balanced": 0.0, "perceptual": 3.0})

    photo = crops(1)[0]
    for objective, kept in (("fidelity", False), ("perceptual", True)):
        request = Request(toolbox="classical", objective=objective, risk=1)
        with Restorer(request, perception=Torn.load(), policy=Once("tv_denoise")) as restorer:
            assert bool(restorer.restore(photo).toolchain) == kept
        with Restorer(replace(request, policy="rules"), perception=Torn.load()) as restorer:
            plan = restorer.plan(photo)
            assert bool(plan.toolchain) == kept


def test_a_closed_restorer_says_so() -> None:
    restorer = Restorer(Request("rules", "classical", risk=1), perception=EYE)
    restorer.restore(crops(1)[0])
    restorer.close()
    restorer.close()
    with pytest.raises(ConservatorError, match="closed"):
        restorer.restore(crops(1)[0])
    unused = Restorer()
    unused.close()


def test_photos_that_need_the_same_tool_do_not_wait_for_each_other() -> None:
    meet = threading.Barrier(2)

    class Met(Smooth):
        def restore(self, image: Image) -> Image:
            meet.wait(60)  # until another thread is here, too
            return super().restore(image)

    photos = [Photo(torch.rand(1, 3, 500, 600)), Photo(torch.rand(1, 3, 500, 600))]
    with Restorer(UNCHECKED, toolbox=Toolbox(Met()), perception=EYE, policy=Once("smooth")) as restorer:
        with ThreadPoolExecutor(2) as threads:
            restored = list(threads.map(restorer.restore, photos))
        assert [r.toolchain for r in restored] == [("smooth",)] * 2


def test_closing_waits_for_what_is_being_restored_and_takes_no_more() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Smooth):
        def restore(self, image: Image) -> Image:
            started.set()
            assert go_on.wait(120)
            return super().restore(image)

    restorer = Restorer(UNCHECKED, toolbox=Toolbox(Slow()), perception=EYE, policy=Once("smooth"))
    large = Photo(torch.rand(1, 3, 500, 600, generator=torch.Generator().manual_seed(0)))
    pool = restorer.pool
    with ThreadPoolExecutor(2) as threads:
        restoring = threads.submit(restorer.restore, large)
        assert started.wait(120)
        closing = threads.submit(restorer.close)
        while not restorer._closed:  # until it has begun to close
            assert not closing.done()
        with pytest.raises(ConservatorError, match="closed"):
            restorer.restore(large)
        assert not closing.done()  # for the whole photo is not treated yet
        go_on.set()
        assert restoring.result().toolchain == ("smooth",)
        closing.result()
    with pytest.raises(PoolError, match="closed"):
        pool.submit("smooth", large.image)


def test_a_restorer_is_not_closed_from_within_its_own_work() -> None:
    restorer = Restorer(UNCHECKED, toolbox=Toolbox(Smooth()), perception=EYE, policy=Once("smooth"))
    with pytest.raises(ConservatorError, match="from within"):
        restorer.restore(crops(1)[0], progress=lambda stage: restorer.close())
    assert restorer.restore(crops(1)[0]).toolchain == ("smooth",)
    restorer.close()


def test_what_a_tool_cannot_do_is_told_where_it_was_asked_for() -> None:
    class Small(Smooth):
        """Fails on large pictures."""

        spec = replace(Smooth.spec, name="small", tile=None)

        def restore(self, image: Image) -> Image:
            if image.shape[-1] > 400:
                raise ToolFailedError("it is too large")
            return super().restore(image)

    class Large(Small):
        """Fails on the small pictures of a study."""

        spec = replace(Smooth.spec, name="large", tile=None)

        def restore(self, image: Image) -> Image:
            if image.shape[-1] <= 400:
                raise ToolFailedError("it is too small")
            return Smooth.restore(self, image)

    large = Photo(torch.rand(1, 3, 450, 500, generator=torch.Generator().manual_seed(0)))
    with Restorer(UNCHECKED, toolbox=Toolbox(Small(), Large()), perception=EYE) as restorer:
        restored = restorer.apply(large, ("small", "large"))
    assert restored.toolchain == ("large",)
    assert [treatment.tool for treatment in restored.failed] == ["small"]


def test_own_objects_are_told_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "noisy.png"
    conservator.save_photo(crops(1)[0], path)
    task = Task(path, tmp_path / "out.png")
    with Restorer(UNCHECKED, toolbox=Toolbox(Smooth()), perception=EYE, policy=Once("smooth")) as restorer:
        assert FileRestorer(restorer)(Job(task), lambda stage: None).status == "restored"
    asked = load_record(task.record).request
    assert (asked.policy, asked.toolbox, asked.perception) == ("own:once", "own:smooth", "own:StatisticalPerception")
    with pytest.raises(ConservatorError, match="a program's own"):
        replay_record(task.record, None, None, False)


def test_a_restorer_can_go_to_another_process() -> None:
    """Pickled, it is what was asked for; nothing that was loaded goes along."""
    photo = crops(1)[0]
    with Restorer(Request("rules", "classical", only=frozenset({Kind.NOISE}), risk=1), perception=EYE) as restorer:
        here = restorer.restore(photo)
        data_of_it = pickle.dumps(FileRestorer(restorer, report=True))
    assert len(data_of_it) < 20_000
    there = pickle.loads(data_of_it)
    with there.restorer as again:
        assert there.report
        assert again.request == restorer.request
        assert torch.equal(again.restore(photo).photo.image, here.photo.image)


def test_experts_and_perception_of_a_batch_are_read_once(tmp_path: Path) -> None:
    """The real ones: every file of weights is opened once, though perception asks some of the experts, too."""
    tasks = []
    for i, photo in enumerate(crops(3, 30)):
        conservator.save_photo(photo, tmp_path / f"{i}.png")
        tasks.append(Task(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png"))
    with reading() as opened, Restorer(Request(only=frozenset({Kind.NOISE, Kind.RAIN}))) as restorer:
        summary = run_batch(tasks, FileRestorer(restorer), Journal(tmp_path / JOURNAL), executor=Threads(3))
        files = Counter(opened)
    assert summary.count("failed") == 0
    assert {"perception", "denoise_medium", "derain"} <= files.keys()
    assert set(files.values()) == {1}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"strength": 1.5}, "strength is 1.5, expected a number from 0 to 1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"risk": 1.5}, "risk is 1.5"),
        ({"risk": 0}, "risk is 0"),
        ({"max_steps": 0}, "max_steps is 0, expected 1 or more"),
        ({"objective": "fidelty"}, "did you mean fidelity"),
        ({"only": frozenset({Kind.NOISE}), "never": frozenset({Kind.NOISE})}, "noise cannot be both"),
        ({"never": {"nois"}}, "did you mean noise"),
        ({"only": "noise"}, "expected a set of kinds"),
        ({"strength": "0.5"}, "strength is '0.5', expected a number"),
        ({"perception": "percepton"}, "did you mean perception"),
        ({"policy": "greddy"}, "did you mean greedy"),
        ({"toolbox": "clasical"}, "did you mean classical"),
        ({"device": "cuda:99"}, "cuda:99 cannot be used"),
    ],
)
def test_what_cannot_be_wanted_is_refused_in_one_sentence(wanted: dict[str, object], words: str) -> None:
    with pytest.raises(ConservatorError, match=words), Restorer(Request(**wanted)) as restorer:  # type: ignore[arg-type]
        restorer.examine(crops(1)[0])


def test_only_and_never_hold_for_every_policy() -> None:
    photo = crops(1, 40)[0]
    tools = make_toolbox("classical")

    def chain(policy: str, **wanted: object) -> Sequence[str]:
        with Restorer(Request(policy, **{"toolbox": "classical", "risk": 1} | wanted), perception=EYE) as restorer:  # type: ignore
            return restorer.plan(photo).toolchain

    assert chain("dqn", never=frozenset(Kind), toolbox="rl-restore") == ()
    for policy in ("greedy", "rules", "random_both", "search", "beam", "predefined"):
        assert any(Kind.NOISE in tools[tool].spec.removes for tool in chain(policy))
        without = chain(policy, never=frozenset({Kind.NOISE}))
        assert not any(Kind.NOISE in tools[tool].spec.removes for tool in without)
        assert chain(policy, only=frozenset({Kind.RAIN})) == () or all(
            Kind.RAIN in tools[tool].spec.removes for tool in chain(policy, only=frozenset({Kind.RAIN}))
        )

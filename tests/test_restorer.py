"""One restorer for many photos and threads: models loaded once, the same bytes, own objects in every place."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data

import conservator
from conservator import Apply, Decision, Kind, Photo, Request, Restorer, Stop, Tool, Toolbox, ToolSpec
from conservator.batch import JOURNAL, FileRestorer, Journal, Task, Threads, run_batch
from conservator.errors import ConservatorError, NameNotFoundError, PoolError
from conservator.files import sha256
from conservator.image import Image, to_image
from conservator.perception import Look, StatisticalPerception, study
from conservator.perception.perception import Gain
from conservator.session import Observation
from conservator.tools import make_toolbox

EYE = StatisticalPerception.load()


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


def test_200_restorations_from_8_threads_give_the_same_bytes_as_one_by_one() -> None:
    photos, request = crops(50, 0, 12, 25, 45), Request("rules", "classical")
    with Restorer(request, perception=EYE) as restorer:
        alone = [restorer.restore(photo) for photo in photos]
    assert {bool(restored.toolchain) for restored in alone} == {True, False}
    with Restorer(request, perception=EYE) as restorer:
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(restorer.restore, photos * 4))
        assert restorer.pool._bytes <= 512 * 2**20  # type: ignore[attr-defined]
    for i, restored in enumerate(together):
        assert restored.toolchain == alone[i % 50].toolchain
        assert torch.equal(restored.photo.image, alone[i % 50].photo.image)


def test_a_restorer_keeps_no_picture_of_what_it_is_done_with() -> None:
    """Results of whole photos are too large to remember: memory must not grow with the number of photos."""
    large = Photo(torch.rand(1, 3, 600, 700, generator=torch.Generator().manual_seed(0)))
    with Restorer(toolbox=Toolbox(Smooth()), perception=EYE, policy=Once("smooth")) as restorer:
        restored = restorer.restore(large)
        shape = restored.photo.image.shape
        assert restored.toolchain == ("smooth",)
        del restored, large
        gc.collect()
        kept = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape == shape]
    assert not kept


def test_every_model_is_loaded_once_whatever_the_number_of_photos_and_threads(tmp_path: Path) -> None:
    smooth, tasks = Smooth(), []
    for i, photo in enumerate(crops(12)):
        conservator.save_photo(photo, tmp_path / f"{i}.png")
        tasks.append(Task(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png"))
    with Restorer(toolbox=Toolbox(smooth), perception=EYE, policy=Once("smooth")) as restorer:
        summary = run_batch(tasks, FileRestorer(restorer), Journal(tmp_path / JOURNAL), executor=Threads(4))
    assert summary.count("restored") == 12
    assert smooth.loads == {"cpu": 1}


def test_own_objects_take_every_place(tmp_path: Path) -> None:
    path = tmp_path / "noisy.png"
    conservator.save_photo(crops(1)[0], path)
    restored = conservator.restore_file(path, policy=Once("smooth"), toolbox=Toolbox(Smooth()), perception=EYE)
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
    with Restorer(Request("greedy", "classical"), perception=EYE) as restorer:
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
    with Restorer(toolbox=tools, perception=Severe.load(), policy=Once("smooth")) as restorer:
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
    request = Request(toolbox="classical", upscale=True)
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

    with Restorer(Request(toolbox="classical"), perception=Watching.load()) as restorer:
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
        request = Request(toolbox="classical", objective=objective)
        with Restorer(request, perception=Torn.load(), policy=Once("tv_denoise")) as restorer:
            assert bool(restorer.restore(photo).toolchain) == kept
        with Restorer(replace(request, policy="rules"), perception=Torn.load()) as restorer:
            plan = restorer.plan(photo)
            assert bool(plan.toolchain) == kept


def test_a_closed_restorer_says_so() -> None:
    restorer = Restorer(Request("rules", "classical"), perception=EYE)
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
    with Restorer(toolbox=Toolbox(Met()), perception=EYE, policy=Once("smooth")) as restorer:
        with ThreadPoolExecutor(2) as threads:
            restored = list(threads.map(restorer.restore, photos))
        assert [r.toolchain for r in restored] == [("smooth",)] * 2


def test_closing_waits_for_what_is_being_done() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Smooth):
        def restore(self, image: Image) -> Image:
            started.set()
            assert go_on.wait(60)
            return super().restore(image)

    restorer = Restorer(toolbox=Toolbox(Slow()), perception=EYE, policy=Once("smooth"))
    pool = restorer.pool
    call = pool.submit("smooth", crops(1)[0].image)
    assert started.wait(60)
    closing = threading.Thread(target=restorer.close)
    closing.start()
    go_on.set()
    closing.join()
    assert call.result().shape == (1, 3, 96, 96)
    with pytest.raises(PoolError, match="closed"):
        pool.submit("smooth", crops(1)[0].image)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"strength": 1.5}, "strength is 1.5, expected a number from 0 to 1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"tonal_confidence": -0.1}, "tonal_confidence is -0.1"),
        ({"max_steps": 0}, "max_steps is 0, expected 1 or more"),
        ({"objective": "fidelty"}, "did you mean fidelity"),
        ({"only": frozenset({Kind.NOISE}), "never": frozenset({Kind.NOISE})}, "noise cannot be both"),
        ({"policy": "greddy"}, "did you mean greedy"),
        ({"toolbox": "clasical"}, "did you mean classical"),
        ({"device": "cuda:99"}, "cuda:99 cannot be used"),
    ],
)
def test_what_cannot_be_wanted_is_refused_in_one_sentence(wanted: dict[str, object], words: str) -> None:
    with pytest.raises(ConservatorError, match=words):
        Restorer(Request(**wanted))  # type: ignore[arg-type]


def test_only_and_never_hold_for_every_policy() -> None:
    photo = crops(1, 40)[0]
    tools = make_toolbox("classical")

    def chain(policy: str, **wanted: object) -> Sequence[str]:
        with Restorer(Request(policy, "classical", **wanted), perception=EYE) as restorer:  # type: ignore[arg-type]
            return restorer.plan(photo).toolchain

    for policy in ("greedy", "rules", "random_both"):
        assert any(Kind.NOISE in tools[tool].spec.removes for tool in chain(policy))
        without = chain(policy, never=frozenset({Kind.NOISE}))
        assert not any(Kind.NOISE in tools[tool].spec.removes for tool in without)
        assert chain(policy, only=frozenset({Kind.RAIN})) == () or all(
            Kind.RAIN in tools[tool].spec.removes for tool in chain(policy, only=frozenset({Kind.RAIN}))
        )

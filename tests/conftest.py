"""Shared fixtures: real photos that ship inside scikit-image, small tools, a place for the user's tools."""

from __future__ import annotations

import os

# One thread per process, commands that a test starts included: they read this before their first sum. Tests are spread
# over processes instead, which then do not wait for each other, however busy the machine is.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image as PillowImage
from skimage import data

from conservator.degradations import Kind
from conservator.image import Image, to_image
from conservator.tools import Tool, Toolbox, ToolSpec

if TYPE_CHECKING:
    from chat_endpoint import Endpoint

SHARED = Path(__file__).resolve().parents[2] / "shared"


torch.set_num_threads(1)
torch.set_num_interop_threads(1)

# a machine that is busy with other tests may pause any example for seconds
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def state_of_torch() -> Iterator[None]:
    """What a test sets for the whole process, and commands set it, must not reach the next one.

    That is how many threads there are, and whether the tiniest numbers are rounded to zero, as trainings do for speed;
    Hypothesis, for one, cannot work so.
    """
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own tools must never leak into a test, nor a test's tools to the user."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CONSERVATOR_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def photo() -> Image:
    """A part of a photo, 240 pixels high and 320 wide."""
    return to_image(data.astronaut()[:240, :320])


@pytest.fixture(scope="session")
def astronaut() -> Image:
    return to_image(data.astronaut())


@pytest.fixture(scope="session")
def coffee() -> Image:
    return to_image(data.coffee())


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared folder beside the checkout is absent")
    return SHARED


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An OpenAI-compatible endpoint that waits for its script."""
    from chat_endpoint import Endpoint

    for name in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Endpoint() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def noisy_file(tmp_path: Path) -> Path:
    """A noisy photo of 200x160 pixels, alone in a folder."""
    noisy = data.coffee()[:160, :200] + np.random.default_rng(0).normal(0, 30, (160, 200, 3))
    path = tmp_path / "in" / "noisy.png"
    path.parent.mkdir()
    PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path


class Gamma(Tool):
    """Brightens by a square root."""

    spec = ToolSpec("gamma", frozenset({Kind.LOW_LIGHT}), "Brightens by a gamma of 0.5.", "textbook", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        return image.sqrt()


class BoxBlur(Tool):
    """Averages 5x5 neighbours."""

    spec = ToolSpec(
        "box_blur", frozenset({Kind.NOISE}), "Averages 5x5 neighbours.", "textbook", "Apache-2.0", multiple_of=4
    )

    def restore(self, image: Image) -> Image:
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode="replicate")
        return torch.nn.functional.avg_pool2d(padded, 5, 1)


class Broken(Tool):
    """Cannot do anything."""

    spec = ToolSpec("broken", frozenset({Kind.RAIN}), "Fails.", "textbook", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        from conservator.errors import ToolFailedError

        raise ToolFailedError("no streaks could be found")


@pytest.fixture
def small_toolbox() -> Toolbox:
    return Toolbox(Gamma(), BoxBlur(), Broken())

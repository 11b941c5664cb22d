"""Shared fixtures: real photos that ship inside scikit-image, small tools, a place for the user's tools."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data

from conservator.degradations import Kind
from conservator.image import Image, to_image
from conservator.tools import Tool, Toolbox, ToolSpec

if TYPE_CHECKING:
    from chat_endpoint import Endpoint

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Trainings round the tiniest numbers to zero, for speed; Hypothesis, for one, cannot work so."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own tools must never leak into a test, nor a test's tools to the user."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CONSERVATOR_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For many small sums: threads would only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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

"""A photo that was treated once, at any strength: the same as a restorer gives whose request has that strength."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from conservator.batch import FileRestorer, Job, Task
from conservator.image import Image
from conservator.photo import load_photo
from conservator.record import load_record
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.tool import Tool, Toolbox

REQUEST = Request("rules", "classical", "statistics", risk=1)


class Counted(Tool):
    """A tool that counts its calls, those of copies of it, too."""

    calls: ClassVar[list[str]] = []

    def __init__(self, tool: Tool) -> None:
        self._tool, self.spec = tool, tool.spec

    def restore(self, image: Image) -> Image:
        self.calls.append(self.spec.name)
        return self._tool.restore(image)


@pytest.mark.parametrize("tools", [None, ("wavelet_denoise", "gamma_brighten")])
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0])
def test_it_is_what_that_strength_gives(noisy_file: Path, strength: float, tools: tuple[str, ...] | None) -> None:
    photo = load_photo(noisy_file)
    with Restorer(REQUEST) as restorer, Restorer(replace(REQUEST, strength=strength)) as other:
        treated = restorer.treat(photo, tools).at(strength)
        expected = other.restore(photo) if tools is None else other.apply(photo, tools)
    assert torch.equal(treated.photo.image, expected.photo.image)
    assert (treated.toolchain, treated.gain, treated.after) == (expected.toolchain, expected.gain, expected.after)
    assert treated.strength == expected.strength == strength
    assert treated.untouched == (strength == 0)


def test_no_strength_treats_again(noisy_file: Path, small_toolbox: Toolbox) -> None:
    tool = Counted(small_toolbox["box_blur"])
    with Restorer(REQUEST, toolbox=Toolbox(tool)) as restorer:
        treated = restorer.treat(load_photo(noisy_file), ("box_blur",))
        calls = len(tool.calls)
        pictures = [treated.at(strength).photo.image for strength in (0.2, 0.8)]
        assert torch.equal(pictures[0], treated.blended(0.2).image)
    assert len(tool.calls) == calls > 0
    assert not torch.equal(*pictures)


def test_the_record_has_the_strength_that_was_written(noisy_file: Path, tmp_path: Path) -> None:
    task = Task(noisy_file, tmp_path / "out" / "noisy.png")
    told = Task(Path("noisy.png"), Path("noisy_restored.png"))
    with Restorer(REQUEST) as restorer:
        files, photo = FileRestorer(restorer, report=True), load_photo(noisy_file)
        restored = restorer.treat(photo).at(0.5)
        done = files.carry_out(Job(task), lambda folder: files.write(told, folder, photo, restored, "0" * 64))
    record = load_record(task.record)
    assert done.status == "restored"
    assert record.request == replace(REQUEST, strength=0.5)
    assert (record.input.path, record.output.path) == ("noisy.png", "noisy_restored.png")
    assert task.report.is_file()

"""What is written beside a result is true: files, hashes, the toolchain in its order, weights as they are listed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data

import conservator.weights
from conservator.apps.replay import replay_record
from conservator.batch import FileRestorer, Job, Task
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.image import to_image
from conservator.perception import StatisticalPerception
from conservator.photo import load_photo
from conservator.policies import FixedOrder
from conservator.record import load_record
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import make_toolbox
from conservator.weights import load_weights, manifest

CHAIN = ("tv_denoise", "gamma_brighten", "deblock")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A dark and noisy photo that was compressed."""
    photo = data.coffee()[100:228, 200:360] * 0.35 + np.random.default_rng(0).normal(0, 15, (128, 160, 3))
    PillowImage.fromarray(photo.clip(0, 255).astype(np.uint8)).save(tmp_path / "in.jpg", quality=40)
    return Task(tmp_path / "in.jpg", tmp_path / "out.png")


@pytest.fixture
def treated(task: Task) -> Task:
    """The photo after three tools whose order matters."""
    with Restorer(
        Request(toolbox="classical", strength=0.75, risk=1),
        perception=StatisticalPerception.load(),
        policy=FixedOrder(*CHAIN),
    ) as restorer:
        assert FileRestorer(restorer)(Job(task), lambda stage: None).status == "restored"
    return task


def test_a_record_names_the_files_and_what_was_done_to_them(treated: Task) -> None:
    record = load_record(treated.record)
    assert record.input.sha256 == sha256(treated.source) != record.output.sha256 == sha256(treated.target)
    assert (record.input.width, record.input.height, record.input.format) == (160, 128, "JPEG")
    assert (record.output.width, record.output.height, record.output.format) == (160, 128, "PNG")
    kept = [treatment.tool for treatment in record.treatments if treatment.kept]
    assert record.toolchain == kept
    assert [step.argument for step in record.steps if step.action == "apply"] == list(CHAIN)


def test_a_replay_applies_the_tools_of_the_record_in_its_order(treated: Task) -> None:
    record = load_record(treated.record)
    assert len(record.toolchain) >= 2, "the photo should need more than one of its tools"
    toolbox, image = make_toolbox("classical"), load_photo(treated.source).working_image()
    by_hand = image
    for tool in record.toolchain:
        by_hand = toolbox[tool](by_hand)
    by_hand = image + 0.75 * (by_hand - image)
    result = to_image(np.asarray(PillowImage.open(treated.target)))
    assert float((result - by_hand).abs().max()) < 1 / 255
    other = image
    for tool in reversed(record.toolchain):
        other = toolbox[tool](other)
    assert float((result - (image + 0.75 * (other - image))).abs().max()) > 4 / 255  # the order can be told
    same, message = replay_record(treated.record, None, None, overwrite=False)
    assert same, message
    assert " → ".join(record.toolchain) in message


@pytest.mark.parametrize("spoil", ["toolchain", "strength", "output"])
def test_a_replay_that_gives_something_else_says_so(treated: Task, spoil: str) -> None:
    record = load_record(treated.record)
    text = treated.record.read_text()
    if spoil == "toolchain":
        changed = record.model_copy(update={"toolchain": record.toolchain[::-1]}).model_dump_json()
    elif spoil == "strength":
        changed = text.replace('"strength": 0.75', '"strength": 0.25')
    else:
        changed = text.replace(record.output.sha256, "0" * 64)
    assert changed != text
    treated.record.write_text(changed)
    same, message = replay_record(treated.record, None, None, overwrite=False)
    assert not same
    assert "differs" in message


def test_weights_that_are_not_the_listed_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = min(manifest(), key=lambda name: manifest()[name]["bytes"])
    for file in ("manifest.toml", f"{name}.safetensors"):
        shutil.copy(conservator.weights.WEIGHTS / file, tmp_path / file)
    monkeypatch.setattr(conservator.weights, "WEIGHTS", tmp_path)
    assert load_weights(name)[0]
    stored = bytearray((tmp_path / f"{name}.safetensors").read_bytes())
    stored[-1] ^= 1  # one bit of one number
    (tmp_path / f"{name}.safetensors").write_bytes(stored)
    with pytest.raises(ConservatorError, match="sha256"):
        load_weights(name)

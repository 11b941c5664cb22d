"""The chain of what ships: what an expert's change makes stale, who is told, and in which order it is rebuilt."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from conservator import weights
from conservator.apps.cli import app as cli
from conservator.apps.cli import train_all
from conservator.apps.cli.train_all import rebuilds, status
from conservator.errors import ConservatorError
from conservator.evaluation.rows import toolbox_hash
from conservator.tools import make_toolbox
from conservator.training.perception.samples import samples_folder
from conservator.training.run import hashes_of_weights, ship_weights
from conservator.weights import chain, load_weights, manifest
from conservator.weights.chain import StaleWeightsWarning, links, stale_is_an_error


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This installation's weights, in a folder that may be changed."""
    copy = shutil.copytree(weights.WEIGHTS, tmp_path / "weights", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(weights, "WEIGHTS", copy)
    return copy


def states() -> dict[str, str]:
    return {link.name: link.state for link in links(manifest())}


def retrain(folder: Path, name: str, **more: str) -> None:
    """Ship a little other weights under a name."""
    tensors, metadata = load_weights(name)
    tensors = {key: value + 0.001 for key, value in tensors.items()}
    given = {key: manifest()[name][key] for key in ("data", "recipe", "command")}
    ship_weights(folder, name, tensors, **given, scores={}, made_with=more, metadata=metadata)


def test_what_ships_is_not_stale() -> None:
    assert "stale" not in states().values()
    assert states()["dehaze"] == "current"
    assert states()["derain"] == "unknown"  # from which denoiser it started nobody recorded


STARTED_FROM = {
    "denoise_medium": (
        *("dejpeg_severe", "derain", "denoise_light", "denoise_heavy", "dejpeg_mild", "deblur_defocus", "generalist"),
    ),
    "dejpeg_severe": ("dejpeg_mild",),
    "brighten_mild": ("brighten_dark",),
}
"""What started from an expert, and what started from that, in the order of training."""
LATER = [("statistics", "perception"), ("harm",), ("risk",), ("nano",), ("r1",)]
"""What is rebuilt after the experts."""


@pytest.mark.parametrize("expert", ["derain", "dejpeg_mild", *STARTED_FROM])
def test_another_expert_makes_perception_and_planner_stale_in_order(folder: Path, expert: str) -> None:
    retrain(folder, expert)
    stale = [name for name, state in states().items() if state == "stale"]
    assert set(stale) == {*STARTED_FROM.get(expert, ()), "perception", "statistics", "harm", "risk", "nano", "r1"}
    assert stale.index("perception") < stale.index("harm") < stale.index("risk")
    assert stale.index("perception") < stale.index("nano")
    due = [item.makes for item in rebuilds(Path("photos"), Path("out")) if item.due(_links(), "stale")]
    assert due == [*((name,) for name in STARTED_FROM.get(expert, ())), *LATER]
    assert {row[0]: row[1] for row in status()}["nano"] == "stale"


def test_perception_that_is_rebuilt_leaves_the_planner_stale(folder: Path) -> None:
    retrain(folder, "derain")
    fresh = hashes_of_weights("derain", "denoise_medium") | {
        "toolbox conservator": toolbox_hash(make_toolbox("conservator"))
    }
    for name in ("perception", "statistics"):
        retrain(folder, name, **fresh)
    assert (states()["perception"], states()["statistics"], states()["nano"]) == ("current", "current", "stale")
    due = [item.makes for item in rebuilds(Path("photos"), Path("out")) if item.due(_links(), "stale")]
    assert due == LATER[1:]
    retrain(folder, "nano", **hashes_of_weights("perception", "derain"))
    assert states()["nano"] == "current"


def test_another_toolbox_makes_stale_too(folder: Path) -> None:
    retrain(folder, "perception", **{"toolbox conservator": "0123"})
    facts = {"toolbox conservator": toolbox_hash(make_toolbox("conservator"))}
    assert {link.name: link.state for link in links(manifest(), facts)}["perception"] == "stale"
    assert toolbox_hash(make_toolbox("conservator")) == facts["toolbox conservator"]
    assert toolbox_hash(make_toolbox("experts")) != facts["toolbox conservator"]


def test_what_is_missing_is_due(folder: Path) -> None:
    entries = tomllib.loads((folder / "manifest.toml").read_text())
    text = (folder / "manifest.toml").read_text()
    start, end = text.index("[derain]"), text.index("[dqn]")
    (folder / "manifest.toml").write_text(text[:start] + text[end:])
    assert "derain" in entries
    due = [item.makes for item in rebuilds(Path("photos"), Path("out")) if item.due(_links(), "stale")]
    assert due == [("derain",), *LATER]
    assert {row[0]: row[1] for row in status()}["derain"] == "missing"


def test_all_can_be_rebuilt_though_nothing_is_stale() -> None:
    items = rebuilds(Path("photos"), Path("out"))
    assert not [item for item in items if item.due(_links(), "stale")]
    assert [item for item in items if item.due(_links(), "all")] == items
    assert items[0].makes == ("dehaze",)
    assert [item.makes for item in items][-len(LATER) :] == LATER


def test_users_are_warned_once_and_benches_stop(folder: Path) -> None:
    retrain(folder, "derain")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        chain.__dict__.pop("__warningregistry__", None)
        load_weights("perception")
        load_weights("perception")
        load_weights("derain")
    assert len(seen) == 1
    assert "the weights perception are stale: they were made with derain 2cd4463a, which is" in str(seen[0].message)
    with stale_is_an_error(), pytest.raises(ConservatorError, match="perception are stale"):
        load_weights("perception")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_weights("perception")  # the error is a benchmark's alone
    assert [item.category for item in seen] == [StaleWeightsWarning]


def test_files_are_known_by_content(tmp_path: Path, folder: Path) -> None:
    shutil.copy(folder / "dqn.safetensors", tmp_path / "agent.safetensors")
    (tmp_path / "tools.safetensors").write_bytes(b"not one that ships")
    found = hashes_of_weights(tmp_path / "agent.safetensors", tmp_path / "tools.safetensors", "wavelet_denoise")
    assert set(found) == {"dqn", "tools.safetensors"}
    assert found["dqn"] == manifest()["dqn"]["sha256"]


def test_samples_of_other_photos_or_experts_are_not_taken_for_these(folder: Path, tmp_path: Path) -> None:
    photos = [tmp_path / "photos" / f"{i}.png" for i in range(2)]
    photos[0].parent.mkdir()
    for path in photos:
        path.write_bytes(path.name.encode())

    def place(treated: bool = True, seed: int = 0) -> Path:
        return samples_folder(photos, treated, "experts", seed, tmp_path / "perception")

    first = place()
    assert first == place() != place(seed=1) != place(treated=False)
    photos[1].write_bytes(b"another photo of the same name")
    second = place()
    assert second != first
    retrain(folder, "nano")  # works on no sample
    assert place() == second
    retrain(folder, "derain")
    assert place() not in (first, second)


def test_a_manifest_keeps_what_it_was_made_with(tmp_path: Path) -> None:
    about = {"data": "d", "recipe": "r", "command": "c"}
    ship_weights(tmp_path, "a", {"x": torch.ones(2)}, **about, scores={"psnr": 3.0}, made_with={})
    ship_weights(
        tmp_path, "b", {"x": torch.ones(2)}, **about, scores={}, made_with={"a": "1", "toolbox t": "unknown"}, seed=2
    )
    entries = tomllib.loads((tmp_path / "manifest.toml").read_text())
    assert "made_with" not in entries["a"]
    assert entries["b"]["made_with"] == {"a": "1", "toolbox t": "unknown"}
    assert entries["b"]["seed"] == 2
    assert [(link.name, link.state) for link in links(entries)] == [("a", "current"), ("b", "stale")]


def test_the_trunk_of_the_eye_is_that_of_the_expert_it_names() -> None:
    """What the manifest says of perception's making can be seen in its weights."""
    perception, expert = load_weights("perception")[0], load_weights("denoise_medium")[0]
    trunk = {name.removeprefix("glance.trunk."): value for name, value in perception.items() if "glance.trunk." in name}
    assert len(trunk) == 28
    assert all(torch.equal(value, expert[name]) for name, value in trunk.items())
    assert manifest()["perception"]["made_with"]["denoise_medium"] == manifest()["denoise_medium"]["sha256"]


STEP = """
import sys
from pathlib import Path
import torch
from conservator.weights import store_weights
for i in range(5):
    store_weights(Path(sys.argv[1]), f"{sys.argv[2]}{i}", {"x": torch.ones(3) * i}, {"license": "Apache-2.0"}, {})
"""


def test_trainings_that_end_at_once_lose_none_of_each_others_entries(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", STEP, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    assert set(tomllib.loads((tmp_path / "manifest.toml").read_text())) == {f"{n}{i}" for n in "ab" for i in range(5)}


def test_a_kill_between_weights_and_manifest_is_seen_and_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            retrain(folder, "derain")
    with pytest.raises(ConservatorError, match="not what the manifest lists"):
        load_weights("derain")
    assert {row[0]: row[1] for row in status()}["derain"] == "damaged"
    due = [item.makes for item in rebuilds(Path("photos"), Path("out")) if item.due(_links(), "stale")]
    assert due == [("derain",)]
    (folder / "dehaze.safetensors").unlink()
    assert {row[0]: row[1] for row in status()}["dehaze"] == "missing"
    with pytest.raises(ConservatorError, match="the file is missing"):
        load_weights("dehaze")


def test_the_manifest_is_read_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest()
    assert manifest() is first
    with pytest.raises(TypeError):
        first["derain"]["sha256"] = "another"  # type: ignore[index]
    retrain(folder, "derain")
    assert manifest()["derain"]["sha256"] != first["derain"]["sha256"]


def test_the_command_that_status_tells_rebuilds_what_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    items = [replace(item, run=partial(ran.append, item.makes)) for item in rebuilds(Path("photos"), Path("out"))]
    monkeypatch.setattr(train_all, "rebuilds", lambda *given: items)
    told = {row[0]: row[3] for row in status()}
    assert told["nano"] == "conservator train all --only nano"
    words = [*told["nano"].split()[1:], "--photos", str(folder)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert ran == [("nano",)]  # though it is not stale
    assert isinstance(CliRunner().invoke(cli, [*words[:-3], "nona", *words[-2:]]).exception, ConservatorError)


def _links():  # type: ignore[no-untyped-def]
    return {link.name: link for link in links(manifest(), None, weights.flaws())}

"""Whose a run's folder is, hashes that are quick and right, and the commands that are written beside results."""

from __future__ import annotations

import itertools
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image as PillowImage
from skimage import data

from conservator import claims
from conservator.apps.cli import app
from conservator.claims import Identity, claim, hashes_of, read_claim
from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.photo import find_photos
from conservator.training.run import Belongs, load_checkpoint, save_checkpoint
from conservator.weights import manifest

WEIGHTS = {"derain": "2cd4463a" + 56 * "0"}


def test_a_folder_is_claimed_by_content_not_by_name(tmp_path: Path) -> None:
    first = Identity.of({"seed": 0, "kinds": frozenset({"noise", "jpeg"})}, weights=WEIGHTS, photos={"a.png": "11"})
    claim(tmp_path, first, {"command": "made by hand"})
    claim(tmp_path, first)
    found, beside = read_claim(tmp_path)
    assert found == first
    assert found.settings == {"seed": 0, "kinds": ["jpeg", "noise"]}
    assert beside["command"] == "made by hand"
    assert beside["versions"]["torch"] == torch.__version__
    others = {
        r"weights derain 2cd4463a, now 99;": Identity.of(first.settings, weights={"derain": "99"}, photos=first.photos),
        r"photo b.png not there, now 22;": Identity.of(
            first.settings, weights=WEIGHTS, photos={"a.png": "11", "b.png": "22"}
        ),
        r"seed 0, now 1;": Identity.of({**first.settings, "seed": 1}, weights=WEIGHTS, photos=first.photos),
        r"tool deblock not there, now 33;": Identity.of(
            first.settings, weights=WEIGHTS, photos=first.photos, tools={"deblock": "33"}
        ),
    }
    for told, other in others.items():
        assert other.digest() != first.digest()
        with pytest.raises(ConservatorError, match=told):
            claim(tmp_path, other)
    many = Identity.of(first.settings, weights=WEIGHTS, photos={f"{i}.png": "0" for i in range(9)})
    with pytest.raises(ConservatorError, match="and 6 more; use the same settings or another folder"):
        claim(tmp_path, many)


def test_a_checkpoint_belongs_to_an_identity_in_either_form(tmp_path: Path) -> None:
    identity = Identity.of({"seed": 3, "mixture": "all"}, weights=WEIGHTS)
    save_checkpoint(tmp_path, {"step": 7}, identity)
    for same in (identity, identity.facts()):
        state = load_checkpoint(tmp_path, same)
        assert state is not None
        assert state["step"] == 7
    with pytest.raises(ConservatorError, match=r"weights derain 2cd4463a, now not there; use the same settings"):
        load_checkpoint(tmp_path, Identity.of({"seed": 3, "mixture": "all"}))
    with pytest.raises(ConservatorError, match="mixture all, now paper"):
        load_checkpoint(tmp_path, {**identity.facts(), "mixture": "paper"})
    other = {**identity.facts(), "mixture": "paper"}
    assert load_checkpoint(tmp_path, Belongs(other, may_change=frozenset({"mixture"})))


def test_hashes_are_kept_and_never_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    (photos / "sub").mkdir(parents=True)
    paths = [photos / "a.png", photos / "sub" / "a.png"]
    for path in paths:
        path.write_bytes(path.parent.name.encode())
    while time.time_ns() - max(path.stat().st_ctime_ns for path in paths) < 2.1e9:
        time.sleep(0.05)
    first = hashes_of(paths, photos, run)
    assert first == {"a.png": sha256(paths[0]), "sub/a.png": sha256(paths[1])}
    read: list[Path] = []
    monkeypatch.setattr(claims, "sha256", lambda path: (read.append(path), sha256(path))[1])
    assert hashes_of(paths, photos, run) == first
    assert not read
    facts = paths[0].stat()
    paths[0].write_bytes(b"PHOTOS")  # as long as before, and dated back
    os.utime(paths[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert hashes_of(paths, photos, run)["a.png"] == sha256(paths[0]) != first["a.png"]
    assert read == [paths[0]]
    paths[0].write_bytes(b"Photos")  # again at once: no clock tells the two apart for certain
    assert hashes_of(paths, photos, run)["a.png"] == sha256(paths[0])
    (run / claims.HASHES).write_text("{half a fi")
    assert hashes_of(paths, photos, run)["a.png"] == sha256(paths[0])


def test_photos_are_found_sorted_and_nothing_hidden(tmp_path: Path) -> None:
    photo = PillowImage.fromarray(data.coffee()[:8, :8])
    for name in ("b.png", "a.JPG", "sub/c.webp", ".hidden.png", ".thumbs/d.png", "sub/.e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("no photo")
    assert [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path)] == ["a.JPG", "b.png", "sub/c.webp"]
    assert [path.name for path in find_photos(tmp_path, recursive=False)] == ["a.JPG", "b.png"]
    with pytest.raises(ConservatorError, match="holds no photos"):
        find_photos(tmp_path / "folder.png")
    with pytest.raises(ConservatorError, match="is no folder"):
        find_photos(tmp_path / "nowhere")


def parsed(command: str) -> dict[str, object]:
    """What the real command line makes of a recorded command: the options of the last command in it."""
    words = shlex.split(command)
    assert words.pop(0) == "conservator"
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    context = found.make_context(found.name, words)
    return dict(context.params)


def make_all_paths(command: str, where: Path) -> None:
    """Files and folders that a command names: options ask that they exist."""
    words = shlex.split(command)
    for option, value in itertools.pairwise(words):
        path = where / value
        if option in ("--photos", "--data") or (option, value) == ("risk", words[3]):
            path.mkdir(parents=True, exist_ok=True)
        elif option in ("--agent", "--tools", "--start", "--vision"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.mark.parametrize("name", sorted(manifest()))
def test_every_recorded_command_is_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = str(manifest()[name]["command"])
    make_all_paths(command, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert parsed(command)["seed"] == (1 if name == "rl_restore_compact" else 0)


def test_a_command_is_parsed_into_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (Path("out/first data"), Path("out/second"))
    command = command_line(
        *("train", "sft"),
        model="nano",
        data=data,
        words=2 / 3,
        rate=None,
        without=("plan", "rain+noise"),
        size={"width": 128},
        bfloat16=True,
        seed=4,
    )
    make_all_paths(command, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = parsed(command)
    assert found["data"] == [*data] or found["data"] == data
    assert list(found["without"]) == ["plan", "rain+noise"]  # type: ignore[call-overload]
    assert (found["width"], found["bfloat16"], found["seed"], found["rate"]) == (128, True, 4, None)
    assert found["words"] == pytest.approx(2 / 3)


def test_a_command_tells_of_nobodys_home() -> None:
    assert command_line("bench", "mio", photos=Path("/data/me/photos/free")).endswith("--photos photos/free")
    assert command_line("bench", "mio", output=Path("out/x y")).endswith("--output 'out/x y'")

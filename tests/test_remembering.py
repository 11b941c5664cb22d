"""A perception that remembers: within a process, and in a file that processes share."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception import load_perception
from conservator.perception.network import StatisticalPerception, TrainedPerception
from conservator.perception.perception import Blind, Look
from conservator.perception.remembering import RememberingPerception
from conservator.weights import WEIGHTS


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """The pictures that were really measured."""
    pictures, measure = list[Image](), TrainedPerception.measure

    def counted(self: TrainedPerception, image: Image) -> object:
        pictures.append(image)
        return measure(self, image)

    monkeypatch.setattr(TrainedPerception, "measure", counted)
    return pictures


def crops(coffee: Image) -> list[Image]:
    return [coffee[..., :96, left : left + 96].contiguous() for left in (0, 100, 200)]


@pytest.mark.parametrize("name", ["statistics", "perception"])
def test_a_file_tells_another_process_what_was_measured(
    name: str, coffee: Image, tmp_path: Path, measured: list[Image]
) -> None:
    plain, pictures = load_perception(name), crops(coffee)
    wanted = [plain.grade(picture) for picture in pictures]
    first = RememberingPerception(load_perception(name), tmp_path / "deep" / "kept.sqlite")
    assert [first.grade(picture) for picture in pictures] == wanted
    assert len(measured) == 6
    again = RememberingPerception(load_perception(name), tmp_path / "deep" / "kept.sqlite")
    percepts = [again.grade(picture) for picture in pictures]
    assert percepts == wanted
    looks = [Look(picture, percept) for picture, percept in zip(pictures, percepts, strict=True)]
    known = [Look(picture, percept) for picture, percept in zip(pictures, wanted, strict=True)]
    treated = frozenset({Kind.NOISE})
    assert again.weigh(looks[0], looks[1], treated) == plain.weigh(known[0], known[1], treated)
    assert len(measured) == 6  # neither grading nor weighing measured one again


def test_without_a_file_each_process_measures(coffee: Image, measured: list[Image]) -> None:
    for _ in range(2):
        remembering = RememberingPerception(load_perception("statistics"))
        assert remembering.grade(coffee) is remembering.grade(coffee.clone())
    assert len(measured) == 2


def test_threads_share_a_file(coffee: Image, tmp_path: Path) -> None:
    perceptions = [RememberingPerception(load_perception("statistics"), tmp_path / "kept.sqlite") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda one: [one.grade(picture) for picture in crops(coffee)], perceptions))
    assert all(percepts == found[0] for percepts in found)


def test_a_file_is_of_one_perception(coffee: Image, tmp_path: Path) -> None:
    file = tmp_path / "kept.sqlite"
    RememberingPerception(load_perception("statistics"), file).grade(coffee)
    with pytest.raises(ConservatorError, match="another perception measured; give another file, or remove it"):
        RememberingPerception(load_perception("perception"), file)
    with pytest.raises(ConservatorError, match="what Blind measures cannot be kept in a file"):
        RememberingPerception(Blind(), tmp_path / "blind.sqlite")
    (tmp_path / "words.txt").write_text("not a database, but long enough to be taken for a page of one" * 20)
    with pytest.raises(ConservatorError, match="cannot be used to keep what perception measured"):
        RememberingPerception(load_perception("statistics"), tmp_path / "words.txt")


def test_what_the_file_holds_is_numbers_alone(coffee: Image, tmp_path: Path) -> None:
    """Nothing in it is code: a row that is no such JSON is an error, and nothing is run."""
    file = tmp_path / "kept.sqlite"
    RememberingPerception(load_perception("statistics"), file).grade(coffee)
    with sqlite3.connect(file) as kept:
        kept.execute("UPDATE measured SET said = ?", (b"cos\nsystem\n(S'true'\ntR.",))
    with pytest.raises(ConservatorError, match="holds a row that cannot be read"):
        RememberingPerception(load_perception("statistics"), file).grade(coffee)


def test_the_hash_is_of_the_weights(tmp_path: Path) -> None:
    shipped = WEIGHTS / "statistics.safetensors"
    (tmp_path / "same.safetensors").write_bytes(shipped.read_bytes())
    (tmp_path / "other.safetensors").write_bytes(shipped.read_bytes() + b" ")
    made = [StatisticalPerception.load(tmp_path / f"{name}.safetensors").hash for name in ("same", "other")]
    hashes = [load_perception("statistics").hash, load_perception("perception").hash, made[1]]
    assert len(set(hashes)) == 3
    assert made[0] == hashes[0]
    assert StatisticalPerception.load("statistics", "cuda").hash != hashes[0]

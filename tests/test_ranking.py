"""Ranking: strategies that are what they say, enumerations that resume, ranks as a count by hand has them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BoxBlur, Gamma
from hypothesis import given, settings
from hypothesis import strategies as st

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError, ToolFailedError
from conservator.evaluation.cases import Case
from conservator.evaluation.enumerate import AnyUpTo, EachKindOnce, Enumeration, enumerate_toolchains
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.ranking import Ranking
from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings, Content
from conservator.evaluation.spaces import toolchains_of
from conservator.evaluation.strategies import check_names, derive
from conservator.evaluation.tables import grids
from conservator.image import Image, in_8_bits
from conservator.perception import StatisticalPerception
from conservator.pool import LocalPool, Pool
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox


class Nothing(Tool):
    """Returns what it is given."""

    spec = ToolSpec("nothing", frozenset({Kind.NOISE}), "Does nothing.", "none", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        return image


class FailsInTheDark(Tool):
    """Fails below a mean of 0.2."""

    spec = ToolSpec("picky", frozenset({Kind.JPEG}), "Fails on a dark picture.", "none", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        if float(image.flatten(1).mean(1).min()) < 0.2:
            raise ToolFailedError("too dark")
        return (image * 1.1).clamp(0, 1)


TOOLBOX = Toolbox(Gamma(), BoxBlur(), Nothing(), FailsInTheDark())
SPACE = EachKindOnce.of(TOOLBOX.specs, frozenset({Kind.NOISE, Kind.LOW_LIGHT, Kind.JPEG}))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with LocalPool(TOOLBOX, max_batch=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def pair(coffee: Image) -> tuple[Image, Image]:
    clean = coffee[..., 100:148, 200:264].contiguous()
    return degrade(clean, parse_recipe("dark:high,noise:low,jpeg:low", 1)) * 0.5, clean


@pytest.fixture(scope="module")
def finished(
    pair: tuple[Image, Image], pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Enumeration, Path]:
    journal = tmp_path_factory.mktemp("journal") / "case.jsonl"
    return enumerate_toolchains(*pair, SPACE, pool, journal=journal), journal


@given(share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_an_enumeration_goes_on_wherever_it_was_cut(
    finished: tuple[Enumeration, Path],
    pair: tuple[Image, Image],
    pool: Pool,
    share: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    whole, journal = finished
    cut = tmp_path_factory.mktemp("cut") / "case.jsonl"
    written = journal.read_bytes()
    cut.write_bytes(written[: round(share * len(written))])
    resumed = enumerate_toolchains(*pair, SPACE, pool, journal=cut)
    assert resumed.toolchains == whole.toolchains
    assert np.array_equal(resumed.scores, whole.scores, equal_nan=True)
    assert resumed.calls <= whole.calls
    assert sorted(cut.read_text().splitlines()) == sorted(written.decode().splitlines())


def test_a_finished_enumeration_costs_no_call(
    finished: tuple[Enumeration, Path], pair: tuple[Image, Image], pool: Pool
) -> None:
    whole, journal = finished
    assert np.isnan(whole.scores).any()  # the picky tool did fail
    again = enumerate_toolchains(*pair, SPACE, pool, journal=journal)
    assert again.calls == 0
    assert np.array_equal(again.scores, whole.scores, equal_nan=True)


def test_a_journal_of_another_picture_is_refused(
    finished: tuple[Enumeration, Path], pair: tuple[Image, Image], pool: Pool, tmp_path: Path
) -> None:
    journal = Path(shutil.copy(finished[1], tmp_path))
    with pytest.raises(ConservatorError, match="another picture"):
        enumerate_toolchains(pair[0].flip(-1), pair[1], SPACE, pool, journal=journal)


def test_what_changes_nothing_is_run_once_and_scored_as_it_is_alone(pair: tuple[Image, Image], pool: Pool) -> None:
    image, clean = pair
    space = AnyUpTo(("nothing", "gamma"), 3)
    found = enumerate_toolchains(image, clean, space, pool)
    assert len(found.toolchains) == space.count() == 15
    assert found.calls < 14
    for toolchain, row in zip(found.toolchains, found.scores, strict=True):
        alone = image
        for name in toolchain:
            alone = TOOLBOX[name](alone)
        assert row.tolist() == enumerate_toolchains(alone, clean, AnyUpTo((), 0), pool).scores[0].tolist()


def test_nothing_follows_an_enlargement() -> None:
    specs = make_toolbox("classical").specs
    space = EachKindOnce.of(specs, frozenset({Kind.HAZE, Kind.LOW_RESOLUTION, Kind.LOW_LIGHT}))
    found = toolchains_of(space)
    assert space.count() == len(found) == len(set(found))
    assert all(name not in space.last for toolchain in found for name in toolchain[:-1])
    assert any(toolchain[-1:] == ("lanczos_x4",) and len(toolchain) == 3 for toolchain in found)


def test_a_study_is_scored_by_the_mean_of_its_views(coffee: Image, pool: Pool) -> None:
    views = [coffee[..., i : i + 64, i : i + 64] for i in (0, 100, 200)]
    clean = torch.cat(views)
    found = enumerate_toolchains(clean * 0.5, clean, AnyUpTo(("gamma",), 1), pool)
    alone = [enumerate_toolchains(v * 0.5, v, AnyUpTo(("gamma",), 1), pool).scores for v in views]
    assert found.scores == pytest.approx(np.mean(alone, axis=0))


@pytest.fixture
def ranking(pool: Pool, tmp_path: Path) -> Ranking:
    return Ranking(TOOLBOX, pool, "balanced", ("psnr", "ssim"), tmp_path)


def test_ranks_are_a_count_of_the_others(ranking: Ranking, pair: tuple[Image, Image]) -> None:
    image, clean = pair
    case = Case("A", "dark+noise", "x", lambda: (image, clean), frozenset({Kind.NOISE, Kind.LOW_LIGHT}))
    found = ranking.enumerate(case, image, clean)
    values, _ = found.objective("balanced")
    for i, toolchain in enumerate(found.toolchains):
        beaten = [value <= values[i] for j, value in enumerate(values) if j != i]
        assert ranking.place(found, toolchain, image, clean)[0] == pytest.approx(np.mean(beaten))
    best = ranking.best(found)
    assert ranking.place(found, best, image, clean)[0] == 1
    assert len(list(ranking.folder.iterdir())) == 1


def test_a_toolchain_that_is_no_choice_is_placed_by_its_scores(ranking: Ranking, pair: tuple[Image, Image]) -> None:
    image, clean = pair
    case = Case("A", "dark", "x", lambda: (image, clean), frozenset({Kind.LOW_LIGHT}))
    found = ranking.enumerate(case, image, clean)
    assert found.toolchains == ((), ("gamma",))
    same = ranking.place(found, ("nothing",), image, clean)[0]  # as good as the untouched picture
    assert same == 0.5
    assert ranking.place(found, ("gamma", "nothing"), image, clean)[0] == 1
    assert np.isnan(ranking.place(found, ("picky",), image * 0, clean)[0])


def test_where_nothing_is_wrong_nothing_is_best(ranking: Ranking, coffee: Image) -> None:
    image = coffee[..., :64, :64].contiguous()
    case = Case("clean", "clean", "x", lambda: (image, image), frozenset())
    found = ranking.enumerate(case, image, image)
    assert ranking.best(found) == ()
    assert ranking.place(found, (), image, image)[0] == 1
    assert ranking.place(found, ("box_blur",), image, image)[0] == 0
    with pytest.raises(ConservatorError, match="nobody knows"):
        ranking.enumerate(replace(case, kinds=None), image, image)


NAMES = [spec.name for spec in make_toolbox("classical").specs]


@given(toolchain=st.lists(st.sampled_from(NAMES), max_size=5).map(tuple), seed=st.integers(0, 99))
def test_derived_strategies_change_what_they_say_and_nothing_else(toolchain: tuple[str, ...], seed: int) -> None:
    toolbox, picture = make_toolbox("classical"), torch.full((1, 3, 8, 8), 0.5)
    shuffled = derive("random_order:greedy", toolchain, toolbox, picture, seed)
    assert sorted(shuffled) == sorted(toolchain)
    assert shuffled == derive("random_order:greedy", toolchain, toolbox, picture, seed)
    other = derive("random_tools:greedy", toolchain, toolbox, picture, seed)
    assert len(other) == len(toolchain)
    for a, b in zip(toolchain, other, strict=True):
        assert toolbox[a].spec.removes & toolbox[b].spec.removes


def test_chance_reaches_every_order_and_every_tool() -> None:
    toolbox, picture = make_toolbox("classical"), torch.full((1, 3, 8, 8), 0.5)
    chain = ("deblock", "tv_denoise")
    assert {derive("random_order:x", chain, toolbox, picture, seed) for seed in range(20)} == {chain, chain[::-1]}
    tools = {derive("random_tools:x", ("deblock",), toolbox, picture, seed) for seed in range(20)}
    assert tools == {("deblock",), ("dct_dejpeg",)}


def test_what_cannot_be_compared_gets_a_sentence(coffee: Image) -> None:
    cases = [Case("real", "real", "x", lambda: (coffee, None), referenced=False)]
    check_names(["none", "random_order:rules", "random_tools:greedy", "random_both"], cases, TOOLBOX, False)
    for names, ranked, told in (
        (["random_order"], False, "random_order:greedy"),
        (["generalist"], False, "no tool 'generalist'"),
        (["best"], False, "--rank"),
        (["none", "oracle"], False, "there are none"),
        (["random_tools:oracle"], False, "there are none"),
        (["chat"], False, "endpoint"),
        (["none"], True, "nobody knows"),
    ):
        with pytest.raises(ConservatorError, match=told):
            check_names(names, cases, TOOLBOX, ranked)
    for names in (["gredy"], ["random_order:gredy"], ["random_ordr:greedy"], ["random_order:best"]):
        with pytest.raises(NameNotFoundError):
            check_names(names, cases, TOOLBOX, False)


def test_the_tables_of_strategies_are_means_and_paired_differences_by_photo() -> None:
    made = {"psnr_in": 20.0, "ssim_in": 0.5}
    rows = []
    for photo in range(6):
        for combination in ("noise", "rain"):
            for policy, gain, rank in (("random_both", 1.0, 0.5), ("greedy", 1.0 + photo, 0.9)):
                scores = {**made, "psnr": 20 + gain, "ssim": 0.5 + gain / 10}
                rows.append(
                    BenchmarkRow(
                        group="restoreagent",
                        combination=combination,
                        photo=f"{photo}.png",
                        policy=policy,
                        toolchain="gamma",
                        calls=1,
                        treatments=1,
                        examining=0.0,
                        deciding=0.0,
                        treating=0.0,
                        scores=scores,
                        rank=rank,
                        toolchains=4,
                        value=gain / 2,
                    )
                )
    means, paired = (grid for grid in grids(rows) if "trategies" in grid.title or "each strategy" in grid.title)
    assert means.head == ("strategy", "psnr", "ssim", "score", "rank, %")
    assert means.rows[0] == ("random_both", "21.00", "0.6000", "0.50", "50.0")
    assert means.rows[1][0] == "greedy"
    assert means.rows[1][1].startswith("23.50 (")  # with an interval, for the photos differ
    assert paired.title.startswith("greedy minus")
    ((name, psnr, _, score, rank),) = paired.rows
    assert name == "random_both"
    assert psnr.startswith("+2.50 (+")
    assert (score[:5], rank) == ("+1.25", "+40.0")
    assert not any("trateg" in grid.title for grid in grids([replace(row, toolchains=0) for row in rows]))
    most = {"noise": 9.0, "rain": 5.0}
    ends = [replace(row, policy="none", value=-1.0) for row in rows]
    ends += [replace(row, policy="best", value=most[row.combination]) for row in rows]
    ends = [row for row in ends if row.photo != "5.png"]  # what has no best counts not
    shared = next(grid for grid in grids([*rows, *ends]) if grid.title.startswith("Strategies"))
    of_best = {row[0]: row[-1] for row in shared.rows}
    assert shared.head[-1] == "share of the score gain of the best"
    assert of_best["random_both"].startswith("19%")  # 1.5 above the untouched each, of 10 and of 6: 3 of 16
    assert of_best["greedy"].startswith("31%")


def test_enumerations_are_shared_between_results_of_the_same_tools(coffee: Image, tmp_path: Path) -> None:
    clean = coffee[..., 100:164, 200:264].contiguous()
    image = in_8_bits(clean * 0.5)
    case = Case("A", "dark", "x", lambda: (image, clean), frozenset({Kind.LOW_LIGHT}))
    settings = BenchmarkSettings("mio", "photos", "own", "statistics", 0, rank="balanced", metrics=("psnr",), risk=1.0)
    tools, counted = Toolbox(Gamma()), list[int]()

    def measure(output: str, policies: list[str], content: Content) -> list[BenchmarkRow]:
        told = lambda case, done, total, left: counted.append(done)  # noqa: E731
        shared = tmp_path / "shared"
        where = tmp_path / output
        return evaluate(
            *([case], policies, tools, StatisticalPerception.load(), settings, where),
            enumerating=told, content=content, enumerations=shared,
        )  # fmt: skip

    content = Content(tools={"gamma": "1"})
    (first,) = measure("one", ["alone:gamma"], content)
    assert first.toolchain == "gamma"
    assert first.value == pytest.approx(1.0)  # of two toolchains each is a deviation from their mean
    (journal,) = (tmp_path / "shared").glob("*.jsonl")
    before = journal.read_text()
    (other,) = measure("two", ["none"], content)
    assert (other.rank, other.value) == (0.0, pytest.approx(-1.0))
    assert journal.read_text() == before
    assert not (tmp_path / "one" / "enumerations").exists()
    with pytest.raises(ConservatorError, match="tool gamma"):
        measure("three", ["none"], Content(tools={"gamma": "2"}))
    with pytest.raises(NameNotFoundError):
        check_names(["alone:gama"], [case], tools, True)

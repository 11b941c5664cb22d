"""What decisions are held to: thresholds from a file, with the perception and the policy that they were made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from skimage import data
from test_risk import Told

from conservator import Photo, Request, Restorer
from conservator.admitting import admission_for, uncertified
from conservator.batch import FileRestorer, Job, Task
from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.rows import BenchmarkSettings
from conservator.image import in_8_bits, to_image
from conservator.metrics import make_metric
from conservator.perception import StatisticalPerception, load_perception
from conservator.perception.risk import Admission, RiskControl, RiskCurve
from conservator.perception.risk_files import save_risk
from conservator.photo import save_photo
from conservator.record import load_record
from conservator.tools import make_toolbox
from conservator.weights import manifest

NOISY = in_8_bits(degrade(to_image(data.coffee()[100:228, 200:360]), parse_recipe("noise:high", 3)))
MADE_WITH = {name: str(manifest()[name]["sha256"]) for name in ("perception", "harm")}
CURVE = RiskCurve(99, (0.0, 0.5, 1.0), (0, 1, 60))
CONTROL = RiskControl({"balanced": CURVE}, "greedy", "conservator", MADE_WITH, "mine")


@pytest.fixture
def thresholds(tmp_path: Path) -> Callable[[RiskControl], str]:
    """Writes thresholds to a file, and gives its name."""

    def write(control: RiskControl) -> str:
        save_risk(control, path := tmp_path / "mine.safetensors")
        return str(path)

    return write


def test_a_request_is_held_to_the_threshold_of_its_risk() -> None:
    perception = load_perception("perception")
    assert admission_for(Request(), perception, CONTROL).threshold == 0.5
    assert admission_for(Request(risk=0.01), perception, CONTROL).threshold == 0.0
    assert admission_for(Request(risk=0.61), perception, CONTROL).threshold == 1.0
    with pytest.raises(ConservatorError, match=r"risk of 0.001 cannot be certified by 99 .*least that can is 0.01"):
        admission_for(Request(risk=0.001), perception, CONTROL)
    with pytest.raises(ConservatorError, match="mine are for balanced, and not for fidelity"):
        admission_for(Request(objective="fidelity"), perception, CONTROL)


def test_thresholds_are_of_the_weights_they_were_made_with() -> None:
    perception = load_perception("perception")
    for name, words in {
        "perception": "another perception than perception",
        "harm": "other weights than those of harm",
    }.items():
        other = replace(CONTROL, made_with=MADE_WITH | {name: "0" * 64})
        with pytest.raises(ConservatorError, match=f"{words}.*--risk 1.*conservator calibrate"):
            admission_for(Request(), perception, other)
    with pytest.raises(ConservatorError, match="another perception than statistics"):
        admission_for(Request(perception="statistics"), load_perception("statistics"), CONTROL)


def test_a_perception_that_is_an_object_has_no_thresholds(thresholds: Callable[[RiskControl], str]) -> None:
    request = Request(thresholds=thresholds(CONTROL))
    with Restorer(request, perception=StatisticalPerception.load()) as restorer:
        with pytest.raises(ConservatorError, match=r"another perception than own:StatisticalPerception.*--risk 1"):
            restorer.restore(Photo(NOISY))
        assert restorer.examine(Photo(NOISY)).present  # which needs none
        assert restorer.apply(Photo(NOISY), ["denoise_medium"]).toolchain


def test_the_thresholds_of_a_file_decide(thresholds: Callable[[RiskControl], str]) -> None:
    """Noise is plain to see: the network of harm lets its treatment pass at any threshold but 0."""
    nothing, some = RiskCurve(99, (0.0, 0.5), (0, 90)), RiskCurve(99, (0.0, 0.5), (0, 0))
    with Restorer(Request(thresholds=thresholds(replace(CONTROL, curves={"balanced": nothing})))) as restorer:
        held = restorer.restore(Photo(NOISY))
        assert held.untouched
        assert held.suggestions[0].treats == {"noise"}
        assert held.notes == ()
        assert "loading" in held.seconds
        assert "loading" not in restorer.restore(Photo(NOISY)).seconds
    with Restorer(Request(thresholds=thresholds(replace(CONTROL, curves={"balanced": some})))) as restorer:
        treated = restorer.restore(Photo(NOISY))
    assert not treated.untouched
    with Restorer(Request(risk=1)) as restorer:
        assert restorer.admission is None
        free = restorer.restore(Photo(NOISY))
    assert torch.equal(free.photo.image, treated.photo.image)


def test_what_was_not_measured_is_told_in_the_record(thresholds: Callable[[RiskControl], str], tmp_path: Path) -> None:
    tools, file = make_toolbox("conservator"), thresholds(CONTROL)
    assert uncertified(Request(), tools, CONTROL) == ""  # no tools of the user's own are installed
    assert "for the policy rules" in uncertified(Request("rules"), tools, CONTROL)
    classical = uncertified(Request("rules", "classical"), make_toolbox("classical"), CONTROL)
    assert "for the policy rules and this toolbox" in classical
    assert uncertified(Request(strength=0.5), tools, CONTROL).endswith("for a strength of 0.5")
    noise = frozenset({Kind.NOISE})
    assert uncertified(Request("rules", only=noise, strength=0.5), tools, CONTROL).endswith(
        "for the policy rules, a strength of 0.5 and a choice of damages"
    )
    assert uncertified(Request(never=noise), tools, CONTROL).endswith("for a choice of damages")
    task = Task(tmp_path / "noisy.png", tmp_path / "out" / "noisy.png")
    save_photo(Photo(NOISY), task.source)
    for policy, told in (("rules", 1), ("greedy", 0)):
        with Restorer(Request(policy, thresholds=file)) as restorer:
            assert FileRestorer(restorer)(Job(task, overwrite=True), lambda stage: None).status != "failed"
        notes = load_record(task.record).notes
        assert sum("was not measured for the policy rules" in note for note in notes) == told


def test_one_who_does_nothing_needs_no_thresholds() -> None:
    with Restorer(Request("none", thresholds="nowhere.safetensors")) as restorer:
        assert restorer.restore(Photo(NOISY)).untouched


def test_a_bench_holds_policies_to_it_and_not_what_they_are_compared_with(tmp_path: Path) -> None:
    clean = to_image(data.coffee()[100:228, 200:360])
    case = Case("x", "noise", "coffee", lambda: (NOISY, clean))
    settings = BenchmarkSettings("mio", "photos", "classical", "statistics", 0)
    never = Admission(Told(lambda before, after, treated: 1.0), 0.0)
    names = ["none", "rules", "random_order:rules", "predefined", "oracle"]
    few, eye, psnr = make_toolbox("classical").only("tv_denoise", "deblock"), StatisticalPerception.load(), ["psnr"]
    asked = [case], names, few, eye, settings, tmp_path
    rows = evaluate(*asked, metrics=list(map(make_metric, psnr)), admission=never)
    treated = {row.policy for row in rows if row.toolchain}
    assert treated == {"predefined", "oracle"}

"""What a user writes beside the program: policies by module, and what installed packages offer by entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from skimage import data
from test_cli import conservator

from conservator import Photo, Request, Restorer, degrade, make_policy, save_photo
from conservator.degradations import parse_recipe
from conservator.degradations.recipe import recipe_from_json, recipe_to_json
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.image import to_image
from conservator.perception import Blind
from conservator.policies import PolicyContext
from conservator.pool import LocalPool
from conservator.record import load_record
from conservator.tools import Toolbox

MINE = """
from dataclasses import dataclass
from conservator import Apply, Decision, Stop
from conservator.degradations import Degradation, Kind, Severity

class Mine:
    name = "mine"

    def act(self, observation):
        done = observation.trajectory.toolchain()
        return Decision(Stop() if done else Apply("median_derain"), thought="mine says so")

class Told(Mine):
    def __init__(self, context):
        self.name = "told " + context.objective

def made(context):
    return Told(context)

at_hand = Mine()
number = 3

class Lost(Mine):
    def act(self, observation):
        return Decision(Apply("nonsense"))

class Crashes(Mine):
    def act(self, observation):
        raise KeyError("zap")

class Broken(Mine):
    def __init__(self):
        raise OSError("the disk is gone")

@dataclass(frozen=True)
class Fade(Degradation):
    kind = Kind.LOW_LIGHT
    share: float = 0.5

    @classmethod
    def sample(cls, severity, rng):
        return cls(1 - 0.2 * severity)

    @property
    def severity(self):
        return Severity(round((1 - self.share) / 0.2))

    def __call__(self, image):
        return image * self.share
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a module ``written_here``."""
    (tmp_path / "written_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "written_here", raising=False)
    importlib.invalidate_caches()
    return tmp_path


@pytest.fixture
def offer(module: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a package that offers one thing of the module."""

    def install(group: str, point: str) -> None:
        info = module / "offering-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[conservator.{group}]\n{point}\n")
        monkeypatch.syspath_prepend(module)
        importlib.invalidate_caches()

    return install


def named(policy: str) -> str:
    with LocalPool({}) as pool:
        return make_policy(policy, PolicyContext(pool, Blind(), "fidelity")).name


@pytest.mark.parametrize(
    ("policy", "name"),
    [("Mine", "mine"), ("Told", "told fidelity"), ("made", "told fidelity"), ("at_hand", "mine")],
)
def test_a_policy_is_named_by_its_module(module: Path, policy: str, name: str) -> None:
    assert named(f"written_here:{policy}") == name
    assert str(module) not in sys.path


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("written_her:Mine", "there is no module written_her; start the program where written_her.py lies"),
        ("written_here:Mne", "there is no Mne in written_here"),
        ("written_here:number", "is 3, expected a policy"),
        ("written_here:Severity", "cannot be made"),
        ("written_here:Broken", "cannot be made: OSError: the disk is gone"),
        ("written_here:Apply", "gave a Apply, expected a policy"),
        ("written_here", "no policy 'written_here'"),
        ("greedy:3", "no policy 'greedy:3'; did you mean greedy"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_no_policy_is_refused_in_one_sentence(policy: str, words: str) -> None:
    with pytest.raises(ConservatorError, match=words):
        named(policy)


def test_a_module_beside_the_photos_takes_no_other_ones_place(module: Path) -> None:
    (module / "colorsys.py").write_text("raise SystemExit('a stranger\\'s code')")
    sys.modules.pop("colorsys", None)
    with pytest.raises(ConservatorError, match="there is no Mine in colorsys"):
        named("colorsys:Mine")


def test_the_command_line_takes_a_policy_of_ones_own(module: Path) -> None:
    save_photo(Photo(to_image(data.coffee()[:80, :120])), module / "a.png")
    done = conservator("restore", "a.png", "--toolbox", "classical", "--policy", "written_here:Mine", cwd=module)
    record = load_record(module / "restored" / "a.conservator.json")
    assert done.returncode == 0, done.stderr
    assert record.request.policy == "written_here:Mine"
    assert [step.reason for step in record.steps][1] == "mine says so"
    assert conservator("replay", "restored/a.conservator.json", cwd=module).returncode == 0
    unknown = conservator("restore", "a.png", "--policy", "written_hre:Mine", cwd=module)
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1


def test_what_goes_wrong_in_a_policy_of_ones_own_is_said(module: Path) -> None:
    save_photo(Photo(to_image(data.coffee()[:80, :120])), module / "a.png")
    asked = ("restore", "a.png", "--toolbox", "classical", "--perception", "statistics", "--risk", "1", "--policy")
    lost = conservator(*asked, "written_here:Lost", "-o", "lost", cwd=module)
    assert lost.returncode == 1
    assert "then the policy gave up: no step was left after the last one failed: no tool 'nonsense'" in lost.stdout
    crashed = conservator(*asked, "written_here:Crashes", "-o", "crashed", cwd=module)
    assert crashed.returncode == 2
    assert "the policy mine failed (KeyError: 'zap')" in crashed.stdout
    number = conservator(*asked, "written_here:number", cwd=module)
    assert (number.returncode, number.stdout) == (2, "")


def test_packages_offer_policies(offer: Callable[[str, str], None]) -> None:
    offer("policies", "mine = written_here:Told")
    assert named("mine") == "told fidelity"
    with pytest.raises(NameNotFoundError, match="did you mean mine"):
        named("min")
    offer("policies", "mine = written_here:Absent")
    with pytest.raises(ConservatorError, match=r"the package offering offers policies as mine .* but that failed"):
        named("mine")


def test_nobody_is_sent_to_a_policy_that_cannot_be_had() -> None:
    with pytest.raises(ConservatorError) as caught:
        Restorer(Request("orcle"), toolbox=Toolbox())
    assert "oracle" not in str(caught.value)


def test_packages_offer_degradations(offer: Callable[[str, str], None]) -> None:
    image = to_image(data.coffee()[:40, :60])
    with pytest.raises(ConservatorError, match="no degradation 'fade'"):
        parse_recipe("fade", 0)
    offer("degradations", "fade = written_here:Fade")
    recipe = parse_recipe("fade:high", 0)
    assert torch.allclose(degrade(image, recipe), image * 0.4)
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    offer("degradations", "fade = written_here:Mine")
    with pytest.raises(ConservatorError, match="is no degradation"):
        parse_recipe("fade", 0)

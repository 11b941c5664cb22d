"""How harm is taught: by what perceptions that never saw a photo tell of its treatments, and by the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from torch import nn

from conservator.image import Image
from conservator.networks.encoder import ENCODED
from conservator.networks.store import NetworkStore
from conservator.perception import Look, NetworkPerception, study
from conservator.perception.features import CHANGE, SCENE_SEEN, TOLD, Acuity, change
from conservator.perception.harm import HARM_FACTS, TRACES, NetworkHarm, traces
from conservator.perception.measuring import NetworkMeasuring
from conservator.perception.perception import GRADED_KINDS, OBJECTIVES
from conservator.tools import make_toolbox
from conservator.training.perception import train
from conservator.training.perception.harm import ToldTreatments, cross_fitted, fit_harm, harmed, told_by
from conservator.training.perception.samples import Sample, expert_encoder, make_sample
from conservator.training.perception.train import DrawnSamples, Reducing, fit_assessment

RAW = len(TOLD) + ENCODED + SCENE_SEEN


def drawn_sample(seed: int, width: int = len(Acuity().names)) -> Sample:
    """A sample of four states, each a little better than the one before, of which the first feature tells."""
    rng = torch.Generator().manual_seed(seed)
    quality = torch.arange(4.0) * 3 + 20 + torch.rand(1, generator=rng)
    features = torch.randn(4, width, generator=rng)
    features[:, 0] = quality / 5
    scores = torch.stack([quality, quality / 40], 1)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 1]])
    moved, found = (torch.randn(4, len(names), generator=rng) for names in (CHANGE, TRACES))
    severities = torch.zeros(4, len(GRADED_KINDS), dtype=torch.long)
    severities[0, seed % len(GRADED_KINDS)] = 1 + seed % 4
    return Sample(features, scores, severities, pairs, moved, found)


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Perceptions are fitted in two rounds, here and in the processes that are begun from here."""
    monkeypatch.setattr(train, "_EPOCHS", 2)


def test_what_is_told_of_a_photo_comes_from_perceptions_that_never_saw_it(tmp_path: Path) -> None:
    samples, photos = [drawn_sample(i) for i in range(12)], [i % 6 for i in range(12)]
    drawn = DrawnSamples(samples, photos, samples[:3])
    told = cross_fitted(drawn, 2, 0, tmp_path / "first")
    own = 4  # another truth of one photo
    spoiled = [replace(s, scores=s.scores.flip(0)) if p == own else s for s, p in zip(samples, photos, strict=True)]
    again = cross_fitted(replace(drawn, training=spoiled), 2, 0, tmp_path / "again", jobs=2)
    fold = {photo for photo in photos if photo % 2 == own % 2}
    for photo, before, after in zip(photos, told, again, strict=True):
        assert before.facts.shape == (4, len(HARM_FACTS))
        assert torch.equal(before.facts, after.facts) == (photo in fold), photo
        assert torch.equal(before.psnr, after.psnr) == (photo != own)
    (tmp_path / "again" / "fold-1.pt").unlink()  # as an interrupted run leaves it
    resumed = cross_fitted(drawn, 2, 0, tmp_path / "again")
    for photo, first, second, both in zip(photos, told, again, resumed, strict=True):
        assert torch.equal(both.facts, (first if photo % 2 else second).facts), "only what is missing is made"


def test_harm_is_a_tenth_of_a_decibel_that_can_be_seen() -> None:
    psnr = [(30, 29.8), (30, 29.95), (30, 33), (100, 49.8), (100, 60), (49, 48.8), (100, 100)]
    assert harmed(torch.tensor(psnr)).tolist() == [True, False, False, True, False, True, False]


def test_a_network_of_harm_learns_what_its_facts_tell() -> None:
    def told(seed: int) -> ToldTreatments:
        facts = torch.randn(6, len(HARM_FACTS), generator=torch.Generator().manual_seed(seed))
        return ToldTreatments(facts, torch.stack([torch.full((6,), 30.0), 30 + facts[:, 3]], 1))

    fitted = fit_harm([told(seed) for seed in range(120)], [told(seed) for seed in range(200, 260)])
    assert fitted.scores["auc"] > 0.8
    assert 0.3 < fitted.scores["harmful"] < 0.7
    none = ToldTreatments(torch.zeros(0, len(HARM_FACTS)), torch.zeros(0, 2))
    with_empty = fit_harm([*(told(seed) for seed in range(120)), none], [told(seed) for seed in range(200, 260)])
    assert with_empty.scores == pytest.approx(fitted.scores, abs=0, nan_ok=True)


def test_training_and_use_tell_the_same_of_a_treatment(coffee: Image) -> None:
    """What a sample holds of two pictures gives the facts, and the chance, that a session computes of them."""
    perception = NetworkPerception.load()
    before, after = study(coffee), study((coffee * 1.2).clamp(0, 1))
    looks = [Look(image, perception.grade(image)) for image in (before, after)]
    kinds = frozenset({GRADED_KINDS[0]})
    features = torch.stack([perception.measured(look).features for look in looks])
    sample = replace(
        drawn_sample(0),
        features=features,
        scores=torch.tensor([[30.0, 0.9], [29.0, 0.9]]),
        pairs=torch.tensor([[0, 1]]),
        moved=change(before, after, kinds)[None],
        traces=traces(before, after)[None],
    )
    ships = train.FittedAssessment(perception.assessment, list(perception.thresholds), 1.0, {})
    (told,) = told_by(ships, [sample])
    assert told.psnr.tolist() == [[30.0, 29.0]]
    named = dict(zip(HARM_FACTS, told.facts[0].tolist(), strict=True))
    gain = perception.weigh(*looks, kinds)
    for objective in OBJECTIVES:
        assert named[f"gain_{objective}"] == pytest.approx(gain.mean[objective], abs=1e-4)
        assert named[f"deviation_{objective}"] == pytest.approx(gain.deviation[objective], abs=1e-4)
    assert named["quality_after"] == pytest.approx(looks[1].percept.quality, abs=1e-3)
    assert named["quality_before"] == pytest.approx(looks[0].percept.quality, abs=1e-3)
    for when, look in zip(("before", "after"), looks, strict=True):
        for kind in GRADED_KINDS:
            sure = torch.tensor(look.percept.confidences[kind]).clamp(1e-4, 1 - 1e-4)
            assert named[f"seen_{when}_{kind}"] == pytest.approx(float(sure.logit()), abs=1e-3)
    error = (before - after).square().mean()
    assert named["closeness"] == pytest.approx(float(-10 * error.log10()), abs=1e-3)
    assert named["one_picture"] == 0
    assert named["brightened"] == pytest.approx(float((after - before).mean()), abs=1e-5)
    assert [named[f"treats_{kind}"] for kind in GRADED_KINDS] == [1, *[0] * (len(GRADED_KINDS) - 1)]
    for name in ("luminance", "dehaze_scene_size"):
        assert named[name] == features[0, TOLD.index(name)]
    harm = NetworkHarm.load(perception)
    assert harm.chance(*looks, kinds) == pytest.approx(float(harm._network().chance(told.facts)[0]), abs=1e-5)


@pytest.mark.slow
def test_a_sample_measures_every_state_and_compares_it_with_the_truth(tmp_path: Path) -> None:
    PillowImage.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    tools = make_toolbox("classical")
    measure = NetworkMeasuring(expert_encoder(), nn.Identity(), NetworkStore(), "cpu", Acuity().native_side)
    found = [make_sample(tmp_path / "coffee.png", seed, tools, measure) for seed in range(6)]
    for sample in found:
        states, pairs = len(sample.scores), len(sample.pairs)
        assert sample.features.shape == (states, RAW)
        assert (sample.severities.shape, sample.moved.shape) == ((states, len(GRADED_KINDS)), (pairs, len(CHANGE)))
        assert sample.traces.shape == (pairs, len(TRACES))
        assert sample.scores[-1].tolist() == [100.0, 1.0]
        assert sample.severities[-1].max() == 0
        assert (sample.pairs[:, 0] < sample.pairs[:, 1]).all()
        assert (sample.pairs < states - 1).all(), "what no tool made is compared with nothing"
    assert sum(len(sample.pairs) for sample in found) > 8, "tools are tried"
    assert sum(bool((s.scores[s.pairs[:, 1], 0] < s.scores[s.pairs[:, 0], 0]).any()) for s in found) > 0, "harm is met"
    bare = make_sample(tmp_path / "coffee.png", 0, tools, measure, treated=False)
    assert len(bare.scores) == 2
    assert torch.equal(bare.features[0], found[0].features[0])
    assert len(bare.pairs) == 0
    reducing = Reducing.of(found)
    assert reducing(found[0]).features.shape == (len(found[0].scores), len(Acuity().names))
    assert fit_assessment([reducing(s) for s in found], [reducing(bare)], len(Acuity().names)).scores

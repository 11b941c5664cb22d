"""Train the judge of the statistical eye.

Clean photos are damaged by known recipes and treated by random classical tools; every state gives one vector of
statistics. Severities are learned from the recipes, quality from the PSNR of the states, and the gain of a treatment
from the PSNR before and after it.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from conservator.degradations import BY_KIND, NATURE, Degradation, Kind, Severity, degrade
from conservator.errors import ConservatorError, ToolFailedError
from conservator.files import replacing
from conservator.image import Image
from conservator.networks.judge import Judge
from conservator.perception.perception import GRADED_KINDS, Look, Percept
from conservator.perception.statistical import cautious, changes
from conservator.perception.statistics import statistics
from conservator.perception.study import study
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_resize
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox
from conservator.training.crops import training_data
from conservator.weights import store_weights

COUNT, TOOLBOX = 5238, "classical"
"""Of the judge that ships: samples, and the tools that it judges."""
_BEST_QUALITY = 45.0  # dB; what a clean photo is said to have


@dataclass(frozen=True)
class Sample:
    """The states of one damaged photo: statistics (S, F), PSNR (S,), severities (K,) of the damaged photo.

    State 0 is the damaged photo, the last one the clean photo, those between were left by tools; ``parents`` (S,) says
    from which state (-1: none) and ``changes`` (S, C) what the tool changed.
    """

    names: tuple[str, ...]
    statistics: NDArray[np.float32]
    psnr: NDArray[np.float32]
    severities: NDArray[np.int64]
    parents: NDArray[np.int64]
    changes: NDArray[np.float32]


def random_recipe(rng: np.random.Generator) -> tuple[tuple[Degradation, ...], dict[Kind, Severity]]:
    """Draw up to four damages in the order of nature, and their severities; one photo in seven stays clean."""
    count = int(rng.choice([0, 1, 2, 3, 4], p=[0.14, 0.32, 0.30, 0.18, 0.06]))
    chosen = set(rng.choice(len(NATURE), count, replace=False).tolist())
    recipe: list[Degradation] = []
    severities: dict[Kind, Severity] = {}
    for i, kind in enumerate(NATURE):
        if i not in chosen:
            continue
        makers = BY_KIND[kind]
        maker = makers[0] if rng.random() < 0.6 else makers[int(rng.integers(len(makers)))]
        severities[kind] = Severity(int(rng.choice([1, 2, 3, 4], p=[0.2, 0.27, 0.28, 0.25])))
        recipe.append(maker.sample(severities[kind], rng))
    return tuple(recipe), severities


def random_crop(image: Image, rng: np.random.Generator) -> Image:
    """A crop of 260 to 640 pixels a side of the photo, reduced by 1 to 2.5 first."""
    factor = 1 / float(rng.choice([1.0, 1.0, 1.4, 2.0, 2.5]))
    height, width = image.shape[-2:]
    size = (max(260, round(height * factor)), max(260, round(width * factor)))
    if factor < 1:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
    h, w = (min(side, int(rng.choice([300, 384, 512, 512, 640]))) for side in image.shape[-2:])
    top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape[-2:], (h, w), strict=True))
    return image[..., top : top + h, left : left + w].clone()


def make_sample(path: Path, seed: int, tools: Toolbox, chains: int) -> Sample:
    """Damage one photo, let random toolchains work on it, and measure every state."""
    rng = np.random.default_rng([seed, 20])
    clean = random_crop(load_photo(path).image, rng)
    recipe, severities = random_recipe(rng)
    damaged = degrade(clean, recipe)
    if rng.random() < 0.15:  # small photos, as a thumbnail or the MiO protocol's low resolution
        clean, damaged = bicubic_resize(clean, 0.25), bicubic_resize(damaged, 0.25)
    start, reference = study(damaged), study(clean, like=damaged)
    eye = [Look(start, Percept(measures=statistics(start)))]
    names = tuple(eye[0].percept.measures)
    parents, changed = [-1], [[0.0] * len(changes(eye[0], eye[0], frozenset(), names))]
    fitting = [n for n, t in tools.items() if t.spec.removes & set(severities) and t.spec.scale == 1]
    others = [n for n, t in tools.items() if t.spec.scale == 1]
    for _ in range(chains):
        parent = 0
        for _ in range(int(rng.choice([1, 2], p=[0.7, 0.3]))):
            tool = tools[str(rng.choice(fitting if fitting and rng.random() < 0.8 else others))]
            try:
                image = tool(eye[parent].image)
            except ToolFailedError:
                break
            eye.append(Look(image, Percept(measures=statistics(image))))
            changed.append(changes(eye[parent], eye[-1], tool.spec.removes, names))
            parents.append(parent)
            parent = len(eye) - 1
    eye.append(Look(reference, Percept(measures=statistics(reference))))
    psnr = [-10 * np.log10(max(1e-9, float((look.image - reference).pow(2).mean()))) for look in eye]
    return Sample(
        names,
        np.array([list(look.percept.measures.values()) for look in eye], np.float32),
        np.minimum(np.array(psnr, np.float32), _BEST_QUALITY),
        np.array([int(severities.get(kind, Severity.NONE)) for kind in GRADED_KINDS]),
        np.array([*parents, -1]),
        np.array([*changed, changed[0]], np.float32),
    )


_TOOLS: Toolbox | None = None


def _work(task: tuple[Path, int, int, str]) -> Sample:
    global _TOOLS
    torch.set_num_threads(1)
    path, seed, chains, toolbox = task
    if _TOOLS is None:
        _TOOLS = make_toolbox(toolbox)
        for tool in _TOOLS.values():
            tool.setup("cpu")
    return make_sample(path, seed, _TOOLS, chains)


def build(photos: list[Path], count: int, chains: int, toolbox: str, seed: int, jobs: int) -> list[Sample]:
    """Make ``count`` samples, photo after photo."""
    tasks = [(photos[i % len(photos)], seed * 1_000_003 + i, chains, toolbox) for i in range(count)]
    samples: list[Sample] = []
    with ProcessPoolExecutor(jobs) as processes:
        for sample in processes.map(_work, tasks, chunksize=4):
            samples.append(sample)
            if len(samples) % 100 == 0:
                print(f"{len(samples)} of {count} samples", flush=True)  # noqa: T201
    return samples


@dataclass(frozen=True)
class Fit:
    """A trained judge and how it does on the photos held out."""

    judge: Judge
    thresholds: list[float]
    scores: dict[str, float]


def fit(samples: list[Sample], held_out: list[Sample], epochs: int = 50, hidden: int = 128, seed: int = 0) -> Fit:
    """Train on ``samples``; set the threshold of each kind on ``held_out`` so that clean photos are left alone."""
    torch.manual_seed(seed)
    widths = len(samples[0].names), samples[0].changes.shape[1], len(GRADED_KINDS)
    judge = Judge(*widths, hidden, dropout=0.3)
    judge.picture.fit(torch.from_numpy(np.concatenate([s.statistics for s in samples])))
    judge.change.fit(torch.from_numpy(np.concatenate([s.changes[s.parents >= 0] for s in samples])))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1.5e-3, weight_decay=0.1)
    batch = min(64, len(samples))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * max(1, len(samples) // batch))
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        indices = order.permutation(len(samples))
        for at in range(0, len(samples) - batch + 1, batch):
            loss = _loss(judge, [samples[i] for i in indices[at : at + batch]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    judge.eval()
    thresholds = _thresholds(judge, held_out)
    return Fit(judge, thresholds, _scores(judge, held_out, thresholds))


def _loss(judge: Judge, samples: list[Sample]) -> torch.Tensor:
    """Cumulative cross-entropy of the severities, and Huber losses of the quality and of the gains of treatments."""
    first, last = (np.stack([s.statistics[state] for s in samples]) for state in (0, -1))
    logits, _ = judge.look(torch.from_numpy(np.concatenate([first, last])))
    damaged = torch.from_numpy(np.stack([s.severities for s in samples]))
    levels = torch.cat([damaged, torch.zeros_like(damaged)])
    severity = F.binary_cross_entropy_with_logits(logits, (levels[..., None] > torch.arange(4)).float())
    _, quality = judge.look(torch.from_numpy(np.concatenate([s.statistics for s in samples])))
    truth = torch.from_numpy(np.concatenate([s.psnr for s in samples]))
    loss = 4 * severity + 0.1 * F.huber_loss(quality, truth, delta=2.0)
    gained, truly = _gains(judge, samples)
    truly = truly.clamp(-8, 8)[:, None].expand_as(gained)
    return loss + F.huber_loss(gained, truly, delta=1.0) if len(truly) else loss


def _gains(judge: Judge, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimated gains (N, members) and true gain (N,) of every treatment, dB."""
    before = np.concatenate([s.statistics[s.parents[s.parents >= 0]] for s in samples])
    changed = np.concatenate([s.changes[s.parents >= 0] for s in samples])
    truly = np.concatenate([(s.psnr - s.psnr[s.parents])[s.parents >= 0] for s in samples])
    return judge.compare(torch.from_numpy(before), torch.from_numpy(changed)), torch.from_numpy(truly)


def _judged(judge: Judge, samples: list[Sample], state: int) -> torch.Tensor:
    with torch.inference_mode():
        logits, _ = judge.look(torch.from_numpy(np.stack([s.statistics[state] for s in samples])))
    return torch.sigmoid(logits)


def _thresholds(judge: Judge, samples: list[Sample]) -> list[float]:
    """Per kind the larger of: the best F1, and one false alarm in 100 clean photos."""
    present, clean = _judged(judge, samples, 0)[..., 0].numpy(), _judged(judge, samples, -1)[..., 0].numpy()
    truth = np.stack([s.severities for s in samples]) > 0
    found = []
    for k in range(len(GRADED_KINDS)):
        grid = np.linspace(0.2, 0.95, 76)
        f1 = [
            2 * (truth[:, k] & (present[:, k] > t)).sum() / max(1, truth[:, k].sum() + (present[:, k] > t).sum())
            for t in grid
        ]
        found.append(float(max(grid[int(np.argmax(f1))], min(0.97, np.quantile(clean[:, k], 0.99)))))
    return found


def _scores(judge: Judge, samples: list[Sample], thresholds: list[float]) -> dict[str, float]:
    present, clean = _judged(judge, samples, 0), _judged(judge, samples, -1)
    limit = torch.tensor(thresholds)
    truth = torch.from_numpy(np.stack([s.severities for s in samples]))
    found = present[..., 0] > limit
    hits = (found & (truth > 0)).sum(0)
    f1 = 2 * hits / (found.sum(0) + (truth > 0).sum(0))
    level = torch.where(found, (present > 0.5).sum(-1).clamp(min=1), 0)
    with torch.inference_mode():
        members, truly = _gains(judge, samples)
    gained = cautious(members)
    accepted, clear = gained > 0.35, truly.abs() > 0.5
    scores = {f"f1_{kind}": float(v) for kind, v in zip(GRADED_KINDS, f1, strict=True)}
    return scores | {
        "f1_mean": float(f1.mean()),
        "exact_set": float((found == (truth > 0)).all(1).float().mean()),
        "within_one_level": float(((level - truth).abs() <= 1).float().mean()),
        "clean_called_clean": float((clean[..., 0] <= limit).all(1).float().mean()),
        "gain_sign_right": float(((gained > 0) == (truly > 0))[clear].float().mean()),
        "gain_error_dB": float((gained - truly.clamp(-8, 8)).abs().mean()),
        "accepted_gain_dB": float(truly[accepted].mean()),
        "accepted_harm_0.3dB": float((truly[accepted] < -0.3).float().mean()),
    }


def save(result: Fit, names: tuple[str, ...], output: Path, data: str, command: str) -> None:
    """Write statistics.safetensors and its entry in manifest.toml."""
    metadata = {
        "statistics": json.dumps(names),
        "kinds": json.dumps([str(kind) for kind in GRADED_KINDS]),
        "thresholds": json.dumps(result.thresholds),
        "changes": str(len(result.judge.change.mean)),
        "hidden": str(result.judge.severity[0].out_features),
    }
    entry: dict[str, str | int | float] = {
        "license": "Apache-2.0",
        "data": data,
        "recipe": "random_recipe and make_sample in conservator.training.judge",
        "command": command,
    }
    store_weights(output, "statistics", result.judge.state_dict(), entry, result.scores, metadata)


def _stored(s: Sample) -> tuple[object, ...]:
    arrays = (s.statistics, s.psnr, s.severities, s.parents, s.changes)
    return s.names, *map(torch.from_numpy, arrays)


def make_judge(
    folder: Path,
    into: Path,
    output: Path,
    *,
    count: int = COUNT,
    toolbox: str = TOOLBOX,
    chains: int = 2,
    seed: int = 0,
    jobs: int = 2,
) -> dict[str, float]:
    """Train the judge on ``count`` damaged versions of the photos in ``folder`` and store it in ``into``.

    The samples, which take the time, are kept in ``output`` and used again. Returns the scores on held-out photos.
    """
    photos = find_photos(folder)
    if len(photos) < 8:
        raise ConservatorError(f"{folder} holds {len(photos)} photos, expected at least 8; give a folder of photos")
    cache = output / "judge" / f"samples-{toolbox}-{len(photos)}-{count}-{chains}-{seed}.pt"
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        samples = [Sample(tuple(names), *(field.numpy() for field in fields)) for names, *fields in stored]
    else:
        samples = build(photos, count, chains, toolbox, seed, jobs)
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as file:
            torch.save([_stored(s) for s in samples], file)
    unseen = [i % len(photos) % 8 == 0 for i in range(len(samples))]  # whole photos are held out
    training = [s for s, held in zip(samples, unseen, strict=True) if not held]
    held_out = [s for s, held in zip(samples, unseen, strict=True) if held]
    result = fit(training, held_out)
    save(
        result,
        samples[0].names,
        into,
        training_data(folder),
        f"conservator train judge --photos train/free --count {count}",
    )
    return result.scores

"""Train an expert: damaged crops in, clean crops out. One file that reads from top to bottom."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.precision import half_precision
from conservator.resample import bicubic_to
from conservator.training.data.crops import Crops, Damage, Photos, ahead, validation_set
from conservator.training.run import (
    Belongs,
    Curve,
    draw_curve,
    load_checkpoint,
    refuse_more,
    save_checkpoint,
    write_curve,
)


def never() -> bool:
    """Of a training that nobody stops."""
    return False


NO_LIMIT = 10_000_000
"""Steps; more than any budget of minutes has room for."""
_EMA = 0.999
_EPSILON = 5e-5
"""Mean square error (43 dB) below which an improvement counts no more."""
_EPSILON_OF_SCENES = 1e-3
"""The same (30 dB) for haze and darkness. With less, what it costs to touch a clean photo outweighs all that treating a
hazy one can gain, and the network stays the identity."""
_CHECKPOINT_SECONDS = 240.0
"""Of the processor's time: a run that others leave little of it must not spend that on validation."""
_VALIDATION_CROPS = 32


@dataclass(frozen=True)
class Budget:
    """How an expert is trained. The run ends after ``minutes`` of training or ``steps``, whichever comes first.

    The learning rate warms up for 200 steps, or a twentieth of a short budget, and falls to zero along a cosine.
    """

    minutes: float = math.inf
    steps: int = NO_LIMIT
    rate: float = 1e-3
    side: int = 128
    """Pixels of a crop."""
    batch: int = 10
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.steps < 1:
            raise ConservatorError(f"the budget is {self.minutes} minutes and {self.steps} steps, expected more than 0")
        if math.isinf(self.minutes) and self.steps >= NO_LIMIT:
            raise ConservatorError("the training has no end: give minutes or steps")


@dataclass
class TrainingProgress:
    """Where a run is: what the checkpoint keeps beside the weights."""

    step: int = 0
    seconds: float = 0.0

    def share(self, budget: Budget) -> float:
        """How much of the budget is spent, 0 to 1."""
        return min(1.0, max(self.step / budget.steps, self.seconds / 60 / budget.minutes))


@dataclass(frozen=True)
class Trained:
    """A trained network (its running mean), and its PSNR (RGB, dB) on the validation crops: damaged, and restored."""

    network: nn.Module
    steps: int
    minutes: float
    psnr_in: float
    psnr_out: float
    identity: Mapping[str, str] = field(default_factory=dict)
    """What was trained, on what and how."""
    changes: Sequence[Mapping[str, str]] = ()
    """Parts of the identity that were others before a step, or not said."""


def train_expert(
    network: nn.Module,
    damage: Damage,
    photos: Photos,
    folder: Path,
    budget: Budget,
    *,
    device: str = "cpu",
    whole: bool = False,
    scale: int = 1,
    belongs: Belongs = Belongs(),  # noqa: B008 - frozen
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train ``network`` to undo ``damage`` on crops of ``photos``; the rest is as ``train_network`` says."""
    crops, unseen = (
        Crops(pyramids, damage, budget.side, budget.batch, budget.seed, budget.steps, whole, scale)
        for pyramids in (photos.training, photos.held_out)
    )
    return train_network(
        network,
        crops,
        validation_set(unseen, _VALIDATION_CROPS),
        folder,
        budget,
        device=device,
        epsilon=_EPSILON_OF_SCENES if whole else _EPSILON,
        belongs=replace(belongs, identity={"photos": photos.digest, **belongs.identity}),
        stop=stop,
        report=report,
    )


def train_network(
    network: nn.Module,
    batches: Dataset[tuple[Image, Image]],
    held_out: tuple[Image, Image],
    folder: Path,
    budget: Budget,
    *,
    untreated: Image | None = None,
    device: str = "cpu",
    epsilon: float = _EPSILON,
    belongs: Belongs = Belongs(),  # noqa: B008 - frozen
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train on batches of damaged and clean images; resumes from ``folder`` where an earlier run stopped, to the step.

    A checkpoint that does not belong to this run, or of other settings, raises ConservatorError. ``stop`` is asked
    before each step; where it says so, the run writes its checkpoint and returns.

    ``untreated`` is what the network is compared with on the pairs ``held_out``: where it is not given, the damaged
    images, enlarged where the clean ones are larger.

    ``folder`` gets ``checkpoint.pt``, and the curve on the pairs ``held_out`` as ``curve.csv`` and ``curve.png``.
    The loss is the mean PSNR of the crops, so that a faintly damaged one counts as much as a hazy one, whose error is a
    hundred times as large (the PSNR loss of Chen et al., HINet, 2021). AdamW, bfloat16 where fast, running mean.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(budget.seed)
    run = _Run(network, budget, device, belongs, epsilon)
    if run.load(folder):
        report(f"resumes at step {run.progress.step}, {run.progress.seconds / 60:.1f} minutes")
    damaged, clean = (x.to(device) for x in held_out)
    if untreated is None:
        given = damaged[:, :3]
        untreated = given if given.shape == clean.shape else bicubic_to(given, *clean.shape[-2:])
    return run.train(batches, damaged, clean, _psnr(untreated.to(device), clean), folder, stop, report)


class _Run:
    """Network, running mean, optimiser and progress of one training."""

    def __init__(self, network: nn.Module, budget: Budget, device: str, belongs: Belongs, epsilon: float) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.mean = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=budget.rate, weight_decay=1e-4)
        self.budget, self.device, self.progress, self.epsilon = (
            budget,
            torch.device(device),
            TrainingProgress(),
            epsilon,
        )
        # a longer budget may continue a shorter one
        free = {"minutes", "steps", "workers"}
        settings = {k: str(v) for k, v in asdict(budget).items() if k not in free}
        self.belongs = replace(belongs, identity={**belongs.identity, **settings})
        self.curve: Curve = []
        self.changes: list[dict[str, str]] = []
        """Parts of the identity that were others before, or not said, with the step at which they changed."""

    def train(
        self,
        batches: Dataset[tuple[Image, Image]],
        damaged: Image,
        clean: Image,
        before: float,
        folder: Path,
        stop: Callable[[], bool],
        report: Callable[[str], None],
    ) -> Trained:
        """Go on until the budget is spent or ``stop`` says so, with a checkpoint now and then and one in the end."""
        budget, progress = self.budget, self.progress
        started, saved = time.monotonic() - progress.seconds, time.process_time()
        for noisy, target in ahead(batches, range(progress.step, budget.steps), budget.workers):
            if progress.share(budget) >= 1 or stop():
                break
            self.step(noisy.to(self.device), target.to(self.device))
            progress.seconds = time.monotonic() - started
            if time.process_time() - saved > _CHECKPOINT_SECONDS:
                after = _psnr(self.restored(damaged), clean)
                self.save(folder, before, after)
                minutes, share = progress.seconds / 60, 100 * progress.share(budget)
                report(f"step {progress.step}, {minutes:.1f} min, {share:.1f} %: {before:.2f} -> {after:.2f} dB")
                saved = time.process_time()
                started = time.monotonic() - progress.seconds  # validation is not training time
        after = _psnr(self.restored(damaged), clean)
        self.save(folder, before, after)
        said = self.belongs.identity
        return Trained(self.mean, progress.step, progress.seconds / 60, before, after, said, tuple(self.changes))

    def step(self, damaged: Image, clean: Image) -> None:
        """One step of the optimiser."""
        share = self.progress.share(self.budget)
        warm = min(1.0, max((self.progress.step + 1) / 200, share / 0.05))
        rate = self.budget.rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        damaged = damaged.contiguous(memory_format=torch.channels_last)
        with half_precision(self.device):
            restored = self.network(damaged)
        errors = (restored.float() - clean).square().mean(dim=(1, 2, 3))
        loss = (errors + self.epsilon).log().mean()
        if not torch.isfinite(loss):
            raise ConservatorError(f"the training diverged at step {self.progress.step}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.progress.step += 1
        decay = min(_EMA, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            for mean, value in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    @torch.inference_mode()
    def restored(self, damaged: Image) -> Image:
        """What the running mean makes of images."""
        return torch.cat([self.mean(item[None]).clamp(0, 1) for item in damaged])

    def save(self, folder: Path, before: float, after: float) -> None:
        """Write the checkpoint and the curve."""
        now = {"step": self.progress.step, "minutes": self.progress.seconds / 60, "psnr_out": after}
        self.curve.append(now)
        state = {
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "curve": self.curve,
            "changes": self.changes,
        }
        save_checkpoint(folder, state, self.belongs.identity)
        write_curve(folder, self.curve)
        draw_curve(folder, self.curve, "psnr_out", before)

    def load(self, folder: Path) -> bool:
        """Go on where ``save`` stopped, if it ever did. Raises ConservatorError for a checkpoint of something else."""
        state = load_checkpoint(folder, self.belongs, self.device)
        if state is None:
            return False
        refuse_more(folder, state["progress"]["step"], self.budget.steps)
        self.network.load_state_dict(state["network"])
        self.mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])
        self.curve, self.changes = state["curve"], state.get("changes", [])
        step = str(self.progress.step)
        self.changes += [{"step": step, name: was} for name, was in self.belongs.changes(state["identity"]).items()]
        return True


def _psnr(image: Image, clean: Image) -> float:
    """Mean over the images of the PSNR (RGB) in dB, at most 45, so that undamaged crops do not outweigh all others."""
    errors: Tensor = (image - clean).square().mean(dim=(1, 2, 3)).clamp(min=10**-4.5)
    return float((-10 * errors.log10()).mean())

"""TRL's GRPOTrainer with an environment_factory beside the loop of ours: legal turns, rollouts a second, failures.

    python benchmarks/grpo_trial.py FOLDER [STEPS]

Both start from one tiny model, which was taught to call three tools on four questions, and play groups of 8 rollouts
from the same noisy picture, paid by PSNR. FOLDER holds what is made on the way. One thread. Needs conservator[sft].
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from PIL import Image as PillowImage
from planner_lessons import SIZE, TOOLS, questions, texts, write_data

from conservator.errors import PoolError
from conservator.extras import import_mllm
from conservator.image import to_array
from conservator.metrics.fidelity import psnr
from conservator.perception.perception import Blind
from conservator.policies import ToolCallingPolicy
from conservator.policies.dialects import ToolDialect
from conservator.policies.vision_language import load_model
from conservator.pool import LocalPool
from conservator.session import Apply, Decision, Rollback, Session
from conservator.tools import make_toolbox
from conservator.training.planner.exploring import DrawnCalls, roll_out
from conservator.training.planner.lessons import read_lessons
from conservator.training.planner.nano import new_nano
from conservator.training.planner.orders import SftOrder
from conservator.training.planner.sft import texts_of, train_sft
from conservator.training.planner.turns import log_chances, turns_of
from conservator.training.rl.weighting import normalised

ROLLOUTS, LONGEST = 8, 4
TOOLBOX = make_toolbox("classical").only(*TOOLS)


def taught(folder: Path) -> Path:
    """A tiny model with Qwen3-VL's chat template that was taught to call the tools."""
    model = folder / "taught" / "model"
    if model.exists():
        return model
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_data(data)
    tiny = new_nano([*texts(data), *texts_of(read_lessons(data), "tools")], **SIZE)
    tiny.tokenizer.chat_template = import_mllm("trl.chat_template_utils").qwen3_vl_chat_template
    tiny.save(folder / "tiny", torch.float32)
    order = SftOrder((data,), folder / "taught", str(folder / "tiny"), steps=150, batch=4, rate=3e-3, studies=0.0)
    return train_sft(
        SftOrder(**{**vars(order), "dialect": "tools", "every": 150}), lambda line: print("sft:", line)
    ).folder


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    (_, damaged, *_), _, (_, clean, *_), _ = questions(TOOLBOX)
    return damaged, clean


class Unreachable(LocalPool):
    """A pool that cannot reach the denoiser."""

    def submit(self, name: str, *tensors: torch.Tensor) -> Any:
        if name == "wavelet_denoise":
            raise PoolError("the worker died")
        return super().submit(name, *tensors)


def ours(name: str, model_folder: Path, steps: int, kind: type[LocalPool] = LocalPool) -> None:
    model = load_model.__wrapped__(str(model_folder), "cpu")
    model.network.requires_grad_(True)
    policy, (damaged, clean) = ToolCallingPolicy(model, Blind()), noisy()
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=1e-4)
    begun, turns, paid, rewards = time.monotonic(), 0, 0, list[float]()
    with kind(TOOLBOX) as pool:
        for step in range(steps):
            sessions = [Session(damaged, TOOLBOX, pool, Blind(), LONGEST) for _ in range(ROLLOUTS)]
            played = roll_out(DrawnCalls(policy, np.random.default_rng(step)), sessions)
            gained = [psnr(one.last.image, clean) - psnr(damaged, clean) for one in played if one is not None]
            paid += len(gained)
            if len(gained) < 2:
                continue
            found = [turns_of(policy, one, TOOLBOX.specs, LONGEST) for one in played if one is not None]
            flat = [(t, a) for one, a in zip(found, normalised(gained), strict=True) for t in one if t.way]
            chances = log_chances(model, [turn for turn, _ in flat])
            (-(torch.tensor([a for _, a in flat]) * chances).sum() / ROLLOUTS).backward()
            optimizer.step()
            optimizer.zero_grad()
            turns += sum(map(len, found))
            rewards.append(float(np.mean(gained)))
    told(f"ours, {name}", begun, steps, f"{turns} of {turns} turns legal, {paid} rollouts paid", rewards)


def told(name: str, begun: float, steps: int, what: str, rewards: list[float]) -> None:
    speed = steps * ROLLOUTS / (time.monotonic() - begun)
    gains = ", ".join(f"{value:+.2f}" for value in rewards)
    print(f"{name}: {speed:.2f} rollouts/s with learning, {what}, mean gain per step {gains} dB")


def blocks(text: str, picture: PillowImage.Image) -> list[dict[str, Any]]:
    """A text with its picture as the blocks of a message."""
    before, _, after = text.partition("<image>")
    return [{"type": "text", "text": before}, {"type": "image", "image": picture}, {"type": "text", "text": after}]


def environment(counts: dict[str, Any], rewards: list[float], pool: LocalPool) -> Any:
    """An environment class with a method for each tool, as TRL reads it."""
    damaged, clean = noisy()

    class Environment:
        def reset(self, **row: Any) -> Any:
            self._session, self._calls = Session(damaged, TOOLBOX, pool, Blind(), LONGEST), 0

        def get_reward(self) -> float:
            counts["each"].append(self._calls)
            gained = psnr(self._session.trajectory.last.image, clean) - psnr(damaged, clean)
            rewards.append(gained)
            return gained

        def _step(self, action: Apply | Rollback) -> Any:
            self._calls += 1
            if self._session.over:
                return "no step is left"
            try:
                step = self._session.step(Decision(action))
            except PoolError:
                counts["failed"] += 1
                raise
            words, *_ = ToolDialect().ask(self._session.observe(), "balanced")[-1:]
            picture = PillowImage.fromarray(to_array(step.image, np.uint8))
            if not words.images:
                return [{"type": "text", "text": words.text}]
            return blocks(words.text, picture)

        def rollback(self, to: int) -> Any:
            """Returns to the photo as it was after an earlier step; 0 is as it came.

            Args:
                to: The step to return to.
            """
            return self._step(Rollback(to))

    for spec in TOOLBOX.specs:
        namespace: dict[str, Any] = {}
        exec(f"def {spec.name}(self):\n    return self._step(_Apply('{spec.name}'))", {"_Apply": Apply}, namespace)
        namespace[spec.name].__doc__ = spec.description
        setattr(Environment, spec.name, namespace[spec.name])
    return Environment


def processor(model_folder: Path) -> Any:
    """Qwen3-VL's processor without videos, for which torchvision would be needed."""
    transformers = import_mllm("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder, padding_side="left")

    class Pictures(transformers.Qwen2VLImageProcessorPil):  # type: ignore[misc, name-defined]
        def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            return super().preprocess(images, *args, **{**kwargs, "return_tensors": "pt"})

    pictures = Pictures(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024},
    )
    base = import_mllm("transformers.models.qwen3_vl.processing_qwen3_vl").Qwen3VLProcessor
    mixin = import_mllm("transformers.processing_utils").ProcessorMixin

    class ImageOnlyQwen3VLProcessor(base):  # type: ignore[misc, valid-type]
        attributes = ("image_processor", "tokenizer")

        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **more: Any):
            for name, token in (("image", "<|image_pad|>"), ("video", "<|endoftext|>")):
                setattr(self, f"{name}_token", token)
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
            for name in ("vision_start", "vision_end"):
                setattr(self, f"{name}_token", f"<|{name}|>")
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
            mixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return ImageOnlyQwen3VLProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)


def trls(name: str, model_folder: Path, steps: int, folder: Path, kind: type[LocalPool] = LocalPool) -> None:
    trl, transformers = import_mllm("trl"), import_mllm("transformers")
    datasets = import_mllm("datasets")
    damaged, _ = noisy()
    dialect = ToolDialect()
    with kind(TOOLBOX) as pool:
        first = Session(damaged, TOOLBOX, pool, Blind(), LONGEST).observe()
        system, user = dialect.ask(first, "balanced")
        picture = PillowImage.fromarray(to_array(damaged, np.uint8))
        prompt = [
            {"role": "system", "content": [{"type": "text", "text": system.text}]},
            {"role": "user", "content": blocks(user.text, picture)},
        ]
        rows = datasets.Dataset.from_dict({"number": list(range(64))}).with_transform(
            lambda batch: {"number": batch["number"], "prompt": [prompt for _ in batch["number"]]}
        )
        counts, rewards = {"each": [], "failed": 0}, list[float]()
        network = transformers.AutoModelForImageTextToText.from_pretrained(model_folder, dtype="float32")
        trainer = trl.GRPOTrainer(
            network,
            args=trl.GRPOConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=ROLLOUTS,
                num_generations=ROLLOUTS,
                max_steps=steps,
                max_completion_length=600,
                max_tool_calling_iterations=LONGEST,
                learning_rate=1e-4,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                remove_unused_columns=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=rows,
            processing_class=processor(model_folder),
            environment_factory=environment(counts, rewards, pool),
        )
        begun = time.monotonic()
        trainer.train()
    means = [float(np.mean(rewards[i : i + ROLLOUTS])) for i in range(0, len(rewards), ROLLOUTS)]
    silent = sum(calls == 0 for calls in counts["each"])
    what = (
        f"{silent} of {steps * ROLLOUTS} rollouts called nothing, {counts['failed']} calls failed, {len(rewards)} paid"
    )
    told(f"TRL, {name}", begun, steps, what, means)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    where, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    checkpoint = taught(where)
    ours("taught", checkpoint, count)
    trls("taught", checkpoint, count, where)
    ours("untaught", where / "tiny", count)
    trls("untaught", where / "tiny", count, where)
    ours("a tool out of reach", checkpoint, count, Unreachable)
    trls("a tool out of reach", checkpoint, count, where, Unreachable)

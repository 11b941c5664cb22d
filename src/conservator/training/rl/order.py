"""How the policy r1 is trained; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from conservator.errors import ConservatorError


@dataclass(frozen=True)
class R1Order:
    """What to train the policy r1 on, and for what reward.

    Raises ConservatorError where the options contradict each other.
    """

    photos: Path | None = field(default=None, metadata={"exists": True})
    """Folder of clean photos, searched recursively, which are damaged here: two thirds of them are used, for the others
    belong to the assessor."""
    damaged: Path | None = field(default=None, metadata={"exists": True})
    """Folder of damaged photos whose originals nobody has, instead; nothing but its files is read."""
    method: Literal["ppo", "imitation"] = "ppo"
    """By trial and reward (ppo), or from all toolchains, scored by references (imitation)."""
    reward: Literal["perception", "feedback", "psnr"] = "perception"
    """What a step is paid for: perception's estimate of the quality, a model's rating, or PSNR, which needs photos."""
    model: str = ""
    """A vision-language model in Hugging Face format, a folder or an id, which rates pictures; needed for feedback."""
    shown: Literal["overview", "crops", "both"] = "both"
    """What of a picture the model is shown: the reduced whole, native crops, or both."""
    cost: float = field(default=0.05, metadata={"min": 0})
    """What a call of a tool costs, in units of what a step usually gains or loses; 0 leaves it out."""
    consistency: float = field(default=0.1, metadata={"min": 0})
    """What it weighs, likewise, that a tool for noise or rain took something else away; 0 leaves it out."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +; the policy learns their tools for one kind of damage that keep the size."""
    perception: str = "perception"
    """What looks at the pictures: perception or statistics, which ship, or a file of weights."""
    output: Path = Path("out/train/r1")
    """Folder of checkpoint, curve and r1.safetensors."""
    states: Path = Path("out/train/r1-states")
    """Folder that remembers what tools made of the starts, for other trainings on the same."""
    encoder: str = ""
    """A frozen image encoder in Hugging Face format (CLIP and the like), a folder or an id, that is asked as well."""
    encoded: Literal["beside", "instead"] = "beside"
    """Whether the network is told the encoder's features beside perception's, or instead of them and of its grades."""
    setting: Literal["random", "1", "2", "3", "4", "all"] = "random"
    """The damage of the starts: any (random), one of Restore-R1's four settings, or all of them."""
    starts: int = field(default=240, metadata={"min": 2})
    """Damaged pictures that episodes begin from."""
    explored: int = field(default=0, metadata={"min": 0})
    """States that are made by chance first, and from which alone is then learned: a bound on the cost. 0: play on, and
    make what is new (ppo); learn from the states that other trainings left (imitation)."""
    updates: int = field(default=40, metadata={"min": 1})
    """Updates of the network (ppo)."""
    episodes: int = field(default=96, metadata={"min": 1})
    """Episodes that are played for an update (ppo)."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    tensorboard: bool = False
    """Write events for TensorBoard, too."""

    def __post_init__(self) -> None:
        if (self.photos is None) == (self.damaged is None):
            raise ConservatorError("give --photos, a folder of clean photos, or --damaged, a folder of damaged ones")
        if self.damaged is not None and (self.reward == "psnr" or self.method == "imitation"):
            raise ConservatorError(
                "photos whose originals nobody has give no PSNR and no right answers; with --damaged, choose "
                "--method ppo and --reward perception or feedback"
            )
        if self.damaged is not None and self.setting != "random":
            raise ConservatorError("photos with --damaged are damaged already; --setting is for --photos")
        if self.encoded == "instead" and not self.encoder:
            raise ConservatorError("nothing would be left to see; say which encoder is asked instead by --encoder")
        if self.reward == "feedback" and not self.model:
            raise ConservatorError("--reward feedback asks a vision-language model; say which by --model")

    @property
    def folder(self) -> Path:
        """The folder of the photos, clean or damaged."""
        found = self.photos or self.damaged
        assert found is not None, "one of them is given"
        return found


def order_that_ships(photos: Path, output: Path) -> R1Order:
    """What the policy that ships is trained by; ``output`` gets the folder of the training and that of the states."""
    return R1Order(photos, reward="psnr", starts=400, updates=20, output=output / "r1", states=output / "r1-states")

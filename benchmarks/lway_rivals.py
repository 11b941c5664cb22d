"""LWay beside other ways of learning to enlarge: the paper's comparison, and another backbone.

python benchmarks/lway_rivals.py train --photos train/free -o out/rivals
python benchmarks/lway_rivals.py bench --photos val/Set14 -o out/rivals [--pairs --prefix nikon]
python benchmarks/lway_rivals.py picture -o out/rivals

- supervised: upscale_x2, which ships, trained on bicubic pairs.
- at random: the same network, trained further on the degradations that LWay's transfer learns, drawn at random. It
  stands for training on unpaired data: all that is known of the photo's degradation is its distribution.
- self-supervised alone: a small network that learns from the one photo, from nothing (ZSSR: Shocher et al.,
  CVPR 2018): to enlarge the photo reduced into the photo.
- LWay: supervised, then adapted to the photo. Also after the training at random, and on a plain wider network.

The first command resumes; the second does not measure again what it has; the third draws docs/images/lway_rivals.webp.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from PIL import ImageDraw
from skimage import data
from torch import nn

from conservator.adapting import Manner
from conservator.degradations import BlurredReduction, degrade
from conservator.errors import ConservatorError
from conservator.evaluation.lway import bench_adapted, paired_cases, reduced_cases, tools_summary
from conservator.image import Image, in_8_bits, to_array, to_image
from conservator.kinds import Kind
from conservator.metrics.fidelity import psnr
from conservator.networks.store import NetworkStore
from conservator.networks.upscaler import Upscaler
from conservator.resample import bicubic_to
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox
from conservator.tools.lway import AdaptedTool
from conservator.training.data import makes
from conservator.training.data.crops import Damage, Lesson, Photos
from conservator.training.experts.lway import degradation
from conservator.training.experts.train import Budget, Trained, train_expert

SCALE = 2
STEPS = {"at_random": 4000, "wider": 1000}  # the upscaler that ships had 20,000 of as many crops
BATCH, SIDE = 16, 48
CONDITIONS = ("bicubic", "blur 1.8", "blur 1.2, noise 6", "blur 1.2, JPEG 75")


class OwnNetwork(Tool):
    """A network that enlarges and was trained here."""

    def __init__(self, name: str, description: str, network: nn.Module) -> None:
        kinds = frozenset({Kind.LOW_RESOLUTION})
        self.spec = ToolSpec(name, kinds, description, "benchmarks/lway_rivals.py", "Apache-2.0", scale=SCALE)
        self._network = network.eval().requires_grad_(False)

    def network(self, networks: NetworkStore, device: str) -> nn.Module:
        """Its bare network."""
        return self._network.to(device)

    def restore(self, image: Image) -> Image:
        enlarged: Image = self._network(image)
        return enlarged


class ZeroShot(Tool):
    """Learns to enlarge from the photo alone, from nothing."""

    spec = ToolSpec(
        "zero_shot",
        frozenset({Kind.LOW_RESOLUTION}),
        "Learns from the photo reduced and the photo.",
        "Shocher et al., CVPR 2018",
        "Apache-2.0",
        scale=SCALE,
        tile=None,
    )

    def fitted(self, image: Image) -> Tool:
        """Eight convolutions of 64 channels, 1,000 iterations of Adam on crops, the rate falling from 1e-3."""
        torch.manual_seed(0)
        rng, iterations = np.random.default_rng(0), 1000
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
        for _ in range(6):
            layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1))
        height, width = (side // SCALE * SCALE for side in image.shape[-2:])
        wanted = image[..., :height, :width]
        given = _enlarged(bicubic_to(wanted, height // SCALE, width // SCALE))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        side = min(64, height, width)
        with torch.inference_mode(False), torch.enable_grad():
            wanted, given = wanted.clone(), given.clone()
            for _ in range(iterations):
                top, left = (int(rng.integers(n - side + 1)) for n in (height, width))
                turns, flip = int(rng.integers(4)), bool(rng.integers(2))
                pair = torch.cat([x[..., top : top + side, left : left + side] for x in (given, wanted)])
                pair = torch.rot90(pair.flip(-1) if flip else pair, turns, (-2, -1))
                loss = (pair[:1] + network(pair[:1]) - pair[1:]).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                falling.step()
        return OwnNetwork(self.spec.name, self.spec.description, _OnEnlarged(network))

    def restore(self, image: Image) -> Image:
        raise ConservatorError(f"{self.spec.name} learns from a whole photo; call the tool, or fitted(photo) first")


class _OnEnlarged(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Image) -> Image:
        large = _enlarged(image)
        finer: Image = large + self.network(large)
        return finer


def _enlarged(image: Image) -> Image:
    return F.interpolate(image, scale_factor=SCALE, mode="bicubic", align_corners=False)


def at_random(rng: np.random.Generator) -> Lesson:
    """What LWay's transfer learns to do again."""
    blur, rest = degradation(rng, SCALE)
    return Lesson((*blur, *rest))


def bicubic(rng: np.random.Generator) -> Lesson:
    """What the upscaler that ships was trained on."""
    return Lesson(makes.smaller(rng, SCALE))


def trained(name: str, photos: Photos, output: Path) -> Trained:
    """Train a rival, or go on with it."""
    network: nn.Module = Upscaler(SCALE, width=64, depth=8)
    damage: Damage = bicubic
    if name == "at_random":
        network, damage = make_toolbox("experts")["upscale_x2"].network(NetworkStore(), "cpu"), at_random  # type: ignore[attr-defined]
        network = network.train().requires_grad_(True)
    budget = Budget(steps=STEPS[name], rate=5e-4, side=SIDE, batch=BATCH)
    return train_expert(network, damage, photos, output / name, budget, scale=SCALE)


def rivals(output: Path) -> Toolbox:
    """All that is compared."""
    own = []
    for name, described in (("at_random", "Trained on random degradations."), ("wider", "Wider; fewer steps.")):
        network = Upscaler(SCALE, width=64 if name == "wider" else 32, depth=8)
        network.load_state_dict(torch.load(output / name / "checkpoint.pt", weights_only=True)["mean"])
        own.append(OwnNetwork(name, described, network))
    ships = make_toolbox("conservator").only("upscale_x2", "upscale_x2_adapted")
    return Toolbox(*ships.values(), *(made for tool in own for made in (tool, AdaptedTool(tool))), ZeroShot())


def draw(tools: Toolbox, path: Path) -> None:
    """A part of scikit-image's astronaut, reduced through a blur, enlarged by each; at 100 %."""
    side, edge = 200, 4
    large = to_image(np.ascontiguousarray(data.astronaut()))
    small = in_8_bits(degrade(large, (BlurredReduction(SCALE, 1.8, 1.8, 0.0),)))
    made = {"bicubic": bicubic_to(small, *large.shape[-2:])}
    for name, tool in tools.items():
        tool.setup("cpu")
        made[name] = tool(small)
    columns = 4
    sheet = Picture.new("RGB", (columns * (side + edge), -(-(len(made) + 1) // columns) * (side + 24)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, image) in enumerate([*made.items(), ("reference", large)]):
        x, y = place % columns * (side + edge), place // columns * (side + 24)
        sheet.paste(Picture.fromarray(to_array(image[..., 40 : 40 + side, 150 : 150 + side], np.uint8)), (x, y))
        figure = "" if image is large else f", {psnr(image, large):.2f} dB"
        pen.text((x, y + side + 3), name + figure, fill="black", font_size=13)
    sheet.save(path, quality=88, method=6)


def main() -> None:
    """Train, measure or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "bench", "picture"])
    parser.add_argument("--photos", type=Path, default=Path())
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "train":
        torch.set_flush_denormal(True)
        photos = Photos(options.photos)
        for name in STEPS:
            done = trained(name, photos, options.output)
            print(f"{name}: {done.psnr_out:.2f} dB after {done.steps} steps, {done.minutes:.0f} minutes")
        return
    if options.what == "picture":
        draw(rivals(options.output), Path(__file__).resolve().parents[1] / "docs" / "images" / "lway_rivals.webp")
        return
    cases = (
        paired_cases(options.photos, SCALE, options.prefix, options.limit)
        if options.pairs
        else reduced_cases(options.photos, SCALE, CONDITIONS, options.limit)
    )
    rows = bench_adapted(cases, rivals(options.output), options.output / options.photos.name, Manner())
    print("\n".join(tools_summary(rows, options.photos.name)))


if __name__ == "__main__":
    main()

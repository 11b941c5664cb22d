"""Tools that come from outside: RL-Restore's networks, spandrel's checkpoints, entry points of other packages."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from safetensors.torch import save_file

from conservator.degradations import Kind
from conservator.errors import ConservatorError, MissingExtraError, NameNotFoundError, PoolError
from conservator.files import sha256
from conservator.image import Image, to_array, to_image
from conservator.kinds import parse_kinds
from conservator.metrics.fidelity import psnr
from conservator.pool import LocalPool
from conservator.resample import bicubic_resize
from conservator.tools import Toolbox, check_tool, make_toolbox
from conservator.tools.records import WeightsFile
from conservator.tools.rl_restore import import_rl_restore, rl_restore_specs, rl_restore_tools
from conservator.tools.spandrel import SpandrelRecord, SpandrelTool, add_spandrel_tool
from conservator.tools.user import (
    entry_point_tools,
    imported_rl_restore_tools,
    remove_tool,
    user_tool_dir,
    user_tools,
)


@pytest.fixture(scope="session")
def npz(shared: Path) -> Path:
    return shared / "anchors" / "rl-restore" / "rl_restore.npz"


@pytest.fixture(scope="session")
def rl_restore(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Toolbox:
    tools = rl_restore_tools(import_rl_restore(npz, tmp_path_factory.mktemp("tools")))
    for tool in tools:
        tool.setup("cpu")
    return Toolbox(*tools)


@pytest.fixture(scope="session")
def crops(shared: Path) -> Image:
    """Crops from the middle of photos reduced by two, (6, 3, 96, 96): sharp and detailed, as the training crops are.

    On smooth pictures, and near the end of a band, the denoiser of the next stronger band wins.
    """
    paths = sorted((shared / "data" / "val" / "CBSD68").iterdir())[:60:10]
    return torch.cat([_crop(PillowImage.open(path).convert("RGB").reduce(2)) for path in paths])


def _crop(picture: PillowImage.Image) -> Image:
    left, top = (picture.width - 96) // 2, (picture.height - 96) // 2
    return to_image(np.asarray(picture.crop((left, top, left + 96, top + 96))))


@pytest.fixture(scope="session")
def spandrel_loads() -> None:
    """Skips without spandrel, which imports torchvision.

    One that was built for another torch (say with CUDA, while torch is the CPU build) misses two operators, which no
    network here calls: declaring them lets it be imported.
    """
    for package in ("spandrel", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the spandrel extra is not installed ({package} is missing)")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def blur(image: Image, sigma: float) -> Image:
    offset = torch.arange(-10, 11, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(image, (10, 10, 10, 10), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3).clamp(0, 1)


def noise(image: Image, sigma: float) -> Image:
    generator = torch.Generator().manual_seed(0)
    return (image + torch.randn(image.shape, generator=generator) * (sigma / 255)).clamp(0, 1)


def jpeg(images: Image, quality: int) -> Image:
    return torch.cat([_jpeg(image[None], quality) for image in images])


def _jpeg(image: Image, quality: int) -> Image:
    buffer = io.BytesIO()
    PillowImage.fromarray(to_array(image, np.uint8)).save(buffer, "JPEG", quality=quality)
    return to_image(np.asarray(PillowImage.open(buffer)))


def mean_psnr(images: Image, references: Image) -> float:
    return float(np.mean([psnr(a[None], b[None]) for a, b in zip(images, references, strict=True)]))


PEAKS = [
    (blur, 1.0, "rl_blur_1"),
    (blur, 1.8, "rl_blur_2"),
    (blur, 3.0, "rl_blur_3"),
    (blur, 4.5, "rl_blur_4"),
    (noise, 6, "rl_noise_1"),
    (noise, 14, "rl_noise_2"),
    (noise, 22, "rl_noise_3"),
    (noise, 45, "rl_noise_4"),
    (jpeg, 50, "rl_jpeg_3"),  # the published third JPEG tool wins at every quality
    (jpeg, 15, "rl_jpeg_3"),
]


@pytest.mark.parametrize(("damage", "amount", "winner"), PEAKS)
def test_the_published_network_of_the_band_wins(
    rl_restore: Toolbox, crops: Image, damage: Callable[[Image, float], Image], amount: float, winner: str
) -> None:
    """The peaks that were measured on the paper's own patches: numbering, kernels and channels are right."""
    damaged = damage(crops, amount)
    before = mean_psnr(damaged, crops)
    rivals = rl_restore.only(*(name for name in rl_restore if name.rpartition("_")[0] == winner.rpartition("_")[0]))
    gains = {name: mean_psnr(tool(damaged), crops) - before for name, tool in rivals.items()}
    assert len(gains) == 4
    assert max(gains, key=gains.__getitem__) == winner, gains
    assert gains[winner] > 0.5, gains


def test_rl_restore_is_twelve_tools_of_the_published_size_in_order(rl_restore: Toolbox) -> None:
    assert list(rl_restore) == [f"rl_{kind}_{n}" for kind in ("blur", "noise", "jpeg") for n in (1, 2, 3, 4)]
    assert rl_restore.specs == rl_restore_specs()
    sizes = [sum(p.numel() for p in tool._network.parameters()) for tool in rl_restore.values()]  # type: ignore[attr-defined]
    assert sizes == [21_827, 21_827, 50_851, 50_851] * 3
    assert rl_restore["rl_noise_3"].spec.removes == {Kind.NOISE}
    assert "25 to 37.5" in rl_restore["rl_noise_3"].spec.description


@pytest.mark.parametrize("name", ["rl_blur_2", "rl_jpeg_4"])
def test_rl_restore_tools_keep_the_contract(rl_restore: Toolbox, npz: Path, tmp_path: Path, name: str) -> None:
    fresh = Toolbox(*rl_restore_tools(import_rl_restore(npz, tmp_path)))
    check_tool(fresh[name])


def test_the_import_is_recorded_and_repeatable(npz: Path, tmp_path: Path) -> None:
    record = json.loads(import_rl_restore(npz, tmp_path / "a").read_text("utf-8"))
    assert (record["type"], record["license"]) == ("rl-restore", "MIT")
    assert record["source_sha256"] == "45eed3766202cb4406bebbe539342971372d71d3c9a264afb8704f85710b8c5c"
    import_rl_restore(npz, tmp_path / "a")
    import_rl_restore(npz, tmp_path / "b")
    files = [sorted((p.name, p.read_bytes()) for p in (tmp_path / side).iterdir()) for side in "ab"]
    assert files[0] == files[1]
    assert [name for name, _ in files[0]] == ["rl_restore.json", "rl_restore.safetensors"]


def test_imported_tools_know_the_hash_of_their_weights(npz: Path, tmp_path: Path) -> None:
    tools = rl_restore_tools(import_rl_restore(npz, tmp_path))
    assert {tool.weights_sha256 for tool in tools} == {sha256(tmp_path / "rl_restore.safetensors")}
    assert len({tool.identity for tool in tools}) == 12
    mine = Path(str(files("conservator.weights"))) / "rl_restore.safetensors"
    assert {tool.weights_sha256 for tool in make_toolbox("rl-restore").values()} == {sha256(mine)}
    shutil.copy(mine, tmp_path / "own.safetensors")
    assert {t.weights_sha256 for t in make_toolbox(f"rl-restore:{tmp_path}/own.safetensors").values()} == {sha256(mine)}
    added = SpandrelTool(a_record(WeightsFile(name="net.pth", sha256="a" * 64)), tmp_path)
    assert added.weights_sha256 == "a" * 64


def test_changed_weights_are_the_pools_error_each_time(npz: Path, tmp_path: Path) -> None:
    tool = rl_restore_tools(import_rl_restore(npz, tmp_path))[0]
    weights, image = tmp_path / "rl_restore.safetensors", torch.full((1, 3, 40, 40), 0.5)
    right = weights.read_bytes()
    with LocalPool({"tool": tool}, max_batch=1) as pool:
        weights.write_bytes(right[:-1] + b"\0")
        for _ in range(2):
            with pytest.raises(PoolError, match=r"tool cannot be loaded: .*rl_restore.safetensors has changed"):
                pool.submit("tool", image).result()
        weights.unlink()
        with pytest.raises(PoolError, match=r"tool cannot be loaded: .*cannot be read"):
            pool.submit("tool", image).result()
        weights.write_bytes(right)
        assert pool.submit("tool", image).result().shape == image.shape


def test_a_network_that_needs_a_missing_package_is_the_pools_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    save_file({"weight": torch.zeros(1)}, tmp_path / "net.safetensors")
    record = a_record(WeightsFile(name="net.safetensors", sha256=sha256(tmp_path / "net.safetensors")))
    with LocalPool({"net": SpandrelTool(record, tmp_path)}) as pool:
        error = pool.submit("net", torch.full((1, 3, 40, 40), 0.5)).exception()
    assert isinstance(error, PoolError)
    assert isinstance(error.__cause__, MissingExtraError)
    assert "pip install 'conservator[spandrel]'" in str(error)


def test_the_imported_toolbox_is_found_by_name(npz: Path) -> None:
    with pytest.raises(ConservatorError, match="conservator tools import rl-restore"):
        make_toolbox("rl-restore:published")
    import_rl_restore(npz, user_tool_dir())
    assert [t.spec.name for t in imported_rl_restore_tools()] == [s.name for s in rl_restore_specs()]
    assert len(make_toolbox("rl-restore:published+user")) == 12


def test_weights_that_changed_are_refused(npz: Path, tmp_path: Path) -> None:
    tool = rl_restore_tools(import_rl_restore(npz, tmp_path))[0]
    with pytest.raises(ConservatorError, match="call setup"):
        tool(torch.zeros(1, 3, 40, 40))
    weights = tmp_path / "rl_restore.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ConservatorError, match="sha256"):
        tool.setup("cpu")
    weights.unlink()
    with pytest.raises(ConservatorError, match="cannot be read"):
        tool.setup("cpu")


def test_a_wrong_npz_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path, target = tmp_path / "x.npz", tmp_path / "tools"
    with pytest.raises(ConservatorError, match=r"x\.npz cannot be read"):
        import_rl_restore(path, target)
    for content in (b"", b"no archive", b"PK\x03\x04 broken", pickle.dumps({"tool01/conv1/weights": 1})):
        path.write_bytes(content)
        with pytest.raises(ConservatorError, match=r"not an \.npz file of plain arrays"):
            import_rl_restore(path, target)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ConservatorError, match="has no array 'tool01/conv1/weight"):
        import_rl_restore(path, target)
    np.savez(path, **{"tool01/conv1/weights": np.zeros((5, 5, 3, 32), np.float32)})
    with pytest.raises(ConservatorError, match=r"of shape \(32, 3, 5, 5\), expected"):
        import_rl_restore(path, target)
    np.savez(path, **{"tool01/conv1/weights": np.array([{}], dtype=object)}, allow_pickle=True)
    with pytest.raises(ConservatorError, match="plain arrays"):
        import_rl_restore(path, target)
    assert not target.exists()


@pytest.fixture
def checkpoints(shared: Path, spandrel_loads: None) -> Path:
    return shared / "anchors" / "spandrel"


@pytest.mark.slow
def test_a_gray_denoiser_becomes_a_tool(checkpoints: Path, astronaut: Image) -> None:
    record = json.loads(
        add_spandrel_tool(
            checkpoints / "dncnn_25.pth", removes={Kind.NOISE}, license="MIT", destination=user_tool_dir()
        ).read_text("utf-8")
    )
    assert record["weights"]["sha256"] == "0451a70de9b672ae037270498fbb1c17a1c1c4403785df586ff65df5b858e5b0"
    assert (record["architecture"], record["channels"], record["scale"]) == ("DnCNN", 1, 1)
    assert record["overlap"] >= 64  # 17 layers of 3x3 reach 17 pixels, and tiles need four times that
    (tool,) = user_tools()
    check_tool(tool)
    tool.setup("cpu")
    clean = astronaut[..., :200, :200]
    noisy = noise(clean, 25)
    assert psnr(tool(noisy), clean) > psnr(noisy, clean) + 8


@pytest.mark.slow
def test_a_super_resolver_enlarges_better_than_bicubic(checkpoints: Path, astronaut: Image) -> None:
    path = checkpoints / "ntire2024_craft_x4.pth"
    add_spandrel_tool(path, removes={Kind.LOW_RESOLUTION}, name="craft", destination=user_tool_dir())
    tool = make_toolbox("user")["craft"]
    assert (tool.spec.scale, tool.spec.multiple_of, tool.spec.license) == (4, 16, "unknown")
    tool.setup("cpu")
    clean = astronaut[..., :192, :184]
    small = bicubic_resize(clean, 0.25)
    assert psnr(tool(small), clean) > psnr(bicubic_resize(small, 4), clean) + 1


def test_a_checkpoint_of_nothing_known_is_refused(spandrel_loads: None, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ConservatorError, match=r"odd\.safetensors: spandrel does not know"):
        add_spandrel_tool(path, removes={Kind.NOISE}, destination=tmp_path / "tools")
    assert not (tmp_path / "tools").exists()


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"params": Malicious(trace)}, path)
    with pytest.raises(ConservatorError, match=r"evil\.pth is not a checkpoint of plain tensors"):
        add_spandrel_tool(path, removes={Kind.NOISE}, destination=user_tool_dir())
    assert not trace.exists()


def test_bad_additions_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")

    def add(**changes: object) -> None:
        options = {"removes": {Kind.NOISE}, "destination": user_tool_dir()} | changes
        add_spandrel_tool(path, **options)  # type: ignore[arg-type]

    with pytest.raises(ConservatorError, match=r"ends in \.pth"):
        add()
    with pytest.raises(ConservatorError, match="one kind at least: noise"):
        add(removes=())
    with pytest.raises(ConservatorError, match="small letters"):
        add(name="My Tool")
    with pytest.raises(ConservatorError, match="choose another"):
        add(name="rl_blur_1")
    with pytest.raises(ConservatorError, match="choose another"):
        add(name=next(iter(make_toolbox("classical"))))
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"\x80\x02 not a checkpoint")
        with pytest.raises(ConservatorError, match="not a checkpoint of plain tensors"):
            add()
    assert not user_tool_dir().exists()


def test_without_spandrel_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    monkeypatch.setitem(sys.modules, "spandrel", None)  # Python's own way to make an import fail
    with pytest.raises(MissingExtraError, match=r"pip install 'conservator\[spandrel\]'"):
        add_spandrel_tool(path, removes={Kind.NOISE}, destination=tmp_path)


def test_spandrel_tools_verify_their_file(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"another file")
    tool = SpandrelTool(a_record(WeightsFile(name="net.pth", sha256="0" * 64)), tmp_path)
    with pytest.raises(ConservatorError, match="sha256"):
        tool.setup("cpu")


def a_record(weights: WeightsFile) -> SpandrelRecord:
    return SpandrelRecord(
        name="net",
        removes=(Kind.NOISE,),
        architecture="DnCNN",
        license="MIT",
        channels=3,
        scale=1,
        multiple_of=1,
        tile=512,
        overlap=64,
        weights=weights,
        original="net.pth",
    )


def test_records_are_read_strictly(tmp_path: Path) -> None:
    assert user_tools() == ()
    folder = user_tool_dir()
    folder.mkdir(parents=True)
    path = folder / "net.json"
    good = a_record(WeightsFile(name="net.pth", sha256="0" * 64)).model_dump_json()
    path.write_text(good)
    (tool,) = user_tools()
    assert (tool.spec.name, tool.spec.removes, tool.spec.overlap) == ("net", {Kind.NOISE}, 64)
    assert "removes noise" in tool.spec.description.lower()
    for bad in ("{", "{}", good.replace('"net.pth"', '"../net.pth"', 1), good.replace('"scale":1', '"scale":"big"')):
        path.write_text(bad)
        with pytest.raises(ConservatorError, match=r"net\.json is not a record of a tool"):
            user_tools()


def test_the_folder_of_the_user(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_tool_dir() == own_home / "tools"
    monkeypatch.delenv("CONSERVATOR_HOME")
    assert user_tool_dir().parts[-2:] == ("conservator", "tools")
    assert user_tool_dir().is_absolute()


def test_kinds_from_a_command_line() -> None:
    assert parse_kinds("noise, jpeg") == {Kind.NOISE, Kind.JPEG}
    assert parse_kinds("Motion-Blur") == {Kind.MOTION_BLUR}
    with pytest.raises(NameNotFoundError, match="did you mean noise"):
        parse_kinds("nose")


MODULE = """
from conservator.degradations import Kind
from conservator.tools import Tool, ToolSpec

class Brighter(Tool):
    spec = ToolSpec("brighter", frozenset({Kind.LOW_LIGHT}), "Brightens.", "own", "MIT")
    def restore(self, image):
        return image.sqrt()

both = [Brighter(), Brighter()]
one = Brighter()
def make():
    return (Brighter(),)
def broken():
    raise OSError("the disk is gone")
wrong = [1]
"""


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Installs a package on the path that offers one entry point."""

    def install(value: str) -> None:
        (tmp_path / "offered_tools.py").write_text(MODULE)
        info = tmp_path / "offering-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[conservator.tools]\nmine = offered_tools:{value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "offered_tools", raising=False)

    return install


@pytest.mark.parametrize(("value", "count"), [("one", 1), ("Brighter", 1), ("make", 1), ("both", 2)])
def test_packages_offer_tools_by_entry_point(offer, value: str, count: int) -> None:  # type: ignore[no-untyped-def]
    offer(value)
    assert [tool.spec.name for tool in entry_point_tools()] == ["brighter"] * count


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken", "OSError: the disk is gone"),
        ("absent", "AttributeError"),
        ("wrong", "that gave a int, expected a Tool"),
    ],
)
def test_a_failing_entry_point_names_its_package(offer, value: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    offer(value)
    with pytest.raises(ConservatorError, match=f"the package offering offers tools as mine .*{reason}"):
        entry_point_tools()


def test_a_tool_is_removed_with_its_weights(tmp_path: Path) -> None:
    folder = user_tool_dir()
    folder.mkdir(parents=True)
    for name in ("mine.json", "mine.pth", "mine_too.json", "mine_too.pth"):
        (folder / name).write_text("{}" if name.endswith("json") else "weights")  # its record may be damaged
    assert {path.name for path in remove_tool("mine")} == {"mine.json", "mine.pth"}
    assert sorted(path.name for path in folder.iterdir()) == ["mine_too.json", "mine_too.pth"]
    with pytest.raises(ConservatorError, match="did you mean mine_too"):
        remove_tool("mine_to")
    with pytest.raises(ConservatorError, match="tv_denoise ships with Conservator and stays"):
        remove_tool("tv_denoise")


def test_what_a_package_offers_is_not_removed(offer) -> None:  # type: ignore[no-untyped-def]
    offer("one")
    with pytest.raises(ConservatorError, match="brighter is offered by an installed package"):
        remove_tool("brighter")

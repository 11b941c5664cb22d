"""LWay: what a photo went through is told and done again, and an upscaler adapted to it is the better for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.adapting import Manner
from conservator.degradations import (
    BlurredReduction,
    DefocusBlur,
    GaussianBlur,
    GaussianNoise,
    LineBlur,
    LowResolution,
    degrade,
)
from conservator.errors import ConservatorError
from conservator.image import Image, in_8_bits, to_array, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks.lway import DegradationTransfer, Reconstructor, answer, lesson
from conservator.networks.store import NetworkStore
from conservator.pool import LocalPool, MemoPool, listen, numbers_of
from conservator.pool.telling import heard_by
from conservator.record import load_record
from conservator.request import Request
from conservator.resample import bicubic_to
from conservator.restorer import Restorer
from conservator.session.scope import Scope
from conservator.tools import Toolbox, check_tool, make_toolbox
from conservator.tools.degraded import detail, load_transfer, look_at
from conservator.tools.experts import Shipped
from conservator.tools.lway import AdaptedTool, adapt, bounded
from conservator.tools.periodic import periodicity
from conservator.training.data.crops import Photos
from conservator.training.experts.lway import Transfers, adapt_to_collection, spread, train_transfer
from conservator.training.experts.order import CollectionOrder, TransferOrder
from conservator.training.run import checkpoint_identity


def crop(picture: np.ndarray, top: int, left: int, side: int) -> Image:
    return to_image(np.ascontiguousarray(picture[top : top + side, left : left + side]))


@pytest.fixture(scope="module")
def large() -> Image:
    return crop(data.astronaut(), 0, 120, 256)


@pytest.fixture(scope="module")
def soft(large: Image) -> Image:
    """Half as large, through a blur of 1.2 pixels that no upscaler was told of."""
    return in_8_bits(degrade(large, (BlurredReduction(2, 1.2, 1.2, 0.0),)))


@pytest.fixture(scope="module")
def transfer() -> DegradationTransfer:
    return load_transfer(NetworkStore(), "cpu")


@pytest.fixture(scope="module")
def tools() -> Toolbox:
    found = bounded(make_toolbox("conservator").only("upscale_x2", "upscale_x2_adapted"), 15)
    for tool in found.values():
        tool.setup("cpu")
    return found


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("along", "across", "angle"), [(2.0, 2.0, 0.0), (3.0, 1.0, 30.0), (2.5, 0.8, -60.0)])
def test_a_blur_told_in_three_numbers_is_that_blur(
    large: Image, scale: int, along: float, across: float, angle: float
) -> None:
    large = large[..., :252, :252]
    turn = np.radians(angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    root = axes @ np.diag([along, across]) @ axes.T / scale
    numbers = torch.tensor([[root[0, 0], root[1, 1], root[0, 1]]], dtype=torch.float32)
    kernel = Reconstructor().kernels(numbers, scale)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    network = Reconstructor()
    network.spread = lambda code: numbers  # type: ignore[method-assign]
    small = network.reduced(large, torch.zeros(1, 64), scale)
    wanted = degrade(large, (BlurredReduction(scale, along, across, angle),))
    inside = (..., slice(8, -8), slice(8, -8))
    assert float((small - wanted)[inside].abs().max()) < 3 / 255
    plain = degrade(large, (LowResolution(scale),))
    assert float((plain - wanted)[inside].abs().max()) > 20 / 255


def test_a_network_that_has_learned_nothing_leaves_what_is_reduced_alone(large: Image) -> None:
    network = Reconstructor()
    network.spread = lambda code: torch.zeros(1, 3)  # type: ignore[method-assign]
    with torch.no_grad():
        small = network(large, torch.randn(1, 64), 2)
    assert float((small - degrade(large, (LowResolution(2),))).abs().max()) < 2 / 255


def test_the_numbers_of_a_blur_are_its_standard_deviations() -> None:
    assert spread((GaussianBlur(1.2),), 2)[0].tolist() == pytest.approx([0.6, 0.6, 0], abs=1e-3)
    assert spread((), 4)[0].tolist() == [0, 0, 0]
    assert spread((DefocusBlur(6, 0.1),), 2)[0, :2].tolist() == pytest.approx([1.5, 1.5], abs=0.06)
    across, along, slant = spread((LineBlur(12, 90, 0.0), GaussianBlur(1)), 2)[0].tolist()
    assert (across, along, slant) == pytest.approx((0.5, np.sqrt((12 / np.sqrt(12)) ** 2 + 1) / 2, 0), abs=0.03)


def test_lessons_come_apart_again(large: Image) -> None:
    network = DegradationTransfer()
    shown = degrade(large, (LowResolution(2),))
    large = large[..., 100:228, :128]
    pair = lesson(shown, large)
    assert pair.shape == (1, 12 + 12, 64, 64)
    made = network(pair)
    code = network.encoder(shown)
    parts = network.reconstructor(large, code, 2), network.reconstructor.spread(code)
    assert torch.allclose(made, answer(*parts, network.reconstructor.deviation(code)), atol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    for name in ("astronaut", "coffee", "rocket", "chelsea"):
        PillowImage.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return folder


def test_a_lesson_shows_the_degradation_that_it_asks_for(clean: Path) -> None:
    photos = Photos(clean)
    for scale, side in ((2, 64), (4, 48)):
        given, wanted = Transfers(photos.training, 1, 0, 10).pair(np.random.default_rng(3), scale)
        assert given.shape == (1, 12 + 3 * scale**2, side, side)
        assert wanted.shape == (3, 3, side, side)
        assert bool((255 * wanted[0] == (255 * wanted[0]).round()).all()), "a file holds 8 bits"
        assert wanted[1].std((1, 2)).tolist() == [0, 0, 0]


@pytest.mark.slow
def test_a_short_training_learns_to_make_photos_again(clean: Path, tmp_path: Path) -> None:
    order, asked = TransferOrder(clean, tmp_path, steps=24, workers=0), iter(range(100))
    begun = train_transfer(order, lambda line: None, stop=lambda: next(asked) >= 3)
    assert begun.steps == 3
    trained = train_transfer(order, lambda line: None)
    assert trained.steps == 24
    assert trained.psnr_out > begun.psnr_out + 0.1
    assert (checkpoint_identity(tmp_path / "lway") or {})["network"] == "lway"


# --- what ships -------------------------------------------------------------------------------------------------------


def test_the_encoder_tells_blur_and_noise(transfer: DegradationTransfer, large: Image) -> None:
    def seen(sigma: float, noise: float = 0.0) -> tuple[float, float]:
        small = degrade(large, (BlurredReduction(2, sigma, sigma, 0.0), GaussianNoise(noise / 255, 1)))
        degraded = look_at(in_8_bits(small), transfer)
        return 2 * degraded.blur, 255 * float(degraded.noise.mean())

    blurs = [seen(sigma)[0] for sigma in (0.0, 1.0, 2.0)]
    assert blurs[0] < 0.3
    assert blurs[1:] == pytest.approx([1, 2], abs=0.4)
    noises = [seen(1.0, noise)[1] for noise in (0, 5, 10)]
    assert noises[0] < 1.5
    assert noises[1] == pytest.approx(5, abs=2)
    assert noises[2] == pytest.approx(10, abs=3)


def test_parts_of_one_photo_have_more_alike_codes_than_other_damages(transfer: DegradationTransfer) -> None:
    within, between = [], []
    for photo in (data.astronaut(), data.coffee(), data.rocket()):
        codes = []
        for recipe in (
            (LowResolution(2),),
            (BlurredReduction(2, 1.6, 1.6, 0.0),),
            (LowResolution(2), GaussianNoise(0.04, 3)),
        ):
            small = in_8_bits(degrade(to_image(photo), recipe))[..., :192]
            codes.append(torch.cat([transfer.encoder(part) for part in (small[..., :96], small[..., 96:])]))
        within += [float((pair[0] - pair[1]).norm()) for pair in codes]
        between += [float((codes[i][k] - codes[j][k]).norm()) for i, j in ((0, 1), (0, 2), (1, 2)) for k in (0, 1)]
    assert np.mean(within) < 0.6 * np.mean(between)


def test_an_adapted_upscaler_gains_on_a_blurred_photo(tools: Toolbox, soft: Image, large: Image) -> None:
    alone, adapted = (tool(soft) for tool in tools.values())
    assert psnr(adapted, large) > psnr(alone, large) + 0.5
    assert torch.equal(adapted, tools["upscale_x2_adapted"](soft)), "the same photo, the same bytes"
    assert torch.equal(alone, tools["upscale_x2"](soft)), "the network that ships stays as it is"


def test_nothing_is_adapted_to_a_photo_that_was_only_reduced(tools: Toolbox, large: Image) -> None:
    small = in_8_bits(degrade(large, (LowResolution(2),)))
    alone, adapted = (psnr(tool(small), large) for tool in tools.values())
    assert adapted == pytest.approx(alone, abs=0.05)


def test_a_noisy_photo_is_not_sharpened_into_more_noise(tools: Toolbox, large: Image) -> None:
    noisy = in_8_bits(degrade(large, (BlurredReduction(2, 1.2, 1.2, 0.0), GaussianNoise(8 / 255, 2))))
    alone, adapted = (psnr(tool(noisy), large) for tool in tools.values())
    assert adapted > alone + 0.3


def test_the_tool_holds_what_every_tool_must() -> None:
    check_tool(bounded(make_toolbox("conservator"), 2)["upscale_x2_adapted"])


@pytest.mark.parametrize("size", [(1, 1), (9, 40), (25, 31), (47, 160)])
def test_photos_of_any_size_are_enlarged(tools: Toolbox, size: tuple[int, int]) -> None:
    photo = crop(data.coffee(), 100, 100, 200)[..., : size[0], : size[1]]
    made = bounded(tools, 3)["upscale_x2_adapted"]
    made.setup("cpu")
    assert made(photo).shape == (1, 3, 2 * size[0], 2 * size[1])


def test_detail_is_where_the_edges_are() -> None:
    picture = torch.full((1, 3, 64, 64), 0.5)
    picture[..., 32:] = 0.9
    picture[..., 20] = 0.1
    weights = detail(picture)
    assert float(weights[..., 16:24].amax()) == 1
    assert float(weights[..., 40:].amax()) < 0.05
    assert float(detail(torch.full((1, 3, 33, 20), 0.3)).amax()) == 0


def test_only_a_large_photo_is_looked_at_in_parts(
    transfer: DegradationTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    inner = transfer.encoder.forward
    monkeypatch.setattr(transfer.encoder, "forward", lambda x: shapes.append(x.shape[-2:]) or inner(x))
    look_at(torch.rand(1, 3, 300, 400, generator=torch.Generator().manual_seed(0)), transfer)
    assert shapes == [(300, 400)]
    shapes.clear()
    photo = torch.full((1, 3, 1600, 2100), 0.5)
    photo[..., 512:1024, 1024:1536] = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
    look_at(photo, transfer)
    assert len(shapes) == 7
    assert set(shapes) == {(512, 512)}


def stripes(period: float, contrast: float = 0.8) -> Image:
    """Slanting ones, sharp; period in pixels of the large picture."""
    y, x = np.mgrid[:240, :240]
    wave = 0.5 + 0.5 * contrast * np.sin(2 * np.pi * (0.9 * x + 0.4 * y) / period)
    return to_image(wave.astype(np.float32))


def checks(width: int, height: int) -> Image:
    """Black and white ones."""
    y, x = np.mgrid[:240, :240]
    return to_image(((x // width + y // height) % 2).astype(np.float32))


UNTOLD = {
    "flat": torch.full((1, 3, 90, 120), 0.4),
    "tiny": crop(data.coffee(), 100, 100, 20),
    "stripes": in_8_bits(degrade(stripes(7), (LowResolution(2),))),
    "fine stripes": in_8_bits(degrade(stripes(4.5), (LowResolution(2),))),
    "checks": in_8_bits(degrade(checks(4, 16), (LowResolution(2),))),
}


@pytest.mark.parametrize("picture", sorted(UNTOLD))
def test_what_tells_no_blur_is_not_adapted_to(tools: Toolbox, picture: str) -> None:
    heard: dict[str, float] = {}
    with heard_by(heard.update):
        made = tools["upscale_x2_adapted"](UNTOLD[picture])
    assert torch.equal(made, tools["upscale_x2"](UNTOLD[picture]))
    assert heard["of"] == 0
    assert "won" not in heard


def test_patterns_repeat_and_photos_do_not() -> None:
    def repeats(image: Image) -> float:
        parts = image[..., :192, :192].unfold(2, 48, 48).unfold(3, 48, 48)
        return periodicity(parts.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 48, 48))

    noise = torch.rand(1, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    for pattern in (stripes(3), stripes(9, 0.2), stripes(20), checks(5, 5), checks(3, 9)):
        assert repeats(pattern) > 0.75
        assert repeats((pattern + 0.04 * (noise - 0.5)).clamp(0, 1)) > 0.6
    for photo in (data.astronaut(), data.coffee(), data.page(), data.brick(), data.grass()):
        assert repeats(to_image(photo)) < 0.35
    assert repeats(noise) < 0.35
    assert repeats(torch.full((1, 3, 192, 192), 0.5)) == 0


def test_nothing_changes_where_nothing_was_won(transfer: DegradationTransfer, soft: Image) -> None:
    network = make_toolbox("experts")["upscale_x2"].network(NetworkStore(), "cpu")  # type: ignore[attr-defined]
    degraded = look_at(soft, transfer)
    idle = adapt(network, 2, [degraded], transfer, Manner(iterations=0))
    assert idle.network is network
    assert not idle.won
    assert idle.after == idle.before


# --- in the program ---------------------------------------------------------------------------------------------------


def test_a_pool_passes_on_what_a_tool_tells(soft: Image) -> None:
    few = bounded(make_toolbox("conservator").only("upscale_x2_adapted"), 6)
    heard: list[float] = []
    with MemoPool(LocalPool(few)) as pool:
        call = pool.submit("upscale_x2_adapted", soft)
        listen(call, lambda numbers: heard.append(numbers["iteration"]))
        call.result()
        again = pool.submit("upscale_x2_adapted", soft)
        again.result()
        assert pool.hits == 1
    assert heard[-1] == 6
    assert heard == sorted(heard)
    numbers = numbers_of(call)
    assert {
        *("iteration", "of", "blur_in_pixels", "noise_in_levels", "pattern"),
        *("squared_error_before", "squared_error_after", "won", "seconds"),
    } == set(numbers)
    assert numbers["squared_error_after"] < numbers["squared_error_before"]
    assert numbers_of(again) == numbers, "what is remembered still tells how it was made"


def test_the_share_of_the_blur_that_is_removed_depends_on_the_scale_unless_it_is_given() -> None:
    assert [Manner().share(scale) for scale in (2, 4)] == [0.6, 0.8]
    assert [Manner(trust=0.0).share(scale) for scale in (2, 4)] == [0.0, 0.0]
    assert str(Manner(anchor=0.0, trust=1.0)) == "anchor=0.0, trust=1.0"
    assert not Manner().changed()


def test_adapting_is_the_users_to_allow() -> None:
    spec = make_toolbox("conservator")["upscale_x2_adapted"].spec
    assert not Scope.of(Request(upscale=True)).offers(spec)
    assert not Scope.of(Request(upscale=True, adapt_steps=0)).offers(spec)
    assert not Scope.of(Request(adapt_steps=20)).offers(spec)
    assert Scope.of(Request(upscale=True, adapt_steps=20)).offers(spec)
    with pytest.raises(ConservatorError, match="adapt_steps is -1, expected 0 or more"):
        Request(adapt_steps=-1)


def test_a_policy_enlarges_by_the_adapted_tool_where_that_is_allowed(soft: Image) -> None:
    from conservator.photo import Photo

    few = make_toolbox("conservator").only("upscale_x2", "upscale_x2_adapted", "denoise_light")
    chosen = {}
    for steps in (None, 3):
        with Restorer(
            Request("greedy", risk=1, upscale=True, adapt_steps=steps, only=frozenset({"low_resolution"})), toolbox=few
        ) as r:  # type: ignore[arg-type]
            chosen[steps] = r.restore(Photo(soft)).toolchain
    assert chosen == {None: ("upscale_x2",), 3: ("upscale_x2_adapted",)}


def test_the_record_keeps_how_it_went_and_replays(soft: Image, tmp_path: Path) -> None:
    photo = tmp_path / "soft.png"
    PillowImage.fromarray(to_array(soft, np.uint8)).save(photo)
    steps = ("--adapt-steps", 5, "--report")
    done = conservator("apply", photo, "--tools", "upscale_x2_adapted", *steps, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "as asked" in done.stdout
    assert "by estimate" not in done.stdout, "there is nothing that an enlarged photo could be compared with"
    path = next((tmp_path / "out").glob("*.json"))
    numbers = load_record(path).treatments[0].numbers
    assert numbers["of"] == 5
    assert 0 < numbers["iteration"] <= 5
    assert 0.3 < numbers["blur_in_pixels"] < 0.9
    page = next((tmp_path / "out").glob("*.html")).read_text()
    assert "The tool says" in page
    assert f"blur in pixels {numbers['blur_in_pixels']:g}" in page
    again = conservator("replay", path)
    assert again.returncode == 0, again.stdout + again.stderr
    for command, why in (
        (("restore", photo, *steps), "allow them by --upscale"),
        (("apply", photo, "--tools", "denoise_light", *steps), "name one, say upscale_x2_adapted"),
    ):
        idle = conservator(*command, "-o", tmp_path / "none")
        assert idle.returncode == 2
        assert why in idle.stderr


def test_a_collection_gives_a_tool_of_ones_own(soft: Image, large: Image, tmp_path: Path, own_home: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, picture in enumerate((data.astronaut()[256:], data.coffee()[:256, :256])):
        small = degrade(to_image(np.ascontiguousarray(picture)), (BlurredReduction(2, 1.2, 1.2, 0.0),))
        PillowImage.fromarray(to_array(small, np.uint8)).save(folder / f"{number}.png")
    told_of = conservator("adapt", "lway", "--photos", folder, "--name", "my_scanner", "--iterations", 20)
    assert told_of.returncode == 0, told_of.stderr
    assert "0.png: blur of 0." in told_of.stdout
    mine = make_toolbox("user")
    assert set(mine) == {"my_scanner", "my_scanner_adapted"}
    tool = mine["my_scanner"]
    tool.setup("cpu")
    plain = make_toolbox("conservator")["upscale_x2"]
    plain.setup("cpu")
    assert psnr(tool(soft), large) > psnr(plain(soft), large) + 0.3, "what is like the collection is enlarged better"
    for wrong, why in (
        ({"name": "upscale_x2"}, "cannot be called 'upscale_x2'"),
        ({"name": "my_scanner"}, "there is a tool my_scanner of yours already"),
        ({"name": "mine_adapted"}, "names in _adapted are those of adapted twins"),
        ({"name": "other", "tool": "upscale_x2_adapted"}, "upscale_x2_adapted is no upscaler that can be adapted"),
        (
            {"name": "other", "tool": "denoise_light"},
            "denoise_light is no upscaler that can be adapted; choose from upscale_x4",
        ),
    ):
        with pytest.raises(ConservatorError, match=why):
            adapt_to_collection(CollectionOrder(folder, **wrong), own_home)  # type: ignore[arg-type]
    sharp = tmp_path / "sharp"
    sharp.mkdir()
    PillowImage.fromarray(to_array(bicubic_to(large, 128, 128), np.uint8)).save(sharp / "0.png")
    PillowImage.fromarray(to_array(bicubic_to(large, 16, 16), np.uint8)).save(sharp / "1.png")
    PillowImage.fromarray(np.full((80, 90, 3), 99, np.uint8)).save(sharp / "2.png")
    (sharp / "3.png").write_bytes((sharp / "0.png").read_bytes()[:400])
    told: list[str] = []
    with pytest.raises(ConservatorError, match=r"no photo of .* shows a blur"):
        adapt_to_collection(CollectionOrder(sharp, "other"), own_home, told.append)
    assert told[0].startswith("0.png: blur of 0.")
    assert told[0].endswith("; left out, it is sharp")
    assert told[1:3] == ["1.png: left out, it has fewer than 64 pixels a side", "2.png: left out, it is flat"]
    assert told[3].startswith("3.png: left out, cannot read")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConservatorError, match="holds no photos"):
        adapt_to_collection(CollectionOrder(empty, "other"), own_home)


def test_the_hash_of_its_weights_tells_of_both_networks() -> None:
    tool = make_toolbox("conservator")["upscale_x2_adapted"]
    other = AdaptedTool(make_toolbox("experts")["upscale_x2"], weights=Shipped("denoise_light"))  # type: ignore[arg-type]
    assert len({tool.weights_sha256, other.weights_sha256, make_toolbox("experts")["upscale_x2"].weights_sha256}) == 3
    assert tool.identity != bounded(make_toolbox("conservator"), 3)["upscale_x2_adapted"].identity


def test_only_what_enlarges_can_be_adapted() -> None:
    with pytest.raises(ConservatorError, match="denoise_light does not enlarge"):
        AdaptedTool(make_toolbox("experts")["denoise_light"])  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_bench_compares_photo_by_photo_and_resumes(tmp_path: Path, large: Image) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    PillowImage.fromarray(to_array(large[..., :128, :128], np.uint8)).save(folder / "a.png")
    asked = ("bench", "lway", folder, "-o", output, "--only", "bicubic", "--only", "blur 1.2", "--iterations", 4)
    first = conservator(*asked)
    assert first.returncode == 0, first.stderr
    before = (output / "results.csv").read_bytes()
    assert len(before.splitlines()) == 1 + 2 * 3
    assert "upscale_x2, alone and adapted" in (output / "summary.md").read_text()
    assert conservator(*asked).stdout.count(" dB, ") == 0
    assert (output / "results.csv").read_bytes() == before
    assert conservator(*asked, "--together", "--anchor", 0).returncode == 0
    assert "upscale_x2, alone and adapted (together, iterations=4, anchor=0.0)" in (output / "summary.md").read_text()
    assert len((output / "results.csv").read_bytes().splitlines()) == 1 + 2 * 3 + 2
    wrong = conservator("bench", "lway", folder, "-o", output, "--only", "fog")
    assert wrong.returncode == 2
    assert "no condition fog" in wrong.stderr

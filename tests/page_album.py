"""A folder of small photos with names that mean harm, and what a batch makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from skimage import data

from conservator.batch import JOURNAL, FileRestorer, Journal, find_tasks, run_batch, save_index
from conservator.degradations import degrade, parse_recipe
from conservator.image import to_array, to_image
from conservator.perception import StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.perception.risk import Admission
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import make_toolbox

SEEING = RememberingPerception(StatisticalPerception.load())

NAMES = ["$(touch owned) `id` 'x' \"y\".png", "-rf <!--<script>alert(1) & ;.jpg", "javascript:alert(1).png"]
NESTED = "sub/a#b?c%20.png"


def make_album(folder: Path) -> Path:
    """Photos of much noise, little noise and none, one in a subfolder, and one that is cut off."""
    photo = data.coffee()[:160, :200]
    recipes = ("noise:high", "noise:low")
    noisy, weak = (to_array(degrade(to_image(photo), parse_recipe(recipe, 1)), np.uint8) for recipe in recipes)
    for name, picture in zip(NAMES, (noisy, weak, data.astronaut()[:160, :200]), strict=True):
        PillowImage.fromarray(picture).save(folder / name)
    (folder / NESTED).parent.mkdir()
    PillowImage.fromarray(noisy[::-1]).save(folder / NESTED)
    (folder / "broken.jpg").write_bytes((folder / NAMES[1]).read_bytes()[:2000])
    return folder


def restore_album(
    album: Path, output: Path, resume: bool = False, admission: Admission | None = None, **wanted: Any
) -> Path | None:
    """Restore a folder with its pages, held to an ``admission`` if there is one; the page of the folder."""
    request = Request(**{"policy": "rules", "toolbox": "classical", "risk": 1} | wanted)
    tools = make_toolbox("classical").only("wavelet_denoise")
    with Restorer(request, toolbox=tools, perception=SEEING, admission=admission) as restorer:
        journal = Journal(output / JOURNAL)
        files = FileRestorer(restorer, report=True)
        summary = run_batch(find_tasks([album], output).tasks, files, journal, resume=resume)
        return save_index(output, journal, summary)

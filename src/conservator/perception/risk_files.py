"""Risk thresholds on disk: those that ship, and those that a user made of photos of their own.

A safetensors file. Of each objective it holds three tensors of float64: ``balanced.thresholds`` (N,), doubts that
ascend from 0, ``balanced.harmed`` (N,), how many photos came out worse at each or a lower one, and
``balanced.errors`` (N, 2), bounds of the true gain less the estimated one in dB, NaN where unknown. Its metadata are
the ``format``, how many ``photos`` there were, the ``policy`` and the ``toolbox`` that restored them, and
``made_with``, the hashes of the weights that these thresholds are of, as a JSON object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.files import replacing
from conservator.kinds import OBJECTIVES, Objective
from conservator.perception.risk import RiskControl, RiskCurve
from conservator.weights import load_weights, parse_weights

SUFFIX = ".safetensors"
_FORMAT = "conservator risk 3"
"""Its number is that of the formula of doubts (risk.DOUBT)."""
_TENSORS = ("thresholds", "harmed", "errors")
_AGAIN = "make it again with conservator calibrate"


def load_risk(weights: str | Path = "risk") -> RiskControl:
    """Read risk thresholds: those of the package by their name, or those of a file by its path.

    Raises NameNotFoundError for an unknown name, ConservatorError for a file that cannot be read, or that holds no risk
    thresholds.
    """
    if isinstance(weights, Path) or Path(weights).suffix == SUFFIX:
        where, name = str(weights), str(weights)
        tensors, metadata = parse_weights(_bytes(Path(weights)), where)
    else:
        where, name = f"the shipped file of weights {weights}", weights
        tensors, metadata = load_weights(weights)
    try:
        return _control(tensors, metadata, name)
    except (KeyError, TypeError, ValueError) as error:
        raise ConservatorError(f"{where} holds no risk thresholds of this version ({error}); {_AGAIN}") from None


def save_risk(control: RiskControl, path: Path) -> None:
    """Write risk thresholds as a file, whole or not at all; an older one is replaced."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save(*stored_risk(control)))


def stored_risk(control: RiskControl) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file of risk thresholds."""
    tensors = {}
    for objective, curve in control.curves.items():
        tensors[f"{objective}.thresholds"] = torch.tensor(curve.thresholds, dtype=torch.float64)
        tensors[f"{objective}.harmed"] = torch.tensor(curve.harmed, dtype=torch.float64)
        errors = [curve.errors_at(threshold) or (math.nan, math.nan) for threshold in curve.thresholds]
        tensors[f"{objective}.errors"] = torch.tensor(errors, dtype=torch.float64)
    photos = {curve.photos for curve in control.curves.values()}
    if len(photos) != 1:
        raise ConservatorError(
            f"the objectives were calibrated with {sorted(photos)} photos, expected as many for each"
        )
    return tensors, {
        "format": _FORMAT,
        "photos": str(photos.pop()),
        "policy": control.policy,
        "toolbox": control.toolbox,
        "made_with": json.dumps(dict(control.made_with)),
    }


def _control(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> RiskControl:
    """What a file holds; KeyError, TypeError or ValueError, which says what is wrong, where it is not of this kind."""
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, expected {_FORMAT!r}")
    if lacking := {"photos", "policy", "toolbox", "made_with"} - metadata.keys():
        raise ValueError(f"it does not say its {', '.join(sorted(lacking))}")
    photos, made_with = int(metadata["photos"]), json.loads(metadata["made_with"])
    if not isinstance(made_with, dict) or not all(isinstance(value, str) for value in made_with.values()):
        raise ValueError("made_with is no table of hashes")
    held = [objective for objective in OBJECTIVES if f"{objective}.thresholds" in tensors]
    if tensors.keys() != {f"{objective}.{what}" for objective in held for what in _TENSORS} or not held:
        raise ValueError(f"its tensors are {', '.join(sorted(tensors)) or 'none'}")
    curves: dict[Objective, RiskCurve] = {objective: _curve(tensors, objective, photos) for objective in held}
    return RiskControl(curves, metadata["policy"], metadata["toolbox"], made_with, name)


def _curve(tensors: Mapping[str, Tensor], objective: str, photos: int) -> RiskCurve:
    thresholds, harmed, errors = (tensors[f"{objective}.{what}"].double() for what in _TENSORS)
    shapes = [tuple(tensor.shape) for tensor in (thresholds, harmed, errors)]
    if shapes != [(len(thresholds),), (len(thresholds),), (len(thresholds), 2)] or not len(thresholds):
        raise ValueError(f"the {', '.join(_TENSORS)} of {objective} have shapes {shapes}")
    whole = torch.isfinite(thresholds).all() and torch.isfinite(harmed).all()
    if not (whole and thresholds[0] == 0 and thresholds[-1] <= 1 and (thresholds.diff() > 0).all()):
        raise ValueError(f"the thresholds of {objective} do not ascend from 0 to 1 at most")
    if not (harmed[0] >= 0 and harmed[-1] <= photos and (harmed.diff() >= 0).all()):
        raise ValueError(f"how many photos {objective} harmed does not ascend from 0 to {photos} at most")
    if not ((errors[:, 0] <= errors[:, 1]) & errors.isfinite().all(1) | errors.isnan().all(1)).all():
        raise ValueError(f"the errors of {objective} are no bounds")
    bounds = tuple(None if math.isnan(low) else (low, high) for low, high in errors.tolist())
    bounds = bounds if any(bounds) else ()
    return RiskCurve(photos, tuple(thresholds.tolist()), tuple(harmed.tolist()), bounds)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConservatorError(f"{path} cannot be read: {error.strerror}; give a file of risk thresholds") from error

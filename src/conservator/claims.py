"""Whose a folder of a run is: it belongs to what the run was made from, known by content and not by name.

Trainings, their sets of samples, planner data and benchmark results are claimed alike: photos, tools and weights by
hash, settings by value, versions beside them, for they are told and not compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conservator.errors import ConservatorError
from conservator.files import sha256, write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLAIM = "settings.json"
"""The file that says whose a folder is."""
HASHES = ".hashes.json"
"""The file in a run's folder that keeps the hashes of its photos."""
_CONTENTS = {"photos": "photo", "tools": "tool", "weights": "weights"}
_NAMED = 4  # differences that an error names before it counts the rest
_SETTLED = 2 * 10**9  # ns; a file that changed later than this before it was hashed may change again unseen


@dataclass(frozen=True)
class Identity:
    """What a run is made from. Two runs with equal identities make the same, but for versions and machines."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values that JSON can hold; paths are strings, sets are sorted lists."""
    photos: Mapping[str, str] = field(default_factory=dict)
    """Path within its folder -> sha256 (hex) of the file."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Name -> hash of what the tool is and of its weights."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 (hex) of the file."""

    @classmethod
    def of(cls, settings: DataclassInstance | Mapping[str, Any], **contents: Mapping[str, str]) -> Identity:
        """The identity of settings, a dataclass or a mapping, and of ``photos``, ``tools`` and ``weights``."""
        values = settings if isinstance(settings, Mapping) else dataclasses.asdict(settings)
        return cls(json.loads(json.dumps(dict(values), default=_plain)), **contents)

    def facts(self) -> dict[str, str]:
        """All of it as text by name: "seed" -> "0", "photo a.png" -> its hash."""
        found = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.settings.items()}
        for group, one in _CONTENTS.items():
            found |= {f"{one} {name}": value for name, value in getattr(self, group).items()}
        return found

    def digest(self) -> str:
        """A short hash (16 hex digits): another identity, another digest; for the name of a folder."""
        return hashlib.sha256(json.dumps(sorted(self.facts().items())).encode()).hexdigest()[:16]


def claim(folder: Path, identity: Identity, beside: Mapping[str, str] | None = None) -> None:
    """Make ``folder`` the run's: write ``settings.json`` into it, or find that it is the run's already.

    ``beside`` is written with the versions and the commit, the first time, and never compared; the commit of a run that
    goes on with other source is added. Raises ConservatorError, which names what differs, the old and the new, for the
    folder of another run.
    """
    path = folder / CLAIM
    commit = source_commit()
    if path.exists():
        found, about = read_claim(folder)
        check_same(folder, found.facts(), identity.facts())
        if commit is None or commit in about.get("commits", []):
            return
    else:
        folder.mkdir(parents=True, exist_ok=True)
        about = {**(beside or {}), "versions": package_versions(), "started": time.strftime("%Y-%m-%d")}
    about = about | {"commits": [*about.get("commits", []), *([commit] if commit else [])]}
    write_text(path, json.dumps(dataclasses.asdict(identity) | {"beside": about}, indent=2) + "\n")


def read_claim(folder: Path) -> tuple[Identity, dict[str, Any]]:
    """Whose a folder is, and what was written beside; ConservatorError where nobody's, or an older version's."""
    path = folder / CLAIM
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConservatorError(f"{path} cannot be read ({error}); give the folder of a run") from error
    try:
        beside = found.pop("beside")
        return Identity(**found), beside
    except (AttributeError, KeyError, TypeError) as error:
        raise ConservatorError(
            f"{path} was written by an older version, and of which photos and tools is not recorded; use another folder"
        ) from error


def check_same(where: Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ConservatorError, which names what differs, unless two runs' facts are equal."""
    other = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if not other:
        return
    told = [f"{key} {_value(key, was)}, now {_value(key, now)}" for key in other[:_NAMED]]
    if len(other) > _NAMED:
        told.append(f"and {len(other) - _NAMED} more")
    raise ConservatorError(f"{where} belongs to a run with {'; '.join(told)}; use the same settings or another folder")


def package_versions() -> dict[str, str]:
    """Of what computes: this package and torch."""
    return {name: version(name) for name in ("conservator", "torch")}


@cache
def source_commit() -> str | None:
    """The commit of this package's source, "+" after it where files differ from it; None where it is no checkout."""
    source = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", source, *words], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", Path(__file__).name):  # a package that is merely installed below a checkout is not its
        return None
    commit = git("rev-parse", "--short=10", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--", ".") else "")


def hashes_of(paths: Sequence[Path], root: Path, cache: Path | None = None) -> dict[str, str]:
    """The sha256 (hex) of each file by its path within ``root``.

    ``cache`` is a run's folder that keeps them: a file of the same size and times of change is not read again. One that
    had changed less than two seconds before it was read is read again, for it may have changed once more unseen.
    """
    kept = _read_cache(cache)
    found: dict[str, str] = {}
    fresh: dict[str, list[Any]] = {}
    for path in paths:
        facts, now = path.stat(), time.time_ns()
        stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        known = kept.get(str(path.resolve()), [])
        value = known[3] if known[:3] == stamp else sha256(path)
        found[path.relative_to(root).as_posix()] = value
        if now - max(facts.st_mtime_ns, facts.st_ctime_ns) > _SETTLED:
            fresh[str(path.resolve())] = [*stamp, value]
    if cache is not None and any(kept.get(key) != value for key, value in fresh.items()):
        cache.mkdir(parents=True, exist_ok=True)
        write_text(cache / HASHES, json.dumps(kept | fresh))
    return found


def _read_cache(folder: Path | None) -> dict[str, list[Any]]:
    """What a run's folder knows: path -> size in bytes, two times of change in ns, hash. Nothing if unreadable."""
    if folder is None or not (folder / HASHES).exists():
        return {}
    try:
        found = json.loads((folder / HASHES).read_text("utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _value(key: str, facts: Mapping[str, str]) -> str:
    if key not in facts:
        return "not there"
    return facts[key][:8] if key.split(" ")[0] in _CONTENTS.values() and " " in key else facts[key]


def _plain(value: object) -> object:
    """What JSON does not know: sets are sorted, everything else is text."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)

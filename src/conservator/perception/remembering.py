"""A perception that examines each picture once: for rollouts, and for data, that come to a picture again and again."""

from __future__ import annotations

from conservator.image import Image, digest
from conservator.kinds import Kind
from conservator.perception.perception import Gain, Look, Percept, Perception


class RememberingPerception(Perception):
    """Grades and weighs as the perception beneath does, and remembers both by the digests of the pictures.

    A percept takes a few kilobytes, its picture is not kept.
    """

    def __init__(self, perception: Perception) -> None:
        self._perception, self._seen = perception, dict[str, Percept]()
        self._weighed = dict[tuple[str, str, frozenset[Kind]], Gain]()

    def grade(self, image: Image) -> Percept:
        """What the perception beneath says, the first time or then."""
        key = digest(image)
        if key not in self._seen:
            self._seen[key] = self._perception.grade(image)
        return self._seen[key]

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """What the perception beneath says."""
        key = digest(before.image), digest(after.image), treated
        if key not in self._weighed:
            self._weighed[key] = self._perception.weigh(before, after, treated)
        return self._weighed[key]

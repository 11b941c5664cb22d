"""Perceptual feedback: a vision-language model says how good a picture looks, and a step is paid for what it raised.

The model is asked in DeQA-Score's manner (You et al., CVPR 2025, arXiv 2501.11561): after "The quality of the image is"
five words may come, excellent to bad, and the score is what they are worth by their probabilities. DeQA-Score sees the
whole photo reduced to 448 pixels, where neither noise nor a JPEG's blocks are left, so that smoothing costs nothing;
here native crops are shown, too. Neither needs a reference, nor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from conservator.image import Image, digest
from conservator.perception.study import study
from conservator.policies.dialects import IMAGE, Message
from conservator.policies.replies import likeliest
from conservator.policies.vision_language import VisionLanguageModel

RATED_LEVELS: Mapping[str, float] = {"excellent": 5.0, "good": 4.0, "fair": 3.0, "poor": 2.0, "bad": 1.0}
"""The words of a level and what each is worth: those of ITU-R BT.500's quality scale."""
QUESTION = f"How would you rate the quality of this image?\n{IMAGE}"
ANSWER = "The quality of the image is"
"""How the reply begins; a level follows."""
FEEDBACK = "feedback"
"""The component of a reward: by how much a rating rose, in levels."""
Shown = Literal["overview", "crops", "both"]
"""What of a photo is shown: the reduced whole, native parts of it, or both, which count as much as each other."""


class QualityRater:
    """Rates pictures by asking a vision-language model; each picture once.

    One thread at a time asks (the model has a lock).
    """

    def __init__(self, model: VisionLanguageModel, shown: Shown = "both") -> None:
        self._model = model
        self.groups: tuple[str, ...] = ("overview", "crops") if shown == "both" else (shown,)
        """Of the parts of a study, those that are shown; each counts as much as the other."""
        self._answer = model.tokens(ANSWER)
        self._levels = {level: [(*self._answer, *model.tokens(f" {level}"))] for level in RATED_LEVELS}
        self._known: dict[str, float] = {}

    def rate(self, image: Image) -> float:
        """The quality of an image (1, 3, H, W), of which a study is made, or of a study: 1 (bad) to 5 (excellent).

        A picture that is its own study is its only part, whatever is shown of others.
        """
        found = self.rate_apart(image)
        return sum(found.values()) / len(found)

    def rate_apart(self, image: Image) -> dict[str, float]:
        """The same, of each of ``groups`` alone."""
        parts = image if len(image) > 1 else study(image)
        of_group = {"overview": parts[:1], "crops": parts[1:] if len(parts) > 1 else parts}
        return {group: sum(map(self._rated, of_group[group].split(1))) / len(of_group[group]) for group in self.groups}

    def chances(self, picture: Image) -> dict[str, float]:
        """How likely the model finds each level for one picture (1, 3, H, W); together 1."""
        prompt = self._model.prompt([Message("user", QUESTION, (picture,))])
        with self._model.lock:
            return likeliest(self._levels, self._model.read(prompt).next, least=0.0)

    def _rated(self, picture: Image) -> float:
        key = digest(picture)
        if key not in self._known:
            self._known[key] = sum(RATED_LEVELS[level] * chance for level, chance in self.chances(picture).items())
        return self._known[key]

"""A prompt as a vision-language model reads it, and what the model then says comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conservator.extras import import_mllm
from conservator.policies.beginnings import Beginnings

if TYPE_CHECKING:
    from conservator.policies.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class Prompt:
    """Messages as a model reads them."""

    ids: Tensor
    """(L,) numbers of tokens; a picture is as many image tokens as the model makes of it."""
    patches: Tensor
    """(P, C) patches of all the pictures, flat."""
    grids: Tensor
    """(N, 3): frames (1), rows and columns of patches of each picture."""


class Reading:
    """A prompt that a model has read: it says what comes next after each continuation of it.

    What was computed is kept, so a continuation that shares its beginning with the last one costs only the rest.
    """

    @torch.inference_mode()
    def __init__(self, model: VisionLanguageModel, prompt: Prompt) -> None:
        self._network, self._length = model.network, len(prompt.ids)
        self._device = next(model.network.parameters()).device
        if model.beginnings is None:
            out = self._network(**inputs_of(model, [prompt], self._device), use_cache=True, logits_to_keep=1)
        else:
            out = _read_in_parts(model, prompt, model.beginnings, self._device)
        none = torch.zeros(1, 1, dtype=torch.long)  # without pictures, places are those of the tokens
        self._cache, self._shift = out.past_key_values, self._network.model.rope_deltas if len(prompt.grids) else none
        self._fed: tuple[int, ...] = ()
        self._known: dict[tuple[int, ...], Tensor] = {(): _log_probabilities(out.logits)}

    @torch.inference_mode()
    def next(self, path: tuple[int, ...]) -> Tensor:
        """The logarithms (V,) of the probabilities of every token after the prompt and the tokens ``path``."""
        if path not in self._known:
            kept = 0
            while kept < min(len(path) - 1, len(self._fed)) and path[kept] == self._fed[kept]:
                kept += 1
            if kept < len(self._fed):
                self._cache.crop(kept - len(self._fed))
            ids = torch.tensor([path[kept:]], device=self._device)
            place = torch.arange(self._length + kept, self._length + len(path), device=self._device)
            places = (place[None] + self._shift.to(self._device)).expand(3, 1, -1)
            out = self._network(
                input_ids=ids, position_ids=places, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
            self._fed = path
            self._known[path] = _log_probabilities(out.logits)
        return self._known[path]


def _read_in_parts(model: VisionLanguageModel, prompt: Prompt, beginnings: Beginnings, device: torch.device) -> Any:
    """What the network gives for a prompt, of which the parts that are known are not read again."""
    inputs, network = inputs_of(model, [prompt], device), model.network
    patches, grids = inputs.get("pixel_values"), inputs.get("image_grid_thw")
    places, network.model.rope_deltas = network.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=grids,
        attention_mask=inputs["attention_mask"],
    )
    begin, shown, layers = beginnings.find(prompt)
    cache, out = import_mllm("transformers").DynamicCache(), None
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    for end in (end for end in beginnings.parts(prompt.ids) if end > begin):
        part: dict[str, Any] = {}
        if grids is not None and patches is not None and (count := beginnings.shown(prompt, end)) > shown:
            first, last = (int(grids[:n].prod(1).sum()) for n in (shown, count))
            part, shown = {"pixel_values": patches[first:last], "image_grid_thw": grids[shown:count]}, count
        out = network(
            input_ids=inputs["input_ids"][:, begin:end],
            attention_mask=inputs["attention_mask"][:, :end],
            position_ids=places[..., begin:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **part,
        )
        begin = end
    beginnings.keep(prompt, cache)
    return out


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits[0, -1].float().log_softmax(-1).cpu()


def inputs_of(
    model: VisionLanguageModel, prompts: Sequence[Prompt], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """What the network is called with, for prompts of any lengths: the shorter ones are filled up at their ends."""
    ids = torch.nn.utils.rnn.pad_sequence([p.ids for p in prompts], True, padding_value=model.end)
    lengths = torch.tensor([len(p.ids) for p in prompts])
    found = {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "mm_token_type_ids": (ids == model.image).long(),
    }
    if sum(len(p.grids) for p in prompts):
        found["pixel_values"] = torch.cat([p.patches for p in prompts if len(p.grids)])
        found["image_grid_thw"] = torch.cat([p.grids for p in prompts])
    return {name: value.to(device) for name, value in found.items()}

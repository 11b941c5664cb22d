"""The loss of a batch of questions that begin alike, with their beginning computed once.

All questions of the planner's data begin with the toolbox, which is longer than all that follows. Run once with a batch
of one, its keys and values serve every question: the same loss and gradients at less than half the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a token that is not learned."""


def shared_prefix_loss(network: Any, batch: Mapping[str, Tensor], count: Tensor | int | None = None) -> Tensor:
    """The cross-entropy of the labelled tokens in nats, their sum divided by ``count`` (by their number when None).

    ``network`` is of Qwen3-VL's architecture; ``batch`` holds what ``Collator`` made: (B, L) ``input_ids``,
    ``attention_mask``, ``mm_token_type_ids`` and ``labels``, and the pictures' patches and grids, if there are any.
    Where there are several right tokens, ``choices`` (B, L, K) holds them and ``shares`` (B, L, K) their probabilities.
    """
    states, shared = shared_states(network, batch)
    learned = batch["labels"][:, shared + 1 :] != IGNORED
    return _loss(network.lm_head(states[:, :-1][learned]), batch, learned, shared + 1, count)


def shared_states(network: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """The last layer's states (B, L - S, D) of all tokens but the first S, with which all questions begin alike."""
    ids, mask, kinds, labels = (batch[n] for n in ("input_ids", "attention_mask", "mm_token_type_ids", "labels"))
    pictures = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    alike = (ids == ids[:1]).all(0) & mask.bool().all(0) & (kinds == 0).all(0) & (labels == IGNORED).all(0)
    # the token before the first learned one predicts it, and stays with the rest
    shared = max(0, min(int(alike.long().cumprod(0).sum()), int((labels != IGNORED).long().argmax(1).min()) - 1))
    places, _ = network.model.get_rope_index(
        ids, mm_token_type_ids=kinds, image_grid_thw=pictures.get("image_grid_thw"), attention_mask=mask
    )
    cache = None
    if shared:
        beginning = network.model.language_model(
            input_ids=ids[:1, :shared], position_ids=places[:, :1, :shared], use_cache=True
        )
        cache = beginning.past_key_values
        cache.batch_repeat_interleave(len(ids))
    states: Tensor = network.model(
        input_ids=ids[:, shared:],
        attention_mask=mask,
        position_ids=places[..., shared:],
        past_key_values=cache,
        use_cache=shared > 0,
        **pictures,
    ).last_hidden_state
    return states, shared


def whole_loss(network: Any, batch: Mapping[str, Tensor], count: Tensor | int | None = None) -> Tensor:
    """``shared_prefix_loss`` of any network: nothing is shared."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "choices", "shares")}
    learned = batch["labels"][:, 1:] != IGNORED
    return _loss(network(**inputs).logits[:, :-1][learned], batch, learned, 1, count)


def _loss(
    logits: Tensor, batch: Mapping[str, Tensor], learned: Tensor, first: int, count: Tensor | int | None
) -> Tensor:
    """The cross-entropy of logits (N, V) with what is to be learned, from the place ``first`` of the batch on."""
    if "choices" in batch:
        choices, shares = (batch[name][:, first:][learned] for name in ("choices", "shares"))
        found = -(shares * logits.float().log_softmax(-1).gather(1, choices)).sum()
    else:
        found = F.cross_entropy(logits, batch["labels"][:, first:][learned], reduction="sum")
    return found / (learned.sum() if count is None else count)

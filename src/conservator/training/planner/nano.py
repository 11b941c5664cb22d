"""Make a nano model from nothing: a small vocabulary learned from the conversations, and random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from conservator.errors import ConservatorError
from conservator.extras import import_mllm
from conservator.files import sha256
from conservator.kinds import Kind, Severity
from conservator.networks.encoder import ReducedEncoder
from conservator.networks.nano import add_encoder, make_nano, nano_config
from conservator.perception.loading import read_perception
from conservator.policies.dialects import IMAGE
from conservator.policies.vision_language import VisionLanguageModel
from conservator.weights import manifest

VOCABULARY = 4096
"""Tokens at most."""
_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_IMAGE, _OPEN, _CLOSE = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
_WORDS = "|".join(sorted([*(kind.label for kind in Kind), *(level.label for level in Severity)], key=len, reverse=True))
_PIECES = rf"Examined: |Treat only |Leave |(?:{_WORDS})(?= )|[A-Z][^\n0-9<]*|[a-z][a-z0-9_]*|[0-9]|[^A-Za-z0-9]+"
"""What is never joined into one token: what begins a wish, a kind of damage or its severity, a sentence, a name, a
digit, what stands between. The sentences of the toolbox are the same in every conversation, so that each is one token
soon, and a kind or a tool is the same token wherever it stands: in the toolbox, in what perception found, in the
history, in the reply."""
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{% if loop.first and tools %}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def learn_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A byte-pair tokenizer learned from texts, with a chat template; the same texts in one order give the same.

    Any text can be written in it: what it has not seen takes more tokens, down to single bytes.
    """
    tokenizers = import_mllm("tokenizers")
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    raw.pre_tokenizer = pre.Sequence(
        [pre.Split(tokenizers.Regex(_PIECES), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, _START, _END, _IMAGE, _OPEN, _CLOSE],
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator((part for text in texts for part in text.split(IMAGE)), trainer)
    tokenizer = import_mllm("transformers").PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=_END, pad_token=_PAD, additional_special_tokens=[_START, _IMAGE, _OPEN, _CLOSE]
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def encoder_named(perception: str | None) -> ReducedEncoder | None:
    """The encoder of a perception, by its name or its file; None without one."""
    return read_perception(perception).encoder() if perception else None


def encoder_hash(perception: str | None) -> dict[str, str]:
    """The hash of the weights that ``encoder_named`` takes, as a run's folder keeps it."""
    if not perception:
        return {}
    path = Path(perception)
    return {"encoder": sha256(path) if path.is_file() else str(manifest()[perception]["sha256"])}


def new_nano(
    texts: Iterable[str], seed: int = 0, encoder: ReducedEncoder | None = None, **size: int
) -> VisionLanguageModel:
    """A nano model that knows the words of ``texts`` and nothing else; ``size``: ``width`` and ``layers``.

    With an ``encoder``, one of perception's, its vision begins with that, too (networks/nano.py).
    Raises ConservatorError for a width that heads cannot share.
    """
    if size.get("width", 64) % 64:
        raise ConservatorError(f"a nano model is a multiple of 64 wide, not {size['width']}; choose 128, 192 or 256")
    tokenizer = learn_tokenizer(texts)
    numbers = (tokenizer.convert_tokens_to_ids(token) for token in (_IMAGE, _OPEN, _CLOSE, _END, _PAD))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_nano(nano_config(len(tokenizer), *numbers, **size))
        if encoder is not None:
            add_encoder(network, encoder)
    return VisionLanguageModel(network, tokenizer)

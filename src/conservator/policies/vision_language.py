"""A vision-language model in Hugging Face format: loaded, asked with pictures, saved. Needs the extra [mllm].

Any model of Qwen's family, which reads a picture as flat patches: pictures are turned into patches here, at the size
that they have, and not by the processors of transformers, which resize and want torchvision.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.extras import import_mllm
from conservator.files import sha256, write_text
from conservator.forking import Lock
from conservator.image import Image
from conservator.networks.nano import add_encoder, fitting_encoder, has_encoder
from conservator.policies.beginnings import Beginnings
from conservator.policies.dialects import IMAGE, Message
from conservator.policies.reading import Prompt, Reading

FAMILY = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""``model_type`` of the architectures that are known to read pictures so."""
_SMALL = 100_000_000
"""Parameters up to which a model computes in single precision, whatever it is stored in."""
_MIDDLE = (0.5, 0.5, 0.5)
_PICTURES = "preprocessor_config.json"
_HEEDS = "conservator_heeds_wishes"
"""What is written down beside how pictures are prepared: whether the model was taught wishes."""


class VisionLanguageModel:
    """A network with its tokenizer. One thread at a time uses it: hold ``lock`` from ``read`` to the last ``next``."""

    heeds_wishes = False
    """Whether it was taught what users wish in words; else it is not told."""
    beginnings: Beginnings | None = None
    """Of the prompts that were read last; None where nothing is remembered, as while weights are learned."""

    def __init__(self, network: Any, tokenizer: Any, mean: Sequence[float] = _MIDDLE, std: Sequence[float] = _MIDDLE):
        """``mean`` and ``std`` are those of the pictures that the network was trained on, per channel."""
        kind = network.config.model_type
        if kind not in FAMILY:
            raise ConservatorError(f"a model of the architecture {kind} cannot be used; known are {', '.join(FAMILY)}")
        self.network, self.tokenizer, self.mean, self.std = network, tokenizer, tuple(mean), tuple(std)
        self.lock = Lock()
        self.image, self.end = int(network.config.image_token_id), int(tokenizer.eos_token_id)
        vision = network.config.vision_config
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._frames = int(vision.temporal_patch_size)

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a plain text."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def calls_tools(self) -> bool:
        """Whether its chat template speaks of functions, and of what they gave."""
        function = {"type": "function", "function": {"name": "a_tool", "description": "", "parameters": {}}}
        roles: tuple[Literal["system", "user", "assistant", "tool"], ...] = ("system", "user", "assistant", "tool")
        messages = [Message(role, f"words_of_{role}") for role in roles]
        try:
            text = self._rendered(messages, [function])
        except import_mllm("jinja2").TemplateError:  # some templates refuse the role
            return False
        return "a_tool" in text and "words_of_tool" in text

    def _rendered(self, messages: Sequence[Message], functions: Sequence[Mapping[str, Any]]) -> str:
        turns = [{"role": message.role, "content": _blocks(message.text)} for message in messages]
        text: str = self.tokenizer.apply_chat_template(
            turns, tools=list(functions) or None, tokenize=False, add_generation_prompt=True
        )
        return text

    def prompt(self, messages: Sequence[Message], functions: Sequence[Mapping[str, Any]] = ()) -> Prompt:
        """The messages up to where the reply begins; ``functions`` are those that a dialect lets it call.

        Raises ConservatorError when texts and pictures do not match.
        """
        pictures = [self.patches(image) for message in messages for image in message.images]
        text = self._rendered(messages, functions)
        counts = [int(grid.prod()) // self._merge**2 for _, grid in pictures]
        ids: list[int] = []
        for token in self.tokens(text):
            ids += [token] * (counts.pop(0) if counts and token == self.image else 1)
        if counts or ids.count(self.image) != sum(int(grid.prod()) for _, grid in pictures) // self._merge**2:
            raise ConservatorError(f"{len(pictures)} pictures were given, but the texts show another number of them")
        return Prompt(
            torch.tensor(ids),
            torch.cat([patches for patches, _ in pictures]) if pictures else torch.zeros(0, 0),
            torch.stack([grid for _, grid in pictures]) if pictures else torch.zeros(0, 3, dtype=torch.long),
        )

    def patches(self, picture: Image) -> tuple[Tensor, Tensor]:
        """A picture (1, 3, H, W) as patches (P, C), the four of one token together, and its grid (3).

        It is not resized: at the right and at the bottom it is continued to whole tokens.
        """
        side, m, p = self._patch * self._merge, self._merge, self._patch
        below, right = (-n % side for n in picture.shape[-2:])
        picture = F.pad(picture, (0, right, 0, below), mode="replicate")[0]
        scaled = (picture - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
        rows, columns = (n // p for n in scaled.shape[-2:])
        blocks = scaled.reshape(3, rows // m, m, p, columns // m, m, p).permute(1, 4, 2, 5, 0, 3, 6)
        frames = blocks[..., None, :, :].expand(*blocks.shape[:5], self._frames, p, p)
        return frames.reshape(rows * columns, -1), torch.tensor([1, rows, columns])

    def remember(self) -> None:
        """Remember from now on what prompts begin with; whoever changes weights tells ``beginnings`` to forget.

        Other architectures than Qwen3-VL's, whose places of tokens are not known here, remember nothing.
        """
        if self.network.config.model_type == "qwen3_vl":
            self.beginnings = Beginnings(self.image, self.end, self._merge)

    def read(self, prompt: Prompt) -> Reading:
        """Read a prompt; what comes next can then be asked."""
        return Reading(self, prompt)

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a folder in Hugging Face format, which ``load_model`` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        was = self.network.dtype
        self.network.to(dtype).save_pretrained(folder)
        self.network.to(was)
        if self.beginnings is not None:
            self.beginnings.forget()  # the weights were rounded
        self.save_words(folder)

    def save_words(self, folder: Path) -> None:
        """Write the tokenizer, and how pictures are prepared."""
        self.tokenizer.save_pretrained(folder)
        pictures = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": self._patch,
            "merge_size": self._merge,
            "temporal_patch_size": self._frames,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            _HEEDS: self.heeds_wishes,
        }
        write_text(folder / _PICTURES, json.dumps(pictures, indent=2) + "\n")


def _blocks(text: str) -> list[dict[str, str]]:
    """A text with ``<image>`` in it as the blocks that chat templates take."""
    parts = [part for part in re.split(f"({re.escape(IMAGE)})", text) if part]
    return [{"type": "image"} if part == IMAGE else {"type": "text", "text": part} for part in parts]


@lru_cache(maxsize=2)
def load_model(folder: str, device: str = "cpu") -> VisionLanguageModel:
    """Load a folder in Hugging Face format, or an adapter with its base model (PEFT); safetensors only, no code of it.

    ``folder`` may be a model's id, too, which transformers then fetches. Raises ConservatorError when it is no such
    model, MissingExtraError without the extra [mllm].
    """
    network, tokenizer, base = _load_network(folder)
    model = VisionLanguageModel(_ready(network, device), tokenizer, *normalisation_of(base))
    model.heeds_wishes = _heeds_wishes(Path(folder))
    model.remember()
    return model


def _load_network(folder: str) -> tuple[Any, Any, str]:
    """The network of a folder or an id, its adapters merged into it, the tokenizer, and the whole model beneath."""
    transformers = import_mllm("transformers")
    adapters = Path(folder) / "adapter_config.json"
    if adapters.exists():
        base = json.loads(adapters.read_text("utf-8"))["base_model_name_or_path"]
        network, tokenizer, whole = _load_network(base)  # whose base may have adapters, too
        network = import_mllm("peft").PeftModel.from_pretrained(network, folder).merge_and_unload()
        network.name_or_path = folder  # what PEFT notes as the base of adapters that are trained upon these
        return network, tokenizer, whole
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type not in FAMILY:
            raise ValueError(f"its architecture is {config.model_type}, known are {', '.join(FAMILY)}")
        with _unsaid(has_encoder(config)):
            kind = transformers.AutoModelForImageTextToText
            network = kind.from_pretrained(folder, dtype="auto", use_safetensors=True)
        _fill_encoder(network, Path(folder))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConservatorError(f"{folder} cannot be loaded as a vision-language model: {reason}") from error
    return network, tokenizer, folder


def model_hash(model: str) -> str:
    """A short hash (16 hex digits) of the weights of a model in a folder, or, where it is none, of its id."""
    weights = " ".join(map(sha256, sorted(Path(model).glob("*.safetensors"))))
    return hashlib.sha256((weights or model).encode()).hexdigest()[:16]


def _heeds_wishes(folder: Path) -> bool:
    path = folder / _PICTURES
    return path.exists() and bool(json.loads(path.read_text("utf-8")).get(_HEEDS, False))


@contextmanager
def _unsaid(unexpected: bool) -> Iterator[None]:
    """Keep transformers from telling a table of weights that are unexpected, where they are an encoder's."""
    logging = import_mllm("transformers").utils.logging
    was = logging.get_verbosity()
    if unexpected:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(was)


def _fill_encoder(network: Any, folder: Path) -> None:
    """Give a nano model the encoder that it was saved with, which transformers knows nothing of."""
    if not has_encoder(network.config):
        return
    from safetensors.torch import load_file

    tensors = {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
    add_encoder(network, fitting_encoder(tensors))
    network.to(network.dtype)
    part = "model.visual.patch_embed."
    own = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
    network.model.visual.patch_embed.load_state_dict(own)


def _ready(network: Any, device: str) -> Any:
    small = sum(parameter.numel() for parameter in network.parameters()) < _SMALL
    if small or device == "cpu":
        network = network.float()
    return network.to(device).eval().requires_grad_(False)


def normalisation_of(folder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the pictures, as the model's folder says."""
    hub = import_mllm("transformers.utils.hub")
    for name in (_PICTURES, "processor_config.json"):
        found = hub.cached_file(folder, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            values = json.loads(Path(found).read_text("utf-8"))
            values = values.get("image_processor", values)
            if "image_mean" in values:
                return values["image_mean"], values["image_std"]
    return _MIDDLE, _MIDDLE


def pack(model: VisionLanguageModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model as the tensors, in half precision, and the metadata of one file of weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_words(Path(folder))
        model.network.config.save_pretrained(folder)
        words = {path.name: path.read_text("utf-8") for path in sorted(Path(folder).iterdir())}
    tensors = {name: value.detach().cpu().half() for name, value in model.network.state_dict().items()}
    if model.network.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors, words


def unpack(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> VisionLanguageModel:
    """The model that ``pack`` packed."""
    transformers = import_mllm("transformers")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in words.items():
            write_text(Path(folder) / name, text)
        config = transformers.AutoConfig.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        normalisation, heeds = normalisation_of(folder), _heeds_wishes(Path(folder))
    config.dtype = torch.float32
    network = transformers.AutoModelForImageTextToText.from_config(config)
    if has_encoder(config):
        add_encoder(network, fitting_encoder(tensors))
    fit = network.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if fit.unexpected_keys or set(fit.missing_keys) - tied:
        odd = [*fit.unexpected_keys, *fit.missing_keys][0]
        raise ConservatorError(
            f"this version of transformers has no place for the weights of this model ({odd}); install the one that "
            "pip install 'conservator[mllm]' asks for"
        )
    network.tie_weights()
    model = VisionLanguageModel(_ready(network, "cpu"), tokenizer, *normalisation)
    model.heeds_wishes = heeds
    model.remember()
    return model


@lru_cache(maxsize=1)
def shipped_model(name: str = "nano") -> VisionLanguageModel:
    """The model that ships; ConservatorError where this installation has none."""
    from conservator.weights import load_weights, manifest

    if name not in manifest():
        raise ConservatorError(
            f"the model {name} does not ship with this version; train it with: conservator train sft --model nano, "
            "and use it with: --policy mllm:FOLDER"
        )
    return unpack(*load_weights(name))

"""A model in memory with its tokenizer: prompts in, readable tokens and probabilities out."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch

from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.memory import ModelMemoryError, shape_of, working_bytes
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_records import LayerInfo, ModelInfo, PromptView, TokenProbability
from attention_studio.utils.errors import StudioError

_DOCUMENT_SEPARATOR = "<|endoftext|>"
_REPLACEMENT = "\ufffd"  # what decoders print for half a character


class EmptyPromptError(StudioError):
    """The prompt has no text."""


class PromptTextError(StudioError):
    """The prompt has what no text has."""


class PromptTooLongError(StudioError):
    """The prompt has more tokens than the context or the memory allows."""


class ModelReleasedError(StudioError):
    """The model was released, and something still asked it."""


@dataclass(frozen=True)
class StartToken:
    """The token that goes before every prompt: its id and how the vocabulary writes it."""

    token_id: int
    text: str


class LoadedModel:
    """A language model, its tokenizer, the adapter and the facts.

    Position 0 of a decoder is an attention sink with activations of its own kind, so every prompt
    gets a token there that the model saw between documents (see ``find_start_token``).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        adapter: ModelAdapter,
        info: ModelInfo,
        start: Optional[StartToken],
    ) -> None:
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._adapter: Optional[ModelAdapter] = adapter
        self._start = start
        self.info = info

    @classmethod
    def from_parts(cls, model: Any, tokenizer: Any, name: str = "in memory") -> LoadedModel:
        """Wrap a model made in memory; its hash is that of its tensors.

        Raises:
            UnsupportedModelError: its family is unknown.
        """
        return cls.build(model, tokenizer, name, "in memory", hash_tensors(model))

    @classmethod
    def build(
        cls, model: Any, tokenizer: Any, name: str, source: str, weights_hash: str
    ) -> LoadedModel:
        """Wrap a model and gather its facts.

        Raises:
            UnsupportedModelError: its family is unknown.
        """
        adapter = ModelAdapter.for_model(model)
        start = find_start_token(tokenizer)
        devices = {str(parameter.device) for parameter in model.parameters()}
        info = ModelInfo(
            name=name,
            source=source,
            family=adapter.family,
            n_layers=adapter.n_layers,
            d_model=adapter.d_model,
            n_heads=adapter.n_heads,
            n_kv_heads=adapter.n_kv_heads,
            d_head=adapter.d_head,
            d_mlp=adapter.d_mlp,
            vocab_size=adapter.vocab_size,
            context_length=adapter.context_length,
            n_parameters=sum(p.numel() for p in model.parameters()),
            dtype=str(adapter.dtype).removeprefix("torch."),
            device=" + ".join(sorted(devices)),
            memory_bytes=tensor_bytes(model),
            weights_hash=weights_hash,
            start_token=None if start is None else start.text,
        )
        return cls(model, tokenizer, adapter, info, start)

    # ---- parts ---------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The transformers model.

        Raises:
            ModelReleasedError: it was released.
        """
        return self._alive(self._model)

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer (also after a release: it is small)."""
        return self._tokenizer

    @property
    def adapter(self) -> ModelAdapter:
        """The uniform view of the model.

        Raises:
            ModelReleasedError: it was released.
        """
        adapter: ModelAdapter = self._alive(self._adapter)
        return adapter

    @property
    def start_token_id(self) -> Optional[int]:
        """The id of the token that ``encode`` puts first, or None."""
        return None if self._start is None else self._start.token_id

    @property
    def released(self) -> bool:
        """Whether the weights were given up."""
        return self._model is None

    def close(self) -> None:
        """Give up model and adapter. Use after this raises ModelReleasedError."""
        self._model = None
        self._adapter = None

    def _alive(self, part: Any) -> Any:
        if part is None:
            raise ModelReleasedError(
                f"{self.info.name} is no longer in memory", "it was released", "Load it again"
            )
        return part

    # ---- text and tokens -----------------------------------------------------------------------

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text of any length, without a start token.

        The tokenizer's own library is asked where there is one: it lets go of the interpreter's
        lock while it works, and transformers' call around it makes lists of everything else that
        is known of each token, which stops a window for a tenth of a second per megabyte.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        else:
            ids = backend.encode_batch([text], add_special_tokens=False)[0].ids
        return list(ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with the start token first.

        Raises:
            EmptyPromptError: ``text`` is empty or white space.
            PromptTextError: ``text`` has halves of characters, as bytes become that are no UTF-8.
            PromptTooLongError: more tokens than the context has, or than memory has room for.
        """
        if not text.strip():
            raise EmptyPromptError("The prompt is empty", "", "Type some text")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise PromptTextError(
                "The prompt is no text", "it has bytes that are no UTF-8", "Type it again"
            )
        ids = [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        start = self.start_token_id
        if start is not None and ids[:1] != [start]:
            ids.insert(0, start)
        if not ids:
            raise EmptyPromptError(
                "The prompt is empty", "the tokenizer makes no token of it", "Type other text"
            )
        limit = self.info.context_length
        if len(ids) > limit:
            raise PromptTooLongError(
                f"The prompt has {len(ids):,} tokens",
                f"{self.info.name} takes at most {limit:,}",
                "Shorten it",
            )
        self._check_memory(len(ids))
        return ids

    def _check_memory(self, n_tokens: int) -> None:
        shape = shape_of(self.model.config, self.info.n_parameters)
        needed = working_bytes(shape, n_tokens, self.adapter.dtype.itemsize)
        free = free_bytes(self.adapter.device)
        if needed > free:
            raise PromptTooLongError(
                f"The prompt has {n_tokens:,} tokens",
                f"running them needs {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
                "Shorten it or close other programs",
            )

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """A readable piece of text for each id; spaces are kept, half characters become hex."""
        pieces = self.tokenizer.convert_ids_to_tokens([int(i) for i in ids])
        return [self._readable(int(i), piece) for i, piece in zip(ids, pieces, strict=True)]

    def _readable(self, token_id: int, piece: Optional[str]) -> str:
        if piece is None:  # the embedding may have more rows than the vocabulary has words
            return f"<{token_id}>"
        text = str(
            self.tokenizer.decode(
                [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
        if piece.startswith("\u2581") and not text.startswith(" "):
            # SentencePiece decoders drop the space of a text's first word.
            text = " " + text
        if _REPLACEMENT in text and _REPLACEMENT not in piece:
            return _hex_of_half_character(piece)
        return text or piece

    def next_tokens(self, text: str, top_k: int = 10) -> PromptView:
        """The prompt as the model sees it and the ``top_k`` likeliest next tokens.

        Raises:
            EmptyPromptError, PromptTooLongError: see ``encode``.
            ModelReleasedError: the model was released.
        """
        ids = self.encode(text)
        logits = self.adapter.logits(torch.tensor([ids]))[0, -1].float()
        probabilities, tokens = logits.softmax(-1).topk(min(top_k, logits.shape[-1]))
        names = self.token_strings(tokens.tolist())
        candidates = tuple(
            TokenProbability(int(i), name, float(p))
            for i, name, p in zip(tokens.tolist(), names, probabilities.tolist(), strict=True)
        )
        return PromptView(tuple(ids), tuple(self.token_strings(ids)), candidates)

    # ---- facts and copies ----------------------------------------------------------------------

    def layer_info(self, layer: int) -> LayerInfo:
        """Size and make of one layer.

        Raises:
            StudioError: there is no such layer.
        """
        adapter, config, info = self.adapter, self.model.config, self.info
        if not 0 <= layer < info.n_layers:
            raise StudioError(
                f"{info.name} has no layer {layer}",
                f"its layers are 0 to {info.n_layers - 1}",
                "Choose one of them",
            )
        total, attention, mlp = adapter.count_parameters(layer)
        heads = [f"{info.n_heads} heads"]
        if info.n_kv_heads != info.n_heads:
            heads.append(f"{info.n_kv_heads} key/value")
        heads.append("learned positions" if info.family == "gpt2" else "rotary")
        kinds = getattr(config, "layer_types", None)
        if kinds and kinds[layer] == "sliding_attention":
            heads.append(f"window {config.sliding_window}")
        name = next(
            str(getattr(config, key))
            for key in ("hidden_activation", "hidden_act", "activation_function")
            if getattr(config, key, None)
        )
        gated = "" if info.family in ("gpt2", "gpt_neox") else "gated "
        return LayerInfo(
            layer, total, attention, mlp, ", ".join(heads), f"{gated}{name}, {info.d_mlp}"
        )

    def copy_in(self, dtype: torch.dtype, layers: Optional[int] = None) -> ModelAdapter:
        """An adapter over a copy of the model in ``dtype``, for work beside the original.

        The copy has its own weights and no hooks in common with the original. With ``layers`` it
        has only so many of them, and no unembedding: good for harvesting from those.

        Raises:
            ModelMemoryError: there is no room for a second set of weights.
            StudioError: the model is spread over several devices.
        """
        model = self.model
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) > 1:
            raise StudioError(
                f"{self.info.name} cannot be copied",
                "it is spread over several devices",
                "Load it on one device, for example with dtype=bfloat16",
            )
        left_out = [] if layers is None else self.adapter.modules_beyond(layers)
        # A tied unembedding is the embedding, too.
        lost = {id(p) for module in left_out for p in module.parameters()}
        lost -= {id(p) for p in model.get_input_embeddings().parameters()}
        kept = [p for p in model.parameters() if id(p) not in lost]
        needed = sum(p.numel() for p in kept) * dtype.itemsize
        free = free_bytes(self.adapter.device)
        if needed > free:
            raise ModelMemoryError(
                f"There is no room for a copy of {self.info.name}",
                f"it needs {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
                "Close other programs",
            )
        # With the converted tensors already in the memo, deepcopy never holds a third copy. Buffers
        # keep their type, as from_pretrained would do it: rotary angles need float32.
        memo: dict[int, Any] = {
            id(parameter): torch.nn.Parameter(
                parameter.detach().to(dtype, copy=True), requires_grad=False
            )
            for parameter in kept
        }
        memo.update({id(module): torch.nn.Identity() for module in left_out})
        twin = copy.deepcopy(model, memo)
        twin.config.dtype = dtype
        return ModelAdapter.for_model(twin)


def free_bytes(device: torch.device) -> int:
    """Bytes that may still be used on ``device``; what torch has cached there counts as free."""
    if device.type != "cuda":
        return available_ram()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def find_start_token(tokenizer: Any) -> Optional[StartToken]:
    """The token that the model saw where a text begins.

    The tokenizer's own BOS if it puts one before texts by itself; else ``<|endoftext|>`` if the
    vocabulary has it (GPT-2, Pythia, SmolLM2 and Qwen saw it between documents); else
    ``bos_token``; else none.
    """
    bos_id = tokenizer.bos_token_id
    if bos_id is not None and tokenizer("a")["input_ids"][:1] == [bos_id]:
        return StartToken(int(bos_id), str(tokenizer.bos_token))
    # Asked for by name: get_vocab would copy the whole vocabulary with the interpreter's lock held.
    separator = tokenizer.convert_tokens_to_ids(_DOCUMENT_SEPARATOR)
    known = separator is not None and separator != tokenizer.unk_token_id
    if known or tokenizer.unk_token == _DOCUMENT_SEPARATOR:
        return StartToken(int(separator), _DOCUMENT_SEPARATOR)
    if bos_id is not None:
        return StartToken(int(bos_id), str(tokenizer.bos_token))
    return None


def hash_tensors(model: Any) -> str:
    """The SHA-256 over names, types, shapes and bytes of all tensors of a model's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensor_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers of a model; tied ones count once."""
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _hex_of_half_character(piece: str) -> str:
    # A byte-level vocabulary writes bytes as stand-in characters, a SentencePiece one as <0xE2>.
    if piece.startswith("<0x"):
        return piece
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    return "".join(
        f"<0x{byte_of[c]:02X}>" if c in byte_of and not c.isascii() else c for c in piece
    )

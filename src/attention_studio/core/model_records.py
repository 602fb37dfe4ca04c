"""The plain records that describe models. No torch here, so that the window can use them freely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional


@dataclass(frozen=True)
class ModelConfig:
    """Which model to load, and how.

    Args:
        name: a built-in name, a hub id (``owner/name``), a folder or a ``.gguf`` file.
        path: a folder or ``.gguf`` file; if given, ``name`` is only what the model is called.
        device: ``auto`` (CUDA, then MPS, then CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``, or
            ``spread`` (over all GPUs and main memory, the way of ``device_map="auto"``).
        dtype: ``auto`` (float32 where it fits, else bfloat16), ``float32``, ``bfloat16``,
            ``float16``.
        allow_remote_code: run Python code that comes with the model. Off unless asked for.
    """

    name: str
    path: Optional[Path] = None
    device: str = "auto"
    dtype: str = "auto"
    allow_remote_code: bool = False


@dataclass(frozen=True)
class LayerInfo:
    """One decoder layer, in numbers and in words."""

    index: int
    n_parameters: int
    attention_parameters: int
    mlp_parameters: int
    attention: str
    mlp: str


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model. ``weights_hash`` is the SHA-256 of its weight files one after the other
    (as ``cat FILES | sha256sum``), or of its tensors if it was made in memory."""

    name: str
    source: str
    family: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    vocab_size: int
    context_length: int
    n_parameters: int
    dtype: str
    device: str
    memory_bytes: int
    weights_hash: str
    start_token: Optional[str]


@dataclass(frozen=True)
class ModelDescription:
    """What is known about a model without loading its weights."""

    name: str
    source: str
    family: str
    n_layers: int
    d_model: int
    n_heads: int
    vocab_size: int
    context_length: int
    n_parameters: int
    folder: Optional[Path]


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models: where it comes from and whether it is here already."""

    name: str
    summary: str
    source: str
    cached: bool
    folder: Optional[Path]
    size_bytes: Optional[int]


@dataclass(frozen=True)
class MemoryEstimate:
    """What a model would need and what there is, in bytes.

    ``working`` is for one prompt of up to 512 tokens. ``cheaper`` holds the settings that would
    fit, the best first; it is empty when nothing does. ``device`` and ``dtype`` are what was
    judged: the choice made where ``auto`` was asked for.
    """

    weights_bytes: int
    working_bytes: int
    available: int
    device: str
    dtype: str
    fits: bool
    cheaper: tuple[ModelConfig, ...]

    @property
    def total(self) -> int:
        """Weights and working memory together, in bytes."""
        return self.weights_bytes + self.working_bytes


@dataclass(frozen=True)
class TokenProbability:
    """A token that may come next."""

    token_id: int
    token: str
    probability: float


@dataclass(frozen=True)
class PromptView:
    """A prompt as the model sees it, and what it expects next, the likeliest first."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    candidates: tuple[TokenProbability, ...]

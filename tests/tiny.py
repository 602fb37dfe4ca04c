"""Tiny random models of every supported family, made in memory in milliseconds.

Their weights are random, so nothing they say means anything; what holds for them by mathematics
(decompositions, identities, round trips) must hold for real models too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.lorsa_init import lorsa_config
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_families import SUPPORTED_FAMILIES

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel

FAMILIES = SUPPORTED_FAMILIES

WORDS = tuple(
    "the a cat dog bird sat ran flew on under over mat tree house red green blue small big "
    "and then but it was in of to he she they saw gave book apple river hill king queen city "
    "France Paris capital is not one two three four five".split()
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows ``WORDS`` with and without a space before them."""
    vocabulary = ["<|endoftext|>", "<unk>", ".", ",", *WORDS, *(f" {word}" for word in WORDS)]
    tokenizer = Tokenizer(
        WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Sequence([Split(Regex(r" ?[^\s.,]+|[.,]|\s+"), "isolated")])
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<unk>"
    )


def tiny_config(family: str, **overrides: Any) -> Any:
    """A configuration with three layers of width 32 and whatever makes the family special."""
    vocabulary = len(tiny_tokenizer())
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    grouped = {"num_key_value_heads": 2, "head_dim": 8}
    special: dict[str, dict[str, Any]] = {
        "gpt2": {"n_positions": 64},
        "gpt_neox": {"use_parallel_residual": True},
        "llama": {**grouped, "attention_bias": True},
        "mistral": {**grouped, "sliding_window": 6},
        "qwen2": grouped,
        "qwen3": {**grouped, "head_dim": 16},
        "gemma2": {
            **grouped,
            "sliding_window": 6,
            "final_logit_softcapping": 30.0,
            "attn_logit_softcapping": 5.0,
        },
        "gemma3_text": {**grouped, "sliding_window": 6},
    }
    if family == "gpt2":
        common["n_inner"] = common.pop("intermediate_size")
        common["n_embd"] = common.pop("hidden_size")
        common["n_layer"] = common.pop("num_hidden_layers")
        common["n_head"] = common.pop("num_attention_heads")
        common.pop("max_position_embeddings")
    return AutoConfig.for_model(family, **{**common, **special[family], **overrides})


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> Any:
    """A random model whose biases and gains are random too, so that forgetting one shows."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 0.6 / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:
                parameter.add_(noise * 0.1)
        embedding = model.get_input_embeddings().weight
        embedding.copy_(torch.randn(embedding.shape, generator=generator))
    return model.eval()


def tiny_loaded(family: str = "llama", seed: int = 0, **overrides: Any) -> LoadedModel:
    """A tiny model with its tokenizer, as ModelManager would hand it over."""
    from attention_studio.core.model_manager import LoadedModel

    return LoadedModel.from_parts(
        tiny_model(family, seed, **overrides), tiny_tokenizer(), name=f"tiny-{family}"
    )


def tiny_folder(path: Path, family: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """A local folder that ModelManager loads."""
    tiny_model(family, seed, **overrides).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


PROMPT = "the cat sat on the mat and the dog ran"


def random_transcoders(
    adapter: ModelAdapter, seed: int = 0, layers: Optional[tuple[int, ...]] = None, **config: Any
) -> dict[int, Transcoder]:
    """Untrained dictionaries of the right shape, about half of whose latents are ever active."""
    generator = torch.Generator().manual_seed(seed)
    shape: dict[str, Any] = {
        "d_model": adapter.d_model,
        "d_latent": 24,
        "activation": "topk",
        "k": 6,
        "skip": True,
        **config,
    }
    made = {}
    for layer in range(adapter.n_layers) if layers is None else layers:
        transcoder = Transcoder(TranscoderConfig(**shape))
        _randomize(transcoder, generator)
        made[layer] = transcoder
    return made


def random_lorsas(
    adapter: ModelAdapter, seed: int = 1, layers: Optional[tuple[int, ...]] = None, **config: Any
) -> dict[int, Lorsa]:
    """Untrained Lorsas that attend by the model's rules, but not where the model does."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in range(adapter.n_layers) if layers is None else layers:
        rules = adapter.query_key(layer)
        shape = lorsa_config(rules, **{"d_latent": 24, "activation": "topk", "k": 6, **config})
        lorsa = Lorsa(shape)
        _randomize(lorsa, generator)
        if lorsa.inv_freq is not None and rules.inv_freq is not None:
            lorsa.inv_freq.copy_(rules.inv_freq)
        made[layer] = lorsa
    return made


def random_clt(
    adapter: ModelAdapter, seed: int = 2, layers: Optional[tuple[int, ...]] = None, **config: Any
) -> CrossLayerTranscoder:
    """An untrained cross-layer transcoder of the right shape."""
    shape: dict[str, Any] = {
        "d_model": adapter.d_model,
        "layers": tuple(range(adapter.n_layers)) if layers is None else layers,
        "d_latent": 24,
        "activation": "topk",
        "k": 6,
        **config,
    }
    clt = CrossLayerTranscoder(CrossLayerTranscoderConfig(**shape))
    _randomize(clt, torch.Generator().manual_seed(seed))
    if clt.selection_norm is not None:
        for i, decoder in enumerate(clt.W_D):
            decoder.mul_(torch.linspace(0.0, 2.0, decoder.shape[1]).unsqueeze(1))
            clt.selection_norm[i] = clt.decoder_norms(i)
    return clt


def random_dictionaries(
    adapter: ModelAdapter,
    mlp: Optional[dict[str, Any]] = None,
    attention: Optional[dict[str, Any]] = None,
    clt: Optional[dict[str, Any]] = None,
) -> DictionarySet:
    """Any mix: what is None is not replaced, the others get these settings."""
    return DictionarySet(
        {} if mlp is None else random_transcoders(adapter, **mlp),
        {} if attention is None else random_lorsas(adapter, **attention),
        None if clt is None else random_clt(adapter, **clt),
    )


def _randomize(dictionary: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in dictionary.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise * (0.3 if parameter.dim() > 1 else 0.1))
        if name.startswith("threshold"):
            parameter.data.abs_()

"""Lorsas of Llamascopium: ``sae_type: lorsa`` (see ``llamascopium`` for what all kinds share).

    W_Q, W_K [g, d, d_qk]   b_Q, b_K [g, d_qk]   ln_q.w, ln_k.w [g, d_qk]
    W_V, W_O [s, d]         b_V [s]              b_D [d]
    rotary_sin, rotary_cos [n_ctx, rotary_dim]   mask [n_ctx, n_ctx]   IGNORE

- ``attn_scale`` divides the scores.
- ``rotary_adjacent_pairs`` rotates coordinates (0,1), (2,3), …; ours are rotated in halves. The
  same permutation of queries' and keys' coordinates changes no score.
- The tool rotates by the table in the file, not by its settings; so the frequencies come from it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    TensorFile,
    UnsupportedDictionaryError,
    check_memory,
    checked_config,
)
from attention_studio.core.dictionaries.foreign.hooks import our_input_hook, our_output_hook
from attention_studio.core.dictionaries.foreign.llamascopium import (
    AVERAGES,
    CONFIG_NAME,
    THRESHOLD,
    WEIGHTS_NAME,
    Act,
    CommonConfig,
    common_settings,
    gate_by_norm,
    read_threshold,
    scales,
)
from attention_studio.core.dictionaries.foreign.writing import (
    jump_threshold,
    log_threshold,
    save_json,
    save_tensors,
)
from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.sites import Site

_MAX_CONTEXT = 1 << 20
_BUFFERS = ("mask", "IGNORE")


class _LorsaConfig(CommonConfig):
    hook_point_in: str
    hook_point_out: str
    n_qk_heads: int
    d_qk_head: int
    positional_embedding_type: str = "rotary"
    rotary_dim: int
    rotary_base: float = 10000
    rotary_adjacent_pairs: bool = True
    rotary_scale: float = 1
    use_NTK_by_parts_rope: bool = False  # noqa: N815 - the tool's name
    n_ctx: int
    attn_scale: Optional[float] = None
    use_post_qk_ln: bool = False
    normalization_type: Optional[str] = None
    eps: float = 1e-6


def lorsa_config(path: Path, content: dict[str, object]) -> _LorsaConfig:
    """The configuration of a ``lorsa``, checked.

    Raises:
        ForeignFormatError: names the field.
        UnsupportedDictionaryError: it does something that ours do not.
    """
    config = checked_config(_LorsaConfig, path, content)

    def refuse(what: str, why: str = "") -> UnsupportedDictionaryError:
        return UnsupportedDictionaryError(f"{path}: {what}", why)

    if config.positional_embedding_type not in ("rotary", "none"):
        raise refuse(f"positional_embedding_type {config.positional_embedding_type!r} is unknown")
    if config.rotary_scale != 1:
        raise refuse(f"rotary_scale is {config.rotary_scale}", "here coordinates are not repeated")
    if config.use_post_qk_ln and config.normalization_type != "RMS":
        raise refuse(
            f"queries and keys go through a norm of type {config.normalization_type!r}",
            "an RMSNorm is expected",
        )
    if config.attn_scale is not None and not config.attn_scale > 0:
        raise ForeignFormatError(f"{path}: attn_scale is {config.attn_scale}")
    if not 2 <= config.n_ctx <= _MAX_CONTEXT:
        raise ForeignFormatError(f"{path}: n_ctx is {config.n_ctx}")
    return config


def read_lorsa(path: Path, config: _LorsaConfig, act: Act) -> Lorsa:
    """The weights of a ``lorsa``, folded.

    Raises:
        ForeignFormatError: names file and tensor or field.
        UnsupportedDictionaryError: it is larger than memory.
        UnfoldedDictionaryError: an average norm is missing.
    """
    file = TensorFile(path)
    rotary = config.positional_embedding_type == "rotary"
    tables = rotary and "rotary_sin" in file
    names = ["W_Q", "W_K", "b_Q", "b_K", "W_V", "b_V", "W_O"]
    names += ["b_D"] if config.use_decoder_bias else []
    names += ["ln_q.w", "ln_k.w"] if config.use_post_qk_ln else []
    names += [THRESHOLD] if act == "jumprelu" else []
    names += ["rotary_sin", "rotary_cos"] if tables else []
    file.only(names, ignored=[AVERAGES, *_BUFFERS])
    heads, d, width, s = config.n_qk_heads, config.d_model, config.d_qk_head, config.d_latent
    scale = config.attn_scale or math.sqrt(max(width, 1))
    try:
        shape = LorsaConfig(
            d_model=d,
            d_latent=s,
            n_qk_heads=heads,
            d_qk=width,
            activation=act,
            k=config.top_k if act == "topk" else 32,
            rotary_dim=config.rotary_dim if rotary else 0,
            qk_norm=config.use_post_qk_ln,
            qk_norm_eps=config.eps,
            score_scale=1.0 / scale,
        )
    except ValueError as error:
        raise ForeignFormatError(
            f"{path.with_name(CONFIG_NAME)}: its sizes do not fit together", str(error)[:300]
        ) from error
    # Before room is made for what the configuration says.
    for name, told in (("W_Q", (heads, d, width)), ("W_V", (s, d))):
        file.expect(name, told)
    check_memory(path, [file])
    if rotary:
        frequencies, scaling = _rotation(file, config) if tables else (_formula(path, config), 1.0)
        shape = shape.model_copy(update={"rotary_scaling": scaling})
    lorsa = Lorsa(shape)
    if rotary:
        lorsa.inv_freq = frequencies
    order = _halves(config.rotary_dim, width) if rotary and config.rotary_adjacent_pairs else None

    def take(name: str, size: tuple[int, ...]) -> Tensor:
        tensor = file.read(name, size)
        return tensor if order is None else tensor[..., order].contiguous()

    lorsa.W_Q.data, lorsa.W_K.data = (take(name, (heads, d, width)) for name in ("W_Q", "W_K"))
    lorsa.b_Q.data, lorsa.b_K.data = (take(name, (heads, width)) for name in ("b_Q", "b_K"))
    for name, gain in (("ln_q.w", lorsa.q_gain), ("ln_k.w", lorsa.k_gain)):
        if gain is not None:
            gain.data = take(name, (heads, width))
    lorsa.W_V.data, lorsa.W_O.data = file.read("W_V", (s, d)), file.read("W_O", (s, d))
    lorsa.b_V.data = file.read("b_V", (s,))
    if config.use_decoder_bias:
        lorsa.b_D.data = file.read("b_D", (d,))
    threshold = None
    if isinstance(lorsa.threshold, Tensor):
        threshold = lorsa.threshold.data = read_threshold(file, (s,))
    if config.sparsity_include_decoder_norm:
        norms = torch.linalg.vector_norm(lorsa.W_O.data, dim=1)
        gate_by_norm(act, lorsa.W_V.data, lorsa.b_V.data, lorsa.W_O.data, threshold, norms)
    factors = scales(file, config, config.hook_point_in, config.hook_point_out)
    lorsa.input_scale.fill_(factors.input)
    lorsa.output_scale.fill_(factors.output)
    lorsa.fold()
    return lorsa


def _halves(rotary_dim: int, width: int) -> Tensor:
    """The order of coordinates that turns neighbouring pairs into pairs across the halves."""
    turned = torch.arange(rotary_dim)
    return torch.cat([turned[0::2], turned[1::2], torch.arange(rotary_dim, width)])


def _rotation(file: TensorFile, config: _LorsaConfig) -> tuple[Tensor, float]:
    """Frequencies ``[rotary_dim / 2]`` and scaling from the tables of sines and cosines.

    The angle at position 1 is the frequency, but for rounding. Positions 2, 4, 8, … then tell it
    ever more exactly: what is left of their angle is that many times its error.
    """
    shape = (config.n_ctx, config.rotary_dim)
    sin, cos = (file.read(name, shape).double() for name in ("rotary_sin", "rotary_cos"))
    half = config.rotary_dim // 2
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if config.rotary_adjacent_pairs
        else (slice(0, half), slice(half, None))
    )
    if not (torch.equal(sin[:, first], sin[:, second]) and bool((sin[0] == 0).all())):
        raise ForeignFormatError(
            f"{file.path}: rotary_sin is no table of angles",
            "both coordinates of a pair turn alike, and position 0 does not turn",
        )
    sin, cos = sin[:, first], cos[:, first]
    frequencies = torch.atan2(sin[1], cos[1])
    step = 2
    while step < config.n_ctx:
        angle = torch.atan2(sin[step], cos[step]) - step * frequencies
        frequencies = (
            frequencies + torch.remainder(angle + math.pi, 2 * math.pi).sub(math.pi) / step
        )
        step *= 2
    length = torch.hypot(sin, cos)
    scaling = length.mean().item()
    position = torch.arange(config.n_ctx, dtype=torch.float64).unsqueeze(1)
    error = torch.hypot(
        (position * frequencies).sin() * scaling - sin,
        (position * frequencies).cos() * scaling - cos,
    )
    if not scaling > 0 or error.max().item() > 0.02 * scaling:
        raise ForeignFormatError(
            f"{file.path}: rotary_sin and rotary_cos are no table of angles",
            "they do not turn evenly from position to position",
        )
    return frequencies.float(), 1.0 if abs(scaling - 1.0) < 1e-3 else scaling


def _formula(path: Path, config: _LorsaConfig) -> Tensor:
    """Frequencies ``base^(−2i/rotary_dim)`` (Su et al. 2021), for files without the tables."""
    if config.use_NTK_by_parts_rope or not config.rotary_base > 0:
        raise ForeignFormatError(
            f"{path}: tensor rotary_sin is missing", "its settings do not tell the angles"
        )
    steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.float64) / config.rotary_dim
    return (config.rotary_base**-steps).float()


def write_lorsa(folder: Path, site: Site, lorsa: Lorsa, n_ctx: int) -> None:
    """Write a Lorsa that is folded and plain.

    Args:
        folder: exists and is empty.
        site: the attention that it replaces.
        lorsa: the dictionary.
        n_ctx: the longest prompt that the tool can then use; it saves a table of that length.

    Raises:
        UnsupportedDictionaryError: its attention sees a window, or caps its scores.
    """
    shape = lorsa.config
    for name, value in (("a window", shape.window), ("a cap on scores", shape.score_cap)):
        if value is not None:
            raise UnsupportedDictionaryError(
                f"Llamascopium's Lorsas have not {name}", f"that of {site} has one ({value:g})"
            )
    topk = shape.activation == "topk"
    threshold = None if topk else jump_threshold("Llamascopium", lorsa)
    tensors = {
        name: getattr(lorsa, name)
        for name in ("W_Q", "W_K", "b_Q", "b_K", "W_V", "b_V", "W_O", "b_D")
    }
    tensors["mask"] = torch.ones(n_ctx, n_ctx).tril().bool()
    tensors["IGNORE"] = torch.tensor(-torch.inf)
    if lorsa.q_gain is not None and lorsa.k_gain is not None:
        for name, gain in (("ln_q.w", lorsa.q_gain), ("ln_k.w", lorsa.k_gain)):
            tensors[name] = gain
    base = 10000
    if lorsa.inv_freq is not None:
        frequencies = lorsa.inv_freq.double()
        position = torch.arange(n_ctx, dtype=torch.float64).unsqueeze(1)
        angle = (position * frequencies).repeat(1, 2)
        tensors["rotary_sin"] = (angle.sin() * shape.rotary_scaling).float()
        tensors["rotary_cos"] = (angle.cos() * shape.rotary_scaling).float()
        if len(frequencies) > 1 and 0 < frequencies[1] < 1:
            base = round((frequencies[1] ** (-shape.rotary_dim / 2)).item())
    if threshold is not None:
        tensors[THRESHOLD] = log_threshold(threshold)
    act = "topk" if topk else "relu" if threshold is None else "jumprelu"
    config = common_settings("lorsa", shape.d_model, shape.d_latent, act, shape.k)
    config |= {
        "hook_point_in": our_input_hook(site),
        "hook_point_out": our_output_hook(site),
        "n_qk_heads": shape.n_qk_heads,
        "d_qk_head": shape.d_qk,
        "positional_embedding_type": "rotary" if shape.rotary_dim else "none",
        "rotary_dim": shape.rotary_dim,
        "rotary_base": base,
        "rotary_adjacent_pairs": False,
        "rotary_scale": 1,
        "n_ctx": n_ctx,
        "attn_scale": 1.0 / shape.score_scale,
        "use_post_qk_ln": shape.qk_norm,
        "normalization_type": "RMS" if shape.qk_norm else None,
        "eps": shape.qk_norm_eps,
    }
    save_tensors(folder / WEIGHTS_NAME, tensors)
    save_json(folder / CONFIG_NAME, config)

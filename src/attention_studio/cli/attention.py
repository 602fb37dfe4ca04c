"""Headless commands about attention: why heads look where they look, and what goes through them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Optional, Union

from attention_studio.cli.console import ConsoleContext, Report, UsageError, load_model, open_crm
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.qk_records import (
        FeatureLook,
        Floats,
        HeadPaths,
        KeyTrace,
        QKTrace,
    )
    from attention_studio.core.qk_tracing import Baseline
    from attention_studio.core.replacement_model import LocalModel

_SHOWN = 8
"""Sources of each side in what is written for people."""


def qk(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Say why a head looks where it looks: the pairs of sources that make its score."""
    from attention_studio.core.qk_records import HeadName
    from attention_studio.core.qk_tracing import trace_feature, trace_head

    baseline = _baseline(arguments.baseline)
    if arguments.feature is not None and arguments.query is not None:
        raise UsageError(
            "--query does not go with --feature",
            "a feature's name says the position it looks from",
            "leave it out",
        )
    # Before the model is loaded: the words may be wrong.
    head = None if arguments.head is None else HeadName.parse(arguments.head)
    loaded = load_model(arguments, settings, ctx)
    replacement = open_crm(arguments, loaded, ctx)
    ids = loaded.encode(arguments.prompt)
    tokens = loaded.token_strings(ids)
    local = replacement.localize(ids)
    look: Optional[FeatureLook] = None
    top_k, words = arguments.top_k, arguments.words
    if head is None:
        found = trace_feature(local, arguments.feature, arguments.keys, top_k, baseline, words, ctx)
        look, trace = found.look, found.trace
    else:
        query = -1 if arguments.query is None else arguments.query
        trace = trace_head(local, head, query, arguments.keys, top_k, baseline, words, ctx)
    wording = _Wording(local, trace.names, tokens)
    data = {
        "prompt": arguments.prompt,
        "tokens": tokens,
        "feature": None if look is None else _look_data(look),
        "head": str(trace.head),
        "query": trace.query,
        "baseline": trace.baseline,
        "words": words,
        "score_cap": trace.score_cap,
        "identity_error": trace.identity_error,
        "visible": [
            {"position": int(p), "score": float(s), "probability": float(share)}
            for p, s, share in zip(trace.visible, trace.scores, trace.probabilities, strict=True)
        ],
        "keys": [_key_data(trace, key, top_k) for key in trace.keys],
    }
    lines = [
        *([] if look is None else _look_lines(look, tokens)),
        f"Head {trace.head} at {_place(trace.query, tokens)}: scores before the softmax, "
        f"{_subtracted(trace.baseline, tokens)}",
    ]
    if trace.score_cap is not None:
        lines.append(f"  (before the cap of {trace.score_cap:g} that this family puts on scores)")
    for key in trace.keys:
        lines += _key_lines(key, wording)
    lines.append(f"Sums agree with the scores to {trace.identity_error:.0e}.")
    return Report(data, lines)


def heads(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Say through which of the model's heads a target gets what it reads, or an edge goes."""
    from attention_studio.core.head_paths import head_paths

    loaded = load_model(arguments, settings, ctx)
    replacement = open_crm(arguments, loaded, ctx)
    ids = loaded.encode(arguments.prompt)
    tokens = loaded.token_strings(ids)
    local = replacement.localize(ids)
    target = arguments.into
    if target is None:
        target = f"P{len(ids) - 1}/logit/{int(local.record.logits[-1].argmax())}"
    paths = head_paths(local, target, arguments.source, arguments.top_k)
    data = {
        "prompt": arguments.prompt,
        "tokens": tokens,
        "source": paths.source,
        "target": paths.target,
        "value": paths.value,
        "stayed": paths.stayed,
        "identity_error": paths.identity_error,
        "layers": [
            {"layer": int(layer), "heads": row.tolist(), "bias": float(bias)}
            for layer, row, bias in zip(paths.layers, paths.heads, paths.biases, strict=True)
        ],
        "crossings": [
            {"head": str(c.head), "query": c.query, "key": c.key, "value": c.value}
            for c in paths.crossings
        ],
    }
    return Report(data, _path_lines(paths, tokens))


# ---- words ---------------------------------------------------------------------------------------


class _Wording:
    """Sources in words: name, token, and where a Lorsa's feature got its activation from."""

    def __init__(self, local: LocalModel, names: Sequence[str], tokens: Sequence[str]) -> None:
        self._local, self.names, self.tokens = local, names, tokens

    def __call__(self, source: int) -> str:
        from attention_studio.core.qk_records import BIAS
        from attention_studio.core.qk_tracing import feature_look

        name = self.names[source]
        if name == BIAS:
            return "biases"
        parts = name.split("/")
        position = int(next(part for part in parts if part.startswith("P"))[1:])
        if not (name.startswith("A") and parts[-1].startswith("F")):
            return f"{name} {self.tokens[position]!r}"
        read = int(abs(feature_look(self._local, name).z_pattern).argmax())
        return f"{name} {self.tokens[position]!r} from {_place(read, self.tokens)}"


def _place(position: int, tokens: Sequence[str]) -> str:
    return f"P{position} {tokens[position]!r}"


def _subtracted(baseline: str, tokens: Sequence[str]) -> str:
    if baseline == "none":
        return "as they are"
    if baseline == "mean":
        return "less the mean of all it sees"
    return f"less that of {_place(int(baseline[1:]), tokens)}"


def _key_lines(key: KeyTrace, wording: _Wording) -> list[str]:
    from attention_studio.core.qk_records import strongest

    rest = f" - {key.baseline:.2f} = {key.score - key.baseline:.2f}" if key.baseline else ""
    lines = [
        "",
        f"-> {_place(key.key, wording.tokens)}: {100 * key.probability:.1f}%, "
        f"score {key.score:.2f}{rest}",
    ]
    for title, values in (("query", key.by_query), ("key", key.by_key)):
        lines.append(f"  {title} side")
        lines += [
            f"    {values[source]:+8.3f}  {wording(int(source))}"
            for source in strongest(values, _SHOWN)
        ]
    lines.append("  pairs, query x key")
    pairs = zip(key.pair_value, key.pair_query, key.pair_key, strict=True)
    lines += [
        f"    {value:+8.3f}  {wording(int(first))}  x  {wording(int(second))}"
        for value, first, second in pairs
    ]
    return lines


def _look_lines(look: FeatureLook, tokens: Sequence[str]) -> list[str]:
    from attention_studio.core.qk_records import strongest

    read = ", ".join(
        f"{_place(int(j), tokens)} {look.z_pattern[j]:+.3f} (pattern {100 * look.pattern[j]:.1f}%)"
        for j in strongest(look.z_pattern, 5)
    )
    return [
        f"{look.name} at {_place(look.position, tokens)}: activation {look.activation:.3f}, "
        f"looks with head {look.head}, gets from {read}"
    ]


def _path_lines(paths: HeadPaths, tokens: Sequence[str]) -> list[str]:
    whole = "all that it reads" if paths.source is None else f"its edge from {paths.source}"
    lines = [
        f"{paths.target}: {whole} is {paths.value:+.3f}",
        f"  {paths.stayed:+8.3f}  through no head of the model",
    ]
    if paths.biases.any():
        lines.append(f"  {paths.biases.sum():+8.3f}  biases of attention outputs")
    if len(paths.layers):
        lines.append(f"  {paths.heads.sum():+8.3f}  last through a head:")
    else:
        lines.append("  Every attention below is replaced; see qk for the Lorsas' heads.")
    lines += [
        f"    {crossing.value:+8.3f}  {crossing.head} from {_place(crossing.key, tokens)} "
        f"to {_place(crossing.query, tokens)}"
        for crossing in paths.crossings
    ]
    return lines


# ---- data ----------------------------------------------------------------------------------------


def _key_data(trace: QKTrace, key: KeyTrace, top_k: int) -> dict[str, Any]:
    from attention_studio.core.qk_records import strongest

    def side(values: Floats) -> list[dict[str, Union[str, float]]]:
        return [
            {"source": trace.names[source], "value": float(values[source])}
            for source in strongest(values, top_k)
        ]

    pairs = zip(key.pair_query, key.pair_key, key.pair_value, strict=True)
    return {
        "key": key.key,
        "probability": key.probability,
        "score": key.score,
        "baseline": key.baseline,
        "explained": key.explained,
        "by_query": side(key.by_query),
        "by_key": side(key.by_key),
        "pairs": [
            {"query": trace.names[first], "key": trace.names[second], "value": float(value)}
            for first, second, value in pairs
        ],
    }


def _look_data(look: FeatureLook) -> dict[str, Any]:
    return {
        "name": look.name,
        "position": look.position,
        "activation": look.activation,
        "pattern": look.pattern.tolist(),
        "z_pattern": look.z_pattern.tolist(),
    }


def _baseline(text: str) -> Baseline:
    if text == "mean":
        return "mean"
    if text == "none":
        return "none"
    try:
        return int(text)
    except ValueError as e:
        raise UsageError(
            f"--baseline {text} makes no sense", "", "give mean, none or a position"
        ) from e

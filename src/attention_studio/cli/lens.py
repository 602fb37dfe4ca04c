"""Headless commands that look at one pass: where heads look, and what the stream would say."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    open_crm,
    positive,
)
from attention_studio.core.head_metrics import METRICS, value_text
from attention_studio.core.lens_records import Cell, Patch, PatchSet, depth_name, describe_patch
from attention_studio.utils.config import Settings
from attention_studio.utils.paths import BUILT_IN_CRMS

if TYPE_CHECKING:
    from attention_studio.core.attention_records import AttentionView
    from attention_studio.core.lens_records import LensTable, PatchOutcome
    from attention_studio.core.qk_records import HeadName

_KEYS = 5
"""Positions that a head looks at most, in what is written for people."""


def attention(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Say where all heads look on a prompt, and what kind of head each is."""
    from attention_studio.core.attention_heads import view_attention
    from attention_studio.core.qk_records import HeadName

    # Before the model is loaded: the words may be wrong.
    wanted = [HeadName.parse(text) for text in arguments.head]
    loaded = load_model(arguments, settings, ctx)
    there = arguments.crm is not None or loaded.info.name in BUILT_IN_CRMS
    crm = open_crm(arguments, loaded, ctx) if there else None
    view = view_attention(loaded, arguments.prompt, crm, ctx)
    for head in wanted:
        if head not in view.heads:
            lorsas = f", and Lorsas at {', '.join(map(str, view.lorsas))}" if view.lorsas else ""
            raise UsageError(
                f"There is no head {head}",
                f"there are {view.n_layers} layers of {view.n_heads} heads{lorsas}",
                "name one as LAYER.HEAD, or ALAYER.HEAD of a Lorsa, counted from 0",
            )
    ranked = view.ranked(arguments.rank)
    data = {
        "prompt": view.prompt,
        "tokens": list(view.tokens),
        "model": view.model,
        "crm": crm.name if crm is not None and view.lorsas else None,
        "ranked_by": arguments.rank,
        "n_heads": len(view.heads),
        "heads": [_head_data(view, head) for head in ranked[: arguments.top_k]],
        "patterns": [
            {**_head_data(view, head), "pattern": view.pattern(head).tolist()} for head in wanted
        ],
    }
    shown = (arguments.rank, *(name for name in METRICS if name != arguments.rank))
    lines = [
        f"{len(view.heads)} heads on {len(view.tokens)} tokens, by {METRICS[arguments.rank].title}",
        f"  {'head':>6}  " + "  ".join(f"{name:>15}" for name in shown),
    ]
    lines += [
        f"  {head!s:>6}  "
        + "  ".join(f"{value_text(name, view.metric(head, name)):>15}" for name in shown)
        for head in ranked[: arguments.top_k]
    ]
    if not ranked:
        lines.append(
            "  No head has this figure on this prompt: no token comes twice, or there are too few. "
            "Take a prompt that repeats something, or another figure (induction_probe needs none)."
        )
    for head in wanted:
        lines += _pattern_lines(view, head)
    return Report(data, lines)


def lens(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Say what the residual stream would predict at every depth, also with cells patched."""
    from attention_studio.core.logit_lens import apply_patches, read_lens

    cells = [_patch_cells(text) for text in arguments.patch]
    if arguments.patch_from is not None and not cells:
        raise UsageError(
            "--patch-from does not go without --patch", "", "say with --patch what is put where"
        )
    loaded = load_model(arguments, settings, ctx)
    outcome: Optional[PatchOutcome] = None
    if cells:
        prompt = arguments.prompt
        source = prompt if arguments.patch_from is None else arguments.patch_from
        patches = PatchSet(loaded.info.weights_hash, prompt)
        for start, end in cells:
            patches = patches.with_patch(Patch(source, start, end))
        outcome = apply_patches(loaded, patches, arguments.top_k, ctx)
        table = outcome.after
    else:
        table = read_lens(loaded, arguments.prompt, arguments.top_k, ctx)
    positions = _positions(arguments.position, table.n_tokens)
    data: dict[str, Any] = {
        "prompt": table.prompt,
        "tokens": list(table.tokens),
        "model": table.model,
        "depths": [depth_name(depth) for depth in range(table.n_depths)],
        "positions": [_position_data(table, position) for position in positions],
        "patched": None,
    }
    lines = [f"{table.prompt!r}, {table.n_tokens} tokens, {table.n_depths} depths"]
    if outcome is not None:
        data["patched"] = {**outcome.data(), "change": outcome.change.tolist()}
        lines += _patch_lines(outcome)
    for position in positions:
        lines += _position_lines(table, position)
    return Report(data, lines)


def add_attention_words(sub: argparse.ArgumentParser) -> None:
    """The words of ``attention``."""
    sub.add_argument(
        "--rank", choices=tuple(METRICS), default=next(iter(METRICS)),
        help="the figure that heads are listed by; previous if left out",
    )  # fmt: skip
    sub.add_argument("--top-k", type=positive, default=20, help="heads that are listed")
    sub.add_argument(
        "--head",
        action="append",
        default=[],
        help="say where this one looks, LAYER.HEAD, or ALAYER.HEAD of a Lorsa; may be repeated",
    )


def add_lens_words(sub: argparse.ArgumentParser) -> None:
    """The words of ``lens``."""
    sub.add_argument("--top-k", type=positive, default=5, help="tokens of each cell")
    sub.add_argument(
        "--position",
        type=int,
        nargs="+",
        default=[-1],
        help="read at these positions, the last if left out; negative ones count from the end",
    )
    sub.add_argument(
        "--patch",
        action="append",
        default=[],
        metavar="DEPTH/POSITION=DEPTH/POSITION",
        help="make the stream at the first cell what it is at the second; depth 0 is the "
        "embedding, depth k the stream behind k layers; may be repeated",
    )
    sub.add_argument(
        "--patch-from", metavar="PROMPT", help="take patches from this prompt instead of the same"
    )


# ---- parts ---------------------------------------------------------------------------------------


def _head_data(view: AttentionView, head: HeadName) -> dict[str, Any]:
    """A head's figures; None where it has none."""
    values = {name: view.metric(head, name) for name in METRICS}
    return {
        "head": str(head),
        **{name: value if np.isfinite(value) else None for name, value in values.items()},
    }


def _pattern_lines(view: AttentionView, head: HeadName) -> list[str]:
    pattern = view.pattern(head)
    lines = ["", f"Head {head} looks"]
    for query, row in enumerate(pattern):
        keys = np.argsort(-row[: query + 1], kind="stable")[:_KEYS]
        seen = ", ".join(f"P{key} {view.tokens[key]!r} {100 * row[key]:.0f}%" for key in keys)
        lines.append(f"  from P{query} {view.tokens[query]!r} to {seen}")
    return lines


def _patch_cells(text: str) -> tuple[Cell, Cell]:
    """Source and target of ``2/5=1/4``, which puts into (2, 5) what is in (1, 4)."""
    try:
        target, source = (
            Cell(*(int(part) for part in cell.split("/"))) for cell in text.split("=")
        )
    except (TypeError, ValueError) as e:
        raise UsageError(
            f"--patch {text} makes no sense",
            "",
            "give two cells as DEPTH/POSITION=DEPTH/POSITION, such as 2/5=1/4",
        ) from e
    return source, target


def _positions(wanted: list[int], length: int) -> list[int]:
    for position in wanted:
        if not -length <= position < length:
            raise UsageError(
                f"There is no position {position}",
                f"the prompt has positions 0 to {length - 1}",
                "give one of those, or count from the end with -1",
            )
    return list(dict.fromkeys(position % length for position in wanted))


def _position_data(table: LensTable, position: int) -> dict[str, Any]:
    return {
        "position": position,
        "token": table.tokens[position],
        "end": table.word(int(table.end_ids[position])),
        "settled": table.settled(position),
        "cells": [
            {
                "depth": depth,
                "tokens": [
                    {"token_id": token, "token": table.word(token), "probability": share}
                    for token, share in _tops(table, Cell(depth, position))
                ],
                "end_probability": float(table.end_probability[depth, position]),
                "end_rank": int(table.end_rank[depth, position]),
                "entropy": float(table.entropy[depth, position]),
                "divergence": float(table.divergence[depth, position]),
            }
            for depth in range(table.n_depths)
        ],
    }


def _tops(table: LensTable, cell: Cell) -> list[tuple[int, float]]:
    ids, shares = table.top_ids[cell], table.top_probabilities[cell]
    return list(zip(ids.tolist(), shares.tolist(), strict=True))


def _position_lines(table: LensTable, position: int) -> list[str]:
    end = table.word(int(table.end_ids[position]))
    lines = [
        "",
        f"P{position} {table.tokens[position]!r}: the model says {end!r}, settled "
        f"{depth_name(table.settled(position))}",
        f"  {'':>10}  {'its rank':>8}  {'entropy':>7}  {'to end':>7}  likeliest",
    ]
    for depth in range(table.n_depths):
        tops = ", ".join(
            f"{table.word(token)!r} {100 * share:.0f}%"
            for token, share in _tops(table, Cell(depth, position))
        )
        lines.append(
            f"  {depth_name(depth):>10}  {int(table.end_rank[depth, position]) + 1:>8,}  "
            f"{table.entropy[depth, position]:>7.2f}  {table.divergence[depth, position]:>7.2f}  "
            f"{tops}"
        )
    return lines


def _patch_lines(outcome: PatchOutcome) -> list[str]:
    table = outcome.after
    lines = ["Patched, source → target:"]
    lines += [
        f"  {describe_patch(patch, table.prompt, table.tokens)}"
        for patch in outcome.patches.patches
    ]
    lines.append(f"The prediction behind the last token moved by {outcome.divergence:.3f} nats:")
    lines += [
        f"  {100 * token.probability_before:6.2f}% -> {100 * token.probability_after:6.2f}%  "
        f"{token.token!r}"
        for token in outcome.tokens
    ]
    return lines

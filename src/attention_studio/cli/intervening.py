"""Headless commands that change features: what follows, and whether predictions hold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    open_crm,
    token_words,
)
from attention_studio.core.intervention_specs import (
    Action,
    Edit,
    Freeze,
    Intervention,
    parse_edit,
)
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.generation_records import Continuation, Generation
    from attention_studio.core.intervention_outcomes import Outcome

_ACTIONS: dict[Action, str] = {
    "set": "hold features at an activation",
    "scale": "multiply their activation",
    "add": "add to their activation",
    "ablate": "take them out",
    "swap": "give them the activation that they have in --swap-from (at POSITION there)",
}
_WORDS = {
    "set": "SPEC=VALUE",
    "scale": "SPEC=VALUE",
    "add": "SPEC=VALUE",
    "ablate": "SPEC",
    "swap": "SPEC[=POSITION]",
}


def intervene(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Change features of a prompt and see what the model does."""
    from attention_studio.core.graph_outputs import token_id
    from attention_studio.core.interventions import Interventions

    intervention = Intervention(_edits(arguments.edits, arguments.swap_from))
    freeze = _freeze(arguments)
    loaded = load_model(arguments, settings, ctx)
    tokens = [token_id(loaded, token_words(text)) for text in arguments.token]
    bound = Interventions(open_crm(arguments, loaded, ctx), arguments.prompt, ctx)
    (outcome,) = bound.run([intervention], freeze, tokens, arguments.top_k, arguments.show, ctx)
    names = loaded.token_strings(bound.local.ids)
    strongest = outcome.features.strongest(arguments.show).tolist()
    data: dict[str, Any] = {
        "prompt": arguments.prompt,
        "tokens": names,
        "edits": [str(edit) for edit in intervention.edits],
        "freeze": asdict(freeze),
        "divergence": outcome.divergence,
        "next_tokens": [asdict(effect) for effect in outcome.tokens],
        "logit_difference": None,
        "edited": outcome.edited.rows(range(len(outcome.edited))),
        "features": outcome.features.rows(strongest),
        "n_features_moved": int((outcome.features.change != 0).sum()),
        "newly_active": outcome.newly_active.rows(range(len(outcome.newly_active))),
        "generation": None,
    }
    lines = _outcome_lines(outcome, arguments.show, names)
    if len(tokens) == 2:
        before, after = outcome.logit_difference(*tokens)
        data["logit_difference"] = {"before": before, "after": after}
        one, two = (repr(text) for text in loaded.token_strings(tokens))
        lines.append(f"Logit of {one} less that of {two}: {before:+.3f} -> {after:+.3f}")
    if arguments.generate:
        from attention_studio.core.generation import generate
        from attention_studio.core.generation_records import Sampling

        sampling = Sampling(arguments.temperature, arguments.seed)
        found = generate(
            bound, [intervention], arguments.generate, freeze, sampling, arguments.top_k, ctx
        )
        data["generation"] = _generation_data(found)
        lines += [
            f"Original: {found.original.text!r}",
            f"Changed:  {found.changed[0].text!r}",
        ]
    return Report(data, lines)


def validate(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Ablate sampled features in the model and compare with what the graph predicts."""
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.trace_circumstances import made_by
    from attention_studio.core.validation import validate as run_validation
    from attention_studio.core.validation_plot import save_plot

    plot = None if arguments.plot is None else Path(arguments.plot)
    if plot is not None and plot.suffix != ".svg":
        raise UsageError(f"A plot cannot be written to {plot.name}", "", "end it in .svg")
    groups = [_group(text) for text in arguments.group]
    stored = None if arguments.graph is None else Path(arguments.graph)
    graph = None if stored is None else AttributionGraph.load(stored)
    loaded = load_model(arguments, settings, ctx)
    if graph is not None and (graph.prompt, graph.model_hash) != (
        arguments.prompt, loaded.info.weights_hash,
    ):  # fmt: skip
        raise UsageError(
            f"{arguments.graph} is not of this prompt and model",
            f"it is of {graph.prompt!r} on {graph.model_name}",
            "give the prompt and the model that it was traced with",
        )
    replacement = open_crm(arguments, loaded, ctx)
    if graph is not None and not made_by(graph, replacement):
        other = "another " if graph.crm_name == replacement.name else ""
        raise UsageError(
            f"{arguments.graph} is not of this CRM",
            f"it was traced with {graph.crm_name}, and this is {other}{replacement.name}",
            "give the CRM that it was traced with",
        )
    report = run_validation(
        replacement, arguments.prompt, arguments.samples, arguments.seed, ctx, groups
    )
    head = f"  {'':34} {'pairs':>7} {'r':>7} {'slope':>7} {'error':>7}"
    rows = [
        ("logits, nothing frozen", report.logits),
        ("downstream features, nothing frozen", report.features),
        ("control: random directions", report.control),
    ]
    for site in report.sites:
        count = f"{site.n_samples} feature{'s' if site.n_samples > 1 else ''}"
        rows.append((f"  logits, {count} of {site.label}", site.logits))
    lines = [f"{report.n_samples} features ablated one at a time in {report.prompt!r}", head]
    lines += [
        f"  {name:34} {row.n:7,} {row.correlation:7.3f} {row.slope:7.3f} {row.relative_error:7.3f}"
        for name, row in rows
    ]
    lines += [
        f"  {group.name}: {group.token!r} predicted {group.predicted:+.3f}, measured "
        f"{group.measured:+.3f}, random directions {group.control:+.3f}"
        for group in report.groups
    ]
    lines.append(
        f"  with everything frozen, edges and measured changes differ by at most "
        f"{report.largest_freeze_gap:.1e} of the largest edge"
    )
    if graph is not None and stored is not None:
        replace(graph, validation=report).save(stored)
        lines.append(f"Kept in {stored}")
    if plot is not None:
        save_plot(report, plot)
        lines.append(f"Plotted in {plot}")
    return Report({**report.to_json(), "plot": None if plot is None else str(plot)}, lines)


# ---- the words of the commands -----------------------------------------------------------------


class _EditWord(argparse.Action):
    """Keeps edits of all kinds in the order in which they are given, for later ones count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Union[str, Sequence[Any], None],
        option_string: Optional[str] = None,
    ) -> None:
        words = [values] if isinstance(values, str) else list(values or ())
        action = str(option_string).removeprefix("--")
        edits = [*(getattr(namespace, self.dest, None) or ()), *((action, w) for w in words)]
        setattr(namespace, self.dest, edits)


def add_intervene_words(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``intervene``."""
    for action, help_text in _ACTIONS.items():
        sub.add_argument(
            f"--{action}",
            action=_EditWord,
            dest="edits",
            nargs="+",
            default=[],
            metavar=_WORDS[action],
            help=f"{help_text}; SPEC is LAYER/POSITION/FEATURE, several joined by commas: "
            "L12/P5/F1043 (MLP), A12/*/F7 (attention, all positions)"
            if action == "set"
            else help_text,
        )
    sub.add_argument("--swap-from", metavar="PROMPT", help="the other prompt of --swap")
    sub.add_argument(
        "--freeze",
        choices=("none", "attention", "all"),
        default="none",
        help="none (if left out): what the model really does; attention: patterns and norm "
        "denominators stay; all: the graph's own prediction",
    )
    sub.add_argument("--freeze-from", type=int, default=0, metavar="LAYER")
    sub.add_argument("--freeze-to", type=int, metavar="LAYER")
    sub.add_argument(
        "--features-stay",
        action="store_true",
        help="with --freeze all: other features keep their activation (direct effects)",
    )
    sub.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="TEXT",
        help="report the logit of this token (text, or #ID) too; of two, their difference",
    )
    sub.add_argument("--top-k", type=int, default=5, help="likeliest tokens to report")
    sub.add_argument("--show", type=int, default=10, help="features to report")
    sub.add_argument("--generate", type=int, default=0, metavar="N", help="go on for N tokens")
    sub.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token")
    sub.add_argument("--seed", type=int, default=0)


def add_validate_words(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``validate``."""
    sub.add_argument("--samples", type=int, default=32, help="features to ablate")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=SPEC,SPEC",
        help="ablate these features together too, for example capital=L2/P5/F10,A3/P8/F7",
    )
    sub.add_argument("--plot", help="plot.svg: predicted against measured")
    sub.add_argument(
        "--graph",
        metavar="GRAPH.safetensors",
        help="keep what was found in this stored graph of the prompt",
    )


def _edits(words: Sequence[tuple[Action, str]], swap_from: Optional[str]) -> tuple[Edit, ...]:
    if not words:
        raise UsageError(
            "Nothing is to be changed", "", "say what: --set, --scale, --add, --ablate or --swap"
        )
    swaps = any(action == "swap" for action, _ in words)
    if swaps != (swap_from is not None):
        raise UsageError(
            "--swap and --swap-from belong together", "", "give both, or leave both out"
        )
    return tuple(
        parse_edit(action, text, swap_from if action == "swap" else None) for action, text in words
    )


def _freeze(arguments: argparse.Namespace) -> Freeze:
    layers = arguments.freeze_from != 0 or arguments.freeze_to is not None
    if layers and arguments.freeze != "attention":
        raise UsageError(
            "--freeze-from and --freeze-to choose layers whose attention is frozen",
            "",
            "add --freeze attention",
        )
    if arguments.features_stay and arguments.freeze != "all":
        raise UsageError(
            "--features-stay is about the graph's own prediction", "", "add --freeze all"
        )
    return Freeze(
        arguments.freeze,
        arguments.freeze_from,
        arguments.freeze_to,
        features_respond=not arguments.features_stay,
    )


def _group(text: str) -> Intervention:
    name, equals, features = text.partition("=")
    if not (equals and name.strip()):
        raise UsageError(f"“{text}” is no group", "", "write NAME=L2/P5/F10,A3/P8/F7")
    return Intervention((parse_edit("ablate", features),), name.strip())


# ---- what is printed ---------------------------------------------------------------------------


def _outcome_lines(outcome: Outcome, show: int, names: Sequence[str]) -> list[str]:
    lines = [str(edit) for edit in outcome.intervention.edits]
    lines.append(f"  {'next token':<16} {'before':>8} {'after':>8} {'logit':>17}")
    for effect in outcome.tokens:
        lines.append(
            f"  {effect.token!r:<16} {100 * effect.probability_before:7.2f}% "
            f"{100 * effect.probability_after:7.2f}% "
            f"{effect.logit_before:8.3f}{effect.logit_after:9.3f}"
        )
    lines.append(f"  divergence of the next token: {outcome.divergence:.4f} nats")
    for title, rows in (
        ("changed", outcome.edited.rows(outcome.edited.strongest(show).tolist())),
        ("moved most", outcome.features.rows(outcome.features.strongest(show).tolist())),
        ("active only now", outcome.newly_active.rows(range(len(outcome.newly_active)))),
    ):
        if not rows:
            continue
        lines.append(f"  {title:<18} {'at':<14} {'before':>8} {'after':>8}")
        lines += [
            f"    {row['feature']:<16} {names[row['position']]!r:<14} "
            f"{row['activation_before']:8.3f} {row['activation_after']:8.3f}"
            for row in rows
        ]
    return lines


def _generation_data(found: Generation) -> dict[str, Any]:
    def text(continuation: Continuation) -> dict[str, Any]:
        return {
            "text": continuation.text,
            "ended": continuation.ended,
            "tokens": [asdict(token) for token in continuation.tokens],
        }

    return {
        "original": text(found.original),
        "changed": text(found.changed[0]),
        "first_difference": found.first_difference(0),
    }

"""Headless commands on global weights: gather them, ask them, grow circuits from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    open_crm,
    positive,
)
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.global_weights import Connections, GlobalWeights


def build(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Gather over a text which features feed which."""
    from attention_studio.core.corpus import build_corpus
    from attention_studio.core.global_statistics import GlobalSettings, gather

    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise UsageError(
            f"Global weights cannot be written to {out.name}", "", "end it in .safetensors"
        )
    wanted = GlobalSettings(
        memory_gib=arguments.memory, keep=arguments.keep, strongest=arguments.strongest
    )
    loaded = load_model(arguments, settings, ctx)
    replacement = open_crm(arguments, loaded, ctx)
    seq_len = min(arguments.seq_len, loaded.info.context_length)
    corpus = build_corpus(loaded, arguments.text, seq_len, arguments.tokens, ctx=ctx)
    found = gather(replacement, corpus, out, wanted, arguments.resume, ctx)
    return Report({**_summary(found), "out": str(out)}, [*_lines(found), f"Saved in {out}"])


def show(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """The strongest features above and below some features."""
    from attention_studio.core.global_files import load_global_weights

    weights = load_global_weights(Path(arguments.atlas))
    data, lines = _summary(weights), _lines(weights)
    data["features"] = []
    for name in arguments.feature or ():
        latent = weights.table.find(name)
        answers = {
            "upstream": weights.upstream(latent, arguments.top_k),
            "downstream": weights.downstream(latent, arguments.top_k),
            "unused_upstream": weights.interference(latent, "upstream", arguments.top_k),
            "unused_downstream": weights.interference(latent, "downstream", arguments.top_k),
        }
        data["features"].append(
            {
                **_latent(weights, latent),
                **{key: _links(weights, answer) for key, answer in answers.items()},
            }
        )
        lines += ["", _heading(weights, latent)]
        for title, key in (
            ("is fed by", "upstream"),
            ("feeds", "downstream"),
            ("points to, but never meets, above it", "unused_downstream"),
            ("is pointed to, but never met, from below", "unused_upstream"),
        ):
            lines += _table(weights, answers[key], title, unused=key.startswith("unused"))
    return Report(data, lines)


def grow(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Grow a circuit from features, over the whole text."""
    from attention_studio.core.atlas import SUFFIXES, GrowthSettings
    from attention_studio.core.atlas import grow as grow_circuit
    from attention_studio.core.global_files import load_global_weights

    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.suffix not in SUFFIXES:
        raise UsageError(f"A circuit cannot be written to {out.name}", "", f"end it in {SUFFIXES}")
    wanted = GrowthSettings(
        nodes=arguments.nodes,
        direction=arguments.direction,
        least_relevance=arguments.least_relevance,
        least_share=arguments.least_share,
        most_frequent=arguments.most_frequent,
    )
    weights = load_global_weights(Path(arguments.atlas))
    circuit = grow_circuit(
        weights, [weights.table.find(name) for name in arguments.feature], wanted
    )
    if out is not None:
        circuit.save(out)
    record = circuit.as_record()
    lines = [
        f"{len(circuit.names)} features, {len(circuit.share)} edges",
        f"  {'feature':>12} {'relevance':>9} {'by':>12} {'active':>7} {'covered':>7}  promotes",
    ]
    for node in record["nodes"]:
        words = ", ".join(repr(word) for word in node["promoted"])
        lines.append(
            f"  {node['name']:>12} {node['relevance']:9.4f} {node['joined_by']:>12} "
            f"{node['frequency']:7.2%} {node['covered']:7.1%}  {words}"
        )
    if out is not None:
        lines.append(f"Saved in {out}")
    return Report({**record, "out": None if out is None else str(out)}, lines)


def add_atlas(
    commands: Any,
    crm: argparse.ArgumentParser,
    output: argparse.ArgumentParser,
) -> None:
    """Add ``atlas`` with its actions to the commands; ``crm`` and ``output`` as elsewhere."""
    summary = "Which features feed which over a text, and circuits grown from that."
    atlas = commands.add_parser("atlas", help=summary, description=summary)
    actions = atlas.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Any, parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
        about = (run.__doc__ or "").splitlines()[0]
        sub: argparse.ArgumentParser = actions.add_parser(
            name, parents=[parent], help=about, description=about
        )
        sub.set_defaults(run=run)
        return sub

    sub = action("build", build, crm)
    sub.add_argument("--text", nargs="+", required=True, help="files, folders or samples:N")
    sub.add_argument("--out", required=True, help="the new .safetensors file")
    sub.add_argument("--tokens", type=positive, default=65_536, help="read at most so many tokens")
    sub.add_argument("--seq-len", type=positive, default=128, help="tokens per row")
    sub.add_argument("--memory", type=float, default=4.0, help="GiB for the sums of all pairs")
    sub.add_argument("--keep", type=positive, help="sources kept of each feature; all that fit")
    sub.add_argument(
        "--strongest", type=positive, default=16, help="virtual weights followed of each feature"
    )
    sub.add_argument("--resume", action="store_true", help="go on where a run to --out stopped")

    feature = "L3/F17 for latent 17 of the MLP of layer 3, A3/F17 for its attention"
    sub = action("show", show, output)
    sub.add_argument("--atlas", required=True, help="what atlas build wrote")
    sub.add_argument("--feature", nargs="+", help=feature)
    sub.add_argument("--top-k", type=positive, default=10, help="so many of each kind")

    sub = action("grow", grow, output)
    sub.add_argument("--atlas", required=True, help="what atlas build wrote")
    sub.add_argument("--feature", nargs="+", required=True, help=feature)
    sub.add_argument("--nodes", type=int, default=30, help="at most so many features")
    sub.add_argument("--direction", choices=("upstream", "downstream", "both"), default="both")
    sub.add_argument("--least-relevance", type=float, default=1e-4)
    sub.add_argument("--least-share", type=float, default=0.01)
    sub.add_argument(
        "--most-frequent", type=float, default=1.0, help="leave out features active more often"
    )
    sub.add_argument("--out", help="circuit.json or circuit.graphml")


def _summary(weights: GlobalWeights) -> dict[str, Any]:
    about = weights.about
    return {
        "model": about.model_name,
        "crm": about.crm_name,
        "n_tokens": about.n_tokens,
        "n_rows": about.n_rows,
        "text_hash": about.text_hash,
        "sites": [site.label for site in weights.table.sites],
        "n_latents": len(weights.table),
        "n_active": int((weights.times > 0).sum()),
        "n_pairs": weights.n_pairs,
        "exact": weights.exact,
        "largest_slack_share": float(
            max(weights.slack / weights.reads.clip(min=1e-30), default=0.0)
        ),
        "left_out": list(about.left_out),
    }


def _lines(weights: GlobalWeights) -> list[str]:
    data = _summary(weights)
    lines = [
        f"{data['model']} with {data['crm']}: {data['n_active']:,} of {data['n_latents']:,} "
        f"features active on {data['n_tokens']:,} tokens",
        f"  {data['n_pairs']:,} pairs, "
        + (
            "exact"
            if data["exact"]
            else f"what is left out is at most {data['largest_slack_share']:.2%} of what a "
            "feature reads, each"
        ),
    ]
    if data["left_out"]:
        lines.append(f"  Direct connections only: not through {', '.join(data['left_out'])}")
    return lines


def _latent(weights: GlobalWeights, latent: int) -> dict[str, Any]:
    return {
        "feature": weights.table.name(latent),
        "activation": weights.mean_activation(latent),
        "frequency": weights.frequency(latent),
        "promoted": list(weights.promotes(latent)),
    }


def _links(weights: GlobalWeights, found: Connections) -> list[dict[str, Any]]:
    return [
        {
            **_latent(weights, int(found.others[i])),
            "effect": float(found.effect[i]),
            "share": float(found.share[i]),
            "edge": float(found.edge[i]),
            "virtual": float(found.virtual[i]),
            "count": float(found.count[i]),
            "chance": float(found.chance[i]),
        }
        for i in range(len(found))
    ]


def _words(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words)


def _heading(weights: GlobalWeights, latent: int) -> str:
    return (
        f"{weights.table.name(latent)}, active at {weights.frequency(latent):.2%} of the tokens, "
        f"promotes {_words(weights.promotes(latent)) or 'nothing'}"
    )


def _table(weights: GlobalWeights, found: Connections, title: str, unused: bool) -> list[str]:
    if not len(found):
        return []
    columns = ("virtual", "by chance") if unused else ("share", "effect")
    lines = [f"  {title}:", f"  {'':12} {columns[0]:>9} {columns[1]:>9}  promotes"]
    for i, other in enumerate(found.others.tolist()):
        numbers = (
            f"{found.virtual[i]:9.3f} {found.chance[i]:9.1f}"
            if unused
            else f"{found.share[i]:9.1%} {found.effect[i]:9.3f}"
        )
        words = _words(weights.promotes(other))
        lines.append(f"  {weights.table.name(other):>12} {numbers}  {words}")
    return lines

#!/usr/bin/env python3
"""Attribution graphs: the studio against circuit-tracer, side by side in one run.

    python benchmarks/attribution.py --out FIGURES.json [--threads 2] [--rounds 3]

Everybody traces the same prompt through the same model with the same transcoders, which are
untrained but have the shapes and the sparsity of trained ones (``prepare.py``), stored in
circuit-tracer's format and as a replacement model of the studio. Contestants take turns, so that
whatever else the machine does hits all alike; figures are medians over the rounds.

Comparisons (``--parts``):

- ``kept``: all edges with the model's own attention, against circuit-tracer's ``attribute``; then
  scores and pruning, and the JSON that viewers read, both of the graphs just traced.
- ``complete``: Lorsas in place of all attention. No peer traces such graphs; the unit is the
  model's own forward pass over the same prompt.
- ``demo``: the same on the demo, whose model and dictionaries are trained, and its first standard
  prompt.
- ``lengths``: longer and longer texts with a bounded number of traced features, against what paper
  says (``--plot`` draws it).

``By products``: CPU seconds as a multiple of what the matrix products of a trace need on paper
(``attribution_contestants/paper.py``) at the rate that the machine reaches between the turns.
Memory is the peak beyond what the process held before. circuit-tracer runs in an environment of its
own (``peers.py``), made on first use, with the batch that suits it best here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from attribution_plot import draw_lengths
from contestants import STUDIO, Entry, Job, Process, versions
from peers import peers_folder

from attention_studio.utils.files import write_json_atomic
from attention_studio.utils.paths import DEMO_ASSETS, crm_folder

SCRIPTS = Path(__file__).parent / "attribution_contestants"
PROMPT = "Fact: the capital of the state containing Dallas is"
PEER = "circuit-tracer"
KEPT: dict[str, Job] = {
    "all edges, float32": {},
    "all edges, bfloat16": {"precision": "bfloat16"},
    "95% of influence, float32": {"influence": 0.95},
    "95% of influence, bfloat16": {"influence": 0.95, "precision": "bfloat16"},
}
"""What the studio is told; the first is what circuit-tracer computes."""
COMPLETE: dict[str, Job] = {
    "all edges, float32": {},
    "all edges, bfloat16": {"precision": "bfloat16"},
}
_GEMM_ROWS = 4096


def gemm_rate(width: int, dtype: torch.dtype) -> float:
    """Operations per CPU second of the sweep's commonest product, gradients by a map [d, d]."""
    x = torch.randn(_GEMM_ROWS, width).to(dtype)
    w = torch.randn(width, width).to(dtype)
    torch.mm(x, w)
    began = time.process_time()
    for _ in range(3):
        torch.mm(x, w)
    return 3 * 2 * x.numel() * width / (time.process_time() - began)


class Rates:
    """The machine's rates, measured between the turns."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._found: dict[str, list[float]] = {"float32": [], "bfloat16": []}

    def measure(self) -> None:
        """Take one more of each."""
        for name, found in self._found.items():
            found.append(gemm_rate(self._width, getattr(torch, name)))

    def median(self, name: str) -> float:
        """Operations per CPU second."""
        return statistics.median(self._found[name])


def medians(runs: Sequence[Job]) -> Job:
    """The last of some runs, with the medians of what was measured."""
    measured = {
        name: statistics.median(run[name] for run in runs) for name in ("wall", "cpu", "memory")
    }
    return {**runs[-1], **measured}


def compare_kept(studio: Process, peer: Optional[Process], rounds: int, rates: Rates) -> Job:
    """Trace with everybody in turns; score and write what the studio traced with all edges, and
    what circuit-tracer did."""
    traces: dict[str, list[Job]] = {}
    after: dict[str, dict[str, list[Job]]] = {"score": {}, "write": {}}

    def finish(who: str, process: Process) -> None:
        for what, found in after.items():
            found.setdefault(who, []).append(process.do(what))

    for _ in range(rounds):
        for name, settings in KEPT.items():
            rates.measure()
            traces.setdefault(f"studio, {name}", []).append(
                process_row(studio, "kept", name, settings)
            )
            if not settings:
                finish("studio", studio)
        if peer is not None:
            rates.measure()
            traces.setdefault(PEER, []).append(process_row(peer, None, PEER, {}))
            finish(PEER, peer)
    rows = {name: medians(runs) for name, runs in traces.items()}
    told = {what: {who: medians(runs) for who, runs in of.items()} for what, of in after.items()}
    return {"traces": with_shares(rows, rates), **told}


def compare_complete(studio: Process, rounds: int, rates: Rates) -> Job:
    """Trace the complete model and run the model itself, in turns."""
    traces: dict[str, list[Job]] = {}
    passes: list[Job] = []
    for _ in range(rounds):
        for name, settings in COMPLETE.items():
            rates.measure()
            passes.append(studio.do("forward", times=3))
            found = process_row(studio, "complete", name, settings)
            traces.setdefault(f"studio, {name}", []).append(found)
    forward = {name: statistics.median(run[name] for run in passes) for name in ("wall", "cpu")}
    rows = {name: medians(runs) for name, runs in traces.items()}
    for row in rows.values():
        row["passes"] = {name: row[name] / forward[name] for name in forward}
    return {"forward": forward, "traces": with_shares(rows, rates)}


def compare_lengths(
    studio: Process, lengths: Sequence[int], rows: int, rounds: int, rates: Rates
) -> list[Job]:
    """Trace texts of several lengths, with so many features at most."""
    runs: dict[int, list[Job]] = {length: [] for length in lengths}
    for _ in range(rounds):
        for length in lengths:
            rates.measure()
            settings = {"max_features": rows}
            runs[length].append(process_row(studio, "kept", f"{length} tokens", settings, length))
    found = {str(length): medians(of) for length, of in runs.items()}
    return [{"length": int(name), **row} for name, row in with_shares(found, rates).items()]


def process_row(
    process: Process, which: Optional[str], name: str, settings: Job, length: Optional[int] = None
) -> Job:
    """One trace, told about as it goes."""
    told: Job = {} if which is None else {"which": which, "settings": settings}
    found = process.do("trace", **told, **({} if length is None else {"length": length}))
    print(
        f"{name}: {found['cpu']:.2f} CPU s, {found['wall']:.2f} s, {found['memory']:.0f} MiB",
        file=sys.stderr,
        flush=True,
    )
    on_paper = found.get("paper", {}).get("edges", found["edges"])
    if abs(found["edges"] - on_paper) > 1e-3 * on_paper:  # some happen to be zero
        sys.exit(f"{name}: {found['edges']:,} edges were found, and paper says {on_paper:,}")
    if which is not None and length is None and settings:
        found["differences"] = process.do("differences")
    return {**found, "settings": settings}


def with_shares(rows: dict[str, Job], rates: Rates) -> dict[str, Job]:
    """Rows with what their products need on paper in CPU seconds, and how often that fits."""
    for row in rows.values():
        if "paper" in row:
            rate = rates.median(row["settings"].get("precision", "float32"))
            row["paper"]["seconds"] = row["paper"]["operations"] / rate
            row["times_products"] = row["cpu"] / row["paper"]["seconds"]
    return rows


def kept_table(found: Job) -> list[str]:
    """Markdown: traces, then what is done with them."""
    peer = found["traces"].get(PEER)

    def against(cpu: float, other: Optional[Job]) -> str:
        return "" if other is None else f"1/{other['cpu'] / cpu:.1f}"

    lines = [
        "| kept attention | CPU s | by products | wall s | MiB | rows | edges | against float32: "
        "largest difference, RMS, pruned nodes shared | of circuit-tracer's CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["traces"].items():
        rows = row.get("rows", row["features"] + len(row["tokens"]))
        lines.append(
            f"| {name} | {row['cpu']:.2f} | {times_products(row)} | {row['wall']:.2f} | "
            f"{row['memory']:.0f} | {rows:,} | {row['edges']:,} | {differences(row)} | "
            f"{against(row['cpu'], peer)} |"
        )
    lines += ["", "| afterwards | CPU s | wall s | of circuit-tracer's |", "|---|---|---|---|"]
    for what, words in (("score", "scores and pruning"), ("write", "JSON for viewers")):
        for who, row in found[what].items():
            share = against(row["cpu"], found[what].get(PEER))
            lines.append(f"| {words}, {who} | {row['cpu']:.2f} | {row['wall']:.2f} | {share} |")
    return lines


def times_products(row: Job) -> str:
    """How often the products on paper would fit into the CPU seconds."""
    return f"{row['times_products']:.2f}" if "times_products" in row else ""


def differences(row: Job) -> str:
    """How far a trace is from the one of all edges in float32."""
    found = row.get("differences")
    if found is None:
        return ""
    words = [f"{found[name]:.1e}" for name in ("largest", "rms") if name in found]
    return ", ".join([*words, f"{100 * found['shared']:.1f}%"])


def compare_demo(job: Job, rounds: int, work: Path) -> Job:
    """As ``compare_complete``, on what the package brings along."""
    prompts = json.loads((DEMO_ASSETS / "prompts.json").read_text(encoding="utf-8"))
    told = {
        **job,
        "model": "demo",
        "prompt": prompts[0]["prompt"],
        "complete": str(crm_folder("demo")),
    }
    demo = Process(Entry("demo", STUDIO, "trace_studio.py"), told, SCRIPTS, work)
    demo.answer()
    rates = Rates(demo.do("known")["d_model"])
    found = compare_complete(demo, rounds, rates)
    demo.close()
    return {**found, "prompt": told["prompt"]}


def complete_table(title: str, found: Job) -> list[str]:
    """Markdown: traces of the complete model in forward passes."""
    forward = found["forward"]
    lines = [
        f"| {title} | CPU s | by products | wall s | MiB | edges | against float32 | "
        "forward passes: CPU, wall |",
        "|---|---|---|---|---|---|---|---|",
        f"| the model's forward pass | {forward['cpu']:.3f} | | {forward['wall']:.3f} "
        "| | | | 1, 1 |",
    ]
    for name, row in found["traces"].items():
        passes = row["passes"]
        lines.append(
            f"| {name} | {row['cpu']:.3f} | {times_products(row)} | {row['wall']:.3f} | "
            f"{row['memory']:.0f} | {row['edges']:,} | {differences(row)} | "
            f"{passes['cpu']:.1f}, {passes['wall']:.1f} |"
        )
    return lines


def lengths_table(rows: Sequence[Job]) -> list[str]:
    """Markdown: time and memory against paper."""
    lines = [
        "| tokens | active | rows | edges | CPU s | on paper | MiB | on paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        on_paper = row["paper"]
        lines.append(
            f"| {row['length']} | {row['features']:,} | {row['rows']} | {row['edges']:,} | "
            f"{row['cpu']:.2f} | {on_paper['seconds']:.2f} | {row['memory']:.0f} | "
            f"{on_paper['bytes'] / 2**20:.0f} |"
        )
    return lines


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--latents", type=int, default=2304)
    parser.add_argument("--l0", type=int, default=28, help="active latents per token and module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of every contestant")
    parser.add_argument("--parts", default="kept,complete,demo,lengths")
    parser.add_argument("--rounds", type=int, default=1, help="figures are medians over them")
    parser.add_argument("--lengths", default="16,32,64,128,256", help="in tokens")
    parser.add_argument("--rows", type=int, default=256, help="features traced of longer texts")
    parser.add_argument("--without-peer", action="store_true", help="the studio alone")
    parser.add_argument("--plot", type=Path, help="where to draw the lengths, as PNG")
    parser.add_argument(
        "--work-dir", type=Path, help="for environments and weights; default: the cache folder"
    )
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    """Prepare, measure, print, write."""
    arguments = parse()
    if arguments.work_dir is not None:
        os.environ["ATTENTION_STUDIO_PEERS"] = str(arguments.work_dir.expanduser().absolute())
    work = peers_folder() / "attribution"
    work.mkdir(parents=True, exist_ok=True)
    parts = arguments.parts.split(",")
    if unknown := set(parts) - {"kept", "complete", "demo", "lengths"}:
        sys.exit(f"--parts knows no {', '.join(sorted(unknown))}")
    torch.set_num_threads(arguments.threads)
    names = ("model", "prompt", "latents", "l0", "seed", "threads")
    job: Job = {name: getattr(arguments, name) for name in names}
    job["work"] = str(work)
    print("Preparing", file=sys.stderr)
    prepare = Process(Entry("prepare", STUDIO, "prepare.py"), job, SCRIPTS, work)
    job |= prepare.answer()
    prepare.close()
    studio = Process(Entry("studio", STUDIO, "trace_studio.py"), job, SCRIPTS, work)
    studio.answer()
    known = studio.do("known")
    has_peer = "kept" in parts and not arguments.without_peer
    peer = None
    if has_peer:
        told = {**job, "ids": known["ids"]}
        peer = Process(Entry(PEER, PEER, "trace_circuit_tracer.py"), told, SCRIPTS, work)
        peer.answer()
    rates = Rates(known["d_model"])
    rates.measure()
    figures: Job = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "versions": {who: versions(who) for who in [STUDIO, *([PEER] if has_peer else [])]},
    }
    lines: list[str] = []
    for part in parts:
        if part == "kept":
            figures[part] = compare_kept(studio, peer, arguments.rounds, rates)
            lines += kept_table(figures[part])
        elif part == "complete":
            figures[part] = compare_complete(studio, arguments.rounds, rates)
            lines += complete_table("complete", figures[part])
        elif part == "demo":
            figures[part] = compare_demo(job, arguments.rounds, work)
            lines += complete_table("the demo, complete", figures[part])
        else:
            lengths = [int(length) for length in arguments.lengths.split(",")]
            found = compare_lengths(studio, lengths, arguments.rows, arguments.rounds, rates)
            figures[part] = found
            lines += lengths_table(found)
        lines.append("")
    for process in (studio, peer):
        if process is not None:
            process.close()
    figures["rates"] = {name: rates.median(name) for name in ("float32", "bfloat16")}
    lines.append(
        "GFLOP per CPU second: "
        + ", ".join(f"{rate / 1e9:.0f} in {name}" for name, rate in figures["rates"].items())
    )
    print("\n".join(lines))
    if arguments.out is not None:
        write_json_atomic(arguments.out, figures)
    if arguments.plot is not None and "lengths" in figures:
        draw_lengths(figures["lengths"], arguments.plot)


if __name__ == "__main__":
    main()

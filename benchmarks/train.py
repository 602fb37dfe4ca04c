#!/usr/bin/env python3
"""Training: the studio against SAELens, sparsify and a plain dense loop, side by side in one run.

    python benchmarks/train.py --text TRAIN.txt --heldout HELDOUT.txt [--out FIGURES.json]

Comparisons (``--parts``):

- ``step``: one layer's training step on the same ready activations, batch by batch the same. The
  contestants take turns of a few steps, so that whatever else the machine does hits all alike.
  Tokens a second are the median over steps; quality is measured after the last of them.
- ``lorsa-step``, ``clt-step``: the same for a Lorsa, whose batches are whole sequences, and for a
  cross-layer transcoder, against the plain dense loop from the same start.
- ``harvest-step``: the studio's step on activations harvested in float32 and in bfloat16, both
  measured on the same held-out activations in float32.
- ``one-layer``: from text to a trained transcoder of one layer, each with its own tokenising,
  forward pass and trainer.
- ``all-layers``: from text to transcoders of all layers from one pass over it, against the plain
  dense loop on the same pass.

Each peer runs in an environment of its own (``peers.py``), made on first use. ``GEMM`` is
what the products of a dense loop (five for a transcoder, see ``dense_operations``) would need at
the contestant's rate, as a share of the float32 matrix product rate of the machine measured between
the turns: a dense float32 loop cannot exceed 1, sparse ones can. Memory is the peak of the process
beyond what it was after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Optional

import torch
from contestants import STUDIO, Entry, Job, Process, told, versions
from peers import peers_folder

from attention_studio.utils.ranges import parse_ranges

SCRIPTS = Path(__file__).parent / "train_contestants"


# Learning rates: the studio's default, and 2e-3 for the others, whose own defaults are made for
# a hundred times as many steps and get nowhere in so few.
STEP = (
    Entry("studio", STUDIO, "step_studio.py"),
    Entry("studio, skip", STUDIO, "step_studio.py", {"settings": {"skip": True}}),
    Entry(
        "studio, float32 ranking",
        STUDIO,
        "step_studio.py",
        {"settings": {"selection_dtype": "float32"}},
    ),
    Entry("dense loop", STUDIO, "dense.py", {"rate": 2e-3}),
    Entry("sparsify", "eai-sparsify", "step_sparsify.py", {"rate": 2e-3}),
    Entry("SAELens", "sae-lens", "step_saelens.py", {"rate": 2e-3}),
    Entry("SAELens, autocast", "sae-lens", "step_saelens.py", {"rate": 2e-3, "autocast": True}),
)
_DENSE = "dense_dictionary.py"
_TRAINED_QK = {"settings": {"qk_rate": 0.1}}
LORSA_STEP = (
    Entry("studio", STUDIO, "step_studio.py"),
    Entry("studio, QK trained", STUDIO, "step_studio.py", _TRAINED_QK),
    STEP[2],
    Entry("dense loop", STUDIO, _DENSE),
    Entry("dense loop, QK trained", STUDIO, _DENSE, _TRAINED_QK),
)
CLT_STEP = (
    Entry("studio", STUDIO, "step_studio.py"),
    Entry("studio, norm_aware", STUDIO, "step_studio.py", {"settings": {"norm_aware": True}}),
    STEP[2],
    # What each reaches compares with the dense loop, which clips nothing, only so.
    Entry("studio, not clipped", STUDIO, "step_studio.py", {"settings": {"clip_norm": None}}),
    Entry("dense loop", STUDIO, _DENSE),
)
HARVEST_STEP = tuple(
    Entry(f"studio, {dtype} harvest", STUDIO, "step_studio.py", {"harvest_dtype": dtype})
    for dtype in ("float32", "bfloat16")
)
ONE_LAYER = (
    Entry("studio", STUDIO, "text_studio.py"),
    Entry("sparsify", "eai-sparsify", "text_sparsify.py"),
    Entry("SAELens", "sae-lens", "text_saelens.py", {"rate": 2e-3}),
    Entry("SAELens, autocast", "sae-lens", "text_saelens.py", {"rate": 2e-3, "autocast": True}),
)
ALL_LAYERS = (
    Entry("studio", STUDIO, "text_studio.py"),
    Entry("dense loop", STUDIO, "text_dense.py", {"rate": 2e-3}),
)


def dense_operations(job: Job) -> float:
    """Per token and step: the products of a dense loop, forwards and for all gradients that it
    needs. Norms, activations, softmax and Adam are left out."""
    d, s, length = job["d_model"], job["latents"], job["seq_len"]
    n = len(job["layers"])
    if job["kind"] == "clt":
        # Encoders have a forward product and a weight's gradient, decoders of every pair those and
        # the gradient to the latents.
        return 2 * d * s * (2 * n + 3 * n * (n + 1) / 2)
    found = 10.0 * d * s
    if job["kind"] == "lorsa":
        lorsa = job["lorsa"]
        # Values are mixed by the pattern, and their gradients by its transpose.
        queries, scores = 4 * d * lorsa["d_qk"], 2 * length * lorsa["d_qk"]
        found += 4 * length * s + lorsa["n_qk_heads"] * (queries + scores)
        if job["settings"].get("qk_rate"):
            found += 2 * length * s + lorsa["n_qk_heads"] * (queries + 2 * scores)
    return found


def gemm_rate(job: Job, dtype: torch.dtype) -> float:
    """Operations per CPU second of the encoder's product."""
    x = torch.ones(job["batch"], job["d_model"], dtype=dtype)
    w = torch.ones(job["latents"], job["d_model"], dtype=dtype)
    began = time.process_time()
    torch.mm(x, w.t())
    return 2 * x.numel() * w.shape[0] / (time.process_time() - began)


def compare_steps(
    entries: tuple[Entry, ...], job: Job, slice_steps: int, work: Path, curve: bool = False
) -> list[Job]:
    """Train all entries in turns; a row for each, with ``curve`` also what each reached by every
    turn's end."""
    processes = [Process(entry, job, SCRIPTS, work) for entry in entries]
    for process in processes:
        process.answer()
    times: list[dict[str, list[float]]] = [{"wall": [], "cpu": []} for _ in processes]
    rates: list[float] = []
    curves: list[list[Job]] = [[] for _ in processes]
    for done in range(0, job["steps"], slice_steps):
        count = min(slice_steps, job["steps"] - done)
        rates.extend(gemm_rate(job, torch.float32) for _ in range(3))
        for process, seconds in zip(processes, times, strict=True):
            found = process.ask(f"steps {count}")
            seconds["wall"] += found["wall"]
            seconds["cpu"] += found["cpu"]
        if curve:
            for process, found_so_far in zip(processes, curves, strict=True):
                found_so_far.append(process.ask("evaluate"))
        print(f"\r{done + count} of {job['steps']} steps", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rate = statistics.median(rates)
    rows = []
    for process, seconds, found_so_far in zip(processes, times, curves, strict=True):
        # The first steps fill caches and allocate.
        wall, cpu = (statistics.median(seconds[kind][2:]) for kind in ("wall", "cpu"))
        tokens_per_cpu = job["batch"] / cpu
        operations = dense_operations(told(job, process.entry))
        rows.append(
            {
                "name": process.entry.name,
                "tokens_per_second": job["batch"] / wall,
                "tokens_per_cpu_second": tokens_per_cpu,
                "share_of_gemm": operations * tokens_per_cpu / rate,
                **process.ask("evaluate"),
                "cpu": sum(seconds["cpu"]),
                "curve": [{key: point[key] for key in ("steps", "fvu")} for point in found_so_far],
            }
        )
        process.close()
    rows.append({"name": "machine", "gemm_gflops_per_cpu_second": rate / 1e9})
    return rows


def compare_texts(entries: tuple[Entry, ...], job: Job, repeats: int, work: Path) -> list[Job]:
    """Run all entries from text, one after the other, ``repeats`` times; medians."""
    found: dict[str, list[Job]] = {entry.name: [] for entry in entries}
    for _ in range(repeats):
        for entry in entries:
            process = Process(entry, job, SCRIPTS, work)
            found[entry.name].append(process.answer())
            print(f"{entry.name}: {found[entry.name][-1]}", file=sys.stderr, flush=True)
            process.close()
    return [
        {
            "name": name,
            "tokens": runs[0]["tokens"],
            "tokens_per_second": statistics.median(r["tokens"] / r["wall"] for r in runs),
            "tokens_per_cpu_second": statistics.median(r["tokens"] / r["cpu"] for r in runs),
            "memory": statistics.median(r["memory"] for r in runs),
            "cpu": statistics.median(r["cpu"] for r in runs),
            "parts": runs[-1]["parts"],
        }
        for name, runs in found.items()
    ]


def print_table(title: str, rows: list[Job]) -> None:
    """One comparison, with every row's tokens per CPU second against the studio's."""
    print(f"\n{title}")
    heads = (("tok/s", 8), ("tok/CPU s", 10), ("studio is", 10), ("GEMM", 6), ("MiB", 6))
    heads += (("FVU", 6), ("dead", 6))
    print(" " * 24, *(f"{word:>{width}}" for word, width in heads))
    ours = rows[0]["tokens_per_cpu_second"]
    for row in rows:
        if "tokens_per_second" not in row:
            print(f"float32 products: {row['gemm_gflops_per_cpu_second']:.0f} GFLOP/CPU s")
            continue
        cells = [
            f"{row['name']:24}",
            f"{row['tokens_per_second']:8.0f}",
            f"{row['tokens_per_cpu_second']:10.0f}",
            f"{ours / row['tokens_per_cpu_second']:9.2f}x",
            f"{row['share_of_gemm']:6.2f}" if "share_of_gemm" in row else " " * 6,
            f"{row['memory']:6.0f}",
        ]
        if "fvu" in row:
            cells.append(f"{row['fvu']:6.3f} {100 * row['dead']:5.1f}%")
        print(" ".join(cells))
        if row.get("curve"):
            print("  FVU:", ", ".join(f"{c['steps']}: {c['fvu']:.4f}" for c in row["curve"]))
        if row.get("parts"):
            print("  CPU s:", ", ".join(f"{k} {v:.1f}" for k, v in row["parts"].items()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="text to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="other text, to measure on")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--lorsa-latents", type=int, default=2304)
    parser.add_argument("--clt-layers", default="10-13")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of every contestant")
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        help='fields of TrainConfig for the steps, as JSON: {"clip_norm": null}',
    )
    parser.add_argument("--parts", default="step,one-layer,all-layers")
    parser.add_argument(
        "--vary",
        type=json.loads,
        help="instead of the contestants of a part of steps, the studio alone, once for each of "
        'these changes to its settings, one after the other: {"slow": {"learning_rate": 2e-3}, '
        '"wide": {"latents": 9216}}',
    )
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="train transcoders on the activations that the last run with the same text, layer and "
        "numbers of tokens left in the work folder",
    )
    parser.add_argument("--curve", action="store_true", help="measure after every turn, too")
    parser.add_argument("--only", help="names of contestants, separated by semicolons")
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--slice", type=int, default=8, help="steps per turn")
    parser.add_argument(
        "--tokens",
        type=int,
        default=196_608,
        help="activations for the steps; each takes 8 bytes per coordinate and layer on the disk",
    )
    parser.add_argument("--heldout-tokens", type=int, default=16_384)
    parser.add_argument("--one-layer-tokens", type=int, default=65_536)
    parser.add_argument("--all-layers-tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=1, help="of the runs from text")
    parser.add_argument(
        "--work-dir", type=Path, help="for environments and activations; default: the cache folder"
    )
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


def chosen(entries: tuple[Entry, ...], only: Optional[str]) -> tuple[Entry, ...]:
    """The entries that were asked for."""
    names = None if only is None else {name.strip() for name in only.split(";")}
    return tuple(entry for entry in entries if names is None or entry.name in names)


def varied(changes: dict[str, Job]) -> tuple[Entry, ...]:
    """The studio once for each change; the width is no setting of the step, but told beside."""
    return tuple(
        Entry(
            name,
            STUDIO,
            "step_studio.py",
            {
                "settings": {key: value for key, value in change.items() if key != "latents"},
                **{key: value for key, value in change.items() if key == "latents"},
            },
        )
        for name, change in changes.items()
    )


_DECIDE_ACTIVATIONS = (
    *("kind", "model", "layers", "seq_len", "seed"),
    *("tokens", "heldout_tokens", "text", "heldout_text", "harvest_dtype"),
)


def job_of(part: str, arguments: argparse.Namespace, work: Path) -> Job:
    """What the contestants of a part are told."""
    kind, latents = "transcoder", arguments.latents
    layers: tuple[int, ...] = (arguments.layer,)
    if part == "lorsa-step":
        kind, latents = "lorsa", arguments.lorsa_latents
    elif part == "clt-step":
        kind, layers = "clt", parse_ranges(arguments.clt_layers, 1000)
    return {
        "kind": kind,
        "model": arguments.model,
        "layers": layers,
        "latents": latents,
        "k": arguments.k,
        "batch": arguments.batch,
        "seq_len": arguments.seq_len,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "steps": arguments.steps,
        "tokens": arguments.tokens,
        "heldout_tokens": arguments.heldout_tokens,
        "text": str(arguments.text.absolute()),
        "heldout_text": str(arguments.heldout.absolute()),
        "train": str(work / "train.f32"),
        "heldout": str(work / "heldout.f32"),
        "start": str(work / "start.safetensors"),
        "settings": arguments.settings,
        "harvest_dtype": "auto",
    }


def prepared(job: Job, work: Path, reuse: bool = False) -> Job:
    """The job with the facts of its model, once its activations are on the disk.

    With ``reuse`` a transcoder's are taken that an earlier run left there, if they are the same.
    """
    note = Path(job["train"]).with_suffix(".json")
    of = {key: str(job[key]) for key in _DECIDE_ACTIVATIONS}
    if reuse and job["kind"] == "transcoder" and note.is_file():
        left = json.loads(note.read_text(encoding="utf-8"))
        if left["of"] == of:
            return {**job, **left["facts"]}
    print("Collecting activations", file=sys.stderr)
    note.unlink(missing_ok=True)
    collect = Process(Entry("collect", STUDIO, "collect.py"), job, SCRIPTS, work)
    facts = collect.answer()
    collect.close()
    note.write_text(json.dumps({"of": of, "facts": facts}), encoding="utf-8")
    return {**job, **facts}


def of_harvests(entries: tuple[Entry, ...], job: Job, work: Path) -> tuple[tuple[Entry, ...], Job]:
    """Activations in every entry's type, each in a file of its own; the job has the held-out ones
    of the first."""
    facts: list[Job] = []
    told_entries = []
    for entry in entries:
        dtype = entry.options["harvest_dtype"]
        files = {name: str(work / f"{name}-{dtype}.f32") for name in ("train", "heldout")}
        facts.append(prepared({**job, **files, "harvest_dtype": dtype}, work))
        told_entries.append(replace(entry, options={**entry.options, "train": files["train"]}))
    return tuple(told_entries), facts[0]


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    if arguments.work_dir is not None:
        os.environ["ATTENTION_STUDIO_PEERS"] = str(arguments.work_dir.expanduser().absolute())
    work = peers_folder() / "train"
    work.mkdir(parents=True, exist_ok=True)
    parts = arguments.parts.split(",")
    torch.set_num_threads(arguments.threads)
    every = {
        "step": STEP,
        "lorsa-step": LORSA_STEP,
        "clt-step": CLT_STEP,
        "harvest-step": HARVEST_STEP,
        "one-layer": ONE_LAYER,
        "all-layers": ALL_LAYERS,
    }
    entries = {part: chosen(every[part], arguments.only) for part in parts}
    if arguments.vary is not None:
        entries |= {part: varied(arguments.vary) for part in parts if part.endswith("step")}
    if empty := [part for part in parts if not entries[part]]:
        sys.exit(f"--only names no contestant of {', '.join(empty)}")
    environments = sorted({e.environment for found in entries.values() for e in found})
    figures: Job = {
        "versions": {name: versions(name) for name in environments},
        "settings": {name: str(value) for name, value in vars(arguments).items()},
    }
    facts: Job = {}
    for part in parts:
        job = job_of(part, arguments, work)
        if part.endswith("step"):
            if part == "harvest-step":
                contestants, job = of_harvests(entries[part], job, work)
            else:
                contestants, job = entries[part], prepared(job, work, arguments.reuse)
            # Variants are many, and compared by what they reach: no need to hold them all at once.
            turns = [contestants] if arguments.vary is None else [(one,) for one in contestants]
            rows = []
            for taking_turns in turns:
                rows += compare_steps(taking_turns, job, arguments.slice, work, arguments.curve)
            title = f"{part}, layers {job['layers']}, after {arguments.steps} steps"
        else:
            if not facts:
                few = {"tokens": arguments.batch, "heldout_tokens": 0}
                facts = prepared({**job, **few}, work)
            tokens = arguments.one_layer_tokens
            layers = [arguments.layer]
            if part == "all-layers":
                tokens, layers = arguments.all_layers_tokens, list(range(facts["n_layers"]))
            print(f"From text, {part}", file=sys.stderr)
            todo = {**facts, "layers": layers, "tokens": tokens}
            rows = compare_texts(entries[part], todo, arguments.repeats, work)
            title = f"From text to trained transcoders, {part}, {tokens} tokens"
        print_table(title, rows)
        figures[part] = rows
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

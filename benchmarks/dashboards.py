#!/usr/bin/env python3
"""Feature dashboards: gathering against SAEDashboard, and the first page of any feature.

    python benchmarks/dashboards.py --text TEXT.txt [--crm FOLDER] --out FIGURES.json

Parts (``--parts``):

- ``gather``: both go over the same text with the same transcoder of one layer of the same model, on
  one thread and in turns, so that whatever else the machine does hits both alike; figures are
  medians over the rounds. The studio gathers all features of the transcoder, neighbours included,
  and writes them; SAEDashboard gathers ``--features`` of them, drawn evenly, and keeps them in
  memory. It is compared by CPU seconds a feature, and by tokens and features a second. How often
  each feature fires must be the same on both sides, but for roundings.
- ``pages``: a store of ``--store-features`` made-up features with as many examples as gathering
  keeps; a fresh process opens it and reads pages of features drawn by chance, each the first time.
- ``window``: the same store in the studio's window: from choosing a feature to its painted page.
- ``demo``: gathering all features of the demo over its own text of ``--demo-tokens``.

SAEDashboard runs in an environment of its own (``peers.py``), made on first use. Memory is the peak
beyond what the process held before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contestants import STUDIO, Entry, Job, Process, versions
from peers import peers_folder

from attention_studio.utils.files import write_json_atomic

SCRIPTS = Path(__file__).parent / "dashboard_contestants"
PEER = "sae-dashboard"
PARTS = ("gather", "pages", "window", "demo")
REACH = 5.0
"""By how much gathering should be cheaper, in CPU time a feature."""
ALIKE: Job = {"sink_factor": 0}
"""Norm sinks are looked at as well, for SAEDashboard does."""
_MEASURED = ("wall", "cpu", "memory")


def medians(runs: Sequence[Job]) -> Job:
    """The last of some runs, with the medians of what was measured."""
    measured = {name: statistics.median(run[name] for run in runs) for name in _MEASURED}
    return {**runs[-1], **measured}


def compare_gathering(job: Job, rounds: int, n_features: int, batch: int, work: Path) -> Job:
    """Everybody gathers in turns."""
    prepare = Process(Entry("prepare", STUDIO, "prepare_dashboards.py"), job, SCRIPTS, work)
    job = {**job, **prepare.answer()}
    prepare.close()
    studio = Process(Entry("studio", STUDIO, "gather_studio.py"), job, SCRIPTS, work)
    studio.answer()
    peer = Process(Entry(PEER, PEER, "gather_sae_dashboard.py"), job, SCRIPTS, work)
    peer.answer()
    chosen = np.linspace(0, job["latents"] - 1, n_features).round().astype(int).tolist()
    # Caches are filled and libraries loaded.
    studio.do("gather", rows=8)
    peer.do("gather", rows=8, features=chosen[:8], batch=batch)
    runs: dict[str, list[Job]] = {"studio": [], "studio, no neighbours": [], PEER: []}
    for _ in range(rounds):
        for name, found in (
            ("studio", studio.do("gather", rows=job["rows"], **ALIKE)),
            (
                "studio, no neighbours",
                studio.do("gather", rows=job["rows"], neighbours=False, **ALIKE),
            ),
            (PEER, peer.do("gather", rows=job["rows"], features=chosen, batch=batch)),
        ):
            print(f"{name}: {found['cpu']:.1f} CPU s, {found['wall']:.1f} s", file=sys.stderr)
            runs[name].append(found)
    studio.close()
    peer.close()
    rows = {name: medians(found) for name, found in runs.items()}
    mine = np.array(rows["studio"].pop("fired"))[chosen]
    rows["studio, no neighbours"].pop("fired")
    theirs = np.array(rows[PEER].pop("fired"))
    for row in rows.values():
        row["cpu_per_feature"] = row["cpu"] / row["features"]
        row["tokens_per_second"] = row["tokens"] / row["wall"]
    return {
        "rows": rows,
        "job": job,
        "fired": {"studio": int(mine.sum()), PEER: int(theirs.sum())},
        "differing": int((mine != theirs).sum()),
        "largest_difference": int(np.abs(mine - theirs).max()),
        "times_cheaper": rows[PEER]["cpu_per_feature"] / rows["studio"]["cpu_per_feature"],
    }


def gathering_table(found: Job) -> list[str]:
    """Markdown."""
    lines = [
        "| | features | tokens | CPU s | CPU ms a feature | wall s | tokens a second | "
        "features times tokens a CPU second | peak MiB beyond the model | process MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        both = row["features"] * row["tokens"] / row["cpu"]
        lines.append(
            f"| {name} | {row['features']:,} | {row['tokens']:,} | {row['cpu']:.1f} | "
            f"{1000 * row['cpu_per_feature']:.2f} | {row['wall']:.1f} | "
            f"{row['tokens_per_second']:.0f} | {both:,.0f} | {row['memory']:.0f} | "
            f"{row['process']:.0f} |"
        )
    fired, n_peer = found["fired"], found["rows"][PEER]["features"]
    lines += [
        "",
        f"Of CPU time a feature the studio takes 1/{found['times_cheaper']:.1f} "
        f"(to reach: 1/{REACH:.0f}). Of {n_peer:,} features on both sides "
        f"{found['differing']:,} fire at another number of tokens, by at most "
        f"{found['largest_difference']}; {fired['studio']:,} and {fired[PEER]:,} firings in all.",
    ]
    return lines


def run_apart(script: str, *words: object) -> Job:
    """A part in a fresh process of the studio's environment."""
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": os.environ.get("QT_QPA_PLATFORM", "offscreen"),
        "PYTHONPATH": str(Path(__file__).parent),  # clock.py
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-4000:])
    found: Job = json.loads(done.stdout.splitlines()[-1])
    return found


def times_lines(title: str, found: Job) -> list[str]:
    """Markdown: how long pages took."""
    kinds = [
        f"median {found[f'{kind}_median']:.1f}, 95% within {found[f'{kind}_p95']:.1f}, the first "
        f"{found[f'{kind}_first']:.1f}, the others at most "
        f"{found[f'{kind}_later_max']:.1f} ms {words}"
        for kind, words in (("cpu", "of CPU time"), ("wall", "on the wall"))
    ]
    opened = f"; opening the store {found['open']:.1f} ms" if "open" in found else ""
    of = f"{found['n']} features among {found['features']:,}"
    return [f"{title}, {of}: {'; '.join(kinds)}{opened}"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--crm", type=Path, help="take its transcoder; default: an untrained one")
    parser.add_argument("--latents", type=int, default=4608, help="of an untrained transcoder")
    parser.add_argument("--l0", type=int, default=32, help="active latents a token")
    parser.add_argument("--text", type=Path, help="for the part gather")
    parser.add_argument("--rows", type=int, default=256, help="of the text")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--features", type=int, default=512, help="that SAEDashboard gathers")
    parser.add_argument("--batch", type=int, default=256, help="features at once in SAEDashboard")
    parser.add_argument("--store-features", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--demo-tokens", type=int, default=65_536)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of every contestant")
    parser.add_argument("--rounds", type=int, default=1, help="figures are medians over them")
    parser.add_argument(
        "--work-dir", type=Path, help="for environments and stores; default: the cache folder"
    )
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    """Prepare, measure, print, write."""
    arguments = parse()
    if arguments.work_dir is not None:
        os.environ["ATTENTION_STUDIO_PEERS"] = str(arguments.work_dir.expanduser().absolute())
    work = peers_folder() / "dashboards"
    work.mkdir(parents=True, exist_ok=True)
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"--parts knows no {', '.join(sorted(unknown))}")
    figures: Job = {"settings": {name: str(value) for name, value in vars(arguments).items()}}
    lines: list[str] = []
    if "gather" in parts:
        if arguments.text is None:
            sys.exit("the part gather needs --text")
        names = ("model", "layer", "latents", "l0", "rows", "seq_len", "seed", "threads")
        job: Job = {name: getattr(arguments, name) for name in names}
        job |= {"work": str(work), "text": str(arguments.text.expanduser().resolve())}
        job["crm"] = "" if arguments.crm is None else str(arguments.crm.expanduser().resolve())
        figures["versions"] = {who: versions(who) for who in (STUDIO, PEER)}
        found = compare_gathering(job, arguments.rounds, arguments.features, arguments.batch, work)
        figures["gather"] = found
        lines += [*gathering_table(found), ""]
    store = work / f"store-{arguments.store_features}"
    if {"pages", "window"} & set(parts) and not store.exists():
        print(f"Making a store of {arguments.store_features:,} features", file=sys.stderr)
        run_apart("large_store.py", store, arguments.store_features, arguments.seed)
    if "pages" in parts:
        figures["pages"] = run_apart("read_pages.py", store, arguments.pages, arguments.seed)
        lines += times_lines("Page read the first time", figures["pages"])
    if "window" in parts:
        figures["window"] = run_apart("window_pages.py", store, arguments.pages, arguments.seed)
        lines += times_lines("In the window, from choosing to painted", figures["window"])
    if "demo" in parts:
        found = run_apart("gather_demo.py", arguments.demo_tokens, arguments.threads)
        figures["demo"] = found
        lines.append(
            f"The demo: {found['features']:,} features over {found['tokens']:,} tokens in "
            f"{found['cpu']:.1f} CPU s ({found['wall']:.1f} s), {found['disk']:.0f} MiB on disk, "
            f"peak {found['memory']:.0f} MiB beyond the model"
        )
    print("\n".join(lines))
    if arguments.out is not None:
        write_json_atomic(arguments.out, figures)


if __name__ == "__main__":
    main()

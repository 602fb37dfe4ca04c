"""From text to transcoders with the plain loop: a forward pass, then a dense step per layer."""

from __future__ import annotations

import contest
import torch
from collect import harvester, load
from dense import Dense

from attention_studio.core.corpus import build_corpus
from attention_studio.core.sites import mlp_sites

_SEQUENCES = 8


@torch.no_grad()
def work(job: contest.Job) -> int:
    """The pass over the text is the studio's own: all layers at once, in bfloat16 where fast."""
    loaded = load(job)
    sites = mlp_sites(tuple(job["layers"]))
    job["start"]()
    adapter = harvester(loaded, sites, job["harvest_dtype"])
    n = job["tokens"]
    corpus = build_corpus(loaded, [job["text"]], job["seq_len"], n + n // 20 + 4 * job["seq_len"])
    dense: dict[object, Dense] = {}
    steps = n // job["batch"]
    waiting: dict[object, list[tuple[torch.Tensor, torch.Tensor]]] = {s: [] for s in sites}
    first = done = 0
    while done < steps:
        ids = torch.from_numpy(corpus.tokens[first : first + _SEQUENCES]).long()
        first += _SEQUENCES
        for site, found in adapter.harvest(ids, sites).items():
            # Without each sequence's first token, as the studio does.
            x, y = (t[:, 1:].flatten(0, 1) for t in (found.inputs, found.outputs))
            waiting[site].append((x, y))
        while sum(len(x) for x, _ in waiting[sites[0]]) >= job["batch"] and done < steps:
            for site in sites:
                x, y = (torch.cat(parts) for parts in zip(*waiting[site], strict=True))
                waiting[site] = [(x[job["batch"] :], y[job["batch"] :])]
                x, y = x[: job["batch"]].float(), y[: job["batch"]].float()
                if site not in dense:
                    spread = (y - y.mean(0)).square().mean().sqrt()
                    scales = float(1 / x.square().mean().sqrt()), float(1 / spread)
                    dense[site] = Dense({**job, "steps": steps}, scales)
                with torch.enable_grad():
                    dense[site].step(x, y)
            done += 1
    return done * job["batch"]


if __name__ == "__main__":
    contest.run_once(work)

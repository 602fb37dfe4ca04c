#!/usr/bin/env python3
"""Scores what is said of the demo's induction heads against what is true by construction.

    python scripts/score_heads.py [--crm demo]

A head that goes on with what was said before must look at the word after the earlier copy of the
last word, because that copy stood before it. Asked of the standard prompts where a word comes
again: is the strongest pair of words the last word and its earlier copy; what does such a pair give
to other keys; and when the five features that are said to draw the head there are taken out of the
model, nothing frozen, does it look elsewhere, by as much as was said?
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.model_adapter import Replacement
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.qk_heads import QKHead
from attention_studio.core.qk_records import HeadName, KeyTrace
from attention_studio.core.qk_tracing import trace_head
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.sites import Site
from attention_studio.demo.building import PROMPTS_FILE
from attention_studio.utils.files import read_json
from attention_studio.utils.paths import DEMO_ASSETS, crm_folder

TASKS = ("sequences", "repeated_names", "recall")
HEADS = ("2.0", "3.1", "3.2")
TAKEN_OUT = 5
ALL_PAIRS = 1 << 30


class Score(NamedTuple):
    """Of one head on one prompt.

    Attributes:
        looks: whether it looks most at a word after an earlier copy of the last one.
        right: whether the strongest pair of words is the last one and that copy.
        pair: what that pair adds; others: what such pairs add to other keys.
        before, without, without_others: its attention there, and without the features.
        predicted, measured: changes of the score less the mean, of the five and of five others.
    """

    looks: bool
    right: bool
    pair: float
    others: list[float]
    before: float
    without: float
    without_others: float
    predicted: tuple[float, float]
    measured: tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crm", default="demo", help="demo, demo-clt or the folder of another")
    arguments = parser.parse_args()
    loaded = ModelManager().load_model_sync("demo")
    crm = CompleteReplacementModel.from_folder(loaded, crm_folder(arguments.crm))
    prompts = [r["prompt"] for r in read_json(DEMO_ASSETS / PROMPTS_FILE) if r["task"] in TASKS]
    generator = torch.Generator().manual_seed(0)
    scores = []
    for prompt in prompts:
        local = crm.localize(loaded.encode(prompt))
        scores += [score(local, HeadName.parse(head), generator) for head in HEADS]
    others = [value for one in scores for value in one.others]
    predicted = np.array([one.predicted for one in scores])
    measured = np.array([one.measured for one in scores])
    r = np.corrcoef(predicted.ravel(), measured.ravel())[0, 1]
    slope = (predicted * measured).sum() / (predicted**2).sum()
    beaten = sum(one.pair <= max(one.others) for one in scores)

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in scores]))

    print(f"{len(scores)} cases: {len(prompts)} prompts, heads {', '.join(HEADS)}")
    print(f"look after the earlier copy         {sum(one.looks for one in scores)}")
    print(f"strongest pair of words is the copy {sum(one.right for one in scores)}")
    print(f"what that pair adds                 {mean('pair'):.2f}")
    print(f"what such pairs add to other keys   {np.mean(others):.2f}")
    print(f"another key's is as large           {beaten}")
    print(f"attention there                     {100 * mean('before'):.1f}%")
    print(f"  without the five features         {100 * mean('without'):.1f}%")
    print(f"  without five others               {100 * mean('without_others'):.1f}%")
    for name, column in (("the five", 0), ("five others", 1)):
        said, seen = predicted[:, column].mean(), measured[:, column].mean()
        print(f"score without {name:<12} said {said:+.2f}, measured {seen:+.2f}")
    print(f"said against measured: r {r:.3f}, slope {slope:.3f}")


def score(local: LocalModel, head: HeadName, generator: torch.Generator) -> Score:
    """One head at the last word."""
    ids, query = local.ids, len(local.ids) - 1
    attention = local.record.patterns[head.layer, head.head, query]
    key = int(attention.argmax())
    words = trace_head(
        local, head, query, range(2, len(ids)), top_k=ALL_PAIRS, follow_features=True
    )
    first = len(words.names) - 1 - len(ids)
    pairs = {one.key: _pair(one, first + query, first + one.key - 1) for one in words.keys}
    (of_key,) = (one for one in words.keys if one.key == key)
    # The start token stands before every prompt alike, so it is no word of this one.
    real = (of_key.pair_query > first) & (of_key.pair_key > first)
    real &= np.maximum(of_key.pair_query, of_key.pair_key) < len(words.names) - 1
    strongest = int(np.flatnonzero(real)[0])
    where = (int(of_key.pair_query[strongest]) - first, int(of_key.pair_key[strongest]) - first)

    (traced,) = trace_head(local, head, query, [key]).keys
    five, others = _chosen(local, traced, generator)
    before = _reading(local, head, key)
    without, without_others = (_ablated(local, chosen) for chosen in (five, others))
    after = [_reading(changed, head, key) for changed in (without, without_others)]
    return Score(
        looks=ids[key - 1] == ids[query],
        right=where == (query, key - 1),
        pair=pairs[key],
        others=[
            value
            for other, value in pairs.items()
            if ids[other - 1] != ids[query] and other - 1 != query
        ],
        before=before[1],
        without=after[0][1],
        without_others=after[1][1],
        predicted=(-float(traced.by_key[five].sum()), -float(traced.by_key[others].sum())),
        measured=(after[0][0] - before[0], after[1][0] - before[0]),
    )


def _pair(key: KeyTrace, first: int, second: int) -> float:
    found = key.pair_value[(key.pair_query == first) & (key.pair_key == second)]
    return float(found[0]) if len(found) else 0.0


def _chosen(local: LocalModel, key: KeyTrace, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The features at a key that draw a head there most, and as many others of their modules."""
    features = local.features
    here = torch.nonzero(features.position == key.key).squeeze(1)
    order = torch.argsort(torch.as_tensor(key.by_key)[here], descending=True, stable=True)
    five = here[order[:TAKEN_OUT]]
    rest = here[torch.isin(features.site[here], features.site[five]) & ~torch.isin(here, five)]
    return five, rest[torch.randperm(len(rest), generator=generator)[:TAKEN_OUT]]


def _ablated(local: LocalModel, chosen: Tensor) -> LocalModel:
    """The model without what some features write, nothing frozen."""
    changes = local.feature_changes(chosen, -1.0)

    def edit(site: Site) -> Replacement:
        def function(_: Tensor, outputs: Tensor) -> Tensor:
            changed = outputs.clone()
            for change in changes:
                if change.site == site:
                    changed[0].index_put_((change.position,), change.rows, accumulate=True)
            return changed

        return function

    with local.adapter.replaced({site: edit(site) for site in local.errors}):
        record = local.adapter.record(local.ids)
    return LocalModel(local.adapter, local.dictionaries, local.ids, record)


def _reading(local: LocalModel, name: HeadName, key: int) -> tuple[float, float]:
    """A head's score of a key at the last word, less the mean, and its attention."""
    query = len(local.ids) - 1
    head = QKHead(local, name)
    scores = head.scores(query)
    place = key - head.visible(query).start
    share = local.record.patterns[name.layer, name.head, query, key]
    return float(scores[place] - scores.mean()), float(share)


if __name__ == "__main__":
    main()

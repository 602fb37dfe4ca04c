"""Holds sentences of a story against what they link to. No model is asked, and none can argue.

A sentence stands if it has evidence, all of its evidence exists, every claim is what is to be seen
there, and its words say what its claims say. An effect has to be measured: a run that changed just
the features of its subject, moved its object, and moved it more than as many other features do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.agents.circuit_story import (
    EDGE,
    LEAST_LOG_ODDS,
    LEAST_SHARE,
    Claim,
    Direction,
    Effect,
    Link,
    Sentence,
    Story,
    StoryError,
    StoryExample,
    StoryLook,
    StoryRun,
    StorySupernode,
    Struck,
    activity,
    log_odds,
    output_levels,
    sense_of,
)
from attention_studio.agents.story_words import (
    directions,
    keys_in,
    mentions,
    shown,
    text_problem,
)
from attention_studio.core.attribution_graph import NodeKind, contrasted
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import feature_of
from attention_studio.core.graph_pruning import TINY

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

_LEAST_EDGE = 0.005
"""A share below says nothing of what feeds what."""


class EvidenceBook:
    """All that sentences of one story may rest on.

    Args:
        graph: the whole graph.
        supernodes, runs, examples, looks: those of the story.

    Raises:
        StoryError: they are not of this graph.
    """

    def __init__(
        self,
        graph: AttributionGraph,
        supernodes: Iterable[StorySupernode] = (),
        runs: Iterable[StoryRun] = (),
        examples: Iterable[StoryExample] = (),
        looks: Iterable[StoryLook] = (),
    ) -> None:
        self.graph = graph
        self.supernodes = {one.key: one for one in supernodes}
        self.runs = {one.key: one for one in runs}
        self.examples = {one.link: one for one in examples}
        self.looks = {one.feature: one for one in looks}
        self._shares: dict[tuple[str, str], float] = {}
        for one in self.supernodes.values():
            lost = [name for name in one.nodes if not graph.has(name)]
            if lost or not one.nodes:
                raise StoryError(
                    f"Supernode {one.key} is not of this graph", f"{(lost or ['nothing'])[0]}"
                )
        for look in self.looks.values():
            group = self.supernodes.get(look.supernode)
            words = (look.query_word, look.key_word)
            if group is None or look.feature not in group.nodes or not all(map(graph.has, words)):
                raise StoryError(f"The look of {look.feature} is not of this story")
        for run in self.runs.values():
            if (run.run.plan.prompt, run.run.model_hash) != (graph.prompt, graph.model_hash):
                raise StoryError(f"Run {run.key} is of another prompt or model")
            if run.run.plan.freeze.mode != "none":
                raise StoryError(f"Run {run.key} froze the model, so it measured nothing")

    # -- what there is -------------------------------------------------------------------------

    def nodes_of(self, name: str) -> tuple[int, ...]:
        """The nodes that a name or key stands for; () where there are none."""
        group = self.supernodes.get(name)
        if group is not None:
            return tuple(self.graph.find(node) for node in group.nodes)
        return (self.graph.find(name),) if self.graph.has(name) else ()

    def has(self, link: Link) -> bool:
        """Whether what a link names exists."""
        if link.kind == "supernode":
            return link.reference in self.supernodes
        if link.kind == "run":
            return link.reference in self.runs
        if link.kind == "example":
            return link.reference in self.examples
        if link.kind == "look":
            return link.reference in self.looks
        if link.kind == "node":
            return self.graph.has(link.reference)
        source, arrow, target = link.reference.partition(EDGE)
        return bool(arrow) and self.share(source, target) != 0.0

    def share(self, source: str, target: str) -> float:
        """Signed share of the input that ``target`` gets from outside which ``source`` gives it;
        0 where no edge leads there (see ``core.subgraph``)."""
        key = (source, target)
        if key not in self._shares:
            self._shares[key] = self._share(self.nodes_of(source), self.nodes_of(target))
        return self._shares[key]

    def _share(self, sources: Sequence[int], targets: Sequence[int]) -> float:
        signed = outside = 0.0
        for node in targets:
            nodes, weights = self.graph.edges.into(node)
            rows = weights.astype(np.float64) / max(float(self.graph.totals[node]), float(TINY))
            mine = np.isin(nodes, sources) & ~np.isin(nodes, targets)
            signed += float(rows[mine].sum())
            outside += float(np.abs(rows[~np.isin(nodes, targets)]).sum())
        return signed / outside if outside > 0 else 0.0

    def token(self, name: str) -> Optional[str]:
        """The token of a token's or output's node."""
        nodes = () if name in self.supernodes else self.nodes_of(name)
        return self.graph.node_tokens.get(nodes[0]) if nodes else None

    def look_words(self, look: StoryLook) -> str:
        """What a look is told as. Who finds which word where is told in no other words: code could
        not tell whether they say the same."""
        at, here = (f"P{place}/token" for place in (look.key, look.query))
        names = (at, here, look.query_word, look.key_word)
        called = {name: f"“{shown(self.token(name) or '?')}” ({name})" for name in names}
        group = self.supernodes[look.supernode]
        return (
            f"From {called[here]}, {group.key} “{shown(group.name)}” looks at {called[at]} with "
            f"{100 * look.attention:.1f}% of its attention: the strongest pair of words in its "
            f"score is {called[look.query_word]} with {called[look.key_word]}, {look.value:+.2f}."
        )

    # -- what was measured ---------------------------------------------------------------------

    def effect(self, run: StoryRun, name: str) -> Optional[Effect]:
        """What a run did to an output or supernode; None: it does not tell."""
        sense, control = sense_of(run.run), run.control.get(name, 0.0)
        group = self.supernodes.get(name)
        if group is not None:
            found = activity(run.run, group.nodes)
            if found is None or found[0] <= 0:
                return None
            left = (1.0, found[1] / found[0])
            return Effect(*found, left, control, sense, LEAST_SHARE * found[0])
        nodes = self.nodes_of(name)
        if not nodes or self.graph.nodes.kind[nodes[0]] != NodeKind.LOGIT:
            return None
        index = int(self.graph.nodes.index[nodes[0]])
        levels = None if contrasted(index) is not None else output_levels(run.run, index)
        if levels is None:
            return None
        odds = (log_odds(levels[0]), log_odds(levels[1]))
        return Effect(*odds, levels, control, sense, LEAST_LOG_ODDS)

    def runs_of(self, subject: str) -> list[StoryRun]:
        """The runs that changed the features of a supernode, and no others."""
        group = self.supernodes.get(subject)
        if group is None:
            return []
        wanted = set(group.nodes)
        return [
            run
            for run in self.runs.values()
            if {one.feature for one in run.run.edited} == wanted and sense_of(run.run) != 0
        ]

    # -- sentences -----------------------------------------------------------------------------

    def problem(self, sentence: Sentence) -> Optional[str]:
        """Why a sentence does not stand; None: it does."""
        if not sentence.evidence:
            return "it has no evidence"
        for link in sentence.evidence:
            if not self.has(link):
                return f"its evidence does not exist: {link.kind} {shown(link.reference)}"
        if not sentence.claims:
            return "it claims nothing that could be checked"
        for claim in sentence.claims:
            wrong = self._claim_problem(claim, sentence.evidence)
            if wrong is not None:
                return wrong
        return self._words_problem(sentence)

    def _claim_problem(self, claim: Claim, evidence: Sequence[Link]) -> Optional[str]:
        linked: set[tuple[str, str]] = {(link.kind, link.reference) for link in evidence}
        kind = "supernode" if claim.subject in self.supernodes else "node"
        if (kind, claim.subject) not in linked:
            return f"it does not link to {shown(claim.subject)}, of which it speaks"
        if claim.kind in ("token", "answer"):
            wanted = NodeKind.EMBEDDING if claim.kind == "token" else NodeKind.LOGIT
            nodes = self.nodes_of(claim.subject)
            if kind != "node" or self.graph.nodes.kind[nodes[0]] != wanted:
                return f"{shown(claim.subject)} is no {claim.kind}"
            there = self.token(claim.subject)
            if there is None or there != claim.object:
                return f"{claim.subject} is “{shown(there or '?')}”, not “{shown(claim.object)}”"
            return None
        if claim.kind == "fires":
            return self._fires_problem(claim, evidence)
        if claim.kind in ("looks", "matches"):
            return self._look_problem(claim, evidence)
        if claim.direction is None:
            return "it says neither raises nor lowers"
        if claim.kind == "writes":
            group = self.supernodes.get(claim.subject)
            words = () if group is None else group.writes
            if claim.direction == "lowers" and group is not None:
                words = group.suppresses
            if claim.object not in words:
                return f"{claim.subject} does not write that: “{shown(claim.object)}”"
            return None
        if not self.nodes_of(claim.object):
            return f"there is no {shown(claim.object)}"
        if claim.kind == "feeds":
            return self._feeds_problem(claim, linked)
        return self._effect_problem(claim, evidence)

    def _fires_problem(self, claim: Claim, evidence: Sequence[Link]) -> Optional[str]:
        own = {feature_of(self.graph.node_name(node)) for node in self.nodes_of(claim.subject)}
        for link in evidence:
            example = self.examples.get(link.reference) if link.kind == "example" else None
            if example is None or example.value <= 0:
                continue
            if _plain(example.feature) in own and example.tokens[example.peak] == claim.object:
                return None
        return f"no example of {claim.subject} fires on “{shown(claim.object)}”"

    def _look_problem(self, claim: Claim, evidence: Sequence[Link]) -> Optional[str]:
        for link in evidence:
            look = self.looks.get(link.reference) if link.kind == "look" else None
            if look is None:
                continue
            if claim.kind == "matches":
                if (look.query_word, look.key_word) == (claim.subject, claim.object):
                    return None
                continue
            nodes = self.nodes_of(claim.object)
            there = nodes and self.graph.nodes.kind[nodes[0]] == NodeKind.EMBEDDING
            if there and (look.supernode, look.key) == (
                claim.subject,
                int(self.graph.nodes.position[nodes[0]]),
            ):
                return None
        if claim.kind == "matches":
            return f"no look comes of {shown(claim.subject)} and {shown(claim.object)}"
        return f"no look of {claim.subject} goes to {shown(claim.object)}"

    def _feeds_problem(self, claim: Claim, linked: set[tuple[str, str]]) -> Optional[str]:
        if ("edge", f"{claim.subject}{EDGE}{claim.object}") not in linked:
            return f"it does not link to the edge {claim.subject}{EDGE}{claim.object}"
        share = self.share(claim.subject, claim.object)
        if abs(share) < _LEAST_EDGE:
            return f"next to nothing flows from {claim.subject} to {claim.object}"
        if _signed(share) != claim.direction:
            return f"by the graph {claim.subject} {_signed(share)} {claim.object}"
        for run in self.runs_of(claim.subject):
            effect = self.effect(run, claim.object)
            if effect is not None and effect.clear and effect.direction != claim.direction:
                return f"{run.key} refutes it: {_measured(effect)}"
        return None

    def _effect_problem(self, claim: Claim, evidence: Sequence[Link]) -> Optional[str]:
        named = {link.reference for link in evidence if link.kind == "run"}
        runs = [run for run in self.runs_of(claim.subject) if run.key in named]
        if not runs:
            return f"no run that it links to changed {claim.subject} and it alone"
        measured = False
        for run in runs:
            effect = self.effect(run, claim.object)
            if effect is None:
                continue
            measured = True
            if not effect.clear:
                return f"{run.key} shows no more than other features do: {_measured(effect)}"
            if effect.direction != claim.direction:
                return f"{run.key} refutes it: {_measured(effect)}"
        return None if measured else f"its runs do not tell what becomes of {shown(claim.object)}"

    # -- words ---------------------------------------------------------------------------------

    def _words_problem(self, sentence: Sentence) -> Optional[str]:
        quotes, names, figures = self._material(sentence)
        wrong = text_problem(sentence.text, quotes, names, figures)
        if wrong is not None:
            return wrong
        looks = [self.looks[one.reference] for one in sentence.evidence if one.kind == "look"]
        if looks and sentence.text not in map(self.look_words, looks):
            return "it says otherwise than was traced what attention looks for"
        for claim in sentence.claims:
            for name in (claim.subject, claim.object):
                if not any(mentions(sentence.text, word) for word in self._called(name)):
                    return f"it does not mention {shown(name)}, which it is about"
        meant: set[Direction] = {
            claim.direction for claim in sentence.claims if claim.direction is not None
        }
        said = directions(sentence.text)
        if said is None:
            return "it denies something, or leaves open what moves"
        if len(meant) > 1:
            return "it says two things that go different ways"
        if said != meant:
            words = " and ".join(sorted(said)) or "nothing of the kind"
            wants = " and ".join(sorted(meant)) or "nothing of the kind"
            return f"its words say {words}, what it rests on says {wants}"
        return None

    def _called(self, name: str) -> tuple[str, ...]:
        group = self.supernodes.get(name)
        if group is not None:
            return (group.key, group.name)
        token = self.token(name)
        return (name,) if token is None else (name, token)

    def _material(self, sentence: Sentence) -> tuple[set[str], set[str], set[float]]:
        """What a sentence may quote, mention, and give as figures."""
        quotes: set[str] = set()
        names: set[str] = set()
        figures: set[float] = set()
        nodes: list[int] = []
        objects = {claim.object for claim in sentence.claims}
        for link in sentence.evidence:
            names.update(link.reference.split(EDGE))
            if link.kind == "node":
                nodes += self.nodes_of(link.reference)
            elif link.kind == "supernode":
                group = self.supernodes[link.reference]
                nodes += self.nodes_of(link.reference)
                quotes |= {group.name, *group.writes, *group.suppresses, *group.at}
                quotes |= {token for token, _ in group.hears}
                figures |= {float(len(group.nodes)), *(100 * part for _, part in group.hears)}
            elif link.kind == "edge":
                source, _, target = link.reference.partition(EDGE)
                figures.add(100 * self.share(source, target))
            elif link.kind == "look":
                look = self.looks[link.reference]
                figures |= {100 * look.attention, look.value, look.score}
            elif link.kind == "example":
                example = self.examples[link.reference]
                quotes |= {*example.tokens, "".join(example.tokens)}
                figures.add(example.value)
            else:
                figures |= self._run_figures(self.runs[link.reference], objects)
        for node in nodes:
            names.add(self.graph.node_name(node))
            quotes.add(self.graph.tokens[int(self.graph.nodes.position[node])])
            if node in self.graph.node_tokens:
                quotes.add(self.graph.node_tokens[node])
                figures.add(100 * float(self.graph.nodes.probability[node]))
            figures.add(float(self.graph.nodes.position[node]))
        return quotes, names, figures

    def _run_figures(self, run: StoryRun, objects: Iterable[str]) -> set[float]:
        figures: set[float] = {float(len(run.run.edited)), float(run.n_controls)}
        if run.run.plan.edits:
            figures.add(float(run.run.plan.edits[0].value))
        for name in objects:
            effect = self.effect(run, name)
            if effect is not None:
                figures |= {100 * level for level in effect.shown}
                figures |= {effect.change, effect.control, effect.before, effect.after}
                figures.add(100 * (effect.shown[1] - effect.shown[0]))
        return figures


def check_story(
    story: Story, graph: AttributionGraph, sentences: Optional[Sequence[Sentence]] = None
) -> Story:
    """A story with what does not stand struck, and the reasons beside it.

    Args:
        story: what is checked; what was struck stays so.
        graph: the whole graph that it is of.
        sentences: to check instead of the story's own.

    Raises:
        StoryError: the story is not of this graph.
    """
    if (story.prompt, story.model_hash) != (graph.prompt, graph.model_hash):
        raise StoryError("The story is of another prompt or model")
    book = EvidenceBook(graph, story.supernodes, story.runs, story.examples, story.looks)
    kept: list[Sentence] = []
    struck = list(story.struck)
    for sentence in story.sentences if sentences is None else sentences:
        wrong = book.problem(sentence)
        if wrong is None:
            kept.append(sentence)
        else:
            struck.append(Struck(sentence, wrong))
    return replace(story, sentences=tuple(kept), struck=tuple(struck))


def name_problem(book: EvidenceBook, key: str, name: str) -> Optional[str]:
    """Why a supernode cannot be called so; None: it can.

    A name is what somebody thinks; what code can see is whether it names a token that is at home
    elsewhere: in the prompt, among the outputs, or with another supernode.
    """
    own = book.supernodes[key]
    if not name.strip() or directions(name) != set() or keys_in(name):
        return "it is empty, claims an effect, or is a key"
    mine = {*own.at, *own.writes, *own.suppresses, *(token for token, _ in own.hears)}
    mine |= {example.tokens[example.peak] for example in book.examples.values()
             if _plain(example.feature) in {feature_of(node) for node in own.nodes}}  # fmt: skip
    words = {shown(token).casefold() for token in mine}
    others = {shown(token).casefold() for token in book.graph.tokens[1:]}
    others |= {
        shown(token).casefold()
        for node, token in book.graph.node_tokens.items()
        if book.graph.nodes.kind[node] == NodeKind.LOGIT
    }
    for other in book.supernodes.values():
        others |= {shown(token).casefold() for token in other.writes}
    for word in name.replace("/", " ").split():
        bare = word.strip(".,;:()'\"").casefold()
        if (len(bare) > 3 or bare.isdecimal()) and bare in others - words:
            return f"“{bare}” belongs elsewhere"
    return None


def _plain(feature: str) -> Optional[str]:
    """A feature's name without position."""
    name = FeatureName.read(feature)
    return None if name is None else str(FeatureName(name.site, None, name.latent))


def _signed(share: float) -> Direction:
    return "raises" if share > 0 else "lowers"


def _measured(effect: Effect) -> str:
    before, after = (100 * level for level in effect.shown)
    moved = f"{effect.change:+.2g}, others {effect.control:.2g}"
    return f"{before:.3g}% before, {after:.3g}% after ({moved})"

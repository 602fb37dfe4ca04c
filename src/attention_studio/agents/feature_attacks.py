"""Texts written to refute an explanation, run through the real model.

What an explanation says of a text is decided by whoever wrote it for that; what the feature does is
measured. A text on which both differ refutes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

from attention_studio.agents.explanations import Attack
from attention_studio.agents.feature_material import FeatureMaterial, Probe
from attention_studio.agents.firing_rules import (
    BOUNDARIES,
    Clause,
    FiringRule,
    printable,
    text_starts,
)
from attention_studio.core.feature_records import Example
from attention_studio.utils.errors import StudioError

MAX_TEXT = 600
"""Characters of a text that a model may write."""


def run_attack(
    probe: Probe, text: str, should_fire: bool, by: str, rule: Optional[FiringRule] = None
) -> Attack:
    """What the model makes of a text; with a ``rule`` it decides whether the text should fire, by
    the tokens that the model makes of it."""
    text = text[:MAX_TEXT]
    try:
        tokens, values = probe(text)
    except StudioError as error:  # empty, too long: it says nothing then
        return Attack(text, should_fire, None, str(error), by)
    if not len(values):
        return Attack(text, should_fire, None, "it has no tokens", by)
    if rule is not None:
        should_fire = bool(rule.matches(tokens).any())
    place = int(np.asarray(values).argmax())
    return Attack(text, should_fire, float(values[place]), printable(tokens[place]), by)


def attack_rule(
    rule: FiringRule, material: FeatureMaterial, by: str, each: int = 4, seed: int = 0
) -> tuple[Attack, ...]:
    """Attack a rule with texts that are made from others.

    Into texts on which the feature is silent something is put that the rule says it fires on; from
    texts on which it fires all is taken that the rule says it fires on.
    """
    if material.probe is None:
        return ()
    rng = np.random.default_rng([seed, material.page.index])
    silent = _starts(material.held_out.quiet)
    fires = _starts(material.held_out.fires)
    found: list[Attack] = []
    for should_fire, texts in ((True, silent), (False, fires)):
        made = 0
        for tokens in texts:
            if made == each:
                break
            changed = (
                _put_in(rule, tokens, rng) if should_fire else _taken_out(rule, tokens, silent, rng)
            )
            if changed is None:
                continue
            text = _joined(changed)
            found.append(run_attack(material.probe, text, should_fire, by, rule))
            made += 1
    return tuple(found)


def _starts(examples: Sequence[Example]) -> list[tuple[str, ...]]:
    """The text that each example is about, from its own start on where that is shown."""
    found = []
    for example in examples:
        start = text_starts(example.tokens)[example.peak]
        start += example.tokens[start] in BOUNDARIES
        tokens = example.tokens[start:]
        end = next((n for n, token in enumerate(tokens) if token in BOUNDARIES), len(tokens))
        if end >= 2:
            found.append(tokens[:end])
    return found


def _put_in(
    rule: FiringRule, tokens: tuple[str, ...], rng: np.random.Generator
) -> Optional[tuple[str, ...]]:
    """A text with what a clause asks for put into it; None: the clause cannot be made true."""
    clause = rule.clauses[int(rng.integers(len(rule.clauses)))]
    if clause.followed:
        return _foretold(rule, clause, tokens, rng)
    if not (clause.tokens or clause.before or clause.earlier):
        return None
    at = int(rng.integers(1, len(tokens)))
    put: list[str] = [_one(one.tokens, rng) for one in clause.earlier]
    if clause.before:
        put.append(_one(clause.before, rng))
    put.append(_one(clause.tokens, rng) if clause.tokens else tokens[at])
    changed = (*tokens[:at], *put, *tokens[at + 1 :])
    return changed if rule.matches(changed).any() else None


def _foretold(
    rule: FiringRule, clause: Clause, tokens: tuple[str, ...], rng: np.random.Generator
) -> Optional[tuple[str, ...]]:
    """A text in which what is foretold stands wherever another token stood: where that one could
    be foretold, this one can."""
    said_again = [token for token in dict.fromkeys(tokens) if tokens.count(token) > 1]
    old = _one(said_again or tokens[1:], rng)
    new = _one(clause.followed, rng)
    changed = tuple(new if token == old else token for token in tokens)
    return changed if changed != tokens and rule.matches(changed).any() else None


def _taken_out(
    rule: FiringRule,
    tokens: tuple[str, ...],
    others: Sequence[tuple[str, ...]],
    rng: np.random.Generator,
) -> Optional[tuple[str, ...]]:
    """A text in which tokens that the rule holds at are replaced by other texts' tokens; of tokens
    that it foretells all are, here and earlier."""
    pool = [token for other in others for token in other]
    changed = list(tokens)
    foretold = {token for clause in rule.clauses for token in clause.followed}
    seen = FiringRule(tuple(clause for clause in rule.clauses if not clause.followed))
    if not pool or not rule.matches(changed).any():
        return None
    for _ in range(8):
        if not rule.matches(changed).any():
            return tuple(changed)
        for place in np.flatnonzero(seen.matches(changed)).tolist():
            changed[place] = _one(pool, rng)
        for token in sorted(foretold.intersection(changed)):
            other = _one(pool, rng)
            changed = [other if one == token else one for one in changed]
    return None


def _one(tokens: Sequence[str], rng: np.random.Generator) -> str:
    return tokens[int(rng.integers(len(tokens)))]


def _joined(tokens: Sequence[str]) -> str:
    return "".join(token for token in tokens if token not in BOUNDARIES).removeprefix(" ")

"""Explains a feature without any language model: from tokens, contexts and logit effects.

It is the baseline that a model's explanations have to beat, and what is used where there is no
model. Everything that it says is counted on the examples that it was given, and the examples stand
beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from attention_studio.agents.explanations import (
    DETERMINISTIC,
    MAX_LABEL,
    MAX_SENTENCE,
    Evidence,
    Explanation,
    now,
)
from attention_studio.agents.firing_rules import Clause, FiringRule, printable, quoted
from attention_studio.agents.rule_search import CONDITIONS, Condition, find_rule
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import Example, FeaturePage

_POOR_FIT = 0.4
_SAID_NEXT = 0.5
_N_PROMOTED, _N_EXAMPLES, _N_LOOKED = 8, 4, 4
_LEAST_LOOK = 0.3


def explain_page(
    page: FeaturePage,
    silent: Sequence[Example] = (),
    more: Sequence[Example] = (),
    conditions: Collection[Condition] = CONDITIONS,
) -> Explanation:
    """Explain a feature.

    Args:
        page: what is known of it.
        silent: stretches of text on which it does not fire; without them, what does not fire is
            known from the tokens around firing ones alone.
        more: stretches on which it fires, beside those of the page.
        conditions: what rules may say.
    """
    name = feature_name(page)
    fires = page_examples(page, more)
    if page.dead or not fires:
        sentence = (
            f"Never active at {f'{page.n_tokens:,}' if page.counted else 'the'} tokens."
            if page.dead
            else "There are no examples to explain it from."
        )
        return Explanation(
            name, "dead" if page.dead else "unknown", sentence, (), DETERMINISTIC, now()
        )
    raised = [token for token, effect in page.promoted[:_N_PROMOTED] if effect > 0]
    found = find_rule([*fires, *silent], page.max_activation, raised, conditions)
    says = _says(page, fires)
    looks = _looks(fires)
    label = _label(found.rule, found.fit, says, page)
    sentences = []
    if found.rule.clauses:
        sure = "Fires on" if found.fit >= _POOR_FIT else "Fires best, though badly, on"
        sentences.append(f"{sure} {found.rule.words()}")
        sentences.append(_counted(found.rule, fires, silent))
    else:
        sentences.append("No tokens, contexts or places tell where it fires")
    if looks:
        sentences.append(f"looks back at {quoted(looks)}")
    if says:
        sentences.append(f"the next token is often {quoted(says)}, which it raises")
    elif page.promoted:
        sentences.append(f"raises {quoted([token for token, _ in page.promoted[:3]])}")
    sentence = "; ".join(part for part in sentences if part) + "."
    return Explanation(
        feature=name,
        label=_cut(label, MAX_LABEL),
        sentence=_cut(sentence, MAX_SENTENCE),
        evidence=tuple(_evidence(page, found.rule, fires, says, looks)),
        author=DETERMINISTIC,
        made_at=now(),
        rule=found.rule if found.rule.clauses else None,
    )


_OTHERS: tuple[tuple[Condition, ...], ...] = (
    tuple(one for one in CONDITIONS if one != "followed"),
    ("tokens",),
    ("before",),
    ("followed",),
    ("earlier",),
    ("shape", "repeats"),
)


def explain_in_ways(
    page: FeaturePage, silent: Sequence[Example] = (), more: Sequence[Example] = ()
) -> list[Explanation]:
    """Explanations with different rules, to choose from: that of ``explain_page`` first, then the
    best ones that speak of fewer things, as far as they are others. None where there is no rule."""
    ways = (CONDITIONS, *_OTHERS)
    found = [explain_page(page, silent, more, conditions=one) for one in ways]
    alone: dict[str, Explanation] = {}
    for one in found:
        if one.rule is not None:
            alone.setdefault(one.rule.words(), one)
    return list(alone.values())


def feature_name(page: FeaturePage) -> str:
    """The name of a page's feature."""
    return str(FeatureName(page.site, None, page.index))


def example_reference(example: Example) -> str:
    """How evidence points to an example: the row of the text and the token in it."""
    return f"text {example.sequence}:{example.start + example.peak}"


def page_examples(page: FeaturePage, more: Sequence[Example] = ()) -> list[Example]:
    """The examples of a page and some others, each once."""
    found: dict[tuple[object, ...], Example] = {}
    for example in (*(one for group in page.groups for one in group.examples), *more):
        key = (example.sequence, example.start, example.peak, example.tokens)
        found.setdefault(key, example)
    return list(found.values())


def _says(page: FeaturePage, fires: Sequence[Example]) -> tuple[str, ...]:
    """Tokens that it raises and that come next in at least half of the firings, the commonest
    first; () where it foretells nothing."""
    raised = {token for token, effect in page.promoted[:_N_PROMOTED] if effect > 0}
    came: Counter[str] = Counter()
    weight = total = 0.0
    for example in fires:
        for place, value in enumerate(example.values[:-1].tolist()):
            if value > 0:
                total += value
                following = example.tokens[place + 1]
                if following in raised:
                    weight += value
                    came[following] += 1
    if not total or weight / total < _SAID_NEXT:
        return ()
    return tuple(token for token, _ in came.most_common(3))


def _looks(fires: Sequence[Example]) -> tuple[str, ...]:
    """The tokens that an attention feature looks at, beside its own, those most looked at first."""
    seen: Counter[str] = Counter()
    total = 0.0
    for example in fires:
        if example.looks_at is None:
            continue
        looks = example.looks_at.clip(min=0.0)
        before = example.looks_before if example.looks_before > 0 else 0.0  # or not known
        total += float(looks.sum()) + before
        for place, share in enumerate(looks.tolist()):
            if place != example.peak:
                seen[example.tokens[place]] += share
    if not total or sum(seen.values()) / total < _LEAST_LOOK:
        return ()
    return tuple(token for token, _ in seen.most_common(_N_LOOKED))


def _label(rule: FiringRule, fit: float, says: Sequence[str], page: FeaturePage) -> str:
    raised = f"says {quoted(says, 2)}" if says else ""
    if not rule.clauses or fit < _POOR_FIT:
        if raised:
            return raised
        words = quoted([token for token, _ in page.promoted[:2]])
        return f"no simple rule; raises {words}" if words else "no simple rule"
    clause = rule.clauses[0]
    parts = [_short(clause)]
    if len(rule.clauses) > 1:
        parts.append(f"or {_short(rule.clauses[1])}")
    if raised:
        parts.append(f"and {raised}" if len(parts) == 1 else raised)
    return ", ".join(parts) if len(parts) > 2 else " ".join(parts)


def _short(clause: Clause) -> str:
    """A clause in a few words."""
    if clause.tokens:
        words = quoted(clause.tokens, 3)
    elif clause.shape is not None:
        words = {
            "a number": "numbers",
            "a capitalised word": "capitalised words",
            "a word in small letters": "words in small letters",
            "a sign": "signs",
        }[clause.shape]
    else:
        words = ""
    if clause.before:
        words += f" right after {quoted(clause.before, 3)}"
    if clause.repeats == "the token":
        words += " said again" if words else "a word said before"
    elif clause.repeats == "the token before it":
        words += " after a word said before"
    for one in clause.earlier:
        words += f" {'with' if words else 'after'} {quoted(one.tokens, 3)} earlier"
    if clause.followed:
        words += f" where {quoted(clause.followed, 3)} comes next"
    return words.strip() or "every token"


def _counted(rule: FiringRule, fires: Sequence[Example], silent: Sequence[Example]) -> str:
    """On how many of the examples that is so."""
    hit = sum(bool((rule.matches(e.tokens) & (e.values > 0)).any()) for e in fires)
    words = f"so in {hit} of {len(fires)} examples"
    if silent:
        false = sum(bool(rule.matches(e.tokens).any()) for e in silent)
        words += f", wrongly in {false} of {len(silent)} where it is silent"
    return words


def _evidence(
    page: FeaturePage,
    rule: FiringRule,
    fires: Sequence[Example],
    says: Sequence[str],
    looks: Sequence[str],
) -> list[Evidence]:
    found = []
    for clause in rule.clauses:
        shown = 0
        for example in sorted(fires, key=lambda one: -float(one.values.max())):
            places = (clause.matches(example.tokens) & (example.values > 0)).nonzero()[0]
            if len(places) and shown < _N_EXAMPLES:
                place = int(places[example.values[places].argmax()])
                shown += 1
                found.append(
                    Evidence(
                        "example",
                        f"text {example.sequence}:{example.start + place}",
                        f"fires with {example.values[place]:.3g} at "
                        f"'{printable(example.tokens[place])}'",
                    )
                )
        for token in clause.tokens[:_N_PROMOTED]:
            on = [
                value > 0
                for example in fires
                for piece, value in zip(example.tokens, example.values.tolist(), strict=True)
                if piece == token
            ]
            found.append(
                Evidence("token", token, f"fires at {sum(on)} of {len(on)} in the examples shown")
            )
    for example in fires if looks else ():
        if example.looks_at is not None and len(found) < 24:
            place = int(example.looks_at.argmax())
            found.append(
                Evidence(
                    "example",
                    example_reference(example),
                    f"looks at '{printable(example.tokens[place])}' "
                    f"with {float(example.looks_at[place]):.3g} of {example.value:.3g}",
                )
            )
    for token, effect in page.promoted[:_N_PROMOTED]:
        if token in says or len(found) < 24:
            rises = f"by {effect:.3g} per unit" if effect == effect else "by how much is not known"
            found.append(Evidence("logit", token, f"its logit rises {rises}"))
    return found


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""What interventions, verified edges and validations will take, in words, before they start.
Knows no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from attention_studio.ui.text import count, duration

if TYPE_CHECKING:
    from attention_studio.core.edge_choice import EdgeChoice
    from attention_studio.core.intervention_running import PassCost

_PASSES = 3
"""One pass is frozen, one has the untouched prompt again, and one the changed one."""


def about(seconds: float) -> str:
    """A time that is not known exactly."""
    return "under 0.1 s" if seconds < 0.1 else f"about {duration(seconds)}"


def intervention_cost(cost: Optional[PassCost], n_text: int, prompt: str) -> str:
    """What an intervention takes: ``n_text`` tokens of text are generated on, original and changed.

    A token of text is a pass over two tokens.
    """
    length = "" if cost is None else f" of {cost.n_tokens} tokens"
    text = f", then {count(n_text)} tokens for 2 texts" if n_text else ""
    time = ""
    if cost is not None:
        per_token = cost.seconds / max(1, cost.n_tokens)
        time = f"; {about(_PASSES * cost.seconds + 2 * n_text * per_token)}"
    return f"{_PASSES} passes{length}{text}{time}: “{prompt}”"


def verify_cost(cost: Optional[PassCost], choice: EdgeChoice, controls: int) -> str:
    """What verifying edges takes: a pass for each feature and each of its random directions."""
    n = len(choice.sources)
    left = [
        f"{count(number)} {words}"
        for number, words in (
            (choice.n_tokens, "from tokens and errors"),
            (choice.n_weaker, "of other features"),
        )
        if number
    ]
    out = f" · not tested: {', '.join(left)}" if left else ""
    if not n:
        return f"No edges of features are meant: show, pin or select others{out}"
    passes = 1 + n * (1 + controls)
    time = "" if cost is None else f", {about(passes * cost.batched)}"
    return f"{count(len(choice))} edges of {count(n)} features: {count(passes)} passes{time}{out}"


def validation_cost(cost: Optional[PassCost], n_features: int, n_groups: int) -> str:
    """What validating a graph takes: a pass for each feature and supernode, and one for each random
    direction."""
    groups = f" and {count(n_groups)} supernode{'' if n_groups == 1 else 's'}" if n_groups else ""
    passes = 1 + 2 * (n_features + n_groups)
    time = "" if cost is None else f", {about(passes * cost.batched)}"
    return f"{count(n_features)} features{groups}: {count(passes)} passes{time}"

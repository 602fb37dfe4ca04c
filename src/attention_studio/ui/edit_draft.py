"""One change of an intervention while a person puts it together. Knows no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from attention_studio.core.intervention_runs import EVERYWHERE, at_positions
from attention_studio.core.intervention_specs import (
    WITH_VALUE,
    Action,
    Edit,
    FeatureAt,
    InterventionError,
)

ACTION_WORDS: dict[Action, str] = {
    "ablate": "Switch off",
    "scale": "Scale by",
    "add": "Add",
    "set": "Hold at",
    "swap": "Take from another prompt",
}
"""What each action is called, in the order in which they are offered."""
FIRST_VALUES: dict[Action, float] = {"scale": 2.0, "add": 1.0, "set": 5.0}
_SHOWN = 3


@dataclass(frozen=True)
class EditDraft:
    """A change as it is typed so far.

    Attributes:
        features: what is changed.
        name: of the supernode that they are, or "".
        action, value: see ``Edit``.
        where: "" at their own positions, ``*`` at every one, else positions such as ``5, 7-9``.
        from_prompt, from_position: for ``swap``; the position as typed, "" for the same.
    """

    features: tuple[FeatureAt, ...]
    name: str = ""
    action: Action = "ablate"
    value: float = 0.0
    where: str = ""
    from_prompt: str = ""
    from_position: str = ""

    @classmethod
    def of(cls, edit: Edit) -> EditDraft:
        """The draft that gives an edit again."""
        position = "" if edit.from_position is None else str(edit.from_position)
        return cls(edit.features, "", edit.action, edit.value, "", edit.from_prompt or "", position)

    @property
    def has_value(self) -> bool:
        """Whether the action takes a value."""
        return self.action in WITH_VALUE

    def edit(self, n_tokens: Optional[int] = None) -> Edit:
        """What the draft says, for a prompt of so many tokens.

        Raises:
            RangeError: the positions cannot be understood.
            InterventionError: the parts do not fit together.
        """
        swap = self.action == "swap"
        if swap and not self.from_prompt.strip():
            raise InterventionError(
                "The other prompt is missing", "", "type the prompt to take activations from"
            )
        position = self.from_position.strip().removeprefix("P")
        if position and not (position.isascii() and position.isdigit()):
            raise InterventionError(
                f"“{self.from_position}” is no position in the other prompt",
                "",
                "type a number, or nothing for the same position",
            )
        return Edit(
            at_positions(self.features, self.where, n_tokens),
            self.action,
            self.value if self.has_value else 0.0,
            self.from_prompt if swap else None,
            int(position) if swap and position else None,
        )

    def __str__(self) -> str:
        names = ", ".join(map(str, self.features[:_SHOWN])) or "no feature yet"
        if len(self.features) > _SHOWN:
            names += f", … ({len(self.features)})"
        what = f"{self.name}: {names}" if self.name else names
        verb = "Swap in" if self.action == "swap" else ACTION_WORDS[self.action]
        value = f" {self.value:g}" if self.has_value else ""
        place = "" if not self.where.strip() else f" at {self.where.strip()}"
        if self.where.strip() == EVERYWHERE:
            place = " everywhere"
        return f"{verb}{value} · {what}{place}"


def parse_features(text: str) -> tuple[FeatureAt, ...]:
    """Features as typed, with commas between them.

    Raises:
        InterventionError: one of them is none, or there is none.
    """
    names = [name for name in text.replace(";", ",").split(",") if name.strip()]
    if not names:
        raise InterventionError(
            "No feature is named", "", "type for example L12/P5/F1043 or A12/*/F7"
        )
    return tuple(dict.fromkeys(map(FeatureAt.parse, names)))

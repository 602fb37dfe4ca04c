"""What the detail of a feature shows, gathered from wherever it is known. Knows no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from attention_studio.ui.text import count, percent, visible_token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.core.feature_records import FeaturePage, Neighbour
    from attention_studio.core.sites import Site

MAX_LABEL, MAX_NOTE = 400, 2_000
"""Characters of a label and of a note that the window lets one type."""


@dataclass(frozen=True)
class FeatureView:
    """One feature and what is known of it.

    Attributes:
        site, index: which.
        position: of the prompt's token that is meant; None: none in particular.
        node: its name in the open graph or the prompt's report; None: it is looked at by itself.
        report, record: the prompt, and the feature in it; None: not known (yet).
        page: what a store has of it; None: nothing, or not read yet.
        near: features that write alike, where no store says so.
        label: what it is called; label_by: who says so; can_label: whether there is a
            place to keep one.
        note: what the person noted about it.
        pinned: whether its node is pinned.
        lacking: why something is missing, for people; "" for no reason.
        source: where the page was imported from and what it cannot say, for people; "": gathered.
    """

    site: Site
    index: int
    position: Optional[int] = None
    node: Optional[str] = None
    report: Optional[FeatureReport] = None
    record: Optional[FeatureRecord] = None
    page: Optional[FeaturePage] = None
    near: tuple[Neighbour, ...] = ()
    label: str = ""
    label_by: str = ""
    note: str = ""
    can_label: bool = True
    pinned: bool = False
    lacking: str = ""
    source: str = ""

    @property
    def name(self) -> str:
        """What it is called in titles."""
        return f"{self.site.label} #{self.index}"

    @property
    def feature(self) -> str:
        """Its name without position: ``L12/F1043``."""
        return f"{self.site.label}/F{self.index}"

    def activations(self) -> Optional[NDArray[np.float32]]:
        """[T] on the prompt; None where that is not known."""
        return None if self.report is None else self.report.activations(self.site, self.index)

    @property
    def here(self) -> Optional[float]:
        """The activation that the histogram marks: at the token that is meant, or the largest on
        the prompt. None where the prompt is not known."""
        values = self.activations()
        if values is None:
            return None
        if self.position is not None and self.position < len(values):
            return float(values[self.position])
        return float(values.max(initial=0.0))

    @property
    def promoted(self) -> tuple[tuple[str, float], ...]:
        """Tokens whose logits it raises."""
        return (
            self.page.promoted
            if self.record is None and self.page
            else (self.record.promoted if self.record else ())
        )

    @property
    def suppressed(self) -> tuple[tuple[str, float], ...]:
        """Tokens whose logits it lowers."""
        return (
            self.page.suppressed
            if self.record is None and self.page
            else (self.record.suppressed if self.record else ())
        )

    def facts(self) -> str:
        """What there is to say in numbers: on the prompt, and over the store's text."""
        return "\n".join(part for part in (self.prompt_facts(), self.page_facts()) if part)

    def prompt_facts(self) -> str:
        """Where it fires on the prompt."""
        values = self.activations()
        if values is None or self.report is None:
            return ""
        n_fires, tokens = int((values > 0).sum()), self.report.tokens
        if not n_fires:
            return f"Does not fire on your prompt ({len(tokens)} tokens)"
        at = self.position
        if at is None or at >= len(tokens):
            at = int(values.argmax())
        return (
            f"Activation {float(values[at]):.3f} at position {at} {visible_token(tokens[at])} · "
            f"fires at {n_fires} of {len(tokens)} tokens"
        )

    def page_facts(self) -> str:
        """How often it fires over the store's text, or that it never did."""
        page = self.page
        if page is None:
            return ""
        tokens = (
            f"{count(page.n_tokens)} tokens of text" if page.counted else "the tokens of a text"
        )
        if page.dead:
            return self._with_source(f"Dead: it fired at none of {tokens}")
        if page.n_fired < 0:
            told = "How often it fires is not known"
        else:
            told = f"Fires at {percent(page.density)} of {tokens}"
            told += f" ({count(page.n_fired)})" if page.counted else ""
        if page.max_activation == page.max_activation:
            told += f" · at most {page.max_activation:.3f}"
        return self._with_source(told)

    def _with_source(self, told: str) -> str:
        return f"{told}\n{self.source}" if self.source else told

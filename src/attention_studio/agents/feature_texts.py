"""Texts to explain features from, and other texts to score explanations on.

Rows of a text are parted in two: explanations are made from the ones and scored on the others, so
that nothing that an author has seen counts for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.agents.firing_rules import BOUNDARIES
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_records import Example, ExampleGroup, FeaturePage, Histogram
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.feature_activations import Feature, Firings
    from attention_studio.core.replacement_model import CompleteReplacementModel

_SHORTEST = 6
_BINS = 40


class FeatureTextError(StudioError):
    """There is too little text, or a feature that it was not read for."""


@dataclass(frozen=True)
class TextSettings:
    """Which stretches of text are taken.

    Attributes:
        before, after: tokens shown on either side of the one that a stretch is about. For features
            that fire so often that no stretch of this length is silent, shorter ones are taken.
        shown: examples of each sort that explanations are made from.
        fires, silent, near: examples that explanations are scored on: those on which the feature
            fires, drawn evenly from all strengths; those on which it does not; and those on which
            it does not though they have the tokens that it fires on, or fire a feature like it.
        seed: of the draws.
    """

    before: int = 20
    after: int = 4
    shown: int = 60
    fires: int = 20
    silent: int = 20
    near: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            min(self.before, self.after, self.silent, self.near) < 0
            or min(self.shown, self.fires) < 1
        ):
            raise FeatureTextError("Examples cannot be fewer than none")


@dataclass(frozen=True)
class ScoringExamples:
    """Examples of one feature that no explanation was made from.

    ``fires``: it is active in each; ``silent``: nowhere; ``near``: nowhere though it might seem so.
    ``top`` is the feature's largest activation in the text.
    """

    fires: tuple[Example, ...]
    silent: tuple[Example, ...]
    near: tuple[Example, ...]
    top: float

    @property
    def quiet(self) -> tuple[Example, ...]:
        """All on which it does not fire."""
        return self.silent + self.near


class FeatureTexts:
    """A text with every activation of some features in it.

    Args:
        corpus: the text.
        pieces: of each token id in it the token as text.
        firings: of each feature where it is active.
        settings: which stretches are taken.
        seen: rows that explanations may be made from; None: every other row. Explanations are
            scored on the rest.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        pieces: Mapping[int, str],
        firings: Mapping[Feature, Firings],
        settings: Optional[TextSettings] = None,
        seen: Optional[Sequence[int]] = None,
    ) -> None:
        self.corpus, self._pieces, self._firings = corpus, pieces, firings
        self.settings = settings or TextSettings()
        rows = np.arange(corpus.n_sequences)
        self._seen = rows % 2 == 0 if seen is None else np.isin(rows, np.asarray(seen))

    @classmethod
    def read(
        cls,
        crm: CompleteReplacementModel,
        corpus: TokenCorpus,
        features: Sequence[Feature],
        settings: Optional[TextSettings] = None,
        seen: Optional[Sequence[int]] = None,
        ctx: Optional[WorkContext] = None,
    ) -> FeatureTexts:
        """Run a model over a text.

        Raises:
            FeatureError: a feature does not exist, or they fire too often for memory.
            Cancelled: through ``ctx``.
        """
        from attention_studio.core.feature_activations import feature_activations

        firings = feature_activations(crm, features, corpus, ctx)
        ids = np.unique(corpus.tokens).tolist()
        pieces = dict(zip(ids, crm.loaded.token_strings(ids), strict=True))
        return cls(corpus, pieces, firings, settings, seen)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features that the text was read for."""
        return tuple(self._firings)

    def shown(self, site: Site, index: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Examples that explanations are made from: on which a feature fires, and does not."""
        _, fires, silent = self._drawn((site, index), True)
        near = self._near((site, index), True, fires, self.settings.shown // 2)
        return fires, silent + near

    def scoring(self, page: FeaturePage) -> ScoringExamples:
        """Examples that explanations of a feature are scored on.

        ``page`` says which tokens it fires on and which features are like it, for near misses.
        """
        feature = (page.site, page.index)
        top, fires, silent = self._drawn(feature, False)
        known = [example for group in page.groups for example in group.examples]
        like = [(near.site, near.index) for near in (*page.near_by_decoder, *page.near_by_firing)]
        near = self._near(feature, False, known or fires, self.settings.near, like)
        taken = {(example.sequence, example.start) for example in near}
        silent = tuple(e for e in silent if (e.sequence, e.start) not in taken)
        return ScoringExamples(fires, silent, near, top)

    def page(
        self,
        site: Site,
        index: int,
        promoted: tuple[tuple[str, float], ...] = (),
        suppressed: tuple[tuple[str, float], ...] = (),
    ) -> FeaturePage:
        """What is known of a feature from the rows that explanations are made from, where no store
        has gathered more."""
        where, values = self._of((site, index), True)
        _, fires, _ = self._drawn((site, index), True)
        top = float(values.max(initial=0.0))
        counts, edges = np.histogram(values, _BINS, (0.0, top or 1.0))
        ordered = tuple(sorted(fires, key=lambda example: -example.value))
        return FeaturePage(
            site=site,
            index=index,
            n_fired=len(where),
            n_tokens=int(self.corpus.kept()[self._seen].sum()),
            max_activation=top,
            histogram=Histogram(edges.astype(np.float64), counts.astype(np.int64)),
            groups=(ExampleGroup("Drawn from all strengths", None, None, ordered),),
            promoted=promoted,
            suppressed=suppressed,
        )

    # ---- drawing ---------------------------------------------------------------------------------

    def _of(self, feature: Feature, seen: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        try:
            firings = self._firings[feature]
        except KeyError:
            raise FeatureTextError(
                f"The text was not read for {feature[0].label} #{feature[1]}"
            ) from None
        mine = self._seen[firings.where // self.corpus.seq_len] == seen
        return firings.where[mine], firings.values[mine]

    def _drawn(
        self, feature: Feature, seen: bool
    ) -> tuple[float, tuple[Example, ...], tuple[Example, ...]]:
        """The largest activation, examples that fire, and examples that do not."""
        wanted = self.settings.shown if seen else self.settings.fires
        quiet = self.settings.shown if seen else self.settings.silent
        rng = np.random.default_rng([self.settings.seed, feature[0].number, feature[1], seen])
        where, values = self._of(feature, seen)
        before, after, starts = self._length(where, seen, quiet)
        peaks = _spread(where, values, self.corpus.seq_len, wanted, rng)
        fires = tuple(self._example(feature, place, before, after) for place in peaks.tolist())
        if len(starts) > quiet:
            starts = rng.choice(starts, quiet, replace=False)
        silent = tuple(
            self._example(feature, place, before, after) for place in np.sort(starts).tolist()
        )
        return float(values.max(initial=0.0)), fires, silent

    def _length(
        self, where: NDArray[np.int64], seen: bool, wanted: int
    ) -> tuple[int, int, NDArray[np.int64]]:
        """How long stretches are, and the middles of silent ones, in no particular order."""
        before, after = self.settings.before, self.settings.after
        while True:
            middles = self._silent_middles(where, seen, before, after)
            if len(middles) >= wanted or before + after + 1 <= _SHORTEST:
                return before, after, middles
            before, after = before // 2, after // 2

    def _silent_middles(
        self, where: NDArray[np.int64], seen: bool, before: int, after: int
    ) -> NDArray[np.int64]:
        """Places around which a feature does not fire; stretches of one another do not overlap."""
        length = self.corpus.seq_len
        fired = np.zeros(self.corpus.tokens.shape, dtype=np.int64)
        fired.ravel()[where] = 1
        found = []
        for row in np.flatnonzero(self._seen == seen).tolist():
            total = np.concatenate([[0], fired[row].cumsum()])
            end = int(self.corpus.lengths[row])
            position = before
            while position + after < end:
                if total[position + after + 1] == total[position - before]:
                    found.append(row * length + position)
                    position += before + after + 1
                else:
                    position += 1
        return np.array(found, dtype=np.int64)

    def _near(
        self,
        feature: Feature,
        seen: bool,
        fires: Sequence[Example],
        wanted: int,
        like: Sequence[Feature] = (),
    ) -> tuple[Example, ...]:
        """Silent stretches about tokens that a feature fires on elsewhere, or on which features
        like it fire."""
        if not wanted:
            return ()
        where, _ = self._of(feature, seen)
        before, after, _ = self._length(where, seen, 1)
        spoken = {
            token
            for example in fires
            for token, value in zip(example.tokens, example.values, strict=True)
            if value > 0
        }
        ids = [number for number, piece in self._pieces.items() if piece in spoken]
        places = np.isin(self.corpus.tokens, ids) & self.corpus.kept()
        for other in like:
            if other in self._firings and other != feature:
                places.ravel()[self._firings[other].where] = True
        places &= (self._seen == seen)[:, None]
        fired = np.zeros(self.corpus.tokens.shape, dtype=bool)
        fired.ravel()[where] = True
        rng = np.random.default_rng([self.settings.seed, feature[0].number, feature[1], 2 + seen])
        found: list[Example] = []
        rows: set[int] = set()
        for place in rng.permutation(np.flatnonzero(places)).tolist():
            row, position = divmod(place, self.corpus.seq_len)
            begin, end = self._bounds(row, position, before, after)
            if row not in rows and not fired[row, begin:end].any():
                rows.add(row)
                found.append(self._example(feature, place, before, after))
                if len(found) == wanted:
                    break
        return tuple(found)

    def _bounds(self, row: int, position: int, before: int, after: int) -> tuple[int, int]:
        return max(position - before, 0), min(position + after + 1, int(self.corpus.lengths[row]))

    def _example(self, feature: Feature, place: int, before: int, after: int) -> Example:
        row, position = divmod(place, self.corpus.seq_len)
        begin, end = self._bounds(row, position, before, after)
        firings = self._firings[feature]
        first = row * self.corpus.seq_len
        inside = slice(*np.searchsorted(firings.where, [first + begin, first + end]))
        values = np.zeros(end - begin, dtype=np.float32)
        values[firings.where[inside] - first - begin] = firings.values[inside]
        tokens = tuple(
            self._pieces[number] for number in self.corpus.tokens[row, begin:end].tolist()
        )
        return Example(tokens, values, position - begin, sequence=row, start=begin)


def _spread(
    where: NDArray[np.int64],
    values: NDArray[np.float32],
    length: int,
    wanted: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Firing places of different rows, as many from each tenth of all strengths."""
    order = rng.permutation(len(where))
    _, first = np.unique(where[order] // length, return_index=True)
    one_each = order[first]
    ranked = one_each[np.argsort(-values[one_each], kind="stable")]
    if len(ranked) <= wanted:
        return where[ranked]
    evenly = np.linspace(0, len(ranked) - 1, wanted).round().astype(np.int64)
    chosen: NDArray[np.int64] = where[ranked[evenly]]
    return chosen


def plain_text(example: Example) -> str:
    """An example's tokens as one text, without what parts texts."""
    return "".join(token for token in example.tokens if token not in BOUNDARIES)

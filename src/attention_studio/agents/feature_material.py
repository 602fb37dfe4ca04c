"""What an explanation of a feature is made from and held against, out of a CRM and a text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from attention_studio.agents.feature_texts import FeatureTexts, ScoringExamples
from attention_studio.core.feature_records import Example, FeaturePage
from attention_studio.core.sites import Site

if TYPE_CHECKING:
    from attention_studio.core.feature_activations import Feature
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.replacement_model import CompleteReplacementModel

N_PROMOTED = 8
_SAME_TOKENS = 12
"""So many in a row are hardly alike by chance."""


class Probe(Protocol):
    """Runs a text through the real model and reads one feature."""

    def __call__(self, text: str) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """The text's tokens and the feature's activation at each.

        Raises:
            StudioError: the model cannot take this text.
        """


@dataclass(frozen=True, eq=False)
class FeatureMaterial:
    """Everything that a feature is explained with.

    Attributes:
        page: what is known of it; its examples may be shown to whoever explains it.
        fires, silent: more texts on which it fires, and on which it does not, which may be shown,
            too.
        held_out: texts that may not: explanations are scored on them.
        probe: runs texts of one's own; None: nothing can be run.
    """

    page: FeaturePage
    fires: tuple[Example, ...]
    silent: tuple[Example, ...]
    held_out: ScoringExamples
    probe: Optional[Probe] = None


class MaterialSource:
    """Gives the material of features of one CRM, from one text. Safe from any thread.

    Args:
        crm: whose features; runs texts one at a time.
        texts: read for these features.
        store: pages from here; without one they are made from the part of the text that may be
            shown.
    """

    def __init__(
        self,
        crm: CompleteReplacementModel,
        texts: FeatureTexts,
        store: Optional[FeatureStore] = None,
    ) -> None:
        self._crm, self._texts, self._store = crm, texts, store
        self._lock = threading.Lock()

    def __call__(self, site: Site, index: int) -> FeatureMaterial:
        """The material of one feature.

        Raises:
            FeatureStoreError, FeatureTextError: it is not known there.
        """
        texts = self._texts
        fires, silent = texts.shown(site, index)
        if self._store is None:
            promoted, suppressed = self._words(site, index)
            page = texts.page(site, index, promoted, suppressed)
            held_out = texts.scoring(page)
        else:
            page = self._store.page(site, index)
            # A longer or shorter reading of one text has other hashes and the same rows; cut into
            # rows of another length it has others.
            alike = self._store.about.seq_len == texts.corpus.seq_len
            held_out = without_shown(texts.scoring(page), page, alike)
        return FeatureMaterial(page, fires, silent, held_out, self.probe(site, index))

    def probe(self, site: Site, index: int) -> Probe:
        """Runs texts through the model; one at a time, since hooks are shared."""

        def run(text: str) -> tuple[tuple[str, ...], NDArray[np.float32]]:
            from attention_studio.core.feature_activations import activations_on

            loaded = self._crm.loaded
            with self._lock:
                ids = loaded.encode(text)
                values = activations_on(self._crm, (site, index), ids)
            return tuple(loaded.token_strings(ids)), values

        return run

    def _words(
        self, site: Site, index: int
    ) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]:
        from attention_studio.core.feature_extractor import promoted_tokens
        from attention_studio.core.site_latents import SiteLatents

        crm = self._crm
        with self._lock:
            decoders = list(SiteLatents(crm.dictionaries, site).decoders.values())
            row = sum(decoder[index].float() for decoder in decoders[1:]) + decoders[0][index]
            k = min(N_PROMOTED, crm.adapter.vocab_size)
            sides = [promoted_tokens(crm.adapter, row[None], k, side) for side in (False, True)]
        words = [
            tuple(
                zip(
                    crm.loaded.token_strings(side.tokens[0].tolist()),
                    side.effects[0].tolist(),
                    strict=True,
                )
            )
            for side in sides
        ]
        return words[0], words[1]


def without_shown(examples: ScoringExamples, page: FeaturePage, same_rows: bool) -> ScoringExamples:
    """Those that the page does not show.

    Args:
        examples: of the same feature.
        page: what whoever explains it may see.
        same_rows: whether rows are numbered alike in both: then none is kept from a row that the
            page shows, else none that has ``_SAME_TOKENS`` tokens in a row with it in common.
    """
    shown = [example for group in page.groups for example in group.examples]
    rows = {example.sequence for example in shown}
    stretches = {stretch for example in shown for stretch in _stretches(example.tokens)}

    def kept(some: Sequence[Example]) -> tuple[Example, ...]:
        if same_rows:
            return tuple(one for one in some if one.sequence not in rows)
        return tuple(one for one in some if stretches.isdisjoint(_stretches(one.tokens)))

    return replace(
        examples,
        fires=kept(examples.fires),
        silent=kept(examples.silent),
        near=kept(examples.near),
    )


def _stretches(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    last = max(0, len(tokens) - _SAME_TOKENS)
    return {tuple(tokens[at : at + _SAME_TOKENS]) for at in range(last + 1)}


def features_like(store: Optional[FeatureStore], site: Site, index: int) -> list[Feature]:
    """Features that are like one, by their decoders or by where they fire: texts on which they fire
    are its near misses. None where there is no store that says so."""
    if store is None:
        return []
    page = store.page(site, index)
    near = (*page.near_by_decoder, *page.near_by_firing)
    return list(dict.fromkeys((one.site, one.index) for one in near))


GetMaterial = Callable[[Site, int], FeatureMaterial]

"""Pages about every feature of a replacement model, kept on disk and read at once.

A store is a folder that ``core.feature_gathering`` fills from a text, or ``write_store`` by hand:

    about.json           format, version, what it is of (``StoreAbout``), the files and their sizes
    index.sqlite         one row a feature, and full text over its tokens and examples
    mlp_03_00000…        the bulk: columns (see ``core.feature_columns``), 2,048 features a file
    text.safetensors     the text of the examples
    labels.sqlite        what people and agents call features; the only file that ever changes
    foreign.sqlite       of imported stores: what pages do not hold (``core.interchange``)

Needs no torch. Whoever made a store is not trusted: what is damaged or something else is refused.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from attention_studio.core.dictionaries.safetensors_header import TensorFileError
from attention_studio.core.feature_index import (
    FeatureFilter,
    FeatureIndex,
    FeatureRow,
    Order,
    search_expression,
)
from attention_studio.core.feature_pages import PageFiles
from attention_studio.core.feature_records import FeatureLabel, FeaturePage
from attention_studio.core.feature_store_about import (
    ABOUT,
    FOREIGN,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    TEXT,
    FeatureId,
    FeatureStoreError,
    SiteSize,
    StoreAbout,
    damaged,
    now,
    read_about,
)
from attention_studio.core.sites import Site

__all__ = [
    "ABOUT",
    "FOREIGN",
    "FORMAT",
    "FORMAT_VERSION",
    "INDEX",
    "TEXT",
    "FeatureFilter",
    "FeatureId",
    "FeatureRow",
    "FeatureStore",
    "FeatureStoreError",
    "Found",
    "Order",
    "SiteSize",
    "StoreAbout",
    "now",
    "search_expression",
]

N_SHOWN_WORDS = 3
"""How many tokens a neighbour is shown with."""


@dataclass(frozen=True)
class Found:
    """A feature that a search found, with what it promotes most and its label or ""."""

    site: Site
    index: int
    promotes: tuple[str, ...]
    label: str


class FeatureStore(FeatureIndex):
    """A store that is open for reading; threads may share it. ``open`` makes one.

    Attributes:
        folder: where it lies.
        about: what it is of.
    """

    def __init__(self, folder: Path, about: StoreAbout, files: frozenset[str]) -> None:
        super().__init__(folder, about)
        self._pages = PageFiles(folder, about, self.numbers, files, self.labels.get, self.promotes)

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Open a store.

        Raises:
            FeatureStoreError: there is none, it is damaged, or of another version.
        """
        about, files = read_about(folder)
        try:
            return cls(folder, about, files)
        except (sqlite3.Error, SafetensorError, TensorFileError, OSError) as error:
            raise damaged(folder, str(error)) from error

    def close(self) -> None:
        """Let go of its files. Reading afterwards is an error."""
        self._pages.close()
        super().close()

    # ---- one feature -----------------------------------------------------------------------------

    def page(self, site: Site, index: int) -> FeaturePage:
        """Everything that is kept of a feature.

        Raises:
            FeatureStoreError: there is no such feature, or the store is damaged.
        """
        self.numbers.id(site, index)
        if not self.has(site, index):
            raise FeatureStoreError(
                f"There is no page about {site.label} #{index}",
                "the files that the store was imported from had none",
            )
        return self._pages.page(site, index)

    def promotes(self, site: Site, index: int, n: int = N_SHOWN_WORDS) -> tuple[str, ...]:
        """The tokens that a feature promotes most.

        Raises:
            FeatureStoreError: there is no such feature, or the store is damaged.
        """
        self.numbers.id(site, index)
        if not self.has(site, index):
            return ()
        return self._pages.promotes(site, index, n)

    def density(self, site: Site) -> NDArray[np.float64]:
        """[n] the share of tokens at which each latent of a module is active; NaN: not known.

        Raises:
            FeatureStoreError: the store has no such module, or is damaged.
        """
        fired = self.fired(site)
        found: NDArray[np.float64] = fired / max(self.about.n_tokens, 1)
        found[fired < 0] = np.nan
        return found

    def fired(self, site: Site) -> NDArray[np.int64]:
        """[n] at how many tokens each latent of a module is active; below 0: not known.

        Raises:
            FeatureStoreError: the store has no such module, or is damaged.
        """
        return self._pages.fired(site)

    # ---- labels ----------------------------------------------------------------------------------

    def label(self, site: Site, index: int) -> Optional[FeatureLabel]:
        """What a feature is called; None: nothing yet."""
        self.numbers.id(site, index)
        return self.labels.get(site, index)

    def set_label(self, site: Site, index: int, text: str, by: str) -> FeatureLabel:
        """Call a feature something; "" takes its label away. What it was called before is kept.

        Raises:
            FeatureStoreError: there is no such feature.
            FeatureLabelError: it cannot be written, or is too long.
        """
        self.numbers.id(site, index)
        return self.labels.set(site, index, text, by)

    # ---- searching -------------------------------------------------------------------------------

    def search(self, text: str, limit: int = 50) -> list[Found]:
        """Features whose label, promoted tokens or examples have all words of a text, the last one
        perhaps only begun; those with a fitting label first.

        What is typed is looked for as it stands; it is no language.
        """
        found = []
        for site, index in self.matches(text, limit):
            label = self.labels.get(site, index)
            words = self.promotes(site, index)
            found.append(Found(site, index, words, label.text if label is not None else ""))
        return found

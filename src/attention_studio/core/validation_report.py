"""What a validation found, as plain records that are kept beside a graph: no torch here.

Predictions are those of the local linear model, measurements those of the model with nothing
frozen, controls those of random directions of the same norm at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attention_studio.core.sites import Site, SiteKind
from attention_studio.core.stored_record import (
    Count,
    Name,
    Number,
    StoredKind,
    StrictRecord,
    Text,
)
from attention_studio.core.trace_circumstances import DictionariesId, is_about
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

FORMAT = "attention-studio-validation"
FORMAT_VERSION = 1
MAX_PAIRS = 20_000
"""Pairs of each kind that are kept, for plots; figures are of all of them."""
MAX_CHECKS = 10_000
_MAX_MEMBERS = 100_000


class ValidationFormatError(StudioError):
    """What should be a stored validation is none."""


@dataclass(frozen=True)
class Agreement:
    """How a set of predictions compares with the measurements.

    Attributes:
        n: how many pairs.
        correlation: Pearson's r; 0 where one side does not vary.
        slope: of measured on predicted, through the origin; 1 is perfect, 0 is no effect.
        relative_error: |measured - predicted| summed, over |measured| summed.
    """

    n: int
    correlation: float
    slope: float
    relative_error: float

    @classmethod
    def of(cls, predicted: NDArray[np.floating], measured: NDArray[np.floating]) -> Agreement:
        """Compare predictions with measurements, both [n]."""
        x, y = predicted.astype(np.float64), measured.astype(np.float64)
        varied = len(x) > 1 and x.std() > 0 and y.std() > 0
        scale = float(x @ x)
        return cls(
            n=len(x),
            correlation=float(np.corrcoef(x, y)[0, 1]) if varied else 0.0,
            slope=float(x @ y) / scale if scale else 0.0,
            relative_error=float(np.abs(y - x).sum() / max(float(np.abs(y).sum()), 1e-30)),
        )


@dataclass(frozen=True)
class FeatureCheck:
    """One ablated feature: what was predicted and measured for the logit it moves most.

    ``control`` is what a random direction of the same norm did to the same logit.
    """

    kind: SiteKind
    layer: int
    position: int
    index: int
    activation: float
    token: str
    predicted: float
    measured: float
    control: float


@dataclass(frozen=True)
class GroupCheck:
    """One supernode, ablated as a whole; the rest as in ``FeatureCheck``."""

    name: str
    features: tuple[str, ...]
    token: str
    predicted: float
    measured: float
    control: float


@dataclass(frozen=True)
class SiteAgreement:
    """The agreement over the sampled features of one module alone."""

    kind: SiteKind
    layer: int
    n_samples: int
    logits: Agreement
    features: Agreement
    control: Agreement

    @property
    def label(self) -> str:
        """``A3``: the attention of layer 3; ``L3``: its MLP."""
        return Site(self.layer, self.kind).label


@dataclass(frozen=True)
class Pairs:
    """Predicted and measured changes, as columns of length n.

    ``sample`` int64: whose ablation (checks first, then groups); ``predicted``, ``measured``,
    ``control`` float32.
    """

    sample: NDArray[np.int64]
    predicted: NDArray[np.float32]
    measured: NDArray[np.float32]
    control: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sample)

    def thinned(self, n: int, seed: int) -> Pairs:
        """At most ``n`` of them, drawn evenly and kept in order."""
        if len(self) <= n:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False))
        return self._at(chosen)

    def of_samples(self, samples: Sequence[int]) -> Pairs:
        """Those of some samples."""
        return self._at(np.flatnonzero(np.isin(self.sample, np.asarray(samples, dtype=np.int64))))

    def _at(self, rows: NDArray[np.int64]) -> Pairs:
        return Pairs(
            self.sample[rows], self.predicted[rows], self.measured[rows], self.control[rows]
        )


@dataclass(frozen=True)
class ValidationReport:
    """What ``core.validation.validate`` found.

    Attributes:
        prompt, model_hash, crm_name, seed: what was validated, and how it was drawn;
            ``crm_fingerprint`` identifies the weights of the dictionaries, "": not known.
        n_samples: how many features were ablated one at a time.
        logits: of the likeliest tokens' logits, nothing frozen, over the sampled features.
        features: of the pre-activations of downstream active features, likewise.
        control: the same predictions for the logits against random directions.
        largest_freeze_gap: under all freezes, the largest difference between a graph edge and the
            measured change, relative to the largest edge; this one must be rounding error.
        checks: the sampled features.
        groups: the supernodes.
        sites: agreement module by module, in order of the forward pass.
        logit_pairs, feature_pairs: what the figures are made of, for plots; at most ``MAX_PAIRS``
            of each, drawn evenly where there are more.
    """

    prompt: str
    model_hash: str
    crm_name: str
    seed: int
    n_samples: int
    logits: Agreement
    features: Agreement
    control: Agreement
    largest_freeze_gap: float
    checks: tuple[FeatureCheck, ...]
    groups: tuple[GroupCheck, ...]
    sites: tuple[SiteAgreement, ...]
    logit_pairs: Pairs
    feature_pairs: Pairs
    crm_fingerprint: str = ""

    def belongs_to(self, graph: Optional[AttributionGraph]) -> bool:
        """Whether a graph is of the prompt, model and dictionaries that were validated."""
        validated = DictionariesId(self.crm_name, self.crm_fingerprint)
        return is_about(graph, self.prompt, self.model_hash, validated)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object, with its format and version."""
        data = asdict(self)
        for name in ("logit_pairs", "feature_pairs"):
            # Nine digits bring every float32 back.
            data[name] = {
                key: [float(f"{v:.9g}") if column.dtype.kind == "f" else int(v) for v in column]
                for key, column in data[name].items()
            }
        # JSON has lists, and what is kept in memory should be what is read from a file.
        for name in ("checks", "groups", "sites"):
            data[name] = list(data[name])
        for group in data["groups"]:
            group["features"] = list(group["features"])
        return {"format": FORMAT, "version": FORMAT_VERSION, **data}

    @classmethod
    def from_json(cls, data: Any) -> ValidationReport:
        """The report that ``to_json`` made an object of.

        Raises:
            ValidationFormatError: it is something else, of a newer version, or too large.
        """
        return _KIND.read(data).report()


# ---- reading with limits -----------------------------------------------------------------------


class _Agreement(StrictRecord):
    n: Count
    correlation: Number
    slope: Number
    relative_error: Number

    def record(self) -> Agreement:
        return Agreement(**self.model_dump())


class _FeatureCheck(StrictRecord):
    kind: SiteKind
    layer: Count
    position: Count
    index: Count
    activation: Number
    token: Text
    predicted: Number
    measured: Number
    control: Number


class _GroupCheck(StrictRecord):
    name: Text
    features: Annotated[list[Text], Field(max_length=_MAX_MEMBERS)]
    token: Text
    predicted: Number
    measured: Number
    control: Number

    def record(self) -> GroupCheck:
        return GroupCheck(**{**self.model_dump(), "features": tuple(self.features)})


class _SiteAgreement(StrictRecord):
    kind: SiteKind
    layer: Count
    n_samples: Count
    logits: _Agreement
    features: _Agreement
    control: _Agreement

    def record(self) -> SiteAgreement:
        return SiteAgreement(
            self.kind,
            self.layer,
            self.n_samples,
            self.logits.record(),
            self.features.record(),
            self.control.record(),
        )


class _Pairs(StrictRecord):
    sample: Annotated[list[Count], Field(max_length=MAX_PAIRS)]
    predicted: Annotated[list[Number], Field(max_length=MAX_PAIRS)]
    measured: Annotated[list[Number], Field(max_length=MAX_PAIRS)]
    control: Annotated[list[Number], Field(max_length=MAX_PAIRS)]

    def record(self) -> Pairs:
        values = (self.predicted, self.measured, self.control)
        if len({len(self.sample), *map(len, values)}) != 1:
            raise _KIND.damaged("columns have different lengths")
        columns = (np.asarray(column, dtype=np.float32) for column in values)
        return Pairs(np.asarray(self.sample, dtype=np.int64), *columns)


class _ReportFile(StrictRecord):
    prompt: Text
    model_hash: Text
    crm_name: Text
    seed: int
    n_samples: Count
    logits: _Agreement
    features: _Agreement
    control: _Agreement
    largest_freeze_gap: Number
    checks: Annotated[list[_FeatureCheck], Field(max_length=MAX_CHECKS)]
    groups: Annotated[list[_GroupCheck], Field(max_length=MAX_CHECKS)]
    sites: Annotated[list[_SiteAgreement], Field(max_length=MAX_CHECKS)]
    logit_pairs: _Pairs
    feature_pairs: _Pairs
    crm_fingerprint: Name = ""

    def report(self) -> ValidationReport:
        return ValidationReport(
            prompt=self.prompt,
            model_hash=self.model_hash,
            crm_name=self.crm_name,
            seed=self.seed,
            n_samples=self.n_samples,
            logits=self.logits.record(),
            features=self.features.record(),
            control=self.control.record(),
            largest_freeze_gap=self.largest_freeze_gap,
            checks=tuple(FeatureCheck(**check.model_dump()) for check in self.checks),
            groups=tuple(group.record() for group in self.groups),
            sites=tuple(site.record() for site in self.sites),
            logit_pairs=self.logit_pairs.record(),
            feature_pairs=self.feature_pairs.record(),
            crm_fingerprint=self.crm_fingerprint,
        )


_KIND = StoredKind(
    FORMAT,
    FORMAT_VERSION,
    _ReportFile,
    ValidationFormatError,
    none="This is no stored validation",
    called="The stored validation is",
    again="validate again",
)

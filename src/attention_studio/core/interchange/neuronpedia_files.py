"""Pages about features, as Neuronpedia has them: objects of its web interface, rows of its exports,
and the batches that SAEDashboard writes for it.

The fields are those of Neuronpedia's database (``schema.prisma``: ``Neuron``, ``Activation``,
``Explanation``) and of SAEDashboard 0.8 (``neuronpedia/neuronpedia_dashboard.py``). Both name most
fields alike; activations go by ``binMin`` there and by ``bin_min`` here. Written are SAEDashboard's
batches: Neuronpedia's own converter makes an upload of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Optional, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BeforeValidator, Field

from attention_studio.core.feature_assembly import GROUP_NAMES, N_INTERVALS
from attention_studio.core.feature_records import ExampleGroup, FeaturePage, Neighbour
from attention_studio.core.interchange.feature_files import (
    MAX_BINS,
    MAX_EXAMPLE_TOKENS,
    MAX_EXAMPLES,
    NO_HISTOGRAM,
    FileRecord,
    Heading,
    Number,
    Share,
    Token,
    checked,
    example_of,
    histogram_of,
    page_of,
    refused,
    whole_text,
)
from attention_studio.core.interchange.json_rest import Rest, plain
from attention_studio.core.sites import Site, SiteKind

Dialect = Literal["saedashboard", "neuronpedia"]
_ROUNDED = 0.0011
"""SAEDashboard rounds to three digits."""
_NOTHING = -1.0
"""SAEDashboard's bound, and its share of all activations, of the strongest examples."""
_WORDS: Mapping[SiteKind, frozenset[str]] = {
    "attention": frozenset({"att", "attn", "attention", "lorsa", "z"}),
    "mlp": frozenset({"mlp", "transcoder", "transcoders", "tc", "clt", "plt", "skip"}),
}
_EMPTY_FIELDS = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
    "vector",
)
"""Fields that both dialects have and no page: they are written empty, or as they were."""


def _either(snake: str, camel: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(snake, camel))


class _Activation(FileRecord):
    tokens: list[Token] = Field(min_length=1, max_length=MAX_EXAMPLE_TOKENS)
    values: list[Number] = Field(max_length=MAX_EXAMPLE_TOKENS)
    bin_min: Optional[Number] = _either("bin_min", "binMin")
    bin_max: Optional[Number] = _either("bin_max", "binMax")
    about: Optional[int] = _either("qualifying_token_index", "qualifyingTokenIndex")
    strongest: Optional[int] = Field(default=None, validation_alias="maxValueTokenIndex")
    dfa_values: Optional[list[Number]] = _either("dfa_values", "dfaValues")
    dfa_target: Optional[int] = _either("dfa_targetIndex", "dfaTargetIndex")


class _Feature(FileRecord):
    frac_nonzero: Optional[Share] = None
    maxActApprox: Optional[Number] = None  # noqa: N815 - the format's name
    pos_str: list[Token] = Field(default=[], max_length=MAX_BINS)
    pos_values: list[Optional[Number]] = Field(default=[], max_length=MAX_BINS)
    neg_str: list[Token] = Field(default=[], max_length=MAX_BINS)
    neg_values: list[Optional[Number]] = Field(default=[], max_length=MAX_BINS)
    freq_hist_data_bar_heights: list[Number] = Field(default=[], max_length=MAX_BINS)
    freq_hist_data_bar_values: list[Number] = Field(default=[], max_length=MAX_BINS)
    topkCosSimIndices: list[int] = Field(default=[], max_length=MAX_BINS)  # noqa: N815
    topkCosSimValues: list[Number] = Field(default=[], max_length=MAX_BINS)  # noqa: N815
    activations: list[_Activation] = Field(default=[], max_length=MAX_EXAMPLES)


class SourceName(FileRecord):
    """Whose feature an object or row is about."""

    modelId: Heading = ""  # noqa: N815
    layer: Heading
    index: Union[int, Heading]


class Explanation(FileRecord):
    """What somebody said that a feature means."""

    description: Optional[Annotated[str, BeforeValidator(whole_text)]] = Field(
        default=None, max_length=1 << 16
    )
    by: Optional[Heading] = Field(
        default=None, validation_alias=AliasChoices("explanationModelName", "typeName")
    )


def kind_of_set(name: str) -> Optional[SiteKind]:
    """Of which kind of module a source set is, by the words of its name; None: it does not say."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    found = [kind for kind, known in _WORDS.items() if words & known]
    return found[0] if len(found) == 1 else None


def page_of_feature(
    raw: Any, site: Site, index: int, n_tokens: Optional[int], n_features: int, name: str
) -> FeaturePage:
    """The page that an object is about.

    Args:
        raw: the object, with its activations.
        site, index: which feature.
        n_tokens: of how many tokens shares are, where that is known.
        n_features: how many latents the module has, as far as is known.
        name: of the file, for messages.

    Raises:
        FeatureFileError: it is no such object; names the field.
    """
    file = checked(_Feature, raw, name)
    for side in ("pos", "neg"):
        words, values = getattr(file, f"{side}_str"), getattr(file, f"{side}_values")
        if len(words) != len(values):
            raise refused(name, f"{side}_str has {len(words)} tokens, {side}_values {len(values)}")
    kin = zip(file.topkCosSimIndices, file.topkCosSimValues, strict=False)
    page = page_of(
        site,
        index,
        _groups(file.activations, site, name),
        share=file.frac_nonzero,
        n_tokens=n_tokens,
        largest=file.maxActApprox,
        histogram=_histogram(file.freq_hist_data_bar_values, file.freq_hist_data_bar_heights),
        promoted=_effects(file.pos_str, file.pos_values),
        suppressed=_effects(file.neg_str, file.neg_values),
    )
    near = tuple(
        Neighbour(site, other, score)
        for other, score in kin
        if 0 <= other < n_features and other != index
    )
    return replace(page, near_by_decoder=near)


def feature_of_page(page: FeaturePage, n_rows: int, seq_len: int) -> dict[str, Any]:
    """The object about a page in one of SAEDashboard's batches.

    Args:
        page: the page.
        n_rows, seq_len: rows of the text that it is from, and tokens in each; 0: not known.
    """
    edges, counts = page.histogram.edges, page.histogram.counts
    return {
        "feature_index": page.index,
        **{name: [] for name in _EMPTY_FIELDS},
        "neg_str": [token for token, _ in page.suppressed],
        "neg_values": _known(page.suppressed),
        "pos_str": [token for token, _ in page.promoted],
        "pos_values": _known(page.promoted),
        "frac_nonzero": page.density if page.n_fired >= 0 else None,
        "freq_hist_data_bar_values": [plain(one) for one in (edges[:-1] + edges[1:]) / 2],
        "freq_hist_data_bar_heights": [float(count) for count in counts],
        "n_prompts_total": n_rows,
        "n_tokens_in_prompt": seq_len,
        "dataset": "",
        "activations": [one for group in page.groups for one in _activations(group, page)],
    }


def shared_rest(rest: Rest) -> Rest:
    """Of what Neuronpedia's own object has beyond a page, what SAEDashboard's object has, too."""
    if rest is None or rest[0] != "object":
        return None
    kept = {name: one for name, one in rest[1].items() if name in _EMPTY_FIELDS}
    return ["object", kept, []] if kept else None


# ---- parts -------------------------------------------------------------------------------------


def _groups(activations: Sequence[_Activation], site: Site, name: str) -> tuple[ExampleGroup, ...]:
    """Activations by their intervals, in the order in which these come."""
    parts: dict[tuple[Optional[float], Optional[float]], list[Any]] = {}
    for place, one in enumerate(activations):
        looks: Optional[NDArray[np.float32]] = None
        about = one.about if one.about is not None else one.strongest
        n = len(one.tokens)
        if (
            site.kind == "attention"
            and one.dfa_values is not None
            and len(one.dfa_values) == n
            and one.dfa_target is not None
            and 0 <= one.dfa_target < n
        ):
            about, looks = one.dfa_target, np.asarray(one.dfa_values, dtype=np.float32)
        example = example_of(one.tokens, one.values, about, f"{name}: activations.{place}", looks)
        top = one.bin_min is None or one.bin_max is None or one.bin_min == _NOTHING
        key = (None, None) if top else (one.bin_min, one.bin_max)
        parts.setdefault(key, []).append(example)
    largest = max((e.values.max() for some in parts.values() for e in some), default=0.0)
    ranks = sorted((key for key in parts if key[0] is not None), key=lambda key: -(key[0] or 0.0))
    return tuple(
        ExampleGroup(_heading(*key, float(largest), ranks), *key, tuple(some))
        for key, some in parts.items()
    )


def _heading(
    low: Optional[float],
    high: Optional[float],
    largest: float,
    ranks: Sequence[tuple[Optional[float], Optional[float]]],
) -> str:
    """A heading for an interval: how it lies in the whole range, where it is one of ours."""
    if low is None or high is None:
        return GROUP_NAMES[0]
    step = largest / N_INTERVALS
    for place in range(N_INTERVALS):
        off = max(abs(low - place * step), abs(high - (place + 1) * step))
        if step > 0 and off < 1e-3 * step + _ROUNDED:
            return GROUP_NAMES[N_INTERVALS - place]
    return f"Interval {ranks.index((low, high)) + 1} of {len(ranks)}, from the largest down"


def _histogram(middles: Sequence[float], counts: Sequence[float]) -> Any:
    """From the middles of bins; without any where these are not of equal width."""
    if len(middles) != len(counts) or len(middles) < 2:
        return NO_HISTOGRAM
    width = (middles[-1] - middles[0]) / (len(middles) - 1)
    steps = np.diff(np.asarray(middles))
    if width <= 0 or np.abs(steps - width).max() > 0.01 * width + 2 * _ROUNDED:
        return NO_HISTOGRAM
    return histogram_of(middles[0] - width / 2, middles[-1] + width / 2, counts)


def _effects(
    words: Sequence[str], values: Sequence[Optional[float]]
) -> tuple[tuple[str, float], ...]:
    found = zip(words, values, strict=True)
    return tuple((word, np.nan if value is None else value) for word, value in found)


def _known(effects: Sequence[tuple[str, float]]) -> list[Optional[float]]:
    """Numbers; null where they are not known."""
    return [None if np.isnan(effect) else plain(effect) for _, effect in effects]


def _activations(group: ExampleGroup, page: FeaturePage) -> list[dict[str, Any]]:
    largest = page.max_activation if page.max_activation >= 0 else _NOTHING
    found = []
    for example in group.examples:
        one: dict[str, Any] = {
            "bin_min": _NOTHING if group.low is None else plain(group.low),
            "bin_max": plain(largest if group.high is None else group.high),
            "bin_contains": _NOTHING,
            "qualifying_token_index": example.peak,
            "tokens": list(example.tokens),
            "values": [plain(value) for value in example.values],
        }
        if example.looks_at is not None:
            one["dfa_values"] = [plain(value) for value in example.looks_at]
            one["dfa_maxValue"] = plain(example.looks_at.max())
            one["dfa_targetIndex"] = example.peak
        found.append(one)
    return found

"""Pages about features, as circuit-tracer's viewer reads them: one JSON object each.

The fields are those of circuit-tracer's ``frontend/feature_models.py``. What they mean was taken
from its viewer: ``quantile_values[i]`` is the activation that ``i + 1`` percent do not exceed,
``histogram`` has equal bins from ``act_min`` to ``act_max``, which are also the ends of its colour
scale, ``activation_frequency`` is a share of all tokens, and the file's name is the number that a
graph has in the node's ``feature``. Tokens are named without how strong the effect on them is, and
intervals of activation without their bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from attention_studio.core.feature_records import (
    SHARES,
    Example,
    ExampleGroup,
    FeaturePage,
    Histogram,
)
from attention_studio.core.interchange.json_rest import plain
from attention_studio.core.interchange.node_facts import cantor_pair
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

N_QUANTILES = 100
MAX_EXAMPLES, MAX_EXAMPLE_TOKENS, MAX_BINS = 4096, 4096, 4096
_FLOAT32_MAX = float(np.finfo(np.float32).max)
Number = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def whole_text(value: Any) -> Any:
    """A text without halves of surrogate pairs, which JSON can say and UTF-8 cannot: tokens that
    are parts of a character may have them. Other values as they are."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Token = Annotated[str, BeforeValidator(whole_text), Field(max_length=4096)]
Heading = Annotated[str, BeforeValidator(whole_text), Field(max_length=4096)]
Checked = TypeVar("Checked", bound=BaseModel)


class FeatureFileError(StudioError):
    """A file about features cannot be read; names the place in it."""


class FileRecord(BaseModel):
    """Types are not converted: a number in quotes is refused. What is not known here stays beside
    the page (``json_rest``)."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class _Example(FileRecord):
    tokens: list[Token] = Field(min_length=1, max_length=MAX_EXAMPLE_TOKENS)
    tokens_acts_list: list[Number] = Field(max_length=MAX_EXAMPLE_TOKENS)
    train_token_ind: Optional[int] = None
    is_repeated_datapoint: bool = False


class _Group(FileRecord):
    quantile_name: Heading = ""
    examples: list[_Example] = Field(max_length=MAX_EXAMPLES)


class _File(FileRecord):
    examples_quantiles: list[_Group] = Field(max_length=MAX_EXAMPLES)
    top_logits: list[Token] = Field(default=[], max_length=MAX_BINS)
    bottom_logits: list[Token] = Field(default=[], max_length=MAX_BINS)
    act_min: Optional[Number] = None
    act_max: Optional[Number] = None
    histogram: list[Number] = Field(default=[], max_length=MAX_BINS)
    activation_frequency: Optional[Share] = None


def number_of(site: Site, index: int, layers_are_sites: bool) -> int:
    """The number that a graph has for a feature; ``layers_are_sites`` as in the graph's JSON."""
    return cantor_pair(site.number if layers_are_sites else site.layer, index)


def file_of_page(page: FeaturePage, dictionary: str, layers_are_sites: bool) -> dict[str, Any]:
    """The JSON value of a page; what is not known of the feature is not in it.

    Args:
        page: the page.
        dictionary: what the dictionary is called.
        layers_are_sites: see ``number_of``.
    """
    edges, counts = page.histogram.edges, page.histogram.counts
    value: dict[str, Any] = {
        "transcoder_id": dictionary,
        "index": number_of(page.site, page.index, layers_are_sites),
        "examples_quantiles": [
            {
                "quantile_name": group.name,
                "examples": [
                    {
                        "tokens_acts_list": [plain(one) for one in example.values],
                        "train_token_ind": example.peak,
                        "is_repeated_datapoint": example.repeated,
                        "tokens": list(example.tokens),
                    }
                    for example in group.examples
                ],
            }
            for group in page.groups
        ],
        "top_logits": [token for token, _ in page.promoted],
        "bottom_logits": [token for token, _ in page.suppressed],
    }
    if len(counts):
        value["act_min"], value["act_max"] = float(edges[0]), float(edges[-1])
        value["quantile_values"] = quantiles(page.histogram, page.max_activation)
        value["histogram"] = [float(count) for count in counts]
    elif page.max_activation > 0:
        value["act_min"], value["act_max"] = 0.0, plain(page.max_activation)
    if page.n_fired >= 0:
        value["activation_frequency"] = page.density
    return value


def page_of_file(
    raw: Any, site: Site, index: int, n_tokens: Optional[int], name: str
) -> FeaturePage:
    """The page that a JSON value is about.

    Args:
        raw: the value.
        site, index: which feature.
        n_tokens: of how many tokens shares are, where that is known.
        name: of the file, for messages.

    Raises:
        FeatureFileError: it is no such value; names the field.
    """
    file = checked(_File, raw, name)
    groups = tuple(
        ExampleGroup(
            group.quantile_name,
            None,
            None,
            tuple(
                example_of(
                    one.tokens,
                    one.tokens_acts_list,
                    one.train_token_ind,
                    f"{name}: examples_quantiles.{g}.examples.{e}",
                    repeated=one.is_repeated_datapoint,
                )
                for e, one in enumerate(group.examples)
            ),
        )
        for g, group in enumerate(file.examples_quantiles)
    )
    low, high = file.act_min, file.act_max
    return page_of(
        site,
        index,
        groups,
        share=file.activation_frequency,
        n_tokens=n_tokens,
        largest=high,
        histogram=histogram_of(low, high, file.histogram),
        promoted=tuple((token, np.nan) for token in file.top_logits),
        suppressed=tuple((token, np.nan) for token in file.bottom_logits),
    )


# ---- what all formats share --------------------------------------------------------------------


def checked(model: type[Checked], raw: Any, name: str) -> Checked:
    """The checked parts of a value.

    Raises:
        FeatureFileError: it is not what it should be; names the field.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, found["loc"]))
        raise refused(name, f"{place}: {found['msg']}" if place else found["msg"]) from error


def refused(name: str, why: str) -> FeatureFileError:
    """That a file about features is none; ``name`` is the file's."""
    return FeatureFileError(
        f"{name} cannot be read as a page about a feature", why, "Have its tool write it again"
    )


def example_of(
    tokens: Sequence[str],
    values: Sequence[float],
    peak: Optional[int],
    name: str,
    looks_at: Optional[NDArray[np.float32]] = None,
    repeated: bool = False,
) -> Example:
    """An example; where the file does not say which token it is about, it is the strongest."""
    if len(values) != len(tokens):
        raise refused(name, f"it has {len(tokens)} tokens and {len(values)} activations")
    found = np.asarray(values, dtype=np.float32)
    if peak is None or not 0 <= peak < len(tokens):
        peak = int(found.argmax())
    before = 0.0 if looks_at is None else np.nan
    return Example(tuple(tokens), found, peak, -1, 0, looks_at, before, repeated)


def page_of(
    site: Site,
    index: int,
    groups: tuple[ExampleGroup, ...],
    *,
    share: Optional[float],
    n_tokens: Optional[int],
    largest: Optional[float],
    histogram: Histogram,
    promoted: tuple[tuple[str, float], ...],
    suppressed: tuple[tuple[str, float], ...],
) -> FeaturePage:
    """A page of what a file has. A share of 0 beside texts in which the feature is active is one
    that was never filled in."""
    shown = max(
        (float(e.values.max(initial=0)) for group in groups for e in group.examples), default=0.0
    )
    if share is None or (share == 0 and shown > 0):
        n_fired = -1
    else:
        n_fired = round(share * (n_tokens or SHARES)) or int(share > 0)
    if shown > 0:
        top = shown
    else:
        top = 0.0 if n_fired == 0 else (largest if largest is not None and largest > 0 else np.nan)
    return FeaturePage(
        site=site,
        index=index,
        n_fired=n_fired,
        n_tokens=n_tokens or SHARES,
        max_activation=top,
        histogram=histogram,
        groups=groups,
        promoted=promoted,
        suppressed=suppressed,
        counted=n_tokens is not None,
    )


def histogram_of(low: Optional[float], high: Optional[float], counts: Sequence[float]) -> Histogram:
    """A histogram of equal bins; without any where the file has none, or has shares in it."""
    whole = all(count >= 0 and float(count).is_integer() and count < 1 << 53 for count in counts)
    if not counts or low is None or high is None or not low < high or not whole:
        return NO_HISTOGRAM
    return Histogram(
        np.linspace(low, high, len(counts) + 1), np.asarray([int(count) for count in counts])
    )


NO_HISTOGRAM = Histogram(np.zeros(1), np.zeros(0, dtype=np.int64))


def quantiles(histogram: Histogram, top: float) -> list[float]:
    """[100] the activations that 1, 2 … 100 percent of all do not exceed, read off a histogram as
    though activations lay evenly in each bin: right to within a bin. [] where there are none."""
    cumulated = np.concatenate([[0], np.cumsum(histogram.counts)])
    total = int(cumulated[-1])
    if not total:
        return []
    ranks = np.ceil(np.arange(1, N_QUANTILES + 1) / N_QUANTILES * total - 1e-9)
    bins = np.searchsorted(cumulated[1:], ranks)
    inside = (ranks - cumulated[bins]) / histogram.counts[bins]
    low, high = histogram.edges[bins], histogram.edges[bins + 1]
    return [plain(min(one, top)) for one in (low + inside * (high - low)).tolist()]

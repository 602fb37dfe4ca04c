"""Headless commands on feature stores: build one, say what it is of, show and find features, and
bring dashboards in from other tools or take them there."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    not_negative,
    open_corpus,
    open_crm,
    positive,
)
from attention_studio.core.feature_names import FeatureName
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.feature_gathering import GatheringEstimate
    from attention_studio.core.feature_records import Example, FeaturePage, Neighbour
    from attention_studio.core.feature_store import FeatureFilter, FeatureStore, StoreAbout
    from attention_studio.core.interchange.feature_import import Belonging

_BAR = 40
_MIB = 1 << 20


def build(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Run a model over text once, and keep what is needed to show every feature.

    A build that was stopped or killed goes on where it was when it is asked for again.
    """
    from attention_studio.core.feature_gathering import (
        GatheringSettings,
        estimate_gathering,
        gather_features,
    )

    wanted = GatheringSettings(
        strongest=arguments.strongest,
        per_interval=arguments.per_interval,
        before=arguments.before,
        after=arguments.after,
        neighbours=not arguments.no_neighbours,
        sink_factor=arguments.sink_factor,
        seed=arguments.seed,
        memory_mib=arguments.memory_mib,
    )
    loaded = load_model(arguments, settings, ctx)
    crm = open_crm(arguments, loaded, ctx)
    corpus = open_corpus(arguments, loaded, ctx)
    if arguments.estimate:
        return _estimate_report(estimate_gathering(crm, corpus, wanted, ctx))
    out = Path(arguments.out)
    about = gather_features(crm, corpus, out, wanted, ctx, anew=arguments.anew)
    with _opened(arguments.out) as store:
        data, lines = _about(about, store)
    return Report({**data, "out": str(out)}, [*lines, f"Saved in {out}"])


def info(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """What a feature store is of."""
    with _opened(arguments.store) as store:
        data, lines = _about(store.about, store)
    return Report(data, lines)


def show(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Everything that is kept of some features."""
    with _opened(arguments.store) as store:
        if arguments.random:
            found = store.random(_filter(arguments), arguments.seed)
            features = [] if found is None else [found]
        else:
            features = [_feature(name) for name in arguments.feature]
        pages = [store.page(site, index) for site, index in features]
    data = {"features": [_page(page) for page in pages]}
    lines = [line for page in pages for line in (*_page_lines(page, arguments.examples), "")]
    return Report(data, lines[:-1] or ["There is no such feature"])


def search(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Features by their label, the tokens they promote and the text of their examples; without
    words, a list of features."""
    words = " ".join(arguments.words)
    with _opened(arguments.store) as store:
        if words:
            named = [(f.site, f.index) for f in store.search(words, arguments.limit)]
            rows = store.rows_of(named, _filter(arguments))
        else:
            rows = store.rows(_filter(arguments), arguments.order, arguments.limit)
        found: list[dict[str, Any]] = []
        for row in rows:
            label = store.label(row.site, row.index)
            found.append(
                {
                    "feature": str(FeatureName(row.site, None, row.index)),
                    "density": _number(row.density),
                    "max_activation": _number(row.max_activation),
                    "promotes": list(store.promotes(row.site, row.index)),
                    "label": "" if label is None else label.text,
                }
            )
    lines = [
        f"{one['feature']:>12} {_shown(one['density'], '.3%'):>8} "
        + f"{_shown(one['max_activation'], '.3g'):>9}  "
        + ", ".join(repr(word) for word in one["promotes"])
        + (f"  {one['label']}" if one["label"] else "")
        for one in found
    ]
    heads = [f"{'feature':>12} {'density':>8} {'largest':>9}  promotes"]
    return Report({"features": found}, heads + lines if lines else ["No feature fits"])


def export(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Write pages about features as circuit-tracer's viewer or Neuronpedia read them."""
    from attention_studio.core.interchange.feature_export import export_dashboards

    features = None
    if arguments.features != ["all"]:
        features = [_feature(name) for name in arguments.features]
    out = Path(arguments.out)
    with _opened(arguments.store) as store:
        found = export_dashboards(store, arguments.format, out, features, ctx)
    return Report(
        {"out": str(out), **asdict(found)},
        [
            f"{found.n_pages:,} pages in {found.n_files:,} files",
            *(f"  {note}" for note in found.notes),
            f"Saved in {out}",
        ],
    )


def import_(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Make a feature store of pages that circuit-tracer, Neuronpedia or SAEDashboard wrote."""
    from attention_studio.core.interchange.feature_import import Belonging, import_dashboards

    belonging = Belonging(model_name=arguments.model_name or "")
    if arguments.crm is not None:
        belonging = _belonging(arguments)
    sources = [Path(source) for source in arguments.sources]
    out = Path(arguments.out)
    found = import_dashboards(sources, out, belonging, arguments.kind, arguments.numbers, ctx)
    with _opened(arguments.out) as store:
        data, lines = _about(found.about, store)
    data |= {"n_pages": found.n_pages, "notes": list(found.notes), "out": str(out)}
    # What the files lack is said of the store, too.
    told = dict.fromkeys([*lines, *(f"  {note}" for note in found.notes)])
    return Report(data, [*told, f"Saved in {out}"])


def _belonging(arguments: argparse.Namespace) -> Belonging:
    """The replacement model that somebody says imported pages are about."""
    from attention_studio.core.dictionaries.crm_folder import load_manifest
    from attention_studio.core.feature_store import SiteSize
    from attention_studio.core.interchange.feature_import import Belonging
    from attention_studio.utils.paths import crm_folder

    folder = crm_folder(arguments.crm)
    manifest = load_manifest(folder)
    entries = sorted(manifest.dictionaries.values(), key=lambda entry: entry.site)
    return Belonging(
        model_name=arguments.model_name or manifest.model.name,
        model_hash=manifest.model.weights_hash,
        crm_name=folder.name,
        crm_hash=manifest.fingerprint,
        sites=tuple(
            SiteSize(entry.site.layer, entry.site.kind, entry.config.d_latent) for entry in entries
        ),
    )


def add_dashboards(
    commands: Any,
    crm: argparse.ArgumentParser,
    output: argparse.ArgumentParser,
) -> None:
    """Add ``dashboards`` with its actions to the commands; ``crm`` and ``output`` as elsewhere."""
    summary = "What every feature does over a text: gathered once, then shown and searched."
    dashboards = commands.add_parser("dashboards", help=summary, description=summary)
    actions = dashboards.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Any, parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
        about = (run.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")
        sub: argparse.ArgumentParser = actions.add_parser(
            name, parents=[parent], help=about, description=about
        )
        sub.set_defaults(run=run)
        return sub

    sub = action("build", build, crm)
    sub.add_argument(
        "--text", nargs="+", default=[], help="files, folders or samples:N. The demo brings its own"
    )
    sub.add_argument("--out", required=True, help="the folder of the store")
    sub.add_argument("--tokens", type=positive, default=262_144, help="read at most so many tokens")
    sub.add_argument("--seq-len", type=positive, default=128, help="tokens per row")
    sub.add_argument("--strongest", type=positive, default=16, help="examples of the strongest")
    sub.add_argument(
        "--per-interval", type=not_negative, default=5, help="examples of each fifth of the range"
    )
    sub.add_argument("--before", type=not_negative, default=24, help="tokens before the peak")
    sub.add_argument("--after", type=not_negative, default=8, help="tokens after the peak")
    sub.add_argument(
        "--no-neighbours",
        action="store_true",
        help="compare no features, which takes time by the square of their number",
    )
    sub.add_argument(
        "--sink-factor",
        type=float,
        default=10.0,
        help="leave out tokens whose stream is so many times as long as the median; 0: none",
    )
    sub.add_argument("--seed", type=not_negative, default=0, help="which examples are drawn")
    sub.add_argument(
        "--memory-mib", type=float, default=256.0, help="for examples; more go to the disk"
    )
    sub.add_argument(
        "--estimate", action="store_true", help="say what it would take, and build nothing"
    )
    sub.add_argument(
        "--anew", action="store_true", help="forget a build that was stopped, and begin again"
    )

    sub = action("info", info, output)
    sub.add_argument("store", help="what dashboards build wrote")

    sub = action("show", show, output)
    sub.add_argument("store", help="what dashboards build wrote")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--feature", nargs="+", help="L3/F17, or A3/F17 of an attention")
    which.add_argument("--random", action="store_true", help="one by chance")
    sub.add_argument("--examples", type=not_negative, default=5, help="of each heading, at most")
    sub.add_argument("--seed", type=not_negative, help="of the chance")
    _add_filter(sub)

    sub = action("search", search, output)
    sub.add_argument("store", help="what dashboards build wrote")
    sub.add_argument("words", nargs="*", help="all of them; left out: list features")
    sub.add_argument("--limit", type=positive, default=20, help="features at most")
    sub.add_argument(
        "--order", choices=("index", "density", "-density", "max", "-max"), default="index"
    )
    _add_filter(sub)

    sub = action("export", export, output)
    sub.add_argument("store", help="what dashboards build or import wrote")
    sub.add_argument(
        "--format", required=True, choices=("circuit-tracer", "neuronpedia"), help="whose files"
    )
    sub.add_argument("--out", required=True, help="a folder that is not there yet")
    sub.add_argument(
        "--features", nargs="+", default=["all"], metavar="FEATURE", help="L3/F17 …, or all"
    )

    sub = action("import", import_, output)
    sub.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="folders and files (.json, .jsonl, .jsonl.gz, index.json.gz) of the tool",
    )  # fmt: skip
    sub.add_argument("--out", required=True, help="the folder of the store, not there yet")
    sub.add_argument("--crm", help="the replacement model (a folder) that the pages are about")
    sub.add_argument("--model-name", help="what to call the model")
    sub.add_argument(
        "--kind", choices=("attention", "mlp"), help="of what the features are, if no name says it"
    )
    sub.add_argument(
        "--numbers",
        choices=("layers", "sites"),
        help="what circuit-tracer's numbers count: layers, or attentions and MLPs in turn",
    )


def _add_filter(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--layers", type=not_negative, nargs="+", help="of these layers only")
    sub.add_argument("--kind", choices=("attention", "mlp"), help="of this kind only")
    sub.add_argument("--least-density", type=float, help="active at least so often, a share")
    sub.add_argument("--most-density", type=float, help="active at most so often")
    alive = sub.add_mutually_exclusive_group()
    alive.add_argument("--dead", action="store_true", help="only what was never active")
    alive.add_argument("--alive", action="store_true", help="only what was active")


def _filter(arguments: argparse.Namespace) -> FeatureFilter:
    from attention_studio.core.feature_store import FeatureFilter

    return FeatureFilter(
        layers=tuple(arguments.layers) if arguments.layers else None,
        kinds=(arguments.kind,) if arguments.kind else None,
        least_density=arguments.least_density,
        most_density=arguments.most_density,
        dead=True if arguments.dead else False if arguments.alive else None,
    )


def _feature(name: str) -> tuple[Any, int]:
    found = FeatureName.read(name)
    if found is None or not isinstance(found.latent, int):
        raise UsageError(f"{name!r} names no feature", "", "write L3/F17, or A3/F17")
    return found.site, found.latent


@contextmanager
def _opened(folder: str) -> Iterator[FeatureStore]:
    from attention_studio.core.feature_store import FeatureStore

    store = FeatureStore.open(Path(folder))
    try:
        yield store
    finally:
        store.close()


def _estimate_report(found: GatheringEstimate) -> Report:
    return Report(
        asdict(found),
        [
            f"{found.n_features:,} features over {found.n_tokens:,} tokens: about "
            f"{found.seconds:,.0f} s, {found.disk_bytes / _MIB:,.0f} MiB on the disk while it runs "
            f"and {found.memory_bytes / _MIB:,.0f} MiB of memory beyond the model's"
        ],
    )


def _about(about: StoreAbout, store: FeatureStore) -> tuple[dict[str, Any], list[str]]:
    from attention_studio.core.feature_store import FeatureFilter

    dead = store.count(FeatureFilter(dead=True))
    labelled = store.count(FeatureFilter(labelled=True))
    data = asdict(about) | {
        "sites": {size.site.label: size.n_features for size in about.sites},
        "n_features": about.n_features,
        "n_tokens": about.n_tokens if about.counted else None,
        "n_pages": store.count(),
        "n_dead": dead,
        "n_labelled": labelled,
    }
    lines = [
        f"{about.model_name or 'A model'} with {about.crm_name}: {about.n_features:,} features "
        + (f"over {about.n_tokens:,} tokens" if about.counted else "over some text"),
        f"  {dead:,} never active, {labelled:,} with a label",
    ]
    if about.partial:
        lines.append(f"  Pages about {data['n_pages']:,} of them")
    if about.lacks:
        lines.append(f"  The files it is from do not say {', '.join(about.lacks)}")
    if about.n_left_out:
        lines.append(f"  {about.n_left_out:,} norm sinks left out")
    if about.n_firing_tokens:
        lines.append(f"  Which fire together was compared at {about.n_firing_tokens:,} tokens")
    lines.append(f"  Made by {about.origin} {about.version}, {about.made}")
    return data, lines


def _page(page: FeaturePage) -> dict[str, Any]:
    label = page.label
    return {
        "feature": str(FeatureName(page.site, None, page.index)),
        "label": None if label is None else asdict(label),
        "n_fired": page.n_fired if page.counted and page.n_fired >= 0 else None,
        "n_tokens": page.n_tokens if page.counted else None,
        "density": _number(page.density),
        "dead": page.dead,
        "max_activation": _number(page.max_activation),
        "histogram": _histogram(page),
        "promoted": [[word, _number(effect)] for word, effect in page.promoted],
        "suppressed": [[word, _number(effect)] for word, effect in page.suppressed],
        "near_by_decoder": [_near(near) for near in page.near_by_decoder],
        "near_by_firing": [_near(near) for near in page.near_by_firing],
        "groups": [
            {
                "name": group.name,
                "low": group.low,
                "high": group.high,
                "examples": [_example(example) for example in group.examples],
            }
            for group in page.groups
        ],
    }


def _histogram(page: FeaturePage) -> Optional[dict[str, Any]]:
    if not len(page.histogram.counts):
        return None
    return {
        "edges": page.histogram.edges.tolist(),
        "counts": page.histogram.counts.tolist(),
    }


def _number(value: float) -> Optional[float]:
    """A number; None where it is not known."""
    return None if math.isnan(value) else value


def _shown(value: Optional[float], form: str) -> str:
    """A number for people; "?" where it is not known."""
    return "?" if value is None or math.isnan(value) else format(value, form)


def _near(near: Neighbour) -> dict[str, Any]:
    return {
        "feature": str(FeatureName(near.site, None, near.index)),
        "score": near.score,
        "promotes": list(near.promotes),
        "label": near.label,
    }


def _example(example: Example) -> dict[str, Any]:
    looks: Optional[list[float]] = None
    if example.looks_at is not None:
        looks = example.looks_at.tolist()
    return {
        "tokens": list(example.tokens),
        "values": example.values.tolist(),
        "peak": example.peak,
        "sequence": example.sequence,
        "start": example.start,
        "looks_at": looks,
        "looks_before": _number(example.looks_before),
        "repeated": example.repeated,
    }


def _page_lines(page: FeaturePage, most: int) -> list[str]:
    lines = [str(FeatureName(page.site, None, page.index))]
    if page.label is not None:
        lines[0] += f"  {page.label.text}  ({page.label.by})"
    if page.dead:
        lines.append("  never active in this text")
    else:
        tokens = f"{page.n_tokens:,} tokens" if page.counted else "the tokens"
        lines.append(
            f"  active at {_shown(page.density, '.3%')} of {tokens}, "
            f"at most {_shown(page.max_activation, '.4g')}"
        )
    for title, found in (("promotes", page.promoted), ("suppresses", page.suppressed)):
        told = (f"{word!r} {_shown(value, '+.2f')}" for word, value in found)
        lines.append(f"  {title}: " + ", ".join(told))
    for title, near in (
        ("writes like", page.near_by_decoder),
        ("fires with", page.near_by_firing),
    ):
        if near:
            named = (f"{FeatureName(n.site, None, n.index)} {n.score:.2f}" for n in near)
            lines.append(f"  {title}: " + ", ".join(named))
    for group in page.groups:
        if not most:
            break
        lines.append(f"  {group.name}")
        for example in group.examples[:most]:
            lines.append(f"    {example.value:8.3g}  {_marked(example)}")
    return lines


def _marked(example: Example) -> str:
    """The text around the peak on one line, the peak in brackets."""
    peak = example.peak
    before = "".join(example.tokens[:peak])[-_BAR:]
    after = "".join(example.tokens[peak + 1 :])[:_BAR]
    text = f"{before}[{example.tokens[peak]}]{after}"
    return "".join(c if c.isprintable() else " " for c in text)

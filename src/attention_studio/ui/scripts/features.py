"""Features and dashboards about them, as calls of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attention_studio.core.script_text import ScriptError

if TYPE_CHECKING:
    from attention_studio.ui.scripts.steps import Steps
    from attention_studio.ui.scripts.table import Source

_CORE = "attention_studio.core"


def _store(steps: Steps, source: Source) -> None:
    """Write how to open the dashboards."""
    store = source.session.store
    if store is None:
        raise ScriptError(
            "No dashboards are open", "the script would have nothing to read", "open some first"
        )
    kind = steps.script.use(f"{_CORE}.feature_store", "FeatureStore")
    steps.script.assign("store", f"{kind}.open({steps.script.value(store.folder)})")


def _open(steps: Steps, source: Source) -> None:
    _store(steps, source)
    steps.show("store.about")


def _page(steps: Steps, source: Source) -> None:
    """The page of the feature that is looked at."""
    feature = source.session.feature
    if source.session.store is None or feature is None:
        _open(steps, source)
        return
    _store(steps, source)
    site, index = feature
    kind = steps.script.use(f"{_CORE}.sites", "Site")
    place = f"{kind}({site.layer}, {site.kind!r}), {index}"
    steps.script.assign("page", f"store.page({place})")
    steps.show("page.density, page.max_activation, page.label")
    steps.show('["".join(one.tokens) for group in page.groups[:1] for one in group.examples]')


def _search(steps: Steps, source: Source) -> None:
    _store(steps, source)
    words = source.handler("features.search").list.search.text()
    steps.script.assign("found", f"store.search({words!r})")
    steps.show("found")


def _random(steps: Steps, source: Source) -> None:
    _store(steps, source)
    steps.script.assign("feature", "store.random()")
    steps.show("feature")


def _try_text(steps: Steps, source: Source) -> None:
    feature = source.session.feature
    if feature is None:
        raise ScriptError("No feature is looked at", "there is nothing to try", "choose one first")
    steps.need("crm")
    script, (site, index) = steps.script, feature
    kind = script.use(f"{_CORE}.sites", "Site")
    look = script.use(f"{_CORE}.feature_sheet", "feature_sheet")
    text = source.handler("features.try_text").detail.text.text() or source.session.prompt
    script.assign(
        "sheet",
        f"{look}(crm, {kind}({site.layer}, {site.kind!r}), {index}, crm.loaded.encode({text!r}))",
    )
    steps.show("sheet.report.tokens, sheet.report.active_values")


def _build(steps: Steps, source: Source) -> None:
    request = source.handler("features.build_start").request()
    if not request.sources:
        raise ScriptError(
            "There is no text to build dashboards of", "the form names none", "add some to it first"
        )
    steps.need("crm")
    script = steps.script
    corpus = script.use(f"{_CORE}.corpus", "build_corpus")
    gather = script.use(f"{_CORE}.feature_gathering", "gather_features")
    sources = script.value(request.sources)
    script.assign("corpus", f"{corpus}(crm.loaded, {sources}, {request.seq_len}, {request.tokens})")
    script.assign("about", f"{gather}(crm, corpus, {script.value(request.folder)})")
    steps.show("about")


def _import(steps: Steps, source: Source) -> None:
    given = source.handler("features.import_store").given
    if given is None:
        raise ScriptError(
            "Nothing was imported yet", "there is nothing to write", "import dashboards first"
        )
    script, (folder, out) = steps.script, given
    bring = script.use(f"{_CORE}.interchange.feature_import", "import_dashboards")
    kind = script.use("pathlib", "Path")
    # Into another folder than the window's, which is there.
    script.assign("out", f"{kind}({script.value(out.name)})")
    script.assign("found", f"{bring}([{script.value(folder)}], out)")
    steps.show("found.about, found.notes")


def _export(steps: Steps, source: Source) -> None:
    sent = source.handler("features.export_tracer").sent
    if sent is None:
        raise ScriptError(
            "Nothing was exported yet", "there is nothing to write", "export dashboards first"
        )
    _store(steps, source)
    script, (tool, out) = steps.script, sent
    send = script.use(f"{_CORE}.interchange.feature_export", "export_dashboards")
    kind = script.use("pathlib", "Path")
    script.assign("found", f"{send}(store, {tool!r}, {kind}({out.name!r}))")
    steps.show("found")


FEATURE_SCRIPTS: Mapping[str, Callable[[Steps, Source], None]] = {
    "features.open_store": _open,
    "features.import_store": _import,
    "features.export_tracer": _export,
    "features.export_neuronpedia": _export,
    "features.search": _search,
    "features.next": _page,
    "features.previous": _page,
    "features.label": _page,
    "features.compare": _page,
    "features.random": _random,
    "features.try_text": _try_text,
    "features.build": _build,
    "features.build_start": _build,
}
"""By id of the command; a step to another feature is written as the page that it led to."""

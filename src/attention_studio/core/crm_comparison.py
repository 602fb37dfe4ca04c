"""Measures complete replacement models on text and on prompts.

Whether they were trained on that text is for whoever gives it to know: it is not looked into.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.activations import ActivationSource
from attention_studio.core.corpus import TokenCorpus, build_corpus
from attention_studio.core.crm_quality import (
    CRMComparison,
    CRMQuality,
    EvaluationRequest,
    PromptScores,
)
from attention_studio.core.dictionaries.crm_folder import CRMManifest, load_manifest
from attention_studio.core.evaluation import Evaluator
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.utils.progress import WorkContext


def compare_crms(
    loaded: LoadedModel, request: EvaluationRequest, ctx: Optional[WorkContext] = None
) -> CRMComparison:
    """Measure each CRM on the same text and prompts.

    Raises:
        CorpusError: there is no text, or it cannot be read.
        CRMFormatError, CRMMismatchError: a folder holds no CRM of this model.
        Cancelled: through ``ctx``.
    """
    seq_len = min(request.seq_len, loaded.info.context_length)
    # Some positions of a text are left out, so read a little more than is measured.
    enough = 2 * request.tokens
    corpus = build_corpus(loaded, request.sources, seq_len, max_tokens=enough, ctx=ctx)
    measured = []
    for number, folder in enumerate(request.folders, 1):
        many = len(request.folders) > 1
        prefix = f"{folder.name} ({number} of {len(request.folders)}): " if many else ""
        part = None if ctx is None else _Prefixed(ctx, prefix)
        manifest = load_manifest(folder)
        crm = CompleteReplacementModel.from_folder(loaded, folder, part)
        measured.append(_measure(crm, folder, manifest, corpus, request, part))
    return CRMComparison(loaded.info.name, tuple(measured))


class _Prefixed(WorkContext):
    """Hands everything on, and says which of several things the progress is of."""

    def __init__(self, outer: WorkContext, prefix: str) -> None:
        super().__init__()
        self._outer, self._prefix = outer, prefix

    @property
    def cancelled(self) -> bool:
        return self._outer.cancelled

    def check(self) -> None:
        self._outer.check()

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        self._outer.progress(done, total, f"{self._prefix}{text}")

    def partial(self, value: Any) -> None:
        self._outer.partial(value)


def _measure(
    crm: CompleteReplacementModel,
    folder: Path,
    manifest: CRMManifest,
    corpus: TokenCorpus,
    request: EvaluationRequest,
    ctx: Optional[WorkContext],
) -> CRMQuality:
    adapter = crm.adapter
    source = ActivationSource(
        adapter, corpus, crm.sites, block_tokens=1, seed=0, device=adapter.device
    )
    evaluator = Evaluator(source, adapter, request.tokens, request.downstream_tokens)
    result = evaluator.evaluate(crm.dictionaries, ctx)
    builder = GraphBuilder(crm)
    prompts = [
        PromptScores(prompt, **asdict(builder.build(prompt, ctx=ctx).scores))
        for prompt in request.prompts
    ]
    known = {site: manifest.dictionaries[site.name].metrics for site in result.sites}
    affine = {site: metrics.get("affine_fvu") for site, metrics in known.items()}
    return CRMQuality(
        folder=folder,
        n_layers=manifest.model.n_layers,
        tokens=result.n_tokens,
        modules=tuple(result.rows(manifest.training.tokens_trained, affine)),
        together=result.overall,
        prompts=tuple(prompts),
    )

"""What the residual stream would predict at every depth, and what patching it does.

The logit lens (nostalgebraist 2020, *interpreting GPT: the logit lens*) reads the stream at some
depth as the model reads it at the end: through the final norm, with the denominator that the stream
has there, the unembedding and the cap on logits, where a family has one. The last depth is the
model's own prediction.

A patch puts what the stream is at one cell into another (activation patching, Meng et al. 2022,
*Locating and Editing Factual Associations in GPT*), and lets the model go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import Tensor

from attention_studio.core.intervention_outcomes import TokenEffect
from attention_studio.core.lens_records import (
    Cell,
    LensTable,
    PatchError,
    PatchOutcome,
    PatchSet,
)
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

TOP_K = 5
_VALUES_AT_ONCE = 1 << 24
"""Logits that are in memory at once."""


@dataclass(frozen=True)
class Streams:
    """What the lens reads of one pass over a prompt of T tokens.

    Attributes:
        at: the residual stream [T, d] by depth, the last one in front of the final norm.
        logits: [T, V].
    """

    at: tuple[Tensor, ...]
    logits: Tensor


@torch.no_grad()
def read_streams(adapter: ModelAdapter, ids: Sequence[int]) -> Streams:
    """Run one prompt (ids [T]) and keep its residual stream at every depth."""
    seen: dict[int, Tensor] = {}
    with _seeing(adapter, range(adapter.n_layers + 1), seen.__setitem__):
        logits = adapter.logits(ids)[0]
    return Streams(tuple(seen[depth] for depth in sorted(seen)), logits.to(adapter.device))


@torch.no_grad()
def read_cells(
    adapter: ModelAdapter, ids: Sequence[int], cells: Sequence[Cell]
) -> dict[Cell, Tensor]:
    """Run one prompt and keep its residual stream [d] at some cells alone."""
    rows: dict[Cell, Tensor] = {}

    def keep(depth: int, stream: Tensor) -> None:
        # Copies, so that the rest of the stream goes.
        rows.update({cell: stream[cell.position].clone() for cell in cells if cell.depth == depth})

    with _seeing(adapter, {cell.depth for cell in cells}, keep):
        adapter.final_normed(ids)
    return rows


@torch.no_grad()
def read_lens(
    loaded: LoadedModel, prompt: str, top_k: int = TOP_K, ctx: Optional[WorkContext] = None
) -> LensTable:
    """The logit lens over all depths and positions of a prompt.

    Raises:
        EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``.
    """
    ctx = WorkContext() if ctx is None else ctx
    ids = loaded.encode(prompt)
    ctx.progress(0, None, "Running the model")
    return _read(loaded, prompt, ids, read_streams(loaded.adapter, ids), top_k, ctx)


@torch.no_grad()
def apply_patches(
    loaded: LoadedModel, patches: PatchSet, top_k: int = TOP_K, ctx: Optional[WorkContext] = None
) -> PatchOutcome:
    """Read ``patches.prompt`` with patches, beside how it is read without.

    All sources are taken from passes without any patch.

    Raises:
        PatchError: the model is another one, or a cell is not there.
        EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``.
    """
    ctx = WorkContext() if ctx is None else ctx
    adapter = loaded.adapter
    if patches.weights_hash != loaded.info.weights_hash:
        raise PatchError(
            "These patches are for another model",
            f"{loaded.info.name} has other weights",
            "Load the model that they were made with",
        )
    ids = loaded.encode(patches.prompt)
    ctx.progress(0, None, "Running the model")
    before = read_streams(adapter, ids)
    rows = _rows(loaded, patches, ids, before, ctx)
    ctx.check()
    ctx.progress(0, None, "Running the patched model")
    with patched(adapter, rows):
        after = read_streams(adapter, ids)
    table = _read(loaded, patches.prompt, ids, after, top_k, ctx)
    change = torch.stack(
        [
            _divergences(_LogShares(adapter, after, depth), _LogShares(adapter, before, depth))
            for depth in range(adapter.n_layers + 1)
        ]
    )
    return PatchOutcome(patches, table, change.numpy(), _effects(loaded, before, after, top_k))


@contextmanager
def patched(adapter: ModelAdapter, rows: Mapping[Cell, Tensor]) -> Iterator[None]:
    """Within the block, the residual stream of every pass over one prompt is ``rows`` [d] at those
    cells."""
    handles: list[Any] = []

    def put(here: dict[int, Tensor]) -> Callable[..., Any]:
        def hook(_module: Any, args: Any) -> Any:
            stream = args[0].clone()
            for position, row in here.items():
                stream[:, position] = row.to(stream.device, stream.dtype)
            return (stream, *args[1:])

        return hook

    by_depth: dict[int, dict[int, Tensor]] = {}
    for cell, row in rows.items():
        by_depth.setdefault(cell.depth, {})[cell.position] = row
    try:
        for depth, here in by_depth.items():
            module = adapter.stream_reader(depth)
            handles.append(module.register_forward_pre_hook(put(here)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def lens_logits(adapter: ModelAdapter, stream: Tensor) -> Tensor:
    """The logits [..., V] that a stream [..., d] would give if it were the last."""
    norm = adapter.final_norm()
    return adapter.unembed(norm.apply(stream, norm.scale(stream)))


# ---- parts ---------------------------------------------------------------------------------------


@contextmanager
def _seeing(
    adapter: ModelAdapter, depths: Iterable[int], see: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Within the block, ``see`` is given the residual stream [T, d] of the first prompt of every
    pass at those depths."""

    def hook_at(depth: int) -> Callable[..., None]:
        def hook(_module: Any, args: Any) -> None:
            see(depth, args[0][0].to(adapter.device))

        return hook

    handles = [
        adapter.stream_reader(depth).register_forward_pre_hook(hook_at(depth)) for depth in depths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(
    loaded: LoadedModel, patches: PatchSet, ids: Sequence[int], before: Streams, ctx: WorkContext
) -> dict[Cell, Tensor]:
    """What is put where."""
    tokens = {patches.prompt: ids}
    for patch in patches.patches:
        if patch.source_prompt not in tokens:
            tokens[patch.source_prompt] = loaded.encode(patch.source_prompt)
        length = len(tokens[patch.source_prompt])
        for cell, there in ((patch.source, length), (patch.target, len(ids))):
            _check_cell(cell, loaded.adapter.n_layers, there)
    rows: dict[tuple[str, Cell], Tensor] = {}
    for prompt in tokens:
        cells = [patch.source for patch in patches.patches if patch.source_prompt == prompt]
        if prompt == patches.prompt:
            found = {cell: before.at[cell.depth][cell.position] for cell in cells}
        else:
            ctx.check()
            ctx.progress(0, None, "Running the model on the prompt that is patched from")
            found = read_cells(loaded.adapter, tokens[prompt], cells)
        rows.update({(prompt, cell): row for cell, row in found.items()})
    return {patch.target: rows[patch.source_prompt, patch.source] for patch in patches.patches}


def _check_cell(cell: Cell, depths: int, length: int) -> None:
    if not (0 <= cell.depth <= depths and 0 <= cell.position < length):
        raise PatchError(
            f"There is no cell at depth {cell.depth}, position {cell.position}",
            f"depths are 0 to {depths}, and the prompt has {length} tokens",
            "Choose a cell of the table",
        )


def _read(
    loaded: LoadedModel,
    prompt: str,
    ids: Sequence[int],
    streams: Streams,
    top_k: int,
    ctx: WorkContext,
) -> LensTable:
    adapter = loaded.adapter
    depths = adapter.n_layers + 1
    k = min(top_k, streams.logits.shape[-1])
    end = _LogShares(adapter, streams, adapter.n_layers)
    end_ids = [piece.argmax(-1) for piece in end]
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("ids", "top", "chosen", "rank", "entropy", "divergence")
    }
    for depth in range(depths):
        ctx.check()
        ctx.progress(depth, depths, "Reading the residual stream")
        found: dict[str, list[Tensor]] = {name: [] for name in columns}
        here = _LogShares(adapter, streams, depth)
        for logs, last, best in zip(here, end, end_ids, strict=True):
            shares, tokens = logs.topk(k, -1)
            chosen = logs.gather(-1, best.unsqueeze(-1))
            found["ids"].append(tokens)
            found["top"].append(shares.exp())
            found["chosen"].append(chosen.squeeze(-1).exp())
            found["rank"].append((logs > chosen).sum(-1))
            found["entropy"].append(-_weighted(logs, logs))
            found["divergence"].append(_divergence(last, logs))
        for name, pieces in found.items():
            columns[name].append(torch.cat(pieces))
    table = {name: torch.stack(rows).cpu().numpy() for name, rows in columns.items()}
    best_ids = torch.cat(end_ids).cpu().numpy()
    known = sorted({int(i) for i in table["ids"].ravel()} | {int(i) for i in best_ids})
    return LensTable(
        model=loaded.info.name,
        weights_hash=loaded.info.weights_hash,
        prompt=prompt,
        token_ids=tuple(ids),
        tokens=tuple(loaded.token_strings(ids)),
        top_ids=table["ids"],
        top_probabilities=table["top"],
        words=dict(zip(known, loaded.token_strings(known), strict=True)),
        end_ids=best_ids,
        end_probability=table["chosen"],
        end_rank=table["rank"],
        entropy=table["entropy"],
        divergence=table["divergence"],
    )


class _LogShares:
    """Logarithms of the probabilities [T, V] that a depth gives, a piece of positions at a time;
    they are worked out anew each time that they are gone through."""

    def __init__(self, adapter: ModelAdapter, streams: Streams, depth: int) -> None:
        self._adapter, self._logits = adapter, streams.logits
        self._last = depth == adapter.n_layers
        self._stream = streams.at[depth]

    def __iter__(self) -> Iterator[Tensor]:
        step = max(1, _VALUES_AT_ONCE // self._logits.shape[-1])
        for start in range(0, len(self._stream), step):
            here = slice(start, start + step)
            # The end is taken from the model itself, so that it is the model's to the last digit.
            logits = (
                self._logits[here] if self._last else lens_logits(self._adapter, self._stream[here])
            )
            yield logits.float().log_softmax(-1)


def _weighted(logs: Tensor, values: Tensor) -> Tensor:
    """The mean of values under a distribution; a probability of 0 counts nothing."""
    return torch.where(logs > -torch.inf, logs.exp() * values, 0.0).sum(-1)


def _divergence(true: Tensor, other: Tensor) -> Tensor:
    """KL(true ‖ other) [T] of logarithms [T, V], never below 0 by rounding."""
    return _weighted(true, true - other).clamp(min=0)


def _divergences(true: _LogShares, other: _LogShares) -> Tensor:
    return torch.cat([_divergence(a, b) for a, b in zip(true, other, strict=True)]).cpu()


def _effects(
    loaded: LoadedModel, before: Streams, after: Streams, top_k: int
) -> tuple[TokenEffect, ...]:
    """The likeliest next tokens of both passes."""
    logits = [streams.logits[-1].float() for streams in (before, after)]
    shares = [values.softmax(-1) for values in logits]
    k = min(top_k, len(logits[0]))
    chosen = {int(i) for values in logits for i in values.topk(k).indices}
    ranked = sorted(chosen, key=lambda i: (-float(shares[1][i]), i))
    return tuple(
        TokenEffect(
            i,
            text,
            float(logits[0][i]),
            float(logits[1][i]),
            float(shares[0][i]),
            float(shares[1][i]),
        )
        for i, text in zip(ranked, loaded.token_strings(ranked), strict=True)
    )

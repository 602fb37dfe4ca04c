"""The logit lens and patches: closed forms and second roads, on every family."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core import logit_lens
from attention_studio.core.lens_records import (
    Cell,
    LensTable,
    Patch,
    PatchError,
    PatchSet,
    depth_name,
    describe_patch,
)
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.logit_lens import (
    apply_patches,
    lens_logits,
    patched,
    read_cells,
    read_lens,
    read_streams,
)
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, PROMPT, tiny_loaded

OTHER = "the dog sat on the mat and the cat ran"
"""As long as PROMPT."""


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny_loaded(request.param)


@pytest.fixture(scope="module")
def one() -> LoadedModel:
    return tiny_loaded("llama")


def patches(loaded: LoadedModel, *listed: tuple[str, Cell, Cell]) -> PatchSet:
    made = tuple(Patch(*parts) for parts in listed)
    return PatchSet(loaded.info.weights_hash, PROMPT, made)


def shares(logits: Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = logits.double().softmax(-1).numpy()
    return found


def kl(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    return float((first * np.log(first / second)).sum())


# ---- the lens ------------------------------------------------------------------------------------


def test_the_end_is_the_models_own_prediction(loaded: LoadedModel) -> None:
    table = read_lens(loaded, PROMPT)
    ids = loaded.encode(PROMPT)
    own = loaded.adapter.logits(ids)[0]
    assert table.n_depths == loaded.adapter.n_layers + 1 and table.n_tokens == len(ids)
    assert (table.end_ids == own.argmax(-1).numpy()).all()
    top = own.softmax(-1).topk(5)
    np.testing.assert_allclose(table.top_probabilities[-1], top.values.numpy(), atol=1e-5)
    assert (table.divergence[-1] == 0).all() and (table.end_rank[-1] == 0).all()
    # The stream at the end, read as at any other depth, says what the model says.
    streams = read_streams(loaded.adapter, ids)
    torch.testing.assert_close(
        lens_logits(loaded.adapter, streams.at[-1]), streams.logits, atol=1e-4, rtol=1e-4
    )


def test_cells_agree_with_the_models_own_modules(loaded: LoadedModel) -> None:
    """The stream as transformers hands it out, through the model's own norm and unembedding."""
    table = read_lens(loaded, PROMPT)
    model, adapter = loaded.model, loaded.adapter
    ids = torch.tensor([loaded.encode(PROMPT)])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        end = shares(model(ids).logits[0])
        for depth in range(adapter.n_layers):
            logits = model.get_output_embeddings()(adapter.final_norm_module()(states[depth]))[0]
            if adapter.logit_cap is not None:
                logits = adapter.logit_cap * torch.tanh(logits / adapter.logit_cap)
            here = shares(logits)
            for t in (0, 3, len(ids[0]) - 1):
                order = np.argsort(-here[t])
                assert table.top_ids[depth, t, 0] == order[0]
                np.testing.assert_allclose(
                    table.top_probabilities[depth, t], here[t][order[:5]], rtol=1e-3, atol=1e-6
                )
                best = table.end_ids[t]
                assert table.end_probability[depth, t] == pytest.approx(
                    here[t][best], rel=1e-3, abs=1e-6
                )
                assert table.end_rank[depth, t] == (here[t] > here[t][best]).sum()
                entropy = -(here[t] * np.log(here[t])).sum()
                assert table.entropy[depth, t] == pytest.approx(entropy, rel=1e-3, abs=1e-6)
                expected = kl(end[t], here[t])
                assert table.divergence[depth, t] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_words_are_known_for_all_that_is_shown(one: LoadedModel) -> None:
    table = read_lens(one, PROMPT, top_k=3)
    assert table.top_ids.shape[-1] == 3
    for token in [*table.top_ids.ravel(), *table.end_ids]:
        assert table.word(int(token)) == one.token_strings([int(token)])[0]
    assert table.top_word(Cell(0, 2)) == table.word(int(table.top_ids[0, 2, 0]))
    assert table.has(Cell(3, 0)) and not table.has(Cell(4, 0)) and not table.has(Cell(-1, 0))
    assert (depth_name(0), depth_name(3)) == ("embedding", "after 2")


def test_a_position_settles_where_it_stops_changing_its_mind(one: LoadedModel) -> None:
    table = read_lens(one, PROMPT)
    for position in range(table.n_tokens):
        depth = table.settled(position)
        agreeing = table.top_ids[:, position, 0] == table.end_ids[position]
        assert agreeing[depth:].all()
        assert depth == 0 or not agreeing[depth - 1]


def test_pieces_make_no_difference(one: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_lens(one, PROMPT)
    monkeypatch.setattr(logit_lens, "_VALUES_AT_ONCE", 3 * one.adapter.vocab_size)
    pieces = read_lens(one, PROMPT)
    assert (whole.top_ids == pieces.top_ids).all()
    np.testing.assert_allclose(whole.divergence, pieces.divergence, atol=1e-5)


def test_reading_can_be_cancelled(one: LoadedModel) -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        read_lens(one, PROMPT, ctx=ctx)


def test_streams_are_those_of_the_recorded_pass(loaded: LoadedModel) -> None:
    adapter, ids = loaded.adapter, loaded.encode(PROMPT)
    streams, record = read_streams(adapter, ids), loaded.adapter.record(ids)
    torch.testing.assert_close(torch.stack(streams.at[:-1]), record.resid_pre, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(streams.at[-1], record.resid_final, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(streams.logits, record.logits, atol=1e-4, rtol=1e-4)


# ---- patches -------------------------------------------------------------------------------------


def test_a_cell_put_onto_itself_changes_nothing(loaded: LoadedModel) -> None:
    cells = [Cell(depth, 2 + depth) for depth in range(loaded.adapter.n_layers + 1)]
    outcome = apply_patches(loaded, patches(loaded, *((PROMPT, cell, cell) for cell in cells)))
    table = read_lens(loaded, PROMPT)
    np.testing.assert_allclose(outcome.after.divergence, table.divergence, atol=1e-5)
    assert outcome.change.max() < 1e-6 and outcome.divergence < 1e-6
    assert all(t.probability_before == pytest.approx(t.probability_after) for t in outcome.tokens)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_whole_depth_from_another_prompt_is_that_prompt_from_there_on(
    loaded: LoadedModel, depth: int
) -> None:
    length = len(loaded.encode(PROMPT))
    assert length == len(loaded.encode(OTHER))
    every = [(OTHER, Cell(depth, t), Cell(depth, t)) for t in range(length)]
    outcome = apply_patches(loaded, patches(loaded, *every))
    theirs = read_lens(loaded, OTHER)
    np.testing.assert_allclose(outcome.after.entropy[depth:], theirs.entropy[depth:], atol=1e-4)
    assert (outcome.after.end_ids == theirs.end_ids).all()
    assert outcome.change[:depth].max(initial=0.0) < 1e-6


@pytest.mark.parametrize("target", [Cell(1, 4), Cell(2, 6), Cell(3, 9)])
def test_one_patch_is_what_a_changed_write_of_the_layer_before_does(
    loaded: LoadedModel, target: Cell
) -> None:
    """The other road: the MLP before writes so much more that the stream is the source's."""
    adapter, source = loaded.adapter, Cell(2, 3)
    outcome = apply_patches(loaded, patches(loaded, (PROMPT, source, target)))
    ids = loaded.encode(PROMPT)
    record = read_streams(adapter, ids)
    missing = record.at[source.depth][source.position] - record.at[target.depth][target.position]

    def more(_inputs: Tensor, write: Tensor) -> Tensor:
        changed = write.clone()
        changed[:, target.position] += missing
        return changed

    with adapter.replaced({Site(target.depth - 1, "mlp"): more}):
        logits = adapter.logits(ids)[0, -1]
    for token in outcome.tokens:
        assert token.logit_after == pytest.approx(float(logits[token.token_id]), abs=1e-3)
        before = float(record.logits[-1, token.token_id])
        assert token.logit_before == pytest.approx(before, abs=1e-5)
    expected = kl(shares(logits), shares(record.logits[-1]))
    assert outcome.divergence == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_nothing_below_or_before_a_patch_moves(loaded: LoadedModel) -> None:
    target = Cell(1, 4)
    outcome = apply_patches(loaded, patches(loaded, (OTHER, Cell(2, 7), target)))
    still = np.ones_like(outcome.change, dtype=bool)
    still[target.depth :, target.position :] = False
    assert outcome.change[still].max() < 1e-6
    assert outcome.change[target] > 1e-4
    # At its own depth a patch moves its own cell alone; above it others follow.
    assert outcome.change[1, 5:].max() < 1e-6
    assert max(abs(t.logit_after - t.logit_before) for t in outcome.tokens) > 1e-4


def test_a_patch_on_the_last_cell_gives_the_prediction_of_its_source(loaded: LoadedModel) -> None:
    """At the end there is nothing but the unembedding left."""
    depth, last = loaded.adapter.n_layers, len(loaded.encode(PROMPT)) - 1
    source = Cell(1, 3)
    outcome = apply_patches(loaded, patches(loaded, (PROMPT, source, Cell(depth, last))))
    table = read_lens(loaded, PROMPT)
    assert outcome.after.end_ids[last] == table.top_ids[source][0]
    np.testing.assert_allclose(
        outcome.after.top_probabilities[depth, last], table.top_probabilities[source], atol=1e-4
    )


def test_the_embedding_of_another_word_is_the_prompt_with_that_word() -> None:
    """True where positions are no part of the embedding."""
    loaded = tiny_loaded("qwen3")
    ids, theirs = loaded.encode(PROMPT), loaded.encode(OTHER)
    assert ids[2] != theirs[2]
    outcome = apply_patches(loaded, patches(loaded, (OTHER, Cell(0, 2), Cell(0, 2))))
    swapped = [*ids[:2], theirs[2], *ids[3:]]
    top = loaded.adapter.logits(swapped)[0].softmax(-1).topk(5)
    np.testing.assert_allclose(outcome.after.top_probabilities[-1], top.values.numpy(), atol=1e-5)


def test_of_other_prompts_nothing_is_kept_but_the_cells(one: LoadedModel) -> None:
    cells = [Cell(0, 2), Cell(2, 3), Cell(2, 5), Cell(one.adapter.n_layers, 1)]
    ids = one.encode(OTHER)
    rows, whole = read_cells(one.adapter, ids, cells), read_streams(one.adapter, ids)
    assert list(rows) == cells
    for cell, row in rows.items():
        torch.testing.assert_close(row, whole.at[cell.depth][cell.position])
        assert row.untyped_storage().nbytes() == row.nbytes == row.element_size() * len(row)


def test_hooks_are_gone_afterwards_also_after_an_error(one: LoadedModel) -> None:
    adapter = one.adapter
    row = torch.zeros(adapter.d_model)
    ids = one.encode(PROMPT)
    before = adapter.logits(ids)
    with pytest.raises(ZeroDivisionError), patched(adapter, {Cell(1, 2): row, Cell(3, 2): row}):
        assert not torch.equal(adapter.logits(ids), before)
        raise ZeroDivisionError
    assert torch.equal(adapter.logits(ids), before)


def test_of_two_patches_on_a_cell_the_later_holds(one: LoadedModel) -> None:
    base = PatchSet(one.info.weights_hash, PROMPT)
    first = Patch(PROMPT, Cell(1, 1), Cell(2, 5))
    second = Patch(PROMPT, Cell(1, 3), Cell(2, 5))
    other = Patch(PROMPT, Cell(0, 3), Cell(1, 4))
    both = base.with_patch(first).with_patch(other).with_patch(second)
    assert both.patches == (other, second)


def test_what_makes_no_sense_is_refused(one: LoadedModel) -> None:
    with pytest.raises(PatchError, match="another model"):
        apply_patches(one, PatchSet("other", PROMPT, ()))
    for source, target in (
        (Cell(9, 1), Cell(1, 1)),
        (Cell(1, 1), Cell(4, 1)),
        (Cell(1, 99), Cell(1, 1)),
        (Cell(1, 1), Cell(1, 99)),
    ):
        with pytest.raises(PatchError, match="no cell at depth"):
            apply_patches(one, patches(one, (PROMPT, source, target)))


def test_records_are_json_and_come_back(one: LoadedModel) -> None:
    made = patches(one, (PROMPT, Cell(1, 1), Cell(2, 5)), (OTHER, Cell(0, 3), Cell(1, 4)))
    outcome = apply_patches(one, made)
    data = json.loads(json.dumps(outcome.data()))
    assert PatchSet.of_data(data) == made
    assert data["divergence"] == pytest.approx(outcome.divergence)
    assert [row["token_id"] for row in data["tokens"]] == [t.token_id for t in outcome.tokens]
    assert made.fits(outcome.after) and not PatchSet().fits(outcome.after)


@pytest.mark.parametrize(
    "change",
    [
        {"patches": 3},
        {"patches": [{}]},
        {"patches": [{"source_prompt": "a", "source": [1], "target": [0, 0]}]},
        {"patches": [{"source_prompt": "a", "source": [1, -1], "target": [0, 0]}]},
        {"patches": [{"source_prompt": "a", "source": [1, 1.5], "target": [0, 0]}]},
        {"patches": [{"source_prompt": 7, "source": [1, 1], "target": [0, 0]}]},
        {"prompt": None},
        {"weights_hash": []},
        {"patches": [None] * 1001},
    ],
)
def test_hostile_records_are_refused(change: dict[str, Any]) -> None:
    good = {"weights_hash": "h", "prompt": "p", "patches": []}
    assert PatchSet.of_data(good) == PatchSet("h", "p")
    with pytest.raises(PatchError, match="no record of patches"):
        PatchSet.of_data({**good, **change})


def test_a_patch_is_told_in_words(one: LoadedModel) -> None:
    table: LensTable = read_lens(one, PROMPT)
    inside = Patch(PROMPT, Cell(0, 2), Cell(2, 5))
    told = describe_patch(inside, PROMPT, table.tokens)
    assert told == "embedding at 2 “cat” → after 1 at 5 “the”"
    told = describe_patch(Patch(OTHER, Cell(1, 2), Cell(2, 5)), PROMPT, table.tokens)
    assert told == f'after 0 at 2 of "{OTHER}" → after 1 at 5 “the”'

"""Harvesting: blocks are functions of seed and index, and hold what the model computes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import torch

from attention_studio.core.activations import (
    ActivationBlock,
    ActivationSource,
    BlockBuffer,
    choose_harvest_dtype,
    cpu_has_bfloat16,
)
from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site, mlp_sites
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def corpus(n: int = 40, length: int = 12, seed: int = 0) -> TokenCorpus:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 90, (n, length)).astype(np.int32)  # start tokens (0) within rows too
    tokens[:, 0] = 0
    lengths = np.full(n, length, dtype=np.int32)
    lengths[-1] = 7
    return TokenCorpus.of(tokens, lengths, 0)


SITES = (Site(0, "mlp"), Site(1, "attention"), Site(2, "mlp"))


def source(
    loaded: LoadedModel, block_tokens: int = 100, seed: int = 0, folder: Optional[Path] = None
) -> ActivationSource:
    return ActivationSource(
        loaded.adapter, corpus(), SITES, block_tokens, seed, batch=3, folder=folder
    )


def same(a: ActivationBlock, b: ActivationBlock) -> bool:
    mine, theirs = a.activations, b.activations
    return torch.equal(mine.kept, theirs.kept) and all(
        torch.equal(one[site].inputs, other[site].inputs)
        and torch.equal(one[site].outputs, other[site].outputs)
        for one, other in ((mine.rows, theirs.rows), (mine.sequences, theirs.sequences))
        for site in one
    )


def test_a_block_is_a_function_of_seed_and_index(loaded: LoadedModel) -> None:
    one, two = source(loaded), source(loaded)
    later = one.harvest(3)
    one.harvest(0)
    assert same(later, two.harvest(3))
    assert not same(later, two.harvest(4))
    assert not same(later, source(loaded, seed=1).harvest(3))


def test_blocks_hold_what_the_model_computes_at_kept_positions(loaded: LoadedModel) -> None:
    text = corpus()
    mlp, attention = Site(1, "mlp"), Site(1, "attention")
    everything = ActivationSource(loaded.adapter, text, (mlp, attention), 10_000, 0)
    block = everything.harvest(0)
    ids = torch.from_numpy(text.tokens[everything.rows_of(0)].astype(np.int64))
    expected = loaded.adapter.harvest(ids, (mlp, attention))
    keep = torch.from_numpy(text.kept(everything.rows_of(0)))
    assert block.n_tokens == text.n_kept == int(keep.sum())
    # Shuffled, and inputs and outputs alike: every pair of rows is there once.
    rows, whole = block.activations.rows[mlp], expected[mlp]
    pairs = torch.cat([rows.inputs, rows.outputs], 1)
    wanted = torch.cat([whole.inputs[keep], whole.outputs[keep]], 1)
    assert not torch.allclose(pairs, wanted, atol=1e-3)
    order, wanted_order = pairs[:, 0].argsort(), wanted[:, 0].argsort()
    torch.testing.assert_close(pairs[order], wanted[wanted_order], rtol=1e-4, atol=1e-5)
    # Attention needs whole sequences, those positions too that dictionaries do not see.
    found = block.activations.sequences[attention]
    torch.testing.assert_close(found.inputs, expected[attention].inputs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.outputs, expected[attention].outputs, rtol=1e-4, atol=1e-5)
    assert torch.equal(block.activations.kept, keep)


def test_batches_share_out_a_block(loaded: LoadedModel) -> None:
    block = source(loaded, block_tokens=100).harvest(0)
    batches = [block.batch(i, 30) for i in range(3)]
    assert [len(b.rows[SITES[0]].inputs) for b in batches] == [30, 30, 30]
    assert sum(len(b.kept) for b in batches) == len(block.activations.kept)
    joined = torch.cat([b.sequences[SITES[1]].outputs for b in batches])
    assert torch.equal(joined, block.activations.sequences[SITES[1]].outputs)


def test_blocks_on_disk_are_the_same_and_leave_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "buffer"
    assert same(source(loaded, folder=folder).harvest(1), source(loaded).harvest(1))
    assert list(folder.iterdir()) == []


def test_a_pass_over_the_text_visits_every_row_once(loaded: LoadedModel) -> None:
    s = source(loaded, block_tokens=60)
    n = s.corpus.n_sequences
    visited = np.concatenate([s.rows_of(i) for i in range(20)])
    assert visited.size >= 2 * n
    assert sorted(visited[:n]) == list(range(n))
    assert sorted(visited[n : 2 * n]) == list(range(n))
    assert visited[:n].tolist() != visited[n : 2 * n].tolist()


def test_blocks_are_full_with_no_row_too_many(loaded: LoadedModel) -> None:
    s = source(loaded, block_tokens=100)
    later = source(loaded, block_tokens=100)
    for i in range(6):
        kept = s.corpus.kept(s.rows_of(i)).sum(1)
        assert kept[:-1].sum() < 100 <= kept.sum()
        assert s.harvest(i).n_tokens == 100
        # Whoever begins in the middle finds the same.
        assert later.rows_of(5 - i).tolist() == source(loaded).rows_of(5 - i).tolist()


def test_a_block_ends_with_the_text(loaded: LoadedModel) -> None:
    s = source(loaded, block_tokens=10_000)
    assert [s.rows_of(i).size for i in range(3)] == [s.corpus.n_sequences] * 3
    assert s.harvest(1).n_tokens == s.corpus.n_kept


def test_in_order_gives_the_tokens_asked_for(loaded: LoadedModel) -> None:
    s = source(loaded)
    for asked, given in ((50, 50), (10**9, s.corpus.n_kept)):
        parts = list(s.in_order(asked))
        assert sum(len(part.rows[SITES[0]].inputs) for part in parts) == given
        assert sum(int(part.kept.sum()) for part in parts) == given


def test_text_without_usable_tokens(loaded: LoadedModel) -> None:
    tokens = np.zeros((3, 5), dtype=np.int32)
    empty = TokenCorpus.of(tokens, np.full(3, 5, dtype=np.int32), 0)
    with pytest.raises(CorpusError, match="no token"):
        ActivationSource(loaded.adapter, empty, mlp_sites((0,)), 10, 0)


def test_cancel(loaded: LoadedModel) -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        source(loaded).harvest(0, ctx)


class TestBuffer:
    def test_filling_ahead_on_another_thread_gives_the_same_blocks(
        self, loaded: LoadedModel
    ) -> None:
        buffer = BlockBuffer(source(loaded))
        buffer.use(0)
        thread = threading.Thread(target=buffer.fill_ahead)
        thread.start()
        buffer.fill(0)
        thread.join()
        for index in (0, 1):
            found = buffer.get(index)
            assert found is not None
            assert same(found, source(loaded).harvest(index))

    def test_never_more_than_one_ahead_and_only_if_needed(self, loaded: LoadedModel) -> None:
        buffer = BlockBuffer(source(loaded))
        buffer.use(0)
        assert buffer.fill_ahead()
        assert not buffer.fill_ahead()
        buffer.use(1, more_needed=False)
        assert not buffer.fill_ahead()
        buffer.use(1, more_needed=True)
        assert buffer.fill_ahead()
        assert [buffer.get(i) is not None for i in range(4)] == [False, True, True, False]

    def test_two_threads_never_harvest_the_same_block(self, loaded: LoadedModel) -> None:
        s = source(loaded)
        harvested: list[int] = []
        original = s.harvest

        def counting(
            index: int, ctx: WorkContext | None = None, whole: bool = False
        ) -> ActivationBlock:
            harvested.append(index)
            time.sleep(0.02)
            return original(index, ctx, whole)

        s.harvest = counting  # type: ignore[method-assign]
        buffer = BlockBuffer(s)
        buffer.use(4)
        threads = [threading.Thread(target=buffer.fill, args=(5,)) for _ in range(3)]
        threads += [threading.Thread(target=buffer.fill_ahead) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert harvested == [5]

    def test_a_cancelled_harvest_can_be_done_again(self, loaded: LoadedModel) -> None:
        buffer = BlockBuffer(source(loaded))
        ctx = WorkContext()
        ctx.cancel()
        with pytest.raises(Cancelled):
            buffer.fill(0, ctx)
        assert buffer.get(0) is None
        buffer.fill(0)
        assert buffer.get(0) is not None

    def test_closed(self, loaded: LoadedModel) -> None:
        buffer = BlockBuffer(source(loaded))
        buffer.fill(0)
        buffer.close()
        assert buffer.get(0) is None
        assert not buffer.fill_ahead()


class TestDtype:
    def test_bfloat16_only_where_the_processor_has_it(self, tmp_path: Path) -> None:
        fast, slow = tmp_path / "fast", tmp_path / "slow"
        fast.write_text("flags\t\t: fpu avx512f avx512_bf16 amx_bf16\nFeatures : fp bf16\n")
        slow.write_text("flags\t\t: fpu avx2 avx512_bf16x\nFeatures : fp\nmodel name : bf16\n")
        assert cpu_has_bfloat16(fast)
        assert not cpu_has_bfloat16(slow)
        assert not cpu_has_bfloat16(tmp_path / "none")
        cpu = torch.device("cpu")
        assert choose_harvest_dtype("auto", cpu, torch.float32, fast) == torch.bfloat16
        assert choose_harvest_dtype("auto", cpu, torch.float32, slow) == torch.float32

    def test_what_is_asked_for(self) -> None:
        cpu = torch.device("cpu")
        assert choose_harvest_dtype("float32", cpu, torch.bfloat16) == torch.float32
        assert choose_harvest_dtype("bfloat16", cpu, torch.float32) == torch.bfloat16
        assert choose_harvest_dtype("auto", cpu, torch.bfloat16) == torch.bfloat16
        mps, cuda = torch.device("mps"), torch.device("cuda")
        assert choose_harvest_dtype("auto", mps, torch.float32) == torch.float32
        assert choose_harvest_dtype("auto", cuda, torch.float32) == torch.bfloat16

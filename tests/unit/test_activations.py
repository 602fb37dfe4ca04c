"""Harvesting: blocks are functions of seed and index, and hold what the model computes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

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


def source(loaded: LoadedModel, block_tokens: int = 100, seed: int = 0) -> ActivationSource:
    return ActivationSource(loaded.adapter, corpus(), (0, 2), block_tokens, seed, batch=3)


def same(a: ActivationBlock, b: ActivationBlock) -> bool:
    return all(
        torch.equal(a.inputs[layer], b.inputs[layer])
        and torch.equal(a.outputs[layer], b.outputs[layer])
        for layer in (0, 2)
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
    everything = ActivationSource(loaded.adapter, text, (1,), 10_000, 0)
    block = everything.harvest(0)
    ids = torch.from_numpy(text.tokens.astype(np.int64))
    expected = loaded.adapter.harvest(ids, (1,))[1]
    keep = torch.from_numpy(text.kept())
    assert block.n_tokens == text.n_kept == int(keep.sum())
    # Shuffled, and inputs and outputs alike: every pair of rows is there once.
    pairs = torch.cat([block.inputs[1], block.outputs[1]], 1)
    wanted = torch.cat([expected.inputs[keep], expected.outputs[keep]], 1)
    assert not torch.allclose(pairs, wanted, atol=1e-3)
    order, wanted_order = pairs[:, 0].argsort(), wanted[:, 0].argsort()
    torch.testing.assert_close(pairs[order], wanted[wanted_order], rtol=1e-4, atol=1e-5)


def test_a_pass_over_the_text_visits_every_row_once(loaded: LoadedModel) -> None:
    s = source(loaded, block_tokens=60)
    per_block, n = s.rows_per_block, s.corpus.n_sequences
    visited = np.concatenate([s.rows_of(i) for i in range(-(-2 * n // per_block))])
    assert sorted(visited[:n]) == list(range(n))
    assert sorted(visited[n : 2 * n]) == list(range(n))
    assert visited[:n].tolist() != visited[n : 2 * n].tolist()


def test_blocks_are_nearly_full_and_never_more(loaded: LoadedModel) -> None:
    sizes = [source(loaded, block_tokens=100).harvest(i).n_tokens for i in range(6)]
    assert max(sizes) <= 100
    assert min(sizes) >= 85


def test_in_order_gives_the_tokens_asked_for(loaded: LoadedModel) -> None:
    s = source(loaded)
    parts = list(s.in_order(50))
    assert sum(x[0].shape[0] for x, _ in parts) == 50
    assert sum(x[0].shape[0] for x, _ in s.in_order(10**9)) == s.corpus.n_kept


def test_text_without_usable_tokens(loaded: LoadedModel) -> None:
    tokens = np.zeros((3, 5), dtype=np.int32)
    empty = TokenCorpus.of(tokens, np.full(3, 5, dtype=np.int32), 0)
    with pytest.raises(CorpusError, match="no token"):
        ActivationSource(loaded.adapter, empty, (0,), 10, 0)


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

        def counting(index: int, ctx: WorkContext | None = None) -> ActivationBlock:
            harvested.append(index)
            time.sleep(0.02)
            return original(index, ctx)

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

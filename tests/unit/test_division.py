"""How a run is divided among processes, before any of them talks to another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from attention_studio.core.activations import batch_slices
from attention_studio.core.distributed import DistributedError, Peers
from attention_studio.core.division import Division, divide, divided_batches
from attention_studio.core.sites import Site
from attention_studio.core.training_checks import check_peers
from attention_studio.core.training_config import TrainConfig, TrainSettingsError
from attention_studio.utils.launch import Launch, LaunchError, launched

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
}


class TestLaunch:
    def test_alone(self) -> None:
        assert launched({}) is None
        # Schedulers set some of the names for purposes of their own.
        assert launched({"RANK": "0", "WORLD_SIZE": "8"}) is None
        assert launched({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None

    def test_torchrun(self) -> None:
        assert launched(TORCHRUN) == Launch(rank=3, size=4, local_rank=1, local_size=2)

    def test_accelerate_launch(self) -> None:
        """It starts processes through torchrun, with more variables of its own, or on CPUs through
        mpirun."""
        more = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False"}
        assert launched({**TORCHRUN, **more}) == launched(TORCHRUN)
        where = {name: TORCHRUN[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        world = {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
        mpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in world.items()}
        assert launched({**where, **mpi}) == launched(TORCHRUN)
        # Without mpirun it starts one process, whatever number it was asked for.
        assert launched({**where, **more}) is None

    def test_what_another_launcher_left_behind(self) -> None:
        where = {name: TORCHRUN[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        world = {"RANK": "1", "SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
        mpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in world.items()}
        expected = Launch(rank=1, size=2, local_rank=1, local_size=2)
        for rest in (
            {"RANK": "0"},
            {"WORLD_SIZE": "8"},
            {"RANK": "0", "WORLD_SIZE": "8"},
            {"LOCAL_RANK": "0", "PMI_RANK": "0", "MV2_COMM_WORLD_SIZE": "4"},
        ):
            assert launched({**where, **mpi, **rest}) == expected
        # Of two that are whole, the one that was started last: torchrun, inside a scheduler's job.
        assert launched({**mpi, **TORCHRUN}) == launched(TORCHRUN)
        assert launched({**where, "RANK": "1", "PMI_SIZE": "2"}) is None
        assert launched(
            {**where, "RANK": "1", "WORLD_SIZE": "2", "MPI_LOCALRANKID": "1", "PMI_RANK": "3"}
        ) == Launch(rank=1, size=2, local_rank=0, local_size=1)

    def test_one_process_for_each_machine(self) -> None:
        words = {name: TORCHRUN[name] for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        assert launched({**words, "RANK": "2"}) == Launch(2, 4, local_rank=0, local_size=1)

    @pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}])
    def test_contradictions(self, wrong: dict[str, str]) -> None:
        with pytest.raises(LaunchError, match="cannot be told apart"):
            launched({**TORCHRUN, **wrong})


def division(size: int, rank: int = 0, **changes: Any) -> Division:
    settings: dict[str, Any] = {
        "layers": (0, 1, 2, 3),
        "attention_layers": (1, 2),
        "d_latent": 64,
        "attention_latents": 64,
        "batch_tokens": 100,
        "token_chunk": 32,
        "seq_len": 16,
        "tokens": 1000,
        "block_tokens": 500,
    }
    return divide(TrainConfig(**{**settings, **changes}), Peers(Launch(rank, size), False))


def test_processes_of_a_machine_do_not_share_a_gpu() -> None:
    for has_nccl in (False, True):
        together = Peers(Launch(1, 2, local_rank=1, local_size=2), has_nccl)
        with pytest.raises(DistributedError, match="cannot share cuda:0"):
            together.device("cuda:0")
        assert together.device("cpu") == "cpu"
        apart = Peers(Launch(1, 2, local_rank=0, local_size=1), has_nccl)
        assert apart.device("cuda:0") == "cuda:0"


class TestModules:
    @pytest.mark.parametrize("size", [2, 3, 4, 6])
    def test_every_module_has_one_process(self, size: int) -> None:
        found = division(size)
        everything = [site for sites in found.sites_of for site in sites]
        assert len(everything) == len(set(everything)) == 6
        assert found.everything == tuple(sorted(everything))
        assert all(site in found.sites_of[found.owner(site)] for site in everything)
        counts = [len(sites) for sites in found.sites_of]
        assert max(counts) - min(counts) <= 1
        # Lorsas cost more than transcoders, and are not left to one of the processes.
        lorsas = [sum(s.kind == "attention" for s in sites) for sites in found.sites_of]
        assert max(lorsas) <= -(-2 // size)

    def test_each_process_trains_its_own(self) -> None:
        found = division(2, rank=1)
        assert found.trained_by(1) == found.own == found.sites_of[1]
        assert found.gradient_peers is None
        mine = found.part_of(TrainConfig(layers=(0, 1, 2, 3), attention_layers=(1, 2)))
        assert mine.sites == found.own
        assert divided_batches(found) == divided_batches(None) == {}

    def test_a_cross_layer_transcoder_is_one(self) -> None:
        found = division(3, mlp="clt")
        assert Site(0, "mlp") in found.sites_of[0]
        assert [len(sites) for sites in found.sites_of] == [4, 1, 1]
        with pytest.raises(TrainSettingsError, match="parallel=data"):
            division(2, mlp="clt", attention_layers=())


class Others(Peers):
    """Process 0 of two; the other one says what it is told to."""

    def __init__(self, theirs: dict[str, Any]) -> None:
        super().__init__(Launch(0, 2), False)
        self._theirs = theirs

    def gather(self, value: Any) -> list[Any]:
        return [value, {**value, **self._theirs}]


def test_all_processes_must_be_of_one_run() -> None:
    check_peers(Others({}), {"k": 3}, {"text_hash": "ab"}, 4)
    for theirs in ({"settings": {"k": 4}}, {"sources": {"text_hash": "cd"}}, {"step": 0}):
        with pytest.raises(DistributedError, match=f"Process 1 has another {next(iter(theirs))}"):
            check_peers(Others(theirs), {"k": 3}, {"text_hash": "ab"}, 4)


class TestBatches:
    @pytest.mark.parametrize("activation", ["topk", "batchtopk"])
    @pytest.mark.parametrize("size", [2, 3, 4])
    def test_the_parts_are_the_whole(self, activation: str, size: int) -> None:
        found = division(size, parallel="data", activation=activation, seq_len=12)
        for whole in (slice(0, 100), slice(300, 400), slice(5, 5)):
            for share in (found.rows, found.sequences):
                parts = [share(rank, whole) for rank in range(size)]
                assert parts[0].start == whole.start
                assert parts[-1].stop == whole.stop
                assert all(a.stop == b.start for a, b in pairwise(parts))

    def test_batchtopk_keeps_its_chunks_whole(self) -> None:
        found = division(3, parallel="data", activation="batchtopk")
        starts = [found.rows(rank, slice(200, 300)).start - 200 for rank in range(3)]
        assert all(start % 32 == 0 for start in starts)
        # Lorsas take as many sequences at once as fill a chunk.
        assert found.sequence_unit == 2
        with pytest.raises(TrainSettingsError, match="there are 4 such groups"):
            division(5, parallel="data", activation="batchtopk")

    @pytest.mark.parametrize("activation", ["topk", "batchtopk"])
    def test_every_process_has_sequences(self, activation: str) -> None:
        settings: dict[str, Any] = {"parallel": "data", "activation": activation, "seq_len": 34}
        found = division(3, **settings)  # three sequences of 33 tokens that count, each a chunk
        # A block's batches have as many or more; the last tokens of a block make no batch.
        for n_tokens, n_sequences in ((500, 16), (520, 16), (500, 40)):
            for i in range(n_tokens // 100):
                _, whole = batch_slices(i, 100, n_tokens, n_sequences)
                for rank in range(3):
                    part = found.sequences(rank, whole)
                    assert part.stop > part.start
        with pytest.raises(TrainSettingsError, match="share 3 sequences of 34 tokens"):
            division(4, **settings)
        # Transcoders see rows, and of those there are enough.
        assert division(4, **settings, attention_layers=()).by_data

    def test_every_process_trains_everything(self) -> None:
        found = division(3, rank=2, parallel="data")
        assert found.trained_by(0) == found.trained_by(2) == found.everything
        assert found.gradient_peers is found.peers
        assert divided_batches(found) == {"processes_per_batch": "3"}

from __future__ import annotations

from pathlib import Path

import pytest

from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.memory import (
    DeviceError,
    ModelShape,
    device_budgets,
    estimate_memory,
    max_memory,
    refuse,
    working_bytes,
)
from attention_studio.core.model_records import ModelConfig
from attention_studio.utils.config import Settings

BILLION = ModelShape(
    n_parameters=10**9,
    n_layers=16,
    d_model=2048,
    d_mlp=8192,
    n_heads=16,
    vocab_size=50_000,
    context_length=4096,
)
ROOM = 100 * GIB


@pytest.mark.parametrize(
    ("budgets", "device", "dtype"),
    [
        ({"cuda:0": ROOM, "cpu": ROOM}, "cuda:0", "float32"),
        ({"cuda:0": 4 * GIB, "cpu": ROOM}, "cuda:0", "bfloat16"),
        ({"cuda:0": 1 * GIB, "cuda:1": ROOM, "cpu": ROOM}, "cuda:1", "float32"),
        ({"cuda:0": 1 * GIB, "cpu": ROOM}, "cpu", "float32"),
        ({"mps": ROOM, "cpu": ROOM}, "mps", "float32"),
        ({"cpu": 3 * GIB}, "cpu", "bfloat16"),
        # Fits no single device, but all of them together.
        ({"cuda:0": 2 * GIB, "cuda:1": 2 * GIB, "cpu": 2 * GIB}, "spread", "bfloat16"),
    ],
)
def test_auto_takes_the_fastest_device_with_room(
    budgets: dict[str, int], device: str, dtype: str
) -> None:
    estimate = estimate_memory(BILLION, ModelConfig("m"), budgets)
    assert estimate.fits
    assert (estimate.device, estimate.dtype) == (device, dtype)
    assert estimate.total <= estimate.available
    assert estimate.weights_bytes == 10**9 * (4 if dtype == "float32" else 2)


def test_refusal_lists_only_settings_that_fit() -> None:
    budgets = {"cuda:0": 3 * GIB, "cpu": 6 * GIB}
    wanted = ModelConfig("m", device="cuda", dtype="float32")
    estimate = estimate_memory(BILLION, wanted, budgets)
    assert not estimate.fits
    options = [(c.device, c.dtype) for c in estimate.cheaper]
    assert options[0] == ("cuda:0", "bfloat16")
    assert ("cpu", "float32") in options
    assert ("cuda:0", "float32") not in options
    for option in estimate.cheaper:
        assert estimate_memory(BILLION, option, budgets).fits
    error = refuse("m", estimate)
    assert error.estimate is estimate
    assert "device=cuda:0 dtype=bfloat16" in error.todo
    assert "3.00 GiB are free" in error.why


def test_nothing_fits() -> None:
    estimate = estimate_memory(BILLION, ModelConfig("m"), {"cpu": GIB})
    assert not estimate.fits
    assert estimate.cheaper == ()
    assert "smaller model" in refuse("m", estimate).todo


@pytest.mark.parametrize("device", ["cuda", "mps", "cuda:3", "spread", "toaster"])
def test_missing_device(device: str) -> None:
    with pytest.raises(DeviceError, match="cpu"):
        estimate_memory(BILLION, ModelConfig("m", device=device), {"cpu": ROOM})


def test_unknown_dtype() -> None:
    with pytest.raises(DeviceError, match="float32"):
        estimate_memory(BILLION, ModelConfig("m", dtype="int3"), {"cpu": ROOM})


def test_working_memory_grows_with_tokens_and_type() -> None:
    assert working_bytes(BILLION, 512, 4) > 2 * working_bytes(BILLION, 256, 4)
    assert working_bytes(BILLION, 512, 4) > working_bytes(BILLION, 512, 2)


def test_spread_limits_leave_some_of_each_device() -> None:
    limits = max_memory({"cuda:0": 10 * GIB, "cuda:1": 1000, "cpu": 20 * GIB})
    assert 0 < limits[0] < 10 * GIB
    assert limits[1] == 0
    assert 0 < limits["cpu"] < 20 * GIB


def test_ram_limit_of_settings() -> None:
    settings = Settings(_env_file=None, max_ram_gb=0.001)  # type: ignore[call-arg]
    assert device_budgets(settings)["cpu"] == 0
    assert available_ram(None) > 0


@pytest.mark.parametrize("version", [1, 2])
def test_container_limit(version: int, tmp_path: Path) -> None:
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    (folder / names[0]).write_text("5000\n")
    (folder / names[1]).write_text("3000\n")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 2000\n{key} 1000\n")
    assert available_ram(None, cgroup=tmp_path) == 3000


def test_container_without_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert available_ram(None, cgroup=tmp_path) > 3000

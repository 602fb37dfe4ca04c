from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import (
    FileAccessError,
    FileReadError,
    FileWriteError,
    atomic_folder,
    atomic_write,
    explain_write_errors,
    passing_folder,
    publish_folder,
    read_json,
    remove_leftovers,
    sha256_file,
    sha256_files,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext


def full_disk(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_and_read_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json_atomic(path, {"größe": [1, 2.5, None]})
    assert read_json(path) == {"größe": [1, 2.5, None]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_failed_block_keeps_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_disk_full_keeps_old_file(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, place, full_disk)
        if place == "replace":
            patch.setattr(Path, "replace", full_disk)
        with pytest.raises(FileWriteError, match="disk is full") as caught:
            write_json_atomic(path, "new")
    assert str(path) in str(caught.value)
    assert read_json(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_tells_a_full_disk_in_words(tmp_path: Path) -> None:
    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    target = tmp_path / "g.safetensors"
    with pytest.raises(FileWriteError, match="disk is full"), atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise SafetensorError(told)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SafetensorError), atomic_write(target):
        raise SafetensorError("not of the system")


def test_what_safetensors_cannot_write_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "none" / "g.safetensors"
    with pytest.raises(FileWriteError, match=r"g\.safetensors"), explain_write_errors(target):
        save_file({"a": np.zeros(3, np.float32)}, target)


def test_really_full_device() -> None:
    full = Path("/dev/full")
    # Not every sandbox that shows this device has one that is full.
    try:
        with full.open("wb", buffering=0) as device:
            device.write(b"x")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            pytest.skip(f"this system has no full device: {error}")
    else:
        pytest.skip("this system's /dev/full takes what is written to it")
    with pytest.raises(FileWriteError, match="disk is full"), explain_write_errors(full):
        full.write_text("x")


def test_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileWriteError, match="file"):
        write_json_atomic(tmp_path / "file" / "a.json", 1)


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(Cancelled), atomic_folder(target) as folder:
        (folder / "a").write_text("half")
        raise Cancelled
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as folder:
        (folder / "a").write_text("whole")
        assert not target.exists()
    assert (target / "a").read_text() == "whole"


def test_folder_replaces_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / text).write_text(text)
    assert [p.name for p in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_disk_full_keeps_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(FileWriteError, match="disk is full"), atomic_folder(target) as folder:
            (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_swap_brings_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, staging = tmp_path / "model", tmp_path / "staging"
    for folder, text in ((target, "old"), (staging, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
    real = Path.replace

    def refuse_staging(self: Path, to: Path) -> Path:
        if self == staging:
            raise OSError(errno.EIO, "broken")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", refuse_staging)
    with pytest.raises(FileWriteError):
        publish_folder(staging, target)
    assert (target / "a").read_text() == "old"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not UTF-8 text"),
        (b"[" * 200_000, "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
    ],
)
def test_bad_json(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FileReadError, match=reason):
        read_json(path)


def test_large_and_missing_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileReadError, match="cannot be read"):
        read_json(path)
    path.write_text("[1, 2, 3]")
    with pytest.raises(FileReadError, match="too large"):
        read_json(path, max_bytes=4)


def test_hashes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a" * 3_000_000)
    two.write_bytes(b"b")
    assert sha256_file(one) == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert sha256_files([one, two]) == hashlib.sha256(b"a" * 3_000_000 + b"b").hexdigest()
    with pytest.raises(FileReadError):
        sha256_file(tmp_path / "three")
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        sha256_file(one, ctx)


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".m.part-1", ".m.part-2", "model"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "x").write_text("x")
    day = 25 * 3600
    for folder in (old, other):
        os.utime(folder, (time.time() - day, time.time() - day))
    assert remove_leftovers(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m.part-2", "model"]
    assert remove_leftovers(tmp_path / "nowhere") == 0


def test_a_passing_folder_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), passing_folder(tmp_path / "a", "x") as folder:
        assert folder.parent == tmp_path / "a" and not list(folder.iterdir())
        (folder / "file").write_text("text")
        raise ValueError("stop")
    assert not list((tmp_path / "a").iterdir())
    # One that a killed process has left is found by its name.
    with passing_folder(tmp_path, "x") as folder:
        assert remove_leftovers(tmp_path, older_than_seconds=0) == 1 and not folder.exists()


def test_json_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, "é" * 10, 23)
    assert path.stat().st_size == 23 and read_json(path, 23) == "é" * 10
    with pytest.raises(FileWriteError, match="would have 25 bytes and may have 23"):
        write_json_atomic(path, "é" * 11, 23)
    assert read_json(path) == "é" * 10


def test_what_the_system_does_not_give_out_is_told_from_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError):
        read_json(tmp_path / "nowhere.json")
    (tmp_path / "a.json").write_bytes(b"{")
    with pytest.raises(FileReadError) as raised:
        read_json(tmp_path / "a.json")
    assert not isinstance(raised.value, FileAccessError)

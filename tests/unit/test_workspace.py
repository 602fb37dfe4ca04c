"""Workspaces: what is written is found again, whatever has happened to the folder."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.graph_settings import GraphError, GraphSettings
from attention_studio.core.model_records import ModelConfig
from attention_studio.core.workspace import Workspace, WorkspaceChanges, WorkspaceInUseError
from attention_studio.core.workspace_files import (
    INDEX_NAME,
    LOCK_NAME,
    WorkspaceDamagedError,
    WorkspaceError,
    WorkspaceUnreadableError,
)
from attention_studio.core.workspace_index import (
    GraphEntry,
    WorkspaceCRM,
    WorkspaceIndex,
    WorkspaceModel,
)
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.progress import WorkContext
from tests.hand_graphs import hand_graph

NOTES = GraphNotes().with_pinned(["a", "b"]).labelled("L1/F2", "cat").remarked("", "the first")
RECORDS: dict[str, tuple[dict[str, Any], ...]] = {
    "intervention": ({"scale": 2.0, "on": ["L1/P1/F2"]}, {"scale": 0.0, "on": []}),
    "patch": ({"cell": [1, 2]},),
}


def index_of(*graphs: tuple[str, AttributionGraph], **more: Any) -> WorkspaceIndex:
    entries = tuple(GraphEntry.of(key, graph) for key, graph in graphs)
    return WorkspaceIndex.new("cats").model_copy(update={"graphs": entries, **more})


def filled(folder: Path) -> Workspace:
    """A workspace with two graphs, notes of the first, and records."""
    workspace = Workspace(folder)
    first, second = replace(hand_graph(), made_with={"dtype": "float32"}), hand_graph(seed=1)
    index = index_of(
        ("G1", first),
        ("G2", second),
        prompt="the cat\n",
        thresholds=(0.5, 0.75),
        graph="G2",
        selection="L1/P1/F2",
        chosen=("x", "y"),
        model=WorkspaceModel(name="tiny", weights_hash="ab" * 32, ran_as="float32"),
        crm=WorkspaceCRM(folder="/crm/7", name="by hand"),
    )
    workspace.save(WorkspaceChanges(index, {"G1": first, "G2": second}, {"G1": NOTES}, RECORDS))
    return workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A filled workspace that nobody holds."""
    filled(tmp_path / "work").close()
    return tmp_path / "work"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


def same(first: AttributionGraph, second: AttributionGraph) -> bool:
    return bool(
        np.array_equal(first.edges.data, second.edges.data)
        and np.array_equal(first.nodes.index, second.nodes.index)
        and first.tokens == second.tokens
    )


# -- writing and reading --------------------------------------------------------------------------


def test_what_was_written_is_read(folder: Path) -> None:
    workspace = Workspace(folder)
    found = workspace.read()
    assert found.problems == ()
    index = found.index
    assert index is not None
    assert (index.name, index.prompt, index.thresholds) == ("cats", "the cat\n", (0.5, 0.75))
    assert (index.graph, index.selection, index.chosen) == ("G2", "L1/P1/F2", ("x", "y"))
    assert index.model is not None and index.model.weights_hash == "ab" * 32
    assert index.crm == WorkspaceCRM(folder="/crm/7", name="by hand")
    assert [entry.key for entry in index.graphs] == ["G1", "G2"]
    assert index.graphs[0].model_hash == "ab" * 32
    assert index.graphs[0].made_with == {"dtype": "float32"}
    assert dict(found.records) == RECORDS
    assert same(workspace.load_graph("G1"), hand_graph())
    assert same(workspace.load_graph("G2"), hand_graph(seed=1))
    assert workspace.load_notes("G1") == (NOTES, ())
    assert workspace.load_notes("G2") == (GraphNotes(), ())
    workspace.close()


def test_a_person_can_read_it(folder: Path) -> None:
    told = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    assert told["format"] == "attention-studio-workspace" and told["version"] == 1
    assert told["graphs"][0]["settings"]["logit_mass"] == 0.95
    assert set(told["versions"]) >= {"python", "attention-studio", "numpy", "torch"}
    assert json.loads((folder / "graphs" / "G1.notes.json").read_text())["pinned"] == ["a", "b"]
    assert len(json.loads((folder / "records" / "intervention.json").read_text())) == 2


def test_a_new_folder_is_an_empty_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a" / "b")
    assert workspace.read().index is None
    workspace.close()
    assert not (tmp_path / "a" / "b" / LOCK_NAME).exists()


def test_only_what_changed_is_written(folder: Path) -> None:
    before = files(folder)
    workspace = Workspace(folder)
    index = workspace.read().index
    assert index is not None
    workspace.save(WorkspaceChanges(index, notes={"G2": NOTES}))
    workspace.close()
    after = files(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {INDEX_NAME, "graphs/G2.notes.json"} and "graphs/G2.notes.json" in changed


def test_a_kind_without_records_leaves_no_file(folder: Path) -> None:
    workspace = Workspace(folder)
    index = workspace.read().index
    assert index is not None
    workspace.save(WorkspaceChanges(index, records={"patch": (), "comparison": ()}))
    assert set(workspace.read().records) == {"intervention"}
    workspace.close()


def test_records_become_plain_json(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    record: dict[Any, Any] = {
        "array": np.array([1.0, np.nan]), "number": np.float32(0.5), "none": None,
        "inf": float("inf"), "tuple": (1, True), "path": Path("a"), 3: "three",
    }  # fmt: skip
    workspace.save(WorkspaceChanges(WorkspaceIndex.new("x"), records={"probe": (record,)}))
    assert workspace.read().records["probe"] == (
        {
            "array": [1.0, None], "number": 0.5, "none": None, "inf": None,
            "tuple": [1, True], "path": "a", "3": "three",
        },
    )  # fmt: skip
    workspace.close()


@pytest.mark.parametrize("kind", ["../evil", "Patch", "", "a" * 41, "con.x", "a/b"])
def test_a_bad_record_keeps_nothing_else_from_being_saved(tmp_path: Path, kind: str) -> None:
    workspace = Workspace(tmp_path / "w")
    index = WorkspaceIndex.new("x").model_copy(update={"prompt": "kept"})
    with pytest.raises(WorkspaceError, match="cannot be saved"):
        workspace.save(WorkspaceChanges(index, records={kind: ({},), "good": ({"a": 1},)}))
    with pytest.raises(WorkspaceError, match="a object cannot be written"):
        workspace.save(WorkspaceChanges(index, records={"odd": ({"a": object()},)}))
    found = workspace.read()
    assert found.index is not None and found.index.prompt == "kept"
    assert dict(found.records) == {"good": ({"a": 1},)}
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        INDEX_NAME, LOCK_NAME, "good.json"
    }  # fmt: skip
    workspace.close()


def test_graphs_of_the_same_question_are_known() -> None:
    graph, other = GraphEntry.of("G1", hand_graph()), GraphEntry.of("G2", hand_graph(seed=1))
    assert graph.answers_the_same(other)
    assert not graph.answers_the_same(other.model_copy(update={"prompt": "the dog"}))
    mine, theirs = (
        graph.model_copy(update={"made_with": {"dictionaries": fingerprint}})
        for fingerprint in ("a", "b")
    )
    assert mine.crm_name == theirs.crm_name and not mine.answers_the_same(theirs)
    assert mine.answers_the_same(mine.model_copy(update={"crm_name": "a copy of it"}))
    read = GraphEntry.model_validate(json.loads(graph.model_dump_json()))
    assert read == graph and read.answers_the_same(other)
    assert other.model_copy(update={"name": "mine"}).title == "mine"
    assert other.title == "the cat"


def test_settings_survive_json() -> None:
    graph = hand_graph()
    object.__setattr__(graph, "settings", GraphSettings(contrast=(" A", " B"), positions=(-1,)))
    entry = GraphEntry.of("G1", graph)
    assert entry.settings["contrast"] == [" A", " B"]
    assert GraphEntry.model_validate(json.loads(entry.model_dump_json())).answers_the_same(entry)


def test_a_model_is_noted_as_it_was_asked_for(tmp_path: Path) -> None:
    class Info:
        name, source, family, weights_hash = "m", "hub/m", "gpt2", "cd" * 32
        device, dtype = "cpu", "float32"

    config = ModelConfig("m", tmp_path / "m", dtype="bfloat16", allow_remote_code=True)
    note = WorkspaceModel.of(Info(), config)  # type: ignore[arg-type]
    assert (note.name, note.path, note.device) == ("m", str(tmp_path / "m"), "auto")
    assert (note.dtype, note.ran_on, note.ran_as) == ("bfloat16", "cpu", "float32")
    assert "remote" not in note.model_dump_json()
    assert WorkspaceModel.of(Info(), None).name == "m"  # type: ignore[arg-type]


# -- one window at a time -------------------------------------------------------------------------


def test_a_workspace_is_one_window_s(folder: Path) -> None:
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceInUseError, match=f"process {os.getpid()}"):
        Workspace(folder)
    workspace.close()
    workspace.close()
    Workspace(folder).close()


# -- graphs come and go ---------------------------------------------------------------------------


def test_removed_graphs_can_be_put_back(folder: Path) -> None:
    workspace = Workspace(folder)
    before = files(folder)
    index = workspace.read().index
    assert index is not None and workspace.free_key(index) == "G3"
    workspace.remove_graph("G1")
    assert (folder / "removed" / "G1.safetensors").exists()
    with pytest.raises(GraphError):
        workspace.load_graph("G1")
    left = index.model_copy(update={"graphs": index.graphs[1:]})
    workspace.save(WorkspaceChanges(left))
    assert workspace.read().problems == ()
    workspace.remove_graph("G2")
    none_left = index.model_copy(update={"graphs": ()})
    assert workspace.free_key(none_left) == "G3", "a removed graph is never written over"
    workspace.put_back("G2")
    workspace.put_back("G1")
    workspace.save(WorkspaceChanges(index))
    after = files(folder)
    assert {k: v for k, v in after.items() if k != INDEX_NAME} == {
        k: v for k, v in before.items() if k != INDEX_NAME
    }
    assert workspace.load_notes("G1") == (NOTES, ())
    workspace.close()


def test_free_keys_never_meet_what_is_there(tmp_path: Path) -> None:
    """Whatever lies in the folders, however often one asks: a plain name that no file has, on disks
    that know capital letters and on those that do not."""
    rng = random.Random(7)
    ends = (".safetensors", ".notes.json", ".notes.damaged-1.json", "", ".SAFETENSORS", " .txt")

    def number() -> int:
        return rng.choice((rng.randint(1, 12), rng.randint(1, 99_999_999), 99_999_999, 999_999))

    for case in range(25):
        workspace = Workspace(tmp_path / f"w{case}")
        for part in ("graphs", "removed"):
            (workspace.folder / part).mkdir()
            for _ in range(rng.randint(0, 6)):
                stem = rng.choice(
                    (f"G{number()}", f"g{number()}", f"G0{number()}", f"G{number()}0", "G", "",
                     ".", f"H{number()}", f"G{number()}\n", "G٣", "Gé", f".G{number()}.part-1",
                     "G" * 200)
                )  # fmt: skip
                file = workspace.folder / part / (stem + rng.choice(ends))
                if not file.exists():
                    file.write_bytes(b"precious")
        index = index_of(*((f"G{number()}", hand_graph()) for _ in range(rng.randint(0, 3))))
        for _ in range(12):
            key = workspace.free_key(index)
            assert re.fullmatch("G[1-9][0-9]{0,7}", key)
            there = [path.name.casefold() for path in workspace.folder.glob("*/*")]
            assert not any(
                name == key.casefold() or name.startswith(f"{key.casefold()}.") for name in there
            )
            assert key not in {entry.key for entry in index.graphs}
            # It comes into the index, or onto the disk, or both.
            how = rng.randint(0, 2)
            if how != 1:
                entry = GraphEntry.of(key, hand_graph())
                index = index.model_copy(update={"graphs": (*index.graphs, entry)})
            if how != 0:
                (workspace.folder / "graphs" / f"{key}.safetensors").write_bytes(b"new")
        assert all(
            path.read_bytes() in (b"precious", b"new") for path in workspace.folder.glob("*/*")
        )
        workspace.close()


def test_keys_go_on_beyond_the_millionth(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for last, key in (("G999999", "G1000000"), ("G1000000", "G1000001"), ("g99999999", "G1")):
        (tmp_path / "graphs").mkdir(exist_ok=True)
        (tmp_path / "graphs" / f"{last}.safetensors").write_bytes(b"")
        assert workspace.free_key(WorkspaceIndex.new("x")) == key
    workspace.close()


def test_a_removed_graph_that_the_index_still_names_is_not_missing(folder: Path) -> None:
    """As a process leaves it that was killed between the two."""
    workspace = Workspace(folder)
    workspace.remove_graph("G1")
    found = workspace.read()
    assert found.problems == () and found.index is not None
    assert [entry.key for entry in found.index.graphs] == ["G2"]
    workspace.close()


class Typist:
    """Saves again and again, each time everything anew, and takes a graph out and in."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._stop = threading.Event()
        self.number = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        index = self._workspace.read().index
        assert index is not None
        while not self._stop.is_set():
            self.number += 1
            told = index.model_copy(update={"prompt": str(self.number)})
            # The first graph is in the workspace every other time.
            here = ("G1", "G2") if self.number % 2 else ("G2",)
            notes = {key: GraphNotes().remarked("", str(self.number)) for key in here}
            kept = {"count": ({"number": self.number},)}
            self._workspace.save(WorkspaceChanges(told, notes=notes, records=kept))
            act = self._workspace.remove_graph if self.number % 2 else self._workspace.put_back
            act("G1")

    def wait_for(self, number: int) -> None:
        while self.number < number:
            assert self._thread.is_alive()
            time.sleep(0.001)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def of_one_moment(folder: Path) -> int:
    """The number that everything in a workspace has."""
    workspace = Workspace(folder)
    found = workspace.read()
    assert found.index is not None and found.problems == ()
    number = int(found.index.prompt)
    assert found.records["count"] == ({"number": number},)
    places = [f"{part}/G1" for part in ("graphs", "removed")]
    there = [place for place in places if (folder / f"{place}.safetensors").exists()]
    assert len(there) == 1, "a graph is in one place"
    for place, saved in ((there[0], number - (number + 1) % 2), ("graphs/G2", number)):
        notes = json.loads((folder / f"{place}.notes.json").read_text())
        assert notes["remarks"] == {"": str(saved)}
    workspace.close()
    return number


def test_a_copy_is_of_one_moment_while_somebody_saves(folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(folder)
    typist = Typist(workspace)
    try:
        numbers = []
        for n in range(8):
            typist.wait_for(n + 1)
            numbers.append(of_one_moment(workspace.copy_to(tmp_path / f"copy {n}")))
    finally:
        typist.stop()
    assert numbers == sorted(numbers) and numbers[-1] > numbers[0]
    workspace.close()


def test_a_workspace_that_moves_goes_on_in_the_copy(folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(folder)
    typist = Typist(workspace)
    try:
        typist.wait_for(1)
        for n in range(6):
            target = tmp_path / f"move {n}"
            before = workspace.folder
            assert workspace.move_to(target) == target == workspace.folder
            moved_at = typist.number
            of_one_moment(before)
            with pytest.raises(WorkspaceInUseError):
                Workspace(target)
            typist.wait_for(moved_at + 2)
    finally:
        typist.stop()
    workspace.close()
    assert of_one_moment(target) == typist.number, "what was saved last is in the last copy"
    assert not list(tmp_path.glob(f"*/{LOCK_NAME}"))


def test_a_workspace_that_is_left_while_it_is_copied(folder: Path, tmp_path: Path) -> None:
    for act, name in ((Workspace.copy_to, "copy"), (Workspace.move_to, "moved")):
        workspace = Workspace(folder)
        target = tmp_path / name

        class Leave(WorkContext):
            def progress(self, done: float, total: Optional[float], text: str = "") -> None:
                workspace.close()  # noqa: B023
                with pytest.raises(WorkspaceInUseError):
                    Workspace(folder)

        assert act(workspace, target, Leave()) == target
        assert workspace.folder == folder
        Workspace(folder).close()
        Workspace(target).close()
        assert set(files(target)) == set(files(folder))


def test_what_cannot_be_copied_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(folder)
    before = files(folder)
    copyfile = shutil.copyfile

    def broken(source: Path, target: Path) -> Path:
        if source.name == "G2.safetensors":
            raise OSError(5, "Input/output error", str(source))
        return copyfile(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("attention_studio.core.workspace_copy.shutil.copyfile", broken)
        for act in (workspace.copy_to, workspace.move_to):
            with pytest.raises(WorkspaceError, match=r"G2\.safetensors cannot be copied"):
                act(tmp_path / "copy")
    assert workspace.folder == folder and files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    workspace.close()
    Workspace(folder).close()


def test_a_copy_is_whole_and_its_own(folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(folder)
    (folder / "graphs" / "G1.notes.damaged-1.json").write_text("{")
    link = folder / "records" / "outside.json"
    link.symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text('[{"secret": 1}]')
    made = workspace.copy_to(tmp_path / "copy")
    link.unlink()
    theirs, ours = files(made), files(folder)
    assert set(theirs) == set(ours)
    assert all(theirs[name] == ours[name] for name in ours if name != INDEX_NAME)
    copy = Workspace(made)
    index = copy.read().index
    assert index is not None and index.name == "copy" and len(index.graphs) == 2
    copy.close()
    for bad in (folder, folder / "inside", tmp_path / "copy", tmp_path):
        with pytest.raises(WorkspaceError):
            workspace.copy_to(bad)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".git").write_text("precious")
    with pytest.raises(WorkspaceError, match="not empty"):
        workspace.copy_to(tmp_path / "hidden")
    context = WorkContext()
    context.cancel()
    with pytest.raises(Cancelled):
        workspace.copy_to(tmp_path / "never", context)
    assert not (tmp_path / "never").exists()
    workspace.close()


# -- killed, damaged, hostile ---------------------------------------------------------------------


def test_a_graph_without_an_entry_is_taken_in(folder: Path) -> None:
    """As a process leaves it that was killed after the graph and before the index."""
    told = json.loads((folder / INDEX_NAME).read_text())
    told["graphs"] = told["graphs"][:1]
    (folder / INDEX_NAME).write_text(json.dumps(told))
    workspace = Workspace(folder)
    found = workspace.read()
    assert found.index is not None and [e.key for e in found.index.graphs] == ["G1", "G2"]
    assert found.problems == ()
    workspace.close()


def test_a_missing_graph_is_said(folder: Path) -> None:
    (folder / "graphs" / "G1.safetensors").unlink()
    workspace = Workspace(folder)
    found = workspace.read()
    assert found.problems == ("The graph “the cat” (G1) is missing",)
    assert found.index is not None and len(found.index.graphs) == 2
    with pytest.raises(GraphError):
        workspace.load_graph("G1")
    workspace.close()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b"7", b'"text"', b"{}", b"[" * 100_000,
        b'{"format": "attention-studio-workspace"}', b"1" * 5000,
        b'{"format": "attention-studio-graph", "version": 1}',
    ],
)  # fmt: skip
def test_a_damaged_index_changes_nothing_and_can_be_recovered(folder: Path, content: bytes) -> None:
    (folder / INDEX_NAME).write_bytes(content)
    before = files(folder)
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceDamagedError) as raised:
        workspace.read()
    assert raised.value.why and "recovered" in raised.value.todo
    assert files(folder) == before
    found = workspace.recover()
    assert found.index is not None and [e.key for e in found.index.graphs] == ["G1", "G2"]
    assert (folder / "workspace.damaged-1.json").read_bytes() == content
    again = workspace.read()
    assert again.index is not None and again.index.graphs == found.index.graphs
    assert dict(again.records) == RECORDS and workspace.load_notes("G1") == (NOTES, ())
    workspace.close()


def test_an_index_that_is_gone_can_be_recovered(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceDamagedError, match="is missing"):
        workspace.read()
    found = workspace.recover()
    assert found.index is not None and found.index.graph == "G2"
    workspace.close()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("graphs", 0, "key"), "../../etc/passwd"),
        (("graphs", 0, "key"), "G0"),
        (("graphs", 0, "key"), "G1\n"),
        (("graphs", 0, "key"), "G2"),
        (("graphs", 0, "nodes"), -1),
        (("graphs", 0, "made"), "yesterday"),
        (("graphs", 0, "prompt"), 7),
        (("graphs",), {"G1": {}}),
        (("thresholds",), [2, 0.5]),
        (("thresholds",), [0.5]),
        (("thresholds",), ["NaN", 0.5]),
        (("model", "device"), "cuda; rm"),
        (("model", "dtype"), "int1"),
        (("model", "name"), None),
        (("prompt",), ["a"]),
        (("version",), "1"),
        (("version",), 0),
        (("created",), None),
    ],
)
def test_an_index_with_nonsense_is_refused(
    folder: Path, path: tuple[Any, ...], value: object
) -> None:
    told = json.loads((folder / INDEX_NAME).read_text())
    place = told
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (folder / INDEX_NAME).write_text(json.dumps(told))
    before = files(folder)
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceDamagedError):
        workspace.read()
    assert files(folder) == before
    workspace.close()


def test_a_later_version_is_not_taken_for_damage(folder: Path) -> None:
    told = json.loads((folder / INDEX_NAME).read_text())
    (folder / INDEX_NAME).write_text(json.dumps({**told, "version": 2}))
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceError, match="version that wrote it") as raised:
        workspace.read()
    assert not isinstance(raised.value, WorkspaceDamagedError)
    (folder / INDEX_NAME).write_text(json.dumps({**told, "later": {"unknown": 1}}))
    assert workspace.read().index is not None, "unknown fields are no damage"
    workspace.close()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"pinned": "a"}', b"\xff", b"[" * 100_000])
def test_damaged_notes_are_kept_beside(folder: Path, content: bytes) -> None:
    path = folder / "graphs" / "G1.notes.json"
    path.write_bytes(content)
    workspace = Workspace(folder)
    notes, problems = workspace.load_notes("G1")
    assert notes == GraphNotes() and "G1.notes.damaged-1.json" in problems[0]
    workspace.save(WorkspaceChanges(WorkspaceIndex.new("x"), notes={"G1": NOTES}))
    assert (folder / "graphs" / "G1.notes.damaged-1.json").read_bytes() == content
    path.write_bytes(content)
    assert "damaged-2" in workspace.load_notes("G1")[1][0]
    workspace.close()


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b'[{"a": 1}, null]', b"\x00"])
def test_damaged_records_are_kept_beside(folder: Path, content: bytes) -> None:
    (folder / "records" / "patch.json").write_bytes(content)
    workspace = Workspace(folder)
    found = workspace.read()
    assert set(found.records) == {"intervention"} and "patch.damaged-1.json" in found.problems[0]
    assert (folder / "records" / "patch.damaged-1.json").read_bytes() == content
    assert workspace.read().problems == ()
    workspace.close()


def test_a_damaged_graph_stays_as_it_is(folder: Path) -> None:
    path = folder / "graphs" / "G2.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    before = files(folder)
    workspace = Workspace(folder)
    assert workspace.read().index is not None
    with pytest.raises(GraphError):
        workspace.load_graph("G2")
    assert files(folder) == before
    (folder / INDEX_NAME).unlink()
    found = workspace.recover()
    assert found.index is not None and [e.key for e in found.index.graphs] == ["G1"]
    assert found.problems[0].startswith("G2 cannot be read")
    assert files(folder)["graphs/G2.safetensors"] == before["graphs/G2.safetensors"]
    workspace.close()


@pytest.mark.skipif(os.name == "nt", reason="pipes are files here")
def test_pipes_do_not_stop_it(folder: Path) -> None:
    for name in ("graphs/G1.notes.json", "records/patch.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    os.mkfifo(folder / "graphs" / "G9.safetensors")
    workspace = Workspace(folder)
    assert "no plain file" in workspace.read().problems[0]
    assert "no plain file" in workspace.load_notes("G1")[1][0]
    workspace.close()


def test_what_would_be_too_large_to_read_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(folder)
    workspace = Workspace(folder)
    index = workspace.read().index
    assert index is not None
    limit = 2 * len(before[INDEX_NAME])
    monkeypatch.setattr("attention_studio.core.workspace_files.MAX_JSON_BYTES", limit)
    with pytest.raises(FileWriteError, match=r"patch\.json would become too large.*Throw away"):
        workspace.save(
            WorkspaceChanges(
                index.model_copy(update={"prompt": "later"}),
                records={"patch": ({"text": "x" * limit},), "probe": ({"a": 1},)},
            )
        )
    with pytest.raises(FileWriteError, match=r"G1\.notes\.json would become too large"):
        workspace.save(WorkspaceChanges(index, notes={"G1": NOTES.remarked("", "y" * limit)}))
    found = workspace.read()
    assert found.problems == () and workspace.load_notes("G1") == (NOTES, ())
    assert dict(found.records) == {**RECORDS, "probe": ({"a": 1},)}, "the rest was written"
    workspace.close()


def test_more_graphs_than_an_index_holds_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(folder)
    index = workspace.read().index
    assert index is not None
    before = files(folder)
    monkeypatch.setattr("attention_studio.core.workspace.MAX_GRAPHS", 1)
    with pytest.raises(WorkspaceError, match="2 graphs and may have 1"):
        workspace.save(WorkspaceChanges(index, records={"probe": ({},)}))
    assert files(folder) == before
    workspace.close()


@pytest.mark.parametrize(
    "name", ["records/patch.json", "graphs/G1.notes.json", INDEX_NAME, "records", "graphs"]
)
def test_what_the_system_does_not_give_out_is_no_damage(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hiccups, or rights that were taken away: said, and nothing is moved."""
    before = files(folder)
    workspace = Workspace(folder)
    path = folder / name
    read, listed = Path.read_bytes, Path.iterdir

    def read_bytes(self: Path) -> bytes:
        if self == path:
            raise OSError(5, "Input/output error")
        return read(self)

    def iterdir(self: Path) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    acts = [lambda: workspace.load_notes("G1")] if "notes" in name else [
        workspace.read, workspace.recover,
    ]  # fmt: skip
    if name == INDEX_NAME:
        acts.pop()  # it does not need what cannot be read
    for act in acts:
        with pytest.raises(WorkspaceUnreadableError) as raised:
            act()
        assert str(path) in raised.value.what and raised.value.why
        assert "Nothing has been changed" in raised.value.todo
        assert not isinstance(raised.value, WorkspaceDamagedError)
    monkeypatch.undo()
    assert files(folder) == before
    assert workspace.read().problems == ()
    workspace.close()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read here")
def test_rights_that_were_taken_away_are_said(folder: Path) -> None:
    path = folder / "records" / "patch.json"
    path.chmod(0)
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceUnreadableError, match="Permission denied"):
        workspace.read()
    path.chmod(0o600)
    assert dict(workspace.read().records) == RECORDS
    workspace.close()


def test_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attention_studio.core.workspace_files.MAX_JSON_BYTES", 10)
    workspace = Workspace(folder)
    with pytest.raises(WorkspaceDamagedError, match="at most 10"):
        workspace.read()
    workspace.close()


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(WorkspaceError, match="not a workspace"):
        Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="is no folder"):
        Workspace(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_keys_never_leave_the_folder(folder: Path) -> None:
    workspace = Workspace(folder)
    for key in ("../G1", "G1/../../x", "", "g1", "G1.safetensors"):
        for act in (workspace.load_graph, workspace.load_notes, workspace.remove_graph):
            with pytest.raises(WorkspaceError):
                act(key)
    workspace.close()


def test_a_disk_that_is_full_leaves_the_old_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(folder)
    before = files(folder)
    index = workspace.read().index
    assert index is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attention_studio.utils.files._flush", full)
    with pytest.raises(FileWriteError, match="disk is full"):
        workspace.save(WorkspaceChanges(index, {"G1": hand_graph(seed=5)}, {"G1": GraphNotes()}))
    assert files(folder) == before
    workspace.close()


def test_a_read_only_folder_is_said(folder: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        shutil.rmtree(folder / "graphs")
        (folder / "graphs").write_text("a file in its place")
        workspace = Workspace(folder)
        with pytest.raises(FileWriteError):
            workspace.save(WorkspaceChanges(WorkspaceIndex.new("x"), {"G1": hand_graph()}))
        workspace.close()
        return
    folder.chmod(0o500)
    with pytest.raises(FileWriteError, match="not allowed"):
        Workspace(folder)
    folder.chmod(0o700)

"""Questions about a workspace: what answers may say, and what the texts behind them may do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attention_studio import cli
from attention_studio.agents.answers import AnswerFormatError, answer_record, read_answer
from attention_studio.agents.ask_agent import AskAgent, checked, sentences_of
from attention_studio.agents.backends.records import Message, ToolCall
from attention_studio.agents.backends.scripted import Answer, Script, ScriptedBackend, calling
from attention_studio.agents.base_agent import Rules
from attention_studio.agents.open_workspace import OpenWorkspace, open_folder
from attention_studio.agents.references import Reference, links_in, missing, without_links
from attention_studio.agents.tools import ToolError
from attention_studio.agents.transcript import ReplayBackend, read_record
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.workspace import Workspace, WorkspaceError, WorkspaceInUseError
from attention_studio.core.workspace_reading import WorkspaceReader
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.turns import Turn
from tests.asked import (
    EXAMPLE,
    FEATURE,
    ORDER,
    RUN,
    everything_in,
    write_dashboards,
    write_workspace,
)
from tests.chat_server import asks_for, says, serve_chat


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_workspace(tmp_path / "work")
    write_dashboards(tmp_path / "store")
    return tmp_path


@pytest.fixture
def desk(folder: Path) -> OpenWorkspace:
    return open_folder(folder / "work", store=folder / "store")


def node_of(desk: OpenWorkspace, key: str = "G1") -> str:
    return desk.graph(key).node_name(0)


def asked(desk: OpenWorkspace, *script: Script, **more: Any) -> Any:
    return AskAgent(ScriptedBackend(list(script)), desk, **more).ask("What is it?")


# ---- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("It is [L1/P2/F33] and [P4/token].", ["node", "node"]),
        ("See [G2 A1/P2/F3, G2; L0/P1/error].", ["node", "graph", "node"]),
        ("As in [L1/F2] and [L1/F2 text 5:11], [run 3], [P7/logit/42-17].", [*"feri"]),
        ("It [sic] says [and/or] more [1].", []),
        ("[L1/P2/F33/../../x] [run 2a] [G0] [L1/Q2/F3]", ["unknown"] * 4),
        ("[[L1/F2]] ]L1/F3[ [L1/F4", ["feature"]),
        ("[" + "L" * 5000 + "/1]", []),
    ],
)
def test_links_are_read(text: str, kinds: list[str]) -> None:
    names = {"f": "feature", "e": "example", "r": "run", "i": "node"}
    assert [link.kind for link in links_in(text)] == [names.get(kind, kind) for kind in kinds]


def test_links_are_looked_up(desk: OpenWorkspace) -> None:
    there = [
        node_of(desk),
        "P1/token",
        f"G2 {node_of(desk, 'G2')}",
        "G2",
        FEATURE,
        EXAMPLE,
        "run 1",
    ]
    for text in there:
        (link,) = links_in(f"[{text}]")
        assert missing(link, desk) == "", text
    nowhere = {
        "L1/P2/F999": "has no node",
        "G9 P1/token": "no such graph",
        "G9": "no such graph",
        "L1/F3": "no feature",
        "L8/F0": "no feature|L8|module",
        f"{FEATURE} text 5:10": "no example at 5:10",  # it does not fire there
        f"{FEATURE} text 6:11": "no example",
        f"{FEATURE} text 5:99": "no example",
        "run 2": "there are 1 runs",
        "run 0": "there are 1 runs",
        "L1/X/F2": "names nothing",
    }
    for text, why in nowhere.items():
        (link,) = links_in(f"[{text}]")
        problem = missing(link, desk)
        assert problem and any(part in problem for part in why.split("|")), (text, problem)


def test_features_without_dashboards_are_those_of_the_graph(folder: Path) -> None:
    desk = open_folder(folder / "work")
    layer, _, feature = node_of(desk).split("/")
    assert missing(Reference("x", "feature", name=f"{layer}/{feature}"), desk) == ""
    assert missing(Reference("x", "feature", name="L2/F49999"), desk)
    assert missing(Reference("x", "example", name=f"{layer}/{feature}"), desk)
    assert "feature_page" not in desk.tools()


def test_sentences_keep_their_links() -> None:
    text = "It is A. [L1/F2] Then B [run 1]. Prob. 3.5 holds!\n- C [x/1 ]\n\n[G1]\n**D**"
    assert sentences_of(text) == (
        "It is A. [L1/F2]",
        "Then B [run 1].",
        "Prob.",
        "3.5 holds!",
        "- C [x/1 ] [G1]",
        "**D**",
    )
    assert sentences_of("") == sentences_of(" \n.\n") == ()
    assert without_links("a [L1/F2] b [sic]") == "a  b [sic]"


# ---- answers -----------------------------------------------------------------------------------


def test_an_answer_is_made_with_the_tools_and_its_links_are_there(desk: OpenWorkspace) -> None:
    node = node_of(desk)
    answer = asked(
        desk,
        [calling("workspace"), calling("find_nodes", 1, query="kind=feature", limit=3)],
        [calling("feature_page", feature=FEATURE), calling("show_run", 1, run=1)],
        f"The prompt reads it [{node}]. It fires on this [{EXAMPLE}], as was tested [run 1].",
    )
    assert not answer.struck and len(answer.sentences) == 2
    assert [link.kind for link in answer.links] == ["node", "example", "run"]
    assert [run.failed for run in answer.tools] == [False] * 4
    told = json.loads(answer.tools[2].result)
    assert told["examples"][0]["example"] == EXAMPLE.removeprefix(f"{FEATURE} ")
    assert answer.spent.calls == 3


def test_an_answer_is_kept_and_read(desk: OpenWorkspace) -> None:
    answer = asked(
        desk,
        [calling("propose_pin", nodes=["P1/token"], why="x"), calling("nonsense", 1)],
        "Good [run 1]. Bad [L9/P9/F9].",
        "Good [run 1]. Bad [L9/P9/F9].",
        propose=True,
    )
    record = json.loads(json.dumps(answer_record(answer)))
    again = read_answer(record)
    assert (again.sentences, again.struck) == (answer.sentences, answer.struck)
    assert again.proposals == answer.proposals and again.ended == answer.ended
    assert [(one.name, one.failed) for one in again.tools] == [
        ("propose_pin", False),
        ("nonsense", True),
    ]
    assert again.spent.calls == answer.spent.calls
    assert answer_record(again) == record
    broken = {**record["proposals"][0], "kind": "delete"}
    for bad in (None, {}, {**record, "sentences": 5}, {**record, "proposals": [broken]}):
        with pytest.raises(AnswerFormatError):
            read_answer(bad)


def test_what_leads_nowhere_goes_back_once_and_is_then_struck(desk: OpenWorkspace) -> None:
    node = node_of(desk)
    backend = ScriptedBackend(
        [
            "Good [run 1]. Bad [L9/P9/F9]. Worse [run 7].",
            f"Good [run 1]. Mended [{node}]. Worse [run 7]. Unchecked.",
        ]
    )
    answer = AskAgent(backend, desk).ask("What is it?")
    told = backend.asked[1][-1].content
    assert "has no node L9/P9/F9" in told and "there are 1 runs" in told
    assert [one.text for one in answer.sentences] == [
        "Good [run 1].",
        f"Mended [{node}].",
        "Unchecked.",
    ]
    assert answer.sentences[2].links == ()
    assert {one.text for one in answer.struck} == {"Worse [run 7].", "Bad [L9/P9/F9]."}
    assert all(one.problem for one in answer.struck)
    assert "Worse" not in answer.text


def test_a_model_that_only_makes_things_up_has_given_no_answer(desk: OpenWorkspace) -> None:
    answer = asked(desk, "It is so [L9/P9/F9].", "It is so [L9/P9/F9].")
    assert answer.sentences == () and len(answer.struck) == 1


def test_rounds_end(desk: OpenWorkspace) -> None:
    backend = ScriptedBackend(otherwise=[calling("workspace")])
    answer = AskAgent(backend, desk, rules=Rules(max_rounds=3)).ask("What?")
    assert answer.ended == "rounds" and answer.sentences == ()


@pytest.mark.parametrize("question", ["", " \n", "x" * 8001])
def test_what_is_no_question_is_not_asked(desk: OpenWorkspace, question: str) -> None:
    backend = ScriptedBackend()
    with pytest.raises(ToolError, match="no question"):
        AskAgent(backend, desk).ask(question)
    assert backend.asked == []


def test_a_run_can_be_replayed(folder: Path) -> None:
    script: list[Script] = [[calling("graph_summary")], "So [run 1]."]
    first = AskAgent(ScriptedBackend(script), open_folder(folder / "work"))
    answer = first.ask("What is it?")
    replay = ReplayBackend(first.transcript.record)
    again = AskAgent(replay, open_folder(folder / "work")).ask("What is it?")
    assert again.sentences == answer.sentences and replay.left == 0


def test_another_graph_can_be_opened(desk: OpenWorkspace) -> None:
    name = node_of(desk, "G2")
    asked(desk, [calling("open_graph", graph="G2")], f"So [{name}].")
    assert desk.key == "G2"
    for bad in ("G9", "../G1", "graphs/G1", ""):
        answer = asked(desk, [calling("open_graph", graph=bad)], "No.")
        assert answer.tools[0].failed
    assert desk.key == "G2"


def test_nothing_runs_the_model_out_of_turn(folder: Path) -> None:
    turn = Turn()

    def load(_ctx: WorkContext) -> Any:
        pytest.fail("the model was loaded out of turn")

    desk = OpenWorkspace(WorkspaceReader(folder / "work"), load, turn=turn)
    turn.close("it trains")
    asks = {
        "trace_prompt": {"prompt": "a"},
        "prompt_features": {"prompt": "a"},
        "run_intervention": {"features": ["L1/P2/F3"]},
        "verify_edges": {"nodes": ["L1/P2/F3", "P1/token"]},
    }
    looks = {"workspace", "open_graph", "list_runs", "show_run", "graph_summary", "find_nodes"}
    looks |= {"node_inputs", "node_outputs", "strongest_paths", "supernodes", "suggest_supernodes"}
    assert {one.name for one in desk.tools()} == looks | set(asks)
    calls = [calling(name, n, **words) for n, (name, words) in enumerate(asks.items())]
    answer = asked(desk, [*calls, calling("graph_summary", 9)], "So [run 1].")
    assert [run.failed for run in answer.tools] == [True, True, True, True, False]
    assert all("it trains" in run.result for run in answer.tools[:4])


# ---- proposals ---------------------------------------------------------------------------------


def test_without_leave_nothing_can_be_proposed(desk: OpenWorkspace, folder: Path) -> None:
    before = everything_in(folder)
    assert not any("propos" in tool.name for tool in desk.tools())
    answer = asked(desk, [calling("propose_label", node=node_of(desk), text="x")], "Done.")
    assert answer.tools[0].failed and answer.proposals == ()
    assert everything_in(folder) == before


def test_proposals_come_back_and_are_written_only_when_applied(
    desk: OpenWorkspace, folder: Path
) -> None:
    before, node = everything_in(folder), node_of(desk)
    feature = f"{node.split('/')[0]}/{node.split('/')[2]}"
    answer = asked(
        desk,
        [
            calling("propose_label", node=node, text="the\n cat", why="it fires there"),
            calling("propose_pin", 1, nodes=[node, "P1/token"]),
            calling("propose_supernode", 2, nodes=[node], name="cats"),
            calling("propose_label", 3, node="L9/P9/F9", text="nothing"),
            calling("list_proposals", 4),
        ],
        [calling("open_graph", graph="G2")],
        [calling("propose_remark", node="P1/token", text="of the second")],
        "Proposed.",
        propose=True,
    )
    assert [run.failed for run in answer.tools] == [False, False, False, True, False, False, False]
    assert [(one.graph, one.proposal.kind) for one in answer.proposals] == [
        ("G1", "label"),
        ("G1", "pin"),
        ("G1", "group"),
        ("G2", "remark"),
    ]
    assert everything_in(folder) == before
    assert desk.apply() == 4
    reader = WorkspaceReader(folder / "work")
    notes = reader.notes("G1")
    assert notes.labels[feature] == "the cat"
    assert set(notes.pinned) >= {node, "P1/token"}
    assert [group.name for group in notes.supernodes] == ["cats"]
    assert notes.remarks[""] == ORDER  # what was there stays
    assert reader.notes("G2").remarks == {"P1/token": "of the second"}
    entry = reader.index().entry("G1")
    assert entry is not None and entry.pins == 2 and entry.noted


def test_an_open_window_keeps_others_from_writing_and_lets_them_read(
    desk: OpenWorkspace, folder: Path
) -> None:
    window = Workspace(folder / "work")
    try:
        answer = asked(
            desk,
            [calling("propose_pin", nodes=["P1/token"]), calling("graph_summary", 1)],
            "So [run 1].",
            propose=True,
        )
        assert answer.sentences and len(answer.proposals) == 1
        with pytest.raises(WorkspaceInUseError):
            desk.apply()
    finally:
        window.close()


def test_reading_changes_nothing_even_where_something_is_damaged(folder: Path) -> None:
    (folder / "work" / "graphs" / "G1.notes.json").write_text("{")
    (folder / "work" / "graphs" / "G2.safetensors").write_bytes(b"junk")
    before = everything_in(folder)
    desk = open_folder(folder / "work")
    answer = asked(
        desk, [calling("supernodes"), calling("open_graph", 1, graph="G2")], "It is damaged."
    )
    assert [run.failed for run in answer.tools] == [True, True]
    assert everything_in(folder) == before
    with pytest.raises(WorkspaceError):
        open_folder(folder / "store")


def test_a_graph_that_the_window_traced_anew_is_read_anew(folder: Path) -> None:
    reader = WorkspaceReader(folder / "work")
    first = reader.graph("G1")
    assert reader.graph("G1") is first
    path = folder / "work" / "graphs" / "G1.safetensors"
    (folder / "work" / "graphs" / "G2.safetensors").replace(path)
    assert reader.graph("G1").prompt != first.prompt


# ---- texts that give orders --------------------------------------------------------------------


class Obedient:
    """Does whatever it reads in a tool's result, and then some."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, messages: Sequence[Message]) -> Answer:
        last = messages[-1]
        if last.role == "user" and "lead nowhere" not in last.content:
            looks = ["workspace", "graph_summary", "supernodes", "list_runs"]
            calls = [calling(name, n) for n, name in enumerate(looks)]
            calls.append(calling("feature_page", 8, feature=FEATURE))
            return [*calls, calling("find_nodes", 9, query="kind=token")]
        if last.role == "tool" and not self.read:
            results = [message.content for message in messages if message.role == "tool"]
            self.read = sum("IGNORE ALL PREVIOUS" in result for result in results)
            assert self.read >= 4, "the orders have to reach the model"
            return [
                calling("propose_label", 0, node="P1/token", text="HACKED"),
                calling("run_shell", 1, command="rm -rf /"),
                calling("apply", 2),
                calling("delete_workspace", 3),
                calling("open_graph", 4, graph="../../etc/passwd"),
                calling("feature_page", 5, feature="../../../etc/passwd"),
                ToolCall("call_6", "__class__", "{}"),
            ]
        return "HACKED [L9/P9/F9]. <b>HACKED</b> [run 1]."


def test_orders_in_tokens_labels_examples_and_records_change_nothing(
    desk: OpenWorkspace, folder: Path
) -> None:
    before, model = everything_in(folder), Obedient()
    answer = AskAgent(ScriptedBackend(otherwise=model), desk).ask("What is it?")
    assert model.read >= 4
    assert [run.failed for run in answer.tools[-7:]] == [True] * 7
    assert answer.proposals == ()
    assert everything_in(folder) == before
    # What points nowhere is struck, whoever asked for it; markup is text like any other.
    assert [one.text for one in answer.struck] == ["HACKED [L9/P9/F9]."]
    assert answer.text == "<b>HACKED</b> [run 1]."


def test_orders_can_only_propose_where_that_is_allowed(desk: OpenWorkspace, folder: Path) -> None:
    before = everything_in(folder)
    backend = ScriptedBackend(otherwise=Obedient())
    answer = AskAgent(backend, desk, propose=True).ask("What is it?")
    # A token has no label, and the rest is no tool: a list for the person, and it is empty.
    assert answer.proposals == ()
    assert everything_in(folder) == before


def test_texts_of_the_workspace_are_never_links_by_themselves(desk: OpenWorkspace) -> None:
    (sentence,) = checked(f"It says “{ORDER}”", desk)
    assert sentence.problem and not any(link.kind == "run" for link in sentence.links)


def test_runs_are_read_with_care(folder: Path) -> None:
    record = RUN.to_json()
    path = folder / "work" / "records" / "intervention.json"
    path.write_text(json.dumps([record, {**record, "tokens": 5}, {"format": ORDER}]))
    answer = asked(
        open_folder(folder / "work"),
        [calling("show_run", n, run=n + 1) for n in range(4)],
        "So [run 3].",
    )
    assert [run.failed for run in answer.tools] == [False, True, True, True]


# ---- the command -------------------------------------------------------------------------------


def test_the_command_says_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATTENTION_STUDIO_AGENT_URL", raising=False)
    work = str(folder / "work")
    for words, status, why in (
        (("ask", "What?"), 2, "nothing to look at"),
        (("ask", "What?", "--workspace", work, "--apply"), 2, "--propose"),
        (("ask", "What?", "--workspace", work, "--crm", "demo"), 2, "--model"),
        (("ask", "What?", "--workspace", work, "--backend", "endpoint"), 1, "AGENT_URL"),
        (("ask", "What?", "--workspace", str(folder / "none")), 1, "no workspace"),
        (("mcp",), 2, "nothing to look at"),
    ):
        assert cli.main([*words, *([] if words[0] == "mcp" else ["--quiet"])]) == status
        told = capsys.readouterr()
        assert why in told.err and told.out == ""


def test_without_any_chat_model_the_command_says_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATTENTION_STUDIO_AGENT_URL", raising=False)
    monkeypatch.setenv("ATTENTION_STUDIO_OFFLINE", "true")
    monkeypatch.setenv("ATTENTION_STUDIO_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("ATTENTION_STUDIO_AGENT_LOCAL_MODEL", "nobody/has-this")
    assert cli.main(["ask", "What?", "--workspace", str(folder / "work"), "--quiet"]) == 1
    told = capsys.readouterr()
    assert "There is no chat model to ask: nobody/has-this cannot be loaded" in told.err
    assert "ATTENTION_STUDIO_AGENT_URL" in told.err and told.out == ""


def test_the_command_asks_an_endpoint_and_writes_what_is_allowed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, transcript = folder / "work", folder / "said.json"
    propose = asks_for(("propose_pin", '{"nodes": ["P1/token"], "why": "it matters"}'))
    answers = ("It is the prompt [P1/token]. I guess.", "It is so [P9/token].", "Or so [run 9].")
    words = ["ask", "What?", "--workspace", str(work), "--propose", "--quiet"]
    with serve_chat(propose, *map(says, answers)) as chat:
        monkeypatch.setenv("ATTENTION_STUDIO_AGENT_URL", chat.url)
        monkeypatch.setenv("ATTENTION_STUDIO_AGENT_MODEL", "m")
        before = everything_in(work)
        assert cli.main([*words, "--transcript", str(transcript)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[:2] == ["It is the prompt [P1/token].", "I guess. (no evidence)"]
        assert told[2] == "Proposed: pin P1/token of G1 (it matters)"
        assert everything_in(work) == before
        assert len(read_record(transcript).exchanges) == 2
        assert cli.main([*words[:4], "--quiet"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == "The model gave no answer that stands."
        assert [line.startswith("Struck: ") for line in told[1:3]] == [True, True]
    with serve_chat(says("They are all connected.")) as chat:
        monkeypatch.setenv("ATTENTION_STUDIO_AGENT_URL", chat.url)
        assert cli.main([*words[:4], "--quiet"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == "They are all connected. (no evidence)"
        assert told[1].startswith("The model looked at nothing")
    with serve_chat(propose, says("Done [P1/token].")) as chat:
        monkeypatch.setenv("ATTENTION_STUDIO_AGENT_URL", chat.url)
        assert cli.main([*words, "--apply", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert found["applied"] == 1 and found["sentences"][0]["links"][0]["kind"] == "node"
    assert WorkspaceReader(work).notes("G1").pinned == ("P1/token",)


def test_notes_of_an_unknown_graph_are_empty_or_refused(folder: Path) -> None:
    reader = WorkspaceReader(folder / "work")
    assert reader.notes("G2") == GraphNotes()
    for key in ("G3", "../G1", ""):
        with pytest.raises(WorkspaceError):
            reader.notes(key)
    assert reader.records("../intervention") == ()

"""Asking a chat endpoint over HTTP: good answers, bad ones, none, and what leaves this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr

from attention_studio.agents.backends.openai_compatible import OpenAICompatible
from attention_studio.agents.backends.records import (
    Backend,
    BackendAccessError,
    BackendAnswerError,
    BackendBusyError,
    BackendError,
    BackendNotFoundError,
    BackendOfflineError,
    BackendRequestError,
    BackendUnreachableError,
    Message,
    Price,
    Reply,
    ToolCall,
    ToolSpec,
    Usage,
)
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.logging import add_sink
from attention_studio.utils.progress import WorkContext
from tests.chat_server import (
    ChatServer,
    Turn,
    asks_for,
    breaks_off_after,
    delta,
    fails,
    falls_silent_after,
    hangs_up,
    never_ends,
    refuses,
    says,
    says_at_once,
    sends,
    sends_on_to,
    serve_chat,
    streams,
)

KEY = "sk-test-0123456789"
HELLO = (Message("system", "Be brief."), Message("user", "Hello"))
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}},
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attention_studio.agents.backends.openai_compatible._FIRST_WAIT", 0.02)


def backend(chat: ChatServer, **more: Any) -> OpenAICompatible:
    return OpenAICompatible(chat.url, "small-1", KEY, **{"timeout": 5.0, **more})


def ask(chat: ChatServer, **more: Any) -> Reply:
    ctx = more.pop("ctx", WorkContext())
    return backend(chat).complete(HELLO, max_tokens=20, ctx=ctx, **more)


def refused(*turns: Turn, **more: Any) -> BackendError:
    with serve_chat(*turns) as chat, pytest.raises(BackendError) as caught:
        backend(chat, **more).complete(HELLO, max_tokens=20, ctx=WorkContext())
    assert caught.value.what and caught.value.todo
    return caught.value


# ---- good answers ------------------------------------------------------------------------------


def test_it_is_a_backend() -> None:
    one: Backend = OpenAICompatible("https://host/v1/", "m", price=Price(1.0, 2.0))
    assert isinstance(one, Backend)
    assert one.name == "m at host"
    assert one.price is not None
    assert one.price.of(Usage(1_000_000, 500_000)) == 2.0


def test_text_streams_and_is_counted() -> None:
    heard: list[str] = []
    with serve_chat(says("A feature of capitals — 大阪.")) as chat:
        reply = ask(chat, on_text=heard.append, seed=3, temperature=0.5)
    assert reply.message == Message("assistant", "A feature of capitals — 大阪.")
    assert "".join(heard) == reply.message.content
    assert len(heard) > 3
    assert reply.usage == Usage(11, 7)
    assert reply.finish_reason == "stop"
    body = chat.requests[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert (body["model"], body["max_tokens"], body["seed"]) == ("small-1", 20, 3)
    assert body["temperature"] == 0.5
    assert "tools" not in body and "response_format" not in body
    assert chat.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_an_endpoint_that_does_not_stream_is_understood() -> None:
    heard: list[str] = []
    with serve_chat(says_at_once("All at once.")) as chat:
        reply = ask(chat, on_text=heard.append)
    assert (reply.message.content, heard, reply.usage) == (
        "All at once.",
        ["All at once."],
        Usage(11, 7),
    )


def test_tools_are_offered_and_their_calls_read() -> None:
    tool = ToolSpec("look_up", "Looks a feature up.", {"type": "object", "properties": {}})
    with serve_chat(asks_for(("look_up", '{"index": 7}'), ("other", "not json"))) as chat:
        reply = ask(chat, tools=(tool,))
        assert reply.message.tool_calls == (
            ToolCall("c0", "look_up", '{"index": 7}'),
            ToolCall("c1", "other", "not json"),
        )
        assert reply.finish_reason == "tool_calls"
        again = (*HELLO, reply.message, Message("tool", "dead", tool_call_id="c0"))
        backend(chat).complete(again, max_tokens=5, ctx=WorkContext())
    assert chat.requests[0]["tools"][0]["function"]["name"] == "look_up"
    sent = chat.requests[1]["messages"]
    assert sent[3] == {"role": "tool", "content": "dead", "tool_call_id": "c0"}
    arguments = [call["function"]["arguments"] for call in sent[2]["tool_calls"]]
    assert arguments == ['{"index": 7}', "{}"]


def test_calls_as_objects_and_without_ids_are_read() -> None:
    call = {"function": {"name": "look_up", "arguments": {"index": 7}}}
    with serve_chat(says_at_once("", tool_calls=[call, call])) as chat:
        found = ask(chat).message.tool_calls
    assert [json.loads(one.arguments_json) for one in found] == [{"index": 7}] * 2
    assert len({one.id for one in found}) == 2


def test_tokens_are_estimated_where_nobody_counts_them() -> None:
    with serve_chat(says("four words are here", usage=None)) as chat:
        usage = ask(chat).usage
    assert usage == Usage(-(-len("Be brief.Hello") // 4), -(-len("four words are here") // 4))


def test_counts_that_make_no_sense_are_bounded() -> None:
    with serve_chat(says("x", usage={"prompt_tokens": -5, "completion_tokens": 10**30})) as chat:
        usage = ask(chat).usage
    assert usage == Usage(0, 1_000_000_000)


def test_a_stream_may_end_without_done_and_without_an_empty_line() -> None:
    lines = [f"data:{json.dumps(delta({'content': 'ok'}))}", "", "event: x", ": note"]
    lines += [f"data: {json.dumps(delta({}, 'length'))}"]
    with serve_chat(streams(*lines)) as chat:
        reply = ask(chat)
    assert (reply.message.content, reply.finish_reason) == ("ok", "length")


def test_who_does_not_hang_up_after_the_end_is_not_waited_for() -> None:
    def turn(to: Any, body: Any) -> None:
        says("done")(to, body)
        to.chat.released.wait(30)

    with serve_chat(turn) as chat:
        began = time.monotonic()
        assert ask(chat).message.content == "done"
    assert time.monotonic() - began < 4


def test_many_threads_ask_at_once() -> None:
    with serve_chat() as chat:
        one = backend(chat)

        def question(number: int) -> str:
            text = (Message("user", str(number)),)
            return one.complete(text, max_tokens=5, ctx=WorkContext()).message.content

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(question, range(24))) == ["Fine."] * 24
    assert {body["messages"][0]["content"] for body in chat.requests} == set(map(str, range(24)))


# ---- JSON --------------------------------------------------------------------------------------


def test_json_is_asked_for_by_schema() -> None:
    with serve_chat(says('{"label": "x"}')) as chat:
        ask(chat, json_schema=SCHEMA)
        ask(chat, json_schema={"type": "object", "properties": {"a": {"type": "string"}}})
    formats = [body["response_format"] for body in chat.requests]
    assert formats[0]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert formats[1]["json_schema"]["strict"] is False
    # Some endpoints pass over the schema without a word, so it is told as well.
    assert json.dumps(SCHEMA) in chat.requests[0]["messages"][0]["content"]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_json_mode_falls_back_step_by_step_and_is_remembered(status: int) -> None:
    turn = refuses("response_format", "what is that?", says('{"label": "x"}'), status)
    with serve_chat(turn) as chat:
        one = backend(chat)
        for _ in range(2):
            one.complete(HELLO, max_tokens=9, json_schema=SCHEMA, ctx=WorkContext())
    kinds = [body.get("response_format", {}).get("type") for body in chat.requests]
    assert kinds[-2:] == [None, None]  # the second question went straight to words
    assert list(dict.fromkeys(kinds)) == ["json_schema", "json_object", None]
    told = chat.requests[-1]["messages"][0]
    assert told["role"] == "system"
    assert json.dumps(SCHEMA) in told["content"]
    assert told["content"].startswith("Be brief.")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0 with this model."),
        ("seed", "Unrecognized request argument supplied: seed"),
        ("stream_options", "unknown field stream_options"),
        ("max_tokens", "'max_tokens' is not supported: use 'max_completion_tokens' instead."),
    ],
)
def test_what_a_model_does_not_know_is_left_out(field: str, message: str) -> None:
    with serve_chat(refuses(field, message, says("ok"))) as chat:
        assert ask(chat, seed=1).message.content == "ok"
    last = chat.requests[-1]
    assert field not in last
    assert ("max_completion_tokens" in last) == (field == "max_tokens")
    assert len(chat.requests) == 2


def test_a_prompt_that_is_too_long_is_not_asked_in_other_forms() -> None:
    turn = fails(400, "maximum context length is 8192 tokens")
    with serve_chat(turn) as chat, pytest.raises(BackendRequestError, match="8192"):
        ask(chat, json_schema=SCHEMA)
    assert len(chat.requests) == 1


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, BackendAccessError, "does not accept the key"),
        (402, BackendAccessError, "nothing left"),
        (403, BackendAccessError, "does not allow"),
        (404, BackendNotFoundError, "no model small-1"),
        (405, BackendNotFoundError, "ATTENTION_STUDIO_AGENT_URL"),
        (413, BackendRequestError, "refuses the request"),
        (418, BackendRequestError, "refuses the request"),
        (429, BackendBusyError, "too many requests"),
        (500, BackendBusyError, "failed"),
        (502, BackendBusyError, "failed"),
        (503, BackendBusyError, "failed"),
        (529, BackendBusyError, "failed"),
        (599, BackendBusyError, "failed"),
    ],
)
def test_statuses_in_words(status: int, kind: type[BackendError], words: str) -> None:
    error = refused(*[fails(status, "so it is")] * 4)
    assert type(error) is kind
    assert words in str(error)
    assert str(status) in str(error)
    assert "so it is" in error.why


def test_a_missing_key_is_said() -> None:
    with serve_chat(fails(401)) as chat, pytest.raises(BackendAccessError, match="no key is set"):
        OpenAICompatible(chat.url, "m").complete(HELLO, max_tokens=5, ctx=WorkContext())
    assert "Authorization" not in chat.headers[0]


def test_an_endpoint_that_shows_the_key_does_not_show_it_here() -> None:
    lines: list[str] = []
    remove = add_sink(lambda _level, line: lines.append(line), level="TRACE")
    try:
        for turn in (
            fails(401, f"bad key {KEY}"),
            fails(500, f"bad key {KEY}"),
            sends(f'{{"choices": "{KEY}"}}'.encode(), "application/json"),
            streams(f"data: {{{KEY}", ""),
            sends(KEY.encode(), KEY),
        ):
            assert KEY not in str(refused(turn, attempts=1))
        refused(fails(503, KEY), fails(400, KEY))
    finally:
        remove()
    assert len(lines) >= 7  # all questions and the pause
    assert not any(KEY in line for line in lines)


def test_a_used_up_account_is_not_asked_again() -> None:
    turn = fails(429, "You exceeded your current quota, check your plan")
    with serve_chat(turn) as chat, pytest.raises(BackendAccessError, match="nothing left"):
        ask(chat)
    assert len(chat.requests) == 1


def test_passing_failures_pass() -> None:
    turns = (fails(503), fails(429, Retry_After="0"), hangs_up(), says("at last"))
    with serve_chat(*turns) as chat:
        assert ask(chat).message.content == "at last"
    assert len(chat.requests) == 4


def test_it_waits_as_long_as_it_is_asked_to_and_not_for_ever() -> None:
    with serve_chat(fails(429, Retry_After="1"), says("ok")) as chat:
        assert ask(chat).message.content == "ok"
    assert chat.times[1] - chat.times[0] >= 1.0
    late = fails(429, Retry_After="3600")
    with serve_chat(late) as chat, pytest.raises(BackendBusyError, match="wait 3,600 s"):
        ask(chat)
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    with serve_chat(fails(503, Retry_After=soon), says("ok")) as chat:
        assert ask(chat).message.content == "ok"
    assert chat.times[1] - chat.times[0] >= 0.9


def test_refusals_are_not_asked_again() -> None:
    for status in (400, 401, 404):
        with serve_chat(fails(status), says("ok")) as chat, pytest.raises(BackendError):
            ask(chat)
        assert len(chat.requests) == 1


# ---- junk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (sends(b"<html>Please log in</html>", "text/html"), "text/html"),
        (sends(b"", ""), "no stated type"),
        (sends(b"{", "application/json"), "not JSON"),
        (sends(b"[" * 100_000, "application/json"), "not JSON"),
        (sends(b"[]", "application/json"), "no JSON object"),
        (sends(b"\xff\xfe", "application/json"), "UTF-8"),
        (sends(b'{"choices": []}', "application/json"), "no choices"),
        (sends(b'{"choices": [7]}', "application/json"), "another kind"),
        (sends(b'{"choices": [{"message": 7}]}', "application/json"), "another kind"),
        (sends(b'{"choices": [{"message": {"content": 7}}]}', "application/json"), "no text"),
        (says_at_once("", tool_calls=7), "no list"),
        (says_at_once("", tool_calls=[7]), "another kind"),
        (says_at_once("", tool_calls=[{"index": 99}]), "more than 32"),
        (sends(b"\x1f\x8b", "application/json", Content_Encoding="gzip"), "compressed"),
        (streams("data: nonsense", ""), "not JSON"),
        (streams('data: {"choices": {}}', ""), "no choices"),
        (streams("data: \udcff".encode("utf-8", "surrogateescape").decode("latin-1")), "not JSON"),
    ],
)
def test_junk_is_refused_in_words(turn: Turn, words: str) -> None:
    with serve_chat(turn) as chat, pytest.raises(BackendAnswerError) as caught:
        ask(chat)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert len(chat.requests) == 1


def test_events_that_are_nobodys_business_are_passed_over() -> None:
    good = json.dumps(delta({"content": "ok", "reasoning": 7, "new": {}}, "stop"))
    with serve_chat(streams('data: {"type": "ping"}', "", f"data: {good}", "")) as chat:
        assert ask(chat).message.content == "ok"


def test_enormous_answers_are_cut_off() -> None:
    document = b'{"choices": [{"message": {"content": "' + b"x" * (8 << 20) + b'"}}]}'
    assert "far more than was asked for" in str(refused(sends(document, "application/json")))
    line = streams("data: " + "x" * (2 << 20))
    with serve_chat(line) as chat, pytest.raises(BackendAnswerError, match="one line has more"):
        backend(chat).complete(HELLO, max_tokens=4000, ctx=WorkContext())
    with serve_chat(never_ends("x" * 60_000, pause=0)) as chat:
        with pytest.raises(BackendAnswerError, match="far more"):
            ask(chat)
        assert chat.hung_up.wait(5)


def test_an_enormous_error_is_one_short_line() -> None:
    error = refused(sends(b"<b>\n\x00no</b>" * 100_000, "text/plain", 400))
    assert len(str(error)) < 600
    assert "\n" not in error.why and "\x00" not in error.why


# ---- the line ----------------------------------------------------------------------------------


def test_a_stream_that_breaks_off_is_asked_for_again_unless_it_was_heard() -> None:
    with serve_chat(breaks_off_after("The feature"), says("whole")) as chat:
        assert ask(chat).message.content == "whole"
    heard: list[str] = []
    turn = breaks_off_after("The feature")
    with serve_chat(turn) as chat, pytest.raises(BackendUnreachableError, match="broke off"):
        ask(chat, on_text=heard.append)
    assert heard == ["The ", "feature"]
    assert len(chat.requests) == 1


def test_an_error_in_the_middle_of_a_stream() -> None:
    lines = (f"data: {json.dumps(delta({'content': 'The '}))}", "")
    error = refused(*[streams(*lines, 'data: {"error": {"message": "overloaded"}}', "")] * 4)
    assert isinstance(error, BackendUnreachableError)
    assert "overloaded" in error.why


@pytest.mark.parametrize("said", ["", "The feature"])
def test_silence_ends_with_the_timeout(said: str) -> None:
    began = time.monotonic()
    error = refused(falls_silent_after(said), falls_silent_after(said), timeout=0.3)
    assert isinstance(error, BackendUnreachableError)
    assert "nothing came for 0.3 s" in error.why
    assert time.monotonic() - began < 4


def test_an_answer_that_never_ends_is_given_up() -> None:
    error = refused(never_ends(), answer_timeout=0.3)
    assert "did not end" in str(error)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        one = OpenAICompatible(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m")
        with pytest.raises(BackendUnreachableError, match="cannot be reached"):
            one.complete(HELLO, max_tokens=5, ctx=WorkContext())
    with pytest.raises(BackendUnreachableError, match=r"nowhere\.invalid cannot be reached"):
        OpenAICompatible("https://nowhere.invalid/v1", "m").complete(
            HELLO, max_tokens=5, ctx=WorkContext()
        )


@pytest.mark.parametrize(
    "turn", [falls_silent_after(""), falls_silent_after("The"), never_ends(), fails(503)]
)
def test_a_cancel_works_at_once_and_the_endpoint_notices(turn: Turn) -> None:
    ctx = WorkContext()
    with serve_chat(turn) as chat:
        if turn.__qualname__.startswith("sends"):  # a pause before the next attempt
            chat.turns[0] = fails(503, Retry_After="30")
        timer = threading.Timer(0.3, ctx.cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            backend(chat, timeout=30.0).complete(HELLO, max_tokens=20, ctx=ctx)
        assert time.monotonic() - began < 1.5
        if turn.__qualname__.startswith("never_ends"):
            assert chat.hung_up.wait(5)
        timer.join()


def test_who_is_cancelled_before_asks_nothing() -> None:
    ctx = WorkContext()
    ctx.cancel()
    with serve_chat() as chat, pytest.raises(Cancelled):
        ask(chat, ctx=ctx)
    assert chat.requests == []


def test_what_a_listener_raises_ends_the_question() -> None:
    def full(_text: str) -> None:
        raise OSError("the disk is full")

    with serve_chat(never_ends()) as chat:
        with pytest.raises(OSError, match="disk"):
            ask(chat, on_text=full)
        assert chat.hung_up.wait(5)


# ---- what leaves this machine ------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_and_the_key_stays(status: int) -> None:
    with serve_chat() as elsewhere:
        error = refused(sends_on_to(f"{elsewhere.url}/chat/completions?a=secret", status))
    assert isinstance(error, BackendNotFoundError)
    assert elsewhere.url in str(error)
    assert "secret" not in str(error)
    assert elsewhere.requests == []


@pytest.mark.parametrize("place", ["http://[", "http://elsewhere:99999/", "http://elsewhere:x/"])
def test_a_redirect_to_no_address_is_an_error_in_words(place: str) -> None:
    error = refused(sends_on_to(place, 302))
    assert isinstance(error, BackendNotFoundError)
    assert "cannot be read" in str(error)


def test_offline_asks_nothing_and_says_so() -> None:
    with serve_chat() as chat, pytest.raises(BackendOfflineError, match="OFFLINE"):
        backend(chat, offline=True).complete(HELLO, max_tokens=5, ctx=WorkContext())
    assert chat.requests == []


def test_every_attempt_is_in_the_log_of_outgoing_traffic() -> None:
    lines: list[str] = []
    remove = add_sink(lambda _level, line: lines.append(line))
    try:
        with serve_chat(fails(503), says("ok")) as chat:
            ask(chat)
    finally:
        remove()
    outgoing = [line for line in lines if "Outgoing: POST" in line]
    assert len(outgoing) == 2
    assert f"{chat.url}/chat/completions (a question to small-1, " in outgoing[0]
    assert not any("Hello" in line for line in lines)


def test_proxies_are_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve_chat() as chat:
        assert ask(chat).message.content == "Fine."


def test_settings_make_it() -> None:
    with serve_chat() as chat:
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            agent_url=chat.url,
            agent_model="large-2",
            agent_key=SecretStr(KEY),
            agent_price_out=3.0,
        )
        one = OpenAICompatible.from_settings(settings)
        one.complete(HELLO, max_tokens=5, ctx=WorkContext())
    assert one.price == Price(0.0, 3.0)
    assert chat.requests[0]["model"] == "large-2"
    assert chat.headers[0]["Authorization"] == f"Bearer {KEY}"
    bare = Settings(_env_file=None)  # type: ignore[call-arg]
    with pytest.raises(BackendError, match="ATTENTION_STUDIO_AGENT_URL"):
        OpenAICompatible.from_settings(bare)
    with pytest.raises(BackendError, match="ATTENTION_STUDIO_AGENT_MODEL"):
        OpenAICompatible.from_settings(bare.model_copy(update={"agent_url": "https://h/v1"}))

"""Budgets: what is counted, what is reserved, and where it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import pytest

from attention_studio.agents.backends.records import Message, Price, Reply, ToolSpec, Usage
from attention_studio.agents.budget import Budget, BudgetSpentError, Meter
from attention_studio.utils.config import Settings

ASKED = (Message("user", "x" * 368),)  # 92 tokens and 8 for what is around it
READ = 100


def reply(read: int, written: int) -> Reply:
    return Reply(Message("assistant", ""), Usage(read, written), "stop")


def ask(meter: Meter, max_tokens: int = 50, answer: Optional[Reply] = None) -> int:
    with meter.question(ASKED, (), max_tokens) as question:
        question.reply = reply(90, 20) if answer is None else answer
        return question.max_tokens


def test_what_was_used_is_counted() -> None:
    meter = Meter(price=Price(10.0, 100.0))
    assert ask(meter) == 50
    ask(meter)
    found = meter.spending
    assert (found.usage, found.calls) == (Usage(180, 40), 2)
    assert found.cost == pytest.approx((180 * 10 + 40 * 100) / 1e6)
    assert Meter().spending.cost == 0.0


def test_tokens_end() -> None:
    meter = Meter(Budget(max_tokens=300))
    assert ask(meter, 500) == 300 - READ  # the answer is as long as there is room
    assert meter.spending.usage.total == 110
    assert ask(meter, 500) == 300 - READ - 110
    with pytest.raises(BudgetSpentError, match="300 tokens") as caught:
        ask(meter)
    assert "220 are used" in caught.value.why
    assert "ATTENTION_STUDIO_AGENT_MAX_TOKENS" in caught.value.todo
    assert meter.spending.calls == 2


def test_tools_and_schemas_count() -> None:
    tools = (ToolSpec("look", "y" * 4000, {}),)
    with pytest.raises(BudgetSpentError), Meter(Budget(max_tokens=1000)).question(ASKED, tools, 9):
        pass
    schema, meter = {"title": "y" * 4000}, Meter(Budget(max_tokens=1000))
    with pytest.raises(BudgetSpentError), meter.question(ASKED, (), 9, schema):
        pass


def test_questions_end() -> None:
    meter = Meter(Budget(max_calls=2))
    ask(meter)
    ask(meter)
    with pytest.raises(BudgetSpentError, match="2 questions"):
        ask(meter)


def test_money_ends_and_shortens_the_last_answer() -> None:
    meter = Meter(Budget(max_cost=0.003), Price(10.0, 20.0))
    assert ask(meter, 500) == 100  # 0.001 for the question leaves 0.002
    ask(meter, 500, reply(90, 60))
    with pytest.raises(BudgetSpentError, match=r"0\.003 in money"):
        ask(meter)
    free = Meter(Budget(max_cost=0.0), None)
    assert ask(free) == 50  # nobody said that it costs anything


def test_time_ends() -> None:
    now = [100.0]
    meter = Meter(Budget(max_seconds=10), clock=lambda: now[0])
    ask(meter)
    now[0] = 110.5
    with pytest.raises(BudgetSpentError, match="10 seconds"):
        ask(meter)
    assert meter.spending.seconds == 10.5


def test_a_question_without_an_answer_counts_what_was_sent() -> None:
    meter = Meter(Budget(max_tokens=1000))
    with pytest.raises(OSError), meter.question(ASKED, (), 50):
        raise OSError
    assert meter.spending.usage == Usage(READ, 0)


def test_several_threads_together_stay_within_it() -> None:
    meter, most = Meter(Budget(max_tokens=2000)), 8
    barrier = threading.Barrier(most)

    def run(_number: int) -> int:
        barrier.wait(10)
        done = 0
        try:
            while True:
                with meter.question(ASKED, (), 150) as question:
                    question.reply = reply(READ, question.max_tokens)
                    done += 1
        except BudgetSpentError:
            return done

    with ThreadPoolExecutor(most) as pool:
        done = sum(pool.map(run, range(most)))
    assert done == meter.spending.calls
    assert 1500 < meter.spending.usage.total <= 2000


def test_settings_make_it() -> None:
    settings = Settings(_env_file=None, agent_max_cost=2.5)  # type: ignore[call-arg]
    assert Budget.from_settings(settings) == Budget(500_000, 1000, 3600.0, 2.5)

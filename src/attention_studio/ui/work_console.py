"""What the console runs on a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from attention_studio.ui.console.interpreter import Interpreter, Statement, Write
    from attention_studio.ui.console.session_view import MainThreadCalls
    from attention_studio.ui.session import Session
    from attention_studio.utils.progress import WorkContext


def run_statement(
    ctx: WorkContext,
    interpreter: Interpreter,
    statement: Statement,
    names: Mapping[str, Any],
    session: Session,
    calls: MainThreadCalls,
    write: Write,
) -> bool:
    """Run a statement with these names, the session, and ``ctx`` at hand; returns whether it went
    through. Cancelling the job interrupts it."""
    from attention_studio.ui.console.session_view import SessionView

    interpreter.give({**names, "session": SessionView(session, calls, ctx), "ctx": ctx})
    ctx.tell_cancel(interpreter.interrupt)
    try:
        ctx.check()
        return interpreter.run(statement, write)
    finally:
        ctx.tell_cancel(None)


def complete(ctx: WorkContext, interpreter: Interpreter, text: str) -> tuple[str, tuple[str, ...]]:
    """A name as it was begun, and what it could go on as."""
    ctx.check()
    return text, interpreter.completions(text)

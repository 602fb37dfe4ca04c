"""Runs what people type as Python, on the thread that calls it; others can interrupt it.

Knows no Qt. What a statement prints, the values that it leaves and its tracebacks go to ``write``.
"""

from __future__ import annotations

import ast
import codeop
import ctypes
import io
import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from rlcompleter import Completer
from types import CodeType
from typing import Any, Optional, TextIO

MAX_VALUE = 20_000
"""Characters of one value that are shown."""
MAX_OUTPUT = 400_000
"""Characters of one statement's output that are kept: a loop that prints must not fill memory."""
MAX_COMPLETIONS = 200


class Kind(Enum):
    """What a piece of output is."""

    INPUT = "input"
    OUTPUT = "output"
    VALUE = "value"
    ERROR = "error"
    NOTE = "note"


Write = Callable[[str, Kind], None]


@dataclass(frozen=True)
class Statement:
    """Something to run: its source, and the code made of it."""

    source: str
    name: str
    code: CodeType


class Interpreter:
    """A namespace, and the way to run statements in it, one at a time."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__console__", "__builtins__": __builtins__}
        self._given: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._thread: Optional[int] = None
        self._count = 0

    # -- names --------------------------------------------------------------------------------

    def give(self, names: Mapping[str, Any]) -> None:
        """Put names into the namespace. One that the person has assigned anew stays theirs until
        there is another value to give."""
        for name, value in names.items():
            before = self._given.get(name, self)
            mine = name not in self.namespace or self.namespace[name] is before
            if mine or value is not before:
                self.namespace[name] = value
        self._given = dict(names)

    def completions(self, text: str) -> tuple[str, ...]:
        """Return what a name, or a name and attributes, could go on as."""
        completer = Completer(self.namespace)
        found: list[str] = []
        while len(found) < MAX_COMPLETIONS:
            one = completer.complete(text, len(found))
            if one is None:
                break
            found.append(one)
        return tuple(dict.fromkeys(found))

    # -- running ------------------------------------------------------------------------------

    def read(self, source: str) -> Optional[Statement]:
        """Return the source as something to run; None where it goes on.

        Raises:
            SyntaxError: it is no Python.
        """
        try:
            whole = codeop.compile_command(source, "<console>", "exec")
        except (OverflowError, ValueError) as error:
            raise SyntaxError(str(error)) from error
        if whole is None:
            return None
        self._count += 1
        name = f"<console {self._count}>"
        # So that tracebacks can show the line.
        lines = [f"{line}\n" for line in source.splitlines()]
        linecache.cache[name] = (len(source), None, lines, name)
        # Interactive: the value of every expression is shown, not only the last one's.
        tree = ast.Interactive(ast.parse(source, name).body)
        return Statement(source, name, compile(tree, name, "single"))

    def run(self, statement: Statement, write: Write) -> bool:
        """Run a statement on this thread. Returns whether it went through.

        ``SystemExit`` ends the statement and nothing else.
        """
        streams = (_Stream(Kind.OUTPUT, write, sys.stdout), _Stream(Kind.ERROR, write, sys.stderr))
        show = _Show(self.namespace, write, sys.displayhook)
        with self._lock:
            self._thread = threading.get_ident()
        before = sys.stdout, sys.stderr, sys.stdin, sys.displayhook
        try:
            sys.stdout, sys.stderr, sys.displayhook = *streams, show
            sys.stdin = _NoInput(before[2])
            try:
                exec(statement.code, self.namespace)
                return True
            except SystemExit:
                write("The console stays open. Close its dock, or the window.\n", Kind.NOTE)
            except KeyboardInterrupt:
                write("Interrupted\n", Kind.ERROR)
            except BaseException as error:
                write(_told(error), Kind.ERROR)
            finally:
                self._settle()
        except KeyboardInterrupt:
            # It came just as the statement ended.
            self._settle()
            write("Interrupted\n", Kind.ERROR)
        finally:
            sys.stdout, sys.stderr, sys.stdin, sys.displayhook = before
        return False

    def interrupt(self) -> bool:
        """Raise ``KeyboardInterrupt`` in the statement that runs, at its next step in Python.

        A single call into compiled code ends first. Returns whether a statement was running.
        """
        with self._lock:
            if self._thread is None:
                return False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread), ctypes.py_object(KeyboardInterrupt)
            )
            return True

    def _settle(self) -> None:
        """From here on nothing is interrupted, and an interrupt on its way is dropped."""
        while True:
            try:
                with self._lock:
                    self._thread = None
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(threading.get_ident()), None
                )
                return
            except KeyboardInterrupt:
                continue


def _told(error: BaseException) -> str:
    """A traceback that begins with what the person has typed."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<console"):
        trace = trace.tb_next
    told = "".join(traceback.format_exception(type(error), error, trace))
    # Frames would keep everything that was at hand for as long as the error is kept.
    error.__traceback__ = None
    return told


class _Stream(io.TextIOBase):
    """Takes what one thread prints; others print where they always did."""

    def __init__(self, kind: Kind, write: Write, before: TextIO) -> None:
        super().__init__()
        self._kind, self._write, self._before = kind, write, before
        self._thread = threading.get_ident()
        self._room = MAX_OUTPUT

    def write(self, text: str) -> int:
        """Pass the text on, up to a limit."""
        if threading.get_ident() != self._thread:
            return self._before.write(text) if self._before is not None else len(text)
        if self._room > 0:
            self._write(text[: self._room], self._kind)
            self._room -= len(text)
            if self._room <= 0:
                self._write("\n… the rest of the output is left out\n", Kind.NOTE)
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True


class _NoInput(io.TextIOBase):
    """There is nobody at the keyboard of a statement: ``input()`` meets the end at once."""

    def __init__(self, before: Optional[TextIO]) -> None:
        super().__init__()
        self._before = before
        self._thread = threading.get_ident()

    def readline(self, _size: Optional[int] = -1) -> Any:
        """The end; to other threads what there was. A text: that files of bytes have the same base
        class is why the return type cannot say so."""
        if threading.get_ident() != self._thread and self._before is not None:
            return self._before.readline()
        return ""

    def readable(self) -> bool:
        """It is."""
        return True


class _Show:
    """Shows the value of an expression, and keeps it as ``_``."""

    def __init__(
        self, namespace: dict[str, Any], write: Write, before: Callable[[object], object]
    ) -> None:
        self._namespace, self._write, self._before = namespace, write, before
        self._thread = threading.get_ident()

    def __call__(self, value: object) -> None:
        if threading.get_ident() != self._thread:
            self._before(value)
            return
        if value is None:
            return
        self._namespace["_"] = value
        text = repr(value)
        if len(text) > MAX_VALUE:
            text = f"{text[:MAX_VALUE]} … ({len(text):,} characters)"
        self._write(f"{text}\n", Kind.VALUE)

"""Python scripts that do over what was done in the window: values as source, and calls in order.

    script = ScriptWriter("Load model")
    script.assign("model", script.call(ModelConfig, "demo"))
    print(script.text())

Whatever a script needs is written into it: where a value comes from is imported, and values are
written so that reading them gives the same value again. Knows neither Qt nor torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from pydantic import BaseModel

from attention_studio import __version__
from attention_studio.utils.errors import StudioError

WIDTH = 96
"""Lines are broken where they would be longer."""
MAX_ITEMS = 20_000
"""Of one list: more belong into a file."""
_ROOM = "attention_studio"
_WINDOW = f"{_ROOM}.ui"
"""Scripts run where no window can be shown, so they use nothing from there unasked."""


class ScriptError(StudioError):
    """Something cannot be written as a script."""


class ScriptWriter:
    """A script as it is written: imports are gathered, lines come one after the other.

    Args:
        title: what it does, as its first line says it.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._imports: dict[str, set[str]] = {}
        self._lines: list[str] = []
        self._assigned: set[str] = set()
        self._work = False

    # -- values -------------------------------------------------------------------------------

    @property
    def imports(self) -> tuple[tuple[str, str], ...]:
        """Everything that is imported: module and name."""
        return tuple((m, name) for m, names in self._imports.items() for name in sorted(names))

    def use(self, module: str, name: str, *, work: bool = False) -> str:
        """Import ``name`` from a module, and return it.

        Args:
            module, name: where it is, and what it is called.
            work: whether it may come from the window's room, as what lanes run does.

        Raises:
            ScriptError: it comes from the window, or from no module that a script could import.
        """
        window = module == _WINDOW or module.startswith(f"{_WINDOW}.")
        if (window and not work) or module == "__main__" or not name.isidentifier():
            raise ScriptError(f"{name} cannot be used in a script", "it belongs to the window", "")
        self._imports.setdefault(module, set()).add(name)
        return name

    def value(self, value: Any, *, work: bool = False) -> str:
        """Return ``value`` as source that gives an equal value, and import what that needs.

        Knows plain values, paths, enums, tuples, lists, mappings, sets, numpy's numbers, frozen
        records and pydantic's; of records only what differs from the defaults is written.

        ``work`` is as in ``use``.

        Raises:
            ScriptError: it is none of these, or has too many parts.
        """
        before, self._work = self._work, work or self._work
        try:
            return self._value(value)
        finally:
            self._work = before

    def _value(self, value: Any) -> str:
        if isinstance(value, Enum):
            return f"{self._class(type(value))}.{value.name}"
        if isinstance(value, np.generic):
            return self.value(value.item())
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, PurePath):
            return f"{self.use('pathlib', 'Path')}({str(value)!r})"
        if isinstance(value, Mapping):
            self._check_size(value)
            pairs = [f"{self.value(key)}: {self.value(one)}" for key, one in value.items()]
            return _folded("{", pairs, "}")
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
            return self.call(type(value), *value)
        if isinstance(value, (tuple, list, set, frozenset)):
            return self._sequence(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._record(value)
        if isinstance(value, BaseModel):
            changed = {
                name: getattr(value, name)
                for name, field in type(value).model_fields.items()
                if getattr(value, name) != field.get_default(call_default_factory=True)
            }
            return self.call(type(value), **changed)
        raise ScriptError(
            f"A {type(value).__name__} cannot be written into a script", "it has no source form", ""
        )

    def call(self, made: Any, *arguments: Any, **named: Any) -> str:
        """Return a call of a class or function, which is imported, with these values."""
        parts = [self.value(one) for one in arguments]
        parts += [f"{name}={self.value(one)}" for name, one in named.items()]
        return _folded(f"{self._class(made)}(", parts, ")")

    def _class(self, made: Any) -> str:
        if "<" in made.__qualname__:
            raise ScriptError(f"{made.__name__} cannot be used in a script", "it has no place", "")
        outer = str(made.__qualname__).split(".")[0]
        self.use(str(made.__module__), outer, work=self._work)
        return str(made.__qualname__)

    def _record(self, value: Any) -> str:
        parts: list[str] = []
        for field in dataclasses.fields(value):
            now = getattr(value, field.name)
            if not field.init:
                continue
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required or now != _default(field):
                parts.append(f"{field.name}={self.value(now)}")
        return _folded(f"{self._class(type(value))}(", parts, ")")

    def _sequence(self, value: Any) -> str:
        self._check_size(value)
        ordered = isinstance(value, (tuple, list))
        parts = [self.value(one) for one in (value if ordered else sorted(value, key=repr))]
        if isinstance(value, tuple):
            return f"({parts[0]},)" if len(parts) == 1 else _folded("(", parts, ")")
        if isinstance(value, list):
            return _folded("[", parts, "]")
        name = "frozenset" if isinstance(value, frozenset) else "set"
        return _folded(f"{name}([", parts, "])") if parts else f"{name}()"

    @staticmethod
    def _check_size(value: Any) -> None:
        if len(value) > MAX_ITEMS:
            raise ScriptError(
                f"A list of {len(value):,} things is too long for a script",
                f"at most {MAX_ITEMS:,} are written out",
                "save it to a file, and let the script read that",
            )

    # -- lines --------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether something of that name has been made in the script."""
        return name in self._assigned

    def assign(self, name: str, source: str) -> None:
        """Write ``name = source``."""
        self._assigned.add(name)
        self.line(f"{name} = {source}")

    def line(self, source: str = "") -> None:
        """Write a line (or several) as it is."""
        self._lines.append(source)

    def note(self, text: str) -> None:
        """Write a comment."""
        self._lines += [f"# {line}" for line in text.splitlines()]

    def text(self) -> str:
        """Return the whole script."""
        title = self._title.replace("\\", "\\\\").replace('"""', "'''").rstrip(".")
        head = [
            f'"""{title}.',
            "",
            f"Copied from AttentionStudio {__version__}; runs in a Python that has it installed.",
            '"""',
            "",
        ]
        standard = [module for module in self._imports if not module.startswith(_ROOM)]
        ours = [module for module in self._imports if module.startswith(_ROOM)]
        blocks = ["\n".join(self._from(m) for m in sorted(group)) for group in (standard, ours)]
        imports = "\n\n".join(block for block in blocks if block)
        body = "\n".join(self._lines).strip("\n")
        parts = ["\n".join(head), *((imports, "") if imports else ()), body]
        return "\n".join(parts) + "\n"

    def _from(self, module: str) -> str:
        names = sorted(self._imports[module])
        plain = f"from {module} import {', '.join(names)}"
        if len(plain) <= WIDTH:
            return plain
        return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _folded(opening: str, parts: Iterable[str], closing: str) -> str:
    """Parts in one line, or each on its own where that would be too long."""
    listed = list(parts)
    plain = f"{opening}{', '.join(listed)}{closing}"
    if len(plain) <= WIDTH and "\n" not in plain:
        return plain
    inner = "".join(f"    {part},\n".replace("\n", "\n    ").rstrip(" ") for part in listed)
    return f"{opening}\n{inner}{closing}"


def path_source(script: ScriptWriter, path: Path) -> str:
    """Return a path as source: of what comes with the package by name, else in full."""
    from attention_studio.utils.paths import BUILT_IN_CRMS

    for name, folder in BUILT_IN_CRMS.items():
        if path == folder:
            return f"{script.use('attention_studio.utils.paths', 'BUILT_IN_CRMS')}[{name!r}]"
    return script.value(path)

#!/usr/bin/env python3
"""Writes docs/reference.md: every command, every shortcut and every setting, from the code.

python scripts/make_reference.py            write the page
python scripts/make_reference.py --check    say whether it is up to date, and how to renew it
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from pydantic_core import PydanticUndefined

from attention_studio.ui.command import MENUS, Command
from attention_studio.ui.command_table import COMMANDS
from attention_studio.ui.dock_table import DOCKS
from attention_studio.ui.figures.palettes import PALETTES
from attention_studio.ui.figures.style import PRESETS
from attention_studio.utils.config import Settings, environment_names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
_NO_MENU = "Elsewhere"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(cell(text) for text in row)} |" for row in rows)]


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def keys(shortcut: str) -> str:
    """Keys as a reader knows them."""
    return f"`{shortcut}`" if shortcut else ""


def commands() -> list[str]:
    """Every command, menu by menu."""
    lines = ["## Commands", "", "All of them are found by name in the command palette "
             "(`Ctrl+Shift+P`). On a Mac, `Ctrl` is the Command key."]  # fmt: skip
    for menu in (*MENUS, _NO_MENU):
        found = [one for one in COMMANDS if (one.menu.partition("/")[0] or _NO_MENU) == menu]
        if found:
            lines += ["", f"### {menu}", ""]
            lines += table(
                ("Command", "Keys", "What it does", "Id"),
                [(one.text, keys(one.shortcut), one.help, f"`{one.id}`") for one in found],
            )
    return lines


def shortcuts() -> list[str]:
    """Every shortcut, in the order of its keys."""
    found: list[Command] = [one for one in COMMANDS if one.shortcut]
    found.sort(key=lambda one: (one.shortcut.count("+"), one.shortcut))
    rows = [(keys(one.shortcut), one.text) for one in found]
    return ["## Shortcuts", "", *table(("Keys", "Command"), rows)]


def docks() -> list[str]:
    """Every dock, and what it says of itself."""
    rows = []
    for dock in DOCKS:
        told = " ".join((dock.kind.__doc__ or "").split()).split(". ")[0].rstrip(".")
        rows.append((dock.kind.TITLE, keys(dock.shortcut), f"{told}."))
    return ["## Docks", "", *table(("Dock", "Keys that go there", "What it is"), rows)]


def settings() -> list[str]:
    """Every setting of the machine."""
    lines = ["## Settings", "", "From the environment, or from a file `.env` in the folder where "
             "the studio is started. The first name that is set counts.", ""]  # fmt: skip
    rows = []
    for name, field in Settings.model_fields.items():
        names = ", ".join(f"`{one}`" for one in environment_names(name))
        rows.append((names, default(field), field.description or ""))
    return [*lines, *table(("Name", "Default", "What it does"), rows)]


def default(field: Any) -> str:
    """A setting's default for readers; folders depend on the machine."""
    if field.default_factory is not None:
        return "the system's own folder"
    if field.default is PydanticUndefined or field.default is None:
        return "none"
    return f"`{field.default}`"


def figures() -> list[str]:
    """What figures can look like."""
    lines = ["## Figures", "", "Presets of the Figures dock:", ""]
    lines += table(
        ("Preset", "Width", "Text", "PNG", "For"),
        [
            (
                one.text,
                f"{one.style.width_mm:g} mm",
                f"{one.style.font_pt:g} pt",
                f"{one.style.dpi} dots an inch",
                one.help.partition(": ")[2],
            )
            for one in PRESETS
        ],
    )
    lines += ["", "Colours:", ""]
    return [*lines, *table(("Palette", "What for"), [(one.text, one.help) for one in PALETTES])]


def page() -> str:
    """The whole page."""
    head = ["# Reference", "", "Made by `scripts/make_reference.py` from the code; do not edit it "
            "by hand."]  # fmt: skip
    parts = (head, commands(), shortcuts(), docks(), settings(), figures())
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it is stale")
    arguments = parser.parse_args()
    wanted = page()
    there = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if not arguments.check:
        PAGE.write_text(wanted, encoding="utf-8")
        print(PAGE)
        return 0
    if there == wanted:
        return 0
    lines = difflib.unified_diff(there.splitlines(), wanted.splitlines(), "docs/reference.md",
                                 "the code", lineterm="", n=0)  # fmt: skip
    print("\n".join(list(lines)[:40]))
    print("docs/reference.md is stale. Renew it: python scripts/make_reference.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""What a command is, and in which menus commands lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from attention_studio.ui.when import always, nothing_hinders

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.ui.session import Session

MENUS = ("File", "Edit", "View", "Go", "Model", "Train", "Circuits", "Attention", "Help")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        id: stable name, ``"area.verb"``.
        text: what it is called everywhere.
        help: one sentence; tooltip and palette show it.
        handler: ``"target.method"``, resolved when it is run.
        menu: one of ``MENUS``, one below it (``"Circuits/Nodes"``), or "" for none.
        shortcut: portable text such as ``"Ctrl+O"``.
        when: whether it makes sense now.
        icon: a name in ``ui.icons``.
        toolbar: whether it has a place in the toolbar.
        separator: whether a line is drawn above it in its menu and before it in the toolbar.
        hindered: why it must wait although it would make sense, or "".
        checkable: whether it switches something on and off, which a check mark shows.
        argument: what the handler is called with; None: with nothing.
        shown: whether it is there from the beginning; if not, ``Commands.rename`` brings it up.
    """

    id: str
    text: str
    help: str
    handler: str
    menu: str = ""
    shortcut: str = ""
    when: Callable[[Session], bool] = always
    icon: str = ""
    toolbar: bool = False
    separator: bool = False
    hindered: Callable[[Session], str] = nothing_hinders
    checkable: bool = False
    argument: Optional[int] = None
    shown: bool = True

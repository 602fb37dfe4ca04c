"""What lies above the docks: menus, tools and messages, made from the table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QMainWindow,
    QMenu,
    QMenuBar,
    QSizePolicy,
    QToolBar,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.command import MENUS

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.widgets.message_bar import MessageBar

_RIGHT = ("palette.show", "theme.toggle")


class WindowHead(QWidget):
    """Menus, tools and messages in one column.

    As the window's menu widget it gets the height that a message of several lines needs, and gives
    it back afterwards.
    """

    def __init__(self, window: QMainWindow, commands: Commands, messages: MessageBar) -> None:
        super().__init__(window)
        self.setObjectName("head")
        self._commands = commands
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._make_menus(window))
        column.addWidget(self._make_tools())
        column.addWidget(messages)

    def _make_menus(self, window: QMainWindow) -> QMenuBar:
        bar = QMenuBar()
        bar.setObjectName("menuBar")
        bar.setAccessibleName("Menus")
        menus: dict[str, QMenu] = {}
        for name in MENUS:
            menu = bar.addMenu(f"&{name}")
            menu.setObjectName(f"menu.{name}")
            menu.setToolTipsVisible(True)
            menus[name] = menu
        for command in self._commands.table:
            action = self._commands.action(command.id)
            # Shortcuts work whether or not the command has a place in a menu.
            window.addAction(action)
            if command.menu:
                menu = self._menu(menus, command.menu)
                if command.separator:
                    menu.addSeparator()
                menu.addAction(action)
        return bar

    @staticmethod
    def _menu(menus: dict[str, QMenu], path: str) -> QMenu:
        """The menu of a path such as ``"Circuits/Nodes"``, made where its first command is."""
        if path not in menus:
            above, _, name = path.rpartition("/")
            menu = menus[above].addMenu(name)
            menu.setObjectName(f"menu.{path}")
            menu.setToolTipsVisible(True)
            menus[path] = menu
        return menus[path]

    def _make_tools(self) -> QToolBar:
        toolbar = QToolBar("Tools")
        toolbar.setObjectName("toolbar")
        toolbar.setAccessibleName("Tools")
        toolbar.setMovable(False)
        toolbar.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        toolbar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        for command in self._commands.table:
            if not command.toolbar:
                continue
            if command.separator:
                toolbar.addSeparator()
            self._add_tool(toolbar, command.id)
        spring = QWidget()
        spring.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        toolbar.addWidget(spring)
        for command_id in _RIGHT:
            button = self._add_tool(toolbar, command_id)
            button.setProperty("toolButtonStyle", Qt.ToolButtonStyle.ToolButtonIconOnly)
        return toolbar

    def _add_tool(self, toolbar: QToolBar, command_id: str) -> QWidget:
        action: QAction = self._commands.action(command_id)
        toolbar.addAction(action)
        button = toolbar.widgetForAction(action)
        button.setObjectName(f"tool.{command_id}")
        button.setAccessibleName(self._commands.command(command_id).text.rstrip("…"))
        button.setAccessibleDescription(action.statusTip())
        if isinstance(button, QToolButton):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        return button

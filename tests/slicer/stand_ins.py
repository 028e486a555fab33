"""Stand-ins for what only the application has, over real Qt (PySide6): PythonQt's manners, MRML widgets, base classes.

With them the module's own file runs as it is, with its own .ui file, against real MRML.
"""

# ruff: noqa: N801, N802, N815 - Slicer's and Qt's names
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from conftest import MODULE_FOLDER

QtCore = pytest.importorskip("PySide6.QtCore", reason="PySide6 is not installed (pip install PySide6)")
from PySide6 import QtUiTools, QtWidgets  # noqa: E402


class ctkCollapsibleButton(QtWidgets.QGroupBox):
    """A section with a title. Collapsed, it shows the title alone."""

    def _get_text(self) -> str:
        return self.title()

    def _set_text(self, text: str) -> None:
        self.setTitle(text)

    def _get_collapsed(self) -> bool:
        return getattr(self, "_is_collapsed", False)

    def _set_collapsed(self, collapsed: bool) -> None:
        self._is_collapsed = collapsed

    text = QtCore.Property(str, _get_text, _set_text)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def fold(self) -> None:
        """Hide or show what is inside."""
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly):
            child.setVisible(not self._get_collapsed())


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider beside a number."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.slider.setRange(0, 10000)
        self.box = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.slider)
        layout.addWidget(self.box)
        self.box.valueChanged.connect(self._moved)
        self.slider.sliderMoved.connect(lambda place: self.box.setValue(place / 10000 * self.box.maximum()))

    def _moved(self, value: float) -> None:
        self.slider.setValue(round(10000 * value / self.box.maximum()))
        self.valueChanged.emit(value)

    minimum = QtCore.Property(float, lambda self: self.box.minimum(), lambda self, value: self.box.setMinimum(value))
    maximum = QtCore.Property(float, lambda self: self.box.maximum(), lambda self, value: self.box.setMaximum(value))
    singleStep = QtCore.Property(float, lambda self: self.box.singleStep(), lambda self, value: self.box.setSingleStep(value))
    decimals = QtCore.Property(int, lambda self: self.box.decimals(), lambda self, value: self.box.setDecimals(value))
    value = QtCore.Property(float, lambda self: self.box.value(), lambda self, value: self.box.setValue(value))


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Chooses a node by name."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._types: list[str] = []
        self._flags: dict[str, bool] = {}

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if node is self._node:
            return
        self._node = node
        self.clear()
        self.addItem(node.GetName() if node is not None else "None")
        self.currentNodeChanged.emit(node)

    def setMRMLScene(self, scene: Any) -> None:
        self.scene = scene

    def _get_types(self) -> list[str]:
        return self._types

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)

    nodeTypes = QtCore.Property("QStringList", _get_types, _set_types)


def _add_flag(name: str) -> Any:
    return QtCore.Property(
        bool, lambda self: self._flags.get(name, True), lambda self, value: self._flags.update({name: value})
    )


class qMRMLNodeSelector(qMRMLNodeComboBox):
    """With the flags that the .ui file sets."""

    showChildNodeTypes = _add_flag("showChildNodeTypes")
    noneEnabled = _add_flag("noneEnabled")
    addEnabled = _add_flag("addEnabled")
    removeEnabled = _add_flag("removeEnabled")
    renameEnabled = _add_flag("renameEnabled")


class qMRMLWidget(QtWidgets.QWidget):
    """The panel's root."""

    def setMRMLScene(self, scene: Any) -> None:
        for selector in self.findChildren(qMRMLNodeComboBox):
            selector.setMRMLScene(scene)


class Loader(QtUiTools.QUiLoader):
    """Reads a .ui file; knows the application's widgets by name."""

    known: dict[str, type] = {  # noqa: RUF012 - never changed
        "ctkCollapsibleButton": ctkCollapsibleButton,
        "ctkSliderWidget": ctkSliderWidget,
        "qMRMLNodeComboBox": qMRMLNodeSelector,
        "qMRMLWidget": qMRMLWidget,
    }

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name not in self.known:
            return super().createWidget(class_name, parent, name)
        widget = self.known[class_name](parent)
        widget.setObjectName(name)
        return widget


def find_application() -> Any:
    """The Qt application, made without a screen."""
    import os

    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])


def load_panel(path: Path = MODULE_FOLDER / "Resources" / "UI" / "AAClipMed.ui") -> Any:
    """The panel of a .ui file."""
    find_application()
    loader = Loader()
    panel = loader.load(str(path), None)
    assert panel is not None, loader.errorString()
    return panel


class PythonQtManners:
    """A Qt object as PythonQt shows it: properties are attributes, ``connect`` takes a signature, signals must exist."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "target", target)

    def __getattr__(self, name: str) -> Any:
        target = object.__getattribute__(self, "target")
        if target.metaObject().indexOfProperty(name) >= 0:
            return target.property(name)
        return getattr(target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        target = object.__getattribute__(self, "target")
        assert target.metaObject().indexOfProperty(name) >= 0, f"{target.objectName()} has no property {name}"
        target.setProperty(name, value)
        if name == "collapsed":
            target.fold()

    def connect(self, signature: str, slot: Callable[..., Any]) -> None:
        target = object.__getattribute__(self, "target")
        name = signature.split("(")[0]
        signal = getattr(target, name, None)
        assert isinstance(signal, QtCore.SignalInstance), f"{target.objectName()} has no signal {name}"
        signal.connect(slot)


class Timer(PythonQtManners):
    """qt.QTimer."""

    def __init__(self) -> None:
        super().__init__(QtCore.QTimer())


class Settings:
    """qt.QSettings, forgotten at the end."""

    values: dict[str, Any] = {}  # noqa: RUF012 - one for all, as the real one

    def value(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def setValue(self, name: str, value: Any) -> None:
        self.values[name] = value


class WithinRange:
    """A number's bounds."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


class Choice:
    """A text's choices."""

    def __init__(self, choices: list[str]) -> None:
        self.choices = choices


def parameterNodeWrapper(kind: type) -> type:
    """A class whose annotated attributes can be tied to widgets by ``SlicerParameterName``."""
    hints = get_type_hints(kind, include_extras=True)

    def start(self: Any, _node: Any = None) -> None:
        self.editors = {}
        for name in hints:
            object.__setattr__(self, f"_{name}", getattr(kind, name, None))

    def find(self: Any, name: str) -> Any:
        if name in hints:
            return object.__getattribute__(self, f"_{name}")
        raise AttributeError(name)

    def put(self: Any, name: str, value: Any) -> None:
        if name not in hints:
            object.__setattr__(self, name, value)
            return
        for extra in get_args(hints[name])[1:]:
            if isinstance(extra, WithinRange):
                assert extra.minimum <= value <= extra.maximum
            elif isinstance(extra, Choice):
                assert value in extra.choices
        object.__setattr__(self, f"_{name}", value)
        if name in self.editors:
            self.editors[name](value)

    def connectGui(self: Any, ui: Any) -> str:
        tied = set()
        for widget in vars(ui).values():
            name = widget.target.property("SlicerParameterName")
            if name:
                assert name in hints, f"{widget.target.objectName()} names the unknown parameter {name}"
                tie(self, name, widget.target, hints[name])
                tied.add(name)
        assert tied == set(hints), f"parameters without a widget: {set(hints) - tied}"
        return "connection"

    defaults = {name: getattr(kind, name, None) for name in hints}
    made = type(kind.__name__, (), {"__init__": start, "__getattr__": find, "__setattr__": put, "connectGui": connectGui})
    made.disconnectGui = lambda self, _connection: self.editors.clear()
    assert defaults
    return made


def tie(node: Any, name: str, widget: Any, hint: Any) -> None:
    """Tie one widget to one parameter, both ways, as the application's connectors do."""

    def write(value: Any) -> None:
        object.__setattr__(node, f"_{name}", value)

    value = getattr(node, name)
    if isinstance(widget, qMRMLNodeComboBox):
        show, changed = widget.setCurrentNode, widget.currentNodeChanged
    elif isinstance(widget, QtWidgets.QComboBox):
        choices = next(extra.choices for extra in get_args(hint)[1:] if isinstance(extra, Choice))
        widget.clear()
        widget.addItems(choices)
        show, changed = widget.setCurrentText, widget.currentTextChanged
    elif isinstance(widget, QtWidgets.QCheckBox):
        show, changed = widget.setChecked, widget.toggled
    elif isinstance(widget, QtWidgets.QLineEdit):
        show, changed = widget.setText, widget.textChanged
    elif isinstance(widget, ctkSliderWidget):
        assert any(isinstance(extra, WithinRange) for extra in get_args(hint)[1:]), "a slider needs bounds"
        show, changed = widget.box.setValue, widget.valueChanged
    else:
        assert isinstance(widget, QtWidgets.QSpinBox | QtWidgets.QDoubleSpinBox)
        show, changed = widget.setValue, widget.valueChanged
    show(value)
    changed.connect(write)
    node.editors[name] = show


class ScriptedLoadableModule:
    """The base class of modules."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """The base class of panels."""

    def __init__(self, _parent: Any = None) -> None:
        find_application()
        self.parent = SimpleNamespace(isEntered=True)
        self.window = QtWidgets.QWidget()
        self.layout = QtWidgets.QVBoxLayout(self.window)

    def setup(self) -> None:
        """Nothing more."""

    def resourcePath(self, name: str) -> str:
        return str(MODULE_FOLDER / "Resources" / name)


class ScriptedLoadableModuleLogic:
    """The base class of logics. The parameter node is one a scene."""

    def getParameterNode(self) -> Any:
        return None


class ScriptedLoadableModuleTest:
    """The base class of self-tests."""

    def __init__(self) -> None:
        import unittest

        self.shown: list[str] = []
        case = unittest.TestCase()
        self.assertEqual, self.assertAlmostEqual = case.assertEqual, case.assertAlmostEqual

    def delayDisplay(self, text: str) -> None:
        self.shown.append(text)


def install(monkeypatch: pytest.MonkeyPatch, scene: Any) -> SimpleNamespace:
    """Put everything in place; returns what the person would see and answer: ``errors``, ``questions``, ``answer``."""
    import slicer

    person = SimpleNamespace(errors=[], questions=[], answer=True, modules=[])
    qt = ModuleType("qt")
    qt.QTimer, qt.QSettings, qt.QTableWidgetItem = Timer, Settings, QtWidgets.QTableWidgetItem
    Settings.values.clear()
    bases = ModuleType("slicer.ScriptedLoadableModule")
    for kind in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest):
        setattr(bases, kind.__name__, kind)
    words = ModuleType("slicer.i18n")
    words.tr, words.translate = lambda text: text, lambda _context, text: text
    wrapper = ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper, wrapper.Choice, wrapper.WithinRange = parameterNodeWrapper, Choice, WithinRange
    for module in (qt, bases, words, wrapper):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def loadUI(path: str) -> Any:
        return load_panel(Path(path))

    def childWidgetVariables(panel: Any) -> Any:
        widgets = panel.findChildren(QtWidgets.QWidget)
        return SimpleNamespace(**{one.objectName(): PythonQtManners(one) for one in widgets if one.objectName().isidentifier()})

    @contextmanager
    def tryWithErrorDisplay(message: str = "", **_options: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as the application
            person.errors.append(f"{message} {error}")

    def confirm(text: str, **_options: Any) -> bool:
        person.questions.append(text)
        return person.answer

    layers = slicer.util.setSliceViewerLayers

    def setSliceViewerLayers(fit: bool = False, **names: Any) -> None:
        del fit  # needs the application's layout
        layers(**names)

    for name, function in {
        "loadUI": loadUI,
        "childWidgetVariables": childWidgetVariables,
        "tryWithErrorDisplay": tryWithErrorDisplay,
        "confirmOkCancelDisplay": confirm,
        "errorDisplay": lambda text, **_options: person.errors.append(text),
        "selectModule": person.modules.append,
        "setSliceViewerLayers": setSliceViewerLayers,
    }.items():
        monkeypatch.setattr(slicer.util, name, function)
    monkeypatch.setattr(slicer, "app", SimpleNamespace(processEvents=find_application().processEvents), raising=False)
    assert scene is slicer.mrmlScene
    return person

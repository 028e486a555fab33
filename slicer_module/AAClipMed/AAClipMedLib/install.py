"""Packages for a Python: only on request, from the network or from a folder of wheels, replacing nothing that is there."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .process import explain_exit
from .runner import LocalWork
from .work import WorkError

PACKAGE = "aaclip-med"
MODULES = {"torch": "torch", PACKAGE: "aaclip_med"}
KEPT = ("numpy", "SimpleITK", "torch", "torchvision", "vtk", "requests")
"""Never replaced: Slicer and other extensions rely on the versions that are there."""

_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def list_missing() -> list[str]:
    """What Slicer's own Python lacks; looks without importing."""
    return [name for name, module in MODULES.items() if find_spec(module) is None]


class Installation(LocalWork):
    """pip in a child process. wheels: a folder of wheels, then no network is used; or None. source: what is installed."""

    def __init__(self, python: str, is_own: bool, wheels: str | None = None, source: str = PACKAGE) -> None:
        super().__init__(python, is_own)
        self.wheels = wheels
        self.source = source

    def do(self) -> dict[str, str]:
        """Install; returns the kept packages' versions."""
        self.tell(0.05, "looking at what is there")
        before = self._read_versions()
        with tempfile.TemporaryDirectory(prefix="aaclip_med_", ignore_cleanup_errors=True) as name:
            constraints = Path(name) / "constraints.txt"
            constraints.write_text(write_constraints(before), encoding="utf-8")
            self.tell(0.1, "installing")
            child = self.run_python(list_arguments(self.source, constraints, self.wheels), self._hear)
            if child.process.returncode != 0:
                raise WorkError(f"the installation failed. {explain_pip(child.complaints, child.process.returncode)}")
        after = self._read_versions()
        changed = [name for name, version in before.items() if after.get(name) != version]
        if changed:
            raise WorkError(f"pip replaced {', '.join(changed)} against the constraints; restart Slicer, or install it again")
        return after

    def _read_versions(self) -> dict[str, str]:
        said: list[str] = []
        child = self.run_python(["-c", _VERSIONS, *KEPT], said.append)
        if child.process.returncode != 0 or not said:
            raise WorkError(explain_exit(child.process.returncode, child.complaints))
        found: dict[str, str] = json.loads(said[-1])
        return found

    def _hear(self, line: str) -> None:
        self.log(line)
        self.tell(min(self.share + 0.01, 0.95), line[:80])


def write_constraints(versions: dict[str, str]) -> str:
    """Pip's constraints that keep these versions."""
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def list_arguments(source: str, constraints: Path, wheels: str | None) -> list[str]:
    """The Python's arguments for pip."""
    offline = ["--no-index", "--find-links", wheels] if wheels else []
    plain = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    return ["-m", "pip", "install", *plain, "--constraint", str(constraints), *offline, source]


def explain_pip(complaints: list[str], code: int) -> str:
    """Pip's failure in words."""
    errors = [line for line in complaints if line.startswith("ERROR")]
    text = " ".join(errors[:2]) or explain_exit(code, complaints)
    if "No matching distribution" in text or "Could not find a version" in text:
        return f"{text} Without a network, give a folder that holds every wheel under Advanced."
    if "conflict" in text.lower():
        return f"{text} A package would have to be replaced that Slicer needs; use another Python or a server under Advanced."
    return text

"""The self-check: what is there, what is missing, and what to do about each."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

from .jobs import Settings
from .process import explain_exit
from .remote import Server, explain_status
from .runner import LocalWork
from .work import Work

OLDEST_PYTHON = (3, 10)
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. advice: what to do, empty where all is well."""

    name: str
    state: Literal["good", "note", "bad"]
    found: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {"good": "OK", "note": "NOTE", "bad": "MISSING"}[self.state]
        return f"[{mark}] {self.name}: {self.found}" + (f" -> {self.advice}" if self.advice else "")


# Runs in the Python that is checked. Each fact is one JSON line; a crash in one leaves those before it.
_PROBE = """
import json, os, sys
from importlib.metadata import PackageNotFoundError, version
def say(**facts):
    print(json.dumps(facts), flush=True)
say(python=list(sys.version_info[:3]), executable=sys.executable)
for name in ("torch", "torchvision", "numpy", "SimpleITK", "monai", "open_clip_torch", "aaclip-med"):
    try:
        say(package=name, version=version(name))
    except PackageNotFoundError:
        say(package=name, version=None)
try:
    import torch
    about = {"built_for_cuda": torch.version.cuda, "cuda": torch.cuda.is_available()}
    about["mps"] = bool(getattr(torch.backends, "mps", None) and torch.backends.mps.is_available())
    if about["cuda"]:
        about["gpu"] = torch.cuda.get_device_name(0)
        about["free_gib"] = round(torch.cuda.mem_get_info(0)[0] / 2**30, 1)
    say(torch=about)
except Exception as error:
    say(torch_error=f"{type(error).__name__}: {error}"[:300])
os.environ["HF_HUB_OFFLINE"] = "1"
try:
    from aaclip_med.errors import AaclipError
    from aaclip_med.inference.predictor import load_predictor
    try:
        asked = json.loads(sys.argv[1])
        one = load_predictor(asked["adapters"], asked["preset"], asked["backbone"], asked["weights"], device="cpu")
        say(model=one.note)
    except AaclipError as error:
        say(model_error=str(error))
except Exception as error:
    say(package_error=f"{type(error).__name__}: {error}"[:300])
"""


class LocalCheck(LocalWork):
    """Looks at a Python of this computer: version, packages, GPU and driver, and whether the model can be loaded offline."""

    def __init__(self, python: str, is_own: bool, settings: Settings) -> None:
        super().__init__(python, is_own)
        self.settings = settings

    def do(self) -> list[Finding]:
        """The findings, Python first."""
        facts: dict[str, Any] = {"packages": {}}
        asked = {name: getattr(self.settings, name) for name in ("adapters", "preset", "backbone", "weights")}
        self.tell(0.1, "looking at Python and its packages")
        child = self.run_python(["-c", _PROBE, json.dumps(asked)], lambda line: self._hear(line, facts))
        self.tell(0.9, "looking at the driver")
        facts["driver"] = read_driver()
        if child.process.returncode != 0:
            facts["ended"] = explain_exit(child.process.returncode, child.complaints)
        return judge(facts)

    def _hear(self, line: str, facts: dict[str, Any]) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if "package" in said:
            facts["packages"][said["package"]] = said["version"]
        else:
            facts.update(said)
        self.tell(0.5, "looking at torch and the model")


def read_driver() -> str | None:
    """The NVIDIA driver's version, or None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip().splitlines()[0] if told.stdout.strip() else None


def judge(facts: dict[str, Any]) -> list[Finding]:
    """What the facts of a Python mean."""
    if "python" not in facts:
        ended = facts.get("ended", "it said nothing")
        return [Finding("Python", "bad", ended, "choose another Python under Advanced")]
    version = ".".join(map(str, facts["python"]))
    recent = tuple(facts["python"][:2]) >= OLDEST_PYTHON
    findings = [
        Finding("Python", "good", f"{version} ({facts['executable']})")
        if recent
        else Finding("Python", "bad", version, "3.10 or newer is needed; choose another Python under Advanced")
    ]
    packages = facts["packages"]
    for name in ("torch", "aaclip-med"):
        if packages.get(name):
            findings.append(Finding(name, "good", str(packages[name])))
        else:
            how = "press Apply to install it; without a network, give a folder of wheels under Advanced"
            findings.append(Finding(name, "bad", "not installed", how))
    findings += _judge_torch(facts)
    if "model" in facts:
        findings.append(Finding("Weights", "good", f"adapters and tower load ({facts['model']})"))
    elif "model_error" in facts:
        fetch = "without a network, fetch them elsewhere and give the file under Advanced; with one, Apply fetches them"
        findings.append(Finding("Weights", "bad", facts["model_error"], fetch))
    elif "package_error" in facts and packages.get("aaclip-med"):
        findings.append(Finding("Package", "bad", facts["package_error"], "install it again: press Install under Advanced"))
    if "ended" in facts:
        findings.append(Finding("Python", "bad", facts["ended"], "the last line above says how far it came"))
    return findings


def _judge_torch(facts: dict[str, Any]) -> list[Finding]:
    if "torch_error" in facts:
        if not facts["packages"].get("torch"):
            return []
        advice = "install it again with the PyTorch extension's PyTorch Util module"
        return [Finding("torch", "bad", facts["torch_error"], advice)]
    about, driver = facts.get("torch"), facts.get("driver")
    if about is None:
        return []
    if about["cuda"]:
        found = f"{about['gpu']}, {about['free_gib']} GiB free, driver {driver or 'unknown'}"
        return [Finding("GPU", "good", found)]
    if about.get("mps"):
        return [Finding("GPU", "good", "Apple GPU")]
    if driver and about["built_for_cuda"] is None:
        found = f"driver {driver}, but this torch is built for the CPU alone"
        return [Finding("GPU", "note", found, "install torch for CUDA with the PyTorch extension's PyTorch Util module")]
    if driver:
        found = f"driver {driver} does not serve this torch, built for CUDA {about['built_for_cuda']}"
        return [Finding("GPU", "note", found, "bring the driver up to date, or install a torch for an older CUDA")]
    return [Finding("GPU", "note", "none; the CPU scores, slowly", "a stride of 2 or more, or a server, is quicker")]


class ServerCheck(Work):
    """Asks a server for its health, version and models."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    def do(self) -> list[Finding]:
        """The findings."""
        findings = []
        address = urlsplit(self.server.address)
        if self.server.token and address.scheme == "http" and address.hostname not in _LOCAL_HOSTS:
            findings.append(Finding("Connection", "note", "the token and the scan travel unencrypted", "use an https address"))
        for name, path in (("Server", "/v1/health"), ("Version", "/v1/version"), ("Models", "/v1/models")):
            self.tell(len(findings) / 4, f"asking the server: {name.lower()}")
            try:
                findings.append(Finding(name, "good", json.dumps(self.server.read_json(path))[:200]))
            except urllib.error.HTTPError as error:
                with error:
                    findings.append(Finding(name, "bad", explain_status(error), "see the server's log"))
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                advice = "is it started (aaclip-med serve), is the address right, does a firewall stand between?"
                return [*findings, Finding(name, "bad", f"{self.server.address} does not answer ({reason})", advice)]
            except ValueError:
                advice = "is another program at this address?"
                findings.append(Finding(name, "bad", "it does not answer with JSON", advice))
        return findings

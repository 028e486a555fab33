"""Where the bundle is, and whether the names given to it are names it has."""

from __future__ import annotations

import difflib
import inspect
from importlib.resources import files
from pathlib import Path

import yaml
from monai.bundle import ConfigWorkflow

from aaclip_med.errors import InputError

FOREIGN = {"_meta_", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0"}
"""Names that MONAI's tracking and federated learning set, whatever the bundle."""


def find_bundle() -> Path:
    """The bundle's folder: in the installed package, or beside it in a source checkout; in a packed bundle, that itself."""
    package = Path(str(files("aaclip_med")))
    places = (package / "bundles" / "aaclip_med", package.parent / "bundles" / "aaclip_med", package.parent)
    return next(place for place in places if (place / "configs").is_dir() or place == package.parent)


def find_workflow() -> ConfigWorkflow | None:
    """The workflow that an expression of a configuration is part of; MONAI tells nobody, so it is looked up on the stack."""
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigWorkflow):
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]


def check_names() -> None:
    """Refuse a top-level name that no configuration file of the bundle has; MONAI takes it in silence.

    A bundle's configuration calls it first. Names of one's own begin with an underscore. Without a workflow nothing is checked.

    Raises:
        InputError: a name is unknown.
    """
    workflow = find_workflow()
    if workflow is None:
        return
    known = set(FOREIGN)
    for path in sorted(Path(workflow.config_root_path).glob("*.yaml")):
        known |= set(yaml.safe_load(path.read_text(encoding="utf-8")))
    for name in sorted(set(workflow.parser.config) - known):
        if not name.startswith("_"):
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean '{close[0]}'?" if close else "names of your own begin with an underscore"
            raise InputError(f"the bundle has no setting '{name}'; {advice}")

#!/usr/bin/env bash
# Builds the sdist and, from it, the wheel; installs the wheel in a fresh environment and runs it away from the sources.
# Needs python3 (3.10 or newer) with venv, and the network for pip. The files go to FOLDER (default: a temporary one).
#   scripts/check_distributions.sh [FOLDER]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
out="${1:-$work/dist}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet build
"$work/venv/bin/python" -m build --outdir "$out" "$here" > /dev/null
ls "$out"
"$work/venv/bin/pip" install --quiet "$out"/aaclip_med-*.whl
cd "$work"
"$work/venv/bin/aaclip-med" --version
"$work/venv/bin/python" - <<'PROGRAM'
from importlib.resources import files

from aaclip_med.protocols.config import find_protocols
from aaclip_med.zoo.names import find_bundle

package = files("aaclip_med")
assert (package / "py.typed").is_file()
assert "zero_shot" in find_protocols()
assert (package / "demo_adapters" / "brain-mri.safetensors").is_file()
assert find_bundle().parent.name == "bundles" and (find_bundle() / "configs" / "train.yaml").is_file()
PROGRAM
"$work/venv/bin/aaclip-med" pack --adapters demo --preset brain-mri --out "$work/bundle"
echo "the distributions are good"

#!/usr/bin/env bash
# Serves a packed bundle with MONAI Label 0.8.5 in an environment of its own, and checks inference, training and geometry.
# Needs python3 (3.10 or newer) with venv, the network for pip, 8 GB of disk and about ten minutes. Not part of the tests.
#   scripts/check_monailabel.sh [FOLDER]     FOLDER keeps the environment and the server's log; default: a temporary one
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-$(mktemp -d)}"
mkdir -p "$folder"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off

if [ ! -x "$folder/venv/bin/monailabel" ]; then
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet "monailabel==0.8.5" "pydicom<3" "pynetdicom<3" "dicomweb-client<0.60"
fi
"$folder/venv/bin/pip" install --quiet "$here" "pydicom<3"
export PATH="$folder/venv/bin:$PATH"   # the program starts "python" by name
rm -rf "$folder/apps" "$folder/studies" "$folder/masks"
"$folder/venv/bin/monailabel" apps --download --name monaibundle --output "$folder/apps" > /dev/null
exec "$folder/venv/bin/python" "$here/scripts/check_monailabel.py" "$folder"

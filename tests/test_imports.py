"""What scoring does not wait for."""

from __future__ import annotations

import subprocess
import sys


def test_scoring_imports_no_trainer_no_figures_and_no_drawing():
    command = "import sys, aaclip_med.batch.run; print(*{name.partition('.')[0] for name in sys.modules}, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert {"torch", "open_clip"} <= set(done.stdout.split())
    assert not {"sklearn", "monai", "ignite", "matplotlib.axes", "tensorboard"} & set(done.stdout.split())

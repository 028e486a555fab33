"""Draws the pictures of docs/gallery.md from phantoms and the demonstration adapters: python scripts/make_gallery.py"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
from PIL import Image

from aaclip_med.cli.main import main as run_command
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.phantoms import PhantomSet, write_phantom_set
from aaclip_med.data.slices import cut_case
from aaclip_med.data.writing import prepare_output_folder, write_file
from aaclip_med.evaluation.run import evaluate_into
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.presets import PRESETS, get_preset
from aaclip_med.scoring.overview import OverviewCase, build_overview
from aaclip_med.training.montage import draw_montage, draw_tiles

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SEED = 20_260
"""Not the demonstration's, so that its adapters have seen none of these phantoms."""
SHOWN, TESTED, TILES = 3, 8, 6
COLOURS = 256
JUDGED = "brain-mri"
"""The preset whose evaluation is shown."""
PAGES = {"brain-mri": "report_desktop", "liver-ct": "report_phone"}
DEVICES: dict[str, Any] = {
    "report_desktop": {"viewport": {"width": 1360, "height": 860}},
    "report_phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}
"""The presets whose report pages are shown, and what shows them."""
FOOTER = "Drawn phantoms, demonstration adapters. Not for patients."


def main() -> None:
    """Every picture: of phantoms into ``gallery``, of the report page beside it, where a browser is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES, help="default docs/images")
    parser.add_argument("--report-only", action="store_true", help="the report page's pictures alone")
    options = parser.parse_args()
    gallery = prepare_output_folder(options.out / "gallery")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    with tempfile.TemporaryDirectory() as folder:
        for name in PRESETS:
            phantoms = write_phantom_set(Path(folder, name), name, 0, SHOWN, TESTED, SEED)
            if not options.report_only:
                draw_preset(name, phantoms, Path(folder, name), gallery)
            if browser is None:
                print("no Chromium on this machine: the report page's pictures are left as they are", file=sys.stderr)
            elif name in PAGES:
                report = score_preset(name, phantoms)
                write_file(options.out / f"{PAGES[name]}.png", partial(photograph, report, browser, PAGES[name]))


def draw_preset(name: str, phantoms: PhantomSet, work: Path, out: Path) -> None:
    """Heatmaps and synthetic lesions of one preset; of ``JUDGED`` the evaluation's pictures too."""
    preset, predictor = get_preset(name), load_predictor("demo", preset=name, device="cpu")
    cases = read_index(phantoms.test)
    chosen = [case for case in cases if case.label][:SHOWN] + [case for case in cases if not case.label][:1]
    rows = [show_case(case, predictor) for case in chosen]
    build_overview(rows, f"{preset.title} phantoms", f"{FOOTER} {predictor.note}", vmin=0.98).savefig(work / "heat.png")
    tiles = draw_tiles(read_index(phantoms.calibration), preset, TILES, SEED)
    draw_montage(work / "synthetic.png", tiles, f"{preset.title}: normal slices, and the same with synthetic lesions")
    for kind in ("heat", "synthetic"):
        keep(work / f"{kind}.png", out / f"{kind}_{name}.png")
    if name == JUDGED:
        evaluate_into(cases, predictor, work / "evaluation")
        for kind in ("curves", "montage"):
            keep(work / "evaluation" / f"{kind}.png", out / f"{kind}.png")


def score_preset(name: str, phantoms: PhantomSet) -> Path:
    """The report of the test phantoms and of a file that is torn."""
    scans = phantoms.test.parent / "test"
    whole = sorted(scans.iterdir())[0].read_bytes()
    (scans / f"{name}_test_{TESTED:03d}.nii.gz").write_bytes(whole[:20_000])
    out = phantoms.test.parent / "out"
    run_command(["score", str(scans), "--adapters", "demo", "--preset", name, "--progress", "none", "--out", str(out)])
    return out / "report.html"


def photograph(report: Path, browser: str, device: str, picture: Path) -> None:
    """``report`` as ``device`` shows it, opened at the case that comes first."""
    from playwright.sync_api import sync_playwright  # needed here alone

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = program.new_context(**DEVICES[device]).new_page()
        page.goto(report.as_uri())
        page.locator("#cases bdi").first.click()
        page.wait_for_selector("#picture[data-drawn]")
        page.screenshot(path=picture, type="png")
        program.close()


def show_case(case: Case, predictor: Predictor) -> OverviewCase:
    """The slice with the highest score."""
    cut = cut_case(case, predictor.preset)
    prediction = predictor.predict(cut)
    number = prediction.slices[int(prediction.slice_scores.argmax())]
    heat = predictor.rescale(cut.crop(cut.plan.cut(prediction.heatmap))[number])
    row_mm, column_mm, _ = cut.plan.pixel_spacing(cut.volume.spacing)
    mask = np.asarray(cut.masks[number]) if cut.masks is not None else None
    caption = f"{'lesion' if case.label else 'normal'}\nscore {float(predictor.rescale(prediction.score)):.4f}"
    return OverviewCase(case.name, number, np.asarray(cut.images[number]), heat, mask, row_mm, column_mm, caption)


def keep(source: Path, target: Path) -> None:
    """A picture with a palette of its own, a third of the size."""
    buffer = BytesIO()
    with Image.open(source) as picture:
        colours = picture.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE)
        colours.save(buffer, "PNG", optimize=True)
    write_file(target, lambda path: path.write_bytes(buffer.getvalue()))


if __name__ == "__main__":
    main()

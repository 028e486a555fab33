"""Draws the pictures of docs/gallery.md from phantoms and the demonstration adapters: python scripts/make_gallery.py"""

from __future__ import annotations

import argparse
import os
import tempfile
from io import BytesIO
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
from PIL import Image

from aaclip_med.data.index import Case, read_index
from aaclip_med.data.phantoms import PhantomSet, write_phantom_set
from aaclip_med.data.slices import cut_case
from aaclip_med.data.writing import prepare_output_folder, write_file
from aaclip_med.evaluation.run import evaluate_into
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.presets import PRESETS, get_preset
from aaclip_med.scoring.overview import OverviewCase, draw_overview
from aaclip_med.training.montage import draw_montage, draw_tiles

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery"
SEED = 20_260
"""Not the demonstration's, so that its adapters have seen none of these phantoms."""
SHOWN, TESTED, TILES = 3, 8, 6
COLOURS = 256
JUDGED = "brain-mri"
"""The preset whose evaluation is shown."""
FOOTER = "Drawn phantoms, demonstration adapters. Not for patients."


def main() -> None:
    """Every picture, into one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="default docs/images/gallery")
    out = prepare_output_folder(parser.parse_args().out)
    with tempfile.TemporaryDirectory() as folder:
        for name in PRESETS:
            phantoms = write_phantom_set(Path(folder, name), name, 0, SHOWN, TESTED, SEED)
            draw_preset(name, phantoms, Path(folder, name), out)


def draw_preset(name: str, phantoms: PhantomSet, work: Path, out: Path) -> None:
    """Heatmaps and synthetic lesions of one preset; of ``JUDGED`` the evaluation's pictures too."""
    preset, predictor = get_preset(name), load_predictor("demo", preset=name, device="cpu")
    cases = read_index(phantoms.test)
    chosen = [case for case in cases if case.label][:SHOWN] + [case for case in cases if not case.label][:1]
    rows = [show_case(case, predictor) for case in chosen]
    draw_overview(work / "heat.png", rows, f"{preset.title} phantoms", f"{FOOTER} {predictor.note}", vmin=0.98)
    tiles = draw_tiles(read_index(phantoms.calibration), preset, TILES, SEED)
    draw_montage(work / "synthetic.png", tiles, f"{preset.title}: normal slices, and the same with synthetic lesions")
    for kind in ("heat", "synthetic"):
        keep(work / f"{kind}.png", out / f"{kind}_{name}.png")
    if name == JUDGED:
        evaluate_into(cases, predictor, work / "evaluation")
        for kind in ("curves", "montage"):
            keep(work / "evaluation" / f"{kind}.png", out / f"{kind}.png")


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

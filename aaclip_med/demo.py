"""The embedded demonstration: drawn phantoms, trained, calibrated, scored and judged, offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aaclip_med.batch.progress import choose_progress
from aaclip_med.batch.run import score_sources
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.phantoms import write_phantom_set
from aaclip_med.data.slices import cut_case
from aaclip_med.data.sources import find_sources
from aaclip_med.data.writing import prepare_output_folder, write_file, write_json
from aaclip_med.evaluation.run import evaluate_into
from aaclip_med.inference.calibrating import calibrate, store_calibration
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.presets import get_preset
from aaclip_med.scoring.overview import OverviewCase, build_overview
from aaclip_med.training.bundle import train

HONEST = "Demonstration: drawn phantoms and a small random tower, made for trying the software. Not for patients."
SHOWN = 6
SEED = 7


@dataclass(frozen=True)
class DemoSize:
    """How many phantoms."""

    train: int = 40
    calibration: int = 12
    test: int = 12


def run_demo(presets: Sequence[str], out: str | Path, size: DemoSize | None = None, seed: int = SEED) -> dict[str, Any]:
    """Everything for each preset under ``out``; returns what ``out/metrics.json`` says.

    Raises:
        InputError: a preset is unknown.
        OutputError: the folder cannot be written to.
    """
    for name in presets:
        get_preset(name)
    size = size or DemoSize()
    out = prepare_output_folder(out)
    results: dict[str, Any] = {"note": HONEST}
    for name in presets:
        results[name] = _run_preset(name, out / name, size, seed)
        write_json(out / "metrics.json", results)
    return results


def _run_preset(name: str, out: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    _say(f"{name}: drawing {size.train + size.calibration + size.test} phantoms")
    indexes = write_phantom_set(out / "phantoms", name, size.train, size.calibration, size.test, seed)
    _say(f"{name}: training the tiny tower's adapters through the bundle")
    adapters = train(
        {
            "preset": name,
            "index": str(indexes.train),
            "output_dir": str(out / "training"),
            "backbone": "tiny",
            "seed": seed,
            "demo": f"aaclip-med demo --preset {name} --seed {seed}",
            "augment": False,
        }
    )
    _say(f"{name}: calibrating on {size.calibration} normal phantoms, scoring {size.test} unseen ones")
    predictor = load_predictor(adapters)
    calibration, scale = calibrate(read_index(indexes.calibration), predictor, _track)
    store_calibration(predictor, calibration, adapters, scale)
    predictor = load_predictor(adapters)
    cases = read_index(indexes.test)
    score_sources(
        find_sources([case.image_path for case in cases]), predictor, out / "scores", progress=choose_progress("auto")
    )
    evaluation = evaluate_into(cases, predictor, out / "evaluation", _track)
    metrics = evaluation.to_json()
    metrics |= {f"intensity_{key}": metrics["baselines"]["intensity"][key] for key in ("pixel_auroc", "image_auroc")}
    figure = build_overview(
        _choose_rows(cases, predictor),
        f"{get_preset(name).title} phantoms, never trained on",
        HONEST,
        vmin=0.98,
    )
    write_file(out / "overview.png", figure.savefig)
    return metrics


def _choose_rows(cases: Sequence[Case], predictor: Predictor) -> list[OverviewCase]:
    """The highest slice of a few abnormal and normal cases."""
    abnormal = [case for case in cases if case.label]
    normal = [case for case in cases if not case.label]
    rows = []
    for case in abnormal[: SHOWN - 2] + normal[:2]:
        cut = cut_case(case, predictor.preset)
        prediction = predictor.predict(cut)
        number = prediction.slices[int(prediction.slice_scores.argmax())]
        heat = predictor.rescale(cut.crop(cut.plan.cut(prediction.heatmap))[number])
        row_mm, column_mm, _ = cut.plan.pixel_spacing(cut.volume.spacing)
        p_value = predictor.calibration.p_value(prediction.score) if predictor.calibration else float("nan")
        caption = (
            f"{'lesion' if case.label else 'normal'}\nscore {float(predictor.rescale(prediction.score)):.4f}\np {p_value:.2f}"
        )
        mask = np.asarray(cut.masks[number]) if cut.masks is not None else None
        rows.append(OverviewCase(case.name, number, np.asarray(cut.images[number]), heat, mask, row_mm, column_mm, caption))
    return rows


def _track(cases: Sequence[Any]) -> Any:
    return tqdm(cases, unit="case", leave=False, file=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

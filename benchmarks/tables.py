"""The figures of ``python -m benchmarks`` as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Lines = list[str]


def write_tables(figures: Row) -> str:
    """The machine, each part that was measured, and those that failed."""
    machine = figures["machine"]
    rates = machine["matrix_gflops"]
    text = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['capability']}; torch {machine['torch']}; "
        f"{machine['date']}.",
        f"Matrix rate (`torch.matmul`): {rates['float32']:.0f} GFLOP/s float32, {rates['bf16']:.0f} GFLOP/s bf16.",
    ]
    gpu = machine.get("gpu")
    if gpu:
        text.insert(0, f"{gpu['name']}, {gpu['memory_gib']:.0f} GiB, CUDA {gpu['cuda']}, in a machine with:")
    for name, draw in TABLES.items():
        if name in figures:
            text += ["", *draw(figures[name])]
    for name, reason in figures.get("failed", {}).items():
        text += ["", f"**{name} failed:** {reason.strip().splitlines()[-1]}"]
    return "\n".join(text)


def draw_tower(rows: list[Row]) -> Lines:
    """Inference by variant, and where its time goes."""
    if "gpu_peak_gib" in rows[0]:
        return _draw_tower_on_gpu(rows)
    plain = next((row["seconds_a_slice"] for row in rows if row["variant"] == "plain"), float("nan"))
    lines = [
        [
            row["variant"],
            f"{row['seconds_a_slice']:.2f}",
            f"{plain / row['seconds_a_slice']:.1f}",
            f"{row['gflop_a_slice'] / row['seconds_a_slice']:.0f}",
            f"{row['share_of_matrix_rate']:.0%}",
            f"{row['peak_gib']:.2f}",
        ]
        for row in rows
    ]
    table = _draw(["variant", "s a slice", "times plain", "GFLOP/s", "share of matrix rate", "peak GiB"], lines)
    shares = [f"- {row['variant']}: {_join(row['profile'])}" for row in rows if row["profile"]]
    return [*table, "", "Where the time goes (torch.profiler, shares of self time):", "", *shares]


def _draw_tower_on_gpu(rows: list[Row]) -> Lines:
    plain = {row["slices"]: row["seconds_a_slice"] for row in rows if row["variant"] == "plain-bf16"}
    lines = [
        [
            row["variant"],
            str(row["slices"]),
            f"{row['slices_a_second']:.1f}",
            f"{plain.get(row['slices'], float('nan')) / row['seconds_a_slice']:.1f}",
            f"{row['gflop_a_slice'] / row['seconds_a_slice'] / 1000:.0f}",
            f"{row['share_of_matrix_rate']:.0%}",
            f"{row['gpu_peak_gib']:.2f}",
            f"{row['peak_gib']:.2f}",
        ]
        for row in rows
    ]
    head = [
        "variant",
        "at once",
        "slices a second",
        "times plain-bf16",
        "TFLOP/s",
        "share of matrix rate",
        "GPU peak GiB",
        "host",
    ]
    shares = [f"- {row['variant']}, {row['slices']} at once: {_join(row['profile'])}" for row in rows if row["profile"]]
    return [*_draw(head, lines), "", "Where the GPU's time goes (torch.profiler, shares by kernel):", "", *shares]


def draw_folder(parts: list[Row]) -> Lines:
    """Volumes from end to end."""
    lines = [
        [
            str(row["at_once"]),
            f"{row['slices_a_second']:.1f}",
            f"{row['seconds']:.1f}",
            *([f"{row['gpu_peak_gib']:.2f}"] if "gpu_peak_gib" in row else []),
            f"{row['peak_gib']:.2f}",
        ]
        for row in parts[0]["rows"]
    ]
    part, first = parts[0], parts[0]["rows"][0]
    shape = " x ".join(str(length) for length in part["shape"])
    head = ["at once", "slices a second", "s", *(["GPU peak GiB"] if "gpu_peak_gib" in first else []), "host peak GiB"]
    return [
        f"From end to end, {part['backbone']} at {part['size']} px, bf16: `score` of a folder of {part['volumes']} NIfTI "
        f"volumes of {shape}, {first['scored']} slices scored:",
        "",
        *_draw(head, lines),
    ]


def draw_training(rows: list[Row]) -> Lines:
    """Optimiser steps."""
    if "gpu_peak_gib" in rows[0]:
        return _draw_training_on_gpu(rows)
    lines = []
    for row in rows:
        plain = _find_plain(rows, row)
        lines.append(
            [
                row["stage"],
                row["who"],
                f"{row['seconds_a_step']:.2f}",
                f"{plain['seconds_a_step'] / row['seconds_a_step']:.1f}",
                f"{row['peak_gib']:.2f}",
                f"{row['peak_gib'] - row['libraries_gib']:.2f}",
                f"{(row['peak_gib'] - row['libraries_gib']) / (plain['peak_gib'] - plain['libraries_gib']):.0%}",
                f"{(row['peak_gib'] - row['loaded_gib']) / (plain['peak_gib'] - plain['loaded_gib']):.0%}",
            ]
        )
    head = f"Optimiser steps, {rows[0]['precision']}, {rows[0]['size']} px, batch {rows[0]['batch']}:"
    columns = [
        "stage",
        "who",
        "s a step",
        "times plain",
        "peak GiB",
        "without libraries",
        "of plain's",
        "beyond both towers, of plain's",
    ]
    return [head, "", *_draw(columns, lines)]


def _draw_training_on_gpu(rows: list[Row]) -> Lines:
    lines = [
        [
            row["stage"],
            row["who"],
            row["precision"],
            str(row["batch"]),
            f"{row['seconds_a_step']:.3f}",
            f"{_find_plain(rows, row)['seconds_a_step'] / row['seconds_a_step']:.1f}",
            f"{row['gpu_peak_gib']:.2f}",
            f"{row['peak_gib']:.2f}",
        ]
        for row in rows
    ]
    columns = ["stage", "who", "precision", "batch", "s a step", "times plain", "GPU peak GiB", "host"]
    return [f"Optimiser steps, {rows[0]['size']} px:", "", *_draw(columns, lines)]


def _find_plain(rows: list[Row], row: Row) -> Row:
    """The yardstick's row that is to be compared with ``row``; it comes before the others."""
    same = ("stage", "precision")
    return next(other for other in rows if other["who"] == "plain" and all(other[name] == row[name] for name in same))


def draw_precision(part: Row) -> Lines:
    """Fewer bits against float32."""
    lines = [[row["precision"], f"{row['correlation']:.5f}", f"{row['worst_slice']:.5f}"] for row in part["rows"]]
    head = f"Heatmaps of {part['backbone']} with random weights against float32, {part['slices']} slices of {part['size']} px:"
    return [head, "", *_draw(["precision", "correlation", "of the worst slice"], lines)]


def draw_accuracy(rows: list[Row]) -> Lines:
    """Options on phantoms."""
    lines = [
        [
            row["preset"],
            row["option"],
            f"{row['correlation']:.5f}",
            f"{row['pixel_auroc']:.4f}",
            f"{row['slice_auroc']:.4f}",
        ]
        for row in rows
    ]
    return _draw(["preset", "option", "correlation", "pixel AUROC", "slice AUROC"], lines)


def draw_around(part: Row) -> Lines:
    """A volume's time, in words."""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in part["stages_s"].items())
    shape = " x ".join(str(length) for length in part["shape"])
    return [
        f"Around the tower, {part['backbone']} at {part['size']} px, bf16, a NIfTI volume of {shape}, {part['scored']} slices "
        f"scored: {part['around_seconds']:.1f} s, {part['share']:.1%} of the volume's time. That ran for all slices, the tower "
        f"for {part['timed']} of them, {part['tower_seconds_a_slice']:.2f} s each; its {part['tower_seconds']:.0f} s are that "
        f"times {part['scored']}.",
        "",
        f"By the run's own account, side by side: {stages} (model: what is left of it without its tower).",
    ]


def draw_growth(part: Row) -> Lines:
    """Over sizes, cases and ranks."""
    sizes = [
        [
            str(row["size"]),
            str(row["slices"]),
            f"{row['seconds_a_slice']:.{4 if 'gpu_peak_gib' in row else 2}f}",
            f"{row['share_of_matrix_rate']:.0%}",
            f"{row.get('gpu_peak_gib', row['peak_gib']):.2f}",
        ]
        for row in part["sizes"]
    ]
    cases = [[str(row["cases"]), f"{row['seconds_a_case']:.2f}", f"{row['peak_gib']:.2f}"] for row in part["cases"]]
    first = part["ranks"][0]["seconds"]
    ranks = [[str(row["ranks"]), f"{row['seconds']:.1f}", f"{first / row['seconds']:.2f}"] for row in part["ranks"]]
    return [
        "Growth, bf16:",
        "",
        *_draw(["pixels", "slices at once", "s a slice", "share of matrix rate", "peak GiB"], sizes),
        "",
        "Growth over cases, small volumes, tiny (peak of the process that scores):",
        "",
        *_draw(["cases", "s a case", "peak GiB"], cases),
        "",
        f"Growth over ranks, `torchrun ... score` of {part['ranks'][0]['cases']} small volumes, tiny, one thread a rank, "
        "start included:",
        "",
        *_draw(["ranks", "s", "times one rank"], ranks),
    ]


def draw_startup(part: Row) -> Lines:
    """The command line's start."""
    return [f"`--help`: {part['help_seconds']:.2f} s. `score` of a small volume, tiny: {part['score_seconds']:.1f} s."]


TABLES: dict[str, Callable[[Any], Lines]] = {
    "tower": draw_tower,
    "folder": draw_folder,
    "training": draw_training,
    "precision": draw_precision,
    "accuracy": draw_accuracy,
    "around": draw_around,
    "growth": draw_growth,
    "startup": draw_startup,
}


def _draw(head: list[str], rows: list[list[str]]) -> Lines:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _join(shares: dict[str, float]) -> str:
    return ", ".join(f"{name.removeprefix('aten::').removeprefix('mkldnn::')} {share:.0%}" for name, share in shares.items())

"""``aaclip-med score``."""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aaclip_med.cli.options import add_cutting, add_model, read_count
from aaclip_med.errors import InputError


def add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    command = commands.add_parser("score", help="heatmaps, tables and a page for files and folders")
    command.add_argument("inputs", nargs="+", metavar="INPUT", help="DICOM, NIfTI, NRRD, MHA or pictures: files or folders")
    command.add_argument("--out", required=True, metavar="DIR", help="gets all results; run it again to go on after a crash")
    command.add_argument("--overwrite", action="store_true", help="start again where OUT holds a run with other settings")
    add_cutting(command)
    command.add_argument("--slices", type=int, nargs=2, metavar=("FIRST", "LAST"), help="only these, both included")
    command.add_argument("--stride", type=int, default=1, metavar="N", help="score every N-th slice, interpolate between")
    add_operating_point(command)
    _add_outputs(command)
    _add_running(command)
    add_model(command)


def add_operating_point(command: argparse.ArgumentParser) -> None:
    """Where a candidate begins."""
    group = command.add_argument_group("operating point")
    point = group.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=float, help="heat at which a candidate begins (default 0.999 calibrated, else 0.5)")
    point.add_argument(
        "--false-positives", type=float, metavar="N", help="candidates a normal volume may have on average, by the calibration"
    )
    point.add_argument(
        "--level", type=float, metavar="A", help="chance that anything is found in a normal volume, by the calibration"
    )
    group.add_argument("--minimum-ml", type=float, default=0.0, metavar="ML", help="smallest candidate (default 0)")


def _add_outputs(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("outputs")
    group.add_argument(
        "--heatmap-format", choices=("nii.gz", "nrrd", "mha"), default="nii.gz", help="of heatmap, mask and labels (nii.gz)"
    )
    group.add_argument("--bids", action="store_true", help="heatmaps and labels as a BIDS derivatives tree")
    group.add_argument("--dicom-seg", action="store_true", help="DICOM input: a segmentation of the candidates beside")
    group.add_argument("--dicom-pm", action="store_true", help="DICOM input: the heatmap as a parametric map beside")
    group.add_argument(
        "--dicom-sr", action="store_true", help="DICOM input: a measurement report of the candidates, with their segmentation"
    )
    group.add_argument("--no-report", action="store_true", help="no report.html")
    group.add_argument(
        "--progress", choices=("auto", "bar", "plain", "json", "none"), default="auto", help="default: a bar on a terminal"
    )


def _add_running(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("running")
    group.add_argument("--case-seconds", type=float, default=600.0, metavar="S", help="longest to read a scan (default 600)")
    group.add_argument(
        "--case-megabytes", type=int, metavar="MB", help="most memory to read a scan (default three quarters of the machine's)"
    )
    group.add_argument("--readers", type=read_count, default=0, metavar="N", help="scans read at once (default by the cores)")
    group.add_argument(
        "--writers", type=read_count, default=0, metavar="N", help="cases written at once (default by the cores)"
    )
    group.add_argument(
        "--shard", metavar="K/N", help="only every N-th case, from the K-th (from 0); under torchrun it is known by itself"
    )
    group.add_argument(
        "--engine",
        choices=("local", "onnx", "ray"),
        default="local",
        help="onnx: ONNX Runtime in torch's place; ray: on the workers of a Ray cluster",
    )
    group.add_argument("--address", help="of the Ray cluster (default: this machine alone)")
    group.add_argument("--workers", type=read_count, default=0, metavar="N", help="Ray workers (default: one a GPU)")


def run_score(options: argparse.Namespace) -> int:
    """Heatmaps, tables, page."""
    from aaclip_med.batch.cluster import Cluster, score_on_cluster
    from aaclip_med.batch.outputs import Outputs
    from aaclip_med.batch.progress import choose_progress
    from aaclip_med.batch.report.preview import choose_budget
    from aaclip_med.batch.run import Task, score_sources
    from aaclip_med.cli.commands import judge, list_options, load_options, make_cutting
    from aaclip_med.data.sources import find_sources
    from aaclip_med.data.writing import prepare_output_folder
    from aaclip_med.inference.predictor import load_predictor

    _refuse_idle(options)
    cutting = make_cutting(options)
    limits = _choose_limits(options)
    shard = choose_shard(options)
    model = load_options(options)
    found = find_sources(options.inputs, cutting.volume, cutting.spacing_mm)
    prepare_output_folder(options.out)
    outputs = Outputs(
        options.heatmap_format,
        options.bids,
        options.dicom_seg,
        options.dicom_pm,
        options.dicom_sr,
        not options.no_report,
        choose_budget(len(found.sources)),
    )
    task = Task(
        cutting,
        make_aim(options),
        options.minimum_ml,
        outputs,
        limits,
        options.readers,
        options.writers,
        _find_bids(options.inputs),
        list_options(options),
    )
    progress = choose_progress(options.progress)
    if options.engine == "ray":
        cluster = Cluster(options.address, options.workers)
        tally = score_on_cluster(found, model, options.out, task, cluster, progress, options.overwrite)
    else:
        predictor = load_predictor(**model)
        if options.engine == "onnx":
            from aaclip_med.inference.engines import load_engine

            predictor.engine = load_engine(predictor)
        tally = score_sources(found, predictor, options.out, task, progress, options.overwrite, shard)
    if options.progress != "json":
        cases = tally.done + tally.failed
        print(f"{tally.done} of {cases} cases scored, {tally.candidates} candidates; see {options.out}")
        if found.passed_over:
            print(f"{len(found.passed_over)} passed over as no scans of this run; see run.json")
    return judge(tally.failed, tally.done)


def _refuse_idle(options: argparse.Namespace) -> None:
    """Refuse options that beside the others say nothing.

    Raises:
        InputError: there is one.
    """
    if options.bids and options.heatmap_format != "nii.gz":
        raise InputError(f"--heatmap-format {options.heatmap_format}: BIDS holds nii.gz alone; remove it, or --bids")
    for name in ("address", "workers"):
        if options.engine != "ray" and (value := getattr(options, name)):
            raise InputError(f"--{name} {value}: of a Ray cluster; add --engine ray, or remove it")


def _choose_limits(options: argparse.Namespace) -> Any:
    """What reading a scan may take."""
    from aaclip_med.batch.reader import Limits, choose_megabytes

    seconds, megabytes = options.case_seconds, options.case_megabytes
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise InputError(f"--case-seconds {seconds:g}: take more than 0, and a number")
    if megabytes is not None and megabytes < 0:
        raise InputError(f"--case-megabytes {megabytes}: take 0 or more")
    return Limits(seconds, choose_megabytes() if megabytes is None else megabytes)


def _find_bids(inputs: Sequence[str]) -> Path | None:
    """The BIDS data set among the inputs, where there is one only."""
    roots = [Path(path) for path in inputs if (Path(path) / "dataset_description.json").is_file()]
    return roots[0] if len(inputs) == len(roots) == 1 else None


def make_aim(options: argparse.Namespace) -> Any:
    """What the threshold is to do; None: the default."""
    from aaclip_med.inference.operating import Aim

    for kind in ("heat", "false_positives", "level"):
        value = getattr(options, "threshold" if kind == "heat" else kind)
        if value is not None:
            return Aim(kind, value)
    return None


def choose_shard(options: argparse.Namespace) -> Any:
    """The shard asked for, else this process' among those of torchrun, each of which has a GPU of its own: ``options.device``
    becomes it, unless the CPU or one GPU is asked for by number.

    Raises:
        InputError: there is no such shard, or it is no use beside the other options.
    """
    from aaclip_med.batch.run import Shard

    if options.shard is not None:
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", options.shard)
        if match is None or not int(match[1]) < int(match[2]):
            raise InputError(f"--shard {options.shard}: K/N is needed with K from 0 to N - 1, such as 0/4")
        shard = Shard(int(match[1]), int(match[2]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        shard = Shard(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        if options.device in ("auto", "cuda"):
            options.device = _number_device(options.device, int(os.environ["LOCAL_RANK"]))
    else:
        shard = Shard()
    if shard.count > 1 and (options.overwrite or options.engine == "ray"):
        raise InputError("shards of a run neither start it again nor go to Ray; remove --overwrite or --engine, or --shard")
    return shard


def _number_device(name: str, local_rank: int) -> str:
    import torch

    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else name

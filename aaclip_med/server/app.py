"""The HTTP interface, version 1."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from aaclip_med import __version__
from aaclip_med.errors import InputError, OutputError
from aaclip_med.inference.job import JobRequest
from aaclip_med.server.heatmaps import MEDIA_TYPES, Format, provide_heatmap
from aaclip_med.server.inspection import TooLarge, inspect_file
from aaclip_med.server.jobs import ExpiredJob, Job, Jobs, QueueFull, UnknownJob
from aaclip_med.server.messages import (
    FINAL_STATES,
    Health,
    JobOptions,
    JobStatus,
    Limits,
    Model,
    Models,
    Problem,
    Version,
    WorkerHealth,
)
from aaclip_med.server.offers import Offer, choose_offer, list_offers
from aaclip_med.server.scratch import open_scratch
from aaclip_med.server.settings import Settings, is_loopback
from aaclip_med.server.supervision import Supervisor
from aaclip_med.server.uploads import Intake, UploadStalled, UploadTooLarge, find_file, parse_options, save_file

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""An event stream looks so often for news."""
HEARTBEAT_SECONDS = 15.0
SWEEP_SECONDS = 1.0
CONVERSIONS = 2
"""So many uploads are inspected, and heatmaps converted, at once."""

JobId = Annotated[str, PathParameter(description="as POST /v1/jobs gave it", max_length=64)]


class Service:
    """The parts of one running server."""

    def __init__(self, settings: Settings, offers: list[Offer], scratch: Path) -> None:
        self.settings = settings
        self.offers = offers
        self.scratch = scratch
        self.jobs = Jobs(settings.queue, settings.keep_seconds)
        adapters, preset = offers[0].adapters, offers[0].preset
        warm = JobRequest("", adapters, preset)
        self.supervisors = [Supervisor(self.jobs, device, warm, settings.job_seconds) for device in settings.devices]
        self.conversions = anyio.CapacityLimiter(CONVERSIONS)
        self.uploads = 0
        self.listeners = 0

    def start(self) -> None:
        """Start the workers."""
        for supervisor in self.supervisors:
            supervisor.start()

    def stop(self) -> None:
        """End the workers, whatever they do."""
        self.jobs.close()
        for supervisor in self.supervisors:
            supervisor.stop()

    async def sweep(self) -> None:
        """Let results expire, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await to_thread.run_sync(self.jobs.sweep)


def create_app(settings: Settings, scratch_parent: Path | None = None) -> FastAPI:
    """The application. Its workers and its scratch folder live as long as it runs.

    ``scratch_parent``: where the scratch folder is made (default: the system's folder for temporary files).

    Raises:
        CheckpointError: offered adapters cannot be read.
    """
    offers = list_offers(settings.adapters)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

    @contextlib.asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        with open_scratch(scratch_parent) as scratch:
            service = Service(settings, offers, scratch)
            app.state.service = service
            service.start()
            sweeper = asyncio.create_task(service.sweep())
            try:
                yield
            finally:
                sweeper.cancel()
                await to_thread.run_sync(service.stop)

    app = FastAPI(
        title="aaclip-med",
        version=__version__,
        description="Lesion heatmaps of medical volumes. For research, not for clinical use.",
        lifespan=run,
        dependencies=[Depends(_refuse_pages)],
        responses=_problems(403),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.token = settings.token
    app.include_router(_open_routes)
    app.include_router(_routes)
    app.add_exception_handler(UnknownJob, functools.partial(_answer, 404, "no such job"))
    app.add_exception_handler(ExpiredJob, functools.partial(_answer, 410, "the job's results have expired; submit it again"))
    app.add_exception_handler(OutputError, functools.partial(_answer, 507, "the server's disk is full or cannot be written"))
    return app


async def _answer(code: int, detail: str, request: Request, error: Exception) -> Response:
    del request, error
    return JSONResponse({"detail": detail}, code)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceHere = Annotated[Service, Depends(_service)]


async def _refuse_pages(request: Request) -> None:
    """Without a token, refuse web pages: a browser would let any site reach a server on loopback.

    Pictures and scripts of another site come without Origin; browsers say so in Sec-Fetch-Site. A site that calls its own name
    this machine's address is told by Host.
    """
    if request.app.state.token is not None:
        return
    own = request.headers.get("sec-fetch-site", "none") in ("none", "same-origin") and "origin" not in request.headers
    if not own or not is_loopback(request.url.hostname):
        raise HTTPException(403, "a server without a token answers programs on its own machine only")


async def _authorise(request: Request) -> None:
    """Ask for the token, where there is one."""
    token: str | None = request.app.state.token
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not secrets.compare_digest(given.strip().encode(), token.encode()) or scheme.lower() != "bearer":
        raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem} for code in codes}


_open_routes = APIRouter()
_routes = APIRouter(prefix="/v1", dependencies=[Depends(_authorise)], responses=_problems(401))


@_open_routes.get("/openapi.json", include_in_schema=False)
async def get_description(request: Request) -> dict[str, Any]:
    """What FastAPI answers by itself, but behind ``_refuse_pages``."""
    app: FastAPI = request.app
    return app.openapi()


@_open_routes.get("/v1/health")
async def get_health(service: ServiceHere) -> Health:
    """How the server is; needs no token."""
    queued, running = service.jobs.count()
    workers = [WorkerHealth(device=one.device, state=one.state) for one in service.supervisors]
    states = {worker.state for worker in workers}
    status: Literal["ok", "starting", "stopped"] = "starting"
    if states & {"idle", "busy"}:
        status = "ok"
    elif states == {"stopped"}:
        status = "stopped"
    return Health(status=status, queued=queued, running=running, listeners=service.listeners, workers=workers)


@_routes.get("/version")
async def get_version(service: ServiceHere) -> Version:
    """The program's version and the server's limits."""
    settings = service.settings
    limits = Limits(
        upload_bytes=settings.max_upload_bytes,
        volume_bytes=settings.max_volume_bytes,
        queue=settings.queue,
        job_seconds=settings.job_seconds,
        keep_seconds=settings.keep_seconds,
    )
    return Version(aaclip_med=__version__, api="v1", limits=limits)


@_routes.get("/models")
async def get_models(service: ServiceHere) -> Models:
    """The adapters offered."""
    fields = Model.model_fields
    models = [Model(**{name: value for name, value in asdict(offer).items() if name in fields}) for offer in service.offers]
    return Models(default=service.offers[0].name, models=models)


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["volume"],
                    "additionalProperties": False,
                    "properties": {
                        "volume": {
                            "type": "string",
                            "format": "binary",
                            "description": ".nrrd, .nii, .nii.gz or .npy (K, J, I)",
                        },
                        "organ": {"type": "string", "format": "binary", "description": "look only there; on the volume's grid"},
                        "request": JobOptions.model_json_schema(),
                    },
                },
                "encoding": {"request": {"contentType": "application/json"}},
            }
        },
    }
}


@_routes.post("/jobs", status_code=202, openapi_extra=_FORM, responses=_problems(408, 413, 422, 429, 503, 507))
async def submit_job(request: Request, service: ServiceHere) -> JobStatus:
    """Submit a volume."""
    intake = Intake(request, service.settings.max_upload_bytes)
    if all(one.state == "stopped" for one in service.supervisors):
        await intake.drain()
        raise HTTPException(503, "no worker is left to do a job; the server's log says why, and it has to be started anew")
    try:
        service.jobs.check_room()
        if service.uploads >= service.settings.uploads:
            raise QueueFull(1)
        service.uploads += 1
        try:
            return await _receive_job(intake, service)
        finally:
            service.uploads -= 1
    except QueueFull as error:
        await intake.drain()
        raise HTTPException(429, str(error), {"Retry-After": str(error.retry_seconds)}) from None
    except (UploadTooLarge, TooLarge) as error:
        await intake.drain()
        limit = service.settings.max_upload_bytes >> 20
        raise HTTPException(413, str(error) or f"the upload is too large; this server takes {limit} MiB") from None
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    except UploadStalled:
        raise HTTPException(408, "the upload stalled and was given up") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client left") from None
    except OSError:
        _log.exception("an upload cannot be stored")
        raise HTTPException(507, "the server's disk is full or cannot be written") from None


async def _receive_job(intake: Intake, service: Service) -> JobStatus:
    """Take the upload in and queue it; whatever goes wrong, nothing stays on the disk."""
    settings, began = service.settings, time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        form = await intake.read_form()
        stack.push_async_callback(form.close)
        options = parse_options(form)
        adapters, preset = choose_offer(service.offers, options.adapters, options.preset)
        volume, organ = find_file(form, "volume"), find_file(form, "organ")
        if volume is None:
            raise HTTPException(422, "volume: one file is needed")
        if volume[1].endswith(".npy") and options.ijk_to_ras is None:
            raise HTTPException(422, "request: a .npy volume needs ijk_to_ras")
        job_id = secrets.token_hex(16)
        folder = service.scratch / job_id
        folder.mkdir()
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            header, size = None, 0
            for upload, name in (volume, organ) if organ is not None else (volume,):
                await save_file(upload, folder / name)
                size += (folder / name).stat().st_size
                found = await to_thread.run_sync(
                    inspect_file, folder / name, settings.max_volume_bytes, limiter=service.conversions
                )
                header = found if upload is volume[0] else header
            asked = JobRequest(
                volume[1],
                adapters,
                preset,
                plane=options.plane,
                ijk_to_ras=options.ijk_to_ras,
                organ=organ[1] if organ is not None else None,
                threshold=options.threshold,
                minimum_ml=options.minimum_ml,
                stride=options.stride,
            )
            _log.info("job %s received, %.1f MiB in %.1f s", job_id, size / 1024**2, time.monotonic() - began)
            status = service.jobs.submit(Job(job_id, folder, asked, header))
            undo.pop_all()
            return status


@_routes.get("/jobs/{job_id}", responses=_problems(404, 410))
async def get_job(job_id: JobId, service: ServiceHere) -> JobStatus:
    """Where a job is."""
    return service.jobs.describe(service.jobs.find(job_id))


@_routes.delete("/jobs/{job_id}", status_code=204, response_model=None, responses=_problems(404, 410))
async def drop_job(job_id: JobId, service: ServiceHere) -> None:
    """Cancel a job that waits or runs; forget one that has ended."""
    await to_thread.run_sync(service.jobs.drop, job_id)


@_routes.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **_problems(404, 410)},
)
async def listen(job_id: JobId, request: Request, service: ServiceHere) -> StreamingResponse:
    """Server-sent events ``status`` with the job's status as JSON, at once and at each change, up to a final state."""
    events = _follow(service.jobs.find(job_id), request, service)
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _follow(job: Job, request: Request, service: Service) -> AsyncIterator[str]:
    service.listeners += 1
    try:
        told, last = None, time.monotonic()
        while True:
            status = service.jobs.describe(job)
            if status != told:
                yield f"event: status\ndata: {status.model_dump_json()}\n\n"
                told, last = status, time.monotonic()
            elif time.monotonic() - last > HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                last = time.monotonic()
            if status.state in FINAL_STATES or service.jobs.closed or await request.is_disconnected():
                return
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        service.listeners -= 1


def _find_done(job_id: str, service: Service) -> Job:
    job = service.jobs.find(job_id)
    state = service.jobs.describe(job).state
    if state != "done":
        raise HTTPException(409, f"the job is {state}")
    return job


@_routes.get(
    "/jobs/{job_id}/heatmap",
    response_class=FileResponse,
    responses={200: {"content": {kind: {} for kind in sorted(set(MEDIA_TYPES.values()))}}, **_problems(404, 409, 410, 507)},
)
async def get_heatmap(job_id: JobId, service: ServiceHere, format: Format = "npy") -> FileResponse:
    """The heatmap on the volume's own grid, float32: ``npy`` in the order (K, J, I), ``nii.gz`` or ``nrrd``."""
    job = _find_done(job_id, service)
    try:
        path = await to_thread.run_sync(provide_heatmap, job, format, limiter=service.conversions)
    except FileNotFoundError:
        raise ExpiredJob(job_id) from None
    return FileResponse(path, media_type=MEDIA_TYPES[format], filename=f"heatmap.{format}")


@_routes.get("/jobs/{job_id}/result", response_class=FileResponse, responses=_problems(404, 409, 410))
async def get_result(job_id: JobId, service: ServiceHere) -> FileResponse:
    """``result.json``: the score, the candidates (RAS mm), the slices' scores, and the run's account."""
    return FileResponse(_find_done(job_id, service).folder / "result.json", media_type="application/json")

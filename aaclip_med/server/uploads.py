"""Uploads: streamed to the disk, counted while they come in, and looked at before anyone works with them."""

from __future__ import annotations

import shutil
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from aaclip_med.errors import InputError
from aaclip_med.server.inspection import find_ending
from aaclip_med.server.messages import JobOptions

IDLE_SECONDS = 60.0
"""An upload that sends nothing for so long is given up."""
LINGER_SECONDS = 10.0
"""So long a refused upload is still read, and thrown away: a client that is sending would not hear the answer otherwise."""
FIELD_BYTES = 64 * 1024
_FORM_BYTES = FIELD_BYTES + 16 * 1024


class UploadTooLarge(Exception):  # noqa: N818
    """More came in than the server takes."""


class UploadStalled(Exception):  # noqa: N818
    """Nothing came in for ``IDLE_SECONDS``."""


class Intake:
    """The body of one request, counted while it comes in."""

    def __init__(self, request: Request, limit: int) -> None:
        self._request = request
        self._limit = limit + _FORM_BYTES
        self._seen = 0
        self._finished = False

    async def read_form(self) -> FormData:
        """The form. Its files beyond 1 MiB are on the disk, without a name.

        Raises:
            UploadTooLarge, UploadStalled: see there.
            HTTPException: 422, it is no multipart form, or has too many parts.
        """
        if not self._request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(422, "a multipart/form-data body with the file part 'volume' is needed")
        declared = self._request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            raise UploadTooLarge
        try:
            counted = Request(self._request.scope, self._receive)
            return await counted.form(max_files=2, max_fields=1, max_part_size=FIELD_BYTES)
        except StarletteHTTPException as error:
            raise HTTPException(422, f"the form cannot be read: {error.detail}") from None

    async def drain(self) -> None:
        """Read on what a refused client is sending, for a while."""
        with anyio.move_on_after(LINGER_SECONDS):
            while not self._finished:
                await self._next()

    async def _receive(self) -> MutableMapping[str, Any]:
        try:
            with anyio.fail_after(IDLE_SECONDS):
                message = await self._next()
        except TimeoutError:
            raise UploadStalled from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise UploadTooLarge
        return message

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._request.receive()
        self._finished = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def parse_options(form: FormData) -> JobOptions:
    """The options in the form field ``request``; the defaults where there is none.

    Raises:
        HTTPException: 422, they are not as they should be, or the form has other parts.
    """
    unknown = set(form) - {"volume", "organ", "request"}
    if unknown:
        raise HTTPException(422, "a form has the parts volume, organ and request, and no others")
    value = form.get("request")
    if isinstance(value, UploadFile):
        raise HTTPException(422, "request: a form field is needed, not a file")
    try:
        return JobOptions.model_validate_json(value if value is not None else "{}")
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'JSON'}: {fault['msg']}" for fault in error.errors(include_input=False)
        ]
        raise HTTPException(422, f"request: {'; '.join(faults[:5])[:1000]}") from None


def find_file(form: FormData, part: str) -> tuple[UploadFile, str] | None:
    """A file part and the name it gets here, its own ending behind the part's name; None where there is none.

    Raises:
        HTTPException: 422, it comes twice, is no file or has an unknown ending.
    """
    values = form.getlist(part)
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not isinstance(value, UploadFile):
        raise HTTPException(422, f"{part}: one file is needed")
    try:
        return value, part + find_ending(value.filename)
    except InputError as error:
        raise HTTPException(422, f"{part}: {error}") from None


async def save_file(upload: UploadFile, path: Path) -> None:
    """Copy an uploaded file to ``path``."""

    def copy() -> None:
        upload.file.seek(0)
        with path.open("xb") as target:
            shutil.copyfileobj(upload.file, target, 1 << 20)

    await to_thread.run_sync(copy)

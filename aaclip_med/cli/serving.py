"""``aaclip-med serve``."""

from __future__ import annotations

import argparse

from aaclip_med.cli.options import read_count

MIB = 1024**2
LARGEST_LIMIT = 1e12
"""No disk and no job is larger or longer, and JSON and the system's calls can take it."""


def read_limit(text: str) -> float:
    """A number above 0 and up to ``LARGEST_LIMIT``, as argparse's ``type``.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST_LIMIT:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0 and up to {LARGEST_LIMIT:g}")
    return value


def read_port(text: str) -> int:
    """A port of TCP, as argparse's ``type``.

    Raises:
        ArgumentTypeError: it is none.
    """
    port = read_count(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; take 0 (any that is free) to 65535")
    return port


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    command = commands.add_parser("serve", help="score over HTTP, for 3D Slicer and other programs")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); others need a token")
    command.add_argument("--port", type=read_port, default=8421, help="default 8421")
    command.add_argument("--token-file", metavar="FILE", help="clients have to give its text (default: $AACLIP_MED_TOKEN)")
    command.add_argument(
        "--adapters",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="offer adapters under a name, again for more; the first is the default (default: the demonstrations)",
    )
    command.add_argument(
        "--device", nargs="+", default=["auto"], metavar="DEVICE", help="auto, cpu, cuda:N: a worker each (default auto)"
    )
    limits = command.add_argument_group("limits")
    limits.add_argument("--queue", type=int, default=16, metavar="N", help="jobs that may wait (default 16)")
    limits.add_argument("--max-upload-mb", type=read_limit, default=512.0, metavar="MB", help="an upload's size (default 512)")
    limits.add_argument(
        "--max-volume-mb",
        type=read_limit,
        default=2048.0,
        metavar="MB",
        help="a file's size after decompression (default 2048)",
    )
    limits.add_argument(
        "--job-seconds", type=read_limit, default=1800.0, metavar="S", help="a job's longest time (default 1800; 1e9: no limit)"
    )
    limits.add_argument(
        "--keep-minutes", type=read_limit, default=30.0, metavar="MIN", help="results are kept so long (default 30)"
    )


def run_serve(options: argparse.Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        InputError: an option cannot be used; the address is not loopback and there is no token; FastAPI is not installed.
        CheckpointError: adapters cannot be read.
    """
    import logging
    import sys

    from aaclip_med.errors import InputError
    from aaclip_med.server.settings import (
        TLS_ADVICE,
        Settings,
        check_exposure,
        is_loopback,
        parse_adapters,
        read_token,
    )

    settings = Settings(
        adapters=parse_adapters(options.adapters),
        token=read_token(options.token_file),
        devices=tuple(options.device),
        queue=options.queue,
        max_upload_bytes=int(options.max_upload_mb * MIB),
        max_volume_bytes=int(options.max_volume_mb * MIB),
        job_seconds=options.job_seconds,
        keep_seconds=60.0 * options.keep_minutes,
    )
    check_exposure(options.host, settings.token)
    try:
        import uvicorn

        from aaclip_med.server.app import create_app
    except ModuleNotFoundError as error:
        raise InputError(f"serve needs {error.name}; install aaclip-med[server]") from None
    from aaclip_med.model.precision import choose_device

    for device in settings.devices:
        choose_device(device)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aaclip_med.server").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    if not is_loopback(options.host):
        print(f"aaclip-med: {TLS_ADVICE.format(port=options.port)}", file=sys.stderr)
    uvicorn.run(
        create_app(settings),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return 0

"""What a server is told at its start."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aaclip_med.errors import InputError

TOKEN_VARIABLE = "AACLIP_MED_TOKEN"
TOKEN_LENGTH = 16
"""A shorter token is refused."""

FIRST_GPU = {"auto": "cuda:0", "cuda": "cuda:0"}
"""Names of one device, where there is a GPU."""

TLS_ADVICE = (
    "this server speaks plain HTTP: put TLS in front of it with a reverse proxy, e.g. "
    "'caddy reverse-proxy --from scan.example.org --to 127.0.0.1:{port}', and keep the port closed to everyone else"
)


@dataclass(frozen=True)
class Settings:
    """Limits, devices and adapters of one server.

    adapters: (name, file) pairs in the order given, the first is the default; empty: the demonstrations. token None: none is
    asked for. devices: one worker process each. queue: how many jobs may wait. Sizes are bytes, ``max_volume_bytes`` after
    decompression; times are seconds. uploads: how many are received at once.
    """

    adapters: tuple[tuple[str, str], ...] = ()
    token: str | None = None
    devices: tuple[str, ...] = ("auto",)
    queue: int = 16
    max_upload_bytes: int = 512 * 1024**2
    max_volume_bytes: int = 2048 * 1024**2
    job_seconds: float = 1800.0
    keep_seconds: float = 1800.0
    uploads: int = 16

    def __post_init__(self) -> None:
        for name in ("queue", "max_upload_bytes", "max_volume_bytes", "job_seconds", "keep_seconds", "uploads"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; take a finite number above 0")
        gpus = [FIRST_GPU.get(device, device) for device in self.devices if device != "cpu"]
        if not self.devices or len(set(gpus)) < len(gpus):
            raise InputError(f"devices {', '.join(self.devices)}: name each GPU once")


def parse_adapters(values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(name, file) of each ``NAME=FILE``.

    Raises:
        InputError: a value has another form, or a name comes twice.
    """
    pairs = tuple((name, path) for name, _, path in (value.partition("=") for value in values))
    for (name, path), value in zip(pairs, values, strict=True):
        if not name or not path:
            raise InputError(f"adapters '{value}': write NAME=FILE, as in liver=adapters.safetensors")
    if len({name for name, _ in pairs}) < len(pairs):
        raise InputError(f"adapters {', '.join(name for name, _ in pairs)}: a name comes twice")
    return pairs


def is_loopback(host: str | None) -> bool:
    """Whether ``host``, an address or a name, is this machine's own and cannot be reached from another."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token in a file, else in the environment, else None.

    Raises:
        InputError: the file cannot be read, or the token is too short or holds other than printable ASCII characters.
    """
    source, token = f"${TOKEN_VARIABLE}", environment.get(TOKEN_VARIABLE)
    if path is not None:
        source = path
        try:
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no token can be read from it ({error}); write one line of ASCII text") from None
    if token is None:
        return None
    if len(token) < TOKEN_LENGTH or not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"{source}: a token is {TOKEN_LENGTH} or more printable characters without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


def check_exposure(host: str, token: str | None) -> None:
    """Refuse an address that others can reach where no token is asked for.

    Raises:
        InputError: the address is not loopback and there is no token.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"host {host} can be reached from elsewhere: give a token (--token-file, or ${TOKEN_VARIABLE}), or take 127.0.0.1"
        )

"""Files of a Hugging Face repository by address: fetched once, resumed where they broke off, checked by their hash."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from aaclip_med.errors import WeightsError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?/(\S+)")
BLOCK = 1 << 22


def fetch_hub_file(address: str) -> Path:
    """The file at ``hf://ORG/NAME[@REVISION]/FILE``, in Hugging Face's own cache; a revision is a branch, tag or commit.

    ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME`` and tokens are honoured as ``huggingface_hub`` has them. A file's name in
    the cache is its hash as the hub told it (SHA-256 of large files, git's SHA-1 of others), and has to be that of its content.

    Raises:
        WeightsError: the address is none, the file cannot be had, or its content has another hash.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise WeightsError(f"weights '{address}': write hf://ORG/NAME/FILE or hf://ORG/NAME@REVISION/FILE")
    repository, revision, file = match.groups()
    try:
        path = Path(hf_hub_download(repository, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")))
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"weights '{address}': not in the cache, and there is no connection (or HF_HUB_OFFLINE is set); fetch them online"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"weights '{address}' could not be had ({reason}); check the address and the connection") from error
    told = path.resolve().name
    if told != _hash_like(told, path):
        raise WeightsError(
            f"weights '{address}': {path.resolve()} is damaged, its hash is another; delete it and fetch it again"
        )
    return path


def _hash_like(told: str, path: Path) -> str:
    """The hash of a file's content in the form of ``told``; ``told`` itself where that is no hash."""
    if re.fullmatch(r"[0-9a-f]{64}", told):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", told):
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return told
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()

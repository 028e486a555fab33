"""What the objects have in common: the maker, the codes, their UIDs."""

from __future__ import annotations

import contextlib
import logging
import textwrap
from collections.abc import Iterator
from typing import Any

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes

from aaclip_med.batch.account import PROGRAM, Account
from aaclip_med.batch.dicom_objects.source import SourceImages
from aaclip_med.errors import InputError
from aaclip_med.inference.case import ScoredCase

_SCHEME = "99AACLIPMED"
"""Schemes that begin with 99 are private (PS3.16 8.2)."""
ANOMALY_SCORE = hd.sr.CodedConcept("anomaly-score", _SCHEME, "Anomaly score")
"""No standard code says what a heat is."""
CANDIDATES = hd.sr.CodedConcept("candidates", _SCHEME, "Number of lesion candidates")
SEGMENTATION, PARAMETRIC_MAP, MEASUREMENTS = 1, 2, 3
_NAMES = {SEGMENTATION: "lesion candidates", PARAMETRIC_MAP: "heatmap", MEASUREMENTS: "lesion candidate measurements"}


def make_object_uids(images: SourceImages, case: ScoredCase, account: Account, kind: int) -> tuple[str, str]:
    """UIDs of the instance and of its series: new for every run and result, the same for a run taken up again."""
    entropy = (kind, account, case.score, case.candidates)
    return images.make_uid("instance", *entropy), images.make_uid("series", *entropy)


def describe_instance(images: SourceImages, case: ScoredCase, account: Account, kind: int) -> dict[str, Any]:
    """What the constructors of all objects take."""
    instance_uid, series_uid = make_object_uids(images, case, account, kind)
    return {
        "series_instance_uid": series_uid,
        "series_number": images.series_number % 10**6 * 100 + kind,
        "sop_instance_uid": instance_uid,
        "instance_number": 1,
        "manufacturer": PROGRAM,
        "manufacturer_model_name": PROGRAM,
        "software_versions": account.version,
        "device_serial_number": account.model[:64] or "none",
        "coding_schemes": None if kind == SEGMENTATION else [CodingSchemeIdentificationItem(_SCHEME, PROGRAM)],
        "series_description": fit(f"AA-CLIP {_NAMES[kind]} ({account.purpose})"),
    }


def fit(words: str) -> str:
    """As much of the text as a description (LO, PS3.5 6.2) holds, in whole words."""
    return textwrap.shorten(words, 64, placeholder="...")


def describe_planes(images: SourceImages) -> dict[str, Any]:
    """What the constructors of images take for the place of their frames."""
    planes = images.planes
    return {
        "plane_positions": [hd.PlanePositionSequence("PATIENT", tuple(position)) for position in planes.positions.tolist()],
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", planes.cosines),
        "pixel_measures": hd.PixelMeasuresSequence(planes.pixel_mm[::-1], planes.thickness_mm, planes.slice_mm),
    }


def identify_algorithm(account: Account) -> hd.AlgorithmIdentificationSequence:
    """Program, version and operating point."""
    return hd.AlgorithmIdentificationSequence(
        name=PROGRAM,
        family=codes.DCM.ArtificialIntelligence,
        version=account.version,
        source=PROGRAM,
        parameters={key: str(given).replace(",", ";") for key, given in account.parameters().items()},
    )


@contextlib.contextmanager
def making(images: SourceImages) -> Iterator[None]:
    """Keep highdicom's log quiet, which quotes names, and turn what it refuses in the source's identity into our error.

    Raises:
        InputError: the source's header holds values from which no valid object can be made.
    """
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"{images.path}: no DICOM output can be made of the series' headers ({type(error).__name__}); check them, "
            "or export the series again"
        ) from error
    finally:
        logger.setLevel(level)

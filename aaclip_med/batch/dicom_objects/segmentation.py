"""Candidates as a DICOM segmentation (PS3.3 A.51): binary, one segment a candidate, empty frames left out."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes

from aaclip_med.batch.account import Account
from aaclip_med.batch.dicom_objects.findings import Finding, list_findings
from aaclip_med.batch.dicom_objects.making import (
    SEGMENTATION,
    describe_instance,
    describe_planes,
    fit,
    identify_algorithm,
    making,
)
from aaclip_med.batch.dicom_objects.source import SourceImages, describe_source, finish
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import Volume
from aaclip_med.inference.case import ScoredCase


def make_segmentation(source: Source, volume: Volume, case: ScoredCase, account: Account) -> hd.seg.Segmentation:
    """The candidates of ``case``; where there are none, one empty segment that says so.

    Raises:
        InputError: see ``describe_source`` and ``making``.
    """
    images = describe_source(source, volume)
    shown: list[Finding | None] = [*list_findings(case.candidates)] or [None]
    labels = np.minimum(case.labels, len(shown)).astype(np.uint8)
    with making(images):
        segmentation = hd.seg.Segmentation(
            source_images=images.stand_ins,
            pixel_array=np.ascontiguousarray(labels.T),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(finding, images, source, account) for finding in shown],
            content_label="LESION_CAND",
            content_description=fit(account.operating_point),
            omit_empty_frames=True,
            **describe_planes(images),
            **describe_instance(images, case, account, SEGMENTATION),
        )
        finish(segmentation, images, account)
    return segmentation


def track(finding: Finding, images: SourceImages, source: Source, account: Account) -> hd.sr.TrackingIdentifier:
    """The name by which segment and report mean the same finding."""
    uid = images.make_uid("finding", finding, account)
    return hd.sr.TrackingIdentifier(uid=uid, identifier=f"{source.name} candidate {finding.number}")


def _describe(finding: Finding | None, images: SourceImages, source: Source, account: Account) -> hd.seg.SegmentDescription:
    tracking = None if finding is None else track(finding, images, source, account)
    return hd.seg.SegmentDescription(
        segment_number=1 if finding is None else finding.number,
        segment_label="No lesion candidate" if finding is None else finding.label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identify_algorithm(account),
        tracking_uid=None if tracking is None else tracking[1].value,
        tracking_id=None if tracking is None else tracking[0].value,
    )

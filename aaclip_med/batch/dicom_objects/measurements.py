"""Candidates as a DICOM measurement report (PS3.16 TID 1500), which points to the segments of the segmentation."""

from __future__ import annotations

from typing import TypeAlias

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage, generate_uid

from aaclip_med.batch.account import PROGRAM, Account
from aaclip_med.batch.dicom_objects.findings import Finding, list_findings
from aaclip_med.batch.dicom_objects.making import (
    ANOMALY_SCORE,
    CANDIDATES,
    MEASUREMENTS,
    SEGMENTATION,
    describe_instance,
    make_object_uids,
    making,
)
from aaclip_med.batch.dicom_objects.segmentation import track
from aaclip_med.batch.dicom_objects.source import SourceImages, describe_source, stamp
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import LPS_TO_RAS, Volume
from aaclip_med.inference.case import ScoredCase

Point = tuple[float, float, float]
_Group: TypeAlias = (
    hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
)
_MILLILITRE = Code("mL", "UCUM", "milliliter")
_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}


def make_measurements(source: Source, volume: Volume, case: ScoredCase, account: Account) -> hd.sr.Comprehensive3DSR:
    """The candidates of ``case``: volume, highest and mean anomaly score, centroid and place of the peak.

    The report points to the segmentation that ``make_segmentation`` makes of the same case and account.

    Raises:
        InputError: see ``describe_source`` and ``making``.
    """
    images = describe_source(source, volume)
    segmentation = _refer_to_segmentation(images, case, account)
    with making(images):
        groups: list[_Group | hd.sr.MeasurementsAndQualitativeEvaluations] = [_count(case, images, source, account)]
        for finding in list_findings(case.candidates):
            groups += _measure(finding, images, source, segmentation, account)
        modality = source.series.modality if source.series else ""
        content = hd.sr.MeasurementReport(
            observation_context=_observe(account),
            procedure_reported=_PROCEDURES.get(modality, codes.SCT.ImagingProcedure),
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        report = hd.sr.Comprehensive3DSR(
            evidence=[*images.instances, segmentation],
            content=content[0],
            is_complete=True,
            is_final=False,
            is_verified=False,
            **describe_instance(images, case, account, MEASUREMENTS),
        )
        stamp(report, account)
    return report


def _refer_to_segmentation(images: SourceImages, case: ScoredCase, account: Account) -> Dataset:
    """What the report needs of the segmentation, which need not be read for it."""
    segmentation = Dataset()
    segmentation.StudyInstanceUID = images.stand_ins[0].StudyInstanceUID
    segmentation.SOPClassUID = SegmentationStorage
    segmentation.SOPInstanceUID, segmentation.SeriesInstanceUID = make_object_uids(images, case, account, SEGMENTATION)
    return segmentation


def _observe(account: Account) -> hd.sr.ObservationContext:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[PROGRAM, account.version, account.model]),
        name=PROGRAM,
        manufacturer_name=PROGRAM,
        model_name=f"{account.preset} {account.model}".strip(),
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=observer)


def _count(
    case: ScoredCase, images: SourceImages, source: Source, account: Account
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """What is measured of the whole volume, and by what."""
    parameters = [f"{key}: {given}" for key, given in account.parameters().items()]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(images.make_uid("volume", account), source.name),
        algorithm_id=hd.sr.AlgorithmIdentification(name=PROGRAM, version=account.version, parameters=parameters),
        measurements=[
            hd.sr.Measurement(ANOMALY_SCORE, case.score, codes.UCUM.NoUnits),
            hd.sr.Measurement(CANDIDATES, len(case.candidates), codes.UCUM.NoUnits),
        ],
    )


def _measure(finding: Finding, images: SourceImages, source: Source, segmentation: Dataset, account: Account) -> list[_Group]:
    """The region's measurements, and of a single candidate its centre and its hottest point."""
    tracking = track(finding, images, source, account)
    series = hd.sr.SourceSeriesForSegmentation(images.stand_ins[0].SeriesInstanceUID)
    region = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID, segmentation.SOPInstanceUID, finding.number, source_series=series
        ),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        measurements=[
            hd.sr.Measurement(codes.SCT.Volume, finding.volume_ml, _MILLILITRE),
            hd.sr.Measurement(ANOMALY_SCORE, finding.first.peak, codes.UCUM.NoUnits, derivation=codes.SCT.Maximum),
            hd.sr.Measurement(ANOMALY_SCORE, finding.mean, codes.UCUM.NoUnits, derivation=codes.SCT.Mean),
        ],
    )
    if len(finding.candidates) > 1:
        return [region]
    centre = _mark(finding.first.centroid_ras, codes.DCM.GeometricCenterpoint, tracking, images)
    peak = _mark(finding.first.peak_ras, codes.DCM.RepresentativePoint, tracking, images, finding.first.peak)
    return [region, centre, peak]


def _mark(
    ras: Point, purpose: Code, tracking: hd.sr.TrackingIdentifier, images: SourceImages, score: float | None = None
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    point = LPS_TO_RAS[:3, :3] @ np.array(ras)
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=hd.sr.ImageRegion3D(
            graphic_type=hd.sr.GraphicTypeValues3D.POINT,
            graphic_data=point[None],
            frame_of_reference_uid=images.stand_ins[0].FrameOfReferenceUID,
        ),
        geometric_purpose=purpose,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        measurements=None if score is None else [hd.sr.Measurement(ANOMALY_SCORE, score, codes.UCUM.NoUnits)],
    )

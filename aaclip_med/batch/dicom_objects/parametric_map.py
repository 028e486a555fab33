"""The heatmap as a DICOM parametric map (PS3.3 A.75): every slice, float32, each value what it says."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from aaclip_med.batch.account import Account
from aaclip_med.batch.dicom_objects.making import (
    ANOMALY_SCORE,
    PARAMETRIC_MAP,
    describe_instance,
    describe_planes,
    fit,
    making,
)
from aaclip_med.batch.dicom_objects.source import describe_source, finish
from aaclip_med.data.dicom.geometry import Array
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import Volume
from aaclip_med.inference.case import ScoredCase


def make_parametric_map(source: Source, volume: Volume, case: ScoredCase, account: Account) -> hd.pm.ParametricMap:
    """The heatmap of ``case``.

    Raises:
        InputError: see ``describe_source`` and ``making``.
    """
    images = describe_source(source, volume)
    with making(images):
        mapping = hd.pm.RealWorldValueMapping(
            lut_label="ANOMALY",
            lut_explanation=fit(f"Anomaly score: {account.scale}"),
            unit=codes.UCUM.NoUnits,
            value_range=(0.0, 1.0),
            slope=1.0,
            intercept=0.0,
            quantity_definition=ANOMALY_SCORE,
        )
        parametric_map = hd.pm.ParametricMap(
            source_images=images.stand_ins,
            pixel_array=np.ascontiguousarray(case.heatmap.T, dtype=np.float32),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
            content_label="ANOMALY_SCORE",
            content_description=fit(f"{account.operating_point}; {account.scale}"),
            content_qualification=hd.ContentQualificationValues.RESEARCH,
            **describe_planes(images),
            **describe_instance(images, case, account, PARAMETRIC_MAP),
        )
        parametric_map.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_name_anatomy()]
        _sort_frames(parametric_map, case.heatmap)
        finish(parametric_map, images, account)
    return parametric_map


def _sort_frames(parametric_map: hd.pm.ParametricMap, heatmap: Array) -> None:
    """Put the frames into the order of the slices, along the normal: dcmqi takes them so, highdicom sorts them against it."""
    (shared,) = parametric_map.SharedFunctionalGroupsSequence
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    groups = sorted(
        parametric_map.PerFrameFunctionalGroupsSequence,
        key=lambda group: float(normal @ np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)),
    )
    for number, group in enumerate(groups, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = [number]
    parametric_map.PerFrameFunctionalGroupsSequence = groups
    parametric_map.FloatPixelData = np.ascontiguousarray(heatmap.T, dtype="<f4").tobytes()


def _name_anatomy() -> Dataset:
    """Frame anatomy (PS3.3 C.7.6.16.2.8): dcmqi, by which 3D Slicer reads maps, does not survive without it."""
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept.from_code(codes.SCT.EntireBody)]
    anatomy.FrameLaterality = "U"
    return anatomy

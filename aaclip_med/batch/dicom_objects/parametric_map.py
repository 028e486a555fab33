"""The heatmap as a DICOM parametric map (PS3.3 A.75): every slice, float32, each value what it says."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes

from aaclip_med.batch.account import Account
from aaclip_med.batch.dicom_objects.making import (
    ANOMALY_SCORE,
    PARAMETRIC_MAP,
    describe_instance,
    describe_planes,
    making,
)
from aaclip_med.batch.dicom_objects.source import describe_source, finish
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
            lut_explanation=f"Anomaly score: {account.scale}"[:64],
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
            content_description=f"{account.scale}; {account.operating_point}"[:64],
            content_qualification=hd.ContentQualificationValues.RESEARCH,
            **describe_planes(images),
            **describe_instance(images, case, account, PARAMETRIC_MAP),
        )
        parametric_map.Laterality = None  # type 2C: not known
        finish(parametric_map, images, account)
    return parametric_map

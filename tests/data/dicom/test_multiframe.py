"""Enhanced multi-frame objects (PS3.3 A.36, A.38, A.52): everything about a frame is in its functional groups."""

from __future__ import annotations

from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.errors import InputError

from .conftest import OBLIQUE, SaveSeries, format_ds, make_pixels, make_slice, normal_of, save_dataset

ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
ORIGIN = np.array((-10.0, 20.0, 30.0))


def item(**tags: Any) -> Sequence:
    ds = Dataset()
    for keyword, given in tags.items():
        setattr(ds, keyword, given)
    return Sequence([ds])


def group(**sequences: Sequence) -> Dataset:
    ds = Dataset()
    for keyword, given in sequences.items():
        setattr(ds, keyword, given)
    return ds


def save_frames(
    path: Path, pixels: np.ndarray, per_frame: Several[Dataset] | None, shared: Dataset | None = None, **tags: Any
) -> Path:
    given = {
        "SOPClassUID": ENHANCED_MR, "Modality": "MR", "NumberOfFrames": len(pixels), "PixelSpacing": None,
        "SliceThickness": None, "ImageOrientationPatient": None, "ImagePositionPatient": None,
        "SharedFunctionalGroupsSequence": None if shared is None else Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": None if per_frame is None else Sequence(per_frame),
    }  # fmt: skip
    return save_dataset(make_slice(pixels, **{**given, **tags}), path)


def shared_groups() -> Dataset:
    return group(
        PlaneOrientationSequence=item(ImageOrientationPatient=format_ds(OBLIQUE)),
        PixelMeasuresSequence=item(PixelSpacing=[0.9, 0.7], SliceThickness=2.5),
    )


def place(depth: float) -> Sequence:
    return item(ImagePositionPatient=format_ds(ORIGIN + depth * normal_of(OBLIQUE)))


@pytest.mark.parametrize(("sop_class", "modality"), [(ENHANCED_CT, "CT"), (ENHANCED_MR, "MR")])
def test_frames_are_placed_and_scaled_by_their_functional_groups(tmp_path: Path, sop_class: str, modality: str) -> None:
    pixels, depths = make_pixels(), (4.0, 0.0, 8.0, 2.0, 6.0)
    per_frame = [
        group(
            PlanePositionSequence=place(depth),
            PixelValueTransformationSequence=item(RescaleSlope=1 + n, RescaleIntercept=-n, RescaleType="US"),
        )
        for n, depth in enumerate(depths)
    ]
    path = save_frames(tmp_path / "a", pixels, per_frame, shared_groups(), SOPClassUID=sop_class, Modality=modality)
    (series,) = list_series([path])
    (volume,) = read_series(series)
    order = np.argsort(depths)
    n = np.arange(5)[:, None, None]
    np.testing.assert_array_equal(volume.array, (pixels * (1 + n) - n)[order].T)
    assert series.shape == (7, 6, 5)
    assert volume.spacing == pytest.approx((0.7, 0.9, 2.0))
    np.testing.assert_allclose(volume.affine[:3, 3], ORIGIN * (-1, -1, 1), atol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 2] / 2, normal_of(OBLIQUE) * (-1, -1, 1), atol=1e-6)
    assert volume.path == path


def test_frames_share_what_is_the_same_for_all(tmp_path: Path) -> None:
    shared = shared_groups()
    shared.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    pixels = make_pixels()
    per_frame = [group(PlanePositionSequence=place(2.0 * n)) for n in range(5)]
    (volume,) = read_series(list_series([save_frames(tmp_path / "a", pixels, per_frame, shared)])[0])
    np.testing.assert_array_equal(volume.array, pixels.T - 1024)
    assert volume.array.dtype == np.int32  # 16 bits less 1024


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (lambda n: {"FrameContentSequence": item(TemporalPositionIndex=n + 1)}, "temporal position"),
        (lambda n: {"MREchoSequence": item(EffectiveEchoTime=4.6 * (n + 1))}, "echo time"),
        (lambda n: {"MRDiffusionSequence": item(DiffusionBValue=500.0 * n)}, "b-value"),
        (lambda n: {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=50.0 * n)}, "trigger time"),
        (lambda n: {"FrameContentSequence": item(StackID=str(n))}, "stack"),
        (lambda n: {"MRImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", "MP"[n], "NONE"])}, "image type"),
    ],
)  # fmt: skip
def test_a_multiframe_object_of_several_volumes_is_split(tmp_path: Path, extra: Any, name: str) -> None:
    pixels = make_pixels((6, 6, 7))
    per_frame = [group(PlanePositionSequence=place(2.0 * (n // 2)), **extra(n % 2)) for n in range(6)]
    (series,) = list_series([save_frames(tmp_path / "a", pixels, per_frame, shared_groups())])
    assert f"2 volumes in one series, told apart by {name}" in series.problems
    arrays = [volume.array for volume in read_series(series)]
    wanted = [pixels[::2].T, pixels[1::2].T]
    if arrays[0][0, 0, 0] != wanted[0][0, 0, 0]:
        wanted.reverse()
    np.testing.assert_array_equal(arrays, wanted)


def test_two_multiframe_files_at_the_same_place_are_two_volumes(tmp_path: Path) -> None:
    pixels = make_pixels((2, 6, 7)), make_pixels((2, 6, 7), seed=1)
    per_frame = [group(PlanePositionSequence=place(2.0 * n)) for n in range(2)]
    paths = [
        save_frames(tmp_path / str(n), pixels[n], per_frame, shared_groups(), SOPInstanceUID=f"1.2.{n + 1}") for n in range(2)
    ]
    (series,) = list_series(paths)
    assert "told apart by file" in series.problems[0]
    np.testing.assert_array_equal([volume.array for volume in read_series(series)], [p.T for p in pixels])


def test_frames_that_do_not_match_their_descriptions_are_refused(tmp_path: Path) -> None:
    path = save_frames(tmp_path / "a", make_pixels(), [group(PlanePositionSequence=place(0.0))] * 3, shared_groups())
    assert "declares 5 frames but describes 3" in str(list_series([path])[0].refused)


def test_an_oct_volume_is_placed_by_its_frames(tmp_path: Path) -> None:
    pixels = make_pixels(dtype="u1")
    shared = group(
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        PixelMeasuresSequence=item(PixelSpacing=[0.0039, 0.0117], SliceThickness=0.012),
    )
    per_frame = [group(PlanePositionSequence=item(ImagePositionPatient=format_ds((0, 0.012 * n, 0)))) for n in range(5)]
    (series,) = list_series([save_frames(tmp_path / "a", pixels, per_frame, shared, SOPClassUID=OPT, Modality="OPT")])
    (volume,) = read_series(series)
    np.testing.assert_array_equal(volume.array, pixels.T)
    assert volume.spacing == pytest.approx((0.0117, 0.0039, 0.012))
    assert series.plane == "coronal"


def test_an_oct_volume_without_positions_takes_the_spacing_between_slices(tmp_path: Path) -> None:
    pixels = make_pixels(dtype="u1")
    shared = group(PixelMeasuresSequence=item(PixelSpacing=[0.0039, 0.0117], SpacingBetweenSlices=0.12))
    paths = [
        save_frames(tmp_path / name, pixels + n, None, shared, SOPClassUID=OPT, Modality="OPT", SOPInstanceUID=f"1.2.{n + 1}")
        for n, name in enumerate("ab")
    ]
    (series,) = list_series(paths)
    assert series.volumes == 2
    assert any("0.12 mm apart, orientation assumed" in problem for problem in series.problems)
    first, second = read_series(series)
    np.testing.assert_array_equal(first.array, pixels.T)
    np.testing.assert_array_equal(second.array, pixels.T + 1)
    np.testing.assert_allclose(first.affine, np.diag((-0.0117, -0.0039, 0.12, 1)))


def test_frames_without_positions_that_are_no_oct_are_refused(tmp_path: Path) -> None:
    shared = group(PixelMeasuresSequence=item(PixelSpacing=[0.9, 0.7], SpacingBetweenSlices=2.0))
    (series,) = list_series([save_frames(tmp_path / "a", make_pixels(), None, shared, Modality="US")])
    assert "no usable ImageOrientationPatient" in str(series.refused)
    with pytest.raises(InputError, match="give the voxel spacing"):
        read_series(series)


def test_a_series_and_its_conversion_to_multiframe_by_highdicom_are_the_same(save_series: SaveSeries, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    paths = save_series(
        make_pixels(), RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU", StudyDate="20200101", StudyTime="1200",
        AccessionNumber="1", StudyID="1", PatientBirthDate="", PatientSex="", ReferringPhysicianName="",
        AcquisitionNumber=1, SOPInstanceUID=lambda n: f"1.2.9.{n + 1}", KVP=120, Manufacturer="none",
        PositionReferenceIndicator="", BodyPartExamined="CHEST", PatientPosition="HFS", VolumetricProperties="VOLUME",
    )  # fmt: skip
    (single,) = read_series(list_series(paths)[0])
    converted = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [dcmread(path) for path in paths], series_instance_uid="1.2.77", series_number=9, sop_instance_uid="1.2.78",
        instance_number=1,
    )  # fmt: skip
    path = save_dataset(converted, tmp_path / "converted")
    (multi,) = read_series(list_series([path])[0])
    np.testing.assert_array_equal(multi.array, single.array)
    np.testing.assert_allclose(multi.affine, single.affine, atol=1e-6)


def test_an_object_that_was_cut_into_files_is_one_volume(tmp_path: Path) -> None:
    """A concatenation (PS3.3 C.7.6.16), its second file first by name."""
    pixels = make_pixels((6, 6, 7), "u1")
    shared = group(PixelMeasuresSequence=item(PixelSpacing=[0.004, 0.012], SliceThickness=0.25))
    for number, name in ((0, "b"), (1, "a")):
        save_frames(
            tmp_path / name,
            pixels[3 * number : 3 * number + 3],
            None,
            shared,
            SOPClassUID=OPT,
            Modality="OPT",
            SOPInstanceUID=f"1.2.7.{number}",
            InstanceNumber=2 - number,
            ConcatenationUID="1.2.7",
            ConcatenationFrameOffsetNumber=3 * number,
        )
    (series,) = list_series([tmp_path])
    (volume,) = read_series(series)
    np.testing.assert_array_equal(volume.array, pixels.T)
    (tmp_path / "b").unlink()
    (half,) = list_series([tmp_path])
    assert "no usable ImageOrientationPatient" in str(half.refused)


def test_a_placed_object_that_was_cut_into_files_is_one_volume(tmp_path: Path) -> None:
    pixels = make_pixels((6, 6, 7))
    for number, name in ((0, "b"), (1, "a")):
        per_frame = [group(PlanePositionSequence=place(2.0 * (3 * number + n))) for n in range(3)]
        save_frames(
            tmp_path / name,
            pixels[3 * number : 3 * number + 3],
            per_frame,
            shared_groups(),
            SOPInstanceUID=f"1.2.7.{number}",
            ConcatenationUID="1.2.7",
            ConcatenationFrameOffsetNumber=3 * number,
        )
    (series,) = list_series([tmp_path])
    (volume,) = read_series(series)
    np.testing.assert_array_equal(volume.array, pixels.T)


@pytest.mark.parametrize(("count", "said"), [(0, "0 frames"), (3, "3 frames"), (None, "no NumberOfFrames")])
def test_a_number_of_frames_that_is_not_that_of_their_groups_is_refused(tmp_path: Path, count: int | None, said: str) -> None:
    per_frame = [group(PlanePositionSequence=place(2.0 * n)) for n in range(5)]
    (series,) = list_series([save_frames(tmp_path / "a", make_pixels(), per_frame, shared_groups(), NumberOfFrames=count)])
    assert f"a declares {said} but describes 5; export it again" in str(series.refused)


def test_frames_of_one_file_at_one_place_are_told_by_their_numbers(tmp_path: Path) -> None:
    per_frame = [group(PlanePositionSequence=place(2.0 * (n // 2))) for n in range(6)]
    (series,) = list_series([save_frames(tmp_path / "a", make_pixels((6, 6, 7)), per_frame, shared_groups())])
    with pytest.raises(InputError, match="a: frame 2 lies at the same depth as frame 1 of a but shows something else"):
        read_series(series)

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.errors import InputError

from .conftest import AXIAL, MR, OBLIQUE, PATIENT, SECONDARY, SaveSeries, SaveSlice, make_pixels, normal_of

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def test_a_name_is_short_stable_and_without_the_patient(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series())
    assert re.fullmatch("CT-4-[0-9a-f]{8}", series.name)
    (elsewhere,) = list_series(save_series(folder="Doe_Jane"))
    assert elsewhere.name == series.name
    (other,) = list_series(save_series(folder="other", SeriesInstanceUID="1.2.3.9", SeriesNumber=None))
    assert re.fullmatch("CT-[0-9a-f]{8}", other.name)
    assert other.name[-8:] != series.name[-8:]


def test_a_description_is_printable_and_short(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(SeriesDescription="Abdomen\x1b[31m " + "x" * 40))
    assert series.description == ("Abdomen [31m " + "x" * 40)[:40]


def test_series_are_told_apart_in_one_mixed_and_nested_folder(save_series: SaveSeries, tmp_path: Path) -> None:
    one, two = make_pixels(seed=1), make_pixels((4, 6, 7), seed=2)
    save_series(one, folder="study/a/deep")
    for n, path in enumerate(save_series(two, folder="tmp", SeriesInstanceUID="1.2.3.8", SeriesNumber=5)):
        path.rename(tmp_path / "study" / "a" / "deep" / f"x{n}.IMA")
    (tmp_path / "study" / "notes.txt").write_text("nothing of ours")
    (tmp_path / "study" / ".hidden").write_bytes(b"\0" * 128 + b"DICM")
    found = list_series([tmp_path / "study"])
    assert [(series.shape, len(series.files)) for series in found] == [((7, 6, 5), 5), ((7, 6, 4), 4)]
    for series, pixels in zip(found, (one, two), strict=True):
        np.testing.assert_array_equal(read_series(series)[0].array, pixels.T)


def test_series_of_one_uid_in_two_studies_are_not_merged(save_series: SaveSeries, tmp_path: Path) -> None:
    """As an anonymiser leaves behind that gives every series the same UID."""
    one, two = make_pixels(seed=1), make_pixels(seed=2)
    (alone,) = list_series(save_series(one, folder="study/a", StudyInstanceUID="1.2.1"))
    save_series(two, folder="study/b", StudyInstanceUID="1.2.2", positions=(10, 12, 14, 16, 18))
    found = list_series([tmp_path])
    assert len({alone.name, *(series.name for series in found)}) == 3
    for series, pixels in zip(found, (one, two), strict=True):
        np.testing.assert_array_equal(read_series(series)[0].array, pixels.T)


def test_no_study_uid_and_one_series_uid_are_one_series(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(StudyInstanceUID=None))
    np.testing.assert_array_equal(read_series(series)[0].array, make_pixels().T)


def test_no_series_uid_groups_by_folder_frame_of_reference_size_and_orientation(save_series: SaveSeries) -> None:
    a = save_series(folder="s/a", SeriesInstanceUID=None)
    save_series(make_pixels((5, 8, 7)), folder="s/a/b", SeriesInstanceUID="")
    save_series(folder="s/c", SeriesInstanceUID=None)
    for n, path in enumerate(save_series(folder="t", SeriesInstanceUID=None, cosines=SAGITTAL)):
        path.rename(a[0].parent / f"sagittal{n}")
    found = list_series([a[0].parents[1]])
    assert sorted((len(series.files), series.plane) for series in found) == [
        (5, "oblique"), (5, "oblique"), (5, "oblique"), (5, "sagittal"),
    ]  # fmt: skip
    assert all("no SeriesInstanceUID" in series.problems[0] for series in found)
    assert all(series.refused is None for series in found)


def test_two_series_without_uids_that_interleave_are_not_stacked(save_series: SaveSeries) -> None:
    one, two = make_pixels(seed=1), make_pixels(seed=2)
    first = save_series(one, folder="s/a", step=4.0, SeriesInstanceUID=None, SeriesNumber=1)
    second = save_series(two, folder="t", step=4.0, origin=(-10.0, 20.0, 32.0), SeriesInstanceUID=None, SeriesNumber=2)
    for path in second:
        path.rename(first[0].parent / f"other{path.name}")
    found = list_series([first[0].parent])
    assert len(found) == 2
    for series, pixels in zip(found, (one, two), strict=True):
        np.testing.assert_array_equal(read_series(series)[0].array, pixels.T)


def test_two_frames_of_reference_under_one_uid_are_two_volumes(save_series: SaveSeries) -> None:
    one, two = make_pixels(seed=1), make_pixels(seed=2)
    normal = normal_of(OBLIQUE)
    paths = save_series(one, folder="s/a", step=4.0, FrameOfReferenceUID="1.2.1")
    paths += save_series(two, folder="s/b", step=4.0, origin=normal * 2 + (-10.0, 20.0, 30.0), FrameOfReferenceUID="1.2.2")
    (series,) = list_series(paths)
    assert "frames of reference: one volume each" in series.problems[0]
    for volume, pixels in zip(read_series(series), (one, two), strict=True):
        np.testing.assert_array_equal(volume.array, pixels.T)


def test_a_slope_of_zero_is_refused_by_its_file(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(RescaleSlope=lambda n: int(n != 2), RescaleIntercept=0))
    assert series.refused == "003 has RescaleSlope 0; export it again"


def test_a_ct_that_does_not_say_its_units_is_read_and_said_to(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(RescaleIntercept=None, RescaleSlope=None))
    assert any("may not be Hounsfield units" in problem for problem in series.problems)
    for tags in ({"RescaleIntercept": -1024, "RescaleSlope": 1}, {"Modality": "MR"}):
        (series,) = list_series(save_series(folder="other", **tags))
        assert not any("Hounsfield" in problem for problem in series.problems)


def test_a_slice_without_a_position_is_named(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(ImagePositionPatient=lambda n: [0, 0, n] if n != 1 else None))
    assert "no ImagePositionPatient in 1 of 5 slices, as in 004" in str(series.refused)


def test_projections_are_read_one_by_one_with_the_detector_s_pixels(save_series: SaveSeries) -> None:
    pixels = make_pixels((2, 6, 7), "u2")
    paths = save_series(
        pixels, Modality="DX", PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1], ImagePositionPatient=None,
        ImageOrientationPatient=None, SliceThickness=None, PhotometricInterpretation="MONOCHROME1", BitsStored=12,
    )  # fmt: skip
    (series,) = list_series(paths)
    assert series.problems[0] == "2 projections: one volume each"
    assert "orientation assumed" in series.problems[1]
    volumes = read_series(series)
    assert len(volumes) == 2
    for volume, plane in zip(volumes, pixels[::-1], strict=True):
        np.testing.assert_array_equal(volume.array[:, :, 0], 4095 - plane.T.astype(int))
        assert volume.spacing == pytest.approx((0.1, 0.2, 1.0))


def test_a_projection_of_unknown_size_is_read_with_a_spacing_alone(save_series: SaveSeries) -> None:
    (series,) = list_series(
        save_series(
            make_pixels((1, 6, 7)), Modality="CR", PixelSpacing=None, ImagePositionPatient=None, ImageOrientationPatient=None
        )
    )  # fmt: skip
    assert "no PixelSpacing" in str(series.refused)
    assert read_series(series, (0.3, 0.3, 1.0))[0].spacing == pytest.approx((0.3, 0.3, 1.0))


def test_no_series_uid_still_gives_the_same_name_in_another_folder(save_series: SaveSeries) -> None:
    names = {list_series(save_series(folder=folder, SeriesInstanceUID=None))[0].name for folder in ("a", "b")}
    assert len(names) == 1


def test_the_path_of_a_volume_is_its_folder_or_its_only_file(save_series: SaveSeries) -> None:
    paths = save_series()
    assert read_series(list_series(paths)[0])[0].path == paths[0].parent
    assert read_series(list_series(paths[:1])[0])[0].path == paths[0]


def test_a_file_that_was_copied_is_read_once(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    paths = save_series(pixels)
    shutil.copy(paths[2], paths[2].with_name("copy of 3"))
    (series,) = list_series([paths[0].parent])
    assert "1 slice in a second copy" in series.problems[0]
    np.testing.assert_array_equal(read_series(series)[0].array, pixels.T)


def test_one_uid_for_all_slices_of_two_volumes_loses_none(save_series: SaveSeries) -> None:
    tags = {"SOPInstanceUID": "1.2.9", "InstanceNumber": 1, "EchoTime": lambda n: str(1 + n % 2)}
    (series,) = list_series(save_series(make_pixels((6, 6, 7)), positions=(0, 0, 2, 2, 4, 4), **tags))
    assert [volume.array.shape for volume in read_series(series)] == [(7, 6, 3)] * 2


def test_the_same_picture_twice_at_one_position_is_dropped(save_series: SaveSeries) -> None:
    pixels = make_pixels()[[0, 1, 1, 2, 3, 4]]
    (series,) = list_series(save_series(pixels, positions=(0, 2, 2, 4, 6, 8)))
    assert "1 slice at a position that is taken: dropped if it shows the same, else refused" in series.problems[0]
    np.testing.assert_array_equal(read_series(series)[0].array, make_pixels().T)
    assert series.put_right[0] == "1 slice at a position that is taken: dropped, it shows the same"


def test_two_pictures_at_one_position_that_differ_are_refused(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(make_pixels((6, 6, 7)), positions=(0, 2, 2, 4, 6, 8)))
    with pytest.raises(InputError, match="shows something else, and no tag tells which volume"):
        read_series(series)


@pytest.mark.parametrize(
    ("tag", "values", "name"),
    [
        ("AcquisitionNumber", (1, 2), "acquisition number"),
        ("EchoTime", ("4.6", "9.2"), "echo time"),
        ("TemporalPositionIdentifier", (1, 2), "temporal position"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value"),
        ("TriggerTime", ("10", "700"), "trigger time"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type"),
    ],
)
def test_repeats_at_each_position_become_volumes(save_series: SaveSeries, tag: str, values: tuple, name: str) -> None:
    pixels = make_pixels((10, 6, 7))
    positions = np.repeat(np.arange(5) * 2.0, 2)
    (series,) = list_series(
        save_series(pixels, positions=positions, Modality="MR", SOPClassUID=MR, **{tag: lambda n: values[n % 2]})
    )
    assert series.refused is None
    assert series.volumes == 2
    assert f"2 volumes in one series, told apart by {name}" in series.problems
    first, second = read_series(series)
    np.testing.assert_array_equal(first.array, pixels[::2].T)
    np.testing.assert_array_equal(second.array, pixels[1::2].T)


def test_two_keys_together_tell_volumes_apart(save_series: SaveSeries) -> None:
    pixels = make_pixels((12, 6, 7))
    (series,) = list_series(
        save_series(
            pixels,
            positions=np.repeat(np.arange(3) * 2.0, 4),
            EchoTime=lambda n: str(4.6 * (1 + n % 2)),
            DiffusionBValue=lambda n: float(500 * (n // 2 % 2)),
        )
    )
    assert series.volumes == 4
    assert "told apart by echo time and b-value" in series.problems[0]
    assert sorted(float(v.array[0, 0, 0]) for v in read_series(series)) == sorted(pixels[:4, 0, 0].tolist())


@pytest.mark.parametrize("tag", ["AcquisitionTime", "ContentTime"])
def test_repeats_that_differ_in_time_only_are_taken_in_their_order(save_series: SaveSeries, tag: str) -> None:
    pixels = make_pixels((6, 6, 7))
    (series,) = list_series(save_series(pixels, positions=(0, 2, 4, 0, 2, 4), **{tag: lambda n: f"1200{n:02d}.00"}))
    assert "the order of" in series.problems[0]
    first, second = read_series(series)
    np.testing.assert_array_equal(first.array, pixels[:3].T)
    np.testing.assert_array_equal(second.array, pixels[3:].T)


def test_slices_in_two_directions_become_two_volumes(save_series: SaveSeries) -> None:
    axial, sagittal = make_pixels(seed=1), make_pixels((4, 6, 7), seed=2)
    paths = save_series(axial, cosines=AXIAL) + save_series(sagittal, folder="more", cosines=SAGITTAL)
    (series,) = list_series(paths)
    assert series.volumes == 2
    assert "slices in 2 directions" in series.problems[0]
    arrays = sorted((volume.array for volume in read_series(series)), key=lambda array: array.shape)
    np.testing.assert_array_equal(arrays[0], sagittal.T)
    np.testing.assert_array_equal(arrays[1], axial.T)


def test_a_stray_slice_of_another_direction_is_left_out(save_series: SaveSeries) -> None:
    axial = make_pixels()
    paths = save_series(axial, cosines=AXIAL) + save_series(make_pixels((1, 6, 7)), folder="more", cosines=SAGITTAL)
    (series,) = list_series(paths)
    assert series.volumes == 1
    assert "1 slice of another direction, size or frame of reference left out: like a localiser" in series.problems
    np.testing.assert_array_equal(read_series(series)[0].array, axial.T)


def test_three_single_planes_are_a_localiser(save_series: SaveSeries) -> None:
    one = make_pixels((1, 6, 7))
    paths = [save_series(one, folder=str(n), cosines=c)[0] for n, c in enumerate((AXIAL, CORONAL, SAGITTAL))]
    (series,) = list_series(paths)
    assert "3 slices in 3 directions or sizes, at most 1 of each: a localiser or" in str(series.refused)


def test_a_frame_of_reference_for_each_file_is_refused_and_no_localiser(save_series: SaveSeries) -> None:
    """As an anonymiser leaves behind that makes every UID anew."""
    (series,) = list_series(save_series(FrameOfReferenceUID=lambda n: f"1.2.9.{n + 1}"))
    assert series.is_scan
    assert series.refused == "5 frames of reference in one series; export it with one FrameOfReferenceUID"
    for spacing in (None, (1.0, 1.0, 1.0)):
        with pytest.raises(InputError, match="5 frames of reference in one series"):
            read_series(series, spacing)


def test_three_single_planes_with_frames_of_reference_of_their_own_are_a_localiser(save_series: SaveSeries) -> None:
    one = make_pixels((1, 6, 7))
    planes = (AXIAL, CORONAL, SAGITTAL)
    paths = [save_series(one, str(n), c, FrameOfReferenceUID=f"1.2.9.{n + 1}")[0] for n, c in enumerate(planes)]
    (series,) = list_series(paths)
    assert not series.is_scan
    assert "a localiser" in str(series.refused)


@pytest.mark.parametrize("spacing", [None, [0, 0.7], [-0.9, 0.7]])
def test_a_pixel_spacing_that_is_no_use_is_said_to_be_missing_or_not_above_0(save_series: SaveSeries, spacing: object) -> None:
    (series,) = list_series(save_series(PixelSpacing=spacing))
    assert "no PixelSpacing above 0; export the series with it" in str(series.refused)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localiser"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "Modality": "MR"}, "Siemens mosaic.*dcm2niix"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "a screenshot"),
        ({"SOPClassUID": SECONDARY, "ImagePositionPatient": None}, "a secondary capture"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour pixels"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour pixels"),
        ({"Modality": "SEG"}, "a segmentation, not a scan"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30", "Modality": "MR"}, "a parametric map, not a scan"),
        ({"Modality": "RTDOSE"}, "a dose map, not a scan"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR", "Rows": None}, "a structured report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "Modality": "OT"}, "a document"),
        ({"Rows": None}, "no image in it"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "BitsAllocated 1"),
    ],
)
def test_what_is_no_scan_is_refused_with_the_reason(save_slice: SaveSlice, tags: dict, reason: str) -> None:
    (series,) = list_series([save_slice("a", make_pixels((3, 6, 7))[:].reshape(18, 7), **{"Rows": 6, **tags})])
    assert re.search(reason, str(series.refused))
    assert series.volumes == 0
    with pytest.raises(InputError, match=reason):
        read_series(series, (1.0, 1.0, 1.0))


def test_a_localiser_within_a_series_is_left_out(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    kind = lambda n: ["ORIGINAL", "PRIMARY", "LOCALIZER" if n == 0 else "AXIAL"]  # noqa: E731
    (series,) = list_series(save_series(pixels, ImageType=kind))
    assert "1 of 5 files left out: a localiser" in series.problems[0]
    np.testing.assert_array_equal(read_series(series)[0].array, pixels[1:].T)


def test_burned_in_text_is_pointed_out(save_series: SaveSeries) -> None:
    assert "burned into the pixels" in list_series(save_series(BurnedInAnnotation="YES"))[0].problems[0]


def test_echo_times_that_change_along_a_volume_are_pointed_out(save_series: SaveSeries) -> None:
    assert list_series(save_series(EchoTime=lambda n: str(4 + n)))[0].problems == (
        "echo time differs between slices of one volume",
    )


def test_a_damaged_file_is_listed_and_does_not_hide_the_others(save_series: SaveSeries, tmp_path: Path) -> None:
    paths = save_series()
    (tmp_path / "scan" / "zzz").write_bytes(paths[0].read_bytes()[:200])
    found = list_series([tmp_path])
    assert [series.refused is None for series in found] == [True, False]
    assert "zzz" in str(found[1].refused)
    with pytest.raises(InputError, match="zzz"):
        read_series(found[1])


def test_no_word_about_the_patient_leaves_the_reader(
    save_series: SaveSeries, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    paths = save_series(PixelSpacing=None)
    for path in paths:
        content = path.read_bytes()
        assert PATIENT.encode() in content
        path.write_bytes(content.replace(b"1.2.3.5", b"Doe^Jan"))  # an odd value that pydicom would quote
    (series,) = list_series(paths)
    with pytest.raises(InputError) as caught:
        read_series(series)
    said = repr(series) + str(caught.value) + caplog.text + "".join(capfd.readouterr()) + "".join(map(str, recwarn.list))
    assert "Doe" not in said
    assert "4711" not in said


def test_blocks_of_slices_with_their_own_spacing_become_volumes(save_series: SaveSeries) -> None:
    pixels = make_pixels((8, 6, 7))
    (series,) = list_series(
        save_series(pixels, positions=(0, 3, 6, 9, 12, 17, 22, 27), AcquisitionNumber=lambda n: 1 + (n > 4))
    )
    assert series.refused is None
    assert "2 blocks of slices, each even by itself, told apart by acquisition number" in series.problems[0]
    first, second = read_series(series)
    np.testing.assert_array_equal(first.array, pixels[:5].T)
    np.testing.assert_array_equal(second.array, pixels[5:].T)
    assert (first.spacing[2], second.spacing[2]) == pytest.approx((3.0, 5.0))


def test_slices_far_apart_for_their_thickness_are_pointed_out(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(step=10.0))
    assert series.problems == ("slices are 10 mm apart but 2.5 mm thick: every other one may be missing",)


def test_a_position_out_of_this_world_is_refused(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(shift=(3e7, 4e7, 0.0), cosines=AXIAL))
    assert "GiB of voxels" in str(series.refused)

"""Segmentation, parametric map and report: they lie where the source lies, point to it, and read back as they were."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from data.dicom.conftest import AXIAL, OBLIQUE, PATIENT, format_ds, make_pixels, make_slice, normal_of, save_dataset
from data.dicom.test_multiframe import ENHANCED_CT, group, item, save_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from aaclip_med.batch.account import Account
from aaclip_med.batch.dicom_objects import write_measurements, write_parametric_map, write_segmentation
from aaclip_med.batch.dicom_objects.findings import MOST_SEGMENTS, list_findings
from aaclip_med.data.sources import Source, find_sources
from aaclip_med.data.volumes import LPS_TO_RAS, Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.case import ScoredCase
from aaclip_med.scoring.candidates import label_candidates

Array = np.ndarray
ORIGIN = np.array((-10.0, 20.0, 30.0))
ACCOUNT = Account(
    threshold=0.5,
    meaning="set by hand",
    calibrated=False,
    demonstration=True,
    preset="liver-ct",
    version="1.2.3",
    model="ab" * 32,
    made=datetime(2026, 3, 4, 5, 6, 7),
)
WRITERS = {"seg": write_segmentation, "pm": write_parametric_map, "sr": write_measurements}


def save_slices(
    folder: Path, depths: Sequence[float], cosines: Sequence[float] = OBLIQUE, shift: Sequence[float] = (0, 0, 0), **tags: Any
) -> Path:
    """A slice of (6, 7) at each depth along the normal, moved by ``shift`` from one to the next; files in another order."""
    for n, (depth, plane) in enumerate(zip(depths, make_pixels((len(depths), 6, 7)), strict=True)):
        place = ORIGIN + depth * normal_of(cosines) + n * np.array(shift)
        given = {"ImagePositionPatient": format_ds(place), "ImageOrientationPatient": format_ds(cosines)}
        given |= {"InstanceNumber": n * 3 % 5 + 1, "PatientSex": "F", "StudyDate": "20250102", "StudyID": "S"}
        save_dataset(make_slice(plane, **given, **tags), folder / f"{(n * 7) % 11:02d}.dcm")
    return folder


def save_permuted(folder: Path) -> Path:
    return save_slices(folder, (6.0, 0.0, 2.0, 8.0, 4.0))


def save_tilted(folder: Path) -> Path:
    tilt = np.radians(20)
    cosines = (1.0, 0.0, 0.0, 0.0, np.cos(tilt), -np.sin(tilt))
    step = np.array((0.0, 0.0, 3.0))
    along = float(step @ normal_of(cosines))
    return save_slices(folder, np.arange(5) * along, cosines, step - along * normal_of(cosines))


def save_gap(folder: Path) -> Path:
    return save_slices(folder, (0.0, 2.0, 4.0, 8.0, 10.0))


def place_frame(depth: float, **groups: Any) -> Dataset:
    """Place and orientation of one frame, as some makers write them: nothing is shared."""
    return group(
        PlanePositionSequence=item(ImagePositionPatient=format_ds(ORIGIN + depth * normal_of(OBLIQUE))),
        PlaneOrientationSequence=item(ImageOrientationPatient=format_ds(OBLIQUE)),
        PixelMeasuresSequence=item(PixelSpacing=[0.9, 0.7], SliceThickness=2.5),
        **groups,
    )


def save_multiframe(folder: Path) -> Path:
    save_frames(folder / "a.dcm", make_pixels((5, 6, 7)), [place_frame(depth) for depth in (4.0, 0.0, 8.0, 2.0, 6.0)])
    return folder


def save_echoes(folder: Path) -> Path:
    """Two echoes in one file, frame by frame."""
    frames = [
        place_frame(2.0 * (n // 2), MREchoSequence=item(EffectiveEchoTime=10.0 + n % 2)) for n in range(10)
    ]  # two frames at each position
    save_frames(folder / "a.dcm", make_pixels((10, 6, 7)), frames)
    return folder


def save_file_per_frame(folder: Path) -> Path:
    for n, plane in enumerate(make_pixels((5, 6, 7))):
        save_frames(folder / f"{9 - n}.dcm", plane[None], [place_frame(2.0 * n)], SOPClassUID=ENHANCED_CT, Modality="CT")
    return folder


SERIES: dict[str, Callable[[Path], Path]] = {
    "oblique, permuted": save_permuted,
    "gantry tilt": save_tilted,
    "gap": save_gap,
    "enhanced": save_multiframe,
    "enhanced, two echoes": save_echoes,
    "enhanced, a file per frame": save_file_per_frame,
}


def find_source(folder: Path) -> tuple[Source, Volume]:
    source = find_sources([folder], spacing_mm=(0.7, 0.9, 2.0)).sources[-1]
    return source, source.read()


def draw_case(volume: Volume, heat: Array | None = None) -> ScoredCase:
    """Two candidates in texture, at the corner and inside, no two planes alike."""
    if heat is None:
        heat = np.random.default_rng(1).random(volume.array.shape).astype(np.float32) * 0.4
        heat[2:4, 1:3, 1:3] = 0.75
        heat[3, 2, 2] = 0.875
        heat[-1, -1, -1] = 0.9375
    candidates, labels = label_candidates(heat, ACCOUNT.threshold, volume.affine, 2)
    slices = heat.max(axis=(0, 1))
    return ScoredCase(
        heatmap=heat,
        axis=2,
        slices=list(range(len(slices))),
        slice_scores=slices,
        detection=slices,
        score=float(slices.max()),
        p_value=None,
        percentile=None,
        candidates=candidates,
        labels=labels,
    )


def write_all(folder: Path, source: Source, volume: Volume, case: ScoredCase, account: Account = ACCOUNT) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, write in WRITERS.items():
        paths[name] = folder / f"{source.name}_{name}.dcm"
        write(paths[name], source, volume, case, account)
    return paths


def find_voxels(image: Dataset, frames: Array) -> tuple[Array, Array]:
    """Every pixel of ``frames`` (N, R, C) that is not 0: where it lies, LPS mm (PS3.3 C.7.6.2.1.1), and its value."""
    shared = image.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    n, row, column = np.nonzero(frames)
    starts = np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in image.PerFrameFunctionalGroupsSequence])
    places = starts[n].astype(float) + np.outer(column * between_columns, cosines[:3])
    return places + np.outer(row * between_rows, cosines[3:]), frames[n, row, column]


def assert_same_voxels(found: tuple[Array, Array], expected: Array, affine: Array) -> None:
    """Voxel for voxel: ``expected`` (I, J, K) lies where ``found`` is, to 0.001 mm, with the same values."""
    indices = np.argwhere(expected)
    places = (np.c_[indices, np.ones(len(indices))] @ (LPS_TO_RAS @ affine).T)[:, :3]
    distances, nearest = KDTree(found[0]).query(places)
    assert len(found[0]) == len(places)
    assert distances.max() < 1e-3
    assert len(set(nearest)) == len(places)
    np.testing.assert_array_equal(found[1][nearest], expected[tuple(indices.T)])


@pytest.fixture(params=SERIES, ids=lambda name: name)
def written(request: Any, tmp_path: Path) -> tuple[Source, Volume, ScoredCase, dict[str, Path]]:
    source, volume = find_source(SERIES[request.param](tmp_path / "scan"))
    case = draw_case(volume)
    return source, volume, case, write_all(tmp_path / "out", source, volume, case)


Written = tuple[Source, Volume, ScoredCase, dict[str, Path]]


def test_segments_and_heat_lie_where_the_scan_lies(written: Written) -> None:
    _, volume, case, paths = written
    segmentation = hd.seg.segread(paths["seg"])
    numbers = [
        g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in segmentation.PerFrameFunctionalGroupsSequence
    ]
    frames = segmentation.pixel_array * np.array(numbers)[:, None, None]
    assert_same_voxels(find_voxels(segmentation, frames), case.labels, volume.affine)
    assert len(frames) < 2 * volume.array.shape[2]  # frames without a voxel are left out
    parametric_map = hd.imread(paths["pm"])
    np.testing.assert_array_equal(parametric_map.pixel_array, case.heatmap.T)  # frames in the order of the slices
    assert_same_voxels(find_voxels(parametric_map, parametric_map.pixel_array), case.heatmap, volume.affine)


@settings(max_examples=8, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    pixel_mm=st.tuples(*[st.floats(0.1, 4)] * 2),
    step=st.floats(0.2, 12),
    order=st.permutations(range(4)),
)
def test_any_orientation_spacing_and_order_is_kept(
    angles: tuple[float, ...], pixel_mm: tuple[float, float], step: float, order: list[int]
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_slices(folder / "scan", step * np.array(order), (*turn[0], *turn[1]), PixelSpacing=format_ds(pixel_mm))
        source, volume = find_source(folder / "scan")
        case = draw_case(volume)
        write_segmentation(folder / "seg.dcm", source, volume, case, ACCOUNT)
        segmentation = hd.seg.segread(folder / "seg.dcm")
        groups = segmentation.PerFrameFunctionalGroupsSequence
        numbers = [group_.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group_ in groups]
        frames = segmentation.pixel_array * np.array(numbers)[:, None, None]
        assert_same_voxels(find_voxels(segmentation, frames), case.labels, volume.affine)


def test_highdicom_gives_the_volumes_back(written: Written) -> None:
    _, volume, case, paths = written
    for image, expected in (
        (hd.seg.segread(paths["seg"]).get_volume(combine_segments=True, allow_missing_positions=True), case.labels),
        (hd.imread(paths["pm"]).get_volume(), case.heatmap),
    ):
        indices = np.argwhere(expected > 0)
        places = (np.c_[indices, np.ones(len(indices))] @ (LPS_TO_RAS @ volume.affine).T)[:, :3]
        back = image.map_reference_to_indices(places, round_output=True, check_bounds=True)
        np.testing.assert_array_equal(image.array[tuple(back.T)], expected[tuple(indices.T)])


def test_frames_point_to_the_source_frames_they_were_made_of(written: Written) -> None:
    source, _, _, paths = written
    series = source.series
    assert series is not None
    frames = {(frame.uid, frame.index + 1 if frame.count > 1 else None): frame for frame in series.parts[0].frames}
    uids = {frame.uid for frame in frames.values()}
    classes = {str(dcmread(path).SOPInstanceUID): str(dcmread(path).SOPClassUID) for path in series.files}
    straightened, interpolated = "askew" in str(series.problems), "missing" in str(series.refused)
    for kind in ("seg", "pm"):
        image = dcmread(paths[kind])
        (referenced,) = image.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == "1.2.3.4"
        instances = [(one.ReferencedSOPInstanceUID, one.ReferencedSOPClassUID) for one in referenced.ReferencedInstanceSequence]
        assert sorted(instances) == sorted((uid, classes[uid]) for uid in uids)
        assert {one.ReferencedSOPInstanceUID for one in image.SourceImageSequence} == uids
        for frame_group in image.PerFrameFunctionalGroupsSequence:
            derivations = frame_group.get("DerivationImageSequence", [])
            assert len(derivations) == (0 if interpolated else 1)
            for derivation in derivations:
                (reference,) = derivation.SourceImageSequence
                found = frames[reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")]
                apart = np.array(frame_group.PlanePositionSequence[0].ImagePositionPatient, dtype=float) - found.position
                assert abs(apart @ normal_of(found.cosines)) < 1e-6
                assert straightened or np.linalg.norm(apart) < 1e-6
                assert reference.SpatialLocationsPreserved == ("NO" if straightened else "YES")


def test_itk_reads_the_segments(tmp_path: Path) -> None:
    """GDCM, with which ITK reads DICOM, wants frames of whole bytes, and no float pixels, so it is not asked for the map."""
    for n, plane in enumerate(make_pixels((4, 8, 8))):
        save_dataset(make_slice(plane, ImagePositionPatient=[0, 0, 2.0 * n], InstanceNumber=n), tmp_path / "scan" / str(n))
    source, volume = find_source(tmp_path / "scan")
    case = draw_case(volume)
    write_segmentation(tmp_path / "seg.dcm", source, volume, case, ACCOUNT)
    segments = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seg.dcm")))
    frames = hd.seg.segread(tmp_path / "seg.dcm").pixel_array
    np.testing.assert_array_equal(segments > 0, frames > 0)


def test_the_report_measures_what_the_segmentation_shows(written: Written) -> None:
    source, _, case, paths = written
    segmentation, report = hd.seg.segread(paths["seg"]), hd.sr.srread(paths["sr"])
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(case.candidates) == 2
    for candidate, measured in zip(case.candidates, groups, strict=True):
        segment = segmentation.get_segment_description(candidate.id)
        assert (measured.tracking_uid, measured.tracking_identifier) == (segment.tracking_uid, segment.tracking_id)
        assert measured.tracking_identifier == f"{source.name} candidate {candidate.id}"
        assert segment.segmented_property_type == codes.SCT.Lesion == measured.finding_type
        assert measured.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert measured.referenced_segment.referenced_segment_numbers == [candidate.id]
        volume_ml, peak, mean = measured.get_measurements()
        assert (volume_ml.unit.value, volume_ml.value) == ("mL", pytest.approx(candidate.volume_ml))
        assert (peak.derivation, peak.value) == (codes.SCT.Maximum, pytest.approx(candidate.peak))
        assert (mean.derivation, mean.value) == (codes.SCT.Mean, pytest.approx(candidate.mean))
        for purpose, ras in (("GeometricCenterpoint", candidate.centroid_ras), ("RepresentativePoint", candidate.peak_ras)):
            marks = report.content.get_planar_roi_measurement_groups(tracking_uid=measured.tracking_uid)
            (mark,) = [one for one in marks if has_purpose(one, getattr(codes.DCM, purpose))]
            np.testing.assert_allclose(mark.roi.value[0], np.array(ras) * (-1, -1, 1), atol=1e-3)
            assert mark.roi.frame_of_reference_uid == segmentation.FrameOfReferenceUID
    (whole,) = report.content.get_image_measurement_groups()
    assert [one.value for one in whole.get_measurements()] == [case.score, 2]
    evidence = {uid for _, _, uid, _ in report.get_evidence()}
    assert evidence == {one.ReferencedSOPInstanceUID for one in segmentation.SourceImageSequence} | {
        segmentation.SOPInstanceUID
    }


def has_purpose(mark: Any, purpose: Any) -> bool:
    found = [one for one in mark[0].ContentSequence if one.name.value == "130400"]
    return len(found) == 1 and found[0].value == purpose


def test_patient_and_study_are_the_sources_and_stand_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_slices(tmp_path / "scan", (0, 2, 4), PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 100")
    source, volume = find_source(folder)
    for path in write_all(tmp_path / "out", source, volume, draw_case(volume)).values():
        written = dcmread(path)
        assert str(written.PatientName) == "Müller^Zoë"
        assert (written.PatientID, written.PatientSex, written.StudyDate) == ("4711", "F", "20250102")
        assert written.StudyInstanceUID == "1.2.3"
        assert written.SeriesInstanceUID != "1.2.3.4"
        assert path.read_bytes().count("Müller".encode()) == 1
        assert "4711" not in path.name
    assert "ller" not in caplog.text


def test_the_operating_point_and_the_model_stand_in_every_object(tmp_path: Path) -> None:
    source, volume = find_source(save_permuted(tmp_path / "scan"))
    paths = write_all(tmp_path / "out", source, volume, draw_case(volume))
    for path in paths.values():
        written = dcmread(path)
        assert "demonstration only" in written.SeriesDescription
        assert written.SoftwareVersions == "1.2.3"
        assert written.ContentDate == "20260304"
    (algorithm,) = dcmread(paths["seg"]).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "threshold=0.5,operating point=set by hand" in algorithm.AlgorithmParameters
    assert "heat >= 0.5: set by hand" in dcmread(paths["pm"]).ContentDescription
    assert b"operating point: set by hand" in paths["sr"].read_bytes()


def test_a_run_taken_up_again_writes_the_same_and_another_run_other_objects(tmp_path: Path) -> None:
    source, volume = find_source(save_multiframe(tmp_path / "scan"))
    case = draw_case(volume)
    first = write_all(tmp_path / "first", source, volume, case)
    again = write_all(tmp_path / "again", *find_source(tmp_path / "scan"), case)
    other = write_all(tmp_path / "other", source, volume, case, replace(ACCOUNT, made=datetime(2026, 3, 5)))
    for kind in WRITERS:
        assert first[kind].read_bytes() == again[kind].read_bytes()
        assert dcmread(first[kind]).SOPInstanceUID != dcmread(other[kind]).SOPInstanceUID
        assert dcmread(first[kind]).SeriesInstanceUID != dcmread(other[kind]).SeriesInstanceUID


def test_no_candidate_is_an_empty_segment_and_an_empty_report(tmp_path: Path) -> None:
    source, volume = find_source(save_permuted(tmp_path / "scan"))
    case = draw_case(volume, np.zeros(volume.array.shape, dtype=np.float32))
    paths = write_all(tmp_path / "out", source, volume, case)
    segmentation = hd.seg.segread(paths["seg"])
    assert list(segmentation.segment_numbers) == [1]
    assert segmentation.get_segment_description(1).segment_label == "No lesion candidate"
    assert not segmentation.pixel_array.any()
    assert hd.sr.srread(paths["sr"]).content.get_volumetric_roi_measurement_groups() == []


def test_the_weakest_of_very_many_candidates_share_a_segment(tmp_path: Path) -> None:
    for n, plane in enumerate(make_pixels((3, 16, 16))):
        save_dataset(make_slice(plane, ImagePositionPatient=[0, 0, 2.0 * n], InstanceNumber=n), tmp_path / "scan" / str(n))
    source, volume = find_source(tmp_path / "scan")
    heat = np.zeros(volume.array.shape, dtype=np.float32)
    heat[::2, ::2, 1] = np.linspace(0.6, 0.9, 64).reshape(8, 8)
    case = draw_case(volume, heat)
    write_segmentation(tmp_path / "seg.dcm", source, volume, case, ACCOUNT)
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    assert segmentation.number_of_segments == MOST_SEGMENTS == 50
    assert segmentation.get_segment_description(50).segment_label == "Lesion candidates 50 to 64"
    numbers = [
        one.SegmentIdentificationSequence[0].ReferencedSegmentNumber for one in segmentation.PerFrameFunctionalGroupsSequence
    ]
    assert [frame.sum() for _, frame in sorted(zip(numbers, segmentation.pixel_array, strict=True))] == [1] * 49 + [15]
    *_, last = list_findings(case.candidates)
    assert last.volume_ml == pytest.approx(sum(candidate.volume_ml for candidate in case.candidates[49:]))
    assert last.mean == pytest.approx(np.mean([candidate.peak for candidate in case.candidates[49:]]))


def test_slices_that_jitter_keep_the_places_their_files_say(tmp_path: Path) -> None:
    source, volume = find_source(save_slices(tmp_path / "scan", (0, 2.01, 3.995, 6.01, 8.0)))
    places = [one.position for one in source.series.parts[0].frames]  # type: ignore[union-attr]
    image = dcmread(write_all(tmp_path / "out", source, volume, draw_case(volume))["pm"])
    written = [one.PlanePositionSequence[0].ImagePositionPatient for one in image.PerFrameFunctionalGroupsSequence]
    np.testing.assert_allclose(sorted(map(tuple, written)), sorted(places), atol=1e-9)


@pytest.mark.parametrize("skew", [1e-6, 9e-6, 2e-5, 5e-3])
def test_rows_and_columns_that_are_not_square_become_so(tmp_path: Path, skew: float) -> None:
    source, volume = find_source(save_slices(tmp_path / "scan", (0, 2, 4), (1, 0, 0, skew, 1, 0)))
    paths = write_all(tmp_path / "out", source, volume, draw_case(volume))
    assert hd.imread(paths["pm"]).get_volume().shape == volume.array.shape[::-1]


def test_odd_or_missing_values_of_the_patient_are_left_empty(tmp_path: Path) -> None:
    odd = {"PatientName": None, "PatientID": None, "PatientBirthDate": "someday", "StudyTime": "noon", "AccessionNumber": None}
    folder = tmp_path / "scan"
    for n, plane in enumerate(make_pixels((3, 6, 7))):
        with pytest.warns(UserWarning, match="Invalid value"):
            slice_ = make_slice(plane, ImagePositionPatient=[0, 0, 2.0 * n], PatientSex="X", InstanceNumber=n, **odd)
        save_dataset(slice_, folder / f"{n}.dcm")
    source, volume = find_source(folder)
    for path in write_all(tmp_path / "out", source, volume, draw_case(volume)).values():
        written = dcmread(path)
        assert [str(written[name].value or "") for name in (*odd, "PatientSex")] == [""] * 6


def test_a_series_without_frame_of_reference_gets_one_for_all_its_objects(tmp_path: Path) -> None:
    source, volume = find_source(save_slices(tmp_path / "scan", (0, 2, 4), FrameOfReferenceUID=None))
    paths = write_all(tmp_path / "out", source, volume, draw_case(volume))
    uids = {dcmread(paths[kind]).FrameOfReferenceUID for kind in ("seg", "pm")}
    marks = hd.sr.srread(paths["sr"]).content.get_planar_roi_measurement_groups()
    assert {mark.roi.frame_of_reference_uid for mark in marks} == uids
    assert len(uids) == 1


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_series_to_which_nothing_can_point_is_refused_by_what_it_lacks(tmp_path: Path, missing: str) -> None:
    source, volume = find_source(save_slices(tmp_path / "scan", (0, 2, 4), **{missing: None}))
    with pytest.raises(InputError, match=f"no {missing}, by which") as caught:
        write_segmentation(tmp_path / "seg.dcm", source, volume, draw_case(volume), ACCOUNT)
    assert PATIENT not in str(caught.value)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_slices_of_one_uid_are_refused(tmp_path: Path, kind: str) -> None:
    source, volume = find_source(save_slices(tmp_path / "scan", (0, 2, 4), SOPInstanceUID="1.2.3.6"))
    with pytest.raises(InputError, match="2 of 3 slices repeat the SOPInstanceUID of another"):
        WRITERS[kind](tmp_path / "object.dcm", source, volume, draw_case(volume), ACCOUNT)


def test_odd_values_of_the_study_are_not_quoted(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = save_slices(tmp_path / "scan", (0, 2, 4))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.3.5", b"Doe^Jan"))
    source, volume = find_source(folder)
    with suppress(InputError):
        write_all(tmp_path / "out", source, volume, draw_case(volume))
    assert "Doe" not in "".join(str(warning.message) for warning in recwarn.list)


@pytest.mark.parametrize("tags", [{"ImagePositionPatient": None}, {"ImageOrientationPatient": None}])
def test_slices_without_a_place_in_the_patient_are_refused(tmp_path: Path, tags: dict[str, Any]) -> None:
    for n, plane in enumerate(make_pixels((3, 6, 7))):
        given = {"ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": [0, 0, n], "InstanceNumber": n} | tags
        save_dataset(make_slice(plane, **given), tmp_path / "scan" / f"{n}.dcm")
    source, volume = find_source(tmp_path / "scan")
    with pytest.raises(InputError, match="no place in the patient"):
        write_parametric_map(tmp_path / "pm.dcm", source, volume, draw_case(volume), ACCOUNT)


def test_other_files_have_no_dicom_outputs(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(make_pixels())
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    source, volume = find_source(tmp_path)
    with pytest.raises(InputError, match="DICOM outputs need a DICOM input"):
        write_measurements(tmp_path / "sr.dcm", source, volume, draw_case(volume), ACCOUNT)

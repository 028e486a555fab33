"""Files of protocols, the catalogue of sets, draws, and the baseline without adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aaclip_med.cli.protocols import NAMES
from aaclip_med.data.benchmarks.registry import FORMATS
from aaclip_med.data.index import Case
from aaclip_med.data.sampling import check_leaks
from aaclip_med.errors import InputError
from aaclip_med.model.build import build_detector
from aaclip_med.model.surgery import build_surgery_detector
from aaclip_med.presets import get_preset
from aaclip_med.protocols.config import check_shots, find_protocols, read_protocol
from aaclip_med.protocols.sets import SETS, draw_lessons
from aaclip_med.published import AVERAGES


def test_every_protocol_of_the_command_line_has_its_file_and_names_sets_that_are_known() -> None:
    assert tuple(find_protocols()) == NAMES
    for name in NAMES:
        protocol = read_protocol(name)
        for part in protocol.parts:
            lessons = () if isinstance(part.train, str) else part.train
            assert {*part.test, *lessons} <= SETS.keys()


def test_zero_shot_is_the_published_protocol() -> None:
    protocol = read_protocol("zero_shot")
    assert protocol.shots == (2, 16, 64, "full")
    assert protocol.parts[0].train == ("visa",)
    assert len(protocol.parts[0].test) == 10
    assert (protocol.parts[1].train, protocol.parts[1].test) == (("mvtec",), ("visa",))


def test_every_published_average_is_known_and_each_protocol_quotes_what_corresponds() -> None:
    assert {name: (one.pixel_auroc, one.image_auroc) for name, one in AVERAGES.items()} == {
        "clip": (0.503, 0.693),
        "plain": (0.489, 0.534),
        "residual": (0.913, 0.807),
        "text": (0.921, 0.826),
        "full": (0.927, 0.833),
    }
    assert {name: read_protocol(name).average for name in NAMES} == {
        "clip": ("clip",),
        "clip_surgery": ("clip",),
        "linear_projection": ("clip", "full"),
        **dict.fromkeys(("few_shot", "leave_one_organ_out", "normal_only", "zero_shot"), ("full",)),
    }


def test_every_set_has_a_format_that_is_read_a_preset_and_an_address() -> None:
    for one in SETS.values():
        assert FORMATS[one.format].source in one.source
        assert "https://" in one.source
        assert get_preset(one.preset)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x", "needs title and parts"),
        ("title: x\nparts: []\nshot: 3", "no setting 'shot'"),
        ("title: x\nparts: []", "no seeds or no parts"),
        ("title: x\nparts: [{train: itself}]", "it needs 'test'"),
        ("title: x\nparts: [{test: [brain]}]", "model 'trained' and 'train: nothing' do not go together"),
        ("title: x\nmodel: clip\nparts: [{train: itself, test: [brain]}]", "do not go together"),
        ("title: x\nmodel: klip\nparts: [{test: [brain]}]", "unknown model 'klip'"),
        ("title: x\nfidelity: pape\nparts: [{train: itself, test: [brain]}]", "unknown fidelity 'pape'"),
        ("title: x\nshots: [0]\nparts: [{train: itself, test: [brain]}]", "shots '0'; take 1 or more, or 'full'"),
        ("title: x\nshots: [4]\ntraining: {normal_only: true}\nparts: [{train: itself, test: [brain]}]", "take shots 'full'"),
        (
            "title: x\naverage: [full, best]\nparts: [{train: itself, test: [brain]}]",
            "unknown average 'best'; choose one of clip,",
        ),
        (
            "title: x\nseeds: [-1]\nparts: [{train: itself, test: [brain]}]",
            "seeds -1: take a whole number from 0 to 4294967295",
        ),
        ("title: x\nseeds: [1.5]\nparts: [{train: itself, test: [brain]}]", "seeds 1.5"),
        (
            "title: x\nvalidation_shots: 1.5\nparts: [{train: itself, test: [brain]}]",
            "validation_shots 1.5: take a whole number",
        ),
        ("title: x\nvalidation_shots: -1\nparts: [{train: itself, test: [brain]}]", "validation_shots -1"),
        ("title: x\ntraining: {image_epochs: two}\nparts: [{train: itself, test: [brain]}]", "training: image_epochs 'two'"),
        ("title: x\ntraining: 2\nparts: [{train: itself, test: [brain]}]", "training 2: settings of train.yaml by name"),
        ("title: [", "not YAML"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"own\.yaml") as caught:
        read_protocol(str(path))
    assert said in str(caught.value)


def test_an_unknown_protocol_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"unknown protocol 'zero'; choose one of clip, .*zero_shot, or a YAML file"):
        read_protocol("zero")


def test_shots_come_as_numbers_or_text() -> None:
    assert check_shots(["2", 16, "full", 2]) == (2, 16, "full")


def make_cases(normal: int, abnormal: int, per_patient: int = 1) -> list[Case]:
    labels = [0] * normal + [1] * abnormal
    return [Case(Path(f"{n}.png"), label, "Brain", patient=str(n // per_patient), row=n) for n, label in enumerate(labels)]


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_of_other_patients_than_training(seed: int) -> None:
    drawn, _ = draw_lessons(make_cases(20, 20, per_patient=4), 2, 3, seed)
    parts = {split: [case for case in drawn if case.split == split] for split in ("train", "val")}
    assert [sum(case.label for case in part) for part in parts.values()] == [2, 3]
    assert [len(part) for part in parts.values()] == [4, 6]
    assert not {case.patient for case in parts["train"]} & {case.patient for case in parts["val"]}


@pytest.mark.parametrize("seed", range(8))
def test_sessions_of_one_patient_are_not_both_learned_from_and_validated_on(seed: int) -> None:
    cases = [Case(Path(f"p{n}_ses-{s}.nii.gz"), n % 2, "Brain") for n in range(8) for s in (1, 2)]
    drawn, _ = draw_lessons(cases, 2, 2, seed)
    sides = [{str(case.patient) for case in drawn if case.split == split} for split in ("train", "val")]
    assert all(sides)
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] <= {f"p{n}" for n in range(8)}


def test_a_class_with_fewer_cases_gives_what_leaves_validation_its_share() -> None:
    drawn, _ = draw_lessons(make_cases(40, 10), 64, 4, 0)
    assert [sum(case.split == split for case in drawn) for split in ("train", "val")] == [12, 8]


def make_slices(ill: int, well: int = 8) -> list[Case]:
    """BMAD's layout: 6 normal slices of each of ``well`` patients, and of each of ``ill`` 10 normal, 20 abnormal, 10 normal."""
    slices = [Case(Path(f"good/w{n}_{place}.png"), 0, "Brain", patient=f"w{n}") for n in range(well) for place in range(6)]
    for n in range(ill):
        labels = [int(10 <= place < 30) for place in range(40)]
        slices += [Case(Path(f"i{n}_{place}.png"), label, "Brain", patient=f"i{n}") for place, label in enumerate(labels)]
    return slices


def count_by_split(cases: list[Case]) -> dict[str | None, list[int]]:
    """Normal and abnormal cases of each split."""
    return {
        split: [sum(case.split == split and case.label == label for case in cases) for label in (0, 1)]
        for split in ("train", "val")
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shots", [4, 16])
def test_patients_for_validation_are_set_aside_before_shots_are_drawn(shots: int, seed: int) -> None:
    drawn, notes = draw_lessons(make_slices(ill=2), shots, 8, seed)
    assert count_by_split(drawn) == {"train": [shots, shots], "val": [8, 8]}
    assert len({case.patient for case in drawn if case.split == "val"}) == 1
    check_leaks(drawn)
    assert notes == []


def test_a_lone_patient_with_lesions_is_parted_along_its_slices_and_the_table_told() -> None:
    drawn, notes = draw_lessons(make_slices(ill=1), 16, 8, 0)
    assert count_by_split(drawn) == {"train": [11, 11], "val": [8, 8]}
    places = {
        split: [int(case.name.split("_")[1]) for case in drawn if case.label and case.split == split]
        for split in ("train", "val")
    }
    assert min(places["train"]) - max(places["val"]) >= 2
    check_leaks(drawn)
    assert notes == [
        "Brain: 11 shots where 16 were asked for; it has no more beside what is set aside for validation",
        "Brain: the epoch is chosen on slices of a patient who is trained on too; there is no other",
    ]


def test_a_patient_who_alone_has_all_slices_gives_both_parts_of_each_kind() -> None:
    drawn, notes = draw_lessons(make_slices(ill=1, well=0), 4, 8, 0)
    assert count_by_split(drawn) == {"train": [4, 4], "val": [8, 8]}
    check_leaks(drawn)
    assert len(notes) == 1


def test_where_nothing_is_left_for_validation_the_table_is_told() -> None:
    drawn, notes = draw_lessons(make_cases(5, 1), 1, 2, 0)
    assert count_by_split(drawn) == {"train": [1, 1], "val": [0, 0]}
    assert notes == ["Brain: 0 validation shots where 2 were asked for; it has no more"]


def test_a_class_that_has_too_few_is_refused() -> None:
    with pytest.raises(InputError, match="class Brain has 3 normal and 0 abnormal cases"):
        draw_lessons(make_cases(3, 0), 2, 1, 0)


def test_full_is_every_row_and_normal_only_the_normal_ones() -> None:
    cases = make_cases(5, 3)
    assert draw_lessons(cases, "full", 4, 0) == (cases, [])
    assert draw_lessons(cases, "full", 4, 0, normal_only=True).cases == cases[:5]


def test_objects_and_polyps_are_called_by_their_names_under_every_fidelity() -> None:
    preset = get_preset("retinal-oct")
    for fidelity in ("reference", "paper"):
        assert preset.noun_for(fidelity, "metal_nut") == "metal nut"
        assert preset.noun_for(fidelity, "pcb3") == "printed circuit board"
        assert replace(preset, class_name="Colon_cvc300").noun_for(fidelity) == "colon endoscopy image"
    assert preset.noun_for("reference", "my organ") == "scan"
    assert preset.noun_for("paper", "my organ") == "retinal OCT"


def test_value_value_features_are_clips_own_before_the_first_value_block_and_others_after() -> None:
    plain = build_detector("tiny", image_size=40, adapters="none").eval()
    surgery = build_surgery_detector("tiny", image_size=40).eval()
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs, alone = surgery.encode_image(images), plain.encode_image(images), surgery.encode_image(images[:1])
    plain_blocks = 1
    for level, (one, other) in enumerate(zip(ours.levels, theirs.levels, strict=True), start=1):
        assert torch.allclose(one, other, atol=1e-5) is (level <= plain_blocks)
        assert torch.allclose(torch.linalg.vector_norm(one, dim=-1), torch.ones(one.shape[:2]), atol=1e-5)
    assert torch.allclose(ours.detection, theirs.detection, atol=1e-5)
    assert torch.allclose(ours.levels[-1][:1], alone.levels[-1], atol=1e-5), "attention runs within an image"

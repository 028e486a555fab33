"""A protocol as its file says it (YAML)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from aaclip_med.errors import InputError
from aaclip_med.model.config import FIDELITIES
from aaclip_med.published import AVERAGES
from aaclip_med.training.settings import LARGEST_SEED, check_settings, check_whole

Model = Literal["trained", "clip", "clip-surgery"]
Shots = int | Literal["full"]
FULL: Literal["full"] = "full"
OTHERS, ITSELF = "others", "itself"


@dataclass(frozen=True)
class Part:
    """Sets that are tested on what was learned from others. train: names of sets, ``others`` (of this part) or ``itself``."""

    test: tuple[str, ...]
    train: tuple[str, ...] | Literal["others", "itself"] = ()


@dataclass(frozen=True)
class Protocol:
    """One experiment.

    model: ``trained``, or a baseline without any adapter. shots: normal and abnormal cases of each class to learn from, or
    ``full``. seeds: each draws other cases and begins from other adapters. validation_shots: cases of each class and kind that
    choose the epoch, none of them learned from; 0, and with ``full``: ``train`` keeps some patients for it. training:
    settings of the bundle's ``train.yaml`` by name. fidelity: ``reference`` or ``paper``. average: published ones to quote.
    """

    title: str
    parts: tuple[Part, ...]
    model: Model = "trained"
    shots: tuple[Shots, ...] = (FULL,)
    seeds: tuple[int, ...] = (0,)
    validation_shots: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    fidelity: str | None = None
    average: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("model", self.model, get_args(Model)),
            ("fidelity", self.fidelity, (None, *FIDELITIES)),
            *(("average", name, tuple(AVERAGES)) for name in self.average),
        ):
            if value not in choices:
                raise InputError(f"unknown {name} '{value}'; choose one of {', '.join(filter(None, choices))}")
        if not self.seeds or not self.parts:
            raise InputError("no seeds or no parts")
        for seed in self.seeds:
            check_whole("seeds", seed, 0, LARGEST_SEED)
        check_whole("validation_shots", self.validation_shots, 0)
        if not isinstance(self.training, dict):
            raise InputError(f"training {self.training!r}: settings of train.yaml by name")
        try:
            check_settings(self.training)
        except InputError as error:
            raise InputError(f"training: {error}") from None
        if self.training.get("normal_only") and self.shots != (FULL,):
            raise InputError("normal_only learns from all normal rows; take shots 'full'")
        for part in self.parts:
            if bool(part.train) != self.is_trained:
                raise InputError(f"model '{self.model}' and 'train: {part.train or 'nothing'}' do not go together")

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train."""
        return self.model == "trained"


def find_protocols() -> dict[str, Path]:
    """The files of the protocols that come with the package, by name."""
    package = Path(str(files("aaclip_med")))
    inside = package / "protocols" / "configs"
    folder = inside if inside.is_dir() else package.parent / "protocols"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_protocol(name: str) -> Protocol:
    """The protocol called ``name``, or that of a file of one's own.

    Raises:
        InputError: there is none of that name, or its file is not what it should be.
    """
    known = find_protocols()
    path = known.get(name) or Path(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"unknown protocol '{name}'; choose one of {', '.join(known)}, or a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    return _check(content, path)


def check_shots(values: list[Any] | tuple[Any, ...]) -> tuple[Shots, ...]:
    """``full`` and whole numbers of at least 1, also as text.

    Raises:
        InputError: a value is neither, or there is none.
    """
    shots: list[Shots] = []
    for value in values:
        number = int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else 0
        if value != FULL and (number < 1 or isinstance(value, bool)):
            raise InputError(f"shots '{value}'; take 1 or more, or 'full'")
        shots.append(FULL if value == FULL else number)
    if not shots:
        raise InputError("no shots; take numbers, or 'full'")
    return tuple(dict.fromkeys(shots))


def _check(content: object, path: Path) -> Protocol:
    known = [one.name for one in fields(Protocol)]
    if not isinstance(content, dict) or not {"title", "parts"} <= content.keys():
        raise InputError(f"{path}: a protocol needs title and parts")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise InputError(f"{path}: no setting '{unknown[0]}'; there are {', '.join(known)}")
    values = dict(content)
    try:
        values["shots"] = check_shots(values.get("shots", [FULL]))
        values["seeds"] = tuple(dict.fromkeys(values.get("seeds", [0])))
        average = values.get("average") or []
        values["average"] = (average,) if isinstance(average, str) else tuple(map(str, average))
        values["parts"] = tuple(_check_part(part) for part in values["parts"])
        return Protocol(**values)
    except (TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"{path}: {error}") from None


def _check_part(part: object) -> Part:
    match part:
        case {"test": [_, *_] as test, **rest} if rest.keys() <= {"train"}:
            train = rest.get("train", ())
            if train == "others" or train == "itself":
                return Part(tuple(map(str, test)), train)
            if isinstance(train, (list, tuple)):
                return Part(tuple(map(str, test)), tuple(map(str, train)))
    raise InputError(f"part {part}; it needs 'test', a list of sets, and 'train': a list of sets, '{OTHERS}' or '{ITSELF}'")

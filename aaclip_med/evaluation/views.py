"""A case on the grid it is judged on: maps, masks, and what lies inside the body."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from aaclip_med.data.fusion import ALL_PLANES
from aaclip_med.data.index import Case
from aaclip_med.data.slices import CutCase, cut_case, find_lit, read_organ, to_grey
from aaclip_med.errors import AaclipError, InputError
from aaclip_med.inference.cutting import Cutting, adapt_case, find_plane
from aaclip_med.inference.predictor import Predictor, Prepared, thin
from aaclip_med.model.preprocess import fit_masks, resize_slices
from aaclip_med.scoring.metrics import require_no_nan

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class View:
    """The scored slices of a case.

    maps: (S, h, w) float32, higher is more abnormal. detection: (S,), interpolated under a stride as maps are; NaN where there
    is none. numbers: which slices they are. masks: (S, h, w) bool, None where unknown. inside: (S, h, w) bool, above 0 under
    the window and within the organ.
    spacing: mm between slices, rows and columns of this grid. places: (S,), of the slices along their normal, in patches.

    The grid is the detector's square one, masks brought to it by nearest neighbour, as the released program does; for fused
    planes (``plane`` is ``all``) and for a stride it is the slices' own.
    """

    case: Case
    cut: CutCase
    plane: str
    numbers: list[int]
    maps: Array
    detection: Array
    masks: Array | None
    inside: Array
    spacing: tuple[float, float, float]
    places: Array

    def find_own(self, places: Array) -> Array:
        """Places (P, 3) of this grid as places in the case's own slices (S, H, W)."""
        _, height, width = self.cut.images.shape[:3]
        rows, columns = (
            ((places[:, axis] + 0.5) * length / self.maps.shape[axis]).astype(np.int64)
            for axis, length in ((1, height), (2, width))
        )
        return np.stack([np.asarray(self.numbers)[places[:, 0]], rows, columns], axis=1)


def score_cases(cases: Iterable[Case], predictor: Predictor, cutting: Cutting) -> Iterator[tuple[Case, View | AaclipError]]:
    """Each case, as ``adapt_case`` gives it, with its view in log odds or with why there is none; in order.

    Batches of slices go over the borders of cases, which are read only as they are needed.

    Raises:
        InputError: the industrial protocol is asked for with a stride or all planes.
    """
    if predictor.domain == "industrial" and not is_on_square(cutting.plane, cutting.stride):
        raise InputError("the industrial protocol scores every slice by itself; leave out the stride and --plane all")
    waiting: deque[tuple[Case, View | AaclipError]] = deque()

    def prepared() -> Iterator[Prepared]:
        for case in cases:
            try:
                case = adapt_case(case, predictor, cutting)
                view = frame_case(case, predictor, cutting)
                ready = _prepare(view, predictor, cutting)
            except AaclipError as error:
                waiting.append((case, error))
                continue
            waiting.append((case, view))
            yield ready

    for ready, parts in predictor.score_prepared(prepared()):
        case, view = waiting.popleft()
        while isinstance(view, AaclipError):
            yield case, view
            case, view = waiting.popleft()
        if is_on_square(view.plane, cutting.stride):
            yield case, _fill(view, parts[0].log_odds, parts[0].detection)
        else:
            heat = predictor.fuse(ready, parts).heatmap
            detection = view.detection
            if view.plane != ALL_PLANES:
                detection = np.interp(view.numbers, thin(view.numbers, cutting.stride), parts[0].detection)
            yield case, _fill(view, np.ascontiguousarray(view.cut.crop(view.cut.plan.cut(heat))[view.numbers]), detection)
    yield from waiting


def _fill(view: View, maps: Array, detection: Array) -> View | InputError:
    """The view with maps (S, h, w) of its grid and detection scores (S,)."""
    try:
        require_no_nan(maps)
    except InputError as error:
        return error
    return replace(view, maps=maps, detection=detection)


def _prepare(view: View, predictor: Predictor, cutting: Cutting) -> Prepared:
    cut, case = view.cut, view.case
    if view.plane == ALL_PLANES:
        organ = read_organ(case.organ_path, cut.volume) if case.organ_path else None
        return predictor.prepare(cut.volume, ALL_PLANES, case.slices, organ, cutting.stride)
    stack = cut.images.choose(thin(cut.used, cutting.stride))
    return Prepared(cut.volume, None, cutting.stride, (cut,), (stack,))


def frame_case(case: Case, predictor: Predictor, cutting: Cutting) -> View:
    """Read and cut one row, as ``adapt_case`` gives it, with maps of zeros.

    Raises:
        InputError: an image or mask cannot be used.
    """
    cut = cut_case(case, predictor.preset)
    plane = find_plane(cut.volume, case, predictor, cutting)
    images, numbers = cut.images[cut.used], cut.used
    inside = find_lit(images)
    if cut.organ is not None:
        inside &= cut.organ[numbers]
    masks = cut.masks[numbers] if cut.masks is not None else None
    row_mm, column_mm, slice_mm = cut.plan.pixel_spacing(cut.volume.spacing)
    count, height, width = images.shape[:3]
    if is_on_square(plane, cutting.stride):
        size = predictor.choose_side(cut.images.shape[1], cut.images.shape[2])
        inside = fit_masks(inside, size)
        masks = fit_masks(masks, size) if masks is not None else None
        row_mm, column_mm, height, width = row_mm * height / size, column_mm * width / size, size, size
    maps, places = np.zeros((count, height, width), dtype=np.float32), predictor.place_slices(cut, numbers)
    return View(case, cut, plane, numbers, maps, np.full(count, np.nan), masks, inside, (slice_mm, row_mm, column_mm), places)


def is_on_square(plane: str | None, stride: int) -> bool:
    """Whether a case is judged on the detector's square grid."""
    return plane != ALL_PLANES and stride == 1


def show_other(view: View, paint: Callable[[Array, Array], Array]) -> View:
    """The same view with maps that ``paint`` makes of the windowed intensity (S, h, w) and of what is inside."""
    grey = to_grey(view.cut.images[view.numbers])
    if grey.shape != view.maps.shape:
        grey = resize_slices(torch.from_numpy(np.ascontiguousarray(grey))[:, None], view.maps.shape[-1])[:, 0].numpy()
    return replace(view, maps=paint(grey, view.inside), detection=np.full(len(grey), np.nan, dtype=np.float32))

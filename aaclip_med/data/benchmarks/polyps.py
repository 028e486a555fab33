"""Polyps in colonoscopy: pictures in ``images``, masks of the same names in ``masks``, each with a polyp, no splits.

CVC-ClinicDB calls the folders ``Original`` and ``Ground Truth``. Frames of one video are not marked as such, so no patient is
known.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aaclip_med.data.benchmarks.layouts import Layout, Listing, check_folder, list_pictures, number_rows, pair_masks
from aaclip_med.data.index import Case

FOLDERS = (("images", "masks"), ("Original", "Ground Truth"))
TREE = "images with pictures and masks with masks of the same names, or so Original and Ground Truth"

SETS = {
    "cvc-clinicdb": ("Colon_clinicDB", "Bernal et al., Computerized Medical Imaging and Graphics 2015"),
    "cvc-colondb": ("Colon_colonDB", "Bernal et al., Pattern Recognition 2012"),
    "cvc-300": ("Colon_cvc300", "Vazquez et al., Journal of Healthcare Engineering 2017"),
    "kvasir": ("Colon_Kvasir", "Jha et al., MultiMedia Modeling 2020"),
}
"""Of each format the class name, that of AA-CLIP's index files, and the source."""


def build_polyps(folder: Path, default_class: str, class_name: str | None = None) -> Listing:
    """All pictures of ``folder``, abnormal with their masks.

    Raises:
        InputError: another layout, a picture without its mask or a mask without its picture.
    """
    check_folder(folder, TREE)
    images, masks = next((pair for pair in FOLDERS if (folder / pair[0]).is_dir()), FOLDERS[0])
    pairs = pair_masks(list_pictures(folder / images, TREE), list_pictures(folder / masks, TREE))
    return Listing(number_rows(Case(image, 1, class_name or default_class, mask) for image, mask in pairs.items()))


LAYOUTS = {
    name: Layout(
        f"polyps, {class_name}", TREE, source, partial(build_polyps, default_class=class_name), options=("class_name",)
    )
    for name, (class_name, source) in SETS.items()
}

"""DICOM series as volumes: ``list_series`` says what is there and what is wrong with it, ``read_series`` reads it."""

from aaclip_med.data.dicom.headers import looks_like_dicom
from aaclip_med.data.dicom.series import Series, list_series, read_series

__all__ = ["Series", "list_series", "looks_like_dicom", "read_series"]

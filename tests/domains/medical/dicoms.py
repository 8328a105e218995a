"""Made DICOM files with planted identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
PLANTED = {
    "PatientName": "Zebulon^Quillfeather", "PatientID": "MRN-77421903", "PatientBirthDate": "19370415",
    "StudyDate": "20190823", "AccessionNumber": "ACC55667788", "ReferringPhysicianName": "Ottoline^Grubb",
    "InstitutionName": "Saint Elsewhere Infirmary", "PatientAddress": "12 Larkspur Lane",
}  # fmt: skip
WORDS = (
    "Zebulon",
    "Quillfeather",
    "77421903",
    "19370415",
    "20190823",
    "ACC55667788",
    "Ottoline",
    "Elsewhere",
    "Larkspur",
)


def write(path: Path, pixels: Any, **tags: Any) -> Path:
    """A file of those pixels, (H, W), (F, H, W) or (H, W, 3); ``tags`` override or, being None, remove."""
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CT
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    bits = pixels.dtype.itemsize * 8
    frames = pixels.shape[0] if pixels.ndim == 3 and not colour else None
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    values = {
        **PLANTED, "Modality": "CT", "SeriesInstanceUID": "1.2.3.77421903", "Rows": rows, "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None, "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "NumberOfFrames": frames, "PixelSpacing": [0.5, 0.25],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0], "SliceThickness": 2.0,
        **tags,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(found, name, value)
    found.PixelData = np.ascontiguousarray(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path

"""Public scenes by name, and what their files do not say about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..public import PublicData, PublicFile

_GRAPHCONVSC = (
    "https://raw.githubusercontent.com/AngryCai/GraphConvSC/00d051f835dcf6d66c6c099a1c91c62ff76fa78c/HSI_Datasets"
)
_GTVMBO = (
    "https://raw.githubusercontent.com/HarlinLee/gtvMBO-public/6eb0bd6891dc3aa8acdeea3ad4a4a9c1aa78003d/data/samson"
)


def aviris_nominal() -> tuple[float, ...]:
    """Nominal AVIRIS wavelengths (nm): 224 channels from 400 to 2500 nm less the 20 water bands usually left out.

    Nominal, because the distributed cube states none: channels 108-112, 154-167 and 224 are gone, the rest are taken
    to be evenly spaced.
    """
    gone = {*range(108, 113), *range(154, 168), 224}
    return tuple(round(400.0 + 2100.0 * i / 223, 3) for i in range(224) if i + 1 not in gone)


@dataclass(frozen=True)
class PublicScene:
    """A public scene for classification: its files, and what they leave unsaid."""

    data: PublicData
    cube: str  # the file, and the variable in it
    cube_variable: str
    labels: str
    label_variable: str
    wavelength_nm: tuple[float, ...]
    class_names: Mapping[int, str]
    notes: tuple[str, ...]


SALINAS_A = PublicScene(
    PublicData(
        name="salinas_a",
        domain="hyperspectral",
        files={
            "SalinasA_corrected.mat": PublicFile(
                "d75684ed3ab71a1024cee0f9db9061f50a3523a92ff5edfbbb1eed976b9f1721",
                f"{_GRAPHCONVSC}/SalinasA_corrected.mat",
            ),
            "SalinasA_gt.mat": PublicFile(
                "17814c1d3296c0e29b27f320f2c4174d2a68adb87e376abe78f02923e2c2e454", f"{_GRAPHCONVSC}/SalinasA_gt.mat"
            ),
        },
        licence="none stated",
        source="AVIRIS (NASA/JPL), Salinas Valley; EHU Grupo de Inteligencia Computacional, Hyperspectral Remote "
        "Sensing Scenes",
        protocol="blocks of 24 px with a buffer of at least the patch radius; OA, AA, kappa over five seeds. "
        "A random pixel split leaks here: at 10 % a classifier of coordinates alone reaches 99.6 % OA",
        task="hyperspectral/classify",
    ),
    cube="SalinasA_corrected.mat",
    cube_variable="salinasA_corrected",
    labels="SalinasA_gt.mat",
    label_variable="salinasA_gt",
    wavelength_nm=aviris_nominal(),
    class_names={
        1: "broccoli weeds 1",
        10: "corn senesced",
        11: "lettuce 4 weeks",
        12: "lettuce 5 weeks",
        13: "lettuce 6 weeks",
        14: "lettuce 7 weeks",
    },
    notes=("wavelengths are nominal: the file states none",),
)

SCENES: dict[str, PublicScene] = {"salinas_a": SALINAS_A}

SAMSON = PublicData(
    name="samson",
    domain="hyperspectral",
    files={
        "samson_1.mat": PublicFile(
            "1ebacaf7cd32bfc31c0ee3fd56c63a7f29a434893a8b45705fb59cd8a0c8beb6", f"{_GTVMBO}/samson_1.mat"
        ),
        "end3.mat": PublicFile(
            "ce768182ce5292390180f827ff5769112cf3d299f4e64ab43e950a310b7ec9fa", f"{_GTVMBO}/end3.mat"
        ),
    },
    licence="none stated",
    source="F. Zhu et al., structured sparse method for hyperspectral unmixing (2014)",
    protocol="blind unmixing with three endmembers, at least ten seeds; spectral angle and abundance RMSE",
    task="hyperspectral/unmix",
)

_SET5 = (
    "https://raw.githubusercontent.com/majedelhelou/denoising_datasets/58234876fef6f1b56306705c78dfd40cdb837b86/CSet5"
)
SET5 = PublicData(
    name="set5",
    domain="images",
    files={
        f"{name}.png": PublicFile(digest, f"{_SET5}/{name}.png")
        for name, digest in {
            "baby": "cb85956d68f708a1030c790d143cbcd108f5ac5988d3349180cdcb54dd80597d",
            "bird": "5dcf863f7c3802e68fbb0fca2ec351052a1f97a4db613e510dbd105cee9a6a32",
            "butterfly": "487d841c9dbc46c7ab496c319ec1f13268de7ea7e02f94ae18781ca86a5abd0d",
            "head": "f524c1ce41641c1cf269a20c4dfbe965e07e471d609abc19dfadfb71037cc873",
            "woman": "f276625a222b9ce18d18d86e1ec603fea50427b7c0a2927b3750b1bb86a07b83",
        }.items()
    },
    folder="cset5",
    licence="none stated",
    source="M. Bevilacqua et al., low-complexity single-image super-resolution (2012)",
    protocol="super-resolution of luma: whole images, PSNR of 8-bit values with as many pixels shaved as the scale; "
    "bicubic at x2: 33.67 dB. Here each image is left out in turn, for the field trains on other images",
    task="hyperspectral/superres",
)

DATASETS: dict[str, PublicData] = {"salinas_a": SALINAS_A.data, "samson": SAMSON, SET5.name: SET5}


def samson_wavelengths() -> tuple[float, ...]:
    """Nominal wavelengths (nm) of the Samson scene: 156 bands from 401 to 889 nm."""
    return tuple(float(w) for w in np.linspace(401.0, 889.0, 156).round(3))

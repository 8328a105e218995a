"""Public graphs by name: source, checksums, licence, protocol."""

from __future__ import annotations

from collections.abc import Mapping

from ..public import PublicData, PublicFile
from .checksums import MUTAG as MUTAG_SUMS
from .checksums import PROTEINS as PROTEINS_SUMS
from .data.public_signals import SIGNAL_SETS

_RAW = "https://raw.githubusercontent.com"
_PLANETOID = f"{_RAW}/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data"
_HETEROPHILOUS = f"{_RAW}/yandex-research/heterophilous-graphs/a431395582e929d88271309716bea4fe24ce6318/data"
_DGCNN = f"{_RAW}/muhanzhang/pytorch_DGCNN/50f504131ca66382f3f078ae98e59aa3ae35b795/data"

CORA = PublicData(
    name="cora",
    domain="graph",
    folder="planetoid_cora",
    files={
        f"ind.cora.{part}": PublicFile(sha256, f"{_PLANETOID}/ind.cora.{part}")
        for part, sha256 in {
            "allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
            "ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
            "graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
            "test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
            "tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
            "ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
            "x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
            "y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
        }.items()
    },
    licence="MIT",
    source="Yang et al. 2016, Planetoid: 2708 papers, their words, their citations",
    protocol="public split 140/500/1000, accuracy over ten seeds; also random 20 per class, ten draws",
    task="graph/node",
)


def _heterophilous(name: str, sha256: str, what: str) -> PublicData:
    return PublicData(
        name=name,
        domain="graph",
        folder="heterophilous",
        files={f"{name}.npz": PublicFile(sha256, f"{_HETEROPHILOUS}/{name}.npz")},
        licence="MIT",
        source=f"Platonov et al. 2023, heterophilous graphs: {what}",
        protocol="ten fixed masks, accuracy: --set split.index=0 .. 9",
        task="graph/node",
    )


def _tu(name: str, file: str, sums: Mapping[str, str], what: str) -> PublicData:
    return PublicData(
        name=name,
        domain="graph",
        folder=f"tu_{name}",
        files={path: PublicFile(sha256, f"{_DGCNN}/{file}/{path}") for path, sha256 in sums.items()},
        licence="MIT (repository); TU data sets: research use",
        source=f"TU data sets, in the form of Zhang et al. 2018 (DGCNN): {what}",
        protocol="ten given folds, nested: a tenth of each training fold validates, the test fold has no say",
        task="graph/graph",
    )


GRAPHS: dict[str, PublicData] = {
    "cora": CORA,
    "chameleon_filtered": _heterophilous(
        "chameleon_filtered",
        "bf46f07e1fb5249280447e5fe3100f3e82fc4b93ad1e13ffcfdec924b6ac0bb5",
        "Wikipedia pages on chameleons without repeated ones, classes by traffic",
    ),
    "actor": _heterophilous(
        "actor",
        "c350eef06b2c2a9bf8218be2b57cac6d4003d0922eb597a039e9123f75817816",
        "actors who share a Wikipedia page, classes by the words of their own",
    ),
    "texas": _heterophilous(
        "texas",
        "b164b99e6c3d43e4ab07488ec59bd8c815f90cbc1bd4cf425ce587d2b534d844",
        "web pages of a university, five classes, one of them with a single page",
    ),
    "mutag": _tu("mutag", "MUTAG", MUTAG_SUMS, "188 molecules, mutagenic or not"),
    "proteins": _tu("proteins", "PROTEINS", PROTEINS_SUMS, "1113 proteins, enzymes or not"),
}

DATASETS: dict[str, PublicData] = {**GRAPHS, **SIGNAL_SETS}

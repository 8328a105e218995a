"""Public signals on graphs, by name."""

from __future__ import annotations

from domains.public import PublicData, PublicFile

CHICKENPOX = PublicData(
    name="pyg_temporal",
    domain="graph",
    files={
        "chickenpox.json": PublicFile(
            "724b48cfb274b2ecbb855bdb99b970b5ef9dd3671694fa477435dc1e08293735",
            "https://raw.githubusercontent.com/benedekrozemberczki/pytorch_geometric_temporal/"
            "adefe44265ad8faf239fd6cf3b59b95ca3ee60aa/dataset/chickenpox.json",
        )
    },
    licence="MIT (of the repository)",
    source="Rozemberczki et al. 2021: weekly chickenpox cases of Hungary's counties, z-scored over the whole record",
    protocol="the last 20 % of the weeks (104) are the test part; mean squared error of the next week, as stored",
    task="graph/signals",
)

SIGNAL_SETS: dict[str, PublicData] = {"chickenpox": CHICKENPOX}

"""Public recordings by name: source, checksums, licence, protocol, and what their files say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from shared_backbones.errors import BadInput

from ..public import PublicData, PublicFile
from .manifests import Entry

_RAW = "https://raw.githubusercontent.com"
_FSDD = f"{_RAW}/Jakobovski/free-spoken-digit-dataset/26eb9aaf76e81b692f806f9140c2d2777410d7a1"
_SPEECHBRAIN = f"{_RAW}/speechbrain/speechbrain/9c826ef3937bac885c8a6ca86c6889a30f256fb5/tests/samples"
SPEAKERS = ("george", "jackson", "theo", "yweweler")
OFFICIAL = 5  # takes 0 .. 4 of every digit and speaker are the official test part


@dataclass(frozen=True)
class Corpus:
    """A public data set, and the clips that its files hold."""

    data: PublicData
    entries: Callable[[Mapping[str, Path]], list[Entry]]


def _fsdd_names() -> list[str]:
    return [f"recordings/{digit}_{who}_{take}.wav" for who in SPEAKERS for digit in range(10) for take in range(50)]


def _fsdd_files() -> dict[str, PublicFile]:
    sums = yaml.safe_load((resources.files(__package__) / "fsdd.yaml").read_text())["sha256"].split()
    return {n: PublicFile(s, f"{_FSDD}/{n}") for n, s in zip(_fsdd_names(), sums, strict=True)}


def _fsdd_entries(files: Mapping[str, Path]) -> list[Entry]:
    found = []
    for path in files.values():
        digit, who, take = path.stem.split("_")
        part = "test" if int(take) < OFFICIAL else "train"
        found.append(Entry(path, str(path), label=digit, text=digit, speaker=who, split=part))
    return found


FSDD = Corpus(
    PublicData(
        name="fsdd",
        domain="audio",
        files=_fsdd_files(),
        licence="CC BY-SA 4.0",
        source="Jakobovski et al., Free Spoken Digit Dataset: 2000 recordings of four speakers at 8 kHz",
        protocol="leave one speaker out (--set split.test=[theo]), mean over the four; the official split (takes 0 to "
        "4, --set split.protocol=given) hears every speaker in training and is reported only beside it",
        task="audio/classify",
    ),
    _fsdd_entries,
)


UNHEARD = ("theo", "yweweler")  # the test speakers of mixtures
HELD = 40  # takes from here on of the other two validate


def _mix_entries(files: Mapping[str, Path]) -> list[Entry]:
    found = []
    for entry in _fsdd_entries(files):
        part = "test" if entry.speaker in UNHEARD else "train" if int(entry.path.stem.split("_")[2]) < HELD else "val"
        found.append(replace(entry, split=part))
    return found


FSDD_MIX = Corpus(
    replace(
        FSDD.data,
        name="fsdd_mix",
        folder="fsdd",
        protocol="mixtures of two speakers at 0 +- 5 dB, made of their digits; test speakers theo and yweweler, whom "
        "neither training nor validation hears. Validation takes other recordings of the training speakers george and "
        "jackson, at other pitches: four speakers leave none for it. Report the improvement of SI-SDR over the mixture",
        task="audio/separate",
    ),
    _mix_entries,
)


def _made_by_the_task(files: Mapping[str, Path]) -> list[Entry]:
    raise BadInput("connected_digits: audio/recognise makes these strings of FSDD; other tasks read fsdd itself")


CONNECTED = Corpus(
    replace(
        FSDD.data,
        name="connected_digits",
        folder="fsdd",
        protocol="strings of 3 to 7 digits of one speaker of FSDD with gaps and level changes; leave one speaker out "
        "(--set split.test=[theo]), word error rate. Validation: strings of other recordings of the training speakers",
        task="audio/recognise",
    ),
    _made_by_the_task,
)


def _samples_entries(files: Mapping[str, Path]) -> list[Entry]:
    """The ten annotated sentences; two of the twelve recordings have no words."""
    found = []
    for part in ("train", "dev"):
        rows: dict[str, Any] = json.loads(files[f"annotation/ASR_{part}.json"].read_text())
        for name, row in rows.items():
            path = files[f"ASR/{name}.wav"]
            split = {"dev": "test"}.get(part, part)
            found.append(Entry(path, str(path), text=row["wrd"], speaker=row["spk_id"], split=split))
    return found


SPEECHBRAIN = Corpus(
    PublicData(
        name="speechbrain_samples",
        domain="audio",
        files={
            name: PublicFile(sha256, f"{_SPEECHBRAIN}/{name}")
            for name, sha256 in {
                "ASR/spk1_snt1.wav": "2f7315ccf543b6368528b098cd895098c154f222cd55ff7b5f66b50feb383c56",
                "ASR/spk1_snt2.wav": "e1f125a318f4026991bf78f5c41481be0fbcf9b3b2fd72284f9824cb851c3034",
                "ASR/spk1_snt3.wav": "dc85f251ecb6f89652e8e3add9f35a39e86cb64a48384c89255437fd0f1bbc69",
                "ASR/spk1_snt4.wav": "719e441a93a3ec220dfc4337c30944aa1774847739ae9d461c3280b612cf869d",
                "ASR/spk1_snt5.wav": "6972d80554dfb14e5ad23c7b355a870e9beb18ab2331fbd4b12ff1777e6ed277",
                "ASR/spk1_snt6.wav": "8811bcbdb867c887cdb036aadd97fa2a8023e90610b314c9913f79f712eb7b6c",
                "ASR/spk2_snt1.wav": "5f3f534ba99f159358c6ee2e4fb5e42b3b9399f37f4e290651405c76095f26f0",
                "ASR/spk2_snt2.wav": "589bcda06796c124544138d7ff40562c146be5e06c1765f2fb4d27c22d19ea8a",
                "ASR/spk2_snt3.wav": "3831efa2081105f8c820312e83f605a320581761c75c52e06f908a12a5da8472",
                "ASR/spk2_snt4.wav": "6dfc7295435a97f2b50c5e95e895fe223b56c61d64a4e0bcb3a663e45f893f4f",
                "ASR/spk2_snt5.wav": "cf312453d454a3e006ac84ef84bd5880452b57e1a8d717f7e37dae65ceec8044",
                "ASR/spk2_snt6.wav": "cdec920cdcbbb0b38110b958f6e90a4726c87be8d9d3f9d3a0834a1cc950cf6d",
                "annotation/ASR_dev.json": "9d3ff05c543ca4b54141e93623cc35b28ef84ecdd71532136b1e6db5c47cd741",
                "annotation/ASR_train.json": "693532e246a8933a34e64b1f92e04ddc91a95e463c650e580ba27afc0fa82482",
            }.items()
        },
        licence="Apache-2.0 (repository); where the utterances come from is not stated",
        source="SpeechBrain test samples: 12 sentences of two speakers at 16 kHz, 10 of them with words",
        protocol="a smoke test of text handling: 8 sentences to train, 2 to decode (--set split.protocol=given); too "
        "little for a score",
        task="audio/recognise",
    ),
    _samples_entries,
)

DATASETS: dict[str, Corpus] = {c.data.name: c for c in (FSDD, FSDD_MIX, CONNECTED, SPEECHBRAIN)}

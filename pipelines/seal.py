"""A signed checksum file beside each promoted model, verified before the model is used by its name.

Checksums show a file that changed. With a key (``CAMBIUM_SEAL_KEY``, at least 16 characters, in the environment or set
there from a Prefect block) they are signed by HMAC-SHA-256, so that only who has the key can make a model pass.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domains.public import sha256_of
from shared_backbones.errors import BadInput, BadRequest

from .store import write_json

SEAL, KEY = "seal.json", "CAMBIUM_SEAL_KEY"
SEALED = ("model.json", "model.safetensors", "config.yaml", "reference.safetensors")


def _key() -> bytes | None:
    key = os.environ.get(KEY, "").encode()
    if key and len(key) < 16:
        raise BadRequest(f"{KEY} must have at least 16 characters, got {len(key)}")
    return key or None


def _mac(key: bytes, run: str, files: Mapping[str, str]) -> str:
    return hmac.new(key, json.dumps([run, sorted(files.items())]).encode(), hashlib.sha256).hexdigest()


def seal(run: Path) -> Path:
    """Write ``seal.json`` into a run's folder; one that says the same is left as it is. Raises BadRequest, bad key."""
    key, path = _key(), run / SEAL
    files = {name: sha256_of(run / name) for name in SEALED if (run / name).is_file()}
    content = {
        "format": 1,
        "run": run.name,
        "files": files,
        "hmac": None if key is None else _mac(key, run.name, files),
    }
    if not path.is_file() or _read(path) != content:
        write_json(path, content)
    return path


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def verify(run: Path) -> bool:
    """Whether a run is sealed. Raises BadInput where it has changed since, or a key is set that did not sign it."""
    key, path = _key(), run / SEAL
    again = "train again, or look at it and promote it again (`cambium models promote`)"
    if not path.is_file():
        if key is not None:
            raise BadInput(f"{run} carries no {SEAL}, and {KEY} is set: {again}")
        return False
    found = _read(path)
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise BadInput(f"{path} cannot be read: {again}")
    for name, expected in found["files"].items():
        if name not in SEALED or not (run / name).is_file() or sha256_of(run / name) != expected:
            raise BadInput(f"{run / name} has changed since the model was promoted: {again}")
    if key is not None:
        signed = found.get("hmac")
        if not isinstance(signed, str) or not hmac.compare_digest(
            signed, _mac(key, str(found.get("run")), found["files"])
        ):
            raise BadInput(f"{path} was not signed with this {KEY}: {again}")
    return True

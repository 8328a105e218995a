"""Retraining: check the data, train a challenger, judge it against the champion, promote it or keep the champion.

A decision is kept beside the runs, so that the same request finds it, and says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from domains.task import to_json_digest
from shared_backbones.errors import BadInput, BadRequest

from .alerts import keep
from .config import RunConfig
from .promotion import Terms, judge
from .store import Lock
from .train import Share
from .usage import Usage, as_rows, measured

DECISIONS = "decisions.jsonl"


def decisions(root: Path) -> list[dict[str, Any]]:
    """Every decision below ``root``, oldest first; a line that a crash cut is left out."""
    path, rows = root / DECISIONS, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and "key" in row]


def _keep(root: Path, row: Mapping[str, Any]) -> None:
    with (root / DECISIONS).open("ab") as f:
        f.write((json.dumps(row) + "\n").encode())
        f.flush()
        os.fsync(f.fileno())


def checked(config: RunConfig) -> dict[str, Any]:
    """What the data holds. Raises BadInput where an audit of its split fails: then nothing is trained."""
    from .ingest import check

    found = check(config)
    failed = [a for a in found["audits"] if a["passed"] is False]
    if failed:
        said = "; ".join(f"{a['name']} {a['value']} ({a['meaning']})" for a in failed)
        raise BadInput(f"{config.data} is not fit to train on: {said}")
    return found


def settle(champion: Path, challenger: Path, root: Path, source: str | None, terms: Terms) -> dict[str, Any]:
    """Judge the challenger and act on it. The same question is answered from the decisions kept, marked ``reused``."""
    from .registry import promote, resolve

    names = {"champion_run": champion.name, "challenger_run": challenger.name}
    if champion.name == challenger.name:
        return {**names, "promote": False, "reason": "it is the champion already", "reused": False}
    key = to_json_digest([champion.name, challenger.name, source, terms.model_dump(mode="json")])[:16]
    with Lock(root / f".lock-decision-{key}").held():  # two who ask at once get one decision
        found = next(({**row, "reused": True} for row in decisions(root) if row["key"] == key), None)
        if found is None:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            found = {"key": key, "at": at, **names, **judge(champion, challenger, source, terms).to_json()}
            _keep(root, found)
            found["reused"] = False
    if found["promote"]:  # also for a decision found: a process may have been killed between the two
        try:
            promote(challenger.name, root, why=found["reason"], instead_of=champion.name)
        except BadRequest as error:
            if resolve(f"{challenger.parent.name}@champion", root).name != challenger.name:
                raise BadRequest(f"the decision is out of date: {error}") from None
    return found


def retrain(
    config: RunConfig,
    root: Path = Path("runs"),
    *,
    source: str | None = None,
    terms: Terms | None = None,
    accept_data: bool = False,
    quiet: bool = False,
    share: Share | None = None,
) -> dict[str, Any]:
    """Train ``config`` as a challenger, and let it become champion if it shows that it is better.

    source: data to judge both on; default the challenger's own. accept_data: train although the data differ from the
    champion's in schema or range (see :mod:`.checks`). share: see :func:`.train.train`. Returns run, champion before
    and after, the reason, whether the training and the decision were found, and what each step took. Raises BadInput
    where the data fail their checks, and what training raises.
    """
    from .checks import held_to
    from .registry import CHAMPION, champion_of, model_name, record, resolve
    from .train import finished, train

    terms = Terms() if terms is None else terms
    present = champion_of(model_name(config.task), root)
    used: list[Usage] = []
    try:
        with measured("check", used):
            checks = checked(config)
            held = {} if present is None or accept_data else held_to(present, config)
    except BadInput as error:
        if present is not None:  # somebody relies on this model: a night without a challenger should be seen
            keep(root, {"task": config.task, "run": present.name, "why": str(error)})
        raise
    before = {path.parent for path in root.glob(f"{model_name(config.task)}/*/metrics.json") if finished(path.parent)}
    with measured("train", used):
        challenger = train(config, root, quiet=quiet, share=share)
    with measured("register", used):
        answer = record(challenger, root)
    champion = resolve(f"{answer['model']}@{CHAMPION}", root)
    result = {
        "task": config.task,
        "model": answer["model"],
        "challenger": challenger.name,
        "directory": str(challenger),
        "reused_run": challenger.resolve() in {p.resolve() for p in before},
        "data": checks["data"]["sha256"],
        "checks": held,
    }
    if champion.name == challenger.name:
        reason = "it is the champion already" if result["reused_run"] else "the first version of its model"
        same = {"champion": champion.name, "promoted": False, "reason": reason, "reused_decision": False}
        return {**result, **same, "usage": as_rows(used)}
    with measured("judge", used):
        found = settle(champion.resolve(), challenger.resolve(), root, source, terms)
    return {
        **result,
        "champion": challenger.name if found["promote"] else champion.name,
        "before": champion.name,
        "promoted": bool(found["promote"]),
        "reason": found["reason"],
        "reused_decision": found["reused"],
        "judgement": found,
        "usage": as_rows(used),
    }

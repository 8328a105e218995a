"""Alarms that somebody should see: kept in a file beside the outputs, and sent to a web hook where one is set."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared_backbones.errors import BadRequest

log = logging.getLogger("cambium.alerts")
ALERTS = "alerts.jsonl"
HOOK = "CAMBIUM_ALERT_WEBHOOK"  # an address is a secret: it comes from the environment or a Prefect block, not options
SECONDS = 10.0


def keep(folder: Path, row: Mapping[str, Any]) -> bool:
    """Append an alarm to ``folder/alerts.jsonl`` and send it on; False where the same one stands there already.

    row: plain values. A hook that does not answer is logged and stops nothing: the file has the alarm. Raises
    BadRequest where the hook's address is none.
    """
    path = folder / ALERTS
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if any({k: r.get(k) for k in row} == dict(row) for r in kept):
        return False
    told = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **row}
    with path.open("a") as f:
        f.write(json.dumps(told) + "\n")
    send(told)
    return True


def send(row: Mapping[str, Any]) -> bool:
    """POST an alarm as JSON to the address in ``CAMBIUM_ALERT_WEBHOOK``; whether somebody took it.

    ``text`` in the body is the alarm as a sentence, which chat services show. Raises BadRequest for an address that is
    not http(s); the address itself is never said.
    """
    address = os.environ.get(HOOK)
    if not address:
        return False
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise BadRequest(f"{HOOK} must be an http or https address")
    body = json.dumps({"text": f"cambium: {row.get('why', 'alarm')}", **row}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return True
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "code", None) or type(getattr(error, "reason", error)).__name__
        log.warning("the alarm is in %s, but the web hook did not take it (%s)", ALERTS, reason)
        return False

"""Every registered mixer can be exported with dynamic sizes. A file of its own: tracing takes seconds per mixer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared_backbones.mixers import MIXERS

SHARES = 4
TRACE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from shared_backbones.checks import LawError, check_law
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = "" if check_law("export", name) else "no case"
    except LawError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.mark.parametrize("share", range(SHARES))
def test_mixer_can_be_exported(share: int) -> None:
    """In a process without jaxtyping's checks, which torch cannot trace inside a loop operator; defaults only."""
    names = list(MIXERS)[share::SHARES]
    run = subprocess.run([sys.executable, "-c", TRACE, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == dict.fromkeys(names, "")

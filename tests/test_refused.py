"""What is left when the system refuses a call: real descriptors, real pollers, and each call in turn."""

from pathlib import Path

import pytest
from programs import CORE, REFUSING, WARNINGS, compile_file, compile_files, link
from test_c import ASAN, CC, run


@pytest.mark.timeout(180)
def test_whatever_call_is_refused_nothing_is_lost_or_stuck(tmp_path: Path) -> None:
    """Pollers, a server and a load end with the truth and leave nothing behind, whichever of their calls fails."""
    core = compile_files(CORE, tmp_path, CC, [*WARNINGS, *ASAN, *REFUSING])
    own = compile_file("tests/c/refuse.c", tmp_path / "refuse.o", CC, [*WARNINGS, *ASAN])
    assert " 0 failed, 0 skipped" in run(link(tmp_path / "refuse", CC, ASAN, [own, *core]))[-1]

"""Prints the changelog's newest section, if a tag, the package's version and that section name the same version."""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A heading with version and date, and all up to the next heading of its kind; [Unreleased] above it has no date.
SECTION = re.compile(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d\n(.*?)(?=^## \[|\Z)", re.MULTILINE | re.DOTALL)


def main(tag: str) -> None:
    version = runpy.run_path(str(ROOT / "kqnative" / "_version.py"))["__version__"]
    newest = SECTION.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    changelog, notes = newest.groups() if newest else ("nothing", "")
    if not tag == f"v{version}" == f"v{changelog}":
        sys.exit(f"the tag is {tag}, kqnative/_version.py says {version}, and CHANGELOG.md's newest is {changelog}")
    if not notes.strip():
        sys.exit(f"CHANGELOG.md says nothing about {version}")
    print(notes.strip())


if __name__ == "__main__":
    main(sys.argv[1])

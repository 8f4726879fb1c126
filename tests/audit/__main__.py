"""``python -m tests.audit WHEEL...``: exits with 1 and says why if one must not be shipped."""

from __future__ import annotations

import sys
from pathlib import Path

from . import binary, wheel


def main(wheels: list[Path]) -> int:
    """Audit wheels; returns the exit status."""
    if reason := binary.missing_tool():
        print(f"audit: {reason}", file=sys.stderr)
        return 2
    if not wheels:
        print("audit: no wheel; usage: python -m tests.audit WHEEL...", file=sys.stderr)
        return 2
    status = 0
    for path in wheels:
        found = [*wheel.problems(path, wheel.extensions()), *wheel.tools(path)]
        for problem in found:
            print(f"audit: {path.name}: {problem}", file=sys.stderr)
        if not found:
            print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB, nothing to object to")
        status = max(status, bool(found))
    return status


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))

"""``python -m tui`` opens the TUI on the cluster that the environment and the config name."""

from __future__ import annotations

import sys

from hakuriver import endpoint
from hakuriver.errors import HakuRiverError


def main() -> int:
    try:
        found = endpoint.resolve()
    except HakuRiverError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        sys.stderr.write(f"{error.message}{hint}\n")
        return error.exit_code
    from tui.app import run

    return run(found)


if __name__ == "__main__":
    sys.exit(main())

"""argv in, exit code out."""

from __future__ import annotations

import json
import os
import sys

from edged.cli import main as run_command
from edged.errors import ConfigError, EdgedError, LedgerNewer

EXIT_CONFIG = 78  # EX_CONFIG: systemd does not restart what cannot work


def main() -> None:
    try:
        code = run_command()
        sys.stdout.flush()
    except ConfigError as error:
        count = len(error.problems)
        print(f"edged: the configuration has {count} problem{'s' if count != 1 else ''}:", *error.problems, sep="\n  ", file=sys.stderr)
        code = EXIT_CONFIG
    except EdgedError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": str(error), "hint": error.hint}))
        print(f"edged: {error}{'. ' + error.hint if error.hint else ''}", file=sys.stderr)
        code = EXIT_CONFIG if isinstance(error, LedgerNewer) else 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # `edged tail | head` ends us; Python must not complain about it while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()

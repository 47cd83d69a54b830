"""What the command lines share: one line and exit code 2 for bad input, 130 after Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lion_min import BadInput


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; 0 when done, 2 after one line on stderr for bad input, 130 interrupted."""
    try:
        action()
        return 0
    except BadInput as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:                       # disk full, unwritable folder, broken pipe
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

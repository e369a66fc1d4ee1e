"""``python -m artiagent.learning.follow``: this machine helps node 0 to fine-tune, until node 0 has no more work.

``NODE_RANK`` (from 1), ``MASTER_ADDR`` and ``MASTER_PORT`` say which node this is and where node 0 is.
"""

from __future__ import annotations

import signal
import sys

from artiagent.learning.nodes import FOLLOW, place_here

DONE, WRONG, STOPPED = 0, 2, 143


def main() -> int:
    """Exit codes: 0 done; 2 a node failed or is gone, with a line that says which; 143 told to stop."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        place = place_here()
        if place.index < 1:
            raise ValueError(f"NODE_RANK={place.index}: node 0 runs 'artiagent finetune'; the others count from 1")
        from artiagent.learning.launch import follow

        follow(place)
    except KeyboardInterrupt:
        return STOPPED
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{FOLLOW}: {error}", file=sys.stderr)
        return WRONG
    return DONE


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

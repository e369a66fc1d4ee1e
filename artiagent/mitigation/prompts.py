"""Lists of prompts: a text file with one a line, ``#`` begins a comment line."""

from __future__ import annotations

import sys
from pathlib import Path

from artiagent.checkpoints import locate

LONGEST = 2000  # characters; more is no prompt but a wrong file


def read_prompts(path: str | Path, limit: int | None = None) -> tuple[str, ...]:
    """Prompts of a file in its order, white space squeezed; blanks, repeats and comments are left out, with a note on
    stderr. Relative paths count from the current folder, then from the checkout.

    Raises ValueError for a file that is missing, no text, or without a prompt.
    """
    place = locate(str(path))
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"{place}: no text file ({error}); expected a prompt a line in UTF-8") from error
    squeezed = [" ".join(line.split()) for line in lines]
    told = [line for line in squeezed if line and not line.startswith("#")]
    kept = list(dict.fromkeys(told))
    if not kept:
        raise ValueError(f"{place}: {len(lines)} lines, none of them a prompt; expected one a line")
    if (longest := max(kept, key=len)) and len(longest) > LONGEST:
        raise ValueError(f"{place}: a line of {len(longest)} characters is no prompt; expected one a line")
    blank, repeated = squeezed.count(""), len(told) - len(kept)
    if blank or repeated:
        print(f"{place.name}: {len(kept)} prompts; left out: {blank} blank, {repeated} repeated", file=sys.stderr)
    return tuple(kept[:limit])

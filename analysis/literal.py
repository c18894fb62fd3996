"""Files by their names alone: DuckDB takes `*`, `?` and `[` in a name for a pattern, and would read another file."""

import re
from pathlib import Path


def literal(path: Path) -> Path:
    """What DuckDB has to be given to read `path` and nothing else."""
    return Path(re.sub(r"[*?[]", r"[\g<0>]", str(path)))

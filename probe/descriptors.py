"""Out of file descriptors: the own machine's limit, which says nothing of the service or of the way to it.

What runs into it is whichever call opens a socket or a file next, several libraries deep; so it is looked for in what
caused an error as well.
"""

import errno
from contextlib import suppress


def none_left(error: BaseException) -> str | None:
    """In one line what is full and how to mend it, where that is what `error` comes from; None where it is not."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OSError) and cause.errno == errno.EMFILE:
            return f"no file descriptor is left: {_limit()}; `ulimit -n` raises it, more processes share the load"
        if isinstance(cause, OSError) and cause.errno == errno.ENFILE:
            return "no file descriptor is left on this machine (fs.file-max); other programs hold them"
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def _limit() -> str:
    # There is no such module on Windows.
    with suppress(ImportError):
        import resource

        return f"a process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} here (RLIMIT_NOFILE)"
    return "this process has as many as it may"

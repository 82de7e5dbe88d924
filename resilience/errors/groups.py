"""What is in a group of exceptions: `ExceptionGroup` of Python 3.11 and of the `exceptiongroup` package, by name."""

from __future__ import annotations

from resilience.errors.inspection import Look, is_a

MEMBERS_LIMIT = 50
"""So many members of a group are looked at, those of groups inside it included; the rest is taken to be like them."""
DEPTH_LIMIT = 8
"""A group deeper inside groups than that is left out."""


def members(error: BaseException, look: Look) -> tuple[BaseException, ...]:
    """The exceptions in a group, groups inside it opened, in their order; none for what is no group."""
    if not _is_group(error, look):
        return ()
    waiting: list[tuple[BaseException, int]] = [(error, 0)]
    found: list[BaseException] = []
    for _ in range(2 * MEMBERS_LIMIT):
        if not waiting or len(found) == MEMBERS_LIMIT:
            break
        each, depth = waiting.pop()
        if not _is_group(each, look):
            found.append(each)
        elif depth < DEPTH_LIMIT:
            waiting.extend((one, depth + 1) for one in reversed(_inside(each, look)))
    return tuple(found)


def _inside(error: BaseException, look: Look) -> tuple[BaseException, ...]:
    inside = look.at(error, "exceptions")
    if type(inside) is not tuple:
        return ()
    return tuple(each for each in inside[:MEMBERS_LIMIT] if is_a(each, BaseException))


def _is_group(error: BaseException, look: Look) -> bool:
    return any(
        name == "BaseExceptionGroup" and module in ("builtins", "exceptiongroup")
        for module, name in look.lineage(error)
    )

"""Finds tuples of tuples in a pickle whose hash or text would take for ever, without unpickling anything.

A tuple that holds another one twice, sixty levels deep, is sixty small objects; but its hash, which is asked for when
it becomes a key, visits each path through them.
"""

from __future__ import annotations

import pickletools
from typing import IO

_MOST = 1_000_000
"""Paths through one tuple. What torch.save writes has tens."""
_MARK = -1


def has_endless_tuple(pickled: IO[bytes]) -> bool:
    """Whether there is such a tuple in the pickle that a stream stands at, which is read to its end.

    Raises:
        Exception: It is no pickle; there is no bound to what damage raises.
    """
    stack: list[int] = []  # for each object the paths through it
    memo: dict[object, int] = {}
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "MARK":
            stack.append(_MARK)
        elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            taken = _taken(code, stack)
            paths = 1 + sum(taken) if code.name.startswith("TUPLE") else 1
            if paths > _MOST:
                return True
            stack += [paths] * len(code.stack_after)
    return False


def _taken(code: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """What an operation takes from the stack."""
    taken: list[int] = []
    for wanted in reversed(code.stack_before):
        if wanted is pickletools.stackslice:
            while stack[-1] != _MARK:
                taken.append(stack.pop())
        elif wanted is pickletools.markobject:
            stack.pop()
        else:
            taken.append(stack.pop())
    return taken

"""Detects nested tuples in a pickle whose hash or repr would take forever, without unpickling anything.

A tuple that contains another one twice, sixty levels deep, consists of sixty small objects. But its hash, computed when
it is used as a key, visits every path through them.
"""

from __future__ import annotations

import pickletools
from typing import IO

_MAX_PATHS = 1_000_000
"""Largest number of paths through one tuple. torch.save writes tuples with tens."""
_MARK = -1


def has_endless_tuple(pickled: IO[bytes]) -> bool:
    """Whether the pickle at the position of a stream contains such a tuple; reads the pickle to its end.

    Raises:
        Exception: It is not a pickle; a damaged one may raise anything.
    """
    stack: list[int] = []  # number of paths through each object
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
            if paths > _MAX_PATHS:
                return True
            stack += [paths] * len(code.stack_after)
    return False


def _taken(code: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Pops the arguments of an operation from the stack."""
    taken: list[int] = []
    for argument in reversed(code.stack_before):
        if argument is pickletools.stackslice:
            while stack[-1] != _MARK:
                taken.append(stack.pop())
        elif argument is pickletools.markobject:
            stack.pop()
        else:
            taken.append(stack.pop())
    return taken

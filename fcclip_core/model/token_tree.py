"""Prompts as a tree of tokens, in which shared prefixes are stored once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTree:
    """M tokens in a forest of prefixes; N prompts end at some of them.

    In a causal transformer, the state of a token depends only on the tokens before it, so prompts with a common prefix
    share its states. CLIP's templates share most of their tokens.

    Attributes:
        tokens: int64 `(M,)`; parents come before their children.
        positions: int64 `(M,)`, position of each token in its prompts, from 0.
        follows: bool `(M, M)`: whether the row's token is the column's or comes after it in a prompt.
        ends: int64 `(N,)`, index of each prompt's last token.
    """

    tokens: Tensor
    positions: Tensor
    follows: Tensor
    ends: Tensor

    @staticmethod
    def of(prompts: Iterable[Sequence[int]]) -> TokenTree:
        """Builds the tree of prompts, each of at least one token."""
        found: dict[tuple[int, int], int] = {}
        positions: list[int] = []
        parents: list[int] = []
        ends: list[int] = []
        for prompt in prompts:
            at = -1
            for position, token in enumerate(prompt):
                here = found.setdefault((at, token), len(found))
                if here == len(parents):
                    positions.append(position)
                    parents.append(at)
                at = here
            ends.append(at)
        follows = torch.eye(len(parents), dtype=torch.bool)
        for here, parent in enumerate(parents):
            if parent >= 0:
                follows[here] |= follows[parent]
        tokens = [token for _, token in found]
        return TokenTree(torch.tensor(tokens), torch.tensor(positions), follows, torch.tensor(ends))

    def to(self, device: torch.device | str) -> TokenTree:
        """The same tree on another device."""
        return TokenTree(*(tensor.to(device) for tensor in vars(self).values()))


def in_groups(prompts: Iterable[Sequence[int]], limit: int) -> Iterator[list[Sequence[int]]]:
    """Splits prompts, in order, into groups of at most `limit` tokens; a longer prompt is its own group."""
    group: list[Sequence[int]] = []
    size = 0
    for prompt in prompts:
        if group and size + len(prompt) > limit:
            yield group
            group, size = [], 0
        group.append(prompt)
        size += len(prompt)
    if group:
        yield group

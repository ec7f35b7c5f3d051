"""Prompts as a tree of tokens, in which what several of them begin with stands once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTree:
    """M tokens, each of which follows another one or begins; N prompts end in them.

    A causal transformer reads of a token only what comes before it, so that prompts with one beginning have the same
    states there. CLIP's templates share most of their tokens.

    Attributes:
        tokens: int64 `(M,)`; what a token follows comes before it.
        positions: int64 `(M,)`, number of tokens that come before it in its prompts.
        follows: bool `(M, M)`: whether the row's token is the column's or comes after it in a prompt.
        ends: int64 `(N,)`, where in the tree each prompt ends.
    """

    tokens: Tensor
    positions: Tensor
    follows: Tensor
    ends: Tensor

    @staticmethod
    def of(prompts: Iterable[Sequence[int]]) -> TokenTree:
        """The tree of prompts, each of one token or more."""
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
        return TokenTree(
            self.tokens.to(device), self.positions.to(device), self.follows.to(device), self.ends.to(device)
        )


def in_groups(prompts: Iterable[Sequence[int]], limit: int) -> Iterator[list[Sequence[int]]]:
    """Splits prompts, in their order, into groups of at most `limit` tokens in all; a longer prompt is one alone."""
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

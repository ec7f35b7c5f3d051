"""Prompts as a tree: by hand, and read by the text tower against prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from fcclip_core.model.config import TINY
from fcclip_core.model.text_tower import TextTower
from fcclip_core.model.token_tree import TokenTree, in_groups
from fcclip_core.vocabulary.text_embeddings import prompts_for, tokenize


def test_what_prompts_begin_with_stands_once() -> None:
    tree = TokenTree.of([[7, 1, 2, 9], [7, 1, 9], [7, 2, 1, 9], [7, 1, 2, 9]])
    #                     0  1  2  3         4      5  6  7
    assert tree.tokens.tolist() == [7, 1, 2, 9, 9, 2, 1, 9]
    assert tree.positions.tolist() == [0, 1, 2, 3, 2, 1, 2, 3]
    assert tree.ends.tolist() == [3, 4, 7, 3]
    follows = [set(row.nonzero().flatten().tolist()) for row in tree.follows]
    assert follows == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 4}, {0, 5}, {0, 5, 6}, {0, 5, 6, 7}]


def test_the_tower_reads_a_tree_as_it_reads_each_prompt() -> None:
    torch.manual_seed(0)
    tower = TextTower(TINY).eval()
    # One name is the other's beginning, one is there twice, and one has the other's words in another order.
    tokens = tokenize(prompts_for(["cup", "cup holder", "red mug", "mug red", "cup"]))
    rows = [row[: int(row.argmax()) + 1].tolist() for row in tokens]
    tree = TokenTree.of(rows)
    assert len(tree.tokens) < 0.5 * sum(map(len, rows))
    with torch.no_grad():
        torch.testing.assert_close(tower.read(tree), tower(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, [[3], [2], [2], [9]]), (4, [[3], [2, 2], [9]]), (7, [[3, 2, 2], [9]]), (99, [[3, 2, 2, 9]])],
)
def test_groups_keep_the_order_and_the_limit(limit: int, expected: list[list[int]]) -> None:
    prompts = [[0] * length for length in (3, 2, 2, 9)]
    assert [[len(prompt) for prompt in group] for group in in_groups(prompts, limit)] == expected
    assert list(in_groups([], limit)) == []

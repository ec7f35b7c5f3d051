"""CLIP's text tower: tokens -> one vector in CLIP's joint space (paper, section 3.1).

It is frozen, independent of images, and needed only while a vocabulary is encoded.
"""

from __future__ import annotations

from typing import Protocol

import torch
from open_clip.transformer import LayerNorm, QuickGELU, Transformer
from torch import Tensor, nn

from fcclip_core.model.config import TextConfig
from fcclip_core.model.token_tree import TokenTree


class HasText(Protocol):
    """What the text tower needs of a model's configuration."""

    @property
    def text(self) -> TextConfig:
        """Its text tower."""
        ...

    @property
    def embed_dim(self) -> int:
        """Size of CLIP's joint embedding space."""
        ...


class TextTower(nn.Module):
    """CLIP's causal text transformer; the embedding is taken at the end token.

    Parameters have the published names, without the prefix `backbone.clip_model.`. There are no buffers, so a tower
    built on the meta device is complete once its parameters are loaded.
    """

    def __init__(self, config: HasText) -> None:
        """Builds `config.text` with a projection to `config.embed_dim`, with untrained weights."""
        super().__init__()
        text = config.text
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(text.context_length, text.width))
        self.transformer = Transformer(
            width=text.width,
            layers=text.layers,
            heads=text.heads,
            act_layer=QuickGELU if text.quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
            batch_first=True,
        )
        self.ln_final = LayerNorm(text.width)
        self.text_projection = nn.Parameter(text.width**-0.5 * torch.randn(text.width, config.embed_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeds tokenized prompts.

        Args:
            tokens: int64 `(N, L)`, L at most 77. The tower is causal, so tokens after the end token have no effect,
                and the batch may be cut at its last end token.

        Returns:
            `(N, D)`, not normalized.
        """
        length = tokens.shape[1]
        follows = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        x = self._states(tokens, torch.arange(length, device=tokens.device), follows)
        # The end token has the highest token id.
        return self._embedding(x[torch.arange(len(x), device=x.device), tokens.argmax(-1)])

    def read(self, tree: TokenTree) -> Tensor:
        """Embeds the prompts of a tree, as `forward` does; shared prefixes are computed once.

        Returns:
            `(N, D)`, not normalized.
        """
        x = self._states(tree.tokens[None], tree.positions, tree.follows)[0]
        return self._embedding(x[tree.ends])

    def _states(self, tokens: Tensor, positions: Tensor, follows: Tensor) -> Tensor:
        """States `(N, L, width)` of tokens `(N, L)`; `follows`, bool `(L, L)`, is the attention mask."""
        x = self.token_embedding(tokens) + self.positional_embedding[positions]
        mask = torch.zeros(follows.shape, dtype=x.dtype, device=x.device).masked_fill_(~follows, -torch.inf)
        return self.transformer(x, attn_mask=mask)

    def _embedding(self, states: Tensor) -> Tensor:
        return self.ln_final(states) @ self.text_projection

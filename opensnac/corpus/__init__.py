"""Token corpora: written by `opensnac tokenize`, read again for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensnac.corpus.packing import PackedTokens, TokenLoader
    from opensnac.corpus.readers import Corpus, TokenDataset

__all__ = ["Corpus", "PackedTokens", "TokenDataset", "TokenLoader"]


def __getattr__(name: str) -> Any:
    """Load on first use: readers of folders and shards need neither torch nor pyarrow."""
    if name in ("PackedTokens", "TokenLoader"):
        from opensnac.corpus import packing

        return getattr(packing, name)
    if name in ("Corpus", "TokenDataset"):
        from opensnac.corpus import readers

        return getattr(readers, name)
    raise AttributeError(f"module 'opensnac.corpus' has no attribute {name!r}")

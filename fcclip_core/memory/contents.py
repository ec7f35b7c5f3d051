"""What a memory's file holds, as the memory needs it; nothing of it is trusted for its type or size."""

from __future__ import annotations

from typing import Any

from fcclip_core.memory import database
from fcclip_core.memory.object_map import ObjectMap
from fcclip_core.memory.settings import MemorySettings


def map_of(contents: database.Contents, settings: MemorySettings) -> ObjectMap:
    """The objects of a file; of embeddings of several dimensions, the most frequent one's."""
    dimensions = [len(item.embedding_sum) for item in contents.objects]
    usual = max(set(dimensions), key=dimensions.count, default=0)
    last = max((item.id for item in contents.objects), default=0)
    looks = [item.last_look for item in contents.objects]
    built = ObjectMap(
        settings,
        next_id=max(last + 1, _counter(contents.meta.get("next_id")), 1),
        look=max([0, *looks, _counter(contents.meta.get("look"))]),
    )
    for item in contents.objects:
        if len(item.embedding_sum) == usual:
            built.put(item)
    built.take_changes()
    return built


def vocabularies_in(meta: dict[str, Any]) -> dict[str, list[str]]:
    """The frames' vocabularies by key; empty where they are none."""
    found = meta.get("vocabularies")
    if not isinstance(found, dict):
        return {}
    return {
        key: words
        for key, words in found.items()
        if isinstance(words, list) and all(isinstance(text, str) and len(text) <= 1000 for text in words)
    }


def recordings_in(meta: dict[str, Any]) -> frozenset[str]:
    """Keys of the recordings that were taken in; empty where they are none."""
    found = meta.get("recordings")
    keys = found if isinstance(found, list) else []
    return frozenset(key for key in keys if isinstance(key, str) and len(key) <= 64)


def _counter(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0

"""Rerun recordings, read back by Rerun's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from rerun.chunk import RrdReader

from fcclip_ros.view.scene import TIMELINE


class Recording:
    """What was logged: for each entity and component the values, in the order of their stamps."""

    def __init__(self, path: Path) -> None:
        self._rows: dict[tuple[str, str], list[tuple[int | None, Any]]] = {}
        reader = RrdReader(path)
        assert len(reader.recordings()) == 1
        self.has_layout = bool(reader.blueprints())
        for chunk in reader.stream():
            batch = chunk.to_record_batch()
            stamps = [None] * batch.num_rows
            if not chunk.is_static:
                stamps = batch.column(TIMELINE).cast(pyarrow.int64()).to_pylist()
            for name in batch.schema.names:
                if ":" in name:
                    rows = self._rows.setdefault((chunk.entity_path, name), [])
                    rows += zip(stamps, batch.column(name).to_pylist(), strict=True)

    def entities(self) -> set[str]:
        return {entity for entity, _ in self._rows if not entity.startswith("/__")}

    def at_stamps(self, entity: str, component: str) -> dict[int, Any]:
        """Stamp in nanoseconds -> value."""
        rows = self._rows[entity, component]
        assert len({stamp for stamp, _ in rows}) == len(rows)
        return dict(sorted(rows))

    def words(self, entity: str) -> dict[int, tuple[str, tuple[int, int, int]]]:
        """Class id -> name and color, as they hold at all times."""
        (context,) = self._rows[entity, "AnnotationContext:context"][-1][1]
        infos = [item["class_description"]["info"] for item in context]
        return {item["id"]: (item["label"], tuple(item["color"].to_bytes(4, "big")[:3])) for item in infos}

    def pixels(self, entity: str, kind: str, dtype: type = np.uint8) -> dict[int, np.ndarray]:
        """Stamp -> the image there, `(H, W)` or `(H, W, 3)`."""
        formats, images = self.at_stamps(entity, f"{kind}:format"), {}
        for stamp, (buffer,) in self.at_stamps(entity, f"{kind}:buffer").items():
            (form,) = formats[stamp]
            images[stamp] = np.array(buffer, np.uint8).view(dtype).reshape(form["height"], form["width"], -1)
        return images

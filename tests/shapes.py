"""Small pictures of squares and discs with their boxes, which a detector learns in seconds; as COCO."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("disc", "square")
COLOURS = {"disc": (220, 60, 40), "square": (40, 80, 220)}


def write_shapes(root: Path, *, train: int = 24, val: int = 8, side: int = 64, seed: int = 0) -> Path:
    """`root` with train, val and annotations; each picture has one or two objects, not overlapping much."""
    random = np.random.default_rng(seed)
    for split, num in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for i in range(num):
            height, width = side, int(side * random.uniform(0.7, 1.4))
            picture = random.integers(90, 140, (height, width, 3)).astype(np.uint8)
            images.append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
            for half in range(random.integers(1, 3)):
                kind = int(random.integers(2))
                size = int(random.integers(side // 4, side // 2 - 4))
                left = int(random.integers(0, width // 2 - size // 2)) + half * (width // 2 - size // 2)
                left, top = min(left, width - size), int(random.integers(0, height - size))
                ys, xs = np.mgrid[0:size, 0:size] + 0.5 - size / 2
                inside = (np.hypot(ys, xs) <= size / 2) | bool(kind)
                picture[top : top + size, left : left + size][inside] = COLOURS[CLASSES[kind]]
                box = {"bbox": [left, top, size, size], "area": size * size, "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, "image_id": i + 1, "category_id": kind + 1, **box})
            Image.fromarray(picture).save(root / split / f"{i}.png")
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root

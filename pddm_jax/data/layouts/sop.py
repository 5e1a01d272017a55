"""Stanford Online Products: images, labels and parts in text files."""

from pathlib import Path

import numpy as np

from pddm_jax.data.layouts.base import Source, find_records, not_found_error
from pddm_jax.data.layouts.tables import existing, inner_path, integer, read_table
from pddm_jax.data.storage.decode import Encoded, Files
from pddm_jax.data.storage.records import INDEX


def find_sop(root: str | Path) -> Source:
    """Find Stanford Online Products, with class ids 1 to 22,634, one for each product, and its two parts.

    Args:
        root: a folder with `Ebay_train.txt`, `Ebay_test.txt` and the images that they list, or one with
            that folder `Stanford_Online_Products`; or the records that `prepare` wrote.

    Raises:
        FileNotFoundError: none of these layouts is found.
        ValueError: a file is corrupt, or lists an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "sop")
    for base in (root, root / "Stanford_Online_Products"):
        if (base / "Ebay_train.txt").is_file() or (base / "Ebay_test.txt").is_file():
            return _sop(base)
    files = "Ebay_train.txt and Ebay_test.txt, also in Stanford_Online_Products/"
    raise not_found_error(root, "Stanford Online Products", files)


def _sop(base: Path) -> Source:
    paths: list[Path] = []
    labels: list[int] = []
    in_train: list[bool] = []
    class_names: dict[int, str] = {}
    for part in ("train", "test"):
        file = base / f"Ebay_{part}.txt"
        if not file.is_file():
            raise ValueError(f"{file} is missing: Ebay_train.txt and Ebay_test.txt are both needed")
        header = "image_id class_id super_class_id path"
        rows = read_table(file, (integer, integer, integer, inner_path), header=header)
        named = [base / row.values[3] for row in rows]
        paths += existing(named, file, [f"line {row.line}" for row in rows])
        labels += [row.values[1] for row in rows]
        in_train += [part == "train"] * len(rows)
        for row in rows:  # a product has no name, only a kind
            kind = row.values[3].split("/")[0].removesuffix("_final")
            class_names[row.values[1]] = f"{kind} {row.values[1]}"
    layout = "Ebay_train.txt and Ebay_test.txt with the images that they name"
    parts = np.array(in_train, bool)
    return Source(Encoded(Files(paths)), np.array(labels, np.int32), class_names, None, parts, layout)

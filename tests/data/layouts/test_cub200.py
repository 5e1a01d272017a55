"""CUB-200-2011 without boxes."""

import pytest

from pddm_jax.data import load, protocols
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.protocols import Count, Expected
from tests.helpers.builders import birds, rows_of


def test_cub_without_boxes_is_read_whole_and_not_cropped(tmp_path, monkeypatch):
    monkeypatch.setitem(protocols.EXPECTED, "cub200", Expected(Count(2, 6), Count(2, 6)))
    rows = birds(tmp_path)
    (tmp_path / "bounding_boxes.txt").unlink()
    source = find_cub200(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    assert len(load("cub200", str(tmp_path), None, 0).train.labels) == 6
    with pytest.raises(ValueError, match=r"data\.crop=bbox.*without bounding_boxes\.txt"):
        load("cub200", str(tmp_path), None, 0, crop="bbox")

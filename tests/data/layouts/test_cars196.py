"""CARS196: file names, class names, and annotations without boxes."""

import numpy as np
import pytest
import scipy.io

from pddm_jax.data import load
from pddm_jax.data.layouts.cars196 import find_cars196
from tests.helpers.builders import changed, kaggle, one_folder, one_line, rows_of, two_folders


def test_what_mac_os_leaves_beside_images_is_passed_over(tmp_path):
    rows = kaggle(tmp_path)
    for row in rows:
        row.path.with_name(f"._{row.path.name}").write_bytes(b"\0\5\x16\7")
    assert sorted(rows_of(find_cars196(tmp_path))) == sorted(rows)


def test_a_missing_image_of_a_long_name_is_shown_in_part(tmp_path):
    rows = kaggle(tmp_path / "cars")
    changed(2, lambda line: "x" * 5000 + line)(tmp_path / "cars" / "anno_test.csv")
    assert len(rows) == 11
    with pytest.raises(
        ValueError, match=r"anno_test\.csv names 6 images, of which 1 .*xxx\.\.\.$"
    ) as caught:
        find_cars196(tmp_path / "cars")
    assert len(one_line(caught.value)) < 700


def test_a_name_in_two_class_folders_is_refused(tmp_path):
    rows = kaggle(tmp_path, "")
    other = rows[0].path.parent.parent / "D" / rows[0].path.name
    other.write_bytes(rows[0].path.read_bytes())
    with pytest.raises(ValueError, match=r"anno_train\.csv, line 1: both .* have this name"):
        find_cars196(tmp_path)


def test_cars_without_names_have_those_of_their_folders(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "names.csv").unlink()
    assert find_cars196(tmp_path).class_names == {1: "Z 1", 2: "B Coupe 2000", 3: "A C-V", 4: "D"}


def test_cars_without_boxes_are_read_whole_and_not_cropped(tmp_path):
    rows = kaggle(tmp_path)
    for part in ("train", "test"):
        lines = (tmp_path / f"anno_{part}.csv").read_text().splitlines()
        fields = [line.split(",") for line in lines]
        (tmp_path / f"anno_{part}.csv").write_text("".join(f"{x[0]},{x[-1]}\n" for x in fields))
    source = find_cars196(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    with pytest.raises(ValueError, match=r"data\.crop=bbox.*have no boxes"):
        load("cars196", str(tmp_path), None, 0, crop="bbox", test_classes="1")


@pytest.mark.parametrize("make", [one_folder, two_folders])
def test_annotations_of_matlab_without_boxes(make, tmp_path):
    rows = make(tmp_path)
    for file in tmp_path.rglob("*anno*.mat"):
        content = scipy.io.loadmat(file)
        table = content["annotations"]
        kept = [name for name in table.dtype.names if not name.startswith("bbox")]
        fields = np.zeros(table.shape, [(name, "O") for name in kept])
        for name in kept:
            fields[name] = table[name]
        names = {"class_names": content["class_names"]} if "class_names" in content else {}
        scipy.io.savemat(file, {"annotations": fields} | names)
    source = find_cars196(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    assert "bbox_x1" in source.layout

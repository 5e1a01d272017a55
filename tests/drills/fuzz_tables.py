"""Tables, lists and MATLAB files of data sets, whole and damaged."""

import numpy as np
import scipy.io
from hypothesis import strategies as st

from pddm_jax.data.layouts.wnids import read_ground_truth, read_wnids
from pddm_jax.data.load import find
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_mutate import DAMAGE, damaged
from tests.drills.fuzz_places import fresh, png


def cub200(root):
    names = ["001.A", "002.B b", "003.C", "004.D"]
    files = [f"{names[n % 4]}/x_{n}.jpg" for n in range(8)]
    for n, file in enumerate(files):
        (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / file).write_bytes(png(n))

    def write(name, rows):
        (root / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

    write("images.txt", [f"{n + 1} {file}" for n, file in enumerate(files)])
    write("image_class_labels.txt", [f"{n + 1} {n % 4 + 1}" for n in range(8)])
    write("classes.txt", [f"{n + 1} {name}" for n, name in enumerate(names)])
    write("bounding_boxes.txt", [f"{n + 1} 0.0 1.0 3.0 4.0" for n in range(8)])
    return ("images.txt", "image_class_labels.txt", "classes.txt", "bounding_boxes.txt"), 8


def sop(root):
    for part, labels in (("train", (1, 1, 2)), ("test", (3, 3, 4))):
        lines = ["image_id class_id super_class_id path"]
        for n, label in enumerate(labels):
            path = f"bicycle_final/{part}_{n}.JPG"
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(png(n))
            lines.append(f"{n + 1 + 3 * (part == 'test')} {label} 1 {path}")
        (root / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ("Ebay_train.txt", "Ebay_test.txt"), 6


def cars196(root):
    rows, names = 6, np.zeros((1, 3), "O")
    names[0] = ["A", "B/c", "D"]
    table = np.zeros(
        (1, rows),
        [
            (x, "O")
            for x in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
        ],
    )
    (root / "car_ims").mkdir()
    for n in range(rows):
        (root / f"car_ims/{n:06d}.jpg").write_bytes(png(n))
        table[0, n] = (
            f"car_ims/{n:06d}.jpg",
            *(np.array([[v]], np.uint16) for v in (1, 1, 4, 4, n % 3 + 1, n % 2)),
        )
    scipy.io.savemat(
        root / "cars_annos.mat", {"annotations": table, "class_names": names}, do_compression=True
    )
    return ("cars_annos.mat",), rows


def kaggle(root):
    for part in ("train", "test"):
        lines = []
        for n in range(3):
            path = root / "car_data/car_data" / part / f"C{n}" / f"{n:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(n))
            lines.append(f"{n:05d}.jpg,1,1,4,4,{n + 1}\n")
        (root / f"anno_{part}.csv").write_text("".join(lines), encoding="utf-8")
    (root / "names.csv").write_text("C0\nC1\nC2\n", encoding="utf-8")
    return ("anno_train.csv", "anno_test.csv", "names.csv"), 6


LAYOUTS = {"cub200": cub200, "sop": sop, "cars196": cars196, "kaggle": kaggle}


def check_table(case):
    layout, which, operations = case
    root = fresh()
    files, rows = LAYOUTS[layout](root)
    path = root / files[which % len(files)]
    path.write_bytes(damaged(path.read_bytes(), operations))
    name = "cars196" if layout == "kaggle" else layout
    outcome = attempt(lambda: find(name, root), (str(root),))
    if not operations and (outcome.error is not None or len(outcome.value.labels) != rows):
        raise Wrong(f"{outcome} of a good layout")
    return settled(outcome)


TABLES = Target(
    "tables",
    st.tuples(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 3), DAMAGE),
    check_table,
    3,
    memory=300 * 2**20,
)


def check_list(case):
    what, text, operations = case
    path = fresh() / "a list.txt"
    path.write_bytes(damaged(text.encode("utf-8", "surrogatepass"), operations))
    read = read_wnids if what == "wnids" else lambda path: read_ground_truth(path, 5)
    return settled(attempt(lambda: read(path), (str(path),)))


LISTS = Target(
    "lists",
    st.tuples(
        st.sampled_from(("wnids", "truth")),
        st.one_of(
            st.just("n01440764\nn01443537\n"),
            st.just("1\n5\n3\n"),
            st.text(max_size=40),
            st.from_regex(r"(n\d{8}|\d{1,3})( .*)?\r?\n"),
        ),
        DAMAGE,
    ),
    check_list,
)

TARGETS = TABLES, LISTS

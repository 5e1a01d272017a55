"""ImageNet from tars of tars, tars and folders: one set of records; what is wrong with them is named."""

import gzip
import io
import json
import os
import signal
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pddm_jax.data import load_closed_set, protocols
from pddm_jax.data.layouts.wnids import read_ground_truth, read_wnids
from pddm_jax.data.load import find
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.protocols import Count, Expected
from pddm_jax.data.storage import decode
from pddm_jax.data.storage.tars import Place, members
from pddm_jax.system.processes import in_processes
from tests.helpers.builders import contents, files_of, pixels

WNIDS = ["n02000003", "n01000001", "n01000002"]  # in the order of the list, which is not that of ids
COUNTS = dict(zip(WNIDS, (5, 4, 3), strict=True))
TRUTH = [3, 1, 1, 2, 3, 2]


def encoded(seed, kind="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def training_images():
    """Class by class in the order of the list, each in that of its names; one is a PNG, one is CMYK."""
    images = {}
    for number, (wnid, count) in enumerate(COUNTS.items()):
        names = sorted(f"{wnid}_{n}.JPEG" for n in range(8, 8 + count))  # _10 comes before _8
        images[wnid] = {name: encoded(100 * number + n) for n, name in enumerate(names)}
    first = images[WNIDS[0]]
    first[min(first)] = encoded(0, "PNG")
    first[max(first)] = encoded(1, "JPEG", "CMYK")
    return images


TRAIN = training_images()
TEST = {f"ILSVRC2010_val_{n:08d}.JPEG": encoded(1000 + n) for n in range(1, 1 + len(TRUTH))}


def tar(files, **options):
    """A tar of files by name, in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def turned(files):
    return dict(reversed(files.items()))


def folders(root):
    for wnid, images in TRAIN.items():
        for name, data in images.items():
            write(root / "train" / wnid / name, data)
    for name, data in TEST.items():
        write(root / "val" / name, data)


def tars(root):
    for wnid, images in TRAIN.items():
        write(root / "train" / f"{wnid}.tar", tar(turned(images)))
    write(root / "val.tar", tar({f"val/{name}": data for name, data in turned(TEST).items()}))


def tar_of_tars(root):
    inner = {f"./{wnid}.tar": tar(images) for wnid, images in TRAIN.items()}
    write(root / "ILSVRC2010_images_train.tar", tar(turned(inner)))
    write(root / "ILSVRC2010_images_val.tar", tar(TEST))


FORMS = [folders, tars, tar_of_tars]


@pytest.fixture
def lists(tmp_path):
    """The two files beside the images, as arguments."""
    write(tmp_path / "wnids.txt", "\n".join(f"{wnid} a word, another" for wnid in WNIDS).encode())
    write(tmp_path / "truth.txt", "".join(f"{n}\n" for n in TRUTH).encode())
    return {"classes": str(tmp_path / "wnids.txt"), "ground_truth": str(tmp_path / "truth.txt")}


def prepared(root, out, lists, skip=False, name="imagenet"):
    return prepare(name, find(name, root, **lists, skip=skip), root, out, 4, skip)


# --------------------------------------------------------------------------------------- one set of records


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_in_the_order_of_list_and_names(form, lists, tmp_path):
    form(tmp_path / "data")
    source = find("imagenet", tmp_path / "data", **lists)
    expected = [(n, data) for n, wnid in enumerate(WNIDS, 1) for data in TRAIN[wnid].values()]
    expected += zip(TRUTH, TEST.values(), strict=True)
    assert source.labels.tolist() == [label for label, _ in expected]
    assert contents(source.images) == [data for _, data in expected]
    assert source.in_train.tolist() == [True] * 12 + [False] * 6
    assert source.class_names == {1: WNIDS[0], 2: WNIDS[1], 3: WNIDS[2]}
    some = source.images.take(np.array([17, 0, 7])).take(np.array([2, 0]))
    assert contents(some) == [expected[7][1], expected[17][1]]
    assert [Path(some.name(n)).name for n in (0, 1)] == [
        list(TRAIN[WNIDS[1]])[2],
        "ILSVRC2010_val_00000006.JPEG",
    ]
    for n in range(len(expected)):
        assert source.images[n].shape == (18, 24, 3)


def test_all_forms_make_the_same_shards(lists, tmp_path):
    indices, shards = [], []
    for form in FORMS:
        root, out = tmp_path / form.__name__, tmp_path / "out" / form.__name__
        form(root)
        assert prepared(root, out, lists) == []
        found = files_of(out)
        indices.append(json.loads(found.pop("pddm_records.json")))
        shards.append(found)
        assert str(root) not in str(indices[-1])
    assert len(shards[0]) == 5
    assert shards[0] == shards[1] == shards[2]
    for index in indices:
        index["names"] = [Path(name).name for name in index["names"]]
        assert "images by WordNet id" in index.pop("layout")
        assert len(index.pop("sha256")) == 64
    assert indices[0] == indices[1] == indices[2]
    assert indices[0]["skipped"] == []


def test_the_parts_of_the_release_or_halves_are_a_closed_set(lists, tmp_path):
    tar_of_tars(tmp_path / "data")
    found = load_closed_set("imagenet", str(tmp_path / "data"), None, 0, **lists)
    assert found.test.labels.tolist() == TRUTH
    assert found.description.startswith(
        "images parted as they are on disk; read from images by WordNet id in tars"
    )
    halved = []
    for form in (tars, folders):
        form(tmp_path / form.__name__)
        classes = {"classes": lists["classes"]}
        root = str(tmp_path / form.__name__ / "train")
        halved.append(load_closed_set("imagenet", root, None, 3, **classes))
    for found in halved:
        assert Counter(found.train.labels.tolist()) == {1: 3, 2: 2, 3: 2}
        assert Counter(found.test.labels.tolist()) == {1: 2, 2: 2, 3: 1}
        assert contents(found.train.images) == contents(halved[0].train.images)
        assert "half of the images of each class by seed 3" in found.description


def test_test_images_by_id_need_no_ground_truth(lists, tmp_path):
    tars(tmp_path)
    (tmp_path / "val.tar").unlink()
    for wnid in WNIDS[:2]:
        write(tmp_path / "val" / f"{wnid}.tar", tar({f"{wnid}_v.JPEG": encoded(7)}))
    found = load_closed_set("imagenet", str(tmp_path), None, 0, classes=lists["classes"])
    assert found.test.labels.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"data\.ground_truth is for numbered test images"):
        find("imagenet", tmp_path, **lists)


def test_a_set_that_is_not_whole_is_told(lists, tmp_path, monkeypatch):
    tars(tmp_path)
    whole = {"imagenet2010": [Expected(Count(3, 12), Count(3, 5)), Expected(Count(3, 12), Count(3, 6))]}
    monkeypatch.setattr(
        protocols, "IMAGENET_COUNTS", whole | {"imagenet2012": [Expected(Count(3, 13), Count(3, 6))]}
    )
    load_closed_set("imagenet2010", str(tmp_path), None, 0, **lists)
    with pytest.raises(ValueError, match=r"imagenet2012 is incomplete: found 12 .* expected 13 images"):
        load_closed_set("imagenet2012", str(tmp_path), None, 0, **lists)
    with pytest.raises(ValueError, match=r"imagenet10k is incomplete: found 3 classes, expected 10,184"):
        load_closed_set("imagenet10k", str(tmp_path), None, 0, **lists)
    with pytest.raises(ValueError, match=r"data\.classes applies only to .*, not to folder"):
        find("folder", tmp_path, lists["classes"])


def test_the_counts_are_those_of_the_releases():
    assert protocols.IMAGENET_COUNTS["imagenet2012"] == [((1000, 1_281_167), (1000, 50_000))]
    assert [x.test.images for x in protocols.IMAGENET_COUNTS["imagenet2010"]] == [50_000, 150_000]
    assert {x.train for x in protocols.IMAGENET_COUNTS["imagenet2010"]} == {(1000, 1_261_406)}


# ---------------------------------------------------------------------------------------------------- tars


def parts(name):
    return [part for part in name.split("/") if part not in ("", ".")]


NAME = st.text(st.sampled_from("abcé/._ 漢"), min_size=1, max_size=180).filter(
    lambda name: not name.startswith("/") and ".." not in name.split("/") and parts(name)
)


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(NAME, st.binary(max_size=1500), max_size=6),
    style=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    before=st.binary(max_size=700),
)
def test_members_are_found_where_they_are(files, style, before, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "any.tar"
    data = tar(files, format=style)
    path.write_bytes(before + data + b"what follows")
    found = [*members(Place(path, "inner.tar", len(before), len(before) + len(data)))]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(x.name, archive.extractfile(x).read()) for x in archive if x.isreg()]
    content = path.read_bytes()
    assert [(x.name, content[x.offset : x.offset + x.size]) for x in found] == [
        (name, data) for name, data in expected if not parts(name)[-1].startswith(".")
    ]


@pytest.mark.parametrize("form", [tars, tar_of_tars])
def test_a_truncated_tar_is_named_and_nothing_is_left(form, lists, tmp_path):
    form(tmp_path / "data")
    path = min((tmp_path / "data").rglob("*train*/*.tar"), default=None) or min(
        (tmp_path / "data").glob("*train*.tar")
    )
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512  # where the blocks of zeros begin
    for keep in (0, 3, 511, 512, 600, 1024, end // 2, end - 512, end, end + 511):
        path.write_bytes(content[:keep])
        with pytest.raises(ValueError, match=path.name):
            prepared(tmp_path / "data", tmp_path / "out", lists)
        assert not (tmp_path / "out").exists()
    for spoilt in (content[:end] + b"x" * 1024, gzip.compress(content), b"\0" * 100 + content[100:]):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=path.name):
            prepared(tmp_path / "data", tmp_path / "out", lists)
    path.write_bytes(content)
    source = find("imagenet", tmp_path / "data", **lists)
    path.write_bytes(content[:512])  # since it was looked through
    with pytest.raises(ValueError, match=r"\.JPEG is cut off"):
        contents(source.images)


def header(name, size=b"%011o\0" % 0, kind=b"0"):
    """The header of a tar's member by its definition."""
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"%011o\0" % 0
    rest = kind + bytes(100) + b"ustar\x0000" + bytes(247)
    total = sum(fields) + 8 * ord(" ") + sum(rest)
    return fields + b"%06o\0 " % total + rest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(b"a", b"\xff" * 11 + b"\xf0"), "has -16 bytes"),  # a negative number, as GNU tar writes it
        (header(b"a", b"%011o\0" % 2**30, b"x"), "a header has 1,073,741,824 bytes, more than"),
        (header(b"a", b"%011o\0" % 2**30, b"L"), "a header has 1,073,741,824 bytes, more than"),
        (header(b"a", b"%011o\0" % 20, b"x") + b"12 size=what\n".ljust(512, b"\0"), "is not an intact tar"),
    ],
)
def test_a_header_that_lies_is_named_and_takes_no_memory(content, words, lists, tmp_path):
    write(tmp_path / "data" / "train" / "n02000003.tar", content + bytes(1024))
    with pytest.raises(ValueError, match=f"n02000003.tar .*{words}") as caught:
        [*members(Place(tmp_path / "data" / "train" / "n02000003.tar"))]
    assert "\n" not in str(caught.value)


def test_a_tar_that_is_no_regular_file_is_not_opened(lists, tmp_path):
    tars(tmp_path / "data")
    path = tmp_path / "data" / "train" / f"{WNIDS[0]}.tar"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=rf"{path} is a FIFO, not a regular file"):
        find("imagenet", tmp_path / "data", **lists)


@pytest.mark.parametrize("target", [".", WNIDS[1]])
def test_a_link_that_counts_images_twice_is_refused(target, lists, tmp_path):
    folders(tmp_path / "data")
    train = tmp_path / "data" / "train"
    for path in (train / WNIDS[0]).iterdir():
        path.unlink()
    (train / WNIDS[0]).rmdir()
    (train / WNIDS[0]).symlink_to(target)
    with pytest.raises(ValueError, match=rf"{WNIDS[0]} is a link to .*: remove the link"):
        find("imagenet", tmp_path / "data", **lists)


def test_parts_that_are_one_folder_are_refused(lists, tmp_path):
    folders(tmp_path / "data")
    (tmp_path / "other").mkdir()
    for part in ("train", "val"):
        (tmp_path / "other" / part).symlink_to(tmp_path / "data" / "train")
    with pytest.raises(ValueError, match="val is a link to the training images"):
        find("imagenet", tmp_path / "other", **lists)


@pytest.mark.parametrize("form", [folders, tars])
def test_other_extensions_are_told(form, lists, tmp_path):
    form(tmp_path / "data")
    if form is folders:
        write(tmp_path / "data" / "train" / WNIDS[0] / "a.HEIC", b"x")
    else:
        path = tmp_path / "data" / "train" / f"{WNIDS[0]}.tar"
        write(path, tar(TRAIN[WNIDS[0]] | {"a.HEIC": b"x"}))
    (note,) = find("imagenet", tmp_path / "data", **lists).notes
    assert note.startswith("files that are not images by their extension are left out: .HEIC (1); ")


def test_an_inner_tar_that_is_truncated_is_named(lists, tmp_path):
    inner = {f"{wnid}.tar": tar(images) for wnid, images in TRAIN.items()}
    inner[f"{WNIDS[1]}.tar"] = inner[f"{WNIDS[1]}.tar"][:1200]
    write(tmp_path / "train.tar", tar(inner))
    with pytest.raises(ValueError, match=rf"train\.tar/{WNIDS[1]}\.tar is .*truncated|whole"):
        find("imagenet", tmp_path, classes=lists["classes"])


def odd_member(kind, name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


ODD = {
    "../x.JPEG": odd_member(tarfile.REGTYPE, "../x.JPEG"),
    "a/../../x.JPEG": odd_member(tarfile.REGTYPE, "a/../../x.JPEG"),
    "/etc/x.JPEG": odd_member(tarfile.REGTYPE, "/etc/x.JPEG"),
    "..": odd_member(tarfile.DIRTYPE, ".."),
    "soft.JPEG": odd_member(tarfile.SYMTYPE, "soft.JPEG"),
    "hard.JPEG": odd_member(tarfile.LNKTYPE, "hard.JPEG"),
    "device": odd_member(tarfile.CHRTYPE, "device"),
    "pipe": odd_member(tarfile.FIFOTYPE, "pipe"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("where", ["class", "outer", "numbered"])
def test_a_member_that_leads_out_of_its_tar_is_refused_by_name(name, where, lists, tmp_path):
    tar_of_tars(tmp_path / "data")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(ODD[name])
    spoilt = buffer.getvalue()
    inner = {f"{wnid}.tar": tar(images) for wnid, images in TRAIN.items()}
    (train, test) = sorted((tmp_path / "data").iterdir())
    if where == "class":
        write(train, tar(inner | {f"{WNIDS[2]}.tar": spoilt}))
    else:
        path = train if where == "outer" else test
        path.write_bytes(spoilt[:512] + path.read_bytes())
    with pytest.raises(ValueError, match=rf"is refused: its member '{name}'"):
        prepared(tmp_path / "data", tmp_path / "out", lists)
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_is_left_aside_and_what_is_there_twice_is_refused(lists, tmp_path):
    tars(tmp_path)
    path = tmp_path / "train" / f"{WNIDS[0]}.tar"
    files = TRAIN[WNIDS[0]]
    write(path, tar({"._n1.JPEG": b"", "readme.txt": b"hello", ".hidden/x.txt": b""} | files))
    assert "; 2 other files left aside" in find("imagenet", tmp_path, **lists).layout
    name = min(files)
    write(path, tar(files | {f"again/{name}": b""}))
    with pytest.raises(ValueError, match=rf"{path.name} holds '{name}' twice"):
        find("imagenet", tmp_path, **lists)
    write(path, tar({}))
    with pytest.raises(ValueError, match=rf"{path.name} holds no image"):
        find("imagenet", tmp_path, **lists)
    write(path, tar(files))
    write(tmp_path / "train" / WNIDS[0] / "1.JPEG", b"")
    with pytest.raises(ValueError, match=f"{WNIDS[0]} twice: as .*{WNIDS[0]} and as .*{path.name}"):
        find("imagenet", tmp_path, **lists)
    write(tmp_path / "val_2.tar", b"")
    (tmp_path / "train" / WNIDS[0] / "1.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val\.tar, val_2\.tar, but one tar is expected for val"):
        find("imagenet", tmp_path, **lists)


# --------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"n02000003\n../../etc\n", r"line 2: found '\.\./\.\./etc', expected a WordNet id"),
        (b"n02000003\n\nn01000001/../x\n", "line 3: found 'n01000001/../x'"),
        (b"/etc/passwd", "line 1: found '/etc/passwd'"),
        (b"n0200000", "line 1: found 'n0200000'"),
        (b"n02000003\nn01000001\nn02000003 again\n", "line 3: n02000003 is already on line 1"),
        (b" \n\n", "holds no WordNet id"),
        (b"\xff\xfe\x00", "is not text"),
        (b"n02000003\nn01000001\nn01000002\nn09000009\n", "lists n09000009, but .*train has neither"),
        (b"n02000003\nn01000002\n", r"train holds n01000001, not listed .*on_error=skip|holds n01000001"),
    ],
)
def test_a_list_that_does_not_fit_is_named(text, words, lists, tmp_path):
    tars(tmp_path / "data")
    write(tmp_path / "wnids.txt", text)
    with pytest.raises(ValueError, match=words) as caught:
        prepared(tmp_path / "data", tmp_path / "out", lists)
    assert str(tmp_path / "wnids.txt") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_classes_that_are_not_listed_are_left_aside_if_asked(lists, tmp_path):
    tars(tmp_path)
    write(tmp_path / "wnids.txt", f"{WNIDS[2]}\n{WNIDS[0]}\n".encode())
    write(tmp_path / "truth.txt", b"1\n2\n2\n2\n1\n1\n")
    source = find("imagenet", tmp_path, **lists, skip=True)
    assert source.labels.tolist() == [1] * 3 + [2] * 5 + [1, 2, 2, 2, 1, 1]
    assert "; 1 classes that are not listed left aside" in source.layout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3\n1\n1\n2\n3\n", "holds 6 images, but the ground truth has 5; .*: 6"),
        ("3\n1\n1\n2\n3\n2\n1\n", "has 7; numbers in only one of them: 7"),
        ("3\n1\n1\n2\n3\n4\n", "line 6: found '4', expected a number from 1 to 3"),
        ("3\n0\n", "line 2: found '0'"),
        ("3\n\nn01000001\n", "line 3: found 'n01000001'"),
        ("3\n²\n", "line 2: found '²'"),
        ("3\n-1\n", "line 2: found '-1'"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_named(text, words, lists, tmp_path):
    tars(tmp_path)
    (tmp_path / "truth.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        find("imagenet", tmp_path, **lists)


def test_numbered_images_need_each_their_number(lists, tmp_path):
    folders(tmp_path)
    with pytest.raises(ValueError, match=r"data\.ground_truth must be given for .*val"):
        find("imagenet", tmp_path, classes=lists["classes"])
    with pytest.raises(ValueError, match=r"data\.classes must be given for imagenet"):
        find("imagenet", tmp_path)
    path = tmp_path / "val" / "ILSVRC2010_val_00000004.JPEG"
    path.rename(path.with_name("four.JPEG"))
    with pytest.raises(ValueError, match=r"val/four\.JPEG has no number"):
        find("imagenet", tmp_path, **lists)
    (tmp_path / "val" / "four.JPEG").rename(path.with_name("other_5.JPEG"))
    with pytest.raises(ValueError, match=r"numbers in only one of them: 4"):
        find("imagenet", tmp_path, **lists)
    path.with_name("other_5.JPEG").rename(path.with_name("other_04.JPEG"))
    assert find("imagenet", tmp_path, **lists).labels[12:].tolist() != TRUTH  # by name, no longer by number
    assert sorted(find("imagenet", tmp_path, **lists).labels[12:]) == sorted(TRUTH)


@settings(max_examples=30, deadline=None)
@given(
    wnids=st.lists(st.from_regex(r"n[0-9]{8}", fullmatch=True), min_size=1, unique=True),
    truth=st.lists(st.integers(1, 50)),
)
def test_lists_are_read_back(wnids, truth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    (folder / "wnids").write_text("\n".join(wnids))
    assert read_wnids(folder / "wnids") == wnids
    (folder / "truth").write_text("".join(f" {n}\n" for n in truth))
    assert read_ground_truth(folder / "truth", 50).tolist() == truth


# ----------------------------------------------------------------------------------------------- preparing


def spoil(root):
    """Cut an image of the second class off, and make one of the third no image."""
    for wnid, cut in ((WNIDS[1], slice(0, 300)), (WNIDS[2], slice(0, 0))):
        images = TRAIN[wnid]
        name = min(images)
        write(root / "train" / f"{wnid}.tar", tar(images | {name: images[name][cut]}))
        yield f"train/{wnid}.tar/{name}"


def test_what_cannot_be_decoded_stops_or_is_named_and_counted(lists, tmp_path, monkeypatch):
    root, out = tmp_path / "data", tmp_path / "out"
    tars(root)
    bad = [*spoil(root)]
    with pytest.raises(ValueError, match=f"{root}/{bad[0]} could not be decoded"):
        prepared(root, out, lists)
    assert {path.name for path in out.iterdir()} == {"images-00000-of-00005.array_record"}
    assert prepared(root, out, lists, skip=True) == bad
    before, times = files_of(out), {path.name: path.stat().st_mtime_ns for path in out.glob("images*")}
    assert prepared(root, out, lists, skip=True) == bad
    assert files_of(out) == before
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("images*")} == times

    # What was decoded then is not decoded once more; what was skipped is left out and counted.
    monkeypatch.setattr(decode, "decode", None)
    found = load_closed_set("imagenet", str(out), None, 0)
    assert len(found.train.labels) == 10
    assert found.description.endswith("; 2 unreadable images left out")
    monkeypatch.undo()
    # An index of before it told what was skipped is read as well.
    index = json.loads((out / "pddm_records.json").read_text())
    del index["sha256"]  # as of earlier versions
    assert index.pop("skipped") == [5, 9]
    for version, error in ((1, None), (3, "version is 3")):
        (out / "pddm_records.json").write_text(json.dumps(index | {"version": version}))
        if error is None:
            old = load_closed_set("imagenet", str(out), None, 0)
            assert old.description == found.description
            assert contents(old.train.images) == contents(found.train.images)
        else:
            with pytest.raises(ValueError, match=error):
                load_closed_set("imagenet", str(out), None, 0)
    (out / "pddm_records.json").write_text(json.dumps(index | {"version": 2, "skipped": [18]}))
    with pytest.raises(ValueError, match="skipped images that do not exist"):
        load_closed_set("imagenet", str(out), None, 0)


def test_processes_keep_the_order_and_one_that_is_killed_is_told():
    assert (
        [*in_processes(abs, [-3, 2, -1, 0], 2)] == [*in_processes(abs, [-3, 2, -1, 0], 1)] == [3, 2, 1, 0]
    )
    with pytest.raises(OSError, match="a worker process was killed"):
        [*in_processes(os._exit, [1, 1], 2)]


def command(root, out, lists, *further):
    flags = (f"--{name}={path}" for name, path in lists.items())
    return (
        *("pddm_jax.data.prepare", "--source=imagenet", f"--root={root}", f"--out={out}"),
        *("--shard_images=4", *flags, *further),
    )


def descendants(pid):
    """The processes that a process started, and those that these did."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def is_running(pid):
    """Whether a process is there, and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
def test_a_run_of_two_processes_that_is_killed_goes_on_to_the_same_bytes(lists, tmp_path, start):
    root, out = tmp_path / "data", tmp_path / "out"
    folders(root)
    prepared(root, tmp_path / "whole", lists)
    slow = {root / "train" / WNIDS[0] / name: data for name, data in [*TRAIN[WNIDS[0]].items()][:4]}
    large = io.BytesIO()
    Image.new("RGB", (7900, 7900)).save(large, "PNG", compress_level=1)
    for image in slow:  # in the first shard, which takes one of them seconds
        image.write_bytes(large.getvalue())
    process = start(*command(root, out, lists, "--workers=2"))
    until = time.monotonic() + 120
    while len([*out.glob("images-*")]) < 4:  # which the other one writes
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(is_running, workers)):  # the processes end with their parent
        assert time.monotonic() < until
    assert len(workers) >= 2
    assert not (out / "pddm_records.json").exists()
    assert not (out / "images-00000-of-00005.array_record").exists()

    for image, data in slow.items():
        image.write_bytes(data)
    assert prepared(root, out, lists) == []
    (out / ".lock").unlink()  # of the command that was killed, which locks nothing
    assert files_of(out) == files_of(tmp_path / "whole")


def test_the_command_counts_and_names_what_it_skipped(lists, tmp_path, run_command):
    root, out = tmp_path / "data", tmp_path / "out"
    tars(root)
    bad = [*spoil(root)]
    status, printed, errors = run_command(*command(root, out, lists, "--on_error=skip", "--workers=2"))
    assert status == 0, errors
    assert [line for line in printed.splitlines() if line.startswith("skipped")] == [
        f"skipped {x}" for x in bad
    ]
    assert f"{out}: 16 images of imagenet; 2 skipped" in printed

"""Preparing shards: the same bytes whenever it is started again, and errors that name the image."""

import os
import resource
import signal
import time

import pytest
from PIL import Image

from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.storage.decode import SkippedImage, check
from tests.helpers.builders import assert_same_source, contents, files_of, picture, prepared, rows_of


def test_a_shard_for_which_there_is_no_room_is_named(many, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"out/images-00000-of-00008.*: no space left"):
            prepared("folder", many, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*(tmp_path / "out").iterdir()]


def test_preparing_again_changes_nothing(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    prepared("folder", tmp_path / "out", tmp_path / "copy")
    assert files_of(tmp_path / "copy") == before


def test_a_changed_image_is_written_anew(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    picture(many / "class 1" / "10.png", 99)
    prepared("folder", many, tmp_path / "out")
    assert contents(find_folder(tmp_path / "out").images) == contents(find_folder(many).images)


def test_a_folder_of_other_shards_is_refused(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out holds shards .*of-00008.*same flags"):
        prepared("folder", many, tmp_path / "out", shard_images=5)
    with pytest.raises(ValueError, match="out holds prepared images of folder, not of sop"):
        find_sop(tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_other_prepared_images_are_refused(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (many / "class 2" / "29.png").unlink()  # the last
    with pytest.raises(ValueError, match=r"out holds records of another list of images.* class 2/29\.png"):
        prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_an_index_that_was_cut_off_is_written_anew(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "pddm_records.json").write_text("")
    prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_a_name_that_is_no_utf8_is_refused_before_anything_is_written(many, tmp_path):
    (many / "class 0").rename(many / os.fsdecode(b"caf\xe9"))
    with pytest.raises(ValueError, match=r"'caf\\udce9/00\.png' is not UTF-8"):
        prepared("folder", many, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoil_images(many):
    broken = [many / "class 0" / "09.png", many / "class 2" / "20.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-300])
    return broken


def test_an_unreadable_image_stops_by_name(many, tmp_path):
    broken = spoil_images(many)
    with pytest.raises(ValueError, match=f"{broken[0]} .*--on_error=skip"):
        prepared("folder", many, tmp_path / "out")
    assert not (tmp_path / "out" / "pddm_records.json").exists()
    assert not [*(tmp_path / "out").glob(".*")]


def test_an_unreadable_image_is_skipped_if_asked(many, tmp_path):
    broken = spoil_images(many)
    skipped = prepared("folder", many, tmp_path / "out", skip=True)
    assert [many / name for name in skipped] == broken
    before = files_of(tmp_path / "out")
    assert prepared("folder", many, tmp_path / "out", skip=True) == skipped
    assert files_of(tmp_path / "out") == before
    found, rows = find_folder(tmp_path / "out"), rows_of(find_folder(many))
    for number, row in enumerate(rows):
        if row.path in broken:
            with pytest.raises(SkippedImage, match=rf"{row.path.name} was skipped"):
                found.images.read(number)
        else:
            assert found.images.read(number) == row.path.read_bytes()
    assert found.labels.tolist() == [row.label for row in rows]
    # So the same images cannot be read, whichever form they are in.
    unreadable = [*check(find_folder(many).images)]
    assert [*check(found.images)] == unreadable
    assert [rows[number].path for number in unreadable] == broken
    with pytest.raises(ValueError, match=str(broken[0])):
        prepared("folder", many, tmp_path / "out")
    for n, path in enumerate(broken):
        picture(path, n)
    prepared("folder", many, tmp_path / "out", skip=True)
    assert_same_source(find_folder(tmp_path / "out"), find_folder(many))


def command(*arguments):
    return ("pddm_jax.data.prepare", "--source=folder", "--shard_images=4", "--workers=1", *arguments)


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bytes(many, tmp_path, start, run_command):
    prepared("folder", many, tmp_path / "whole")
    slow = [many / "class 1" / f"{n:02d}.png" for n in (7, 10, 13, 16)]  # all in the fourth shard
    contents = [image.read_bytes() for image in slow]
    for image in slow:
        Image.new("RGB", (6000, 5000)).save(image)  # a good part of a second each
    out = tmp_path / "out"
    process = start(*command(f"--root={many}", f"--out={out}"))
    until = time.monotonic() + 60
    while len([*out.glob("images-*")]) < 3 or not [*out.glob(".*")]:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = files_of(out)
    shards = {name for name in left if not name.startswith(".")}
    assert shards == {f"images-{n:05d}-of-00008.array_record" for n in range(3)}
    written = {name: (out / name).stat().st_mtime_ns for name in shards}

    for image, content in zip(slow, contents, strict=True):
        image.write_bytes(content)
    status, printed, _ = run_command(*command(f"--root={many}", f"--out={out}"))
    assert status == 0
    assert f"{out}: 30 images of folder" in printed
    whole = files_of(tmp_path / "whole")
    assert files_of(out) == whole
    assert {name: (out / name).stat().st_mtime_ns for name in shards} == written


def test_the_command_ends_with_one_line_that_names_the_image(many, tmp_path, run_command):
    (broken, _) = spoil_images(many)
    status, _, errors = run_command(*command(f"--root={many}", f"--out={tmp_path / 'out'}"))
    assert status == 2
    assert f"error: {broken}" in errors.splitlines()[-1]
    assert "Traceback" not in errors

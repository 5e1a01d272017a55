"""metrics.jsonl and its copy, TensorBoard events, and lines or a progress bar."""

import io
import json
import os
from functools import partial

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from pddm_jax.training import writer as writer_module
from pddm_jax.training.resume import rows_of
from pddm_jax.training.writer import Writer, copy_of, read_rows, rows_digest


def write(workdir, start, steps, writes=True):
    """The rows of a run that starts at a step and writes some."""
    with Writer(workdir, start, 10, writes) as writer:
        for step in steps:
            writer.row(step, {"loss": 1 / step})
            writer.progress(step)
        return writer.rows


def steps_in(workdir):
    return [row["step"] for row in read_rows(workdir / "metrics.jsonl")]


def test_rows_are_json_by_step_and_said_where_no_progress_bar_is(tmp_path, capsys):
    write(tmp_path, 0, [1, 2])
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5)]
    assert 0 <= rows[0]["seconds"] <= rows[1]["seconds"]
    assert "step 2  loss 0.5" in capsys.readouterr().err


def test_compilation_is_announced_once_in_a_line_where_no_progress_bar_is(tmp_path, capsys):
    with Writer(tmp_path, 0, 10, True) as writer:
        assert capsys.readouterr().err == "compiling ...\n"
        writer.progress(1)
        writer.row(1, {"loss": 1.0})
    assert capsys.readouterr().err == "step 1  loss 1\n"


@pytest.mark.parametrize(("start", "steps", "writes"), [(10, 10, True), (0, 10, False)])
def test_compilation_is_announced_by_one_process_that_has_a_step_to_make(
    start, steps, writes, tmp_path, capsys
):
    with Writer(tmp_path, start, steps, writes):
        assert capsys.readouterr().err == ""


def test_a_progress_bar_shows_the_compilation_until_the_first_step_is_done(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(writer_module, "tqdm", partial(tqdm, file=screen, mininterval=0))
    with Writer(tmp_path, 3, 10, True) as writer:
        assert screen.getvalue().count("compiling ...") == 1
        shown = len(screen.getvalue())
        for step in (4, 5):
            writer.progress(step)
    after = screen.getvalue()[shown:]
    assert "compiling" not in after
    assert "4/10" in after and "5/10" in after  # noqa: PT018


def events_in(path):
    """Events of a file of TensorBoard's: each its length in 8 bytes, a checksum in 4, itself, another."""
    content, events = path.read_bytes(), []
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12:end]))
        content = content[end + 4 :]
    return events


def test_tensorboard_reads_the_rows_and_where_they_begin_anew(tmp_path):
    write(tmp_path, 0, [1, 4])
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    version, start, *rows = events_in(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, SessionLog.START)
    assert [(row.step, row.summary.value[0].tag, row.summary.value[0].simple_value) for row in rows] == [
        (1, "loss", 1.0),
        (4, "loss", 0.25),
    ]
    path.unlink()
    write(tmp_path, 2, [3])
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert [event.step for event in events_in(path)] == [0, 3, 3]


def test_rows_beyond_the_start_are_dropped(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [5])
    assert steps_in(tmp_path) == [1, 2, 5]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "los')
    assert steps_in(tmp_path) == [1, 2]
    write(tmp_path, 3, [4])
    assert steps_in(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"step": 1, "seconds": 1}\n{"st\n{"step": 3, "seconds": 1}\n', "line 2 is not a row"),
        (b'{"seconds": 1}\n', "line 1 is not a row"),
        (b'{"step": true, "seconds": 1}\n', "line 1 is not a row"),
        (b'{"step": 1.5, "seconds": 1}\n', "line 1 is not a row"),
        (b'{"step": 1}\n', "line 1 is not a row"),
        (b"[1]\n", "line 1 is not a row"),
        (b"\n", "line 1 is not a row"),
        (b"\xff\n", "line 1 is not a row"),
        (
            b'{"step": 5, "seconds": 1}\n{"step": 4, "seconds": 1}\n',
            "line 2 is of step 4, after",
        ),
    ],
)
def test_damaged_rows_are_named_unless_the_checkpoint_knows_them(content, told, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.jsonl is damaged: {told}.*; correct or delete"):
        read_rows(path)
    with pytest.raises(ValueError, match="is damaged"):
        write(tmp_path, 5, [])
    rows = [{"step": 1, "loss": float("nan"), "seconds": 1.5}, {"step": 5, "seconds": 2}]
    known = rows_digest({"rows": rows})
    with Writer(tmp_path, 5, 10, True, known):
        assert told in capsys.readouterr().err
    assert steps_in(tmp_path) == [1, 5]
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.7"))
    with Writer(tmp_path, 5, 10, True, known):
        assert "does not match its digest in the checkpoint of step 5" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + content)
    write(tmp_path, 0, [])  # what begins anew needs none of them
    assert steps_in(tmp_path) == []


def test_rows_with_ends_of_lines_of_windows_are_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "seconds": 1}\r\n')
    assert steps_in(tmp_path) == [1]


def test_the_clock_goes_on_after_a_restart(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 50.0}\n{"step": 9, "seconds": 900.0}\n')
    assert 50 <= write(tmp_path, 1, [2])[-1]["seconds"] < 60
    assert 50 <= read_rows(tmp_path / "metrics.jsonl")[-1]["seconds"] < 60


def test_other_processes_write_nothing(tmp_path):
    assert [row["step"] for row in write(tmp_path, 0, [1, 2], writes=False)] == [1, 2]
    assert not [*tmp_path.iterdir()]


def test_no_file_is_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []


ROWS = [{"step": step, "loss": float(step), "seconds": step / 2} for step in (2, 4, 4, 5)]


def written(workdir, rows=ROWS):
    with Writer(workdir, 0, 9, True) as writer:
        for row in rows:
            writer.row(row["step"], {"loss": row["loss"]})
        return rows_digest(
            {"metrics": json.loads(json.dumps(writer.digest_fields(rows[-1]["step"])))}
        ), writer.rows


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path, place=5):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def digit(path):
    path.write_bytes(path.read_bytes().replace(b"2.0", b"3.0"))


def empty(path):
    path.write_bytes(b"")


DAMAGES = [cut, flip, digit, empty, os.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("copied", [False, True])
def test_rows_are_mended_from_their_copy_and_the_other_way_round(damage, copied, tmp_path, capsys):
    known, rows = written(tmp_path)
    path = tmp_path / "metrics.jsonl"
    damage(copy_of(path) if copied else path)
    with Writer(tmp_path, 5, 9, True, known) as writer:
        assert writer.rows == rows
    assert read_rows(path) == read_rows(copy_of(path)) == rows
    needed = not copied and damage is not cut  # it cut the row that the checkpoint itself knows
    assert ("restored from its copy" in capsys.readouterr().err) == needed


@pytest.mark.parametrize("damage", [flip, digit, empty, os.unlink])
def test_rows_that_are_damaged_twice_are_refused_by_name(damage, tmp_path):
    known, _ = written(tmp_path)
    for path in (tmp_path / "metrics.jsonl", copy_of(tmp_path / "metrics.jsonl")):
        damage(path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl .*its copy .* restore one of them") as caught:
        Writer(tmp_path, 5, 9, True, known)
    assert "\n" not in str(caught.value)


def test_rows_of_the_last_step_of_fewer_are_dropped_however_often_it_is_killed(tmp_path):
    known, rows = written(tmp_path)
    shorter = rows_of(known, {"steps": 9, "log_every": 2, "eval_every": 4})
    for _ in range(2):  # the second time the file is already without them
        with Writer(tmp_path, 5, 9, True, shorter) as writer:
            assert writer.rows == rows[:3]
    assert read_rows(tmp_path / "metrics.jsonl") == rows[:3]


def test_rows_that_an_earlier_version_kept_whole_mend_the_file(tmp_path):
    _, rows = written(tmp_path)
    known = rows_digest({"rows": rows})
    digit(tmp_path / "metrics.jsonl")
    copy_of(tmp_path / "metrics.jsonl").unlink()
    with Writer(tmp_path, 5, 9, True, known) as writer:
        assert writer.rows == rows

"""Shards written by an Apache Beam pipeline, on one machine or on many with shared folders."""

import hashlib
import json
import pickle
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pddm_jax.data.prepare.shards import Done, ShardTask, make_shard
from pddm_jax.system.files import write_json


def in_beam(tasks: Sequence[ShardTask], out: Path, runner: str, options: Sequence[str]) -> list[Done]:
    """Write the shards of tasks by a Beam pipeline; results are in the order of the tasks.

    The pipeline holds only the place of each task: tasks and results pass through files in `out`, which are
    removed in the end.

    Args:
        tasks: the shards to write.
        out: folder that every worker can access by this path, as it can access the images by theirs.
        runner: name of a Beam runner.
        options: more flags of Beam and of its runner, such as `--direct_num_workers=2`.

    Raises:
        ValueError: Beam is not installed, or rejects the flags.
        OSError: the pipeline failed.
    """
    try:
        import apache_beam as beam  # an extra, and slow to import
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise ValueError(f'a runner needs Apache Beam: pip install "pddm_jax[beam]" ({error})') from error
    run = uuid.uuid4().hex
    plan, results = out / f".{run}-plan", out / f".{run}-results"
    out.mkdir(parents=True, exist_ok=True)
    try:
        pieces = []
        with plan.open("wb") as file:
            for task in tasks:
                data = pickle.dumps(task)
                pieces.append(_Piece(file.tell(), len(data), hashlib.sha256(data).hexdigest()))
                file.write(data)
        try:
            with beam.Pipeline(runner, PipelineOptions([*options], save_main_session=False)) as pipeline:
                (
                    pipeline
                    | beam.Create([(number, *piece) for number, piece in enumerate(pieces)])
                    | beam.Reshuffle()  # else one worker may get all tasks
                    | beam.Map(_make, str(plan))
                    | beam.combiners.ToList()
                    | beam.Map(_write, str(results))
                )
        except SystemExit as error:  # raised by Beam's flag parser
            raise ValueError(f"Beam rejects the flags {' '.join(options)}") from error
        except Exception as error:  # each runner has its own
            raise OSError(f"the pipeline of {runner} failed: {error}") from error
        rows = sorted(json.loads(results.read_text(encoding="utf-8")))
        return [Done(*done) for _, done in rows]
    finally:
        plan.unlink(missing_ok=True)
        results.unlink(missing_ok=True)


class _Piece(NamedTuple):
    """The place of a task in the plan file, and its digest, since others may write to that file."""

    place: int
    size: int
    sha256: str


def _make(numbered: tuple[int, int, int, str], plan: str) -> tuple[int, Done]:
    number, piece = numbered[0], _Piece(*numbered[1:])
    with Path(plan).open("rb") as file:
        file.seek(piece.place)
        data = file.read(piece.size)
    if hashlib.sha256(data).hexdigest() != piece.sha256:
        raise ValueError(f"{plan} was changed since it was written: start again")
    return number, make_shard(pickle.loads(data))


def _write(done: list[tuple[int, Done]], results: str) -> None:
    write_json(Path(results), done)

"""Workdirs of runs with a damaged file: what was saved, or one line that names the file."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import jax
import numpy as np
from hypothesis import strategies as st

from experiments.configs import folder
from pddm_jax.embed import embed
from pddm_jax.networks import make_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import data_mesh
from pddm_jax.system.digests import digest_of
from pddm_jax.training import replay, restore
from pddm_jax.training import rerun as replay_command
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.resume import stored_config
from pddm_jax.training.run_files import read_config, read_results
from pddm_jax.training.state import init_state
from pddm_jax.training.writer import read_rows
from pddm_jax.types import Batch
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_mutate import DAMAGE, damaged
from tests.drills.fuzz_places import VALUES, png

ROOM = tempfile.TemporaryDirectory(prefix="fuzz-")
SHAPE = 16, 16, 3


def state_of(config, seed):
    optimizer = make_optimizer(**config["optimizer"], steps=config["train"]["steps"])
    return init_state(make_network("small_cnn", 5), PDDM(4, 4), optimizer, SHAPE, seed, data_mesh())


def digest(state):
    return digest_of(state.params, state.batch_stats)


@cache
def whole():
    """A run's folder, with checkpoints of steps 3 and 7, and the digests of both."""
    base = Path(ROOM.name)
    # So that a case does not compile, which takes more than its time on a slow machine.
    jax.config.update("jax_compilation_cache_dir", str(base / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    for n in range(6):
        path = base / "photos" / f"c{n % 3}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    config = folder.get_config()
    config.data.update(root=str(base / "photos"), image_size=16, classes_per_batch=2, images_per_class=2)
    config.network.update(embedding_dim=5, unit_dim=4)
    given = json.loads(config.to_json())
    config = given | {"image_shape": list(SHAPE), "devices": 1, "train_sha256": "0" * 64}
    workdir = base / "whole"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    digests = {}
    with Checkpoints(workdir / "checkpoints", 2) as checkpoints:
        for step in (3, 7):
            state = state_of(config, step).replace(step=np.int32(step))
            checkpoints.save(step, state)
            digests[step] = digest(state)
    rows = "".join(json.dumps({"step": n, "loss": 0.5, "seconds": 0.1 * n}) + "\n" for n in (1, 3, 5, 7))
    (workdir / "metrics.jsonl").write_text(rows, encoding="utf-8")
    results = {"evaluation": "retrieval", "protocol": {}, "steps": 7, "params_sha256": digests[7]}
    (workdir / "results.json").write_text(json.dumps(results), encoding="utf-8")
    images = np.zeros((4, *SHAPE), np.uint8)
    about = {"config": given, "step": 3, "not_finite": {}, "classes": 0, "versions": {}}
    replay.write_record(
        workdir / "diverged-step-3.npz", about, state_of(config, 3), Batch(images, np.arange(4) // 2)
    )
    replay_command.replay(workdir / "diverged-step-3.npz")  # compiles
    embed(workdir, base / "warm")
    return workdir, digests


@cache
def files():
    return [str(p.relative_to(whole()[0])) for p in sorted(whole()[0].rglob("*")) if p.is_file()]


def damage(which, edit, operations, removed, without):
    workdir = Path(ROOM.name) / "a run"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(whole()[0], workdir)
    if without:
        (workdir / "results.json").unlink()
    name = which if isinstance(which, str) else files()[which % len(files())]
    path = workdir / name
    if not path.exists():
        return workdir, name
    if edit and path.suffix == ".json":
        fields = json.loads(path.read_bytes())
        place, value = edit
        leaves = [
            (of, key) for of in (fields, *(v for v in fields.values() if isinstance(v, dict))) for key in of
        ]
        of, key = leaves[place % len(leaves)]
        if value < 0:
            del of[key]
        else:
            of[key] = VALUES[value]
        path.write_text(json.dumps(fields), encoding="utf-8")
    path.write_bytes(damaged(path.read_bytes(), operations, 200))
    if removed:
        path.unlink()
    return workdir, name


def check_run(case):
    call, which, edit, operations, removed, without = case
    workdir, name = damage(which, edit, operations, removed, without)
    same = (workdir / name).exists() and (workdir / name).read_bytes() == (whole()[0] / name).read_bytes()
    words = str(workdir), "data.", "network.", "checkpoint", "the config", "objective", "images by class in"
    if call == "load":
        outcome = attempt(
            lambda: restore.restore_trained(workdir, read_config(workdir), SHAPE, data_mesh()), words
        )
        if outcome.error is None:
            found = digest(outcome.value.state)
            if found not in whole()[1].values():
                raise Wrong(f"parameters that were never saved, with {name}")
            if found != whole()[1][7] and (same or not without):
                raise Wrong(f"the parameters of step {int(outcome.value.state.step)}, with {name}")
    elif call == "embed":
        out = Path(ROOM.name) / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name(".out.part"), ignore_errors=True)
        outcome = attempt(lambda: embed(workdir, out), (*words, str(out)))
        if outcome.error is None and outcome.value.embeddings.shape != (6, 5) and name != "config.json":
            raise Wrong(f"{outcome.value.embeddings.shape}")
    elif call == "rows":
        outcome = attempt(lambda: read_rows(workdir / "metrics.jsonl"), words)
    elif call == "replay":
        outcome = attempt(lambda: replay_command.replay(workdir / "diverged-step-3.npz"), words)
        if outcome.error is None and not isinstance(outcome.value, str):
            raise Wrong(f"{outcome.value}")
    else:
        outcome = attempt(
            lambda: (stored_config(workdir), read_results(workdir) if not without else None), words
        )
    if same and outcome.error is not None and not removed:
        raise Wrong(f"refuses a whole run: {outcome.error}")
    return settled(outcome)


_which = st.one_of(
    st.integers(0, 200),
    st.integers(0, 200),
    st.sampled_from(("config.json", "results.json", "metrics.jsonl", "diverged-step-3.npz")),
)
_edit = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 200), st.integers(-1, len(VALUES) - 1)))
RUNS = Target(
    "runs",
    st.one_of(
        st.tuples(
            st.sampled_from(("load", "load", "embed", "stored_config")),
            _which,
            _edit,
            DAMAGE,
            st.booleans(),
            st.booleans(),
        ),
        st.tuples(
            st.just("load"), st.just("config.json"), _edit, st.just(()), st.just(False), st.booleans()
        ),
        st.tuples(
            st.just("embed"), st.just("config.json"), _edit, st.just(()), st.just(False), st.booleans()
        ),
        st.tuples(
            st.just("rows"), st.just("metrics.jsonl"), st.none(), DAMAGE, st.just(False), st.just(False)
        ),
        st.tuples(
            st.just("stored_config"), st.just("results.json"), _edit, DAMAGE, st.just(False), st.just(False)
        ),
        st.tuples(
            st.just("replay"),
            st.just("diverged-step-3.npz"),
            st.none(),
            DAMAGE,
            st.just(False),
            st.just(False),
        ),
    ),
    check_run,
    2,
)
TARGETS = (RUNS,)

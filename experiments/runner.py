"""From flags to a run: `run(config, workdir)` trains, evaluates and leaves everything in workdir."""

import hashlib
import json
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

import pddm_jax
from experiments import plots
from pddm_jax import data, metrics
from pddm_jax.checkpoint import Checkpoints
from pddm_jax.files import write_json
from pddm_jax.networks import EmbeddingNetwork, make_network
from pddm_jax.objectives import OBJECTIVES, Loss, make_objective
from pddm_jax.pddm import PDDM
from pddm_jax.scoring import score_matrix
from pddm_jax.training import (
    TrainState,
    data_mesh,
    fit,
    global_batches,
    init_state,
    make_embed,
    make_optimizer,
    make_train_step,
)
from pddm_jax.writer import Row, Writer

CONFIGS = Path(__file__).parent / "configs"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

Results = dict[str, Any]


def run(config: ConfigDict, workdir: Path, experiment: str) -> Results:
    """Train and evaluate, or go on where a run in `workdir` was stopped.

    With several processes, all of them call it, with one workdir that all can read.

    Returns:
        The results, as in results.json.

    Raises:
        ValueError: the config is wrong, or workdir holds a run of another config.
        FloatingPointError: training diverged; the last good checkpoint is kept.
        Preempted: SIGTERM came, and the state is saved.
    """
    config = FrozenConfigDict(config)
    check_config(config)
    check_same_run(workdir, config)
    finished = workdir / "results.json"
    if finished.exists():
        print(f"{workdir} holds a finished run.")
        return json.loads(finished.read_text(encoding="utf-8"))

    stood_on = versions()
    split = data.load(config.data.name, config.data.root, config.data.image_size, config.seed)
    p, k = config.data.classes_per_batch, config.data.images_per_class
    given = {name: x for name, x in config.objective.items() if name != "name" and x is not None}
    loss, fields = make_objective(config.objective.name, pairs=p * k * (k - 1) // 2, **given)
    mesh = data_mesh()
    network = make_network(config.network.name, config.network.embedding_dim)
    embed = make_embed(network, mesh)
    state, rows = train(config, workdir, split, network, loss, embed, mesh)

    embeddings, labels, depth = embed(state, split.test.images), split.test.labels, max(metrics.KS)
    rankings = {"euclidean": metrics.rank(embeddings, labels, depth)}
    if OBJECTIVES[config.objective.name].learns_score:
        score = jax.tree_util.Partial(score_matrix, jax.device_get(state.params["unit"]))
        rankings["pddm"] = metrics.rank(embeddings, labels, depth, score_fn=score)
    results = {
        "experiment": experiment,
        "protocol": {
            "data": config.data.name,
            "split": split.rule,
            "classes": {"train": len(split.train.class_names), "test": len(split.test.class_names)},
            "images": {"train": len(split.train.labels), "test": len(split.test.labels)},
            "image_shape": list(split.test.images.shape[1:]),
            "crop": "none",
            "gallery": "all test images, the query itself left out",
            "batch": {"classes": p, "images_per_class": k},
            "network": config.network.to_dict(),
            "objective": {"name": config.objective.name, **fields},
            "optimizer": config.optimizer.to_dict(),
            "seed": config.seed,
        },
        "recall_at_k": by_score(rankings, lambda r: {str(k): x for k, x in metrics.recall_of(r).items()}),
        "map_at_r": by_score(rankings, metrics.map_at_r_of),
        "r_precision": by_score(rankings, metrics.r_precision_of),
        "steps": config.train.steps,
        "seconds": rows[-1]["seconds"],
        "images_per_second": statistics.median(
            row["images_per_second"] for row in rows if "images_per_second" in row
        ),
        "params_sha256": digest(state),
        "versions": stood_on,
    }
    if jax.process_index() == 0:
        plots.convergence({experiment: [plots.curve(rows)]}, workdir / "convergence.png")
        plots.gallery(split.test, rankings["euclidean"], config.seed, workdir / "gallery.png")
        write_json(finished, results)
    return results


def train(
    config: FrozenConfigDict,
    workdir: Path,
    split: data.Split,
    network: EmbeddingNetwork,
    loss: Loss,
    embed: Callable[[TrainState, np.ndarray], np.ndarray],
    mesh: Mesh,
) -> tuple[TrainState, list[Row]]:
    """Train to the last step, from the last checkpoint where there is one.

    Returns:
        The state, and all rows of metrics.jsonl.
    """
    p, k, steps = config.data.classes_per_batch, config.data.images_per_class, config.train.steps
    if p * k % mesh.size:
        raise ValueError(f"a batch of {p} x {k} images does not divide over {mesh.size} devices")
    unit = PDDM(config.network.unit_dim, config.network.unit_dim)
    optimizer = make_optimizer(**config.optimizer, steps=steps)
    train_step = make_train_step(network, loss, optimizer, mesh)
    state = init_state(network, unit, optimizer, split.train.images.shape[1:], config.seed, mesh)
    writes = jax.process_index() == 0

    with Checkpoints(workdir / "checkpoints", config.train.max_to_keep) as checkpoints:
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        start = int(state.step)
        if start and writes:
            print(f"{workdir}: goes on after step {start}", file=sys.stderr)
        place = jax.process_index(), jax.process_count()
        sampler = data.PKSampler(split.train.labels, p, k, range(start, steps), config.seed, *place)
        batches = data.train_batches(split.train, sampler, config.data.shift, config.seed)

        with Writer(workdir, start, steps, writes) as writer:
            clock = time.perf_counter(), start

            def after_step(step: int, state: TrainState, logs: Callable[[], dict[str, float]]) -> bool:
                nonlocal clock

                def due(every: int) -> bool:
                    return step % every == 0 or step == steps

                if step == 1 and writes:  # what could not make one step does not claim the workdir
                    write_json(workdir / "config.json", json.loads(config.to_json()))
                stop = checkpoints.preempted(step)
                log, evaluate = due(config.train.log_every), due(config.train.eval_every)
                save = stop or due(config.train.checkpoint_every)
                writer.progress(step)
                if log or evaluate or save:
                    values = logs()
                    if log:
                        rate = p * k * (step - clock[1]) / (time.perf_counter() - clock[0])
                        writer.row(step, {**values, "images_per_second": round(rate, 1)})
                    if evaluate:
                        ranking = metrics.rank(embed(state, split.test.images), split.test.labels)
                        recall, map_at_r = metrics.recall_of(ranking, [1])[1], metrics.map_at_r_of(ranking)
                        writer.row(step, {"recall_at_1": recall, "map_at_r": map_at_r})
                    if save:
                        checkpoints.save(step, state)
                    clock = time.perf_counter(), step
                return stop

            state = fit(state, train_step, global_batches(batches, mesh), steps, after_step)
    return state, writer.rows


def by_score(
    rankings: dict[str, metrics.Ranking], measure: Callable[[metrics.Ranking], Any]
) -> dict[str, Any]:
    """A measure of both rankings; None for the PDDM score of an objective that does not train it."""
    return {name: measure(rankings[name]) if name in rankings else None for name in ("euclidean", "pddm")}


def check_config(config: FrozenConfigDict) -> None:
    """Raise a ValueError that names a field which must be a positive number and is not."""
    for group, names in {
        "train": ("steps", "eval_every", "checkpoint_every", "log_every", "max_to_keep"),
        "network": ("embedding_dim", "unit_dim"),
        "optimizer": ("learning_rate", "clip_norm", "unit_factor"),
    }.items():
        for name in names:
            if not config[group][name] > 0:
                raise ValueError(f"{group}.{name} must be above 0, got {config[group][name]}")
    if config.seed < 0:
        raise ValueError(f"seed must not be below 0, got {config.seed}")
    if min(config.data.shift, config.optimizer.weight_decay, config.optimizer.warmup) < 0:
        raise ValueError("data.shift, optimizer.weight_decay and optimizer.warmup must not be below 0")


def check_same_run(workdir: Path, config: FrozenConfigDict) -> None:
    """Raise a ValueError that names the fields in which a run in `workdir` differs from this one."""
    path = workdir / "config.json"
    if path.exists():
        theirs, ours = json.loads(path.read_text(encoding="utf-8")), json.loads(config.to_json())
        differing = ", ".join(
            f"{name} {there!r} (here {here!r})" for name, there, here in differences(theirs, ours)
        )
        if differing:
            raise ValueError(f"{workdir} holds a run with {differing}; choose another --workdir")


def differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves, by dotted name, in which two nested dicts differ."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [(name, a, b)]
    return [
        difference
        for key in sorted({*a, *b})
        for difference in differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    ]


def digest(state: TrainState) -> str:
    """SHA-256 over all parameters and batch statistics, in the order of their names."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def versions() -> dict[str, str]:
    """What the run stood on."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {
        "python": platform.python_version(),
        "device": device,
        "machine": platform.machine(),
        "pddm_jax": pddm_jax.__version__,
        **{package: version(package) for package in PACKAGES},
    }


def table(results: Results) -> str:
    """The results of a run as text."""
    recall, map_at_r = results["recall_at_k"], results["map_at_r"]
    head = ["ranked by", *(f"R@{k}" for k in recall["euclidean"]), "MAP@R"]
    rows = [
        [name, *(f"{100 * x:.1f}" for x in recall[name].values()), f"{100 * map_at_r[name]:.1f}"]
        for name in recall
        if recall[name]
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in (head, *rows))
    objective, protocol = results["protocol"]["objective"]["name"], results["protocol"]
    return (
        f"{results['experiment']}: {objective} on {protocol['data']}, seed {protocol['seed']}; "
        f"{protocol['images']['test']} images of {protocol['classes']['test']} unseen classes; "
        f"{results['steps']} steps, {results['seconds']} s\n" + "\n".join(lines)
    )


def define_flags(config: str, workdir: str) -> None:
    """--config, --workdir and, for many processes, --distributed."""
    config_flags.DEFINE_config_file(
        "config",
        str(CONFIGS / f"{config}.py"),
        "Config file, as FILE.py or FILE.py:variant; --config.GROUP.FIELD=VALUE sets a field.",
    )
    flags.DEFINE_string("workdir", workdir, "Where the run leaves its files.")
    flags.DEFINE_bool("distributed", False, "Join the other processes (found by JAX on a pod).")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where JAX cannot find it.")
    flags.DEFINE_integer("num_processes", None, "How many processes, likewise.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, likewise.")


def launch(body: Callable[[], None]) -> None:
    """Parse the flags and run `body`; what a user can mend ends it with one line, not a traceback.

    With --verbosity=1 the traceback is logged too.
    """

    def main(_: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if flags.FLAGS.distributed:
            jax.distributed.initialize(
                flags.FLAGS.coordinator,
                flags.FLAGS.num_processes,
                flags.FLAGS.process_id,
                shutdown_timeout_seconds=30,
            )
        else:  # while there is nothing to save, and once all is saved
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        try:
            body()
        except (ValueError, OSError, FloatingPointError) as error:
            logging.debug("where it came from:", exc_info=True)
            sys.exit(f"error: {error}")

    app.run(main)


def main(experiment: str) -> None:
    """The command of an experiment."""
    define_flags(experiment, workdir=f"runs/{experiment}")

    def body() -> None:
        workdir = Path(flags.FLAGS.workdir)
        results = run(flags.FLAGS.config, workdir, experiment)
        if jax.process_index() == 0:
            print(f"{table(results)}\nfiles: {workdir}")

    launch(body)

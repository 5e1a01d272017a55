"""Train objectives under one budget and set them side by side: one table, one convergence plot, one report.

    python -m experiments.compare --objectives=pddm,quadruplet --seeds=0,1,2
    python -m experiments.compare --config=experiments/configs/zero_shot.py
    python -m experiments.compare --config=experiments/configs/imagenet2010.py:glyphs

Each run stands in WORKDIR/OBJECTIVE-SEED and goes on where it was stopped. The fields of
`config.objective` apply to the objective that `config.objective.name` names; the others stand at
their own defaults.
"""

import statistics
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import command, plots, runner
from experiments.evaluations import EVALUATIONS, retrieval
from experiments.evaluations.base import Results
from pddm_jax.checks import check_choice
from pddm_jax.losses.objectives import OBJECTIVES
from pddm_jax.report.write import write_comparison
from pddm_jax.system.files import write_json, write_text
from pddm_jax.training.writer import read_rows

Summary = dict[str, list[float] | None]  # by column: the value of each seed, None where there is none


def compare(config: ConfigDict, workdir: Path, objectives: list[str], seeds: list[int]) -> str:
    """Run each objective with each seed, write compare.json, compare.md, convergence.png, report.html.

    Returns:
        The table, as in compare.md.

    Raises:
        ValueError: an objective is unknown or named twice; and as `runner.run` raises.
    """
    for name in objectives:
        check_choice("--objectives", name, OBJECTIVES)
    if len({*objectives}) < len(objectives) or len({*seeds}) < len(seeds) or not objectives or not seeds:
        raise ValueError(
            "--objectives and --seeds must each have at least one value and no duplicates, "
            f"got {','.join(objectives)} and {','.join(map(str, seeds))}"
        )
    folders = {f"{name}-{seed}": one(config, name, seed) for seed in seeds for name in objectives}
    ranking = _one_ranking(workdir, folders)  # validates all runs before the first begins
    results: dict[str, list[Results]] = {name: [] for name in objectives}
    curves: dict[str, list[plots.Curve]] = {name: [] for name in objectives}
    for seed in seeds:
        for name in objectives:
            folder = workdir / f"{name}-{seed}"
            found = runner.run(one(config, name, seed), folder, "compare")
            results[name].append(found)
            curves[name].append(plots.curve(read_rows(folder / "metrics.jsonl")))
            jax.clear_caches()
    columns = EVALUATIONS[config.evaluation].columns
    summary = {name: summarize([columns(run) for run in runs]) for name, runs in results.items()}
    table = as_table(summary, results[objectives[0]][0], seeds, ranking)
    if jax.process_index() == 0:
        write_json(workdir / "compare.json", {"seeds": seeds, "objectives": summary})
        write_text(workdir / "compare.md", table)
        over = f"mean and deviation over seeds {', '.join(map(str, seeds))}"
        title = f"{config.data.name}: {over if len(seeds) > 1 else f'seed {seeds[0]}'}"
        plots.convergence(curves, title, workdir / "convergence.png")
        _write_report(workdir / "report.html", title, summary, results, curves=curves, table=table)
    return table


def _write_report(
    path: Path,
    title: str,
    summary: dict[str, Summary],
    results: dict[str, list[Results]],
    curves: dict[str, list[plots.Curve]],
    table: str,
) -> None:
    """Write the report: the measures of objectives and of runs, and the mean curve of each objective."""
    columns = [*next(iter(summary.values()))]
    of_runs = [
        [
            f"{name}, seed {run['protocol']['seed']}",
            *(_cell(values and values[n : n + 1]) for values in of.values()),
        ]
        for name, of in summary.items()
        for n, run in enumerate(results[name])
    ]
    of_objectives = [[name, *map(_cell, of.values())] for name, of in _best_first(summary)]
    means = {
        name: [
            (points[0][1], statistics.mean(recall for *_, recall in points))
            for points in zip(*runs, strict=True)
        ]
        for name, runs in curves.items()
    }
    classes = {part for runs in curves.values() for run in runs for part, *_ in run}
    write_comparison(
        path,
        title,
        summary=("Mean over seeds, in percent", ["objective", *columns], of_objectives),
        curves=(f"Recall@1 on {' and '.join(sorted(classes))} classes (%)", means),
        runs=("Each run, in percent", ["run", *columns], of_runs),
        protocol=next(iter(results.values()))[0]["protocol"],
        text=table,
    )


def _one_ranking(workdir: Path, folders: dict[str, ConfigDict]) -> str | None:
    """The way in which all runs rank by PDDM score; None if none of them does.

    Raises:
        ValueError: finished runs rank in another way than the others; and as `runner.validate` raises.
    """
    found: dict[str, str] = {}
    for folder, config in folders.items():
        checked, results = runner.validate(config, workdir / folder)
        ranking = EVALUATIONS[checked.evaluation].protocol(checked).get("pddm_ranking")
        if ranking is None:
            continue
        if results is not None:
            ranking = results["protocol"].get("pddm_ranking", retrieval.ALL)  # absent in earlier versions
        found.setdefault(ranking, folder)
    if len(found) > 1:
        ways = "; ".join(f"{ranking} in {folder}" for ranking, folder in found.items())
        raise ValueError(
            f"the runs in {workdir} rank by PDDM score in different ways: {ways}; give "
            "--config.train.pddm_rerank_depth=0, which ranks all images, or delete the results.json that "
            "differ, and their runs are evaluated again"
        )
    return next(iter(found), None)


def one(config: ConfigDict, objective: str, seed: int) -> ConfigDict:
    """The config of one run: fields of another objective than the config's own are left out."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    if config.objective.name != objective:
        for field in config.objective:
            config.objective[field] = None if field != "name" else objective
    return config


def summarize(runs: list[dict[str, float | None]]) -> Summary:
    """The columns of all seeds, each run's given."""
    by_column = {column: [run[column] for run in runs] for column in runs[0]}
    return {
        column: None if None in values else [x for x in values if x is not None]
        for column, values in by_column.items()
    }


def as_table(
    summary: dict[str, Summary], example: Results, seeds: list[int], ranking: str | None = None
) -> str:
    """A Markdown table, by its first column, best first; its footer names the ranking by PDDM score."""
    columns = [*next(iter(summary.values()))]
    lines = [f"| objective | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, of in _best_first(summary):
        lines.append(f"| {name} | {' | '.join(_cell(of[column]) for column in columns)} |")
    over = "mean ± standard deviation over seeds" if len(seeds) > 1 else "seed"
    protocol, by_score = example["protocol"], f" PDDM score ranks: {ranking}." if ranking else ""
    return "\n".join(lines) + (
        f"\n\n{protocol['data']}, {example['steps']} steps; "
        f"{over} {', '.join(map(str, seeds))}, in per cent; "
        f"{example['versions']['device']}, jax {example['versions']['jax']}.{by_score}\n"
    )


def _cell(values: list[float] | None) -> str:
    """The mean and the standard deviation in percent; "-" if the measure is not defined."""
    if values is None:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def _best_first(summary: dict[str, Summary]) -> list[tuple[str, Summary]]:
    """The objectives by their first column, best first."""
    first = next(iter(next(iter(summary.values()))))
    return sorted(summary.items(), key=lambda item: -sum(item[1][first] or []))


def body() -> None:
    """The command."""
    workdir = command.workdir()
    try:
        seeds = [int(seed) for seed in flags.FLAGS.seeds]
    except ValueError:
        raise ValueError(f"--seeds must be integers, got {','.join(flags.FLAGS.seeds)}") from None
    config, asked = flags.FLAGS.config, flags.FLAGS.evaluation
    if asked not in (None, config.evaluation):
        check_choice("--evaluation", asked, EVALUATIONS)
        raise ValueError(f"--evaluation is {asked!r}, but the config's evaluation is {config.evaluation!r}")
    table = compare(config, workdir, flags.FLAGS.objectives, seeds)
    if jax.process_index() == 0:
        print(f"{table}\nfiles: {workdir}")


def define_flags() -> None:
    """The flags of this command alone."""
    flags.DEFINE_list(
        "objectives", ["pddm", "quadruplet", "triplet_semihard", "multi_similarity"], "Names."
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds: of the split, the weights and the batches.")
    flags.DEFINE_string("evaluation", None, "What the config's evaluation must be, if it is given.")


if __name__ == "__main__":
    command.launch(command.Experiment(body, "quickstart", "runs/compare", define_flags))

"""Train objectives under one budget and set them side by side: one table, one convergence plot.

    python -m experiments.compare --objectives=pddm,quadruplet --seeds=0,1,2

Each run stands in WORKDIR/OBJECTIVE-SEED and goes on where it was stopped. The fields of
`config.objective` apply to the objective that `config.objective.name` names; the others stand at
their own defaults.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import command, plots, retrieval, runner
from experiments.results import Results
from pddm_jax.checks import check_choice
from pddm_jax.files import write_json, write_text
from pddm_jax.objectives import OBJECTIVES
from pddm_jax.writer import read_rows

Numbers = list[float]
Summary = dict[str, dict[str, Numbers | None]]


def compare(config: ConfigDict, workdir: Path, objectives: list[str], seeds: list[int]) -> str:
    """Run each objective with each seed, write compare.json, compare.md and convergence.png.

    Returns:
        The table, as in compare.md.

    Raises:
        ValueError: an objective is unknown or named twice; and as `runner.run` raises.
    """
    for name in objectives:
        check_choice("--objectives", name, OBJECTIVES)
    if len({*objectives}) < len(objectives) or len({*seeds}) < len(seeds) or not objectives or not seeds:
        raise ValueError("--objectives and --seeds must each name at least one, and none twice")
    results: dict[str, list[Results]] = {name: [] for name in objectives}
    curves: dict[str, list[plots.Curve]] = {name: [] for name in objectives}
    for seed in seeds:
        for name in objectives:
            folder = workdir / f"{name}-{seed}"
            found = runner.run(one(config, name, seed), folder, "compare", retrieval.EVALUATION)
            results[name].append(found)
            curves[name].append(plots.curve(read_rows(folder / "metrics.jsonl")))
            jax.clear_caches()
    summary = {name: summarise(runs) for name, runs in results.items()}
    table = as_table(summary, results[objectives[0]][0], seeds)
    if jax.process_index() == 0:
        write_json(workdir / "compare.json", {"seeds": seeds, "objectives": summary})
        write_text(workdir / "compare.md", table)
        title = f"{config.data.name}: mean and deviation over seeds {', '.join(map(str, seeds))}"
        plots.convergence(curves, title, workdir / "convergence.png")
    return table


def one(config: ConfigDict, objective: str, seed: int) -> ConfigDict:
    """The config of one run: fields of another objective than the config's own are left out."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    if config.objective.name != objective:
        for field in config.objective:
            config.objective[field] = None if field != "name" else objective
    return config


def summarise(runs: list[Results]) -> Summary:
    """By measure and ranking: the value of each seed, None where the score is not trained."""

    def each(measure: Callable[[Results, str], Any]) -> dict[str, Numbers | None]:
        values = {score: [measure(run, score) for run in runs] for score in ("euclidean", "pddm")}
        return {score: None if None in of_seeds else of_seeds for score, of_seeds in values.items()}

    return {
        "recall_at_1": each(lambda run, score: (run["recall_at_k"][score] or {}).get("1")),
        "map_at_r": each(lambda run, score: run["map_at_r"][score]),
    }


def as_table(summary: dict[str, Summary], example: Results, seeds: list[int]) -> str:
    """A Markdown table, best Recall@1 by embedding first."""

    def cell(values: Numbers | None) -> str:
        if values is None:
            return "-"
        spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{100 * statistics.mean(values):.2f}{spread}"

    lines = [
        "| objective | Recall@1 | Recall@1, PDDM score | MAP@R | MAP@R, PDDM score |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, of in sorted(
        summary.items(), key=lambda item: -sum(item[1]["recall_at_1"]["euclidean"] or [])
    ):
        cells = [
            cell(of[measure][score]) for measure in ("recall_at_1", "map_at_r") for score in of[measure]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    protocol = example["protocol"]
    return "\n".join(lines) + (
        f"\n\n{protocol['data']}, {example['steps']} steps; "
        f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}, in per cent; "
        f"{example['versions']['device']}, jax {example['versions']['jax']}.\n"
    )


def body() -> None:
    """The command."""
    workdir = Path(flags.FLAGS.workdir)
    try:
        seeds = [int(seed) for seed in flags.FLAGS.seeds]
    except ValueError:
        raise ValueError(f"--seeds must be integers, got {','.join(flags.FLAGS.seeds)}") from None
    table = compare(flags.FLAGS.config, workdir, flags.FLAGS.objectives, seeds)
    if jax.process_index() == 0:
        print(f"{table}\nfiles: {workdir}")


if __name__ == "__main__":
    command.define_flags("quickstart", workdir="runs/compare")
    flags.DEFINE_list(
        "objectives", ["pddm", "quadruplet", "triplet_semihard", "multi_similarity"], "Names."
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds: of the split, the weights and the batches.")
    command.launch(body)

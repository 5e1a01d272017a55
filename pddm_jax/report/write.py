"""Reports of runs and of comparisons: report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pddm_jax.report import charts
from pddm_jax.report.page import write_page

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]
"""Caption, head, rows; the first cell of a row names it."""

EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(("gallery", "pair_lists", "label_errors", "duplicates"), ()),
    **dict.fromkeys(("gallery_note", "pairs_note", "scores_note", "map_note", "classes_note"), ""),
    **dict.fromkeys(("labels_note", "duplicates_note", "text"), ""),
    "class_table": None,
    "has_score": False,
    "thumbnails": {},
    "charts": {},
}
"""The fields of `run.html` that retrieval fills."""

MOST_STEPS = 500
"""Steps of a curve that are shown."""

SECTIONS = {
    "results": "Results",
    "convergence": "Convergence",
    "queries": "Queries",
    "pairs": "Hardest pairs",
    "scores": "Scores and distances",
    "map": "Map",
    "classes": "Recall by class",
    "labels": "Label errors",
    "duplicates": "Duplicates",
}


def write_run(
    path: Path,
    results: Mapping[str, Any],
    tables: Sequence[Table],
    rows: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
) -> None:
    """Write the report of a run.

    Args:
        path: of the page.
        results: as in results.json.
        tables: the results as tables.
        rows: of metrics.jsonl.
        fields: more fields of `run.html`, as by `retrieval_fields`.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    protocol, curves, loss = results["protocol"], _measures_by_step(rows), _by_step(rows, "loss")
    found = {**EMPTY, **fields}
    drawn = {
        **({"convergence": charts.convergence(curves, "Recall@1 and MAP@R (%)")} if curves else {}),
        **({"loss": charts.convergence({"loss": loss}, "loss")} if loss else {}),
        **found["charts"],
    }
    shown = {
        "results": True,
        "convergence": bool(curves or loss),
        "queries": bool(found["gallery"]),
        "pairs": bool(found["pair_lists"]),
        "scores": "scores" in drawn,
        "map": "map" in drawn,
        "classes": bool(found["class_table"]),
        "labels": bool(found["gallery"]),
        "duplicates": bool(found["gallery"]),
    }
    write_page(
        path,
        "run.html",
        found
        | {
            "title": f"{results['experiment']}: {protocol['objective']['name']} on {protocol['data']}",
            "summary": (
                f"{results['steps']} training steps in {results['seconds']} s, seed {protocol['seed']}; "
                f"evaluation: {results['evaluation']}; {protocol['split']}"
            ),
            "footer": f"params_sha256 {results['params_sha256']}",
            "sections": {id: name for id, name in SECTIONS.items() if shown[id]},
            "tables": tables,
            "protocol": {"protocol": protocol, "versions": results["versions"]},
            "charts": drawn,
            "curve_table": _table_by_step({**curves, "loss": loss}),
            "results": results,
        },
    )


def _measures_by_step(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Recall@1 and MAP@R in percent, on the test classes or on the validation classes."""
    curves = {}
    for prefix, classes in (("", "test classes"), ("validation_", "validation classes")):
        for field, measure in (("recall_at_1", "Recall@1"), ("map_at_r", "MAP@R")):
            curve = [(step, 100 * value) for step, value in _by_step(rows, f"{prefix}{field}")]
            if curve:
                curves[f"{measure}, {classes}"] = curve
    return curves


def _table_by_step(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Table:
    by_step: dict[int, dict[str, str]] = {}
    for name, curve in curves.items():
        for step, value in curve:
            by_step.setdefault(step, {})[name] = f"{value:.4g}"
    rows = [[step, *(of.get(name, "") for name in curves)] for step, of in sorted(by_step.items())]
    return "Values by step", ["step", *curves], rows


def _by_step(rows: Sequence[Mapping[str, Any]], field: str) -> list[tuple[int, float]]:
    """A field by step: of at most `MOST_STEPS` rows, evenly spaced, with the last one."""
    curve = [(row["step"], row[field]) for row in rows if field in row]
    return curve[:: -max(-(-len(curve) // MOST_STEPS), 1)][::-1]


def write_comparison(
    path: Path,
    title: str,
    summary: Table,
    curves: tuple[str, Mapping[str, Sequence[tuple[int, float]]]],
    runs: Table,
    protocol: Mapping[str, Any],
    text: str,
) -> None:
    """Write the report of a comparison of runs.

    Args:
        path: of the page.
        title: of the page.
        summary: the measures of each objective.
        curves: the title of their axis, and mean Recall@1 in percent by step, of each objective.
        runs: the measures of each run.
        protocol: of the first run.
        text: the comparison as in compare.md.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    measure, by_name = curves
    drawn = {"convergence": charts.convergence(by_name, measure)} if any(by_name.values()) else {}
    write_page(
        path,
        "compare.html",
        {
            "title": title,
            "summary": f"{len(runs[2])} runs",
            "footer": "",
            "sections": {"results": "Results"}
            | ({"convergence": "Convergence"} if drawn else {})
            | {"runs": "Runs"},
            "summary_table": summary,
            "runs_table": runs,
            "protocol": protocol,
            "text": text,
            "charts": drawn,
        },
    )

"""The table of a record of ``make gpu``, in Markdown: every number in it is of that record."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import cell

Row = dict[str, Any]

PRECISIONS = {"32": "float32", "tf32": "TF32", "bf16": "bf16", "default": "PyTorch's own"}
NOTE = """\
`ms`: a step, or a batch of counterfactuals, until the device has done it. `of the product`: operations of convolutions
and matrix products a second, as a share of what a large matrix product reaches in that precision here. `x causal-gen`:
how many times faster than causal-gen's own code at the same batch and precision. `MiB`: the most that PyTorch had
allocated. `data wait`: the share of a training's time in which it waited for samples. PyTorch's own precision is
float32, with convolutions in TF32 where a GPU has it. An empty cell was not measured.
"""


def markdown(record: Row) -> str:
    """The whole table; parts that are missing yet are left out."""
    facts = {name: value for name, value in record.items() if name not in ("parts", "tiny")}
    lines = [f"# {record['device']}", "", ", ".join(f"{name} {value}" for name, value in facts.items() if value), ""]
    if record["tiny"]:
        lines += ["**Tiny networks, to try the command: these numbers say nothing of any GPU.**", ""]
    lines += ["Written by `make gpu`; do not edit.", "", NOTE.strip()]
    products = _rows(record, "product")
    if products:
        lines += ["", "## Matrix product", "", *_table([{**row, **_precision(row)} for row in products])]
    steps = _rows(record, "steps")
    if steps:
        rates = {row["precision"]: row["TFLOP/s"] for row in products}
        lines += ["", "## Steps", "", *_table([_step(row, steps, rates) for row in steps])]
    trainings = _rows(record, "training")
    if trainings:
        lines += ["", "## Training, with its data", "", *_table([{**row, **_precision(row)} for row in trainings])]
    tests = _rows(record, "tests")
    if tests:
        counts = {outcome: [row for row in tests if row["outcome"] == outcome] for outcome in _outcomes(tests)}
        lines += ["", "## Tests that need CUDA", ""]
        lines += [", ".join(f"{len(rows)} {outcome}" for outcome, rows in counts.items())]
        lines += [f"- {row['test']}: {_line(row['why'])}" for row in counts.get("failed", [])]
    parts = [{**part, "rows": len(part["rows"])} for part in record.get("parts", [])]
    lines += ["", "## Parts", "", *_table([_without(part, "kind") for part in parts])]
    return "\n".join(lines) + "\n"


def _step(row: Row, steps: list[Row], rates: dict[str, float]) -> Row:
    """A row as it is shown, with what follows from others of this record."""
    shown = {name: row[name] for name in ("configuration", "task", "batch")} | _precision(row)
    shown["contender"] = row["contender"] + (", compiled" if row["compile"] else "")
    if "error" in row:
        return shown | {"ms": row["error"]}
    same = ("configuration", "contender", "task")
    counted = [r["GFLOP an image"] for r in steps if "GFLOP an image" in r and all(r[k] == row[k] for k in same)]
    shown |= {"ms": row["ms"], "images/s": row["images/s"]}
    if counted and row["precision"] in rates:
        shown["of the product"] = counted[0] * row["images/s"] / (1000 * rates[row["precision"]])
    where = ("configuration", "task", "batch", "precision")
    theirs = [
        r["ms"] for r in steps if r["contender"] == "causal-gen" and "ms" in r and all(r[k] == row[k] for k in where)
    ]
    if theirs:
        shown["x causal-gen"] = theirs[0] / row["ms"]
    return shown | ({"MiB": row["MiB"]} if "MiB" in row else {})


def _rows(record: Row, kind: str) -> list[Row]:
    return [row for part in record.get("parts", []) if part["kind"] == kind for row in part["rows"]]


def _precision(row: Row) -> Row:
    return {"precision": PRECISIONS[row["precision"]]}


def _outcomes(tests: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["outcome"] for row in tests))


def _without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _table(rows: list[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_line(cell(row.get(column, ""))).replace("|", "/") for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells)]

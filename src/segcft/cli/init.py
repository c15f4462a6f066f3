"""`segcft init`: from a folder to a study file that a plan completes, by what is seen and two questions."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import Command, quiet_libraries
from segcft.cli.plan import hours
from segcft.errors import Code, SegcftError

if TYPE_CHECKING:
    from segcft.drafting.draft import Survey

MOST_REASONS = 5
"""Samples that cannot be used of which the reason is shown."""


def add_init(command: Command) -> None:
    """Add the command ``init``."""
    parser = command("init", _init, "draft a study file from a folder of images, masks and a table")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of images, masks and a table")
    parser.add_argument("--out", metavar="FILE", type=Path, help="study file to write (default: NAME.yaml)")
    parser.add_argument("--name", help="of the study (default: that of the folder)")
    parser.add_argument(
        "--structures",
        metavar="NAME,...",
        help="names of the structures, in the order in which they are found (default: it asks)",
    )
    parser.add_argument(
        "--attributes",
        metavar="NAME,...",
        help="columns that are variables, and causes of what is measured; '' for none (default: it asks)",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: take what is offered")
    parser.add_argument("--run", action="store_true", help="then run the study")
    hours(parser)


def _init(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.drafting import draft
    from segcft.drafting.structures import slug
    from segcft.utils.atomic import write_text
    from segcft.utils.progress import ConsoleProgress

    found = draft.survey(options.folder, ConsoleProgress())
    name = options.name or slug(options.folder.resolve().name) or "study"
    out = options.out or Path(f"{name}.yaml")
    if out.exists():
        raise SegcftError(Code.EXISTS, out, "this file is there; move it away, or name another one with --out")
    _show(found)
    ask = not options.yes and sys.stdin.isatty()
    names = _structures(found, options.structures, ask)
    causes = _attributes(found, options.attributes, ask)
    if not names and not causes:
        why = "no masks and no attributes: nothing in it can be a variable (`segcft segment` makes masks of chests)"
        raise SegcftError(Code.EMPTY, options.folder, why)
    text = draft.draft(found, out, name, names, causes)
    used, reasons = draft.check(text, out, options.folder)
    write_text(out, text)
    _say(f"\n{out}: written; of {used + len(reasons)} samples tried, {used} can be used")
    for reason in reasons[:MOST_REASONS]:
        _say(f"  left out: {reason}")
    if options.run:
        given = [] if options.hours is None else ["--hours", str(options.hours)]
        command = [sys.executable, "-m", "segcft", "run", str(out), "--data", str(options.folder), *given]
        sys.exit(subprocess.call(command))
    where = f"{shlex.quote(str(out))} --data {shlex.quote(str(options.folder))}"
    _say(f"\nnext:\n  segcft run {where}")
    if names and causes:
        _say(f"  segcft graph {where}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _show(found: Survey) -> None:
    """What was found, line by line."""
    layout, facts = found.layout, found.facts
    _say(f"images: {len(layout.ids)} in {layout.images.folder}, {found.images.words}")
    if layout.others:
        _say(f"  not used: {', '.join(layout.others)}")
    if layout.masks:
        _say(f"masks: of {layout.masked} of them")
    for number, (name, seen) in enumerate(zip(found.names, found.structures, strict=True), start=1):
        _say(f"  {number}. {name}: {seen.words}")
    for other in found.tables:
        _say(f"not the table: {other}")
    if facts is None:
        _say("table: none")
        return
    _say(f"table: {facts.path.name}, {facts.rows[0]} of its {facts.rows[1]} rows name an image in column {facts.id!r}")
    for kind, column in (("patients", facts.patient), ("split", facts.split)):
        if column is not None:
            _say(f"  {kind}: column {column!r}")
    for one in facts.attributes:
        _say(f"  {one.name}: {one.words}")
    for column, why in facts.left.items():
        _say(f"  not used: column {column!r}, {why}")


def _structures(found: Survey, given: str | None, ask: bool) -> list[str]:
    """The names of the structures.

    Raises:
        SegcftError: there are not as many, or two are the same.
    """
    from segcft.drafting.structures import slug

    names = list(found.names)
    if given is None and ask and names:
        given = _asked(f"\nWhat are the structures called? [{', '.join(names)}]")
    if not given:
        return names
    said = [slug(one) for one in given.split(",")]
    if len(said) != len(names) or len(set(said)) < len(said) or not all(said):
        why = f"{len(names)} different names are needed, for {', '.join(names)}, and not {given!r}"
        raise SegcftError(Code.INVALID, "--structures", why)
    return said


def _attributes(found: Survey, given: str | None, ask: bool) -> list[str]:
    """The attributes that are variables.

    Raises:
        SegcftError: one is no column that can be.
    """
    names = [one.name for one in found.attributes]
    if given is None and ask and names:
        what = "what is measured and " if found.structures else ""
        text = f"\nWhich of these are causes of {what}the image? 'none' for none [{', '.join(names)}]"
        given = _asked(text) or None
    if given is None:
        return names
    said = [one.strip() for one in given.split(",") if one.strip() not in ("", "none")]
    called = {one.column: one.name for one in found.attributes} | {name: name for name in names}
    for one in said:
        if one not in called:
            known = f"known are {', '.join(names)}" if names else "there is none"
            raise SegcftError(Code.UNKNOWN, "--attributes", f"no column {one!r} can be a variable; {known}")
    return list(dict.fromkeys(called[one] for one in said))


def _asked(question: str) -> str:
    """What the user answers."""
    _say(question)
    try:
        return input("> ").strip()
    except EOFError:
        return ""

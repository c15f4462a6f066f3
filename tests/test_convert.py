"""Conversion to the folder layout: what is written, going on after an interruption, and images of any shape."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refused import refused
from segcft.config.sources import Splits
from segcft.config.study import Image as Grid
from segcft.data.resize import fit_image
from segcft.data.splits import assign
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted
from segcft.importers.fit import fit_window
from segcft.io.imagefile import read_image
from segcft.io.reject import Excluded, Rejected, Remark, Unreadable


@dataclass(frozen=True)
class Person:
    """A small data set's item: its image is noise of its own, each person has two images."""

    number: int

    @property
    def id(self) -> str:
        return f"p{self.number:03}"

    def sample(self, **changes: Any) -> Converted:
        random = np.random.default_rng(self.number)
        image = random.integers(0, 256, (6, 8), dtype=np.uint8)
        mask = random.integers(0, 8, (6, 8), dtype=np.uint8)
        sample = Converted(self.id, f"patient{self.number // 2}", image, mask, {"age": self.number, "note": 'a, "b"'})
        return replace(sample, **changes)


def read(person: Person) -> Converted | Rejected:
    """Every fifth person is of a kind that is left out, every seventh has a broken file."""
    if person.number % 5 == 4:
        raise Excluded("too young", f"age is {person.number}")
    return Rejected("cannot read this") if person.number % 7 == 6 else person.sample()


def run(out: Path, people: int = 40, read: Any = read, **options: Any) -> Summary:
    items = options.pop("items", [Person(i) for i in range(people)])
    return convert(items, len(items), read, out, **{"settings": {"format": "test"}, "workers": 3} | options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def content(out: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_conversion_writes_images_masks_table_reasons_and_counts(tmp_path: Path) -> None:
    summary = run(tmp_path / "out")
    table = rows(tmp_path / "out" / "metadata.csv")
    kept = [i for i in range(40) if i % 5 != 4 and i % 7 != 6]
    assert [row["id"] for row in table] == [f"p{i:03}" for i in kept]
    for i, row in zip(kept, table, strict=True):
        expected = Person(i).sample()
        assert row == {
            "id": expected.id,
            "patient": expected.patient,
            "split": assign(expected.patient, Splits()),
            "age": str(i),
            "note": 'a, "b"',
        }
        for name, pixels in (("images", expected.image), ("masks", expected.mask)):
            with Image.open(tmp_path / "out" / name / f"{expected.id}.png") as file:
                assert file.mode == "L"
                assert np.array_equal(np.asarray(file), pixels)
    rejected = rows(tmp_path / "out" / "rejected.csv")
    assert rejected[0] == {"id": "p004", "kind": "too young", "reason": "age is 4"}
    assert summary.left_out == {"too young": 8, "image or mask unreadable": 4}
    assert (summary.items, sum(summary.samples.values())) == (40, len(kept))
    assert sum(summary.patients.values()) == len({i // 2 for i in kept})
    assert (tmp_path / "out" / "summary.txt").read_text() == f"{summary}\n"
    assert "      -8  too young\n" in str(summary)


def test_an_interrupted_conversion_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    seen: list[int] = []

    def interrupted(person: Person) -> Converted | Rejected:
        if person.number == 23:
            raise KeyboardInterrupt
        return read(person)

    def again(person: Person) -> Converted | Rejected:
        seen.append(person.number)
        return read(person)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", read=interrupted)
    assert not (tmp_path / "cut" / "metadata.csv").exists()
    with (tmp_path / "cut" / "journal.jsonl").open("a") as file:
        file.write('{"row": {"id": "p0')  # what a process that is killed leaves
    run(tmp_path / "cut", read=again)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    done = {i for i in range(16) if i % 5 != 4 and i % 7 != 6}  # the threads had not got much farther
    assert not done & set(seen)


def test_only_what_was_left_out_or_lost_is_read_again(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out" / "images" / "p000.png").unlink()
    (tmp_path / "out" / "masks" / "p001.png").write_bytes(b"")
    seen: list[int] = []

    def again(person: Person) -> Converted:
        seen.append(person.number)
        return person.sample()  # all files are there now

    summary = run(tmp_path / "out", read=again)
    assert sorted(seen) == sorted({0, 1} | {i for i in range(40) if i % 5 == 4 or i % 7 == 6})
    assert sum(summary.samples.values()) == 40
    assert not summary.left_out
    after = content(tmp_path / "out")
    assert all(after[name] == before[name] for name in before if name.endswith(".png"))
    assert sorted(row["id"] for row in rows(tmp_path / "out" / "metadata.csv")) == [f"p{i:03}" for i in range(40)]


def test_further_files_are_counted_and_made_again_where_they_are_lost(tmp_path: Path) -> None:
    calls = list[str]()
    name = "notes/{id}.txt"

    def noted(person: Person) -> Converted:
        calls.append(person.id)
        return person.sample(files={name: person.id.encode()} if person.number % 2 else {})

    assert run(tmp_path / "out", 30, noted, files=[name]).files == {name: 15}
    assert (tmp_path / "out/notes/p003.txt").read_text() == "p003"
    (tmp_path / "out/notes/p003.txt").unlink()
    calls.clear()
    assert run(tmp_path / "out", 30, noted, files=[name]).files == {name: 15}
    assert calls == ["p003"]
    assert (tmp_path / "out/notes/p003.txt").read_text() == "p003"
    with pytest.raises(ValueError, match="p000"):
        run(tmp_path / "other", 2, lambda person: person.sample(files={"same": b""}))


def test_what_is_lost_and_cannot_be_read_again_is_not_in_the_table(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / "images" / "p000.png").unlink()

    def broken(person: Person) -> Converted | Rejected:
        return Rejected("broken by now")

    summary = run(tmp_path / "out", read=broken)
    images = {path.stem for path in (tmp_path / "out" / "images").iterdir()}
    assert {row["id"] for row in rows(tmp_path / "out" / "metadata.csv")} == images
    assert sum(summary.samples.values()) == len(images)
    assert "p000" not in images


def test_who_is_not_listed_any_more_is_not_in_the_table(tmp_path: Path) -> None:
    run(tmp_path / "out")
    run(tmp_path / "out", people=10)
    assert [row["id"] for row in rows(tmp_path / "out" / "metadata.csv")][-1] == "p008"


def test_a_second_sample_of_an_id_and_an_id_outside_the_folder_are_left_out(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Named(Person):
        name: str

        @property
        def id(self) -> str:
            return self.name

    items = [Named(1, "a"), Named(2, "a"), Named(3, "../b"), Named(5, "site/c")]
    summary = run(tmp_path / "out", items=items)
    assert summary.left_out == {"listed twice": 1, "image or mask unreadable": 1}
    assert (tmp_path / "out" / "images" / "site" / "c.png").is_file()
    assert not (tmp_path / "b.png").exists()


@dataclass(frozen=True)
class Copy(Person):
    """One of several files of an id; ``state`` says what it is found to be."""

    state: str = "good"

    @property
    def id(self) -> str:
        return f"p{self.number % 100:03}"

    def read(self) -> Converted:
        if self.state == "lateral":
            raise Excluded("view", "lateral")
        if self.state != "good":
            raise (Unreadable("damaged", "cut off") if self.state == "cut" else Rejected("no image"))
        return self.sample()


@pytest.mark.parametrize("workers", [1, 5])
def test_of_several_copies_the_first_that_can_be_read_is_taken(tmp_path: Path, workers: int) -> None:
    first = [Copy(0, "cut"), Copy(1), Copy(2, "lateral"), Copy(3, "bad"), Copy(4, "cut")]
    second = [Copy(100), Copy(101), Copy(102), Copy(103, "cut"), Copy(104, "lateral")]
    third = [Copy(200), Copy(201, "cut"), Copy(202), Copy(203), Copy(204)]
    people = [Copy(number) for number in range(5, 30)]
    items = [*first, *second, *people, *third]

    def taken() -> set[int]:
        return {int(row["age"]) for row in rows(tmp_path / "out" / "metadata.csv")}

    summary = run(tmp_path / "out", items=items, read=Copy.read, workers=workers)
    assert taken() == {100, 1, 203, *range(5, 30)}
    assert [(row["id"], row["kind"]) for row in rows(tmp_path / "out" / "rejected.csv")] == [
        *[("p000", "damaged"), ("p002", "view"), ("p003", "image or mask unreadable"), ("p004", "damaged")],
        ("p000", "listed twice"),
        *[("p001", "listed twice")] * 2,
        *[("p002", "listed twice")] * 2,
        ("p003", "damaged"),
        *[("p004", "view"), ("p004", "listed twice")],
    ]
    assert summary.items == sum(summary.samples.values()) + sum(summary.left_out.values())
    before = content(tmp_path / "out")
    read: list[int] = []

    def again(item: Copy) -> Converted:
        read.append(item.number)
        return item.read()

    run(tmp_path / "out", items=items, read=again, workers=workers)
    assert content(tmp_path / "out") == before  # the same copies are named for the same reasons
    assert sorted(read) == [0, 2, 3, 4, 103, 104]
    run(tmp_path / "out", items=[Copy(0), *items[1:]], read=again, workers=workers)
    assert taken() == {0, 1, 203, *range(5, 30)}
    with Image.open(tmp_path / "out" / "images" / "p000.png") as file:
        assert np.array_equal(np.asarray(file), Copy(0).sample().image)


def test_samples_are_completed_in_batches_and_may_be_rejected_there(tmp_path: Path) -> None:
    sizes: list[int] = []

    def finish(samples: Sequence[Converted]) -> list[Converted | Rejected]:
        sizes.append(len(samples))
        return [
            Excluded("bad mask", "empty") if one.id == "p001" else replace(one, mask=np.zeros_like(one.image))
            for one in samples
        ]

    def without_mask(person: Person) -> Converted | Rejected:
        sample = read(person)
        return replace(sample, mask=None) if isinstance(sample, Converted) else sample

    summary = run(tmp_path / "out", read=without_mask, finish=finish, batch_size=6)
    assert sizes == [6, 6, 6, 6, 4]
    assert summary.left_out["bad mask"] == 1
    with Image.open(tmp_path / "out" / "masks" / "p000.png") as file:
        assert not np.asarray(file).any()


def test_a_format_without_masks_writes_none_and_may_bring_its_own_split(tmp_path: Path) -> None:
    summary = run(tmp_path / "out", read=lambda person: person.sample(mask=None, split="test"))
    assert not (tmp_path / "out" / "masks").exists()
    assert summary.samples == {"test": 40}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda sample: None, TypeError),
        (lambda sample: sample.image, TypeError),
        (lambda sample: replace(sample, id="other"), ValueError),
        (lambda sample: replace(sample, patient=3), TypeError),
        (lambda sample: replace(sample, split="val"), ValueError),
        (lambda sample: replace(sample, image=sample.image.tolist()), TypeError),
        (lambda sample: replace(sample, image=sample.image / 255), ValueError),
        (lambda sample: replace(sample, image=sample.image[None]), ValueError),
        (lambda sample: replace(sample, mask=sample.mask > 0), ValueError),
        (lambda sample: replace(sample, mask=sample.mask[:3]), ValueError),
        (lambda sample: replace(sample, attributes={"id": 3}), ValueError),
        (lambda sample: replace(sample, attributes={"split": "test"}), ValueError),
        (lambda sample: replace(sample, attributes={"ages": [3, 4]}), TypeError),
        (lambda sample: replace(sample, remarks=Remark("kind", "text")), TypeError),
    ],
)
@pytest.mark.parametrize("at_the_end", [False, True])
def test_what_is_no_sample_ends_the_conversion_by_name_and_it_goes_on_once_that_is_mended(
    tmp_path: Path, change: Callable[[Converted], object], error: type[Exception], at_the_end: bool
) -> None:
    def changed(sample: Converted) -> object:
        return change(sample) if sample.id == "p003" else sample

    def changing(samples: Sequence[Converted]) -> Any:
        return [changed(sample) for sample in samples]

    wrong: Any = {"finish": changing} if at_the_end else {"read": lambda person: changed(person.sample())}
    with pytest.raises(error, match="p003"):
        run(tmp_path, people=6, **{"read": Person.sample} | wrong)
    assert not (tmp_path / "images" / "p003.png").exists()
    assert run(tmp_path, people=6, read=Person.sample).samples.total() == 6


def test_samples_are_finished_one_for_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="p000"):
        run(tmp_path, people=6, read=Person.sample, finish=lambda samples: samples[1:])


def test_images_may_differ_in_size(tmp_path: Path) -> None:
    def read(person: Person) -> Converted:
        image = np.zeros((4, 5 + person.number), np.uint8)
        return person.sample(image=image, mask=image)

    run(tmp_path, people=3, read=read)
    for number in range(3):
        for folder in ("images", "masks"):
            with Image.open(tmp_path / folder / f"p{number:03}.png") as file:
                assert file.size == (5 + number, 4)


@pytest.mark.parametrize("change", [{"settings": {"format": "test", "size": [8, 8]}}, {"splits": Splits(seed=1)}])
def test_a_conversion_is_not_continued_with_other_settings(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(DataError) as error:
        run(tmp_path / "out", **change)
    assert error.value.field == str(tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(DataError) as error:
        run(tmp_path)
    assert error.value.field == str(tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"all of it"}


def test_a_damaged_journal_is_an_error_and_one_that_was_just_begun_is_not(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"setti')
    run(tmp_path, people=4)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["settings"]["format"] == "test"
    (tmp_path / "journal.jsonl").write_text("\n".join([lines[0], "garbage", *lines[1:], ""]))
    with refused(DataError, Code.DAMAGED, "journal.jsonl"):
        run(tmp_path, people=4)


@pytest.mark.parametrize(
    "change",
    [
        {"row": {"split": None}},
        {"row": {"split": "exam"}},
        {"row": {"split": []}},
        {"row": {"patient": {}}},
        {"row": {"id": []}},
        {"remarks": 3},
        {"remarks": [["a kind alone"]]},
        {"remarks": [[["no kind"], "text"]]},
    ],
)
def test_a_damaged_entry_of_a_journal_is_told_before_anything_is_done(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, people=4)
    journal = tmp_path / "journal.jsonl"
    settings, first, *more = map(json.loads, journal.read_text().splitlines())
    first |= change | {"row": first["row"] | change.get("row", {})}
    journal.write_text("".join(json.dumps(line) + "\n" for line in (settings, first, *more)))
    before = content(tmp_path)
    with refused(DataError, Code.DAMAGED, "journal.jsonl"):
        run(tmp_path, people=6)
    assert content(tmp_path) == before


def test_a_data_set_without_a_usable_image_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with refused(DataError, Code.EMPTY, tmp_path / "out"):
        run(tmp_path / "out", items=[Person(4), Person(9), Person(14)])
    assert len(rows(tmp_path / "out" / "rejected.csv")) == 3


@settings(max_examples=60)
@given(
    height=st.integers(2, 60),
    width=st.integers(2, 60),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    strip=st.integers(1, 70),
    bits=st.sampled_from([8, 12, 16]),
    seed=st.integers(0, 9),
)
def test_an_image_is_fitted_as_the_import_of_a_folder_does(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    size: tuple[int, int],
    strip: int,
    bits: int,
    seed: int,
) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**bits, (height, width)).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "any.png"
    Image.fromarray(pixels).save(path)
    expected = fit_image(read_image(path, 1, window=(2, 98)).grey, Grid(size=size))[0]
    large = (size[0] * 2, size[1] * 2)
    small, _ = fit_window(pixels, (2, 98), size, large, strip=strip)
    assert small.shape == size
    # Values between two levels may be rounded either way, as may the median of an even number of border pixels.
    assert np.abs(small.astype(int) - expected).max() <= 1 + (bits == 8) * 255 / np.ptp(np.percentile(pixels, (2, 98)))


def test_a_constant_image_is_rejected() -> None:
    with pytest.raises(Rejected, match="constant image"):
        fit_window(np.full((5, 5), 700, dtype=np.uint16), (0.5, 99.5), (4, 4))

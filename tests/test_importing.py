"""Import into a run: whole, or in shards that several machines make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refused import refused
from segcft.cli import main
from segcft.config.study import Study
from segcft.data.shards import Shard
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError
from segcft.pipeline.importing import describe, import_samples, import_shard
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress


@pytest.fixture
def study(make_small_study: Any) -> Study:
    made: Study = make_small_study({"data.people": 20})
    return made


def test_shards_are_joined_once_all_are_there(study: Study, tmp_path: Path) -> None:
    whole, run = Run(tmp_path / "whole", study), Run(tmp_path / "sharded", study)
    assert import_samples(whole, None, Progress())
    for i in (3, 1):
        import_shard(run, None, Shard(i, 3), Progress())
    with refused(DataError, Code.MISSING, "shards"):
        import_samples(run, None, Progress())
    import_shard(run, None, Shard(2, 3), Progress())
    assert import_samples(run, None, Progress())
    assert run.store().fingerprint == whole.store().fingerprint
    assert not (run.folder / "shards").exists()
    assert not import_samples(run, None, Progress())  # up to date


def test_shards_of_two_divisions_are_not_mixed(study: Study, tmp_path: Path) -> None:
    run = Run(tmp_path, study)
    import_shard(run, None, Shard(1, 2), Progress())
    import_shard(run, None, Shard(1, 3), Progress())
    with refused(DataError, Code.CONFLICT, "shards"):
        import_samples(run, None, Progress())


def test_shards_of_other_settings_are_not_joined(study: Study, make_small_study: Any, tmp_path: Path) -> None:
    other = make_small_study({"data.people": 20, "data.seed": 8})
    import_shard(Run(tmp_path, other), None, Shard(1, 2), Progress())
    import_shard(Run(tmp_path, study), None, Shard(2, 2), Progress())
    with refused(DataError, Code.OTHER, "1-of-2.json"):
        import_samples(Run(tmp_path, study), None, Progress())


def test_shards_on_the_command_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run", study)
    run.write_study()
    command = ["import", str(run.folder / "study.yaml"), "--out", str(run.folder), "--device", "cpu"]
    for i in (1, 2):
        assert main([*command, "--shard", f"{i}/2"]) == 0
    assert not (run.folder / "store").exists()
    assert main(command) == 0
    assert len(run.store()) == 20
    with pytest.raises(SystemExit):
        main([*command, "--shard", "3/2"])
    assert "I/N" in capsys.readouterr().err


def test_images_that_use_little_of_their_file_s_range_are_a_warning(study: Study, tmp_path: Path) -> None:
    """12 bits in a file of 16, or a file of 8 bits that uses 4."""
    structures, grid = len(study.structures), study.image.size
    masks = np.full((structures, *grid), 255, dtype=np.uint8)
    attributes = {"sex": "F", "age": 50.0}
    for brightest, warned in ((15, True), (200, False)):
        with StoreWriter(tmp_path / str(brightest), study) as writer:
            for i in range(3):
                image = np.full((1, *grid), brightest, dtype=np.uint8)
                writer.append(f"p{i}", f"p{i}", "train", image, masks, attributes)
        told = describe(Store(tmp_path / str(brightest)))
        assert ("no grey level of the first 3 images is over 15 of 255" in told) == warned

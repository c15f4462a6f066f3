"""Kills, full disks, flipped bits and second runs: nothing is lost, nothing is half-written, everything is told.

No command needs shared memory: samples are read by threads, and processes side by side talk through pipes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from refused import refused
from segcft.api.many import answer_all
from segcft.api.questions import folder_items
from segcft.cli import main
from segcft.config.study import Study
from segcft.data.shards import Shard
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError, WriteError
from segcft.pipeline.ablation import load_ablation, run_ablation
from segcft.pipeline.importing import import_shard
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.training.loop import make_fabric
from segcft.utils.atomic import sync
from segcft.utils.digest import digest_of
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress, Task
from segcft.utils.signals import HeldBack, Terminated, orderly_end
from tests.conftest import small_mapping
from tests.test_training import Begun, copy_of, log_of, same, tensors_of, wait_for

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


# --- kills ---


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_like_one_that_ran_through(tmp_path: Path) -> None:
    options = ["--faults", "10", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.soak", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("10 faults, ")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_after_a_step_that_is_kept(
    small_run: Run, small_study_file: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    run = copy_of(small_run, tmp_path)
    run.path("hvae").unlink()
    command = Begun("hvae", small_study_file, "--out", run.folder)
    wait_for(run.training / "hvae.checkpoint", command)
    command.strike(number)
    ended, messages = command.end()
    assert ended == status, messages
    assert messages.splitlines()[-1].endswith("goes on from the last checkpoint")
    state = torch.load(run.training / "hvae.checkpoint", weights_only=True)
    assert [row["step"] for row in log_of(run.training, "hvae")] == list(range(1, state["step"] + 1))
    Pipeline(run, make_fabric("cpu")).run_stage("hvae")
    assert same(tensors_of(run.path("hvae")), tensors_of(small_run.path("hvae")))


class Ending(Progress):
    """Progress of a training that is asked to end in its last step."""

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        yield LastStep(total - done)


class LastStep(Task):
    def __init__(self, left: int) -> None:
        self.left = left

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_the_last_step_loses_no_step(small_run: Run, tmp_path: Path) -> None:
    run = copy_of(small_run, tmp_path)
    run.path("scm").unlink()
    with orderly_end(), pytest.raises(Terminated):
        Pipeline(run, make_fabric("cpu"), progress=Ending()).run_stage("scm")
    kept = torch.load(run.training / "scm.checkpoint", weights_only=True)
    assert kept["step"] == run.study.scm.steps
    Pipeline(run, make_fabric("cpu")).run_stage("scm")
    assert same(tensors_of(run.path("scm")), tensors_of(small_run.path("scm")))
    assert not list(run.training.glob("*.checkpoint"))


@pytest.mark.slow
def test_workers_end_in_order_with_their_run(small_study_file: Path, tmp_path: Path) -> None:
    command = Begun("run", small_study_file, "--out", tmp_path / "run", "--jobs", 2)
    training = tmp_path / "run" / "training"
    wait_for(training / "scm.jsonl", command)
    command.strike(signal.SIGTERM)
    status, messages = command.end()
    assert status == 143, messages
    for log in training.glob("*.jsonl"):
        if not (tmp_path / "run" / f"{log.stem}.safetensors").exists():
            steps = len(log.read_text().splitlines())
            checkpoint = log.with_suffix(".checkpoint")
            assert (torch.load(checkpoint, weights_only=True)["step"] if steps else 0) == steps


def test_signals_wait_only_where_somebody_handles_them() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with HeldBack():  # nobody asked for an orderly end: SIGTERM ends the process as ever
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with orderly_end(), HeldBack() as held:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert held.pending == signal.SIGTERM  # the step goes on
        with pytest.raises(Terminated) as end:
            held.deliver()
    assert end.value.code == 143
    with HeldBack():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # a second one does not wait
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# --- no space ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "limit", "named"),
    [
        ("import", 50_000, "store: cannot write here"),
        ("hvae", 20_000, "training/hvae.checkpoint: cannot be written"),
        ("regressor", 6_000, "training/regressor.jsonl: cannot be written"),
    ],
)
def test_a_file_that_finds_no_room_is_named_and_the_command_goes_on_later(
    small_run: Run, small_study: Study, small_study_file: Path, tmp_path: Path, stage: str, limit: int, named: str
) -> None:
    run = Run(tmp_path / "run", small_study) if stage == "import" else copy_of(small_run, tmp_path)
    run.path(stage).unlink(missing_ok=True)
    before = {path for path in run.folder.rglob("*") if path.is_file()}
    status, messages = Begun(stage, small_study_file, "--out", run.folder, room=limit).end()
    assert status == 1, messages
    assert "Traceback" not in messages
    assert named in messages.splitlines()[-1]
    made = {path for path in run.folder.rglob("*") if path.is_file()} - before
    assert {path.name for path in made} <= {".lock", "study.yaml"}
    Pipeline(run, make_fabric("cpu")).run_stage(stage)
    if stage != "import":
        assert same(tensors_of(run.path(stage)), tensors_of(small_run.path(stage)))
    assert run.store().fingerprint == small_run.store().fingerprint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only who may mount file systems has a small one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["hvae", "evaluate"])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    small_run: Run, small_study: Study, small_disk: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    run = copy_of(small_run, small_disk)
    path = run.evaluation / "table.json" if stage == "evaluate" else run.path(stage)
    path.unlink()
    if stage == "evaluate":
        (run.evaluation / "evaluation.json").unlink()
    study = small_disk / "small.yaml"
    study.write_text(yaml.safe_dump(small_mapping(), sort_keys=False), encoding="utf-8")
    (run.folder / ".lock").touch()
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        room = os.statvfs(small_disk)
        # A few files of the size of the study, and no more.
        filler.write(bytes(max(0, room.f_bavail * room.f_frsize - 24_000)))
    assert main(["run", str(study), "--out", str(run.folder), "--device", "cpu", "--jobs", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(run.folder) in error
    assert "No space left on device" in error
    (small_disk / "filler").unlink()
    assert main(["run", str(study), "--out", str(run.folder), "--device", "cpu", "--jobs", "1"]) == 0
    if stage != "evaluate":
        assert same(tensors_of(run.path(stage)), tensors_of(small_run.path(stage)))
    assert (run.evaluation / "table.md").read_text() == (small_run.evaluation / "table.md").read_text()
    assert not [*run.folder.rglob("*partial*"), *run.training.glob("*.checkpoint")]


def test_a_checkpoint_that_a_kill_left_beside_the_finished_part_is_removed(
    small_run: Run, small_study: Study, tmp_path: Path
) -> None:
    run = copy_of(small_run, tmp_path)
    for name in ("scm.checkpoint", "scm.checkpoint.partial"):
        (run.training / name).write_bytes(b"left behind")
    Pipeline(run, make_fabric("cpu")).run_stage("scm")
    assert not list(run.training.glob("scm.checkpoint*"))


@pytest.mark.slow
def test_many_questions_side_by_side_need_no_shared_memory(small_run: Run, images: Path, tmp_path: Path) -> None:
    asked = [str(small_run.folder), str(images), "--do", "age=70", "--out", str(tmp_path / "answers")]
    script = 'mount -t tmpfs -o size=4k tmpfs /dev/shm || exit 99; head -c 9999 /dev/zero > /dev/shm/full; exec "$@"'
    counterfactual = [sys.executable, "-m", "segcft.cli", "counterfactual", *asked, "--device", "cpu", "--jobs", "2"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *counterfactual], capture_output=True, text=True
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("only who may mount file systems can fill one")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "answers" / "images").glob("*.png"))) == len(list(images.iterdir()))


@pytest.fixture
def images(small_run: Run, tmp_path: Path) -> Path:
    """Six images, which are more than a process takes at once."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(small_run.store().images[:40]):
        Image.fromarray(pixels[0]).save(folder / f"{number}.png")
    return folder


# --- two at once ---


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_until_the_first_is_gone(
    small_run: Run, small_study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(small_run, tmp_path)
    run.path("hvae").unlink()
    command = Begun("hvae", small_study_file, "--out", run.folder)
    wait_for(run.training / "hvae.checkpoint", command)
    command.strike(signal.SIGSTOP)
    for stage in ("run", "scm"):
        assert main([stage, str(small_study_file), "--out", str(run.folder)]) == 1
        assert f"another segcft is working here (process {command.process.pid} on " in capsys.readouterr().err
    command.strike(signal.SIGKILL)
    command.end()
    assert main(["hvae", str(small_study_file), "--out", str(run.folder), "--device", "cpu"]) == 0


def test_whatever_writes_in_a_folder_is_alone_there(
    small_run: Run, small_study: Study, small_study_file: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    run, taken = copy_of(small_run, tmp_path), tmp_path / "taken"
    with Lock(taken):
        assert main(["evaluate", str(run.folder), "--out", str(taken)]) == 1
        assert "another segcft" in capsys.readouterr().err
        with refused(RunError, Code.BUSY):
            answer_all(run, folder_items(images, [], ["age=70"]).items, taken, CPU)
        ablation = tmp_path / "ablation.yaml"
        ablation.write_text(yaml.safe_dump({"base": str(small_study_file), "variants": {"same": {}}}))
        with refused(RunError, Code.BUSY):
            run_ablation(load_ablation(ablation), taken, make_fabric("cpu"), progress=Progress())
    assert [path.name for path in taken.iterdir()] == [".lock"]
    shards = Run(tmp_path / "shards", small_study)
    with Lock(shards.folder / "shards", ".1-of-2.lock"):
        import_shard(shards, None, Shard(2, 2), Progress())  # another one may be imported meanwhile
        with refused(RunError, Code.BUSY):
            import_shard(shards, None, Shard(1, 2), Progress())
    import_shard(shards, None, Shard(1, 2), Progress())
    with Lock(shards.folder / "shards", ".1-of-2.lock"), refused(RunError, Code.BUSY):
        Pipeline(shards, make_fabric("cpu")).run_stage("import")
    Pipeline(shards, make_fabric("cpu")).run_stage("import")
    assert shards.store().fingerprint == small_run.store().fingerprint


def test_whoever_holds_a_lock_need_not_be_readable(tmp_path: Path) -> None:
    with Lock(tmp_path):
        (tmp_path / ".lock.holder").write_bytes(b"process \xff\xfe")
        with refused(RunError, Code.BUSY, tmp_path), Lock(tmp_path):
            pytest.fail("two hold it")


def test_where_nobody_can_write_nobody_can_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with refused(WriteError, Code.NOT_WRITABLE, folder), Lock(folder):
            pytest.fail("it is locked")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that cannot be waited for is Linux's /proc")
def test_a_folder_that_cannot_be_waited_for_is_no_error() -> None:
    folder = os.open("/proc/self", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(folder)
    finally:
        os.close(folder)
    sync(Path("/proc/self"))


def test_a_lock_may_be_nested_and_is_given_back(tmp_path: Path) -> None:
    lock, other = Lock(tmp_path), Lock(tmp_path)
    with lock, lock:
        pass
    with other, pytest.raises(RunError), lock:
        pytest.fail("two hold it")


# --- flipped bits ---


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_weights_that_changed_on_the_disk_are_told(small_run: Run, tmp_path: Path) -> None:
    run = copy_of(small_run, tmp_path)
    path = run.path("judge")
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert header["sha256"]
    size = path.stat().st_size
    for place in (size - 1, size // 2):
        flip(path, place)
        with refused(RunError, Code.DAMAGED, "judge.safetensors"):
            run.load("judge")
        flip(path, place)
    run.load("judge")
    save_file(tensors, path, metadata=header | {"segcft": header["segcft"].replace("small", "smell")})
    with refused(RunError, Code.DAMAGED, "judge.safetensors"):
        run.load("judge")
    save_file(tensors, path, metadata={"segcft": header["segcft"]})  # as before there were checksums
    assert same(run.load("judge").state_dict(), small_run.load("judge").state_dict())


@pytest.mark.parametrize("name", ["images.u8", "masks.u8", "table.parquet"])
def test_samples_that_changed_on_the_disk_are_told(
    small_run: Run, small_study: Study, tmp_path: Path, name: str
) -> None:
    run = copy_of(small_run, tmp_path)
    path = run.folder / "store" / name
    flip(path, path.stat().st_size // 2 if name.endswith("u8") else 10)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as told:
        Pipeline(run, make_fabric("cpu")).run_stage("scm")
    assert str(told.value).endswith(f"remove {run.folder / 'store'} and import again")
    shutil.rmtree(run.folder / "store")
    Pipeline(run, make_fabric("cpu")).run_stage("scm")
    assert run.store(verify=True).fingerprint == small_run.store().fingerprint
    assert digest_of(run.path("scm")) == digest_of(small_run.path("scm"))  # not trained again


def test_a_checkpoint_that_changed_on_the_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "part.checkpoint"
    artefact.save_checkpoint(path, {"key": "k", "weights": torch.zeros(1000)})
    content = path.read_bytes()
    flip(path, content.index(bytes(2000)) + 1000)
    with refused(RunError, Code.DAMAGED, "part.checkpoint"):
        artefact.load_checkpoint(path, "k")


def test_a_store_that_is_not_what_its_record_says_is_imported_again(
    small_run: Run, small_study: Study, make_small_study: Any, tmp_path: Path
) -> None:
    """As when a process is killed after it has put another store in place, and the study is then changed back."""
    run = copy_of(small_run, tmp_path)
    other = Run(tmp_path / "other", make_small_study({"data.seed": 5}))
    Pipeline(other, make_fabric("cpu")).run_stage("import")
    shutil.rmtree(run.folder / "store")
    shutil.copytree(other.folder / "store", run.folder / "store")
    Pipeline(run, make_fabric("cpu")).run_stage("import")
    store = Store(run.folder / "store", verify=True)
    assert store.fingerprint == small_run.store().fingerprint
    assert np.array_equal(store.images, small_run.store().images)

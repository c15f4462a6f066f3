"""Every reader of segcft, and a few valid files of each, made by what segcft and its libraries write."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.fuzz.work import Reader
from segcft import artefact
from segcft.data.reject import Rejected
from segcft.errors import SegcftError
from segcft.study import Study, load_study

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "coronary-quickstart"
CHEST = ROOT / "models" / "chest-sim"
RECORD = {"segcft": "0", "study": "fuzz", "model": "abc", "do": ["age=63"], "variables": {"age": {"before": 60.5}}}


@cache
def chest() -> Study:
    return load_study(CHEST / "study.yaml")


@cache
def _pixels(size: tuple[int, int] = (24, 20)) -> NDArray[np.uint8]:
    """Smooth, with some noise: what compresses like an image."""
    y, x = np.mgrid[: size[0], : size[1]]
    noise = np.random.default_rng(0).integers(0, 20, size)
    return (4 * y + 3 * x + noise).astype(np.uint8)


def _written(*names: str, write: Callable[[Path], object]) -> list[bytes]:
    """What ``write`` writes to a path of each name."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            write(Path(folder) / name)
        return [(Path(folder) / name).read_bytes() for name in names]


def _pictures(kind: str, **options: Any) -> list[bytes]:
    grey = Image.fromarray(_pixels())
    pictures = [grey, grey.convert("RGB")]
    if kind in ("png", "tiff"):
        pictures += [Image.fromarray(_pixels().astype(np.uint16) * 200), grey.convert("1")]
    if kind in ("png", "gif", "bmp"):
        pictures.append(grey.convert("P"))
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        files.append(file.getvalue())
    return files


def _tiffs() -> list[bytes]:
    return _pictures("tiff") + [
        file for c in ("tiff_lzw", "packbits", "tiff_deflate") for file in _pictures("tiff", compression=c)
    ]


def _dicom(**changes: Any) -> Any:
    """A radiograph, always with the same identifiers."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.3.5", "CR"
    dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "p1", "F", "063Y"
    dataset.PatientBirthDate, dataset.StudyDate = "19500321", "20140915"
    dataset.ViewPosition, dataset.PixelSpacing = "PA", ["0.2", "0.2"]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.WindowCenter, dataset.WindowWidth = "1000", "2000"
    dataset.Rows, dataset.Columns = 24, 20
    dataset.PixelData = (_pixels().astype("<u2") * 10).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def _saved(dataset: Any) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _dicoms() -> list[bytes]:
    from pydicom import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

    rle = _dicom()
    rle.compress(RLELossless)
    files = [_saved(_dicom()), _saved(rle)]
    for syntax, kind in ((JPEGBaseline8Bit, "jpeg"), (JPEG2000Lossless, "jpeg2000")):
        packed = _dicom(BitsAllocated=8, BitsStored=8, HighBit=7)
        file = io.BytesIO()
        Image.fromarray(_pixels()).save(file, kind)
        packed.file_meta.TransferSyntaxUID = syntax
        packed.PixelData = encapsulate([file.getvalue()])
        packed["PixelData"].is_undefined_length = True
        files.append(_saved(packed))
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.add_new("LUTData", "OW", np.arange(256, dtype="<u2").tobytes())
    files.append(_saved(_dicom(VOILUTSequence=[table], PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")))
    return [*files, _own_dicom()]


def _own_dicom() -> bytes:
    """As segcft writes answers, but always with the same identifiers."""
    from pydicom import dcmread
    from pydicom.uid import UID

    from segcft.provenance import dicom_bytes

    dataset = dcmread(io.BytesIO(dicom_bytes(_pixels()[None], RECORD, (0.2, 0.2))))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    return _saved(dataset)


def _niftis() -> list[bytes]:
    import nibabel

    files = []
    for kind, values in (
        (nibabel.Nifti1Image, _pixels()[..., None].astype(np.int16)),
        (nibabel.Nifti1Image, _pixels()[:, None, :].astype(np.float32)),
    ):
        files.append(kind(values, np.diag([0.5, 0.7, 1, 1])).to_bytes())
    return [*files, gzip.compress(files[0], mtime=0)]


def _ct(shape: Sequence[int] = (8, 9, 10)) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def _volumes() -> list[bytes]:
    import nibabel

    files = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        image = kind(_ct(), np.diag([0.5, 0.5, 0.5, 1]))
        image.header.set_xyzt_units("mm")
        files.append(image.to_bytes())
    return files


def _slice(number: int) -> bytes:
    return _saved(
        _dicom(
            Modality="CT",
            SOPInstanceUID=f"1.2.3.4.{number}",
            ImagePositionPatient=["0", "0", str(0.5 * number)],
            ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
            RescaleIntercept="-1024",
            RescaleType="HU",
        )
    )


def _series(folder: Path) -> None:
    for number in (0, 2):
        (folder / f"slice{number}.dcm").write_bytes(_slice(number))


def _lines(suffix: str) -> list[bytes]:
    import pyvista

    points = np.cumsum(np.random.default_rng(0).random((12, 3)), axis=0)
    mesh = pyvista.lines_from_points(points)
    whole = pyvista.PolyData(points, lines=np.array([12, *range(12)]))
    return [
        _written(f"a{suffix}", write=partial(one.save, binary=binary))[0]
        for one in (mesh, whole)
        for binary in (True, False)
    ]


def _meshes(suffix: str) -> list[bytes]:
    import pyvista

    ball = pyvista.Sphere(radius=3, theta_resolution=6, phi_resolution=6)
    meshes = [ball] if suffix in (".stl", ".ply") else [ball, pyvista.Cube().strip()]
    return [
        _written(f"a{suffix}", write=partial(mesh.save, binary=binary))[0]
        for mesh in meshes
        for binary in (True, False)
    ]


def _safetensors() -> list[bytes]:
    torch.manual_seed(0)
    return _written("a.safetensors", write=lambda path: artefact.save(path, nn.Linear(3, 4), {"key": "k", "n": 1}))


def _checkpoints() -> list[bytes]:
    state = {"key": "k", "step": 3, "model": {"weight": torch.ones(3, 4)}, "generator": torch.arange(16).byte()}
    return _written("a.pt", write=lambda path: artefact.save_checkpoint(path, state)) + _written(
        "b.pt", write=lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)
    )


@cache
def _causal_gen() -> tuple[Any, list[Any], dict[str, Tensor], dict[str, Any]]:
    """A tiny network, its parents, and the tensors and settings of a checkpoint that fits it."""
    from segcft.images.causal_gen import CausalGenHVAE
    from segcft.images.checkpoint import TrainedParent, _Weights
    from segcft.images.spec import CausalGenSpec
    from segcft.study import Image as Grid
    from segcft.study import Variable

    settings: dict[str, Any] = {"enc_arch": "16b1d2,8b1d8,1b1", "dec_arch": "1b1,8b2,16b2", "widths": [4, 4, 8]}
    settings |= {"bottleneck": 4, "z_dim": 2, "z_max_res": 16, "bias_max_res": 16}
    spec = CausalGenSpec(architecture="causal-gen", steps=1, block="gelu", **settings)
    variables = {"sex": Variable(kind="categorical", categories=("F", "M")), "age": Variable(kind="continuous")}
    network = CausalGenHVAE(spec, Grid(size=(16, 16)), variables)
    parents = [TrainedParent("sex"), TrainedParent("age", (50.0, 20.0))]
    state: dict[str, Tensor] = {}

    class Noting(_Weights):
        """Asked for a tensor, notes which."""

        def take(self, name: str, shape: Sequence[int]) -> Tensor:
            state[name] = torch.zeros(*shape)
            return state[name]

    Noting({}, [0, 1]).fill(network)
    # Theirs has a prior's scale also where there is no latent.
    return network, parents, state, settings


def _causal_gen_files() -> list[bytes]:
    _, _, state, settings = _causal_gen()
    content = {"epoch": 1, "ema_model_state_dict": state, "hparams": settings}
    return _written("a.pt", write=lambda path: torch.save(content, path))


def _read_causal_gen(path: Path) -> None:
    from segcft.images.checkpoint import load_causal_gen

    network, parents, _, _ = _causal_gen()
    load_causal_gen(path, network, parents)


def _read_image(path: Path) -> None:
    from segcft.data.imagefile import read_image, read_labels
    from segcft.question import read_pixels

    read_image(path, 3)
    read_pixels(chest(), path)
    if path.suffix not in (".dcm",):
        read_labels(path)


def _read_dicom(path: Path) -> None:
    from segcft.data import dicom

    dataset = dicom.open_dicom(path)
    dicom.person(dataset)
    dicom.view(dataset)
    dicom.field_of_view(dataset)
    dicom.aspect(dataset)
    dicom.shown(path, dataset)
    dicom.shown(path, dataset, window=(1, 99))


def _store(folder: Path) -> None:
    from segcft.data.store import StoreWriter

    study = chest()
    size = study.image.size
    random = np.random.default_rng(0)
    with StoreWriter(folder, study, partial=True) as writer:
        for number in range(3):
            image = random.integers(0, 256, (1, *size), dtype=np.uint8)
            masks = np.full((len(study.structures), *size), 255, np.uint8)
            writer.append(f"s{number}", f"p{number}", "train", image, masks, {"sex": "F", "age": 60.0 + number})
        writer.reject("s9", "why not")


def _store_files(name: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _store(Path(folder) / "store")
        return [(Path(folder) / "store" / name).read_bytes()]


def _read_store(path: Path) -> None:
    from segcft.data.store import Store

    store = Store(path.parent, verify=True)
    store.values()
    store.require(chest())
    repr(store)
    store.indices("train", complete=True)


def _store_reader(name: str, structure: str) -> Reader:
    suffix = Path(name).suffix
    return Reader(
        f"store {name}", suffix, lambda: _store_files(name), lambda: _read_store, structure, _store, name, weight=0.6
    )


def _model_folder(model: Path, *without: str) -> Callable[[Path], None]:
    """Links to a published model's files, without those of one folder."""

    def make(folder: Path) -> None:
        for path in model.iterdir():
            if path.name not in without:
                (folder / path.name).symlink_to(path)

    return make


def _read_results(path: Path) -> None:
    from segcft.results import render_results

    folder = path.parent
    run = folder / "run"
    if not run.exists():
        run.mkdir()
        _model_folder(CHEST, "evaluation")(run)
        (run / "evaluation").symlink_to(folder)
    render_results([run])


def _read_examples(path: Path) -> None:
    from segcft.app.catalogue import _examples

    _examples(_run(path.parent))


def _examples_folder(folder: Path) -> None:
    for path in (CHEST / "examples").iterdir():
        if path.suffix == ".png":
            (folder / path.name).symlink_to(path)
    (folder / "examples").symlink_to(folder)


@cache
def _run(folder: Path) -> Any:
    from segcft.run import Run

    return Run(folder, chest())


def _read_samples(path: Path) -> None:
    if not (path.parent / "people.csv").exists():
        (path.parent / "people.csv").symlink_to(CHEST / "people.csv")
    _run(path.parent).samples()


def _read_table(path: Path) -> None:
    from segcft.data.attributes import parse, read_table

    study = chest()
    columns = {"id": "data.id", "age": "variable age", "sex": "variable sex"}
    for row in read_table(path, columns)[0]:
        for name in ("age", "sex"):
            try:
                parse(row.cells[name], name, name, study.variables[name])
            except Rejected:  # of a cell: the import adds the line and the file
                continue


def _read_padchest(path: Path) -> None:
    from segcft.data.padchest import parse_age, parse_labels, read_rows

    for row in read_rows(path):
        parse_age(row.PatientBirth, row.StudyDate_DICOM)
        try:
            parse_labels(row.Labels)
        except Rejected:
            continue


def _padchest() -> list[bytes]:
    from segcft.data.padchest import Row

    cells = {"Labels": "\"['normal', ' pacemaker', '']\"", "PatientBirth": "1930.0", "StudyDate_DICOM": "20140915"}
    lines = [",".join(Row._fields)] + [
        ",".join(cells.get(name, f"{name}{n}") for name in Row._fields) for n in range(3)
    ]
    text = "\n".join(lines).encode()
    return [text, gzip.compress(text, mtime=0)]


def _read_text_of(parse: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda path: parse(path.read_bytes().decode("utf-8", errors="replace"))


def _parse_asked(text: str) -> None:
    from segcft.data.shards import Shard
    from segcft.images.checkpoint import TrainedParent
    from segcft.question import parse_values

    study = chest()
    problems: list[SegcftError] = []
    understood = False
    for part in text.split("\n"):
        for parse in (lambda part: parse_values(study, [part]), TrainedParent.parse):
            try:
                parse(part)
                understood = True
            except SegcftError as error:
                problems.append(error)
        try:
            Shard.parse(part)
        except ValueError as error:  # what it is documented to raise
            problems.append(SegcftError(str(error)))
    if not understood:
        raise problems[0]


_ASKED = [
    b"age=63",
    b"heart_area=+20%",
    b"heart_area=-1.5sd",
    b"sex=F",
    b"age=(-5)",
    b"age=match:a.png",
    b"3/8",
    b"v=5:0.5",
    b"age=20..80",
]


def _client() -> Any:
    from starlette.testclient import TestClient

    from segcft.app import server
    from segcft.app.catalogue import Catalogue

    server.RATE = server.BURST = 1e9  # a flood is what this is
    return TestClient(
        server.make_app(Catalogue([MODEL])), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    )


def _post(address: str, kind: str) -> Callable[[Path], object]:
    client = _client().__enter__()

    def post(path: Path) -> None:
        answer = client.post(address, content=path.read_bytes(), headers={"Content-Type": kind})
        if answer.status_code == 200:
            return
        told = answer.json()
        if answer.status_code >= 500 or set(told) != {"error"} or not told["error"]:
            raise AssertionError(f"status {answer.status_code}: {answer.text[:500]}")
        raise SegcftError(told["error"])

    return post


def _questions() -> list[bytes]:
    from segcft.app.catalogue import _examples
    from segcft.app.payload import encode
    from segcft.run import Run

    run = Run(MODEL)
    size = run.study.image.size
    examples = [example["pixels"] for example in _examples(run)] or [encode(_pixels(size)[None])]
    return [
        json.dumps({"model": MODEL.name, "pixels": examples[0], "known": {}, "do": do, "draws": draws}).encode()
        for do, draws in (({"lumen_area": "+20%"}, 0), ({"lumen_area": 90, "calcified_plaque_area": 0}, 1))
    ]


def _journal(path: Path) -> None:
    from segcft.data.journal import Journal

    journal = Journal(path.parent, {"size": [64, 64], "window": [0.5, 99.5]})
    journal.has("a", None)
    if journal.path.is_file():
        [*journal.rows()]


def _lazily(module: str, name: str, *more: Any) -> Callable[[], Callable[[Path], object]]:
    """``name`` of a module, imported by whom it serves, called with a path and ``more``."""

    def open() -> Callable[[Path], object]:
        import importlib

        function = getattr(importlib.import_module(module), name)
        return lambda path: function(path, *more)

    return open


def _ablation(folder: Path) -> None:
    (folder / "quickstart.yaml").write_bytes((ROOT / "configs" / "quickstart.yaml").read_bytes())


def _files(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


_STUDIES = [ROOT / "configs" / f"{name}.yaml" for name in ("quickstart", "jsrt", "ccta")]
_ABLATION = b"base: quickstart.yaml\nvariants:\n  best: {}\n  one: {why: fewer, finetune: {also: 0, slack: 0.1}}\n"
_TABLE = b"id,age,sex,patient\na,63,F,p1\nb,,M,p2\nc,1e2,F,p1\n"
_VESSELS = (
    b"id,volume,centreline,lumen,wall,patient,split\na,v.nii,c.vtp,l.stl,w.stl,p,train\nb,v.nii,d.csv,l.ply,w.stl,q,\n"
)
_BATCH = b"image,do,age,sex,id\na.png,heart_area=+20%;age=60,63,F,x\nb.png,,,,\n"
_JSRT = (
    b"JPCNN001.IMG\t52\tfemale\tnon-nodule\n"
    b"JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper\t lobe\tlung cancer\n"
)
_ROTTERDAM = b"1.0 2.0 3.0 1.5 0.1\n1.5 2.5 3.5 1.4 0.1\n2.0 3.0 4.5 1.3 0.2\n"
_POINTS = [b"x,y,z\n1,2,3\n2,3,4\n3,4,6\n", b"x (mm);y;z\n1,5;2;3\n2,5;3;4\n", b"1\t2\t3\n2\t3\t5\n"]
_HISTORY = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n'
_JOURNAL = (
    b'{"settings": {"size": [64, 64], "window": [0.5, 99.5]}}\n'
    b'{"row": {"id": "a", "patient": "p"}, "mask": true, "stamp": null}\n'
)


def _all() -> list[Reader]:
    image = lambda: _read_image  # noqa: E731
    return [
        Reader("study", ".yaml", lambda: _files(*_STUDIES), lambda: load_study, "yaml"),
        Reader(
            "ablation",
            ".yaml",
            lambda: [_ABLATION],
            _lazily("segcft.ablation", "load_ablation"),
            "yaml",
            _ablation,
            named=False,  # it may name another base
            weight=0.6,
        ),
        Reader("table", ".csv", lambda: [_TABLE], lambda: _read_table, "csv"),
        Reader("batch", ".csv", lambda: [_BATCH], lambda: _read_batch, "csv"),
        Reader("vessels", ".csv", lambda: [_VESSELS], _lazily("segcft.data.ccta", "read_vessels"), "csv"),
        Reader("padchest", ".csv", _padchest, lambda: _read_padchest, "csv"),
        Reader("people", ".csv", lambda: _people(), lambda: _read_people, "csv"),
        Reader("clinical", ".txt", lambda: [_JSRT], lambda: _read_clinical, "text"),
        Reader("jsrt raw", ".IMG", _raws, _lazily("segcft.data.jsrt", "read_raw"), weight=0.1),
        Reader("outline", ".gif", lambda: _outlines(), _lazily("segcft.data.jsrt", "read_outline")),
        Reader("png", ".png", lambda: _pictures("png"), image, "png", weight=1.5),
        Reader("tiff", ".tif", _tiffs, image, weight=1.5),
        Reader("jpeg", ".jpg", lambda: _pictures("jpeg"), image),
        Reader("bmp", ".bmp", lambda: _pictures("bmp"), image),
        Reader("dicom", ".dcm", _dicoms, lambda: _read_dicom, weight=1.5),
        Reader("nifti", ".nii", _niftis, image, weight=1.5),
        Reader("ct volume", ".nii", _volumes, _lazily("segcft.coronary.volume", "read_volume")),
        Reader(
            "ct gzip",
            ".nii.gz",
            lambda: [gzip.compress(one, mtime=0) for one in _volumes()],
            _lazily("segcft.coronary.volume", "read_volume"),
            "gzip",
        ),
        Reader("ct series", ".dcm", lambda: [_slice(1)], lambda: _read_series, "bytes", _series, weight=0.6),
        *(
            Reader(
                f"centreline {s[1:]}",
                s,
                partial(_lines, s),
                _lazily("segcft.coronary.files", "read_centreline"),
                "text",
            )
            for s in (".vtp", ".vtk")
        ),
        Reader("centreline csv", ".csv", lambda: _POINTS, _lazily("segcft.coronary.files", "read_centreline"), "csv"),
        Reader(
            "centreline txt", ".txt", lambda: [_ROTTERDAM], _lazily("segcft.coronary.files", "read_centreline"), "text"
        ),
        *(
            Reader(f"mesh {s[1:]}", s, partial(_meshes, s), _lazily("segcft.coronary.files", "read_surface"), "text")
            for s in (".stl", ".ply", ".vtp", ".vtk")
        ),
        Reader("artefact", ".safetensors", _safetensors, lambda: lambda path: artefact.load(path, nn.Linear(3, 4))),
        Reader("checkpoint", ".pt", _checkpoints, lambda: lambda path: artefact.load_checkpoint(path, "k")),
        Reader("causal-gen", ".pt", _causal_gen_files, lambda: _read_causal_gen),
        _store_reader("store.json", "json"),
        _store_reader("table.parquet", "bytes"),
        _store_reader("rejected.csv", "csv"),
        Reader(
            "results", ".json", lambda: _small_table(), lambda: _read_results, "json", file="table.json", weight=0.4
        ),
        Reader(
            "samples",
            ".json",
            lambda: _files(CHEST / "samples.json"),
            lambda: _read_samples,
            "json",
            file="samples.json",
        ),
        Reader(
            "examples",
            ".csv",
            lambda: _files(CHEST / "examples" / "attributes.csv"),
            lambda: _read_examples,
            "csv",
            _examples_folder,
            "attributes.csv",
            weight=0.6,
        ),
        Reader("history", ".jsonl", lambda: [_HISTORY], _lazily("segcft.report.charts", "read_history"), "text"),
        Reader("journal", ".jsonl", lambda: [_JOURNAL], lambda: _journal, "text", file="journal.jsonl"),
        Reader("intervention", ".txt", lambda: _ASKED, lambda: _read_text_of(_parse_asked), "text", named=False),
        Reader("inspect png", ".png", lambda: _records("png"), _lazily("segcft", "inspect"), "png"),
        Reader("inspect gif", ".gif", lambda: _records("gif"), _lazily("segcft", "inspect")),
        Reader("inspect dicom", ".dcm", lambda: [_own_dicom()], _lazily("segcft", "inspect")),
        Reader(
            "web upload",
            ".bin",
            lambda: [*_pictures("png"), *_dicoms(), *_niftis(), *_pictures("jpeg"), *_tiffs()[:4]],
            lambda: _post(f"/api/upload?model={MODEL.name}", "application/octet-stream"),
            named=False,
        ),
        Reader(
            "web question",
            ".json",
            _questions,
            lambda: _post("/api/question", "application/json"),
            "json",
            named=False,
            weight=0.6,
        ),
        Reader(
            "web file",
            ".json",
            _questions,
            lambda: _post("/api/file/dcm", "application/json"),
            "json",
            named=False,
            weight=0.4,
        ),
    ]


def _read_batch(path: Path) -> None:
    from segcft.batch import table_items

    for item in table_items(path, chest(), [], []):
        item.stamp()


def _people() -> list[bytes]:
    return [b"\n".join((CHEST / "people.csv").read_bytes().splitlines()[:6]) + b"\n"]


def _read_people(path: Path) -> None:
    from segcft.run import read_people

    read_people(path, chest())


def _read_clinical(path: Path) -> None:
    from segcft.data.jsrt import read_clinical

    read_clinical([path])


def _raws() -> list[bytes]:
    from segcft.data.jsrt import BLACK, SIDE

    return [np.random.default_rng(0).integers(0, BLACK, (SIDE, SIDE)).astype(">u2").tobytes()]


def _outlines() -> list[bytes]:
    file = io.BytesIO()
    Image.fromarray(np.where(_pixels() > 80, 255, 0).astype(np.uint8)).save(file, "gif")
    return [file.getvalue()]


def _read_series(path: Path) -> None:
    from segcft.coronary.volume import read_volume

    read_volume(path.parent)


def _small_table() -> list[bytes]:
    rows = json.loads((CHEST / "evaluation" / "table.json").read_bytes())
    return [json.dumps(rows[:: max(1, len(rows) // 40)]).encode()]


def _records(kind: str) -> list[bytes]:
    from segcft.provenance import gif_bytes, picture, png_bytes

    pixels = _pixels()[None]
    if kind == "png":
        return [png_bytes(pixels, RECORD), png_bytes(pixels)]
    return [gif_bytes([picture(pixels), picture(255 - pixels)], RECORD, 100)]


READERS = {reader.name.replace(" ", "-"): reader for reader in _all()}
"""By name."""

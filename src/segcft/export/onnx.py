"""A model in ONNX: its networks run without segcft and without PyTorch.

A question has two halves. What a do() makes of all variables is for their mechanisms, which stay here; what the image
then is, x' = f(u; pa') with u abducted of x under pa, is one network of the image, its values, and the values that are
asked for.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

import segcft
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.counterfactual.model import CounterfactualModel
from segcft.errors import Code, RunError
from segcft.export.masks import Masks
from segcft.export.room import require_room
from segcft.image_models.mechanism import ImageMechanism
from segcft.pipeline.run import READERS, Run
from segcft.utils.atomic import replaced_folder, write_text
from segcft.utils.extra import extra

TOLERANCE = 1e-4
"""How far what ONNX Runtime gives may be from what PyTorch does."""
OPSET = 20
"""The version of ONNX's operators, the first that samples volumes between their voxels."""
TRIED = 3
"""Images, which the model drew itself, on which both are compared."""
COUNTERFACTUAL = "counterfactual"
DESCRIPTION = "model.json"
"""Says what the networks expect. A folder with it is an exported model, and may be replaced."""
SEED = 0


class Network(NamedTuple):
    """A network to export."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    """(TRIED, ...) each."""
    output: str
    batches: bool
    """Whether it takes any number of images; else one at a time."""
    faint: float = 0.0
    """What is less than this is given as none."""


class _Answer(nn.Module):
    """The image under other parents; see :class:`~segcft.image_models.mechanism.ImageMechanism`."""

    def __init__(self, mechanism: ImageMechanism) -> None:
        super().__init__()
        self.mechanism = mechanism

    def forward(self, image: Tensor, values: Tensor, after: Tensor) -> Tensor:
        return self.mechanism.predict(self.mechanism.abduct(image, values, sample=False), after)


def export_onnx(run: Run, folder: Path, method: str | None = None) -> dict[str, float]:
    """Write the networks of a run or of a published model to ``folder``, in place of an earlier export.

    ``counterfactual.onnx`` takes an image (1, C, *size) in [-1, 1] and two rows of values (1, V), the image's own and
    those that are asked for, in the order and units that ``model.json`` says. ``judge.onnx`` and ``segmentor.onnx``
    take images (B, C, *size) and give probabilities (B, S, *size); ``judge.yaml`` lets another study be judged by it
    (``segcft evaluate --judge``). Every network is run by ONNX Runtime before anything is written.

    Args:
        run: what is exported.
        folder: new, empty, or an earlier export.
        method: whose image mechanism; None: the last that is trained.

    Returns:
        By network, the largest difference between what it gives here and there.

    Raises:
        RunError: the run lacks a part, ``folder`` holds something else, a network has an operator that ONNX lacks, or
            gives something else there.
        DataError: onnx or ONNX Runtime is not installed.
    """
    extra("onnx", folder, "onnx")
    extra("onnxruntime", folder, "onnx")
    require_room(folder, DESCRIPTION)
    study = run.study
    methods = list(run.methods())
    networks: dict[str, Network] = {}
    if methods or method is not None:
        model = run.model(method or methods[-1])
        images, values, after = _tried(model)
        given = {"image": images, "values": values, "after": after}
        networks[COUNTERFACTUAL] = Network(_Answer(model.mechanism), given, COUNTERFACTUAL, batches=False)
    else:  # readers alone, which draw nothing themselves
        images = 2 * torch.rand(TRIED, study.image.channels, *study.image.size, generator=_seeded()) - 1
    for part in READERS:
        if part in run.parts and run.path(part).is_file():
            reader = run.load(part)
            networks[part] = Network(Masks(reader), {"image": images}, "masks", batches=True, faint=reader.faint)
    if not networks:
        raise RunError(Code.MISSING, run.folder, "it has nothing that is trained yet")
    with replaced_folder(folder) as partial:
        apart = {name: _write(one, partial / f"{name}.onnx", folder) for name, one in networks.items()}
        for part in networks:
            if part in READERS:
                write_text(partial / f"{part}.yaml", _card(study, part))
        write_text(partial / DESCRIPTION, json.dumps(_description(study, networks, apart), indent=2) + "\n")
        write_text(partial / "README.md", _readme(study, networks))
        if run.published:
            shutil.copyfile(run.folder / "README.md", partial / "MODEL.md")
    return apart


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@torch.no_grad()
def _tried(model: CounterfactualModel) -> tuple[Tensor, Tensor, Tensor]:
    """Images that the model draws, their values, and others that may be asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        values = model.scm.sample(TRIED)
        after = model.scm.sample(TRIED)
        return model.mechanism.predict(model.mechanism.sample(TRIED), values), values, after


def _write(network: Network, path: Path, folder: Path) -> float:
    """Export a network, and compare what it gives.

    Raises:
        RunError: it cannot be exported, or gives something else.
    """
    names = list(network.inputs)
    module = network.module.eval()
    axes = {name: {0: "batch"} for name in (*names, network.output)} if network.batches else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, that shapes are fixed, which they are
            torch.onnx.export(
                module,
                tuple(given[:1] for given in network.inputs.values()),
                str(path),
                dynamo=False,  # the other exporter needs a package more, and minutes for a network of two streams
                opset_version=OPSET,
                input_names=names,
                output_names=[network.output],
                dynamic_axes=axes,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(Code.UNSUPPORTED, folder / path.name, f"ONNX cannot hold this network ({reason})") from None
    apart = _apart(network, path)
    if not apart <= TOLERANCE:
        why = f"ONNX Runtime gives what is up to {apart:.2g} from what PyTorch does, more than {TOLERANCE:g}"
        raise RunError(Code.FAILED, folder / path.name, why)
    return apart


def _apart(network: Network, path: Path) -> float:
    """The largest difference between a network and its export, on all that is tried."""
    session = extra("onnxruntime", path, "onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [slice(None)] if network.batches else [slice(k, k + 1) for k in range(TRIED)]
    apart = 0.0
    for row in rows:
        given = {name: one[row] for name, one in network.inputs.items()}
        with torch.no_grad():
            here = network.module(*given.values())
        there = torch.from_numpy(session.run(None, {name: one.numpy() for name, one in given.items()})[0])
        difference = (here - there).abs()
        if network.faint:  # of what is all but faint the one may see a little and the other nothing
            edge = torch.minimum((here - network.faint).abs(), (there - network.faint).abs()) <= TOLERANCE
            difference = difference.masked_fill(edge, 0)
        apart = max(apart, float(difference.max()))
    return apart


def _card(study: Study, part: str) -> str:
    """What ``segcft evaluate --judge`` and ``segcft stress`` read beside a segmentor from elsewhere."""
    said = {
        "network": f"{part}.onnx",
        "structures": {name: [k] for k, name in enumerate(study.masked)},
        "gives": "probabilities",
        "range": [-1.0, 1.0],
        "size": list(study.image.size),
    }
    return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=True, default_flow_style=None))


def _description(study: Study, networks: Mapping[str, Network], apart: Mapping[str, float]) -> dict[str, Any]:
    return {
        "study": study.name,
        "segcft": segcft.__version__,
        "image": study.image.model_dump(mode="json") | {"black": -1.0, "white": 1.0},
        "values": [_value(name, one) for name, one in study.variables.items()],
        "structures": list(study.masked),
        "networks": {
            name: {
                "inputs": {key: ["batch" if one.batches else 1, *given.shape[1:]] for key, given in one.inputs.items()},
                "output": one.output,
                "largest difference from PyTorch": apart[name],
            }
            for name, one in networks.items()
        },
        "not for": "clinical use",
    }


def _value(name: str, variable: Variable) -> dict[str, Any]:
    said: dict[str, Any] = {"name": name, "kind": variable.kind, "parents": list(variable.parents)}
    if variable.categories:
        said["categories"] = {category: number for number, category in enumerate(variable.categories)}
    return said | {key: text for key, text in (("unit", variable.unit), ("formula", variable.formula)) if text}


def _readme(study: Study, networks: Mapping[str, Network]) -> str:
    size, names = (1, study.image.channels, *study.image.size), ", ".join(study.variables)
    lines = [f"image = numpy.zeros({size}, dtype=numpy.float32)  # black is -1, white 1"]
    what = ""
    if COUNTERFACTUAL in networks:
        lines += [
            f"values = numpy.zeros((1, {len(study.variables)}), dtype=numpy.float32)  # of the image, in that order",
            "after = values.copy()  # what is asked for: change one, and what it causes",
            f'network = onnxruntime.InferenceSession("{COUNTERFACTUAL}.onnx")',
            'image = network.run(None, {"image": image, "values": values, "after": after})[0]  # the answer',
        ]
        what = """
What a do() makes of other variables is not in these networks: `after` has all values as they are then to be. segcft
works them out (`answer.attributes`), measures what an image shows, and warns of what no training person was like; none
of that is here.
"""
    for name in networks:
        if name in READERS:
            lines += [
                f'reader = onnxruntime.InferenceSession("{name}.onnx")',
                f'masks = reader.run(None, {{"image": image}})[0]  # probabilities: {", ".join(study.masked)}',
            ]
    code = "\n".join(lines)
    return f"""# {study.name} in ONNX

Written by segcft {segcft.__version__}. Research use only, not for clinical use. `{DESCRIPTION}` says what the networks
expect: the grid, units, the numbers of categories, and the order of values: {names}.

```python
import numpy
import onnxruntime

{code}
```
{what}"""

"""`segcft import causal-gen`: an image mechanism that another code has trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segcft.cli.options import Command, hardware, study
from segcft.cli.run import make_pipeline
from segcft.errors import Code, SegcftError


def add_causal_gen(command: Command) -> None:
    """Add the command ``import-causal-gen``."""
    parser = command(
        "import-causal-gen",
        _import_causal_gen,
        "take the image mechanism from a checkpoint of causal-gen (also: import causal-gen)",
    )
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="checkpoint.pt of its image mechanism")
    study(parser, "study file; its hvae section has 'architecture: causal-gen'")
    parser.add_argument(
        "--parent",
        metavar="NAME[=NORM]",
        action="append",
        required=True,
        dest="parents",
        help="a variable of the study that conditions the checkpoint's network; repeat for every one, in the order of "
        "its parents_x. NORM of a continuous variable is how it was normalised: LOW..HIGH was mapped to [-1, 1], or "
        "MEAN:STD was standardised (of its logarithm where the study says 'scale: log')",
    )
    hardware(parser)


def _import_causal_gen(options: argparse.Namespace) -> None:
    from segcft.config.causal_gen import CausalGenSpec
    from segcft.config.loader import load_study

    if not isinstance(load_study(options.study).hvae, CausalGenSpec):
        raise SegcftError(Code.INVALID, f"{options.study}: hvae.architecture", "a checkpoint needs 'causal-gen'")
    pipeline = make_pipeline(options)
    from segcft.image_models.causal_gen_checkpoint import TrainedParent, load_causal_gen
    from segcft.pipeline.stages.image import LikelihoodStage
    from segcft.utils.digest import digest_of

    checkpoint = options.checkpoint.absolute()  # what the run records is read from elsewhere
    parents = [TrainedParent.parse(text) for text in options.parents]

    def load(network: Any) -> dict[str, Any]:
        settings = load_causal_gen(options.checkpoint, network, parents)
        found = {"checkpoint": str(checkpoint), "sha256": digest_of(checkpoint)}
        return found | {"parents": options.parents, "hparams": settings}

    with pipeline.lock:
        for stage in LikelihoodStage().needs(pipeline.study):
            pipeline.run_stage(stage)
        LikelihoodStage().adopt(pipeline, load)

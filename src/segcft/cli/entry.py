"""The command line: ``segcft COMMAND --help`` explains each command.

Heavy libraries are imported by the commands that use them, so that help and errors are instant.
"""

from __future__ import annotations

import argparse
import os
import sys

import segcft
from segcft.cli.ablation import add_ablation
from segcft.cli.app import add_app
from segcft.cli.ask import add_ask
from segcft.cli.augment import add_augment
from segcft.cli.causal_gen import add_causal_gen
from segcft.cli.evaluate import add_evaluate
from segcft.cli.export import add_export
from segcft.cli.graph import add_graph
from segcft.cli.importers import importer_parser, listed
from segcft.cli.init import add_init
from segcft.cli.plan import add_plan
from segcft.cli.privacy import add_privacy
from segcft.cli.publish import add_publish
from segcft.cli.readers import add_readers
from segcft.cli.realism import add_realism
from segcft.cli.replicate import add_replicate
from segcft.cli.run import add_run, add_stages
from segcft.cli.segment import add_segment
from segcft.cli.simulate import add_simulate
from segcft.cli.stress import add_stress
from segcft.errors import SegcftError
from segcft.importers.importer import IMPORTERS
from segcft.utils.signals import Terminated, orderly_end

COMMANDS = (
    add_init,
    add_run,
    add_plan,
    add_graph,
    add_stages,
    add_ablation,
    add_replicate,
    add_causal_gen,
    add_simulate,
    add_augment,
    add_segment,
    add_evaluate,
    add_realism,
    add_readers,
    add_privacy,
    add_stress,
    add_ask,
    add_app,
    add_publish,
    add_export,
)
"""What adds commands, in the order of help."""

MANUAL = """\
Counterfactual medical images: what would this radiograph look like, had the heart been 20 % larger?

segcft takes a study (a YAML file: causal graph, structures, sizes, budgets) from images to a table of how
effective its counterfactuals are, with no fine-tuning (No CFT) and with fine-tuning guided by a regressor
(Reg-CFT) or by a segmentor (Seg-CFT).
"""

EXAMPLES = """\
a first run, on simulated radiographs, under ten minutes on a laptop:
  segcft run configs/quickstart.yaml

your own images, masks and table, from the folder alone:
  segcft init /data/jsrt256
  segcft run configs/jsrt.yaml --data /data/jsrt256 --out runs/jsrt
  segcft evaluate runs/jsrt --data /data/other-people --json > table.json

what a study file leaves out, planned for your data, machine and hours, with a reason for each value:
  segcft plan configs/planned/jsrt.yaml --data /data/jsrt256 --hours 3 --out jsrt-planned.yaml

whether the data speak against the study's causal graph, and which edges they suggest:
  segcft graph configs/jsrt.yaml --data /data/jsrt256

a published model, judged on your own images:
  segcft evaluate models/jsrt --data /data/jsrt256 --out judged

a public data set in its own format, which becomes a folder as above:
  segcft import padchest --csv PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv --images DIR --out padchest
  segcft run configs/padchest.yaml --data padchest
  segcft import jsrt --images All247images --masks scratch --clinical CLNDAT_EN.txt CNNDAT_EN.TXT --out jsrt

coronary arteries of your own CT angiographies, straightened:
  segcft import ccta --table cases.csv --sweep 4 --out straightened

a small set, every subject of which is judged once, by parts that have not seen it:
  segcft run configs/jsrt.yaml --data /data/jsrt256 --folds 5

whether a result holds for other seeds, with intervals over people and trainings:
  segcft replicate configs/quickstart.yaml --seeds 5

whether answers can be told from real images:
  segcft realism runs/quickstart

another method in the same table: its answers to the same questions:
  segcft evaluate runs/quickstart --questions asked
  segcft evaluate runs/quickstart --answers theirs=theirs/answers.csv

somebody's classifier on counterfactuals: what does it answer to, and is it this change or any?
  segcft stress models/chest --classifier theirs.yaml --data FOLDER --out stressed

which settings matter, judged on validation samples:
  segcft ablation configs/ablation/chest-sim.yaml

images from a hospital's archive, without names and dates:
  segcft import dicom DIR --view PA AP --salt SECRET --out hospital

an image mechanism that causal-gen has trained (STUDY: hvae has 'architecture: causal-gen'):
  segcft import causal-gen checkpoint.pt STUDY --out RUN --parent sex --parent age=44..73
  segcft run STUDY --out RUN

masks for images that have none, where the readers of two models agree:
  segcft segment runs/jsrt models/jsrt FOLDER --out masked

training images balanced by counterfactuals, so that heart area tells nothing about sex:
  segcft augment runs/quickstart balanced --variable heart_area --label sex

one image, one question:
  segcft counterfactual models/jsrt chest.png --do left_lung_area=-20% --set age=63 --set sex=F --out answer

sliders in the browser:
  segcft app models/chest-sim models/jsrt

can readers tell answers from real images?
  segcft readers runs/jsrt for-readers
  segcft readers runs/jsrt results --answers answers-a.csv answers-b.csv

does a run give its training people away?
  segcft privacy runs/jsrt

all about a run on one page, with its failure cases:
  segcft report runs/jsrt

Every stage that is up to date is skipped, and an interrupted one goes on where it was: run the same command
again. Results are in RUN/evaluation: table.md, table.json and figures/.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an error that the message explains, 130 for Ctrl-C, 143 for
    SIGTERM and 138 for SIGUSR1."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        with orderly_end():
            options.command(options)
    except Terminated as end:
        print(f"segcft: ended by {end.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return int(end.code or 0)
    except SegcftError as error:
        print(f"segcft: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("segcft: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a folder that cannot be written, a full disk: the system names the file
        print(f"segcft: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    if words and words[0].startswith("import-"):  # `import-jsrt` as well as `import jsrt`
        words = ["import", words[0].removeprefix("import-"), *words[1:]]
    if words[:1] == ["import"]:  # of a format of its own, or of a STUDY
        if words[1:2] == ["causal-gen"]:
            words = ["import-causal-gen", *words[2:]]
        elif words[1:] and words[1] in IMPORTERS:
            return importer_parser(IMPORTERS[words[1]]).parse_args(words[2:])
    return _parser(words).parse_args(words)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcft",
        description=MANUAL,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"segcft {segcft.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: object, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        added.set_defaults(command=function, stage=name)
        return added

    for add in COMMANDS:
        add(command)
    if words[:1] == ["import"]:
        imported = commands.choices["import"]
        imported.epilog, imported.formatter_class = listed(), argparse.RawDescriptionHelpFormatter
    return parser


if __name__ == "__main__":
    sys.exit(main())

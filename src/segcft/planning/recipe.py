"""What is the same for all data: values that were found by comparing designs on several sets, in tables.

Rules that depend on the data are in :mod:`segcft.planning.plan`. Pixels, subjects and hours are not here.
"""

from __future__ import annotations

from segcft.planning.planned import Keys, Planned

BATCH = Planned(8, "where it was tried, twice the steps of half of 16 samples learnt more in the same time")

VOLUMES = Planned(4, "a volume has as many voxels as several images have pixels")
"""Of a batch of volumes."""

SEEDS = {"segmentor": 1, "judge": 2, "regressor": 3, "scm": 4, "hvae": 5, "finetune": 6}
SEEDS |= {"predictor": 7, "predictor_judge": 8}
"""One for each section: the judge's must not be the guide's."""

JUDGING = ("judge", "predictor_judge")
"""Sections of who judges, which have subjects of their own where there are many."""

PATIENCE = Planned(8, "the training ends when validation has stopped improving for so many validations")
VALIDATIONS = 40
"""In all steps of a training: some fit into its end, which begins when validation stops improving."""
WHOLE = ("finetune",)
"""Sections whose trainings take all their steps: the price of pixels needs its course, and raises the guide's error."""

MECHANISM: Keys = {
    "learning_rate": Planned(1.5e-3, "as for few and many subjects alike"),
    "gradient_clip": Planned(5.0, "single steps of a VAE may have huge gradients"),
    "ema": Planned(0.99, "averaged weights draw cleaner images"),
    "overlap": Planned(True, "no chequers repeat with the patches"),
    "noise_growth": Planned(0.5, "noise that grows with what is not known draws specks"),
    "deform": Planned({"share": 0.7, "spread": 0.35}, "the mechanism listens to measures before a guide asks it to"),
}
"""The image mechanism, whatever the data."""

PAIRS = Planned(0.5, "subjects who were seen under two conditions show what truly changes")
"""The share of samples with an image under another condition that learn from it."""

FINETUNE: Keys = {
    "learning_rate": Planned(8.0e-4, "below that of the likelihood training, which is to be kept"),
    "gradient_clip": Planned(5.0, "as in the likelihood training"),
    "gradient_skip": Planned(100.0, "ten times what is usual: such a batch would undo what others have taught"),
    "ema": Planned(0.99, "as in the likelihood training"),
    "multiplier": Planned(0.0, "the likelihood's constraint costs nothing until it is violated"),
    "damping": Planned(1.0, "holds the likelihood softly"),
    "guide_loss": Planned("absolute", "its slope does not vanish near what was asked for"),
    "price": Planned("floor", "a fixed price of pixels may win before the guide is followed: nothing would change"),
}
"""Fine-tuning, whatever the data."""

ALSO, OTHERS = 0.5, 2.5
"""With which probability each variable is asked for beside another one, and how many at most on average: among many
others a single small change, of which people ask, is not learnt."""

MULTIPLIER = 4.0
"""How far the multiplier of the likelihood's constraint can rise over the training. It rises at a constant rate while
the constraint is violated, as it is while the learning rate is high: at one rate for all, a training of 7,500 steps
raised it to 4.2, which outweighs the guide, and one of 2,100 to 0.8."""

VIEW = ("rotate", "shift", "contrast", "brightness", "noise")
"""What of the augmentation of its guide is in the views of fine-tuning: what leaves areas as they are."""
MOVES, GREYS = ("rotate", "shift"), ("contrast", "brightness")
"""What of it changes places, and what changes grey levels: left out where measures are of these."""

BETA = 12.0
"""Weight of the KL at the end, for ``BETA_PIXELS`` pixels; it grows with them, as outlines are then cheaper."""
BETA_PIXELS = 128 * 128
BETA_START = 10.0
"""How many times that weight it is at the start: outlines are then drawn from the parents, which cost nothing."""
BETA_WARMUP = 0.5
"""Share of the steps over which it falls to its end."""

LEVELS = (
    {"width": 32, "encoder": 1, "decoder": 1, "z": 0},
    {"width": 48, "encoder": 1, "decoder": 2, "z": 4},
    {"width": 64, "encoder": 1, "decoder": 2, "z": 8},
    {"width": 96, "encoder": 1, "decoder": 1, "z": 8},
)
"""Of the image mechanism, the largest resolution first. A larger grid repeats the third."""

VOLUME_LEVELS = (
    {"width": 24, "encoder": 0, "decoder": 1, "z": 0},
    {"width": 32, "encoder": 1, "decoder": 1, "z": 4},
    {"width": 32, "encoder": 1, "decoder": 1, "z": 4},
    {"width": 48, "encoder": 1, "decoder": 1, "z": 8},
)
"""The same of volumes, of which every voxel has 27 neighbours and not 9."""
VOLUME_BETA = 3.0
"""Weight of the KL at the end for volumes, chosen by hand at 32 x 40 x 56 voxels; nobody has compared others."""

PATCH, SMALL_PATCH, SMALL_SIDE = 4, 2, 96
"""Pixels a side of a patch, and of one where the grid has less than ``SMALL_SIDE`` pixels a side."""
NODES = 2
"""Patches between the nodes of the displacement: outlines bend no finer than the networks see."""
STEEPEST = 0.8
"""How steep a velocity may be that is followed: on simulated radiographs answers were nearer to the truth than with
0.5, and their slopes higher."""
SMALLEST_LEVEL = 4
"""Pixels a side of the smallest level: what the whole frame has in common, and roughly where."""

SEGMENTOR: Keys = {
    "learning_rate": Planned(3.0e-3, "a small U-Net with batch statistics takes it"),
    "warmup_steps": Planned(100, "before the batch statistics are known large steps do harm"),
    "ema": Planned(0.99, "averaged weights read more evenly"),
}
JUDGE: Keys = SEGMENTOR | {
    "learning_rate": Planned(3.0e-3, "small networks take it"),
    "warmup_steps": Planned(100, "as of the guide"),
    "architecture": Planned("segresnet", "another one than the guide's, so that their errors are less alike"),
    "loss": Planned("cross-entropy", "another one than the guide's, and calibrated"),
    "weight_decay": Planned(0.05, "unlike the guide's, so that their errors are less alike"),
}
REGRESSOR: Keys = {
    "learning_rate": Planned(3.0e-3, "reads hearts better than a third or twice of it, and lungs as well"),
    "ema": Planned(0.99, "averaged weights read more evenly"),
}

PREDICTOR_JUDGE: Keys = REGRESSOR | {
    "weight_decay": Planned(0.05, "unlike the guide's, so that their errors are less alike"),
    "widths": Planned([24, 48, 96, 96], "other ones than the guide's, so that their errors are less alike"),
}

SEGMENTOR_WIDTHS = (16, 32, 64, 96, 128)
JUDGE_LEVELS = 4
JUDGE_WIDTH, LARGE_WIDTH, LARGE_SIDE = 16, 8, 96
"""Channels of the judge's first level, and of one where the grid has more than ``LARGE_SIDE`` pixels a side: its first
level has the whole resolution, which takes most of its time."""
SMALLEST_READ = 8
"""Pixels a side of the smallest level of a U-Net: below, structures have no shape."""

DEFORMATION = {"rotate": 8.0, "shift": 0.05, "scale": 0.12, "stretch": 0.08, "elastic": 0.015}
"""Of what readers learn from, where subjects are few; see :class:`segcft.config.section.Augment`."""
GENTLE = {"rotate": 5.0, "shift": 0.04, "scale": 0.1, "stretch": 0.08, "elastic": 0.012}
"""Of what the image mechanism learns from: it draws what it sees, so less."""
GENTLE_GREYS = {"contrast": 0.1, "brightness": 0.1}
"""The same of greys."""
ONE_BY_ONE = {"share": 0.7, "spread": 0.3}
"""Local deformations of what readers of measures learn from, where subjects are few. Between people a large left lung
goes with a large right one, so a reader may guess the one from the other, and reads too little of a change of one
alone: on radiographs of 90 people a judge read 0.85, 0.90 and 0.59 of known changes of left lung, right lung and heart,
with these 0.96, 0.96 and 0.84 (a regressor 0.71, 0.78, 0.62 and 0.98, 1.04, 1.04), and in the five
folds of the recipe's page 0.98, 0.99 and 0.94."""
ELASTIC_NODES = 5
HIDDEN = 0.7
"""Share of a side up to which predictors see a part covered. A predictor that sees all goes by one place, and an answer
that pleases it changes that place alone: on simulated radiographs do(sex) obtained 0.6 of what another predictor reads
of people, with parts hidden 1.0, and fewer pixels elsewhere changed."""
NOISE = 0.03
"""On what guides learn from; without it fine-tuning finds faint patterns that move the guide's reading alone."""
EVEN_BRIGHTNESS, UNEVEN_BRIGHTNESS = 0.1, 0.2
"""Least and most change of brightness that readers learn from: as much as images differ, and enough to matter."""
EVEN_CONTRAST, UNEVEN_CONTRAST = 0.15, 0.25
"""The same of contrast."""

"""Known changes: images of the judged in which one structure alone was deformed, so that its measures are known.

Of real people nobody knows the true counterfactual, and so nobody knows how much of a right answer the judge would see.
It learnt from people, between whom one structure foretells another, and may read too little of a change of one alone.
What it reads of these images says how much: their masks are deformed with them
(:class:`segcft.data.deform.LocalDeformer`), and measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from segcft.config.section import LocalDeformation
from segcft.data.deform import LocalDeformer
from segcft.evaluate import names
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, FactualBatch
from segcft.grey import rounded

CHANGES = LocalDeformation(share=1.0)
"""All samples, by as much as the usual deformations of that kind."""


def known_changes(factual: FactualBatch) -> Iterator[AnsweredBatch]:
    """For each measure of one structure that the study intervenes on, its samples deformed, as the answers to questions
    about what they then measure."""
    study, samples, measurements = factual.study, factual.samples, factual.judge.measurements
    deformer, count = LocalDeformer(CHANGES), samples.image.shape[1]
    for place, one in enumerate(measurements.all):
        if one.variable not in study.asked or len(one.channels) > 1:
            continue
        # The same for all measures of a structure, whatever else is asked and wherever it is computed.
        state = np.random.SeedSequence([study.evaluation.seed, one.channels[0], int(samples.places[0])])
        seed = torch.Generator().manual_seed(int(state.generate_state(1)[0]))
        alone = samples.mask[:, list(one.channels)]
        both, _, _ = deformer(torch.cat([samples.image, samples.mask], dim=1), alone, seed)
        image, mask = rounded(both[:, :count]), both[:, count:]
        after = samples.values.clone()
        before, now = (measurements.estimate(*parts) for parts in ((samples.mask, samples.image), (mask, image)))
        # What is known is the change: masks that are read from files may measure a little more or less than the table.
        after[:, study.measured_columns] += now - before
        asked = AskedBatch(factual, study.measured[place], after, None)
        yield AnsweredBatch(asked, names.KNOWN, image, None, image)

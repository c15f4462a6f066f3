"""Known changes: images of the judged in which one structure alone was deformed, so that its measures are known.

Of real people nobody knows the true counterfactual, and so nobody knows how much of a right answer the judge would see.
It learnt from people, between whom one structure foretells another, and may read too little of a change of one alone.
What it reads of these images says how much: their masks are deformed with them
(:class:`segcft.data.deform.LocalDeformer`), and measured.
"""

from __future__ import annotations

import numpy as np
import torch

from segcft.config.section import LocalDeformation
from segcft.data.deform import LocalDeformer
from segcft.evaluate import names
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, FactualBatch
from segcft.grey import rounded
from segcft.measures.measure import ImageMeasure

CHANGES = LocalDeformation(share=1.0, spread=0.2)
"""All samples, by about as much as is asked for: as two people differ."""


def known_change(factual: FactualBatch, variable: str) -> AnsweredBatch | None:
    """The samples with the structure deformed that ``variable`` is the measure of, as the answer to a question about
    what they then measure; None where it is of several structures, or of grey levels, which no deformation sets."""
    study, samples, measurements = factual.study, factual.samples, factual.judge.measurements
    one = next((one for one in measurements.all if one.variable == variable), None)
    if one is None or len(one.channels) > 1 or isinstance(one.measure, ImageMeasure):
        return None
    # The same for all measures of a structure, whatever else is asked and wherever it is computed.
    state = np.random.SeedSequence([study.evaluation.seed, one.channels[0], int(samples.places[0])])
    seed = torch.Generator().manual_seed(int(state.generate_state(1)[0]))
    both = torch.cat([samples.image, samples.mask], dim=1)
    both, _, _ = LocalDeformer(CHANGES)(both, samples.mask[:, list(one.channels)], seed)
    image, mask = rounded(both[:, : samples.image.shape[1]]), both[:, samples.image.shape[1] :]
    after = samples.values.clone()
    before, now = (measurements.estimate(*parts) for parts in ((samples.mask, samples.image), (mask, image)))
    # What is known is the change: masks that are read from files may measure a little more or less than the table.
    after[:, study.measured_columns] += now - before
    asked = AskedBatch(factual, variable, after, None)
    return AnsweredBatch(asked, names.KNOWN, image, None, image)

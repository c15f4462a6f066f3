"""The area under the ROC curve against the count of pairs."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segcft.evaluate.auc import auc

levels = st.lists(st.integers(0, 4), max_size=12).map(lambda values: np.array(values, dtype=float))


@given(levels, levels)
def test_auc_is_the_share_of_pairs_in_the_right_order(first: np.ndarray, second: np.ndarray) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in first for b in second]
    found = auc(first, second)
    assert math.isclose(found, sum(pairs) / len(pairs)) if pairs else math.isnan(found)

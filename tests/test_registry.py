"""Registries refuse what cannot be what they hold, when it is added; test_measures.py has how names are looked up."""

from __future__ import annotations

from typing import Any

import pytest

from refused import refused
from segcft.config.mechanisms import SPECS, HVAESpec
from segcft.errors import Code, SegcftError
from segcft.evaluate.metrics.metric import METRICS
from segcft.evaluate.metrics.slope import Slope
from segcft.importers.importer import IMPORTERS
from segcft.measures.area import Area
from segcft.measures.measure import MEASURES
from segcft.pipeline.stage import STAGES
from segcft.pipeline.stages.samples import Import
from segcft.utils.registry import Registry


@pytest.mark.parametrize(
    ("registry", "thing"),
    [(MEASURES, Area), (METRICS, Slope), (STAGES, Import), (IMPORTERS, object()), (SPECS, HVAESpec.model_construct())],
)
def test_a_class_is_not_taken_for_an_instance_nor_the_reverse(registry: Registry[Any], thing: object) -> None:
    with refused(SegcftError, Code.INVALID, "'other'"):
        registry.add("other", thing)
    assert "other" not in registry


def test_what_has_a_name_is_known_by_it() -> None:
    with refused(SegcftError, Code.CONFLICT, "'other'"):
        METRICS.add("other", Slope())
    assert "other" not in METRICS

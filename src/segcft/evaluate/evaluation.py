"""The evaluation, whole: every method on the same samples, the same interventions and the same judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.counterfactual.model import Abduction, CounterfactualModel
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, ErrorBars, FactualBatch, GuideBatch, ModelBatch
from segcft.evaluate.answers import FigureQueries
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.given import GivenAnswers
from segcft.evaluate.groups import Groups, groups_of, write_groups
from segcft.evaluate.known import known_change
from segcft.evaluate.metrics.attributes import AttributeMetric
from segcft.evaluate.metrics.displacement import places_of_people
from segcft.evaluate.metrics.kinship import kin
from segcft.evaluate.metrics.metric import Metric, Result, metrics_of, results_of
from segcft.evaluate.pairs import PairQueries, judge_pairs
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import OVER_PEOPLE, few_subjects, render_table
from segcft.evaluate.truth import Truth
from segcft.grey import rounded
from segcft.readers.predictor import Predictor
from segcft.readers.reader import MaskReader, Reader
from segcft.utils.atomic import write_text, written
from segcft.utils.progress import Progress


def evaluate(
    study: Study,
    store: Store,
    indices: np.ndarray,
    models: Mapping[str, CounterfactualModel],
    judge: MaskReader,
    folder: Path,
    *,
    device: torch.device,
    guides: Mapping[str, Reader] | None = None,
    training_values: Tensor | None = None,
    training: Store | None = None,
    predictor: Predictor | None = None,
    error_bars: Mapping[str, ErrorBars] | None = None,
    answers: Mapping[str, Path] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Row]:
    """Judge the counterfactuals of every model; write ``table.json``, ``table.md``, ``figures/`` and
    ``scores.parquet``, which has the result of every sample behind each row of the table.

    The answer is a function of its arguments: latents are posterior means and every draw is seeded by
    ``study.evaluation.seed``.

    Args:
        study: its ``evaluation`` says how.
        store: where the samples are.
        indices: rows of the store that miss no value; at most ``study.evaluation.people`` of them are used.
        models: method ("none", "regressor", "segmentor") -> the model, all with the same SCM.
        judge: reads masks and measures; trained independently of the models' guides.
        folder: where to write.
        device: where to compute; models and judge are moved there.
        guides: part ("regressor", "segmentor") -> the guide of a model, where it is at hand: how well it reads, and
            whether the judge errs with it.
        training_values: (N, V). Figures ask only for areas within their range (default: that of the samples).
        training: the samples that the models were trained on, if they are known; of pairs among them the mean change is
            taken.
        predictor: the judge of what images show of attributes; without one nothing is said of them.
        error_bars: method -> how far its answers may be off, where that was calibrated on others by this judge.
        answers: another method -> the table of what it answered, see :mod:`segcft.evaluate.given`; judged beside the
            models, and compared with the last of them.
        notes: what a reader of the table must know of the models.
        progress: is told how far the work is.

    Returns:
        The rows of the table, each with method, intervention, structure, intervened, metric, value, ci_low, ci_high, n.

    Raises:
        DataError: there is no sample to evaluate on, or an answer of another method is missing or cannot be read.
    """
    progress = progress or Progress()
    cohort = Cohort.choose(study, store, indices, device)
    models = {method: model.to(device).eval() for method, model in models.items()}
    guides = {part: guide.to(device).eval() for part, guide in (guides or {}).items()}
    judge = judge.to(device).eval()
    predictor = predictor.to(device).eval() if predictor is not None else None
    others = _others(cohort, next(iter(models.values())).scm, answers) if answers else []
    scores = judge_models(cohort, models, judge, progress, guides, training, predictor, error_bars, others)
    table = scores.by_sample(cohort.named("id"), cohort.named("patient"))
    rows = scores.rows(cohort.named("patient"), study.evaluation.bootstrap, study.evaluation.seed)
    if training is not None and not Truth.of(study, cohort.store):
        rows += places_of_people(cohort, training, study.asked)
    groups = groups_of(study, store, cohort.rows)
    write_outcome(study, table, rows, folder, groups=groups, notes=notes, progress=progress)
    draw(study, [lambda: FigureQueries(cohort, models, judge, training_values, training)], folder, progress)
    return rows


def write_outcome(
    study: Study,
    scores: pd.DataFrame,
    rows: Sequence[Row],
    folder: Path,
    *,
    groups: Groups,
    notes: Sequence[str] = (),
    end: str = "",
    interval: str = OVER_PEOPLE,
    progress: Progress,
) -> None:
    """Write ``table.json``, ``table.md`` and ``scores.parquet`` of the results of samples and of their rows.

    Where there are ``groups`` of samples, theirs are in ``groups.json`` and in the table, too. ``notes`` stand at the
    top of the table and ``end`` at its end; ``interval`` says what the rows' intervals are.
    """
    subjects = scores["patient"].nunique()
    few, related = few_subjects(subjects), kin(rows, study)
    for note in few:
        progress.note(f"warning: {note}")
    with written(folder / "scores.parquet") as partial:
        scores.to_parquet(partial, index=False)
    write_text(folder / "table.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    in_groups = write_groups(scores, groups, study, folder)
    write_text(
        folder / "table.md", render_table(rows, study, [*few, *related, *notes], subjects, interval) + in_groups + end
    )
    for note in related:  # at the end, where it is read
        progress.note(f"warning: {note}")


def draw(study: Study, parts: Sequence[Callable[[], FigureQueries]], folder: Path, progress: Progress) -> None:
    """Write the figures of an evaluation, see :func:`segcft.evaluate.figures.write_figures`, below ``folder``."""
    from segcft.evaluate.figures import write_figures  # late: matplotlib is slow to import

    write_figures(study, parts, folder / "figures", progress)


@torch.no_grad()
def judge_models(
    cohort: Cohort,
    models: Mapping[str, CounterfactualModel],
    judge: MaskReader,
    progress: Progress,
    guides: Mapping[str, Reader] | None = None,
    training: Store | None = None,
    predictor: Predictor | None = None,
    error_bars: Mapping[str, ErrorBars] | None = None,
    others: Sequence[GivenAnswers] = (),
) -> Scores:
    """What is in the table, sample by sample; see :func:`evaluate`."""
    scores, study = Scores(), cohort.study
    metrics, interventions = metrics_of(study), study.asked
    if predictor is None:
        metrics = [metric for metric in metrics if not isinstance(metric, AttributeMetric)]
    truth = Truth.of(study, cohort.store)
    scm = next(iter(models.values())).scm
    with progress.task("Judging counterfactuals", len(cohort)) as task:
        for samples, asked in zip(cohort.batches(), asked_values(cohort, scm), strict=True):
            factual = FactualBatch(cohort, samples, judge, predictor, guides or {})
            # One abduction serves all interventions.
            abductions = {m: model.abduct(samples.image, samples.values) for m, model in models.items()}
            _add(scores, factual, names.JUDGE, "", ((metric, metric.of_judge(factual)) for metric in metrics))
            for part, guide in (guides or {}).items():
                seen = GuideBatch(factual, guide)
                _add(scores, factual, names.guide(part), "", ((metric, metric.of_guide(seen)) for metric in metrics))
            for method, model in models.items():
                known = ModelBatch(factual, model, abductions[method])
                _add(scores, factual, method, "", ((metric, metric.of_model(known)) for metric in metrics))
            for variable, after in asked.items():
                chosen = [metric for metric in metrics if metric.of_causes or variable in interventions]
                caused = study.variables[variable].solve_for or variable  # of a derived variable, what it moves
                do = {caused: after[:, cohort.column(caused)]}
                drawn = truth.counterfactuals(samples.rows, do) if truth and variable in interventions else None
                question = AskedBatch(factual, variable, after, drawn)
                given = [(other.method, other.images(variable, samples.places)) for other in others]
                for answer in _answers(question, models, abductions, error_bars or {}, given):
                    _add(scores, factual, answer.method, variable, ((m, m.of_answer(answer)) for m in chosen))
                changed = known_change(factual, variable) if drawn is None and variable in interventions else None
                if changed is not None:
                    said = ((metric, metric.of_answer(changed)) for metric in metrics if metric.of_known)
                    _add(scores, factual, names.KNOWN, variable, said)
            for question in _direct(factual, scm, truth):
                chosen = [metric for metric in metrics if metric.of_direct]
                for answer in _answers(question, models, abductions, {}):
                    said = ((metric, metric.of_answer(answer)) for metric in chosen)
                    _add(scores, factual, answer.method, names.directly(question.variable), said)
            task.advance(len(samples.image))
    if study.evaluation.pairs is not None:
        judge_pairs(PairQueries(cohort, models, judge, training), scores, progress)
    for method, other in [("segmentor", "regressor"), *((one.method, list(models)[-1]) for one in others)]:
        scores.add_differences(names.less(method, other), method, other)
    return scores


def _others(cohort: Cohort, scm: StructuralCausalModel, answers: Mapping[str, Path]) -> list[GivenAnswers]:
    """What other methods answered, see :func:`evaluate`."""
    asked = list(asked_values(cohort, scm))
    set_to = {v: torch.cat([after[v][:, cohort.column(v)] for after in asked]) for v in asked[0]}
    return [GivenAnswers.read(method, table, cohort, set_to) for method, table in answers.items()]


def _direct(factual: FactualBatch, scm: StructuralCausalModel, truth: Truth | None) -> Iterator[AskedBatch]:
    """What an attribute does to the image by itself: each is set to another sample's value, and all measures to what
    they are. Asked where somebody knows the answer: a simulator, or a predictor; not where there are no measures."""
    study, samples = factual.study, factual.samples
    if not study.measured or (truth is None and factual.predictor is None):
        return
    generator = torch.Generator(samples.values.device).manual_seed(study.evaluation.seed)
    for name in study.attributes:
        set_to = lent(factual.cohort, name)[samples.places]
        do = {name: set_to} | {one: samples.values[:, factual.cohort.column(one)] for one in study.measured}
        after = scm.counterfactual(samples.values, scm.intervention(len(set_to), **do), generator)
        drawn = None
        if truth and name in truth.simulator.variables and not factual.judge.measurements.of_image:
            # Where structures end is then held as well, as it follows from their areas; how bright they are is not.
            held = do | {one: samples.values[:, factual.cohort.column(one)] for one in study.derived}
            known = {n: v for n, v in held.items() if n in truth.simulator.variables}
            drawn = truth.counterfactuals(samples.rows, known)
        if drawn is not None or factual.predictor is not None:
            yield AskedBatch(factual, name, after, drawn, held=True)


def _answers(
    asked: AskedBatch,
    models: Mapping[str, CounterfactualModel],
    abductions: Mapping[str, Abduction],
    error_bars: Mapping[str, ErrorBars],
    given: Sequence[tuple[str, Tensor]] = (),
) -> Iterator[AnsweredBatch]:
    """Every method's answer, those that others have ``given``, and those of the references."""
    image = asked.factual.samples.image
    yield AnsweredBatch(asked, names.NO_CHANGE, image, None, image)
    for method, model in models.items():
        changed = abductions[method].predict(asked.after)
        bars = error_bars.get(method, ErrorBars())
        yield AnsweredBatch(asked, method, rounded(changed), model, changed, abductions[method], *bars)
    for method, changed in given:
        yield AnsweredBatch(asked, method, changed, None, changed)
    if asked.truth:
        yield AnsweredBatch(asked, names.TRUTH, asked.truth.image, None, asked.truth.image)


def _add(
    scores: Scores, factual: FactualBatch, method: str, variable: str, found: Iterable[tuple[Metric, Iterable[Result]]]
) -> None:
    """Add what metrics found under an intervention on ``variable``: structure by structure, then of whole images."""
    study, samples = factual.study, len(factual.samples.image)
    places = [*study.structures, *study.attributes, ""]
    results = [(metric.name, one) for metric, some in found for one in results_of(metric, some, study, samples)]
    for metric, result in sorted(results, key=lambda one: places.index(one[1].structure)):
        scores.add(
            method,
            metric,
            result.values,
            intervention=variable,
            structure=result.structure,
            intervened=result.structure in study.structures and study.structures[result.structure].variable == variable,
            weights=result.weights,
        )


def from_marginal(values: Tensor, seed: int, column: int) -> Tensor:
    """A value for each of N samples from their own marginal: column ``column`` of (N, V), shuffled, (N,).

    The shuffle depends on the seed and the column alone, not on which interventions were made before.
    """
    order = np.random.default_rng([seed, column]).permutation(len(values))
    return values[torch.from_numpy(order).to(values.device), column]


def lent(cohort: Cohort, variable: str) -> Tensor:
    """For each sample of a cohort the value of ``variable`` that it is asked for: another sample's, (N,)."""
    values = torch.from_numpy(cohort.store.values()[cohort.lenders]).to(cohort.device)
    places = torch.from_numpy(np.searchsorted(cohort.lenders, cohort.rows)).to(cohort.device)
    return from_marginal(values, cohort.study.evaluation.seed, cohort.column(variable))[places]


def asked_values(cohort: Cohort, scm: StructuralCausalModel) -> Iterator[dict[str, Tensor]]:
    """All that is asked, batch by batch of the cohort: variable -> what intervening on it makes the values, (B, V).

    Each sample's variable is set to another sample's value. Causes of measures are asked about as well: do the measures
    follow as the attributes' mechanisms say?
    """
    seed, size = cohort.study.evaluation.seed, cohort.study.evaluation.batch_size
    wanted = {v: lent(cohort, v).split(size) for v in asked_about(cohort.study)}
    # Categorical noise is abducted by sampling; the generator makes it the same every time.
    generator = torch.Generator(cohort.device).manual_seed(seed)
    for batch, values in enumerate(cohort.values.split(size)):
        do = {v: scm.intervention(len(values), **{v: parts[batch]}) for v, parts in wanted.items()}
        yield {v: scm.counterfactual(values, change, generator) for v, change in do.items()}


def asked_about(study: Study) -> list[str]:
    """The variables that an evaluation intervenes on: those of the study, and further causes of measures."""
    return [*study.asked, *(v for v in causes_of_measures(study) if v not in study.asked)]


def causes_of_measures(study: Study) -> list[str]:
    """The variables that are no measure themselves and move one when they are set."""
    graph = Graph.of(study.variables)
    return [v for v in study.variables if v not in study.measured and graph.descendants([v]) & set(study.measured)]

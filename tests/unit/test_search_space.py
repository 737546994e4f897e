"""How [search] is read, the grammar of ranges, and spaces checked against the steps."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_bench import search_of

from harness.analysis.search import Space
from harness.analysis.search.columns import directions
from harness.analysis.search.space import TEMPLATE, key_of
from harness.config import farm, plans, recipes
from harness.config.searches import SpaceReader, model_of, of
from harness.errors import ConfigError
from harness.measure import prepare
from harness.types import Between, OneOf, Plan, Recipe, StepCall

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
ranges = (
    st.tuples(numbers, numbers)
    .filter(lambda ends: ends[0] < ends[1])
    .map(lambda ends: Between(low=ends[0], high=ends[1]))
)
texts = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=8)
scalars = st.booleans() | numbers | texts
choices = st.lists(scalars, min_size=2, max_size=4, unique_by=repr).map(
    lambda values: OneOf(values=tuple(values))
)
steps = st.builds(
    StepCall,
    name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    parameters=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), scalars | ranges | choices, max_size=3
    ).map(lambda found: dict(sorted(found.items()))),
)
chains = st.lists(steps, min_size=1, max_size=3).map(tuple)


def read(text: str) -> Recipe:
    return recipes.parse(text, None, SpaceReader)


@patient
@given(chains)
def test_a_written_template_reads_back_as_the_same(chain: tuple[StepCall, ...]) -> None:
    again = read(Recipe(name="x", steps=chain).chain)
    assert again.steps == chain
    assert repr(again.steps) == repr(chain)


@patient
@given(st.text(max_size=30) | st.text("ab0.|5()=\"',[]>@ ", max_size=30))
def test_any_text_is_a_template_or_a_config_error(text: str) -> None:
    try:
        template = read(text)
    except ConfigError:
        return
    assert read(template.chain).steps == template.steps


def test_values_of_a_template() -> None:
    (step,) = read(
        """x(a=0.3..0.9, b=4|8, c="p|q"|'r, s', d=-2 .. 3, e=[1, 2], f=true|false)"""
    ).steps
    assert step.parameters == {
        "a": Between(low=0.3, high=0.9),
        "b": OneOf(values=(4, 8)),
        "c": OneOf(values=("p|q", "r, s")),
        "d": Between(low=-2, high=3),
        "e": [1, 2],
        "f": OneOf(values=(True, False)),
    }


@pytest.mark.parametrize(
    "value",
    [
        *("0.9..0.3", "1..1", "0.1..", "..2", "1...5", "true..false", "nan..1", "4|", "|4"),
        *("4|4", "4||8", "0.1..0.2|0.5", '"a".."b"', "a|b", "1..2..3"),
    ],
)
def test_an_invalid_range_is_an_error_with_the_allowed_forms(value: str) -> None:
    with pytest.raises(ConfigError, match='a value for "a" .*a range 0.3..0.9 .*alternatives 4|8'):
        read(f"x(a={value})")


def test_a_recipe_to_run_takes_no_range() -> None:
    with pytest.raises(ConfigError, match="as in TOML"):
        recipes.parse("prune(sparsity=0.3..0.9)")


# --- the table of a plan ---------------------------------------------------------------------


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for name in ("a.tflite", "b.tflite", "e.npz"):
        (tmp_path / name).touch()
    return tmp_path


HEAD = '[model]\npath = "a.tflite"\n[data]\nevaluation = "e.npz"\n'


def plan_of(folder: Path, search: str, head: str = HEAD) -> Plan:
    return plans.from_mapping(tomllib.loads(f"{head}[search]\n{search}"), folder, "plan.toml")


def test_the_defaults(folder: Path) -> None:
    search = of(plan_of(folder, 'space = ["int8"]'))
    assert search.objectives == ("size_bytes", "latency_p50_ms", "accuracy")
    assert (search.device, search.trials, search.processes) == ("this-machine", 30, 1)
    assert search.constraints.given() == {}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ('spaces = ["int8"]', 'search: unknown key "spaces"; did you mean "space"?'),
        ("space = []", "search.space: at least one"),
        ('space = ["int8", "int8"]', r"search.space\[1\]: is in the list already"),
        ('space = ["int8("]', r"search.space\[0\]: recipe"),
        ('space = ["int8"]\nobjectives = ["latency"]', 'unknown objective "latency"; did you mean'),
        ('space = ["int8"]\nobjectives = []', "search.objectives: at least one"),
        ('space = ["int8"]\nobjectives = ["accuracy", "accuracy"]', "is in the list already"),
        ('space = ["int8"]\ntrials = 0', "search.trials: must be at least 1, not 0"),
        ('space = ["int8"]\nprocesses = 0', "search.processes: must be at least 1, not 0"),
        (
            'space = ["int8"]\nconstraints = { max_size = 3 }',
            'search.constraints: unknown key "max_size"; did you mean "max_size_kb"?',
        ),
        ('space = ["int8"]\nconstraints = { max_accuracy_drop = 2 }', "at least 0 and at most 1"),
        ('space = ["int8"]\nconstraints = { max_latency_ms = nan }', "must be at least 0"),
        ('space = ["int8"]\nconstraints = { max_latency_ms = inf }', "must be at least 0"),
        ('space = ["int8"]\nmodel = "b"', 'search.model: unknown model "b"'),
    ],
)
def test_invalid_tables_are_refused_when_the_plan_is_read(
    folder: Path, search: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(folder, search)


def test_accuracy_needs_evaluation_data(folder: Path) -> None:
    head = '[model]\npath = "a.tflite"\n'
    assert plan_of(folder, 'space = ["int8"]\nobjectives = ["size_bytes"]', head)
    for more in ('objectives = ["accuracy"]', "constraints = { max_accuracy_drop = 0.1 }"):
        with pytest.raises(ConfigError, match="needs data.evaluation"):
            plan_of(folder, f'space = ["int8"]\n{more}', head)


def test_a_lower_error_is_better(folder: Path) -> None:
    head = f'{HEAD}metric = "mse"\n'
    search = of(plan_of(folder, 'space = ["int8"]\nconstraints = { max_accuracy_drop = 5 }', head))
    assert search.accuracy_better == "lower"
    assert directions(search) == ["minimize", "minimize", "minimize"]
    assert directions(of(plan_of(folder, 'space = ["int8"]')))[-1] == "maximize"
    with pytest.raises(ConfigError, match="min_accuracy: lower mse is better; .*max_accuracy_drop"):
        plan_of(folder, 'space = ["int8"]\nconstraints = { min_accuracy = 0.5 }', head)


def test_one_model_and_one_number_of_threads(folder: Path) -> None:
    several = (
        '[[model]]\npath = "a.tflite"\n[[model]]\npath = "b.tflite"\n[data]\nevaluation="e.npz"\n'
    )
    with pytest.raises(ConfigError, match="needs one model, this plan has a, b; name one"):
        plan_of(folder, 'space = ["int8"]', several)
    plan = plan_of(folder, 'space = ["int8"]\nmodel = "b"', several)
    assert model_of(plan).source.name == "b"
    with pytest.raises(ConfigError, match="one number of threads"):
        plan_of(folder, 'space = ["int8"]', f"{HEAD}[run]\nthreads = [1, 2]\n")


def test_the_digest_covers_the_space_and_not_the_number_of_trials(folder: Path) -> None:
    def digest(text: str) -> str:
        return plan_of(folder, text).digest

    plain = digest('space = ["prune(sparsity=0.3..0.9)"]')
    assert digest('space = ["prune( sparsity = 0.3..0.9 )"]\ntrials = 90\nprocesses = 2') == plain
    assert digest('space = ["prune(sparsity=0.3..0.8)"]') != plain
    assert digest('space = ["prune(sparsity=0.3..0.9)"]\nobjectives = ["size_bytes"]') != plain


def test_a_recipe_name_of_the_plan_is_replaced_by_its_chain(folder: Path) -> None:
    plan = plan_of(
        folder,
        'space = ["prune(sparsity=0.3..0.9) > small"]\n[recipe.small]\nsteps = "int8(io=\'float\')"',
    )
    assert of(plan).space[0].chain == 'prune(sparsity=0.3..0.9) > int8(io="float")'


def test_a_plan_that_only_searches_cannot_be_run(folder: Path) -> None:
    plan = plan_of(folder, 'space = ["int8"]')
    with pytest.raises(ConfigError, match=r"`edge-harness search plan\.toml`.*run\.recipes"):
        prepare.decide(plan, farm.load(None, folder))


def test_a_plan_without_the_table_is_an_error_with_an_example(folder: Path) -> None:
    mapping = tomllib.loads(f'{HEAD}[run]\nrecipes = ["as_is"]')
    with pytest.raises(ConfigError, match=r"there is no \[search\]; give it at least"):
        of(plans.from_mapping(mapping, folder, "plan.toml"))


# --- the space -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prun(sparsity=0.3..0.9)", 'unknown step "prun"; did you mean "prune"?'),
        ("prune(sparcity=0.3..0.9)", 'unknown parameter of prune "sparcity"; did you mean'),
        ("prune(sparsity=0.3..1.5)", "sparsity.*number from 0 to 0.98"),
        ("prune(sparsity=-1..0.5)", "sparsity.*number from 0 to 0.98"),
        ("weight_only(bits=4|5)", "bits.*is 5"),
        ("cluster(clusters=3.5..8)", "clusters.*integer"),
        ('int8(io="int8"|"int4")', "int4"),
        ("int8 > prune(sparsity=0.1..0.2)", "prune cannot follow int8"),
    ],
)
def test_a_space_is_checked_against_the_steps(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"search.space\[1\].*{message}"):
        Space.of(search_of("float16", text))


class Drawn:
    """Chooses the first value, the last, or the one at a share of the way between them."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.names: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[int]) -> Any:
        self.names.append(name)
        return choices[min(int(self.share * len(choices)), len(choices) - 1)]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.names.append(name)
        return low + int(self.share * (high - low))

    def suggest_float(self, name: str, low: float, high: float) -> float:
        self.names.append(name)
        return low + self.share * (high - low)


@patient
@given(st.floats(0, 1))
def test_drawn_recipes_are_within_the_ranges(share: float) -> None:
    space = Space.of(
        search_of(
            "cluster(clusters=3..9) > int8(io='int8'|'float')", "prune(sparsity=0.333..0.777)"
        )
    )
    source = Drawn(share)
    recipe = space.draw(source)
    # Every variable is drawn in every trial, also those of other templates.
    assert source.names == [TEMPLATE, "0.0.clusters", "0.1.io", "1.0.sparsity"]
    assert recipes.parse(recipe.name).steps == recipe.steps
    parameters = recipe.steps[0].parameters
    if "clusters" in parameters:
        assert parameters["clusters"] in range(3, 10)
    else:
        assert 0.333 <= parameters["sparsity"] <= 0.777
        assert len(str(parameters["sparsity"])) <= len("0.333")


def test_whole_ends_give_whole_numbers_unless_the_step_takes_fractions() -> None:
    whole, fraction = Space.of(
        search_of("cluster(clusters=3..9)", "mixed(max_drop=0..1)")
    ).variables
    assert (whole.whole, fraction.whole) == (True, False)
    assert (whole.middle(), fraction.middle()) == (6, 0.5)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (["int8"], 1),
        (["int8", "weight_only(bits=4|8)"], 3),
        (["cluster(clusters=3..5) > int8(io='int8'|'float')"], 6),
        (["int8", "prune(sparsity=0.1..0.2)"], None),
    ],
)
def test_a_space_is_counted_and_a_small_one_is_listed(space: list[str], size: int | None) -> None:
    made = Space.of(search_of(*space))
    assert made.size() == size
    first = made.first(10)
    assert all(made.is_whole(point) for point in first)
    assert len({key_of(made.recipe(point)) for point in first}) == (size or len(space))
    assert len(made.first(1)) == 1


def test_a_target_stays_with_the_recipe() -> None:
    space = Space.of(search_of("weight_only(bits=4|8)@xnnpack"))
    assert [space.recipe(point).name for point in space.first(9)] == [
        "weight_only(bits=4)@xnnpack",
        "weight_only(bits=8)@xnnpack",
    ]


def test_the_key_of_a_recipe_ignores_how_it_is_written() -> None:
    def key(text: str) -> str:
        return key_of(recipes.parse(text))

    assert key("int8") == key('int8(io="int8")')
    assert len({key("int8"), key('int8(io="float")'), key("int8@gpu"), key("float16")}) == 4

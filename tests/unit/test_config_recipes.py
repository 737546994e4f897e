import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config import recipes
from harness.errors import ConfigError
from harness.types import Recipe, StepCall

words = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=20)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = scalars | st.lists(scalars | st.lists(scalars, max_size=3), max_size=4)
steps = st.builds(
    StepCall,
    name=words,
    parameters=st.dictionaries(keys, values, max_size=4).map(lambda d: dict(sorted(d.items()))),
)
chains = st.builds(
    Recipe, name=st.just("x"), steps=st.lists(steps, min_size=1, max_size=4).map(tuple)
)

# A busy machine is no fault of a recipe.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(chains)
def test_a_written_chain_reads_back_as_the_same_steps(recipe: Recipe) -> None:
    again = recipes.parse(recipe.chain)
    assert again.steps == recipe.steps
    assert [type(v) for s in again.steps for v in s.parameters.values()] == [
        type(v) for s in recipe.steps for v in s.parameters.values()
    ]
    assert again.chain == recipe.chain == recipes.canonical(recipe.chain)


@patient
@given(chains, words)
def test_a_target_travels_with_the_chain(recipe: Recipe, target: str) -> None:
    again = recipes.parse(f"{recipe.chain}@{target}")
    assert (again.steps, again.target) == (recipe.steps, target)


@patient
@given(st.text(max_size=30))
def test_any_text_is_a_recipe_or_a_config_error(text: str) -> None:
    try:
        recipe = recipes.parse(text)
    except ConfigError:
        return
    assert recipes.parse(recipe.chain).steps == recipe.steps


def test_spelling_does_not_matter_to_the_chain() -> None:
    spaced = recipes.parse("  prune( end = 10 , begin=0.50 )>int8 @ edgetpu ")
    assert spaced.chain == "prune(begin=0.5, end=10) > int8"
    assert spaced.target == "edgetpu"
    assert spaced.name == "prune( end = 10 , begin=0.50 )>int8 @ edgetpu"
    assert recipes.canonical("prune(end=10, begin=0.5) > int8@edgetpu") == (
        "prune(begin=0.5, end=10) > int8@edgetpu"
    )


def test_values_are_those_of_toml() -> None:
    step = recipes.parse(
        """x(a=1_000, b='C:\\d, (e)', c="q\\"uo", d=[[1, 2], ["]"]], f=true)"""
    ).steps[0]
    assert step.parameters == {
        "a": 1000,
        "b": "C:\\d, (e)",
        "c": 'q"uo',
        "d": [[1, 2], ["]"]],
        "f": True,
    }


def test_named_recipes_expand_and_keep_their_name() -> None:
    named = {"small": "prune(sparsity=0.5) > half", "half": "int8"}
    recipe = recipes.parse("small@gpu", named)
    assert recipe == Recipe(
        name="small@gpu",
        steps=(StepCall(name="prune", parameters={"sparsity": 0.5}), StepCall(name="int8")),
        target="gpu",
    )
    assert recipes.parse("small > float16", named).chain == "prune(sparsity=0.5) > int8 > float16"


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 1, "a step"),
        ("> int8", 1, "a step"),
        ("int8 >", 7, "a step, found the end"),
        ("int8 float16", 6, '">", "@" or the end'),
        ("int8@", 6, "a target"),
        ("int8@gpu > x", 10, "the end after the target"),
        ("prune(sparsity)", 15, '"=" after "sparsity"'),
        ("prune(0.5)", 7, "a parameter (key=value)"),
        ("prune(sparsity=0.5", 19, '"," or ")", found the end'),
        ("prune(sparsity=)", 16, 'a value for "sparsity"'),
        ("prune(sparsity=half)", 16, 'a value for "sparsity"'),
        ("prune(sparsity=0.5, sparsity=1)", 21, "already given"),
        ("prune(sparsity=nan)", 16, "as in TOML"),
        ("prune(day=2020-01-01)", 11, "as in TOML"),
        ("prune(a={b=1})", 9, "as in TOML"),
        ('prune(a="one\\ntwo")', 9, "as in TOML"),
        ("prune(a=1 # half)", 11, "without a comment"),
        ("prune(a=1\nb=2)", 10, "on one line"),
    ],
)
def test_bad_grammar_names_the_position_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.parse(text)
    assert f"position {position}: expected" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named", "words"),
    [
        ("small(x=1)", {"small": "int8"}, "takes no parameters"),
        ("a", {"a": "b", "b": "a"}, "cycle: a > b > a"),
        ("small", {"small": "int8@gpu"}, '"small@gpu"'),
    ],
)
def test_bad_names_are_refused(text: str, named: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", "\\(")):
        recipes.parse(text, named)

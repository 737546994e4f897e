import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.config import farm, plans, recipes, templates
from harness.errors import ConfigError
from harness.optimize import catalog
from harness.types import Accept, Device, Dose, GateRules, Plan

MODEL = '[model]\npath = "a.tflite"\n'
RUN = '[run]\nrecipes = ["as_is"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tflite", "b.tflite", "sub/a.tflite", "c.keras", "calibration.npz", "gen.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def load(folder: Path, text: str) -> Plan:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return plans.load(path)


def model_names(plan: Plan) -> list[str]:
    return [model.source.name for model in plan.models]


def device(name: str, **fields: Any) -> Device:
    return Device(name=name, profile="linux_x86_64", address="local:", **fields)


def test_a_whole_plan(folder: Path) -> None:
    plan = load(
        folder,
        """
        [[model]]
        name = "kws"
        path = "saved"
        signature = "serving_default"
        allow_flex = true
        shape = { audio = [1, 49, 10, 1] }

        [[model]]
        path = "a.tflite"
        shape = [1, 8]
        recipes = ["as_is@edgetpu"]
        devices = ["tag:coral"]
        [model.data]
        calibration = "random"

        [data]
        calibration = "calibration.npz"
        evaluation = "gen.py:batches"
        metric = "top5"

        [recipe.small]
        steps = "prune(sparsity=0.5) > int8"

        [run]
        recipes = ["float32", "small@gpu"]
        devices = ["this-machine", "any:2 of profile:raspberry_pi_5"]
        threads = [1, 4]
        seed = 7
        patience_seconds = 300

        [dose]
        launches = 3

        [accept]
        min_agreement = 0.9

        [gate]
        metrics = ["latency"]
        """,
    )
    first, second = plan.models
    assert plan.path == folder / "plan.toml"
    assert first.source.path == folder / "saved"
    assert first.source.data.calibration == str(folder / "calibration.npz")
    assert first.source.data.evaluation == f"{folder / 'gen.py'}:batches"
    assert first.source.data.metric == "top5"
    assert first.source.shape == {"audio": (1, 49, 10, 1)}
    assert first.source.signature == "serving_default"
    assert first.source.allow_flex
    assert [recipe.name for recipe in first.recipes] == ["float32", "small@gpu"]
    assert first.recipes[1].chain == "prune(sparsity=0.5) > int8"
    assert first.recipes[1].target == "gpu"
    assert first.devices == ("this-machine", "any:2 of profile:raspberry_pi_5")
    assert second.source.name == "a"
    assert second.source.shape == {"*": (1, 8)}
    assert second.source.data.calibration == "random"
    assert second.source.data.evaluation is None
    assert [recipe.name for recipe in second.recipes] == ["as_is@edgetpu"]
    assert second.devices == ("tag:coral",)
    assert plan.threads == (1, 4)
    assert plan.seed == 7
    assert plan.patience_seconds == 300.0
    assert plan.dose == Dose(launches=3)
    assert plan.accept == Accept(min_agreement=0.9)
    assert plan.gate == GateRules(metrics=("latency",))
    assert plan.text["run"]["seed"] == 7


def test_the_least_plan_runs_on_this_machine(folder: Path) -> None:
    plan = load(folder, MODEL + RUN)
    assert model_names(plan) == ["a"]
    assert plan.models[0].devices == ("this-machine",)
    assert (plan.threads, plan.dose, plan.accept) == ((1,), Dose(), Accept())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.tflite", ["a", "b"]),
        ("**/*.tflite", ["a.tflite", "b", "sub-a.tflite"]),
        ("[ab].tflite", ["a", "b"]),
        ("s*", ["saved"]),
        ("*", ["a", "b", "c", "saved"]),
    ],
)
def test_a_glob_is_every_model_it_matches(folder: Path, pattern: str, names: list[str]) -> None:
    assert model_names(load(folder, f'[model]\npath = "{pattern}"\n' + RUN)) == names


def test_an_absolute_glob_and_a_named_glob(folder: Path) -> None:
    absolute = load(folder, f'[model]\npath = "{folder}/*.tflite"\n' + RUN)
    assert model_names(absolute) == ["a", "b"]
    named = load(folder, '[model]\nname = "net"\npath = "*.tflite"\n' + RUN)
    assert model_names(named) == ["net-a", "net-b"]


def test_models_without_a_name_are_told_apart_over_all_entries(folder: Path) -> None:
    text = '[[model]]\npath = "a.tflite"\n[[model]]\npath = "sub/a.tflite"\n' + RUN
    assert model_names(load(folder, text)) == ["a.tflite", "sub-a.tflite"]
    (folder / "a.keras").touch()
    text = '[[model]]\npath = "a.tflite"\n[[model]]\npath = "a.keras"\n' + RUN
    assert model_names(load(folder, text)) == ["a.tflite", "a.keras"]


@pytest.mark.parametrize(
    "name",
    ["my model.tflite", 'it\'s "quoted".tflite', "modèle-größe-模型.tflite", "v[1]*?.tflite"],
)
def test_a_path_may_hold_spaces_quotes_brackets_and_any_letters(folder: Path, name: str) -> None:
    (folder / "a dir [x] é").mkdir()
    path = folder / "a dir [x] é" / name
    path.touch()
    base = path.parent
    for written in (name, str(path)):
        plan = plans.from_mapping(
            {"model": {"path": written}, "run": {"recipes": ["as_is"]}}, base, "plan.toml"
        )
        assert plan.models[0].source.path == path
        assert model_names(plan) == [path.stem]
    plan = load(base, '[model]\npath = "*.tflite"\n' + RUN)
    assert [model.source.path for model in plan.models] == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'the key "model" is missing'),
        ("model = []\n" + RUN, "model: at least one model is needed"),
        ("model = 3", "model: must be an array, not 3"),
        ('model = ["x"]', 'model[0]: must be a table, not "x"'),
        ('[model]\npth = "a.tflite"\n' + RUN, 'model: unknown key "pth"; did you mean "path"'),
        ('[[model]]\npath = "a.tflite"\ndta = 1\n' + RUN, 'model[0]: unknown key "dta"; did you '),
        ("[model]\npath = 3\n" + RUN, "model.path: must be text in quotes, not 3"),
        ("[model]\nname = 'x'\n" + RUN, 'model: the key "path" is missing'),
        ('[model]\npath = "none.tflite"\n' + RUN, "model.path: there is no file or folder"),
        ('[[model]]\npath = "no.h5"\n' + RUN, "model[0].path: there is no file or folder"),
        ('[model]\npath = "*.h5"\n' + RUN, 'model.path: the glob "*.h5" matches nothing in'),
        ('[model]\npath = "*.txt"\n' + RUN, 'model.path: the glob "*.txt" matches no model in'),
        (
            '[model]\npath = "notes.txt"\n' + RUN,
            'notes.txt" is not a model; models are .keras, .h5',
        ),
        (
            '[model]\npath = "sub"\n' + RUN,
            'sub" is not a model: a folder, not a SavedModel; give a file in it',
        ),
        ('[model]\nname = ""\npath = "a.tflite"\n' + RUN, 'model.name: "" is not a name'),
        ('[model]\nname = "a/b"\npath = "a.tflite"\n' + RUN, 'model.name: "a/b" is not a name'),
        (
            '[[model]]\nname="x"\npath="a.tflite"\n[[model]]\nname="x"\npath="b.tflite"\n' + RUN,
            'two models have the name "x"',
        ),
        (
            '[[model]]\npath="a.tflite"\n[[model]]\npath="a.tflite"\n' + RUN,
            "two models have the name",
        ),
        (MODEL, 'run.recipes: at least one is needed, such as "float32"'),
        (MODEL + "[run]\nrecipes = []", "run.recipes: at least one is needed"),
        (MODEL + "recipes = []\n" + RUN, "model.recipes: at least one is needed"),
        (MODEL + RUN + "devices = []", "run.devices: at least one is needed"),
        (MODEL + '[run]\nrecipes = "as_is"', 'run.recipes: must be an array, not "as_is"'),
        (MODEL + '[run]\nrecipes = ["as_is", 3]', "run.recipes[1]: must be text in quotes, not 3"),
        (
            MODEL + '[run]\nrecipes = ["int8", "int8("]',
            'run.recipes[1]: recipe "int8(", position 6',
        ),
        (
            MODEL + '[run]\nrecipes = ["int8 "," int8"]',
            "run.recipes[1]: means the same as number 0",
        ),
        (MODEL + RUN + 'devices = ["a", "b", "a"]', "run.devices[2]: means the same as number 0"),
        (MODEL + RUN + "threads = [1, 2, 1]", "run.threads[2]: means the same as number 0"),
        (MODEL + RUN + "threads = []", "run.threads: at least one number is needed"),
        (MODEL + RUN + "threads = [0]", "run.threads: must be at least 1"),
        (MODEL + RUN + 'threads = ["1"]', 'run.threads[0]: must be a whole number, not "1"'),
        (MODEL + RUN + "threads = 1", "run.threads: must be an array, not 1"),
        (MODEL + RUN + "seed = -1", "run.seed: must be at least 0"),
        (
            MODEL + RUN + "patience_seconds = -1",
            "run.patience_seconds: must be at least 0 and at most 86400, not -1",
        ),
        (MODEL + RUN + "seed = 1.5", "run.seed: must be a whole number, not 1.5"),
        (MODEL + RUN + "tread = 1", 'run: unknown key "tread"; did you mean "threads"'),
        (MODEL + RUN + "[doses]", 'unknown key "doses"; did you mean "dose"'),
        (
            MODEL + RUN + "[dose]\nlaunchs = 3",
            'dose: unknown key "launchs"; did you mean "launches"',
        ),
        (MODEL + RUN + "[dose]\nlaunches = 0", "dose.launches: must be at least 1, not 0"),
        (MODEL + RUN + "[dose]\nmax_seconds = inf", "dose.max_seconds: must be at least"),
        (MODEL + RUN + "[dose]\nmin_seconds = nan", "dose.min_seconds: must be at least"),
        (
            MODEL + RUN + "[dose]\nmin_seconds = 5\nmax_seconds = 1",
            "dose.min_seconds (5.0) must not be larger than dose.max_seconds (1.0)",
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'streams'",
            "dose.scenario: must be 'single', 'stream', 'offline' or 'sustained', not \"streams\"",
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'stream'",
            "dose.period_ms: a stream needs its frame period, such as period_ms = 33.3",
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'stream'\nperiod_ms = 0",
            "dose.period_ms: must be at least 0.001, not 0",
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'stream'\nperiod_ms = 10001",
            "dose.period_ms (10001.0) must not be longer than dose.max_seconds (10.0)",
        ),
        (
            MODEL + RUN + "[dose]\nperiod_ms = 5",
            'dose.period_ms: only scenario = "stream" has one, this is "single"',
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'sustained'\nsustained_minutes = 0",
            "dose.sustained_minutes: must be at least 0.01 and at most 1440",
        ),
        (
            MODEL + RUN + "[dose]\nscenario = 'offline'\nsustained_minutes = 5",
            'dose.sustained_minutes: only scenario = "sustained" has them, this is "offline"',
        ),
        (
            MODEL + RUN + "[accept]\nmin_agreement = 95",
            "accept.min_agreement: must be at least 0 and",
        ),
        (
            MODEL + RUN + "[accept]\nagreement = 1",
            'accept: unknown key "agreement"; did you mean "mi',
        ),
        (MODEL + RUN + "[gate]\nmargins = 1", 'gate: unknown key "margins"; did you mean "margin"'),
        (MODEL + RUN + "[gate]\nmax_pairs = 1", "gate.max_pairs: must be at least 2"),
        (
            MODEL + RUN + "[gate]\nmargin = 1.5",
            "gate.margin: must be at least 0 and at most 1, not 1.5",
        ),
        (MODEL + RUN + "[gate]\nmargin = nan", "gate.margin: must be at least 0 and at most 1"),
        (MODEL + RUN + "[gate]\nbudget_seconds = inf", "gate.budget_seconds: must be at least 1"),
        (MODEL + RUN + "[gate]\nmargin = '5 %'", 'gate.margin: must be a number, not "5 %"'),
        (
            MODEL + RUN + "[gate]\nmetrics = ['latencey']",
            'gate.metrics: unknown metric "latencey"; did you mean "latency"',
        ),
        (MODEL + RUN + "[gate]\nmetrics = []", "gate.metrics: at least one of latency, load, "),
        (
            MODEL + RUN + "[gate]\nmargin = 0.02",
            "gate: min_effect (0.02) must be under margin (0.02)",
        ),
        (
            MODEL + RUN + "[data]\nmetric = 'top2'",
            'data.metric: unknown metric "top2"; did you mean "top5"? (known: mae, mse, top1, top5)',
        ),
        (
            MODEL + "[model.data]\nmetric = 'f1'\n" + RUN,
            'model.data.metric: unknown metric "f1" (known: mae, mse, top1, top5)',
        ),
        (
            MODEL + RUN + "[accept]\nmax_accuracy_drop = 5",
            "accept.max_accuracy_drop: must be at least 0 and at most 1, not 5",
        ),
        (
            MODEL + RUN + "[accept]\nmax_accuracy_drop = -0.1\n[data]\nmetric = 'mse'",
            "accept.max_accuracy_drop: must be at least 0, not -0.1",
        ),
        (
            MODEL + RUN + "[recipe.small]\nstep = 'int8'",
            'recipe.small: unknown key "step"; did you',
        ),
        (MODEL + RUN + "[recipe.small]\nsteps = 'int8 >'", 'recipe.small.steps: recipe "int8 >'),
        (MODEL + RUN + "[recipe.'a b']\nsteps = 'int8'", "recipe.a b: a name is letters"),
        (MODEL + RUN + "[recipe.a]\nsteps = 'a'", "recipes refer to each other in a cycle: a > a"),
        (MODEL + RUN + "[data]\ntraining = 'x.npz'", "data.training: there is no file or folder"),
        (MODEL + RUN + "[data]\ntraining = 'random'", 'only calibration can be "random"'),
        (MODEL + RUN + "[data]\ncalibration = 'gen.py'", "data.calibration: name the generator in"),
        (MODEL + RUN + "[data]\ncalibration = 'x.py:f'", "data.calibration: there is no file"),
        (
            MODEL + RUN + "[data]\ncalib = 'x'",
            'data: unknown key "calib"; did you mean "calibration"',
        ),
        (MODEL + "[model.data]\nevaluation='x'\n" + RUN, "model.data.evaluation: there is no file"),
        (MODEL + "shape = [1, 'x']\n" + RUN, 'must be a whole number, not "x"'),
        (MODEL + "[run]\nrecipes = [", "not valid TOML"),
        (MODEL + RUN + "[run]", "not valid TOML: Cannot declare"),
    ],
)
def test_a_bad_plan_is_one_line_with_file_and_key(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(folder, text)
    assert str(caught.value).startswith(f"{folder / 'plan.toml'}: ")
    assert "\n" not in str(caught.value)


def test_an_error_may_grow_by_more_than_one(folder: Path) -> None:
    text = MODEL + RUN + "[accept]\nmax_accuracy_drop = 5\n[data]\nmetric = 'mse'"
    assert load(folder, text).accept.max_accuracy_drop == 5


def test_a_syntax_error_has_line_and_column(folder: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("(at line 2, column 8)")):
        load(folder, "[model]\npath = a.tflite\n")


def test_a_name_of_a_step_is_taken(folder: Path, step_plugin: str) -> None:
    with pytest.raises(
        ConfigError, match=f"recipe.{step_plugin}: {step_plugin} is the name of a step"
    ):
        load(folder, MODEL + RUN + f"[recipe.{step_plugin}]\nsteps = 'int8'")


@pytest.fixture
def step_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness.steps]\nsqueeze = other:Squeeze\n")
    monkeypatch.syspath_prepend(str(info.parent))
    return "squeeze"


def test_a_model_that_cannot_be_opened_is_refused(folder: Path) -> None:
    (folder / "folder.tflite").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(folder, '[model]\npath = "folder.tflite"\n' + RUN)


def test_the_digest_is_of_the_meaning(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = MODEL + '[run]\nrecipes = ["prune(a=1, b=2.0)"]\n[data]\ncalibration="calibration.npz"\n'
    digest = load(folder, text).digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert load(folder, "# a comment\n" + text + "[dose]\nlaunches = 5\n").digest == digest
    (folder / "a.tflite").write_bytes(b"other content, another time")
    assert load(folder, text).digest == digest
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(folder, copy)
    assert load(copy, text).digest == digest


def test_a_digest_stays_what_it_was(folder: Path) -> None:
    """As the first version computed it: runs that were stored then can be resumed."""
    plan = load(
        folder,
        """
        [model]
        path = "a.tflite"
        [data]
        evaluation = "calibration.npz"
        [run]
        recipes = ["int8"]
        [gate]
        margin = 0.1
        metrics = ["latency", "memory"]
        [search]
        space = ["prune(sparsity=0.3..0.9) > int8", "weight_only(bits=4|8)"]
        constraints = { max_accuracy_drop = 0.02, max_size_kb = 300 }
        """,
    )
    assert plan.digest == "32e3db8e4ff41f90ee3e672178804315cbd9466fc15dc0f8a6ec342ba7acc9eb"


@pytest.mark.parametrize(
    "change",
    [
        '[model]\nname = "other"\npath = "a.tflite"\n' + RUN,
        '[model]\npath = "b.tflite"\n' + RUN,
        MODEL + '[run]\nrecipes = ["int8"]\n',
        MODEL + '[run]\nrecipes = ["as_is@gpu"]\n',
        MODEL + RUN + 'devices = ["tag:x"]\n',
        MODEL + RUN + "threads = [2]\n",
        MODEL + RUN + "seed = 1\n",
        MODEL + RUN + "[dose]\nlaunches = 6\n",
        MODEL + RUN + "[dose]\nscenario = 'offline'\n",
        MODEL + RUN + "[accept]\nmin_agreement = 0.5\n",
        MODEL + RUN + "[gate]\nmargin = 0.1\n",
        MODEL + RUN + '[data]\ncalibration = "random"\n',
        MODEL + "shape = [1, 2]\n" + RUN,
    ],
)
def test_another_meaning_has_another_digest(folder: Path, change: str) -> None:
    assert load(folder, change).digest != load(folder, MODEL + RUN).digest


def test_patience_is_no_part_of_the_digest(folder: Path) -> None:
    patient = load(folder, MODEL + RUN + "patience_seconds = 600\n")
    usual = load(folder, MODEL + RUN)
    assert patient.digest == usual.digest
    assert usual.patience_seconds == 120.0


def test_a_named_recipe_that_changes_changes_the_digest(folder: Path) -> None:
    text = MODEL + "[run]\nrecipes=['s']\n[recipe.s]\nsteps = "
    assert load(folder, text + "'int8'").digest != load(folder, text + "'float16'").digest


def test_quick_needs_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    plan = plans.quick(
        [Path("a.tflite"), Path("sub/a.tflite"), folder / "saved"],
        devices=["this-machine"],
        recipes=("as_is", "int8"),
        threads=(2,),
        dose={"launches": 2, "scenario": None},
        data={"calibration": "calibration.npz", "evaluation": None},
    )
    assert model_names(plan) == ["a.tflite", "sub-a.tflite", "saved"]
    assert plan.models[0].source.path == folder / "a.tflite"
    assert plan.models[0].source.data.calibration == str(folder / "calibration.npz")
    assert (plan.threads, plan.dose, plan.path) == ((2,), Dose(launches=2), None)
    with pytest.raises(ConfigError, match=r"command line: model\[0\]\.path: there is no file"):
        plans.quick([Path("none.tflite")], devices=["this-machine"])


def test_combinations_multiply_in_order(folder: Path) -> None:
    plan = load(
        folder,
        '[[model]]\npath="a.tflite"\n[[model]]\npath="b.tflite"\ndevices=["tag:x"]\n'
        '[run]\nrecipes=["as_is", "int8"]\ndevices=["one", "two"]\nthreads=[1, 2]\n',
    )
    one, two, three = device("one"), device("two", tags=("x",)), device("three", tags=("x",))
    found = plans.combinations(plan, [one, two, three])
    assert len(found) == 2 * 2 * 2 * 2
    assert [
        (item.model.name, item.recipe.name, item.device.name, item.threads) for item in found[:5]
    ] == [
        ("a", "as_is", "one", 1),
        ("a", "as_is", "one", 2),
        ("a", "as_is", "two", 1),
        ("a", "as_is", "two", 2),
        ("a", "int8", "one", 1),
    ]
    assert {item.device.name for item in found if item.model.name == "b"} == {"two", "three"}
    with pytest.raises(ConfigError, match=re.escape("model b: none of its devices (tag:x) is")):
        plans.combinations(plan, [one])


def test_init_writes_two_files_that_load(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "project"
    written = plans.init(new)
    assert [path.name for path in written] == ["plan.toml", "farm.toml"]
    (new / "model.tflite").touch()
    assert model_names(plans.load(new / "plan.toml")) == ["my-model"]
    assert list(farm.load(new / "farm.toml").devices) == ["this-machine"]
    with pytest.raises(ConfigError, match=r"plan\.toml exists already"):
        plans.init(new)


def test_init_overwrites_nothing_and_says_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("# mine")
    with pytest.raises(ConfigError, match=r"farm\.toml exists already"):
        plans.init(tmp_path)
    assert not (tmp_path / "plan.toml").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        plans.init(tmp_path / "file" / "folder")


def uncommented(text: str) -> Mapping[str, Any]:
    """The template with every commented line that is TOML put in force."""
    lines = [re.sub(r"^# (?=\[|\w+ = )", "", line) for line in text.splitlines()]
    return tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))


def test_every_commented_line_of_the_templates_is_right_too(folder: Path) -> None:
    for name in ("model.tflite", "evaluation.npz"):
        (folder / name).touch()
    plan = plans.from_mapping(uncommented(templates.TEMPLATE_PLAN), folder, "plan.toml")
    assert plan.models[0].source.shape == {"*": (1, 224, 224, 3)}
    catalog.check(recipes.parse("small", {"small": plan.text["recipe"]["small"]["steps"]}))
    assert (plan.dose, plan.accept) == (Dose(), Accept(max_accuracy_drop=0.02))
    found = farm.from_mapping(uncommented(templates.TEMPLATE_FARM), folder / "farm.toml")
    assert list(found.devices) == ["bench-pi", "this-machine"]

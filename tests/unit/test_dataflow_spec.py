"""Models in files: read, built, written and read again; and all that may be wrong with one."""

from __future__ import annotations

import copy
import datetime
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass.dataflow import export
from stbass.dataflow.builder import ProcessBuilder
from stbass.dataflow.library import SQLReader
from stbass.dataflow.local import LocalProcess
from stbass.dataflow.model.components import Component, IOController, make_again
from stbass.dataflow.model.connector import AsyncioConnector, ConnectorSpec, RedisConnector
from stbass.dataflow.model.resource import Resource
from stbass.dataflow.process import Process
from stbass.dataflow.spec.model import load, loads, parse
from stbass.dataflow.state import (
    DictStateBackend,
    PostgresStateBackend,
    RedisStateBackend,
    SqliteStateBackend,
    StateBackend,
)
from stbass.errors import SpecError
from tests.support.flow_models import Choosy, Collect, Colour, Counter, Pick, double

M = "tests.support.flow_models"

GOOD = f"""
stbass:
  process:
    args:
      name: good
      components:
      - type: {M}.Counter
        args: {{name: a, iters: 3}}
      - type: {M}.Collect
        args: {{name: b}}
      connectors:
      - source: a.out
        target: b.x
"""


def build(text: str) -> Process:
    return ProcessBuilder.build(loads(text))


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        build(text)
    assert caught.value.findings
    assert all(finding in str(caught.value) for finding in caught.value.findings)
    return caught.value.findings


def built(make: Callable[[], Process]) -> Process | SpecError:
    """The process, or the error that says what is wrong; anything else that is raised fails the test."""
    try:
        return make()
    except SpecError as error:
        return error


def check_outcome(outcome: Process | SpecError) -> None:
    if isinstance(outcome, SpecError):
        assert outcome.findings
        assert all(outcome.findings)


def dumped(process: Process, folder: Path) -> str:
    process.dump(folder / "model.yaml")
    return (folder / "model.yaml").read_text()


# Reading and building ----------------------------------------------------------------------------


async def test_a_model_is_built_and_runs() -> None:
    process = build(GOOD)
    assert type(process) is LocalProcess
    assert process.name == "good"
    async with process:
        await process.run()
    collect = process.components["b"]
    assert isinstance(collect, Collect)
    assert collect.total == 3


def test_a_model_can_be_data_too() -> None:
    data = yaml.safe_load(GOOD)
    for form in (data, data["stbass"], data["stbass"]["process"]):
        assert ProcessBuilder.build(form).export() == build(GOOD).export()


def test_connectors_are_what_the_builder_says_or_they_say_themselves() -> None:
    text = (
        GOOD.replace(
            "    args:\n      name: good",
            "    connector_builder: {type: stbass.dataflow.AsyncioConnector, args: {maxsize: 5, copy: false}}\n"
            "    args:\n      name: good",
        )
        .replace(
            "connectors:\n",
            "connectors:\n"
            "      - {source: a.out, target: c.x, type: stbass.dataflow.RedisConnector, args: {maxsize: 9}}\n",
        )
        .replace("connectors:", f"- {{type: {M}.Collect, args: {{name: c}}}}\n      connectors:")
    )
    one, other = sorted(build(text).connectors.values(), key=lambda connector: connector.id)
    assert (type(one), one.maxsize, one.copies) == (AsyncioConnector, 5, False)
    assert (type(other), other.maxsize) == (RedisConnector, 9)


def test_the_other_tools_files_load() -> None:
    text = f"""
plugboard:
  process:
    type: plugboard.process.LocalProcess
    connector_builder:
      type: plugboard.connector.AsyncioConnector
      args: {{parameters: {{}}, constraints: {{}}}}
    args:
      name: null
      parameters: {{}}
      state: {{type: plugboard.state.SqliteStateBackend, args: {{job_id: null, metadata: {{}}}}}}
      components:
      - type: {M}.Counter
        args: {{name: a, iters: 3, initial_values: {{}}, parameters: {{}}, constraints: {{}}, resources: null}}
      - type: {M}.Collect
        args: {{name: b, resources: {{cpu: 250m, memory: 10Mi}}}}
      connectors:
      - {{source: a.out, target: {{entity: b, descriptor: x}}, mode: pipeline}}
  tune: {{type: something, args: {{}}}}
"""
    process = build(text)
    assert type(process) is LocalProcess
    assert isinstance(process.state, SqliteStateBackend)
    assert process.components["b"].resources == Resource(cpu=0.25, memory=10 * 1024**2)
    assert [type(one) for one in process.connectors.values()] == [AsyncioConnector]


async def test_the_other_tools_readers_and_writers_are_ours(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x,y\n1,a\n2,b\n")
    nothing = "chunk_size: null, storage_options: null, resources: null"
    process = build(f"""
plugboard:
  process:
    args:
      components:
      - type: plugboard.library.FileReader
        args: {{name: load, path: "{tmp_path}/in.csv", field_names: [x, y], {nothing}}}
      - type: plugboard.library.FileWriter
        args: {{name: save, path: "{tmp_path}/out.csv", field_names: [y, x], {nothing}}}
      connectors:
      - {{source: load.x, target: save.x}}
      - {{source: load.y, target: save.y}}
""")
    async with process:
        await process.run()
    assert (tmp_path / "out.csv").read_text() == "y,x\na,1\nb,2\n"
    # Written, it is a model of ours.
    assert "type: stbass.dataflow.library.FileReader\n" in dumped(process, tmp_path)
    assert dumped(build(dumped(process, tmp_path)), tmp_path) == dumped(process, tmp_path)


def test_a_second_run_begins_with_what_was_given(tmp_path: Path) -> None:
    made = Choosy(Path("p"), words=["one"], name="c", iters=1)
    made.given[3].append("two")
    assert made.export()["args"]["words"] == ["one"]
    made.export()["args"]["words"].append("three")
    make_again(made)
    assert made.given[3] == ["one"]
    made.given[3].append("four")
    assert made.export()["args"]["words"] == ["one"]


def test_the_other_tools_names_that_have_no_counterpart() -> None:
    found = mistakes(
        GOOD.replace("stbass:", "plugboard:", 1)
        .replace(
            "    args:\n      name: good",
            "    connector_builder: {type: plugboard.connector.ZMQConnector}\n    args:\n      name: good",
        )
        .replace(f"{M}.Counter", "plugboard.library.LLMChat")
    )
    assert found[0].startswith(
        "process.args.components[0].type (line 8): plugboard.library.LLMChat is the other tool's",
    )
    assert "use stbass.dataflow.AsyncioConnector" in found[1]


def test_another_kind_of_process_than_the_file_says() -> None:
    text = GOOD.replace(
        "    args:\n      name: good",
        "    connector_builder: {type: stbass.dataflow.RayConnector, args: {maxsize: 3}}\n    args:\n      name: good",
    )
    process = ProcessBuilder.build(loads(text), kind="local")
    assert type(process) is LocalProcess
    assert [one.maxsize for one in process.connectors.values()] == [3]


# What is wrong with a file -----------------------------------------------------------------------


def test_all_findings_come_at_once_each_with_its_place_and_line() -> None:
    found = mistakes(f"""
stbass:
  process:
    tpye: stbass.dataflow.LocalProcess
    args:
      name: 7
      components:
      - type: {M}.Cuonter
        args: {{name: a, iters: 3}}
      - type: {M}.Collect
        args: {{name: b, paht: x}}
      - type: no_such_module.X
      - type: {M}.NUMBER
      - type: {M}.Colour
      - type: {M}.plain_function
      - type: {M}.Broken
        args: {{name: c}}
      - type: {M}.Counter
        args: {{name: d, iters: ten}}
      - type: {M}.Pick
        args: {{name: e}}
      - 5
      connectors:
      - {{source: a.out, target: b.x}}
      - {{source: a, target: b.x, mode: pipe}}
      - {{source: a.out, traget: b.x}}
      - {{source: e.cc, target: e.a}}
""")
    text = "\n".join(found)
    for part in (
        "process.tpye (line 4): unknown key (did you mean 'type'?)",
        "process.args.name (line 6): the name of a process is text, got 7",
        "process.args.components[0].type (line 8): there is no 'Cuonter' in tests.support.flow_models (did you mean "
        "'Counter'?)",
        "process.args.components[1].args.paht (line 11): tests.support.flow_models.Collect takes no such argument "
        "(did you mean 'path'?)",
        "process.args.components[2].type (line 12): there is no module 'no_such_module'",
        "process.args.components[3].type (line 13): tests.support.flow_models.NUMBER is no class",
        "process.args.components[4].type (line 14): tests.support.flow_models.Colour is not a component",
        "process.args.components[5].type (line 15): tests.support.flow_models.plain_function is no class; a function "
        "becomes a component by @component(",
        "process.args.components[6].args (line 17): tests.support.flow_models.Broken cannot be made: LookupError: "
        "there is no such thing",
        "process.args.components[7].args.iters (line 19): it must be int, got str 'ten'",
        "process.args.components[9] (line 22): it must be a mapping, got int 5",
        "process.args.connectors[1].source (line 25): 'a' is not of the form 'component.field'",
        "process.args.connectors[1].mode (line 25): there is no mode 'pipe'",
        "process.args.connectors[2].traget (line 26): unknown key (did you mean 'target'?)",
        "process.args.connectors[2].target (line 26): it is missing",
        "component 'e', input 'b': nothing is connected to it",
        "component 'e', output 'cc', connector 'e.cc..e.a': there is no such output (did you mean 'c'?)",
    ):
        assert part in text
    # What comes of other mistakes is not mentioned.
    assert len(found) == 17


def test_names_that_are_there_twice_are_findings_too() -> None:
    found = mistakes(GOOD.replace("name: b", "name: a").replace("name: good", "name: a good one"))
    assert found[0].startswith("process.args.name (line 5): 'a good one' is no name for a process")
    assert found[1].startswith("component 'a': there are 2 components of that name")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "the file: a model stands below 'stbass' or 'plugboard'; this is nothing"),
        ("[]", "the file: a model stands below 'stbass' or 'plugboard'; this is a list"),
        ("stbas: {}", "stbas (line 1): unknown key (did you mean 'stbass'?); a model stands below"),
        ("stbass:", "process (line 1): it is missing"),
        ("stbass: {process: }", "process (line 1): it is missing"),
        ("stbass: {process: 7}", "process (line 1): it must be a mapping, got int 7"),
        (
            "stbass: {process: {args: {components: {}}}}",
            "process.args.components (line 1): it must be a list, got a map",
        ),
        ("stbass: {process: {args: {}}}", "process.args.components (line 1): it is missing"),
        ("stbass: {process: {type: 3, args: {components: []}}}", "process.type (line 1): it must be text, got int 3"),
        ("stbass: {process: {args: {components: [], 5: 6}}}", "process.args.5 (line 1): a key must be text, got int 5"),
        ("a: [", "this is no YAML that can be read: while parsing"),
        ("a: 1\n---\nb: 2", "this is no YAML that can be read: expected a single document"),
        ("a: !!python/object:os.system {}", "this is no YAML that can be read: could not determine a constructor"),
        ("a: &x [*x]", "this is no YAML that can be read: a[0] contains itself"),
        ("[" * 500, "this is no YAML that can be read: "),
        ("[" * 200 + "]" * 200, "this is no YAML that can be read: it is nested too deeply"),
        ("a: 2020-99-99", "this is no YAML that can be read: a value in it is none"),
        ("a: 1\nb: 2\na: 3", "a (line 3): it stands there twice"),
        ("a: {b: 1, b: 2}", "a.b (line 1): it stands there twice"),
        ("\x00", "this is no YAML that can be read: "),
    ],
)
def test_files_that_are_no_models(text: str, finding: str) -> None:
    assert any(one.startswith(finding) for one in mistakes(text)), mistakes(text)


def test_a_file_that_refers_to_itself_a_thousand_million_times_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{index}: &a{index} [{', '.join([f'*a{index - 1}'] * 9)}]" for index in range(1, 10)]
    assert mistakes("\n".join(lines)) == ("this is no YAML that can be read: it is too large",)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"stbass: \xff\xfe")
    with pytest.raises(SpecError, match="no text in UTF-8"):
        load(tmp_path / "model.yaml")


def test_a_class_that_is_one_of_the_other_tools() -> None:
    other = type("Foreign", (), {"__module__": "plugboard.component"})
    sys.modules["a_foreign_model"] = module = type(sys)("a_foreign_model")
    module.X = type("X", (other,), {})  # type: ignore[attr-defined]
    try:
        found = mistakes(GOOD.replace(f"{M}.Counter", "a_foreign_model.X"))
    finally:
        del sys.modules["a_foreign_model"]
    assert found[0].endswith(
        "is not a component: it derives from the other tool's; let it derive from Component of stbass.dataflow"
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("1 / 0", "importing a_bad_model failed: ZeroDivisionError: division by zero"),
        (
            "import a_module_that_is_not_there",
            "importing a_bad_model failed: No module named 'a_module_that_is_not_there'",
        ),
        ("raise SystemExit(3)", "importing a_bad_model failed: SystemExit: 3"),
        ("def (", "importing a_bad_model failed: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_bad_model.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = mistakes(GOOD.replace(f"{M}.Counter", "a_bad_model.X"))
    assert problem in found[0]
    assert len(found) == 1


WORDS = ["stbass", "process", "args", "type", "components", "connectors", "source", "target", "mode", "name", "state"]
WORDS += ["connector_builder", "initial_values", "resources", "parameters", "iters", "a.out", "b.x", f"{M}.Counter"]
WORDS += [
    f"{M}.Collect",
    f"{M}.double",
    "stbass.dataflow.LocalProcess",
    "stbass.dataflow.RedisConnector",
    "",
    "..",
    "a",
]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(WORDS))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.integers()), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(anything)
def test_whatever_stands_in_a_file_is_a_model_or_a_spec_error(data: Any) -> None:
    text = yaml.safe_dump(data)
    for top in (text, yaml.safe_dump({"stbass": {"process": data}})):
        with pytest.raises(SpecError):
            build(top)
    with pytest.raises(SpecError):
        ProcessBuilder.build(parse(data))


@settings(max_examples=100, deadline=None)
@given(st.data(), anything)
def test_a_model_with_one_part_replaced_is_a_model_or_a_spec_error(data: st.DataObject, other: Any) -> None:
    # Given a good model in which any one part is replaced by anything, or left out,
    model = yaml.safe_load(GOOD)
    at: Any = model
    path: list[Any] = []
    while isinstance(at, dict | list) and at and (not path or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at))))))
        at = at[path[-1]]
    holder = model
    for step in path[:-1]:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[path[-1]] = other
    else:
        del holder[path[-1]]
    # when it is built, it is a process, or all that is wrong comes in one error.
    check_outcome(built(lambda: ProcessBuilder.build(model)))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.integers(0, len(GOOD)), st.integers(0, 20))
def test_a_file_that_is_garbled_is_a_model_or_a_spec_error(noise: str, at: int, gone: int) -> None:
    text = GOOD[:at] + noise + GOOD[at + gone :]
    check_outcome(built(lambda: build(text)))


# Writing -----------------------------------------------------------------------------------------


def a_process(**more: Any) -> LocalProcess:
    return LocalProcess(
        [
            Counter(
                3, name="a", parameters={"rate": 0.5, "on": True}, resources=Resource(cpu="250m", resources={"x": 1})
            ),
            double.component(name="d", initial_values={"x": (1, 2)}),
            Collect(name="b", path=Path("there") / "out.txt", constraints={"where": ["here"]}),
            Choosy(Path("p"), (1, 2), colour=Colour.BLUE, words=["no", "1", "null", "~", "é", ""], name="c", iters=1),
        ],
        [
            AsyncioConnector(ConnectorSpec("a.out", "d.x"), maxsize=3),
            AsyncioConnector(ConnectorSpec("d.y", "b.x"), maxsize=3, copy=False),
            RedisConnector(ConnectorSpec("c.out", "b.x", "pubsub")),
        ],
        name="all-of-it",
        **more,
    )


def test_dump_and_build_is_the_identity(tmp_path: Path) -> None:
    # Given a process with all that one can have,
    state = SqliteStateBackend(str(tmp_path / "jobs.db"), job_id="Job_abcdefgh", metadata={"who": "me"})
    process = a_process(parameters={"p": [1, {"q": None}]}, state=state)
    # when it is written, built, and written again,
    first = dumped(process, tmp_path)
    again = build(first)
    # then nothing has changed,
    assert dumped(again, tmp_path) == first
    assert again.export() == ProcessBuilder.build(again.export()).export()
    # and everything is what it was.
    assert [type(one) for one in again.components.values()] == [type(one) for one in process.components.values()]
    assert [(type(one), one.id, one.maxsize, one.copies) for one in again.connectors.values()] == [
        (type(one), one.id, one.maxsize, one.copies) for one in process.connectors.values()
    ]
    choosy, collect = again.components["c"], again.components["b"]
    assert isinstance(choosy, Choosy)
    assert isinstance(collect, Collect)
    assert choosy.given == (Path("p"), (1, 2), Colour.BLUE, ["no", "1", "null", "~", "é", ""], None)
    assert collect.path == Path("there/out.txt")
    assert again.components["d"].initial_values == {"x": [1, 2]}
    assert again.components["a"].resources == Resource(cpu=0.25, resources={"x": 1})
    assert again.components["a"].parameters == process.components["a"].parameters
    assert isinstance(again.state, SqliteStateBackend)
    assert (again.state.job_id, again.state.metadata) == ("Job_abcdefgh", {"who": "me"})


def test_the_file_says_what_connectors_are_once(tmp_path: Path) -> None:
    data = yaml.safe_load(dumped(a_process(), tmp_path))["stbass"]["process"]
    assert data["type"] == "stbass.dataflow.LocalProcess"
    assert data["connector_builder"] == {"type": "stbass.dataflow.AsyncioConnector", "args": {"maxsize": 3}}
    assert data["args"]["connectors"] == [
        {"source": "a.out", "target": "d.x", "mode": "pipeline"},
        {
            "source": "d.y",
            "target": "b.x",
            "mode": "pipeline",
            "type": "stbass.dataflow.AsyncioConnector",
            "args": {"maxsize": 3, "copy": False},
        },
        {"source": "c.out", "target": "b.x", "mode": "pubsub", "type": "stbass.dataflow.RedisConnector"},
    ]
    assert data["args"]["components"][1]["type"] == f"{M}.double"


def test_dump_makes_folders_and_refuses_other_names(tmp_path: Path) -> None:
    a_process().dump(tmp_path / "a" / "b" / "m.yml")
    assert (tmp_path / "a" / "b" / "m.yml").exists()
    for name in ("m.json", "m", "m.yaml.txt", "yaml"):
        with pytest.raises(ValueError, match=r"\.yaml"):
            a_process().dump(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_class_in_a_class_is_found(tmp_path: Path) -> None:
    from tests.support.flow_models import Abstract

    process = LocalProcess(
        [Abstract.Inner(1, name="a"), Collect(name="b")], [AsyncioConnector(ConnectorSpec("a.out", "b.x"))]
    )
    assert type(build(dumped(process, tmp_path)).components["a"]) is Abstract.Inner


def test_what_yaml_cannot_hold_is_refused_all_at_once_and_no_file_is_written(tmp_path: Path) -> None:
    class Local(Counter):
        pass

    loop: list[Any] = []
    loop.append(loop)
    process = LocalProcess(
        [
            Local(1, name="a"),
            Choosy(Path("p"), anything=object, iters=1, name="b"),
            Choosy(Path("p"), anything={"x": [1, (2, 3)]}, iters=1, name="c"),
            Choosy(Path("p"), anything=(1,), iters=1, name="d"),
            Choosy(Path("p"), anything=loop, iters=1, name="e"),
            Choosy(Path("p"), anything={(1, 2): 3}, iters=1, name="f"),
            Choosy(Path("p"), anything=Colour.RED, iters=1, name="g"),
            Choosy(Path("p"), anything=1j, iters=1, name="h"),
        ],
        [],
        name="p",
    )
    with pytest.raises(SpecError) as caught:
        process.dump(tmp_path / "m.yaml")
    assert not (tmp_path / "m.yaml").exists()
    args = "process.args.components[{}].args.anything"
    found = caught.value.findings
    assert len(found) == 8
    assert found[0].startswith("process.args.components[0].type: ")
    assert "is defined inside a function" in found[0]
    assert found[1] == f"{args.format(1)}: YAML cannot hold the class object"
    assert found[2] == f"{args.format(2)}['x'][1]: YAML cannot hold a tuple"
    assert found[3].startswith(
        f"{args.format(3)}: YAML cannot hold a tuple, which would come back as another: give a list"
    )
    assert found[4] == f"{args.format(4)}[0]: it contains itself"
    assert found[5] == f"{args.format(5)}: in YAML a key, or a member of a set, cannot be a tuple"
    assert found[6].endswith("annotate the parameter as Colour")
    assert found[7] == f"{args.format(7)}: YAML cannot hold 1j"


def test_arguments_are_those_that_were_given_then() -> None:
    words = ["one"]
    made = Choosy(Path("p"), words=words, name="c", iters=1)
    words.append("two")
    assert made.export()["args"]["words"] == ["one"]


def test_an_argument_without_a_name_cannot_be_exported() -> None:
    class Any_(Counter):
        def __init__(self, *parts: int, name: str) -> None:
            super().__init__(len(parts), name=name)

    with pytest.raises(TypeError, match="no name to give it by"):
        Any_(1, 2, name="a").export()


def test_a_component_is_copied_with_what_it_was_made_with() -> None:
    assert copy.copy(Counter(3, name="a")).export() == Counter(iters=3, name="a").export()


plain_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC)),
    st.sampled_from(
        ["y", "n", "on", "0x1F", "1:30", "1_000", "2020-01-01", "=", "<<", "!x", "&a", "*a", "- a", "\t", "\ud800"]
    ),
)
plain_values = st.recursive(
    plain_scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.booleans()), inner, max_size=4),
        st.sets(st.one_of(st.text(max_size=5), st.integers()), max_size=4),
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(plain_values)
def test_any_value_comes_back_as_it_was_or_is_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    process = LocalProcess([Choosy(Path("p"), anything=value, iters=1, name="c")], [], name="p")
    if isinstance(refused(process, folder), SpecError):
        assert not is_simple(value)
        return
    first = dumped(process, folder)
    again = build(first)
    assert dumped(again, folder) == first
    choosy = again.components["c"]
    assert isinstance(choosy, Choosy)
    assert same(choosy.given[-1], value)


def refused(process: Process, folder: Path) -> SpecError | None:
    try:
        process.dump(folder / "model.yaml")
    except SpecError as error:
        return error
    return None


def is_simple(value: Any) -> bool:
    """What YAML has always been able to hold."""
    if isinstance(value, dict):
        return all(type(key) is str and is_simple(key) and is_simple(one) for key, one in value.items())
    if isinstance(value, list):
        return all(is_simple(one) for one in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or type(value) in (bool, int)


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_any_network_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, seed: int, size: int) -> None:
    # Given a network of any shape, with connectors of any kind,
    pick = random.Random(seed)
    components: list[Component] = [
        pick.choice(
            [
                Counter(pick.randint(0, 9), name=f"n{index}"),
                Pick(name=f"n{index}", initial_values={"a": [pick.randint(0, 9)]}),
                double.component(name=f"n{index}", resources=Resource(cpu=pick.random())),
            ]
        )
        for index in range(size)
    ]
    connectors = {}
    for _ in range(size * 2):
        source, target = pick.choice(components), pick.choice(components)
        if source.io.outputs and target.io.inputs:
            spec = ConnectorSpec(
                f"{source.name}.{pick.choice(source.io.outputs)}",
                f"{target.name}.{pick.choice(target.io.inputs)}",
                pick.choice(["pipeline", "pubsub"]),
            )
            kind = pick.choice([AsyncioConnector, RedisConnector])
            connectors[spec.id] = kind(spec, maxsize=pick.choice([1, 64]))
    process = LocalProcess(components, connectors.values(), name="p", state=DictStateBackend())
    # when it is written and built,
    folder = tmp_path_factory.getbasetemp()
    first = dumped(process, folder)
    again = build(first)
    # then it is the same network.
    assert dumped(again, folder) == first
    assert again.export() == process.export()
    assert list(again.connectors) == list(process.connectors)


def test_class_paths_of_ours_are_the_public_ones() -> None:
    assert export.class_path(LocalProcess) == "stbass.dataflow.LocalProcess"
    assert export.class_path(IOController) == "stbass.dataflow.IOController"
    assert export.class_path(Counter) == f"{M}.Counter"


@pytest.mark.parametrize(
    "state",
    [
        lambda: RedisStateBackend("redis://:hunter2@127.0.0.1:1/0"),
        lambda: PostgresStateBackend("host=127.0.0.1 password=hunter2 user=u"),
        lambda: PostgresStateBackend("postgresql://u@127.0.0.1/d?password=hunter2"),
    ],
)
def test_no_password_is_written_and_one_that_is_missing_is_asked_for(
    state: Callable[[], StateBackend], tmp_path: Path
) -> None:
    # given a process whose state and whose reader have passwords
    reader = SQLReader(
        name="read",
        connection_string="mysql://u:hunter2@h/d",
        query="select 1 as x",
        field_names=["x"],
        connect_args={"password": "hunter2"},
    )
    kept = state()
    process = LocalProcess([reader], [], name="p", state=kept)
    # then neither is in what is written or stored
    text = dumped(process, tmp_path)
    for written in (text, json.dumps(process.export()), repr(process.dict()), repr(kept.dict()), repr(kept)):
        assert "hunter2" not in written
    # and who reads it is told what to put in
    with pytest.raises(SpecError) as raised:
        ProcessBuilder.build(loads(text))
    assert [finding.partition(": ")[2] for finding in raised.value.findings] == [
        "the password was left out when this was written: put it in, in place of ***"
    ] * 3

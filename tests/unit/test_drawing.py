"""Drawings of compositions, in each of the languages."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from stbass import PAR, PAR_FOR, PLACED_PAR, SEQ, Chan, Distributor, FailurePolicy, Placement
from stbass.cli.drawing import FORMATS, as_dot, as_mermaid, as_svg, as_text, drawn
from stbass.process import Process, ProcessContext

SVG = {"svg": "http://www.w3.org/2000/svg"}
HOSTILE = 'a "quoted" <b>&|`\\ \x1b[31m\ud83d\n🎉 ]; end ' + "x" * 10_000


@Process
async def fetch(ctx: ProcessContext, url: str) -> str:
    return url


@Process
async def analyse(ctx: ProcessContext) -> None: ...


@Process
async def report(ctx: ProcessContext) -> None: ...


NUMBERS = Chan(int, name="numbers")
TREE = SEQ(
    fetch("https://example.org"),
    PLACED_PAR(
        (analyse.with_channels(out=NUMBERS), Placement(model="opus", endpoint="anthropic", config={"key": "secret"})),
        report.with_channels(inp=NUMBERS).optional(),
        on_failure=FailurePolicy.COLLECT,
        deadline=30,
        limit=5,
    ),
    PAR_FOR(7, analyse),
    PAR_FOR(lambda: 7, lambda index, ctx: index),
).with_name("daily")


def test_text_is_a_tree_with_placements_settings_and_channels() -> None:
    assert as_text(drawn(TREE)).splitlines() == [
        "SEQ daily",
        "├─ 1. fetch",
        "├─ 2. PLACED_PAR (COLLECT, deadline 30 s, 5 at once)",
        "│     ├─ analyse (opus @ anthropic (key)) [out: numbers]",
        "│     └─ report (optional) [inp: numbers]",
        "├─ 3. PAR_FOR",
        "│     └─ analyse x 7",
        "└─ 4. PAR_FOR",
        "      └─ replica x as many as there are then",
    ]


def test_mermaid_has_subgraphs_arrows_of_order_and_dotted_channels() -> None:
    lines = as_mermaid(drawn(TREE)).splitlines()
    assert lines[0] == "flowchart LR"
    assert [line.strip() for line in lines if "-->" in line] == ["n1 --> n2", "n2 --> n5", "n5 --> n7"]
    assert '  n3 -. "numbers" .- n4' in lines
    assert sum("subgraph" in line for line in lines) == sum(line.strip() == "end" for line in lines) == 4


def test_dot_has_clusters_and_arrows_between_them() -> None:
    lines = [line.strip() for line in as_dot(drawn(TREE)).splitlines()]
    assert "n1 -> n3 [lhead=cluster2];" in lines
    assert 'n3 -> n4 [style=dashed, dir=none, constraint=false, label="numbers"];' in lines
    assert sum(line.endswith("{") for line in lines) == lines.count("}") == 5


def test_the_picture_has_a_box_for_each_with_its_parts_inside() -> None:
    root = drawn(TREE)
    picture = ElementTree.fromstring(as_svg(root))
    assert len(picture.findall(".//svg:rect", SVG)) == len(list(root.all())) == 9
    for one in root.all():
        for part in one.parts:
            assert one.left < part.left
            assert one.top < part.top
            assert part.left + part.width < one.left + one.width
            assert part.top + part.height < one.top + one.height
    titles = [found.text for found in picture.iterfind(".//svg:title", SVG)]
    assert "channel numbers" in titles
    assert "PLACED_PAR (COLLECT, deadline 30 s, 5 at once)" in titles


@pytest.mark.parametrize(
    ("sign", "em"), [("W", 1.1), ("m", 1.05), ("a", 0.68), ("宽", 1.0)], ids=["W", "m", "a", "wide"]
)
def test_no_text_in_the_picture_is_wider_than_its_box(sign: str, em: float) -> None:
    # given the width of these letters in DejaVu Sans Bold, of their size
    root = drawn(SEQ(analyse.with_name(sign * 59)))
    as_svg(root)
    assert root.parts[0].width > em * 59 * 12


def test_a_distributor_is_drawn_with_its_channels() -> None:
    shape = Distributor(NUMBERS, [Chan(int, name="a"), Chan(int, name="b")])
    assert as_text(drawn(PAR(analyse.with_channels(out=NUMBERS), shape))).splitlines() == [
        "PAR",
        "├─ analyse [out: numbers]",
        "└─ Distributor [source: numbers, targets[0]: a, targets[1]: b]",
    ]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_no_name_breaks_a_drawing_and_no_secret_shows(form: str) -> None:
    channel = Chan(int, name=HOSTILE)
    where = Placement(endpoint=HOSTILE, config={"key": "hunter2"})
    process = analyse.with_name(HOSTILE).with_channels(out=channel)
    text = FORMATS[form](drawn(PLACED_PAR((process, where), process).with_name(HOSTILE)))
    text.encode()
    assert "\x1b" not in text
    assert "hunter2" not in text
    assert len(text) < 10_000
    if form == "svg":
        ElementTree.fromstring(text)
    if form == "mermaid":
        assert "<b>" not in text


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_of_very_many_the_first_are_drawn_and_the_rest_is_counted(form: str) -> None:
    wide = PAR(*[analyse] * 10_000)
    text = FORMATS[form](drawn(PAR(*[wide] * 40)))
    assert "9,970 more" in text
    assert "10 more" in text
    assert len(text) < 1_000_000


def test_a_process_alone() -> None:
    assert as_text(drawn(analyse)) == "analyse\n"
    assert '["analyse"]' in as_mermaid(drawn(analyse))


def test_as_json_it_is_data_in_which_the_ends_of_a_channel_have_one_number() -> None:
    data = json.loads(FORMATS["json"](drawn(TREE)))
    assert (data["title"], data["in_order"]) == ("SEQ daily", True)
    placed = data["parts"][1]
    assert [part.get("channels") for part in placed["parts"]] == [{"out": 0}, {"inp": 0}]
    assert "secret" not in str(data)
    assert json.loads(FORMATS["json"](drawn(fetch("x").with_name(HOSTILE))))["notes"] == []

"""What a component needs of a machine: quantities as numbers and as text."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbass.dataflow.model.resource import Resource


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("250m", 0.25),
        ("1", 1),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2k", 2000),
        ("10Mi", 10 * 1024**2),
        ("1.5Gi", 3 * 512 * 1024**2),
        ("3G", 3 * 10**9),
        ("500u", 0.0005),
        (" 7 ", 7),
    ],
)
def test_a_quantity_may_be_text(text: str, number: float) -> None:
    need = Resource(cpu=text, gpu=text, memory=text, resources={"licence": text})
    assert (need.cpu, need.gpu, need.resources["licence"]) == (number, number, number)
    assert need.memory == math.ceil(number)


def test_a_part_of_a_byte_is_a_whole_one() -> None:
    assert Resource(memory=0.1).memory == 1
    assert Resource(memory="1500m").memory == 2


@pytest.mark.parametrize(
    "wrong", ["", "m", "1 0", "1Zi", "-1", "1e3", "0x10", "1.2.3", "\u0661", "1mi", -1, math.nan, math.inf, -0.5]
)
def test_a_quantity_that_is_none_is_refused_with_its_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"Resource\.cpu"):
        Resource(cpu=wrong)
    with pytest.raises(ValueError, match=r"Resource\.memory"):
        Resource(memory=wrong)
    with pytest.raises(ValueError, match=r"Resource\.resources\['licence'\]"):
        Resource(resources={"licence": wrong})


@pytest.mark.parametrize("wrong", [None, True, [1], b"1"])
def test_a_quantity_of_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Resource\.gpu must be a number"):
        Resource(gpu=wrong)


@pytest.mark.parametrize("wrong", [["licence"], {1: 2}, {"": 1}, "licence"])
def test_further_quantities_have_names(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Resource\.resources"):
        Resource(resources=wrong)


def test_the_options_for_ray_leave_out_what_ray_would_take_for_a_mistake() -> None:
    assert Resource().to_ray_options() == {"num_cpus": 0, "num_gpus": 0}
    assert Resource(cpu="250m", gpu=1, memory="10Mi", resources={"a": 2, "b": 0}).to_ray_options() == {
        "num_cpus": 0.25,
        "num_gpus": 1,
        "memory": 10485760,
        "resources": {"a": 2},
    }


@given(
    number=st.fractions(min_value=0, max_value=10**9, max_denominator=1000).filter(
        lambda one: (one * 1000).denominator == 1
    ),
    suffix=st.sampled_from(["", "m", "k", "M", "Ki", "Mi"]),
)
def test_text_is_as_exact_as_a_number_can_be(number: Fraction, suffix: str) -> None:
    times = {"": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(1000), "M": Fraction(10**6)}.get(
        suffix, Fraction(1024 if suffix == "Ki" else 1024**2)
    )
    text = f"{int(number * 1000) / 1000:.3f}"
    assert Resource(cpu=f"{text}{suffix}").cpu == pytest.approx(float(number * times), rel=1e-12)


@given(
    st.floats(min_value=0, allow_nan=False, allow_infinity=False, max_value=1e15),
    st.integers(min_value=0, max_value=2**60),
    st.dictionaries(st.text(min_size=1), st.integers(min_value=1, max_value=1000)),
)
def test_as_data_it_makes_itself_again(cpu: float, memory: int, resources: dict[str, float]) -> None:
    need = Resource(cpu=cpu, memory=memory, resources=resources)
    again = Resource(**need.dict())
    assert again == need
    assert hash(again) == hash(need)

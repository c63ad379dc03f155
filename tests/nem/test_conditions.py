"""The names of the noise conditions."""

from typing import get_args

import pytest

from nem.conditions import BEYOND, CONDITIONS, Condition, Kind
from pipeline.evaluation import style


def test_there_are_thirteen_conditions_in_the_papers_order():
    assert len(CONDITIONS) == 13
    assert CONDITIONS[0] == "none"
    assert CONDITIONS[1:4] == ("blind-additive-output", "blind-additive-hidden", "blind-additive-both")
    assert CONDITIONS[-1] == "nem-multiplicative-both"
    assert not set(BEYOND) & set(CONDITIONS)
    assert len(BEYOND) == 6 * len(("matched", "expected-nem", "reversed-nem", "expected-reversed-nem"))
    assert all(set(look) == set(get_args(Kind)) for look in (style.COLOURS, style.LINES, style.LABELS))
    for name in CONDITIONS + BEYOND:
        condition = Condition.parse(name)
        assert condition.name == name
        assert condition.in_output == name.endswith(("output", "both"))
        assert condition.in_hidden == name.endswith(("hidden", "both"))


def test_a_wrong_name_or_axis_is_an_error():
    with pytest.raises(ValueError, match="did you mean 'nem-additive-both'"):
        Condition.parse("nem-aditive-both")
    for axes in (("nem",), ("none", "additive")):
        with pytest.raises(ValueError, match="expected mode and place"):
            Condition(*axes)

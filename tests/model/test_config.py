"""The detector's configuration as plain data."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from towers import TOY_TOWER

from aaclip_med.errors import InputError
from aaclip_med.model.config import (
    FIDELITIES,
    ActivationName,
    DetectorConfig,
    Fidelity,
    StageOneLevels,
    ValueAttention,
)

fidelities = st.builds(
    Fidelity.named,
    st.sampled_from(sorted(FIDELITIES)),
    st.sampled_from([None, *get_args(ActivationName)]),
    st.sampled_from([None, *get_args(StageOneLevels)]),
    st.sampled_from([None, *get_args(ValueAttention)]),
)
counts = st.none() | st.integers(0, 24)
configs = st.builds(
    DetectorConfig,
    backbone=st.sampled_from(["tiny", "ViT-L-14-336", TOY_TOWER]),
    weights=st.text(),
    image_size=st.integers(1, 2000),
    fidelity=fidelities,
    levels=st.none() | st.lists(st.integers(1, 48), min_size=1).map(tuple),
    text_adapters=counts,
    image_adapters=counts,
    text_mix=st.floats(0, 1),
    image_mix=st.floats(0, 1),
    projection_relu=st.booleans(),
    normal_states=st.lists(st.text()).map(tuple),
    abnormal_states=st.lists(st.text()).map(tuple),
)


@given(configs)
def test_a_configuration_comes_back_from_json_the_same(config):
    assert DetectorConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_reference_is_the_default_and_names_the_released_programs_ways():
    assert DetectorConfig().fidelity == Fidelity("reference", "gelu", "last", "across_batch")


def test_paper_names_the_papers_ways():
    assert Fidelity.named("paper") == Fidelity("paper", "as_trained", "all", "across_positions")


def test_an_option_replaces_itself_alone():
    assert Fidelity.named("paper", stage_one_levels="last") == Fidelity("paper", "as_trained", "last", "across_positions")


def test_an_unknown_fidelity_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown fidelity 'exact'; choose one of reference, paper"):
        Fidelity.named("exact")


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 1},
        {"fidelity": {"name": "exact"}},
        {"fidelity": {"named": "paper"}},
        {"fidelity": None},
        {"levels": 3},
        {"fidelity": {"name": "paper", "activation": "relu"}},
    ],
)
def test_a_wrong_key_or_form_is_refused(change):
    with pytest.raises(InputError):
        DetectorConfig.from_json({**DetectorConfig().to_json(), **change})


@pytest.mark.parametrize("key", ["fidelity", "levels", "normal_states", "abnormal_states"])
def test_a_missing_key_is_refused_by_name(key):
    values = DetectorConfig().to_json()
    del values[key]
    with pytest.raises(InputError, match=key):
        DetectorConfig.from_json(values)

"""What the HTTP API says of itself is true, and what clients may ask for can name nothing outside the program."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from conservator.apps.http.answers import (
    JOB_ANSWER,
    ErrorAnswer,
    ExaminationAnswer,
    HealthAnswer,
    OutcomeAnswer,
    PlanAnswer,
    PlanInJson,
    SeenAnswer,
)
from conservator.apps.http.app import Api, make_app
from conservator.apps.http.wanted import WANTED, Offers, read_wanted
from conservator.errors import ConservatorError
from conservator.request import Request


def test_the_description_has_every_field_of_a_request_and_examples_that_are_true() -> None:
    described = make_app(Api(), token=True).openapi()
    wanted = described["components"]["schemas"]["RestorationRequest"]["properties"]
    assert set(wanted) == {field.name for field in fields(Request)} - {"device", "max_pixels", "chat", "thresholds"}
    assert all(words["description"] for words in wanted.values())
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            assert ("security" in operation) == ("401" in operation["responses"]) == (path != "/healthz"), (
                method,
                path,
            )
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(described["components"]["schemas"])
    for model in (
        JOB_ANSWER,
        ErrorAnswer,
        ExaminationAnswer,
        HealthAnswer,
        OutcomeAnswer,
        PlanAnswer,
        PlanInJson,
        SeenAnswer,
    ):
        schema = described["components"]["schemas"][model.__name__]
        for example in schema["examples"]:
            model.model_validate_json(json.dumps(example))


def test_no_field_of_a_request_can_name_a_file_a_module_or_an_address() -> None:
    offers = Offers(policies=["greedy"], toolboxes={"classical": []}, tools={}, suffixes=[], formats=[])
    here = str(Path(__file__))
    hostile: dict[str, list[Any]] = {
        "policy": ["os:system", "dqn:" + here, "mllm:/", "chat", "oracle", "search:0", "search:1\n", "search:123456"],
        "toolbox": ["rl-restore:" + here, "classical+" + here, "", "user"],
        "perception": [here, "lway"],
        "device": ["cuda"],
        "chat": [{"endpoint": "http://169.254.169.254/"}],
        "thresholds": [here],
        "max_pixels": [10**12],
        "strength": ["1", float("nan"), 2],
        "never": ["haze", ["hazy"]],
        "upscale": [1, "yes"],
    }
    for name, values in hostile.items():
        for value in values:
            with pytest.raises(ConservatorError) as error:
                read_wanted(json.dumps({"toolbox": "classical", name: value}), offers)
            assert "\n" not in str(error.value)
    assert read_wanted('{"toolbox": "classical", "policy": "search:24"}', offers)["policy"] == "search:24"
    texts = {field.name for field in fields(Request) if field.type == "str" and field.name in WANTED.model_fields}
    assert texts <= {"policy", "toolbox", "perception"}, "whatever else is text needs a list of names in wanted.py"

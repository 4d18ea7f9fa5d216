"""The manifest for KServe, held to the models of KServe's own SDK."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serve_config.deploy.test_kubernetes import FOLDER, assemble, one


@pytest.fixture
def kserve_models(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Gives a class of KServe's SDK. The SDK itself is not imported: it would want a server's packages."""
    spec = importlib.util.find_spec("kserve")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    for name, path in (("kserve", folder), ("kserve.models", folder / "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)

    def model(name: str) -> Any:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        return getattr(importlib.import_module(f"kserve.models.{snake}"), name)

    return model


def test_kserve_takes_it(kserve_models: Callable[[str], Any]) -> None:
    service = one(assemble(FOLDER / "kserve"), "InferenceService")
    levels = {
        "V1beta1InferenceService": service,
        "V1beta1InferenceServiceSpec": service["spec"],
        "V1beta1PredictorSpec": service["spec"]["predictor"],
    }
    for name, document in levels.items():
        model = kserve_models(name)
        attributes = {key: attribute for attribute, key in model.attribute_map.items()}
        built = model(
            **{attributes[key]: value for key, value in document.items()}
        )  # refuses what it must have
        assert {k for k, v in built.to_dict().items() if v is not None} == {
            attributes[key] for key in document
        }

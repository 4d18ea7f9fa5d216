"""What a swap does where TorchServe has to be imagined."""

from unittest.mock import Mock

import pytest

from serve_config.models import swap
from serve_config.models.management import Version


def test_a_version_whose_workers_are_dead_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Version("old", "old.mar", [{"id": "9000", "status": "UNLOADED", "pid": -1}], 1, 0, 32)
    monkeypatch.setattr(swap, "find_version", lambda client, name: dead)
    client = Mock()
    swap.drain(client, "old", 5)
    client.json.assert_not_called()

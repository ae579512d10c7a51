"""The small repository of the harness's tests."""

from tests.harness.conftest import prototype, repo  # noqa: F401 - fixtures

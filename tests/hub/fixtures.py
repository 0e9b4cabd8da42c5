"""Fixtures to import into a conftest or a test module: `from tests.hub.fixtures import hub`."""

from collections.abc import Iterator

import pytest

from tests.hub.server import HubServer


@pytest.fixture(name="hub")
def hub_fixture() -> Iterator[HubServer]:
    """A running Hub without repositories, stopped at the test's end."""
    with HubServer() as server:
        yield server


#: The fixture under the name that tests import.
hub = hub_fixture

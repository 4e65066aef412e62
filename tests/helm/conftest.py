import live
import pytest


@pytest.fixture(scope="session")
def relay(tmp_path_factory):
    """A running relay that has had some traffic."""
    with live.relay(tmp_path_factory.mktemp("relay")) as running:
        running.traffic()
        yield running

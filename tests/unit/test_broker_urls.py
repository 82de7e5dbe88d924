"""Celery's ways to spell a Redis broker, as the middleware's own client reads them."""

from __future__ import annotations

import ssl

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.delivery.broker import client_url, is_redis
from resilience.shared_redis import connect


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://h:1;redis://h:2", "redis://h:1"),
        (["redis://h:1/3", "redis://h:2/3"], "redis://h:1/3"),
        ("rediss://h:1/0?ssl_cert_reqs=CERT_NONE", "rediss://h:1/0?ssl_cert_reqs=none"),
        ("rediss://h:1/0?ssl_cert_reqs=required", "rediss://h:1/0?ssl_cert_reqs=required"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
    ],
)
def test_every_spelling_gives_a_client(given: object, read: str) -> None:
    assert is_redis(given)
    assert client_url(given) == read
    redis.Redis.from_url(client_url(given)).close()


@pytest.mark.parametrize(
    ("given", "options", "read"),
    [
        ("redis://h:1/0", {"ssl_cert_reqs": ssl.CERT_NONE}, "rediss://h:1/0?ssl_cert_reqs=none"),
        ("rediss://h:1/0", {"ssl_cert_reqs": "required", "ssl_keyfile": None}, "rediss://h:1/0?ssl_cert_reqs=required"),
        ("redis://h:1/0", {}, "rediss://h:1/0"),
        ("redis://h:1/0", None, "redis://h:1/0"),
    ],
)
def test_tls_of_the_settings_is_tls_of_the_client(given: str, options: object, read: str) -> None:
    assert client_url(given, options) == read
    redis.Redis.from_url(client_url(given, options)).close()


class Known(redis.CredentialProvider):
    """Knows user and password."""

    def get_credentials(self) -> tuple[str, str]:
        return "ann", "secret"


def test_a_credential_provider_of_the_url_is_asked() -> None:
    with connect(f"redis://h:1/2?credential_provider={Known.__module__}.Known", timeout_s=1.0) as client:
        options = client.connection_pool.connection_kwargs
    assert options["credential_provider"].get_credentials() == ("ann", "secret")
    assert options["db"] == 2


@pytest.mark.parametrize("given", ["amqp://h//", "memory://", "", None, [], "rpc://"])
def test_what_is_no_redis_is_none(given: object) -> None:
    assert not is_redis(given)
    assert client_url(given) == ""


def test_sentinel_delivers_but_keeps_no_circuits_yet() -> None:
    assert is_redis("sentinel://h:26379")
    assert client_url("sentinel://h:26379") == ""


def test_an_app_that_is_finalized_already_is_installed_whole() -> None:
    app = Celery("late", broker="memory://", set_as_current=False)

    @app.task(name="late.work")
    def work() -> int:
        return 1

    app.finalize()
    resilience = Resilience(app)
    assert Resilience(app) is resilience
    assert "resilience.health_check" in app.tasks
    assert hasattr(app.tasks["late.work"], "circuit"), "its task has our options"

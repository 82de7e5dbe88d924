"""Somebody's project that reports to Sentry as its docs say, secrets and all, and is resilient by two lines."""

import json
import logging
import os

import sentry_sdk
from celery import Celery
from celery.signals import worker_process_init

from resilience import Resilience

REDIS = os.environ["SHOP_REDIS"]
PLANTED = json.loads(os.environ.get("PLANTED", "{}"))
app = Celery("watched", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)
app.conf.update(resilience_circuits={"payments": {"open_s": 60.0}})
logger = logging.getLogger("watched")


def before_send(event, hint):
    """The project's own hook: it tags each event, and adds a secret of its own."""
    event.setdefault("tags", {})["team"] = "payments"
    if "own_hook" in PLANTED:
        event.setdefault("extra", {})["settings"] = f"password={PLANTED['own_hook']}"
    return event


def begin(**_):
    """Everything on that may carry a secret."""
    sentry_sdk.init(
        dsn=os.environ["DSN"],
        before_send=before_send,
        send_default_pii=True,
        traces_sample_rate=1.0,
        enable_logs=True,
    )


worker_process_init.connect(begin)
begin()


@app.task(circuit="payments", max_retries=0)
def charge(order_id):
    raise ConnectionResetError(f"connection reset by peer at order {order_id}")


@app.task(bind=True, circuit="patient")
def flaky(self, failures):
    """Fail `failures` times with a lost connection, then answer with the number of the attempt."""
    if self.request.retries < failures:
        raise ConnectionResetError("connection reset by peer")
    return self.request.retries + 1


class Client:
    def __init__(self, password):
        self.password = password

    def __repr__(self):
        return f"Client(user='ann', password='{self.password}')"


def exception_message(secret):
    raise ValueError(f"the service refused the key {secret}")


def password_in_url(secret):
    raise ValueError(f"no answer from postgresql://ann:{secret}@db.example/shop")


def cause_of_the_exception(secret):
    raise ValueError("could not pay") from OSError(f"401 for Authorization: Bearer {secret}")


def headers_in_a_local_variable(secret):
    headers = {"Accept": "*/*", "X-Api-Key": secret}
    raise ValueError(f"{len(headers)} headers")


def bearer_in_a_local_variable(secret):
    sent = f"GET /v1 HTTP/1.1\r\nAuthorization: Bearer {secret}\r\n"
    raise ValueError(f"{len(sent)} bytes sent")


def nested_local_variable(secret):
    config = {"db": {"host": "db.example", "password": secret}}
    raise ValueError(f"{len(config)} databases")


def local_variable_by_its_name(secret):
    db_password = secret
    raise ValueError(f"{len(db_password)} letters")


def private_key(secret):
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY-----"
    raise ValueError(f"{len(pem)} letters")


def request(secret):
    """As a web framework's integration adds it: on the isolation scope, which comes after the global one."""

    def add_request(event, hint):
        event["request"] = {
            "url": f"https://ann:{secret}@shop.example/pay",
            "query_string": f"api_key={secret}&page=2",
            "headers": {"X-Api-Key": secret, "Accept": "*/*"},
            "cookies": {"sid": secret},
        }
        return event

    sentry_sdk.get_isolation_scope().add_event_processor(add_request)
    raise ValueError("no such page")


def breadcrumb(secret):
    logger.info("calling with api_key=%s", secret)
    raise ValueError("no answer")


def log_parameter(secret):
    logger.error("refused: password=%s", secret)


def captured_message(secret):
    sentry_sdk.capture_message(f"refresh_token={secret}")


def scope(secret):
    sentry_sdk.set_tag("key", f"api_key={secret}")
    sentry_sdk.set_context("database", {"dsn": f"mysql://ann:{secret}@db/shop"})
    raise ValueError("no answer")


def object_on_the_scope(secret):
    sentry_sdk.set_context("client", {"client": Client(secret)})
    raise ValueError("no answer")


def span(secret):
    with sentry_sdk.start_span(op="http.client", name=f"GET https://api.example/v1?api_key={secret}") as span:
        span.set_data("http.headers", {"X-Api-Key": secret})


def published_argument(secret):
    """Sentry traces the Redis command that publishes it, message and all."""
    log_in.delay("ann", secret)


def source_line(secret):
    token = "opaque-source-literal"
    raise ValueError(f"{len(token)} letters")


PLACES = {
    place.__name__: place
    for place in (
        exception_message,
        password_in_url,
        cause_of_the_exception,
        headers_in_a_local_variable,
        bearer_in_a_local_variable,
        nested_local_variable,
        local_variable_by_its_name,
        private_key,
        request,
        breadcrumb,
        log_parameter,
        captured_message,
        scope,
        object_on_the_scope,
        span,
        published_argument,
        source_line,
    )
}


@app.task(circuit=False)
def leak(place):
    """Use the secret that is planted for `place` there."""
    PLACES[place](PLANTED[place])


@app.task(circuit=False)
def log_in(user, password):
    raise ValueError(f"{user} is unknown")

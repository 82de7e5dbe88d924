"""What an exception of a database driver says: SQLSTATE, MySQL's and MongoDB's numbers, and a few drivers' words.

Drivers are recognised by their names, never imported; SQLAlchemy, Django and peewee hand on what the driver said. What
no rule knows is a mistake in the statement or the data, so that a row which quotes `timed out` is no timeout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from resilience.errors.inspection import Look, is_a, part
from resilience.errors.taxonomy import ErrorCategory

_C = ErrorCategory

_POSTGRES = frozenset({"psycopg", "psycopg2"})
_MYSQL = frozenset({"pymysql", "MySQLdb", "_mysql_exceptions"})
_WRAPPERS = frozenset({"sqlalchemy", "django", "peewee"})
_DRIVERS = _POSTGRES | _MYSQL | _WRAPPERS | {"asyncpg", "mysql", "pg8000", "pyodbc", "sqlite3"}
FAMILIES = _DRIVERS | {"pymongo"}
"""Top-level modules whose exceptions are looked at here."""
_BASES = frozenset({"Error", "DBAPIError", "PostgresError", "InterfaceError", "InternalClientError", "PeeweeException"})
_MAY_BE_THE_SERVER = frozenset({"OperationalError", "InterfaceError", "DatabaseError", "InternalClientError"})
_WRAPPED_LIMIT = 4


def by_database(error: BaseException, look: Look) -> ErrorCategory | None:
    names = look.lineage(error)
    if ("pymongo", "OperationFailure") in names:
        return _by_mongo_code(look.at(error, "code"))
    if not any(module in _DRIVERS and name in _BASES for module, name in names):
        return None
    if look.at(error, "connection_invalidated") is True:  # SQLAlchemy threw the connection away
        return _C.CONNECTION
    for said_by in _speakers(error, look):
        found = _by_number(said_by, look) or _by_sqlstate(said_by, look)
        if found is not None:
            return found
        found = _by_words(said_by, look)
        if found is not None and found is not _C.PYTHON:
            return found
    return _C.PYTHON


def _speakers(error: BaseException, look: Look) -> Iterator[BaseException]:
    """What the driver raised, the innermost first: its words are plain, a wrapper's may quote statement and values."""
    chain = [error]
    while len(chain) < _WRAPPED_LIMIT:
        inner = _wrapped_by(chain[-1], look)
        if inner is None or any(inner is known for known in chain):
            break
        chain.append(inner)
    yield from reversed(chain)


def _wrapped_by(error: BaseException, look: Look) -> BaseException | None:
    if not any(module in _WRAPPERS for module, _ in look.lineage(error)):
        return None
    candidates = (look.at(error, "orig"), look.at(error, "__cause__"), _first_argument(error, look))
    return next((each for each in candidates if is_a(each, BaseException)), None)


def _first_argument(error: BaseException, look: Look) -> Any:
    arguments = look.at(error, "args")
    return arguments[0] if type(arguments) is tuple and arguments else None


# -- SQLSTATE: PostgreSQL's appendix A, ODBC, and what MySQL's own connector reports ---------------------------------

_STATES: dict[str, ErrorCategory] = {
    "08P01": _C.COMMUNICATION,
    "25P03": _C.CONNECTION,  # the session waited too long inside a transaction and was ended
    "40001": _C.COMMUNICATION,  # serialization failure and
    "40P01": _C.COMMUNICATION,  # deadlock: to be tried again almost at once
    "42501": _C.AUTH,
    "55P03": _C.TIMEOUT,  # a lock was not to be had in time
    "57014": _C.TIMEOUT,
    "57P01": _C.CONNECTION,
    "57P02": _C.CONNECTION,
    "57P03": _C.CONNECTION,
    "57P05": _C.CONNECTION,
    "3D000": _C.NOT_FOUND,
    "58030": _C.SERVER,
    "HYT00": _C.TIMEOUT,
    "HYT01": _C.TIMEOUT,
}
_STATE_CLASSES = {"08": _C.CONNECTION, "28": _C.AUTH, "53": _C.RESOURCE, "XX": _C.SERVER}
_NO_STATE = frozenset({"00000", "HY000"})


def _by_sqlstate(error: BaseException, look: Look) -> ErrorCategory | None:
    """What the code means; a code that no rule knows is one of a wrong statement or of refused data."""
    first = _first_argument(error, look)
    for code in (look.at(error, "sqlstate"), look.at(error, "pgcode"), part(first, "C"), first):
        if isinstance(code, str) and re.fullmatch(r"[0-9A-Z]{5}", code) and code not in _NO_STATE:
            return _STATES.get(code) or _STATE_CLASSES.get(code[:2], _C.PYTHON)
    return None


# -- MySQL, MariaDB and MongoDB: numbers ------------------------------------------------------------------------------

_MYSQL_NUMBERS: dict[int, ErrorCategory] = {
    1040: _C.RESOURCE,  # too many connections, for all and
    1203: _C.RESOURCE,  # for this user
    1044: _C.AUTH,
    1045: _C.AUTH,
    1142: _C.AUTH,
    1049: _C.NOT_FOUND,
    1053: _C.CONNECTION,
    1205: _C.TIMEOUT,
    1213: _C.COMMUNICATION,  # deadlock
    1969: _C.TIMEOUT,
    3024: _C.TIMEOUT,
    2002: _C.CONNECTION,
    2003: _C.CONNECTION,
    2005: _C.CONNECTION,
    2006: _C.CONNECTION,
    2013: _C.CONNECTION,
    2014: _C.PYTHON,  # commands out of order: two threads on one connection
    2055: _C.CONNECTION,
    4031: _C.CONNECTION,
}


def _by_number(error: BaseException, look: Look) -> ErrorCategory | None:
    families = {module for module, _ in look.lineage(error)}
    number = look.at(error, "errno") if "mysql" in families else _first_argument(error, look)
    if type(number) is not int or not families & (_MYSQL | _WRAPPERS | {"mysql"}):
        return None
    if number == 0 and families & _MYSQL:
        return _C.CONNECTION  # InterfaceError(0, ""): how these drivers say that the connection was closed
    return _MYSQL_NUMBERS.get(number, _C.PYTHON)


def _by_mongo_code(code: Any) -> ErrorCategory:
    known = {13: _C.AUTH, 18: _C.AUTH, 50: _C.TIMEOUT, 91: _C.CONNECTION, 112: _C.COMMUNICATION, 189: _C.CONNECTION}
    return known.get(code, _C.PYTHON) if isinstance(code, int) else _C.PYTHON


# -- words, for what comes without a code: mostly that no connection could be made, or that one was lost -------------

_PATTERNS: tuple[tuple[re.Pattern[str], ErrorCategory], ...] = (
    (re.compile(r"authentication failed|no pg_hba\.conf entry|role \S+ does not exist|not permitted to log"), _C.AUTH),
    (re.compile(r"too many (?:clients|connections)|remaining connection slots|disk is full"), _C.RESOURCE),
    (re.compile(r"database \S+ does not exist"), _C.NOT_FOUND),
    (re.compile(r"timeout expired|timed? ?out|timeout error|is locked"), _C.TIMEOUT),
    (
        re.compile(
            r"closed the connection|could not connect|connection to server .{0,200} failed|connection failed"
            r"|connection (?:\w+ ){0,2}(?:closed|lost|refused|reset|aborted|bad)|lost connection|gone away"
            r"|cursor already closed|can't connect|terminating connection|could not (?:receive data|translate host)"
            r"|starting up|shutting down"
        ),
        _C.CONNECTION,
    ),
)
_WORDS_LIMIT = 2_000


def _by_words(error: BaseException, look: Look) -> ErrorCategory | None:
    """Only from an error that may come of the server's state: one about data may quote anything."""
    names = look.lineage(error)
    if not names or names[0][1] not in _MAY_BE_THE_SERVER:
        return _C.PYTHON
    first = _first_argument(error, look)
    text = first if type(first) is str else look.text(error)  # SQLAlchemy's `str` shows the statement too
    text = text[:_WORDS_LIMIT].lower()
    found = next((category for pattern, category in _PATTERNS if pattern.search(text)), None)
    if found is None and names[0][1] == "OperationalError" and names[0][0] in _POSTGRES:
        return _C.CONNECTION  # without a code it was no answer of the server
    return found

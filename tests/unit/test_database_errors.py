"""What database drivers raise: their connections, locks and passwords are told from wrong statements and refused data.

The drivers are not installed here: their classes are built with their names, their messages and codes are real ones.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from resilience.errors import ErrorCategory, classify

C = ErrorCategory

_UNIQUE = "duplicate key value violates unique constraint\nDETAIL:  Key (name)=(timed out, connection refused) exists."


def _class(module: str, *names: str) -> type[Exception]:
    """A class with its bases, the most general name first, all of one module."""
    cls: type[Exception] = Exception
    for name in names:
        cls = type(name, (cls,), {"__module__": module})
    return cls


def _raised(module: str, name: str, *args: Any, **attributes: Any) -> Exception:
    """`name` of a DB-API module: a subclass of its Error and, but for InterfaceError, of its DatabaseError."""
    between = () if name in ("InterfaceError", "DatabaseError") else ("DatabaseError",)
    error = _class(module, "Error", *between, name)(*args)
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


def category(error: BaseException) -> ErrorCategory:
    return classify(error).category


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("server closed the connection unexpectedly\n\tThis probably means the server terminated", C.CONNECTION),
        ("could not connect to server: Connection refused", C.CONNECTION),
        ('connection to server at "10.0.0.9", port 5432 failed: Connection refused', C.CONNECTION),
        ("the connection is lost", C.CONNECTION),
        ("SSL SYSCALL error: EOF detected", C.CONNECTION),
        ('connection to server failed: FATAL:  password authentication failed for user "app"', C.AUTH),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.9"', C.AUTH),
        ('connection failed: FATAL:  database "shop" does not exist', C.NOT_FOUND),
        ("connection failed: FATAL:  sorry, too many clients already", C.RESOURCE),
        ("connection to server failed: timeout expired", C.TIMEOUT),
    ],
)
def test_a_postgres_that_could_not_be_reached_says_so_in_words(driver: str, message: str, expected: C) -> None:
    assert category(_raised(driver, "OperationalError", message)) is expected


@pytest.mark.parametrize("message", ["connection already closed", "cursor already closed", "connection is closed"])
def test_an_interface_error_of_a_closed_connection_is_one_of_the_connection(message: str) -> None:
    assert category(_raised("psycopg2", "InterfaceError", message)) is C.CONNECTION
    assert category(_raised("psycopg2", "InterfaceError", "only protocol 3 supported")) is C.PYTHON


@pytest.mark.parametrize(
    ("state", "expected"),
    [("40001", C.COMMUNICATION), ("40P01", C.COMMUNICATION), ("08006", C.CONNECTION), ("08P01", C.COMMUNICATION),
     ("53300", C.RESOURCE), ("53100", C.RESOURCE), ("57P01", C.CONNECTION), ("57P02", C.CONNECTION),
     ("57P03", C.CONNECTION), ("57014", C.TIMEOUT), ("55P03", C.TIMEOUT), ("28P01", C.AUTH), ("28000", C.AUTH),
     ("42501", C.AUTH), ("3D000", C.NOT_FOUND), ("XX000", C.SERVER), ("23505", C.PYTHON), ("42601", C.PYTHON),
     ("42P01", C.PYTHON), ("22001", C.PYTHON)],
)  # fmt: skip
@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
def test_the_sqlstate_says_more_than_class_and_words(attribute: str, state: str, expected: C) -> None:
    error = _raised("psycopg", "OperationalError", "connection refused, timed out", **{attribute: state})
    assert category(error) is expected


def test_refused_data_and_wrong_statements_stay_permanent_whatever_they_quote() -> None:
    assert category(_raised("psycopg", "IntegrityError", _UNIQUE, sqlstate="23505")) is C.PYTHON
    for name in ("IntegrityError", "ProgrammingError", "DataError", "NotSupportedError"):
        found = classify(_raised("psycopg2", name, _UNIQUE))
        assert found.category is C.PYTHON, name
        assert not found.row.transient


def test_a_deadlock_is_tried_again_almost_at_once() -> None:
    found = classify(_raised("psycopg", "OperationalError", "deadlock detected", sqlstate="40P01"))
    assert found.row.transient
    assert found.row.strategy.value == "immediate_retry"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(2002, C.CONNECTION), (2003, C.CONNECTION), (2006, C.CONNECTION), (2013, C.CONNECTION), (1040, C.RESOURCE),
     (1045, C.AUTH), (1049, C.NOT_FOUND), (1205, C.TIMEOUT), (1213, C.COMMUNICATION), (1054, C.PYTHON),
     (1062, C.PYTHON)],
)  # fmt: skip
@pytest.mark.parametrize("driver", ["pymysql.err", "MySQLdb._exceptions", "_mysql_exceptions", "django.db.utils"])
def test_mysql_says_it_with_a_number(driver: str, number: int, expected: C) -> None:
    assert category(_raised(driver, "OperationalError", number, "Key (name)=(timed out)")) is expected


def test_the_connector_of_mysql_keeps_its_number_in_errno() -> None:
    error = _raised("mysql.connector.errors", "InterfaceError", "Can't connect", errno=2003, sqlstate="HY000")
    assert category(error) is C.CONNECTION


def test_a_closed_connection_of_mysql_has_the_number_zero() -> None:
    assert category(_raised("pymysql.err", "InterfaceError", 0, "")) is C.CONNECTION


def _postgres_error(name: str, sqlstate: str) -> Exception:
    error = _class("asyncpg.exceptions", "PostgresError", name)("no")
    error.sqlstate = sqlstate  # type: ignore[attr-defined]
    return error


def test_asyncpg_says_it_with_its_sqlstate() -> None:
    assert category(_postgres_error("ConnectionDoesNotExistError", "08003")) is C.CONNECTION
    assert category(_postgres_error("CannotConnectNowError", "57P03")) is C.CONNECTION
    assert category(_postgres_error("TooManyConnectionsError", "53300")) is C.RESOURCE
    assert category(_postgres_error("UniqueViolationError", "23505")) is C.PYTHON
    closed = _class("asyncpg.exceptions._base", "InterfaceError")("connection is closed")
    assert category(closed) is C.CONNECTION
    busy = _class("asyncpg.exceptions._base", "InterfaceError")("cannot perform operation: another is in progress")
    assert category(busy) is C.PYTHON


def _by_sqlalchemy(orig: BaseException | None, name: str = "OperationalError", invalidated: bool = False) -> Exception:
    cls = _class("sqlalchemy.exc", "SQLAlchemyError", "StatementError", "DBAPIError", "DatabaseError", name)

    def shown(self: Any) -> str:
        return f"{self.args[0]} [SQL: select 'connection refused'] [parameters: timed out]"

    cls.__str__ = shown  # type: ignore[method-assign]
    error = cls(f"(driver) {orig}")
    error.orig, error.connection_invalidated = orig, invalidated  # type: ignore[attr-defined]
    error.__cause__ = orig
    return error


def test_sqlalchemy_hands_on_what_the_driver_said() -> None:
    lost = _raised("psycopg2", "OperationalError", "server closed the connection unexpectedly")
    assert category(_by_sqlalchemy(lost)) is C.CONNECTION
    deadlock = _raised("psycopg", "OperationalError", "deadlock detected", sqlstate="40P01")
    assert category(_by_sqlalchemy(deadlock)) is C.COMMUNICATION
    assert category(_by_sqlalchemy(_raised("pymysql.err", "OperationalError", 2013, "Lost"))) is C.CONNECTION
    assert category(_by_sqlalchemy(_raised("oracledb", "DatabaseError", "no"), invalidated=True)) is C.CONNECTION


def test_the_statement_that_sqlalchemy_quotes_is_no_evidence() -> None:
    refused = _raised("psycopg", "IntegrityError", _UNIQUE, sqlstate="23505")
    assert category(_by_sqlalchemy(refused, "IntegrityError")) is C.PYTHON
    assert category(_by_sqlalchemy(None)) is C.PYTHON
    assert category(_by_sqlalchemy(_raised("somedriver", "OperationalError", "no such table"))) is C.PYTHON


def _by_django(cause: BaseException | None, name: str, *args: Any) -> Exception:
    error = _raised("django.db.utils", name, *args)
    error.__cause__ = cause
    return error


def test_django_hands_on_what_the_driver_said() -> None:
    shutdown = _raised("psycopg", "OperationalError", "terminating", sqlstate="57P01")
    assert category(_by_django(shutdown, "OperationalError", "terminating")) is C.CONNECTION
    late = _raised("psycopg", "OperationalError", "canceling statement", sqlstate="57014")
    assert category(_by_django(late, "OperationalError", "connection refused")) is C.TIMEOUT, "the driver's code first"
    refused = _raised("psycopg", "IntegrityError", _UNIQUE, sqlstate="23505")
    assert category(_by_django(refused, "IntegrityError", _UNIQUE)) is C.PYTHON


def test_an_error_of_django_without_its_cause_is_read_by_its_words() -> None:
    """A cause does not survive a pickle."""
    assert category(_by_django(None, "OperationalError", "server closed the connection unexpectedly")) is C.CONNECTION
    assert category(_by_django(None, "InterfaceError", "connection already closed")) is C.CONNECTION
    assert category(_by_django(None, "OperationalError", "no such column: timed")) is C.PYTHON
    assert category(_by_django(None, "IntegrityError", _UNIQUE)) is C.PYTHON


def test_sqlite_is_locked_for_a_while_and_lacks_a_table_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as one, closing(sqlite3.connect(path, 0.01)) as other:
        one.execute("create table orders (id)")
        one.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError) as locked:
            other.execute("insert into orders values (1)")
        with pytest.raises(sqlite3.OperationalError) as missing:
            one.execute("select * from timed_out")
    assert category(locked.value) is C.TIMEOUT
    assert category(missing.value) is C.PYTHON


def _by_mongo(*names: str, **attributes: Any) -> Exception:
    error = _class("pymongo.errors", "PyMongoError", *names)("127.0.0.1:27017: no, configured timeouts: 20 s")
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_by_mongo("ConnectionFailure", "AutoReconnect"), C.CONNECTION),
        (_by_mongo("ConnectionFailure", "AutoReconnect", "ServerSelectionTimeoutError"), C.CONNECTION),
        (_by_mongo("ConnectionFailure", "AutoReconnect", "NotPrimaryError"), C.CONNECTION),
        (_by_mongo("ConnectionFailure", "AutoReconnect", "NetworkTimeout"), C.TIMEOUT),
        (_by_mongo("OperationFailure", "ExecutionTimeout", code=50), C.TIMEOUT),
        (_by_mongo("OperationFailure", code=18), C.AUTH),
        (_by_mongo("OperationFailure", code=112), C.COMMUNICATION),
        (_by_mongo("OperationFailure", "WriteError", "DuplicateKeyError", code=11000), C.PYTHON),
    ],
)
def test_mongodb(error: BaseException, expected: ErrorCategory) -> None:
    assert category(error) is expected


def test_wrappers_that_wrap_each_other_come_to_an_end() -> None:
    error = _by_sqlalchemy(None)
    error.orig = error.__cause__ = error  # type: ignore[attr-defined]
    assert category(error) is C.PYTHON

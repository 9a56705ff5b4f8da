"""Retrying while the database is unavailable."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy
from optuna.study import Study
from postgres import PASSWORD, Server
from worker_processes import OBJECTIVES

from nas.errors import UserError
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.retry import is_unavailable, retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Counts, count


@pytest.mark.slow
def test_an_unavailable_database_is_given_up_after_a_while(server: Server) -> None:
    url = server.over_tcp(server.new_database())
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    server.stop()
    try:
        with pytest.raises(UserError) as caught:
            retry_while_unavailable(StudyStore(study).url, lambda: count(study), 0.5)
    finally:
        server.start()
    assert "unavailable for" in str(caught.value)
    assert "postgres:***@127.0.0.1" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert count(study) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_reads_are_retried(study: Study, server: Server) -> None:
    for _ in range(3):
        study.enqueue_trial({"width": 5})
    engine = StudyStore(study).engine
    broken = []

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def _break(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        # Within a transaction, where connections are not tested before use.
        if "FROM trials" in statement and not broken:
            broken.append(statement)
            connection.connection.dbapi_connection.close()

    assert retry_while_unavailable(StudyStore(study).url, lambda: count(study)).waiting == 3
    assert broken


def test_other_errors_are_not_retried() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry_while_unavailable("", fail)
    assert len(calls) == 1
    for error in (sqlalchemy.exc.ProgrammingError("", {}, Exception()), UserError("no"), OSError()):
        assert not is_unavailable(error)

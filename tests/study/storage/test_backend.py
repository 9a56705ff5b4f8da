"""Opening databases and studies, and passwords in their URLs."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.study import Study
from postgres import PASSWORD, Server
from worker_processes import CHOICES, OBJECTIVES, OPEN_STUDY, StartProcesses

from nas.errors import UserError
from nas.study.storage.backend import create_study, default_url, load_study, open_storage
from nas.study.storage.engine import mask_password, mask_url
from nas.study.storage.heartbeat import TABLE
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, lease_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    return default_url(tmp_path)


@pytest.mark.slow
def test_processes_can_create_a_database_concurrently(processes: StartProcesses, url: str) -> None:
    for process in processes(OPEN_STUDY, url, 2):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    storage = open_storage(url)
    assert [s.study_name for s in storage.get_all_studies()] == ["tiny"]
    assert load_study(storage, "tiny").metric_names == ["PCKh", "params", "MAdds"]


def test_sqlite_uses_wal_mode(study: Study) -> None:
    with StudyStore(study).engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("PRAGMA journal_mode")).scalar() == "wal"


def test_loading_a_missing_study_lists_the_others(url: str) -> None:
    storage = open_storage(url)
    with pytest.raises(UserError, match=r"'mpii': not in .*study\.db \(it holds: none\); run `python -m nas\.search`"):
        load_study(storage, "mpii")
    for name in ("one", "two"):
        create_study(storage, name, OBJECTIVES)
    with pytest.raises(UserError, match=r"\(it holds: one, two\)"):
        load_study(storage, "mpii")


def test_a_study_is_created_once(url: str) -> None:
    first = create_study(open_storage(url), "tiny", OBJECTIVES)
    first.set_user_attr("kept", 1)
    second = create_study(open_storage(url), "tiny", OBJECTIVES)
    assert second.user_attrs == {"kept": 1}
    assert second.metric_names == ["PCKh", "params", "MAdds"]
    assert [d.name for d in second.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:secret@host:5433/db?sslmode=require", "postgresql://me:***@host:5433/db?sslmode=require"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///runs/tiny/study.db", "sqlite:///runs/tiny/study.db"),
        ("postgresql//me:secret@host/db", "postgresql//me:***@host/db"),
        ("postgresql://me:secret@host:port/db", "postgresql://me:***@host:port/db"),
        ("postgresql//me:s:e/c@ret@host/db", "postgresql//me:***@host/db"),
        ("not a URL", "not a URL"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_masked(given: str, shown: str) -> None:
    assert mask_password(given) == shown


def refused(url: str) -> str:
    with pytest.raises(UserError) as caught:
        open_storage(url)
    message = str(caught.value)
    assert message.startswith("--storage ")
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_unreachable_server() -> None:
    pytest.importorskip("psycopg")
    message = refused("postgresql+psycopg://me:secret@127.0.0.1:1/db")
    assert "postgresql+psycopg://me:***@127.0.0.1:1/db: cannot be opened" in message
    assert "refused" in message
    assert "check the path or the server" in message


def test_unknown_host() -> None:
    pytest.importorskip("psycopg")
    assert "cannot be opened" in refused("postgresql+psycopg://me:secret@no-such-host.invalid/db")


@pytest.mark.parametrize(
    "url", ["", "study.db", "postgresql//me:secret@host/db", "postgresql://me:secret@host:port/db", "sqlite:/"]
)
def test_invalid_url(url: str) -> None:
    assert "not a database URL; use sqlite:///" in refused(url)


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refused("postgresql+psycopg://me:secret@host/db")
    assert "psycopg" in message
    assert "install its driver" in message


def test_grpc_proxy_is_rejected() -> None:
    message = refused("grpc://me:secret@host:13000")
    assert "--storage grpc://me:***@host:13000: " in message
    assert "locks" in message
    assert "give the URL of the database behind it" in message


def test_unsupported_databases_are_rejected() -> None:
    for url in ("oracel://me:secret@host/db", "mysql://me:secret@host/db"):
        assert "SQLite or PostgreSQL" in refused(url)


def test_databases_in_memory_are_rejected() -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        assert "in memory" in refused(url)


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(f"sqlite:///{tmp_path}/file/runs/study.db")
    assert "folder cannot be created" in message
    assert "choose a writable path" in message


def test_path_of_a_folder_or_another_file(tmp_path: Path) -> None:
    (tmp_path / "study.db").mkdir()
    assert "cannot be opened" in refused(default_url(tmp_path))
    other = tmp_path / "notes.txt"
    other.write_text("not a database " * 100)
    assert "cannot be opened: file is not a database" in refused(f"sqlite:///{other}")
    assert other.read_text().startswith("not a database")


def test_missing_folders_are_created(tmp_path: Path) -> None:
    storage = open_storage(default_url(tmp_path / "runs" / "deep"))
    assert (tmp_path / "runs" / "deep" / "study.db").is_file()
    assert mask_url(storage.engine.url) == f"sqlite:///{tmp_path}/runs/deep/study.db"
    assert StudyStore(optuna.create_study(storage=storage)).url == mask_url(storage.engine.url)


def test_passwords_are_sent_to_the_server_only(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = server.new_database()
    url = server.over_tcp(plain)
    storage = open_storage(url)
    study = create_study(storage, "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu")
    lease.start()
    assert claim(study, 1, CHOICES, lease) is not None
    assert StudyStore(study).url == url.replace(PASSWORD, "***")
    with storage.engine.connect() as connection:
        inspected = sqlalchemy.inspect(connection).get_table_names()
        for table in inspected:
            stored = connection.execute(sqlalchemy.text(f"SELECT * FROM {table}")).all()
            assert PASSWORD not in repr(stored)
    assert TABLE.name in inspected
    lease.end()

    without = server.over_tcp(plain, password=None)
    with pytest.raises(UserError, match="no password supplied"):
        open_storage(without)
    with pytest.raises(UserError) as caught:
        open_storage(server.over_tcp(plain, password="not-" + PASSWORD))
    assert PASSWORD not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert load_study(open_storage(without), "tiny").study_name == "tiny"
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:postgres:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert load_study(open_storage(without), "tiny").study_name == "tiny"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg://me@host/db?password=secret", "postgresql+psycopg://me@host/db?password=***"),
        (
            "postgresql+psycopg://me@/db?host=h&password=secret&sslpassword=secret",
            "postgresql+psycopg://me@/db?host=h&password=***&sslpassword=***",
        ),
        ("postgresql+psycopg://me@/db?passfile=mine", "postgresql+psycopg://me@/db?passfile=mine"),
        ("postgresql//me@host/db?password=secret", "postgresql//me@host/db?password=***"),
    ],
)
def test_passwords_in_query_parameters_are_masked(given: str, shown: str) -> None:
    assert mask_password(given) == shown


@pytest.mark.parametrize("name", ["what? now", "100%", "a#b", "a b", "ü&=;"])
def test_a_folder_of_any_name_holds_its_database(tmp_path: Path, name: str) -> None:
    create_study(open_storage(default_url(tmp_path / name)), "tiny", OBJECTIVES)
    assert (tmp_path / name / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "remedy"),
    [("sqlite:///what? now/study.db", "write %3F for it"), ("sqlite://runs/study.db", "a slash is missing")],
)
def test_an_sqlite_url_that_means_another_path_is_rejected(url: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        open_storage(url)

"""The server serves only the page's files, stores only valid answers, and never replaces newer ones by older."""

import http.client
import json
import threading

import pytest

from opensnac.errors import OpensnacError
from opensnac.listening.serve import MAX_BYTES, Server

SESSION = "0123456789abcdef"


@pytest.fixture
def server(built, tmp_path):
    with Server(built, tmp_path / "answers", "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def answers(key) -> dict:
    return {"schema": 1, "test": key["test"], "session": SESSION, "revision": 3, "simulated": True, "trials": []}


def ask(server: Server, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def put(server: Server, answers: dict):
    return ask(server, "PUT", f"/answers/{answers['session']}", json.dumps(answers).encode())


def test_only_the_page_is_served(server, built):
    for path in ("/", "/index.html", "/listen.js", "/test.js?simulated"):
        assert ask(server, "GET", path)[0] == 200
    assert ask(server, "GET", "/")[1] == (built / "page" / "index.html").read_bytes()
    for path in (
        "/key.json",
        "/../key.json",
        "/%2e%2e/key.json",
        "//etc/passwd",
        "/answers/",
        "/answers/../../key.json",
    ):
        assert ask(server, "GET", path)[0] == 404, path


def test_answers_are_stored_and_returned(server, answers):
    assert ask(server, "GET", f"/answers/{SESSION}")[0] == 204
    assert put(server, answers)[0] == 204
    status, text = ask(server, "GET", f"/answers/{SESSION}")
    assert (status, json.loads(text)) == (200, answers)
    assert [file.name for file in server.answers.iterdir()] == [f"{SESSION}.json"]


def test_an_older_revision_never_replaces_a_newer_one(server, answers):
    put(server, answers | {"revision": 9, "listener": "newer"})
    assert put(server, answers)[0] == 204
    assert json.loads((server.answers / f"{SESSION}.json").read_text())["listener"] == "newer"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "another"}, "got some to 'another'"),
        ({"session": "../../etc/passwd"}, "session: expected 16 hexadecimal digits, got '../../etc/passwd'"),
        ({"schema": 2}, "expected answers of schema 1"),
        ({"revision": "9"}, "'revision': expected int, got '9'"),
        ({"trials": [{"trial": "a", "scores": {"x": 101}}]}, "expected a score from 0 to 100, got 101"),
        ({"trials": [{"trial": "a", "scores": {"x": True}}]}, "expected a score from 0 to 100, got True"),
        ({"trials": [{"trial": "a"}]}, "trial 'a': expected scores, got none"),
    ],
)
def test_answers_that_no_page_produces_are_refused(server, answers, change, message):
    status, text = ask(server, "PUT", "/answers/x", json.dumps(answers | change).encode())
    assert status == 400
    assert message in text.decode()
    assert list(server.answers.iterdir()) == []


def test_invalid_json_and_lengths_are_refused(server):
    assert ask(server, "PUT", f"/answers/{SESSION}", b"not json")[0] == 400
    assert ask(server, "PUT", f"/answers/{SESSION}", b"", {"Content-Length": str(MAX_BYTES + 1)})[0] == 413
    assert ask(server, "PUT", f"/answers/{SESSION}", b"", {"Content-Length": "-1"})[0] == 413
    assert list(server.answers.iterdir()) == []


def test_many_listeners_at_once_lose_nothing(server, answers):
    sessions = [f"{number:016x}" for number in range(12)]
    threads = [
        threading.Thread(target=put, args=(server, answers | {"session": session, "revision": revision}))
        for session in sessions
        for revision in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = {file.stem: json.loads(file.read_text())["revision"] for file in server.answers.iterdir()}
    assert kept == dict.fromkeys(sessions, 3)


def test_a_missing_test_and_a_port_in_use_are_refused(server, built, tmp_path):
    with pytest.raises(OpensnacError, match="expected a listening test, as `opensnac listen build`"):
        Server(tmp_path, tmp_path / "answers", "127.0.0.1", 0)
    with pytest.raises(OpensnacError, match="127.0.0.1:.*: expected an available port, .*; choose another --port"):
        Server(built, tmp_path / "answers", "127.0.0.1", server.server_address[1])

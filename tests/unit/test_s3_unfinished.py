"""Unfinished uploads of a server that lists them in pages, without end, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from arcbackupd.destinations.s3 import S3Destination
from arcbackupd.destinations.s3_settings import S3Settings

Answer = Callable[[dict[str, list[str]]], tuple[int, str]]


class Server:
    """Answers as a test says, and keeps what it was asked to remove."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: (200, page([], ""))
        self.asked = 0
        self.removed: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                status, text = server.answer(parse_qs(urlsplit(self.path).query, keep_blank_values=True))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(text.encode())

            def do_DELETE(self) -> None:
                server.removed.append(parse_qs(urlsplit(self.path).query)["uploadId"][0])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def page(uploads: list[str], following: str) -> str:
    listed = "".join(
        f"<Upload><Key>a/file</Key><UploadId>{upload}</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
        for upload in uploads
    )
    more = f"<IsTruncated>true</IsTruncated><NextKeyMarker>{following}</NextKeyMarker>" if following else ""
    return f'<ListMultipartUploadsResult xmlns="urn:s3">{listed}{more}</ListMultipartUploadsResult>'


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture(name="destination")
def _destination(server: Server) -> S3Destination:
    table = {"bucket": "attic", "endpoint": f"http://127.0.0.1:{server.http.server_port}", "timeout": "5s"}
    keys = {"access_key_id": "AKIA", "secret_access_key": "hush"}
    return S3Destination("vault", S3Settings.model_validate({**table, **keys}), Path("/nowhere"))


def test_all_pages_are_read(server: Server, destination: S3Destination) -> None:
    pages = {"": page(["1", "2"], "second"), "second": page(["3"], "third"), "third": page(["4"], "")}
    server.answer = lambda query: (200, pages[query.get("key-marker", [""])[0]])
    destination._server.abandon("a/file")
    assert server.removed == ["1", "2", "3", "4"]


def test_only_the_path_itself_is_cleared(server: Server, destination: S3Destination) -> None:
    server.answer = lambda _: (200, page(["1"], ""))
    destination._server.abandon("a/fil")
    assert server.removed == []


def test_a_list_that_does_not_go_on_is_not_read_for_ever(server: Server, destination: S3Destination) -> None:
    server.answer = lambda _: (200, page(["1"], "same"))
    destination._server.abandon("a/file")
    assert server.asked == 2


@pytest.mark.parametrize("answer", [(403, ""), (501, "no"), (200, ""), (200, "<html>"), (200, "<a/>"), (302, "")])
def test_who_cannot_list_them_disturbs_nobody(
    server: Server, destination: S3Destination, answer: tuple[int, str]
) -> None:
    server.answer = lambda _: answer
    destination._server.abandon("a/file")
    assert server.asked == 1
    assert server.removed == []


def test_without_keys_nobody_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    settings = S3Settings(bucket="attic", endpoint=f"http://127.0.0.1:{server.http.server_port}")
    S3Destination("vault", settings, Path("/nowhere"))._server.abandon("a/file")
    assert server.asked == 0

"""Recordings over HTTP: the same bytes as offline, bounded, refused with a reason; tokens, origins, hosts; metrics."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from running import HTTP, Running, sound

from opensnac import SNAC, Engine, bitstream, kernels
from opensnac.bitstream import Limits
from opensnac.errors import ModelError, OpensnacError
from opensnac.recordings import transcode
from opensnac.serving.client import Client, ServerError
from opensnac.serving.codes import as_snac
from opensnac.serving.guard import read_tokens
from opensnac.serving.messages import MessageError
from opensnac.streaming.tokens import TokenLayout

TOKEN = "abcdefghijklmnop0123"


def wav(samples: np.ndarray, rate: int = 24_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def coded_offline(recording: bytes, engine: Engine, **options: object) -> bytes:
    target = io.BytesIO()
    transcode.encode_file(io.BytesIO(recording), target, engine, **options)
    return target.getvalue()


def test_a_recording_there_and_back_is_as_offline(client: Client, engine: Engine) -> None:
    recording = wav(np.stack([sound(1.5, 16_000), -sound(1.5, 16_000)], axis=1), 16_000)
    coded = client.encode(recording)
    assert coded == coded_offline(recording, engine)
    back = io.BytesIO()
    transcode.decode_file(io.BytesIO(coded), back, engine, ending=".raw")
    assert client.decode(coded, format="raw") == back.getvalue()
    for kind in ("wav", "flac"):
        samples, rate = soundfile.read(io.BytesIO(client.decode(coded, format=kind)), dtype="int16")
        assert rate == 16_000
        assert samples.astype("<i2").tobytes() == back.getvalue()
    samples, rate = soundfile.read(io.BytesIO(client.decode(coded, format="opus", rate=48_000)))
    assert (samples.shape, rate) == ((72_000, 2), 48_000)


def test_a_model_is_asked_for_by_its_short_name(client: Client) -> None:
    recording = wav(sound(0.4, 32_000)[:, None], 32_000)
    coded = client.encode(recording, model="music")
    assert coded == coded_offline(recording, SNAC.from_pretrained("music").freeze())
    assert client.encode(recording, model="music_32khz_small") == coded


def test_codes_and_tokens_of_a_recording(client: Client, engine: Engine) -> None:
    recording = wav(sound(1.0))
    codes = bitstream.read(io.BytesIO(client.encode(recording))).codes
    said = json.loads(client.encode(recording, format="json"))
    assert (said["num_samples"], said["strides"], said["model"]) == (24_000, [4, 2, 1], engine.name)
    archive = np.load(io.BytesIO(client.encode(recording, format="npz")))
    for scale, code in enumerate(codes):
        assert said["codes"][scale] == code.tolist() == archive[f"codes_{scale}"].tolist()
    layout = TokenLayout.of(engine.config, 500)
    tokens = layout.flatten([torch.from_numpy(code.astype(np.int64)) for code in codes])[0].tolist()
    assert json.loads(client.encode(recording, format="tokens", offset=500)) == tokens
    assert client.encode(recording, format="text", offset=500).decode() == layout.to_text(tokens)


@pytest.mark.parametrize("form", ["json", "npz", "tokens", "text"])
def test_codes_in_every_form_sound_as_the_snac_file(client: Client, server: Running, form: str) -> None:
    rate = 16_000 if form in ("json", "npz") else 24_000
    recording = wav(sound(0.3, rate), rate)
    given = client.encode(recording, format=form, offset=500)
    offset = {"offset": 500} if form in ("tokens", "text") else {}
    whole = client.decode(client.encode(recording), format="raw", seed=3)
    heard = client.decode(given, form, format="raw", seed=3, **offset)
    assert heard[: len(whole)] == whole
    assert len(heard) == len(whole) if not offset else len(heard) >= len(whole)
    media = HTTP.post(f"{server.url}/v1/encode?format={form}", content=recording).headers["content-type"]
    told = HTTP.post(
        f"{server.url}/v1/decode",
        params={"format": "raw", "seed": 3} | offset,
        content=given,
        headers={"Content-Type": media},
    )
    assert told.content == heard


def archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def forged(header: bytes, size: int | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of one array with a header of one's own, which says another size of itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("codes_0.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(1000))
    data = bytearray(file.getvalue())
    if size is not None:
        at = data.rindex(b"PK\1\2") + 24
        data[at : at + 4] = size.to_bytes(4, "little")
    return bytes(data)


SCALES = {f"codes_{scale}": np.zeros((1, n), np.int32) for scale, n in enumerate((1, 2, 4))}
HUGE = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }\n"


@pytest.mark.parametrize(
    ("form", "body", "status"),
    [
        ("json", b"", 400),
        ("json", b"{}", 400),
        ("json", b"[]", 400),
        ("json", b"[1.5]", 400),
        ("json", b"[" * 100_000, 400),
        ("json", b"[0, 64]", 400),
        ("json", b'{"codes": []}', 400),
        ("json", b'{"codes": [[[0]], [[0, 0]]]}', 400),
        ("json", b'{"codes": [[[64]], [[0, 0]], [[0, 0, 0, 0]]]}', 400),
        ("json", b'{"codes": [[[0], []], [[0, 0]], [[0, 0, 0, 0]]]}', 400),
        ("json", b'{"codes": [[[0]], [[0, 0]], [[0, 0, 0, 0]]], "num_samples": 1000000000}', 400),
        ("json", b'{"codes": [[[0]], [[0, 0]], [[0, 0, 0, 0]]], "strides": [2, 1]}', 400),
        ("json", b'{"codes": [[[0]], [[0, 0]], [[0, 0, 0, 0]]], "model": "/etc/passwd"}', 404),
        ("json", b'{"codes": [[[0]], [[0, 0]], [[0, 0, 0, 0]]], "color": 1}', 400),
        ("json", b" " * (1 << 24) + b"[]", 413),
        ("tokens", b'["0"]', 400),
        ("text", b"no token", 400),
        ("text", b"<custom_token_999999999>" * 7, 400),
        ("text", b"\xff\xfe", 400),
        ("npz", b"", 400),
        ("npz", b"PK\5\6" + bytes(18), 400),
        ("npz", archive(), 400),
        ("npz", archive(codes_1=SCALES["codes_1"]), 400),
        ("npz", archive(**SCALES, model=np.array(["a", None])), 400),
        ("npz", archive(**SCALES, rate=np.array(1j)), 400),
        ("npz", archive(**SCALES, rate=np.array(np.nan)), 400),
        ("npz", archive(codes_0=np.zeros((1, 1 << 22))), 413),
        ("npz", archive(**{f"codes_{scale}": np.zeros((1, 1)) for scale in range(33)}), 413),
        ("npz", forged(HUGE), 400),
        ("npz", forged(HUGE, size=70), 400),
        ("npz", forged(HUGE, method=zipfile.ZIP_LZMA), 400),
    ],
)  # fmt: skip
def test_what_is_no_such_form_is_said(server: Running, form: str, body: bytes, status: int) -> None:
    response = HTTP.post(f"{server.url}/v1/decode?from={form}", content=body)
    assert response.status_code == status
    assert len(response.json()["message"]) > 10


def test_an_archive_that_unpacks_to_more_than_it_says_is_not_unpacked() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made, made.open("codes_0.npy", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    data = bytearray(bomb.getvalue())
    at = data.rindex(b"PK\1\2") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(MessageError):
        as_snac(io.BytesIO(bytes(data)), "npz", lambda _: None, None, 0)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@given(st.data())
@hypothesis_settings(max_examples=200)
def test_no_change_of_an_archive_breaks_its_reading(data: st.DataObject) -> None:
    whole = bytearray(archive(**SCALES, rate=np.array(24_000)))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        whole[at] = value
    with contextlib.suppress(OpensnacError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_snac(io.BytesIO(bytes(whole)), "npz", refuse, None, 0)


def refuse(_: str | None) -> Engine:
    raise ModelError("found out what was asked for")


def test_raw_samples_are_coded_as_they_come(server: Running, engine: Engine) -> None:
    samples = (sound(2.0) * 32767).astype("<i2")
    heard: list[int] = []

    def body():
        for start in range(0, len(samples), 4800):
            time.sleep(0.05)  # so that the answer begins before the end
            yield samples[start : start + 4800].tobytes()

    with HTTP.stream("POST", f"{server.url}/v1/encode?raw=24000", content=body()) as response:
        coded = b"".join(response.iter_bytes())
        heard.append(response.status_code)
    assert heard == [200]
    assert coded == coded_offline(samples.tobytes(), engine, raw=(24_000, 1), live=True)


def test_an_answer_that_cannot_be_finished_is_cut_off(client: Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.encode(bytes(100_001), raw=24_000)  # ends inside of a sample


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/encode", b"", 400, "bad_recording"),
        ("/v1/encode", b"nothing that sounds", 400, "bad_recording"),
        ("/v1/encode?format=mp3", b"", 422, "bad_request"),
        ("/v1/encode?model=nobody/knows", b"", 404, "no_model"),
        ("/v1/encode?model=/etc", b"", 404, "no_model"),
        ("/v1/decode", b"SNAC", 400, "bad_recording"),
        ("/v1/decode?rate=1", b"", 422, "bad_request"),
        ("/v1/nothing", b"", 404, "not_found"),
        ("/healthz", b"", 405, "bad_method"),
    ],
)
def test_what_cannot_be_served_is_said(server: Running, path: str, body: bytes, status: int, code: str) -> None:
    response = HTTP.post(server.url + path, content=body)
    assert response.status_code == status
    assert response.json()["code"] == code
    assert len(response.json()["message"]) >= len("Not Found")


def test_a_request_is_bounded(serve: Callable[..., Running]) -> None:
    server = serve(files=Limits(file_bytes=100_000, seconds=1.0), requests=1)
    with Client(server.url) as client:
        with pytest.raises(ServerError, match="at most 100000 bytes, got 480044"):
            client.encode(wav(sound(10.0)))
        with pytest.raises(ServerError, match="at most 1 s of audio"):
            client.encode(wav(sound(2.0)))

        def endless():
            while True:
                yield bytes(1 << 16)

        with pytest.raises((ServerError, httpx.WriteError, httpx.ReadError)):
            client.encode(endless())
        assert client.encode(wav(sound(0.9)))
    assert server.service.open_streams == 0


def test_tokens_are_asked_for(serve: Callable[..., Running], tmp_path) -> None:
    (tmp_path / "tokens").write_text(f"# of the test\n{TOKEN}\n\nanother-token-0123456789\n")
    server = serve(tokens=read_tokens(tmp_path / "tokens"))
    for token in (None, "wrong", TOKEN + "x"):
        with Client(server.url, token) as client:
            with pytest.raises(ServerError, match=r"bearer token.*\(token\)"):
                client.encode(b"")
            with pytest.raises(ServerError, match=r"bearer token.*\(token\)"), client.decoding():
                pass
    assert HTTP.get(f"{server.url}/metrics").status_code == 401
    assert HTTP.get(f"{server.url}/readyz").status_code == 200
    with Client(server.url, TOKEN) as client, client.decoding() as stream:
        assert stream.ready["rate"] == 24_000
    for text in ("", "short", "# nothing"):
        (tmp_path / "tokens").write_text(text)
        with pytest.raises(OpensnacError, match="expected tokens of at least 16"):
            read_tokens(tmp_path / "tokens")


def test_a_refused_request_hears_why(serve: Callable[..., Running]) -> None:
    """Although its body is still on its way."""
    server = serve(tokens=(TOKEN,), files=Limits(file_bytes=1000))

    async def answer(header: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        lines = ["POST /v1/decode HTTP/1.1", "Host: 127.0.0.1", header, "Content-Length: 3000", "", ""]
        writer.write("\r\n".join(lines).encode())
        for _ in range(3):
            await asyncio.sleep(0.1)
            writer.write(bytes(1000))
        status = await reader.readline()
        writer.close()
        return status

    assert b"401" in asyncio.run(answer("Accept: */*"))
    assert b"413" in asyncio.run(answer(f"Authorization: Bearer {TOKEN}"))


def test_pages_elsewhere_may_not_use_it_unless_allowed(serve: Callable[..., Running]) -> None:
    server = serve(origins=("https://good.example",), hosts=("127.0.0.1",))

    def status(**headers: str) -> int:
        return HTTP.get(f"{server.url}/healthz", headers=headers).status_code

    assert status() == status(Origin=server.url) == status(Origin="https://good.example") == 200
    assert status(Origin="https://bad.example") == status(Origin="null") == 403
    assert status(Host="rebound.example") == status(Host="rebound.example", Origin="http://rebound.example") == 403
    response = HTTP.options(
        f"{server.url}/v1/encode",
        headers={"Origin": "https://good.example", "Access-Control-Request-Method": "POST"},
    )
    assert response.headers["access-control-allow-origin"] == "https://good.example"


def test_no_page_elsewhere_is_allowed_by_default(server: Running) -> None:
    response = HTTP.get(f"{server.url}/healthz", headers={"Origin": server.url})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.skipif(not kernels.has_bfloat16(), reason="the kernels here do not multiply in bfloat16")
def test_reduced_products_are_those_of_a_reduced_engine(serve: Callable[..., Running], folder: Path) -> None:
    reduced = SNAC.from_pretrained(folder).freeze(dtype=torch.bfloat16)
    recording, offline = wav(sound(1.0)), io.BytesIO()
    with Client(serve(reduced=True).url) as client:
        coded = client.encode(recording)
    transcode.encode_file(io.BytesIO(recording), offline, reduced)
    assert coded == offline.getvalue()
    with Client(serve().url) as client:
        assert client.encode(recording) != coded


def test_figures_for_prometheus(server: Running, client: Client) -> None:
    layout = TokenLayout((4, 2, 1), 64)
    with client.decoding() as stream:
        stream.push([layout.offset + 64 * slot for slot in range(7)])
        stream.finish()
        list(stream)
    text = HTTP.get(f"{server.url}/metrics").text
    for name in (
        "opensnac_streams{", "opensnac_queue_streams{", "opensnac_real_time_factor{", "opensnac_ticks_total{",
        "opensnac_batch_streams_bucket{", "opensnac_tick_seconds_bucket{", "opensnac_first_sound_seconds_count{",
    ):  # fmt: skip
        assert name in text
    assert 'opensnac_streams_ended_total{end="finished",kind="decode",model="tiny"}' in text


def test_health_and_documents(server: Running) -> None:
    assert HTTP.get(f"{server.url}/healthz").json() == {"alive": True}
    assert HTTP.get(f"{server.url}/readyz").json() == {"ready": True, "streams": 0}
    openapi = HTTP.get(f"{server.url}/openapi.json").json()
    assert {"/v1/encode", "/v1/decode", "/healthz", "/readyz", "/metrics"} <= set(openapi["paths"])
    page = HTTP.get(server.url)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert HTTP.get(f"{server.url}/../server.py").status_code == 404

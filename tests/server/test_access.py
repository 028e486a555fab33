"""Who may ask."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import httpx
import pytest

from aaclip_med.cli.main import main
from aaclip_med.cli.serving import add_serve, run_serve
from aaclip_med.errors import CheckpointError, InputError
from aaclip_med.server.settings import Settings, is_loopback, parse_adapters, read_token
from server.conftest import TOKEN, Client


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_serve(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


def test_every_route_but_health_asks_for_the_token(strict: Client) -> None:
    with httpx.Client(base_url=strict.base_url) as stranger:
        assert stranger.get("/v1/health").status_code == 200
        routes = [("GET", f"/v1/{end}") for end in ("models", "version", "jobs/x", "jobs/x/events", "jobs/x/heatmap")]
        for method, path in [*routes, ("GET", "/v1/jobs/x/result"), ("DELETE", "/v1/jobs/x"), ("POST", "/v1/jobs")]:
            for given in (None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN):
                answer = stranger.request(method, path, headers={"Authorization": given} if given is not None else {})
                assert answer.status_code == 401, (method, path, given)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert stranger.get("/v1/models", headers={"Authorization": b"Bearer \xff"}).status_code == 401
    assert strict.get("/v1/models").status_code == 200


def test_a_server_without_a_token_refuses_web_pages_and_other_names(client: Client) -> None:
    foreign = [{"Origin": "https://example.org"}, {"Origin": "null"}, {"Host": "rebound.example.org"}]
    foreign += [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "else", "")]
    own = [{"Host": host} for host in ("localhost", "127.0.0.1:99", "[::1]:8421")]
    own += [{"Sec-Fetch-Site": site} for site in ("none", "same-origin")]
    for path in ("/v1/models", "/v1/health", "/openapi.json"):
        assert {client.get(path, headers=headers).status_code for headers in foreign} == {403}
        assert {client.get(path, headers=headers).status_code for headers in own} == {200}


def test_a_server_with_a_token_tells_its_health_under_any_name(strict: Client) -> None:
    for path in ("/v1/health", "/openapi.json"):
        assert httpx.get(f"{strict.base_url}{path}", headers={"Host": "10.1.2.3:8421"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AACLIP_MED_TOKEN", raising=False)
    with pytest.raises(InputError, match="token"):
        run_serve(_options("--host", host, "--device", "cpu"))
    monkeypatch.setenv("AACLIP_MED_TOKEN", "")
    with pytest.raises(InputError, match="16 or more"):
        run_serve(_options("--host", host, "--device", "cpu"))


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.1.9", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "", None)))


def test_a_token_is_read_from_its_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(str(file), {"AACLIP_MED_TOKEN": "another-token-of-tests"}) == TOKEN
    assert read_token(None, {"AACLIP_MED_TOKEN": "another-token-of-tests"}) == "another-token-of-tests"
    assert read_token(None, {}) is None
    for text in ("short", "with spaces and so on and on", "é" * 20):
        file.write_text(text)
        with pytest.raises(InputError):
            read_token(str(file), {})
    with pytest.raises(InputError, match="no token can be read"):
        read_token(str(tmp_path / "missing"), {})


def test_options_that_cannot_be_used_are_refused_before_anything_starts(tmp_path: Path) -> None:
    for arguments in (
        ["--queue", "0"],
        ["--max-upload-mb", "1e-9"],
        ["--device", "cuda:0", "cuda:0"],
        ["--device", "gpu"],
        ["--adapters", "liver"],
        ["--adapters", "a=demo", "--adapters", "a=demo"],
    ):
        with pytest.raises(InputError):
            run_serve(_options(*arguments))
    with pytest.raises(CheckpointError):
        run_serve(_options("--device", "cpu", "--adapters", f"mine={tmp_path / 'missing.safetensors'}"))
    assert parse_adapters(["a=b=c.safetensors"]) == (("a", "b=c.safetensors"),)
    for names in (("auto", "cuda"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        with pytest.raises(InputError, match="name each GPU once"):
            Settings(devices=names)
    assert Settings(devices=("auto", "cpu", "cuda:1")).devices == ("auto", "cpu", "cuda:1")
    assert Settings(devices=("cpu", "cpu")).devices == ("cpu", "cpu")
    for name in ("job_seconds", "keep_seconds"):
        with pytest.raises(InputError, match="take a finite number above 0"):
            Settings(**{name: math.inf})


@pytest.mark.parametrize("option", ["--max-upload-mb", "--max-volume-mb", "--job-seconds", "--keep-minutes"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e308", "0", "-1", "much"])
def test_a_limit_is_a_number_above_0_that_json_and_the_system_can_take(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", f"{option}={value}"])
    assert end.value.code == 2
    assert f"argument {option}: '{value}' is no number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["65536", "99999", "-1", "http"])
def test_a_port_that_tcp_has_not_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", f"--port={value}"])
    assert end.value.code == 2
    assert f"argument --port: '{value}' is no" in capsys.readouterr().err
    assert _options("--port", "65535").port == 65535

"""The config file: complete, commented, never lost."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from hakuriver import config
from hakuriver.cli.init import reference
from hakuriver.cli.main import main


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose config and state lie in a fresh folder."""
    return {"HAKURIVER_CONFIG": str(tmp_path / "config.toml"), "HAKURIVER_STATE_DIR": str(tmp_path / "state")}


def _config(home: dict[str, str]) -> Path:
    return Path(home["HAKURIVER_CONFIG"])


def test_the_reference_has_every_key_with_its_meaning_and_default() -> None:
    text = reference()
    for key, (section, name, _, doc) in config.SETTINGS.items():
        assert f"# {doc}" in text, key
        assert f"# {name} = " in text, key
        assert f"[{section}]" in text
    assert config.load(environ={}, path=None) is not None
    assert all(not body for body in tomllib.loads(text).values())


def test_with_its_comments_taken_away_it_says_the_defaults(tmp_path: Path) -> None:
    lines = [
        line[2:] if line.startswith("# ") and line[2:].partition(" = ")[0] in _names() else line
        for line in reference().splitlines()
    ]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    loaded = config.load(path, environ={})
    assert [(key, value) for key, value, _ in loaded.items()] == [
        (key, value) for key, value, _ in config.Settings().items()
    ]


def _names() -> set[str]:
    return {name for _, name, *_ in config.SETTINGS.values()}


def test_init_writes_once_and_makes_credentials(
    home: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "config"], home) == 0
    tokens = list(Path(home["HAKURIVER_STATE_DIR"]).glob("*/credentials/*.token"))
    assert sorted(token.name for token in tokens) == ["host.token", "node.token", "user.token"]
    assert all(token.stat().st_mode & 0o777 == 0o600 for token in tokens)
    before = _config(home).read_text()
    assert main(["init", "config"], home) == 6
    assert "exists" in capsys.readouterr().err
    assert _config(home).read_text() == before


def test_force_keeps_the_old_file_beside(home: dict[str, str]) -> None:
    _config(home).write_text("# mine\n")
    assert main(["init", "config", "--force"], home) == 0
    assert _config(home).with_name("config.toml.bak").read_text() == "# mine\n"
    assert _config(home).read_text() == reference()


def test_set_keeps_comments_and_order(home: dict[str, str]) -> None:
    _config(home).write_text(
        "# top\n[timing]\nkill_grace = 3.0 # seconds\n\n[network]\n# why 9000\nhost_port = 9000\n"
    )
    changes = ["--set", "network.host_port=9100", "--set", "node.name=n7", "--set", "timing.kill_grace=5"]
    assert main(["init", "config", *changes], home) == 0
    text = _config(home).read_text()
    assert "# top\n[timing]\nkill_grace = 5.0 # seconds\n" in text
    assert "# why 9000\nhost_port = 9100\n" in text
    settings = config.load(environ=home)
    assert (settings.network.host_port, settings.node.name, settings.timing.kill_grace) == (9100, "n7", 5.0)


def test_set_takes_the_place_of_the_commented_line(home: dict[str, str]) -> None:
    assert main(["init", "config"], home) == 0
    assert main(["init", "config", "--set", "policy.mount_roots=/data:/scratch"], home) == 0
    text = _config(home).read_text()
    assert "# mount_roots" not in text
    assert config.load(environ=home).policy.mount_roots == ("/data", "/scratch")
    assert len(text.splitlines()) == len(reference().splitlines())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("network.host_prt=1", "did you mean network.host_port?"),
        ("network.host_port=many", "--set network.host_port"),
        ("network.host_port=70000", "too large"),
        ("network.host_port", "no value"),
    ],
)
def test_bad_changes_change_nothing(
    home: dict[str, str], change: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "config"], home) == 0
    assert main(["init", "config", "--set", change], home) == 2
    assert says in capsys.readouterr().err
    assert _config(home).read_text() == reference()


def test_unknown_keys_in_the_file_are_named(home: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    _config(home).write_text("[network]\nhost_prt = 1\n")
    assert main(["config", "show"], home) == 2
    assert "did you mean network.host_port?" in capsys.readouterr().err


def test_show_says_what_decided(home: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    _config(home).write_text("[node]\nname = 'n1'\n")
    assert main(["--json", "config", "show"], home | {"HAKURIVER_TIMING_KILL_GRACE": "3"}) == 0
    shown = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["node.name"] == {"key": "node.name", "value": "n1", "origin": "file"}
    assert shown["timing.kill_grace"]["origin"] == "env HAKURIVER_TIMING_KILL_GRACE"
    assert shown["network.host_port"] == {"key": "network.host_port", "value": 8000, "origin": "default"}

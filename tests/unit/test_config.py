from pathlib import Path

import pytest

from hakuriver import config
from hakuriver.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, "[network]\nhost_port = 1001\nrunner_port = 1002\n[timing]\nkill_grace = 3\n")
    environ = {"HAKURIVER_NETWORK_HOST_PORT": "2001", "HAKURIVER_NETWORK_RUNNER_PORT": "2002"}
    found = config.load(path, environ=environ, flags={"network.host_port": 3001, "node.name": None})
    assert (found.network.host_port, found.network.runner_port, found.timing.kill_grace) == (3001, 2002, 3.0)
    assert found.docker.default_container_name == "hakuriver-base"
    origins = {key: origin for key, _, origin in found.items()}
    assert origins["network.host_port"] == "flag"
    assert origins["network.runner_port"] == "env HAKURIVER_NETWORK_RUNNER_PORT"
    assert origins["timing.kill_grace"] == "file"
    assert origins["node.name"] == "default"


def test_no_file_is_fine_but_a_named_one_must_exist(tmp_path: Path) -> None:
    assert config.load(environ={"HOME": str(tmp_path)}).network.host_port == 8000
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "missing.toml", environ={})
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(environ={"HAKURIVER_CONFIG": str(tmp_path / "missing.toml")})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[network]\nhostport = 1", "unknown key [network] hostport", "network.host_port"),
        ("[netwrok]\nhost_port = 1", "unknown key [netwrok]", "network"),
        ("[network]\nhost_port = 'x'", "must be a int", ""),
        ("[network]\nhost_port = true", "must be a int", ""),
        ("[network]\nhost_port = 99999", "too large", ""),
        ("[timing]\nheartbeat_interval = 0", "too small", ""),
        ("[timing]\nheartbeat_interval = inf", "too large", ""),
        ("[timing]\nkill_grace = 1e9", "too large", ""),
        ("[policy]\nmount_roots = 'x'", "list of strings", ""),
        ("[limits]\nlog_cap = '1X'", "size '1X'", ""),
        ("network = 3", "must be a section", ""),
        ("[network", "not valid TOML", ""),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(path) in caught.value.message


def test_sizes_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "[limits]\nlog_cap = '2MiB'\n[policy]\nmount_roots = ['/data', '/scratch']\n")
    found = config.load(path, environ={"HAKURIVER_DOCKER_ADDITIONAL_MOUNTS": "/a:/b"})
    assert found.limits.log_cap == 2 * 2**20
    assert found.policy.mount_roots == ("/data", "/scratch")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HAKURIVER_NETWORK_HOST_PORT", "abc"),
        ("HAKURIVER_POLICY_ALLOW_PRIVILEGED", "maybe"),
        ("HAKURIVER_TIMING_KILL_GRACE", ""),
    ],
)
def test_bad_variables(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        config.load(environ={name: text})


def test_every_setting_says_what_it_means() -> None:
    assert all(doc for _, _, _, doc in config.SETTINGS.values())

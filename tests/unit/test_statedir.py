import os
from pathlib import Path

import pytest

from hakuriver import statedir
from hakuriver.errors import ConfigError

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /home rw - nfs4 server:/home rw
31 22 0:31 / /home/ann/local rw - ext4 /dev/vdb rw
32 22 0:32 / /mnt/with\040space rw - fuse.sshfs ann@x: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x", "ext4"),
        ("/home/ann", "nfs4"),
        ("/home/ann/local/x", "ext4"),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/homes", "ext4"),
    ],
)
def test_the_longest_mount_point_decides(path: str, kind: str) -> None:
    assert statedir.filesystem_type(Path(path), MOUNTS) == kind


def test_a_state_folder_on_the_network_is_refused_with_a_proposal() -> None:
    with pytest.raises(ConfigError, match="network filesystem") as caught:
        statedir.check_local(Path("/home/ann/.local/state/hakuriver"), MOUNTS)
    assert "--state-dir" in caught.value.hint
    statedir.check_local(Path("/var/lib/hakuriver"), MOUNTS)


def test_this_machine_has_an_id_that_fits_a_path() -> None:
    found = statedir.machine_id()
    assert found
    assert "/" not in found


def test_a_token_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "credentials" / "user.token"
    token = statedir.ensure_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert statedir.ensure_token(path) == token == statedir.read_token(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        statedir.ensure_token(path)


@pytest.mark.parametrize("text", ["", "short", "with space in the middle of it", "ü" * 30])
def test_a_file_without_a_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        statedir.read_token(path)


def test_make_private_in_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    statedir.make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ConfigError, match="can't be used"):
        statedir.make_private(blocked / "state")
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to another user"):
            statedir.make_private(folder)

"""The file with a cluster's key: who may have made it, who may read it, what follows from it."""

import os
import stat
from pathlib import Path

import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.kvstore.wire.keys import Access, Keys, load_keys, new_keys, on_loopback


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_is_for_its_owner_only(tmp_path: Path) -> None:
    path = new_keys(str(tmp_path / "keys"))
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert load_keys(str(path)) == load_keys(str(path.parent))


def test_the_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = new_keys(str(tmp_path / "keys"))
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = new_keys(str(tmp_path / "keys"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        new_keys(str(tmp_path / "keys"))
    assert path.read_bytes() == before


def test_no_key_is_written_where_others_can_look(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=f"chmod 700 {tmp_path}"):
        new_keys(str(tmp_path))


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_key_that_others_can_get_at_is_refused_with_what_to_do(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "key"
    path.write_text("ab" * 32)
    path.chmod(bits)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        load_keys(str(path))


def test_a_key_for_containers_is_kept_by_its_directory(tmp_path: Path) -> None:
    path = new_keys(str(tmp_path / "keys"), container=True)
    assert (mode(path), mode(path.parent)) == (0o444, 0o700)
    assert load_keys(str(path))
    path.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_keys(str(path))
    path.parent.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = new_keys(str(tmp_path / "keys"))
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        load_keys(str(path))


def test_a_mounted_secret_may_have_any_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr("shoal.kvstore.wire.keys.MOUNTS", (f"{tmp_path}/",))
    path = tmp_path / "shoal_key"
    path.write_text("# comment\n" + "ab" * 32 + "\n")
    path.chmod(0o444)
    assert load_keys(str(path)).secret == bytes.fromhex("ab" * 32)


def test_a_path_through_the_mounts_is_no_mounted_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    mounts = tmp_path / "secrets"
    mounts.mkdir()
    monkeypatch.setattr("shoal.kvstore.wire.keys.MOUNTS", (f"{mounts}/",))
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o644)
    (mounts / "link").symlink_to(tmp_path / "key")
    for path in (mounts / ".." / "key", mounts / "link"):
        with pytest.raises(ConfigError, match="others can get at the key"):
            load_keys(str(path))


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33, "ab" * 32 + "\n" + "cd" * 32, "\xff\xfe" * 40])
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key: expected one line of 64 hex digits"):
        load_keys(str(path))


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shoal keys new"):
        load_keys(str(tmp_path / "none"))


def test_the_two_sides_have_different_keys_and_other_secrets_other_keys() -> None:
    one, other = Keys(b"a" * 32), Keys(b"b" * 32)
    found = {k.derive(side) for k in (one, other) for side in ("listen", "connect")}
    assert len(found) == 4 and all(len(key) == 32 for key in found)
    assert one.name != other.name and one.name == Keys(b"a" * 32).name


def test_a_secret_shows_in_no_repr() -> None:
    assert "aaaa" not in repr(Access(Keys(b"a" * 32))) and (b"a" * 32).hex() not in repr(Keys(b"a" * 32))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
def test_a_loopback_needs_no_key(host: str) -> None:
    assert on_loopback(host)
    Access().check(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "node7"])
def test_other_addresses_need_a_key_or_the_word_for_it(host: str) -> None:
    with pytest.raises(ConfigError, match=r"shoal keys new DIR.*--insecure"):
        Access().check(host)
    Access(insecure=True).check(host)
    Access(Keys(b"a" * 32)).check(host)


def test_the_command_makes_a_key_and_names_it_but_does_not_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "keys")
    assert cli.main(["keys", "new", place]) == 0
    made = capsys.readouterr().out
    assert cli.main(["keys", "show", place]) == 0
    shown = capsys.readouterr().out.split()[1]
    keys = load_keys(place)
    assert keys.name == shown and shown in made and keys.secret.hex() not in made + shown
    assert cli.main(["keys", "new", place]) == 2
    assert "is there already" in capsys.readouterr().err

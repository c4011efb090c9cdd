"""A backup and what comes out of it: the same yard, or nothing at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from dockyard.errors import AuditError, DockyardError, StoreDamagedError, StoreError
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Deployment
from dockyard.spec.home import Home
from dockyard.spec.status import Scope
from dockyard.supply.keys import PrivateKey
from dockyard.supply.sign import sign_all
from dockyard.supply.verify import verify
from dockyard.yard import backup_format
from dockyard.yard.audit import AuditLog, Entry
from dockyard.yard.auth import Credentials, Tokens
from dockyard.yard.backup import write_backup
from dockyard.yard.observe import Routed, world_of
from dockyard.yard.plan import plan
from dockyard.yard.records import NewRevision
from dockyard.yard.restoring import check_backup, restore
from dockyard.yard.state import Advance, RolloutPhase, Start
from dockyard.yard.store import Store
from tests.oci.samples import sample_image
from tests.yard.conftest import ADA, revision


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def yard(home, clock):
    """A yard in use, with a policy and keys."""
    store = Store.open(home.yard / "yard.db", clock=clock)
    log = AuditLog.open(store, home.yard)
    for content in ("one", "two"):
        with store.together():
            number = store.add_revision(revision(content=content), ADA).number
            store.begin_rollout("iris", number, ADA)
            store.advance(Advance("iris", RolloutPhase.DONE))
            log.append(Entry("ada", "deploy", "iris", after={"revision": number}))
    (home.yard / "policy.toml").write_text("[signed]\nrequired = true\n")
    for name in ("own.pub", "trusted/team.pub"):
        (home.keys / name).parent.mkdir(parents=True, exist_ok=True)
        (home.keys / name).write_text(PrivateKey.generate().public.pem)
    (home.keys / "own.key").write_text("secret")
    log.checkpoint()
    yield store, log
    store.close()


@pytest.fixture
def backup(yard, home, tmp_path):
    write_backup(home, tmp_path / "backup")
    return tmp_path / "backup"


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def pack(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_restored_yard_is_the_one_that_was_backed_up(yard, home, tmp_path, clock):
    store, log = yard
    _, secret = Tokens(store).create("ci", Scope.OPERATOR, by="ada", expires=None)
    write_backup(home, tmp_path / "backup")
    other = Home(tmp_path / "other")
    checked = restore(tmp_path / "backup", other)
    assert (checked.audit.entries, checked.manifest.yard) == (3, store.yard)
    assert [(one.deployment, one.revision) for one in checked.images] == [("iris", 1), ("iris", 2)]
    again = Store.open(other.yard / "yard.db", clock=clock)
    assert (again.yard, again.snapshot(), again.rollouts("iris")) == (
        store.yard,
        store.snapshot(),
        store.rollouts("iris"),
    )
    assert Tokens(again).identify(Credentials(secret)).name == "token ci"
    for name in ("yard/policy.toml", "keys/own.pub", "keys/trusted/team.pub", "yard/audit.pub"):
        assert (other.root / name).read_bytes() == (home.root / name).read_bytes()
    assert stat.S_IMODE(other.yard.stat().st_mode) == 0o700
    restored = AuditLog.open(again, other.yard)
    assert restored.newest(limit=1)[0].entry.action == "audit.key"
    restored.verify([log.checkpoint()])
    again.close()


def test_a_backup_is_for_its_owner_alone_and_has_no_private_key(backup):
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert set(members(backup)) == {
        "manifest.json",
        "audit.log",
        "images.json",
        "keys/own.pub",
        "keys/trusted/team.pub",
        "yard/audit.pub",
        "yard/policy.toml",
        "yard/yard.db",
    }
    assert b"PRIVATE KEY" not in backup.read_bytes()


def test_a_backup_is_made_while_the_yard_writes(yard, home, tmp_path):
    store, log = yard
    with store.together():
        store.scale("iris", 9)
        log.append(Entry("ada", "scale", "iris"))
        write_backup(home, tmp_path / "backup")
    restore(tmp_path / "backup", Home(tmp_path / "other"))
    again = Store.open(tmp_path / "other" / "yard" / "yard.db")
    assert again.deployment("iris").wanted == 1, "what was not committed is not in it"
    again.close()


def test_a_host_without_a_network_has_the_same_images_and_verdicts_again(yard, home, tmp_path):
    store, _ = yard
    layout, key = Layout.create(home.images), PrivateKey.generate()
    image = sample_image(layout, "wine:1")
    sign_all(layout, image.manifest, "wine", key)
    sample_image(layout, "unused:1", code=b"other")
    asked = Deployment(name="wine", image=f"wine@{image.digest}")
    store.add_revision(NewRevision(asked, image.digest, "wine:1", 1), ADA)
    write_backup(home, tmp_path / "backup", with_images=True)
    other = Home(tmp_path / "other")
    checked = restore(tmp_path / "backup", other)
    assert {one.deployment: one.included for one in checked.images} == {"iris": False, "wine": True}
    again = Layout.open(other.images)
    assert [named.name for named in again.images()] == ["wine:1"]
    assert verify(again, image.digest, [key.public]) == verify(layout, image.digest, [key.public])
    assert not (other.yard / "images.tar").exists()


def test_nothing_is_written_over_a_yard(backup, home):
    before = (home.yard / "audit.pub").read_bytes()
    with pytest.raises(StoreError, match="has a yard already"):
        restore(backup, home)
    assert (home.yard / "audit.pub").read_bytes() == before


def test_another_key_of_the_same_name_refuses_the_restore(backup, tmp_path):
    other = Home(tmp_path / "other")
    other.keys.mkdir(parents=True)
    (other.keys / "own.pub").write_text("mine")
    with pytest.raises(StoreError, match=r"own\.pub is another key"):
        restore(backup, other)
    assert not other.yard.exists()
    assert (other.keys / "own.pub").read_text() == "mine"


def test_a_checked_backup_leaves_nothing_behind(backup):
    before = sorted(backup.parent.iterdir())
    assert check_backup(backup).audit.entries == 3
    assert sorted(backup.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["yard/yard.db", "audit.log", "images.json", "yard/policy.toml", "keys/own.pub"])
def test_a_byte_changed_in_any_file_is_noticed(backup, tmp_path, name):
    files = members(backup)
    data = files[name]
    files[name] = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    with pytest.raises(StoreDamagedError, match=f"{name} is not what was backed up"):
        restore(pack(tmp_path / "changed", files), Home(tmp_path / "other"))
    assert not (tmp_path / "other" / "yard").exists()


@pytest.mark.parametrize("name", ["yard/yard.db", "audit.log", "images.json", "yard/audit.pub", "manifest.json"])
def test_a_file_that_is_missing_is_noticed(backup, tmp_path, name):
    files = members(backup)
    del files[name]
    with pytest.raises(StoreDamagedError, match=r"missing|no manifest"):
        check_backup(pack(tmp_path / "changed", files))


@pytest.mark.parametrize(
    "name", ["../evil", "yard/../../evil", "/etc/evil", "keys/own.key", "yard/sub/evil", "keys/trusted/../evil.pub"]
)
def test_a_file_that_no_backup_has_is_refused(backup, tmp_path, name):
    with pytest.raises(DockyardError, match="which no backup has"):
        restore(pack(tmp_path / "changed", {**members(backup), name: b"x"}), Home(tmp_path / "other"))
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_is_refused(backup, tmp_path):
    pack(tmp_path / "changed", members(backup))
    with tarfile.open(tmp_path / "changed", "a") as tar:
        info = tarfile.TarInfo("yard/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(StoreDamagedError, match="which no backup has"):
        restore(tmp_path / "changed", Home(tmp_path / "other"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_backup_that_was_cut_off_is_noticed(backup, tmp_path, share):
    data = backup.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DockyardError):
        restore(tmp_path / "cut", Home(tmp_path / "other"))
    assert not (tmp_path / "other" / "yard").exists()


def test_an_old_backup_is_noticed_by_a_checkpoint_kept_elsewhere(yard, backup):
    _, log = yard
    log.append(Entry("ada", "deploy", "iris"))
    with pytest.raises(AuditError, match="an older copy"):
        check_backup(backup, kept=[log.checkpoint()])


def test_a_forged_backup_is_noticed_by_the_key_kept_elsewhere(yard, tmp_path):
    _, log = yard
    forged = Home(tmp_path / "forged")
    store = Store.open(forged.yard / "yard.db")
    AuditLog.open(store, forged.yard).checkpoint()
    store.close()
    write_backup(forged, tmp_path / "backup")
    assert check_backup(tmp_path / "backup")
    with pytest.raises(AuditError, match="not signed with the log's key"):
        check_backup(tmp_path / "backup", keys=[key.encode() for key in log.keys])


def test_a_store_whose_log_is_not_the_one_beside_it_is_refused(yard, home, tmp_path):
    other = Home(tmp_path / "second")
    store = Store.open(other.yard / "yard.db")
    log = AuditLog.open(store, other.yard)
    log.append(Entry("eve", "x"))
    log.checkpoint()
    store.close()
    first, second = tmp_path / "first.backup", tmp_path / "second.backup"
    write_backup(home, first)
    manifest = write_backup(other, second)
    files = members(first)
    files["yard/yard.db"] = members(second)["yard/yard.db"]
    digest = manifest.files["yard/yard.db"]
    files["manifest.json"] = _with(files["manifest.json"], "yard/yard.db", digest.size, digest.digest)
    with pytest.raises(StoreDamagedError, match="another audit log"):
        check_backup(pack(tmp_path / "mixed", files))


def _with(manifest, name, size, digest):
    told = json.loads(manifest)
    told["files"][name] = {"size": size, "digest": digest}
    return json.dumps(told).encode()


def test_where_there_is_no_yard_nothing_is_backed_up(tmp_path):
    with pytest.raises(StoreError, match="there is no yard"):
        write_backup(Home(tmp_path / "none"), tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_backup_of_another_format_is_told(backup, tmp_path):
    files = members(backup)
    files["manifest.json"] = files["manifest.json"].replace(b'"format": 1', b'"format": 2')
    with pytest.raises(StoreError, match="format 2"):
        check_backup(pack(tmp_path / "changed", files))


def test_a_disk_without_room_leaves_no_half_backup(yard, home):
    with pytest.raises(StoreError):
        write_backup(home, Path("/proc/backup"))


def replicas_in(home):
    store = Store.open(home.yard / "yard.db")
    try:
        return {one.id: one.folder for one in store.replicas()}
    finally:
        store.close()


def with_replicas(store, *homes):
    for number, home in enumerate(homes):
        name = f"iris-2-{number}"
        store.add_replica(name, "iris", 2, engine="docker", folder=home.containers / name)


def test_a_yard_restored_to_another_home_knows_no_replica_of_the_first_ones(yard, home, tmp_path):
    with_replicas(yard[0], home)
    yard[1].checkpoint()
    write_backup(home, tmp_path / "backup")
    other = Home(tmp_path / "other")
    restore(tmp_path / "backup", other)
    assert replicas_in(other) == {}
    assert sorted(one.name for one in other.yard.iterdir() if one.name.startswith("yard.db-")) == []
    again = Store.open(other.yard / "yard.db")
    (planned,) = world_of(again.snapshot(), Routed(0.0), {}, 1 << 40).deployments
    assert (planned.active, planned.wanted) == (2, 1)
    steps = plan(world_of(again.snapshot(), Routed(0.0), {}, 1 << 40), again.now()).steps
    assert [(type(step), step.deployment, step.revision) for step in steps] == [(Start, "iris", 2)]
    again.close()


def test_a_yard_restored_to_its_own_home_takes_its_replicas_over(yard, home, tmp_path):
    store, log = yard
    with_replicas(store, home, Home(tmp_path / "other"))
    log.checkpoint()
    write_backup(home, tmp_path / "backup")
    home.yard.rename(tmp_path / "lost")
    restore(tmp_path / "backup", home)
    assert replicas_in(home) == {"iris-2-0": home.containers / "iris-2-0"}


def test_images_may_be_of_any_size_that_the_manifest_tells(backup, tmp_path):
    """What is cut off here has 70 GiB by its manifest: it is read, and found to be cut off."""
    files = members(backup)
    files["manifest.json"] = _with(files["manifest.json"], "images.tar", 70 << 30, "sha256:" + "0" * 64)
    info = tarfile.TarInfo("images.tar")
    info.size = 70 << 30
    with pack(tmp_path / "huge", files).open("r+b") as file:
        with tarfile.open(fileobj=file) as tar:
            last = tar.getmembers()[-1]
        file.truncate(last.offset_data + -(-last.size // 512) * 512)
        file.seek(0, io.SEEK_END)
        file.write(info.tobuf(tarfile.PAX_FORMAT) + b"the first bytes")
    with pytest.raises(StoreDamagedError, match="it is cut off"):
        check_backup(tmp_path / "huge")


def test_a_file_of_another_size_than_the_manifest_tells_is_not_written_out(backup, tmp_path):
    files = members(backup)
    files["yard/policy.toml"] += b"x" * 10_000
    with pytest.raises(StoreDamagedError, match=r"yard/policy\.toml is not what was backed up"):
        check_backup(pack(tmp_path / "changed", files))


def test_a_backup_that_does_not_begin_with_its_manifest_is_refused(backup, tmp_path):
    files = members(backup)
    manifest = files.pop("manifest.json")
    with pytest.raises(StoreDamagedError, match="no manifest"):
        check_backup(pack(tmp_path / "changed", {**files, "manifest.json": manifest}))


@pytest.mark.parametrize("limit", ["MANIFEST_LIMIT", "MEMBERS_LIMIT", "IMAGES_LIMIT"])
def test_what_a_restore_would_refuse_is_not_written(yard, home, tmp_path, monkeypatch, limit):
    layout = Layout.create(home.images)
    image = sample_image(layout, "wine:1")
    asked = Deployment(name="wine", image=f"wine@{image.digest}")
    yard[0].add_revision(NewRevision(asked, image.digest, "wine:1", 1), ADA)
    write_backup(home, tmp_path / "backup", with_images=True)
    monkeypatch.setattr(backup_format, limit, 5)
    with pytest.raises(DockyardError):
        check_backup(tmp_path / "backup")
    with pytest.raises(StoreError, match="no restore would take"):
        write_backup(home, tmp_path / "second", with_images=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "home"]


def test_a_key_whose_name_no_restore_would_take_is_told(yard, home, tmp_path):
    (home.keys / "my own.pub").write_text(PrivateKey.generate().public.pem)
    with pytest.raises(StoreError, match=r"keys/my own\.pub.* no restore would take") as caught:
        write_backup(home, tmp_path / "backup")
    assert "Rename" in caught.value.remedy
    assert not (tmp_path / "backup").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(yard, home, small_disk):
    with pytest.raises(
        StoreError, match=r"the backup needs .* while it is made, and the disk that holds .*small"
    ) as told:
        write_backup(home, small_disk / "yard.tar")
    assert "--no-images" in told.value.remedy
    assert list(small_disk.iterdir()) == []


def test_the_room_that_images_take_is_asked_for_only_where_they_are_wanted(yard, home, tmp_path, monkeypatch):
    image = sample_image(Layout.create(home.images), "wine:1", code=os.urandom(8 << 20))
    asked = Deployment(name="wine", image=f"wine@{image.digest}")
    yard[0].add_revision(NewRevision(asked, image.digest, "wine:1", 1), ADA)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=30 << 20))
    with pytest.raises(StoreError, match="the backup needs"):
        write_backup(home, tmp_path / "backup", with_images=True)
    assert write_backup(home, tmp_path / "backup")

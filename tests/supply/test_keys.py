"""Keys: made, written, read, and refused; OpenSSL reads them too."""

from __future__ import annotations

import subprocess

import pytest

from dockyard.errors import SigningKeyError
from dockyard.supply.keys import PrivateKey, PublicKey, write_pair


def test_a_pair_is_written_for_its_owner_and_read_back(tmp_path, key):
    private, public = tmp_path / "keys" / "own.key", tmp_path / "keys" / "own.pub"
    write_pair(key, "open sesame", private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert PublicKey.read(public) == key.public
    assert PrivateKey.read(private, "open sesame").public == key.public
    assert b"ENCRYPTED" in private.read_bytes()
    assert {path.name for path in private.parent.iterdir()} == {"own.key", "own.pub"}


def test_a_pair_never_overwrites_another(tmp_path, key):
    private, public = tmp_path / "own.key", tmp_path / "own.pub"
    write_pair(key, "", private, public)
    with pytest.raises(SigningKeyError, match="cannot be made again"):
        write_pair(PrivateKey.generate(), "", private, public)
    assert PrivateKey.read(private, "").public == key.public


@pytest.mark.parametrize(("password", "told"), [("wrong", "does not open"), ("", "is encrypted")])
def test_an_encrypted_key_says_what_is_wrong_with_the_password(tmp_path, key, password, told):
    write_pair(key, "right", tmp_path / "own.key", tmp_path / "own.pub")
    with pytest.raises(SigningKeyError, match=told):
        PrivateKey.read(tmp_path / "own.key", password)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", b"\x00" * 200])
def test_what_is_no_key_is_refused_by_its_file(tmp_path, content):
    (tmp_path / "bad.pub").write_bytes(content)
    with pytest.raises(SigningKeyError, match=r"bad\.pub"):
        PublicKey.read(tmp_path / "bad.pub")
    with pytest.raises(SigningKeyError, match=r"bad\.pub"):
        PrivateKey.read(tmp_path / "bad.pub", "")


def test_keys_of_another_kind_are_refused(tmp_path):
    for number, words in enumerate(
        (["-algorithm", "ED25519"], ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"])
    ):
        file = tmp_path / f"{number}.key"
        subprocess.run(["openssl", "genpkey", *words, "-out", str(file)], check=True, capture_output=True, timeout=20)
        with pytest.raises(SigningKeyError, match="P-256"):
            PrivateKey.read(file, "")


def test_openssl_verifies_what_a_key_signs(tmp_path, key):
    write_pair(key, "", tmp_path / "own.key", tmp_path / "own.pub")
    (tmp_path / "data").write_bytes(b"what was said")
    (tmp_path / "signature").write_bytes(key.sign(b"what was said"))
    words = ["openssl", "dgst", "-sha256", "-verify", "own.pub", "-signature", "signature", "data"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "Verified OK"


def test_signing_twice_gives_the_same_bytes(key, stranger):
    assert key.sign(b"data") == key.sign(b"data")
    assert key.public.verifies(key.sign(b"data"), b"data")
    assert not key.public.verifies(key.sign(b"data"), b"date")
    assert not stranger.public.verifies(key.sign(b"data"), b"data")
    assert "PRIVATE" not in repr(key)

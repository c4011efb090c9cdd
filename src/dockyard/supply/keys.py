"""Signing keys: ECDSA on P-256 for images, Ed25519 for the audit log. `cryptography` is caged here.

`dockyard keygen` makes a pair for images, `sign.py` signs with the private half, `verify.py` checks with the public
one. The private key is PKCS #8, encrypted with a password where one is given; the public key is SPKI, as OpenSSL and
cosign read them. A log's key signs its checkpoints (`note.py`); the yard makes it at its first start, without a
password since nobody is there to type one. Sources: RFC 5915, RFC 5958, FIPS 186-5 (deterministic ECDSA: RFC 6979, so
signing twice gives the same bytes), RFC 8032, C2SP signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dockyard.errors import SigningKeyError
from dockyard.oci.files import PartialFile, store_errors, sync_folder

PEM_LIMIT = 1 << 16
_CURVE = ec.SECP256R1()
_ALGORITHM = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_ED25519 = b"\x01"
_LOG_KEY_LOST = "Put the yard's own key back; without it, move this file away, and the yard makes and notes a new one."
_ONLY_P256 = "Use a key made by `dockyard keygen`, or by `openssl ecparam -name prime256v1 -genkey`."


@dataclass(frozen=True)
class PublicKey:
    """A key to verify with. Equal keys are equal, wherever they were read from."""

    pem: str
    _key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @classmethod
    def of_pem(cls, data: bytes, what: str) -> PublicKey:
        """Read an SPKI PEM; SigningKeyError, naming `what`, when it is no public key on P-256."""
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SigningKeyError(f"{what} is not a public key in PEM form", remedy=_ONLY_P256) from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
            raise SigningKeyError(f"{what} is not a key on the curve P-256", remedy=_ONLY_P256)
        return cls._of(key)

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """Read a file; SigningKeyError or StoreError when it cannot be used."""
        return cls.of_pem(_read(path), str(path))

    @classmethod
    def _of(cls, key: ec.EllipticCurvePublicKey) -> PublicKey:
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(pem.decode("ascii"), key)

    @property
    def hint(self) -> str:
        """Which key it is: base64 of the SHA-256 of its DER form, as Sigstore bundles name it."""
        der = self._key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(der).digest()).decode("ascii")

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a DER signature over these bytes was made with the private half."""
        try:
            self._key.verify(signature, data, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key to sign with; what it is never shows in a log."""

    public: PublicKey
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key."""
        return cls._of(ec.generate_private_key(_CURVE))

    @classmethod
    def read(cls, path: Path, password: str) -> PrivateKey:
        """Read a PKCS #8 PEM; an empty password means none. SigningKeyError says which of the two is wrong."""
        data = _read(path)
        encrypted = b"ENCRYPTED" in data
        if encrypted and not password:
            raise SigningKeyError(
                f"{path} is encrypted", remedy="Set DOCKYARD_KEY_PASSWORD, or run it in a terminal to be asked."
            )
        try:
            key = serialization.load_pem_private_key(data, password.encode() if encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            told = f"{path} does not open with this password" if encrypted else f"{path} is not a private key"
            raise SigningKeyError(told, remedy="Check the password." if encrypted else _ONLY_P256) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE.name:
            raise SigningKeyError(f"{path} is not a key on the curve P-256", remedy=_ONLY_P256)
        return cls._of(key)

    @classmethod
    def _of(cls, key: ec.EllipticCurvePrivateKey) -> PrivateKey:
        return cls(PublicKey._of(key.public_key()), key)

    def sign(self, data: bytes) -> bytes:
        """The DER signature over these bytes; the same bytes give the same signature."""
        return self._key.sign(data, _ALGORITHM)

    def pem(self, password: str) -> bytes:
        """PKCS #8, encrypted unless the password is empty."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password.encode())
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@dataclass(frozen=True)
class LogPublicKey:
    """A log's public key. `name` is the log's; `hint` are the four bytes that signatures begin with."""

    name: str
    raw: bytes

    @classmethod
    def decode(cls, text: str, what: str) -> LogPublicKey:
        """Read `NAME+HINT+KEY`; SigningKeyError, naming `what`, when it is none."""
        name, _, rest = text.strip().partition("+")
        hint, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) == 33 and data[:1] == _ED25519 and name and not any(map(str.isspace, name)):
            key = cls(name, data[1:])
            if key.hint.hex() == hint:
                return key
        raise SigningKeyError(f"{what} is not the public key of a log", remedy="Name the yard's own audit.pub.")

    @property
    def hint(self) -> bytes:
        """Which key it is."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    def encode(self) -> str:
        """`NAME+HINT+KEY`, the form in which such keys are handed around."""
        return f"{self.name}+{self.hint.hex()}+{base64.b64encode(_ED25519 + self.raw).decode('ascii')}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature over these bytes was made with the private half."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class LogKey:
    """A log's private key; what it is never shows."""

    public: LogPublicKey
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls, name: str) -> LogKey:
        """A new key for the log of that name."""
        return cls._of(Ed25519PrivateKey.generate(), name)

    @classmethod
    def read(cls, path: Path, name: str) -> LogKey:
        """Read a PKCS #8 PEM; SigningKeyError or StoreError when it cannot be used."""
        try:
            key = serialization.load_pem_private_key(_read(path), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SigningKeyError(f"{path} is not a private key", remedy=_LOG_KEY_LOST) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyError(f"{path} is not an Ed25519 key", remedy=_LOG_KEY_LOST)
        return cls._of(key, name)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey, name: str) -> LogKey:
        return cls(LogPublicKey(name, key.public_key().public_bytes_raw()), key)

    def sign(self, data: bytes) -> bytes:
        """The signature over these bytes, 64 of them."""
        return self._key.sign(data)

    def write(self, path: Path) -> None:
        """Keep it in a file, for its owner's eyes alone."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(path, pem, 0o600)


def write_pair(key: PrivateKey, password: str, private: Path, public: Path) -> None:
    """Write both halves, the private one for its owner's eyes alone; SigningKeyError when a file is there already."""
    for path in (private, public):
        if path.exists():
            raise SigningKeyError(
                f"{path} exists, and a lost key cannot be made again",
                remedy="Name another file, or move the old pair away first.",
            )
    with store_errors(private):
        private.parent.mkdir(parents=True, exist_ok=True)
    _write(public, key.public.pem.encode(), 0o644)
    _write(private, key.pem(password), 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    with PartialFile(path.parent, f".{path.name}.partial-") as partial:
        with store_errors(path):
            partial.path.chmod(mode)
        partial.write(data)
        partial.commit(path)
    sync_folder(path.parent)


def _read(path: Path) -> bytes:
    with store_errors(path), path.open("rb") as file:
        data = file.read(PEM_LIMIT + 1)
    if len(data) > PEM_LIMIT:
        raise SigningKeyError(f"{path} is too large to be a key", remedy="Name the key's own file.")
    return data

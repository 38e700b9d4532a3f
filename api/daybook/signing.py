"""Signing makes and reads the key that seals are signed with, Ed25519 (RFC 8032), and tells whether a signature holds.

The package `cryptography` is imported when it is needed: without a key nobody has to have it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .leaves import SIGNED

EXTRA = "pg-daybook[integrity]"


class SealError(Exception):
    """A seal cannot be made, kept or read; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; `fingerprint` is the SHA-256 of its 32 bytes."""

    fingerprint: bytes
    _key: Any

    def holds(self, signature: bytes, digest: bytes) -> bool:
        """Whether this is its signature of the digest of a block."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, SIGNED + digest)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its public one."""

    public: PublicKey
    _key: Any

    def sign(self, digest: bytes) -> bytes:
        """The 64 bytes of its signature of the digest of a block."""
        return bytes(self._key.sign(SIGNED + digest))


def make_key(path: Path) -> str:
    """Make a key in a new file that only its owner may read, and return the public key as PEM.

    Raises SealError when a file of that name stands there or cannot be written.
    """
    serialization, ed25519 = _cryptography()
    private = ed25519.Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise SealError(f"{path} is there already; a key is never replaced") from None
    except OSError as error:
        raise SealError(f"cannot write to {path}: {error.strerror}") from None
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(pem.decode("ascii"))


def read_signing_key(path: Path) -> SigningKey:
    """The private key in a PEM file (PKCS #8). Raises SealError."""
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SealError(
            f"{path} holds no Ed25519 private key (PEM, without a password); daybook seal --new-key makes one"
        )
    return SigningKey(_public(key.public_key()), key)


def read_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file, which may also hold the private one. Raises SealError."""
    serialization, ed25519 = _cryptography()
    text = _read(path)
    if b"PRIVATE KEY" in text:
        return read_signing_key(path).public
    try:
        key = serialization.load_pem_public_key(text)
    except ValueError:
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SealError(f"{path} holds no Ed25519 public key (PEM)")
    return _public(key)


def _public(key: Any) -> PublicKey:
    return PublicKey(hashlib.sha256(key.public_bytes_raw()).digest(), key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SealError(f"cannot read {path}: {error.strerror}") from None


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise SealError(f"signatures need the package cryptography: pip install '{EXTRA}'") from None
    return serialization, ed25519

"""Tokens for tests: whoever issues them, by shared secret or with published keys."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "test-secret-that-is-32-bytes-long"


def claims(user: str = "alice", **more: Any) -> dict[str, Any]:
    """Claims of a token that was issued now and lives for ten minutes; None takes one away."""
    now_s = int(time.time())
    all_of_them = {"sub": user, "iat": now_s, "exp": now_s + 600, **more}
    return {name: value for name, value in all_of_them.items() if value is not None}


def shared(user: str = "alice", secret: str = SECRET, algorithm: str = "HS256", **more: Any) -> str:
    """A token signed with a shared secret."""
    return jwt.encode(claims(user, **more), secret, algorithm=algorithm)


class Issuer:
    """An identity provider with one key, which it publishes."""

    def __init__(self, algorithm: str, key_id: str = "k1") -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private: Any
        encode: Any
        match algorithm:
            case "RS256" | "PS256":
                self.private, encode = rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm
            case "ES256":
                self.private, encode = ec.generate_private_key(ec.SECP256R1()), ECAlgorithm
            case _:
                self.private, encode = ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm
        published = json.loads(encode.to_jwk(self.private.public_key()))
        published.pop("key_ops", None)
        self.published: dict[str, Any] = {**published, "kid": key_id, "alg": algorithm, "use": "sig"}

    def token(self, user: str = "alice", *, named: bool = True, **more: Any) -> str:
        """A token of this issuer; `named` tells which key it is signed with."""
        headers = {"kid": self.key_id} if named else {}
        return jwt.encode(claims(user, **more), self.private, algorithm=self.algorithm, headers=headers)


def key_set(*issuers: Issuer) -> str:
    """What they publish together (RFC 7517 section 5)."""
    return json.dumps({"keys": [issuer.published for issuer in issuers]})

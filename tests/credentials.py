"""A NATS with TLS, whose users have `.creds` files that an operator has signed."""

import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any

import nkeys
import trustme
from breakable import Nats
from postgres import HOST


class Keys:
    """A pair of keys, and the name of what it stands for: its public key."""

    def __init__(self, prefix: int) -> None:
        seed = nkeys.encode_seed(token_bytes(32), prefix)
        self.seed = seed.decode()
        self._pair = nkeys.from_seed(seed)
        self.name = bytes(self._pair.public_key).decode()

    def sign(self, subject: "Keys", **claims: Any) -> str:
        """Return a token of NATS about a subject."""
        token = {"jti": token_hex(), "iat": int(time.time()), "iss": self.name}
        token |= {"sub": subject.name, "nats": {"version": 2, **claims}}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, token)
        text = ".".join(encode(json.dumps(part).encode()) for part in parts)
        return f"{text}.{encode(self._pair.sign(text.encode()))}"


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


class OperatedNats(Nats):
    def __init__(self, project: Path, folder: Path, certificate: trustme.LeafCert) -> None:
        super().__init__(project, folder)
        self.operator = Keys(nkeys.PREFIX_BYTE_OPERATOR)
        self.system, self.account = (Keys(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
        self.certificate = folder / "certificate.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))

    @property
    def url(self) -> str:
        return f"tls://{HOST}:{self.port}"

    @property
    def access(self) -> list[str]:
        limits = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        limits |= dict.fromkeys(("subs", "data", "payload", "conn"), -1)
        system = self.operator.sign(self.system, type="account")
        account = self.operator.sign(self.account, type="account", limits=limits)
        return [
            f"operator: {self.operator.sign(self.operator, type='operator')}",
            "resolver: MEMORY",
            f"resolver_preload {{ {self.system.name}: {system}, {self.account.name}: {account} }}",
            f"system_account: {self.system.name}",
            f'tls {{ cert_file: "{self.certificate}", key_file: "{self.certificate}" }}',
        ]

    def write_credentials(self, publish: list[str], subscribe: list[str]) -> str:
        """Add a user who may do this, and return the path of its file."""
        user = Keys(nkeys.PREFIX_BYTE_USER)
        limits = dict.fromkeys(("subs", "data", "payload"), -1)
        permissions = {"pub": {"allow": publish}, "sub": {"allow": subscribe}}
        token = self.account.sign(user, type="user", **limits, **permissions)
        path = self.folder / f"{user.name}.creds"
        parts = {"NATS USER JWT": token, "USER NKEY SEED": user.seed}
        path.write_text(
            "".join(
                f"-----BEGIN {name}-----\n{part}\n------END {name}------\n\n"
                for name, part in parts.items()
            )
        )
        return str(path)

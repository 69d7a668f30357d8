from pydantic import SecretStr

from ..groups import Group


class PaymentsSettings(Group):
    key: SecretStr
    url: str = "https://payments.example.com"
    webhook_secret: SecretStr

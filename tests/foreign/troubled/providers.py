"""Who knows the broker's password: a file, read at every connection, as a rotating secret is mounted."""

import os
from pathlib import Path

import redis


class FromFile(redis.CredentialProvider):
    """User "worker", and whatever the file says now."""

    def get_credentials(self):
        return "worker", Path(os.environ["TROUBLED_SECRET"]).read_text()

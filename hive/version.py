"""The version of hive: of the package, of `GET /v1/health` and of the User-Agent; and what brings its extras."""

VERSION = "0.3.0.dev0"


def install_command(extra: str) -> str:
    """What installs an extra of the package, for an error's way out: with pip, and in a checkout."""
    return f"pip install 'hive-models[{extra}]' (in a checkout: scripts/install --{extra})"

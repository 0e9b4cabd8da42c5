"""The version of hive: of the package, of `GET /v1/health` and of the User-Agent."""

VERSION = "0.2.0"

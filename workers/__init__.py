"""The RQ side of hive: fetches files and says how far they are. No HTTP routes."""

import os

# huggingface_hub reads this when it is imported, and otherwise asks the Hub for a registry that only its telemetry
# needs: a request that a rate limit counts, sent before ours.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# It cannot be imported where one of these is no whole number. hive does not use them: its time-outs are its own.
for _name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
    if not os.environ.get(_name, "0").isdecimal():
        del os.environ[_name]

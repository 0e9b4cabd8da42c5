"""The RQ side of hive: fetches files and says how far they are. No HTTP routes."""

import os

# huggingface_hub reads this when it is imported, and otherwise asks the Hub for a registry that only its telemetry
# needs: a request that a rate limit counts, sent before ours.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

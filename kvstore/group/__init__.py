"""Several GPUs, or processes, of one host: who they are, what they do together, and stores that reduce there first."""

GROUPED = {"device": "device", "nccl": "device"}
"""Names of stores that reduce on each host first, and the modes that they are to the cluster; MXNet takes any order."""
GROUPED |= dict.fromkeys(["dist_device", "dist_device_sync", "dist_sync_device"], "device_sync")
GROUPED |= dict.fromkeys(["dist_device_async", "dist_async_device"], "device_async")

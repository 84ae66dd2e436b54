"""Looking at the whole: how it stands, as `status` tells it, as metrics, and as news for the alarms."""

"""Training data: catalogs, clips, tasks, shards, toy videos."""

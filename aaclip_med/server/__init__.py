"""Scoring over HTTP: jobs in, heatmaps out, one worker process a device. ``docs/server.md`` is its manual."""

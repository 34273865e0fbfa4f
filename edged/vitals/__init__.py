"""Vital signs: health board, metrics, GPU figures, systemd."""

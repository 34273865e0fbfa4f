"""What every test may use: the rigs of the real Triton, the real Mosquitto, edged itself, and a whole station with its faults."""

pytest_plugins = [
    "rigs.triton",
    "rigs.mosquitto",
    "rigs.daemon",
    "rigs.station",
    "rigs.disk",
    "rigs.fuse",
    "rigs.systemd",
    "rigs.faults",
]

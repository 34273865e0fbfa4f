"""What every test may use: the rigs of the real Triton, the real Mosquitto, edged itself, and a whole station with its faults."""

from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does, not whether the code is right; pytest-timeout ends what hangs.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "rigs.triton",
    "rigs.mosquitto",
    "rigs.daemon",
    "rigs.station",
    "rigs.disk",
    "rigs.fuse",
    "rigs.systemd",
    "rigs.guest",
    "rigs.faults",
]

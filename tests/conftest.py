"""What every test may use: the rigs of the real Triton, the real Mosquitto, and edged itself."""

pytest_plugins = ["rigs.triton", "rigs.mosquitto", "rigs.daemon"]

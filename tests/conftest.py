"""What every test may use: the rigs of the real Triton and the real Mosquitto."""

pytest_plugins = ["rigs.triton", "rigs.mosquitto"]

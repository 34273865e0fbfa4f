"""The real Triton and the real Mosquitto, started for tests on free loopback ports. What each fixture gives is said in its module."""

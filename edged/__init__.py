"""edged: from an image in a drop folder to a verdict in the plant's MES."""

__version__ = "0.1.0"

"""Vision: from the bytes of an image file to a model's input tensor, in decoder processes that may die.

Pure part (numpy and OpenCV only): headers, decode, prepare, steps, quality, overlay. Process part: ring, child, process, decoders.
This module stays empty of imports: a decoder process must start without the daemon's libraries.
"""

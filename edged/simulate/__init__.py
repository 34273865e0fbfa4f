"""Makes up inspection images, for demonstrations, tests and training: no camera needed."""

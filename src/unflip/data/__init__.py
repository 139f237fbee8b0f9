"""Images on disk, the unpaired stream of crops, and the way into and out of the networks."""

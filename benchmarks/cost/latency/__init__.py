"""`foldcam bench latency`: the timings of `runtime bench`, with a plot."""

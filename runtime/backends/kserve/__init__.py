"""A model that runs on an inference server, such as Triton, over the KServe v2 protocol."""

"""How much of the network's speed the pipeline keeps."""

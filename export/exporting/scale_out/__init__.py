"""Banks of more images than one machine reads: in shards, on Ray."""

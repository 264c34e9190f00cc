"""What the heat is worth on trained networks that come with packages of the index."""

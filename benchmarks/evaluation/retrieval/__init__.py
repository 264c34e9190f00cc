"""`foldcam evaluate retrieval`: does the bank give the right label, and where does it not?"""

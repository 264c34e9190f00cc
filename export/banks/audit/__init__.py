"""`foldcam bank audit`: rows of a bank that look wrong, found by their neighbors."""

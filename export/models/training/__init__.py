"""`foldcam train`: fine-tune a pretrained backbone into an embedding network."""

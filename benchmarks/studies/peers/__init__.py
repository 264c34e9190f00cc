"""What foldcam is compared with: the tools that would be used otherwise."""

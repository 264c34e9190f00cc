"""Do heatmaps show which evidence speaks for a similarity? Measured on images with known boxes."""
